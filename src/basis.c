#include "basis.h"

#include <float.h>
#include <math.h>

#include <c_api/VectorTransform_c.h>

#include "kernel.h"
#include "segment.h"

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
    sqlite3_free(b->shift);
    sqlite3_free(b);
}

void *basis_room(size_t count, size_t size)
{
    return sqlite3_malloc64((sqlite3_uint64)(count ? count : 1) * size);
}

void energy_add(energy *e, double z_squared, double rest)
{
    e->all += z_squared;
    e->rest += rest * rest;
    e->vectors++;
}

/* ---- projection ---- */

double basis_gamma(double n)
{
    double nu = n * 0x1p-24;
    return nu / (1 - nu);
}

void basis_centre(const basis *b, const float *x, int count, float *z)
{
    for (int i = 0; i < count; i++) {
        for (int j = 0; j < b->dimension; j++)
            z[(size_t)i * (size_t)b->dimension + (size_t)j] =
                (x[(size_t)i * (size_t)b->dimension + (size_t)j] - b->mean[j]) * b->unit;
    }
}

void basis_project(const basis *b, const float *z, int count, float *p)
{
    int width = b->fine - 1;
    int threads = segment_use_one_thread();
    faiss_VectorTransform_apply_noalloc(b->pca, count, z, p);
    segment_restore_threads(threads);
    for (int i = 0; b->shift && i < count; i++) {
        float *own = p + (size_t)i * (size_t)width;
        for (int j = 0; j < width; j++)
            own[j] = j < b->components ? own[j] - b->shift[j] : 0;
    }
}

/* |r² - r̂²| <= η with p off by at most `wrong` in norm gives |r - r̂| <= η / r̂, and
** never more than sqrt(η). */
double basis_rest_norm(double z_squared, const float *p, int count, double scale, double wrong,
                       double *error)
{
    double p_squared = 0;
    for (int i = 0; i < count; i++)
        p_squared += (double)p[i] * (double)p[i];
    p_squared *= scale * scale;
    double norm = sqrt(z_squared);
    double eta = 2 * norm * wrong + wrong * wrong + z_squared * 4 * 0x1p-24;
    double r = z_squared > p_squared ? sqrt(z_squared - p_squared) : 0;
    *error = r > 0 && eta / r < sqrt(eta) ? eta / r : sqrt(eta);
    return r;
}

/* Round one component to `step`; add what is lost to *lost, squared. */
static int round_component(double y, double step, int most, double *lost, int *fits)
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

double basis_squared_norm(const float *x, int dimension)
{
    double sum = 0;
    for (int i = 0; i < dimension; i++)
        sum += (double)x[i] * (double)x[i];
    return sum;
}

/* Each component of p is a sum
** of d products whose magnitudes add up to at most |z|, of components of z that were rounded
** once, less a shift. What is too small for float32 is lost in each of them. */
double basis_projection_error(const basis *b, double z_squared, int width)
{
    return sqrt((double)width) * basis_gamma(b->dimension + 4) *
               (sqrt(z_squared) + fmax(1, b->scale) * b->shift_norm) +
           sqrt((double)width) * b->dimension * (double)FLT_MIN;
}

row_code basis_encode(const basis *b, const float *z, const float *p, int width, double centre_of,
                      int8_t *code, int16_t *wide)
{
    double z_squared = basis_squared_norm(z, b->dimension), lost = 0, rest_error, code_squared = 0;
    double step = wide ? b->step / KERNEL_FINER : b->step;
    int most = wide ? CODE_MOST * KERNEL_FINER : CODE_MOST;
    row_code result = {.fits = 1};
    double wrong = basis_projection_error(b, z_squared, width);
    double rest = basis_rest_norm(z_squared, p, width - 1, b->scale, wrong, &rest_error);
    for (int i = 0; i < width; i++) {
        double y = i < width - 1 ? b->scale * (double)p[i] : rest - centre_of;
        int component = round_component(y, step, most, &lost, &result.fits);
        if (wide)
            wide[i] = (int16_t)component;
        else
            code[i] = (int8_t)component;
        code_squared += (double)component * component;
    }
    result.error = sqrt(lost) * (1 + 1e-9) + sqrt(wrong * wrong + rest_error * rest_error);
    result.norm = step * sqrt(code_squared) * (1 + 1e-9);
    result.z_squared = z_squared;
    result.rest = rest;
    if (!(result.error < INFINITY))
        result.fits = 0;
    return result;
}
