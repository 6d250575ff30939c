/*
** The entry point.
*/
#ifndef EXTENSION_H
#define EXTENSION_H

#include <sqlite3ext.h>

/*
** Loaded by `.load ./faiss`, load_extension() and the like: registers the
** functions, the module `faiss` and the table-valued functions on `db`. Needs
** SQLite 3.38; says so in *message otherwise. Returns SQLITE_OK_LOAD_PERMANENTLY,
** since the process's indexes outlive the connection.
*/
int sqlite3_faiss_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);

#endif
