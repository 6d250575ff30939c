#include "rounding.h"

#include <math.h>

/* Sums in as many lanes as compilers like: the order of additions is written down, so that they
** may add in parallel. */
enum { LANES = 8 };

#define COMPILED_IN static inline __attribute__((always_inline))

COMPILED_IN double sum_of(const double *lanes)
{
    double sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += lanes[i];
    return sum;
}

double round_off_mean(const float *x, const float *mean, float unit, int count, float *z)
{
    double sums[LANES] = {0};
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            z[i + j] = (x[i + j] - mean[i + j]) * unit;
            sums[j] += (double)z[i + j] * (double)z[i + j];
        }
    }
    for (; i < count; i++) {
        z[i] = (x[i] - mean[i]) * unit;
        sums[0] += (double)z[i] * (double)z[i];
    }
    return sum_of(sums);
}

/* Of one row, in more lanes than a processor has: it need not wait for one addition before the
** next. */
enum { PRODUCT_LANES = 32, PRODUCT_LANES_LOG = 5 };

COMPILED_IN float product_of(const float *a, const float *z, int count)
{
    float sums[PRODUCT_LANES] = {0};
    int i = 0;
    for (; i + PRODUCT_LANES <= count; i += PRODUCT_LANES) {
        for (int j = 0; j < PRODUCT_LANES; j++)
            sums[j] += a[i + j] * z[i + j];
    }
    for (; i < count; i++)
        sums[i % PRODUCT_LANES] += a[i] * z[i];
    for (int half = PRODUCT_LANES / 2; half > 0; half /= 2) {
        for (int j = 0; j < half; j++)
            sums[j] += sums[j + half];
    }
    return sums[0];
}

void round_project(const float *matrix, int rows, int count, const float *z, float *p)
{
    for (int row = 0; row < rows; row++)
        p[row] = product_of(matrix + (int64_t)row * count, z, count);
}

int round_additions(int count)
{
    return count / PRODUCT_LANES + 1 + PRODUCT_LANES_LOG;
}

double round_square(const float *x, int count)
{
    double sums[LANES] = {0};
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int j = 0; j < LANES; j++)
            sums[j] += (double)x[i + j] * (double)x[i + j];
    }
    for (; i < count; i++)
        sums[0] += (double)x[i] * (double)x[i];
    return sum_of(sums);
}

double round_norm(const float *x, int count)
{
    return sqrt(round_square(x, count)) * (1 + 1e-9);
}

/* One component; comparisons with NaN are false. */
COMPILED_IN double round_one(double y, double step, double finer, double most, double *squares,
                             double *lost, double *codes, double *cut)
{
    double code = rint(y * finer);
    double off = fabs(code) <= most ? 0 : 1;
    code = code > most ? most : code;
    code = code >= -most ? code : -most;
    double left = y - code * step;
    *cut += off;
    *squares += y * y;
    *lost += left * left;
    *codes += code * code;
    return code;
}

/* Constant where it is passed on, `wide` is compiled in. */
COMPILED_IN void round_all(const float *p, int count, double scale, double step, int most, int wide,
                           void *out, rounded *sums)
{
    double squares[LANES] = {0}, lost[LANES] = {0}, codes[LANES] = {0}, cut[LANES] = {0};
    double finer = 1 / step;
    int8_t *bytes = out;
    int16_t *words = out;
    int i = 0;
    for (; i + LANES <= count; i += LANES) {
        int32_t code[LANES]; /* converted all at once, and then cut to size */
        for (int j = 0; j < LANES; j++)
            code[j] = (int32_t)round_one(scale * (double)p[i + j], step, finer, most, &squares[j],
                                         &lost[j], &codes[j], &cut[j]);
        for (int j = 0; j < LANES; j++) {
            if (wide)
                words[i + j] = (int16_t)code[j];
            else
                bytes[i + j] = (int8_t)code[j];
        }
    }
    for (; i < count; i++) {
        double code = round_one(scale * (double)p[i], step, finer, most, &squares[0], &lost[0],
                                &codes[0], &cut[0]);
        if (wide)
            words[i] = (int16_t)code;
        else
            bytes[i] = (int8_t)code;
    }
    sums->squares += sum_of(squares);
    sums->lost += sum_of(lost);
    sums->codes += sum_of(codes);
    sums->fits &= sum_of(cut) == 0;
}

void round_to_bytes(const float *p, int count, double scale, double step, int most, int8_t *codes,
                    rounded *sums)
{
    round_all(p, count, scale, step, most, 0, codes, sums);
}

void round_to_words(const float *p, int count, double scale, double step, int most, int16_t *codes,
                    rounded *sums)
{
    round_all(p, count, scale, step, most, 1, codes, sums);
}

void round_add(const float *columns, int apart, const double *factors, int count, double *sums)
{
    for (int i = 0; i < count; i++) {
        double sum = sums[i];
        for (int column = 0; column < ROUND_COLUMNS; column++)
            sum += factors[column] * (double)columns[(int64_t)column * apart + i];
        sums[i] = sum;
    }
}
