#include "source.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "sql_text.h"

int source_failure(sqlite3 *db, const source *s, int rc, char **message)
{
    /* sqlite3_declare_vtab(), of SQLite's own tables too, makes an interrupt an error. */
    if (rc == SQLITE_ERROR && sql_was_interrupted(db))
        rc = SQLITE_INTERRUPT;
    if (rc == SQLITE_NOMEM || rc == SQLITE_INTERRUPT)
        return rc;
    /* A statement that went well since then has replaced the connection's own message. */
    const char *why = sqlite3_errcode(db) == SQLITE_OK ? sqlite3_errstr(rc) : sqlite3_errmsg(db);
    *message = sqlite3_mprintf("cannot read %s.%s: %s", s->schema, s->table, why);
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
    if (sqlite3_db_readonly(db, name) >= 0) { /* it is a schema: no need to list them */
        *schema = sqlite3_mprintf("%s", name);
        return *schema ? SQLITE_OK : SQLITE_NOMEM;
    }
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
    int id, embedding;       /* their places in the source's columns, -1 if not there */
    int id_is_key;           /* it is in the primary key, and of type INTEGER */
    int integer_key;         /* such a column is there */
    int key_columns;         /* of the primary key */
    int hidden[ROWID_NAMES]; /* a column bears this name of the rowid */
    sqlite3_str *names;      /* of all columns, for a message */
} column_pass;

/* Append a column to the source's. */
static int add_column(sqlite3 *db, source *s, const char *name, const char *type)
{
    source_column *columns =
        sqlite3_realloc64(s->columns, ((size_t)s->column_count + 1) * sizeof *columns);
    if (!columns)
        return SQLITE_NOMEM;
    s->columns = columns;
    const char *collation = NULL;
    if (s->kind != SOURCE_VIEW)
        sqlite3_table_column_metadata(db, s->schema, s->table, name, NULL, &collation, NULL, NULL,
                                      NULL);
    source_column *column = &columns[s->column_count++];
    *column = (source_column){sqlite3_mprintf("%s", name), affinity_of(type),
                              sqlite3_mprintf("%s", collation ? collation : "BINARY")};
    return column->name && column->collation ? SQLITE_OK : SQLITE_NOMEM;
}

