#include "factory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "values.h"

enum {
    ROWS_LEAST = 100,     /* below, an index only adds to the work */
    POINTS_LEAST = 39,    /* that k-means wants for each centroid, or FAISS warns … */
    POINTS_ENOUGH = 64,   /* … and that it is given */
    SAMPLE_LEAST = 16384, /* for whatever is learned but centroids */
    LISTS_MOST = 1 << 20, /* FAISS makes room for all of them at once */
    LINKS_MOST = 512,
    PQ_BITS = 8,
    PQ_BITS_MOST = 12,
    TRANSFORM_MOST = 1 << 20,
    EF_SEARCH_USUAL = 64,
};

/* ---- refusals ---- */

/* What FAISS knows and tables do not take. */
static const struct {
    const char *part; /* a part of the string */
    const char *why;
} refused[] = {
    {"RFlat", "candidates are scored again by the option rerank"},
    {"Refine", "candidates are scored again by the option rerank"},
    {"IDMap", "the table keeps the ids itself: leave it out"},
    {"L2norm", "it is what metric=cosine does"},
    {"L2Norm", "it is what metric=cosine does"},
    {"PCAW", "whitening changes distances: use PCA"},
    {"x4fs", "FAISS packs these codes in blocks, where single rows cannot be left out: use PQ"},
    {"NSG", "rows cannot be added to it one after the other: use HNSW"},
    {"NNDescent", "rows cannot be added to it one after the other: use HNSW"},
    {"IMI", "it has more lists than tables have rows: use IVF"},
    {"LSH", "RaBitQ takes as little room and finds more"},
    {"ITQ", "RaBitQ takes as little room and finds more"},
    {"RQ", "additive quantizers take too long to encode a row: use PQ"},
    {"LSQ", "additive quantizers take too long to encode a row: use PQ"},
    {"SQ8_direct", "it is for components that are whole numbers up to 255: use SQ8"},
};

static int refuse(const char *text, const char *why, char **message)
{
    return set_message(message, sqlite3_mprintf("index=%.100s: %s", text, why));
}

static int refuse_unknown(const char *text, char **message)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (strstr(text, refused[i].part))
            return refuse(text, refused[i].why, message);
    }
    return refuse(text,
                  "expected a factory string of FAISS such as HNSW32, 'IVF1024,Flat', "
                  "'IVF1024,SQ8', SQ8, PQ48, RaBitQ or 'OPQ48,IVF1024,PQ48'",
                  message);
}

/* ---- one component ---- */

/* A component: the text up to a comma, and where reading it stands. */
typedef struct component {
    const char *at, *end;
} component;

static int accept(component *c, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, word, length) != 0)
        return 0;
    c->at += length;
    return 1;
}

/* A whole number from 1 to `most`; 0 if there is none. */
static int accept_number(component *c, int most, int *number)
{
    int n = 0;
    const char *p = c->at;
    for (; p < c->end && *p >= '0' && *p <= '9' && n <= most; p++)
        n = 10 * n + (*p - '0');
    if (p == c->at || n < 1 || n > most)
        return 0;
    c->at = p;
    *number = n;
    return 1;
}

