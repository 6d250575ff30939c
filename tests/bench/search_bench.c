/*
** Measures the extension against FAISS called directly, inside one process and on the same vectors.
**
**   search_bench COMMAND --extension FILE --database FILE ... prints one JSON object.
**
** run.py writes the databases, runs the commands (those that time a first query each in a process
** of its own) and sets the figures in a table beside their goals. Wrong answers give exit status 1:
** a figure for a search that finds something else is worth nothing.
*/

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <omp.h>
#include <sqlite3.h>

#include <c_api/IndexFlat_c.h>
#include <c_api/Index_c.h>
#include <c_api/error_c.h>
#include <c_api/utils/distances_c.h>

enum { MISMATCHES_SHOWN = 3, SQL_BYTES = 512 };

struct options {
    const char *command;
    const char *extension;
    const char *database;
    const char *one_row_database;
    const char *vectors;
    const char *queries;
    const char *metric;
    const char *form;
    int dimension;
    int k; /* 0 means every row */
    int rounds;
    int query_limit;
    int sql_first;
    int threads;
    double seconds;
};

struct vectors {
    float *values;
    size_t count;
    int dimension;
};

struct answer {
    int64_t *ids;
    float *scores;
    size_t count;
    size_t capacity;
};

struct samples {
    double *values;
    size_t count;
};

/* The ways to ask in SQL. The statements are prepared once, as an application would; each search
** binds the vector, steps to the end, reads every column and resets. */
enum answer_kind { ROWS, JSON_IDS, JSON_PAIRS };

struct form {
    const char *name;
    const char *sql; /* %s: the virtual table, or the table itself; %d: k */
    bool function;   /* of the table itself, hence by l2 */
    enum answer_kind kind;
};

static const struct form FORMS[] = {
    {"match_k", "SELECT id, score FROM %s WHERE embedding MATCH ?1 AND k = %d", false, ROWS},
    {"order_by_limit",
     "SELECT id, score FROM %s WHERE embedding MATCH ?1 ORDER BY distance LIMIT %d", false, ROWS},
    {"table_valued", "SELECT id, score FROM faiss_search('main', '%s', ?1, %d)", true, ROWS},
    {"scalar", "SELECT faiss_search('main', '%s', ?1, %d)", true, JSON_IDS},
    {"scalar_with_scores", "SELECT faiss_search_with_scores('main', '%s', ?1, %d)", true,
     JSON_PAIRS},
};
enum { FORM_COUNT = sizeof FORMS / sizeof FORMS[0] };

static int wrong_answers;

static _Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));
static _Noreturn void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("search_bench: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *allocate(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (memory == NULL) {
        die("out of memory for %zu bytes", bytes);
    }
    return memory;
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* ---- figures ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static struct samples samples_new(size_t capacity)
{
    return (struct samples){.values = allocate(capacity * sizeof(double)), .count = 0};
}

static void samples_add(struct samples *samples, double value)
{
    samples->values[samples->count++] = value;
}

static double quantile(const struct samples *samples, double q)
{
    if (samples->count == 0) {
        return NAN;
    }
    qsort(samples->values, samples->count, sizeof(double), by_value);
    double position = q * (double)(samples->count - 1);
    size_t below = (size_t)position;
    size_t above = below + 1 < samples->count ? below + 1 : below;
    double part = position - (double)below;
    return samples->values[below] * (1 - part) + samples->values[above] * part;
}

static double median(const struct samples *samples)
{
    return quantile(samples, 0.5);
}

static void print_json_text(const char *text)
{
    putchar('"');
    for (const char *c = text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') {
            printf("\\%c", *c);
        } else if ((unsigned char)*c < 0x20) {
            printf("\\u%04x", (unsigned)*c);
        } else {
            putchar(*c);
        }
    }
    putchar('"');
}

static void print_json_number(const char *name, double value)
{
    if (isfinite(value)) {
        printf("\"%s\": %.6g", name, value);
    } else {
        printf("\"%s\": null", name);
    }
}

/* ---- vectors and raw FAISS ---- */

static struct vectors read_vectors(const char *path, int dimension)
{
    if (path == NULL || dimension < 1) {
        die("--vectors, --queries and --dimension are needed");
    }
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        die("%s: %s", path, strerror(errno));
    }
    fseek(file, 0, SEEK_END);
    long bytes = ftell(file);
    rewind(file);
    size_t row_bytes = (size_t)dimension * sizeof(float);
    if (bytes <= 0 || (size_t)bytes % row_bytes != 0) {
        die("%s: %ld bytes are no whole number of rows of %d float32", path, bytes, dimension);
    }
    struct vectors vectors = {.values = allocate((size_t)bytes),
                              .count = (size_t)bytes / row_bytes,
                              .dimension = dimension};
    if (fread(vectors.values, 1, (size_t)bytes, file) != (size_t)bytes) {
        die("%s: cannot be read", path);
    }
    fclose(file);
    return vectors;
}

