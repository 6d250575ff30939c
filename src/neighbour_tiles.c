#include "neighbour_tiles.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "tiles.h"
#include "workers.h"

enum {
    TILE_QUERIES = 128,      /* rows that are compared with all others together */
    TILES_MOST = 16,         /* in a block: more than threads, for some take longer */
    K_MOST = 256,            /* beyond this every row is searched alone */
    SPARE = 8,               /* rows beyond k that are scored to get a radius */
    FETCHED_MOST = 16,       /* vectors that fit into the cache for a moment */
    CANDIDATES_LEAST = 2048, /* a row with more of them, and more than a 12th of all rows, is … */
    CANDIDATES_SHARE = 12,   /* … searched alone, … */
    FUTILE_SHARE = 4,        /* … and where a 4th of a block is, matrix products are faster */
    PLAIN_ROWS_MOST = 1024   /* rows of segments without a sketch, which are always scored */
};

/* A row on its way to an answer: by integer distance, or by rank. */
typedef struct integer_row {
    int32_t distance;
    int32_t row; /* a group, or a position */
} integer_row;

typedef struct scored_row {
    float rank;
    int32_t position;
} scored_row;

/* What one thread works with. */
typedef struct workplace {
    void *queries;              /* packed */
    int8_t *codes;              /* of the queries of a tile */
    int32_t *least;             /* of each query and group */
    integer_row *near, *nearer; /* the nearest groups, and of their rows the nearest */
    int64_t *positions;         /* candidates … */
    int32_t *distances;         /* … and how near they may be */
    float *scores;              /* of those of one segment */
    scored_row *scored;
} workplace;

struct neighbour_tiles {
    index_version *version;
    vector_reader reader;
    int k, threads;
    int tiles;         /* of the next block */
    int most;          /* candidates that are worth scoring */
    sketch *rows;      /* of all rows, by their positions … */
    int width;         /* … and of their codes, … */
    char *packed;      /* … which are packed */
    int64_t *outliers; /* positions of rows whose codes say nothing */
    int outlier_count;
    int groups;
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

static void *room_for(int64_t count, size_t size)
{
    return sqlite3_malloc64(((sqlite3_uint64)count + 1) * size);
}

/* Rows that are scored for the radius, and groups where they are looked for. */
static int first_rows(const neighbour_tiles *t)
{
    return t->k + 1 + SPARE;
}

static int workplace_open(const neighbour_tiles *t, workplace *w)
{
    int64_t rows = t->version->rows + TILE_GROUP, scored = t->most + first_rows(t);
    *w = (workplace){.queries = sqlite3_malloc64(tile_queries_bytes(TILE_QUERIES, t->width)),
                     .codes = room_for(TILE_QUERIES, (size_t)t->width + SKETCH_PAIR_SPARE),
                     .least = room_for((int64_t)t->groups * TILE_QUERIES, sizeof *w->least),
                     .near = room_for(first_rows(t), sizeof *w->near),
                     .nearer = room_for(first_rows(t), sizeof *w->nearer),
                     .positions = room_for(rows + t->outlier_count, sizeof *w->positions),
                     .distances = room_for(rows, sizeof *w->distances),
                     .scores = room_for(scored, sizeof *w->scores),
                     .scored = room_for(scored, sizeof *w->scored)};
    return w->queries && w->codes && w->least && w->near && w->nearer && w->positions &&
                   w->distances && w->scores && w->scored
               ? SQLITE_OK
               : SQLITE_NOMEM;
}

static void workplace_close(workplace *w)
{
    sqlite3_free(w->queries);
    sqlite3_free(w->codes);
    sqlite3_free(w->least);
    sqlite3_free(w->near);
    sqlite3_free(w->nearer);
    sqlite3_free(w->positions);
    sqlite3_free(w->distances);
    sqlite3_free(w->scores);
    sqlite3_free(w->scored);
}

/* Rows of the largest block. */
static int64_t rows_of_block(const neighbour_tiles *t)
{
    return (int64_t)(t->threads > 1 ? TILES_MOST : 1) * TILE_QUERIES;
}

/* Join the sketches of the segments: t->rows, NULL where too few rows have one of the same
** basis. */
static int join_sketches(neighbour_tiles *t)
{
    const index_version *v = t->version;
    const sketch **own = room_for(v->segment_count, sizeof *own);
    int *rows = room_for(v->segment_count, sizeof *rows);
    int rc = own && rows ? SQLITE_OK : SQLITE_NOMEM;
    int64_t plain = 0;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        own[s] = segment_hold_sketch(v->segments[s]);
        rows[s] = segment_count(v->segments[s]);
    }
    if (rc == SQLITE_OK)
        rc = sketch_join(own, rows, v->segment_count, &t->rows);
    for (int s = 0; own && rows && s < v->segment_count; s++) {
        if (!own[s] || (t->rows && sketch_basis(own[s]) != sketch_basis(t->rows)))
            plain += rows[s];
        segment_let_go_sketch(v->segments[s]);
    }
    if (t->rows && (plain > PLAIN_ROWS_MOST || plain >= v->rows / 8)) {
        sketch_free(t->rows);
        t->rows = NULL;
    }
    sqlite3_free(own);
    sqlite3_free(rows);
    return rc;
}

