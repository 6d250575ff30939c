#include "probe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEEPER = 4,       /* how much harder to try where too few were found … */
    DEEPER_TIMES = 3, /* … and how often */
    REST_SHARE = 8    /* beyond this part of the rows, the rest is scored one by one */
};

/* Rows found, in an array that grows. */
typedef struct hit_list {
    index_hit *at;
    int64_t count, room;
} hit_list;

struct probe {
    index_version *version;
    coverage *coverage;
    search_effort effort;
    float *asked; /* the query as it was asked … */
    float *query; /* … and as the metric stores vectors */
    vector_reader reader;
    row_set set;       /* the rows to come to; no bits: all */
    uint64_t *allowed; /* their places; NULL: all places of the index */
    int64_t places;    /* how many that are */
    int64_t rows;      /* all to come to */
    hit_list hits;     /* so far, in the order in which they come */
    row_set given;     /* the same ones */
    int64_t depth;     /* the runs so far were to find so many */
    row_set left;      /* the other ones, … */
    index_walk *rest;  /* … which come behind the hits */
};

/* ---- what pays ---- */

int probe_pays(const coverage *c, const index_version *v, const float *query, const row_set *set,
               int64_t depth, const search_effort *effort)
{
    int64_t rows = set ? set->count : v->rows, wanted = depth < 0 ? PROBE_SOME : depth;
    if (v->metric != METRIC_KIND_COSINE && !approximate_takes(query, v->dimension))
        return 0;
    if (wanted == 0 || wanted > rows / REST_SHARE || rows == 0 || c->covered == 0)
        return 0;
    double one_in = (double)v->rows / (double)rows;
    double candidates = (double)wanted * effort->rerank;
    if (candidates > (double)rows)
        return 0;
    double cost =
        approximate_cost(approximate_kind(c->of), v->rows, (int64_t)candidates, effort, one_in);
    return cost + (double)c->missing < (double)rows;
}

/* ---- places ---- */

/* The places of a set's rows, and how many they are. */
static int allow_set(probe *p, const row_set *set)
{
    enum { WORD_BITS = 64 };
    const index_version *v = p->version;
    size_t bytes =
        ((size_t)approximate_count(p->coverage->of) / WORD_BITS + 1) * sizeof *p->allowed;
    p->allowed = sqlite3_malloc64(bytes);
    if (!p->allowed)
        return SQLITE_NOMEM;
    memset(p->allowed, 0, bytes);
    for (int s = 0; s < v->segment_count; s++) {
        const cover *of = p->coverage->covers[s];
        for (int slot = 0; slot < segment_count(v->segments[s]); slot++) {
            int32_t place = cover_place(of, slot);
            if (place < 0 || !row_set_has(set, v->starts[s] + slot))
                continue;
            p->allowed[place / WORD_BITS] |= (uint64_t)1 << (place % WORD_BITS);
            p->places++;
        }
    }
    return SQLITE_OK;
}

static int keep_set(probe *p, const row_set *set)
{
    p->rows = p->version->rows;
    p->places = p->coverage->covered;
    if (!set)
        return SQLITE_OK;
    p->rows = set->count;
    p->places = 0;
    int rc = row_set_copy(&p->set, set, p->version);
    return rc == SQLITE_OK ? allow_set(p, set) : rc;
}

/* What FAISS may look at: NULL where it is everything. */
static const uint64_t *selection(const probe *p)
{
    if (p->allowed)
        return p->allowed;
    return p->coverage->covered < approximate_count(p->coverage->of) ? p->coverage->allowed : NULL;
}

/* ---- one run ---- */

static int hits_add(hit_list *l, const index_hit *hit)
{
    if (l->count == l->room) {
        int64_t room = l->room ? 2 * l->room : 64;
        index_hit *at = sqlite3_realloc64(l->at, (sqlite3_uint64)room * sizeof *at);
        if (!at)
            return SQLITE_NOMEM;
        l->at = at;
        l->room = room;
    }
    l->at[l->count++] = *hit;
    return SQLITE_OK;
}

