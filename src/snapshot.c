#include "snapshot.h"

#include <string.h>
#include <time.h>

#include "message.h"
#include "sql_text.h"

/* Before that version an extension cannot call it: the table of pointers ends. */
enum { SERIALIZE_AVAILABLE = 3039000 };
enum { BUILD_WAIT_MS = 50, POLL_MS = 50, RESOLVE_ATTEMPTS = 5 };

/* ---- opening ---- */

int snapshot_step(snapshot *s, sqlite3_stmt *statement)
{
    s->connection->reading_source++;
    int rc = sqlite3_step(statement);
    s->connection->reading_source--;
    return rc;
}

/* Have the eponymous table connected that finalizes watches when the connection
** closes; without it nothing is watched and every search compares. */
static void ensure_watch_keeper(connection *c)
{
    sqlite3_stmt *statement;
    if (!c->watch_keeper &&
        sqlite3_prepare_v2(c->db, "SELECT 1 FROM faiss_indexes", -1, &statement, NULL) == SQLITE_OK)
        sqlite3_finalize(statement);
}

static int prepare_pin(snapshot *s, sqlite3_stmt **out, char **message)
{
    s->connection->reading_source++;
    int rc = source_prepare(s->connection->db, &s->tracked->source, SOURCE_PIN, NULL, out, message);
    s->connection->reading_source--;
    return rc;
}

/* What the source that was asked for is now. */
static int resolve_source(const snapshot *s, source *fresh, char **message)
{
    sqlite3 *db = s->connection->db;
    const definition *asked = &s->tracked->asked;
    char *schema;
    int rc = source_find_database(db, asked->schema, &schema, message);
    s->connection->reading_source++;
    if (rc == SQLITE_OK)
        rc = source_resolve(db, schema, asked->table, asked->id, asked->embedding, fresh, message);
    s->connection->reading_source--;
    sqlite3_free(schema);
    return rc;
}

/* Learn what the source is before there is a snapshot of it. */
static int resolve(snapshot *s, char **message)
{
    tracked_source *t = s->tracked;
    source fresh;
    int rc = resolve_source(s, &fresh, message);
    if (rc != SQLITE_OK)
        return rc;
    source_clear(&t->source);
    t->source = fresh;
    t->resolved = 1;
    t->trusted = 0;
    sqlite3_finalize(t->watch);
    t->watch = NULL;
    return connection_join_registry(s->connection, t);
}

static int step_watch(snapshot *s)
{
    tracked_source *t = s->tracked;
    snapshot_step(s, t->watch);
    return sqlite3_reset(t->watch);
}

/*
** Whether the source is still what t->source says, seen from inside the held
** snapshot: the watch was not prepared anew since it was resolved.
*/
static int watch_agrees(snapshot *s, char **message, int *agrees)
{
    tracked_source *t = s->tracked;
    if (t->watch) {
        int rc = step_watch(s);
        *agrees = rc == SQLITE_OK &&
                  sqlite3_stmt_status(t->watch, SQLITE_STMTSTATUS_REPREPARE, 0) == t->preparations;
        return SQLITE_OK;
    }
    /* The source was resolved before the snapshot was held: look again, with a
    ** watch in place if there can be one. */
    *agrees = 0;
    int rc = s->connection->watch_keeper ? prepare_pin(s, &t->watch, message) : SQLITE_OK;
    if (rc == SQLITE_OK && t->watch)
        rc = step_watch(s);
    return rc;
}

static int open_pinned(snapshot *s, char **message)
{
    tracked_source *t = s->tracked;
    int rc = t->resolved ? SQLITE_OK : resolve(s, message);
    if (rc == SQLITE_OK)
        rc = prepare_pin(s, &s->pin, message);
    if (rc == SQLITE_OK && snapshot_step(s, s->pin) != SQLITE_ROW) {
        rc = sqlite3_reset(s->pin);
        rc = source_failure(s->connection->db, &t->source, rc ? rc : SQLITE_ERROR, message);
    }
    return rc;
}

/* Resolve the source once more inside the snapshot; *same if nothing differs. */
static int resolve_again(snapshot *s, int *same, char **message)
{
    tracked_source *t = s->tracked;
    source fresh;
    int rc = resolve_source(s, &fresh, message);
    if (rc != SQLITE_OK)
        return rc;
    *same = source_equal(&fresh, &t->source);
    source_clear(&t->source);
    t->source = fresh;
    if (t->watch)
        t->preparations = sqlite3_stmt_status(t->watch, SQLITE_STMTSTATUS_REPREPARE, 0);
    t->trusted = 0;
    return connection_join_registry(s->connection, t);
}

