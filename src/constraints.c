#include "constraints.h"

#include <string.h>

#include "message.h"

/* SQLite's operators, and whether the collation plays a part. */
static const struct {
    unsigned char op;
    unsigned char comparison;
    unsigned char collates;
} operators[] = {
    {SQLITE_INDEX_CONSTRAINT_EQ, PLAN_EQ, 1},
    {SQLITE_INDEX_CONSTRAINT_NE, PLAN_NE, 1},
    {SQLITE_INDEX_CONSTRAINT_LT, PLAN_LT, 1},
    {SQLITE_INDEX_CONSTRAINT_LE, PLAN_LE, 1},
    {SQLITE_INDEX_CONSTRAINT_GT, PLAN_GT, 1},
    {SQLITE_INDEX_CONSTRAINT_GE, PLAN_GE, 1},
    {SQLITE_INDEX_CONSTRAINT_IS, PLAN_IS, 1},
    {SQLITE_INDEX_CONSTRAINT_ISNOT, PLAN_IS_NOT, 1},
    {SQLITE_INDEX_CONSTRAINT_LIKE, PLAN_LIKE, 0},
    {SQLITE_INDEX_CONSTRAINT_GLOB, PLAN_GLOB, 0},
    {SQLITE_INDEX_CONSTRAINT_ISNULL, PLAN_IS_NULL, 0},
    {SQLITE_INDEX_CONSTRAINT_ISNOTNULL, PLAN_NOT_NULL, 0},
};

/* ---- what a constraint is ---- */

/* Which of ef_search, nprobe and rerank a column is, -1 for none of them. */
static int effort_of(const plan_table *t, int column)
{
    int which = column - t->effort;
    return t->is_approximate && which >= 0 && which < SEARCH_EFFORTS ? PLAN_EF_SEARCH + which : -1;
}

int constraint_value(const plan_table *t, const struct sqlite3_index_constraint *c)
{
    int equal = c->op == SQLITE_INDEX_CONSTRAINT_EQ;
    if (c->op == SQLITE_INDEX_CONSTRAINT_LIMIT)
        return PLAN_LIMIT;
    if (c->op == SQLITE_INDEX_CONSTRAINT_OFFSET)
        return PLAN_OFFSET;
    if (c->iColumn < 0)
        return -1;
    if (c->iColumn == t->vector && (equal || c->op == SQLITE_INDEX_CONSTRAINT_MATCH))
        return PLAN_VECTOR;
    if (!equal)
        return -1;
    if (c->iColumn == t->neighbours)
        return PLAN_NEIGHBOURS;
    if (effort_of(t, c->iColumn) >= 0)
        return effort_of(t, c->iColumn);
    if (c->iColumn == t->database)
        return PLAN_DATABASE;
    return c->iColumn == t->table ? PLAN_TABLE : -1;
}

int constraint_operator(sqlite3_index_info *info, int i, int *collates)
{
    for (size_t j = 0; j < sizeof operators / sizeof *operators; j++) {
        if (operators[j].op == info->aConstraint[i].op) {
            *collates = operators[j].collates;
            int is_list = operators[j].comparison == PLAN_EQ && sqlite3_vtab_in(info, i, -1);
            return is_list ? PLAN_IN : operators[j].comparison;
        }
    }
    return -1;
}

int constraint_on(const plan_table *t, int column, int *on)
{
    if (column < 0)
        *on = PLAN_ON_ROWID;
    else if (column == t->id)
        *on = PLAN_ON_ID;
    else if (column == t->score)
        *on = PLAN_ON_SCORE;
    else if (column == t->distance)
        *on = PLAN_ON_DISTANCE;
    else if (column >= t->first_column && column < t->first_column + t->column_count)
        *on = column - t->first_column;
    else
        return 0;
    return 1;
}

/* ---- which are taken ---- */

