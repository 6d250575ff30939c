/*
** The SQL functions of a host connection, which publishes its tables to the other
** connections of the process:
**
**   faiss_publish(name, table [, options]), faiss_unpublish(name [, table]),
**   faiss_limit([bytes])
**
** Each is documented above its implementation. They are registered by
** sqlite3_faiss_host_init() alone, and cannot be called in views and triggers.
*/
#ifndef HOST_H
#define HOST_H

#include "connection.h"

/* Make the connection a host and register its functions. */
int host_register(connection *c);

#endif