static const float *vector_at(const struct vectors *vectors, size_t i)
{
    return vectors->values + i * (size_t)vectors->dimension;
}

static void faiss_check(int code, const char *what)
{
    if (code != 0) {
        die("%s: %s", what, faiss_get_last_error());
    }
}

/* Cosine is FAISS's inner product over vectors of unit norm, so they are changed in place. */
static FaissIndexFlat *raw_index(struct vectors *vectors, const char *metric)
{
    bool cosine = strcmp(metric, "cosine") == 0;
    if (cosine) {
        faiss_fvec_renorm_L2((size_t)vectors->dimension, vectors->count, vectors->values);
    }
    FaissMetricType type = cosine || strcmp(metric, "ip") == 0 ? METRIC_INNER_PRODUCT : METRIC_L2;
    FaissIndexFlat *index = NULL;
    faiss_check(faiss_IndexFlat_new_with(&index, vectors->dimension, type), "IndexFlat");
    faiss_check(faiss_Index_add(index, (idx_t)vectors->count, vectors->values), "add");
    return index;
}

static struct answer answer_new(size_t capacity)
{
    return (struct answer){.ids = allocate(capacity * sizeof(int64_t)),
                           .scores = allocate(capacity * sizeof(float)),
                           .count = 0,
                           .capacity = capacity};
}

static void answer_free(struct answer *answer)
{
    free(answer->ids);
    free(answer->scores);
}

/* One search on one thread, timed. The thread count is set for this thread only and set back, since
** a host that loads the extension has FAISS's default, and the extension must do well there. */
static double raw_search(const FaissIndexFlat *index, const float *query, int k,
                         struct answer *answer)
{
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    double start = now_us();
    int code = faiss_Index_search(index, 1, query, k, answer->scores, answer->ids);
    double end = now_us();
    omp_set_num_threads(threads);
    faiss_check(code, "search");
    answer->count = (size_t)k;
    return end - start;
}

/* ---- SQL ---- */

static sqlite3 *open_database(const char *path, const char *extension)
{
    if (path == NULL) {
        die("--database is needed");
    }
    sqlite3 *db = NULL;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
        SQLITE_OK) {
        die("%s: %s", path, sqlite3_errmsg(db));
    }
    if (extension != NULL) {
        char *message = NULL;
        sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
        if (sqlite3_load_extension(db, extension, NULL, &message) != SQLITE_OK) {
            die("%s: %s", extension, message ? message : "cannot be loaded");
        }
    }
    return db;
}

static void execute(sqlite3 *db, const char *sql)
{
    char *message = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) {
        die("%s: %s", sql, message);
    }
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *statement = NULL;
    if (sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, NULL) != SQLITE_OK) {
        die("%s: %s", sql, sqlite3_errmsg(db));
    }
    return statement;
}

static const struct form *form_named(const char *name)
{
    for (size_t i = 0; i < FORM_COUNT; i++) {
        if (strcmp(FORMS[i].name, name) == 0) {
            return &FORMS[i];
        }
    }
    die("no form \"%s\"", name);
}

static const char *index_table(const char *metric)
{
    if (strcmp(metric, "ip") == 0) {
        return "docs_ip";
    }
    return strcmp(metric, "cosine") == 0 ? "docs_cosine" : "docs_index";
}

static void form_sql(const struct form *form, const char *metric, int k, char sql[SQL_BYTES])
{
    snprintf(sql, SQL_BYTES, form->sql, form->function ? "docs" : index_table(metric), k);
}

/* Steps one search to the end, timed with binding and reset; `text` receives the JSON of a scalar
** function, to be read outside the measured time. */
static double sql_search(sqlite3_stmt *statement, const float *query, int dimension,
                         enum answer_kind kind, struct answer *answer, char **text)
{
    int code;
    size_t count = 0;
    double start = now_us();
    sqlite3_bind_blob(statement, 1, query, dimension * (int)sizeof(float), SQLITE_STATIC);
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        if (kind != ROWS) {
            const char *found = (const char *)sqlite3_column_text(statement, 0);
            if (text != NULL) {
                free(*text);
                *text = found ? strdup(found) : NULL;
            }
        } else if (count < answer->capacity) {
            answer->ids[count] = sqlite3_column_int64(statement, 0);
            answer->scores[count] = (float)sqlite3_column_double(statement, 1);
            count++;
        } else {
            count++; /* more rows than asked for; the check will say so */
        }
    }
    sqlite3_reset(statement);
    double end = now_us();
    if (code != SQLITE_DONE) {
        die("%s: %s", sqlite3_sql(statement), sqlite3_errmsg(sqlite3_db_handle(statement)));
    }
    answer->count = count;
    return end - start;
}

