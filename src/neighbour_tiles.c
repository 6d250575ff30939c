#include "neighbour_tiles.h"

#include <stdlib.h>
#include <string.h>

#include "neighbour_seeker.h"
#include "tiles.h"
#include "workers.h"

enum {
    TILE_QUERIES = 128,      /* rows that are compared with all others together */
    TILES_MOST = 16,         /* in a block: more than threads, for some take longer */
    K_MOST = 256,            /* beyond this every row is searched alone */
    CANDIDATES_LEAST = 2048, /* a row with more of them, and more than a 12th of all rows, is … */
    CANDIDATES_SHARE = 12,   /* … searched alone, … */
    FUTILE_SHARE = 4,        /* … and where a 4th of a block is, matrix products are faster */
    PLAIN_ROWS_MOST = 1024,  /* rows of segments without a sketch, which are always scored, … */
    PLAIN_ROWS_SHARE = 8     /* … and less than an 8th of all */
};

/* What one thread works with. */
typedef struct workplace {
    void *queries;  /* packed */
    int8_t *codes;  /* of the queries of a tile */
    int32_t *least; /* of each query and group */
    neighbour_seeker seeker;
} workplace;

struct neighbour_tiles {
    neighbour_scope scope;
    vector_reader reader;
    int threads;
    int tiles;            /* of the next block */
    char *packed;         /* the codes of the rows, … */
    int width;            /* … so many components of each */
    workplace *places;    /* of each thread */
    index_hit *hits;      /* k for each row of the block */
    char *answered;       /* 1 for each row that has them */
    int64_t first, count; /* the block */
    atomic_int futile;    /* rows with too many candidates */
    atomic_int failure;   /* SQLITE_NOMEM, or SQLITE_OK */
};

/* ---- room ---- */

static int segments_have_vectors(const index_version *v)
{
    int have = v->segment_count > 0 && v->main_count == v->segment_count;
    for (int s = 0; have && s < v->segment_count; s++)
        have = segment_has_vectors(v->segments[s]) && !v->dead[s];
    return have;
}

static int workplace_open(const neighbour_tiles *t, workplace *w)
{
    *w = (workplace){.queries = sqlite3_malloc64(tile_queries_bytes(TILE_QUERIES, t->width)),
                     .codes = basis_room(TILE_QUERIES, (size_t)t->width + SKETCH_PAIR_SPARE),
                     .least = basis_room((size_t)t->scope.groups * TILE_QUERIES, sizeof *w->least)};
    int rc = neighbour_seeker_open(&w->seeker, &t->scope);
    return w->queries && w->codes && w->least ? rc : SQLITE_NOMEM;
}

static void workplace_close(workplace *w)
{
    sqlite3_free(w->queries);
    sqlite3_free(w->codes);
    sqlite3_free(w->least);
    neighbour_seeker_close(&w->seeker);
}

/* Rows of the largest block. */
static int64_t rows_of_block(const neighbour_tiles *t)
{
    return (int64_t)(t->threads > 1 ? TILES_MOST : 1) * TILE_QUERIES;
}

/* Join the sketches of the segments: t->scope.rows, NULL where too few rows have one of the same
** basis. */
static int join_sketches(neighbour_tiles *t)
{
    const index_version *v = t->scope.version;
    const sketch **own = basis_room((size_t)v->segment_count, sizeof *own);
    int *rows = basis_room((size_t)v->segment_count, sizeof *rows);
    int rc = own && rows ? SQLITE_OK : SQLITE_NOMEM;
    int64_t plain = 0;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        own[s] = segment_hold_sketch(v->segments[s]);
        rows[s] = segment_count(v->segments[s]);
    }
    if (rc == SQLITE_OK)
        rc = sketch_join(own, rows, v->segment_count, &t->scope.rows);
    for (int s = 0; own && rows && s < v->segment_count; s++) {
        if (!own[s] || (t->scope.rows && sketch_basis(own[s]) != sketch_basis(t->scope.rows)))
            plain += rows[s];
        segment_let_go_sketch(v->segments[s]);
    }
    if (t->scope.rows && (plain > PLAIN_ROWS_MOST || plain >= v->rows / PLAIN_ROWS_SHARE)) {
        sketch_free(t->scope.rows);
        t->scope.rows = NULL;
    }
    sqlite3_free(own);
    sqlite3_free(rows);
    return rc;
}

