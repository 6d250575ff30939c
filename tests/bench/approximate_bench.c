/*
** Measures an approximate index of the extension against the same index of FAISS called directly,
** inside one process, on one thread and on the same vectors.
**
**   approximate_bench --extension FILE --database FILE --vectors FILE --queries FILE --dimension N
**       [--kind HNSW32] [--rounds N] [--inserted N] [--timed N]     prints one JSON object.
**
** The database has a table docs(id INTEGER PRIMARY KEY, embedding BLOB) with the same vectors, and
** no faiss table. All times are processor times of this thread: those of searches in turns, query
** by query. Only the first --timed queries are timed; the others are searched for once, for the
** recall.
*/

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <omp.h>
#include <sqlite3.h>

#include <c_api/AutoTune_c.h>
#include <c_api/IndexFlat_c.h>
#include <c_api/Index_c.h>
#include <c_api/error_c.h>
#include <c_api/index_factory_c.h>

enum { K = 10, SQL_BYTES = 256 };
static const int EFFORTS[] = {16, 32, 64, 128, 256};
enum { EFFORT_COUNT = sizeof EFFORTS / sizeof *EFFORTS };

typedef struct options {
    const char *extension, *database, *vectors, *queries, *kind;
    int dimension, rounds, inserted, timed;
} options;

typedef struct vectors {
    float *values;
    size_t count;
    int dimension;
} vectors;

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "approximate_bench: %s: %s\n", what, why);
    exit(2);
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory)
        die("malloc", "out of memory");
    return memory;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof *values, by_value);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static vectors read_vectors(const char *path, int dimension)
{
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (!file || dimension < 1)
        die(path ? path : "--vectors, --queries, --dimension", path ? strerror(errno) : "needed");
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file), row = (size_t)dimension * sizeof(float);
    rewind(file);
    vectors v = {allocate(bytes), bytes / row, dimension};
    if (fread(v.values, 1, bytes, file) != bytes)
        die(path, "cannot be read");
    fclose(file);
    return v;
}

static const float *vector_at(const vectors *v, size_t i)
{
    return v->values + i * (size_t)v->dimension;
}

static void faiss_check(int code, const char *what)
{
    if (code != 0)
        die(what, faiss_get_last_error());
}

/* ---- SQL ---- */

static sqlite3 *open_database(const options *o)
{
    sqlite3 *db = NULL;
    char *message = NULL;
    if (!o->database || sqlite3_open_v2(o->database, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK)
        die(o->database ? o->database : "--database", "cannot be opened");
    sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    if (sqlite3_load_extension(db, o->extension, NULL, &message) != SQLITE_OK)
        die(o->extension, message ? message : "cannot be loaded");
    return db;
}

static void execute(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        die(sql, message);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK)
        die(sql, sqlite3_errmsg(db));
    return statement;
}

/* One search; its rows are numbered as FAISS numbers them, from 0 on. */
static double sql_search(sqlite3_stmt *statement, const float *query, int dimension, int effort,
                         int64_t *found)
{
    double begin = cpu_seconds();
    int rc, count = 0;
    sqlite3_bind_blob(statement, 1, query, dimension * (int)sizeof *query, SQLITE_STATIC);
    sqlite3_bind_int(statement, 2, effort);
    while ((rc = sqlite3_step(statement)) == SQLITE_ROW) {
        if (count < K)
            found[count++] = sqlite3_column_int64(statement, 0) - 1;
    }
    sqlite3_reset(statement);
    double took = cpu_seconds() - begin;
    if (rc != SQLITE_DONE || count != K)
        die(sqlite3_sql(statement), sqlite3_errmsg(sqlite3_db_handle(statement)));
    return took;
}

/* What reading the table takes: the least of some times. */
static double reading_seconds(sqlite3 *db)
{
    double least = 1e9;
    sqlite3_stmt *all = prepare(db, "SELECT id, embedding FROM docs");
    for (int times = 0; times < 3; times++) {
        double begin = cpu_seconds();
        volatile unsigned char last = 0;
        while (sqlite3_step(all) == SQLITE_ROW)
            last ^= *(const unsigned char *)sqlite3_column_blob(all, 1);
        sqlite3_reset(all);
        double took = cpu_seconds() - begin;
        least = took < least ? took : least;
    }
    sqlite3_finalize(all);
    return least;
}

