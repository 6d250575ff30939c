/*
** The stored approximate index of a snapshot's definition: which faiss tables of the connection
** may have one, loading it, and storing it. How it is stored: checkpoint.h.
**
** With it is stored which rows the source had, and in which state that was. Rows that a snapshot
** has are those, but for what the change log names, where
**   - the entry of the log that the state names stands in the log, with its tag, and all entries
**     behind it are there and name a row; and
**   - the log cannot have missed a change: the schema is as it was, by SQLite's count of its
**     changes and all that its tables say of the source; or, for a source with an INTEGER PRIMARY
**     KEY, it was changed once at most and the texts that made source and triggers are the same:
**     so a VACUUM passes, or a copy by VACUUM INTO. To drop a trigger and make it again takes two
**     changes.
** A few rows are then looked up, all over the source, to be compared by their hashes: what nobody
** can see by the log (triggers switched off, a hand in the file) is seen in most cases. Where
** anything else is the case all rows are compared.
*/
#ifndef STORED_H
#define STORED_H

#include "snapshot.h"

/* Loading goes on where an interrupt has stopped it, by whichever statement is next. Nobody needs
** what is left of it any more: what was loaded is shared. */
void stored_settle(const snapshot *s);

/* Load what is stored with the first faiss table of the same definition that has something that can
** be used; `of` is a snapshot with a version. Of a growth_loader: *out is NULL where there is
** none. */
int stored_load(void *of, approximate **out, char **message);

/* What growth_origin() says of it: where rows are compared, and where they are not. */
extern const char STORED_COMPARED[], STORED_TRUSTED[];

/* The version that follows from what is stored in the state *from, which stands in the log; NULL
** where there is none that this snapshot's version can be made from. `now` is the snapshot's
** state. */
int stored_version(snapshot *s, const live_state *now, index_version **out, live_state *from,
                   char **message);

/* Look up some rows of a version that was made from that: SQLITE_MISMATCH if the source has
** others. */
int stored_check(snapshot *s, const index_version *v, char **message);

/* Store the approximate index, where there is one, with the faiss table schema.table; not with one
** in temp. Part of the caller's write transaction. `past` is an entry of the source's change log
** that was there before the statement changed anything (seq 0: unknown). */
int stored_save(snapshot *s, const char *schema, const char *table, const live_state *past,
                char **message);

#endif
