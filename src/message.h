/*
** Error messages: made once, where the facts are known, and handed up beside the
** result code in a `char **message`, which whoever reports it frees.
*/
#ifndef MESSAGE_H
#define MESSAGE_H

#include "sqlite_api.h"

/* Hand up a text from sqlite3_mprintf(): SQLITE_ERROR, or SQLITE_NOMEM where there
** was no memory for it. */
static inline int set_message(char **message, char *text)
{
    *message = text;
    return text ? SQLITE_ERROR : SQLITE_NOMEM;
}

#endif
