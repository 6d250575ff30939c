/*
** Threads search one fresh index, and make its basis and its sketches between them. Then
** there come so many rows of another kind that another basis takes its place, and threads
** replace the sketches that others search by. Each must find what the first search found,
** and ThreadSanitizer nothing.
*/
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "walk.h"

enum {
    THREADS = 6,
    SEARCHES = 40,
    ROUNDS = 3,
    ROWS = 9000,
    MORE = 4 * ROWS,
    DIMENSION = 96,
    K = 20
};

/* A version, a query and what a search found before there were threads. */
typedef struct searched {
    index_version *version;
    float query[DIMENSION];
    int64_t expected[K];
} searched;

static searched fresh, grown; /* the latter comes from the former */
static int with_grown;
static atomic_int wrong;

static float draw(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 24) - 0.5f;
}

static void stop_unless(int condition, const char *what)
{
    if (condition)
        return;
    fprintf(stderr, "%s failed\n", what);
    exit(1);
}

/* The components of later rows come in the opposite order. */
static void make_row(int i, float *x)
{
    for (int j = 0; j < DIMENSION; j++)
        x[j] = draw() / (float)(i < ROWS ? j + 1 : DIMENSION - j);
}

static void build(searched *s, index_version *base, int rows)
{
    index_builder *b;
    char *message = NULL;
    stop_unless(index_builder_open(METRIC_KIND_L2, DIMENSION, 0, base, &b, &message) == SQLITE_OK,
                "opening");
    for (int i = 0; i < rows; i++) {
        float x[DIMENSION];
        make_row(i, x);
        memcpy(s->query, x, sizeof x);
        stop_unless(index_builder_row(b, i + 1, (uint64_t)i, NULL, x, &message) == SQLITE_OK,
                    "adding a row");
    }
    stop_unless(index_builder_finish(b, 0, &s->version, &message) == SQLITE_OK, "finishing");
    index_builder_close(b);
}

/* The nearest K in `keys`. */
static void search(const searched *s, int64_t *keys)
{
    index_walk *w;
    char *message = NULL;
    stop_unless(index_walk_open(s->version, s->query, NULL, K, NULL, &w, &message) == SQLITE_OK,
                "a search");
    for (int i = 0; i < K; i++) {
        index_hit hit;
        stop_unless(index_walk_at(w, i, &hit, &message) == SQLITE_ROW, "a row");
        keys[i] = hit.key;
    }
    index_walk_close(w);
}

static void *search_often(void *argument)
{
    (void)argument;
    for (int i = 0; i < SEARCHES; i++) {
        const searched *s = with_grown && i % 2 ? &grown : &fresh;
        int64_t keys[K];
        search(s, keys);
        if (memcmp(keys, s->expected, sizeof keys) != 0)
            atomic_store(&wrong, 1);
        index_bytes(s->version); /* what faiss_indexes shows */
    }
    return NULL;
}

static void search_by_threads(void)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, search_often, NULL);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    stop_unless(!wrong, "equality of answers");
}

int main(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        build(&fresh, NULL, ROWS);
        search(&fresh, fresh.expected);
        size_t before = index_bytes(fresh.version);
        with_grown = 0;
        search_by_threads();
        stop_unless(index_bytes(fresh.version) > before, "making sketches");
        unsigned number = atomic_load(&fresh.version->tuning->number);

        build(&grown, fresh.version, ROWS + MORE);
        with_grown = 1;
        search(&grown, grown.expected);
        search_by_threads();
        stop_unless(atomic_load(&grown.version->tuning->number) > number, "replacing the basis");
        index_release(grown.version);
        index_release(fresh.version);
    }
    puts("answers stayed the same while sketches were made, and replaced");
    return 0;
}
