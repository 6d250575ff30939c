/*
** Memory for many vectors that are filled at once. The system gives memory page by page, and to
** fill as many small ones as an index has takes about as long as to read the table: so they are
** huge pages, where the system has them.
*/
#ifndef VECTOR_MEMORY_H
#define VECTOR_MEMORY_H

#include <stddef.h>

/* Memory of `bytes` in huge pages, and how many bytes that are in *mapped. NULL, and 0, where there
** is none, or it would be less than one page: then malloc() is to be used. */
float *vector_memory_map(size_t bytes, size_t *mapped);

/* Give back memory of vector_memory_map(), or, where `mapped` is 0, of malloc(). */
void vector_memory_free(float *vectors, size_t mapped);

#endif
