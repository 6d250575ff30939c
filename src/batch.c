#include "batch.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "neighbour_tiles.h"
#include "workers.h"

enum {
    BLOCK_ROWS = 256,     /* queries in one matrix product, … */
    BLOCK_OF_READ = 1024, /* … or, where all vectors are read for each, so many */
    THREADS_MOST = 16,    /* that share a block */
    BATCH_MAX_K = 256,    /* beyond this every row is searched alone */
    SPARE = 16            /* candidates beyond those asked for: room for rounding */
};

/* A candidate: its score as BLAS computed it. */
typedef struct candidate {
    float rank;
    int64_t row;
} candidate;

struct neighbour_batch {
    index_version *version;
    int64_t k; /* neighbours of each row */
    vector_reader reader;
    neighbour_tiles *tiles;          /* NULL where sketches do not help, or not any more */
    int64_t tiles_first, tiles_rows; /* the block that they have answered */
    int measured;
    float largest_norm; /* squared, of all rows */
    /* The block: rows first..first+rows-1, all of one segment, with `width`
    ** candidates each. */
    int64_t first;
    int block;          /* rows of a full one … */
    int threads;        /* … that so many threads share */
    atomic_int failure; /* of one of them */
    int rows, width;
    candidate *candidates; /* block × width, nearest first */
    int *counts;           /* candidates of each row */
    candidate *merged;     /* threads × width: scratch of a merge */
    float *queries;        /* vectors of the block */
    float *scores;         /* block × width: what FAISS fills */
    int64_t *slots;
    index_hit *hits; /* of the row at hand */
};

/* Make room for blocks. */
static int open_blocks(neighbour_batch *b)
{
    const index_version *v = b->version;
    size_t all = (size_t)b->block * (size_t)b->width;
    b->candidates = sqlite3_malloc64((all + 1) * sizeof *b->candidates);
    b->counts = sqlite3_malloc64((size_t)b->block * sizeof *b->counts);
    b->merged = sqlite3_malloc64(((size_t)b->threads * (size_t)b->width + 1) * sizeof *b->merged);
    b->queries = sqlite3_malloc64((size_t)b->block * (size_t)v->dimension * sizeof *b->queries);
    b->scores = sqlite3_malloc64((all + 1) * sizeof *b->scores);
    b->slots = sqlite3_malloc64((all + (size_t)b->block + 1) * sizeof *b->slots);
    return b->candidates && b->counts && b->merged && b->queries && b->scores && b->slots
               ? SQLITE_OK
               : SQLITE_NOMEM;
}

static int check_now(const neighbour_batch *b, char **message)
{
    return b->reader.check ? b->reader.check(b->reader.argument, message) : SQLITE_OK;
}

/* Make the sketches that there are to be: a basis, and one of each segment. */
static int make_sketches(neighbour_batch *b, char **message)
{
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < b->version->segment_count + 2; i++) {
        index_improve(b->version, b->reader.threads);
        rc = check_now(b, message);
    }
    return rc;
}

/* The largest norm of all rows, which bounds the errors of rounding. */
static int measure(neighbour_batch *b, char **message)
{
    const index_version *v = b->version;
    int rc = SQLITE_OK;
    for (int s = 0; !b->measured && rc == SQLITE_OK && s < v->segment_count; s++) {
        float norm = 0;
        rc = segment_largest_norm(v->segments[s], &b->reader, &norm, message);
        b->largest_norm = fmaxf(b->largest_norm, norm);
    }
    b->measured = rc == SQLITE_OK;
    return rc;
}

int neighbour_batch_open(index_version *v, int64_t k, const vector_reader *reader,
                         neighbour_batch **out, char **message)
{
    *out = NULL;
    neighbour_batch *b = sqlite3_malloc64(sizeof *b);
    if (!b)
        return SQLITE_NOMEM;
    memset(b, 0, sizeof *b);
    b->version = index_retain(v);
    b->k = k < v->rows - 1 ? k : v->rows - 1;
    if (reader)
        b->reader = *reader;
    int in_memory = v->segment_count && segment_has_vectors(v->segments[0]);
    b->threads = in_memory && b->reader.threads > 1 ? b->reader.threads : 1;
    if (b->threads > THREADS_MOST)
        b->threads = THREADS_MOST;
    b->width = b->k <= BATCH_MAX_K ? (int)b->k + 1 + SPARE : 0;
    b->block = in_memory ? BLOCK_ROWS * b->threads : BLOCK_OF_READ;
    /* Candidates are scored where the neighbours will stand. */
    size_t hits = b->width ? (size_t)b->width : (size_t)b->k;
    b->hits = sqlite3_malloc64((hits + 1) * sizeof *b->hits);
    int rc = b->hits ? open_blocks(b) : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = make_sketches(b, message);
    if (rc == SQLITE_OK)
        rc = neighbour_tiles_open(v, b->k, &b->reader, &b->tiles, message);
    if (rc == SQLITE_OK &&
        !b->tiles) /* so that a source that differs is noticed before a row is out */
        rc = measure(b, message);
    if (rc != SQLITE_OK) {
        neighbour_batch_close(b);
        return rc;
    }
    *out = b;
    return SQLITE_OK;
}

