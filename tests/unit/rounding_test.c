/* What rounding says it has lost is no less than what it has, and a code is the nearest there is:
** for every number of components and for values that are hard to round, against sums in long
** double. */
#include "unit.h"

#include <float.h>
#include <math.h>

#include "rounding.h"

enum { MOST = 67, CODE_MOST = 127, WORD_MOST = 1016 };

static uint32_t state = 7;

static double draw(void)
{
    state = state * 1664525u + 1013904223u;
    return (double)(state >> 8) / (1 << 24) - 0.5;
}

/* What components are filled with. */
typedef enum filling {
    RANDOM,
    ZERO,
    DENORMAL,   /* less than float32's least normal number */
    LARGE,      /* whose squares leave float32's range */
    ONE_LARGE,  /* among small ones */
    TIES,       /* half-way between two codes, of a step of 1 */
    ENDS,       /* at the last code, and just beyond it */
    NOT_FINITE, /* some of them */
    FILLINGS
} filling;

static float component(filling how, int i)
{
    const float odd[] = {NAN, INFINITY, -INFINITY, 1};
    switch (how) {
    case RANDOM:
        return (float)(200 * draw());
    case DENORMAL:
        return (float)(draw() * (double)FLT_MIN);
    case LARGE:
        return (float)(draw() * 1e37);
    case ONE_LARGE:
        return i == 5 ? 1e30f : (float)draw();
    case TIES:
        return (float)(i % 9) - 4.5f;
    case ENDS:
        return (i % 2 ? -1.0f : 1.0f) * (CODE_MOST + (i % 3 ? 0.49f : 0.51f));
    case NOT_FINITE:
        return odd[i % 4];
    default:
        return 0;
    }
}

static void fill(float *x, int count, filling how)
{
    for (int i = 0; i < count; i++)
        x[i] = component(how, i);
}

static int is_near(double found, long double right)
{
    return fabsl((long double)found - right) <= 1e-14L * fabsl(right);
}

/* The sums of components y and their codes, kept apart: what rounding must not fall short of. */
static void check_sums(const float *p, int count, double scale, double step, int most,
                       const int16_t *codes, const rounded *found, const rounded *former)
{
    long double squares = former->squares, lost = former->lost, sum = former->codes;
    int fits = 1;
    for (int i = 0; i < count; i++) {
        double y = scale * (double)p[i], code = codes[i], left = y - code * step;
        assert_true(fabs(code) <= most);
        int nearest = fabs(left) <= step / 2 * (1 + 1e-12);
        assert_true(nearest || isnan(y) || (fabs(code) == most && fabs(y) > most * step));
        fits &= fabs(rint(y / step)) <= most;
        squares += (long double)y * y;
        lost += (long double)left * left;
        sum += (long double)code * code;
    }
    assert_int_equal(found->fits, fits);
    assert_true(found->codes == (double)sum);
    if (isfinite((double)squares)) {
        assert_true(is_near(found->squares, squares));
        assert_true(is_near(found->lost, lost));
    } else {
        assert_false(found->lost < INFINITY); /* never a number that rules rows out */
    }
}

static void check_rounding(const float *p, int count, double scale, double step)
{
    const rounded former = {.squares = 3, .lost = 2, .codes = 7, .fits = 1};
    rounded bytes = former, words = former, broken = {.fits = 0};
    int8_t narrow[MOST + 1];
    int16_t wide[MOST + 1], same[MOST + 1];
    narrow[count] = 77;
    wide[count] = 77;
    round_to_bytes(p, count, scale, step, CODE_MOST, narrow, &bytes);
    round_to_words(p, count, scale, step / 8, WORD_MOST, wide, &words);
    assert_int_equal(narrow[count], 77);
    assert_int_equal(wide[count], 77);
    for (int i = 0; i < count; i++)
        same[i] = narrow[i];
    check_sums(p, count, scale, step, CODE_MOST, same, &bytes, &former);
    check_sums(p, count, scale, step / 8, WORD_MOST, wide, &words, &former);
    round_to_bytes(p, count, scale, step, CODE_MOST, narrow, &broken);
    assert_int_equal(broken.fits, 0); /* once cut, it stays so */
}

static void codes_are_the_nearest(void **unused)
{
    (void)unused;
    float p[MOST];
    for (int how = 0; how < FILLINGS; how++) {
        for (int count = 0; count <= MOST; count++) {
            fill(p, count, (filling)how);
            check_rounding(p, count, 1, 1);
            check_rounding(p, count, 0.99, 0.37);
            check_rounding(p, count, 1 - 1e-9, how == DENORMAL ? 1e-40 : 1e-3);
        }
    }
}

