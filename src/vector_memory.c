#include "vector_memory.h"

#include <stdint.h>
#include <stdlib.h>
#ifdef __unix__
#include <sys/mman.h>
#endif

#ifdef MADV_HUGEPAGE
enum { HUGE_PAGE = 2 << 20 };

/* Memory in huge pages, where the system has them, beside malloc(): NULL where there is none. */
static float *map_huge(size_t bytes)
{
    char *begin =
        mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)begin % HUGE_PAGE) % HUGE_PAGE;
    if (before)
        munmap(begin, before);
    munmap(begin + before + bytes, HUGE_PAGE - before);
    madvise(begin + before, bytes, MADV_HUGEPAGE);
    return (float *)(void *)(begin + before);
}

float *vector_memory_map(size_t bytes, size_t *mapped)
{
    *mapped = bytes < HUGE_PAGE ? 0 : (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    float *vectors = *mapped ? map_huge(*mapped) : NULL;
    if (!vectors)
        *mapped = 0;
    return vectors;
}

void vector_memory_free(float *vectors, size_t mapped)
{
    if (mapped)
        munmap(vectors, mapped);
    else
        free(vectors);
}
#else
float *vector_memory_map(size_t bytes, size_t *mapped)
{
    (void)bytes;
    *mapped = 0;
    return NULL;
}

void vector_memory_free(float *vectors, size_t mapped)
{
    (void)mapped;
    free(vectors);
}
#endif
