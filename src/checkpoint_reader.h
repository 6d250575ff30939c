/*
** Reading a checkpoint part by part. Nothing of a part is used before its length, number and
** checksum are as they should be.
**
** What is damaged is no error of the statement at hand: functions return SQLITE_CORRUPT_VTAB and
** say in `damage` what is wrong. Their other codes are errors: of reading, no memory, or what
** `check` returns, which is asked before each part.
*/
#ifndef CHECKPOINT_READER_H
#define CHECKPOINT_READER_H

#include "checkpoint.h"
#include "checkpoint_format.h"

/* Set `place`, `check` (or NULL), `argument` and `message`; the rest is 0. To be closed in any
** case. */
typedef struct checkpoint_reader {
    const checkpoint_place *place;
    sqlite3_stmt *parts;
    checkpoint_header header;
    uint64_t next;    /* the part to come */
    uint64_t chain;   /* of the checksums of a section so far */
    const void *data; /* of the part at hand */
    size_t bytes;
    int is_empty; /* nothing is stored */
    char *damage; /* why it cannot be used */
    index_check *check;
    void *argument;
    char **message;
} checkpoint_reader;

/* Read the header, which must make sense: one of another format is not looked into. Where there is
** no table, or it may not be read, or is empty, it is damaged, with `is_empty`. */
int checkpoint_reader_open(checkpoint_reader *r);

/* The same, of an index as wanted. */
int checkpoint_reader_open_wanted(checkpoint_reader *r, const checkpoint_header *wanted);

/* Free what it owns; the reader is of no use any more. */
void checkpoint_reader_close(checkpoint_reader *r);

/* Stand before part `part`, to step the statement from there on. */
void checkpoint_seek(sqlite3_stmt *parts, sqlite3_int64 part);

/* Read part r->next, which counts on: its bytes are r->data until the next one. */
int checkpoint_read_part(checkpoint_reader *r);

/* Read all parts that are left of the index, of the rows of the source, of both: each section's
** checksums must fit the header. There are none behind those of the rows. */
int checkpoint_verify_index(checkpoint_reader *r);
int checkpoint_verify_source(checkpoint_reader *r);
int checkpoint_verify_rest(checkpoint_reader *r);

/* It cannot be used, for this reason. SQLITE_CORRUPT_VTAB, or SQLITE_NOMEM. */
int checkpoint_damaged(checkpoint_reader *r, const char *format, ...);

/* Whether what is stored, if anything, is what was stored, of whatever definition: SQLITE_OK, or
** SQLITE_CORRUPT_VTAB with a message that says what is wrong. One pass. */
int checkpoint_verify(const checkpoint_place *place, index_check *check, void *argument,
                      char **message);

/* Whether anything is stored; 0 also where that cannot be read. */
int checkpoint_exists(const checkpoint_place *place);

#endif
