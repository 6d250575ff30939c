/* An index keeps its sketches fit: a basis that the rows have outgrown, or that does not fit
** the new ones, is replaced, segment by segment, by the searches that come; and one that fits
** is kept. The same rows and searches lead to the same bases. */
#include "unit.h"

#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "walk.h"

enum { DIMENSION = 96, SOME = 9000, HALF = DIMENSION / 2 };

static uint32_t state;

static float draw(void)
{
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / (1 << 24) - 0.5f;
}

/* Two kinds of rows, in directions of their own; the second are longer. */
typedef enum kind { FIRST_KIND, SECOND_KIND } kind;

static void make_row(kind which, float *x)
{
    memset(x, 0, DIMENSION * sizeof *x);
    for (int j = 0; j < HALF; j++)
        x[which == FIRST_KIND ? j : HALF + j] =
            draw() / (float)(j + 1) * (which == FIRST_KIND ? 1 : 3);
}

/* A version of `first` rows of one kind, `second` of the other, and `third` of the first again,
** from another one. */
static index_version *build_three(index_version *base, int first, int second, int third)
{
    index_builder *b;
    index_version *v;
    char *message = NULL;
    state = 1;
    assert_int_equal(index_builder_open(METRIC_KIND_L2, DIMENSION, 0, base, &b, &message),
                     SQLITE_OK);
    for (int i = 0; i < first + second + third; i++) {
        float x[DIMENSION];
        int is_second = i >= first && i < first + second;
        make_row(is_second ? SECOND_KIND : FIRST_KIND, x);
        uint64_t hash = (uint64_t)(i + (is_second ? 1000000 : 0)) * 2654435761u;
        assert_int_equal(index_builder_row(b, i + 1, hash, NULL, x, &message), SQLITE_OK);
    }
    assert_int_equal(index_builder_finish(b, 0, &v, &message), SQLITE_OK);
    index_builder_close(b);
    return v;
}

static index_version *build(index_version *base, int first, int second)
{
    return build_three(base, first, second, 0);
}

static void search(index_version *v, int times)
{
    for (int i = 0; i < times; i++) {
        float query[DIMENSION];
        index_walk *w;
        index_hit hit;
        char *message = NULL;
        make_row(i % 2 ? FIRST_KIND : SECOND_KIND, query);
        assert_int_equal(index_walk_open(v, query, NULL, 10, NULL, &w, &message), SQLITE_OK);
        assert_int_equal(index_walk_at(w, 0, &hit, &message), SQLITE_ROW);
        index_walk_close(w);
    }
}

/* The newest basis; all segments have sketches by it. */
static const basis *common_basis(const index_version *v)
{
    const basis *newest = atomic_load(&v->tuning->basis);
    for (int i = 0; i < v->segment_count; i++) {
        const sketch *own = segment_sketch(v->segments[i]);
        assert_non_null(own);
        assert_ptr_equal(sketch_basis(own), newest);
    }
    return newest;
}

enum { ENOUGH = 40 }; /* searches: more than there are segments, and bases to be found */

static void a_basis_that_fits_is_kept(void **unused)
{
    (void)unused;
    if (is_slow())
        return;
    index_version *v = build(NULL, SOME, 0);
    search(v, ENOUGH);
    const basis *found = common_basis(v);
    assert_non_null(found);
    search(v, ENOUGH);
    assert_ptr_equal(common_basis(v), found);
    /* Five times as many rows, alike: looked for again, and kept. */
    index_version *grown = build(v, 5 * SOME, 0);
    assert_ptr_equal(grown->tuning, v->tuning);
    search(grown, ENOUGH);
    assert_int_equal(atomic_load(&grown->tuning->rows_then), 5 * SOME);
    assert_ptr_equal(common_basis(grown), found);
    index_release(grown);
    index_release(v);
}

static const basis *basis_of(const index_version *v, int i)
{
    assert_non_null(segment_sketch(v->segments[i]));
    return sketch_basis(segment_sketch(v->segments[i]));
}

