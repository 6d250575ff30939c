/*
** Which of the constraints that SQLite offers to xBestIndex a plan takes: those that give it its
** values (vector, k, limit, …), and those that its search answers, the terms. What is left SQLite
** checks itself, row by row. What taking them costs: best_index.h.
*/
#ifndef CONSTRAINTS_H
#define CONSTRAINTS_H

#include "plan.h"

/* SQLite checks constraints beyond so many again, whatever `omit` says. */
enum { CONSTRAINTS_OMITTED = 16 };

/* What is chosen of the constraints, by their numbers: the one for each value (-1 for none), and
** those that become terms. */
typedef struct choice {
    plan_kind kind;
    int constraint[PLAN_VALUES];
    int terms[PLAN_TERMS_MOST];
    int term_count;
    int row;   /* the last constraint that gives an id or rowid, -1 for none */
    int waits; /* a constraint on a source column cannot be had in this order */
} choice;

/* Choose. SQLITE_OK; SQLITE_CONSTRAINT where a vector, k or argument is there but cannot be had in
** this order of joins; SQLITE_ERROR with a message for what can never be answered; SQLITE_NOMEM. */
int choice_make(const plan_table *t, sqlite3_index_info *info, choice *out, char **message);

/* The kind of plan that the constraints from number `from` on make. */
plan_kind choice_kind(const choice *chosen, int from);

/* Whether the plan uses a value, if a constraint gives it. */
int choice_uses(const choice *chosen, plan_value value);

/* Whether the search answers all constraints, so that SQLite leaves out no row. */
int choice_takes_all(const choice *chosen, const sqlite3_index_info *info);

/* Which value a constraint would supply, -1 for none. */
int constraint_value(const plan_table *t, const struct sqlite3_index_constraint *c);

/* The comparison of constraint `i`, -1 for those left to SQLite; *collates: whether a collation
** plays a part in it. */
int constraint_operator(sqlite3_index_info *info, int i, int *collates);

/* What a constraint on a column of the table is on, as in a plan_term: *on; 0 if it is on nothing
** that filters. */
int constraint_on(const plan_table *t, int column, int *on);

#endif
