#include "vector.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <string.h>

#include "json.h"
#include "message.h"

static const char *const metric_names[] = {"l2", "ip", "cosine"};

int vector_metric_parse(const char *name, vector_metric *metric)
{
    for (int i = 0; i < (int)(sizeof metric_names / sizeof *metric_names); i++) {
        if (sqlite3_stricmp(name, metric_names[i]) == 0) {
            *metric = (vector_metric)i;
            return 1;
        }
    }
    return 0;
}

const char *vector_metric_name(vector_metric metric)
{
    return metric_names[metric];
}

double vector_distance(vector_metric metric, float score)
{
    switch (metric) {
    case METRIC_KIND_L2:
        return sqrt((double)score);
    case METRIC_KIND_IP:
        return 0 - (double)score; /* never -0.0 */
    default:
        return 1 - (double)score;
    }
}

int vector_first_nonfinite(const float *x, int dimension)
{
    /* A sum of x * 0 is 0 for finite components and NaN otherwise: a loop
    ** for vector instructions. The position is sought only when there is one. */
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < dimension; i++)
        sum += x[i] * 0;
    if (sum == 0)
        return -1;
    int i = 0;
    while (isfinite(x[i]))
        i++;
    return i;
}

static int vector_allocate(vector *out, int dimension)
{
    out->dimension = dimension;
    out->x = sqlite3_malloc64((dimension ? dimension : 1) * sizeof *out->x);
    return out->x ? SQLITE_OK : SQLITE_NOMEM;
}

void vector_clear(vector *v)
{
    sqlite3_free(v->x);
    *v = (vector){0};
}

int vector_copy(const vector *v, vector *out)
{
    size_t bytes = (size_t)v->dimension * sizeof *v->x;
    *out = (vector){.x = sqlite3_malloc64(bytes), .dimension = v->dimension};
    if (!out->x) {
        out->dimension = 0;
        return SQLITE_NOMEM;
    }
    memcpy(out->x, v->x, bytes);
    return SQLITE_OK;
}

int vector_equal(const vector *a, const vector *b)
{
    return a->dimension == b->dimension &&
           memcmp(a->x, b->x, (size_t)a->dimension * sizeof *a->x) == 0;
}

static const char *json_type_name(const cJSON *item)
{
    if (cJSON_IsArray(item))
        return "an array";
    if (cJSON_IsObject(item))
        return "an object";
    if (cJSON_IsString(item))
        return "a string";
    if (cJSON_IsNumber(item))
        return "a number";
    return cJSON_IsNull(item) ? "null" : "a boolean";
}

/* Copy the elements of a parsed array. */
static int vector_from_cjson(const cJSON *array, vector *out, char **message)
{
    if (!cJSON_IsArray(array)) {
        return set_message(message,
                           sqlite3_mprintf("a vector in JSON must be an array of numbers, not %s",
                                           json_type_name(array)));
    }
    if (vector_allocate(out, cJSON_GetArraySize(array)) != SQLITE_OK)
        return SQLITE_NOMEM;
    int i = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        if (!cJSON_IsNumber(item)) {
            return set_message(message, sqlite3_mprintf("element %d of the JSON vector is %s: "
                                                        "expected a number",
                                                        i, json_type_name(item)));
        }
        out->x[i] = (float)item->valuedouble;
        if (!isfinite(out->x[i])) {
            return set_message(message, sqlite3_mprintf("element %d of the JSON vector (%!.15g) is "
                                                        "beyond the range of float32",
                                                        i, item->valuedouble));
        }
        i++;
    }
    return SQLITE_OK;
}

static int count_digits(const char *text, int bytes)
{
    int n = 0;
    while (n < bytes && text[n] >= '0' && text[n] <= '9')
        n++;
    return n;
}

/* The length of the number at the start of the text by JSON's grammar (RFC 8259,
** section 6), 0 if there is none. */
static int json_number_length(const char *text, int bytes)
{
    int n = bytes > 0 && text[0] == '-';
    int whole = count_digits(text + n, bytes - n);
    if (whole == 0 || (whole > 1 && text[n] == '0'))
        return 0;
    n += whole;
    if (n < bytes && text[n] == '.') {
        int fraction = count_digits(text + n + 1, bytes - n - 1);
        if (fraction == 0)
            return 0;
        n += 1 + fraction;
    }
    if (n < bytes && (text[n] == 'e' || text[n] == 'E')) {
        int sign = n + 1 < bytes && (text[n + 1] == '+' || text[n + 1] == '-');
        int exponent = count_digits(text + n + 1 + sign, bytes - n - 1 - sign);
        if (exponent == 0)
            return 0;
        n += 1 + sign + exponent;
    }
    return n;
}

