#include "cursor.h"

#include <string.h>

#include "best_index.h"
#include "bounds.h"
#include "message.h"
#include "naming.h"
#include "published.h"
#include "scorer.h"
#include "search.h"
#include "snapshot_hit.h"
#include "snapshot_version.h"

/* Where the rows of a cursor come from. */
typedef enum row_origin {
    FROM_SEARCH,    /* knn, stream */
    FROM_PUBLISHED, /* the same, through another connection */
    FROM_INDEX,     /* scan, where rows have no rowid */
    FROM_SOURCE     /* a statement on the source: scan, lookup, point */
} row_origin;

/*
** A cursor sees one snapshot from its first xFilter to xClose, that is, for the
** whole statement, however often it is filtered again.
**
** Where rows have no rowid, the number of a row in the index stands for it, so
** that every plan must take its rows from the index: look-ups become scans and
** points streams, whose rows SQLite filters. So it is with what another connection
** publishes, of which this one sees ids and scores only; each xFilter sees the latest commit
** there.
*/
typedef struct faiss_cursor {
    sqlite3_vtab_cursor base;
    snapshot snapshot;
    definition definition; /* of the function's arguments in `snapshot` */
    char *columns;         /* of a source_query: the table's source columns, in order */
    plan plan;
    row_origin origin;
    search_effort effort;     /* as the query says, 0 where it says nothing */
    sqlite3_int64 neighbours; /* rows to give at most, -1 for all */
    bounds bounds;            /* on score and distance */
    search search;
    published_search *published;
    row_value id;       /* of its row */
    index_hit hit;      /* the row of a search or of the index */
    sqlite3_stmt *rows; /* the row of the source … */
    filter rows_filter; /* … that this lets through */
    vector point;       /* the query of point plans … */
    scorer *scorer;     /* … made ready */
    float score;
    sqlite3_int64 given; /* rows so far */
    int at_end;
} faiss_cursor;

static faiss_table *table_of(const faiss_cursor *c)
{
    return (faiss_table *)c->base.pVtab;
}

static int is_scored(const faiss_cursor *c)
{
    return c->plan.kind == PLAN_KNN || c->plan.kind == PLAN_STREAM || c->plan.kind == PLAN_POINT;
}

int cursor_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out)
{
    faiss_cursor *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    c->at_end = 1;
    best_index_forget_offer(&((faiss_table *)base)->plan);
    *out = &c->base;
    return SQLITE_OK;
}

/* Forget the plan of the last xFilter. */
static void forget_plan(faiss_cursor *c)
{
    bounds_clear(&c->bounds);
    plan_clear(&c->plan);
}

static void forget_point(faiss_cursor *c)
{
    scorer_close(c->scorer);
    c->scorer = NULL;
    vector_clear(&c->point);
}

static void close_snapshot(faiss_cursor *c)
{
    forget_point(c);
    sqlite3_finalize(c->rows);
    c->rows = NULL;
    filter_close(&c->rows_filter);
    search_close(&c->search);
    published_search_close(c->published);
    c->published = NULL;
    snapshot_close(&c->snapshot);
    sqlite3_free(c->columns);
    c->columns = NULL;
}

int cursor_close(sqlite3_vtab_cursor *base)
{
    faiss_cursor *c = (faiss_cursor *)base;
    forget_plan(c);
    close_snapshot(c);
    definition_clear(&c->definition);
    sqlite3_free(c);
    return SQLITE_OK;
}

static vector_metric metric_of(const faiss_cursor *c)
{
    return c->definition.through ? c->definition.metric : c->snapshot.tracked->asked.metric;
}

/* ---- rows ---- */

static int bad_point(faiss_cursor *c, char *found, char **message)
{
    row_value id = value_from_sql(sqlite3_column_value(c->rows, SOURCE_COLUMN_ID));
    char expected[64];
    sqlite3_snprintf(sizeof expected, expected, "a BLOB of %d bytes (%d float32)",
                     scorer_dimension(c->scorer) * VECTOR_COMPONENT_BYTES,
                     scorer_dimension(c->scorer));
    return source_bad_row(c->snapshot.source, sqlite3_column_int64(c->rows, SOURCE_COLUMN_KEY), &id,
                          found, expected, message);
}

/* A row that does not fit the query: is the query wrong, or the row? */
static int check_point_query(faiss_cursor *c, char **message)
{
    index_version *v;
    int rc = snapshot_index(&c->snapshot, &v, message);
    return rc == SQLITE_OK
               ? snapshot_begin_search(&c->snapshot, scorer_dimension(c->scorer), message)
               : rc;
}

