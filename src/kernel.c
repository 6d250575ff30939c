#include "kernel.h"

#include "kernel_avx512.h"

/* How a code compares with a query: smaller is nearer. Constant where it is passed on, it
** is compiled in. */
typedef int32_t comparison(const int8_t *code, const int16_t *query, int width);

#define COMPILED_IN static inline __attribute__((always_inline))

/* Differences fit in 16 bits, and compilers know the sum of products of 16-bit
** numbers as one instruction. */
COMPILED_IN int32_t distance(const int8_t *a, const int16_t *b, int width)
{
    int32_t sum = 0;
    for (int i = 0; i < width; i++) {
        int16_t difference = (int16_t)(a[i] * KERNEL_FINER - b[i]);
        sum += (int32_t)difference * difference;
    }
    return sum;
}

COMPILED_IN int32_t negated_product(const int8_t *a, const int16_t *b, int width)
{
    int32_t sum = 0;
    for (int i = 0; i < width; i++) {
        int16_t component = a[i];
        sum += (int32_t)component * b[i];
    }
    return -sum;
}

/* One after another: processors foresee that within a page of memory, but not what comes after
** it. */
COMPILED_IN void compare_all(comparison *compare, const int8_t *codes, int count, int width,
                             const int16_t *query, int32_t *out)
{
    enum { AHEAD = 64 };
    for (int i = 0; i < count; i++) {
        if (i + AHEAD < count)
            __builtin_prefetch(codes + (int64_t)(i + AHEAD) * width);
        out[i] = compare(codes + (int64_t)i * width, query, width);
    }
}

/* Known to the compiler, the width lets it unroll the loop over components. */
void kernel_distances(const int8_t *codes, int count, int width, const int16_t *query,
                      int32_t *distances)
{
    if (is_for_vnni(width)) {
        int done = vnni_compare(DISTANCE, codes, query, count, distances);
        codes += (int64_t)done * width;
        count -= done;
        distances += done;
    }
    if (width == 64)
        compare_all(distance, codes, count, 64, query, distances);
    else if (width == 32)
        compare_all(distance, codes, count, 32, query, distances);
    else
        compare_all(distance, codes, count, width, query, distances);
}

void kernel_products(const int8_t *codes, int count, int width, const int16_t *query,
                     int32_t *negated)
{
    if (is_for_vnni(width)) {
        int done = vnni_compare(PRODUCT, codes, query, count, negated);
        codes += (int64_t)done * width;
        count -= done;
        negated += done;
    }
    if (width == 64)
        compare_all(negated_product, codes, count, 64, query, negated);
    else if (width == 32)
        compare_all(negated_product, codes, count, 32, query, negated);
    else
        compare_all(negated_product, codes, count, width, query, negated);
}

/* Distances that are looked at together first: most often none of them is within a limit. */
enum { BLOCK = 16 };

COMPILED_IN int any_within(const int32_t *distances, int32_t limit)
{
    int any = 0;
    for (int i = 0; i < BLOCK; i++)
        any |= distances[i] <= limit;
    return any;
}

int kernel_places_within(int32_t *distances, int count, int32_t limit, int64_t *places)
{
    int found = 0, begin = places_by_sixteens(distances, count, limit, places, &found);
    for (; begin < count; begin += BLOCK) {
        int end = begin + BLOCK < count ? begin + BLOCK : count;
        if (end == begin + BLOCK && !any_within(distances + begin, limit))
            continue;
        for (int i = begin; i < end; i++) { /* without a branch that depends on the data */
            int32_t distance_of = distances[i];
            places[found] = i;
            distances[found] = distance_of;
            found += distance_of <= limit;
        }
    }
    return found;
}

int kernel_next_within(const int32_t *distances, int from, int count, int32_t limit)
{
    while (from + BLOCK <= count && !any_within(distances + from, limit))
        from += BLOCK;
    while (from < count && distances[from] > limit)
        from++;
    return from;
}

int kernel_count_within(const int32_t *distances, int count, int32_t limit)
{
    int within = 0;
    for (int i = 0; i < count; i++)
        within += distances[i] <= limit;
    return within;
}

COMPILED_IN int32_t least_of(const int32_t *distances, int count)
{
    int32_t least = INT32_MAX;
    for (int i = 0; i < count; i++)
        least = distances[i] < least ? distances[i] : least;
    return least;
}

COMPILED_IN int least_of_blocks(const int32_t *distances, int count, int block, int32_t *least)
{
    int blocks = count / block;
    for (int i = 0; i < blocks; i++)
        least[i] = least_of(distances + (int64_t)i * block, block);
    if (count % block == 0)
        return blocks;
    least[blocks] = least_of(distances + (int64_t)blocks * block, count % block);
    return blocks + 1;
}

