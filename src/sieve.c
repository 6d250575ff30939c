#include "sieve.h"

#include <math.h>
#include <string.h>

#include "kernel.h"

int sieve_open(sieve *s, const query_sketch *query, int parts, int64_t rows)
{
    sqlite3_uint64 n = (sqlite3_uint64)rows + 1;
    *s = (sieve){.query = query, .room = rows};
    s->parts = sqlite3_malloc64(((sqlite3_uint64)parts + 1) * sizeof *s->parts);
    s->slots = sqlite3_malloc64(n * sizeof *s->slots);
    s->distances = sqlite3_malloc64(n * sizeof *s->distances);
    return s->parts && s->slots && s->distances ? SQLITE_OK : SQLITE_NOMEM;
}

void sieve_close(sieve *s)
{
    sqlite3_free(s->parts);
    sqlite3_free(s->slots);
    sqlite3_free(s->distances);
    sqlite3_free(s->outliers);
    *s = (sieve){0};
}

int64_t *sieve_next_slots(sieve *s)
{
    return s->slots + s->rows;
}

/* Take the rows that no code says anything of out of a part, to where outliers are kept. */
static void set_outliers_apart(sieve_part *p, int64_t *outliers)
{
    p->outliers = outliers;
    for (int i = 0; i < p->count; i++) {
        if (p->distances[i] != SKETCH_OUTLIER)
            continue;
        outliers[p->outlier_count++] = p->slots ? p->slots[i] : i;
        p->distances[i] = SIEVE_TAKEN;
    }
}

static void skip_rows(sieve_part *p)
{
    enum { WORD_BITS = 64 };
    for (int begin = 0; begin < p->count; begin += WORD_BITS) {
        for (uint64_t word = p->skip[begin / WORD_BITS]; word; word &= word - 1) {
            int slot = begin + __builtin_ctzll(word);
            if (slot < p->count)
                p->distances[slot] = SIEVE_TAKEN;
        }
    }
}

int sieve_add(sieve *s, const sketch *of, int segment, int count, int listed, const uint64_t *skip)
{
    if (sketch_has_outliers(of) && !s->outliers) {
        s->outliers = sqlite3_malloc64(((sqlite3_uint64)s->room + 1) * sizeof *s->outliers);
        if (!s->outliers)
            return SQLITE_NOMEM;
    }
    s->parts[s->part_count++] = (sieve_part){.of = of,
                                             .segment = segment,
                                             .count = count,
                                             .slots = listed ? s->slots + s->rows : NULL,
                                             .distances = s->distances + s->rows,
                                             .within = SIEVE_TAKEN,
                                             .skip = skip};
    s->rows += count;
    return SQLITE_OK;
}

void sieve_look(sieve *s, int part)
{
    sieve_part *p = &s->parts[part];
    if (p->slots)
        sketch_distances_at(p->of, s->query, p->slots, p->count, p->distances);
    else
        sketch_distances(p->of, s->query, p->distances);
    if (p->skip)
        skip_rows(p);
    if (sketch_has_outliers(p->of))
        set_outliers_apart(p, s->outliers + (p->distances - s->distances));
}

int64_t sieve_left(const sieve *s)
{
    int64_t left = 0;
    for (int i = 0; i < s->part_count; i++)
        left += s->parts[i].count;
    return left;
}

void sieve_go_on(sieve *s, int part, int line, double bound)
{
    sieve_part *p = &s->parts[part];
    int32_t limit = sketch_limit(p->of, s->query, p->line, bound);
    limit = limit < SIEVE_TAKEN ? limit : SIEVE_TAKEN - 1;
    if (p->slots && limit < p->within) {
        p->count = kernel_keep(p->slots, p->distances, p->count, limit);
    } else if (!p->slots) {
        p->slots = s->slots + (p->distances - s->distances);
        p->count = kernel_places_within(p->distances, p->count, limit, p->slots);
    }
    while (p->line < line) {
        limit = sketch_limit(p->of, s->query, ++p->line, bound);
        p->count = sketch_go_on(p->of, s->query, p->line, limit, p->slots, p->distances, p->count);
    }
    p->within = limit;
}

/* ---- the most promising rows ---- */

/* A row on its way out: where it is in its part, and how near it may be. */
typedef struct near_row {
    int32_t distance;
    int part, at;
} near_row;

/* The one that would stand at a place if they were in order: the least that more than `nth` are
** within. Counting them all for each of its bits is faster than moving them. */
static int32_t find_nth(const int32_t *x, int count, int nth)
{
    int64_t low = INT32_MIN, high = INT32_MAX;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (kernel_count_within(x, count, (int32_t)middle) > nth)
            high = middle;
        else
            low = middle + 1;
    }
    return (int32_t)low;
}

