/*
** The table-valued function that tells what lives in this process:
**
**   faiss_indexes    database, table, rows, dimension, metric, kind, bytes, ...
*/
#ifndef INDEXES_TABLE_H
#define INDEXES_TABLE_H

#include "connection.h"

/* Register it on the connection. */
int indexes_table_register(connection *c);

#endif
