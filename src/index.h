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
    int keeps_ids;        /* segments hold the ids: the source has no row key */
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

/* The 64-bit hash by which a row is known again: of its key, its id and the
** bytes of its embedding. Equal rows have equal hashes in any process. */
uint64_t index_row_hash(int64_t key, const id_value *id, const void *embedding, int bytes);

/*
** Making a version from the rows of the source, read in order. Runs of rows
** that a former version holds as a segment are taken over by reference; only
** segments with a change are made anew.
*/
typedef struct index_builder index_builder;

/* `base` may be NULL. Ids are kept with the rows if keeps_ids; the keys given
** to index_builder_row() are then ignored. */
int index_builder_open(vector_metric metric, int dimension, int keeps_ids, index_version *base,
                       index_builder **out);

/* Add the next row. `embedding` is `dimension` floats at any alignment.
** SQLITE_MISMATCH where a component is not finite: the row is not added. */
int index_builder_row(index_builder *b, int64_t key, uint64_t hash, const id_value *id,
                      const void *embedding, char **message);

/* Hand over the version with one reference: `base` itself if nothing changed.
** `left_out` is the number of rows that were not added since they are malformed. */
int index_builder_finish(index_builder *b, int64_t left_out, index_version **out, char **message);
void index_builder_close(index_builder *b);

/* One row found. */
typedef struct index_hit {
    float score;
    int segment, slot;
    int64_t key; /* rowid, or the ordinal of the row where ids are kept */
} index_hit;

/*
** A walk over the rows in order of distance. It holds a reference to its
** version. The first rows come from a search for `depth` rows; beyond that the
** scores of all rows are computed once and put in order as far as they are
** asked for: reading all n rows costs two scans and one heap sort.
*/
typedef struct index_walk index_walk;

/* Begin a walk of at most `limit` rows (limit < 0: all rows). `query` has the
** version's dimension and is copied, normalized for cosine. */
int index_walk_open(index_version *v, const float *query, int64_t limit, int64_t depth,
                    index_walk **out, char **message);

/* The i-th row (from 0); i grows by at most one from call to call. SQLITE_ROW,
** SQLITE_DONE or an error with its message. */
int index_walk_at(index_walk *w, int64_t i, index_hit *hit, char **message);
void index_walk_close(index_walk *w);

/* The i-th row in source order, 0 <= i < rows; its score is 0. */
index_hit index_row(const index_version *v, int64_t i);

/* The id of a row found; only where the version keeps ids. */
id_value index_hit_id(const index_version *v, const index_hit *hit);

#endif
