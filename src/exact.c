#include "exact.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernel.h"
#include "rounding.h"

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
    code_bounds bounds[LINES_MOST]; /* of a line and those before it */
    double largest_norm;            /* of the vectors that are no outliers, at least */
    double farthest;                /* the largest norm of z of these */
    energy energy;                  /* of these */
    int8_t *codes[LINES_MOST];      /* each line of all rows, from the start of a cache line */
    void *memory[LINES_MOST];
    uint8_t *outliers; /* 1 for each that is; NULL for none */
};

/* What a line of a query's code and those before it say. */
typedef struct query_line {
    double error; /* of step * code */
    double rest;  /* for inner products: the norm of the rest */
} query_line;

struct query_sketch {
    const basis *basis;
    vector_metric metric;
    double norm;   /* of the query */
    double z_norm; /* for distances: of z */
    /* for inner products: with the query times `unit`, a power of two */
    double unit, step;
    double mean_product; /* <mean, query> */
    double mean_error;
    /* for either */
    query_line lines[LINES_MOST];
    int16_t code[LINES_MOST * LINE_MOST]; /* as basis_encode() has it */
};

/* ---- sketches ---- */

const basis *sketch_basis(const sketch *s)
{
    return s->basis;
}

int sketch_has_outliers(const sketch *s)
{
    return s->outlier_count > 0;
}

/* What is left of them, as a share of what there is. */
static double share_of(double left, const energy *of)
{
    return of->all > 0 ? left / of->all : 0;
}

int sketch_fits(const sketch *s)
{
    const energy *own = &s->energy, *sample = &s->basis->sample;
    const double as_well = 2.0 / 3; /* as the sample, by the first line */
    double held = 1 - share_of(sample->rest_of_first, sample);
    return own->vectors && own->rest <= own->all * (share_of(sample->rest, sample) * 1.5 + 0.05) &&
           share_of(own->rest_of_first, own) <= 1 - as_well * held &&
           own->all / own->vectors * RANGE * RANGE >= sample->all / sample->vectors;
}

double sketch_misfit(const sketch *s)
{
    const energy *own = &s->energy;
    return sketch_fits(s) ? share_of(own->rest_of_first, own) + share_of(own->rest, own) : INFINITY;
}

size_t sketch_bytes(const sketch *s)
{
    size_t outliers = s->outliers ? 1 : 0;
    return sizeof *s + (size_t)s->room * ((size_t)(s->basis->line * s->basis->lines) + outliers);
}