static int list_outliers(neighbour_tiles *t)
{
    const uint8_t *outliers = sketch_outliers(t->rows);
    int64_t rows = t->version->rows, count = 0;
    for (int64_t i = 0; outliers && i < rows; i++)
        count += outliers[i];
    t->outliers = room_for(count, sizeof *t->outliers);
    if (!t->outliers)
        return SQLITE_NOMEM;
    for (int64_t i = 0; outliers && i < rows; i++) {
        if (outliers[i])
            t->outliers[t->outlier_count++] = i;
    }
    return SQLITE_OK;
}

/* Pack the codes of all rows, block after block. */
static int pack_rows(neighbour_tiles *t, char **message)
{
    const uint8_t *outliers = sketch_outliers(t->rows);
    int rows = (int)t->version->rows, blocks = (rows + TILE_ROWS - 1) / TILE_ROWS;
    int8_t *codes = room_for(TILE_ROWS, (size_t)t->width + SKETCH_PAIR_SPARE);
    t->groups = blocks * TILE_LANES;
    t->packed = room_for(blocks, tile_rows_bytes(t->width));
    int rc = codes && t->packed ? SQLITE_OK : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < blocks; i++) {
        int first = i * TILE_ROWS, n = rows - first < TILE_ROWS ? rows - first : TILE_ROWS;
        sketch_pair_codes(t->rows, first, n, codes);
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
    int64_t worth = t->version->rows / CANDIDATES_SHARE;
    t->most = (int)(worth > CANDIDATES_LEAST ? worth : CANDIDATES_LEAST);
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
    t->version = v;
    t->reader = *reader;
    t->k = (int)k;
    t->threads = reader->threads > 1 ? reader->threads : 1;
    t->tiles = t->threads < TILES_MOST ? t->threads : TILES_MOST;
    t->places = room_for(t->threads, sizeof *t->places);
    t->hits = room_for(rows_of_block(t) * k, sizeof *t->hits);
    t->answered = room_for(rows_of_block(t), sizeof *t->answered);
    int rc = t->places && t->hits && t->answered ? SQLITE_OK : SQLITE_NOMEM;
    if (t->places)
        memset(t->places, 0, ((size_t)t->threads + 1) * sizeof *t->places);
    if (rc == SQLITE_OK)
        rc = join_sketches(t);
    t->width = t->rows ? sketch_pair_width(t->rows) : 0;
    int pays = rc == SQLITE_OK && t->rows && t->width <= TILE_WIDTH_MOST;
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
    sketch_free(t->rows);
    sqlite3_free(t->packed);
    sqlite3_free(t->outliers);
    sqlite3_free(t->places);
    sqlite3_free(t->hits);
    sqlite3_free(t->answered);
    sqlite3_free(t);
}

/* ---- integer distances ---- */

/* Compare `count` packed queries with all rows. Returns whether it came to the end. */
static int compare(const neighbour_tiles *t, workplace *w, int count, int thread,
                   workers_task *task)
{
    enum { BLOCKS_AT_ONCE = 32 };
    for (int i = 0; i < t->groups / TILE_LANES; i++) {
        tile_least(w->queries, count, t->packed + (size_t)i * tile_rows_bytes(t->width), t->width,
                   w->least + (size_t)i * TILE_LANES, (size_t)t->groups);
        if (i % BLOCKS_AT_ONCE == 0 && workers_should_stop(task, thread))
            return 0;
    }
    return 1;
}

