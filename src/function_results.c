#include "function_results.h"

#include "json.h"

void result_failure(sqlite3_context *context, int rc, char *message)
{
    if (rc == SQLITE_NOMEM) {
        sqlite3_result_error_nomem(context);
    } else {
        if (message)
            sqlite3_result_error(context, message, -1);
        sqlite3_result_error_code(context, rc); /* keeps the message */
    }
    sqlite3_free(message);
}

void result_json(sqlite3_context *context, sqlite3_str *json)
{
    int rc = sqlite3_str_errcode(json);
    int length = sqlite3_str_length(json);
    char *text = sqlite3_str_finish(json);
    if (rc == SQLITE_TOOBIG) {
        sqlite3_free(text);
        sqlite3_result_error_toobig(context);
    } else if (rc != SQLITE_OK || !text) {
        sqlite3_free(text);
        sqlite3_result_error_nomem(context);
    } else {
        sqlite3_result_text(context, text, length, sqlite3_free);
        sqlite3_result_subtype(context, JSON_SUBTYPE);
    }
}

int append_neighbour(sqlite3_str *json, const row_value *id, const float *score, const char *row,
                     char **message)
{
    if (sqlite3_str_length(json) > 1)
        sqlite3_str_append(json, ", ", 2);
    if (score)
        sqlite3_str_appendchar(json, 1, '[');
    if (json_append_id(json, id) != SQLITE_OK) {
        char *shown = value_describe(id);
        *message = sqlite3_mprintf("the id %s %s is a BLOB, which JSON cannot hold: use the "
                                   "virtual table, or an id of another type",
                                   shown ? shown : "", row);
        sqlite3_free(shown);
        return *message ? SQLITE_ERROR : SQLITE_NOMEM;
    }
    if (score) {
        sqlite3_str_append(json, ", ", 2);
        json_append_double(json, *score);
        sqlite3_str_appendchar(json, 1, ']');
    }
    return SQLITE_OK;
}
