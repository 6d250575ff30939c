/* Versions of an index: what a comparison takes over and what it makes anew. SQL
** sees the answers only, not which segments were shared. */
#include "unit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "imagined_table.h"

/* The version holds exactly the rows, in order. */
static void assert_holds(const index_version *v, const rows *r)
{
    assert_int_equal(v->rows, r->count);
    int i = 0;
    for (int s = 0; s < v->segment_count; s++) {
        assert_int_equal(v->starts[s], i);
        assert_in_range(segment_count(v->segments[s]), 1, segment_capacity(DIMENSION));
        for (int slot = 0; slot < segment_count(v->segments[s]); slot++, i++) {
            float x[DIMENSION];
            vector_of(&r->at[i], x);
            assert_int_equal(segment_key(v->segments[s], slot), r->at[i].key);
            assert_memory_equal(segment_vector(v->segments[s], slot), x, sizeof x);
        }
    }
    assert_int_equal(i, r->count);
}

static int segments_shared(const index_version *a, const index_version *b)
{
    int shared = 0;
    for (int i = 0; i < a->segment_count; i++) {
        for (int j = 0; j < b->segment_count; j++)
            shared += a->segments[i] == b->segments[j];
    }
    return shared;
}

static int full(void)
{
    return segment_capacity(DIMENSION);
}

static void unchanged_is_the_same_version(void **state)
{
    (void)state;
    rows r = rows_new(3 * full() + 7);
    index_version *a = build(&r, NULL), *b = build(&r, a);
    assert_int_equal(a->segment_count, 4);
    assert_holds(a, &r);
    assert_ptr_equal(a, b);
    index_release(a);
    index_release(b);
    free(r.at);
}

/* Change a table of five segments in one way, and say how many segments must
** have been taken over. */
static void check_change(void (*change)(rows *r), int shared_at_least)
{
    rows r = rows_new(4 * full() + 100);
    index_version *a = build(&r, NULL);
    change(&r);
    index_version *b = build(&r, a), *fresh = build(&r, NULL);
    assert_holds(b, &r);
    assert_true(b->fingerprint == fresh->fingerprint);
    assert_true(a->fingerprint != b->fingerprint);
    assert_true(segments_shared(a, b) >= shared_at_least);
    index_release(a);
    index_release(b);
    index_release(fresh);
    free(r.at);
}

static void update_one(rows *r)
{
    r->at[full() + 5].value = -1;
}

static void update_first_and_last(rows *r)
{
    r->at[0].value = -1;
    r->at[r->count - 1].value = -2;
}

static void update_a_segments_first_row(rows *r)
{
    r->at[2 * full()].value = -1;
}

static void remove_rows(rows *r, int from, int count)
{
    memmove(r->at + from, r->at + from + count, (size_t)(r->count - from - count) * sizeof *r->at);
    r->count -= count;
}

static void delete_one(rows *r)
{
    remove_rows(r, full() + 5, 1);
}

static void delete_first(rows *r)
{
    remove_rows(r, 0, 1);
}

static void delete_a_whole_segment(rows *r)
{
    remove_rows(r, full(), full());
}

static void delete_all_but_the_end(rows *r)
{
    remove_rows(r, 0, r->count - 3);
}

static void truncate_in_a_segment(rows *r)
{
    r->count = 2 * full() + 9;
}

static void append_one(rows *r)
{
    r->at[r->count] = (row){r->count + 1, r->count};
    r->count++;
}

static void append_many(rows *r)
{
    for (int i = 0; i < 2 * full(); i++)
        append_one(r);
}

static void insert_at(rows *r, int at)
{
    memmove(r->at + at + 1, r->at + at, (size_t)(r->count - at) * sizeof *r->at);
    r->at[at] = (row){-at - 1, -at - 1};
    r->count++;
}

static void insert_in_front(rows *r)
{
    insert_at(r, 0);
}

static void insert_between_segments(rows *r)
{
    insert_at(r, 2 * full());
}

static void insert_in_the_middle(rows *r)
{
    insert_at(r, full() / 2);
}

static void reverse_the_values(rows *r)
{
    for (int i = 0; i < r->count; i++)
        r->at[i].value = r->count - 1 - i;
}

static void changes_make_anew_only_what_they_touch(void **state)
{
    (void)state;
    check_change(update_one, 4);
    check_change(update_first_and_last, 3);
    check_change(update_a_segments_first_row, 4);
    check_change(delete_one, 4);
    check_change(delete_first, 4);
    check_change(delete_a_whole_segment, 4);
    check_change(delete_all_but_the_end, 0);
    check_change(truncate_in_a_segment, 2);
    check_change(append_one, 4);
    check_change(append_many, 4);
    check_change(insert_in_front, 5);
    check_change(insert_between_segments, 5);
    check_change(insert_in_the_middle, 4);
    check_change(reverse_the_values, 0);
}