/* ---- FAISS ---- */

static FaissIndex *raw_index(const char *kind, const vectors *v, double *seconds)
{
    FaissIndex *index = NULL;
    double begin = cpu_seconds();
    faiss_check(faiss_index_factory(&index, v->dimension, kind, METRIC_L2), kind);
    faiss_check(faiss_Index_add(index, (idx_t)v->count, v->values), "add");
    *seconds = cpu_seconds() - begin;
    return index;
}

static double raw_search(const FaissIndex *index, const float *query, int64_t *found)
{
    float scores[K];
    double begin = cpu_seconds();
    faiss_check(faiss_Index_search(index, 1, query, K, scores, found), "search");
    return cpu_seconds() - begin;
}

/* The right answers. */
static int64_t *nearest_of(const FaissIndex *flat, const vectors *queries)
{
    size_t n = queries->count * K;
    int64_t *nearest = allocate(n * sizeof *nearest);
    float *scores = allocate(n * sizeof *scores);
    faiss_check(
        faiss_Index_search(flat, (idx_t)queries->count, queries->values, K, scores, nearest),
        "search");
    free(scores);
    return nearest;
}

static void set_effort(FaissIndex *index, int effort)
{
    FaissParameterSpace *space = NULL;
    faiss_check(faiss_ParameterSpace_new(&space), "ParameterSpace");
    faiss_check(faiss_ParameterSpace_set_index_parameter(space, index, "efSearch", effort),
                "efSearch");
    faiss_ParameterSpace_free(space);
}

/* ---- comparing ---- */

static int common(const int64_t *a, const int64_t *b)
{
    int count = 0;
    for (int i = 0; i < K; i++) {
        for (int j = 0; j < K; j++)
            count += a[i] == b[j];
    }
    return count;
}

/* Searches with one effort, in turns: the least times of each query that is timed are compared, and
** the recall of all. */
static void compare(FaissIndex *raw, sqlite3_stmt *sql, const vectors *queries, size_t timed,
                    const int64_t *nearest, int effort, int rounds)
{
    double *least[2], hits[2] = {0, 0};
    set_effort(raw, effort);
    for (int side = 0; side < 2; side++)
        least[side] = allocate(queries->count * sizeof(double));
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < (round ? timed : queries->count); i++) {
            const float *query = vector_at(queries, i);
            for (int turn = 0; turn < 2; turn++) {
                int side = (turn + round) % 2;
                int64_t found[K];
                double took = side ? sql_search(sql, query, queries->dimension, effort, found)
                                   : raw_search(raw, query, found);
                if (round == 0 || took < least[side][i])
                    least[side][i] = took;
                if (round == 0)
                    hits[side] += common(found, nearest + i * K);
            }
        }
    }
    double asked = (double)queries->count * K;
    printf("{\"ef_search\": %d, \"raw_us\": %.2f, \"sql_us\": %.2f, \"raw_recall\": %.4f, "
           "\"sql_recall\": %.4f}",
           effort, 1e6 * median(least[0], timed), 1e6 * median(least[1], timed), hits[0] / asked,
           hits[1] / asked);
    free(least[0]);
    free(least[1]);
}

/* The median of the queries' least times, and the time of the very first search. */
static double search_all(sqlite3_stmt *sql, const vectors *queries, size_t timed, int rounds,
                         double *first)
{
    double *least = allocate(timed * sizeof *least);
    int64_t found[K];
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < timed; i++) {
            double took = sql_search(sql, vector_at(queries, i), queries->dimension, 64, found);
            if (round == 0 && i == 0)
                *first = took;
            if (round == 0 || took < least[i])
                least[i] = took;
        }
    }
    double result = median(least, timed);
    free(least);
    return result;
}

