/*
** The shadow table NAME_config(k, v): what a faiss table must know of its source
** without asking it, since connecting must work when the source is gone.
**
**   version       1: of this format
**   index_id      16 hexadecimal digits, random, made with the table
**   embedding     the name of the embedding column
**   id_affinity, id_collation    of the id
**   id_is_rowid, has_rowid       1 or 0
**   dimension     of the rows, if there were any
**   source, id    the table in the same schema, and its id column, if it has one
**   strict, live  1 or 0; live: the source has a change log for this table
**   column 0000   ["name", "affinity", "collation"] of the other columns, in order
*/
#ifndef CONFIG_H
#define CONFIG_H

#include "plan.h"
#include "source.h"

/* The faiss table that the shadow table belongs to; texts are borrowed. */
typedef struct config_place {
    sqlite3 *db;
    const char *schema, *table;
    int is_approximate; /* matters when columns are loaded */
} config_place;

/* What of the source is needed to declare columns; texts are owned. */
typedef struct column_list {
    char *embedding, *id_affinity, *id_collation;
    int id_is_rowid, has_rowid;
    int is_approximate;   /* names of further columns are taken */
    int live;             /* as stored */
    plan_column *columns; /* the others, under names that are free */
    int count;
} column_list;

/* The columns of a faiss table `table` over this source. SQLITE_OK or SQLITE_NOMEM; on failure,
** too, clear it. */
int column_list_of(const source *s, const char *table, int is_approximate, column_list *out);

/* Free what it owns, and make it empty. */
void column_list_clear(column_list *l);

/* What else is stored: what the source's triggers are made from (storage.h). */
typedef struct config_settings {
    const char *source, *id; /* id may be NULL */
    int dimension, strict, live;
} config_settings;

/* Make and fill the shadow table, or fill it again, within the caller's write transaction. SQLite's
** codes, with a message. */
int config_create(const config_place *place, const column_list *l, const config_settings *settings,
                  char **message);
int config_refill(const config_place *place, const column_list *l, const config_settings *settings,
                  char **message);

/* Read the settings as far as they are there and make sense; what is missing is
** as if the source had just `embedding` and an id that nothing is known of. A
** format that is not ours gives a message in *damage, and SQLITE_OK. */
int config_load(const config_place *place, const char *embedding, column_list *out, char **damage);

/* The message for settings that cannot be used; `found` says what is wrong. NULL when memory is
** short; the caller frees it. */
char *config_describe_damage(const config_place *place, const char *found);

/* Drop the shadow table, or rename it along with its table. SQLite's codes. */
int config_drop(const config_place *place);
int config_rename(const config_place *place, const char *table);

#endif
