"""Loading a stored index goes on where an interrupt stopped it: under a limit for each statement that is far below
what loading takes, as Datasette sets one, it is loaded within a few statements, and never built instead; whatever
becomes of the file between two of them. Limits are numbers of SQLite's steps, so that no test depends on time.
"""

import functools
import os
import shutil
import subprocess
import sys
from contextlib import closing

import numpy
import pytest

import database
from database import column, plain, rows, scalar
from steps import KNN, Steps, under_limit, until_answered
from test_approximate import make, vectors_of
from test_checkpoint_states import TRUSTED, COMPARED, HOW, run
from test_checkpoints import OPTIMIZE, nothing_outlives_its_connections  # noqa: F401

DIMENSION = 512
COUNT = 4000
EXACT = "SELECT id FROM docs_ann WHERE embedding MATCH ? ORDER BY distance"  # the index is not loaded for it
QUERY = vectors_of(numpy.random.default_rng(3), 1, DIMENSION)[0].tobytes()
CASES = {
    "graph": ("HNSW4", "", TRUSTED),
    "graph compared": ("HNSW4", "", COMPARED),
    "codes": ("SQ8", "", COMPARED),
    "lists": ("IVF16,Flat", "", COMPARED),
    "codes without vectors": ("SQ8", ", memory=low", TRUSTED),
    "lists without vectors": ("IVF16,SQ8", ", memory=low", TRUSTED),
}
# Rows of the table are looked up in the end, which has to be within a limit.
SHARES = {"codes without vectors": 2, "lists without vectors": 2}
OTHER_SCHEMA = "CREATE TABLE a(x); CREATE TABLE b(x)"  # the log proves nothing then


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files with a stored index, each made once."""
    @functools.cache
    def file_of(kind, options):
        path = tmp_path_factory.mktemp("stored") / "docs.db"
        with closing(database.connect(path)) as connection:
            make(connection, vectors_of(numpy.random.default_rng(7), COUNT, DIMENSION), kind, "l2", options)
            connection.execute(OPTIMIZE)
        return path
    return file_of


@pytest.fixture
def file_of(files, tmp_path, vectors_left_in_small_tables):
    """A copy of the file of a case: its path, and how it is opened."""
    def copied(case):
        kind, options, how = CASES[case]
        path = tmp_path / "docs.db"
        shutil.copy(files(kind, options), path)
        if how == COMPARED:
            run(path, OTHER_SCHEMA)
        return path, how
    return copied


def read_the_table(connection):
    rows(connection, EXACT, [QUERY])
    assert column(connection, HOW) == []


def measure(path, how=TRUSTED, share=4):
    """What an uninterrupted search answers, and limits: the steps to come to the loading in the first statement of a
    connection, and to come to it in a later one, with this share of what there is to do from there. Where all rows are
    compared they are read before."""
    with closing(database.connect(path)) as connection:
        if how == COMPARED:
            read_the_table(connection)
        with Steps(connection) as whole:
            answer = rows(connection, KNN, [QUERY])
    first = whole.begun + 20
    with closing(database.connect(path)) as connection:
        if how == COMPARED:
            read_the_table(connection)
        assert under_limit(connection, QUERY, first) is None
        with Steps(connection) as later:
            rows(connection, KNN, [QUERY])
    return answer, (first, later.begun + 50 + (whole.count - whole.begun) // share)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("others", [False, True], ids=["one connection", "several connections"])
def test_it_goes_on(file_of, case, others):
    path, how = file_of(case)
    answer, limits = measure(path, how, SHARES.get(case, 4))
    if others:  # each has to come there by itself
        limits = limits[0], sum(limits)
    connections = [database.connect(path) for _ in range(3 if others else 1)]
    for connection in connections if how == COMPARED else []:
        read_the_table(connection)
    found, statements = until_answered(connections, QUERY, limits)
    assert found == answer and statements < 12 and (others or statements > 1)
    assert set(column(connections[0], HOW)) == {how}
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("case", ["graph compared", "codes"])
def test_reading_the_table_goes_on(file_of, case):
    """To compare its rows, before the index is loaded."""
    path, how = file_of(case)
    answer, (first, later) = measure(path, how, SHARES.get(case, 4))
    with closing(database.connect(path)) as connection:
        found, statements = until_answered([connection], QUERY, (first, 2000 + later))
        assert found == answer and 5 < statements < 40
        assert column(connection, HOW) == [how]


# --- what may happen between two statements ---------------------------------------------------------

RUN = f"""
import sys
sys.path.insert(0, {str(database.ROOT / "tests")!r})
import database
for sql in sys.argv[2:]:
    database.connect(sys.argv[1]).execute(sql)
