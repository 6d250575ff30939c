/*
** What a walk holds (walk.h), for the files that its work is divided into: the nearest rows are
** found by walk_search.c, all rows put in order by walk_ranking.c, both with the scores of
** walk_scores.c; walk.c says how many, and when.
*/
#ifndef WALK_INSIDE_H
#define WALK_INSIDE_H

#include <pthread.h>

#include "walk.h"

enum {
    /* So many rows are searched for before all are put in order. */
    SEARCH_MAX_K = 128,
    FETCH_AHEAD = 32 /* so many rows that lie apart are fetched before they are scored */
};

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
    int picks;             /* so many are picked out where all are scored */
    int is_stream;         /* one could not tell how many rows would be read */
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

/* The rows of one segment that a walk comes to, with their scores. */
typedef struct scored_slots {
    float *scores;
    int64_t *slots; /* where `listed`; else they are 0, 1, ... */
    int count, listed;
} scored_slots;

/* Ask the reader whether to go on. */
int walk_check_now(const index_walk *w, char **message);

/* ---- walk_scores.c ---- */

/* Take in a hit that is among the nearest `k`: it must come while they are a heap. */
void walk_take_in(index_walk *w, int64_t k, const index_hit *hit);
/* All are found: put them in order. */
void walk_sort_hits(index_walk *w);
/* The rank of the farthest of them, while they are a heap. */
float walk_farthest_rank(const index_walk *w);
/* Where several threads search, only one may look at the hits at a time. */
void walk_lock_hits(const index_walk *w);
void walk_unlock_hits(const index_walk *w);

/* Room for the rows of any segment. SQLITE_OK or SQLITE_NOMEM. */
int walk_room_open(scored_slots *out, const index_version *v);
void walk_room_close(scored_slots *scored);
/* The slot of the i-th row scored. */
int walk_scored_slot(const scored_slots *scored, int i);

/* Whether the walk passes over some slots of a segment; the others, written to `slots`. */
int walk_passes_over_some(const index_walk *w, int s);
int walk_slots(const index_walk *w, int s, int64_t *slots);

/* Score the rows of segment `s` that the walk comes to. A result code, with a message. */
int walk_score_segment(index_walk *w, int s, scored_slots *out, char **message);
/* Take in those just scored that are among the nearest k so far. */
void walk_pick(index_walk *w, int64_t k, int s, const scored_slots *scored);

/* ---- walk_search.c ---- */

/* Find the nearest k rows, by sketches or by FAISS: w->hits, or none where it is not certain that
** they are the nearest. A result code, with a message. */
int walk_search(index_walk *w, int k, char **message);
/* The most rows that sketches are asked for, where the vectors are in memory. */
int64_t walk_most_by_sketches(const index_walk *w);
/* Whether so many rows are worth searching for by the sketch of a segment, NULL for none. */
int walk_pays_by_sketch(const index_walk *w, int s, const sketch *own, int k);

/* ---- walk_ranking.c ---- */

/* Score every row of the walk; pick out the nearest, unless they are known. A result code, with a
** message. */
int walk_score(index_walk *w, char **message);
/* The i-th row of all, once they are scored; i as in index_walk_at(). */
void walk_rank(index_walk *w, int64_t i, index_hit *hit);

#endif
