/*
** The table-valued function faiss_project: a map of all rows of a table.
*/
#ifndef PROJECT_TABLE_H
#define PROJECT_TABLE_H

#include "connection.h"

/* Register the module. SQLite's codes. */
int project_table_register(connection *c);

#endif
