#include "walk.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "sieve.h"
#include "workers.h"

enum {
    /* So many rows are searched for before all are put in order: by FAISS, as long as a heap in
    ** every segment is cheaper than going through the scores of all rows, … */
    SEARCH_MAX_K = 128,
    FAISS_MAX_K = 24,     /* … which is so many rows … */
    LONG_DIMENSION = 256, /* … of vectors as long as this */
    DEPTH_TRIED = 32,     /* rows found by sketches where one cannot tell how many will be read */
    DEEPER = 8,        /* so many times as many are found where more are read than expected … */
    SKETCH_SHARE = 24, /* … up to a 24th of all rows: then all are scored */
    PICK_SHARE = 8,    /* so many are picked from all scores; beyond, all are put in order */
    SKETCH_BYTES = 64, /* read of each row with a sketch */
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

/* Whether a walk passes over some slots of a segment. */
static int passes_over_some(const index_walk *w, int s)
{
    return w->set || w->version->dead[s];
}

/* The rows of a set that stand at some positions, as slots from the first of these on. */
static int slots_of_set(const row_set *set, int64_t start, int rows, int64_t *slots)
{
    int64_t end = start + rows;
    int count = 0;
    for (int64_t word = start / SET_WORD_BITS; word * SET_WORD_BITS < end; word++) {
        uint64_t bits = set->bits[word];
        for (; bits; bits &= bits - 1) {
            int64_t position = word * SET_WORD_BITS + __builtin_ctzll(bits);
            if (position >= start && position < end)
                slots[count++] = position - start;
        }
    }
    return count;
}

/* The slots of a segment that the walk comes to, in `slots`. */
static int slots_of_walk(const index_walk *w, int s, int64_t *slots)
{
    int rows = segment_count(w->version->segments[s]), count = 0;
    if (w->set)
        return slots_of_set(w->set, w->version->starts[s], rows, slots);
    for (int slot = 0; slot < rows; slot++) {
        slots[count] = slot;
        count += !index_is_dead(w->version, s, slot);
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
    const sketch *ruling; /* that rules rows out now; NULL for none: … */
    int part;             /* … its part of the sieve */
    int searched;         /* by FAISS for k + 1 rows, with these results: */
    int found;            /* rows that FAISS gave */
    float last_rank;
} segment_answer;

/* ---- by FAISS ---- */

/* Whether FAISS can search a segment: not where it would find rows that the walk passes over,
** nor without vectors, and beyond some k it is slower than scoring the rows once. */
static int is_searchable(const index_walk *w, int s, int k)
{
    int most = w->version->dimension < LONG_DIMENSION ? SEARCH_MAX_K : FAISS_MAX_K;
    return k <= most && !passes_over_some(w, s) && segment_has_vectors(w->version->segments[s]);
}

/* Search a segment for k + 1 rows. */
static int search_segment(index_walk *w, int s, int k, segment_answer *answer, char **message)
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
        hits_insert(w, k, &hit);
    }
    unlock_hits(w);
    return SQLITE_OK;
}

/* ---- by sketches ---- */

enum {
    FIRST_CANDIDATES = 16, /* rows beyond k that are scored to learn how near the k-th is, … */
    FIRST_WIDTH = 4,       /* … the best of so many times as many; and once more, … */
    WORTH_NARROWING = 4,   /* … where so many times as many are left, … */
    NARROWING_SHARE = 4,   /* … no more than a quarter of all rows */
    /* Where more than a third of a segment's rows are left over, all of them are read in one
    ** go. Where the first line leaves more than half of all rows, it is a sixteenth of
    ** them that shows whether the others are worth looking at: not where a fifth would be left. */
    LEFT_OVER_SHARE = 3,
    PILOT_FROM = 2,
    PILOT_SHARE = 16,
    PILOT_LEFT_SHARE = 5
};

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

/* Score the `most` rows that are the most promising, to learn how near the k-th is. */
static int narrow(index_walk *w, int k, sieve *rows, int most, const scored_slots *room,
                  char **message)
{
    sieve_row *taken = sqlite3_malloc64((sqlite3_uint64)most * sizeof *taken);
    int count = taken ? sieve_take(rows, FIRST_WIDTH * most, most, taken) : -1, next = 0;
    int rc = count < 0 ? SQLITE_NOMEM : SQLITE_OK;
    while (rc == SQLITE_OK && next < count) {
        int part = taken[next].part, n = 0;
        for (; next < count && taken[next].part == part; next++)
            room->slots[n++] = taken[next].slot;
        rc = score_candidates(w, k, rows->parts[part].segment, room->slots, n, room->scores,
                              message);
    }
    sqlite3_free(taken);
    return rc == SQLITE_OK ? walk_check_now(w, message) : rc;
}

