/* Finding the basis of an index, and making sketches by it: what index.h says of index_tuning. */
#include "index.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "growth.h"
#include "workers.h"

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

/* ---- which rows a basis is for ---- */

/* What follows is for a thread that has the turn. */

enum { NO_GROUP = -1 };

/* Which of the known bases a segment's sketch is of, and fits; NO_GROUP for none. */
static int group_of(const index_tuning *t, const segment *s)
{
    const sketch *own = segment_sketch(s);
    if (!own || !sketch_fits(own))
        return NO_GROUP;
    for (int i = 0; i < t->known_count; i++) {
        if (t->known[i] == sketch_basis(own))
            return i;
    }
    return NO_GROUP;
}

/* The basis that most rows fit, or NO_GROUP where more fit none. */
static int largest_group(const index_version *v)
{
    int64_t rows[BASES_MOST + 1] = {0};
    int largest = 0;
    for (int s = 0; s < v->segment_count; s++)
        rows[group_of(v->tuning, v->segments[s]) + 1] += segment_count(v->segments[s]);
    for (int i = 1; i <= v->tuning->known_count; i++)
        largest = rows[i] > rows[largest] ? i : largest;
    return largest - 1;
}

/* A version of the segments of one group alone. NULL when memory is short. */
static index_version *version_of_group(const index_version *v, int group)
{
    index_version *alone = index_new(v->metric, v->dimension, v->kept_values, NULL);
    int rc = alone ? SQLITE_OK : SQLITE_NOMEM;
    for (int s = 0; rc == SQLITE_OK && s < v->segment_count; s++) {
        if (segment_count(v->segments[s]) < SKETCH_ROWS_LEAST ||
            group_of(v->tuning, v->segments[s]) != group)
            continue;
        rc = index_append(alone, v->segments[s], v->dead[s]);
        if (rc == SQLITE_OK) {
            segment_retain(v->segments[s]);
            index_dead_retain(v->dead[s]);
        }
    }
    if (rc == SQLITE_OK)
        return alone;
    index_release(alone);
    return NULL;
}

static basis *newest_basis(const index_tuning *t)
{
    return t->known_count ? t->known[t->known_count - 1] : NULL;
}

/* Forget a basis. Segments keep the sketches that they have by it. */
static void forget_basis(index_tuning *t, int group)
{
    basis_release(t->known[group]);
    t->known_count--;
    for (int i = group; i < t->known_count; i++)
        t->known[i] = t->known[i + 1];
}

/* Forget those that no segment is of. */
static void forget_unused(const index_version *v)
{
    index_tuning *t = v->tuning;
    for (int i = t->known_count - 1; i >= 0; i--) {
        int used = 0;
        for (int s = 0; !used && s < v->segment_count; s++)
            used = group_of(t, v->segments[s]) == i;
        if (!used)
            forget_basis(t, i);
    }
}

/* What was found for some of the segments, a basis or none: all segments are to be judged
** again. Where there is none, these are judged already. */
static void take_finding(const index_version *of, index_tuning *t, basis *found)
{
    unsigned number = atomic_load(&t->number) + 1;
    for (int s = 0; !found && s < of->segment_count; s++)
        segment_set_judged(of->segments[s], number, 0);
    if (found)
        t->known[t->known_count++] = found;
    basis_release(atomic_exchange(&t->basis, basis_retain(newest_basis(t))));
    atomic_store(&t->number, number);
}

/* ---- finding a basis ---- */

/* Find a basis for the rows of a version that are those of a group. */
static int find_for(const index_version *of, index_tuning *t, int group)
{
    basis *former = group == NO_GROUP ? newest_basis(t) : t->known[group], *found = NULL;
    int count, rc = SQLITE_OK;
    if (basis_is_possible(of->dimension) && !environment_says("never")) {
        float *sample = index_sample(of, &count);
        rc = sample ? try_for_basis(of, sample, count, former, &found) : SQLITE_NOMEM;
        sqlite3_free(sample);
    }
    if (rc != SQLITE_OK)
        return rc;
    if (found && found == former) {
        basis_release(found);
        atomic_fetch_add(&t->in_vain, group == NO_GROUP);
        return SQLITE_OK;
    }
    if (group != NO_GROUP)
        forget_basis(t, group);
    else
        atomic_store(&t->in_vain, found ? 0 : atomic_load(&t->in_vain) + 1);
    take_finding(of, t, found);
    return SQLITE_OK;
}