void sketch_free(sketch *s)
{
    if (!s)
        return;
    basis_release(s->basis);
    for (int line = 0; line < LINES_MOST; line++)
        sqlite3_free(s->memory[line]);
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
    size_t width = (size_t)s->basis->line, used = (size_t)s->count * width;
    uint8_t *outliers = sqlite3_realloc64(s->outliers, rows);
    if (!outliers)
        return SQLITE_NOMEM;
    s->outliers = outliers;
    for (int line = 0; line < s->basis->lines; line++) {
        if (move_codes(&s->memory[line], &s->codes[line], used, rows * width) != SQLITE_OK)
            return SQLITE_NOMEM;
    }
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

static void bounds_add(code_bounds *bounds, double error, double norm)
{
    bounds->error = fmax(bounds->error, error);
    bounds->norm = fmax(bounds->norm, norm);
}

/* Where a line of a row's code stands. */
static int8_t *code_at(const sketch *s, int line, size_t row)
{
    return s->codes[line] + row * (size_t)s->basis->line;
}

/* Encode row i, x; 1 if it is an outlier. */
static int sketch_row(sketch *s, int i, const float *x, double z_squared, const float *p)
{
    const basis *b = s->basis;
    int8_t code[LINES_MOST * LINE_MOST];
    row_code row = basis_encode(b, z_squared, p, code, NULL);
    int fits = row.fits;
    for (int line = 0; line < b->lines; line++) {
        memcpy(code_at(s, line, (size_t)i), code + line * b->line, (size_t)b->line);
        fits &= row.lines[line].error <= b->worst_error;
    }
    if (!fits)
        return 1;
    for (int line = 0; line < b->lines; line++)
        bounds_add(&s->bounds[line], row.lines[line].error, row.lines[line].norm);
    energy_add(&s->energy, row.z_squared, row.rest_of_first, row.rest);
    s->farthest = fmax(s->farthest, sqrt(z_squared) * (1 + 1e-9));
    s->largest_norm = fmax(s->largest_norm, round_norm(x, b->dimension));
    return 0;
}

int sketch_add(sketch *s, const float *vectors, int count)
{
    enum { PIECE = 256 };
    const basis *b = s->basis;
    size_t d = (size_t)b->dimension, m = (size_t)b->width;
    size_t most = count < PIECE ? (size_t)count : PIECE;
    float *z = basis_room(most * d, sizeof *z), *p = basis_room(most * m, sizeof *p);
    double z_squared[PIECE];
    int rc = z && p ? sketch_reserve(s, count) : SQLITE_NOMEM;
    for (int begin = 0; rc == SQLITE_OK && begin < count; begin += PIECE) {
        int n = count - begin < PIECE ? count - begin : PIECE;
        const float *x = vectors + (size_t)begin * d;
        for (size_t i = 0; i < (size_t)n; i++)
            z_squared[i] = basis_centre(b, x + i * d, z + i * d);
        basis_project(b, z, n, p);
        for (size_t i = 0; i < (size_t)n; i++) {
            int row = s->count++;
            s->outliers[row] = (uint8_t)sketch_row(s, row, x + i * d, z_squared[i], p + i * m);
            s->outlier_count += s->outliers[row];
        }
    }
    sqlite3_free(z);
    sqlite3_free(p);
    return rc;
}

int sketch_add_outlier(sketch *s)
{
    if (sketch_reserve(s, 1) != SQLITE_OK)
        return SQLITE_NOMEM;
    size_t row = (size_t)s->count++;
    for (int line = 0; line < s->basis->lines; line++)
        memset(code_at(s, line, row), 0, (size_t)s->basis->line);
    s->outliers[row] = 1;
    s->outlier_count++;
    return SQLITE_OK;
}

/* Append rows of another sketch of the same basis, for which there is room, all as if they were no
** outliers. */
static void append_codes(sketch *s, const sketch *from, int first, int count)
{
    const basis *b = s->basis;
    for (int line = 0; line < b->lines; line++) {
        memcpy(code_at(s, line, (size_t)s->count), code_at(from, line, (size_t)first),
               (size_t)count * (size_t)b->line);
        bounds_add(&s->bounds[line], from->bounds[line].error, from->bounds[line].norm);
    }
    memset(s->outliers + s->count, 0, (size_t)count);
    s->count += count;
    s->farthest = fmax(s->farthest, from->farthest);
    s->largest_norm = fmax(s->largest_norm, from->largest_norm);
}

int sketch_add_row(sketch *s, const sketch *from, int slot)
{
    if (from->basis != s->basis || (from->outliers && from->outliers[slot]))
        return sketch_add_outlier(s);
    if (sketch_reserve(s, 1) != SQLITE_OK)
        return SQLITE_NOMEM;
    append_codes(s, from, slot, 1);
    return SQLITE_OK;
}

/* Append a part whose rows there is room for. */
static int join(sketch *s, const sketch *part, int rows)
{
    int rc = SQLITE_OK, begin = s->count;
    if (!part || part->basis != s->basis) {
        for (int i = 0; rc == SQLITE_OK && i < rows; i++)
            rc = sketch_add_outlier(s);
        return rc;
    }
    append_codes(s, part, 0, rows);
    if (part->outliers)
        memcpy(s->outliers + begin, part->outliers, (size_t)rows);
    s->outlier_count += part->outlier_count;
    return SQLITE_OK;
}

int sketch_join(const sketch *const *parts, const int *rows, int count, sketch **out)
{
    const sketch *first = NULL;
    sketch *s = NULL;
    size_t all = 0;
    for (int i = 0; i < count; i++) {
        first = first ? first : parts[i];
        all += (size_t)rows[i];
    }
    *out = NULL;
    if (!first)
        return SQLITE_OK;
    int rc = sketch_open(first->basis, &s);
    if (rc == SQLITE_OK)
        rc = sketch_resize(s, all);
    for (int i = 0; rc == SQLITE_OK && i < count; i++)
        rc = join(s, parts[i], rows[i]);
    if (rc == SQLITE_OK)
        sketch_close(s);
    if (rc == SQLITE_OK)
        *out = s;
    else
        sketch_free(s);
    return rc;
}

void sketch_close(sketch *s)
{
    if (s->count && s->count < s->room)
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
        rc = sketch_resize(s, (size_t)count);
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
    double z_squared = basis_centre(b, query, z);
    q->z_norm = sqrt(z_squared);
    basis_project(b, z, 1, p);
    /* A component that is cut is part of the error. */
    row_code code = basis_encode(b, z_squared, p, NULL, q->code);
    for (int line = 0; line < b->lines; line++)
        q->lines[line].error = code.lines[line].error;
}

enum { FACTOR_MOST = 32767 };

static int16_t factor_of(const query_sketch *q, double y, double *lost)
{
    int16_t factor = (int16_t)fmax(-FACTOR_MOST, fmin(FACTOR_MOST, rint(y / q->step)));
    double off = y - factor * q->step;
    *lost += off * off;
    return factor;
}

/* Encode a projection and the norms of the rests, in the places of basis_encode(), in steps for
** the largest of them. */
static void encode_factors(query_sketch *q, double q_squared, const float *p)
{
    const basis *b = q->basis;
    double errors[LINES_MOST], squares = 0, largest = 0, lost = 0;
    for (int line = 0, i = 0; line < b->lines; line++) {
        for (; i < basis_reach(b, line); i++) {
            double y = b->scale * (double)p[i];
            squares += y * y;
            largest = fmax(largest, fabs(y));
        }
        double wrong = basis_projection_error(b, q_squared, i + 1), off;
        q->lines[line].rest = basis_rest_norm(q_squared, squares, wrong, &off);
        errors[line] = sqrt(wrong * wrong + off * off);
        largest = fmax(largest, q->lines[line].rest);
    }
    q->step = largest > 0 ? largest / FACTOR_MOST : 1;
    int16_t former_rest = 0;
    for (int line = 0, i = 0, at = 0; line < b->lines; line++) {
        for (; i < basis_reach(b, line); i++)
            q->code[at++] = factor_of(q, b->scale * (double)p[i], &lost);
        double with_rest = lost;
        int16_t rest = factor_of(q, q->lines[line].rest, &with_rest);
        q->code[at++] = rest;
        if (line > 0)
            q->code[at++] = former_rest;
        former_rest = rest;
        q->lines[line].error = sqrt(with_rest) * (1 + 1e-9) + errors[line];
    }
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
    encode_factors(q, round_square(z, b->dimension), p);
}

int query_sketch_new(const basis *b, vector_metric metric, const float *query, query_sketch **out)
{
    query_sketch *q = basis_room(1, sizeof *q);
    float *z = basis_room((size_t)b->dimension, sizeof *z);
    float *p = basis_room((size_t)b->width, sizeof *p);
    *out = NULL;
    if (q && z && p) {
        *q = (query_sketch){.basis = b, .metric = metric, .norm = round_norm(query, b->dimension)};
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

int query_sketch_of_row(const sketch *s, int slot, query_sketch **out)
{
    int line_width = s->basis->line;
    query_sketch *q = *out = basis_room(1, sizeof *q);
    if (!q)
        return SQLITE_NOMEM;
    *q = (query_sketch){.basis = s->basis, .metric = METRIC_KIND_L2};
    for (int line = 0; line < s->basis->lines; line++) {
        const int8_t *code = code_at(s, line, (size_t)slot);
        for (int i = 0; i < line_width; i++)
            q->code[line * line_width + i] = (int16_t)(code[i] * KERNEL_FINER);
        q->lines[line].error = s->bounds[line].error;
    }
    return SQLITE_OK;
}

void query_sketch_free(query_sketch *q)
{
    sqlite3_free(q);
}

int query_sketch_fits(const query_sketch *q)
{
    return q->metric == METRIC_KIND_IP || q->lines[0].error < QUERY_CUT * q->basis->worst_error;
}

int sketch_lines(const sketch *s)
{
    return s->basis->lines;
}

void sketch_distances(const sketch *s, const query_sketch *q, int32_t *distances)
{
    if (q->metric == METRIC_KIND_IP)
        kernel_products(s->codes[0], s->count, s->basis->line, q->code, distances);
    else
        kernel_distances(s->codes[0], s->count, s->basis->line, q->code, distances);
    for (int i = 0; s->outliers && i < s->count; i++) {
        if (s->outliers[i])
            distances[i] = SKETCH_OUTLIER;
    }
}

void sketch_distances_at(const sketch *s, const query_sketch *q, const int64_t *slots, int count,
                         int32_t *distances)
{
    int width = s->basis->line;
    if (q->metric == METRIC_KIND_IP)
        kernel_products_at(s->codes[0], width, q->code, slots, count, distances);
    else
        kernel_distances_at(s->codes[0], width, q->code, slots, count, distances);
    for (int i = 0; s->outliers && i < count; i++) {
        if (s->outliers[slots[i]])
            distances[i] = SKETCH_OUTLIER;
    }
}

double sketch_row_bound(const sketch *s, vector_metric metric, double norm, float score)
{
    double worst = (double)score, d = s->basis->dimension, gamma = basis_gamma(d + 8);
    if (metric == METRIC_KIND_L2)
        return sqrt(worst * (1 + 2 * gamma) + d * (double)FLT_MIN);
    if (metric == METRIC_KIND_COSINE)
        return sqrt(fmax(0, 2 * (1 - worst) + 16 * gamma));
    double largest = norm * s->largest_norm,
           squares = norm * norm + s->largest_norm * s->largest_norm;
    if (!(largest < (double)FLT_MAX / 4))
        return INFINITY;
    double least = worst - gamma * largest - d * (double)FLT_MIN;
    return sqrt(fmax(0, squares * (1 + 1e-9) - 2 * least));
}

double sketch_bound(const sketch *s, const query_sketch *q, float score)
{
    double worst = (double)score, d = s->basis->dimension, gamma = basis_gamma(d + 8);
    if (q->metric != METRIC_KIND_IP)
        return sketch_row_bound(s, q->metric, q->norm, score);
    double largest = q->norm * s->largest_norm;
    if (!(largest < (double)FLT_MAX / 4))
        return -INFINITY;
    return worst - gamma * largest - d * (double)FLT_MIN;
}

int sketch_is_beyond(const sketch *s, const query_sketch *q, double bound)
{
    /* Of z each component was rounded once, or is below float32's range. */
    const double rounding = 0x1p-23, lost = q->basis->dimension * (double)FLT_MIN;
    if (q->metric == METRIC_KIND_IP || s->outlier_count > 0 || !isfinite(bound))
        return 0;
    double nearest = q->z_norm * (1 - rounding) - s->farthest * (1 + rounding) - 2 * lost;
    return nearest > bound * (double)q->basis->unit * (1 + 1e-9);
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
static int32_t limit_of_product(const sketch *s, const query_sketch *q, int line, double least)
{
    const basis *b = q->basis;
    const query_line *own = &q->lines[line];
    const code_bounds *rows = &s->bounds[line];
    double units = (double)b->unit * q->unit;
    double norm = q->norm * q->unit * (1 + 1e-9) + own->error;
    double wanted = (least - q->mean_product - q->mean_error - fabs(least) * 1e-14) * units -
                    (own->rest + own->error) * b->centres[line] - norm * rows->error -
                    own->error * rows->norm;
    double limit = -wanted / (q->step * b->step);
    limit += fabs(limit) * 1e-9 + 1;
    return limit < INT32_MAX ? (limit > -INT32_MAX ? (int32_t)limit : -INT32_MAX) : INT32_MAX;
}

int32_t sketch_limit(const sketch *s, const query_sketch *q, int line, double bound)
{
    if (!isfinite(bound))
        return INT32_MAX;
    if (q->metric == METRIC_KIND_IP)
        return limit_of_product(s, q, line, bound);
    return limit_of_distance(s->basis, bound, s->bounds[line].error, q->lines[line].error);
}

void sketch_fetch(const sketch *s, int line, const int64_t *slots, int count)
{
    for (int i = 0; i < count; i++)
        __builtin_prefetch(code_at(s, line, (size_t)slots[i]));
}

int sketch_go_on(const sketch *s, const query_sketch *q, int line, int32_t limit, int64_t *slots,
                 int32_t *distances, int count)
{
    int width = s->basis->line;
    const int16_t *code = q->code + line * width;
    if (q->metric == METRIC_KIND_IP)
        return kernel_products_on(s->codes[line], width, code, limit, slots, distances, count);
    return kernel_distances_on(s->codes[line], width, code, limit, slots, distances, count);
}

/* ---- rows as queries ---- */

int sketch_pair_lines(const sketch *s)
{
    return s->basis->lines < SKETCH_PAIR_LINES ? s->basis->lines : SKETCH_PAIR_LINES;
}

int sketch_pair_width(const sketch *s)
{
    return (basis_reach(s->basis, sketch_pair_lines(s) - 1) + 1 + 3) / 4 * 4;
}

/* Put the components of the lines and the norm that the last one has next to each other. What
** is copied beyond the components of a line, the next one covers. */
static void write_pair_code(const sketch *s, size_t row, int width, int8_t *out)
{
    size_t line = (size_t)s->basis->line, at = 0;
    int last = sketch_pair_lines(s) - 1;
    for (int i = 0; i <= last; i++) {
        const int8_t *code = code_at(s, i, row);
        if (line == CACHE_LINE) /* a length that the compiler knows */
            memcpy(out + at, code, CACHE_LINE);
        else
            memcpy(out + at, code, line);
        at += i == 0 ? line - 1 : line - 2;
    }
    for (at++; at < (size_t)width; at++)
        out[at] = 0;
}

void sketch_pair_codes(const sketch *s, int first, int count, int8_t *codes)
{
    int width = sketch_pair_width(s);
    for (int i = 0; i < count; i++)
        write_pair_code(s, (size_t)(first + i), width, codes + (size_t)i * (size_t)width);
}

const uint8_t *sketch_outliers(const sketch *s)
{
    return s->outliers;
}

int32_t sketch_pair_limit(const sketch *s, double bound)
{
    double error = s->bounds[sketch_pair_lines(s) - 1].error;
    return limit_of_distance(s->basis, bound, error, error) / (KERNEL_FINER * KERNEL_FINER);
}