int kernel_least(const int32_t *distances, int count, int block, int32_t *least)
{
    return block == 64   ? least_of_blocks(distances, count, 64, least)
           : block == 16 ? least_of_blocks(distances, count, 16, least)
                         : least_of_blocks(distances, count, block, least);
}

int kernel_keep(int64_t *places, int32_t *distances, int count, int32_t limit)
{
    int kept = 0, i = keep_by_sixteens(places, distances, count, limit, &kept);
    for (; i < count; i++) {
        int64_t place = places[i];
        int32_t distance_of = distances[i];
        places[kept] = place;
        distances[kept] = distance_of;
        kept += distance_of <= limit;
    }
    return kept;
}

/* Codes that lie apart: fetch them in time. */
COMPILED_IN void fetch_ahead(const int8_t *codes, int width, const int64_t *places, int i,
                             int count)
{
    enum { AHEAD = 24 };
    if (i + AHEAD < count)
        __builtin_prefetch(codes + places[i + AHEAD] * width);
}

COMPILED_IN void compare_at(comparison *compare, const int8_t *codes, int width,
                            const int16_t *query, const int64_t *places, int count, int32_t *out)
{
    for (int i = 0; i < count; i++) {
        fetch_ahead(codes, width, places, i, count);
        out[i] = compare(codes + places[i] * width, query, width);
    }
}

void kernel_distances_at(const int8_t *codes, int width, const int16_t *query,
                         const int64_t *places, int count, int32_t *distances)
{
    if (is_for_vnni(width))
        vnni_compare_at(DISTANCE, codes, query, places, count, distances);
    else if (width == 64)
        compare_at(distance, codes, 64, query, places, count, distances);
    else
        compare_at(distance, codes, width, query, places, count, distances);
}

void kernel_products_at(const int8_t *codes, int width, const int16_t *query, const int64_t *places,
                        int count, int32_t *negated)
{
    if (is_for_vnni(width))
        vnni_compare_at(PRODUCT, codes, query, places, count, negated);
    else if (width == 64)
        compare_at(negated_product, codes, 64, query, places, count, negated);
    else
        compare_at(negated_product, codes, width, query, places, count, negated);
}

COMPILED_IN int go_on(comparison *compare, const int8_t *codes, int width, const int16_t *query,
                      int32_t limit, int64_t *places, int32_t *distances, int count)
{
    int kept = 0;
    for (int i = 0; i < count; i++) {
        fetch_ahead(codes, width, places, i, count);
        int64_t place = places[i];
        const int8_t *code = codes + place * width;
        int32_t replaced = compare(code + width - 1, query + width - 1, 1);
        int32_t now = distances[i] + (compare(code, query, width) - 2 * replaced);
        places[kept] = place; /* without a branch that depends on the data */
        distances[kept] = now;
        kept += now <= limit;
    }
    return kept;
}

int kernel_distances_on(const int8_t *codes, int width, const int16_t *query, int32_t limit,
                        int64_t *places, int32_t *distances, int count)
{
    if (is_for_vnni(width))
        return vnni_go_on(DISTANCE, codes, query, limit, places, distances, count);
    return width == 64   ? go_on(distance, codes, 64, query, limit, places, distances, count)
           : width == 32 ? go_on(distance, codes, 32, query, limit, places, distances, count)
                         : go_on(distance, codes, width, query, limit, places, distances, count);
}

int kernel_products_on(const int8_t *codes, int width, const int16_t *query, int32_t limit,
                       int64_t *places, int32_t *negated, int count)
{
    if (is_for_vnni(width))
        return vnni_go_on(PRODUCT, codes, query, limit, places, negated, count);
    return width == 64 ? go_on(negated_product, codes, 64, query, limit, places, negated, count)
           : width == 32
               ? go_on(negated_product, codes, 32, query, limit, places, negated, count)
               : go_on(negated_product, codes, width, query, limit, places, negated, count);
}

int32_t kernel_distance_plain(const int8_t *a, const int16_t *b, int width)
{
    volatile int32_t sum = 0;
    for (int i = 0; i < width; i++)
        sum += (a[i] * KERNEL_FINER - b[i]) * (a[i] * KERNEL_FINER - b[i]);
    return sum;
}

int32_t kernel_product_plain(const int8_t *a, const int16_t *b, int width)
{
    volatile int32_t sum = 0;
    for (int i = 0; i < width; i++)
        sum += a[i] * b[i];
    return sum;
}
