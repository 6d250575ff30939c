/*
** Sketches: short integer vectors whose distances prove that a row is too far away, so
** that an exact search need not read its vector.
**
** A basis is a mean and a matrix A of at most d rows, the first principal components
** of a sample (FAISS's PCA), scaled so that its spectral norm is at most 1. For
** z = x - mean let p = Az and r = sqrt(|z|² - |p|²). Since M = I - AᵀA is then
** positive semidefinite, r is the seminorm sqrt(zᵀMz), and
**
**     |p₁ - p₂|² + (r₁ - r₂)² <= |Az₁ - Az₂|² + (z₁ - z₂)ᵀM(z₁ - z₂) = |x₁ - x₂|²
**
** for any two vectors: the distance of the m-vectors (p, r) never exceeds that of the
** vectors, however well or badly A fits them. Each is rounded to 8-bit integers of one
** step, of a query to finer ones; by the triangle inequality a row whose integer distance is D has
**
**     |x - q| >= step * D - e(x) - e(q)
**
** where e is how far the integers are from the (p, r) that they stand for.
**
** Inner products are bounded by the same codes of the rows. A query q is not centred:
** with (p, r) = (Aq, sqrt(|q|² - |Aq|²)), and by the inequality of Cauchy and Schwarz for
** the semidefinite M,
**
**     <x, q> = <mean, q> + <Az, Aq> + zᵀMq <= <mean, q> + <(p, r) of x, (p, r) of q>
**
** Of the row's (p, r) the integers are step * c, of norm at most n and off by at most e(x);
** of the query's (p, r) they are step(q) * c(q), off by e(q), of 16 bits, so that e(q) is
** next to nothing. Then
**
**     <x, q> <= <mean, q> + step * step(q) * <c, c(q)> + |q| * e(x) + n * e(q)
**
** (and what is taken off the norms of the rest, r, times the query's is added). n and
** e(x) are those of the rows of one sketch that are no outliers: a huge row is an outlier,
** and blunts nothing. What is
** rounded in float32 on the way is in e as well, by the bounds for sums of products in
** any order (Higham, Accuracy and Stability of Numerical Algorithms, 3.1):
** γ(n) = nu / (1 - nu), u = 2⁻²⁴. All of it is in units of a power of two, so that large
** and small data fit. It takes for granted that BLAS computes in float32 proper, and
** compilers as written (no -ffast-math).
**
** A sketch has several lines of code for each row, each as long as a cache line. The first has
** few components, and is read for all rows; a later one goes on from the lines before it, with
** more components and what is left then in the place of r, and is read for the rows that are not
** ruled out by then. All of the above holds for any number of lines. A row that does not
** fit the 8 bits, or is badly rounded, is an outlier: never ruled out.
*/
#ifndef EXACT_H
#define EXACT_H

#include "basis.h"

typedef struct sketch sketch;

/* Make the sketch of `count` vectors. *out is NULL where most of them do not fit the
** basis. */
int sketch_new(basis *b, const float *vectors, int count, sketch **out);
void sketch_free(sketch *s);
size_t sketch_bytes(const sketch *s);
const basis *sketch_basis(const sketch *s);
int sketch_has_outliers(const sketch *s);
/* Whether its basis fits these vectors as it did the sample: the components hold about as much
** of them, and they are not much shorter. */
int sketch_fits(const sketch *s);
/* How much the components leave of them, for choosing between bases; infinite where it does not
** fit. */
double sketch_misfit(const sketch *s);

/*
** Put a sketch together from its rows, for those who keep no vectors: of vectors, of rows
** of other sketches, and of rows that nothing is known of. Rows that do not fit are
** outliers, however many. SQLITE_OK or SQLITE_NOMEM. It is of use once it is closed.
*/
int sketch_open(basis *b, sketch **out);
int sketch_add(sketch *s, const float *vectors, int count);
/* A row of another sketch; an outlier if that has another basis. */
int sketch_add_row(sketch *s, const sketch *from, int slot);
int sketch_add_outlier(sketch *s);
/* No more rows come. */
void sketch_close(sketch *s);

/* One sketch of the rows of several, one after another; `rows` says how many each has. Those of a
** part that is NULL, or of another basis than the first, are outliers. *out is NULL where all are
** NULL. SQLITE_OK or SQLITE_NOMEM. */
int sketch_join(const sketch *const *parts, const int *rows, int count, sketch **out);