/* Whether there are many rows that no basis fits, since one was looked for, and in this version: it
** may be an older one. Where none is found for them, they are looked at less and less. */
static int has_many_misfits(const index_version *v)
{
    enum { MISFITS_SHARE = 8 };
    const index_tuning *t = v->tuning;
    int64_t many = v->rows / MISFITS_SHARE, rows = 0;
    many = many > BASIS_ROWS_LEAST ? many : BASIS_ROWS_LEAST;
    if (atomic_load(&t->misfits) / many <= atomic_load(&t->in_vain))
        return 0;
    for (int s = 0; s < v->segment_count; s++)
        rows += segment_is_misfit(v->segments[s]) ? segment_count(v->segments[s]) : 0;
    return rows >= BASIS_ROWS_LEAST;
}

static int has_grown(const index_version *v)
{
    enum { GROWN = 4 };
    return v->rows / GROWN >= atomic_load(&v->tuning->rows_then);
}

static int wants_basis(const index_version *v)
{
    return has_grown(v) || has_many_misfits(v);
}

/* Find a basis for all rows, or for those that no basis fits, or the basis anew that most rows
** fit. Where there would be too many, one is to fit all. */
static int find_basis(const index_version *v)
{
    index_tuning *t = v->tuning;
    int group = has_many_misfits(v) ? NO_GROUP : largest_group(v);
    if (group == NO_GROUP && t->known_count == BASES_MOST)
        forget_unused(v);
    if (group == NO_GROUP && t->known_count == BASES_MOST) {
        while (t->known_count)
            forget_basis(t, 0);
    }
    index_version *of = version_of_group(v, group);
    int rc = of ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK && (of->rows >= BASIS_ROWS_LEAST || !atomic_load(&t->number)))
        rc = find_for(of, t, group);
    index_release(of);
    if (rc == SQLITE_OK) {
        atomic_store(&t->misfits, 0);
        atomic_store(&t->rows_then, v->rows);
    }
    return rc;
}

/* The first segment from `next` on that is to be judged after the newest finding. */
static int next_unjudged(const index_version *v, int next)
{
    unsigned number = atomic_load(&v->tuning->number);
    while (next < v->segment_count && !segment_wants_sketch(v->segments[next], number))
        next++;
    return next;
}

/* Whether all are judged: once that is so, it is remembered. */
static int are_judged(index_version *v)
{
    unsigned number = atomic_load(&v->tuning->number);
    if (number && atomic_load(&v->judged) == number)
        return 1;
    if (next_unjudged(v, 0) < v->segment_count)
        return 0;
    atomic_store(&v->judged, number);
    return 1;
}

/* ---- judging segments ---- */

enum {
    PIECE_MOST = 64,
    PIECE_THREADS = 2 /* that a piece is cut for: if none helps, it takes no longer than 50 ms */
};
static const double PIECE_PRODUCTS = 1.1e9; /* of numbers, for each of these: some 20 ms */

/* Segments that are judged together. */
typedef struct sketch_piece {
    const index_version *version;
    int segments[PIECE_MOST], count;
    int end; /* the first segment behind them */
    int threads;
    atomic_int failure;
} sketch_piece;

/* Find the unjudged ones from `next` on, as many as some threads judge in a while. Unless the table
** says how many, idle processors help. */
static void find_piece(sketch_piece *p, const index_version *v, int next, int threads)
{
    threads = threads ? threads : WORKERS_MOST;
    const basis *b = atomic_load(&v->tuning->basis);
    double products = 0, most = PIECE_PRODUCTS * (threads > 1 ? PIECE_THREADS : 1);
    *p = (sketch_piece){.version = v, .threads = threads, .end = next_unjudged(v, next)};
    while (p->count < PIECE_MOST && p->end < v->segment_count) {
        const segment *own = v->segments[p->end];
        if (group_of(v->tuning, own) == NO_GROUP)
            products += (double)segment_count(own) * (double)(b ? basis_products(b) : 0);
        if (p->count > 0 && products > most)
            break;
        p->segments[p->count++] = p->end;
        p->end = next_unjudged(v, p->end + 1);
    }
}

