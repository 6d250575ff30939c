#include "search.h"

#include <string.h>

#include "snapshot_coverage.h"
#include "snapshot_version.h"

enum {
    ROWS_ALWAYS_SET = 2048,  /* a table so small that its rows are filtered in one go */
    VALUES_ALWAYS_SET = 100, /* a list so long that it should be built up once, not for each row */
    SET_SHARE = 8,           /* an index is read for up to an 8th of the rows … */
    REFUSED_SHARE = 8,       /* … and rows are tested until an 8th of them are refused */
    TESTS_A_ROW = 2,         /* rows to find at first for each that is to pass a test … */
    TESTS_LEAST = 32         /* … and in any case */
};

/* ---- the set ---- */

/* Whether SQLite answers the filter with an index of the source. */
static int explain(search *s, const source_query *query, char **message)
{
    enum { DETAIL = 3 };
    snapshot *in = s->snapshot;
    sqlite3_stmt *rows;
    int rc = source_prepare(in->connection->db, in->source, SOURCE_EXPLAIN_FILTER, query, &rows,
                            message);
    if (rc != SQLITE_OK)
        return rc;
    s->by_index = 1;
    while (sqlite3_step(rows) == SQLITE_ROW) {
        const char *detail = (const char *)sqlite3_column_text(rows, DETAIL);
        if (detail && strncmp(detail, "SCAN", 4) == 0)
            s->by_index = 0;
    }
    sqlite3_finalize(rows);
    return SQLITE_OK;
}

static int prepare_filter(search *s, char **message)
{
    snapshot *in = s->snapshot;
    sqlite3 *db = in->connection->db;
    source_query query = {.filter = s->filter.sql};
    int rc = source_prepare(db, in->source, SOURCE_KEYS_OF_FILTER, &query, &s->keys, message);
    return rc == SQLITE_OK ? explain(s, &query, message) : rc;
}

/* What tests single rows: where all that the filter allows are in the set, nobody needs it. */
static int prepare_test(search *s, char **message)
{
    snapshot *in = s->snapshot;
    source_query query = {.filter = s->filter.sql};
    int rc = source_prepare(in->connection->db, in->source, SOURCE_TEST_FILTER, &query, &s->test,
                            message);
    return rc == SQLITE_OK ? filter_bind(&s->filter, s->test) : rc;
}

/* Read on in `keys` until there are `most` rows in the set, or to the end. */
static int read_keys(search *s, int64_t most, char **message)
{
    snapshot *in = s->snapshot;
    while (s->set.count < most) {
        int rc = snapshot_step(in, s->keys);
        if (rc == SQLITE_DONE) {
            s->set_complete = 1;
            sqlite3_reset(s->keys);
            return SQLITE_OK;
        }
        if (rc != SQLITE_ROW)
            return source_failure(in->connection->db, in->source, rc, message);
        int64_t position = index_find(in->version, sqlite3_column_int64(s->keys, 0));
        if (position >= 0)
            row_set_add(&s->set, position);
    }
    return SQLITE_OK;
}

/* Start on the set of a filter that has just been bound: all of it where that is
** cheap. */
static int begin_set(search *s, char **message)
{
    int64_t rows = s->snapshot->version->rows;
    int rc = row_set_open(&s->set, s->snapshot->version);
    if (rc != SQLITE_OK)
        return rc;
    if (rows <= ROWS_ALWAYS_SET || s->filter.count > VALUES_ALWAYS_SET)
        return read_keys(s, INT64_MAX, message);
    return s->by_index ? read_keys(s, rows / SET_SHARE + 1, message) : SQLITE_OK;
}

/* ---- the walk ---- */

static void end_walk(search *s)
{
    index_walk_close(s->walk);
    probe_close(s->probe);
    s->walk = NULL;
    s->probe = NULL;
}

/* How many rows the walk will be read for. Where some do not pass the test, a search before
** all are scored pays only by sketches. */
static int64_t depth_of_walk(const search *s)
{
    int tests = s->filter.sql && !s->set_complete;
    if (!tests)
        return s->depth;
    if (!index_walks_by_sketches(s->snapshot->version))
        return WALK_UNKNOWN;
    if (s->depth < TESTS_LEAST / TESTS_A_ROW) /* or unknown */
        return TESTS_LEAST;
    return s->depth < INT64_MAX / TESTS_A_ROW ? TESTS_A_ROW * s->depth : s->depth;
}

/* An approximate walk, if there can be one and it pays. */
static int begin_probe(search *s, const row_set *set, const vector_reader *reader, char **message)
{
    snapshot *in = s->snapshot;
    coverage *c = NULL;
    int64_t depth = s->filter.sql && !set ? WALK_UNKNOWN : s->depth;
    int rc = s->is_approximate ? snapshot_coverage(in, &c, message) : SQLITE_OK;
    if (rc == SQLITE_OK && c && probe_pays(c, in->version, s->query.x, set, depth, &s->effort))
        rc = probe_open(in->version, c, &s->effort, s->query.x, set, depth, reader, &s->probe,
                        message);
    return rc;
}

