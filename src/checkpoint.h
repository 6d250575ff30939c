/*
** The shadow table NAME_checkpoint(part, checksum, data): the approximate index of a faiss
** table as 'optimize' stored it, so that whoever opens the file loads it instead of building it.
**
**   part 0         the header: what the index is of, the state of the source that it was stored
**                  in, how many rows, parts and bytes there are, random numbers, and checksums
**                  over those of all parts
**   part 1, 2, ... runs of 64 KiB, the last one shorter, of the index: the key and the hash of
**                  each of its rows, and what FAISS writes
**   behind them    the same of the rows that the source had in that state, in their order: the
**                  key and the hash of each
**
** Numbers are little-endian. A part's checksum is that of its bytes, its number and the random
** number of what it is part of, so that parts of two checkpoints do not mix. Whatever is wrong with
** it, the index is built from the source instead, and a line in SQLite's error log says why.
**
** The index knows its rows by keys and hashes (cover.h): which of them a snapshot has can be found
** out by comparing, so that a checkpoint never has to be of the snapshot's own state. Where it can
** be told that the snapshot follows from the state that was stored, its rows are those of then, but
** for what the change log names (stored.h), and the source is not read.
**
** This file makes, drops and renames the table. What its parts look like: checkpoint_format.h; who
** reads and verifies them: checkpoint_reader.h; loading: checkpoint_load.h; storing:
** checkpoint_save.h.
*/
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "sqlite_api.h"

/* The faiss table that the shadow table belongs to; texts are borrowed. */
typedef struct checkpoint_place {
    sqlite3 *db;
    const char *schema, *table;
} checkpoint_place;

/* Make the shadow table, empty; an error where its name is taken. SQLite's codes. */
int checkpoint_create(const checkpoint_place *place, char **message);

/* Drop it. SQLite's codes. */
int checkpoint_drop(const checkpoint_place *place);

/* Rename it along with its table, which is to be `table`, if there is one. SQLite's codes. */
int checkpoint_rename(const checkpoint_place *place, const char *table);

/* For the files that read and write it: a text of sql/ with the table's name in it, and `unless`.
** NULL when memory is short; the caller frees it. */
char *checkpoint_sql(const char *template, const checkpoint_place *place, const char *unless);

/* What failed (`what`: "read", "write") as a message, if there is none and the code is not one of
** SQLITE_OK, SQLITE_NOMEM and SQLITE_INTERRUPT. Returns the code. */
int checkpoint_explain(const checkpoint_place *place, int rc, const char *what, char **message);

#endif