void neighbour_batch_close(neighbour_batch *b)
{
    if (!b)
        return;
    neighbour_tiles_close(b->tiles);
    index_release(b->version);
    sqlite3_free(b->candidates);
    sqlite3_free(b->counts);
    sqlite3_free(b->merged);
    sqlite3_free(b->queries);
    sqlite3_free(b->scores);
    sqlite3_free(b->slots);
    sqlite3_free(b->hits);
    sqlite3_free(b);
}

/* Merge what one segment gave for a row of the block into its candidates. */
static void merge(neighbour_batch *b, int i, int s, const float *scores, const int64_t *slots,
                  int n, candidate *merged)
{
    const index_version *v = b->version;
    candidate *own = b->candidates + (size_t)i * (size_t)b->width;
    int count = b->counts[i], taken = 0, given = 0, total = 0;
    while (total < b->width && (taken < count || given < n)) {
        int from_segment = taken == count;
        float rank = INFINITY;
        if (given < n && slots[given] < 0) { /* FAISS had no more */
            n = given;
            continue;
        }
        if (given < n)
            rank = walk_rank_of(v->metric, scores[given]);
        if (taken < count && given < n)
            from_segment = rank < own[taken].rank;
        merged[total++] =
            from_segment ? (candidate){rank, v->starts[s] + slots[given]} : own[taken];
        given += from_segment;
        taken += !from_segment;
    }
    memcpy(own, merged, (size_t)total * sizeof *own);
    b->counts[i] = total;
}

/* Find the candidates of a part of the block among one segment's rows. */
static int search_segment(neighbour_batch *b, int begin, int rows, int s, candidate *merged,
                          char **message)
{
    const index_version *v = b->version;
    int count = segment_count(v->segments[s]);
    int n = count < b->width ? count : b->width;
    float *scores = b->scores + (size_t)begin * (size_t)b->width;
    int64_t *slots = b->slots + (size_t)begin * (size_t)b->width;
    int rc = segment_search_batch(v->segments[s], &b->reader,
                                  b->queries + (size_t)begin * (size_t)v->dimension, rows, n,
                                  scores, slots, message);
    for (int i = 0; rc == SQLITE_OK && i < rows; i++)
        merge(b, begin + i, s, scores + (size_t)i * (size_t)n, slots + (size_t)i * (size_t)n, n,
              merged);
    return rc;
}

/* Find the candidates of one thread's part of the block: a workers_work. */
static void search_part(void *argument, int part, int thread, workers_task *task)
{
    neighbour_batch *b = argument;
    int each = (b->rows + b->threads - 1) / b->threads, begin = part * each, rc = SQLITE_OK;
    int rows = b->rows - begin < each ? b->rows - begin : each;
    candidate *merged = b->merged + (size_t)thread * (size_t)b->width;
    char *message = NULL;
    for (int s = 0; rows > 0 && rc == SQLITE_OK && s < b->version->segment_count; s++) {
        rc = search_segment(b, begin, rows, s, merged, &message);
        if (workers_should_stop(task, thread))
            break;
    }
    sqlite3_free(message);
    if (rc != SQLITE_OK)
        atomic_store(&b->failure, rc);
}

/* The same on this thread alone, where vectors are read from the source. */
static int search_whole(neighbour_batch *b, char **message)
{
    int rc = SQLITE_OK;
    for (int s = 0; rc == SQLITE_OK && s < b->version->segment_count; s++) {
        rc = search_segment(b, 0, b->rows, s, b->merged, message);
        if (rc == SQLITE_OK)
            rc = check_now(b, message);
    }
    return rc;
}

static int search_by_threads(neighbour_batch *b, char **message)
{
    unsigned entered = workers_enter();
    atomic_store(&b->failure, SQLITE_OK);
    int rc = workers_run(b->threads, b->threads, search_part, b, &b->reader, message);
    workers_leave(entered);
    return rc == SQLITE_OK ? atomic_load(&b->failure) : rc;
}

/* Find the candidates of the block that begins with this row. */
static int fill_block(neighbour_batch *b, int64_t row, char **message)
{
    const index_version *v = b->version;
    int s, slot;
    index_locate(v, row, &s, &slot);
    int left = segment_count(v->segments[s]) - slot;
    b->first = row;
    b->rows = left < b->block ? left : b->block;
    memset(b->counts, 0, (size_t)b->block * sizeof *b->counts);
    for (int i = 0; i < b->rows; i++)
        b->slots[i] = slot + i;
    int rc = measure(b, message);
    if (rc == SQLITE_OK)
        rc = segment_read(v->segments[s], &b->reader, b->slots, b->rows, b->queries, message);
    if (rc == SQLITE_OK)
        rc = b->threads > 1 ? search_by_threads(b, message) : search_whole(b, message);
    if (rc != SQLITE_OK)
        b->rows = 0;
    return rc;
}