/* [id, ...] or [[id, score], ...]; the former gets the scores that are right. */
static void read_json_answer(const char *text, enum answer_kind kind, const struct answer *right,
                             struct answer *answer)
{
    size_t count = 0;
    const char *c = text == NULL ? "" : text;
    while (*c != '\0') {
        if (*c != '-' && (*c < '0' || *c > '9')) {
            c++;
            continue;
        }
        char *end = NULL;
        int64_t id = strtoll(c, &end, 10);
        float score = count < right->count ? right->scores[count] : 0;
        if (kind == JSON_PAIRS && *end == ',') {
            score = (float)strtod(end + 1, &end);
        }
        if (count < answer->capacity) {
            answer->ids[count] = id;
            answer->scores[count] = score;
        }
        count++;
        c = end;
    }
    answer->count = count;
}

/* ---- what is right ---- */

static const float *order_scores;
static bool order_descending;

static int by_score_and_row(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    float p = order_scores[x], q = order_scores[y];
    if (p != q) {
        return (p < q) != order_descending ? -1 : 1;
    }
    return (x > y) - (x < y);
}

/* What FAISS computes for every row, nearest first, equal scores in row order: FAISS itself leaves
** their order open from k = 100 on. */
static struct answer right_answer(const FaissIndexFlat *index, const float *query, int k)
{
    idx_t rows = faiss_Index_ntotal(index);
    struct answer all = answer_new((size_t)rows);
    raw_search(index, query, (int)rows, &all);
    float *scores = allocate((size_t)rows * sizeof(float));
    for (idx_t i = 0; i < rows; i++) {
        scores[all.ids[i]] = all.scores[i];
    }
    order_scores = scores;
    order_descending = faiss_Index_metric_type(index) == METRIC_INNER_PRODUCT;
    qsort(all.ids, (size_t)rows, sizeof(int64_t), by_score_and_row);
    struct answer right = answer_new((size_t)k);
    for (int i = 0; i < k; i++) {
        right.ids[i] = all.ids[i];
        right.scores[i] = scores[all.ids[i]];
    }
    right.count = (size_t)k;
    free(scores);
    answer_free(&all);
    return right;
}

/* Row i of FAISS has the id i + 1. Scores are compared bit for bit (but 0 = -0). */
static bool answer_is_right(const char *what, size_t query, const struct answer *found,
                            const struct answer *right, int64_t id_offset)
{
    bool same = found->count == right->count;
    size_t at = 0;
    for (; same && at < right->count; at++) {
        same =
            found->ids[at] == right->ids[at] + id_offset && found->scores[at] == right->scores[at];
    }
    if (!same && wrong_answers++ < MISMATCHES_SHOWN) {
        if (found->count != right->count) {
            fprintf(stderr, "wrong answer: %s, query %zu: %zu rows instead of %zu\n", what, query,
                    found->count, right->count);
        } else {
            at--;
            fprintf(stderr,
                    "wrong answer: %s, query %zu, place %zu: id %lld score %.9g instead of id %lld "
                    "score %.9g\n",
                    what, query, at, (long long)found->ids[at], (double)found->scores[at],
                    (long long)(right->ids[at] + id_offset), (double)right->scores[at]);
        }
    }
    return same;
}

/* ---- commands ---- */

static int rows_wanted(const struct options *options, size_t rows)
{
    return options->k == 0 || (size_t)options->k > rows ? (int)rows : options->k;
}

static size_t queries_used(const struct options *options, const struct vectors *queries)
{
    bool fewer = options->query_limit > 0 && (size_t)options->query_limit < queries->count;
    return fewer ? (size_t)options->query_limit : queries->count;
}

/* The versions, and the virtual tables that the other commands ask. */
static void command_prepare(const struct options *options)
{
    sqlite3 *db = open_database(options->database, options->extension);
    static const char *const METRICS[] = {"l2", "ip", "cosine"};
    for (size_t i = 0; i < 3; i++) {
        char sql[SQL_BYTES];
        snprintf(sql, sizeof sql,
                 "CREATE VIRTUAL TABLE IF NOT EXISTS %s USING faiss(main, docs, metric=%s)",
                 index_table(METRICS[i]), METRICS[i]);
        execute(db, sql);
    }
    sqlite3_stmt *statement = prepare(db, "SELECT faiss_version(), sqlite_version()");
    if (sqlite3_step(statement) != SQLITE_ROW) {
        die("faiss_version(): %s", sqlite3_errmsg(db));
    }
    printf("{\"extension\": ");
    print_json_text((const char *)sqlite3_column_text(statement, 0));
    printf(", \"sqlite\": ");
    print_json_text((const char *)sqlite3_column_text(statement, 1));
    printf("}\n");
    sqlite3_finalize(statement);
    sqlite3_close(db);
}

