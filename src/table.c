#include "table.h"

#include <stdlib.h>
#include <string.h>

#include "approximate.h"
#include "checkpoint.h"
#include "config.h"
#include "cursor.h"
#include "message.h"
#include "snapshot.h"
#include "sql_text.h"
#include "stored.h"
#include "workers.h"

enum { ROWS_GUESSED = 100000, DIMENSION_MOST = 1 << 20 };
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

static int is_approximate(const faiss_table *t)
{
    return *t->definition.kind.text != 0;
}

static int command_column(const faiss_table *t)
{
    return is_approximate(t) ? COLUMN_EFFORT + PLAN_EFFORTS : COLUMN_EFFORT;
}

int table_failure(sqlite3_vtab *base, int rc, char *message)
{
    if (message) {
        sqlite3_free(base->zErrMsg);
        base->zErrMsg = message;
    }
    return rc;
}

/* ---- arguments of CREATE VIRTUAL TABLE ---- */

static int parse_metric(const char *value, definition *d)
{
    return vector_metric_parse(value, &d->metric);
}

static int parse_text(const char *value, char **to)
{
    sqlite3_free(*to);
    *to = *value ? sqlite3_mprintf("%s", value) : NULL;
    return *to != NULL;
}

static int parse_id(const char *value, definition *d)
{
    return parse_text(value, &d->id);
}

static int parse_embedding(const char *value, definition *d)
{
    return parse_text(value, &d->embedding);
}

static int parse_number(const char *value, int most, int *number)
{
    char *end;
    long n = strtol(value, &end, 10);
    if (end == value || *end || n < 1 || n > most)
        return 0;
    *number = (int)n;
    return 1;
}

static int parse_dimension(const char *value, definition *d)
{
    return parse_number(value, DIMENSION_MOST, &d->dimension);
}

static int parse_switch(const char *value, int *on)
{
    *on = sqlite3_stricmp(value, "on") == 0;
    return *on || sqlite3_stricmp(value, "off") == 0;
}

static int parse_strict(const char *value, definition *d)
{
    return parse_switch(value, &d->strict);
}

static int parse_live(const char *value, definition *d)
{
    int on;
    if (!parse_switch(value, &on))
        return 0;
    d->must_be_live = on;
    d->not_live = !on;
    return 1;
}

static int parse_memory(const char *value, definition *d)
{
    d->low_memory = sqlite3_stricmp(value, "low") == 0;
    return d->low_memory || sqlite3_stricmp(value, "full") == 0;
}

/* The string is looked at when the metric is known, too. */
static int parse_index(const char *value, definition *d)
{
    if (!*value || strlen(value) >= sizeof d->kind.text)
        return 0;
    memcpy(d->kind.text, value, strlen(value) + 1);
    return 1;
}

static int parse_ef_construction(const char *value, definition *d)
{
    return parse_number(value, EF_CONSTRUCTION_MOST, &d->kind.ef_construction);
}

static int parse_ef_search(const char *value, definition *d)
{
    return parse_number(value, EFFORT_MOST, &d->effort.ef_search);
}

static int parse_nprobe(const char *value, definition *d)
{
    return parse_number(value, EFFORT_MOST, &d->effort.nprobe);
}

static int parse_rerank(const char *value, definition *d)
{
    return parse_number(value, RERANK_MOST, &d->effort.rerank);
}

static int parse_threads(const char *value, definition *d)
{
    return parse_number(value, WORKERS_MOST, &d->threads);
}

static const struct option {
    const char *name;
    int (*parse)(const char *value, definition *d); /* 0 for a value that is not allowed */
    const char *allowed;
} options[] = {
    {"metric", parse_metric, "l2, ip or cosine"},
    {"id", parse_id, "a column name"},
    {"embedding", parse_embedding, "a column name"},
    {"dimension", parse_dimension, "a whole number from 1 to 1048576"},
    {"strict", parse_strict, "on or off"},
    {"live", parse_live, "on or off"},
    {"memory", parse_memory, "full or low"},
    {"index", parse_index, "a factory string of FAISS such as HNSW32 or 'IVF1024,Flat'"},
    {"ef_construction", parse_ef_construction, "a whole number from 1 to 4096"},
    {"ef_search", parse_ef_search, "a whole number from 1 to 1048576"},
    {"nprobe", parse_nprobe, "a whole number from 1 to 1048576"},
    {"rerank", parse_rerank, "a whole number from 1 to 1000"},
    {"threads", parse_threads, "a whole number from 1 to 64"},
};
enum { OPTIONS = sizeof options / sizeof *options };

