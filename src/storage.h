/*
** What a live source has in its file: the change log and the triggers that fill
** it. Both are plain SQL, so that every writer keeps them, with or without this
** extension; this file makes, checks and removes them, and reads the log.
**
** The log of docs is docs_faiss_log(seq INTEGER PRIMARY KEY, row, tag): each entry
** names a rowid that was inserted, changed or deleted, or none (NULL) for "anything
** may have changed". `tag` is random, so that an entry that stands in two snapshots
** with the same tag proves that both follow from the state in which it was written. It
** is a ring of about 65,536 entries. There is one for all faiss tables over a source;
** the triggers are named docs_faiss_… and made from what these tables have in their
** shadow tables.
**
** Rows that are appended are not logged one by one. The entry of a row inserted at the
** end of the table has an even tag (all others are odd) and begins a run: as long as it
** is the last entry, inserts of its rowid and the 15 behind it are not logged. So
**   - two states with the same last entry differ in these 16 rows at most, and what
**     names a state is that entry with a hash of those of them that there are;
**   - what changed since a state are the rows of all entries behind its own, and of its
**     own if it begins a run, whether the one state follows from the other or both from
**     that entry: a run may have gone on after a rollback, or in a copy of the file.
*/
#ifndef STORAGE_H
#define STORAGE_H

#include "registry.h"
#include "source.h"

/* What one statement finds out about the log of a source. */
typedef struct change_log {
    char *table;      /* "schema"."docs_faiss_log", quoted; NULL: the source is not live */
    char *why;        /* then why not, as part of a sentence */
    uint64_t schema;  /* fingerprint, of live_state */
    int is_overtaken; /* a trigger of the user's may run between an insert and its entry:
                      ** SQLite runs those first that were made last, and temporary ones */
} change_log;

/* Look whether the source has a log that tells all changes of its id and embedding
** columns: the triggers are those that would be made for it now. SQLITE_OK, also
** when it has none. A few statements on the schema. */
int storage_inspect(sqlite3 *db, const source *s, change_log *out, char **message);
void change_log_clear(change_log *log);

/* Why such a source cannot have a log, as part of a sentence; NULL if it can. The
** caller frees *why. */
int storage_obstacle(sqlite3 *db, const source *s, char **why, char **message);

/* Make the log and the triggers from all live faiss tables over the source, or
** remove them if there are none, and note in the log that anything may have
** changed; unless they are as they should be, and not wanted `anew`. Part of the
** caller's transaction. */
int storage_arm(sqlite3 *db, const source *s, int anew, char **message);

/* The same for a source that may be gone. */
int storage_disarm(sqlite3 *db, const char *schema, const char *table, char **message);

/* What the log calls this state of the source: its last entry, and the rows of the run that
** this begins; reads up to 16 rows. *state, of which only the schema is set, is left so where
** the log is empty. An error where the log is gone. `statement` is prepared at the first call
** and kept there; the caller finalizes it. */
int storage_last(sqlite3 *db, const source *s, const change_log *log, sqlite3_stmt **statement,
                 live_state *state, char **message);

/* Whether the entry stands in the log. */
int storage_has(sqlite3 *db, const change_log *log, const live_state *state, int *has);

/* The rows that may differ between a state with the entry `from`, which stands in the log, and
** this one, with the last entry `to`: once each, by rowid, as the source has them now: key, id,
** embedding, and whether the row is there (STORAGE_COLUMN_PRESENT). `inserted` may be NULL: one
** more row to look at. *complete is 0 where an entry is missing or names no row, or where they
** are more than `most`; then there is no statement. Linear in the rows. */
enum { STORAGE_COLUMN_PRESENT = SOURCE_COLUMN_FIRST };
int storage_changes(sqlite3 *db, const source *s, const change_log *log, sqlite3_int64 from,
                    sqlite3_int64 to, sqlite3_int64 most, const sqlite3_int64 *inserted,
                    sqlite3_stmt **out, int *complete, char **message);

#endif
