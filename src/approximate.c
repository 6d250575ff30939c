#include "approximate.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <c_api/Index_c.h>
#include <c_api/index_factory_c.h>

#include "faiss_shim.h"
#include "message.h"

/* So many searches at once find what an earlier one has left. */
enum { VISITED_KEPT = 8 };

struct approximate {
    atomic_int references;
    index_kind kind;
    vector_metric metric;
    int dimension;
    int is_small; /* it keeps prints instead of hashes */
    FaissIndex *faiss;
    _Atomic(faiss_shim_visited *) visited[VISITED_KEPT]; /* of searches that are over, or NULL */
    int64_t count, room;
    int64_t first_key; /* keys are kept as what they are more than this, … */
    int32_t *offsets;
    int64_t *keys;    /* … or, if one of them is too far away, as they are: one is NULL */
    uint64_t *hashes; /* or the upper halves of them: one is NULL */
    uint32_t *prints;
    uint32_t *table;       /* places by hash, counted from 1: open addressing, at most 4/5 full; */
    uint64_t slots;        /* of the table; none as long as keys ascend from place to place */
    double trained_misfit; /* of the rows it was trained on, 0: not known */
    atomic_uint_fast64_t stored; /* the number by which it was loaded or stored, or 0 */
};

/* Vectors of the metric cosine have length 1: there the nearest by l2 are the same, and
** graphs and centroids do better with a metric proper. */
static FaissMetricType faiss_metric_of(vector_metric metric)
{
    return metric == METRIC_KIND_IP ? METRIC_INNER_PRODUCT : METRIC_L2;
}

static int make(const index_kind *kind, vector_metric metric, int dimension, FaissIndex **out,
                char **message)
{
    *out = NULL;
    int code = faiss_index_factory(out, dimension, kind->text, faiss_metric_of(metric));
    return code == 0 ? SQLITE_OK : segment_failure(code, message);
}

int approximate_check(const index_kind *kind, vector_metric metric, int dimension, char **message)
{
    FaissIndex *tried;
    char *why = NULL;
    int rc = make(kind, metric, dimension, &tried, &why);
    if (rc == SQLITE_OK)
        faiss_Index_free(tried);
    else if (rc == SQLITE_ERROR)
        rc = set_message(message, sqlite3_mprintf("index=%s does not suit %d dimensions: %s",
                                                  kind->text, dimension, why ? why : ""));
    sqlite3_free(why);
    return rc;
}

int approximate_takes(const float *x, int dimension)
{
    /* The square of the sum of two such lengths, and sums of some, are far from float32's end. */
    const double square_most = 1e30;
    double square = 0;
    for (int i = 0; i < dimension; i++)
        square += (double)x[i] * x[i];
    return square <= square_most;
}

/* ---- rows by hash ---- */

static uint32_t print_of(uint64_t hash)
{
    return (uint32_t)(hash >> 32);
}

static uint32_t print_at(const approximate *a, int64_t place)
{
    return a->prints ? a->prints[place] : print_of(a->hashes[place]);
}

static int has_hash(const approximate *a, int64_t place, uint64_t hash)
{
    return a->prints ? a->prints[place] == print_of(hash) : a->hashes[place] == hash;
}

/* Where in the table to begin to look for a row. */
static uint64_t table_start(const approximate *a, uint32_t print)
{
    return print * a->slots >> 32;
}

static uint64_t table_next(const approximate *a, uint64_t i)
{
    return i + 1 == a->slots ? 0 : i + 1;
}

static void table_put(approximate *a, int64_t place)
{
    uint64_t i = table_start(a, print_at(a, place));
    while (a->table[i])
        i = table_next(a, i);
    a->table[i] = (uint32_t)place + 1;
}

/* An array of so many rows in the place of another; *rc is set when memory is short, and the
** array is then as it was. */
static void *lengthen(void *array, int64_t rows, size_t size, int *rc)
{
    void *longer = sqlite3_realloc64(array, (sqlite3_uint64)rows * size);
    if (!longer)
        *rc = SQLITE_NOMEM;
    return longer ? longer : array;
}

