"""faiss_project: maps of embeddings, against NumPy's singular value decomposition."""

import sqlite3
import time

import numpy
import pytest

import database
import oracle
from database import column, fill, plan, rows, vector


def project(connection, dimensions, table="docs", where=""):
    """ids, and coordinates as a matrix."""
    found = rows(
        connection,
        f"SELECT id, coordinates FROM faiss_project('main', ?, ?) {where}",
        [table, dimensions],
    )
    return [id for id, _ in found], oracle.matrix([blob for _, blob in found])


def expected(vectors, dimensions):
    """The principal components' coordinates, each axis with its largest component positive."""
    centred = vectors - vectors.mean(axis=0)
    axes = numpy.linalg.svd(centred, full_matrices=False)[2][:dimensions]
    signs = numpy.sign(axes[numpy.arange(len(axes)), numpy.abs(axes).argmax(axis=1)])
    return centred @ (axes * signs[:, None]).T


def made_up(count, dimension, seed=1):
    """Vectors that vary less and less along axes in odd directions, so that the order of the
    components is clear."""
    random = numpy.random.default_rng(seed)
    axes = numpy.linalg.qr(random.normal(size=(dimension, dimension)))[0]
    spread = 0.7 ** numpy.arange(dimension)
    vectors = (random.normal(size=(count, dimension)) * spread) @ axes + random.normal(size=dimension)
    return vectors.astype("f4")


def make(connection, vectors, table="docs"):
    fill(connection, vectors, table)
    return numpy.asarray(vectors, "f8")


@pytest.mark.parametrize("dimensions", [1, 2, 3, 7])
@pytest.mark.parametrize("count, dimension", [(500, 12), (60, 8), (9, 40)])
def test_against_numpy(memory, count, dimension, dimensions):
    vectors = make(memory, made_up(count, dimension))
    ids, found = project(memory, dimensions)
    assert ids == list(range(1, count + 1))
    difference = numpy.abs(found - expected(vectors, dimensions)).max()
    assert difference < 1e-4 * numpy.abs(found).max()


def test_columns(memory):
    vectors = make(memory, made_up(50, 6))
    right = expected(vectors, 4)
    for dimensions in 1, 2, 3, 4:
        found = rows(
            memory,
            'SELECT id, x, y, z, database, "table", dimensions, coordinates '
            "FROM faiss_project('main', 'docs', ?)",
            [dimensions],
        )
        for i, (id, *axes, schema, table, asked, blob) in enumerate(found):
            coordinates = database.values(blob)
            assert len(coordinates) == dimensions
            assert axes == (coordinates + [None, None])[:3]
            assert coordinates == pytest.approx(list(right[i, :dimensions]), abs=1e-4)
            assert (id, schema, table, asked) == (i + 1, "main", "docs", dimensions)
    assert rows(memory, "SELECT * FROM faiss_project('main', 'docs')") == rows(
        memory, "SELECT id, x, y, z FROM faiss_project('main', 'docs', 2)"
    )


def test_ids_and_order_are_those_of_the_source(memory):
    memory.execute("CREATE TABLE docs(id TEXT, embedding BLOB)")
    vectors = made_up(40, 5)
    keys = numpy.random.default_rng(2).permutation(1000)[:40]
    for key, row in zip(keys, vectors):
        memory.execute(
            "INSERT INTO docs(rowid, id, embedding) VALUES (?, ?, ?)",
            [int(key), f"id {key}", vector(*row)],
        )
    memory.execute("INSERT INTO docs VALUES ('without', NULL)")
    order = numpy.argsort(keys)
    ids, found = project(memory, 2)
    assert ids == [f"id {key}" for key in keys[order]]
    assert found == pytest.approx(expected(numpy.asarray(vectors[order], "f8"), 2), abs=1e-4)


