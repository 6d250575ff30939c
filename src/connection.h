/*
** What this extension keeps for one connection, from loading to closing: the
** sources it has searched, and the faiss tables it has connected. SQLite's own
** mutex on the connection guards it; the list of all connections is behind a lock of
** connection.c, under which nobody waits.
*/
#ifndef CONNECTION_H
#define CONNECTION_H

#include "factory.h"
#include "storage.h"

struct host;
struct publication;

/* Which index is meant: a source and how to read it. Texts are owned. */
typedef struct definition {
    char *schema, *table;
    char *id, *embedding; /* columns, NULL for the defaults */
    vector_metric metric;
    int strict;           /* a malformed row is an error; otherwise it is left out */
    int dimension;        /* demanded of the rows; 0: that of the first row */
    int not_live;         /* live=off: do not rely on a change log, if there is one */
    int must_be_live;     /* live=on: matters when the faiss table is made */
    int low_memory;       /* memory=low: vectors stay in the source; which has rowids, or did */
    index_kind kind;      /* of an approximate index; no text: exact */
    search_effort effort; /* of its searches, unless they say otherwise */
    int threads;          /* that a search may use; 0 is as good as 1 */
    int reads_columns;    /* other columns are read too: they are kept where rows have no rowid */
    /* Not on this connection: published by another one, as `table` of the database `schema`. */
    struct publication *through;
} definition;

int definition_copy(definition *to, const definition *from);
int definition_equal(const definition *a, const definition *b);
void definition_clear(definition *d);

/*
** A source as this connection knows it. `watch` is a prepared statement over it
** that SQLite prepares anew when the schema changes, the file is detached or an
** authorizer is set: its count of preparations shows what no counter in a file
** does, for instance that another file was attached under the same name.
*/
typedef struct tracked_source {
    struct tracked_source *next;
    definition asked;
    source source; /* resolved; all NULL before */
    int resolved;
    int users; /* snapshots that hold it */
    sqlite3_stmt *watch;
    int preparations;
    int resolutions; /* how often it was resolved: other numbers, other sources */
    change_log log;
    sqlite3_stmt *last_entry; /* of the log; kept as the watch is */
    registry_entry *shared;
    int is_file;           /* other connections can see its database */
    int is_immutable;      /* nobody changes the file while it is open */
    uint64_t file_stamp;   /* size and time of change, for immutable files */
    index_version *latest; /* read by this connection in a committed state … */
    int trusted;           /* … which is still known by `state` */
    uint64_t state;
    live_state latest_live; /* what the log called it; seq 0 if there is none */
    index_version *draft;   /* last read in a write transaction: to go on from, and to answer
                            ** only if the log says that it is the same state */
    live_state draft_live;
    int draft_resolutions; /* it is of no use once the source was resolved again */
    /* Of a draft that a command left, which runs in the middle of a statement: it may differ from
    ** draft_live in rows that the log names behind this state, and in one more. Else seq 0. */
    live_state draft_since;
    sqlite3_int64 draft_row;
    void *partial; /* an interrupted reading in a state that this connection alone knows */
    void (*partial_destroy)(void *);
} tracked_source;

/* A faiss table that this connection has open. */
typedef struct connected_table {
    struct connected_table *next;
    const char *schema, *name;
    const definition *definition;
} connected_table;

typedef struct connection {
    struct connection *next_open; /* behind the lock */
    sqlite3 *db;
    int is_registered; /* all functions and modules are there */
    uint64_t serial;   /* of no other connection of this process */
    int references;    /* one for every registration with SQLite and every open table */
    tracked_source *sources;
    int source_count;
    connected_table *tables;
    struct host *host;  /* it may publish; NULL if it may not */
    int reading_source; /* a source is being prepared or read: no faiss table may take part */
    void *watch_keeper; /* the eponymous table whose disconnection, which precedes
                          ** closing, finalizes all watches; NULL before its first use */
} connection;

/* That of an SQLite connection, made if the extension is loaded into it for the first time;
** NULL when memory is short. With a reference for the caller. */
connection *connection_of(sqlite3 *db);
connection *connection_retain(connection *c);
void connection_release(void *c); /* also SQLite's destructor for user data */

/* Find or make the record of a source and count the caller as its user; NULL
** when memory is short. Those longest unused are forgotten beyond some number. */
tracked_source *connection_track(connection *c, const definition *d);
void connection_untrack(tracked_source *t);

/* Whether the definition's source is known already, and is no virtual table. */
int connection_is_plain(const connection *c, const definition *d);

/* Finalize a source's watch and the other statement that is kept with it. */
void tracked_drop_watch(tracked_source *t);

/* Finalize every watch: what was read so far is compared before it is used
** again. */
void connection_drop_watches(connection *c);

/* How many values an index over the source keeps with each row: none where the
** source can be asked by rowid, else the id, and the other columns where they are
** read. */
int tracked_kept_values(const tracked_source *t);

/* Join the registry's entry for the source as resolved now. */
int connection_join_registry(connection *c, tracked_source *t);

/* Forget what was read of a source, if nobody uses it now. */
void connection_forget(connection *c, const definition *d);

/* Forget what was read of sources that nobody uses now. */
void connection_forget_idle(connection *c);

/* The faiss table of that name, NULL if this connection has none open. */
const definition *connection_find_table(const connection *c, const char *schema, const char *name);

/* The size of a file and the time of its last change, mixed; 0 if there is none. What an
** immutable file must still show for another connection's version of it to be used
** without comparing. */
uint64_t connection_file_stamp(const char *path);

/* Identify the file behind a schema; 0 and an owner for databases that only
** this connection can see. */
int connection_identify(connection *c, const char *schema, registry_database *out);

#endif
