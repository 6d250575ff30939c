#include "storage.h"

#include <string.h>

#include "index.h"
#include "message.h"
#include "sql_text.h"
#include "triggers.h"

/* ---- looking ---- */

static int not_live(change_log *log, char *why)
{
    sqlite3_free(log->why);
    log->why = why;
    return why ? SQLITE_OK : SQLITE_NOMEM;
}

/* The count of schema changes is part of the state. Triggers that are dropped, and
** made again from their text after the table was written to, look as before; and
** without an INTEGER PRIMARY KEY, VACUUM, which raises the count too, gives rows other
** rowids. */
static int add_schema_version(sqlite3 *db, const source *s, change_log *log)
{
    char *schema = sql_quote(s->schema);
    sqlite3_stmt *pragma;
    int rc = sql_prepare(db, sql_text(SQL_SCHEMA_VERSION, "schema", schema, NULL), &pragma);
    sqlite3_free(schema);
    if (rc == SQLITE_OK && (rc = sqlite3_step(pragma)) == SQLITE_ROW) {
        sqlite3_int64 version = log->schema_version = sqlite3_column_int64(pragma, 0);
        log->schema = index_row_hash((int64_t)log->schema, NULL, 0, &version, sizeof version);
    }
    int finalized = sqlite3_finalize(pragma);
    return rc == SQLITE_ROW ? finalized : rc;
}

/* The newest trigger of the user's that runs after inserts, by its place in the schema: SQLite runs
** those that were made last first. Where it fails, and the statement keeps what it did so far
** (FAIL), a new row is there that ours, which would have come next, does not log. All others of
** ours log before the change. */
typedef struct users_trigger {
    sqlite3_int64 place;
    char *name;
} users_trigger;

/* Note a trigger of the user's, and whether it rules a log out. */
static int inspect_users_trigger(change_log *log, const trigger_list *expected, const char *name,
                                 const char *sql, sqlite3_int64 place, users_trigger *newest)
{
    if (place > newest->place && sqlite3_strlike("%after%insert%", sql, 0) == 0) {
        sqlite3_free(newest->name);
        newest->place = place;
        newest->name = sqlite3_mprintf("%s", name);
        if (!newest->name)
            return SQLITE_NOMEM;
    }
    if (!expected->bodies[REPLACE_TRIGGER] || sqlite3_strlike("%before%", sql, 0) != 0)
        return SQLITE_OK;
    return not_live(log, sqlite3_mprintf("the trigger %s may bring about UNIQUE conflicts that are "
                                         "not seen",
                                         name));
}

/* Compare one object of the schema with what should be there, and add it to the
** fingerprint. `found` takes the places of our triggers. */
static int inspect_object(change_log *log, const trigger_list *expected, sqlite3_int64 *found,
                          users_trigger *newest, sqlite3_stmt *row)
{
    enum { TYPE, NAME, ROWID, ROOT_PAGE, SQL };
    const char *type = (const char *)sqlite3_column_text(row, TYPE);
    const char *name = (const char *)sqlite3_column_text(row, NAME);
    const char *sql = (const char *)sqlite3_column_text(row, SQL);
    if (!type || !name || !sql)
        return SQLITE_NOMEM;
    log->texts = index_row_hash((int64_t)log->texts, NULL, 0, sql, (int)strlen(sql));
    int trigger = strcmp(type, "trigger") == 0 ? trigger_list_find(expected, name) : -1;
    if (strcmp(type, "trigger") == 0 && trigger < 0)
        return inspect_users_trigger(log, expected, name, sql, sqlite3_column_int64(row, ROWID),
                                     newest);
    const char *const prefix = "CREATE TRIGGER ";
    if (trigger >= 0) {
        found[trigger] = sqlite3_column_int64(row, ROWID);
        const char *body = expected->bodies[trigger];
        if (!body || strncmp(sql, prefix, strlen(prefix)) != 0 ||
            strcmp(sql + strlen(prefix), body) != 0)
            return not_live(log, sqlite3_mprintf("the trigger %s does not fit the columns and "
                                                 "indexes as they are now: 'rebuild' makes it anew",
                                                 name));
    }
    sqlite3_int64 place[2] = {sqlite3_column_int64(row, ROWID),
                              sqlite3_column_int64(row, ROOT_PAGE)};
    uint64_t state = index_row_hash((int64_t)log->schema, NULL, 0, place, sizeof place);
    log->schema = index_row_hash((int64_t)state, NULL, 0, sql, (int)strlen(sql));
    return SQLITE_OK;
}

