/*
** What the arguments of CREATE VIRTUAL TABLE ... USING faiss(database, table [, option=value]...)
** mean.
*/
#ifndef OPTIONS_H
#define OPTIONS_H

#include "connection.h"

/* What SQLite gives to xCreate and xConnect. */
enum {
    ARGUMENT_SCHEMA = 1,
    ARGUMENT_NAME = 2,
    ARGUMENT_DATABASE = 3,
    ARGUMENT_TABLE = 4,
    ARGUMENT_OPTIONS = 5
};

/* Read the arguments into a definition, which is to be cleared, on failure too. On failure a
** message that names what is allowed. */
int options_from_arguments(int argc, const char *const *argv, definition *d, char **message);

/* Read options alone, "metric=cosine, id=slug", into a definition that is otherwise made. */
int options_parse(const char *text, definition *d, char **message);

#endif
