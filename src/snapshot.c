#include "snapshot.h"

#include "clock.h"
#include "message.h"
#include "sql_text.h"

enum { POLL_MS = 50, RESOLVE_ATTEMPTS = 5 };

/* ---- the pin ---- */

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

static int preparations_of(sqlite3_stmt *statement)
{
    return sqlite3_stmt_status(statement, SQLITE_STMTSTATUS_REPREPARE, 0);
}

/* Whether the authorizer was asked already for the statement of this plan. */
static int has_asked(const kept_pin *kept, const char *plan)
{
    for (int i = 0; plan && i < PLANS_REMEMBERED; i++) {
        if (kept->plans[i] == plan)
            return 1;
    }
    return 0;
}

/* Have a pin: the kept one, where it was asked for before by this statement. */
static int find_pin(snapshot *s, char **message)
{
    tracked_source *t = s->tracked;
    sqlite3_stmt *kept = t->pin.statement;
    s->pin_resolutions = t->resolutions;
    s->pin_was_kept = kept && t->pin.resolutions == t->resolutions && has_asked(&t->pin, s->plan);
    if (s->pin_was_kept) {
        s->pin = kept;
        t->pin.statement = NULL;
        return SQLITE_OK;
    }
    int rc = prepare_pin(s, &s->pin, message);
    if (rc == SQLITE_OK && s->plan) { /* it takes the place of the one before */
        sqlite3_finalize(kept);
        t->pin.statement = NULL;
    }
    return rc;
}

/* Let go of the pin: keep it for the next search, where the watch is kept, too. */
static void let_go_pin(snapshot *s)
{
    tracked_source *t = s->tracked;
    if (!s->pin)
        return;
    int keep = sqlite3_reset(s->pin) == SQLITE_OK && s->plan && !t->pin.statement;
    if (!keep || !t->watch || !s->connection->watch_keeper ||
        s->pin_resolutions != t->resolutions) {
        sqlite3_finalize(s->pin);
    } else {
        t->pin.statement = s->pin;
        t->pin.preparations = preparations_of(s->pin);
        t->pin.resolutions = t->resolutions;
        if (!has_asked(&t->pin, s->plan)) {
            t->pin.plans[t->pin.next_plan] = s->plan;
            t->pin.next_plan = (t->pin.next_plan + 1) % PLANS_REMEMBERED;
        }
    }
    s->pin = NULL;
}

/* ---- is the source still what it was? ---- */

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
    log_reader_clear(&t->log_reader);
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
    if (t->watch && s->pin_was_kept && preparations_of(s->pin) == t->pin.preparations) {
        *agrees = 1; /* it was left by a snapshot for which the watch agreed */
        return SQLITE_OK;
    }
    if (t->watch) {
        int rc = step_watch(s);
        *agrees = rc == SQLITE_OK && preparations_of(t->watch) == t->preparations;
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

/* Resolve the source once more inside the snapshot: from now on the watch tells
** whether it changes. */
static int resolve_again(snapshot *s, int *same, char **message)
{
    tracked_source *t = s->tracked;
    int rc = resolve(s, same, message);
    if (rc == SQLITE_OK && t->watch)
        t->preparations = preparations_of(t->watch);
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

/* ---- opening and closing ---- */

static int open_pinned(snapshot *s, char **message)
{
    tracked_source *t = s->tracked;
    int rc = t->resolved ? SQLITE_OK : resolve_first(s, message);
    if (rc == SQLITE_OK)
        rc = find_pin(s, message);
    if (rc == SQLITE_OK && snapshot_step(s, s->pin) != SQLITE_ROW) {
        rc = sqlite3_reset(s->pin);
        rc = source_failure(s->connection->db, &t->source, rc ? rc : SQLITE_ERROR, message);
    }
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

static int open_for(connection *asker, connection *c, const definition *d, const char *plan,
                    snapshot *out, char **message)
{
    *out = (snapshot){.connection = c, .asker = asker, .threads = d->threads, .plan = plan};
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
        out->plan = NULL;
        snapshot_close(out);
    }
    return rc;
}

int snapshot_open(connection *c, const definition *d, snapshot *out, char **message)
{
    return open_for(NULL, c, d, NULL, out, message);
}

int snapshot_open_for_plan(connection *c, const definition *d, const char *plan, snapshot *out,
                           char **message)
{
    return open_for(NULL, c, d, plan, out, message);
}

int snapshot_open_for(connection *asker, connection *c, const definition *d, snapshot *out,
                      char **message)
{
    return open_for(asker, c, d, NULL, out, message);
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
    let_go_pin(s);
    coverage_release(s->coverage);
    index_release(s->version);
    if (s->tracked) {
        let_go(s);
        /* Without a keeper nobody would finalize them before the connection closes. */
        if (!s->connection->watch_keeper)
            log_reader_clear(&s->tracked->log_reader);
        connection_untrack(s->tracked);
    }
    *s = (snapshot){0};
}

/* ---- steps and interrupts ---- */

int snapshot_poll_now(snapshot *s, char **message)
{
    sqlite3 *db = s->asker ? s->asker->db : s->connection->db;
    int rc = sql_poll(db);
    if (rc == SQLITE_OK || rc == SQLITE_INTERRUPT || !s->source)
        return rc;
    return source_failure(db, s->source, rc, message);
}

int snapshot_poll(void *argument, char **message)
{
    snapshot *s = argument;
    int64_t now = clock_milliseconds();
    if (s->polled == 0)
        s->polled = now;
    if (now - s->polled < POLL_MS)
        return SQLITE_OK;
    s->polled = now;
    return snapshot_poll_now(s, message);
}

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
