/*
** The commands of a faiss table: INSERT INTO t(t) VALUES ('rebuild'), 'optimize',
** 'integrity-check'.
*/
#ifndef COMMANDS_H
#define COMMANDS_H

#include "table.h"

/* Run the command of this name (NULL is none). SQLite's codes, with a message that names the
** commands where it is unknown; SQLITE_CORRUPT_VTAB where 'integrity-check' finds the index to
** differ. */
int command_run(faiss_table *t, const char *name, char **message);

#endif
