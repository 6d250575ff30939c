#include "snapshot_state.h"

#include "sql_text.h"

/* Before that version an extension cannot call it: the table of pointers ends. */
enum { SERIALIZE_AVAILABLE = 3039000 };

/* Mix the state of one schema into a fingerprint: SQLite's data version moves
** with every commit that this connection sees; a database in memory that was
** replaced as a whole (sqlite3_deserialize) has another address. */
static uint64_t schema_state(sqlite3 *db, const char *schema, uint64_t state)
{
    unsigned version = 0;
    sqlite3_int64 size = 0;
    int rc = sqlite3_file_control(db, schema, SQLITE_FCNTL_DATA_VERSION, &version);
    const char *path = sqlite3_db_filename(db, schema);
    uint64_t address = 0;
    if ((!path || !*path) && sqlite3_libversion_number() >= SERIALIZE_AVAILABLE)
        address =
            (uint64_t)(uintptr_t)sqlite3_serialize(db, schema, &size, SQLITE_SERIALIZE_NOCOPY);
    uint64_t parts[] = {state, (uint64_t)rc, version, address, (uint64_t)size};
    return index_row_hash(0, NULL, 0, parts, sizeof parts);
}

/* Only a temporary view may read other schemas than its own. */
uint64_t snapshot_file_state(const snapshot *s)
{
    sqlite3 *db = s->connection->db;
    const source *src = s->source;
    uint64_t state = schema_state(db, src->schema, 0);
    if (src->kind != SOURCE_VIEW || sqlite3_stricmp(src->schema, "temp") != 0)
        return state;
    sqlite3_stmt *list;
    if (sql_prepare(db, sql_text(SQL_DATABASE_LIST, NULL), &list) == SQLITE_OK) {
        while (sqlite3_step(list) == SQLITE_ROW)
            state = schema_state(db, (const char *)sqlite3_column_text(list, 1), state);
    }
    sqlite3_finalize(list);
    return state;
}

/* Whether another connection's open transaction shows: only with a shared cache,
** which a file's name tells and a database in memory does not. */
static int reads_uncommitted(const snapshot *s)
{
    sqlite3_stmt *pragma;
    int on = 0;
    if (s->tracked->is_file)
        return 0;
    if (sql_prepare_fixed(s->connection->db, "PRAGMA read_uncommitted", &pragma) == SQLITE_OK)
        on = sqlite3_step(pragma) == SQLITE_ROW && sqlite3_column_int(pragma, 0);
    sqlite3_finalize(pragma);
    return on;
}

int snapshot_is_writing(const snapshot *s)
{
    int everywhere = sqlite3_stricmp(s->source->schema, "temp") == 0;
    int state = sqlite3_txn_state(s->connection->db, everywhere ? NULL : s->source->schema);
    return state == SQLITE_TXN_WRITE || reads_uncommitted(s);
}

int snapshot_is_mid_statement(const snapshot *s)
{
    for (sqlite3_stmt *each = sqlite3_next_stmt(s->connection->db, NULL); each;
         each = sqlite3_next_stmt(s->connection->db, each)) {
        if (sqlite3_stmt_busy(each) && !sqlite3_stmt_readonly(each))
            return 1;
    }
    return 0;
}

int snapshot_live_state(snapshot *s, live_state *state, char **message)
{
    tracked_source *t = s->tracked;
    *state = (live_state){.schema = t->log.schema};
    if (!t->log.table || t->asked.not_live)
        return SQLITE_OK;
    /* The embedding may be computed by a function that searches. */
    s->connection->reading_source++;
    int rc = change_log_last(s->connection->db, s->source, &t->log, &t->log_reader, state, message);
    s->connection->reading_source--;
    return rc;
}

int snapshot_log_has(snapshot *s, const live_state *state, int *has, char **message)
{
    tracked_source *t = s->tracked;
    int rc = change_log_has(s->connection->db, &t->log, &t->log_reader, state, has);
    return rc == SQLITE_OK ? rc : source_failure(s->connection->db, s->source, rc, message);
}
