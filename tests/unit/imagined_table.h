/*
** A table that a unit test imagines, and the version of an index over it.
*/
#ifndef IMAGINED_TABLE_H
#define IMAGINED_TABLE_H

#include <stdlib.h>

#include "unit.h"

#include "index.h"

enum { DIMENSION = 256 };

/* A row of the table that a test imagines; its vector depends on `value`. */
typedef struct row {
    int64_t key;
    int value;
} row;

typedef struct rows {
    row *at;
    int count;
} rows;

static rows rows_new(int count)
{
    rows r = {malloc((size_t)count * 2 * sizeof *r.at + sizeof *r.at), count};
    for (int i = 0; i < count; i++)
        r.at[i] = (row){i + 1, i};
    return r;
}

static void vector_of(const row *r, float *x)
{
    uint32_t seed = (uint32_t)r->value * 2654435761u + 1;
    for (int i = 0; i < DIMENSION; i++) {
        seed = seed * 1664525u + 1013904223u; /* Numerical Recipes' generator */
        x[i] = (float)(seed >> 16) / 65536.0f;
    }
}

static index_version *build(const rows *r, index_version *base)
{
    index_builder *b;
    char *message = NULL;
    assert_int_equal(index_builder_open(METRIC_KIND_L2, DIMENSION, 0, base, &b, &message),
                     SQLITE_OK);
    for (int i = 0; i < r->count; i++) {
        float x[DIMENSION];
        vector_of(&r->at[i], x);
        uint64_t hash = index_row_hash(r->at[i].key, NULL, 0, x, sizeof x);
        assert_int_equal(index_builder_row(b, r->at[i].key, hash, NULL, x, &message), SQLITE_OK);
    }
    index_version *v;
    assert_int_equal(index_builder_finish(b, 0, &v, &message), SQLITE_OK);
    index_builder_close(b);
    return v;
}

#endif
