#include "walk.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "message.h"

/* Beyond this many rows, scoring all rows once is cheaper than a heap of k in
** every segment. */
enum { SEARCH_MAX_K = 128 };

/* Where one cannot tell how many rows will be read, so many are found by sketches. */
enum { DEPTH_TRIED = 32 };

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
    index_check *check;
    void *check_argument;
    index_hit *hits;
    int64_t hit_count; /* the nearest rows, in order */
    /* All rows with their scores; NULL before they are needed. Once it is a heap,
    ** the nearest is on top in ranked[0..left-1], and rows taken from it stand
    ** behind, the i-th at ranked[count - 1 - i]. */
    ranked_row *ranked;
    int is_heap;
    int64_t count, left; /* rows of the walk; those still in the heap */
};

static int walk_check_now(const index_walk *w, char **message)
{
    return w->check ? w->check(w->check_argument, message) : SQLITE_OK;
}

static int hit_before(vector_metric metric, const index_hit *a, const index_hit *b)
{
    float ra = walk_rank_of(metric, a->score), rb = walk_rank_of(metric, b->score);
    return ra < rb || (ra == rb && a->key < b->key);
}

/* Put a hit in its place among the nearest `k`; 0 if it is not one of them. */
static int hits_insert(index_walk *w, int64_t k, const index_hit *hit)
{
    vector_metric metric = w->version->metric;
    if (w->hit_count == k && !hit_before(metric, hit, &w->hits[k - 1]))
        return 0;
    int64_t i = w->hit_count < k ? w->hit_count++ : k - 1;
    for (; i > 0 && hit_before(metric, hit, &w->hits[i - 1]); i--)
        w->hits[i] = w->hits[i - 1];
    w->hits[i] = *hit;
    return 1;
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

/* Whether a walk passes over some slots of a segment. */
static int passes_over(const index_version *v, int s, const row_set *set)
{
    return set || v->dead[s];
}

/* The slots of a segment that are in the set, or that are not dead, in `slots`. */
static int slots_of_walk(const index_version *v, int s, const row_set *set, int64_t *slots)
{
    int count = 0;
    for (int slot = 0; slot < segment_count(v->segments[s]); slot++) {
        if (set ? row_set_has(set, v->starts[s] + slot) : !index_is_dead(v, s, slot))
            slots[count++] = slot;
    }
    return count;
}

/* Score the rows of segment `s` that the walk comes to: *count of them, in slots
** 0, 1, ... or where *slots says. */
static int score_segment(index_walk *w, int s, const row_set *set, scored_slots *out,
                         char **message)
{
    const index_version *v = w->version;
    out->listed = passes_over(v, s, set);
    out->count = out->listed ? slots_of_walk(v, s, set, out->slots) : segment_count(v->segments[s]);
    return segment_scores(v->segments[s], w->query, out->listed ? out->slots : NULL, out->count,
                          out->scores, message);
}

/* Pick out the rows just scored that are among the nearest k so far. Most are farther than
** the farthest picked: one comparison tells. */
static void pick(index_walk *w, int64_t k, int s, const scored_slots *scored)
{
    const index_version *v = w->version;
    for (int i = 0; i < scored->count; i++) {
        float score = scored->scores[i];
        if (w->hit_count == k &&
            walk_rank_of(v->metric, score) > walk_rank_of(v->metric, w->hits[k - 1].score))
            continue;
        int slot = scored_slot(scored, i);
        index_hit hit = {score, s, slot, index_key(v, s, slot)};
        hits_insert(w, k, &hit);
    }
}

/* ---- the first search ---- */

/* What the first search knows of one segment. */
typedef struct segment_answer {
    const sketch *ruling; /* that rules rows out; NULL for none */
    int searched;         /* by FAISS, with these results: */
    int found;            /* rows that FAISS gave */
    float last_rank;
} segment_answer;

/* ---- by sketches ---- */

enum { FIRST_CANDIDATES = 64 }; /* rows scored to learn how near the k-th is */

/* A search by sketches: the coarse distance of every slot of the segments with one. */
typedef struct sketch_search {
    query_sketch *query;
    int32_t *distances; /* by position; SCORED for rows that need not be looked at */
    int64_t *slots;     /* of one segment: room for candidates */
    float *scores;
} sketch_search;

enum { SCORED = INT32_MAX };

/* The sketch of a segment, if the walk's basis is the one that it was made with. */
static const sketch *sketch_for(const index_walk *w, int s)
{
    const index_version *v = w->version;
    const sketch *own = segment_sketch(v->segments[s]);
    return own && v->metric != METRIC_KIND_IP && sketch_basis(own) == atomic_load(&v->tuning->basis)
               ? own
               : NULL;
}

/*
** Within this distance of the query is every row whose score, as FAISS computes it,
** is as good as the k-th so far. For L2 a sum of d squares of rounded differences is
** off by a factor of γ(d + 2) at most. For cosine both vectors have been scaled to
** length 1, with an error of γ(d + 4) at most: |x - q|² = |x|² + |q|² - 2xq.
*/
static double radius_of(const index_walk *w, int k)
{
    const index_version *v = w->version;
    if (w->hit_count < k)
        return INFINITY;
    double worst = w->hits[k - 1].score, n = (v->dimension + 8) * 0x1p-24, gamma = n / (1 - n);
    if (v->metric == METRIC_KIND_L2)
        return sqrt(worst * (1 + 2 * gamma) + v->dimension * (double)FLT_MIN);
    double squared = 2 * (1 - worst) + 16 * gamma;
    return squared > 0 ? sqrt(squared) : 0;
}

/* Score some slots of a segment, and take in those that are among the nearest. */
static int score_candidates(index_walk *w, int k, int s, const int64_t *slots, int count,
                            float *scores, char **message)
{
    scored_slots scored = {
        .scores = scores, .slots = (int64_t *)slots, .count = count, .listed = 1};
    int rc = segment_scores(w->version->segments[s], w->query, slots, count, scores, message);
    if (rc == SQLITE_OK)
        pick(w, k, s, &scored);
    return rc;
}

/* A row by its coarse distance. */
typedef struct coarse_row {
    int32_t distance;
    int64_t position;
} coarse_row;

/* The rows with the smallest coarse distances, at most `most`. */
static int find_first(const index_walk *w, const segment_answer *answers,
                      const sketch_search *search, coarse_row *first, int most)
{
    const index_version *v = w->version;
    int count = 0;
    for (int s = 0; s < v->segment_count; s++) {
        const int32_t *distances = search->distances + v->starts[s];
        for (int slot = 0; answers[s].ruling && slot < segment_count(v->segments[s]); slot++) {
            int32_t distance = distances[slot];
            if ((count == most && distance >= first[count - 1].distance) || distance < 0 ||
                index_is_dead(v, s, slot))
                continue;
            int i = count < most ? count++ : count - 1;
            for (; i > 0 && first[i - 1].distance > distance; i--)
                first[i] = first[i - 1];
            first[i] = (coarse_row){distance, v->starts[s] + slot};
        }
    }
    return count;
}

/* Score the most promising rows, so that the k-th of them bounds the rest. */
static int score_first(index_walk *w, int k, const segment_answer *answers, sketch_search *search,
                       char **message)
{
    int most = 2 * k > FIRST_CANDIDATES ? 2 * k : FIRST_CANDIDATES, rc = SQLITE_OK;
    coarse_row *first = sqlite3_malloc64((sqlite3_uint64)most * sizeof *first);
    if (!first)
        return SQLITE_NOMEM;
    int count = find_first(w, answers, search, first, most);
    for (int i = 0; rc == SQLITE_OK && i < count; i++) {
        int s, slot;
        index_locate(w->version, first[i].position, &s, &slot);
        int64_t at = slot;
        float score;
        rc = score_candidates(w, k, s, &at, 1, &score, message);
        search->distances[first[i].position] = SCORED;
    }
    sqlite3_free(first);
    return rc;
}

/* Score the rows of one segment that its sketch does not rule out. */
static int score_rest(index_walk *w, int k, int s, const sketch *of, sketch_search *search,
                      char **message)
{
    const index_version *v = w->version;
    const int32_t *distances = search->distances + v->starts[s];
    int rows = segment_count(v->segments[s]), count = 0;
    double radius = radius_of(w, k);
    int32_t limit = sketch_limit(of, search->query, radius);
    for (int slot = 0; slot < rows; slot++) {
        search->slots[count] = slot;
        count +=
            distances[slot] <= limit && distances[slot] != SCORED && !index_is_dead(v, s, slot);
    }
    count = sketch_refine(of, search->query, radius, search->slots, count);
    return count ? score_candidates(w, k, s, search->slots, count, search->scores, message)
                 : SQLITE_OK;
}

/*
** The nearest k of the segments that have a sketch. Coarse distances of all rows say
** which to score first; the k-th score so far is a radius, and a row beyond it by its
** coarse or its fine distance is none of the nearest, whatever its score.
*/
static int search_by_sketches(index_walk *w, int k, const segment_answer *answers,
                              const scored_slots *room, char **message)
{
    const index_version *v = w->version;
    sketch_search search = {.slots = room->slots, .scores = room->scores};
    int rc = query_sketch_new(atomic_load(&v->tuning->basis), w->query, &search.query);
    search.distances = sqlite3_malloc64((sqlite3_uint64)v->slots * sizeof *search.distances);
    if (!search.distances)
        rc = SQLITE_NOMEM;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        if (answers[s].ruling)
            sketch_distances(answers[s].ruling, search.query, search.distances + v->starts[s]);
    }
    if (rc == SQLITE_OK)
        rc = score_first(w, k, answers, &search, message);
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        if (answers[s].ruling)
            rc = score_rest(w, k, s, answers[s].ruling, &search, message);
        if (rc == SQLITE_OK)
            rc = walk_check_now(w, message);
    }
    query_sketch_free(search.query);
    sqlite3_free(search.distances);
    return rc;
}