static int find_temporary_trigger(sqlite3 *db, const source *s, int *has)
{
    sqlite3_stmt *triggers;
    if (sqlite3_db_readonly(db, "temp") < 0)
        return SQLITE_OK; /* there is no temporary schema, and looking would make one */
    int rc = sql_prepare_fixed(db, SQL_TEMPORARY_TRIGGERS, &triggers);
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(triggers, 1, s->table, -1, SQLITE_STATIC);
        *has |= sqlite3_step(triggers) == SQLITE_ROW;
    }
    int finalized = sqlite3_finalize(triggers);
    return rc == SQLITE_OK ? finalized : rc;
}

static int inspect_schema(sqlite3 *db, const source *s, const trigger_list *expected,
                          change_log *log)
{
    sqlite3_int64 found[TRIGGERS_MOST] = {0};
    users_trigger newest = {0};
    char *schema = sql_quote(s->schema), *table = sqlite3_mprintf("%Q", s->table);
    sqlite3_stmt *objects;
    int rc = sql_prepare(db, sql_text(SQL_SCHEMA_OBJECTS, "schema", schema, "table", table, NULL),
                         &objects);
    sqlite3_free(schema);
    sqlite3_free(table);
    while (rc == SQLITE_OK && (rc = sqlite3_step(objects)) == SQLITE_ROW)
        rc = inspect_object(log, expected, found, &newest, objects);
    int finalized = sqlite3_finalize(objects);
    rc = rc == SQLITE_DONE ? finalized : rc;
    for (int i = 0; rc == SQLITE_OK && i < expected->count; i++) {
        if (expected->bodies[i] && !found[i])
            rc = not_live(log, sqlite3_mprintf("the trigger %s is missing: 'rebuild' makes it anew",
                                               expected->names[i]));
    }
    if (rc == SQLITE_OK && newest.place > found[INSERT_TRIGGER] && found[INSERT_TRIGGER])
        rc =
            not_live(log, sqlite3_mprintf("the trigger %s was made later and comes before the "
                                          "log's, which a failure of it would leave out: 'rebuild' "
                                          "makes them anew",
                                          newest.name));
    sqlite3_free(newest.name);
    if (rc == SQLITE_OK)
        rc = find_temporary_trigger(db, s, &log->is_overtaken);
    return rc == SQLITE_OK ? add_schema_version(db, s, log) : rc;
}

/* What keeps a source of this kind from having a log; NULL for nothing. */
static const char *obstacle_of_kind(const source *s)
{
    switch (s->kind) {
    case SOURCE_ROWID_TABLE:
        return NULL;
    case SOURCE_WITHOUT_ROWID:
        return "it is a table without a rowid";
    case SOURCE_VIEW:
        return "it is a view";
    default:
        return "it is a virtual table";
    }
}

/* Whether there is a log, and the caller's authorizer lets it be read. */
static int log_exists(sqlite3 *db, const change_log *log, int *exists)
{
    sqlite3_stmt *statement;
    int rc = sql_prepare(db, sql_text(SQL_LOG_LAST, "log", log->table, NULL), &statement);
    sqlite3_finalize(statement);
    *exists = rc == SQLITE_OK;
    return rc == SQLITE_ERROR || rc == SQLITE_AUTH ? SQLITE_OK : rc;
}