/* Put a row in the place of the one with the largest distance, which is on top of the heap. */
static void replace_first(integer_row *heap, int count, integer_row row)
{
    int i = 0;
    for (int child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && heap[child].distance < heap[child + 1].distance)
            child++;
        if (heap[child].distance <= row.distance)
            break;
        heap[i] = heap[child];
    }
    heap[i] = row;
}

static void empty(integer_row *heap, int most)
{
    for (int i = 0; i < most; i++)
        heap[i] = (integer_row){TILE_FAR, -1};
}

/* Move what is in a heap to its beginning; returns how many. */
static int close_ranks(integer_row *heap, int most)
{
    int count = 0;
    for (int i = 0; i < most; i++) {
        if (heap[i].row >= 0)
            heap[count++] = heap[i];
    }
    return count;
}

/* The `most` groups whose nearest rows are nearest, in no order, the farthest of them first.
** Returns how many there are. */
static int find_groups(const neighbour_tiles *t, const int32_t *least, integer_row *heap, int most)
{
    empty(heap, most);
    for (int at = -1;;) {
        at = kernel_next_within(least, at + 1, t->groups, heap[0].distance - 1);
        if (at == t->groups)
            return close_ranks(heap, most);
        replace_first(heap, most, (integer_row){least[at], at});
    }
}

/* The positions of a group whose rows have a code; returns how many. */
static int list_group(const neighbour_tiles *t, int64_t group, int64_t *positions)
{
    const uint8_t *outliers = sketch_outliers(t->rows);
    int64_t begin = group * TILE_GROUP, end = begin + TILE_GROUP;
    int count = 0;
    for (int64_t i = begin; i < end && i < t->version->rows; i++) {
        positions[count] = i;
        count += !(outliers && outliers[i]);
    }
    return count;
}

/* Of the first `count` of w->positions keep those within the limit of each of the first lines of
** their codes; returns how many. */
static int keep_within(const neighbour_tiles *t, workplace *w, const query_sketch *query,
                       const int32_t *limits, int lines, int count)
{
    sketch_distances_at(t->rows, query, w->positions, count, w->distances);
    count = kernel_keep(w->positions, w->distances, count, limits[0]);
    for (int line = 1; line < lines; line++)
        count = sketch_go_on(t->rows, query, line, limits[line], w->positions, w->distances, count);
    return count;
}

/* The rows that are nearest by their codes, those of the nearest groups by all lines: positions in
** w->nearer, in no order. Returns how many. */
static int find_first(const neighbour_tiles *t, workplace *w, const int32_t *least,
                      const query_sketch *query)
{
    int most = first_rows(t), groups = find_groups(t, least, w->near, most), count = 0;
    int32_t limits[LINES_MOST], nearest = INT32_MAX;
    if (groups == most) /* no row elsewhere is nearer than this by the lines that were compared */
        nearest = w->near[0].distance * KERNEL_FINER * KERNEL_FINER;
    for (int line = 0; line < LINES_MOST; line++)
        limits[line] = line < sketch_pair_lines(t->rows) ? nearest : INT32_MAX;
    for (int i = 0; i < groups; i++)
        count += list_group(t, w->near[i].row, w->positions + count);
    count = keep_within(t, w, query, limits, sketch_lines(t->rows), count);
    empty(w->nearer, most);
    for (int i = 0; i < count; i++) {
        integer_row row = {w->distances[i], (int32_t)w->positions[i]};
        if (row.distance < w->nearer[0].distance)
            replace_first(w->nearer, most, row);
    }
    return close_ranks(w->nearer, most);
}

/* ---- scores ---- */

static int compare_scored_rows(const void *left, const void *right)
{
    const scored_row *a = left, *b = right;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    return a->position < b->position ? -1 : a->position > b->position;
}

static int compare_positions(const void *left, const void *right)
{
    const integer_row *a = left, *b = right;
    return a->row < b->row ? -1 : a->row > b->row;
}

/* Have the vectors of the first rows fetched from memory, all at once. */
static void fetch(const index_version *v, const int64_t *positions, int count)
{
    for (int i = 0; i < count && i < FETCHED_MOST; i++) {
        int s, slot;
        index_locate(v, positions[i], &s, &slot);
        segment_fetch(v->segments[s], slot);
    }
}

