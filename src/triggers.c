#include "triggers.h"

#include <string.h>

#include "change_log.h"
#include "sql_text.h"

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

int trigger_parts_gather_conflicts(sqlite3 *db, trigger_parts *p)
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

void trigger_parts_clear(trigger_parts *p)
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

int trigger_parts_gather(sqlite3 *db, const source *s, trigger_parts *p)
{
    char *log = change_log_name(s->table);
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
        rc = trigger_parts_gather_conflicts(db, p);
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

int trigger_list_make(const trigger_parts *p, trigger_list *list)
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

void trigger_list_clear(trigger_list *list)
{
    for (int i = 0; i < list->count; i++) {
        sqlite3_free(list->names[i]);
        sqlite3_free(list->bodies[i]);
    }
    *list = (trigger_list){0};
}

int trigger_list_find(const trigger_list *list, const char *name)
{
    for (int i = 0; i < list->count; i++) {
        if (sqlite3_stricmp(list->names[i], name) == 0)
            return i;
    }
    return -1;
}

int trigger_parts_watch(const trigger_parts *p, const char *column)
{
    return has_name(p->columns, column);
}
