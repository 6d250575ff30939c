#include "faiss_shim.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <typeinfo>
#include <utility>
#include <vector>

#include <sys/mman.h>

#include <faiss/IndexFlat.h>
#include <faiss/IndexFlatCodes.h>
#include <faiss/IndexHNSW.h>
#include <faiss/IndexIVF.h>
#include <faiss/IndexIVFPQ.h>
#include <faiss/IndexIVFRaBitQ.h>
#include <faiss/IndexPQ.h>
#include <faiss/IndexPreTransform.h>
#include <faiss/IndexRaBitQ.h>
#include <faiss/IndexScalarQuantizer.h>
#include <faiss/VectorTransform.h>
#include <faiss/clone_index.h>
#include <faiss/impl/AuxIndexStructures.h>
#include <faiss/impl/DistanceComputer.h>
#include <faiss/impl/FaissException.h>
#include <faiss/impl/IDSelector.h>
#include <faiss/impl/ResultHandler.h>
#include <faiss/impl/io.h>
#include <faiss/impl/maybe_owned_vector.h>
#include <faiss/index_io.h>
#include <faiss/utils/distances.h>

/* BLAS and LAPACK, as FAISS calls them. */
extern "C" int sgemm_(const char *transa, const char *transb, int *m, int *n, int *k,
                      const float *alpha, const float *a, int *lda, const float *b, int *ldb,
                      float *beta, float *c, int *ldc);
extern "C" int ssyrk_(const char *uplo, const char *trans, int *n, int *k, const float *alpha,
                      const float *a, int *lda, const float *beta, float *c, int *ldc);
extern "C" int ssyevd_(const char *job, const char *uplo, const int *n, float *a, const int *lda,
                       float *values, float *work, const int *work_length, int *whole,
                       const int *whole_length, int *info);

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

/* Of how many vectors a rotation is to be learned that suits codes of 256 centroids. All of them
** are multiplied by it, and coded, in each of its 50 steps without a question whether to stop: so
** many that a multiplication takes some 50 ms, but no fewer than FAISS wants for the centroids. */
size_t enough_to_rotate(size_t dimension)
{
    const size_t least = 39 * 256, most = 256 * 256, work = (size_t)1 << 31;
    return std::min(std::max(work / (dimension * dimension), least), most);
}

/* What codes with PQ are made by; NULL for others. */
const faiss::ProductQuantizer *quantizer_of(const faiss::Index *inner)
{
    if (auto *graph = dynamic_cast<const faiss::IndexHNSW *>(inner))
        inner = graph->storage;
    if (auto *lists = dynamic_cast<const faiss::IndexIVFPQ *>(inner))
        return &lists->pq;
    auto *codes = dynamic_cast<const faiss::IndexPQ *>(inner);
    return codes ? &codes->pq : nullptr;
}

/* The codes with which a rotation is learned, for as long as this lives. */
class rotation_codes
{
    faiss::OPQMatrix *rotation;
    std::unique_ptr<faiss::ProductQuantizer> codes;

  public:
    rotation_codes(faiss::VectorTransform *transform, size_t bits)
        : rotation(dynamic_cast<faiss::OPQMatrix *>(transform))
    {
        if (!rotation)
            return;
        codes = std::make_unique<faiss::ProductQuantizer>(rotation->d_out, rotation->M, bits);
        rotation->pq = codes.get();
    }
    rotation_codes(rotation_codes &&other) noexcept
        : rotation(std::exchange(other.rotation, nullptr)), codes(std::move(other.codes))
    {
    }
    ~rotation_codes()
    {
        if (rotation)
            rotation->pq = nullptr;
    }
};

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

/* ---- graphs ---- */

const size_t huge_page = 2 << 20;

/* Searches of graphs jump about in this memory: with pages of the usual size, finding where a page
** is takes about as long as reading what is there. Where the system has huge ones, as far as they
** fit. */
void prefer_huge_pages(const void *begin, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const auto from = reinterpret_cast<std::uintptr_t>(begin);
    const std::uintptr_t first = (from + huge_page - 1) / huge_page * huge_page;
    const std::uintptr_t end = (from + bytes) / huge_page * huge_page;
    if (first < end)
        madvise(reinterpret_cast<void *>(first), end - first, MADV_HUGEPAGE);
#else
    (void)begin, (void)bytes;
#endif
}

/* Memory that begins with a page. */
struct pages : faiss::MaybeOwnedVectorOwner {
    void *begin = nullptr;