/* Score the row that the statement stands on. SQLITE_DONE for a row to skip. */
static int score_point(faiss_cursor *c, char **message)
{
    sqlite3_value *value = sqlite3_column_value(c->rows, SOURCE_COLUMN_EMBEDDING);
    int type = sqlite3_value_type(value), bytes = sqlite3_value_bytes(value);
    int fits = type == SQLITE_BLOB && bytes == scorer_dimension(c->scorer) * VECTOR_COMPONENT_BYTES;
    vector v = {0};
    char *why = NULL;
    int rc = fits ? vector_from_value(value, &v, &why) : SQLITE_MISMATCH;
    int is_finite = rc == SQLITE_OK;
    sqlite3_free(why);
    if (rc == SQLITE_OK)
        rc = scorer_score(c->scorer, v.x, &c->score, message);
    else if (rc == SQLITE_MISMATCH)
        rc = check_point_query(c, message);
    vector_clear(&v);
    if (is_finite || (rc != SQLITE_OK && (!fits || rc == SQLITE_NOMEM)))
        return rc;
    if (!c->snapshot.tracked->asked.strict)
        return SQLITE_DONE;
    char *found = fits ? sqlite3_mprintf("NaN or infinity") : source_describe_value(type, bytes);
    return bad_point(c, found, message);
}

/* Move to the next row of the statement. */
static int advance_source(faiss_cursor *c, char **message)
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

/* Move to the next row of the search that is within the bounds. */
static int advance_search(faiss_cursor *c, char **message)
{
    bound_state state = BOUND_BEFORE;
    if (c->given == c->neighbours)
        state = BOUND_BEYOND;
    while (state == BOUND_BEFORE) {
        int rc = c->origin == FROM_PUBLISHED
                     ? published_search_next(c->published, &c->hit, &c->id, message)
                     : search_next(&c->search, &c->hit, message);
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            return rc;
        c->score = c->hit.score;
        state = rc == SQLITE_DONE ? BOUND_BEYOND : bounds_place(&c->bounds, metric_of(c), c->score);
    }
    c->at_end = state == BOUND_BEYOND;
    return SQLITE_OK;
}

/* Move to the next row of the index in its own order. */
static int advance_index(faiss_cursor *c)
{
    const index_version *v = c->snapshot.version;
    if (c->given < v->rows)
        c->hit = index_row(v, c->given);
    else
        c->at_end = 1;
    return SQLITE_OK;
}

static int advance(faiss_cursor *c, char **message)
{
    int rc = c->origin == FROM_SOURCE  ? advance_source(c, message)
             : c->origin == FROM_INDEX ? advance_index(c)
                                       : advance_search(c, message);
    c->given++;
    return rc;
}

