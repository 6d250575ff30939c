/*
** Trying a basis: what a search would cost by it, found out from some queries and how near the
** rows of the table are to them.
*/
#ifndef BASIS_TRIAL_H
#define BASIS_TRIAL_H

#include "basis.h"

/* A sample and what the basis makes of it. */
typedef struct trial_sample {
    const float *vectors;
    int count;
    const float *p;
    const double *z_squared;
} trial_sample;

typedef struct trial_result {
    double cost;       /* below 1 where sketches are of use, … */
    int lines;         /* … with so many lines of the basis's own, … */
    double most_share; /* … for searches for no more than this share of the rows */
} trial_result;

/* Without trials rows of the sample are the queries, and as near as the sample shows. The
** same arguments give the same answer on every machine. SQLITE_OK or SQLITE_NOMEM. */
int trial_cost(const basis *b, vector_metric metric, const trial_sample *sample,
               const basis_trials *trials, trial_result *result);

#endif
