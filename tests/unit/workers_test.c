/* Work that several threads share: every part is done once, by one thread at a time in each
** place, no more threads than the process is allowed; what stops it, and what fails. */
#include "unit.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sqlite3.h>

#include "batch.h"
#include "index.h"
#include "walk.h"
#include "workers.h"

enum { BOUND = 4, PARTS = 200, THREADS = 8 };

typedef struct work {
    atomic_int done[PARTS];
    atomic_int in_place[THREADS];
    atomic_int helped, confused;
    int slow;                  /* microseconds for a part */
    const atomic_int *awaited; /* what the first thread (of `helped`), or the others, wait for … */
    int count;                 /* … to come to so many */
} work;

/* However busy the machine is, up to a minute. */
static void wait_for(const atomic_int *number, int count)
{
    for (int ms = 0; atomic_load(number) < count && ms < 60000; ms++)
        usleep(1000);
}

static void do_part(void *argument, int part, int thread, workers_task *task)
{
    work *w = argument;
    (void)task;
    if (thread >= THREADS || atomic_fetch_add(&w->in_place[thread], 1) != 0)
        atomic_store(&w->confused, 1);
    if (thread > 0)
        atomic_fetch_add(&w->helped, 1);
    atomic_fetch_add(&w->done[part], 1);
    if (w->slow)
        usleep((useconds_t)w->slow);
    if (w->awaited && (thread == 0) == (w->awaited == &w->helped))
        wait_for(w->awaited, w->count);
    atomic_fetch_sub(&w->in_place[thread], 1);
}

static int count_done(const work *w)
{
    int done = 0;
    for (int i = 0; i < PARTS; i++) {
        assert_in_range(w->done[i], 0, 1);
        done += w->done[i];
    }
    return done;
}

static void every_part_is_done_once(void **unused)
{
    (void)unused;
    for (int threads = 0; threads <= THREADS; threads++) {
        work w = {.slow = 50};
        char *message = NULL;
        assert_int_equal(workers_run(threads, PARTS, do_part, &w, NULL, &message), SQLITE_OK);
        assert_int_equal(count_done(&w), PARTS);
        assert_int_equal(w.confused, 0);
        assert_true(threads > 1 || w.helped == 0);
        assert_in_range(workers_count(), 0, BOUND - 1);
    }
    assert_int_equal(workers_count(), BOUND - 1);
    work none = {0};
    assert_int_equal(workers_run(4, 0, do_part, &none, NULL, NULL), SQLITE_OK);
    assert_int_equal(count_done(&none), 0);
}

/* As many threads search as there may be: nobody helps. When they end, somebody may. */
static void helpers_make_room(void **unused)
{
    (void)unused;
    unsigned entered[BOUND];
    work alone = {0}, together = {.awaited = &together.helped, .count = 1};
    char *message = NULL;
    for (int i = 0; i < BOUND; i++)
        entered[i] = workers_enter();
    assert_int_equal(workers_run(THREADS, PARTS, do_part, &alone, NULL, &message), SQLITE_OK);
    assert_int_equal(count_done(&alone), PARTS);
    assert_int_equal(alone.helped, 0);
    for (int i = 0; i < BOUND; i++)
        workers_leave(entered[i]);
    assert_int_equal(workers_run(THREADS, PARTS, do_part, &together, NULL, &message), SQLITE_OK);
    assert_true(together.helped > 0);
}

/* Ends the work when it was asked often enough. */
typedef struct patience {
    atomic_int asked;
    int most;
    pthread_t of;
} patience;

static int ask(void *argument, char **message)
{
    patience *p = argument;
    assert_true(pthread_equal(p->of, pthread_self()));
    if (atomic_fetch_add(&p->asked, 1) + 1 < p->most)
        return SQLITE_OK;
    *message = sqlite3_mprintf("enough");
    return SQLITE_INTERRUPT;
}

