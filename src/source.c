#include "source.h"

#include <stdlib.h>
#include <string.h>

#include "sql_text.h"

static int set_message(char **message, char *text)
{
    *message = text;
    return text ? SQLITE_ERROR : SQLITE_NOMEM;
}

int source_failure(sqlite3 *db, const source *s, int rc, char **message)
{
    if (rc == SQLITE_NOMEM || rc == SQLITE_INTERRUPT)
        return rc;
    *message = sqlite3_mprintf("cannot read %s.%s: %s", s->schema, s->table, sqlite3_errmsg(db));
    return *message ? rc : SQLITE_NOMEM;
}

/* ---- databases ---- */

/* Whether `path` ends in `stem`.ext, or in `stem` alone. */
static int path_has_stem(const char *path, const char *stem)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    size_t length = dot && dot != name ? (size_t)(dot - name) : strlen(name);
    return length > 0 && length == strlen(stem) && memcmp(name, stem, length) == 0;
}

enum { DATABASE_LIST_NAME = 1, DATABASE_LIST_FILE = 2 };

int source_find_database(sqlite3 *db, const char *name, char **schema, char **message)
{
    *schema = NULL;
    sqlite3_stmt *list;
    int rc = sql_prepare(db, sql_text(SQL_DATABASE_LIST, NULL), &list);
    sqlite3_str *names = sqlite3_str_new(db);
    char *found = NULL;
    int exact = 0;
    while (rc == SQLITE_OK && !exact && (rc = sqlite3_step(list)) == SQLITE_ROW) {
        const char *each = (const char *)sqlite3_column_text(list, DATABASE_LIST_NAME);
        const char *file = (const char *)sqlite3_column_text(list, DATABASE_LIST_FILE);
        exact = each && sqlite3_stricmp(each, name) == 0;
        rc = each ? SQLITE_OK : SQLITE_NOMEM;
        if (exact || (rc == SQLITE_OK && !found && file && path_has_stem(file, name))) {
            sqlite3_free(found);
            found = sqlite3_mprintf("%s", each);
            rc = found ? SQLITE_OK : SQLITE_NOMEM;
        }
        sqlite3_str_appendf(names, "%s%s", sqlite3_str_length(names) ? ", " : "", each);
    }
    int finalized = sqlite3_finalize(list);
    rc = rc == SQLITE_DONE ? finalized : rc;
    /* "temp" is listed only once something is in it. */
    if (rc == SQLITE_OK && !found && sqlite3_stricmp(name, "temp") == 0) {
        found = sqlite3_mprintf("temp");
        rc = found ? SQLITE_OK : SQLITE_NOMEM;
    }
    char *known = sqlite3_str_finish(names);
    if (rc == SQLITE_OK && !found) {
        rc = set_message(message, sqlite3_mprintf("no such database: %s (this connection has %s)",
                                                  name, known ? known : ""));
    } else if (rc != SQLITE_OK) {
        sqlite3_free(found);
        found = NULL;
    }
    sqlite3_free(known);
    *schema = found;
    return rc;
}

/* ---- tables and columns ---- */

/* Prepare one of the PRAGMA texts about schema.table. */
static int prepare_pragma(sqlite3 *db, const char *template, const char *schema, const char *table,
                          sqlite3_stmt **out)
{
    char *quoted_schema = sql_quote(schema), *quoted_table = sql_quote(table);
    int rc = sql_prepare(
        db, sql_text(template, "schema", quoted_schema, "table", quoted_table, NULL), out);
    sqlite3_free(quoted_schema);
    sqlite3_free(quoted_table);
    return rc;
}

