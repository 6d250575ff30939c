/*
** The parts of a checkpoint (checkpoint.h), as their bytes are: the header, and the numbers that
** its other parts are checked by.
*/
#ifndef CHECKPOINT_FORMAT_H
#define CHECKPOINT_FORMAT_H

#include "approximate.h"
#include "registry.h"

enum {
    CHECKPOINT_FORMAT = 2,
    CHECKPOINT_PART_BYTES = 1 << 16,
    CHECKPOINT_HEADER_BYTES = 256,
    CHECKPOINT_MAGIC = 8,
    CHECKPOINT_FAISS_TEXT = 16
};

/* What a header begins with. */
extern const char checkpoint_magic[CHECKPOINT_MAGIC];

/* What an index must be of to be stored or loaded. */
typedef struct checkpoint_shape {
    const index_kind *kind;
    vector_metric metric;
    int dimension;
    int is_small; /* it is to be loaded as a small one (approximate.h) */
} checkpoint_shape;

/* A state of the source. */
typedef struct checkpoint_state {
    /* An entry of its log that was there before; seq 0: it is not known. No `run`. */
    live_state log;
    uint64_t texts; /* that made the source and its triggers, and what else must be the same */
    sqlite3_int64 schema_version; /* SQLite's */
} checkpoint_state;

/* A run of parts: the index, or the rows of the source. */
typedef struct checkpoint_section {
    uint64_t id; /* random */
    uint64_t bytes, parts;
    uint64_t chain; /* of their checksums */
} checkpoint_section;

/* The index has halves of hashes; it lacks some of the source's rows. */
enum checkpoint_flags { CHECKPOINT_IS_SMALL = 1, CHECKPOINT_LACKS_ROWS = 2 };

/* Part 0, as its bytes are. */
typedef struct checkpoint_header {
    char magic[CHECKPOINT_MAGIC];
    uint32_t format, metric, dimension, ef_construction;
    uint32_t flags;       /* checkpoint_flags */
    float trained_misfit; /* approximate_trained_misfit() */
    uint64_t rows;        /* of the index */
    checkpoint_section index, source;
    int64_t seq, tag; /* the state of the source; seq 0: unknown, no rows */
    uint64_t schema, texts;
    int64_t schema_version;
    uint64_t source_rows, fingerprint;
    char kind[INDEX_KIND_TEXT];
    char faiss[CHECKPOINT_FAISS_TEXT];
} checkpoint_header;

_Static_assert(sizeof(checkpoint_header) == CHECKPOINT_HEADER_BYTES, "a header has no gaps");

/* The header of an index of this shape: what must be the same for one that is stored to be used.
** The rest is 0. */
checkpoint_header checkpoint_header_of(const checkpoint_shape *shape);

/* The section that part `part`, from 1 on, belongs to; *first is the section's first part. */
const checkpoint_section *checkpoint_section_of(const checkpoint_header *h, uint64_t part,
                                                uint64_t *first);

/* How many parts there are behind the header. */
uint64_t checkpoint_parts_of(const checkpoint_header *h);

/* The checksum of a part, whose section has this id; the header's is 0. */
uint64_t checkpoint_checksum(uint64_t section_id, uint64_t part, const void *data, size_t bytes);

/* The checksum of a section's checksums, with one more; that of none is 0. */
uint64_t checkpoint_chain_on(uint64_t chain, uint64_t checksum);

#endif
