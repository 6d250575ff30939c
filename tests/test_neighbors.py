"""faiss_neighbors: the nearest neighbours of every row, equal to a search for each to the last bit."""

import sqlite3

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import database
import oracle
from database import column, connect, fill, rows, scalar, vector

ALL = "SELECT id, neighbor, score, distance FROM faiss_neighbors('main', ?, ?)"
# The same by a search for each row; a row is no neighbour of its own.
EACH = """
SELECT a.rowid, n.id, n.score, n.distance
FROM (SELECT rowid, embedding FROM docs WHERE embedding IS NOT NULL ORDER BY rowid) a
CROSS JOIN {index} n ON n.embedding MATCH a.embedding AND n.k = ? + 1 AND n.id <> a.rowid"""


def first(pairs, k):
    """At most k neighbours of each row, in the order they came."""
    kept, counts = [], {}
    for row in pairs:
        counts[row[0]] = counts.get(row[0], 0) + 1
        if counts[row[0]] <= k:
            kept.append(row)
    return kept


def check(connection, index, k):
    expected = first(rows(connection, EACH.format(index=index), [k]), k)
    assert rows(connection, ALL, [index, k]) == expected
    return expected


def tables(connection, metric):
    connection.execute(f"CREATE VIRTUAL TABLE docs_{metric} USING faiss(main, docs, metric={metric})")
    return f"docs_{metric}"


def test_a_small_table(memory):
    fill(memory, [(0, 0), (3, 4), None, (0, 1), (0, 1)])
    assert rows(memory, ALL, ["docs", 2]) == [
        (1, 4, 1.0, 1.0), (1, 5, 1.0, 1.0),
        (2, 4, 18.0, 18**0.5), (2, 5, 18.0, 18**0.5),
        (4, 5, 0.0, 0.0), (4, 1, 1.0, 1.0),
        (5, 4, 0.0, 0.0), (5, 1, 1.0, 1.0),
    ]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_rows(memory, count):
    fill(memory, [(float(i),) for i in range(count)])
    expected = [(1, 2, 1.0, 1.0), (2, 1, 1.0, 1.0)] if count == 2 else []
    for k in (1, 5, 2**63 - 1):
        assert rows(memory, ALL, ["docs", k]) == expected


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("k", [1, 10, 256, 257, 5000])
def test_random_vectors_in_several_segments(memory, metric, k):
    random = numpy.random.default_rng(k)
    vectors = random.normal(size=(600 if k > 100 else 2600, 1024)).astype("f4")
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.executemany("INSERT INTO docs VALUES (?, ?)", [(i + 1, v.tobytes()) for i, v in enumerate(vectors)])
    pairs = check(memory, tables(memory, metric), k)
    assert len(pairs) == len(vectors) * min(k, len(vectors) - 1)


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_vectors_that_rounding_could_confuse(memory, metric):
    """Far from the origin and close together: BLAS sees differences where there are none."""
    random = numpy.random.default_rng(3)
    near = 1000 + random.normal(scale=1e-3, size=(300, 40)).astype("f4")
    copies = numpy.repeat(random.integers(-2, 3, size=(10, 40)), 30, axis=0).astype("f4")
    huge = (random.normal(size=(60, 40)) * 1e18).astype("f4")
    tiny = (random.normal(size=(60, 40)) * 1e-20).astype("f4")
    vectors = numpy.concatenate([near, copies, huge, tiny, numpy.zeros((5, 40), "f4")]).astype("f4")
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.executemany("INSERT INTO docs VALUES (?, ?)", [(i + 1, v.tobytes()) for i, v in enumerate(vectors)])
    check(memory, tables(memory, metric), 12)


@settings(max_examples=60)
@given(
    vectors=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), max_size=60),
    k=st.integers(1, 70),
    metric=st.sampled_from(oracle.METRICS),
)
def test_ties(vectors, k, metric):
    connection = connect()
    fill(connection, vectors)
    check(connection, tables(connection, metric), k)
    connection.close()