/*
** For comparing rows with each other: one code of each, of the first lines, SKETCH_PAIR_LINES at
** most, put together, and 1 in sketch_outliers() for each whose code says nothing; NULL for none.
** The width is a multiple of 4. The codes of `count` slots from `first` on are written one after
** another; the room is to be SKETCH_PAIR_SPARE bytes more.
*/
enum { SKETCH_PAIR_LINES = 4, SKETCH_PAIR_SPARE = 64 };
int sketch_pair_lines(const sketch *s);
int sketch_pair_width(const sketch *s);
void sketch_pair_codes(const sketch *s, int first, int count, int8_t *codes);
const uint8_t *sketch_outliers(const sketch *s);

/* As sketch_bound(), of a query that is a row as it is stored, of this norm or less: a radius
** for METRIC_KIND_IP, too. Since 2<x, q> = |x|² + |q|² - |x - q|², a row x that is no outlier
** is within sqrt(N² + |q|² - 2<x, q>), where N is the largest norm of those. */
double sketch_row_bound(const sketch *s, vector_metric metric, double norm, float score);

/* The greatest squared distance between the codes of two rows of a sketch at which they may be
** within a bound; all are where the bound is infinite or NaN. */
int32_t sketch_pair_limit(const sketch *s, double bound);

/* A query as a basis sees it, for a metric. `query` is as the metric stores vectors. */
typedef struct query_sketch query_sketch;
int query_sketch_new(const basis *b, vector_metric metric, const float *query, query_sketch **out);
/* The same of a row of a sketch that is no outlier, for its distances from others, whatever the
** metric (sketch_row_bound()): its code is no finer than that of a row, and at hand. */
int query_sketch_of_row(const sketch *s, int slot, query_sketch **out);
void query_sketch_free(query_sketch *q);
/* Whether it is near enough to the sample for its code to tell rows apart. */
int query_sketch_fits(const query_sketch *q);

/* The integer distances of all rows by the first line, squared, or for METRIC_KIND_IP their negated
** products: smaller is nearer. Those of one sketch and of others of the same basis compare
** with each other. Outliers have SKETCH_OUTLIER, which is less than all. */
enum { SKETCH_OUTLIER = INT32_MIN };
void sketch_distances(const sketch *s, const query_sketch *q, int32_t *distances);
/* Those of some rows. */
void sketch_distances_at(const sketch *s, const query_sketch *q, const int64_t *slots, int count,
                         int32_t *distances);

/*
** How near a row must be for its score, as FAISS computes it in float32, to be as good as
** this one: a radius, or for METRIC_KIND_IP the least inner product. It is infinite, or NaN,
** where that cannot be said.
**
** For L2 a sum of d squares of rounded differences is off by a factor of γ(d + 2) at
** most. For cosine both vectors have been scaled to length 1, with an error of γ(d + 4) at
** most: |x - q|² = |x|² + |q|² - 2xq. An inner product is off by γ(d)|x||q| at most, as
** long as no partial sum leaves float32's range.
*/
double sketch_bound(const sketch *s, const query_sketch *q, float score);

/* Whether no row of a sketch may be within a bound, by the distances from the mean alone, for
** queries that are too far from the data for codes to tell: |x - q| >= |q - mean| - |x - mean|. */
int sketch_is_beyond(const sketch *s, const query_sketch *q, double bound);

/* The greatest distance by the lines up to this one of a row that may be within a bound; all
** are where the bound is infinite or NaN. */
int32_t sketch_limit(const sketch *s, const query_sketch *q, int line, double bound);

/* Go on to another line: of `count` slots, none of them an outlier, with the distances by the line
** before it, keep those whose distance by this one is at most `limit` (sketch_limit()), and their
** distances by it. Returns how many. */
int sketch_lines(const sketch *s);
int sketch_go_on(const sketch *s, const query_sketch *q, int line, int32_t limit, int64_t *slots,
                 int32_t *distances, int count);

/* Have the processor fetch what a line has of some slots: it will be looked at soon. */
void sketch_fetch(const sketch *s, int line, const int64_t *slots, int count);

#endif
