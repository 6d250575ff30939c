#include "plan.h"

#include <string.h>

static const char *const kind_names[PLAN_KINDS] = {"scan", "lookup", "knn", "stream", "point"};
static const char *const value_names[PLAN_VALUES] = {
    "database", "table", "vector", "k", "ef_search", "nprobe", "rerank", "limit", "offset"};
static const char exact_word[] = "exact";
static const char *const operator_texts[PLAN_OPERATORS] = {
    "=?",        "!=?",     "<?",      "<=?",     ">?",       ">=?",         " IS ?",
    " IS NOT ?", " IN (?)", " LIKE ?", " GLOB ?", " IS NULL", " IS NOT NULL"};

const char *plan_value_name(plan_value value)
{
    return value_names[value];
}

const char *plan_term_name(const plan_table *t, int on)
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

/* ---- writing the text ---- */

static int is_bare_name(const char *name)
{
    size_t letters =
        strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789");
    return *name && !name[letters] && !(*name >= '0' && *name <= '9');
}

/* Append "name<comparison>[ COLLATE name]". */
static void write_term(const plan_table *t, const plan_term *term, sqlite3_str *text)
{
    const char *name = plan_term_name(t, term->on);
    sqlite3_str_appendf(text, is_bare_name(name) ? "%s" : "\"%w\"", name);
    sqlite3_str_appendall(text, operator_texts[term->comparison]);
    if (term->collation)
        sqlite3_str_appendf(text, " COLLATE \"%w\"", term->collation);
}

char *plan_encode(const plan_table *t, const plan *p)
{
    sqlite3_str *text = sqlite3_str_new(NULL);
    sqlite3_str_appendall(text, kind_names[p->kind]);
    if (p->is_exact)
        sqlite3_str_appendf(text, " %s", exact_word);
    for (int value = 0; value < PLAN_VALUES; value++) {
        if (p->at[value] >= 0)
            sqlite3_str_appendf(text, " %s", value_names[value]);
    }
    for (int i = 0; i < p->term_count; i++) {
        sqlite3_str_appendall(text, i ? " AND " : " filter(");
        write_term(t, &p->terms[i], text);
    }
    if (p->term_count)
        sqlite3_str_appendchar(text, 1, ')');
    return sqlite3_str_finish(text);
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
        if (strcmp(plan_term_name(t, on), name) == 0)
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
    out->terms = sqlite3_malloc64(PLAN_TERMS_MOST * sizeof *out->terms);
    if (!out->terms)
        return SQLITE_NOMEM;
    for (;;) {
        if (out->term_count == PLAN_TERMS_MOST)
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