int storage_inspect(sqlite3 *db, const source *s, change_log *out, char **message)
{
    *out = (change_log){0};
    const char *kind = obstacle_of_kind(s);
    if (kind)
        return not_live(out, sqlite3_mprintf("%s", kind));
    trigger_parts p;
    trigger_list expected = {0};
    int rc = trigger_parts_gather(db, s, &p);
    if (rc == SQLITE_OK && !p.participants)
        rc = trigger_parts_gather_conflicts(db, &p); /* perhaps there could be none */
    if (rc == SQLITE_OK && !p.participants && !p.obstacle)
        rc = not_live(out, sqlite3_mprintf("no live faiss table in its own schema is over it"));
    else if (rc == SQLITE_OK && p.obstacle)
        rc = not_live(out, sqlite3_mprintf("%s", p.obstacle));
    else if (rc == SQLITE_OK && !trigger_parts_watch(&p, s->embedding))
        rc = not_live(out,
                      sqlite3_mprintf("no live faiss table is over its column %s", s->embedding));
    if (rc == SQLITE_OK && !out->why)
        rc = trigger_list_make(&p, &expected);
    if (rc == SQLITE_OK && !out->why)
        rc = inspect_schema(db, s, &expected, out);
    if (rc == SQLITE_OK && !out->why) {
        char *log = change_log_name(s->table);
        out->table = log ? sql_quote_table(s->schema, log) : NULL;
        rc = out->table ? SQLITE_OK : SQLITE_NOMEM;
        int exists = 0;
        if (rc == SQLITE_OK)
            rc = log_exists(db, out, &exists);
        if (rc == SQLITE_OK && !exists)
            rc = not_live(out, sqlite3_mprintf("its change log %s is missing or may not be read: "
                                               "'rebuild' makes it anew",
                                               log));
        sqlite3_free(log);
    }
    if (out->why) {
        sqlite3_free(out->table);
        out->table = NULL;
    }
    trigger_list_clear(&expected);
    trigger_parts_clear(&p);
    if (rc != SQLITE_OK)
        change_log_clear(out);
    return rc == SQLITE_OK || *message ? rc : source_failure(db, s, rc, message);
}

int storage_obstacle(sqlite3 *db, const source *s, char **why, char **message)
{
    const char *kind = obstacle_of_kind(s);
    *why = kind ? sqlite3_mprintf("%s", kind) : NULL;
    if (kind)
        return *why ? SQLITE_OK : SQLITE_NOMEM;
    trigger_parts p;
    int rc = trigger_parts_gather(db, s, &p);
    if (rc == SQLITE_OK && !p.participants) /* else they are gathered already */
        rc = trigger_parts_gather_conflicts(db, &p);
    *why = p.obstacle;
    p.obstacle = NULL;
    trigger_parts_clear(&p);
    return rc == SQLITE_OK ? rc : source_failure(db, s, rc, message);
}

/* ---- making and removing ---- */

/* What stands where the log would: SQLITE_DONE for nothing, SQLITE_ROW for a change log,
** or an error: a table of the user's. */
static int look_for_log(sqlite3 *db, const source *s, char **message)
{
    char *name = change_log_name(s->table), *schema = sql_quote(s->schema);
    sqlite3_stmt *found;
    int rc = name ? sql_prepare(db, sql_text(SQL_LOG_TABLE, "schema", schema, NULL), &found)
                  : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(found, 1, name, -1, SQLITE_STATIC);
        rc = sqlite3_step(found);
        if (rc == SQLITE_ROW && !sqlite3_column_int(found, 0))
            rc = set_message(message, sqlite3_mprintf("%s.%s is in the way of the change log of %s",
                                                      s->schema, name, s->table));
        sqlite3_finalize(found);
    }
    sqlite3_free(name);
    sqlite3_free(schema);
    return rc;
}

static int run_on_log(sqlite3 *db, const source *s, const char *template)
{
    char *name = change_log_name(s->table);
    char *log = name ? sql_quote_table(s->schema, name) : NULL;
    int rc = sql_execute(db, sql_text(template, "log", log, NULL));
    sqlite3_free(log);
    sqlite3_free(name);
    return rc;
}

/* Drop the log, but not a table of the user's that bears its name. */
static int drop_log(sqlite3 *db, const source *s)
{
    char *message = NULL;
    int rc = look_for_log(db, s, &message);
    int is_the_users = message != NULL;
    sqlite3_free(message);
    if (rc == SQLITE_ROW)
        return run_on_log(db, s, SQL_LOG_DROP);
    return rc == SQLITE_DONE || is_the_users ? SQLITE_OK : rc;
}

