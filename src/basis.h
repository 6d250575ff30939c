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

/* Make a basis from `count` sample vectors of this dimension, one after another, which are
** changed on the way. *out
** is NULL where the sample shows that sketches would not help searches by this metric; it is
** a reference to the former basis (NULL for none) where that is nearly as good.
** Deterministic. SQLITE_OK or SQLITE_NOMEM. */
int basis_new(vector_metric metric, float *sample, int count, int dimension, basis *former,
              basis **out);
basis *basis_retain(basis *b);
void basis_release(basis *b);

/* The fewest rows worth a basis, and the most that are of use as a sample. */
enum { BASIS_ROWS_LEAST = 8192 };
int basis_sample_size(int dimension);

/* Whether vectors of this dimension may have a basis at all. */
int basis_is_possible(int dimension);

/* ---- inside ---- */

enum {
    COARSE_WIDTH = 64, /* components of the codes, the norm of the rest included */
    FINE_WIDTH = 192,
    CODE_MOST = 127,
    OUTLIERS_SHARE = 8 /* more than an 8th of outliers: no sketch */
};

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
    struct FaissVectorTransform_H *pca; /* of the C API */
    float *shift;                       /* what FAISS adds to Az: taken off again */
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

/* Room for an array, of any length; NULL when memory is short. */
void *basis_room(size_t count, size_t size);

/* γ(n) of exact.h. */
double basis_gamma(double n);

/* |x|², added up in double. */
double basis_squared_norm(const float *x, int dimension);
void energy_add(energy *e, double z_squared, double rest);

/* z = (x - mean) * unit for `count` vectors. */
void basis_centre(const basis *b, const float *x, int count, float *z);

/* The matrix on `count` vectors, without FAISS's shift; p has fine - 1 components. */
void basis_project(const basis *b, const float *z, int count, float *p);

/* How far a projection of z in `width` components may be off. */
double basis_projection_error(const basis *b, double z_squared, int width);

/* The norm of what the first `count` components leave of z, and the bound of its error. p is
** off by at most `wrong` in norm. */
double basis_rest_norm(double z_squared, const float *p, int count, double scale, double wrong,
                       double *error);

/* One row on its way to integers. */
typedef struct row_code {
    double error;           /* of the code, rounding on the way included */
    double norm;            /* of step * code */
    double z_squared, rest; /* of z, and the norm of its rest */
    int fits;               /* no component was cut */
} row_code;

/* Encode z with its projection p in `width` components: of a query in finer steps, to
** `wide`, of a row to `code`. */
row_code basis_encode(const basis *b, const float *z, const float *p, int width, double centre_of,
                      int8_t *code, int16_t *wide);

#endif
