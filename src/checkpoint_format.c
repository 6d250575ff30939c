#include "checkpoint_format.h"

#include <string.h>

#include "faiss_call.h"

const char checkpoint_magic[CHECKPOINT_MAGIC] = "faissckp";

const checkpoint_section *checkpoint_section_of(const checkpoint_header *h, uint64_t part,
                                                uint64_t *first)
{
    int in_index = part <= h->index.parts;
    *first = in_index ? 1 : h->index.parts + 1;
    return in_index ? &h->index : &h->source;
}

uint64_t checkpoint_parts_of(const checkpoint_header *h)
{
    return h->index.parts + h->source.parts;
}

uint64_t checkpoint_checksum(uint64_t section_id, uint64_t part, const void *data, size_t bytes)
{
    return index_row_hash((int64_t)(section_id + part), NULL, 0, data, (int)bytes);
}

uint64_t checkpoint_chain_on(uint64_t chain, uint64_t checksum)
{
    return index_row_hash((int64_t)chain, NULL, 0, &checksum, sizeof checksum);
}

checkpoint_header checkpoint_header_of(const checkpoint_shape *shape)
{
    checkpoint_header h;
    memset(&h, 0, sizeof h);
    memcpy(h.magic, checkpoint_magic, sizeof h.magic);
    h.format = CHECKPOINT_FORMAT;
    h.metric = (uint32_t)shape->metric;
    h.dimension = (uint32_t)shape->dimension;
    h.ef_construction = (uint32_t)shape->kind->ef_construction;
    sqlite3_snprintf(sizeof h.kind, h.kind, "%s", shape->kind->text);
    sqlite3_snprintf(sizeof h.faiss, h.faiss, "%s", faiss_call_version());
    return h;
}