static int begin_walk(search *s, char **message)
{
    const row_set *set = s->set_complete ? &s->set : NULL;
    vector_reader reader = vector_reader_of(s->snapshot);
    int64_t depth = depth_of_walk(s);
    end_walk(s);
    int rc = begin_probe(s, set, &reader, message);
    if (rc == SQLITE_OK && !s->probe)
        rc = index_walk_open(s->snapshot->version, s->query.x, set, depth, &reader, &s->walk,
                             message);
    if (rc == SQLITE_OK && s->is_approximate)
        snapshot_improve(s->snapshot);
    return rc;
}

static int walk_at(search *s, int64_t i, index_hit *hit, char **message)
{
    return s->probe ? probe_at(s->probe, i, hit, message) : index_walk_at(s->walk, i, hit, message);
}

static void forget_gathered(search *s)
{
    sqlite3_free(s->gathered);
    row_set_close(&s->handed);
    s->gathered = NULL;
    s->gathered_count = 0;
    s->has_gathered = 0;
}

/* Only a walk needs the set. */
static void forget_set(search *s)
{
    end_walk(s);
    row_set_close(&s->set);
    s->set_complete = 0;
}

/* Take over a filter: nothing is to do where it is the same as before. */
static int take_filter(search *s, filter *f, char **message)
{
    int same_text = filter_same_text(f, &s->filter);
    forget_set(s);
    if (!same_text) {
        sqlite3_finalize(s->keys);
        sqlite3_finalize(s->test);
        s->keys = s->test = NULL;
    }
    filter_close(&s->filter);
    s->filter = *f;
    *f = (filter){0};
    if (!s->filter.sql)
        return SQLITE_OK;
    int rc = s->keys ? SQLITE_OK : prepare_filter(s, message);
    if (rc == SQLITE_OK)
        rc = sqlite3_reset(s->keys);
    if (rc == SQLITE_OK)
        rc = filter_bind(&s->filter, s->keys);
    if (rc == SQLITE_OK && s->test)
        rc = filter_bind(&s->filter, s->test);
    return rc == SQLITE_OK ? begin_set(s, message) : rc;
}

/* Begin again with rows as the source holds them: the index was found to differ. */
static int begin_anew(search *s, char **message)
{
    index_version *v;
    forget_set(s);
    forget_gathered(s);
    s->position = s->refused = s->given = 0;
    int rc = snapshot_compare(s->snapshot, &v, message);
    if (rc == SQLITE_OK)
        rc = snapshot_begin_search(s->snapshot, s->query.dimension, message);
    if (rc == SQLITE_OK && s->keys)
        rc = sqlite3_reset(s->keys);
    if (rc == SQLITE_OK && s->filter.sql)
        rc = begin_set(s, message);
    return rc == SQLITE_OK ? begin_walk(s, message) : rc;
}

static int same_effort(const search *s, const search_effort *effort)
{
    return s->is_approximate == (effort != NULL) &&
           (!effort || (s->effort.ef_search == effort->ef_search &&
                        s->effort.nprobe == effort->nprobe && s->effort.rerank == effort->rerank));
}

int search_begin(search *s, snapshot *in, filter *f, vector *query, int64_t depth,
                 const search_effort *effort, char **message)
{
    int again = (s->walk || s->probe) && s->snapshot == in && same_effort(s, effort) &&
                (!effort || s->depth == depth);
    int same_filter = again && filter_equal(&s->filter, f);
    int same = same_filter && vector_equal(&s->query, query);
    s->snapshot = in;
    s->position = s->refused = s->given = 0;
    s->depth = depth;
    s->is_approximate = effort != NULL;
    s->effort = effort ? *effort : (search_effort){0};
    row_set_close(&s->handed);
    if (!same)
        forget_gathered(s);
    int rc = same_filter ? SQLITE_OK : take_filter(s, f, message);
    filter_close(f);
    vector_clear(&s->query);
    s->query = *query;
    *query = (vector){0};
    if (rc == SQLITE_OK && !same)
        rc = begin_walk(s, message);
    return rc == SQLITE_MISMATCH ? begin_anew(s, message) : rc;
}

/* Whether the filter allows the row; SQLITE_ROW or SQLITE_DONE. */
static int test_row(search *s, int64_t key, char **message)
{
    snapshot *in = s->snapshot;
    int rc = s->test ? SQLITE_OK : prepare_test(s, message);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(s->test, 1, key);
    rc = snapshot_step(in, s->test);
    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        rc = source_failure(in->connection->db, in->source, rc, message);
    sqlite3_reset(s->test);
    return rc;
}

static int64_t position_of(const search *s, const index_hit *hit)
{
    return s->snapshot->version->starts[hit->segment] + hit->slot;
}

