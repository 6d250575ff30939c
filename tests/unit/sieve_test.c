/* What a sieve rules out is none of the nearest, whatever the data; what it hands out comes once;
** and it counts what is left. */
#include "unit.h"

#include <math.h>
#include <sqlite3.h>

#include "random.h"
#include "sieve.h"

enum { DIMENSION = 256, ROWS = 900, PARTS = 3, QUERIES = 12, NEAREST = 10 };

/* How rows differ from others with a decaying spectrum. */
typedef enum kind {
    DECAYING,
    FAR_AWAY, /* from the origin: a few units in the last place tell them apart */
    DENORMAL, /* nearly all components are */
    REPEATED, /* five times each: ties at every radius */
    ONE_HUGE, /* some rows have one huge component: outliers */
    KINDS
} kind;

static void make_row(kind how, int i, float *x)
{
    for (int j = 0; j < DIMENSION; j++) {
        double y = normal() / (j + 1);
        x[j] = (float)(how == FAR_AWAY ? 1e4 + 0.01 * y : how == DENORMAL ? y * 1e-37 : y);
    }
    if (how == ONE_HUGE && i % 50 == 0)
        x[i % DIMENSION] = 1e6f;
}

/* The rows of a table in parts, each with a sketch of its own. */
typedef struct table {
    float *x;
    basis *basis;
    sketch *sketches[PARTS];
} table;

static void table_open(table *t, vector_metric metric, kind how)
{
    size_t d = DIMENSION;
    t->x = malloc(ROWS * d * sizeof *t->x);
    float *sample = malloc(ROWS * d * sizeof *sample);
    for (int i = 0; i < ROWS; i++)
        make_row(how, i, t->x + (size_t)i * d);
    for (int i = 0; how == REPEATED && i < ROWS; i++)
        memcpy(t->x + (size_t)i * d, t->x + (size_t)(i % (ROWS / 5)) * d, d * sizeof *t->x);
    memcpy(sample, t->x, ROWS * d * sizeof *sample);
    assert_int_equal(basis_new(metric, sample, ROWS, DIMENSION, NULL, NULL, &t->basis), SQLITE_OK);
    free(sample);
    for (int i = 7; how == ONE_HUGE && i < ROWS; i += 90)
        t->x[(size_t)i * d + 3] = -3e18f; /* which the sample has not had */
    for (int part = 0; t->basis && part < PARTS; part++) {
        assert_int_equal(sketch_open(t->basis, &t->sketches[part]), SQLITE_OK);
        assert_int_equal(
            sketch_add(t->sketches[part], t->x + (size_t)part * (ROWS / PARTS) * d, ROWS / PARTS),
            SQLITE_OK);
        sketch_close(t->sketches[part]);
    }
}

static void table_close(table *t)
{
    for (int part = 0; t->basis && part < PARTS; part++)
        sketch_free(t->sketches[part]);
    basis_release(t->basis);
    free(t->x);
}

/* As FAISS may score a row, one float at a time. */
static float score_of(vector_metric metric, const float *a, const float *b)
{
    float sum = 0;
    for (int j = 0; j < DIMENSION; j++)
        sum += metric == METRIC_KIND_IP ? a[j] * b[j] : (a[j] - b[j]) * (a[j] - b[j]);
    return sum;
}