/* Score the first `count` of w->positions, which ascend; append those but the query that are as
** near as `rank`. */
static int score(const neighbour_tiles *t, workplace *w, int64_t query, int count, float rank,
                 int *scored)
{
    const index_version *v = t->version;
    int own, slot, rc = SQLITE_OK;
    index_locate(v, query, &own, &slot);
    const float *x = segment_vector(v->segments[own], slot);
    char *message = NULL;
    fetch(v, w->positions, count);
    for (int i = 0, n; rc == SQLITE_OK && i < count; i += n) {
        int s;
        index_locate(v, w->positions[i], &s, &slot);
        int64_t begin = v->starts[s], end = begin + segment_count(v->segments[s]);
        for (n = 0; i + n < count && w->positions[i + n] < end; n++)
            w->positions[i + n] -= begin;
        rc = segment_scores(v->segments[s], NULL, x, w->positions + i, n, w->scores, &message);
        for (int j = 0; rc == SQLITE_OK && j < n; j++) {
            int64_t position = begin + w->positions[i + j];
            float found = walk_rank_of(v->metric, w->scores[j]);
            if (found <= rank && position != query)
                w->scored[(*scored)++] = (scored_row){found, (int32_t)position};
        }
    }
    sqlite3_free(message);
    return rc;
}

/* A row whose neighbours are looked for, and how near they must be. */
typedef struct asked_row {
    int64_t position;
    const int32_t *least; /* distances of the groups to it */
    query_sketch *row;    /* its own code … */
    query_sketch *query;  /* … and, for inner products, its vector as a query */
    double norm;
    float rank;
    int first_count; /* rows of w->nearer, which were scored for it */
} asked_row;

/* Score the rows of w->nearer, and find the k-th rank of them: infinite, or NaN, where that is no
** radius. Those within it are in w->scored: *scored of them. */
static int find_rank(const neighbour_tiles *t, workplace *w, asked_row *asked, int *scored)
{
    int all = 0, count = asked->first_count;
    qsort(w->nearer, (size_t)count, sizeof *w->nearer, compare_positions);
    for (int i = 0; i < count; i++)
        w->positions[i] = w->nearer[i].row;
    int rc = score(t, w, asked->position, count, INFINITY, &all);
    qsort(w->scored, (size_t)all, sizeof *w->scored, compare_scored_rows);
    asked->rank = all >= t->k ? w->scored[t->k - 1].rank : INFINITY;
    for (*scored = all; *scored > 0 && w->scored[*scored - 1].rank > asked->rank;)
        --*scored;
    return rc;
}

/* Leave out those of the first `count` of w->positions that were scored already; returns how many
** are left. Both ascend. */
static int leave_out_scored(workplace *w, const asked_row *asked, int count)
{
    int left = 0;
    for (int i = 0, known = 0; i < count; i++) {
        while (known < asked->first_count && w->nearer[known].row < w->positions[i])
            known++;
        int again = known < asked->first_count && w->nearer[known].row == w->positions[i];
        w->positions[left] = w->positions[i];
        left += !again;
    }
    return left;
}

/* The rows that may be as near as the rank by their codes, in w->positions. Returns how many. */
static int find_candidates(const neighbour_tiles *t, workplace *w, const asked_row *asked)
{
    vector_metric metric = t->version->metric;
    float worst = metric == METRIC_KIND_L2 ? asked->rank : -asked->rank;
    double bound = sketch_row_bound(t->rows, metric, asked->norm, worst);
    int32_t limit = sketch_pair_limit(t->rows, bound), limits[LINES_MOST];
    const query_sketch *query = asked->query ? asked->query : asked->row;
    int count = 0, lines = sketch_lines(t->rows);
    for (int at = kernel_next_within(asked->least, 0, t->groups, limit); at < t->groups;
         at = kernel_next_within(asked->least, at + 1, t->groups, limit))
        count += list_group(t, at, w->positions + count);
    if (asked->query)
        bound = sketch_bound(t->rows, query, worst);
    for (int line = 0; line < lines; line++)
        limits[line] = sketch_limit(t->rows, query, line, bound);
    return keep_within(t, w, query, limits, lines, count);
}

/* |x|, or a little more. */
static double norm_of(const float *x, int dimension)
{
    double sum = 0;
    for (int i = 0; i < dimension; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum) * (1 + 1e-9);
}

/* Score the other rows that may be as near as the rank, into w->scored: *scored with those that
** are there. Returns a result code; SQLITE_DONE where there are too many. */
static int score_candidates(const neighbour_tiles *t, workplace *w, const asked_row *asked,
                            int *scored)
{
    int count = find_candidates(t, w, asked);
    if (count + t->outlier_count > t->most)
        return SQLITE_DONE;
    count = leave_out_scored(w, asked, count);
    int rc = score(t, w, asked->position, count, asked->rank, scored);
    memcpy(w->positions, t->outliers, (size_t)t->outlier_count * sizeof *t->outliers);
    return rc == SQLITE_OK ? score(t, w, asked->position, t->outlier_count, asked->rank, scored)
                           : rc;
}