static int at_end(const component *c)
{
    return c->at == c->end;
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* k-means for so many centroids is a part of the training. */
static void needs_centroids(index_kind *k, int64_t centroids)
{
    k->is_trained = 1;
    k->rows_least = larger(k->rows_least, POINTS_LEAST * centroids);
    k->sample = larger(k->sample, POINTS_ENOUGH * centroids);
}

static int read_transform(component c, index_kind *k)
{
    int n = 0;
    if (accept(&c, "PCAR") || accept(&c, "PCA")) {
        k->is_lossy = k->is_trained = 1;
        if (!accept_number(&c, TRANSFORM_MOST, &n) || !at_end(&c))
            return 0;
        k->rows_least = larger(k->rows_least, n);
        k->rerank = (int)larger(k->rerank, 4);
        return 1;
    }
    if (accept(&c, "OPQ")) { /* needs_rotation() says of how many rows it is learned */
        if (!accept_number(&c, TRANSFORM_MOST, &n))
            return 0;
        if (accept(&c, "_")) {
            k->is_lossy = 1;
            return accept_number(&c, TRANSFORM_MOST, &n) && at_end(&c);
        }
        return at_end(&c);
    }
    /* A rotation is drawn, by a fixed seed. */
    if (!accept(&c, "RR"))
        return 0;
    k->is_trained = k->is_lossy = 1;
    return at_end(&c) || (accept_number(&c, TRANSFORM_MOST, &n) && at_end(&c));
}

static int read_code(component c, index_kind *k)
{
    static const struct {
        const char *name;
        int rerank;
    } quantizers[] = {{"SQ8", 2}, {"SQ6", 3}, {"SQ4", 6}, {"SQfp16", 2}, {"SQbf16", 2}};
    int n = 0, bits = PQ_BITS;
    if (accept(&c, "Flat"))
        return at_end(&c);
    k->is_lossy = k->is_trained = 1;
    if (accept(&c, "RaBitQ")) {
        k->rerank = (int)larger(k->rerank, 20);
        return at_end(&c);
    }
    if (accept(&c, "PQ")) {
        if (!accept_number(&c, TRANSFORM_MOST, &n) ||
            (accept(&c, "x") && !accept_number(&c, PQ_BITS_MOST, &bits)))
            return 0;
        accept(&c, "np");
        k->bits = bits;
        needs_centroids(k, (int64_t)1 << bits);
        k->rerank = (int)larger(k->rerank, 10);
        k->selects = k->lists || k->links; /* IndexPQ alone takes no selector */
        return at_end(&c);
    }
    for (size_t i = 0; i < sizeof quantizers / sizeof *quantizers; i++) {
        component rest = c;
        if (accept(&rest, quantizers[i].name) && at_end(&rest)) {
            k->rerank = (int)larger(k->rerank, quantizers[i].rerank);
            return 1;
        }
    }
    return 0;
}

/* IVFn, IVFnk or IVFn_HNSWm. */
static int read_lists(component c, index_kind *k)
{
    int links = 0;
    if (!accept(&c, "IVF") || !accept_number(&c, LISTS_MOST, &k->lists))
        return 0;
    if (accept(&c, "k"))
        k->lists = k->lists <= LISTS_MOST / 1024 ? k->lists * 1024 : LISTS_MOST + 1;
    if (k->lists > LISTS_MOST)
        return 0;
    if (accept(&c, "_HNSW") && !at_end(&c) && (!accept_number(&c, LINKS_MOST, &links) || links < 2))
        return 0;
    needs_centroids(k, k->lists);
    return at_end(&c);
}

/* HNSWm, alone or before a code; `joined` is what follows an underscore. */
static int read_graph(component c, index_kind *k, component *joined)
{
    *joined = (component){NULL, NULL};
    if (!accept(&c, "HNSW") || !accept_number(&c, LINKS_MOST, &k->links) || k->links < 2)
        return 0;
    if (accept(&c, "_") && !at_end(&c)) {
        *joined = c;
        return 1;
    }
    return at_end(&c);
}

/* ---- the whole string ---- */

enum { COMPONENTS_MOST = 6 };

static int split(const char *text, component parts[COMPONENTS_MOST])
{
    int count = 0;
    for (const char *p = text;; p++) {
        const char *end = p + strcspn(p, ",");
        if (count == COMPONENTS_MOST)
            return 0;
        parts[count++] = (component){p, end};
        p = end;
        if (!*p)
            return count;
    }
}

static int starts_with(const component *c, const char *word)
{
    component copy = *c;
    return accept(&copy, word);
}

/* OPQ is learned with codes of PQ: those behind it, but of no more than 8 bits. */
static void needs_rotation(index_kind *k)
{
    needs_centroids(k, (int64_t)1 << (k->bits && k->bits < PQ_BITS ? k->bits : PQ_BITS));
}

/* The components in their order; 0 where one is not as it should be. */
static int read_components(const component *parts, int count, index_kind *k)
{
    int i = 0;
    component joined = {NULL, NULL};
    while (i < count - 1 && (starts_with(&parts[i], "PCA") || starts_with(&parts[i], "OPQ") ||
                             starts_with(&parts[i], "RR"))) {
        if (!read_transform(parts[i++], k))
            return 0;
    }
    int transforms = i;
    if (starts_with(&parts[i], "IVF")) {
        if (!read_lists(parts[i++], k))
            return 0;
    } else if (starts_with(&parts[i], "HNSW")) {
        if (!read_graph(parts[i++], k, &joined))
            return 0;
        if (joined.at)
            return i == count && read_code(joined, k);
        if (i == count)
            return 1;
    }
    return i == count - 1 && read_code(parts[i], k) &&
           (k->is_lossy || k->lists || k->links || transforms);
}

int index_kind_parse(const char *text, vector_metric metric, index_kind *out, char **message)
{
    component parts[COMPONENTS_MOST];
    *out =
        (index_kind){.rows_least = ROWS_LEAST, .sample = SAMPLE_LEAST, .rerank = 1, .selects = 1};
    if (strcmp(text, "Flat") == 0)
        return refuse(text, "a table without the option index is exact, and faster than this",
                      message);
    int count = strlen(text) < sizeof out->text ? split(text, parts) : 0;
    if (count == 0 || !read_components(parts, count, out))
        return refuse_unknown(text, message);
    if (strstr(text, "OPQ"))
        needs_rotation(out);
    if (out->links && strstr(text, "PQ") && metric == METRIC_KIND_IP)
        return refuse(text, "FAISS has this kind for l2 and cosine only: use another code with ip",
                      message);
    memcpy(out->text, text, strlen(text) + 1);
    return SQLITE_OK;
}

int index_kind_equal(const index_kind *a, const index_kind *b)
{
    return strcmp(a->text, b->text) == 0 && a->ef_construction == b->ef_construction;
}

const char *const search_effort_names[SEARCH_EFFORTS] = {"ef_search", "nprobe", "rerank"};

static int *effort_at(search_effort *effort, int which)
{
    int *const efforts[SEARCH_EFFORTS] = {&effort->ef_search, &effort->nprobe, &effort->rerank};
    return efforts[which];
}

int search_effort_get(const search_effort *effort, int which)
{
    search_effort copy = *effort;
    return *effort_at(&copy, which);
}

int search_effort_read(search_effort *effort, int which, sqlite3_value *value, char **message)
{
    static const int greatest[SEARCH_EFFORTS] = {EFFORT_MOST, EFFORT_MOST, RERANK_MOST};
    sqlite3_int64 number = sqlite3_value_int64(value);
    int most = greatest[which];
    *effort_at(effort, which) = (int)number;
    if (sqlite3_value_type(value) == SQLITE_INTEGER && number >= 1 && number <= most)
        return SQLITE_OK;
    row_value given = value_from_sql(value);
    char *shown = value_describe(&given);
    int rc =
        set_message(message, sqlite3_mprintf("%s must be a whole number from 1 to %d, not %s",
                                             search_effort_names[which], most, shown ? shown : ""));
    sqlite3_free(shown);
    return rc;
}

/* What is said that the kind has not, and which kinds have it; NULL for nothing. */
static const char *stray_effort(const index_kind *kind, const search_effort *effort)
{
    if (kind->ef_construction && !kind->links)
        return "ef_construction: only HNSW has it";
    if (effort->ef_search && !strstr(kind->text, "HNSW"))
        return "ef_search: only HNSW has it";
    if (effort->nprobe && !kind->lists)
        return "nprobe: only IVF has it";
    return effort->rerank && !*kind->text ? "rerank: it is for approximate indexes" : NULL;
}

int search_effort_applies(const index_kind *kind, const search_effort *effort)
{
    return stray_effort(kind, effort) == NULL;
}

int search_effort_check(const index_kind *kind, const search_effort *effort, char **message)
{
    const char *stray = stray_effort(kind, effort);
    if (!stray)
        return SQLITE_OK;
    return set_message(message, *kind->text ? sqlite3_mprintf("%s, not index=%s", stray, kind->text)
                                            : sqlite3_mprintf("%s (option index)", stray));
}

static int first_set(int a, int b, int otherwise)
{
    return a ? a : b ? b : otherwise;
}

search_effort search_effort_of(const index_kind *kind, const search_effort *asked,
                               const search_effort *usual)
{
    int lists = (int)ceil(1.5 * sqrt(kind->lists));
    return (search_effort){
        .ef_search = first_set(asked->ef_search, usual->ef_search, EF_SEARCH_USUAL),
        .nprobe = first_set(asked->nprobe, usual->nprobe,
                            lists < kind->lists ? lists : kind->lists + !kind->lists),
        .rerank = first_set(asked->rerank, usual->rerank, kind->rerank)};
}
