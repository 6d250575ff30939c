/*
** Which table the arguments `database` and `table` of a function name (publication_resolve() says
** what a database is), and how its index is defined.
*/
#ifndef NAMING_H
#define NAMING_H

#include "connection.h"

/* The definition that a function's `database` and `table` arguments mean: a plain source with the
** default columns and metric l2, or that of the faiss table of this name; as it is published, under
** a published name. out->through is set where another connection is to be asked (published.h). On
** success definition_clear() it. SQLite's codes; SQLITE_ERROR comes with a message that says what
** there is. */
int naming_define(connection *c, const char *database, const char *table, definition *out,
                  char **message);

#endif
