/*
** Which index is meant: a source, and how it is to be read and searched. It is what the options of
** a faiss table say (options.h), or what names that a function is given stand for (naming.h).
*/
#ifndef DEFINITION_H
#define DEFINITION_H

#include "factory.h"
#include "vector.h"

struct publication;

/* Texts are owned, and `through` is held. All zero: none. */
typedef struct definition {
    char *schema, *table;
    char *id, *embedding; /* columns, NULL for the defaults */
    vector_metric metric;
    int strict;           /* a malformed row is an error; otherwise it is left out */
    int dimension;        /* demanded of the rows; 0: that of the first row */
    int not_live;         /* live=off: do not rely on a change log, if there is one */
    int must_be_live;     /* live=on: matters when the faiss table is made */
    int low_memory;       /* memory=low: vectors stay in the source; which has rowids, or did */
    index_kind kind;      /* of an approximate index; no text: exact */
    search_effort effort; /* of its searches, unless they say otherwise */
    int threads;          /* that a search may use; 0: the table does not say */
    int reads_columns;    /* other columns are read too: they are kept where rows have no rowid */
    /* Not on this connection: published by another one, as `table` of the database `schema`. */
    struct publication *through;
} definition;

/* Copy it, texts too. SQLITE_OK, or SQLITE_NOMEM, when *to is empty. */
int definition_copy(definition *to, const definition *from);

/* Whether both mean the same index, and the same searches in it. What columns are read besides
** (`reads_columns`), and what matters only when a table is made (`must_be_live`), is not
** compared. */
int definition_equal(const definition *a, const definition *b);

/* Free what it owns, and make it empty. */
void definition_clear(definition *d);

#endif
