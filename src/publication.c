#include "publication.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "message.h"
#include "source.h"
#include "sql_text.h"

enum { TURN_MS = 50, RETRY_NS = 100000 };

struct host {
    atomic_int references;
    pthread_mutex_t turn;   /* one visitor at a time */
    pid_t process;          /* a child of fork() must not use the parent's connections */
    connection *connection; /* NULL once it has ended; behind `lock` */
};

struct publication {
    publication *next;
    atomic_int references;
    host *host;
    char *name, *table;
    definition definition;
    int is_table; /* a faiss table */
    registry_database database;
    /* Behind `lock`: */
    int is_listed;
    registry_entry *entry;
};

/* Guards the list, and the fields that say so. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static publication *publications;
/* As set; -1 before. */
static _Atomic(int64_t) limit = -1;

/* ---- lifetime ---- */

publication *publication_retain(publication *p)
{
    if (p)
        p->references++;
    return p;
}

static void host_release(host *h)
{
    if (h && --h->references == 0) {
        pthread_mutex_destroy(&h->turn);
        sqlite3_free(h);
    }
}

void publication_release(publication *p)
{
    if (!p || --p->references > 0)
        return;
    registry_withdraw(p->entry);
    host_release(p->host);
    definition_clear(&p->definition);
    sqlite3_free(p->name);
    sqlite3_free(p->table);
    sqlite3_free(p);
}

const char *publication_name(const publication *p)
{
    return p->name;
}

const char *publication_table(const publication *p)
{
    return p->table;
}

const definition *publication_definition(const publication *p)
{
    return &p->definition;
}

int publication_is_faiss_table(const publication *p)
{
    return p->is_table;
}

/* ---- hosts ---- */

/* No other thread may hold the lock while the process is copied. */
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
    pthread_mutex_init(&lock, NULL);
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork, after_fork_in_child);
}

int publication_open_host(connection *c)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, watch_forks);
    pthread_mutexattr_t attributes;
    host *h = sqlite3_malloc64(sizeof *h);
    if (!h)
        return SQLITE_NOMEM;
    *h = (host){.references = 1, .process = getpid(), .connection = c};
    /* A function of the host's that searches would wait for its own thread. */
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_init(&h->turn, &attributes);
    pthread_mutexattr_destroy(&attributes);
    c->host = h;
    return SQLITE_OK;
}

/* Take those of a host out of the list that have this name and table (NULL: any); the
** caller releases what is returned, linked by `next`. Called with the lock held. */
static publication *take_listed(const host *h, const char *name, const char *table)
{
    publication *taken = NULL, **link = &publications;
    while (*link) {
        publication *p = *link;
        if (p->host == h && (!name || strcmp(p->name, name) == 0) &&
            (!table || sqlite3_stricmp(p->table, table) == 0)) {
            *link = p->next;
            p->is_listed = 0;
            p->next = taken;
            taken = p;
        } else {
            link = &p->next;
        }
    }
    return taken;
}

static int release_taken(publication *taken)
{
    int count = 0;
    while (taken) {
        publication *next = taken->next;
        publication_release(taken);
        taken = next;
        count++;
    }
    return count;
}

void publication_end_host(connection *c)
{
    if (!c->host)
        return;
    pthread_mutex_lock(&lock);
    c->host->connection = NULL;
    publication *taken = take_listed(c->host, NULL, NULL);
    pthread_mutex_unlock(&lock);
    release_taken(taken);
}

void publication_release_host(connection *c)
{
    host_release(c->host);
    c->host = NULL;
}

/* ---- the list ---- */

/* Put a new one into the list, in place of a former one; in *former is what to release.
** *is_own is 0 if the name is another host's. */
static void enlist(connection *c, publication *p, publication **former, int *is_own)
{
    *former = NULL;
    *is_own = 1;
    pthread_mutex_lock(&lock);
    for (publication *each = publications; each; each = each->next)
        *is_own &= strcmp(each->name, p->name) != 0 || each->host == p->host;
    if (*is_own) {
        *former = take_listed(p->host, p->name, p->table);
        p->host->connection = c; /* it may have ended by a sqlite3_close() that was refused */
        p->is_listed = 1;
        p->next = publications;
        publications = p;
    }
    pthread_mutex_unlock(&lock);
}

