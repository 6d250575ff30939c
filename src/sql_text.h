/*
** SQL texts from the folder sql/, compiled in as SQL_NAME, with their {names}
** filled in.
*/
#ifndef SQL_TEXT_H
#define SQL_TEXT_H

#include <stddef.h>

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

/* A copy of `length` bytes of SQL text without white space around it, and without one
** pair of quotes (', ", ` or []); NULL when memory is short. */
char *sql_unquote(const char *text, size_t length);

/* Prepare a text and free it. A NULL text is SQLITE_NOMEM. */
int sql_prepare(sqlite3 *db, char *text, sqlite3_stmt **out);

/* Run a text that gives no rows, and free it. */
int sql_execute(sqlite3 *db, char *text);

/* sqlite3_prepare_v2() of a text that needs no filling in; an interrupt is SQLITE_INTERRUPT, also
** one that SQLite's own tables make an error. */
int sql_prepare_fixed(sqlite3 *db, const char *text, sqlite3_stmt **out);

/* sqlite3_declare_vtab(), which takes an interrupt for an error: SQLITE_INTERRUPT then, with
** the message in *message. `message` may be NULL. */
int sql_declare(sqlite3 *db, const char *columns, char **message);

/* Whether the error that the connection reports is an interrupt, under whatever code. */
int sql_was_interrupted(sqlite3 *db);

/* Look whether the connection was interrupted, or its progress handler asks to stop: a statement
** of some thousand steps. SQLITE_OK, SQLITE_INTERRUPT, or another error. */
int sql_poll(sqlite3 *db);

#endif
