/*
** Every answer is that of a state which existed between the search's beginning and
** its end, and ThreadSanitizer finds nothing, while eight threads search and two
** write, each with a connection of its own on one file: readers that hold their
** transactions open, that open a connection for each search, and that are
** interrupted.
**
** The rows are in groups. Version v of the table writes all rows of one group anew,
** from v alone: so v, which the nearest row tells, gives the whole answer.
**
**   versioned_answers [seconds]   (or TEST_SECONDS)
*/
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "connections.h"

enum { READERS = 8, WRITERS = 2, DEFAULT_SECONDS = 60 };
enum { GROUPS = 8, GROUP_ROWS = 32, ROWS = GROUPS * GROUP_ROWS, DECIMAL = 10 };
enum { ABSENT_OF = 7 };    /* one row in so many of a group is not there */
enum { MARKER = ROWS };    /* the row that tells the version, the nearest of all */
enum { RADIX = ROWS + 1 }; /* scores are version × RADIX + row, exact in a float32 … */
enum { VERSIONS_MOST = (1 << 24) / RADIX - 1 }; /* … below 2^24 */
enum { WRITER_RESTS_US = 3000, HOLDER_RESTS_US = 2000 };

static char path[] = "/tmp/versioned_answers_XXXXXX";
static time_t finish;
/* Versions that were committed at least, and that may have been at most. */
static atomic_int committed, begun;
static atomic_long answers, interrupted;
/* The connection of each reader that is to be interrupted; they come and go. */
static sqlite3 *to_interrupt[READERS];
static pthread_mutex_t interrupt_lock = PTHREAD_MUTEX_INITIALIZER;

static sqlite3 *open_file(void)
{
    sqlite3 *db = open_connection(path, sqlite3_faiss_init);
    run(db, "PRAGMA synchronous = OFF");
    return db;
}

static int is_over(void)
{
    return atomic_load(&begun) >= VERSIONS_MOST ||
           is_time_over(finish, answers > 0 && committed > 0 && interrupted > 0);
}

/* ---- what an answer must be ---- */

typedef struct answer {
    int id, score;
} answer;

static int nearest_first(const void *a, const void *b)
{
    return ((const answer *)b)->score - ((const answer *)a)->score;
}

/* The version up to `version` that wrote the group last; 0 for the first. */
static int last_write(int group, int version)
{
    return version < group ? 0 : version - (version - group) % GROUPS;
}

static int rows_of(int version, answer out[RADIX])
{
    int count = 0;
    out[count++] = (answer){MARKER, version * RADIX + MARKER};
    for (int row = 0; row < ROWS; row++) {
        int written = last_write(row % GROUPS, version);
        if ((row + written) % ABSENT_OF)
            out[count++] = (answer){row, written * RADIX + row};
    }
    qsort(out, (size_t)count, sizeof *out, nearest_first);
    return count;
}

/* One search, wholly of one version, which is returned; -1 if it was interrupted. */
static int search(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *rows;
    answer found[RADIX + 1], expected[RADIX];
    int count = 0;
    int rc = sqlite3_prepare_v2(db, sql, -1, &rows, NULL);
    while (rc == SQLITE_OK && (rc = sqlite3_step(rows)) == SQLITE_ROW && count <= RADIX) {
        found[count++] = (answer){sqlite3_column_int(rows, 0), sqlite3_column_int(rows, 1)};
        rc = SQLITE_OK;
    }
    /* Where a table of a module's own name is connected, SQLite keeps the words alone. */
    int was_interrupted = rc != SQLITE_DONE && strcmp(sqlite3_errmsg(db), "interrupted") == 0;
    if (rc != SQLITE_DONE && !was_interrupted)
        fail(sql, sqlite3_errmsg(db));
    sqlite3_finalize(rows);
    if (was_interrupted)
        return -1;
    if (count == 0)
        fail(sql, "no rows");
    int version = found[0].score / RADIX, expected_count = rows_of(version, expected);
    if (count != expected_count)
        fail(sql, "the rows of more than one version");
    for (int i = 0; i < count; i++) {
        if (found[i].id != expected[i].id || found[i].score != expected[i].score)
            fail(sql, sqlite3_mprintf("row %d with %d, expected row %d with %d", found[i].id,
                                      found[i].score, expected[i].id, expected[i].score));
    }
    atomic_fetch_add(&answers, 1);
    return version;
}