int cursor_next(sqlite3_vtab_cursor *base)
{
    char *message = NULL;
    int rc = advance((faiss_cursor *)base, &message);
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

/* The definition that the function's arguments give; the snapshot of another
** one is closed. */
static int define_by_arguments(faiss_cursor *c, sqlite3_value **argv, char **message)
{
    if (c->plan.at[PLAN_DATABASE] < 0 || c->plan.at[PLAN_TABLE] < 0 ||
        c->plan.at[PLAN_VECTOR] < 0) {
        return set_message(message,
                           sqlite3_mprintf("faiss_search(database, table, embedding [, k]): "
                                           "an argument is missing"));
    }
    const char *database = (const char *)sqlite3_value_text(value_at(c, argv, PLAN_DATABASE));
    const char *table = (const char *)sqlite3_value_text(value_at(c, argv, PLAN_TABLE));
    if (!database || !table) {
        return set_message(
            message, sqlite3_mprintf("faiss_search: database and table must be names, not NULL"));
    }
    definition fresh;
    int rc = naming_define(table_of(c)->connection, database, table, &fresh, message);
    if (rc != SQLITE_OK)
        return rc;
    if ((c->snapshot.tracked || c->published) && !definition_equal(&fresh, &c->definition))
        close_snapshot(c);
    definition_clear(&c->definition);
    c->definition = fresh;
    return SQLITE_OK;
}

/* The columns to select. One that is gone from the source since the table was
** made reads as NULL, until somebody asks for it. */
static int select_columns(faiss_cursor *c)
{
    const plan_table *p = &table_of(c)->plan;
    sqlite3_str *sql = sqlite3_str_new(NULL);
    for (int i = 0; i < p->column_count; i++) {
        if (source_find_column(c->snapshot.source, p->columns[i].name) >= 0)
            sqlite3_str_appendf(sql, ", s.\"%w\"", p->columns[i].name);
        else
            sqlite3_str_appendall(sql, ", NULL");
    }
    c->columns = sqlite3_str_finish(sql);
    c->snapshot.columns = c->columns;
    return c->columns || p->column_count == 0 ? SQLITE_OK : SQLITE_NOMEM;
}

static int open_snapshot(faiss_cursor *c, const char *text, sqlite3_value **argv, char **message)
{
    faiss_table *t = table_of(c);
    const definition *d = &t->definition;
    if (!d->table) {
        int rc = define_by_arguments(c, argv, message);
        if (rc != SQLITE_OK)
            return rc;
        d = &c->definition;
    }
    if (c->snapshot.tracked || d->through)
        return SQLITE_OK;
    int rc = snapshot_open_for_plan(t->connection, d, text, &c->snapshot, message);
    return rc == SQLITE_OK ? select_columns(c) : rc;
}

/* How many rows will be read, as far as one can tell. */
static sqlite3_int64 first_depth(const faiss_cursor *c, sqlite3_value **argv)
{
    sqlite3_value *limit = value_at(c, argv, PLAN_LIMIT);
    sqlite3_value *offset = value_at(c, argv, PLAN_OFFSET);
    if (c->neighbours >= 0)
        return c->neighbours;
    if (!limit || sqlite3_value_int64(limit) < 0)
        return WALK_UNKNOWN;
    sqlite3_int64 depth = sqlite3_value_int64(limit);
    sqlite3_int64 skipped = offset ? sqlite3_value_int64(offset) : 0;
    return skipped > 0 && depth < INT64_MAX - skipped ? depth + skipped : depth;
}

/* The filter of the plan's terms; nothing where rows have no rowid to ask for. */
static int make_filter(faiss_cursor *c, sqlite3_value **argv, filter *out, char **message)
{
    const source *s = c->snapshot.source;
    *out = (filter){0};
    if (!s->rowid)
        return SQLITE_OK;
    char *rowid = sqlite3_mprintf("s.%s", s->rowid);
    char *id = s->id ? sqlite3_mprintf("s.\"%w\"", s->id) : sqlite3_mprintf("s.%s", s->rowid);
    /* The function declares its id before it knows the source. */
    int is_function = table_of(c)->definition.table == NULL;
    char *bare_id = id ? sqlite3_mprintf("+%s COLLATE BINARY", id) : NULL;
    int most = sqlite3_limit(c->snapshot.connection->db, SQLITE_LIMIT_VARIABLE_NUMBER, -1) / 2;
    int rc = rowid && bare_id ? filter_open(&c->plan, &table_of(c)->plan, rowid, id,
                                            is_function ? bare_id : NULL, most, argv, out, message)
                              : SQLITE_NOMEM;
    sqlite3_free(bare_id);
    sqlite3_free(rowid);
    sqlite3_free(id);
    return rc;
}

/* Whether an approximate index may answer: where it is known how many rows are wanted, or in which
** order they come does not matter, nor how far the last one is. Of a limit SQLite leaves out rows
** where the filter is loose, and more are wanted. The function's plan is made
** before its table is known. */
static int may_approximate(const faiss_cursor *c, const filter *f, int64_t depth)
{
    int is_function = table_of(c)->definition.table == NULL;
    if (!*c->snapshot.tracked->asked.kind.text || c->plan.is_exact)
        return 0;
    if (depth == WALK_UNKNOWN)
        return !bounds_are_any(&c->bounds) && !is_function;
    return bounds_are_far(&c->bounds, metric_of(c)) &&
           (c->neighbours >= 0 || !(is_function || f->is_loose));
}

static int filter_search(faiss_cursor *c, sqlite3_value **argv, vector *query, filter *f,
                         char **message)
{
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
    const definition *d = &c->snapshot.tracked->asked;
    int64_t depth = first_depth(c, argv);
    search_effort effort = search_effort_of(&d->kind, &c->effort, &d->effort);
    return search_begin(&c->search, &c->snapshot, f, query, depth,
                        may_approximate(c, f, depth) ? &effort : NULL, message);
}

/* Make the query of a point ready, unless it is the last one's. */
static int take_point(faiss_cursor *c, vector *query, char **message)
{
    if (c->scorer && vector_equal(&c->point, query))
        return SQLITE_OK;
    forget_point(c);
    c->point = *query;
    *query = (vector){0};
    return scorer_open(c->snapshot.tracked->asked.metric, c->point.x, c->point.dimension,
                       &c->scorer, message);
}

/* Prepare the statement of a filter, unless the last one will do. A join filters
** once for each of its outer rows. */
static int filter_source(faiss_cursor *c, vector *query, filter *f, char **message)
{
    int rc = c->plan.kind == PLAN_POINT ? take_point(c, query, message) : SQLITE_OK;
    if (rc == SQLITE_OK && !(c->rows && filter_same_text(&c->rows_filter, f))) {
        /* Ids may repeat: rows at the same distance come by rowid. */
        source_query q = {
            .columns = c->columns, .filter = f->sql, .in_order = c->plan.kind == PLAN_POINT};
        sqlite3_finalize(c->rows);
        c->rows = NULL;
        rc = source_prepare(c->snapshot.connection->db, c->snapshot.source, SOURCE_SCAN, &q,
                            &c->rows, message);
    }
    filter_close(&c->rows_filter);
    c->rows_filter = *f;
    *f = (filter){0};
    if (rc == SQLITE_OK) {
        sqlite3_reset(c->rows);
        rc = filter_bind(&c->rows_filter, c->rows);
    }
    return rc;
}

/* Read how hard the search is to try, which must make sense for the index. */
static int read_efforts(faiss_cursor *c, sqlite3_value **argv, char **message)
{
    search_effort *e = &c->effort;
    *e = (search_effort){0};
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < SEARCH_EFFORTS; i++) {
        sqlite3_value *value = value_at(c, argv, PLAN_EF_SEARCH + i);
        if (value)
            rc = search_effort_read(e, i, value, message);
    }
    return rc == SQLITE_OK ? search_effort_check(&table_of(c)->definition.kind, e, message) : rc;
}

