#include "snapshot_hit.h"

#include "message.h"

static int row_is_gone(const snapshot *s, int64_t key, char **message)
{
    return set_message(message,
                       sqlite3_mprintf("the row with rowid %lld of %s.%s was deleted%s while the "
                                       "search was read",
                                       (long long)key, s->source->schema, s->source->table,
                                       s->asker ? "" : " by this connection"));
}

/* Let s->lookup stand on the row of this key. */
static int stand_on_row(snapshot *s, int64_t key, char **message)
{
    if (s->lookup_stands && s->lookup_key == key)
        return SQLITE_OK;
    int rc = SQLITE_OK;
    source_query query = {.columns = s->columns};
    s->lookup_stands = 0;
    if (!s->lookup)
        rc = source_prepare(s->connection->db, s->source, SOURCE_ROW_BY_KEY, &query, &s->lookup,
                            message);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_reset(s->lookup);
    sqlite3_bind_int64(s->lookup, 1, key);
    rc = snapshot_step(s, s->lookup);
    if (rc == SQLITE_DONE)
        return row_is_gone(s, key, message);
    if (rc != SQLITE_ROW)
        return source_failure(s->connection->db, s->source, rc, message);
    s->lookup_key = key;
    s->lookup_stands = 1;
    return SQLITE_OK;
}

int snapshot_hit_id(snapshot *s, const index_hit *hit, row_value *id, char **message)
{
    if (s->version->kept_values) {
        *id = index_hit_value(s->version, hit, 0);
        return SQLITE_OK;
    }
    if (s->source->id_is_rowid) {
        *id = (row_value){.type = SQLITE_INTEGER, .integer = hit->key};
        return SQLITE_OK;
    }
    int rc = stand_on_row(s, hit->key, message);
    if (rc == SQLITE_OK)
        *id = value_from_sql(sqlite3_column_value(s->lookup, SOURCE_COLUMN_ID));
    return rc;
}

int snapshot_hit_column(snapshot *s, const index_hit *hit, int place, const char *name,
                        sqlite3_context *context, char **message)
{
    if (!s->version->kept_values) {
        int rc = stand_on_row(s, hit->key, message);
        if (rc == SQLITE_OK)
            sqlite3_result_value(context,
                                 sqlite3_column_value(s->lookup, SOURCE_COLUMN_FIRST + place));
        return rc;
    }
    int i = source_find_column(s->source, name); /* it is there: the caller has looked */
    row_value value = index_hit_value(s->version, hit, 1 + i);
    value_to_result(context, &value);
    return SQLITE_OK;
}

/* Where rows have no key, count to the row: the same statement in the same
** snapshot gives the same order. */
static int embedding_by_ordinal(snapshot *s, int64_t ordinal, sqlite3_context *context,
                                char **message)
{
    sqlite3_stmt *rows;
    int expected = s->version->dimension * VECTOR_COMPONENT_BYTES;
    int rc = source_prepare(s->connection->db, s->source, SOURCE_READ_ALL, NULL, &rows, message);
    if (rc != SQLITE_OK)
        return rc;
    while ((rc = snapshot_step(s, rows)) == SQLITE_ROW) {
        if (sqlite3_column_type(rows, SOURCE_COLUMN_EMBEDDING) != SQLITE_BLOB ||
            sqlite3_column_bytes(rows, SOURCE_COLUMN_EMBEDDING) != expected)
            continue;
        if (ordinal-- == 0) {
            sqlite3_result_value(context, sqlite3_column_value(rows, SOURCE_COLUMN_EMBEDDING));
            break;
        }
    }
    if (rc == SQLITE_DONE)
        rc = row_is_gone(s, ordinal, message);
    else if (rc != SQLITE_ROW)
        rc = source_failure(s->connection->db, s->source, rc, message);
    sqlite3_finalize(rows);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

static int embedding_by_key(snapshot *s, int64_t key, sqlite3_context *context, char **message)
{
    sqlite3 *db = s->connection->db;
    int rc = SQLITE_OK;
    if (!s->embedding)
        rc = source_prepare(db, s->source, SOURCE_EMBEDDING_BY_KEY, NULL, &s->embedding, message);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(s->embedding, 1, key);
    rc = snapshot_step(s, s->embedding);
    if (rc == SQLITE_ROW)
        sqlite3_result_value(context, sqlite3_column_value(s->embedding, SOURCE_COLUMN_EMBEDDING));
    else if (rc == SQLITE_DONE)
        rc = row_is_gone(s, key, message);
    else
        rc = source_failure(db, s->source, rc, message);
    sqlite3_reset(s->embedding);
    return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

int snapshot_hit_embedding(snapshot *s, const index_hit *hit, sqlite3_context *context,
                           char **message)
{
    const index_version *v = s->version;
    if (!v->kept_values)
        return embedding_by_key(s, hit->key, context, message);
    if (v->metric == METRIC_KIND_COSINE)
        return embedding_by_ordinal(s, hit->key, context, message);
    sqlite3_result_blob(context, segment_vector(v->segments[hit->segment], hit->slot),
                        v->dimension * VECTOR_COMPONENT_BYTES, SQLITE_TRANSIENT);
    return SQLITE_OK;
}
