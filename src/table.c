#include "table.h"

#include <string.h>

#include "best_index.h"
#include "commands.h"
#include "cursor.h"
#include "message.h"
#include "options.h"
#include "sql_text.h"
#include "table_source.h"

enum { ROWS_GUESSED = 100000 };
enum { INTEGRITY_AVAILABLE = 3044000 }; /* xIntegrity; called only from that version on */

/* Declared columns, in this order. */
enum {
    COLUMN_ID,
    COLUMN_SCORE,
    COLUMN_DISTANCE,
    COLUMN_VECTOR,
    COLUMN_K,
    COLUMN_EFFORT /* of an approximate index ef_search, nprobe, rerank; then, and else at once,
                  ** the command's and those of the source */
};

int table_is_approximate(const faiss_table *t)
{
    return *t->definition.kind.text != 0;
}

config_place table_config_place(const faiss_table *t)
{
    return (config_place){t->connection->db, t->schema, t->name, table_is_approximate(t)};
}

checkpoint_place table_checkpoint_place(const faiss_table *t)
{
    return (checkpoint_place){t->connection->db, t->schema, t->name};
}

static int command_column(const faiss_table *t)
{
    return table_is_approximate(t) ? COLUMN_EFFORT + SEARCH_EFFORTS : COLUMN_EFFORT;
}

int table_failure(sqlite3_vtab *base, int rc, char *message)
{
    if (message) {
        sqlite3_free(base->zErrMsg);
        base->zErrMsg = message;
    }
    return rc;
}

/* Check the source, fill in the column list, make the shadow tables and the log. */
static int create_columns(faiss_table *t, column_list *l, char **message)
{
    source s = {0};
    int rc = table_find_source(t, &s, message);
    if (rc == SQLITE_OK)
        rc = table_store(t, &s, config_create, 0, l, message);
    checkpoint_place place = table_checkpoint_place(t);
    if (rc == SQLITE_OK && table_is_approximate(t))
        rc = checkpoint_create(&place, message);
    source_clear(&s);
    return rc;
}

/* ---- xCreate, xConnect, xDisconnect, xDestroy, xRename ---- */

/* The SQL of the columns, for sqlite3_declare_vtab(). HIDDEN must come before the
** type, and without a type SQLite would make the column NUMERIC and turn text into
** numbers. */
static const char effort_columns[] =
    ", ef_search HIDDEN BLOB, nprobe HIDDEN BLOB, rerank HIDDEN BLOB";

static char *declaration(const faiss_table *t, const column_list *l, const char *id_collation)
{
    sqlite3_str *sql = sqlite3_str_new(NULL);
    sqlite3_str_appendf(sql,
                        "CREATE TABLE x(id %s COLLATE \"%w\", score REAL, distance REAL, "
                        "\"%w\" HIDDEN BLOB, k HIDDEN BLOB%s, \"%w\" HIDDEN BLOB",
                        l->id_affinity, id_collation, l->embedding,
                        table_is_approximate(t) ? effort_columns : "", t->name);
    for (int i = 0; i < l->count; i++)
        sqlite3_str_appendf(sql, ", \"%w\" HIDDEN %s", l->columns[i].offered,
                            l->columns[i].affinity);
    sqlite3_str_appendchar(sql, 1, ')');
    return sqlite3_str_finish(sql);
}

static int declare_columns(const faiss_table *t, const column_list *l, const char *id_collation,
                           char **message)
{
    char *sql = declaration(t, l, id_collation);
    int rc = sql ? sql_declare(t->connection->db, sql, message) : SQLITE_NOMEM;
    sqlite3_free(sql);
    return rc;
}

