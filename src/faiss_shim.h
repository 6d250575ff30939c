/*
** What FAISS's C API lacks: parameters of a single search (SearchParametersHNSW, those of
** IVF behind a transform), efConstruction, room made beforehand, copies of every kind of
** index, reading and writing by callbacks that know whom they serve, and FAISS's way of asking
** whether to go on.
**
** Returns are those of the C API: 0, or an error that faiss_get_last_error() tells of.
*/
#ifndef FAISS_SHIM_H
#define FAISS_SHIM_H

#include <stddef.h>
#include <stdint.h>

#include <c_api/IndexFlat_c.h>
#include <c_api/Index_c.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Set what a factory string does not say; once, before training. 0: FAISS's own. */
void faiss_shim_prepare(FaissIndex *index, int ef_construction);

/* Make room for so many rows in all, where they stand in one piece. */
int faiss_shim_reserve(FaissIndex *index, int64_t rows);

/* Train an index as FAISS does, but learn a rotation for codes of PQ with as few centroids as they
** have: FAISS takes 256. */
int faiss_shim_learn(FaissIndex *index, int64_t count, const float *x);

/* How far vectors (at least one) are from what a trained index knows of such, in the median: from
** their centroid, or else from what their code says of them, and by what transforms lose. */
int faiss_shim_misfit(const FaissIndex *index, int64_t count, const float *x, double *misfit);

/* Have an empty flat index hold vectors where they are, without a copy: they are the caller's, who
** keeps them for as long as the index lives. Nothing may be added to it. */
void faiss_shim_view(FaissIndexFlat *flat, const float *vectors, int64_t count);

/* Put the rows of a graph in another order: row i is the one that was order[i]. After an error the
** index is of no use. */
int faiss_shim_permute(FaissIndex *index, const int64_t *order);

/* Move the links and codes of a graph that is complete to huge pages, where the system has them,
** and to where rows begin with a cache line: searches are faster. Nothing can be added to it then,
** but to a copy. Takes some MB beside it; where these are not to be had it stays where it is, as do
** other kinds. */
void faiss_shim_settle(FaissIndex *index);

/* Which rows a search of a graph has come to, a byte for each row of the index: to be used again by
** the next search. */
typedef struct faiss_shim_visited faiss_shim_visited;
void faiss_shim_visited_free(faiss_shim_visited *visited);

/* The nearest k rows to one query; missing ones have label -1. `allowed` is a bit for each row, in
** `bytes` bytes, or NULL for all. *visited is what an earlier search has left there, or NULL, and
** serves one search at a time; the caller frees what is left in the end. The index is not
** changed. */
int faiss_shim_search(const FaissIndex *index, const float *query, int64_t k, int ef_search,
                      int nprobe, const uint8_t *allowed, size_t bytes,
                      faiss_shim_visited **visited, float *scores, int64_t *labels);

/* Train a PCAMatrix, without a bias, on vectors whose mean is zero, at least as many as it has
** components. As FAISS's own training does, but that LAPACK decomposes the matrix by dividing it,
** and in float32, in which its elements are added up, too: it takes an eighth of the time, or
** less. */
int faiss_shim_train(struct FaissVectorTransform_H *pca, int64_t count, const float *x);

/* The matrix of a trained PCAMatrix, a row for each component. */
const float *faiss_shim_matrix(const struct FaissVectorTransform_H *pca);

/* Keep its first `rows` alone, of which those from `known` on become zero. */
int faiss_shim_shorten(struct FaissVectorTransform_H *pca, int rows, int known);

/* The matrix times each of `count` vectors, without what FAISS adds to it. By BLAS, in pieces of
** FAISS_SHIM_PIECE components at most: a component of a product has gone through
** no more additions than a piece has components and there are pieces. */
enum { FAISS_SHIM_PIECE = 64 };
void faiss_shim_project(const struct FaissVectorTransform_H *pca, int64_t count, const float *x,
                        float *out);

/* A copy that shares nothing. */
int faiss_shim_copy(const FaissIndex *index, FaissIndex **out);

/* The bytes that it would take in a file, which is about what it takes in memory. */
int faiss_shim_bytes(const FaissIndex *index, size_t *bytes);

/* Hand the index over as bytes, piece by piece, in the order in which faiss_shim_load() asks for
** them. The callbacks return 0, or something else to end it, which is an error. */
typedef int faiss_shim_write(void *argument, const void *bytes, size_t count);
typedef int faiss_shim_read(void *argument, void *bytes, size_t count);
int faiss_shim_save(const FaissIndex *index, faiss_shim_write *write, void *argument);

/* Make an index of such bytes. FAISS trusts them: they must be those that were written. */
int faiss_shim_load(faiss_shim_read *read, void *argument, FaissIndex **out);

/* Whether an index that was loaded has so many rows and is made as `pattern` is, an empty one: the
** same kinds of parts of the same sizes, whose numbers of rows agree and point nowhere else. A
** pass over the links or the ids of lists. */
int faiss_shim_resembles(const FaissIndex *loaded, const FaissIndex *pattern, int64_t rows);

/* From now on FAISS's training asks, on this thread, whether to stop: between iterations
** and blocks of k-means. NULL: no more. */
void faiss_shim_watch(int (*wants_stop)(void *argument), void *argument);

#ifdef __cplusplus
}
#endif

#endif
