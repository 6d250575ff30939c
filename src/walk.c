#include "walk.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "message.h"
#include "workers.h"

enum {
    SEARCH_MAX_K = 128, /* beyond, scoring all rows once is cheaper than a heap of k in every
                          ** segment */
    DEPTH_TRIED = 32,   /* rows found by sketches where one cannot tell how many will be read */
    DEEPER = 8,         /* so many times as many are found where more are read than expected … */
    SKETCH_SHARE = 256, /* … up to a 256th of all rows: then all are scored */
    SKETCH_BYTES = 64,  /* read of each row with a sketch */
    THREADS_BYTES = 4 << 20, /* less is read by one thread before another one is awake */
    SKETCH_SET_SHARE = 32    /* a set of less than a 32nd of the rows is scored outright */
};

float walk_rank_of(vector_metric metric, float score)
{
    float rank = metric == METRIC_KIND_L2 ? score : -score;
    return isnan(rank) ? INFINITY : rank;
}

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

/* ---- sets ---- */

enum { SET_WORD_BITS = 64 };

int row_set_open(row_set *set, const index_version *v)
{
    size_t bytes = ((size_t)v->slots / SET_WORD_BITS + 1) * sizeof *set->bits;
    *set = (row_set){sqlite3_malloc64(bytes), 0};
    if (!set->bits)
        return SQLITE_NOMEM;
    memset(set->bits, 0, bytes);
    return SQLITE_OK;
}

int row_set_copy(row_set *set, const row_set *from, const index_version *v)
{
    int rc = row_set_open(set, v);
    if (rc == SQLITE_OK) {
        memcpy(set->bits, from->bits, ((size_t)v->slots / SET_WORD_BITS + 1) * sizeof *set->bits);
        set->count = from->count;
    }
    return rc;
}

int row_set_has(const row_set *set, int64_t position)
{
    return set->bits[position / SET_WORD_BITS] >> (position % SET_WORD_BITS) & 1;
}

void row_set_add(row_set *set, int64_t position)
{
    set->count += !row_set_has(set, position);
    set->bits[position / SET_WORD_BITS] |= (uint64_t)1 << (position % SET_WORD_BITS);
}

void row_set_close(row_set *set)
{
    sqlite3_free(set->bits);
    *set = (row_set){0};
}

/* ---- what a walk holds ---- */

/* A row by position, with its score. */
typedef struct ranked_row {
    float score;
    uint32_t position;
} ranked_row;

struct index_walk {
    index_version *version;
    float *query;
    vector_reader reader;
    int threads;           /* that search together, … */
    pthread_mutex_t *lock; /* … and then what guards the hits; NULL for one thread */
    const row_set *set;    /* the rows of the walk; NULL: all */
    int deepens;           /* where rows found by sketches are not enough, a few more will be */
    index_hit *hits;
    int64_t hit_count; /* the nearest rows, in order; while they are found, the farthest is on
                       ** top of a heap */
    /* All rows with their scores; NULL before they are needed. Once it is a heap,
    ** the nearest is on top in ranked[0..left-1], and rows taken from it stand
    ** behind, the i-th at ranked[count - 1 - i]. */
    ranked_row *ranked;
    int is_heap;
    int64_t count, left; /* rows of the walk; those still in the heap */
};

static int walk_check_now(const index_walk *w, char **message)
{
    return w->reader.check ? w->reader.check(w->reader.argument, message) : SQLITE_OK;
}

static int hit_before(vector_metric metric, const index_hit *a, const index_hit *b)
{
    float ra = walk_rank_of(metric, a->score), rb = walk_rank_of(metric, b->score);
    return ra < rb || (ra == rb && a->key < b->key);
}

/* ---- the nearest so far ---- */

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
static void hits_insert(index_walk *w, int64_t k, const index_hit *hit)
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
static void hits_sort(index_walk *w)
{
    for (int64_t left = w->hit_count - 1; left > 0; left--) {
        index_hit farthest = w->hits[0];
        hits_sink(w, left, 0, w->hits[left]);
        w->hits[left] = farthest;
    }
}

/* The rank of the farthest of them. */
static float farthest_rank(const index_walk *w)
{
    return walk_rank_of(w->version->metric, w->hits[0].score);
}

/* ---- scoring ---- */

