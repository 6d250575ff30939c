#include "exact.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <c_api/Index_c.h>
#include <c_api/VectorTransform_c.h>

#include "kernel.h"
#include "segment.h"

enum {
    COARSE_WIDTH = 64, /* components of the codes, the norm of the rest included */
    FINE_WIDTH = 192,
    CACHE_LINE = 64,
    RANGE = 4,            /* vectors shorter than a 4th of the sample's want a finer step */
    DIMENSION_LEAST = 96, /* below, reading the vectors is as fast */
    CODE_MOST = 127,
    SAMPLE_MOST = 2048,
    SAMPLE_LEAST = 512,
    SAMPLE_OF_MANY = 960, /* rows, where the dimension is above 1,000: FAISS then
                              ** decomposes a matrix of rows by rows */
    OUTLIERS_SHARE = 8,   /* more than an 8th of outliers: no sketch */
    TRIALS = 8,           /* rows of the sample that try a basis as queries */
    QUERY_CUT = 4,        /* times the worst error of rows: of a query, too much is cut */
    FAR = 10,             /* times the median from the mean: no part of the sample */
    TRIAL_NEIGHBOURS = 10
};

static const double SHARE_LEFT = 0.25; /* of the sample left over: no help */

/* The row sums of AAᵀ are 1 for orthogonal components; beyond this they are cut off. */
static const double ORTHOGONAL_MOST = 1.25;

/* Squared norms of vectors, less the mean, and of what all components leave of them. */
typedef struct energy {
    double all, rest;
    int vectors;
} energy;

struct basis {
    atomic_int references;
    int dimension;
    int coarse, fine; /* widths */
    float *mean;
    FaissPCAMatrix *pca;
    float *shift; /* what FAISS adds to Az: taken off again */
    double shift_norm;
    float unit;   /* a power of two that brings distances from the mean to about 1 */
    double scale; /* makes the spectral norm at most 1 */
    double step;
    double coarse_centre, fine_centre; /* taken off the norms of the rest */
    double uncertain;                  /* the largest error of such a norm in the sample */
    double worst_error;                /* a row whose error is greater is an outlier */
    int components;                    /* of A: the others of fine - 1 are zero */
    energy sample;
};

/* What holds for all codes of one width in a sketch, but for those of outliers. */
typedef struct code_bounds {
    double error; /* the largest */
    double norm;  /* the largest of step * code */
} code_bounds;

struct sketch {
    basis *basis;
    int count, room; /* rows; those that fit */
    int outlier_count;
    code_bounds coarse_bounds, fine_bounds;
    double largest_norm;   /* of the vectors that are no outliers, at least */
    energy energy;         /* of these */
    int8_t *coarse, *fine; /* from the start of a cache line */
    void *coarse_memory, *fine_memory;
    uint8_t *outliers; /* 1 for each that is; NULL for none */
};

/* A query's code of one width, for inner products. */
typedef struct product_code {
    double step;
    double error; /* of step * code */
    double rest;  /* the norm of the rest */
} product_code;

struct query_sketch {
    const basis *basis;
    vector_metric metric;
    double norm; /* of the query */
    /* for distances */
    double coarse_error, fine_error;
    /* for inner products: with the query times `unit`, a power of two */
    double unit;
    double mean_product; /* <mean, query> */
    double mean_error;
    product_code coarse_product, fine_product;
    /* for either */
    int16_t coarse[COARSE_WIDTH], fine[FINE_WIDTH];
};

/* ---- projection ---- */

/* γ(n) of the header. */
static double gamma_of(double n)
{
    double nu = n * 0x1p-24;
    return nu / (1 - nu);
}

/* z = (x - mean) * unit for `count` vectors. */
static void centre(const basis *b, const float *x, int count, float *z)
{
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < b->dimension; j++)
            z[(size_t)i * (size_t)b->dimension + (size_t)j] =
                (x[(size_t)i * (size_t)b->dimension + (size_t)j] - b->mean[j]) * b->unit;
    }
}

/* The matrix on `count` vectors, without FAISS's shift; p has fine - 1 components. */
static void project(const basis *b, const float *z, int count, float *p)
{
    int width = b->fine - 1;
    int threads = segment_use_one_thread();
    faiss_VectorTransform_apply_noalloc(b->pca, count, z, p);
    segment_restore_threads(threads);
    for (int i = 0; b->shift && i < count; i++) {
        float *own = p + (size_t)i * (size_t)width;
        for (int j = 0; j < width; j++)
            own[j] = j < b->components ? own[j] - b->shift[j] : 0;
    }
}