/* qsort() gives no argument: the order of l2, and of the metrics that score by nearness. */
static int order_hits(const index_hit *a, const index_hit *b, vector_metric metric)
{
    float ra = walk_rank_of(metric, a->score), rb = walk_rank_of(metric, b->score);
    if (ra != rb)
        return ra < rb ? -1 : 1;
    return a->key < b->key ? -1 : a->key > b->key;
}

static int order_by_l2(const void *a, const void *b)
{
    return order_hits(a, b, METRIC_KIND_L2);
}

static int order_by_nearness(const void *a, const void *b)
{
    return order_hits(a, b, METRIC_KIND_IP);
}

static void sort_hits(const probe *p, hit_list *l)
{
    int by_l2 = p->version->metric == METRIC_KIND_L2;
    if (l->count)
        qsort(l->at, (size_t)l->count, sizeof *l->at, by_l2 ? order_by_l2 : order_by_nearness);
}

static int is_given(const probe *p, int s, int slot)
{
    return p->given.bits && row_set_has(&p->given, p->version->starts[s] + slot);
}

/* Score some slots of one segment, and put those on the list that are no farther than `worst`. */
static int add_slots(const probe *p, int s, const int64_t *slots, int count, float worst,
                     hit_list *to, char **message)
{
    const index_version *v = p->version;
    float *scores = sqlite3_malloc64(((sqlite3_uint64)count + 1) * sizeof *scores);
    int rc =
        scores ? segment_scores(v->segments[s], &p->reader, p->query, slots, count, scores, message)
               : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < count; i++) {
        if (walk_rank_of(v->metric, scores[i]) > worst)
            continue;
        index_hit hit = {scores[i], s, (int)slots[i], index_key(v, s, (int)slots[i])};
        rc = hits_add(to, &hit);
    }
    sqlite3_free(scores);
    return rc;
}

/* The slots of one segment that the index lacks, as far as they are to come. */
static int list_missing(const probe *p, int s, int64_t *slots)
{
    const index_version *v = p->version;
    const cover *of = p->coverage->covers[s];
    const int are_all = !v->dead[s] && !p->hits.count && !p->set.bits; /* as a rule */
    int count = 0;
    for (int i = 0; i < of->missing_count; i++) {
        int slot = of->missing[i];
        slots[count] = slot;
        count += are_all || (!index_is_dead(v, s, slot) && !is_given(p, s, slot) &&
                             (!p->set.bits || row_set_has(&p->set, v->starts[s] + slot)));
    }
    return count;
}

/* Score the rows that the index lacks. Those that are farther than the `wanted`-th of the list,
** which is in order, are none of the nearest. */
static int add_missing(const probe *p, int64_t wanted, hit_list *to, char **message)
{
    const index_version *v = p->version;
    float worst =
        to->count >= wanted ? walk_rank_of(v->metric, to->at[wanted - 1].score) : INFINITY;
    int rc = SQLITE_OK;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        int most = p->coverage->covers[s]->missing_count;
        if (most == 0)
            continue;
        int64_t *slots = sqlite3_malloc64((sqlite3_uint64)most * sizeof *slots);
        int count = slots ? list_missing(p, s, slots) : 0;
        rc = slots ? add_slots(p, s, slots, count, worst, to, message) : SQLITE_NOMEM;
        sqlite3_free(slots);
    }
    return rc;
}

/* Whether there are as many candidates as wanted, or as can be. */
static int are_enough(const probe *p, int64_t found, int64_t wanted)
{
    return found >= wanted || found >= p->places;
}