/* Pinning failed, perhaps for columns that are gone: SQLITE_OK to try once more with
** what the source is now, or else what resolving says is missing. */
static int resolve_after_failure(snapshot *s, int failure, char **message)
{
    char *first = *message;
    *message = NULL;
    int rc = resolve(s, message);
    if (rc != SQLITE_OK && !*message) {
        *message = first;
        return failure;
    }
    sqlite3_free(first);
    return rc;
}

int snapshot_open(connection *c, const definition *d, snapshot *out, char **message)
{
    *out = (snapshot){.connection = c};
    if (c->reading_source) {
        return set_message(message, sqlite3_mprintf("a source of a faiss index must not read a "
                                                    "faiss table or search"));
    }
    tracked_source *t = connection_track(c, d);
    if (!t)
        return SQLITE_NOMEM;
    out->tracked = t;
    out->source = &t->source;
    ensure_watch_keeper(c);
    int rc = SQLITE_OK, done = 0;
    for (int attempt = 0; rc == SQLITE_OK && !done && attempt < RESOLVE_ATTEMPTS; attempt++) {
        sqlite3_finalize(out->pin);
        out->pin = NULL;
        rc = open_pinned(out, message);
        if (rc != SQLITE_OK && t->watch) {
            rc = resolve_after_failure(out, rc, message);
            continue;
        }
        if (rc == SQLITE_OK)
            rc = watch_agrees(out, message, &done);
        if (rc == SQLITE_OK && !done)
            rc = resolve_again(out, &done, message);
    }
    if (rc == SQLITE_OK && !done)
        rc = set_message(message, sqlite3_mprintf("%s.%s keeps changing its schema: try again",
                                                  d->schema, d->table));
    if (rc != SQLITE_OK) {
        t->resolved = 0;
        snapshot_close(out);
    }
    return rc;
}

void snapshot_close(snapshot *s)
{
    sqlite3_finalize(s->lookup);
    sqlite3_finalize(s->embedding);
    sqlite3_finalize(s->pin);
    index_release(s->version);
    if (s->tracked)
        connection_untrack(s->tracked);
    *s = (snapshot){0};
}

/* ---- reading ---- */

/* Reading all rows into a builder. */
typedef struct reading {
    snapshot *snapshot;
    sqlite3_stmt *rows;
    index_builder *builder;
    index_version *base;
    int strict;
    int dimension; /* 0 until the first row */
    int64_t left_out;
    int value_count;   /* of each row: its id, then the columns that are kept */
    row_value *values; /* of the row at hand */
    char expected[64];
} reading;

static int expect_dimension(reading *r, int dimension)
{
    r->dimension = dimension;
    sqlite3_snprintf(sizeof r->expected, r->expected, "a BLOB of %d bytes (%d float32)",
                     dimension * VECTOR_COMPONENT_BYTES, dimension);
    const tracked_source *t = r->snapshot->tracked;
    return index_builder_open(t->asked.metric, dimension, tracked_kept_values(t), r->base,
                              &r->builder);
}

/* A row that cannot be indexed: an error, or left out with strict=off. `found`
** says what it holds and is freed. */
static int reading_bad_row(reading *r, const row_value *id, char *found, char **message)
{
    const tracked_source *t = r->snapshot->tracked;
    if (r->strict)
        return source_bad_row(&t->source, sqlite3_column_int64(r->rows, SOURCE_COLUMN_KEY), id,
                              found, r->dimension ? r->expected : "a BLOB of float32 components",
                              message);
    sqlite3_free(found);
    r->left_out++;
    return SQLITE_OK;
}