/* Read the arguments of a search. */
static int read_arguments(faiss_cursor *c, sqlite3_value **argv, vector *query, char **message)
{
    sqlite3_value *neighbours = value_at(c, argv, PLAN_NEIGHBOURS);
    sqlite3_value *wanted = value_at(c, argv, PLAN_VECTOR);
    c->neighbours = -1;
    int rc = SQLITE_OK;
    if (neighbours)
        rc = neighbours_from_value(neighbours, &c->neighbours, message);
    if (rc == SQLITE_OK)
        rc = read_efforts(c, argv, message);
    if (rc == SQLITE_OK && wanted)
        rc = vector_from_value(wanted, query, message);
    return rc;
}

/* Whichever way the plan goes, a search: what it looks up SQLite filters. */
static int filter_published(faiss_cursor *c, sqlite3_value **argv, vector *query, char **message)
{
    published_search_close(c->published);
    c->published = NULL;
    c->origin = FROM_PUBLISHED;
    if (c->plan.kind == PLAN_POINT)
        c->plan.kind = PLAN_STREAM;
    return published_search_open(c->definition.through, table_of(c)->connection, query,
                                 c->neighbours, first_depth(c, argv),
                                 bounds_are_far(&c->bounds, metric_of(c)), &c->published, message);
}

static int choose_origin(faiss_cursor *c)
{
    int has_rowid = c->snapshot.source->rowid != NULL;
    if (!has_rowid && c->plan.kind == PLAN_POINT)
        c->plan.kind = PLAN_STREAM;
    if (c->plan.kind == PLAN_KNN || c->plan.kind == PLAN_STREAM)
        return FROM_SEARCH;
    return has_rowid ? FROM_SOURCE : FROM_INDEX;
}

static int filter_rows(faiss_cursor *c, const char *text, sqlite3_value **argv, char **message)
{
    vector query = {0};
    filter f = {0};
    index_version *v;
    int rc = open_snapshot(c, text, argv, message);
    if (rc == SQLITE_OK)
        rc = read_arguments(c, argv, &query, message);
    if (rc == SQLITE_OK)
        rc = bounds_keep(&c->plan, argv, &c->bounds);
    if (rc == SQLITE_OK && c->definition.through) {
        rc = filter_published(c, argv, &query, message);
        vector_clear(&query);
        return rc;
    }
    if (rc == SQLITE_OK)
        rc = make_filter(c, argv, &f, message);
    if (rc == SQLITE_OK) {
        c->origin = choose_origin(c);
        rc = c->origin == FROM_SEARCH  ? filter_search(c, argv, &query, &f, message)
             : c->origin == FROM_INDEX ? snapshot_index(&c->snapshot, &v, message)
                                       : filter_source(c, &query, &f, message);
    }
    filter_close(&f);
    vector_clear(&query);
    return rc;
}

/* A NULL vector or k gives no rows. */
static int has_null(const faiss_cursor *c, sqlite3_value **argv)
{
    sqlite3_value *query = value_at(c, argv, PLAN_VECTOR);
    sqlite3_value *neighbours = value_at(c, argv, PLAN_NEIGHBOURS);
    return (query && sqlite3_value_type(query) == SQLITE_NULL) ||
           (neighbours && sqlite3_value_type(neighbours) == SQLITE_NULL);
}

