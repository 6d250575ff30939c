#include "cover.h"

#include <string.h>

enum { WORD_BITS = 64 };

static size_t word_count(int64_t bits)
{
    return (size_t)bits / WORD_BITS + 1;
}

static int has_bit(const uint64_t *bits, int64_t i)
{
    return bits[i / WORD_BITS] >> (i % WORD_BITS) & 1;
}

static void set_bit(uint64_t *bits, int64_t i)
{
    bits[i / WORD_BITS] |= (uint64_t)1 << (i % WORD_BITS);
}

static void clear_bit(uint64_t *bits, int64_t i)
{
    bits[i / WORD_BITS] &= ~((uint64_t)1 << (i % WORD_BITS));
}

static int is_dead(const dead_slots *dead, int slot)
{
    return dead && has_bit(dead->bits, slot);
}

/* ---- one segment ---- */

static void cover_release(cover *c)
{
    if (!c || atomic_fetch_sub_explicit(&c->references, 1, memory_order_acq_rel) != 1)
        return;
    sqlite3_free(c->missing);
    sqlite3_free(c->places);
    sqlite3_free(c);
}

/* Forget the places where the first says it all. */
static void shorten(cover *c, int count)
{
    c->first = c->places[0];
    for (int slot = 0; slot < count; slot++) {
        if (c->first < 0 || c->places[slot] != c->first + slot)
            return;
    }
    sqlite3_free(c->places);
    c->places = NULL;
}

/* Find each row of a segment. Without keys, equal rows take places one after the other:
** those that are `taken`. */
static cover *cover_new(const segment *s, const approximate *a, uint64_t *taken)
{
    int count = segment_count(s);
    cover *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return NULL;
    memset(c, 0, sizeof *c);
    atomic_init(&c->references, 1);
    c->places = sqlite3_malloc64((size_t)count * sizeof *c->places);
    if (!c->places) {
        cover_release(c);
        return NULL;
    }
    for (int slot = 0; slot < count; slot++) {
        int64_t key = taken ? 0 : segment_key(s, slot);
        int64_t place = approximate_find(a, key, segment_hash(s, slot), -1);
        while (taken && place >= 0 && has_bit(taken, place))
            place = approximate_find(a, key, segment_hash(s, slot), place);
        if (taken && place >= 0)
            set_bit(taken, place);
        c->places[slot] = (int32_t)place;
        c->missing_count += place < 0;
    }
    c->missing = sqlite3_malloc64(((size_t)c->missing_count + 1) * sizeof *c->missing);
    if (!c->missing) {
        cover_release(c);
        return NULL;
    }
    for (int slot = 0, i = 0; slot < count; slot++) {
        if (c->places[slot] < 0)
            c->missing[i++] = slot;
    }
    shorten(c, count);
    return c;
}

/* ---- a version ---- */

coverage *coverage_retain(coverage *c)
{
    if (c)
        atomic_fetch_add_explicit(&c->references, 1, memory_order_relaxed);
    return c;
}

void coverage_release(coverage *c)
{
    if (!c || atomic_fetch_sub_explicit(&c->references, 1, memory_order_acq_rel) != 1)
        return;
    for (int i = 0; i < c->segment_count; i++) {
        segment_release(c->segments[i]);
        index_dead_release(c->dead[i]);
        cover_release(c->covers[i]);
    }
    approximate_release(c->of);
    sqlite3_free(c->segments);
    sqlite3_free(c->dead);
    sqlite3_free(c->covers);
    sqlite3_free(c->allowed);
    sqlite3_free(c->positions);
    sqlite3_free(c);
}

/* Which segment of another coverage this is, -1 for none; most stand where they stood, or
** not far from the last one found. */
static int find_segment(const coverage *in, const segment *s, int near)
{
    for (int i = 0; i < in->segment_count; i++) {
        int at = (near + i) % in->segment_count;
        if (in->segments[at] == s)
            return at;
    }
    return -1;
}

/* Note the rows of one segment that can be found: they are allowed, or are no more. */
static void mark_segment(coverage *c, const cover *of, const dead_slots *dead, int count,
                         int allowed)
{
    for (int slot = 0; slot < count; slot++) {
        int32_t place = cover_place(of, slot);
        if (place < 0 || is_dead(dead, slot))
            continue;
        if (allowed)
            set_bit(c->allowed, place);
        else
            clear_bit(c->allowed, place);
    }
}

/* Take over what the former coverage knows, and find the rows of other segments.
** was[i] is where segment i was, or -1. */
static int cover_segments(coverage *c, const coverage *former, int *was, uint64_t *taken)
{
    for (int i = 0; i < c->segment_count; i++) {
        was[i] = former ? find_segment(former, c->segments[i], i ? was[i - 1] + 1 : 0) : -1;
        if (was[i] >= 0) {
            c->covers[i] = former->covers[was[i]];
            atomic_fetch_add_explicit(&c->covers[i]->references, 1, memory_order_relaxed);
        } else {
            c->covers[i] = cover_new(c->segments[i], c->of, taken);
        }
        if (!c->covers[i])
            return SQLITE_NOMEM;
    }
    return SQLITE_OK;
}

