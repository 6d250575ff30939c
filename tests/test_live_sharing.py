"""One index in a process for all its connections and threads, and what a search costs."""

import ctypes
import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest

import database
import steps
from database import plain, rows, vector
from test_live import NEW, QUERY, assert_true, blob, live


SEARCH = "SELECT id FROM docs_index(?, 5)"
# The whole table is some hundred thousand steps.
FEW, MANY = 2_000, 20_000


def count_steps(connection, sql=SEARCH, parameters=(QUERY,)):
    return steps.count_steps(connection, sql, parameters, each=50)


@pytest.fixture(scope="module")
def docs_bytes(tmp_path_factory):
    """A file with 20,000 rows and a live index."""
    path = tmp_path_factory.mktemp("live") / "docs.db"
    connection = database.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, u INTEGER UNIQUE)")
    places = numpy.random.default_rng(0).integers(-90, 91, (20_000, 2))
    connection.executemany("INSERT INTO docs VALUES (?, ?, ?)", [(i, vector(*row), i) for i, row in enumerate(places)])
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    connection.execute("COMMIT")
    connection.close()
    return path.read_bytes()


@pytest.fixture
def path(docs_bytes, tmp_path):
    (tmp_path / "docs.db").write_bytes(docs_bytes)
    return tmp_path / "docs.db"


# --- one copy -------------------------------------------------------------------------------------


def test_connections_share(path, connect):
    first = connect(path)
    assert_true(first)
    (alone,) = rows(first, "SELECT bytes, connections, rows FROM faiss_indexes")
    assert alone[1:] == (1, 20_000)
    others = [connect(path) for _ in range(5)]
    for number, each in enumerate(others):
        assert count_steps(each) < FEW
        assert rows(each, "SELECT bytes, connections FROM faiss_indexes") == [(alone[0], number + 2)]
    for number, each in enumerate(others):
        each.close()
        assert rows(first, "SELECT bytes, connections FROM faiss_indexes") == [(alone[0], 5 - number)]


def test_a_connection_counts_once_for_each_definition(path, connect):
    connection = connect(path)
    connection.execute("CREATE VIRTUAL TABLE again USING faiss(main, docs, embedding=embedding, id=id)")
    for sql in (SEARCH, "SELECT faiss_search('main', 'DOCS', ?, 5)", "SELECT id FROM faiss_search('docs', 'docs', ?, 5)"):
        rows(connection, sql, [QUERY])
        assert rows(connection, "SELECT rows, connections FROM faiss_indexes") == [(20_000, 1)]
    rows(connection, "SELECT id FROM again(?, 5)", [QUERY])
    assert rows(connection, "SELECT rows, connections FROM faiss_indexes") == [(20_000, 2)]


def test_threads_share(path):
    barrier = threading.Barrier(6)

    def work(_):
        connection = database.connect(path, timeout=300)
        barrier.wait(timeout=600)
        cost = count_steps(connection)
        barrier.wait(timeout=600)
        listed = rows(connection, "SELECT connections, rows FROM faiss_indexes")
        barrier.wait(timeout=600)
        assert_true(connection)
        connection.close()
        return cost, listed

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(work, range(6)))
    assert [listed for _, listed in done] == [[(6, 20_000)]] * 6
    # From a cold start one has read the table; waiting takes some steps too, to notice interrupts.
    costs = sorted(cost for cost, _ in done)
    assert costs[-1] > MANY
    assert costs[-2] < MANY


class Stopped:
    """A first search in a thread, held up in the middle of reading the table until told to go on."""

    def __init__(self, path):
        self.go_on, self.reached, calls = threading.Event(), threading.Event(), []

        def stop():
            calls.append(1)
            if len(calls) == 8:
                self.reached.set()
                self.go_on.wait(timeout=600)

        self.connection = database.connect(path, timeout=300)
        self.connection.set_progress_handler(stop, 5000)
        self.pool = ThreadPoolExecutor(1)
        self.search = self.pool.submit(rows, self.connection, SEARCH, [QUERY])

    def __enter__(self):
        assert self.reached.wait(timeout=600)
        return self

    def __exit__(self, *_):
        self.go_on.set()
        assert len(self.search.result(timeout=600)) == 5
        self.pool.shutdown()
        self.connection.close()