/* Forget the hits of a segment: all its rows are to be scored. */
static void forget_hits(index_walk *w, int64_t k, int s)
{
    lock_hits(w);
    index_hit *hits = w->hits;
    int64_t count = w->hit_count;
    w->hit_count = 0;
    for (int64_t i = 0; i < count; i++) {
        index_hit hit = hits[i]; /* its place may be taken by one before it */
        if (hit.segment != s)
            hits_insert(w, k, &hit);
    }
    unlock_hits(w);
}

/* Score the rows of a part that are left, outliers among them; or *all of the segment's, where
** that would be most. */
static int score_left(index_walk *w, int k, const sieve_part *p, const scored_slots *room, int *all,
                      char **message)
{
    int rows = w->set ? INT32_MAX : segment_count(w->version->segments[p->segment]);
    int rc = SQLITE_OK;
    *all = p->count + p->outlier_count > rows / LEFT_OVER_SHARE;
    if (*all)
        return SQLITE_OK;
    if (p->outlier_count)
        rc = score_candidates(w, k, p->segment, p->outliers, p->outlier_count, room->scores,
                              message);
    if (rc == SQLITE_OK && p->count)
        rc = score_candidates(w, k, p->segment, p->slots, p->count, room->scores, message);
    return rc;
}

/* Put the rows of the segments that have a sketch to be made use of into a sieve. */
static int fill_sieve(const index_walk *w, segment_answer *answers, sieve *rows)
{
    const index_version *v = w->version;
    int rc = SQLITE_OK;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        const dead_slots *dead = v->dead[s];
        if (!answers[s].ruling)
            continue;
        int count = segment_count(v->segments[s]);
        if (w->set)
            count = slots_of_walk(w, s, sieve_next_slots(rows));
        answers[s].part = rows->part_count;
        rc = sieve_add(rows, answers[s].ruling, s, count, w->set != NULL,
                       dead && !w->set ? dead->bits : NULL);
    }
    return rc;
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
static int search_plainly(index_walk *w, int k, int s, segment_answer *answer,
                          const scored_slots *room, char **message)
{
    scored_slots scored = *room;
    if (is_searchable(w, s, k))
        return search_segment(w, s, k, answer, message);
    int rc = score_segment(w, s, &scored, message);
    if (rc == SQLITE_OK)
        pick(w, k, s, &scored);
    return rc;
}

/* A search of all segments, by one thread or several. */
typedef struct segments_search {
    index_walk *walk;
    int k;
    segment_answer *answers; /* of each segment */
    scored_slots *rooms;     /* each thread works in one of these */
    sieve *rows;             /* of the segments whose sketches rule, … */
    int line;                /* … to be ruled out by this line … */
    int parts;               /* … from so many parts; … */
    int futile;              /* … 1 where all are to be scored */
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
    int rc = search_plainly(all->walk, all->k, s, &all->answers[s], &all->rooms[thread], &message);
    note_failure(all, rc, message);
}

/* Look at a segment's rows by the first line. */
static void step_look(segments_search *all, int s, int thread)
{
    (void)thread;
    if (all->answers[s].ruling)
        sieve_look(all->rows, all->answers[s].part);
}

/* Rule out rows of a segment by a line, and all before it. */
static void step_on(segments_search *all, int s, int thread)
{
    const segment_answer *answer = &all->answers[s];
    (void)thread;
    if (answer->ruling && answer->part < all->parts)
        sieve_go_on(all->rows, answer->part, all->line,
                    bound_of(all->walk, all->k, answer->ruling, all->rows->query));
}

