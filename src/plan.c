#include "plan.h"

#include <string.h>

static const char *const kind_names[PLAN_KINDS] = {"scan", "lookup", "knn", "stream", "point"};
static const char *const value_names[PLAN_VALUES] = {"database", "table", "vector", "k",
                                                     "id",       "rowid", "limit",  "offset"};

/* Costs in units of reading one row from a B-tree. Scoring a row in memory is a
** fraction of that; a point plan does one look-up, but is priced above a whole
** stream with a look-up a row, so that SQLite lets the search drive the join
** wherever the order is free. */
static const double SEARCH_COST_PER_ROW = 0.1, STREAM_COST_PER_ROW = 1, SCAN_COST_PER_ROW = 2,
                    POINT_COST_PER_ROW = 50, LOOKUP_COST = 5, START_COST = 50;
enum { NEIGHBOURS_GUESSED = 10, TEXT_SIZE = 96 };
enum { OMIT_HONOURED = 16 /* SQLite checks constraints beyond these again, whatever omit says */ };

/* The constraint chosen for each value: its index, -1 for none. */
typedef struct choice {
    int constraint[PLAN_VALUES];
} choice;

static int set_message(char **message, char *text)
{
    *message = text;
    return text ? SQLITE_ERROR : SQLITE_NOMEM;
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
        return equal && t->has_rowid ? PLAN_ROWID : -1;
    if (c->iColumn == t->vector && (equal || c->op == SQLITE_INDEX_CONSTRAINT_MATCH))
        return PLAN_VECTOR;
    if (!equal)
        return -1;
    if (c->iColumn == t->neighbours)
        return PLAN_NEIGHBOURS;
    if (c->iColumn == t->database)
        return PLAN_DATABASE;
    if (c->iColumn == t->table)
        return PLAN_TABLE;
    return c->iColumn == t->id ? PLAN_ID : -1;
}

/* The error for two vectors, `k IN (…)` and the like. */
static int refuse_value(const plan_table *t, int value, const char *why, char **message)
{
    return set_message(message, sqlite3_mprintf("%s: %s %s", t->name, value_names[value], why));
}

/* Whether SQLite would compare this id as the source's column does. */
static int id_compares_alike(const plan_table *t, sqlite3_index_info *info, int i)
{
    const char *collation = sqlite3_vtab_collation(info, i);
    return collation && sqlite3_stricmp(collation, t->id_collation) == 0;
}

/*
** Choose the constraints that supply values. A vector, k or argument that is
** there but cannot be had now means that this order of joins is none
** (SQLITE_CONSTRAINT); an id that cannot be had is simply not used.
*/
static int choose(const plan_table *t, sqlite3_index_info *info, choice *chosen, char **message)
{
    memset(chosen->constraint, -1, sizeof chosen->constraint);
    int unusable = 0;
    for (int i = 0; i < info->nConstraint; i++) {
        const struct sqlite3_index_constraint *c = &info->aConstraint[i];
        int value = value_of(t, c);
        if (value < 0)
            continue;
        int needed = value == PLAN_VECTOR || value == PLAN_NEIGHBOURS || value == PLAN_DATABASE ||
                     value == PLAN_TABLE;
        if (!c->usable) {
            unusable |= needed;
            continue;
        }
        if (needed && i >= OMIT_HONOURED)
            return refuse_value(t, value, "must come earlier in the WHERE clause", message);
        if (needed && sqlite3_vtab_in(info, i, -1))
            return refuse_value(t, value, "must be one value, not IN (...)", message);
        if (needed && chosen->constraint[value] >= 0)
            return refuse_value(t, value, "is given twice", message);
        if (value == PLAN_ID && !id_compares_alike(t, info, i))
            continue;
        if (chosen->constraint[value] < 0)
            chosen->constraint[value] = i;
    }
    return unusable ? SQLITE_CONSTRAINT : SQLITE_OK;
}

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

static plan_kind kind_of(const choice *chosen)
{
    int has_row = chosen->constraint[PLAN_ID] >= 0 || chosen->constraint[PLAN_ROWID] >= 0;
    if (chosen->constraint[PLAN_VECTOR] < 0)
        return has_row ? PLAN_LOOKUP : PLAN_SCAN;
    if (chosen->constraint[PLAN_NEIGHBOURS] >= 0)
        return PLAN_KNN;
    return has_row ? PLAN_POINT : PLAN_STREAM;
}

/* An `id IN (…)` taken as one value makes SQLite run the search once for each
** element; that is right for look-ups, and for nothing that is ordered. */
static void leave_out_lists(sqlite3_index_info *info, choice *chosen)
{
    if (chosen->constraint[PLAN_VECTOR] < 0)
        return;
    for (int value = PLAN_ID; value <= PLAN_ROWID; value++) {
        int i = chosen->constraint[value];
        if (i >= 0 && sqlite3_vtab_in(info, i, -1))
            chosen->constraint[value] = -1;
    }
}

