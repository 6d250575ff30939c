/*
** Threads that load a stored index under limits, each its own: what one has to leave another goes
** on with, while the index is stored anew now and then. In each round nobody has it in memory; in
** the end all have the same answer as often as it was loaded; and ThreadSanitizer must find
** nothing.
**
**   interrupted_loads [seconds]
*/
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "connections.h"

enum { THREADS = 4, WANTED = 5, STEPS_LEAST = 300, STEPS_MORE = 900, DEFAULT_SECONDS = 10 };

static char path[] = "/tmp/interrupted_loads_XXXXXX";
static time_t finish;
static pthread_barrier_t all_have_ended;
static atomic_long answers, interrupts;
static atomic_int is_over;

/* The steps of SQLite's that are left. */
static int take_step(void *argument)
{
    int *left = argument;
    return --*left < 0;
}

/* Search with so many steps: whether it came to an answer. */
static int search(sqlite3 *db, int steps)
{
    sqlite3_progress_handler(db, 1, take_step, &steps);
    sqlite3_stmt *found;
    int rc = sqlite3_prepare_v2(db,
                                "SELECT id, score, faiss_distance(embedding, ?1) FROM docs_ann "
                                "WHERE embedding MATCH ?1 AND k = 5",
                                -1, &found, NULL);
    int rows = 0;
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(found, 1, "[3, 4, 5, 6]", -1, SQLITE_STATIC);
        while ((rc = sqlite3_step(found)) == SQLITE_ROW)
            rows++;
    }
    sqlite3_finalize(found);
    sqlite3_progress_handler(db, 0, NULL, NULL);
    if (rc == SQLITE_INTERRUPT)
        return 0;
    if (rc != SQLITE_DONE || rows != WANTED)
        fail("search", sqlite3_errmsg(db));
    return 1;
}

/* Rounds of one thread. The first one stores the index anew in some of them. */
static void *load_under_limits(void *argument)
{
    unsigned chance = *(const unsigned *)argument + 1;
    int is_first = *(const unsigned *)argument == 0;
    for (int round = 0; !is_over; round++) {
        sqlite3 *db = open_connection(path, sqlite3_faiss_init);
        for (int i = 1; !search(db, i * STEPS_LEAST + rand_r(&chance) % STEPS_MORE); i++) {
            atomic_fetch_add(&interrupts, 1);
            if (is_first && i == 2 && round % 3 == 2) {
                run(db, "UPDATE docs SET embedding = (SELECT embedding FROM docs AS d WHERE d.id = "
                        "docs.id + 300) WHERE id <= 300;"
                        "INSERT INTO docs_ann(docs_ann) VALUES ('rebuild')");
            }
        }
        atomic_fetch_add(&answers, 1);
        close_connection(db);
        if (pthread_barrier_wait(&all_have_ended) == PTHREAD_BARRIER_SERIAL_THREAD)
            is_over = is_time_over(finish, answers > 0 && interrupts > 0);
        pthread_barrier_wait(&all_have_ended);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    setenv("SQLITE_FAISS_LINGER", "0", 1);
    create_docs(path, 3000,
                "CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='HNSW32', "
                "ef_construction=8);"
                "INSERT INTO docs_ann(docs_ann) VALUES ('optimize')");
    finish = time(NULL) + (argc > 1 ? atoi(argv[1]) : DEFAULT_SECONDS);
    pthread_barrier_init(&all_have_ended, NULL, THREADS);
    pthread_t threads[THREADS];
    unsigned numbers[THREADS];
    for (unsigned i = 0; i < THREADS; i++) {
        numbers[i] = i;
        pthread_create(&threads[i], NULL, load_under_limits, &numbers[i]);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    remove_file(path);
    printf("%ld answers after %ld interrupts\n", answers, interrupts);
    return answers > 0 && interrupts > 0 ? 0 : 1;
}
