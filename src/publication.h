/*
** Tables that a host has published: they can be searched from every connection of the
** process that has the extension, under a database name that the host gives, although
** their file is not open there.
**
** A host connection is one that loaded the extension by sqlite3_faiss_host_init(). What it
** publishes is read through it, by whichever thread searches, one at a time: such a
** visit holds a turn among visitors and SQLite's mutex on the connection. Neither is
** waited for where that could go on for ever: a visitor looks every 50 ms whether its own
** connection was interrupted, and a connection that is a host itself visits no other. The
** list, and the ends of hosts, are behind one mutex of publication.c, under which nobody
** waits.
*/
#ifndef PUBLICATION_H
#define PUBLICATION_H

#include "connection.h"

/* A connection that may publish; from publication_open_host() until it is closed. */
typedef struct host host;

/* One table, under one name. */
typedef struct publication publication;

/* Make the connection a host: c->host. */
int publication_open_host(connection *c);
/* Nobody visits it any more, and what it published is gone. Called while SQLite closes the
** connection, before it looks for open statements, and when the connection is released. */
void publication_end_host(connection *c);
/* Let go of a host that has ended. */
void publication_release_host(connection *c);

/* Publish a table of the host's schema `main` as `name`, or publish it anew with other
** options. `d` says how it is indexed, its schema being "main"; `is_table` that
** it is a faiss table's. `entry` is where its index is. A name belongs to one host. */
int publication_add(connection *c, const char *name, const char *table, const definition *d,
                    int is_table, registry_entry *entry, char **message);

/* Take one table of a name back, or all (`table` NULL). Returns how many. */
int publication_remove(connection *c, const char *name, const char *table);

/*
** What `database` means, in this order: a schema of the connection; a published name; the
** stem of an open file. For a published name whose file this connection has open, or
** whose host it is, *schema is where, and *p how the table is published (NULL if it is not
** published). For one whose file is elsewhere *schema is NULL and *p the table. The
** caller frees *schema and releases *p. On failure a message that lists what there is.
*/
int publication_resolve(connection *c, const char *database, const char *table, char **schema,
                        publication **p, char **message);

/* Take and give back a reference, from any thread; NULL is none. */
publication *publication_retain(publication *p);
void publication_release(publication *p);

/* What it is: the name of the database under which it is found, the table's, how it is indexed, and
** whether it is a faiss table. All live as long as a reference. */
const char *publication_name(const publication *p);
const char *publication_table(const publication *p);
const definition *publication_definition(const publication *p);
int publication_is_faiss_table(const publication *p);

/*
** Visit the host on behalf of a connection: on SQLITE_OK *out is the host's connection,
** which the caller has for itself until publication_leave(). An error if the publication
** has ended, if the host is in a write transaction, or if the visitor was interrupted while
** waiting.
*/
int publication_enter(publication *p, connection *visitor, connection **out, char **message);

/* End the visit. */
void publication_leave(publication *p);

/* During a visit: this is where the index is now. */
void publication_move(publication *p, registry_entry *entry);

/* The published name of the index with this serial number, NULL if it has none; the caller
** frees it. */
char *publication_name_of_entry(uint64_t serial);

/* Bytes of memory that the indexes of tables that are not published may take together; 0:
** any number. SQLITE_FAISS_LIMIT_MB in the environment, until it is set. */
int64_t publication_limit(void);
void publication_set_limit(int64_t bytes);

#endif
