/*
** What this extension keeps for one connection, from loading to closing: the
** sources it has searched, and the faiss tables it has connected. SQLite's own
** mutex on the connection guards it; the list of all connections is behind a lock of
** connection.c, under which nobody waits.
*/
#ifndef CONNECTION_H
#define CONNECTION_H

#include "definition.h"
#include "storage.h"

struct host;

/* Statements, told apart by their plans' texts, of which so many are remembered. */
enum { PLANS_REMEMBERED = 8 };

/*
** A statement that holds a snapshot of a source and, when it was prepared, asked the caller's
** authorizer for it: kept for the next search of one of these statements. SQLite asks once for each
** statement that it prepares, and so it is here: a text is that of a plan which xBestIndex has
** made, and is forgotten when another plan's takes its place in memory.
*/
typedef struct kept_pin {
    sqlite3_stmt *statement; /* NULL: there is none, or a snapshot has it now */
    int preparations;        /* anew, by SQLite: more of them, and the source may be another one */
    int resolutions;         /* of the tracked source, when it was prepared */
    const char *plans[PLANS_REMEMBERED];
    int next_plan; /* where the next one is remembered */
} kept_pin;

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
    kept_pin pin;    /* kept as the watch is */
    int resolutions; /* how often it was resolved: other numbers, other sources */
    change_log log;
    log_reader log_reader; /* of the log; kept as the watch is */
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

/* Take and give back a reference; with the last one all that is kept goes. The latter is also
** SQLite's destructor for user data. */
connection *connection_retain(connection *c);
void connection_release(void *c);

/* Find or make the record of a source and count the caller as its user; NULL
** when memory is short. Those longest unused are forgotten beyond some number. */
tracked_source *connection_track(connection *c, const definition *d);
void connection_untrack(tracked_source *t);

/* Whether the definition's source is known already, and is no virtual table. */
int connection_is_plain(const connection *c, const definition *d);

/* Finalize a source's watch and the other statements that are kept with it. */
void tracked_drop_watch(tracked_source *t);

/* A plan was made whose text is at this address: what is remembered of another one that was there
** before is forgotten. */
void connection_forget_plan(connection *c, const char *plan);

/* Finalize every watch: what was read so far is compared before it is used
** again. */
void connection_drop_watches(connection *c);

/* How many values an index over the source keeps with each row: none where the
** source can be asked by rowid, else the id, and the other columns where they are
** read. */
int tracked_kept_values(const tracked_source *t);

/* Join the registry's entry for the source as resolved now. SQLITE_OK or SQLITE_NOMEM. */
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
