/*
** An approximate index in the making: what it learns from, and the rows of a version, which are
** read and added to it in pieces. One thread at a time works on it (growth.h says which).
*/
#ifndef CONSTRUCTION_H
#define CONSTRUCTION_H

#include "cover.h"

typedef struct construction construction;

/* Begin: where there is an index already, `like`, with what it has learned; where `lacking` says
** which rows it lacks, with its rows, too. Else it learns from rows from all over the version,
** always the same ones. SQLITE_OK; SQLITE_MISMATCH where the source has other rows than the version
** by now; or an error, of the reader, or with a message of FAISS. */
int construction_open(const index_version *v, const index_kind *kind, const approximate *like,
                      const coverage *lacking, const vector_reader *reader, construction **out,
                      char **message);

/* NULL is none. */
void construction_free(construction *c);

/* Add the next piece: so few rows that a search can wait for it. After SQLITE_INTERRUPT or
** SQLITE_BUSY it can be gone on with; after any other error FAISS may have stopped half way, and it
** is of no use. */
int construction_step(construction *c, const vector_reader *reader, char **message);

/* How many rows have been dealt with, of how many. */
int64_t construction_done(const construction *c);
int64_t construction_total(const construction *c);
int construction_is_complete(const construction *c);

/* The index, which is the construction's. */
approximate *construction_made(const construction *c);

/* How far rows were from what another index had learned, if it is used here, times the distance of
** those that it learned from: 0 if not, and `former` where too few were judged to tell. */
double construction_misfit(const construction *c, double former);

#endif
