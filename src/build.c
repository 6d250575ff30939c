#include "build.h"

#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "clock.h"
#include "delta.h"
#include "message.h"
#include "publication.h"
#include "sql_text.h"

enum {
    CHANGES_SHARE = 4, /* when more than a part of the rows changed, reading all is cheaper … */
    CHANGES_ALWAYS = 4096 /* … unless they are few in any case */
};

/* ---- the whole source ---- */

/* A reading that was interrupted. */
typedef struct partial_reading {
    index_builder *builder;
    sqlite3_int64 last_key;
    int dimension;
    int64_t left_out;
    int64_t bytes; /* of the vectors */
    double seconds;
    snapshot_state state; /* in which it began */
    uint64_t connection;  /* which knows the state by state.file … */
    int resolutions;      /* … as long as the source is what it was */
    uint64_t file_stamp;  /* of an immutable file, else 0 */
} partial_reading;

/* Reading all rows into a builder. */
typedef struct reading {
    snapshot *snapshot;
    sqlite3_stmt *rows;
    index_version *base;
    int strict;
    index_keeping keeping;
    partial_reading so_far; /* its builder is NULL until the dimension is known */
    int64_t room;           /* bytes that the vectors may take; -1: any number */
    int value_count;        /* of each row: its id, then the columns that are kept */
    row_value *values;      /* of the row at hand */
    int asked_rows;         /* the source was asked how many rows it has */
    char expected[64];
} reading;

static void partial_free(void *argument)
{
    partial_reading *p = argument;
    index_builder_close(p->builder);
    sqlite3_free(p);
}

static void describe_expected(reading *r)
{
    sqlite3_snprintf(sizeof r->expected, r->expected, "a BLOB of %d bytes (%d float32)",
                     r->so_far.dimension * VECTOR_COMPONENT_BYTES, r->so_far.dimension);
}

static int expect_dimension(reading *r, int dimension, char **message)
{
    const tracked_source *t = r->snapshot->tracked;
    r->so_far.dimension = dimension;
    describe_expected(r);
    int rc = index_builder_open(t->asked.metric, dimension, tracked_kept_values(t), r->base,
                                &r->so_far.builder, message);
    if (rc == SQLITE_OK && t->source.rowid)
        index_builder_keep(r->so_far.builder, r->keeping);
    return rc;
}

/* A row that cannot be indexed: an error, or left out with strict=off. `found`
** says what it holds and is freed. */
static int reading_bad_row(reading *r, const row_value *id, char *found, char **message)
{
    const tracked_source *t = r->snapshot->tracked;
    if (r->strict)
        return source_bad_row(
            &t->source, sqlite3_column_int64(r->rows, SOURCE_COLUMN_KEY), id, found,
            r->so_far.dimension ? r->expected : "a BLOB of float32 components", message);
    sqlite3_free(found);
    r->so_far.left_out++;
    return SQLITE_OK;
}

/* How much memory an index of the source may take beside those of other tables that are
** not published; -1 for as much as it likes. */
static int64_t room_for(const snapshot *s, int drop)
{
    int64_t limit = publication_limit();
    if (limit <= 0 || s->connection->host || registry_is_offered(s->tracked->shared))
        return -1;
    int64_t room = limit - registry_bytes_besides(s->tracked->shared, drop);
    return room > 0 ? room : 0;
}

int build_has_room(const snapshot *s, int low_memory, int dimension, int64_t rows)
{
    int64_t room = room_for(s, 0), bytes = (int64_t)dimension * VECTOR_COMPONENT_BYTES;
    int64_t least = basis_code_most(dimension) + 1;
    return room < 0 || rows * (low_memory && bytes > least ? least : bytes) <= room;
}