/* One form and its times beside raw FAISS's. */
struct comparison {
    sqlite3_stmt *statement; /* NULL: left out */
    struct samples us, raw_us, ratios;
};

static void comparison_open(struct comparison *c, sqlite3_stmt *statement, size_t searches)
{
    *c = (struct comparison){.statement = statement,
                             .us = samples_new(searches),
                             .raw_us = samples_new(searches),
                             .ratios = samples_new(searches)};
}

static void print_comparison(const char *name, const struct comparison *c)
{
    printf("\"%s\": {", name);
    print_json_number("median_us", median(&c->us));
    printf(", ");
    print_json_number("p95_us", quantile(&c->us, 0.95));
    printf(", ");
    print_json_number("raw_median_us", median(&c->raw_us));
    printf(", ");
    print_json_number("raw_p95_us", quantile(&c->raw_us, 0.95));
    printf(", ");
    print_json_number("ratio_of_medians", median(&c->us) / median(&c->raw_us));
    printf(", ");
    print_json_number("median_of_ratios", median(&c->ratios));
    printf(", ");
    print_json_number("overhead_us", median(&c->us) - median(&c->raw_us));
    printf("}");
}

/* What SQLite itself needs for a prepared statement that reads one row of the table. */
static double lookup_us(sqlite3 *db)
{
    enum { LOOKUPS = 2000 };
    struct samples times = samples_new(LOOKUPS);
    sqlite3_stmt *statement = prepare(db, "SELECT id FROM docs WHERE id = ?1");
    for (int i = 0; i < LOOKUPS; i++) {
        double start = now_us();
        sqlite3_bind_int64(statement, 1, 1 + i % 50);
        sqlite3_step(statement);
        sqlite3_reset(statement);
        samples_add(&times, now_us() - start);
    }
    sqlite3_finalize(statement);
    return median(&times);
}

/* Steady state: each form against raw FAISS, query by query, taking turns in going first. A second
** IndexFlat over the same vectors takes part as one more form: how far it is from the first shows
** what the place of the pages in memory does. For the same reason run.py asks for several processes
** and lets either side (`sql_first`) take its memory first. */
static void command_compare(const struct options *options)
{
    struct vectors vectors = read_vectors(options->vectors, options->dimension);
    struct vectors queries = read_vectors(options->queries, options->dimension);
    struct vectors raw_queries = read_vectors(options->queries, options->dimension);
    bool l2 = strcmp(options->metric, "l2") == 0;
    if (strcmp(options->metric, "cosine") == 0) {
        faiss_fvec_renorm_L2((size_t)queries.dimension, raw_queries.count, raw_queries.values);
    }
    int d = queries.dimension, k = rows_wanted(options, vectors.count);
    size_t query_count = queries_used(options, &queries);
    size_t searches = query_count * (size_t)options->rounds;
    struct answer found = answer_new((size_t)k), raw = answer_new((size_t)k);

    struct comparison comparisons[FORM_COUNT + 1] = {0};
    struct comparison *second_raw = &comparisons[FORM_COUNT];
    sqlite3 *db = open_database(options->database, options->extension);
    for (size_t f = 0; f < FORM_COUNT; f++) {
        bool asked = options->form == NULL || strcmp(options->form, FORMS[f].name) == 0;
        if (asked && (l2 || !FORMS[f].function)) {
            char sql[SQL_BYTES];
            form_sql(&FORMS[f], options->metric, k, sql);
            comparison_open(&comparisons[f], prepare(db, sql), searches);
        }
    }
    comparison_open(second_raw, NULL, searches);

    /* The first search builds the extension's index. */
    FaissIndexFlat *index = options->sql_first ? NULL : raw_index(&vectors, options->metric);
    for (size_t f = 0; f < FORM_COUNT; f++) {
        if (comparisons[f].statement != NULL) {
            sql_search(comparisons[f].statement, queries.values, d, FORMS[f].kind, &found, NULL);
        }
    }
    if (index == NULL) {
        index = raw_index(&vectors, options->metric);
    }
    FaissIndexFlat *second_index = raw_index(&vectors, options->metric);
    free(vectors.values);

    /* Every answer is checked before anything is timed. */
    for (size_t q = 0; q < query_count; q++) {
        struct answer right = right_answer(index, vector_at(&raw_queries, q), k);
        for (size_t f = 0; f < FORM_COUNT; f++) {
            if (comparisons[f].statement == NULL) {
                continue;
            }
            char *text = NULL;
            sql_search(comparisons[f].statement, vector_at(&queries, q), d, FORMS[f].kind, &found,
                       &text);
            if (FORMS[f].kind != ROWS) {
                read_json_answer(text, FORMS[f].kind, &right, &found);
                free(text);
            }
            answer_is_right(sqlite3_sql(comparisons[f].statement), q, &found, &right, 1);
        }
        answer_free(&right);
    }

    for (int round = 0; round < options->rounds; round++) {
        for (size_t q = 0; q < query_count; q++) {
            for (size_t f = 0; f <= FORM_COUNT; f++) {
                struct comparison *c = &comparisons[f];
                if (c->statement == NULL && c != second_raw) {
                    continue;
                }
                double time = 0, raw_time = 0;
                bool raw_first = (((size_t)round + q + f) & 1) != 0;
                for (int turn = 0; turn < 2; turn++) {
                    if ((turn == 0) == raw_first) {
                        raw_time = raw_search(index, vector_at(&raw_queries, q), k, &raw);
                    } else if (c == second_raw) {
                        time = raw_search(second_index, vector_at(&raw_queries, q), k, &raw);
                    } else {
                        time = sql_search(c->statement, vector_at(&queries, q), d, FORMS[f].kind,
                                          &found, NULL);
                    }
                }
                samples_add(&c->us, time);
                samples_add(&c->raw_us, raw_time);
                samples_add(&c->ratios, time / raw_time);
            }
        }
    }

    printf("{\"rows\": %lld, \"dimension\": %d, \"k\": %d, \"metric\": \"%s\", ",
           (long long)faiss_Index_ntotal(index), d, k, options->metric);
    printf("\"searches\": %zu, \"wrong\": %d, ", searches, wrong_answers);
    print_json_number("sqlite_lookup_us", lookup_us(db));
    printf(", \"forms\": {");
    for (size_t f = 0; f < FORM_COUNT; f++) {
        if (comparisons[f].statement != NULL) {
            print_comparison(FORMS[f].name, &comparisons[f]);
            printf(", ");
            sqlite3_finalize(comparisons[f].statement);
        }
    }
    print_comparison("second_raw", second_raw);
    printf("}}\n");
    sqlite3_close(db);
    faiss_IndexFlat_free(second_index);
    faiss_IndexFlat_free(index);
}

