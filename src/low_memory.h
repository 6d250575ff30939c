/*
** Versions that keep as little as they can of their vectors (INDEX_LITTLE): the sketches
** of them, by which a search rules most rows out, and reads the others from the source.
**
** Until there are enough rows for a basis they keep vectors, and so they do where the
** dimension is so small that a sketch is no smaller; SQLITE_FAISS_LOW_MEMORY_ROWS in the
** environment says from how many rows on they are left in the source all the same. Then a sample
** decides, once for all versions that come from one another: it gives a basis, and segments keep
** sketches; or it shows that none helps, and they keep keys and hashes alone, so that each search
** reads the source once.
**
** Those with an approximate index (INDEX_CODES) keep no sketches beside its codes: from that many
** rows on, of any dimension, keys and hashes alone.
*/
#ifndef LOW_MEMORY_H
#define LOW_MEMORY_H

#include "index.h"

/* What segments made for the version keep now; *b is the basis of SEGMENT_SKETCH. */
segment_content index_content(const index_version *v, basis **b);

/* Whether a version of so many rows is to decide now what to keep. */
int index_is_undecided(const index_version *v, int64_t rows);

/* Decide, by a sample, which is changed on the way, or by vectors in memory where it is
** NULL: then all are. SQLITE_OK or SQLITE_NOMEM. Some tenths of a second. */
int index_decide(const index_version *v, float *sample, int count);

/* Decide if it is time, and make those segments anew that keep more than they should, in
** a version that nobody else has yet. */
int index_lighten(index_version *v, char **message);

/* "full", "low", or "low: " and what is kept instead of sketches, and why. Static. */
const char *index_describe_memory(const index_version *v);

#endif