static int compare_hits(const void *left, const void *right)
{
    const index_hit *a = left, *b = right;
    /* `key` holds the row number while sorting: the order of ties. Scores were
    ** turned into ranks. */
    if (a->score != b->score)
        return a->score < b->score ? -1 : 1;
    return a->key < b->key ? -1 : a->key > b->key;
}

/*
** How far a score by BLAS and one by a single search can be apart, for a query of
** squared norm q. Each is a sum of d products, whose rounding error is at most
** (d + 2)u times the sum of their magnitudes (u = 2^-24; Higham, Accuracy and
** Stability of Numerical Algorithms, 3.1). For L2 both forms, |x|² + |y|² - 2xy
** and the sum of squares of differences, have magnitudes of at most
** (|x| + |y|)² <= 2(|x|² + |y|²); for inner products |x||y| <= (|x|² + |y|²) / 2.
*/
static float rounding_error(const neighbour_batch *b, float q)
{
    double terms = b->version->dimension + 8;
    return (float)(2 * terms * 0x1p-24 * 2 * ((double)q + (double)b->largest_norm));
}

/* Score the candidates of a row of the block one by one, and order them; *certain
** says whether no row outside of them can be among its neighbours. */
static int rescore(neighbour_batch *b, int i, int *certain, char **message)
{
    const index_version *v = b->version;
    const candidate *own = b->candidates + (size_t)i * (size_t)b->width;
    int count = 0, rc = SQLITE_OK;
    const float *query = b->queries + (size_t)i * (size_t)v->dimension;
    for (int j = 0; rc == SQLITE_OK && j < b->counts[i]; j++) {
        if (own[j].row == b->first + i)
            continue;
        index_hit *hit = &b->hits[count++];
        int64_t at;
        index_locate(v, own[j].row, &hit->segment, &hit->slot);
        at = hit->slot;
        rc = segment_scores(v->segments[hit->segment], &b->reader, query, &at, 1, &hit->score,
                            message);
        hit->score = walk_rank_of(v->metric, hit->score);
        hit->key = own[j].row;
    }
    if (rc != SQLITE_OK)
        return rc;
    qsort(b->hits, (size_t)count, sizeof *b->hits, compare_hits);
    *certain = count >= b->k;
    if (*certain && b->counts[i] < v->rows && b->k > 0) {
        float q = 0;
        for (int j = 0; j < v->dimension; j++)
            q += query[j] * query[j];
        float nearest_outside = own[b->counts[i] - 1].rank - rounding_error(b, q);
        *certain = b->hits[b->k - 1].score < nearest_outside;
    }
    for (int j = 0; j < count; j++) { /* back to scores and keys */
        index_hit *hit = &b->hits[j];
        hit->score = v->metric == METRIC_KIND_L2 ? hit->score : -hit->score;
        hit->key = index_key(v, hit->segment, hit->slot);
    }
    return SQLITE_OK;
}

/* The neighbours of one row by a search of its own. */
static int search_alone(neighbour_batch *b, int64_t row, char **message)
{
    index_walk *w;
    int64_t count = 0;
    int rc = index_walk_open_row(b->version, row, b->k + 1, &b->reader, &w, message);
    for (int64_t i = 0; rc == SQLITE_OK && count < b->k; i++) {
        rc = index_walk_at(w, i, &b->hits[count], message);
        if (rc != SQLITE_ROW)
            break;
        rc = SQLITE_OK;
        const index_hit *hit = &b->hits[count];
        count += b->version->starts[hit->segment] + hit->slot != row;
    }
    index_walk_close(w);
    return rc;
}

/* The answer by sketches, if there is one: *hits stays NULL otherwise. */
static int ask_tiles(neighbour_batch *b, int64_t row, const index_hit **hits, char **message)
{
    int rc = SQLITE_OK;
    if (row < b->tiles_first || row >= b->tiles_first + b->tiles_rows) {
        b->tiles_first = row;
        rc = neighbour_tiles_fill(b->tiles, row, &b->tiles_rows, message);
    }
    if (rc == SQLITE_OK && b->tiles_rows == 0) { /* it does not pay */
        neighbour_tiles_close(b->tiles);
        b->tiles = NULL;
    }
    if (rc == SQLITE_OK && b->tiles)
        *hits = neighbour_tiles_row(b->tiles, row - b->tiles_first);
    return rc;
}

int neighbour_batch_row(neighbour_batch *b, int64_t row, const index_hit **hits, int64_t *count,
                        char **message)
{
    int rc = SQLITE_OK, certain = 0;
    *hits = NULL;
    *count = b->k;
    if (b->tiles) {
        rc = ask_tiles(b, row, hits, message);
        if (rc != SQLITE_OK || *hits)
            return rc;
    }
    *hits = b->hits;
    int by_products = b->width && !b->tiles;
    if (by_products && (row < b->first || row >= b->first + b->rows))
        rc = fill_block(b, row, message);
    if (rc == SQLITE_OK && by_products)
        rc = rescore(b, (int)(row - b->first), &certain, message);
    return rc == SQLITE_OK && !certain ? search_alone(b, row, message) : rc;
}
