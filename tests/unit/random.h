/*
** Random numbers, the same in every run: xorshift64 (Marsaglia), and from it the normal
** distribution (Box and Muller).
*/
#ifndef RANDOM_H
#define RANDOM_H

#include <math.h>
#include <stdint.h>

static uint64_t random_state = 88172645463325252u;

/* From 0 to 1, without 1. */
static inline double draw(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (double)(random_state >> 11) * 0x1p-53;
}

/* Of mean 0 and variance 1. */
static inline double normal(void)
{
    return sqrt(-2 * log(draw() + 1e-300)) * cos(6.283185307179586 * draw());
}

#endif
