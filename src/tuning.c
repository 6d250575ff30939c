/* Finding the basis of an index, and making sketches by it: what index.h says of index_tuning. */
#include "index.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "growth.h"

float *index_sample(const index_version *v, int *count)
{
    int64_t most = basis_sample_size(v->dimension);
    *count = (int)(v->slots < most ? v->slots : most);
    size_t d = (size_t)v->dimension;
    float *sample = sqlite3_malloc64((sqlite3_uint64)*count * d * sizeof *sample);
    for (int i = 0; sample && i < *count; i++) {
        int s, slot;
        /* Not at regular distances: the data may be as regular. */
        int64_t stride = v->slots / *count;
        int64_t off = (int64_t)((uint32_t)i * 2654435761u % (uint64_t)stride);
        index_locate(v, v->slots * i / *count + off, &s, &slot);
        memcpy(sample + (size_t)i * d, segment_vector(v->segments[s], slot), d * sizeof *sample);
    }
    return sample;
}

int index_find_basis(const index_version *v, float *sample, int count)
{
    basis *found = NULL, *none = NULL;
    int rc = sample ? basis_new(v->metric, sample, count, v->dimension, NULL, NULL, &found)
                    : SQLITE_NOMEM;
    if (rc == SQLITE_OK && !found)
        atomic_store(&v->tuning->number, 1); /* found: there is none */
    else if (found && !atomic_compare_exchange_strong(&v->tuning->basis, &none, found))
        basis_release(found); /* another thread was faster */
    return rc;
}

/* Take a basis, or none, for the newest: all segments are to be judged by it. Where there is
** none, those of now are judged already. */
static void set_basis(const index_version *v, basis *found)
{
    index_tuning *t = v->tuning;
    unsigned number = atomic_load(&t->number) + 1;
    int fits;
    for (int i = 0; !found && i < v->segment_count; i++)
        segment_make_sketch(v->segments[i], NULL, number, &fits);
    basis_release(atomic_exchange(&t->basis, found));
    atomic_store(&t->number, number);
}

/* What the environment says of sketches: `always`, also where they may cost more than they save,
** or `never`, but for memory=low. */
static int environment_says(const char *when)
{
    const char *text = getenv("SQLITE_FAISS_SKETCHES");
    return text && strcmp(text, when) == 0;
}

/* How near the rows of a version are to some of them, found out with FAISS. */
typedef struct trial_search {
    float *queries;
    float *best;       /* of each query: the scores of the nearest so far, TRIAL_DEPTH of them */
    float *scores;     /* of one segment, … */
    int64_t *slots;    /* … and their slots */
    float *near, *far; /* of each query: the scores that basis_trials tells */
} trial_search;

enum {
    TRIALS_MOST = 8,
    TRIALS_LEAST = 2,
    TRIAL_NEAR = 11, /* the row itself is one of them */
    TRIAL_DEPTH = 101
};

static const double TRIAL_BYTES = 8e9; /* of vectors, read for all trials together */

static int trial_search_open(trial_search *t, int dimension)
{
    size_t n = TRIALS_MOST, all = n * TRIAL_DEPTH;
    t->queries = sqlite3_malloc64(n * (size_t)dimension * sizeof *t->queries);
    t->best = sqlite3_malloc64(all * sizeof *t->best);
    t->scores = sqlite3_malloc64(all * sizeof *t->scores);
    t->slots = sqlite3_malloc64(all * sizeof *t->slots);
    t->near = sqlite3_malloc64(n * sizeof *t->near);
    t->far = sqlite3_malloc64(n * sizeof *t->far);
    return t->queries && t->best && t->scores && t->slots && t->near && t->far ? SQLITE_OK
                                                                               : SQLITE_NOMEM;
}

static void trial_search_close(trial_search *t)
{
    sqlite3_free(t->queries);
    sqlite3_free(t->best);
    sqlite3_free(t->scores);
    sqlite3_free(t->slots);
    sqlite3_free(t->near);
    sqlite3_free(t->far);
}

/* Merge the scores that a segment has for a query, nearest first, into the best. */
static int merge_scores(vector_metric metric, float *best, int count, const float *scores, int more)
{
    float merged[TRIAL_DEPTH];
    int taken = 0, given = 0, total = 0;
    while (total < TRIAL_DEPTH && (taken < count || given < more)) {
        int from_best = given == more || (taken < count && (metric == METRIC_KIND_L2
                                                                ? best[taken] <= scores[given]
                                                                : best[taken] >= scores[given]));
        merged[total++] = from_best ? best[taken++] : scores[given++];
    }
    memcpy(best, merged, (size_t)total * sizeof *best);
    return total;
}

