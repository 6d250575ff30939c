#include "aggregate.h"

#include <stdlib.h>
#include <string.h>

#include "function_results.h"
#include "json.h"
#include "scorer.h"

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

void aggregate_step(sqlite3_context *context, int argc, sqlite3_value **argv)
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

void faiss_agg_final(sqlite3_context *context)
{
    aggregate_finish(context, 0);
}

void faiss_agg_with_scores_final(sqlite3_context *context)
{
    aggregate_finish(context, 1);
}
