/*
** A line on standard error that shows how far an approximate index is built, for who waits for it
** at a terminal. It is drawn where SQLITE_FAISS_PROGRESS is set in the environment, to anything but
** nothing and 0, when the process first builds one:
**
**     [..............................]   0 %  IVF1024,SQ8: training on 39,936 of 63,466 rows
**     [############..................]  40 %  IVF1024,SQ8: 25,466 of 63,466 rows
**
** It is drawn over itself, ten times a second at most, and wiped away when the build ends, also
** when it is interrupted. Builds of several threads at once take turns on it. There is no lock.
*/
#ifndef PROGRESS_H
#define PROGRESS_H

#include <stdint.h>

/* Draw that an index of a kind learns from a sample of its rows, before any of them is in it. */
void progress_draw_training(const char *kind, int64_t sample, int64_t total);

/* Draw that `done` of `total` rows are in it. */
void progress_draw(const char *kind, int64_t done, int64_t total);

/* Wipe away what was drawn, if something was. */
void progress_wipe(void);

#endif