static int drop_triggers(sqlite3 *db, const source *s, const trigger_list *list)
{
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < list->count; i++) {
        char *trigger = sql_quote_table(s->schema, list->names[i]);
        rc = sql_execute(db, sql_text(SQL_TRIGGER_DROP, "trigger", trigger, NULL));
        sqlite3_free(trigger);
    }
    return rc;
}

static int create_triggers(sqlite3 *db, const source *s, const trigger_list *list)
{
    int rc = SQLITE_OK;
    char *schema = sql_quote(s->schema);
    for (int i = 0; rc == SQLITE_OK && i < list->count; i++) {
        if (list->bodies[i])
            rc = sql_execute(
                db, sql_text(SQL_TRIGGER_CREATE, "schema", schema, "body", list->bodies[i], NULL));
    }
    sqlite3_free(schema);
    return rc;
}

/* Whether all is there as it should be. */
static int is_armed(sqlite3 *db, const source *s, int *armed, char **message)
{
    change_log log;
    int rc = storage_inspect(db, s, &log, message);
    *armed = rc == SQLITE_OK && log.table;
    change_log_clear(&log);
    return rc;
}

int storage_arm(sqlite3 *db, const source *s, int anew, char **message)
{
    trigger_parts p;
    trigger_list list = {0};
    int armed = 0;
    int rc = anew ? SQLITE_OK : is_armed(db, s, &armed, message);
    if (rc != SQLITE_OK || armed)
        return rc;
    rc = trigger_parts_gather(db, s, &p);
    if (rc == SQLITE_OK)
        rc = trigger_list_make(&p, &list);
    if (rc == SQLITE_OK)
        rc = drop_triggers(db, s, &list);
    int is_live = p.participants && !p.obstacle;
    if (rc == SQLITE_OK && is_live) {
        rc = look_for_log(db, s, message);
        if (rc == SQLITE_DONE)
            rc = run_on_log(db, s, SQL_LOG_CREATE);
    }
    rc = rc == SQLITE_ROW ? SQLITE_OK : rc;
    if (rc == SQLITE_OK && is_live)
        rc = create_triggers(db, s, &list);
    if (rc == SQLITE_OK && is_live)
        rc = run_on_log(db, s, SQL_LOG_CLEAR);
    if (rc == SQLITE_OK && is_live)
        rc = run_on_log(db, s, SQL_LOG_MARK);
    if (rc == SQLITE_OK && !p.participants)
        rc = drop_log(db, s);
    if (rc != SQLITE_OK && rc != SQLITE_NOMEM && !*message)
        *message = sqlite3_mprintf("cannot keep a change log of %s.%s: %s", s->schema, s->table,
                                   sqlite3_errcode(db) == SQLITE_OK ? sqlite3_errstr(rc)
                                                                    : sqlite3_errmsg(db));
    trigger_list_clear(&list);
    trigger_parts_clear(&p);
    return rc;
}

int storage_disarm(sqlite3 *db, const char *schema, const char *table, char **message)
{
    /* Dropping goes by names alone; where live tables are left, the source must be
    ** resolved, and be there. */
    source s = {.schema = (char *)schema, .table = (char *)table, .rowid = "rowid"};
    trigger_parts p;
    trigger_list list = {0};
    int rc = trigger_parts_gather(db, &s, &p);
    if (rc == SQLITE_OK && !p.participants) {
        rc = trigger_list_make(&p, &list);
        if (rc == SQLITE_OK)
            rc = drop_triggers(db, &s, &list);
        if (rc == SQLITE_OK)
            rc = drop_log(db, &s);
    }
    if (rc != SQLITE_OK && rc != SQLITE_NOMEM)
        *message = sqlite3_mprintf("cannot remove the change log of %s.%s: %s", schema, table,
                                   sqlite3_errmsg(db));
    trigger_list_clear(&list);
    trigger_parts_clear(&p);
    return rc;
}
