/*
** What names the state of a source that a snapshot shows: to this connection SQLite's count of
** changes, to all of them the source's change log; and whether it is a state that others may see,
** too. All hold for an open snapshot, and cost some microseconds.
*/
#ifndef SNAPSHOT_STATE_H
#define SNAPSHOT_STATE_H

#include "snapshot.h"

/* What names the state of a committed snapshot, as far as anything does. */
typedef struct snapshot_state {
    uint64_t file;   /* what this connection knows the state by */
    live_state live; /* of the log; seq 0 without one */
} snapshot_state;

/* What this connection knows the state by, of which other states have another one. Where a view in
** temp is the source, the states of all schemas count. */
uint64_t snapshot_file_state(const snapshot *s);

/* The name that the log gives to the state; seq 0 where it has none. SQLite's codes, with a message
** where the log is gone. */
int snapshot_live_state(snapshot *s, live_state *state, char **message);

/* Whether the entry that a state is named by stands in the log: *has. SQLite's codes. */
int snapshot_log_has(snapshot *s, const live_state *state, int *has, char **message);

/* Whether the snapshot may hold rows that are not committed: this connection's, or, in a shared
** cache that is read uncommitted, another one's. */
int snapshot_is_writing(const snapshot *s);

/* Whether a statement that writes is running on this connection, so that the source
** may be between a change and the log's entry of it, or the other way round. */
int snapshot_is_mid_statement(const snapshot *s);

#endif
