/*
** The draft of a connection: the version that it read last in a transaction that writes, of a state
** that may never be committed. Nobody else sees it. It answers where the change log says that the
** state is the same, and the next version is made from it.
**
** One that a command has left is unsure: the command ran in the middle of a statement, and the
** draft may differ from the state that it is named by in rows which the log names behind an older
** one (tracked_source: draft_since), and in one row more (draft_row).
*/
#ifndef DRAFT_H
#define DRAFT_H

#include "snapshot.h"

/* Whether the draft is of exactly this state, and surely. */
int draft_is_of(const tracked_source *t, const live_state *state);

/* Whether changes up to the state `now` of the snapshot can be counted from the draft: *past. Not
** so after a rollback, nor from an unsure one in the middle of a statement. SQLite's codes. */
int draft_is_past(snapshot *s, const live_state *now, int mid_statement, int *past, char **message);

/* Keep a version of the state `now` (seq 0: it has no name) in the place of the draft there is. In
** the middle of a statement it is kept without its name, which may mean another state later on. */
void draft_keep(const snapshot *s, index_version *made, const live_state *now);

/* Keep what a command has made of the snapshot's version, for the searches after its statement,
** unless that is known to all as the version of the state that changes were counted from. Of which
** state it is cannot be told: a trigger may have run the command between a change and its entry. */
void draft_keep_unsure(const snapshot *s);

/* Let go of it. */
void draft_drop(tracked_source *t);

#endif
