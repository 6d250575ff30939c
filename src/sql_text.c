#include "sql_text.h"

#include <stdarg.h>
#include <string.h>

/* The text for the name of `length` bytes among the pairs, NULL if not there. */
static const char *find_text(va_list pairs, const char *name, int length)
{
    for (;;) {
        const char *key = va_arg(pairs, const char *);
        if (!key)
            return NULL;
        const char *text = va_arg(pairs, const char *);
        if ((int)strlen(key) == length && memcmp(key, name, (size_t)length) == 0)
            return text;
    }
}

char *sql_text(const char *template, ...)
{
    sqlite3_str *out = sqlite3_str_new(NULL);
    int complete = 1;
    while (*template && complete) {
        const char *open = strchr(template, '{');
        const char *close = open ? strchr(open, '}') : NULL;
        if (!close) {
            sqlite3_str_appendall(out, template);
            break;
        }
        sqlite3_str_append(out, template, (int)(open - template));
        va_list pairs;
        va_start(pairs, template);
        const char *text = find_text(pairs, open + 1, (int)(close - open - 1));
        va_end(pairs);
        if (text)
            sqlite3_str_appendall(out, text);
        else
            complete = 0;
        template = close + 1;
    }
    char *result = sqlite3_str_finish(out);
    if (complete)
        return result;
    sqlite3_free(result);
    return NULL;
}

char *sql_quote(const char *name)
{
    return sqlite3_mprintf("\"%w\"", name);
}

char *sql_quote_table(const char *schema, const char *name)
{
    return sqlite3_mprintf("\"%w\".\"%w\"", schema, name);
}

static int is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f';
}

char *sql_unquote(const char *text, size_t length)
{
    while (length && is_space(text[0])) {
        text++;
        length--;
    }
    while (length && is_space(text[length - 1]))
        length--;
    char *out = sqlite3_malloc64(length + 1);
    if (!out)
        return NULL;
    char open = length ? text[0] : 0;
    char close = open == '[' ? ']' : open;
    size_t n = 0;
    if (open && strchr("'\"`[", open) && length >= 2 && text[length - 1] == close) {
        for (size_t i = 1; i + 1 < length; i++) {
            out[n++] = text[i];
            i += text[i] == close && close != ']'; /* a doubled quote */
        }
    } else {
        memcpy(out, text, length);
        n = length;
    }
    out[n] = 0;
    return out;
}

int sql_prepare_fixed(sqlite3 *db, const char *text, sqlite3_stmt **out)
{
    int rc = sqlite3_prepare_v2(db, text, -1, out, NULL);
    return rc == SQLITE_ERROR && sql_was_interrupted(db) ? SQLITE_INTERRUPT : rc;
}

int sql_prepare(sqlite3 *db, char *text, sqlite3_stmt **out)
{
    *out = NULL;
    if (!text)
        return SQLITE_NOMEM;
    int rc = sql_prepare_fixed(db, text, out);
    sqlite3_free(text);
    return rc;
}

int sql_execute(sqlite3 *db, char *text)
{
    if (!text)
        return SQLITE_NOMEM;
    int rc = sqlite3_exec(db, text, NULL, NULL, NULL);
    sqlite3_free(text);
    return rc;
}

int sql_was_interrupted(sqlite3 *db)
{
    return strcmp(sqlite3_errmsg(db), sqlite3_errstr(SQLITE_INTERRUPT)) == 0;
}

int sql_declare(sqlite3 *db, const char *columns, char **message)
{
    int rc = sqlite3_declare_vtab(db, columns);
    if (rc != SQLITE_ERROR || !sql_was_interrupted(db))
        return rc;
    if (message)
        *message = sqlite3_mprintf("%s", sqlite3_errstr(SQLITE_INTERRUPT));
    return SQLITE_INTERRUPT;
}

int sql_poll(sqlite3 *db)
{
    return sqlite3_exec(db,
                        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n "
                        "WHERE i < 300) SELECT count(*) FROM n",
                        NULL, NULL, NULL);
}
