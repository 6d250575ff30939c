#include "index.h"

#include <stdlib.h>
#include <string.h>

#include "delta.h"
#include "growth.h"
#include "low_memory.h"

enum {
    FRAGMENTS_ALLOWED = 8 /* small segments in excess of twice the full ones before a fresh start */
};

/* ---- versions ---- */

index_version *index_retain(index_version *v)
{
    if (v)
        atomic_fetch_add_explicit(&v->references, 1, memory_order_relaxed);
    return v;
}

dead_slots *index_dead_retain(dead_slots *dead)
{
    if (dead)
        atomic_fetch_add_explicit(&dead->references, 1, memory_order_relaxed);
    return dead;
}

void index_dead_release(dead_slots *dead)
{
    if (dead && atomic_fetch_sub_explicit(&dead->references, 1, memory_order_acq_rel) == 1)
        sqlite3_free(dead);
}

static void tuning_release(index_tuning *t);

void index_release(index_version *v)
{
    if (!v || atomic_fetch_sub_explicit(&v->references, 1, memory_order_acq_rel) != 1)
        return;
    for (int i = 0; i < v->segment_count; i++) {
        segment_release(v->segments[i]);
        index_dead_release(v->dead[i]);
    }
    sqlite3_free(v->segments);
    sqlite3_free(v->starts);
    sqlite3_free(v->dead);
    coverage_release(v->coverage);
    tuning_release(v->tuning);
    sqlite3_free(v);
}

static size_t dead_bytes(int slots)
{
    return ((size_t)slots / 64 + 1) * sizeof(uint64_t);
}

size_t index_bytes(const index_version *v)
{
    size_t bytes = sizeof *v;
    for (int i = 0; i < v->segment_count; i++) {
        bytes += segment_bytes(v->segments[i]) + sizeof *v->segments + sizeof *v->starts;
        bytes += sizeof *v->dead + (v->dead[i] ? dead_bytes(segment_count(v->segments[i])) : 0);
    }
    return bytes + growth_bytes(v);
}

int64_t index_key(const index_version *v, int i, int slot)
{
    return v->kept_values ? v->starts[i] + slot : segment_key(v->segments[i], slot);
}

int index_is_dead(const index_version *v, int i, int slot)
{
    return v->dead[i] && v->dead[i]->bits[slot / 64] >> (slot % 64) & 1;
}

void index_locate(const index_version *v, int64_t position, int *i, int *slot)
{
    int low = 0, high = v->segment_count - 1; /* the last segment that starts at or before it */
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (v->starts[middle] <= position)
            low = middle;
        else
            high = middle - 1;
    }
    *i = low;
    *slot = (int)(position - v->starts[low]);
}

/* The position of a key in one segment, -1 if it is not there or dead. */
static int64_t find_in_segment(const index_version *v, int i, int64_t key)
{
    int slot = segment_find(v->segments[i], key);
    return slot < 0 || index_is_dead(v, i, slot) ? -1 : v->starts[i] + slot;
}

int64_t index_find(const index_version *v, int64_t key)
{
    int low = 0, high = v->main_count - 1; /* the last segment whose keys begin at or before */
    if (v->segment_count == 0 || v->kept_values)
        return -1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (segment_key(v->segments[middle], 0) <= key)
            low = middle;
        else
            high = middle - 1;
    }
    int64_t position = v->main_count ? find_in_segment(v, low, key) : -1;
    for (int i = v->main_count; position < 0 && i < v->segment_count; i++)
        position = find_in_segment(v, i, key);
    return position;
}