static int resolve_kind(sqlite3 *db, source *s, char **message)
{
    enum { SCHEMA, NAME, TYPE, COLUMNS, WITHOUT_ROWID };
    sqlite3_stmt *list;
    int found = 0;
    int rc = prepare_pragma(db, SQL_TABLE_LIST, s->schema, s->table, &list);
    while (rc == SQLITE_OK && !found && (rc = sqlite3_step(list)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        const char *schema = (const char *)sqlite3_column_text(list, SCHEMA);
        const char *name = (const char *)sqlite3_column_text(list, NAME);
        const char *type = (const char *)sqlite3_column_text(list, TYPE);
        if (!schema || !name || !type || sqlite3_stricmp(schema, s->schema) != 0)
            continue;
        found = 1;
        sqlite3_free(s->table);
        s->table = sqlite3_mprintf("%s", name);
        if (strcmp(type, "view") == 0)
            s->kind = SOURCE_VIEW;
        else if (strcmp(type, "virtual") == 0)
            s->kind = SOURCE_VIRTUAL;
        else
            s->kind =
                sqlite3_column_int(list, WITHOUT_ROWID) ? SOURCE_WITHOUT_ROWID : SOURCE_ROWID_TABLE;
    }
    sqlite3_finalize(list);
    if (!found && (rc == SQLITE_DONE || rc == SQLITE_OK))
        return set_message(message, sqlite3_mprintf("no such table: %s.%s", s->schema, s->table));
    if (found)
        return s->table ? SQLITE_OK : SQLITE_NOMEM;
    return source_failure(db, s, rc, message);
}

/* SQLite's rules for the affinity of a declared type (datatype3.html, 3.1). */
static const char *affinity_of(const char *type)
{
    static const struct {
        const char *part, *affinity;
    } rules[] = {{"INT", "INTEGER"}, {"CHAR", "TEXT"}, {"CLOB", "TEXT"}, {"TEXT", "TEXT"},
                 {"BLOB", "BLOB"},   {"REAL", "REAL"}, {"FLOA", "REAL"}, {"DOUB", "REAL"}};
    if (!type || !*type || sqlite3_stricmp(type, "ANY") == 0)
        return "BLOB";
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        for (const char *at = type; *at; at++) {
            if (sqlite3_strnicmp(at, rules[i].part, (int)strlen(rules[i].part)) == 0)
                return rules[i].affinity;
        }
    }
    return "NUMERIC";
}

static const char *const rowid_names[] = {"rowid", "_rowid_", "oid"};
enum { ROWID_NAMES = 3 };

/* What the pass over a source's columns gathers. */
typedef struct column_pass {
    const char *wanted_id, *wanted_embedding;
    char *id, *embedding, *id_type;
    int id_is_key;           /* it is in the primary key, and of type INTEGER */
    int key_columns;         /* of the primary key */
    int hidden[ROWID_NAMES]; /* a column bears this name of the rowid */
    sqlite3_str *names;      /* of all columns, for a message */
    int out_of_memory;
} column_pass;

static void pass_column(column_pass *pass, sqlite3_stmt *row)
{
    enum { CID, NAME, TYPE, NOT_NULL, DEFAULT, KEY };
    const char *name = (const char *)sqlite3_column_text(row, NAME);
    const char *type = (const char *)sqlite3_column_text(row, TYPE);
    if (!name) {
        pass->out_of_memory = 1;
        return;
    }
    sqlite3_str_appendf(pass->names, "%s%s", sqlite3_str_length(pass->names) ? ", " : "", name);
    for (int i = 0; i < ROWID_NAMES; i++)
        pass->hidden[i] |= sqlite3_stricmp(name, rowid_names[i]) == 0;
    int key = sqlite3_column_int(row, KEY);
    pass->key_columns += key > 0;
    if (!pass->id && sqlite3_stricmp(name, pass->wanted_id ? pass->wanted_id : "id") == 0) {
        pass->id = sqlite3_mprintf("%s", name);
        pass->id_type = sqlite3_mprintf("%s", affinity_of(type));
        pass->id_is_key = key > 0 && type && sqlite3_stricmp(type, "INTEGER") == 0;
        pass->out_of_memory |= !pass->id || !pass->id_type;
    }
    if (!pass->embedding &&
        sqlite3_stricmp(name, pass->wanted_embedding ? pass->wanted_embedding : "embedding") == 0) {
        pass->embedding = sqlite3_mprintf("%s", name);
        pass->out_of_memory |= !pass->embedding;
    }
}