/* One row on its way to integers. */
typedef struct row_code {
    double error;           /* of the code, rounding on the way included */
    double norm;            /* of step * code */
    double z_squared, rest; /* of z, and the norm of its rest */
    int fits;               /* no component was cut */
} row_code;

/* The norm of what the first `count` components leave of z, and the bound of its error.
** |r² - r̂²| <= η with p off by at most `wrong` in norm gives |r - r̂| <= η / r̂, and
** never more than sqrt(η). */
static double rest_norm(double z_squared, const float *p, int count, double scale, double wrong,
                        double *error)
{
    double p_squared = 0;
    for (int i = 0; i < count; i++)
        p_squared += (double)p[i] * (double)p[i];
    p_squared *= scale * scale;
    double norm = sqrt(z_squared);
    double eta = 2 * norm * wrong + wrong * wrong + z_squared * 4 * 0x1p-24;
    double r = z_squared > p_squared ? sqrt(z_squared - p_squared) : 0;
    *error = r > 0 && eta / r < sqrt(eta) ? eta / r : sqrt(eta);
    return r;
}

/* Round one component to `step`; add what is lost to *lost, squared. */
static int round_component(double y, double step, int most, double *lost, int *fits)
{
    double code = rint(y / step);
    if (!(fabs(code) <= most)) {
        *fits = 0;
        code = code > 0 ? most : -most;
    }
    double off = y - code * step;
    *lost += off * off;
    return (int)code;
}

