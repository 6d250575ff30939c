/*
** The kinds of approximate index: FAISS's factory strings, as far as tables can be
** kept by them.
**
**   [PCAn | PCARn | RRn | OPQm | OPQm_n ,]... then one of
**   HNSWm  HNSWm,Flat  HNSWm,SQ8  HNSWm,PQm      a graph over the rows
**   IVFn,CODE  IVFn_HNSWm,CODE                   lists, of which nprobe are searched
**   CODE                                         all codes are searched
**
** CODE is Flat (with something before it), SQ8, SQ6, SQ4, SQfp16, SQbf16, PQm, PQmxb or
** RaBitQ. What else FAISS has cannot be added to, cannot be searched here, or is
** what another option does: it is refused with the reason.
*/
#ifndef FACTORY_H
#define FACTORY_H

#include <stdint.h>

#include "vector.h"

enum { INDEX_KIND_TEXT = 80, EF_CONSTRUCTION_MOST = 4096 };

typedef struct index_kind {
    char text[INDEX_KIND_TEXT]; /* what FAISS is given; empty: exact */
    int ef_construction;        /* of a graph; 0 for the default */
    int links;                  /* m of a graph over the rows, 0 for none */
    int lists;                  /* n of IVF, 0 for none */
    int is_lossy;               /* scores by its codes differ from those of the vectors */
    int rerank;                 /* candidates for each row wanted, unless told otherwise */
    int selects;                /* FAISS can be told which rows to look at */
    int is_trained;             /* on a sample, before rows are added */
    int bits;                   /* of PQ, for each part of a vector; 0: another code, or none */
    int64_t rows_least;         /* it is worth nothing for fewer rows, or cannot be trained */
    int64_t sample;             /* rows to train on, at most */
} index_kind;

/* Read a factory string. SQLITE_OK, or SQLITE_ERROR with a message that says what is
** wrong with it and what to take instead. Whether it suits a dimension is FAISS's to
** say: approximate_check(). */
int index_kind_parse(const char *text, vector_metric metric, index_kind *out, char **message);

/* Whether both make the same index of the same rows. */
int index_kind_equal(const index_kind *a, const index_kind *b);

/* How hard a search tries; 0 where nothing is said. */
typedef struct search_effort {
    int ef_search; /* rows of a graph to keep an eye on */
    int nprobe;    /* lists to look into */
    int rerank;    /* candidates to score by their vectors, for each row wanted */
} search_effort;

enum { EFFORT_MOST = 1 << 20, RERANK_MOST = 1000, SEARCH_EFFORTS = 3 };

/* What SQL calls them, and what one is, by its number in the order above. */
extern const char *const search_effort_names[SEARCH_EFFORTS];
int search_effort_get(const search_effort *effort, int which);

/* Take one of them from SQL, by its number: a whole number from 1 on, or an
** error that names it. */
int search_effort_read(search_effort *effort, int which, sqlite3_value *value, char **message);

/* Whether the kind has what is said: else an error that says which kinds do. */
int search_effort_check(const index_kind *kind, const search_effort *effort, char **message);

/* Whether the kind has all that is said. */
int search_effort_applies(const index_kind *kind, const search_effort *effort);

/* `asked` where it says something, else `usual`, else what suits the kind. */
search_effort search_effort_of(const index_kind *kind, const search_effort *asked,
                               const search_effort *usual);

#endif
