#include "walk_inside.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "sieve.h"
#include "workers.h"

enum {
    /* FAISS finds up to SEARCH_MAX_K rows as long as a heap in every segment is cheaper than going
    ** through the scores of all rows, … */
    FAISS_MAX_K = 24,       /* … which is so many rows … */
    LONG_DIMENSION = 256,   /* … of vectors as long as this */
    SKETCH_SHARE = 24,      /* sketches find up to a 24th of all rows */
    SKETCH_BYTES = 64,      /* read of each row with a sketch */
    THREADS_BYTES = 4 << 20 /* less is read by one thread before another one is awake */
};

/* What the first search knows of one segment. */
typedef struct segment_answer {
    const sketch *own; /* its sketch that rules rows out; NULL for none: … */
    int alike;         /* … it is in this group of segments, … */
    int part;          /* … as this part of the group's sieve */
    int searched;      /* by FAISS for k + 1 rows, with these results: */
    int found;         /* rows that FAISS gave */
    float last_rank;
} segment_answer;

/* Segments whose sketches are of one basis. */
typedef struct alike_segments {
    const basis *basis;
    int segments;
    int64_t rows;
    query_sketch *query;
    sieve sieve;
} alike_segments;

/* Nearly always there is one basis. Segments of more than so many are searched plainly. */
enum { ALIKE_MOST = 12 };

/* ---- by FAISS ---- */

/* Whether FAISS can search a segment: not where it would find rows that the walk passes over,
** nor without vectors, and beyond some k it is slower than scoring the rows once. */
static int is_searchable(const index_walk *w, int s, int k)
{
    int most = w->version->dimension < LONG_DIMENSION ? SEARCH_MAX_K : FAISS_MAX_K;
    return k <= most && !walk_passes_over_some(w, s) &&
           segment_has_vectors(w->version->segments[s]);
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
    walk_lock_hits(w);
    for (int i = 0; i < answer->found; i++) {
        index_hit hit = {scores[i], s, (int)slots[i], index_key(v, s, (int)slots[i])};
        answer->last_rank = walk_rank_of(v->metric, hit.score);
        walk_take_in(w, k, &hit);
    }
    walk_unlock_hits(w);
    return SQLITE_OK;
}

/* ---- by sketches ---- */

enum {
    FIRST_CANDIDATES = 16, /* rows beyond k that are scored to learn how near the k-th is, … */
    FIRST_WIDTH = 4,       /* … the best of so many times as many; and once more, … */
    AGAIN_SHARE = 8,       /* … beyond an 8th of k, … */
    WORTH_NARROWING = 4,   /* … where so many times as many as the first are left, … */
    NARROWING_SHARE = 4,   /* … no more than a quarter of all rows */
    FEW_LEFT = 64,         /* rows beyond k are scored as fast as another line is looked at */
    /* Where more than a third of a segment's rows are left over, all of them are read in one
    ** go. Where the first line leaves more than half of all rows, it is a sixteenth of
    ** them that shows whether the others are worth looking at: not where a third would be left. */
    LEFT_OVER_SHARE = 3,
    PILOT_FROM = 2,
    PILOT_SHARE = 16,
    PILOT_LEFT_SHARE = 3
};

/* How near a row of a sketch must be to be among the nearest k, by the k-th so far. */
static double bound_of(const index_walk *w, int k, const sketch *of, const query_sketch *query)
{
    walk_lock_hits(w);
    double bound = w->hit_count < k ? INFINITY : sketch_bound(of, query, w->hits[0].score);
    walk_unlock_hits(w);
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
        walk_pick(w, k, s, &scored);
    return rc;
}

