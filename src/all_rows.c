#include "all_rows.h"

#include "function_table.h"
#include "naming.h"
#include "snapshot_hit.h"
#include "snapshot_version.h"

int all_rows_define(all_rows *rows, connection *owner, const char *function,
                    sqlite3_value *const names[2], char **message)
{
    const char *database, *table;
    int rc = function_table_names(function, names, &database, &table, message);
    return rc == SQLITE_OK ? naming_define(owner, database, table, &rows->definition, message) : rc;
}

static int use_own(all_rows *rows, all_rows_use use, void *context, char **message)
{
    index_version *v;
    int rc = snapshot_index_in_order(&rows->own, &v, message);
    if (rc == SQLITE_OK && v->rows > 0)
        rc = snapshot_begin_search(&rows->own, v->dimension, message);
    return rc == SQLITE_OK ? use(context, &rows->own, message) : rc;
}

int all_rows_open(all_rows *rows, connection *owner, all_rows_use use, void *context,
                  char **message)
{
    index_version *v;
    if (rows->definition.through) {
        int rc = published_rows_open(rows->definition.through, owner, &rows->published, message);
        return rc == SQLITE_OK ? use(context, &rows->published.detached, message) : rc;
    }
    int rc = snapshot_open(owner, &rows->definition, &rows->own, message);
    if (rc == SQLITE_OK)
        rc = use_own(rows, use, context, message);
    if (rc != SQLITE_MISMATCH)
        return rc;
    rc = snapshot_compare(&rows->own, &v, message);
    return rc == SQLITE_OK ? use_own(rows, use, context, message) : rc;
}

snapshot *all_rows_snapshot(all_rows *rows)
{
    return rows->definition.through ? &rows->published.detached : &rows->own;
}

int all_rows_id(all_rows *rows, const index_hit *hit, sqlite3_context *context, char **message)
{
    row_value id;
    int rc = SQLITE_OK;
    if (rows->definition.through)
        id = published_rows_id(&rows->published, hit);
    else
        rc = snapshot_hit_id(&rows->own, hit, &id, message);
    if (rc == SQLITE_OK)
        value_to_result(context, &id);
    return rc;
}

void all_rows_close(all_rows *rows)
{
    snapshot_close(&rows->own);
    published_rows_close(&rows->published);
    definition_clear(&rows->definition);
}
