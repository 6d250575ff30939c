"""Exactness: random tables under each metric against brute force, in every form of the search."""

import json

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import database
import oracle
from database import column, fill, rows, scalar, vector


def index(connection, vectors, metric):
    fill(connection, vectors)
    connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric={metric})")
    return rows(connection, "SELECT id, id, embedding FROM docs")


def drawn(seed, count, dimension, kind):
    """`count` vectors and a query; some equal, some NULL."""
    random = numpy.random.default_rng(seed)
    if kind == "integers":
        vectors = random.integers(-2, 3, (count + 1, dimension)).astype("f4")
    elif kind == "axes":  # multiples of the unit vectors: cosines are 0 and ±1
        vectors = numpy.zeros((count + 1, dimension), "f4")
        vectors[numpy.arange(count + 1), random.integers(0, dimension, count + 1)] = 2.0 ** random.integers(
            -3, 4, count + 1
        ) * random.choice([-1, 0, 1], count + 1)
    elif kind == "clusters":
        vectors = random.standard_normal((5, dimension))[random.integers(0, 5, count + 1)]
        vectors = vectors + random.standard_normal((count + 1, dimension)) * 1e-3
    else:
        vectors = random.standard_normal((count + 1, dimension))
        vectors *= 10.0 ** random.integers(-3, 4, (count + 1, 1))
    vectors = vectors.astype("f4")
    if count > 10:
        vectors[random.integers(0, count, count // 5)] = vectors[random.integers(0, count, count // 5)]
    query = vector(*vectors[count] if random.random() < 0.7 else vectors[random.integers(0, count + 1)])
    nulls = random.random(count) < 0.1
    return [None if null else row for null, row in zip(nulls, vectors[:count])], query


@settings(max_examples=50 if database.SANITIZED else 500)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 300),
    dimension=st.integers(1, 40),
    metric_kind=st.sampled_from([("l2", "integers"), ("ip", "integers"), ("cosine", "axes"), ("l2", "axes")]),
    k=st.integers(1, 320),
    offset=st.integers(0, 50),
)
@example(seed=1, count=300, dimension=1, metric_kind=("l2", "integers"), k=299, offset=0)
@example(seed=2, count=1, dimension=1, metric_kind=("ip", "integers"), k=1, offset=1)
def test_exact_scores(seed, count, dimension, metric_kind, k, offset):
    """Same ids, same order, same scores, whichever form asks; ties everywhere."""
    metric, kind = metric_kind
    vectors, query = drawn(seed, count, dimension, kind)
    connection = database.connect()
    table = index(connection, vectors, metric)
    expected = oracle.nearest(table, query, metric=metric)
    parameters = {"v": query, "k": k, "o": offset}

    def pairs(sql):
        return connection.execute("SELECT id, score " + sql, parameters).fetchall()

    assert pairs("FROM docs_index(:v)") == expected
    assert pairs("FROM docs_index(:v, :k)") == expected[:k]
    assert pairs("FROM docs_index WHERE embedding MATCH :v ORDER BY distance LIMIT :k OFFSET :o") == (
        expected[offset : offset + k]
    )
    assert pairs("FROM docs_index WHERE embedding MATCH :v AND id % 3 = 0 ORDER BY distance LIMIT :k") == [
        pair for pair in expected if pair[0] % 3 == 0
    ][:k]
    assert pairs("FROM faiss_search('main', 'docs_index', :v, :k)") == expected[:k]
    text, scored = connection.execute(
        "SELECT faiss_search('main', 'docs_index', :v, :k), faiss_search_with_scores('main', 'docs_index', :v, :k)",
        parameters,
    ).fetchone()
    assert text == json.dumps([id for id, _ in expected[:k]])
    assert scored == json.dumps([list(pair) for pair in expected[:k]])
    if metric == "l2":
        assert pairs("FROM faiss_search('main', 'docs', :v, :k)") == expected[:k]
    connection.close()


