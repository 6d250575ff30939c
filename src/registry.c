#include "registry.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

struct registry_entry {
    registry_entry *next;
    int users;
    registry_database database;
    char *table, *id, *embedding;
    vector_metric metric;
    int strict, dimension, kept_values;
    index_version *current;
    uint64_t stamp;
    int building;
    int64_t searches;
};

/* Guards `entries` and every field of every entry. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Signalled when a first build ends. */
static pthread_cond_t build_ended = PTHREAD_COND_INITIALIZER;
static registry_entry *entries;

static int same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static int same_database(const registry_database *a, const registry_database *b)
{
    return a->owner == b->owner && a->device == b->device && a->inode == b->inode &&
           strcmp(a->schema, b->schema) == 0;
}

static int entry_matches(const registry_entry *e, const registry_key *key)
{
    return same_database(&e->database, &key->database) && same_text(e->table, key->table) &&
           same_text(e->id, key->id) && same_text(e->embedding, key->embedding) &&
           e->metric == key->metric && e->strict == key->strict && e->dimension == key->dimension &&
           e->kept_values == key->kept_values;
}

static void entry_free(registry_entry *e)
{
    if (!e)
        return;
    index_release(e->current);
    sqlite3_free(e->table);
    sqlite3_free(e->id);
    sqlite3_free(e->embedding);
    sqlite3_free(e);
}

static registry_entry *entry_new(const registry_key *key)
{
    registry_entry *e = sqlite3_malloc64(sizeof *e);
    if (!e)
        return NULL;
    *e = (registry_entry){.database = key->database,
                          .table = sqlite3_mprintf("%s", key->table),
                          .id = key->id ? sqlite3_mprintf("%s", key->id) : NULL,
                          .embedding = sqlite3_mprintf("%s", key->embedding),
                          .metric = key->metric,
                          .strict = key->strict,
                          .dimension = key->dimension,
                          .kept_values = key->kept_values};
    if (e->table && e->embedding && (e->id || !key->id))
        return e;
    entry_free(e);
    return NULL;
}

registry_entry *registry_join(const registry_key *key)
{
    registry_entry *fresh = entry_new(key); /* outside the lock: it allocates */
    if (!fresh)
        return NULL;
    pthread_mutex_lock(&lock);
    registry_entry *e = entries;
    while (e && !entry_matches(e, key))
        e = e->next;
    if (!e) {
        e = fresh;
        fresh = NULL;
        e->next = entries;
        entries = e;
    }
    e->users++;
    pthread_mutex_unlock(&lock);
    entry_free(fresh);
    return e;
}

void registry_leave(registry_entry *entry)
{
    if (!entry)
        return;
    pthread_mutex_lock(&lock);
    int last = --entry->users == 0;
    if (last) {
        registry_entry **link = &entries;
        while (*link != entry)
            link = &(*link)->next;
        *link = entry->next;
    }
    pthread_mutex_unlock(&lock);
    if (last)
        entry_free(entry);
}

index_version *registry_current(registry_entry *entry, uint64_t *stamp)
{
    pthread_mutex_lock(&lock);
    index_version *v = index_retain(entry->current);
    *stamp = entry->stamp;
    pthread_mutex_unlock(&lock);
    return v;
}

index_version *registry_publish(registry_entry *entry, index_version *version, uint64_t stamp)
{
    pthread_mutex_lock(&lock);
    index_version *former = entry->current;
    int equal = former && former->rows == version->rows && former->left_out == version->left_out &&
                former->dimension == version->dimension &&
                former->fingerprint == version->fingerprint;
    index_version *chosen = equal ? former : version;
    if (!equal)
        entry->current = index_retain(version);
    entry->stamp = stamp;
    index_retain(chosen);
    pthread_mutex_unlock(&lock);
    if (!equal)
        index_release(former);
    return chosen;
}

int registry_begin_build(registry_entry *entry, int milliseconds, int *has_turn)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += milliseconds * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    pthread_mutex_lock(&lock);
    if (entry->building && !entry->current)
        pthread_cond_timedwait(&build_ended, &lock, &until);
    int ready = !entry->building || entry->current;
    *has_turn = ready && !entry->current;
    if (*has_turn)
        entry->building = 1;
    pthread_mutex_unlock(&lock);
    return ready;
}

void registry_end_build(registry_entry *entry)
{
    pthread_mutex_lock(&lock);
    entry->building = 0;
    pthread_cond_broadcast(&build_ended);
    pthread_mutex_unlock(&lock);
}

void registry_count_search(registry_entry *entry)
{
    pthread_mutex_lock(&lock);
    entry->searches++;
    pthread_mutex_unlock(&lock);
}

int registry_list(registry_line **lines, int *count)
{
    *lines = NULL;
    *count = 0;
    int rc = SQLITE_OK, capacity = 0;
    pthread_mutex_lock(&lock);
    for (registry_entry *e = entries; e; e = e->next)
        capacity += e->current != NULL;
    registry_line *list = sqlite3_malloc64((capacity + 1) * sizeof *list);
    if (!list)
        rc = SQLITE_NOMEM;
    for (registry_entry *e = entries; e && rc == SQLITE_OK; e = e->next) {
        if (!e->current)
            continue;
        registry_line *line = &list[(*count)++];
        *line = (registry_line){.database = e->database,
                                .table = sqlite3_mprintf("%s", e->table),
                                .rows = e->current->rows,
                                .bytes = (int64_t)index_bytes(e->current),
                                .searches = e->searches,
                                .left_out = e->current->left_out,
                                .dimension = e->current->dimension,
                                .metric = e->metric,
                                .build_seconds = e->current->build_seconds};
        rc = line->table ? SQLITE_OK : SQLITE_NOMEM;
    }
    pthread_mutex_unlock(&lock);
    if (rc != SQLITE_OK)
        registry_list_free(list, *count);
    else
        *lines = list;
    return rc;
}

void registry_list_free(registry_line *lines, int count)
{
    for (int i = 0; lines && i < count; i++)
        sqlite3_free(lines[i].table);
    sqlite3_free(lines);
}
