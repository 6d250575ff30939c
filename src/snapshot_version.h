/*
** Which version of the index holds exactly the rows that a snapshot shows: one that is known
** already, one made from another by the change log (fold.h), or one read from the whole source
** (build.h).
**
** That of a committed state is shared by all connections of the process: the first that needs it
** makes it, while the others wait and look every 50 ms whether they are interrupted. That of a
** transaction which writes belongs to its connection (draft.h), which waits for nobody.
**
** Functions return SQLite's codes; SQLITE_ERROR comes with a message.
*/
#ifndef SNAPSHOT_VERSION_H
#define SNAPSHOT_VERSION_H

#include "snapshot_state.h"

/* Find the version of the index for this snapshot, building what has changed.
** Some microseconds where nothing has changed since this connection's last search;
** otherwise a look-up of each row that changed where the source is live, and one
** read of it all where it is not. Held until the snapshot closes. */
int snapshot_index(snapshot *s, index_version **version, char **message);

/* The same in source order, without tails and dead slots, so that positions are the numbers of
** rows. Linear in the rows of what changed since it was so last. */
int snapshot_index_in_order(snapshot *s, index_version **version, char **message);

/* Count a search, and check that a query of `dimension` fits the index; an empty
** index fits any query. snapshot_index() comes before. */
int snapshot_begin_search(const snapshot *s, int dimension, char **message);

/* A reader of the source has found rows that differ from the version: read the whole
** source, and hold a version that does not. An error that asks to run the statement again
** where that was done before, or rows of the former version were handed out. */
int snapshot_compare(snapshot *s, index_version **version, char **message);

/* Read the whole source and compare it with the index: *equal. A malformed row is
** an error that names it, also where strict=off leaves such rows out. */
int snapshot_check(snapshot *s, int *equal, char **message);

/* Drop what this connection has read of the source, so that the next search
** reads it all again into new segments. */
void snapshot_forget(snapshot *s);

#endif