@pytest.mark.parametrize("how", ["interrupt", "progress handler"])
def test_who_waits_for_a_build_can_be_interrupted(path, connect, how):
    waiter, another = connect(path), connect(path)
    with Stopped(path) as builder, ThreadPoolExecutor(2) as pool:
        other = pool.submit(rows, another, SEARCH, [QUERY])
        if how == "progress handler":
            waiter.set_progress_handler(lambda: 1, 1000)
        waiting = pool.submit(rows, waiter, SEARCH, [QUERY])
        while how == "interrupt" and not waiting.done():  # one that comes before the statement is lost
            time.sleep(0.02)
            waiter.interrupt()
        with pytest.raises(sqlite3.OperationalError, match="^interrupted$"):
            waiting.result(timeout=600)
        assert not builder.search.done() and not other.done()
        builder.go_on.set()
        assert other.result(timeout=600) == builder.search.result(timeout=600)
        waiter.set_progress_handler(None, 0)
        assert count_steps(waiter) < FEW
        assert_true(waiter)


def test_a_write_transaction_waits_for_nobody_s_build(path, connect):
    """Its locks would keep others from writing meanwhile."""
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = wal").fetchone()
    connection.close()
    connection = connect(path)
    with Stopped(path) as builder:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(f"UPDATE docs SET embedding = {NEW} WHERE id = 5")
        assert_true(connection)
        connection.execute("ROLLBACK")
        assert not builder.search.done()
    assert_true(connection)


def test_changes_committed_during_a_build(path, connect):
    """Who began before them does not see them, who begins after does, and nothing is built twice."""
    writer, later = connect(path), connect(path)
    writer.execute("PRAGMA journal_mode = wal").fetchone()
    with Stopped(path) as builder:
        writer.execute("UPDATE docs SET embedding = ?, id = -id WHERE id BETWEEN 1 AND 9", [QUERY])
        builder.go_on.set()
        assert all(id >= 0 for (id,) in builder.search.result(timeout=600))
    assert count_steps(later) < FEW
    assert_true(later)


# --- interrupted builds ---------------------------------------------------------------------------


def search_within(connection, most):
    """A search that is stopped after so many steps; whether it succeeded."""
    try:
        with steps.Steps(connection, most, each=50):
            rows(connection, SEARCH, [QUERY])
        return True
    except sqlite3.OperationalError as error:
        assert str(error) == "interrupted"
        return False


@pytest.mark.parametrize("host", ["one connection", "a connection for each request"])
@pytest.mark.parametrize("writes", [False, True], ids=["", "written to meanwhile"])
def test_an_interrupted_build_is_gone_on_with(path, connect, host, writes):
    """The table takes some hundred thousand steps; each statement is allowed a quarter."""
    connection, attempts = connect(path), 1
    while not search_within(connection, 25_000):
        attempts += 1
        assert attempts < 20
        if writes:
            writer = plain(path)
            writer.execute("UPDATE docs SET embedding = ? WHERE id % 4000 = ?", [vector(attempts, 0), attempts])
            writer.execute(f"REPLACE INTO docs VALUES ({attempts - 50}, {NEW}, {attempts * 1999})")
        if host != "one connection":
            connection.close()
            connection = connect(path)
    assert attempts >= 3
    assert_true(connection)
    assert count_steps(connect(path)) < FEW
    assert live(connection) == "yes"


