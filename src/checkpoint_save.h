/*
** Storing an approximate index, and the rows that the source has, in a checkpoint.
*/
#ifndef CHECKPOINT_SAVE_H
#define CHECKPOINT_SAVE_H

#include "checkpoint.h"
#include "checkpoint_format.h"

/* What is stored: an index, and the rows of a version in a state in which all changes behind the
** entry of its log are in the version, or named by later entries, too. Without a state: no rows. */
typedef struct checkpoint_content {
    approximate *index;
    const index_version *version; /* in source order, without tails */
    checkpoint_state state;
} checkpoint_content;

/* Store that in the place of what was stored before. What of it is there, undamaged, is not written
** again: the index, the rows, or all. Part of the caller's transaction, which an error should undo.
** Takes the memory of a part. Asks `check` between parts. */
int checkpoint_save(const checkpoint_place *place, const checkpoint_shape *shape,
                    const checkpoint_content *content, index_check *check, void *argument,
                    char **message);

#endif
