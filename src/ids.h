/*
** The ids of rows, kept in memory for sources that cannot be asked for a row
** again: views, and tables without a rowid.
*/
#ifndef IDS_H
#define IDS_H

#include <stddef.h>
#include <stdint.h>

#include "sqlite_api.h"

/* One SQLite value. For TEXT (UTF-8) and BLOB, `bytes` is borrowed from where
** the value came from. */
typedef struct id_value {
    int type; /* SQLITE_INTEGER, SQLITE_FLOAT, SQLITE_TEXT, SQLITE_BLOB, SQLITE_NULL */
    sqlite3_int64 integer;
    double real;
    const unsigned char *bytes;
    int length;
} id_value;

/* Values in order of arrival, packed: a tag and the payload for each. An empty
** list is all zeros. Not changed once its segment is built, and then read by
** any thread. */
typedef struct id_list {
    unsigned char *packed;
    size_t used, room;
    size_t *starts; /* where each value begins in `packed` */
    int count, capacity;
} id_list;

/* The value of a column or argument; text is read as UTF-8. A conversion that
** runs out of memory gives NULL bytes with a length of 0. */
id_value id_from_value(sqlite3_value *value);

/* Hand the value to SQLite as a function's or a column's result. */
void id_to_result(sqlite3_context *context, const id_value *id);

/* The value as an SQL literal for an error message, cut to a readable length;
** the caller frees it. NULL when memory is short. */
char *id_describe(const id_value *id);

/* Append a copy. SQLITE_OK or SQLITE_NOMEM, and then the list is unchanged. */
int id_list_append(id_list *list, const id_value *id);

/* The i-th value, borrowed from the list; 0 <= i < count. */
id_value id_list_get(const id_list *list, int i);

/* Bytes held in memory. */
size_t id_list_bytes(const id_list *list);

void id_list_clear(id_list *list);

#endif
