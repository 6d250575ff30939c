"""What a search must answer, found by brute force in NumPy and without the extension's code.

Two strengths of comparison:
- `nearest` is exact. It wants vectors whose scores are exact in float32 (small integers, or small
  multiples of a power of two), where every order of summation gives the same number.
- `check` is for any vectors. Scores may be off by the rounding of a float32 sum, whose order
  differs between SIMD levels; whatever lies within that rounding may come in either order.
"""

import json
from collections import namedtuple

import numpy

METRICS = ("l2", "ip", "cosine")
EPSILON = 2.0**-24  # half a unit in the last place of a float32

Row = namedtuple("Row", "key id blob")  # key: what breaks ties, the rowid in a rowid table


def matrix(blobs):
    return numpy.array([numpy.frombuffer(blob, "<f4") for blob in blobs], "f8")


def unit(vectors):
    """Each row scaled to length 1, a zero row left as it is."""
    lengths = numpy.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return numpy.divide(vectors, lengths, out=numpy.zeros_like(vectors), where=lengths > 0)


def scores(query, vectors, metric="l2"):
    """float64 scores of `query` against each row of `vectors`."""
    if metric == "l2":
        return ((vectors - query) ** 2).sum(axis=1)
    if metric == "cosine":
        return unit(vectors) @ unit(query)
    return vectors @ query


def nearer_is_smaller(scores_, metric):
    return scores_ if metric == "l2" else -scores_


def distances(scores_, metric):
    if metric == "l2":
        return numpy.sqrt(scores_)
    return -scores_ if metric == "ip" else 1.0 - scores_


def tolerance(query, vectors, metric):
    """How far a float32 score may be from the float64 one."""
    steps = (vectors.shape[1] + 8) * EPSILON
    if metric == "l2":
        return 2 * steps * ((vectors - query) ** 2).sum(axis=1)
    if metric == "cosine":
        return numpy.full(len(vectors), 4 * steps)
    return steps * (numpy.abs(vectors) @ numpy.abs(query))


def indexed(rows):
    """The rows a search sees, in the order in which ties come."""
    return sorted((Row(*row) for row in rows if row[2] is not None), key=lambda row: row.key)


def nearest(rows, query, k=None, metric="l2"):
    """The (id, score) pairs of the k nearest of `rows`, (key, id, blob) each; exact vectors only."""
    rows = indexed(rows)
    if not rows:
        return []
    vectors = matrix(row.blob for row in rows)
    found = scores(numpy.frombuffer(query, "<f4").astype("f8"), vectors, metric)
    assert (found == found.astype("f4")).all(), "these scores are not exact in float32"
    order = numpy.argsort(nearer_is_smaller(found, metric), kind="stable")
    return [(rows[position].id, float(found[position])) for position in order[:k]]


def nearest_json(rows, query, k=None):
    """What faiss_search and faiss_search_with_scores print for these rows."""
    pairs = nearest(rows, query, k)
    return json.dumps([id for id, _ in pairs]), json.dumps([list(pair) for pair in pairs])


def check(answer, rows, query, k=None, metric="l2"):
    """Assert that `answer`, (key, score) pairs nearest first, is a right answer over `rows`.

    The keys tell rows apart, so that rows sharing an id are checked one by one.
    """
    rows = indexed(rows)
    expected_length = len(rows) if k is None else min(k, len(rows))
    assert len(answer) == expected_length, f"{len(answer)} rows, expected {expected_length}"
    if not rows:
        return
    position = {row.key: place for place, row in enumerate(rows)}
    places = [position[key] for key, _ in answer]
    assert len(set(places)) == len(places), "a row came twice"
    vectors = matrix(row.blob for row in rows)
    query = numpy.frombuffer(query, "<f4").astype("f8")
    exact = scores(query, vectors, metric)
    slack = tolerance(query, vectors, metric)
    answered = numpy.array([score for _, score in answer], "f8")
    assert (answered == answered.astype("f4")).all(), "a score is not a float32"
    wrong = numpy.abs(answered - exact[places]) > slack[places]
    assert not wrong.any(), (
        f"score {answered[wrong][0]!r}, expected {exact[places][wrong][0]!r} ± {slack[places][wrong][0]!r}"
    )
    keys = list(zip(nearer_is_smaller(answered, metric).tolist(), places))
    assert keys == sorted(keys), "not nearest first with ties in row order"
    left_out = numpy.setdiff1d(numpy.arange(len(rows)), places)
    if len(left_out) and len(places):
        worst = nearer_is_smaller(answered, metric)[-1]
        nearest_left = nearer_is_smaller(exact, metric)[left_out] + slack[left_out]
        nearer = nearest_left < worst - slack[places[-1]]
        assert not nearer.any(), f"row {rows[left_out[nearer][0]].key} is nearer than the last answer"