static int read_row(reading *r, char **message)
{
    int type = sqlite3_column_type(r->rows, SOURCE_COLUMN_EMBEDDING);
    if (type == SQLITE_NULL)
        return SQLITE_OK;
    const row_value *id = r->values;
    r->values[0] = value_from_sql(sqlite3_column_value(r->rows, SOURCE_COLUMN_ID));
    for (int i = 1; i < r->value_count; i++)
        r->values[i] = value_from_sql(sqlite3_column_value(r->rows, SOURCE_COLUMN_FIRST + i - 1));
    int bytes = type == SQLITE_BLOB || type == SQLITE_TEXT
                    ? sqlite3_column_bytes(r->rows, SOURCE_COLUMN_EMBEDDING)
                    : 0;
    int fits = type == SQLITE_BLOB && bytes > 0 && bytes % VECTOR_COMPONENT_BYTES == 0;
    if (fits && r->dimension == 0) {
        int rc = expect_dimension(r, bytes / VECTOR_COMPONENT_BYTES);
        if (rc != SQLITE_OK)
            return rc;
    }
    if (!fits || bytes != r->dimension * VECTOR_COMPONENT_BYTES)
        return reading_bad_row(r, id, source_describe_value(type, bytes), message);
    const void *embedding = sqlite3_column_blob(r->rows, SOURCE_COLUMN_EMBEDDING);
    if (!embedding)
        return SQLITE_NOMEM;
    int64_t key = sqlite3_column_int64(r->rows, SOURCE_COLUMN_KEY);
    uint64_t hash = index_row_hash(key, r->values, r->value_count, embedding, bytes);
    int rc = index_builder_row(r->builder, key, hash, r->values, embedding, message);
    if (rc == SQLITE_MISMATCH)
        rc = reading_bad_row(r, id, sqlite3_mprintf("NaN or infinity"), message);
    return rc;
}

/* ", s."a", s."b"" for all other columns of the source. */
static char *all_columns(const source *s)
{
    sqlite3_str *columns = sqlite3_str_new(NULL);
    for (int i = 0; i < s->column_count; i++)
        sqlite3_str_appendf(columns, ", s.\"%w\"", s->columns[i].name);
    return sqlite3_str_finish(columns);
}

static int prepare_reading(reading *r, char **message)
{
    connection *c = r->snapshot->connection;
    const source *s = r->snapshot->source;
    char *columns = r->value_count > 1 ? all_columns(s) : NULL;
    if (r->value_count > 1 && !columns)
        return SQLITE_NOMEM;
    source_query query = {.columns = columns};
    c->reading_source++;
    int rc = source_prepare(c->db, s, SOURCE_READ_ALL, &query, &r->rows, message);
    c->reading_source--;
    sqlite3_free(columns);
    return rc;
}

/* An index over no rows. */
static int empty_version(const tracked_source *t, int64_t left_out, index_version **out,
                         char **message)
{
    index_builder *b;
    int rc = index_builder_open(t->asked.metric, 0, tracked_kept_values(t), NULL, &b);
    if (rc == SQLITE_OK)
        rc = index_builder_finish(b, left_out, out, message);
    index_builder_close(b);
    return rc;
}

/* Read the whole source within the snapshot. *out is `base` itself where the
** rows are the same. */
static int read_source(snapshot *s, index_version *base, int strict, index_version **out,
                       char **message)
{
    *out = NULL;
    sqlite3 *db = s->connection->db;
    tracked_source *t = s->tracked;
    reading r = {.snapshot = s, .base = base, .strict = strict};
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    r.value_count = tracked_kept_values(t) ? tracked_kept_values(t) : 1;
    r.values = sqlite3_malloc64((sqlite3_uint64)r.value_count * sizeof *r.values);
    int rc = r.values ? prepare_reading(&r, message) : SQLITE_NOMEM;
    if (rc == SQLITE_OK && t->asked.dimension)
        rc = expect_dimension(&r, t->asked.dimension);
    while (rc == SQLITE_OK && (rc = snapshot_step(s, r.rows)) == SQLITE_ROW)
        rc = read_row(&r, message);
    if (rc == SQLITE_DONE)
        rc = r.builder ? index_builder_finish(r.builder, r.left_out, out, message)
                       : empty_version(t, r.left_out, out, message);
    else if (rc != SQLITE_OK && !*message)
        rc = source_failure(db, &t->source, rc, message);
    sqlite3_finalize(r.rows);
    index_builder_close(r.builder);
    sqlite3_free(r.values);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (rc == SQLITE_OK && *out != base) {
        (*out)->build_seconds =
            (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec) / 1e9;
        if (r.left_out && (!base || base->left_out != r.left_out)) {
            sqlite3_log(SQLITE_WARNING, "faiss: %lld rows of %s.%s are malformed and left out",
                        (long long)r.left_out, t->source.schema, t->source.table);
        }
    }
    return rc;
}

