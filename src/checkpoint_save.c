#include "checkpoint_save.h"

#include <string.h>

#include "checkpoint_reader.h"
#include "sql_text.h"
#include "unpacking.h"

typedef struct writer {
    sqlite3_stmt *put;
    checkpoint_header header;
    checkpoint_section *of; /* the section of it that is written … */
    uint64_t before;        /* … behind so many parts */
    unsigned char *part;    /* what is to be written next */
    size_t used;
    index_check *check;
    void *argument;
    char **message;
} writer;

static int put(writer *w, uint64_t part, uint64_t checksum, const void *data, size_t bytes)
{
    enum { PART = 1, CHECKSUM, DATA };
    sqlite3_bind_int64(w->put, PART, (sqlite3_int64)part);
    sqlite3_bind_int64(w->put, CHECKSUM, (sqlite3_int64)checksum);
    sqlite3_bind_blob(w->put, DATA, data, (int)bytes, SQLITE_STATIC);
    sqlite3_step(w->put);
    int rc = sqlite3_reset(w->put);
    return rc == SQLITE_OK && w->check ? w->check(w->argument, w->message) : rc;
}

static int flush(writer *w)
{
    if (w->used == 0)
        return SQLITE_OK;
    uint64_t part = w->before + ++w->of->parts;
    uint64_t checksum = checkpoint_checksum(w->of->id, part, w->part, w->used);
    w->of->chain = checkpoint_chain_on(w->of->chain, checksum);
    w->of->bytes += w->used;
    int rc = put(w, part, checksum, w->part, w->used);
    w->used = 0;
    return rc;
}

/* An approximate_write. */
static int write_bytes(void *argument, const void *bytes, size_t count)
{
    writer *w = argument;
    const unsigned char *from = bytes;
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && count > 0) {
        size_t room = CHECKPOINT_PART_BYTES - w->used, n = count < room ? count : room;
        memcpy(w->part + w->used, from, n);
        from += n;
        count -= n;
        w->used += n;
        if (w->used == CHECKPOINT_PART_BYTES)
            rc = flush(w);
    }
    return rc;
}

static void begin_section(writer *w, checkpoint_section *of, uint64_t before)
{
    *of = (checkpoint_section){0};
    sqlite3_randomness(sizeof of->id, &of->id);
    w->of = of;
    w->before = before;
}

static int write_index(writer *w, const approximate *a)
{
    begin_section(w, &w->header.index, 0);
    w->header.rows = (uint64_t)approximate_count(a);
    w->header.flags = approximate_is_small(a) ? CHECKPOINT_IS_SMALL : 0;
    w->header.trained_misfit = (float)approximate_trained_misfit(a);
    int rc = approximate_save(a, write_bytes, w, w->message);
    return rc == SQLITE_OK ? flush(w) : rc;
}

/* The rows of the version, if they are to be stored. */
static int write_rows(writer *w, const approximate *a, const index_version *v)
{
    int rc = SQLITE_OK;
    begin_section(w, &w->header.source, w->header.index.parts);
    w->header.flags &= ~(uint32_t)CHECKPOINT_LACKS_ROWS;
    for (int i = 0; w->header.seq && i < v->segment_count; i++) {
        const segment *s = v->segments[i];
        for (int slot = 0; rc == SQLITE_OK && slot < segment_count(s); slot++) {
            unpacking_row row = {segment_key(s, slot), segment_hash(s, slot)};
            if (approximate_find(a, row.key, row.hash, -1) < 0)
                w->header.flags |= CHECKPOINT_LACKS_ROWS;
            rc = write_bytes(w, &row, sizeof row);
        }
    }
    return rc == SQLITE_OK ? flush(w) : rc;
}

/* Remove the parts from one on, and the header. */
static int cut(const checkpoint_place *place, uint64_t from)
{
    sqlite3_stmt *parts;
    int rc = sql_prepare(place->db, checkpoint_sql(SQL_CHECKPOINT_CUT, place, ""), &parts);
    if (rc == SQLITE_OK) {
        sqlite3_bind_int64(parts, 1, (sqlite3_int64)from);
        sqlite3_step(parts);
    }
    int finalized = sqlite3_finalize(parts);
    return rc == SQLITE_OK ? finalized : rc;
}

/* How much of what is to be stored is there. */
typedef enum stored_extent { STORED_NOTHING, STORED_INDEX, STORED_ROWS, STORED_ALL } stored_extent;

