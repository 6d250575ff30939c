"""The option threads=: several threads for one search give the rows and scores of one."""

import os
import sqlite3
import subprocess
import sys
import threading

import numpy
import pytest

import database
import oracle
from database import column, connect, rows, scalar

SEARCH = "SELECT id, score FROM {} WHERE embedding MATCH ? AND k = ?"
PAIRS = "SELECT id, neighbor, score, distance FROM faiss_neighbors('main', ?, ?)"


def make(connection, vectors):
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO docs(embedding) VALUES (?)", ((v.tobytes(),) for v in vectors))
    connection.execute("COMMIT")


def tables(connection, counts=(1, 2), options=""):
    for threads in counts:
        connection.execute(f"CREATE VIRTUAL TABLE by_{threads} USING faiss(main, docs, threads={threads}{options})")


def uniform(count, dimension, seed=1):
    return numpy.random.default_rng(seed).random((count, dimension), dtype="f4")


def decaying(count, dimension, seed=1):
    """Vectors that sketches tell apart: the variance of component i is proportional to 1 / i²."""
    random = numpy.random.default_rng(seed)
    return (random.normal(size=(count, dimension)) / numpy.arange(1, dimension + 1)).astype("f4")


@pytest.mark.parametrize("value", ["0", "65", "-1", "many", "2.5", ""])
def test_values_that_are_refused(memory, value):
    make(memory, uniform(3, 2))
    with pytest.raises(sqlite3.OperationalError, match=f"^threads={value}: expected a whole number from 1 to 64$"):
        memory.execute(f"CREATE VIRTUAL TABLE t USING faiss(main, docs, threads={value})")


def test_values_that_are_taken(memory):
    make(memory, uniform(3, 2))
    tables(memory, (1, 2, 64))
    assert column(memory, "SELECT id FROM by_64 WHERE embedding MATCH '[0, 0]'") == column(
        memory, "SELECT id FROM by_1 WHERE embedding MATCH '[0, 0]'"
    )
    assert scalar(memory, "SELECT count(*) FROM faiss_indexes") == 1  # one index for all of them


@pytest.mark.parametrize("metric", oracle.METRICS)
def test_reading_vectors(memory, metric):
    """Many equal scores: the order of threads must not show."""
    vectors = numpy.repeat(numpy.round(uniform(1500, 256) * 2), 8, axis=0).astype("f4")
    make(memory, vectors)
    tables(memory, options=f", metric={metric}")
    table = rows(memory, "SELECT id, id, embedding FROM docs")
    for query in vectors[::4001]:
        for k in (1, 10, 128, 500):
            expected = rows(memory, SEARCH.format("by_1"), [query.tobytes(), k])
            assert rows(memory, SEARCH.format("by_2"), [query.tobytes(), k]) == expected
        if metric != "cosine":  # whose scores are not whole numbers
            expected = oracle.nearest(table, query.tobytes(), 10, metric)
            assert rows(memory, SEARCH.format("by_2"), [query.tobytes(), 10]) == expected


@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_sketches(memory, metric):
    vectors = decaying(70000, 96)
    make(memory, vectors)
    tables(memory, (1, 3), options=f", metric={metric}")
    for query in [*vectors[:60], *vectors[::7001]]:  # the first ones make the sketches
        expected = rows(memory, SEARCH.format("by_1"), [query.tobytes(), 10])
        assert rows(memory, SEARCH.format("by_3"), [query.tobytes(), 10]) == expected
    assert scalar(memory, "SELECT bytes FROM faiss_indexes") > vectors.nbytes * 1.15


def each(connection, ids, k):
    """The neighbours of some rows, each by a search of its own."""
    found = []
    for id in ids:
        sql = "SELECT ?1, n.id, n.score, n.distance FROM by_1 n WHERE n.embedding MATCH (SELECT embedding FROM docs WHERE id = ?1) AND n.k = ?2 + 1"
        found += [row for row in rows(connection, sql, [id, k]) if row[1] != id][:k]
    return found


def directions(count, dimension):
    vectors = decaying(count, dimension) + numpy.float32(0.1)
    return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("kind", [decaying, directions, uniform])
def test_neighbours(memory, metric, kind):
    """Tiles of sketches, or matrix products, by one thread and by three."""
    count = 2000 if kind is uniform else 8700
    vectors = kind(count, 96)
    vectors[100:140] = vectors[50]  # as many equal ones as are asked for, and more
    vectors[1000:1003] *= 30 if kind is decaying else 1  # that no sketch describes
    vectors[1100:1105] = 0
    make(memory, vectors)
    tables(memory, (1, 3), options=f", metric={metric}")
    expected = rows(memory, PAIRS, ["by_1", 20])
    assert rows(memory, PAIRS, ["by_3", 20]) == expected
    assert len(expected) == count * 20
    ids = {*range(1, count, 223), 51, 101, 120, 1001, 1002, 1101}
    assert [row for row in expected if row[0] in ids] == each(memory, sorted(ids), 20)


@pytest.mark.parametrize("k", [1, 256, 300])
def test_neighbours_few_and_many(memory, k):
    make(memory, decaying(8300, 96))
    tables(memory, (1, 2))
    ids = {*range(1, 600, 31)}
    some = " LIMIT ?"
    expected = [row for row in rows(memory, PAIRS + some, ["by_1", k, 600 * k]) if row[0] in ids]
    assert expected == each(memory, sorted(ids), k)
    assert [row for row in rows(memory, PAIRS + some, ["by_2", k, 600 * k]) if row[0] in ids] == expected


