#include "segment.h"

#include <math.h>
#include <omp.h>
#include <stdatomic.h>
#include <string.h>

#include <c_api/IndexFlat_c.h>
#include <c_api/Index_c.h>
#include <c_api/error_c.h>
#include <c_api/utils/distances_c.h>
#include <c_api/utils/utils_c.h>

#include "message.h"

/* Rows encoded together. */
enum { SKETCH_PIECE = 256 };

struct segment {
    atomic_int references;
    _Atomic(sketch *) sketch; /* NULL before the first */
    atomic_int holders;       /* searches that use the sketch, or the former one: */
    _Atomic(sketch *) former; /* freed when there are none; NULL for none */
    atomic_uint judged_by;    /* number of the basis that it has a sketch by, or not */
    int count;
    int dimension;
    int normalizes; /* what the source holds, to what is stored */
    vector_metric metric;
    FaissIndexFlat *flat; /* NULL where the source alone has the vectors */
    const float *vectors; /* inside `flat`, which never grows */
    int64_t *keys;
    uint64_t *hashes;
    int kept_values;
    value_list values;
};

struct scorer {
    int dimension;
    int normalize;
    FaissIndexFlat *flat; /* holds the query as its only vector */
    float *scratch;       /* a normalized copy of the other one */
};

int segment_use_one_thread(void)
{
    int threads = omp_get_max_threads();
    if (threads != 1)
        omp_set_num_threads(1);
    return threads;
}

void segment_restore_threads(int threads)
{
    if (threads != 1)
        omp_set_num_threads(threads);
}

/* Exceptions of the C++ library, and those that are
** none, come from memory alone here: what can be wrong with arguments is checked
** before. FAISS's own text begins with a function and a source line, which mean
** nothing to the user. */
int segment_failure(int code, char **message)
{
    const char *text = faiss_get_last_error();
    if (code != FAISS_EXCEPT || !text || strstr(text, "bad_alloc"))
        return SQLITE_NOMEM;
    const char *colon = strstr(text, ": ");
    return set_message(message, sqlite3_mprintf("FAISS: %s", colon ? colon + 2 : text));
}

static FaissMetricType faiss_metric(vector_metric metric)
{
    return metric == METRIC_KIND_L2 ? METRIC_L2 : METRIC_INNER_PRODUCT;
}

const char *segment_faiss_version(void)
{
    return faiss_get_version();
}

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

int segment_capacity(int dimension)
{
    int64_t rows = SEGMENT_BYTES / ((int64_t)dimension * VECTOR_COMPONENT_BYTES);
    if (rows < SEGMENT_MIN_ROWS)
        return SEGMENT_MIN_ROWS;
    return rows > SEGMENT_MAX_ROWS ? SEGMENT_MAX_ROWS : (int)rows;
}

void segment_rows_open(segment_rows *rows, int dimension, int kept_values)
{
    *rows = (segment_rows){.dimension = dimension,
                           .kept_values = kept_values,
                           .capacity = segment_capacity(dimension)};
}

void segment_rows_keep(segment_rows *rows, segment_content content, basis *b)
{
    rows->content = content;
    rows->basis = content == SEGMENT_SKETCH ? basis_retain(b) : NULL;
}

/* Vectors that are in memory at once, of `room` rows. */
static size_t vectors_held(const segment_rows *rows, int room)
{
    return rows->content == SEGMENT_VECTORS  ? (size_t)room
           : rows->content == SEGMENT_SKETCH ? SKETCH_PIECE
                                             : 1;
}

