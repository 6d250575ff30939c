/*
** The table-valued function that searches without a faiss table:
**
**   faiss_search(database, table, embedding [, k])   id, score, distance
*/
#ifndef SEARCH_TABLE_H
#define SEARCH_TABLE_H

#include "connection.h"

/* Register it on the connection. */
int search_table_register(connection *c);

#endif