    explicit pages(size_t bytes)
    {
        if (posix_memalign(&begin, huge_page, bytes) != 0)
            throw std::bad_alloc();
        prefer_huge_pages(begin, bytes);
    }
    pages(const pages &) = delete;
    pages &operator=(const pages &) = delete;
    ~pages() override
    {
        std::free(begin);
    }
};

/* Copy from memory whose content is of no use afterwards: the system has it back on the way. */
void move_bytes(void *to, void *from, size_t bytes)
{
    const size_t at_once = 16 << 20;
    char *source = static_cast<char *>(from), *target = static_cast<char *>(to);
    for (size_t done = 0, n; done < bytes; done += n) {
        n = std::min(at_once, bytes - done);
        std::memcpy(target + done, source + done, n);
        const std::uintptr_t page = 1 << 16,
                             begin = reinterpret_cast<std::uintptr_t>(source + done);
        const std::uintptr_t first = (begin + page - 1) / page * page,
                             end = (begin + n) / page * page;
        if (first < end)
            madvise(reinterpret_cast<void *>(first), end - first, MADV_DONTNEED);
    }
}

/* To where no row of it begins in the middle of a cache line, if its size is that of some lines. */
template <class T> void settle(faiss::MaybeOwnedVector<T> &rows)
{
    if (!rows.is_owned || rows.byte_size() < huge_page)
        return;
    auto to = std::make_shared<pages>(rows.byte_size());
    move_bytes(to->begin, rows.data(), rows.byte_size());
    rows = faiss::MaybeOwnedVector<T>::create_view(to->begin, rows.size(), to);
}

/* For so many in all. */
template <class T> void make_room(faiss::MaybeOwnedVector<T> &rows, size_t count)
{
    rows.owned_data.reserve(count);
    rows.resize(rows.size()); /* only so does it know where they are now */
    prefer_huge_pages(rows.data(), count * sizeof(T));
}

/* To where it can grow. */
template <class T> void unsettle(faiss::MaybeOwnedVector<T> &rows)
{
    if (!rows.is_owned)
        rows = faiss::MaybeOwnedVector<T>(std::vector<T>(rows.data(), rows.data() + rows.size()));
}

/* What of a graph grows with its rows and is read by searches, row by row. */
template <class F> void for_each_array(faiss::Index *index, F &&what)
{
    auto *graph = dynamic_cast<faiss::IndexHNSW *>(behind_transforms(index));
    if (!graph)
        return;
    what(graph->hnsw.neighbors);
    if (auto *flat = dynamic_cast<faiss::IndexFlatCodes *>(graph->storage))
        what(flat->codes);
}

/* A vector behind the transforms of an index. */
struct transformed {
    const float *vector;
    std::vector<std::unique_ptr<const float[]>> made;

    transformed(const faiss::Index *index, const float *x) : vector(x)
    {
        while (auto *chain = dynamic_cast<const faiss::IndexPreTransform *>(index)) {
            const float *inner = chain->apply_chain(1, vector);
            if (inner != vector)
                made.emplace_back(inner);
            vector = inner;
            index = chain->index;
        }
    }
};