/* The rows of one segment that a walk comes to, with their scores. */
typedef struct scored_slots {
    float *scores;
    int64_t *slots; /* where `listed`; else they are 0, 1, ... */
    int count, listed;
} scored_slots;

/* Make room for those of any segment. */
static int scored_slots_open(scored_slots *out, const index_version *v)
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

static void scored_slots_close(scored_slots *scored)
{
    sqlite3_free(scored->scores);
    sqlite3_free(scored->slots);
}

static int scored_slot(const scored_slots *scored, int i)
{
    return scored->listed ? (int)scored->slots[i] : i;
}

/* Whether a walk passes over some slots of a segment, and over this one. */
static int passes_over_some(const index_walk *w, int s)
{
    return w->set || w->version->dead[s];
}

static int passes_over(const index_walk *w, int s, int slot)
{
    const index_version *v = w->version;
    return w->set ? !row_set_has(w->set, v->starts[s] + slot) : index_is_dead(v, s, slot);
}

/* The slots of a segment that the walk comes to, in `slots`. */
static int slots_of_walk(const index_walk *w, int s, int64_t *slots)
{
    int rows = segment_count(w->version->segments[s]), count = 0;
    for (int slot = 0; slot < rows; slot++) {
        slots[count] = slot;
        count += !passes_over(w, s, slot);
    }
    return count;
}

/* Score the rows of segment `s` that the walk comes to: *count of them, in slots
** 0, 1, ... or where *slots says. */
static int score_segment(index_walk *w, int s, scored_slots *out, char **message)
{
    const index_version *v = w->version;
    out->listed = passes_over_some(w, s);
    out->count = out->listed ? slots_of_walk(w, s, out->slots) : segment_count(v->segments[s]);
    return segment_scores(v->segments[s], &w->reader, w->query, out->listed ? out->slots : NULL,
                          out->count, out->scores, message);
}

static void lock_hits(const index_walk *w)
{
    if (w->lock)
        pthread_mutex_lock(w->lock);
}

static void unlock_hits(const index_walk *w)
{
    if (w->lock)
        pthread_mutex_unlock(w->lock);
}

/* Pick out the rows just scored that are among the nearest k so far. Most are farther than
** the farthest picked: one comparison tells. */
static void pick(index_walk *w, int64_t k, int s, const scored_slots *scored)
{
    const index_version *v = w->version;
    lock_hits(w);
    for (int i = 0; i < scored->count; i++) {
        float score = scored->scores[i];
        if (w->hit_count == k && walk_rank_of(v->metric, score) > farthest_rank(w))
            continue;
        int slot = scored_slot(scored, i);
        index_hit hit = {score, s, slot, index_key(v, s, slot)};
        hits_insert(w, k, &hit);
    }
    unlock_hits(w);
}

/* ---- the first search ---- */

/* What the first search knows of one segment. */
typedef struct segment_answer {
    const sketch *own;    /* its sketch; NULL for none, or once it was made use of */
    const sketch *ruling; /* that rules rows out now; NULL for none */
    int searched;         /* by FAISS for k + 1 rows, with these results: */
    int found;            /* rows that FAISS gave */
    float last_rank;
} segment_answer;

enum { SCORED = INT32_MAX }; /* a row that need not be looked at again */

/* ---- by FAISS ---- */

/* Whether FAISS can search a segment: not where it would find rows that the walk passes over,
** nor without vectors, and beyond some k it is slower than scoring the rows once. */
static int is_searchable(const index_walk *w, int s, int k)
{
    return k <= SEARCH_MAX_K && !passes_over_some(w, s) &&
           segment_has_vectors(w->version->segments[s]);
}

/* Search a segment for k + 1 rows. Those whose place in `distances` says SCORED are known; it
** may be NULL. */
static int search_segment(index_walk *w, int s, int k, const int32_t *distances,
                          segment_answer *answer, char **message)
{
    index_version *v = w->version;
    float scores[SEARCH_MAX_K + 1];
    int64_t slots[SEARCH_MAX_K + 1];
    int rc =
        segment_search(v->segments[s], w->query, k + 1, scores, slots, &answer->found, message);
    if (rc != SQLITE_OK)
        return rc;
    answer->searched = 1;
    lock_hits(w);
    for (int i = 0; i < answer->found; i++) {
        index_hit hit = {scores[i], s, (int)slots[i], index_key(v, s, (int)slots[i])};
        answer->last_rank = walk_rank_of(v->metric, hit.score);
        if (!distances || distances[v->starts[s] + slots[i]] != SCORED)
            hits_insert(w, k, &hit);
    }
    unlock_hits(w);
    return SQLITE_OK;
}

