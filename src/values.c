#include "values.h"

#include <string.h>

enum { LITERAL_LIMIT = 60 /* bytes of a text or blob that a message shows */ };

row_value value_from_sql(sqlite3_value *value)
{
    row_value id = {.type = sqlite3_value_type(value)};
    switch (id.type) {
    case SQLITE_INTEGER:
        id.integer = sqlite3_value_int64(value);
        break;
    case SQLITE_FLOAT:
        id.real = sqlite3_value_double(value);
        break;
    case SQLITE_TEXT:
        id.bytes = sqlite3_value_text(value);
        id.length = id.bytes ? sqlite3_value_bytes(value) : 0;
        break;
    case SQLITE_BLOB:
        id.bytes = sqlite3_value_blob(value);
        id.length = id.bytes ? sqlite3_value_bytes(value) : 0;
        break;
    default:
        break;
    }
    return id;
}

void value_to_result(sqlite3_context *context, const row_value *id)
{
    switch (id->type) {
    case SQLITE_INTEGER:
        sqlite3_result_int64(context, id->integer);
        break;
    case SQLITE_FLOAT:
        sqlite3_result_double(context, id->real);
        break;
    case SQLITE_TEXT:
        sqlite3_result_text(context, id->length ? (const char *)id->bytes : "", id->length,
                            SQLITE_TRANSIENT);
        break;
    case SQLITE_BLOB:
        sqlite3_result_blob(context, id->length ? (const void *)id->bytes : "", id->length,
                            SQLITE_TRANSIENT);
        break;
    default:
        sqlite3_result_null(context);
        break;
    }
}

static void describe_bytes(sqlite3_str *out, const row_value *id)
{
    int shown = id->length > LITERAL_LIMIT ? LITERAL_LIMIT : id->length;
    if (id->type == SQLITE_TEXT) {
        /* Cut between characters, never inside one. */
        while (shown < id->length && shown > 0 && (id->bytes[shown] & 0xC0) == 0x80)
            shown--;
        sqlite3_str_appendf(out, "'%.*q", shown, id->length ? (const char *)id->bytes : "");
    } else {
        sqlite3_str_appendall(out, "x'");
        for (int i = 0; i < shown; i++)
            sqlite3_str_appendf(out, "%02x", id->bytes[i]);
    }
    sqlite3_str_appendall(out, shown < id->length ? "...'" : "'");
}

char *value_describe(const row_value *id)
{
    sqlite3_str *out = sqlite3_str_new(NULL);
    if (id->type == SQLITE_INTEGER)
        sqlite3_str_appendf(out, "%lld", (long long)id->integer);
    else if (id->type == SQLITE_FLOAT)
        sqlite3_str_appendf(out, "%!.15g", id->real);
    else if (id->type == SQLITE_NULL)
        sqlite3_str_appendall(out, "NULL");
    else
        describe_bytes(out, id);
    return sqlite3_str_finish(out);
}

static int value_list_reserve(value_list *list, size_t more)
{
    if (list->count == list->capacity) {
        int capacity = list->capacity ? 2 * list->capacity : 64;
        size_t *starts = sqlite3_realloc64(list->starts, capacity * sizeof *starts);
        if (!starts)
            return SQLITE_NOMEM;
        list->starts = starts;
        list->capacity = capacity;
    }
    if (list->room - list->used < more) {
        size_t room = list->room + list->room / 2 + more;
        unsigned char *packed = sqlite3_realloc64(list->packed, room);
        if (!packed)
            return SQLITE_NOMEM;
        list->packed = packed;
        list->room = room;
    }
    return SQLITE_OK;
}

int value_list_append(value_list *list, const row_value *id)
{
    const void *payload = NULL;
    size_t length = 0;
    if (id->type == SQLITE_INTEGER) {
        payload = &id->integer;
        length = sizeof id->integer;
    } else if (id->type == SQLITE_FLOAT) {
        payload = &id->real;
        length = sizeof id->real;
    } else if (id->type != SQLITE_NULL) {
        payload = id->bytes;
        length = id->length;
    }
    if (value_list_reserve(list, 1 + length) != SQLITE_OK)
        return SQLITE_NOMEM;
    list->starts[list->count++] = list->used;
    list->packed[list->used++] = (unsigned char)id->type;
    if (length)
        memcpy(list->packed + list->used, payload, length);
    list->used += length;
    return SQLITE_OK;
}

row_value value_list_get(const value_list *list, int i)
{
    size_t start = list->starts[i];
    size_t end = i + 1 < list->count ? list->starts[i + 1] : list->used;
    const unsigned char *payload = list->packed + start + 1;
    row_value id = {.type = list->packed[start]};
    if (id.type == SQLITE_INTEGER)
        memcpy(&id.integer, payload, sizeof id.integer);
    else if (id.type == SQLITE_FLOAT)
        memcpy(&id.real, payload, sizeof id.real);
    id.bytes = payload;
    id.length = (int)(end - start - 1);
    return id;
}

size_t value_list_bytes(const value_list *list)
{
    return list->room + list->capacity * sizeof *list->starts;
}

void value_list_clear(value_list *list)
{
    sqlite3_free(list->packed);
    sqlite3_free(list->starts);
    *list = (value_list){0};
}