"""


def test_another_index_is_stored_meanwhile(file_of):
    """What was read of the former one is thrown away."""
    path, how = file_of("graph")
    _, limits = measure(path)
    stored = scalar(plain(path), "SELECT checksum FROM docs_ann_checkpoint WHERE part = 0")

    def store_another(statement):
        if statement == 2:
            subprocess.run([sys.executable, "-c", RUN, str(path),
                            f"UPDATE docs SET embedding = (SELECT embedding FROM docs AS d WHERE d.id = docs.id + {COUNT} / 2)"
                            f" WHERE id <= {COUNT} / 2", OPTIMIZE], check=True)

    with closing(database.connect(path)) as connection:
        found, statements = until_answered([connection], QUERY, limits, store_another)
        assert statements > 4 and column(connection, HOW) == [how]
        assert stored != scalar(connection, "SELECT checksum FROM docs_ann_checkpoint WHERE part = 0")
        assert_scores(connection, found)


def assert_scores(connection, found):
    """Nearest first, with the scores of the vectors that the table has now."""
    query = numpy.frombuffer(QUERY, "<f4").astype(float)
    vectors = {id: numpy.frombuffer(blob, "<f4").astype(float) for id, blob in rows(connection, "SELECT id, embedding FROM docs")}
    scores = [((vectors[id] - query) ** 2).sum() for id, _ in found]
    assert len(found) == 5
    assert numpy.allclose(scores, sorted(scores), rtol=1e-4)
    assert numpy.allclose([score for _, score in found], scores, rtol=1e-4)


@pytest.mark.parametrize("case", ["graph", "graph compared"])
def test_rows_change_meanwhile(file_of, case):
    """By a program without the extension, between each two statements."""
    path, how = file_of(case)
    _, (first, later) = measure(path, how, SHARES.get(case, 4))
    changed = []

    def change(statement):
        changed.append(statement)
        run(path, ("UPDATE docs SET embedding = ? WHERE id = ?", [QUERY, statement]))

    with closing(database.connect(path)) as connection:
        if how == COMPARED:
            read_the_table(connection)
        found, _ = until_answered([connection], QUERY, (first, later + 300), change)
        assert column(connection, HOW) == [how]
        assert len(changed) > 1 and [id for id, score in found if score == 0] == changed[:5]
        assert_scores(connection, found)


def flip(path, share):
    """Damage a part, at this share of them."""
    with closing(plain(path)) as writer:
        last = scalar(writer, "SELECT max(part) FROM docs_ann_checkpoint")
        part = max(1, int(last * share))
        data = bytearray(scalar(writer, "SELECT data FROM docs_ann_checkpoint WHERE part = ?", [part]))
        data[len(data) // 2] ^= 16
        writer.execute("UPDATE docs_ann_checkpoint SET data = ? WHERE part = ?", [bytes(data), part])


@pytest.mark.parametrize("case", ["graph", "codes"])
@pytest.mark.parametrize("when", [0, 1, 3])
def test_damage_in_a_later_part(file_of, case, when):
    """It is found, and the index is built, by statements under the same limit."""
    path, how = file_of(case)
    _, limits = measure(path, how, SHARES.get(case, 4))
    if when == 0:
        flip(path, 0.9)
    with closing(database.connect(path)) as connection:
        if how == COMPARED:
            read_the_table(connection)
        found, _ = until_answered([connection], QUERY, limits, lambda statement: statement == when and flip(path, 0.9))
        assert column(connection, HOW) == ["built"]
        assert_scores(connection, found)


@pytest.mark.parametrize("sql", ["DELETE FROM docs_ann_checkpoint", "DELETE FROM docs WHERE id > 90"])
def test_it_goes_away_meanwhile(file_of, sql):
    path, _ = file_of("graph")
    _, (first, later) = measure(path)
    with closing(database.connect(path)) as connection:
        assert [under_limit(connection, QUERY, limit) for limit in (first, later, later)] == [None] * 3
        run(path, sql)
        found = rows(connection, KNN, [QUERY])
        assert column(connection, HOW) in (["built"], [])
        assert_scores(connection, found)


# --- those who go on --------------------------------------------------------------------------------


def test_connections_that_are_closed(file_of, monkeypatch):
    """What one has read is for the next, within the time that an index lingers."""
    path, how = file_of("graph")
    answer, (first, later) = measure(path)
    monkeypatch.setenv("SQLITE_FAISS_LINGER", "60")
    for statement in range(60):
        with closing(database.connect(path)) as connection:
            found = under_limit(connection, QUERY, first + later)
            if found is not None:
                assert found == answer and column(connection, HOW) == [how]
                break
    assert 1 < statement < 12


def test_in_a_transaction_that_writes(file_of):
    path, how = file_of("graph")
    _, (first, later) = measure(path)
    with closing(database.connect(path)) as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE docs SET embedding = ? WHERE id = 17", [QUERY])
        found, statements = until_answered([connection], QUERY, (first, later + 500))
        assert found[0] == (17, 0) and statements > 1
        connection.execute("ROLLBACK")
        found = rows(connection, KNN, [QUERY])
        assert found[0] != (17, 0) and column(connection, HOW) == [how]
        assert_scores(connection, found)


FORKED = f"""
import os, sys
sys.path.insert(0, {str(database.ROOT / "tests")!r})
from database import column, connect
from steps import under_limit, until_answered
path, query = sys.argv[1], bytes.fromhex(sys.argv[2])
limits = [int(each) for each in sys.argv[3:]]
connection = connect(path)
assert under_limit(connection, query, limits[0]) is None
for _ in range(3):
    assert under_limit(connection, query, limits[1]) is None
