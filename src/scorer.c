#include "scorer.h"

#include <string.h>

#include "flat.h"
#include "segment.h"

struct scorer {
    int dimension;
    int normalize;
    FaissIndexFlat *flat; /* holds the query as its only vector */
    float *scratch;       /* a normalized copy of the other one */
};

int scorer_open(vector_metric metric, const float *query, int dimension, scorer **out,
                char **message)
{
    *out = NULL;
    scorer *s = sqlite3_malloc64(sizeof *s);
    if (!s)
        return SQLITE_NOMEM;
    *s = (scorer){.dimension = dimension, .normalize = metric == METRIC_KIND_COSINE};
    s->scratch = sqlite3_malloc64((size_t)dimension * sizeof *s->scratch);
    int rc = s->scratch ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        memcpy(s->scratch, query, (size_t)dimension * sizeof *query);
        if (s->normalize)
            segment_normalize(s->scratch, dimension);
        rc = flat_open(metric, s->scratch, 1, dimension, &s->flat, message);
    }
    if (rc != SQLITE_OK) {
        scorer_close(s);
        return rc;
    }
    *out = s;
    return SQLITE_OK;
}

int scorer_score(scorer *s, const float *x, float *score, char **message)
{
    if (s->normalize) {
        memcpy(s->scratch, x, (size_t)s->dimension * sizeof *x);
        segment_normalize(s->scratch, s->dimension);
        x = s->scratch;
    }
    /* Both metrics are symmetric to the last bit: each component enters as a
    ** product of two factors or a square of a difference. */
    const idx_t first = 0;
    return flat_scores(s->flat, 1, x, 1, &first, score, message);
}

int scorer_dimension(const scorer *s)
{
    return s->dimension;
}

void scorer_close(scorer *s)
{
    if (!s)
        return;
    if (s->flat)
        faiss_IndexFlat_free(s->flat);
    sqlite3_free(s->scratch);
    sqlite3_free(s);
}
