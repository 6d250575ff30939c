#include "flat.h"

#include <c_api/Index_c.h>

#include "faiss_call.h"

static FaissMetricType faiss_metric(vector_metric metric)
{
    return metric == METRIC_KIND_L2 ? METRIC_L2 : METRIC_INNER_PRODUCT;
}

int flat_open(vector_metric metric, const float *vectors, int count, int dimension,
              FaissIndexFlat **out, char **message)
{
    *out = NULL;
    int code = faiss_IndexFlat_new_with(out, dimension, faiss_metric(metric));
    if (code == 0 && count > 0)
        code = faiss_Index_add(*out, count, vectors);
    if (code == 0)
        return SQLITE_OK;
    int rc = faiss_call_failure(code, message);
    if (*out)
        faiss_IndexFlat_free(*out);
    *out = NULL;
    return rc;
}

int flat_search(const FaissIndexFlat *flat, int count, const float *queries, int k, float *scores,
                idx_t *labels, char **message)
{
    int threads = faiss_call_use_one_thread();
    int code = faiss_Index_search(flat, count, queries, k, scores, labels);
    faiss_call_restore_threads(threads);
    return code == 0 ? SQLITE_OK : faiss_call_failure(code, message);
}

int flat_scores(const FaissIndexFlat *flat, int count, const float *queries, int n,
                const idx_t *labels, float *scores, char **message)
{
    int threads = faiss_call_use_one_thread();
    int code = faiss_IndexFlat_compute_distance_subset((FaissIndexFlat *)flat, count, queries, n,
                                                       scores, labels);
    faiss_call_restore_threads(threads);
    return code == 0 ? SQLITE_OK : faiss_call_failure(code, message);
}