/* Make room for `more` rows, doubling it on the way to a full segment. */
static int segment_rows_reserve(segment_rows *rows, int more)
{
    int room = rows->room ? rows->room : SEGMENT_MIN_ROWS;
    if (rows->count + more <= rows->room)
        return SQLITE_OK;
    while (room < rows->count + more)
        room *= 2;
    if (room > rows->capacity)
        room = rows->capacity;
    size_t n = (size_t)room;
    size_t components = vectors_held(rows, room) * (size_t)rows->dimension;
    float *vectors = sqlite3_realloc64(rows->vectors, components * sizeof *rows->vectors);
    if (vectors)
        rows->vectors = vectors;
    int64_t *keys = sqlite3_realloc64(rows->keys, n * sizeof *rows->keys);
    if (keys)
        rows->keys = keys;
    uint64_t *hashes = sqlite3_realloc64(rows->hashes, n * sizeof *rows->hashes);
    if (hashes)
        rows->hashes = hashes;
    if (!vectors || !keys || !hashes)
        return SQLITE_NOMEM;
    rows->room = room;
    return SQLITE_OK;
}

/* Encode what is pending. */
static int encode_pending(segment_rows *rows)
{
    int rc = rows->sketch ? SQLITE_OK : sketch_open(rows->basis, &rows->sketch);
    if (rc == SQLITE_OK && rows->pending)
        rc = sketch_add(rows->sketch, rows->vectors, rows->pending);
    if (rc == SQLITE_OK)
        rows->pending = 0;
    return rc;
}

/* Count a row whose vector, or what is kept of it, is there. */
static void count_row(segment_rows *rows, int64_t key, uint64_t hash)
{
    rows->keys[rows->count] = key;
    rows->hashes[rows->count] = hash;
    rows->count++;
}

/* Where the vector of the next row goes; NULL when memory is short. */
static float *next_vector(segment_rows *rows)
{
    if (segment_rows_reserve(rows, 1) != SQLITE_OK ||
        (rows->pending == SKETCH_PIECE && encode_pending(rows) != SQLITE_OK))
        return NULL;
    int place = rows->content == SEGMENT_VECTORS ? rows->count : rows->pending;
    return rows->vectors + (size_t)place * (size_t)rows->dimension;
}

int segment_rows_append(segment_rows *rows, const void *embedding, int normalize, int64_t key,
                        uint64_t hash, const row_value *values)
{
    float *stored = next_vector(rows);
    if (!stored)
        return SQLITE_NOMEM;
    memcpy(stored, embedding, (size_t)rows->dimension * sizeof *stored);
    if (vector_first_nonfinite(stored, rows->dimension) >= 0)
        return SQLITE_MISMATCH;
    for (int i = 0; i < rows->kept_values; i++) {
        if (value_list_append(&rows->values, &values[i]) != SQLITE_OK)
            return SQLITE_NOMEM;
    }
    if (normalize && rows->content != SEGMENT_KEYS)
        segment_normalize(stored, rows->dimension);
    rows->pending += rows->content == SEGMENT_SKETCH;
    count_row(rows, key, hash);
    return SQLITE_OK;
}

/* Append a slot with what is left of a vector that is not in memory. */
static int take_without_vector(segment_rows *rows, const segment *s, int slot)
{
    int rc = segment_rows_reserve(rows, 1);
    if (rc == SQLITE_OK && rows->content == SEGMENT_VECTORS)
        rc = SQLITE_INTERNAL;
    if (rc == SQLITE_OK && rows->content == SEGMENT_SKETCH) {
        const sketch *own = segment_sketch(s);
        rc = encode_pending(rows);
        if (rc == SQLITE_OK)
            rc = own ? sketch_add_row(rows->sketch, own, slot) : sketch_add_outlier(rows->sketch);
    }
    if (rc == SQLITE_OK)
        count_row(rows, s->keys[slot], s->hashes[slot]);
    return rc;
}