/* Too many rows were refused: find those that are allowed, and go on in their
** order behind the ones already given. An approximate search comes to its rows in
** another order now: it begins again, and passes over those that were handed out. */
static int change_to_set(search *s, char **message)
{
    int rc = read_keys(s, INT64_MAX, message);
    if (rc == SQLITE_OK)
        rc = begin_walk(s, message);
    s->position = s->is_approximate ? 0 : s->given;
    return rc;
}

/* The next row that the filter allows, as the walk comes to them. *began is set when
** the walk has begun again. */
static int next_allowed(search *s, index_hit *hit, int *began, char **message)
{
    for (;;) {
        int rc = walk_at(s, s->position, hit, message);
        if (rc != SQLITE_ROW)
            return rc;
        s->position++;
        if (s->handed.bits && row_set_has(&s->handed, position_of(s, hit)))
            continue;
        if (!s->filter.sql || s->set_complete)
            return SQLITE_ROW;
        rc = test_row(s, hit->key, message);
        if (rc != SQLITE_DONE)
            return rc;
        if (++s->refused > s->snapshot->version->rows / REFUSED_SHARE) {
            rc = change_to_set(s, message);
            *began = 1;
            if (rc != SQLITE_OK)
                return rc;
        }
    }
}

/* ---- the first rows of an approximate search, where rows are tested ---- */

static int hit_order(const search *s, const index_hit *a, const index_hit *b)
{
    vector_metric metric = s->snapshot->version->metric;
    float ra = walk_rank_of(metric, a->score), rb = walk_rank_of(metric, b->score);
    return ra != rb ? (ra < rb ? -1 : 1) : a->key < b->key ? -1 : a->key > b->key;
}

/* Put a row in its place among those gathered. */
static void gather_row(search *s, const index_hit *hit)
{
    int64_t i = s->gathered_count++;
    for (; i > 0 && hit_order(s, hit, &s->gathered[i - 1]) < 0; i--)
        s->gathered[i] = s->gathered[i - 1];
    s->gathered[i] = *hit;
}

/* Whether rows are found in runs, of which a later one may have a nearer row, while so many are
** wanted nearest first. */
static int must_gather(const search *s)
{
    return s->probe && s->filter.sql && !s->set_complete && s->depth > 0;
}

/* Find the first `depth` rows, and hand them out in order. */
static int gather(search *s, char **message)
{
    int rc = SQLITE_ROW;
    int64_t wanted = s->depth < s->snapshot->version->rows ? s->depth : s->snapshot->version->rows;
    s->gathered = sqlite3_malloc64(((sqlite3_uint64)wanted + 1) * sizeof *s->gathered);
    if (!s->gathered)
        return SQLITE_NOMEM;
    while (rc == SQLITE_ROW && s->gathered_count < wanted) {
        index_hit hit;
        int began = 0;
        rc = next_allowed(s, &hit, &began, message);
        if (began) /* the set's own first rows are in order */
            s->gathered_count = 0;
        if (rc == SQLITE_ROW)
            gather_row(s, &hit);
    }
    s->has_gathered = 1;
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* Begin to note what is handed out: so far, what was gathered. */
static int open_handed(search *s)
{
    int rc = row_set_open(&s->handed, s->snapshot->version);
    for (int64_t i = 0; rc == SQLITE_OK && i < s->gathered_count; i++)
        row_set_add(&s->handed, position_of(s, &s->gathered[i]));
    return rc;
}

/* The next row: gathered ones first. */
static int next_row(search *s, index_hit *hit, char **message)
{
    int began = 0, rc = SQLITE_OK;
    if (!s->has_gathered && must_gather(s))
        rc = gather(s, message);
    if (rc == SQLITE_OK && s->given < s->gathered_count) {
        *hit = s->gathered[s->given++];
        return SQLITE_ROW;
    }
    if (rc == SQLITE_OK && s->is_approximate && s->filter.sql && !s->handed.bits)
        rc = open_handed(s);
    if (rc == SQLITE_OK)
        rc = next_allowed(s, hit, &began, message);
    if (rc == SQLITE_ROW) {
        s->given++;
        if (s->handed.bits)
            row_set_add(&s->handed, position_of(s, hit));
    }
    return rc;
}

int search_next(search *s, index_hit *hit, char **message)
{
    int rc = next_row(s, hit, message);
    while (rc == SQLITE_MISMATCH) {
        rc = begin_anew(s, message);
        if (rc == SQLITE_OK)
            rc = next_row(s, hit, message);
    }
    s->snapshot->answered |= rc == SQLITE_ROW;
    return rc;
}

void search_close(search *s)
{
    forget_set(s);
    forget_gathered(s);
    sqlite3_finalize(s->keys);
    sqlite3_finalize(s->test);
    filter_close(&s->filter);
    vector_clear(&s->query);
    *s = (search){0};
}