static int pass_column(sqlite3 *db, source *s, column_pass *pass, sqlite3_stmt *row)
{
    enum { CID, NAME, TYPE, NOT_NULL, DEFAULT, KEY };
    const char *name = (const char *)sqlite3_column_text(row, NAME);
    const char *type = (const char *)sqlite3_column_text(row, TYPE);
    if (!name)
        return SQLITE_NOMEM;
    sqlite3_str_appendf(pass->names, "%s%s", sqlite3_str_length(pass->names) ? ", " : "", name);
    for (int i = 0; i < ROWID_NAMES; i++)
        pass->hidden[i] |= sqlite3_stricmp(name, rowid_names[i]) == 0;
    int key = sqlite3_column_int(row, KEY);
    int is_key = key > 0 && type && sqlite3_stricmp(type, "INTEGER") == 0;
    pass->key_columns += key > 0;
    pass->integer_key |= is_key;
    if (pass->id < 0 && sqlite3_stricmp(name, pass->wanted_id ? pass->wanted_id : "id") == 0) {
        pass->id = s->column_count;
        pass->id_is_key = is_key;
    }
    if (pass->embedding < 0 &&
        sqlite3_stricmp(name, pass->wanted_embedding ? pass->wanted_embedding : "embedding") == 0)
        pass->embedding = s->column_count;
    return add_column(db, s, name, type);
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

/* Take the column at `i` out of the source's, and give its parts away. */
static source_column take_column(source *s, int i)
{
    source_column taken = s->columns[i];
    s->column_count--;
    memmove(s->columns + i, s->columns + i + 1, (size_t)(s->column_count - i) * sizeof *s->columns);
    return taken;
}

/* Set the id and the embedding apart from the other columns. */
static int take_names(source *s, const column_pass *pass)
{
    source_column id = {NULL, "INTEGER", NULL}, embedding;
    if (pass->id > pass->embedding) {
        id = take_column(s, pass->id);
        embedding = take_column(s, pass->embedding);
    } else {
        embedding = take_column(s, pass->embedding);
        if (pass->id >= 0)
            id = take_column(s, pass->id);
    }
    s->embedding = embedding.name;
    sqlite3_free(embedding.collation);
    s->id = id.name;
    s->id_affinity = id.affinity;
    s->id_collation = id.collation ? id.collation : sqlite3_mprintf("BINARY");
    return s->id_collation ? SQLITE_OK : SQLITE_NOMEM;
}

static int missing_column(const source *s, const char *name, const char *all, char **message)
{
    return set_message(message, sqlite3_mprintf("%s.%s has no column %s (it has %s)", s->schema,
                                                s->table, name, all));
}

/* Take what the pass found into the source, or say what is missing. */
static int resolve_names(source *s, const column_pass *pass, const char *all, char **message)
{
    for (int i = 0; i < ROWID_NAMES && !s->rowid && s->kind == SOURCE_ROWID_TABLE; i++)
        s->rowid = pass->hidden[i] ? NULL : rowid_names[i];
    if (s->kind == SOURCE_ROWID_TABLE && !s->rowid)
        s->kind = SOURCE_WITHOUT_ROWID;
    const char *embedding = pass->wanted_embedding ? pass->wanted_embedding : "embedding";
    const char *id = pass->wanted_id ? pass->wanted_id : "id";
    int rowid_will_do = s->rowid && (!pass->wanted_id || is_rowid_name(pass->wanted_id));
    if (pass->embedding < 0)
        return missing_column(s, embedding, all, message);
    if (pass->id < 0 && !rowid_will_do)
        return missing_column(s, id, all, message);
    if (pass->id == pass->embedding) {
        return set_message(message, sqlite3_mprintf("%s cannot be both the id and the embedding of "
                                                    "%s.%s",
                                                    id, s->schema, s->table));
    }
    s->id_is_rowid = pass->id < 0;
    return take_names(s, pass);
}

static int resolve_columns(sqlite3 *db, source *s, const char *id, const char *embedding,
                           char **message)
{
    column_pass pass = {.wanted_id = id, .wanted_embedding = embedding, .id = -1, .embedding = -1};
    pass.names = sqlite3_str_new(db);
    sqlite3_stmt *columns;
    int rc = prepare_pragma(db, SQL_TABLE_COLUMNS, s->schema, s->table, &columns);
    while (rc == SQLITE_OK && (rc = sqlite3_step(columns)) == SQLITE_ROW)
        rc = pass_column(db, s, &pass, columns);
    int finalized = sqlite3_finalize(columns);
    rc = rc == SQLITE_DONE ? finalized : rc;
    char *all = sqlite3_str_finish(pass.names);
    if (rc != SQLITE_OK)
        rc = source_failure(db, s, rc, message);
    else
        rc = resolve_names(s, &pass, all ? all : "none", message);
    if (rc == SQLITE_OK && pass.integer_key && pass.key_columns == 1 &&
        s->kind == SOURCE_ROWID_TABLE) {
        int has_index;
        rc = key_has_index(db, s, &has_index);
        s->has_integer_key = rc == SQLITE_OK && !has_index;
        s->id_is_rowid |= s->has_integer_key && s->id && pass.id_is_key;
    }
    sqlite3_free(all);
    return rc;
}

int source_connect(sqlite3 *db, const char *schema, const char *table, int *exists)
{
    /* A statement that runs has SQLite look whether its schema is still the file's. */
    char *quoted = sql_quote(schema), *name = sql_quote_table(schema, table);
    sqlite3_stmt *statement = NULL;
    int rc = sql_prepare(db, sql_text(SQL_READ_SCHEMA, "schema", quoted, NULL), &statement);
    if (rc == SQLITE_OK)
        sqlite3_step(statement);
    int finalized = sqlite3_finalize(statement);
    rc = rc == SQLITE_OK ? finalized : rc;
    statement = NULL;
    if (rc == SQLITE_OK)
        rc = sql_prepare(db, name ? sqlite3_mprintf("SELECT 1 FROM %s", name) : NULL, &statement);
    sqlite3_finalize(statement);
    *exists = rc == SQLITE_OK;
    sqlite3_free(quoted);
    sqlite3_free(name);
    return rc == SQLITE_INTERRUPT || rc == SQLITE_NOMEM || (rc & 0xff) == SQLITE_IOERR ? rc
                                                                                       : SQLITE_OK;
}

/* Whether a function, named as in "lower(1)", is deterministic. */
static int is_deterministic(sqlite3 *db, const char *call)
{
    sqlite3_stmt *flags;
    int result = 0;
    if (sql_prepare_fixed(db, SQL_FUNCTION_FLAGS, &flags) == SQLITE_OK) {
        sqlite3_bind_text(flags, 1, call, (int)strcspn(call, "("), SQLITE_STATIC);
        result = sqlite3_step(flags) == SQLITE_ROW && sqlite3_column_int(flags, 0) != 0;
    }
    sqlite3_finalize(flags);
    return result;
}

/* Find out whether a view is volatile, from the program that SQLite makes of it. */
static int resolve_volatile(sqlite3 *db, source *s, char **message)
{
    enum { OPCODE = 1, P4 = 5 };
    sqlite3_stmt *program;
    s->is_volatile = s->kind == SOURCE_VIRTUAL;
    if (s->kind != SOURCE_VIEW)
        return SQLITE_OK;
    int rc = source_prepare(db, s, SOURCE_EXPLAIN, NULL, &program, message);
    while (rc == SQLITE_OK && (rc = sqlite3_step(program)) == SQLITE_ROW) {
        rc = SQLITE_OK;
        const char *opcode = (const char *)sqlite3_column_text(program, OPCODE);
        const char *call = (const char *)sqlite3_column_text(program, P4);
        int calls = opcode && (strcmp(opcode, "Function") == 0 || strcmp(opcode, "PureFunc") == 0);
        if (!opcode || strcmp(opcode, "VOpen") == 0 ||
            (calls && !(call && is_deterministic(db, call))))
            s->is_volatile = 1;
    }
    int finalized = sqlite3_finalize(program);
    return rc == SQLITE_DONE ? finalized : rc;
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
    if (rc == SQLITE_OK)
        rc = resolve_volatile(db, out, message);
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
    sqlite3_free(s->id_collation);
    for (int i = 0; i < s->column_count; i++) {
        sqlite3_free(s->columns[i].name);
        sqlite3_free(s->columns[i].collation);
    }
    sqlite3_free(s->columns);
    *s = (source){0};
}

static int same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

int source_equal(const source *a, const source *b)
{
    if (a->kind != b->kind || !same_text(a->schema, b->schema) || !same_text(a->table, b->table) ||
        !same_text(a->id, b->id) || !same_text(a->embedding, b->embedding) ||
        !same_text(a->rowid, b->rowid) || a->id_is_rowid != b->id_is_rowid ||
        a->has_integer_key != b->has_integer_key || a->is_volatile != b->is_volatile ||
        !same_text(a->id_collation, b->id_collation) || a->column_count != b->column_count)
        return 0;
    for (int i = 0; i < a->column_count; i++) {
        if (!same_text(a->columns[i].name, b->columns[i].name) ||
            !same_text(a->columns[i].collation, b->columns[i].collation))
            return 0;
    }
    return 1;
}

int source_find_column(const source *s, const char *name)
{
    for (int i = 0; i < s->column_count; i++) {
        if (sqlite3_stricmp(s->columns[i].name, name) == 0)
            return i;
    }
    return -1;
}

/* ---- statements ---- */

static const char *const statement_texts[] = {
    [SOURCE_PIN] = SQL_PIN_SOURCE,
    [SOURCE_READ_ALL] = SQL_READ_ROWS,
    [SOURCE_READ_REST] = SQL_READ_REST,
    [SOURCE_READ_FROM] = SQL_READ_FROM,
    [SOURCE_LAST_KEY] = SQL_LAST_KEY,
    [SOURCE_HAS_ROWS] = SQL_HAS_ROWS,
    [SOURCE_SCAN] = SQL_SCAN_ROWS,
    [SOURCE_ROW_BY_KEY] = SQL_ROW_BY_KEY,
    [SOURCE_EMBEDDING_BY_KEY] = SQL_EMBEDDING_BY_KEY,
    [SOURCE_KEYS_OF_FILTER] = SQL_KEYS_OF_FILTER,
    [SOURCE_EXPLAIN_FILTER] = SQL_EXPLAIN_FILTER,
    [SOURCE_TEST_FILTER] = SQL_TEST_FILTER,
    [SOURCE_EXPLAIN] = SQL_EXPLAIN_SOURCE,
    [SOURCE_FIRST_EMBEDDING] = SQL_FIRST_EMBEDDING,
    [SOURCE_LOG_STATE] = SQL_LOG_STATE,
    [SOURCE_LOG_CHANGES] = SQL_LOG_CHANGES,
    [SOURCE_FIRST_ODD_ROW] = SQL_FIRST_ODD_ROW,
};

int source_prepare(sqlite3 *db, const source *s, source_statement which, const source_query *query,
                   sqlite3_stmt **out, char **message)
{
    /* Columns are qualified: a double-quoted name that matches none would
    ** otherwise be taken for a string. */
    char *key = s->rowid ? sqlite3_mprintf("s.%s", s->rowid) : sqlite3_mprintf("NULL");
    char *id = s->id ? sqlite3_mprintf("s.\"%w\"", s->id) : sqlite3_mprintf("s.%s", s->rowid);
    char *embedding = sqlite3_mprintf("s.\"%w\"", s->embedding);
    char *table = sql_quote_table(s->schema, s->table);
    int orders = s->rowid && (which != SOURCE_SCAN || (query && query->in_order));
    char *order = orders ? sqlite3_mprintf(" ORDER BY s.%s", s->rowid) : sqlite3_mprintf("");
    const char *columns = query && query->columns ? query->columns : "";
    const char *filter = query && query->filter ? query->filter : "";
    const char *log = query && query->log ? query->log : "";
    char *text =
        sql_text(statement_texts[which], "key", key, "id", id, "embedding", embedding, "source",
                 table, "order", order, "columns", columns, "filter", filter, "log", log, NULL);
    int rc = sql_prepare(db, text, out);
    if (rc != SQLITE_OK)
        rc = source_failure(db, s, rc, message);
    sqlite3_free(key);
    sqlite3_free(id);
    sqlite3_free(embedding);
    sqlite3_free(table);
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
