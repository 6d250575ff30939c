#include "extension.h"

SQLITE_EXTENSION_INIT1

#include <stdatomic.h>

#include "connection.h"
#include "functions.h"
#include "host.h"
#include "indexes_table.h"
#include "neighbors_table.h"
#include "project_table.h"
#include "recall_table.h"
#include "search_table.h"
#include "table.h"

enum { SQLITE_NEEDED = 3038000 /* sqlite3_vtab_in(), LIMIT constraints */ };

#ifdef _WIN32
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

/*
** Two copies of SQLite may be in one process, such as Python's and the one inside apsw.
** All calls go through one table of pointers, and what is shared is in one copy's
** memory, so that the first copy that loads the extension is the only one.
*/
static int is_other_copy(const sqlite3_api_routines *api, char **message)
{
#ifndef SQLITE_CORE
    static _Atomic(const sqlite3_api_routines *) first;
    const sqlite3_api_routines *expected = NULL;
    if (!atomic_compare_exchange_strong(&first, &expected, api) && expected != api) {
        *message =
            api->mprintf("sqlite-faiss is loaded into another copy of SQLite in this process "
                         "already (%s, this is %s): use one of them",
                         expected->libversion(), api->libversion());
        return 1;
    }
#else
    (void)api;
    (void)message;
#endif
    return 0;
}

static int register_all(connection *c)
{
    int rc = functions_register(c);
    if (rc == SQLITE_OK)
        rc = table_register(c);
    if (rc == SQLITE_OK)
        rc = search_table_register(c);
    if (rc == SQLITE_OK)
        rc = indexes_table_register(c);
    if (rc == SQLITE_OK)
        rc = neighbors_table_register(c);
    if (rc == SQLITE_OK)
        rc = project_table_register(c);
    if (rc == SQLITE_OK)
        rc = recall_table_register(c);
    c->is_registered = rc == SQLITE_OK;
    return rc;
}

/* Loaded again, all is left as it is: modules that were registered anew would disconnect
** what is in use. */
static int load(sqlite3 *db, int is_host, char **message)
{
    if (sqlite3_libversion_number() < SQLITE_NEEDED) {
        *message = sqlite3_mprintf("sqlite-faiss needs SQLite 3.38.0 or newer: this is %s",
                                   sqlite3_libversion());
        return SQLITE_ERROR;
    }
    connection *c = connection_of(db);
    if (!c)
        return SQLITE_NOMEM;
    int rc = c->is_registered ? SQLITE_OK : register_all(c);
    if (rc == SQLITE_OK && is_host && !c->host)
        rc = host_register(c);
    connection_release(c);
    return rc == SQLITE_OK ? SQLITE_OK_LOAD_PERMANENTLY : rc;
}

EXPORTED int sqlite3_faiss_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    if (is_other_copy(api, message))
        return SQLITE_ERROR;
    SQLITE_EXTENSION_INIT2(api);
    return load(db, 0, message);
}

EXPORTED int sqlite3_faiss_host_init(sqlite3 *db, char **message, const sqlite3_api_routines *api)
{
    if (is_other_copy(api, message))
        return SQLITE_ERROR;
    SQLITE_EXTENSION_INIT2(api);
    return load(db, 1, message);
}
