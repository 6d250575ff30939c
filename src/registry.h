/*
** The indexes of this process: one version of each source and definition,
** shared by all connections and threads.
**
** Everything here is behind one mutex of registry.c, which is held for pointer
** swaps and list walks only: no SQL runs and nothing is built under it. Versions
** are immutable and counted; who holds one reads it without a lock.
*/
#ifndef REGISTRY_H
#define REGISTRY_H

#include "factory.h"
#include "index.h"

/* Which database a source lives in. Files are told apart by device and inode, so
** that connections which name a file differently share its indexes; an inode is
** no proof of content, though: a version is adopted only after comparing rows.
** Databases that no other connection can see belong to their connection. */
typedef struct registry_database {
    const void *owner; /* the connection, NULL for a file */
    uint64_t device, inode;
    char schema[64]; /* of the owner's connection; empty for a file */
} registry_database;

/* What an index is over and how. Texts are compared exactly. */
typedef struct registry_key {
    registry_database database;
    const char *table, *id, *embedding;
    vector_metric metric;
    index_kind kind; /* of an approximate index; no text: exact */
    int strict;
    int dimension;       /* as demanded, 0 if taken from the rows */
    int kept_values;     /* with each row */
    int low_memory;      /* vectors are left in the source */
    int has_integer_key; /* rowids do not change */
    uint64_t stamp;      /* of the file: its size and the time of its last change */
    const char *path;    /* of the file, for faiss_indexes; NULL or "" if there is none */
} registry_key;

typedef struct registry_entry registry_entry;

/* Find or make the entry of a key and count the caller as its user. NULL when
** memory is short. */
registry_entry *registry_join(const registry_key *key);
/* An entry without users is kept for some seconds, for hosts that open a connection
** for each request: SQLITE_FAISS_LINGER in the environment (10), while all such
** entries take no more than SQLITE_FAISS_LINGER_MB megabytes (512). It is looked
** after when another entry is joined, left or listed. */
void registry_leave(registry_entry *entry);

/* Count a publication as a user of the entry, so that it is kept as long; NULL for NULL. */
registry_entry *registry_offer(registry_entry *entry);
void registry_withdraw(registry_entry *entry);
/* Whether a publication uses it. */
int registry_is_offered(registry_entry *entry);

/* A number that no other entry of this process has or had. */
uint64_t registry_serial(const registry_entry *entry);

/* Whether both are the same file, or the same database that is private to one connection. */
int registry_same_database(const registry_database *a, const registry_database *b);

/* Bytes of memory that the indexes take which no publication uses, this one left out.
** Those that nobody uses are dropped, if `drop`. */
int64_t registry_bytes_besides(const registry_entry *entry, int drop);

/*
** What names a state of a live source: the last entry of its change log, whose tag
** is random, a hash of the rows that this entry leaves open (storage.h), and a
** fingerprint of what keeps the log (the table and the triggers as the schema has them).
*/
typedef struct live_state {
    sqlite3_int64 seq, tag;
    uint64_t run, schema;
} live_state;

/* Whether both are names, and the same; a state with seq 0 has none. */
int live_state_equal(const live_state *a, const live_state *b);

/* Whether a state may be in the past of another one, or be that, as far as numbers tell: whether
** its entry stands in the other one's log is for change_log_has() to say. */
int live_state_may_precede(const live_state *state, const live_state *now);

/* The version published last with a reference for the caller, NULL if none.
** *stamp is that of the file when it was published. */
index_version *registry_current(registry_entry *entry, uint64_t *stamp);

/* The version of a state, with a reference; NULL if it is not kept. Kept are the
** last versions published, as far as the older ones take little memory beyond it. */
index_version *registry_at(registry_entry *entry, const live_state *state);

/* The states that versions are kept of, newest first; returns how many. */
enum { REGISTRY_STATES = 16 };
int registry_states(registry_entry *entry, live_state states[REGISTRY_STATES]);

/* Forget of which states the versions are: the log does not prove them any more. */
void registry_forget_states(registry_entry *entry);

/* Publish a version of committed rows, and return the one to use, with a
** reference: a published one with equal rows where another connection was
** faster, so that memory holds them once. `state` is NULL for sources without a
** log. */
index_version *registry_publish(registry_entry *entry, index_version *version,
                                const live_state *state, uint64_t stamp);

/* Put a version with the same rows in the place of a published one. */
void registry_replace(registry_entry *entry, index_version *former, index_version *version);

/* What an interrupted statement may leave for the next one to go on with. */
typedef enum registry_partial {
    REGISTRY_READING, /* of the source */
    REGISTRY_LOADING, /* of a stored index */
    REGISTRY_PARTIALS
} registry_partial;

/* Keep that, in place of what was kept before; `destroy` frees it. NULL: nothing. */
void registry_keep_partial(registry_entry *entry, registry_partial which, void *partial,
                           void (*destroy)(void *));
/* Take it out of the entry; NULL if there is none. */
void *registry_take_partial(registry_entry *entry, registry_partial which);

/* Say why the source is not live, or NULL if it is, for faiss_indexes. */
void registry_describe(registry_entry *entry, const char *why);

/* The first build of an entry is done by one connection while the others wait.
** Returns 1 if the caller is to build (or there is a version already) and, if it
** got the turn, must call registry_end_build(); 0 after waiting for up to
** `milliseconds`, so that the caller can look whether it was interrupted. */
int registry_begin_build(registry_entry *entry, int milliseconds, int *has_turn);
void registry_end_build(registry_entry *entry);

/* Count one search. */
void registry_count_search(registry_entry *entry);

/* One line of faiss_indexes; texts are owned by the line. */
typedef struct registry_line {
    registry_database database;
    char *table;
    int64_t rows, bytes, searches, left_out;
    int dimension;
    vector_metric metric;
    double build_seconds;
    char *kind;         /* what answers searches now */
    const char *memory; /* what it keeps of vectors; static */
    const char *origin; /* where its approximate index comes from; static, or NULL */
    char *live;         /* "yes", or "no: " and why */
    char *path;         /* of the database file, NULL if it is none */
    int users;          /* connections */
    uint64_t serial;
} registry_line;

/* Copy what is known about every entry that has a version. */
int registry_list(registry_line **lines, int *count);
void registry_list_free(registry_line *lines, int count);

#endif
