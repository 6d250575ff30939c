#include "segment.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <c_api/utils/distances_c.h>

#include "faiss_call.h"
#include "faiss_shim.h"
#include "flat.h"
#include "vector_memory.h"

struct segment {
    atomic_int references;
    _Atomic(sketch *) sketch; /* NULL before the first */
    atomic_int holders;       /* searches that use the sketch, or the former one: */
    _Atomic(sketch *) former; /* freed when there are none; NULL for none */
    atomic_uint judged_by;    /* number of the finding that it was judged after; 0: never … */
    atomic_int misfit;        /* … and no basis fits it */
    int count;
    int dimension;
    int normalizes; /* what the source holds, to what is stored */
    vector_metric metric;
    FaissIndexFlat *flat; /* NULL where the source alone has the vectors */
    float *vectors;       /* which `flat` views */
    size_t mapped;        /* as that of segment_rows */
    int64_t first_key;
    int64_t *keys; /* NULL where each is the one before it and 1 */
    uint64_t *hashes;
    int kept_values;
    value_list values;
};

void segment_normalize(float *x, int dimension)
{
    float largest = 0;
    for (int i = 0; i < dimension; i++)
        largest = fmaxf(largest, fabsf(x[i]));
    if (largest == 0)
        return;
    int exponent;
    frexpf(largest, &exponent);
    /* Squares of components between 2^-40 and 2^40 stay well inside float32 for
    ** any dimension that fits in memory. */
    if (exponent < -40 || exponent > 40) {
        for (int i = 0; i < dimension; i++)
            x[i] = ldexpf(x[i], -exponent);
    }
    faiss_fvec_renorm_L2((size_t)dimension, 1, x);
}

/* ---- making and freeing one ---- */

/* Whether no key is missing between the first and the last. */
static int are_dense(const int64_t *keys, int count)
{
    int i = 0;
    while (i < count && (uint64_t)keys[i] - (uint64_t)keys[0] == (uint64_t)i)
        i++;
    return i == count;
}

static int segment_copy_columns(segment *s, const segment_rows *rows)
{
    size_t count = (size_t)rows->count;
    int dense = are_dense(rows->keys, rows->count);
    s->first_key = rows->keys[0];
    s->keys = dense ? NULL : sqlite3_malloc64(count * sizeof *s->keys);
    s->hashes = sqlite3_malloc64(count * sizeof *s->hashes);
    if ((!dense && !s->keys) || !s->hashes)
        return SQLITE_NOMEM;
    if (!dense)
        memcpy(s->keys, rows->keys, count * sizeof *s->keys);
    memcpy(s->hashes, rows->hashes, count * sizeof *s->hashes);
    return SQLITE_OK;
}

/* Take over the vectors, or a copy where they have room for more, for an index that views them. */
static int take_vectors(segment *s, segment_rows *rows, char **message)
{
    size_t bytes = (size_t)rows->count * (size_t)rows->dimension * sizeof *rows->vectors;
    int rc = flat_open(s->metric, NULL, 0, s->dimension, &s->flat, message);
    if (rc != SQLITE_OK)
        return rc;
    float *fitting = rows->count < rows->room ? malloc(bytes) : NULL;
    if (fitting) {
        memcpy(fitting, rows->vectors, bytes);
        vector_memory_free(rows->vectors, rows->mapped);
    }
    s->vectors = fitting ? fitting : rows->vectors;
    s->mapped = fitting ? 0 : rows->mapped;
    rows->vectors = NULL;
    rows->mapped = 0;
    faiss_shim_view(s->flat, s->vectors, s->count);
    return SQLITE_OK;
}

