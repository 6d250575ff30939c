/*
** What the programs over a file share: connections with the extension, of which any failure
** ends the program.
*/
#ifndef CONNECTIONS_H
#define CONNECTIONS_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "extension.h"
#include "sqlite_api.h"

enum { BUSY_MS = 60000 };

static inline void fail(const char *what, const char *detail)
{
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

typedef int entry_point(sqlite3 *, char **, const sqlite3_api_routines *);

static inline sqlite3 *open_connection(const char *path, entry_point *load)
{
    sqlite3 *db;
    char *message = NULL;
    if (sqlite3_open(path, &db) != SQLITE_OK)
        fail("open", sqlite3_errmsg(db));
    sqlite3_busy_timeout(db, BUSY_MS);
    if (load(db, &message, NULL) != SQLITE_OK_LOAD_PERMANENTLY)
        fail("load", message);
    return db;
}

static inline void close_connection(sqlite3 *db)
{
    if (sqlite3_close(db) != SQLITE_OK)
        fail("close", sqlite3_errmsg(db));
}

static inline void run(sqlite3 *db, const char *sql)
{
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        fail(sql, sqlite3_errmsg(db));
}

static inline sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        fail(sql, sqlite3_errmsg(db));
    return statement;
}

static inline void remove_file(const char *path)
{
    static const char *const endings[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        char *name = sqlite3_mprintf("%s%s", path, endings[i]);
        unlink(name);
        sqlite3_free(name);
    }
}

#endif