static int unknown_option(const char *name, char **message)
{
    sqlite3_str *known = sqlite3_str_new(NULL);
    for (int i = 0; i < OPTIONS; i++)
        sqlite3_str_appendf(known, "%s%s", i ? ", " : "", options[i].name);
    char *list = sqlite3_str_finish(known);
    int rc = set_message(
        message, sqlite3_mprintf("unknown option: %s (expected %s)", name, list ? list : ""));
    sqlite3_free(list);
    return rc;
}

static int parse_option(const char *argument, definition *d, int *given, char **message)
{
    const char *equals = strchr(argument, '=');
    if (!equals) {
        return set_message(message,
                           sqlite3_mprintf("malformed option: %s (expected name=value)", argument));
    }
    char *name = sql_unquote(argument, (size_t)(equals - argument));
    char *value = sql_unquote(equals + 1, strlen(equals + 1));
    int rc = name && value ? SQLITE_OK : SQLITE_NOMEM;
    const struct option *found = NULL;
    for (int i = 0; rc == SQLITE_OK && i < OPTIONS; i++) {
        if (sqlite3_stricmp(name, options[i].name) == 0)
            found = &options[i];
    }
    if (rc == SQLITE_OK && !found)
        rc = unknown_option(name, message);
    else if (rc == SQLITE_OK && given[found - options]++)
        rc = set_message(message, sqlite3_mprintf("option %s is given twice", found->name));
    else if (rc == SQLITE_OK && !found->parse(value, d))
        rc = set_message(message,
                         sqlite3_mprintf("%s=%s: expected %s", found->name, value, found->allowed));
    sqlite3_free(name);
    sqlite3_free(value);
    return rc;
}

/* What is said of an approximate index must belong to its kind. */
static int check_kind(definition *d, char **message)
{
    int ef_construction = d->kind.ef_construction, rc = SQLITE_OK;
    if (*d->kind.text) {
        char text[INDEX_KIND_TEXT];
        memcpy(text, d->kind.text, sizeof text);
        rc = index_kind_parse(text, d->metric, &d->kind, message);
        d->kind.ef_construction = ef_construction;
    }
    return rc == SQLITE_OK ? search_effort_check(&d->kind, &d->effort, message) : rc;
}

/* The length of an option: up to the next comma that is not within quotes. */
static size_t option_length(const char *text)
{
    char quote = 0;
    size_t i = 0;
    for (; text[i] && (quote || text[i] != ','); i++) {
        char closing = quote == '[' ? ']' : quote;
        if (quote && text[i] == closing)
            quote = 0;
        else if (!quote && strchr("'\"`[", text[i]))
            quote = text[i];
    }
    return i;
}

int table_parse_options(const char *text, definition *d, char **message)
{
    int given[OPTIONS] = {0}, rc = SQLITE_OK;
    while (rc == SQLITE_OK && *text) {
        size_t length = option_length(text);
        char *option = sqlite3_mprintf("%.*s", (int)length, text);
        rc = option ? parse_option(option, d, given, message) : SQLITE_NOMEM;
        sqlite3_free(option);
        text += length + (text[length] == ',');
    }
    return rc == SQLITE_OK ? check_kind(d, message) : rc;
}

enum {
    ARGUMENT_SCHEMA = 1,
    ARGUMENT_NAME = 2,
    ARGUMENT_DATABASE = 3,
    ARGUMENT_TABLE = 4,
    ARGUMENT_OPTIONS = 5
};

static int parse_arguments(int argc, const char *const *argv, definition *d, char **message)
{
    *d = (definition){.strict = 1, .metric = METRIC_KIND_L2, .reads_columns = 1};
    int given[OPTIONS] = {0};
    if (argc < ARGUMENT_OPTIONS) {
        return set_message(message, sqlite3_mprintf("expected USING faiss(database, table [, "
                                                    "option=value]...)"));
    }
    d->schema = sql_unquote(argv[ARGUMENT_DATABASE], strlen(argv[ARGUMENT_DATABASE]));
    d->table = sql_unquote(argv[ARGUMENT_TABLE], strlen(argv[ARGUMENT_TABLE]));
    int rc = d->schema && d->table ? SQLITE_OK : SQLITE_NOMEM;
    /* A file attached under another name keeps working: "main" is where the
    ** table itself lives. In temp, names are taken as written. */
    const char *own = argv[ARGUMENT_SCHEMA];
    if (rc == SQLITE_OK && sqlite3_stricmp(d->schema, "main") == 0 &&
        sqlite3_stricmp(own, "temp") != 0) {
        sqlite3_free(d->schema);
        d->schema = sqlite3_mprintf("%s", own);
        rc = d->schema ? SQLITE_OK : SQLITE_NOMEM;
    }
    for (int i = ARGUMENT_OPTIONS; rc == SQLITE_OK && i < argc; i++)
        rc = parse_option(argv[i], d, given, message);
    return rc == SQLITE_OK ? check_kind(d, message) : rc;
}

/* ---- CREATE: looking at the source ---- */

