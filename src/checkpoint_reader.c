#include "checkpoint_reader.h"

#include <stdarg.h>
#include <string.h>

#include "sql_text.h"
#include "unpacking.h"

enum { DIMENSION_MOST = INT32_MAX / VECTOR_COMPONENT_BYTES };

/* More than any file of SQLite's holds, so that sums of such numbers do not overflow. */
static const uint64_t BYTES_MOST = (uint64_t)1 << 50;

int checkpoint_damaged(checkpoint_reader *r, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    sqlite3_free(r->damage);
    r->damage = sqlite3_vmprintf(format, arguments);
    va_end(arguments);
    return r->damage ? SQLITE_CORRUPT_VTAB : SQLITE_NOMEM;
}

/* Look at the part that the statement stands on. */
static int take_part(checkpoint_reader *r)
{
    enum { PART, CHECKSUM, DATA };
    uint64_t first = 0, id = 0, length = CHECKPOINT_HEADER_BYTES;
    if (r->next) {
        const checkpoint_section *s = checkpoint_section_of(&r->header, r->next, &first);
        uint64_t left = s->bytes - (r->next - first) * CHECKPOINT_PART_BYTES;
        length = left < CHECKPOINT_PART_BYTES ? left : CHECKPOINT_PART_BYTES;
        id = s->id;
    }
    if ((uint64_t)sqlite3_column_int64(r->parts, PART) != r->next)
        return checkpoint_damaged(r, "part %llu is missing", r->next);
    const void *data = sqlite3_column_blob(r->parts, DATA);
    if (sqlite3_errcode(r->place->db) == SQLITE_NOMEM)
        return SQLITE_NOMEM;
    if (!data || (uint64_t)sqlite3_column_bytes(r->parts, DATA) != length)
        return checkpoint_damaged(r, "part %llu is not a BLOB of %llu bytes", r->next, length);
    uint64_t checksum = (uint64_t)sqlite3_column_int64(r->parts, CHECKSUM);
    if (checkpoint_checksum(id, r->next, data, (size_t)length) != checksum)
        return checkpoint_damaged(r, "part %llu does not fit its checksum", r->next);
    r->chain = r->next > first ? checkpoint_chain_on(r->chain, checksum)
                               : checkpoint_chain_on(0, checksum);
    r->data = data;
    r->bytes = (size_t)length;
    r->next++;
    return SQLITE_OK;
}

/* SQLITE_ROW, SQLITE_DONE, or an error. */
static int step(checkpoint_reader *r)
{
    enum { PRIMARY_CODE = 0xff };
    int rc = r->check ? r->check(r->argument, r->message) : SQLITE_OK;
    if (rc != SQLITE_OK)
        return rc;
    rc = sqlite3_step(r->parts);
    if ((rc & PRIMARY_CODE) == SQLITE_CORRUPT)
        return checkpoint_damaged(r, "part %llu cannot be read: %s", r->next,
                                  sqlite3_errmsg(r->place->db));
    return rc;
}

int checkpoint_read_part(checkpoint_reader *r)
{
    int rc = step(r);
    if (rc == SQLITE_ROW)
        return take_part(r);
    if (rc == SQLITE_DONE) {
        r->is_empty = r->next == 0;
        return checkpoint_damaged(r, "part %llu is missing", r->next);
    }
    return rc;
}

static int has_sense(const checkpoint_section *s)
{
    return s->bytes <= BYTES_MOST &&
           s->parts == (s->bytes + CHECKPOINT_PART_BYTES - 1) / CHECKPOINT_PART_BYTES;
}

/* Whether the header makes sense. One of another format is not looked into. */
static int check_sense(checkpoint_reader *r)
{
    const checkpoint_header *h = &r->header;
    if (memcmp(h->magic, checkpoint_magic, sizeof h->magic) != 0)
        return checkpoint_damaged(r, "it has no header");
    const uint64_t row_bytes = sizeof(unpacking_row);
    if (h->format == CHECKPOINT_FORMAT &&
        (h->dimension == 0 || h->dimension > DIMENSION_MOST || !has_sense(&h->index) ||
         !has_sense(&h->source) || h->rows >= INT32_MAX || h->rows * row_bytes > h->index.bytes ||
         h->source_rows >= INT32_MAX || h->source_rows * row_bytes != h->source.bytes))
        return checkpoint_damaged(r, "its header makes no sense");
    return SQLITE_OK;
}