/* In a fresh process: from opening the file to the last row of the first answer. */
static void command_first(const struct options *options)
{
    struct vectors queries = read_vectors(options->queries, options->dimension);
    struct answer found = answer_new((size_t)options->k);
    /* Loading the library once is no part of opening a database; it is reported beside it. */
    double start = now_us();
    sqlite3 *elsewhere = open_database(":memory:", options->extension);
    double loaded = now_us();
    char sql[SQL_BYTES];
    form_sql(form_named(options->form ? options->form : FORMS[0].name), options->metric, options->k,
             sql);
    enum answer_kind kind = form_named(options->form ? options->form : FORMS[0].name)->kind;

    double opening = now_us();
    sqlite3 *db = open_database(options->database, options->extension);
    sqlite3_stmt *statement = prepare(db, sql);
    double opened = now_us();
    sql_search(statement, vector_at(&queries, 0), queries.dimension, kind, &found, NULL);
    double answered = now_us();
    sql_search(statement, vector_at(&queries, 0), queries.dimension, kind, &found, NULL);
    double again = now_us();

    printf("{");
    print_json_number("load_ms", (loaded - start) / 1e3);
    printf(", ");
    print_json_number("open_ms", (opened - opening) / 1e3);
    printf(", ");
    print_json_number("first_ms", (answered - opening) / 1e3);
    printf(", ");
    print_json_number("second_ms", (again - answered) / 1e3);
    printf("}\n");
    sqlite3_finalize(statement);
    sqlite3_close(db);
    sqlite3_close(elsewhere);
}

/* In a fresh process: what SQLite needs to read every embedding. */
static void command_scan(const struct options *options)
{
    double start = now_us();
    sqlite3 *db = open_database(options->database, NULL);
    sqlite3_stmt *statement = prepare(db, "SELECT max(embedding) FROM docs");
    if (sqlite3_step(statement) != SQLITE_ROW || sqlite3_column_blob(statement, 0) == NULL) {
        die("max(embedding): %s", sqlite3_errmsg(db));
    }
    printf("{");
    print_json_number("scan_ms", (now_us() - start) / 1e3);
    printf("}\n");
    sqlite3_finalize(statement);
    sqlite3_close(db);
}

