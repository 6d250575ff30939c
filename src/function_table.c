#include "function_table.h"

#include "message.h"
#include "sql_text.h"

int function_table_connect(sqlite3 *db, void *aux, const char *columns, sqlite3_vtab **out,
                           char **message)
{
    int rc = sql_declare(db, columns, message);
    function_table *t = rc == SQLITE_OK ? sqlite3_malloc64(sizeof *t) : NULL;
    if (!t)
        return rc == SQLITE_OK ? SQLITE_NOMEM : rc;
    *t = (function_table){.connection = connection_retain(aux)};
    *out = &t->base;
    return SQLITE_OK;
}

int function_table_disconnect(sqlite3_vtab *base)
{
    connection_release(((function_table *)base)->connection);
    sqlite3_free(base);
    return SQLITE_OK;
}

int function_table_names(const char *function, sqlite3_value *const arguments[2],
                         const char **database, const char **table, char **message)
{
    *database = (const char *)sqlite3_value_text(arguments[0]);
    *table = (const char *)sqlite3_value_text(arguments[1]);
    if (*database && *table)
        return SQLITE_OK;
    return set_message(message,
                       sqlite3_mprintf("%s: database and table must be names, not NULL", function));
}
