/*
** The neighbours of one row, once it is known how near the groups of all rows are to it (tiles.h).
**
** The rows of the nearest groups are scored; the k-th score is a radius, and by their codes
** (exact.h) all rows that may be within it are found, and scored.
*/
#ifndef NEIGHBOUR_SEEKER_H
#define NEIGHBOUR_SEEKER_H

#include "exact.h"
#include "walk.h"

/* What is the same for every row, and borrowed by who seeks. */
typedef struct neighbour_scope {
    const index_version *version;
    sketch *rows;      /* of all its rows, by their positions */
    int64_t *outliers; /* positions of rows whose codes say nothing, ascending */
    int outlier_count;
    int groups; /* of rows */
    int k;
    int most; /* candidates that are worth scoring */
} neighbour_scope;

typedef struct integer_row integer_row;
typedef struct scored_row scored_row;

/* What one thread works with. */
typedef struct neighbour_seeker {
    integer_row *near, *nearer; /* the nearest groups, and of their rows the nearest */
    int64_t *positions;         /* candidates … */
    int32_t *distances;         /* … and how near they may be */
    float *scores;              /* of those of one segment */
    scored_row *scored;
} neighbour_seeker;

/* SQLITE_OK, or SQLITE_NOMEM; then it is to be closed all the same. */
int neighbour_seeker_open(neighbour_seeker *w, const neighbour_scope *t);
void neighbour_seeker_close(neighbour_seeker *w);

/* Write the neighbours of the row at a position, which is no outlier: k hits, nearest first.
** `least` has the least distance to it of each group. SQLITE_OK; SQLITE_DONE where too many rows
** may be as near, and SQLITE_NOTFOUND where codes do not tell which: then it must be searched
** alone; or an error. */
int neighbour_seeker_answer(neighbour_seeker *w, const neighbour_scope *t, int64_t position,
                            const int32_t *least, index_hit *hits);

#endif
