#include "project_table.h"

#include <string.h>

#include "all_rows.h"
#include "function_table.h"
#include "message.h"
#include "projection.h"
#include "table.h"

enum {
    COLUMN_ID,
    COLUMN_X,
    COLUMN_Y,
    COLUMN_Z,
    COLUMN_DATABASE,
    COLUMN_TABLE,
    COLUMN_DIMENSIONS,
    COLUMN_COORDINATES
};
static const char columns[] =
    "CREATE TABLE x(id, x REAL, y REAL, z REAL, database HIDDEN BLOB, \"table\" HIDDEN BLOB, "
    "dimensions HIDDEN BLOB, coordinates HIDDEN BLOB)";
enum { DEFAULT_DIMENSIONS = 2, ROWS_AT_ONCE = 256 };

enum { DATABASE, TABLE, DIMENSIONS, ARGUMENTS };
static const int argument_columns[ARGUMENTS] = {COLUMN_DATABASE, COLUMN_TABLE, COLUMN_DIMENSIONS};
static const function_arguments arguments = {.call =
                                                 "faiss_project(database, table [, dimensions])",
                                             .columns = argument_columns,
                                             .count = ARGUMENTS,
                                             .needed = 1 << DATABASE | 1 << TABLE,
                                             .cost = 1e8,
                                             .rows = 100000};

typedef struct project_cursor {
    sqlite3_vtab_cursor base;
    all_rows all;
    projection *projection;
    int dimensions;
    int64_t row, rows;  /* the row at hand, by number; all rows */
    float *coordinates; /* of rows from `first` on */
    int64_t first;
    int count;
} project_cursor;

static int project_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                           sqlite3_vtab **out, char **message)
{
    (void)argc;
    (void)argv;
    return function_table_connect(db, aux, columns, out, message);
}

static int project_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    (void)base;
    return function_table_plan(&arguments, info);
}

static int project_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    return function_table_open(sizeof(project_cursor), out);
}

static void forget(project_cursor *c)
{
    projection_free(c->projection);
    all_rows_close(&c->all);
    sqlite3_free(c->coordinates);
    sqlite3_vtab_cursor base = c->base;
    *c = (project_cursor){.base = base};
}

static int project_close(sqlite3_vtab_cursor *base)
{
    forget((project_cursor *)base);
    sqlite3_free(base);
    return SQLITE_OK;
}

static int project_eof(sqlite3_vtab_cursor *base)
{
    project_cursor *c = (project_cursor *)base;
    return c->row >= c->rows;
}

/* Have the coordinates of the row at hand. */
static int fill(project_cursor *c, char **message)
{
    if (c->row >= c->rows || c->row < c->first + c->count)
        return SQLITE_OK;
    snapshot *s = all_rows_snapshot(&c->all);
    vector_reader reader = vector_reader_of(s);
    int64_t left = c->rows - c->row;
    c->first = c->row;
    c->count = left < ROWS_AT_ONCE ? (int)left : ROWS_AT_ONCE;
    return projection_rows(c->projection, s->version, &reader, c->first, c->count, c->coordinates,
                           message);
}

static int project_next(sqlite3_vtab_cursor *base)
{
    project_cursor *c = (project_cursor *)base;
    char *message = NULL;
    c->row++;
    int rc = fill(c, &message);
    return table_failure(base->pVtab, rc == SQLITE_MISMATCH ? SQLITE_ERROR : rc, message);
}

/* ---- xFilter ---- */

static int dimensions_from_value(sqlite3_value *value, int *dimensions, char **message)
{
    sqlite3_int64 n;
    int rc = neighbours_from_value(value, &n, message);
    if (rc == SQLITE_ERROR) { /* what it says is about k */
        sqlite3_free(*message);
        n = 0;
    } else if (rc != SQLITE_OK) {
        return rc;
    }
    *dimensions = n <= PROJECTION_MOST ? (int)n : 0;
    if (*dimensions > 0)
        return SQLITE_OK;
    return set_message(message,
                       sqlite3_mprintf("faiss_project: dimensions must be a whole number from 1 "
                                       "to %d, not %s",
                                       PROJECTION_MOST, sqlite3_value_text(value)));
}

