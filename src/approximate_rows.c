#include "approximate_rows.h"

#include <stdlib.h>
#include <string.h>

#include "sqlite_api.h"

static uint32_t print_of(uint64_t hash)
{
    return (uint32_t)(hash >> 32);
}

static uint32_t print_at(const approximate_rows *r, int64_t place)
{
    return r->prints ? r->prints[place] : print_of(r->hashes[place]);
}

static int has_hash(const approximate_rows *r, int64_t place, uint64_t hash)
{
    return r->prints ? r->prints[place] == print_of(hash) : r->hashes[place] == hash;
}

/* Where in the table to begin to look for a row. */
static uint64_t table_start(const approximate_rows *r, uint32_t print)
{
    return print * r->slots >> 32;
}

static uint64_t table_next(const approximate_rows *r, uint64_t i)
{
    return i + 1 == r->slots ? 0 : i + 1;
}

static void table_put(approximate_rows *r, int64_t place)
{
    uint64_t i = table_start(r, print_at(r, place));
    while (r->table[i])
        i = table_next(r, i);
    r->table[i] = (uint32_t)place + 1;
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
static int make_table(approximate_rows *r, int64_t rows)
{
    uint64_t slots = (uint64_t)rows + (uint64_t)rows / 4 + 1;
    uint32_t *table = sqlite3_malloc64(slots * sizeof *table);
    if (!table)
        return SQLITE_NOMEM;
    sqlite3_free(r->table);
    memset(table, 0, slots * sizeof *table);
    r->table = table;
    r->slots = slots;
    for (int64_t place = 0; place < r->count; place++)
        table_put(r, place);
    return SQLITE_OK;
}

int approximate_rows_reserve(approximate_rows *r, int64_t rows)
{
    if (rows <= r->room)
        return SQLITE_OK;
    if (rows >= INT32_MAX)
        return SQLITE_TOOBIG;
    int rc = SQLITE_OK;
    if (r->keys)
        r->keys = lengthen(r->keys, rows, sizeof *r->keys, &rc);
    else
        r->offsets = lengthen(r->offsets, rows, sizeof *r->offsets, &rc);
    if (r->is_small)
        r->prints = lengthen(r->prints, rows, sizeof *r->prints, &rc);
    else
        r->hashes = lengthen(r->hashes, rows, sizeof *r->hashes, &rc);
    if (rc == SQLITE_OK && r->table)
        rc = make_table(r, rows);
    if (rc == SQLITE_OK)
        r->room = rows;
    return rc;
}

int64_t approximate_rows_key(const approximate_rows *r, int64_t place)
{
    /* Unsigned: the ends of the range are next to each other, too. */
    return r->keys ? r->keys[place]
                   : (int64_t)((uint64_t)r->first_key + (uint64_t)r->offsets[place]);
}

/* Keep keys as they are from now on. */
static int widen_keys(approximate_rows *r)
{
    int64_t *keys = sqlite3_malloc64((sqlite3_uint64)(r->room + 1) * sizeof *keys);
    if (!keys)
        return SQLITE_NOMEM;
    for (int64_t place = 0; place < r->count; place++)
        keys[place] = approximate_rows_key(r, place);
    sqlite3_free(r->offsets);
    r->offsets = NULL;
    r->keys = keys;
    return SQLITE_OK;
}

/* Whether a key is kept as its distance from the first one. */
static int is_near(const approximate_rows *r, int64_t key)
{
    uint64_t from_least = (uint64_t)key - (uint64_t)r->first_key + (uint64_t)INT32_MAX;
    return from_least <= UINT32_MAX - 1u;
}

int approximate_rows_append(approximate_rows *r, int64_t key, uint64_t hash)
{
    if (r->count == 0)
        r->first_key = key;
    if (!r->keys && !is_near(r, key)) {
        int rc = widen_keys(r);
        if (rc != SQLITE_OK)
            return rc;
    }
    if (!r->table && r->count > 0 && key <= approximate_rows_key(r, r->count - 1)) {
        int rc = make_table(r, r->room);
        if (rc != SQLITE_OK)
            return rc;
    }
    if (r->keys)
        r->keys[r->count] = key;
    else
        r->offsets[r->count] = (int32_t)((uint64_t)key - (uint64_t)r->first_key);
    if (r->is_small)
        r->prints[r->count] = print_of(hash);
    else
        r->hashes[r->count] = hash;
    if (r->table)
        table_put(r, r->count);
    r->count++;
    return SQLITE_OK;
}

uint64_t approximate_rows_hash(const approximate_rows *r, int64_t place)
{
    return r->prints ? (uint64_t)r->prints[place] << 32 : r->hashes[place];
}

/* The place of a key where keys ascend, -1 if it is not there. */
static int64_t find_key(const approximate_rows *r, int64_t key)
{
    int64_t low = 0, high = r->count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (approximate_rows_key(r, middle) < key)
            low = middle + 1;
        else
            high = middle;
    }
    return low < r->count && approximate_rows_key(r, low) == key ? low : -1;
}

