/*
** What time it is, for measuring how long something takes and for waiting no longer than some time.
*/
#ifndef CLOCK_H
#define CLOCK_H

#include <stdint.h>
#include <time.h>

/* Seconds since some moment, by a clock that nobody sets. */
double clock_seconds(void);

/* Milliseconds since some moment by the clock that is read fastest, which may go on by several at a
** time: for what is asked often. */
int64_t clock_milliseconds(void);

/* The moment so many milliseconds from now, as pthread_cond_timedwait() and its like take it. */
struct timespec clock_in(int milliseconds);

#endif
