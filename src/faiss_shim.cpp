#include "faiss_shim.h"

#include <algorithm>
#include <exception>
#include <memory>
#include <mutex>
#include <typeinfo>
#include <vector>

#include <faiss/IndexFlat.h>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFRaBitQ.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/VectorTransform.h>
#include <faiss/clone_index.h>
#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/FaissException.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/io.h>
#include <faiss/index_io.h>

/* BLAS, as FAISS calls it. */
extern "C" int sgemm_(const char *transa, const char *transb, int *m, int *n, int *k,
                      const float *alpha, const float *a, int *lda, const float *b, int *ldb,
                      float *beta, float *c, int *ldc);

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

const faiss::PCAMatrix *pca_of(const struct FaissVectorTransform_H *transform)
{
    return dynamic_cast<const faiss::PCAMatrix *>(
        reinterpret_cast<const faiss::VectorTransform *>(transform));
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

/* Hands what is written to a callback. */
struct callback_writer : faiss::IOWriter {
    faiss_shim_write *write;
    void *argument;

    size_t operator()(const void *bytes, size_t size, size_t count) override
    {
        return write(argument, bytes, size * count) == 0 ? count : 0;
    }
};

struct callback_reader : faiss::IOReader {
    faiss_shim_read *read;
    void *argument;

    size_t operator()(void *bytes, size_t size, size_t count) override
    {
        return read(argument, bytes, size * count) == 0 ? count : 0;
    }
};

/* ---- whether a loaded index is what it should be ---- */

bool is_whole(const faiss::IndexFlatCodes &codes)
{
    return codes.codes.size() == static_cast<size_t>(codes.ntotal) * codes.code_size;
}

/* Every link of the graph leads to one of its rows. */
bool is_whole(const faiss::HNSW &h, size_t rows)
{
    if (h.levels.size() != rows || h.offsets.size() != rows + 1 || h.offsets[0] != 0 ||
        h.offsets[rows] != h.neighbors.size())
        return false;
    int levels = static_cast<int>(h.cum_nneighbor_per_level.size()) - 1;
    for (size_t i = 0; i < rows; i++) {
        if (h.levels[i] < 1 || h.levels[i] > levels ||
            h.offsets[i + 1] - h.offsets[i] !=
                static_cast<size_t>(h.cum_nneighbor_per_level[static_cast<size_t>(h.levels[i])]))
            return false;
    }
    for (size_t i = 0; i < h.neighbors.size(); i++) {
        if (h.neighbors[i] < -1 || h.neighbors[i] >= static_cast<int64_t>(rows))
            return false;
    }
    if (rows == 0)
        return true;
    return h.entry_point >= 0 && static_cast<size_t>(h.entry_point) < rows && h.max_level >= 0 &&
           h.max_level < h.levels[static_cast<size_t>(h.entry_point)];
}

/* Every row is in one list, or some are in none and others in several: then it is found less,
** or more than once, but is a row. */
bool is_whole(const faiss::IndexIVF &ivf)
{
    size_t rows = 0;
    const faiss::InvertedLists *lists = ivf.invlists;
    if (!lists || !ivf.quantizer || lists->nlist != ivf.nlist ||
        lists->code_size != ivf.code_size ||
        static_cast<size_t>(ivf.quantizer->ntotal) != ivf.nlist)
        return false;
    for (size_t list = 0; list < ivf.nlist; list++) {
        size_t count = lists->list_size(list);
        faiss::InvertedLists::ScopedIds ids(lists, list);
        for (size_t i = 0; i < count; i++) {
            if (ids[i] < 0 || ids[i] >= ivf.ntotal)
                return false;
        }
        rows += count;
    }
    return rows == static_cast<size_t>(ivf.ntotal);
}

bool resembles(const faiss::Index *loaded, const faiss::Index *pattern, faiss::idx_t rows);

bool parts_resemble(const faiss::Index *loaded, const faiss::Index *pattern)
{
    if (auto *chain = dynamic_cast<const faiss::IndexPreTransform *>(loaded)) {
        auto *like = static_cast<const faiss::IndexPreTransform *>(pattern);
        if (chain->chain.size() != like->chain.size())
            return false;
        for (size_t i = 0; i < chain->chain.size(); i++) {
            const faiss::VectorTransform &a = *chain->chain[i], &b = *like->chain[i];
            if (a.d_in != b.d_in || a.d_out != b.d_out || !a.is_trained)
                return false;
        }
        return resembles(chain->index, like->index, loaded->ntotal);
    }
    if (auto *graph = dynamic_cast<const faiss::IndexHNSW *>(loaded)) {
        auto *like = static_cast<const faiss::IndexHNSW *>(pattern);
        return is_whole(graph->hnsw, static_cast<size_t>(loaded->ntotal)) &&
               graph->hnsw.cum_nneighbor_per_level == like->hnsw.cum_nneighbor_per_level &&
               resembles(graph->storage, like->storage, loaded->ntotal);
    }
    if (auto *ivf = dynamic_cast<const faiss::IndexIVF *>(loaded)) {
        auto *like = static_cast<const faiss::IndexIVF *>(pattern);
        return ivf->nlist == like->nlist && ivf->code_size == like->code_size && is_whole(*ivf) &&
               resembles(ivf->quantizer, like->quantizer, ivf->quantizer->ntotal);
    }
    auto *codes = dynamic_cast<const faiss::IndexFlatCodes *>(loaded);
    return codes &&
           codes->code_size == static_cast<const faiss::IndexFlatCodes *>(pattern)->code_size &&
           is_whole(*codes);
}

/* FAISS reads back some flat indexes as what derives from them. */
bool is_of_the_kind(const faiss::Index &loaded, const faiss::Index &pattern)
{
    return typeid(loaded) == typeid(pattern) || (dynamic_cast<const faiss::IndexFlat *>(&loaded) &&
                                                 dynamic_cast<const faiss::IndexFlat *>(&pattern));
}

bool resembles(const faiss::Index *loaded, const faiss::Index *pattern, faiss::idx_t rows)
{
    return loaded && pattern && is_of_the_kind(*loaded, *pattern) && loaded->d == pattern->d &&
           loaded->metric_type == pattern->metric_type && loaded->is_trained &&
           loaded->ntotal == rows && parts_resemble(loaded, pattern);
}

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

int faiss_shim_permute(FaissIndex *index, const int64_t *order)
{
    return caught([&] {
        faiss::Index *inner = behind_transforms(index_of(index));
        if (auto *graph = dynamic_cast<faiss::IndexHNSW *>(inner))
            graph->permute_entries(order);
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

const float *faiss_shim_matrix(const struct FaissVectorTransform_H *pca)
{
    return pca_of(pca)->A.data();
}

int faiss_shim_shorten(struct FaissVectorTransform_H *transform, int rows, int known)
{
    return caught([&] {
        auto *pca = const_cast<faiss::PCAMatrix *>(pca_of(transform));
        auto width = static_cast<size_t>(pca->d_in);
        pca->d_out = rows;
        pca->A.resize(static_cast<size_t>(rows) * width);
        pca->b.resize(static_cast<size_t>(rows));
        std::fill(pca->A.begin() + static_cast<std::ptrdiff_t>(known * width), pca->A.end(), 0.0f);
        std::vector<float>().swap(pca->PCAMat); /* all components: never asked for again */
    });
}

void faiss_shim_project(const struct FaissVectorTransform_H *transform, int64_t count,
                        const float *x, float *out)
{
    const faiss::PCAMatrix *pca = pca_of(transform);
    int width = pca->d_in, rows = pca->d_out, n = static_cast<int>(count);
    for (int begin = 0; begin < width; begin += FAISS_SHIM_PIECE) {
        int piece = std::min<int>(FAISS_SHIM_PIECE, width - begin);
        float one = 1, former = begin ? 1 : 0;
        sgemm_("Transposed", "Not transposed", &rows, &n, &piece, &one, pca->A.data() + begin,
               &width, x + begin, &width, &former, out, &rows);
    }
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

int faiss_shim_save(const FaissIndex *index, faiss_shim_write *write, void *argument)
{
    return caught([&] {
        callback_writer writer;
        writer.write = write;
        writer.argument = argument;
        faiss::write_index(index_of(index), &writer);
    });
}

int faiss_shim_load(faiss_shim_read *read, void *argument, FaissIndex **out)
{
    *out = nullptr;
    return caught([&] {
        callback_reader reader;
        reader.read = read;
        reader.argument = argument;
        *out = reinterpret_cast<FaissIndex *>(faiss::read_index(&reader));
    });
}

int faiss_shim_resembles(const FaissIndex *loaded, const FaissIndex *pattern, int64_t rows)
{
    return resembles(index_of(loaded), index_of(pattern), rows) ? 1 : 0;
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