/* ---- by FAISS ---- */

static int search_segment(index_walk *w, int s, int k, segment_answer *answer, char **message)
{
    index_version *v = w->version;
    float scores[SEARCH_MAX_K + 1];
    int64_t slots[SEARCH_MAX_K + 1];
    int rc =
        segment_search(v->segments[s], w->query, k + 1, scores, slots, &answer->found, message);
    if (rc != SQLITE_OK)
        return rc;
    for (int i = 0; i < answer->found; i++) {
        index_hit hit = {scores[i], s, (int)slots[i], index_key(v, s, (int)slots[i])};
        answer->last_rank = walk_rank_of(v->metric, hit.score);
        hits_insert(w, k, &hit);
    }
    return SQLITE_OK;
}

/* Whether what FAISS answered for the segments searched holds the nearest k for certain. */
static int answers_are_certain(const index_walk *w, int k, const segment_answer *answers)
{
    const index_version *v = w->version;
    int certain = 1;
    for (int s = 0; s < v->segment_count; s++) {
        if (!answers[s].searched)
            continue;
        int count = segment_count(v->segments[s]), wanted = k < count ? k + 1 : count;
        float worst = w->hit_count ? walk_rank_of(v->metric, w->hits[w->hit_count - 1].score) : 0;
        certain &= answers[s].found == wanted && (wanted == count || answers[s].last_rank > worst);
    }
    return certain;
}