/* As FAISS searches a graph, but for the table of rows visited, which it makes and clears for every
** search: of large graphs that takes a good part of the time. */
void search_graph(const faiss::IndexHNSW &graph, faiss::VisitedTable &visited, const float *query,
                  faiss::idx_t k, const faiss::SearchParameters *parameters, float *scores,
                  faiss::idx_t *labels)
{
    const bool is_nearness = faiss::is_similarity_metric(graph.metric_type);
    std::unique_ptr<faiss::DistanceComputer> distance(graph.storage->get_distance_computer());
    if (is_nearness)
        distance = std::make_unique<faiss::NegativeDistanceComputer>(distance.release());
    faiss::HeapBlockResultHandler<faiss::HNSW::C> results(1, scores, labels,
                                                          static_cast<size_t>(k));
    decltype(results)::SingleResultHandler nearest(results);
    nearest.begin(0);
    distance->set_query(query);
    graph.hnsw.search(*distance, nearest, visited, parameters);
    nearest.end();
    for (faiss::idx_t i = 0; is_nearness && i < k; i++)
        scores[i] = -scores[i];
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

/* Numbers of 16 bits hold any vector as well as another. */
bool learns_nothing(const faiss::Index *index)
{
    auto *codes = dynamic_cast<const faiss::IndexScalarQuantizer *>(index);
    return codes && (codes->sq.qtype == faiss::ScalarQuantizer::QT_fp16 ||
                     codes->sq.qtype == faiss::ScalarQuantizer::QT_bf16);
}

/* Add the square of what is left of each vector. */
void add_left(const faiss::Index *index, faiss::idx_t count, const float *x,
              std::vector<float> &squares)
{
    const size_t d = static_cast<size_t>(index->d);
    std::vector<float> known(static_cast<size_t>(count) * d);
    if (auto *chain = dynamic_cast<const faiss::IndexPreTransform *>(index)) {
        const float *inner = chain->apply_chain(count, x);
        std::unique_ptr<const float[]> owned(inner == x ? nullptr : inner);
        chain->reverse_chain(count, inner, known.data());
        add_left(chain->index, count, inner, squares);
    } else if (auto *ivf = dynamic_cast<const faiss::IndexIVF *>(index)) {
        std::vector<faiss::idx_t> lists(count);
        ivf->quantizer->assign(count, x, lists.data());
        for (faiss::idx_t i = 0; i < count; i++)
            ivf->quantizer->reconstruct(lists[i], known.data() + i * d);
    } else if (auto *graph = dynamic_cast<const faiss::IndexHNSW *>(index)) {
        add_left(graph->storage, count, x, squares);
        return;
    } else if (learns_nothing(index)) {
        return;
    } else {
        std::vector<uint8_t> codes(static_cast<size_t>(count) * index->sa_code_size());
        index->sa_encode(count, x, codes.data());
        index->sa_decode(count, codes.data(), known.data());
    }
    for (faiss::idx_t i = 0; i < count; i++)
        squares[i] += faiss::fvec_L2sqr(x + i * d, known.data() + i * d, d);
}

} // namespace

extern "C" {

void faiss_shim_prepare(FaissIndex *index, int ef_construction)
{
    faiss::Index *inner = behind_transforms(index_of(index));
    if (auto *transformed = dynamic_cast<faiss::IndexPreTransform *>(index_of(index))) {
        for (faiss::VectorTransform *each : transformed->chain) {
            if (auto *rotation = dynamic_cast<faiss::OPQMatrix *>(each))
                rotation->max_train_points = enough_to_rotate(rotation->d_in);
        }
    }
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
            make_room(h.neighbors, n * static_cast<size_t>(h.nb_neighbors(0) + 2) + n / 8);
            inner = graph->storage;
        }
        if (auto *flat = dynamic_cast<faiss::IndexFlatCodes *>(inner))
            make_room(flat->codes, n * flat->code_size);
    });
}

int faiss_shim_learn(FaissIndex *index, int64_t count, const float *x)
{
    return caught([&] {
        const size_t usual = 8;
        auto *chain = dynamic_cast<faiss::IndexPreTransform *>(index_of(index));
        const faiss::ProductQuantizer *codes = quantizer_of(behind_transforms(index_of(index)));
        std::vector<rotation_codes> held;
        if (chain && codes && codes->nbits < usual) {
            for (faiss::VectorTransform *each : chain->chain)
                held.emplace_back(each, codes->nbits);
        }
        index_of(index)->train(count, x);
    });
}

int faiss_shim_misfit(const FaissIndex *index, int64_t count, const float *x, double *misfit)
{
    *misfit = 0;
    return caught([&] {
        std::vector<float> squares(static_cast<size_t>(count));
        add_left(index_of(index), count, x, squares);
        auto middle = squares.begin() + count / 2;
        std::nth_element(squares.begin(), middle, squares.end());
        *misfit = std::sqrt(*middle);
    });
}

void faiss_shim_view(FaissIndexFlat *flat, const float *vectors, int64_t count)
{
    auto *codes = reinterpret_cast<faiss::IndexFlat *>(flat);
    auto *bytes = reinterpret_cast<uint8_t *>(const_cast<float *>(vectors));
    codes->codes = faiss::MaybeOwnedVector<uint8_t>::create_view(
        bytes, static_cast<size_t>(count) * codes->code_size, nullptr);
    codes->ntotal = count;
}

int faiss_shim_permute(FaissIndex *index, const int64_t *order)
{
    return caught([&] {
        faiss::Index *inner = behind_transforms(index_of(index));
        if (auto *graph = dynamic_cast<faiss::IndexHNSW *>(inner))
            graph->permute_entries(order);
    });
}

void faiss_shim_settle(FaissIndex *index)
{
    (void)caught([&] { for_each_array(index_of(index), [](auto &rows) { settle(rows); }); });
}

struct faiss_shim_visited {
    faiss::VisitedTable rows;
};

