/*
** Approximate indexes of a table that changes: readers of many threads search by them, with and
** without vectors in memory, while they are built, grow, and are made anew behind writers and
** 'optimize'. Each answer must have as many rows as were asked for, once each, nearest first, with
** the scores that their vectors have in the same statement; and ThreadSanitizer must find nothing.
**
**   approximate_tables [seconds]
*/
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "connections.h"

enum { READERS = 6, WRITERS = 1, WANTED = 5, DEFAULT_SECONDS = 10 };

static const char *const TABLES[] = {"docs_graph", "docs_graph_low", "docs_codes_low",
                                     "docs_lists"};
enum { TABLE_COUNT = sizeof TABLES / sizeof *TABLES };

static char path[] = "/tmp/approximate_tables_XXXXXX";
static time_t finish;
static atomic_long answers, states_written;

static int is_over(void)
{
    return is_time_over(finish, answers > 0 && states_written > 0);
}

static void check_answer(sqlite3_stmt *search)
{
    sqlite3_int64 ids[WANTED];
    double last = -1;
    int rows = 0, rc;
    while ((rc = sqlite3_step(search)) == SQLITE_ROW) {
        double score = sqlite3_column_double(search, 1),
               distance = sqlite3_column_double(search, 2);
        if (rows == WANTED || score < last)
            fail("search", "too many rows, or not nearest first");
        if (fabs(score - distance * distance) > 1e-6)
            fail("search", "a score is not that of the row");
        ids[rows] = sqlite3_column_int64(search, 0);
        for (int i = 0; i < rows; i++) {
            if (ids[i] == ids[rows])
                fail("search", "a row came twice");
        }
        last = score;
        rows++;
    }
    if (rc != SQLITE_DONE)
        fail("search", sqlite3_errmsg(sqlite3_db_handle(search)));
    if (rows != WANTED)
        fail("search", "rows are missing");
    sqlite3_reset(search);
    atomic_fetch_add(&answers, 1);
}

static sqlite3_stmt *prepare_search(sqlite3 *db, const char *table)
{
    char *sql = sqlite3_mprintf("SELECT id, score, faiss_distance(embedding, ?1) FROM %s "
                                "WHERE embedding MATCH ?1 AND k = %d",
                                table, WANTED);
    sqlite3_stmt *search = prepare(db, sql);
    sqlite3_free(sql);
    return search;
}

/* A new connection now and then; some hold on to an old snapshot. */
static void *read_states(void *argument)
{
    int first = *(const int *)argument;
    while (!is_over()) {
        sqlite3 *db = open_connection(path, sqlite3_faiss_init);
        if (first % 2)
            run(db, "BEGIN");
        for (int i = 0; i < 40 && !is_over(); i++) {
            sqlite3_stmt *search = prepare_search(db, TABLES[(first + i) % TABLE_COUNT]);
            char *query = sqlite3_mprintf("[%d, %d, %d, %d]", i % 7, i % 11, i % 13, first);
            sqlite3_bind_text(search, 1, query, -1, sqlite3_free);
            check_answer(search);
            sqlite3_finalize(search);
            if (i % 10 == 0)
                run(db, "SELECT * FROM faiss_indexes");
        }
        if (first % 2)
            run(db, "COMMIT");
        close_connection(db);
    }
    return NULL;
}

static void *write_states(void *argument)
{
    (void)argument;
    sqlite3 *db = open_connection(path, sqlite3_faiss_init);
    while (!is_over()) {
        long state = atomic_fetch_add(&states_written, 1);
        char *sql = sqlite3_mprintf(
            "BEGIN IMMEDIATE;"
            "UPDATE docs SET embedding = faiss_encode(json_array(id %% 17, id %% 19, %d, id %% 3)) "
            "WHERE id %% 23 = %d;"
            "DELETE FROM docs WHERE id IN (SELECT id FROM docs ORDER BY id LIMIT 20);"
            "INSERT INTO docs(embedding) SELECT embedding FROM docs ORDER BY id DESC LIMIT 20;"
            "%s",
            (int)(state % 13), (int)(state % 23), state % 5 ? "COMMIT" : "ROLLBACK");
        run(db, sql);
        sqlite3_free(sql);
        if (state % 40 == 39)
            run(db, "INSERT INTO docs_codes_low(docs_codes_low) VALUES ('optimize')");
        usleep(20000);
    }
    close_connection(db);
    return NULL;
}

int main(int argc, char **argv)
{
    setenv("SQLITE_FAISS_LOW_MEMORY_ROWS", "1", 1);
    create_docs(
        path, 700,
        "CREATE VIRTUAL TABLE docs_graph USING faiss(main, docs, index='HNSW8');"
        "CREATE VIRTUAL TABLE docs_graph_low USING faiss(main, docs, index='HNSW8_SQ8', "
        "memory=low);"
        "CREATE VIRTUAL TABLE docs_codes_low USING faiss(main, docs, index='SQ8', memory=low);"
        "CREATE VIRTUAL TABLE docs_lists USING faiss(main, docs, index='IVF4,Flat');");
    finish = time(NULL) + (argc > 1 ? atoi(argv[1]) : DEFAULT_SECONDS);
    pthread_t threads[READERS + WRITERS];
    int numbers[READERS];
    for (int i = 0; i < READERS + WRITERS; i++) {
        if (i < READERS)
            numbers[i] = i;
        pthread_create(&threads[i], NULL, i < READERS ? read_states : write_states,
                       i < READERS ? &numbers[i] : NULL);
    }
    for (int i = 0; i < READERS + WRITERS; i++)
        pthread_join(threads[i], NULL);
    remove_file(path);
    printf("%ld answers while %ld states were written\n", answers, states_written);
    return answers > 0 && states_written > 0 ? 0 : 1;
}
