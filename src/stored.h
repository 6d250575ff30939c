/*
** The stored approximate index of a snapshot's definition: which faiss tables of the connection
** may have one, loading it, and storing it. How it is stored: checkpoint.h.
*/
#ifndef STORED_H
#define STORED_H

#include "snapshot.h"

/* Load what is stored with the first faiss table of the same definition that has something that can
** be used; `of` is a snapshot with a version. Of a growth_loader: *out is NULL where there is none. */
int stored_load(void *of, approximate **out, char **message);

/* Store the approximate index, where there is one, with the faiss table schema.table; not with one
** in temp. Part of the caller's write transaction. */
int stored_save(snapshot *s, const char *schema, const char *table, char **message);

#endif
