/*
** What the source holds of a row that a search in a snapshot found. The row is looked up by its
** rowid; where rows have none, values that the index keeps with each row answer. A row that was
** deleted while the search was read is an error that names it.
*/
#ifndef SNAPSHOT_HIT_H
#define SNAPSHOT_HIT_H

#include "snapshot.h"
#include "walk.h"

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

#endif
