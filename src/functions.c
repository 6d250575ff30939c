#include "functions.h"

#include "aggregate.h"
#include "faiss_call.h"
#include "function_results.h"
#include "json.h"
#include "naming.h"
#include "published.h"
#include "search.h"
#include "snapshot_hit.h"
#include "snapshot_version.h"
#include "vector_functions.h"

#ifndef SQLITE_FAISS_VERSION
#define SQLITE_FAISS_VERSION "unversioned"
#endif
#ifndef FAISS_SIMD_LEVEL
#define FAISS_SIMD_LEVEL "unknown"
#endif

/* Append the first k rows of an exact walk or (`walk` NULL) of an approximate search. */
static int append_hits(snapshot *s, index_walk *walk, search *found, sqlite3_int64 k,
                       int with_scores, sqlite3_str *json, char **message)
{
    char *row = sqlite3_mprintf("in %s.%s", s->source->schema, s->source->table);
    index_hit hit;
    int rc = row ? SQLITE_OK : SQLITE_NOMEM;
    for (int64_t i = 0; rc == SQLITE_OK && i < k; i++) {
        rc = walk ? index_walk_at(walk, i, &hit, message) : search_next(found, &hit, message);
        if (rc != SQLITE_ROW)
            break;
        row_value id;
        rc = snapshot_hit_id(s, &hit, &id, message);
        if (rc == SQLITE_OK)
            rc = append_neighbour(json, &id, with_scores ? &hit.score : NULL, row, message);
    }
    sqlite3_free(row);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* The array of the nearest rows, with the help of an approximate index. */
static int append_approximate(snapshot *s, const vector *query, sqlite3_int64 k, int with_scores,
                              sqlite3_str *json, char **message)
{
    const definition *asked = &s->tracked->asked;
    search_effort effort = search_effort_of(&asked->kind, &(search_effort){0}, &asked->effort);
    search found = {0};
    filter none = {0};
    vector copy = {0};
    int rc = vector_copy(query, &copy);
    if (rc == SQLITE_OK)
        rc = search_begin(&found, s, &none, &copy, k, &effort, message);
    sqlite3_str_appendchar(json, 1, '[');
    if (rc == SQLITE_OK)
        rc = append_hits(s, NULL, &found, k, with_scores, json, message);
    sqlite3_str_appendchar(json, 1, ']');
    search_close(&found);
    vector_clear(&copy);
    return rc;
}

/* The array of the nearest rows. */
static int append_nearest(snapshot *s, index_version *v, const vector *query, sqlite3_int64 k,
                          int with_scores, sqlite3_str *json, char **message)
{
    if (*s->tracked->asked.kind.text && v->rows > 0)
        return append_approximate(s, query, k, with_scores, json, message);
    index_walk *walk = NULL;
    vector_reader reader = vector_reader_of(s);
    int rc = SQLITE_OK;
    sqlite3_str_appendchar(json, 1, '[');
    if (v->rows > 0)
        rc = index_walk_open(v, query->x, NULL, k, &reader, &walk, message);
    if (walk)
        rc = append_hits(s, walk, NULL, k, with_scores, json, message);
    sqlite3_str_appendchar(json, 1, ']');
    index_walk_close(walk);
    return rc;
}

/* The same where the index was found to differ from the source. */
static int append_nearest_anew(snapshot *s, const vector *query, sqlite3_int64 k, int with_scores,
                               sqlite3_str *json, char **message)
{
    index_version *v;
    int rc = snapshot_compare(s, &v, message);
    if (rc == SQLITE_OK)
        rc = snapshot_begin_search(s, query->dimension, message);
    if (rc == SQLITE_OK)
        rc = append_nearest(s, v, query, k, with_scores, json, message);
    s->answered = 1; /* a difference now is an error */
    return rc == SQLITE_MISMATCH ? snapshot_compare(s, &v, message) : rc;
}

static int search_to_json(connection *c, const definition *d, const vector *query, sqlite3_int64 k,
                          int with_scores, sqlite3_str *json, char **message)
{
    snapshot s;
    index_version *v;
    int rc = snapshot_open(c, d, &s, message);
    if (rc == SQLITE_OK)
        rc = snapshot_index(&s, &v, message);
    if (rc == SQLITE_OK)
        rc = snapshot_begin_search(&s, query->dimension, message);
    if (rc == SQLITE_OK)
        rc = append_nearest(&s, v, query, k, with_scores, json, message);
    if (rc == SQLITE_MISMATCH) {
        sqlite3_str_reset(json);
        rc = append_nearest_anew(&s, query, k, with_scores, json, message);
    }
    snapshot_close(&s);
    return rc;
}

/* The same in what another connection has published. */
static int search_published(connection *c, const definition *d, vector *query, sqlite3_int64 k,
                            int with_scores, sqlite3_str *json, char **message)
{
    published_search *s;
    index_hit hit;
    row_value id;
    char *row = sqlite3_mprintf("in %s.%s", d->schema, d->table);
    int rc = row ? published_search_open(d->through, c, query, k, k, 1, &s, message) : SQLITE_NOMEM;
    sqlite3_str_appendchar(json, 1, '[');
    if (rc == SQLITE_OK) {
        while ((rc = published_search_next(s, &hit, &id, message)) == SQLITE_ROW) {
            rc = append_neighbour(json, &id, with_scores ? &hit.score : NULL, row, message);
            if (rc != SQLITE_OK)
                break;
        }
        published_search_close(s);
    }
    sqlite3_str_appendchar(json, 1, ']');
    sqlite3_free(row);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static void search_function(sqlite3_context *context, sqlite3_value **argv, int with_scores)
{
    connection *c = sqlite3_user_data(context);
    char *message = NULL;
    if (sqlite3_value_type(argv[2]) == SQLITE_NULL || sqlite3_value_type(argv[3]) == SQLITE_NULL)
        return;
    const char *database = (const char *)sqlite3_value_text(argv[0]);
    const char *table = (const char *)sqlite3_value_text(argv[1]);
    if (!database || !table) {
        sqlite3_result_error(context, "database and table must be names, not NULL", -1);
        return;
    }
    vector query = {0};
    definition d = {0};
    sqlite3_int64 k;
    sqlite3_str *json = sqlite3_str_new(sqlite3_context_db_handle(context));
    int rc = neighbours_from_value(argv[3], &k, &message);
    if (rc == SQLITE_OK)
        rc = vector_from_value(argv[2], &query, &message);
    if (rc == SQLITE_OK)
        rc = naming_define(c, database, table, &d, &message);
    if (rc == SQLITE_OK)
        rc = d.through ? search_published(c, &d, &query, k, with_scores, json, &message)
                       : search_to_json(c, &d, &query, k, with_scores, json, &message);
    if (rc == SQLITE_OK) {
        result_json(context, json);
    } else {
        sqlite3_free(sqlite3_str_finish(json));
        result_failure(context, rc, message);
    }
    definition_clear(&d);
    vector_clear(&query);
}

/*
** faiss_search(database, table, embedding, k): a JSON array of the ids of the k
** rows nearest to the embedding, nearest first, each of its own type. The table
** has columns id (or else its rowid is the id) and embedding; it may also be a
** faiss table, whose definition then holds. NULL embedding or k: NULL. An empty
** table: []. One search; where the table has changed, one read of it before.
*/
static void faiss_search(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    search_function(context, argv, 0);
}

/* faiss_search_with_scores(database, table, embedding, k): the same as pairs
** [id, score]; the score of metric l2 is the squared Euclidean distance. */
static void faiss_search_with_scores(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    search_function(context, argv, 1);
}

/* ---- faiss_version ---- */

/* faiss_version(): this extension's version, FAISS's and the SIMD level that
** both are compiled for: "0.1.0 (FAISS 1.12.0, avx2)". */
static void faiss_version(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    (void)argv;
    char *text = sqlite3_mprintf("%s (FAISS %s, %s)", SQLITE_FAISS_VERSION, faiss_call_version(),
                                 FAISS_SIMD_LEVEL);
    if (text)
        sqlite3_result_text(context, text, -1, sqlite3_free);
    else
        sqlite3_result_error_nomem(context);
}

/* ---- registration ---- */

enum {
    READS_A_TABLE = SQLITE_UTF8 | SQLITE_RESULT_SUBTYPE,
    PURE = SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
    PURE_JSON = PURE | SQLITE_RESULT_SUBTYPE
};

typedef void scalar_function(sqlite3_context *, int, sqlite3_value **);

static const struct {
    const char *name;
    int arguments;
    int flags;
    scalar_function *scalar; /* NULL for an aggregate */
    void (*final)(sqlite3_context *);
} functions[] = {
    {"faiss_search", 4, READS_A_TABLE, faiss_search, NULL},
    {"faiss_search_with_scores", 4, READS_A_TABLE, faiss_search_with_scores, NULL},
    {"faiss_agg", 4, PURE_JSON, NULL, faiss_agg_final},
    {"faiss_agg_with_scores", 4, PURE_JSON, NULL, faiss_agg_with_scores_final},
    {"faiss_encode", 1, PURE, faiss_encode, NULL},
    {"faiss_decode", 1, PURE_JSON, faiss_decode, NULL},
    {"faiss_normalize", 1, PURE, faiss_normalize, NULL},
    {"faiss_dimension", 1, PURE, faiss_dimension, NULL},
    {"faiss_distance", 2, PURE, faiss_distance, NULL},
    {"faiss_distance", 3, PURE, faiss_distance, NULL},
    {"faiss_version", 0, PURE, faiss_version, NULL},
};

int functions_register(connection *c)
{
    int rc = SQLITE_OK;
    for (size_t i = 0; rc == SQLITE_OK && i < sizeof functions / sizeof *functions; i++) {
        rc = sqlite3_create_function_v2(
            c->db, functions[i].name, functions[i].arguments, functions[i].flags,
            connection_retain(c), functions[i].scalar, functions[i].scalar ? NULL : aggregate_step,
            functions[i].final, connection_release);
    }
    return rc;
}
