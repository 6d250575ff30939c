#include "basis_trial.h"

#include <math.h>
#include <string.h>

#include "rounding.h"

enum {
    OWN_TRIALS = 8, /* rows of the sample that try a basis as queries */
    OWN_NEIGHBOURS = 10
};

static const double SHARE_LEFT = 0.25; /* of the sample left over: no help */

/*
** What searches take, in nanoseconds as measured on one machine: what matters is how these
** compare with each other. They depend on nothing else, so that a choice repeats.
*/
static const double CACHE = 12e6;              /* bytes of vectors that are read faster … */
static const double READ_CACHED = 62;          /* … so many a nanosecond, … */
static const double READ = 24;                 /* … than others */
static const double ROW = 30, READ_APART = 14; /* for scoring one row, and bytes of it a ns */
static const double PASS = 1;                  /* for choosing among rows, for each of them */
static const double FIRST_LINE = 3;            /* for the first line of a row, of full length */
static const double LINE = 6;                  /* for another one, of any length */
static const double PROJECT = 12;              /* products a nanosecond */
static const double FIXED = 10e3;
/* So many rows, and some more, are scored to begin with, of more that are looked at. */
static const double PROBED = 2, PROBED_WIDE = 8, PROBED_MORE = 16, PROBE = 200;
static const double WORTH = 0.85; /* of reading all the vectors */

/* One query as a basis sees it: as z and p are, or for inner products as it is times the unit. */
typedef struct trial_query {
    const float *p;
    double rests[LINES_MOST]; /* norms, by line */
    double norm;
    double mean_product;
} trial_query;

/* The norms of what each line leaves. */
static void find_rests(const basis *b, double z_squared, const float *p, double *rests)
{
    double squares = 0, ignored;
    for (int line = 0, i = 0; line < b->lines; line++) {
        for (; i < basis_reach(b, line); i++)
            squares += b->scale * (double)p[i] * (b->scale * (double)p[i]);
        rests[line] = basis_rest_norm(z_squared, squares, 0, &ignored);
    }
}

/* Prepare a trial with a query; z and p are scratch. */
static void prepare(const basis *b, vector_metric metric, const float *query, float *z, float *p,
                    trial_query *out)
{
    *out = (trial_query){.p = p};
    double z_squared = 0;
    if (metric == METRIC_KIND_IP) {
        for (int i = 0; i < b->dimension; i++) {
            z[i] = query[i] * b->unit;
            out->mean_product += (double)z[i] * (double)b->mean[i] * (double)b->unit;
        }
        z_squared = round_square(z, b->dimension);
    } else {
        z_squared = basis_centre(b, query, z);
    }
    basis_project(b, z, 1, p);
    out->norm = sqrt(z_squared);
    find_rests(b, z_squared, p, out->rests);
}

/* How near a row may be that is within a score, by the codes of a line: a squared distance, or a
** negated product, in the units of z. Codes are taken to be as well rounded as most. */
static double limit_of(const basis *b, vector_metric metric, const trial_query *q, float score,
                       int line)
{
    double unit = (double)b->unit, components = basis_reach(b, line) + 1;
    double rounding = b->step * sqrt(components / 12) * 1.25 + b->uncertain;
    if (metric == METRIC_KIND_IP)
        return -(double)score * unit * unit + rounding * q->norm;
    double squared = metric == METRIC_KIND_COSINE ? 2 * (1 - (double)score) : (double)score;
    double reach = sqrt(fmax(squared, 0)) * unit + rounding;
    return reach * reach;
}

/* For each line, add to left[line] 1 if the row is left over by it and those before it. */
static void try_row(const basis *b, vector_metric metric, const trial_query *q, const float *p,
                    const double *rests, const double *limits, double *left)
{
    double sum = 0, scale = b->scale * b->scale;
    for (int line = 0, i = 0; line < b->lines; line++) {
        double lanes[4] = {0};
        int end = basis_reach(b, line);
        for (; i < end; i++) {
            double off = (double)p[i] - (double)q->p[i];
            lanes[i % 4] += metric == METRIC_KIND_IP ? (double)p[i] * (double)q->p[i] : off * off;
        }
        sum += scale * (lanes[0] + lanes[1] + lanes[2] + lanes[3]);
        double off = rests[line] - q->rests[line];
        double rank = metric == METRIC_KIND_IP
                          ? -(sum + rests[line] * q->rests[line] + q->mean_product)
                          : sum + off * off;
        if (!(rank <= limits[line]))
            return;
        left[line] += 1;
    }
}

/* The share of the sample that each line leaves over for queries and the scores of their
** neighbours. */
static int find_left(const basis *b, vector_metric metric, const trial_sample *sample,
                     const float *queries, int count, const float *scores, double *left)
{
    size_t d = (size_t)b->dimension, n = (size_t)sample->count, lines = (size_t)b->lines;
    double *rests = basis_room(n * lines, sizeof *rests);
    float *z = basis_room(d, sizeof *z), *p = basis_room((size_t)b->width, sizeof *p);
    int rc = rests && z && p ? SQLITE_OK : SQLITE_NOMEM;
    memset(left, 0, lines * sizeof *left);
    for (size_t i = 0; rc == SQLITE_OK && i < n; i++)
        find_rests(b, sample->z_squared[i], sample->p + i * (size_t)b->width, rests + i * lines);
    for (int t = 0; rc == SQLITE_OK && t < count; t++) {
        trial_query q;
        double limits[LINES_MOST];
        prepare(b, metric, queries + (size_t)t * d, z, p, &q);
        for (int line = 0; line < b->lines; line++)
            limits[line] = limit_of(b, metric, &q, scores[t], line);
        for (size_t i = 0; i < n; i++)
            try_row(b, metric, &q, sample->p + i * (size_t)b->width, rests + i * lines, limits,
                    left);
    }
    for (size_t line = 0; line < lines; line++)
        left[line] /= (double)n * (count ? count : 1);
    sqlite3_free(rests);
    sqlite3_free(z);
    sqlite3_free(p);
    return rc;
}