/* Whether it is of an index as wanted. */
static int check_definition(checkpoint_reader *r, const checkpoint_header *wanted)
{
    const checkpoint_header *h = &r->header;
    if (h->format != wanted->format)
        return checkpoint_damaged(r, "it is of the format %u, not %u", h->format, wanted->format);
    if (memcmp(h->faiss, wanted->faiss, sizeof h->faiss) != 0)
        return checkpoint_damaged(r, "it was stored with FAISS %.*s, not %s", CHECKPOINT_FAISS_TEXT,
                                  h->faiss, wanted->faiss);
    int other_dimension = wanted->dimension && h->dimension != wanted->dimension;
    if (memcmp(h->kind, wanted->kind, sizeof h->kind) != 0 || h->metric != wanted->metric ||
        h->ef_construction != wanted->ef_construction || other_dimension)
        return checkpoint_damaged(r, "it is of another definition (%.*s, %u dimensions)",
                                  INDEX_KIND_TEXT, h->kind, h->dimension);
    return SQLITE_OK;
}

void checkpoint_seek(sqlite3_stmt *parts, sqlite3_int64 part)
{
    enum { BYTES_MOST_OF_ONE = 1, FROM };
    sqlite3_reset(parts);
    sqlite3_bind_int(parts, BYTES_MOST_OF_ONE, CHECKPOINT_PART_BYTES);
    sqlite3_bind_int64(parts, FROM, part);
}

/* Nothing stands before the header. */
static int read_header(checkpoint_reader *r)
{
    r->next = 0;
    checkpoint_seek(r->parts, INT64_MIN);
    int rc = checkpoint_read_part(r);
    if (rc == SQLITE_OK)
        memcpy(&r->header, r->data, sizeof r->header);
    return rc;
}

/* Begin to read. Where there is no table that may be read, nothing is stored. */
int checkpoint_reader_open(checkpoint_reader *r)
{
    char *sql = checkpoint_sql(SQL_CHECKPOINT_PARTS, r->place, "");
    int rc = sql_prepare(r->place->db, sql, &r->parts);
    r->is_empty = rc == SQLITE_ERROR || rc == SQLITE_AUTH;
    if (r->is_empty)
        return checkpoint_damaged(r, "there is no table");
    if (rc != SQLITE_OK)
        return rc;
    rc = read_header(r);
    return rc == SQLITE_OK ? check_sense(r) : rc;
}

int checkpoint_reader_open_wanted(checkpoint_reader *r, const checkpoint_header *wanted)
{
    int rc = checkpoint_reader_open(r);
    return rc == SQLITE_OK ? check_definition(r, wanted) : rc;
}

void checkpoint_reader_close(checkpoint_reader *r)
{
    sqlite3_finalize(r->parts);
    sqlite3_free(r->damage);
}

/* Read the parts that are left of the section up to this one. */
static int verify_section(checkpoint_reader *r, const checkpoint_section *of, uint64_t last,
                          const char *what)
{
    int rc = SQLITE_OK;
    while (rc == SQLITE_OK && r->next <= last)
        rc = checkpoint_read_part(r);
    if (rc == SQLITE_OK && of->parts && r->chain != of->chain)
        rc = checkpoint_damaged(r, "the parts of its %s do not fit the checksum of them all", what);
    return rc;
}

int checkpoint_verify_index(checkpoint_reader *r)
{
    return verify_section(r, &r->header.index, r->header.index.parts, "index");
}

int checkpoint_verify_source(checkpoint_reader *r)
{
    int rc = verify_section(r, &r->header.source, checkpoint_parts_of(&r->header), "rows");
    if (rc == SQLITE_OK && (rc = step(r)) == SQLITE_ROW)
        rc = checkpoint_damaged(r, "it has more parts than its header says");
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

int checkpoint_verify_rest(checkpoint_reader *r)
{
    int rc = r->next <= r->header.index.parts ? checkpoint_verify_index(r) : SQLITE_OK;
    return rc == SQLITE_OK ? checkpoint_verify_source(r) : rc;
}

int checkpoint_verify(const checkpoint_place *place, index_check *check, void *argument,
                      char **message)
{
    checkpoint_reader r = {
        .place = place, .check = check, .argument = argument, .message = message};
    int rc = checkpoint_reader_open(&r);
    if (rc == SQLITE_OK && r.header.format == CHECKPOINT_FORMAT)
        rc = checkpoint_verify_rest(&r);
    if (r.damage && r.is_empty)
        rc = SQLITE_OK;
    else if (r.damage)
        *message = sqlite3_mprintf("the index that %s.%s_checkpoint holds is damaged ('optimize' "
                                   "stores it again): %s",
                                   place->schema, place->table, r.damage);
    else
        rc = checkpoint_explain(place, rc, "read", message);
    checkpoint_reader_close(&r);
    return rc;
}

int checkpoint_exists(const checkpoint_place *place)
{
    sqlite3_stmt *parts;
    int rc = sql_prepare(place->db, checkpoint_sql(SQL_CHECKPOINT_PARTS, place, ""), &parts);
    if (rc == SQLITE_OK)
        checkpoint_seek(parts, INT64_MIN);
    int exists = rc == SQLITE_OK && sqlite3_step(parts) == SQLITE_ROW;
    sqlite3_finalize(parts);
    return exists;
}
