#include "row_set.h"

#include <string.h>

int row_set_open(row_set *set, const index_version *v)
{
    size_t bytes = ((size_t)v->slots / SET_WORD_BITS + 1) * sizeof *set->bits;
    *set = (row_set){sqlite3_malloc64(bytes), 0};
    if (!set->bits)
        return SQLITE_NOMEM;
    memset(set->bits, 0, bytes);
    return SQLITE_OK;
}

int row_set_copy(row_set *set, const row_set *from, const index_version *v)
{
    int rc = row_set_open(set, v);
    if (rc == SQLITE_OK) {
        memcpy(set->bits, from->bits, ((size_t)v->slots / SET_WORD_BITS + 1) * sizeof *set->bits);
        set->count = from->count;
    }
    return rc;
}

int row_set_has(const row_set *set, int64_t position)
{
    return set->bits[position / SET_WORD_BITS] >> (position % SET_WORD_BITS) & 1;
}

void row_set_add(row_set *set, int64_t position)
{
    set->count += !row_set_has(set, position);
    set->bits[position / SET_WORD_BITS] |= (uint64_t)1 << (position % SET_WORD_BITS);
}

void row_set_close(row_set *set)
{
    sqlite3_free(set->bits);
    *set = (row_set){0};
}

int row_set_slots(const row_set *set, int64_t start, int rows, int64_t *slots)
{
    int64_t end = start + rows;
    int count = 0;
    for (int64_t word = start / SET_WORD_BITS; word * SET_WORD_BITS < end; word++) {
        uint64_t bits = set->bits[word];
        for (; bits; bits &= bits - 1) {
            int64_t position = word * SET_WORD_BITS + __builtin_ctzll(bits);
            if (position >= start && position < end)
                slots[count++] = position - start;
        }
    }
    return count;
}
