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

int sql_prepare(sqlite3 *db, char *text, sqlite3_stmt **out)
{
    *out = NULL;
    if (!text)
        return SQLITE_NOMEM;
    int rc = sqlite3_prepare_v2(db, text, -1, out, NULL);
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
