#include "best_index.h"

#include <stddef.h>

#include "constraints.h"
#include "message.h"

/*
** Costs in units of reading one row from a B-tree; the ratios matter. Scoring a row
** in memory is a fraction of that. A point plan does one look-up, but is priced
** above what a stream costs a row with a look-up in another table, so that SQLite
** lets the search drive the join, unless few rows are to be looked up.
**
** Plans without a vector cost more than any join of plans with one: older SQLite
** plans the sides of an OR alone, without the vector that stands beside it, and must
** not prefer them; side_of_or() is about newer ones.
*/
static const double SEARCH_PER_ROW = 0.1, STREAM_PER_ROW = 1, START = 50, POINT_COST = 100,
                    FILTER_FACTOR = 0.9, LAST_RESORT = 1e15, LOOKUP_COST = 1e17, SCAN_COST = 1e18,
                    NO_RESORT = 1e20;
enum { NEIGHBOURS_GUESSED = 10, FILTER_PASSES_ONE_IN = 4 };

/* ---- prices ---- */

/* Where this is for a side of an OR (-1 if not), its own constraints lower no price:
** they are the first `side`. */
static void estimate(const plan_table *t, sqlite3_index_info *info, const choice *chosen, int side)
{
    plan_kind kind = choice_kind(chosen, side < 0 ? 0 : side);
    static const double costs[PLAN_KINDS] = {SCAN_COST, LOOKUP_COST, START, START, POINT_COST};
    static const double per_row[PLAN_KINDS] = {0, 0, SEARCH_PER_ROW, STREAM_PER_ROW, 0};
    double cost = costs[kind] + (double)t->rows * per_row[kind];
    sqlite3_int64 rows = t->rows;
    if (kind == PLAN_KNN)
        rows = NEIGHBOURS_GUESSED;
    else if (kind == PLAN_LOOKUP || kind == PLAN_POINT)
        rows = 1;
    for (int i = 0; i < chosen->term_count; i++) {
        if (chosen->terms[i] < side)
            continue;
        cost *= FILTER_FACTOR;
        if (kind != PLAN_KNN)
            rows = rows / FILTER_PASSES_ONE_IN + 1;
    }
    /* "k for each value that it is compared with" is what a join on a source
    ** column means: other orders are for where there is no such one. */
    if (kind == PLAN_KNN && chosen->waits)
        cost = LAST_RESORT;
    /* The function without its arguments: SQLite plans the sides of an OR alone, and
    ** must not take them. Where it does, they were not given, which xFilter says. */
    if (t->database >= 0 &&
        (chosen->constraint[PLAN_DATABASE] < 0 || chosen->constraint[PLAN_TABLE] < 0 ||
         chosen->constraint[PLAN_VECTOR] < 0))
        cost = NO_RESORT;
    /* SQLite takes the fewest rows of any plan of the sides for those of the cheapest. */
    if (side >= 0)
        rows = t->rows > NEIGHBOURS_GUESSED ? t->rows : NEIGHBOURS_GUESSED;
    info->estimatedCost = cost;
    info->estimatedRows = rows;
}

/* ---- sides of an OR ---- */

/* What the constraints from number `from` on look like, wherever they stand. */
static plan_offer offer_of(const sqlite3_index_info *info, int from)
{
    plan_offer o = {.count = info->nConstraint - from, .hash = info->colUsed};
    for (int i = from; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        if (i == from)
            o.place = c->iTermOffset;
        sqlite3_uint64 distance = (sqlite3_uint64)(c->iTermOffset - o.place);
        o.hash ^= distance << 40 | (sqlite3_uint64)c->op << 32 | (unsigned)c->iColumn;
        o.hash *= 0x100000001b3U; /* FNV's prime */
    }
    return o;
}

static int has_vector(const plan_table *t, const sqlite3_index_info *info, int from)
{
    for (int i = from; i < info->nConstraint; i++) {
        if (constraint_value(t, &info->aConstraint[i]) == PLAN_VECTOR)
            return 1;
    }
    return 0;
}

/*
** How many constraints are those of a side of an OR beside which a vector stands, -1 if
** this is no such side.
**
** New SQLite (3.54, not 3.40) plans each side with the constraints beside the OR, too,
** but runs it without MATCH, and compares the other values again: an error, or no rows.
** So a side must never be cheaper, or have fewer rows, than the plan for all rows. That
** it is a side is not said. But SQLite asks for the sides just after the table itself,
** and repeats the table's constraints after those of the side, moved by as many places
** as the side has terms. Another table of the statement whose constraints look like that
** by chance is priced too high, no more.
*/
static int side_of_or(plan_table *t, const sqlite3_index_info *info)
{
    int own = info->nConstraint - t->offer.count;
    if (own >= 0 && has_vector(t, info, own)) {
        plan_offer beside = offer_of(info, own);
        int moved = beside.place - t->offer.place;
        int last = own ? info->aConstraint[own - 1].iTermOffset : 0; /* some are not offered */
        if (beside.hash == t->offer.hash && last < moved)
            return own;
    }
    t->offer = offer_of(info, 0);
    return -1;
}

/* ---- what SQLite is told ---- */

