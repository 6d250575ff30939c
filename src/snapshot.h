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
#include "walk.h"

typedef struct snapshot {
    connection *connection;
    connection *asker;       /* the one that it is read for, if that is another one */
    tracked_source *tracked; /* NULL: not open */
    const source *source;
    sqlite3_stmt *pin;    /* stepped once and held: the read transaction */
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

/* The same on another connection than that of the statement: interrupts of the latter, the
** asker, end it. */
int snapshot_open_for(connection *asker, connection *c, const definition *d, snapshot *out,
                      char **message);

/* What a search in the version needs, when the snapshot is to be closed before: only
** searches without a filter, and snapshot_close(), are possible in *out. */
void snapshot_detach(snapshot *s, snapshot *out);

/* Find the version of the index for this snapshot, building what has changed.
** Some microseconds where nothing has changed since this connection's last search;
** otherwise a look-up of each row that changed where the source is live, and one
** read of it all where it is not. Held until the snapshot closes. */
int snapshot_index(snapshot *s, index_version **version, char **message);

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

/* The version of snapshot_index() in source order: without tails and dead slots. */
int snapshot_index_in_order(snapshot *s, index_version **version, char **message);

/* A reader of the source has found rows that differ from the version: read the whole
** source, and hold a version that does not. An error that asks to run the statement again
** where that was done before, or rows of the former version were handed out. */
int snapshot_compare(snapshot *s, index_version **version, char **message);

/* Put the index in order for all that use this state, too. Linear in what changed. The
** approximate index gets all rows, and few others; with `anew` it is trained again. An exact one
** gets all its sketches. */
int snapshot_optimize(snapshot *s, int anew, char **message);

/* Read the whole source and compare it with the index: *equal. A malformed row is
** an error that names it, also where strict=off leaves such rows out. */
int snapshot_check(snapshot *s, int *equal, char **message);

/* Drop what this connection has read of the source, so that the next search
** reads it all again into new segments. */
void snapshot_forget(snapshot *s);

void snapshot_close(snapshot *s);

/* The id of a row that a search found, as the source holds it in this snapshot.
** The bytes of a text live until the next call on the snapshot. */
int snapshot_hit_id(snapshot *s, const index_hit *hit, row_value *id, char **message);

/* Hand the value of another column of a row that a search found to SQLite: the
** `place`-th of s->columns, or the one of this name where values are kept. */
int snapshot_hit_column(snapshot *s, const index_hit *hit, int place, const char *name,
                        sqlite3_context *context, char **message);

/* Hand the embedding of a row that a search found to SQLite, as stored. One
** look-up by rowid; where rows have none, for cosine, one read of the source. */
int snapshot_hit_embedding(snapshot *s, const index_hit *hit, sqlite3_context *context,
                           char **message);

/* Look now and then, during long work in memory, whether the connection was
** interrupted or its progress handler asks to stop. Costs a clock reading, and
** every 50 ms a small statement. A index_check. */
int snapshot_poll(void *snapshot, char **message);

/* Step a statement that reads the source, so that a source which reads a faiss
** table is refused. */
int snapshot_step(snapshot *s, sqlite3_stmt *statement);

/* The definition that a function's `database` and `table` arguments mean: a
** plain source with the default columns and metric l2, or that of the faiss
** table of this name; as it is published, under a published name. out->through is set where
** another connection is to be asked (published.h). definition_clear() it. */
int snapshot_define(connection *c, const char *database, const char *table, definition *out,
                    char **message);

/* Count a search, and check that a query of `dimension` fits the index; an empty
** index fits any query. snapshot_index() comes before. */
int snapshot_begin_search(const snapshot *s, int dimension, char **message);

#endif
