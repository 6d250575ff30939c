/*
** The nearest neighbours of many rows of an index at once: by sketches, a tile of rows
** together (neighbour_tiles.h), where there are sketches and they rule out enough; else by matrix
** products.
**
** FAISS computes the distances of a batch with BLAS, which is faster than one query after the
** other, and differs in the last bits. So a batch
** gives candidates only: they are scored again one by one, and where rounding
** could have kept a nearer row from being a candidate, the row is searched alone.
** Either way the answers are those of single searches, to the last bit. A block of rows is
** spread over the threads that the reader allows.
*/
#ifndef BATCH_H
#define BATCH_H

#include "walk.h"

/* Neighbours of a block of consecutive rows. */
typedef struct neighbour_batch neighbour_batch;

/* Begin on an index: the k nearest other rows of each row. `reader` as for a
** walk. Makes the sketches that searches would make one by one: some tenths of a second, once. */
int neighbour_batch_open(index_version *v, int64_t k, const vector_reader *reader,
                         neighbour_batch **out, char **message);
void neighbour_batch_close(neighbour_batch *b);

/* The neighbours of row number `row` (0..rows-1, growing from call to call),
** nearest first, without the row itself; *count is k, or rows - 1 if that is less.
** They are valid until the next call. */
int neighbour_batch_row(neighbour_batch *b, int64_t row, const index_hit **hits, int64_t *count,
                        char **message);

#endif
