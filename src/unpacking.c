#include "unpacking.h"

#include <string.h>

#include "feed.h"
#include "message.h"
#include "restored.h"

struct unpacking {
    unpacking_form form;
    feed *feed;
    uint64_t taken; /* bytes */
    approximate *index;
    index_version *version;
    int rc;    /* SQLITE_ERROR or SQLITE_MISMATCH: the bytes are of something else, … */
    char *why; /* … or what else is the case */
};

/* An approximate_read. */
static int take(void *argument, void *bytes, size_t count)
{
    unpacking *u = argument;
    if (feed_take(u->feed, bytes, count) != 0)
        return set_message(&u->why, sqlite3_mprintf("it ends too early"));
    u->taken += count;
    return SQLITE_OK;
}

static int make_index(unpacking *u)
{
    const unpacking_form *f = &u->form;
    char *why = NULL;
    int rc = approximate_load(&f->kind, f->metric, f->dimension, f->is_small, f->rows, f->stored,
                              take, u, &u->index, &why);
    if (rc != SQLITE_OK && !u->why)
        u->why = why;
    else
        sqlite3_free(why);
    if (rc == SQLITE_OK && u->taken != f->index_bytes)
        rc = set_message(&u->why, sqlite3_mprintf("it has bytes that FAISS does not read"));
    if (rc == SQLITE_OK) {
        approximate_note_trained_misfit(u->index, f->trained_misfit);
    } else {
        approximate_release(u->index);
        u->index = NULL;
    }
    return rc;
}

static int read_rows(unpacking *u, restored *to)
{
    enum { ROWS_AT_ONCE = 256 };
    unpacking_row rows[ROWS_AT_ONCE];
    int rc = SQLITE_OK;
    for (int64_t left = u->form.source_rows, n; rc == SQLITE_OK && left > 0; left -= n) {
        n = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        rc = take(u, rows, (size_t)n * sizeof *rows);
        for (int64_t i = 0; rc == SQLITE_OK && i < n; i++)
            rc = restored_row(to, rows[i].key, rows[i].hash, &u->why);
    }
    return rc;
}

static int make_version(unpacking *u)
{
    const unpacking_form *f = &u->form;
    restored *to;
    int rc = restored_open(u->index, f->metric, f->dimension, f->keeping, f->source_rows, &to);
    if (rc == SQLITE_OK)
        rc = read_rows(u, to);
    if (rc == SQLITE_OK)
        rc = restored_finish(to, &u->version, &u->why);
    restored_close(to);
    if (rc == SQLITE_OK && u->version->fingerprint != f->fingerprint)
        rc = SQLITE_MISMATCH;
    return rc;
}

/* A feed_eater. */
static void eat(void *argument, feed *f)
{
    unpacking *u = argument;
    u->feed = f;
    u->rc = make_index(u);
    if (u->rc == SQLITE_OK && u->form.source_rows > 0)
        u->rc = make_version(u);
}

int unpacking_open(const unpacking_form *form, unpacking **out)
{
    *out = NULL;
    unpacking *u = sqlite3_malloc64(sizeof *u);
    if (!u)
        return SQLITE_NOMEM;
    memset(u, 0, sizeof *u);
    u->form = *form;
    int rc = feed_open(eat, u, &u->feed);
    if (rc == SQLITE_OK)
        *out = u;
    else
        sqlite3_free(u);
    return rc;
}

int unpacking_take(unpacking *u, const void *bytes, size_t count)
{
    if (count > 0)
        feed_give(u->feed, bytes, count);
    return feed_has_ended(u->feed);
}

/* There are no more bytes. */
static void end(unpacking *u)
{
    if (!feed_has_ended(u->feed))
        feed_give(u->feed, NULL, 0);
}

int unpacking_finish(unpacking *u, approximate **index, index_version **version, char **why)
{
    end(u);
    *index = u->index;
    *version = u->rc == SQLITE_OK ? u->version : NULL;
    u->index = NULL;
    if (*version)
        u->version = NULL;
    *why = NULL;
    if (u->rc != SQLITE_ERROR && u->rc != SQLITE_MISMATCH)
        return u->rc;
    *why = *index ? sqlite3_mprintf("its rows are not those of its index%s%s", u->why ? ": " : "",
                                    u->why ? u->why : "")
                  : sqlite3_mprintf("%s", u->why ? u->why : "FAISS does not read it");
    return *why ? SQLITE_CORRUPT_VTAB : SQLITE_NOMEM;
}

void unpacking_close(unpacking *u)
{
    if (!u)
        return;
    feed_close(u->feed);
    approximate_release(u->index);
    index_release(u->version);
    sqlite3_free(u->why);
    sqlite3_free(u);
}
