/*
** A version of an index: the rows of one source in one state, as a list of
** segments. Versions never change once made; they share the segments they have
** in common and may be read by any number of threads.
**
** Rows come nearest first; equal scores come in the order of the source (by
** rowid), so that an answer equals that of one FAISS IndexFlat over the table
** in rowid order.
*/
#ifndef INDEX_H
#define INDEX_H

#include <stdatomic.h>

#include "segment.h"

typedef struct index_version {
    atomic_int references;
    vector_metric metric;
    int kept_values;      /* values that segments hold for each row; 0: the source has a rowid */
    int dimension;        /* 0 while there are no rows */
    int64_t rows;         /* rows that can be found */
    int64_t left_out;     /* rows that strict=off left out */
    uint64_t fingerprint; /* of all row hashes in order */
    double build_seconds; /* what reading and building this version took */
    int segment_count;
    segment **segments;
    int64_t *starts; /* rows before each segment */
} index_version;

index_version *index_retain(index_version *v);
void index_release(index_version *v);

/* Bytes of memory it holds, shared segments included. */
size_t index_bytes(const index_version *v);

/* The 64-bit hash by which a row is known again: of its key, some of its values
** (the id, and those that are kept) and the bytes of its embedding. Equal rows
** have equal hashes in any process. */
uint64_t index_row_hash(int64_t key, const row_value *values, int count, const void *embedding,
                        int bytes);

/*
** Making a version from the rows of the source, read in order. Runs of rows
** that a former version holds as a segment are taken over by reference; only
** segments with a change are made anew.
*/
typedef struct index_builder index_builder;

/* `base` may be NULL. Where values are kept, the keys given to
** index_builder_row() are ignored. */
int index_builder_open(vector_metric metric, int dimension, int kept_values, index_version *base,
                       index_builder **out);

/* Add the next row with the values to keep. `embedding` is `dimension` floats at any alignment.
** SQLITE_MISMATCH where a component is not finite: the row is not added. */
int index_builder_row(index_builder *b, int64_t key, uint64_t hash, const row_value *values,
                      const void *embedding, char **message);

/* Hand over the version with one reference: `base` itself if nothing changed.
** `left_out` is the number of rows that were not added since they are malformed. */
int index_builder_finish(index_builder *b, int64_t left_out, index_version **out, char **message);
void index_builder_close(index_builder *b);

/* The key of a slot: the rowid, or the number of the row where values are kept. */
int64_t index_key(const index_version *v, int segment, int slot);

/* Where the row with this number (0..rows-1, in source order) is. */
void index_locate(const index_version *v, int64_t row, int *segment, int *slot);

/* The number of the row with this rowid, -1 if it is not in the index. A few
** comparisons where rowids are dense, else two binary searches. */
int64_t index_find(const index_version *v, int64_t key);

#endif
