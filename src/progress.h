/*
** A line on standard error that shows how far an approximate index is built, for who waits for it
** at a terminal. It is drawn where SQLITE_FAISS_PROGRESS is set in the environment, to anything but
** nothing and 0, when the process first builds one:
**
**     [############..................]  40 %  HNSW32: 25,466 of 63,466 rows
**
** It is drawn over itself, ten times a second at most, and wiped away when the build ends, also
** when it is interrupted. Builds of several threads at once take turns on it. There is no lock.
*/
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdint.h>

/* Draw that `done` of `total` rows are in an index of a kind, or `total` are to be learned from
** first, if 0 are. */
void progress_draw(const char *kind, int64_t done, int64_t total);

/* Wipe away what was drawn, if something was. */
void progress_wipe(void);

#endif
