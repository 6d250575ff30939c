#include "delta.h"

#include <stdlib.h>
#include <string.h>

#include "low_memory.h"

enum {
    TAILS_ALLOWED = 16,    /* … and a share of the main segments */
    TAILS_SHARE = 4,       /* … before index_is_fragmented() */
    MOSTLY_DEAD_SHARE = 2, /* a segment is made anew when this part of it is dead */
    WORD_BITS = 64
};

struct index_delta {
    index_version *base, *made;
    char *owned;     /* dead[i] was copied for `made`; for the segments of the base */
    int64_t changed; /* rows that differ from the base */
    segment_rows staging;
};

static int live_rows(const index_version *v, int i)
{
    return segment_count(v->segments[i]) - (v->dead[i] ? v->dead[i]->count : 0);
}

/* ---- marking rows dead ---- */

/* The dead slots of segment `i` for writing: a copy, the first time. */
static dead_slots *own_dead(index_delta *d, int i)
{
    index_version *v = d->made;
    if (d->owned[i])
        return v->dead[i];
    size_t words = (size_t)segment_count(v->segments[i]) / WORD_BITS + 1;
    size_t bytes = sizeof(dead_slots) + words * sizeof(uint64_t);
    dead_slots *own = sqlite3_malloc64(bytes);
    if (!own)
        return NULL;
    memset(own, 0, bytes);
    if (v->dead[i]) {
        own->count = v->dead[i]->count;
        memcpy(own->bits, v->dead[i]->bits, words * sizeof(uint64_t));
    }
    atomic_init(&own->references, 1);
    index_dead_release(v->dead[i]);
    v->dead[i] = own;
    d->owned[i] = 1;
    return own;
}

static int bury(index_delta *d, int i, int slot)
{
    dead_slots *dead = own_dead(d, i);
    if (!dead)
        return SQLITE_NOMEM;
    dead->bits[slot / WORD_BITS] |= (uint64_t)1 << (slot % WORD_BITS);
    dead->count++;
    d->made->rows--;
    d->made->fingerprint -= index_row_print(d->made, 0, segment_hash(d->made->segments[i], slot));
    return SQLITE_OK;
}

/* ---- the rows that changed ---- */

/* A version with the segments of another. */
static int version_copy(const index_version *from, int dimension, index_version **out)
{
    index_version *v = index_new(from->metric, dimension, from->kept_values, from);
    int rc = v ? SQLITE_OK : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < from->segment_count; i++) {
        rc = index_append(v, from->segments[i], from->dead[i]);
        if (rc == SQLITE_OK) {
            segment_retain(from->segments[i]);
            index_dead_retain(from->dead[i]);
        }
    }
    if (rc != SQLITE_OK) {
        index_release(v);
        return rc;
    }
    v->main_count = from->main_count;
    v->fingerprint = from->fingerprint;
    v->left_out = from->left_out;
    v->build_seconds = from->build_seconds;
    *out = v;
    return SQLITE_OK;
}

int index_delta_open(index_version *base, int dimension, index_delta **out)
{
    *out = NULL;
    index_delta *d = sqlite3_malloc64(sizeof *d);
    if (!d)
        return SQLITE_NOMEM;
    memset(d, 0, sizeof *d);
    d->base = index_retain(base);
    size_t bytes = (size_t)base->segment_count + 1;
    d->owned = sqlite3_malloc64(bytes);
    int rc = d->owned ? version_copy(base, dimension, &d->made) : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        memset(d->owned, 0, bytes);
        index_rows_open(d->made, &d->staging);
        *out = d;
    } else {
        index_delta_close(d);
    }
    return rc;
}

void index_delta_close(index_delta *d)
{
    if (!d)
        return;
    index_release(d->base);
    index_release(d->made);
    segment_rows_close(&d->staging);
    sqlite3_free(d->owned);
    sqlite3_free(d);
}

/* Make a segment of what is staged, and append it. It is a main segment if it
** continues their order. */
static int flush(index_version *v, segment_rows *staging, char **message)
{
    if (staging->count == 0)
        return SQLITE_OK;
    segment *s;
    int rc = segment_new(v->metric, staging, &s, message);
    if (rc != SQLITE_OK)
        return rc;
    segment_rows_reset(staging);
    int n = v->segment_count, is_main = v->main_count == n;
    if (is_main && n > 0) {
        const segment *last = v->segments[n - 1];
        is_main = segment_key(last, segment_count(last) - 1) < segment_key(s, 0);
    }
    rc = index_append_made(v, s);
    if (rc == SQLITE_OK)
        v->main_count += is_main;
    return rc;
}