/* Give the segment its vectors, or the sketch of them. */
static int segment_fill(segment *s, segment_rows *rows, char **message)
{
    int rc = segment_copy_columns(s, rows);
    if (rc == SQLITE_OK && rows->content == SEGMENT_VECTORS)
        return take_vectors(s, rows, message);
    if (rc == SQLITE_OK && rows->content == SEGMENT_SKETCH)
        rc = segment_rows_encode(rows);
    if (rc == SQLITE_OK && rows->content == SEGMENT_SKETCH) {
        sketch_close(rows->sketch);
        atomic_store(&s->sketch, rows->sketch);
        rows->sketch = NULL;
    }
    return rc;
}

int segment_new(vector_metric metric, segment_rows *rows, segment **out, char **message)
{
    *out = NULL;
    segment *s = sqlite3_malloc64(sizeof *s);
    if (!s)
        return SQLITE_NOMEM;
    memset(s, 0, sizeof *s);
    atomic_init(&s->references, 1);
    atomic_init(&s->sketch, NULL);
    atomic_init(&s->holders, 0);
    atomic_init(&s->former, NULL);
    atomic_init(&s->judged_by, 0);
    atomic_init(&s->misfit, 0);
    s->count = rows->count;
    s->dimension = rows->dimension;
    s->metric = metric;
    s->normalizes = metric == METRIC_KIND_COSINE;
    int rc = segment_fill(s, rows, message);
    if (rc != SQLITE_OK) {
        segment_release(s);
        return rc;
    }
    s->kept_values = rows->kept_values;
    s->values = rows->values;
    rows->values = (value_list){0};
    *out = s;
    return SQLITE_OK;
}

segment *segment_retain(segment *s)
{
    atomic_fetch_add_explicit(&s->references, 1, memory_order_relaxed);
    return s;
}

void segment_release(segment *s)
{
    if (!s || atomic_fetch_sub_explicit(&s->references, 1, memory_order_acq_rel) != 1)
        return;
    if (s->flat)
        faiss_IndexFlat_free(s->flat);
    vector_memory_free(s->vectors, s->mapped);
    sketch_free(atomic_load_explicit(&s->sketch, memory_order_acquire));
    sketch_free(atomic_load_explicit(&s->former, memory_order_acquire));
    sqlite3_free(s->keys);
    sqlite3_free(s->hashes);
    value_list_clear(&s->values);
    sqlite3_free(s);
}

/* ---- its sketch ---- */

const sketch *segment_sketch(const segment *s)
{
    return atomic_load_explicit(&s->sketch, memory_order_acquire);
}

/* A search that counts itself among the holders before it reads the pointer gets the new
** sketch if it was swapped before; a thread that finds no holders after the swap may free the
** former one. For that the order of these four operations must be one for all threads. */
const sketch *segment_hold_sketch(const segment *s)
{
    atomic_fetch_add((atomic_int *)&s->holders, 1);
    return atomic_load(&s->sketch);
}

void segment_let_go_sketch(const segment *s)
{
    atomic_fetch_sub((atomic_int *)&s->holders, 1);
}

static int free_former_sketch(segment *s)
{
    if (atomic_load(&s->former) && atomic_load(&s->holders) == 0)
        sketch_free(atomic_exchange(&s->former, NULL));
    return atomic_load(&s->former) ? SQLITE_BUSY : SQLITE_OK;
}

int segment_wants_sketch(const segment *s, unsigned number)
{
    return s->count >= SKETCH_ROWS_LEAST && s->vectors && atomic_load(&s->judged_by) != number;
}

void segment_set_judged(segment *s, unsigned number, int fits)
{
    atomic_store(&s->misfit, !fits);
    atomic_store(&s->judged_by, number);
}

int segment_is_misfit(const segment *s)
{
    return atomic_load(&s->misfit);
}

int segment_make_sketch(segment *s, basis *b, int *fits)
{
    sketch *fresh = NULL;
    int rc = free_former_sketch(s);
    if (rc == SQLITE_OK)
        rc = sketch_new(b, s->vectors, s->count, &fresh);
    if (rc != SQLITE_OK)
        return rc;
    *fits = fresh && sketch_fits(fresh);
    if (fresh) {
        atomic_store(&s->former, atomic_exchange(&s->sketch, fresh));
        free_former_sketch(s);
    }
    return SQLITE_OK;
}

