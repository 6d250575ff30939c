#include "filter.h"

#include <string.h>

#include "message.h"

enum { FIRST_PARAMETER = 2 };

/* How the values of a term compare with its column. */
typedef enum doubt {
    CERTAIN,        /* the same by whatever affinity */
    NUMBERS_TOO,    /* text for a column that converts nothing: numbers may match */
    TEXTS_TOO,      /* a number for such a column: texts may match */
    LEFT_TO_SQLITE, /* a number for a TEXT column: every row may match */
} doubt;

typedef struct builder {
    const plan *plan;
    const plan_table *table;
    const char *rowid, *id, *bare_id;
    int most;
    sqlite3_value **argv;
    filter *filter;
    sqlite3_str *sql;
    int capacity;
    char **message;
} builder;

static int add_value(builder *b, sqlite3_value *value)
{
    filter *f = b->filter;
    if (f->count == b->capacity) {
        int capacity = b->capacity ? 2 * b->capacity : 8;
        sqlite3_value **values =
            sqlite3_realloc64(f->values, (sqlite3_uint64)capacity * sizeof *values);
        if (!values)
            return SQLITE_NOMEM;
        f->values = values;
        b->capacity = capacity;
    }
    f->values[f->count] = sqlite3_value_dup(value);
    return f->values[f->count++] ? SQLITE_OK : SQLITE_NOMEM;
}

static doubt doubt_of(const plan_term *term, const plan_table *t, sqlite3_value *value)
{
    int type = sqlite3_value_type(value);
    int is_number = type == SQLITE_INTEGER || type == SQLITE_FLOAT;
    if (term->on == PLAN_ON_ROWID || term->comparison == PLAN_LIKE || term->comparison == PLAN_GLOB)
        return CERTAIN;
    const char *affinity = term->on >= 0 ? t->columns[term->on].affinity : t->id_affinity;
    const char *collation = term->on >= 0 ? t->columns[term->on].collation : "BINARY";
    if (sqlite3_stricmp(collation, "BINARY") != 0)
        return CERTAIN; /* answered by the source alone */
    if (strcmp(affinity, "TEXT") == 0)
        return is_number ? LEFT_TO_SQLITE : CERTAIN;
    if (strcmp(affinity, "BLOB") == 0)
        return is_number ? TEXTS_TOO : type == SQLITE_TEXT ? NUMBERS_TOO : CERTAIN;
    return CERTAIN;
}

/* What a term compares. Where an id is declared without affinity and collation,
** equality by those of its column lets through a row too many at worst, and can use
** an index; other comparisons must do without them. */
static char *column_of(const builder *b, const plan_term *term)
{
    int equals =
        term->comparison == PLAN_EQ || term->comparison == PLAN_IS || term->comparison == PLAN_IN;
    if (term->on == PLAN_ON_ROWID)
        return sqlite3_mprintf("%s", b->rowid);
    if (term->on == PLAN_ON_ID)
        return sqlite3_mprintf("%s", b->bare_id && !equals ? b->bare_id : b->id);
    return sqlite3_mprintf("s.\"%w\"", b->table->columns[term->on].name);
}

