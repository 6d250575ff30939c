/*
** The plan of one query on a faiss table: made in xBestIndex (best_index.h) from the
** constraints that SQLite offers, carried in idxNum and idxStr, read back in
** xFilter. This file alone writes and reads that text.
**
** idxNum is the kind. idxStr is the kind's name, then for each value that xFilter
** receives the name of what it is, in this order, then the constraints that the
** search itself answers, as SQL with ? for a value:
**
**   kind     values                   rows
**   scan                              those indexed, in source order, no scores
**   lookup                            those with an id or rowid, no scores
**   knn      vector k                 the k nearest
**   stream   vector [limit [offset]]  all, nearest first, as far as they are read
**   point    vector                   those with an id or rowid, scored
**
** With an approximate index there may be ef_search, nprobe and rerank behind the vector or k.
** A stream of such a table says "exact" behind its kind where the rows
** must all come nearest first: there are no bounds on how far a later row may be
** displaced, but where `k` or a limit says how many are wanted.
**
** The table-valued function has its values `database` and `table` before these.
** EXPLAIN QUERY PLAN shows both, as
** "VIRTUAL TABLE INDEX 2:knn vector k filter(lang=? AND year>=?)".
*/
#ifndef PLAN_H
#define PLAN_H

#include "factory.h"
#include "vector.h"

typedef enum plan_kind { PLAN_SCAN, PLAN_LOOKUP, PLAN_KNN, PLAN_STREAM, PLAN_POINT } plan_kind;
enum { PLAN_KINDS = 5 };

typedef enum plan_value {
    PLAN_DATABASE,
    PLAN_TABLE,
    PLAN_VECTOR,
    PLAN_NEIGHBOURS, /* k */
    PLAN_EF_SEARCH,  /* these three of approximate indexes only */
    PLAN_NPROBE,
    PLAN_RERANK,
    PLAN_LIMIT,
    PLAN_OFFSET
} plan_value;
enum { PLAN_VALUES = 9 };

/* How a constraint compares; the order is that of its SQL texts in plan.c. */
typedef enum plan_operator {
    PLAN_EQ,
    PLAN_NE,
    PLAN_LT,
    PLAN_LE,
    PLAN_GT,
    PLAN_GE,
    PLAN_IS,
    PLAN_IS_NOT,
    PLAN_IN,
    PLAN_LIKE,
    PLAN_GLOB,
    PLAN_IS_NULL,
    PLAN_NOT_NULL
} plan_operator;
enum { PLAN_OPERATORS = 13 };

/* What a constraint is on: a source column by its number, or one of these. */
enum { PLAN_ON_ID = -1, PLAN_ON_ROWID = -2, PLAN_ON_SCORE = -3, PLAN_ON_DISTANCE = -4 };

/* A constraint that the search answers. */
typedef struct plan_term {
    int on;
    plan_operator comparison;
    int at;                /* which of xFilter's values, -1 for the null tests */
    const char *collation; /* to compare with, NULL for the source column's own */
} plan_term;

enum { PLAN_TERMS_MOST = 32 };

typedef struct plan {
    plan_kind kind;
    int at[PLAN_VALUES]; /* which of xFilter's values it is, -1 if absent */
    plan_term *terms;
    int term_count;
    int is_exact; /* although the table has an approximate index */
    char *text;   /* holds the names in terms */
} plan;

/* A column of the source, as the virtual table offers it. */
typedef struct plan_column {
    char *offered; /* its name here: its own, or source_NAME if that is taken */
    char *name;
    char *affinity; /* INTEGER, REAL, NUMERIC, TEXT or BLOB */
    char *collation;
} plan_column;

/* Which constraints SQLite offered: their number, where in the WHERE clause they begin,
** and a hash of the rest. */
typedef struct plan_offer {
    int count, place;
    sqlite3_uint64 hash;
} plan_offer;

/* What xBestIndex must know of the table. Column numbers are -1 for columns it
** does not have. */
typedef struct plan_table {
    const char *name;
    int id, score, distance, vector, neighbours, database, table;
    const char *embedding; /* the name of the vector's column, for messages */
    int has_rowid;         /* rowids are those of the source */
    int id_is_rowid;       /* ties come in the order of ids */
    int is_approximate;    /* it has an approximate index … */
    int effort;            /* … and there the columns ef_search, nprobe, rerank, from this on */
    int metric_known;      /* the order of `score` can be told */
    vector_metric metric;
    sqlite3_int64 rows; /* an estimate */
    const char *id_affinity, *id_collation;
    int id_collation_missing;   /* this connection has no such collation */
    const plan_column *columns; /* of the source */
    int column_count;
    int first_column; /* the number of the first of these */
    plan_offer offer; /* the last one to xBestIndex that was not for a side of an OR */
} plan_table;

/* The name of a value, as a user knows it: "k". Static. */
const char *plan_value_name(plan_value value);

/* What a term is on, by its name in the table: "lang". */
const char *plan_term_name(const plan_table *t, int on);

/* Write a plan, whose values and terms are numbered in the order of the text; their numbers are not
** written, only which there are. NULL when memory is short; the caller, or SQLite, frees it. */
char *plan_encode(const plan_table *t, const plan *p);

/* Read a plan back; `count` is the number of values. SQLITE_NOMEM, or
** SQLITE_CORRUPT where the text is none of ours; *out is then empty. Else plan_clear() it. */
int plan_decode(const plan_table *t, int number, const char *text, int count, plan *out);

/* Free what plan_decode() has made. */
void plan_clear(plan *p);

#endif