/* ---- its rows ---- */

int segment_count(const segment *s)
{
    return s->count;
}

int segment_dimension(const segment *s)
{
    return s->dimension;
}

int64_t segment_key(const segment *s, int slot)
{
    return s->keys ? s->keys[slot] : s->first_key + slot;
}

int segment_find(const segment *s, int64_t key)
{
    int low = 0, high = s->count - 1;
    /* Where no rowid is missing the key says where it is: its place need not be read. */
    uint64_t guess = (uint64_t)key - (uint64_t)s->first_key, count = (uint64_t)s->count;
    if (!s->keys)
        return guess < count ? (int)guess : -1;
    if (guess < count && s->keys[guess] == key)
        return (int)guess;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (s->keys[middle] < key)
            low = middle + 1;
        else
            high = middle;
    }
    return s->keys[low] == key ? low : -1;
}

uint64_t segment_hash(const segment *s, int slot)
{
    return s->hashes[slot];
}

row_value segment_value(const segment *s, int slot, int i)
{
    return value_list_get(&s->values, slot * s->kept_values + i);
}

int segment_has_vectors(const segment *s)
{
    return s->vectors != NULL;
}

const float *segment_vector(const segment *s, int slot)
{
    return s->vectors + (size_t)slot * (size_t)s->dimension;
}

/* Read slots of a segment without vectors: the rows of the source, made what the metric
** stores. */
static int read_from_source(const segment *s, const vector_reader *reader, const int64_t *slots,
                            int count, float *vectors, char **message)
{
    int64_t *keys = sqlite3_malloc64(((sqlite3_uint64)count + 1) * sizeof *keys);
    uint64_t *hashes = sqlite3_malloc64(((sqlite3_uint64)count + 1) * sizeof *hashes);
    int rc = keys && hashes ? SQLITE_OK : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < count; i++) {
        keys[i] = segment_key(s, (int)slots[i]);
        hashes[i] = s->hashes[slots[i]];
    }
    if (rc == SQLITE_OK)
        rc = reader->read(reader->argument, keys, hashes, count, s->dimension, vectors, message);
    for (int i = 0; rc == SQLITE_OK && s->normalizes && i < count; i++)
        segment_normalize(vectors + (size_t)i * (size_t)s->dimension, s->dimension);
    sqlite3_free(keys);
    sqlite3_free(hashes);
    return rc;
}

int segment_read(const segment *s, const vector_reader *reader, const int64_t *slots, int count,
                 float *vectors, char **message)
{
    size_t d = (size_t)s->dimension;
    if (!s->vectors)
        return read_from_source(s, reader, slots, count, vectors, message);
    for (int i = 0; i < count; i++)
        memcpy(vectors + (size_t)i * d, segment_vector(s, (int)slots[i]), d * sizeof *vectors);
    return SQLITE_OK;
}

size_t segment_bytes(const segment *s)
{
    size_t components = s->flat ? (size_t)s->dimension : 0;
    size_t row = components * sizeof(float) + sizeof *s->hashes;
    row += s->keys ? sizeof *s->keys : 0;
    const sketch *own = segment_hold_sketch(s);
    size_t sketched = own ? sketch_bytes(own) : 0;
    segment_let_go_sketch(s);
    return sizeof *s + (size_t)s->count * row + value_list_bytes(&s->values) + sketched;
}

/* ---- searches ---- */

int segment_search(const segment *s, const float *query, int k, float *scores, int64_t *slots,
                   int *found, char **message)
{
    if (k > s->count)
        k = s->count;
    int rc = flat_search(s->flat, 1, query, k, scores, slots, message);
    if (rc != SQLITE_OK)
        return rc;
    /* FAISS fills up with label -1 where nothing beat its starting value. */
    *found = 0;
    while (*found < k && slots[*found] >= 0)
        ++*found;
    return SQLITE_OK;
}

