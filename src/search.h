/*
** One search: the rows of an index nearest first, as far as a filter lets them
** through, in one of two plans.
**
** Set first: SQLite finds the rows that the filter allows, by its own indexes,
** and only these are searched. Rows first: all rows are walked, and SQLite is asked
** about each. The former is taken where an index of the source answers the filter
** and it allows few rows; the latter otherwise, until so many rows were refused
** that the former is cheaper. The rows are the same, and so is their order.
**
** An approximate search takes its candidates from the source's approximate index, where there is
** one and it pays. Its first `depth` rows come nearest first; what comes behind them is
** nearest first in runs.
*/
#ifndef SEARCH_H
#define SEARCH_H

#include "filter.h"
#include "probe.h"
#include "snapshot.h"

typedef struct search {
    snapshot *snapshot; /* whose version is searched */
    vector query;
    int64_t depth; /* rows expected to be read */
    filter filter;
    int by_index;       /* an index of the source answers the filter */
    sqlite3_stmt *keys; /* the rows that the filter allows; may stand in the middle */
    sqlite3_stmt *test; /* whether it allows one row; NULL before one is tested */
    row_set set;        /* those of `keys` so far */
    int set_complete;
    index_walk *walk; /* over the set if it is complete, else over all rows; or … */
    probe *probe;     /* … an approximate one */
    int64_t position; /* in the walk */
    int64_t refused;  /* rows that did not pass the test */
    int64_t given;    /* rows handed out */
    int is_approximate;
    search_effort effort; /* then */
    index_hit *gathered;  /* of an approximate search with a test: the first rows, in order */
    int64_t gathered_count;
    int has_gathered;
    row_set handed; /* beyond them: rows that must not come again */
} search;

/* Begin a search in a snapshot whose version is there and not empty, or begin
** again: with the same query and filter from the first row, at no cost; with the
** same filter reusing the set and the statements. Takes over *f and *query.
** `search` is all zeros before the first call. `effort` is that of an approximate search,
** complete; NULL for an exact one. */
int search_begin(search *s, snapshot *in, filter *f, vector *query, int64_t depth,
                 const search_effort *effort, char **message);

/* The next row: SQLITE_ROW, SQLITE_DONE, or an error with its message. */
int search_next(search *s, index_hit *hit, char **message);

/* Finalize its statements and free what it keeps; safe where all is zero. */
void search_close(search *s);

#endif
