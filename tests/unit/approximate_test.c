/* Which place a row has in an approximate index, whatever its key: by keys that ascend, by a table
** of hashes, near each other or not, of small indexes and others; after copies, and after sorting.
** And that graphs answer alike wherever they are in memory. */
#include "unit.h"

#include <sqlite3.h>

#include "approximate.h"

enum { DIMENSION = 4, ROWS = 700 };

/* A key of row i, of no order or in one; near the others, or all over int64. */
typedef int64_t key_of(int i);

static int64_t ascending(int i)
{
    return 3 * (int64_t)i - 50;
}

static int64_t scattered(int i)
{
    return (int64_t)(i * 7919 % 10007) - 3000;
}

static int64_t far_apart(int i)
{
    return (int64_t)((uint64_t)i * 0x9E3779B97F4A7C15u);
}

static int64_t at_the_ends(int i)
{
    return i % 2 ? INT64_MAX - i : INT64_MIN + i;
}

static int64_t all_zero(int i)
{
    (void)i;
    return 0;
}

static uint64_t hash_of(int i)
{
    return ((uint64_t)i + 1) * 0xD1B54A32D192ED03u;
}

static void vector_of(int i, float *x)
{
    for (int j = 0; j < DIMENSION; j++)
        x[j] = (float)((i * (j + 3)) % 1009);
}

static void add_rows(approximate *a, key_of *key, int from, int to)
{
    char *message = NULL;
    for (int i = from; i < to; i++) {
        float x[DIMENSION];
        int64_t k = key(i);
        uint64_t hash = hash_of(i);
        vector_of(i, x);
        assert_int_equal(approximate_add(a, x, &k, &hash, 1, &message), SQLITE_OK);
    }
}

static approximate *make(const char *text, int is_small, int room)
{
    index_kind kind;
    approximate *a;
    char *message = NULL;
    float sample[ROWS * DIMENSION];
    for (int i = 0; i < ROWS; i++)
        vector_of(i, sample + (size_t)i * DIMENSION);
    assert_int_equal(index_kind_parse(text, METRIC_KIND_L2, &kind, &message), SQLITE_OK);
    assert_int_equal(
        approximate_open(&kind, METRIC_KIND_L2, DIMENSION, is_small, room, &a, &message),
        SQLITE_OK);
    assert_int_equal(approximate_train(a, sample, ROWS, NULL, NULL, &message), SQLITE_OK);
    return a;
}

/* Each row is at one place, its own, and others are at none. */
static void assert_found(const approximate *a, key_of *key, int count)
{
    assert_int_equal(approximate_count(a), count);
    for (int i = 0; i < count; i++) {
        int64_t place = approximate_find(a, key(i), hash_of(i), -1);
        assert_true(place >= 0 && place < count);
        assert_true(approximate_key(a, place) == key(i));
        assert_int_equal(approximate_find(a, key(i), hash_of(i), place), -1);
        assert_int_equal(approximate_find(a, key(i), hash_of(i + ROWS), -1), -1);
        assert_int_equal(approximate_find(a, key(i) + 1, hash_of(i), -1), -1);
    }
    assert_int_equal(approximate_find(a, key(count), hash_of(count), -1), -1);
}

static void rows_are_found_by_key_and_hash(void **unused)
{
    (void)unused;
    static key_of *const keys[] = {ascending, scattered, far_apart, at_the_ends, all_zero};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        for (int is_small = 0; is_small < 2; is_small++) {
            approximate *a = make("SQ8", is_small, 10), *copy, *empty;
            char *message = NULL;
            assert_int_equal(approximate_find(a, keys[k](0), hash_of(0), -1), -1);
            add_rows(a, keys[k], 0, ROWS / 2);
            assert_found(a, keys[k], ROWS / 2);
            assert_int_equal(approximate_open_from(a, 0, ROWS, &copy, &message), SQLITE_OK);
            assert_int_equal(approximate_open_from(a, 1, ROWS, &empty, &message), SQLITE_OK);
            add_rows(copy, keys[k], ROWS / 2, ROWS);
            add_rows(empty, keys[k], 0, 5);
            assert_found(copy, keys[k], ROWS);
            assert_found(empty, keys[k], 5);
            assert_found(a, keys[k], ROWS / 2);
            approximate_release(a);
            approximate_release(copy);
            approximate_release(empty);
        }
    }
}

/* Where rows have no keys, equal ones are at several places, each found once. */
static void equal_rows_are_found_one_after_the_other(void **unused)
{
    (void)unused;
    approximate *a = make("SQ8", 0, ROWS);
    for (int times = 0; times < 3; times++)
        add_rows(a, all_zero, 0, 40);
    for (int i = 0; i < 40; i++) {
        int seen = 0;
        for (int64_t place = -1; (place = approximate_find(a, 0, hash_of(i), place)) >= 0; seen++)
            assert_int_equal(place % 40, i);
        assert_int_equal(seen, 3);
    }
    approximate_release(a);
}