/* All vectors of a segment that has none in memory, as an index of their own. */
static int read_all(const segment *s, const vector_reader *reader, FaissIndexFlat **out,
                    char **message)
{
    size_t n = (size_t)s->count;
    int64_t *slots = sqlite3_malloc64(n * sizeof *slots);
    float *vectors = sqlite3_malloc64(n * (size_t)s->dimension * sizeof *vectors);
    int rc = slots && vectors ? SQLITE_OK : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < s->count; i++)
        slots[i] = i;
    if (rc == SQLITE_OK)
        rc = segment_read(s, reader, slots, s->count, vectors, message);
    if (rc == SQLITE_OK)
        rc = flat_open(s->metric, vectors, s->count, s->dimension, out, message);
    sqlite3_free(slots);
    sqlite3_free(vectors);
    return rc;
}

int segment_search_batch(const segment *s, const vector_reader *reader, const float *queries,
                         int count, int k, float *scores, int64_t *slots, char **message)
{
    FaissIndexFlat *read = NULL;
    int rc = s->flat ? SQLITE_OK : read_all(s, reader, &read, message);
    if (rc != SQLITE_OK)
        return rc;
    rc = flat_search(read ? read : s->flat, count, queries, k, scores, slots, message);
    if (read)
        faiss_IndexFlat_free(read);
    return rc;
}

/* The largest squared norm of some vectors. */
static int largest_norm(const float *vectors, int count, int dimension, float *largest)
{
    float *norms = sqlite3_malloc64((sqlite3_uint64)count * sizeof *norms);
    if (!norms)
        return SQLITE_NOMEM;
    int threads = faiss_call_use_one_thread();
    faiss_fvec_norms_L2sqr(norms, vectors, (size_t)dimension, (size_t)count);
    faiss_call_restore_threads(threads);
    *largest = 0;
    for (int i = 0; i < count; i++)
        *largest = fmaxf(*largest, norms[i]);
    sqlite3_free(norms);
    return SQLITE_OK;
}

int segment_largest_norm(const segment *s, const vector_reader *reader, float *norm, char **message)
{
    FaissIndexFlat *read = NULL;
    int rc = s->flat ? SQLITE_OK : read_all(s, reader, &read, message);
    if (rc != SQLITE_OK)
        return rc;
    float *vectors = s->vectors;
    size_t components;
    if (read)
        faiss_IndexFlat_xb(read, &vectors, &components);
    rc = largest_norm(vectors, s->count, s->dimension, norm);
    if (read)
        faiss_IndexFlat_free(read);
    return rc;
}

/* ---- scores ---- */

/* Slots whose scores are asked of FAISS at once; it wants every label spelled out. */
enum { SCORES_PIECE = 1024, SCORES_PIECE_BYTES = 256 << 10 };

void segment_fetch(const segment *s, int slot)
{
    enum { LINE_COMPONENTS = 16, COMPONENTS_MOST = 1024 };
    int components = s->dimension < COMPONENTS_MOST ? s->dimension : COMPONENTS_MOST;
    const float *x = s->flat ? segment_vector(s, slot) : NULL;
    for (int i = 0; x && i < components; i += LINE_COMPONENTS)
        __builtin_prefetch(x + i, 0, 1);
}

static void fetch(const segment *s, const idx_t *slots, int count)
{
    for (int i = 0; i < count; i++)
        segment_fetch(s, (int)slots[i]);
}

