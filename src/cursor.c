#include "cursor.h"

#include <string.h>

#include "snapshot.h"

enum { STREAM_DEPTH = 32 /* rows sought at first where no LIMIT says better */ };

/*
** A cursor sees one snapshot from its first xFilter to xClose, that is, for the
** whole statement, however often it is filtered again.
**
** Its rows come from a walk over the index (knn, stream) or from a statement on
** the source (scan, lookup, point). Where rows have no rowid, the number of a row
** in the index stands for it, so that every plan must take rows from the index:
** a scan reads it in order, and look-ups become scans, a point a stream, whose
** rows SQLite filters.
*/
typedef struct faiss_cursor {
    sqlite3_vtab_cursor base;
    snapshot snapshot;
    definition definition; /* of the function's arguments in `snapshot` */
    plan plan;
    vector query;
    sqlite3_int64 neighbours, depth; /* of the walk */
    index_walk *walk;
    int from_index; /* the row is `hit`; otherwise the one that `rows` stands on */
    index_hit hit;
    sqlite3_stmt *rows;
    scorer *scorer; /* of point plans */
    float score;
    sqlite3_int64 position; /* rows given so far */
    int at_end;
} faiss_cursor;

static faiss_table *table_of(const faiss_cursor *c)
{
    return (faiss_table *)c->base.pVtab;
}

static int reads_index(const faiss_cursor *c)
{
    return c->plan.kind == PLAN_KNN || c->plan.kind == PLAN_STREAM;
}

static int is_scored(const faiss_cursor *c)
{
    return reads_index(c) || c->plan.kind == PLAN_POINT;
}

int cursor_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    (void)base;
    faiss_cursor *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    c->at_end = 1;
    *out = &c->base;
    return SQLITE_OK;
}

/* Forget the rows of the last xFilter, but not the snapshot. */
static void cursor_reset(faiss_cursor *c)
{
    index_walk_close(c->walk);
    c->walk = NULL;
    scorer_close(c->scorer);
    c->scorer = NULL;
    sqlite3_finalize(c->rows);
    c->rows = NULL;
    vector_clear(&c->query);
}

int cursor_close(sqlite3_vtab_cursor *base)
{
    faiss_cursor *c = (faiss_cursor *)base;
    cursor_reset(c);
    snapshot_close(&c->snapshot);
    definition_clear(&c->definition);
    sqlite3_free(c);
    return SQLITE_OK;
}

/* ---- rows ---- */

static int bad_point(faiss_cursor *c, char *found, char **message)
{
    row_value id = value_from_sql(sqlite3_column_value(c->rows, SOURCE_COLUMN_ID));
    char expected[64];
    sqlite3_snprintf(sizeof expected, expected, "a BLOB of %d finite float32",
                     scorer_dimension(c->scorer));
    return source_bad_row(c->snapshot.source, sqlite3_column_int64(c->rows, SOURCE_COLUMN_KEY), &id,
                          found, expected, message);
}

/* Score the row that the statement stands on. SQLITE_DONE for a row to skip. */
static int score_point(faiss_cursor *c, char **message)
{
    sqlite3_value *value = sqlite3_column_value(c->rows, SOURCE_COLUMN_EMBEDDING);
    int strict = c->snapshot.tracked->asked.strict;
    vector v = {0};
    char *why = NULL;
    int rc = sqlite3_value_type(value) == SQLITE_BLOB ? vector_from_value(value, &v, &why)
                                                      : SQLITE_ERROR;
    sqlite3_free(why);
    if (rc == SQLITE_NOMEM)
        return rc;
    if (rc != SQLITE_OK || v.dimension != scorer_dimension(c->scorer)) {
        rc = SQLITE_DONE;
        if (strict) {
            rc = bad_point(
                c,
                v.x && v.dimension == scorer_dimension(c->scorer)
                    ? sqlite3_mprintf("NaN or infinity")
                    : source_describe_value(sqlite3_value_type(value), sqlite3_value_bytes(value)),
                message);
        }
    } else {
        rc = scorer_score(c->scorer, v.x, &c->score, message);
    }
    vector_clear(&v);
    return rc;
}

/* Move to the next row of the statement. */
static int advance_statement(faiss_cursor *c, char **message)
{
    for (;;) {
        int rc = snapshot_step(&c->snapshot, c->rows);
        if (rc == SQLITE_DONE) {
            c->at_end = 1;
            return SQLITE_OK;
        }
        if (rc != SQLITE_ROW)
            return source_failure(c->snapshot.connection->db, c->snapshot.source, rc, message);
        if (c->plan.kind != PLAN_POINT)
            return SQLITE_OK;
        rc = score_point(c, message);
        if (rc != SQLITE_DONE)
            return rc;
    }
}

