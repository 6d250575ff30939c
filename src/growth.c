#include "growth.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "construction.h"
#include "progress.h"

enum {
    DEAD_SHARE = 30,        /* percent of the places, beyond which it is made anew */
    DEAD_ALLOWED_SHARE = 5, /* percent that 'optimize' leaves as they are */
    MISSING_SHARE = 20,     /* one row in so many, beyond which they are added … */
    MISSING_LEAST = 100,    /* … but not for fewer than this … */
    MISSING_MOST = 65536,   /* … and always for more than this */
    WAIT_MS = 10
};

/* Rows are said not to fit what the index has learned from so many times the distance on. */
static const double MISFIT_TOLD = 1.5;

struct growth {
    pthread_mutex_t lock; /* guards what follows, and `coverage` of the versions */
    approximate *current;
    const char *origin; /* "built", or where it was loaded from */
    size_t bytes;
    double misfit;           /* of the rows added last, by what it has learned; 0: not known */
    coverage *latest;        /* the last that was made, to make the next one from */
    char *failure;           /* why FAISS did not make one */
    int64_t done, total;     /* rows of the construction */
    atomic_flag working;     /* a thread is at it … */
    construction *under_way; /* … which alone touches this */
    int has_looked;          /* … and this: what is stored was loaded, or is of no use */
};

/* ---- what versions share ---- */

growth *growth_new(void)
{
    growth *g = sqlite3_malloc64(sizeof *g);
    if (!g)
        return NULL;
    memset(g, 0, sizeof *g);
    pthread_mutex_init(&g->lock, NULL);
    atomic_flag_clear(&g->working);
    return g;
}

void growth_free(growth *g)
{
    if (!g)
        return;
    coverage_release(g->latest);
    approximate_release(g->current);
    construction_free(g->under_way);
    sqlite3_free(g->failure);
    pthread_mutex_destroy(&g->lock);
    sqlite3_free(g);
}

void growth_forget_work(growth *g)
{
    pthread_mutex_init(&g->lock, NULL);
    g->under_way = NULL; /* it may have been in the middle of a change: its memory is lost */
    g->done = g->total = 0;
    atomic_flag_clear(&g->working);
}

static void note_progress(growth *g, const construction *c)
{
    pthread_mutex_lock(&g->lock);
    g->done = c ? construction_done(c) : 0;
    g->total = c ? construction_total(c) : 0;
    pthread_mutex_unlock(&g->lock);
}

/* Nothing can be made of it; from now on `failure`, which is taken over, says why. */
static void give_up(growth *g, char *failure)
{
    construction_free(g->under_way);
    g->under_way = NULL;
    note_progress(g, NULL);
    pthread_mutex_lock(&g->lock);
    char *former = g->failure;
    g->failure = failure;
    pthread_mutex_unlock(&g->lock);
    sqlite3_free(former);
}

/* Put an index in the place of what there was. */
static void set_current(growth *g, approximate *made, const char *origin)
{
    size_t bytes = approximate_bytes(made);
    pthread_mutex_lock(&g->lock);
    approximate *former = g->current;
    coverage *latest = g->latest;
    char *failure = g->failure;
    g->current = approximate_retain(made);
    g->origin = origin;
    g->bytes = bytes;
    g->latest = NULL;
    g->failure = NULL;
    g->done = g->total = 0;
    pthread_mutex_unlock(&g->lock);
    approximate_release(former);
    coverage_release(latest);
    sqlite3_free(failure);
}

static void install(growth *g)
{
    construction *c = g->under_way;
    g->under_way = NULL;
    approximate *made = construction_made(c);
    approximate_settle(made); /* after a question whether to stop, which follows sorting */
    set_current(g, made, "built");
    pthread_mutex_lock(&g->lock);
    g->misfit = construction_misfit(c, g->misfit);
    pthread_mutex_unlock(&g->lock);
    construction_free(c);
}

