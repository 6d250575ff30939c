#include "config.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "sql_text.h"

enum { FORMAT_VERSION = 1 };

/* ---- columns ---- */

void column_list_clear(column_list *l)
{
    sqlite3_free(l->embedding);
    sqlite3_free(l->id_affinity);
    sqlite3_free(l->id_collation);
    for (int i = 0; i < l->count; i++) {
        sqlite3_free(l->columns[i].offered);
        sqlite3_free(l->columns[i].name);
        sqlite3_free(l->columns[i].affinity);
        sqlite3_free(l->columns[i].collation);
    }
    sqlite3_free(l->columns);
    *l = (column_list){0};
}

/* Whether a faiss table has a column of this name already. */
static int is_taken(const char *table, const column_list *l, const char *name)
{
    const char *const own[] = {"id", "score", "distance", "k", l->embedding, table};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (sqlite3_stricmp(name, own[i]) == 0)
            return 1;
    }
    for (int i = 0; i < SEARCH_EFFORTS && l->is_approximate; i++) {
        if (sqlite3_stricmp(name, search_effort_names[i]) == 0)
            return 1;
    }
    for (int i = 0; i < l->count; i++) {
        if (sqlite3_stricmp(name, l->columns[i].offered) == 0)
            return 1;
    }
    return 0;
}

/* Append a source column, under a name that is free. */
static int column_list_add(const char *table, column_list *l, const char *name,
                           const char *affinity, const char *collation)
{
    plan_column *columns = sqlite3_realloc64(l->columns, ((size_t)l->count + 1) * sizeof *columns);
    if (!columns)
        return SQLITE_NOMEM;
    l->columns = columns;
    char *offered = sqlite3_mprintf("%s", name);
    while (offered && is_taken(table, l, offered)) {
        char *longer = sqlite3_mprintf("source_%s", offered);
        sqlite3_free(offered);
        offered = longer;
    }
    plan_column *column = &columns[l->count++];
    *column = (plan_column){offered, sqlite3_mprintf("%s", name), sqlite3_mprintf("%s", affinity),
                            sqlite3_mprintf("%s", collation)};
    return column->offered && column->name && column->affinity && column->collation ? SQLITE_OK
                                                                                    : SQLITE_NOMEM;
}

int column_list_of(const source *s, const char *table, int is_approximate, column_list *out)
{
    *out = (column_list){.embedding = sqlite3_mprintf("%s", s->embedding),
                         .id_affinity = sqlite3_mprintf("%s", s->id_affinity),
                         .id_collation = sqlite3_mprintf("%s", s->id_collation),
                         .id_is_rowid = s->id_is_rowid,
                         .is_approximate = is_approximate,
                         .has_rowid = s->rowid != NULL};
    int rc = out->embedding && out->id_affinity && out->id_collation ? SQLITE_OK : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < s->column_count; i++) {
        const source_column *column = &s->columns[i];
        rc = column_list_add(table, out, column->name, column->affinity, column->collation);
    }
    if (rc != SQLITE_OK)
        column_list_clear(out);
    return rc;
}

/* ---- the shadow table ---- */

static char *config_name(const config_place *place)
{
    char *name = sqlite3_mprintf("%s_config", place->table);
    char *quoted = name ? sql_quote_table(place->schema, name) : NULL;
    sqlite3_free(name);
    return quoted;
}

static char *config_sql(const char *template, const config_place *place)
{
    char *config = config_name(place);
    char *text = sql_text(template, "config", config, NULL);
    sqlite3_free(config);
    return text;
}

static int put(const config_place *place, const char *key, const char *value)
{
    sqlite3_stmt *statement;
    int rc = sql_prepare(place->db, config_sql(SQL_CONFIG_PUT, place), &statement);
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(statement, 1, key, -1, SQLITE_STATIC);
        sqlite3_bind_text(statement, 2, value, -1, SQLITE_STATIC);
        sqlite3_step(statement);
    }
    int finalized = sqlite3_finalize(statement);
    return rc == SQLITE_OK ? finalized : rc;
}

