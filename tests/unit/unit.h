/*
** What every unit test includes: cmocka wants these headers before its own.
*/
#ifndef UNIT_H
#define UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Run a file's tests under its name. */
#define RUN_TESTS(tests) cmocka_run_group_tests_name(__FILE__, tests, NULL, NULL)

/* valgrind takes a hundred times as long: what is long anyway is left out there, or run once. */
static inline int is_slow(void)
{
    const char *under = getenv("SQLITE_FAISS_SANITIZE");
    return under && strcmp(under, "valgrind") == 0;
}

#endif