static int check_rows(faiss_table *t, const source *s, int *dimension, char **message)
{
    enum { TYPE, LENGTH };
    sqlite3 *db = t->connection->db;
    sqlite3_stmt *first, *odd = NULL;
    t->connection->reading_source++;
    int rc = source_prepare(db, s, SOURCE_FIRST_EMBEDDING, NULL, &first, message);
    int bytes = t->definition.dimension * VECTOR_COMPONENT_BYTES;
    if (rc == SQLITE_OK && (rc = sqlite3_step(first)) == SQLITE_ROW && !bytes) {
        const char *type = (const char *)sqlite3_column_text(first, TYPE);
        if (type && strcmp(type, "blob") == 0)
            bytes = sqlite3_column_int(first, LENGTH);
        if (bytes % VECTOR_COMPONENT_BYTES)
            bytes = 0;
    }
    sqlite3_finalize(first);
    rc = rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
    if (rc == SQLITE_OK && t->definition.strict)
        rc = source_prepare(db, s, SOURCE_FIRST_ODD_ROW, NULL, &odd, message);
    if (rc == SQLITE_OK && odd) {
        sqlite3_bind_int(odd, 1, bytes);
        rc = sqlite3_step(odd);
    }
    if (odd && rc == SQLITE_ROW) {
        row_value id = value_from_sql(sqlite3_column_value(odd, 0));
        char expected[64];
        sqlite3_snprintf(sizeof expected, expected, "a BLOB of %d bytes (%d float32)", bytes,
                         bytes / VECTOR_COMPONENT_BYTES);
        rc =
            source_bad_row(s, sqlite3_column_int64(odd, 3), &id,
                           sqlite3_mprintf("a value of type %s and length %d",
                                           sqlite3_column_text(odd, 1), sqlite3_column_int(odd, 2)),
                           bytes ? expected : "a BLOB of float32 components", message);
    } else if (rc != SQLITE_OK && rc != SQLITE_DONE && !*message) {
        rc = source_failure(db, s, rc, message);
    } else if (rc == SQLITE_DONE) {
        rc = SQLITE_OK;
    }
    sqlite3_finalize(odd);
    t->connection->reading_source--;
    *dimension = bytes / VECTOR_COMPONENT_BYTES;
    return rc;
}

