#include "project_table.h"

#include <string.h>

#include "function_table.h"
#include "message.h"
#include "projection.h"
#include "published.h"
#include "snapshot.h"
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
enum { ARGUMENTS = 3, REQUIRED = 3 /* bits */, ROWS_GUESSED = 100000, DEFAULT_DIMENSIONS = 2 };
enum { ROWS_AT_ONCE = 256 };
static const double COST = 1e8, NO_RESORT = 1e18;

typedef struct project_cursor {
    sqlite3_vtab_cursor base;
    definition definition;
    snapshot snapshot;        /* of a source of this connection … */
    published_rows published; /* … or what another one publishes */
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

/* idxNum says which arguments there are, a bit for each; their values come in order. */
static int project_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    (void)base;
    int at[ARGUMENTS] = {-1, -1, -1}, found = 0, place = 0;
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        int argument = c->iColumn - COLUMN_DATABASE;
        if (argument < 0 || argument >= ARGUMENTS || c->op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        if (!c->usable)
            return SQLITE_CONSTRAINT;
        if (at[argument] < 0) /* given twice: SQLite compares the second one */
            at[argument] = i;
    }
    for (int argument = 0; argument < ARGUMENTS; argument++) {
        if (at[argument] < 0)
            continue;
        found |= 1 << argument;
        info->aConstraintUsage[at[argument]].argvIndex = ++place;
        info->aConstraintUsage[at[argument]].omit = 1;
    }
    info->idxNum = found;
    info->estimatedRows = ROWS_GUESSED;
    /* Where SQLite plans without the arguments, as for the side of an OR, it must not. */
    info->estimatedCost = (found & REQUIRED) == REQUIRED ? COST : NO_RESORT;
    return SQLITE_OK;
}

static int project_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    project_cursor *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    *out = &c->base;
    return SQLITE_OK;
}

static void forget(project_cursor *c)
{
    projection_free(c->projection);
    snapshot_close(&c->snapshot);
    published_rows_close(&c->published);
    definition_clear(&c->definition);
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

/* The snapshot whose version is projected. */
static snapshot *snapshot_of(project_cursor *c)
{
    return c->definition.through ? &c->published.detached : &c->snapshot;
}

/* Have the coordinates of the row at hand. */
static int fill(project_cursor *c, char **message)
{
    if (c->row >= c->rows || c->row < c->first + c->count)
        return SQLITE_OK;
    snapshot *s = snapshot_of(c);
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
static int begin_projection(project_cursor *c, char **message)
{
    snapshot *s = snapshot_of(c);
    const index_version *v = s->version;
    vector_reader reader = vector_reader_of(s);
    if (v->rows == 0)
        return SQLITE_OK;
    if (c->dimensions > v->dimension) {
        return set_message(message,
                           sqlite3_mprintf("faiss_project: %s.%s has vectors of %d dimensions, "
                                           "which cannot be projected to %d",
                                           c->definition.schema, c->definition.table, v->dimension,
                                           c->dimensions));
    }
    size_t bytes = ROWS_AT_ONCE * (size_t)c->dimensions * sizeof *c->coordinates;
    c->coordinates = sqlite3_malloc64(bytes);
    if (!c->coordinates)
        return SQLITE_NOMEM;
    int rc = projection_new(v, &reader, c->dimensions, &c->projection, message);
    c->rows = rc == SQLITE_OK ? v->rows : 0;
    return rc == SQLITE_OK ? fill(c, message) : rc;
}

static int begin_own(project_cursor *c, connection *owner, char **message)
{
    index_version *v;
    int rc = snapshot_open(owner, &c->definition, &c->snapshot, message);
    if (rc == SQLITE_OK)
        rc = snapshot_index_in_order(&c->snapshot, &v, message);
    if (rc == SQLITE_OK && v->rows > 0)
        rc = snapshot_begin_search(&c->snapshot, v->dimension, message);
    if (rc == SQLITE_OK)
        rc = begin_projection(c, message);
    if (rc != SQLITE_MISMATCH)
        return rc;
    rc = snapshot_compare(&c->snapshot, &v, message);
    return rc == SQLITE_OK ? begin_projection(c, message) : rc;
}

static int begin(project_cursor *c, sqlite3_value **argv, char **message)
{
    connection *owner = ((function_table *)c->base.pVtab)->connection;
    const char *database, *table;
    int rc = function_table_names("faiss_project", argv, &database, &table, message);
    definition *d = &c->definition;
    if (rc == SQLITE_OK)
        rc = snapshot_define(owner, database, table, d, message);
    if (rc != SQLITE_OK || !d->through)
        return rc == SQLITE_OK ? begin_own(c, owner, message) : rc;
    rc = published_rows_open(d->through, owner, &c->published, message);
    return rc == SQLITE_OK ? begin_projection(c, message) : rc;
}

static int project_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                          sqlite3_value **argv)
{
    (void)text;
    project_cursor *c = (project_cursor *)base;
    char *message = NULL;
    int rc = SQLITE_OK;
    forget(c);
    c->dimensions = DEFAULT_DIMENSIONS;
    if ((number & REQUIRED) != REQUIRED)
        rc = set_message(&message, sqlite3_mprintf("faiss_project(database, table [, dimensions]): "
                                                   "an argument is missing"));
    else if (argc == ARGUMENTS && sqlite3_value_type(argv[2]) == SQLITE_NULL)
        return SQLITE_OK;
    else if (argc == ARGUMENTS)
        rc = dimensions_from_value(argv[2], &c->dimensions, &message);
    if (rc == SQLITE_OK)
        rc = begin(c, argv, &message);
    if (rc != SQLITE_OK)
        forget(c);
    return table_failure(base->pVtab, rc, message);
}

/* ---- xColumn, xRowid ---- */

static int column_id(project_cursor *c, sqlite3_context *context, char **message)
{
    row_value id;
    int rc = SQLITE_OK;
    index_hit hit = index_row(snapshot_of(c)->version, c->row);
    if (c->definition.through)
        id = published_rows_id(&c->published, &hit);
    else
        rc = snapshot_hit_id(&c->snapshot, &hit, &id, message);
    if (rc == SQLITE_OK)
        value_to_result(context, &id);
    return rc;
}

static int project_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    project_cursor *c = (project_cursor *)base;
    const float *here = c->coordinates + (c->row - c->first) * c->dimensions;
    char *message = NULL;
    int rc = SQLITE_OK;
    switch (column) {
    case COLUMN_ID:
        rc = column_id(c, context, &message);
        break;
    case COLUMN_DATABASE:
        sqlite3_result_text(context, c->definition.schema, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_TABLE:
        sqlite3_result_text(context, c->definition.table, -1, SQLITE_TRANSIENT);
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
    return sqlite3_create_module_v2(c->db, "faiss_project", &module, connection_retain(c),
                                    connection_release);
}