/* Which of the values chosen the kind of plan uses. */
static int kind_uses(plan_kind kind, int value, const choice *chosen)
{
    switch (value) {
    case PLAN_DATABASE:
    case PLAN_TABLE:
        return 1;
    case PLAN_VECTOR:
        return kind >= PLAN_KNN;
    case PLAN_NEIGHBOURS:
        return kind == PLAN_KNN;
    case PLAN_ROWID:
        return kind == PLAN_LOOKUP || kind == PLAN_POINT;
    case PLAN_ID:
        return (kind == PLAN_LOOKUP || kind == PLAN_POINT) && chosen->constraint[PLAN_ROWID] < 0;
    case PLAN_OFFSET:
        return kind == PLAN_STREAM && chosen->constraint[PLAN_LIMIT] >= 0;
    default:
        return kind == PLAN_STREAM;
    }
}

/* Number the values in the order of plan_value and write the text. */
static int encode(sqlite3_index_info *info, plan_kind kind, const choice *chosen)
{
    char text[TEXT_SIZE];
    int length = 0, count = 0;
    sqlite3_snprintf(sizeof text, text, "%s", kind_names[kind]);
    for (int value = 0; value < PLAN_VALUES; value++) {
        int i = chosen->constraint[value];
        if (i < 0 || !kind_uses(kind, value, chosen))
            continue;
        info->aConstraintUsage[i].argvIndex = ++count;
        /* An id is compared once more by SQLite, a limit is only a hint. */
        info->aConstraintUsage[i].omit = value <= PLAN_NEIGHBOURS;
        length = (int)strlen(text);
        sqlite3_snprintf((int)sizeof text - length, text + length, " %s", value_names[value]);
    }
    info->idxNum = kind;
    info->idxStr = sqlite3_mprintf("%s", text);
    info->needToFreeIdxStr = 1;
    return info->idxStr ? SQLITE_OK : SQLITE_NOMEM;
}

static void estimate(const plan_table *t, sqlite3_index_info *info, plan_kind kind)
{
    double rows = (double)t->rows;
    switch (kind) {
    case PLAN_KNN:
        info->estimatedCost = START_COST + rows * SEARCH_COST_PER_ROW;
        info->estimatedRows = NEIGHBOURS_GUESSED;
        break;
    case PLAN_STREAM:
        info->estimatedCost = START_COST + rows * STREAM_COST_PER_ROW;
        info->estimatedRows = t->rows;
        break;
    case PLAN_POINT:
        info->estimatedCost = START_COST + rows * POINT_COST_PER_ROW;
        info->estimatedRows = 1;
        break;
    case PLAN_LOOKUP:
        info->estimatedCost = LOOKUP_COST;
        info->estimatedRows = 1;
        break;
    default:
        info->estimatedCost = START_COST + rows * SCAN_COST_PER_ROW;
        info->estimatedRows = t->rows;
        break;
    }
}

int plan_best_index(const plan_table *t, sqlite3_index_info *info, char **message)
{
    choice chosen;
    int rc = choose(t, info, &chosen, message);
    if (rc != SQLITE_OK)
        return rc;
    if (chosen.constraint[PLAN_NEIGHBOURS] >= 0 && chosen.constraint[PLAN_VECTOR] < 0)
        return refuse_value(t, PLAN_NEIGHBOURS, "needs a vector: add embedding MATCH ...", message);
    if (t->database >= 0 &&
        (chosen.constraint[PLAN_DATABASE] < 0 || chosen.constraint[PLAN_TABLE] < 0 ||
         chosen.constraint[PLAN_VECTOR] < 0)) {
        return set_message(message,
                           sqlite3_mprintf("%s(database, table, embedding [, k]): an argument is "
                                           "missing",
                                           t->name));
    }
    leave_out_lists(info, &chosen);
    plan_kind kind = kind_of(&chosen);
    estimate(t, info, kind);
    info->orderByConsumed =
        (kind == PLAN_KNN || kind == PLAN_STREAM) && order_is_nearest_first(t, info);
    return encode(info, kind, &chosen);
}

/* The name at the start of *text among `names`, and step over it. */
static int read_name(const char **text, const char *const *names, int count)
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

int plan_decode(int number, const char *text, int count, plan *out)
{
    memset(out->at, -1, sizeof out->at);
    int kind = text ? read_name(&text, kind_names, PLAN_KINDS) : -1;
    if (kind < 0 || kind != number)
        return SQLITE_CORRUPT;
    out->kind = (plan_kind)kind;
    int read = 0;
    while (*text) {
        int value = read_name(&text, value_names, PLAN_VALUES);
        if (value < 0 || out->at[value] >= 0)
            return SQLITE_CORRUPT;
        out->at[value] = read++;
    }
    return read == count ? SQLITE_OK : SQLITE_CORRUPT;
}
