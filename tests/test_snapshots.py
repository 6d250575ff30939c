"""A statement sees exactly its own snapshot: what brute force over that very connection gives.

Vectors have small integer coordinates, so scores are exact and rows and scores compare with ==.
"""

import shutil
import sqlite3
import subprocess

import numpy
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import database
import oracle
from database import SHELL, column, plain, rows, scalar, vector
from steps import count_steps

QUERY = vector(0, 1, 0)
TABLE = "SELECT pk, id, embedding FROM docs"


def make(path, count=200, journal="wal", seed=0, live="on", live_ip=None):
    """`docs`, its key apart from its id, ids that repeat, many ties, some NULLs."""
    random = numpy.random.default_rng(seed)
    connection = database.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE docs(pk INTEGER PRIMARY KEY, id INTEGER, embedding BLOB, note TEXT)")
    connection.execute("BEGIN")
    for pk in range(1, count + 1):
        blob = None if pk % 17 == 0 else vector(*random.integers(-2, 3, 3))
        connection.execute("INSERT INTO docs VALUES (?, ?, ?, NULL)", [pk, pk // 2, blob])
    connection.execute("COMMIT")
    connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live={live})")
    connection.execute(
        f"CREATE VIRTUAL TABLE docs_ip USING faiss(main, docs, metric=ip, live={live_ip or live})"
    )
    return connection


def assert_own_snapshot(connection, query=QUERY, k=7):
    """Every way to search gives what this connection's own SELECT shows."""
    table = rows(connection, TABLE)
    plain_json, scored_json = oracle.nearest_json(table, query, k)
    assert scalar(connection, "SELECT faiss_search('main', 'docs', ?, ?)", [query, k]) == plain_json
    assert (
        scalar(connection, "SELECT faiss_search_with_scores('main', 'docs', ?, ?)", [query, k])
        == scored_json
    )
    everything = oracle.nearest(table, query)
    assert rows(connection, "SELECT id, score FROM docs_index(?)", [query]) == everything
    assert rows(connection, "SELECT id, score FROM docs_index(?, ?)", [query, k]) == everything[:k]
    assert (
        rows(connection, "SELECT id, score FROM faiss_search('main', 'docs', ?, ?)", [query, k])
        == everything[:k]
    )
    assert rows(connection, "SELECT id, score FROM docs_ip(?, ?)", [query, k]) == oracle.nearest(
        table, query, k, "ip"
    )
    assert rows(connection, "SELECT rowid, id, embedding FROM docs_index") == [
        row for row in table if row[2] is not None
    ]
    # Read once more: the searches themselves have not moved the snapshot.
    assert rows(connection, TABLE) == table


@pytest.fixture(params=["wal", "delete"])
def journal(request):
    return request.param


@pytest.fixture(params=["on", "off"], ids=["live", "live=off"])
def live(request):
    """Whether changes are read from the log, or found by comparing the whole table."""
    return request.param


@pytest.fixture
def path(tmp_path, journal, live):
    make(tmp_path / "docs.db", journal=journal, live=live).close()
    return tmp_path / "docs.db"


CHANGES = {
    "insert": "INSERT INTO docs(id, embedding) VALUES (900, X'000000000000803F00000000')",
    "insert in front": "INSERT INTO docs(pk, id, embedding) VALUES (-5, 901, X'000000000000803F00000000')",
    "insert many": "INSERT INTO docs(id, embedding) SELECT id + 1000, embedding FROM docs",
    "update": "UPDATE docs SET embedding = X'000000000000803F00000000' WHERE pk = 100",
    "update the first": "UPDATE docs SET embedding = X'000000000000803F00000000' WHERE pk = 1",
    "update the last": "UPDATE docs SET embedding = X'000000000000803F00000000' WHERE pk = 200",
    "update all": "UPDATE docs SET embedding = X'0000803F0000803F00000000' WHERE embedding IS NOT NULL",
    "update nothing": "UPDATE docs SET embedding = embedding",
    "update another column": "UPDATE docs SET note = 'n'",
    "delete": "DELETE FROM docs WHERE pk = 100",
    "delete the first": "DELETE FROM docs WHERE pk = 1",
    "delete the last": "DELETE FROM docs WHERE pk = 200",
    "delete every other": "DELETE FROM docs WHERE pk % 2",
    "delete all": "DELETE FROM docs",
    "delete and insert again": "CREATE TEMP TABLE keep AS SELECT * FROM docs; DELETE FROM docs;"
    "INSERT INTO docs SELECT * FROM keep",
    "replace": "REPLACE INTO docs(pk, id, embedding) VALUES (50, 902, X'000000000000803F00000000')",
    "upsert": "INSERT INTO docs(pk, id, embedding) VALUES (50, 903, X'000000000000803F00000000')"
    " ON CONFLICT DO UPDATE SET embedding = excluded.embedding",
    "id": "UPDATE docs SET id = -id",
    "one id": "UPDATE docs SET id = 5 WHERE pk = 7",
    "rowid": "UPDATE docs SET pk = pk + 1000 WHERE pk < 100",
    "every rowid": "UPDATE docs SET pk = -pk",
    "swap two embeddings": "UPDATE docs SET embedding = (SELECT embedding FROM docs d WHERE d.pk = 103 - docs.pk)"
    " WHERE pk IN (51, 52)",
    "swap two rowids": "UPDATE docs SET pk = -1 WHERE pk = 20; UPDATE docs SET pk = 20 WHERE pk = 21;"
    "UPDATE docs SET pk = 21 WHERE pk = -1",
    "swap two ids": "UPDATE docs SET id = 23 - id WHERE pk IN (22, 24)",
    "rotate": "CREATE TEMP TABLE old AS SELECT * FROM docs;"
    "UPDATE docs SET embedding = (SELECT embedding FROM old WHERE old.pk = docs.pk % 200 + 1)",
    "NULL": "UPDATE docs SET embedding = NULL WHERE pk BETWEEN 90 AND 110",
    "NULL all": "UPDATE docs SET embedding = NULL",
    "no longer NULL": "UPDATE docs SET embedding = X'000000000000803F00000000' WHERE embedding IS NULL",
    "negate zero": "UPDATE docs SET embedding = X'000000800000008000000080' WHERE pk = 60",
    "front, middle and end": "DELETE FROM docs WHERE pk IN (1, 2, 100, 199, 200);"
    "INSERT INTO docs(pk, id, embedding) VALUES (100, 904, X'000000000000803F00000000'),"
    " (0, 905, X'000000000000803F00000000'), (300, 906, X'000000000000803F00000000')",
    "VACUUM": "VACUUM",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_table(path, connect, change):
    """Seen by the connection that changed it and by others, searched before or not."""
    writer, warm, cold = connect(path), connect(path), connect(path)
    assert_own_snapshot(writer)
    assert_own_snapshot(warm)
    writer.executescript(change)
    for connection in (writer, warm, cold, writer):
        assert_own_snapshot(connection)


@pytest.mark.parametrize(
    "change", [c for c in CHANGES.values() if c != "VACUUM"], ids=[n for n in CHANGES if n != "VACUUM"]
)
def test_a_change_rolled_back(path, connect, change):
    """Own uncommitted rows are seen by their own connection alone, and only until the rollback."""
    writer, reader = connect(path), connect(path)
    before = rows(reader, TABLE)
    assert_own_snapshot(writer)
    assert_own_snapshot(reader)
    writer.execute("BEGIN")
    for statement in change.split(";"):
        writer.execute(statement)
    assert_own_snapshot(writer)
    assert_own_snapshot(reader)
    assert rows(reader, TABLE) == before
    writer.execute("ROLLBACK")
    assert rows(writer, TABLE) == before
    assert_own_snapshot(writer)
    assert_own_snapshot(reader)
    assert_own_snapshot(connect(path))


@pytest.mark.parametrize("change", ["update", "insert in front", "delete the last", "rowid", "swap two embeddings"])
def test_a_change_by_a_process_without_the_extension(path, connect, change):
    connection = connect(path)
    assert_own_snapshot(connection)
    for undo in ("SELECT 1", "DELETE FROM docs WHERE pk < 0"):
        subprocess.run([SHELL, path, f"{undo}; {CHANGES[change]}"], check=True, timeout=600)
        assert_own_snapshot(connection)
        assert_own_snapshot(connect(path))


def test_savepoints(path, connect):
    connection, other = connect(path), connect(path)
    assert_own_snapshot(connection)
    connection.execute("BEGIN")
    connection.execute(CHANGES["insert"])
    assert_own_snapshot(connection)
    for change in ("update all", "delete every other", "rowid", "NULL", "delete all"):
        connection.execute("SAVEPOINT a")
        connection.execute(CHANGES[change])
        assert_own_snapshot(connection)
        connection.execute("SAVEPOINT b")
        connection.execute(CHANGES["replace"])
        assert_own_snapshot(connection)
        connection.execute("ROLLBACK TO b")
        assert_own_snapshot(connection)
        connection.execute("RELEASE b")
        connection.execute("ROLLBACK TO a")
        assert_own_snapshot(connection)
        assert_own_snapshot(other)
    connection.execute("SAVEPOINT c")
    connection.execute(CHANGES["update"])
    connection.execute("RELEASE c")
    assert_own_snapshot(connection)
    connection.execute("COMMIT")
    for each in (connection, other, connect(path)):
        assert_own_snapshot(each)


def test_the_same_rowid_twice_in_one_transaction(path, connect):
    """After ROLLBACK TO, a row may return with other content under the same counters."""
    connection = connect(path)
    connection.execute("BEGIN")
    for place in range(6):
        connection.execute("SAVEPOINT s")
        connection.execute("INSERT INTO docs(pk, id, embedding) VALUES (777, ?, ?)", [place, vector(0, place, 0)])
        assert_own_snapshot(connection)
        connection.execute("ROLLBACK TO s")
        connection.execute("RELEASE s")
    connection.execute("ROLLBACK")
    assert_own_snapshot(connection)


def test_the_same_commit_counter_twice(path, connect):
    """Two rollbacks, then a commit, all of which begin at the same committed state."""
    connection, other = connect(path), connect(path)
    for place in range(6):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("UPDATE docs SET embedding = ? WHERE pk = 10", [vector(0, place, 0)])
        assert_own_snapshot(connection)
        connection.execute("ROLLBACK" if place % 3 else "COMMIT")
        assert_own_snapshot(connection)
        assert_own_snapshot(other)


def test_an_old_read_transaction_keeps_its_old_neighbours(tmp_path, connect, live):
    path = tmp_path / "docs.db"
    make(path, live=live).close()
    readers = []
    writer = connect(path)
    for change in ("insert", "delete every other", "rowid", "update all", "NULL all", "no longer NULL"):
        reader = connect(path)
        reader.execute("BEGIN")
        readers.append((reader, rows(reader, TABLE)))
        writer.execute(CHANGES[change])
        for each, table in readers:
            assert rows(each, TABLE) == table
            assert_own_snapshot(each)
        assert_own_snapshot(writer)
    for each, _ in readers[::-1]:
        each.execute("COMMIT")
        assert_own_snapshot(each)
        assert rows(each, TABLE) == rows(writer, TABLE)


def test_an_old_reader_that_searches_for_the_first_time(tmp_path, connect, live):
    """Its snapshot is older than the index that others have made."""
    path = tmp_path / "docs.db"
    make(path, live=live).close()
    reader, writer = connect(path), connect(path)
    reader.execute("BEGIN")
    table = rows(reader, TABLE)
    writer.execute(CHANGES["update all"])
    assert_own_snapshot(writer)
    assert rows(reader, TABLE) == table
    assert_own_snapshot(reader)
    assert_own_snapshot(writer)


@pytest.mark.parametrize(
    "search",
    [
        "SELECT faiss_search('main', 'docs', ?, 3)",
        "SELECT json_group_array(id) FROM (SELECT id FROM docs_index(?, 3))",
        "SELECT json_group_array(id) FROM faiss_search('main', 'docs', ?, 3)",
    ],
)
def test_the_first_search_of_a_transaction_fixes_its_snapshot(tmp_path, connect, search, live):
    """Also that of a function called without FROM, which holds no snapshot by itself."""
    path = tmp_path / "docs.db"
    make(path, live=live).close()
    reader, writer = connect(path), connect(path)
    for place in range(3):
        reader.execute("BEGIN")
        before = scalar(reader, search, [QUERY])
        writer.execute("INSERT INTO docs(pk, id, embedding) VALUES (?, ?, ?)", [-place - 1, 5000 + place, QUERY])
        assert scalar(reader, search, [QUERY]) == before
        assert str(5000 + place) not in before
        assert_own_snapshot(reader)
        reader.execute("COMMIT")
        assert str(5000 + place) in scalar(reader, search, [QUERY])


def test_two_searches_in_one_statement_see_one_snapshot(path, connect):
    connection = connect(path)
    a, b, count = connection.execute(
        "SELECT faiss_search('main', 'docs', :v, 5), (SELECT json_group_array(id) FROM"
        " (SELECT id FROM docs_index(:v, 5))), (SELECT count(*) FROM docs)",
        {"v": QUERY},
    ).fetchone()
    assert a.replace(" ", "") == b
    assert count == 200


def test_a_commit_is_seen_exactly_when_sqlite_shows_it(path, connect):
    writer, reader = connect(path), connect(path)
    for change in ("insert", "update", "delete every other"):
        writer.execute("BEGIN IMMEDIATE")
        writer.execute(CHANGES[change])
        hidden = rows(reader, TABLE)
        assert_own_snapshot(reader)
        writer.execute("COMMIT")
        assert rows(reader, TABLE) != hidden
        assert_own_snapshot(reader)


def test_searches_inside_a_write(path, connect):
    """A function that runs while the statement writes another column sees the same vectors throughout."""
    connection, other = connect(path), connect(path)
    table = rows(connection, TABLE)
    connection.execute("UPDATE docs SET note = faiss_search('main', 'docs', embedding, 3)")
    for (pk, _, blob), (note_pk, note) in zip(table, rows(connection, "SELECT pk, note FROM docs"), strict=True):
        assert pk == note_pk
        assert note == (None if blob is None else oracle.nearest_json(table, blob, 3)[0])
    assert_own_snapshot(connection)
    assert_own_snapshot(other)
    connection.execute(
        "INSERT INTO docs(id, embedding) SELECT n.id + 5000, d.embedding FROM docs d"
        " JOIN docs_index(d.embedding, 1) n"
    )
    assert_own_snapshot(connection)
    assert_own_snapshot(other)


def test_a_search_inside_a_statement_that_fails(path, connect):
    """What a failing statement had written, and a search inside it may have read, is gone."""
    connection, other = connect(path), connect(path)
    connection.execute("CREATE TEMP TABLE heard(note)")
    before = rows(connection, TABLE)
    for _ in range(2):
        connection.execute(
            "CREATE TEMP TRIGGER listen AFTER UPDATE ON main.docs BEGIN"
            " INSERT INTO heard VALUES (faiss_search('main', 'docs', '[9, 9, 9]', 1));"
            " SELECT RAISE(ABORT, 'enough') WHERE NEW.pk = 150; END"
        )
        with pytest.raises(sqlite3.IntegrityError, match="enough"):
            connection.execute("UPDATE docs SET embedding = ?, id = pk", [vector(9, 9, 9)])
        connection.execute("DROP TRIGGER listen")
        assert rows(connection, TABLE) == before
        assert_own_snapshot(connection)
        assert_own_snapshot(other)


def test_triggers_that_search(path, connect):
    connection = connect(path)
    connection.execute("CREATE TEMP TABLE heard(pk, near)")
    connection.execute(
        "CREATE TEMP TRIGGER listen AFTER INSERT ON main.docs BEGIN"
        " INSERT INTO heard VALUES (NEW.pk, faiss_search('main', 'docs', NEW.embedding, 1)); END"
    )
    connection.execute("DELETE FROM docs")
    connection.execute(
        "INSERT INTO docs(pk, id, embedding) VALUES (1, 11, ?), (2, 22, ?), (3, 33, ?)",
        [vector(1, 0, 0), vector(2, 0, 0), vector(1, 0, 0)],
    )
    assert rows(connection, "SELECT * FROM heard") == [(1, "[11]"), (2, "[22]"), (3, "[11]")]
    assert_own_snapshot(connection)


@pytest.mark.parametrize("live", ["off"], indirect=True)
def test_blob_writes(path, connect):
    """Incremental BLOB output changes a vector without any UPDATE."""
    connection, other = connect(path), connect(path)
    for each in (connection, other):
        assert_own_snapshot(each)
    for place, writer in enumerate((connection, other, connection)):
        with writer.blobopen("docs", "embedding", 30) as blob:
            blob.write(vector(0, place + 1, 0))
        for each in (connection, other):
            assert_own_snapshot(each)
    connection.execute("BEGIN")
    for place in range(3):
        with connection.blobopen("docs", "embedding", 30) as blob:
            blob.write(vector(place, 0, 2))
        assert_own_snapshot(connection)
    connection.execute("ROLLBACK")
    assert_own_snapshot(connection)


@pytest.mark.parametrize("live", ["on"], indirect=True)
@pytest.mark.parametrize(
    "mend",
    [
        "INSERT INTO docs_index(docs_index) VALUES ('rebuild')",
        "INSERT INTO docs_ip(docs_ip) VALUES ('rebuild')",
        "UPDATE docs SET embedding = embedding WHERE pk = 30",
    ],
)
@pytest.mark.parametrize("in_transaction", [False, True])
def test_blob_writes_to_a_live_table(path, connect, mend, in_transaction):
    """No trigger fires: the log does not tell. 'integrity-check' finds it; a rebuild or an update mends it."""
    connection, other = connect(path), connect(path)
    for each in (connection, other):
        assert_own_snapshot(each)
    if in_transaction:
        connection.execute("BEGIN")
    with connection.blobopen("docs", "embedding", 30) as blob:
        blob.write(vector(0, 1, 0))
    for each in (connection,) if in_transaction else (connection, other):
        for table in ("docs_index", "docs_ip"):
            with pytest.raises(sqlite3.DatabaseError, match=r"differs from main\.docs"):
                each.execute(f"INSERT INTO {table}({table}) VALUES ('integrity-check')")
    connection.execute(mend)
    if in_transaction:
        assert_own_snapshot(connection)
        assert_own_snapshot(other)
        connection.execute("COMMIT")
    for each in (connection, other):
        assert_own_snapshot(each)
        for table in ("docs_index", "docs_ip"):
            each.execute(f"INSERT INTO {table}({table}) VALUES ('integrity-check')")


def test_a_database_overwritten_by_a_backup(path, connect, tmp_path):
    """sqlite3_backup_step writes pages, not rows."""
    shutil.copyfile(path, tmp_path / "older.db")
    older, connection, other = plain(tmp_path / "older.db"), connect(path), connect(path)
    rows(older, TABLE)
    connection.execute(CHANGES["update all"])
    for each in (connection, other):
        assert_own_snapshot(each)
    older.backup(connection)
    for each in (connection, other):
        assert_own_snapshot(each)
    assert rows(connection, TABLE) == rows(older, TABLE)


def test_after_a_failed_commit(tmp_path, connect, live):
    """In rollback mode a reader keeps the writer from committing: still its own rows, still open."""
    path = tmp_path / "docs.db"
    make(path, journal="delete", live=live).close()
    writer, reader = connect(path), connect(path)
    reader.execute("BEGIN")
    assert_own_snapshot(reader)
    writer.execute("BEGIN")
    writer.execute(CHANGES["update all"])
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        writer.execute("COMMIT")
    assert_own_snapshot(writer)
    assert_own_snapshot(reader)
    reader.execute("COMMIT")
    writer.execute("COMMIT")
    assert_own_snapshot(writer)
    assert_own_snapshot(reader)


def test_changes_of_the_schema_inside_a_transaction(path, connect):
    connection, other = connect(path), connect(path)
    assert_own_snapshot(connection)
    connection.execute("BEGIN")
    connection.execute("ALTER TABLE docs ADD COLUMN more DEFAULT 5")
    assert_own_snapshot(connection)
    connection.execute("DROP TABLE docs")
    connection.execute("CREATE TABLE docs(pk INTEGER PRIMARY KEY, id, embedding)")
    connection.execute("INSERT INTO docs VALUES (1, 1, ?)", [QUERY])
    assert_own_snapshot(connection)
    connection.execute("ROLLBACK")
    assert_own_snapshot(connection)
    assert_own_snapshot(other)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_small_tables(tmp_path, connect, count, live):
    make(tmp_path / "docs.db", count, live=live).close()
    connection, other = connect(tmp_path / "docs.db"), connect(tmp_path / "docs.db")
    for change in ("update all", "delete the first", "insert", "delete all", "insert", "insert in front"):
        connection.execute(CHANGES[change])
        assert_own_snapshot(connection)
        assert_own_snapshot(other)


def test_many_small_changes_one_after_another(path, connect):
    random = numpy.random.default_rng(11)
    connections = [connect(path) for _ in range(2)]
    for step in range(150):
        writer = connections[step % 2]
        pk = int(random.integers(1, 220))
        match step % 5:
            case 0 | 1:
                writer.execute("UPDATE docs SET embedding = ? WHERE pk = ?",
                               [vector(*random.integers(-2, 3, 3)), pk])
            case 2:
                writer.execute("DELETE FROM docs WHERE pk = ?", [pk])
            case 3:
                writer.execute("REPLACE INTO docs(pk, id, embedding) VALUES (?, ?, ?)",
                               [pk, step, vector(*random.integers(-2, 3, 3))])
            case 4:
                writer.execute("UPDATE docs SET id = ? WHERE pk = ?", [step, pk])
        query = vector(*random.integers(-2, 3, 3))
        for connection in connections:
            assert_own_snapshot(connection, query, int(random.integers(1, 30)))


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist", "memory", "off"])
@pytest.mark.parametrize("locking", ["normal", "exclusive"])
def test_every_journal_mode(tmp_path, connect, mode, locking, live):
    """Each has its own way, or none, of telling that the file has changed."""
    make(tmp_path / "docs.db", 40, live=live).close()
    connection = connect(tmp_path / "docs.db")
    connection.execute(f"PRAGMA locking_mode = {locking}").fetchone()
    connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()
    for step, change in enumerate(["insert", "update", "rowid", "delete every other", "NULL all", "no longer NULL"]):
        connection.execute("BEGIN")
        connection.execute(CHANGES[change])
        assert_own_snapshot(connection)
        connection.execute("COMMIT")
        assert_own_snapshot(connection)
        if mode != "off" and step:  # which cannot roll back
            connection.execute("SAVEPOINT s")
            connection.execute(CHANGES["delete all"])
            assert_own_snapshot(connection)
            connection.execute("ROLLBACK TO s")
            assert_own_snapshot(connection)
            connection.execute("RELEASE s")
            assert_own_snapshot(connection)


def test_a_changed_view(path, connect):
    """A view changes with any table it reads."""
    connection, other = connect(path), connect(path)
    connection.execute("CREATE TABLE hidden(pk INTEGER PRIMARY KEY)")
    connection.execute(
        "CREATE VIEW shown AS SELECT id, embedding FROM docs WHERE pk NOT IN (SELECT pk FROM hidden) ORDER BY pk"
    )
    connection.execute("CREATE VIRTUAL TABLE shown_index USING faiss(main, shown)")

    def check(each):
        table = [(place, *row) for place, row in enumerate(rows(each, "SELECT id, embedding FROM shown"))]
        assert rows(each, "SELECT id, score FROM shown_index(?)", [QUERY]) == oracle.nearest(table, QUERY)
        assert scalar(each, "SELECT faiss_search('main', 'shown', ?, 5)", [QUERY]) == (
            oracle.nearest_json(table, QUERY, 5)[0]
        )

    for statement in (
        "INSERT INTO hidden SELECT pk FROM docs WHERE pk % 3 = 0",
        "UPDATE docs SET embedding = NULL WHERE pk = 4",
        "BEGIN",
        "DELETE FROM hidden WHERE pk < 50",
        "UPDATE docs SET id = -id",
        "ROLLBACK",
        "DROP VIEW shown",
        "CREATE VIEW shown AS SELECT -pk AS id, embedding FROM docs ORDER BY pk",
    ):
        connection.execute(statement)
        if statement != "DROP VIEW shown":
            check(connection)
            check(other)


# --- and at what cost -----------------------------------------------------------------------------


def work(connection, sql, parameters):
    return count_steps(connection, sql, parameters, each=100)


EACH_SEARCH = pytest.mark.parametrize(
    "sql",
    [
        "SELECT faiss_search('main', 'docs', ?, 5)",
        "SELECT id FROM docs_index(?, 5)",
        "SELECT id FROM docs_index WHERE embedding MATCH ? ORDER BY distance LIMIT 5",
        "SELECT id FROM faiss_search('main', 'docs', ?, 5)",
    ],
)


@pytest.mark.parametrize("immutable", [False, True])
@EACH_SEARCH
def test_an_unchanged_table_is_not_read_again(tmp_path, connect, sql, immutable, live):
    make(tmp_path / "docs.db", 5000, "delete", live=live).close()
    source = f"file:{tmp_path}/docs.db" + "?immutable=1" * immutable
    first, second = connect(source, uri=True), connect(source, uri=True)
    assert work(first, sql, [QUERY]) > 20_000
    for _ in range(3):
        assert work(first, sql, [QUERY]) < 2_000
    if immutable:  # nobody changes such a file: what one connection has read serves all
        assert work(second, sql, [QUERY]) < 2_000
    elif live == "on":  # the log says that the rows are the same, also to other connections
        assert work(second, sql, [QUERY]) < 2_000
        second.execute("UPDATE docs SET note = 'n'")
        for connection in (first, second):
            assert work(connection, sql, [QUERY]) < 2_000
    else:  # no counter tells it that the rows are the same
        assert work(second, sql, [QUERY]) > 20_000
        assert work(second, sql, [QUERY]) < 2_000
        second.execute("UPDATE docs SET note = 'n' WHERE pk = 1")
        for connection in (first, second):
            assert work(connection, sql, [QUERY]) > 20_000
            assert work(connection, sql, [QUERY]) < 2_000


@pytest.mark.parametrize("live", ["on"], indirect=True)
@EACH_SEARCH
def test_of_a_changed_live_table_only_the_changes_are_read(tmp_path, connect, sql, journal, live):
    """By the writer, by another connection, in a transaction and after it."""
    path = tmp_path / "docs.db"
    make(path, 5000, journal).close()
    first, second, without_it = connect(path), connect(path), plain(path)
    assert work(first, sql, [QUERY]) > 20_000
    for writer in (first, second, without_it):
        for change in (
            "INSERT INTO docs(id, embedding) VALUES (900, X'000000000000803F00000000')",
            "UPDATE docs SET embedding = NULL WHERE pk = 100",
            "DELETE FROM docs WHERE pk BETWEEN 200 AND 205",
            "UPDATE docs SET id = -id WHERE pk = 300",
            "UPDATE docs SET pk = pk + 10000 WHERE pk = 400",
        ):
            writer.execute("BEGIN")
            writer.execute(change)
            if writer is not without_it:
                assert work(writer, sql, [QUERY]) < 4_000
            writer.execute("ROLLBACK")
            writer.execute(change)
            for reader in (first, second):
                assert work(reader, sql, [QUERY]) < 4_000
                assert work(reader, sql, [QUERY]) < 2_000
    for connection in (first, second):
        assert_own_snapshot(connection)
    without_it.close()


# --- any sequence of writes, by three connections -------------------------------------------------

coordinates = st.integers(-2, 2)
vectors = st.none() | st.tuples(coordinates, coordinates, coordinates)
keys = st.integers(-3, 30)
who = st.integers(0, 2)


class Snapshots(RuleBasedStateMachine):
    """After each step every connection's searches equal brute force over what that connection reads.

    A step that SQLite refuses (a lock, a transaction in the way, a key taken) is skipped: whatever
    it left behind is a state like any other.
    """

    journal = None

    def __init__(self):
        super().__init__()
        self.directory = None
        self.connections = []

    @initialize(
        count=st.integers(0, 25),
        seed=st.integers(0, 1000),
        live=st.sampled_from(["on", "off"]),
        live_ip=st.sampled_from(["on", "off"]),
    )
    def start(self, count, seed, live, live_ip):
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.path = self.directory.name + "/docs.db"
        make(self.path, count, self.journal, seed, live, live_ip).close()
        self.connections = [self.open() for _ in range(3)]
        self.query = vector(0, 0, 0)
        self.k = 5

    def open(self):
        connection = database.connect(self.path)
        try:
            connection.execute("PRAGMA synchronous = OFF")
        except sqlite3.OperationalError as error:  # reads the schema
            assert "locked" in str(error)
        return connection

    def teardown(self):
        for connection in self.connections:
            connection.close()
        if self.directory is not None:
            self.directory.cleanup()

    def attempt(self, number, sql, parameters=()):
        try:
            self.connections[number].execute(sql, parameters).fetchall()
        except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:
            refusals = ("database is locked", "database table is locked", "database schema is locked",
                        "UNIQUE constraint failed", "cannot ", "no such savepoint")
            # No statement of the suite's is running: one in progress would be the extension's.
            if not str(error).startswith(refusals) or "statements in progress" in str(error):
                raise

    @rule(n=who, pk=keys, id=keys, new=vectors)
    def insert(self, n, pk, id, new):
        self.attempt(n, "INSERT INTO docs(pk, id, embedding) VALUES (?, ?, ?)", [pk, id, new and vector(*new)])

    @rule(n=who, pk=keys, id=keys, new=vectors)
    def replace(self, n, pk, id, new):
        self.attempt(n, "REPLACE INTO docs(pk, id, embedding) VALUES (?, ?, ?)", [pk, id, new and vector(*new)])

    @rule(n=who, pk=keys, new=vectors)
    def update_embedding(self, n, pk, new):
        self.attempt(n, "UPDATE docs SET embedding = ? WHERE pk = ?", [new and vector(*new), pk])

    @rule(n=who, pk=keys, id=keys)
    def update_id(self, n, pk, id):
        self.attempt(n, "UPDATE docs SET id = ? WHERE pk = ?", [id, pk])

    @rule(n=who, pk=keys, to=keys)
    def update_rowid(self, n, pk, to):
        self.attempt(n, "UPDATE OR REPLACE docs SET pk = ? WHERE pk = ?", [to, pk])

    @rule(n=who, a=keys, b=keys)
    def swap_embeddings(self, n, a, b):
        self.attempt(
            n,
            "UPDATE docs SET embedding = (SELECT embedding FROM docs d WHERE d.pk = ? - docs.pk)"
            " WHERE pk IN (?, ?) AND EXISTS (SELECT 1 FROM docs d WHERE d.pk = ? - docs.pk)",
            [a + b, a, b, a + b],
        )

    @rule(n=who, pk=keys)
    def delete(self, n, pk):
        self.attempt(n, "DELETE FROM docs WHERE pk = ?", [pk])

    @rule(n=who, remainder=st.integers(0, 3))
    def delete_some(self, n, remainder):
        self.attempt(n, "DELETE FROM docs WHERE pk % 4 = ?", [remainder])

    @rule(n=who, kind=st.sampled_from(["", "IMMEDIATE"]))
    def begin(self, n, kind):
        self.attempt(n, f"BEGIN {kind}")

    @rule(n=who)
    def commit(self, n):
        self.attempt(n, "COMMIT")

    @rule(n=who)
    def roll_back(self, n):
        self.attempt(n, "ROLLBACK")

    @rule(n=who, name=st.sampled_from(["a", "b"]), verb=st.sampled_from(["SAVEPOINT", "ROLLBACK TO", "RELEASE"]))
    def savepoint(self, n, name, verb):
        self.attempt(n, f"{verb} {name}")

    @rule(n=who)
    def change_the_schema(self, n):
        self.attempt(n, "CREATE TABLE IF NOT EXISTS other(x)")
        self.attempt(n, "DROP TABLE IF EXISTS other")

    @rule(n=who)
    def vacuum(self, n):
        self.attempt(n, "VACUUM")

    @rule(
        n=who,
        table=st.sampled_from(["docs_index", "docs_ip"]),
        command=st.sampled_from(["optimize", "rebuild", "integrity-check"]),
    )
    def command(self, n, table, command):
        self.attempt(n, f"INSERT INTO {table}({table}) VALUES ('{command}')")

    @rule(n=who)
    def reopen(self, n):
        self.connections[n].close()
        self.connections[n] = self.open()

    @rule(query=st.tuples(coordinates, coordinates, coordinates), k=st.integers(1, 40))
    def ask_something_else(self, query, k):
        self.query, self.k = vector(*query), k

    @precondition(lambda self: self.connections)
    @invariant()
    def every_connection_sees_its_own_snapshot(self):
        for connection in self.connections:
            try:
                column(connection, "SELECT count(*) FROM docs")
            except sqlite3.OperationalError as error:
                assert "locked" in str(error)
            else:
                assert_own_snapshot(connection, self.query, self.k)


class WalSnapshots(Snapshots):
    journal = "wal"


class RollbackSnapshots(Snapshots):
    journal = "delete"


STEPS = settings(max_examples=30 if database.SANITIZED else 300, stateful_step_count=50)
TestWalSnapshots = WalSnapshots.TestCase
TestWalSnapshots.settings = STEPS
TestRollbackSnapshots = RollbackSnapshots.TestCase
TestRollbackSnapshots.settings = STEPS
