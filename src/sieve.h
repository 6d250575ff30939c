/*
** The rows of an index that sketches have not ruled out yet, and how near they may be: integers
** alone. walk.c scores the most promising of them, learns how near a row must be, and rules out
** more.
*/
#ifndef SIEVE_H
#define SIEVE_H

#include "exact.h"

/* The rows of one segment. */
typedef struct sieve_part {
    const sketch *of;
    int segment;
    int count;          /* rows that are left, … */
    int64_t *slots;     /* … in ascending order; NULL while they are 0, 1, … */
    int32_t *distances; /* by the line reached; SIEVE_TAKEN for rows that are no longer there */
    int line;
    int32_t within;       /* all distances are; SIEVE_TAKEN where that is not known */
    const uint64_t *skip; /* a bit for each row that is not to be there; NULL for none */
    int64_t *outliers;    /* rows that no code says anything of, ascending */
    int outlier_count;
} sieve_part;

typedef struct sieve {
    const query_sketch *query;
    sieve_part *parts;
    int part_count;
    int64_t rows, room; /* in all parts at first; there was room for */
    int64_t *slots, *outliers;
    int32_t *distances;
} sieve;

enum { SIEVE_TAKEN = INT32_MAX };

/* A row by its place. */
typedef struct sieve_row {
    int part;
    int slot;
} sieve_row;

/* An empty sieve with room for so many parts and rows in all. SQLITE_OK or SQLITE_NOMEM. */
int sieve_open(sieve *s, const query_sketch *query, int parts, int64_t rows);
void sieve_close(sieve *s);

/* Where the slots of the next part's rows may be written before it is added. */
int64_t *sieve_next_slots(sieve *s);

/* Add a segment: all of its `count` rows, or those listed in sieve_next_slots(). `skip` is NULL
** or a bit for each of all rows that is not to be there. It is of use once it was looked at.
** SQLITE_OK or SQLITE_NOMEM. */
int sieve_add(sieve *s, const sketch *of, int segment, int count, int listed, const uint64_t *skip);

/* Find out how near the rows of a part may be by the first line. Threads may look at parts, and
** go on with them, side by side, one at each. */
void sieve_look(sieve *s, int part);

/* Take out the `most` rows that may be the nearest by all lines, of about `wide` that may be by
** those reached, in the order of parts and slots. Fewer only where there are not so many. Returns
** how many; -1 when memory is short. */
int sieve_take(sieve *s, int wide, int most, sieve_row *rows);

/* Rule out rows of a part by a line, those before it first. */
void sieve_go_on(sieve *s, int part, int line, double bound);

/* Rows that are left, without outliers. */
int64_t sieve_left(const sieve *s);

#endif
