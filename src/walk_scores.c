#include "walk_inside.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- the nearest so far ---- */

static int hit_before(vector_metric metric, const index_hit *a, const index_hit *b)
{
    float ra = walk_rank_of(metric, a->score), rb = walk_rank_of(metric, b->score);
    return ra < rb || (ra == rb && a->key < b->key);
}

/* Put a hit in the place of one of the heap's first `count`, whose children may be farther. */
static void hits_sink(index_walk *w, int64_t count, int64_t i, index_hit hit)
{
    vector_metric metric = w->version->metric;
    for (int64_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && hit_before(metric, &w->hits[child], &w->hits[child + 1]))
            child++;
        if (!hit_before(metric, &hit, &w->hits[child]))
            break;
        w->hits[i] = w->hits[child];
    }
    w->hits[i] = hit;
}

/* Take in a hit that is among the nearest `k`. */
void walk_take_in(index_walk *w, int64_t k, const index_hit *hit)
{
    vector_metric metric = w->version->metric;
    if (w->hit_count == k) {
        if (hit_before(metric, hit, &w->hits[0]))
            hits_sink(w, k, 0, *hit);
        return;
    }
    int64_t i = w->hit_count++;
    for (; i > 0 && hit_before(metric, &w->hits[(i - 1) / 2], hit); i = (i - 1) / 2)
        w->hits[i] = w->hits[(i - 1) / 2];
    w->hits[i] = *hit;
}

/* All are found: put them in order. */
void walk_sort_hits(index_walk *w)
{
    for (int64_t left = w->hit_count - 1; left > 0; left--) {
        index_hit farthest = w->hits[0];
        hits_sink(w, left, 0, w->hits[left]);
        w->hits[left] = farthest;
    }
}

/* The rank of the farthest of them. */
float walk_farthest_rank(const index_walk *w)
{
    return walk_rank_of(w->version->metric, w->hits[0].score);
}

/* ---- scoring ---- */

/* Make room for those of any segment. */
int walk_room_open(scored_slots *out, const index_version *v)
{
    sqlite3_uint64 largest = 1;
    for (int s = 0; s < v->segment_count; s++) {
        if ((sqlite3_uint64)segment_count(v->segments[s]) > largest)
            largest = (sqlite3_uint64)segment_count(v->segments[s]);
    }
    *out = (scored_slots){.scores = sqlite3_malloc64(largest * sizeof *out->scores),
                          .slots = sqlite3_malloc64(largest * sizeof *out->slots)};
    return out->scores && out->slots ? SQLITE_OK : SQLITE_NOMEM;
}

void walk_room_close(scored_slots *scored)
{
    sqlite3_free(scored->scores);
    sqlite3_free(scored->slots);
}

int walk_scored_slot(const scored_slots *scored, int i)
{
    return scored->listed ? (int)scored->slots[i] : i;
}

/* Whether a walk passes over some slots of a segment. */
int walk_passes_over_some(const index_walk *w, int s)
{
    return w->set || w->version->dead[s];
}

/* The slots of a segment that the walk comes to, in `slots`. */
int walk_slots(const index_walk *w, int s, int64_t *slots)
{
    int rows = segment_count(w->version->segments[s]), count = 0;
    if (w->set)
        return row_set_slots(w->set, w->version->starts[s], rows, slots);
    for (int slot = 0; slot < rows; slot++) {
        slots[count] = slot;
        count += !index_is_dead(w->version, s, slot);
    }
    return count;
}

/* Fetch the first rows of a set in a segment, if there is one. */
static void fetch_of_set(const index_walk *w, int s)
{
    const index_version *v = w->version;
    if (!w->set || w->threads > 1 || s >= v->segment_count)
        return;
    int64_t start = v->starts[s], end = start + segment_count(v->segments[s]);
    int fetched = 0;
    for (int64_t word = start / SET_WORD_BITS; word * SET_WORD_BITS < end; word++) {
        for (uint64_t bits = w->set->bits[word]; bits; bits &= bits - 1) {
            int64_t position = word * SET_WORD_BITS + __builtin_ctzll(bits);
            if (position < start || position >= end)
                continue;
            segment_fetch(v->segments[s], (int)(position - start));
            if (++fetched == FETCH_AHEAD)
                return;
        }
    }
}

/* Score the rows of segment `s` that the walk comes to: *count of them, in slots
** 0, 1, ... or where *slots says. */
int walk_score_segment(index_walk *w, int s, scored_slots *out, char **message)
{
    const index_version *v = w->version;
    fetch_of_set(w, s + 1);
    out->listed = walk_passes_over_some(w, s);
    out->count = out->listed ? walk_slots(w, s, out->slots) : segment_count(v->segments[s]);
    return segment_scores(v->segments[s], &w->reader, w->query, out->listed ? out->slots : NULL,
                          out->count, out->scores, message);
}

void walk_lock_hits(const index_walk *w)
{
    if (w->lock)
        pthread_mutex_lock(w->lock);
}

void walk_unlock_hits(const index_walk *w)
{
    if (w->lock)
        pthread_mutex_unlock(w->lock);
}

/* Pick out the rows just scored that are among the nearest k so far. Most are farther than
** the farthest picked: one comparison tells. */
void walk_pick(index_walk *w, int64_t k, int s, const scored_slots *scored)
{
    const index_version *v = w->version;
    vector_metric metric = v->metric;
    walk_lock_hits(w);
    float farthest = w->hit_count == k ? walk_farthest_rank(w) : INFINITY;
    for (int i = 0; i < scored->count; i++) {
        float score = scored->scores[i];
        if (walk_rank_of(metric, score) > farthest)
            continue;
        int slot = walk_scored_slot(scored, i);
        index_hit hit = {score, s, slot, index_key(v, s, slot)};
        walk_take_in(w, k, &hit);
        farthest = w->hit_count == k ? walk_farthest_rank(w) : INFINITY;
    }
    walk_unlock_hits(w);
}
