/*
** Input and output errors and a full disk at every point of a table's life: a shim
** over SQLite's VFS lets the n-th operation on any file fail, once or from then on,
** for every n that there is. Whatever failed, answers equal brute force by the same
** connection, nothing half-made stays in the schema, and after reopening the file is
** sound.
**
**   failing_files [every]   (or FAULTS_EVERY; 1: every n; 10: every tenth)
*/
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "extension.h"
#include "sqlite_api.h"

enum { DIMENSION = 4, ROWS_MOST = 200, RADIX = 10 };

/* ---- the files ---- */

enum operation { READ = 1, WRITE = 2, SYNC = 4, TRUNCATE = 8 };

/* What is to fail: the operations of these kinds are counted while it is on. */
static struct plan {
    int is_on, operations, lasts, disk_is_full;
    long at, count;
    int has_struck;
} plan;

static int strikes(enum operation operation)
{
    if (!plan.is_on || !(plan.operations & operation))
        return 0;
    plan.count++;
    int now = plan.count == plan.at || (plan.lasts && plan.count > plan.at);
    plan.has_struck |= now;
    return now;
}

typedef struct shim_file {
    sqlite3_file base;
    sqlite3_file *real; /* behind it in memory */
} shim_file;

static sqlite3_vfs *real_vfs;

static sqlite3_file *real_of(sqlite3_file *file)
{
    return ((shim_file *)file)->real;
}

static int shim_close(sqlite3_file *file)
{
    return real_of(file)->pMethods->xClose(real_of(file));
}

static int shim_read(sqlite3_file *file, void *to, int bytes, sqlite3_int64 at)
{
    if (strikes(READ))
        return SQLITE_IOERR_READ;
    return real_of(file)->pMethods->xRead(real_of(file), to, bytes, at);
}

/* A write that fails has been done in part. */
static int shim_write(sqlite3_file *file, const void *from, int bytes, sqlite3_int64 at)
{
    int fails = strikes(WRITE);
    int rc = real_of(file)->pMethods->xWrite(real_of(file), from, fails ? bytes / 2 : bytes, at);
    if (rc != SQLITE_OK || !fails)
        return rc;
    return plan.disk_is_full ? SQLITE_FULL : SQLITE_IOERR_WRITE;
}

static int shim_truncate(sqlite3_file *file, sqlite3_int64 bytes)
{
    if (strikes(TRUNCATE))
        return SQLITE_IOERR_TRUNCATE;
    return real_of(file)->pMethods->xTruncate(real_of(file), bytes);
}

/* The operating system does not fail here: no need to wait for the disk. */
static int shim_sync(sqlite3_file *file, int flags)
{
    (void)file;
    (void)flags;
    return strikes(SYNC) ? SQLITE_IOERR_FSYNC : SQLITE_OK;
}

static int shim_size(sqlite3_file *file, sqlite3_int64 *bytes)
{
    return real_of(file)->pMethods->xFileSize(real_of(file), bytes);
}

static int shim_lock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xLock(real_of(file), level);
}

static int shim_unlock(sqlite3_file *file, int level)
{
    return real_of(file)->pMethods->xUnlock(real_of(file), level);
}

static int shim_check_lock(sqlite3_file *file, int *is_reserved)
{
    return real_of(file)->pMethods->xCheckReservedLock(real_of(file), is_reserved);
}

static int shim_control(sqlite3_file *file, int what, void *argument)
{
    return real_of(file)->pMethods->xFileControl(real_of(file), what, argument);
}

static int shim_sector_size(sqlite3_file *file)
{
    return real_of(file)->pMethods->xSectorSize(real_of(file));
}

static int shim_characteristics(sqlite3_file *file)
{
    return real_of(file)->pMethods->xDeviceCharacteristics(real_of(file));
}

static int shim_shm_map(sqlite3_file *file, int page, int bytes, int extend, void volatile **to)
{
    return real_of(file)->pMethods->xShmMap(real_of(file), page, bytes, extend, to);
}

static int shim_shm_lock(sqlite3_file *file, int offset, int count, int flags)
{
    return real_of(file)->pMethods->xShmLock(real_of(file), offset, count, flags);
}

static void shim_shm_barrier(sqlite3_file *file)
{
    real_of(file)->pMethods->xShmBarrier(real_of(file));
}

