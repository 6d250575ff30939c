/*
** How work on an index gets at vectors that are not in memory: from the rows of the
** source, in the snapshot of the statement that the work is done for.
**
** An index may keep something smaller than vectors for a segment, by which candidates
** are found; their exact scores then come from the rows themselves. segment_read() and
** segment_scores() take a reader, and use it for such segments only; the result is bit
** for bit that of vectors in memory. vector_reader_of() makes one.
**
** A reader belongs to one connection and one thread, like its statement; what it reads
** for is shared and may be searched by others at the same time.
*/
#ifndef VECTOR_READER_H
#define VECTOR_READER_H

#include <stdint.h>

/* Called about every 4 MB of vectors in long work; ends it by returning other than
** SQLITE_OK. */
typedef int index_check(void *argument, char **message);

/*
** Read the embeddings of `count` rows, known by their rowids, as the source holds them:
** `dimension` floats each, one after another. `hashes` are those of the rows as they
** were indexed (index_row_hash()). SQLITE_MISMATCH where a row is gone, or differs from
** its hash: the index does not hold what the snapshot shows, and the whole source must
** be compared (snapshot_compare()). Ascending keys that lie close together are read in
** one pass over that part of the table; others cost a look-up each, some microseconds.
*/
typedef int vector_read(void *argument, const int64_t *keys, const uint64_t *hashes, int count,
                        int dimension, float *vectors, char **message);

/* `read` may be NULL where all vectors are in memory, `check` where nobody stops the
** work; both are given `argument`. Searches of vectors in memory may use `threads` threads: 0 is
** as good as 1, but where sketches are made (index_improve()). */
typedef struct vector_reader {
    vector_read *read;
    index_check *check;
    void *argument;
    int threads;
} vector_reader;

/* The reader of a snapshot's source, whose rows must have rowids; valid until the
** snapshot closes. That of a detached one cannot read. */
struct snapshot;
vector_reader vector_reader_of(struct snapshot *s);

#endif
