/*
** What the programs over a file share: making it, connections with the extension, of which any
** failure ends the program, and how long they go on.
*/
#ifndef CONNECTIONS_H
#define CONNECTIONS_H

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "extension.h"
#include "sqlite_api.h"

enum { LOCKED_ASKS_MOST = 600000, LOCKED_RESTS_US = 1000, PATIENCE_SECONDS = 600 };

static inline void fail(const char *what, const char *detail)
{
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

/* Asks for a lock every millisecond, for ten minutes: SQLite's own busy handler asks ten times a
** second in the end, and could miss all of the moments between another writer's transactions, where
** these take long. */
static inline int ask_again(void *unused, int times)
{
    (void)unused;
    usleep(LOCKED_RESTS_US);
    return times < LOCKED_ASKS_MOST;
}

/* Whether a program ends: its time is over, and it came to do all that it counts; a slow or busy
** machine gets more time. */
static inline int is_time_over(time_t finish, int has_done_all)
{
    time_t now = time(NULL);
    return now >= finish && (has_done_all || now >= finish + PATIENCE_SECONDS);
}

typedef int entry_point(sqlite3 *, char **, const sqlite3_api_routines *);

static inline sqlite3 *open_connection(const char *path, entry_point *load)
{
    sqlite3 *db;
    char *message = NULL;
    if (sqlite3_open(path, &db) != SQLITE_OK)
        fail("open", sqlite3_errmsg(db));
    sqlite3_busy_handler(db, ask_again, NULL);
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

/* Make the file that mkstemp() names by its template, in WAL mode, and run `sql` in it. */
static inline void create_file(char *path, const char *sql)
{
    close(mkstemp(path));
    sqlite3 *db = open_connection(path, sqlite3_faiss_init);
    run(db, "PRAGMA journal_mode = wal");
    run(db, sql);
    close_connection(db);
}

/* The same with a table `docs` of so many rows first, whose vectors are of four small whole
** numbers: their scores are exact. */
static inline void create_docs(char *path, int rows, const char *sql)
{
    char *text = sqlite3_mprintf(
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
        "INSERT INTO docs SELECT i, faiss_encode(json_array(i %% 17, i %% 19, i %% 23, i %% 29)) "
        "FROM n;"
        "%s",
        rows, sql);
    create_file(path, text);
    sqlite3_free(text);
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