static int shim_shm_unmap(sqlite3_file *file, int remove)
{
    return real_of(file)->pMethods->xShmUnmap(real_of(file), remove);
}

static const sqlite3_io_methods shim_methods = {.iVersion = 2,
                                                .xClose = shim_close,
                                                .xRead = shim_read,
                                                .xWrite = shim_write,
                                                .xTruncate = shim_truncate,
                                                .xSync = shim_sync,
                                                .xFileSize = shim_size,
                                                .xLock = shim_lock,
                                                .xUnlock = shim_unlock,
                                                .xCheckReservedLock = shim_check_lock,
                                                .xFileControl = shim_control,
                                                .xSectorSize = shim_sector_size,
                                                .xDeviceCharacteristics = shim_characteristics,
                                                .xShmMap = shim_shm_map,
                                                .xShmLock = shim_shm_lock,
                                                .xShmBarrier = shim_shm_barrier,
                                                .xShmUnmap = shim_shm_unmap};

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *got)
{
    (void)vfs;
    shim_file *shim = (shim_file *)file;
    shim->real = (sqlite3_file *)(shim + 1);
    int rc = real_vfs->xOpen(real_vfs, name, shim->real, flags, got);
    shim->base.pMethods = shim->real->pMethods ? &shim_methods : NULL;
    return rc;
}

static void register_shim(void)
{
    static sqlite3_vfs shim;
    real_vfs = sqlite3_vfs_find(NULL);
    shim = *real_vfs;
    shim.zName = "failing";
    shim.szOsFile = (int)sizeof(shim_file) + real_vfs->szOsFile;
    shim.xOpen = shim_open;
    sqlite3_vfs_register(&shim, 0);
}

/* ---- the database ---- */

static char path[] = "/tmp/failing_files_XXXXXX";
static const char *scene = "setting up"; /* what is going on, for a failure's report */
static const char *journal;

static void fail(const char *what, const char *detail)
{
    fprintf(stderr, "%s: %s\n  (%s; journal_mode = %s, operations %d, number %ld%s%s)\n", what,
            detail, scene, journal, plan.operations, plan.at, plan.lasts ? " and all after it" : "",
            plan.disk_is_full ? ", disk full" : "");
    exit(1);
}

static sqlite3 *open_file(const char *vfs)
{
    sqlite3 *db;
    char *message = NULL;
    int was_on = plan.is_on;
    plan.is_on = 0;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, vfs) != SQLITE_OK)
        fail("open", sqlite3_errmsg(db));
    if (sqlite3_faiss_init(db, &message, NULL) != SQLITE_OK_LOAD_PERMANENTLY)
        fail("load", message);
    sqlite3_exec(db, "PRAGMA cache_size = 8", NULL, NULL, NULL);
    plan.is_on = was_on;
    return db;
}

static void close_file(sqlite3 *db)
{
    if (sqlite3_close(db) != SQLITE_OK)
        fail("close", sqlite3_errmsg(db));
}

static void run(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail(sql, message);
}

static int number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW)
        fail(sql, sqlite3_errmsg(db));
    int value = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return value;
}

/* The files as a run begins with them. */
static char *image;
static size_t image_bytes;

static void remove_side_files(void)
{
    const char *const suffixes[] = {"-journal", "-wal", "-shm"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char *name = sqlite3_mprintf("%s%s", path, suffixes[i]);
        unlink(name);
        sqlite3_free(name);
    }
}

/* Small pages, so that there is much to read and to write. */
static void make_image(void)
{
    sqlite3 *db;
    remove_side_files();
    if (truncate(path, 0) != 0 || sqlite3_open(path, &db) != SQLITE_OK)
        fail("make", path);
    char *sql = sqlite3_mprintf("PRAGMA page_size = 512; PRAGMA journal_mode = %s", journal);
    run(db, sql);
    sqlite3_free(sql);
    sqlite3_close(db);
    db = open_file(NULL);
    run(db,
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, note TEXT UNIQUE);"
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)"
        "INSERT INTO docs SELECT i, faiss_encode(json_array(i % 5, i % 3, i % 2, 0)), i FROM n;");
    close_file(db);
    FILE *file = fopen(path, "rb");
    struct stat about;
    if (!file || stat(path, &about) != 0)
        fail("read", path);
    free(image);
    image_bytes = (size_t)about.st_size;
    image = malloc(image_bytes);
    if (fread(image, 1, image_bytes, file) != image_bytes)
        fail("read", path);
    fclose(file);
}

