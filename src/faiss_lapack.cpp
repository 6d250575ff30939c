/*
** Two of LAPACK's functions as FAISS calls them to train transforms, by those of LAPACK's that
** divide and conquer: they give the same decompositions, in a tenth of the time where a matrix is
** large. Nothing interrupts them. Whoever is linked into the same file calls these.
*/
#include <algorithm>
#include <cmath>
#include <vector>

#include <faiss/impl/AuxIndexStructures.h>

extern "C" {

int sgesdd_(const char *job, const int *m, const int *n, float *a, const int *lda, float *s,
            float *u, const int *ldu, float *vt, const int *ldvt, float *work,
            const int *work_length, int *whole, int *info);
int dsyevd_(const char *job, const char *uplo, const int *n, double *a, const int *lda,
            double *values, double *work, const int *work_length, int *whole,
            const int *whole_length, int *info);
int sgesvd_(const char *job_u, const char *job_vt, const int *m, const int *n, float *a,
            const int *lda, float *s, float *u, const int *ldu, float *vt, const int *ldvt,
            float *work, const int *work_length, int *info);
int dsyev_(const char *job, const char *uplo, const int *n, double *a, const int *lda,
           double *values, double *work, const int *work_length, int *info);
}

namespace
{

const int ask_length = -1;

/* They have memory of their own: what the caller is told to bring is one number. */
template <class T> bool is_asked_for_length(const int *work_length, T *work, int *info)
{
    if (*work_length != ask_length)
        return false;
    *work = 1;
    *info = 0;
    return true;
}

} // namespace

/* The singular values of a matrix and its vectors, of which FAISS wants all (`job_u` and `job_vt`).
** Before and after it asks whether to stop, since what surrounds this where OPQ is trained does
** not; an exception says so. */
int sgesvd_(const char *job_u, const char *, const int *m, const int *n, float *a, const int *lda,
            float *s, float *u, const int *ldu, float *vt, const int *ldvt, float *work,
            const int *work_length, int *info)
{
    if (is_asked_for_length(work_length, work, info))
        return 0;
    faiss::InterruptCallback::check();
    const size_t numbers_each = 8; /* of LAPACK's documentation of sgesdd */
    std::vector<int> whole(numbers_each * static_cast<size_t>(std::min(*m, *n)));
    float wanted = 0;
    sgesdd_(job_u, m, n, a, lda, s, u, ldu, vt, ldvt, &wanted, &ask_length, whole.data(), info);
    /* A length that float cannot hold may have been rounded down. */
    int length = static_cast<int>(std::nextafter(wanted, HUGE_VALF));
    std::vector<float> own(static_cast<size_t>(length));
    sgesdd_(job_u, m, n, a, lda, s, u, ldu, vt, ldvt, own.data(), &length, whole.data(), info);
    faiss::InterruptCallback::check();
    return 0;
}

/* The eigenvalues of a symmetric matrix, and its vectors. */
int dsyev_(const char *job, const char *uplo, const int *n, double *a, const int *lda,
           double *values, double *work, const int *work_length, int *info)
{
    if (is_asked_for_length(work_length, work, info))
        return 0;
    int whole_length = 0;
    double wanted = 0;
    dsyevd_(job, uplo, n, a, lda, values, &wanted, &ask_length, &whole_length, &ask_length, info);
    int length = static_cast<int>(wanted);
    std::vector<double> own(static_cast<size_t>(length));
    std::vector<int> whole(static_cast<size_t>(whole_length));
    dsyevd_(job, uplo, n, a, lda, values, own.data(), &length, whole.data(), &whole_length, info);
    return 0;
}
