#include "tiles.h"

#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define COMPILED_IN static inline __attribute__((always_inline))

/* As many 32-bit numbers as are worked on together, and how many such vectors of rows and
** how many queries: their sums fit the registers. */
#if defined(__AVX512BW__)
enum { LANE_BYTES = 64, VECTORS = 4, QUERIES = 4 };
#elif defined(__AVX2__)
enum { LANE_BYTES = 32, VECTORS = 2, QUERIES = 4 };
#else
enum { LANE_BYTES = 16, VECTORS = 2, QUERIES = 4 };
#endif
typedef int32_t lanes __attribute__((vector_size(LANE_BYTES)));
enum { LANES = LANE_BYTES / sizeof(int32_t) };

/* |a - b|² = |a|² + |b|² - 2<a, b>. A word has as many components as are multiplied and added
** up in one lane: two of 16 bits, or four of 8 bits. */
typedef lanes adding(lanes sums, lanes rows, lanes query);

COMPILED_IN lanes add_pairs(lanes sums, lanes rows, lanes query)
{
#if defined(__AVX512BW__)
    return sums + (lanes)_mm512_madd_epi16((__m512i)rows, (__m512i)query);
#elif defined(__AVX2__)
    return sums + (lanes)_mm256_madd_epi16((__m256i)rows, (__m256i)query);
#elif defined(__SSE2__)
    return sums + (lanes)_mm_madd_epi16((__m128i)rows, (__m128i)query);
#else
    return sums + ((rows << 16) >> 16) * ((query << 16) >> 16) + (rows >> 16) * (query >> 16);
#endif
}

#if defined(__AVX512BW__)
#define HAS_FOURS 1
#define FOR_FOURS __attribute__((target("avx512vnni")))

/* Rows without a sign, queries with one. */
FOR_FOURS COMPILED_IN lanes add_fours(lanes sums, lanes rows, lanes query)
{
    return (lanes)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)rows, (__m512i)query);
}
#endif

/* ---- packing ---- */

enum { OFFSET = 128 };                    /* makes 8-bit components of rows positive: … */
static const uint32_t FLIP = 0x80808080u; /* … adds it to each of four */

static int packs_fours(void)
{
#ifdef HAS_FOURS
    return __builtin_cpu_supports("avx512vnni") != 0;
#else
    return 0;
#endif
}

static int words_of(int width)
{
    return packs_fours() ? width / 4 : width / 2;
}

/* A packed query: what is to be added to its distances, then its words. */
size_t tile_queries_bytes(int count, int width)
{
    return (size_t)count * (size_t)(words_of(width) + 1) * sizeof(int32_t);
}

/* Packed rows: for each vector of TILE_LANES rows their squared norms, then their words, the
** first of each row, the second of each, and so on. */
size_t tile_rows_bytes(int width)
{
    return (size_t)TILE_ROWS * (size_t)(words_of(width) + 1) * sizeof(int32_t);
}

typedef uint32_t word_maker(const int8_t *code);

COMPILED_IN uint32_t word_of_two(const int8_t *code)
{
    return (uint32_t)(uint16_t)code[0] | (uint32_t)(uint16_t)code[1] << 16;
}

COMPILED_IN uint32_t word_of_four(const int8_t *code)
{
    return (uint32_t)(uint8_t)code[0] | (uint32_t)(uint8_t)code[1] << 8 |
           (uint32_t)(uint8_t)code[2] << 16 | (uint32_t)(uint8_t)code[3] << 24;
}

static int32_t squared_norm(const int8_t *code, int width)
{
    int32_t sum = 0;
    for (int i = 0; i < width; i++)
        sum += code[i] * code[i];
    return sum;
}

void tile_pack_queries(const int8_t *const *codes, int count, int width, void *packed)
{
    int fours = packs_fours(), words = words_of(width);
    int32_t *out = packed;
    for (int q = 0; q < count; q++) {
        const int8_t *code = codes[q];
        int32_t sum = 0;
        for (int i = 0; i < width; i++)
            sum += code[i];
        *out++ = squared_norm(code, width) + (fours ? 2 * OFFSET * sum : 0);
        for (int i = 0; i < words; i++)
            *out++ = (int32_t)(fours ? word_of_four(code + 4 * i) : word_of_two(code + 2 * i));
    }
}

/* TILE_LANES rows: the first word of each, the second of each, ... */
COMPILED_IN void pack_lanes(word_maker *make, int components, const int8_t *codes, int width,
                            uint32_t flip, int32_t *out)
{
    for (int i = 0; i < width; i += components) {
        for (int lane = 0; lane < TILE_LANES; lane++)
            out[lane] = (int32_t)(make(codes + lane * width + i) ^ flip);
        out += TILE_LANES;
    }
}

