#include "registry.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "growth.h"
#include "low_memory.h"

/* Old versions may take this part of the newest, and some bytes in any case. */
enum { OLD_VERSIONS_SHARE = 16, OLD_VERSIONS_BYTES = 1 << 20 };

/* A version that was published. */
typedef struct published_version {
    index_version *version;
    int is_live; /* it has a state */
    live_state state;
} published_version;

/* What an interrupted statement has left. */
typedef struct partial_work {
    void *of; /* NULL: nothing */
    void (*destroy)(void *);
} partial_work;

struct registry_entry {
    registry_entry *next;
    uint64_t serial;
    int users;
    int offers;     /* publications among the users */
    double left_at; /* when the last user left */
    registry_database database;
    char *table, *id, *embedding, *path;
    vector_metric metric;
    index_kind kind;
    int strict, dimension, kept_values, low_memory;
    published_version published[REGISTRY_STATES]; /* newest first */
    int published_count;
    uint64_t stamp;
    partial_work partials[REGISTRY_PARTIALS];
    char *live;
    int building;
    int64_t searches;
};

/* Guards `entries` and every field of every entry. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Signalled when a first build ends. */
static pthread_cond_t build_ended = PTHREAD_COND_INITIALIZER;
static registry_entry *entries;

static index_version *current_of(const registry_entry *e)
{
    return e->published_count ? e->published[0].version : NULL;
}

static int same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

int registry_same_database(const registry_database *a, const registry_database *b)
{
    return a->owner == b->owner && a->device == b->device && a->inode == b->inode &&
           strcmp(a->schema, b->schema) == 0;
}

static int entry_matches(const registry_entry *e, const registry_key *key)
{
    return registry_same_database(&e->database, &key->database) &&
           same_text(e->table, key->table) && same_text(e->id, key->id) &&
           same_text(e->embedding, key->embedding) && e->metric == key->metric &&
           e->strict == key->strict && e->dimension == key->dimension &&
           e->kept_values == key->kept_values && e->low_memory == key->low_memory &&
           index_kind_equal(&e->kind, &key->kind);
}

static void partial_free(partial_work p)
{
    if (p.of)
        p.destroy(p.of);
}

static void entry_free(registry_entry *e)
{
    if (!e)
        return;
    for (int i = 0; i < e->published_count; i++)
        index_release(e->published[i].version);
    for (int i = 0; i < REGISTRY_PARTIALS; i++)
        partial_free(e->partials[i]);
    sqlite3_free(e->live);
    sqlite3_free(e->table);
    sqlite3_free(e->id);
    sqlite3_free(e->embedding);
    sqlite3_free(e->path);
    sqlite3_free(e);
}

static registry_entry *entry_new(const registry_key *key)
{
    static atomic_uint_fast64_t serials;
    registry_entry *e = sqlite3_malloc64(sizeof *e);
    int has_path = key->path && *key->path;
    if (!e)
        return NULL;
    *e = (registry_entry){.serial = atomic_fetch_add(&serials, 1) + 1,
                          .database = key->database,
                          .path = has_path ? sqlite3_mprintf("%s", key->path) : NULL,
                          .table = sqlite3_mprintf("%s", key->table),
                          .id = key->id ? sqlite3_mprintf("%s", key->id) : NULL,
                          .embedding = sqlite3_mprintf("%s", key->embedding),
                          .metric = key->metric,
                          .kind = key->kind,
                          .strict = key->strict,
                          .dimension = key->dimension,
                          .kept_values = key->kept_values,
                          .low_memory = key->low_memory};
    if (e->table && e->embedding && (e->id || !key->id) && (e->path || !has_path))
        return e;
    entry_free(e);
    return NULL;
}

/* ---- lifetime ---- */

static long setting(const char *name, long otherwise)
{
    const char *text = getenv(name);
    char *end;
    long value = text && *text ? strtol(text, &end, 10) : -1;
    return value >= 0 && !*end ? value : otherwise;
}

/* Whether anything of it is worth waiting for the next user. */
static int has_work(const registry_entry *e)
{
    int has = current_of(e) != NULL;
    for (int i = 0; i < REGISTRY_PARTIALS; i++)
        has |= e->partials[i].of != NULL;
    return has;
}