def test_an_interrupted_build_of_a_source_that_is_not_live(path, connect):
    """Gone on with by the connection that began it, as long as nothing is committed."""
    connection = connect(path)
    connection.execute("DROP TABLE docs_index")
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live=off)")
    attempts = 1
    while not search_within(connection, 25_000):
        attempts += 1
        assert attempts < 20
    assert attempts >= 3
    assert_true(connection)


def test_an_interrupted_build_of_another_copy_of_the_file(path, connect):
    """What was read of the one is of no use for the other."""
    older = path.read_bytes()
    plain(path).execute(f"UPDATE docs SET embedding = {blob(1, 1)} WHERE id < 3000")
    connection = connect(path)
    assert not search_within(connection, 40_000)
    connection.close()
    path.write_bytes(older)
    writer = plain(path)
    for number in range(30):
        writer.execute(f"UPDATE docs SET embedding = {blob(2, 2)} WHERE id BETWEEN {number * 100} AND {number * 100 + 99}")
    writer.close()
    connection = connect(path)
    assert_true(connection)


# --- how long it lives ----------------------------------------------------------------------------

LINGER = """
import sys, time
sys.path.insert(0, sys.argv[2])
import database
from database import rows
from test_live_sharing import count_steps
first = database.connect(sys.argv[1])
costs = [count_steps(first)]
first.close()
time.sleep(float(sys.argv[3]))
rows(database.connect(), "SELECT * FROM faiss_indexes")  # any use of the extension
for _ in range(2):
    second = database.connect(sys.argv[1])
    costs.append(count_steps(second))
    second.close()
print(*costs)
"""


def run_apart(script, *arguments, **environment):
    # Its own directory comes first on the path, so that tests are modules there too.
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | environment)


@pytest.mark.parametrize(
    ("environment", "seconds", "stays"),
    [({}, 0, True), ({"SQLITE_FAISS_LINGER": "0"}, 0, False), ({"SQLITE_FAISS_LINGER": "3"}, 4.2, False),
     ({"SQLITE_FAISS_LINGER": "600"}, 1.2, True), ({"SQLITE_FAISS_LINGER_MB": "0"}, 0, False),
     ({"SQLITE_FAISS_LINGER": "soon", "SQLITE_FAISS_LINGER_MB": "-1"}, 0, True)],
    ids=str,
)
def test_how_long_an_index_stays(path, environment, seconds, stays):
    """After the last connection has closed, for hosts that open one for each request."""
    bare = {name: "" for name in ("SQLITE_FAISS_LINGER", "SQLITE_FAISS_LINGER_MB")}
    done = run_apart(LINGER, path, database.ROOT / "tests", seconds, **(bare | environment))
    assert done.returncode == 0, done.stderr
    first, second, third = map(int, done.stdout.split())
    assert first > MANY
    assert (second < FEW) == stays
    assert (third < FEW) == (stays or seconds > 0)


FORKED = """
import os, sys, traceback
sys.path.insert(0, sys.argv[2])
import database
from database import rows, vector
from test_live import assert_true
from test_live_sharing import Stopped

def check(connection, table="docs", index="docs_index"):
    connection.execute("BEGIN")  # the others write meanwhile
    assert_true(connection, table, index)
    connection.execute("COMMIT")

def child(index, table):
    connection = database.connect(sys.argv[1], timeout=300)
    for number in range(3):
        check(connection, table, index)
        connection.execute(f"UPDATE {table} SET embedding = ? WHERE id = ?", [vector(0, 0), os.getpid() % 1000 + number])
    check(connection, table, index)
    connection.close()

def fork(index, table):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child(index, table)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid

before = database.connect(sys.argv[1], timeout=300)
before.execute("PRAGMA journal_mode = wal").fetchone()
before.execute("CREATE TABLE twin AS SELECT * FROM docs")
before.execute("CREATE VIRTUAL TABLE twin_index USING faiss(main, twin)")
with Stopped(sys.argv[1]):  # while another thread builds, which the child does not have
    children = [fork("docs_index", "docs")]
check(before)
children += [fork("docs_index", "docs"), fork("twin_index", "twin")]
assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 3
check(before)
check(before, "twin", "twin_index")
"""


