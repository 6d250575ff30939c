#include "basis.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <c_api/VectorTransform_c.h>

#include "segment.h"

enum {
    DIMENSION_LEAST = 96, /* below, reading the vectors is as fast */
    SAMPLE_MOST = 2048,
    SAMPLE_LEAST = 512,
    SAMPLE_OF_MANY = 960, /* rows, where the dimension is above 1,000: FAISS then
                              ** decomposes a matrix of rows by rows */
    TRIALS = 8,           /* rows of the sample that try a basis as queries */
    FAR = 10,             /* times the median from the mean: no part of the sample */
    TRIAL_NEIGHBOURS = 10
};

static const double SHARE_LEFT = 0.25; /* of the sample left over: no help */

/* The row sums of AAᵀ are 1 for orthogonal components; beyond this they are cut off. */
static const double ORTHOGONAL_MOST = 1.25;

int basis_sample_size(int dimension)
{
    return dimension > 1000 ? SAMPLE_OF_MANY : SAMPLE_MOST;
}

int basis_is_possible(int dimension)
{
    return dimension >= DIMENSION_LEAST;
}

/* ---- the centre and the matrix ---- */

static int find_mean(basis *b, const float *sample, int count)
{
    size_t d = (size_t)b->dimension;
    double *sums = basis_room(d, sizeof *sums);
    b->mean = basis_room(d, sizeof *b->mean);
    if (!sums || !b->mean) {
        sqlite3_free(sums);
        return SQLITE_NOMEM;
    }
    memset(sums, 0, d * sizeof *sums);
    for (int i = 0; i < count; i++) {
        for (size_t j = 0; j < d; j++)
            sums[j] += (double)sample[(size_t)i * d + j];
    }
    for (size_t j = 0; j < d; j++)
        b->mean[j] = (float)(sums[j] / count);
    sqlite3_free(sums);
    return SQLITE_OK;
}