int segment_rows_take(segment_rows *rows, const segment *s, int slot)
{
    if (!s->vectors)
        return take_without_vector(rows, s, slot);
    float *stored = next_vector(rows);
    if (!stored)
        return SQLITE_NOMEM;
    for (int i = 0; i < rows->kept_values; i++) {
        row_value value = segment_value(s, slot, i);
        if (value_list_append(&rows->values, &value) != SQLITE_OK)
            return SQLITE_NOMEM;
    }
    memcpy(stored, segment_vector(s, slot), (size_t)rows->dimension * sizeof *stored);
    rows->pending += rows->content == SEGMENT_SKETCH;
    count_row(rows, s->keys[slot], s->hashes[slot]);
    return SQLITE_OK;
}

void segment_rows_reset(segment_rows *rows)
{
    rows->count = rows->pending = 0;
    sketch_free(rows->sketch);
    rows->sketch = NULL;
    value_list_clear(&rows->values);
}

void segment_rows_close(segment_rows *rows)
{
    sqlite3_free(rows->vectors);
    sqlite3_free(rows->keys);
    sqlite3_free(rows->hashes);
    sketch_free(rows->sketch);
    basis_release(rows->basis);
    value_list_clear(&rows->values);
    *rows = (segment_rows){0};
}

/* A flat index that holds exactly these vectors. */
static int flat_open(vector_metric metric, const float *vectors, int count, int dimension,
                     FaissIndexFlat **out, char **message)
{
    *out = NULL;
    int code = faiss_IndexFlat_new_with(out, dimension, faiss_metric(metric));
    if (code == 0)
        code = faiss_Index_add(*out, count, vectors);
    if (code == 0)
        return SQLITE_OK;
    int rc = segment_failure(code, message);
    if (*out)
        faiss_IndexFlat_free(*out);
    *out = NULL;
    return rc;
}

static int segment_copy_columns(segment *s, const segment_rows *rows)
{
    size_t count = (size_t)rows->count;
    s->keys = sqlite3_malloc64(count * sizeof *s->keys);
    s->hashes = sqlite3_malloc64(count * sizeof *s->hashes);
    if (!s->keys || !s->hashes)
        return SQLITE_NOMEM;
    memcpy(s->keys, rows->keys, count * sizeof *s->keys);
    memcpy(s->hashes, rows->hashes, count * sizeof *s->hashes);
    return SQLITE_OK;
}

/* Give the segment its vectors, or take over the sketch of them. */
static int segment_fill(segment *s, segment_rows *rows, char **message)
{
    float *vectors;
    size_t components;
    int rc = segment_copy_columns(s, rows);
    if (rc == SQLITE_OK && rows->content == SEGMENT_VECTORS) {
        rc = flat_open(s->metric, rows->vectors, rows->count, rows->dimension, &s->flat, message);
        if (rc == SQLITE_OK)
            faiss_IndexFlat_xb(s->flat, &vectors, &components);
        s->vectors = rc == SQLITE_OK ? vectors : NULL;
    } else if (rc == SQLITE_OK && rows->content == SEGMENT_SKETCH) {
        rc = encode_pending(rows);
        if (rc == SQLITE_OK) {
            sketch_close(rows->sketch);
            atomic_store(&s->sketch, rows->sketch);
            rows->sketch = NULL;
        }
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
    sketch_free(atomic_load_explicit(&s->sketch, memory_order_acquire));
    sketch_free(atomic_load_explicit(&s->former, memory_order_acquire));
    sqlite3_free(s->keys);
    sqlite3_free(s->hashes);
    value_list_clear(&s->values);
    sqlite3_free(s);
}

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

int segment_make_sketch(segment *s, basis *b, unsigned number, int *fits)
{
    sketch *fresh = NULL;
    int rc = free_former_sketch(s);
    if (rc == SQLITE_OK && b)
        rc = sketch_new(b, s->vectors, s->count, &fresh);
    if (rc != SQLITE_OK)
        return rc;
    *fits = fresh && sketch_fits(fresh);
    if (fresh) {
        atomic_store(&s->former, atomic_exchange(&s->sketch, fresh));
        free_former_sketch(s);
    }
    atomic_store(&s->judged_by, number);
    return SQLITE_OK;
}

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
    return s->keys[slot];
}