/* ---- freshness ---- */

/* Mix the state of one schema into a fingerprint: SQLite's data version moves
** with every commit that this connection sees; a database in memory that was
** replaced as a whole (sqlite3_deserialize) has another address. */
static uint64_t schema_state(sqlite3 *db, const char *schema, uint64_t state)
{
    unsigned version = 0;
    sqlite3_int64 size = 0;
    int rc = sqlite3_file_control(db, schema, SQLITE_FCNTL_DATA_VERSION, &version);
    const char *path = sqlite3_db_filename(db, schema);
    uint64_t address = 0;
    if ((!path || !*path) && sqlite3_libversion_number() >= SERIALIZE_AVAILABLE)
        address =
            (uint64_t)(uintptr_t)sqlite3_serialize(db, schema, &size, SQLITE_SERIALIZE_NOCOPY);
    uint64_t parts[] = {state, (uint64_t)rc, version, address, (uint64_t)size};
    return index_row_hash(0, NULL, 0, parts, sizeof parts);
}

/* What names the state of the source in the held snapshot. Only a temporary
** view may read other schemas than its own. */
static uint64_t source_state(const snapshot *s)
{
    sqlite3 *db = s->connection->db;
    const source *src = s->source;
    uint64_t state = schema_state(db, src->schema, 0);
    if (src->kind != SOURCE_VIEW || sqlite3_stricmp(src->schema, "temp") != 0)
        return state;
    sqlite3_stmt *list;
    if (sql_prepare(db, sql_text(SQL_DATABASE_LIST, NULL), &list) == SQLITE_OK) {
        while (sqlite3_step(list) == SQLITE_ROW)
            state = schema_state(db, (const char *)sqlite3_column_text(list, 1), state);
    }
    sqlite3_finalize(list);
    return state;
}

/* Whether another connection's open transaction shows: only with a shared cache,
** which a file's name tells and a database in memory does not. */
static int reads_uncommitted(const snapshot *s)
{
    sqlite3_stmt *pragma;
    int on = 0;
    if (s->tracked->is_file)
        return 0;
    if (sqlite3_prepare_v2(s->connection->db, "PRAGMA read_uncommitted", -1, &pragma, NULL) ==
        SQLITE_OK)
        on = sqlite3_step(pragma) == SQLITE_ROW && sqlite3_column_int(pragma, 0);
    sqlite3_finalize(pragma);
    return on;
}

/* Whether the snapshot may hold rows that are not committed. */
static int is_writing(const snapshot *s)
{
    int everywhere = sqlite3_stricmp(s->source->schema, "temp") == 0;
    int state = sqlite3_txn_state(s->connection->db, everywhere ? NULL : s->source->schema);
    return state == SQLITE_TXN_WRITE || reads_uncommitted(s);
}

/* A statement of some thousand steps, so that an interrupt or a progress handler
** that asks to stop is noticed while waiting. */
static int check_interrupt(snapshot *s, char **message)
{
    sqlite3 *db = s->connection->db;
    int rc = sqlite3_exec(db,
                          "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                          "WHERE i < 300) SELECT count(*) FROM n",
                          NULL, NULL, NULL);
    return rc == SQLITE_OK ? rc : source_failure(db, s->source, rc, message);
}

static int64_t milliseconds_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int snapshot_poll(void *argument, char **message)
{
    snapshot *s = argument;
    int64_t now = milliseconds_now();
    if (s->polled == 0)
        s->polled = now;
    if (now - s->polled < POLL_MS)
        return SQLITE_OK;
    s->polled = now;
    return check_interrupt(s, message);
}

