#include "host.h"

#include "message.h"
#include "naming.h"
#include "options.h"
#include "publication.h"
#include "snapshot.h"

static const char *text_of(sqlite3_value *value)
{
    return (const char *)sqlite3_value_text(value);
}

static void result_failure(sqlite3_context *context, int rc, char *message)
{
    if (message)
        sqlite3_result_error(context, message, -1);
    sqlite3_result_error_code(context, rc); /* keeps the message */
    sqlite3_free(message);
}

/* ---- faiss_publish ---- */

static int check_name(const char *name, char **message)
{
    if (!*name || sqlite3_stricmp(name, "main") == 0 || sqlite3_stricmp(name, "temp") == 0) {
        return set_message(message,
                           sqlite3_mprintf("cannot publish as '%s': every connection has its own "
                                           "main and temp",
                                           name));
    }
    return SQLITE_OK;
}

/* How the table is indexed: by its own definition if it is a faiss table, else by the
** options, if there are any. */
static int define(connection *c, const char *table, const char *options, definition *d,
                  int *is_table, char **message)
{
    int rc = naming_define(c, "main", table, d, message);
    *is_table = rc == SQLITE_OK && connection_find_table(c, "main", table) != NULL;
    if (rc != SQLITE_OK || !options)
        return rc;
    if (*is_table) {
        return set_message(message,
                           sqlite3_mprintf("main.%s is a faiss table, which has options of its "
                                           "own: give none",
                                           table));
    }
    return options_parse(options, d, message);
}

/* Searches find a table by its file, and visit the host between steps of their own, which
** a database that shares its cache would make wait for each other. */
static int check_file(connection *c, const char *table, char **message)
{
    registry_database database;
    if (connection_identify(c, "main", &database))
        return SQLITE_OK;
    return set_message(message,
                       sqlite3_mprintf("main.%s is in a database in memory, or one with a shared "
                                       "cache: only tables of ordinary files can be published",
                                       table));
}

static int publish(connection *c, const char *name, const char *table, const char *options,
                   char **message)
{
    definition d = {0};
    snapshot s = {0};
    int is_table;
    if (!sqlite3_db_mutex(c->db)) {
        return set_message(message, sqlite3_mprintf("a host connection must be opened in SQLite's "
                                                    "serialized mode (SQLITE_OPEN_FULLMUTEX)"));
    }
    int rc = check_name(name, message);
    if (rc == SQLITE_OK)
        rc = check_file(c, table, message);
    if (rc == SQLITE_OK)
        rc = define(c, table, options, &d, &is_table, message);
    if (rc == SQLITE_OK)
        rc = snapshot_open(c, &d, &s, message);
    if (rc == SQLITE_OK && d.must_be_live && !s.tracked->log.table)
        rc = set_message(message, sqlite3_mprintf("live=on: main.%s has no change log that can be "
                                                  "relied on (%s)",
                                                  table, s.tracked->log.why));
    if (rc == SQLITE_OK)
        rc = publication_add(c, name, is_table ? table : s.source->table, &d, is_table,
                             s.tracked->shared, message);
    snapshot_close(&s);
    definition_clear(&d);
    return rc;
}

/*
** faiss_publish(name, table [, options]): from now on `table` of this connection's schema main can
** be searched from every connection of the process as faiss_search(name, table, ...). Options are
** those of CREATE VIRTUAL TABLE, as in 'metric=cosine, id=slug'; a faiss table has its own.
** Published again, it gets the new options. Until it is unpublished, or the connection closed.
** Gives NULL. Reads no rows: the index is made by the first search, which may be one of this
** connection. Errors: no such table or column; a database that is no file, or has a shared cache; a
** name that another connection publishes under, main, or temp; NULL.
*/
static void faiss_publish(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    char *message = NULL;
    const char *name = text_of(argv[0]), *table = text_of(argv[1]);
    const char *options = argc > 2 ? text_of(argv[2]) : NULL;
    int rc = name && table
                 ? publish(sqlite3_user_data(context), name, table, options, &message)
                 : set_message(&message, sqlite3_mprintf("faiss_publish(name, table [, options]): "
                                                         "name and table must not be NULL"));
    if (rc != SQLITE_OK)
        result_failure(context, rc, message);
}

/*
** faiss_unpublish(name [, table]): searches by that name find the table no more, or none of
** the name's. Gives how many were published. Those that this connection did not publish are
** left alone. Searches under way are read to their end, or get an error.
*/
static void faiss_unpublish(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    connection *c = sqlite3_user_data(context);
    const char *name = text_of(argv[0]), *table = argc > 1 ? text_of(argv[1]) : NULL;
    if (name && (table || argc == 1))
        sqlite3_result_int(context, publication_remove(c, name, table));
    else
        sqlite3_result_int(context, 0);
}

/*
** faiss_limit(bytes): the indexes of tables that are not published may take so much memory
** together; a search on any but a host connection that would need more is an error. 0: as
** much as they like, the default. faiss_limit(): the bound in force, which
** SQLITE_FAISS_LIMIT_MB in the environment sets at first.
*/
static void faiss_limit(sqlite3_context *context, int argc, sqlite3_value **argv)
{
    if (argc == 1) {
        int is_number = sqlite3_value_type(argv[0]) == SQLITE_INTEGER;
        if (!is_number || sqlite3_value_int64(argv[0]) < 0) {
            sqlite3_result_error(context, "faiss_limit: expected a number of bytes, 0 for no limit",
                                 -1);
            return;
        }
        publication_set_limit(sqlite3_value_int64(argv[0]));
    }
    sqlite3_result_int64(context, publication_limit());
}

/* ---- registration ---- */

static const struct {
    const char *name;
    int arguments;
    void (*function)(sqlite3_context *, int, sqlite3_value **);
} functions[] = {
    {"faiss_publish", 2, faiss_publish},     {"faiss_publish", 3, faiss_publish},
    {"faiss_unpublish", 1, faiss_unpublish}, {"faiss_unpublish", 2, faiss_unpublish},
    {"faiss_limit", 0, faiss_limit},         {"faiss_limit", 1, faiss_limit},
};

int host_register(connection *c)
{
    int rc = publication_open_host(c);
    for (size_t i = 0; rc == SQLITE_OK && i < sizeof functions / sizeof *functions; i++) {
        rc = sqlite3_create_function_v2(c->db, functions[i].name, functions[i].arguments,
                                        SQLITE_UTF8 | SQLITE_DIRECTONLY, connection_retain(c),
                                        functions[i].function, NULL, NULL, connection_release);
    }
    return rc;
}