static int refuse_value(const plan_table *t, plan_value value, const char *why, char **message)
{
    return set_message(message, sqlite3_mprintf("%s: %s %s", t->name, plan_value_name(value), why));
}

/* An application's collation that this connection does not have: ids cannot be
** compared, but searches need not suffer. */
static int check_id_collation(const plan_table *t, const sqlite3_index_info *info, char **message)
{
    int compares = 0;
    for (int i = 0; i < info->nConstraint; i++)
        compares |= info->aConstraint[i].iColumn == t->id;
    for (int i = 0; i < info->nOrderBy; i++)
        compares |= info->aOrderBy[i].iColumn == t->id;
    if (!t->id_collation_missing || !compares)
        return SQLITE_OK;
    return set_message(
        message, sqlite3_mprintf("%s: no such collation sequence: %s", t->name, t->id_collation));
}

/* Whether the constraint gives the one id or rowid of a row. Rows without a rowid
** cannot be looked up. */
static int gives_row(const plan_table *t, sqlite3_index_info *info, int i)
{
    const struct sqlite3_index_constraint *c = &info->aConstraint[i];
    if (c->op != SQLITE_INDEX_CONSTRAINT_EQ || !c->usable || sqlite3_vtab_in(info, i, -1))
        return 0;
    return (t->has_rowid && c->iColumn < 0) ||
           ((t->has_rowid || t->database >= 0) && c->iColumn == t->id);
}

static int is_range(unsigned char op)
{
    return op == SQLITE_INDEX_CONSTRAINT_LT || op == SQLITE_INDEX_CONSTRAINT_LE ||
           op == SQLITE_INDEX_CONSTRAINT_GT || op == SQLITE_INDEX_CONSTRAINT_GE;
}

/* A comparison that is neither = nor a range nor a test for NULL. */
static int compares_otherwise(unsigned char op)
{
    return op == SQLITE_INDEX_CONSTRAINT_NE || op == SQLITE_INDEX_CONSTRAINT_IS ||
           op == SQLITE_INDEX_CONSTRAINT_ISNOT || op == SQLITE_INDEX_CONSTRAINT_LIKE ||
           op == SQLITE_INDEX_CONSTRAINT_GLOB;
}

/* Whether two constraints give different constants, as they stand in the text. */
static int differ(sqlite3_index_info *info, int one, int other)
{
    sqlite3_value *a, *b;
    if (sqlite3_vtab_rhs_value(info, one, &a) != SQLITE_OK ||
        sqlite3_vtab_rhs_value(info, other, &b) != SQLITE_OK)
        return 0;
    const char *left = (const char *)sqlite3_value_text(a);
    const char *right = (const char *)sqlite3_value_text(b);
    return !left || !right || strcmp(left, right) != 0;
}

/* Choose constraint `i` for a value that is needed, or say why it cannot be. */
static int choose_value(const plan_table *t, sqlite3_index_info *info, choice *chosen, int value,
                        int i, char **message)
{
    int former = chosen->constraint[value];
    int by_match = info->aConstraint[i].op == SQLITE_INDEX_CONSTRAINT_MATCH;
    if (former >= 0 && (differ(info, former, i) ||
                        (by_match && info->aConstraint[former].op == info->aConstraint[i].op)))
        return refuse_value(t, value, "is given twice", message);
    /* `a.embedding = b.embedding` is offered to both tables, and at first as if all
    ** could be had: where one has a vector of its own, the other one means it. */
    if (former >= 0 && !by_match)
        return SQLITE_OK;
    if (i >= CONSTRAINTS_OMITTED)
        return refuse_value(t, value,
                            "comes behind 16 other conditions, as MATCH always does: give it as "
                            "an argument of the table instead",
                            message);
    if (sqlite3_vtab_in(info, i, -1))
        return refuse_value(t, value, "must be one value, not IN (...)", message);
    chosen->constraint[value] = i;
    return SQLITE_OK;
}

