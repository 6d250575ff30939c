/*
** Loading the approximate index that a checkpoint holds, and, where its state is to be trusted, the
** version that it was stored with. Loading goes on where an interrupt has stopped it.
**
** Whatever is wrong with what is stored is logged, and is no error: the index is then built.
*/
#ifndef CHECKPOINT_LOAD_H
#define CHECKPOINT_LOAD_H

#include "checkpoint.h"
#include "checkpoint_format.h"

/* A loading that was interrupted, for the next one of the same shape to go on with, on any
** connection: in what is stored now, if that is what it began with. */
typedef struct checkpoint_loading checkpoint_loading;

/* Free it; NULL is none. */
void checkpoint_loading_close(void *loading);

/* Load what is stored. *out is NULL where nothing is, or what cannot be used, which is logged.
** Everything is verified before FAISS reads it, in one pass over the parts; loading is a second
** one, and takes the memory of a part beside that of the index. An error is SQLite's: an interrupt,
** a file that cannot be read, no memory. *kept is what a former loading has left, or NULL, and then
** what this one leaves. */
int checkpoint_load(const checkpoint_place *place, const checkpoint_shape *shape,
                    checkpoint_loading **kept, index_check *check, void *argument,
                    approximate **out, char **message);

/* Whether a snapshot of `dimension` and as many rows follows from this state: *trusted. */
typedef int checkpoint_trust(void *argument, const checkpoint_state *state, int dimension,
                             int64_t rows, int *trusted, char **message);

/* Load what is stored with its rows, if the trust says so, which is asked first; of any dimension,
** if that of the shape is 0. *out and *version are NULL otherwise. *state is that of the version.
** What is left in *kept when it is loaded gives the same once more, at once, or that it cannot be
** used. */
int checkpoint_restore(const checkpoint_place *place, const checkpoint_shape *shape,
                       checkpoint_trust *trust, checkpoint_loading **kept, index_check *check,
                       void *argument, approximate **out, index_version **version,
                       checkpoint_state *state, char **message);

#endif