static int put_columns(const config_place *place, const column_list *l)
{
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < l->count; i++) {
        char key[32];
        sqlite3_snprintf(sizeof key, key, "column %04d", i);
        const char *const parts[] = {l->columns[i].name, l->columns[i].affinity,
                                     l->columns[i].collation};
        cJSON *array = cJSON_CreateStringArray(parts, 3);
        char *text = array ? cJSON_PrintUnformatted(array) : NULL;
        rc = text ? put(place, key, text) : SQLITE_NOMEM;
        cJSON_free(text);
        cJSON_Delete(array);
    }
    return rc;
}

static int put_all(const config_place *place, const column_list *l, const config_settings *given)
{
    char version[16], index_id[24], dimension[16];
    sqlite3_uint64 random;
    sqlite3_randomness(sizeof random, &random);
    sqlite3_snprintf(sizeof version, version, "%d", FORMAT_VERSION);
    sqlite3_snprintf(sizeof index_id, index_id, "%016llx", random);
    sqlite3_snprintf(sizeof dimension, dimension, "%d", given->dimension);
    const struct {
        const char *key, *value;
    } settings[] = {
        {"version", version},
        {"index_id", index_id},
        {"embedding", l->embedding},
        {"id_affinity", l->id_affinity},
        {"id_collation", l->id_collation},
        {"id_is_rowid", l->id_is_rowid ? "1" : "0"},
        {"has_rowid", l->has_rowid ? "1" : "0"},
        {"dimension", given->dimension ? dimension : NULL},
        {"source", given->source},
        {"id", given->id},
        {"strict", given->strict ? "1" : "0"},
        {"live", given->live ? "1" : "0"},
    };
    int rc = SQLITE_OK;
    for (size_t i = 0; rc == SQLITE_OK && i < sizeof settings / sizeof *settings; i++) {
        if (settings[i].value)
            rc = put(place, settings[i].key, settings[i].value);
    }
    return rc == SQLITE_OK ? put_columns(place, l) : rc;
}

static int fill(const config_place *place, int rc, const column_list *l,
                const config_settings *settings, char **message)
{
    if (rc == SQLITE_OK)
        rc = put_all(place, l, settings);
    if (rc != SQLITE_OK && rc != SQLITE_NOMEM)
        *message = sqlite3_mprintf("cannot fill the shadow table %s.%s_config: %s", place->schema,
                                   place->table, sqlite3_errmsg(place->db));
    return rc;
}

int config_create(const config_place *place, const column_list *l, const config_settings *settings,
                  char **message)
{
    return fill(place, sql_execute(place->db, config_sql(SQL_CONFIG_CREATE, place)), l, settings,
                message);
}

int config_refill(const config_place *place, const column_list *l, const config_settings *settings,
                  char **message)
{
    return fill(place, sql_execute(place->db, config_sql(SQL_CONFIG_CLEAR, place)), l, settings,
                message);
}

int config_drop(const config_place *place)
{
    return sql_execute(place->db, config_sql(SQL_CONFIG_DROP, place));
}

int config_rename(const config_place *place, const char *table)
{
    char *config = config_name(place);
    char *renamed = sqlite3_mprintf("\"%w_config\"", table);
    int rc = sql_execute(place->db,
                         sql_text(SQL_CONFIG_RENAME, "config", config, "name", renamed, NULL));
    sqlite3_free(config);
    sqlite3_free(renamed);
    return rc;
}

/* ---- reading it back ---- */

char *config_describe_damage(const config_place *place, const char *found)
{
    return sqlite3_mprintf("%s.%s_config is damaged, or of a format (%.20s) that this version does "
                           "not know (%d): drop %s and create it again",
                           place->schema, place->table, found, FORMAT_VERSION, place->table);
}

