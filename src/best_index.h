/*
** xBestIndex: the plan of a query on a faiss table (plan.h), what it takes of the constraints
** (constraints.h), and its price, by which SQLite chooses the order of joins: such that the search
** drives a join and B-trees do the look-ups.
*/
#ifndef BEST_INDEX_H
#define BEST_INDEX_H

#include "plan.h"

/* Fill in everything that xBestIndex answers. SQLITE_OK, SQLITE_CONSTRAINT where
** a value that is needed cannot be had in this order of joins, SQLITE_NOMEM, or
** SQLITE_ERROR with a message. */
int best_index(plan_table *t, sqlite3_index_info *info, char **message);

/* A statement runs: what SQLite offered for it says nothing about the next one. */
void best_index_forget_offer(plan_table *t);

#endif
