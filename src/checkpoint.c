#include "checkpoint.h"

#include "sql_text.h"

static char *name_of(const char *table)
{
    return sqlite3_mprintf("%s_checkpoint", table);
}

char *checkpoint_sql(const char *template, const checkpoint_place *place, const char *unless)
{
    char *name = name_of(place->table);
    char *quoted = name ? sql_quote_table(place->schema, name) : NULL;
    char *text = sql_text(template, "checkpoint", quoted, "unless", unless, NULL);
    sqlite3_free(name);
    sqlite3_free(quoted);
    return text;
}

int checkpoint_explain(const checkpoint_place *place, int rc, const char *what, char **message)
{
    if (rc != SQLITE_OK && rc != SQLITE_NOMEM && rc != SQLITE_INTERRUPT && !*message)
        *message = sqlite3_mprintf("cannot %s the shadow table %s.%s_checkpoint: %s", what,
                                   place->schema, place->table, sqlite3_errmsg(place->db));
    return rc;
}

int checkpoint_create(const checkpoint_place *place, char **message)
{
    int rc = sql_execute(place->db, checkpoint_sql(SQL_CHECKPOINT_CREATE, place, ""));
    return checkpoint_explain(place, rc, "make", message);
}

int checkpoint_drop(const checkpoint_place *place)
{
    return sql_execute(place->db, checkpoint_sql(SQL_CHECKPOINT_DROP, place, ""));
}

/* SQLITE_ROW or SQLITE_DONE, or an error. */
static int find_table(const checkpoint_place *place)
{
    char *name = name_of(place->table), *schema = sql_quote(place->schema);
    sqlite3_stmt *found;
    int rc = name ? sql_prepare(place->db, sql_text(SQL_CHECKPOINT_EXISTS, "schema", schema, NULL),
                                &found)
                  : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(found, 1, name, -1, SQLITE_STATIC);
        rc = sqlite3_step(found);
        int finalized = sqlite3_finalize(found);
        rc = finalized == SQLITE_OK ? rc : finalized;
    }
    sqlite3_free(name);
    sqlite3_free(schema);
    return rc;
}

int checkpoint_rename(const checkpoint_place *place, const char *table)
{
    int rc = find_table(place);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? SQLITE_OK : rc;
    char *name = name_of(place->table), *to = name_of(table);
    char *quoted = name ? sql_quote_table(place->schema, name) : NULL;
    char *renamed = to ? sql_quote(to) : NULL;
    rc = sql_execute(place->db,
                     sql_text(SQL_CHECKPOINT_RENAME, "checkpoint", quoted, "name", renamed, NULL));
    sqlite3_free(name);
    sqlite3_free(to);
    sqlite3_free(quoted);
    sqlite3_free(renamed);
    return rc;
}