int publication_add(connection *c, const char *name, const char *table, const definition *d,
                    int is_table, registry_entry *entry, char **message)
{
    publication *p = sqlite3_malloc64(sizeof *p), *former;
    int is_own;
    if (!p)
        return SQLITE_NOMEM;
    if (c->host->process != getpid()) {
        sqlite3_free(p);
        return set_message(message, sqlite3_mprintf("this connection was opened before the process "
                                                    "was forked: open another one"));
    }
    *p = (publication){.references = 1,
                       .host = c->host,
                       .name = sqlite3_mprintf("%s", name),
                       .table = sqlite3_mprintf("%s", table),
                       .is_table = is_table};
    c->host->references++;
    connection_identify(c, "main", &p->database);
    int rc = p->name && p->table ? definition_copy(&p->definition, d) : SQLITE_NOMEM;
    if (rc != SQLITE_OK) {
        publication_release(p);
        return rc;
    }
    p->entry = registry_offer(entry);
    enlist(c, p, &former, &is_own);
    release_taken(former);
    if (is_own)
        return SQLITE_OK;
    publication_release(p);
    return set_message(message,
                       sqlite3_mprintf("the name %s is taken: another connection publishes "
                                       "under it",
                                       name));
}

int publication_remove(connection *c, const char *name, const char *table)
{
    pthread_mutex_lock(&lock);
    publication *taken = take_listed(c->host, name, table);
    pthread_mutex_unlock(&lock);
    return release_taken(taken);
}

/* What the list has of a name. */
typedef struct found_name {
    int is_published;
    registry_database database;
    const host *host;
    publication *table; /* with a reference */
} found_name;

