/*
** Searching what another connection has published.
**
** The host is visited to look whether the index is fresh, which brings it up to the
** latest commit, and to read ids; the search itself goes on without it, in a version of
** the index that never changes. If rows change between the two visits, the search is made
** anew during the second, so that its first rows, k of them if there is a k, are those of
** one commit. Rows read on beyond them are still those of the first version.
*/
#ifndef PUBLISHED_H
#define PUBLISHED_H

#include "publication.h"
#include "search.h"

typedef struct published_search published_search;

/* Begin a search for an ordinary connection, the visitor. Takes over *query. `k` is -1 for
** all rows; `depth` rows are expected to be read, or WALK_UNKNOWN. An approximate index may
** answer if `may_approximate`, and k is given. */
int published_search_open(publication *p, connection *visitor, vector *query, int64_t k,
                          int64_t depth, int may_approximate, published_search **out,
                          char **message);

/* The next row and its id, whose bytes live until the next call: SQLITE_ROW, SQLITE_DONE, or
** an error with its message. */
int published_search_next(published_search *s, index_hit *hit, row_value *id, char **message);

/* Hand the embedding of a row found to SQLite, as stored. A visit. */
int published_search_embedding(published_search *s, const index_hit *hit, sqlite3_context *context,
                               char **message);

/* NULL is none. */
void published_search_close(published_search *s);

/* All rows of a published table in source order, with their ids. */
typedef struct published_rows {
    snapshot detached; /* whose version it is */
    value_list ids;    /* of each row, where they are not in the version */
    int ids_are_keys;
} published_rows;

/* Take them in one visit. On success close it. SQLITE_OK, or an error with its message. */
int published_rows_open(publication *p, connection *visitor, published_rows *out, char **message);

/* The id of one of them; its bytes live as long as the rows. */
row_value published_rows_id(const published_rows *rows, const index_hit *hit);

/* Let go of them; safe where all is zero. */
void published_rows_close(published_rows *rows);

#endif