static int advance_walk(faiss_cursor *c, char **message)
{
    int rc = index_walk_at(c->walk, c->position, &c->hit, message);
    if (rc == SQLITE_DONE) {
        c->at_end = 1;
        return SQLITE_OK;
    }
    c->score = c->hit.score;
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* Move to the next row of the index in its own order. */
static int advance_index(faiss_cursor *c)
{
    const index_version *v = c->snapshot.version;
    if (c->position < v->rows)
        c->hit = index_row(v, c->position);
    else
        c->at_end = 1;
    return SQLITE_OK;
}

static int advance(faiss_cursor *c, char **message)
{
    int rc = c->walk         ? advance_walk(c, message)
             : c->from_index ? advance_index(c)
                             : advance_statement(c, message);
    c->position++;
    return rc;
}

int cursor_next(sqlite3_vtab_cursor *base)
{
    faiss_cursor *c = (faiss_cursor *)base;
    char *message = NULL;
    int rc = advance(c, &message);
    return table_failure(base->pVtab, rc, message);
}

int cursor_eof(sqlite3_vtab_cursor *base)
{
    return ((faiss_cursor *)base)->at_end;
}

/* ---- xFilter ---- */

static sqlite3_value *value_at(const faiss_cursor *c, sqlite3_value **argv, plan_value which)
{
    return c->plan.at[which] >= 0 ? argv[c->plan.at[which]] : NULL;
}

/* A NULL among these gives no rows. */
static int has_null(const faiss_cursor *c, sqlite3_value **argv)
{
    static const plan_value values[] = {PLAN_VECTOR, PLAN_NEIGHBOURS, PLAN_ID, PLAN_ROWID};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        sqlite3_value *value = value_at(c, argv, values[i]);
        if (value && sqlite3_value_type(value) == SQLITE_NULL)
            return 1;
    }
    return 0;
}

/* The definition that the function's arguments give; the snapshot of another
** one is closed. */
static int define_by_arguments(faiss_cursor *c, sqlite3_value **argv, char **message)
{
    const char *database = (const char *)sqlite3_value_text(value_at(c, argv, PLAN_DATABASE));
    const char *table = (const char *)sqlite3_value_text(value_at(c, argv, PLAN_TABLE));
    if (!database || !table) {
        *message = sqlite3_mprintf("faiss_search: database and table must be names, not NULL");
        return *message ? SQLITE_ERROR : SQLITE_NOMEM;
    }
    definition fresh;
    int rc = snapshot_define(table_of(c)->connection, database, table, &fresh, message);
    if (rc != SQLITE_OK)
        return rc;
    if (c->snapshot.tracked && !definition_equal(&fresh, &c->definition)) {
        cursor_reset(c);
        snapshot_close(&c->snapshot);
    }
    definition_clear(&c->definition);
    c->definition = fresh;
    return SQLITE_OK;
}

static int open_snapshot(faiss_cursor *c, sqlite3_value **argv, char **message)
{
    faiss_table *t = table_of(c);
    const definition *d = &t->definition;
    if (!d->table) {
        int rc = define_by_arguments(c, argv, message);
        if (rc != SQLITE_OK)
            return rc;
        d = &c->definition;
    }
    return c->snapshot.tracked ? SQLITE_OK : snapshot_open(t->connection, d, &c->snapshot, message);
}

/* How many rows to seek at first: those that LIMIT will take. */
static sqlite3_int64 first_depth(const faiss_cursor *c, sqlite3_value **argv)
{
    sqlite3_value *limit = value_at(c, argv, PLAN_LIMIT);
    sqlite3_value *offset = value_at(c, argv, PLAN_OFFSET);
    if (!limit || sqlite3_value_int64(limit) < 0)
        return STREAM_DEPTH;
    sqlite3_int64 depth = sqlite3_value_int64(limit);
    sqlite3_int64 skipped = offset ? sqlite3_value_int64(offset) : 0;
    return skipped > 0 && depth < INT64_MAX - skipped ? depth + skipped : depth;
}

/* Begin the walk, or go back to its first row where the question is the same. */
static int filter_index(faiss_cursor *c, vector *query, sqlite3_int64 neighbours,
                        sqlite3_int64 depth, char **message)
{
    size_t bytes = (size_t)query->dimension * sizeof *query->x;
    if (c->walk && c->query.dimension == query->dimension && c->neighbours == neighbours &&
        c->depth == depth && memcmp(c->query.x, query->x, bytes) == 0)
        return SQLITE_OK;
    cursor_reset(c);
    index_version *v;
    int rc = snapshot_index(&c->snapshot, &v, message);
    if (rc == SQLITE_OK)
        rc = snapshot_begin_search(&c->snapshot, query->dimension, message);
    if (rc != SQLITE_OK)
        return rc;
    table_of(c)->plan.rows = v->rows + 1;
    if (v->rows == 0) {
        c->at_end = 1;
        return SQLITE_OK;
    }
    c->query = *query;
    *query = (vector){0};
    c->neighbours = neighbours;
    c->depth = depth;
    return index_walk_open(v, c->query.x, neighbours, depth, &c->walk, message);
}

/* Read the index in its own order. */
static int filter_scan(faiss_cursor *c, char **message)
{
    index_version *v;
    cursor_reset(c);
    return snapshot_index(&c->snapshot, &v, message);
}

