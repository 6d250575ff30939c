#include "recall_table.h"

#include <string.h>

#include "function_table.h"
#include "growth.h"
#include "message.h"
#include "naming.h"
#include "recall.h"
#include "snapshot_version.h"
#include "table.h"

enum {
    COLUMN_EF_SEARCH,
    COLUMN_NPROBE,
    COLUMN_RERANK,
    COLUMN_RECALL,
    COLUMN_MS,
    COLUMN_EXACT_MS,
    COLUMN_SAMPLED,
    COLUMN_KIND,
    COLUMN_DATABASE,
    COLUMN_TABLE,
    COLUMN_K,
    COLUMN_SAMPLE
};
static const char columns[] =
    "CREATE TABLE x(ef_search INTEGER, nprobe INTEGER, rerank INTEGER, recall REAL, ms REAL, "
    "exact_ms REAL, sampled INTEGER, kind TEXT, database HIDDEN BLOB, \"table\" HIDDEN BLOB, "
    "k HIDDEN BLOB, sample HIDDEN BLOB)";

/* The arguments, and the efforts that conditions name. */
enum {
    VALUE_DATABASE,
    VALUE_TABLE,
    VALUE_K,
    VALUE_SAMPLE,
    VALUE_EF_SEARCH,
    VALUE_NPROBE,
    VALUE_RERANK,
    VALUES
};
enum { SAMPLE_USUAL = 100, SAMPLE_MOST = 10000 };
static const int argument_columns[VALUES] = {COLUMN_DATABASE, COLUMN_TABLE,     COLUMN_K,
                                             COLUMN_SAMPLE,   COLUMN_EF_SEARCH, COLUMN_NPROBE,
                                             COLUMN_RERANK};
static const function_arguments arguments = {.call = "faiss_recall(database, table, k [, sample])",
                                             .columns = argument_columns,
                                             .count = VALUES,
                                             .needed = 1 << VALUE_DATABASE | 1 << VALUE_TABLE |
                                                       1 << VALUE_K,
                                             .cost = 1e8,
                                             .rows = 1};

/* One row for each xFilter: each value of an IN list comes alone. The sample and its
** exact answers are kept for the next one. */
typedef struct recall_cursor {
    sqlite3_vtab_cursor base;
    definition definition;
    snapshot snapshot;
    recall_sample sample;
    sqlite3_int64 k; /* as asked */
    int sampled;
    int is_sampled; /* the sample is that of these arguments */
    search_effort effort;
    recall_measured measured;
    char *kind; /* what answered */
    int at_end;
    sqlite3_int64 rows; /* so far */
} recall_cursor;

static int recall_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                          sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    return function_table_connect(db, aux, columns, out, message);
}

/* Refuse the other ways to compare an effort: they do not say what to measure. */
static int check_effort(sqlite3_vtab *base, const struct sqlite3_index_constraint *c)
{
    int effort = c->iColumn - COLUMN_EF_SEARCH;
    int is_range = c->op == SQLITE_INDEX_CONSTRAINT_GT || c->op == SQLITE_INDEX_CONSTRAINT_GE ||
                   c->op == SQLITE_INDEX_CONSTRAINT_LT || c->op == SQLITE_INDEX_CONSTRAINT_LE;
    if (effort < 0 || effort >= SEARCH_EFFORTS || !is_range)
        return SQLITE_OK;
    char *message = sqlite3_mprintf("faiss_recall: which values of %s to measure is said by = or "
                                    "IN (...)",
                                    search_effort_names[effort]);
    return table_failure(base, message ? SQLITE_ERROR : SQLITE_NOMEM, message);
}

static int recall_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    for (int i = 0; i < info->nConstraint; i++) {
        int rc = check_effort(base, &info->aConstraint[i]);
        if (rc != SQLITE_OK)
            return rc;
    }
    return function_table_plan(&arguments, info);
}

static int recall_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    int rc = function_table_open(sizeof(recall_cursor), out);
    if (rc == SQLITE_OK)
        ((recall_cursor *)*out)->at_end = 1;
    return rc;
}

static void forget(recall_cursor *c)
{
    recall_sample_close(&c->sample);
    snapshot_close(&c->snapshot);
    definition_clear(&c->definition);
    c->is_sampled = 0;
}

static int recall_close(sqlite3_vtab_cursor *base)
{
    recall_cursor *c = (recall_cursor *)base;
    forget(c);
    sqlite3_free(c->kind);
    sqlite3_free(c);
    return SQLITE_OK;
}

static int recall_eof(sqlite3_vtab_cursor *base)
{
    return ((recall_cursor *)base)->at_end;
}

