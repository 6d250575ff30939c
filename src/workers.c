#include "workers.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "sqlite_api.h"

enum { WAIT_MS = 10 };

/* Lives on the stack of the thread that asked. */
struct workers_task {
    workers_work *work;
    void *argument;
    const vector_reader *reader;
    int parts;
    atomic_int next;  /* the first part that nobody has taken */
    atomic_int stops; /* leave off */
    unsigned generation;
    int rc; /* of the check; the asking thread's, as `message` is */
    char **message;
    /* behind the lock: */
    workers_task *following; /* in the list of those that want helpers */
    int wanted;              /* helpers that may still come */
    int busy;                /* those at work now */
    int withdrawn;           /* none may come any more */
    uint64_t numbers;        /* a bit for each number that one of them has */
};

/* Guards everything below that is not atomic, and the fields of tasks that say so. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t called = PTHREAD_COND_INITIALIZER;   /* a task came, or the end */
static pthread_cond_t finished = PTHREAD_COND_INITIALIZER; /* a helper left a task */
static workers_task *tasks;
static pthread_t helpers[WORKERS_MOST];
static int helper_count, prepared;
/* Threads that search, helpers at work, and tasks that want some. What is read of them may be
** late by a part. */
static atomic_int searching, helping, wanting;
static atomic_int ending; /* the process */
/* Another one in each child of fork(). */
static atomic_uint generation;

/* ---- the bound ---- */

int workers_bound(void)
{
    static atomic_int most; /* 0: not known yet */
    int known = atomic_load_explicit(&most, memory_order_relaxed);
    if (known)
        return known;
    const char *text = getenv("SQLITE_FAISS_THREADS");
    char *end;
    long number = text && *text ? strtol(text, &end, 10) : 0;
    if (number < 1 || *end)
        number = sysconf(_SC_NPROCESSORS_ONLN);
    if (number < 1)
        number = 1;
    if (number > WORKERS_MOST)
        number = WORKERS_MOST;
    atomic_store(&most, (int)number);
    return (int)number;
}

/* Whether so many threads more are too many. */
static int are_too_many(int more)
{
    return atomic_load(&searching) + atomic_load(&helping) + more > workers_bound();
}

unsigned workers_enter(void)
{
    atomic_fetch_add(&searching, 1);
    return atomic_load(&generation);
}

void workers_leave(unsigned entered)
{
    if (entered != atomic_load(&generation)) /* a child counts its own */
        return;
    atomic_fetch_sub(&searching, 1);
    if (atomic_load(&wanting) == 0)
        return;
    pthread_mutex_lock(&lock); /* a helper that made room may come back */
    pthread_cond_broadcast(&called);
    pthread_mutex_unlock(&lock);
}

/* ---- forks and the end ---- */

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&called, NULL);
    pthread_cond_init(&finished, NULL);
    tasks = NULL;
    helper_count = 0;
    atomic_store(&searching, 0);
    atomic_store(&helping, 0);
    atomic_store(&wanting, 0);
    atomic_fetch_add(&generation, 1);
}

/* The process ends: what helpers use is about to be destroyed. */
static void end_helpers(void)
{
    pthread_mutex_lock(&lock);
    atomic_store(&ending, 1);
    int count = helper_count;
    helper_count = 0;
    pthread_cond_broadcast(&called);
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < count; i++)
        pthread_join(helpers[i], NULL);
}

/* ---- helpers ---- */

/* Do parts until there are none left, or other threads need the processor: returns whether
** there may be some left. */
static int help(workers_task *t, int thread)
{
    while (!atomic_load(&t->stops) && !atomic_load(&ending)) {
        if (are_too_many(0))
            return 1;
        int part = atomic_fetch_add(&t->next, 1);
        if (part >= t->parts)
            break;
        t->work(t->argument, part, thread, t);
    }
    return 0;
}

/* Let a task have so many helpers more, or fewer. Called with the lock held. */
static void want(workers_task *t, int more)
{
    atomic_fetch_add(&wanting, (t->wanted + more > 0) - (t->wanted > 0));
    t->wanted += more;
}

/* The first task that wants a helper, if one may work. Called with the lock held. */
static workers_task *find_task(void)
{
    workers_task *t = are_too_many(1) ? NULL : tasks;
    while (t && t->wanted == 0)
        t = t->following;
    return t;
}

/* The least number, from 1 on, that no helper of a task has. */
static int free_number(const workers_task *t)
{
    int number = 1;
    while (t->numbers >> number & 1)
        number++;
    return number;
}

