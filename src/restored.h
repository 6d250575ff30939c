/*
** The version of an index that a checkpoint holds: keys and hashes of its rows as they were stored,
** and, where versions keep vectors, those that the approximate index has of them. So nothing is
** read of the source.
*/
#ifndef RESTORED_H
#define RESTORED_H

#include "approximate.h"

/* Whether it can be had of so many rows, where the version keeps `keeping`: not where vectors are
** to be in memory and the approximate index has only codes of them, or half of the hash by which to
** find them. */
int restored_possible(const index_kind *kind, index_keeping keeping, int64_t rows);

typedef struct restored restored;

/* Begin with no rows. `a` is the index that was stored with them; borrowed. SQLITE_OK or
** SQLITE_NOMEM. */
int restored_open(const approximate *a, vector_metric metric, int dimension, index_keeping keeping,
                  int64_t rows, restored **out);

/* Add the next row; keys ascend. SQLITE_MISMATCH where they do not, or where the vector is needed
** and `a` does not have it. */
int restored_row(restored *r, int64_t key, uint64_t hash, char **message);

/* Hand over the version with one reference. */
int restored_finish(restored *r, index_version **out, char **message);

/* Free it, also before it is finished; NULL is none. */
void restored_close(restored *r);

#endif
