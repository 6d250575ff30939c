/*
** Comparing many queries with many rows by their codes, for searches that come in batches.
**
** One query with all rows takes as long as reading the codes of the rows. A tile of queries
** with a block of rows that stays in the cache takes as long as the multiplications, which
** are those of 16-bit numbers, or of 8-bit ones where the processor has instructions for
** their sums of products (AVX-512 VNNI, asked for at run time). Compiled for the SIMD level
** that FAISS is compiled for; tile_distance_plain() is what it must equal.
**
** Of each eight rows of a block, one group, only the nearest is told: rows 0 to 7, 8 to 15, and so
** on, since rows that stand next to each other are often alike.
*/
#ifndef TILES_H
#define TILES_H

#include <stddef.h>
#include <stdint.h>

enum { TILE_LANES = 16, TILE_GROUP = 8, TILE_ROWS = TILE_LANES * TILE_GROUP };

/* Codes have components from -127 to 127, and the width is a multiple of 4, at most 256. */
enum { TILE_WIDTH_MOST = 256 };

/* Bytes of `count` packed queries, or rows. */
size_t tile_queries_bytes(int count, int width);
size_t tile_rows_bytes(int width);

/* Pack `count` queries whose codes are given. */
void tile_pack_queries(const int8_t *const *codes, int count, int width, void *packed);

/* Pack up to TILE_ROWS codes, one after another. Those with `left_out` set at their place are
** farther than all others; it may be NULL. */
void tile_pack_rows(const int8_t *codes, int count, int width, const uint8_t *left_out,
                    void *packed);

/* The least squared distance from each of `count` queries to the rows of each group:
** TILE_LANES of them, the query's number times `stride` behind `least`. Rows that were left
** out, or are not there, are at TILE_FAR or more. */
enum { TILE_FAR = 1 << 29 };
void tile_least(const void *queries, int count, const void *rows, int width, int32_t *least,
                size_t stride);

/* The squared distance of one pair. */
int32_t tile_distance_plain(const int8_t *a, const int8_t *b, int width);

#endif
