/* Numbers and text as json.dumps() writes them, with the locale's decimal comma
** in the way, which SQL cannot set. */
#include "unit.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

static char *number(double x)
{
    static char text[64];
    sqlite3_str *out = sqlite3_str_new(NULL);
    json_append_double(out, x);
    char *result = sqlite3_str_finish(out);
    sqlite3_snprintf(sizeof text, text, "%s", result);
    sqlite3_free(result);
    return text;
}

/* Each right-hand side is what CPython's repr() gives. */
static void known_numbers(void **state)
{
    (void)state;
    static const struct {
        double x;
        const char *text;
    } known[] = {
        {0.0, "0.0"},
        {-0.0, "-0.0"},
        {1.0, "1.0"},
        {-1.5, "-1.5"},
        {0.1, "0.1"},
        {123456789012345678.0, "1.2345678901234568e+17"},
        {1e16, "1e+16"},
        {9999999999999998.0, "9999999999999998.0"},
        {1e15, "1000000000000000.0"},
        {0.0001, "0.0001"},
        {0.00001, "1e-05"},
        {1.25e-7, "1.25e-07"},
        {5e-324, "5e-324"},
        {DBL_MAX, "1.7976931348623157e+308"},
        {DBL_MIN, "2.2250738585072014e-308"},
        {9007199254740993.0, "9007199254740992.0"},
        {5.684341886080802e-14, "5.684341886080802e-14"}, /* 2^-44: not the nearest 16 digits */
        {0.21042244136333466, "0.21042244136333466"},
        {2.4000000953674316, "2.4000000953674316"},
        {INFINITY, "Infinity"},
        {-INFINITY, "-Infinity"},
        {NAN, "NaN"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_string_equal(number(known[i].x), known[i].text);
}

static void numbers_read_back(void **state)
{
    (void)state;
    uint64_t bits = 88172645463325252u;
    for (int i = 0; i < 200000; i++) {
        bits ^= bits << 13; /* xorshift64 (Marsaglia) */
        bits ^= bits >> 7;
        bits ^= bits << 17;
        double x;
        memcpy(&x, &bits, sizeof x);
        if (isfinite(x))
            assert_true(strtod(number(x), NULL) == x);
    }
}

/* Numbers keep their point where the process writes a comma. The locale is compiled
** for this test: few machines have one. */
static void no_decimal_comma(void **state)
{
    (void)state;
    char directory[] = "/tmp/json_test_XXXXXX", command[200];
    assert_non_null(mkdtemp(directory));
    snprintf(command, sizeof command, "localedef -c -i de_DE -f UTF-8 %s/comma >/dev/null 2>&1",
             directory);
    int compiled = system(command);
    setenv("LOCPATH", directory, 1);
    char *set = setlocale(LC_NUMERIC, "comma");
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
    assert_int_equal(compiled, 0);
    assert_non_null(set);
    assert_string_equal(localeconv()->decimal_point, ",");
    assert_string_equal(number(0.25), "0.25");
    assert_string_equal(number(1.5e-9), "1.5e-09");
    assert_string_equal(number(123456.789), "123456.789");
    setlocale(LC_NUMERIC, "C");
    unsetenv("LOCPATH");
}

static char *text_of(const char *bytes, int length)
{
    static char text[128];
    sqlite3_str *out = sqlite3_str_new(NULL);
    json_append_text(out, (const unsigned char *)bytes, length);
    char *result = sqlite3_str_finish(out);
    sqlite3_snprintf(sizeof text, text, "%s", result);
    sqlite3_free(result);
    return text;
}

static void escapes(void **state)
{
    (void)state;
    assert_string_equal(text_of("a\"b\\c/", 6), "\"a\\\"b\\\\c/\"");
    assert_string_equal(text_of("\b\f\n\r\t\x01\x1f\x7f", 8),
                        "\"\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\"");
    assert_string_equal(text_of("a\0b", 3), "\"a\\u0000b\"");
    assert_string_equal(text_of("\xc3\xa9", 2), "\"\\u00e9\"");
    assert_string_equal(text_of("\xf0\x9f\x98\x80", 4), "\"\\ud83d\\ude00\"");
}

/* Each wrong byte sequence becomes replacement characters, and reading stops at
** the given length. */
static void broken_utf8(void **state)
{
    (void)state;
    assert_string_equal(text_of("\xff", 1), "\"\\ufffd\"");
    assert_string_equal(text_of("\xc0\xaf", 2), "\"\\ufffd\\ufffd\"");            /* overlong */
    assert_string_equal(text_of("\xed\xa0\x80", 3), "\"\\ufffd\\ufffd\\ufffd\""); /* a surrogate */
    assert_string_equal(text_of("\xf0\x9f\x98\x80", 3), "\"\\ufffd\\ufffd\\ufffd\"");
    assert_string_equal(text_of("\xc3"
                                "a",
                                2),
                        "\"\\ufffda\"");
    assert_string_equal(text_of("\xf4\x90\x80\x80", 4), "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
}

static void ids(void **state)
{
    (void)state;
    static const struct {
        row_value id;
        const char *text;
    } known[] = {
        {{.type = SQLITE_INTEGER, .integer = INT64_MIN}, "-9223372036854775808"},
        {{.type = SQLITE_INTEGER, .integer = INT64_MAX}, "9223372036854775807"},
        {{.type = SQLITE_FLOAT, .real = 2}, "2.0"},
        {{.type = SQLITE_NULL}, "null"},
        {{.type = SQLITE_TEXT, .bytes = (const unsigned char *)"1", .length = 1}, "\"1\""},
        {{.type = SQLITE_TEXT}, "\"\""},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        sqlite3_str *out = sqlite3_str_new(NULL);
        assert_int_equal(json_append_id(out, &known[i].id), SQLITE_OK);
        char *text = sqlite3_str_finish(out);
        assert_string_equal(text, known[i].text);
        sqlite3_free(text);
    }
    sqlite3_str *out = sqlite3_str_new(NULL);
    row_value blob = {.type = SQLITE_BLOB, .bytes = (const unsigned char *)"x", .length = 1};
    assert_int_equal(json_append_id(out, &blob), SQLITE_MISMATCH);
    assert_int_equal(sqlite3_str_length(out), 0);
    sqlite3_free(sqlite3_str_finish(out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_numbers),    cmocka_unit_test(numbers_read_back),
        cmocka_unit_test(no_decimal_comma), cmocka_unit_test(escapes),
        cmocka_unit_test(broken_utf8),      cmocka_unit_test(ids),
    };
    return RUN_TESTS(tests);
}