/* A name that would hide one of ours, or be hidden by it. */
static int check_name(const faiss_table *t, const char *name, const char *embedding, char **message)
{
    static const char *const efforts[PLAN_EFFORTS] = {"ef_search", "nprobe", "rerank"};
    for (int i = 0; i < PLAN_EFFORTS && *t->definition.kind.text; i++) {
        if (sqlite3_stricmp(name, efforts[i]) == 0 || sqlite3_stricmp(embedding, efforts[i]) == 0)
            return set_message(message, sqlite3_mprintf("%s is a column of faiss tables with an "
                                                        "approximate index: it cannot have another "
                                                        "meaning",
                                                        efforts[i]));
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

/* Find the source and check it. */
static int find_source(const faiss_table *t, source *s, char **message)
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
    return rc == SQLITE_OK ? check_name(t, t->name, s->embedding, message) : rc;
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

/* Store what is known of the source, and have its changes logged. */
typedef int store_settings(const config_place *place, const column_list *l,
                           const config_settings *settings, char **message);

static int store(faiss_table *t, const source *s, store_settings *put, int anew, column_list *l,
                 char **message)
{
    config_place place = {t->connection->db, t->schema, t->name, is_approximate(t)};
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
        rc = column_list_of(s, t->name, is_approximate(t), l);
    if (rc == SQLITE_OK)
        rc = put(&place, l, &settings, message);
    l->live = settings.live;
    if (rc == SQLITE_OK && settings.live)
        rc = storage_arm(place.db, s, anew, message);
    if (rc == SQLITE_OK && sqlite3_txn_state(place.db, t->schema) != SQLITE_TXN_WRITE)
        rc = SQLITE_ABORT_ROLLBACK;
    return rc;
}

static checkpoint_place place_of(const faiss_table *t)
{
    return (checkpoint_place){t->connection->db, t->schema, t->name};
}

/* Check the source, fill in the column list, make the shadow tables and the log. */
static int create_columns(faiss_table *t, column_list *l, char **message)
{
    source s = {0};
    int rc = find_source(t, &s, message);
    if (rc == SQLITE_OK)
        rc = store(t, &s, config_create, 0, l, message);
    checkpoint_place place = place_of(t);
    if (rc == SQLITE_OK && is_approximate(t))
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
                        is_approximate(t) ? effort_columns : "", t->name);
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
                           .is_approximate = is_approximate(t),
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
    config_place place = {t->connection->db, t->schema, t->name, is_approximate(t)};
    return config_load(&place, embedding_name(t), l, &t->damage);
}

/* Stored columns that cannot be declared: let the table be dropped at least. */
static int declare_default(faiss_table *t, column_list *l, char **message)
{
    config_place place = {t->connection->db, t->schema, t->name, is_approximate(t)};
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
        rc = parse_arguments(argc, argv, &t->definition, message);
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

static int table_create(sqlite3 *db, void *aux, int argc, const char *const *argv,
                        sqlite3_vtab **out, char **message)
{
    (void)db;
    return table_open(aux, 1, argc, argv, out, message);
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
    int rc = find_source(t, &s, &why);
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
    config_place place = {t->connection->db, t->schema, t->name, is_approximate(t)};
    char *message = NULL;
    checkpoint_place stored = place_of(t);
    int rc = config_drop(&place);
    if (rc == SQLITE_OK && is_approximate(t))
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
    config_place place = {t->connection->db, t->schema, t->name, is_approximate(t)};
    int rc = check_name(t, name, embedding_name(t), &message);
    if (rc == SQLITE_OK)
        rc = config_rename(&place, name);
    checkpoint_place stored = place_of(t);
    if (rc == SQLITE_OK && is_approximate(t))
        rc = checkpoint_rename(&stored, name);
    return table_failure(base, rc, message);
}

static int table_shadow_name(const char *suffix)
{
    return sqlite3_stricmp(suffix, "config") == 0 || sqlite3_stricmp(suffix, "checkpoint") == 0;
}

/* ---- xBestIndex, xUpdate ---- */

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
        rc = plan_best_index(&t->plan, info, &message);
    return table_failure(base, rc, message);
}

/* 'rebuild' looks at the source anew: its columns, its rows, and the triggers. */
static int look_again(faiss_table *t, char **message)
{
    source s = {0};
    column_list l = {0};
    int rc = find_source(t, &s, message);
    if (rc == SQLITE_OK)
        rc = store(t, &s, config_refill, 1, &l, message);
    t->columns.live = rc == SQLITE_OK ? l.live : t->columns.live;
    column_list_clear(&l);
    source_clear(&s);
    return rc;
}

/* What is stored is of what was learned before: it is stored again. */
static int command_rebuild(faiss_table *t, snapshot *s, char **message)
{
    const checkpoint_place place = place_of(t);
    index_version *v;
    snapshot_forget(s);
    int rc = snapshot_index(s, &v, message);
    if (rc == SQLITE_OK)
        rc = snapshot_optimize(s, 1, message);
    if (rc == SQLITE_OK && is_approximate(t) && checkpoint_exists(&place))
        rc = stored_save(s, t->schema, t->name, message);
    return rc;
}

static int command_integrity_check(faiss_table *t, snapshot *s, char **message)
{
    const checkpoint_place place = place_of(t);
    int equal;
    int rc = snapshot_check(s, &equal, message);
    if (rc == SQLITE_OK && equal && is_approximate(t))
        return checkpoint_verify(&place, snapshot_poll, s, message);
    if (rc != SQLITE_OK || equal)
        return rc;
    *message = sqlite3_mprintf("the index differs from %s.%s", s->source->schema, s->source->table);
    return *message ? SQLITE_CORRUPT_VTAB : SQLITE_NOMEM;
}

static int command_optimize(faiss_table *t, snapshot *s, char **message)
{
    int rc = snapshot_optimize(s, 0, message);
    return rc == SQLITE_OK ? stored_save(s, t->schema, t->name, message) : rc;
}

static const struct command {
    const char *name;
    int (*run)(faiss_table *t, snapshot *s, char **message);
} commands[] = {{"rebuild", command_rebuild},
                {"optimize", command_optimize},
                {"integrity-check", command_integrity_check}};
enum { COMMANDS = sizeof commands / sizeof *commands };

static int run_command(faiss_table *t, const char *name, char **message)
{
    if (t->damage)
        return set_message(message, sqlite3_mprintf("%s", t->damage));
    const struct command *found = NULL;
    for (int i = 0; i < COMMANDS; i++) {
        if (name && strcmp(name, commands[i].name) == 0)
            found = &commands[i];
    }
    if (!found) {
        return set_message(message, sqlite3_mprintf("unknown command: %Q (expected 'rebuild', "
                                                    "'optimize' or 'integrity-check')",
                                                    name));
    }
    snapshot s = {0};
    int rc = found->run == command_rebuild ? look_again(t, message) : SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = snapshot_open(t->connection, &t->definition, &s, message);
    if (rc == SQLITE_OK)
        rc = found->run(t, &s, message);
    snapshot_close(&s);
    return rc;
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
        rc = run_command(t, (const char *)sqlite3_value_text(command), &message);
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
    int rc = run_command(t, "integrity-check", &message);
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
    .xRename = table_rename, .xShadowName = table_shadow_name

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
