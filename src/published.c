#include "published.h"

#include <string.h>

#include "message.h"
#include "snapshot_coverage.h"
#include "snapshot_hit.h"
#include "snapshot_version.h"

enum { BATCH_LEAST = 128, BATCH_MOST = 65536, BATCH_GROWTH = 4 };

/* ---- a visit ---- */

/* The host for this thread alone, with a snapshot of the latest commit. */
typedef struct visit {
    publication *publication;
    snapshot snapshot;
} visit;

static void visit_end(visit *v)
{
    snapshot_close(&v->snapshot);
    publication_leave(v->publication);
}

static int visit_begin(visit *v, publication *p, connection *visitor, char **message)
{
    *v = (visit){.publication = p};
    connection *reader;
    index_version *version;
    int rc = publication_enter(p, visitor, &reader, message);
    if (rc != SQLITE_OK)
        return rc;
    rc = snapshot_open_for(visitor, reader, publication_definition(p), &v->snapshot, message);
    if (rc == SQLITE_OK)
        rc = snapshot_index(&v->snapshot, &version, message);
    if (rc == SQLITE_OK)
        publication_move(p, v->snapshot.tracked->shared);
    else
        visit_end(v);
    return rc;
}

/* Whether the id of a row must be asked of the host. */
static int ids_are_elsewhere(const snapshot *s)
{
    return !s->source->id_is_rowid && !s->version->kept_values;
}

/* Whether a search needs no rows of the source. */
static int is_in_memory(const index_version *v)
{
    for (int i = 0; i < v->segment_count; i++) {
        if (!segment_has_vectors(v->segments[i]))
            return 0;
    }
    return 1;
}

/* ---- a search ---- */

struct published_search {
    publication *publication;
    connection *visitor;
    vector query;
    int64_t k, depth, given;
    int is_approximate;
    snapshot detached; /* whose version is searched … */
    search search;
    int in_visits;   /* … but during visits, where its vectors are not in memory */
    int looks_up;    /* ids are asked for */
    index_hit *hits; /* a batch of rows found, and their ids if they were asked for */
    value_list ids;
    int count, room, at, is_last, batches;
};

/* Begin a search in a snapshot that has a version, and rows. */
static int begin_search(published_search *s, snapshot *in, search *out, int64_t depth,
                        char **message)
{
    filter none = {0};
    vector query;
    const definition *d = publication_definition(s->publication);
    search_effort effort = search_effort_of(&d->kind, &(search_effort){0}, &d->effort);
    int rc = vector_copy(&s->query, &query);
    if (rc == SQLITE_OK)
        rc = search_begin(out, in, &none, &query, depth, s->is_approximate ? &effort : NULL,
                          message);
    vector_clear(&query);
    return rc;
}

/* Whether the version can be searched when the visit is over. */
static int searches_detached(const published_search *s)
{
    return !s->is_last && !s->in_visits;
}

static int begin_detached(published_search *s, char **message)
{
    return begin_search(s, &s->detached, &s->search, s->depth, message);
}

/* Take the version of a visit. */
static int take_version(published_search *s, visit *v, char **message)
{
    int rc = snapshot_begin_search(&v->snapshot, s->query.dimension, message);
    if (rc == SQLITE_OK && s->is_approximate)
        rc = snapshot_load(&v->snapshot, message);
    if (rc != SQLITE_OK)
        return rc;
    search_close(&s->search);
    snapshot_close(&s->detached);
    snapshot_detach(&v->snapshot, &s->detached);
    s->in_visits = !is_in_memory(s->detached.version);
    s->looks_up = s->in_visits || ids_are_elsewhere(&v->snapshot);
    s->is_last = s->detached.version->rows == 0;
    return SQLITE_OK;
}

