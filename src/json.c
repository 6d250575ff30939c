#include "json.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_DIGITS = 17,   /* enough to tell any two doubles apart */
    TEXT_SIZE = 40,    /* of a double in any of the forms below */
    FIXED_LOWEST = -4, /* decimal exponents that repr() writes without an "e" */
    FIXED_HIGHEST = 15
};

/* The decimal form 0 < d.ddd × 10^exponent of a positive double. */
typedef struct decimal {
    char digits[MAX_DIGITS + 2];
    int count;
    int exponent;
} decimal;

/* Read back printf's "%.*e" text. The decimal point is whatever the locale
** makes of it, so anything between the digits is skipped. */
static void decimal_from_text(decimal *d, const char *text)
{
    d->count = 0;
    for (; *text && *text != 'e'; text++) {
        if (*text >= '0' && *text <= '9')
            d->digits[d->count++] = *text;
    }
    d->digits[d->count] = 0;
    d->exponent = *text == 'e' ? atoi(text + 1) : 0;
}

static double decimal_value(const decimal *d)
{
    char text[TEXT_SIZE];
    snprintf(text, sizeof text, "%se%d", d->digits, d->exponent - (d->count - 1));
    return strtod(text, NULL);
}

/* The next decimal of the same length, away from zero. */
static void decimal_increment(decimal *d)
{
    int i = d->count - 1;
    while (i >= 0 && d->digits[i] == '9')
        d->digits[i--] = '0';
    if (i >= 0) {
        d->digits[i]++;
    } else {
        d->digits[0] = '1';
        d->exponent++;
    }
}

/*
** The shortest decimal that reads back as x, and the nearest to x of these.
**
** Every decimal of DBL_DIG digits survives the way through a normal double, so
** that anything shorter appears as DBL_DIG digits with zeros behind; a
** subnormal holds fewer digits and is tried from one digit on. Below a power of
** two doubles lie twice as close as above: the nearest decimal may then read
** back as the neighbour below while the next one up reads back as x.
*/
static void decimal_shortest(decimal *d, double x)
{
    char text[TEXT_SIZE];
    for (int digits = x < DBL_MIN ? 1 : DBL_DIG; digits <= MAX_DIGITS; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, x);
        decimal_from_text(d, text);
        double back = decimal_value(d);
        if (back < x) {
            decimal_increment(d);
            back = decimal_value(d);
        }
        if (back == x)
            break;
    }
    while (d->count > 1 && d->digits[d->count - 1] == '0')
        d->digits[--d->count] = 0;
}

static void append_exponent_form(sqlite3_str *out, const decimal *d)
{
    sqlite3_str_append(out, d->digits, 1);
    if (d->count > 1) {
        sqlite3_str_appendchar(out, 1, '.');
        sqlite3_str_append(out, d->digits + 1, d->count - 1);
    }
    sqlite3_str_appendf(out, "e%c%02d", d->exponent < 0 ? '-' : '+', abs(d->exponent));
}

static void append_fixed_form(sqlite3_str *out, const decimal *d)
{
    int before = d->exponent + 1; /* digits in front of the point */
    if (before <= 0) {
        sqlite3_str_appendall(out, "0.");
        sqlite3_str_appendchar(out, -before, '0');
        sqlite3_str_append(out, d->digits, d->count);
    } else if (before >= d->count) {
        sqlite3_str_append(out, d->digits, d->count);
        sqlite3_str_appendchar(out, before - d->count, '0');
        sqlite3_str_appendall(out, ".0");
    } else {
        sqlite3_str_append(out, d->digits, before);
        sqlite3_str_appendchar(out, 1, '.');
        sqlite3_str_append(out, d->digits + before, d->count - before);
    }
}

void json_append_double(sqlite3_str *out, double x)
{
    if (isnan(x)) {
        sqlite3_str_appendall(out, "NaN");
        return;
    }
    if (signbit(x)) {
        sqlite3_str_appendchar(out, 1, '-');
        x = -x;
    }
    if (isinf(x)) {
        sqlite3_str_appendall(out, "Infinity");
        return;
    }
    if (x == 0) {
        sqlite3_str_appendall(out, "0.0");
        return;
    }
    decimal d;
    decimal_shortest(&d, x);
    if (d.exponent < FIXED_LOWEST || d.exponent > FIXED_HIGHEST)
        append_exponent_form(out, &d);
    else
        append_fixed_form(out, &d);
}

/* How many bytes the UTF-8 sequence that begins with this byte has; 0 for a
** byte that begins none. */
static int utf8_length(unsigned char lead)
{
    if (lead < 0x80)
        return 1;
    if (lead >= 0xC2 && lead <= 0xDF)
        return 2;
    if (lead >= 0xE0 && lead <= 0xEF)
        return 3;
    if (lead >= 0xF0 && lead <= 0xF4)
        return 4;
    return 0;
}

/* Decode one code point; *used is the number of bytes it took. U+FFFD for what
** is overlong, a surrogate, beyond U+10FFFF or cut short. */
static unsigned utf8_decode(const unsigned char *text, int bytes, int *used)
{
    static const unsigned smallest[] = {0, 0, 0x80, 0x800, 0x10000};
    int length = utf8_length(text[0]);
    *used = 1;
    if (length <= 1)
        return length == 1 ? text[0] : 0xFFFD;
    if (length > bytes)
        return 0xFFFD;
    unsigned c = text[0] & (0xFFu >> (length + 1));
    for (int i = 1; i < length; i++) {
        if ((text[i] & 0xC0) != 0x80)
            return 0xFFFD;
        c = c << 6 | (text[i] & 0x3F);
    }
    if (c < smallest[length] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
        return 0xFFFD;
    *used = length;
    return c;
}

static void append_escaped(sqlite3_str *out, unsigned c)
{
    static const char escapes[] = "\"\"\\\\\bb\ff\nn\rr\tt"; /* character, letter, … */
    for (const char *e = escapes; *e; e += 2) {
        if (c == (unsigned char)e[0]) {
            sqlite3_str_appendf(out, "\\%c", e[1]);
            return;
        }
    }
    if (c >= 0x20 && c < 0x7F) {
        sqlite3_str_appendchar(out, 1, (char)c);
    } else if (c < 0x10000) {
        sqlite3_str_appendf(out, "\\u%04x", c);
    } else {
        c -= 0x10000;
        sqlite3_str_appendf(out, "\\u%04x\\u%04x", 0xD800 + (c >> 10), 0xDC00 + (c & 0x3FF));
    }
}

void json_append_text(sqlite3_str *out, const unsigned char *text, int bytes)
{
    sqlite3_str_appendchar(out, 1, '"');
    for (int i = 0, used; i < bytes; i += used)
        append_escaped(out, utf8_decode(text + i, bytes - i, &used));
    sqlite3_str_appendchar(out, 1, '"');
}

int json_append_id(sqlite3_str *out, const row_value *id)
{
    switch (id->type) {
    case SQLITE_INTEGER:
        sqlite3_str_appendf(out, "%lld", (long long)id->integer);
        return SQLITE_OK;
    case SQLITE_FLOAT:
        json_append_double(out, id->real);
        return SQLITE_OK;
    case SQLITE_TEXT:
        json_append_text(out, id->bytes, id->length);
        return SQLITE_OK;
    case SQLITE_NULL:
        sqlite3_str_appendall(out, "null");
        return SQLITE_OK;
    default:
        return SQLITE_MISMATCH;
    }
}