static int recall_next(sqlite3_vtab_cursor *base)
{
    ((recall_cursor *)base)->at_end = 1;
    return SQLITE_OK;
}

/* ---- arguments ---- */

static int read_sampled(sqlite3_value *value, int *sampled, char **message)
{
    sqlite3_int64 number = value ? sqlite3_value_int64(value) : SAMPLE_USUAL;
    *sampled = (int)number;
    if (!value ||
        (sqlite3_value_type(value) == SQLITE_INTEGER && number >= 1 && number <= SAMPLE_MOST))
        return SQLITE_OK;
    row_value given = value_from_sql(value);
    char *shown = value_describe(&given);
    int rc = set_message(message, sqlite3_mprintf("faiss_recall: sample must be a whole number "
                                                  "from 1 to %d, not %s",
                                                  SAMPLE_MOST, shown ? shown : ""));
    sqlite3_free(shown);
    return rc;
}

/* Which table is meant; the snapshot of another one is closed. */
static int define(recall_cursor *c, sqlite3_value *const values[VALUES], char **message)
{
    connection *owner = ((function_table *)c->base.pVtab)->connection;
    const char *database, *table;
    int rc = function_table_names("faiss_recall", values, &database, &table, message);
    definition fresh;
    if (rc == SQLITE_OK)
        rc = naming_define(owner, database, table, &fresh, message);
    if (rc != SQLITE_OK)
        return rc;
    if (fresh.through) {
        rc = set_message(message, sqlite3_mprintf("faiss_recall: %s.%s is published by another "
                                                  "connection: ask where its file is open",
                                                  database, table));
        definition_clear(&fresh);
        return rc;
    }
    if (!c->snapshot.tracked || !definition_equal(&fresh, &c->definition)) {
        forget(c);
        c->definition = fresh;
        return snapshot_open(owner, &c->definition, &c->snapshot, message);
    }
    definition_clear(&fresh);
    return SQLITE_OK;
}

/* The efforts that the query names, and for the others the table's. */
static int read_efforts(recall_cursor *c, sqlite3_value *const values[VALUES], char **message)
{
    const definition *d = &c->definition;
    search_effort asked = {0};
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < SEARCH_EFFORTS; i++) {
        if (values[VALUE_EF_SEARCH + i])
            rc = search_effort_read(&asked, i, values[VALUE_EF_SEARCH + i], message);
    }
    if (rc == SQLITE_OK)
        rc = search_effort_check(&d->kind, &asked, message);
    c->effort = search_effort_of(&d->kind, &asked, &d->effort);
    return rc;
}

/* ---- measuring ---- */

/* Take the sample, unless it is there. */
static int take_sample(recall_cursor *c, sqlite3_int64 k, int sampled, char **message)
{
    index_version *v;
    if (c->is_sampled && c->k == k && c->sampled == sampled)
        return SQLITE_OK;
    recall_sample_close(&c->sample);
    c->is_sampled = 0;
    int rc = snapshot_index(&c->snapshot, &v, message);
    if (rc == SQLITE_OK && v->rows > 0)
        rc = snapshot_begin_search(&c->snapshot, v->dimension, message);
    if (rc == SQLITE_OK)
        rc = recall_sample_open(&c->snapshot, k, sampled, &c->sample, message);
    if (rc == SQLITE_MISMATCH) {
        rc = snapshot_compare(&c->snapshot, &v, message);
        if (rc == SQLITE_OK)
            rc = recall_sample_open(&c->snapshot, k, sampled, &c->sample, message);
    }
    c->k = k;
    c->sampled = sampled;
    c->is_sampled = rc == SQLITE_OK;
    return rc;
}

/* Say what answered: the index, exact search instead, or some of both. */
static char *describe(const recall_cursor *c)
{
    const index_kind *kind = &c->definition.kind;
    int by_index = c->measured.by_index;
    if (!*kind->text)
        return sqlite3_mprintf("Flat");
    if (by_index == c->sample.count)
        return sqlite3_mprintf("%s", kind->text);
    if (!c->snapshot.coverage)
        return growth_describe(c->snapshot.version, kind);
    return by_index ? sqlite3_mprintf("%s, %d of %d searches; the others Flat", kind->text,
                                      by_index, c->sample.count)
                    : sqlite3_mprintf("Flat: to score all rows is no slower than %s", kind->text);
}

