/*
** The triggers that a live source should have: which there are, and their texts, from what the
** faiss tables over it have in their shadow tables and from the source's columns and UNIQUE
** indexes. They are named docs_faiss_…, and one set serves all faiss tables over a source.
*/
#ifndef TRIGGERS_H
#define TRIGGERS_H

#include "source.h"

enum { INSERT_TRIGGER, REPLACE_TRIGGER, TRIGGERS_MOST = 6 }; /* in the order of the list */

/* The triggers that a source should have. */
typedef struct trigger_list {
    char *names[TRIGGERS_MOST];
    char *bodies[TRIGGERS_MOST]; /* all that comes behind CREATE TRIGGER; NULL: nothing to do */
    int count;
} trigger_list;

/* What the triggers are made from. Texts are owned. */
typedef struct trigger_parts {
    const source *source;
    char *table, *log, *trim, *cut; /* names quoted, without the schema; the end of every body */
    int participants;
    int any_conflict;     /* an update of any column may bring about a UNIQUE conflict */
    int any_update;       /* an embedding or an id is generated */
    sqlite3_str *columns; /* of UPDATE OF: "a", "b" */
    sqlite3_str *checks;  /* statements that refuse malformed embeddings */
    sqlite3_str *unfit;   /* whether one of these would: " OR …" */
    sqlite3_str *insert_victims, *update_victims;
    sqlite3_str *insert_found, *update_found, *rowids;
    sqlite3_str *unique_columns;
    char *obstacle;
} trigger_parts;

/* Read what the triggers are made from; what there is of UNIQUE indexes only where there is a live
** table. A few statements on the schema. On failure, too, clear it. */
int trigger_parts_gather(sqlite3 *db, const source *s, trigger_parts *p);
int trigger_parts_gather_conflicts(sqlite3 *db, trigger_parts *p);
void trigger_parts_clear(trigger_parts *p);

/* Whether a live table is over this embedding column. */
int trigger_parts_watch(const trigger_parts *p, const char *column);

/* Make the texts. On failure, too, clear the list. */
int trigger_list_make(const trigger_parts *p, trigger_list *list);

/* Free the texts. */
void trigger_list_clear(trigger_list *list);

/* The place of a trigger by its name, which differs in case perhaps; -1 for none. */
int trigger_list_find(const trigger_list *list, const char *name);

#endif
