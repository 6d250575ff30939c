/*
** Connections whose searches may each use several threads, on one file, beside a writer that
** changes every row in one transaction. Each answer must be of one committed state, helpers
** must have been there, and ThreadSanitizer must find nothing.
**
**   shared_workers [seconds]
*/
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "connections.h"
#include "workers.h"

enum { READERS = 3, ROWS = 2100, K = 100, PAIRS = 300, STATES = 16, DEFAULT_SECONDS = 10 };

static char path[] = "/tmp/shared_workers_XXXXXX";
static time_t finish;
static atomic_long answers, pairs_read, interrupted, states_written;

/* Row i is i × STATES + state away from 0: the scores tell every row's state. */
static void check_search(sqlite3_stmt *search)
{
    int rows = 0, state = -1, rc;
    while ((rc = sqlite3_step(search)) == SQLITE_ROW) {
        int value = (int)sqrt(sqlite3_column_double(search, 1));
        if (state < 0)
            state = value % STATES;
        if (sqlite3_column_int(search, 0) != rows || value != rows * STATES + state)
            fail("an answer of two states", sqlite3_mprintf("row %d: %d", rows, value));
        rows++;
    }
    if (rc != SQLITE_DONE || rows != K)
        fail("search", sqlite3_errmsg(sqlite3_db_handle(search)));
    sqlite3_reset(search);
    atomic_fetch_add(&answers, 1);
}

/* The rows before and behind a row are equally near: the first one is its neighbour. */
static void check_pairs(sqlite3_stmt *pairs)
{
    int rows = 0, rc;
    while ((rc = sqlite3_step(pairs)) == SQLITE_ROW) {
        int id = sqlite3_column_int(pairs, 0), neighbour = sqlite3_column_int(pairs, 1);
        if (id != rows || neighbour != (id ? id - 1 : 1))
            fail("a neighbour of another state", sqlite3_mprintf("%d: %d", id, neighbour));
        rows++;
    }
    if (rc == SQLITE_INTERRUPT)
        atomic_fetch_add(&interrupted, 1);
    else if (rc != SQLITE_DONE || rows != PAIRS)
        fail("neighbours", sqlite3_errmsg(sqlite3_db_handle(pairs)));
    sqlite3_reset(pairs);
    atomic_fetch_add(&pairs_read, 1);
}

static int has_done_all(void)
{
    return answers > 0 && pairs_read > 0 && states_written > 0 && workers_count() > 0;
}

static int is_over(void)
{
    return is_time_over(finish, has_done_all());
}

static int stop_at_once(void *unused)
{
    (void)unused;
    return 1;
}

static void *read_states(void *argument)
{
    (void)argument;
    while (!is_over()) {
        sqlite3 *db = open_connection(path, sqlite3_faiss_init);
        sqlite3_stmt *search = prepare(db, "SELECT id, score FROM docs_index WHERE embedding "
                                           "MATCH zeroblob(4096) AND k = 100");
        sqlite3_stmt *pairs = prepare(
            db, "SELECT id, neighbor FROM faiss_neighbors('main', 'docs_index', 1) LIMIT 300");
        for (int i = 0; i < 20 && !is_over(); i++) {
            check_search(search);
            if (i % 8 == 5) {
                sqlite3_progress_handler(db, 1000, i == 13 ? stop_at_once : NULL, NULL);
                check_pairs(pairs);
                sqlite3_progress_handler(db, 0, NULL, NULL);
            }
        }
        sqlite3_finalize(search);
        sqlite3_finalize(pairs);
        close_connection(db);
    }
    return NULL;
}

static void *write_states(void *argument)
{
    (void)argument;
    sqlite3 *db = open_connection(path, sqlite3_faiss_init);
    while (!is_over()) {
        run(db, "BEGIN IMMEDIATE;"
                "UPDATE state SET number = (number + 1) % 16;"
                "UPDATE docs SET embedding = CAST(faiss_encode(json_array(id * 16 + "
                "(SELECT number FROM state))) || zeroblob(4092) AS BLOB);"
                "COMMIT");
        atomic_fetch_add(&states_written, 1);
        usleep(200000);
    }
    close_connection(db);
    return NULL;
}

int main(int argc, char **argv)
{
    setenv("SQLITE_FAISS_THREADS", "4", 1); /* with three readers and a writer: some of the time */
    create_file(
        path, "CREATE TABLE state(number); INSERT INTO state VALUES (0);"
              "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB);"
              "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 2099)"
              "INSERT INTO docs SELECT i, CAST(faiss_encode(json_array(i * 16)) || zeroblob(4092) "
              "AS BLOB) FROM n;"
              "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, threads=3);");
    finish = time(NULL) + (argc > 1 ? atoi(argv[1]) : DEFAULT_SECONDS);
    pthread_t threads[READERS + 1];
    for (int i = 0; i <= READERS; i++)
        pthread_create(&threads[i], NULL, i < READERS ? read_states : write_states, NULL);
    for (int i = 0; i <= READERS; i++)
        pthread_join(threads[i], NULL);
    remove_file(path);
    printf(
        "%ld answers and %ld lists of neighbours, %ld of them interrupted, with %d helpers, while "
        "%ld states were written\n",
        answers, pairs_read, interrupted, workers_count(), states_written);
    return has_done_all() ? 0 : 1;
}