/* Read the source in a committed state and share the result. */
static int refresh_shared(snapshot *s, uint64_t state, char **message)
{
    tracked_source *t = s->tracked;
    int rc = SQLITE_OK, has_turn = 0;
    while (rc == SQLITE_OK && !registry_begin_build(t->shared, BUILD_WAIT_MS, &has_turn))
        rc = check_interrupt(s, message);
    uint64_t stamp = 0;
    index_version *published = rc == SQLITE_OK ? registry_current(t->shared, &stamp) : NULL;
    index_version *made = NULL;
    if (rc == SQLITE_OK && published && t->is_immutable && t->file_stamp &&
        stamp == t->file_stamp) {
        made = index_retain(published);
    } else if (rc == SQLITE_OK) {
        index_version *base = t->draft ? t->draft : t->latest ? t->latest : published;
        rc = read_source(s, base, t->asked.strict, &made, message);
    }
    if (rc == SQLITE_OK) {
        index_release(t->latest);
        t->latest = registry_publish(t->shared, made, t->file_stamp);
        t->state = state;
        t->trusted = t->watch != NULL && !t->source.is_volatile;
        index_release(t->draft);
        t->draft = NULL;
    }
    if (has_turn)
        registry_end_build(t->shared);
    index_release(published);
    index_release(made);
    return rc;
}

/* Read the source in a state that may never be committed: for this statement
** alone. Its segments serve the next comparison. */
static int refresh_private(snapshot *s, index_version **out, char **message)
{
    tracked_source *t = s->tracked;
    index_version *base = t->draft ? t->draft : t->latest;
    int rc = read_source(s, base, t->asked.strict, out, message);
    if (rc == SQLITE_OK) {
        index_version *former = t->draft;
        t->draft = index_retain(*out);
        index_release(former);
    }
    return rc;
}

int snapshot_index(snapshot *s, index_version **version, char **message)
{
    tracked_source *t = s->tracked;
    int rc = SQLITE_OK;
    if (!s->version && is_writing(s)) {
        rc = refresh_private(s, &s->version, message);
    } else if (!s->version) {
        uint64_t state = source_state(s);
        if (!t->trusted || t->state != state)
            rc = refresh_shared(s, state, message);
        if (rc == SQLITE_OK)
            s->version = index_retain(t->latest);
    }
    *version = s->version;
    return rc;
}

int snapshot_check(snapshot *s, int *equal, char **message)
{
    index_version *indexed, *read;
    int rc = snapshot_index(s, &indexed, message);
    if (rc == SQLITE_OK)
        rc = read_source(s, NULL, 1, &read, message);
    if (rc == SQLITE_OK) {
        *equal = indexed->rows == read->rows && indexed->fingerprint == read->fingerprint;
        index_release(read);
    }
    return rc;
}

void snapshot_forget(snapshot *s)
{
    tracked_source *t = s->tracked;
    index_release(t->latest);
    index_release(t->draft);
    t->latest = t->draft = NULL;
    t->trusted = 0;
}

/* ---- rows found ---- */

static int row_is_gone(const snapshot *s, int64_t key, char **message)
{
    return set_message(message,
                       sqlite3_mprintf("the row with rowid %lld of %s.%s was deleted by "
                                       "this connection while the search was read",
                                       (long long)key, s->source->schema, s->source->table));
}

/* Let s->lookup stand on the row of this key. */
static int stand_on_row(snapshot *s, int64_t key, char **message)
{
    if (s->lookup_stands && s->lookup_key == key)
        return SQLITE_OK;
    int rc = SQLITE_OK;
    source_query query = {.columns = s->columns};
    s->lookup_stands = 0;
    if (!s->lookup)
        rc = source_prepare(s->connection->db, s->source, SOURCE_ROW_BY_KEY, &query, &s->lookup,
                            message);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_reset(s->lookup);
    sqlite3_bind_int64(s->lookup, 1, key);
    rc = snapshot_step(s, s->lookup);
    if (rc == SQLITE_DONE)
        return row_is_gone(s, key, message);
    if (rc != SQLITE_ROW)
        return source_failure(s->connection->db, s->source, rc, message);
    s->lookup_key = key;
    s->lookup_stands = 1;
    return SQLITE_OK;
}

int snapshot_hit_id(snapshot *s, const index_hit *hit, row_value *id, char **message)
{
    if (s->version->kept_values) {
        *id = index_hit_value(s->version, hit, 0);
        return SQLITE_OK;
    }
    if (s->source->id_is_rowid) {
        *id = (row_value){.type = SQLITE_INTEGER, .integer = hit->key};
        return SQLITE_OK;
    }
    int rc = stand_on_row(s, hit->key, message);
    if (rc == SQLITE_OK)
        *id = value_from_sql(sqlite3_column_value(s->lookup, SOURCE_COLUMN_ID));
    return rc;
}

