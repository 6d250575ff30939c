/*
** The entry points.
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

/*
** Loaded by a server on a connection that runs nobody else's SQL, as in
** load_extension('faiss', 'sqlite3_faiss_host_init'): the same, and the functions with which
** tables of this connection are published to the others of the process (host.h).
*/
int sqlite3_faiss_host_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);

#endif
