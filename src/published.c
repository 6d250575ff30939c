#include "published.h"

#include <string.h>

#include "message.h"

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

/* ---- a search ---- */

struct published_search {
    publication *publication;
    connection *visitor;
    snapshot detached; /* whose version is searched */
    search search;
    int looks_up; /* ids are asked for */
    int64_t k, depth, given;
    index_hit *hits; /* a batch of rows found, and their ids if they were asked for */
    value_list ids;
    int count, room, at, is_last, batches;
};

/* Search the version of a visit. */
static int begin(published_search *s, visit *v, vector *query, char **message)
{
    filter none = {0};
    int rc = snapshot_begin_search(&v->snapshot, query->dimension, message);
    if (rc != SQLITE_OK)
        return rc;
    search_close(&s->search);
    snapshot_close(&s->detached);
    snapshot_detach(&v->snapshot, &s->detached);
    s->looks_up = ids_are_elsewhere(&v->snapshot);
    s->is_last = s->detached.version->rows == 0;
    if (s->is_last)
        return SQLITE_OK;
    return search_begin(&s->search, &s->detached, &none, query, s->depth, message);
}

int published_search_open(publication *p, connection *visitor, vector *query, int64_t k,
                          int64_t depth, published_search **out, char **message)
{
    visit v;
    published_search *s = sqlite3_malloc64(sizeof *s);
    *out = s;
    if (!s)
        return SQLITE_NOMEM;
    *s = (published_search){
        .publication = publication_retain(p), .visitor = visitor, .k = k, .depth = depth};
    int rc = visit_begin(&v, p, visitor, message);
    if (rc == SQLITE_OK) {
        rc = begin(s, &v, query, message);
        visit_end(&v);
    }
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

/* Gather the next rows of the search. */
static int collect(published_search *s, char **message)
{
    int wanted = next_batch(s), rc = SQLITE_ROW;
    if (wanted > s->room) {
        index_hit *hits = sqlite3_realloc64(s->hits, (sqlite3_uint64)wanted * sizeof *hits);
        if (!hits)
            return SQLITE_NOMEM;
        s->hits = hits;
        s->room = wanted;
    }
    s->count = s->at = 0;
    while (s->count < wanted && !s->is_last) {
        rc = search_next(&s->search, &s->hits[s->count], message);
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

/* The rows have changed since they were searched, and none was handed out: search them
** as they are now. */
static int begin_again(published_search *s, visit *v, char **message)
{
    vector query = s->search.query;
    s->search.query = (vector){0};
    int rc = begin(s, v, &query, message);
    vector_clear(&query);
    return rc == SQLITE_OK ? collect(s, message) : rc;
}

static int fill(published_search *s, char **message)
{
    visit v;
    int rc = collect(s, message);
    value_list_clear(&s->ids);
    if (rc != SQLITE_OK || s->count == 0 || !s->looks_up) {
        s->batches++;
        return rc;
    }
    rc = visit_begin(&v, s->publication, s->visitor, message);
    if (rc != SQLITE_OK)
        return rc;
    if (v.snapshot.version != s->detached.version && s->batches == 0)
        rc = begin_again(s, &v, message);
    if (rc == SQLITE_OK && s->looks_up)
        rc = look_up(s, &v, message);
    visit_end(&v);
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
        rc = set_message(message, sqlite3_mprintf("%s.%s was changed while the search was read",
                                                  publication_name(s->publication),
                                                  publication_table(s->publication)));
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
