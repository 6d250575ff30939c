/*
** A walk whose rows come from an approximate index: candidates by what it knows of them,
** scored again by their vectors, and the rows that it lacks beside them.
**
** The first rows are those that were asked for, nearest first. Whoever reads on gets more,
** in runs of twice as many, each of them nearest first: a row that is found late comes
** when it is found, with its own score. No row comes twice, and none is left out: beyond
** some share of all rows, the others are scored one by one.
*/
#ifndef PROBE_H
#define PROBE_H

#include "cover.h"
#include "walk.h"

typedef struct probe probe;

/* Whether an approximate search is worth it for so many rows (PROBE_SOME: one cannot tell) of
** the version, or of a set; otherwise scoring them all is as fast, and exact. */
enum { PROBE_SOME = 32 };
int probe_pays(const coverage *c, const index_version *v, const float *query, const row_set *set,
               int64_t depth, const search_effort *effort);

/* Begin; arguments as for index_walk_open(). `effort` is complete. */
int probe_open(index_version *v, coverage *c, const search_effort *effort, const float *query,
               const row_set *set, int64_t depth, const vector_reader *reader, probe **out,
               char **message);

/* The i-th row (from 0); i grows by at most one from call to call, or goes back.
** SQLITE_ROW, SQLITE_DONE or an error with its message. */
int probe_at(probe *p, int64_t i, index_hit *hit, char **message);
void probe_close(probe *p);

#endif
