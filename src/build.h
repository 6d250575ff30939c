/*
** Making a version of an index from what one snapshot shows: by reading the whole
** source and comparing it with a former version, or by reading only the rows that
** its change log names.
*/
#ifndef BUILD_H
#define BUILD_H

#include "snapshot_state.h"

/* Read the whole source. *out is `base` itself where the rows are the same; base may
** be NULL. Where `state` is given, a reading that is interrupted is kept in the registry, and
** the next one goes on from it. With `strict` a malformed row is an error. */
int build_whole(snapshot *s, index_version *base, int strict, const snapshot_state *state,
                index_version **out, char **message);

/* Read the whole source as a version that keeps keys and hashes alone, to compare with
** another. A malformed row is an error. */
int build_keys(snapshot *s, index_version **out, char **message);

/* Whether an index of so many rows may be made: it takes no more memory than there is for tables
** that are not published. */
int build_has_room(const snapshot *s, int low_memory, int dimension, int64_t rows);

/* The rows that build_changes() reads at most, of a version with `rows`. */
int64_t build_changes_most(int64_t rows);

/* Read the rows that may differ between `from`, whose version is `base` and whose entry stands in
** the log, and `to`, the state of the snapshot. `inserted` may be NULL: one more row to look at.
** *out is NULL where that cannot be done and the whole source must be read. */
int build_changes(snapshot *s, index_version *base, const live_state *from, const live_state *to,
                  const sqlite3_int64 *inserted, index_version **out, char **message);

#endif
