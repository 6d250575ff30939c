#include "search_table.h"

#include <string.h>

#include "cursor.h"
#include "function_table.h"
#include "sql_text.h"

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

int search_table_register(connection *c)
{
    return function_table_register(c, "faiss_search", &search_module);
}