static const char *const searches[] = {
    "SELECT id, score FROM docs_index('[1, 0, 0]')",
    "SELECT id, score FROM docs_index WHERE embedding MATCH '[1, 0, 0]' AND k = 1000",
    "SELECT id, score FROM faiss_search('main', 'docs_index', '[1, 0, 0]')",
};
enum { SEARCHES = sizeof searches / sizeof *searches };

/* A search outside of a transaction sees what was committed before, or since. */
static int search_now(sqlite3 *db, int i)
{
    int from = atomic_load(&committed);
    int version = search(db, searches[i % SEARCHES]);
    int to = atomic_load(&begun);
    if (version >= 0 && (version < from || version > to))
        fail("an answer of another time",
             sqlite3_mprintf("version %d, expected %d to %d", version, from, to));
    return version;
}

static int version_of(sqlite3 *db)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, "SELECT number FROM version", -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW)
        fail("version", sqlite3_errmsg(db));
    int version = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return version;
}

/* ---- readers ---- */

static void *search_again(void *place)
{
    sqlite3 *db = open_file();
    for (int i = 0; !is_over(); i++) {
        search_now(db, i);
        pthread_mutex_lock(&interrupt_lock);
        for (int n = 0; n < READERS; n++) {
            if (to_interrupt[n])
                sqlite3_interrupt(to_interrupt[n]);
        }
        pthread_mutex_unlock(&interrupt_lock);
    }
    close_connection(db);
    (void)place;
    return NULL;
}

/* Reads or searches first, then searches while others write. */
static void *hold_transactions(void *place)
{
    sqlite3 *db = open_file();
    for (int i = 0; !is_over(); i++) {
        run(db, "BEGIN");
        int from = atomic_load(&committed);
        int version = i % 2 ? search(db, searches[i % SEARCHES]) : version_of(db);
        int to = atomic_load(&begun);
        if (version < from || version > to || version_of(db) != version)
            fail("a transaction", "begins with another version");
        for (int n = 0; n < i % 7 && !is_over(); n++) {
            usleep(HOLDER_RESTS_US);
            int again = search(db, searches[n % SEARCHES]);
            if (again != version)
                fail("an answer of another snapshot",
                     sqlite3_mprintf("version %d, expected %d", again, version));
        }
        run(db, "COMMIT");
    }
    close_connection(db);
    (void)place;
    return NULL;
}

static void *open_for_each_search(void *place)
{
    for (int i = 0; !is_over(); i++) {
        sqlite3 *db = open_file();
        search_now(db, i);
        run(db, "SELECT * FROM faiss_indexes");
        close_connection(db);
    }
    (void)place;
    return NULL;
}

static void let_be_interrupted(sqlite3 **place, sqlite3 *db)
{
    pthread_mutex_lock(&interrupt_lock);
    *place = db;
    pthread_mutex_unlock(&interrupt_lock);
}

/* Interrupted by the threads that search_again(), at the first search too, where the
** schema is read. */
static void *be_interrupted(void *place)
{
    enum { SEARCHES_OF_ONE = 20 };
    while (!is_over()) {
        sqlite3 *db = open_file();
        let_be_interrupted(place, db);
        for (int i = 0; i < SEARCHES_OF_ONE; i++) {
            if (search_now(db, i) < 0)
                atomic_fetch_add(&interrupted, 1);
        }
        let_be_interrupted(place, NULL);
        close_connection(db);
    }
    return NULL;
}

/* ---- writers ---- */

