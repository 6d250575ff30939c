#include "approximate.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <c_api/Index_c.h>
#include <c_api/index_factory_c.h>

#include "approximate_rows.h"
#include "faiss_call.h"
#include "faiss_shim.h"
#include "message.h"

/* So many searches at once find what an earlier one has left. */
enum { VISITED_KEPT = 8 };

struct approximate {
    atomic_int references;
    index_kind kind;
    vector_metric metric;
    int dimension;
    FaissIndex *faiss;
    _Atomic(faiss_shim_visited *) visited[VISITED_KEPT]; /* of searches that are over, or NULL */
    approximate_rows rows;
    double trained_misfit;       /* of the rows it was trained on, 0: not known */
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
    return code == 0 ? SQLITE_OK : faiss_call_failure(code, message);
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

/* ---- its rows ---- */

int64_t approximate_key(const approximate *a, int64_t place)
{
    return approximate_rows_key(&a->rows, place);
}

int64_t approximate_find(const approximate *a, int64_t key, uint64_t hash, int64_t after)
{
    return approximate_rows_find(&a->rows, key, hash, after);
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
    a->rows.is_small = is_small;
    return a;
}

/* What both ways to begin have in common. */
static int begin(approximate *a, int rc, int64_t rows, approximate **out, char **message)
{
    if (rc == SQLITE_OK)
        rc = approximate_rows_reserve(&a->rows, rows);
    if (rc == SQLITE_OK) {
        int code = faiss_shim_reserve(a->faiss, rows);
        rc = code == 0 ? SQLITE_OK : faiss_call_failure(code, message);
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

int approximate_open_from(const approximate *from, int empty, int64_t rows, approximate **out,
                          char **message)
{
    *out = NULL;
    approximate *a = allocate(&from->kind, from->metric, from->dimension, from->rows.is_small);
    if (!a)
        return SQLITE_NOMEM;
    a->trained_misfit = from->trained_misfit;
    int code = faiss_shim_copy(from->faiss, &a->faiss);
    if (code == 0 && empty)
        code = faiss_Index_reset(a->faiss);
    int rc = code == 0 ? SQLITE_OK : faiss_call_failure(code, message);
    if (rc == SQLITE_OK && !empty)
        rc = approximate_rows_reserve(&a->rows, rows > from->rows.count ? rows : from->rows.count);
    if (rc == SQLITE_OK && !empty)
        rc = approximate_rows_copy(&a->rows, &from->rows);
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
    int threads = faiss_call_use_one_thread();
    int code = faiss_shim_misfit(a->faiss, count, vectors, &misfit);
    faiss_call_restore_threads(threads);
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
    int threads = faiss_call_use_one_thread();
    if (check)
        faiss_shim_watch(wants_stop, &asked);
    int code = faiss_shim_learn(a->faiss, count, sample);
    if (check)
        faiss_shim_watch(NULL, NULL);
    faiss_call_restore_threads(threads);
    if (asked.rc != SQLITE_OK) {
        *message = asked.message;
        return asked.rc;
    }
    if (code != 0)
        return faiss_call_failure(code, message);
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
    if (a->rows.count + count > a->rows.room) {
        int rc = approximate_rows_reserve(&a->rows, a->rows.count + count + a->rows.room / 2);
        if (rc != SQLITE_OK)
            return rc;
    }
    int threads = faiss_call_use_one_thread();
    int code = faiss_Index_add(a->faiss, count, vectors);
    faiss_call_restore_threads(threads);
    if (code != 0)
        return faiss_call_failure(code, message);
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < count; i++)
        rc = approximate_rows_append(&a->rows, keys[i], hashes[i]);
    return rc;
}

int approximate_sort(approximate *a, char **message)
{
    if (approximate_rows_ascend(&a->rows) || !a->kind.links)
        return SQLITE_OK;
    int64_t *order = sqlite3_malloc64((sqlite3_uint64)a->rows.count * sizeof *order);
    int rc = order ? approximate_rows_sort(&a->rows, order) : SQLITE_NOMEM;
    int code = rc == SQLITE_OK ? faiss_shim_permute(a->faiss, order) : 0;
    sqlite3_free(order);
    return code == 0 ? rc : faiss_call_failure(code, message);
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
    approximate_rows_free(&a->rows);
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
    for (int64_t place = 0, n; t->rc == SQLITE_OK && place < a->rows.count; place += n) {
        n = a->rows.count - place < ROWS_AT_ONCE ? a->rows.count - place : ROWS_AT_ONCE;
        for (int64_t i = 0; i < n; i++)
            rows[i] = (row_bytes){approximate_rows_key(&a->rows, place + i),
                                  approximate_rows_hash(&a->rows, place + i)};
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
    return code == 0 ? SQLITE_OK : faiss_call_failure(code, message);
}

/* Its rows, but not yet what FAISS has of them. */
static int load_rows(approximate *a, int64_t count, transfer *t)
{
    row_bytes rows[ROWS_AT_ONCE];
    int rc = approximate_rows_reserve(&a->rows, count);
    while (rc == SQLITE_OK && a->rows.count < count) {
        int64_t n = count - a->rows.count < ROWS_AT_ONCE ? count - a->rows.count : ROWS_AT_ONCE;
        rc = read_on(t, rows, (size_t)n * sizeof *rows);
        for (int64_t i = 0; rc == SQLITE_OK && i < n; i++)
            rc = approximate_rows_append(&a->rows, rows[i].key, rows[i].hash);
    }
    return rc;
}

/* Where FAISS asks for more memory than it gets, numbers in the bytes may be what it asks for. */
static int load_failure(int code, char **message)
{
    int rc = faiss_call_failure(code, message);
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
    else if (!faiss_shim_resembles(a->faiss, pattern, a->rows.count))
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
    return a->rows.is_small;
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
    return a->rows.count;
}

int approximate_vector(const approximate *a, int64_t place, float *out, char **message)
{
    int code = faiss_Index_reconstruct(a->faiss, place, out);
    return code == 0 ? SQLITE_OK : faiss_call_failure(code, message);
}

size_t approximate_bytes(const approximate *a)
{
    size_t bytes = 0;
    faiss_shim_bytes(a->faiss, &bytes);
    return bytes + sizeof *a + approximate_rows_bytes(&a->rows);
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
    size_t bytes = ((size_t)a->rows.count + 7) / 8;
    *found = 0;
    faiss_shim_visited *visited = take_visited(a);
    int threads = faiss_call_use_one_thread();
    int code = faiss_shim_search(a->faiss, query, k, effort->ef_search, effort->nprobe,
                                 (const uint8_t *)selected, bytes, &visited, scores, places);
    faiss_call_restore_threads(threads);
    keep_visited(a, visited);
    if (code != 0)
        return faiss_call_failure(code, message);
    for (int64_t i = 0; i < k; i++) {
        if (places[i] < 0 || places[i] >= a->rows.count || !is_allowed(allowed, places[i]))
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
