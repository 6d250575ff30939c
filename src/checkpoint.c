#include "checkpoint.h"

#include <stdarg.h>
#include <string.h>

#include "message.h"
#include "sql_text.h"

enum { FORMAT_VERSION = 1, PART_BYTES = 1 << 16, HEADER_BYTES = 168, FAISS_VERSION_TEXT = 16 };

/* More than any file of SQLite's holds, so that sums of such numbers do not overflow. */
static const uint64_t BYTES_MOST = (uint64_t)1 << 50;

static const char magic[8] = "faissckp";

/* Part 0, as its bytes are. */
typedef struct header {
    char magic[sizeof magic];
    uint32_t format, metric, dimension, ef_construction;
    uint32_t is_small, unused; /* halves of hashes */
    uint64_t id;               /* random */
    uint64_t rows;             /* of the index */
    uint64_t bytes;            /* of all parts from 1 on */
    uint64_t parts;            /* from 1 on */
    uint64_t chain;            /* of their checksums */
    char kind[INDEX_KIND_TEXT];
    char faiss[FAISS_VERSION_TEXT];
} header;

_Static_assert(sizeof(header) == HEADER_BYTES, "a header has no gaps");

static uint64_t checksum_of(const header *h, uint64_t part, const void *data, size_t bytes)
{
    uint64_t seed = part ? h->id + part : 0;
    return index_row_hash((int64_t)seed, NULL, 0, data, (int)bytes);
}

static uint64_t chain_on(uint64_t chain, uint64_t checksum)
{
    return index_row_hash((int64_t)chain, NULL, 0, &checksum, sizeof checksum);
}

/* What must be the same for an index to be used; the rest is 0. */
static header header_of(const checkpoint_shape *shape)
{
    header h;
    memset(&h, 0, sizeof h);
    memcpy(h.magic, magic, sizeof magic);
    h.format = FORMAT_VERSION;
    h.metric = (uint32_t)shape->metric;
    h.dimension = (uint32_t)shape->dimension;
    h.ef_construction = (uint32_t)shape->kind->ef_construction;
    sqlite3_snprintf(sizeof h.kind, h.kind, "%s", shape->kind->text);
    sqlite3_snprintf(sizeof h.faiss, h.faiss, "%s", segment_faiss_version());
    return h;
}

/* ---- the shadow table ---- */

static char *name_of(const char *table)
{
    return sqlite3_mprintf("%s_checkpoint", table);
}

static char *checkpoint_sql(const char *template, const checkpoint_place *place, const char *unless)
{
    char *name = name_of(place->table);
    char *quoted = name ? sql_quote_table(place->schema, name) : NULL;
    char *text = sql_text(template, "checkpoint", quoted, "unless", unless, NULL);
    sqlite3_free(name);
    sqlite3_free(quoted);
    return text;
}

static int explain(const checkpoint_place *place, int rc, const char *what, char **message)
{
    if (rc != SQLITE_OK && rc != SQLITE_NOMEM && rc != SQLITE_INTERRUPT && !*message)
        *message = sqlite3_mprintf("cannot %s the shadow table %s.%s_checkpoint: %s", what,
                                   place->schema, place->table, sqlite3_errmsg(place->db));
    return rc;
}

int checkpoint_create(const checkpoint_place *place, char **message)
{
    int rc = sql_execute(place->db, checkpoint_sql(SQL_CHECKPOINT_CREATE, place, ""));
    return explain(place, rc, "make", message);
}

int checkpoint_drop(const checkpoint_place *place)
{
    return sql_execute(place->db, checkpoint_sql(SQL_CHECKPOINT_DROP, place, ""));
}

/* SQLITE_ROW or SQLITE_DONE, or an error. */
static int find_table(const checkpoint_place *place)
{
    char *name = name_of(place->table), *schema = sql_quote(place->schema);
    sqlite3_stmt *found;
    int rc = name ? sql_prepare(place->db, sql_text(SQL_CHECKPOINT_EXISTS, "schema", schema, NULL),
                                &found)
                  : SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
        sqlite3_bind_text(found, 1, name, -1, SQLITE_STATIC);
        rc = sqlite3_step(found);
        int finalized = sqlite3_finalize(found);
        rc = finalized == SQLITE_OK ? rc : finalized;
    }
    sqlite3_free(name);
    sqlite3_free(schema);
    return rc;
}

int checkpoint_rename(const checkpoint_place *place, const char *table)
{
    int rc = find_table(place);
    if (rc != SQLITE_ROW)
        return rc == SQLITE_DONE ? SQLITE_OK : rc;
    char *name = name_of(place->table), *to = name_of(table);
    char *quoted = name ? sql_quote_table(place->schema, name) : NULL;
    char *renamed = to ? sql_quote(to) : NULL;
    rc = sql_execute(place->db,
                     sql_text(SQL_CHECKPOINT_RENAME, "checkpoint", quoted, "name", renamed, NULL));
    sqlite3_free(name);
    sqlite3_free(to);
    sqlite3_free(quoted);
    sqlite3_free(renamed);
    return rc;
}

