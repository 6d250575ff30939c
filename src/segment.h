/*
** A segment: a bounded run of rows with their vectors in one FAISS index.
**
** Rows sit in slots 0..count-1, which are FAISS's own positions. A segment is
** built once, in one piece, of vectors that the FAISS index then views, and
** never changes afterwards: any number of threads may read it, and versions of
** an index share it by reference. Every call of FAISS runs on one OpenMP thread (a single
** query over a flat index is several times slower with two). Only this room, flat.h, basis.c,
** basis_fit.c, approximate.c and projection.c include FAISS's headers.
*/
#ifndef SEGMENT_H
#define SEGMENT_H

#include <stdint.h>

#include "segment_rows.h"
#include "vector.h"
#include "vector_reader.h"

/* Smaller ones have no sketch. */
enum { SKETCH_ROWS_LEAST = 256 };

/* Build a segment of the rows (at least one), with one reference for the
** caller. The rows stay as they are, but for `values`, vectors and the sketch, which
** move into the segment: reset them then. On failure a message, or SQLITE_NOMEM. */
int segment_new(vector_metric metric, segment_rows *rows, segment **out, char **message);

/* Take and give back a reference, from any thread; NULL is none to give back. */
segment *segment_retain(segment *s);
void segment_release(segment *s);

/* Rows, components of each, and the key and the hash of the row in a slot, as segment_rows has
** them. */
int segment_count(const segment *s);
int segment_dimension(const segment *s);
int64_t segment_key(const segment *s, int slot);
uint64_t segment_hash(const segment *s, int slot);
/* The slot of a key, -1 if there is none. Keys ascend. */
int segment_find(const segment *s, int64_t key);
/* The i-th value kept with a slot. */
row_value segment_value(const segment *s, int slot, int i);
/* Whether the vectors are in memory; else the source has them. */
int segment_has_vectors(const segment *s);
/* The slot's vector as stored (normalized for cosine), where they are in memory; valid
** while the segment is held. */
const float *segment_vector(const segment *s, int slot);
/* Have the processor fetch the slot's vector, where it is in memory: it will be scored soon. */
void segment_fetch(const segment *s, int slot);
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
/* Whether it is worth a sketch, and was not judged after the finding of this number (from 1
** on): segment_set_judged() says that it was, and whether a basis fits it. */
int segment_wants_sketch(const segment *s, unsigned number);
void segment_set_judged(segment *s, unsigned number, int fits);
/* Whether it was judged, and none fits. */
int segment_is_misfit(const segment *s);
/* Give it a sketch by a basis in the place of the one it has, if its vectors can be encoded;
** *fits says whether they are held as well as the sample was. One thread at a time.
** SQLITE_OK, SQLITE_NOMEM, or SQLITE_BUSY while searches use a former sketch. */
int segment_make_sketch(segment *s, basis *b, int *fits);

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

/* Scale to unit Euclidean length; a zero vector stays as it is. Components
** whose squares would leave float32's range are scaled by a power of two first. */
void segment_normalize(float *x, int dimension);

#endif
