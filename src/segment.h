/*
** A segment: a bounded run of rows with their vectors in one FAISS index.
**
** Rows sit in slots 0..count-1, which are FAISS's own positions. A segment is
** built once, in one piece, so that FAISS allocates just what it needs, and
** never changes afterwards: any number of threads may read it, and versions of
** an index share it by reference. This file, basis.c, basis_fit.c and approximate.c alone
** include FAISS's headers; every call here runs on one OpenMP thread (a single query over a
** flat index is several times slower with two).
*/
#ifndef SEGMENT_H
#define SEGMENT_H

#include <stdint.h>

#include "exact.h"
#include "values.h"
#include "vector.h"
#include "vector_reader.h"

/* A segment's vectors take about this many bytes, and its rows are no more than
** this: small enough that building one beside the others costs little memory,
** large enough that the work per segment is lost in the search of its vectors. */
enum { SEGMENT_BYTES = 4 << 20, SEGMENT_MAX_ROWS = 65536, SEGMENT_MIN_ROWS = 64 };

/* Smaller ones have no sketch. */
enum { SKETCH_ROWS_LEAST = 256 };

typedef struct segment segment;

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

/* Append one row; the caller has checked that count < capacity. `embedding` is
** `dimension` floats at any alignment; with `normalize` the stored copy is
** scaled to unit length. `values` are those to keep. SQLITE_OK, SQLITE_NOMEM, or SQLITE_MISMATCH where a
** component is not finite: the row is then not appended. */
int segment_rows_append(segment_rows *rows, const void *embedding, int normalize, int64_t key,
                        uint64_t hash, const row_value *values);

/* Append a slot of a segment of the same metric, dimension and number of kept values: its
** vector, or what there is of it. SQLITE_OK or SQLITE_NOMEM; SQLITE_INTERNAL where vectors
** are to be kept and it has none. */
int segment_rows_take(segment_rows *rows, const segment *s, int slot);

/* Forget the rows, keep the room. */
void segment_rows_reset(segment_rows *rows);
void segment_rows_close(segment_rows *rows);

/* Build a segment of the rows (at least one), with one reference for the
** caller. The rows stay as they are, but for `values` and the sketch, which move
** into the segment: reset them then. On failure a message, or SQLITE_NOMEM. */
int segment_new(vector_metric metric, segment_rows *rows, segment **out, char **message);

segment *segment_retain(segment *s);
void segment_release(segment *s);

int segment_count(const segment *s);
int segment_dimension(const segment *s);
int64_t segment_key(const segment *s, int slot);
/* The slot of a key, -1 if there is none. Keys ascend. */
int segment_find(const segment *s, int64_t key);
uint64_t segment_hash(const segment *s, int slot);
/* The i-th value kept with a slot. */
row_value segment_value(const segment *s, int slot, int i);
/* Whether the vectors are in memory; else the source has them. */
int segment_has_vectors(const segment *s);
/* The slot's vector as stored (normalized for cosine), where they are in memory; valid
** while the segment is held. */
const float *segment_vector(const segment *s, int slot);
/* The vectors of `count` slots as stored, one after another, from memory or by the
** reader, which may fail as described there. */
int segment_read(const segment *s, const vector_reader *reader, const int64_t *slots, int count,
                 float *vectors, char **message);
/* Its sketch, NULL if it has none. Made by any thread, at any time: a search takes it
** once. */
const sketch *segment_sketch(const segment *s);
/* The same, which is then not replaced before it is let go: once for each time it was held,
** also where there was none. */
const sketch *segment_hold_sketch(const segment *s);
void segment_let_go_sketch(const segment *s);
/* Whether it is worth a sketch by the basis of this number (from 1 on), and was not judged by
** it yet. */
int segment_wants_sketch(const segment *s, unsigned number);
/* Judge it by a basis: give it a sketch in the place of the one it has, if its vectors fit;
** *fits says whether they do as well as the sample did. One thread at a time. NULL for no basis: it stays as it is.
** SQLITE_OK, SQLITE_NOMEM, or SQLITE_BUSY while searches use a former sketch. */
int segment_make_sketch(segment *s, basis *b, unsigned number, int *fits);

/* Bytes of memory it holds. */
size_t segment_bytes(const segment *s);

/* The nearest min(k, count) slots to the query, nearest first: FAISS's search. The
** vectors must be in memory.
** `query` is normalized for cosine. Scores beyond float32's range (infinite
** distances) are missing in *found; ask segment_scores() then. */
int segment_search(const segment *s, const float *query, int k, float *scores, int64_t *slots,
                   int *found, char **message);

/* The nearest k slots to each of `count` queries (as the metric stores them), k of
** them after another; k is at most the segment's rows. Scores of 20 queries or
** more come from BLAS and may differ in the last bits from those of one. Missing
** rows have slot -1. Vectors that are not in memory are all read, and held meanwhile. */
int segment_search_batch(const segment *s, const vector_reader *reader, const float *queries,
                         int count, int k, float *scores, int64_t *slots, char **message);

/* The largest squared Euclidean norm of its vectors. */
int segment_largest_norm(const segment *s, const vector_reader *reader, float *norm,
                         char **message);

/* The scores of `count` slots, or of the first `count` where `slots` is NULL, bit
** for bit what segment_search() reports. Vectors that are not in memory come from the
** reader, some at a time. */
int segment_scores(const segment *s, const vector_reader *reader, const float *query,
                   const int64_t *slots, int count, float *scores, char **message);

/* Scores single vectors against a fixed one, bit for bit as a search does. */
typedef struct scorer scorer;
int scorer_open(vector_metric metric, const float *query, int dimension, scorer **out,
                char **message);
int scorer_score(scorer *s, const float *x, float *score, char **message);
int scorer_dimension(const scorer *s);
void scorer_close(scorer *s);

/* Scale to unit Euclidean length; a zero vector stays as it is. Components
** whose squares would leave float32's range are scaled by a power of two first. */
void segment_normalize(float *x, int dimension);

/* Pin FAISS and BLAS to the calling thread; returns what to give to
** segment_restore_threads(). OpenMP keeps the number per thread, and the host may
** use OpenMP as well. */
int segment_use_one_thread(void);
void segment_restore_threads(int threads);

/* Turn the code of a failed call of FAISS into a message, or SQLITE_NOMEM. */
int segment_failure(int code, char **message);

/* "1.12.0": the version of the FAISS in use. */
const char *segment_faiss_version(void);

#endif
