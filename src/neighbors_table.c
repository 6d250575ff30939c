#include "neighbors_table.h"

#include <string.h>

#include "batch.h"
#include "function_table.h"
#include "message.h"
#include "published.h"
#include "snapshot.h"
#include "table.h"

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
enum { ARGUMENTS = 3, ROWS_GUESSED = 1000000 };
static const double COST = 1e8, NO_RESORT = 1e18;

/* Stands on the i-th neighbour of a row. */
typedef struct neighbors_cursor {
    sqlite3_vtab_cursor base;
    definition definition;
    snapshot snapshot;        /* of a source of this connection … */
    published_rows published; /* … or what another one publishes */
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

/* All three arguments, in their order; what else is asked is left to SQLite. */
static int neighbors_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    (void)base;
    int found = 0, unusable = 0;
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        int argument = c->iColumn - COLUMN_DATABASE;
        if (argument < 0 || argument >= ARGUMENTS || c->op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        unusable |= !c->usable;
        if (!c->usable || found & 1 << argument)
            continue; /* given twice: SQLite compares the second one */
        info->aConstraintUsage[i].argvIndex = argument + 1;
        info->aConstraintUsage[i].omit = 1;
        found |= 1 << argument;
    }
    if (unusable)
        return SQLITE_CONSTRAINT;
    /* SQLite plans the sides of an OR alone, without the arguments: it must not take
    ** them. Where it does, they were not given, which xFilter says. */
    int complete = found == (1 << ARGUMENTS) - 1;
    info->idxNum = complete;
    info->estimatedRows = ROWS_GUESSED;
    info->estimatedCost = complete ? COST : NO_RESORT;
    return SQLITE_OK;
}

static int neighbors_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    neighbors_cursor *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    *out = &c->base;
    return SQLITE_OK;
}

static void forget(neighbors_cursor *c)
{
    neighbour_batch_close(c->batch);
    snapshot_close(&c->snapshot);
    published_rows_close(&c->published);
    definition_clear(&c->definition);
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
    c->snapshot.answered = 1; /* to find some rows' neighbours all rows were read */
    index_version *v;
    return rc == SQLITE_MISMATCH ? snapshot_compare(&c->snapshot, &v, message) : rc;
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

static const index_version *version_of(const neighbors_cursor *c)
{
    return c->definition.through ? c->published.detached.version : c->snapshot.version;
}

/* Make ready for the neighbours of all rows of the version. */
static int open_batch(neighbors_cursor *c, snapshot *s, char **message)
{
    vector_reader reader = vector_reader_of(s);
    c->rows = s->version->rows;
    return c->rows ? neighbour_batch_open(s->version, c->k, &reader, &c->batch, message)
                   : SQLITE_OK;
}

/* The same for the rows of the snapshot. */
static int begin_batch(neighbors_cursor *c, char **message)
{
    index_version *v;
    int rc = snapshot_index_in_order(&c->snapshot, &v, message);
    if (rc == SQLITE_OK && v->rows > 0)
        rc = snapshot_begin_search(&c->snapshot, v->dimension, message);
    return rc == SQLITE_OK ? open_batch(c, &c->snapshot, message) : rc;
}

static int begin_own(neighbors_cursor *c, connection *owner, char **message)
{
    index_version *v;
    int rc = snapshot_open(owner, &c->definition, &c->snapshot, message);
    if (rc == SQLITE_OK)
        rc = begin_batch(c, message);
    if (rc != SQLITE_MISMATCH)
        return rc;
    rc = snapshot_compare(&c->snapshot, &v, message);
    return rc == SQLITE_OK ? begin_batch(c, message) : rc;
}

static int begin_published(neighbors_cursor *c, connection *owner, char **message)
{
    int rc = published_rows_open(c->definition.through, owner, &c->published, message);
    return rc == SQLITE_OK ? open_batch(c, &c->published.detached, message) : rc;
}

static int begin(neighbors_cursor *c, sqlite3_value **argv, char **message)
{
    connection *owner = ((function_table *)c->base.pVtab)->connection;
    const char *database, *table;
    int rc = function_table_names("faiss_neighbors", argv, &database, &table, message);
    definition *d = &c->definition;
    if (rc == SQLITE_OK)
        rc = neighbours_from_value(argv[2], &c->k, message);
    if (rc == SQLITE_OK)
        rc = snapshot_define(owner, database, table, d, message);
    if (rc == SQLITE_OK)
        rc = d->through ? begin_published(c, owner, message) : begin_own(c, owner, message);
    return rc == SQLITE_OK ? find(c, message) : rc;
}

static int neighbors_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                            sqlite3_value **argv)
{
    (void)text;
    (void)argc;
    neighbors_cursor *c = (neighbors_cursor *)base;
    char *message = NULL;
    forget(c);
    if (!number) {
        int missing =
            set_message(&message, sqlite3_mprintf("faiss_neighbors(database, table, k): an "
                                                  "argument is missing"));
        return table_failure(base->pVtab, missing, message);
    }
    if (sqlite3_value_type(argv[2]) == SQLITE_NULL)
        return SQLITE_OK;
    int rc = begin(c, argv, &message);
    if (rc != SQLITE_OK)
        forget(c);
    return table_failure(base->pVtab, rc, message);
}

static int column_id(neighbors_cursor *c, const index_hit *hit, sqlite3_context *context,
                     char **message)
{
    row_value id;
    int rc = SQLITE_OK;
    if (c->definition.through)
        id = published_rows_id(&c->published, hit);
    else
        rc = snapshot_hit_id(&c->snapshot, hit, &id, message);
    if (rc == SQLITE_OK)
        value_to_result(context, &id);
    return rc;
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
        own = index_row(version_of(c), c->row);
        rc = column_id(c, &own, context, &message);
        break;
    case COLUMN_NEIGHBOR:
        rc = column_id(c, hit, context, &message);
        break;
    case COLUMN_SCORE:
        sqlite3_result_double(context, hit->score);
        break;
    case COLUMN_DISTANCE:
        sqlite3_result_double(context, vector_distance(c->definition.metric, hit->score));
        break;
    case COLUMN_DATABASE:
        sqlite3_result_text(context, c->definition.schema, -1, SQLITE_TRANSIENT);
        break;
    case COLUMN_TABLE:
        sqlite3_result_text(context, c->definition.table, -1, SQLITE_TRANSIENT);
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
** product of n × n × dimension; memory for one block of rows.
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
    return sqlite3_create_module_v2(c->db, "faiss_neighbors", &module, connection_retain(c),
                                    connection_release);
}
