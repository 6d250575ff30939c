#include "fold.h"

#include "build.h"
#include "draft.h"
#include "stored.h"

index_version *fold_known(const snapshot *s, const live_state *now)
{
    const tracked_source *t = s->tracked;
    if (live_state_equal(&t->latest_live, now) && t->latest)
        return index_retain(t->latest);
    if (draft_is_of(t, now))
        return index_retain(t->draft);
    return registry_at(t->shared, now);
}

/* What changes can be counted from: a version whose state is in this snapshot's past. `row` may
** be NULL: it may have changed besides. */
typedef struct fold_point {
    index_version *version;
    live_state state;
    const sqlite3_int64 *row;
    int is_stored; /* in the file */
} fold_point;

/* The last state that a version is known of, up to this one. */
static live_state last_known(const snapshot *s, const live_state *now)
{
    const tracked_source *t = s->tracked;
    live_state states[REGISTRY_STATES], last = {0};
    int count = registry_states(t->shared, states);
    for (int i = 0; i < count; i++) {
        if (live_state_may_precede(&states[i], now) && states[i].seq > last.seq)
            last = states[i];
    }
    if (live_state_may_precede(&t->latest_live, now) && t->latest_live.seq > last.seq)
        last = t->latest_live;
    return last;
}

/* Whether there is any version to compare rows with. */
static int has_version(const tracked_source *t)
{
    uint64_t stamp;
    index_version *published = registry_current(t->shared, &stamp);
    int has = t->draft || t->latest || published;
    index_release(published);
    return has;
}

/*
** Find the version to count changes from: where there is none in memory, what is stored in
** the file. What was committed once stays in the log until the ring passes over it: where
** the last state known is not there, the log was cut, or the file is another copy, and
** older states prove nothing either.
*/
static int find_fold_point(snapshot *s, const live_state *now, int mid_statement, fold_point *from,
                           char **message)
{
    tracked_source *t = s->tracked;
    int has = 0, rc = SQLITE_OK, is_unsure = t->draft_since.seq != 0;
    *from = (fold_point){0};
    live_state last = last_known(s, now);
    if (t->draft_live.seq >= last.seq)
        rc = draft_is_past(s, now, mid_statement, &has, message);
    if (rc == SQLITE_OK && has) {
        *from = (fold_point){index_retain(t->draft), is_unsure ? t->draft_since : t->draft_live,
                             is_unsure ? &t->draft_row : NULL, 0};
        return SQLITE_OK;
    }
    if (rc == SQLITE_OK && last.seq)
        rc = snapshot_log_has(s, &last, &has, message);
    if (rc == SQLITE_OK && has)
        *from = (fold_point){fold_known(s, &last), last, NULL, 0};
    if (rc == SQLITE_OK && !has_version(t)) {
        from->is_stored = 1;
        rc = stored_version(s, now, &from->version, &from->state, message);
    }
    return rc;
}

int fold_changes(snapshot *s, const live_state *now, int mid_statement, index_version **out,
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
    if (rc == SQLITE_OK && *out && from.is_stored) {
        rc = stored_check(s, *out, message);
        if (rc != SQLITE_OK) {
            index_release(*out);
            *out = NULL;
        }
        rc = rc == SQLITE_MISMATCH ? SQLITE_OK : rc;
        if (*out)
            stored_settle(s);
    }
    if (rc == SQLITE_OK && *out && mid_statement) {
        s->since = from.state;
        s->until = *now;
    }
    index_release(from.version);
    return rc;
}
