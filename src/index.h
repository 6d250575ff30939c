/*
** A version of an index: the rows of one source in one state, as a list of
** segments. Versions never change once made; they share the segments they have
** in common and may be read by any number of threads.
**
** First come the main segments, whose rows are in source order; behind them the
** tails, with the rows that changed since. A row that changed or went is dead
** where it was: its slot is still there, and passed over. A slot's position is its
** number in the list of all slots, dead ones included.
**
** Rows come nearest first; equal scores come in the order of the source (by
** rowid), so that an answer equals that of one FAISS IndexFlat over the table
** in rowid order.
*/
#ifndef INDEX_H
#define INDEX_H

#include <stdatomic.h>

#include "segment.h"

/* The dead slots of one segment in one version, or several. */
typedef struct dead_slots {
    atomic_int references;
    int count;
    uint64_t bits[];
} dead_slots;

/*
** What versions that come from one another have in common: the bases of their
** sketches, found out in pieces while searches are answered without. One is looked for
** among all rows first, and again among those that it fits when they have become four times as
** many: a better one takes its place, and these segments get new sketches, one by one. When
** segments have come that none fits, enough of them, one of their own is looked for, and they alone
** get new sketches. And their approximate index.
*/
enum { BASES_MOST = 8 };

typedef struct index_tuning {
    atomic_int references;
    atomic_int searches;
    atomic_flag working;        /* a thread is at a piece, and alone changes what follows … */
    _Atomic(basis *) basis;     /* the newest; NULL before it, or where none helps */
    atomic_uint number;         /* of findings so far: of a basis, or that there is none */
    _Atomic(int64_t) rows_then; /* of all, when it was looked for last … */
    _Atomic(int64_t) misfits;   /* … and those judged since that none fits */
    atomic_int in_vain;         /* findings, one behind the other, that helped no misfits */
    basis *known[BASES_MOST]; /* … and alone looks at these: the bases in use, the newest last */
    int known_count;
    struct growth *growth; /* the approximate index, where there is to be one */
} index_tuning;

/* What a version's segments keep: vectors, or as little as there can be, or less where
** there is an approximate index, which keeps codes, or keys and
** hashes alone, to compare rows by. */
typedef enum index_keeping { INDEX_VECTORS, INDEX_LITTLE, INDEX_CODES, INDEX_KEYS } index_keeping;

typedef struct index_version {
    atomic_int references;
    index_tuning *tuning;
    vector_metric metric;
    index_keeping keeping;
    int kept_values;      /* values that segments hold for each row; 0: the source has a rowid */
    int dimension;        /* 0 while there are no rows */
    int64_t rows;         /* rows that can be found */
    int64_t left_out;     /* rows that strict=off left out */
    int64_t slots;        /* rows, and the dead ones */
    uint64_t fingerprint; /* of all rows: equal for equal rows */
    double build_seconds; /* what reading and building this version took */
    size_t made_bytes;    /* of the segments that were made for it */
    atomic_uint judged;   /* the finding after which all segments are judged */
    int segment_count, main_count, capacity;
    segment **segments;
    int64_t *starts;           /* the position of each segment's first slot */
    dead_slots **dead;         /* of each segment, NULL for none */
    struct coverage *coverage; /* by an approximate index; growth.c guards it */
} index_version;

/* Take and give back a reference, from any thread; NULL is none. */
index_version *index_retain(index_version *v);
void index_release(index_version *v);

/* After a search: do the next piece of what makes later ones faster, if there is one and no other
** thread is at one. The first search of an index is left alone. A piece takes some 30 ms, of as
** many threads as `threads` allows (0: as many as the process may have), the finding of a basis
** more, depending on the dimension. */
void index_improve(index_version *v, int threads);
/* Do all of these pieces now, or wait for those that another thread is at; `check` is asked
** between them. SQLITE_OK, SQLITE_NOMEM, or what the check returned. */
int index_complete(index_version *v, int threads, index_check *check, void *argument,
                   char **message);