def test_sources_without_rowid(memory):
    memory.execute("CREATE TABLE docs(id TEXT PRIMARY KEY, embedding BLOB) WITHOUT ROWID")
    memory.executemany("INSERT INTO docs VALUES (?, ?)", [("b", vector(1)), ("a", vector(0)), ("c", vector(3))])
    memory.execute("CREATE VIEW seen AS SELECT id || '!' AS id, embedding FROM docs ORDER BY id DESC")
    pairs = "SELECT id, neighbor FROM faiss_neighbors('main', ?, 1)"
    assert rows(memory, pairs, ["docs"]) == [("a", "b"), ("b", "a"), ("c", "b")]
    assert rows(memory, pairs, ["seen"]) == [("c!", "b!"), ("b!", "a!"), ("a!", "b!")]


def test_ids_that_repeat(memory):
    """A row is told from another by its rowid: one with the same id may be its neighbour."""
    memory.execute("CREATE TABLE docs(id TEXT, embedding BLOB)")
    memory.executemany("INSERT INTO docs VALUES (?, ?)", [("a", vector(0)), ("a", vector(1)), ("b", vector(5))])
    assert rows(memory, "SELECT id, neighbor FROM faiss_neighbors('main', 'docs', 1)") == [
        ("a", "a"), ("a", "a"), ("b", "a")
    ]


def test_fills_a_table_of_related_rows(memory):
    fill(memory, [(0,), (1,), (10,)])
    memory.execute("CREATE TABLE related(id, other, distance)")
    memory.execute("INSERT INTO related SELECT id, neighbor, distance FROM faiss_neighbors('main', 'docs', 1)")
    assert rows(memory, "SELECT * FROM related") == [(1, 2, 1.0), (2, 1, 1.0), (3, 2, 9.0)]
    memory.execute("BEGIN")
    memory.execute("DELETE FROM docs WHERE id = 2")
    assert rows(memory, ALL, ["docs", 1]) == [(1, 3, 100.0, 10.0), (3, 1, 100.0, 10.0)]
    memory.execute("ROLLBACK")
    assert scalar(memory, "SELECT count(*) FROM faiss_neighbors('main', 'docs', 2)") == 6


def test_arguments(memory):
    fill(memory, [(0,), (1,)])
    assert rows(memory, ALL, ["docs", None]) == []
    for call, words in (
        ("faiss_neighbors('main', 'docs')", "argument is missing"),
        ("faiss_neighbors", "argument is missing"),
        ("faiss_neighbors('main', 'docs', 0)", "k must be a positive integer, not 0"),
        ("faiss_neighbors('main', 'docs', 'x')", "k must be a positive integer"),
        ("faiss_neighbors('nowhere', 'docs', 1)", "nowhere"),
        ("faiss_neighbors('main', 'nothing', 1)", "nothing"),
        ("faiss_neighbors(NULL, 'docs', 1)", "NULL"),
    ):
        with pytest.raises(sqlite3.OperationalError, match=words):
            rows(memory, f"SELECT * FROM {call}")
    assert rows(memory, "SELECT * FROM faiss_neighbors('main', 'docs', 1) WHERE k = 2") == []
    assert len(rows(memory, "SELECT * FROM faiss_neighbors('main', 'docs', 1) WHERE k = 1")) == 2
    assert column(memory, "SELECT d.id FROM docs d JOIN faiss_neighbors('main', 'docs', d.id) n ON n.id = d.id") == [1, 2]


def test_a_long_batch_can_be_interrupted(memory):
    random = numpy.random.default_rng(5)
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.executemany(
        "INSERT INTO docs(embedding) VALUES (?)",
        [(v.tobytes(),) for v in random.normal(size=(20000, 256)).astype("f4")],
    )
    scalar(memory, "SELECT faiss_search('main', 'docs', zeroblob(1024), 1)")
    # Whole, it takes minutes on an instrumented build.
    with database.interrupted(memory, 40), pytest.raises(sqlite3.OperationalError, match="^interrupted$"):
        scalar(memory, "SELECT count(*) FROM faiss_neighbors('main', 'docs', 10)")
    assert scalar(memory, "SELECT count(*) FROM (SELECT * FROM faiss_neighbors('main', 'docs', 10) LIMIT 5)") == 5
