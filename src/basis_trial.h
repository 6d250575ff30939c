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

/* *cost is below 1 where sketches are of use with some number of lines, *lines of the basis's
** own. Without trials rows of the sample are the queries, and as near as the sample shows. The
** same arguments give the same answer on every machine. SQLITE_OK or SQLITE_NOMEM. */
int trial_cost(const basis *b, vector_metric metric, const trial_sample *sample,
               const basis_trials *trials, double *cost, int *lines);

#endif
