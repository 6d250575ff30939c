#include "low_memory.h"

#include <stdlib.h>

/* The fewest rows whose vectors are left in the source; *demanded is 1 where the user says
** so, who then means any dimension. */
static int64_t rows_least(int *demanded)
{
    const char *text = getenv("SQLITE_FAISS_LOW_MEMORY_ROWS");
    char *end;
    long long rows = text && *text ? strtoll(text, &end, 10) : -1;
    *demanded = rows >= 0 && !*end;
    return *demanded ? rows : BASIS_ROWS_LEAST;
}

segment_content index_content(const index_version *v, basis **b)
{
    *b = atomic_load_explicit(&v->tuning->basis, memory_order_acquire);
    if (v->keeping == INDEX_KEYS)
        return SEGMENT_KEYS;
    if (v->keeping == INDEX_VECTORS)
        return SEGMENT_VECTORS;
    return *b ? SEGMENT_SKETCH : atomic_load(&v->tuning->number) ? SEGMENT_KEYS : SEGMENT_VECTORS;
}

void index_rows_open(const index_version *v, segment_rows *rows)
{
    basis *b;
    segment_content content = index_content(v, &b);
    segment_rows_open(rows, v->dimension, v->kept_values);
    segment_rows_keep(rows, content, b);
}

int index_is_undecided(const index_version *v, int64_t rows)
{
    basis *b;
    int demanded;
    if ((v->keeping != INDEX_LITTLE && v->keeping != INDEX_CODES) || rows == 0 ||
        index_content(v, &b) != SEGMENT_VECTORS || rows < rows_least(&demanded))
        return 0;
    return v->keeping == INDEX_CODES || demanded || basis_is_possible(v->dimension);
}

int index_decide(const index_version *v, float *sample, int count)
{
    if (v->keeping == INDEX_CODES) {
        atomic_store(&v->tuning->number, 1); /* no sketches */
        return SQLITE_OK;
    }
    float *own = sample ? NULL : index_sample(v, &count);
    int rc = index_find_basis(v, sample ? sample : own, count);
    sqlite3_free(own);
    return rc;
}

/* Put a segment with less of the same rows in the place of one that has its vectors. */
static int lighten_segment(index_version *v, int i, char **message)
{
    segment_rows rows;
    segment *lighter = NULL, *s = v->segments[i];
    int rc = SQLITE_OK;
    index_rows_open(v, &rows);
    for (int slot = 0; rc == SQLITE_OK && slot < segment_count(s); slot++)
        rc = segment_rows_take(&rows, s, slot);
    if (rc == SQLITE_OK)
        rc = segment_new(v->metric, &rows, &lighter, message);
    segment_rows_close(&rows);
    if (rc != SQLITE_OK)
        return rc;
    v->segments[i] = lighter;
    segment_release(s);
    return SQLITE_OK;
}

int index_lighten(index_version *v, char **message)
{
    basis *b;
    int rc = index_is_undecided(v, v->rows) ? index_decide(v, NULL, 0) : SQLITE_OK;
    if (rc != SQLITE_OK || index_content(v, &b) == SEGMENT_VECTORS)
        return rc;
    for (int i = 0; rc == SQLITE_OK && i < v->segment_count; i++) {
        if (segment_has_vectors(v->segments[i]))
            rc = lighten_segment(v, i, message);
    }
    return rc;
}

const char *index_describe_memory(const index_version *v)
{
    basis *b;
    if (v->keeping == INDEX_VECTORS)
        return "full";
    switch (index_content(v, &b)) {
    case SEGMENT_SKETCH:
        return "low";
    case SEGMENT_KEYS:
        if (v->keeping == INDEX_CODES)
            return "low";
        return "low: each search reads the source, whose vectors no sketch tells apart";
    default:
        return v->keeping == INDEX_CODES || basis_is_possible(v->dimension)
                   ? "low: vectors are kept, there are few rows"
                   : "low: vectors are kept, of few dimensions";
    }
}