/* ---- by sketches ---- */

enum {
    FIRST_CANDIDATES = 48, /* rows beyond k that are scored to learn how near the k-th is */
    /* Where more than a third of a segment's rows are left over, all of them are read in one
    ** go; and after as many segments in a row like that, no codes are compared any more. */
    LEFT_OVER_SHARE = 3,
    FUTILE_MOST = 2
};

/* A search by sketches: the coarse distance of every slot of the segments with one. */
typedef struct sketch_search {
    const query_sketch *query;
    int32_t *distances; /* by position; SCORED for rows that need not be looked at */
    int64_t *slots;     /* of one segment: room for candidates */
    float *scores;
    int futile; /* the last segments of which too many rows were left over */
} sketch_search;

/* How near a row of a sketch must be to be among the nearest k, by the k-th so far. */
static double bound_of(const index_walk *w, int k, const sketch *of, const query_sketch *query)
{
    lock_hits(w);
    double bound = w->hit_count < k ? INFINITY : sketch_bound(of, query, w->hits[0].score);
    unlock_hits(w);
    return bound;
}

/* Score some slots of a segment, and take in those that are among the nearest. */
static int score_candidates(index_walk *w, int k, int s, const int64_t *slots, int count,
                            float *scores, char **message)
{
    scored_slots scored = {
        .scores = scores, .slots = (int64_t *)slots, .count = count, .listed = 1};
    int rc = segment_scores(w->version->segments[s], &w->reader, w->query, slots, count, scores,
                            message);
    if (rc == SQLITE_OK)
        pick(w, k, s, &scored);
    return rc;
}

/* A row by its coarse distance. */
typedef struct coarse_row {
    int32_t distance;
    int segment, slot;
} coarse_row;

/* Put a row in the place of the one with the largest distance, which is on top of the heap. */
static void replace_first(coarse_row *heap, int count, coarse_row row)
{
    int i = 0;
    for (int child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && heap[child].distance < heap[child + 1].distance)
            child++;
        if (heap[child].distance <= row.distance)
            break;
        heap[i] = heap[child];
    }
    heap[i] = row;
}

/* The rows with the smallest coarse distances, at most `most`, in no order; where there are
** fewer, some are SCORED. */
static void find_first(const index_walk *w, const segment_answer *answers,
                       const sketch_search *search, coarse_row *first, int most)
{
    const index_version *v = w->version;
    for (int i = 0; i < most; i++)
        first[i] = (coarse_row){SCORED, 0, 0};
    for (int s = 0; s < v->segment_count; s++) {
        const int32_t *distances = search->distances + v->starts[s];
        int rows = answers[s].ruling ? segment_count(v->segments[s]) : 0, slot = -1;
        for (;;) {
            slot = kernel_next_within(distances, slot + 1, rows, first[0].distance - 1);
            if (slot == rows)
                break;
            if (distances[slot] != SKETCH_OUTLIER && !passes_over(w, s, slot))
                replace_first(first, most, (coarse_row){distances[slot], s, slot});
        }
    }
}

static int compare_places(const void *left, const void *right)
{
    const coarse_row *a = left, *b = right;
    return a->segment != b->segment ? a->segment - b->segment : a->slot - b->slot;
}

/* Score the most promising rows, so that the k-th of them bounds the rest. */
static int score_first(index_walk *w, int k, const segment_answer *answers, sketch_search *search,
                       char **message)
{
    int most = k + FIRST_CANDIDATES, next = 0, rc = SQLITE_OK;
    coarse_row *first = sqlite3_malloc64((sqlite3_uint64)most * sizeof *first);
    if (!first)
        return SQLITE_NOMEM;
    find_first(w, answers, search, first, most);
    qsort(first, (size_t)most, sizeof *first, compare_places);
    while (rc == SQLITE_OK && next < most) {
        int s = first[next].segment, n = 0;
        for (; next < most && first[next].segment == s; next++) {
            if (first[next].distance == SCORED) /* there are not so many */
                continue;
            search->slots[n++] = first[next].slot;
            search->distances[w->version->starts[s] + first[next].slot] = SCORED;
        }
        rc = score_candidates(w, k, s, search->slots, n, search->scores, message);
    }
    sqlite3_free(first);
    return rc;
}

