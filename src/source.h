/*
** The user's table: finding it by the names SQL gives, its columns, and the
** statements that read its rows. Nothing here writes to it.
*/
#ifndef SOURCE_H
#define SOURCE_H

#include "values.h"
#include "vector.h"

typedef enum source_kind {
    SOURCE_ROWID_TABLE,   /* rows are known by their rowid */
    SOURCE_WITHOUT_ROWID, /* … also a table whose columns hide every name of the rowid */
    SOURCE_VIEW,
    SOURCE_VIRTUAL
} source_kind;

/* A column other than the id and the embedding. */
typedef struct source_column {
    char *name;
    const char *affinity; /* INTEGER, REAL, NUMERIC, TEXT or BLOB */
    char *collation;      /* BINARY, NOCASE, ... */
} source_column;

typedef struct source {
    source_kind kind;
    char *schema, *table;
    char *id;            /* column; NULL where the rowid is the id */
    char *embedding;     /* column */
    const char *rowid;   /* rowid, _rowid_ or oid; NULL where rows have no readable one */
    int has_integer_key; /* an INTEGER PRIMARY KEY: rows keep their rowids for good */
    int id_is_rowid;     /* the id of a row is its rowid: nothing to look up */
    const char *id_affinity;
    char *id_collation;
    int is_volatile;        /* rows may change without a commit: a virtual table, or a view over
                     ** one or with a function that is not deterministic */
    source_column *columns; /* the other columns, in their order */
    int column_count;
} source;

/* Which statement to prepare. Those that read rows select the key (the rowid,
** NULL if there is none), the id, the embedding, and the columns that a
** source_query asks for. */
typedef enum source_statement {
    SOURCE_PIN,              /* holds the snapshot: its one step reads no row */
    SOURCE_READ_ALL,         /* every row, in the order of the source */
    SOURCE_READ_REST,        /* ?1: a rowid; those behind it */
    SOURCE_READ_FROM,        /* ?1: a rowid; it and those behind it; the id is NULL */
    SOURCE_LAST_KEY,         /* of its rows; no other columns */
    SOURCE_HAS_ROWS,         /* ?1: a number; a row if there are more rows, and no other columns */
    SOURCE_SCAN,             /* every row with an embedding that the filter allows */
    SOURCE_ROW_BY_KEY,       /* ?1: a rowid; the embedding is NULL */
    SOURCE_EMBEDDING_BY_KEY, /* ?1: a rowid */

    SOURCE_KEYS_OF_FILTER,  /* the rowids that a filter allows */
    SOURCE_EXPLAIN_FILTER,  /* SQLite's plan for that */
    SOURCE_TEST_FILTER,     /* ?1: a rowid; a row if the filter allows it */
    SOURCE_EXPLAIN,         /* the program that reads it */
    SOURCE_FIRST_EMBEDDING, /* type and length of the first embedding */
    SOURCE_LOG_STATE,       /* the last entry of the log and the rows of its run */
    SOURCE_LOG_CHANGES,     /* ?1: a number; rows that the log names behind it, and ?2 */
    SOURCE_FIRST_ODD_ROW    /* ?1: a length; id, type and length of a row that differs */
} source_statement;

enum { SOURCE_COLUMN_KEY, SOURCE_COLUMN_ID, SOURCE_COLUMN_EMBEDDING, SOURCE_COLUMN_FIRST };

/* What a statement selects and filters by beyond that; NULL for nothing. */
typedef struct source_query {
    const char *columns; /* ", s.\"a\", s.\"b\"" */
    const char *filter;  /* " AND ...", with parameters from ?2 on */
    const char *log;     /* "schema"."name_faiss_log" */
    int in_order;        /* a scan is to give rows in source order */
} source_query;

/* The schema that a database name means on this connection: a schema of that
** name, else the schema whose file has that stem ("blog" for blog.db), the
** first attached if several have. The caller frees *schema. On failure a
** message that lists the names there are. */
int source_find_database(sqlite3 *db, const char *name, char **schema, char **message);

/* Have schema.table connected as it is now, if it is a virtual table, so that a faiss
** table is known by its name; *exists is 0 if nothing of the name can be read. SQLITE_OK,
** SQLITE_NOMEM, or an interrupt or I/O error on the way. */
int source_connect(sqlite3 *db, const char *schema, const char *table, int *exists);

/* Read what there is to know about schema.table. `id` and `embedding` name
** columns, or are NULL for the defaults: "id" or else the rowid, "embedding".
** On failure a message that names what is missing and what there is. Columns
** are found in any case, the exact names are stored. */
int source_resolve(sqlite3 *db, const char *schema, const char *table, const char *id,
                   const char *embedding, source *out, char **message);

/* Free what it owns, and make it empty. */
void source_clear(source *s);

/* Whether both read the same columns in the same way. */
int source_equal(const source *a, const source *b);

/* Prepare one of the statements above; the caller finalizes it. `query` may be
** NULL. On failure a message that names the source. */
int source_prepare(sqlite3 *db, const source *s, source_statement which, const source_query *query,
                   sqlite3_stmt **out, char **message);

/* The number of the column of this name (in any case), -1 if there is none. */
int source_find_column(const source *s, const char *name);

/* Turn the failure of a statement on the source into a message; an interrupt has
** none but SQLite's own, which hosts look for. Returns rc, or SQLITE_NOMEM. */
int source_failure(sqlite3 *db, const source *s, int rc, char **message);

/* Make the message about a row whose embedding is malformed:
** "row with id 'a' (rowid 7) of main.docs: column embedding holds …, expected …".
** Returns SQLITE_ERROR or SQLITE_NOMEM. `found` and `expected` are parts of the
** sentence; `found` is freed. */
int source_bad_row(const source *s, int64_t key, const row_value *id, char *found,
                   const char *expected, char **message);

/* "a BLOB of 10 bytes", "TEXT", …: what a column of a row holds. */
char *source_describe_value(int type, int bytes);

#endif