/* Declare the columns; the table takes over the list. SQLite refuses a collation
** that the connection does not have. */
static int declare(faiss_table *t, column_list *l, char **message)
{
    int rc = declare_columns(t, l, l->id_collation, message);
    int missing = rc == SQLITE_ERROR && declare_columns(t, l, "BINARY", message) == SQLITE_OK;
    if (rc != SQLITE_OK && !missing)
        return rc;
    t->columns = *l;
    *l = (column_list){0};
    const column_list *own = &t->columns;
    t->plan = (plan_table){.name = t->name,
                           .id = COLUMN_ID,
                           .score = COLUMN_SCORE,
                           .distance = COLUMN_DISTANCE,
                           .vector = COLUMN_VECTOR,
                           .neighbours = COLUMN_K,
                           .database = -1,
                           .table = -1,
                           .embedding = own->embedding,
                           .has_rowid = own->has_rowid,
                           .id_is_rowid = own->id_is_rowid,
                           .is_approximate = table_is_approximate(t),
                           .effort = COLUMN_EFFORT,
                           .metric_known = 1,
                           .metric = t->definition.metric,
                           .rows = ROWS_GUESSED,
                           .id_affinity = own->id_affinity,
                           .id_collation = own->id_collation,
                           .id_collation_missing = missing,
                           .columns = own->columns,
                           .column_count = own->count,
                           .first_column = command_column(t) + 1};
    return SQLITE_OK;
}

static const char *embedding_name(const faiss_table *t)
{
    return t->definition.embedding ? t->definition.embedding : "embedding";
}

static int load_columns(faiss_table *t, column_list *l)
{
    config_place place = table_config_place(t);
    return config_load(&place, embedding_name(t), l, &t->damage);
}

/* Stored columns that cannot be declared: let the table be dropped at least. */
static int declare_default(faiss_table *t, column_list *l, char **message)
{
    config_place place = table_config_place(t);
    column_list_clear(l);
    if (!t->damage)
        t->damage = config_describe_damage(&place, "unknown columns");
    *l = (column_list){.embedding = sqlite3_mprintf("%s", embedding_name(t)),
                       .id_affinity = sqlite3_mprintf("BLOB"),
                       .id_collation = sqlite3_mprintf("BINARY")};
    int complete = t->damage && l->embedding && l->id_affinity && l->id_collation;
    return complete ? declare(t, l, message) : SQLITE_NOMEM;
}

/* Connecting never fails for what the file says, or the whole file's tables could
** neither be listed nor this one be dropped: the message is kept for queries. */
static int set_damage(faiss_table *t, char **message)
{
    t->damage = *message;
    *message = NULL;
    return t->damage ? SQLITE_OK : SQLITE_NOMEM;
}

static void table_unlink(faiss_table *t)
{
    for (connected_table **link = &t->connection->tables; *link; link = &(*link)->next) {
        if (*link == &t->entry) {
            *link = t->entry.next;
            return;
        }
    }
}

static int table_disconnect(sqlite3_vtab *base)
{
    faiss_table *t = (faiss_table *)base;
    table_unlink(t);
    connection_release(t->connection);
    definition_clear(&t->definition);
    sqlite3_free(t->damage);
    sqlite3_free(t->base.zErrMsg); /* of a DROP TABLE that failed: SQLite does not ask for it */
    column_list_clear(&t->columns);
    sqlite3_free(t->schema);
    sqlite3_free(t->name);
    sqlite3_free(t);
    return SQLITE_OK;
}

static int table_open(connection *c, int is_create, int argc, const char *const *argv,
                      sqlite3_vtab **out, char **message)
{
    faiss_table *t = sqlite3_malloc64(sizeof *t);
    if (!t)
        return SQLITE_NOMEM;
    memset(t, 0, sizeof *t);
    t->connection = connection_retain(c);
    t->schema = sqlite3_mprintf("%s", argv[ARGUMENT_SCHEMA]);
    t->name = sqlite3_mprintf("%s", argv[ARGUMENT_NAME]);
    column_list list = {0};
    int rc = t->schema && t->name ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = options_from_arguments(argc, argv, &t->definition, message);
    if (rc == SQLITE_ERROR && !is_create)
        rc = set_damage(t, message);
    if (rc == SQLITE_OK)
        rc = is_create ? create_columns(t, &list, message) : load_columns(t, &list);
    if (rc == SQLITE_OK)
        rc = declare(t, &list, message);
    if (rc == SQLITE_ERROR && !is_create)
        rc = declare_default(t, &list, message);
    if (rc == SQLITE_OK) {
        if (!t->damage) {
            t->entry = (connected_table){c->tables, t->schema, t->name, &t->definition};
            c->tables = &t->entry;
        }
        *out = &t->base;
    } else {
        table_disconnect(&t->base);
        if (!*message) /* instead of SQLite's "vtable constructor failed" */
            *message = sqlite3_mprintf("%s", sqlite3_errstr(rc));
    }
    column_list_clear(&list);
    return rc;
}

