/* A row at a distance is not ruled out by a radius of that distance, nor by a bound of its own
** inner product: for each row and query by itself, where nothing but the bound of that row
** leaves room. Nor is it by its own score. */
#include "unit.h"

#include <math.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "exact.h"
#include "random.h"

enum { ROWS = 1200, QUERIES = 40, CHECKED = 600 };

typedef void maker(int dimension, float *x);

static void decaying(int dimension, float *x)
{
    for (int j = 0; j < dimension; j++)
        x[j] = (float)(normal() / (j + 1));
}

/* Differences of a few units in the last place: rounding is as large as the step. */
static void offset(int dimension, float *x)
{
    for (int j = 0; j < dimension; j++)
        x[j] = (float)(1e4 + 1e-2 * normal() / (j + 1));
}

static void tiny(int dimension, float *x)
{
    decaying(dimension, x);
    for (int j = 0; j < dimension; j++)
        x[j] *= 1e-20f;
}

/* In few directions the codes leave nothing out: their distance is that of the vectors,
** but for rounding. Of other directions a basis knows noise, which may overlap. */
static void in_few_directions(int dimension, float *x)
{
    enum { DIRECTIONS = 4 };
    double share[DIRECTIONS];
    for (int r = 0; r < DIRECTIONS; r++)
        share[r] = normal();
    for (int j = 0; j < dimension; j++) {
        double sum = 0;
        for (int r = 0; r < DIRECTIONS; r++)
            sum += share[r] * sin((r + 1) * (j + 0.5) * 0.7);
        x[j] = (float)sum;
    }
}

/* Most rows closer to each other than the step of the codes. */
static void with_a_core(int dimension, float *x)
{
    in_few_directions(dimension, x);
    double size = draw() < 0.9 ? 0.02 : 1;
    for (int j = 0; j < dimension; j++)
        x[j] *= (float)size;
}

static void query_beside(int kind, int dimension, const float *row, float *query)
{
    for (int j = 0; j < dimension; j++) {
        query[j] = kind == 0   ? row[j]
                   : kind == 1 ? nextafterf(row[j], INFINITY)
                   : kind == 2 ? row[j] * 1.01f
                   : kind == 3 ? row[j] * 1000 /* cut */
                               : -row[j];
    }
}

static double distance_of(int dimension, const float *a, const float *b)
{
    long double sum = 0;
    for (int j = 0; j < dimension; j++) {
        long double difference = (long double)a[j] - b[j];
        sum += difference * difference;
    }
    return (double)sqrtl(sum);
}

static double product_of(int dimension, const float *a, const float *b)
{
    long double sum = 0;
    for (int j = 0; j < dimension; j++)
        sum += (long double)a[j] * b[j];
    return (double)sum;
}

/* A score as bad as FAISS may compute it for the row, one float at a time. */
static float score_of(vector_metric metric, int dimension, const float *a, const float *b)
{
    float sum = 0;
    for (int j = 0; j < dimension; j++)
        sum += metric == METRIC_KIND_IP ? a[j] * b[j] : (a[j] - b[j]) * (a[j] - b[j]);
    return sum;
}

/* The row of a sketch of one is kept by this bound, by every line. */
static void check_kept(const sketch *s, const query_sketch *query, double bound)
{
    int32_t distance, same;
    int64_t slot = 0;
    sketch_distances(s, query, &distance);
    sketch_distances_at(s, query, &slot, 1, &same);
    assert_int_equal(same, distance);
    assert_true(distance <= sketch_limit(s, query, 0, bound));
    assert_false(sketch_is_beyond(s, query, bound));
    for (int line = 1; line < sketch_lines(s); line++) {
        int32_t limit = sketch_limit(s, query, line, bound);
        assert_int_equal(sketch_go_on(s, query, line, limit, &slot, &distance, 1), 1);
        assert_true(distance <= limit);
    }
}

static void check_metric(vector_metric metric, maker *make, int dimension, int must_help)
{
    int count = ROWS < basis_sample_size(dimension) ? ROWS : basis_sample_size(dimension);
    size_t d = (size_t)dimension;
    float *x = malloc((size_t)count * d * sizeof *x);
    for (int i = 0; i < count; i++)
        make(dimension, x + (size_t)i * d);
    basis *b;
    assert_int_equal(basis_new(metric, x, count, dimension, NULL, NULL, &b), SQLITE_OK);
    if (!b && !must_help) {
        free(x);
        return;
    }
    assert_non_null(b);
    query_sketch *queries[QUERIES];
    float *vectors = malloc(QUERIES * d * sizeof *vectors);
    for (int i = 0; i < QUERIES; i++) {
        query_beside(i % 5, dimension, x + (size_t)(i * count / QUERIES) * d,
                     vectors + (size_t)i * d);
        assert_int_equal(query_sketch_new(b, metric, vectors + (size_t)i * d, &queries[i]),
                         SQLITE_OK);
    }
    int sketches = 0;
    for (int i = 0; i < CHECKED; i++) {
        const float *row = x + (size_t)i * d;
        sketch *s;
        assert_int_equal(sketch_new(b, row, 1, &s), SQLITE_OK);
        sketches += s != NULL;
        for (int j = 0; s && j < QUERIES; j++) {
            const float *query = vectors + (size_t)j * d;
            check_kept(s, queries[j],
                       metric == METRIC_KIND_IP ? product_of(dimension, row, query)
                                                : distance_of(dimension, row, query));
            float score = score_of(metric, dimension, row, query);
            check_kept(s, queries[j], sketch_bound(s, queries[j], score));
        }
        sketch_free(s);
    }
    assert_true(sketches > CHECKED * 3 / 4);
    for (int i = 0; i < QUERIES; i++)
        query_sketch_free(queries[i]);
    basis_release(b);
    free(vectors);
    free(x);
}

