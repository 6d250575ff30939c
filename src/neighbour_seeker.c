#include "neighbour_seeker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "rounding.h"
#include "tiles.h"

enum {
    SPARE = 8,        /* rows beyond k that are scored to get a radius */
    FETCHED_MOST = 16 /* vectors that fit into the cache for a moment */
};

/* A row on its way to an answer: by integer distance, or by rank. */
struct integer_row {
    int32_t distance;
    int32_t row; /* a group, or a position */
};

struct scored_row {
    float rank;
    int32_t position;
};

/* ---- room ---- */

/* Rows that are scored for the radius, and groups where they are looked for. */
static int first_rows(const neighbour_scope *t)
{
    return t->k + 1 + SPARE;
}

int neighbour_seeker_open(neighbour_seeker *w, const neighbour_scope *t)
{
    size_t rows = (size_t)t->version->rows + TILE_GROUP, first = (size_t)first_rows(t);
    size_t scored = (size_t)t->most + first, outliers = (size_t)t->outlier_count;
    *w = (neighbour_seeker){.near = basis_room(first, sizeof *w->near),
                            .nearer = basis_room(first, sizeof *w->nearer),
                            .positions = basis_room(rows + outliers, sizeof *w->positions),
                            .distances = basis_room(rows, sizeof *w->distances),
                            .scores = basis_room(scored, sizeof *w->scores),
                            .scored = basis_room(scored, sizeof *w->scored)};
    return w->near && w->nearer && w->positions && w->distances && w->scores && w->scored
               ? SQLITE_OK
               : SQLITE_NOMEM;
}

void neighbour_seeker_close(neighbour_seeker *w)
{
    sqlite3_free(w->near);
    sqlite3_free(w->nearer);
    sqlite3_free(w->positions);
    sqlite3_free(w->distances);
    sqlite3_free(w->scores);
    sqlite3_free(w->scored);
}

/* ---- integer distances ---- */

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
static int find_groups(const neighbour_scope *t, const int32_t *least, integer_row *heap, int most)
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
static int list_group(const neighbour_scope *t, int64_t group, int64_t *positions)
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
static int keep_within(const neighbour_scope *t, neighbour_seeker *w, const query_sketch *query,
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
static int find_first(const neighbour_scope *t, neighbour_seeker *w, const int32_t *least,
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
static int score(const neighbour_scope *t, neighbour_seeker *w, int64_t query, int count,
                 float rank, int *scored)
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
static int find_rank(const neighbour_scope *t, neighbour_seeker *w, asked_row *asked, int *scored)
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
static int leave_out_scored(neighbour_seeker *w, const asked_row *asked, int count)
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
static int find_candidates(const neighbour_scope *t, neighbour_seeker *w, const asked_row *asked)
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

/* Score the other rows that may be as near as the rank, into w->scored: *scored with those that
** are there. Returns a result code; SQLITE_DONE where there are too many. */
static int score_candidates(const neighbour_scope *t, neighbour_seeker *w, const asked_row *asked,
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
static void write_hits(const neighbour_scope *t, neighbour_seeker *w, int scored, index_hit *hits)
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
static int look_around(const neighbour_scope *t, neighbour_seeker *w, asked_row *asked, int *scored)
{
    const index_version *v = t->version;
    int s, slot;
    index_locate(v, asked->position, &s, &slot);
    const float *x = segment_vector(v->segments[s], slot);
    asked->norm = round_norm(x, v->dimension);
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

int neighbour_seeker_answer(neighbour_seeker *w, const neighbour_scope *t, int64_t position,
                            const int32_t *least, index_hit *hits)
{
    asked_row asked = {.position = position, .least = least};
    int scored = 0, rc = look_around(t, w, &asked, &scored);
    if (rc != SQLITE_OK)
        return rc;
    if (scored < t->k)
        return SQLITE_NOTFOUND;
    write_hits(t, w, scored, hits);
    return SQLITE_OK;
}
