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
        double code[LANES];
        for (int j = 0; j < LANES; j++)
            code[j] = round_one(scale * (double)p[i + j], step, finer, most, &squares[j], &lost[j],
                                &codes[j], &cut[j]);
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

void round_add(const float *x, double factor, int count, double *sums)
{
    for (int i = 0; i < count; i++)
        sums[i] += factor * (double)x[i];
}
