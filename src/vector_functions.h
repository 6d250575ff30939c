/*
** The SQL functions of one vector or two.
*/
#ifndef VECTOR_FUNCTIONS_H
#define VECTOR_FUNCTIONS_H

#include "sqlite_api.h"

/*
** faiss_encode(json): a BLOB of little-endian float32, one for each number of a
** JSON array, rounded to the nearest. NULL: NULL. An error where the text is no
** flat array of numbers, or a number is beyond float32.
*/
void faiss_encode(sqlite3_context *context, int argc, sqlite3_value **argv);

/*
** faiss_decode(blob): the JSON array of a BLOB of float32, each number as the
** double it equals. NULL: NULL. An error where the length is no multiple of 4.
*/
void faiss_decode(sqlite3_context *context, int argc, sqlite3_value **argv);

/* faiss_normalize(vector): the vector as a BLOB, scaled to Euclidean length 1;
** a zero vector stays zero. NULL: NULL. */
void faiss_normalize(sqlite3_context *context, int argc, sqlite3_value **argv);

/* faiss_dimension(vector): how many components it has. NULL: NULL. */
void faiss_dimension(sqlite3_context *context, int argc, sqlite3_value **argv);

/*
** faiss_distance(a, b [, metric]): what the column `distance` of a faiss table
** shows, to the last bit: Euclidean distance for 'l2' (the default), the negated
** inner product for 'ip', 1 - cosine similarity for 'cosine'. Smaller is nearer.
** NULL for a NULL argument. An error unless both have the same dimension.
*/
void faiss_distance(sqlite3_context *context, int argc, sqlite3_value **argv);

#endif
