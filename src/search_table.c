#include "search_table.h"

#include <string.h>

#include "cursor.h"
#include "function_table.h"
#include "publication.h"
#include "sql_text.h"

/* ---- faiss_search ---- */

enum {
    SEARCH_ID,
    SEARCH_SCORE,
    SEARCH_DISTANCE,
    SEARCH_DATABASE,
    SEARCH_TABLE_NAME,
    SEARCH_VECTOR,
    SEARCH_K
};
static const char search_columns[] =
    "CREATE TABLE x(id, score REAL, distance REAL, database HIDDEN BLOB, \"table\" HIDDEN BLOB, "
    "embedding HIDDEN BLOB, k HIDDEN BLOB)";

static int search_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                          sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    faiss_table *t = sqlite3_malloc64(sizeof *t);
    if (!t)
        return SQLITE_NOMEM;
    memset(t, 0, sizeof *t);
    int rc = sql_declare(db, search_columns, message);
    if (rc != SQLITE_OK) {
        sqlite3_free(t);
        return rc;
    }
    t->connection = connection_retain(aux);
    t->plan = (plan_table){.name = "faiss_search",
                           .id = SEARCH_ID,
                           .score = SEARCH_SCORE,
                           .distance = SEARCH_DISTANCE,
                           .vector = SEARCH_VECTOR,
                           .neighbours = SEARCH_K,
                           .database = SEARCH_DATABASE,
                           .table = SEARCH_TABLE_NAME,
                           .embedding = "embedding",
                           .rows = 100000,
                           .id_affinity = "BLOB",
                           .id_collation = "BINARY",
                           .first_column = SEARCH_K + 1};
    *out = &t->base;
    return SQLITE_OK;
}

static int search_disconnect(sqlite3_vtab *base)
{
    faiss_table *t = (faiss_table *)base;
    connection_release(t->connection);
    sqlite3_free(t);
    return SQLITE_OK;
}

/*
** faiss_search(database, table, embedding [, k]): the rows nearest to the
** embedding, nearest first: their id, score and distance. Without k, all rows,
** computed as far as they are read. Names and NULLs as in the scalar function.
*/
static const sqlite3_module search_module = {
    .iVersion = 0,
    .xConnect = search_connect,
    .xBestIndex = table_best_index,
    .xDisconnect = search_disconnect,
    .xOpen = cursor_open,
    .xClose = cursor_close,
    .xFilter = cursor_filter,
    .xNext = cursor_next,
    .xEof = cursor_eof,
    .xColumn = cursor_column,
    .xRowid = cursor_rowid,
};

/* ---- faiss_indexes ---- */

typedef struct indexes_cursor {
    sqlite3_vtab_cursor base;
    registry_line *lines;
    char **schemas; /* of each line; NULL where this connection has no such database */
    int count, at;
} indexes_cursor;

enum {
    INDEXES_DATABASE,
    INDEXES_TABLE_NAME,
    INDEXES_ROWS,
    INDEXES_DIMENSION,
    INDEXES_METRIC,
    INDEXES_KIND,
    INDEXES_BYTES,
    INDEXES_BUILD_SECONDS,
    INDEXES_SEARCHES,
    INDEXES_LEFT_OUT,
    INDEXES_LIVE,
    INDEXES_CONNECTIONS,
    INDEXES_MEMORY,
    INDEXES_ORIGIN
};
static const char indexes_columns[] =
    "CREATE TABLE x(database TEXT, \"table\" TEXT, rows INTEGER, dimension INTEGER, metric TEXT, "
    "kind TEXT, bytes INTEGER, build_seconds REAL, searches INTEGER, left_out INTEGER, live TEXT, "
    "connections INTEGER, memory TEXT, origin TEXT)";

static int indexes_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                           sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    int rc = function_table_connect(db, aux, indexes_columns, out, message);
    if (rc == SQLITE_OK)
        ((connection *)aux)->watch_keeper = *out;
    return rc;
}

/* SQLite disconnects eponymous tables before it looks whether a closing
** connection has statements left: the watches go here. */
static int indexes_disconnect(sqlite3_vtab *base)
{
    connection *owner = ((function_table *)base)->connection;
    if (owner->watch_keeper == base) {
        owner->watch_keeper = NULL;
        publication_end_host(owner);
        connection_drop_watches(owner);
    }
    return function_table_disconnect(base);
}

static int indexes_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    (void)base;
    info->estimatedCost = 10;
    info->estimatedRows = 10;
    return SQLITE_OK;
}

static int indexes_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    indexes_cursor *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    *out = &c->base;
    return SQLITE_OK;
}

static void indexes_forget(indexes_cursor *c)
{
    for (int i = 0; c->schemas && i < c->count; i++)
        sqlite3_free(c->schemas[i]);
    sqlite3_free(c->schemas);
    registry_list_free(c->lines, c->count);
    c->schemas = NULL;
    c->lines = NULL;
    c->count = 0;
}