/*
** Search the segments without a sketch for k + 1 rows each, then those with one, and
** merge the nearest k. They are certain unless FAISS may have left out rows: some that
** tie with the last one it gives matter if the k-th ties with it, and it gives none at
** infinite distance. If they are not, there are no hits and ranking all rows decides.
*/
static int walk_search(index_walk *w, int k, char **message)
{
    index_version *v = w->version;
    segment_answer *answers = sqlite3_malloc64(v->segment_count * sizeof *answers);
    w->hits = sqlite3_malloc64(k * sizeof *w->hits);
    scored_slots scored;
    int rc = scored_slots_open(&scored, v), sketches = 0;
    if (!answers || !w->hits)
        rc = SQLITE_NOMEM;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        answers[s].searched = 0;
        answers[s].ruling = sketch_for(w, s);
        sketches += answers[s].ruling != NULL;
        if (answers[s].ruling)
            continue;
        if (!v->dead[s]) {
            answers[s].searched = 1;
            rc = search_segment(w, s, k, &answers[s], message);
        } else { /* FAISS would find dead rows */
            rc = score_segment(w, s, NULL, &scored, message);
            if (rc == SQLITE_OK)
                pick(w, k, s, &scored);
        }
        if (rc == SQLITE_OK)
            rc = walk_check_now(w, message);
    }
    if (rc == SQLITE_OK && sketches)
        rc = search_by_sketches(w, k, answers, &scored, message);
    if (rc == SQLITE_OK && !answers_are_certain(w, k, answers))
        w->hit_count = 0;
    scored_slots_close(&scored);
    sqlite3_free(answers);
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
static int rank_segment(index_walk *w, int s, const row_set *set, scored_slots *scored,
                        char **message)
{
    const index_version *v = w->version;
    int rc = score_segment(w, s, set, scored, message);
    for (int i = 0; rc == SQLITE_OK && i < scored->count; i++)
        w->ranked[w->left++] =
            (ranked_row){scored->scores[i], (uint32_t)(v->starts[s] + scored_slot(scored, i))};
    if (rc == SQLITE_OK && w->hits)
        pick(w, SEARCH_MAX_K, s, scored);
    return rc == SQLITE_OK ? walk_check_now(w, message) : rc;
}

