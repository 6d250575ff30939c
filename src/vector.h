/*
** A vector: float32 components, little-endian and packed in a BLOB, or a JSON
** array of numbers. Everything that comes in from SQL is checked here.
*/
#ifndef VECTOR_H
#define VECTOR_H

#include "sqlite_api.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "stored vectors are little-endian float32: this code reads them in place"
#endif

enum { VECTOR_COMPONENT_BYTES = 4 };

typedef enum vector_metric {
    METRIC_KIND_L2,    /* score: squared Euclidean distance; nearer is smaller */
    METRIC_KIND_IP,    /* score: inner product; nearer is larger */
    METRIC_KIND_COSINE /* score: cosine similarity; nearer is larger */
} vector_metric;

/* A vector read from an SQL value: a copy, aligned, owned until
** vector_clear(). */
typedef struct vector {
    float *x;
    int dimension;
} vector;

/* Find a metric by its SQL name: l2, ip or cosine, in any case. Returns 0 when
** there is none of that name. */
int vector_metric_parse(const char *name, vector_metric *metric);
const char *vector_metric_name(vector_metric metric);

/* The `distance` column for a score: sqrt(score), -score or 1 - score in
** double precision. Smaller is nearer for every metric. */
double vector_distance(vector_metric metric, float score);

/* Read a BLOB or JSON text. The value must hold at least one component, and
** only finite ones. SQLITE_OK, SQLITE_NOMEM, or SQLITE_ERROR with a message
** (sqlite3_free() it) that says what was found. NULL is the caller's case. */
int vector_from_value(sqlite3_value *value, vector *out, char **message);

/* Parse a JSON array of numbers, which may be empty; each must round to a
** finite float32. */
int vector_from_json(const char *text, int bytes, vector *out, char **message);

/* SQLITE_OK or SQLITE_NOMEM; *out is then empty. */
int vector_copy(const vector *v, vector *out);
void vector_clear(vector *v);

/* Whether both have the same components, bit by bit. */
int vector_equal(const vector *a, const vector *b);

/* The position of the first NaN or infinity, -1 if all are finite. */
int vector_first_nonfinite(const float *x, int dimension);

/* Read `k`, the number of neighbours asked for: an integer from 1 on (a REAL
** that is whole will do). SQLITE_OK or SQLITE_ERROR with a message; NULL is the
** caller's case. */
int neighbours_from_value(sqlite3_value *value, sqlite3_int64 *k, char **message);

/* Append the JSON array of `count` floats, each widened to double. */
void vector_append_json(sqlite3_str *out, const float *x, int count);

#endif