/* One row of each group: the next ones are the next vectors'. Those that are left out, or not
** there, are far away. */
void tile_pack_rows(const int8_t *codes, int count, int width, const uint8_t *left_out,
                    void *packed)
{
    int32_t *norms = packed;
    for (int first = 0; first < TILE_GROUP; first++) {
        int8_t own[TILE_LANES * TILE_WIDTH_MOST] = {0};
        for (int lane = 0; lane < TILE_LANES; lane++) {
            int row = lane * TILE_GROUP + first;
            const int8_t *code = codes + (int64_t)row * width;
            norms[lane] = 2 * TILE_FAR;
            if (row >= count || (left_out && left_out[row]))
                continue;
            norms[lane] = squared_norm(code, width);
            memcpy(own + lane * width, code, (size_t)width);
        }
        if (packs_fours())
            pack_lanes(word_of_four, 4, own, width, FLIP, norms + TILE_LANES);
        else
            pack_lanes(word_of_two, 2, own, width, 0, norms + TILE_LANES);
        norms += (words_of(width) + 1) * TILE_LANES;
    }
}

/* ---- comparing ---- */

/* Of VECTORS vectors of rows, LANES lanes of each, and QUERIES queries: take the distances less
** the queries' part into the least ones. */
COMPILED_IN void compare(adding *add, const int32_t *rows, int words, const int32_t *queries,
                         lanes least[QUERIES])
{
    lanes sums[VECTORS][QUERIES] = {0};
    size_t apart = (size_t)(words + 1) * TILE_LANES;
    for (int i = 1; i <= words; i++) {
        lanes own[VECTORS];
        for (int v = 0; v < VECTORS; v++)
            memcpy(&own[v], rows + (size_t)v * apart + (size_t)i * TILE_LANES, sizeof own[v]);
        for (int q = 0; q < QUERIES; q++) {
            lanes query = (lanes){0} + queries[(size_t)q * (size_t)(words + 1) + (size_t)i];
            for (int v = 0; v < VECTORS; v++)
                sums[v][q] = add(sums[v][q], own[v], query);
        }
    }
    for (int v = 0; v < VECTORS; v++) {
        lanes norms;
        memcpy(&norms, rows + (size_t)v * apart, sizeof norms);
        for (int q = 0; q < QUERIES; q++) {
            lanes found = norms - 2 * sums[v][q], nearer = found < least[q];
            least[q] = (found & nearer) | (least[q] & ~nearer);
        }
    }
}

/* QUERIES queries with all rows of a block. */
COMPILED_IN void compare_block(adding *add, const int32_t *rows, int words, const int32_t *queries,
                               int32_t *least, size_t stride)
{
    size_t apart = (size_t)(words + 1) * TILE_LANES;
    for (int part = 0; part < TILE_LANES; part += LANES) {
        lanes found[QUERIES];
        for (int q = 0; q < QUERIES; q++)
            found[q] = (lanes){0} + INT32_MAX;
        for (int v = 0; v < TILE_GROUP; v += VECTORS)
            compare(add, rows + (size_t)v * apart + part, words, queries, found);
        for (int q = 0; q < QUERIES; q++) {
            found[q] += queries[(size_t)q * (size_t)(words + 1)];
            memcpy(least + (size_t)q * stride + part, &found[q], sizeof found[q]);
        }
    }
}

/* All queries; the last ones of a number that QUERIES does not divide once more, with
** those before them or with copies of themselves. */
COMPILED_IN void compare_tile(adding *add, const int32_t *queries, int count, const int32_t *rows,
                              int words, int32_t *least, size_t stride)
{
    size_t apart = (size_t)(words + 1);
    int q = 0;
    for (; q + QUERIES <= count; q += QUERIES)
        compare_block(add, rows, words, queries + (size_t)q * apart, least + (size_t)q * stride,
                      stride);
    for (; q < count; q++) {
        int32_t copies[QUERIES * (TILE_WIDTH_MOST / 2 + 1)], found[QUERIES * TILE_LANES];
        for (int i = 0; i < QUERIES; i++)
            memcpy(copies + (size_t)i * apart, queries + (size_t)q * apart, apart * sizeof *copies);
        compare_block(add, rows, words, copies, found, TILE_LANES);
        memcpy(least + (size_t)q * stride, found, TILE_LANES * sizeof *found);
    }
}

#ifdef HAS_FOURS
FOR_FOURS static void least_by_fours(const int32_t *queries, int count, const int32_t *rows,
                                     int words, int32_t *least, size_t stride)
{
    compare_tile(add_fours, queries, count, rows, words, least, stride);
}
#endif

void tile_least(const void *queries, int count, const void *rows, int width, int32_t *least,
                size_t stride)
{
#ifdef HAS_FOURS
    if (packs_fours()) {
        least_by_fours(queries, count, rows, words_of(width), least, stride);
        return;
    }
#endif
    compare_tile(add_pairs, queries, count, rows, words_of(width), least, stride);
}

int32_t tile_distance_plain(const int8_t *a, const int8_t *b, int width)
{
    volatile int32_t sum = 0;
    for (int i = 0; i < width; i++)
        sum += (a[i] - b[i]) * (a[i] - b[i]);
    return sum;
}
