/*
** The rows of a segment to be (segment.h), as they are gathered: keys, hashes, and their vectors,
** or what is to be kept of them.
*/
#ifndef SEGMENT_ROWS_H
#define SEGMENT_ROWS_H

#include <stdint.h>

#include "exact.h"
#include "values.h"

typedef struct segment segment;

/* A segment's vectors take about this many bytes, and its rows are no more than
** this: small enough that building one beside the others costs little memory,
** large enough that the work per segment is lost in the search of its vectors. */
enum { SEGMENT_BYTES = 4 << 20, SEGMENT_MAX_ROWS = 65536, SEGMENT_MIN_ROWS = 64 };

/* What a segment keeps of its vectors. Where it is not they themselves, readers of
** the index get them from the source (vector_reader.h). */
typedef enum segment_content { SEGMENT_VECTORS, SEGMENT_SKETCH, SEGMENT_KEYS } segment_content;

/* Rows gathered for a segment to be. */
typedef struct segment_rows {
    int dimension;
    int capacity; /* rows of a full segment: segment_capacity(dimension) */
    int room;     /* rows that fit now */
    int count;
    segment_content content;
    float *vectors;   /* as the metric stores them: of all rows, or of those pending */
    size_t mapped;    /* bytes of memory of their own that they lie in; 0: they do not */
    basis *basis;     /* SEGMENT_SKETCH: what sketches are made by, … */
    sketch *sketch;   /* … that of the rows so far, NULL for none, … */
    int pending;      /* … but for the last few, which are encoded together */
    int64_t *keys;    /* rowid of each row; its ordinal where rows have no rowid */
    uint64_t *hashes; /* of each row's key, id and embedding, as stored in the source */
    int kept_values;  /* values kept with each row: its id first, then columns; 0 if
                      ** the source can be asked for them later */
    value_list values;
} segment_rows;

/* Rows of this dimension that make a full segment. */
int segment_capacity(int dimension);

/* Begin without rows; room is made as they come. Their vectors are kept; otherwise say so
** before the first: `b` is for SEGMENT_SKETCH. Values are kept with vectors only. */
void segment_rows_open(segment_rows *rows, int dimension, int kept_values);
void segment_rows_keep(segment_rows *rows, segment_content content, basis *b);

/* Append one row; the caller has checked that count < capacity. `embedding` is `dimension` floats
** at any alignment; with `normalize` the stored copy is scaled to unit length. `values` are those
** to keep. SQLITE_OK, SQLITE_NOMEM, or SQLITE_MISMATCH where a component is not finite: the row is
** then not appended. */
int segment_rows_append(segment_rows *rows, const void *embedding, int normalize, int64_t key,
                        uint64_t hash, const row_value *values);

/* Append a slot of a segment of the same metric, dimension and number of kept values: its
** vector, or what there is of it. SQLITE_OK or SQLITE_NOMEM; SQLITE_INTERNAL where vectors
** are to be kept and it has none. */
int segment_rows_take(segment_rows *rows, const segment *s, int slot);

/* Encode the rows that are pending, so that the sketch is that of all. Before a segment of
** SEGMENT_SKETCH is made of them. SQLITE_OK or SQLITE_NOMEM. */
int segment_rows_encode(segment_rows *rows);

/* Forget the rows, keep the room. */
void segment_rows_reset(segment_rows *rows);

/* Free them, and the room. */
void segment_rows_close(segment_rows *rows);

#endif