/* Append a segment, whose reference the version takes over. */
int index_append(index_version *v, segment *s, dead_slots *dead)
{
    if (v->segment_count == v->capacity) {
        size_t capacity = v->capacity ? 2 * (size_t)v->capacity : 16;
        segment **segments = sqlite3_realloc64(v->segments, capacity * sizeof *segments);
        if (segments)
            v->segments = segments;
        int64_t *starts = sqlite3_realloc64(v->starts, capacity * sizeof *starts);
        if (starts)
            v->starts = starts;
        dead_slots **deads = sqlite3_realloc64(v->dead, capacity * sizeof *deads);
        if (deads)
            v->dead = deads;
        if (!segments || !starts || !deads)
            return SQLITE_NOMEM;
        v->capacity = (int)capacity;
    }
    int i = v->segment_count++;
    v->segments[i] = s;
    v->starts[i] = v->slots;
    v->dead[i] = dead;
    v->slots += segment_count(s);
    v->rows += segment_count(s) - (dead ? dead->count : 0);
    return SQLITE_OK;
}

static index_tuning *tuning_new(void)
{
    index_tuning *t = sqlite3_malloc64(sizeof *t);
    if (!t)
        return NULL;
    atomic_init(&t->references, 1);
    atomic_init(&t->searches, 0);
    atomic_flag_clear(&t->working);
    atomic_init(&t->basis, NULL);
    atomic_init(&t->number, 0);
    atomic_init(&t->rows_then, 0);
    atomic_init(&t->misfits, 0);
    atomic_init(&t->in_vain, 0);
    t->known_count = 0;
    t->growth = growth_new();
    if (t->growth)
        return t;
    sqlite3_free(t);
    return NULL;
}

static index_tuning *tuning_retain(index_tuning *t)
{
    atomic_fetch_add_explicit(&t->references, 1, memory_order_relaxed);
    return t;
}

static void tuning_release(index_tuning *t)
{
    if (!t || atomic_fetch_sub_explicit(&t->references, 1, memory_order_acq_rel) != 1)
        return;
    basis_release(atomic_load(&t->basis));
    for (int i = 0; i < t->known_count; i++)
        basis_release(t->known[i]);
    growth_free(t->growth);
    sqlite3_free(t);
}

index_version *index_new(vector_metric metric, int dimension, int kept_values,
                         const index_version *from)
{
    index_version *v = sqlite3_malloc64(sizeof *v);
    if (!v)
        return NULL;
    memset(v, 0, sizeof *v);
    v->tuning = from && from->dimension == dimension ? tuning_retain(from->tuning) : tuning_new();
    if (!v->tuning) {
        sqlite3_free(v);
        return NULL;
    }
    atomic_init(&v->references, 1);
    atomic_init(&v->judged, 0);
    v->metric = metric;
    v->dimension = dimension;
    v->kept_values = kept_values;
    v->keeping = from ? from->keeping : INDEX_VECTORS;
    return v;
}

/* ---- row hashes ---- */

__extension__ typedef unsigned __int128 uint128;

