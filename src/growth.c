#include "growth.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "message.h"
#include "progress.h"

enum {
    DEAD_SHARE = 30,        /* percent of the places, beyond which it is made anew */
    DEAD_ALLOWED_SHARE = 5, /* percent that 'optimize' leaves as they are */
    MISSING_SHARE = 20,     /* one row in so many, beyond which they are added … */
    MISSING_LEAST = 100,    /* … but not for fewer than this … */
    MISSING_MOST = 65536,   /* … and always for more than this */
    SAMPLE_BYTES = 1 << 30, /* of vectors to train on, at most */
    WAIT_MS = 10
};

/* Rows are said not to fit what the index has learned from so many times the distance on. */
static const double MISFIT_TOLD = 1.5;

/* An index in the making. */
typedef struct construction {
    approximate *made;
    index_version *from; /* whose rows are added */
    uint32_t *todo;      /* their positions, in the order in which they are */
    int64_t count, next;
    int sorts;     /* in the end, its rows are put in order */
    int learned;   /* it has what another was trained for */
    double misfit; /* of rows that were judged by that, summed up, … */
    int judged;    /* … and how many */
    int slice;
    float *vectors; /* of one piece, with keys and hashes */
    int64_t *keys;
    uint64_t *hashes;
    int read, found; /* rows of the piece: taken from the list, and those that are there */
} construction;

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
            if (index_is_dead(v, s, slot) ||
                (lacking && cover_place(lacking->covers[s], slot) >= 0))
                continue;
            c->todo[c->count++] = (uint32_t)(v->starts[s] + slot);
        }
    }
    return SQLITE_OK;
}

/* A graph is better for rows that come in no order; always the same one. In the end they are
** sorted, since a search is faster where rows that are near each other are so in memory, too. */
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

/* Read the vectors of `count` slots of a segment, as far as they are there: where they are not in
** memory, rows may have changed since the construction began, and are left out. *found of
** them, whose slots come to the front. */
static int read_slots(const segment *s, const vector_reader *reader, int64_t *slots, int count,
                      float *to, int *found, char **message)
{
    size_t d = (size_t)segment_dimension(s);
    if (!segment_has_vectors(s) && !reader->read)
        return SQLITE_BUSY; /* another search does it */
    int rc = segment_read(s, reader, slots, count, to, message);
    *found = rc == SQLITE_OK ? count : 0;
    if (rc != SQLITE_MISMATCH)
        return rc;
    rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < count; i++) {
        slots[*found] = slots[i];
        rc = segment_read(s, reader, &slots[i], 1, to + (size_t)*found * d, message);
        *found += rc == SQLITE_OK;
        rc = rc == SQLITE_MISMATCH ? SQLITE_OK : rc;
    }
    return rc;
}

/* Rows of a version that are read together. */
enum { RUN_MOST = 256 };

/* The first rows of a list that are in one segment, one behind the other: how many. */
static int find_run(const index_version *v, const uint32_t *positions, int64_t count, int *s,
                    int64_t *slots)
{
    int slot, n = 0;
    index_locate(v, positions[0], s, &slot);
    int64_t begin = v->starts[*s], end = begin + segment_count(v->segments[*s]);
    while (n < count && n < RUN_MOST && positions[n] >= begin && positions[n] < end &&
           (n == 0 || positions[n] > positions[n - 1])) {
        slots[n] = positions[n] - begin;
        n++;
    }
    return n;
}

/* Read the vectors at some positions, *found of them, with keys and hashes where these are not
** NULL. An error where FAISS may not see one of them. */
static int read_rows(const index_version *v, const vector_reader *reader, const uint32_t *positions,
                     int64_t count, float *vectors, int64_t *keys, uint64_t *hashes, int *found,
                     char **message)
{
    size_t d = (size_t)v->dimension;
    int64_t slots[RUN_MOST];
    int rc = SQLITE_OK, s, there;
    *found = 0;
    for (int64_t i = 0; rc == SQLITE_OK && i < count;) {
        int n = find_run(v, positions + i, count - i, &s, slots);
        float *to = vectors + (size_t)*found * d;
        rc = read_slots(v->segments[s], reader, slots, n, to, &there, message);
        for (int j = 0; rc == SQLITE_OK && j < there; j++) {
            if (!approximate_takes(to + (size_t)j * d, v->dimension))
                rc = set_message(message, sqlite3_mprintf("vectors longer than 1e15"));
            if (keys) {
                keys[*found + j] = v->kept_values ? 0 : segment_key(v->segments[s], (int)slots[j]);
                hashes[*found + j] = segment_hash(v->segments[s], (int)slots[j]);
            }
        }
        *found += rc == SQLITE_OK ? there : 0;
        i += n;
    }
    return rc;
}

/* Places all over the list, always the same ones. */
static void spread_sample(const construction *c, uint32_t *chosen, int64_t n)
{
    int64_t stride = c->count / n;
    for (int64_t i = 0; i < n; i++) {
        int64_t off = (int64_t)((uint32_t)i * 2654435761u % (uint64_t)stride); /* Knuth's hash */
        chosen[i] = c->todo[c->count * i / n + off];
    }
}

