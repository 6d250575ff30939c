#include "walk_inside.h"

#include "workers.h"

/* Without tails, positions are in source order and break ties as keys do. */
static int ranked_before(const index_version *v, const ranked_row *a, const ranked_row *b)
{
    float ra = walk_rank_of(v->metric, a->score), rb = walk_rank_of(v->metric, b->score);
    if (ra != rb)
        return ra < rb;
    if (v->main_count == v->segment_count)
        return a->position < b->position;
    return index_row(v, a->position).key < index_row(v, b->position).key;
}

static void heap_sink(index_walk *w, int64_t i)
{
    const index_version *v = w->version;
    ranked_row moved = w->ranked[i];
    for (;;) {
        int64_t child = 2 * i + 1;
        if (child >= w->left)
            break;
        if (child + 1 < w->left && ranked_before(v, &w->ranked[child + 1], &w->ranked[child]))
            child++;
        if (!ranked_before(v, &w->ranked[child], &moved))
            break;
        w->ranked[i] = w->ranked[child];
        i = child;
    }
    w->ranked[i] = moved;
}

/* Score the rows of segment `s`, and append them. */
static int rank_segment(index_walk *w, int s, scored_slots *scored, char **message)
{
    const index_version *v = w->version;
    int rc = walk_score_segment(w, s, scored, message);
    for (int i = 0; rc == SQLITE_OK && i < scored->count; i++)
        w->ranked[w->left++] =
            (ranked_row){scored->scores[i], (uint32_t)(v->starts[s] + walk_scored_slot(scored, i))};
    if (rc == SQLITE_OK && w->hits)
        walk_pick(w, w->picks, s, scored);
    return rc == SQLITE_OK ? walk_check_now(w, message) : rc;
}

/* Score every row of the walk; pick out the nearest, unless they are known. */
int walk_score(index_walk *w, char **message)
{
    const index_version *v = w->version;
    scored_slots scored;
    unsigned entered = workers_enter();
    int rc = walk_room_open(&scored, v);
    int picks = w->hit_count == 0;
    if (picks)
        w->hits = sqlite3_realloc64(w->hits, SEARCH_MAX_K * sizeof *w->hits);
    index_hit *known = w->hits;
    if (!picks)
        w->hits = NULL; /* they stay as they are */
    w->ranked = sqlite3_malloc64((sqlite3_uint64)(w->count + 1) * sizeof *w->ranked);
    if (!w->ranked || !known)
        rc = SQLITE_NOMEM;
    w->left = 0;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++)
        rc = rank_segment(w, s, &scored, message);
    w->hits = known;
    if (picks)
        walk_sort_hits(w);
    walk_room_close(&scored);
    if (rc != SQLITE_OK) {
        sqlite3_free(w->ranked);
        w->ranked = NULL;
        w->hit_count = picks ? 0 : w->hit_count;
    }
    workers_leave(entered);
    return rc;
}

/* Make the scored rows a heap. */
static void walk_heapify(index_walk *w)
{
    for (int64_t i = w->left / 2 - 1; i >= 0; i--)
        heap_sink(w, i);
    w->is_heap = 1;
}

/* Move the nearest row left behind the heap. */
static void walk_take(index_walk *w)
{
    ranked_row nearest = w->ranked[0];
    w->left--;
    w->ranked[0] = w->ranked[w->left];
    heap_sink(w, 0);
    w->ranked[w->left] = nearest;
}

/* The i-th row of all: those before it are taken from the heap first. */
void walk_rank(index_walk *w, int64_t i, index_hit *hit)
{
    if (!w->is_heap)
        walk_heapify(w);
    while (w->count - w->left <= i)
        walk_take(w);
    const ranked_row *ranked = &w->ranked[w->count - 1 - i];
    *hit = index_row(w->version, ranked->position);
    hit->score = ranked->score;
}