/* ---- reading ---- */

typedef struct reader {
    const checkpoint_place *place;
    sqlite3_stmt *parts;
    header header;
    uint64_t next, chain;    /* the part to come; of the checksums so far */
    const unsigned char *at; /* in the part at hand */
    size_t left;
    int is_empty; /* nothing is stored */
    char *damage; /* why it cannot be used */
    index_check *check;
    void *argument;
    char **message;
} reader;

/* It cannot be used. SQLITE_CORRUPT_VTAB, or SQLITE_NOMEM. */
static int damaged(reader *r, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    sqlite3_free(r->damage);
    r->damage = sqlite3_vmprintf(format, arguments);
    va_end(arguments);
    return r->damage ? SQLITE_CORRUPT_VTAB : SQLITE_NOMEM;
}

/* The length that the part to come must have. */
static size_t part_length(const reader *r)
{
    if (r->next == 0)
        return HEADER_BYTES;
    uint64_t before = (r->next - 1) * PART_BYTES, left = r->header.bytes - before;
    return left < PART_BYTES ? (size_t)left : PART_BYTES;
}

/* Look at the part that the statement stands on. */
static int take_part(reader *r)
{
    enum { PART, CHECKSUM, DATA };
    size_t length = part_length(r);
    if ((uint64_t)sqlite3_column_int64(r->parts, PART) != r->next)
        return damaged(r, "part %llu is missing", r->next);
    const void *data = sqlite3_column_blob(r->parts, DATA);
    if (sqlite3_errcode(r->place->db) == SQLITE_NOMEM)
        return SQLITE_NOMEM;
    if (!data || (size_t)sqlite3_column_bytes(r->parts, DATA) != length)
        return damaged(r, "part %llu is not a BLOB of %llu bytes", r->next, (uint64_t)length);
    uint64_t checksum = (uint64_t)sqlite3_column_int64(r->parts, CHECKSUM);
    if (checksum_of(&r->header, r->next, data, length) != checksum)
        return damaged(r, "part %llu does not fit its checksum", r->next);
    r->chain = r->next ? chain_on(r->chain, checksum) : 0;
    r->at = data;
    r->left = length;
    r->next++;
    return SQLITE_OK;
}

/* SQLITE_ROW, SQLITE_DONE, or an error. */
static int step(reader *r)
{
    enum { PRIMARY_CODE = 0xff };
    int rc = r->check ? r->check(r->argument, r->message) : SQLITE_OK;
    if (rc != SQLITE_OK)
        return rc;
    rc = sqlite3_step(r->parts);
    if ((rc & PRIMARY_CODE) == SQLITE_CORRUPT)
        return damaged(r, "part %llu cannot be read: %s", r->next, sqlite3_errmsg(r->place->db));
    return rc;
}

static int read_part(reader *r)
{
    int rc = step(r);
    if (rc == SQLITE_ROW)
        return take_part(r);
    if (rc == SQLITE_DONE) {
        r->is_empty = r->next == 0;
        return damaged(r, "part %llu is missing", r->next);
    }
    return rc;
}

/* Whether the header makes sense. One of another format is not looked into. */
static int check_sense(reader *r)
{
    const header *h = &r->header;
    if (memcmp(h->magic, magic, sizeof h->magic) != 0)
        return damaged(r, "it has no header");
    const uint64_t row_bytes = sizeof(int64_t) + sizeof(uint64_t);
    if (h->format == FORMAT_VERSION &&
        (h->bytes > BYTES_MOST || h->rows >= INT32_MAX || h->rows * row_bytes > h->bytes ||
         h->parts != (h->bytes + PART_BYTES - 1) / PART_BYTES))
        return damaged(r, "its header makes no sense");
    return SQLITE_OK;
}

/* Whether it is of an index as wanted. */
static int check_definition(reader *r, const header *wanted)
{
    const header *h = &r->header;
    if (h->format != wanted->format)
        return damaged(r, "it is of the format %u, not %u", h->format, wanted->format);
    if (memcmp(h->faiss, wanted->faiss, sizeof h->faiss) != 0)
        return damaged(r, "it was stored with FAISS %.*s, not %s", FAISS_VERSION_TEXT, h->faiss,
                       wanted->faiss);
    if (memcmp(h->kind, wanted->kind, sizeof h->kind) != 0 || h->metric != wanted->metric ||
        h->dimension != wanted->dimension || h->ef_construction != wanted->ef_construction)
        return damaged(r, "it is of another definition (%.*s, %u dimensions)", INDEX_KIND_TEXT,
                       h->kind, h->dimension);
    return SQLITE_OK;
}