/* Search all segments for some rows of the sample. */
static int search_trials(const index_version *v, const float *sample, int count, trial_search *t,
                         basis_trials *out)
{
    size_t d = (size_t)v->dimension;
    int found[TRIALS_MOST] = {0}, rc = SQLITE_OK;
    double all = (double)v->slots * (double)d * sizeof *sample;
    int trials = (int)fmax(TRIALS_LEAST, fmin(TRIALS_MOST, TRIAL_BYTES / (all + 1)));
    trials = trials < count ? trials : count;
    for (size_t i = 0; i < (size_t)trials; i++)
        memcpy(t->queries + i * d, sample + i * (size_t)count / (size_t)trials * d,
               d * sizeof *sample);
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        char *message = NULL;
        int rows = segment_count(v->segments[s]), k = rows < TRIAL_DEPTH ? rows : TRIAL_DEPTH;
        rc = segment_search_batch(v->segments[s], NULL, t->queries, trials, k, t->scores, t->slots,
                                  &message);
        sqlite3_free(message);
        for (int i = 0; rc == SQLITE_OK && i < trials; i++) {
            int more = 0;
            while (more < k && t->slots[i * k + more] >= 0)
                more++;
            found[i] = merge_scores(v->metric, t->best + i * TRIAL_DEPTH, found[i],
                                    t->scores + i * k, more);
        }
    }
    for (int i = 0; i < trials; i++) {
        const float *best = t->best + i * TRIAL_DEPTH;
        t->near[i] = found[i] >= TRIAL_NEAR ? best[TRIAL_NEAR - 1] : INFINITY;
        t->far[i] = found[i] >= TRIAL_DEPTH ? best[TRIAL_DEPTH - 1] : INFINITY;
    }
    *out = (basis_trials){.rows = v->rows,
                          .count = trials,
                          .queries = t->queries,
                          .nearest = t->near,
                          .last = t->far,
                          .nearest_place = TRIAL_NEAR - 1,
                          .last_place = TRIAL_DEPTH - 1};
    return rc;
}

/* The basis for a sample of a version with vectors, by trials. */
static int try_for_basis(const index_version *v, float *sample, int count, basis *former,
                         basis **out)
{
    trial_search search = {0};
    basis_trials trials;
    int forced = environment_says("always");
    int rc = trial_search_open(&search, v->dimension);
    if (rc == SQLITE_OK && !forced)
        rc = search_trials(v, sample, count, &search, &trials);
    if (rc == SQLITE_OK)
        rc =
            basis_new(v->metric, sample, count, v->dimension, forced ? NULL : &trials, former, out);
    trial_search_close(&search);
    return rc;
}

static int find_basis(const index_version *v)
{
    index_tuning *t = v->tuning;
    basis *former = atomic_load(&t->basis), *found = NULL;
    int count, rc = SQLITE_OK;
    if (basis_is_possible(v->dimension) && !environment_says("never")) {
        float *sample = index_sample(v, &count);
        rc = sample ? try_for_basis(v, sample, count, former, &found) : SQLITE_NOMEM;
        sqlite3_free(sample);
    }
    if (rc != SQLITE_OK)
        return rc;
    if (found && found == former)
        basis_release(found);
    else
        set_basis(v, found);
    atomic_store(&t->misfits, 0);
    atomic_store(&t->rows_then, v->rows);
    return SQLITE_OK;
}

static int wants_basis(const index_version *v)
{
    enum { GROWN = 4, MISFITS_SHARE = 4 };
    const index_tuning *t = v->tuning;
    int64_t then = atomic_load(&t->rows_then), misfits = atomic_load(&t->misfits);
    int64_t many =
        then / MISFITS_SHARE > BASIS_ROWS_LEAST ? then / MISFITS_SHARE : BASIS_ROWS_LEAST;
    /* Where one basis after the other does not fit, they are looked for less and less. */
    return v->rows / GROWN >= then || misfits / many >= (int64_t)atomic_load(&t->number);
}

/* Judge a segment by the newest basis. Where there is none, its rows count as misfits, so
** that enough of new ones are looked at. */
static int judge_segment(index_tuning *t, segment *s)
{
    int fits = 0;
    int rc = segment_make_sketch(s, atomic_load(&t->basis), atomic_load(&t->number), &fits);
    if (rc == SQLITE_OK && !fits)
        atomic_fetch_add(&t->misfits, segment_count(s));
    return rc;
}

/* The first segment from `next` on that is to be judged by the newest basis. */
static int next_unjudged(const index_version *v, int next)
{
    unsigned number = atomic_load(&v->tuning->number);
    while (next < v->segment_count && !segment_wants_sketch(v->segments[next], number))
        next++;
    return next;
}

/* Whether it may have sketches beside its vectors. */
static int has_room_for_sketches(const index_version *v)
{
    return v->keeping == INDEX_VECTORS && v->rows >= BASIS_ROWS_LEAST;
}

void index_forget_work(index_version *v)
{
    atomic_flag_clear(&v->tuning->working);
    growth_forget_work(v->tuning->growth);
}

void index_improve(index_version *v)
{
    index_tuning *t = v->tuning;
    if (!has_room_for_sketches(v) ||
        atomic_fetch_add_explicit(&t->searches, 1, memory_order_relaxed) == 0)
        return;
    int next = next_unjudged(v, 0), looks = wants_basis(v);
    if ((next == v->segment_count && !looks) || atomic_flag_test_and_set(&t->working))
        return;
    if (looks) /* what fails is tried again by the next search */
        find_basis(v);
    else
        judge_segment(t, v->segments[next]);
    atomic_flag_clear(&t->working);
}

int index_complete(index_version *v, index_check *check, void *argument, char **message)
{
    enum { TURN_WAIT_MS = 1 };
    const struct timespec pause = {.tv_nsec = TURN_WAIT_MS * 1000000L};
    index_tuning *t = v->tuning;
    int next = 0, rc = SQLITE_OK;
    while (rc == SQLITE_OK && has_room_for_sketches(v)) {
        int looks = wants_basis(v);
        next = looks ? 0 : next_unjudged(v, next);
        if (next == v->segment_count)
            break;
        if (atomic_flag_test_and_set(&t->working)) {
            nanosleep(&pause, NULL);
        } else {
            rc = looks ? find_basis(v) : judge_segment(t, v->segments[next]);
            atomic_flag_clear(&t->working);
        }
        if (rc == SQLITE_BUSY) { /* an open cursor holds a former sketch: left to a search */
            rc = SQLITE_OK;
            next++;
        }
        if (rc == SQLITE_OK)
            rc = check(argument, message);
    }
    return rc;
}