/* Find rows by a table from now on, with room for so many. */
static int make_table(approximate *a, int64_t rows)
{
    uint64_t slots = (uint64_t)rows + (uint64_t)rows / 4 + 1;
    uint32_t *table = sqlite3_malloc64(slots * sizeof *table);
    if (!table)
        return SQLITE_NOMEM;
    sqlite3_free(a->table);
    memset(table, 0, slots * sizeof *table);
    a->table = table;
    a->slots = slots;
    for (int64_t place = 0; place < a->count; place++)
        table_put(a, place);
    return SQLITE_OK;
}

/* Make room for so many rows in all. */
static int reserve(approximate *a, int64_t rows)
{
    if (rows <= a->room)
        return SQLITE_OK;
    if (rows >= INT32_MAX)
        return SQLITE_TOOBIG;
    int rc = SQLITE_OK;
    if (a->keys)
        a->keys = lengthen(a->keys, rows, sizeof *a->keys, &rc);
    else
        a->offsets = lengthen(a->offsets, rows, sizeof *a->offsets, &rc);
    if (a->is_small)
        a->prints = lengthen(a->prints, rows, sizeof *a->prints, &rc);
    else
        a->hashes = lengthen(a->hashes, rows, sizeof *a->hashes, &rc);
    if (rc == SQLITE_OK && a->table)
        rc = make_table(a, rows);
    if (rc == SQLITE_OK)
        a->room = rows;
    return rc;
}

int64_t approximate_key(const approximate *a, int64_t place)
{
    /* Unsigned: the ends of the range are next to each other, too. */
    return a->keys ? a->keys[place]
                   : (int64_t)((uint64_t)a->first_key + (uint64_t)a->offsets[place]);
}

/* Keep keys as they are from now on. */
static int widen_keys(approximate *a)
{
    int64_t *keys = sqlite3_malloc64((sqlite3_uint64)(a->room + 1) * sizeof *keys);
    if (!keys)
        return SQLITE_NOMEM;
    for (int64_t place = 0; place < a->count; place++)
        keys[place] = approximate_key(a, place);
    sqlite3_free(a->offsets);
    a->offsets = NULL;
    a->keys = keys;
    return SQLITE_OK;
}

/* Whether a key is kept as its distance from the first one. */
static int is_near(const approximate *a, int64_t key)
{
    uint64_t from_least = (uint64_t)key - (uint64_t)a->first_key + (uint64_t)INT32_MAX;
    return from_least <= UINT32_MAX - 1u;
}

/* Put a row behind the others; there is room. */
static int put_row(approximate *a, int64_t key, uint64_t hash)
{
    if (a->count == 0)
        a->first_key = key;
    if (!a->keys && !is_near(a, key)) {
        int rc = widen_keys(a);
        if (rc != SQLITE_OK)
            return rc;
    }
    if (!a->table && a->count > 0 && key <= approximate_key(a, a->count - 1)) {
        int rc = make_table(a, a->room);
        if (rc != SQLITE_OK)
            return rc;
    }
    if (a->keys)
        a->keys[a->count] = key;
    else
        a->offsets[a->count] = (int32_t)((uint64_t)key - (uint64_t)a->first_key);
    if (a->is_small)
        a->prints[a->count] = print_of(hash);
    else
        a->hashes[a->count] = hash;
    if (a->table)
        table_put(a, a->count);
    a->count++;
    return SQLITE_OK;
}

/* The hash of a row, as far as it is kept. */
static uint64_t hash_at(const approximate *a, int64_t place)
{
    return a->prints ? (uint64_t)a->prints[place] << 32 : a->hashes[place];
}

