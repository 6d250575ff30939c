/*
** The loops between vectors and codes: what is subtracted, squared, rounded and added up for
** each component. Compiled as kernel.c is.
*/
#ifndef ROUNDING_H
#define ROUNDING_H

#include <stdint.h>

/* z = (x - mean) * unit, of `count` components; returns |z|². */
double round_off_mean(const float *x, const float *mean, float unit, int count, float *z);

/* The products of a matrix of `rows` rows, one after another, with z, of `count` components: p has
** one for each row. A component of a product has gone through no more than round_additions(count)
** additions. */
void round_project(const float *matrix, int rows, int count, const float *z, float *p);
int round_additions(int count);

/* |x|², added up in double. */
double round_square(const float *x, int count);

/* |x|, or a little more, whatever was rounded. */
double round_norm(const float *x, int count);

/* What rounding has found out about some components y. */
typedef struct rounded {
    double squares; /* y², added up */
    double lost;    /* the squares of y less what its code stands for */
    double codes;   /* the squares of the codes */
    int fits;       /* no code was cut */
} rounded;

/* Round y = scale * p to multiples of `step`, of at most `most` in magnitude (NaN is cut, too):
** `count` components to 8 bits, or to 16. Adds to *sums. */
void round_to_bytes(const float *p, int count, double scale, double step, int most, int8_t *codes,
                    rounded *sums);
void round_to_words(const float *p, int count, double scale, double step, int most, int16_t *codes,
                    rounded *sums);

/* Add factor * x to each of `count` sums, of ROUND_COLUMNS factors and as many columns x, each
** `apart` behind the one before it. */
enum { ROUND_COLUMNS = 8 };
void round_add(const float *columns, int apart, const double *factors, int count, double *sums);

#endif
