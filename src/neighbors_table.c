#include "neighbors_table.h"

#include <string.h>

#include "all_rows.h"
#include "batch.h"
#include "function_table.h"
#include "snapshot_version.h"
#include "table.h"
#include "workers.h"

enum {
    COLUMN_ID,
    COLUMN_NEIGHBOR,
    COLUMN_SCORE,
    COLUMN_DISTANCE,
    COLUMN_DATABASE,
    COLUMN_TABLE,
    COLUMN_K
};
static const char columns[] =
    "CREATE TABLE x(id, neighbor, score REAL, distance REAL, database HIDDEN BLOB, "
    "\"table\" HIDDEN BLOB, k HIDDEN BLOB)";
/* Threads where the table does not say how many: each takes memory for every row. */
enum { THREADS_MOST = 8 };

enum { DATABASE, TABLE, K, ARGUMENTS };
static const int argument_columns[ARGUMENTS] = {COLUMN_DATABASE, COLUMN_TABLE, COLUMN_K};
static const function_arguments arguments = {.call = "faiss_neighbors(database, table, k)",
                                             .columns = argument_columns,
                                             .count = ARGUMENTS,
                                             .needed = 1 << DATABASE | 1 << TABLE | 1 << K,
                                             .cost = 1e8,
                                             .rows = 1000000};

/* Stands on the i-th neighbour of a row. */
typedef struct neighbors_cursor {
    sqlite3_vtab_cursor base;
    all_rows all;
    neighbour_batch *batch;
    sqlite3_int64 k;
    int64_t row, rows; /* the row at hand, by number; all rows */
    int64_t i, count;  /* the neighbour at hand; those of the row */
    const index_hit *hits;
} neighbors_cursor;

static int neighbors_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                             sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    return function_table_connect(db, aux, columns, out, message);
}

static int neighbors_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    (void)base;
    return function_table_plan(&arguments, info);
}

static int neighbors_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    return function_table_open(sizeof(neighbors_cursor), out);
}

static void forget(neighbors_cursor *c)
{
    neighbour_batch_close(c->batch);
    all_rows_close(&c->all);
    c->batch = NULL;
    c->row = c->rows = c->i = c->count = 0;
}

static int neighbors_close(sqlite3_vtab_cursor *base)
{
    forget((neighbors_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

static int neighbors_eof(sqlite3_vtab_cursor *base)
{
    neighbors_cursor *c = (neighbors_cursor *)base;
    return c->row >= c->rows;
}

/* Find the neighbours of the row at hand; a table of one row has none. */
static int find(neighbors_cursor *c, char **message)
{
    int rc = SQLITE_OK;
    c->i = c->count = 0;
    while (rc == SQLITE_OK && c->row < c->rows) {
        rc = neighbour_batch_row(c->batch, c->row, &c->hits, &c->count, message);
        if (c->count > 0)
            break;
        c->row++;
    }
    c->all.own.answered = 1; /* to find some rows' neighbours all rows were read */
    index_version *v;
    return rc == SQLITE_MISMATCH ? snapshot_compare(&c->all.own, &v, message) : rc;
}

static int neighbors_next(sqlite3_vtab_cursor *base)
{
    neighbors_cursor *c = (neighbors_cursor *)base;
    char *message = NULL;
    int rc = SQLITE_OK;
    if (++c->i >= c->count) {
        c->row++;
        rc = find(c, &message);
    }
    return table_failure(base->pVtab, rc, message);
}

/* Make ready for the neighbours of all rows of the version. It is work for as many threads as
** there are processors, which other searches take them from. */
static int open_batch(void *cursor, snapshot *s, char **message)
{
    neighbors_cursor *c = cursor;
    vector_reader reader = vector_reader_of(s);
    if (reader.threads == 0)
        reader.threads = workers_bound() < THREADS_MOST ? workers_bound() : THREADS_MOST;
    c->rows = s->version->rows;
    return c->rows ? neighbour_batch_open(s->version, c->k, &reader, &c->batch, message)
                   : SQLITE_OK;
}

static int begin(neighbors_cursor *c, sqlite3_value *const values[ARGUMENTS], char **message)
{
    connection *owner = ((function_table *)c->base.pVtab)->connection;
    int rc = neighbours_from_value(values[K], &c->k, message);
    if (rc == SQLITE_OK)
        rc = all_rows_define(&c->all, owner, "faiss_neighbors", values, message);
    if (rc == SQLITE_OK)
        rc = all_rows_open(&c->all, owner, open_batch, c, message);
    return rc == SQLITE_OK ? find(c, message) : rc;
}

static int neighbors_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                            sqlite3_value **argv)
{
    (void)text;
    (void)argc;
    neighbors_cursor *c = (neighbors_cursor *)base;
    sqlite3_value *values[ARGUMENTS];
    char *message = NULL;
    forget(c);
    int rc = function_table_values(&arguments, number, argv, values, &message);
    if (rc != SQLITE_OK)
        return table_failure(base->pVtab, rc, message);
    if (sqlite3_value_type(values[K]) == SQLITE_NULL)
        return SQLITE_OK;
    rc = begin(c, values, &message);
    if (rc != SQLITE_OK)
        forget(c);
    return table_failure(base->pVtab, rc, message);
}

static int neighbors_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    neighbors_cursor *c = (neighbors_cursor *)base;
    const index_hit *hit = &c->hits[c->i];
    index_hit own;
    char *message = NULL;
    int rc = SQLITE_OK;
    switch (column) {
    case COLUMN_ID:
        own = index_row(all_rows_snapshot(&c->all)->version, c->row);
        rc = all_rows_id(&c->all, &own, context, &message);
        break;
    case COLUMN_NEIGHBOR:
        rc = all_rows_id(&c->all, hit, context, &message);
        break;
    case COLUMN_SCORE:
        sqlite3_result_double(context, hit->score);
        break;
    case COLUMN_DISTANCE:
        sqlite3_result_double(context, vector_distance(c->all.definition.metric, hit->score));
        break;
    case COLUMN_DATABASE:
        sqlite3_result_text(context, c->all.definition.schema, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_TABLE:
        sqlite3_result_text(context, c->all.definition.table, -1, SQLITE_TRANSIENT);
        break;
    default:
        sqlite3_result_int64(context, c->k);
        break;
    }
    return table_failure(base->pVtab, rc, message);
}

static int neighbors_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    neighbors_cursor *c = (neighbors_cursor *)base;
    *rowid = c->row * c->count + c->i + 1;
    return SQLITE_OK;
}

/*
** faiss_neighbors(database, table, k): for each row, in the order of the source,
** the k nearest other rows, nearest first: its id, the neighbour's id, and their
** score and distance as a search for the row's embedding gives them. Names and
** errors as in faiss_search; NULL k: no rows. Time for n rows is that of a matrix
** product of n × n × dimension; memory for one block of rows, and for their codes.
*/
static const sqlite3_module module = {
    .iVersion = 0,
    .xConnect = neighbors_connect,
    .xBestIndex = neighbors_best_index,
    .xDisconnect = function_table_disconnect,
    .xOpen = neighbors_open,
    .xClose = neighbors_close,
    .xFilter = neighbors_filter,
    .xNext = neighbors_next,
    .xEof = neighbors_eof,
    .xColumn = neighbors_column,
    .xRowid = neighbors_rowid,
};

int neighbors_table_register(connection *c)
{
    return function_table_register(c, "faiss_neighbors", &module);
}