/* The place of a key where keys ascend, -1 if it is not there. */
static int64_t find_key(const approximate *a, int64_t key)
{
    int64_t low = 0, high = a->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (approximate_key(a, middle) < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < a->count && approximate_key(a, low) == key ? low : -1;
}

int64_t approximate_find(const approximate *a, int64_t key, uint64_t hash, int64_t after)
{
    if (!a->table) {
        int64_t place = find_key(a, key);
        return place > after && has_hash(a, place, hash) ? place : -1;
    }
    int passed = after < 0;
    for (uint64_t i = table_start(a, print_of(hash)); a->table[i]; i = table_next(a, i)) {
        int64_t place = (int64_t)a->table[i] - 1;
        if (passed && has_hash(a, place, hash) && approximate_key(a, place) == key)
            return place;
        passed |= place == after;
    }
    return -1;
}

/* ---- making it ---- */

static approximate *allocate(const index_kind *kind, vector_metric metric, int dimension,
                             int is_small)
{
    approximate *a = sqlite3_malloc64(sizeof *a);
    if (!a)
        return NULL;
    memset(a, 0, sizeof *a);
    atomic_init(&a->references, 1);
    atomic_init(&a->stored, 0);
    for (int i = 0; i < VISITED_KEPT; i++)
        atomic_init(&a->visited[i], NULL);
    a->kind = *kind;
    a->metric = metric;
    a->dimension = dimension;
    a->is_small = is_small;
    return a;
}

/* What both ways to begin have in common. */
static int begin(approximate *a, int rc, int64_t rows, approximate **out, char **message)
{
    if (rc == SQLITE_OK)
        rc = reserve(a, rows);
    if (rc == SQLITE_OK) {
        int code = faiss_shim_reserve(a->faiss, rows);
        rc = code == 0 ? SQLITE_OK : segment_failure(code, message);
    }
    if (rc == SQLITE_OK)
        *out = a;
    else
        approximate_release(a);
    return rc;
}

int approximate_open(const index_kind *kind, vector_metric metric, int dimension, int is_small,
                     int64_t rows, approximate **out, char **message)
{
    *out = NULL;
    approximate *a = allocate(kind, metric, dimension, is_small);
    if (!a)
        return SQLITE_NOMEM;
    int rc = make(kind, metric, dimension, &a->faiss, message);
    if (rc == SQLITE_OK)
        faiss_shim_prepare(a->faiss, kind->ef_construction);
    return begin(a, rc, rows, out, message);
}

static int copy_rows(approximate *a, const approximate *from, int64_t rows)
{
    int rc = reserve(a, rows > from->count ? rows : from->count);
    for (int64_t place = 0; rc == SQLITE_OK && place < from->count; place++)
        rc = put_row(a, approximate_key(from, place), hash_at(from, place));
    return rc;
}

int approximate_open_from(const approximate *from, int empty, int64_t rows, approximate **out,
                          char **message)
{
    *out = NULL;
    approximate *a = allocate(&from->kind, from->metric, from->dimension, from->is_small);
    if (!a)
        return SQLITE_NOMEM;
    a->trained_misfit = from->trained_misfit;
    int code = faiss_shim_copy(from->faiss, &a->faiss);
    if (code == 0 && empty)
        code = faiss_Index_reset(a->faiss);
    int rc = code == 0 ? SQLITE_OK : segment_failure(code, message);
    if (rc == SQLITE_OK && !empty)
        rc = copy_rows(a, from, rows);
    return begin(a, rc, rows, out, message);
}

/* How the caller is asked while FAISS trains. */
typedef struct asking {
    index_check *check;
    void *argument;
    int rc;
    char *message;
} asking;

static int wants_stop(void *argument)
{
    asking *a = argument;
    if (a->rc == SQLITE_OK)
        a->rc = a->check(a->argument, &a->message);
    return a->rc != SQLITE_OK;
}

/* 0 where FAISS has no codes to compare with. */
static double misfit_of(const approximate *a, const float *vectors, int count)
{
    double misfit;
    int threads = segment_use_one_thread();
    int code = faiss_shim_misfit(a->faiss, count, vectors, &misfit);
    segment_restore_threads(threads);
    return code == 0 ? misfit : 0;
}

double approximate_misfit(const approximate *a, const float *vectors, int count)
{
    return a->trained_misfit > 0 ? misfit_of(a, vectors, count) / a->trained_misfit : 0;
}

double approximate_trained_misfit(const approximate *a)
{
    return a->trained_misfit;
}

void approximate_note_trained_misfit(approximate *a, double misfit)
{
    a->trained_misfit = misfit;
}

int approximate_train(approximate *a, const float *sample, int count, index_check *check,
                      void *argument, char **message)
{
    if (!a->kind.is_trained)
        return SQLITE_OK;
    asking asked = {.check = check, .argument = argument};
    int threads = segment_use_one_thread();
    if (check)
        faiss_shim_watch(wants_stop, &asked);
    int code = faiss_shim_learn(a->faiss, count, sample);
    if (check)
        faiss_shim_watch(NULL, NULL);
    segment_restore_threads(threads);
    if (asked.rc != SQLITE_OK) {
        *message = asked.message;
        return asked.rc;
    }
    if (code != 0)
        return segment_failure(code, message);
    enum { JUDGED = 1024 };
    a->trained_misfit = misfit_of(a, sample, count < JUDGED ? count : JUDGED);
    return SQLITE_OK;
}

int approximate_slice(const approximate *a)
{
    /* Multiplications in 20 ms, and about how many a row takes: a graph compares it with the
    ** neighbours of ef_construction others; lists and codes with all centroids. */
    enum { MEMORY = 64, EF_CONSTRUCTION = 40, CODE = 320, SLICE_MOST = 16384 };
    const double by_neighbours = 6e7, by_centroids = 2e8;
    const index_kind *k = &a->kind;
    double d = a->dimension, rows = by_centroids / (d * (k->lists + CODE + d));
    if (k->links) {
        double tried = k->ef_construction ? k->ef_construction : EF_CONSTRUCTION;
        rows = by_neighbours / (2.0 * k->links * tried * (d + MEMORY));
    }
    return rows < 1 ? 1 : rows > SLICE_MOST ? SLICE_MOST : (int)rows;
}

int approximate_add(approximate *a, const float *vectors, const int64_t *keys,
                    const uint64_t *hashes, int count, char **message)
{
    if (a->count + count > a->room) {
        int rc = reserve(a, a->count + count + a->room / 2);
        if (rc != SQLITE_OK)
            return rc;
    }
    int threads = segment_use_one_thread();
    int code = faiss_Index_add(a->faiss, count, vectors);
    segment_restore_threads(threads);
    if (code != 0)
        return segment_failure(code, message);
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < count; i++)
        rc = put_row(a, keys[i], hashes[i]);
    return rc;
}