static void check_data(maker *make, int dimension)
{
    check_metric(METRIC_KIND_L2, make, dimension, 1);
    /* Products of rows that differ in their last places are alike. */
    check_metric(METRIC_KIND_IP, make, dimension, make != offset);
}

static void rows_within_a_radius_are_kept(void **unused)
{
    (void)unused;
    if (is_slow()) {
        check_data(with_a_core, 96);
        return;
    }
    maker *const makers[] = {decaying, offset, tiny, in_few_directions, with_a_core};
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++) {
        check_data(makers[i], 96);
        check_data(makers[i], 384);
    }
}

/* Where the dimension exceeds the rows of the sample, the components that FAISS finds are
** not orthogonal, the less so the more of them are rounding. */
static void components_may_overlap(void **unused)
{
    (void)unused;
    if (is_slow())
        return;
    check_data(tiny, 1001);
    check_data(decaying, 1001);
}

/* A joined sketch says of each row what its part says, and of its bounds the widest. */
static void check_joined(const sketch *joined, const sketch *part, int first, int rows,
                         const query_sketch *query)
{
    int32_t *all = malloc((size_t)(first + rows) * sizeof *all), *own = malloc((size_t)rows * 4);
    int64_t *slots = malloc((size_t)(first + rows) * sizeof *slots);
    for (int i = 0; i < first + rows; i++)
        slots[i] = i;
    sketch_distances_at(joined, query, slots, first + rows, all);
    for (int i = 0; i < rows; i++)
        own[i] = SKETCH_OUTLIER;
    if (part)
        sketch_distances(part, query, own);
    assert_memory_equal(all + first, own, (size_t)rows * sizeof *own);
    for (int line = 0; part && line < sketch_lines(part); line++)
        assert_true(sketch_limit(joined, query, line, 0.5) >= sketch_limit(part, query, line, 0.5));
    for (int i = 0; i < rows; i++)
        assert_int_equal(sketch_outliers(joined)[first + i], own[i] == SKETCH_OUTLIER);
    free(all);
    free(own);
    free(slots);
}

static void sketches_are_joined(void **unused)
{
    enum { DIMENSION = 96, PARTS = 4, PART = 100 };
    static const int rows[PARTS] = {PART, PART / 2, PART, PART};
    (void)unused;
    float *x = malloc((size_t)ROWS * DIMENSION * sizeof *x);
    for (int i = 0; i < ROWS; i++)
        decaying(DIMENSION, x + (size_t)i * DIMENSION);
    basis *b, *other;
    query_sketch *query;
    sketch *parts[PARTS] = {NULL}, *joined;
    assert_int_equal(basis_new(METRIC_KIND_L2, x, ROWS, DIMENSION, NULL, NULL, &b), SQLITE_OK);
    assert_int_equal(basis_new(METRIC_KIND_L2, x, ROWS, DIMENSION, NULL, NULL, &other), SQLITE_OK);
    assert_int_equal(query_sketch_new(b, METRIC_KIND_L2, x, &query), SQLITE_OK);
    assert_int_equal(sketch_join((const sketch *const *)parts, rows, PARTS, &joined), SQLITE_OK);
    assert_null(joined);
    x[(PART + 3) * DIMENSION] = 1e30f;
    for (int i = 1; i < PARTS; i++) { /* the first has none, and one is of another basis */
        assert_int_equal(sketch_open(i == 2 ? other : b, &parts[i]), SQLITE_OK);
        assert_int_equal(sketch_add(parts[i], x + (size_t)i * PART * DIMENSION, rows[i]),
                         SQLITE_OK);
        sketch_close(parts[i]);
    }
    assert_int_equal(sketch_join((const sketch *const *)parts, rows, PARTS, &joined), SQLITE_OK);
    assert_ptr_equal(sketch_basis(joined), b);
    for (int i = 0, first = 0; i < PARTS; first += rows[i++])
        check_joined(joined, i == 2 ? NULL : parts[i], first, rows[i], query);
    sketch_free(joined);
    for (int i = 0; i < PARTS; i++)
        sketch_free(parts[i]);
    query_sketch_free(query);
    basis_release(b);
    basis_release(other);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_within_a_radius_are_kept),
        cmocka_unit_test(components_may_overlap),
        cmocka_unit_test(sketches_are_joined),
    };
    return RUN_TESTS(tests);
}