def test_children_of_a_fork(path):
    """They search what is there, build what is not, and wait for no thread of their parent's."""
    done = run_apart(FORKED, path, database.ROOT / "tests")
    assert done.returncode == 0, done.stderr


def test_sqlite3_close_is_never_busy(path):
    """Unlike Python's close, it refuses while a statement of anybody's is left."""
    library = ctypes.CDLL("libsqlite3.so.0")
    library.sqlite3_errmsg.restype = ctypes.c_char_p

    def run(sql):
        return library.sqlite3_exec(db, sql.encode(), None, None, None)

    scripts = [
        ["SELECT * FROM docs_index('[0, 0]', 3)"],
        ["SELECT faiss_search('main', 'docs', '[0, 0]', 3)", "SELECT * FROM faiss_search('main', 'docs', '[0, 0]', 3)",
         "SELECT * FROM faiss_indexes", "SELECT * FROM docs_index('[0, 0]', 3) WHERE u < 5"],
        ["BEGIN", "UPDATE docs SET embedding = NULL WHERE id = 1", "SELECT * FROM docs_index('[0, 0]', 3)"],
        ["SELECT * FROM docs_index('[0, 0, 0]', 3)", "SELECT * FROM docs_index('[0', 3)", "SELECT nonsense FROM docs_index"],
        ["INSERT INTO docs_index(docs_index) VALUES ('rebuild')", "INSERT INTO docs_index(docs_index) VALUES ('integrity-check')"],
        ["BEGIN", "CREATE VIRTUAL TABLE other USING faiss(main, docs, metric=ip)", "SELECT * FROM other('[0, 0]', 3)", "ROLLBACK",
         "SELECT * FROM docs_index('[0, 0]', 3)"],
        ["DROP TRIGGER docs_faiss_insert", "SELECT * FROM docs_index('[0, 0]', 3)", "DROP TABLE docs_index"],
    ]
    for script in scripts:
        db = ctypes.c_void_p()
        assert library.sqlite3_open(str(path).encode(), ctypes.byref(db)) == 0
        library.sqlite3_enable_load_extension(db, 1)
        assert library.sqlite3_load_extension(db, database.EXTENSION.encode(), None, None) == 0
        for sql in script:
            run(sql)
        statement = ctypes.c_void_p()
        search = b"SELECT id FROM faiss_search('main', 'docs', '[0, 0]')"  # read halfway
        assert library.sqlite3_prepare_v2(db, search, -1, ctypes.byref(statement), None) == 0
        assert library.sqlite3_step(statement) == 100
        library.sqlite3_finalize(statement)
        assert library.sqlite3_close(db) == 0, library.sqlite3_errmsg(db)


