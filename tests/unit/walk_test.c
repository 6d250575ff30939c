/* Walks are in order and complete, whatever the segments, the depth of the first
** search and the set. */
#include "unit.h"

#include <math.h>
#include <stdlib.h>

#include "imagined_table.h"
#include "walk.h"

/* Read a whole walk: in order, each row once, all that are in the set. */
static void check_walk(index_version *v, const float *query, const row_set *set, int64_t depth)
{
    index_walk *w;
    char *message = NULL;
    assert_int_equal(index_walk_open(v, query, set, depth, NULL, &w, &message), SQLITE_OK);
    float former = -INFINITY;
    int64_t former_key = INT64_MIN, count = 0;
    index_hit hit, again;
    while (index_walk_at(w, count, &hit, &message) == SQLITE_ROW) {
        assert_true(hit.score > former || (hit.score == former && hit.key > former_key));
        int64_t number = index_find(v, hit.key);
        assert_true(number >= 0);
        if (set)
            assert_true(set->bits[number / 64] >> (number % 64) & 1);
        former = hit.score;
        former_key = hit.key;
        count++;
    }
    assert_int_equal(count, set ? set->count : v->rows);
    /* A cursor goes back to the first row and reads them again. */
    if (count) {
        assert_int_equal(index_walk_at(w, count - 1, &again, &message), SQLITE_ROW);
        assert_int_equal(again.key, hit.key);
        assert_int_equal(index_walk_at(w, 0, &again, &message), SQLITE_ROW);
        assert_true(again.score <= former);
    }
    index_walk_close(w);
}

static const int64_t depths[] = {WALK_UNKNOWN, 0, 1, 2, 10, 99, 100, 128, 129, 5000};
enum { DEPTHS = sizeof depths / sizeof *depths };

static void walks_are_in_order(void **state)
{
    (void)state;
    rows r = rows_new(segment_capacity(DIMENSION) + 200);
    for (int i = 0; i < r.count; i++)
        r.at[i].value = i % 37; /* many rows at the same distance */
    index_version *v = build(&r, NULL);
    float query[DIMENSION];
    row q = {0, 3};
    vector_of(&q, query);
    for (int i = 0; i < DEPTHS; i++)
        check_walk(v, query, NULL, depths[i]);
    static const int shares[] = {1, 2, 7, 100, 1000000};
    for (int i = 0; i < 5; i++) {
        row_set set;
        assert_int_equal(row_set_open(&set, v), SQLITE_OK);
        for (int j = 0; j < v->rows; j += shares[i]) {
            row_set_add(&set, j);
            row_set_add(&set, j); /* a row is in a set once */
        }
        assert_int_equal(set.count, (v->rows + shares[i] - 1) / shares[i]);
        check_walk(v, query, &set, 10);
        row_set_close(&set);
    }
    row_set none;
    assert_int_equal(row_set_open(&none, v), SQLITE_OK);
    check_walk(v, query, &none, 10);
    row_set_close(&none);
    index_release(v);
    free(r.at);
}

static void finds_rows_by_key(void **state)
{
    (void)state;
    rows r = rows_new(2 * segment_capacity(DIMENSION));
    for (int i = 0; i < r.count; i++)
        r.at[i].key = i < 700 ? i - 300 : 3 * i; /* dense at first, with gaps later */
    index_version *v = build(&r, NULL);
    for (int i = 0; i < r.count; i++) {
        assert_int_equal(index_find(v, r.at[i].key), i);
        if (i >= 700)
            assert_int_equal(index_find(v, r.at[i].key + 1), -1);
    }
    assert_int_equal(index_find(v, INT64_MIN), -1);
    assert_int_equal(index_find(v, INT64_MAX), -1);
    index_release(v);
    free(r.at);
}

/* Asked to stop, a walk stops between segments, and says what it was told. */
static int stop(void *argument, char **message)
{
    (void)message;
    return --*(int *)argument ? SQLITE_OK : SQLITE_INTERRUPT;
}

static void a_walk_can_be_stopped(void **state)
{
    (void)state;
    rows r = rows_new(3 * segment_capacity(DIMENSION));
    index_version *v = build(&r, NULL);
    const float query[DIMENSION] = {0};
    index_walk *w;
    char *message = NULL;
    int calls = 2;
    const vector_reader reader = {.check = stop, .argument = &calls};
    assert_int_equal(index_walk_open(v, query, NULL, 10, &reader, &w, &message), SQLITE_INTERRUPT);
    assert_null(w);
    calls = 5; /* three for the first search, two of the scoring */
    index_hit hit;
    assert_int_equal(index_walk_open(v, query, NULL, 10, &reader, &w, &message), SQLITE_OK);
    assert_int_equal(index_walk_at(w, 9, &hit, &message), SQLITE_ROW);
    assert_int_equal(index_walk_at(w, 10, &hit, &message), SQLITE_INTERRUPT);
    calls = 1000; /* and goes on when asked again */
    assert_int_equal(index_walk_at(w, 10, &hit, &message), SQLITE_ROW);
    index_walk_close(w);
    index_release(v);
    free(r.at);
}

/* Squared distances beyond float32 are infinite, which FAISS's own search leaves
** out: the rows must come all the same, last. */
static void infinite_distances_come_last(void **state)
{
    (void)state;
    index_builder *b;
    char *message = NULL;
    static const float values[] = {1e30f, 3, -1e30f, 2};
    assert_int_equal(index_builder_open(METRIC_KIND_L2, 1, 0, NULL, &b, &message), SQLITE_OK);
    for (int i = 0; i < 4; i++)
        assert_int_equal(index_builder_row(b, i + 1, (uint64_t)i, NULL, &values[i], &message),
                         SQLITE_OK);
    index_version *v;
    assert_int_equal(index_builder_finish(b, 0, &v, &message), SQLITE_OK);
    index_builder_close(b);
    index_walk *w;
    const float query = 0;
    static const int64_t expected[] = {4, 2, 1, 3};
    assert_int_equal(index_walk_open(v, &query, NULL, 4, NULL, &w, &message), SQLITE_OK);
    for (int i = 0; i < 4; i++) {
        index_hit hit;
        assert_int_equal(index_walk_at(w, i, &hit, &message), SQLITE_ROW);
        assert_int_equal(hit.key, expected[i]);
    }
    index_walk_close(w);
    index_release(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(walks_are_in_order),
        cmocka_unit_test(finds_rows_by_key),
        cmocka_unit_test(a_walk_can_be_stopped),
        cmocka_unit_test(infinite_distances_come_last),
    };
    return RUN_TESTS(tests);
}