/* cJSON forgives what JSON forbids: a byte order mark, 01, 1., a NUL byte. Given
** that it read an array of numbers, find the first byte that is none of JSON's;
** -1 if all are. */
static int json_array_error(const char *text, int bytes)
{
    for (int i = 0; i < bytes;) {
        if (text[i] && strchr(" \t\r\n[],", text[i])) {
            i++;
            continue;
        }
        int length = json_number_length(text + i, bytes - i);
        if (length == 0)
            return i;
        i += length;
    }
    return -1;
}

int vector_from_json(const char *text, int bytes, vector *out, char **message)
{
    *out = (vector){0};
    const char *end = NULL;
    cJSON *array = bytes ? cJSON_ParseWithLengthOpts(text, (size_t)bytes, &end, 0) : NULL;
    int at = end ? (int)(end - text) : 0;
    while (array && at < bytes && text[at] && strchr(" \t\r\n", text[at]))
        at++;
    int rc = array && at == bytes ? vector_from_cjson(array, out, message) : SQLITE_FORMAT;
    cJSON_Delete(array);
    if (rc == SQLITE_OK && (at = json_array_error(text, bytes)) >= 0)
        rc = SQLITE_FORMAT;
    if (rc == SQLITE_FORMAT)
        rc = set_message(message, sqlite3_mprintf("malformed JSON at byte %d of the vector: "
                                                  "expected an array of numbers",
                                                  at));
    if (rc != SQLITE_OK)
        vector_clear(out);
    return rc;
}

static int vector_from_blob(sqlite3_value *value, vector *out, char **message)
{
    int bytes = sqlite3_value_bytes(value);
    if (bytes % VECTOR_COMPONENT_BYTES) {
        return set_message(message, sqlite3_mprintf("a vector BLOB of %d bytes is not a whole "
                                                    "number of float32 components of %d bytes",
                                                    bytes, VECTOR_COMPONENT_BYTES));
    }
    const void *blob = sqlite3_value_blob(value);
    if (bytes && !blob)
        return SQLITE_NOMEM;
    if (vector_allocate(out, bytes / VECTOR_COMPONENT_BYTES) != SQLITE_OK)
        return SQLITE_NOMEM;
    if (bytes)
        memcpy(out->x, blob, (size_t)bytes);
    int bad = vector_first_nonfinite(out->x, out->dimension);
    if (bad >= 0) {
        float x = out->x[bad];
        return set_message(message,
                           sqlite3_mprintf("component %d of the vector is %s: expected a finite "
                                           "number",
                                           bad, isnan(x) ? "NaN" : (x < 0 ? "-inf" : "inf")));
    }
    return SQLITE_OK;
}

int vector_from_value(sqlite3_value *value, vector *out, char **message)
{
    *out = (vector){0};
    int rc;
    int type = sqlite3_value_type(value);
    if (type == SQLITE_BLOB) {
        rc = vector_from_blob(value, out, message);
    } else if (type == SQLITE_TEXT) {
        const char *text = (const char *)sqlite3_value_text(value);
        rc = text ? vector_from_json(text, sqlite3_value_bytes(value), out, message) : SQLITE_NOMEM;
    } else {
        rc = set_message(message, sqlite3_mprintf("a vector must be a BLOB of float32 or a JSON "
                                                  "array, not %s",
                                                  type == SQLITE_INTEGER ? "an integer"
                                                  : type == SQLITE_FLOAT ? "a real number"
                                                                         : "NULL"));
    }
    if (rc == SQLITE_OK && out->dimension == 0)
        rc = set_message(message, sqlite3_mprintf("the vector is empty: expected at least one "
                                                  "component"));
    if (rc != SQLITE_OK)
        vector_clear(out);
    return rc;
}

int neighbours_from_value(sqlite3_value *value, sqlite3_int64 *k, char **message)
{
    const char *expected = "k must be a positive integer, not";
    switch (sqlite3_value_type(value)) {
    case SQLITE_INTEGER:
        *k = sqlite3_value_int64(value);
        if (*k > 0)
            return SQLITE_OK;
        return set_message(message, sqlite3_mprintf("%s %lld", expected, (long long)*k));
    case SQLITE_FLOAT: {
        double x = sqlite3_value_double(value);
        if (x >= 1 && x < 9223372036854775808.0 && x == floor(x)) {
            *k = (sqlite3_int64)x;
            return SQLITE_OK;
        }
        return set_message(message, sqlite3_mprintf("%s %!.15g", expected, x));
    }
    case SQLITE_TEXT:
        return set_message(message,
                           sqlite3_mprintf("%s the text %Q", expected, sqlite3_value_text(value)));
    default:
        return set_message(message, sqlite3_mprintf("%s a BLOB", expected));
    }
}

void vector_append_json(sqlite3_str *out, const float *x, int count)
{
    sqlite3_str_appendchar(out, 1, '[');
    for (int i = 0; i < count; i++) {
        if (i)
            sqlite3_str_append(out, ", ", 2);
        json_append_double(out, x[i]);
    }
    sqlite3_str_appendchar(out, 1, ']');
}