/* The values that a term compares with: of a list, or the one. *worst is what
** they leave in doubt. */
static int add_values(builder *b, const plan_term *term, doubt *worst)
{
    *worst = CERTAIN;
    if (term->at < 0)
        return SQLITE_OK;
    sqlite3_value *value = b->argv[term->at];
    int rc = term->comparison == PLAN_IN ? sqlite3_vtab_in_first(value, &value) : SQLITE_OK;
    while (rc == SQLITE_OK) {
        doubt each = doubt_of(term, b->table, value);
        if (*worst != CERTAIN && each != CERTAIN && each != *worst)
            *worst = LEFT_TO_SQLITE; /* numbers and texts in one list */
        else if (each != CERTAIN)
            *worst = each;
        rc = add_value(b, value);
        if (rc == SQLITE_OK && b->filter->count > b->most)
            return SQLITE_TOOBIG;
        if (rc != SQLITE_OK || term->comparison != PLAN_IN)
            return rc;
        rc = sqlite3_vtab_in_next(b->argv[term->at], &value);
    }
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static void append_comparison(builder *b, const plan_term *term, int first)
{
    static const char *const signs[] = {" = ",  " <> ",     " < ",   " <= ",   " > ",   " >= ",
                                        " IS ", " IS NOT ", " IN (", " LIKE ", " GLOB "};
    if (term->comparison == PLAN_IS_NULL) {
        sqlite3_str_appendall(b->sql, " IS NULL");
    } else if (term->comparison == PLAN_NOT_NULL) {
        sqlite3_str_appendall(b->sql, " IS NOT NULL");
    } else {
        sqlite3_str_appendall(b->sql, signs[term->comparison]);
        /* Numbered, each parameter would be looked for among all before it. */
        for (int i = first; i < b->filter->count; i++)
            sqlite3_str_appendf(b->sql, i == 0 ? "?%d" : i > first ? ", ?" : "?", FIRST_PARAMETER);
        if (term->comparison == PLAN_IN)
            sqlite3_str_appendchar(b->sql, 1, ')');
    }
}

/* Append " AND (column = ?2)", with the rows in doubt let through. */
static int append_term(builder *b, const plan_term *term, int first, doubt worst)
{
    char *column = column_of(b, term);
    if (!column)
        return SQLITE_NOMEM;
    sqlite3_str_appendf(b->sql, " AND (%s", column);
    if (term->collation)
        sqlite3_str_appendf(b->sql, " COLLATE \"%w\"", term->collation);
    append_comparison(b, term, first);
    /* Numbers sort before all texts, texts before all blobs: two ranges that an
    ** index of the column can answer. */
    if (worst == NUMBERS_TOO)
        sqlite3_str_appendf(b->sql, " OR %s < ''", column);
    else if (worst == TEXTS_TOO)
        sqlite3_str_appendf(b->sql, " OR (%s >= '' AND %s < x'')", column, column);
    sqlite3_str_appendchar(b->sql, 1, ')');
    sqlite3_free(column);
    return SQLITE_OK;
}

static void drop_values(filter *f, int from)
{
    while (f->count > from)
        sqlite3_value_free(f->values[--f->count]);
}

/* Whether SQLite does not check the term again: it has forgotten the collation. */
static int is_ours_alone(const builder *b, const plan_term *term)
{
    return term->on >= 0 && !term->collation &&
           sqlite3_stricmp(b->table->columns[term->on].collation, "BINARY") != 0;
}

static int add_term(builder *b, const plan_term *term)
{
    if (term->on == PLAN_ON_SCORE || term->on == PLAN_ON_DISTANCE)
        return SQLITE_OK;
    int first = b->filter->count;
    int counts = b->plan->kind == PLAN_KNN; /* what is left to SQLite would be cut by k */
    doubt worst;
    int rc = add_values(b, term, &worst);
    if (rc == SQLITE_TOOBIG && counts) {
        return set_message(b->message, sqlite3_mprintf("%s: a list of more than %d values cannot "
                                                       "be combined with k: use ORDER BY distance "
                                                       "LIMIT n",
                                                       b->table->name, b->most));
    }
    if (rc == SQLITE_TOOBIG && is_ours_alone(b, term)) {
        const plan_column *column = &b->table->columns[term->on];
        return set_message(b->message,
                           sqlite3_mprintf("%s: a list of more than %d values for %s, whose "
                                           "collation is %s: join with it instead",
                                           b->table->name, b->most, column->offered,
                                           column->collation));
    }
    if (rc == SQLITE_TOOBIG || (rc == SQLITE_OK && worst == LEFT_TO_SQLITE && !counts)) {
        drop_values(b->filter, first);
        b->filter->is_loose = 1;
        return SQLITE_OK;
    }
    /* <> and its like already let through all values of another type; and with k,
    ** which counts what passes here, the other side is taken to have no affinity of
    ** its own, as constants and parameters have none. */
    if (term->comparison == PLAN_NE || term->comparison == PLAN_IS_NOT || counts)
        worst = CERTAIN;
    b->filter->is_loose |= worst != CERTAIN || (term->on == PLAN_ON_ID && b->bare_id && !counts);
    return rc == SQLITE_OK ? append_term(b, term, first, worst) : rc;
}

int filter_open(const plan *p, const plan_table *t, const char *rowid, const char *id,
                const char *bare_id, int most, sqlite3_value **argv, filter *out, char **message)
{
    *out = (filter){0};
    builder b = {.plan = p,
                 .table = t,
                 .rowid = rowid,
                 .id = id,
                 .bare_id = bare_id,
                 .most = most,
                 .argv = argv,
                 .filter = out,
                 .message = message};
    b.sql = sqlite3_str_new(NULL);
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < p->term_count; i++)
        rc = add_term(&b, &p->terms[i]);
    int length = sqlite3_str_length(b.sql);
    if (rc == SQLITE_OK)
        rc = sqlite3_str_errcode(b.sql);
    out->sql = sqlite3_str_finish(b.sql);
    if (rc == SQLITE_OK && length && !out->sql)
        rc = SQLITE_NOMEM;
    if (rc != SQLITE_OK)
        filter_close(out);
    return rc;
}

void filter_close(filter *f)
{
    drop_values(f, 0);
    sqlite3_free(f->values);
    sqlite3_free(f->sql);
    *f = (filter){0};
}

int filter_bind(const filter *f, sqlite3_stmt *statement)
{
    int rc = SQLITE_OK;
    for (int i = 0; rc == SQLITE_OK && i < f->count; i++)
        rc = sqlite3_bind_value(statement, FIRST_PARAMETER + i, f->values[i]);
    return rc;
}

static int value_equal(sqlite3_value *a, sqlite3_value *b)
{
    int type = sqlite3_value_type(a);
    if (type != sqlite3_value_type(b))
        return 0;
    if (type == SQLITE_INTEGER)
        return sqlite3_value_int64(a) == sqlite3_value_int64(b);
    if (type == SQLITE_FLOAT) {
        double x = sqlite3_value_double(a), y = sqlite3_value_double(b);
        return memcmp(&x, &y, sizeof x) == 0;
    }
    if (type == SQLITE_NULL)
        return 1;
    const void *left =
        type == SQLITE_TEXT ? (const void *)sqlite3_value_text(a) : sqlite3_value_blob(a);
    const void *right =
        type == SQLITE_TEXT ? (const void *)sqlite3_value_text(b) : sqlite3_value_blob(b);
    int bytes = sqlite3_value_bytes(a);
    return bytes == sqlite3_value_bytes(b) &&
           (bytes == 0 || (left && right && memcmp(left, right, (size_t)bytes) == 0));
}

int filter_same_text(const filter *a, const filter *b)
{
    return a->count == b->count && !a->sql == !b->sql && (!a->sql || strcmp(a->sql, b->sql) == 0);
}

int filter_equal(const filter *a, const filter *b)
{
    if (!filter_same_text(a, b))
        return 0;
    for (int i = 0; i < a->count; i++) {
        if (!value_equal(a->values[i], b->values[i]))
            return 0;
    }
    return 1;
}
