/*
** Versions made from a few changed rows hold what a fresh one would, in whatever
** order they were made; and putting them in order changes nothing.
*/
#include <string.h>

#include "delta.h"
#include "imagined_table.h"
#include "walk.h"

static int64_t random_below(uint64_t *seed, int64_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
    return (int64_t)((*seed >> 33) % (uint64_t)n);
}

static int find_key(const rows *r, int64_t key)
{
    int i = 0;
    while (i < r->count && r->at[i].key < key)
        i++;
    return i;
}

/* Change the table at this key: delete the row, or put one there. */
static void change(rows *r, int64_t key, int value)
{
    int i = find_key(r, key), there = i < r->count && r->at[i].key == key;
    if (value < 0 && there) {
        memmove(r->at + i, r->at + i + 1, (size_t)(r->count - i - 1) * sizeof *r->at);
        r->count--;
    } else if (value >= 0) {
        if (!there) {
            memmove(r->at + i + 1, r->at + i, (size_t)(r->count - i) * sizeof *r->at);
            r->count++;
        }
        r->at[i] = (row){key, value};
    }
}

/* The version after changes at these ascending keys of the table. */
static index_version *apply(index_version *base, const rows *r, const int64_t *keys, int count)
{
    index_delta *d;
    index_version *v;
    char *message = NULL;
    assert_int_equal(index_delta_open(base, DIMENSION, &d), SQLITE_OK);
    for (int i = 0; i < count; i++) {
        int at = find_key(r, keys[i]), there = at < r->count && r->at[at].key == keys[i];
        float x[DIMENSION];
        uint64_t hash = 0;
        if (there) {
            vector_of(&r->at[at], x);
            hash = index_row_hash(keys[i], NULL, 0, x, sizeof x);
        }
        assert_int_equal(index_delta_row(d, keys[i], hash, there ? x : NULL, &message), SQLITE_OK);
    }
    assert_int_equal(index_delta_finish(d, &v, &message), SQLITE_OK);
    index_delta_close(d);
    return v;
}

/* It has the rows of the table and no others, wherever they are. */
static void assert_holds(const index_version *v, const rows *r)
{
    int64_t live = 0;
    assert_int_equal(v->rows, r->count);
    for (int64_t p = 0; p < v->slots; p++) {
        int s, slot;
        index_locate(v, p, &s, &slot);
        live += !index_is_dead(v, s, slot);
    }
    assert_int_equal(live, r->count);
    for (int i = 0; i < r->count; i++) {
        float x[DIMENSION];
        int64_t position = index_find(v, r->at[i].key);
        assert_true(position >= 0);
        index_hit hit = index_row(v, position);
        assert_int_equal(hit.key, r->at[i].key);
        vector_of(&r->at[i], x);
        assert_memory_equal(segment_vector(v->segments[hit.segment], hit.slot), x, sizeof x);
    }
}

/* Both give the same rows in the same order. */
static void assert_same_walk(index_version *a, index_version *b, int64_t depth)
{
    float query[DIMENSION] = {0.5f};
    char *message = NULL;
    index_walk *wa, *wb;
    assert_int_equal(index_walk_open(a, query, NULL, depth, NULL, &wa, &message), SQLITE_OK);
    assert_int_equal(index_walk_open(b, query, NULL, depth, NULL, &wb, &message), SQLITE_OK);
    for (int64_t i = 0; i <= a->rows; i++) {
        index_hit ha, hb;
        int rc = index_walk_at(wa, i, &ha, &message);
        assert_int_equal(rc, index_walk_at(wb, i, &hb, &message));
        if (rc != SQLITE_ROW)
            break;
        assert_int_equal(ha.key, hb.key);
        assert_true(ha.score == hb.score);
    }
    index_walk_close(wa);
    index_walk_close(wb);
}

static void assert_in_order(const index_version *v)
{
    assert_int_equal(v->main_count, v->segment_count);
    for (int64_t p = 0; p < v->slots; p++) {
        int s, slot;
        index_locate(v, p, &s, &slot);
        assert_false(index_is_dead(v, s, slot));
        if (p > 0)
            assert_true(index_row(v, p - 1).key < index_row(v, p).key);
    }
}

