#include "storage.h"

#include <string.h>

#include "index.h"
#include "message.h"
#include "sql_text.h"

/* Behind the largest number there is no next one: SQLite then draws numbers by chance. */
static const sqlite3_int64 SEQ_MOST = INT64_MAX / 2;

enum { INSERT_TRIGGER, REPLACE_TRIGGER, TRIGGERS_MOST = 6 }; /* in the order of list_triggers() */

/* The triggers that a source should have. */
typedef struct trigger_list {
    char *names[TRIGGERS_MOST];
    char *bodies[TRIGGERS_MOST]; /* all that comes behind CREATE TRIGGER; NULL: nothing to do */
    int count;
} trigger_list;

/* What the triggers are made from. Texts are owned. */
typedef struct trigger_parts {
    const source *source;
    char *table, *log, *trim, *cut; /* names quoted, without the schema; the end of every body */
    int participants;
    int any_conflict;     /* an update of any column may bring about a UNIQUE conflict */
    int any_update;       /* an embedding or an id is generated */
    sqlite3_str *columns; /* of UPDATE OF: "a", "b" */
    sqlite3_str *checks;  /* statements that refuse malformed embeddings */
    sqlite3_str *unfit;   /* whether one of these would: " OR …" */
    sqlite3_str *insert_victims, *update_victims;
    sqlite3_str *insert_found, *update_found, *rowids;
    sqlite3_str *unique_columns;
    char *obstacle;
} trigger_parts;

static char *name_of(const source *s, const char *suffix)
{
    return sqlite3_mprintf("%s_faiss_%s", s->table, suffix);
}

/* ---- the faiss tables over a source ---- */

/* Whether a list of quoted names has this one. Within a name quotes are doubled, so that
** what stands between separators is a name. */
static int has_name(sqlite3_str *list, const char *name)
{
    char *quoted = sql_quote(name);
    const char *text = sqlite3_str_value(list), *at = quoted ? text : NULL;
    size_t length = quoted ? strlen(quoted) : 0;
    int has = 0;
    while (!has && at && (at = strstr(at, quoted)) != NULL) {
        has = (at == text || at[-1] == ' ') && (at[length] == 0 || at[length] == ',');
        at++;
    }
    sqlite3_free(quoted);
    return has;
}

static void add_name(sqlite3_str *list, const char *name)
{
    if (!has_name(list, name))
        sqlite3_str_appendf(list, "%s\"%w\"", sqlite3_str_length(list) ? ", " : "", name);
}

static int find_generated(sqlite3 *db, const source *s, const char *column, int *any)
{
    sqlite3_stmt *pragma;
    int rc = sql_prepare_fixed(db, SQL_GENERATED_COLUMN, &pragma);
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(pragma, 1, s->table, -1, SQLITE_STATIC);
        sqlite3_bind_text(pragma, 2, s->schema, -1, SQLITE_STATIC);
        sqlite3_bind_text(pragma, 3, column, -1, SQLITE_STATIC);
        *any |= sqlite3_step(pragma) == SQLITE_ROW && sqlite3_column_int(pragma, 0);
    }
    int finalized = sqlite3_finalize(pragma);
    return rc == SQLITE_OK ? finalized : rc;
}

/* Append the statement that refuses malformed embeddings. */
static int add_check(trigger_parts *p, const char *embedding, int dimension)
{
    int bytes = dimension * VECTOR_COMPONENT_BYTES;
    char *column = sql_quote(embedding);
    char *expected = dimension
                         ? sqlite3_mprintf("%s.%s must be NULL or a BLOB of %d bytes (%d float32)",
                                           p->source->table, embedding, bytes, dimension)
                         : sqlite3_mprintf("%s.%s must be NULL or a BLOB of float32 components",
                                           p->source->table, embedding);
    char *text = expected ? sqlite3_mprintf("%Q", expected) : NULL;
    char *length = dimension ? sqlite3_mprintf("length(NEW.%s) = %d", column, bytes)
                             : sqlite3_mprintf("length(NEW.%s) %% 4 = 0 AND length(NEW.%s) > 0",
                                               column, column);
    char *unfit = sql_text(SQL_TRIGGER_UNFIT, "embedding", column, "length", length, NULL);
    char *check = sql_text(SQL_TRIGGER_CHECK, "text", text, "unfit", unfit, NULL);
    int rc = check ? SQLITE_OK : SQLITE_NOMEM;
    const char *present = sqlite3_str_value(p->checks);
    if (check && !(present && strstr(present, check))) {
        sqlite3_str_appendf(p->checks, "%s ", check);
        sqlite3_str_appendf(p->unfit, " OR %s", unfit);
    }
    sqlite3_free(check);
    sqlite3_free(unfit);
    sqlite3_free(length);
    sqlite3_free(text);
    sqlite3_free(expected);
    sqlite3_free(column);
    return rc;
}