/* Take entries that nobody uses and whose time is up out of the list, and those
** beyond the memory allowed for them, the first in the list being the newest.
** Called with the lock held; the caller frees what is returned without it. */
static registry_entry *take_expired(void)
{
    double now = clock_seconds(), seconds = (double)setting("SQLITE_FAISS_LINGER", 10);
    int64_t left = (int64_t)setting("SQLITE_FAISS_LINGER_MB", 512) << 20;
    registry_entry *expired = NULL, **link = &entries;
    while (*link) {
        registry_entry *e = *link;
        if (e->users == 0 && current_of(e))
            left -= (int64_t)index_bytes(current_of(e));
        int keep = e->users > 0 ||
                   (!e->database.owner && has_work(e) && left >= 0 && now - e->left_at < seconds);
        if (keep) {
            link = &e->next;
        } else {
            *link = e->next;
            e->next = expired;
            expired = e;
        }
    }
    return expired;
}

static void free_all(registry_entry *e)
{
    while (e) {
        registry_entry *next = e->next;
        entry_free(e);
        e = next;
    }
}

/* A child of fork() has one thread, and the parent's memory as it was: no lock may
** be held by a thread that it does not have, and no build is under way. */
static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutex_init(&lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    pthread_cond_init(&build_ended, NULL);
    for (registry_entry *e = entries; e; e = e->next) {
        e->building = 0;
        for (int i = 0; i < e->published_count; i++)
            index_forget_work(e->published[i].version);
    }
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

static void forget_states(registry_entry *e)
{
    for (int i = 0; i < e->published_count; i++)
        e->published[i].is_live = 0;
}

registry_entry *registry_join(const registry_key *key)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    registry_entry *fresh = entry_new(key); /* outside the lock: it allocates */
    if (!fresh)
        return NULL;
    pthread_mutex_lock(&lock);
    registry_entry *expired = take_expired();
    registry_entry *e = entries;
    while (e && !entry_matches(e, key))
        e = e->next;
    if (!e) {
        e = fresh;
        fresh = NULL;
        e->next = entries;
        entries = e;
    }
    /* What happened to a file that nobody had open is not known: it may have been filled
    ** anew from a copy, with the numbers and tags that the log had before. */
    if (e->users++ == 0 && (!key->has_integer_key || key->stamp != e->stamp))
        forget_states(e);
    pthread_mutex_unlock(&lock);
    entry_free(fresh);
    free_all(expired);
    return e;
}

void registry_leave(registry_entry *entry)
{
    if (!entry)
        return;
    pthread_mutex_lock(&lock);
    if (--entry->users == 0) {
        entry->left_at = clock_seconds();
        registry_entry **link = &entries;
        while (*link != entry)
            link = &(*link)->next;
        *link = entry->next; /* the last that was left comes first */
        entry->next = entries;
        entries = entry;
    }
    registry_entry *expired = take_expired();
    pthread_mutex_unlock(&lock);
    free_all(expired);
}

/* ---- publications ---- */

registry_entry *registry_offer(registry_entry *entry)
{
    if (!entry)
        return NULL;
    pthread_mutex_lock(&lock);
    entry->users++;
    entry->offers++;
    pthread_mutex_unlock(&lock);
    return entry;
}

void registry_withdraw(registry_entry *entry)
{
    if (!entry)
        return;
    pthread_mutex_lock(&lock);
    entry->offers--;
    pthread_mutex_unlock(&lock);
    registry_leave(entry);
}

int registry_is_offered(registry_entry *entry)
{
    pthread_mutex_lock(&lock);
    int offered = entry->offers > 0;
    pthread_mutex_unlock(&lock);
    return offered;
}

uint64_t registry_serial(const registry_entry *entry)
{
    return entry ? entry->serial : 0;
}

/* Take the entries out of the list that nobody uses. Called with the lock held. */
static registry_entry *take_unused(void)
{
    registry_entry *unused = NULL, **link = &entries;
    while (*link) {
        registry_entry *e = *link;
        if (e->users > 0) {
            link = &e->next;
        } else {
            *link = e->next;
            e->next = unused;
            unused = e;
        }
    }
    return unused;
}

