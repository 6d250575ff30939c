"""memory=low with an approximate index: codes in memory, everything else from the source's rows."""

import sqlite3
import time

import numpy
import pytest

import database
import oracle
from database import column, connect, rows, scalar
from steps import count_steps

ROWS, DIMENSION = 10_100, 32
CODES = {  # bytes of a row's code, and what all rows share: ranges, codebooks, a centre
    "SQ8": (DIMENSION, 2 * DIMENSION * 4),
    "SQfp16": (2 * DIMENSION, 0),
    "PQ8": (8, 256 * DIMENSION * 4),
    "RaBitQ": (DIMENSION // 8 + 8, DIMENSION * 4),
}
KNN = "SELECT id, score FROM docs_ann WHERE embedding MATCH ? AND k = ?"


def vectors_of(seed, count, dimension=DIMENSION):
    generator = numpy.random.default_rng(seed)
    centres = numpy.random.default_rng(0).normal(size=(40, dimension))
    return (centres[generator.integers(40, size=count)] + 0.5 * generator.normal(size=(count, dimension))).astype("<f4")


def make(connection, kind, count=ROWS, options="", dimension=DIMENSION, first=1):
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, part INTEGER)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO docs VALUES (?, ?, ?)",
                           [(first + n, row.tobytes(), n % 50) for n, row in enumerate(vectors_of(1, count, dimension))])
    connection.execute("COMMIT")
    connection.execute("CREATE INDEX docs_part ON docs(part)")
    connection.execute(f"CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='{kind}', memory=low{options})")
    return connection


def table_of(connection, where="1"):
    return rows(connection, f"SELECT id, id, embedding FROM docs WHERE embedding IS NOT NULL AND {where}")


def told(connection):
    return rows(connection, "SELECT kind, memory FROM faiss_indexes WHERE kind <> 'Flat'")


def check_scores(connection, answer, query, k, metric="l2", where="1"):
    """Rows of the table, once each, nearest first, with true scores."""
    table = dict((id, blob) for id, _, blob in table_of(connection, where))
    assert len(answer) == len({id for id, _ in answer}) == min(k, len(table))
    found = [(id, id, table[id]) for id, _ in answer]
    oracle.check(answer, found, query, k, metric)


@pytest.mark.parametrize("kind", CODES)
def test_what_is_kept(memory, kind):
    """Little more than the codes, whatever the vectors take."""
    make(memory, kind)
    rows(memory, KNN, [vectors_of(2, 1)[0].tobytes(), 3])
    assert told(memory) == [(kind, "low")]
    code, shared = CODES[kind]
    size = scalar(memory, "SELECT bytes FROM faiss_indexes WHERE memory = 'low'") - shared
    assert size <= 1.1 * (code + 24) * ROWS + 4000


def test_rowids_far_apart(memory):
    """They take a few bytes more, and are found."""
    make(memory, "SQ8", 1000)
    memory.execute("UPDATE docs SET id = id - (1 << 60) WHERE id % 2")
    memory.execute("UPDATE docs SET id = id + (1 << 60) WHERE id % 3 = 0")
    memory.execute("INSERT INTO docs_ann(docs_ann) VALUES ('rebuild')")
    for query in vectors_of(3, 20):
        oracle.check(rows(memory, KNN, [query.tobytes(), 5]), table_of(memory), query.tobytes(), 5)
    assert told(memory)[0][0] == "SQ8"