static found_name find_name(const char *name, const char *table)
{
    found_name found = {0};
    pthread_mutex_lock(&lock);
    for (publication *p = publications; p; p = p->next) {
        if (strcmp(p->name, name) != 0)
            continue;
        found.is_published = 1;
        found.database = p->database;
        found.host = p->host;
        if (!found.table && sqlite3_stricmp(p->table, table) == 0)
            found.table = publication_retain(p);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* "a, b": the tables published as `name`, or with NULL all names; NULL for none, or when
** memory is short. */
static char *list_published(const char *name)
{
    sqlite3_str *list = sqlite3_str_new(NULL);
    pthread_mutex_lock(&lock);
    for (const publication *p = publications; p; p = p->next) {
        int seen = 0; /* names repeat, one after the other or not */
        for (const publication *q = publications; q != p && !name; q = q->next)
            seen |= strcmp(q->name, p->name) == 0;
        if (!seen && (!name || strcmp(p->name, name) == 0))
            sqlite3_str_appendf(list, "%s%s", sqlite3_str_length(list) ? ", " : "",
                                name ? p->table : p->name);
    }
    pthread_mutex_unlock(&lock);
    return sqlite3_str_finish(list);
}

char *publication_name_of_entry(uint64_t serial)
{
    char *name = NULL;
    pthread_mutex_lock(&lock);
    for (const publication *p = publications; p && !name; p = p->next) {
        if (registry_serial(p->entry) == serial)
            name = sqlite3_mprintf("%s", p->name);
    }
    pthread_mutex_unlock(&lock);
    return name;
}

/* ---- names ---- */

/* The schema of this connection that is the database; NULL if it is not open here. */
static int find_open(connection *c, const registry_database *database, char **schema)
{
    registry_database each;
    sqlite3_stmt *list;
    *schema = NULL;
    int rc = sql_prepare(c->db, sql_text(SQL_DATABASE_LIST, NULL), &list);
    while (rc == SQLITE_OK && !*schema && (rc = sqlite3_step(list)) == SQLITE_ROW) {
        const char *name = (const char *)sqlite3_column_text(list, 1);
        rc = name ? SQLITE_OK : SQLITE_NOMEM;
        if (!name)
            break;
        connection_identify(c, name, &each);
        if (registry_same_database(&each, database)) {
            *schema = sqlite3_mprintf("%s", name);
            rc = *schema ? SQLITE_OK : SQLITE_NOMEM;
        }
    }
    int finalized = sqlite3_finalize(list);
    return rc == SQLITE_DONE ? finalized : rc;
}

static int not_published(const char *name, const char *table, char **message)
{
    char *tables = list_published(name);
    int rc = set_message(message, sqlite3_mprintf("%s.%s is not published (of %s there is %s)",
                                                  name, table, name, tables ? tables : "nothing"));
    sqlite3_free(tables);
    return rc;
}

/* A name that is published: here, or through its host? */
static int resolve_published(connection *c, const char *name, const char *table,
                             const found_name *found, char **schema, char **message)
{
    int rc = find_open(c, &found->database, schema);
    if (rc != SQLITE_OK || *schema)
        return rc;
    if (!found->table)
        return not_published(name, table, message);
    if (c->host) {
        return set_message(message,
                           sqlite3_mprintf("a host connection cannot search what another one "
                                           "publishes (%s.%s): use an ordinary connection",
                                           name, table));
    }
    return SQLITE_OK;
}

/* Add the published names to the message about one that nobody knows. */
static void name_published(char **message)
{
    char *names = *message ? list_published(NULL) : NULL;
    if (names) {
        char *longer =
            sqlite3_mprintf("%.*s; published: %s)", (int)strlen(*message) - 1, *message, names);
        sqlite3_free(*message);
        *message = longer;
    }
    sqlite3_free(names);
}

int publication_resolve(connection *c, const char *database, const char *table, char **schema,
                        publication **p, char **message)
{
    *p = NULL;
    *schema = NULL;
    int is_schema =
        sqlite3_db_readonly(c->db, database) >= 0 || sqlite3_stricmp(database, "temp") == 0;
    found_name found = {0};
    if (!is_schema)
        found = find_name(database, table);
    if (!found.is_published) {
        int rc = source_find_database(c->db, database, schema, message);
        if (rc == SQLITE_ERROR)
            name_published(message);
        return rc;
    }
    int rc = resolve_published(c, database, table, &found, schema, message);
    if (rc == SQLITE_OK)
        *p = found.table;
    else
        publication_release(found.table);
    return rc;
}

/* ---- visits ---- */

static int has_ended(const publication *p, char **message)
{
    if (p->host->process != getpid()) {
        return set_message(message,
                           sqlite3_mprintf("%s was published before this process was forked: "
                                           "publish it again",
                                           p->name));
    }
    return set_message(message,
                       sqlite3_mprintf("%s.%s is not published any more", p->name, p->table));
}

/* Wait some time for the turn among visitors: SQLITE_OK, SQLITE_BUSY, or an error. */
static int take_turn(publication *p, char **message)
{
    struct timespec until = clock_in(TURN_MS);
    int failure = pthread_mutex_timedlock(&p->host->turn, &until);
    if (failure == EDEADLK)
        return set_message(message, sqlite3_mprintf("%s is read by this very search", p->name));
    return failure ? SQLITE_BUSY : SQLITE_OK;
}

/* With the turn: take SQLite's mutex on the host, if nobody has it. While this file's
** lock is held the host cannot end, and so its mutex is there; afterwards it cannot end
** since its mutex is held. */
static int take_host(publication *p, connection **out, char **message)
{
    pthread_mutex_lock(&lock);
    connection *c = p->is_listed ? p->host->connection : NULL;
    int taken = c && sqlite3_mutex_try(sqlite3_db_mutex(c->db)) == SQLITE_OK;
    pthread_mutex_unlock(&lock);
    *out = c;
    return !c ? has_ended(p, message) : taken ? SQLITE_OK : SQLITE_BUSY;
}

/* The same, waiting for up to TURN_MS. */
static int wait_for_host(publication *p, connection **out, char **message)
{
    int rc = take_host(p, out, message);
    for (int i = 0; rc == SQLITE_BUSY && i < TURN_MS * 1000000 / RETRY_NS; i++) {
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
        rc = take_host(p, out, message);
    }
    return rc;
}

int publication_enter(publication *p, connection *visitor, connection **out, char **message)
{
    int rc = p->host->process == getpid() ? SQLITE_BUSY : has_ended(p, message);
    while (rc == SQLITE_BUSY) {
        rc = take_turn(p, message);
        if (rc == SQLITE_OK) {
            rc = wait_for_host(p, out, message);
            if (rc != SQLITE_OK)
                pthread_mutex_unlock(&p->host->turn);
        }
        if (rc == SQLITE_BUSY && sql_poll(visitor->db) != SQLITE_OK)
            rc = SQLITE_INTERRUPT;
    }
    if (rc != SQLITE_OK)
        return rc;
    if (sqlite3_txn_state((*out)->db, "main") != SQLITE_TXN_WRITE)
        return SQLITE_OK;
    publication_leave(p);
    *message = sqlite3_mprintf("%s is being written by the connection that publishes it: try again",
                               p->name);
    return *message ? SQLITE_BUSY : SQLITE_NOMEM;
}

void publication_leave(publication *p)
{
    /* Only this thread can end the host now, so the pointer stays. */
    pthread_mutex_lock(&lock);
    connection *c = p->host->connection;
    pthread_mutex_unlock(&lock);
    if (c)
        sqlite3_mutex_leave(sqlite3_db_mutex(c->db));
    pthread_mutex_unlock(&p->host->turn);
}

void publication_move(publication *p, registry_entry *entry)
{
    pthread_mutex_lock(&lock);
    registry_entry *former = p->entry;
    if (former != entry)
        p->entry = registry_offer(entry);
    pthread_mutex_unlock(&lock);
    if (former != entry)
        registry_withdraw(former);
}

/* ---- what others may build ---- */

int64_t publication_limit(void)
{
    int64_t bytes = limit;
    if (bytes >= 0)
        return bytes;
    const char *megabytes = getenv("SQLITE_FAISS_LIMIT_MB");
    return megabytes ? (int64_t)strtol(megabytes, NULL, 10) << 20 : 0;
}

void publication_set_limit(int64_t bytes)
{
    limit = bytes;
}
