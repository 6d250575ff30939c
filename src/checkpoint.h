/*
** The shadow table NAME_checkpoint(part, checksum, data): the approximate index of a faiss
** table as 'optimize' stored it, so that whoever opens the file loads it instead of building it.
**
**   part 0         the header: what the index is of, how many rows, parts and bytes it has, the
**                  random number of this checkpoint, and a checksum over those of all parts
**   part 1, 2, ... runs of 64 KiB, the last one shorter, of: the key and the hash of each row, and
**                  the index as FAISS writes it
**
** Numbers are little-endian. A part's checksum is that of its bytes, its number and the number of
** the checkpoint, so that parts of two checkpoints do not mix. Whatever is wrong with it, the
** index is built from the source instead, and a line in SQLite's error log says why.
**
** Rows are known by keys and hashes (cover.h): which of them a snapshot has is found out by
** comparing, so that a checkpoint never has to be of the snapshot's own state.
*/
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include "approximate.h"

/* The faiss table that the shadow table belongs to; texts are borrowed. */
typedef struct checkpoint_place {
    sqlite3 *db;
    const char *schema, *table;
} checkpoint_place;

/* What an index must be of to be stored or loaded. */
typedef struct checkpoint_shape {
    const index_kind *kind;
    vector_metric metric;
    int dimension;
    int is_small; /* it is to be loaded as a small one (approximate.h) */
} checkpoint_shape;

/* Make the shadow table, empty; an error where its name is taken. Drop it. Rename it along with its
** table. SQLite's codes. */
int checkpoint_create(const checkpoint_place *place, char **message);
int checkpoint_drop(const checkpoint_place *place);
int checkpoint_rename(const checkpoint_place *place, const char *table);

/* Store an index in the place of what was stored before; nothing to do where that is the same
** one, undamaged. Part of the caller's transaction, which an error should undo. Takes the memory
** of a part. Asks `check` between parts. */
int checkpoint_save(const checkpoint_place *place, const checkpoint_shape *shape, approximate *a,
                    index_check *check, void *argument, char **message);

/* Load what is stored. *out is NULL where nothing is, or what cannot be used, which is logged.
** Everything is verified before FAISS reads it, in one pass over the parts; loading is a second
** one, and takes the memory of a part beside that of the index. An error is SQLite's: an
** interrupt, a file that cannot be read, no memory. */
int checkpoint_load(const checkpoint_place *place, const checkpoint_shape *shape,
                    index_check *check, void *argument, approximate **out, char **message);

/* Whether what is stored, if anything, is what was stored, of whatever definition: SQLITE_OK, or
** SQLITE_CORRUPT_VTAB with a message that says what is wrong. One pass. */
int checkpoint_verify(const checkpoint_place *place, index_check *check, void *argument,
                      char **message);

/* Whether anything is stored; 0 also where that cannot be read. */
int checkpoint_exists(const checkpoint_place *place);

#endif
