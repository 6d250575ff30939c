"""Eight threads, each with its own connection, on one file at once."""

import random
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest

import database
import oracle
from database import fill, rows, scalar, vector

THREADS = 8


def run_together(count, work):
    """`work(number)` in each thread, begun at one moment; the first failure is raised."""
    barrier = threading.Barrier(count)

    def begin(number):
        barrier.wait(timeout=600)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return [future.result(timeout=600) for future in [pool.submit(begin, n) for n in range(count)]]


def make(path, count=3000, dimension=8):
    connection = database.connect(path, timeout=300)
    connection.execute("PRAGMA journal_mode = wal").fetchone()
    matrix = numpy.random.default_rng(0).integers(-8, 9, (count, dimension))
    connection.execute("BEGIN")
    fill(connection, matrix)
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    connection.execute("COMMIT")
    table = rows(connection, "SELECT id, id, embedding FROM docs")
    connection.close()
    return table


def test_searches_at_once(tmp_path):
    """From a cold start: all ask for an index that nobody has built yet."""
    path = tmp_path / "docs.db"
    table = make(path)

    def work(number):
        chance = random.Random(number)
        connection = database.connect(path, timeout=300)
        for _ in range(40):
            _, _, query = table[chance.randrange(len(table))]
            k = chance.choice([1, 5, 50])
            expected = oracle.nearest(table, query, k)
            assert rows(connection, "SELECT id, score FROM docs_index(?, ?)", [query, k]) == expected
            assert scalar(connection, "SELECT faiss_search('main', 'docs', ?, ?)", [query, k]) == (
                str([id for id, _ in expected])
            )
        connection.close()
        return True

    assert run_together(THREADS, work) == [True] * THREADS
    connection = database.connect(path, timeout=300)
    scalar(connection, "SELECT faiss_search('main', 'docs', ?, 1)", [table[0][2]])
    assert scalar(connection, "SELECT count(*) FROM faiss_indexes") == 1
    connection.close()


def test_connections_that_come_and_go(tmp_path):
    """A host that opens a connection per request."""
    path = tmp_path / "docs.db"
    table = make(path, 300)

    def work(number):
        for step in range(25):
            connection = database.connect(path, timeout=300)
            query = table[(number * 31 + step) % len(table)][2]
            assert rows(connection, "SELECT id, score FROM docs_index(?, 9)", [query]) == (
                oracle.nearest(table, query, 9)
            )
            connection.close()
        return True

    assert run_together(THREADS, work) == [True] * THREADS


def test_one_connection_in_many_threads(tmp_path):
    """SQLite serializes what threads do on one connection; what they find must not mix."""
    path = tmp_path / "docs.db"
    table = make(path, 500)
    connection = database.connect(path, timeout=300)

    def work(number):
        for step in range(60):
            query = table[(number * 61 + step) % len(table)][2]
            k = number + 1
            found = connection.execute(  # a statement of its own: cursors share those with equal text
                f"SELECT id, score FROM docs_index(?, {k})", [query]
            ).fetchall()
            assert found == oracle.nearest(table, query, k)
        return True

    assert run_together(THREADS, work) == [True] * THREADS
    connection.close()


FORKED = """
import os, sys
sys.path.insert(0, sys.argv[2])
import database
from database import rows

def search(connection):
    found = rows(connection, "SELECT id FROM docs_index WHERE embedding MATCH (SELECT embedding FROM docs"
                             " WHERE id = 7) LIMIT 3")
    assert found[0] == (7,), found
    return found

before = database.connect(sys.argv[1], timeout=300)
expected = search(before)
before.close()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            connection = database.connect(sys.argv[1], timeout=300)
            assert search(connection) == expected
            connection.execute("INSERT INTO docs VALUES (NULL, zeroblob(32))")
            assert search(connection) == expected
            connection.close()
            status = 0
        finally:
            os._exit(status)
    children.append(child)
connection = database.connect(sys.argv[1], timeout=300)
assert search(connection) == expected
assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
assert search(connection) == expected
"""


def test_processes_forked_after_a_search(tmp_path):
    """A server that loads, warms up and forks its workers: the children must not hang."""
    path = tmp_path / "docs.db"
    make(path, 5000)
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(path), str(database.ROOT / "tests")],
        capture_output=True, text=True, timeout=600,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("memory", [False, True], ids=["file", "private memory"])
