/*
** FAISS's flat index, whose scores are those that all others must equal. Every call runs on one
** OpenMP thread. Functions return SQLITE_OK, SQLITE_NOMEM, or SQLITE_ERROR with a message.
*/
#ifndef FLAT_H
#define FLAT_H

#include <c_api/IndexFlat_c.h>

#include "vector.h"

/* Make an index that holds a copy of `count` vectors, of `dimension` components each, as the metric
** stores them; NULL and 0 for an empty one. *out is NULL on failure; else
** faiss_IndexFlat_free() it. */
int flat_open(vector_metric metric, const float *vectors, int count, int dimension,
              FaissIndexFlat **out, char **message);

/* The k nearest to each of `count` queries: k scores and labels of each, nearest first. Where there
** are less, the labels of the rest are -1. */
int flat_search(const FaissIndexFlat *flat, int count, const float *queries, int k, float *scores,
                idx_t *labels, char **message);

/* The scores of `n` labels for each of `count` queries; each query has labels of its own. */
int flat_scores(const FaissIndexFlat *flat, int count, const float *queries, int n,
                const idx_t *labels, float *scores, char **message);

#endif