/* Add the next piece; what cannot be gone on with is freed. */
static int step(growth *g, const vector_reader *reader, char **message)
{
    int rc = construction_step(g->under_way, reader, message);
    if (rc != SQLITE_OK && rc != SQLITE_INTERRUPT && rc != SQLITE_BUSY) {
        construction_free(g->under_way);
        g->under_way = NULL;
    }
    return rc;
}

/* Begin what finish() is to do all of: construction_open(). */
static int begin(growth *g, const index_version *v, const index_kind *kind, const approximate *like,
                 const coverage *lacking, const vector_reader *reader, char **message)
{
    int rc = construction_open(v, kind, like, lacking, reader, &g->under_way, message);
    if (rc != SQLITE_OK)
        progress_wipe();
    return rc;
}

/* Do all that is left of what is under way. */
static int finish(growth *g, const index_kind *kind, const vector_reader *reader, char **message)
{
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && !construction_is_complete(g->under_way)) {
        note_progress(g, g->under_way);
        progress_draw(kind->text, construction_done(g->under_way),
                      construction_total(g->under_way));
        rc = step(g, reader, message);
        if (rc == SQLITE_OK && reader->check)
            rc = reader->check(reader->argument, message);
    }
    if (rc == SQLITE_OK)
        install(g);
    progress_wipe();
    return rc;
}

/* Take the turn, if nobody has it. */
static int take_turn(growth *g)
{
    return !atomic_flag_test_and_set(&g->working);
}

static void end_turn(growth *g)
{
    atomic_flag_clear(&g->working);
}

/* Keep what FAISS says as the reason; other errors are the caller's. */
static int keep_failure(growth *g, int rc, char **message)
{
    if (rc != SQLITE_ERROR || !*message)
        return rc;
    give_up(g, *message);
    *message = NULL;
    return SQLITE_OK;
}

/* Build the first one, or go on with it. */
static int build_first(growth *g, index_version *v, const index_kind *kind,
                       const vector_reader *reader, char **message)
{
    int rc = SQLITE_OK;
    if (!g->under_way) {
        pthread_mutex_lock(&g->lock);
        g->total = v->rows;
        pthread_mutex_unlock(&g->lock);
        rc = begin(g, v, kind, NULL, NULL, reader, message);
    }
    if (rc == SQLITE_OK)
        rc = finish(g, kind, reader, message);
    return keep_failure(g, rc, message);
}

/* ---- coverage ---- */

/* What is known under the lock: the index, and the coverage of this version by it or, of another
** version, something to begin with. */
static approximate *look(growth *g, const index_version *v, coverage **known, coverage **former,
                         int *failed)
{
    pthread_mutex_lock(&g->lock);
    approximate *a = g->current ? approximate_retain(g->current) : NULL;
    *known = a && v->coverage && v->coverage->of == a ? coverage_retain(v->coverage) : NULL;
    *former = coverage_retain(g->latest);
    *failed = g->failure != NULL;
    pthread_mutex_unlock(&g->lock);
    return a;
}

static void keep(growth *g, index_version *v, coverage *c)
{
    pthread_mutex_lock(&g->lock);
    coverage *former = v->coverage, *latest = NULL;
    v->coverage = coverage_retain(c);
    if (c->of == g->current) {
        latest = g->latest;
        g->latest = coverage_retain(c);
    }
    pthread_mutex_unlock(&g->lock);
    coverage_release(former);
    coverage_release(latest);
}

/* The coverage by the index there is; *out is NULL where there is none. */
static int find_coverage(growth *g, index_version *v, coverage **out, int *failed)
{
    coverage *former;
    int rc = SQLITE_OK;
    approximate *a = look(g, v, out, &former, failed);
    if (a && !*out) {
        rc = coverage_open(v, a, former, out);
        if (rc == SQLITE_OK)
            keep(g, v, *out);
    }
    coverage_release(former);
    approximate_release(a);
    return rc;
}

