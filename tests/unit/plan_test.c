/* The plan's text: every plan that xBestIndex writes is read back by xFilter,
** and nothing else is. SQL cannot show a wrong text to the reader. */
#include "unit.h"

#include <string.h>

#include "extension.h"
#include "plan.h"

static char lang[] = "lang", year[] = "year", odd[] = "odd \"name\" AND x=?", text[] = "TEXT",
            binary[] = "BINARY";
static const plan_column columns[] = {
    {lang, lang, text, binary}, {year, year, text, binary}, {odd, odd, text, binary}};
static const plan_table table = {.name = "docs_index",
                                 .columns = columns,
                                 .column_count = 3,
                                 .id_collation = binary,
                                 .id_affinity = text};

static const struct {
    plan_kind kind;
    const char *text;
    int count;
    int at[PLAN_VALUES]; /* database table vector k ef_search nprobe rerank limit offset */
    int term_count;
    plan_term terms[3];
} plans[] = {
    {PLAN_SCAN, "scan", 0, {-1, -1, -1, -1, -1, -1, -1, -1, -1}, 0, {{0}}},
    {PLAN_LOOKUP,
     "lookup filter(id=?)",
     1,
     {-1, -1, -1, -1, -1, -1, -1, -1, -1},
     1,
     {{PLAN_ON_ID, PLAN_EQ, 0, NULL}}},
    {PLAN_KNN, "knn vector k", 2, {-1, -1, 0, 1, -1, -1, -1, -1, -1}, 0, {{0}}},
    {PLAN_KNN, "knn database table vector k", 4, {0, 1, 2, 3, -1, -1, -1, -1, -1}, 0, {{0}}},
    {PLAN_STREAM, "stream vector limit offset", 3, {-1, -1, 0, -1, -1, -1, -1, 1, 2}, 0, {{0}}},
    {PLAN_KNN, "knn vector k ef_search rerank", 4, {-1, -1, 0, 1, 2, -1, 3, -1, -1}, 0, {{0}}},
    {PLAN_STREAM, "stream exact vector nprobe", 2, {-1, -1, 0, -1, -1, 1, -1, -1, -1}, 0, {{0}}},
    {PLAN_POINT,
     "point vector filter(rowid=?)",
     2,
     {-1, -1, 0, -1, -1, -1, -1, -1, -1},
     1,
     {{PLAN_ON_ROWID, PLAN_EQ, 1, NULL}}},
    {PLAN_KNN,
     "knn vector k filter(lang=? AND year>=? AND year IS NOT NULL)",
     4,
     {-1, -1, 0, 1, -1, -1, -1, -1, -1},
     3,
     {{0, PLAN_EQ, 2, NULL}, {1, PLAN_GE, 3, NULL}, {1, PLAN_NOT_NULL, -1, NULL}}},
    {PLAN_STREAM,
     "stream vector filter(\"odd \"\"name\"\" AND x=?\" IN (?) AND distance<? AND "
     "lang!=? COLLATE \"NOCASE\")",
     4,
     {-1, -1, 0, -1, -1, -1, -1, -1, -1},
     3,
     {{2, PLAN_IN, 1, NULL}, {PLAN_ON_DISTANCE, PLAN_LT, 2, NULL}, {0, PLAN_NE, 3, "NOCASE"}}},
    {PLAN_STREAM,
     "stream vector filter(lang IS NULL AND lang IS ? AND lang IS NOT ?)",
     3,
     {-1, -1, 0, -1, -1, -1, -1, -1, -1},
     3,
     {{0, PLAN_IS_NULL, -1, NULL}, {0, PLAN_IS, 1, NULL}, {0, PLAN_IS_NOT, 2, NULL}}},
    {PLAN_STREAM,
     "stream vector filter(lang LIKE ? AND lang GLOB ? AND score<=?)",
     4,
     {-1, -1, 0, -1, -1, -1, -1, -1, -1},
     3,
     {{0, PLAN_LIKE, 1, NULL}, {0, PLAN_GLOB, 2, NULL}, {PLAN_ON_SCORE, PLAN_LE, 3, NULL}}},
};
enum { PLANS = sizeof plans / sizeof *plans };

static void reads_every_plan(void **state)
{
    (void)state;
    for (int i = 0; i < PLANS; i++) {
        plan p;
        assert_int_equal(plan_decode(&table, plans[i].kind, plans[i].text, plans[i].count, &p),
                         SQLITE_OK);
        assert_int_equal(p.kind, plans[i].kind);
        assert_int_equal(p.is_exact, strstr(plans[i].text, " exact") != NULL);
        assert_memory_equal(p.at, plans[i].at, sizeof p.at);
        assert_int_equal(p.term_count, plans[i].term_count);
        for (int j = 0; j < p.term_count; j++) {
            const plan_term *got = &p.terms[j], *expected = &plans[i].terms[j];
            assert_int_equal(got->on, expected->on);
            assert_int_equal(got->comparison, expected->comparison);
            assert_int_equal(got->at, expected->at);
            assert_int_equal(!got->collation, !expected->collation);
            if (expected->collation)
                assert_string_equal(got->collation, expected->collation);
        }
        plan_clear(&p);
    }
}