static int list_outliers(neighbour_tiles *t)
{
    const uint8_t *outliers = sketch_outliers(t->scope.rows);
    int64_t rows = t->scope.version->rows, count = 0;
    for (int64_t i = 0; outliers && i < rows; i++)
        count += outliers[i];
    t->scope.outliers = basis_room((size_t)count, sizeof *t->scope.outliers);
    if (!t->scope.outliers)
        return SQLITE_NOMEM;
    for (int64_t i = 0; outliers && i < rows; i++) {
        if (outliers[i])
            t->scope.outliers[t->scope.outlier_count++] = i;
    }
    return SQLITE_OK;
}

/* Pack the codes of all rows, block after block. */
static int pack_rows(neighbour_tiles *t, char **message)
{
    const uint8_t *outliers = sketch_outliers(t->scope.rows);
    int rows = (int)t->scope.version->rows, blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;
    int8_t *codes = basis_room(TILE_ROWS, (size_t)t->width + SKETCH_PAIR_SPARE);
    t->scope.groups = blocks * TILE_LANES;
    t->packed = basis_room((size_t)blocks, tile_rows_bytes(t->width));
    int rc = codes && t->packed ? SQLITE_OK : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < blocks; i++) {
        int first = i * TILE_ROWS, n = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;
        sketch_pair_codes(t->scope.rows, first, n, codes);
        tile_pack_rows(codes, n, t->width, outliers ? outliers + first : NULL,
                       t->packed + (size_t)i * tile_rows_bytes(t->width));
        if (t->reader.check)
            rc = t->reader.check(t->reader.argument, message);
    }
    sqlite3_free(codes);
    return rc;
}

/* Pack all codes, and make room for threads. */
static int make_ready(neighbour_tiles *t, char **message)
{
    int64_t worth = t->scope.version->rows / CANDIDATES_SHARE;
    t->scope.most = (int)(worth > CANDIDATES_LEAST ? worth : CANDIDATES_LEAST);
    int rc = list_outliers(t);
    if (rc == SQLITE_OK)
        rc = pack_rows(t, message);
    for (int i = 0; rc == SQLITE_OK && i < t->threads; i++)
        rc = workplace_open(t, &t->places[i]);
    return rc;
}

/* Whether sketches can help. */
static int may_pay(const index_version *v, int64_t k)
{
    return k >= 1 && k <= K_MOST && k < v->rows && v->slots <= INT32_MAX - TILE_ROWS &&
           segments_have_vectors(v) && index_walks_by_sketches(v);
}

int neighbour_tiles_open(index_version *v, int64_t k, const vector_reader *reader,
                         neighbour_tiles **out, char **message)
{
    *out = NULL;
    if (!may_pay(v, k))
        return SQLITE_OK;
    neighbour_tiles *t = sqlite3_malloc64(sizeof *t);
    if (!t)
        return SQLITE_NOMEM;
    memset(t, 0, sizeof *t);
    t->scope.version = v;
    t->reader = *reader;
    t->scope.k = (int)k;
    t->threads = reader->threads > 1 ? reader->threads : 1;
    t->tiles = t->threads < TILES_MOST ? t->threads : TILES_MOST;
    t->places = basis_room((size_t)t->threads, sizeof *t->places);
    t->hits = basis_room((size_t)(rows_of_block(t) * k), sizeof *t->hits);
    t->answered = basis_room((size_t)rows_of_block(t), sizeof *t->answered);
    int rc = t->places && t->hits && t->answered ? SQLITE_OK : SQLITE_NOMEM;
    if (t->places)
        memset(t->places, 0, (size_t)t->threads * sizeof *t->places);
    if (rc == SQLITE_OK)
        rc = join_sketches(t);
    t->width = t->scope.rows ? sketch_pair_width(t->scope.rows) : 0;
    int pays = rc == SQLITE_OK && t->scope.rows && t->width <= TILE_WIDTH_MOST;
    if (pays)
        rc = make_ready(t, message);
    if (rc == SQLITE_OK && pays)
        *out = t;
    else
        neighbour_tiles_close(t);
    return rc;
}

