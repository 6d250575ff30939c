/*
** The table-valued function of all pairs:
**
**   faiss_neighbors(database, table, k)   id, neighbor, score, distance
*/
#ifndef NEIGHBORS_TABLE_H
#define NEIGHBORS_TABLE_H

#include "connection.h"

/* Register it on the connection. */
int neighbors_table_register(connection *c);

#endif
