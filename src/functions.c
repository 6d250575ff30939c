#include "functions.h"

#include <stdlib.h>
#include <string.h>

#include "json.h"
#include "published.h"
#include "snapshot.h"
#include "search.h"

#ifndef SQLITE_FAISS_VERSION
#define SQLITE_FAISS_VERSION "unversioned"
#endif
#ifndef FAISS_SIMD_LEVEL
#define FAISS_SIMD_LEVEL "unknown"
#endif

/* Report a failure with its message, which is freed. */
static void result_failure(sqlite3_context *context, int rc, char *message)
{
    if (rc == SQLITE_NOMEM) {
        sqlite3_result_error_nomem(context);
    } else {
        if (message)
            sqlite3_result_error(context, message, -1);
        sqlite3_result_error_code(context, rc); /* keeps the message */
    }
    sqlite3_free(message);
}

/* Hand over JSON text, or the error that made it incomplete. */
static void result_json(sqlite3_context *context, sqlite3_str *json)
{
    int rc = sqlite3_str_errcode(json);
    int length = sqlite3_str_length(json);
    char *text = sqlite3_str_finish(json);
    if (rc == SQLITE_TOOBIG) {
        sqlite3_free(text);
        sqlite3_result_error_toobig(context);
    } else if (rc != SQLITE_OK || !text) {
        sqlite3_free(text);
        sqlite3_result_error_nomem(context);
    } else {
        sqlite3_result_text(context, text, length, sqlite3_free);
        sqlite3_result_subtype(context, JSON_SUBTYPE);
    }
}

/* ---- results as JSON ---- */

/* Append `id` or `[id, score]`. `row` describes the row in the error for an id
** that JSON cannot hold. */
static int append_neighbour(sqlite3_str *json, const row_value *id, const float *score,
                            const char *row, char **message)
{
    if (sqlite3_str_length(json) > 1)
        sqlite3_str_append(json, ", ", 2);
    if (score)
        sqlite3_str_appendchar(json, 1, '[');
    if (json_append_id(json, id) != SQLITE_OK) {
        char *shown = value_describe(id);
        *message = sqlite3_mprintf("the id %s %s is a BLOB, which JSON cannot hold: use the "
                                   "virtual table, or an id of another type",
                                   shown ? shown : "", row);
        sqlite3_free(shown);
        return *message ? SQLITE_ERROR : SQLITE_NOMEM;
    }
    if (score) {
        sqlite3_str_append(json, ", ", 2);
        json_append_double(json, *score);
        sqlite3_str_appendchar(json, 1, ']');
    }
    return SQLITE_OK;
}

/* ---- faiss_search, faiss_search_with_scores ---- */

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
        rc = snapshot_define(c, database, table, &d, &message);
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

/* ---- faiss_agg, faiss_agg_with_scores ---- */

typedef struct candidate {
    float score;
    int64_t arrival;
    sqlite3_value *id;
} candidate;

/* The k nearest of the rows so far, as a heap with the farthest on top. */
typedef struct aggregate {
    int started;
    int is_null; /* the first row's compare_embedding or k was NULL */
    scorer *scorer;
    sqlite3_int64 k;
    int64_t arrivals;
    candidate *kept;
    int64_t count, capacity;
} aggregate;

static int candidate_before(const candidate *a, const candidate *b)
{
    return a->score < b->score || (!(a->score > b->score) && a->arrival < b->arrival);
}

static int compare_candidates(const void *a, const void *b)
{
    return candidate_before(a, b) ? -1 : 1;
}

static void candidates_sink(aggregate *a, int64_t i)
{
    candidate moved = a->kept[i];
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= a->count)
            break;
        if (child + 1 < a->count && candidate_before(&a->kept[child], &a->kept[child + 1]))
            child++;
        if (!candidate_before(&moved, &a->kept[child]))
            break;
        a->kept[i] = a->kept[child];
        i = child;
    }
    a->kept[i] = moved;
}

