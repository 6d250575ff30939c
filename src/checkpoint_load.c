#include "checkpoint_load.h"

#include <string.h>

#include "checkpoint_reader.h"
#include "restored.h"
#include "unpacking.h"

/* How far it has come: what an interrupt leaves is gone on with where the header is the same, whose
** random numbers are in the checksums of all parts that belong to it. */
struct checkpoint_loading {
    checkpoint_header header;
    int is_small, with_rows;
    uint64_t next, chain; /* as in a reader */
    unpacking *unpacking; /* when all is verified */
    int is_done;
    approximate *index;
    index_version *version; /* NULL: it is not wanted, or its rows do not fit */
    char *damage;           /* why the index, or the version, cannot be used */
};

void checkpoint_loading_close(void *loading)
{
    checkpoint_loading *l = loading;
    if (!l)
        return;
    unpacking_close(l->unpacking);
    approximate_release(l->index);
    index_release(l->version);
    sqlite3_free(l->damage);
    sqlite3_free(l);
}

/* Whether that is a loading of what the reader has found. */
static int goes_on(const checkpoint_loading *l, const checkpoint_reader *r,
                   const checkpoint_shape *shape, int with_rows)
{
    return l && memcmp(&l->header, &r->header, sizeof l->header) == 0 &&
           l->is_small == shape->is_small && (l->with_rows || !with_rows);
}

/* Go on with what was left of it, or begin. */
static int loading_open(const checkpoint_reader *r, const checkpoint_shape *shape, int with_rows,
                        checkpoint_loading **kept)
{
    if (goes_on(*kept, r, shape, with_rows))
        return SQLITE_OK;
    checkpoint_loading_close(*kept);
    checkpoint_loading *l = *kept = sqlite3_malloc64(sizeof *l);
    if (!l)
        return SQLITE_NOMEM;
    memset(l, 0, sizeof *l);
    l->header = r->header;
    l->is_small = shape->is_small;
    l->with_rows = with_rows;
    l->next = 1;
    return SQLITE_OK;
}

/* Stand before the index again, which is verified. */
static int begin_unpacking(checkpoint_reader *r, checkpoint_loading *l,
                           const checkpoint_shape *shape)
{
    const checkpoint_header *h = &l->header;
    const unpacking_form form = {.kind = *shape->kind,
                                 .metric = shape->metric,
                                 .dimension = (int)h->dimension,
                                 .is_small = shape->is_small || h->flags & CHECKPOINT_IS_SMALL,
                                 .keeping = shape->is_small ? INDEX_CODES : INDEX_VECTORS,
                                 .rows = (int64_t)h->rows,
                                 .index_bytes = h->index.bytes,
                                 .stored = h->index.id,
                                 .trained_misfit = h->trained_misfit,
                                 .source_rows = l->with_rows ? (int64_t)h->source_rows : 0,
                                 .fingerprint = h->fingerprint};
    r->next = 1;
    checkpoint_seek(r->parts, 1);
    return unpacking_open(&form, &l->unpacking);
}

/* Read all that is left of what is wanted, as FAISS does. */
static int unpack(checkpoint_reader *r, checkpoint_loading *l)
{
    uint64_t last = l->with_rows ? checkpoint_parts_of(&l->header) : l->header.index.parts;
    int rc = SQLITE_OK, has_all = 0;
    while (rc == SQLITE_OK && r->next <= last && !has_all) {
        rc = checkpoint_read_part(r);
        if (rc == SQLITE_OK)
            has_all = unpacking_take(l->unpacking, r->data, r->bytes);
    }
    if (rc != SQLITE_OK)
        return rc;
    char *why;
    rc = unpacking_finish(l->unpacking, &l->index, &l->version, &why);
    if (rc == SQLITE_CORRUPT_VTAB)
        rc = checkpoint_damaged(r, "%s", why);
    sqlite3_free(why);
    return rc;
}

/* Do all that is left, or as much as there is time for: everything is verified before FAISS reads
** it. SQLITE_CORRUPT_VTAB where the index, or its version, cannot be used. */
static int load(checkpoint_reader *r, const checkpoint_shape *shape, checkpoint_loading *l)
{
    int rc = SQLITE_OK;
    if (l->is_done)
        return l->damage ? checkpoint_damaged(r, "%s", l->damage) : SQLITE_OK;
    r->next = l->next;
    r->chain = l->chain;
    checkpoint_seek(r->parts, (sqlite3_int64)r->next);
    if (!l->unpacking) {
        rc = checkpoint_verify_rest(r);
        if (rc == SQLITE_OK)
            rc = begin_unpacking(r, l, shape);
    }
    if (rc == SQLITE_OK)
        rc = unpack(r, l);
    l->next = r->next;
    l->chain = r->chain;
    if (rc != SQLITE_OK && !r->damage)
        return rc;
    unpacking_close(l->unpacking);
    l->unpacking = NULL;
    l->damage = r->damage ? sqlite3_mprintf("%s", r->damage) : NULL;
    l->is_done = !r->damage || l->damage;
    if (l->is_done)
        return rc;
    l->next = 1;
    return SQLITE_NOMEM;
}

