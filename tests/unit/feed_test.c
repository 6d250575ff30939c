/* What is fed gets all bytes in order, however they are cut; it is told when there are no more, and
** left or ended anywhere. */
#include "unit.h"

#include <pthread.h>
#include <sqlite3.h>
#include <sys/mman.h>
#include <unistd.h>

#include "feed.h"

enum { BYTES = 5000 };

/* Takes so many runs of `run` bytes, which count up. */
typedef struct eater {
    size_t run, runs, taken;
    int is_told; /* that there are no more */
} eater;

static unsigned char byte_at(size_t place)
{
    return (unsigned char)(place * 7 + place / 251);
}

static void eat(void *argument, feed *f)
{
    eater *e = argument;
    unsigned char bytes[BYTES];
    for (size_t i = 0; i < e->runs; i++) {
        if (feed_take(f, bytes, e->run) != 0) {
            e->is_told = 1;
            return;
        }
        for (size_t j = 0; j < e->run; j++)
            assert_int_equal(bytes[j], byte_at(e->taken + j));
        e->taken += e->run;
    }
}

/* Give all bytes in runs of `run`; how many are left. */
static size_t give_all(feed *f, size_t run)
{
    unsigned char bytes[BYTES];
    size_t left = 0;
    for (size_t at = 0; at < BYTES; at += run) {
        size_t n = BYTES - at < run ? BYTES - at : run;
        for (size_t i = 0; i < n; i++)
            bytes[i] = byte_at(at + i);
        left += feed_give(f, bytes, n);
        memset(bytes, 0, sizeof bytes);
    }
    return left;
}

static void bytes_come_in_order(void **unused)
{
    (void)unused;
    static const size_t runs[] = {1, 2, 3, 7, 64, 1000, 4096, BYTES};
    enum { RUNS = sizeof runs / sizeof *runs };
    for (int i = 0; i < RUNS; i++) {
        for (int j = 0; j < RUNS; j++) {
            eater e = {.run = runs[i], .runs = BYTES / runs[i]};
            feed *f;
            assert_int_equal(feed_open(eat, &e, &f), SQLITE_OK);
            assert_int_equal(give_all(f, runs[j]), BYTES % runs[i]);
            assert_true(feed_has_ended(f));
            assert_int_equal(e.taken, e.run * e.runs);
            assert_false(e.is_told);
            feed_close(f);
        }
    }
}

static void the_end_is_told(void **unused)
{
    (void)unused;
    eater e = {.run = 7, .runs = BYTES};
    feed *f;
    assert_int_equal(feed_open(eat, &e, &f), SQLITE_OK);
    assert_int_equal(give_all(f, 100), 0);
    assert_false(feed_has_ended(f));
    assert_int_equal(feed_give(f, NULL, 0), 0);
    assert_true(feed_has_ended(f) && e.is_told);
    assert_int_equal(e.taken, BYTES - BYTES % 7);
    assert_int_equal(feed_give(f, "more", 4), 4);
    feed_close(f);
}

static void it_may_be_closed_anywhere(void **unused)
{
    (void)unused;
    eater left = {.run = 7, .runs = BYTES}, never_begun = left;
    feed *f;
    assert_int_equal(feed_open(eat, &left, &f), SQLITE_OK);
    give_all(f, 100);
    feed_close(f);
    assert_true(left.is_told);
    assert_int_equal(feed_open(eat, &never_begun, &f), SQLITE_OK);
    feed_close(f);
    assert_false(never_begun.is_told);
    feed_close(NULL);
}

static void *give_some(void *argument)
{
    static const unsigned char bytes[] = "some";
    feed_give(argument, bytes, sizeof bytes);
    return NULL;
}

static void count_bytes(void *argument, feed *f)
{
    char byte;
    while (feed_take(f, &byte, 1) == 0)
        ++*(size_t *)argument;
}

static void any_thread_goes_on(void **unused)
{
    (void)unused;
    enum { THREADS = 8 };
    size_t counted = 0;
    feed *f;
    assert_int_equal(feed_open(count_bytes, &counted, &f), SQLITE_OK);
    for (int i = 0; i < THREADS; i++) {
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, give_some, f), 0);
        pthread_join(thread, NULL);
    }
    feed_close(f);
    assert_int_equal(counted, THREADS * sizeof "some");
}

static void tell_place(void *argument, feed *f)
{
    char byte;
    *(char **)argument = __builtin_frame_address(0);
    feed_take(f, &byte, 1);
}

/* Whatever comes to its place is written to, as AddressSanitizer sees it, too. */
static void the_place_of_a_stack_is_used_again(void **unused)
{
    (void)unused;
    enum { AROUND = 1 << 16 };
    char *place = NULL;
    feed *f;
    assert_int_equal(feed_open(tell_place, &place, &f), SQLITE_OK);
    feed_give(f, "some", 4);
    feed_close(f);
    place -= (uintptr_t)place % (uintptr_t)sysconf(_SC_PAGESIZE) + AROUND;
    size_t bytes = AROUND + (size_t)sysconf(_SC_PAGESIZE);
    char *again = mmap(place, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    assert_ptr_equal(again, place);
    memset(again, 1, bytes);
    munmap(again, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_come_in_order),
        cmocka_unit_test(the_end_is_told),
        cmocka_unit_test(it_may_be_closed_anywhere),
        cmocka_unit_test(any_thread_goes_on),
        cmocka_unit_test(the_place_of_a_stack_is_used_again),
    };
    return RUN_TESTS(tests);
}
