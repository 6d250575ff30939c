/*
** What faiss_neighbors, faiss_project, faiss_recall and faiss_indexes have in common: the object
** that SQLite keeps for each (sqlite3_vtab) is nothing but the connection that it works on, and
** arguments are hidden columns that must equal something.
*/
#ifndef FUNCTION_TABLE_H
#define FUNCTION_TABLE_H

#include "connection.h"

typedef struct function_table {
    sqlite3_vtab base;
    connection *connection;
} function_table;

/* Register the module `name` with the connection as its `aux`. */
int function_table_register(connection *c, const char *name, const sqlite3_module *module);

/* The body of an xConnect whose `aux` is a connection: `columns` is the CREATE TABLE that tells
** SQLite what there is. SQLITE_OK, or an error with its message. */
int function_table_connect(sqlite3 *db, void *aux, const char *columns, sqlite3_vtab **out,
                           char **message);

/* An xDisconnect. */
int function_table_disconnect(sqlite3_vtab *base);

/* The body of an xOpen: a cursor of `bytes` bytes, all zero, which begins with its
** sqlite3_vtab_cursor. sqlite3_free() it. */
int function_table_open(size_t bytes, sqlite3_vtab_cursor **out);

/* The arguments of a function, in the order in which xFilter gets them. */
typedef struct function_arguments {
    const char *call;   /* how it is called: "f(a, b [, c])" */
    const int *columns; /* of each, its column */
    int count;          /* 31 at most */
    int needed;         /* a bit for each that cannot be left out */
    double cost;        /* of a call, and the rows that it is thought to have */
    int rows;
} function_arguments;

/*
** The body of an xBestIndex: an argument that is given twice is compared by SQLite the second time,
** and all else that is asked is left to it. SQLITE_CONSTRAINT where an argument is not there yet in
** this order of a join. idxNum gets a bit for each argument that is. SQLite plans the sides of an
** OR without them, and must not take such a plan: where it does, function_table_values() says that
** they were not given.
*/
int function_table_plan(const function_arguments *arguments, sqlite3_index_info *info);

/* The beginning of an xFilter: give each argument its place in values[], NULL pointers where
** idxNum has none. An error where one is missing that is needed. */
int function_table_values(const function_arguments *arguments, int number, sqlite3_value **argv,
                          sqlite3_value **values, char **message);

/* Read the arguments `database` and `table` of `function`, which live as long as the values. An
** error where one is NULL. */
int function_table_names(const char *function, sqlite3_value *const arguments[2],
                         const char **database, const char **table, char **message);

#endif
