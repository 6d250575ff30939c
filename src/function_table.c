#include "function_table.h"

#include <string.h>

#include "message.h"
#include "sql_text.h"

static const double NO_RESORT = 1e18; /* the cost of a plan without arguments */

int function_table_register(connection *c, const char *name, const sqlite3_module *module)
{
    return sqlite3_create_module_v2(c->db, name, module, connection_retain(c), connection_release);
}

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

int function_table_open(size_t bytes, sqlite3_vtab_cursor **out)
{
    *out = sqlite3_malloc64(bytes);
    if (!*out)
        return SQLITE_NOMEM;
    memset(*out, 0, bytes);
    return SQLITE_OK;
}

/* The place of a column among the arguments, -1 for none. */
static int argument_of(const function_arguments *arguments, int column)
{
    int i = arguments->count - 1;
    while (i >= 0 && arguments->columns[i] != column)
        i--;
    return i;
}

int function_table_plan(const function_arguments *arguments, sqlite3_index_info *info)
{
    int constraints[31], place = 0;
    for (int i = 0; i < arguments->count; i++)
        constraints[i] = -1;
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        int argument = argument_of(arguments, c->iColumn);
        if (argument < 0 || c->op != SQLITE_INDEX_CONSTRAINT_EQ)
            continue;
        if (!c->usable)
            return SQLITE_CONSTRAINT;
        if (constraints[argument] < 0)
            constraints[argument] = i;
    }
    info->idxNum = 0;
    for (int i = 0; i < arguments->count; i++) {
        if (constraints[i] < 0)
            continue;
        info->aConstraintUsage[constraints[i]].argvIndex = ++place;
        info->aConstraintUsage[constraints[i]].omit = 1;
        info->idxNum |= 1 << i;
    }
    int complete = (info->idxNum & arguments->needed) == arguments->needed;
    info->estimatedRows = arguments->rows;
    info->estimatedCost = complete ? arguments->cost : NO_RESORT;
    return SQLITE_OK;
}

int function_table_values(const function_arguments *arguments, int number, sqlite3_value **argv,
                          sqlite3_value **values, char **message)
{
    for (int i = 0; i < arguments->count; i++)
        values[i] = number >> i & 1 ? *argv++ : NULL;
    if ((number & arguments->needed) == arguments->needed)
        return SQLITE_OK;
    return set_message(message, sqlite3_mprintf("%s: an argument is missing", arguments->call));
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