/* The slots of a segment within a coarse distance that were not scored yet. */
static int collect(const index_walk *w, int s, sketch_search *search, int32_t limit)
{
    const index_version *v = w->version;
    int rows = segment_count(v->segments[s]), kept = 0;
    int count = kernel_places_within(search->distances + v->starts[s], rows,
                                     limit < SCORED ? limit : SCORED - 1, search->slots);
    if (!passes_over_some(w, s))
        return count;
    for (int i = 0; i < count; i++) {
        search->slots[kept] = search->slots[i];
        kept += !passes_over(w, s, (int)search->slots[i]);
    }
    return kept;
}

/* Score the rows of one segment that its sketch does not rule out; or all of them, where
** that would be most. */
static int score_rest(index_walk *w, int k, int s, segment_answer *answer, sketch_search *search,
                      char **message)
{
    const sketch *of = answer->ruling;
    int rows = segment_count(w->version->segments[s]), count = rows;
    if (search->futile < FUTILE_MOST) {
        double bound = bound_of(w, k, of, search->query);
        count = collect(w, s, search, sketch_limit(of, search->query, bound));
        count = sketch_refine(of, search->query, bound, search->slots, count);
    }
    if (count <= rows / LEFT_OVER_SHARE) {
        search->futile = 0;
    } else {
        search->futile++;
        if (is_searchable(w, s, k))
            return search_segment(w, s, k, search->distances, answer, message);
        count = collect(w, s, search, INT32_MAX);
    }
    return count ? score_candidates(w, k, s, search->slots, count, search->scores, message)
                 : SQLITE_OK;
}

/* ---- both ---- */

/* Whether what FAISS answered for the segments searched holds the nearest k for certain. */
static int answers_are_certain(const index_walk *w, int k, const segment_answer *answers)
{
    const index_version *v = w->version;
    int certain = 1;
    for (int s = 0; s < v->segment_count; s++) {
        if (!answers[s].searched)
            continue;
        int count = segment_count(v->segments[s]), wanted = k < count ? k + 1 : count;
        float worst = w->hit_count ? farthest_rank(w) : 0;
        certain &= answers[s].found == wanted && (wanted == count || answers[s].last_rank > worst);
    }
    return certain;
}

/* Search a segment without the help of a sketch. */
static int search_plainly(index_walk *w, int k, int s, segment_answer *answer, scored_slots *room,
                          char **message)
{
    if (is_searchable(w, s, k))
        return search_segment(w, s, k, NULL, answer, message);
    int rc = score_segment(w, s, room, message);
    if (rc == SQLITE_OK)
        pick(w, k, s, room);
    return rc;
}

/* A search of all segments, by one thread or several. */
typedef struct segments_search {
    index_walk *walk;
    int k;
    segment_answer *answers; /* of each segment */
    const query_sketch *query;
    sketch_search *searches; /* of each thread, … */
    scored_slots *rooms;     /* … which works in one of these */
    void (*step)(struct segments_search *all, int s, int thread);
    atomic_int failure; /* the first one's code … */
    char *message;      /* … and message, which it alone writes */
} segments_search;

static void note_failure(segments_search *all, int rc, char *message)
{
    int none = SQLITE_OK;
    if (rc != SQLITE_OK && atomic_compare_exchange_strong(&all->failure, &none, rc))
        all->message = message;
    else
        sqlite3_free(message);
}

static void step_plainly(segments_search *all, int s, int thread)
{
    char *message = NULL;
    if (all->answers[s].own || all->answers[s].ruling)
        return;
    note_failure(
        all, search_plainly(all->walk, all->k, s, &all->answers[s], &all->rooms[thread], &message),
        message);
}

static void step_coarsely(segments_search *all, int s, int thread)
{
    const segment_answer *answer = &all->answers[s];
    if (answer->ruling)
        sketch_distances(answer->ruling, all->query,
                         all->searches[thread].distances + all->walk->version->starts[s]);
}

static void step_finely(segments_search *all, int s, int thread)
{
    char *message = NULL;
    if (!all->answers[s].ruling)
        return;
    note_failure(
        all, score_rest(all->walk, all->k, s, &all->answers[s], &all->searches[thread], &message),
        message);
}

