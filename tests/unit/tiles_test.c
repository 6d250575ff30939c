/* The tiles equal the plain loop, for every width, number of rows and of queries, and for
** extreme codes; groups are what the header says. */
#include "unit.h"

#include <stdlib.h>
#include <string.h>

#include "tiles.h"

enum { CODE_MOST = 127, QUERIES_MOST = 9, STRIDE = 3 * TILE_LANES };

static uint32_t state = 1;

static uint32_t draw(void)
{
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

typedef enum filling { RANDOM, LEAST, MOST, ALTERNATING, ENDS, ZERO, FILLINGS } filling;

static void fill(int8_t *codes, int count, filling how)
{
    for (int i = 0; i < count; i++) {
        int any = (int)(draw() % (2 * CODE_MOST + 1)) - CODE_MOST, sign = draw() % 2 ? 1 : -1;
        codes[i] = (int8_t)(how == RANDOM        ? any
                            : how == LEAST       ? -CODE_MOST
                            : how == MOST        ? CODE_MOST
                            : how == ALTERNATING ? (i % 2 ? CODE_MOST : -CODE_MOST)
                            : how == ENDS        ? sign * CODE_MOST
                                                 : 0);
    }
}

/* The nearest of a group by the plain loop; TILE_FAR where there is none. */
static int32_t least_of(const int8_t *rows, int count, int width, const uint8_t *left_out,
                        const int8_t *query, int group)
{
    int32_t least = TILE_FAR;
    for (int row = group * TILE_GROUP; row < count && row / TILE_GROUP == group; row++) {
        int32_t distance = tile_distance_plain(rows + row * width, query, width);
        if (!(left_out && left_out[row]) && distance < least)
            least = distance;
    }
    return least;
}

/* Blocks that end with their contents, so that sanitizers see what is read beyond. */
static void *block(size_t bytes)
{
    void *memory = malloc(bytes);
    assert_non_null(memory);
    return memory;
}

static void check(int width, int rows, int queries, filling of_rows, filling of_queries,
                  int leaves_out)
{
    enum { MARK = -77 };
    int8_t *codes = block((size_t)(rows * width)), *asked = block((size_t)(queries * width));
    const int8_t *each[QUERIES_MOST];
    uint8_t *left_out = leaves_out ? block((size_t)rows) : NULL;
    int32_t *least = block(QUERIES_MOST * STRIDE * sizeof *least);
    void *packed_rows = block(tile_rows_bytes(width));
    void *packed = block(tile_queries_bytes(queries, width));
    fill(codes, rows * width, of_rows);
    fill(asked, queries * width, of_queries);
    for (int i = 0; left_out && i < rows; i++)
        left_out[i] = draw() % 3 == 0;
    for (int q = 0; q < queries; q++)
        each[q] = asked + q * width;
    for (int i = 0; i < QUERIES_MOST * STRIDE; i++)
        least[i] = MARK;
    tile_pack_queries(each, queries, width, packed);
    tile_pack_rows(codes, rows, width, left_out, packed_rows);
    tile_least(packed, queries, packed_rows, width, least, STRIDE);
    for (int q = 0; q < QUERIES_MOST; q++) {
        for (int group = 0; group < STRIDE; group++) {
            int32_t found = least[q * STRIDE + group];
            if (q >= queries || group >= TILE_LANES)
                assert_int_equal(found, MARK);
            else if (found < TILE_FAR)
                assert_int_equal(found, least_of(codes, rows, width, left_out, each[q], group));
            else
                assert_int_equal(TILE_FAR, least_of(codes, rows, width, left_out, each[q], group));
        }
    }
    free(codes);
    free(asked);
    free(left_out);
    free(least);
    free(packed_rows);
    free(packed);
}

static void tiles_equal_the_plain_loop(void **unused)
{
    (void)unused;
    for (int width = 4; width <= TILE_WIDTH_MOST; width += is_slow() ? 92 : 4) {
        for (int round = 0; round < FILLINGS * FILLINGS; round++)
            check(width, TILE_ROWS - round % 2 * 5, 1 + round % QUERIES_MOST,
                  (filling)(round % FILLINGS), (filling)(round / FILLINGS), round % 3 == 0);
    }
}

static void any_number_of_rows_and_queries(void **unused)
{
    (void)unused;
    for (int rows = 1; rows <= TILE_ROWS; rows += is_slow() ? 31 : 1) {
        for (int queries = 1; queries <= QUERIES_MOST; queries++)
            check(64, rows, queries, RANDOM, RANDOM, rows % 2);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_equal_the_plain_loop),
        cmocka_unit_test(any_number_of_rows_and_queries),
    };
    return RUN_TESTS(tests);
}