/* The same inode again, as when an older copy is put in place. */
static void restore_image(void)
{
    remove_side_files();
    int file = open(path, O_WRONLY | O_TRUNC);
    if (file < 0 || write(file, image, image_bytes) != (ssize_t)image_bytes)
        fail("write", path);
    close(file);
}

/* ---- answers ---- */

typedef struct answer {
    sqlite3_int64 id;
    double score;
} answer;

static int compare_answers(const void *a, const void *b)
{
    const answer *x = a, *y = b;
    if (x->score != y->score)
        return x->score < y->score ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

/* Brute force by the same connection, where nothing fails. */
static int brute_force(sqlite3 *db, const float *query, answer *out)
{
    sqlite3_stmt *rows;
    int count = 0, was_on = plan.is_on;
    plan.is_on = 0;
    int rc = sqlite3_prepare_v2(db, "SELECT id, embedding FROM docs WHERE embedding IS NOT NULL",
                                -1, &rows, NULL);
    while (rc == SQLITE_OK && (rc = sqlite3_step(rows)) == SQLITE_ROW && count < ROWS_MOST) {
        const float *x = sqlite3_column_blob(rows, 1);
        out[count] = (answer){sqlite3_column_int64(rows, 0), 0};
        for (int i = 0; i < DIMENSION; i++)
            out[count].score += (double)((x[i] - query[i]) * (x[i] - query[i]));
        count++;
        rc = SQLITE_OK;
    }
    if (rc != SQLITE_DONE)
        fail("brute force", sqlite3_errmsg(db));
    sqlite3_finalize(rows);
    qsort(out, (size_t)count, sizeof *out, compare_answers);
    plan.is_on = was_on;
    return count;
}

/* Whether an error is one that a failing file explains. */
static void check_error(sqlite3 *db, const char *sql, int rc)
{
    int primary = rc & 0xff;
    if (!plan.has_struck)
        fail(sql, sqlite3_errmsg(db));
    if (getenv("FAULTS_VERBOSE"))
        printf("%d: %s: %.60s\n", rc, sqlite3_errmsg(db), sql);
    if (primary == SQLITE_OK || primary == SQLITE_CORRUPT || primary == SQLITE_MISUSE ||
        primary == SQLITE_INTERNAL || primary == SQLITE_NOTADB ||
        strstr(sqlite3_errmsg(db), "not an error"))
        fail("an error that hides the reason", sqlite3_errmsg(db));
}

/* One query, whose answer must be right if there is one: returns SQLITE_OK then. */
static int search_by(sqlite3 *db, const char *sql, const float *query, int k)
{
    sqlite3_stmt *search;
    answer found[ROWS_MOST], expected[ROWS_MOST];
    int count = 0;
    int rc = sqlite3_prepare_v2(db, sql, -1, &search, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_bind_blob(search, 1, query, DIMENSION * sizeof *query, SQLITE_STATIC);
    while (rc == SQLITE_OK && (rc = sqlite3_step(search)) == SQLITE_ROW && count < ROWS_MOST) {
        found[count].id = sqlite3_column_int64(search, 0);
        found[count++].score = sqlite3_column_double(search, 1);
        rc = SQLITE_OK;
    }
    if (rc != SQLITE_DONE) {
        check_error(db, sql, rc);
        sqlite3_finalize(search);
        return rc;
    }
    sqlite3_finalize(search);
    int expected_count = brute_force(db, query, expected);
    if (k && expected_count > k)
        expected_count = k;
    if (count != expected_count)
        fail(sql, "another number of rows");
    for (int i = 0; i < count; i++) {
        if (found[i].id != expected[i].id || found[i].score != expected[i].score)
            fail(sql, "another answer");
    }
    return SQLITE_OK;
}

static int has_table(sqlite3 *db, const char *name)
{
    int was_on = plan.is_on;
    plan.is_on = 0;
    char *sql = sqlite3_mprintf("SELECT count(*) FROM sqlite_schema WHERE name = %Q", name);
    int has = number(db, sql);
    sqlite3_free(sql);
    plan.is_on = was_on;
    return has;
}

/* All ways to search, with the tables that there are. */
static int search(sqlite3 *db)
{
    const float query[DIMENSION] = {1, 2, 0, 0};
    int rc = search_by(db, "SELECT id, score FROM faiss_search('main', 'docs', ?, 9)", query, 9);
    if (has_table(db, "docs_index")) {
        int each = search_by(db, "SELECT id, score FROM docs_index(?)", query, 0);
        rc = rc == SQLITE_OK ? each : rc;
        /* The columns of the source are known only from the settings. */
        each =
            search_by(db, "SELECT id, score FROM docs_index(?) WHERE note IS NOT 'none'", query, 0);
        rc = rc == SQLITE_OK ? each : rc;
    }
    if (has_table(db, "docs_apart")) {
        int each = search_by(db, "SELECT id, score FROM docs_apart(?, 7)", query, 7);
        rc = rc == SQLITE_OK ? each : rc;
    }
    if (has_table(db, "docs_ann")) { /* which scores all rows again, or does not use its index */
        int each = search_by(db, "SELECT id, score FROM docs_ann(?, 9)", query, 9);
        rc = rc == SQLITE_OK ? each : rc;
    }
    return rc;
}

/* ---- one run ---- */

enum who { WRITER, READER, NEWCOMER, EVERYBODY };

/* A step without SQL searches; one of everybody is to close the file and open it again. */
struct step {
    enum who who;
    const char *sql;
};

static const struct step changing[] = {
    {WRITER, "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)"},
    {READER, NULL},
    {WRITER, "INSERT INTO docs SELECT id + 100, embedding, 'n' || id FROM docs WHERE id % 4 = 0"},
    {READER, NULL},
    {WRITER, NULL},
    {WRITER, "CREATE VIRTUAL TABLE docs_apart USING faiss(main, docs, live=off, memory=low)"},
    {WRITER, "BEGIN; UPDATE docs SET embedding = zeroblob(16) WHERE id % 3 = 0"},
    {WRITER, NULL},
    {WRITER, "SAVEPOINT s; DELETE FROM docs WHERE id % 2"},
    {WRITER, NULL},
    {WRITER, "ROLLBACK TO s"},
    {WRITER, NULL},
    {WRITER, "UPDATE docs SET embedding = NULL WHERE id < 4; COMMIT"},
    {READER, NULL},
    {NEWCOMER, NULL},
    {WRITER, "REPLACE INTO docs SELECT id + 200, zeroblob(16), note FROM docs WHERE id % 9 = 0"},
    {READER, NULL},
    {WRITER, "INSERT INTO docs_index(docs_index) VALUES ('rebuild')"},
    {READER, NULL},
    {WRITER, "UPDATE docs SET id = -id WHERE id < 9"},
    {WRITER, "INSERT INTO docs_index(docs_index) VALUES ('optimize')"},
    {WRITER, "INSERT INTO docs_index(docs_index) VALUES ('integrity-check')"},
    {READER, "INSERT INTO docs_index(docs_index) VALUES ('integrity-check')"},
    {WRITER, "VACUUM"},
    {READER, NULL},
    {WRITER, "DROP TABLE docs_apart"},
    {NEWCOMER, NULL},
    {WRITER, "DROP TABLE docs_index"},
    {READER, NULL},
};

/* An approximate index that is stored, and loaded by those who open the file. */
static const struct step storing[] = {
    {WRITER, "INSERT INTO docs(id, embedding) SELECT id + 1000 * column1, embedding FROM docs, "
             "(VALUES (1), (2)) WHERE id < 41"},
    {WRITER, "CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index=SQ8, rerank=100)"},
    {READER, NULL},
    {WRITER, "INSERT INTO docs_ann(docs_ann) VALUES ('optimize')"},
    {EVERYBODY, NULL},
    {READER, NULL},
    {WRITER, "UPDATE docs SET embedding = zeroblob(16) WHERE id % 3 = 0"},
    {EVERYBODY, NULL},
    {WRITER, "INSERT INTO docs_ann(docs_ann) VALUES ('optimize')"},
    {READER, NULL},
    {EVERYBODY, NULL},
    {WRITER, NULL},
    {WRITER, "DROP TABLE docs_ann"},
};

static const struct scenario {
    const char *name;
    const struct step *steps;
    int count;
} scenarios[] = {
    {"changes", changing, sizeof changing / sizeof *changing},
    {"storing", storing, sizeof storing / sizeof *storing},
};

/* An index is there with all that belongs to it, or with nothing. */
static void check_schema(sqlite3 *db)
{
    int live = has_table(db, "docs_index"), apart = has_table(db, "docs_apart");
    int stored = has_table(db, "docs_ann");
    plan.is_on = 0;
    int made = number(db, "SELECT count(*) FROM sqlite_schema WHERE name GLOB 'docs_faiss_*'");
    int settings = number(db, "SELECT count(*) FROM sqlite_schema WHERE name IN "
                              "('docs_index_config', 'docs_apart_config', 'docs_ann_config', "
                              "'docs_ann_checkpoint')");
    if (live || stored ? made != 7 : made != 0)
        fail("the log and the triggers", "some are missing or left over");
    if (settings != live + apart + 2 * stored)
        fail("the settings", "missing or left over");
}

static void roll_back(sqlite3 *db)
{
    if (!sqlite3_get_autocommit(db))
        sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
}

static void check_usable(sqlite3 *const *connections)
{
    int was_on = plan.is_on;
    plan.is_on = 0;
    for (int i = 0; i < NEWCOMER; i++) {
        int rc = search(connections[i]);
        if (rc != SQLITE_OK)
            fail("a connection cannot search any more", sqlite3_errmsg(connections[i]));
        if (sqlite3_get_autocommit(connections[i]))
            check_schema(connections[i]);
    }
    plan.is_on = was_on;
}

static void reopen(sqlite3 **connections)
{
    for (int i = 0; i < NEWCOMER; i++) {
        roll_back(connections[i]);
        close_file(connections[i]);
    }
    for (int i = 0; i < NEWCOMER; i++)
        connections[i] = open_file("failing");
}

static void take_step(const struct step *step, sqlite3 **connections)
{
    if (step->who == EVERYBODY) {
        reopen(connections);
        return;
    }
    sqlite3 *db = step->who == NEWCOMER ? open_file("failing") : connections[step->who];
    int has_failed = 0, was_in_transaction = !sqlite3_get_autocommit(db);
    scene = step->sql ? step->sql : "searching";
    sqlite3_db_release_memory(db); /* so that it is read again */
    if (!step->sql) {
        has_failed = search(db) != SQLITE_OK;
        /* SQLite undoes all that is not committed where a read fails, and says so. */
        if (!has_failed && was_in_transaction && sqlite3_get_autocommit(db))
            fail("search", "a transaction was rolled back without an error");
    } else if ((!strstr(step->sql, "docs_index(docs_index)") || has_table(db, "docs_index")) &&
               (!strstr(step->sql, "docs_ann(docs_ann)") || has_table(db, "docs_ann"))) {
        int rc = sqlite3_exec(db, step->sql, NULL, NULL, NULL);
        has_failed = rc != SQLITE_OK;
        /* What an earlier step has not made. */
        int follows = (strncmp(step->sql, "DROP", 4) == 0 || strstr(step->sql, " TO s")) &&
                      strncmp(sqlite3_errmsg(db), "no such", 7) == 0;
        if (has_failed && !follows)
            check_error(db, step->sql, rc);
        if (has_failed)
            roll_back(db);
    }
    if (has_failed && !plan.lasts) {
        scene = "after a failure";
        check_usable(connections);
    }
    if (step->who == NEWCOMER) { /* the fault is over: this very connection can go on */
        int was_on = plan.is_on;
        plan.is_on = 0;
        if (search(db) != SQLITE_OK)
            fail("the new connection cannot search any more", sqlite3_errmsg(db));
        plan.is_on = was_on;
        close_file(db);
    }
}

/* The file as another process finds it. */
static void check_file(void)
{
    sqlite3_stmt *check;
    scene = "after reopening";
    sqlite3 *db = open_file(NULL);
    if (sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &check, NULL) != SQLITE_OK ||
        sqlite3_step(check) != SQLITE_ROW ||
        strcmp((const char *)sqlite3_column_text(check, 0), "ok") != 0)
        fail("integrity_check", (const char *)sqlite3_column_text(check, 0));
    sqlite3_finalize(check);
    check_schema(db);
    if (search(db) != SQLITE_OK)
        fail("search", sqlite3_errmsg(db));
    if (has_table(db, "docs_index"))
        run(db, "INSERT INTO docs_index(docs_index) VALUES ('integrity-check')");
    run(db, "PRAGMA synchronous = OFF; DELETE FROM docs WHERE id % 7 = 0;"
            "INSERT INTO docs(id, embedding) VALUES (1000, zeroblob(16));");
    if (search(db) != SQLITE_OK)
        fail("search", sqlite3_errmsg(db));
    if (has_table(db, "docs_ann"))
        run(db, "INSERT INTO docs_ann(docs_ann) VALUES ('optimize')");
    run(db, "DROP TABLE IF EXISTS docs_index; DROP TABLE IF EXISTS docs_apart;"
            "DROP TABLE IF EXISTS docs_ann");
    check_schema(db);
    close_file(db);
}

/* Without a fault, what is stored is what is loaded. */
static void check_loaded(sqlite3 *db)
{
    int was_on = plan.is_on;
    plan.is_on = 0;
    if (!plan.has_struck && has_table(db, "docs_ann") &&
        number(db, "SELECT count(*) FROM faiss_indexes WHERE origin = 'checkpoint'") != 1)
        fail("after reopening", "the stored index is not loaded");
    plan.is_on = was_on;
}

/* Returns whether the fault came about. */
static int run_steps(const struct scenario *scenario)
{
    sqlite3 *connections[NEWCOMER];
    restore_image();
    plan.is_on = plan.has_struck = 0;
    plan.count = 0;
    for (int i = 0; i < NEWCOMER; i++)
        connections[i] = open_file("failing");
    plan.is_on = 1;
    for (int i = 0; i < scenario->count; i++) {
        take_step(&scenario->steps[i], connections);
        if (i > 0 && scenario->steps[i - 1].who == EVERYBODY && !scenario->steps[i].sql)
            check_loaded(connections[scenario->steps[i].who]);
    }
    plan.is_on = 0;
    scene = "at the end";
    for (int i = 0; i < NEWCOMER; i++)
        roll_back(connections[i]);
    check_usable(connections);
    for (int i = 0; i < NEWCOMER; i++)
        close_file(connections[i]);
    if (plan.has_struck)
        check_file();
    return plan.has_struck;
}

/* With a fault at each point there is, once and from then on. */
static void run_all(const struct scenario *scenario, const char *what, int operations,
                    int disk_is_full, long every)
{
    for (int lasts = 0; lasts < 2; lasts++) {
        plan = (struct plan){
            .operations = operations, .disk_is_full = disk_is_full, .lasts = lasts, .at = 1};
        while (run_steps(scenario))
            plan.at += every;
        printf("%s, %s, %s: %ld points, failing %s\n", scenario->name, journal, what, plan.at - 1,
               lasts ? "from then on" : "once");
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int operations, disk_is_full;
    } kinds[] = {
        {"reading", READ, 0}, {"writing", WRITE | SYNC | TRUNCATE, 0}, {"a full disk", WRITE, 1}};
    const char *const modes[] = {"delete", "wal"};
    const char *given = argc > 1 ? argv[1] : getenv("FAULTS_EVERY");
    long every = given && *given ? strtol(given, NULL, RADIX) : 1;
    close(mkstemp(path));
    setenv("SQLITE_FAISS_LINGER", "0", 1);          /* so that an index is loaded again */
    setenv("SQLITE_FAISS_LOW_MEMORY_ROWS", "1", 1); /* so that searches read rows, too */
    register_shim();
    for (int i = 0; i < 2; i++) {
        journal = modes[i];
        make_image();
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            for (size_t j = 0; j < sizeof scenarios / sizeof *scenarios; j++) {
                run_all(&scenarios[j], kinds[k].name, kinds[k].operations, kinds[k].disk_is_full,
                        every);
            }
        }
    }
    remove_side_files();
    unlink(path);
    free(image);
    return 0;
}
