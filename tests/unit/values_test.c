/* SQL values, packed and described. */
#include "unit.h"

#include <string.h>

#include "values.h"

static const unsigned char text[] = "a\0b";

static void keeps_every_type(void **state)
{
    (void)state;
    const row_value values[] = {
        {.type = SQLITE_INTEGER, .integer = INT64_MIN},
        {.type = SQLITE_FLOAT, .real = -0.5},
        {.type = SQLITE_TEXT, .bytes = text, .length = 3},
        {.type = SQLITE_NULL},
        {.type = SQLITE_BLOB, .bytes = text, .length = 2},
        {.type = SQLITE_TEXT, .bytes = text, .length = 0},
    };
    enum { COUNT = sizeof values / sizeof *values, ROUNDS = 1000 };
    value_list list = {0};
    for (int i = 0; i < ROUNDS * COUNT; i++)
        assert_int_equal(value_list_append(&list, &values[i % COUNT]), SQLITE_OK);
    assert_int_equal(list.count, ROUNDS * COUNT);
    for (int i = 0; i < list.count; i++) {
        const row_value *expected = &values[i % COUNT];
        row_value got = value_list_get(&list, i);
        assert_int_equal(got.type, expected->type);
        if (got.type == SQLITE_INTEGER)
            assert_int_equal(got.integer, expected->integer);
        else if (got.type == SQLITE_FLOAT)
            assert_true(got.real == expected->real);
        else if (got.type != SQLITE_NULL) {
            assert_int_equal(got.length, expected->length);
            assert_memory_equal(got.bytes, expected->bytes, (size_t)got.length);
        }
    }
    assert_true(value_list_bytes(&list) >= (size_t)list.count);
    value_list_clear(&list);
    assert_int_equal(list.count, 0);
}

static void describes_for_a_message(void **state)
{
    (void)state;
    unsigned char many[100];
    memset(many, 'x', sizeof many);
    static const char cut[] = "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...'";
    const struct {
        row_value id;
        const char *shown;
    } known[] = {
        {{.type = SQLITE_INTEGER, .integer = 7}, "7"},
        {{.type = SQLITE_FLOAT, .real = 1.5}, "1.5"},
        {{.type = SQLITE_NULL}, "NULL"},
        {{.type = SQLITE_TEXT, .bytes = (const unsigned char *)"it's", .length = 4}, "'it''s'"},
        {{.type = SQLITE_BLOB, .bytes = (const unsigned char *)"\x01\xff", .length = 2}, "x'01ff'"},
        {{.type = SQLITE_TEXT, .bytes = many, .length = sizeof many}, cut},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        char *shown = value_describe(&known[i].id);
        assert_string_equal(shown, known[i].shown);
        sqlite3_free(shown);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_every_type),
        cmocka_unit_test(describes_for_a_message),
    };
    return RUN_TESTS(tests);
}