/* The last entry of the source's log, which is an entry of any later state of the transaction. */
static int note_past(faiss_table *t)
{
    const definition *d = &t->definition;
    t->past = (live_state){0};
    if (!table_is_approximate(t) || !t->columns.live || sqlite3_stricmp(d->schema, t->schema) != 0)
        return SQLITE_OK;
    return change_log_last_entry(t->connection->db, t->schema, d->table, &t->past);
}

static int table_create(sqlite3 *db, void *aux, int argc, const char *const *argv,
                        sqlite3_vtab **out, char **message)
{
    (void)db;
    int rc = table_open(aux, 1, argc, argv, out, message);
    if (rc == SQLITE_OK) /* there is no xBegin in the same transaction */
        rc = note_past((faiss_table *)*out);
    if (rc != SQLITE_OK && *out) {
        table_disconnect(*out);
        *out = NULL;
    }
    return rc;
}

static int table_connect(sqlite3 *db, void *aux, int argc, const char *const *argv,
                         sqlite3_vtab **out, char **message)
{
    (void)db;
    return table_open(aux, 0, argc, argv, out, message);
}

/* Take this table's part of the triggers away; with the last one the log goes too. */
static int remove_log(faiss_table *t, char **message)
{
    sqlite3 *db = t->connection->db;
    source s = {0};
    char *why = NULL;
    int rc = table_find_source(t, &s, &why);
    if (rc == SQLITE_OK && sqlite3_txn_state(db, t->schema) != SQLITE_TXN_WRITE)
        rc = SQLITE_ABORT_ROLLBACK;
    else if (rc == SQLITE_OK)
        rc = storage_arm(db, &s, 0, message);
    else if (rc == SQLITE_ERROR) /* the source is gone, or not what it was */
        rc = storage_disarm(db, t->definition.schema, t->definition.table, message);
    sqlite3_free(why);
    source_clear(&s);
    return rc;
}

static int table_destroy(sqlite3_vtab *base)
{
    faiss_table *t = (faiss_table *)base;
    config_place place = table_config_place(t);
    char *message = NULL;
    checkpoint_place stored = table_checkpoint_place(t);
    int rc = config_drop(&place);
    if (rc == SQLITE_OK && table_is_approximate(t))
        rc = checkpoint_drop(&stored);
    /* Whatever the settings said: they may be damaged. */
    if (rc == SQLITE_OK && t->definition.table &&
        sqlite3_stricmp(t->definition.schema, t->schema) == 0)
        rc = remove_log(t, &message);
    /* A read error inside, also one that SQLite keeps to itself, undoes the transaction. */
    if (rc == SQLITE_OK && sqlite3_txn_state(t->connection->db, t->schema) != SQLITE_TXN_WRITE)
        rc = SQLITE_ABORT_ROLLBACK;
    if (rc != SQLITE_OK)
        return table_failure(base, rc, message);
    if (!t->damage)
        connection_forget(t->connection, &t->definition);
    return table_disconnect(base);
}

static int table_rename(sqlite3_vtab *base, const char *name)
{
    faiss_table *t = (faiss_table *)base;
    char *message = NULL;
    config_place place = table_config_place(t);
    int rc = table_check_name(t, name, embedding_name(t), &message);
    if (rc == SQLITE_OK)
        rc = config_rename(&place, name);
    checkpoint_place stored = table_checkpoint_place(t);
    if (rc == SQLITE_OK && table_is_approximate(t))
        rc = checkpoint_rename(&stored, name);
    return table_failure(base, rc, message);
}

static int table_shadow_name(const char *suffix)
{
    return sqlite3_stricmp(suffix, "config") == 0 || sqlite3_stricmp(suffix, "checkpoint") == 0;
}

/* ---- xBegin, xBestIndex, xUpdate ---- */

/* SQLite calls it before a statement with a command does anything, unless one before it in the same
** transaction had one. A command cannot see by itself where in a statement it stands: a trigger may
** run it between an entry of the log and the change that the entry tells of. Where reading has
** ended the transaction, SQLite must be told: it would go on with what is gone. */
static int table_begin(sqlite3_vtab *base)
{
    return note_past((faiss_table *)base);
}

