#include "snapshot.h"

#include <string.h>
#include <time.h>

#include "build.h"
#include "delta.h"
#include "growth.h"
#include "message.h"
#include "publication.h"
#include "sql_text.h"
#include "stored.h"

/* Before that version an extension cannot call it: the table of pointers ends. */
enum { SERIALIZE_AVAILABLE = 3039000 };
enum { BUILD_WAIT_MS = 50, POLL_MS = 50, RESOLVE_ATTEMPTS = 5 };

/* ---- opening ---- */

int snapshot_step(snapshot *s, sqlite3_stmt *statement)
{
    /* SQLite looks for interrupts of the connection that it steps on, not of the asker. */
    char *ignored = NULL;
    int rc = s->asker ? snapshot_poll(s, &ignored) : SQLITE_OK;
    sqlite3_free(ignored);
    if (rc != SQLITE_OK)
        return rc;
    s->connection->reading_source++;
    rc = sqlite3_step(statement);
    s->connection->reading_source--;
    return rc;
}

/* Have the eponymous table connected that finalizes watches when the connection
** closes; without it nothing is watched and every search compares. */
static void ensure_watch_keeper(connection *c)
{
    sqlite3_stmt *statement;
    if (!c->watch_keeper &&
        sql_prepare_fixed(c->db, "SELECT 1 FROM faiss_indexes", &statement) == SQLITE_OK)
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

/* Learn what the source is now; *same if nothing differs from before. */
static int resolve(snapshot *s, int *same, char **message)
{
    tracked_source *t = s->tracked;
    sqlite3 *db = s->connection->db;
    source fresh;
    int rc = resolve_source(s, &fresh, message);
    if (rc != SQLITE_OK)
        return rc;
    *same = t->resolved && source_equal(&fresh, &t->source);
    source_clear(&t->source);
    change_log_clear(&t->log);
    t->source = fresh;
    t->resolved = 1;
    t->resolutions++;
    t->trusted = 0;
    sqlite3_finalize(t->last_entry);
    t->last_entry = NULL;
    rc = storage_inspect(db, &t->source, &t->log, message);
    return rc == SQLITE_OK ? connection_join_registry(s->connection, t) : rc;
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

/* Resolve while there is no snapshot, so that there can be one. */
static int resolve_first(snapshot *s, char **message)
{
    int same;
    tracked_drop_watch(s->tracked);
    return resolve(s, &same, message);
}

static int open_pinned(snapshot *s, char **message)
{
    tracked_source *t = s->tracked;
    int rc = t->resolved ? SQLITE_OK : resolve_first(s, message);
    if (rc == SQLITE_OK)
        rc = prepare_pin(s, &s->pin, message);
    if (rc == SQLITE_OK && snapshot_step(s, s->pin) != SQLITE_ROW) {
        rc = sqlite3_reset(s->pin);
        rc = source_failure(s->connection->db, &t->source, rc ? rc : SQLITE_ERROR, message);
    }
    return rc;
}

/* Resolve the source once more inside the snapshot: from now on the watch tells
** whether it changes. */
static int resolve_again(snapshot *s, int *same, char **message)
{
    tracked_source *t = s->tracked;
    int rc = resolve(s, same, message);
    if (rc == SQLITE_OK && t->watch)
        t->preparations = sqlite3_stmt_status(t->watch, SQLITE_STMTSTATUS_REPREPARE, 0);
    return rc;
}

/* Pinning failed, perhaps for columns that are gone: SQLITE_OK to try once more with
** what the source is now, or else what resolving says is missing. */
static int resolve_after_failure(snapshot *s, int failure, char **message)
{
    char *first = *message;
    *message = NULL;
    int rc = resolve_first(s, message);
    if (rc != SQLITE_OK && !*message) {
        *message = first;
        return failure;
    }
    sqlite3_free(first);
    return rc;
}

/* A snapshot that begins now holds all that was published before. */
static void note_published(snapshot *s)
{
    const tracked_source *t = s->tracked;
    sqlite3 *db = s->connection->db;
    if (!t->resolved || !t->log.table || !sqlite3_get_autocommit(db) ||
        sqlite3_txn_state(db, t->source.schema) != SQLITE_TXN_NONE)
        return;
    live_state states[REGISTRY_STATES];
    int count = registry_states(t->shared, states);
    for (int i = 0; i < count; i++) {
        if (states[i].seq > s->published.seq)
            s->published = states[i];
    }
}

int snapshot_open(connection *c, const definition *d, snapshot *out, char **message)
{
    return snapshot_open_for(NULL, c, d, out, message);
}

int snapshot_open_for(connection *asker, connection *c, const definition *d, snapshot *out,
                      char **message)
{
    *out = (snapshot){.connection = c, .asker = asker, .threads = d->threads};
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
    note_published(out);
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

/* Outside of a transaction the next statement sees the newest state: the registry
** keeps what it needs, and an idle connection should not hold on to an old version. */
static void let_go(const snapshot *s)
{
    tracked_source *t = s->tracked;
    if (t->users > 1 || !t->latest_live.seq || !sqlite3_get_autocommit(s->connection->db))
        return;
    index_release(t->latest);
    t->latest = NULL;
}

void snapshot_detach(snapshot *s, snapshot *out)
{
    *out = (snapshot){.connection = s->asker,
                      .version = index_retain(s->version),
                      .threads = s->threads,
                      .kind = s->tracked->asked.kind};
}

void snapshot_close(snapshot *s)
{
    sqlite3_finalize(s->lookup);
    sqlite3_finalize(s->embedding);
    sqlite3_finalize(s->vectors);
    sqlite3_finalize(s->pin);
    coverage_release(s->coverage);
    index_release(s->version);
    if (s->tracked) {
        let_go(s);
        connection_untrack(s->tracked);
    }
    *s = (snapshot){0};
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
    if (sql_prepare_fixed(s->connection->db, "PRAGMA read_uncommitted", &pragma) == SQLITE_OK)
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

static int check_interrupt(snapshot *s, char **message)
{
    sqlite3 *db = s->asker ? s->asker->db : s->connection->db;
    int rc = sql_poll(db);
    if (rc == SQLITE_OK || rc == SQLITE_INTERRUPT || !s->source)
        return rc;
    return source_failure(db, s->source, rc, message);
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

/* Whether a statement that writes is running on this connection, so that the source
** may be between a change and the log's entry of it, or the other way round. */
static int is_mid_statement(const snapshot *s)
{
    for (sqlite3_stmt *each = sqlite3_next_stmt(s->connection->db, NULL); each;
         each = sqlite3_next_stmt(s->connection->db, each)) {
        if (sqlite3_stmt_busy(each) && !sqlite3_stmt_readonly(each))
            return 1;
    }
    return 0;
}

/* ---- by the change log ---- */

/* The name that the log gives to the snapshot's state; seq 0 where it has none. */
static int read_live_state(snapshot *s, live_state *state, char **message)
{
    tracked_source *t = s->tracked;
    *state = (live_state){.schema = t->log.schema};
    if (!t->log.table || t->asked.not_live)
        return SQLITE_OK;
    /* Without a keeper nobody would finalize the statement before the connection closes. */
    sqlite3_stmt *once = NULL;
    int keeps = s->connection->watch_keeper != NULL;
    int rc = storage_last(s->connection->db, s->source, &t->log, keeps ? &t->last_entry : &once,
                          state, message);
    sqlite3_finalize(once);
    return rc;
}

/* Whether the draft's state has a name that still means it: the count of schema
** changes is used again after a rollback. */
static int draft_counts(const tracked_source *t)
{
    return t->draft && t->draft_resolutions == t->resolutions;
}

/* A version of exactly this state that is known already; NULL if there is none. */
static index_version *find_version(const snapshot *s, const live_state *now)
{
    const tracked_source *t = s->tracked;
    if (live_state_equal(&t->latest_live, now) && t->latest)
        return index_retain(t->latest);
    if (draft_counts(t) && !t->draft_since.seq && live_state_equal(&t->draft_live, now))
        return index_retain(t->draft);
    return registry_at(t->shared, now);
}

/* What changes can be counted from: a version whose state is in this snapshot's past. `row` may
** be NULL: it may have changed besides. */
typedef struct fold_point {
    index_version *version;
    live_state state;
    const sqlite3_int64 *row;
} fold_point;

/* Whether a state is in the past of this one, as far as numbers tell. */
static int may_be_past(const live_state *state, const live_state *now)
{
    return state->seq && state->schema == now->schema && state->seq <= now->seq;
}

/* The last state that a version is known of, up to this one. */
static live_state last_known(const snapshot *s, const live_state *now)
{
    const tracked_source *t = s->tracked;
    live_state states[REGISTRY_STATES], last = {0};
    int count = registry_states(t->shared, states);
    for (int i = 0; i < count; i++) {
        if (may_be_past(&states[i], now) && states[i].seq > last.seq)
            last = states[i];
    }
    if (may_be_past(&t->latest_live, now) && t->latest_live.seq > last.seq)
        last = t->latest_live;
    return last;
}

static int is_in_log(snapshot *s, const live_state *state, int *has, char **message)
{
    int rc = storage_has(s->connection->db, &s->tracked->log, state, has);
    return rc == SQLITE_OK ? rc : source_failure(s->connection->db, s->source, rc, message);
}

/* Whether changes can be counted from the draft: not so after a rollback. */
static int is_draft_past(snapshot *s, const live_state *now, int mid_statement, int *past,
                         char **message)
{
    const tracked_source *t = s->tracked;
    int is_unsure = t->draft_since.seq != 0;
    *past = 0;
    if (!draft_counts(t) || !may_be_past(&t->draft_live, now) || (is_unsure && mid_statement))
        return SQLITE_OK;
    int rc = is_in_log(s, &t->draft_live, past, message);
    if (rc == SQLITE_OK && *past && is_unsure)
        rc = is_in_log(s, &t->draft_since, past, message);
    return rc;
}

/*
** Find the version to count changes from. What was committed once stays in the log
** until the ring passes over it: where the last state known is not there, the log
** was cut, or the file is another copy, and older states prove nothing either.
*/
static int find_fold_point(snapshot *s, const live_state *now, int mid_statement, fold_point *from,
                           char **message)
{
    tracked_source *t = s->tracked;
    int has = 0, rc = SQLITE_OK, is_unsure = t->draft_since.seq != 0;
    *from = (fold_point){0};
    live_state last = last_known(s, now);
    if (t->draft_live.seq >= last.seq)
        rc = is_draft_past(s, now, mid_statement, &has, message);
    if (rc == SQLITE_OK && has) {
        *from = (fold_point){index_retain(t->draft), is_unsure ? t->draft_since : t->draft_live,
                             is_unsure ? &t->draft_row : NULL};
        return SQLITE_OK;
    }
    if (rc == SQLITE_OK && last.seq)
        rc = is_in_log(s, &last, &has, message);
    if (rc == SQLITE_OK && has)
        *from = (fold_point){find_version(s, &last), last, NULL};
    return rc;
}

/* Fold the changes in since a version that there is. *out is NULL where there is
** none, or where the log does not tell. */
static int fold_changes(snapshot *s, const live_state *now, int mid_statement, index_version **out,
                        char **message)
{
    fold_point from;
    *out = NULL;
    if (mid_statement && s->tracked->log.is_overtaken)
        return SQLITE_OK;
    int rc = find_fold_point(s, now, mid_statement, &from, message);
    s->inserted = sqlite3_last_insert_rowid(s->connection->db);
    if (mid_statement)
        from.row = &s->inserted;
    if (rc == SQLITE_OK && from.version)
        rc = build_changes(s, from.version, &from.state, now, from.row, out, message);
    if (rc == SQLITE_OK && *out && mid_statement) {
        s->since = from.state;
        s->until = *now;
    }
    index_release(from.version);
    return rc;
}

/* ---- making the version ---- */

/* What there is to compare a reading of the whole source with. */
static index_version *comparison_base(const tracked_source *t, index_version *published)
{
    return t->draft ? t->draft : t->latest ? t->latest : published;
}

/* Whether the log ends before an entry that this snapshot must have, since it was
** committed before: it was cut, or the file is an older copy. */
static int went_back(const snapshot *s, const live_state *now)
{
    const live_state *seen = &s->tracked->latest_live;
    return now->seq && ((seen->schema == now->schema && now->seq < seen->seq) ||
                        (s->published.schema == now->schema && now->seq < s->published.seq));
}

/* Take over a version of a committed state. */
static void take_latest(sqlite3 *db, tracked_source *t, index_version *made,
                        const snapshot_state *state)
{
    index_version *former = t->latest;
    const char *path = sqlite3_db_filename(db, t->source.schema);
    t->latest = registry_publish(t->shared, made, state->live.seq ? &state->live : NULL,
                                 connection_file_stamp(path));
    t->latest_live = state->live;
    t->state = state->file;
    t->trusted = t->watch != NULL && !t->source.is_volatile;
    index_release(former);
    index_release(t->draft);
    t->draft = NULL;
    t->draft_live.seq = 0;
}

/* Find or make the version of a committed state, and share it. The first build is
** one connection's while the others wait. */
static int refresh_shared(snapshot *s, const snapshot_state *state, char **message)
{
    tracked_source *t = s->tracked;
    int rc = SQLITE_OK, has_turn = 0;
    while (rc == SQLITE_OK && !registry_begin_build(t->shared, BUILD_WAIT_MS, &has_turn))
        rc = check_interrupt(s, message);
    uint64_t stamp = 0;
    index_version *published = rc == SQLITE_OK ? registry_current(t->shared, &stamp) : NULL;
    index_version *made = NULL;
    if (rc == SQLITE_OK && went_back(s, &state->live)) {
        registry_forget_states(t->shared);
    } else if (rc == SQLITE_OK && state->live.seq) {
        made = find_version(s, &state->live);
        if (!made)
            rc = fold_changes(s, &state->live, 0, &made, message);
    } else if (rc == SQLITE_OK && published && t->is_immutable && t->file_stamp &&
               stamp == t->file_stamp) {
        made = index_retain(published);
    }
    if (rc == SQLITE_OK && !made)
        rc = build_whole(s, comparison_base(t, published), t->asked.strict, state, &made, message);
    if (rc == SQLITE_OK)
        take_latest(s->connection->db, t, made, state);
    if (has_turn)
        registry_end_build(t->shared);
    index_release(published);
    index_release(made);
    return rc;
}

/* Keep a version that was read in a transaction that writes. In the middle of a
** statement its name may mean another state later on. */
static void keep_draft(const snapshot *s, index_version *made, const live_state *now)
{
    tracked_source *t = s->tracked;
    index_version *former = t->draft;
    t->draft = index_retain(made);
    t->draft_live = *now;
    t->draft_since.seq = 0;
    if (is_mid_statement(s))
        t->draft_live.seq = 0;
    t->draft_resolutions = t->resolutions;
    index_release(former);
}

/* Find or make the version of a state that may never be committed: for this
** connection alone. Its segments serve the next one. */
static int refresh_private(snapshot *s, index_version **out, char **message)
{
    tracked_source *t = s->tracked;
    live_state now;
    int mid_statement = is_mid_statement(s);
    int rc = read_live_state(s, &now, message);
    *out = NULL;
    if (rc == SQLITE_OK && now.seq && !mid_statement)
        *out = find_version(s, &now);
    if (rc == SQLITE_OK && now.seq && !*out)
        rc = fold_changes(s, &now, mid_statement, out, message);
    if (rc == SQLITE_OK && !*out) {
        uint64_t stamp;
        index_version *published = registry_current(t->shared, &stamp);
        rc = build_whole(s, comparison_base(t, published), t->asked.strict, NULL, out, message);
        index_release(published);
        now.seq = mid_statement && now.seq ? 0 : now.seq;
    }
    if (rc == SQLITE_OK && !(mid_statement && now.seq))
        keep_draft(s, *out, &now);
    return rc;
}

int snapshot_index(snapshot *s, index_version **version, char **message)
{
    tracked_source *t = s->tracked;
    int rc = SQLITE_OK;
    if (!s->version && is_writing(s)) {
        rc = refresh_private(s, &s->version, message);
    } else if (!s->version) {
        snapshot_state state = {.file = source_state(s)};
        int known = t->trusted && t->state == state.file;
        if (known && !t->latest)
            t->latest = registry_at(t->shared, &t->latest_live);
        if (!known || !t->latest) {
            rc = read_live_state(s, &state.live, message);
            if (rc == SQLITE_OK)
                rc = refresh_shared(s, &state, message);
        }
        if (rc == SQLITE_OK)
            s->version = index_retain(t->latest);
    }
    *version = s->version;
    return rc;
}

/* ---- the approximate index ---- */

static const index_kind *kind_of(const snapshot *s)
{
    return s->tracked ? &s->tracked->asked.kind : &s->kind;
}

/* Whether the version may be one of rows that are not committed. */
static int is_private(const snapshot *s)
{
    return s->tracked && is_writing(s);
}

int snapshot_coverage(snapshot *s, coverage **out, char **message)
{
    const index_kind *kind = kind_of(s);
    int rc = SQLITE_OK;
    vector_reader reader = vector_reader_of(s);
    const growth_loader loader = {stored_load, s};
    if (*kind->text && !s->coverage && s->version->rows > 0)
        rc = growth_coverage(s->version, kind, !is_private(s), s->tracked ? &loader : NULL, &reader,
                             &s->coverage, message);
    *out = s->coverage;
    return rc;
}

int snapshot_load(snapshot *s, char **message)
{
    const index_kind *kind = &s->tracked->asked.kind;
    if (!*kind->text || s->version->rows == 0 || is_writing(s))
        return SQLITE_OK;
    const growth_loader loader = {stored_load, s};
    return growth_restore(s->version, kind, &loader, message);
}

/* Whether nobody has a newer version than this snapshot's. */
static int is_newest(const snapshot *s)
{
    uint64_t stamp;
    index_version *current = s->tracked ? registry_current(s->tracked->shared, &stamp) : NULL;
    int newest = !s->tracked || current == s->version;
    index_release(current);
    return newest;
}

void snapshot_improve(snapshot *s)
{
    vector_reader reader = vector_reader_of(s);
    if (s->coverage && !is_private(s))
        growth_improve(s->version, kind_of(s), s->coverage, is_newest(s), &reader);
}

int snapshot_index_in_order(snapshot *s, index_version **version, char **message)
{
    int rc = snapshot_index(s, version, message);
    if (rc == SQLITE_OK)
        rc = index_compact(s->version, snapshot_poll, s, version, message);
    if (rc == SQLITE_OK) {
        if (*version != s->version) {
            coverage_release(s->coverage);
            s->coverage = NULL;
        }
        index_release(s->version);
        s->version = *version;
    }
    return rc;
}

int snapshot_compare(snapshot *s, index_version **version, char **message)
{
    tracked_source *t = s->tracked;
    snapshot_state state = {.file = source_state(s)};
    index_version *made = NULL;
    int rc = read_live_state(s, &state.live, message);
    if (rc == SQLITE_OK)
        rc = build_whole(s, s->version, t->asked.strict, NULL, &made, message);
    if (rc != SQLITE_OK)
        return rc;
    if (is_writing(s))
        keep_draft(s, made, &state.live);
    else
        take_latest(s->connection->db, t, made, &state);
    index_release(s->version);
    coverage_release(s->coverage); /* of the former version */
    s->version = made;
    s->coverage = NULL;
    *version = made;
    if (!s->answered && !s->compared++)
        return SQLITE_OK;
    return set_message(message, sqlite3_mprintf("rows of %s.%s were changed while this search read "
                                                "them, or unseen by the index: run the statement "
                                                "again",
                                                s->source->schema, s->source->table));
}

/* Put a version in the place of another that this connection holds. */
static void replace_held(index_version **held, const index_version *former, index_version *version)
{
    if (*held != former)
        return;
    *held = index_retain(version);
    index_release((index_version *)former);
}

/* Complete what searches would make piece by piece: the approximate index of the version, if
** there is to be one, else its sketches. */
static int complete(snapshot *s, int anew, char **message)
{
    const index_kind *kind = &s->tracked->asked.kind;
    vector_reader reader = vector_reader_of(s);
    index_version *v;
    if (s->version->rows == 0)
        return SQLITE_OK;
    if (!*kind->text)
        return index_complete(s->version, snapshot_poll, s, message);
    const growth_loader loader = {stored_load, s};
    int rc = growth_complete(s->version, kind, anew, &loader, &reader, message);
    if (rc != SQLITE_MISMATCH)
        return rc;
    rc = snapshot_compare(s, &v, message);
    return rc == SQLITE_OK ? growth_complete(v, kind, anew, &loader, &reader, message) : rc;
}

/* Keep what a command has made, for the searches after its statement. Of which state it is
** cannot be told: a trigger may have run the command between a change and its entry. */
static void keep_unsure_draft(const snapshot *s)
{
    tracked_source *t = s->tracked;
    index_version *known = registry_at(t->shared, &s->since), *former = t->draft;
    if (known != s->version) {
        t->draft = index_retain(s->version);
        t->draft_live = s->until;
        t->draft_since = s->since;
        t->draft_row = s->inserted;
        t->draft_resolutions = t->resolutions;
        index_release(former);
    }
    index_release(known);
}

int snapshot_optimize(snapshot *s, int anew, char **message)
{
    tracked_source *t = s->tracked;
    index_version *former, *ordered;
    int rc = snapshot_index(s, &former, message);
    if (rc != SQLITE_OK)
        return rc;
    index_retain(former);
    rc = snapshot_index_in_order(s, &ordered, message);
    if (rc == SQLITE_OK && ordered != former) {
        registry_replace(t->shared, former, ordered);
        replace_held(&t->latest, former, ordered);
        replace_held(&t->draft, former, ordered);
    }
    if (rc == SQLITE_OK)
        rc = complete(s, anew, message);
    if (rc == SQLITE_OK && s->since.seq)
        keep_unsure_draft(s);
    index_release(former);
    return rc;
}

int snapshot_check(snapshot *s, int *equal, char **message)
{
    index_version *indexed, *read;
    int rc = snapshot_index(s, &indexed, message);
    if (rc == SQLITE_OK)
        rc = build_keys(s, &read, message);
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
    t->latest_live.seq = t->draft_live.seq = 0;
    t->trusted = 0;
}

/* ---- rows found ---- */

static int row_is_gone(const snapshot *s, int64_t key, char **message)
{
    return set_message(message,
                       sqlite3_mprintf("the row with rowid %lld of %s.%s was deleted%s while the "
                                       "search was read",
                                       (long long)key, s->source->schema, s->source->table,
                                       s->asker ? "" : " by this connection"));
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

/* A table that is published, and not as a faiss table: its options hold for this name. */
static int define_published(publication *p, char *schema, definition *out)
{
    int rc = definition_copy(out, publication_definition(p));
    if (rc != SQLITE_OK || !schema)
        return rc;
    sqlite3_free(out->schema);
    out->schema = sqlite3_mprintf("%s", schema);
    return out->schema ? SQLITE_OK : SQLITE_NOMEM;
}

/* A table of this connection: a plain source, or a faiss table. */
static int define_own(connection *c, const char *schema, const char *table, definition *out)
{
    *out = (definition){.strict = 1,
                        .metric = METRIC_KIND_L2,
                        .schema = sqlite3_mprintf("%s", schema),
                        .table = sqlite3_mprintf("%s", table)};
    int exists, rc = out->schema && out->table ? SQLITE_OK : SQLITE_NOMEM;
    if (rc != SQLITE_OK || connection_is_plain(c, out))
        return rc;
    /* What this connection has connected may be gone, or made anew, by another one's doing,
    ** and stay connected as long as a prepared statement names it. */
    rc = source_connect(c->db, out->schema, out->table, &exists);
    const definition *known =
        rc == SQLITE_OK && exists ? connection_find_table(c, out->schema, out->table) : NULL;
    if (!known)
        return rc;
    definition_clear(out);
    return definition_copy(out, known);
}

int snapshot_define(connection *c, const char *database, const char *table, definition *out,
                    char **message)
{
    char *schema;
    publication *p;
    *out = (definition){0};
    int rc = publication_resolve(c, database, table, &schema, &p, message);
    if (rc != SQLITE_OK)
        return rc;
    if (p && !schema) {
        *out = (definition){.schema = sqlite3_mprintf("%s", publication_name(p)),
                            .table = sqlite3_mprintf("%s", publication_table(p)),
                            .metric = publication_definition(p)->metric,
                            .through = publication_retain(p)};
        rc = out->schema && out->table ? SQLITE_OK : SQLITE_NOMEM;
    } else if (p && !publication_is_faiss_table(p)) {
        rc = define_published(p, schema, out);
    } else {
        rc = define_own(c, schema, table, out);
    }
    if (rc != SQLITE_OK)
        definition_clear(out);
    publication_release(p);
    sqlite3_free(schema);
    return rc;
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
