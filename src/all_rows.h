/*
** All rows of a table in the order of its source, for functions that go through them from first
** to last: of a table of this connection, or of one that another one publishes.
*/
#ifndef ALL_ROWS_H
#define ALL_ROWS_H

#include "published.h"
#include "snapshot.h"

typedef struct all_rows {
    definition definition;
    snapshot own;             /* of a source of this connection … */
    published_rows published; /* … or what another one publishes */
} all_rows;

/* Find the table that the first two arguments of `function` name, as naming_define() does. All
** zero before, and safe to close on failure. */
int all_rows_define(all_rows *rows, connection *owner, const char *function,
                    sqlite3_value *const names[2], char **message);

/* What is to be done with the rows, once: SQLITE_MISMATCH where those that were read are not those
** of the version. */
typedef int (*all_rows_use)(void *context, snapshot *s, char **message);

/* Open them and use them: a second time where the source was not what the index says, after it has
** been compared. The time of building what is not there yet. */
int all_rows_open(all_rows *rows, connection *owner, all_rows_use use, void *context,
                  char **message);

/* The snapshot whose version holds them; that of a published table is detached. */
snapshot *all_rows_snapshot(all_rows *rows);

/* Hand the id of one to SQLite. */
int all_rows_id(all_rows *rows, const index_hit *hit, sqlite3_context *context, char **message);

/* Let go of all. Safe where nothing was opened, and twice. */
void all_rows_close(all_rows *rows);

#endif