/* In a fresh process: what FAISS needs to add all the vectors, which are in memory. */
static void command_add(const struct options *options)
{
    struct vectors vectors = read_vectors(options->vectors, options->dimension);
    double start = now_us();
    FaissIndexFlat *index = NULL;
    faiss_check(faiss_IndexFlat_new_with(&index, vectors.dimension, METRIC_L2), "IndexFlat");
    faiss_check(faiss_Index_add(index, (idx_t)vectors.count, vectors.values), "add");
    printf("{");
    print_json_number("add_ms", (now_us() - start) / 1e3);
    printf("}\n");
    faiss_IndexFlat_free(index);
}

static double status_kib(const char *field)
{
    FILE *file = fopen("/proc/self/status", "r");
    if (file == NULL) {
        return NAN;
    }
    char line[256];
    double kib = NAN;
    size_t length = strlen(field);
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, field, length) == 0 && line[length] == ':') {
            kib = strtod(line + length + 1, NULL);
        }
    }
    fclose(file);
    return kib;
}

/* In a fresh process: how far memory rises from a state in which everything is loaded and has
** searched a table of one row. The baseline is what was resident then, not its own peak. */
static void command_memory(const struct options *options)
{
    struct vectors queries = read_vectors(options->queries, options->dimension);
    struct answer found = answer_new((size_t)options->k);
    const struct form *form = form_named(options->form ? options->form : FORMS[0].name);
    char sql[SQL_BYTES];
    form_sql(form, options->metric, options->k, sql);

    sqlite3 *one_row = open_database(options->one_row_database, options->extension);
    sqlite3_stmt *statement = prepare(one_row, sql);
    sql_search(statement, vector_at(&queries, 0), queries.dimension, form->kind, &found, NULL);
    double resident_before = status_kib("VmRSS"), peak_before = status_kib("VmHWM");

    sqlite3 *db = open_database(options->database, options->extension);
    sqlite3_stmt *first = prepare(db, sql);
    sql_search(first, vector_at(&queries, 0), queries.dimension, form->kind, &found, NULL);
    double peak = status_kib("VmHWM"), resident = status_kib("VmRSS");

    printf("{");
    print_json_number("resident_before_kib", resident_before);
    printf(", ");
    print_json_number("peak_before_kib", peak_before);
    printf(", ");
    print_json_number("peak_kib", peak);
    printf(", ");
    print_json_number("resident_kib", resident);
    printf("}\n");
    sqlite3_finalize(first);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    sqlite3_close(one_row);
}

static void write_row(sqlite3 *db, const char *sql, int64_t id, const float *vector, int dimension)
{
    sqlite3_stmt *statement = prepare(db, sql);
    sqlite3_bind_int64(statement, 1, id);
    sqlite3_bind_blob(statement, 2, vector, dimension * (int)sizeof(float), SQLITE_STATIC);
    if (sqlite3_step(statement) != SQLITE_DONE) {
        die("%s: %s", sql, sqlite3_errmsg(db));
    }
    sqlite3_finalize(statement);
}

