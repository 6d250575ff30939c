/* The loops over sketches equal the plain one, whatever the compiler makes of them: for
** every width that a basis may have, for extreme codes and at any alignment. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "kernel.h"

enum { COUNT = 67, WIDTH_LEAST = 8, WIDTH_MOST = 256, SHIFTS = 3, CODE_MOST = 127 };

/* Where random numbers come from: the same in every run. */
static uint32_t state = 1;

static uint32_t draw(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* What codes are filled with; -128 is no code, and must not be a trap either. */
typedef enum filling { RANDOM, LEAST, MOST, ALTERNATING, ENDS, ZERO, BEYOND, FILLINGS } filling;

static int8_t component(filling how, int i)
{
    switch (how) {
    case RANDOM:
        return (int8_t)((int)(draw() % (2 * CODE_MOST + 1)) - CODE_MOST);
    case LEAST:
        return -CODE_MOST;
    case MOST:
        return CODE_MOST;
    case ALTERNATING:
        return i % 2 ? CODE_MOST : -CODE_MOST;
    case ENDS:
        return draw() % 2 ? CODE_MOST : -CODE_MOST;
    case BEYOND:
        return INT8_MIN;
    default:
        return 0;
    }
}

static void fill(int8_t *codes, int count, filling how)
{
    for (int i = 0; i < count; i++)
        codes[i] = component(how, i);
}

/* A query: the components of a code times a factor, and a few odd ones. */
static int16_t *widened(const int8_t *query, int width, int factor)
{
    int16_t *wide = malloc((size_t)width * sizeof *wide);
    assert_non_null(wide);
    for (int i = 0; i < width; i++)
        wide[i] = (int16_t)(query[i] * factor + query[i] % 2);
    return wide;
}

/* A block that ends with its codes, so that reading on is an error that sanitizers see. */
static int8_t *block(int count, int width, int shift, int8_t **codes)
{
    int8_t *memory = malloc((size_t)(shift + count * width));
    assert_non_null(memory);
    *codes = memory + shift;
    return memory;
}

static void check_distances(const int8_t *codes, int count, int width, const int16_t *query)
{
    enum { MARK = -77 };
    int32_t found[COUNT + 1];
    for (int i = 0; i <= COUNT; i++)
        found[i] = MARK;
    kernel_distances(codes, count, width, query, found);
    for (int i = 0; i < count; i++)
        assert_int_equal(found[i], kernel_distance_plain(codes + i * width, query, width));
    for (int i = count; i <= COUNT; i++)
        assert_int_equal(found[i], MARK); /* nothing behind */
}

static void check_products(const int8_t *codes, int count, int width, const int16_t *query)
{
    enum { MARK = -77 };
    int32_t found[COUNT + 1];
    for (int i = 0; i <= COUNT; i++)
        found[i] = MARK;
    kernel_products(codes, count, width, query, found);
    for (int i = 0; i < count; i++)
        assert_int_equal(found[i], -kernel_product_plain(codes + i * width, query, width));
    for (int i = count; i <= COUNT; i++)
        assert_int_equal(found[i], MARK);
}

static int32_t plain(int products, const int8_t *code, const int16_t *query, int width)
{
    return products ? -kernel_product_plain(code, query, width)
                    : kernel_distance_plain(code, query, width);
}

/* The distances at some places, in an order of their own; then those that are kept by them, and
** those that are kept when one goes on to other codes. */
static void check_at_places(const int8_t *codes, int count, int width, const int16_t *query,
                            int products, int32_t limit)
{
    int64_t places[2 * COUNT] = {0}, kept[2 * COUNT], expected[2 * COUNT];
    int32_t found[2 * COUNT], moved[2 * COUNT], wanted[2 * COUNT];
    int given = 0, many = 0;
    for (int i = 0; i < 2 * count; i++) {
        if (draw() % 3)
            places[given++] = (int64_t)(draw() % (uint32_t)count);
    }
    (products ? kernel_products_at : kernel_distances_at)(codes, width, query, places, given,
                                                          found);
    for (int i = 0; i < given; i++) {
        assert_int_equal(found[i], plain(products, codes + places[i] * width, query, width));
        expected[many] = places[i];
        wanted[many] = found[i];
        many += found[i] <= limit;
    }
    memcpy(kept, places, sizeof kept);
    memcpy(moved, found, sizeof moved);
    assert_int_equal(kernel_keep(kept, moved, given, limit), many);
    assert_memory_equal(kept, expected, (size_t)many * sizeof *kept);
    assert_memory_equal(moved, wanted, (size_t)many * sizeof *moved);
    many = 0;
    for (int i = 0; i < given; i++) {
        const int8_t *code = codes + places[i] * width;
        found[i] = (int32_t)(draw() % 1000);
        expected[many] = places[i];
        wanted[many] = found[i] + plain(products, code, query, width) -
                       2 * plain(products, code + width - 1, query + width - 1, 1);
        many += wanted[many] <= limit;
    }
    int go_on = (products ? kernel_products_on : kernel_distances_on)(codes, width, query, limit,
                                                                      places, found, given);
    assert_int_equal(go_on, many);
    assert_memory_equal(places, expected, (size_t)many * sizeof *places);
    assert_memory_equal(found, wanted, (size_t)many * sizeof *found);
}

static void check_limits(const int8_t *codes, int count, int width, const int16_t *query,
                         int products)
{
    /* At a distance that occurs, just below it, and at both ends. */
    int32_t middle = plain(products, codes + count / 2 * width, query, width);
    const int32_t limits[] = {middle, middle - 1, 0, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        check_at_places(codes, count, width, query, products, limits[i]);
}

/* The places within a limit, all at once, with their distances moved to the front, and one after
** another. */
static void check_places(int count)
{
    int32_t distances[COUNT];
    int64_t places[COUNT];
    for (int i = 0; i < count; i++)
        distances[i] = (int32_t)(draw() % 7) - 3;
    const int32_t limits[] = {INT32_MIN, -4, -3, 0, 2, 3, INT32_MAX};
    for (size_t l = 0; l < sizeof limits / sizeof *limits; l++) {
        int32_t moved[COUNT];
        memcpy(moved, distances, sizeof moved);
        int found = kernel_places_within(moved, count, limits[l], places), next = 0;
        for (int i = 0; i < count; i++) {
            if (distances[i] > limits[l])
                continue;
            assert_true(next < found);
            assert_int_equal(moved[next], distances[i]);
            assert_int_equal(places[next++], i);
        }
        assert_int_equal(next, found);
        assert_int_equal(kernel_count_within(distances, count, limits[l]), found);
        for (int i = kernel_next_within(distances, 0, count, limits[l]), n = 0; i < count; n++) {
            assert_int_equal(places[n], i);
            next--;
            i = kernel_next_within(distances, i + 1, count, limits[l]);
        }
        assert_int_equal(next, 0);
    }
}

enum { FACTOR_MOST = 258 }; /* 127 becomes 32,767 */

static void check_loops(const int8_t *codes, int count, int width, const int8_t *query)
{
    int16_t *finer = widened(query, width, KERNEL_FINER);
    int16_t *factors = widened(query, width, FACTOR_MOST);
    check_distances(codes, count, width, finer);
    check_limits(codes, count, width, finer, 0);
    check_products(codes, count, width, factors);
    check_limits(codes, count, width, factors, 1);
    free(finer);
    free(factors);
}

static void loops_equal_the_plain_one(void **unused)
{
    (void)unused;
    for (int width = WIDTH_LEAST; width <= WIDTH_MOST; width += 8) {
        for (int round = 0; round < FILLINGS * FILLINGS; round++) {
            int8_t *codes, *query;
            int shift = round % SHIFTS;
            int8_t *held = block(COUNT, width, shift, &codes);
            int8_t *held_query = block(1, width, SHIFTS - shift, &query);
            fill(codes, COUNT * width, (filling)(round % FILLINGS));
            fill(query, width, (filling)(round / FILLINGS));
            check_loops(codes, COUNT, width, query);
            free(held);
            free(held_query);
        }
    }
}

/* Also of widths that are no multiples of 8, and of any number of codes; and of a cache line's
** width any number of codes, which may be compared so many at a time. */
static void any_width_and_count(void **unused)
{
    enum { LINE = 64 };
    (void)unused;
    for (int i = 1; i <= 40; i++) {
        int width = i == 40 ? LINE : i;
        for (int count = 1; count <= COUNT; count += width == LINE ? 1 : 6) {
            int8_t *codes, *query;
            int8_t *held = block(count, width, 0, &codes);
            int8_t *held_query = block(1, width, 0, &query);
            fill(codes, count * width, RANDOM);
            fill(query, width, ENDS);
            check_loops(codes, count, width, query);
            check_places(count);
            free(held);
            free(held_query);
        }
    }
    kernel_distances(NULL, 0, 64, NULL, NULL);
    kernel_products(NULL, 0, 64, NULL, NULL);
    assert_int_equal(kernel_keep(NULL, NULL, 0, 0), 0);
    assert_int_equal(kernel_distances_on(NULL, 64, NULL, 0, NULL, NULL, 0), 0);
    assert_int_equal(kernel_products_on(NULL, 64, NULL, 0, NULL, NULL, 0), 0);
}

/* The greatest distance there is, 256 × 2,033², and product, 256 × 127 × 32,767. */
static void the_greatest_distance_fits(void **unused)
{
    (void)unused;
    enum { DIFFERENCE = 2 * CODE_MOST * KERNEL_FINER + 1 };
    int8_t low[WIDTH_MOST], high[WIDTH_MOST];
    int32_t found;
    fill(low, WIDTH_MOST, LEAST);
    fill(high, WIDTH_MOST, MOST);
    int16_t *query = widened(high, WIDTH_MOST, KERNEL_FINER);
    int16_t *factors = widened(high, WIDTH_MOST, FACTOR_MOST);
    kernel_distances(low, 1, WIDTH_MOST, query, &found);
    assert_int_equal(found, WIDTH_MOST * DIFFERENCE * DIFFERENCE);
    kernel_distances(high, 1, WIDTH_MOST, query, &found);
    assert_int_equal(found, WIDTH_MOST);
    kernel_products(low, 1, WIDTH_MOST, factors, &found);
    assert_int_equal(found, WIDTH_MOST * CODE_MOST * INT16_MAX);
    free(query);
    free(factors);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loops_equal_the_plain_one),
        cmocka_unit_test(any_width_and_count),
        cmocka_unit_test(the_greatest_distance_fits),
    };
    return RUN_TESTS(tests);
}