static void writes_every_plan(void **state)
{
    (void)state;
    for (int i = 0; i < PLANS; i++) {
        plan p = {.kind = plans[i].kind,
                  .terms = (plan_term *)plans[i].terms,
                  .term_count = plans[i].term_count,
                  .is_exact = strstr(plans[i].text, " exact") != NULL};
        memcpy(p.at, plans[i].at, sizeof p.at);
        char *written = plan_encode(&table, &p);
        assert_string_equal(written, plans[i].text);
        sqlite3_free(written);
    }
}

static void refuses_everything_else(void **state)
{
    (void)state;
    static const struct {
        int number, count;
        const char *text;
    } bad[] = {
        {PLAN_KNN, 2, NULL},
        {PLAN_KNN, 2, ""},
        {PLAN_KNN, 1, "knn vector k"}, /* a value more than was passed */
        {PLAN_KNN, 3, "knn vector k"},
        {PLAN_SCAN, 2, "knn vector k"},
        {PLAN_KNN, 2, "knn vector vector"},
        {PLAN_KNN, 2, "knn vector kk"},
        {PLAN_KNN, 2, "knnn vector k"},
        {7, 0, "scan"},
        {-1, 0, "scan"},
        {PLAN_SCAN, 1, "scan filter("},
        {PLAN_SCAN, 1, "scan filter()"},
        {PLAN_SCAN, 1, "scan filter(lang)"},
        {PLAN_SCAN, 1, "scan filter(lang=?"},
        {PLAN_SCAN, 1, "scan filter(lang=?) "},
        {PLAN_SCAN, 1, "scan filter(nothing=?)"},
        {PLAN_SCAN, 1, "scan filter(lang==?)"},
        {PLAN_SCAN, 2, "scan filter(lang=? OR lang=?)"},
        {PLAN_SCAN, 1, "scan filter(\"lang=?)"},
        {PLAN_SCAN, 1, "scan filter(lang=? COLLATE )"},
        {PLAN_SCAN, 1, "scan filter(lang=?)x"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        plan p;
        assert_int_equal(plan_decode(&table, bad[i].number, bad[i].text, bad[i].count, &p),
                         SQLITE_CORRUPT);
    }
}

/* xBestIndex is called by SQLite alone (sqlite3_vtab_in() needs its private
** part of sqlite3_index_info), so which plan is made is asked of SQLite:
** what EXPLAIN QUERY PLAN shows is the text. */
static char *explained(sqlite3 *db, const char *query)
{
    static char detail[200];
    char *sql = sqlite3_mprintf("EXPLAIN QUERY PLAN %s", query);
    sqlite3_stmt *statement;
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    sqlite3_snprintf(sizeof detail, detail, "%s", sqlite3_column_text(statement, 3));
    sqlite3_finalize(statement);
    sqlite3_free(sql);
    return detail;
}

static void makes_the_plan_of_a_query(void **state)
{
    (void)state;
    static const struct {
        const char *where;
        const char *plan;
    } queries[] = {
        {"docs_index", "0:scan"},
        {"docs_index WHERE id = 3", "1:lookup filter(id=?)"},
        {"docs_index WHERE rowid = 3", "1:lookup filter(rowid=?)"},
        {"docs_index('[1]', 3)", "2:knn vector k"},
        {"docs_index WHERE embedding MATCH '[1]' AND k = 2 AND id = 1", "2:knn vector k"},
        {"docs_index WHERE embedding MATCH '[1]'", "3:stream vector"},
        {"docs_index WHERE embedding = '[1]' AND id IN (1, 2)",
         "3:stream vector filter(id IN (?))"},
        {"docs_index WHERE embedding MATCH '[1]' AND k = 2 AND lang = 'en'",
         "2:knn vector k filter(lang=?)"},
        {"docs_index WHERE embedding MATCH '[1]' AND lang = 'en' COLLATE nocase AND year > 3 AND "
         "distance < 5",
         "3:stream vector filter(lang=? COLLATE \"NOCASE\" AND year>? AND distance<?)"},
        {"docs_index WHERE embedding MATCH '[1]' AND id = 3", "4:point vector filter(id=?)"},
        {"docs_index WHERE embedding MATCH '[1]' AND rowid = 3", "4:point vector filter(rowid=?)"},
        {"faiss_search('main', 'docs', '[1]', 3)", "2:knn database table vector k"},
        {"faiss_search('main', 'docs', '[1]')", "3:stream database table vector"},
    };
    sqlite3 *db;
    assert_int_equal(sqlite3_open(":memory:", &db), SQLITE_OK);
    assert_int_equal(sqlite3_faiss_init(db, NULL, NULL), SQLITE_OK_LOAD_PERMANENTLY);
    assert_int_equal(
        sqlite3_exec(db,
                     "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding, lang TEXT, year INT);"
                     "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)",
                     NULL, NULL, NULL),
        SQLITE_OK);
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) {
        char *sql = sqlite3_mprintf("SELECT id FROM %s", queries[i].where);
        char *detail = explained(db, sql);
        char *index = strstr(detail, "INDEX ");
        assert_non_null(index);
        /* SQLite before 3.41 leaves the limit out; newer ones may append it. */
        assert_memory_equal(index + 6, queries[i].plan, strlen(queries[i].plan));
        sqlite3_free(sql);
    }
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_plan),
        cmocka_unit_test(writes_every_plan),
        cmocka_unit_test(refuses_everything_else),
        cmocka_unit_test(makes_the_plan_of_a_query),
    };
    return RUN_TESTS(tests);
}