/* The places of about the nearest `wanted` rows: deeper, where filters leave too few. */
static int search_index(const probe *p, int64_t wanted, int64_t *places, float *scores,
                        int64_t room, int64_t *found, char **message)
{
    approximate *a = p->coverage->of;
    double one_in = (double)approximate_count(a) / (double)(p->places ? p->places : 1);
    search_effort effort = p->effort;
    int64_t k = wanted;
    if (!approximate_kind(a)->selects)
        k = (int64_t)((double)wanted * one_in * 1.5) + 1;
    effort.ef_search =
        (int)(one_in * effort.ef_search < EFFORT_MOST ? one_in * effort.ef_search : EFFORT_MOST);
    effort.nprobe =
        (int)(one_in * effort.nprobe < EFFORT_MOST ? one_in * effort.nprobe : EFFORT_MOST);
    for (int times = 0;; times++) {
        k = k < room ? k : room;
        int rc = approximate_search(a, p->query, k, &effort, selection(p), scores, places, found,
                                    message);
        if (rc != SQLITE_OK || are_enough(p, *found, wanted) || times == DEEPER_TIMES)
            return rc;
        if (!approximate_kind(a)->selects)
            k *= DEEPER;
        if (effort.ef_search < EFFORT_MOST / DEEPER)
            effort.ef_search *= DEEPER;
        if (effort.nprobe < EFFORT_MOST / DEEPER)
            effort.nprobe *= DEEPER;
    }
}

static int compare_places(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Score the rows at positions that are not yet given, segment by segment: in the order of the
** source, where they are read from it. The array is changed. */
static int add_positions(const probe *p, int64_t *positions, int64_t count, hit_list *to,
                         char **message)
{
    const index_version *v = p->version;
    int rc = SQLITE_OK, n;
    qsort(positions, (size_t)count, sizeof *positions, compare_places);
    for (int64_t i = 0, next; rc == SQLITE_OK && i < count; i = next) {
        int s, slot;
        index_locate(v, positions[i], &s, &slot);
        int64_t end = v->starts[s] + segment_count(v->segments[s]);
        int64_t *slots = positions + i;
        for (next = i, n = 0; next < count && positions[next] < end; next++) {
            int64_t at = positions[next] - v->starts[s];
            if (!is_given(p, s, (int)at))
                slots[n++] = at;
        }
        rc = add_slots(p, s, slots, n, INFINITY, to, message);
    }
    return rc;
}

/* Candidates from the index, scored by their vectors; those not yet given. */
static int add_candidates(const probe *p, int64_t wanted, hit_list *to, char **message)
{
    const approximate *a = p->coverage->of;
    int64_t found = 0, room = approximate_count(a);
    if (approximate_kind(a)->selects && wanted < room)
        room = wanted;
    int64_t *places = sqlite3_malloc64((sqlite3_uint64)room * sizeof *places);
    float *scores = sqlite3_malloc64((sqlite3_uint64)room * sizeof *scores);
    int rc = places && scores ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = search_index(p, wanted, places, scores, room, &found, message);
    found = found < wanted ? found : wanted;
    for (int64_t i = 0; rc == SQLITE_OK && i < found; i++)
        places[i] = coverage_position(p->coverage, p->version, places[i]);
    if (rc == SQLITE_OK)
        rc = add_positions(p, places, found, to, message);
    sqlite3_free(places);
    sqlite3_free(scores);
    return rc;
}

static int64_t position_of(const probe *p, const index_hit *hit)
{
    return p->version->starts[hit->segment] + hit->slot;
}

/* Give the nearest `count` of the list. */
static int give(probe *p, const hit_list *fresh, int64_t count)
{
    int rc = SQLITE_OK;
    for (int64_t i = 0; rc == SQLITE_OK && i < count; i++) {
        rc = hits_add(&p->hits, &fresh->at[i]);
        if (rc == SQLITE_OK)
            row_set_add(&p->given, position_of(p, &fresh->at[i]));
    }
    return rc;
}

/* Find more rows, `depth` with those that there are. Fewer come of it only where more
** cannot be found this way. */
static int run(probe *p, int64_t depth, char **message)
{
    hit_list fresh = {0};
    int64_t wanted = depth - p->hits.count;
    int64_t candidates = depth * p->effort.rerank;
    if (candidates > p->places)
        candidates = p->places;
    int rc = candidates ? add_candidates(p, candidates, &fresh, message) : SQLITE_OK;
    sort_hits(p, &fresh);
    if (rc == SQLITE_OK && p->coverage->missing)
        rc = add_missing(p, wanted, &fresh, message);
    if (rc == SQLITE_OK) {
        if (p->coverage->missing)
            sort_hits(p, &fresh);
        rc = give(p, &fresh, fresh.count < wanted ? fresh.count : wanted);
    }
    p->depth = depth;
    sqlite3_free(fresh.at);
    return rc == SQLITE_OK && p->reader.check ? p->reader.check(p->reader.argument, message) : rc;
}

/* Everything that was not given, one by one. */
static int begin_rest(probe *p, char **message)
{
    const index_version *v = p->version;
    int rc = row_set_open(&p->left, v);
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        for (int slot = 0; slot < segment_count(v->segments[s]); slot++) {
            int64_t position = v->starts[s] + slot;
            if (p->set.bits ? row_set_has(&p->set, position) : !index_is_dead(v, s, slot)) {
                if (!is_given(p, s, slot))
                    row_set_add(&p->left, position);
            }
        }
    }
    if (rc == SQLITE_OK)
        rc = index_walk_open(p->version, p->asked, &p->left, WALK_UNKNOWN, &p->reader, &p->rest,
                             message);
    return rc;
}