/* The search that follows a change of one row, written by this connection or by another one that
** knows nothing of the extension. Changes the database: run.py gives it a copy. */
static void command_change(const struct options *options)
{
    static const char UPDATE[] = "UPDATE docs SET embedding = ?2 WHERE id = ?1";
    static const char INSERT[] = "INSERT INTO docs(id, embedding) VALUES (?1, ?2)";
    static const struct {
        const char *name;
        bool own, append;
    } CHANGES[] = {{"update_own", true, false},
                   {"update_other", false, false},
                   {"append_own", true, true},
                   {"append_other", false, true}};
    enum { CHANGE_COUNT = sizeof CHANGES / sizeof CHANGES[0] };

    struct vectors vectors = read_vectors(options->vectors, options->dimension);
    struct vectors queries = read_vectors(options->queries, options->dimension);
    FaissIndexFlat *index = raw_index(&vectors, "l2");
    int d = vectors.dimension, k = rows_wanted(options, vectors.count);
    sqlite3 *db = open_database(options->database, options->extension);
    sqlite3 *other = open_database(options->database, NULL);
    execute(db, "PRAGMA synchronous = OFF");
    execute(other, "PRAGMA synchronous = OFF");
    char sql[SQL_BYTES];
    form_sql(&FORMS[0], "l2", k, sql);
    sqlite3_stmt *statement = prepare(db, sql);
    struct answer found = answer_new((size_t)k), raw = answer_new((size_t)k);
    sql_search(statement, vector_at(&queries, 0), d, ROWS, &found, NULL);

    struct samples first_us[CHANGE_COUNT], next_us[CHANGE_COUNT];
    for (size_t c = 0; c < CHANGE_COUNT; c++) {
        first_us[c] = samples_new((size_t)options->rounds);
        next_us[c] = samples_new((size_t)options->rounds);
    }
    float *changed = allocate((size_t)d * sizeof(float));
    for (int round = 0; round < options->rounds; round++) {
        for (size_t c = 0; c < CHANGE_COUNT; c++) {
            size_t step = (size_t)round * CHANGE_COUNT + c;
            const float *query = vector_at(&queries, step % queries.count);
            /* Almost the query itself, so that the changed row comes first; never equal twice. */
            memcpy(changed, query, (size_t)d * sizeof(float));
            changed[0] += 0.001F * (float)(step + 1);
            idx_t rows = faiss_Index_ntotal(index);
            sqlite3 *writer = CHANGES[c].own ? db : other;
            if (CHANGES[c].append) {
                write_row(writer, INSERT, rows + 1, changed, d);
                faiss_check(faiss_Index_add(index, 1, changed), "add");
            } else {
                idx_t row = (idx_t)(step * 7919) % rows;
                write_row(writer, UPDATE, row + 1, changed, d);
                float *stored = NULL;
                size_t size = 0;
                faiss_IndexFlat_xb(index, &stored, &size);
                memcpy(stored + row * d, changed, (size_t)d * sizeof(float));
            }
            samples_add(&first_us[c], sql_search(statement, query, d, ROWS, &found, NULL));
            struct answer right = right_answer(index, query, k);
            answer_is_right(CHANGES[c].name, step, &found, &right, 1);
            samples_add(&next_us[c], sql_search(statement, query, d, ROWS, &found, NULL));
            answer_is_right(CHANGES[c].name, step, &found, &right, 1);
            answer_free(&right);
        }
    }

    /* Whether the changes left the searches after them slower. */
    struct samples sql_us = samples_new(queries.count * 4), raw_us = samples_new(queries.count * 4);
    for (size_t i = 0; i < queries.count * 4; i++) {
        const float *query = vector_at(&queries, i % queries.count);
        samples_add(&sql_us, sql_search(statement, query, d, ROWS, &found, NULL));
        samples_add(&raw_us, raw_search(index, query, k, &raw));
    }
    struct samples scan_us = samples_new((size_t)options->rounds);
    sqlite3_stmt *scan = prepare(db, "SELECT max(embedding) FROM docs");
    for (int round = 0; round < options->rounds; round++) {
        double start = now_us();
        sqlite3_step(scan);
        sqlite3_reset(scan);
        samples_add(&scan_us, now_us() - start);
    }
    sqlite3_finalize(scan);

    printf("{\"wrong\": %d, ", wrong_answers);
    for (size_t c = 0; c < CHANGE_COUNT; c++) {
        printf("\"%s\": {", CHANGES[c].name);
        print_json_number("first_ms", median(&first_us[c]) / 1e3);
        printf(", ");
        print_json_number("next_ms", median(&next_us[c]) / 1e3);
        printf("}, ");
    }
    print_json_number("scan_ms", median(&scan_us) / 1e3);
    printf(", ");
    print_json_number("after_median_us", median(&sql_us));
    printf(", ");
    print_json_number("after_raw_median_us", median(&raw_us));
    printf("}\n");
    sqlite3_finalize(statement);
    sqlite3_close(other);
    sqlite3_close(db);
    faiss_IndexFlat_free(index);
}

/* ---- threads ---- */

struct worker {
    pthread_t thread;
    const struct options *options;
    const FaissIndexFlat *index; /* NULL: ask in SQL */
    const struct vectors *queries;
    pthread_barrier_t *start;
    size_t first_query;
    size_t searches;
    double busy_us;
};

static void *work(void *argument)
{
    struct worker *worker = argument;
    int k = worker->options->k;
    struct answer found = answer_new((size_t)k);
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    if (worker->index == NULL) {
        char sql[SQL_BYTES];
        form_sql(&FORMS[0], "l2", k, sql);
        db = open_database(worker->options->database, worker->options->extension);
        statement = prepare(db, sql);
        sql_search(statement, vector_at(worker->queries, 0), worker->queries->dimension, ROWS,
                   &found, NULL);
    }
    pthread_barrier_wait(worker->start);
    double start = now_us(), end = start;
    while (end - start < worker->options->seconds * 1e6) {
        const float *query = vector_at(worker->queries, (worker->first_query + worker->searches) %
                                                            worker->queries->count);
        if (worker->index != NULL) {
            raw_search(worker->index, query, k, &found);
        } else {
            sql_search(statement, query, worker->queries->dimension, ROWS, &found, NULL);
        }
        worker->searches++;
        end = now_us();
    }
    worker->busy_us = end - start;
    sqlite3_finalize(statement);
    sqlite3_close(db);
    answer_free(&found);
    return NULL;
}