static int read_header(reader *r)
{
    r->next = 0;
    int rc = read_part(r);
    if (rc == SQLITE_OK)
        memcpy(&r->header, r->at, sizeof r->header);
    r->left = 0;
    return rc;
}

/* Begin to read. Where there is no table that may be read, nothing is stored. */
static int reader_open(reader *r)
{
    char *sql = checkpoint_sql(SQL_CHECKPOINT_PARTS, r->place, "");
    int rc = sql_prepare(r->place->db, sql, &r->parts);
    r->is_empty = rc == SQLITE_ERROR || rc == SQLITE_AUTH;
    if (r->is_empty)
        return damaged(r, "there is no table");
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int(r->parts, 1, PART_BYTES);
    rc = read_header(r);
    return rc == SQLITE_OK ? check_sense(r) : rc;
}

/* Begin to read an index as wanted. */
static int reader_open_wanted(reader *r, const header *wanted)
{
    int rc = reader_open(r);
    return rc == SQLITE_OK ? check_definition(r, wanted) : rc;
}

/* Read it all once, then stand before part 1 again. */
static int verify(reader *r)
{
    uint64_t id = r->header.id;
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && r->next <= r->header.parts)
        rc = read_part(r);
    if (rc == SQLITE_OK && r->chain != r->header.chain)
        rc = damaged(r, "its parts do not fit the checksum of them all");
    if (rc == SQLITE_OK && (rc = step(r)) == SQLITE_ROW)
        rc = damaged(r, "it has more parts than its header says");
    rc = rc == SQLITE_DONE ? SQLITE_OK : rc;
    sqlite3_reset(r->parts);
    if (rc == SQLITE_OK)
        rc = read_header(r);
    if (rc == SQLITE_OK && r->header.id != id)
        rc = damaged(r, "it was replaced meanwhile");
    return rc;
}

/* An approximate_read. */
static int read_bytes(void *argument, void *bytes, size_t count)
{
    reader *r = argument;
    unsigned char *to = bytes;
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && count > 0) {
        if (r->left == 0 && r->next > r->header.parts)
            return damaged(r, "it ends too early");
        if (r->left == 0 && (rc = read_part(r)) != SQLITE_OK)
            return rc;
        size_t n = count < r->left ? count : r->left;
        memcpy(to, r->at, n);
        to += n;
        count -= n;
        r->at += n;
        r->left -= n;
    }
    return rc;
}

/* FAISS reads what was verified. */
static int load(reader *r, const checkpoint_shape *shape, approximate **out)
{
    char *why = NULL;
    int rc = approximate_load(shape->kind, shape->metric, shape->dimension,
                              shape->is_small || r->header.is_small, (int64_t)r->header.rows,
                              r->header.id, read_bytes, r, out, &why);
    if (rc == SQLITE_ERROR)
        rc = damaged(r, "%s", why ? why : "FAISS does not read it");
    sqlite3_free(why);
    if (rc == SQLITE_OK && (r->left > 0 || r->next <= r->header.parts))
        rc = damaged(r, "it has bytes that FAISS does not read");
    return rc;
}

static void reader_close(reader *r)
{
    sqlite3_finalize(r->parts);
    sqlite3_free(r->damage);
}

int checkpoint_load(const checkpoint_place *place, const checkpoint_shape *shape,
                    index_check *check, void *argument, approximate **out, char **message)
{
    *out = NULL;
    reader r = {.place = place, .check = check, .argument = argument, .message = message};
    header wanted = header_of(shape);
    int rc = reader_open_wanted(&r, &wanted);
    if (rc == SQLITE_OK)
        rc = verify(&r);
    if (rc == SQLITE_OK)
        rc = load(&r, shape, out);
    if (rc != SQLITE_OK) {
        approximate_release(*out);
        *out = NULL;
    }
    if (r.damage && !r.is_empty)
        sqlite3_log(SQLITE_CORRUPT_VTAB,
                    "faiss: the index that %s.%s_checkpoint holds is built anew: %s", place->schema,
                    place->table, r.damage);
    rc = r.damage ? SQLITE_OK : explain(place, rc, "read", message);
    reader_close(&r);
    return rc;
}

/* Whether just this index is stored, undamaged. */
static int is_stored(const checkpoint_place *place, const header *wanted, const approximate *a,
                     index_check *check, void *argument, int *stored, char **message)
{
    reader r = {.place = place, .check = check, .argument = argument, .message = message};
    int rc = reader_open_wanted(&r, wanted);
    *stored = rc == SQLITE_OK && r.header.id == approximate_stored(a);
    if (*stored)
        rc = verify(&r);
    *stored = *stored && rc == SQLITE_OK;
    rc = r.damage ? SQLITE_OK : explain(place, rc, "read", message);
    reader_close(&r);
    return rc;
}