/* Multiply to 128 bits and fold: the mixing step of the multiplicative hash
** family of wyhash (Wang Yi, public domain). */
static uint64_t fold(uint64_t a, uint64_t b)
{
    uint128 product = (uint128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t load64(const unsigned char *p)
{
    uint64_t x;
    memcpy(&x, p, sizeof x);
    return x;
}

/* Odd constants with evenly spread bits (the hexadecimal digits of the golden
** ratio, of sqrt(2), sqrt(3) and sqrt(5)). */
#define HASH_A 0x9E3779B97F4A7C15u
#define HASH_B 0x6A09E667F3BCC909u
#define HASH_C 0xBB67AE8584CAA73Bu
#define HASH_D 0x3C6EF372FE94F82Bu

/* Of so many bytes several chains are worth putting together. */
enum { HASH_LONG = 256 };

/* Four chains, so that the multiplies overlap: of all but the last, which are fewer than 64. */
static uint64_t hash_long(uint64_t seed, const unsigned char *p, size_t n)
{
    uint64_t a = seed ^ HASH_A, b = seed ^ HASH_B, c = seed ^ HASH_C, d = seed ^ HASH_D;
    for (; n >= 64; n -= 64, p += 64) {
        a = fold(load64(p) ^ HASH_C, load64(p + 8) ^ a);
        b = fold(load64(p + 16) ^ HASH_D, load64(p + 24) ^ b);
        c = fold(load64(p + 32) ^ HASH_A, load64(p + 40) ^ c);
        d = fold(load64(p + 48) ^ HASH_B, load64(p + 56) ^ d);
    }
    return fold(fold(a ^ HASH_B, b ^ HASH_C), fold(c ^ HASH_D, d ^ HASH_A) ^ seed);
}

static uint64_t hash_bytes(uint64_t seed, const unsigned char *p, size_t n)
{
    size_t length = n;
    if (n >= HASH_LONG) {
        seed = hash_long(seed, p, n);
        p += n / 64 * 64;
        n %= 64;
    }
    uint64_t left = seed ^ HASH_A, right = seed ^ HASH_B;
    for (; n >= 32; n -= 32, p += 32) { /* two chains, so that the multiplies overlap */
        left = fold(load64(p) ^ HASH_C, load64(p + 8) ^ left);
        right = fold(load64(p + 16) ^ HASH_D, load64(p + 24) ^ right);
    }
    unsigned char tail[32] = {0};
    if (n)
        memcpy(tail, p, n);
    left = fold(load64(tail) ^ HASH_C, load64(tail + 8) ^ left);
    right = fold(load64(tail + 16) ^ HASH_D, load64(tail + 24) ^ right);
    return fold(left ^ length, right ^ HASH_A);
}

static uint64_t hash_value(uint64_t seed, const row_value *value)
{
    if (value->type == SQLITE_TEXT || value->type == SQLITE_BLOB)
        return hash_bytes(seed + (uint64_t)value->type, value->bytes, (size_t)value->length);
    uint64_t payload = (uint64_t)value->integer;
    if (value->type == SQLITE_FLOAT)
        memcpy(&payload, &value->real, sizeof payload);
    return fold(seed ^ payload, HASH_C + (uint64_t)value->type);
}

uint64_t index_row_hash(int64_t key, const row_value *values, int count, const void *embedding,
                        int bytes)
{
    uint64_t seed = fold((uint64_t)key ^ HASH_B, HASH_A);
    for (int i = 0; i < count; i++)
        seed = hash_value(seed, &values[i]);
    return hash_bytes(seed, embedding, (size_t)bytes);
}

/* ---- building ---- */

/* The segments that a version of so many rows may consist of. */
int64_t index_segments_allowed(const index_version *v)
{
    return 2 * (v->rows / segment_capacity(v->dimension) + 1) + FRAGMENTS_ALLOWED;
}

typedef struct segment_start {
    uint64_t hash; /* of the segment's first row */
    int index;
} segment_start;

struct index_builder {
    index_version *base; /* NULL when nothing is taken over */
    index_version *made;
    segment_rows staging;
    int staging_open;
    int64_t rows; /* so far */
    int matching; /* rows so far equal base->segments[next] up to `slot` */
    int next, slot;
    segment_start *starts; /* the base's segments by first hash; made when first needed */
};

/* Take over the base's segment `i` as it is. */
static int builder_take(index_builder *b, int i)
{
    int rc = index_append(b->made, b->base->segments[i], NULL);
    if (rc == SQLITE_OK)
        segment_retain(b->base->segments[i]);
    return rc;
}

/* Append a segment that was made for this version. */
int index_append_made(index_version *v, segment *s)
{
    int rc = index_append(v, s, NULL);
    if (rc == SQLITE_OK)
        v->made_bytes += segment_bytes(s);
    else
        segment_release(s);
    return rc;
}

static int builder_flush(index_builder *b, char **message)
{
    if (!b->staging_open || b->staging.count == 0)
        return SQLITE_OK;
    segment *s;
    int rc = segment_new(b->made->metric, &b->staging, &s, message);
    if (rc != SQLITE_OK)
        return rc;
    segment_rows_reset(&b->staging);
    return index_append_made(b->made, s);
}

/* What a row adds to the fingerprint. Its key is in its hash, so that the order of
** rows is too; where there are no keys its number stands for it. */
uint64_t index_row_print(const index_version *v, int64_t number, uint64_t hash)
{
    return fold(hash ^ HASH_D, v->kept_values ? HASH_B + (uint64_t)number : HASH_B);
}

static int builder_stage_prefix(index_builder *b, const segment *s, int count)
{
    if (!b->staging_open) {
        index_rows_open(b->made, &b->staging);
        b->staging_open = 1;
    }
    int rc = SQLITE_OK;
    for (int slot = 0; rc == SQLITE_OK && slot < count; slot++)
        rc = segment_rows_take(&b->staging, s, slot);
    return rc;
}

static int compare_starts(const void *left, const void *right)
{
    const segment_start *a = left, *b = right;
    if (a->hash != b->hash)
        return a->hash < b->hash ? -1 : 1;
    return a->index - b->index;
}

/* The first segment of the base from `next` on that begins with this row, -1 if
** none does. */
static int builder_find_start(const index_builder *b, uint64_t hash)
{
    if (!b->base)
        return -1;
    int low = 0, high = b->base->segment_count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        segment_start wanted = {hash, b->next};
        if (compare_starts(&b->starts[middle], &wanted) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < b->base->segment_count && b->starts[low].hash == hash ? b->starts[low].index : -1;
}

/* The rows differ from the base here: what matched of the segment at hand is
** staged, and from now on rows are staged until another segment begins. */
static int builder_leave(index_builder *b)
{
    index_version *base = b->base, *made = b->made;
    b->matching = 0;
    if (!base)
        return builder_stage_prefix(b, NULL, 0);
    if (!b->starts) {
        b->starts = sqlite3_malloc64((base->segment_count + 1) * sizeof *b->starts);
        if (!b->starts)
            return SQLITE_NOMEM;
        for (int i = 0; i < base->segment_count; i++)
            b->starts[i] = (segment_start){segment_hash(base->segments[i], 0), i};
        qsort(b->starts, (size_t)base->segment_count, sizeof *b->starts, compare_starts);
    }
    if (b->next == base->segment_count) {
        /* Rows appended behind all the former ones fill up the last segment. */
        segment *last = made->segment_count ? made->segments[made->segment_count - 1] : NULL;
        if (!last || segment_count(last) >= segment_capacity(made->dimension))
            return builder_stage_prefix(b, NULL, 0);
        int rc = builder_stage_prefix(b, last, segment_count(last));
        if (rc == SQLITE_OK) {
            made->rows -= segment_count(last);
            made->slots -= segment_count(last);
            made->segment_count--;
            segment_release(last);
        }
        return rc;
    }
    int matched = b->slot;
    b->slot = 0;
    const segment *s = base->segments[b->next];
    if (matched)
        b->next++;
    return builder_stage_prefix(b, s, matched);
}

static int builder_advance(index_builder *b)
{
    if (++b->slot < segment_count(b->base->segments[b->next]))
        return SQLITE_OK;
    int rc = builder_take(b, b->next);
    b->next++;
    b->slot = 0;
    return rc;
}

static int builder_stage(index_builder *b, int64_t key, uint64_t hash, const row_value *values,
                         const void *embedding, char **message)
{
    int start = builder_find_start(b, hash);
    if (start >= 0) {
        /* Small neighbours are merged instead, so that many changes do not
        ** leave many small segments. */
        int together = b->staging.count + segment_count(b->base->segments[start]);
        if (b->staging.count == 0 || together > b->staging.capacity) {
            int rc = builder_flush(b, message);
            b->matching = 1;
            b->next = start;
            b->slot = 0;
            return rc == SQLITE_OK ? builder_advance(b) : rc;
        }
        b->next = start + 1;
    }
    int rc = segment_rows_append(&b->staging, embedding, b->made->metric == METRIC_KIND_COSINE, key,
                                 hash, values);
    if (rc == SQLITE_OK && b->staging.count == b->staging.capacity)
        rc = builder_flush(b, message);
    return rc;
}

int index_builder_open(vector_metric metric, int dimension, int kept_values, index_version *base,
                       index_builder **out, char **message)
{
    *out = NULL;
    index_builder *b = sqlite3_malloc64(sizeof *b);
    if (!b)
        return SQLITE_NOMEM;
    memset(b, 0, sizeof *b);
    b->made = index_new(metric, dimension, kept_values, base);
    int rc = b->made ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK && base && base->dimension == dimension && base->rows > 0 &&
        base->segment_count <= index_segments_allowed(base)) {
        /* The rows come in source order: so must those of the base. */
        rc = index_compact(base, NULL, NULL, &b->base, message);
        b->matching = rc == SQLITE_OK;
    }
    if (rc == SQLITE_OK)
        *out = b;
    else
        index_builder_close(b);
    return rc;
}

void index_builder_keep(index_builder *b, index_keeping keeping)
{
    b->made->keeping = keeping;
}

int index_builder_wants_sample(const index_builder *b, int64_t rows)
{
    return b->made->keeping == INDEX_LITTLE && b->rows > 0 && b->staging.count == 0 &&
           index_is_undecided(b->made, rows > b->rows ? rows : b->rows);
}

int index_builder_take_sample(index_builder *b, float *sample, int count, char **message)
{
    int rc = index_decide(b->made, sample, count);
    segment_rows_close(&b->staging);
    b->staging_open = 0;
    return rc == SQLITE_OK ? index_lighten(b->made, message) : rc;
}

int index_builder_row(index_builder *b, int64_t key, uint64_t hash, const row_value *values,
                      const void *embedding, char **message)
{
    int rc = SQLITE_OK;
    if (b->matching && b->next < b->base->segment_count &&
        segment_hash(b->base->segments[b->next], b->slot) == hash) {
        rc = builder_advance(b);
    } else {
        if (b->matching || !b->staging_open)
            rc = builder_leave(b);
        if (rc == SQLITE_OK)
            rc = builder_stage(b, key, hash, values, embedding, message);
    }
    if (rc != SQLITE_OK)
        return rc;
    b->made->fingerprint += index_row_print(b->made, b->rows++, hash);
    /* Codes need no sample to be decided for. */
    if (b->made->keeping == INDEX_CODES && b->staging_open && b->staging.count == 0 &&
        index_is_undecided(b->made, b->rows))
        return index_builder_take_sample(b, NULL, 0, message);
    return SQLITE_OK;
}

int index_builder_finish(index_builder *b, int64_t left_out, index_version **out, char **message)
{
    index_version *v = b->made;
    int rc = SQLITE_OK;
    if (b->matching && b->slot > 0)
        rc = builder_leave(b);
    if (rc == SQLITE_OK)
        rc = builder_flush(b, message);
    if (rc != SQLITE_OK)
        return rc;
    v->left_out = left_out;
    int same =
        b->base && v->segment_count == b->base->segment_count && left_out == b->base->left_out;
    for (int i = 0; same && i < v->segment_count; i++)
        same = v->segments[i] == b->base->segments[i];
    if (same) {
        *out = index_retain(b->base);
        return SQLITE_OK;
    }
    v->main_count = v->segment_count;
    if (v->rows == 0)
        v->dimension = 0;
    rc = index_lighten(v, message);
    if (rc != SQLITE_OK)
        return rc;
    *out = v;
    b->made = NULL;
    return SQLITE_OK;
}

void index_builder_close(index_builder *b)
{
    if (!b)
        return;
    index_release(b->made);
    index_release(b->base);
    segment_rows_close(&b->staging);
    sqlite3_free(b->starts);
    sqlite3_free(b);
}
