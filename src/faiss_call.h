/*
** What calls of FAISS have in common: on how many threads they run, and what comes of those that
** fail.
*/
#ifndef FAISS_CALL_H
#define FAISS_CALL_H

/* Pin FAISS and BLAS to the calling thread; returns what to give to faiss_call_restore_threads().
** OpenMP keeps the number per thread, and the host may use OpenMP as well. */
int faiss_call_use_one_thread(void);
void faiss_call_restore_threads(int threads);

/* Turn the code of a failed call into a result code: SQLITE_ERROR with a message, or
** SQLITE_NOMEM. */
int faiss_call_failure(int code, char **message);

/* "1.12.0": the version of the FAISS in use. */
const char *faiss_call_version(void);

#endif
