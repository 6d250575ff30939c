#include "stored.h"

#include <string.h>

#include "build.h"
#include "checkpoint_load.h"
#include "checkpoint_save.h"
#include "growth.h"
#include "sql_text.h"

const char STORED_COMPARED[] = "checkpoint", STORED_TRUSTED[] = "checkpoint and log";

/* The name of the n-th faiss table of this connection that the snapshot's definition may come
** from: names that are the caller's, since tables may go while one is read. */
static int find_table(const snapshot *s, int n, char **schema, char **table)
{
    *schema = *table = NULL;
    for (const connected_table *t = s->connection->tables; t && !*table; t = t->next) {
        if (!definition_equal(t->definition, &s->tracked->asked) || n-- > 0)
            continue;
        *schema = sqlite3_mprintf("%s", t->schema);
        *table = sqlite3_mprintf("%s", t->name);
        if (!*schema || !*table)
            return SQLITE_NOMEM;
    }
    return SQLITE_OK;
}

static checkpoint_shape shape_of(const snapshot *s)
{
    const index_version *v = s->version;
    return (checkpoint_shape){&s->tracked->asked.kind, v->metric, v->dimension,
                              v->keeping == INDEX_CODES};
}

/* What is done with a faiss table's checkpoint. *found ends the search for another one. */
typedef int place_visit(void *argument, const checkpoint_place *place, int *found, char **message);

/* Visit the faiss tables of the snapshot's definition, until something is found. */
static int visit_places(const snapshot *s, place_visit *visit, void *argument, char **message)
{
    int rc = SQLITE_OK, found = 0;
    for (int n = 0; rc == SQLITE_OK && !found; n++) {
        char *schema, *table;
        rc = find_table(s, n, &schema, &table);
        const checkpoint_place place = {s->connection->db, schema, table};
        found = !table; /* there are no more */
        if (rc == SQLITE_OK && !found)
            rc = visit(argument, &place, &found, message);
        sqlite3_free(schema);
        sqlite3_free(table);
    }
    return rc;
}

/* What an interrupted loading has left: any connection may go on with it. Nobody else has it
** meanwhile. */
static checkpoint_loading *take_loading(const snapshot *s)
{
    return registry_take_partial(s->tracked->shared, REGISTRY_LOADING);
}

static void keep_loading(const snapshot *s, checkpoint_loading *kept)
{
    if (kept)
        registry_keep_partial(s->tracked->shared, REGISTRY_LOADING, kept, checkpoint_loading_close);
}

void stored_settle(const snapshot *s)
{
    checkpoint_loading_close(take_loading(s));
}

typedef struct loading {
    snapshot *snapshot;
    checkpoint_shape shape;
    checkpoint_loading *kept;
    approximate **out;
} loading;

/* A place_visit. */
static int load(void *argument, const checkpoint_place *place, int *found, char **message)
{
    loading *l = argument;
    int rc =
        checkpoint_load(place, &l->shape, &l->kept, snapshot_poll, l->snapshot, l->out, message);
    *found = *l->out != NULL;
    return rc;
}

int stored_load(void *of, approximate **out, char **message)
{
    snapshot *s = of;
    loading l = {s, shape_of(s), take_loading(s), out};
    *out = NULL;
    int rc = visit_places(s, load, &l, message);
    if (rc == SQLITE_INTERRUPT)
        keep_loading(s, l.kept);
    else
        checkpoint_loading_close(l.kept);
    return rc;
}

/* ---- the state ---- */

/* What must be the same besides the source's own schema: the column that is indexed. */
static uint64_t with_column(const snapshot *s, uint64_t fingerprint)
{
    const char *column = s->source->embedding;
    return index_row_hash((int64_t)fingerprint, NULL, 0, column, (int)strlen(column));
}

/* The state that an entry of the log stands for. */
static checkpoint_state state_of(const snapshot *s, const live_state *entry)
{
    const change_log *log = &s->tracked->log;
    return (checkpoint_state){
        .log = {.seq = entry->seq, .tag = entry->tag, .schema = with_column(s, log->schema)},
        .texts = with_column(s, log->texts),
        .schema_version = log->schema_version};
}

/* Whether no trigger was away since then, and rows have the rowids that they had. */
static int has_same_schema(const snapshot *s, const checkpoint_state *then)
{
    const checkpoint_state now = state_of(s, &then->log);
    if (then->log.schema == now.log.schema)
        return 1;
    uint64_t changes = (uint64_t)now.schema_version - (uint64_t)then->schema_version;
    return s->source->has_integer_key && then->texts == now.texts && changes <= 1;
}

/* ---- a version ---- */

/* Restoring one. */
typedef struct restoration {
    snapshot *snapshot;
    const live_state *now;
    checkpoint_loading *kept;
    approximate *loaded;
    index_version **out;
    live_state *from;
} restoration;

