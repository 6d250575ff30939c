/*
** Visitors of what a host publishes, on connections to no file, while another connection
** changes all rows in one transaction, and hosts close and open again. Each answer must be
** of one committed state, with the ids of that state, or the error that there is nothing
** published; ThreadSanitizer must find nothing, and nobody may wait for ever.
**
**   published_tables [seconds]
*/
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "connections.h"

enum { VISITORS = 6, ROWS = 100, STATES = 16, DEFAULT_SECONDS = 10 };

static char path[] = "/tmp/published_tables_XXXXXX";
static time_t finish;
static atomic_long answers, refusals, states_written, hosts_closed;

static int is_over(void)
{
    return is_time_over(finish, answers > 0 && states_written > 0 && hosts_closed > 0);
}

/* Whether an error says that the publication has ended, which here is no fault. */
static int is_refusal(const char *message)
{
    return strstr(message, "not published any more") || strstr(message, "no such database: shop");
}

/* Row i has the id "i:state" and is i × STATES + state away from 0. */
static void check_answer(sqlite3 *db, sqlite3_stmt *search)
{
    int rows = 0, first_state = -1, rc;
    while ((rc = sqlite3_step(search)) == SQLITE_ROW) {
        int row, state;
        const char *id = (const char *)sqlite3_column_text(search, 0);
        if (sscanf(id, "%d:%d", &row, &state) != 2 || row != rows)
            fail("a row out of order", id);
        if (sqlite3_column_int(search, 1) != row * STATES + state)
            fail("an id of another state than its score", id);
        if (first_state >= 0 && state != first_state)
            fail("an answer of two states", id);
        first_state = state;
        rows++;
    }
    if (rc != SQLITE_DONE && !is_refusal(sqlite3_errmsg(db)))
        fail("search", sqlite3_errmsg(db));
    if (rc == SQLITE_DONE && rows != ROWS)
        fail("search", "rows are missing");
    sqlite3_reset(search);
    atomic_fetch_add(rc == SQLITE_DONE ? &answers : &refusals, 1);
}

static void *visit(void *argument)
{
    (void)argument;
    while (!is_over()) {
        sqlite3 *db = open_connection(":memory:", sqlite3_faiss_init);
        sqlite3_stmt *search;
        if (sqlite3_prepare_v2(db,
                               "SELECT id, distance FROM faiss_search('shop', 'docs', '[0]', 100)",
                               -1, &search, NULL) != SQLITE_OK)
            fail("prepare", sqlite3_errmsg(db));
        for (int i = 0; i < 50 && !is_over(); i++) {
            check_answer(db, search);
            if (i % 10 == 0)
                run(db, "SELECT * FROM faiss_indexes");
        }
        sqlite3_finalize(search);
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
                "UPDATE docs SET id = row || ':' || (SELECT number FROM state), embedding = "
                "faiss_encode(json_array(row * 16 + (SELECT number FROM state)));"
                "COMMIT");
        atomic_fetch_add(&states_written, 1);
        usleep(2000);
    }
    close_connection(db);
    return NULL;
}

/* A host that searches itself, publishes anew and closes, over and over. */
static void *be_host(void *argument)
{
    (void)argument;
    while (!is_over()) {
        sqlite3 *db = open_connection(path, sqlite3_faiss_host_init);
        run(db, "SELECT faiss_publish('shop', 'docs')");
        for (int i = 0; i < 20 && !is_over(); i++) {
            run(db, "SELECT faiss_search('shop', 'docs', '[0]', 3), faiss_limit()");
            if (i % 7 == 3)
                run(db, "SELECT faiss_unpublish('shop'), faiss_publish('shop', 'docs')");
            usleep(5000);
        }
        close_connection(db);
        atomic_fetch_add(&hosts_closed, 1);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    create_file(path,
                "CREATE TABLE state(number); INSERT INTO state VALUES (0);"
                "CREATE TABLE docs(row INTEGER PRIMARY KEY, id TEXT, embedding BLOB);"
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)"
                "INSERT INTO docs SELECT i, i || ':0', faiss_encode(json_array(i * 16)) FROM n;"
                "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs);");
    finish = time(NULL) + (argc > 1 ? atoi(argv[1]) : DEFAULT_SECONDS);
    pthread_t threads[VISITORS + 2];
    pthread_create(&threads[VISITORS], NULL, be_host, NULL);
    pthread_create(&threads[VISITORS + 1], NULL, write_states, NULL);
    for (int i = 0; i < VISITORS; i++)
        pthread_create(&threads[i], NULL, visit, NULL);
    for (int i = 0; i < VISITORS + 2; i++)
        pthread_join(threads[i], NULL);
    remove_file(path);
    printf("%ld answers and %ld refusals while %ld states were written and %ld hosts closed\n",
           answers, refusals, states_written, hosts_closed);
    return answers > 0 && states_written > 0 && hosts_closed > 0 ? 0 : 1;
}