static double searches_per_second(const struct options *options, const FaissIndexFlat *index,
                                  const struct vectors *queries, int threads)
{
    struct worker *workers = allocate((size_t)threads * sizeof *workers);
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    double rate = 0;
    for (int t = 0; t < threads; t++) {
        workers[t] = (struct worker){.options = options,
                                     .index = index,
                                     .queries = queries,
                                     .start = &start,
                                     .first_query = (size_t)t * queries->count / (size_t)threads};
        if (pthread_create(&workers[t].thread, NULL, work, &workers[t]) != 0) {
            die("a thread cannot be started");
        }
    }
    for (int t = 0; t < threads; t++) {
        pthread_join(workers[t].thread, NULL);
        rate += (double)workers[t].searches / (workers[t].busy_us / 1e6);
    }
    pthread_barrier_destroy(&start);
    free(workers);
    return rate;
}

/* One thread, then several, each with a connection of its own, beside the same with raw FAISS. */
static void command_threads(const struct options *options)
{
    struct vectors vectors = read_vectors(options->vectors, options->dimension);
    struct vectors queries = read_vectors(options->queries, options->dimension);
    FaissIndexFlat *index = raw_index(&vectors, "l2");
    free(vectors.values);
    /* Holds the index in the process from one measurement to the next. */
    sqlite3 *db = open_database(options->database, options->extension);
    char sql[SQL_BYTES];
    form_sql(&FORMS[0], "l2", options->k, sql);
    sqlite3_stmt *statement = prepare(db, sql);
    struct answer found = answer_new((size_t)options->k);
    sql_search(statement, vector_at(&queries, 0), queries.dimension, ROWS, &found, NULL);

    struct samples rates[4];
    static const char *const NAMES[4] = {"sql_one", "sql_many", "raw_one", "raw_many"};
    for (int i = 0; i < 4; i++) {
        rates[i] = samples_new((size_t)options->rounds);
    }
    for (int round = 0; round < options->rounds; round++) {
        for (int i = 0; i < 4; i++) {
            samples_add(&rates[i], searches_per_second(options, i < 2 ? NULL : index, &queries,
                                                       i % 2 == 0 ? 1 : options->threads));
        }
    }
    printf("{\"threads\": %d", options->threads);
    for (int i = 0; i < 4; i++) {
        printf(", ");
        print_json_number(NAMES[i], median(&rates[i]));
    }
    printf("}\n");
    sqlite3_finalize(statement);
    sqlite3_close(db);
    faiss_IndexFlat_free(index);
}

static const struct {
    const char *name;
    void (*run)(const struct options *options);
} COMMANDS[] = {
    {"prepare", command_prepare}, {"compare", command_compare}, {"first", command_first},
    {"scan", command_scan},       {"add", command_add},         {"memory", command_memory},
    {"change", command_change},   {"threads", command_threads},
};

static struct options read_options(int argc, char **argv)
{
    struct options options = {.metric = "l2", .k = 10, .rounds = 10, .threads = 2, .seconds = 1.0};
    options.command = argc > 1 ? argv[1] : "";
    for (int i = 2; i < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (value == NULL) {
            die("%s needs a value", name);
        } else if (strcmp(name, "--extension") == 0) {
            options.extension = value;
        } else if (strcmp(name, "--database") == 0) {
            options.database = value;
        } else if (strcmp(name, "--one-row-database") == 0) {
            options.one_row_database = value;
        } else if (strcmp(name, "--vectors") == 0) {
            options.vectors = value;
        } else if (strcmp(name, "--queries") == 0) {
            options.queries = value;
        } else if (strcmp(name, "--metric") == 0) {
            options.metric = value;
        } else if (strcmp(name, "--form") == 0) {
            options.form = value;
        } else if (strcmp(name, "--dimension") == 0) {
            options.dimension = atoi(value);
        } else if (strcmp(name, "--k") == 0) {
            options.k = atoi(value);
        } else if (strcmp(name, "--rounds") == 0) {
            options.rounds = atoi(value);
        } else if (strcmp(name, "--query-limit") == 0) {
            options.query_limit = atoi(value);
        } else if (strcmp(name, "--sql-first") == 0) {
            options.sql_first = atoi(value);
        } else if (strcmp(name, "--threads") == 0) {
            options.threads = atoi(value);
        } else if (strcmp(name, "--seconds") == 0) {
            options.seconds = atof(value);
        } else {
            die("unknown option %s", name);
        }
    }
    return options;
}

int main(int argc, char **argv)
{
    struct options options = read_options(argc, argv);
    for (size_t i = 0; i < sizeof COMMANDS / sizeof COMMANDS[0]; i++) {
        if (strcmp(options.command, COMMANDS[i].name) == 0) {
            COMMANDS[i].run(&options);
            return wrong_answers > 0 ? 1 : 0;
        }
    }
    die("unknown command \"%s\"; see tests/bench/run.py", options.command);
}