/* Score what is left of a segment. */
static void step_finally(segments_search *all, int s, int thread)
{
    index_walk *w = all->walk;
    segment_answer *answer = &all->answers[s];
    int whole = all->futile, rc = SQLITE_OK;
    char *message = NULL;
    if (!answer->ruling)
        return;
    if (!whole)
        rc = score_left(w, all->k, &all->rows->parts[answer->part], &all->rooms[thread], &whole,
                        &message);
    if (rc == SQLITE_OK && whole) {
        forget_hits(w, all->k, s);
        rc = search_plainly(w, all->k, s, answer, &all->rooms[thread], &message);
    }
    note_failure(all, rc, message);
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

/* Rule out rows of some parts by a line, and all before it. */
static int go_on(segments_search *all, int parts, int line, char **message)
{
    all->parts = parts;
    all->line = line;
    return for_each_segment(all, step_on, message);
}

/* Whether the lines leave so much of a query's rows that it is not worth looking at them: where
** the first one does, the others are tried on some of the parts. */
static int find_futility(segments_search *all, int lines, char **message)
{
    const sieve *rows = all->rows;
    int64_t tried = 0, left = 0;
    int parts = 0;
    if (sieve_left(rows) <= rows->rows / PILOT_FROM)
        return SQLITE_OK;
    while (parts < rows->part_count && tried < rows->rows / PILOT_SHARE)
        tried += segment_count(all->walk->version->segments[rows->parts[parts++].segment]);
    int rc = go_on(all, parts, lines - 1, message);
    for (int i = 0; i < parts; i++)
        left += rows->parts[i].count;
    all->futile = left > tried / PILOT_LEFT_SHARE;
    return rc;
}

/* Rule out what can be ruled out. */
static int sift(segments_search *all, char **message)
{
    index_walk *w = all->walk;
    sieve *rows = all->rows;
    int lines = sketch_lines(rows->parts[0].of), next = all->k + FIRST_CANDIDATES, narrowed = 0;
    int rc = narrow(w, all->k, rows, next, &all->rooms[0], message);
    for (int line = 0; rc == SQLITE_OK && line < lines; line++) {
        rc = go_on(all, rows->part_count, line, message);
        if (rc == SQLITE_OK && line == 0)
            rc = find_futility(all, lines, message);
        if (all->futile)
            return rc;
        int64_t left = sieve_left(rows);
        if (rc != SQLITE_OK || narrowed || left > rows->rows / NARROWING_SHARE)
            continue;
        if (left > WORTH_NARROWING * (int64_t)next)
            rc = narrow(w, all->k, rows, next, &all->rooms[0], message);
        narrowed = 1;
    }
    return rc == SQLITE_OK ? go_on(all, rows->part_count, lines - 1, message) : rc;
}

/*
** The nearest k of the segments whose sketches rule. The first line of code of all rows says
** which to score first; the k-th score so far is a bound, and a row beyond it by one
** line or another is none of the nearest, whatever its score.
*/
static int search_by_sketches(segments_search *all, const query_sketch *query, char **message)
{
    const index_version *v = all->walk->version;
    sieve rows;
    all->rows = &rows;
    all->futile = 0;
    int rc = sieve_open(&rows, query, v->segment_count, v->slots);
    if (rc == SQLITE_OK)
        rc = fill_sieve(all->walk, all->answers, &rows);
    if (rc == SQLITE_OK)
        rc = for_each_segment(all, step_look, message);
    if (rc == SQLITE_OK)
        rc = sift(all, message);
    if (rc == SQLITE_OK)
        rc = for_each_segment(all, step_finally, message);
    sieve_close(&rows);
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

/* The most rows that sketches are asked for, where the vectors are in memory. */
static int64_t most_by_sketches(const index_walk *w)
{
    return w->count / SKETCH_SHARE > SEARCH_MAX_K ? w->count / SKETCH_SHARE : SEARCH_MAX_K;
}

/* Whether so many rows are worth searching for by the sketch of a segment, NULL for none. */
static int pays_by_sketch(const index_walk *w, int s, const sketch *own, int k)
{
    if (!own || w->set || !segment_has_vectors(w->version->segments[s]))
        return own != NULL;
    return k <= (double)w->count * basis_most_share(sketch_basis(own));
}

/* Search the segments without a sketch, then those with one: nearly always of one basis. */
static int search_segments(segments_search *all, char **message)
{
    const index_version *v = all->walk->version;
    for (int s = 0; s < v->segment_count; s++) {
        all->answers[s] = (segment_answer){.own = segment_hold_sketch(v->segments[s])};
        if (!pays_by_sketch(all->walk, s, all->answers[s].own, all->k))
            all->answers[s].own = NULL;
    }
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
    all->rooms = sqlite3_malloc64((sqlite3_uint64)threads * sizeof *all->rooms);
    for (int i = 0; all->rooms && i < threads; i++)
        all->rooms[i] = (scored_slots){0};
    if (!all->answers || !all->rooms)
        return SQLITE_NOMEM;
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < threads; i++)
        rc = scored_slots_open(&all->rooms[i], v);
    return rc;
}

static void close_rooms(segments_search *all, int threads)
{
    for (int i = 0; all->rooms && i < threads; i++)
        scored_slots_close(&all->rooms[i]);
    sqlite3_free(all->answers);
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
    if (index_walks_by_sketches(v) && w->set && w->count >= v->slots / SKETCH_SET_SHARE)
        return most_by_sketches(w);
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

/* The rows found so far were not enough: find more of them, or score all. */
static int walk_deepen(index_walk *w, char **message)
{
    int64_t deeper = w->hit_count * DEEPER;
    int64_t most = w->set ? most_searched(w) : most_by_sketches(w);
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
