#include "change_log.h"

#include "index.h"
#include "sql_text.h"

/* Behind the largest number there is no next one: SQLite then draws numbers by chance. */
static const sqlite3_int64 SEQ_MOST = INT64_MAX / 2;

char *change_log_name(const char *table)
{
    return sqlite3_mprintf("%s_faiss_log", table);
}

void change_log_clear(change_log *log)
{
    sqlite3_free(log->table);
    sqlite3_free(log->why);
    *log = (change_log){0};
}

void log_reader_clear(log_reader *reader)
{
    sqlite3_finalize(reader->last);
    sqlite3_finalize(reader->entry);
    sqlite3_finalize(reader->span);
    sqlite3_finalize(reader->changes);
    *reader = (log_reader){0};
}

/* A statement on the log alone, prepared if it is not yet. */
static int prepare_on_log(sqlite3 *db, const change_log *log, const char *template,
                          sqlite3_stmt **statement)
{
    return *statement ? SQLITE_OK
                      : sql_prepare(db, sql_text(template, "log", log->table, NULL), statement);
}

/* A statement on the log and the source. */
static int prepare_on_both(sqlite3 *db, const source *s, const change_log *log,
                           source_statement which, sqlite3_stmt **statement, char **message)
{
    source_query query = {.log = log->table};
    return *statement ? SQLITE_OK : source_prepare(db, s, which, &query, statement, message);
}

/* What tells a row of a run from another that has its rowid: 0 only for none. */
static uint64_t print_of(sqlite3_stmt *row)
{
    enum { KEY = 2, EMBEDDING };
    int type = sqlite3_column_type(row, EMBEDDING);
    if (sqlite3_column_type(row, KEY) == SQLITE_NULL)
        return 0;
    const void *embedding = sqlite3_column_blob(row, EMBEDDING);
    int bytes = embedding ? sqlite3_column_bytes(row, EMBEDDING) : 0;
    uint64_t hash = index_row_hash(sqlite3_column_int64(row, KEY), NULL, 0, embedding, bytes);
    return index_row_hash((int64_t)hash, NULL, 0, &type, sizeof type) | 1;
}

int change_log_last(sqlite3 *db, const source *s, const change_log *log, log_reader *reader,
                    live_state *state, char **message)
{
    enum { SEQ, TAG };
    int rc = prepare_on_both(db, s, log, SOURCE_LOG_STATE, &reader->last, message);
    if (rc != SQLITE_OK)
        return rc;
    while ((rc = sqlite3_step(reader->last)) == SQLITE_ROW) {
        state->seq = sqlite3_column_int64(reader->last, SEQ);
        state->tag = sqlite3_column_int64(reader->last, TAG);
        state->run += print_of(reader->last);
    }
    if (state->seq < 0 || state->seq > SEQ_MOST)
        state->seq = 0;
    int reset = sqlite3_reset(reader->last);
    return rc == SQLITE_DONE ? SQLITE_OK : source_failure(db, s, reset, message);
}

int change_log_has(sqlite3 *db, const change_log *log, log_reader *reader, const live_state *state,
                   int *has)
{
    *has = 0;
    int rc = prepare_on_log(db, log, SQL_LOG_TAG, &reader->entry);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(reader->entry, 1, state->seq);
    *has = sqlite3_step(reader->entry) == SQLITE_ROW &&
           sqlite3_column_int64(reader->entry, 0) == state->tag;
    return sqlite3_reset(reader->entry);
}

int change_log_last_entry(sqlite3 *db, const char *schema, const char *table, live_state *state)
{
    enum { SEQ, ROW, TAG };
    char *name = change_log_name(table);
    char *log = name ? sql_quote_table(schema, name) : NULL;
    sqlite3_stmt *last = NULL;
    *state = (live_state){0};
    int rc = sql_prepare(db, sql_text(SQL_LOG_LAST, "log", log, NULL), &last);
    if (rc == SQLITE_OK && (rc = sqlite3_step(last)) == SQLITE_ROW) {
        state->seq = sqlite3_column_int64(last, SEQ);
        state->tag = sqlite3_column_int64(last, TAG);
    }
    if (state->seq < 0 || state->seq > SEQ_MOST)
        state->seq = 0;
    sqlite3_finalize(last);
    sqlite3_free(log);
    sqlite3_free(name);
    switch (rc & 0xff) {
    case SQLITE_NOMEM:
    case SQLITE_IOERR:
    case SQLITE_FULL:
    case SQLITE_INTERRUPT:
        return rc;
    default:
        return SQLITE_OK;
    }
}

/* There is an entry with a row for every number behind `from` up to `to`. */
int change_log_follows(sqlite3 *db, const change_log *log, log_reader *reader, sqlite3_int64 from,
                       sqlite3_int64 to, sqlite3_int64 most, int *complete)
{
    enum { ENTRIES, ROWS };
    *complete = 0;
    int rc = prepare_on_log(db, log, SQL_LOG_SPAN, &reader->span);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(reader->span, 1, from);
    *complete = sqlite3_step(reader->span) == SQLITE_ROW &&
                sqlite3_column_int64(reader->span, ENTRIES) == to - from &&
                sqlite3_column_int64(reader->span, ROWS) <= most;
    return sqlite3_reset(reader->span);
}

int change_log_changes(sqlite3 *db, const source *s, const change_log *log, log_reader *reader,
                       sqlite3_int64 from, sqlite3_int64 to, sqlite3_int64 most,
                       const sqlite3_int64 *inserted, int *complete, char **message)
{
    int rc = change_log_follows(db, log, reader, from, to, most, complete);
    if (rc != SQLITE_OK)
        return source_failure(db, s, rc, message);
    if (!*complete)
        return SQLITE_OK;
    rc = prepare_on_both(db, s, log, SOURCE_LOG_CHANGES, &reader->changes, message);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(reader->changes, 1, from);
    if (inserted)
        sqlite3_bind_int64(reader->changes, 2, *inserted);
    else
        sqlite3_bind_null(reader->changes, 2);
    return SQLITE_OK;
}