EXIT = """
import builtins, os, sys, threading
sys.path.insert(0, sys.argv[2])
import database
from database import rows
# Kept where nothing closes them.
connections = builtins.connections = [database.connect(sys.argv[1], timeout=300) for _ in range(3)]
threads = [threading.Thread(target=rows, args=(each, "SELECT id FROM docs_index('[0, 0]', 3)")) for each in connections]
for each in threads:
    each.start()
for each in threads:
    each.join()
connections[0].execute("BEGIN")
connections[0].execute("UPDATE docs SET embedding = NULL WHERE id = 3")
builtins.cursors = [each.execute("SELECT id FROM docs_index('[0, 0]')") for each in connections]
assert all(cursor.fetchone() for cursor in builtins.cursors)
print("done", flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["", "sys.exit(0)", "os._exit(0)", "import ctypes; ctypes.CDLL(None).exit(0)"])
def test_a_process_that_ends_with_connections_open(path, end):
    done = run_apart(EXIT.format(end=end), path, database.ROOT / "tests")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# --- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [SEARCH, "SELECT faiss_search('main', 'docs', ?, 5)", "SELECT id FROM faiss_search('main', 'docs', ?, 5)"])
@pytest.mark.parametrize("state", ["cold", "warm", "left behind", "changed"])
def test_an_authorizer_that_denies_the_table(path, connect, sql, state):
    """Whoever has built the index: it is not for those who may not read the table."""
    guest = connect(path)
    if state != "cold":
        owner = connect(path)
        rows(owner, sql, [QUERY])
        if state == "left behind":
            owner.close()
        if state == "changed":
            owner.execute(f"UPDATE docs SET embedding = {NEW} WHERE id = 5")
    guest.set_authorizer(lambda action, table, *_: sqlite3.SQLITE_DENY if table == "docs" else sqlite3.SQLITE_OK)
    for _ in range(2):
        with pytest.raises(sqlite3.DatabaseError, match="(?i)prohibited|not authorized"):
            rows(guest, sql, [QUERY])
    guest.set_authorizer(None)
    assert_true(guest)


def test_an_authorizer_that_denies_the_log(path, connect):
    """Then there is none for that connection, which compares; it may read the table, after all."""
    connection, other = connect(path), connect(path)
    for each in (connection, other):
        assert_true(each)
    connection.set_authorizer(
        lambda action, table, *_: sqlite3.SQLITE_DENY if table == "docs_faiss_log" else sqlite3.SQLITE_OK
    )
    for number in range(3):
        assert_true(connection)
        other.execute("UPDATE docs SET embedding = ? WHERE id = ?", [vector(0, number), number])
        assert_true(other)
    connection.set_authorizer(None)
    assert_true(connection)


# --- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sql", [SEARCH, "SELECT faiss_search('main', 'docs', ?, 5)",
                                 "SELECT id FROM faiss_search('main', 'docs', ?, 5)"])
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_only_what_changed_is_read(path, connect, sql, journal):
    writer, reader = connect(path), connect(path)
    writer.execute(f"PRAGMA journal_mode = {journal}").fetchone()
    assert count_steps(reader, sql) > MANY
    for write in (f"UPDATE docs SET embedding = {NEW} WHERE id = 777", f"INSERT INTO docs VALUES (-1, {NEW}, -1)",
                  f"REPLACE INTO docs VALUES (-2, {NEW}, 500)", "DELETE FROM docs WHERE id = 9", "PRAGMA user_version = 5"):
        plain(path).execute(write)
        for each in (reader, reader, writer):
            assert count_steps(each, sql) < FEW
        writer.execute("BEGIN")
        writer.execute(f"UPDATE docs SET embedding = {blob(1, 1)} WHERE id IN (5, 6, 7)")
        assert count_steps(writer, sql) < FEW
        writer.execute("SAVEPOINT s")
        writer.execute("DELETE FROM docs WHERE id = 100")
        assert count_steps(writer, sql) < FEW
        writer.execute("ROLLBACK TO s")
        assert count_steps(writer, sql) < FEW
        writer.execute("ROLLBACK")
        for each in (writer, reader):
            assert count_steps(each, sql) < FEW
    fresh = connect(path)  # needs no reading of its own
    assert count_steps(fresh, sql) < FEW
    assert_true(fresh)


def test_a_change_of_the_schema_costs_one_comparison_at_most(path, connect):
    """Not one for each search: what the schema was is part of what a state is known by."""
    reader, other = connect(path), connect(path)
    for each in (reader, other):
        rows(each, SEARCH, [QUERY])
    for change in ("CREATE TABLE other(x)", "CREATE INDEX by_u ON docs(u)", "ANALYZE", "ALTER TABLE docs ADD COLUMN n", "VACUUM"):
        plain(path).execute(change)
        count_steps(reader)
        for each in (reader, other, reader):
            assert count_steps(each) < FEW
        plain(path).execute("UPDATE docs SET embedding = ? WHERE id = 4", [vector(len(change), 0)])
        for each in (reader, other):
            assert count_steps(each) < FEW
    assert_true(reader)
    assert live(reader) == "yes"


def test_many_changes_cost_as_much_as_they_are(path, connect):
    writer, reader = connect(path), connect(path)
    costs = []
    rows(reader, SEARCH, [QUERY])
    for count in (100, 200, 400, 800):
        writer.execute("UPDATE docs SET embedding = ? WHERE id < ?", [vector(1, count), count])
        costs.append(count_steps(reader))
    assert costs[3] < 12 * costs[0] and costs == sorted(costs)
    assert_true(reader)


NOT_LIVE = {
    "live=off": "DROP TABLE docs_index; CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live=off)",
    "a view": "DROP TABLE docs_index; CREATE VIEW shown AS SELECT id, embedding FROM docs;"
    "CREATE VIRTUAL TABLE docs_index USING faiss(main, shown)",
    "without rowid": "DROP TABLE docs_index; ALTER TABLE docs RENAME TO old;"
    "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, u INTEGER) WITHOUT ROWID; INSERT INTO docs SELECT * FROM old;"
    "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)",
    "a log that is gone": "DROP TABLE docs_faiss_log; DROP TRIGGER docs_faiss_update;"
    "DROP TRIGGER docs_faiss_move; DROP TRIGGER docs_faiss_conflict",
    "an expression index": "DROP TABLE docs_index; CREATE UNIQUE INDEX e ON docs(u + 0);"
    "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)",
}


@pytest.mark.parametrize("case", NOT_LIVE)
def test_sources_that_are_not_live_are_compared_once_per_commit(path, connect, case):
    connection = connect(path)
    connection.executescript(NOT_LIVE[case])
    first, second, writer = connect(path), connect(path), plain(path)
    for step in range(3):
        for each in (first, second):
            assert count_steps(each) > MANY
            for _ in range(3):
                assert count_steps(each) < FEW
            assert_true(each, key="id")
        writer.execute(f"UPDATE docs SET embedding = {NEW}, u = u WHERE id = {step + 5}")
        first.execute("BEGIN")
        assert count_steps(first) > MANY
        assert count_steps(first) < FEW
        first.execute("COMMIT")
        assert count_steps(first) < FEW
        assert count_steps(second) > MANY
        first.execute(f"UPDATE docs SET embedding = {NEW}, u = u WHERE id = {step + 50}")
    assert rows(first, "SELECT live LIKE 'no: %' FROM faiss_indexes") == [(1,)]


def test_another_schema_is_compared_once_per_commit(path, connect):
    """A table in temp over main, where main has no live table."""
    owner = connect(path)
    owner.execute("DROP TABLE docs_index")
    connection = connect(path)
    connection.execute("CREATE VIRTUAL TABLE temp.docs_index USING faiss(main, docs)")
    for step in range(2):
        assert count_steps(connection) > MANY
        assert count_steps(connection) < FEW
        assert_true(connection)
        owner.execute("UPDATE docs SET embedding = ? WHERE id = ?", [vector(0, 1), step])
    assert live(connection) == "no: no live faiss table in its own schema is over it"


@pytest.mark.parametrize("mode", ["mode=ro", "immutable=1"])
def test_read_only_files(path, connect, mode):
    """Read-only connections read the log that others write; an immutable file is read once."""
    connection = connect(f"file:{path}?{mode}", uri=True)
    assert count_steps(connection) > MANY
    assert count_steps(connection) < FEW
    assert_true(connection)
    if mode == "mode=ro":
        plain(path).execute("UPDATE docs SET embedding = ? WHERE id = 3", [vector(0, 0)])
        assert count_steps(connection) < FEW
        assert_true(connection)
        assert live(connection) == "yes"
    other = connect(f"file:{path}?{mode}", uri=True)
    assert count_steps(other) < FEW
