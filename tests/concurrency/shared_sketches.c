/*
** Threads search one fresh index, and make its basis and its sketches between them.
** Each must find what the first search found, and ThreadSanitizer nothing.
*/
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "walk.h"

enum { THREADS = 6, SEARCHES = 40, ROUNDS = 3, ROWS = 24000, DIMENSION = 96, K = 20 };

static index_version *version;
static float query[DIMENSION];
static int64_t expected[K];
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

static void build(void)
{
    index_builder *b;
    char *message = NULL;
    stop_unless(index_builder_open(METRIC_KIND_L2, DIMENSION, 0, NULL, &b, &message) == SQLITE_OK,
                "opening");
    for (int i = 0; i < ROWS; i++) {
        float x[DIMENSION];
        for (int j = 0; j < DIMENSION; j++)
            x[j] = draw() / (float)(j + 1);
        memcpy(query, x, sizeof x);
        stop_unless(index_builder_row(b, i + 1, (uint64_t)i, NULL, x, &message) == SQLITE_OK,
                    "adding a row");
    }
    stop_unless(index_builder_finish(b, 0, &version, &message) == SQLITE_OK, "finishing");
    index_builder_close(b);
}

/* The nearest K in `keys`. */
static void search(index_version *v, int64_t *keys)
{
    index_walk *w;
    char *message = NULL;
    stop_unless(index_walk_open(v, query, NULL, K, NULL, &w, &message) == SQLITE_OK, "a search");
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
        int64_t keys[K];
        search(version, keys);
        if (memcmp(keys, expected, sizeof keys) != 0)
            atomic_store(&wrong, 1);
        index_bytes(version); /* what faiss_indexes shows */
    }
    return NULL;
}

int main(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        build();
        search(version, expected);
        size_t before = index_bytes(version);
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, search_often, NULL);
        for (int i = 0; i < THREADS; i++)
            pthread_join(threads[i], NULL);
        stop_unless(!wrong, "equality of answers");
        stop_unless(index_bytes(version) > before, "making sketches");
        index_release(version);
    }
    puts("answers stayed the same while sketches were made");
    return 0;
}