void faiss_shim_visited_free(faiss_shim_visited *visited)
{
    delete visited;
}

int faiss_shim_search(const FaissIndex *index, const float *query, int64_t k, int ef_search,
                      int nprobe, const uint8_t *allowed, size_t bytes,
                      faiss_shim_visited **visited, float *scores, int64_t *labels)
{
    std::unique_ptr<faiss_shim_visited> table(*visited);
    *visited = nullptr;
    return caught([&] {
        const faiss::Index *outer = index_of(index), *inner = behind_transforms(outer);
        faiss::IDSelectorBitmap selector(bytes, allowed);
        faiss::IDSelector *chosen = allowed ? &selector : nullptr;
        faiss::SearchParameters plain;
        faiss::SearchParametersHNSW graph, coarse_graph;
        faiss::SearchParametersIVF lists;
        faiss::SearchParameters *parameters = &plain;
        if (auto *rows = dynamic_cast<const faiss::IndexHNSW *>(inner)) {
            graph.efSearch = ef_search;
            graph.sel = chosen;
            if (!table || table->rows.visited.size() < static_cast<size_t>(rows->ntotal))
                table.reset(
                    new faiss_shim_visited{faiss::VisitedTable(static_cast<int>(rows->ntotal))});
            transformed x(outer, query);
            search_graph(*rows, table->rows, x.vector, k, &graph, scores, labels);
            *visited = table.release();
            return;
        }
        if (auto *ivf = dynamic_cast<const faiss::IndexIVF *>(inner)) {
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

/* The eigenvectors of a symmetric matrix, of which the upper half is given, in its place: of the
** greatest eigenvalue first. */
static void decompose(int n, std::vector<float> &matrix, std::vector<float> &values)
{
    int info = 0, ask = -1, whole_length = 0;
    float wanted = 0;
    ssyevd_("Vectors", "Upper", &n, matrix.data(), &n, values.data(), &wanted, &ask, &whole_length,
            &ask, &info);
    /* A length that float cannot hold may have been rounded down. */
    int length = static_cast<int>(std::nextafter(wanted, HUGE_VALF));
    std::vector<float> work(static_cast<size_t>(length));
    std::vector<int> whole(static_cast<size_t>(whole_length));
    ssyevd_("Vectors", "Upper", &n, matrix.data(), &n, values.data(), work.data(), &length,
            whole.data(), &whole_length, &info);
    FAISS_THROW_IF_NOT_MSG(info == 0, "LAPACK did not decompose a matrix");
    auto width = static_cast<size_t>(n);
    std::reverse(values.begin(), values.end());
    for (size_t i = 0; i < width / 2; i++)
        std::swap_ranges(matrix.begin() + i * width, matrix.begin() + (i + 1) * width,
                         matrix.begin() + (width - 1 - i) * width);
}

int faiss_shim_train(struct FaissVectorTransform_H *transform, int64_t count, const float *x)
{
    return caught([&] {
        auto *pca = const_cast<faiss::PCAMatrix *>(pca_of(transform));
        int width = pca->d_in, rows = static_cast<int>(count), most = std::min(rows, width);
        int kept = pca->d_out;
        FAISS_THROW_IF_NOT(most >= kept);
        /* XᵀX, or of few rows XXᵀ, whose eigenvectors times X are those of the other one. */
        auto size = static_cast<size_t>(most);
        std::vector<float> products(size * size), values(size);
        float one = 1, zero = 0;
        ssyrk_("Upper", rows < width ? "Transposed" : "Not transposed", &most,
               rows < width ? &width : &rows, &one, x, &width, &zero, products.data(), &most);
        decompose(most, products, values);
        if (rows < width) {
            auto components = static_cast<size_t>(kept);
            pca->PCAMat.resize(components * static_cast<size_t>(width));
            sgemm_("Not transposed", "Not transposed", &width, &kept, &rows, &one, x, &width,
                   products.data(), &rows, &zero, pca->PCAMat.data(), &width);
            faiss::fvec_renorm_L2(static_cast<size_t>(width), components, pca->PCAMat.data());
        } else {
            pca->PCAMat.swap(products);
        }
        pca->mean.assign(static_cast<size_t>(width), 0.0f);
        pca->eigenvalues.assign(static_cast<size_t>(width), 0.0f);
        std::copy(values.begin(), values.end(), pca->eigenvalues.begin());
        pca->prepare_Ab();
        pca->is_trained = true;
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
        pca->A.shrink_to_fit();
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
        for_each_array(copy, [](auto &rows) { unsettle(rows); });
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