/* Take in a faiss table, if its settings say that it is live and over this source. */
static int add_participant(sqlite3 *db, trigger_parts *p, const char *config)
{
    enum { SOURCE, ID, EMBEDDING, DIMENSION, STRICT, LIVE };
    char *table = sql_quote_table(p->source->schema, config);
    sqlite3_stmt *settings;
    int rc = sql_prepare(db, sql_text(SQL_PARTICIPANT, "config", table, NULL), &settings);
    sqlite3_free(table);
    if (rc != SQLITE_OK)
        return rc == SQLITE_ERROR ? SQLITE_OK : rc; /* some other table */
    if (sqlite3_step(settings) == SQLITE_ROW) {
        const char *over = (const char *)sqlite3_column_text(settings, SOURCE);
        const char *id = (const char *)sqlite3_column_text(settings, ID);
        const char *embedding = (const char *)sqlite3_column_text(settings, EMBEDDING);
        int is_live = sqlite3_column_int(settings, LIVE);
        if (over && embedding && is_live && sqlite3_stricmp(over, p->source->table) == 0) {
            p->participants++;
            add_name(p->columns, embedding);
            rc = find_generated(db, p->source, embedding, &p->any_update);
            if (id && *id) {
                add_name(p->columns, id);
                if (rc == SQLITE_OK)
                    rc = find_generated(db, p->source, id, &p->any_update);
            }
            if (rc == SQLITE_OK && sqlite3_column_int(settings, STRICT))
                rc = add_check(p, embedding, sqlite3_column_int(settings, DIMENSION));
        }
    }
    int finalized = sqlite3_finalize(settings);
    return rc == SQLITE_OK ? finalized : rc;
}

