#include "progress.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "sqlite_api.h"

enum { CELLS = 30, TEXT_BYTES = 200, LINE_BYTES = TEXT_BYTES + 56, PAUSE_MS = 100 };

static atomic_llong drawn_at; /* in milliseconds; 0: nothing is there */

static int is_asked(void)
{
    enum { UNKNOWN, NO, YES };
    static atomic_int asked;
    int known = atomic_load_explicit(&asked, memory_order_relaxed);
    if (known == UNKNOWN) {
        const char *text = getenv("SQLITE_FAISS_PROGRESS");
        known = text && *text && strcmp(text, "0") != 0 ? YES : NO;
        atomic_store_explicit(&asked, known, memory_order_relaxed);
    }
    return known == YES;
}

/* At once, so that lines of two threads do not mix. What cannot be written is not missed. */
static void put(const char *line)
{
    ssize_t written = write(STDERR_FILENO, line, strlen(line));
    (void)written;
}

/* Draw a bar and a text, unless something was drawn a moment ago. */
static void draw(int64_t done, int64_t total, const char *text)
{
    long long now = (long long)clock_milliseconds(), former = atomic_load(&drawn_at);
    if ((former && now - former < PAUSE_MS) ||
        !atomic_compare_exchange_strong(&drawn_at, &former, now))
        return;
    char cells[CELLS + 1], line[LINE_BYTES];
    int full = (int)(done * CELLS / total);
    memset(cells, '#', (size_t)full);
    memset(cells + full, '.', (size_t)(CELLS - full));
    cells[CELLS] = 0;
    sqlite3_snprintf(sizeof line, line, "\r[%s] %3d %%  %s", cells, (int)(done * 100 / total),
                     text);
    put(line);
}

void progress_draw_training(const char *kind, int64_t sample, int64_t total)
{
    char text[TEXT_BYTES];
    if (!is_asked() || total < 1)
        return;
    sqlite3_snprintf(sizeof text, text, "%s: training on %,lld of %,lld rows", kind,
                     (long long)sample, (long long)total);
    draw(0, total, text);
}

void progress_draw(const char *kind, int64_t done, int64_t total)
{
    char text[TEXT_BYTES];
    if (!is_asked() || total < 1)
        return;
    sqlite3_snprintf(sizeof text, text, "%s: %,lld of %,lld rows", kind, (long long)done,
                     (long long)total);
    draw(done, total, text);
}

void progress_wipe(void)
{
    if (atomic_exchange(&drawn_at, 0))
        put("\r\x1b[K");
}