/* Help with a task. Called with the lock held, and held again in the end. */
static void take_part(workers_task *t)
{
    int thread = free_number(t);
    t->numbers |= (uint64_t)1 << thread;
    t->busy++;
    want(t, -1);
    atomic_fetch_add(&helping, 1);
    pthread_mutex_unlock(&lock);
    int wants_more = help(t, thread);
    pthread_mutex_lock(&lock);
    atomic_fetch_sub(&helping, 1);
    t->numbers &= ~((uint64_t)1 << thread);
    t->busy--;
    want(t, wants_more && !t->withdrawn);
    pthread_cond_broadcast(&finished);
}

static void *be_helper(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    while (!atomic_load(&ending)) {
        workers_task *t = find_task();
        if (t)
            take_part(t);
        else
            pthread_cond_wait(&called, &lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* Make helpers until there are so many. Called with the lock held. Where the system gives
** no more threads, there are fewer. */
static void make_helpers(int count)
{
    sigset_t all, former;
    if (!prepared) {
        prepared = 1;
        pthread_atfork(before_fork, after_fork, after_fork_in_child);
        atexit(end_helpers);
    }
    sigfillset(&all); /* signals are for the host's threads */
    pthread_sigmask(SIG_SETMASK, &all, &former);
    while (!atomic_load(&ending) && helper_count < count && helper_count < WORKERS_MOST) {
        if (pthread_create(&helpers[helper_count], NULL, be_helper, NULL) != 0)
            break;
        helper_count++;
    }
    pthread_sigmask(SIG_SETMASK, &former, NULL);
}

int workers_count(void)
{
    pthread_mutex_lock(&lock);
    int count = helper_count;
    pthread_mutex_unlock(&lock);
    return count;
}

/* ---- tasks ---- */

/* Whether this copy of SQLite may be called by several threads at once. */
static int is_threadsafe(void)
{
    static atomic_int known; /* 1: no, 2: yes */
    if (atomic_load(&known) == 0) {
        sqlite3_mutex *mutex = sqlite3_mutex_alloc(SQLITE_MUTEX_FAST);
        atomic_store(&known, mutex ? 2 : 1);
        sqlite3_mutex_free(mutex);
    }
    return atomic_load(&known) == 2;
}

/* Put a task where helpers find it. */
static void offer(workers_task *t, int threads)
{
    int count = threads < workers_bound() ? threads - 1 : workers_bound() - 1;
    if (count > t->parts - 1)
        count = t->parts - 1;
    if (count <= 0)
        return;
    pthread_mutex_lock(&lock);
    int room = workers_bound() - 1, with_others = atomic_load(&helping) + count;
    make_helpers(with_others < room ? with_others : room);
    want(t, count);
    t->following = tasks;
    tasks = t;
    pthread_cond_broadcast(&called);
    pthread_mutex_unlock(&lock);
}

/* Ask the statement whether to go on. */
static void check(workers_task *t)
{
    const vector_reader *reader = t->reader;
    if (t->rc == SQLITE_OK && reader && reader->check)
        t->rc = reader->check(reader->argument, t->message);
    if (t->rc != SQLITE_OK)
        atomic_store(&t->stops, 1);
}

int workers_should_stop(workers_task *t, int thread)
{
    if (thread == 0)
        check(t);
    return atomic_load(&t->stops);
}

/* Wait a moment, or until a helper leaves a task. Called with the lock held. */
static void wait_a_moment(void)
{
    struct timespec until = clock_in(WAIT_MS);
    pthread_cond_timedwait(&finished, &lock, &until);
}

/* Nobody else may begin with the task any more; wait for those that did. */
static void withdraw(workers_task *t)
{
    pthread_mutex_lock(&lock);
    workers_task **link = &tasks;
    while (*link && *link != t)
        link = &(*link)->following;
    if (*link)
        *link = t->following;
    t->withdrawn = 1;
    if (t->generation == atomic_load(&generation))
        want(t, -t->wanted);
    while (t->busy > 0 && t->generation == atomic_load(&generation)) {
        wait_a_moment();
        pthread_mutex_unlock(&lock); /* the check runs SQL */
        check(t);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
}

int workers_run(int threads, int parts, workers_work *work, void *argument,
                const vector_reader *reader, char **message)
{
    int together = threads > 1 && parts > 1 && is_threadsafe();
    workers_task t = {.work = work,
                      .argument = argument,
                      .reader = reader,
                      .parts = parts,
                      .message = message,
                      .generation = atomic_load(&generation)};
    atomic_init(&t.next, 0);
    atomic_init(&t.stops, 0);
    if (together)
        offer(&t, threads < WORKERS_MOST ? threads : WORKERS_MOST);
    while (!atomic_load(&t.stops)) {
        int part = atomic_fetch_add(&t.next, 1);
        if (part >= parts)
            break;
        work(argument, part, 0, &t);
        check(&t);
    }
    if (together)
        withdraw(&t);
    /* What a helper had begun before a fork is never done in the child. */
    if (t.rc == SQLITE_OK && t.busy > 0)
        t.rc = SQLITE_ABORT;
    return t.rc;
}