static void centring_is_what_it_says(void **unused)
{
    (void)unused;
    const float units[] = {1, 0x1p-20f, 0x1p40f};
    float x[MOST], mean[MOST], z[MOST + 1];
    for (int round = 0; round < FILLINGS * FILLINGS * 3; round++) {
        float unit = units[round % 3];
        int count = round % (MOST + 1);
        fill(x, count, (filling)(round / 3 % FILLINGS));
        fill(mean, count, (filling)(round / 3 / FILLINGS));
        z[count] = 77;
        double found = round_off_mean(x, mean, unit, count, z);
        long double right = 0;
        for (int i = 0; i < count; i++) {
            float difference = x[i] - mean[i], expected = difference * unit;
            assert_true(z[i] == expected || isnan(expected));
            right += (long double)z[i] * (long double)z[i];
        }
        assert_true(z[count] == 77);
        assert_true(isfinite((double)right) ? is_near(found, right) : !(found < INFINITY));
    }
}

static void squares_do_not_leave_the_range(void **unused)
{
    (void)unused;
    float x[MOST];
    for (int how = 0; how < NOT_FINITE; how++) {
        for (int count = 0; count <= MOST; count++) {
            long double right = 0;
            fill(x, count, (filling)how);
            for (int i = 0; i < count; i++)
                right += (long double)x[i] * (long double)x[i];
            assert_true(is_near(round_square(x, count), right));
        }
    }
}

/* Against the bound for sums of products in any order (Higham, 3.1), with as many additions as it
** says: of magnitudes that add up to much more than the product, too. */
static void products_are_as_near_as_it_says(void **unused)
{
    (void)unused;
    enum { ROWS = 3, LONGEST = 2100 };
    static float matrix[ROWS * LONGEST], z[LONGEST];
    for (int count = 0; count <= LONGEST; count += count < 200 ? 1 : 633) {
        float p[ROWS + 1] = {[ROWS] = 77};
        double roundings = (round_additions(count) + 1) * 0x1p-24,
               gamma = roundings / (1 - roundings);
        for (int i = 0; i < ROWS * count; i++)
            matrix[i] = (float)draw() * (i % 7 == 3 ? 1e6f : 1);
        for (int i = 0; i < count; i++)
            z[i] = (float)draw() * (i % 5 == 3 ? 1e-6f : 1);
        round_project(matrix, ROWS, count, z, p);
        for (int row = 0; row < ROWS; row++) {
            long double right = 0, magnitudes = 0;
            for (int i = 0; i < count; i++) {
                long double product = (long double)matrix[row * count + i] * (long double)z[i];
                right += product;
                magnitudes += fabsl(product);
            }
            assert_true(fabsl((long double)p[row] - right) <=
                        (long double)gamma * magnitudes + count * (long double)FLT_MIN);
        }
        assert_true(p[ROWS] == 77);
    }
}

/* Sums of small whole numbers are exact, unless one is left out or counted twice. */
static void no_product_is_left_out(void **unused)
{
    (void)unused;
    enum { LONGEST = 200 };
    float ones[LONGEST], z[LONGEST], p[1];
    for (int i = 0; i < LONGEST; i++) {
        ones[i] = 1;
        z[i] = (float)(i + 1);
    }
    for (int count = 0; count <= LONGEST; count++) {
        round_project(ones, 1, count, z, p);
        assert_true(p[0] == (float)(count * (count + 1) / 2));
    }
}

static void multiples_are_added(void **unused)
{
    (void)unused;
    enum { APART = MOST + 2 };
    float columns[ROUND_COLUMNS * APART];
    double sums[MOST + 1], factors[ROUND_COLUMNS];
    for (int count = 0; count <= MOST; count++) {
        fill(columns, ROUND_COLUMNS * APART, RANDOM);
        for (int column = 0; column < ROUND_COLUMNS; column++)
            factors[column] = column % 3 == 2 ? 0 : column - 2.5;
        for (int i = 0; i <= count; i++)
            sums[i] = i;
        round_add(columns, APART, factors, count, sums);
        for (int i = 0; i < count; i++) {
            double right = i;
            for (int column = 0; column < ROUND_COLUMNS; column++)
                right += factors[column] * (double)columns[column * APART + i];
            assert_true(fabs(sums[i] - right) <= 1e-11);
        }
        assert_true(sums[count] == count);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_are_the_nearest),
        cmocka_unit_test(centring_is_what_it_says),
        cmocka_unit_test(squares_do_not_leave_the_range),
        cmocka_unit_test(products_are_as_near_as_it_says),
        cmocka_unit_test(no_product_is_left_out),
        cmocka_unit_test(multiples_are_added),
    };
    return RUN_TESTS(tests);
}
