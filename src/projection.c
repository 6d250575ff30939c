#include "projection.h"

#include <math.h>
#include <string.h>

#include <c_api/VectorTransform_c.h>

#include "faiss_call.h"
#include "message.h"

enum {
    SAMPLE_MOST = 8192,
    SAMPLE_OF_DIMENSION = 1000, /* rows for each dimension: FAISS itself takes no more */
    MANY_DIMENSIONS = 1000,     /* from here on, … */
    SAMPLE_OF_MANY = 960,       /* … a sample with fewer rows than dimensions */
    BLOCK = 256                 /* vectors of unit length whose images make the axes' components */
};
/* A direction of which less than this is left beside the former ones is none. */
static const double LEFT_LEAST = 0.01;

struct projection {
    int from, to; /* dimensions */
    int exponent; /* vectors are scaled by 2^exponent, so that squares stay in range */
    float *mean;  /* of the scaled sample */
    float *axes;  /* `to` rows, of length 1 or 0 */
};

void projection_free(projection *p)
{
    if (!p)
        return;
    sqlite3_free(p->mean);
    sqlite3_free(p->axes);
    sqlite3_free(p);
}

/* ---- reading ---- */

/* Read `count` rows of `span` from `first` on, at even distances, scaled and centred. */
static int read_rows(const projection *p, const index_version *v, const vector_reader *reader,
                     int64_t first, int64_t span, int count, float *x, char **message)
{
    size_t d = (size_t)p->from;
    for (int i = 0; i < count; i++) {
        int which, slot;
        index_locate(v, first + i * span / count, &which, &slot);
        int64_t one = slot;
        int rc = segment_read(v->segments[which], reader, &one, 1, x + (size_t)i * d, message);
        if (rc == SQLITE_OK && reader->check && i % BLOCK == 0)
            rc = reader->check(reader->argument, message);
        if (rc != SQLITE_OK)
            return rc;
    }
    for (int i = 0; i < count; i++) {
        for (size_t j = 0; j < d; j++) {
            float *component = &x[(size_t)i * d + j];
            *component = ldexpf(*component, p->exponent) - p->mean[j];
        }
    }
    return SQLITE_OK;
}

/* ---- the axes ---- */

/* Scale the sample, and take its mean out of it. */
static void centre(projection *p, float *sample, int count)
{
    size_t d = (size_t)p->from, n = (size_t)count;
    float largest = 0;
    for (size_t i = 0; i < n * d; i++)
        largest = fabsf(sample[i]) > largest ? fabsf(sample[i]) : largest;
    if (largest > 0) {
        frexpf(largest, &p->exponent);
        p->exponent = -p->exponent;
    }
    for (size_t j = 0; j < d; j++) {
        double sum = 0;
        for (size_t i = 0; i < n; i++) {
            sample[i * d + j] = ldexpf(sample[i * d + j], p->exponent);
            sum += sample[i * d + j];
        }
        p->mean[j] = (float)(sum / (double)n);
        for (size_t i = 0; i < n; i++)
            sample[i * d + j] -= p->mean[j];
    }
}

/* Read the matrix out of the transformation: the images of the unit vectors, less that of
** zero. */
static int read_axes(projection *p, const FaissVectorTransform *pca)
{
    size_t d = (size_t)p->from, m = (size_t)p->to;
    float *unit = sqlite3_malloc64((BLOCK + 1) * d * sizeof *unit);
    float *image = sqlite3_malloc64((BLOCK + 1) * m * sizeof *image);
    for (size_t first = 0; unit && image && first < d; first += BLOCK) {
        size_t count = d - first < BLOCK ? d - first : BLOCK;
        memset(unit, 0, (count + 1) * d * sizeof *unit);
        for (size_t i = 0; i < count; i++)
            unit[(i + 1) * d + first + i] = 1;
        faiss_VectorTransform_apply_noalloc(pca, (idx_t)count + 1, unit, image);
        for (size_t i = 0; i < count; i++) {
            for (size_t j = 0; j < m; j++)
                p->axes[j * d + first + i] = image[(i + 1) * m + j] - image[j];
        }
    }
    int rc = unit && image ? SQLITE_OK : SQLITE_NOMEM;
    sqlite3_free(unit);
    sqlite3_free(image);
    return rc;
}

static double product(const float *a, const float *b, size_t d)
{
    double sum = 0;
    for (size_t i = 0; i < d; i++)
        sum += (double)a[i] * (double)b[i];
    return sum;
}