static int compare_doubles(const void *left, const void *right)
{
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

/* The squared distances of the sample from its mean; *median is that of them. */
static int measure(const basis *b, const float *sample, int count, double *distances,
                   double *median)
{
    size_t d = (size_t)b->dimension;
    double *sorted = basis_room((size_t)count, sizeof *sorted);
    if (!sorted)
        return SQLITE_NOMEM;
    for (int i = 0; i < count; i++) {
        distances[i] = 0;
        for (size_t j = 0; j < d; j++) {
            double off = (double)sample[(size_t)i * d + j] - (double)b->mean[j];
            distances[i] += off * off;
        }
    }
    memcpy(sorted, distances, (size_t)count * sizeof *sorted);
    qsort(sorted, (size_t)count, sizeof *sorted, compare_doubles);
    *median = sorted[count / 2];
    sqlite3_free(sorted);
    return SQLITE_OK;
}

/* Find the mean and the unit of the sample, without the rows that are far from it: a few
** of these would leave nothing to tell the others apart by. *count is what is left. */
static int find_centre(basis *b, float *sample, int *count)
{
    size_t d = (size_t)b->dimension;
    double median, *distances = basis_room((size_t)*count, sizeof *distances);
    int rc = distances ? find_mean(b, sample, *count) : SQLITE_NOMEM, kept = 0;
    if (rc == SQLITE_OK)
        rc = measure(b, sample, *count, distances, &median);
    for (int i = 0; rc == SQLITE_OK && i < *count; i++) {
        if (!(distances[i] <= FAR * FAR * median))
            continue;
        memmove(sample + (size_t)kept * d, sample + (size_t)i * d, d * sizeof *sample);
        kept++;
    }
    if (rc == SQLITE_OK && kept < *count && kept > 0) {
        sqlite3_free(b->mean);
        b->mean = NULL;
        rc = find_mean(b, sample, kept);
        if (rc == SQLITE_OK)
            rc = measure(b, sample, kept, distances, &median);
    }
    *count = kept;
    sqlite3_free(distances);
    int exponent = 0;
    frexp(rc == SQLITE_OK ? sqrt(median) : 0, &exponent);
    b->unit = rc == SQLITE_OK && median > 0 && median < INFINITY ? ldexpf(1, -exponent) : 0;
    return rc;
}

/* Add up AAᵀ from some columns of A, which stand in the rows of `columns`. */
static void add_products(const float *columns, size_t count, size_t m, double *products)
{
    for (size_t i = 0; i < count; i++) {
        const float *column = columns + i * m;
        for (size_t j = 0; j < m; j++) {
            for (size_t l = 0; l < m; l++)
                products[j * m + l] += (double)column[j] * (double)column[l];
        }
    }
}

/* The largest row sum of magnitudes of the first components of AAᵀ, as many of them as are
** nearly orthogonal: of m at first, *components in the end. Where the sample has fewer
** dimensions than components, what FAISS gives beyond is rounding, and may be anything. */
static double largest_row_sum(const double *products, size_t m, int *components)
{
    double largest = 0, sums[FINE_WIDTH] = {0};
    for (size_t j = 0; j < m; j++) {
        double with = 0;
        for (size_t l = 0; l <= j; l++) {
            double magnitude = fabs(products[j * m + l]);
            sums[j] += magnitude;
            if (l < j)
                sums[l] += magnitude;
        }
        for (size_t l = 0; l <= j; l++)
            with = isfinite(sums[l]) ? fmax(with, sums[l]) : INFINITY;
        if (j > 0 && !(with <= ORTHOGONAL_MOST))
            break;
        largest = with;
        *components = (int)j + 1;
    }
    return largest;
}

/*
** Scale the matrix so that its spectral norm is at most 1. |A|² is at most the
** largest sum of magnitudes in a row of AAᵀ. The matrix is read by applying it to the
** unit vectors; the copy differs from FAISS's by rounding twice, which the last term
** allows for.
*/
static int find_scale(basis *b)
{
    enum { BLOCK = 64 };
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1;
    float *unit = basis_room(BLOCK * d, sizeof *unit),
          *columns = basis_room(BLOCK * m, sizeof *columns);
    double *products = basis_room(m * m, sizeof *products);
    int rc = unit && columns && products ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        memset(products, 0, m * m * sizeof *products);
    for (size_t begin = 0; rc == SQLITE_OK && begin < d; begin += BLOCK) {
        size_t count = d - begin < BLOCK ? d - begin : BLOCK;
        memset(unit, 0, BLOCK * d * sizeof *unit);
        for (size_t i = 0; i < count; i++)
            unit[i * d + begin + i] = 1;
        basis_project(b, unit, (int)count, columns);
        add_products(columns, count, m, products);
    }
    if (rc == SQLITE_OK) {
        double largest = largest_row_sum(products, m, &b->components);
        for (int i = 0; i < b->components; i++)
            b->shift_norm += (double)b->shift[i] * (double)b->shift[i];
        b->shift_norm = sqrt(b->shift_norm);
        double copied = sqrt((double)(d * m)) * 4 * 0x1p-24 * (1 + b->shift_norm);
        b->scale = 1 / ((sqrt(largest) + copied) * (1 + 1e-9));
        if (!(b->scale > 0 && b->scale < INFINITY))
            b->scale = 0;
    }
    sqlite3_free(unit);
    sqlite3_free(columns);
    sqlite3_free(products);
    return rc;
}

/* The step and the centres of the norms, from the sample's projections. */
static int find_step(basis *b, const float *z, const float *p, int count)
{
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1;
    double coarse_sum = 0, fine_sum = 0, unknown, largest = 0, coarse_low = INFINITY,
           coarse_high = 0;
    for (int i = 0; i < count; i++) {
        const float *zi = z + (size_t)i * d, *pi = p + (size_t)i * m;
        double z_squared = basis_squared_norm(zi, b->dimension), ignored;
        for (size_t j = 0; j < m; j++)
            largest = fmax(largest, fabs((double)pi[j]) * b->scale);
        double coarse = basis_rest_norm(z_squared, pi, b->coarse - 1, b->scale, 0, &ignored);
        double fine = basis_rest_norm(z_squared, pi, b->fine - 1, b->scale, 0, &ignored);
        coarse_sum += coarse;
        fine_sum += fine;
        energy_add(&b->sample, z_squared, fine);
        basis_rest_norm(z_squared, pi, b->fine - 1, b->scale,
                        basis_projection_error(b, z_squared, b->fine), &unknown);
        b->uncertain = fmax(b->uncertain, unknown);
        coarse_low = fmin(coarse_low, coarse);
        coarse_high = fmax(coarse_high, coarse);
    }
    b->coarse_centre = coarse_sum / count;
    b->fine_centre = fine_sum / count;
    largest = fmax(largest, fmax(coarse_high - b->coarse_centre, b->coarse_centre - coarse_low));
    b->step = largest * 1.05 / CODE_MOST;
    /* Rounded evenly, an error is step * sqrt(width / 12) or so. Where the components leave
    ** nothing, it is more that the norm of the rest is not known any better. */
    b->worst_error = b->step * sqrt(b->fine) * 0.75 + b->uncertain * 1.5;
    return b->step > FLT_MIN && b->step < FLT_MAX;
}

/* ---- trials ---- */

/* How near a row of the sample is to another one, smaller is nearer; and the least that
** it can be by their projections, unrounded. For distances the norms of the rest are left
** out. In the units of the sample and of z. */
static double true_rank(const basis *b, vector_metric metric, const float *x, const float *query)
{
    double sum = 0;
    for (int j = 0; j < b->dimension; j++) {
        double off = (double)x[j] - (double)query[j];
        sum += metric == METRIC_KIND_IP ? -(double)x[j] * (double)query[j] : off * off;
    }
    return sum;
}

/* Projections of the rows of a sample, and of the query that tries them. */
typedef struct trial {
    const float *p;     /* of the rows, m of them each */
    const double *rest; /* norms of the rest */
    const float *query;
    double query_rest, mean_product;
} trial;

static double bounded_rank(const basis *b, vector_metric metric, const trial *t, size_t row)
{
    size_t m = (size_t)b->fine - 1;
    const float *p = t->p + row * m;
    double sum = 0;
    for (size_t j = 0; j < m; j++) {
        double off = ((double)p[j] - (double)t->query[j]) * b->scale;
        sum += metric == METRIC_KIND_IP ? (double)p[j] * b->scale * (double)t->query[j] * b->scale
                                        : off * off;
    }
    return metric == METRIC_KIND_IP ? -(sum + t->rest[row] * t->query_rest + t->mean_product) : sum;
}

/* The rank of the last of the nearest few rows of the sample to one of them. */
static double nearest_rank(const basis *b, vector_metric metric, const float *sample, int count,
                           size_t query)
{
    size_t d = (size_t)b->dimension;
    double nearest[TRIAL_NEIGHBOURS + 1];
    int found = 0;
    for (size_t i = 0; i < (size_t)count; i++) {
        double rank = true_rank(b, metric, sample + i * d, sample + query * d);
        int at = found <= TRIAL_NEIGHBOURS ? found++ : rank < nearest[found - 1] ? found - 1 : -1;
        for (; at > 0 && nearest[at - 1] > rank; at--)
            nearest[at] = nearest[at - 1];
        if (at >= 0)
            nearest[at] = rank;
    }
    return nearest[found - 1];
}

/* Prepare a trial with a row of the sample as the query. */
static void trial_query(const basis *b, vector_metric metric, const float *sample, size_t query,
                        trial *t, float *scratch, float *projected)
{
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1;
    double ignored;
    t->query = t->p + query * m;
    t->mean_product = t->query_rest = 0;
    if (metric != METRIC_KIND_IP)
        return;
    for (size_t j = 0; j < d; j++) {
        scratch[j] = sample[query * d + j] * b->unit;
        t->mean_product += (double)scratch[j] * (double)b->mean[j] * (double)b->unit;
    }
    basis_project(b, scratch, 1, projected);
    t->query = projected;
    t->query_rest = basis_rest_norm(basis_squared_norm(scratch, b->dimension), projected, (int)m,
                                    b->scale, 0, &ignored);
}

/* The share of the sample that a basis leaves over for the nearest few of some of its
** rows, by sketches as well rounded as most. z and p are those of the sample by this basis.
** -1 without memory. */
static double share_left(const basis *b, vector_metric metric, const float *sample, const float *z,
                         const float *p, int count)
{
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1, left = 0;
    int trials = count < TRIALS ? count : TRIALS;
    double *rest = basis_room((size_t)count, sizeof *rest), ignored;
    float *scratch = basis_room(d + m, sizeof *scratch);
    double rounding = b->step * sqrt((double)b->fine / 12) + b->uncertain, unit = (double)b->unit;
    trial t = {.p = p, .rest = rest};
    for (int i = 0; rest && i < count; i++)
        rest[i] = basis_rest_norm(basis_squared_norm(z + (size_t)i * d, b->dimension),
                                  p + (size_t)i * m, (int)m, b->scale, 0, &ignored);
    for (int n = 0; rest && scratch && n < trials; n++) {
        size_t query = (size_t)n * (size_t)count / (size_t)trials;
        double bound = nearest_rank(b, metric, sample, count, query) * unit * unit;
        trial_query(b, metric, sample, query, &t, scratch, scratch + d);
        if (metric == METRIC_KIND_IP)
            bound += rounding * sqrt(basis_squared_norm(scratch, b->dimension));
        else
            bound = (sqrt(bound) + rounding) * (sqrt(bound) + rounding);
        for (size_t i = 0; i < (size_t)count; i++)
            left += bounded_rank(b, metric, &t, i) <= bound;
    }
    double share = rest && scratch ? (double)left / ((double)trials * (double)count) : -1;
    sqlite3_free(rest);
    sqlite3_free(scratch);
    return share;
}

/* The same of a basis whose codes the sample may not fit: 1 then. z and p are scratch. */
static double share_left_by(const basis *b, vector_metric metric, const float *sample, float *z,
                            float *p, int count)
{
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1;
    int8_t code[FINE_WIDTH];
    int misfits = 0;
    basis_centre(b, sample, count, z);
    basis_project(b, z, count, p);
    for (int i = 0; i < count; i++) {
        row_code fine = basis_encode(b, z + (size_t)i * d, p + (size_t)i * m, b->fine,
                                     b->fine_centre, code, NULL);
        misfits += !fine.fits || fine.error > b->worst_error;
    }
    return misfits > count / OUTLIERS_SHARE ? 1 : share_left(b, metric, sample, z, p, count);
}

/* ---- fitting ---- */

/* Find what FAISS adds to Az: the projection of zero. */
static int find_shift(basis *b)
{
    size_t m = (size_t)b->fine - 1;
    float *zero = basis_room((size_t)b->dimension, sizeof *zero);
    float *shift = basis_room(m, sizeof *shift);
    if (!zero || !shift) {
        sqlite3_free(zero);
        sqlite3_free(shift);
        return SQLITE_NOMEM;
    }
    memset(zero, 0, (size_t)b->dimension * sizeof *zero);
    basis_project(b, zero, 1, shift);
    sqlite3_free(zero);
    b->shift = shift;
    b->components = (int)m;
    return SQLITE_OK;
}

static int train(basis *b, const float *sample, int count, float *z, float *p)
{
    size_t m = (size_t)b->fine - 1;
    basis_centre(b, sample, count, z);
    int threads = segment_use_one_thread();
    int code = faiss_PCAMatrix_new_with(&b->pca, b->dimension, (int)m, 0, 0);
    if (code == 0)
        code = faiss_VectorTransform_train(b->pca, count, z);
    segment_restore_threads(threads);
    int rc = code == 0 ? find_shift(b) : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = find_scale(b);
    if (rc == SQLITE_OK)
        basis_project(b, z, count, p);
    return rc;
}

static basis *basis_open(int dimension)
{
    basis *b = basis_room(1, sizeof *b);
    if (!b)
        return NULL;
    memset(b, 0, sizeof *b);
    atomic_init(&b->references, 1);
    b->dimension = dimension;
    b->coarse = COARSE_WIDTH < dimension / 2 ? COARSE_WIDTH : dimension / 4 / 8 * 8;
    b->fine = FINE_WIDTH < dimension / 2 ? FINE_WIDTH : dimension / 2 / 8 * 8;
    return b;
}

int basis_new(vector_metric metric, float *sample, int count, int dimension, basis *former,
              basis **out)
{
    *out = NULL;
    if (!basis_is_possible(dimension))
        return SQLITE_OK;
    basis *b = basis_open(dimension);
    if (!b)
        return SQLITE_NOMEM;
    size_t n = (size_t)count;
    float *z = basis_room(n * (size_t)dimension, sizeof *z);
    float *p = basis_room(n * (size_t)b->fine, sizeof *p);
    double left = 1, left_by_former = 1;
    int rc = z && p ? find_centre(b, sample, &count) : SQLITE_NOMEM;
    int trains = rc == SQLITE_OK && count >= SAMPLE_LEAST && b->unit > 0 && b->unit < INFINITY;
    if (trains)
        rc = train(b, sample, count, z, p);
    if (trains && rc == SQLITE_OK && b->scale > 0 && find_step(b, z, p, count))
        left = share_left_by(b, metric, sample, z, p, count);
    if (trains && rc == SQLITE_OK && former)
        left_by_former = share_left_by(former, metric, sample, z, p, count);
    if (left < 0 || left_by_former < 0)
        rc = SQLITE_NOMEM;
    sqlite3_free(z);
    sqlite3_free(p);
    if (rc == SQLITE_OK && left_by_former < SHARE_LEFT && left_by_former <= 2 * left)
        *out = basis_retain(former);
    else if (rc == SQLITE_OK && left < SHARE_LEFT)
        *out = basis_retain(b);
    basis_release(b);
    return rc;
}
