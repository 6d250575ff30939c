#include "connection.h"

#include <pthread.h>
#include <string.h>
#include <sys/stat.h>

#include "publication.h"

enum { SOURCES_REMEMBERED = 64 };

/* ---- tracked sources ---- */

/* Whether a tracked source serves a definition: the columns that it reads matter
** only where they are kept in memory. */
static int tracks(const tracked_source *t, const definition *d)
{
    int keeps = !t->resolved || !t->source.rowid;
    return definition_equal(&t->asked, d) && (!keeps || t->asked.reads_columns == d->reads_columns);
}

void tracked_drop_watch(tracked_source *t)
{
    sqlite3_finalize(t->watch);
    sqlite3_finalize(t->pin.statement);
    log_reader_clear(&t->log_reader);
    t->watch = NULL;
    t->pin = (kept_pin){0};
    t->trusted = 0;
}

static void tracked_free(tracked_source *t)
{
    tracked_drop_watch(t);
    if (t->partial)
        t->partial_destroy(t->partial);
    change_log_clear(&t->log);
    index_release(t->latest);
    index_release(t->draft);
    registry_leave(t->shared);
    source_clear(&t->source);
    definition_clear(&t->asked);
    sqlite3_free(t);
}

static void forget(connection *c, tracked_source **link)
{
    tracked_source *t = *link;
    *link = t->next;
    tracked_free(t);
    c->source_count--;
}

/* Forget the last in the list that nobody uses. */
static void forget_oldest(connection *c)
{
    tracked_source **oldest = NULL;
    for (tracked_source **link = &c->sources; *link; link = &(*link)->next) {
        if ((*link)->users == 0)
            oldest = link;
    }
    if (oldest)
        forget(c, oldest);
}

tracked_source *connection_track(connection *c, const definition *d)
{
    tracked_source **link = &c->sources;
    while (*link && !tracks(*link, d))
        link = &(*link)->next;
    tracked_source *t = *link;
    if (t) {
        *link = t->next;
    } else {
        if (c->source_count >= SOURCES_REMEMBERED)
            forget_oldest(c);
        t = sqlite3_malloc64(sizeof *t);
        if (!t)
            return NULL;
        memset(t, 0, sizeof *t);
        if (definition_copy(&t->asked, d) != SQLITE_OK) {
            sqlite3_free(t);
            return NULL;
        }
        c->source_count++;
    }
    t->next = c->sources; /* the most recently used comes first */
    c->sources = t;
    t->users++;
    return t;
}

int connection_is_plain(const connection *c, const definition *d)
{
    const tracked_source *t = c->sources;
    while (t && !tracks(t, d))
        t = t->next;
    return t && t->resolved && t->source.kind != SOURCE_VIRTUAL;
}

void connection_forget(connection *c, const definition *d)
{
    tracked_source **link = &c->sources;
    while (*link && !(tracks(*link, d) && (*link)->users == 0))
        link = &(*link)->next;
    if (*link)
        forget(c, link);
}

void connection_forget_idle(connection *c)
{
    tracked_source **link = &c->sources;
    while (*link) {
        if ((*link)->users == 0)
            forget(c, link);
        else
            link = &(*link)->next;
    }
}

void connection_untrack(tracked_source *t)
{
    t->users--;
}

void connection_forget_plan(connection *c, const char *plan)
{
    for (tracked_source *t = c->sources; t; t = t->next) {
        for (int i = 0; i < PLANS_REMEMBERED; i++) {
            if (t->pin.plans[i] == plan)
                t->pin.plans[i] = NULL;
        }
    }
}

void connection_drop_watches(connection *c)
{
    for (tracked_source *t = c->sources; t; t = t->next)
        tracked_drop_watch(t);
}

int connection_identify(connection *c, const char *schema, registry_database *out)
{
    *out = (registry_database){0};
    const char *path = sqlite3_db_filename(c->db, schema);
    struct stat file;
    const char *cache = path && *path ? sqlite3_uri_parameter(path, "cache") : NULL;
    int is_shared_cache = cache && strcmp(cache, "shared") == 0;
    if (path && *path && !is_shared_cache && stat(path, &file) == 0) {
        out->device = (uint64_t)file.st_dev;
        out->inode = (uint64_t)file.st_ino;
        return 1;
    }
    out->owner = c;
    sqlite3_snprintf(sizeof out->schema, out->schema, "%s", schema);
    return 0;
}