int published_search_open(publication *p, connection *visitor, vector *query, int64_t k,
                          int64_t depth, int may_approximate, published_search **out,
                          char **message)
{
    visit v;
    published_search *s = sqlite3_malloc64(sizeof *s);
    *out = s;
    if (!s)
        return SQLITE_NOMEM;
    *s = (published_search){.publication = publication_retain(p),
                            .visitor = visitor,
                            .query = *query,
                            .k = k,
                            .depth = depth,
                            .is_approximate =
                                may_approximate && k >= 0 && *publication_definition(p)->kind.text};
    *query = (vector){0};
    int rc = visit_begin(&v, p, visitor, message);
    if (rc == SQLITE_OK) {
        rc = take_version(s, &v, message);
        visit_end(&v);
    }
    if (rc == SQLITE_OK && searches_detached(s)) /* this may build an approximate index */
        rc = begin_detached(s, message);
    if (rc == SQLITE_OK)
        return rc;
    published_search_close(s);
    *out = NULL;
    return rc;
}

void published_search_close(published_search *s)
{
    if (!s)
        return;
    search_close(&s->search);
    snapshot_close(&s->detached);
    value_list_clear(&s->ids);
    vector_clear(&s->query);
    publication_release(s->publication);
    sqlite3_free(s->hits);
    sqlite3_free(s);
}

/* How many rows to look up at once: all that are wanted, if that is known. */
static int next_batch(const published_search *s)
{
    int64_t rows = s->batches == 0 && s->depth > BATCH_LEAST ? s->depth : BATCH_LEAST;
    for (int i = 0; i < s->batches && rows < BATCH_MOST; i++)
        rows *= BATCH_GROWTH;
    if (s->k >= 0 && (s->batches == 0 || rows > s->k - s->given))
        rows = s->k - s->given;
    int64_t left = s->detached.version->rows - s->given;
    return (int)(rows < left ? rows : left);
}

/* Gather the next rows of a search. */
static int collect(published_search *s, search *from, int wanted, char **message)
{
    int rc = SQLITE_ROW;
    if (wanted > s->room) {
        index_hit *hits = sqlite3_realloc64(s->hits, (sqlite3_uint64)wanted * sizeof *hits);
        if (!hits)
            return SQLITE_NOMEM;
        s->hits = hits;
        s->room = wanted;
    }
    s->count = s->at = 0;
    while (s->count < wanted && !s->is_last) {
        rc = search_next(from, &s->hits[s->count], message);
        s->count += rc == SQLITE_ROW;
        s->is_last |= rc == SQLITE_DONE;
        if (rc != SQLITE_ROW && rc != SQLITE_DONE)
            return rc;
    }
    s->is_last |= s->count == 0;
    return SQLITE_OK;
}

static int look_up(published_search *s, visit *v, char **message)
{
    row_value id;
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < s->count; i++) {
        rc = snapshot_hit_id(&v->snapshot, &s->hits[i], &id, message);
        if (rc == SQLITE_OK)
            rc = value_list_append(&s->ids, &id);
    }
    return rc;
}

static int was_changed(const published_search *s, char **message)
{
    return set_message(message, sqlite3_mprintf("%s.%s was changed while the search was read",
                                                publication_name(s->publication),
                                                publication_table(s->publication)));
}

/* The next rows of a search that can only be made during a visit: from its beginning, as far
** as rows were handed out before. */
static int search_in_visit(published_search *s, visit *v, char **message)
{
    search found = {0};
    index_hit passed;
    int wanted = next_batch(s);
    int rc = begin_search(s, &v->snapshot, &found, s->given + wanted, message);
    for (int64_t i = 0; rc == SQLITE_OK && i < s->given; i++) {
        rc = search_next(&found, &passed, message);
        rc = rc == SQLITE_ROW ? SQLITE_OK : rc == SQLITE_DONE ? was_changed(s, message) : rc;
    }
    if (rc == SQLITE_OK)
        rc = collect(s, &found, wanted, message);
    search_close(&found);
    return rc;
}

/* Rows and ids, during a visit. */
static int fill_in_visit(published_search *s, visit *v, char **message)
{
    int is_new = v->snapshot.version != s->detached.version, rc = SQLITE_OK;
    if (is_new && s->batches > 0 && s->in_visits)
        return was_changed(s, message);
    if (is_new && s->batches == 0) { /* the rows changed since they were searched */
        rc = take_version(s, v, message);
        if (rc == SQLITE_OK && searches_detached(s))
            rc = begin_detached(s, message);
        if (rc == SQLITE_OK && !s->in_visits)
            rc = collect(s, &s->search, s->is_last ? 0 : next_batch(s), message);
    }
    if (rc == SQLITE_OK && s->in_visits && !s->is_last)
        rc = search_in_visit(s, v, message);
    return rc == SQLITE_OK && s->looks_up ? look_up(s, v, message) : rc;
}