/* Fill in c->allowed from that of the former coverage: what is gone first, since a row
** that went from one segment to another has the same place. */
static int allow(coverage *c, const coverage *former, const int *was)
{
    char *stays = NULL; /* of the former's segments, those that are as they were */
    if (former) {
        memcpy(c->allowed, former->allowed,
               word_count(approximate_count(c->of)) * sizeof *c->allowed);
        stays = sqlite3_malloc64((size_t)former->segment_count + 1);
        if (!stays)
            return SQLITE_NOMEM;
        memset(stays, 0, (size_t)former->segment_count + 1);
        for (int i = 0; i < c->segment_count; i++) {
            if (was[i] >= 0)
                stays[was[i]] = former->dead[was[i]] == c->dead[i];
        }
        for (int i = 0; i < former->segment_count; i++) {
            if (!stays[i])
                mark_segment(c, former->covers[i], former->dead[i],
                             segment_count(former->segments[i]), 0);
        }
    }
    for (int i = 0; i < c->segment_count; i++) {
        if (was[i] < 0 || !stays[was[i]])
            mark_segment(c, c->covers[i], c->dead[i], segment_count(c->segments[i]), 1);
    }
    sqlite3_free(stays);
    return SQLITE_OK;
}

static void count_rows(coverage *c, const index_version *v)
{
    for (size_t i = 0; i < word_count(approximate_count(c->of)); i++)
        c->covered += __builtin_popcountll(c->allowed[i]);
    c->missing = v->rows - c->covered;
}

/* Without keys, where in the version the row at each place is. */
static int note_positions(coverage *c, const index_version *v)
{
    size_t places = (size_t)approximate_count(c->of) + 1;
    c->positions = sqlite3_malloc64(places * sizeof *c->positions);
    if (!c->positions)
        return SQLITE_NOMEM;
    memset(c->positions, 0, places * sizeof *c->positions);
    for (int i = 0; i < c->segment_count; i++) {
        for (int slot = 0; slot < segment_count(c->segments[i]); slot++) {
            int32_t place = cover_place(c->covers[i], slot);
            if (place >= 0)
                c->positions[place] = (uint32_t)(v->starts[i] + slot);
        }
    }
    return SQLITE_OK;
}

/* Room for everything but the covers. */
static int allocate(coverage *c, const index_version *v)
{
    size_t segments = (size_t)v->segment_count + 1, words = word_count(approximate_count(c->of));
    c->segments = sqlite3_malloc64(segments * sizeof *c->segments);
    c->dead = sqlite3_malloc64(segments * sizeof *c->dead);
    c->covers = sqlite3_malloc64(segments * sizeof *c->covers);
    c->allowed = sqlite3_malloc64(words * sizeof *c->allowed);
    if (!c->segments || !c->dead || !c->covers || !c->allowed)
        return SQLITE_NOMEM;
    memset(c->covers, 0, segments * sizeof *c->covers);
    memset(c->allowed, 0, words * sizeof *c->allowed);
    for (int i = 0; i < v->segment_count; i++) {
        c->segments[i] = segment_retain(v->segments[i]);
        c->dead[i] = index_dead_retain(v->dead[i]);
    }
    c->segment_count = v->segment_count;
    return SQLITE_OK;
}

int coverage_open(const index_version *v, approximate *a, const coverage *former, coverage **out)
{
    *out = NULL;
    coverage *c = sqlite3_malloc64(sizeof *c);
    if (!c)
        return SQLITE_NOMEM;
    memset(c, 0, sizeof *c);
    atomic_init(&c->references, 1);
    c->of = approximate_retain(a);
    if (former && (former->of != a || v->kept_values))
        former = NULL;
    size_t words = word_count(approximate_count(a));
    uint64_t *taken = v->kept_values ? sqlite3_malloc64(words * sizeof *taken) : NULL;
    int *was = sqlite3_malloc64(((size_t)v->segment_count + 1) * sizeof *was);
    int rc = was && (taken || !v->kept_values) ? allocate(c, v) : SQLITE_NOMEM;
    if (taken)
        memset(taken, 0, words * sizeof *taken);
    if (rc == SQLITE_OK)
        rc = cover_segments(c, former, was, taken);
    if (rc == SQLITE_OK)
        rc = allow(c, former, was);
    if (rc == SQLITE_OK)
        count_rows(c, v);
    if (rc == SQLITE_OK && v->kept_values)
        rc = note_positions(c, v);
    sqlite3_free(taken);
    sqlite3_free(was);
    if (rc == SQLITE_OK)
        *out = c;
    else
        coverage_release(c);
    return rc;
}

size_t coverage_bytes(const coverage *c)
{
    size_t places = (size_t)approximate_count(c->of), pointers = 3 * sizeof(void *);
    size_t bytes = sizeof *c + word_count(approximate_count(c->of)) * sizeof *c->allowed;
    bytes += c->positions ? places * sizeof *c->positions : 0;
    for (int i = 0; i < c->segment_count; i++) {
        const cover *each = c->covers[i];
        int slots = each->places ? segment_count(c->segments[i]) : 0;
        bytes += pointers + sizeof *each + (size_t)(each->missing_count + slots) * sizeof(int32_t);
    }
    return bytes;
}

int64_t coverage_position(const coverage *c, const index_version *v, int64_t place)
{
    return c->positions ? c->positions[place] : index_find(v, approximate_key(c->of, place));
}
