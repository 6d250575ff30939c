#include "segment_rows.h"

#include <stdlib.h>
#include <string.h>

#include "segment.h"
#include "vector_memory.h"

/* Rows encoded together. */
enum { SKETCH_PIECE = 256 };

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

/* Room for the vectors of so many rows. */
static int reserve_vectors(segment_rows *rows, int room)
{
    size_t bytes = vectors_held(rows, room) * (size_t)rows->dimension * sizeof *rows->vectors;
    if (!rows->vectors && room == rows->capacity && rows->content == SEGMENT_VECTORS)
        rows->vectors = vector_memory_map(bytes, &rows->mapped);
    if (rows->mapped) /* for as many rows as there can be */
        return SQLITE_OK;
    float *vectors = realloc(rows->vectors, bytes);
    if (!vectors)
        return SQLITE_NOMEM;
    rows->vectors = vectors;
    return SQLITE_OK;
}

/* Make room for `more` rows, doubling it on the way to a full segment. */
static int segment_rows_reserve(segment_rows *rows, int more)
{
    int room = rows->room ? rows->room : SEGMENT_MIN_ROWS;
    if (rows->vectors && rows->count + more <= rows->room)
        return SQLITE_OK;
    while (room < rows->count + more)
        room *= 2;
    if (room > rows->capacity)
        room = rows->capacity;
    size_t n = (size_t)room;
    int rc = reserve_vectors(rows, room);
    int64_t *keys = sqlite3_realloc64(rows->keys, n * sizeof *rows->keys);
    if (keys)
        rows->keys = keys;
    uint64_t *hashes = sqlite3_realloc64(rows->hashes, n * sizeof *rows->hashes);
    if (hashes)
        rows->hashes = hashes;
    if (rc != SQLITE_OK || !keys || !hashes)
        return SQLITE_NOMEM;
    rows->room = room;
    return SQLITE_OK;
}

int segment_rows_encode(segment_rows *rows)
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
        (rows->pending == SKETCH_PIECE && segment_rows_encode(rows) != SQLITE_OK))
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
        rc = segment_rows_encode(rows);
        if (rc == SQLITE_OK)
            rc = own ? sketch_add_row(rows->sketch, own, slot) : sketch_add_outlier(rows->sketch);
    }
    if (rc == SQLITE_OK)
        count_row(rows, segment_key(s, slot), segment_hash(s, slot));
    return rc;
}

int segment_rows_take(segment_rows *rows, const segment *s, int slot)
{
    if (!segment_has_vectors(s))
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
    count_row(rows, segment_key(s, slot), segment_hash(s, slot));
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
    vector_memory_free(rows->vectors, rows->mapped);
    sqlite3_free(rows->keys);
    sqlite3_free(rows->hashes);
    sketch_free(rows->sketch);
    basis_release(rows->basis);
    value_list_clear(&rows->values);
    *rows = (segment_rows){0};
}
