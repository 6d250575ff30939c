/*
** The loops of kernel.c on processors with AVX-512, sixteen codes at a time: for kernel.c alone.
**
** With AVX-512 VNNI (asked for at run time) a code of 64 components is one register, and the sums
** of the products of four 8-bit numbers each are one instruction. What is left to add up of a code
** is added up together with that of fifteen others: alone it would take longer than all the rest.
**
** One factor of such a product has no sign. For a component a of a code let u = a + 128, and with
** f = KERNEL_FINER
**
**     (fa - b)² - b² = 2f (f/2 a² - ab) = 2f (f/2 ua + ac)    c = -b - 64f
**     ac = 256 (u - 128) high + a low                         c = 256 high + low, low >= 0
**
** Of a component whose square is taken off (kernel_distances_on()) all of that is negative:
**
**     -(f/2 a² - ab) = f/2 ua + ac                            u = 127 - a, c = b - 127f/2
**     ac = 256 (127 - u) high + a low
**
** Sums wrap around on the way where they must: what comes out is exact, as it fits 32 bits.
*/
#ifndef KERNEL_AVX512_H
#define KERNEL_AVX512_H

#include "kernel.h"

typedef enum comparison_kind { DISTANCE, PRODUCT } comparison_kind;

#if defined(__AVX512BW__)
#include <immintrin.h>

#define WITH_VNNI __attribute__((target("avx512vnni")))
#define INLINE static inline __attribute__((always_inline))

enum { SIXTEEN = 16, EIGHT = 8, VNNI_WIDTH = 64 };
enum { FINER_LOG = 3, OFFSET = 128 };
_Static_assert(1 << FINER_LOG == KERNEL_FINER, "a shift multiplies by it");
/* Codes fetched before they are looked at: one after another, and at places. */
enum { FETCH_ROWS = 64, FETCH_PLACES = 48 };

/* Whether the loops below are for codes of this width. */
INLINE int is_for_vnni(int width)
{
    return width == VNNI_WIDTH && __builtin_cpu_supports("avx512vnni");
}

/* A query as codes are compared with it. */
typedef struct split_query {
    __m512i flip; /* u = a ^ flip */
    __m512i high, low;
    __m512i constant; /* of all sums, in each lane */
} split_query;

/* The low or the high bytes of 64 words. */
INLINE __m512i bytes_of(__m512i first, __m512i last)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi16_epi8(first)),
                              _mm512_cvtepi16_epi8(last), 1);
}

/* Split a query; `takes_off` says that the last component is to be taken off. */
WITH_VNNI INLINE split_query split(const int16_t *query, comparison_kind kind, int takes_off)
{
    const __mmask32 last_word = 1u << 31;
    const __mmask64 last_byte = (uint64_t)1 << 63;
    const __m512i zero = _mm512_setzero_si512(), offset = _mm512_set1_epi8((char)OFFSET);
    const __m512i shift = _mm512_set1_epi16(kind == DISTANCE ? OFFSET / 2 * KERNEL_FINER : 0);
    __m512i first = _mm512_loadu_si512(query), last = _mm512_loadu_si512(query + VNNI_WIDTH / 2);
    __m512i squares = _mm512_madd_epi16(first, first), flips = offset, offsets = offset;
    __m512i c = _mm512_sub_epi16(_mm512_sub_epi16(zero, first), shift);
    __m512i d = _mm512_sub_epi16(_mm512_sub_epi16(zero, last), shift);
    if (takes_off) {
        __m512i off = _mm512_set1_epi16(kind == DISTANCE ? (OFFSET - 1) * KERNEL_FINER / 2 : 0);
        d = _mm512_mask_sub_epi16(d, last_word, last, off);
    }
    split_query q = {.low = bytes_of(c, d)};
    q.high = bytes_of(_mm512_srai_epi16(c, 8), _mm512_srai_epi16(d, 8));
    if (takes_off && kind == DISTANCE) {
        flips = _mm512_mask_set1_epi8(flips, last_byte, OFFSET - 1);
        offsets = _mm512_mask_set1_epi8(offsets, last_byte, OFFSET - 1);
        q.high = _mm512_mask_sub_epi8(q.high, last_byte, zero, q.high);
    }
    q.flip = flips;
    offsets = _mm512_slli_epi32(_mm512_dpbusd_epi32(zero, offsets, q.high), 8);
    if (kind == PRODUCT) {
        q.constant = _mm512_set1_epi32(-_mm512_reduce_add_epi32(offsets));
        return q;
    }
    __m512i taken_off = takes_off ? _mm512_mask_sub_epi16(last, last_word, zero, last) : last;
    squares = _mm512_add_epi32(squares, _mm512_madd_epi16(last, taken_off));
    squares = _mm512_sub_epi32(squares, _mm512_slli_epi32(offsets, FINER_LOG + 1));
    q.constant = _mm512_set1_epi32(_mm512_reduce_add_epi32(squares));
    return q;
}

