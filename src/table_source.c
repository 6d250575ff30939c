#include "table_source.h"

#include <string.h>

#include "approximate.h"
#include "message.h"

/* The first row's embedding, in bytes, where the table does not say how long they are; 0 where that
** is no embedding, or there is no row. */
static int first_length(const faiss_table *t, const source *s, int *bytes, char **message)
{
    enum { TYPE, LENGTH };
    sqlite3 *db = t->connection->db;
    sqlite3_stmt *first;
    int rc = source_prepare(db, s, SOURCE_FIRST_EMBEDDING, NULL, &first, message);
    *bytes = t->definition.dimension * VECTOR_COMPONENT_BYTES;
    if (rc == SQLITE_OK && (rc = sqlite3_step(first)) == SQLITE_ROW && !*bytes) {
        const char *type = (const char *)sqlite3_column_text(first, TYPE);
        if (type && strcmp(type, "blob") == 0)
            *bytes = sqlite3_column_int(first, LENGTH);
        if (*bytes % VECTOR_COMPONENT_BYTES)
            *bytes = 0;
    }
    sqlite3_finalize(first);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return SQLITE_OK;
    return *message ? rc : source_failure(db, s, rc, message);
}

/* The error that names the row which the statement stands on: its embedding is none of `bytes`. */
static int refuse_row(const source *s, sqlite3_stmt *odd, int bytes, char **message)
{
    enum { ID, TYPE, LENGTH, KEY };
    row_value id = value_from_sql(sqlite3_column_value(odd, ID));
    char expected[64] = "a BLOB of float32 components";
    if (bytes)
        sqlite3_snprintf(sizeof expected, expected, "a BLOB of %d bytes (%d float32)", bytes,
                         bytes / VECTOR_COMPONENT_BYTES);
    char *found = sqlite3_mprintf("a value of type %s and length %d",
                                  sqlite3_column_text(odd, TYPE), sqlite3_column_int(odd, LENGTH));
    return source_bad_row(s, sqlite3_column_int64(odd, KEY), &id, found, expected, message);
}

/* Refuse the first row whose embedding is none of `bytes`, or of any length, where that is 0. */
static int check_each_row(const faiss_table *t, const source *s, int bytes, char **message)
{
    sqlite3 *db = t->connection->db;
    sqlite3_stmt *odd;
    int rc = source_prepare(db, s, SOURCE_FIRST_ODD_ROW, NULL, &odd, message);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int(odd, 1, bytes);
        rc = sqlite3_step(odd);
    }
    if (rc == SQLITE_ROW)
        rc = refuse_row(s, odd, bytes, message);
    else if (rc == SQLITE_DONE)
        rc = SQLITE_OK;
    else if (!*message)
        rc = source_failure(db, s, rc, message);
    sqlite3_finalize(odd);
    return rc;
}

static int check_rows(const faiss_table *t, const source *s, int *dimension, char **message)
{
    int bytes;
    t->connection->reading_source++;
    int rc = first_length(t, s, &bytes, message);
    if (rc == SQLITE_OK && t->definition.strict)
        rc = check_each_row(t, s, bytes, message);
    t->connection->reading_source--;
    *dimension = bytes / VECTOR_COMPONENT_BYTES;
    return rc;
}

int table_check_name(const faiss_table *t, const char *name, const char *embedding, char **message)
{
    for (int i = 0; i < SEARCH_EFFORTS && *t->definition.kind.text; i++) {
        const char *effort = search_effort_names[i];
        if (sqlite3_stricmp(name, effort) == 0 || sqlite3_stricmp(embedding, effort) == 0)
            return set_message(message, sqlite3_mprintf("%s is a column of faiss tables with an "
                                                        "approximate index: it cannot have another "
                                                        "meaning",
                                                        effort));
    }
    const char *const taken[] = {"id", "score", "distance", "k", embedding};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        if (sqlite3_stricmp(name, taken[i]) == 0) {
            return set_message(message,
                               sqlite3_mprintf("a faiss table cannot have the name of its own "
                                               "column %s",
                                               taken[i]));
        }
        if (i + 1 < sizeof taken / sizeof *taken && sqlite3_stricmp(embedding, taken[i]) == 0) {
            return set_message(message,
                               sqlite3_mprintf("an embedding column named %s cannot be told from "
                                               "the faiss table's own",
                                               embedding));
        }
    }
    return SQLITE_OK;
}

