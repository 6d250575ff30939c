/*
** Bounds that a query sets on `score` and `distance`: distance < 0.5. Those on the near side of a
** search end it; those on the far side leave its first rows out.
*/
#ifndef BOUNDS_H
#define BOUNDS_H

#include "plan.h"

/* All zero: none. */
typedef struct bounds {
    const plan_term *terms; /* of the plan */
    sqlite3_value **values; /* of each term on score or distance, else NULL */
    int count;
} bounds;

/* Keep the values of the plan's terms on score and distance, among those that xFilter gets. The
** plan's terms must live as long. SQLITE_OK or SQLITE_NOMEM; on failure, too, clear it. */
int bounds_keep(const plan *p, sqlite3_value **argv, bounds *out);
void bounds_clear(bounds *b);

/* Where a row of this score lies: within the bounds; before them, where later rows of a search,
** which are farther, may be within; or beyond them, where none will be. */
typedef enum bound_state { BOUND_WITHIN, BOUND_BEFORE, BOUND_BEYOND } bound_state;
bound_state bounds_place(const bounds *b, vector_metric metric, float score);

/* Whether there is any. */
int bounds_are_any(const bounds *b);

/* Whether they allow an approximate search: that the first rows wanted, nearest first, may end too
** early. */
int bounds_are_far(const bounds *b, vector_metric metric);

#endif
