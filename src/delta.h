/*
** Versions made from others: by a few changed rows, and by putting what such
** changes left behind back in order.
*/
#ifndef DELTA_H
#define DELTA_H

#include "index.h"

/*
** Making a version from another and the rows that changed: all that is dead is
** marked so, and what is new goes into a tail. Tails of about the same size are
** merged, and segments that are mostly dead are made anew, so that a row is copied
** some times at most. Not for versions with kept values.
*/
typedef struct index_delta index_delta;

/* Begin. `dimension` is that of the base, or of the rows to come where it has none. SQLITE_OK or
** SQLITE_NOMEM. */
int index_delta_open(index_version *base, int dimension, index_delta **out);

/* A row that may have changed: what it is now, or that it is not there now
** (`embedding` NULL). Keys ascend. SQLITE_MISMATCH where a component is not finite. */
int index_delta_row(index_delta *d, int64_t key, uint64_t hash, const void *embedding,
                    char **message);

/* Hand over the version with one reference: the base where nothing changed. SQLITE_OK, or an error
** with its message. */
int index_delta_finish(index_delta *d, index_version **out, char **message);

/* Free it, also before it is finished; NULL is none. */
void index_delta_close(index_delta *d);

/* Whether there are so many tails or small segments that they should be put in
** order by index_compact(). */
int index_is_fragmented(const index_version *v);

/* The same rows without tails and dead slots, so that positions are the numbers of
** rows in source order; segments without a change are shared. `v` itself if it is
** so already. `check` may be NULL. Linear in the rows of what changed. */
int index_compact(index_version *v, index_check *check, void *argument, index_version **out,
                  char **message);

#endif
