/*
** A filter: the terms of a plan with their values, as SQL on the source.
**
** SQLite hands over the right-hand side of a comparison without the affinity
** that it would apply itself, and checks each row again afterwards. So the SQL
** here may let through a row too many, never one too few: where the affinity of the
** other side is unknown and matters (a number for a TEXT column; a column that
** converts nothing, compared across types), it lets through the rows in doubt, or
** the term is left to SQLite. With k, which counts the rows let through, the other
** side is taken to have no affinity, as constants and parameters have none.
*/
#ifndef FILTER_H
#define FILTER_H

#include "plan.h"

typedef struct filter {
    char *sql;              /* " AND (...) AND (...)"; NULL if it lets everything through */
    sqlite3_value **values; /* bound from ?2 on; owned */
    int count;
    int is_loose; /* it may let rows through that SQLite leaves out afterwards */
} filter;

/* Make the filter of the plan's terms on source columns, id and rowid. `rowid` and
** `id` are their SQL names, as in "s.rowid"; `bare_id` is the id without affinity and
** collation, where the table declares it without any, else NULL. A list with more values than
** `most` is left to SQLite, or, with k, an error. */
int filter_open(const plan *p, const plan_table *t, const char *rowid, const char *id,
                const char *bare_id, int most, sqlite3_value **argv, filter *out, char **message);
void filter_close(filter *f);

/* Bind the values to a statement made of the text. */
int filter_bind(const filter *f, sqlite3_stmt *statement);

/* Whether a statement made of one serves the other, with other values. */
int filter_same_text(const filter *a, const filter *b);

/* Whether both let through the same rows of the same state: equal text, and equal
** values of equal types. */
int filter_equal(const filter *a, const filter *b);

#endif