int cursor_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                  sqlite3_value **argv)
{
    faiss_cursor *c = (faiss_cursor *)base;
    char *message = NULL;
    forget_plan(c);
    c->given = 0;
    c->at_end = 0;
    int rc = plan_decode(&table_of(c)->plan, number, text, argc, &c->plan);
    if (rc == SQLITE_OK && has_null(c, argv)) {
        c->at_end = 1;
        return SQLITE_OK;
    }
    if (rc == SQLITE_OK)
        rc = filter_rows(c, text, argv, &message);
    if (rc == SQLITE_OK && !c->at_end)
        rc = advance(c, &message);
    if (rc != SQLITE_OK)
        c->at_end = 1;
    return table_failure(base->pVtab, rc, message);
}

/* ---- xColumn, xRowid ---- */

static int column_id(faiss_cursor *c, sqlite3_context *context, char **message)
{
    if (c->origin == FROM_SOURCE) {
        sqlite3_result_value(context, sqlite3_column_value(c->rows, SOURCE_COLUMN_ID));
        return SQLITE_OK;
    }
    if (c->origin == FROM_PUBLISHED) {
        value_to_result(context, &c->id);
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
    if (c->origin == FROM_PUBLISHED)
        return published_search_embedding(c->published, &c->hit, context, message);
    if (c->origin != FROM_SOURCE)
        return snapshot_hit_embedding(&c->snapshot, &c->hit, context, message);
    sqlite3_result_value(context, sqlite3_column_value(c->rows, SOURCE_COLUMN_EMBEDDING));
    return SQLITE_OK;
}

static int column_of_source(faiss_cursor *c, int place, sqlite3_context *context, char **message)
{
    const source *s = c->snapshot.source;
    const char *name = table_of(c)->plan.columns[place].name;
    if (source_find_column(s, name) < 0) {
        return set_message(message, sqlite3_mprintf("%s.%s no longer has the column %s", s->schema,
                                                    s->table, name));
    }
    if (c->origin != FROM_SOURCE)
        return snapshot_hit_column(&c->snapshot, &c->hit, place, name, context, message);
    sqlite3_result_value(context, sqlite3_column_value(c->rows, SOURCE_COLUMN_FIRST + place));
    return SQLITE_OK;
}

/* ef_search, nprobe or rerank, where the query gives it. */
static void column_effort(const faiss_cursor *c, sqlite3_context *context, int which)
{
    int effort = search_effort_get(&c->effort, which);
    if (effort)
        sqlite3_result_int(context, effort);
}

int cursor_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column)
{
    faiss_cursor *c = (faiss_cursor *)base;
    const plan_table *p = &table_of(c)->plan;
    int place = column - p->first_column;
    char *message = NULL;
    int rc = SQLITE_OK;
    if (column == p->id)
        rc = column_id(c, context, &message);
    else if (column == p->score && is_scored(c))
        sqlite3_result_double(context, c->score);
    else if (column == p->distance && is_scored(c))
        sqlite3_result_double(context, vector_distance(metric_of(c), c->score));
    else if (column == p->vector)
        rc = column_embedding(c, context, &message);
    else if (column == p->neighbours && c->plan.kind == PLAN_KNN)
        sqlite3_result_int64(context, c->neighbours);
    else if (p->is_approximate && column >= p->effort && column < p->effort + SEARCH_EFFORTS)
        column_effort(c, context, column - p->effort);
    else if (column == p->database)
        sqlite3_result_text(context, c->definition.schema, -1, SQLITE_TRANSIENT);
    else if (column == p->table)
        sqlite3_result_text(context, c->definition.table, -1, SQLITE_TRANSIENT);
    else if (place >= 0 && place < p->column_count)
        rc = column_of_source(c, place, context, &message);
    return table_failure(base->pVtab, rc, message);
}

int cursor_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid)
{
    faiss_cursor *c = (faiss_cursor *)base;
    if (c->origin == FROM_SOURCE)
        *rowid = sqlite3_column_int64(c->rows, SOURCE_COLUMN_KEY);
    else if (c->origin == FROM_PUBLISHED)
        *rowid = c->given; /* of no row: the host's are not this connection's */
    else if (c->snapshot.version->kept_values)
        *rowid = c->hit.key + 1; /* the number of the row, counted from 1 like rowids */
    else
        *rowid = c->hit.key;
    return SQLITE_OK;
}