void neighbour_tiles_close(neighbour_tiles *t)
{
    if (!t)
        return;
    for (int i = 0; t->places && i < t->threads; i++)
        workplace_close(&t->places[i]);
    sketch_free(t->scope.rows);
    sqlite3_free(t->packed);
    sqlite3_free(t->scope.outliers);
    sqlite3_free(t->places);
    sqlite3_free(t->hits);
    sqlite3_free(t->answered);
    sqlite3_free(t);
}

/* ---- blocks ---- */

/* Compare `count` packed queries with all rows. Returns whether it came to the end. */
static int compare(const neighbour_tiles *t, workplace *w, int count, int thread,
                   workers_task *task)
{
    enum { BLOCKS_AT_ONCE = 32 };
    for (int i = 0; i < t->scope.groups / TILE_LANES; i++) {
        tile_least(w->queries, count, t->packed + (size_t)i * tile_rows_bytes(t->width), t->width,
                   w->least + (size_t)i * TILE_LANES, (size_t)t->scope.groups);
        if (i % BLOCKS_AT_ONCE == 0 && workers_should_stop(task, thread))
            return 0;
    }
    return 1;
}

/* The rows of a tile: a workers_work. */
static void fill_tile(void *argument, int part, int thread, workers_task *task)
{
    neighbour_tiles *t = argument;
    workplace *w = &t->places[thread];
    const uint8_t *outliers = sketch_outliers(t->scope.rows);
    const int8_t *codes[TILE_QUERIES];
    int64_t begin = (int64_t)part * TILE_QUERIES, queries[TILE_QUERIES];
    int count = 0, rc = SQLITE_OK;
    for (int64_t i = begin; i < begin + TILE_QUERIES && i < t->count; i++) {
        int8_t *code = w->codes + (size_t)count * (size_t)t->width;
        if (outliers && outliers[t->first + i])
            continue;
        sketch_pair_codes(t->scope.rows, (int)(t->first + i), 1, code);
        codes[count] = code;
        queries[count++] = i;
    }
    tile_pack_queries(codes, count, t->width, w->queries);
    if (!compare(t, w, count, thread, task))
        return;
    for (int i = 0; rc != SQLITE_NOMEM && i < count; i++) {
        rc = neighbour_seeker_answer(&w->seeker, &t->scope, t->first + queries[i],
                                     w->least + (size_t)i * (size_t)t->scope.groups,
                                     t->hits + queries[i] * t->scope.k);
        t->answered[queries[i]] = rc == SQLITE_OK;
        atomic_fetch_add(&t->futile, rc == SQLITE_DONE);
        if (workers_should_stop(task, thread))
            return;
    }
    if (rc == SQLITE_NOMEM) /* a row that fails otherwise is searched alone, for the message */
        atomic_store(&t->failure, rc);
}

int neighbour_tiles_fill(neighbour_tiles *t, int64_t first, int64_t *rows, char **message)
{
    const index_version *v = t->scope.version;
    int64_t most = (int64_t)t->tiles * TILE_QUERIES;
    if (t->threads > 1 && t->tiles < TILES_MOST) /* where few rows are read, few are answered */
        t->tiles = 2 * t->tiles < TILES_MOST ? 2 * t->tiles : TILES_MOST;
    t->first = first;
    t->count = v->rows - first < most ? v->rows - first : most;
    memset(t->answered, 0, (size_t)t->count);
    atomic_store(&t->futile, 0);
    atomic_store(&t->failure, SQLITE_OK);
    int parts = (int)((t->count + TILE_QUERIES - 1) / TILE_QUERIES);
    unsigned entered = workers_enter();
    int rc = workers_run(t->threads, parts, fill_tile, t, &t->reader, message);
    workers_leave(entered);
    if (rc == SQLITE_OK)
        rc = atomic_load(&t->failure);
    int pays = atomic_load(&t->futile) <= t->count / FUTILE_SHARE;
    *rows = rc == SQLITE_OK && pays ? t->count : 0;
    return rc;
}

const index_hit *neighbour_tiles_row(const neighbour_tiles *t, int64_t i)
{
    return t->answered[i] ? t->hits + i * t->scope.k : NULL;
}
