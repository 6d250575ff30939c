/*
** A set of rows of one version, by position: a bit for each slot.
*/
#ifndef ROW_SET_H
#define ROW_SET_H

#include "index.h"

enum { SET_WORD_BITS = 64 };

typedef struct row_set {
    uint64_t *bits;
    int64_t count; /* rows in the set */
} row_set;

/* An empty one for the positions of a version. SQLITE_OK or SQLITE_NOMEM. */
int row_set_open(row_set *set, const index_version *v);
int row_set_copy(row_set *set, const row_set *from, const index_version *v); /* the same */
void row_set_add(row_set *set, int64_t position);
int row_set_has(const row_set *set, int64_t position);
/* The rows of the set that stand at some positions, as slots from the first of these on. Returns
** how many; there is room for `rows`. */
int row_set_slots(const row_set *set, int64_t start, int rows, int64_t *slots);
void row_set_close(row_set *set);

#endif