/* Score every row of the walk; pick out the nearest, unless they are known. */
static int walk_score(index_walk *w, const row_set *set, char **message)
{
    const index_version *v = w->version;
    scored_slots scored;
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
        rc = rank_segment(w, s, set, &scored, message);
    w->hits = known;
    scored_slots_close(&scored);
    if (rc != SQLITE_OK) {
        sqlite3_free(w->ranked);
        w->ranked = NULL;
        w->hit_count = picks ? 0 : w->hit_count;
    }
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

static int open_walk(index_version *v, const float *query, int normalize, const row_set *set,
                     int64_t depth, index_check *check, void *argument, index_walk **out,
                     char **message)
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
    w->check = check;
    w->check_argument = argument;
    w->count = set ? set->count : v->rows;
    size_t bytes = (size_t)v->dimension * sizeof *query;
    w->query = sqlite3_malloc64(bytes ? bytes : 1);
    int rc = w->query ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK && bytes) {
        memcpy(w->query, query, bytes);
        if (normalize)
            segment_normalize(w->query, v->dimension);
    }
    if (depth > w->count)
        depth = w->count;
    if (rc == SQLITE_OK && set)
        rc = walk_score(w, set, message);
    else if (rc == SQLITE_OK && depth > 0 && depth <= SEARCH_MAX_K)
        rc = walk_search(w, (int)depth, message);
    else if (rc == SQLITE_OK && depth == WALK_UNKNOWN && w->count > 0 &&
             atomic_load(&v->tuning->basis))
        rc = walk_search(w, w->count < DEPTH_TRIED ? (int)w->count : DEPTH_TRIED, message);
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
                    index_check *check, void *argument, index_walk **out, char **message)
{
    int normalize = v->metric == METRIC_KIND_COSINE;
    return open_walk(v, query, normalize, set, depth, check, argument, out, message);
}

int index_walk_open_row(index_version *v, int64_t position, int64_t depth, index_check *check,
                        void *argument, index_walk **out, char **message)
{
    int s, slot;
    index_locate(v, position, &s, &slot);
    const float *stored = segment_vector(v->segments[s], slot); /* normalized already */
    return open_walk(v, stored, 0, NULL, depth, check, argument, out, message);
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
        int rc = walk_score(w, NULL, message);
        if (rc != SQLITE_OK)
            return rc;
        return index_walk_at(w, i, hit, message); /* it may be among those picked out */
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