uint64_t connection_file_stamp(const char *path)
{
    struct stat file;
    if (!path || !*path || stat(path, &file) != 0)
        return 0;
    uint64_t when = (uint64_t)file.st_mtim.tv_sec * 1000000000u + (uint64_t)file.st_mtim.tv_nsec;
    return index_row_hash((int64_t)when, NULL, 0, &file.st_size, sizeof file.st_size) | 1;
}

int tracked_kept_values(const tracked_source *t)
{
    if (t->source.rowid)
        return 0;
    return t->asked.reads_columns ? 1 + t->source.column_count : 1;
}

int connection_join_registry(connection *c, tracked_source *t)
{
    const char *path = sqlite3_db_filename(c->db, t->source.schema);
    registry_key key = {.table = t->source.table,
                        .id = t->source.id,
                        .embedding = t->source.embedding,
                        .metric = t->asked.metric,
                        .kind = t->asked.kind,
                        .strict = t->asked.strict,
                        .dimension = t->asked.dimension,
                        .kept_values = tracked_kept_values(t),
                        .low_memory = t->asked.low_memory,
                        .has_integer_key = t->source.has_integer_key,
                        .stamp = connection_file_stamp(path),
                        .path = path};
    t->is_file = connection_identify(c, t->source.schema, &key.database);
    t->is_immutable = t->is_file && sqlite3_uri_boolean(path, "immutable", 0);
    t->file_stamp = t->is_immutable ? connection_file_stamp(path) : 0;
    registry_entry *entry = registry_join(&key);
    if (!entry)
        return SQLITE_NOMEM;
    registry_leave(t->shared);
    t->shared = entry;
    registry_describe(entry, t->log.table ? NULL : t->asked.not_live ? "live=off" : t->log.why);
    return SQLITE_OK;
}

/* ---- faiss tables ---- */

const definition *connection_find_table(const connection *c, const char *schema, const char *name)
{
    for (const connected_table *t = c->tables; t; t = t->next) {
        if (sqlite3_stricmp(t->schema, schema) == 0 && sqlite3_stricmp(t->name, name) == 0)
            return t->definition;
    }
    return NULL;
}

/* ---- the connection ---- */

/* Every one of the process, by `next_open`. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static connection *open_connections;

/* No other thread may hold the lock while the process is copied. */
static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork);
}

static void put_into_list(connection *c)
{
    pthread_mutex_lock(&lock);
    c->next_open = open_connections;
    open_connections = c;
    pthread_mutex_unlock(&lock);
}

static void take_from_list(const connection *c)
{
    pthread_mutex_lock(&lock);
    connection **link = &open_connections;
    while (*link != c)
        link = &(*link)->next_open;
    *link = c->next_open;
    pthread_mutex_unlock(&lock);
}

static connection *find_in_list(const sqlite3 *db)
{
    pthread_mutex_lock(&lock);
    connection *c = open_connections;
    while (c && c->db != db)
        c = c->next_open;
    pthread_mutex_unlock(&lock);
    return c;
}

connection *connection_of(sqlite3 *db)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    static atomic_uint_fast64_t serials;
    pthread_once(&once, watch_forks);
    connection *c = find_in_list(db);
    if (c)
        return connection_retain(c);
    c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return NULL;
    *c = (connection){.db = db, .references = 1, .serial = atomic_fetch_add(&serials, 1) + 1};
    put_into_list(c);
    return c;
}

connection *connection_retain(connection *c)
{
    c->references++;
    return c;
}

void connection_release(void *user_data)
{
    connection *c = user_data;
    if (--c->references > 0)
        return;
    take_from_list(c);
    publication_end_host(c);
    publication_release_host(c);
    while (c->sources) {
        tracked_source *t = c->sources;
        c->sources = t->next;
        tracked_free(t);
    }
    sqlite3_free(c);
}
