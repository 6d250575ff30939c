#include "growth.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "message.h"

enum {
    DEAD_SHARE = 30,        /* percent of the places, beyond which it is made anew */
    MISSING_SHARE = 20,     /* one row in so many, beyond which they are added … */
    MISSING_LEAST = 100,    /* … but not for fewer than this … */
    MISSING_MOST = 65536,   /* … and always for more than this */
    SAMPLE_BYTES = 1 << 30, /* of vectors to train on, at most */
    WAIT_MS = 10
};

/* An index in the making. */
typedef struct construction {
    approximate *made;
    index_version *from; /* whose rows are added */
    uint32_t *todo;      /* their positions, in the order in which they are */
    int64_t count, next;
    int slice;
    float *vectors; /* of one piece, with keys and hashes */
    int64_t *keys;
    uint64_t *hashes;
} construction;

struct growth {
    pthread_mutex_t lock; /* guards what follows, and `coverage` of the versions */
    approximate *current;
    size_t bytes;
    coverage *latest;        /* the last that was made, to make the next one from */
    char *failure;           /* why FAISS did not make one */
    int64_t done, total;     /* rows of the construction */
    atomic_flag working;     /* a thread is at it … */
    construction *under_way; /* … which alone touches this */
};

/* ---- a construction ---- */

static void construction_free(construction *c)
{
    if (!c)
        return;
    approximate_release(c->made);
    index_release(c->from);
    sqlite3_free(c->todo);
    sqlite3_free(c->vectors);
    sqlite3_free(c->keys);
    sqlite3_free(c->hashes);
    sqlite3_free(c);
}

/* A version with the same segments that shares nothing else with it, or what versions have
** in common would hold on to itself. */
static index_version *rows_of(const index_version *v)
{
    index_version *rows = index_new(v->metric, v->dimension, v->kept_values, NULL);
    int rc = rows ? SQLITE_OK : SQLITE_NOMEM;
    for (int i = 0; rc == SQLITE_OK && i < v->segment_count; i++) {
        rc = index_append(rows, v->segments[i], v->dead[i]);
        if (rc == SQLITE_OK) {
            segment_retain(v->segments[i]);
            index_dead_retain(v->dead[i]);
        }
    }
    if (rc == SQLITE_OK)
        return rows;
    index_release(rows);
    return NULL;
}

/* The positions of all rows, or of those that an index lacks. */
static int list_rows(construction *c, const coverage *lacking)
{
    const index_version *v = c->from;
    int64_t most = lacking ? lacking->missing : v->rows;
    c->todo = sqlite3_malloc64(((sqlite3_uint64)most + 1) * sizeof *c->todo);
    if (!c->todo)
        return SQLITE_NOMEM;
    for (int s = 0; s < v->segment_count; s++) {
        for (int slot = 0; slot < segment_count(v->segments[s]); slot++) {
            if (index_is_dead(v, s, slot) || (lacking && lacking->covers[s]->places[slot] >= 0))
                continue;
            c->todo[c->count++] = (uint32_t)(v->starts[s] + slot);
        }
    }
    return SQLITE_OK;
}

/* A graph is better for rows in no order; always the same one. */
static void shuffle(uint32_t *todo, int64_t count)
{
    uint64_t state = 1;
    for (int64_t i = count - 1; i > 0; i--) {
        state = state * 6364136223846793005u + 1442695040888963407u; /* Knuth's MMIX generator */
        int64_t j = (int64_t)((state >> 20) % (uint64_t)(i + 1));
        uint32_t kept = todo[i];
        todo[i] = todo[j];
        todo[j] = kept;
    }
}

/* Copy the vector at a position, whose place is told as well. */
static int copy_vector(const index_version *v, int64_t position, float *to, int *s, int *slot,
                       char **message)
{
    index_locate(v, position, s, slot);
    const float *x = segment_vector(v->segments[*s], *slot);
    memcpy(to, x, (size_t)v->dimension * sizeof *x);
    if (approximate_takes(x, v->dimension))
        return SQLITE_OK;
    return set_message(message, sqlite3_mprintf("vectors longer than 1e15"));
}

