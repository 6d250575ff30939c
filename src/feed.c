#include "feed.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "sqlite_api.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

/* As much as a process has for its first thread. */
enum { STACK_BYTES = 8 << 20 };

/* A stack, as AddressSanitizer or ThreadSanitizer is told of it. */
typedef struct side {
    ucontext_t context;
    const void *bottom;
    size_t bytes;
    void *told;
} side;

struct feed {
    side giver, eater;
    feed_eater *eat;
    void *argument;
    unsigned char *stack;
    const unsigned char *at; /* of the bytes that were given last */
    size_t left;
    int has_begun, has_ended;
    int is_over; /* there are no more bytes */
};

/* ---- switching ---- */

static void prepare(feed *f)
{
    f->eater.bottom = f->stack;
    f->eater.bytes = STACK_BYTES;
#if defined(__SANITIZE_THREAD__)
    f->eater.told = __tsan_create_fiber(0);
#endif
}

/* The frame that was left for good keeps AddressSanitizer's marks around its variables, and what
** the system puts in the place of the stack later would have them. */
static void forget(feed *f)
{
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(f->stack, STACK_BYTES);
#elif defined(__SANITIZE_THREAD__)
    if (f->eater.told)
        __tsan_destroy_fiber(f->eater.told);
#else
    (void)f;
#endif
}

/* On the stack that is left. `ends`: for good. */
static void leave(side *from, const side *to, int ends)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(ends ? NULL : &from->told, to->bottom, to->bytes);
#elif defined(__SANITIZE_THREAD__)
    (void)ends;
    from->told = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->told, 0);
#else
    (void)from;
    (void)to;
    (void)ends;
#endif
}

/* On the stack that is come to. */
static void arrive(side *at, side *from)
{
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(at->told, &from->bottom, &from->bytes);
#else
    (void)at;
    (void)from;
#endif
}

/* As swapcontext(), of which AddressSanitizer says that it does not know it well. */
static void swap(ucontext_t *from, const ucontext_t *to)
{
    volatile int is_back = 0;
    getcontext(from);
    if (is_back)
        return;
    is_back = 1;
    setcontext(to);
}

static void switch_to(side *from, side *to, int ends)
{
    leave(from, to, ends);
    swap(&from->context, &to->context);
    arrive(from, to);
}

/* What runs first on the stack of what is fed; makecontext() passes numbers of 32 bits. */
static void run(unsigned high, unsigned low)
{
    feed *f = (feed *)((uintptr_t)high << 32 | low); /* NOLINT: 64 bits, or the upper ones are 0 */
    arrive(&f->eater, &f->giver);
    f->eat(f->argument, f);
    f->has_ended = 1;
    switch_to(&f->eater, &f->giver, 1);
}

/* ---- */

int feed_open(feed_eater *eat, void *argument, feed **out)
{
    *out = NULL;
    feed *f = sqlite3_malloc64(sizeof *f);
    if (!f)
        return SQLITE_NOMEM;
    memset(f, 0, sizeof *f);
    f->eat = eat;
    f->argument = argument;
    void *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) {
        sqlite3_free(f);
        return SQLITE_NOMEM;
    }
    f->stack = stack;
    /* What goes beyond it ends there. */
    if (mprotect(stack, (size_t)sysconf(_SC_PAGESIZE), PROT_NONE) != 0 ||
        getcontext(&f->eater.context) != 0) {
        feed_close(f);
        return SQLITE_NOMEM;
    }
    f->eater.context.uc_stack.ss_sp = stack;
    f->eater.context.uc_stack.ss_size = STACK_BYTES;
    uintptr_t self = (uintptr_t)f;
    makecontext(&f->eater.context, (void (*)(void))run, 2, (unsigned)((uint64_t)self >> 32),
                (unsigned)self);
    prepare(f);
    *out = f;
    return SQLITE_OK;
}

size_t feed_give(feed *f, const void *bytes, size_t count)
{
    if (f->has_ended)
        return count;
    f->at = bytes;
    f->left = count;
    f->is_over |= count == 0;
    f->has_begun = 1;
    switch_to(&f->giver, &f->eater, 0);
    return f->left;
}

int feed_has_ended(const feed *f)
{
    return f->has_ended;
}

int feed_take(feed *f, void *bytes, size_t count)
{
    unsigned char *to = bytes;
    while (count > 0 && !f->is_over) {
        if (f->left == 0) {
            switch_to(&f->eater, &f->giver, 0);
            continue;
        }
        size_t n = count < f->left ? count : f->left;
        memcpy(to, f->at, n);
        to += n;
        count -= n;
        f->at += n;
        f->left -= n;
    }
    return count > 0;
}

void feed_close(feed *f)
{
    if (!f)
        return;
    if (f->has_begun)
        feed_give(f, NULL, 0);
    forget(f);
    munmap(f->stack, STACK_BYTES);
    sqlite3_free(f);
}