/* A checkpoint_trust. */
static int trust(void *argument, const checkpoint_state *state, int dimension, int64_t rows,
                 int *trusted, char **message)
{
    const restoration *r = argument;
    const snapshot *s = r->snapshot;
    tracked_source *t = s->tracked;
    sqlite3 *db = s->connection->db;
    int demanded = t->asked.dimension;
    *trusted = 0;
    if (state->log.seq > r->now->seq || !has_same_schema(s, state) ||
        (demanded && demanded != dimension) ||
        !build_has_room(s, t->asked.low_memory, dimension, rows))
        return SQLITE_OK;
    int rc = change_log_has(db, &t->log, &t->log_reader, &state->log, trusted);
    if (rc == SQLITE_OK && *trusted)
        rc = change_log_follows(db, &t->log, &t->log_reader, state->log.seq, r->now->seq,
                                build_changes_most(rows), trusted);
    return rc == SQLITE_OK ? rc : source_failure(db, s->source, rc, message);
}

static int ask(void *argument, char **message)
{
    const restoration *r = argument;
    return snapshot_poll(r->snapshot, message);
}

/* Of a growth_loader: what was loaded with the version. */
static int hand_over(void *argument, approximate **out, char **message)
{
    restoration *r = argument;
    (void)message;
    *out = r->loaded;
    r->loaded = NULL;
    return SQLITE_OK;
}

/* A place_visit. */
static int restore(void *argument, const checkpoint_place *place, int *found, char **message)
{
    restoration *r = argument;
    index_version **out = r->out;
    const definition *asked = &r->snapshot->tracked->asked;
    const checkpoint_shape shape = {&asked->kind, asked->metric, asked->dimension,
                                    asked->low_memory};
    const growth_loader loader = {hand_over, r, STORED_TRUSTED};
    checkpoint_state state;
    int rc = checkpoint_restore(place, &shape, trust, &r->kept, ask, r, &r->loaded, out, &state,
                                message);
    if (rc != SQLITE_OK || !*out)
        return rc;
    *r->from = (live_state){
        .seq = state.log.seq, .tag = state.log.tag, .schema = r->snapshot->tracked->log.schema};
    rc = growth_restore(*out, &asked->kind, &loader, message);
    approximate_release(r->loaded);
    r->loaded = NULL;
    if (rc != SQLITE_OK) {
        index_release(*out);
        *out = NULL;
    }
    *found = *out != NULL;
    return rc;
}

int stored_version(snapshot *s, const live_state *now, index_version **out, live_state *from,
                   char **message)
{
    restoration r = {.snapshot = s, .now = now, .out = out, .from = from};
    *out = NULL;
    if (!*s->tracked->asked.kind.text || !s->source->rowid)
        return SQLITE_OK;
    r.kept = take_loading(s);
    int rc = visit_places(s, restore, &r, message);
    keep_loading(s, r.kept);
    return rc;
}

/* Rows to look up. */
enum { CHECKED_ROWS = 32 };

/* The next row of a version at a position or behind it that is not dead: its key and hash. 0 for
** none. */
static int find_row(const index_version *v, int64_t position, int64_t *key, uint64_t *hash)
{
    int i, slot;
    for (; position < v->slots; position++) {
        index_locate(v, position, &i, &slot);
        if (index_is_dead(v, i, slot))
            continue;
        *key = segment_key(v->segments[i], slot);
        *hash = segment_hash(v->segments[i], slot);
        return 1;
    }
    return 0;
}

int stored_check(snapshot *s, const index_version *v, char **message)
{
    const vector_reader reader = vector_reader_of(s);
    int rc = SQLITE_OK;
    float *read = sqlite3_malloc64(((sqlite3_uint64)v->dimension + 1) * sizeof *read);
    if (!read)
        return SQLITE_NOMEM;
    for (int64_t n = 0; rc == SQLITE_OK && n < CHECKED_ROWS && v->slots > 0; n++) {
        int64_t key;
        uint64_t hash;
        /* From the first to the last one. */
        if (find_row(v, (v->slots - 1) * n / (CHECKED_ROWS - 1), &key, &hash))
            rc = reader.read(reader.argument, &key, &hash, 1, v->dimension, read, message);
    }
    sqlite3_free(read);
    if (rc == SQLITE_MISMATCH)
        sqlite3_log(SQLITE_WARNING,
                    "faiss: %s.%s has rows that the change log does not tell of: all are compared",
                    s->source->schema, s->source->table);
    return rc;
}

/* ---- storing ---- */

/* Whether the version can be told row by row, in order. */
static int is_in_order(const index_version *v)
{
    int in_order = v->main_count == v->segment_count && !v->kept_values && !v->left_out;
    for (int i = 0; in_order && i < v->segment_count; i++)
        in_order = !v->dead[i];
    return in_order;
}

int stored_save(snapshot *s, const char *schema, const char *table, const live_state *past,
                char **message)
{
    const tracked_source *t = s->tracked;
    /* A table in temp goes with its connection. */
    if (!*t->asked.kind.text || sqlite3_stricmp(schema, "temp") == 0)
        return SQLITE_OK;
    checkpoint_content content = {.index = growth_current(s->version), .version = s->version};
    if (!content.index)
        return SQLITE_OK;
    int is_live = t->log.table && !t->asked.not_live && s->source->rowid && past->seq;
    if (is_live && is_in_order(s->version))
        content.state = state_of(s, past);
    const checkpoint_place place = {s->connection->db, schema, table};
    const checkpoint_shape shape = shape_of(s);
    int rc = checkpoint_save(&place, &shape, &content, snapshot_poll, s, message);
    approximate_release(content.index);
    return rc;
}