/* Train on rows from all over the list, always the same ones. */
static int train(construction *c, const index_kind *kind, index_check *check, void *argument,
                 char **message)
{
    size_t d = (size_t)c->from->dimension;
    int64_t most = (int64_t)(SAMPLE_BYTES / (d * sizeof(float)));
    int64_t n = kind->sample < c->count ? kind->sample : c->count;
    if (!kind->is_trained)
        return SQLITE_OK;
    n = n < most ? n : most;
    float *sample = sqlite3_malloc64((sqlite3_uint64)n * d * sizeof *sample);
    if (!sample)
        return SQLITE_NOMEM;
    int rc = SQLITE_OK, s, slot;
    int64_t stride = c->count / n;
    for (int64_t i = 0; rc == SQLITE_OK && i < n; i++) {
        int64_t off = (int64_t)((uint32_t)i * 2654435761u % (uint64_t)stride); /* Knuth's hash */
        rc = copy_vector(c->from, c->todo[c->count * i / n + off], sample + (size_t)i * d, &s,
                         &slot, message);
    }
    if (rc == SQLITE_OK && check)
        rc = check(argument, message);
    if (rc == SQLITE_OK)
        rc = approximate_train(c->made, sample, (int)n, check, argument, message);
    sqlite3_free(sample);
    return rc;
}

static int make_room(construction *c)
{
    c->slice = approximate_slice(c->made);
    size_t n = (size_t)c->slice, d = (size_t)c->from->dimension;
    c->vectors = sqlite3_malloc64(n * d * sizeof *c->vectors);
    c->keys = sqlite3_malloc64(n * sizeof *c->keys);
    c->hashes = sqlite3_malloc64(n * sizeof *c->hashes);
    return c->vectors && c->keys && c->hashes ? SQLITE_OK : SQLITE_NOMEM;
}

/* Begin: where there is an index, with what it has learned; where `lacking` says which
** rows it lacks, with its rows, too. */
static int construction_open(const index_version *v, const index_kind *kind,
                             const approximate *like, const coverage *lacking, index_check *check,
                             void *argument, construction **out, char **message)
{
    *out = NULL;
    construction *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    for (int i = 0; i < v->segment_count; i++) {
        if (!segment_has_vectors(v->segments[i])) {
            sqlite3_free(c);
            return set_message(message, sqlite3_mprintf("the vectors are not in memory"));
        }
    }
    c->from = rows_of(v);
    int learned = like && (lacking || kind->is_trained);
    int rc = c->from ? list_rows(c, lacking) : SQLITE_NOMEM;
    if (rc == SQLITE_OK && learned)
        rc = approximate_open_from(like, !lacking, c->count + (lacking ? lacking->covered : 0),
                                   &c->made, message);
    else if (rc == SQLITE_OK)
        rc = approximate_open(kind, v->metric, v->dimension, c->count, &c->made, message);
    if (rc == SQLITE_OK && !learned)
        rc = train(c, kind, check, argument, message);
    if (rc == SQLITE_OK && kind->links)
        shuffle(c->todo, c->count);
    if (rc == SQLITE_OK)
        rc = make_room(c);
    if (rc == SQLITE_OK)
        *out = c;
    else
        construction_free(c);
    return rc;
}

/* Add the next piece. */
static int construction_step(construction *c, char **message)
{
    const index_version *v = c->from;
    size_t d = (size_t)v->dimension;
    int n = 0, rc = SQLITE_OK, s, slot;
    for (; rc == SQLITE_OK && n < c->slice && c->next + n < c->count; n++) {
        rc = copy_vector(v, c->todo[c->next + n], c->vectors + (size_t)n * d, &s, &slot, message);
        c->keys[n] = v->kept_values ? 0 : segment_key(v->segments[s], slot);
        c->hashes[n] = segment_hash(v->segments[s], slot);
    }
    c->next += n;
    if (rc != SQLITE_OK)
        return rc;
    return n ? approximate_add(c->made, c->vectors, c->keys, c->hashes, n, message) : SQLITE_OK;
}

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
    g->done = c ? c->next : 0;
    g->total = c ? c->count : 0;
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

/* Put what is made in the place of what there was. */
static void install(growth *g)
{
    construction *c = g->under_way;
    size_t bytes = approximate_bytes(c->made);
    g->under_way = NULL;
    pthread_mutex_lock(&g->lock);
    approximate *former = g->current;
    coverage *latest = g->latest;
    char *failure = g->failure;
    g->current = approximate_retain(c->made);
    g->bytes = bytes;
    g->latest = NULL;
    g->failure = NULL;
    g->done = g->total = 0;
    pthread_mutex_unlock(&g->lock);
    approximate_release(former);
    coverage_release(latest);
    sqlite3_free(failure);
    construction_free(c);
}