/* Scores of some slots whose vectors are in memory, while the next ones are fetched. */
static int score_listed(const segment *s, const float *query, const idx_t *slots, int count,
                        float *scores)
{
    enum { PIECE_BYTES = 128 << 10, PIECE_LEAST = 8 };
    int code = 0, piece = PIECE_BYTES / (s->dimension * VECTOR_COMPONENT_BYTES);
    piece = piece < PIECE_LEAST ? PIECE_LEAST : piece;
    fetch(s, slots, count < piece ? count : piece);
    for (int begin = 0; begin < count && code == 0; begin += piece) {
        int n = count - begin < piece ? count - begin : piece, next = begin + n;
        fetch(s, slots + next, count - next < piece ? count - next : piece);
        code = faiss_IndexFlat_compute_distance_subset(s->flat, 1, query, n, scores + begin,
                                                       slots + begin);
    }
    return code;
}

/* Scores of a few slots whose vectors are in memory. */
static int score_in_memory(const FaissIndexFlat *flat, const float *query, int first, int count,
                           float *scores, char **message)
{
    idx_t labels[SCORES_PIECE];
    for (int i = 0; i < count; i++)
        labels[i] = first + i;
    return flat_scores(flat, 1, query, count, labels, scores, message);
}

/* Scores of a few slots whose vectors are in the source, against an index of the query alone.
** Both metrics are symmetric to the last bit: each component enters as a product of two factors
** or a square of a difference. */
static int score_from_source(const segment *s, const vector_reader *reader,
                             const FaissIndexFlat *query, const int64_t *slots, int first,
                             int count, float *scores, float *vectors, char **message)
{
    int64_t numbers[SCORES_PIECE];
    for (int i = 0; i < count; i++)
        numbers[i] = slots ? slots[i] : first + i;
    int rc = segment_read(s, reader, numbers, count, vectors, message);
    if (rc != SQLITE_OK)
        return rc;
    memset(numbers, 0, (size_t)count * sizeof *numbers); /* the query's place */
    return flat_scores(query, count, vectors, 1, numbers, scores, message);
}

/* Rows that are read and scored together: so few that they are still in the processor's cache. */
static int rows_at_once(const segment *s)
{
    int row = s->dimension * VECTOR_COMPONENT_BYTES, rows = SCORES_PIECE_BYTES / row + 1;
    return rows < SCORES_PIECE ? rows : SCORES_PIECE;
}

static int score_all_from_source(const segment *s, const vector_reader *reader, const float *query,
                                 const int64_t *slots, int count, float *scores, char **message)
{
    int piece = rows_at_once(s);
    FaissIndexFlat *flat = NULL;
    size_t held = (size_t)(count < piece ? count + 1 : piece);
    float *vectors = sqlite3_malloc64(held * (size_t)s->dimension * sizeof *vectors);
    int rc = vectors ? flat_open(s->metric, query, 1, s->dimension, &flat, message) : SQLITE_NOMEM;
    for (int begin = 0; begin < count && rc == SQLITE_OK; begin += piece) {
        int n = count - begin < piece ? count - begin : piece;
        rc = score_from_source(s, reader, flat, slots ? slots + begin : NULL, begin, n,
                               scores + begin, vectors, message);
    }
    if (flat)
        faiss_IndexFlat_free(flat);
    sqlite3_free(vectors);
    return rc;
}

int segment_scores(const segment *s, const vector_reader *reader, const float *query,
                   const int64_t *slots, int count, float *scores, char **message)
{
    if (!s->flat)
        return score_all_from_source(s, reader, query, slots, count, scores, message);
    if (slots) {
        int threads = faiss_call_use_one_thread();
        int code = score_listed(s, query, slots, count, scores);
        faiss_call_restore_threads(threads);
        return code == 0 ? SQLITE_OK : faiss_call_failure(code, message);
    }
    int rc = SQLITE_OK;
    for (int begin = 0; begin < count && rc == SQLITE_OK; begin += SCORES_PIECE) {
        int n = count - begin < SCORES_PIECE ? count - begin : SCORES_PIECE;
        rc = score_in_memory(s->flat, query, begin, n, scores + begin, message);
    }
    return rc;
}