/*
** Choose the constraints that supply values. A vector, k or argument that is
** there but cannot be had now means that this order of joins is none
** (SQLITE_CONSTRAINT).
*/
static int choose_values(const plan_table *t, sqlite3_index_info *info, choice *chosen,
                         char **message)
{
    memset(chosen->constraint, -1, sizeof chosen->constraint);
    int waits[PLAN_VALUES] = {0}, ranges = 0, others = 0; /* constraints like k <= 5 */
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        int value = constraint_value(t, c);
        if (gives_row(t, info, i))
            chosen->row = i;
        ranges |= c->iColumn == t->neighbours && is_range(c->op);
        others |= c->iColumn == t->neighbours && compares_otherwise(c->op);
        if (value < 0 && c->iColumn >= 0 && effort_of(t, c->iColumn) >= 0)
            rc = refuse_value(t, effort_of(t, c->iColumn), "can only be compared by =", message);
        if (value < 0)
            continue;
        if (!c->usable)
            waits[value] = value <= PLAN_RERANK;
        else if (value <= PLAN_RERANK)
            rc = choose_value(t, info, chosen, value, i, message);
        else
            chosen->constraint[value] = i;
    }
    /* Without k = n the column is NULL, and no row would pass. */
    ranges |= others && chosen->constraint[PLAN_NEIGHBOURS] < 0;
    if (rc == SQLITE_OK && ranges && chosen->constraint[PLAN_VECTOR] >= 0)
        rc = refuse_value(t, PLAN_NEIGHBOURS, "can only be compared by =", message);
    for (int value = 0; rc == SQLITE_OK && value <= PLAN_RERANK; value++) {
        if (waits[value] && chosen->constraint[value] < 0)
            rc = SQLITE_CONSTRAINT;
    }
    return rc;
}

/* What is given besides a vector is of no use without one. */
static int check_vector(const plan_table *t, const choice *chosen, char **message)
{
    for (int value = PLAN_NEIGHBOURS; value <= PLAN_RERANK; value++) {
        if (chosen->constraint[value] >= 0 && chosen->constraint[PLAN_VECTOR] < 0)
            return set_message(message,
                               sqlite3_mprintf("%s: %s needs a vector: add %s MATCH ...", t->name,
                                               plan_value_name(value), t->embedding));
    }
    return SQLITE_OK;
}

plan_kind choice_kind(const choice *chosen, int from)
{
    if (chosen->constraint[PLAN_VECTOR] < from)
        return chosen->row >= from ? PLAN_LOOKUP : PLAN_SCAN;
    if (chosen->constraint[PLAN_NEIGHBOURS] >= from)
        return PLAN_KNN;
    return chosen->row >= from ? PLAN_POINT : PLAN_STREAM;
}

int choice_uses(const choice *chosen, plan_value value)
{
    switch (value) {
    case PLAN_DATABASE:
    case PLAN_TABLE:
        return 1;
    case PLAN_VECTOR:
    case PLAN_EF_SEARCH:
    case PLAN_NPROBE:
    case PLAN_RERANK:
        return chosen->kind >= PLAN_KNN;
    case PLAN_NEIGHBOURS:
        return chosen->kind == PLAN_KNN;
    case PLAN_OFFSET:
        return chosen->kind == PLAN_STREAM && chosen->constraint[PLAN_LIMIT] >= 0;
    default:
        return chosen->kind == PLAN_STREAM;
    }
}

/* Whether constraint `i` supplies a value of the plan. */
static int is_value(const choice *chosen, int i)
{
    for (int value = 0; value < PLAN_VALUES; value++) {
        if (chosen->constraint[value] == i && choice_uses(chosen, value))
            return 1;
    }
    return 0;
}

