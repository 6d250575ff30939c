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

#include <c_api/Index_c.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Set what a factory string does not say; once, before training. 0: FAISS's own. */
void faiss_shim_prepare(FaissIndex *index, int ef_construction);

/* Make room for so many rows in all, where they stand in one piece. */
int faiss_shim_reserve(FaissIndex *index, int64_t rows);

/* Put the rows of a graph in another order: row i is the one that was order[i]. After an error the
** index is of no use. */
int faiss_shim_permute(FaissIndex *index, const int64_t *order);

/* The nearest k rows to one query; missing ones have label -1. `allowed` is a bit for each
** row, in `bytes` bytes, or NULL for all. The index is not changed. */
int faiss_shim_search(const FaissIndex *index, const float *query, int64_t k, int ef_search,
                      int nprobe, const uint8_t *allowed, size_t bytes, float *scores,
                      int64_t *labels);

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