static void write_version(sqlite3 *db, int version)
{
    char *sql = sqlite3_mprintf(
        "UPDATE version SET number = %d;"
        "DELETE FROM docs WHERE id %% %d = %d AND (id + %d) %% %d = 0 AND id < %d;"
        "WITH RECURSIVE n(i) AS (SELECT %d UNION ALL SELECT i + %d FROM n WHERE i + %d < %d)"
        "REPLACE INTO docs SELECT i, faiss_encode(json_array(%d * %d + i, i, -i)) FROM n"
        " WHERE (i + %d) %% %d;"
        "REPLACE INTO docs VALUES (%d, faiss_encode(json_array(%d * %d + %d, 0, 0)))",
        version, GROUPS, version % GROUPS, version, ABSENT_OF, ROWS, version % GROUPS, GROUPS,
        GROUPS, ROWS, version, RADIX, version, ABSENT_OF, MARKER, version, RADIX, MARKER);
    run(db, sql);
    sqlite3_free(sql);
}

static void *write_versions(void *place)
{
    sqlite3 *db = open_file();
    for (int i = 1; !is_over(); i++) {
        run(db, "BEGIN IMMEDIATE");
        int version = version_of(db) + 1;
        write_version(db, version);
        if (i % 3 == 0 && search(db, searches[i % SEARCHES]) != version)
            fail("an answer without the writer's own rows", "");
        if (i % 50 == 0)
            run(db, "INSERT INTO docs_index(docs_index) VALUES ('optimize')");
        if (i % 70 == 0)
            run(db, "INSERT INTO docs_index(docs_index) VALUES ('rebuild')");
        if (i % 5 == 0) {
            run(db, "ROLLBACK");
        } else {
            atomic_store(&begun, version);
            run(db, "COMMIT");
            /* The other writer may have gone on meanwhile. */
            int known = atomic_load(&committed);
            while (known < version && !atomic_compare_exchange_weak(&committed, &known, version))
                ;
        }
        usleep(WRITER_RESTS_US);
    }
    close_connection(db);
    (void)place;
    return NULL;
}

/* ---- */

static void make_file(void)
{
    close(mkstemp(path));
    sqlite3 *db = open_file();
    run(db, "PRAGMA journal_mode = wal; CREATE TABLE version(number);"
            "INSERT INTO version VALUES (0);"
            "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB);");
    char *sql = sqlite3_mprintf(
        "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < %d)"
        "INSERT INTO docs SELECT i, faiss_encode(json_array(i, i, -i)) FROM n WHERE i %% %d;"
        "INSERT INTO docs VALUES (%d, faiss_encode(json_array(%d, 0, 0)));"
        "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric=ip);",
        ROWS - 1, ABSENT_OF, MARKER, MARKER);
    run(db, sql);
    sqlite3_free(sql);
    close_connection(db);
}

int main(int argc, char **argv)
{
    static void *(*const readers[])(void *) = {search_again, hold_transactions,
                                               open_for_each_search, be_interrupted};
    enum { KINDS = sizeof readers / sizeof *readers };
    const char *seconds = argc > 1 ? argv[1] : getenv("TEST_SECONDS");
    make_file();
    finish = time(NULL) + (seconds && *seconds ? strtol(seconds, NULL, DECIMAL) : DEFAULT_SECONDS);
    pthread_t threads[READERS + WRITERS];
    for (int i = 0; i < READERS + WRITERS; i++)
        pthread_create(&threads[i], NULL, i < READERS ? readers[i % KINDS] : write_versions,
                       i < READERS ? &to_interrupt[i] : NULL);
    for (int i = 0; i < READERS + WRITERS; i++)
        pthread_join(threads[i], NULL);
    remove_file(path);
    printf("%ld answers while %d versions were written, %ld searches interrupted\n",
           atomic_load(&answers), atomic_load(&committed), atomic_load(&interrupted));
    return answers > 0 && committed > 0 && interrupted > 0 ? 0 : 1;
}
