#include "naming.h"

#include "publication.h"

/* A table that is published, and not as a faiss table: its options hold for this name. */
static int define_published(publication *p, char *schema, definition *out)
{
    int rc = definition_copy(out, publication_definition(p));
    if (rc != SQLITE_OK || !schema)
        return rc;
    sqlite3_free(out->schema);
    out->schema = sqlite3_mprintf("%s", schema);
    return out->schema ? SQLITE_OK : SQLITE_NOMEM;
}

/* A table of this connection: a plain source, or a faiss table. */
static int define_own(connection *c, const char *schema, const char *table, definition *out)
{
    *out = (definition){.strict = 1,
                        .metric = METRIC_KIND_L2,
                        .schema = sqlite3_mprintf("%s", schema),
                        .table = sqlite3_mprintf("%s", table)};
    int exists, rc = out->schema && out->table ? SQLITE_OK : SQLITE_NOMEM;
    if (rc != SQLITE_OK || connection_is_plain(c, out))
        return rc;
    /* What this connection has connected may be gone, or made anew, by another one's doing,
    ** and stay connected as long as a prepared statement names it. */
    rc = source_connect(c->db, out->schema, out->table, &exists);
    const definition *known =
        rc == SQLITE_OK && exists ? connection_find_table(c, out->schema, out->table) : NULL;
    if (!known)
        return rc;
    definition_clear(out);
    return definition_copy(out, known);
}

int naming_define(connection *c, const char *database, const char *table, definition *out,
                  char **message)
{
    char *schema;
    publication *p;
    *out = (definition){0};
    int rc = publication_resolve(c, database, table, &schema, &p, message);
    if (rc != SQLITE_OK)
        return rc;
    if (p && !schema) {
        *out = (definition){.schema = sqlite3_mprintf("%s", publication_name(p)),
                            .table = sqlite3_mprintf("%s", publication_table(p)),
                            .metric = publication_definition(p)->metric,
                            .through = publication_retain(p)};
        rc = out->schema && out->table ? SQLITE_OK : SQLITE_NOMEM;
    } else if (p && !publication_is_faiss_table(p)) {
        rc = define_published(p, schema, out);
    } else {
        rc = define_own(c, schema, table, out);
    }
    if (rc != SQLITE_OK)
        definition_clear(out);
    publication_release(p);
    sqlite3_free(schema);
    return rc;
}