/* ---- the walk ---- */

/* The first run. Where it finds too few rows, all of them are scored: the rest would come
** behind, and may be nearer. */
static int begin(probe *p, int64_t depth, char **message)
{
    int64_t most = depth < p->rows ? depth : p->rows;
    int rc = run(p, depth, message);
    if (rc != SQLITE_OK || p->hits.count >= most)
        return rc;
    p->hits.count = 0;
    row_set_close(&p->given);
    return begin_rest(p, message);
}

int probe_open(index_version *v, coverage *c, const search_effort *effort, const float *query,
               const row_set *set, int64_t depth, const vector_reader *reader, probe **out,
               char **message)
{
    *out = NULL;
    probe *p = sqlite3_malloc64(sizeof *p);
    if (!p)
        return SQLITE_NOMEM;
    memset(p, 0, sizeof *p);
    p->version = index_retain(v);
    p->coverage = coverage_retain(c);
    p->effort = *effort;
    p->reader = *reader;
    size_t bytes = (size_t)v->dimension * sizeof *query;
    p->asked = sqlite3_malloc64(bytes);
    p->query = sqlite3_malloc64(bytes);
    int rc = p->asked && p->query ? row_set_open(&p->given, v) : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        memcpy(p->asked, query, bytes);
        memcpy(p->query, query, bytes);
        if (v->metric == METRIC_KIND_COSINE)
            segment_normalize(p->query, v->dimension);
        rc = keep_set(p, set);
    }
    if (rc == SQLITE_OK)
        rc = begin(p, depth < 0 ? PROBE_SOME : depth, message);
    if (rc == SQLITE_OK)
        *out = p;
    else
        probe_close(p);
    return rc;
}

int probe_at(probe *p, int64_t i, index_hit *hit, char **message)
{
    if (i >= p->rows)
        return SQLITE_DONE;
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && i >= p->hits.count && !p->rest) {
        int short_of_it = p->hits.count<p->depth, deep = p->depth> p->rows / REST_SHARE;
        rc = short_of_it || deep ? begin_rest(p, message) : run(p, 2 * p->depth, message);
    }
    if (rc != SQLITE_OK)
        return rc;
    if (i >= p->hits.count)
        return index_walk_at(p->rest, i - p->hits.count, hit, message);
    *hit = p->hits.at[i];
    return SQLITE_ROW;
}

void probe_close(probe *p)
{
    if (!p)
        return;
    index_walk_close(p->rest);
    coverage_release(p->coverage);
    index_release(p->version);
    row_set_close(&p->set);
    row_set_close(&p->given);
    row_set_close(&p->left);
    sqlite3_free(p->allowed);
    sqlite3_free(p->hits.at);
    sqlite3_free(p->asked);
    sqlite3_free(p->query);
    sqlite3_free(p);
}