def test_many_indexes_at_once(tmp_path, memory):
    """Each thread its own table and metric in its own database: nothing mixes."""

    def work(number):
        metric = ("l2", "ip")[number % 2]
        connection = database.connect(":memory:" if memory else tmp_path / f"{number}.db")
        connection.execute("PRAGMA synchronous = OFF")
        matrix = numpy.random.default_rng(number).integers(-5, 6, (200 + number, number + 1))
        fill(connection, matrix)
        connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric={metric})")
        for step in range(15):
            query = vector(*matrix[step])
            table = rows(connection, "SELECT id, id, embedding FROM docs")
            assert rows(connection, "SELECT id, score FROM docs_index(?)", [query]) == (
                oracle.nearest(table, query, metric=metric)
            )
            connection.execute("DELETE FROM docs WHERE id = ?", [step + 1])
        connection.close()
        return True

    assert run_together(THREADS, work) == [True] * THREADS


def test_searches_beside_a_writer(tmp_path):
    """Each answer is that of the reader's own snapshot, taken in one transaction with the rows."""
    path = tmp_path / "docs.db"
    make(path, 400, 3)
    finished = threading.Event()
    failures = []

    def write():
        try:
            chance = random.Random(99)
            connection = database.connect(path, timeout=300)
            connection.execute("PRAGMA synchronous = OFF")
            while not finished.is_set():
                connection.execute("BEGIN IMMEDIATE")
                for _ in range(chance.randrange(1, 20)):
                    id = chance.randrange(1, 600)
                    new = vector(*(chance.randrange(-8, 9) for _ in range(3)))
                    connection.execute(
                        chance.choice(
                            [
                                "REPLACE INTO docs VALUES (:id, :new)",
                                "UPDATE docs SET embedding = :new WHERE id = :id",
                                "UPDATE docs SET embedding = NULL WHERE id = :id",
                                "DELETE FROM docs WHERE id = :id",
                            ]
                        ),
                        {"id": id, "new": new},
                    )
                if chance.random() < 0.3:  # the writer's own rows, not yet committed
                    table = rows(connection, "SELECT id, id, embedding FROM docs")
                    assert rows(connection, "SELECT id, score FROM docs_index(?, 9)", [new]) == (
                        oracle.nearest(table, new, 9)
                    )
                connection.execute(chance.choice(["COMMIT", "COMMIT", "ROLLBACK"]))
                time.sleep(0.002)
            connection.close()
        except BaseException as failure:
            failures.append(failure)

    def work(number):
        chance = random.Random(number)
        connection = database.connect(path, timeout=300)
        states = set()
        for step in range(60):
            query = vector(*(chance.randrange(-8, 9) for _ in range(3)))
            k = chance.choice([1, 7, 1000])
            connection.execute("BEGIN")
            if step % 2:  # rows first, or search first: either fixes the snapshot
                table = rows(connection, "SELECT id, id, embedding FROM docs")
            found = rows(connection, "SELECT id, score FROM docs_index(?, ?)", [query, k])
            text = scalar(connection, "SELECT faiss_search('main', 'docs', ?, ?)", [query, k])
            if not step % 2:
                table = rows(connection, "SELECT id, id, embedding FROM docs")
            connection.execute("COMMIT")
            expected = oracle.nearest(table, query, k)
            assert found == expected
            assert text == str([id for id, _ in expected])
            states.add(tuple(table))
        connection.close()
        return len(states)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        states = run_together(THREADS, work)
    finally:
        finished.set()
        writer.join(timeout=600)
    assert failures == []
    assert max(states) > 1  # the writer did write while the others read


def test_one_interrupted_search_leaves_the_others(tmp_path):
    path = tmp_path / "docs.db"
    table = make(path, 20000)
    query = table[0][2]
    expected = oracle.nearest(table, query, 5)

    def work(number):
        connection = database.connect(path, timeout=300)
        sql = "SELECT id, score FROM docs_index(?, 5)"
        interrupt = threading.Timer(0.001 * number, connection.interrupt if number % 2 else int)
        interrupt.start()
        try:
            assert rows(connection, sql, [query]) == expected
        except sqlite3.OperationalError as error:
            # The very words by which Datasette knows its time limit from other errors.
            assert number % 2 and error.args == ("interrupted",)
        interrupt.join()
        assert rows(connection, sql, [query]) == expected
        connection.close()
        return True

    assert run_together(THREADS, work) == [True] * THREADS
