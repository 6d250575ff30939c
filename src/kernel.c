#include "kernel.h"

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

COMPILED_IN void compare_all(comparison *compare, const int8_t *codes, int count, int width,
                             const int16_t *query, int32_t *out)
{
    for (int i = 0; i < count; i++)
        out[i] = compare(codes + (int64_t)i * width, query, width);
}

/* Known to the compiler, the width lets it unroll the loop over components. */
void kernel_distances(const int8_t *codes, int count, int width, const int16_t *query,
                      int32_t *distances)
{
    if (width == 64)
        compare_all(distance, codes, count, 64, query, distances);
    else
        compare_all(distance, codes, count, width, query, distances);
}

void kernel_products(const int8_t *codes, int count, int width, const int16_t *query,
                     int32_t *negated)
{
    if (width == 64)
        compare_all(negated_product, codes, count, 64, query, negated);
    else
        compare_all(negated_product, codes, count, width, query, negated);
}

int kernel_places_within(const int32_t *distances, int count, int32_t limit, int64_t *places)
{
    int found = 0;
    for (int i = 0; i < count; i++) { /* without a branch that depends on the data */
        places[found] = i;
        found += distances[i] <= limit;
    }
    return found;
}

int kernel_next_within(const int32_t *distances, int from, int count, int32_t limit)
{
    enum { BLOCK = 16 };
    for (; from + BLOCK <= count; from += BLOCK) {
        int any = 0;
        for (int i = 0; i < BLOCK; i++)
            any |= distances[from + i] <= limit;
        if (any)
            break;
    }
    while (from < count && distances[from] > limit)
        from++;
    return from;
}

COMPILED_IN int keep(comparison *compare, const int8_t *codes, int width, const int16_t *query,
                     int32_t limit, const uint8_t *always, int64_t *places, int count)
{
    enum { AHEAD = 8, LINE = 64 }; /* the codes lie apart: fetch them in time */
    int kept = 0;
    for (int i = 0; i < count; i++) {
        if (i + AHEAD < count) {
            for (int at = 0; at < width; at += LINE)
                __builtin_prefetch(codes + places[i + AHEAD] * width + at);
        }
        int64_t place = places[i];
        int near =
            compare(codes + place * width, query, width) <= limit || (always && always[place]);
        places[kept] = place;
        kept += near;
    }
    return kept;
}

int kernel_keep_within(const int8_t *codes, int width, const int16_t *query, int32_t limit,
                       const uint8_t *always, int64_t *places, int count)
{
    return width == 192 ? keep(distance, codes, 192, query, limit, always, places, count)
                        : keep(distance, codes, width, query, limit, always, places, count);
}

int kernel_keep_products(const int8_t *codes, int width, const int16_t *query, int32_t limit,
                         const uint8_t *always, int64_t *places, int count)
{
    return width == 192 ? keep(negated_product, codes, 192, query, limit, always, places, count)
                        : keep(negated_product, codes, width, query, limit, always, places, count);
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
