"""The oracle itself: it takes FAISS's own answers and refuses wrong ones."""

import faiss
import numpy
import pytest

import oracle


def flat(vectors, query, metric):
    """Python's FAISS: (key, score) pairs of every row, ties in row order."""
    vectors, query = vectors.astype("f4"), query.astype("f4")[None].copy()
    if metric == "cosine":
        vectors, query = vectors.copy(), query.copy()
        faiss.normalize_L2(vectors)
        faiss.normalize_L2(query)
    index = (faiss.IndexFlatL2 if metric == "l2" else faiss.IndexFlatIP)(vectors.shape[1])
    index.add(vectors)
    scores, places = index.search(query, len(vectors))
    pairs = list(zip(places[0].tolist(), scores[0].tolist()))
    return sorted(pairs, key=lambda pair: (pair[1] if metric == "l2" else -pair[1], pair[0]))


def case(metric, dimension, seed=0):
    random = numpy.random.default_rng(seed)
    vectors = random.standard_normal((100, dimension)).astype("f4")
    query = random.standard_normal(dimension).astype("f4")
    table = [(place, f"id{place}", row.tobytes()) for place, row in enumerate(vectors)]
    return table, query.tobytes(), flat(vectors, query, metric)


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("dimension", [1, 2, 3, 7, 16, 40, 384])
def test_takes_the_answers_of_faiss(metric, dimension):
    table, query, answer = case(metric, dimension)
    oracle.check(answer, table, query, metric=metric)
    oracle.check(answer[:10], table, query, 10, metric)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_refuses_wrong_answers(metric):
    table, query, answer = case(metric, 16)
    wrong = {
        "one short": answer[:9],
        "one too many": answer[:11],
        "the nearest left out": answer[1:11],
        "not nearest first": answer[:8] + [answer[9], answer[8]],
        "one twice": answer[:9] + [answer[8]],
        "a score of another row": answer[:9] + [(answer[9][0], answer[10][1])],
        "no float32": answer[:9] + [(answer[9][0], answer[9][1] * (1 + 1e-12))],
    }
    oracle.check(answer[:10], table, query, 10, metric)
    for name, pairs in wrong.items():
        with pytest.raises(AssertionError):
            oracle.check(pairs, table, query, 10, metric)
            pytest.fail(name)


def test_ties_come_in_row_order():
    blob = numpy.zeros(2, "f4").tobytes()
    table = [(3, "c", blob), (1, "a", blob), (2, "b", None), (4, "d", blob)]
    assert oracle.nearest(table, blob) == [("a", 0.0), ("c", 0.0), ("d", 0.0)]
    assert oracle.nearest_json(table, blob, 2) == ('["a", "c"]', '[["a", 0.0], ["c", 0.0]]')
    oracle.check([(1, 0.0), (3, 0.0), (4, 0.0)], table, blob)
    with pytest.raises(AssertionError):
        oracle.check([(3, 0.0), (1, 0.0), (4, 0.0)], table, blob)


def test_exact_comparison_refuses_inexact_scores():
    third = numpy.full(3, 1 / 3, "f4").tobytes()
    with pytest.raises(AssertionError, match="not exact"):
        oracle.nearest([(1, 1, third)], numpy.full(3, 0.1, "f4").tobytes())


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_exact_scores_equal_those_of_faiss(metric):
    random = numpy.random.default_rng(1)
    vectors = random.integers(-4, 5, (200, 5)) if metric != "cosine" else numpy.eye(5)[random.integers(0, 5, 200)]
    table = [(place, place, row.astype("<f4").tobytes()) for place, row in enumerate(vectors)]
    assert oracle.nearest(table, table[7][2], metric=metric) == flat(vectors, vectors[7], metric)
