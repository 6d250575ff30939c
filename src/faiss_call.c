#include "faiss_call.h"

#include <omp.h>
#include <string.h>

#include <c_api/error_c.h>
#include <c_api/utils/utils_c.h>

#include "message.h"

int faiss_call_use_one_thread(void)
{
    int threads = omp_get_max_threads();
    if (threads != 1)
        omp_set_num_threads(1);
    return threads;
}

void faiss_call_restore_threads(int threads)
{
    if (threads != 1)
        omp_set_num_threads(threads);
}

/* Exceptions of the C++ library, and those that are none, come from memory alone here: what
** can be wrong with arguments is checked before. FAISS's own text begins with a function and
** a source line, which mean nothing to the user. */
int faiss_call_failure(int code, char **message)
{
    const char *text = faiss_get_last_error();
    if (code != FAISS_EXCEPT || !text || strstr(text, "bad_alloc"))
        return SQLITE_NOMEM;
    const char *colon = strstr(text, ": ");
    return set_message(message, sqlite3_mprintf("FAISS: %s", colon ? colon + 2 : text));
}

const char *faiss_call_version(void)
{
    return faiss_get_version();
}