static int is_faiss_table(const connection *c, const source *s)
{
    return s->kind == SOURCE_VIRTUAL && connection_find_table(c, s->schema, s->table);
}

/* Whether the table is to follow its source by a change log: where it can, unless
** the user says otherwise. */
static int decide_live(const faiss_table *t, const source *s, int *live, char **message)
{
    const definition *d = &t->definition;
    char *why = NULL;
    int rc = SQLITE_OK;
    *live = 0;
    if (d->not_live)
        return SQLITE_OK;
    if (sqlite3_stricmp(s->schema, t->schema) != 0)
        why = sqlite3_mprintf("it is in another schema than %s", t->name);
    else
        rc = storage_obstacle(t->connection->db, s, &why, message);
    *live = rc == SQLITE_OK && !why;
    if (rc == SQLITE_OK && !*live && d->must_be_live)
        rc = set_message(message, sqlite3_mprintf("live=on: %s.%s cannot have a change log: %s",
                                                  s->schema, s->table, why));
    sqlite3_free(why);
    return rc;
}

int table_find_source(const faiss_table *t, source *s, char **message)
{
    sqlite3 *db = t->connection->db;
    const definition *d = &t->definition;
    char *schema = NULL;
    int rc = source_find_database(db, d->schema, &schema, message);
    t->connection->reading_source++;
    if (rc == SQLITE_OK)
        rc = source_resolve(db, schema, d->table, d->id, d->embedding, s, message);
    t->connection->reading_source--;
    sqlite3_free(schema);
    if (rc == SQLITE_OK && is_faiss_table(t->connection, s)) {
        rc = set_message(message, sqlite3_mprintf("%s.%s is itself a faiss table: name its source",
                                                  s->schema, s->table));
    }
    return rc == SQLITE_OK ? table_check_name(t, t->name, s->embedding, message) : rc;
}

/* Whether vectors can be left in the source: a search reads them by their rowids. */
static int check_memory(const faiss_table *t, const source *s, char **message)
{
    const definition *d = &t->definition;
    const char *why = s->kind == SOURCE_VIEW      ? "it is a view"
                      : s->kind == SOURCE_VIRTUAL ? "it is a virtual table"
                      : !s->rowid                 ? "its rows have no rowid"
                                                  : NULL;
    if (!d->low_memory || !why)
        return SQLITE_OK;
    return set_message(message,
                       sqlite3_mprintf("memory=low: the vectors of %s.%s cannot be read again row "
                                       "by row: %s",
                                       s->schema, s->table, why));
}

int table_store(faiss_table *t, const source *s, table_settings *put, int anew, column_list *l,
                char **message)
{
    config_place place = table_config_place(t);
    config_settings settings = {.source = s->table, .id = s->id, .strict = t->definition.strict};
    int rc = sqlite3_txn_state(place.db, t->schema) == SQLITE_TXN_WRITE
                 ? check_rows(t, s, &settings.dimension, message)
                 : SQLITE_ABORT_ROLLBACK;
    const definition *d = &t->definition;
    if (rc == SQLITE_OK && *d->kind.text && settings.dimension)
        rc = approximate_check(&d->kind, d->metric, settings.dimension, message);
    if (rc == SQLITE_OK)
        rc = check_memory(t, s, message);
    if (rc == SQLITE_OK)
        rc = decide_live(t, s, &settings.live, message);
    if (rc == SQLITE_OK)
        rc = column_list_of(s, t->name, table_is_approximate(t), l);
    if (rc == SQLITE_OK)
        rc = put(&place, l, &settings, message);
    l->live = settings.live;
    if (rc == SQLITE_OK && settings.live)
        rc = storage_arm(place.db, s, anew, message);
    if (rc == SQLITE_OK && sqlite3_txn_state(place.db, t->schema) != SQLITE_TXN_WRITE)
        rc = SQLITE_ABORT_ROLLBACK;
    return rc;
}
