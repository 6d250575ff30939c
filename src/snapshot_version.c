#include "snapshot_version.h"

#include "build.h"
#include "delta.h"
#include "draft.h"
#include "fold.h"
#include "message.h"

enum { BUILD_WAIT_MS = 50 };

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
    draft_drop(t);
}

/* Find or make the version of a committed state, and share it. The first build is
** one connection's while the others wait. */
static int refresh_shared(snapshot *s, const snapshot_state *state, char **message)
{
    tracked_source *t = s->tracked;
    int rc = SQLITE_OK, has_turn = 0;
    while (rc == SQLITE_OK && !registry_begin_build(t->shared, BUILD_WAIT_MS, &has_turn))
        rc = snapshot_poll_now(s, message);
    uint64_t stamp = 0;
    index_version *published = rc == SQLITE_OK ? registry_current(t->shared, &stamp) : NULL;
    index_version *made = NULL;
    if (rc == SQLITE_OK && went_back(s, &state->live)) {
        registry_forget_states(t->shared);
    } else if (rc == SQLITE_OK && state->live.seq) {
        made = fold_known(s, &state->live);
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

/* Find or make the version of a state that may never be committed: for this
** connection alone. Its segments serve the next one. */
static int refresh_private(snapshot *s, index_version **out, char **message)
{
    tracked_source *t = s->tracked;
    live_state now;
    int mid_statement = snapshot_is_mid_statement(s);
    int rc = snapshot_live_state(s, &now, message);
    *out = NULL;
    if (rc == SQLITE_OK && now.seq && !mid_statement)
        *out = fold_known(s, &now);
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
        draft_keep(s, *out, &now);
    return rc;
}

int snapshot_index(snapshot *s, index_version **version, char **message)
{
    tracked_source *t = s->tracked;
    int rc = SQLITE_OK;
    if (!s->version && snapshot_is_writing(s)) {
        rc = refresh_private(s, &s->version, message);
    } else if (!s->version) {
        snapshot_state state = {.file = snapshot_file_state(s)};
        int known = t->trusted && t->state == state.file;
        if (known && !t->latest)
            t->latest = registry_at(t->shared, &t->latest_live);
        if (!known || !t->latest) {
            rc = snapshot_live_state(s, &state.live, message);
            if (rc == SQLITE_OK)
                rc = refresh_shared(s, &state, message);
        }
        if (rc == SQLITE_OK)
            s->version = index_retain(t->latest);
    }
    *version = s->version;
    return rc;
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

void snapshot_forget(snapshot *s)
{
    tracked_source *t = s->tracked;
    index_release(t->latest);
    t->latest = NULL;
    t->latest_live.seq = 0;
    t->trusted = 0;
    draft_drop(t);
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

/* ---- compared with the source ---- */

int snapshot_compare(snapshot *s, index_version **version, char **message)
{
    tracked_source *t = s->tracked;
    snapshot_state state = {.file = snapshot_file_state(s)};
    index_version *made = NULL;
    int rc = snapshot_live_state(s, &state.live, message);
    if (rc == SQLITE_OK)
        rc = build_whole(s, s->version, t->asked.strict, NULL, &made, message);
    if (rc != SQLITE_OK)
        return rc;
    if (snapshot_is_writing(s))
        draft_keep(s, made, &state.live);
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