/* Do all that is left of what is under way. */
static int finish(growth *g, index_check *check, void *argument, char **message)
{
    construction *c = g->under_way;
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && c->next < c->count) {
        note_progress(g, c);
        rc = construction_step(c, message);
        if (rc != SQLITE_OK) { /* FAISS may have stopped half way */
            construction_free(c);
            g->under_way = NULL;
        } else if (check) {
            rc = check(argument, message);
        }
    }
    if (rc == SQLITE_OK)
        install(g);
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
static int build_first(growth *g, index_version *v, const index_kind *kind, index_check *check,
                       void *argument, char **message)
{
    int rc = SQLITE_OK;
    if (!g->under_way) {
        pthread_mutex_lock(&g->lock);
        g->total = v->rows;
        pthread_mutex_unlock(&g->lock);
        rc = construction_open(v, kind, NULL, NULL, check, argument, &g->under_way, message);
    }
    if (rc == SQLITE_OK)
        rc = finish(g, check, argument, message);
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

int growth_coverage(index_version *v, const index_kind *kind, int may_build, index_check *check,
                    void *argument, coverage **out, char **message)
{
    growth *g = v->tuning->growth;
    int failed, rc = find_coverage(g, v, out, &failed);
    if (rc != SQLITE_OK || *out || failed || !may_build || v->rows < kind->rows_least ||
        !take_turn(g))
        return rc;
    rc = build_first(g, v, kind, check, argument, message);
    end_turn(g);
    return rc == SQLITE_OK ? find_coverage(g, v, out, &failed) : rc;
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

void growth_improve(index_version *v, const index_kind *kind, const coverage *c)
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
    if (!g->under_way && c->of == g->current && wants)
        rc =
            construction_open(v, kind, c->of, anew ? NULL : c, NULL, NULL, &g->under_way, &message);
    if (rc == SQLITE_OK && g->under_way)
        rc = construction_step(g->under_way, &message);
    if (rc != SQLITE_OK)
        give_up(g, message);
    else if (g->under_way && g->under_way->next == g->under_way->count)
        install(g);
    else if (g->under_way)
        note_progress(g, g->under_way);
    end_turn(g);
}

static int wait_for_turn(growth *g, index_check *check, void *argument, char **message)
{
    const struct timespec pause = {.tv_nsec = WAIT_MS * 1000000L};
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && !take_turn(g)) {
        nanosleep(&pause, NULL);
        rc = check(argument, message);
    }
    return rc;
}

/* With the turn: build what the version needs. */
static int complete(growth *g, index_version *v, const index_kind *kind, int anew,
                    index_check *check, void *argument, char **message)
{
    coverage *c = NULL;
    int failed, rc = SQLITE_OK;
    if (g->under_way && !anew)
        rc = finish(g, check, argument, message);
    if (rc == SQLITE_OK && !anew)
        rc = find_coverage(g, v, &c, &failed);
    int is_complete = c && c->missing == 0 && c->covered == approximate_count(c->of);
    if (rc == SQLITE_OK && !is_complete) {
        construction_free(g->under_way);
        int grows = c && c->covered == approximate_count(c->of);
        rc = construction_open(v, kind, c ? c->of : NULL, grows ? c : NULL, check, argument,
                               &g->under_way, message);
        if (rc == SQLITE_OK)
            rc = finish(g, check, argument, message);
    }
    coverage_release(c);
    return rc;
}

int growth_complete(index_version *v, const index_kind *kind, int anew, index_check *check,
                    void *argument, char **message)
{
    growth *g = v->tuning->growth;
    if (v->rows < kind->rows_least)
        return SQLITE_OK;
    int rc = wait_for_turn(g, check, argument, message);
    if (rc != SQLITE_OK)
        return rc;
    rc = complete(g, v, kind, anew, check, argument, message);
    rc = keep_failure(g, rc, message);
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

size_t growth_bytes(const index_version *v)
{
    growth *g = v->tuning->growth;
    pthread_mutex_lock(&g->lock);
    size_t bytes = g->current ? g->bytes + (size_t)v->slots * sizeof(int32_t) : 0;
    pthread_mutex_unlock(&g->lock);
    return bytes;
}
