/*
** Giving bytes, run by run, to something that asks for them: it runs on a stack of its own, is left
** where it wants more than there is, and goes on when there is more: at any time, by any thread, in
** a child of fork() too. For FAISS, which reads an index by a callback, in one go.
**
** Nothing runs beside anything: one of the two waits. A stack costs what is used of it.
*/
#ifndef FEED_H
#define FEED_H

#include <stddef.h>

typedef struct feed feed;

/* What is fed. It gets its bytes by feed_take(), catches its own exceptions, and may hold no lock
** while it asks. */
typedef void feed_eater(void *argument, feed *f);

/* Begin; it runs up to where it asks for its first bytes when it is given some. SQLITE_OK or
** SQLITE_NOMEM. */
int feed_open(feed_eater *eat, void *argument, feed **out);

/* Give it the next bytes, until it wants more than these or has ended; none at all (count 0): there
** are no more, and it ends. Those it was given are the caller's again. Returns how many are left,
** of one that has ended. */
size_t feed_give(feed *f, const void *bytes, size_t count);
int feed_has_ended(const feed *f);

/* For what is fed: get just so many bytes. Not 0 where there are no more, and it has to end. */
int feed_take(feed *f, void *bytes, size_t count);

/* End it, by telling it that there are no more bytes, and free what is here. */
void feed_close(feed *f);

#endif
