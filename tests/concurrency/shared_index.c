/*
** Connections of many threads on one file: readers search while writers change
** every row in one transaction. Each answer must be of one committed state, and
** ThreadSanitizer must find nothing.
**
**   shared_index [seconds]
*/
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "connections.h"

enum { READERS = 8, WRITERS = 2, ROWS = 100, STATES = 16, DEFAULT_SECONDS = 10 };

static char path[] = "/tmp/shared_index_XXXXXX";
static time_t finish;
static atomic_long answers, states_written;

static int is_over(void)
{
    return is_time_over(finish, answers > 0 && states_written > 0);
}

/* Row i holds the number i × STATES + state, whose square float32 holds exactly:
** the scores of a search from 0 tell every row's state. */
static void check_answer(sqlite3_stmt *search)
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
    if (rc != SQLITE_DONE)
        fail("search", sqlite3_errmsg(sqlite3_db_handle(search)));
    if (rows != ROWS)
        fail("search", "rows are missing");
    sqlite3_reset(search);
    atomic_fetch_add(&answers, 1);
}

/* A new connection now and then, so that the first search of one meets the
** changes of others. */
static void *read_states(void *argument)
{
    (void)argument;
    while (!is_over()) {
        sqlite3 *db = open_connection(path, sqlite3_faiss_init);
        sqlite3_stmt *statements[] = {
            prepare(db, "SELECT id, score FROM docs_index('[0]', 100)"),
            prepare(db, "SELECT id, score FROM faiss_search('main', 'docs', '[0]')")};
        for (int i = 0; i < 50 && !is_over(); i++) {
            check_answer(statements[i % 2]);
            if (i % 10 == 0)
                run(db, "SELECT * FROM faiss_indexes");
        }
        sqlite3_finalize(statements[0]);
        sqlite3_finalize(statements[1]);
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
                "UPDATE docs SET embedding = faiss_encode(json_array(id * 16 + (SELECT number "
                "FROM state)));");
        run(db, "SELECT faiss_search('main', 'docs', '[0]', 3)"); /* of what is not committed */
        run(db, atomic_fetch_add(&states_written, 1) % 5 ? "COMMIT" : "ROLLBACK");
        usleep(2000);
    }
    close_connection(db);
    return NULL;
}

int main(int argc, char **argv)
{
    create_file(path, "CREATE TABLE state(number); INSERT INTO state VALUES (0);"
                      "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB);"
                      "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)"
                      "INSERT INTO docs SELECT i, faiss_encode(json_array(i * 16)) FROM n;"
                      "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs);");
    finish = time(NULL) + (argc > 1 ? atoi(argv[1]) : DEFAULT_SECONDS);
    pthread_t threads[READERS + WRITERS];
    for (int i = 0; i < READERS + WRITERS; i++)
        pthread_create(&threads[i], NULL, i < READERS ? read_states : write_states, NULL);
    for (int i = 0; i < READERS + WRITERS; i++)
        pthread_join(threads[i], NULL);
    remove_file(path);
    printf("%ld answers while %ld states were written\n", answers, states_written);
    return answers > 0 && states_written > 0 ? 0 : 1;
}