int segment_find(const segment *s, int64_t key)
{
    int low = 0, high = s->count - 1;
    /* Where no rowid is missing the key says where it is. */
    uint64_t guess = (uint64_t)key - (uint64_t)s->keys[0];
    if (guess < (uint64_t)s->count && s->keys[guess] == key)
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
        keys[i] = s->keys[slots[i]];
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
    size_t row = components * sizeof(float) + sizeof *s->keys + sizeof *s->hashes;
    const sketch *own = segment_hold_sketch(s);
    size_t sketched = own ? sketch_bytes(own) : 0;
    segment_let_go_sketch(s);
    return sizeof *s + (size_t)s->count * row + value_list_bytes(&s->values) + sketched;
}

int segment_search(const segment *s, const float *query, int k, float *scores, int64_t *slots,
                   int *found, char **message)
{
    if (k > s->count)
        k = s->count;
    int threads = segment_use_one_thread();
    int code = faiss_Index_search(s->flat, 1, query, k, scores, slots);
    segment_restore_threads(threads);
    if (code != 0)
        return segment_failure(code, message);
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
    int threads = segment_use_one_thread();
    int code = faiss_Index_search(read ? read : s->flat, count, queries, k, scores, slots);
    segment_restore_threads(threads);
    rc = code == 0 ? SQLITE_OK : segment_failure(code, message);
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
    int threads = segment_use_one_thread();
    faiss_fvec_norms_L2sqr(norms, vectors, (size_t)dimension, (size_t)count);
    segment_restore_threads(threads);
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
    float *vectors = (float *)s->vectors;
    size_t components;
    if (read)
        faiss_IndexFlat_xb(read, &vectors, &components);
    rc = largest_norm(vectors, s->count, s->dimension, norm);
    if (read)
        faiss_IndexFlat_free(read);
    return rc;
}

/* Slots whose scores are asked of FAISS at once; it wants every label spelled out. */
enum { SCORES_PIECE = 1024, SCORES_PIECE_BYTES = 256 << 10 };

/* Have the processor fetch the vectors of some slots that lie apart. */
static void fetch(const float *vectors, int dimension, const idx_t *slots, int count)
{
    enum { LINE_COMPONENTS = 16, COMPONENTS_MOST = 1024 };
    int components = dimension < COMPONENTS_MOST ? dimension : COMPONENTS_MOST;
    for (int i = 0; i < count; i++) {
        const float *x = vectors + (size_t)slots[i] * (size_t)dimension;
        for (int j = 0; j < components; j += LINE_COMPONENTS)
            __builtin_prefetch(x + j);
    }
}