/* A workers_work. */
static void search_part(void *argument, int part, int thread, workers_task *task)
{
    segments_search *all = argument;
    (void)task;
    if (atomic_load(&all->failure) == SQLITE_OK)
        all->step(all, part, thread);
}

/* Take a step with each segment. */
static int for_each_segment(segments_search *all, void (*step)(segments_search *, int, int),
                            char **message)
{
    index_walk *w = all->walk;
    all->step = step;
    int rc =
        workers_run(w->threads, w->version->segment_count, search_part, all, &w->reader, message);
    int failure = atomic_load(&all->failure);
    if (failure == SQLITE_OK)
        return rc;
    if (rc == SQLITE_OK)
        *message = all->message;
    else
        sqlite3_free(all->message);
    all->message = NULL;
    return rc == SQLITE_OK ? failure : rc;
}

/*
** The nearest k of the segments whose sketches rule. Coarse distances of all rows say
** which to score first; the k-th score so far is a bound, and a row beyond it by its
** coarse or its fine distance is none of the nearest, whatever its score.
*/
static int search_by_sketches(segments_search *all, const query_sketch *query, char **message)
{
    index_walk *w = all->walk;
    int32_t *distances = sqlite3_malloc64((sqlite3_uint64)w->version->slots * sizeof *distances);
    if (!distances)
        return SQLITE_NOMEM;
    all->query = query;
    for (int i = 0; i < w->threads; i++)
        all->searches[i] = (sketch_search){.query = query,
                                           .distances = distances,
                                           .slots = all->rooms[i].slots,
                                           .scores = all->rooms[i].scores};
    int rc = for_each_segment(all, step_coarsely, message);
    if (rc == SQLITE_OK)
        rc = score_first(w, all->k, all->answers, &all->searches[0], message);
    if (rc == SQLITE_OK)
        rc = for_each_segment(all, step_finely, message);
    sqlite3_free(distances);
    return rc;
}

/* Search the segments whose sketches are of the same basis as this one's. A query that is
** too far from the data for its code is not worth comparing. */
static int search_alike(segments_search *all, const basis *b, char **message)
{
    index_walk *w = all->walk;
    const index_version *v = w->version;
    segment_answer *answers = all->answers;
    query_sketch *query;
    int rc = query_sketch_new(b, v->metric, w->query, &query);
    int fits = rc == SQLITE_OK && query_sketch_fits(query);
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        int alike = answers[s].own && sketch_basis(answers[s].own) == b;
        answers[s].ruling = fits && alike ? answers[s].own : NULL;
        if (!alike)
            continue;
        answers[s].own = NULL;
        if (!fits)
            rc = search_plainly(w, all->k, s, &answers[s], &all->rooms[0], message);
        if (rc == SQLITE_OK && !fits)
            rc = walk_check_now(w, message);
    }
    if (fits && rc == SQLITE_OK)
        rc = search_by_sketches(all, query, message);
    query_sketch_free(query);
    return rc;
}

/* Search the segments without a sketch, then those with one: nearly always of one basis. */
static int search_segments(segments_search *all, char **message)
{
    const index_version *v = all->walk->version;
    for (int s = 0; s < v->segment_count; s++)
        all->answers[s] = (segment_answer){.own = segment_hold_sketch(v->segments[s])};
    int rc = for_each_segment(all, step_plainly, message);
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        if (all->answers[s].own)
            rc = search_alike(all, sketch_basis(all->answers[s].own), message);
    }
    for (int s = 0; s < v->segment_count; s++)
        segment_let_go_sketch(v->segments[s]);
    return rc;
}

/* How many threads are worth their while. */
static int threads_of(const index_walk *w)
{
    const index_version *v = w->version;
    int row = index_walks_by_sketches(v) ? SKETCH_BYTES : v->dimension * VECTOR_COMPONENT_BYTES;
    int most = w->reader.threads < WORKERS_MOST ? w->reader.threads : WORKERS_MOST;
    int worth = most > 1 && !w->set && v->slots >= THREADS_BYTES / row;
    for (int s = 0; worth && s < v->segment_count; s++)
        worth = segment_has_vectors(v->segments[s]);
    return worth ? most : 1;
}

