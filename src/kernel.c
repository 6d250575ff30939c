#include "kernel.h"

/* Differences fit in 16 bits, and compilers know the sum of products of 16-bit
** numbers as one instruction. */
static inline int32_t distance(const int8_t *a, const int8_t *b, int width)
{
    int32_t sum = 0;
    for (int i = 0; i < width; i++) {
        int16_t difference = (int16_t)(a[i] - b[i]);
        sum += (int32_t)difference * difference;
    }
    return sum;
}

/* Known to the compiler, the width lets it unroll the loop over components. */
static inline void distances_of_width(const int8_t *codes, int count, int width,
                                      const int8_t *query, int32_t *distances)
{
    for (int i = 0; i < count; i++)
        distances[i] = distance(codes + (int64_t)i * width, query, width);
}

void kernel_distances(const int8_t *codes, int count, int width, const int8_t *query,
                      int32_t *distances)
{
    if (width == 64)
        distances_of_width(codes, count, 64, query, distances);
    else
        distances_of_width(codes, count, width, query, distances);
}

static inline int keep_of_width(const int8_t *codes, int width, const int8_t *query, int32_t limit,
                                const uint8_t *always, int64_t *places, int count)
{
    enum { AHEAD = 8, LINE = 64 }; /* the codes lie apart: fetch them in time */
    int kept = 0;
    for (int i = 0; i < count; i++) {
        if (i + AHEAD < count) {
            for (int at = 0; at < width; at += LINE)
                __builtin_prefetch(codes + places[i + AHEAD] * width + at);
        }
        int64_t place = places[i];
        int keep =
            distance(codes + place * width, query, width) <= limit || (always && always[place]);
        places[kept] = place;
        kept += keep;
    }
    return kept;
}

int kernel_keep_within(const int8_t *codes, int width, const int8_t *query, int32_t limit,
                       const uint8_t *always, int64_t *places, int count)
{
    return width == 192 ? keep_of_width(codes, 192, query, limit, always, places, count)
                        : keep_of_width(codes, width, query, limit, always, places, count);
}

int32_t kernel_distance_plain(const int8_t *a, const int8_t *b, int width)
{
    volatile int32_t sum = 0;
    for (int i = 0; i < width; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}