/* ---- by the sample alone ---- */

static double rank_of(vector_metric metric, const float *x, const float *query, int dimension)
{
    double sum = 0;
    for (int j = 0; j < dimension; j++) {
        double off = (double)x[j] - (double)query[j];
        sum += metric == METRIC_KIND_IP ? -(double)x[j] * (double)query[j] : off * off;
    }
    return sum;
}

/* The score of the last of the nearest few rows of the sample to one of them. */
static float neighbour_score(vector_metric metric, const trial_sample *sample, int dimension,
                             const float *query)
{
    double nearest[OWN_NEIGHBOURS + 1];
    int found = 0;
    for (int i = 0; i < sample->count; i++) {
        const float *x = sample->vectors + (size_t)i * (size_t)dimension;
        double rank = rank_of(metric, x, query, dimension);
        int at = found <= OWN_NEIGHBOURS ? found++ : rank < nearest[found - 1] ? found - 1 : -1;
        for (; at > 0 && nearest[at - 1] > rank; at--)
            nearest[at] = nearest[at - 1];
        if (at >= 0)
            nearest[at] = rank;
    }
    double last = nearest[found - 1];
    return (float)(metric == METRIC_KIND_IP       ? -last
                   : metric == METRIC_KIND_COSINE ? 1 - last / 2
                                                  : last);
}

static int cost_by_sample(const basis *b, vector_metric metric, const trial_sample *sample,
                          double *cost)
{
    size_t d = (size_t)b->dimension;
    double left[LINES_MOST];
    float scores[OWN_TRIALS];
    int count = sample->count < OWN_TRIALS ? sample->count : OWN_TRIALS;
    float *queries = basis_room((size_t)count * d, sizeof *queries);
    if (!queries)
        return SQLITE_NOMEM;
    for (size_t t = 0; t < (size_t)count; t++) {
        size_t row = t * (size_t)sample->count / (size_t)count;
        memcpy(queries + t * d, sample->vectors + row * d, d * sizeof *queries);
        scores[t] = neighbour_score(metric, sample, b->dimension, queries + t * d);
    }
    int rc = find_left(b, metric, sample, queries, count, scores, left);
    *cost = rc == SQLITE_OK ? left[b->lines - 1] / SHARE_LEFT : INFINITY;
    sqlite3_free(queries);
    return rc;
}

/* ---- by trials ---- */

/* What a search for k rows costs with some lines, compared with reading all the vectors. */
static double cost_of(const basis *b, int lines, const double *left, double rows, double k)
{
    double bytes = b->dimension * 4.0, line = (double)b->line / LINE_MOST;
    double row = ROW + bytes / READ_APART;
    double each = PASS + FIRST_LINE * line + left[lines - 1] * row;
    for (int i = 1; i < lines; i++)
        each += left[i - 1] * LINE;
    double probe = PROBED * row + PROBED_WIDE * LINE * (lines - 1) + PROBE;
    double width = basis_reach(b, lines - 1);
    double once = FIXED + width * b->dimension / PROJECT + (k + PROBED_MORE) * probe;
    double flat = bytes / (rows * bytes > CACHE ? READ : READ_CACHED);
    return (each + once / rows) / flat;
}

/* The share of the rows that may be searched for. What lines leave over for more rows than
** were tried is taken to grow as fast as these. */
static double find_most(const basis *b, int lines, const double *far_left,
                        const basis_trials *trials)
{
    double most = 0, rows = (double)trials->rows;
    for (double k = trials->nearest_place; k <= rows * BASIS_MOST_SHARE; k *= 1.25) {
        double left[LINES_MOST], times = fmax(1, k / trials->last_place);
        for (int line = 0; line < lines; line++)
            left[line] = fmin(1, far_left[line] * times);
        if (cost_of(b, lines, left, rows, k) > WORTH)
            break;
        most = k;
    }
    return fmax(most, trials->nearest_place) / rows;
}

static int cost_by_trials(const basis *b, vector_metric metric, const trial_sample *sample,
                          const basis_trials *trials, trial_result *result)
{
    double near_left[LINES_MOST], far_left[LINES_MOST], least = INFINITY;
    double rows = (double)trials->rows;
    int rc =
        find_left(b, metric, sample, trials->queries, trials->count, trials->nearest, near_left);
    if (rc == SQLITE_OK)
        rc = find_left(b, metric, sample, trials->queries, trials->count, trials->last, far_left);
    for (int some = 1; rc == SQLITE_OK && some <= b->lines; some++) {
        double near_cost = cost_of(b, some, near_left, rows, trials->nearest_place);
        double both = near_cost + cost_of(b, some, far_left, rows, trials->last_place);
        if (both >= least)
            continue;
        least = both;
        result->lines = some;
        result->cost = near_cost / WORTH;
    }
    if (rc == SQLITE_OK)
        result->most_share = find_most(b, result->lines, far_left, trials);
    return rc;
}

int trial_cost(const basis *b, vector_metric metric, const trial_sample *sample,
               const basis_trials *trials, trial_result *result)
{
    *result = (trial_result){INFINITY, b->lines, BASIS_MOST_SHARE};
    return trials ? cost_by_trials(b, metric, sample, trials, result)
                  : cost_by_sample(b, metric, sample, &result->cost);
}