typedef struct sorted_row {
    int64_t key, place;
    uint64_t hash;
} sorted_row;

static int compare_rows(const void *a, const void *b)
{
    int64_t x = ((const sorted_row *)a)->key, y = ((const sorted_row *)b)->key;
    return (x > y) - (x < y);
}

/* Put what is known of the rows in this order; *order is that of their places. */
static int reorder(approximate *a, const sorted_row *rows, int64_t *order)
{
    int64_t count = a->count;
    int rc = SQLITE_OK;
    sqlite3_free(a->table);
    a->table = NULL;
    a->slots = 0;
    a->count = 0;
    for (int64_t i = 0; rc == SQLITE_OK && i < count; i++) {
        order[i] = rows[i].place;
        rc = put_row(a, rows[i].key, rows[i].hash);
    }
    return rc;
}

int approximate_sort(approximate *a, char **message)
{
    if (!a->table || !a->kind.links)
        return SQLITE_OK;
    sqlite3_uint64 n = (sqlite3_uint64)a->count;
    sorted_row *rows = sqlite3_malloc64(n * sizeof *rows);
    int64_t *order = sqlite3_malloc64(n * sizeof *order);
    int rc = rows && order ? SQLITE_OK : SQLITE_NOMEM;
    for (int64_t place = 0; rc == SQLITE_OK && place < a->count; place++)
        rows[place] = (sorted_row){approximate_key(a, place), place, hash_at(a, place)};
    if (rc == SQLITE_OK) {
        qsort(rows, (size_t)n, sizeof *rows, compare_rows);
        rc = reorder(a, rows, order);
    }
    int code = rc == SQLITE_OK ? faiss_shim_permute(a->faiss, order) : 0;
    sqlite3_free(rows);
    sqlite3_free(order);
    return code == 0 ? rc : segment_failure(code, message);
}

void approximate_settle(approximate *a)
{
    faiss_shim_settle(a->faiss);
}

approximate *approximate_retain(approximate *a)
{
    atomic_fetch_add_explicit(&a->references, 1, memory_order_relaxed);
    return a;
}