int64_t registry_bytes_besides(const registry_entry *entry, int drop)
{
    int64_t bytes = 0;
    pthread_mutex_lock(&lock);
    registry_entry *unused = drop ? take_unused() : NULL;
    for (const registry_entry *e = entries; e; e = e->next) {
        if (e != entry && e->offers == 0 && current_of(e))
            bytes += (int64_t)index_bytes(current_of(e));
    }
    pthread_mutex_unlock(&lock);
    free_all(unused);
    return bytes;
}

/* ---- versions ---- */

index_version *registry_current(registry_entry *entry, uint64_t *stamp)
{
    pthread_mutex_lock(&lock);
    index_version *v = index_retain(current_of(entry));
    *stamp = entry->stamp;
    pthread_mutex_unlock(&lock);
    return v;
}

int live_state_equal(const live_state *a, const live_state *b)
{
    return a->seq && a->seq == b->seq && a->tag == b->tag && a->run == b->run &&
           a->schema == b->schema;
}

int live_state_may_precede(const live_state *state, const live_state *now)
{
    return state->seq && state->schema == now->schema && state->seq <= now->seq;
}

/* Which of the published versions has this state, -1 if none. */
static int find_state(const registry_entry *e, const live_state *state)
{
    for (int i = 0; i < e->published_count; i++) {
        if (e->published[i].is_live && live_state_equal(&e->published[i].state, state))
            return i;
    }
    return -1;
}

index_version *registry_at(registry_entry *entry, const live_state *state)
{
    pthread_mutex_lock(&lock);
    int i = find_state(entry, state);
    index_version *v = i < 0 ? NULL : index_retain(entry->published[i].version);
    pthread_mutex_unlock(&lock);
    return v;
}

int registry_states(registry_entry *entry, live_state states[REGISTRY_STATES])
{
    int count = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < entry->published_count; i++) {
        if (entry->published[i].is_live)
            states[count++] = entry->published[i].state;
    }
    pthread_mutex_unlock(&lock);
    return count;
}

void registry_forget_states(registry_entry *entry)
{
    pthread_mutex_lock(&lock);
    forget_states(entry);
    pthread_mutex_unlock(&lock);
}

static int same_rows(const index_version *a, const index_version *b)
{
    return a->rows == b->rows && a->left_out == b->left_out && a->dimension == b->dimension &&
           a->fingerprint == b->fingerprint;
}

/* How many of the published versions to keep: an old one holds on to no more than
** was made for those after it, which together may be a small part of the index.
** Sources without a log have no use for old ones. */
static int count_to_keep(const registry_entry *e)
{
    const index_version *newest = e->published[0].version;
    size_t most = index_bytes(newest) / OLD_VERSIONS_SHARE + OLD_VERSIONS_BYTES, made = 0;
    int count = 1;
    while (count < e->published_count && e->published[count].is_live) {
        made += e->published[count - 1].version->made_bytes;
        if (made > most)
            break;
        count++;
    }
    return count;
}

/* Put a version in front. Returns how many stand in `dropped` to be released. */
static int push(registry_entry *e, index_version *version, const live_state *state,
                index_version **dropped)
{
    int count = 0;
    if (e->published_count == REGISTRY_STATES)
        dropped[count++] = e->published[--e->published_count].version;
    memmove(e->published + 1, e->published, (size_t)e->published_count * sizeof *e->published);
    e->published[0] = (published_version){.version = index_retain(version)};
    if (state) {
        e->published[0].is_live = 1;
        e->published[0].state = *state;
    }
    e->published_count++;
    int keep = count_to_keep(e);
    while (e->published_count > keep)
        dropped[count++] = e->published[--e->published_count].version;
    return count;
}

index_version *registry_publish(registry_entry *entry, index_version *version,
                                const live_state *state, uint64_t stamp)
{
    index_version *dropped[REGISTRY_STATES + 2];
    int dropped_count = 0;
    pthread_mutex_lock(&lock);
    int known = state ? find_state(entry, state) : -1;
    const index_version *newest = current_of(entry);
    index_version *chosen = version;
    if (known >= 0 && same_rows(entry->published[known].version, version))
        chosen = entry->published[known].version;
    else if (newest && same_rows(newest, version))
        chosen = current_of(entry);
    index_retain(chosen);
    if (known >= 0 && chosen == version) { /* read again, and it was not so */
        dropped[dropped_count++] = entry->published[known].version;
        entry->published_count--;
        memmove(entry->published + known, entry->published + known + 1,
                (size_t)(entry->published_count - known) * sizeof *entry->published);
        known = -1;
    }
    if (known < 0 && (state || chosen == version))
        dropped_count += push(entry, chosen, state, dropped + dropped_count);
    entry->stamp = stamp;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < dropped_count; i++)
        index_release(dropped[i]);
    return chosen;
}

