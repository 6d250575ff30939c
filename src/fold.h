/*
** Following the change log of a source: from a state whose version is known to the one that a
** snapshot shows, by reading only the rows that the log names in between.
*/
#ifndef FOLD_H
#define FOLD_H

#include "snapshot.h"

/* The version of exactly this state, if this connection or another one knows it; else NULL. With a
** reference for the caller. */
index_version *fold_known(const snapshot *s, const live_state *state);

/* Make the version of the snapshot's state `now` from one that there is, in memory or stored in the
** file, with a reference for the caller. *out is NULL where there is none, or the log does not tell
** what has changed since: the whole source must then be read. In the middle of a statement
** (`mid_statement`) s->since, s->until and s->inserted say what the version is made from. Linear in
** the rows that changed. SQLite's codes, with a message. */
int fold_changes(snapshot *s, const live_state *now, int mid_statement, index_version **out,
                 char **message);

#endif