/* Make the axis orthogonal to the former ones (they are but for rounding, or it is noise where
** the rows have no further direction), of length 1, and of a definite sign. */
static void straighten(projection *p, int which)
{
    size_t d = (size_t)p->from, largest = 0;
    float *axis = p->axes + (size_t)which * d;
    double before = product(axis, axis, d);
    for (int former = 0; former < which; former++) {
        const float *other = p->axes + (size_t)former * d;
        double along = product(axis, other, d);
        for (size_t i = 0; i < d; i++)
            axis[i] -= (float)(along * (double)other[i]);
    }
    double length = sqrt(product(axis, axis, d));
    for (size_t i = 0; i < d; i++) {
        if (fabsf(axis[i]) > fabsf(axis[largest]))
            largest = i;
    }
    double scale = length > LEFT_LEAST * sqrt(before) && isfinite(length) ? 1 / length : 0;
    if (axis[largest] < 0)
        scale = -scale;
    for (size_t i = 0; i < d; i++)
        axis[i] = scale == 0 ? 0 : (float)(scale * (double)axis[i]);
}

static int train(projection *p, const float *sample, int count, char **message)
{
    FaissPCAMatrix *pca = NULL;
    int threads = faiss_call_use_one_thread();
    int code = faiss_PCAMatrix_new_with(&pca, p->from, p->to, 0, 0);
    if (code == 0)
        code = faiss_VectorTransform_train(pca, count, sample);
    int rc = code == 0 ? read_axes(p, pca) : faiss_call_failure(code, message);
    faiss_call_restore_threads(threads);
    faiss_VectorTransform_free(pca);
    for (int i = 0; rc == SQLITE_OK && i < p->to; i++)
        straighten(p, i);
    return rc;
}

/* Rows of the sample, once or, where they are fewer than the axes, several times all: FAISS wants
** as many, and the components stay the same. */
static int find_axes(projection *p, const index_version *v, const vector_reader *reader,
                     char **message)
{
    size_t d = (size_t)p->from;
    int most = p->from > MANY_DIMENSIONS ? SAMPLE_OF_MANY : SAMPLE_MOST;
    if (p->from < SAMPLE_MOST / SAMPLE_OF_DIMENSION)
        most = p->from * SAMPLE_OF_DIMENSION;
    int count = v->rows < most ? (int)v->rows : most;
    int times = (p->to + count - 1) / count;
    float *sample = sqlite3_malloc64((size_t)times * (size_t)count * d * sizeof *sample);
    if (!sample)
        return SQLITE_NOMEM;
    int rc = read_rows(p, v, reader, 0, v->rows, count, sample, message);
    if (rc == SQLITE_OK) {
        centre(p, sample, count);
        for (int i = 1; i < times; i++)
            memcpy(sample + (size_t)i * (size_t)count * d, sample,
                   (size_t)count * d * sizeof *sample);
        rc = train(p, sample, times * count, message);
    }
    sqlite3_free(sample);
    return rc;
}

int projection_new(const index_version *v, const vector_reader *reader, int dimensions,
                   projection **out, char **message)
{
    size_t d = (size_t)v->dimension, m = (size_t)dimensions;
    projection *p = sqlite3_malloc64(sizeof *p);
    *out = NULL;
    if (!p)
        return SQLITE_NOMEM;
    *p = (projection){.from = v->dimension,
                      .to = dimensions,
                      .mean = sqlite3_malloc64(d * sizeof *p->mean),
                      .axes = sqlite3_malloc64(d * m * sizeof *p->axes)};
    if (p->mean)
        memset(p->mean, 0, d * sizeof *p->mean);
    int rc = p->mean && p->axes ? find_axes(p, v, reader, message) : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        *out = p;
    else
        projection_free(p);
    return rc;
}

int projection_rows(const projection *p, const index_version *v, const vector_reader *reader,
                    int64_t first, int count, float *coordinates, char **message)
{
    size_t d = (size_t)p->from, m = (size_t)p->to;
    float *x = sqlite3_malloc64((size_t)count * d * sizeof *x);
    if (!x)
        return SQLITE_NOMEM;
    int rc = read_rows(p, v, reader, first, count, count, x, message);
    for (size_t i = 0; rc == SQLITE_OK && i < (size_t)count; i++) {
        for (size_t j = 0; j < m; j++)
            coordinates[i * m + j] =
                (float)ldexp(product(x + i * d, p->axes + j * d, d), -p->exponent);
    }
    sqlite3_free(x);
    return rc;
}