void approximate_release(approximate *a)
{
    if (!a || atomic_fetch_sub_explicit(&a->references, 1, memory_order_acq_rel) != 1)
        return;
    if (a->faiss)
        faiss_Index_free(a->faiss);
    for (int i = 0; i < VISITED_KEPT; i++)
        faiss_shim_visited_free(atomic_load(&a->visited[i]));
    sqlite3_free(a->offsets);
    sqlite3_free(a->keys);
    sqlite3_free(a->hashes);
    sqlite3_free(a->prints);
    sqlite3_free(a->table);
    sqlite3_free(a);
}

/* ---- as bytes ---- */

/* Who reads or writes while FAISS does: its own error is no more than a symptom. */
typedef struct transfer {
    approximate_write *write;
    approximate_read *read;
    void *argument;
    int rc;
} transfer;

static int write_on(void *argument, const void *bytes, size_t count)
{
    transfer *t = argument;
    if (t->rc == SQLITE_OK)
        t->rc = t->write(t->argument, bytes, count);
    return t->rc;
}

static int read_on(void *argument, void *bytes, size_t count)
{
    transfer *t = argument;
    if (t->rc == SQLITE_OK)
        t->rc = t->read(t->argument, bytes, count);
    return t->rc;
}

/* As bytes. */
typedef struct row_bytes {
    int64_t key;
    uint64_t hash;
} row_bytes;

enum { ROWS_AT_ONCE = 1024 };

static void save_rows(const approximate *a, transfer *t)
{
    row_bytes rows[ROWS_AT_ONCE];
    for (int64_t place = 0, n; t->rc == SQLITE_OK && place < a->count; place += n) {
        n = a->count - place < ROWS_AT_ONCE ? a->count - place : ROWS_AT_ONCE;
        for (int64_t i = 0; i < n; i++)
            rows[i] = (row_bytes){approximate_key(a, place + i), hash_at(a, place + i)};
        write_on(t, rows, (size_t)n * sizeof *rows);
    }
}

int approximate_save(const approximate *a, approximate_write *write, void *argument, char **message)
{
    transfer t = {.write = write, .argument = argument};
    save_rows(a, &t);
    int code = t.rc == SQLITE_OK ? faiss_shim_save(a->faiss, write_on, &t) : 0;
    if (t.rc != SQLITE_OK)
        return t.rc;
    return code == 0 ? SQLITE_OK : segment_failure(code, message);
}

/* Its rows, but not yet what FAISS has of them. */
static int load_rows(approximate *a, int64_t count, transfer *t)
{
    row_bytes rows[ROWS_AT_ONCE];
    int rc = reserve(a, count);
    while (rc == SQLITE_OK && a->count < count) {
        int64_t n = count - a->count < ROWS_AT_ONCE ? count - a->count : ROWS_AT_ONCE;
        rc = read_on(t, rows, (size_t)n * sizeof *rows);
        for (int64_t i = 0; rc == SQLITE_OK && i < n; i++)
            rc = put_row(a, rows[i].key, rows[i].hash);
    }
    return rc;
}

/* Where FAISS asks for more memory than it gets, numbers in the bytes may be what it asks for. */
static int load_failure(int code, char **message)
{
    int rc = segment_failure(code, message);
    return rc == SQLITE_NOMEM
               ? set_message(message, sqlite3_mprintf("FAISS gets no memory for what it says"))
               : rc;
}

static int load_index(approximate *a, transfer *t, char **message)
{
    FaissIndex *pattern;
    int rc = make(&a->kind, a->metric, a->dimension, &pattern, message);
    if (rc != SQLITE_OK)
        return rc;
    int code = faiss_shim_load(read_on, t, &a->faiss);
    if (t->rc != SQLITE_OK)
        rc = t->rc;
    else if (code != 0)
        rc = load_failure(code, message);
    else if (!faiss_shim_resembles(a->faiss, pattern, a->count))
        rc = set_message(message, sqlite3_mprintf("it holds another index than %s", a->kind.text));
    faiss_Index_free(pattern);
    return rc;
}