/* In a child of fork(): no thread is at a piece any more. */
void index_forget_work(index_version *v);

/* Bytes of memory it holds, shared segments included. */
size_t index_bytes(const index_version *v);

/* The 64-bit hash by which a row is known again: of its key, some of its values
** (the id, and those that are kept) and the bytes of its embedding. Equal rows
** have equal hashes in any process. */
uint64_t index_row_hash(int64_t key, const row_value *values, int count, const void *embedding,
                        int bytes);

/*
** Making a version from the rows of the source, read in order. Runs of rows
** that a former version holds as a segment are taken over by reference; only
** segments with a change are made anew.
*/
typedef struct index_builder index_builder;

/* Begin without rows. `base` may be NULL. Where values are kept, the keys given to
** index_builder_row() are ignored. SQLITE_OK, or an error with its message. */
int index_builder_open(vector_metric metric, int dimension, int kept_values, index_version *base,
                       index_builder **out, char **message);

/* Keep something else than vectors; before the first row. For versions without values. */
void index_builder_keep(index_builder *b, index_keeping keeping);

/* Whether it would now make use of a sample of all the vectors, as the metric stores them, by which
** to keep less of them, if there are to be so many rows at least: at most basis_sample_size() of
** them. If it gets none (NULL) it takes one from the first rows, which it has kept until now. Some
** tenths of a second. */
int index_builder_wants_sample(const index_builder *b, int64_t rows);
int index_builder_take_sample(index_builder *b, float *sample, int count, char **message);

/* Add the next row with the values to keep. `embedding` is `dimension` floats at any alignment.
** SQLITE_MISMATCH where a component is not finite: the row is not added. */
int index_builder_row(index_builder *b, int64_t key, uint64_t hash, const row_value *values,
                      const void *embedding, char **message);

/* Hand over the version with one reference: `base` itself if nothing changed.
** `left_out` is the number of rows that were not added since they are malformed. */
int index_builder_finish(index_builder *b, int64_t left_out, index_version **out, char **message);

/* Free it, also before it is finished; NULL is none. */
void index_builder_close(index_builder *b);

/* The key of a slot: the rowid, or the number of the row where values are kept. */
int64_t index_key(const index_version *v, int segment, int slot);

/* Whether a slot is dead in this version. */
int index_is_dead(const index_version *v, int segment, int slot);

/* Where a position (0..slots-1) is. */
void index_locate(const index_version *v, int64_t position, int *segment, int *slot);

/* The position of the row with this rowid, -1 if it is not in the index. A few
** comparisons where rowids are dense, else two binary searches, and one for each
** tail. */
int64_t index_find(const index_version *v, int64_t key);

/*
** For what makes versions, here and in delta.c: an empty one, with the tuning of the one
** that it comes from (or NULL); appending a segment,
** whose reference passes to the version if that succeeds, or one that was made for
** it, which is released if it fails; and what a row adds to the fingerprint.
** `number` counts rows in source order, and matters where values are kept.
*/
index_version *index_new(vector_metric metric, int dimension, int kept_values,
                         const index_version *from);
int index_append(index_version *v, segment *s, dead_slots *dead);
int index_append_made(index_version *v, segment *s);
uint64_t index_row_print(const index_version *v, int64_t number, uint64_t hash);

/* Begin with rows of the content that the version's segments have now. */
void index_rows_open(const index_version *v, segment_rows *rows);

/* Take and give back a reference; NULL is none. */
dead_slots *index_dead_retain(dead_slots *dead);
void index_dead_release(dead_slots *dead);

/* Copy vectors from all over an index that has them all in memory, always the same;
** *count of them. NULL when memory is short. */
float *index_sample(const index_version *v, int *count);

/* Find the basis of the version's tuning, or that none helps, from a sample, which is
** changed on the way. SQLITE_OK or SQLITE_NOMEM. */
int index_find_basis(const index_version *v, float *sample, int count);

/* The most segments that its rows should be spread over. */
int64_t index_segments_allowed(const index_version *v);

#endif