static int is_affinity(const char *name)
{
    static const char *const affinities[] = {"INTEGER", "REAL", "NUMERIC", "TEXT", "BLOB"};
    for (size_t i = 0; name && i < sizeof affinities / sizeof *affinities; i++) {
        if (strcmp(name, affinities[i]) == 0)
            return 1;
    }
    return 0;
}

static int replace_text(char **to, const char *text)
{
    sqlite3_free(*to);
    *to = sqlite3_mprintf("%s", text);
    return *to ? SQLITE_OK : SQLITE_NOMEM;
}

static int read_column(const config_place *place, column_list *l, const char *value)
{
    cJSON *array = cJSON_Parse(value);
    const char *name = cJSON_GetStringValue(cJSON_GetArrayItem(array, 0));
    const char *affinity = cJSON_GetStringValue(cJSON_GetArrayItem(array, 1));
    const char *collation = cJSON_GetStringValue(cJSON_GetArrayItem(array, 2));
    int rc = SQLITE_OK;
    if (name && is_affinity(affinity) && collation)
        rc = column_list_add(place->table, l, name, affinity, collation);
    cJSON_Delete(array);
    return rc;
}

/* Take one setting, if it makes sense. */
static int read_setting(const config_place *place, column_list *l, const char *key,
                        const char *value, char **damage)
{
    if (strcmp(key, "version") == 0) {
        if (value && atoi(value) == FORMAT_VERSION)
            return SQLITE_OK;
        sqlite3_free(*damage);
        *damage = config_describe_damage(place, value ? value : "NULL");
        return *damage ? SQLITE_OK : SQLITE_NOMEM;
    }
    if (!value || !*value)
        return SQLITE_OK;
    if (strcmp(key, "embedding") == 0)
        return replace_text(&l->embedding, value);
    if (strcmp(key, "id_collation") == 0)
        return replace_text(&l->id_collation, value);
    if (strcmp(key, "id_affinity") == 0 && is_affinity(value))
        return replace_text(&l->id_affinity, value);
    if (strcmp(key, "id_is_rowid") == 0)
        l->id_is_rowid = atoi(value) == 1;
    if (strcmp(key, "live") == 0)
        l->live = atoi(value) == 1;
    if (strcmp(key, "has_rowid") == 0)
        l->has_rowid = atoi(value) == 1;
    return strncmp(key, "column ", 7) == 0 ? read_column(place, l, value) : SQLITE_OK;
}

int config_load(const config_place *place, const char *embedding, column_list *out, char **damage)
{
    *out = (column_list){.embedding = sqlite3_mprintf("%s", embedding),
                         .id_affinity = sqlite3_mprintf("BLOB"),
                         .id_collation = sqlite3_mprintf("BINARY"),
                         .is_approximate = place->is_approximate};
    int rc = out->embedding && out->id_affinity && out->id_collation ? SQLITE_OK : SQLITE_NOMEM;
    sqlite3_stmt *get;
    /* In the order of keys: the columns come before "embedding", whose name they
    ** must not take, so this pass is made twice. */
    for (int pass = 0; rc == SQLITE_OK && pass < 2; pass++) {
        int prepared = sql_prepare(place->db, config_sql(SQL_CONFIG_GET, place), &get);
        if (prepared != SQLITE_OK) {
            rc = prepared == SQLITE_ERROR ? SQLITE_OK : prepared;
            break;
        }
        while (rc == SQLITE_OK && sqlite3_step(get) == SQLITE_ROW) {
            const char *key = (const char *)sqlite3_column_text(get, 0);
            int is_column = key && strncmp(key, "column ", 7) == 0;
            if (key && is_column == pass)
                rc = read_setting(place, out, key, (const char *)sqlite3_column_text(get, 1),
                                  damage);
        }
        int finalized = sqlite3_finalize(get);
        rc = rc == SQLITE_OK ? finalized : rc;
    }
    if (rc != SQLITE_OK)
        column_list_clear(out);
    return rc;
}
