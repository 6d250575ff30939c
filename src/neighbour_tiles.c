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
    int64_t *slots;             /* candidates of one segment … */
    float *scores;              /* … and their scores */
    int32_t *distances;         /* … and how near they may be */
    scored_row *scored;
} workplace;

struct neighbour_tiles {
    index_version *version;
    vector_reader reader;
    int k, threads, held;
    int tiles;               /* of the next block */
    int largest;             /* rows of a segment */
    int most;                /* candidates that are worth scoring */
    int width;               /* of the codes */
    const sketch **sketches; /* of each segment, held; NULL for none, … */
    void **packed;           /* … their codes, packed … */
    int64_t *starts;         /* … and the first group of each segment */
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

/* Rows that are scored for the radius, and groups where they are looked for. */
static int first_rows(const neighbour_tiles *t)
{
    return t->k + 1 + SPARE;
}

static int workplace_open(const neighbour_tiles *t, workplace *w)
{
    int64_t candidates = t->most + t->largest;
    *w = (workplace){.queries = sqlite3_malloc64(tile_queries_bytes(TILE_QUERIES, t->width)),
                     .codes = room_for(TILE_QUERIES, (size_t)t->width + SKETCH_PAIR_SPARE),
                     .least = room_for(t->groups * TILE_QUERIES, sizeof *w->least),
                     .near = room_for(first_rows(t), sizeof *w->near),
                     .nearer = room_for(first_rows(t), sizeof *w->nearer),
                     .slots = room_for(candidates + TILE_GROUP, sizeof *w->slots),
                     .scores = room_for(candidates, sizeof *w->scores),
                     .distances = room_for(candidates + TILE_GROUP, sizeof *w->distances),
                     .scored = room_for(t->most + first_rows(t), sizeof *w->scored)};
    return w->queries && w->codes && w->least && w->near && w->nearer && w->slots && w->scores &&
                   w->distances && w->scored
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
    sqlite3_free(w->slots);
    sqlite3_free(w->scores);
    sqlite3_free(w->distances);
    sqlite3_free(w->scored);
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

/* Rows of the largest block. */
static int64_t rows_of_block(const neighbour_tiles *t)
{
    return (int64_t)(t->threads > 1 ? TILES_MOST : 1) * TILE_QUERIES;
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
    t->held = 1;
    return common && plain <= PLAIN_ROWS_MOST && plain < v->rows / 8 &&
           t->width <= TILE_WIDTH_MOST && t->width % 4 == 0;
}

/* Pack the codes of a segment, block after block. */
static int pack_segment(neighbour_tiles *t, int s)
{
    const sketch *own = t->sketches[s];
    const uint8_t *outliers = sketch_outliers(own);
    int rows = segment_count(t->version->segments[s]);
    int8_t *codes = room_for(TILE_ROWS, (size_t)t->width + SKETCH_PAIR_SPARE);
    t->packed[s] = sqlite3_malloc64((size_t)blocks_of(rows) * tile_rows_bytes(t->width) + 1);
    int rc = codes && t->packed[s] ? SQLITE_OK : SQLITE_NOMEM;
    char *packed = t->packed[s];
    for (int begin = 0; rc == SQLITE_OK && begin < rows; begin += TILE_ROWS) {
        int n = rows - begin < TILE_ROWS ? rows - begin : TILE_ROWS;
        sketch_pair_codes(own, NULL, begin, n, codes);
        tile_pack_rows(codes, n, t->width, outliers ? outliers + begin : NULL, packed);
        packed += tile_rows_bytes(t->width);
    }
    sqlite3_free(codes);
    return rc;
}

/* Pack all codes, and make room for threads. */
static int make_ready(neighbour_tiles *t, char **message)
{
    int rc = SQLITE_OK;
    measure(t);
    for (int s = 0; rc == SQLITE_OK && s < t->version->segment_count; s++) {
        if (t->sketches[s])
            rc = pack_segment(t, s);
        if (rc == SQLITE_OK && t->reader.check)
            rc = t->reader.check(t->reader.argument, message);
    }
    for (int i = 0; rc == SQLITE_OK && i < t->threads; i++)
        rc = workplace_open(t, &t->places[i]);
    return rc;
}

int neighbour_tiles_open(index_version *v, int64_t k, const vector_reader *reader,
                         neighbour_tiles **out, char **message)
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
    t->tiles = t->threads < TILES_MOST ? t->threads : TILES_MOST;
    t->sketches = room_for(v->segment_count, sizeof *t->sketches);
    t->packed = room_for(v->segment_count, sizeof *t->packed);
    t->starts = room_for(v->segment_count, sizeof *t->starts);
    t->places = room_for(t->threads, sizeof *t->places);
    t->hits = room_for(rows_of_block(t) * k, sizeof *t->hits);
    t->answered = room_for(rows_of_block(t), sizeof *t->answered);
    int rc = t->sketches && t->packed && t->starts && t->places && t->hits && t->answered
                 ? SQLITE_OK
                 : SQLITE_NOMEM;
    if (t->packed)
        memset(t->packed, 0, ((size_t)v->segment_count + 1) * sizeof *t->packed);
    if (t->places)
        memset(t->places, 0, ((size_t)t->threads + 1) * sizeof *t->places);
    int pays = rc == SQLITE_OK && hold_sketches(t);
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
    for (int s = 0; s < t->version->segment_count; s++) {
        if (t->held)
            segment_let_go_sketch(t->version->segments[s]);
        if (t->packed)
            sqlite3_free(t->packed[s]);
    }
    sqlite3_free(t->sketches);
    sqlite3_free(t->packed);
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
        int64_t blocks = t->sketches[s] ? blocks_of(segment_count(v->segments[s])) : 0;
        const char *packed = t->packed[s];
        for (int64_t i = 0; i < blocks; i++)
            tile_least(w->queries, count, packed + (size_t)i * tile_rows_bytes(t->width), t->width,
                       w->least + t->starts[s] + i * TILE_LANES, (size_t)t->groups);
        if (workers_should_stop(task, thread))
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

/* The `most` groups whose nearest rows are nearest, in no order. Returns how many there are. */
static int find_groups(const neighbour_tiles *t, const int32_t *least, integer_row *heap, int most)
{
    const index_version *v = t->version;
    empty(heap, most);
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
    return close_ranks(heap, most);
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

/* The slots of a group that have a code; returns how many. */
static int list_group(const neighbour_tiles *t, int s, int64_t group, int64_t *slots)
{
    const uint8_t *outliers = sketch_outliers(t->sketches[s]);
    int64_t begin = group * TILE_GROUP, rows = segment_count(t->version->segments[s]);
    int count = 0;
    for (int64_t slot = begin; slot < begin + TILE_GROUP && slot < rows; slot++) {
        slots[count] = slot;
        count += !(outliers && outliers[slot]);
    }
    return count;
}

/* The nearest rows of the nearest groups, by integer distances of all lines: positions in
** w->nearer, in no order. Returns how many. */
static int find_first(const neighbour_tiles *t, workplace *w, const int32_t *least,
                      const query_sketch *query)
{
    int most = first_rows(t), groups = find_groups(t, least, w->near, most);
    empty(w->nearer, most);
    for (int i = 0; i < groups; i++) {
        int s = segment_of(t, w->near[i].row);
        const sketch *own = t->sketches[s];
        int64_t slots[TILE_GROUP];
        int32_t distances[TILE_GROUP];
        int count = list_group(t, s, w->near[i].row - t->starts[s], slots);
        sketch_distances_at(own, query, slots, count, distances);
        for (int line = 1; line < sketch_lines(own); line++)
            sketch_go_on(own, query, line, INFINITY, slots, distances, count);
        for (int j = 0; j < count; j++) {
            integer_row row = {distances[j], (int32_t)(t->version->starts[s] + slots[j])};
            if (row.distance < w->nearer[0].distance)
                replace_first(w->nearer, most, row);
        }
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

/* A row whose neighbours are looked for, and how near they must be. */
typedef struct asked_row {
    int64_t position;
    const sketch *of;     /* its segment's */
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
    const index_version *v = t->version;
    int all = 0, count = asked->first_count, rc = SQLITE_OK;
    qsort(w->nearer, (size_t)count, sizeof *w->nearer, compare_positions);
    for (int next = 0; rc == SQLITE_OK && next < count;) {
        int s, slot, n = 0;
        index_locate(v, w->nearer[next].row, &s, &slot);
        int64_t end = v->starts[s] + segment_count(v->segments[s]);
        for (; next < count && w->nearer[next].row < end; next++)
            w->slots[n++] = w->nearer[next].row - v->starts[s];
        rc = score(t, w, asked->position, s, n, INFINITY, &all);
    }
    qsort(w->scored, (size_t)all, sizeof *w->scored, compare_scored_rows);
    asked->rank = all >= t->k ? w->scored[t->k - 1].rank : INFINITY;
    for (*scored = all; *scored > 0 && w->scored[*scored - 1].rank > asked->rank;)
        --*scored;
    return rc;
}

/* Of `count` of w->slots of a segment leave out those scored already; returns how many are
** left. */
static int leave_out_scored(const neighbour_tiles *t, workplace *w, const asked_row *asked, int s,
                            int count)
{
    int left = 0;
    for (int i = 0; i < count; i++) {
        integer_row row = {.row = (int32_t)(t->version->starts[s] + w->slots[i])};
        int known = bsearch(&row, w->nearer, (size_t)asked->first_count, sizeof row,
                            compare_positions) != NULL;
        w->slots[left] = w->slots[i];
        left += !known;
    }
    return left;
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

/* The slots of a segment with a sketch that may be as near as the rank, in w->slots. Returns
** how many. */
static int find_candidates(const neighbour_tiles *t, workplace *w, int s, const asked_row *asked)
{
    const sketch *own = t->sketches[s];
    vector_metric metric = t->version->metric;
    float worst = metric == METRIC_KIND_L2 ? asked->rank : -asked->rank;
    const uint8_t *outliers = sketch_outliers(own);
    int rows = segment_count(t->version->segments[s]), count = 0;
    double bound = sketch_row_bound(own, metric, asked->norm, worst);
    int32_t limit = sketch_pair_limit(own, asked->of, bound);
    int groups = (int)blocks_of(rows) * TILE_LANES;
    const int32_t *least = asked->least + t->starts[s];
    limit /= KERNEL_FINER * KERNEL_FINER;
    for (int at = kernel_next_within(least, 0, groups, limit); at < groups;
         at = kernel_next_within(least, at + 1, groups, limit))
        count += list_group(t, s, at, w->slots + count);
    if (asked->query)
        count = keep_within(w, own, asked->query, sketch_bound(own, asked->query, worst), count);
    else
        count = keep_within(w, own, asked->row, bound, count);
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

/* Score the other rows that may be as near as the rank, into w->scored: *scored with those that
** are there. Returns a result code; SQLITE_DONE where there are too many. */
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
        n = leave_out_scored(t, w, asked, s, n);
        if (n)
            rc = score(t, w, asked->position, s, n, asked->rank, scored);
    }
    return rc;
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
    asked->of = t->sketches[s];
    asked->norm = norm_of(x, v->dimension);
    int rc = query_sketch_of_row(asked->of, slot, &asked->row);
    if (rc == SQLITE_OK && v->metric == METRIC_KIND_IP)
        rc = query_sketch_new(sketch_basis(asked->of), v->metric, x, &asked->query);
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
    const int8_t *codes[TILE_QUERIES];
    int64_t begin = (int64_t)part * TILE_QUERIES, queries[TILE_QUERIES];
    int count = 0, rc = SQLITE_OK;
    for (int64_t i = begin; i < begin + TILE_QUERIES && i < t->rows; i++) {
        const int8_t *code = code_of(t, t->first + i, w->codes + (size_t)count * (size_t)t->width);
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

int neighbour_tiles_fill(neighbour_tiles *t, int64_t first, int64_t *rows, char **message)
{
    const index_version *v = t->version;
    int64_t most = (int64_t)t->tiles * TILE_QUERIES;
    if (t->threads > 1 && t->tiles < TILES_MOST) /* where few rows are read, few are answered */
        t->tiles = 2 * t->tiles < TILES_MOST ? 2 * t->tiles : TILES_MOST;
    t->first = first;
    t->rows = v->rows - first < most ? v->rows - first : most;
    memset(t->answered, 0, (size_t)t->rows);
    atomic_store(&t->futile, 0);
    atomic_store(&t->failure, SQLITE_OK);
    int parts = (int)((t->rows + TILE_QUERIES - 1) / TILE_QUERIES);
    unsigned entered = workers_enter();
    int rc = workers_run(t->threads, parts, fill_tile, t, &t->reader, message);
    workers_leave(entered);
    if (rc == SQLITE_OK)
        rc = atomic_load(&t->failure);
    int pays = atomic_load(&t->futile) <= t->rows / FUTILE_SHARE;
    *rows = rc == SQLITE_OK && pays ? t->rows : 0;
    return rc;
}

const index_hit *neighbour_tiles_row(const neighbour_tiles *t, int64_t i)
{
    return t->answered[i] ? t->hits + i * t->k : NULL;
}