def test_few_rows_keep_their_vectors(memory):
    """And give them up when there are more, in a build and by live changes."""
    make(memory, "SQ8", 1000)
    query = vectors_of(2, 1)[0].tobytes()
    rows(memory, KNN, [query, 3])
    assert told(memory) == [("SQ8", "low: vectors are kept, there are few rows")]
    memory.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row.tobytes(),) for row in vectors_of(4, 8000)])
    check_scores(memory, rows(memory, KNN, [query, 3]), query, 3)
    assert [memory for _, memory in told(memory)] == ["low"]


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("kind", ["HNSW16", "IVF64,Flat", "IVF64,SQ8", "SQ8", "PQ8", "RaBitQ", "PCA16,SQ8"])
def test_answers(memory, kind, metric):
    """By every way of asking, alone and under filters."""
    make(memory, kind, options=f", metric={metric}")
    table, hits = table_of(memory), 0
    for query in vectors_of(1 if metric == "ip" else 2, 10):
        query = query.tobytes()
        answer = rows(memory, KNN, [query, 5])
        check_scores(memory, answer, query, 5, metric)
        ranks = oracle.nearer_is_smaller(oracle.scores(oracle.matrix([query])[0], oracle.matrix(blob for _, _, blob in table), metric), metric)
        hits += len({id for id, _ in answer} & {table[place][0] for place in numpy.argsort(ranks)[:5]})
        assert rows(memory, "SELECT id, score FROM docs_ann(?) ORDER BY distance LIMIT 5", [query]) == answer
        for where in ("part = 7", "part < 40"):
            check_scores(memory, rows(memory, f"{KNN} AND {where}", [query, 4]), query, 4, metric, where)
    assert told(memory) == [(kind, "low")]
    assert hits >= 0.5 * 50
    stream = rows(memory, "SELECT id, score FROM docs_ann WHERE embedding MATCH ?", [query])
    assert len(stream) == ROWS and {id for id, _ in stream} == {id for id, _, _ in table}
    oracle.check(rows(memory, "SELECT id, score FROM docs_ann(?) WHERE part = 3 ORDER BY distance", [query]),
                 table_of(memory, "part = 3"), query, None, metric)


def test_a_search_reads_few_rows(memory):
    make(memory, "SQ8")
    query = [vectors_of(2, 1)[0].tobytes(), 10]
    rows(memory, KNN, query)
    assert count_steps(memory, KNN, query) < count_steps(memory, "SELECT id, embedding FROM docs") / 20


def test_the_table_is_never_in_memory_as_a_whole(memory):
    """A build reads it again in pieces: to train, and to add."""
    make(memory, "IVF64,SQ8", options=", nprobe=8")
    once = count_steps(memory, "SELECT rowid, embedding FROM docs")
    first = count_steps(memory, KNN, [vectors_of(2, 1)[0].tobytes(), 10])
    assert 2 * once < first < 12 * once


@pytest.mark.parametrize("kind", ["HNSW8", "SQ8"])
def test_it_follows_the_table(tmp_path, kind):
    """What was built from rows that are gone by then lacks them; an old reader keeps its own."""
    path = tmp_path / "docs.db"
    connection = make(connect(path), kind)
    connection.execute("PRAGMA journal_mode = WAL")
    old, other = connect(path), connect(path)
    query = vectors_of(2, 1)[0].tobytes()
    for reader in (connection, old, other):
        rows(reader, KNN, [query, 5])
    old.execute("BEGIN")
    old.execute("SELECT count(*) FROM docs").fetchone()
    for step in range(8):
        connection.execute("BEGIN")
        connection.execute("DELETE FROM docs WHERE id % 23 = ?", [step])
        connection.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs d WHERE d.id > docs.id + 9 LIMIT 1)"
                           " WHERE id % 19 = ?", [step])
        connection.executemany("INSERT INTO docs VALUES (NULL, ?, 3)", [(row.tobytes(),) for row in vectors_of(step, 200)])
        check_scores(connection, rows(connection, KNN, [query, 5]), query, 5)
        connection.execute("COMMIT" if step % 3 else "ROLLBACK")
        for reader in (connection, old, other) * 3:
            for where in ("1", "part = 3"):
                check_scores(reader, rows(reader, KNN + f" AND {where}" * (where != "1"), [query, 5]), query, 5, where=where)
    connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('optimize')")
    connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('integrity-check')")
    for reader in (connection, old, other) * 2:
        check_scores(reader, rows(reader, KNN, [query, 5]), query, 5)
    assert (kind, "low") in told(connection)
    for reader in (connection, old, other):
        reader.close()


