#include "snapshot_coverage.h"

#include "growth.h"
#include "snapshot_state.h"
#include "stored.h"

static const index_kind *kind_of(const snapshot *s)
{
    return s->tracked ? &s->tracked->asked.kind : &s->kind;
}

/* Whether the version may be one of rows that are not committed. */
static int is_private(const snapshot *s)
{
    return s->tracked && snapshot_is_writing(s);
}

int snapshot_coverage(snapshot *s, coverage **out, char **message)
{
    const index_kind *kind = kind_of(s);
    int rc = SQLITE_OK;
    vector_reader reader = vector_reader_of(s);
    const growth_loader loader = {stored_load, s, STORED_COMPARED};
    if (*kind->text && !s->coverage && s->version->rows > 0)
        rc = growth_coverage(s->version, kind, !is_private(s), s->tracked ? &loader : NULL, &reader,
                             &s->coverage, message);
    *out = s->coverage;
    return rc;
}

int snapshot_load(snapshot *s, char **message)
{
    const index_kind *kind = &s->tracked->asked.kind;
    if (!*kind->text || s->version->rows == 0 || snapshot_is_writing(s))
        return SQLITE_OK;
    const growth_loader loader = {stored_load, s, STORED_COMPARED};
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
