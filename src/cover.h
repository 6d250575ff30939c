/*
** What an approximate index has of one version: which of its rows are there, and which
** of the version's rows it lacks, so that these are scored one by one.
**
** A row is known by its key and hash. Segments never change, so that what is known of
** one holds in all versions that have it: making the coverage of a version costs what
** its segments differ from those of the one before.
*/
#ifndef COVER_H
#define COVER_H

#include "approximate.h"

/* Where the rows of one segment are. */
typedef struct cover {
    atomic_int references;
    int missing_count;
    int32_t *missing; /* slots of those that are not there, in order */
    int32_t first;    /* of the slots' places, where they are in one row … */
    int32_t *places;  /* … as in a fresh index; else of each slot, -1 where it is not there */
} cover;

/* The place of a slot, -1 where it is not there. */
static inline int32_t cover_place(const cover *c, int slot)
{
    return c->places ? c->places[slot] : c->first + slot;
}

/* Immutable once made, shared by reference. */
typedef struct coverage {
    atomic_int references;
    approximate *of;
    int segment_count;
    segment **segments; /* of the version, with its dead slots: to tell what differs */
    dead_slots **dead;
    cover **covers;      /* of each segment */
    uint64_t *allowed;   /* a bit for each place that is a row of the version */
    int64_t covered;     /* such places */
    int64_t missing;     /* rows of the version without a place */
    uint32_t *positions; /* of each place; only where rows have no keys, else NULL */
} coverage;

/* Make it, where `former` (or NULL) is that of another version. SQLITE_OK or SQLITE_NOMEM. */
int coverage_open(const index_version *v, approximate *a, const coverage *former, coverage **out);

/* Take and give back a reference; NULL is none. */
coverage *coverage_retain(coverage *c);
void coverage_release(coverage *c);

/* Bytes of memory, covers that others share included. */
size_t coverage_bytes(const coverage *c);

/* The row of the version at a place that is one. */
int64_t coverage_position(const coverage *c, const index_version *v, int64_t place);

#endif