/* Find the axes of the version. */
static int begin_projection(void *cursor, snapshot *s, char **message)
{
    project_cursor *c = cursor;
    const index_version *v = s->version;
    vector_reader reader = vector_reader_of(s);
    if (v->rows == 0)
        return SQLITE_OK;
    if (c->dimensions > v->dimension) {
        return set_message(message,
                           sqlite3_mprintf("faiss_project: %s.%s has vectors of %d dimensions, "
                                           "which cannot be projected to %d",
                                           c->all.definition.schema, c->all.definition.table,
                                           v->dimension, c->dimensions));
    }
    size_t bytes = ROWS_AT_ONCE * (size_t)c->dimensions * sizeof *c->coordinates;
    if (!c->coordinates)
        c->coordinates = sqlite3_malloc64(bytes);
    if (!c->coordinates)
        return SQLITE_NOMEM;
    int rc = projection_new(v, &reader, c->dimensions, &c->projection, message);
    c->rows = rc == SQLITE_OK ? v->rows : 0;
    return rc == SQLITE_OK ? fill(c, message) : rc;
}

static int begin(project_cursor *c, sqlite3_value *const values[ARGUMENTS], char **message)
{
    connection *owner = ((function_table *)c->base.pVtab)->connection;
    c->dimensions = DEFAULT_DIMENSIONS;
    int rc = SQLITE_OK;
    if (values[DIMENSIONS])
        rc = dimensions_from_value(values[DIMENSIONS], &c->dimensions, message);
    if (rc == SQLITE_OK)
        rc = all_rows_define(&c->all, owner, "faiss_project", values, message);
    return rc == SQLITE_OK ? all_rows_open(&c->all, owner, begin_projection, c, message) : rc;
}

static int project_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                          sqlite3_value **argv)
{
    (void)text;
    (void)argc;
    project_cursor *c = (project_cursor *)base;
    sqlite3_value *values[ARGUMENTS];
    char *message = NULL;
    forget(c);
    int rc = function_table_values(&arguments, number, argv, values, &message);
    if (rc != SQLITE_OK)
        return table_failure(base->pVtab, rc, message);
    if (values[DIMENSIONS] && sqlite3_value_type(values[DIMENSIONS]) == SQLITE_NULL)
        return SQLITE_OK;
    rc = begin(c, values, &message);
    if (rc != SQLITE_OK)
        forget(c);
    return table_failure(base->pVtab, rc, message);
}

/* ---- xColumn, xRowid ---- */

static int project_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    project_cursor *c = (project_cursor *)base;
    const float *here = c->coordinates + (c->row - c->first) * c->dimensions;
    index_hit hit;
    char *message = NULL;
    int rc = SQLITE_OK;
    switch (column) {
    case COLUMN_ID:
        hit = index_row(all_rows_snapshot(&c->all)->version, c->row);
        rc = all_rows_id(&c->all, &hit, context, &message);
        break;
    case COLUMN_DATABASE:
        sqlite3_result_text(context, c->all.definition.schema, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_TABLE:
        sqlite3_result_text(context, c->all.definition.table, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_DIMENSIONS:
        sqlite3_result_int(context, c->dimensions);
        break;
    case COLUMN_COORDINATES:
        sqlite3_result_blob(context, here, c->dimensions * VECTOR_COMPONENT_BYTES,
                            SQLITE_TRANSIENT);
        break;
    default: /* x, y, z, as many as there are */
        if (column - COLUMN_X < c->dimensions)
            sqlite3_result_double(context, here[column - COLUMN_X]);
        break;
    }
    return table_failure(base->pVtab, rc, message);
}

static int project_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    *rowid = ((project_cursor *)base)->row + 1;
    return SQLITE_OK;
}

/*
** faiss_project(database, table [, dimensions]): for each row, in the order of the source,
** its id and its coordinates on the first principal components (2 if not said): x, y
** and z, NULL beyond the dimensions; coordinates has all of them as a BLOB. Names and
** errors as in faiss_search; NULL dimensions: no rows. Time for n rows is that of reading
** a sample (projection.h), and n × dimension × dimensions as the rows are read.
*/
static const sqlite3_module module = {
    .iVersion = 0,
    .xConnect = project_connect,
    .xBestIndex = project_best_index,
    .xDisconnect = function_table_disconnect,
    .xOpen = project_open,
    .xClose = project_close,
    .xFilter = project_filter,
    .xNext = project_next,
    .xEof = project_eof,
    .xColumn = project_column,
    .xRowid = project_rowid,
};

int project_table_register(connection *c)
{
    return function_table_register(c, "faiss_project", &module);
}
