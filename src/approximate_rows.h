/*
** Which row of the table is at which place of an approximate index, and how its contents are known
** again: keys and hashes, in as few bytes as they take.
**
** Keys are kept as their distances from the first, of 32 bits, as long as that is enough. Of
** the hashes a small index keeps the upper halves, its prints. As long as keys ascend from place to
** place a row is found by its key, by halves; from then on by its hash, in a table.
*/
#ifndef APPROXIMATE_ROWS_H
#define APPROXIMATE_ROWS_H

#include <stddef.h>
#include <stdint.h>

/* All zero but for is_small: none. Who reads and who changes it is approximate.h's to say. */
typedef struct approximate_rows {
    int is_small; /* it keeps prints instead of hashes */
    int64_t count, room;
    int64_t first_key; /* keys are kept as what they are more than this, … */
    int32_t *offsets;
    int64_t *keys;    /* … or, if one of them is too far away, as they are: one is NULL */
    uint64_t *hashes; /* or prints, the upper halves of them: one is NULL */
    uint32_t *prints;
    uint32_t *table; /* places by hash, counted from 1: open addressing, at most 4/5 full; … */
    uint64_t slots;  /* … so many; none as long as keys ascend from place to place */
} approximate_rows;

/* Free what it has. */
void approximate_rows_free(approximate_rows *r);

/* Make room for so many rows in all. SQLITE_OK, SQLITE_NOMEM, or SQLITE_TOOBIG from 2^31 - 1 on. */
int approximate_rows_reserve(approximate_rows *r, int64_t rows);

/* Put a row behind the others; there is room. SQLITE_OK or SQLITE_NOMEM. */
int approximate_rows_append(approximate_rows *r, int64_t key, uint64_t hash);

/* Put the rows of another one behind them; there is room. SQLITE_OK or SQLITE_NOMEM. */
int approximate_rows_copy(approximate_rows *r, const approximate_rows *from);

int64_t approximate_rows_key(const approximate_rows *r, int64_t place);

/* The hash of a row, as far as it is kept: the lower half of a print's is 0. */
uint64_t approximate_rows_hash(const approximate_rows *r, int64_t place);

/* approximate_find(). */
int64_t approximate_rows_find(const approximate_rows *r, int64_t key, uint64_t hash, int64_t after);

/* Whether keys have ascended from place to place so far. */
int approximate_rows_ascend(const approximate_rows *r);

/* Put the rows in the order of their keys; order[i] is the former place of the i-th, for as many as
** there are. n log n. SQLITE_OK or SQLITE_NOMEM. */
int approximate_rows_sort(approximate_rows *r, int64_t *order);

/* How much memory it has. */
size_t approximate_rows_bytes(const approximate_rows *r);

#endif
