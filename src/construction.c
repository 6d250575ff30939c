#include "construction.h"

#include <string.h>

#include "message.h"
#include "progress.h"

enum { SAMPLE_BYTES = 1 << 30 }; /* of vectors to train on, at most */

struct construction {
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
};

void construction_free(construction *c)
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
    progress_draw_training(kind->text, n, c->count);
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

int construction_open(const index_version *v, const index_kind *kind, const approximate *like,
                      const coverage *lacking, const vector_reader *reader, construction **out,
                      char **message)
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

int construction_step(construction *c, const vector_reader *reader, char **message)
{
    int rc = read_piece(c, reader, message);
    return rc == SQLITE_OK ? add_piece(c, message) : rc;
}

int64_t construction_done(const construction *c)
{
    return c->next;
}

int64_t construction_total(const construction *c)
{
    return c->count;
}

int construction_is_complete(const construction *c)
{
    return c->next == c->count;
}

approximate *construction_made(const construction *c)
{
    return c->made;
}

double construction_misfit(const construction *c, double former)
{
    enum { JUDGED_LEAST = 50 };
    if (!c->learned)
        return 0;
    return c->judged < JUDGED_LEAST ? former : c->misfit / c->judged;
}
