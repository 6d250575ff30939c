/*
** SQL texts from the folder sql/, compiled in as SQL_NAME, with their {names}
** filled in.
*/
#ifndef SQL_TEXT_H
#define SQL_TEXT_H

#include "sql.h"
#include "sqlite_api.h"

/* The template with each {name} replaced by its text; the arguments are pairs
** of name and text, ended by NULL, each text ready to stand in SQL (quoted by
** sql_quote() where it is a name). The caller frees the result; NULL when
** memory is short or a text is NULL. */
char *sql_text(const char *template, ...);

/* A name as an SQL identifier in double quotes; NULL when memory is short. */
char *sql_quote(const char *name);

/* "schema"."name", both quoted. */
char *sql_quote_table(const char *schema, const char *name);

/* Prepare a text and free it. A NULL text is SQLITE_NOMEM. */
int sql_prepare(sqlite3 *db, char *text, sqlite3_stmt **out);

/* Run a text that gives no rows, and free it. */
int sql_execute(sqlite3 *db, char *text);

#endif