static int fill(published_search *s, char **message)
{
    visit v;
    int rc = s->in_visits ? SQLITE_OK : collect(s, &s->search, next_batch(s), message);
    value_list_clear(&s->ids);
    if (rc == SQLITE_OK && (s->in_visits || (s->looks_up && s->count > 0))) {
        rc = visit_begin(&v, s->publication, s->visitor, message);
        if (rc == SQLITE_OK) {
            rc = fill_in_visit(s, &v, message);
            visit_end(&v);
        }
    }
    s->batches++;
    return rc;
}

int published_search_next(published_search *s, index_hit *hit, row_value *id, char **message)
{
    if (s->given == s->k)
        return SQLITE_DONE;
    if (s->at == s->count) {
        int rc = s->is_last ? SQLITE_DONE : fill(s, message);
        if (rc != SQLITE_OK)
            return rc;
        if (s->count == 0)
            return SQLITE_DONE;
    }
    *hit = s->hits[s->at];
    if (s->looks_up)
        *id = value_list_get(&s->ids, s->at);
    else if (s->detached.version->kept_values)
        *id = index_hit_value(s->detached.version, hit, 0);
    else
        *id = (row_value){.type = SQLITE_INTEGER, .integer = hit->key};
    s->at++;
    s->given++;
    return SQLITE_ROW;
}

int published_search_embedding(published_search *s, const index_hit *hit, sqlite3_context *context,
                               char **message)
{
    visit v;
    int rc = visit_begin(&v, s->publication, s->visitor, message);
    if (rc != SQLITE_OK)
        return rc;
    if (v.snapshot.version != s->detached.version && v.snapshot.version->kept_values)
        rc = was_changed(s, message);
    else
        rc = snapshot_hit_embedding(&v.snapshot, hit, context, message);
    visit_end(&v);
    return rc;
}

/* ---- all rows ---- */

static int read_ids(visit *v, published_rows *out, char **message)
{
    const index_version *version = v->snapshot.version;
    row_value id;
    int rc = SQLITE_OK;
    for (int64_t i = 0; rc == SQLITE_OK && i < version->rows; i++) {
        index_hit row = index_row(version, i);
        rc = snapshot_hit_id(&v->snapshot, &row, &id, message);
        if (rc == SQLITE_OK)
            rc = value_list_append(&out->ids, &id);
    }
    return rc;
}

int published_rows_open(publication *p, connection *visitor, published_rows *out, char **message)
{
    visit v;
    index_version *version;
    *out = (published_rows){0};
    int rc = visit_begin(&v, p, visitor, message);
    if (rc != SQLITE_OK)
        return rc;
    rc = snapshot_index_in_order(&v.snapshot, &version, message);
    if (rc == SQLITE_OK)
        rc = snapshot_begin_search(&v.snapshot, version->dimension, message);
    if (rc == SQLITE_OK && !is_in_memory(version))
        rc = set_message(message,
                         sqlite3_mprintf("the vectors of %s.%s are not in memory: ask where "
                                         "its file is open",
                                         publication_name(p), publication_table(p)));
    out->ids_are_keys = v.snapshot.source->id_is_rowid;
    if (rc == SQLITE_OK && ids_are_elsewhere(&v.snapshot))
        rc = read_ids(&v, out, message);
    if (rc == SQLITE_OK)
        snapshot_detach(&v.snapshot, &out->detached);
    visit_end(&v);
    if (rc != SQLITE_OK)
        published_rows_close(out);
    return rc;
}

row_value published_rows_id(const published_rows *rows, const index_hit *hit)
{
    const index_version *v = rows->detached.version;
    if (v->kept_values)
        return index_hit_value(v, hit, 0);
    if (rows->ids_are_keys)
        return (row_value){.type = SQLITE_INTEGER, .integer = hit->key};
    return value_list_get(&rows->ids, (int)(v->starts[hit->segment] + hit->slot));
}

void published_rows_close(published_rows *rows)
{
    value_list_clear(&rows->ids);
    snapshot_close(&rows->detached);
}