int index_delta_row(index_delta *d, int64_t key, uint64_t hash, const void *embedding,
                    char **message)
{
    /* The base is asked: `made` grows, and its positions do not move in between. */
    int64_t position = index_find(d->base, key);
    int i = 0, slot = 0, rc = SQLITE_OK;
    if (position >= 0)
        index_locate(d->base, position, &i, &slot);
    else if (!embedding)
        return SQLITE_OK;
    if (position >= 0 && embedding && segment_hash(d->base->segments[i], slot) == hash)
        return SQLITE_OK; /* logged, but as it was */
    if (embedding)
        rc = segment_rows_append(&d->staging, embedding, d->made->metric == METRIC_KIND_COSINE, key,
                                 hash, NULL);
    if (rc == SQLITE_OK && position >= 0)
        rc = bury(d, i, slot);
    if (rc != SQLITE_OK)
        return rc;
    d->changed++;
    if (!embedding)
        return SQLITE_OK;
    d->made->fingerprint += index_row_print(d->made, 0, hash);
    return d->staging.count == d->staging.capacity ? flush(d->made, &d->staging, message)
                                                   : SQLITE_OK;
}

/* ---- keeping segments few and full ---- */

/* Stage the live rows of one or two segments in the order of their keys. */
static int stage_live(segment_rows *staging, const index_version *v, int first, int second)
{
    int at[2] = {0, 0};
    const int parts[2] = {first, second};
    for (;;) {
        int next = -1;
        for (int p = 0; p < 2; p++) {
            if (parts[p] < 0)
                continue;
            const segment *s = v->segments[parts[p]];
            while (at[p] < segment_count(s) && index_is_dead(v, parts[p], at[p]))
                at[p]++;
            if (at[p] < segment_count(s) &&
                (next < 0 ||
                 segment_key(s, at[p]) < segment_key(v->segments[parts[next]], at[next])))
                next = p;
        }
        if (next < 0)
            return SQLITE_OK;
        int rc = segment_rows_take(staging, v->segments[parts[next]], at[next]++);
        if (rc != SQLITE_OK)
            return rc;
    }
}

/* Take the segment at `i` out; what it and its dead slots held is released. */
static void version_remove(index_version *v, int i)
{
    segment_release(v->segments[i]);
    index_dead_release(v->dead[i]);
    v->segment_count--;
    v->main_count -= i < v->main_count;
    size_t behind = (size_t)(v->segment_count - i);
    memmove(v->segments + i, v->segments + i + 1, behind * sizeof *v->segments);
    memmove(v->dead + i, v->dead + i + 1, behind * sizeof *v->dead);
}

/* Put a new segment of the live rows of segments `i` and `other` (-1 for none) in
** the place of `i`. */
static int version_remake(index_version *v, segment_rows *staging, int i, int other, char **message)
{
    segment *s;
    segment_rows_reset(staging);
    int rc = stage_live(staging, v, i, other);
    if (rc == SQLITE_OK)
        rc = segment_new(v->metric, staging, &s, message);
    if (rc != SQLITE_OK)
        return rc;
    segment_rows_reset(staging);
    segment_release(v->segments[i]);
    index_dead_release(v->dead[i]);
    v->segments[i] = s;
    v->dead[i] = NULL;
    v->made_bytes += segment_bytes(s);
    return SQLITE_OK;
}

/* Drop segments without a live row, and make those anew that are mostly dead. */
static int remove_dead(index_version *v, segment_rows *staging, char **message)
{
    int rc = SQLITE_OK;
    for (int i = v->segment_count - 1; rc == SQLITE_OK && i >= 0; i--) {
        if (!v->dead[i])
            continue;
        if (live_rows(v, i) == 0)
            version_remove(v, i);
        else if (v->dead[i]->count > segment_count(v->segments[i]) / MOSTLY_DEAD_SHARE)
            rc = version_remake(v, staging, i, -1, message);
    }
    return rc;
}

/* Merge the last segments as long as the last is no smaller than the one before:
** like carrying in binary addition, so that a row is copied a logarithmic number
** of times. */
static int merge_last(index_version *v, segment_rows *staging, char **message)
{
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && v->segment_count > 1) {
        int last = v->segment_count - 1;
        int same_kind = last < v->main_count || last > v->main_count;
        int rows = live_rows(v, last), before = live_rows(v, last - 1);
        if (!same_kind || before > rows || before + rows > staging->capacity)
            break;
        rc = version_remake(v, staging, last - 1, last, message);
        if (rc == SQLITE_OK)
            version_remove(v, last);
    }
    return rc;
}

/* Number the slots. */
static void version_count(index_version *v)
{
    v->slots = v->rows = 0;
    for (int i = 0; i < v->segment_count; i++) {
        v->starts[i] = v->slots;
        v->slots += segment_count(v->segments[i]);
        v->rows += live_rows(v, i);
    }
    if (v->rows == 0)
        v->dimension = 0;
}

int index_delta_finish(index_delta *d, index_version **out, char **message)
{
    index_version *v = d->made;
    if (d->changed == 0) {
        *out = index_retain(d->base);
        return SQLITE_OK;
    }
    int rc = flush(v, &d->staging, message);
    if (rc == SQLITE_OK)
        rc = remove_dead(v, &d->staging, message);
    if (rc == SQLITE_OK)
        rc = merge_last(v, &d->staging, message);
    if (rc != SQLITE_OK)
        return rc;
    version_count(v);
    rc = index_lighten(v, message);
    if (rc != SQLITE_OK)
        return rc;
    *out = v;
    d->made = NULL;
    return SQLITE_OK;
}