int64_t approximate_rows_find(const approximate_rows *r, int64_t key, uint64_t hash, int64_t after)
{
    if (!r->table) {
        int64_t place = find_key(r, key);
        return place > after && has_hash(r, place, hash) ? place : -1;
    }
    int passed = after < 0;
    for (uint64_t i = table_start(r, print_of(hash)); r->table[i]; i = table_next(r, i)) {
        int64_t place = (int64_t)r->table[i] - 1;
        if (passed && has_hash(r, place, hash) && approximate_rows_key(r, place) == key)
            return place;
        passed |= place == after;
    }
    return -1;
}

int approximate_rows_copy(approximate_rows *r, const approximate_rows *from)
{
    int rc = SQLITE_OK;
    for (int64_t place = 0; rc == SQLITE_OK && place < from->count; place++)
        rc = approximate_rows_append(r, approximate_rows_key(from, place),
                                     approximate_rows_hash(from, place));
    return rc;
}

typedef struct sorted_row {
    int64_t key, place;
    uint64_t hash;
} sorted_row;

static int compare_keys(const void *a, const void *b)
{
    int64_t x = ((const sorted_row *)a)->key, y = ((const sorted_row *)b)->key;
    return (x > y) - (x < y);
}

/* Put the rows in this order; *order is that of their places. */
static int reorder(approximate_rows *r, const sorted_row *sorted, int64_t *order)
{
    int64_t count = r->count;
    int rc = SQLITE_OK;
    sqlite3_free(r->table);
    r->table = NULL;
    r->slots = 0;
    r->count = 0;
    for (int64_t i = 0; rc == SQLITE_OK && i < count; i++) {
        order[i] = sorted[i].place;
        rc = approximate_rows_append(r, sorted[i].key, sorted[i].hash);
    }
    return rc;
}

int approximate_rows_ascend(const approximate_rows *r)
{
    return !r->table;
}

int approximate_rows_sort(approximate_rows *r, int64_t *order)
{
    sqlite3_uint64 n = (sqlite3_uint64)r->count;
    sorted_row *sorted = sqlite3_malloc64((n + 1) * sizeof *sorted);
    if (!sorted)
        return SQLITE_NOMEM;
    for (int64_t place = 0; place < r->count; place++)
        sorted[place] =
            (sorted_row){approximate_rows_key(r, place), place, approximate_rows_hash(r, place)};
    qsort(sorted, (size_t)n, sizeof *sorted, compare_keys);
    int rc = reorder(r, sorted, order);
    sqlite3_free(sorted);
    return rc;
}

size_t approximate_rows_bytes(const approximate_rows *r)
{
    size_t row = (r->keys ? sizeof *r->keys : sizeof *r->offsets) +
                 (r->is_small ? sizeof *r->prints : sizeof *r->hashes);
    return (size_t)r->room * row + (size_t)r->slots * sizeof *r->table;
}

void approximate_rows_free(approximate_rows *r)
{
    sqlite3_free(r->offsets);
    sqlite3_free(r->keys);
    sqlite3_free(r->hashes);
    sqlite3_free(r->prints);
    sqlite3_free(r->table);
}
