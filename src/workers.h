/*
** Threads that help with one long search: a pool that all connections of the process share.
**
** A search is cut into parts that do not depend on each other. The thread that asks for it
** does parts itself, and helpers do others, at most as many as the table's option `threads`
** allows. Helpers are made when they are first needed, and are kept.
**
** The process has a bound, SQLITE_FAISS_THREADS in the environment, or else the number of
** processors: helpers work only while they and the threads that search, all together, are no
** more than that. When another thread begins a search, a helper leaves its work after the part
** at hand; nobody ever waits for a helper that has not begun. So a search is never slowed down
** by the helpers of another one for longer than a part takes, and one that gets no help runs
** on its own thread.
**
** One mutex of workers.c guards the pool and the list of tasks. It is not held while a part is
** worked on. In a child of fork() the pool is empty, and is made anew there.
*/
#ifndef WORKERS_H
#define WORKERS_H

#include "vector_reader.h"

/* The most threads that one search may be allowed. */
enum { WORKERS_MOST = 64 };

/* Say that this thread begins a search, and that it ends it. Give workers_leave() what
** workers_enter() returned. */
unsigned workers_enter(void);
void workers_leave(unsigned entered);

/* Work on several parts, as seen by one that works on it. */
typedef struct workers_task workers_task;

/* Do part number `part`. `thread` is 0 for the one that asked, and else a number below
** `threads` that no other thread has during this task: a place for scratch. It must not
** run SQL. */
typedef void workers_work(void *argument, int part, int thread, workers_task *task);

/*
** Have parts 0..parts-1 done by up to `threads` threads, this one included, and return when
** all are, or when the reader's check (which may be NULL) ended the work. Then some were not
** begun, or were left in the middle; returns what the check did, with its message. The check
** runs on this thread alone, between parts and while it waits. SQLITE_ABORT in a child that
** was forked on the way.
*/
int workers_run(int threads, int parts, workers_work *work, void *argument,
                const vector_reader *reader, char **message);

/* For parts that take longer than some milliseconds: whether to leave off. */
int workers_should_stop(workers_task *task, int thread);

/* The process's bound. */
int workers_bound(void);

/* How many helpers there are, idle ones included, for tests. */
int workers_count(void);

#endif
