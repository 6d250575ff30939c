/*
** What faiss_neighbors, faiss_project, faiss_recall and faiss_indexes have in common: the object
** that SQLite keeps for each (sqlite3_vtab) is nothing but the connection that it works on.
*/
#ifndef FUNCTION_TABLE_H
#define FUNCTION_TABLE_H

#include "connection.h"

typedef struct function_table {
    sqlite3_vtab base;
    connection *connection;
} function_table;

/* The body of an xConnect whose `aux` is a connection: `columns` is the CREATE TABLE that tells
** SQLite what there is. SQLITE_OK, or an error with its message. */
int function_table_connect(sqlite3 *db, void *aux, const char *columns, sqlite3_vtab **out,
                           char **message);

/* An xDisconnect. */
int function_table_disconnect(sqlite3_vtab *base);

/* Read the arguments `database` and `table` of `function`, which live as long as the values. An
** error where one is NULL. */
int function_table_names(const char *function, sqlite3_value *const arguments[2],
                         const char **database, const char **table, char **message);

#endif
