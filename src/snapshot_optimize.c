#include "snapshot_optimize.h"

#include "draft.h"
#include "growth.h"
#include "snapshot_version.h"
#include "stored.h"

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
        return index_complete(s->version, s->threads, snapshot_poll, s, message);
    const growth_loader loader = {stored_load, s, STORED_COMPARED};
    int rc = growth_complete(s->version, kind, anew, &loader, &reader, message);
    if (rc != SQLITE_MISMATCH)
        return rc;
    rc = snapshot_compare(s, &v, message);
    return rc == SQLITE_OK ? growth_complete(v, kind, anew, &loader, &reader, message) : rc;
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
        draft_keep_unsure(s);
    index_release(former);
    return rc;
}
