#include "options.h"

#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "sql_text.h"
#include "workers.h"

enum { DIMENSION_MOST = 1 << 20 };

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

int options_parse(const char *text, definition *d, char **message)
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

int options_from_arguments(int argc, const char *const *argv, definition *d, char **message)
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
