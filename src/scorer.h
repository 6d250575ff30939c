/*
** Scoring single vectors against a fixed one, bit for bit as a search in an index does.
*/
#ifndef SCORER_H
#define SCORER_H

#include "vector.h"

typedef struct scorer scorer;

/* Make one for a query of `dimension` components, which is copied. SQLITE_OK, SQLITE_NOMEM, or
** SQLITE_ERROR with a message. */
int scorer_open(vector_metric metric, const float *query, int dimension, scorer **out,
                char **message);

/* The score of a vector of the same dimension; for cosine of any length, which is not changed.
** SQLITE_OK, SQLITE_NOMEM, or SQLITE_ERROR with a message. */
int scorer_score(scorer *s, const float *x, float *score, char **message);

/* Components of the query. */
int scorer_dimension(const scorer *s);

/* NULL is none. */
void scorer_close(scorer *s);

#endif
