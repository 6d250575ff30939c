#include "draft.h"

#include "snapshot_state.h"

/* Whether the draft's state has a name that still means it: the count of schema
** changes is used again after a rollback. */
static int draft_counts(const tracked_source *t)
{
    return t->draft && t->draft_resolutions == t->resolutions;
}

int draft_is_of(const tracked_source *t, const live_state *state)
{
    return draft_counts(t) && !t->draft_since.seq && live_state_equal(&t->draft_live, state);
}

int draft_is_past(snapshot *s, const live_state *now, int mid_statement, int *past, char **message)
{
    const tracked_source *t = s->tracked;
    int is_unsure = t->draft_since.seq != 0;
    *past = 0;
    if (!draft_counts(t) || !live_state_may_precede(&t->draft_live, now) ||
        (is_unsure && mid_statement))
        return SQLITE_OK;
    int rc = snapshot_log_has(s, &t->draft_live, past, message);
    if (rc == SQLITE_OK && *past && is_unsure)
        rc = snapshot_log_has(s, &t->draft_since, past, message);
    return rc;
}

void draft_keep(const snapshot *s, index_version *made, const live_state *now)
{
    tracked_source *t = s->tracked;
    index_version *former = t->draft;
    t->draft = index_retain(made);
    t->draft_live = *now;
    t->draft_since.seq = 0;
    if (snapshot_is_mid_statement(s))
        t->draft_live.seq = 0;
    t->draft_resolutions = t->resolutions;
    index_release(former);
}

void draft_keep_unsure(const snapshot *s)
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

void draft_drop(tracked_source *t)
{
    index_release(t->draft);
    t->draft = NULL;
    t->draft_live.seq = 0;
}