void registry_replace(registry_entry *entry, index_version *former, index_version *version)
{
    int replaced = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < entry->published_count; i++) {
        if (entry->published[i].version == former) {
            entry->published[i].version = index_retain(version);
            replaced++;
        }
    }
    pthread_mutex_unlock(&lock);
    while (replaced-- > 0)
        index_release(former);
}

void registry_keep_partial(registry_entry *entry, registry_partial which, void *partial,
                           void (*destroy)(void *))
{
    pthread_mutex_lock(&lock);
    partial_work former = entry->partials[which];
    entry->partials[which] = (partial_work){partial, destroy};
    pthread_mutex_unlock(&lock);
    partial_free(former);
}

void *registry_take_partial(registry_entry *entry, registry_partial which)
{
    pthread_mutex_lock(&lock);
    void *partial = entry->partials[which].of;
    entry->partials[which].of = NULL;
    pthread_mutex_unlock(&lock);
    return partial;
}

void registry_describe(registry_entry *entry, const char *why)
{
    char *copy = why ? sqlite3_mprintf("no: %s", why) : sqlite3_mprintf("yes");
    pthread_mutex_lock(&lock);
    char *former = entry->live;
    entry->live = copy;
    pthread_mutex_unlock(&lock);
    sqlite3_free(former);
}

/* ---- builds ---- */

int registry_begin_build(registry_entry *entry, int milliseconds, int *has_turn)
{
    struct timespec until = clock_in(milliseconds);
    pthread_mutex_lock(&lock);
    if (entry->building && !current_of(entry))
        pthread_cond_timedwait(&build_ended, &lock, &until);
    int ready = !entry->building || current_of(entry);
    *has_turn = ready && !current_of(entry);
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
    registry_entry *expired = take_expired();
    for (registry_entry *e = entries; e; e = e->next)
        capacity += e->published_count > 0;
    registry_line *list = sqlite3_malloc64((capacity + 1) * sizeof *list);
    if (!list)
        rc = SQLITE_NOMEM;
    for (registry_entry *e = entries; e && rc == SQLITE_OK; e = e->next) {
        const index_version *current = current_of(e);
        if (!current)
            continue;
        registry_line *line = &list[(*count)++];
        *line = (registry_line){.database = e->database,
                                .table = sqlite3_mprintf("%s", e->table),
                                .rows = current->rows,
                                .bytes = (int64_t)index_bytes(current),
                                .searches = e->searches,
                                .left_out = current->left_out,
                                .dimension = current->dimension,
                                .metric = e->metric,
                                .build_seconds = current->build_seconds,
                                .kind = *e->kind.text ? growth_describe(current, &e->kind)
                                                      : sqlite3_mprintf("Flat"),
                                .memory = index_describe_memory(current),
                                .origin = growth_origin(current),
                                .live = sqlite3_mprintf("%s", e->live ? e->live : ""),
                                .path = e->path ? sqlite3_mprintf("%s", e->path) : NULL,
                                .users = e->users - e->offers,
                                .serial = e->serial};
        rc = line->table && line->kind && line->live && (line->path || !e->path) ? SQLITE_OK
                                                                                 : SQLITE_NOMEM;
    }
    pthread_mutex_unlock(&lock);
    free_all(expired);
    if (rc != SQLITE_OK)
        registry_list_free(list, *count);
    else
        *lines = list;
    return rc;
}

void registry_list_free(registry_line *lines, int count)
{
    for (int i = 0; lines && i < count; i++) {
        sqlite3_free(lines[i].table);
        sqlite3_free(lines[i].kind);
        sqlite3_free(lines[i].live);
        sqlite3_free(lines[i].path);
    }
    sqlite3_free(lines);
}