/* Whether the search can answer a constraint of this comparison on this. Bounds on
** the distance end a search or skip its first rows; with k, `id =` and its like
** ask whether that row is among the k, and are left to SQLite. */
static int can_filter(plan_kind kind, int on, int comparison)
{
    int searches = kind == PLAN_KNN || kind == PLAN_STREAM;
    int one_of = comparison == PLAN_EQ || comparison == PLAN_IS || comparison == PLAN_IN;
    if (on == PLAN_ON_SCORE || on == PLAN_ON_DISTANCE)
        return searches && comparison >= PLAN_LT && comparison <= PLAN_GE;
    if (on == PLAN_ON_ID || on == PLAN_ON_ROWID)
        return !(kind == PLAN_KNN && one_of);
    return 1;
}

/*
** SQLite puts bounds beside a LIKE or GLOB with a constant prefix, for the use of
** indexes that hold text alone: a BLOB within the pattern is outside of them. They
** look like the user's own bounds, so that none on such a column is taken. Those of
** LIKE ... ESCAPE, which is not shown to us, are told by their collation, unless k is
** there, which counts what the user's own let through.
*/
static int bounds_a_pattern(const plan_table *t, sqlite3_index_info *info, plan_kind kind, int i,
                            int on)
{
    if (!is_range(info->aConstraint[i].op))
        return 0;
    for (int j = 0; j < info->nConstraint; j++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[j];
        if (c->iColumn == info->aConstraint[i].iColumn &&
            (c->op == SQLITE_INDEX_CONSTRAINT_LIKE || c->op == SQLITE_INDEX_CONSTRAINT_GLOB))
            return 1;
    }
    const char *wanted = info->aConstraint[i].usable ? sqlite3_vtab_collation(info, i) : NULL;
    return kind != PLAN_KNN && on >= 0 && wanted && sqlite3_stricmp(wanted, "NOCASE") == 0 &&
           sqlite3_stricmp(t->columns[on].collation, "NOCASE") != 0;
}

/* Choose the constraints that become terms of the plan. */
static int choose_terms(const plan_table *t, sqlite3_index_info *info, choice *chosen,
                        char **message)
{
    plan_kind kind = chosen->kind;
    for (int i = 0; i < info->nConstraint; i++) {
        int on, collates;
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        if (!constraint_on(t, c->iColumn, &on) || is_value(chosen, i))
            continue;
        int comparison = constraint_operator(info, i, &collates);
        if (comparison < 0 || !can_filter(kind, on, comparison) ||
            bounds_a_pattern(t, info, kind, i, on))
            continue;
        int on_distance = on == PLAN_ON_SCORE || on == PLAN_ON_DISTANCE;
        if (kind == PLAN_KNN && !t->has_rowid && on >= 0) {
            return set_message(
                message, sqlite3_mprintf("%s: k cannot be combined with a constraint on %s, "
                                         "since the source has no rowid: use ORDER BY distance "
                                         "LIMIT n instead of k",
                                         t->name, t->columns[on].offered));
        }
        if (!c->usable)
            chosen->waits = 1;
        else if ((t->has_rowid || on_distance || (on == PLAN_ON_ID && t->database >= 0)) &&
                 chosen->term_count < PLAN_TERMS_MOST)
            chosen->terms[chosen->term_count++] = i;
    }
    return SQLITE_OK;
}

int choice_make(const plan_table *t, sqlite3_index_info *info, choice *out, char **message)
{
    *out = (choice){.row = -1};
    int rc = check_id_collation(t, info, message);
    if (rc == SQLITE_OK)
        rc = choose_values(t, info, out, message);
    if (rc == SQLITE_OK)
        rc = check_vector(t, out, message);
    if (rc != SQLITE_OK)
        return rc;
    out->kind = choice_kind(out, 0);
    return choose_terms(t, info, out, message);
}

int choice_takes_all(const choice *chosen, const sqlite3_index_info *info)
{
    int taken = chosen->term_count;
    for (int i = 0; i < info->nConstraint; i++)
        taken += is_value(chosen, i);
    return taken == info->nConstraint;
}
