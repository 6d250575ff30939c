/*
** The table-valued function that measures an approximate index:
**
**   faiss_recall(database, table, k [, sample])   ef_search, nprobe, rerank, recall, ms,
**                                                 exact_ms, sampled, kind
*/
#ifndef RECALL_TABLE_H
#define RECALL_TABLE_H

#include "connection.h"

/* Register it on the connection. */
int recall_table_register(connection *c);

#endif
