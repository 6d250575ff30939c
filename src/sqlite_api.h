/*
** The SQLite API as a loadable extension sees it: every call goes through the
** table of pointers that sqlite3_faiss_init() receives. Compiled with
** SQLITE_CORE (the unit tests), the same names are ordinary functions.
*/
#ifndef SQLITE_API_H
#define SQLITE_API_H

#include <sqlite3ext.h>

SQLITE_EXTENSION_INIT3

/* Told to SQLite 3.45 and later by functions that set a subtype; older
** versions ignore the bit. */
#ifndef SQLITE_RESULT_SUBTYPE
#define SQLITE_RESULT_SUBTYPE 0x001000000
#endif

/* The subtype by which SQLite's JSON functions know JSON text. */
#define JSON_SUBTYPE 'J'

#endif