/* Count the bytes of one more row. Before the reading fails, what nobody needs now is given
** up. */
static int take_room(reading *r, int bytes, char **message)
{
    snapshot *s = r->snapshot;
    int most = basis_code_most(r->so_far.dimension) + 1; /* where vectors stay in the source */
    r->so_far.bytes += r->keeping != INDEX_VECTORS && bytes > most ? most : bytes;
    if (r->room < 0 || r->so_far.bytes <= r->room)
        return SQLITE_OK;
    connection_forget_idle(s->connection);
    r->room = room_for(s, 1);
    if (r->room < 0 || r->so_far.bytes <= r->room)
        return SQLITE_OK;
    return set_message(message,
                       sqlite3_mprintf("an index of %s.%s would take more than is left of the %lld "
                                       "bytes for tables that are not published (faiss_limit)",
                                       s->source->schema, s->source->table,
                                       (long long)publication_limit()));
}

static int read_row(reading *r, char **message)
{
    int type = sqlite3_column_type(r->rows, SOURCE_COLUMN_EMBEDDING);
    int64_t key = r->so_far.last_key = sqlite3_column_int64(r->rows, SOURCE_COLUMN_KEY);
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
    if (fits && r->so_far.dimension == 0) {
        int rc = expect_dimension(r, bytes / VECTOR_COMPONENT_BYTES, message);
        if (rc != SQLITE_OK)
            return rc;
    }
    if (!fits || bytes != r->so_far.dimension * VECTOR_COMPONENT_BYTES)
        return reading_bad_row(r, id, source_describe_value(type, bytes), message);
    int rc = take_room(r, bytes, message);
    if (rc != SQLITE_OK)
        return rc;
    const void *embedding = sqlite3_column_blob(r->rows, SOURCE_COLUMN_EMBEDDING);
    if (!embedding)
        return SQLITE_NOMEM;
    int kept = tracked_kept_values(r->snapshot->tracked);
    uint64_t hash = index_row_hash(key, r->values, kept, embedding, bytes);
    rc = index_builder_row(r->so_far.builder, key, hash, r->values, embedding, message);
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

/* Prepare reading all rows, or those behind the last key read. */
static int prepare_reading(reading *r, int goes_on, char **message)
{
    snapshot *s = r->snapshot;
    char *columns = r->value_count > 1 ? all_columns(s->source) : NULL;
    if (r->value_count > 1 && !columns)
        return SQLITE_NOMEM;
    source_query query = {.columns = columns};
    s->connection->reading_source++;
    int rc =
        source_prepare(s->connection->db, s->source, goes_on ? SOURCE_READ_REST : SOURCE_READ_ALL,
                       &query, &r->rows, message);
    s->connection->reading_source--;
    if (rc == SQLITE_OK && goes_on)
        sqlite3_bind_int64(r->rows, 1, r->so_far.last_key);
    sqlite3_free(columns);
    return rc;
}

/* An index over no rows. */
static int empty_version(const tracked_source *t, int64_t left_out, index_version **out,
                         char **message)
{
    index_builder *b;
    int rc = index_builder_open(t->asked.metric, 0, tracked_kept_values(t), NULL, &b, message);
    if (rc == SQLITE_OK)
        rc = index_builder_finish(b, left_out, out, message);
    index_builder_close(b);
    return rc;
}

/* ---- a sample ---- */

/* Step a statement that gives one row at most: SQLITE_ROW, SQLITE_DONE, or an error with its
** message. */
static int step_once(snapshot *s, sqlite3_stmt *statement, char **message)
{
    int rc = snapshot_step(s, statement);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        rc = source_failure(s->connection->db, s->source, rc, message);
    return rc;
}

/* The last key of the source. SQLITE_DONE where it has no rows. */
static int read_last_key(snapshot *s, sqlite3_int64 *key, char **message)
{
    sqlite3_stmt *last;
    int rc = source_prepare(s->connection->db, s->source, SOURCE_LAST_KEY, NULL, &last, message);
    if (rc != SQLITE_OK)
        return rc;
    rc = step_once(s, last, message);
    *key = sqlite3_column_int64(last, SOURCE_COLUMN_KEY);
    sqlite3_finalize(last);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* Whether the source has so many rows, at least 1. */
static int has_rows(snapshot *s, int64_t rows, int *has, char **message)
{
    sqlite3_stmt *last;
    int rc = source_prepare(s->connection->db, s->source, SOURCE_HAS_ROWS, NULL, &last, message);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(last, 1, rows - 1);
    rc = step_once(s, last, message);
    *has = rc == SQLITE_ROW;
    sqlite3_finalize(last);
    return *has || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Take the embedding of the row that the statement stands on; 0 if it has none that can
** be indexed. */
static int take_embedding(const snapshot *s, sqlite3_stmt *rows, int dimension, float *x)
{
    int bytes = dimension * VECTOR_COMPONENT_BYTES;
    const void *embedding = sqlite3_column_type(rows, SOURCE_COLUMN_EMBEDDING) == SQLITE_BLOB
                                ? sqlite3_column_blob(rows, SOURCE_COLUMN_EMBEDDING)
                                : NULL;
    if (!embedding || sqlite3_column_bytes(rows, SOURCE_COLUMN_EMBEDDING) != bytes)
        return 0;
    memcpy(x, embedding, (size_t)bytes);
    if (vector_first_nonfinite(x, dimension) >= 0)
        return 0;
    if (s->tracked->asked.metric == METRIC_KIND_COSINE)
        segment_normalize(x, dimension);
    return 1;
}

/* Read the rows at or behind `most` places that are spread evenly over the keys. */
static int read_sample(snapshot *s, sqlite3_stmt *rows, int dimension, int most, float *sample,
                       int *count, char **message)
{
    sqlite3_int64 first = 0, last, read = 0, at = INT64_MIN;
    int rc = read_last_key(s, &last, message);
    for (int i = 0; rc == SQLITE_OK && i < most; i++) {
        sqlite3_reset(rows);
        sqlite3_bind_int64(rows, 1, at);
        rc = snapshot_step(s, rows);
        if (rc != SQLITE_ROW)
            break;
        rc = SQLITE_OK;
        read = sqlite3_column_int64(rows, SOURCE_COLUMN_KEY);
        if (i == 0)
            first = read;
        *count += take_embedding(s, rows, dimension, sample + (size_t)*count * (size_t)dimension);
        if (read == last)
            break;
        uint64_t apart = ((uint64_t)last - (uint64_t)first) / (uint64_t)most;
        at = (sqlite3_int64)((uint64_t)first + apart * (uint64_t)(i + 1));
        if (at <= read)
            at = read + 1;
    }
    if (rc == SQLITE_OK || rc == SQLITE_DONE || *message)
        return rc == SQLITE_DONE ? SQLITE_OK : rc;
    return source_failure(s->connection->db, s->source, rc, message);
}

/* Take a sample of the vectors from all over the source, always the same for the same
** rows; *sample is NULL where the keys lie so that few rows are found. */
static int build_sample(snapshot *s, int dimension, float **sample, int *count, char **message)
{
    enum { ENOUGH_SHARE = 2 };
    int most = basis_sample_size(dimension);
    sqlite3_stmt *rows = NULL;
    *count = 0;
    *sample = sqlite3_malloc64((sqlite3_uint64)most * (sqlite3_uint64)dimension * sizeof **sample);
    int rc = *sample ? source_prepare(s->connection->db, s->source, SOURCE_READ_FROM, NULL, &rows,
                                      message)
                     : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = read_sample(s, rows, dimension, most, *sample, count, message);
    sqlite3_finalize(rows);
    if (rc == SQLITE_OK && (*count < most / ENOUGH_SHARE || *count < BASIS_SAMPLE_LEAST)) {
        sqlite3_free(*sample);
        *sample = NULL;
    }
    return rc;
}

/* ---- going on from an interrupted reading ---- */

/* Whether what was read then is there now, but for what the log names. */
static int is_usable(const snapshot *s, const partial_reading *p, const snapshot_state *now)
{
    tracked_source *t = s->tracked;
    if (p->state.live.seq && now->live.seq) {
        int has;
        return p->state.live.schema == now->live.schema &&
               change_log_has(s->connection->db, &t->log, &t->log_reader, &p->state.live, &has) ==
                   SQLITE_OK &&
               has;
    }
    if (p->file_stamp)
        return p->file_stamp == t->file_stamp;
    return p->connection == s->connection->serial && p->resolutions == t->resolutions &&
           p->state.file == now->file && t->watch && !t->source.is_volatile;
}

/* Whether other connections can know the state in which a reading began. */
static int is_known_to_others(const partial_reading *p)
{
    return p->state.live.seq || p->file_stamp;
}

/* What an interrupted reading has left: this connection's own, or one that any
** connection may go on with. */
static partial_reading *find_partial(tracked_source *t)
{
    partial_reading *own = t->partial;
    t->partial = NULL;
    return own ? own : registry_take_partial(t->shared, REGISTRY_READING);
}

/* Take that over. Where it cannot be gone on with it is something to compare with. */
static int take_partial(reading *r, const snapshot_state *state, int *goes_on, char **message)
{
    partial_reading *p = find_partial(r->snapshot->tracked);
    int rc = SQLITE_OK;
    *goes_on = 0;
    if (!p)
        return SQLITE_OK;
    if (is_usable(r->snapshot, p, state)) {
        r->so_far = *p;
        p->builder = NULL;
        describe_expected(r);
        *goes_on = 1;
    } else if (!r->base) {
        rc = index_builder_finish(p->builder, p->left_out, &r->base, message);
    }
    partial_free(p);
    return rc;
}

/* Keep it for the next reading. */
static void keep_partial(reading *r)
{
    tracked_source *t = r->snapshot->tracked;
    partial_reading *p = sqlite3_malloc64(sizeof *p);
    if (!p)
        return;
    *p = r->so_far;
    r->so_far.builder = NULL;
    if (is_known_to_others(p)) {
        registry_keep_partial(t->shared, REGISTRY_READING, p, partial_free);
    } else {
        if (t->partial)
            t->partial_destroy(t->partial);
        t->partial = p;
        t->partial_destroy = partial_free;
    }
}

/* What is read now was begun in another state: bring it up to this one. */
static int catch_up(snapshot *s, const live_state *from, const live_state *to, index_version **v,
                    char **message)
{
    index_version *begun = *v, *changed = NULL;
    if (!from->seq || live_state_equal(from, to))
        return SQLITE_OK;
    *v = NULL;
    int rc = build_changes(s, begun, from, to, NULL, &changed, message);
    if (rc == SQLITE_OK && changed)
        *v = changed;
    else if (rc == SQLITE_OK)
        rc = build_whole(s, begun, s->tracked->asked.strict, NULL, v, message);
    index_release(begun);
    return rc;
}

/* ---- */

static int open_reading(reading *r, const snapshot_state *state, int *goes_on, char **message)
{
    tracked_source *t = r->snapshot->tracked;
    *goes_on = 0;
    r->value_count = tracked_kept_values(t) ? tracked_kept_values(t) : 1;
    r->values = sqlite3_malloc64((sqlite3_uint64)r->value_count * sizeof *r->values);
    if (!r->values)
        return SQLITE_NOMEM;
    int rc = SQLITE_OK;
    if (state) {
        r->so_far.state = *state;
        r->so_far.connection = r->snapshot->connection->serial;
        r->so_far.resolutions = t->resolutions;
        r->so_far.file_stamp = t->file_stamp;
        rc = take_partial(r, state, goes_on, message);
    }
    if (rc == SQLITE_OK && t->asked.dimension && !r->so_far.builder)
        rc = expect_dimension(r, t->asked.dimension, message);
    return rc == SQLITE_OK ? prepare_reading(r, *goes_on, message) : rc;
}

static int finish_reading(reading *r, const snapshot_state *state, index_version **out,
                          char **message)
{
    tracked_source *t = r->snapshot->tracked;
    const partial_reading *p = &r->so_far;
    int rc = p->builder ? index_builder_finish(p->builder, p->left_out, out, message)
                        : empty_version(t, p->left_out, out, message);
    if (rc == SQLITE_OK && *out != r->base) {
        (*out)->build_seconds = p->seconds;
        if (p->left_out && (!r->base || r->base->left_out != p->left_out)) {
            sqlite3_log(SQLITE_WARNING, "faiss: %lld rows of %s.%s are malformed and left out",
                        (long long)p->left_out, t->source.schema, t->source.table);
        }
    }
    if (rc == SQLITE_OK && state)
        rc = catch_up(r->snapshot, &p->state.live, &state->live, out, message);
    return rc;
}

/* Whether the builder wants a sample now. With the first full segment the source is asked, once,
** whether it has as many rows as are worth one: then the vectors of so many need not be held. */
static int wants_sample(reading *r, int *wants, char **message)
{
    const index_builder *b = r->so_far.builder;
    *wants = b && index_builder_wants_sample(b, 0);
    if (!b || *wants || r->asked_rows || !index_builder_wants_sample(b, BASIS_ROWS_LEAST))
        return SQLITE_OK;
    r->asked_rows = 1;
    return has_rows(r->snapshot, BASIS_ROWS_LEAST, wants, message);
}

/* Give the builder a sample when it is time for one. Where the keys lie so that there is none, it
** waits until it has rows enough of its own. */
static int sample_if_wanted(reading *r, char **message)
{
    float *sample = NULL;
    int count, wants;
    int rc = wants_sample(r, &wants, message);
    if (rc != SQLITE_OK || !wants)
        return rc;
    rc = build_sample(r->snapshot, r->so_far.dimension, &sample, &count, message);
    if (rc == SQLITE_OK && (sample || index_builder_wants_sample(r->so_far.builder, 0)))
        rc = index_builder_take_sample(r->so_far.builder, sample, count, message);
    sqlite3_free(sample);
    return rc;
}

/* Read the whole source as `r` says. */
static int read_whole(reading *reading_of, const snapshot_state *state, index_version **out,
                      char **message)
{
    snapshot *s = reading_of->snapshot;
    reading r = *reading_of;
    *out = NULL;
    r.room = room_for(s, 0);
    double begin = clock_seconds();
    int goes_on;
    if (!s->source->rowid)
        state = NULL;
    int rc = open_reading(&r, state, &goes_on, message);
    while (rc == SQLITE_OK && (rc = snapshot_step(s, r.rows)) == SQLITE_ROW) {
        rc = read_row(&r, message);
        if (rc == SQLITE_OK)
            rc = sample_if_wanted(&r, message);
    }
    r.so_far.seconds += clock_seconds() - begin;
    if (rc == SQLITE_DONE)
        rc = finish_reading(&r, state, out, message);
    else if (rc == SQLITE_INTERRUPT && state && r.so_far.builder)
        keep_partial(&r);
    else if (rc != SQLITE_OK && !*message)
        rc = source_failure(s->connection->db, s->source, rc, message);
    sqlite3_finalize(r.rows);
    index_builder_close(r.so_far.builder);
    index_release(r.base);
    sqlite3_free(r.values);
    return rc;
}

/* What building took and gave back the C library keeps, and with it a part of what was to be
** saved. */
static void return_free_memory(void)
{
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

int build_whole(snapshot *s, index_version *base, int strict, const snapshot_state *state,
                index_version **out, char **message)
{
    const definition *asked = &s->tracked->asked;
    index_keeping little = *asked->kind.text ? INDEX_CODES : INDEX_LITTLE;
    reading r = {.snapshot = s,
                 .base = index_retain(base),
                 .strict = strict,
                 .keeping = asked->low_memory ? little : INDEX_VECTORS};
    int rc = read_whole(&r, state, out, message);
    if (r.keeping != INDEX_VECTORS)
        return_free_memory();
    return rc;
}

int build_keys(snapshot *s, index_version **out, char **message)
{
    reading r = {.snapshot = s, .strict = 1, .keeping = INDEX_KEYS};
    return read_whole(&r, NULL, out, message);
}

/* ---- what changed ---- */

/* Hand the row that the statement stands on to the delta. SQLITE_MISMATCH for one
** that is malformed. */
static int read_change(index_delta *d, sqlite3_stmt *rows, int dimension, char **message)
{
    sqlite3_int64 key = sqlite3_column_int64(rows, SOURCE_COLUMN_KEY);
    int type = sqlite3_column_type(rows, SOURCE_COLUMN_EMBEDDING);
    if (!sqlite3_column_int(rows, CHANGE_LOG_COLUMN_PRESENT) || type == SQLITE_NULL)
        return index_delta_row(d, key, 0, NULL, message);
    int bytes = type == SQLITE_BLOB ? sqlite3_column_bytes(rows, SOURCE_COLUMN_EMBEDDING) : 0;
    if (bytes != dimension * VECTOR_COMPONENT_BYTES)
        return SQLITE_MISMATCH;
    const void *embedding = sqlite3_column_blob(rows, SOURCE_COLUMN_EMBEDDING);
    if (!embedding)
        return SQLITE_NOMEM;
    return index_delta_row(d, key, index_row_hash(key, NULL, 0, embedding, bytes), embedding,
                           message);
}

static int read_changes(snapshot *s, index_version *base, sqlite3_stmt *rows, index_version **out,
                        char **message)
{
    index_delta *d;
    int rc = index_delta_open(base, base->dimension, &d);
    while (rc == SQLITE_OK && (rc = snapshot_step(s, rows)) == SQLITE_ROW)
        rc = read_change(d, rows, base->dimension, message);
    if (rc == SQLITE_DONE)
        rc = index_delta_finish(d, out, message);
    else if (rc != SQLITE_OK && rc != SQLITE_MISMATCH && !*message)
        rc = source_failure(s->connection->db, s->source, rc, message);
    index_delta_close(d);
    return rc;
}

int64_t build_changes_most(int64_t rows)
{
    int64_t most = rows / CHANGES_SHARE;
    return most < CHANGES_ALWAYS ? CHANGES_ALWAYS : most;
}

int build_changes(snapshot *s, index_version *base, const live_state *from, const live_state *to,
                  const sqlite3_int64 *inserted, index_version **out, char **message)
{
    *out = NULL;
    int64_t most = build_changes_most(base->rows);
    /* Without rows the dimension is to be found; with malformed ones, which of them
    ** the log names is not known. */
    if (to->seq - from->seq > most || base->rows == 0 || base->left_out || to->seq < from->seq)
        return SQLITE_OK;
    tracked_source *t = s->tracked;
    int complete;
    int rc = change_log_changes(s->connection->db, s->source, &t->log, &t->log_reader, from->seq,
                                to->seq, most, inserted, &complete, message);
    if (rc != SQLITE_OK || !complete)
        return rc;
    index_version *changed = NULL;
    rc = read_changes(s, base, t->log_reader.changes, &changed, message);
    sqlite3_reset(t->log_reader.changes);
    if (rc == SQLITE_MISMATCH) /* reading it all says which row, or leaves it out */
        return SQLITE_OK;
    if (rc == SQLITE_OK && index_is_fragmented(changed)) {
        rc = index_compact(changed, snapshot_poll, s, out, message);
        index_release(changed);
    } else {
        *out = changed;
    }
    return rc;
}
