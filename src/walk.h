/*
** A walk over the rows of an index, nearest first: over all of them, or over a
** set. However it is asked, every row comes once, and equal scores come in
** source order.
*/
#ifndef WALK_H
#define WALK_H

#include <math.h>

#include "row_set.h"

/* One row found. */
typedef struct index_hit {
    float score;
    int segment, slot;
    int64_t key; /* rowid, or the number of the row where values are kept */
} index_hit;

/*
** It holds a reference to its version. Where it is known that few rows will be
** asked for (`depth`), they come from a search, by sketches or by FAISS; if it turns out
** that some more are asked for, sketches find eight times as many. Where one cannot
** tell, they find the first few, then about a thousand, and go on like that. Otherwise, and beyond
** that, every row is scored once; the nearest are picked out on the way, and the rest is put in
** order as far as it is asked for. Reading all n rows costs the first searches, one scan, and one
** heap sort.
*/
typedef struct index_walk index_walk;

/* Begin a walk, of which `depth` rows are expected to be read (WALK_UNKNOWN: one
** cannot tell). `query` has the version's dimension and is copied, normalized for
** cosine. `set` may be NULL; it is to outlive the walk. `reader` is NULL or copied;
** what it fails with ends the walk. */
enum { WALK_UNKNOWN = -1 };
int index_walk_open(index_version *v, const float *query, const row_set *set, int64_t depth,
                    const vector_reader *reader, index_walk **out, char **message);

/* The same from the row at a position, whose stored vector is the query. */
int index_walk_open_row(index_version *v, int64_t position, int64_t depth,
                        const vector_reader *reader, index_walk **out, char **message);

/* The i-th row (from 0); i grows by at most one from call to call, or goes back.
** SQLITE_ROW, SQLITE_DONE or an error with its message. */
int index_walk_at(index_walk *w, int64_t i, index_hit *hit, char **message);
void index_walk_close(index_walk *w);

/* Whether the first rows of a walk cost much less than all of them. */
int index_walks_by_sketches(const index_version *v);

/* What rows are ordered by: smaller is nearer for every metric; NaN (the inner
** product of huge numbers of both signs) comes last. */
static inline float walk_rank_of(vector_metric metric, float score)
{
    float rank = metric == METRIC_KIND_L2 ? score : -score;
    return isnan(rank) ? INFINITY : rank;
}

/* The row at a position; its score is 0. */
index_hit index_row(const index_version *v, int64_t position);

/* The i-th value kept with a row found. */
row_value index_hit_value(const index_version *v, const index_hit *hit, int i);

#endif
