#include "definition.h"

#include "publication.h"

static char *copy_text(const char *text)
{
    return text ? sqlite3_mprintf("%s", text) : NULL;
}

int definition_copy(definition *to, const definition *from)
{
    *to = *from;
    to->schema = copy_text(from->schema);
    to->table = copy_text(from->table);
    to->id = copy_text(from->id);
    to->embedding = copy_text(from->embedding);
    publication_retain(to->through);
    if (to->schema && to->table && !to->id == !from->id && !to->embedding == !from->embedding)
        return SQLITE_OK;
    definition_clear(to);
    return SQLITE_NOMEM;
}

static int same_name(const char *a, const char *b)
{
    return a == b || (a && b && sqlite3_stricmp(a, b) == 0);
}

int definition_equal(const definition *a, const definition *b)
{
    return same_name(a->schema, b->schema) && same_name(a->table, b->table) &&
           same_name(a->id, b->id) && same_name(a->embedding, b->embedding) &&
           a->metric == b->metric && a->strict == b->strict && a->dimension == b->dimension &&
           a->not_live == b->not_live && a->low_memory == b->low_memory &&
           index_kind_equal(&a->kind, &b->kind) && a->effort.ef_search == b->effort.ef_search &&
           a->threads == b->threads && a->effort.nprobe == b->effort.nprobe &&
           a->effort.rerank == b->effort.rerank && a->through == b->through;
}

void definition_clear(definition *d)
{
    sqlite3_free(d->schema);
    sqlite3_free(d->table);
    sqlite3_free(d->id);
    sqlite3_free(d->embedding);
    publication_release(d->through);
    *d = (definition){0};
}