/* Whether there is an index by now. */
static int has_current(growth *g)
{
    pthread_mutex_lock(&g->lock);
    int has = g->current != NULL;
    pthread_mutex_unlock(&g->lock);
    return has;
}

/* With the turn: take what is stored for the first one, if it has many of the rows. */
static int load_first(growth *g, index_version *v, const growth_loader *load, char **message)
{
    enum { USEFUL_SHARE = 2 };
    approximate *a = NULL;
    coverage *c = NULL;
    if (!load || g->has_looked || g->under_way || has_current(g))
        return SQLITE_OK;
    int rc = load->load(load->argument, &a, message);
    if (rc != SQLITE_OK)
        return rc;
    g->has_looked = 1;
    if (a)
        rc = coverage_open(v, a, NULL, &c);
    if (c && c->covered >= v->rows / USEFUL_SHARE) {
        set_current(g, a, load->origin);
        keep(g, v, c);
    }
    coverage_release(c);
    approximate_release(a);
    return rc;
}

int growth_coverage(index_version *v, const index_kind *kind, int may_build,
                    const growth_loader *load, const vector_reader *reader, coverage **out,
                    char **message)
{
    growth *g = v->tuning->growth;
    int failed, rc = find_coverage(g, v, out, &failed);
    if (rc != SQLITE_OK || *out || failed || !may_build || v->rows < kind->rows_least ||
        !take_turn(g))
        return rc;
    rc = load_first(g, v, load, message);
    if (rc == SQLITE_OK && !has_current(g))
        rc = build_first(g, v, kind, reader, message);
    end_turn(g);
    if (rc == SQLITE_BUSY) /* it cannot be built now: search exactly */
        return SQLITE_OK;
    return rc == SQLITE_OK ? find_coverage(g, v, out, &failed) : rc;
}

int growth_restore(index_version *v, const index_kind *kind, const growth_loader *load,
                   char **message)
{
    growth *g = v->tuning->growth;
    if (v->rows < kind->rows_least || has_current(g) || !take_turn(g))
        return SQLITE_OK;
    int rc = load_first(g, v, load, message);
    end_turn(g);
    return rc;
}

approximate *growth_current(const index_version *v)
{
    growth *g = v->tuning->growth;
    pthread_mutex_lock(&g->lock);
    approximate *a = g->current ? approximate_retain(g->current) : NULL;
    pthread_mutex_unlock(&g->lock);
    return a;
}

/* ---- growing ---- */

static int64_t missing_allowed(const index_version *v)
{
    int64_t share = v->rows / MISSING_SHARE;
    return share < MISSING_LEAST ? MISSING_LEAST : share > MISSING_MOST ? MISSING_MOST : share;
}

static int is_mostly_dead(const coverage *c)
{
    int64_t places = approximate_count(c->of);
    return (places - c->covered) * 100 > places * DEAD_SHARE;
}

void growth_improve(index_version *v, const index_kind *kind, const coverage *c, int may_begin,
                    const vector_reader *reader)
{
    growth *g = v->tuning->growth;
    char *message = NULL;
    int rc = SQLITE_OK;
    pthread_mutex_lock(&g->lock);
    int failed = g->failure != NULL;
    pthread_mutex_unlock(&g->lock);
    if (!c || failed || !take_turn(g))
        return;
    /* Only who has the turn replaces the current one. */
    int anew = is_mostly_dead(c), wants = anew || c->missing > missing_allowed(v);
    if (!g->under_way && c->of == g->current && wants && may_begin)
        rc = construction_open(v, kind, c->of, anew ? NULL : c, reader, &g->under_way, &message);
    if (rc == SQLITE_OK && g->under_way)
        rc = step(g, reader, &message);
    if (rc == SQLITE_OK && g->under_way && construction_is_complete(g->under_way))
        install(g);
    else
        note_progress(g, g->under_way);
    if (rc == SQLITE_ERROR) { /* else the next search tries */
        give_up(g, message);
        message = NULL;
    }
    sqlite3_free(message);
    end_turn(g);
}

