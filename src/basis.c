#include "basis.h"

#include <float.h>
#include <math.h>

#include <c_api/VectorTransform_c.h>

#include "faiss_call.h"
#include "faiss_shim.h"
#include "kernel.h"
#include "rounding.h"

basis *basis_retain(basis *b)
{
    if (b)
        atomic_fetch_add_explicit(&b->references, 1, memory_order_relaxed);
    return b;
}

void basis_release(basis *b)
{
    if (!b || atomic_fetch_sub_explicit(&b->references, 1, memory_order_acq_rel) != 1)
        return;
    if (b->pca)
        faiss_VectorTransform_free(b->pca);
    sqlite3_free(b->mean);
    sqlite3_free(b);
}

double basis_most_share(const basis *b)
{
    return b->most_share;
}

int64_t basis_products(const basis *b)
{
    return (int64_t)b->dimension * b->width;
}

void *basis_room(size_t count, size_t size)
{
    return sqlite3_malloc64((sqlite3_uint64)(count ? count : 1) * size);
}

void energy_add(energy *e, double z_squared, double rest_of_first, double rest)
{
    e->all += z_squared;
    e->rest_of_first += rest_of_first * rest_of_first;
    e->rest += rest * rest;
    e->vectors++;
}

/* ---- projection ---- */

double basis_gamma(double n)
{
    double nu = n * 0x1p-24;
    return nu / (1 - nu);
}

int basis_reach(const basis *b, int line)
{
    return b->line - 1 + line * (b->line - 2);
}

double basis_centre(const basis *b, const float *x, float *z)
{
    return round_off_mean(x, b->mean, b->unit, b->dimension, z);
}

void basis_project(const basis *b, const float *z, int count, float *p)
{
    if (count == 1) { /* BLAS would first put all of the matrix in another order */
        round_project(faiss_shim_matrix(b->pca), b->width, b->dimension, z, p);
        return;
    }
    int threads = faiss_call_use_one_thread();
    faiss_shim_project(b->pca, count, z, p);
    faiss_call_restore_threads(threads);
}

/* |r² - r̂²| <= η with p off by at most `wrong` in norm gives |r - r̂| <= η / r̂, and
** never more than sqrt(η). */
double basis_rest_norm(double z_squared, double p_squared, double wrong, double *error)
{
    double norm = sqrt(z_squared);
    double eta = 2 * norm * wrong + wrong * wrong + z_squared * 4 * 0x1p-24;
    double r = z_squared > p_squared ? sqrt(z_squared - p_squared) : 0;
    *error = r > 0 && eta / r < sqrt(eta) ? eta / r : sqrt(eta);
    return r;
}

/* Each component of p is a sum of d products whose magnitudes add up to at most |z|, of
** components of z that were rounded once, added up piece by piece, or in lanes. What is too small
** for float32 is lost in each of them. */
double basis_projection_error(const basis *b, double z_squared, int components)
{
    int pieces = b->dimension / FAISS_SHIM_PIECE + 1;
    double additions = fmax(FAISS_SHIM_PIECE + pieces, round_additions(b->dimension));
    return sqrt((double)components) *
           (basis_gamma(additions + 4) * sqrt(z_squared) + b->dimension * (double)FLT_MIN);
}

/* Round the norm of the rest, less its centre; add what is lost to *lost, squared. */
static int round_rest(double y, double step, int most, double *lost, int *fits)
{
    double code = rint(y / step);
    if (!(fabs(code) <= most)) {
        *fits = 0;
        code = code > 0 ? most : -most;
    }
    double off = y - code * step;
    *lost += off * off;
    return (int)code;
}

/* Put the last components of a line into its code. */
static void write_ends(const basis *b, int line, int rest, int former, int8_t *code, int16_t *wide)
{
    int last = b->line - 1;
    if (wide) {
        wide[line ? last - 1 : last] = (int16_t)rest;
        if (line)
            wide[last] = (int16_t)former;
    } else {
        code[line ? last - 1 : last] = (int8_t)rest;
        if (line)
            code[last] = (int8_t)former;
    }
}

row_code basis_encode(const basis *b, double z_squared, const float *p, int8_t *code, int16_t *wide)
{
    double step = wide ? b->step / KERNEL_FINER : b->step;
    int most = wide ? CODE_MOST * KERNEL_FINER : CODE_MOST, rest = 0, begin = 0;
    rounded sums = {.fits = 1};
    row_code result = {.z_squared = z_squared};
    for (int line = 0; line < b->lines; line++) {
        int end = basis_reach(b, line), former = rest, at = line * b->line;
        if (wide)
            round_to_words(p + begin, end - begin, b->scale, step, most, wide + at, &sums);
        else
            round_to_bytes(p + begin, end - begin, b->scale, step, most, code + at, &sums);
        double wrong = basis_projection_error(b, z_squared, end + 1), lost = sums.lost, off;
        result.rest = basis_rest_norm(z_squared, sums.squares, wrong, &off);
        result.rest_of_first = line == 0 ? result.rest : result.rest_of_first;
        rest = round_rest(result.rest - b->centres[line], step, most, &lost, &sums.fits);
        write_ends(b, line, rest, former, code ? code + at : NULL, wide ? wide + at : NULL);
        line_code *own = &result.lines[line];
        own->error = sqrt(lost) * (1 + 1e-9) + sqrt(wrong * wrong + off * off);
        own->norm = step * sqrt(sums.codes + (double)rest * rest) * (1 + 1e-9);
        if (!(own->error < INFINITY))
            sums.fits = 0;
        begin = end;
    }
    result.fits = sums.fits;
    return result;
}