/* What is to be added up for one code. */
WITH_VNNI INLINE __m512i sums_of(const int8_t *code, split_query q, comparison_kind kind)
{
    __m512i a = _mm512_loadu_si512(code), u = _mm512_xor_si512(a, q.flip);
    __m512i sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), u, q.high);
    if (kind == PRODUCT)
        return _mm512_dpbusd_epi32(_mm512_slli_epi32(sums, 8), q.low, a);
    sums = _mm512_slli_epi32(sums, 8 - (FINER_LOG - 1));
    sums = _mm512_slli_epi32(_mm512_dpbusd_epi32(sums, u, a), FINER_LOG - 1);
    return _mm512_dpbusd_epi32(sums, q.low, a);
}

/* Add up the lanes of each of sixteen registers: those of the i-th in lane i. */
INLINE __m512i add_up(const __m512i *sums)
{
    enum { EVEN = 0x88, ODD = 0xdd };
    __m512i twos[EIGHT], fours[EIGHT / 2], eights[EIGHT / 4];
    for (int i = 0; i < EIGHT; i++)
        twos[i] = _mm512_add_epi32(_mm512_unpacklo_epi32(sums[2 * i], sums[2 * i + 1]),
                                   _mm512_unpackhi_epi32(sums[2 * i], sums[2 * i + 1]));
    for (int i = 0; i < EIGHT / 2; i++)
        fours[i] = _mm512_add_epi32(_mm512_unpacklo_epi64(twos[2 * i], twos[2 * i + 1]),
                                    _mm512_unpackhi_epi64(twos[2 * i], twos[2 * i + 1]));
    for (int i = 0; i < EIGHT / 4; i++)
        eights[i] = _mm512_add_epi32(_mm512_shuffle_i32x4(fours[2 * i], fours[2 * i + 1], EVEN),
                                     _mm512_shuffle_i32x4(fours[2 * i], fours[2 * i + 1], ODD));
    return _mm512_add_epi32(_mm512_shuffle_i32x4(eights[0], eights[1], EVEN),
                            _mm512_shuffle_i32x4(eights[0], eights[1], ODD));
}

WITH_VNNI INLINE __m512i finish(const __m512i *sums, split_query q, comparison_kind kind)
{
    __m512i all = add_up(sums);
    if (kind == DISTANCE)
        all = _mm512_slli_epi32(all, FINER_LOG + 1);
    return _mm512_add_epi32(all, q.constant);
}

/* ---- comparing ---- */

/* Compare codes that stand one after another, as many as there are sixteens of; returns how
** many. */
WITH_VNNI INLINE int compare_as(comparison_kind kind, const int8_t *codes, const int16_t *query,
                                int count, int32_t *out)
{
    int i = 0;
    if (count < SIXTEEN)
        return 0;
    split_query q = split(query, kind, 0);
    for (; i + SIXTEEN <= count; i += SIXTEEN) {
        __m512i sums[SIXTEEN];
        for (int j = 0; j < SIXTEEN; j++) {
            const int8_t *code = codes + (int64_t)(i + j) * VNNI_WIDTH;
            __builtin_prefetch(code + FETCH_ROWS * VNNI_WIDTH);
            sums[j] = sums_of(code, q, kind);
        }
        _mm512_storeu_si512(out + i, finish(sums, q, kind));
    }
    return i;
}

WITH_VNNI static int vnni_compare(comparison_kind kind, const int8_t *codes, const int16_t *query,
                                  int count, int32_t *out)
{
    return kind == DISTANCE ? compare_as(DISTANCE, codes, query, count, out)
                            : compare_as(PRODUCT, codes, query, count, out);
}

/* Compare the codes at sixteen places; `next` are places to be fetched. */
WITH_VNNI INLINE __m512i compare_sixteen(comparison_kind kind, const int8_t *codes, split_query q,
                                         const int64_t *places, const int64_t *next)
{
    __m512i sums[SIXTEEN];
    for (int i = 0; i < SIXTEEN; i++) {
        __builtin_prefetch(codes + next[i] * VNNI_WIDTH);
        sums[i] = sums_of(codes + places[i] * VNNI_WIDTH, q, kind);
    }
    return finish(sums, q, kind);
}

/* The last few of `count` places, from place i on, and the last one as often as it takes. */
INLINE void fill_up(const int64_t *places, int i, int count, int64_t *sixteen)
{
    for (int j = 0; j < SIXTEEN; j++)
        sixteen[j] = places[i + j < count ? i + j : count - 1];
}