static int indexes_close(sqlite3_vtab_cursor *base)
{
    indexes_forget((indexes_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

/* Give each line the name of its database on this connection. */
static int name_schemas(connection *owner, indexes_cursor *c)
{
    sqlite3_stmt *list;
    int rc = sql_prepare(owner->db, sql_text(SQL_DATABASE_LIST, NULL), &list);
    while (rc == SQLITE_OK && (rc = sqlite3_step(list)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        const char *schema = (const char *)sqlite3_column_text(list, 1);
        registry_database database;
        if (!schema)
            continue;
        connection_identify(owner, schema, &database);
        for (int i = 0; i < c->count && rc == SQLITE_OK; i++) {
            if (!c->schemas[i] && memcmp(&database, &c->lines[i].database, sizeof database) == 0) {
                c->schemas[i] = sqlite3_mprintf("%s", schema);
                rc = c->schemas[i] ? SQLITE_OK : SQLITE_NOMEM;
            }
        }
    }
    int finalized = sqlite3_finalize(list);
    return rc == SQLITE_DONE ? finalized : rc;
}

/* Give the others the name that they are published under. A host sees all, those that have
** no name by the path of their file. */
static int name_published(const connection *owner, indexes_cursor *c)
{
    for (int i = 0; i < c->count; i++) {
        if (c->schemas[i])
            continue;
        c->schemas[i] = publication_name_of_entry(c->lines[i].serial);
        if (c->schemas[i] || !owner->host)
            continue;
        const char *path = c->lines[i].path;
        c->schemas[i] = sqlite3_mprintf("%s", path ? path : ":memory:");
        if (!c->schemas[i])
            return SQLITE_NOMEM;
    }
    return SQLITE_OK;
}

static int indexes_eof(sqlite3_vtab_cursor *base)
{
    indexes_cursor *c = (indexes_cursor *)base;
    return c->at >= c->count;
}

static int indexes_next(sqlite3_vtab_cursor *base)
{
    indexes_cursor *c = (indexes_cursor *)base;
    do
        c->at++;
    while (c->at < c->count && !c->schemas[c->at]);
    return SQLITE_OK;
}

static int indexes_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                          sqlite3_value **argv)
{
    (void)number;
    (void)text;
    (void)argc;
    (void)argv;
    indexes_cursor *c = (indexes_cursor *)base;
    indexes_forget(c);
    int rc = registry_list(&c->lines, &c->count);
    if (rc != SQLITE_OK)
        return rc;
    size_t bytes = ((size_t)c->count + 1) * sizeof *c->schemas;
    c->schemas = sqlite3_malloc64(bytes);
    if (!c->schemas)
        return SQLITE_NOMEM;
    memset(c->schemas, 0, bytes);
    connection *owner = ((function_table *)base->pVtab)->connection;
    rc = name_schemas(owner, c);
    if (rc == SQLITE_OK)
        rc = name_published(owner, c);
    c->at = -1;
    return rc == SQLITE_OK ? indexes_next(base) : rc;
}

static int indexes_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    indexes_cursor *c = (indexes_cursor *)base;
    const registry_line *line = &c->lines[c->at];
    switch (column) {
    case INDEXES_DATABASE:
        sqlite3_result_text(context, c->schemas[c->at], -1, SQLITE_TRANSIENT);
        break;
    case INDEXES_TABLE_NAME:
        sqlite3_result_text(context, line->table, -1, SQLITE_TRANSIENT);
        break;
    case INDEXES_ROWS:
        sqlite3_result_int64(context, line->rows);
        break;
    case INDEXES_DIMENSION:
        sqlite3_result_int(context, line->dimension);
        break;
    case INDEXES_METRIC:
        sqlite3_result_text(context, vector_metric_name(line->metric), -1, SQLITE_STATIC);
        break;
    case INDEXES_KIND:
        sqlite3_result_text(context, line->kind, -1, SQLITE_TRANSIENT);
        break;
    case INDEXES_BYTES:
        sqlite3_result_int64(context, line->bytes);
        break;
    case INDEXES_BUILD_SECONDS:
        sqlite3_result_double(context, line->build_seconds);
        break;
    case INDEXES_SEARCHES:
        sqlite3_result_int64(context, line->searches);
        break;
    case INDEXES_LEFT_OUT:
        sqlite3_result_int64(context, line->left_out);
        break;
    case INDEXES_LIVE:
        sqlite3_result_text(context, line->live, -1, SQLITE_TRANSIENT);
        break;
    case INDEXES_CONNECTIONS:
        sqlite3_result_int(context, line->users);
        break;
    case INDEXES_MEMORY:
        sqlite3_result_text(context, line->memory, -1, SQLITE_STATIC);
        break;
    case INDEXES_ORIGIN:
        sqlite3_result_text(context, line->origin, -1, SQLITE_STATIC);
        break;
    default:
        break;
    }
    return SQLITE_OK;
}

static int indexes_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = ((indexes_cursor *)base)->at + 1;
    return SQLITE_OK;
}

/*
** faiss_indexes: a row for each index in this process over a database that this
** connection has open, and for each that is published; on a host connection for every one:
** database (as named here, or as published, or the file), table, rows, dimension, metric,
** kind (what answers searches now; of an approximate index that is not ready, why), bytes of
** memory, build_seconds (the last reading and building), searches
** since the index was first made, rows left_out as malformed, live (yes, or no and
** why: whether a change log tells what to read again), connections that use it, memory (full:
** vectors; low: sketches; or low and what is kept instead, and why), origin of an approximate
** index (built, or checkpoint: loaded). One pass over the
** list, no search.
*/
static const sqlite3_module indexes_module = {
    .iVersion = 0,
    .xConnect = indexes_connect,
    .xBestIndex = indexes_best_index,
    .xDisconnect = indexes_disconnect,
    .xOpen = indexes_open,
    .xClose = indexes_close,
    .xFilter = indexes_filter,
    .xNext = indexes_next,
    .xEof = indexes_eof,
    .xColumn = indexes_column,
    .xRowid = indexes_rowid,
};

int search_table_register(connection *c)
{
    int rc = sqlite3_create_module_v2(c->db, "faiss_search", &search_module, connection_retain(c),
                                      connection_release);
    if (rc == SQLITE_OK)
        rc = sqlite3_create_module_v2(c->db, "faiss_indexes", &indexes_module, connection_retain(c),
                                      connection_release);
    return rc;
}
