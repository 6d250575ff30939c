/*
** Making an index, and the version that is stored with it, of the bytes of a checkpoint, part by
** part: what takes them stays where it is between two parts for as long as it has to.
*/
#ifndef UNPACKING_H
#define UNPACKING_H

#include "approximate.h"

/* What the bytes are of: an index of so many rows, and the rows of a version (0: not wanted). */
typedef struct unpacking_form {
    index_kind kind;
    vector_metric metric;
    int dimension;
    int is_small;          /* the index is, as it is in memory */
    index_keeping keeping; /* of the version */
    int64_t rows;          /* of the index */
    uint64_t index_bytes;  /* that are the index; those of the rows are behind them */
    uint64_t stored;       /* approximate_stored() */
    double trained_misfit; /* approximate_trained_misfit() */
    int64_t source_rows;   /* of the version */
    uint64_t fingerprint;  /* the version's */
} unpacking_form;

/* A row of the version, as bytes. */
typedef struct unpacking_row {
    int64_t key;
    uint64_t hash;
} unpacking_row;

typedef struct unpacking unpacking;

/* Begin with the first byte. SQLITE_OK or SQLITE_NOMEM. */
int unpacking_open(const unpacking_form *form, unpacking **out);

/* Take the next part, verified. Whether it needs no more: it has all, or this one does not fit. */
int unpacking_take(unpacking *u, const void *bytes, size_t count);

/* What has come of it, when all parts were taken: SQLITE_OK; SQLITE_CORRUPT_VTAB with a text that
** says why where the bytes are not of such an index (*index is NULL) or not of such rows (it is
** not), which the caller frees; or SQLITE_NOMEM. The caller gets a reference of what is not NULL,
** once. */
int unpacking_finish(unpacking *u, approximate **index, index_version **version, char **why);

/* Free it, and what was not handed over; NULL is none. */
void unpacking_close(unpacking *u);

#endif