/* How badly a basis fits some rows from all over a segment. */
static int try_basis(const segment *s, basis *b, double *misfit)
{
    enum { ROWS_TRIED = 64 };
    size_t d = (size_t)segment_dimension(s);
    float *rows = sqlite3_malloc64(ROWS_TRIED * d * sizeof *rows);
    sketch *tried = NULL;
    int count = segment_count(s), rc = rows ? SQLITE_OK : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < ROWS_TRIED; i++)
        memcpy(rows + (size_t)i * d, segment_vector(s, (int)((int64_t)count * i / ROWS_TRIED)),
               d * sizeof *rows);
    if (rc == SQLITE_OK)
        rc = sketch_new(b, rows, ROWS_TRIED, &tried);
    *misfit = tried ? sketch_misfit(tried) : INFINITY;
    sketch_free(tried);
    sqlite3_free(rows);
    return rc;
}

/* The basis that fits a segment best: the newest one if none does, NULL if there is none. */
static int choose_basis(const index_tuning *t, const segment *s, basis **best)
{
    double least = INFINITY;
    int rc = SQLITE_OK;
    *best = newest_basis(t);
    for (int i = 0; t->known_count > 1 && rc == SQLITE_OK && i < t->known_count; i++) {
        double misfit;
        rc = try_basis(s, t->known[i], &misfit);
        if (rc == SQLITE_OK && misfit < least) {
            least = misfit;
            *best = t->known[i];
        }
    }
    return rc;
}

/* Judge a segment: whether a known basis fits it, and which. Rows that none fits are
** counted once, so that enough of new ones are looked at. */
static void judge_segment(void *argument, int part, int thread, workers_task *task)
{
    (void)thread, (void)task;
    sketch_piece *p = argument;
    index_tuning *t = p->version->tuning;
    segment *s = p->version->segments[p->segments[part]];
    unsigned number = atomic_load(&t->number);
    const sketch *own = segment_sketch(s);
    int fits = group_of(t, s) != NO_GROUP, rc = SQLITE_OK, is_known = segment_is_misfit(s);
    basis *b = NULL;
    if (!fits)
        rc = choose_basis(t, s, &b);
    if (rc == SQLITE_OK && !fits && b && !(own && sketch_basis(own) == b))
        rc = segment_make_sketch(s, b, &fits);
    if (rc == SQLITE_OK) {
        segment_set_judged(s, number, fits);
        if (!fits && !is_known)
            atomic_fetch_add(&t->misfits, segment_count(s));
    } else if (rc != SQLITE_BUSY) {
        atomic_store(&p->failure, rc);
    }
}

/* Judge them all. */
static int judge(sketch_piece *p)
{
    unsigned entered = workers_enter();
    int rc = workers_run(p->threads, p->count, judge_segment, p, NULL, NULL);
    workers_leave(entered);
    return atomic_load(&p->failure) ? atomic_load(&p->failure) : rc;
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

/* With the turn: judge the next segments, or else find a basis. *next is 0 again after that. */
static int improve_now(index_version *v, int threads, int *next)
{
    sketch_piece piece;
    if (atomic_load(&v->tuning->number) == 0 || (are_judged(v) && wants_basis(v))) {
        *next = 0;
        return find_basis(v);
    }
    find_piece(&piece, v, *next, threads);
    /* Where an open cursor holds a former sketch, it is left to a search. */
    *next = piece.end;
    return judge(&piece);
}

void index_improve(index_version *v, int threads)
{
    index_tuning *t = v->tuning;
    if (!has_room_for_sketches(v) ||
        atomic_fetch_add_explicit(&t->searches, 1, memory_order_relaxed) == 0)
        return;
    int next = 0;
    if ((are_judged(v) && !wants_basis(v)) || atomic_flag_test_and_set(&t->working))
        return;
    improve_now(v, threads, &next); /* what fails is tried again by the next search */
    atomic_flag_clear(&t->working);
}

int index_complete(index_version *v, int threads, index_check *check, void *argument,
                   char **message)
{
    enum { TURN_WAIT_MS = 1 };
    const struct timespec pause = {.tv_nsec = TURN_WAIT_MS * 1000000L};
    index_tuning *t = v->tuning;
    int next = 0, rc = SQLITE_OK;
    while (rc == SQLITE_OK && has_room_for_sketches(v)) {
        if (next_unjudged(v, next) == v->segment_count && !(are_judged(v) && wants_basis(v)))
            break;
        if (atomic_flag_test_and_set(&t->working)) {
            nanosleep(&pause, NULL);
        } else {
            rc = improve_now(v, threads, &next);
            atomic_flag_clear(&t->working);
        }
        if (rc == SQLITE_OK)
            rc = check(argument, message);
    }
    return rc;
}
