/*
** What the command 'optimize' does with the index of a snapshot, and 'rebuild' after it has read
** the source again: all that searches would otherwise do piece by piece is done at once.
*/
#ifndef SNAPSHOT_OPTIMIZE_H
#define SNAPSHOT_OPTIMIZE_H

#include "snapshot.h"

/* Put the index in order for all that use this state, too. Linear in what changed. The
** approximate index gets all rows, and few others; with `anew` it is trained again. An exact one
** gets all its sketches. */
int snapshot_optimize(snapshot *s, int anew, char **message);

#endif