/* What of it keeps the version from being had of it, whatever the state. */
static int has_rows(const checkpoint_header *h, const checkpoint_shape *shape)
{
    index_keeping keeping = shape->is_small ? INDEX_CODES : INDEX_VECTORS;
    int lacks =
        keeping == INDEX_VECTORS && h->flags & (CHECKPOINT_IS_SMALL | CHECKPOINT_LACKS_ROWS);
    return h->seq > 0 && h->source_rows > 0 && !lacks &&
           restored_possible(shape->kind, keeping, (int64_t)h->source_rows);
}

static checkpoint_state state_of(const checkpoint_header *h)
{
    return (checkpoint_state){.log = {.seq = h->seq, .tag = h->tag, .schema = h->schema},
                              .texts = h->texts,
                              .schema_version = h->schema_version};
}

/* Say in SQLite's error log what is wrong, and what is done about it. */
static void log_damage(const checkpoint_reader *r, const char *remedy)
{
    if (r->damage && !r->is_empty)
        sqlite3_log(SQLITE_CORRUPT_VTAB, "faiss: the index that %s.%s_checkpoint holds is %s: %s",
                    r->place->schema, r->place->table, remedy, r->damage);
}

/* Free what is left of a loading that nothing can be made of. */
static void give_up(checkpoint_loading **kept)
{
    checkpoint_loading_close(*kept);
    *kept = NULL;
}

int checkpoint_load(const checkpoint_place *place, const checkpoint_shape *shape,
                    checkpoint_loading **kept, index_check *check, void *argument,
                    approximate **out, char **message)
{
    *out = NULL;
    checkpoint_reader r = {
        .place = place, .check = check, .argument = argument, .message = message};
    checkpoint_header wanted = checkpoint_header_of(shape);
    int rc = checkpoint_reader_open_wanted(&r, &wanted), is_found = rc == SQLITE_OK;
    if (rc == SQLITE_OK)
        rc = loading_open(&r, shape, 0, kept);
    if (rc == SQLITE_OK)
        rc = load(&r, shape, *kept);
    /* The rows that are stored with it need not fit. */
    if (is_found && (rc == SQLITE_OK || r.damage) && (*kept)->index)
        *out = approximate_retain((*kept)->index);
    else
        log_damage(&r, "built anew");
    if (is_found && rc != SQLITE_INTERRUPT)
        give_up(kept);
    rc = r.damage ? SQLITE_OK : checkpoint_explain(place, rc, "read", message);
    checkpoint_reader_close(&r);
    return rc;
}

/* Whether it is asked for, since the state says enough. */
static int asks_for_it(checkpoint_reader *r, const checkpoint_shape *shape, checkpoint_trust *trust,
                       checkpoint_state *state, int *trusted)
{
    *trusted = 0;
    if (!has_rows(&r->header, shape))
        return SQLITE_OK;
    *state = state_of(&r->header);
    return trust(r->argument, state, (int)r->header.dimension, (int64_t)r->header.source_rows,
                 trusted, r->message);
}

/* What is wrong with the index is for checkpoint_load() to say, which is asked next. */
int checkpoint_restore(const checkpoint_place *place, const checkpoint_shape *shape,
                       checkpoint_trust *trust, checkpoint_loading **kept, index_check *check,
                       void *argument, approximate **out, index_version **version,
                       checkpoint_state *state, char **message)
{
    *out = NULL;
    *version = NULL;
    checkpoint_reader r = {
        .place = place, .check = check, .argument = argument, .message = message};
    checkpoint_header wanted = checkpoint_header_of(shape);
    int trusted = 0, was_done = 0, rc = checkpoint_reader_open_wanted(&r, &wanted);
    if (rc == SQLITE_OK)
        rc = asks_for_it(&r, shape, trust, state, &trusted);
    if (rc == SQLITE_OK && trusted)
        rc = loading_open(&r, shape, 1, kept);
    if (rc == SQLITE_OK && trusted) {
        was_done = (*kept)->is_done;
        rc = load(&r, shape, *kept);
        if (rc == SQLITE_OK) {
            *out = approximate_retain((*kept)->index);
            *version = index_retain((*kept)->version);
        } else if ((*kept)->index && !was_done) {
            log_damage(&r, "compared with the table");
        }
    }
    if (rc != SQLITE_OK && rc != SQLITE_INTERRUPT && !r.damage)
        give_up(kept);
    rc = r.damage ? SQLITE_OK : checkpoint_explain(place, rc, "read", message);
    checkpoint_reader_close(&r);
    return rc;
}
