#include "basis.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <c_api/VectorTransform_c.h>

#include "basis_trial.h"
#include "faiss_call.h"
#include "faiss_shim.h"
#include "rounding.h"

enum {
    DIMENSION_LEAST = 96, /* below, reading the vectors is as fast */
    SAMPLE_MOST = 2048,
    SAMPLE_OF_MANY = 800, /* rows, where the dimension is above 1,000: FAISS then
                              ** decomposes a matrix of rows by rows */
    LINE_DIMENSION = 256, /* below, lines are half as long */
    LINES_LEAST = 2,
    FAR = 10 /* times the median from the mean: no part of the sample */
};

/* Codes take at most so many bytes for each component of a vector: a sixth or so of its memory. */
static const double CODE_SHARE = 0.75;

/* A basis that costs so many times as much as a new one stays. */
static const double NEARLY_AS_GOOD = 1.5;

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

static int line_of(int dimension)
{
    return dimension < LINE_DIMENSION ? LINE_MOST / 2 : LINE_MOST;
}

static int lines_most(int dimension)
{
    int lines = (int)(dimension * CODE_SHARE) / line_of(dimension);
    return lines < LINES_LEAST ? LINES_LEAST : lines > LINES_MOST ? LINES_MOST : lines;
}

int basis_code_most(int dimension)
{
    return line_of(dimension) * lines_most(dimension);
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

/* Of squared distances from the mean; one that is not a number is far, too. */
static int is_far(double distance, double median)
{
    return !(distance <= FAR * FAR * median);
}

/* Take the rows out of the sample that are far from its mean; returns how many are left. */
static int leave_far_out(const basis *b, float *sample, int count, const double *distances,
                         double median)
{
    size_t d = (size_t)b->dimension;
    int kept = 0;
    for (int i = 0; i < count; i++) {
        if (is_far(distances[i], median))
            continue;
        memmove(sample + (size_t)kept * d, sample + (size_t)i * d, d * sizeof *sample);
        kept++;
    }
    return kept;
}

static int count_far(const double *distances, int count, double median)
{
    int far = 0;
    for (int i = 0; i < count; i++)
        far += is_far(distances[i], median);
    return far;
}

/* Find the mean and the unit of the sample, without the rows that are far from it: a few
** of these would leave nothing to tell the others apart by. They hide others that are less far,
** which only show once they are gone; but where rows are of all sizes there is no end to that, and
** beyond the first time no more are left out than a sketch may have outliers. *count is what is
** left. */
static int find_centre(basis *b, float *sample, int *count)
{
    double median = 0, *distances = basis_room((size_t)*count, sizeof *distances);
    int rc = distances ? SQLITE_OK : SQLITE_NOMEM, most = *count, left_out = 0, far = 0;
    do {
        if (far)
            *count = leave_far_out(b, sample, *count, distances, median);
        left_out += far;
        sqlite3_free(b->mean);
        b->mean = NULL;
        if (rc == SQLITE_OK && *count > 0)
            rc = find_mean(b, sample, *count);
        if (rc == SQLITE_OK && *count > 0)
            rc = measure(b, sample, *count, distances, &median);
        far = rc == SQLITE_OK && *count > 0 ? count_far(distances, *count, median) : 0;
    } while (far > 0 && (left_out == 0 || left_out + far <= most / OUTLIERS_SHARE));
    sqlite3_free(distances);
    int exponent = 0;
    frexp(rc == SQLITE_OK ? sqrt(median) : 0, &exponent);
    b->unit = rc == SQLITE_OK && median > 0 && median < INFINITY ? ldexpf(1, -exponent) : 0;
    return rc;
}

/* Some columns at a time, add up the lower half of AAᵀ. `columns` is room for them. */
static void add_products(const float *a, size_t d, size_t m, double *products, float *columns)
{
    for (size_t first = 0; first < d; first += ROUND_COLUMNS) {
        for (size_t j = 0; j < m; j++) {
            for (size_t i = 0; i < ROUND_COLUMNS; i++)
                columns[i * m + j] = first + i < d ? a[j * d + first + i] : 0;
        }
        for (size_t j = 0; j < m; j++) {
            double factors[ROUND_COLUMNS];
            for (size_t i = 0; i < ROUND_COLUMNS; i++)
                factors[i] = (double)columns[i * m + j];
            round_add(columns, (int)m, factors, (int)j + 1, products + j * m);
        }
    }
}

/* The largest row sum of magnitudes of the first components of AAᵀ, as many of them as are
** nearly orthogonal: of m at first, *components in the end. Where the sample has fewer
** dimensions than components, what FAISS gives beyond is rounding, and may be anything. */
static double largest_row_sum(const double *products, size_t m, int *components)
{
    double largest = 0, sums[LINE_MOST * LINES_MOST] = {0};
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

/* Scale the matrix so that its spectral norm is at most 1. |A|² is at most the
** largest sum of magnitudes in a row of AAᵀ. */
static int find_scale(basis *b, int *known)
{
    size_t d = (size_t)b->dimension, m = (size_t)b->width;
    float *columns = basis_room(ROUND_COLUMNS * m, sizeof *columns);
    double *products = basis_room(m * m, sizeof *products);
    int rc = columns && products ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        memset(products, 0, m * m * sizeof *products);
        add_products(faiss_shim_matrix(b->pca), d, m, products, columns);
        double largest = largest_row_sum(products, m, known);
        b->scale = 1 / (sqrt(largest) * (1 + 1e-9));
        if (!(b->scale > 0 && b->scale < INFINITY))
            b->scale = 0;
    }
    sqlite3_free(columns);
    sqlite3_free(products);
    return rc;
}

/* What a row of the sample is, measured by the norms of the rest of every line. */
static void measure_rests(basis *b, double z_squared, const float *p, double *sums,
                          double *coarsest, double *largest)
{
    double squares = 0, unknown;
    for (int line = 0, i = 0; line < b->lines; line++) {
        for (; i < basis_reach(b, line); i++) {
            double y = b->scale * (double)p[i];
            squares += y * y;
            *largest = fmax(*largest, fabs(y));
        }
        double wrong = basis_projection_error(b, z_squared, i + 1);
        double rest = basis_rest_norm(z_squared, squares, wrong, &unknown);
        sums[line] += rest;
        if (line == 0)
            *coarsest = rest;
        if (line < b->lines - 1)
            continue;
        energy_add(&b->sample, z_squared, *coarsest, rest);
        b->uncertain = fmax(b->uncertain, unknown);
    }
}

/* The step and the centres of the norms, from the sample's projections and squared norms. */
static int find_step(basis *b, const double *z_squared, const float *p, int count)
{
    double sums[LINES_MOST] = {0}, largest = 0, low = INFINITY, high = 0, coarsest = 0;
    b->sample = (energy){0};
    b->uncertain = 0;
    for (int i = 0; i < count; i++) {
        measure_rests(b, z_squared[i], p + (size_t)i * (size_t)b->width, sums, &coarsest, &largest);
        low = fmin(low, coarsest);
        high = fmax(high, coarsest);
    }
    for (int line = 0; line < b->lines; line++)
        b->centres[line] = sums[line] / count;
    largest = fmax(largest, fmax(high - b->centres[0], b->centres[0] - low));
    b->step = largest * 1.05 / CODE_MOST;
    /* Rounded evenly, an error is step * sqrt(components / 12) or so. Where the components leave
    ** nothing, it is more that the norm of the rest is not known any better. */
    b->worst_error = b->step * sqrt(b->width + 1) * 0.75 + b->uncertain * 1.5;
    return b->step > FLT_MIN && b->step < FLT_MAX;
}

/* ---- fitting ---- */

/* Centre the sample and project it. */
static void project_sample(const basis *b, const float *sample, int count, float *z,
                           double *z_squared, float *p)
{
    size_t d = (size_t)b->dimension;
    for (size_t i = 0; i < (size_t)count; i++)
        z_squared[i] = basis_centre(b, sample + i * d, z + i * d);
    basis_project(b, z, count, p);
}

/* z is the centred sample. */
static int train(basis *b, const float *z, int count)
{
    int threads = faiss_call_use_one_thread();
    int code = faiss_PCAMatrix_new_with(&b->pca, b->dimension, b->width, 0, 0);
    if (code == 0)
        code = faiss_shim_train(b->pca, count, z);
    faiss_call_restore_threads(threads);
    int known = b->width, rc = code == 0 ? find_scale(b, &known) : SQLITE_NOMEM;
    if (rc == SQLITE_OK && faiss_shim_shorten(b->pca, b->width, known) != 0)
        rc = SQLITE_NOMEM;
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
    b->line = line_of(dimension);
    b->lines = lines_most(dimension);
    b->width = basis_reach(b, b->lines - 1);
    return b;
}

/* The sample, and room for what a basis makes of it. */
typedef struct fitting {
    vector_metric metric;
    const float *sample;
    int count;
    const basis_trials *trials;
    float *z, *p;
    double *z_squared;
} fitting;

/* Try a basis. */
static int try_basis(const basis *b, const fitting *f, trial_result *result)
{
    trial_sample sample = {f->sample, f->count, f->p, f->z_squared};
    return trial_cost(b, f->metric, &sample, f->trials, result);
}

/* Try one that was made before, whose codes the sample may not fit. */
static int try_former(const basis *b, const fitting *f, double *cost)
{
    int8_t code[LINE_MOST * LINES_MOST];
    trial_result result;
    int misfits = 0;
    project_sample(b, f->sample, f->count, f->z, f->z_squared, f->p);
    for (int i = 0; i < f->count; i++) {
        row_code row =
            basis_encode(b, f->z_squared[i], f->p + (size_t)i * (size_t)b->width, code, NULL);
        misfits += !row.fits || row.lines[b->lines - 1].error > b->worst_error;
    }
    *cost = INFINITY;
    if (misfits > f->count / OUTLIERS_SHARE)
        return SQLITE_OK;
    int rc = try_basis(b, f, &result);
    *cost = result.cost;
    return rc;
}

/* Keep so many lines of a basis alone. */
static int shorten(basis *b, const fitting *f, int lines)
{
    size_t width = (size_t)b->width;
    b->lines = lines;
    b->width = basis_reach(b, lines - 1);
    for (size_t i = 0; i < (size_t)f->count; i++)
        memmove(f->p + i * (size_t)b->width, f->p + i * width, (size_t)b->width * sizeof *f->p);
    find_step(b, f->z_squared, f->p, f->count);
    return faiss_shim_shorten(b->pca, b->width, b->width) == 0 ? SQLITE_OK : SQLITE_NOMEM;
}

/* Fit a new basis to the sample; *cost is below 1 where it is of use. */
static int fit(basis *b, const fitting *f, double *cost)
{
    trial_result result;
    *cost = INFINITY;
    if (f->count < BASIS_SAMPLE_LEAST || !(b->unit > 0 && b->unit < INFINITY))
        return SQLITE_OK;
    for (size_t i = 0; i < (size_t)f->count; i++)
        basis_centre(b, f->sample + i * (size_t)b->dimension, f->z + i * (size_t)b->dimension);
    int rc = train(b, f->z, f->count);
    if (rc != SQLITE_OK || !(b->scale > 0))
        return rc;
    project_sample(b, f->sample, f->count, f->z, f->z_squared, f->p);
    if (!find_step(b, f->z_squared, f->p, f->count))
        return SQLITE_OK;
    rc = try_basis(b, f, &result);
    *cost = result.cost;
    b->most_share = result.most_share;
    if (rc == SQLITE_OK && result.lines < b->lines)
        rc = shorten(b, f, result.lines);
    return rc;
}

static int fitting_open(fitting *f, int width, int dimension)
{
    size_t n = (size_t)f->count;
    f->z = basis_room(n * (size_t)dimension, sizeof *f->z);
    f->p = basis_room(n * (size_t)width, sizeof *f->p);
    f->z_squared = basis_room(n, sizeof *f->z_squared);
    return f->z && f->p && f->z_squared ? SQLITE_OK : SQLITE_NOMEM;
}

static void fitting_close(fitting *f)
{
    sqlite3_free(f->z);
    sqlite3_free(f->p);
    sqlite3_free(f->z_squared);
}

int basis_new(vector_metric metric, float *sample, int count, int dimension,
              const basis_trials *trials, basis *former, basis **out)
{
    *out = NULL;
    if (!basis_is_possible(dimension))
        return SQLITE_OK;
    basis *b = basis_open(dimension);
    if (!b)
        return SQLITE_NOMEM;
    fitting f = {.metric = metric, .sample = sample, .count = count, .trials = trials};
    double cost = INFINITY, cost_of_former = INFINITY;
    int rc = fitting_open(&f, b->width, dimension);
    if (rc == SQLITE_OK)
        rc = find_centre(b, sample, &f.count);
    if (rc == SQLITE_OK)
        rc = fit(b, &f, &cost);
    if (rc == SQLITE_OK && former && f.count >= BASIS_SAMPLE_LEAST)
        rc = try_former(former, &f, &cost_of_former);
    fitting_close(&f);
    if (rc == SQLITE_OK && cost_of_former < 1 && cost_of_former <= NEARLY_AS_GOOD * cost)
        *out = basis_retain(former);
    else if (rc == SQLITE_OK && cost < 1)
        *out = basis_retain(b);
    basis_release(b);
    return rc;
}