/* Make room for what each thread works with. */
static int open_rooms(segments_search *all, const index_version *v, int threads)
{
    all->answers = sqlite3_malloc64(v->segment_count * sizeof *all->answers);
    all->searches = sqlite3_malloc64((sqlite3_uint64)threads * sizeof *all->searches);
    all->rooms = sqlite3_malloc64((sqlite3_uint64)threads * sizeof *all->rooms);
    if (!all->answers || !all->searches || !all->rooms)
        return SQLITE_NOMEM;
    int rc = SQLITE_OK;
    for (int i = 0; i < threads; i++)
        all->rooms[i] = (scored_slots){0};
    for (int i = 0; rc == SQLITE_OK && i < threads; i++)
        rc = scored_slots_open(&all->rooms[i], v);
    return rc;
}

static void close_rooms(segments_search *all, int threads)
{
    for (int i = 0; all->rooms && i < threads; i++)
        scored_slots_close(&all->rooms[i]);
    sqlite3_free(all->answers);
    sqlite3_free(all->searches);
    sqlite3_free(all->rooms);
}

/*
** Merge the nearest k of all segments. They are certain unless FAISS may have left out
** rows: some that tie with the last one it gives matter if the k-th ties with it, and it
** gives none at infinite distance. If they are not, there are no hits and ranking all rows
** decides.
*/
static int walk_search(index_walk *w, int k, char **message)
{
    pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    segments_search all = {.walk = w, .k = k};
    unsigned entered = workers_enter();
    atomic_init(&all.failure, SQLITE_OK);
    w->threads = threads_of(w);
    w->lock = w->threads > 1 ? &lock : NULL;
    index_hit *hits = sqlite3_realloc64(w->hits, (sqlite3_uint64)k * sizeof *w->hits);
    w->hit_count = 0;
    if (hits)
        w->hits = hits;
    int rc = hits ? open_rooms(&all, w->version, w->threads) : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = search_segments(&all, message);
    if (rc != SQLITE_OK || !answers_are_certain(w, k, all.answers))
        w->hit_count = 0;
    hits_sort(w);
    close_rooms(&all, w->threads);
    w->lock = NULL;
    pthread_mutex_destroy(&lock);
    workers_leave(entered);
    return rc;
}

/* ---- ranking ---- */

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
    int rc = score_segment(w, s, scored, message);
    for (int i = 0; rc == SQLITE_OK && i < scored->count; i++)
        w->ranked[w->left++] =
            (ranked_row){scored->scores[i], (uint32_t)(v->starts[s] + scored_slot(scored, i))};
    if (rc == SQLITE_OK && w->hits)
        pick(w, SEARCH_MAX_K, s, scored);
    return rc == SQLITE_OK ? walk_check_now(w, message) : rc;
}

/* Score every row of the walk; pick out the nearest, unless they are known. */
static int walk_score(index_walk *w, char **message)
{
    const index_version *v = w->version;
    scored_slots scored;
    unsigned entered = workers_enter();
    int rc = scored_slots_open(&scored, v);
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
        hits_sort(w);
    scored_slots_close(&scored);
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

/* ---- the walk ---- */

int index_walks_by_sketches(const index_version *v)
{
    return atomic_load(&v->tuning->basis) != NULL;
}

/* The most rows that are worth a search of their own, before all are scored. */
static int64_t most_searched(const index_walk *w)
{
    const index_version *v = w->version;
    if (index_walks_by_sketches(v) && w->count >= v->slots / SKETCH_SET_SHARE)
        return w->count / SKETCH_SHARE > SEARCH_MAX_K ? w->count / SKETCH_SHARE : SEARCH_MAX_K;
    return w->set ? 0 : SEARCH_MAX_K;
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

/* The rows found so far were not enough: find more of them, or score all. */
static int walk_deepen(index_walk *w, char **message)
{
    int64_t deeper = w->hit_count * DEEPER, most = most_searched(w);
    if (deeper > most && w->hit_count <= most / 2)
        deeper = most;
    if (w->deepens && deeper > 0 && deeper <= most && index_walks_by_sketches(w->version))
        return walk_search(w, (int)deeper, message);
    return walk_score(w, message);
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
    w->deepens = depth != WALK_UNKNOWN;
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
        index_improve(v);
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
    if (!w->is_heap)
        walk_heapify(w);
    while (w->count - w->left <= i)
        walk_take(w);
    const ranked_row *ranked = &w->ranked[w->count - 1 - i];
    *hit = index_row(w->version, ranked->position);
    hit->score = ranked->score;
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