/* Scores of some slots whose vectors are in memory, while the next ones are fetched. */
static int score_listed(const segment *s, const float *query, const idx_t *slots, int count,
                        float *scores)
{
    enum { PIECE_BYTES = 48 << 10, PIECE_LEAST = 8 };
    int code = 0, piece = PIECE_BYTES / (s->dimension * VECTOR_COMPONENT_BYTES);
    piece = piece < PIECE_LEAST ? PIECE_LEAST : piece;
    fetch(s->vectors, s->dimension, slots, count < piece ? count : piece);
    for (int begin = 0; begin < count && code == 0; begin += piece) {
        int n = count - begin < piece ? count - begin : piece, next = begin + n;
        fetch(s->vectors, s->dimension, slots + next, count - next < piece ? count - next : piece);
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
    int threads = segment_use_one_thread();
    int code = faiss_IndexFlat_compute_distance_subset((FaissIndexFlat *)flat, 1, query, count,
                                                       scores, labels);
    segment_restore_threads(threads);
    return code == 0 ? SQLITE_OK : segment_failure(code, message);
}

/* Scores of a few slots whose vectors are in the source: those of an index of just these. */
static int score_from_source(const segment *s, const vector_reader *reader, const float *query,
                             const int64_t *slots, int first, int count, float *scores,
                             float *vectors, char **message)
{
    int64_t numbers[SCORES_PIECE];
    FaissIndexFlat *flat = NULL;
    for (int i = 0; i < count; i++)
        numbers[i] = slots ? slots[i] : first + i;
    int rc = segment_read(s, reader, numbers, count, vectors, message);
    if (rc == SQLITE_OK)
        rc = flat_open(s->metric, vectors, count, s->dimension, &flat, message);
    if (rc == SQLITE_OK)
        rc = score_in_memory(flat, query, 0, count, scores, message);
    if (flat)
        faiss_IndexFlat_free(flat);
    return rc;
}

int segment_scores(const segment *s, const vector_reader *reader, const float *query,
                   const int64_t *slots, int count, float *scores, char **message)
{
    int piece = SCORES_PIECE, rc = SQLITE_OK;
    float *vectors = NULL;
    if (s->flat && slots) {
        int threads = segment_use_one_thread();
        int code = score_listed(s, query, slots, count, scores);
        segment_restore_threads(threads);
        return code == 0 ? SQLITE_OK : segment_failure(code, message);
    }
    if (!s->flat) {
        size_t row = (size_t)s->dimension * sizeof *vectors;
        piece = row < SCORES_PIECE_BYTES / SCORES_PIECE ? SCORES_PIECE
                                                        : (int)(SCORES_PIECE_BYTES / row) + 1;
        vectors = sqlite3_malloc64((size_t)(count < piece ? count + 1 : piece) * row);
        if (!vectors)
            return SQLITE_NOMEM;
    }
    for (int begin = 0; begin < count && rc == SQLITE_OK; begin += piece) {
        int n = count - begin < piece ? count - begin : piece;
        const int64_t *own = slots ? slots + begin : NULL;
        rc = s->flat ? score_in_memory(s->flat, query, begin, n, scores + begin, message)
                     : score_from_source(s, reader, query, own, begin, n, scores + begin, vectors,
                                         message);
    }
    sqlite3_free(vectors);
    return rc;
}

int scorer_open(vector_metric metric, const float *query, int dimension, scorer **out,
                char **message)
{
    *out = NULL;
    scorer *s = sqlite3_malloc64(sizeof *s);
    if (!s)
        return SQLITE_NOMEM;
    *s = (scorer){.dimension = dimension, .normalize = metric == METRIC_KIND_COSINE};
    s->scratch = sqlite3_malloc64((size_t)dimension * sizeof *s->scratch);
    int rc = s->scratch ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        memcpy(s->scratch, query, (size_t)dimension * sizeof *query);
        if (s->normalize)
            segment_normalize(s->scratch, dimension);
        rc = flat_open(metric, s->scratch, 1, dimension, &s->flat, message);
    }
    if (rc != SQLITE_OK) {
        scorer_close(s);
        return rc;
    }
    *out = s;
    return SQLITE_OK;
}

int scorer_score(scorer *s, const float *x, float *score, char **message)
{
    if (s->normalize) {
        memcpy(s->scratch, x, (size_t)s->dimension * sizeof *x);
        segment_normalize(s->scratch, s->dimension);
        x = s->scratch;
    }
    /* Both metrics are symmetric to the last bit: each component enters as a
    ** product of two factors or a square of a difference. */
    const idx_t first = 0;
    int threads = segment_use_one_thread();
    int code = faiss_IndexFlat_compute_distance_subset(s->flat, 1, x, 1, score, &first);
    segment_restore_threads(threads);
    return code == 0 ? SQLITE_OK : segment_failure(code, message);
}

int scorer_dimension(const scorer *s)
{
    return s->dimension;
}

void scorer_close(scorer *s)
{
    if (!s)
        return;
    if (s->flat)
        faiss_IndexFlat_free(s->flat);
    sqlite3_free(s->scratch);
    sqlite3_free(s);
}
