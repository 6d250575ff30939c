#include "exact.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernel.h"

enum {
    CACHE_LINE = 64,
    RANGE = 4,    /* vectors shorter than a 4th of the sample's want a finer step */
    QUERY_CUT = 4 /* times the worst error of rows: of a query, too much is cut */
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
    sketch *s = *out = basis_room(1, sizeof *s);
    if (!s)
        return SQLITE_NOMEM;
    *s = (sketch){.basis = basis_retain(b)};
    return SQLITE_OK;
}

/* Move codes, `used` bytes of them, to where there is room for `bytes`. */
static int move_codes(void **memory, int8_t **codes, size_t used, size_t bytes)
{
    void *fresh = basis_room(bytes + CACHE_LINE, 1);
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
    row_code coarse = basis_encode(b, z, p, b->coarse, b->coarse_centre,
                                   s->coarse + (size_t)i * (size_t)b->coarse, NULL);
    row_code fine =
        basis_encode(b, z, p, b->fine, b->fine_centre, s->fine + (size_t)i * (size_t)b->fine, NULL);
    if (!coarse.fits || !fine.fits || fine.error > b->worst_error || coarse.error > b->worst_error)
        return 1;
    bounds_add(&s->coarse_bounds, &coarse);
    bounds_add(&s->fine_bounds, &fine);
    energy_add(&s->energy, fine.z_squared, fine.rest);
    s->largest_norm = fmax(s->largest_norm, sqrt(basis_squared_norm(x, b->dimension)) * (1 + 1e-9));
    return 0;
}

int sketch_add(sketch *s, const float *vectors, int count)
{
    enum { PIECE = 256 };
    const basis *b = s->basis;
    size_t d = (size_t)b->dimension, m = (size_t)b->fine - 1;
    size_t most = count < PIECE ? (size_t)count : PIECE;
    float *z = basis_room(most * d, sizeof *z), *p = basis_room(most * m, sizeof *p);
    int rc = z && p ? sketch_reserve(s, count) : SQLITE_NOMEM;
    for (int begin = 0; rc == SQLITE_OK && begin < count; begin += PIECE) {
        int n = count - begin < PIECE ? count - begin : PIECE;
        basis_centre(b, vectors + (size_t)begin * d, n, z);
        basis_project(b, z, n, p);
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
    basis_centre(b, query, 1, z);
    basis_project(b, z, 1, p);
    /* A component that is cut is part of the error. */
    q->coarse_error = basis_encode(b, z, p, b->coarse, b->coarse_centre, NULL, q->coarse).error;
    q->fine_error = basis_encode(b, z, p, b->fine, b->fine_centre, NULL, q->fine).error;
}

/* Encode the first width - 1 components of a projection and the norm of the rest. */
static product_code encode_factors(const basis *b, double q_squared, const float *p, int width,
                                   int16_t *factors)
{
    enum { FACTOR_MOST = 32767 };
    double wrong = basis_projection_error(b, q_squared, width), rest_error, lost = 0;
    product_code code = {
        .rest = basis_rest_norm(q_squared, p, width - 1, b->scale, wrong, &rest_error)};
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
    basis_project(b, z, 1, p);
    double q_squared = basis_squared_norm(z, b->dimension);
    q->coarse_product = encode_factors(b, q_squared, p, b->coarse, q->coarse);
    q->fine_product = encode_factors(b, q_squared, p, b->fine, q->fine);
}

int query_sketch_new(const basis *b, vector_metric metric, const float *query, query_sketch **out)
{
    query_sketch *q = basis_room(1, sizeof *q);
    float *z = basis_room((size_t)b->dimension, sizeof *z);
    float *p = basis_room((size_t)b->fine, sizeof *p);
    *out = NULL;
    if (q && z && p) {
        *q = (query_sketch){.basis = b,
                            .metric = metric,
                            .norm = sqrt(basis_squared_norm(query, b->dimension)) * (1 + 1e-9)};
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

double sketch_row_bound(const sketch *s, vector_metric metric, float score)
{
    double worst = (double)score, d = s->basis->dimension, gamma = basis_gamma(d + 8);
    if (metric == METRIC_KIND_L2)
        return sqrt(worst * (1 + 2 * gamma) + d * (double)FLT_MIN);
    return sqrt(fmax(0, 2 * (1 - worst) + 16 * gamma));
}

double sketch_bound(const sketch *s, const query_sketch *q, float score)
{
    double worst = (double)score, d = s->basis->dimension, gamma = basis_gamma(d + 8);
    if (q->metric != METRIC_KIND_IP)
        return sketch_row_bound(s, q->metric, score);
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

/* ---- rows as queries ---- */

const int8_t *sketch_fine_codes(const sketch *s)
{
    return s->fine;
}

int sketch_fine_width(const sketch *s)
{
    return s->basis->fine;
}

const uint8_t *sketch_outliers(const sketch *s)
{
    return s->outliers;
}

int32_t sketch_pair_limit(const sketch *s, const sketch *from, double bound)
{
    if (!isfinite(bound))
        return INT32_MAX;
    return limit_of_distance(s->basis, bound, s->fine_bounds.error, from->fine_bounds.error);
}
