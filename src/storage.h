/*
** What a live source has in its file: the change log (change_log.h) and the triggers that fill
** it (triggers.h). Both are plain SQL, so that every writer keeps them, with or without this
** extension; this file makes, checks and removes them.
*/
#ifndef STORAGE_H
#define STORAGE_H

#include "change_log.h"

/* Look whether the source has a log that tells all changes of its id and embedding
** columns: the triggers are those that would be made for it now. SQLITE_OK, also
** when it has none. A few statements on the schema. */
int storage_inspect(sqlite3 *db, const source *s, change_log *out, char **message);

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

#endif