/* Write the nearest k of the rows scored. */
static void write_hits(const neighbour_tiles *t, workplace *w, int scored, index_hit *hits)
{
    const index_version *v = t->version;
    qsort(w->scored, (size_t)scored, sizeof *w->scored, compare_scored_rows);
    for (int i = 0; i < t->k; i++) {
        hits[i] = index_row(v, w->scored[i].position);
        hits[i].score = v->metric == METRIC_KIND_L2 ? w->scored[i].rank : -w->scored[i].rank;
    }
}

/* Find the radius of a row, and score what may be within it: *scored of them, 0 where it must be
** searched alone. */
static int look_around(neighbour_tiles *t, workplace *w, asked_row *asked, int *scored)
{
    const index_version *v = t->version;
    int s, slot;
    index_locate(v, asked->position, &s, &slot);
    const float *x = segment_vector(v->segments[s], slot);
    asked->norm = norm_of(x, v->dimension);
    int rc = query_sketch_of_row(t->rows, (int)asked->position, &asked->row);
    if (rc == SQLITE_OK && v->metric == METRIC_KIND_IP)
        rc = query_sketch_new(sketch_basis(t->rows), v->metric, x, &asked->query);
    if (rc == SQLITE_OK) {
        asked->first_count = find_first(t, w, asked->least, asked->row);
        rc = find_rank(t, w, asked, scored);
    }
    if (rc == SQLITE_OK && !isfinite(asked->rank))
        *scored = 0;
    else if (rc == SQLITE_OK)
        rc = score_candidates(t, w, asked, scored);
    query_sketch_free(asked->row);
    query_sketch_free(asked->query);
    return rc;
}

/* The neighbours of one row, from the distances of the groups to it: k of them in `hits`.
** *answered stays 0 where it must be searched alone. */
static int answer(neighbour_tiles *t, workplace *w, int64_t position, const int32_t *least,
                  index_hit *hits, char *answered)
{
    asked_row asked = {.position = position, .least = least};
    int scored = 0, rc = look_around(t, w, &asked, &scored);
    if (rc == SQLITE_DONE) {
        atomic_fetch_add(&t->futile, 1);
        return SQLITE_OK;
    }
    if (rc != SQLITE_OK || scored < t->k)
        return rc;
    write_hits(t, w, scored, hits);
    *answered = 1;
    return SQLITE_OK;
}

/* ---- blocks ---- */

/* The rows of a tile: a workers_work. */
static void fill_tile(void *argument, int part, int thread, workers_task *task)
{
    neighbour_tiles *t = argument;
    workplace *w = &t->places[thread];
    const uint8_t *outliers = sketch_outliers(t->rows);
    const int8_t *codes[TILE_QUERIES];
    int64_t begin = (int64_t)part * TILE_QUERIES, queries[TILE_QUERIES];
    int count = 0, rc = SQLITE_OK;
    for (int64_t i = begin; i < begin + TILE_QUERIES && i < t->count; i++) {
        int8_t *code = w->codes + (size_t)count * (size_t)t->width;
        if (outliers && outliers[t->first + i])
            continue;
        sketch_pair_codes(t->rows, (int)(t->first + i), 1, code);
        codes[count] = code;
        queries[count++] = i;
    }
    tile_pack_queries(codes, count, t->width, w->queries);
    if (!compare(t, w, count, thread, task))
        return;
    for (int i = 0; rc != SQLITE_NOMEM && i < count; i++) {
        rc = answer(t, w, t->first + queries[i], w->least + (size_t)i * (size_t)t->groups,
                    t->hits + queries[i] * t->k, &t->answered[queries[i]]);
        if (workers_should_stop(task, thread))
            return;
    }
    if (rc == SQLITE_NOMEM) /* a row that fails otherwise is searched alone, for the message */
        atomic_store(&t->failure, rc);
}

int neighbour_tiles_fill(neighbour_tiles *t, int64_t first, int64_t *rows, char **message)
{
    const index_version *v = t->version;
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
    return t->answered[i] ? t->hits + i * t->k : NULL;
}
