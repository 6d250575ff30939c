/*
** The table-valued functions:
**
**   faiss_search(database, table, embedding [, k])   id, score, distance
**   faiss_indexes                                    what lives in this process
*/
#ifndef SEARCH_TABLE_H
#define SEARCH_TABLE_H

#include "connection.h"

/* Register them on the connection. */
int search_table_register(connection *c);

#endif