@pytest.mark.parametrize("kind", [decaying, uniform])
def test_interruption(memory, kind):
    make(memory, kind(20000, 128))
    tables(memory)
    query = bytes(4 * 128)
    for _ in range(40):
        rows(memory, SEARCH.format("by_2"), [query, 1])
    # Twenty times the whole take minutes.
    with database.interrupted(memory, 40), pytest.raises(sqlite3.OperationalError, match="^interrupted$"):
        for _ in range(20):
            scalar(memory, "SELECT count(*) FROM faiss_neighbors('main', 'by_2', 50)")
    asked = []
    memory.set_progress_handler(lambda: asked.append(threading.get_ident()) or len(asked) > 3, 500)
    with pytest.raises(sqlite3.OperationalError, match="^interrupted$"):
        scalar(memory, "SELECT count(*) FROM faiss_neighbors('main', 'by_2', 50)")
    assert set(asked) == {threading.get_ident()}  # the host's code runs on the host's thread
    memory.set_progress_handler(None, 0)
    assert len(rows(memory, SEARCH.format("by_2"), [query, 3])) == 3


ALONE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import numpy
import database, test_workers
from database import rows, scalar

def threads():
    return len(os.listdir("/proc/self/task"))

def work(table):
    query = vectors[7].tobytes()
    found = rows(connection, test_workers.SEARCH.format(table), [query, 5])
    return found, rows(connection, test_workers.PAIRS + " LIMIT 3000", [table, 5])

connection = database.connect()
vectors = test_workers.decaying(9000, 128)
test_workers.make(connection, vectors)
test_workers.tables(connection, (1, 2, 8))
expected = work("by_1")
before = threads()
"""

BOUND = ALONE + """
assert work("by_8") == expected
print(threads() - before)
"""


def run(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program, str(database.ROOT / "tests")],
        capture_output=True, text=True, timeout=600, env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("bound, helpers", [("1", 0), ("2", 1), ("3", 2), ("64", 7)])
def test_the_bound_of_the_process(bound, helpers):
    assert run(BOUND, SQLITE_FAISS_THREADS=bound) == [str(helpers)]


NOT_TOLD = ALONE + """
connection.execute("CREATE VIRTUAL TABLE untold USING faiss(main, docs)")
single, pairs = work("by_1")
assert rows(connection, test_workers.SEARCH.format("untold"), [vectors[7].tobytes(), 5]) == single
assert threads() == before
assert rows(connection, test_workers.PAIRS + " LIMIT 3000", ["untold", 5]) == pairs
print(threads() - before)
"""


@pytest.mark.parametrize("bound, helpers", [("1", 0), ("3", 2), ("64", 7)])
def test_neighbours_take_the_threads_of_the_process(bound, helpers):
    """Where the table does not say how many; eight at most."""
    assert run(NOT_TOLD, SQLITE_FAISS_THREADS=bound) == [str(helpers)]


def test_a_bound_that_is_none():
    """The number of processors is the bound then."""
    expected = min(os.cpu_count(), 8) - 1
    for bound in ("", "0", "-3", "many"):
        assert run(BOUND, SQLITE_FAISS_THREADS=bound) == [str(expected)]


FORKED = ALONE + """
assert work("by_2") == expected
assert threads() == before + 1
children = []
for _ in range(3):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert threads() == 1  # it has none of the helpers
            assert work("by_2") == expected
            assert threads() == 2
            if os.fork() == 0:
                os._exit(work("by_2") != expected)
            status = os.waitpid(-1, 0)[1]
        finally:
            os._exit(status)
    children.append(child)
assert work("by_2") == expected
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 3
"""


def test_children_of_a_fork():
    run(FORKED, SQLITE_FAISS_THREADS="2")


# A progress handler that forks, in the middle of the work of two threads: here only the parent
# can go on, since SQLite's mutexes belong to its thread.
FORKS_ON_THE_WAY = ALONE + """
children = []
def fork():
    if len(children) < 3:
        children.append(os.fork())
        if children[-1] == 0:
            os._exit(0)
    return 0
connection.set_progress_handler(fork, 500)
while not children:
    assert work("by_2") == expected
connection.set_progress_handler(None, 0)
assert work("by_2") == expected
assert {os.waitpid(child, 0)[1] for child in children} == {0}
"""


def test_a_fork_on_the_way():
    run(FORKS_ON_THE_WAY, SQLITE_FAISS_THREADS="2")


def test_connections_that_search_together(tmp_path):
    """Four threads that may each have two more, where the process has three."""
    path = tmp_path / "docs.db"
    connection = connect(path)
    vectors = decaying(9000, 128)
    make(connection, vectors)
    tables(connection, (1, 3))
    queries = vectors[::450]
    expected = [rows(connection, SEARCH.format("by_1"), [q.tobytes(), 10]) for q in queries]
    pairs = rows(connection, PAIRS + " LIMIT 5000", ["by_1", 5])
    failures = []

    def work(number):
        own = connect(path, timeout=300)
        for at, query in enumerate(queries):
            if rows(own, SEARCH.format("by_3"), [query.tobytes(), 10]) != expected[at]:
                failures.append((number, at))
        if rows(own, PAIRS + " LIMIT 5000", ["by_3", 5]) != pairs:
            failures.append(number)
        own.close()

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection.close()
    assert failures == []