/* Whether the one INTEGER column of the primary key has an index of its own, and
** so is not the rowid under another name. */
static int key_has_index(sqlite3 *db, const source *s, int *has)
{
    enum { SEQ, NAME, UNIQUE, ORIGIN };
    sqlite3_stmt *list;
    *has = 0;
    int rc = prepare_pragma(db, SQL_INDEX_LIST, s->schema, s->table, &list);
    while (rc == SQLITE_OK && (rc = sqlite3_step(list)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        const char *origin = (const char *)sqlite3_column_text(list, ORIGIN);
        *has |= origin && strcmp(origin, "pk") == 0;
    }
    int finalized = sqlite3_finalize(list);
    return rc == SQLITE_DONE ? finalized : rc;
}

static int is_rowid_name(const char *name)
{
    for (int i = 0; name && i < ROWID_NAMES; i++) {
        if (sqlite3_stricmp(name, rowid_names[i]) == 0)
            return 1;
    }
    return 0;
}

/* Take what the pass found into the source, or say what is missing. */
static int resolve_names(source *s, column_pass *pass, const char *all, char **message)
{
    for (int i = 0; i < ROWID_NAMES && !s->rowid && s->kind == SOURCE_ROWID_TABLE; i++)
        s->rowid = pass->hidden[i] ? NULL : rowid_names[i];
    if (s->kind == SOURCE_ROWID_TABLE && !s->rowid)
        s->kind = SOURCE_WITHOUT_ROWID;
    s->id = pass->id;
    s->embedding = pass->embedding;
    s->id_affinity = pass->id_type;
    pass->id = pass->embedding = pass->id_type = NULL;
    if (!s->embedding) {
        return set_message(
            message,
            sqlite3_mprintf("%s.%s has no column %s (it has %s)", s->schema, s->table,
                            pass->wanted_embedding ? pass->wanted_embedding : "embedding", all));
    }
    int rowid_will_do = s->rowid && (!pass->wanted_id || is_rowid_name(pass->wanted_id));
    if (!s->id && !rowid_will_do) {
        return set_message(message, sqlite3_mprintf("%s.%s has no column %s (it has %s)", s->schema,
                                                    s->table,
                                                    pass->wanted_id ? pass->wanted_id : "id", all));
    }
    if (!s->id) {
        s->id_is_rowid = 1;
        s->id_affinity = sqlite3_mprintf("INTEGER");
    }
    return s->id_affinity ? SQLITE_OK : SQLITE_NOMEM;
}

static int resolve_columns(sqlite3 *db, source *s, const char *id, const char *embedding,
                           char **message)
{
    column_pass pass = {.wanted_id = id, .wanted_embedding = embedding};
    pass.names = sqlite3_str_new(db);
    sqlite3_stmt *columns;
    int rc = prepare_pragma(db, SQL_TABLE_COLUMNS, s->schema, s->table, &columns);
    while (rc == SQLITE_OK && (rc = sqlite3_step(columns)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        pass_column(&pass, columns);
    }
    int finalized = sqlite3_finalize(columns);
    rc = rc == SQLITE_DONE ? finalized : rc;
    char *all = sqlite3_str_finish(pass.names);
    if (pass.out_of_memory)
        rc = SQLITE_NOMEM;
    if (rc != SQLITE_OK)
        rc = source_failure(db, s, rc, message);
    else
        rc = resolve_names(s, &pass, all ? all : "none", message);
    int alias = s->id && pass.id_is_key && pass.key_columns == 1 && s->kind == SOURCE_ROWID_TABLE;
    if (rc == SQLITE_OK && alias) {
        int has_index;
        rc = key_has_index(db, s, &has_index);
        s->id_is_rowid = rc == SQLITE_OK && !has_index;
    }
    sqlite3_free(all);
    sqlite3_free(pass.id);
    sqlite3_free(pass.embedding);
    sqlite3_free(pass.id_type);
    return rc;
}

int source_resolve(sqlite3 *db, const char *schema, const char *table, const char *id,
                   const char *embedding, source *out, char **message)
{
    *out = (source){.schema = sqlite3_mprintf("%s", schema), .table = sqlite3_mprintf("%s", table)};
    int rc = out->schema && out->table ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = resolve_kind(db, out, message);
    if (rc == SQLITE_OK)
        rc = resolve_columns(db, out, id, embedding, message);
    if (rc == SQLITE_OK) {
        const char *collation = NULL;
        if (out->id && out->kind != SOURCE_VIEW)
            sqlite3_table_column_metadata(db, out->schema, out->table, out->id, NULL, &collation,
                                          NULL, NULL, NULL);
        out->id_collation = sqlite3_mprintf("%s", collation ? collation : "BINARY");
        rc = out->id_collation ? SQLITE_OK : SQLITE_NOMEM;
    }
    if (rc != SQLITE_OK)
        source_clear(out);
    return rc;
}

void source_clear(source *s)
{
    sqlite3_free(s->schema);
    sqlite3_free(s->table);
    sqlite3_free(s->id);
    sqlite3_free(s->embedding);
    sqlite3_free(s->id_affinity);
    sqlite3_free(s->id_collation);
    *s = (source){0};
}

static int same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

int source_equal(const source *a, const source *b)
{
    return a->kind == b->kind && same_text(a->schema, b->schema) && same_text(a->table, b->table) &&
           same_text(a->id, b->id) && same_text(a->embedding, b->embedding) &&
           same_text(a->rowid, b->rowid) && a->id_is_rowid == b->id_is_rowid &&
           same_text(a->id_collation, b->id_collation);
}

/* ---- statements ---- */

static const char *statement_text(source_statement which)
{
    switch (which) {
    case SOURCE_PIN:
        return SQL_PIN_SOURCE;
    case SOURCE_READ_ALL:
        return SQL_READ_ROWS;
    case SOURCE_SCAN:
        return SQL_SCAN_ROWS;
    case SOURCE_ROW_BY_KEY:
        return SQL_ROW_BY_KEY;
    case SOURCE_ROWS_BY_ROWID:
        return SQL_ROWS_BY_ROWID;
    case SOURCE_ROWS_BY_ID:
        return SQL_ROWS_BY_ID;
    case SOURCE_FIRST_EMBEDDING:
        return SQL_FIRST_EMBEDDING;
    default:
        return SQL_FIRST_ODD_ROW;
    }
}

int source_prepare(sqlite3 *db, const source *s, source_statement which, sqlite3_stmt **out,
                   char **message)
{
    /* Columns are qualified: a double-quoted name that matches none would
    ** otherwise be taken for a string. */
    char *key = s->rowid ? sqlite3_mprintf("s.%s", s->rowid) : sqlite3_mprintf("NULL");
    char *id = s->id ? sqlite3_mprintf("s.\"%w\"", s->id) : sqlite3_mprintf("s.%s", s->rowid);
    char *embedding = sqlite3_mprintf("s.\"%w\"", s->embedding);
    char *table = sql_quote_table(s->schema, s->table);
    char *collation = sql_quote(s->id_collation);
    char *order = s->rowid ? sqlite3_mprintf("ORDER BY s.%s", s->rowid) : sqlite3_mprintf("");
    int rc =
        sql_prepare(db,
                    sql_text(statement_text(which), "key", key, "id", id, "embedding", embedding,
                             "source", table, "collation", collation, "order", order, NULL),
                    out);
    if (rc != SQLITE_OK)
        rc = source_failure(db, s, rc, message);
    sqlite3_free(key);
    sqlite3_free(id);
    sqlite3_free(embedding);
    sqlite3_free(table);
    sqlite3_free(collation);
    sqlite3_free(order);
    return rc;
}

char *source_describe_value(int type, int bytes)
{
    switch (type) {
    case SQLITE_BLOB:
        return sqlite3_mprintf("a BLOB of %d bytes", bytes);
    case SQLITE_TEXT:
        return sqlite3_mprintf("TEXT of %d bytes", bytes);
    case SQLITE_INTEGER:
        return sqlite3_mprintf("an INTEGER");
    case SQLITE_FLOAT:
        return sqlite3_mprintf("a REAL");
    default:
        return sqlite3_mprintf("NULL");
    }
}

int source_bad_row(const source *s, int64_t key, const row_value *id, char *found,
                   const char *expected, char **message)
{
    char rowid[32] = "";
    if (s->rowid && !s->id_is_rowid)
        sqlite3_snprintf(sizeof rowid, rowid, " (rowid %lld)", (long long)key);
    char *shown = value_describe(id);
    if (shown && found)
        *message =
            sqlite3_mprintf("row with id %s%s of %s.%s: column %s holds %s, expected %s", shown,
                            rowid, s->schema, s->table, s->embedding, found, expected);
    int rc = shown && found && *message ? SQLITE_ERROR : SQLITE_NOMEM;
    sqlite3_free(shown);
    sqlite3_free(found);
    return rc;
}
