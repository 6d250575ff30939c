#include "walk_inside.h"

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "message.h"

enum {
    DEPTH_TRIED = 32,  /* rows found by sketches where one cannot tell how many will be read, … */
    NEXT_TRIED = 1024, /* … and then */
    DEEPER = 8,        /* so many times as many are found where more are read than expected, … */
    WORTH_DEEPENING = 4,  /* … but not less than so many times as many: then all are scored */
    PICK_SHARE = 8,       /* so many are picked from all scores; beyond, all are put in order */
    SKETCH_SET_SHARE = 32 /* a set of less than a 32nd of the rows is scored outright */
};

index_hit index_row(const index_version *v, int64_t position)
{
    index_hit hit = {0};
    index_locate(v, position, &hit.segment, &hit.slot);
    hit.key = index_key(v, hit.segment, hit.slot);
    return hit;
}

row_value index_hit_value(const index_version *v, const index_hit *hit, int i)
{
    return segment_value(v->segments[hit->segment], hit->slot, i);
}

int walk_check_now(const index_walk *w, char **message)
{
    return w->reader.check ? w->reader.check(w->reader.argument, message) : SQLITE_OK;
}

int index_walks_by_sketches(const index_version *v)
{
    return atomic_load(&v->tuning->basis) != NULL;
}

/* The most rows that are worth a search of their own, before all are scored. */
static int64_t most_searched(const index_walk *w)
{
    const index_version *v = w->version;
    if (index_walks_by_sketches(v) && w->set && w->count >= v->slots / SKETCH_SET_SHARE)
        return walk_most_by_sketches(w);
    if (w->set)
        return 0;
    return w->count / PICK_SHARE > SEARCH_MAX_K ? w->count / PICK_SHARE : SEARCH_MAX_K;
}

/* How many rows to search for where `depth` are expected to be read; 0: score all. */
static int64_t depth_of_search(const index_walk *w, int64_t depth)
{
    if (depth == WALK_UNKNOWN)
        depth = index_walks_by_sketches(w->version) ? DEPTH_TRIED : 0;
    if (depth > w->count)
        depth = w->count;
    return depth <= most_searched(w) ? depth : 0;
}

/* The most rows that all sketches are worth searching for. */
static int64_t most_that_pay(const index_walk *w)
{
    const index_version *v = w->version;
    int64_t most = w->set ? most_searched(w) : walk_most_by_sketches(w);
    for (int s = 0; s < v->segment_count; s++) {
        const sketch *own = segment_hold_sketch(v->segments[s]);
        if (own && most > 0 && !walk_pays_by_sketch(w, s, own, (int)most))
            most = (int64_t)((double)w->count * basis_most_share(sketch_basis(own)));
        segment_let_go_sketch(v->segments[s]);
    }
    return most;
}

/* The rows found so far were not enough: find more of them, or score all. A stream comes in
** one step to about a thousand rows, so that reading as many costs little more than a search for
** them; it goes on as long as that is cheaper than scoring all. */
static int walk_deepen(index_walk *w, char **message)
{
    int64_t found = w->hit_count, deeper = found * DEEPER;
    if (found == 0 || !index_walks_by_sketches(w->version))
        return walk_score(w, message);
    if (w->is_stream && found < NEXT_TRIED)
        deeper = NEXT_TRIED;
    int64_t most = most_that_pay(w);
    if (deeper > most && found * WORTH_DEEPENING <= most)
        deeper = most;
    return deeper <= most ? walk_search(w, (int)deeper, message) : walk_score(w, message);
}

static int open_walk(index_version *v, const float *query, int normalize, const row_set *set,
                     int64_t depth, const vector_reader *reader, index_walk **out, char **message)
{
    *out = NULL;
    if (v->slots > UINT32_MAX) {
        return set_message(
            message, sqlite3_mprintf("an index holds at most %lld rows", (long long)UINT32_MAX));
    }
    index_walk *w = sqlite3_malloc64(sizeof *w);
    if (!w)
        return SQLITE_NOMEM;
    memset(w, 0, sizeof *w);
    w->version = index_retain(v);
    if (reader)
        w->reader = *reader;
    w->set = set;
    w->is_stream = depth == WALK_UNKNOWN;
    w->picks = depth > 0 && depth < SEARCH_MAX_K ? (int)depth : SEARCH_MAX_K;
    w->count = set ? set->count : v->rows;
    size_t bytes = (size_t)v->dimension * sizeof *query;
    w->query = sqlite3_malloc64(bytes ? bytes : 1);
    int rc = w->query ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK && bytes) {
        memcpy(w->query, query, bytes);
        if (normalize)
            segment_normalize(w->query, v->dimension);
    }
    int64_t first = depth_of_search(w, depth);
    if (rc == SQLITE_OK && first)
        rc = walk_search(w, (int)first, message);
    else if (rc == SQLITE_OK && set)
        rc = walk_score(w, message);
    if (rc == SQLITE_OK)
        index_improve(v, w->reader.threads);
    if (rc != SQLITE_OK) {
        index_walk_close(w);
        return rc;
    }
    *out = w;
    return SQLITE_OK;
}

int index_walk_open(index_version *v, const float *query, const row_set *set, int64_t depth,
                    const vector_reader *reader, index_walk **out, char **message)
{
    int normalize = v->metric == METRIC_KIND_COSINE;
    return open_walk(v, query, normalize, set, depth, reader, out, message);
}

int index_walk_open_row(index_version *v, int64_t position, int64_t depth,
                        const vector_reader *reader, index_walk **out, char **message)
{
    int s, slot;
    index_locate(v, position, &s, &slot);
    int64_t at = slot;
    float *stored = sqlite3_malloc64((sqlite3_uint64)v->dimension * sizeof *stored);
    *out = NULL;
    if (!stored)
        return SQLITE_NOMEM;
    int rc = segment_read(v->segments[s], reader, &at, 1, stored, message);
    if (rc == SQLITE_OK) /* normalized already */
        rc = open_walk(v, stored, 0, NULL, depth, reader, out, message);
    sqlite3_free(stored);
    return rc;
}

int index_walk_at(index_walk *w, int64_t i, index_hit *hit, char **message)
{
    if (i >= w->count)
        return SQLITE_DONE;
    if (i < w->hit_count) {
        *hit = w->hits[i];
        return SQLITE_ROW;
    }
    if (!w->ranked) {
        int rc = walk_deepen(w, message);
        if (rc != SQLITE_OK)
            return rc;
        return index_walk_at(w, i, hit, message); /* it may be among those found now */
    }
    walk_rank(w, i, hit);
    return SQLITE_ROW;
}

void index_walk_close(index_walk *w)
{
    if (!w)
        return;
    index_release(w->version);
    sqlite3_free(w->query);
    sqlite3_free(w->hits);
    sqlite3_free(w->ranked);
    sqlite3_free(w);
}