/* Of how many distances the least is looked at, so that there are more than `wide` of these. */
static int block_of(int64_t left, int wide)
{
    const int blocks[] = {64, 32, 16, 8, 4};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++) {
        if (left / blocks[i] >= 2 * (int64_t)wide)
            return blocks[i];
    }
    return 1;
}

/* The least of each block of rows, those of one part after those of another; returns how many. */
static int find_least(const sieve *s, int block, int32_t *least)
{
    int count = 0;
    for (int i = 0; i < s->part_count; i++)
        count += kernel_least(s->parts[i].distances, s->parts[i].count, block, least + count);
    return count;
}

/* Rows within a distance, in blocks of which the least is; no more than there is room for. */
static int find_within(const sieve *s, const int32_t *least, int block, int32_t limit, int room,
                       near_row *rows)
{
    int found = 0;
    for (int i = 0; i < s->part_count; i++) {
        const sieve_part *p = &s->parts[i];
        for (int begin = 0; begin < p->count; begin += block) {
            if (*least++ > limit)
                continue;
            int end = begin + block < p->count ? begin + block : p->count, at = begin - 1;
            while ((at = kernel_next_within(p->distances, at + 1, end, limit)) < end) {
                if (found == room)
                    return found;
                rows[found++] = (near_row){p->distances[at], i, at};
            }
        }
    }
    return found;
}

/* Rows within a distance that at least `wide` are within, and not many more: `room` at most.
** Returns how many; -1 when memory is short. */
static int find_promising(const sieve *s, int wide, int room, near_row *rows)
{
    int block = block_of(sieve_left(s), wide);
    size_t blocks = (size_t)sieve_left(s) / (size_t)block + (size_t)s->part_count + 1;
    int32_t *least = sqlite3_malloc64(blocks * sizeof *least);
    if (!least)
        return -1;
    int count = find_least(s, block, least);
    int32_t limit = wide < count ? find_nth(least, count, wide) : SIEVE_TAKEN - 1;
    limit = limit < SIEVE_TAKEN ? limit : SIEVE_TAKEN - 1;
    int found = find_within(s, least, block, limit, room, rows);
    sqlite3_free(least);
    return found;
}

/* How near some rows of one part may be by all lines. */
static void look_closer(const sieve *s, const near_row *rows, int count, int64_t *slots,
                        int32_t *distances)
{
    const sieve_part *p = &s->parts[rows[0].part];
    for (int i = 0; i < count; i++) {
        slots[i] = p->slots ? p->slots[rows[i].at] : rows[i].at;
        distances[i] = rows[i].distance;
    }
    for (int line = p->line + 1; line < sketch_lines(p->of); line++)
        sketch_fetch(p->of, line, slots, count);
    for (int line = p->line + 1; line < sketch_lines(p->of); line++)
        sketch_go_on(p->of, s->query, line, INT32_MAX, slots, distances, count);
}

/* Of rows that were found, take out those that are the nearest by all lines. */
static int take_nearest(sieve *s, const near_row *found, int count, int most, int64_t *slots,
                        int32_t *distances, sieve_row *rows)
{
    int taken = 0;
    for (int i = 0, n; i < count; i += n) {
        for (n = 1; i + n < count && found[i + n].part == found[i].part; n++)
            ;
        look_closer(s, found + i, n, slots + i, distances + i);
    }
    int32_t limit = count > most ? find_nth(distances, count, most - 1) : SIEVE_TAKEN;
    for (int i = 0; i < count && taken < most; i++) {
        if (distances[i] > limit)
            continue;
        s->parts[found[i].part].distances[found[i].at] = SIEVE_TAKEN;
        s->parts[found[i].part].within = SIEVE_TAKEN;
        rows[taken++] = (sieve_row){found[i].part, (int)slots[i]};
    }
    return taken;
}

int sieve_take(sieve *s, int wide, int most, sieve_row *rows)
{
    sqlite3_uint64 room = 2 * (sqlite3_uint64)wide;
    near_row *found = sqlite3_malloc64(room * sizeof *found);
    int64_t *slots = sqlite3_malloc64(room * sizeof *slots);
    int32_t *distances = sqlite3_malloc64(room * sizeof *distances);
    int count = found && slots && distances ? find_promising(s, wide, (int)room, found) : -1;
    int taken = count < 0 ? -1 : take_nearest(s, found, count, most, slots, distances, rows);
    sqlite3_free(found);
    sqlite3_free(slots);
    sqlite3_free(distances);
    return taken;
}