/* Searches before and right after rows were inserted. */
static void insert_and_search(sqlite3 *db, sqlite3_stmt *sql, const vectors *queries, size_t timed,
                              const options *o)
{
    char text[SQL_BYTES];
    double first, before = search_all(sql, queries, timed, o->rounds, &first);
    snprintf(
        text, sizeof text,
        "INSERT INTO docs(embedding) SELECT embedding FROM docs ORDER BY id %% 977, id LIMIT %d",
        o->inserted);
    execute(db, text);
    double after = search_all(sql, queries, timed, o->rounds, &first);
    printf("\"inserted\": %d, \"before_us\": %.2f, \"first_us\": %.2f, \"after_us\": %.2f",
           o->inserted, 1e6 * before, 1e6 * first, 1e6 * after);
}

static void measure(const options *o)
{
    vectors rows = read_vectors(o->vectors, o->dimension);
    vectors queries = read_vectors(o->queries, o->dimension);
    size_t timed = (size_t)o->timed < queries.count ? (size_t)o->timed : queries.count;
    double raw_seconds, raw_again, sql_seconds;
    FaissIndex *flat = raw_index("Flat", &rows, &raw_seconds);
    int64_t *nearest = nearest_of(flat, &queries);
    faiss_Index_free(flat);

    sqlite3 *db = open_database(o);
    double reading = reading_seconds(db);
    char text[SQL_BYTES];
    snprintf(text, sizeof text, "CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='%s')",
             o->kind);
    execute(db, text);
    sqlite3_stmt *sql = prepare(db, "SELECT id, score FROM docs_ann WHERE embedding MATCH ?1 "
                                    "AND k = 10 AND ef_search = ?2");
    FaissIndex *raw = raw_index(o->kind, &rows, &raw_seconds);
    int64_t found[K];
    sql_seconds = sql_search(sql, vector_at(&queries, 0), o->dimension, 64, found);
    faiss_Index_free(raw_index(o->kind, &rows, &raw_again));
    printf("{\"reading_s\": %.3f, \"raw_build_s\": %.3f, \"raw_again_s\": %.3f, "
           "\"sql_build_s\": %.3f, \"searches\": [",
           reading, raw_seconds, raw_again, sql_seconds);
    for (int i = 0; i < EFFORT_COUNT; i++) {
        fputs(i ? ", " : "", stdout);
        compare(raw, sql, &queries, timed, nearest, EFFORTS[i], o->rounds);
    }
    fputs("], ", stdout);
    insert_and_search(db, sql, &queries, timed, o);
    puts("}");
    sqlite3_finalize(sql);
    sqlite3_close(db);
    faiss_Index_free(raw);
    free(nearest);
    free(rows.values);
    free(queries.values);
}

static options read_options(int argc, char **argv)
{
    options o = {.kind = "HNSW32", .rounds = 7, .inserted = 1000, .timed = 500};
    const struct {
        const char *name;
        const char **text;
        int *number;
    } known[] = {
        {"--extension", &o.extension, NULL}, {"--database", &o.database, NULL},
        {"--vectors", &o.vectors, NULL},     {"--queries", &o.queries, NULL},
        {"--kind", &o.kind, NULL},           {"--dimension", NULL, &o.dimension},
        {"--rounds", NULL, &o.rounds},       {"--inserted", NULL, &o.inserted},
        {"--timed", NULL, &o.timed},
    };
    for (int i = 1; i < argc; i += 2) {
        bool taken = false;
        for (size_t j = 0; j < sizeof known / sizeof *known && i + 1 < argc; j++) {
            if (strcmp(argv[i], known[j].name) != 0)
                continue;
            if (known[j].text)
                *known[j].text = argv[i + 1];
            else
                *known[j].number = atoi(argv[i + 1]);
            taken = true;
        }
        if (!taken)
            die(argv[i], "an unknown option, or one without a value");
    }
    return o;
}

int main(int argc, char **argv)
{
    options o = read_options(argc, argv);
    omp_set_num_threads(1);
    measure(&o);
    return 0;
}