static double squared_norm(const float *x, int dimension)
{
    double sum = 0;
    for (int i = 0; i < dimension; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

/* How far a projection of z in `width` components may be off. Each component of p is a sum
** of d products whose magnitudes add up to at most |z|, of components of z that were rounded
** once, less a shift. What is too small for float32 is lost in each of them. */
static double projection_error(const basis *b, double z_squared, int width)
{
    return sqrt((double)width) * gamma_of(b->dimension + 4) *
               (sqrt(z_squared) + fmax(1, b->scale) * b->shift_norm) +
           sqrt((double)width) * b->dimension * (double)FLT_MIN;
}

/* Encode z with its projection p in `width` components: of a query in finer steps, to
** `wide`, of a row to `code`. */
static row_code encode(const basis *b, const float *z, const float *p, int width, double centre_of,
                       int8_t *code, int16_t *wide)
{
    double z_squared = squared_norm(z, b->dimension), lost = 0, rest_error, code_squared = 0;
    double step = wide ? b->step / KERNEL_FINER : b->step;
    int most = wide ? CODE_MOST * KERNEL_FINER : CODE_MOST;
    row_code result = {.fits = 1};
    double wrong = projection_error(b, z_squared, width);
    double rest = rest_norm(z_squared, p, width - 1, b->scale, wrong, &rest_error);
    for (int i = 0; i < width; i++) {
        double y = i < width - 1 ? b->scale * (double)p[i] : rest - centre_of;
        int component = round_component(y, step, most, &lost, &result.fits);
        if (wide)
            wide[i] = (int16_t)component;
        else
            code[i] = (int8_t)component;
        code_squared += (double)component * component;
    }
    result.error = sqrt(lost) * (1 + 1e-9) + sqrt(wrong * wrong + rest_error * rest_error);
    result.norm = step * sqrt(code_squared) * (1 + 1e-9);
    result.z_squared = z_squared;
    result.rest = rest;
    if (!(result.error < INFINITY))
        result.fits = 0;
    return result;
}

/* ---- the basis ---- */

int basis_sample_size(int dimension)
{
    return dimension > 1000 ? SAMPLE_OF_MANY : SAMPLE_MOST;
}

int basis_is_possible(int dimension)
{
    return dimension >= DIMENSION_LEAST;
}

basis *basis_retain(basis *b)
{
    if (b)
        atomic_fetch_add_explicit(&b->references, 1, memory_order_relaxed);
    return b;
}

void basis_release(basis *b)
{
    if (!b || atomic_fetch_sub_explicit(&b->references, 1, memory_order_acq_rel) != 1)
        return;
    if (b->pca)
        faiss_VectorTransform_free(b->pca);
    sqlite3_free(b->mean);
    sqlite3_free(b->shift);
    sqlite3_free(b);
}

static void *allocate(size_t count, size_t size)
{
    return sqlite3_malloc64((sqlite3_uint64)(count ? count : 1) * size);
}

static int find_mean(basis *b, const float *sample, int count)
{
    size_t d = (size_t)b->dimension;
    double *sums = allocate(d, sizeof *sums);
    b->mean = allocate(d, sizeof *b->mean);
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
    double *sorted = allocate((size_t)count, sizeof *sorted);
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
    double median, *distances = allocate((size_t)*count, sizeof *distances);
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
    float *unit = allocate(BLOCK * d, sizeof *unit),
          *columns = allocate(BLOCK * m, sizeof *columns);
    double *products = allocate(m * m, sizeof *products);
    int rc = unit && columns && products ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        memset(products, 0, m * m * sizeof *products);
    for (size_t begin = 0; rc == SQLITE_OK && begin < d; begin += BLOCK) {
        size_t count = d - begin < BLOCK ? d - begin : BLOCK;
        memset(unit, 0, BLOCK * d * sizeof *unit);
        for (size_t i = 0; i < count; i++)
            unit[i * d + begin + i] = 1;
        project(b, unit, (int)count, columns);
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

static void energy_add(energy *e, double z_squared, double rest)
{
    e->all += z_squared;
    e->rest += rest * rest;
    e->vectors++;
}

/* The step and the centres of the norms, from the sample's projections. */
static int find_step(basis *b, const float *z, const float *p, int count)
{
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1;
    double coarse_sum = 0, fine_sum = 0, unknown, largest = 0, coarse_low = INFINITY,
           coarse_high = 0;
    for (int i = 0; i < count; i++) {
        const float *zi = z + (size_t)i * d, *pi = p + (size_t)i * m;
        double z_squared = squared_norm(zi, b->dimension), ignored;
        for (size_t j = 0; j < m; j++)
            largest = fmax(largest, fabs((double)pi[j]) * b->scale);
        double coarse = rest_norm(z_squared, pi, b->coarse - 1, b->scale, 0, &ignored);
        double fine = rest_norm(z_squared, pi, b->fine - 1, b->scale, 0, &ignored);
        coarse_sum += coarse;
        fine_sum += fine;
        energy_add(&b->sample, z_squared, fine);
        rest_norm(z_squared, pi, b->fine - 1, b->scale, projection_error(b, z_squared, b->fine),
                  &unknown);
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
    project(b, scratch, 1, projected);
    t->query = projected;
    t->query_rest =
        rest_norm(squared_norm(scratch, b->dimension), projected, (int)m, b->scale, 0, &ignored);
}

/* The share of the sample that a basis leaves over for the nearest few of some of its
** rows, by sketches as well rounded as most. z and p are those of the sample by this basis.
** -1 without memory. */
static double share_left(const basis *b, vector_metric metric, const float *sample, const float *z,
                         const float *p, int count)
{
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1, left = 0;
    int trials = count < TRIALS ? count : TRIALS;
    double *rest = allocate((size_t)count, sizeof *rest), ignored;
    float *scratch = allocate(d + m, sizeof *scratch);
    double rounding = b->step * sqrt((double)b->fine / 12) + b->uncertain, unit = (double)b->unit;
    trial t = {.p = p, .rest = rest};
    for (int i = 0; rest && i < count; i++)
        rest[i] = rest_norm(squared_norm(z + (size_t)i * d, b->dimension), p + (size_t)i * m,
                            (int)m, b->scale, 0, &ignored);
    for (int n = 0; rest && scratch && n < trials; n++) {
        size_t query = (size_t)n * (size_t)count / (size_t)trials;
        double bound = nearest_rank(b, metric, sample, count, query) * unit * unit;
        trial_query(b, metric, sample, query, &t, scratch, scratch + d);
        if (metric == METRIC_KIND_IP)
            bound += rounding * sqrt(squared_norm(scratch, b->dimension));
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
    centre(b, sample, count, z);
    project(b, z, count, p);
    for (int i = 0; i < count; i++) {
        row_code fine =
            encode(b, z + (size_t)i * d, p + (size_t)i * m, b->fine, b->fine_centre, code, NULL);
        misfits += !fine.fits || fine.error > b->worst_error;
    }
    return misfits > count / OUTLIERS_SHARE ? 1 : share_left(b, metric, sample, z, p, count);
}

/* Find what FAISS adds to Az: the projection of zero. */
static int find_shift(basis *b)
{
    size_t m = (size_t)b->fine - 1;
    float *zero = allocate((size_t)b->dimension, sizeof *zero);
    float *shift = allocate(m, sizeof *shift);
    if (!zero || !shift) {
        sqlite3_free(zero);
        sqlite3_free(shift);
        return SQLITE_NOMEM;
    }
    memset(zero, 0, (size_t)b->dimension * sizeof *zero);
    project(b, zero, 1, shift);
    sqlite3_free(zero);
    b->shift = shift;
    b->components = (int)m;
    return SQLITE_OK;
}

static int train(basis *b, const float *sample, int count, float *z, float *p)
{
    size_t m = (size_t)b->fine - 1;
    centre(b, sample, count, z);
    int threads = segment_use_one_thread();
    int code = faiss_PCAMatrix_new_with(&b->pca, b->dimension, (int)m, 0, 0);
    if (code == 0)
        code = faiss_VectorTransform_train(b->pca, count, z);
    segment_restore_threads(threads);
    int rc = code == 0 ? find_shift(b) : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = find_scale(b);
    if (rc == SQLITE_OK)
        project(b, z, count, p);
    return rc;
}

static basis *basis_allocate(int dimension)
{
    basis *b = allocate(1, sizeof *b);
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
    basis *b = basis_allocate(dimension);
    if (!b)
        return SQLITE_NOMEM;
    size_t n = (size_t)count;
    float *z = allocate(n * (size_t)dimension, sizeof *z);
    float *p = allocate(n * (size_t)b->fine, sizeof *p);
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

/* ---- sketches ---- */

const basis *sketch_basis(const sketch *s)
{
    return s->basis;
}

int sketch_fits(const sketch *s)
{
    const energy *own = &s->energy, *sample = &s->basis->sample;
    double share = sample->all > 0 ? sample->rest / sample->all : 0;
    int held = own->rest <= own->all * (share * 1.5 + 0.05);
    return held && own->all / own->vectors * RANGE * RANGE >= sample->all / sample->vectors;
}

size_t sketch_bytes(const sketch *s)
{
    size_t outliers = s->outliers ? 1 : 0;
    return sizeof *s + (size_t)s->room * ((size_t)(s->basis->coarse + s->basis->fine) + outliers);
}

void sketch_free(sketch *s)
{
    if (!s)
        return;
    basis_release(s->basis);
    sqlite3_free(s->coarse_memory);
    sqlite3_free(s->fine_memory);
    sqlite3_free(s->outliers);
    sqlite3_free(s);
}

/* Codes of as many bytes as a cache line has, or some, should lie in no more lines than
** they must. */
static int8_t *from_cache_line(void *memory)
{
    return (int8_t *)(((uintptr_t)memory + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
}

int sketch_open(basis *b, sketch **out)
{
    sketch *s = *out = allocate(1, sizeof *s);
    if (!s)
        return SQLITE_NOMEM;
    *s = (sketch){.basis = basis_retain(b)};
    return SQLITE_OK;
}

/* Move codes, `used` bytes of them, to where there is room for `bytes`. */
static int move_codes(void **memory, int8_t **codes, size_t used, size_t bytes)
{
    void *fresh = allocate(bytes + CACHE_LINE, 1);
    if (!fresh)
        return SQLITE_NOMEM;
    int8_t *begin = from_cache_line(fresh);
    if (used)
        memcpy(begin, *codes, used);
    sqlite3_free(*memory);
    *memory = fresh;
    *codes = begin;
    return SQLITE_OK;
}

/* Give the codes room for so many rows. */
static int sketch_resize(sketch *s, size_t rows)
{
    size_t coarse = (size_t)s->basis->coarse, fine = (size_t)s->basis->fine;
    size_t used = (size_t)s->count;
    uint8_t *outliers = sqlite3_realloc64(s->outliers, rows);
    if (outliers)
        s->outliers = outliers;
    if (!outliers ||
        move_codes(&s->coarse_memory, &s->coarse, used * coarse, rows * coarse) != SQLITE_OK ||
        move_codes(&s->fine_memory, &s->fine, used * fine, rows * fine) != SQLITE_OK)
        return SQLITE_NOMEM;
    s->room = (int)rows;
    return SQLITE_OK;
}

/* Make room for more rows, doubling it on the way. */
static int sketch_reserve(sketch *s, int more)
{
    enum { ROOM_LEAST = 64 };
    size_t rows = s->room ? (size_t)s->room : ROOM_LEAST, wanted = (size_t)(s->count + more);
    if (s->room && wanted <= (size_t)s->room)
        return SQLITE_OK;
    while (rows < wanted)
        rows *= 2;
    return sketch_resize(s, rows);
}

static void bounds_merge(code_bounds *bounds, const code_bounds *other)
{
    bounds->error = fmax(bounds->error, other->error);
    bounds->norm = fmax(bounds->norm, other->norm);
}

static void bounds_add(code_bounds *bounds, const row_code *code)
{
    bounds->error = fmax(bounds->error, code->error);
    bounds->norm = fmax(bounds->norm, code->norm);
}

/* Encode row i, x, in both widths; 1 if it is an outlier. */
static int sketch_row(sketch *s, int i, const float *x, const float *z, const float *p)
{
    const basis *b = s->basis;
    row_code coarse = encode(b, z, p, b->coarse, b->coarse_centre,
                             s->coarse + (size_t)i * (size_t)b->coarse, NULL);
    row_code fine =
        encode(b, z, p, b->fine, b->fine_centre, s->fine + (size_t)i * (size_t)b->fine, NULL);
    if (!coarse.fits || !fine.fits || fine.error > b->worst_error || coarse.error > b->worst_error)
        return 1;
    bounds_add(&s->coarse_bounds, &coarse);
    bounds_add(&s->fine_bounds, &fine);
    energy_add(&s->energy, fine.z_squared, fine.rest);
    s->largest_norm = fmax(s->largest_norm, sqrt(squared_norm(x, b->dimension)) * (1 + 1e-9));
    return 0;
}

int sketch_add(sketch *s, const float *vectors, int count)
{
    enum { PIECE = 256 };
    const basis *b = s->basis;
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1;
    size_t most = count < PIECE ? (size_t)count : PIECE;
    float *z = allocate(most * d, sizeof *z), *p = allocate(most * m, sizeof *p);
    int rc = z && p ? sketch_reserve(s, count) : SQLITE_NOMEM;
    for (int begin = 0; rc == SQLITE_OK && begin < count; begin += PIECE) {
        int n = count - begin < PIECE ? count - begin : PIECE;
        centre(b, vectors + (size_t)begin * d, n, z);
        project(b, z, n, p);
        for (int i = 0; i < n; i++) {
            int row = s->count++;
            s->outliers[row] = (uint8_t)sketch_row(s, row, vectors + (size_t)(begin + i) * d,
                                                   z + (size_t)i * d, p + (size_t)i * m);
            s->outlier_count += s->outliers[row];
        }
    }
    sqlite3_free(z);
    sqlite3_free(p);
    return rc;
}

int sketch_add_outlier(sketch *s)
{
    const basis *b = s->basis;
    if (sketch_reserve(s, 1) != SQLITE_OK)
        return SQLITE_NOMEM;
    size_t row = (size_t)s->count++;
    memset(s->coarse + row * (size_t)b->coarse, 0, (size_t)b->coarse);
    memset(s->fine + row * (size_t)b->fine, 0, (size_t)b->fine);
    s->outliers[row] = 1;
    s->outlier_count++;
    return SQLITE_OK;
}

int sketch_add_row(sketch *s, const sketch *from, int slot)
{
    const basis *b = s->basis;
    size_t at = (size_t)slot, coarse = (size_t)b->coarse, fine = (size_t)b->fine;
    if (from->basis != b || (from->outliers && from->outliers[slot]))
        return sketch_add_outlier(s);
    if (sketch_reserve(s, 1) != SQLITE_OK)
        return SQLITE_NOMEM;
    size_t row = (size_t)s->count++;
    memcpy(s->coarse + row * coarse, from->coarse + at * coarse, coarse);
    memcpy(s->fine + row * fine, from->fine + at * fine, fine);
    s->outliers[row] = 0;
    bounds_merge(&s->coarse_bounds, &from->coarse_bounds);
    bounds_merge(&s->fine_bounds, &from->fine_bounds);
    s->largest_norm = fmax(s->largest_norm, from->largest_norm);
    return SQLITE_OK;
}

void sketch_close(sketch *s)
{
    if (s->count)
        sketch_resize(s, (size_t)s->count); /* what is too large still serves */
    if (s->outlier_count == 0) {
        sqlite3_free(s->outliers);
        s->outliers = NULL;
    }
}

int sketch_new(basis *b, const float *vectors, int count, sketch **out)
{
    sketch *s;
    int rc = sketch_open(b, &s);
    *out = NULL;
    if (rc == SQLITE_OK)
        rc = sketch_resize(s, (size_t)count + 1);
    if (rc == SQLITE_OK)
        rc = sketch_add(s, vectors, count);
    if (rc == SQLITE_OK && s->outlier_count <= count / OUTLIERS_SHARE) {
        sketch_close(s);
        *out = s;
    } else {
        sketch_free(s);
    }
    return rc;
}

/* ---- queries ---- */

/* The code of a query for distances. z and p are scratch. */
static void encode_for_distances(query_sketch *q, const float *query, float *z, float *p)
{
    const basis *b = q->basis;
    centre(b, query, 1, z);
    project(b, z, 1, p);
    /* A component that is cut is part of the error. */
    q->coarse_error = encode(b, z, p, b->coarse, b->coarse_centre, NULL, q->coarse).error;
    q->fine_error = encode(b, z, p, b->fine, b->fine_centre, NULL, q->fine).error;
}

/* Encode the first width - 1 components of a projection and the norm of the rest. */
static product_code encode_factors(const basis *b, double q_squared, const float *p, int width,
                                   int16_t *factors)
{
    enum { FACTOR_MOST = 32767 };
    double wrong = projection_error(b, q_squared, width), rest_error, lost = 0;
    product_code code = {.rest = rest_norm(q_squared, p, width - 1, b->scale, wrong, &rest_error)};
    double largest = code.rest;
    for (int i = 0; i < width - 1; i++)
        largest = fmax(largest, fabs(b->scale * (double)p[i]));
    code.step = largest > 0 ? largest / FACTOR_MOST : 1;
    for (int i = 0; i < width; i++) {
        double y = i < width - 1 ? b->scale * (double)p[i] : code.rest;
        factors[i] = (int16_t)fmax(-FACTOR_MOST, fmin(FACTOR_MOST, rint(y / code.step)));
        lost += (y - factors[i] * code.step) * (y - factors[i] * code.step);
    }
    code.error = sqrt(lost) * (1 + 1e-9) + sqrt(wrong * wrong + rest_error * rest_error);
    return code;
}

/* The code of a query for inner products. What the power of two takes from it below
** float32's range is part of the projection's error. */
static void encode_for_products(query_sketch *q, const float *query, float *z, float *p)
{
    const basis *b = q->basis;
    float largest = 0;
    int exponent = 0;
    double magnitudes = 0;
    for (int i = 0; i < b->dimension; i++)
        largest = fmaxf(largest, fabsf(query[i]));
    frexpf(largest, &exponent);
    q->unit = ldexp(1, -exponent);
    for (int i = 0; i < b->dimension; i++) {
        double product = (double)query[i] * (double)b->mean[i];
        z[i] = ldexpf(query[i], -exponent);
        q->mean_product += product;
        magnitudes += fabs(product);
    }
    q->mean_error = magnitudes * (b->dimension + 2) * 0x1p-52;
    project(b, z, 1, p);
    double q_squared = squared_norm(z, b->dimension);
    q->coarse_product = encode_factors(b, q_squared, p, b->coarse, q->coarse);
    q->fine_product = encode_factors(b, q_squared, p, b->fine, q->fine);
}

int query_sketch_new(const basis *b, vector_metric metric, const float *query, query_sketch **out)
{
    query_sketch *q = allocate(1, sizeof *q);
    float *z = allocate((size_t)b->dimension, sizeof *z);
    float *p = allocate((size_t)b->fine, sizeof *p);
    *out = NULL;
    if (q && z && p) {
        *q = (query_sketch){.basis = b,
                            .metric = metric,
                            .norm = sqrt(squared_norm(query, b->dimension)) * (1 + 1e-9)};
        if (metric == METRIC_KIND_IP)
            encode_for_products(q, query, z, p);
        else
            encode_for_distances(q, query, z, p);
        *out = q;
        q = NULL;
    }
    sqlite3_free(q);
    sqlite3_free(z);
    sqlite3_free(p);
    return *out ? SQLITE_OK : SQLITE_NOMEM;
}

void query_sketch_free(query_sketch *q)
{
    sqlite3_free(q);
}

int query_sketch_fits(const query_sketch *q)
{
    return q->metric == METRIC_KIND_IP || q->coarse_error < QUERY_CUT * q->basis->worst_error;
}

void sketch_distances(const sketch *s, const query_sketch *q, int32_t *distances)
{
    if (q->metric == METRIC_KIND_IP)
        kernel_products(s->coarse, s->count, s->basis->coarse, q->coarse, distances);
    else
        kernel_distances(s->coarse, s->count, s->basis->coarse, q->coarse, distances);
    for (int i = 0; s->outliers && i < s->count; i++) {
        if (s->outliers[i])
            distances[i] = SKETCH_OUTLIER;
    }
}

double sketch_bound(const sketch *s, const query_sketch *q, float score)
{
    double worst = (double)score, d = s->basis->dimension, gamma = gamma_of(d + 8);
    if (q->metric == METRIC_KIND_L2)
        return sqrt(worst * (1 + 2 * gamma) + d * (double)FLT_MIN);
    if (q->metric == METRIC_KIND_COSINE)
        return sqrt(fmax(0, 2 * (1 - worst) + 16 * gamma));
    double largest = q->norm * s->largest_norm;
    if (!(largest < (double)FLT_MAX / 4))
        return -INFINITY;
    return worst - gamma * largest - d * (double)FLT_MIN;
}

/* The greatest integer that a squared distance may be for step / KERNEL_FINER *
** sqrt(integer) to be no more than the radius and both errors. */
static int32_t limit_of_distance(const basis *b, double radius, double row_error,
                                 double query_error)
{
    double reach = (radius * (double)b->unit + row_error + query_error) * KERNEL_FINER / b->step;
    double limit = reach * reach * (1 + 1e-9) + 1;
    return limit < INT32_MAX ? (int32_t)limit : INT32_MAX;
}

/* The greatest that a negated product of codes may be where the inner product is no less
** than `least`: all in the units of the codes. */
static int32_t limit_of_product(const query_sketch *q, double least, const code_bounds *rows,
                                const product_code *code, double centre_of)
{
    const basis *b = q->basis;
    double units = (double)b->unit * q->unit;
    double norm = q->norm * q->unit * (1 + 1e-9) + code->error;
    double wanted = (least - q->mean_product - q->mean_error - fabs(least) * 1e-14) * units -
                    (code->rest + code->error) * centre_of - norm * rows->error -
                    code->error * rows->norm;
    double limit = -wanted / (code->step * b->step);
    limit += fabs(limit) * 1e-9 + 1;
    return limit < INT32_MAX ? (limit > -INT32_MAX ? (int32_t)limit : -INT32_MAX) : INT32_MAX;
}

int32_t sketch_limit(const sketch *s, const query_sketch *q, double bound)
{
    const basis *b = s->basis;
    if (!isfinite(bound))
        return INT32_MAX;
    if (q->metric == METRIC_KIND_IP)
        return limit_of_product(q, bound, &s->coarse_bounds, &q->coarse_product, b->coarse_centre);
    return limit_of_distance(b, bound, s->coarse_bounds.error, q->coarse_error);
}

int sketch_refine(const sketch *s, const query_sketch *q, double bound, int64_t *slots, int count)
{
    const basis *b = s->basis;
    if (!isfinite(bound))
        return count;
    if (q->metric == METRIC_KIND_IP) {
        int32_t least =
            limit_of_product(q, bound, &s->fine_bounds, &q->fine_product, b->fine_centre);
        return kernel_keep_products(s->fine, b->fine, q->fine, least, s->outliers, slots, count);
    }
    int32_t limit = limit_of_distance(b, bound, s->fine_bounds.error, q->fine_error);
    return kernel_keep_within(s->fine, b->fine, q->fine, limit, s->outliers, slots, count);
}
