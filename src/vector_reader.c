#include "vector_reader.h"

#include <string.h>

#include "snapshot.h"

/* Rows passed over to get at the next one wanted, rather than looking it up: one step
** costs about an eighth of a look-up. */
enum { STEPS_MOST = 8, STEPS_IN_VAIN = 2 };

/* Reading some rows. */
typedef struct reading {
    snapshot *snapshot;
    sqlite3_stmt *rows;
    int64_t at;  /* the key that the statement stands on */
    int stands;  /* it stands on a row */
    int ended;   /* there are none behind it */
    int in_vain; /* rows in a row that were not found by stepping */
} reading;

/* Step to the next row. */
static int step(reading *r, char **message)
{
    snapshot *s = r->snapshot;
    int rc = snapshot_step(s, r->rows);
    r->stands = rc == SQLITE_ROW;
    r->ended = rc == SQLITE_DONE;
    if (r->stands)
        r->at = sqlite3_column_int64(r->rows, SOURCE_COLUMN_KEY);
    if (rc == SQLITE_ROW || rc == SQLITE_DONE)
        return SQLITE_OK;
    return source_failure(s->connection->db, s->source, rc, message);
}

/* Look up the first row from this key on. */
static int seek(reading *r, int64_t key, char **message)
{
    sqlite3_reset(r->rows);
    sqlite3_bind_int64(r->rows, 1, key);
    return step(r, message);
}

/* Whether to come to a key by steps from the row before: for certain where the keys say
** that it is near, else as long as that has been so. */
static int is_near(const reading *r, int64_t key)
{
    if (!r->stands || r->at > key)
        return 0;
    return (uint64_t)key - (uint64_t)r->at <= STEPS_MOST || r->in_vain < STEPS_IN_VAIN;
}

/* Stand on the row of a key. SQLITE_MISMATCH where there is none. */
static int find(reading *r, int64_t key, char **message)
{
    int rc = SQLITE_OK, near = is_near(r, key);
    for (int i = 0; near && rc == SQLITE_OK && i < STEPS_MOST && r->stands && r->at < key; i++)
        rc = step(r, message);
    if (near && r->stands)
        r->in_vain = r->at < key ? r->in_vain + 1 : 0;
    if (rc == SQLITE_OK && !(r->stands && r->at >= key) && !(near && r->ended))
        rc = seek(r, key, message);
    return rc == SQLITE_OK && !(r->stands && r->at == key) ? SQLITE_MISMATCH : rc;
}

/* Take the embedding of the row that the statement stands on. Asked of the value, SQLite takes no
** lock each time; the connection's own is held by whoever runs the statement of the search. */
static int take(const reading *r, uint64_t hash, int bytes, float *out)
{
    sqlite3_value *stored = sqlite3_column_value(r->rows, SOURCE_COLUMN_EMBEDDING);
    if (sqlite3_value_type(stored) != SQLITE_BLOB || sqlite3_value_bytes(stored) != bytes)
        return SQLITE_MISMATCH;
    const void *embedding = sqlite3_value_blob(stored);
    if (!embedding)
        return SQLITE_NOMEM;
    if (index_row_hash(r->at, NULL, 0, embedding, bytes) != hash)
        return SQLITE_MISMATCH;
    memcpy(out, embedding, (size_t)bytes);
    return SQLITE_OK;
}

static int read_vectors(void *argument, const int64_t *keys, const uint64_t *hashes, int count,
                        int dimension, float *vectors, char **message)
{
    snapshot *s = argument;
    int rc = SQLITE_OK;
    if (!s->vectors)
        rc = source_prepare(s->connection->db, s->source, SOURCE_READ_FROM, NULL, &s->vectors,
                            message);
    /* A few rows of many: not worth trying whether they are next to each other. */
    reading r = {.snapshot = s, .rows = s->vectors};
    r.in_vain = count < STEPS_MOST ? STEPS_IN_VAIN : 0;
    for (int i = 0; rc == SQLITE_OK && i < count; i++) {
        rc = find(&r, keys[i], message);
        if (rc == SQLITE_OK)
            rc = take(&r, hashes[i], dimension * VECTOR_COMPONENT_BYTES,
                      vectors + (size_t)i * (size_t)dimension);
    }
    sqlite3_reset(s->vectors);
    return rc;
}

vector_reader vector_reader_of(snapshot *s)
{
    return (vector_reader){.read = s->source ? read_vectors : NULL,
                           .check = snapshot_poll,
                           .argument = s,
                           .threads = s->threads};
}
