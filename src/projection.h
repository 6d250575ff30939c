/*
** A map of an index: its vectors in few dimensions, along those in which they vary most.
**
** The axes are the first principal components of the vectors as the index holds them (scaled to
** length 1 for cosine), found by FAISS's PCA from a sample: rows at even distances, 8,192 at most
** and 1,000 for each dimension, and 960 above 1,000 dimensions, since FAISS then decomposes a
** matrix of rows by rows and not one of dimensions by dimensions. The origin is the mean of the
** sample. An axis points to where its largest component is positive. So the same rows give the same
** map, whatever was searched before. Where the rows do not span so many dimensions, the coordinates
** beyond are 0.
*/
#ifndef PROJECTION_H
#define PROJECTION_H

#include "index.h"

typedef struct projection projection;

enum { PROJECTION_MOST = 256 }; /* dimensions to project on */

/* Find the axes for a version in source order that has rows; 1 <= dimensions <= that of the
** version and PROJECTION_MOST. `reader` reads vectors that are not in memory, and its check
** is called between blocks of rows; the decomposition itself, a second at most, is one
** piece. */
int projection_new(const index_version *v, const vector_reader *reader, int dimensions,
                   projection **out, char **message);

/* The coordinates of `count` rows from row number `first` on, row after row: of each as many floats
** as there are dimensions. SQLITE_OK, or an error with its message: the reader's, or
** SQLITE_NOMEM. */
int projection_rows(const projection *p, const index_version *v, const vector_reader *reader,
                    int64_t first, int count, float *coordinates, char **message);

/* NULL is none. */
void projection_free(projection *p);

#endif