child = os.fork()
mine = connect(path)
answer, statements = until_answered([mine], query, limits)
assert statements < 4, statements
assert column(mine, {HOW!r}) == [{TRUSTED!r}]
mine.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
    print(answer)
"""


def test_a_child_of_a_fork(file_of):
    """It goes on, as its parent does."""
    path, _ = file_of("graph")
    answer, limits = measure(path)
    told = subprocess.run([sys.executable, "-c", FORKED, str(path), QUERY.hex(), *map(str, limits)], capture_output=True, text=True)
    assert (told.stdout.strip(), told.stderr) == (str(answer), "")


LEFT = f"""
import sys
sys.path.insert(0, {str(database.ROOT / "tests")!r})
from database import connect
from steps import under_limit
connection = connect(sys.argv[1])
for number in range(int(sys.argv[3])):
    assert under_limit(connection, bytes.fromhex(sys.argv[2]), int(sys.argv[6 if number else 5])) is None
if sys.argv[4] == "close":
    connection.close()
print("left")
"""


@pytest.mark.parametrize("end", ["close", "exit"])
@pytest.mark.parametrize("statements", [1, 4])
def test_a_load_that_is_left(file_of, end, statements):
    """Nothing waits for it: the connection closes, and the process ends."""
    path, _ = file_of("graph")
    _, limits = measure(path)
    told = subprocess.run([sys.executable, "-c", LEFT, str(path), QUERY.hex(), str(statements), end, *map(str, limits)],
                          env={**os.environ, "SQLITE_FAISS_LINGER": "0"}, capture_output=True, text=True, timeout=600)
    assert (told.returncode, told.stdout, told.stderr) == (0, "left\n", "")
