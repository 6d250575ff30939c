/*
** The SQL aggregates: the rows of a group that are nearest to a vector.
*/
#ifndef AGGREGATE_H
#define AGGREGATE_H

#include "sqlite_api.h"

/* A row of either. */
void aggregate_step(sqlite3_context *context, int argc, sqlite3_value **argv);

/*
** faiss_agg(id, embedding, compare_embedding, k): a JSON array of the ids of the
** k rows of the group whose embedding is nearest to compare_embedding (squared
** Euclidean distance, ties in the order of the rows). compare_embedding and k
** are those of the group's first row; rows with a NULL embedding are left out.
** NULL compare_embedding or k: NULL. No rows: []. Memory for k rows.
*/
void faiss_agg_final(sqlite3_context *context);

/* faiss_agg_with_scores(id, embedding, compare_embedding, k): pairs [id, score]. */
void faiss_agg_with_scores_final(sqlite3_context *context);

#endif