static int filter_statement(faiss_cursor *c, sqlite3_value **argv, vector *query, char **message)
{
    cursor_reset(c);
    sqlite3_value *rowid = value_at(c, argv, PLAN_ROWID), *id = value_at(c, argv, PLAN_ID);
    source_statement which = rowid ? SOURCE_ROWS_BY_ROWID : id ? SOURCE_ROWS_BY_ID : SOURCE_SCAN;
    int rc = SQLITE_OK;
    if (c->plan.kind == PLAN_POINT) {
        rc = scorer_open(c->snapshot.tracked->asked.metric, query->x, query->dimension, &c->scorer,
                         message);
    }
    if (rc == SQLITE_OK)
        rc = source_prepare(c->snapshot.connection->db, c->snapshot.source, which, &c->rows,
                            message);
    if (rc == SQLITE_OK && (rowid || id))
        rc = sqlite3_bind_value(c->rows, 1, rowid ? rowid : id);
    return rc;
}

static int filter(faiss_cursor *c, sqlite3_value **argv, char **message)
{
    vector query = {0};
    sqlite3_int64 neighbours = -1, depth = 0;
    sqlite3_value *asked = value_at(c, argv, PLAN_NEIGHBOURS);
    sqlite3_value *vector_value = value_at(c, argv, PLAN_VECTOR);
    int rc = open_snapshot(c, argv, message);
    if (rc == SQLITE_OK && asked)
        rc = neighbours_from_value(asked, &neighbours, message);
    if (rc == SQLITE_OK && vector_value)
        rc = vector_from_value(vector_value, &query, message);
    if (rc == SQLITE_OK) {
        int has_rowid = c->snapshot.source->rowid != NULL;
        if (!has_rowid && c->plan.kind == PLAN_POINT)
            c->plan.kind = PLAN_STREAM;
        c->from_index = reads_index(c) || !has_rowid;
        depth = asked ? neighbours : first_depth(c, argv);
        rc = reads_index(c)  ? filter_index(c, &query, neighbours, depth, message)
             : c->from_index ? filter_scan(c, message)
                             : filter_statement(c, argv, &query, message);
    }
    vector_clear(&query);
    return rc;
}

int cursor_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                  sqlite3_value **argv)
{
    faiss_cursor *c = (faiss_cursor *)base;
    char *message = NULL;
    c->position = 0;
    c->at_end = 0;
    int rc = plan_decode(number, text, argc, &c->plan);
    if (rc == SQLITE_OK && has_null(c, argv)) {
        c->at_end = 1;
        return SQLITE_OK;
    }
    if (rc == SQLITE_OK)
        rc = filter(c, argv, &message);
    if (rc == SQLITE_OK && !c->at_end)
        rc = advance(c, &message);
    if (rc != SQLITE_OK)
        c->at_end = 1;
    return table_failure(base->pVtab, rc, message);
}

/* ---- xColumn, xRowid ---- */

static int column_id(faiss_cursor *c, sqlite3_context *context, char **message)
{
    if (!c->from_index) {
        sqlite3_result_value(context, sqlite3_column_value(c->rows, SOURCE_COLUMN_ID));
        return SQLITE_OK;
    }
    row_value id;
    int rc = snapshot_hit_id(&c->snapshot, &c->hit, &id, message);
    if (rc == SQLITE_OK)
        value_to_result(context, &id);
    return rc;
}

static int column_embedding(faiss_cursor *c, sqlite3_context *context, char **message)
{
    if (c->from_index)
        return snapshot_hit_embedding(&c->snapshot, &c->hit, context, message);
    sqlite3_result_value(context, sqlite3_column_value(c->rows, SOURCE_COLUMN_EMBEDDING));
    return SQLITE_OK;
}

int cursor_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    faiss_cursor *c = (faiss_cursor *)base;
    const faiss_table *t = table_of(c);
    char *message = NULL;
    int rc = SQLITE_OK;
    if (column == t->plan.id)
        rc = column_id(c, context, &message);
    else if (column == t->plan.score && is_scored(c))
        sqlite3_result_double(context, c->score);
    else if (column == t->plan.distance && is_scored(c))
        sqlite3_result_double(context,
                              vector_distance(c->snapshot.tracked->asked.metric, c->score));
    else if (column == t->plan.vector)
        rc = column_embedding(c, context, &message);
    else if (column == t->plan.neighbours && c->plan.kind == PLAN_KNN)
        sqlite3_result_int64(context, c->neighbours);
    else if (column == t->plan.database)
        sqlite3_result_text(context, c->definition.schema, -1, SQLITE_TRANSIENT);
    else if (column == t->plan.table)
        sqlite3_result_text(context, c->definition.table, -1, SQLITE_TRANSIENT);
    return table_failure(base->pVtab, rc, message);
}

int cursor_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    faiss_cursor *c = (faiss_cursor *)base;
    if (!c->from_index)
        *rowid = sqlite3_column_int64(c->rows, SOURCE_COLUMN_KEY);
    else if (c->snapshot.version->kept_values)
        *rowid = c->hit.key + 1; /* the number of the row, counted from 1 like rowids */
    else
        *rowid = c->hit.key;
    return SQLITE_OK;
}
