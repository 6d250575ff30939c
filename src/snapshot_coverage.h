/*
** The approximate index of a snapshot's version (growth.h): what it covers of the version's rows,
** and the part that this connection has in building it. Rows that are not committed are never put
** into it: it is shared.
*/
#ifndef SNAPSHOT_COVERAGE_H
#define SNAPSHOT_COVERAGE_H

#include "snapshot.h"

/* Find what the source's approximate index has of the version: *out is NULL where it has none,
** or none yet. Builds it if this connection is the first that needs it, unless it is
** writing: then others wait for it. snapshot_index() comes before. Held until the snapshot
** closes. */
int snapshot_coverage(snapshot *s, coverage **out, char **message);

/* No more than load it, if it is stored: for a snapshot that is to be detached. snapshot_index()
** comes before. */
int snapshot_load(snapshot *s, char **message);

/* After a search: a piece of what the approximate index needs, beside others' searches. */
void snapshot_improve(snapshot *s);

#endif