static void candidates_rise(aggregate *a, int64_t i)
{
    candidate moved = a->kept[i];
    while (i > 0 && candidate_before(&a->kept[(i - 1) / 2], &moved)) {
        a->kept[i] = a->kept[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    a->kept[i] = moved;
}

static int candidates_add(aggregate *a, float score, sqlite3_value *id)
{
    candidate fresh = {score, a->arrivals++, NULL};
    if (a->count == a->k && !candidate_before(&fresh, &a->kept[0]))
        return SQLITE_OK;
    if (a->count < a->k && a->count == a->capacity) {
        int64_t capacity = a->capacity ? 2 * a->capacity : 16;
        candidate *kept = sqlite3_realloc64(a->kept, capacity * sizeof *kept);
        if (!kept)
            return SQLITE_NOMEM;
        a->kept = kept;
        a->capacity = capacity;
    }
    fresh.id = sqlite3_value_dup(id);
    if (!fresh.id)
        return SQLITE_NOMEM;
    if (a->count < a->k) {
        a->kept[a->count++] = fresh;
        candidates_rise(a, a->count - 1);
    } else {
        sqlite3_value_free(a->kept[0].id);
        a->kept[0] = fresh;
        candidates_sink(a, 0);
    }
    return SQLITE_OK;
}

static int aggregate_start(aggregate *a, sqlite3_value **argv, char **message)
{
    a->started = 1;
    a->is_null =
        sqlite3_value_type(argv[2]) == SQLITE_NULL || sqlite3_value_type(argv[3]) == SQLITE_NULL;
    if (a->is_null)
        return SQLITE_OK;
    vector query = {0};
    int rc = neighbours_from_value(argv[3], &a->k, message);
    if (rc == SQLITE_OK)
        rc = vector_from_value(argv[2], &query, message);
    if (rc == SQLITE_OK)
        rc = scorer_open(METRIC_KIND_L2, query.x, query.dimension, &a->scorer, message);
    vector_clear(&query);
    return rc;
}

static int aggregate_row(aggregate *a, sqlite3_value **argv, char **message)
{
    vector row = {0};
    char *why = NULL;
    int rc = vector_from_value(argv[1], &row, &why);
    if (rc == SQLITE_OK && row.dimension != scorer_dimension(a->scorer)) {
        why = sqlite3_mprintf("the embedding has %d dimensions, compare_embedding has %d",
                              row.dimension, scorer_dimension(a->scorer));
        rc = why ? SQLITE_ERROR : SQLITE_NOMEM;
    }
    float score;
    if (rc == SQLITE_OK)
        rc = scorer_score(a->scorer, row.x, &score, &why);
    if (rc == SQLITE_OK)
        rc = candidates_add(a, score, argv[0]);
    if (rc != SQLITE_OK && why) {
        row_value id = value_from_sql(argv[0]);
        char *shown = value_describe(&id);
        *message = sqlite3_mprintf("row with id %s: %s", shown ? shown : "", why);
        sqlite3_free(shown);
    }
    sqlite3_free(why);
    vector_clear(&row);
    return rc;
}

static void aggregate_step(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    char *message = NULL;
    aggregate *a = sqlite3_aggregate_context(context, sizeof *a);
    int rc = a ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK && !a->started)
        rc = aggregate_start(a, argv, &message);
    if (rc == SQLITE_OK && !a->is_null && sqlite3_value_type(argv[1]) != SQLITE_NULL)
        rc = aggregate_row(a, argv, &message);
    if (rc != SQLITE_OK)
        result_failure(context, rc, message);
}

static void aggregate_finish(sqlite3_context *context, int with_scores)
{
    aggregate *a = sqlite3_aggregate_context(context, 0);
    sqlite3_str *json = sqlite3_str_new(sqlite3_context_db_handle(context));
    char *message = NULL;
    int rc = SQLITE_OK;
    sqlite3_str_appendchar(json, 1, '[');
    if (a && a->count)
        qsort(a->kept, (size_t)a->count, sizeof *a->kept, compare_candidates);
    for (int64_t i = 0; a && i < a->count; i++) {
        row_value id = value_from_sql(a->kept[i].id);
        if (rc == SQLITE_OK)
            rc = append_neighbour(json, &id, with_scores ? &a->kept[i].score : NULL,
                                  "in the aggregate", &message);
        sqlite3_value_free(a->kept[i].id);
    }
    sqlite3_str_appendchar(json, 1, ']');
    if (rc == SQLITE_OK && !(a && a->is_null)) {
        result_json(context, json);
    } else {
        sqlite3_free(sqlite3_str_finish(json));
        if (rc != SQLITE_OK)
            result_failure(context, rc, message);
    }
    if (a) {
        scorer_close(a->scorer);
        sqlite3_free(a->kept);
    }
}

/*
** faiss_agg(id, embedding, compare_embedding, k): a JSON array of the ids of the
** k rows of the group whose embedding is nearest to compare_embedding (squared
** Euclidean distance, ties in the order of the rows). compare_embedding and k
** are those of the group's first row; rows with a NULL embedding are left out.
** NULL compare_embedding or k: NULL. No rows: []. Memory for k rows.
*/
static void faiss_agg_final(sqlite3_context *context)
{
    aggregate_finish(context, 0);
}

/* faiss_agg_with_scores(id, embedding, compare_embedding, k): pairs [id, score]. */
static void faiss_agg_with_scores_final(sqlite3_context *context)
{
    aggregate_finish(context, 1);
}

/* ---- one vector at a time ---- */

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

/*
** faiss_encode(json): a BLOB of little-endian float32, one for each number of a
** JSON array, rounded to the nearest. NULL: NULL. An error where the text is no
** flat array of numbers, or a number is beyond float32.
*/
static void faiss_encode(sqlite3_context *context, int argc, sqlite3_value **argv)
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

/*
** faiss_decode(blob): the JSON array of a BLOB of float32, each number as the
** double it equals. NULL: NULL. An error where the length is no multiple of 4.
*/
static void faiss_decode(sqlite3_context *context, int argc, sqlite3_value **argv)
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

/* faiss_normalize(vector): the vector as a BLOB, scaled to Euclidean length 1;
** a zero vector stays zero. NULL: NULL. */
static void faiss_normalize(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    if (is_null(argv[0]))
        return;
    vector v;
    char *message = NULL;
    int rc = vector_from_value(argv[0], &v, &message);
    if (rc != SQLITE_OK) {
        result_failure(context, rc, message);
        return;
    }
    segment_normalize(v.x, v.dimension);
    result_vector(context, &v);
}

/* faiss_dimension(vector): how many components it has. NULL: NULL. */
static void faiss_dimension(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    if (is_null(argv[0]))
        return;
    vector v;
    char *message = NULL;
    int rc = vector_from_value(argv[0], &v, &message);
    if (rc == SQLITE_OK)
        sqlite3_result_int(context, v.dimension);
    else
        result_failure(context, rc, message);
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

/*
** faiss_distance(a, b [, metric]): what the column `distance` of a faiss table
** shows, to the last bit: Euclidean distance for 'l2' (the default), the negated
** inner product for 'ip', 1 - cosine similarity for 'cosine'. Smaller is nearer.
** NULL for a NULL argument. An error unless both have the same dimension.
*/
static void faiss_distance(sqlite3_context *context, int argc, sqlite3_value **argv)
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

/* faiss_version(): this extension's version, FAISS's and the SIMD level that
** both are compiled for: "0.1.0 (FAISS 1.12.0, avx2)". */
static void faiss_version(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    (void)argc;
    (void)argv;
    char *text = sqlite3_mprintf("%s (FAISS %s, %s)", SQLITE_FAISS_VERSION, segment_faiss_version(),
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