/* Whether rows that come nearest first are in the order asked for: by distance
** or score, nearest first, then perhaps by what orders ties anyway. */
static int order_is_nearest_first(const plan_table *t, const sqlite3_index_info *info)
{
    if (info->nOrderBy < 1 || info->nOrderBy > 2)
        return 0;
    const struct sqlite3_index_orderby *first = &info->aOrderBy[0];
    int by_distance = first->iColumn == t->distance && !first->desc;
    int by_score = first->iColumn == t->score && t->metric_known &&
                   first->desc == (t->metric != METRIC_KIND_L2);
    if (!by_distance && !by_score)
        return 0;
    if (info->nOrderBy == 1)
        return 1;
    const struct sqlite3_index_orderby *second = &info->aOrderBy[1];
    return !second->desc && (second->iColumn < 0 || (second->iColumn == t->id && t->id_is_rowid));
}

/* The collation that a term must name: none where the source column's own is
** meant. *omit is set where SQLite would compare otherwise than the source: it
** has forgotten the collation of a hidden column and takes it for BINARY. */
static const char *collation_of(const plan_table *t, sqlite3_index_info *info, int i, int on,
                                int *omit)
{
    const char *wanted = sqlite3_vtab_collation(info, i);
    const char *own = on >= 0            ? t->columns[on].collation
                      : on == PLAN_ON_ID ? t->id_collation
                                         : "BINARY";
    if (!wanted || sqlite3_stricmp(wanted, own) == 0)
        return NULL;
    if (on >= 0 && sqlite3_stricmp(wanted, "BINARY") == 0) {
        *omit = 1;
        return NULL;
    }
    return wanted;
}

/* Have SQLite give the value of constraint `i`, the count-th, and make a term of it. */
static int take_term(const plan_table *t, sqlite3_index_info *info, int i, int *count,
                     plan_term *term, char **message)
{
    int on = PLAN_ON_DISTANCE, collates, omit = 0;
    constraint_on(t, info->aConstraint[i].iColumn, &on);
    int comparison = constraint_operator(info, i, &collates);
    *term = (plan_term){.on = on, .comparison = (plan_operator)comparison, .at = -1};
    term->collation = collates ? collation_of(t, info, i, on, &omit) : NULL;
    if (omit && i >= CONSTRAINTS_OMITTED) {
        return set_message(message, sqlite3_mprintf("%s: the constraint on %s must come earlier in "
                                                    "the WHERE clause",
                                                    t->name, plan_term_name(t, on)));
    }
    if (comparison != PLAN_IS_NULL && comparison != PLAN_NOT_NULL) {
        term->at = (*count)++;
        info->aConstraintUsage[i].argvIndex = *count;
    }
    if (comparison == PLAN_IN)
        sqlite3_vtab_in(info, i, 1);
    info->aConstraintUsage[i].omit = omit;
    return SQLITE_OK;
}

/* Whether a stream must be in order beyond the rows that a limit asks for. */
static int must_be_exact(const plan_table *t, const sqlite3_index_info *info, const choice *chosen)
{
    int is_limited = chosen->constraint[PLAN_LIMIT] >= 0 && choice_takes_all(chosen, info);
    return t->is_approximate && chosen->kind == PLAN_STREAM && info->nOrderBy > 0 && !is_limited;
}

/* Tell SQLite what the plan takes: the values first, then those of the terms. */
static int take(const plan_table *t, sqlite3_index_info *info, const choice *chosen, char **message)
{
    plan_term terms[PLAN_TERMS_MOST];
    plan p = {.kind = chosen->kind, .terms = terms, .is_exact = must_be_exact(t, info, chosen)};
    int count = 0, rc = SQLITE_OK;
    for (int value = 0; value < PLAN_VALUES; value++) {
        int i = chosen->constraint[value];
        p.at[value] = -1;
        if (i < 0 || !choice_uses(chosen, value))
            continue;
        p.at[value] = count++;
        info->aConstraintUsage[i].argvIndex = count;
        info->aConstraintUsage[i].omit = value <= PLAN_RERANK; /* a limit is only a hint */
    }
    while (rc == SQLITE_OK && p.term_count < chosen->term_count) {
        int n = p.term_count++;
        rc = take_term(t, info, chosen->terms[n], &count, &terms[n], message);
    }
    if (rc != SQLITE_OK)
        return rc;
    info->idxNum = p.kind;
    info->idxStr = plan_encode(t, &p);
    info->needToFreeIdxStr = 1;
    return info->idxStr ? SQLITE_OK : SQLITE_NOMEM;
}

static int make_plan(const plan_table *t, sqlite3_index_info *info, int side, char **message)
{
    choice chosen;
    int rc = choice_make(t, info, &chosen, message);
    if (rc != SQLITE_OK)
        return rc;
    estimate(t, info, &chosen, side);
    info->orderByConsumed =
        (chosen.kind == PLAN_KNN || chosen.kind == PLAN_STREAM) && order_is_nearest_first(t, info);
    return take(t, info, &chosen, message);
}

int best_index(plan_table *t, sqlite3_index_info *info, char **message)
{
    int side = side_of_or(t, info);
    int rc = make_plan(t, info, side, message);
    /* Without a plan for this side, there is the one for all rows. */
    if (side >= 0 && rc == SQLITE_ERROR) {
        sqlite3_free(*message);
        *message = NULL;
        rc = SQLITE_CONSTRAINT;
    }
    return rc;
}

void best_index_forget_offer(plan_table *t)
{
    t->offer = (plan_offer){.count = 0};
}
