#include "faiss_shim.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>

#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFRaBitQ.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/clone_index.h>
#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/FaissException.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/index_io.h>

/* Of the C API: what faiss_get_last_error() reads on this thread. */
extern thread_local std::exception_ptr faiss_last_exception;

namespace
{

/* Do it, and give exceptions the codes that the C API has for them. */
template <class F> int caught(F &&what)
{
    int code;
    try {
        what();
        return 0;
    } catch (const faiss::FaissException &) {
        code = -2;
    } catch (const std::exception &) {
        code = -4;
    } catch (...) {
        code = -1;
    }
    faiss_last_exception = std::current_exception();
    return code;
}

faiss::Index *index_of(FaissIndex *index)
{
    return reinterpret_cast<faiss::Index *>(index);
}

const faiss::Index *index_of(const FaissIndex *index)
{
    return reinterpret_cast<const faiss::Index *>(index);
}

/* What stands behind the transforms. */
template <class T> T *behind_transforms(T *index)
{
    while (auto *transform = dynamic_cast<const faiss::IndexPreTransform *>(index))
        index = transform->index;
    return index;
}

/* Counts what is written. */
struct byte_counter : faiss::IOWriter {
    size_t bytes = 0;

    size_t operator()(const void *, size_t size, size_t count) override
    {
        bytes += size * count;
        return count;
    }
};

/* Whom FAISS asks on this thread. */
thread_local int (*wants_stop)(void *) = nullptr;
thread_local void *wants_stop_argument = nullptr;

struct asks_the_thread : faiss::InterruptCallback {
    bool want_interrupt() override
    {
        auto *ask = wants_stop;
        if (!ask)
            return false;
        wants_stop = nullptr; /* whoever is asked may search himself */
        bool stop = ask(wants_stop_argument) != 0;
        wants_stop = ask;
        return stop;
    }
};

} // namespace

extern "C" {

void faiss_shim_prepare(FaissIndex *index, int ef_construction)
{
    faiss::Index *inner = behind_transforms(index_of(index));
    auto *graph = dynamic_cast<faiss::IndexHNSW *>(inner);
    if (graph && ef_construction)
        graph->hnsw.efConstruction = ef_construction;
    /* FAISS writes to the standard error where it has few points. */
    if (auto *lists = dynamic_cast<faiss::IndexIVF *>(inner))
        lists->cp.min_points_per_centroid = 1;
    /* Simulated annealing, minutes of it, for filters by Hamming distance that nobody uses. */
    if (auto *lists = dynamic_cast<faiss::IndexIVFPQ *>(inner))
        lists->do_polysemous_training = false;
    if (auto *codes = dynamic_cast<faiss::IndexPQ *>(graph ? graph->storage : inner))
        codes->do_polysemous_training = false;
    /* With the query in 8 bits distances are sums of bit counts; without, they are sums of
    ** floats, some ten times slower, and no better once candidates are scored again. */
    if (auto *codes = dynamic_cast<faiss::IndexRaBitQ *>(inner))
        codes->qb = 8;
    if (auto *lists = dynamic_cast<faiss::IndexIVFRaBitQ *>(inner))
        lists->qb = 8;
}

int faiss_shim_reserve(FaissIndex *index, int64_t rows)
{
    return caught([&] {
        faiss::Index *inner = behind_transforms(index_of(index));
        size_t n = static_cast<size_t>(rows);
        if (auto *graph = dynamic_cast<faiss::IndexHNSW *>(inner)) {
            faiss::HNSW &h = graph->hnsw;
            h.levels.reserve(n);
            h.offsets.reserve(n + 1);
            /* One row in m has links on the level above, and so on. */
            h.neighbors.owned_data.reserve(n * static_cast<size_t>(h.nb_neighbors(0) + 2) + n / 8);
            inner = graph->storage;
        }
        if (auto *codes = dynamic_cast<faiss::IndexFlatCodes *>(inner))
            codes->codes.owned_data.reserve(n * codes->code_size);
    });
}

int faiss_shim_search(const FaissIndex *index, const float *query, int64_t k, int ef_search,
                      int nprobe, const uint8_t *allowed, size_t bytes, float *scores,
                      int64_t *labels)
{
    return caught([&] {
        const faiss::Index *outer = index_of(index), *inner = behind_transforms(outer);
        faiss::IDSelectorBitmap selector(bytes, allowed);
        faiss::IDSelector *chosen = allowed ? &selector : nullptr;
        faiss::SearchParameters plain;
        faiss::SearchParametersHNSW graph, coarse_graph;
        faiss::SearchParametersIVF lists;
        faiss::SearchParameters *parameters = &plain;
        if (dynamic_cast<const faiss::IndexHNSW *>(inner)) {
            graph.efSearch = ef_search;
            parameters = &graph;
        } else if (auto *ivf = dynamic_cast<const faiss::IndexIVF *>(inner)) {
            lists.nprobe = static_cast<size_t>(nprobe);
            if (dynamic_cast<const faiss::IndexHNSW *>(ivf->quantizer)) {
                coarse_graph.efSearch = std::max(ef_search, nprobe);
                lists.quantizer_params = &coarse_graph;
            }
            parameters = &lists;
        } else if (dynamic_cast<const faiss::IndexPQ *>(inner)) {
            parameters = nullptr; /* it knows no selectors */
        }
        if (parameters)
            parameters->sel = chosen;
        outer->search(1, query, k, scores, labels, parameters);
    });
}

int faiss_shim_copy(const FaissIndex *index, FaissIndex **out)
{
    return caught([&] {
        faiss::Index *copy = nullptr;
        try {
            copy = faiss::clone_index(index_of(index));
        } catch (const faiss::FaissException &) { /* it knows not every kind */
            faiss::VectorIOWriter written;
            faiss::write_index(index_of(index), &written);
            faiss::VectorIOReader reader;
            reader.data = std::move(written.data);
            copy = faiss::read_index(&reader);
        }
        *out = reinterpret_cast<FaissIndex *>(copy);
    });
}

int faiss_shim_bytes(const FaissIndex *index, size_t *bytes)
{
    return caught([&] {
        byte_counter counter;
        faiss::write_index(index_of(index), &counter);
        *bytes = counter.bytes;
    });
}

void faiss_shim_watch(int (*ask)(void *), void *argument)
{
    static std::once_flag installed;
    std::call_once(installed, [] {
        faiss::InterruptCallback::instance = std::make_unique<asks_the_thread>();
    });
    wants_stop = ask;
    wants_stop_argument = argument;
}

} // extern "C"
