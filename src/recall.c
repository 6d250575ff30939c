#include "recall.h"

#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "snapshot_coverage.h"

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median in milliseconds; the times are put in order. */
static double median_ms(double *seconds, int count)
{
    qsort(seconds, (size_t)count, sizeof *seconds, compare_doubles);
    return 500 * (seconds[(count - 1) / 2] + seconds[count / 2]);
}

/* ---- the sample ---- */

void recall_sample_close(recall_sample *r)
{
    sqlite3_free(r->vectors);
    sqlite3_free(r->farthest);
    sqlite3_free(r->seconds);
    *r = (recall_sample){0};
}

static float *vector_at(const recall_sample *r, int i)
{
    return r->vectors + (size_t)i * (size_t)r->dimension;
}

/* Which of the version's rows, counted without the dead ones, is the i-th of the sample. */
static int64_t pick(int64_t rows, int64_t i, int64_t count)
{
    int64_t begin = rows * i / count, end = rows * (i + 1) / count;
    /* Not at regular distances: the data may be as regular. */
    return begin + (int64_t)((uint32_t)i * 2654435761u % (uint64_t)(end - begin));
}

/* Read `count` vectors from all over the version. */
static int read_vectors(recall_sample *r, snapshot *s, int count, char **message)
{
    const index_version *v = s->version;
    vector_reader reader = vector_reader_of(s);
    int64_t row = 0, wanted = pick(v->rows, 0, count);
    int rc = SQLITE_OK;
    for (int i = 0; i < v->segment_count; i++) {
        for (int64_t slot = 0; slot < segment_count(v->segments[i]); slot++) {
            if (index_is_dead(v, i, (int)slot) || row++ != wanted)
                continue;
            rc = segment_read(v->segments[i], &reader, &slot, 1, vector_at(r, r->count++), message);
            if (rc != SQLITE_OK || r->count == count)
                return rc;
            wanted = pick(v->rows, r->count, count);
        }
    }
    return SQLITE_OK;
}

/* ---- searches ---- */

/* What one search found: rows that are no farther than `within`, and how far the last was. */
typedef struct answer {
    int64_t within;
    float farthest;
    int by_index;
    double seconds;
} answer;

/* Search for the i-th query as a statement would, and take k rows. */
static int search_one(const recall_sample *r, snapshot *s, int i, const search_effort *effort,
                      float within, answer *out, char **message)
{
    search by = {0};
    filter none = {0};
    index_hit hit;
    vector query, asked = {.x = vector_at(r, i), .dimension = r->dimension};
    *out = (answer){0};
    int rc = vector_copy(&asked, &query);
    double begin = clock_seconds();
    if (rc == SQLITE_OK)
        rc = search_begin(&by, s, &none, &query, r->k, effort, message);
    for (int64_t n = 0; rc == SQLITE_OK && n < r->k; n++) {
        int got = search_next(&by, &hit, message);
        if (got == SQLITE_DONE)
            break;
        if (got != SQLITE_ROW) {
            rc = got;
            break;
        }
        out->farthest = walk_rank_of(s->version->metric, hit.score);
        out->within += out->farthest <= within;
    }
    out->seconds = clock_seconds() - begin;
    out->by_index = by.probe != NULL;
    search_close(&by);
    return rc == SQLITE_OK ? snapshot_poll(s, message) : rc;
}

/* Search for all exactly. */
static int find_nearest(recall_sample *r, snapshot *s, char **message)
{
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < r->count; i++) {
        answer a;
        rc = search_one(r, s, i, NULL, 0, &a, message);
        r->farthest[i] = a.farthest;
        r->seconds[i] = a.seconds;
    }
    if (rc == SQLITE_OK)
        r->exact_ms = median_ms(r->seconds, r->count);
    return rc;
}

int recall_sample_open(snapshot *s, int64_t k, int most, recall_sample *out, char **message)
{
    const index_version *v = s->version;
    int count = v->rows < most ? (int)v->rows : most;
    *out = (recall_sample){.dimension = v->dimension, .k = k < v->rows ? k : v->rows};
    if (count == 0)
        return SQLITE_OK;
    size_t n = (size_t)count;
    out->vectors = sqlite3_malloc64(n * (size_t)v->dimension * sizeof *out->vectors);
    out->farthest = sqlite3_malloc64(n * sizeof *out->farthest);
    out->seconds = sqlite3_malloc64(n * sizeof *out->seconds);
    int rc = out->vectors && out->farthest && out->seconds ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = read_vectors(out, s, count, message);
    if (rc == SQLITE_OK)
        rc = find_nearest(out, s, message);
    if (rc != SQLITE_OK)
        recall_sample_close(out);
    return rc;
}

int recall_measure(const recall_sample *r, snapshot *s, const search_effort *effort,
                   recall_measured *out, char **message)
{
    coverage *c;
    int64_t found = 0;
    *out = (recall_measured){0};
    int rc = snapshot_coverage(s, &c, message); /* builds it, which is no search's time */
    for (int i = 0; rc == SQLITE_OK && i < r->count; i++) {
        answer a;
        rc = search_one(r, s, i, effort, r->farthest[i], &a, message);
        found += a.within;
        out->by_index += a.by_index;
        r->seconds[i] = a.seconds;
    }
    if (rc == SQLITE_OK) {
        out->recall = (double)found / ((double)r->count * (double)r->k);
        out->ms = median_ms(r->seconds, r->count);
    }
    return rc;
}
