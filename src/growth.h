/*
** How the approximate index of a table comes to be, and how it follows the table: made
** once for all versions that come from one another, beside the searches.
**
** The first search that may builds it, in pieces between which the connection is asked
** whether to go on; until then, and in other threads meanwhile, answers are exact. Rows
** that change later are scored one by one beside it. When they have become many, or many
** of its rows are gone, a copy or a new one is made, a piece after each search, and takes
** its place. An interrupted build goes on where it stopped. What was stored is loaded instead of
** building the first one.
**
** Vectors that are not in memory are read in the snapshot of whoever does a piece. Rows that are
** gone or changed by then are left out: they are not of later versions either, and where they are,
** in an older snapshot, they are scored beside the index.
*/
#ifndef GROWTH_H
#define GROWTH_H

#include "cover.h"

/* What is shared by versions that come from one another; behind a lock of its own, which is
** held for pointer swaps. Safe to be asked from any thread. */
typedef struct growth growth;

growth *growth_new(void); /* NULL when memory is short */
void growth_free(growth *g);
/* In a child of fork(): nobody is at work, and what was under way is given up. */
void growth_forget_work(growth *g);

/* Who loads the index that is stored: *out is NULL where there is none. `origin` is what
** growth_origin() is to say of it. */
typedef struct growth_loader {
    int (*load)(void *argument, approximate **out, char **message);
    void *argument;
    const char *origin;
} growth_loader;

/* What is covered of the version by the index there is. *out is NULL where there is none:
** too few rows, another thread is at it, or it may not be made (`may_build`). The first one is
** what `load` (or NULL) gives, once, if half of the rows are in it; else it is built. What FAISS
** refuses is kept for growth_describe(). An error is that of loading, an interrupt, no memory, or
** the reader's: it reads vectors that are not in memory, and is asked now and then whether to go
** on. */
int growth_coverage(index_version *v, const index_kind *kind, int may_build,
                    const growth_loader *load, const vector_reader *reader, coverage **out,
                    char **message);

/* No more than load it, for a growth_coverage() that cannot. */
int growth_restore(index_version *v, const index_kind *kind, const growth_loader *load,
                   char **message);

/* After a search: do the next piece, of some 20 ms, of what has to be done, if no
** other thread is at it. A copy is made in one piece. `may_begin`: the version is the newest; what
** an older snapshot lacks is no reason to change what the others search. */
void growth_improve(index_version *v, const index_kind *kind, const coverage *c, int may_begin,
                    const vector_reader *reader);

/* Have all rows of the version in the index, and few others (5 %); `anew`: trained again, too.
** Waits for whoever is at work. Begins with what is stored, unless `anew`. */
int growth_complete(index_version *v, const index_kind *kind, int anew, const growth_loader *load,
                    const vector_reader *reader, char **message);

/* The index that there is, with a reference, or NULL. */
approximate *growth_current(const index_version *v);

/* What answers searches now, for faiss_indexes: "HNSW32", or "Flat" and why. NULL when memory is
** short; the caller frees it. */
char *growth_describe(const index_version *v, const index_kind *kind);

/* Where the index there is comes from, for faiss_indexes: "built", or what its loader said; NULL
** where there is none. Static. */
const char *growth_origin(const index_version *v);

/* Bytes of memory of the index and of what is known of this version. */
size_t growth_bytes(const index_version *v);

#endif
