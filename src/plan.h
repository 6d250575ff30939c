/*
** The plan of one query on a faiss table: made in xBestIndex from the
** constraints that SQLite offers, carried in idxNum and idxStr, read back in
** xFilter. This file alone writes and reads that text.
**
** idxNum is the kind. idxStr is the kind's name and then, for each value that
** xFilter receives, in this order, the name of what it is:
**
**   kind     values                   rows
**   scan                              those indexed, in source order, no scores
**   lookup   id | rowid               those with this id or rowid, no scores
**   knn      vector k                 the k nearest
**   stream   vector [limit [offset]]  all, nearest first, as far as they are read
**   point    vector id | rowid        those with this id or rowid, scored
**
** The table-valued function has its values `database` and `table` before these.
** EXPLAIN QUERY PLAN shows both, as "VIRTUAL TABLE INDEX 2:knn vector k".
*/
#ifndef PLAN_H
#define PLAN_H

#include "vector.h"

typedef enum plan_kind { PLAN_SCAN, PLAN_LOOKUP, PLAN_KNN, PLAN_STREAM, PLAN_POINT } plan_kind;
enum { PLAN_KINDS = 5 };

typedef enum plan_value {
    PLAN_DATABASE,
    PLAN_TABLE,
    PLAN_VECTOR,
    PLAN_NEIGHBOURS, /* k */
    PLAN_ID,
    PLAN_ROWID,
    PLAN_LIMIT,
    PLAN_OFFSET
} plan_value;
enum { PLAN_VALUES = 8 };

typedef struct plan {
    plan_kind kind;
    int at[PLAN_VALUES]; /* which of xFilter's values it is, -1 if absent */
} plan;

/* What xBestIndex must know of the table. Column numbers are -1 for columns it
** does not have. */
typedef struct plan_table {
    const char *name;
    int id, score, distance, vector, neighbours, database, table;
    int has_rowid;    /* rowids are those of the source */
    int id_is_rowid;  /* ties come in the order of ids */
    int metric_known; /* the order of `score` can be told */
    vector_metric metric;
    sqlite3_int64 rows; /* an estimate */
    const char *id_collation;
} plan_table;

/* Fill in everything that xBestIndex answers. SQLITE_OK, SQLITE_CONSTRAINT where
** a value that is needed cannot be had in this order of joins, SQLITE_NOMEM, or
** SQLITE_ERROR with a message. */
int plan_best_index(const plan_table *t, sqlite3_index_info *info, char **message);

/* Read a plan back; `count` is the number of values. SQLITE_CORRUPT where the
** text is none of ours. */
int plan_decode(int number, const char *text, int count, plan *out);

#endif
