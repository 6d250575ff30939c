/*
** The change log of a live source, which triggers fill (storage.h), and how it is read.
**
** The log of docs is docs_faiss_log(seq INTEGER PRIMARY KEY, row, tag): each entry
** names a rowid that was inserted, changed or deleted, or none (NULL) for "anything
** may have changed". `tag` is random, so that an entry that stands in two snapshots
** with the same tag proves that both follow from the state in which it was written. It
** is a ring of about 65,536 entries. There is one for all faiss tables over a source.
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
#ifndef CHANGE_LOG_H
#define CHANGE_LOG_H

#include "registry.h"
#include "source.h"

/* What one statement finds out about the log of a source. */
typedef struct change_log {
    char *table;     /* "schema"."docs_faiss_log", quoted; NULL: the source is not live */
    char *why;       /* then why not, as part of a sentence */
    uint64_t schema; /* fingerprint, of live_state */
    uint64_t texts;  /* another: of the texts alone that made the table and its triggers */
    sqlite3_int64 schema_version; /* SQLite's count of changes of the schema */
    int is_overtaken; /* a temporary trigger, which SQLite runs before all others, may search
                      ** between an insert and its entry */
} change_log;

/* Free what it owns, and make it empty. */
void change_log_clear(change_log *log);

/* The statements that read the log of a source, each prepared when it is first needed: that costs
** more than running one does. All NULL: none so far. They are of one source and one connection. */
typedef struct log_reader {
    sqlite3_stmt *last, *entry, *span, *changes;
} log_reader;

/* Finalize them. */
void log_reader_clear(log_reader *reader);

/* The name of the log of a table, unquoted and without its schema. The caller frees it. */
char *change_log_name(const char *table);

/* What the log calls this state of the source: its last entry, and the rows of the run that
** this begins; reads up to 16 rows. *state, of which only the schema is set, is left so where
** the log is empty. An error where the log is gone. */
int change_log_last(sqlite3 *db, const source *s, const change_log *log, log_reader *reader,
                    live_state *state, char **message);

/* The last entry of the log of schema.table, at any time, also of a source that is not resolved:
** seq 0 where there is none, or it cannot be read. An error only where that ended the statement at
** hand, as a file that fails ends a whole transaction. */
int change_log_last_entry(sqlite3 *db, const char *schema, const char *table, live_state *state);

/* Whether the log names all rows that may differ between a state with the entry `from`, which
** stands in it, and the one with the last entry `to`, and they are `most` at most. */
int change_log_follows(sqlite3 *db, const change_log *log, log_reader *reader, sqlite3_int64 from,
                       sqlite3_int64 to, sqlite3_int64 most, int *follows);

/* Whether the entry stands in the log. */
int change_log_has(sqlite3 *db, const change_log *log, log_reader *reader, const live_state *state,
                   int *has);

/* The rows that may differ between a state with the entry `from`, which stands in the log, and
** this one, with the last entry `to`: once each, by rowid, as the source has them now: key, id,
** embedding, and whether the row is there (CHANGE_LOG_COLUMN_PRESENT). `inserted` may be NULL: one
** more row to look at. *complete is 0 where an entry is missing or names no row, or where they
** are more than `most`; else reader->changes gives them, for the caller to step and to reset.
** Linear in the rows. */
enum { CHANGE_LOG_COLUMN_PRESENT = SOURCE_COLUMN_FIRST };
int change_log_changes(sqlite3 *db, const source *s, const change_log *log, log_reader *reader,
                       sqlite3_int64 from, sqlite3_int64 to, sqlite3_int64 most,
                       const sqlite3_int64 *inserted, int *complete, char **message);

#endif
