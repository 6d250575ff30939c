/*
** JSON text exactly as Python's json.dumps() writes it, which is what the
** functions of this extension promise: ", " between elements, the shortest
** digits that read back as the same double, non-ASCII text escaped.
*/
#ifndef JSON_H
#define JSON_H

#include "values.h"
#include "sqlite_api.h"

/* Append a double as Python's repr() prints it: 1.0, 0.1, 1e-05, 1e+16,
** Infinity, -Infinity, NaN. The locale of the process plays no part.
** At most three conversions for a normal double. */
void json_append_double(sqlite3_str *out, double x);

/* Append text (UTF-8, may hold NUL bytes) as a quoted JSON string in ASCII:
** what is not ASCII becomes \uXXXX, beyond the BMP as a surrogate pair, and a
** byte sequence that is no UTF-8 becomes \ufffd. */
void json_append_text(sqlite3_str *out, const unsigned char *text, int bytes);

/* Append an id: INTEGER and REAL as numbers, TEXT as a string, NULL as null.
** Returns SQLITE_MISMATCH and appends nothing for a BLOB, for which JSON has
** no form. */
int json_append_id(sqlite3_str *out, const row_value *id);

#endif
