/*
** The `faiss` module: virtual tables over a source.
**
**   CREATE VIRTUAL TABLE docs_index USING faiss(main, docs [, option=value]...);
**
**   id, score, distance         what SELECT * gives
**   <embedding>  hidden         MATCH it, or =, to search; reads the stored vector
**   k            hidden         how many rows; without it, all of them in order
**   ef_search, nprobe, rerank   hidden, of approximate indexes: how hard to try
**   <table name> hidden         INSERT a command here: 'rebuild', 'optimize',
**                               'integrity-check'
**   every other column of the source, hidden, as source_NAME if its name is one of
**   the above
*/
#ifndef TABLE_H
#define TABLE_H

#include "checkpoint.h"
#include "config.h"
#include "connection.h"
#include "plan.h"

/* A faiss table, or the table-valued function faiss_search, as one connection
** has it open. cursor.c reads it. */
typedef struct faiss_table {
    sqlite3_vtab base;
    connection *connection;
    char *schema, *name;
    definition definition; /* empty for the function, whose arguments define it */
    column_list columns;
    plan_table plan; /* column numbers and estimates; its texts are those above */

    connected_table entry; /* in connection->tables; not for the function */
    live_state past; /* of an approximate index: an entry of the source's log that was there before
                           ** the statement at hand changed anything; seq 0: unknown */
    char *damage;    /* why it cannot be used, if its settings do not make sense */
} faiss_table;

/* Register the module. SQLite's codes. */
int table_register(connection *c);

/* Whether it has an approximate index, or is to have one. */
int table_is_approximate(const faiss_table *t);

/* Where its shadow tables are; texts are borrowed of it. */
config_place table_config_place(const faiss_table *t);
checkpoint_place table_checkpoint_place(const faiss_table *t);

/* xBestIndex of the virtual table and of the table-valued function. */
int table_best_index(sqlite3_vtab *base, sqlite3_index_info *info);

/* Report a failure of a table's method: the message becomes SQLite's. Returns
** rc. */
int table_failure(sqlite3_vtab *base, int rc, char *message);

#endif