int snapshot_hit_column(snapshot *s, const index_hit *hit, int place, const char *name,
                        sqlite3_context *context, char **message)
{
    if (!s->version->kept_values) {
        int rc = stand_on_row(s, hit->key, message);
        if (rc == SQLITE_OK)
            sqlite3_result_value(context,
                                 sqlite3_column_value(s->lookup, SOURCE_COLUMN_FIRST + place));
        return rc;
    }
    int i = source_find_column(s->source, name); /* it is there: the caller has looked */
    row_value value = index_hit_value(s->version, hit, 1 + i);
    value_to_result(context, &value);
    return SQLITE_OK;
}

/* Where rows have no key, count to the row: the same statement in the same
** snapshot gives the same order. */
static int embedding_by_ordinal(snapshot *s, int64_t ordinal, sqlite3_context *context,
                                char **message)
{
    sqlite3_stmt *rows;
    int expected = s->version->dimension * VECTOR_COMPONENT_BYTES;
    int rc = source_prepare(s->connection->db, s->source, SOURCE_READ_ALL, NULL, &rows, message);
    if (rc != SQLITE_OK)
        return rc;
    while ((rc = snapshot_step(s, rows)) == SQLITE_ROW) {
        if (sqlite3_column_type(rows, SOURCE_COLUMN_EMBEDDING) != SQLITE_BLOB ||
            sqlite3_column_bytes(rows, SOURCE_COLUMN_EMBEDDING) != expected)
            continue;
        if (ordinal-- == 0) {
            sqlite3_result_value(context, sqlite3_column_value(rows, SOURCE_COLUMN_EMBEDDING));
            break;
        }
    }
    if (rc == SQLITE_DONE)
        rc = row_is_gone(s, ordinal, message);
    else if (rc != SQLITE_ROW)
        rc = source_failure(s->connection->db, s->source, rc, message);
    sqlite3_finalize(rows);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int embedding_by_key(snapshot *s, int64_t key, sqlite3_context *context, char **message)
{
    sqlite3 *db = s->connection->db;
    int rc = SQLITE_OK;
    if (!s->embedding)
        rc = source_prepare(db, s->source, SOURCE_EMBEDDING_BY_KEY, NULL, &s->embedding, message);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(s->embedding, 1, key);
    rc = snapshot_step(s, s->embedding);
    if (rc == SQLITE_ROW)
        sqlite3_result_value(context, sqlite3_column_value(s->embedding, SOURCE_COLUMN_EMBEDDING));
    else if (rc == SQLITE_DONE)
        rc = row_is_gone(s, key, message);
    else
        rc = source_failure(db, s->source, rc, message);
    sqlite3_reset(s->embedding);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int snapshot_hit_embedding(snapshot *s, const index_hit *hit, sqlite3_context *context,
                           char **message)
{
    const index_version *v = s->version;
    if (!v->kept_values)
        return embedding_by_key(s, hit->key, context, message);
    if (v->metric == METRIC_KIND_COSINE)
        return embedding_by_ordinal(s, hit->key, context, message);
    sqlite3_result_blob(context, segment_vector(v->segments[hit->segment], hit->slot),
                        v->dimension * VECTOR_COMPONENT_BYTES, SQLITE_TRANSIENT);
    return SQLITE_OK;
}

/* ---- arguments ---- */

int snapshot_define(connection *c, const char *database, const char *table, definition *out,
                    char **message)
{
    *out = (definition){.strict = 1, .metric = METRIC_KIND_L2};
    int rc = source_find_database(c->db, database, &out->schema, message);
    if (rc != SQLITE_OK)
        return rc;
    out->table = sqlite3_mprintf("%s", table);
    if (!out->table) {
        definition_clear(out);
        return SQLITE_NOMEM;
    }
    if (!connection_is_tracked(c, out))
        source_connect(c->db, out->schema, out->table);
    const definition *known = connection_find_table(c, out->schema, out->table);
    if (!known)
        return SQLITE_OK;
    definition_clear(out);
    return definition_copy(out, known);
}

int snapshot_begin_search(const snapshot *s, int dimension, char **message)
{
    const index_version *v = s->version;
    registry_count_search(s->tracked->shared);
    if (v->rows == 0 || v->dimension == dimension)
        return SQLITE_OK;
    return set_message(message, sqlite3_mprintf("the query vector has %d dimensions: %s.%s has %d",
                                                dimension, s->source->schema, s->source->table,
                                                v->dimension));
}