int checkpoint_verify(const checkpoint_place *place, index_check *check, void *argument,
                      char **message)
{
    reader r = {.place = place, .check = check, .argument = argument, .message = message};
    int rc = reader_open(&r);
    if (rc == SQLITE_OK && r.header.format == FORMAT_VERSION)
        rc = verify(&r);
    if (r.damage && r.is_empty)
        rc = SQLITE_OK;
    else if (r.damage)
        *message = sqlite3_mprintf("the index that %s.%s_checkpoint holds is damaged ('optimize' "
                                   "stores it again): %s",
                                   place->schema, place->table, r.damage);
    else
        rc = explain(place, rc, "read", message);
    reader_close(&r);
    return rc;
}

int checkpoint_exists(const checkpoint_place *place)
{
    sqlite3_stmt *parts;
    int rc = sql_prepare(place->db, checkpoint_sql(SQL_CHECKPOINT_PARTS, place, ""), &parts);
    int exists = rc == SQLITE_OK && sqlite3_step(parts) == SQLITE_ROW;
    sqlite3_finalize(parts);
    return exists;
}

/* ---- writing ---- */

typedef struct writer {
    sqlite3_stmt *put;
    header header;
    unsigned char *part; /* what is to be written next */
    size_t used;
    index_check *check;
    void *argument;
    char **message;
} writer;

static int put(writer *w, uint64_t part, const void *data, size_t bytes)
{
    enum { PART = 1, CHECKSUM, DATA };
    uint64_t checksum = checksum_of(&w->header, part, data, bytes);
    w->header.chain = chain_on(w->header.chain, checksum);
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
    int rc = put(w, ++w->header.parts, w->part, w->used);
    w->header.bytes += w->used;
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
        size_t room = PART_BYTES - w->used, n = count < room ? count : room;
        memcpy(w->part + w->used, from, n);
        from += n;
        count -= n;
        w->used += n;
        if (w->used == PART_BYTES)
            rc = flush(w);
    }
    return rc;
}

/* The header comes last: without it nothing is stored. */
static int write_all(writer *w, const approximate *a)
{
    int rc = approximate_save(a, write_bytes, w, w->message);
    if (rc == SQLITE_OK)
        rc = flush(w);
    if (rc != SQLITE_OK)
        return rc;
    header h = w->header;
    return put(w, 0, &h, sizeof h);
}

static int replace(const checkpoint_place *place, const header *wanted, approximate *a,
                   index_check *check, void *argument, char **message)
{
    writer w = {.header = *wanted, .check = check, .argument = argument, .message = message};
    sqlite3_randomness(sizeof w.header.id, &w.header.id);
    w.header.rows = (uint64_t)approximate_count(a);
    w.header.is_small = (uint32_t)approximate_is_small(a);
    w.part = sqlite3_malloc64(PART_BYTES);
    int rc = w.part ? sql_execute(place->db,
                                  checkpoint_sql(SQL_CHECKPOINT_CREATE, place, "IF NOT EXISTS "))
                    : SQLITE_NOMEM;
    if (rc == SQLITE_OK)
        rc = sql_execute(place->db, checkpoint_sql(SQL_CHECKPOINT_CLEAR, place, ""));
    if (rc == SQLITE_OK)
        rc = sql_prepare(place->db, checkpoint_sql(SQL_CHECKPOINT_PUT, place, ""), &w.put);
    if (rc == SQLITE_OK)
        rc = write_all(&w, a);
    explain(place, rc, "write", message);
    sqlite3_finalize(w.put);
    sqlite3_free(w.part);
    if (rc == SQLITE_OK)
        approximate_note_stored(a, w.header.id);
    return rc;
}

int checkpoint_save(const checkpoint_place *place, const checkpoint_shape *shape, approximate *a,
                    index_check *check, void *argument, char **message)
{
    header wanted = header_of(shape);
    sqlite3_int64 inserted = sqlite3_last_insert_rowid(place->db);
    int stored, rc = is_stored(place, &wanted, a, check, argument, &stored, message);
    if (rc == SQLITE_OK && !stored)
        rc = replace(place, &wanted, a, check, argument, message);
    sqlite3_set_last_insert_rowid(place->db, inserted);
    /* A read error, also one that SQLite keeps to itself, undoes the transaction. */
    if (rc == SQLITE_OK && sqlite3_txn_state(place->db, place->schema) != SQLITE_TXN_WRITE)
        rc = SQLITE_ABORT_ROLLBACK;
    return rc;
}
