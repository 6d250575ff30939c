/*
** How many of the nearest rows an approximate index finds, and in what time: searches for
** some of the table's own rows, by it and by exact search, compared.
**
** A sample is made once, with its exact answers; any number of efforts are measured on it.
*/
#ifndef RECALL_H
#define RECALL_H

#include "search.h"

/* Some rows of a version as queries, and how far away the last of the k nearest is. Empty is all
** zeros. */
typedef struct recall_sample {
    int count; /* queries; 0 where the table has no rows */
    int dimension;
    int64_t k;       /* rows that each is to find: no more than there are */
    float *vectors;  /* as the metric stores them */
    float *farthest; /* walk_rank_of() the k-th nearest row's score */
    double *seconds; /* room for the times of one measurement */
    double exact_ms; /* the median time of an exact search */
} recall_sample;

typedef struct recall_measured {
    double recall; /* the share of the k nearest rows that were found, on average */
    double ms;     /* the median time of a search */
    int by_index;  /* searches that the approximate index answered; the others were exact */
} recall_measured;

/* Take `most` rows (or all, if there are fewer) from all over the snapshot's version, always the
** same for the same version, and search for the k nearest to each exactly. A row
** finds itself, too. On failure a message; SQLITE_MISMATCH where the source has
** other rows than the version. Holds `most` vectors. */
int recall_sample_open(snapshot *s, int64_t k, int most, recall_sample *out, char **message);

/* Search for the same by the approximate index, built beforehand if need be, as a search with
** this effort, which is complete, would. */
int recall_measure(const recall_sample *r, snapshot *s, const search_effort *effort,
                   recall_measured *out, char **message);

/* Free it, and make it empty. */
void recall_sample_close(recall_sample *r);

#endif
