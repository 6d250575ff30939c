/*
** SQL values: as they are read, and packed in memory for sources that cannot be
** asked for a row again (views, and tables without a rowid).
*/
#ifndef VALUES_H
#define VALUES_H

#include <stddef.h>
#include <stdint.h>

#include "sqlite_api.h"

/* One SQLite value. For TEXT (UTF-8) and BLOB, `bytes` is borrowed from where
** the value came from. */
typedef struct row_value {
    int type; /* SQLITE_INTEGER, SQLITE_FLOAT, SQLITE_TEXT, SQLITE_BLOB, SQLITE_NULL */
    sqlite3_int64 integer;
    double real;
    const unsigned char *bytes;
    int length;
} row_value;

/* Values in order of arrival, packed: a tag and the payload for each. An empty
** list is all zeros. Not changed once its segment is built, and then read by
** any thread. */
typedef struct value_list {
    unsigned char *packed;
    size_t used, room;
    size_t *starts; /* where each value begins in `packed` */
    int count, capacity;
} value_list;

/* The value of a column or argument; text is read as UTF-8. A conversion that
** runs out of memory gives NULL bytes with a length of 0. */
row_value value_from_sql(sqlite3_value *value);

/* Hand the value to SQLite as a function's or a column's result. */
void value_to_result(sqlite3_context *context, const row_value *id);

/* The value as an SQL literal for an error message, cut to a readable length;
** the caller frees it. NULL when memory is short. */
char *value_describe(const row_value *id);

/* Append a copy. SQLITE_OK or SQLITE_NOMEM, and then the list is unchanged. */
int value_list_append(value_list *list, const row_value *id);

/* The i-th value, borrowed from the list; 0 <= i < count. */
row_value value_list_get(const value_list *list, int i);

/* Bytes held in memory. */
size_t value_list_bytes(const value_list *list);

/* Free the values; the list is empty then. */
void value_list_clear(value_list *list);

#endif
