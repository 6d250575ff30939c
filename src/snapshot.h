/*
** What one statement sees of a source: its rows in the statement's own read
** snapshot, and the version of the index that holds exactly these rows.
**
** Results equal a scan of the source by the same statement: what the connection
** has not committed yet is in, what others committed is in from the moment
** SQLite shows it, and what was rolled back is out.
*/
#ifndef SNAPSHOT_H
#define SNAPSHOT_H

#include "connection.h"
#include "cover.h"

typedef struct snapshot {
    connection *connection;
    connection *asker;       /* the one that it is read for, if that is another one */
    tracked_source *tracked; /* NULL: not open */
    const source *source;
    sqlite3_stmt *pin;    /* stepped once and held: the read transaction; … */
    const char *plan;     /* … kept for the statement of this plan; NULL: for none … */
    int pin_resolutions;  /* … (those of the tracked source when it was prepared), … */
    int pin_was_kept;     /* … or from a search before */
    live_state published; /* the last that was when the snapshot began; seq 0 if unknown */
    index_version *version;
    coverage *coverage;   /* of the version, by its approximate index; NULL for none */
    index_kind kind;      /* of a detached one; see snapshot_detach() */
    const char *columns;  /* of a source_query, for the look-ups; set by the owner */
    sqlite3_stmt *lookup; /* a row by its key, standing on the row of lookup_key */
    int64_t lookup_key;
    int lookup_stands;
    sqlite3_stmt *embedding; /* the embedding of a row by its key */
    sqlite3_stmt *vectors;   /* of vector_reader.c: embeddings from a key on */
    int threads;             /* that a search in it may use */
    int64_t polled;          /* when an interrupt was last looked for, in ms */
    int compared;            /* by snapshot_compare() */
    /* Of a version that was read in the middle of a statement that writes: the state that
    ** changes were counted from (seq 0: of others), that of the log then, and a row more. */
    live_state since, until;
    sqlite3_int64 inserted;
    int answered; /* rows of a search were handed out; set by the owner */
} snapshot;

/* Open a snapshot of the source that `d` defines: hold a read transaction on it,
** check that the caller may read it, and that it is still what it was. All zero
** and safe to close on failure. Costs some microseconds. */
int snapshot_open(connection *c, const definition *d, snapshot *out, char **message);

/* The same for a statement that SQLite has prepared, with the text of its plan: the authorizer is
** asked once for each of these, as for those of tables. */
int snapshot_open_for_plan(connection *c, const definition *d, const char *plan, snapshot *out,
                           char **message);

/* The same on another connection than that of the statement: interrupts of the latter, the
** asker, end it. */
int snapshot_open_for(connection *asker, connection *c, const definition *d, snapshot *out,
                      char **message);

/* What a search in the version needs, when the snapshot is to be closed before: only
** searches without a filter, and snapshot_close(), are possible in *out. */
void snapshot_detach(snapshot *s, snapshot *out);

/* End the read transaction, unless others of the same connection hold it, and let go of the
** version. Safe on one that is closed, or all zero. */
void snapshot_close(snapshot *s);

/* Look now and then, during long work in memory, whether the connection was
** interrupted or its progress handler asks to stop. Costs a clock reading, and
** every 50 ms a small statement. SQLITE_INTERRUPT, or an error with its message. An index_check. */
int snapshot_poll(void *snapshot, char **message);

/* The same at once, without looking at the clock. */
int snapshot_poll_now(snapshot *s, char **message);

/* Step a statement that reads the source, so that a source which reads a faiss table is refused.
** What sqlite3_step() returns, or SQLITE_INTERRUPT where the asker is interrupted. */
int snapshot_step(snapshot *s, sqlite3_stmt *statement);

#endif
