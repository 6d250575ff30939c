/*
** A scan of a faiss table: xFilter to xColumn, for virtual tables and for the
** table-valued function. Methods of sqlite3_module, each as SQLite documents the one of its name:
** cursor_open() is xOpen, and so on. Failures leave their message in the table (table_failure()).
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