static void a_check_stops_it(void **unused)
{
    (void)unused;
    for (int threads = 1; threads <= 3; threads++) {
        patience p = {.most = 5, .of = pthread_self()};
        vector_reader reader = {.check = ask, .argument = &p};
        /* The others do not get to the end first. */
        work w = {.slow = 1000, .awaited = &p.asked, .count = p.most};
        char *message = NULL;
        assert_int_equal(workers_run(threads, PARTS, do_part, &w, &reader, &message),
                         SQLITE_INTERRUPT);
        assert_string_equal(message, "enough");
        assert_true(count_done(&w) < PARTS);
        assert_int_equal(p.asked, p.most); /* not again */
        sqlite3_free(message);
    }
}

/* ---- memory ---- */

enum { DIMENSION = 96, ROWS = 8300, BLOCK = 256 };

static sqlite3_mem_methods real;
static atomic_int countdown = -1; /* allocations until one fails; less than 0: none */

static int fails(void)
{
    return atomic_load(&countdown) >= 0 && atomic_fetch_sub(&countdown, 1) == 0;
}

static void *failing_malloc(int size)
{
    return fails() ? NULL : real.xMalloc(size);
}

static void *failing_realloc(void *old, int size)
{
    return fails() ? NULL : real.xRealloc(old, size);
}

static index_version *build(void)
{
    index_builder *b;
    index_version *v;
    char *message = NULL;
    uint32_t state = 1;
    assert_int_equal(index_builder_open(METRIC_KIND_L2, DIMENSION, 0, NULL, &b, &message),
                     SQLITE_OK);
    for (int i = 0; i < ROWS; i++) {
        float x[DIMENSION];
        for (int j = 0; j < DIMENSION; j++) {
            state = state * 1664525u + 1013904223u;
            x[j] = ((float)(state >> 8) / (1 << 24) - 0.5f) / (float)(j + 1);
        }
        assert_int_equal(index_builder_row(b, i + 1, (uint64_t)i, NULL, x, &message), SQLITE_OK);
    }
    assert_int_equal(index_builder_finish(b, 0, &v, &message), SQLITE_OK);
    index_builder_close(b);
    return v;
}

/* The first neighbours of some rows by two threads; a result code. */
static int find_neighbours(index_version *v, int64_t found[BLOCK])
{
    vector_reader reader = {.threads = 2};
    neighbour_batch *b;
    char *message = NULL;
    int rc = neighbour_batch_open(v, 3, &reader, &b, &message);
    for (int i = 0; rc == SQLITE_OK && i < BLOCK; i++) {
        const index_hit *hits;
        int64_t count;
        rc = neighbour_batch_row(b, i, &hits, &count, &message);
        if (rc == SQLITE_OK)
            found[i] = hits[0].key;
    }
    neighbour_batch_close(b);
    assert_null(message);
    return rc;
}

static void allocations_that_fail(void **unused)
{
    (void)unused;
    int64_t expected[BLOCK], found[BLOCK];
    index_version *v = build();
    assert_int_equal(find_neighbours(v, expected), SQLITE_OK);
    int rc = SQLITE_NOMEM, number = 0;
    for (; rc == SQLITE_NOMEM; number += is_slow() ? 29 : 1) {
        assert_in_range(number, 0, 1000);
        atomic_store(&countdown, number);
        rc = find_neighbours(v, found);
        if (rc != SQLITE_NOMEM)
            assert_int_equal(rc, SQLITE_OK);
    }
    assert_true(number > 20);
    assert_memory_equal(found, expected, sizeof found);
    atomic_store(&countdown, -1);
    index_release(v);
}

int main(void)
{
    char bound[] = "4";
    setenv("SQLITE_FAISS_THREADS", bound, 1);
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &real);
    sqlite3_mem_methods failing = real;
    failing.xMalloc = failing_malloc;
    failing.xRealloc = failing_realloc;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &failing);
    sqlite3_initialize();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_is_done_once),
        cmocka_unit_test(helpers_make_room),
        cmocka_unit_test(a_check_stops_it),
        cmocka_unit_test(allocations_that_fail),
    };
    return RUN_TESTS(tests);
}