/* A long life of random changes: always right, and never many small segments. */
static void many_changes_do_not_fragment(void **state)
{
    (void)state;
    rows r = rows_new(2 * full());
    index_version *v = build(&r, NULL);
    srand(1);
    for (int round = 0; round < 60; round++) {
        if (r.count < 3 * full() && round % 3)
            insert_at(&r, rand() % r.count);
        else if (round % 2)
            remove_rows(&r, rand() % (r.count - 50), 1 + rand() % 50);
        else
            r.at[rand() % r.count].value = -round - 100000;
        index_version *next = build(&r, v);
        index_release(v);
        v = next;
        assert_holds(v, &r);
        assert_in_range(v->segment_count, 1, 2 * (v->rows / full() + 1) + 9);
    }
    index_release(v);
    free(r.at);
}

static void a_bad_row_changes_nothing(void **state)
{
    (void)state;
    index_builder *b;
    char *message = NULL;
    float x[DIMENSION] = {1}, bad[DIMENSION] = {1, NAN}, worse[DIMENSION] = {-INFINITY};
    assert_int_equal(index_builder_open(METRIC_KIND_L2, DIMENSION, 0, NULL, &b, &message),
                     SQLITE_OK);
    assert_int_equal(index_builder_row(b, 1, 1, NULL, x, &message), SQLITE_OK);
    assert_int_equal(index_builder_row(b, 2, 2, NULL, bad, &message), SQLITE_MISMATCH);
    assert_int_equal(index_builder_row(b, 3, 3, NULL, worse, &message), SQLITE_MISMATCH);
    assert_int_equal(index_builder_row(b, 4, 4, NULL, x, &message), SQLITE_OK);
    index_version *v;
    assert_int_equal(index_builder_finish(b, 0, &v, &message), SQLITE_OK);
    index_builder_close(b);
    assert_int_equal(v->rows, 2);
    assert_int_equal(segment_key(v->segments[0], 1), 4);
    index_release(v);
}

static void hashes_tell_rows_apart(void **state)
{
    (void)state;
    const float x[3] = {1, 2, 3}, y[3] = {1, 2, 4};
    row_value one = {.type = SQLITE_INTEGER, .integer = 1},
              real = {.type = SQLITE_FLOAT, .real = 1},
              text = {.type = SQLITE_TEXT, .bytes = (const unsigned char *)"1", .length = 1},
              blob = {.type = SQLITE_BLOB, .bytes = (const unsigned char *)"1", .length = 1},
              null = {.type = SQLITE_NULL};
    uint64_t hashes[] = {
        index_row_hash(1, &one, 1, x, sizeof x),  index_row_hash(2, &one, 1, x, sizeof x),
        index_row_hash(1, &real, 1, x, sizeof x), index_row_hash(1, &text, 1, x, sizeof x),
        index_row_hash(1, &blob, 1, x, sizeof x), index_row_hash(1, &null, 1, x, sizeof x),
        index_row_hash(1, &one, 1, y, sizeof y),  index_row_hash(1, &one, 1, x, sizeof x - 4),
    };
    for (int i = 0; i < 8; i++) {
        for (int j = 0; j < i; j++)
            assert_true(hashes[i] != hashes[j]);
    }
    assert_true(hashes[0] == index_row_hash(1, &one, 1, x, sizeof x));
}

/* Long rows are hashed in several chains: every component counts, and so do its place and the
** length. */
static void hashes_tell_long_rows_apart(void **state)
{
    (void)state;
    enum { MOST = 150, BLOCK = 4 };
    float x[MOST];
    for (int i = 0; i < MOST; i++)
        x[i] = (float)i;
    uint64_t whole = index_row_hash(1, NULL, 0, x, sizeof x), former = 0;
    for (int count = 1; count <= MOST; count++) {
        uint64_t shorter = index_row_hash(1, NULL, 0, x, count * (int)sizeof *x);
        assert_true(shorter != former && (count == MOST) == (shorter == whole));
        former = shorter;
    }
    for (int i = 0; i < MOST; i++) {
        x[i] += 0.5f;
        assert_true(index_row_hash(1, NULL, 0, x, sizeof x) != whole);
        x[i] -= 0.5f;
    }
    for (int i = BLOCK; i + BLOCK <= MOST; i++) { /* the first components and others in turn */
        float turned[MOST];
        memcpy(turned, x, sizeof x);
        memcpy(turned, x + i, BLOCK * sizeof *x);
        memcpy(turned + i, x, BLOCK * sizeof *x);
        assert_true(index_row_hash(1, NULL, 0, turned, sizeof x) != whole);
    }
    assert_true(index_row_hash(1, NULL, 0, x, sizeof x) == whole);
    assert_true(index_row_hash(2, NULL, 0, x, sizeof x) != whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unchanged_is_the_same_version),
        cmocka_unit_test(changes_make_anew_only_what_they_touch),
        cmocka_unit_test(many_changes_do_not_fragment),
        cmocka_unit_test(a_bad_row_changes_nothing),
        cmocka_unit_test(hashes_tell_rows_apart),
        cmocka_unit_test(hashes_tell_long_rows_apart),
    };
    return RUN_TESTS(tests);
}