/* Score the `most` rows that are the most promising, to learn how near the k-th is. */
static int narrow(index_walk *w, int k, sieve *rows, int most, const scored_slots *room,
                  char **message)
{
    sieve_row *taken = sqlite3_malloc64((sqlite3_uint64)most * sizeof *taken);
    int count = taken ? sieve_take(rows, FIRST_WIDTH * most, most, taken) : -1;
    int rc = count < 0 ? SQLITE_NOMEM : SQLITE_OK, next = 0, fetched = 0;
    while (rc == SQLITE_OK && next < count) {
        int part = taken[next].part, n = 0;
        for (; fetched < count && fetched < next + FETCH_AHEAD; fetched++)
            segment_fetch(w->version->segments[rows->parts[taken[fetched].part].segment],
                          taken[fetched].slot);
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
    walk_lock_hits(w);
    index_hit *hits = w->hits;
    int64_t count = w->hit_count;
    w->hit_count = 0;
    for (int64_t i = 0; i < count; i++) {
        index_hit hit = hits[i]; /* its place may be taken by one before it */
        if (hit.segment != s)
            walk_take_in(w, k, &hit);
    }
    walk_unlock_hits(w);
}

/* Fetch the first rows that are left of the part behind this one. */
static void fetch_next(const index_walk *w, const sieve *rows, int part)
{
    if (w->threads > 1 || part + 1 >= rows->part_count)
        return;
    const sieve_part *p = &rows->parts[part + 1];
    for (int i = 0; i < p->count && i < FETCH_AHEAD; i++)
        segment_fetch(w->version->segments[p->segment], (int)p->slots[i]);
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

/* Put the rows of a group's segments into its sieve. */
static int fill_sieve(const index_walk *w, segment_answer *answers, int group, sieve *rows)
{
    const index_version *v = w->version;
    int rc = SQLITE_OK;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        const dead_slots *dead = v->dead[s];
        if (!answers[s].own || answers[s].alike != group)
            continue;
        int count = segment_count(v->segments[s]);
        if (w->set)
            count = walk_slots(w, s, sieve_next_slots(rows));
        answers[s].part = rows->part_count;
        rc = sieve_add(rows, answers[s].own, s, count, w->set != NULL,
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
        float worst = w->hit_count ? walk_farthest_rank(w) : 0;
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
    int rc = walk_score_segment(w, s, &scored, message);
    if (rc == SQLITE_OK)
        walk_pick(w, k, s, &scored);
    return rc;
}

/* A search of all segments, by one thread or several. */
typedef struct segments_search {
    index_walk *walk;
    int k;
    segment_answer *answers; /* of each segment */
    scored_slots *rooms;     /* each thread works in one of these */
    alike_segments alike[ALIKE_MOST];
    int alike_count;
    int group;   /* of these: the one whose sketches rule rows out now … */
    sieve *rows; /* … of these, … */
    int line;    /* … by this line … */
    int parts;   /* … from so many parts; … */
    int futile;  /* … 1 where all are to be scored */
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
    if (all->answers[s].own)
        return;
    int rc = search_plainly(all->walk, all->k, s, &all->answers[s], &all->rooms[thread], &message);
    note_failure(all, rc, message);
}

/* Whether it is the turn of a segment's sketch. */
static int is_in_group(const segments_search *all, int s)
{
    return all->answers[s].own && all->answers[s].alike == all->group;
}

/* Look at a segment's rows by the first line. */
static void step_look(segments_search *all, int s, int thread)
{
    (void)thread;
    if (is_in_group(all, s))
        sieve_look(all->rows, all->answers[s].part);
}

/* Rule out rows of a segment by a line, and all before it. */
static void step_on(segments_search *all, int s, int thread)
{
    const segment_answer *answer = &all->answers[s];
    (void)thread;
    if (is_in_group(all, s) && answer->part < all->parts && all->rows->parts[answer->part].count)
        sieve_go_on(all->rows, answer->part, all->line,
                    bound_of(all->walk, all->k, answer->own, all->rows->query));
}

/* Score what is left of a segment. */
static void step_finally(segments_search *all, int s, int thread)
{
    index_walk *w = all->walk;
    segment_answer *answer = &all->answers[s];
    int whole = all->futile, rc = SQLITE_OK;
    char *message = NULL;
    if (!is_in_group(all, s))
        return;
    if (!whole)
        fetch_next(w, all->rows, answer->part);
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

/* The rows of a group that are scored first. */
static int rows_first(const segments_search *all)
{
    return all->k + FIRST_CANDIDATES;
}

/* Rule out what can be ruled out. */
static int sift(segments_search *all, char **message)
{
    index_walk *w = all->walk;
    sieve *rows = all->rows;
    int lines = sketch_lines(rows->parts[0].of), narrowed = 0, line = 0, rc = SQLITE_OK;
    int again = all->k / AGAIN_SHARE + FIRST_CANDIDATES;
    int in_memory = segment_has_vectors(w->version->segments[rows->parts[0].segment]);
    int64_t left = rows->rows, few = in_memory ? all->k + FEW_LEFT : 0;
    for (; rc == SQLITE_OK && line < lines && left > few; line++) {
        rc = go_on(all, rows->part_count, line, message);
        if (rc == SQLITE_OK && line == 0)
            rc = find_futility(all, lines, message);
        if (all->futile)
            return rc;
        left = sieve_left(rows);
        if (rc != SQLITE_OK || narrowed || left > rows->rows / NARROWING_SHARE)
            continue;
        if (left > WORTH_NARROWING * (int64_t)rows_first(all))
            rc = narrow(w, all->k, rows, again, &all->rooms[0], message);
        narrowed = 1;
    }
    int reached = line > 0 ? line - 1 : 0;
    return rc == SQLITE_OK ? go_on(all, rows->part_count, reached, message) : rc;
}

/* Search a group's segments without the help of their codes: the query is too far from the data
** for its code to be worth comparing. It may be so far that none of the rows is among the
** nearest. */
static int search_group_plainly(segments_search *all, char **message)
{
    index_walk *w = all->walk;
    const query_sketch *query = all->alike[all->group].query;
    int rc = SQLITE_OK;
    for (int s = 0; rc == SQLITE_OK && s < w->version->segment_count; s++) {
        segment_answer *answer = &all->answers[s];
        if (!is_in_group(all, s) ||
            sketch_is_beyond(answer->own, query, bound_of(w, all->k, answer->own, query)))
            continue;
        rc = search_plainly(w, all->k, s, answer, &all->rooms[0], message);
        if (rc == SQLITE_OK)
            rc = walk_check_now(w, message);
    }
    return rc;
}

/* Search a group's segments with the help of their codes. */
static int search_alike(segments_search *all, char **message)
{
    all->rows = &all->alike[all->group].sieve;
    all->futile = 0;
    int rc = sift(all, message);
    return rc == SQLITE_OK ? for_each_segment(all, step_finally, message) : rc;
}

/* Look at the rows of a group by the first line of code, and score the most promising. */
static int look_at_group(segments_search *all, char **message)
{
    index_walk *w = all->walk;
    alike_segments *g = &all->alike[all->group];
    int rc = query_sketch_new(g->basis, w->version->metric, w->query, &g->query);
    if (rc != SQLITE_OK || !query_sketch_fits(g->query))
        return rc;
    all->rows = &g->sieve;
    rc = sieve_open(&g->sieve, g->query, g->segments, g->rows);
    if (rc == SQLITE_OK)
        rc = fill_sieve(w, all->answers, all->group, &g->sieve);
    if (rc == SQLITE_OK)
        rc = for_each_segment(all, step_look, message);
    return rc == SQLITE_OK ? narrow(w, all->k, &g->sieve, rows_first(all), &all->rooms[0], message)
                           : rc;
}

/*
** The nearest k of the segments with sketches. The first line of code of all rows says
** which to score first; the k-th score so far is a bound, and a row beyond it by one
** line or another is none of the nearest, whatever its score. Groups are looked at first, all of
** them: how near a row must be is not to come from one that has nothing near.
*/
static int search_groups(segments_search *all, char **message)
{
    int rc = SQLITE_OK;
    for (all->group = 0; rc == SQLITE_OK && all->group < all->alike_count; all->group++)
        rc = look_at_group(all, message);
    for (all->group = 0; rc == SQLITE_OK && all->group < all->alike_count; all->group++)
        rc = all->alike[all->group].sieve.part_count ? search_alike(all, message)
                                                     : search_group_plainly(all, message);
    for (int i = 0; i < all->alike_count; i++) {
        sieve_close(&all->alike[i].sieve);
        query_sketch_free(all->alike[i].query);
    }
    return rc;
}

/* Put a segment with a sketch into the group of those that are alike. */
static void put_into_group(segments_search *all, int s)
{
    segment_answer *answer = &all->answers[s];
    const basis *b = sketch_basis(answer->own);
    int i = 0;
    while (i < all->alike_count && all->alike[i].basis != b)
        i++;
    if (i == ALIKE_MOST) {
        answer->own = NULL;
        return;
    }
    if (i == all->alike_count)
        all->alike[all->alike_count++] = (alike_segments){.basis = b};
    all->alike[i].segments++;
    all->alike[i].rows += segment_count(all->walk->version->segments[s]);
    answer->alike = i;
}

/* The most rows that sketches are asked for, where the vectors are in memory. */
int64_t walk_most_by_sketches(const index_walk *w)
{
    return w->count / SKETCH_SHARE > SEARCH_MAX_K ? w->count / SKETCH_SHARE : SEARCH_MAX_K;
}

/* Whether so many rows are worth searching for by the sketch of a segment, NULL for none. */
int walk_pays_by_sketch(const index_walk *w, int s, const sketch *own, int k)
{
    if (!own || w->set || !segment_has_vectors(w->version->segments[s]))
        return own != NULL;
    return k <= (double)w->count * basis_most_share(sketch_basis(own));
}

/* Search the segments without a sketch, then those with one. */
static int search_segments(segments_search *all, char **message)
{
    const index_version *v = all->walk->version;
    for (int s = 0; s < v->segment_count; s++) {
        segment_answer *answer = &all->answers[s];
        *answer = (segment_answer){.own = segment_hold_sketch(v->segments[s])};
        if (!walk_pays_by_sketch(all->walk, s, answer->own, all->k))
            answer->own = NULL;
        if (answer->own)
            put_into_group(all, s);
    }
    int rc = for_each_segment(all, step_plainly, message);
    if (rc == SQLITE_OK)
        rc = search_groups(all, message);
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
        rc = walk_room_open(&all->rooms[i], v);
    return rc;
}

static void close_rooms(segments_search *all, int threads)
{
    for (int i = 0; all->rooms && i < threads; i++)
        walk_room_close(&all->rooms[i]);
    sqlite3_free(all->answers);
    sqlite3_free(all->rooms);
}

/*
** Merge the nearest k of all segments. They are certain unless FAISS may have left out
** rows: some that tie with the last one it gives matter if the k-th ties with it, and it
** gives none at infinite distance. If they are not, there are no hits and ranking all rows
** decides.
*/
int walk_search(index_walk *w, int k, char **message)
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
    walk_sort_hits(w);
    close_rooms(&all, w->threads);
    w->lock = NULL;
    pthread_mutex_destroy(&lock);
    workers_leave(entered);
    return rc;
}