@settings(max_examples=50 if database.SANITIZED else 500)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 300),
    dimension=st.integers(1, 40),
    metric=st.sampled_from(oracle.METRICS),
    kind=st.sampled_from(["clusters", "normal", "axes", "integers"]),
    k=st.integers(1, 320),
)
def test_any_scores(seed, count, dimension, metric, kind, k):
    """Within float32 rounding of float64; all forms give the very same rows and scores."""
    vectors, query = drawn(seed, count, dimension, kind)
    connection = database.connect()
    table = index(connection, vectors, metric)
    everything = rows(connection, "SELECT id, score FROM docs_index(?)", [query])
    oracle.check(everything, table, query, metric=metric)
    found = rows(connection, "SELECT id, score FROM docs_index(?, ?)", [query, k])
    assert found == everything[:k]
    assert (
        rows(connection, "SELECT id, score FROM faiss_search('main', 'docs_index', ?) LIMIT ?", [query, k])
        == everything[:k]
    )
    assert json.loads(
        scalar(connection, "SELECT faiss_search_with_scores('main', 'docs_index', ?, ?)", [query, k])
    ) == [list(pair) for pair in everything[:k]]
    for id, score in everything[:3]:
        assert rows(
            connection,
            "SELECT score FROM docs_index WHERE id = ? AND embedding MATCH ?",
            [id, query],
        ) == [(score,)]
    connection.close()


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 8, 15, 16, 17, 32, 64, 127, 384, 768])
def test_dimensions(connect, metric, dimension):
    random = numpy.random.default_rng(dimension)
    vectors = random.standard_normal((400, dimension)).astype("f4")
    connection = connect()
    table = index(connection, vectors, metric)
    for query in (vectors[7], vectors[8] * 3, random.standard_normal(dimension), numpy.zeros(dimension)):
        query = vector(*query)
        for k in (1, 10, 399, 1000):
            found = rows(connection, "SELECT id, score FROM docs_index(?, ?)", [query, k])
            oracle.check(found, table, query, k, metric)


@pytest.mark.parametrize("dimension", [4000, 20000])
def test_very_long_vectors(connect, dimension):
    random = numpy.random.default_rng(dimension)
    connection = connect()
    table = index(connection, random.standard_normal((20, dimension)), "l2")
    query = random.standard_normal(dimension).astype("<f4").tobytes()
    oracle.check(rows(connection, "SELECT id, score FROM docs_index(?)", [query]), table, query)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_all_rows_equal(connect, metric):
    """One tie across the whole table, wherever it is cut."""
    connection = connect()
    index(connection, [(1, 0)] * 1000, metric)
    for k in (1, 2, 7, 100, 999, 1000, 1001):
        assert column(connection, "SELECT id FROM docs_index('[2, 0]', ?)", [k]) == list(range(1, k + 1))[:1000]
    assert column(connection, "SELECT id FROM docs_index('[2, 0]') LIMIT 5 OFFSET 500") == list(range(501, 506))


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_more_rows_than_a_segment_holds(connect, metric):
    """150,000 rows: several segments, whose results merge by score and row, ties across them too."""
    count = 150_000
    random = numpy.random.default_rng(4)
    matrix = random.integers(-40, 41, (count, 4)).astype("<f4")
    connection = connect()
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?)", ((place + 1, row.tobytes()) for place, row in enumerate(matrix))
    )
    connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric={metric})")

    def expected(query):
        scores = oracle.scores(query.astype("f8"), matrix.astype("f8"), metric)
        order = numpy.argsort(oracle.nearer_is_smaller(scores, metric), kind="stable")
        order = order[~deleted[order]]
        return list(zip((order + 1).tolist(), scores[order].tolist()))

    deleted = numpy.zeros(count, bool)
    for step in range(3):
        query = random.integers(-40, 41, 4).astype("<f4")
        truth = expected(query)
        for k in (1, 10, 5000):
            found = rows(connection, "SELECT id, score FROM docs_index(?, ?)", [query.tobytes(), k])
            assert found == truth[:k]
        found = rows(connection, "SELECT id, score FROM docs_index WHERE embedding MATCH ?", [query.tobytes()])
        assert found == truth
        # Then a change in the first segment, in the last, and around each border between.
        for place in (3, 65535, 65536, 131071, 131072, count - 1):
            place -= step
            matrix[place] = query
            connection.execute("UPDATE docs SET embedding = ? WHERE id = ?", [query.tobytes(), place + 1])
        for place in (10 + step, 65530 + step, 131080 + step):
            deleted[place] = True
            connection.execute("DELETE FROM docs WHERE id = ?", [place + 1])
    assert scalar(connection, "SELECT count(*) FROM docs_index") == count - deleted.sum()
    assert len(rows(connection, "SELECT id FROM docs_index(?, 1)", [query.tobytes()])) == 1
    assert column(connection, "SELECT rows FROM faiss_indexes") == [count - int(deleted.sum())]


