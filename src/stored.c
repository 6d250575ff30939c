#include "stored.h"

#include "checkpoint.h"
#include "growth.h"

/* The name of the n-th faiss table of this connection that the snapshot's definition may come
** from: names that are the caller's, since tables may go while one is read. */
static int find_table(const snapshot *s, int n, char **schema, char **table)
{
    *schema = *table = NULL;
    for (const connected_table *t = s->connection->tables; t && !*table; t = t->next) {
        if (!definition_equal(t->definition, &s->tracked->asked) || n-- > 0)
            continue;
        *schema = sqlite3_mprintf("%s", t->schema);
        *table = sqlite3_mprintf("%s", t->name);
        if (!*schema || !*table)
            return SQLITE_NOMEM;
    }
    return SQLITE_OK;
}

static checkpoint_shape shape_of(const snapshot *s)
{
    const index_version *v = s->version;
    return (checkpoint_shape){&s->tracked->asked.kind, v->metric, v->dimension,
                              v->keeping == INDEX_CODES};
}

int stored_load(void *of, approximate **out, char **message)
{
    snapshot *s = of;
    const checkpoint_shape shape = shape_of(s);
    int rc = SQLITE_OK, is_last = 0;
    *out = NULL;
    for (int n = 0; rc == SQLITE_OK && !*out && !is_last; n++) {
        checkpoint_place place = {.db = s->connection->db};
        char *schema, *table;
        rc = find_table(s, n, &schema, &table);
        is_last = !table;
        place.schema = schema;
        place.table = table;
        if (rc == SQLITE_OK && !is_last)
            rc = checkpoint_load(&place, &shape, snapshot_poll, s, out, message);
        sqlite3_free(schema);
        sqlite3_free(table);
    }
    return rc;
}

int stored_save(snapshot *s, const char *schema, const char *table, char **message)
{
    const index_kind *kind = &s->tracked->asked.kind;
    /* A table in temp goes with its connection. */
    if (!*kind->text || sqlite3_stricmp(schema, "temp") == 0)
        return SQLITE_OK;
    approximate *current = growth_current(s->version);
    if (!current)
        return SQLITE_OK;
    const checkpoint_place place = {s->connection->db, schema, table};
    const checkpoint_shape shape = shape_of(s);
    int rc = checkpoint_save(&place, &shape, current, snapshot_poll, s, message);
    approximate_release(current);
    return rc;
}
