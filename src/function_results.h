/*
** How the SQL functions hand over what they found.
*/
#ifndef FUNCTION_RESULTS_H
#define FUNCTION_RESULTS_H

#include "values.h"

/* Report a failure with its message, which is freed. */
void result_failure(sqlite3_context *context, int rc, char *message);

/* Hand over JSON text, or the error that made it incomplete. Frees `json`. */
void result_json(sqlite3_context *context, sqlite3_str *json);

/* Append `id` or `[id, score]` to an array that was begun. `row` describes the row in the error
** for an id that JSON cannot hold. */
int append_neighbour(sqlite3_str *json, const row_value *id, const float *score, const char *row,
                     char **message);

#endif
