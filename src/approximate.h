/*
** One of FAISS's approximate indexes over the rows of a table: a graph, lists, or short
** codes. It is made in pieces by one thread, and then never changes: any number of
** threads may search it, each with an effort of its own.
**
** Rows sit in places 0, 1, ... in the order in which they were added, and are known by
** their keys and hashes, not by where versions of the table have them: it only ever
** proposes rows, and cover.h says which of them a version has.
*/
#ifndef APPROXIMATE_H
#define APPROXIMATE_H

#include "factory.h"
#include "index.h"

typedef struct approximate approximate;

/* Whether FAISS makes such an index for vectors of this dimension: SQLITE_OK, or
** SQLITE_ERROR with its reason. */
int approximate_check(const index_kind *kind, vector_metric metric, int dimension, char **message);

/* Whether FAISS may see the vector: among infinite distances its graphs and centroids lose their
** way, out of their memory at worst. */
int approximate_takes(const float *x, int dimension);

/* Begin one, with room for so many rows. One reference. A small one keeps half of each hash:
** some changed row may then, once in 2^32, be taken for what it was; it is proposed wrongly, but
** scored by its vector. */
int approximate_open(const index_kind *kind, vector_metric metric, int dimension, int is_small,
                     int64_t rows, approximate **out, char **message);

/* Begin one with what another has learned and, unless `empty`, its rows. Takes the memory
** of both; linear. */
int approximate_open_from(const approximate *from, int empty, int64_t rows, approximate **out,
                          char **message);

/* Train it on `count` vectors as the metric stores them; nothing where the kind learns
** nothing. FAISS asks `check` between its steps, of which the longest are an iteration of
** k-means and a decomposition of a matrix. Deterministic. */
int approximate_train(approximate *a, const float *sample, int count, index_check *check,
                      void *argument, char **message);

/* How much further vectors are from what it has learned than those that it was trained on: 1 for as
** far, 0 where that is not known. */
double approximate_misfit(const approximate *a, const float *vectors, int count);

/* How far those were, as one that is loaded does not know by itself; 0: not known. */
double approximate_trained_misfit(const approximate *a);
void approximate_note_trained_misfit(approximate *a, double misfit);

/* Add rows as the metric stores them: some 20 ms for approximate_slice() rows. */
int approximate_add(approximate *a, const float *vectors, const int64_t *keys,
                    const uint64_t *hashes, int count, char **message);
int approximate_slice(const approximate *a);

/* Put the rows of a graph in the order of their keys, which are distinct: a search then finds rows
** that the table has together in memory together. n log n. After an error it is of no use. */
int approximate_sort(approximate *a, char **message);

/* Have a graph where searches are fast, once it is complete: nothing is added to it any more, but
** to one that is opened from it. Linear; it stays as it is where memory is short. */
void approximate_settle(approximate *a);

/* Hand it over as bytes, piece by piece: key and hash of each row, or as much of it as a small one
** keeps, and what FAISS writes of its index.
** `write` returns SQLITE_OK, or what approximate_save() is to return. */
typedef int approximate_write(void *argument, const void *bytes, size_t count);
int approximate_save(const approximate *a, approximate_write *write, void *argument,
                     char **message);

/* Make one, small or not, of the bytes of one with `rows` rows, of the same kind, metric and
** dimension (of a small one: a small one); known by `stored`, a number that no other has. FAISS
** trusts what it reads: the caller has verified it. `read` hands over just so many of the next
** bytes. Where these bytes are of another index, an SQLITE_ERROR that says so. */
typedef int approximate_read(void *argument, void *bytes, size_t count);
int approximate_load(const index_kind *kind, vector_metric metric, int dimension, int is_small,
                     int64_t rows, uint64_t stored, approximate_read *read, void *argument,
                     approximate **out, char **message);

int approximate_is_small(const approximate *a);

/* The number by which it was loaded or stored last; 0 for neither. */
uint64_t approximate_stored(const approximate *a);
void approximate_note_stored(approximate *a, uint64_t stored);

approximate *approximate_retain(approximate *a);
void approximate_release(approximate *a);

const index_kind *approximate_kind(const approximate *a);
int64_t approximate_count(const approximate *a);
int64_t approximate_key(const approximate *a, int64_t place);
/* Bytes of memory that it holds; linear in its rows. */
size_t approximate_bytes(const approximate *a);

/* The vector of a place as the metric stores it, of a kind that keeps vectors and no lists: a copy.
** SQLITE_OK, or an error with FAISS's message. */
int approximate_vector(const approximate *a, int64_t place, float *out, char **message);

/* The place of the row with this key and hash behind place `after` (-1: the first one),
** -1 if there is none. Rows are added once; where they have no keys, equal ones may stand
** there several times. */
int64_t approximate_find(const approximate *a, int64_t key, uint64_t hash, int64_t after);

/* The places of about the k nearest rows to the query (as the metric stores it), nearest
** first by what it knows of them; *found of them, fewer where it finds no more.
** `allowed` has a bit for each place, or is NULL for all; where the kind cannot be told
** which rows to look at, others are left out afterwards. `scores` and `places` have
** room for k. Of a graph a byte a row is kept for each search that runs beside others, up to 8. */
int approximate_search(approximate *a, const float *query, int64_t k, const search_effort *effort,
                       const uint64_t *allowed, float *scores, int64_t *places, int64_t *found,
                       char **message);

/* About how many rows' vectors could be scored in the time of such a search, where one
** row of `one_in` is allowed. */
double approximate_cost(const index_kind *kind, int64_t rows, int64_t k,
                        const search_effort *effort, double one_in);

#endif
