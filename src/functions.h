/*
** The SQL functions.
**
**   faiss_search(database, table, embedding, k)
**   faiss_search_with_scores(database, table, embedding, k)
**   faiss_agg(id, embedding, compare_embedding, k)
**   faiss_agg_with_scores(id, embedding, compare_embedding, k)
**   faiss_encode(json), faiss_decode(blob), faiss_normalize(vector),
**   faiss_dimension(vector), faiss_distance(a, b [, metric]), faiss_version()
**
** The aggregates are documented in aggregate.h, the functions of one or two vectors in
** vector_functions.h, the others above their implementation.
*/
#ifndef FUNCTIONS_H
#define FUNCTIONS_H

#include "connection.h"

/* Register them all on the connection. */
int functions_register(connection *c);

#endif