/* Of a graph; what a search finds are the same rows, at other places. */
static void sorting_changes_places_alone(void **unused)
{
    (void)unused;
    static key_of *const keys[] = {scattered, far_apart, at_the_ends};
    const search_effort effort = {.ef_search = ROWS, .rerank = 1};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        approximate *a = make(k ? "HNSW8_SQ8" : "HNSW8", k == 1, ROWS);
        float query[DIMENSION], scores[2][10];
        int64_t places[2][10], found[2];
        char *message = NULL;
        add_rows(a, keys[k], 0, ROWS);
        vector_of(31, query);
        size_t bytes = approximate_bytes(a);
        for (int sorted = 0; sorted < 2; sorted++) {
            if (sorted)
                assert_int_equal(approximate_sort(a, &message), SQLITE_OK);
            assert_int_equal(approximate_search(a, query, 10, &effort, NULL, scores[sorted],
                                                places[sorted], &found[sorted], &message),
                             SQLITE_OK);
            assert_int_equal(found[sorted], 10);
            assert_found(a, keys[k], ROWS);
        }
        assert_memory_equal(scores[0], scores[1], sizeof scores[0]);
        assert_int_equal(places[0][0], 31);
        assert_true(approximate_key(a, places[1][0]) == keys[k](31));
        for (int64_t place = 1; place < ROWS; place++)
            assert_true(approximate_key(a, place - 1) < approximate_key(a, place));
        assert_true(approximate_bytes(a) < bytes);
        approximate_release(a);
    }
}

enum { LARGE_ROWS = 9000, SEARCHES = 600 };

/* A graph whose links and codes take more than a huge page each. */
static approximate *make_large(void)
{
    index_kind kind;
    approximate *a;
    char *message = NULL;
    float *x = test_malloc(LARGE_ROWS * DIMENSION * sizeof *x);
    int64_t *keys = test_malloc(LARGE_ROWS * sizeof *keys);
    uint64_t *hashes = test_malloc(LARGE_ROWS * sizeof *hashes);
    for (int i = 0; i < LARGE_ROWS; i++) {
        vector_of(i, x + (size_t)i * DIMENSION);
        keys[i] = ascending(i);
        hashes[i] = hash_of(i);
    }
    assert_int_equal(index_kind_parse("HNSW32", METRIC_KIND_L2, &kind, &message), SQLITE_OK);
    kind.ef_construction = 4;
    assert_int_equal(
        approximate_open(&kind, METRIC_KIND_L2, DIMENSION, 0, LARGE_ROWS, &a, &message), SQLITE_OK);
    assert_int_equal(approximate_add(a, x, keys, hashes, LARGE_ROWS, &message), SQLITE_OK);
    test_free(x);
    test_free(keys);
    test_free(hashes);
    return a;
}

typedef struct answers {
    float scores[SEARCHES][10];
    int64_t places[SEARCHES][10];
} answers;

/* Far more searches than a table of visited rows is used for before it is cleared. */
static void search_all(approximate *a, answers *to)
{
    const search_effort effort = {.ef_search = 20, .rerank = 1};
    memset(to, 0, sizeof *to);
    for (int i = 0; i < SEARCHES; i++) {
        float query[DIMENSION];
        int64_t found;
        char *message = NULL;
        vector_of(13 * i, query);
        query[0] += 0.25f;
        assert_int_equal(approximate_search(a, query, 10, &effort, NULL, to->scores[i],
                                            to->places[i], &found, &message),
                         SQLITE_OK);
        assert_int_equal(found, 10);
    }
}

static void settled_graphs_answer_alike_and_grow_as_copies(void **unused)
{
    (void)unused;
    static answers before, after;
    approximate *a = make_large(), *copy;
    char *message = NULL;
    search_all(a, &before);
    search_all(a, &after);
    assert_memory_equal(&before, &after, sizeof before);
    size_t bytes = approximate_bytes(a);
    approximate_settle(a);
    assert_int_equal(approximate_bytes(a), bytes);
    search_all(a, &after);
    assert_memory_equal(&before, &after, sizeof before);
    assert_int_equal(approximate_open_from(a, 0, LARGE_ROWS + 100, &copy, &message), SQLITE_OK);
    search_all(copy, &after);
    assert_memory_equal(&before, &after, sizeof before);
    add_rows(copy, ascending, LARGE_ROWS, LARGE_ROWS + 100);
    approximate_settle(copy);
    assert_found(copy, ascending, LARGE_ROWS + 100);
    search_all(copy, &after);
    approximate_release(copy);
    search_all(a, &after);
    assert_memory_equal(&before, &after, sizeof before);
    approximate_release(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_found_by_key_and_hash),
        cmocka_unit_test(equal_rows_are_found_one_after_the_other),
        cmocka_unit_test(sorting_changes_places_alone),
        cmocka_unit_test(settled_graphs_answer_alike_and_grow_as_copies),
    };
    return RUN_TESTS(tests);
}