int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info)
{
    faiss_table *t = (faiss_table *)base;
    char *message = NULL;
    int rc;
    if (t->damage)
        rc = set_message(&message, sqlite3_mprintf("%s", t->damage));
    else if (t->connection->reading_source)
        rc = set_message(&message, sqlite3_mprintf("a source of a faiss index must not read a "
                                                   "faiss table (%s)",
                                                   t->plan.name));
    else
        rc = best_index(&t->plan, info, &message);
    if (rc == SQLITE_OK)
        connection_forget_plan(t->connection, info->idxStr);
    return table_failure(base, rc, message);
}

/* INSERT INTO t(t) VALUES ('command') is the only write there is. */
static int table_update(sqlite3_vtab *base, int argc, sqlite3_value **argv, sqlite3_int64 *rowid)
{
    enum { FIRST_COLUMN = 2 };
    faiss_table *t = (faiss_table *)base;
    char *message = NULL;
    int rc;
    sqlite3_value *command = argc > 1 ? argv[FIRST_COLUMN + command_column(t)] : NULL;
    int is_insert = argc > 1 && sqlite3_value_type(argv[0]) == SQLITE_NULL;
    if (is_insert && sqlite3_value_type(command) != SQLITE_NULL) {
        *rowid = 0;
        rc = command_run(t, (const char *)sqlite3_value_text(command), &message);
    } else {
        message = sqlite3_mprintf("%s is read-only: write to %s", t->name, t->definition.table);
        rc = message ? SQLITE_READONLY : SQLITE_NOMEM;
    }
    return table_failure(base, rc, message);
}

/* PRAGMA integrity_check asks each table. Whoever reads the message frees it with
** sqlite3_free(). What keeps the check from being made is reported as well. */
static int table_integrity(sqlite3_vtab *base, const char *schema, const char *name, int flags,
                           char **error)
{
    (void)schema;
    (void)flags;
    faiss_table *t = (faiss_table *)base;
    char *message = NULL;
    int rc = command_run(t, "integrity-check", &message);
    if (rc == SQLITE_OK || rc == SQLITE_NOMEM || rc == SQLITE_INTERRUPT) {
        sqlite3_free(message);
        return rc;
    }
    *error = sqlite3_mprintf("faiss table %s: %s", name, message ? message : "unknown error");
    sqlite3_free(message);
    return *error ? SQLITE_OK : SQLITE_NOMEM;
}

/* What a table does in any version of SQLite. */
#define TABLE_METHODS                                                                           \
    .xCreate = table_create, .xConnect = table_connect, .xBestIndex = table_best_index,         \
    .xDisconnect = table_disconnect, .xDestroy = table_destroy, .xOpen = cursor_open,           \
    .xClose = cursor_close, .xFilter = cursor_filter, .xNext = cursor_next, .xEof = cursor_eof, \
    .xColumn = cursor_column, .xRowid = cursor_rowid, .xUpdate = table_update,                  \
    .xBegin = table_begin, .xRename = table_rename, .xShadowName = table_shadow_name

/* sqlite3_module as it is from SQLite 3.44 on, whatever the header at hand. */
typedef struct module_with_integrity {
    sqlite3_module module;
#if SQLITE_VERSION_NUMBER < 3044000
    int (*xIntegrity)(sqlite3_vtab *, const char *, const char *, int, char **);
#endif
} module_with_integrity;

static const module_with_integrity modern_module = {
#if SQLITE_VERSION_NUMBER < 3044000
    .module = {.iVersion = 4, TABLE_METHODS},
    .xIntegrity = table_integrity,
#else
    .module = {.iVersion = 4, TABLE_METHODS, .xIntegrity = table_integrity},
#endif
};

static const sqlite3_module module = {.iVersion = 3, TABLE_METHODS};

int table_register(connection *c)
{
    int checks = sqlite3_libversion_number() >= INTEGRITY_AVAILABLE;
    return sqlite3_create_module_v2(c->db, "faiss", checks ? &modern_module.module : &module,
                                    connection_retain(c), connection_release);
}