/* Whether it is not worth a write lock for the time of a build. */
static int has_few_dead(const coverage *c)
{
    int64_t places = approximate_count(c->of);
    return (places - c->covered) * 100 <= places * DEAD_ALLOWED_SHARE;
}

static int wait_for_turn(growth *g, const vector_reader *reader, char **message)
{
    const struct timespec pause = {.tv_nsec = WAIT_MS * 1000000L};
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && !take_turn(g)) {
        nanosleep(&pause, NULL);
        rc = reader->check(reader->argument, message);
    }
    return rc;
}

/* With the turn: build what the version needs. */
static int complete(growth *g, index_version *v, const index_kind *kind, int anew,
                    const vector_reader *reader, char **message)
{
    coverage *c = NULL;
    int failed, rc = SQLITE_OK;
    if (g->under_way && !anew)
        rc = finish(g, kind, reader, message);
    if (rc == SQLITE_OK && !anew)
        rc = find_coverage(g, v, &c, &failed);
    int stays = c && has_few_dead(c);
    if (rc == SQLITE_OK && !(stays && c->missing == 0)) {
        construction_free(g->under_way);
        rc = begin(g, v, kind, c ? c->of : NULL, stays ? c : NULL, reader, message);
        if (rc == SQLITE_OK)
            rc = finish(g, kind, reader, message);
    }
    coverage_release(c);
    return rc;
}

int growth_complete(index_version *v, const index_kind *kind, int anew, const growth_loader *load,
                    const vector_reader *reader, char **message)
{
    growth *g = v->tuning->growth;
    if (v->rows < kind->rows_least)
        return SQLITE_OK;
    int rc = wait_for_turn(g, reader, message);
    if (rc != SQLITE_OK)
        return rc;
    if (!anew)
        rc = load_first(g, v, load, message);
    if (rc == SQLITE_OK) {
        rc = complete(g, v, kind, anew, reader, message);
        rc = keep_failure(g, rc, message);
    }
    end_turn(g);
    return rc;
}

/* ---- telling ---- */

char *growth_describe(const index_version *v, const index_kind *kind)
{
    growth *g = v->tuning->growth;
    const char *text = kind->text;
    char *told;
    pthread_mutex_lock(&g->lock);
    if (g->failure)
        told = sqlite3_mprintf(g->current ? "%s, no longer growing: %s" : "Flat: no %s: %s", text,
                               g->failure);
    else if (g->current && g->total)
        told = sqlite3_mprintf("%s, growing: %lld of %lld rows", text, (long long)g->done,
                               (long long)g->total);
    else if (g->current && g->misfit > MISFIT_TOLD)
        told = sqlite3_mprintf(
            "%s; the rows added last are %.1f times as far from what it has learned "
            "as those it was trained on: 'rebuild' trains it again",
            text, g->misfit);
    else if (g->current)
        told = sqlite3_mprintf("%s", text);
    else if (g->total)
        told = sqlite3_mprintf("Flat, building %s: %lld of %lld rows", text, (long long)g->done,
                               (long long)g->total);
    else if (v->rows < kind->rows_least)
        told = sqlite3_mprintf("Flat, %s from %lld rows on", text, (long long)kind->rows_least);
    else
        told = sqlite3_mprintf("Flat, %s to be built", text);
    pthread_mutex_unlock(&g->lock);
    return told;
}

const char *growth_origin(const index_version *v)
{
    growth *g = v->tuning->growth;
    pthread_mutex_lock(&g->lock);
    const char *origin = g->current ? g->origin : NULL;
    pthread_mutex_unlock(&g->lock);
    return origin;
}

size_t growth_bytes(const index_version *v)
{
    growth *g = v->tuning->growth;
    pthread_mutex_lock(&g->lock);
    size_t bytes = g->current ? g->bytes : 0;
    bytes += v->coverage ? coverage_bytes(v->coverage) : 0;
    pthread_mutex_unlock(&g->lock);
    return bytes;
}
