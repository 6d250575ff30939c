#include "vector_functions.h"

#include <string.h>

#include "function_results.h"
#include "json.h"
#include "scorer.h"
#include "segment.h"

static int is_null(sqlite3_value *value)
{
    return sqlite3_value_type(value) == SQLITE_NULL;
}

static void result_vector(sqlite3_context *context, vector *v)
{
    sqlite3_result_blob64(context, v->x, (sqlite3_uint64)v->dimension * VECTOR_COMPONENT_BYTES,
                          sqlite3_free);
    v->x = NULL;
}

void faiss_encode(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    if (is_null(argv[0]))
        return;
    vector v;
    char *message = NULL;
    const char *json = (const char *)sqlite3_value_text(argv[0]);
    int rc =
        json ? vector_from_json(json, sqlite3_value_bytes(argv[0]), &v, &message) : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        result_vector(context, &v);
    else
        result_failure(context, rc, message);
}

void faiss_decode(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    if (is_null(argv[0]))
        return;
    if (sqlite3_value_type(argv[0]) != SQLITE_BLOB) {
        sqlite3_result_error(context, "faiss_decode: expected a BLOB of float32", -1);
        return;
    }
    const unsigned char *blob = sqlite3_value_blob(argv[0]);
    int bytes = sqlite3_value_bytes(argv[0]);
    if (bytes % VECTOR_COMPONENT_BYTES) {
        result_failure(context, SQLITE_ERROR,
                       sqlite3_mprintf("faiss_decode: a BLOB of %d bytes is not a whole number of "
                                       "float32 of %d bytes",
                                       bytes, VECTOR_COMPONENT_BYTES));
        return;
    }
    float *x = sqlite3_malloc64(bytes ? (sqlite3_uint64)bytes : 1);
    if (!x || (bytes && !blob)) {
        sqlite3_free(x);
        sqlite3_result_error_nomem(context);
        return;
    }
    if (bytes)
        memcpy(x, blob, (size_t)bytes);
    sqlite3_str *json = sqlite3_str_new(sqlite3_context_db_handle(context));
    vector_append_json(json, x, bytes / VECTOR_COMPONENT_BYTES);
    result_json(context, json);
    sqlite3_free(x);
}

/* Read an argument that is a vector. Where it is NULL, or the error has been reported, 0. */
static int read_vector(sqlite3_context *context, sqlite3_value *value, vector *v)
{
    char *message = NULL;
    if (is_null(value))
        return 0;
    int rc = vector_from_value(value, v, &message);
    if (rc != SQLITE_OK)
        result_failure(context, rc, message);
    return rc == SQLITE_OK;
}

void faiss_normalize(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    vector v;
    if (!read_vector(context, argv[0], &v))
        return;
    segment_normalize(v.x, v.dimension);
    result_vector(context, &v);
}

void faiss_dimension(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    vector v;
    if (!read_vector(context, argv[0], &v))
        return;
    sqlite3_result_int(context, v.dimension);
    vector_clear(&v);
}

/* One argument of faiss_distance() made ready for scoring; kept from row to row
** while the argument is constant. */
typedef struct prepared_argument {
    vector_metric metric;
    scorer *scorer;
} prepared_argument;

static void prepared_free(void *p)
{
    prepared_argument *prepared = p;
    scorer_close(prepared->scorer);
    sqlite3_free(prepared);
}

static int prepare_argument(sqlite3_context *context, sqlite3_value **argv, int i,
                            vector_metric metric, char **message)
{
    vector v = {0};
    prepared_argument *prepared = sqlite3_malloc64(sizeof *prepared);
    int rc = prepared ? vector_from_value(argv[i], &v, message) : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        prepared->metric = metric;
        rc = scorer_open(metric, v.x, v.dimension, &prepared->scorer, message);
    }
    vector_clear(&v);
    if (rc == SQLITE_OK)
        sqlite3_set_auxdata(context, i, prepared, prepared_free);
    else
        sqlite3_free(prepared);
    return rc;
}

/* Score argument `other` with the prepared one. */
static int score_prepared(const prepared_argument *prepared, sqlite3_value *other, float *score,
                          char **message)
{
    vector v = {0};
    int rc = vector_from_value(other, &v, message);
    if (rc == SQLITE_OK && v.dimension != scorer_dimension(prepared->scorer)) {
        *message = sqlite3_mprintf("cannot compare vectors of %d and %d dimensions",
                                   scorer_dimension(prepared->scorer), v.dimension);
        rc = *message ? SQLITE_ERROR : SQLITE_NOMEM;
    }
    if (rc == SQLITE_OK)
        rc = scorer_score(prepared->scorer, v.x, score, message);
    vector_clear(&v);
    return rc;
}

static int distance_score(sqlite3_context *context, sqlite3_value **argv, vector_metric metric,
                          float *score, char **message)
{
    for (int i = 0; i < 2; i++) {
        prepared_argument *kept = sqlite3_get_auxdata(context, i);
        if (kept && kept->metric == metric)
            return score_prepared(kept, argv[1 - i], score, message);
    }
    /* Which argument is constant shows only when SQLite still has it at the next
    ** row: what is kept for the other one is dropped at once. */
    vector v = {0};
    prepared_argument once = {.metric = metric};
    int rc = vector_from_value(argv[0], &v, message);
    if (rc == SQLITE_OK)
        rc = scorer_open(metric, v.x, v.dimension, &once.scorer, message);
    if (rc == SQLITE_OK)
        rc = score_prepared(&once, argv[1], score, message);
    for (int i = 0; rc == SQLITE_OK && i < 2; i++)
        rc = prepare_argument(context, argv, i, metric, message);
    scorer_close(once.scorer);
    vector_clear(&v);
    return rc;
}

void faiss_distance(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    vector_metric metric = METRIC_KIND_L2;
    for (int i = 0; i < argc; i++) {
        if (is_null(argv[i]))
            return;
    }
    char *message = NULL;
    if (argc == 3) {
        const char *name = (const char *)sqlite3_value_text(argv[2]);
        if (!name || !vector_metric_parse(name, &metric)) {
            result_failure(context, SQLITE_ERROR,
                           sqlite3_mprintf("unknown metric: %Q (expected l2, ip or cosine)", name));
            return;
        }
    }
    float score;
    int rc = distance_score(context, argv, metric, &score, &message);
    if (rc == SQLITE_OK)
        sqlite3_result_double(context, vector_distance(metric, score));
    else
        result_failure(context, rc, message);
}