/* They alone get sketches by a basis of their own; what is like the former rows, by theirs. */
static void rows_of_another_kind_get_a_basis_of_their_own(void **unused)
{
    (void)unused;
    if (is_slow())
        return;
    int full = segment_capacity(DIMENSION);
    index_version *v = build(NULL, full, 0);
    search(v, ENOUGH);
    unsigned number = atomic_load(&v->tuning->number);
    const basis *first = basis_of(v, 0);
    const sketch *own = segment_sketch(v->segments[0]);
    index_version *mixed = build(v, full, full);
    search(mixed, ENOUGH);
    assert_int_equal(atomic_load(&mixed->tuning->number), number + 1);
    assert_ptr_equal(segment_sketch(mixed->segments[0]), own);
    const basis *second = basis_of(mixed, 1);
    assert_ptr_not_equal(second, first);
    assert_ptr_equal(second, atomic_load(&mixed->tuning->basis));
    index_version *more = build_three(mixed, full, full, full);
    assert_int_equal(more->segment_count, 3);
    search(more, ENOUGH);
    assert_int_equal(atomic_load(&more->tuning->number), number + 1);
    assert_ptr_equal(basis_of(more, 0), first);
    assert_ptr_equal(basis_of(more, 1), second);
    assert_ptr_equal(basis_of(more, 2), first);
    index_release(more);
    index_release(mixed);
    index_release(v);
}

/* Of rows that no basis is for on its own, in one segment with others, one is found for all. */
static void new_rows_among_the_others_change_it(void **unused)
{
    (void)unused;
    if (is_slow())
        return;
    index_version *v = build(NULL, SOME, 0);
    search(v, ENOUGH);
    index_version *mixed = build(v, SOME / 2, SOME / 2);
    search(mixed, ENOUGH);
    const basis *found = common_basis(mixed);
    assert_non_null(found);
    search(mixed, ENOUGH);
    assert_ptr_equal(common_basis(mixed), found);
    index_release(mixed);
    index_release(v);
}

static void rows_that_are_all_replaced_change_it(void **unused)
{
    (void)unused;
    index_version *v = build(NULL, SOME, 0);
    search(v, ENOUGH);
    unsigned number = atomic_load(&v->tuning->number);
    index_version *replaced = build(v, 0, SOME);
    search(replaced, ENOUGH);
    assert_int_equal(atomic_load(&replaced->tuning->number), number + 1);
    assert_non_null(common_basis(replaced));
    index_release(replaced);
    index_release(v);
}

/* Without structure there is no basis, and what would find one is not repeated. */
static void no_basis_is_looked_for_once(void **unused)
{
    (void)unused;
    index_builder *b;
    index_version *v;
    char *message = NULL;
    assert_int_equal(index_builder_open(METRIC_KIND_L2, DIMENSION, 0, NULL, &b, &message),
                     SQLITE_OK);
    for (int i = 0; i < SOME; i++) {
        float x[DIMENSION];
        for (int j = 0; j < DIMENSION; j++)
            x[j] = draw();
        assert_int_equal(index_builder_row(b, i + 1, (uint64_t)i, NULL, x, &message), SQLITE_OK);
    }
    assert_int_equal(index_builder_finish(b, 0, &v, &message), SQLITE_OK);
    index_builder_close(b);
    search(v, ENOUGH);
    assert_null(atomic_load(&v->tuning->basis));
    assert_int_equal(atomic_load(&v->tuning->number), 1);
    index_release(v);
}

int main(void)
{
    setenv("SQLITE_FAISS_SKETCHES", "always", 1); /* of so few rows, too */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_basis_that_fits_is_kept),
        cmocka_unit_test(rows_of_another_kind_get_a_basis_of_their_own),
        cmocka_unit_test(new_rows_among_the_others_change_it),
        cmocka_unit_test(rows_that_are_all_replaced_change_it),
        cmocka_unit_test(no_basis_is_looked_for_once),
    };
    return RUN_TESTS(tests);
}