/* Compare; where there is no approximate index exact search is compared with itself. */
static int measure(recall_cursor *c, char **message)
{
    int rc = SQLITE_OK;
    if (*c->definition.kind.text)
        rc = recall_measure(&c->sample, &c->snapshot, &c->effort, &c->measured, message);
    else
        c->measured = (recall_measured){.recall = 1, .ms = c->sample.exact_ms};
    if (rc == SQLITE_MISMATCH) {
        index_version *v; /* rows were handed out: it says so, and to run the statement again */
        rc = snapshot_compare(&c->snapshot, &v, message);
    }
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_free(c->kind);
    c->kind = describe(c);
    return c->kind ? SQLITE_OK : SQLITE_NOMEM;
}

static int begin(recall_cursor *c, sqlite3_value *const values[VALUES], char **message)
{
    sqlite3_int64 k;
    int sampled, rc = neighbours_from_value(values[VALUE_K], &k, message);
    if (rc == SQLITE_OK)
        rc = read_sampled(values[VALUE_SAMPLE], &sampled, message);
    if (rc == SQLITE_OK)
        rc = define(c, values, message);
    if (rc == SQLITE_OK)
        rc = read_efforts(c, values, message);
    if (rc == SQLITE_OK)
        rc = take_sample(c, k, sampled, message);
    if (rc == SQLITE_OK && c->sample.count > 0) {
        rc = measure(c, message);
        c->at_end = rc != SQLITE_OK;
        c->rows++;
    }
    return rc;
}

static int recall_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                         sqlite3_value **argv)
{
    (void)text;
    (void)argc;
    recall_cursor *c = (recall_cursor *)base;
    sqlite3_value *values[VALUES];
    char *message = NULL;
    c->at_end = 1;
    int rc = function_table_values(&arguments, number, argv, values, &message);
    if (rc != SQLITE_OK)
        return table_failure(base->pVtab, rc, message);
    if (sqlite3_value_type(values[VALUE_K]) == SQLITE_NULL)
        return SQLITE_OK;
    rc = begin(c, values, &message);
    if (rc != SQLITE_OK)
        forget(c);
    return table_failure(base->pVtab, rc, message);
}

/* An effort, where the kind has it. */
static void column_effort(const recall_cursor *c, sqlite3_context *context, int which)
{
    const index_kind *kind = &c->definition.kind;
    search_effort only = {.ef_search = which == 0, .nprobe = which == 1, .rerank = which == 2};
    if (search_effort_applies(kind, &only))
        sqlite3_result_int(context, search_effort_get(&c->effort, which));
}

static int recall_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    const recall_cursor *c = (recall_cursor *)base;
    switch (column) {
    case COLUMN_EF_SEARCH:
    case COLUMN_NPROBE:
    case COLUMN_RERANK:
        column_effort(c, context, column - COLUMN_EF_SEARCH);
        break;
    case COLUMN_RECALL:
        sqlite3_result_double(context, c->measured.recall);
        break;
    case COLUMN_MS:
        sqlite3_result_double(context, c->measured.ms);
        break;
    case COLUMN_EXACT_MS:
        sqlite3_result_double(context, c->sample.exact_ms);
        break;
    case COLUMN_SAMPLED:
        sqlite3_result_int(context, c->sample.count);
        break;
    case COLUMN_KIND:
        sqlite3_result_text(context, c->kind, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_DATABASE:
        sqlite3_result_text(context, c->definition.schema, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_TABLE:
        sqlite3_result_text(context, c->definition.table, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_K:
        sqlite3_result_int64(context, c->k);
        break;
    default:
        sqlite3_result_int(context, c->sampled);
        break;
    }
    return SQLITE_OK;
}

static int recall_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = ((recall_cursor *)base)->rows;
    return SQLITE_OK;
}

/*
** faiss_recall(database, table, k [, sample]): what share of the k nearest rows the table's
** approximate index finds, for `sample` of its own rows as queries (100 unless said
** otherwise, from all over the table, always the same for the same rows), and the median
** times of a search by it and of an exact one. A row for the usual ef_search, nprobe and
** rerank, or for those that conditions name: ef_search IN (16, 64) gives two. Of a table
** without an approximate index the recall is 1. Names and errors as in faiss_search; NULL k
** and an empty table: no rows. Time: sample searches of each sort, and building the index.
*/
static const sqlite3_module module = {
    .iVersion = 0,
    .xConnect = recall_connect,
    .xBestIndex = recall_best_index,
    .xDisconnect = function_table_disconnect,
    .xOpen = recall_open,
    .xClose = recall_close,
    .xFilter = recall_filter,
    .xNext = recall_next,
    .xEof = recall_eof,
    .xColumn = recall_column,
    .xRowid = recall_rowid,
};

int recall_table_register(connection *c)
{
    return function_table_register(c, "faiss_recall", &module);
}