WITH_VNNI INLINE void compare_at_as(comparison_kind kind, const int8_t *codes, const int16_t *query,
                                    const int64_t *places, int count, int32_t *out)
{
    int i = 0;
    if (count == 0)
        return;
    split_query q = split(query, kind, 0);
    for (; i + SIXTEEN <= count; i += SIXTEEN) {
        int ahead = i + FETCH_PLACES + SIXTEEN <= count ? FETCH_PLACES : 0;
        _mm512_storeu_si512(out + i,
                            compare_sixteen(kind, codes, q, places + i, places + i + ahead));
    }
    int64_t left[SIXTEEN];
    int32_t found[SIXTEEN];
    if (i == count)
        return;
    fill_up(places, i, count, left);
    _mm512_storeu_si512(found, compare_sixteen(kind, codes, q, left, left));
    for (int j = 0; i + j < count; j++)
        out[i + j] = found[j];
}

/* Compare the codes at places. */
WITH_VNNI static void vnni_compare_at(comparison_kind kind, const int8_t *codes,
                                      const int16_t *query, const int64_t *places, int count,
                                      int32_t *out)
{
    if (kind == DISTANCE)
        compare_at_as(DISTANCE, codes, query, places, count, out);
    else
        compare_at_as(PRODUCT, codes, query, places, count, out);
}

/* ---- keeping those within a limit ---- */

/* Append those of sixteen places, and their distances, that are within a limit; returns how many
** there are then. There is room for all sixteen. */
INLINE int append_within(int64_t *places, int32_t *distances, int kept, __m512i first, __m512i last,
                         __m512i own, int32_t limit)
{
    unsigned within = _mm512_cmple_epi32_mask(own, _mm512_set1_epi32(limit));
    __mmask8 of_first = (__mmask8)within, of_last = (__mmask8)(within >> EIGHT);
    _mm512_storeu_si512(distances + kept, _mm512_maskz_compress_epi32((__mmask16)within, own));
    _mm512_storeu_si512(places + kept, _mm512_maskz_compress_epi64(of_first, first));
    _mm512_storeu_si512(places + kept + __builtin_popcount(of_first),
                        _mm512_maskz_compress_epi64(of_last, last));
    return kept + __builtin_popcount(within);
}

/* Of the places 0, 1, … as many as there are sixteens of; returns how many, and *kept. */
INLINE int places_by_sixteens(int32_t *distances, int count, int32_t limit, int64_t *places,
                              int *kept)
{
    const __m512i eight = _mm512_set1_epi64(EIGHT);
    __m512i first = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
    int i = 0;
    for (; i + SIXTEEN <= count; i += SIXTEEN) {
        __m512i last = _mm512_add_epi64(first, eight);
        *kept = append_within(places, distances, *kept, first, last,
                              _mm512_loadu_si512(distances + i), limit);
        first = _mm512_add_epi64(last, eight);
    }
    return i;
}

/* The same of places that are listed. */
INLINE int keep_by_sixteens(int64_t *places, int32_t *distances, int count, int32_t limit,
                            int *kept)
{
    int i = 0;
    for (; i + SIXTEEN <= count; i += SIXTEEN)
        *kept = append_within(places, distances, *kept, _mm512_loadu_si512(places + i),
                              _mm512_loadu_si512(places + i + EIGHT),
                              _mm512_loadu_si512(distances + i), limit);
    return i;
}

WITH_VNNI INLINE int go_on_as(comparison_kind kind, const int8_t *codes, const int16_t *query,
                              int32_t limit, int64_t *places, int32_t *distances, int count)
{
    int i = 0, kept = 0;
    if (count == 0)
        return 0;
    split_query q = split(query, kind, 1);
    for (; i + SIXTEEN <= count; i += SIXTEEN) {
        int ahead = i + FETCH_PLACES + SIXTEEN <= count ? FETCH_PLACES : 0;
        __m512i more = compare_sixteen(kind, codes, q, places + i, places + i + ahead);
        kept = append_within(places, distances, kept, _mm512_loadu_si512(places + i),
                             _mm512_loadu_si512(places + i + EIGHT),
                             _mm512_add_epi32(_mm512_loadu_si512(distances + i), more), limit);
    }
    int64_t left[SIXTEEN];
    int32_t found[SIXTEEN];
    if (i == count)
        return kept;
    fill_up(places, i, count, left);
    _mm512_storeu_si512(found, compare_sixteen(kind, codes, q, left, left));
    for (int j = 0; i + j < count; j++) {
        int32_t now = distances[i + j] + found[j];
        places[kept] = left[j];
        distances[kept] = now;
        kept += now <= limit;
    }
    return kept;
}

/* Go on with places: kernel_distances_on() and kernel_products_on(). */
WITH_VNNI static int vnni_go_on(comparison_kind kind, const int8_t *codes, const int16_t *query,
                                int32_t limit, int64_t *places, int32_t *distances, int count)
{
    return kind == DISTANCE ? go_on_as(DISTANCE, codes, query, limit, places, distances, count)
                            : go_on_as(PRODUCT, codes, query, limit, places, distances, count);
}

#undef INLINE
#else
#define is_for_vnni(width) 0
#define vnni_compare(...) 0
#define vnni_compare_at(...) (void)0
#define vnni_go_on(...) 0
#define places_by_sixteens(...) 0
#define keep_by_sixteens(...) 0
#endif
#endif
