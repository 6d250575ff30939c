#include "plan.h"

#include <string.h>

#include "message.h"

static const char *const kind_names[PLAN_KINDS] = {"scan", "lookup", "knn", "stream", "point"};
static const char *const value_names[PLAN_VALUES] = {
    "database", "table", "vector", "k", "ef_search", "nprobe", "rerank", "limit", "offset"};
static const char exact_word[] = "exact";
static const char *const operator_texts[PLAN_OPERATORS] = {
    "=?",        "!=?",     "<?",      "<=?",     ">?",       ">=?",         " IS ?",
    " IS NOT ?", " IN (?)", " LIKE ?", " GLOB ?", " IS NULL", " IS NOT NULL"};

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
enum {
    NEIGHBOURS_GUESSED = 10,
    FILTER_PASSES_ONE_IN = 4,
    TERMS_MOST = 32,
    OMIT_HONOURED = 16 /* SQLite checks constraints beyond these again, whatever omit says */
};

/* What is chosen of the constraints: the one for each value (-1 for none), and
** those that become terms. */
typedef struct choice {
    int constraint[PLAN_VALUES];
    int terms[TERMS_MOST];
    int term_count;
    int row;   /* the last constraint that gives an id or rowid, -1 for none */
    int waits; /* a constraint on a source column cannot be had in this order */
} choice;

/* ---- constraints ---- */

/* Which of ef_search, nprobe and rerank a column is, -1 for none of them. */
static int effort_of(const plan_table *t, int column)
{
    int which = column - t->effort;
    return t->is_approximate && which >= 0 && which < PLAN_EFFORTS ? PLAN_EF_SEARCH + which : -1;
}

/* Which value a constraint would supply, -1 for none. */
static int value_of(const plan_table *t, const struct sqlite3_index_constraint *c)
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

/* The comparison of a constraint, -1 for those left to SQLite. */
static int operator_of(sqlite3_index_info *info, int i, int *collates)
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

/* What a constraint is on, in *on; 0 if it is on nothing that filters. */
static int filters_on(const plan_table *t, int column, int *on)
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

