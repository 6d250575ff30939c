/*
** Threads search one fresh index, and make its basis and its sketches between them. Then
** there come so many rows of another kind that they get a basis of their own, and threads
** replace the sketches that others search by. Some ask for the neighbours of many rows,
** and have helpers of their own. Each must find what the first search found,
** and ThreadSanitizer nothing.
*/
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "batch.h"
#include "index.h"
#include "walk.h"

enum {
    THREADS = 6,
    SEARCHES = 40,
    ROUNDS = 3,
    ROWS = 9000,
    MORE = 4 * ROWS,
    DIMENSION = 96,
    K = 20,
    PAIRED = 300, /* rows whose neighbours are asked for */
    HELPED = 3    /* threads of one search */
};

/* A version, a query and what a search found before there were threads. */
typedef struct searched {
    index_version *version;
    float query[DIMENSION];
    int64_t expected[K];
} searched;

static searched fresh, grown; /* the latter comes from the former */
static int64_t fresh_pairs[PAIRED];
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

/* The nearest neighbour of some rows. */
static void find_pairs(const index_version *v, int64_t *keys)
{
    neighbour_batch *b;
    char *message = NULL;
    vector_reader reader = {.threads = HELPED};
    stop_unless(neighbour_batch_open((index_version *)v, 1, &reader, &b, &message) == SQLITE_OK,
                "a batch");
    for (int i = 0; i < PAIRED; i++) {
        const index_hit *hits;
        int64_t count;
        stop_unless(neighbour_batch_row(b, i, &hits, &count, &message) == SQLITE_OK && count == 1,
                    "neighbours");
        keys[i] = hits->key;
    }
    neighbour_batch_close(b);
}

static double squared_distance(const float *x, const float *y)
{
    double sum = 0;
    for (int i = 0; i < DIMENSION; i++)
        sum += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    return sum;
}

static const float *row_at(const index_version *v, int64_t position)
{
    int s, slot;
    index_locate(v, position, &s, &slot);
    return segment_vector(v->segments[s], slot);
}

/* The same without an index. */
static void compare_all(const index_version *v, int64_t *keys)
{
    for (int i = 0; i < PAIRED; i++) {
        double nearest = INFINITY;
        for (int64_t j = 0; j < v->rows; j++) {
            double found = j == i ? INFINITY : squared_distance(row_at(v, i), row_at(v, j));
            if (found < nearest) {
                nearest = found;
                keys[i] = j + 1;
            }
        }
    }
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
        if (i % 16 == 3) {
            int64_t pairs[PAIRED];
            find_pairs(fresh.version, pairs);
            if (memcmp(pairs, fresh_pairs, sizeof pairs) != 0)
                atomic_store(&wrong, 1);
        }
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
    setenv("SQLITE_FAISS_THREADS", "8", 1);
    setenv("SQLITE_FAISS_SKETCHES", "always", 1); /* of so few rows, too */
    for (int round = 0; round < ROUNDS; round++) {
        build(&fresh, NULL, ROWS);
        search(&fresh, fresh.expected);
        compare_all(fresh.version, fresh_pairs);
        size_t before = index_bytes(fresh.version);
        with_grown = 0;
        search_by_threads();
        stop_unless(index_bytes(fresh.version) > before, "making sketches");
        unsigned number = atomic_load(&fresh.version->tuning->number);

        build(&grown, fresh.version, ROWS + MORE);
        with_grown = 1;
        search(&grown, grown.expected);
        search_by_threads();
        stop_unless(atomic_load(&grown.version->tuning->number) > number, "finding another basis");
        index_release(grown.version);
        index_release(fresh.version);
    }
    puts("answers stayed the same while sketches were made, and replaced");
    return 0;
}
