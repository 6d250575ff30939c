/*
** The loops over sketches: squared distances and inner products of short vectors of
** 8-bit integers. Compiled for the SIMD level that FAISS is compiled for;
** kernel_distance_plain() and kernel_product_plain() are what they must equal.
*/
#ifndef KERNEL_H
#define KERNEL_H

#include <stdint.h>

/* Queries are finer than codes: for distances a code's component stands for this many
** times as many of the query's. */
enum { KERNEL_FINER = 8 };

/* The squared distances of `count` codes of `width` components, one after another,
** to the query, in the query's units. They are exact: with |component| <= 127 of a code and
** KERNEL_FINER times that of the query no sum overflows up to a width of 512. */
void kernel_distances(const int8_t *codes, int count, int width, const int16_t *query,
                      int32_t *distances);

/* Their inner products with a query, negated, so that smaller is nearer here, too. Exact:
** with |component of the query| < 2^15 no sum overflows up to a width of 512. */
void kernel_products(const int8_t *codes, int count, int width, const int16_t *query,
                     int32_t *negated);

/* Move the distances that are at most `limit` to the front, and write their places; returns how
** many. There is room for `count` places. */
int kernel_places_within(int32_t *distances, int count, int32_t limit, int64_t *places);

/* The first place from `from` on with a distance of at most `limit`; `count` for none. */
int kernel_next_within(const int32_t *distances, int from, int count, int32_t limit);

/* The least of each `block` distances, and of the last, fewer ones; returns how many there are. */
int kernel_least(const int32_t *distances, int count, int block, int32_t *least);

/* How many distances are at most `limit`. */
int kernel_count_within(const int32_t *distances, int count, int32_t limit);

/* Of `count` places keep those within a limit by their distances, which move along with them;
** returns how many. */
int kernel_keep(int64_t *places, int32_t *distances, int count, int32_t limit);

/* The distances, or negated products, of the codes at `count` places. */
void kernel_distances_at(const int8_t *codes, int width, const int16_t *query,
                         const int64_t *places, int count, int32_t *distances);
void kernel_products_at(const int8_t *codes, int width, const int16_t *query, const int64_t *places,
                        int count, int32_t *negated);

/* Add to what is known of `count` places what their codes add to it, and keep those that are
** within the limit then; returns how many. The last component of these codes stands for
** what they replace: its square, or product, is taken off. */
int kernel_distances_on(const int8_t *codes, int width, const int16_t *query, int32_t limit,
                        int64_t *places, int32_t *distances, int count);
int kernel_products_on(const int8_t *codes, int width, const int16_t *query, int32_t limit,
                       int64_t *places, int32_t *negated, int count);

/* One pair without the help of the compiler's vectors. */
int32_t kernel_distance_plain(const int8_t *a, const int16_t *b, int width);
int32_t kernel_product_plain(const int8_t *a, const int16_t *b, int width);

#endif