def test_after_changes_the_map_is_that_of_the_rows(memory):
    """Whatever segments and tails the index is made of."""
    vectors = make(memory, made_up(300, 6))
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    project(memory, 2)
    memory.execute("DELETE FROM docs WHERE id % 3 = 0")
    memory.execute("UPDATE docs SET embedding = ? WHERE id = 100", [vector(9, 9, 9, 9, 9, 9)])
    left = [id for id in range(1, 301) if id % 3]
    vectors[99] = 9
    ids, found = project(memory, 2)
    assert ids == left
    assert found == pytest.approx(expected(vectors[[id - 1 for id in left]], 2), abs=1e-3)
    assert (project(memory, 2)[1] == found).all()


def test_the_same_rows_give_the_same_map(connect):
    maps = []
    for _ in range(2):
        connection = connect()
        make(connection, made_up(3000, 24))
        maps.append(project(connection, 3)[1])
    assert (maps[0] == maps[1]).all()


def test_more_rows_than_the_sample(memory):
    """Of 8,192 rows at even distances; all rows are on the map."""
    vectors = make(memory, made_up(20000, 9))
    _, found = project(memory, 2)
    sample = vectors[numpy.arange(8192) * 20000 // 8192]
    centred = sample - sample.mean(axis=0)
    axes = numpy.linalg.svd(centred, full_matrices=False)[2][:2]
    signs = numpy.sign(axes[[0, 1], numpy.abs(axes).argmax(axis=1)])
    right = (vectors - sample.mean(axis=0)) @ (axes * signs[:, None]).T
    assert found == pytest.approx(right, abs=1e-3)


def test_many_dimensions_take_little_time(memory):
    """Above 1,000 a matrix of 960 × 960 is decomposed, not one of 2,048 × 2,048."""
    random = numpy.random.default_rng(3)
    axis = random.normal(size=2048)
    along = random.normal(size=1500) * 5
    vectors = (along[:, None] * axis + random.normal(size=(1500, 2048)) * 0.1).astype("f4")
    make(memory, vectors)
    begin = time.process_time()  # the time of others is not looked at
    _, found = project(memory, 2)
    assert time.process_time() - begin < 60  # a hundred times what it takes
    assert abs(numpy.corrcoef(found[:, 0], along)[0, 1]) > 0.999


@pytest.mark.parametrize(
    "vectors, rank",
    [
        ([(1, 2, 3)], 0),
        ([(1, 2, 3)] * 5, 0),
        ([(0, 0, 0), (3, 4, 0)], 1),
        ([(i, 2 * i, -i) for i in range(20)], 1),
        ([(i % 4, i % 3, 0) for i in range(20)], 2),
    ],
)
def test_rows_that_span_less(memory, vectors, rank):
    """The distances between rows are those on the map, and what is beyond them is 0."""
    vectors = make(memory, vectors)
    _, found = project(memory, 3)
    assert numpy.abs(found[:, rank:]).max(initial=0) < 1e-5
    between = numpy.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    on_map = numpy.linalg.norm(found[:, None] - found[None], axis=2)
    assert on_map == pytest.approx(between, abs=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_huge_and_tiny_numbers(memory, scale):
    vectors = make(memory, (made_up(100, 5) * scale).astype("f4"))
    _, found = project(memory, 2)
    assert found / scale == pytest.approx(expected(vectors / scale, 2), abs=1e-4)


def test_a_faiss_table_is_projected_as_it_is_searched(memory):
    vectors = make(memory, made_up(80, 6))
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric=cosine)")
    _, found = project(memory, 2, "docs_index")
    assert found == pytest.approx(expected(oracle.unit(vectors), 2), abs=1e-5)


def test_views_and_tables_without_rowid(memory):
    vectors = make(memory, made_up(50, 5))
    memory.execute("CREATE TABLE w(id TEXT PRIMARY KEY, embedding BLOB) WITHOUT ROWID")
    memory.execute("INSERT INTO w SELECT printf('%03d', id), embedding FROM docs")
    memory.execute("CREATE VIEW v AS SELECT id, embedding FROM docs ORDER BY id")
    right = expected(vectors, 2)
    assert project(memory, 2, "w")[0] == [f"{i:03}" for i in range(1, 51)]
    for table in "w", "v":
        assert project(memory, 2, table)[1] == pytest.approx(right, abs=1e-4)


def test_through_a_host(connect, tmp_path):
    host, visitor = database.host(tmp_path / "shop.db"), connect()
    host.execute("CREATE TABLE docs(id TEXT, embedding BLOB)")
    for i, row in enumerate(made_up(50, 5)):
        host.execute("INSERT INTO docs VALUES (?, ?)", [f"id {i}", vector(*row)])
    host.execute("SELECT faiss_publish('shop', 'docs')")
    own = rows(host, "SELECT * FROM faiss_project('main', 'docs', 3)")
    assert rows(visitor, "SELECT * FROM faiss_project('shop', 'docs', 3)") == own
    host.close()


def test_nothing_to_show(memory):
    memory.execute("CREATE TABLE docs(id, embedding)")
    assert rows(memory, "SELECT * FROM faiss_project('main', 'docs', 3)") == []
    fill(memory, [(1, 2)], "other")
    assert rows(memory, "SELECT * FROM faiss_project('main', 'other', NULL)") == []


def test_an_old_transaction_keeps_its_map(docs_file, connect):
    reader, writer = connect(docs_file), connect(docs_file)
    writer.execute("PRAGMA journal_mode = wal")
    reader.execute("BEGIN")
    before = project(reader, 2)
    writer.execute("DELETE FROM docs WHERE id > 3")
    assert project(reader, 2)[0] == before[0] == [1, 2, 3, 4, 6]
    reader.execute("COMMIT")
    assert project(reader, 2)[0] == [1, 2, 3]


def test_in_a_join(memory):
    vectors = make(memory, made_up(30, 4))
    memory.execute("CREATE TABLE titles AS SELECT id, 'title ' || id AS title FROM docs")
    found = column(
        memory,
        "SELECT title FROM titles JOIN faiss_project('main', 'docs', 1) AS p USING (id) ORDER BY x",
    )
    order = expected(vectors, 1)[:, 0].argsort()
    assert found == [f"title {i + 1}" for i in order]
    join = "SELECT title FROM titles JOIN faiss_project('main', 'docs', 1) AS p USING (id)"
    assert any("SCAN p VIRTUAL TABLE" in line for line in plan(memory, join))


def test_a_map_is_interrupted(memory):
    make(memory, made_up(30000, 32))
    project(memory, 1)
    deadline = time.monotonic() + 0.05
    memory.set_progress_handler(lambda: time.monotonic() > deadline, 100)
    begin = time.process_time()
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        for _ in range(1000):
            project(memory, 32)
    assert time.process_time() - begin < 20  # a thousand times take minutes


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("('main')", r"faiss_project\(database, table \[, dimensions\]\): an argument is missing"),
        ("('main', NULL)", "faiss_project: database and table must be names, not NULL"),
        ("('main', 'docs', 0)", "dimensions must be a whole number from 1 to 256, not 0"),
        ("('main', 'docs', 257)", "dimensions must be a whole number from 1 to 256, not 257"),
        ("('main', 'docs', 1.5)", "dimensions must be a whole number from 1 to 256, not 1.5"),
        ("('main', 'docs', 'x')", "dimensions must be a whole number from 1 to 256, not x"),
        ("('main', 'docs', 3)", "main.docs has vectors of 2 dimensions, which cannot be projected to 3"),
        ("('main', 'nix', 2)", "no such table: main.nix"),
        ("('nix', 'docs', 2)", "no such database: nix"),
    ],
)
def test_errors(docs, arguments, message):
    with pytest.raises(sqlite3.Error, match=message):
        rows(docs, "SELECT * FROM faiss_project" + arguments)
    assert len(project(docs, 2)[0]) == 5