/* Train on rows from all over the list. SQLITE_MISMATCH where the source has other ones. */
static int train(construction *c, const index_kind *kind, const vector_reader *reader,
                 char **message)
{
    size_t d = (size_t)c->from->dimension;
    int64_t most = (int64_t)(SAMPLE_BYTES / (d * sizeof(float)));
    int64_t n = kind->sample < c->count ? kind->sample : c->count;
    if (!kind->is_trained)
        return SQLITE_OK;
    n = n < most ? n : most;
    float *sample = sqlite3_malloc64((sqlite3_uint64)n * d * sizeof *sample);
    uint32_t *chosen = sqlite3_malloc64((sqlite3_uint64)n * sizeof *chosen);
    int found, rc = sample && chosen ? SQLITE_OK : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        spread_sample(c, chosen, n);
        rc = read_rows(c->from, reader, chosen, n, sample, NULL, NULL, &found, message);
    }
    if (rc == SQLITE_OK && found < n)
        rc = SQLITE_MISMATCH;
    if (rc == SQLITE_OK && reader->check)
        rc = reader->check(reader->argument, message);
    if (rc == SQLITE_OK)
        rc = approximate_train(c->made, sample, (int)n, reader->check, reader->argument, message);
    sqlite3_free(sample);
    sqlite3_free(chosen);
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
                             const approximate *like, const coverage *lacking,
                             const vector_reader *reader, construction **out, char **message)
{
    *out = NULL;
    construction *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    c->from = rows_of(v);
    int learned = like && (lacking || kind->is_trained);
    int rc = c->from ? list_rows(c, lacking) : SQLITE_NOMEM;
    if (rc == SQLITE_OK && learned)
        rc = approximate_open_from(like, !lacking, c->count + (lacking ? lacking->covered : 0),
                                   &c->made, message);
    else if (rc == SQLITE_OK)
        rc = approximate_open(kind, v->metric, v->dimension, v->keeping == INDEX_CODES, c->count,
                              &c->made, message);
    if (rc == SQLITE_OK && !learned)
        rc = train(c, kind, reader, message);
    if (rc == SQLITE_OK && kind->links)
        shuffle(c->todo, c->count);
    c->sorts = !lacking && !v->kept_values;
    c->learned = learned && kind->is_trained;
    if (rc == SQLITE_OK)
        rc = make_room(c);
    if (rc == SQLITE_OK)
        *out = c;
    else
        construction_free(c);
    return rc;
}

/* Read the next piece, which is then to be added. */
static int read_piece(construction *c, const vector_reader *reader, char **message)
{
    int64_t left = c->count - c->next;
    c->read = left < c->slice ? (int)left : c->slice;
    return read_rows(c->from, reader, c->todo + c->next, c->read, c->vectors, c->keys, c->hashes,
                     &c->found, message);
}

/* Judge some rows of the piece by what was learned from others. */
static void judge_piece(construction *c)
{
    enum { JUDGED_OF_PIECE = 64 };
    int n = c->found < JUDGED_OF_PIECE ? c->found : JUDGED_OF_PIECE;
    if (!c->learned || n == 0)
        return;
    c->misfit += n * approximate_misfit(c->made, c->vectors, n);
    c->judged += n;
}

/* Add it; with the last one it is complete. */
static int add_piece(construction *c, char **message)
{
    int rc = SQLITE_OK;
    c->next += c->read;
    judge_piece(c);
    if (c->found)
        rc = approximate_add(c->made, c->vectors, c->keys, c->hashes, c->found, message);
    return rc == SQLITE_OK && c->sorts && c->next == c->count ? approximate_sort(c->made, message)
                                                              : rc;
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

/* How well the rows that were added fit: a few tell nothing, and leave it as it was. */
static double misfit_after(const growth *g, const construction *c)
{
    enum { JUDGED_LEAST = 50 };
    if (!c->learned)
        return 0;
    return c->judged < JUDGED_LEAST ? g->misfit : c->misfit / c->judged;
}

static void install(growth *g)
{
    construction *c = g->under_way;
    g->under_way = NULL;
    approximate_settle(c->made); /* after a question whether to stop, which follows sorting */
    set_current(g, c->made, "built");
    pthread_mutex_lock(&g->lock);
    g->misfit = misfit_after(g, c);
    pthread_mutex_unlock(&g->lock);
    construction_free(c);
}

/* Add the next piece; what cannot be gone on with is freed. */
static int step(growth *g, const vector_reader *reader, char **message)
{
    int rc = read_piece(g->under_way, reader, message);
    if (rc == SQLITE_INTERRUPT || rc == SQLITE_BUSY)
        return rc;
    if (rc == SQLITE_OK)
        rc = add_piece(g->under_way, message);
    if (rc != SQLITE_OK) { /* FAISS may have stopped half way */
        construction_free(g->under_way);
        g->under_way = NULL;
    }
    return rc;
}

/* Begin what finish() is to do all of: construction_open(). */
static int begin(growth *g, const index_version *v, const index_kind *kind, const approximate *like,
                 const coverage *lacking, const vector_reader *reader, char **message)
{
    progress_draw(kind->text, 0, v->rows);
    int rc = construction_open(v, kind, like, lacking, reader, &g->under_way, message);
    if (rc != SQLITE_OK)
        progress_wipe();
    return rc;
}

/* Do all that is left of what is under way. */
static int finish(growth *g, const index_kind *kind, const vector_reader *reader, char **message)
{
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && g->under_way->next < g->under_way->count) {
        note_progress(g, g->under_way);
        progress_draw(kind->text, g->under_way->next, g->under_way->count);
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
    if (rc == SQLITE_OK && g->under_way && g->under_way->next == g->under_way->count)
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