/* The header comes last: without it nothing is stored. */
static int write_missing(writer *w, stored_extent there, const checkpoint_content *content)
{
    int rc = SQLITE_OK;
    if (there < STORED_INDEX)
        rc = write_index(w, content->index);
    if (rc == SQLITE_OK && there < STORED_ROWS)
        rc = write_rows(w, content->index, content->version);
    checkpoint_header h = w->header;
    return rc == SQLITE_OK ? put(w, 0, checkpoint_checksum(0, 0, &h, sizeof h), &h, sizeof h) : rc;
}

/* Write what is not there. `h` is the header to be, complete for what is. */
static int replace(const checkpoint_place *place, const checkpoint_header *h, stored_extent there,
                   const checkpoint_content *content, index_check *check, void *argument,
                   char **message)
{
    writer w = {.header = *h, .check = check, .argument = argument, .message = message};
    uint64_t keep = there < STORED_INDEX  ? 0
                    : there < STORED_ROWS ? h->index.parts
                                          : checkpoint_parts_of(h);
    w.part = sqlite3_malloc64(CHECKPOINT_PART_BYTES);
    int rc = w.part ? sql_execute(place->db,
                                  checkpoint_sql(SQL_CHECKPOINT_CREATE, place, "IF NOT EXISTS "))
                    : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = cut(place, keep + 1);
    if (rc == SQLITE_OK)
        rc = sql_prepare(place->db, checkpoint_sql(SQL_CHECKPOINT_PUT, place, ""), &w.put);
    if (rc == SQLITE_OK)
        rc = write_missing(&w, there, content);
    checkpoint_explain(place, rc, "write", message);
    sqlite3_finalize(w.put);
    sqlite3_free(w.part);
    if (rc == SQLITE_OK)
        approximate_note_stored(content->index, w.header.index.id);
    return rc;
}

/* The header that is wanted, but for what is learned by writing. */
static checkpoint_header header_of_content(const checkpoint_shape *shape,
                                           const checkpoint_content *content)
{
    checkpoint_header h = checkpoint_header_of(shape);
    const checkpoint_state *state = &content->state;
    if (state->log.seq == 0)
        return h;
    h.seq = state->log.seq;
    h.tag = state->log.tag;
    h.schema = state->log.schema;
    h.texts = state->texts;
    h.schema_version = state->schema_version;
    h.source_rows = (uint64_t)content->version->rows;
    h.fingerprint = content->version->fingerprint;
    return h;
}

/* Find out how much of it is stored, undamaged; *h is completed by that. */
static int find_stored(const checkpoint_place *place, checkpoint_header *h, const approximate *a,
                       index_check *check, void *argument, stored_extent *there, char **message)
{
    checkpoint_reader r = {
        .place = place, .check = check, .argument = argument, .message = message};
    const checkpoint_header *found = &r.header;
    *there = STORED_NOTHING;
    int rc = checkpoint_reader_open_wanted(&r, h);
    if (rc == SQLITE_OK && found->index.id == approximate_stored(a))
        rc = checkpoint_verify_index(&r);
    else if (rc == SQLITE_OK)
        rc = checkpoint_damaged(&r, "it is another index");
    if (rc == SQLITE_OK) {
        *there = STORED_INDEX;
        h->index = found->index;
        h->rows = found->rows;
        h->flags = found->flags;
        h->trained_misfit = found->trained_misfit;
        rc = checkpoint_verify_source(&r);
    }
    int same_rows = found->source_rows == h->source_rows && found->fingerprint == h->fingerprint;
    if (rc == SQLITE_OK && same_rows && !found->seq == !h->seq) {
        h->source = found->source;
        *there = memcmp(h, found, sizeof *h) == 0 ? STORED_ALL : STORED_ROWS;
    }
    rc = r.damage ? SQLITE_OK : checkpoint_explain(place, rc, "read", message);
    checkpoint_reader_close(&r);
    return rc;
}

int checkpoint_save(const checkpoint_place *place, const checkpoint_shape *shape,
                    const checkpoint_content *content, index_check *check, void *argument,
                    char **message)
{
    checkpoint_header h = header_of_content(shape, content);
    stored_extent there;
    sqlite3_int64 inserted = sqlite3_last_insert_rowid(place->db);
    int rc = find_stored(place, &h, content->index, check, argument, &there, message);
    if (rc == SQLITE_OK && there != STORED_ALL)
        rc = replace(place, &h, there, content, check, argument, message);
    sqlite3_set_last_insert_rowid(place->db, inserted);
    /* A read error, also one that SQLite keeps to itself, undoes the transaction. */
    if (rc == SQLITE_OK && sqlite3_txn_state(place->db, place->schema) != SQLITE_TXN_WRITE)
        rc = SQLITE_ABORT_ROLLBACK;
    return rc;
}
