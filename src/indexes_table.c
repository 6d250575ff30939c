#include "indexes_table.h"

#include <string.h>

#include "function_table.h"
#include "publication.h"
#include "sql_text.h"

typedef struct indexes_cursor {
    sqlite3_vtab_cursor base;
    registry_line *lines;
    char **schemas; /* of each line; NULL where this connection has no such database */
    int count, at;
} indexes_cursor;

enum {
    COLUMN_DATABASE,
    COLUMN_TABLE,
    COLUMN_ROWS,
    COLUMN_DIMENSION,
    COLUMN_METRIC,
    COLUMN_KIND,
    COLUMN_BYTES,
    COLUMN_BUILD_SECONDS,
    COLUMN_SEARCHES,
    COLUMN_LEFT_OUT,
    COLUMN_LIVE,
    COLUMN_CONNECTIONS,
    COLUMN_MEMORY,
    COLUMN_ORIGIN
};
static const char columns[] =
    "CREATE TABLE x(database TEXT, \"table\" TEXT, rows INTEGER, dimension INTEGER, metric TEXT, "
    "kind TEXT, bytes INTEGER, build_seconds REAL, searches INTEGER, left_out INTEGER, live TEXT, "
    "connections INTEGER, memory TEXT, origin TEXT)";

static int indexes_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                           sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    int rc = function_table_connect(db, aux, columns, out, message);
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
    return function_table_open(sizeof(indexes_cursor), out);
}

static void forget(indexes_cursor *c)
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
    forget((indexes_cursor *)base);
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
    forget(c);
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
    case COLUMN_DATABASE:
        sqlite3_result_text(context, c->schemas[c->at], -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_TABLE:
        sqlite3_result_text(context, line->table, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_ROWS:
        sqlite3_result_int64(context, line->rows);
        break;
    case COLUMN_DIMENSION:
        sqlite3_result_int(context, line->dimension);
        break;
    case COLUMN_METRIC:
        sqlite3_result_text(context, vector_metric_name(line->metric), -1, SQLITE_STATIC);
        break;
    case COLUMN_KIND:
        sqlite3_result_text(context, line->kind, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_BYTES:
        sqlite3_result_int64(context, line->bytes);
        break;
    case COLUMN_BUILD_SECONDS:
        sqlite3_result_double(context, line->build_seconds);
        break;
    case COLUMN_SEARCHES:
        sqlite3_result_int64(context, line->searches);
        break;
    case COLUMN_LEFT_OUT:
        sqlite3_result_int64(context, line->left_out);
        break;
    case COLUMN_LIVE:
        sqlite3_result_text(context, line->live, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_CONNECTIONS:
        sqlite3_result_int(context, line->users);
        break;
    case COLUMN_MEMORY:
        sqlite3_result_text(context, line->memory, -1, SQLITE_STATIC);
        break;
    case COLUMN_ORIGIN:
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
** index (built, or loaded: checkpoint, or checkpoint and log, stored.h). One pass over the
** list, no search.
*/
static const sqlite3_module module = {
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

int indexes_table_register(connection *c)
{
    return function_table_register(c, "faiss_indexes", &module);
}