static void check_against_fresh(index_version *v, const rows *r)
{
    char *message = NULL;
    index_version *fresh = build(r, NULL), *ordered;
    assert_holds(v, r);
    assert_true(v->fingerprint == fresh->fingerprint);
    assert_same_walk(v, fresh, 10);
    assert_same_walk(v, fresh, WALK_UNKNOWN);
    assert_int_equal(index_compact(v, NULL, NULL, &ordered, &message), SQLITE_OK);
    assert_holds(ordered, r);
    assert_in_order(ordered);
    assert_true(ordered->fingerprint == fresh->fingerprint);
    index_version *rebuilt = build(r, v); /* compared with: nothing has changed */
    assert_true(rebuilt->fingerprint == fresh->fingerprint);
    assert_holds(rebuilt, r);
    index_release(rebuilt);
    index_release(ordered);
    index_release(fresh);
}

/* Rounds of random changes, each on top of the version before. Values are few, so
** that rows tie. */
static void check_rounds(int rows_at_first, int changes, int rounds, uint64_t seed)
{
    rows r = {malloc(4096 * sizeof *r.at * 8), 0};
    for (int i = 0; i < rows_at_first; i++)
        r.at[r.count++] = (row){10 * (int64_t)(i + 1), i % 97};
    index_version *v = build(&r, NULL);
    for (int round = 0; round < rounds && v->rows > 0; round++) {
        int64_t keys[512], key = 0;
        int count = 0;
        while (count < changes) {
            key += 1 + random_below(&seed, 20 * (rows_at_first + 1) / changes);
            int value = (int)random_below(&seed, 4) ? (int)random_below(&seed, 97) : -1;
            keys[count++] = key;
            change(&r, key, value);
        }
        index_version *next = apply(v, &r, keys, count);
        index_release(v);
        v = next;
        if (v->rows > 0 && round % 7 == 0)
            check_against_fresh(v, &r);
    }
    if (v->rows > 0)
        check_against_fresh(v, &r);
    assert_true(v->segment_count < 64);
    index_release(v);
    free(r.at);
}

static void random_changes(void **state)
{
    (void)state;
    check_rounds(5000, 1, 60, 1);
    check_rounds(5000, 30, 40, 2);
    check_rounds(9000, 400, 20, 3);
    check_rounds(40, 3, 60, 4);
}

static void rows_appended_stay_in_order(void **state)
{
    (void)state;
    rows r = rows_new(100);
    r.at = realloc(r.at, 2000 * sizeof *r.at);
    index_version *v = build(&r, NULL);
    for (int64_t key = 101; key <= 400; key++) {
        change(&r, key, (int)key % 7);
        index_version *next = apply(v, &r, &key, 1);
        assert_int_equal(next->main_count, next->segment_count);
        assert_true(next->segment_count <= 10); /* 100 and the binary digits of 300 */
        index_release(v);
        v = next;
    }
    check_against_fresh(v, &r);
    index_release(v);
    free(r.at);
}

static void nothing_changed_is_the_same_version(void **state)
{
    (void)state;
    rows r = rows_new(3000);
    index_version *v = build(&r, NULL);
    int64_t keys[] = {5, 77, 2999, 100000};
    index_version *next = apply(v, &r, keys, 4);
    assert_ptr_equal(v, next);
    index_release(next);
    index_release(v);
    free(r.at);
}

/* The base answers as before, whatever is made from it. */
static void the_base_stays(void **state)
{
    (void)state;
    rows r = rows_new(6000), before = rows_new(6000);
    index_version *v = build(&r, NULL);
    int64_t keys[2000];
    for (int i = 0; i < 2000; i++) {
        keys[i] = 2 * i + 1;
        change(&r, keys[i], i % 3 ? i : -1);
    }
    index_version *next = apply(v, &r, keys, 2000);
    check_against_fresh(v, &before);
    check_against_fresh(next, &r);
    index_release(next);
    index_release(v);
    free(before.at);
    free(r.at);
}

static void all_rows_deleted(void **state)
{
    (void)state;
    rows r = rows_new(500);
    index_version *v = build(&r, NULL);
    int64_t keys[500];
    for (int i = 0; i < 500; i++)
        keys[i] = i + 1;
    r.count = 0;
    index_version *next = apply(v, &r, keys, 500);
    assert_int_equal(next->rows, 0);
    assert_int_equal(next->segment_count, 0);
    assert_int_equal(next->dimension, 0);
    assert_int_equal(next->fingerprint, 0);
    index_release(next);
    index_release(v);
    free(r.at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_changes),
        cmocka_unit_test(rows_appended_stay_in_order),
        cmocka_unit_test(nothing_changed_is_the_same_version),
        cmocka_unit_test(the_base_stays),
        cmocka_unit_test(all_rows_deleted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
