#include "neighbour_tiles.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "tiles.h"
#include "workers.h"

enum {
    TILE_QUERIES = 128,      /* rows that are compared with all others together */
    TILES_MOST = 16,         /* in a block */
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

enum { CODES_MOST = TILE_QUERIES }; /* and no fewer than TILE_ROWS */
_Static_assert((int)CODES_MOST >= (int)TILE_ROWS, "codes of a block fit");

/* What one thread works with. */
typedef struct workplace {
    void *queries, *rows; /* packed */
    int32_t *least;       /* of each query and group */
    integer_row *first;   /* the nearest groups, and then rows */
    int64_t *slots;       /* candidates of one segment … */
    float *scores;        /* … and their scores */
    int32_t *distances;   /* … and how near they may be */
    int64_t *groups;      /* of one segment */
    scored_row *scored;
    int8_t *codes; /* of rows of a block, or of queries of a tile */
    int16_t *wide; /* a query's code, times KERNEL_FINER */
} workplace;

struct neighbour_tiles {
    index_version *version;
    vector_reader reader;
    int k, threads;
    int largest;             /* rows of a segment */
    int most;                /* candidates that are worth scoring */
    int width;               /* of the codes */
    const sketch **sketches; /* of each segment, held while a block is filled; NULL for none */
    int64_t *starts;         /* the first group of each segment */
    int64_t groups;
    workplace *places;   /* of each thread */
    index_hit *hits;     /* k for each row of the block */
    char *answered;      /* 1 for each row that has them */
    int64_t first, rows; /* the block */
    atomic_int futile;   /* rows with too many candidates */
    atomic_int failure;  /* SQLITE_NOMEM, or SQLITE_OK */
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

static int64_t blocks_of(int rows)
{
    return (rows + TILE_ROWS - 1) / TILE_ROWS;
}

/* Rows whose integer distances are looked at for the radius. */
static int first_rows(const neighbour_tiles *t)
{
    return (t->k + 1 + SPARE) * TILE_GROUP;
}

static int workplace_open(const neighbour_tiles *t, workplace *w)
{
    int64_t candidates = t->most + t->largest;
    *w = (workplace){.queries = sqlite3_malloc64(tile_queries_bytes(TILE_QUERIES, TILE_WIDTH_MOST)),
                     .rows = sqlite3_malloc64(tile_rows_bytes(TILE_WIDTH_MOST)),
                     .least = room_for(t->groups * TILE_QUERIES, sizeof *w->least),
                     .first = room_for(first_rows(t), sizeof *w->first),
                     .slots = room_for(candidates + TILE_GROUP, sizeof *w->slots),
                     .scores = room_for(candidates, sizeof *w->scores),
                     .distances = room_for(candidates + TILE_GROUP, sizeof *w->distances),
                     .groups = room_for(blocks_of(t->largest) * TILE_LANES, sizeof *w->groups),
                     .scored = room_for(t->most + first_rows(t), sizeof *w->scored),
                     .codes = room_for(CODES_MOST, TILE_WIDTH_MOST),
                     .wide = room_for(TILE_WIDTH_MOST, sizeof *w->wide)};
    return w->queries && w->rows && w->least && w->first && w->slots && w->scores && w->distances &&
                   w->groups && w->scored && w->codes && w->wide
               ? SQLITE_OK
               : SQLITE_NOMEM;
}

static void workplace_close(workplace *w)
{
    sqlite3_free(w->queries);
    sqlite3_free(w->rows);
    sqlite3_free(w->least);
    sqlite3_free(w->first);
    sqlite3_free(w->slots);
    sqlite3_free(w->scores);
    sqlite3_free(w->distances);
    sqlite3_free(w->groups);
    sqlite3_free(w->scored);
    sqlite3_free(w->codes);
    sqlite3_free(w->wide);
}

static void measure(neighbour_tiles *t)
{
    const index_version *v = t->version;
    for (int s = 0; s < v->segment_count; s++) {
        int rows = segment_count(v->segments[s]);
        t->starts[s] = t->groups;
        t->groups += blocks_of(rows) * TILE_LANES;
        t->largest = rows > t->largest ? rows : t->largest;
    }
    t->most = (int)(v->rows / CANDIDATES_SHARE);
    if (t->most < CANDIDATES_LEAST)
        t->most = CANDIDATES_LEAST;
}

static int64_t rows_of_block(const neighbour_tiles *t)
{
    int tiles = t->threads < TILES_MOST ? t->threads : TILES_MOST;
    return (int64_t)tiles * TILE_QUERIES;
}

int neighbour_tiles_open(index_version *v, int64_t k, const vector_reader *reader,
                         neighbour_tiles **out)
{
    *out = NULL;
    if (k < 1 || k > K_MOST || k >= v->rows || v->slots > INT32_MAX || !segments_have_vectors(v) ||
        !index_walks_by_sketches(v))
        return SQLITE_OK;
    neighbour_tiles *t = sqlite3_malloc64(sizeof *t);
    if (!t)
        return SQLITE_NOMEM;
    memset(t, 0, sizeof *t);
    t->version = v;
    t->reader = *reader;
    t->k = (int)k;
    t->threads = reader->threads > 1 ? reader->threads : 1;
    t->sketches = room_for(v->segment_count, sizeof *t->sketches);
    t->starts = room_for(v->segment_count, sizeof *t->starts);
    t->places = room_for(t->threads, sizeof *t->places);
    t->hits = room_for(rows_of_block(t) * k, sizeof *t->hits);
    t->answered = room_for(rows_of_block(t), sizeof *t->answered);
    int rc =
        t->sketches && t->starts && t->places && t->hits && t->answered ? SQLITE_OK : SQLITE_NOMEM;
    if (t->places)
        memset(t->places, 0, ((size_t)t->threads + 1) * sizeof *t->places);
    if (rc == SQLITE_OK)
        measure(t);
    for (int i = 0; rc == SQLITE_OK && i < t->threads; i++)
        rc = workplace_open(t, &t->places[i]);
    if (rc == SQLITE_OK)
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
    sqlite3_free(t->sketches);
    sqlite3_free(t->starts);
    sqlite3_free(t->places);
    sqlite3_free(t->hits);
    sqlite3_free(t->answered);
    sqlite3_free(t);
}

/* ---- integer distances ---- */

/* Write the code of a row; NULL where it has none. */
static const int8_t *code_of(const neighbour_tiles *t, int64_t position, int8_t *code)
{
    int s, slot;
    index_locate(t->version, position, &s, &slot);
    const sketch *own = t->sketches[s];
    if (!own || (sketch_outliers(own) && sketch_outliers(own)[slot]))
        return NULL;
    sketch_pair_codes(own, NULL, slot, 1, code);
    return code;
}

/* Compare `count` packed queries with all rows. Returns whether it came to the end. */
static int compare(const neighbour_tiles *t, workplace *w, int count, int thread,
                   workers_task *task)
{
    const index_version *v = t->version;
    for (int s = 0; s < v->segment_count; s++) {
        const sketch *own = t->sketches[s];
        int rows = segment_count(v->segments[s]);
        for (int begin = 0; own && begin < rows; begin += TILE_ROWS) {
            const uint8_t *outliers = sketch_outliers(own);
            int n = rows - begin < TILE_ROWS ? rows - begin : TILE_ROWS;
            sketch_pair_codes(own, NULL, begin, n, w->codes);
            tile_pack_rows(w->codes, n, t->width, outliers ? outliers + begin : NULL, w->rows);
            tile_least(w->queries, count, w->rows, t->width,
                       w->least + t->starts[s] + begin / TILE_GROUP, (size_t)t->groups);
        }
        if (workers_should_stop(task, thread))
            return 0;
    }
    return 1;
}

/* The i-th row of a group, as a slot of its segment. */
static int slot_of(int64_t group, int i)
{
    return (int)(group / TILE_LANES * TILE_ROWS + i * TILE_LANES + group % TILE_LANES);
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

/* The `most` groups whose nearest rows are nearest, in no order. Returns how many there are. */
static int find_groups(const neighbour_tiles *t, const int32_t *least, integer_row *heap, int most)
{
    const index_version *v = t->version;
    int count = 0;
    for (int i = 0; i < most; i++)
        heap[i] = (integer_row){TILE_FAR, -1};
    for (int s = 0; s < v->segment_count; s++) {
        int n = t->sketches[s] ? (int)blocks_of(segment_count(v->segments[s])) * TILE_LANES : 0;
        const int32_t *own = least + t->starts[s];
        for (int at = -1;;) {
            at = kernel_next_within(own, at + 1, n, heap[0].distance - 1);
            if (at == n)
                break;
            replace_first(heap, most, (integer_row){own[at], (int32_t)(t->starts[s] + at)});
        }
    }
    for (int i = 0; i < most; i++) {
        if (heap[i].row >= 0)
            heap[count++] = heap[i];
    }
    return count;
}

static int compare_integer_rows(const void *left, const void *right)
{
    const integer_row *a = left, *b = right;
    if (a->distance != b->distance)
        return a->distance < b->distance ? -1 : 1;
    return a->row - b->row;
}

/* The segment that a group belongs to. */
static int segment_of(const neighbour_tiles *t, int32_t group)
{
    int low = 0, high = t->version->segment_count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (t->starts[middle] <= group)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* The nearest rows of the nearest groups, by integer distances, nearest first: positions in
** w->first. Returns how many. */
static int find_first(const neighbour_tiles *t, workplace *w, const int32_t *least)
{
    const index_version *v = t->version;
    int most = t->k + 1 + SPARE, count = 0;
    /* The groups stand at the end of the room, the rows are written from its beginning. */
    integer_row *heap = w->first + first_rows(t) - most;
    int groups = find_groups(t, least, heap, most);
    for (int i = 0; i < groups; i++) {
        integer_row group = heap[i];
        int s = segment_of(t, group.row);
        const sketch *own = t->sketches[s];
        for (int j = 0; j < TILE_GROUP; j++) {
            int slot = slot_of(group.row - t->starts[s], j);
            if (slot >= segment_count(v->segments[s]) ||
                (sketch_outliers(own) && sketch_outliers(own)[slot]))
                continue;
            integer_row *row = &w->first[count++];
            sketch_pair_codes(own, NULL, slot, 1, w->codes);
            kernel_distances(w->codes, 1, t->width, w->wide, &row->distance);
            row->row = (int32_t)(v->starts[s] + slot);
        }
    }
    qsort(w->first, (size_t)count, sizeof *w->first, compare_integer_rows);
    return count < most ? count : most;
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

/* Have vectors that lie apart fetched from memory, all at once. */
static void fetch(const segment *s, int dimension, const int64_t *slots, int count)
{
    enum { LINE = 64 / sizeof(float) };
    for (int i = 0; i < count; i++) {
        const float *x = segment_vector(s, (int)slots[i]);
        for (int at = 0; at < dimension; at += LINE)
            __builtin_prefetch(x + at);
    }
}

/* Score w->slots of a segment; append those but the query that are as near as `rank`. */
static int score(const neighbour_tiles *t, workplace *w, int64_t query, int s, int count,
                 float rank, int *scored)
{
    const index_version *v = t->version;
    int own, slot;
    index_locate(v, query, &own, &slot);
    char *message = NULL;
    fetch(v->segments[s], v->dimension, w->slots, count < FETCHED_MOST ? count : FETCHED_MOST);
    int rc = segment_scores(v->segments[s], NULL, segment_vector(v->segments[own], slot), w->slots,
                            count, w->scores, &message);
    sqlite3_free(message);
    for (int i = 0; rc == SQLITE_OK && i < count; i++) {
        float found = walk_rank_of(v->metric, w->scores[i]);
        int64_t position = v->starts[s] + w->slots[i];
        if (found <= rank && position != query)
            w->scored[(*scored)++] = (scored_row){found, (int32_t)position};
    }
    return rc;
}

/* Score the first `count` rows of w->first, and find the k-th rank of them: infinite, or NaN,
** where that is no radius. */
static int find_rank(const neighbour_tiles *t, workplace *w, int64_t query, int count, float *rank)
{
    const index_version *v = t->version;
    int scored = 0, rc = SQLITE_OK;
    qsort(w->first, (size_t)count, sizeof *w->first, compare_positions);
    for (int next = 0; rc == SQLITE_OK && next < count;) {
        int s, slot, n = 0;
        index_locate(v, w->first[next].row, &s, &slot);
        int64_t end = v->starts[s] + segment_count(v->segments[s]);
        for (; next < count && w->first[next].row < end; next++)
            w->slots[n++] = w->first[next].row - v->starts[s];
        rc = score(t, w, query, s, n, INFINITY, &scored);
    }
    qsort(w->scored, (size_t)scored, sizeof *w->scored, compare_scored_rows);
    *rank = scored >= t->k ? w->scored[t->k - 1].rank : INFINITY;
    return rc;
}

/* Of the first `count` of w->slots keep those that may be within a bound, going on from line to
** line of their codes; returns how many. */
static int keep_within(workplace *w, const sketch *own, const query_sketch *query, double bound,
                       int count)
{
    sketch_distances_at(own, query, w->slots, count, w->distances);
    count = kernel_keep(w->slots, w->distances, count, sketch_limit(own, query, 0, bound));
    for (int line = 1; line < sketch_lines(own); line++)
        count = sketch_go_on(own, query, line, bound, w->slots, w->distances, count);
    return count;
}

/* A row whose neighbours are looked for, and how near they must be. */
typedef struct asked_row {
    int64_t position;
    const sketch *of;     /* its segment's */
    const int32_t *least; /* distances of the groups to it */
    query_sketch *query;  /* the same row, rounded less */
    double norm;
    float rank;
} asked_row;

/* The slots of a segment with a sketch that may be as near as the rank, in w->slots. Returns
** how many. */
static int find_candidates(const neighbour_tiles *t, workplace *w, int s, const asked_row *asked)
{
    const sketch *own = t->sketches[s];
    vector_metric metric = t->version->metric;
    float worst = metric == METRIC_KIND_L2 ? asked->rank : -asked->rank;
    const uint8_t *outliers = sketch_outliers(own);
    int rows = segment_count(t->version->segments[s]), count = 0;
    int32_t limit =
        sketch_pair_limit(own, asked->of, sketch_row_bound(own, metric, asked->norm, worst));
    int groups =
        kernel_places_within(asked->least + t->starts[s], (int)blocks_of(rows) * TILE_LANES,
                             limit / (KERNEL_FINER * KERNEL_FINER), w->groups);
    for (int i = 0; i < groups; i++) {
        for (int j = 0; j < TILE_GROUP; j++) {
            int slot = slot_of(w->groups[i], j);
            w->slots[count] = slot;
            count += slot < rows && !(outliers && outliers[slot]);
        }
    }
    count = keep_within(w, own, asked->query, sketch_bound(own, asked->query, worst), count);
    for (int slot = 0; outliers && slot < rows; slot++) {
        w->slots[count] = slot;
        count += outliers[slot];
    }
    return count;
}

/* All slots of a segment. */
static int list_all(int rows, int64_t *slots)
{
    for (int slot = 0; slot < rows; slot++)
        slots[slot] = slot;
    return rows;
}

/* |x|, or a little more. */
static double norm_of(const float *x, int dimension)
{
    double sum = 0;
    for (int i = 0; i < dimension; i++)
        sum += (double)x[i] * (double)x[i];
    return sqrt(sum) * (1 + 1e-9);
}

/* Score the rows that may be as near as the rank, into w->scored: *scored of them. Returns a
** result code; SQLITE_DONE where there are too many. */
static int score_candidates(const neighbour_tiles *t, workplace *w, const asked_row *asked,
                            int *scored)
{
    const index_version *v = t->version;
    int candidates = 0, rc = SQLITE_OK;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        int n = t->sketches[s] ? find_candidates(t, w, s, asked)
                               : list_all(segment_count(v->segments[s]), w->slots);
        candidates += n;
        if (candidates > t->most)
            return SQLITE_DONE;
        if (n)
            rc = score(t, w, asked->position, s, n, asked->rank, scored);
    }
    return rc;
}

/* The neighbours of one row, from the distances of the groups to it: k of them in `hits`.
** *answered stays 0 where it must be searched alone. */
static int answer(neighbour_tiles *t, workplace *w, int64_t position, const int32_t *least,
                  index_hit *hits, char *answered)
{
    const index_version *v = t->version;
    const int8_t *code = code_of(t, position, w->codes);
    int s, slot, scored = 0;
    index_locate(v, position, &s, &slot);
    asked_row asked = {.position = position, .of = t->sketches[s], .least = least};
    for (int i = 0; i < t->width; i++)
        w->wide[i] = (int16_t)(code[i] * KERNEL_FINER);
    int rc = find_rank(t, w, position, find_first(t, w, least), &asked.rank);
    if (rc != SQLITE_OK || !isfinite(asked.rank))
        return rc;
    const float *x = segment_vector(v->segments[s], slot);
    asked.norm = norm_of(x, v->dimension);
    rc = query_sketch_new(sketch_basis(asked.of), v->metric, x, &asked.query);
    if (rc == SQLITE_OK)
        rc = score_candidates(t, w, &asked, &scored);
    query_sketch_free(asked.query);
    if (rc == SQLITE_DONE) {
        atomic_fetch_add(&t->futile, 1);
        return SQLITE_OK;
    }
    if (rc != SQLITE_OK || scored < t->k)
        return rc;
    qsort(w->scored, (size_t)scored, sizeof *w->scored, compare_scored_rows);
    for (int i = 0; i < t->k; i++) {
        hits[i] = index_row(v, w->scored[i].position);
        hits[i].score = v->metric == METRIC_KIND_L2 ? w->scored[i].rank : -w->scored[i].rank;
    }
    *answered = 1;
    return SQLITE_OK;
}

/* ---- blocks ---- */

/* The rows of a tile: a workers_work. */
static void fill_tile(void *argument, int part, int thread, workers_task *task)
{
    neighbour_tiles *t = argument;
    workplace *w = &t->places[thread];
    const int8_t *codes[TILE_QUERIES];
    int64_t begin = (int64_t)part * TILE_QUERIES, queries[TILE_QUERIES];
    int count = 0, rc = SQLITE_OK;
    for (int64_t i = begin; i < begin + TILE_QUERIES && i < t->rows; i++) {
        const int8_t *code = code_of(t, t->first + i, w->codes + (size_t)count * TILE_WIDTH_MOST);
        if (!code)
            continue;
        codes[count] = code;
        queries[count++] = i;
    }
    tile_pack_queries(codes, count, t->width, w->queries);
    if (!compare(t, w, count, thread, task))
        return;
    for (int i = 0; rc != SQLITE_NOMEM && i < count; i++) {
        rc = answer(t, w, t->first + queries[i], w->least + i * t->groups,
                    t->hits + queries[i] * t->k, &t->answered[queries[i]]);
        if (workers_should_stop(task, thread))
            return;
    }
    if (rc == SQLITE_NOMEM) /* a row that fails otherwise is searched alone, for the message */
        atomic_store(&t->failure, rc);
}

/* Hold the sketches of one basis. Returns whether enough rows have one. */
static int hold_sketches(neighbour_tiles *t)
{
    const index_version *v = t->version;
    const basis *common = NULL;
    int64_t plain = 0;
    for (int s = 0; s < v->segment_count; s++) {
        const sketch *own = segment_hold_sketch(v->segments[s]);
        common = own && !common ? sketch_basis(own) : common;
        t->sketches[s] = own && sketch_basis(own) == common ? own : NULL;
        if (t->sketches[s])
            t->width = sketch_pair_width(own);
        else
            plain += segment_count(v->segments[s]);
    }
    return common && plain <= PLAIN_ROWS_MOST && plain < v->rows / 8 &&
           t->width <= TILE_WIDTH_MOST && t->width % 4 == 0;
}

int neighbour_tiles_fill(neighbour_tiles *t, int64_t first, int64_t *rows, char **message)
{
    const index_version *v = t->version;
    int64_t most = rows_of_block(t);
    t->first = first;
    t->rows = v->rows - first < most ? v->rows - first : most;
    memset(t->answered, 0, (size_t)t->rows);
    atomic_store(&t->futile, 0);
    atomic_store(&t->failure, SQLITE_OK);
    int pays = hold_sketches(t), rc = SQLITE_OK;
    if (pays) {
        int parts = (int)((t->rows + TILE_QUERIES - 1) / TILE_QUERIES);
        unsigned entered = workers_enter();
        rc = workers_run(t->threads, parts, fill_tile, t, &t->reader, message);
        workers_leave(entered);
    }
    for (int s = 0; s < v->segment_count; s++)
        segment_let_go_sketch(v->segments[s]);
    if (rc == SQLITE_OK)
        rc = atomic_load(&t->failure);
    pays = pays && atomic_load(&t->futile) <= t->rows / FUTILE_SHARE;
    *rows = rc == SQLITE_OK && pays ? t->rows : 0;
    return rc;
}

const index_hit *neighbour_tiles_row(const neighbour_tiles *t, int64_t i)
{
    return t->answered[i] ? t->hits + i * t->k : NULL;
}
