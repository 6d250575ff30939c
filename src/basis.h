/*
** A basis: what vectors of one kind are described by in a few integers. exact.h derives what
** that proves, and speaks of bases as opaque; what stands here from `struct basis` on is for
** basis.c, basis_fit.c and exact.c alone.
*/
#ifndef BASIS_H
#define BASIS_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "vector.h"

/* Immutable once made, shared by reference between threads. */
typedef struct basis basis;

/* Vectors that try a basis as queries, and how near the table's rows are to them. */
typedef struct basis_trials {
    int64_t rows; /* of the table */
    int count;
    const float *queries;        /* one after another, as the metric stores vectors */
    const float *nearest, *last; /* of each: the scores of two of the nearest rows, of which … */
    int nearest_place, last_place; /* … these many, and these many, are as near */
} basis_trials;

/* Make a basis from `count` sample vectors of this dimension, one after another, which are
** changed on the way. *out
** is NULL where sketches would not help searches by this metric; it is
** a reference to the former basis (NULL for none) where that is nearly as good. What
** searches would cost with a basis is found out by trials; where there are none (NULL), how
** many rows of the sample it tells apart decides.
** Deterministic. SQLITE_OK or SQLITE_NOMEM. */
int basis_new(vector_metric metric, float *sample, int count, int dimension,
              const basis_trials *trials, basis *former, basis **out);
basis *basis_retain(basis *b);
void basis_release(basis *b);

/* The fewest rows worth a basis, and the fewest and the most that are of use as a sample. */
enum { BASIS_ROWS_LEAST = 8192, BASIS_SAMPLE_LEAST = 512 };
int basis_sample_size(int dimension);

/* Whether vectors of this dimension may have a basis at all. */
int basis_is_possible(int dimension);

/* The share of an index's rows that are worth searching for by sketches, BASIS_MOST_SHARE at
** most. */
#define BASIS_MOST_SHARE (1.0 / 24)
double basis_most_share(const basis *b);

/* Products of two numbers that encoding a row takes: how long it takes. */
int64_t basis_products(const basis *b);

/* Bytes of the codes of one row, at most. */
int basis_code_most(int dimension);

/* ---- inside ---- */

enum {
    LINE_MOST = 64, /* components of a line of code: a cache line */
    LINES_MOST = 8,
    CODE_MOST = 127,
    OUTLIERS_SHARE = 8 /* more than an 8th of outliers: no sketch */
};

/* Squared norms of vectors, less the mean, and of what the components of the first line, and of
** all, leave of them. */
typedef struct energy {
    double all, rest_of_first, rest;
    int vectors;
} energy;

struct basis {
    atomic_int references;
    int dimension;
    int line, lines; /* components of a line, and lines: see basis_encode() */
    int width;       /* components of a projection: those that the last line knows of */
    float *mean;
    struct FaissVectorTransform_H *pca; /* of the C API */
    float *shift;                       /* what FAISS adds to Az: taken off again */
    double shift_norm;
    float unit;   /* a power of two that brings distances from the mean to about 1 */
    double scale; /* makes the spectral norm at most 1 */
    double step;
    double centres[LINES_MOST]; /* of each line: taken off the norms of the rest */
    double uncertain;           /* the largest error of such a norm in the sample */
    double worst_error;         /* a row whose error is greater is an outlier */
    double most_share;          /* see basis_most_share() */
    energy sample;
};

/* Room for an array, of any length; NULL when memory is short. */
void *basis_room(size_t count, size_t size);

/* γ(n) of exact.h. */
double basis_gamma(double n);

/* Count a vector: the square of its norm, and the norms of what the first line, and all, leave of
** it. */
void energy_add(energy *e, double z_squared, double rest_of_first, double rest);

/* The components that a line and those before it know of. */
int basis_reach(const basis *b, int line);

/* z = (x - mean) * unit; returns |z|², added up in double. */
double basis_centre(const basis *b, const float *x, float *z);

/* The matrix on `count` vectors; p has `width` components of each. */
void basis_project(const basis *b, const float *z, int count, float *p);

/* How far a projection of z in so many components may be off. */
double basis_projection_error(const basis *b, double z_squared, int components);

/* The norm of what components of norm `p_squared`, squared, leave of z, and the bound of its
** error, where they are off by at most `wrong` in norm. */
double basis_rest_norm(double z_squared, double p_squared, double wrong, double *error);

/* What a line and those before it say of a row. */
typedef struct line_code {
    double error; /* rounding on the way included */
    double norm;  /* of step * code */
} line_code;

/* One row on its way to integers. */
typedef struct row_code {
    line_code lines[LINES_MOST];
    double z_squared; /* of z … */
    double rest_of_first,
        rest; /* … and the norms of what the first and the last line leave of it */
    int fits; /* no component was cut */
} row_code;

/*
** Encode z, of norm `z_squared`, squared, with its projection p, in lines one after another: of
** a query in finer steps, to `wide`, of a row to `code`. The first line has the first
** components, and then the norm of the rest. A later line has the next components, then the
** norm of what they leave, and then, once more, the norm in the line before it.
*/
row_code basis_encode(const basis *b, double z_squared, const float *p, int8_t *code,
                      int16_t *wide);

#endif
