/*
** A scan of a faiss table: xFilter to xColumn, for virtual tables and for the
** table-valued function.
*/
#ifndef CURSOR_H
#define CURSOR_H

#include "table.h"

int cursor_open(sqlite3_vtab *base, sqlite3_vtab_cursor **out);
int cursor_close(sqlite3_vtab_cursor *base);
int cursor_filter(sqlite3_vtab_cursor *base, int number, const char *text, int argc,
                  sqlite3_value **argv);
int cursor_next(sqlite3_vtab_cursor *base);
int cursor_eof(sqlite3_vtab_cursor *base);
int cursor_column(sqlite3_vtab_cursor *base, sqlite3_context *context, int column);
int cursor_rowid(sqlite3_vtab_cursor *base, sqlite3_int64 *rowid);

#endif
