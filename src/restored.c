#include "restored.h"

#include <string.h>

#include "low_memory.h"

struct restored {
    const approximate *from;
    index_version *made;
    segment_rows staging;
    int has_vectors; /* segments get them */
    int64_t last_key;
    float *vector; /* of a row; zero where none is kept */
};

/* Whether versions of so many rows keep vectors; *v is an empty one. */
static int decide(const index_version *v, int64_t rows, int *has_vectors)
{
    basis *none;
    int rc = index_is_undecided(v, rows) ? index_decide(v, NULL, 0) : SQLITE_OK;
    *has_vectors = index_content(v, &none) == SEGMENT_VECTORS;
    return rc;
}

static index_version *empty_version(vector_metric metric, int dimension, index_keeping keeping)
{
    index_version *v = index_new(metric, dimension, 0, NULL);
    if (v)
        v->keeping = keeping;
    return v;
}

int restored_possible(const index_kind *kind, index_keeping keeping, int64_t rows)
{
    /* A graph over vectors as they are: nothing comes before it. FAISS hands over a row of lists
    ** only where it is told to keep where each is. */
    static const char graph[] = "HNSW";
    if (keeping != INDEX_CODES)
        return keeping == INDEX_VECTORS && kind->links && !kind->is_lossy &&
               strncmp(kind->text, graph, strlen(graph)) == 0;
    int has_vectors = 1;
    index_version *v = empty_version(METRIC_KIND_L2, 1, keeping);
    if (v)
        decide(v, rows, &has_vectors);
    index_release(v);
    return !has_vectors;
}

int restored_open(const approximate *a, vector_metric metric, int dimension, index_keeping keeping,
                  int64_t rows, restored **out)
{
    *out = NULL;
    restored *r = sqlite3_malloc64(sizeof *r);
    if (!r)
        return SQLITE_NOMEM;
    memset(r, 0, sizeof *r);
    r->from = a;
    r->last_key = INT64_MIN;
    size_t bytes = (size_t)dimension * sizeof *r->vector;
    r->vector = sqlite3_malloc64(bytes);
    r->made = empty_version(metric, dimension, keeping);
    int rc = r->vector && r->made ? decide(r->made, rows, &r->has_vectors) : SQLITE_NOMEM;
    if (rc != SQLITE_OK) {
        restored_close(r);
        return rc;
    }
    memset(r->vector, 0, bytes);
    index_rows_open(r->made, &r->staging);
    *out = r;
    return SQLITE_OK;
}

static int flush(restored *r, char **message)
{
    segment *s;
    if (r->staging.count == 0)
        return SQLITE_OK;
    int rc = segment_new(r->made->metric, &r->staging, &s, message);
    if (rc != SQLITE_OK)
        return rc;
    segment_rows_reset(&r->staging);
    return index_append_made(r->made, s);
}

int restored_row(restored *r, int64_t key, uint64_t hash, char **message)
{
    int ascends = r->made->rows + r->staging.count == 0 || key > r->last_key;
    int rc = ascends ? SQLITE_OK : SQLITE_MISMATCH;
    if (rc == SQLITE_OK && r->has_vectors) {
        int64_t place = approximate_find(r->from, key, hash, -1);
        rc = place < 0 ? SQLITE_MISMATCH : approximate_vector(r->from, place, r->vector, message);
    }
    /* Normalized it is already, for cosine. */
    if (rc == SQLITE_OK)
        rc = segment_rows_append(&r->staging, r->vector, 0, key, hash, NULL);
    if (rc != SQLITE_OK)
        return rc;
    r->last_key = key;
    r->made->fingerprint += index_row_print(r->made, 0, hash);
    return r->staging.count == r->staging.capacity ? flush(r, message) : SQLITE_OK;
}

int restored_finish(restored *r, index_version **out, char **message)
{
    int rc = flush(r, message);
    if (rc != SQLITE_OK)
        return rc;
    r->made->main_count = r->made->segment_count;
    *out = r->made;
    r->made = NULL;
    return SQLITE_OK;
}

void restored_close(restored *r)
{
    if (!r)
        return;
    index_release(r->made);
    segment_rows_close(&r->staging);
    sqlite3_free(r->vector);
    sqlite3_free(r);
}
