/*
** What a faiss table learns of its source when it is made, and again by 'rebuild': whether it can
** be indexed as asked, what of it is stored (config.h), and whether its changes are logged
** (storage.h). All part of the caller's write transaction.
**
** Functions return SQLite's codes; SQLITE_ERROR comes with a message.
*/
#ifndef TABLE_SOURCE_H
#define TABLE_SOURCE_H

#include "table.h"

/* Find the source, which must not be a faiss table, nor have an embedding column of a name that is
** ours. *s is zero before; source_clear() it, on failure too. */
int table_find_source(const faiss_table *t, source *s, char **message);

/* Check that no name of the table's columns would be hidden by the name of the table, or of the
** embedding column, or hide it. */
int table_check_name(const faiss_table *t, const char *name, const char *embedding, char **message);

/* How the settings are stored: config_create() or config_refill(). */
typedef int table_settings(const config_place *place, const column_list *l,
                           const config_settings *settings, char **message);

/* Check the rows of the source, store what is known of it by `put`, and have its changes logged, by
** triggers that are made `anew`, too, if it can be followed. *l, zero before, is filled in. Reads
** all rows' types and lengths where the table is strict. */
int table_store(faiss_table *t, const source *s, table_settings *put, int anew, column_list *l,
                char **message);

#endif