static int refuse_value(const plan_table *t, int value, const char *why, char **message)
{
    return set_message(message, sqlite3_mprintf("%s: %s %s", t->name, value_names[value], why));
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
    if (i >= OMIT_HONOURED)
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
        int value = value_of(t, c);
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

/* The kind of plan that the constraints from number `from` on make. */
static plan_kind kind_of(const choice *chosen, int from)
{
    if (chosen->constraint[PLAN_VECTOR] < from)
        return chosen->row >= from ? PLAN_LOOKUP : PLAN_SCAN;
    if (chosen->constraint[PLAN_NEIGHBOURS] >= from)
        return PLAN_KNN;
    return chosen->row >= from ? PLAN_POINT : PLAN_STREAM;
}

/* Which of the values chosen the kind of plan uses. */
static int kind_uses(plan_kind kind, int value, const choice *chosen)
{
    switch (value) {
    case PLAN_DATABASE:
    case PLAN_TABLE:
        return 1;
    case PLAN_VECTOR:
    case PLAN_EF_SEARCH:
    case PLAN_NPROBE:
    case PLAN_RERANK:
        return kind >= PLAN_KNN;
    case PLAN_NEIGHBOURS:
        return kind == PLAN_KNN;
    case PLAN_OFFSET:
        return kind == PLAN_STREAM && chosen->constraint[PLAN_LIMIT] >= 0;
    default:
        return kind == PLAN_STREAM;
    }
}

/* Whether constraint `i` supplies a value of the plan. */
static int is_value(plan_kind kind, const choice *chosen, int i)
{
    for (int value = 0; value < PLAN_VALUES; value++) {
        if (chosen->constraint[value] == i && kind_uses(kind, value, chosen))
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
static int choose_terms(const plan_table *t, sqlite3_index_info *info, plan_kind kind,
                        choice *chosen, char **message)
{
    for (int i = 0; i < info->nConstraint; i++) {
        int on, collates;
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        if (!filters_on(t, c->iColumn, &on) || is_value(kind, chosen, i))
            continue;
        int comparison = operator_of(info, i, &collates);
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
                 chosen->term_count < TERMS_MOST)
            chosen->terms[chosen->term_count++] = i;
    }
    return SQLITE_OK;
}

/* ---- the text ---- */

static int is_bare_name(const char *name)
{
    size_t letters =
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
    return *name && !name[letters] && !(*name >= '0' && *name <= '9');
}

static const char *name_of(const plan_table *t, int on)
{
    switch (on) {
    case PLAN_ON_ID:
        return "id";
    case PLAN_ON_ROWID:
        return "rowid";
    case PLAN_ON_SCORE:
        return "score";
    case PLAN_ON_DISTANCE:
        return "distance";
    default:
        return t->columns[on].offered;
    }
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

static int encode_term(const plan_table *t, sqlite3_index_info *info, int i, int *count,
                       sqlite3_str *text, char **message)
{
    int on = PLAN_ON_DISTANCE, collates, omit = 0;
    filters_on(t, info->aConstraint[i].iColumn, &on);
    int comparison = operator_of(info, i, &collates);
    const char *collation = collates ? collation_of(t, info, i, on, &omit) : NULL;
    if (omit && i >= OMIT_HONOURED) {
        return set_message(message, sqlite3_mprintf("%s: the constraint on %s must come earlier in "
                                                    "the WHERE clause",
                                                    t->name, name_of(t, on)));
    }
    if (comparison != PLAN_IS_NULL && comparison != PLAN_NOT_NULL)
        info->aConstraintUsage[i].argvIndex = ++*count;
    if (comparison == PLAN_IN)
        sqlite3_vtab_in(info, i, 1);
    info->aConstraintUsage[i].omit = omit;
    sqlite3_str_appendf(text, is_bare_name(name_of(t, on)) ? "%s" : "\"%w\"", name_of(t, on));
    sqlite3_str_appendall(text, operator_texts[comparison]);
    if (collation)
        sqlite3_str_appendf(text, " COLLATE \"%w\"", collation);
    return SQLITE_OK;
}

/* Whether the search answers all constraints, so that SQLite leaves out no row. */
static int takes_all(const sqlite3_index_info *info, plan_kind kind, const choice *chosen)
{
    int taken = chosen->term_count;
    for (int i = 0; i < info->nConstraint; i++)
        taken += is_value(kind, chosen, i);
    return taken == info->nConstraint;
}

/* Whether a stream must be in order beyond the rows that a limit asks for. */
static int must_be_exact(const plan_table *t, const sqlite3_index_info *info, plan_kind kind,
                         const choice *chosen)
{
    int is_limited = chosen->constraint[PLAN_LIMIT] >= 0 && takes_all(info, kind, chosen);
    return t->is_approximate && kind == PLAN_STREAM && info->nOrderBy > 0 && !is_limited;
}

/* Number the values, those of the kind first, and write the text. */
static int encode(const plan_table *t, sqlite3_index_info *info, plan_kind kind,
                  const choice *chosen, char **message)
{
    int count = 0, rc = SQLITE_OK;
    sqlite3_str *text = sqlite3_str_new(NULL);
    sqlite3_str_appendall(text, kind_names[kind]);
    if (must_be_exact(t, info, kind, chosen))
        sqlite3_str_appendf(text, " %s", exact_word);
    for (int value = 0; value < PLAN_VALUES; value++) {
        int i = chosen->constraint[value];
        if (i < 0 || !kind_uses(kind, value, chosen))
            continue;
        info->aConstraintUsage[i].argvIndex = ++count;
        /* A limit is only a hint. */
        info->aConstraintUsage[i].omit = value <= PLAN_RERANK;
        sqlite3_str_appendf(text, " %s", value_names[value]);
    }
    for (int i = 0; rc == SQLITE_OK && i < chosen->term_count; i++) {
        sqlite3_str_appendall(text, i ? " AND " : " filter(");
        rc = encode_term(t, info, chosen->terms[i], &count, text, message);
    }
    if (chosen->term_count)
        sqlite3_str_appendchar(text, 1, ')');
    info->idxNum = kind;
    info->idxStr = sqlite3_str_finish(text);
    info->needToFreeIdxStr = 1;
    return rc != SQLITE_OK ? rc : info->idxStr ? SQLITE_OK : SQLITE_NOMEM;
}

/* ---- xBestIndex ---- */

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

/* Where this is for a side of an OR (-1 if not), its own constraints lower no price:
** they are the first `side`. */
static void estimate(const plan_table *t, sqlite3_index_info *info, const choice *chosen, int side)
{
    plan_kind kind = kind_of(chosen, side < 0 ? 0 : side);
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
        if (value_of(t, &info->aConstraint[i]) == PLAN_VECTOR)
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

static int make_plan(const plan_table *t, sqlite3_index_info *info, int side, char **message)
{
    choice chosen = {.row = -1};
    int rc = check_id_collation(t, info, message);
    if (rc == SQLITE_OK)
        rc = choose_values(t, info, &chosen, message);
    if (rc != SQLITE_OK)
        return rc;
    for (int value = PLAN_NEIGHBOURS; value <= PLAN_RERANK; value++) {
        if (chosen.constraint[value] >= 0 && chosen.constraint[PLAN_VECTOR] < 0)
            return set_message(message, sqlite3_mprintf("%s: %s needs a vector: add %s MATCH ...",
                                                        t->name, value_names[value], t->embedding));
    }
    plan_kind kind = kind_of(&chosen, 0);
    rc = choose_terms(t, info, kind, &chosen, message);
    if (rc != SQLITE_OK)
        return rc;
    estimate(t, info, &chosen, side);
    info->orderByConsumed =
        (kind == PLAN_KNN || kind == PLAN_STREAM) && order_is_nearest_first(t, info);
    return encode(t, info, kind, &chosen, message);
}

int plan_best_index(plan_table *t, sqlite3_index_info *info, char **message)
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

void plan_forget_offer(plan_table *t)
{
    t->offer = (plan_offer){.count = 0};
}

/* ---- reading the text ---- */

/* The name at the start of *text among `names`, and step over it. */
static int read_name(char **text, const char *const *names, int count)
{
    size_t length = strcspn(*text, " ");
    for (int i = 0; i < count; i++) {
        if (strlen(names[i]) == length && memcmp(names[i], *text, length) == 0) {
            *text += length;
            *text += **text == ' ';
            return i;
        }
    }
    return -1;
}

/* An identifier, bare or in double quotes, ended by NUL in place; NULL if there
** is none. *text is what follows, and *ended the byte that the NUL replaced. */
static char *read_identifier(char **text, char *ended)
{
    char *name = *text, *from = name, *to = name;
    if (*from == '"') {
        for (from++; *from && (*from != '"' || from[1] == '"'); from++) {
            from += *from == '"';
            *to++ = *from;
        }
        if (*from != '"')
            return NULL;
        from++;
    } else {
        while (*from && !strchr(" =!<>)", *from))
            *to++ = *from++;
    }
    *text = from;
    *ended = *from;
    *to = 0;
    return to > name ? name : NULL;
}

static int on_of(const plan_table *t, const char *name)
{
    for (int on = PLAN_ON_DISTANCE; on < t->column_count; on++) {
        if (strcmp(name_of(t, on), name) == 0)
            return on;
    }
    return PLAN_ON_DISTANCE - 1;
}

/* Read "name<comparison>[ COLLATE name]"; the values are numbered on. */
static int read_term(const plan_table *t, char **text, int *read, plan_term *term)
{
    char ended;
    char *name = read_identifier(text, &ended);
    term->on = name ? on_of(t, name) : PLAN_ON_DISTANCE - 1;
    if (term->on < PLAN_ON_DISTANCE)
        return SQLITE_CORRUPT;
    **text = ended;
    int comparison = 0;
    while (comparison < PLAN_OPERATORS &&
           strncmp(*text, operator_texts[comparison], strlen(operator_texts[comparison])) != 0)
        comparison++;
    if (comparison == PLAN_OPERATORS)
        return SQLITE_CORRUPT;
    *text += strlen(operator_texts[comparison]);
    term->comparison = (plan_operator)comparison;
    term->at = comparison == PLAN_IS_NULL || comparison == PLAN_NOT_NULL ? -1 : (*read)++;
    term->collation = NULL;
    static const char collate[] = " COLLATE ";
    if (strncmp(*text, collate, strlen(collate)) == 0) {
        *text += strlen(collate);
        term->collation = read_identifier(text, &ended);
        if (!term->collation)
            return SQLITE_CORRUPT;
        /* The quote that closed the name is where its end is marked. */
    }
    return SQLITE_OK;
}

static int read_terms(const plan_table *t, char *text, int *read, plan *out)
{
    static const char open[] = "filter(", and[] = " AND ";
    if (!*text)
        return SQLITE_OK;
    if (strncmp(text, open, strlen(open)) != 0)
        return SQLITE_CORRUPT;
    text += strlen(open);
    out->terms = sqlite3_malloc64(TERMS_MOST * sizeof *out->terms);
    if (!out->terms)
        return SQLITE_NOMEM;
    for (;;) {
        if (out->term_count == TERMS_MOST)
            return SQLITE_CORRUPT;
        int rc = read_term(t, &text, read, &out->terms[out->term_count++]);
        if (rc != SQLITE_OK)
            return rc;
        if (*text == ')')
            return text[1] ? SQLITE_CORRUPT : SQLITE_OK;
        if (strncmp(text, and, strlen(and)) != 0)
            return SQLITE_CORRUPT;
        text += strlen(and);
    }
}

int plan_decode(const plan_table *t, int number, const char *text, int count, plan *out)
{
    *out = (plan){.text = sqlite3_mprintf("%s", text ? text : "")};
    memset(out->at, -1, sizeof out->at);
    if (!out->text)
        return SQLITE_NOMEM;
    char *rest = out->text;
    int kind = read_name(&rest, kind_names, PLAN_KINDS);
    int read = 0, rc = kind < 0 || kind != number ? SQLITE_CORRUPT : SQLITE_OK;
    out->kind = (plan_kind)kind;
    const char *const exact[] = {exact_word};
    out->is_exact = read_name(&rest, exact, 1) == 0;
    int value;
    while (rc == SQLITE_OK && (value = read_name(&rest, value_names, PLAN_VALUES)) >= 0) {
        rc = out->at[value] >= 0 ? SQLITE_CORRUPT : SQLITE_OK;
        out->at[value] = read++;
    }
    if (rc == SQLITE_OK)
        rc = read_terms(t, rest, &read, out);
    if (rc == SQLITE_OK && read != count)
        rc = SQLITE_CORRUPT;
    if (rc != SQLITE_OK)
        plan_clear(out);
    return rc;
}

void plan_clear(plan *p)
{
    sqlite3_free(p->terms);
    sqlite3_free(p->text);
    *p = (plan){.kind = PLAN_SCAN};
}
