/*
** The nearest neighbours of many rows at once, by their sketches.
**
** A tile of rows is compared with all rows by integer codes (tiles.h), which tells how near the
** nearest of each group of eight is, and from that the neighbours are found (neighbour_seeker.h).
** The answers are those of single searches, to the last bit. Tiles do not depend on each other,
** and are spread over the threads that the reader allows (workers.h).
*/
#ifndef NEIGHBOUR_TILES_H
#define NEIGHBOUR_TILES_H

#include "walk.h"

typedef struct neighbour_tiles neighbour_tiles;

/* Make room for the k nearest others of blocks of rows of a version, which is borrowed. Copies the
** codes of all rows, at most 512 bytes of each, and packs up to 256 bytes of each, or twice as many
** without AVX-512 VNNI; each thread that the reader allows has 76 bytes for each row. *out is NULL
** where sketches cannot help: where vectors are not in memory, too few rows have one of the same
** basis, or beyond some k. SQLITE_OK, SQLITE_NOMEM or what the reader's check said, with its
** message. */
int neighbour_tiles_open(index_version *v, int64_t k, const vector_reader *reader,
                         neighbour_tiles **out, char **message);
void neighbour_tiles_close(neighbour_tiles *t);

/* Find the neighbours of the rows from this position on: *rows of them, or 0 where it does not
** pay for these rows. */
int neighbour_tiles_fill(neighbour_tiles *t, int64_t first, int64_t *rows, char **message);

/* The neighbours of the i-th of them, k hits nearest first; NULL where it must be searched
** alone. Valid until the next block. */
const index_hit *neighbour_tiles_row(const neighbour_tiles *t, int64_t i);

#endif