# --- the ends of float32 ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-30, 1e-20, 1e18])
def test_tiny_and_large_coordinates(connect, size):
    """Subnormals, squares that vanish, squares near the largest float32."""
    connection = connect()
    vectors = numpy.array([(1, 0), (0, 2), (3, 3), (-1, 0)], "f4") * numpy.float32(size)
    table = index(connection, vectors, "l2")
    connection.execute("CREATE VIRTUAL TABLE docs_cosine USING faiss(main, docs, metric=cosine)")
    query = vector(*vectors[0])
    found = rows(connection, "SELECT id, score FROM docs_index(?)", [query])
    assert sorted(id for id, _ in found) == [1, 2, 3, 4]
    assert found[0] == (1, 0.0)
    if size > 1e-20:
        oracle.check(found, table, query)
    found = rows(connection, "SELECT id, score FROM docs_cosine(?)", [query])
    assert [id for id, _ in found] == [1, 3, 2, 4]
    assert [score for _, score in found] == pytest.approx([1, 0.5**0.5, 0, -1], abs=1e-6)


@pytest.mark.parametrize("size", [1e20, 1e30, 3e38])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_scores_beyond_float32(connect, size, metric):
    """A score may overflow to infinity; the row is still there, after every row that is nearer."""
    connection = connect()
    index(connection, [(size, 0), (1, 0), (-size, 0), (2, 0), (0, size)], metric)
    inf = float("inf")
    once = database.values(vector(size))[0]
    twice = 2 * once if 2 * once < 3.4e38 else inf
    query, expected = {
        "l2": ("[0, 0]", [(2, 1.0), (4, 4.0), (1, inf), (3, inf), (5, inf)]),
        "ip": (f"[{size}, 0]", [(1, inf), (4, twice), (2, once), (5, 0.0), (3, -inf)]),
    }[metric]
    assert rows(connection, "SELECT id, score FROM docs_index(?)", [query]) == expected
    for k in range(1, 6):
        assert rows(connection, "SELECT id, score FROM docs_index(?, ?)", [query, k]) == expected[:k]
    if metric == "l2":
        assert scalar(connection, "SELECT faiss_search('main', 'docs', '[0, 0]', 5)") == "[2, 4, 1, 3, 5]"
        assert scalar(connection, "SELECT faiss_search_with_scores('main', 'docs', '[0, 0]', 3)") == (
            "[[2, 1.0], [4, 4.0], [1, Infinity]]"
        )


@pytest.mark.parametrize("size", [1e20, 1e30, 3e38])
def test_cosine_of_large_vectors(connect, size):
    """Lengths whose square leaves float32's range are lengths all the same."""
    connection = connect()
    index(connection, [(size, size), (1, 0), (-size, 0), (0, size / 2)], "cosine")
    found = rows(connection, f"SELECT id, score FROM docs_index('[{size}, 0]')")
    assert [id for id, _ in found] == [2, 1, 4, 3]
    assert [score for _, score in found] == pytest.approx([1, 0.5**0.5, 0, -1], abs=1e-6)


def test_negative_zero_is_zero(connect):
    connection = connect()
    index(connection, [(0.0, 1.0), (-0.0, 1.0)], "l2")
    assert rows(connection, "SELECT id, score FROM docs_index('[-0.0, 1]')") == [(1, 0.0), (2, 0.0)]