static int gather_participants(sqlite3 *db, trigger_parts *p)
{
    char *schema = sql_quote(p->source->schema);
    sqlite3_stmt *list;
    int rc = sql_prepare(db, sql_text(SQL_CONFIG_TABLES, "schema", schema, NULL), &list);
    sqlite3_free(schema);
    while (rc == SQLITE_OK && (rc = sqlite3_step(list)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(list, 0);
        rc = name ? add_participant(db, p, name) : SQLITE_NOMEM;
    }
    int finalized = sqlite3_finalize(list);
    return rc == SQLITE_DONE ? finalized : rc;
}

/* ---- UNIQUE indexes ---- */

/* The condition under which one index finds a row that a new one replaces. */
typedef struct conflict {
    char *index;
    sqlite3_str *condition;
} conflict;

static int add_victims(trigger_parts *p, conflict *c)
{
    char *condition = c->condition ? sqlite3_str_finish(c->condition) : NULL;
    const char *rowid = p->source->rowid;
    int rc = SQLITE_OK;
    if (c->index && !condition && !p->obstacle) {
        p->obstacle = sqlite3_mprintf("the UNIQUE index %s is on an expression", c->index);
        rc = p->obstacle ? SQLITE_OK : SQLITE_NOMEM;
    } else if (condition) {
        char *others = sqlite3_mprintf("%s AND s.%s <> OLD.%s", condition, rowid, rowid);
        char *insert = sql_text(SQL_TRIGGER_VICTIMS, "log", p->log, "rowid", rowid, "table",
                                p->table, "conflict", condition, NULL);
        char *update = sql_text(SQL_TRIGGER_VICTIMS, "log", p->log, "rowid", rowid, "table",
                                p->table, "conflict", others, NULL);
        char *insert_found =
            sql_text(SQL_TRIGGER_FOUND, "table", p->table, "conflict", condition, NULL);
        char *update_found =
            sql_text(SQL_TRIGGER_FOUND, "table", p->table, "conflict", others, NULL);
        rc = insert && update && insert_found && update_found ? SQLITE_OK : SQLITE_NOMEM;
        if (rc == SQLITE_OK) {
            const char * or = sqlite3_str_length(p->insert_found) ? " OR " : "";
            sqlite3_str_appendf(p->insert_found, "%s%s", or, insert_found);
            sqlite3_str_appendf(p->update_found, "%s%s", or, update_found);
            sqlite3_str_appendf(p->insert_victims, "%s ", insert);
            sqlite3_str_appendf(p->update_victims, "%s ", update);
        }
        sqlite3_free(insert_found);
        sqlite3_free(update_found);
        sqlite3_free(others);
        sqlite3_free(insert);
        sqlite3_free(update);
    }
    sqlite3_free(condition);
    sqlite3_free(c->index);
    *c = (conflict){0};
    return rc;
}

/* A column's default as an expression. SQLite takes a word or a quoted name there for a
** text, and would take it for a column in a trigger. */
static char *default_expression(const char *text)
{
    static const char *const constants[] = {"true",         "false",        "null",
                                            "current_time", "current_date", "current_timestamp"};
    size_t word = strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789$");
    int is_word = (text[0] > '9' || text[0] == '_') && text[word] == 0;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        is_word &= sqlite3_stricmp(text, constants[i]) != 0;
    if (!is_word && !strchr("\"`[", text[0]) && (unsigned char)text[0] < 0x80)
        return sqlite3_mprintf("(%s)", text);
    char *bare = sql_unquote(text, strlen(text));
    char *literal = bare ? sqlite3_mprintf("%Q", bare) : NULL;
    sqlite3_free(bare);
    return literal;
}

static int add_conflict_column(trigger_parts *p, conflict *c, sqlite3_stmt *row)
{
    enum { INDEX, CID, NAME, COLLATION, DEFAULT, GENERATED, PARTIAL };
    const char *name = (const char *)sqlite3_column_text(row, NAME);
    const char *collation = (const char *)sqlite3_column_text(row, COLLATION);
    const char *otherwise = (const char *)sqlite3_column_text(row, DEFAULT);
    /* What other columns a conflict depends on cannot be told. */
    p->any_conflict |= sqlite3_column_int(row, PARTIAL) || sqlite3_column_int(row, CID) < -1;
    if (sqlite3_column_int(row, GENERATED) && !p->obstacle)
        p->obstacle = sqlite3_mprintf("the UNIQUE index %s is on a generated column", c->index);
    if (sqlite3_column_int(row, CID) < 0 || !name)
        return SQLITE_OK; /* an expression, or the rowid: more rows are found without it */
    if (!c->condition)
        c->condition = sqlite3_str_new(NULL);
    else
        sqlite3_str_appendall(c->condition, " AND ");
    char *value = otherwise ? default_expression(otherwise) : NULL;
    if (otherwise && !value)
        return SQLITE_NOMEM;
    if (value)
        sqlite3_str_appendf(c->condition, "s.\"%w\" = coalesce(NEW.\"%w\", %s)", name, name, value);
    else
        sqlite3_str_appendf(c->condition, "s.\"%w\" = NEW.\"%w\"", name, name);
    sqlite3_free(value);
    sqlite3_str_appendf(c->condition, " COLLATE \"%w\"", collation ? collation : "BINARY");
    add_name(p->unique_columns, name);
    return SQLITE_OK;
}

static int gather_conflicts(sqlite3 *db, trigger_parts *p)
{
    sqlite3_stmt *columns;
    conflict c = {0};
    int rc = sql_prepare_fixed(db, SQL_UNIQUE_COLUMNS, &columns);
    sqlite3_bind_text(columns, 1, p->source->table, -1, SQLITE_STATIC);
    sqlite3_bind_text(columns, 2, p->source->schema, -1, SQLITE_STATIC);
    while (rc == SQLITE_OK && (rc = sqlite3_step(columns)) == SQLITE_ROW) {
        const char *index = (const char *)sqlite3_column_text(columns, 0);
        rc = index ? SQLITE_OK : SQLITE_NOMEM;
        if (rc == SQLITE_OK && !(c.index && strcmp(c.index, index) == 0)) {
            rc = add_victims(p, &c);
            c.index = sqlite3_mprintf("%s", index);
        }
        if (rc == SQLITE_OK)
            rc = add_conflict_column(p, &c, columns);
    }
    int finalized = sqlite3_finalize(columns);
    rc = rc == SQLITE_DONE ? finalized : rc;
    int added = add_victims(p, &c);
    return rc == SQLITE_OK ? added : rc;
}

/* ---- the triggers ---- */

static void parts_clear(trigger_parts *p)
{
    sqlite3_free(p->table);
    sqlite3_free(p->log);
    sqlite3_free(p->trim);
    sqlite3_free(p->cut);
    sqlite3_free(sqlite3_str_finish(p->rowids));
    sqlite3_free(sqlite3_str_finish(p->insert_found));
    sqlite3_free(sqlite3_str_finish(p->update_found));
    sqlite3_free(sqlite3_str_finish(p->columns));
    sqlite3_free(sqlite3_str_finish(p->checks));
    sqlite3_free(sqlite3_str_finish(p->unfit));
    sqlite3_free(sqlite3_str_finish(p->insert_victims));
    sqlite3_free(sqlite3_str_finish(p->update_victims));
    sqlite3_free(sqlite3_str_finish(p->unique_columns));
    sqlite3_free(p->obstacle);
}

static int gather_rowids(sqlite3 *db, trigger_parts *p)
{
    sqlite3_stmt *columns;
    add_name(p->rowids, "rowid");
    add_name(p->rowids, "_rowid_");
    add_name(p->rowids, "oid");
    int rc = sqlite3_prepare_v2(db, SQL_KEY_COLUMNS, -1, &columns, NULL);
    sqlite3_bind_text(columns, 1, p->source->table, -1, SQLITE_STATIC);
    sqlite3_bind_text(columns, 2, p->source->schema, -1, SQLITE_STATIC);
    while (rc == SQLITE_OK && (rc = sqlite3_step(columns)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(columns, 0);
        rc = name ? SQLITE_OK : SQLITE_NOMEM;
        if (name)
            add_name(p->rowids, name);
    }
    int finalized = sqlite3_finalize(columns);
    return rc == SQLITE_DONE ? finalized : rc;
}

static int parts_gather(sqlite3 *db, const source *s, trigger_parts *p)
{
    char *log = name_of(s, "log");
    *p = (trigger_parts){.source = s,
                         .table = sql_quote(s->table),
                         .log = log ? sql_quote(log) : NULL,
                         .columns = sqlite3_str_new(NULL),
                         .checks = sqlite3_str_new(NULL),
                         .unfit = sqlite3_str_new(NULL),
                         .insert_victims = sqlite3_str_new(NULL),
                         .update_victims = sqlite3_str_new(NULL),
                         .insert_found = sqlite3_str_new(NULL),
                         .update_found = sqlite3_str_new(NULL),
                         .rowids = sqlite3_str_new(NULL),
                         .unique_columns = sqlite3_str_new(NULL)};
    sqlite3_free(log);
    p->trim = sql_text(SQL_TRIGGER_TRIM, "log", p->log, NULL);
    p->cut = sql_text(SQL_TRIGGER_CUT, "log", p->log, NULL);
    int rc = p->table && p->log && p->trim && p->cut ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = gather_participants(db, p);
    if (rc == SQLITE_OK && p->participants)
        rc = gather_rowids(db, p);
    if (rc == SQLITE_OK && p->participants)
        rc = gather_conflicts(db, p);
    sqlite3_str *const lists[] = {p->columns,        p->checks,         p->insert_victims,
                                  p->update_victims, p->insert_found,   p->update_found,
                                  p->rowids,         p->unique_columns, p->unfit};
    for (size_t i = 0; rc == SQLITE_OK && i < sizeof lists / sizeof *lists; i++)
        rc = sqlite3_str_errcode(lists[i]);
    return rc;
}

/* " OF "a", "b"", or nothing for all columns. */
static char *update_of(sqlite3_str *columns)
{
    return columns ? sqlite3_mprintf(" OF %s", sqlite3_str_value(columns)) : sqlite3_mprintf("");
}

/* Add a trigger, or only its name where `columns` or `victims` are empty. */
static int add_trigger(trigger_list *list, const trigger_parts *p, const char *suffix,
                       const char *template, sqlite3_str *columns, sqlite3_str *victims,
                       sqlite3_str *found)
{
    int i = list->count++;
    list->names[i] = name_of(p->source, suffix);
    if (victims && !sqlite3_str_length(victims))
        return list->names[i] ? SQLITE_OK : SQLITE_NOMEM;
    char *name = list->names[i] ? sql_quote(list->names[i]) : NULL;
    char *of = update_of(columns);
    const char *checks = sqlite3_str_length(p->checks) ? sqlite3_str_value(p->checks) : "";
    const char *unfit = sqlite3_str_length(p->unfit) ? sqlite3_str_value(p->unfit) : "";
    list->bodies[i] =
        sql_text(template, "name", name, "table", p->table, "log", p->log, "rowid",
                 p->source->rowid, "checks", checks, "unfit", unfit, "columns", of, "victims",
                 victims ? sqlite3_str_value(victims) : "", "trim", p->trim, "cut", p->cut, "found",
                 found ? sqlite3_str_value(found) : "", NULL);
    sqlite3_free(name);
    sqlite3_free(of);
    return list->bodies[i] ? SQLITE_OK : SQLITE_NOMEM;
}

static int list_triggers(const trigger_parts *p, trigger_list *list)
{
    *list = (trigger_list){0};
    int rc = add_trigger(list, p, "insert", SQL_TRIGGER_INSERT, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = add_trigger(list, p, "replace", SQL_TRIGGER_REPLACE, NULL, p->insert_victims,
                         p->insert_found);
    if (rc == SQLITE_OK)
        rc = add_trigger(list, p, "delete", SQL_TRIGGER_DELETE, NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = add_trigger(list, p, "update", SQL_TRIGGER_UPDATE, p->any_update ? NULL : p->columns,
                         NULL, NULL);
    if (rc == SQLITE_OK)
        rc = add_trigger(list, p, "conflict", SQL_TRIGGER_CONFLICT,
                         p->any_conflict ? NULL : p->unique_columns, p->update_victims,
                         p->update_found);
    if (rc == SQLITE_OK)
        rc = add_trigger(list, p, "move", SQL_TRIGGER_MOVE, p->rowids, NULL, NULL);
    return rc;
}

static void trigger_list_clear(trigger_list *list)
{
    for (int i = 0; i < list->count; i++) {
        sqlite3_free(list->names[i]);
        sqlite3_free(list->bodies[i]);
    }
    *list = (trigger_list){0};
}

static int find_trigger(const trigger_list *list, const char *name)
{
    for (int i = 0; i < list->count; i++) {
        if (sqlite3_stricmp(list->names[i], name) == 0)
            return i;
    }
    return -1;
}

/* ---- looking ---- */

void change_log_clear(change_log *log)
{
    sqlite3_free(log->table);
    sqlite3_free(log->why);
    *log = (change_log){0};
}

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
static int add_schema_version(sqlite3 *db, const source *s, uint64_t *state)
{
    char *schema = sql_quote(s->schema);
    sqlite3_stmt *pragma;
    int rc = sql_prepare(db, sql_text(SQL_SCHEMA_VERSION, "schema", schema, NULL), &pragma);
    sqlite3_free(schema);
    if (rc == SQLITE_OK && (rc = sqlite3_step(pragma)) == SQLITE_ROW) {
        sqlite3_int64 version = sqlite3_column_int64(pragma, 0);
        *state = index_row_hash((int64_t)*state, NULL, 0, &version, sizeof version);
    }
    int finalized = sqlite3_finalize(pragma);
    return rc == SQLITE_ROW ? finalized : rc;
}

/* The user's triggers of a source, by their places in the schema: SQLite runs those that were
** made last first. */
typedef struct users_triggers {
    sqlite3_int64 newest;
    /* After inserts: where it fails, and the statement keeps what it did so far (FAIL), a new
    ** row is there that ours, which would have come next, do not log. */
    sqlite3_int64 newest_of_insert;
    char *of_insert; /* its name */
} users_triggers;

/* Note a trigger of the user's, and whether it rules a log out. */
static int inspect_users_trigger(change_log *log, const trigger_list *expected, const char *name,
                                 const char *sql, sqlite3_int64 place, users_triggers *users)
{
    if (place > users->newest)
        users->newest = place;
    if (place > users->newest_of_insert && sqlite3_strlike("%after%insert%", sql, 0) == 0) {
        sqlite3_free(users->of_insert);
        users->newest_of_insert = place;
        users->of_insert = sqlite3_mprintf("%s", name);
        if (!users->of_insert)
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
                          users_triggers *users, sqlite3_stmt *row)
{
    enum { TYPE, NAME, ROWID, ROOT_PAGE, SQL };
    const char *type = (const char *)sqlite3_column_text(row, TYPE);
    const char *name = (const char *)sqlite3_column_text(row, NAME);
    const char *sql = (const char *)sqlite3_column_text(row, SQL);
    if (!type || !name || !sql)
        return SQLITE_NOMEM;
    int trigger = strcmp(type, "trigger") == 0 ? find_trigger(expected, name) : -1;
    if (strcmp(type, "trigger") == 0 && trigger < 0)
        return inspect_users_trigger(log, expected, name, sql, sqlite3_column_int64(row, ROWID),
                                     users);
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
    users_triggers users = {0};
    char *schema = sql_quote(s->schema), *table = sqlite3_mprintf("%Q", s->table);
    sqlite3_stmt *objects;
    int rc = sql_prepare(db, sql_text(SQL_SCHEMA_OBJECTS, "schema", schema, "table", table, NULL),
                         &objects);
    sqlite3_free(schema);
    sqlite3_free(table);
    while (rc == SQLITE_OK && (rc = sqlite3_step(objects)) == SQLITE_ROW)
        rc = inspect_object(log, expected, found, &users, objects);
    int finalized = sqlite3_finalize(objects);
    rc = rc == SQLITE_DONE ? finalized : rc;
    for (int i = 0; rc == SQLITE_OK && i < expected->count; i++) {
        if (expected->bodies[i] && !found[i])
            rc = not_live(log, sqlite3_mprintf("the trigger %s is missing: 'rebuild' makes it anew",
                                               expected->names[i]));
    }
    if (rc == SQLITE_OK && users.newest_of_insert > found[INSERT_TRIGGER] && found[INSERT_TRIGGER])
        rc =
            not_live(log, sqlite3_mprintf("the trigger %s was made later and comes before the "
                                          "log's, which a failure of it would leave out: 'rebuild' "
                                          "makes them anew",
                                          users.of_insert));
    sqlite3_free(users.of_insert);
    log->is_overtaken = users.newest > found[INSERT_TRIGGER];
    if (rc == SQLITE_OK)
        rc = find_temporary_trigger(db, s, &log->is_overtaken);
    return rc == SQLITE_OK ? add_schema_version(db, s, &log->schema) : rc;
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
    int rc = parts_gather(db, s, &p);
    if (rc == SQLITE_OK && !p.participants)
        rc = gather_conflicts(db, &p); /* perhaps there could be none */
    if (rc == SQLITE_OK && !p.participants && !p.obstacle)
        rc = not_live(out, sqlite3_mprintf("no live faiss table in its own schema is over it"));
    else if (rc == SQLITE_OK && p.obstacle)
        rc = not_live(out, sqlite3_mprintf("%s", p.obstacle));
    else if (rc == SQLITE_OK && !has_name(p.columns, s->embedding))
        rc = not_live(out,
                      sqlite3_mprintf("no live faiss table is over its column %s", s->embedding));
    if (rc == SQLITE_OK && !out->why)
        rc = list_triggers(&p, &expected);
    if (rc == SQLITE_OK && !out->why)
        rc = inspect_schema(db, s, &expected, out);
    if (rc == SQLITE_OK && !out->why) {
        char *log = name_of(s, "log");
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
    parts_clear(&p);
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
    int rc = parts_gather(db, s, &p);
    if (rc == SQLITE_OK && !p.participants) /* else they are gathered already */
        rc = gather_conflicts(db, &p);
    *why = p.obstacle;
    p.obstacle = NULL;
    parts_clear(&p);
    return rc == SQLITE_OK ? rc : source_failure(db, s, rc, message);
}

/* ---- making and removing ---- */

/* What stands where the log would: SQLITE_DONE for nothing, SQLITE_ROW for a change log,
** or an error: a table of the user's. */
static int look_for_log(sqlite3 *db, const source *s, char **message)
{
    char *name = name_of(s, "log"), *schema = sql_quote(s->schema);
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
    char *name = name_of(s, "log");
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
    rc = parts_gather(db, s, &p);
    if (rc == SQLITE_OK)
        rc = list_triggers(&p, &list);
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
    parts_clear(&p);
    return rc;
}

int storage_disarm(sqlite3 *db, const char *schema, const char *table, char **message)
{
    /* Dropping goes by names alone; where live tables are left, the source must be
    ** resolved, and be there. */
    source s = {.schema = (char *)schema, .table = (char *)table, .rowid = "rowid"};
    trigger_parts p;
    trigger_list list = {0};
    int rc = parts_gather(db, &s, &p);
    if (rc == SQLITE_OK && !p.participants) {
        rc = list_triggers(&p, &list);
        if (rc == SQLITE_OK)
            rc = drop_triggers(db, &s, &list);
        if (rc == SQLITE_OK)
            rc = drop_log(db, &s);
    }
    if (rc != SQLITE_OK && rc != SQLITE_NOMEM)
        *message = sqlite3_mprintf("cannot remove the change log of %s.%s: %s", schema, table,
                                   sqlite3_errmsg(db));
    trigger_list_clear(&list);
    parts_clear(&p);
    return rc;
}

/* ---- reading ---- */

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

int storage_last(sqlite3 *db, const source *s, const change_log *log, sqlite3_stmt **statement,
                 live_state *state, char **message)
{
    enum { SEQ, TAG };
    int rc = SQLITE_OK;
    source_query query = {.log = log->table};
    if (!*statement)
        rc = source_prepare(db, s, SOURCE_LOG_STATE, &query, statement, message);
    if (rc != SQLITE_OK)
        return rc;
    while ((rc = sqlite3_step(*statement)) == SQLITE_ROW) {
        state->seq = sqlite3_column_int64(*statement, SEQ);
        state->tag = sqlite3_column_int64(*statement, TAG);
        state->run += print_of(*statement);
    }
    if (state->seq < 0 || state->seq > SEQ_MOST)
        state->seq = 0;
    int reset = sqlite3_reset(*statement);
    return rc == SQLITE_DONE ? SQLITE_OK : source_failure(db, s, reset, message);
}

int storage_has(sqlite3 *db, const change_log *log, const live_state *state, int *has)
{
    sqlite3_stmt *entry;
    *has = 0;
    int rc = sql_prepare(db, sql_text(SQL_LOG_TAG, "log", log->table, NULL), &entry);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(entry, 1, state->seq);
        rc = sqlite3_step(entry);
        *has = rc == SQLITE_ROW && sqlite3_column_int64(entry, 0) == state->tag;
    }
    int finalized = sqlite3_finalize(entry);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? finalized : rc;
}

/* Whether there is an entry with a row for every number behind `from` up to `to`, and these
** stand for at most so many rows. */
static int is_complete(sqlite3 *db, const change_log *log, sqlite3_int64 from, sqlite3_int64 to,
                       sqlite3_int64 most, int *complete)
{
    enum { ENTRIES, ROWS };
    sqlite3_stmt *span;
    *complete = 0;
    int rc = sql_prepare(db, sql_text(SQL_LOG_SPAN, "log", log->table, NULL), &span);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(span, 1, from);
        rc = sqlite3_step(span);
        *complete = rc == SQLITE_ROW && sqlite3_column_int64(span, ENTRIES) == to - from &&
                    sqlite3_column_int64(span, ROWS) <= most;
    }
    int finalized = sqlite3_finalize(span);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? finalized : rc;
}

int storage_changes(sqlite3 *db, const source *s, const change_log *log, sqlite3_int64 from,
                    sqlite3_int64 to, sqlite3_int64 most, const sqlite3_int64 *inserted,
                    sqlite3_stmt **out, int *complete, char **message)
{
    *out = NULL;
    int rc = is_complete(db, log, from, to, most, complete);
    if (rc == SQLITE_OK && *complete) {
        source_query query = {.log = log->table};
        rc = source_prepare(db, s, SOURCE_LOG_CHANGES, &query, out, message);
        if (rc != SQLITE_OK)
            return rc;
        sqlite3_bind_int64(*out, 1, from);
        if (inserted)
            sqlite3_bind_int64(*out, 2, *inserted);
    }
    return rc == SQLITE_OK ? rc : source_failure(db, s, rc, message);
}