int approximate_load(const index_kind *kind, vector_metric metric, int dimension, int is_small,
                     int64_t rows, uint64_t stored, approximate_read *read, void *argument,
                     approximate **out, char **message)
{
    *out = NULL;
    transfer t = {.read = read, .argument = argument};
    approximate *a = allocate(kind, metric, dimension, is_small);
    if (!a)
        return SQLITE_NOMEM;
    approximate_note_stored(a, stored);
    int rc = load_rows(a, rows, &t);
    if (rc == SQLITE_OK)
        rc = load_index(a, &t, message);
    if (rc != SQLITE_OK) {
        approximate_release(a);
        return rc;
    }
    approximate_settle(a);
    *out = a;
    return SQLITE_OK;
}

int approximate_is_small(const approximate *a)
{
    return a->is_small;
}

uint64_t approximate_stored(const approximate *a)
{
    return atomic_load(&a->stored);
}

void approximate_note_stored(approximate *a, uint64_t stored)
{
    atomic_store(&a->stored, stored);
}

/* ---- reading it ---- */

const index_kind *approximate_kind(const approximate *a)
{
    return &a->kind;
}

int64_t approximate_count(const approximate *a)
{
    return a->count;
}

int approximate_vector(const approximate *a, int64_t place, float *out, char **message)
{
    int code = faiss_Index_reconstruct(a->faiss, place, out);
    return code == 0 ? SQLITE_OK : segment_failure(code, message);
}

size_t approximate_bytes(const approximate *a)
{
    size_t bytes = 0;
    size_t row = (a->keys ? sizeof *a->keys : sizeof *a->offsets) +
                 (a->is_small ? sizeof *a->prints : sizeof *a->hashes);
    faiss_shim_bytes(a->faiss, &bytes);
    return bytes + sizeof *a + (size_t)a->room * row + (size_t)a->slots * sizeof *a->table;
}

static int is_allowed(const uint64_t *allowed, int64_t place)
{
    return !allowed || (allowed[place / 64] >> (place % 64) & 1);
}

static faiss_shim_visited *take_visited(approximate *a)
{
    faiss_shim_visited *taken = NULL;
    for (int i = 0; a->kind.links && !taken && i < VISITED_KEPT; i++)
        taken = atomic_exchange(&a->visited[i], NULL);
    return taken;
}

static void keep_visited(approximate *a, faiss_shim_visited *visited)
{
    for (int i = 0; visited && i < VISITED_KEPT; i++) {
        faiss_shim_visited *none = NULL;
        if (atomic_compare_exchange_strong(&a->visited[i], &none, visited))
            return;
    }
    faiss_shim_visited_free(visited);
}

int approximate_search(approximate *a, const float *query, int64_t k, const search_effort *effort,
                       const uint64_t *allowed, float *scores, int64_t *places, int64_t *found,
                       char **message)
{
    const uint64_t *selected = a->kind.selects ? allowed : NULL;
    size_t bytes = ((size_t)a->count + 7) / 8;
    *found = 0;
    faiss_shim_visited *visited = take_visited(a);
    int threads = segment_use_one_thread();
    int code = faiss_shim_search(a->faiss, query, k, effort->ef_search, effort->nprobe,
                                 (const uint8_t *)selected, bytes, &visited, scores, places);
    segment_restore_threads(threads);
    keep_visited(a, visited);
    if (code != 0)
        return segment_failure(code, message);
    for (int64_t i = 0; i < k; i++) {
        if (places[i] < 0 || places[i] >= a->count || !is_allowed(allowed, places[i]))
            continue;
        scores[*found] = scores[i];
        places[(*found)++] = places[i];
    }
    return SQLITE_OK;
}

double approximate_cost(const index_kind *kind, int64_t rows, int64_t k,
                        const search_effort *effort, double one_in)
{
    /* Reading memory here and there, and the work for each code, in scores of vectors that
    ** are read in order. */
    const double jump = 2, coded = 0.5, taken = 4;
    double n = (double)rows, again = taken * (double)k;
    if (kind->links) {
        double tried = fmax(effort->ef_search, (double)k) * one_in;
        return again + tried * kind->links * jump / 2;
    }
    double codes = n;
    if (kind->lists)
        codes = fmin(1, effort->nprobe * one_in / kind->lists) * n;
    return again + kind->lists + (kind->is_lossy ? coded : 1) * codes;
}