def write_unseen(connection, id, blob):
    with connection.blobopen("docs", "embedding", id) as open_blob:
        open_blob.write(blob)


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "blobopen"), reason="from Python 3.11 on")
def test_a_change_that_no_trigger_saw(memory):
    """It is noticed where the row is read: by a search, in training, by 'optimize'."""
    make(memory, "IVF64,SQ8", options=", nprobe=64")
    query = vectors_of(2, 1)[0].tobytes()
    nearest = rows(memory, KNN, [query, 3])
    write_unseen(memory, nearest[0][0], vectors_of(9, 1)[0].tobytes())
    answer = rows(memory, KNN, [query, 3])
    oracle.check(answer, table_of(memory), query, 3)
    assert nearest[0] not in answer
    memory.execute("INSERT INTO docs_ann(docs_ann) VALUES ('integrity-check')")
    for id in range(1, ROWS, 2):
        write_unseen(memory, id, vectors_of(id, 1)[0].tobytes())
    memory.execute("INSERT INTO docs_ann(docs_ann) VALUES ('optimize')")
    oracle.check(rows(memory, KNN, [query, 20]), table_of(memory), query, 20)
    memory.execute("CREATE VIRTUAL TABLE again USING faiss(main, docs, index='IVF32,SQ8', memory=low, nprobe=32)")
    rows(memory, "SELECT id FROM again(?) ORDER BY distance", [query])  # it is read, and not yet built
    for id in range(1, ROWS, 2):
        write_unseen(memory, id, vectors_of(-id % 7000, 1)[0].tobytes())
    answer = rows(memory, "SELECT id, score FROM again(?, 20)", [query])
    oracle.check(answer, table_of(memory), query, 20)


def test_a_build_that_is_interrupted_goes_on(tmp_path):
    path = tmp_path / "docs.db"
    make(connect(path), "HNSW16", options=", ef_construction=100").close()
    connection = connect(path)
    query, progress = vectors_of(2, 1)[0].tobytes(), []
    rows(connection, "SELECT id FROM docs_ann WHERE embedding MATCH ? ORDER BY distance", [query])  # read, not built
    for _ in range(200):
        calls = []
        connection.set_progress_handler(lambda: calls.append(0) or len(calls) > 40, 100)
        try:
            answer = rows(connection, KNN, [query, 3])
            break
        except sqlite3.OperationalError as error:
            assert str(error) == "interrupted"
            connection.set_progress_handler(None, 0)
            progress += [int(number) for number in
                         [kind.split()[3] for kind in column(connection, "SELECT kind FROM faiss_indexes") if "building" in kind]]
        finally:
            connection.set_progress_handler(None, 0)
    assert progress == sorted(progress) and len(set(progress)) > 3
    check_scores(connection, answer, query, 3)
    assert told(connection) == [("HNSW16", "low")]


def test_published(tmp_path):
    """A visitor's search reads vectors through the host."""
    path = tmp_path / "docs.db"
    make(connect(path), "SQ8").close()
    host, visitor = database.host(path), connect()
    host.execute("SELECT faiss_publish('shop', 'docs_ann')")
    query = vectors_of(2, 1)[0].tobytes()
    for _ in range(3):
        answer = rows(visitor, "SELECT id, score FROM faiss_search('shop', 'docs_ann', ?, 5)", [query])
        check_scores(host, answer, query, 5)
    host.close()


@pytest.mark.parametrize("source, why", [
    ("CREATE VIEW v AS SELECT * FROM docs", "it is a view"),
    ("CREATE TABLE v(id TEXT PRIMARY KEY, embedding) WITHOUT ROWID", "its rows have no rowid"),
])
def test_refused(memory, source, why):
    database.fill(memory, [(1, 2)])
    memory.execute(source)
    with pytest.raises(sqlite3.OperationalError, match=f"memory=low: the vectors of main.v cannot be read again row by row: {why}"):
        memory.execute("CREATE VIRTUAL TABLE v_index USING faiss(main, v, index='SQ8', memory=low)")