int index_is_fragmented(const index_version *v)
{
    int tails = v->segment_count - v->main_count;
    return tails > TAILS_ALLOWED + v->main_count / TAILS_SHARE ||
           (v->rows > 0 && v->segment_count > index_segments_allowed(v) + TAILS_ALLOWED);
}

/* ---- putting in order ---- */

/* A live row of a tail. */
typedef struct tail_row {
    int64_t key;
    int segment, slot;
} tail_row;

typedef struct compaction {
    index_version *from, *made;
    tail_row *tail; /* all of them, by key */
    int64_t tail_count, tail_at;
    segment_rows staging;
    index_check *check;
    void *argument;
} compaction;

static int compare_tail_rows(const void *left, const void *right)
{
    const tail_row *a = left, *b = right;
    return a->key < b->key ? -1 : a->key > b->key;
}

static int collect_tails(compaction *c)
{
    const index_version *v = c->from;
    int64_t most = 0;
    for (int i = v->main_count; i < v->segment_count; i++)
        most += live_rows(v, i);
    c->tail = sqlite3_malloc64((sqlite3_uint64)(most + 1) * sizeof *c->tail);
    if (!c->tail)
        return SQLITE_NOMEM;
    for (int i = v->main_count; i < v->segment_count; i++) {
        for (int slot = 0; slot < segment_count(v->segments[i]); slot++) {
            if (!index_is_dead(v, i, slot))
                c->tail[c->tail_count++] = (tail_row){segment_key(v->segments[i], slot), i, slot};
        }
    }
    qsort(c->tail, (size_t)c->tail_count, sizeof *c->tail, compare_tail_rows);
    return SQLITE_OK;
}

static int stage_slot(compaction *c, int i, int slot, char **message)
{
    int rc = segment_rows_take(&c->staging, c->from->segments[i], slot);
    if (rc != SQLITE_OK || c->staging.count < c->staging.capacity)
        return rc;
    rc = flush(c->made, &c->staging, message);
    return rc == SQLITE_OK && c->check ? c->check(c->argument, message) : rc;
}

/* Stage the rows of tails whose keys are below. */
static int stage_tails(compaction *c, int64_t below, int to_the_end, char **message)
{
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && c->tail_at < c->tail_count &&
           (to_the_end || c->tail[c->tail_at].key < below)) {
        const tail_row *row = &c->tail[c->tail_at++];
        rc = stage_slot(c, row->segment, row->slot, message);
    }
    return rc;
}

/* A main segment is shared if nothing changed in it or before it, and if it is not
** a small one beside another. */
static int compact_segment(compaction *c, int i, char **message)
{
    const segment *s = c->from->segments[i];
    int count = segment_count(s);
    int64_t last = segment_key(s, count - 1);
    int rc = stage_tails(c, segment_key(s, 0), 0, message);
    int untouched =
        !c->from->dead[i] && (c->tail_at == c->tail_count || c->tail[c->tail_at].key > last);
    if (rc == SQLITE_OK && untouched &&
        (c->staging.count == 0 || c->staging.count + count > c->staging.capacity)) {
        rc = flush(c->made, &c->staging, message);
        if (rc == SQLITE_OK)
            rc = index_append(c->made, c->from->segments[i], NULL);
        if (rc == SQLITE_OK) {
            segment_retain(c->from->segments[i]);
            c->made->main_count++;
        }
        return rc;
    }
    for (int slot = 0; rc == SQLITE_OK && slot < count; slot++) {
        if (index_is_dead(c->from, i, slot))
            continue;
        rc = stage_tails(c, segment_key(s, slot), 0, message);
        if (rc == SQLITE_OK)
            rc = stage_slot(c, i, slot, message);
    }
    return rc;
}

static int is_in_order(const index_version *v)
{
    int in_order = v->main_count == v->segment_count;
    for (int i = 0; in_order && i < v->segment_count; i++)
        in_order = v->dead[i] == NULL;
    return in_order;
}

int index_compact(index_version *v, index_check *check, void *argument, index_version **out,
                  char **message)
{
    *out = NULL;
    if (is_in_order(v)) {
        *out = index_retain(v);
        return SQLITE_OK;
    }
    compaction c = {.from = v, .check = check, .argument = argument};
    c.made = index_new(v->metric, v->dimension, 0, v);
    int rc = c.made ? collect_tails(&c) : SQLITE_NOMEM;
    index_rows_open(v, &c.staging);
    for (int i = 0; rc == SQLITE_OK && i < v->main_count; i++)
        rc = compact_segment(&c, i, message);
    if (rc == SQLITE_OK)
        rc = stage_tails(&c, 0, 1, message);
    if (rc == SQLITE_OK)
        rc = flush(c.made, &c.staging, message);
    if (rc == SQLITE_OK) {
        c.made->fingerprint = v->fingerprint;
        c.made->left_out = v->left_out;
        c.made->build_seconds = v->build_seconds;
        *out = c.made;
    } else {
        index_release(c.made);
    }
    segment_rows_close(&c.staging);
    sqlite3_free(c.tail);
    return rc;
}