static int by_float(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Smaller is nearer; *worst is that of the k-th. */
static void rank_rows(const table *t, vector_metric metric, const float *query, float *ranks,
                      float *worst)
{
    float sorted[ROWS];
    for (int i = 0; i < ROWS; i++) {
        ranks[i] = score_of(metric, t->x + (size_t)i * DIMENSION, query);
        ranks[i] = metric == METRIC_KIND_IP ? -ranks[i] : ranks[i];
    }
    memcpy(sorted, ranks, sizeof sorted);
    qsort(sorted, ROWS, sizeof *sorted, by_float);
    *worst = sorted[NEAREST - 1];
}

/* A sieve of the whole table that was looked at. Of every third row the bit is set in `skip`;
** `listed` gives it every second row alone. */
static void sieve_fill(sieve *s, const table *t, const query_sketch *query, int listed,
                       const uint64_t *skip)
{
    assert_int_equal(sieve_open(s, query, PARTS, ROWS), SQLITE_OK);
    for (int part = 0; part < PARTS; part++) {
        int count = ROWS / PARTS;
        if (listed) {
            int64_t *slots = sieve_next_slots(s);
            count = 0;
            for (int slot = 1; slot < ROWS / PARTS; slot += 2)
                slots[count++] = slot;
        }
        assert_int_equal(sieve_add(s, t->sketches[part], part, count, listed, skip), SQLITE_OK);
        sieve_look(s, part);
    }
}

/* How often each row is in the sieve: left, or an outlier. Slots ascend. */
static void count_rows(const sieve *s, int *times)
{
    int64_t left = 0;
    memset(times, 0, ROWS * sizeof *times);
    for (int part = 0; part < s->part_count; part++) {
        const sieve_part *p = &s->parts[part];
        assert_non_null(p->slots);
        for (int i = 0; i < p->count; i++) {
            assert_true(i == 0 || p->slots[i - 1] < p->slots[i]);
            times[part * (ROWS / PARTS) + p->slots[i]]++;
        }
        for (int i = 0; i < p->outlier_count; i++)
            times[part * (ROWS / PARTS) + p->outliers[i]]++;
        left += p->count;
    }
    assert_int_equal(sieve_left(s), left);
}

static void go_on_all(sieve *s, int line, double bound)
{
    for (int part = 0; part < s->part_count; part++)
        sieve_go_on(s, part, line, bound);
}

static double bound_of(const table *t, const query_sketch *query, int part, vector_metric metric,
                       float rank)
{
    return sketch_bound(t->sketches[part], query, metric == METRIC_KIND_IP ? -rank : rank);
}

/* By every line fewer rows are left, among them all that are as near as the k-th. */
static void check_bound(const table *t, vector_metric metric, const query_sketch *query,
                        const float *ranks, float worst)
{
    sieve s;
    int times[ROWS], lines = sketch_lines(t->sketches[0]);
    int64_t before = ROWS;
    sieve_fill(&s, t, query, 0, NULL);
    for (int line = 0; line < lines; line++) {
        for (int part = 0; part < PARTS; part++)
            sieve_go_on(&s, part, line, bound_of(t, query, part, metric, worst));
        count_rows(&s, times);
        for (int i = 0; i < ROWS; i++)
            assert_in_range(times[i], ranks[i] <= worst, 1);
        assert_true(sieve_left(&s) <= before);
        before = sieve_left(&s);
    }
    sieve_close(&s);
}

/* Rows that are taken come once, and never again, whatever the bound before and after. */
static void check_taking(const table *t, const query_sketch *query, int listed,
                         const uint64_t *skip)
{
    enum { MOST = 40 };
    sieve s;
    sieve_row taken[ROWS];
    int times[ROWS], was_taken[ROWS] = {0}, lines = sketch_lines(t->sketches[0]), got = 0;
    sieve_fill(&s, t, query, listed, skip);
    for (int line = 0; line < lines; line++) {
        int n = sieve_take(&s, 2 * MOST, MOST, taken);
        assert_in_range(n, 0, MOST);
        for (int i = 0; i < n; i++) {
            int row = taken[i].part * (ROWS / PARTS) + taken[i].slot;
            assert_int_equal(was_taken[row], 0);
            was_taken[row] = 1;
            assert_true(i == 0 || taken[i - 1].part < taken[i].part ||
                        (taken[i - 1].part == taken[i].part && taken[i - 1].slot < taken[i].slot));
        }
        got += n;
        go_on_all(&s, line, INFINITY);
        go_on_all(&s, line, INFINITY); /* once more changes nothing */
        count_rows(&s, times);
        for (int i = 0; i < ROWS; i++) {
            int slot = i % (ROWS / PARTS);
            int out = was_taken[i] || (listed && slot % 2 == 0) ||
                      (skip && skip[slot / 64] >> (slot % 64) & 1);
            assert_int_equal(times[i], !out);
        }
    }
    assert_true(got >= MOST);
    /* All that are left, and then none. */
    assert_int_equal(sieve_take(&s, ROWS, ROWS, taken), sieve_left(&s));
    go_on_all(&s, lines - 1, INFINITY);
    assert_int_equal(sieve_left(&s), 0);
    assert_int_equal(sieve_take(&s, ROWS, ROWS, taken), 0);
    sieve_close(&s);
}

/* Where a bound rules all rows out, the lines behind it have nothing to do, and nothing is there to
** take. Of inner products no row has so large a one; no row is at the distance 0 of a query that is
** none. */
static void check_nothing_left(const table *t, vector_metric metric, const query_sketch *query,
                               int is_row)
{
    double bound = metric == METRIC_KIND_IP ? 1e30 : 0;
    int last = sketch_lines(t->sketches[0]) - 1, outliers;
    sieve s;
    sieve_row taken[1];
    sieve_fill(&s, t, query, 0, NULL);
    outliers = s.parts[0].outlier_count;
    go_on_all(&s, 0, bound);
    int64_t left = sieve_left(&s);
    go_on_all(&s, last, bound);
    assert_true(sieve_left(&s) <= left);
    assert_int_equal(s.parts[0].outlier_count, outliers); /* these are never ruled out */
    if (metric == METRIC_KIND_IP || !is_row) {
        assert_int_equal(sieve_left(&s), 0);
        assert_int_equal(sieve_take(&s, 2, 1, taken), 0);
    }
    sieve_close(&s);
}

static void check_table(vector_metric metric, kind how)
{
    table t;
    uint64_t third[ROWS / PARTS / 64 + 1] = {0};
    for (int slot = 0; slot < ROWS / PARTS; slot += 3)
        third[slot / 64] |= (uint64_t)1 << (slot % 64);
    table_open(&t, metric, how);
    if (!t.basis) { /* of products that are all alike, or all 0 */
        assert_true(metric == METRIC_KIND_IP && (how == FAR_AWAY || how == DENORMAL));
        table_close(&t);
        return;
    }
    for (int i = 0; i < QUERIES; i++) {
        float query[DIMENSION], ranks[ROWS], worst;
        memcpy(query, t.x + (size_t)(i * (ROWS / QUERIES) + 1) * DIMENSION, sizeof query);
        for (int j = 0; i % 3 && j < DIMENSION; j++)
            query[j] *= i % 3 == 1 ? 1.01f : -1;
        query_sketch *q;
        assert_int_equal(query_sketch_new(t.basis, metric, query, &q), SQLITE_OK);
        rank_rows(&t, metric, query, ranks, &worst);
        check_bound(&t, metric, q, ranks, worst);
        check_bound(&t, metric, q, ranks, nextafterf(worst, INFINITY));
        check_taking(&t, q, i % 2, i % 4 == 2 ? third : NULL);
        check_nothing_left(&t, metric, q, how != DECAYING || i % 3 != 2);
        query_sketch_free(q);
    }
    table_close(&t);
}

static void no_near_row_is_ruled_out(void **unused)
{
    (void)unused;
    for (int how = 0; how < (is_slow() ? 1 : KINDS); how++) {
        check_table(METRIC_KIND_L2, (kind)how);
        check_table(METRIC_KIND_IP, (kind)how);
    }
}

static void an_empty_sieve_has_no_rows(void **unused)
{
    (void)unused;
    sieve s;
    sieve_row row;
    assert_int_equal(sieve_open(&s, NULL, 0, 0), SQLITE_OK);
    assert_int_equal(sieve_left(&s), 0);
    assert_int_equal(sieve_take(&s, 4, 2, &row), 0);
    sieve_close(&s);
    sieve_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_near_row_is_ruled_out),
        cmocka_unit_test(an_empty_sieve_has_no_rows),
    };
    return RUN_TESTS(tests);
}
