#include "bounds.h"

#include <stdint.h>
#include <string.h>

static int holds(plan_operator comparison, double x, double bound)
{
    switch (comparison) {
    case PLAN_LT:
        return x < bound;
    case PLAN_LE:
        return x <= bound;
    case PLAN_GT:
        return x > bound;
    default:
        return x >= bound;
    }
}

/* Where a row lies by one term. Along a search distances grow, and so do the
** scores of l2; the others fall: a bound that such a row misses on the far side
** is missed by all that follow. */
static bound_state place_by(const plan_term *term, sqlite3_value *value, vector_metric metric,
                            float score)
{
    if (!value)
        return BOUND_WITHIN; /* the term is on something else */
    int type = sqlite3_value_type(value);
    int from_above = term->comparison == PLAN_LT || term->comparison == PLAN_LE;
    if (type == SQLITE_NULL)
        return BOUND_BEYOND;
    if (type == SQLITE_TEXT || type == SQLITE_BLOB) /* every number sorts before these */
        return from_above ? BOUND_WITHIN : BOUND_BEYOND;
    int on_distance = term->on == PLAN_ON_DISTANCE;
    double x = on_distance ? vector_distance(metric, score) : score;
    if (holds(term->comparison, x, sqlite3_value_double(value)))
        return BOUND_WITHIN;
    int grows = on_distance || metric == METRIC_KIND_L2;
    return grows == from_above ? BOUND_BEYOND : BOUND_BEFORE;
}

bound_state bounds_place(const bounds *b, vector_metric metric, float score)
{
    bound_state worst = BOUND_WITHIN;
    for (int i = 0; i < b->count; i++) {
        bound_state each = place_by(&b->terms[i], b->values[i], metric, score);
        if (each > worst)
            worst = each;
    }
    return worst;
}

int bounds_are_far(const bounds *b, vector_metric metric)
{
    for (int i = 0; i < b->count; i++) {
        const plan_term *term = &b->terms[i];
        int grows = term->on == PLAN_ON_DISTANCE || metric == METRIC_KIND_L2;
        int from_above = term->comparison == PLAN_LT || term->comparison == PLAN_LE;
        if (b->values[i] && grows != from_above)
            return 0;
    }
    return 1;
}

int bounds_are_any(const bounds *b)
{
    int found = 0;
    for (int i = 0; i < b->count; i++)
        found |= b->values[i] != NULL;
    return found;
}

int bounds_keep(const plan *p, sqlite3_value **argv, bounds *out)
{
    size_t bytes = ((size_t)p->term_count + 1) * sizeof *out->values;
    *out = (bounds){.terms = p->terms, .values = sqlite3_malloc64(bytes)};
    if (!out->values)
        return SQLITE_NOMEM;
    memset(out->values, 0, bytes);
    out->count = p->term_count;
    for (int i = 0; i < out->count; i++) {
        const plan_term *term = &p->terms[i];
        if (term->on != PLAN_ON_SCORE && term->on != PLAN_ON_DISTANCE)
            continue;
        out->values[i] = sqlite3_value_dup(argv[term->at]);
        if (!out->values[i])
            return SQLITE_NOMEM;
        sqlite3_value_numeric_type(out->values[i]); /* the columns are REAL: '1' is 1 */
    }
    return SQLITE_OK;
}

void bounds_clear(bounds *b)
{
    for (int i = 0; i < b->count; i++)
        sqlite3_value_free(b->values[i]);
    sqlite3_free(b->values);
    *b = (bounds){0};
}
