"""Whatever happens to a live table, its log and its file: a search answers what its connection reads.

First the states that were once answered wrongly, then any sequence of them, by four connections of
which one is without the extension. Then, one by one, the snapshots in which a connection can search
for the first time, and searches within a write. Vectors lie on the axes and are as long as powers
of two, so that the scores of all metrics are exact and compare with ==.
"""

import json
import os
import random
import re
import shutil
import sqlite3
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import database
import oracle
from database import plain, rows, vector

SANITIZED = bool(os.environ.get("SQLITE_FAISS_SANITIZE"))
RUNS = int(os.environ.get("SQLITE_FAISS_LIVE_RUNS") or (60 if SANITIZED else 1_000))  # of each journal mode
STEPS = 25
LARGE_RUNS = max(1, RUNS // 50)
LARGE_STEPS = 15

pytestmark = [pytest.mark.usefixtures("vectors_left_in_small_tables")]

AXES = [(0, 0, 0)] + [
    tuple(length * sign * (axis == place) for place in range(3))
    for length in (1, 2, 4) for sign in (1, -1) for axis in range(3)
]
QUERY = vector(0, 1, 0)


# --- what a search must answer --------------------------------------------------------------------


def exists(connection, schema, name):
    return rows(connection, f"SELECT sql FROM {schema}.sqlite_schema WHERE name = ?", [name])


def source_rows(connection, schema):
    """(rowid, id, embedding, n), of the embedding what is not padding."""
    return rows(connection, f"SELECT rowid, id, substr(embedding, 1, 12), n FROM {schema}.docs")


def nearest(table, query, k=None, metric="l2"):
    """(rowid, id, score)s over these rows."""
    return [
        (*names, score)
        for names, score in oracle.nearest(
            [(rowid, (rowid, id), blob) for rowid, id, blob, _ in table], query[:12], k, metric
        )
    ]


def knn(schema, index, query, k, n):
    sql = f"SELECT rowid, id, score FROM {schema}.{index}(?, ?)"
    return sql, [query, k], lambda table, metric: nearest(table, query, k, metric)


def stream(schema, index, query, k, n):
    sql = f"SELECT rowid, id, score FROM {schema}.{index}(?)"
    return sql, [query], lambda table, metric: nearest(table, query, None, metric)


def knn_filtered(schema, index, query, k, n):
    sql = f"SELECT rowid, id, score FROM {schema}.{index}(?, ?) WHERE n = ?"
    return sql, [query, k, n], lambda table, metric: nearest([r for r in table if r[3] == n], query, k, metric)


def stream_filtered(schema, index, query, k, n):
    sql = (f"SELECT rowid, id, score FROM {schema}.{index} WHERE embedding MATCH ? AND n >= ?"
           " ORDER BY distance LIMIT ?")
    return sql, [query, n, k], lambda table, metric: nearest([r for r in table if r[3] >= n], query, k, metric)


def scan(schema, index, query, k, n):
    sql = f"SELECT rowid, id, substr(embedding, 1, 12) FROM {schema}.{index} ORDER BY rowid"
    return sql, [], lambda table, metric: sorted(r[:3] for r in table if r[2] is not None)


def point(schema, index, query, k, n):
    sql = f"SELECT rowid, id, score FROM {schema}.{index}(?) WHERE rowid = ?"
    return sql, [query, k], lambda table, metric: nearest([r for r in table if r[0] == k], query, None, metric)


def function_of_the_source(schema, index, query, k, n):
    sql = f"SELECT faiss_search('{schema}', 'docs', ?, ?)"
    return sql, [query, k], lambda table, metric: [(json.dumps([id for _, id, _ in nearest(table, query, k)]),)]


def function_of_the_index(schema, index, query, k, n):
    sql = f"SELECT faiss_search_with_scores('{schema}', '{index}', ?, ?)"
    return sql, [query, k], lambda table, metric: [
        (json.dumps([list(row[1:]) for row in nearest(table, query, k, metric)]),)
    ]


def table_function(schema, index, query, k, n):
    sql = f"SELECT id, score FROM faiss_search('{schema}', 'docs', ?, ?)"
    return sql, [query, k], lambda table, metric: [row[1:] for row in nearest(table, query, k)]


SEARCHES = [knn, stream, knn_filtered, stream_filtered, scan, point, function_of_the_source,
            function_of_the_index, table_function]


def assert_right(connection, schema="main", query=QUERY, k=5, n=1, index="docs_index", searches=SEARCHES):
    """These searches give what this connection reads. The search comes first: nothing has told the
    connection what others did since its last statement."""
    for search in searches:
        sql, parameters, expected = search(schema, index, query, k, n)
        failure = None
        try:
            found = rows(connection, sql, parameters)
        except sqlite3.OperationalError as error:
            failure = error
        try:
            definition = exists(connection, schema, index)
            if failure and definition and exists(connection, schema, "docs"):
                if "is locked" not in str(failure):
                    raise failure
            if failure:
                continue
            table = source_rows(connection, schema)
        except sqlite3.OperationalError as error:
            if "is locked" not in str(error):
                raise
            continue
        metric = "l2"
        if search not in (function_of_the_source, table_function):
            metric = (re.findall(r"metric=(\w+)", definition[0][0]) or ["l2"])[0]
        right = expected(table, metric)
        assert found == right, f"{sql}: {found}, expected {right} of {table}"


@pytest.fixture
def open_file(tmp_path, connect):
    """Opens docs.db, without waiting for the disk."""
    opened = []

    def open_connection(with_extension=True):
        connection = (connect if with_extension else plain)(tmp_path / "docs.db")
        connection.execute("PRAGMA synchronous = OFF")
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.close()


@pytest.fixture(params=["itself", "another", "plain"])
def two(request, open_file):
    """A connection and the one that writes: itself, another, or one without the extension."""
    connection = open_file()
    return connection, connection if request.param == "itself" else open_file(request.param == "another")


def saved_triggers(connection, schema="main"):
    """What makes the source's triggers again, oldest first."""
    return [
        (name, sql.replace("CREATE TRIGGER ", f"CREATE TRIGGER {schema}.", 1))
        for name, sql in rows(
            connection,
            f"SELECT name, sql FROM {schema}.sqlite_schema WHERE type = 'trigger' AND tbl_name = 'docs'"
            " ORDER BY rowid",
        )
    ]


# --- states that were once answered wrongly -------------------------------------------------------


def make(connection, columns="id INTEGER PRIMARY KEY, embedding BLOB, u, n DEFAULT 1", count=4):
    connection.execute(f"CREATE TABLE docs({columns})")
    for place in range(1, count + 1):
        connection.execute("INSERT INTO docs(rowid, id, embedding) VALUES (?1, ?1, ?2)", [place, vector(0, place, 0)])
    return connection


def add_index(connection, options=""):
    connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs{options})")
    assert_right(connection)


ROWID_IS_NO_COLUMN = "id INTEGER, embedding BLOB, u, n DEFAULT 1"


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("columns", ["id INTEGER PRIMARY KEY, embedding BLOB, u, n DEFAULT 1", ROWID_IS_NO_COLUMN])
def test_triggers_off_and_on_again(two, transaction, columns):
    """From their own texts, so that nothing but the rows differs from before."""
    connection, writer = two
    make(connection, columns)
    add_index(connection)
    for name in ("all", *(name for name, _ in saved_triggers(connection))):
        saved = [each for each in saved_triggers(writer) if name in ("all", each[0])]
        if transaction:
            writer.execute("BEGIN")
        for each, _ in saved:
            writer.execute(f"DROP TRIGGER {each}")
        writer.execute("UPDATE docs SET embedding = ? WHERE rowid = 3", [QUERY])
        writer.execute("DELETE FROM docs WHERE rowid = 1")
        writer.execute("INSERT INTO docs(id, embedding) SELECT max(id) + 1, ? FROM docs", [vector(0, 0, 4)])
        writer.execute("UPDATE docs SET rowid = -rowid")
        for _, sql in saved:
            writer.execute(sql)
        assert_right(connection)
        if transaction:
            writer.execute("COMMIT")
        assert_right(connection)
        writer.execute("UPDATE docs SET rowid = -rowid, embedding = x'0000803F0000000000000000'")
        assert_right(connection)


@pytest.mark.parametrize("transaction", [False, True])
def test_a_source_made_again_with_its_triggers(two, transaction):
    connection, writer = two
    make(connection)
    add_index(connection)
    for place in range(4):
        (table,), saved = rows(writer, "SELECT sql FROM sqlite_schema WHERE name = 'docs'")[0], saved_triggers(writer)
        if transaction:
            writer.execute("BEGIN")
        writer.execute("DROP TABLE docs")
        writer.execute(table)
        for id in range(1, 5):
            writer.execute("INSERT INTO docs(id, embedding) VALUES (?, ?)", [id, vector(0, (id + place) % 4, 0)])
        for _, sql in saved:
            writer.execute(sql)
        assert_right(connection)
        if transaction:
            writer.execute("COMMIT")
        assert_right(connection)


@pytest.mark.parametrize("again", [False, True], ids=["triggers gone", "triggers made again"])
@pytest.mark.parametrize("columns", ["id INTEGER PRIMARY KEY, embedding BLOB, u, n DEFAULT 1", ROWID_IS_NO_COLUMN])
def test_a_table_rebuilt_by_copying(two, again, columns):
    """As programs that alter tables do."""
    connection, writer = two
    make(connection, columns)
    add_index(connection)
    for _ in range(4):
        saved = saved_triggers(writer)
        writer.execute("BEGIN")
        writer.execute(f"CREATE TABLE new_docs({columns})")
        writer.execute("INSERT INTO new_docs SELECT id + 1, embedding, u, n FROM docs ORDER BY id DESC")
        writer.execute("DROP TABLE docs")
        writer.execute("ALTER TABLE new_docs RENAME TO docs")
        for _, sql in saved:
            if again:
                writer.execute(sql)
        writer.execute("COMMIT")
        assert_right(connection)
        writer.execute("UPDATE docs SET embedding = ? WHERE rowid = 2", [QUERY])
        assert_right(connection)


COLUMNS = "id INTEGER PRIMARY KEY, embedding BLOB, n DEFAULT 1, "
ZERO = "x'000000000000000000000000'"
CONFLICTS = {  # columns, then what comes first, an index, and the conflict
    "generated": ("x, g AS (x + 1) UNIQUE", ["UPDATE docs SET x = id"], None,
                  "UPDATE OR REPLACE docs SET x = 3 WHERE id = 1"),
    "generated, stored": ("x, g AS (x + 1) STORED UNIQUE", ["UPDATE docs SET x = id"], None,
                          f"INSERT OR REPLACE INTO docs(id, embedding, x) VALUES (9, {ZERO}, 2)"),
    "partial": ("x DEFAULT 7, y DEFAULT 0", ["UPDATE docs SET y = 1 WHERE id = 2"], "docs(x) WHERE y = 1",
                "UPDATE OR REPLACE docs SET y = 1 WHERE id = 3"),
    "partial by the embedding": (
        "x", ["UPDATE docs SET x = id", "UPDATE docs SET embedding = NULL, x = 2 WHERE id = 3"],
        "docs(x) WHERE embedding IS NOT NULL", f"UPDATE OR REPLACE docs SET embedding = {ZERO} WHERE id = 3",
    ),
    "column and expression": ("x DEFAULT 7, y", ["UPDATE docs SET y = id"], "docs(x, lower(y))",
                              "UPDATE OR REPLACE docs SET y = 2 WHERE id = 3"),
    "expression": ("x", ["UPDATE docs SET x = id"], "docs(abs(x))", "UPDATE OR REPLACE docs SET x = -2 WHERE id = 3"),
    "default": ("x NOT NULL DEFAULT 2", ["UPDATE docs SET x = id"], "docs(x)",
                f"INSERT OR REPLACE INTO docs(id, embedding, x) VALUES (9, {ZERO}, NULL)"),
    "default in a generated column": (
        "x NOT NULL DEFAULT 2, g AS (x + 1)", ["UPDATE docs SET x = id"], "docs(g)",
        f"INSERT OR REPLACE INTO docs(id, embedding, x) VALUES (9, {ZERO}, NULL)",
    ),
    "collation": ("x COLLATE NOCASE UNIQUE", ["UPDATE docs SET x = substr('abcdef', id, 1)"], None,
                  "UPDATE OR REPLACE docs SET x = 'B' WHERE id = 3"),
    "collation of the index": ("x", ["UPDATE docs SET x = substr('abcdef', id, 1)"], "docs(x COLLATE NOCASE)",
                               "UPDATE OR REPLACE docs SET x = 'B' WHERE id = 3"),
    "affinity": ("x INTEGER UNIQUE", ["UPDATE docs SET x = id"], None,
                 "UPDATE OR REPLACE docs SET x = '2' WHERE id = 3"),
    "two columns": ("x DEFAULT 7, y, UNIQUE(x, y)", ["UPDATE docs SET y = id"], None,
                    "UPDATE OR REPLACE docs SET y = 2 WHERE id = 3"),
    "two indexes": ("x UNIQUE, y UNIQUE", ["UPDATE docs SET x = id, y = id"], None,
                    f"INSERT OR REPLACE INTO docs(id, embedding, x, y) VALUES (4, {ZERO}, 2, 3)"),
    "primary key": ("pk TEXT UNIQUE NOT NULL DEFAULT (random())", ["UPDATE docs SET pk = id"], None,
                    "UPDATE OR REPLACE docs SET pk = '2' WHERE id = 3"),
    "embedding": ("x", [], "docs(embedding)",
                  "UPDATE OR REPLACE docs SET embedding = x'000000000000004000000000' WHERE id = 3"),
    "ON CONFLICT REPLACE": ("x UNIQUE ON CONFLICT REPLACE", ["UPDATE docs SET x = id"], None,
                            "UPDATE docs SET x = 2 WHERE id = 3"),
    "rowid": ("x", [], None, "UPDATE OR REPLACE docs SET rowid = 2 WHERE id = 3"),
}


@pytest.mark.parametrize("recursive", [0, 1])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("id", ["id INTEGER PRIMARY KEY", "id INTEGER"])
@pytest.mark.parametrize("columns, first, index, conflict", CONFLICTS.values(), ids=CONFLICTS.keys())
def test_rows_that_a_conflict_replaces(two, id, columns, first, index, conflict, when, recursive):
    """REPLACE deletes rows that no statement names."""
    connection, writer = two
    make(connection, f"{id}, embedding BLOB, n DEFAULT 1, {columns}")
    writer.execute(f"PRAGMA recursive_triggers = {recursive}")
    for statement in first:
        writer.execute(statement)
    if when == "after":
        add_index(connection)
    if index:
        writer.execute(f"CREATE UNIQUE INDEX u ON {index}")
    if when == "before":
        add_index(connection)
    assert_right(connection)
    writer.execute(conflict)
    assert_right(connection)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "trigger, conflict",
    [
        ("BEFORE INSERT ON docs WHEN NEW.id = 9 BEGIN UPDATE docs SET u = NEW.u WHERE id = 2; END",
         "INSERT OR REPLACE INTO docs(id, embedding, u) VALUES (9, x'000000000000000000000000', 60)"),
        ("BEFORE UPDATE OF n ON docs WHEN NEW.id = 1 BEGIN UPDATE docs SET u = 50 WHERE id = 2; END",
         "UPDATE OR REPLACE docs SET u = 50, n = 1 WHERE id = 1"),
        ("BEFORE UPDATE ON docs WHEN NEW.id = 1 AND NEW.u = 50 BEGIN DELETE FROM docs WHERE id = 3; END",
         "UPDATE OR REPLACE docs SET u = 50 WHERE id = 1"),
    ],
)
def test_triggers_that_make_a_conflict(two, trigger, conflict, when):
    """A trigger of the user's may run between the log's look for conflicts and the conflict."""
    connection, writer = two
    make(connection, "id INTEGER PRIMARY KEY, embedding BLOB, u UNIQUE, n DEFAULT 1")
    connection.execute("UPDATE docs SET u = id")
    if when == "after":
        add_index(connection)
    writer.execute(f"CREATE TRIGGER t {trigger}")
    if when == "before":
        add_index(connection)
    assert_right(connection)
    writer.execute(conflict)
    assert_right(connection)


def test_a_vacuum_after_a_schema_change_rolled_back(two):
    """VACUUM gives other rowids, and the schema a count that it had while it was changed."""
    connection, writer = two
    make(connection, ROWID_IS_NO_COLUMN)
    add_index(connection)
    for _ in range(2):
        connection.execute("DELETE FROM docs WHERE rowid = (SELECT min(rowid) FROM docs)")
        assert_right(connection)
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE other(x)")
        assert_right(connection)
        connection.execute("ROLLBACK")
        writer.execute("VACUUM")
        assert_right(connection)


@pytest.mark.parametrize("same_inode", [False, True])
def test_an_older_copy_put_in_place(tmp_path, open_file, same_inode):
    """Whose rowids were others; then the schema's count catches up."""
    connection = make(open_file(), ROWID_IS_NO_COLUMN)
    add_index(connection)
    connection.execute("DELETE FROM docs WHERE rowid = 1")
    connection.close()
    shutil.copyfile(tmp_path / "docs.db", tmp_path / "older.db")
    connection = open_file()
    connection.execute("VACUUM")
    assert_right(connection)
    connection.close()
    if same_inode:
        shutil.copyfile(tmp_path / "older.db", tmp_path / "docs.db")
    else:
        os.replace(tmp_path / "older.db", tmp_path / "docs.db")
    connection = open_file()
    connection.execute("CREATE TABLE other(x)")
    assert_right(connection)


def test_other_files_attached_under_one_name(tmp_path, connect):
    connection = connect()
    for place in (1, 2):
        file = make(connect(tmp_path / f"{place}.db"), count=place + 2)
        file.execute("UPDATE docs SET embedding = ? WHERE id = 1", [vector(place, 0, 0)])
        add_index(file)
        file.close()
    for place in (1, 2, 1, 2):
        connection.execute("ATTACH ? AS other", [str(tmp_path / f"{place}.db")])
        assert_right(connection, "other")
        connection.execute("UPDATE other.docs SET embedding = ? WHERE id = 2", [vector(0, place, 0)])
        assert_right(connection, "other")
        connection.execute("DETACH other")


@pytest.mark.parametrize("how", ["emptied", "shortened in front", "all but its end"])
def test_a_log_that_is_cut(two, how):
    connection, writer = two
    make(connection)
    add_index(connection)
    where = {"emptied": "1", "shortened in front": "seq <= 2",
             "all but its end": "seq < (SELECT max(seq) FROM docs_faiss_log)"}[how]
    for _ in range(3):
        for writes in range(4):
            for place in range(writes):
                writer.execute("UPDATE docs SET embedding = ? WHERE id = ?", [vector(*AXES[place + 5]), writes])
            writer.execute(f"DELETE FROM docs_faiss_log WHERE {where}")
            if writes % 2:
                writer.execute("UPDATE docs SET id = -id WHERE id = 2")
            assert_right(connection)


# --- rows that are appended -----------------------------------------------------------------------
# The log names the first of 16, and the others only as far as they are in the table.


def append(connection, *lengths, first=None):
    """Rows at the end of the table, their vectors as long as these."""
    for place, length in enumerate(lengths):
        rowid = "(SELECT max(rowid) + 1 FROM docs)" if first is None else first + place
        connection.execute(
            f"INSERT INTO docs(rowid, id, embedding) VALUES ({rowid}, {rowid}, ?)", [vector(0, length, 0)]
        )


def entries(connection):
    return rows(connection, "SELECT row, tag % 2 = 0 FROM docs_faiss_log ORDER BY seq")


LAYOUTS = ["id INTEGER PRIMARY KEY, embedding BLOB, u, n DEFAULT 1", ROWID_IS_NO_COLUMN]
layouts = pytest.mark.parametrize("columns", LAYOUTS, ids=["id", "rowid"])


@layouts
def test_what_is_logged_of_appended_rows(open_file, columns):
    connection = make(open_file(), columns)
    add_index(connection)
    append(connection, *range(40))
    assert entries(connection)[1:] == [(5, 1), (21, 1), (37, 1)]
    connection.execute("DELETE FROM docs WHERE rowid = 44")
    append(connection, 1, 1)
    assert entries(connection)[4:] == [(44, 0), (44, 1)]
    connection.execute("DELETE FROM docs WHERE rowid = 10")
    append(connection, 1, first=10)
    append(connection, 1, first=100)
    append(connection, 1, first=99)
    append(connection, 1, first=116)
    assert entries(connection)[6:] == [(10, 0), (10, 0), (100, 1), (99, 0), (116, 1)]
    with pytest.raises(sqlite3.IntegrityError, match="docs.embedding must be NULL or a BLOB of 12 bytes"):
        connection.execute("INSERT INTO docs(id, embedding) VALUES (200, x'00')")
    assert_right(connection)
    assert rows(connection, "PRAGMA integrity_check") == [("ok",)]


FORMER_TRIGGER = (
    "CREATE TRIGGER docs_faiss_insert AFTER INSERT ON docs BEGIN"
    " INSERT INTO docs_faiss_log(row, tag) VALUES (NEW.rowid, random()); END"
)


@layouts
def test_a_source_with_the_trigger_of_another_version(two, columns):
    """It is compared until 'rebuild', whatever the tags in its log."""
    connection, writer = two
    make(connection, columns)
    add_index(connection)
    writer.execute("DROP TRIGGER docs_faiss_insert")
    writer.execute(FORMER_TRIGGER)
    for turn in range(6):
        append(writer, turn)
        assert_right(connection)
    (live,), = rows(connection, "SELECT DISTINCT live FROM faiss_indexes")
    assert live.startswith("no: the trigger docs_faiss_insert does not fit")
    connection.execute("INSERT INTO docs_index(docs_index) VALUES ('rebuild')")
    for turn in range(6):
        append(writer, turn)
        assert_right(connection)
    assert rows(connection, "SELECT DISTINCT live FROM faiss_indexes") == [("yes",)]
    assert len(entries(connection)) == 9


@layouts
@pytest.mark.parametrize("searched", [False, True])
@pytest.mark.parametrize("begun", range(0, 18, 3))
def test_rows_appended_again_after_a_rollback(two, columns, begun, searched):
    """They have the numbers and the entry of others that were rolled back, which a search may have found."""
    connection, writer = two
    make(connection, columns)
    add_index(connection)
    append(writer, *[4] * begun)
    assert_right(connection)
    for turn in range(4):
        writer.execute("BEGIN" if turn % 2 else "SAVEPOINT a")
        writer.execute("SAVEPOINT b")
        append(writer, turn, 2)
        if searched:
            assert_right(connection)
        if turn % 2:
            writer.execute("ROLLBACK TO b")
            append(writer, 8, 1, turn)
            assert_right(connection)
        writer.execute("ROLLBACK" if turn % 2 else "ROLLBACK TO a")
        assert_right(connection)
        if not turn % 2:
            writer.execute("RELEASE a")
        append(writer, turn + 1)
        assert_right(connection)


@layouts
@pytest.mark.parametrize("how", ["a file", "the same inode", "a backup"])
def test_rows_appended_to_an_older_copy(tmp_path, open_file, columns, how):
    """In both the log ends with the same entry, and its run has gone on differently."""
    connection = make(open_file(), columns)
    add_index(connection)
    append(connection, 1, 2)
    copy = plain(tmp_path / "copy.db")
    connection.backup(copy)
    copy.close()
    kept = open_file() if how == "a backup" else None
    for turn in range(6):
        append(connection, *[turn + 3] * (1 + turn % 3))
        assert_right(connection)
        if kept:
            assert_right(kept)
            plain(tmp_path / "copy.db").backup(connection)
        else:
            connection.close()
            if how == "a file":
                (tmp_path / "docs.db").unlink()
            shutil.copyfile(tmp_path / "copy.db", tmp_path / "docs.db")
            connection = open_file()
        if turn % 2:
            assert_right(connection)


@layouts
def test_a_run_whose_rows_change_and_go(two, columns):
    connection, writer = two
    make(connection, columns, 20)
    add_index(connection)
    append(writer, 1, 2, 3)
    for sql in (
        "DELETE FROM docs WHERE rowid > 21", f"REPLACE INTO docs(rowid, id, embedding) VALUES (22, 22, {ZERO})",
        "INSERT INTO docs(rowid, id, embedding) VALUES (23, 23, NULL)",
        f"REPLACE INTO docs(rowid, id, embedding) VALUES (23, 23, {ZERO})",
        f"REPLACE INTO docs(rowid, id, embedding) VALUES (23, 23, x'{QUERY.hex()}')",
        "REPLACE INTO docs(rowid, id, embedding) VALUES (23, 23, NULL)",
        f"INSERT INTO docs(rowid, id, embedding) VALUES (30, 30, {ZERO}), (25, 25, {ZERO}), (-4, -4, {ZERO})",
        "UPDATE docs SET rowid = 24 WHERE rowid = 1", "UPDATE docs SET rowid = rowid + 50 WHERE rowid > 24",
        f"INSERT INTO docs(rowid, id, embedding) VALUES (28, 28, {ZERO}), (81, 81, {ZERO}), (82, 82, {ZERO})",
        "DELETE FROM docs", f"INSERT INTO docs(id, embedding) VALUES (1, {ZERO}), (2, {ZERO})",
    ):
        writer.execute("SAVEPOINT a")
        writer.execute(sql)
        assert_right(connection)
        writer.execute("ROLLBACK TO a")
        assert_right(connection)
        writer.execute(sql)
        assert_right(connection)
        writer.execute("RELEASE a")
        assert_right(connection)


@layouts
def test_runs_at_the_ends_of_the_numbers(two, columns):
    """Behind the largest rowid SQLite draws them by chance."""
    connection, writer = two
    make(connection, columns)
    add_index(connection)
    for rowid in (-(2**63), 2**63 - 20, *range(2**63 - 18, 2**63)):
        append(writer, rowid % 8, first=rowid)
        assert_right(connection)
        writer.execute("SAVEPOINT a")
        writer.execute("DELETE FROM docs WHERE rowid = ?", [rowid])
        assert_right(connection)
        writer.execute("ROLLBACK TO a")
        writer.execute("RELEASE a")
    for length in range(3):
        writer.execute("INSERT INTO docs(embedding) VALUES (?)", [vector(0, length, 0)])
        assert_right(connection)


def test_a_run_in_a_source_with_rows_left_out(two):
    """Which malformed row came instead of which other row."""
    connection, writer = two
    make(connection)
    add_index(connection, ", strict=off")
    for value in (ZERO, "x'00'", "'text'", "3.5", "NULL", ZERO, "x''", f"x'{vector(1, 1, 1).hex()}'"):
        for sql in (f"INSERT INTO docs(id, embedding) VALUES (9, {value})",
                    f"REPLACE INTO docs(id, embedding) VALUES (9, {ZERO})",
                    f"REPLACE INTO docs(id, embedding) VALUES (9, {value})", "DELETE FROM docs WHERE id = 9"):
            writer.execute(sql)
            sound = rows(connection, "SELECT id, embedding FROM docs WHERE typeof(embedding) = 'blob'"
                                     " AND length(embedding) = 12")
            assert rows(connection, "SELECT id, score FROM docs_index(?)", [QUERY]) == oracle.nearest(
                [(id, id, blob) for id, blob in sound], QUERY)


@layouts
def test_transactions_held_open_within_a_run(open_file, columns):
    """Each search for the first time after the run has gone on, or when its rows are others."""
    writer = open_file()
    writer.execute("PRAGMA journal_mode = wal").fetchone()
    make(writer, columns)
    add_index(writer)
    readers = []
    for turn in range(20):
        readers.append(open_file())
        readers[-1].execute("BEGIN")
        rows(readers[-1], "SELECT count(*) FROM docs")
        append(writer, turn % 5)
        if turn % 7 == 6:
            writer.execute("UPDATE docs SET embedding = ? WHERE rowid = 2", [vector(0, turn, 0)])
        assert_right(writer, searches=[knn])
        assert_right(readers[turn // 2], searches=[stream])
    for reader in reversed(readers):
        assert_right(reader)
        reader.execute("COMMIT")
        assert_right(reader, searches=[knn])


# --- any sequence of states -----------------------------------------------------------------------

WITHOUT_EXTENSION = 3
who = st.integers(0, WITHOUT_EXTENSION)
searcher = st.integers(0, WITHOUT_EXTENSION - 1)
keys = st.integers(-2, 12)
vectors = st.sampled_from([*AXES, None])
small = st.none() | st.integers(0, 4)
filters = st.integers(0, 2)
options = st.sampled_from([
    "", ", live=on", ", metric=ip", ", metric=cosine", ", live=off", ", live=off, metric=ip", ", strict=off",
    ", memory=low", ", memory=low, metric=cosine", ", memory=low, metric=ip",
])

SOURCES = {  # columns, and what a rowid is written as
    "id": ("id INTEGER PRIMARY KEY, embedding BLOB, u{}, n INTEGER", "id"),
    "key": ("pk INTEGER PRIMARY KEY, id INTEGER, embedding BLOB, u{}, n INTEGER", "pk, id"),
    "rowid": ("id INTEGER, embedding BLOB, u{}, n INTEGER", "rowid, id"),
}
INDEXES = ["docs(u)", "docs(u) WHERE n = 1", "docs(u, abs(n))", "docs(u) WHERE embedding IS NOT NULL", "docs(abs(u))"]
CHANGES_OF_THE_SCHEMA = [
    "CREATE TABLE {s}.other(x)",
    "DROP TABLE {s}.other",
    "CREATE INDEX {s}.by_n ON docs(n)",
    "DROP INDEX {s}.by_n",
    "DROP INDEX {s}.u",
    "ALTER TABLE {s}.docs ADD COLUMN more DEFAULT 5",
    "ALTER TABLE {s}.docs DROP COLUMN more",
    "ALTER TABLE {s}.docs RENAME TO documents",
    "ALTER TABLE {s}.documents RENAME TO docs",
    "CREATE TRIGGER {s}.own AFTER UPDATE OF u ON docs BEGIN UPDATE docs SET embedding = NULL WHERE id = NEW.u; END",
    "CREATE TRIGGER {s}.before BEFORE INSERT ON docs BEGIN DELETE FROM docs WHERE id = NEW.u; END",
    "DROP TRIGGER {s}.own",
    "DROP TRIGGER {s}.before",
    *("CREATE UNIQUE INDEX {s}.u ON " + index for index in INDEXES),
]
REFUSALS = re.compile(
    r".*is locked|UNIQUE constraint failed|cannot (start a transaction within|commit - no|rollback - no|VACUUM from)"
    r"|no such (savepoint|table|index|trigger|column)|.*already exists|.*already another table or index"
    r"|live=on: |duplicate column name|error in trigger .* no such|destination database is in use"
)


def refuse_to_wait(status, remaining, total):
    """Of a backup, which would try again for ever."""
    if status in (5, 6):  # SQLITE_BUSY, SQLITE_LOCKED
        raise sqlite3.OperationalError("database is locked")


class LiveStates(RuleBasedStateMachine):
    """After each step every connection's searches equal brute force over what that connection reads.

    A step that SQLite refuses (a lock, a transaction in the way, a name taken or gone) is skipped:
    whatever it left behind is a state like any other. Some connections look after each step, others
    only when a rule says so, and at the end.
    """

    journal = "wal"
    padding = 0

    def __init__(self):
        super().__init__()
        self.directory = None
        self.connections = []
        self.schemas = ["main"] * 4
        self.copies = []
        self.turn = 0
        self.failed = False

    # What there is at first

    @initialize(
        source=st.sampled_from(sorted(SOURCES)), unique=st.booleans(), first=options, second=st.none() | options,
        count=st.integers(0, 30), seed=st.integers(0, 100), watchful=st.integers(0, 7), turn=st.integers(0, 8),
    )
    def start(self, source, unique, first, second, count, seed, watchful, turn):
        self.start_with(source, unique, first, second, count, seed, watchful, turn)

    def start_with(self, source, unique, first, second, count, seed, watchful, turn):
        self.columns, self.key = SOURCES[source]
        self.columns = self.columns.format(" UNIQUE" if unique else "")
        self.watchful = [n for n in range(3) if watchful >> n & 1]
        self.turn, self.query, self.k, self.n = turn, self.blob(AXES[seed % len(AXES)]), 5, 1
        self.directory = tempfile.TemporaryDirectory()
        self.path = self.directory.name + "/docs.db"
        connection = self.open("main")
        if self.padding:
            connection.execute("PRAGMA page_size = 65536")
        connection.execute(f"PRAGMA journal_mode = {self.journal}").fetchone()
        chance = random.Random(seed)
        connection.execute("BEGIN")
        connection.execute(f"CREATE TABLE docs({self.columns})")
        for key in range(1, count + 1):
            self.insert_into(connection, "main", key, -key, chance.choice([*AXES, None]), None, chance.randrange(3))
        connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs{first})")
        if second is not None:
            connection.execute(f"CREATE VIRTUAL TABLE docs_second USING faiss(main, docs{second})")
        connection.execute("COMMIT")
        self.connections = [connection, self.open("main"), self.open("main"), self.open("main", plain)]

    def open(self, schema, how=database.connect):
        """None where a lock is in the way."""
        connection = how(self.path if schema == "main" else ":memory:")
        try:
            if schema != "main":
                connection.execute(f"ATTACH ? AS {schema}", [self.path])
            connection.execute(f"PRAGMA {schema}.synchronous = OFF")
        except sqlite3.OperationalError as error:
            connection.close()
            if "is locked" not in str(error):
                raise
            return None
        return connection

    def teardown(self):
        try:
            if self.connections and not self.failed:
                for n in range(3):
                    self.look(n)
        finally:
            for connection in self.connections:
                connection.close()
            if self.directory is not None:
                self.directory.cleanup()

    # How a step is done

    def attempt(self, n, sql, parameters=()):
        """Run it; whether SQLite did."""
        try:
            self.connections[n].execute(sql.replace("{s}", self.schemas[n]), parameters).fetchall()
        except (sqlite3.OperationalError, sqlite3.IntegrityError) as error:
            # No statement of the suite's is running: one in progress would be the extension's.
            if not REFUSALS.match(str(error)) or "statements in progress" in str(error):
                self.failed = True
                raise
            return False
        return True

    def attempt_all(self, n, statements):
        """All or none of them."""
        outermost = not self.connections[n].in_transaction
        if not self.attempt(n, "SAVEPOINT step"):
            return
        if all(self.attempt(n, *each) for each in statements) and self.attempt(n, "RELEASE step"):
            return
        if self.connections[n].in_transaction:
            for sql in ["ROLLBACK"] if outermost else ["ROLLBACK TO step", "RELEASE step"]:
                self.connections[n].execute(sql)

    def blob(self, row):
        return row and vector(*row) + bytes(self.padding)

    def names(self, key, id):
        return [key] if self.key == "id" else [key, id]

    def insert_into(self, connection, schema, key, id, row, u, n, verb="INSERT", tail=""):
        values = [*self.names(key, id), self.blob(row), u, n]
        connection.execute(
            f"{verb} INTO {schema}.docs({self.key}, embedding, u, n) VALUES ({', '.join('?' * len(values))}) {tail}",
            values,
        )

    def insertion(self, key, id, row, u, n, verb="INSERT", tail=""):
        values = [*self.names(key, id), self.blob(row), u, n]
        marks = ", ".join("?" * len(values))
        return f"{verb} INTO {{s}}.docs({self.key}, embedding, u, n) VALUES ({marks}) {tail}", values

    def triggers(self, n):
        try:
            return saved_triggers(self.connections[n], self.schemas[n])
        except sqlite3.OperationalError as error:
            assert "is locked" in str(error)
            return []

    # Rows

    @rule(n=who, key=keys, id=keys, row=vectors, u=small, filter=filters)
    def insert(self, n, key, id, row, u, filter):
        self.attempt(n, *self.insertion(key, id, row, u, filter))

    @rule(n=who, key=keys, id=keys, row=vectors, u=small, filter=filters)
    def insert_or_replace(self, n, key, id, row, u, filter):
        self.attempt(n, *self.insertion(key, id, row, u, filter, "INSERT OR REPLACE"))

    @rule(n=who, key=keys, id=keys, row=vectors, u=small, filter=filters)
    def upsert(self, n, key, id, row, u, filter):
        tail = "ON CONFLICT DO UPDATE SET embedding = excluded.embedding, id = excluded.id"
        self.attempt(n, *self.insertion(key, id, row, u, filter, tail=tail))

    @rule(n=who, id=keys, added=st.lists(vectors, min_size=1, max_size=20), end=st.sampled_from(["", "", "in vain"]))
    def append(self, n, id, added, end):
        """Rows at the end of the table, which are not logged one by one."""
        if end and not self.attempt(n, "SAVEPOINT vain"):
            return
        for row in added:
            self.attempt(n, "INSERT INTO {s}.docs(rowid, id, embedding, n) SELECT coalesce(max(rowid), 0) + 1,"
                            " coalesce(max(rowid), 0) + 1, ?, 1 FROM {s}.docs", [self.blob(row)])
        if end and self.connections[n].in_transaction:
            if n != WITHOUT_EXTENSION:
                self.look(n)
            self.attempt(n, "ROLLBACK TO vain")
            self.attempt(n, "RELEASE vain")

    @rule(n=who, key=keys, row=vectors)
    def update_embedding(self, n, key, row):
        self.attempt(n, "UPDATE {s}.docs SET embedding = ? WHERE rowid = ?", [self.blob(row), key])

    @rule(n=who, key=keys, id=keys)
    def update_id(self, n, key, id):
        self.attempt(n, "UPDATE {s}.docs SET id = ? WHERE rowid = ?", [id, key])

    @rule(n=who, key=keys, to=keys, verb=st.sampled_from(["UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"]))
    def update_rowid(self, n, key, to, verb):
        self.attempt(n, verb + " {s}.docs SET rowid = ? WHERE rowid = ?", [to, key])

    @rule(n=who, key=keys, u=small, filter=filters)
    def update_or_replace(self, n, key, u, filter):
        self.attempt(n, "UPDATE OR REPLACE {s}.docs SET u = ?, n = ? WHERE rowid = ?", [u, filter, key])

    @rule(n=who, key=keys)
    def delete(self, n, key):
        self.attempt(n, "DELETE FROM {s}.docs WHERE rowid = ?", [key])

    @rule(
        n=who,
        sql=st.sampled_from([
            "INSERT INTO {s}.docs(id, embedding, n) SELECT id + 20, embedding, n FROM {s}.docs WHERE id < 3",
            "UPDATE {s}.docs SET rowid = -rowid",
            "UPDATE {s}.docs SET id = id + 30 WHERE n = 1",
            "UPDATE {s}.docs SET n = (n + 1) % 3",
            "UPDATE {s}.docs SET embedding = NULL WHERE n = 2",
            "UPDATE {s}.docs SET embedding = (SELECT embedding FROM {s}.docs d WHERE d.rowid = 5 - docs.rowid)"
            " WHERE rowid IN (1, 2, 3, 4)",
            "DELETE FROM {s}.docs WHERE rowid % 3 = 0",
            "DELETE FROM {s}.docs",
        ]),
    )
    def write_many(self, n, sql):
        self.attempt(n, sql)

    @rule(n=who, key=keys, changed=st.lists(vectors, min_size=2, max_size=8))
    def executemany(self, n, key, changed):
        try:
            self.connections[n].executemany(
                f"UPDATE {self.schemas[n]}.docs SET embedding = ? WHERE rowid = ?",
                [(self.blob(row), key + place) for place, row in enumerate(changed)],
            )
        except sqlite3.OperationalError as error:
            assert REFUSALS.match(str(error)), error

    # Transactions

    @rule(n=who, kind=st.sampled_from(["", "IMMEDIATE"]))
    def begin(self, n, kind):
        self.attempt(n, f"BEGIN {kind}")

    @rule(n=who)
    def begin_and_read(self, n):
        if self.attempt(n, "BEGIN"):
            self.attempt(n, "SELECT count(*) FROM {s}.docs")

    def in_transaction(self):
        return [n for n, connection in enumerate(self.connections) if connection.in_transaction]

    @precondition(in_transaction)
    @rule(which=who, sql=st.sampled_from([
        "COMMIT", "COMMIT", "ROLLBACK", "ROLLBACK TO a", "ROLLBACK TO b", "RELEASE a",
    ]))
    def end(self, which, sql):
        begun = self.in_transaction()
        self.attempt(begun[which % len(begun)], sql)

    @rule(n=who, name=st.sampled_from(["a", "b"]))
    def savepoint(self, n, name):
        self.attempt(n, f"SAVEPOINT {name}")

    # The file

    @rule(n=who, mode=st.sampled_from(["PASSIVE", "RESTART", "TRUNCATE"]))
    def checkpoint(self, n, mode):
        self.attempt(n, f"PRAGMA {{s}}.wal_checkpoint({mode})")

    @rule(n=who)
    def vacuum(self, n):
        self.attempt(n, "VACUUM {s}")

    @rule(n=searcher)
    def attach_again(self, n):
        """The file once more, under another name of the same connection."""
        connection = self.connections[n]
        if connection.in_transaction or not self.attempt(n, "ATTACH ? AS again", [self.path]):
            return
        self.look(n, "again")
        connection.execute("DETACH again")

    @rule(n=searcher, schema=st.sampled_from(["main", "other"]))
    def reopen(self, n, schema):
        opened = self.open(schema)
        if opened:
            self.connections[n].close()
            self.connections[n], self.schemas[n] = opened, schema

    @rule()
    def copy(self):
        """Something to go back to."""
        if len(self.copies) == 3 or self.connections[WITHOUT_EXTENSION].in_transaction:
            return
        copy = plain(f"{self.directory.name}/copy{len(self.copies)}.db")
        try:
            self.connections[WITHOUT_EXTENSION].backup(copy, progress=refuse_to_wait)
            self.copies.append(f"{self.directory.name}/copy{len(self.copies)}.db")
        except sqlite3.OperationalError as error:
            assert "is locked" in str(error)
        copy.close()

    @precondition(lambda self: self.copies)
    @rule(n=who, which=st.integers(0, 2))
    def go_back_by_a_backup(self, n, which):
        if self.connections[n].in_transaction or self.schemas[n] != "main":
            return
        copy = plain(self.copies[which % len(self.copies)])
        try:
            copy.backup(self.connections[n], progress=refuse_to_wait)
        except sqlite3.OperationalError as error:
            assert REFUSALS.match(str(error)), error
        copy.close()

    @precondition(lambda self: self.copies)
    @rule(which=st.integers(0, 2), same_inode=st.booleans())
    def go_back_by_a_file(self, which, same_inode):
        for connection in self.connections:
            connection.close()
        for suffix in ("-wal", "-shm", "-journal"):
            if os.path.exists(self.path + suffix):
                os.remove(self.path + suffix)
        if not same_inode:
            os.remove(self.path)
        shutil.copyfile(self.copies[which % len(self.copies)], self.path)
        self.schemas = ["main"] * 4
        self.connections = [self.open("main", how) for how in [database.connect] * 3 + [plain]]

    # The schema

    @rule(n=who, again=st.booleans(), keep=st.booleans(), by=st.integers(0, 1))
    def rebuild_by_copying(self, n, again, keep, by):
        """The procedure by which programs alter tables; its rows may get other ids and rowids."""
        saved = self.triggers(n) if again else []
        to, of = ("", "") if not keep and self.key != "id" else (self.key.split(", ")[0] + ", ",) * 2
        if of == "id, ":
            to, of = "", ""
        self.attempt_all(n, [
            (f"CREATE TABLE {{s}}.new_docs({self.columns})",),
            (f"INSERT INTO {{s}}.new_docs({to}id, embedding, u, n)"
             f" SELECT {of}id + {by}, embedding, u, n FROM {{s}}.docs",),
            ("DROP TABLE {s}.docs",),
            ("ALTER TABLE {s}.new_docs RENAME TO docs",),
            *((sql,) for _, sql in saved),
        ])

    @rule(n=who, again=st.booleans(), rows=st.lists(st.tuples(keys, keys, vectors), max_size=5))
    def make_again(self, n, again, rows):
        saved = self.triggers(n) if again else []
        self.attempt_all(n, [
            ("DROP TABLE IF EXISTS {s}.docs",),
            (f"CREATE TABLE {{s}}.docs({self.columns})",),
            *(self.insertion(key, id, row, None, 1, "INSERT OR IGNORE") for key, id, row in rows),
            *((sql,) for _, sql in saved),
        ])

    @rule(n=who, which=st.integers(1, 63), again=st.booleans(), together=st.booleans(), key=keys, to=keys, row=vectors)
    def write_without_triggers(self, n, which, again, together, key, to, row):
        saved = [each for place, each in enumerate(self.triggers(n)) if which >> place & 1]
        statements = [
            *((f"DROP TRIGGER {{s}}.{name}",) for name, _ in saved),
            ("UPDATE {s}.docs SET embedding = ? WHERE rowid = ?", [self.blob(row), key]),
            ("UPDATE OR IGNORE {s}.docs SET rowid = ? WHERE rowid = ?", [to, key]),
            self.insertion(key, to, row, None, 1, "INSERT OR IGNORE"),
            ("DELETE FROM {s}.docs WHERE rowid = ?", [to + 1]),
            *((sql,) for _, sql in saved if again),
        ]
        if together:
            self.attempt_all(n, statements)
        else:
            for each in statements:
                self.attempt(n, *each)

    @rule(n=who, sql=st.sampled_from(CHANGES_OF_THE_SCHEMA))
    def change_the_schema(self, n, sql):
        self.attempt(n, sql)

    @rule(n=searcher, sql=st.sampled_from(CHANGES_OF_THE_SCHEMA), searches=st.booleans(), key=keys, row=vectors)
    def change_the_schema_in_vain(self, n, sql, searches, key, row):
        if not self.attempt(n, "SAVEPOINT vain"):
            return
        self.attempt(n, sql)
        self.attempt(n, "UPDATE {s}.docs SET embedding = ? WHERE rowid = ?", [self.blob(row), key])
        if searches:
            self.look(n)
        if self.connections[n].in_transaction:
            self.connections[n].execute("ROLLBACK TO vain")
            self.attempt(n, "RELEASE vain")

    # The index and its log

    @rule(n=searcher, name=st.sampled_from(["docs_index", "docs_second"]), options=options)
    def make_the_index(self, n, name, options):
        self.attempt(n, f"CREATE VIRTUAL TABLE {{s}}.{name} USING faiss(main, docs{options})")

    @rule(n=searcher, name=st.sampled_from(["docs_index", "docs_second"]))
    def drop_the_index(self, n, name):
        self.attempt(n, f"DROP TABLE {{s}}.{name}")

    @rule(n=searcher, name=st.sampled_from(["docs_index", "docs_second"]),
          command=st.sampled_from(["rebuild", "optimize", "integrity-check"]))
    def command(self, n, name, command):
        self.attempt(n, f"INSERT INTO {{s}}.{name}({name}) VALUES ('{command}')")

    @rule(n=who, sql=st.sampled_from([
        "DELETE FROM {s}.docs_faiss_log",
        "DELETE FROM {s}.docs_faiss_log WHERE seq < (SELECT max(seq) - 3 FROM {s}.docs_faiss_log)",
        "DROP TABLE {s}.docs_faiss_log",
    ]))
    def cut_the_log(self, n, sql):
        self.attempt(n, sql)

    # Searches

    @rule(query=st.sampled_from(AXES), k=st.integers(1, 40), filter=filters)
    def ask_something_else(self, query, k, filter):
        self.query, self.k, self.n = self.blob(query), k, filter

    @rule(n=searcher)
    def look_again(self, n):
        self.look(n)

    def look(self, n, schema=None):
        """Two of the ways to search."""
        self.turn += 1
        searches = [SEARCHES[self.turn % len(SEARCHES)], SEARCHES[self.turn * 4 % len(SEARCHES)]]
        try:
            for index in ("docs_index", "docs_second"):
                assert_right(
                    self.connections[n], schema or self.schemas[n], self.query, self.k, self.n, index, searches
                )
        except Exception:
            self.failed = True
            raise

    @precondition(lambda self: self.connections)
    @invariant()
    def the_watchful_see_their_own_snapshots(self):
        for n in self.watchful:
            self.look(n)


class LiveStatesInWal(LiveStates):
    journal = "wal"


class LiveStatesWithRollbackJournal(LiveStates):
    journal = "delete"


class LiveStatesOfManySegments(LiveStates):
    """Vectors so long that 64 of them fill a segment."""

    padding = 4 * 16384 - 12

    @initialize(
        source=st.sampled_from(sorted(SOURCES)), unique=st.booleans(), first=options,
        count=st.integers(130, 300), seed=st.integers(0, 100), watchful=st.integers(0, 7), turn=st.integers(0, 8),
    )
    def start(self, source, unique, first, count, seed, watchful, turn):
        self.start_with(source, unique, first, None, count, seed, watchful, turn)

    @rule(n=who, low=st.integers(-10, 300), length=st.integers(1, 120), row=vectors)
    def update_a_range(self, n, low, length, row):
        self.attempt(n, "UPDATE {s}.docs SET embedding = ? WHERE rowid BETWEEN ? AND ?",
                     [self.blob(row), low, low + length])

    @rule(n=who, low=st.integers(-10, 300), length=st.integers(1, 120))
    def delete_a_range(self, n, low, length):
        self.attempt(n, "DELETE FROM {s}.docs WHERE rowid BETWEEN ? AND ?", [low, low + length])

    @rule(n=who, low=st.integers(1, 300), to=st.sampled_from([-400, 400]), length=st.integers(1, 120))
    def move_a_range(self, n, low, to, length):
        self.attempt(n, "UPDATE {s}.docs SET rowid = rowid + ? WHERE rowid BETWEEN ? AND ?", [to, low, low + length])


for machine in (LiveStatesInWal, LiveStatesWithRollbackJournal):
    machine.TestCase.settings = settings(max_examples=RUNS, stateful_step_count=STEPS)
LiveStatesOfManySegments.TestCase.settings = settings(max_examples=LARGE_RUNS, stateful_step_count=LARGE_STEPS)

TestLiveStatesInWal = LiveStatesInWal.TestCase
TestLiveStatesWithRollbackJournal = LiveStatesWithRollbackJournal.TestCase
TestLiveStatesOfManySegments = LiveStatesOfManySegments.TestCase


# --- every snapshot in which a connection may search for the first time ---------------------------

HISTORY = [
    "INSERT OR REPLACE INTO docs(id, embedding) VALUES (50, {new})",
    "UPDATE docs SET embedding = {new} WHERE id = 2",
    "DELETE FROM docs WHERE id = 3",
    "UPDATE docs SET id = 60 WHERE id = 4",
    "UPDATE docs SET rowid = rowid + 100 WHERE rowid < 3",
    "INSERT OR REPLACE INTO docs(id, embedding, u) VALUES (70, {new}, 1)",
    "UPDATE docs SET embedding = NULL WHERE id = 50",
    "INSERT OR IGNORE INTO docs(id, embedding) SELECT id + 1000, embedding FROM docs",
]
AFTERWARDS = {
    "nothing": [],
    "optimize": ["INSERT INTO docs_index(docs_index) VALUES ('optimize')"],
    "rebuild": ["INSERT INTO docs_index(docs_index) VALUES ('rebuild')"],
    "many changes": [f"UPDATE docs SET embedding = x'{vector(*row).hex()}' WHERE rowid % 19 = {place}"
                     for place, row in enumerate(AXES)],
    "delete all": ["DELETE FROM docs"],
    "a schema change": ["ALTER TABLE docs ADD COLUMN more", "UPDATE docs SET embedding = NULL WHERE id = 1"],
    "another index": ["CREATE UNIQUE INDEX more ON docs(u)", "INSERT OR REPLACE INTO docs(id, u) VALUES (80, 1)"],
    "an emptied log": ["DELETE FROM docs_faiss_log", "UPDATE docs SET embedding = {new} WHERE id = 1"],
    "a checkpoint": ["PRAGMA wal_checkpoint(PASSIVE)", "UPDATE docs SET embedding = {new} WHERE id = 1"],
    "the index dropped": ["DROP TABLE docs_index", "UPDATE docs SET embedding = {new} WHERE id = 1"],
    "the index made again": ["DROP TABLE docs_index", "UPDATE docs SET embedding = {new} WHERE id = 1",
                             "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)"],
    "the source rebuilt": ["CREATE TABLE new_docs AS SELECT * FROM docs", "DROP TABLE docs",
                           "ALTER TABLE new_docs RENAME TO docs"],
}
NEW = f"x'{vector(0, 2, 0).hex()}'"


@pytest.mark.parametrize("warm", [False, True], ids=["first search", "searched before"])
@pytest.mark.parametrize("id", ["id INTEGER PRIMARY KEY", "id INTEGER"])
@pytest.mark.parametrize("afterwards", AFTERWARDS.values(), ids=AFTERWARDS.keys())
def test_a_transaction_held_open_at_each_position_of_the_log(open_file, afterwards, id, warm):
    """Opened by reading; then another commits on and searches, and the old one searches for the first time."""
    writer = open_file()
    writer.execute("PRAGMA journal_mode = wal").fetchone()
    make(writer, f"{id}, embedding BLOB, u UNIQUE, n DEFAULT 1", 40)
    writer.execute("UPDATE docs SET u = id WHERE id < 3")
    add_index(writer)
    old = []
    for step, sql in enumerate([*HISTORY, *HISTORY[::-1], *afterwards, "SELECT 1"]):
        reader = open_file()
        if warm:
            assert_right(reader, searches=SEARCHES[step % 9 :][:1])
        reader.execute("BEGIN")
        table = rows(reader, "SELECT rowid, id, embedding FROM docs") if exists(reader, "main", "docs") else None
        old.append((reader, table))
        writer.execute(sql.replace("{new}", NEW))
        assert_right(writer, searches=SEARCHES[step % 9 :][:1])
    order = list(enumerate(old))
    random.Random(len(afterwards)).shuffle(order)
    for turn in range(2):
        for place, (reader, table) in order:
            assert_right(reader, searches=[SEARCHES[(place + turn) % 9], SEARCHES[(place + turn * 4 + 1) % 9]])
            if table is not None:
                assert rows(reader, "SELECT rowid, id, embedding FROM docs") == table
        assert_right(writer)
    for _, (reader, _) in order:
        reader.execute("COMMIT")
        assert_right(reader)


@pytest.mark.parametrize("position", range(len(HISTORY) + 1))
def test_a_transaction_older_than_all_that_is_kept(open_file, position):
    """So much is committed and searched after it that no version of its state is left."""
    writer, reader = open_file(), open_file()
    writer.execute("PRAGMA journal_mode = wal").fetchone()
    make(writer, "id INTEGER PRIMARY KEY, embedding BLOB, u UNIQUE, n DEFAULT 1", 40)
    add_index(writer)
    for sql in HISTORY[:position]:
        writer.execute(sql.replace("{new}", NEW))
        assert_right(writer, searches=[knn])
    reader.execute("BEGIN")
    table = rows(reader, "SELECT rowid, id, embedding FROM docs")
    for step in range(60):
        row = vector(*AXES[step % len(AXES)])
        writer.execute("UPDATE docs SET embedding = ? WHERE id % 7 = ?", [row, step % 7])
        if step % 20 == 19:
            writer.execute("INSERT INTO docs_index(docs_index) VALUES ('optimize')")
        assert_right(writer, searches=[knn])
    assert_right(reader)
    assert rows(reader, "SELECT rowid, id, embedding FROM docs") == table
    assert_right(writer)
    reader.execute("COMMIT")
    assert_right(reader)


# --- searches within a write ----------------------------------------------------------------------

# Two ways to search for the nearest to {q}, and brute force by the same statement at the same moment.
BY_INDEX = "json(faiss_search('main', 'docs', {q}, 5))"
BY_TABLE = "(SELECT json_group_array(id) FROM (SELECT id FROM {table} WHERE embedding MATCH {q} AND k = 5))"
BY_FORCE = ("(SELECT json_group_array(id) FROM (SELECT s.id FROM docs AS s WHERE s.embedding IS NOT NULL"
            " ORDER BY faiss_distance(s.embedding, {q}), s.rowid LIMIT 5))")

WRITES = [
    f"INSERT INTO docs(id, embedding, u) VALUES (30, {NEW}, 30)",
    "INSERT INTO docs(id, embedding) SELECT id + 100, embedding FROM docs",
    f"UPDATE docs SET embedding = {NEW} WHERE id = 2",
    f"UPDATE docs SET embedding = {NEW}, id = id + 200 WHERE rowid < 4",
    "UPDATE docs SET embedding = (SELECT s.embedding FROM docs AS s WHERE s.rowid = 8 - docs.rowid)"
    " WHERE rowid BETWEEN 1 AND 7",
    "UPDATE docs SET embedding = NULL WHERE rowid % 5 = 0",
    "UPDATE docs SET rowid = rowid + 1000 WHERE rowid % 2",
    "UPDATE docs SET u = NULL",
    "UPDATE docs SET u = rowid % 40",
    "DELETE FROM docs WHERE rowid % 3 = 0",
    f"INSERT OR REPLACE INTO docs(id, embedding, u) VALUES (5, {NEW}, 1), (6, {NEW}, 2), (5, {ZERO}, 4)",
    "UPDATE OR REPLACE docs SET u = 1 WHERE rowid IN (SELECT rowid FROM docs LIMIT 5)",
    f"INSERT INTO docs(id, embedding, u) VALUES (7, {NEW}, 1) ON CONFLICT DO UPDATE SET embedding = {ZERO}",
    "DELETE FROM docs",
    f"INSERT INTO docs(id, embedding) VALUES (1, {NEW}), (2, {ZERO}), (3, {NEW})",
]
OWN_TRANSACTIONS = {
    "autocommit": ([], []),
    "transaction": (["BEGIN"], ["COMMIT"]),
    "savepoint": (["BEGIN", "SAVEPOINT a"], ["RELEASE a", "COMMIT"]),
    "rolled back": (["BEGIN"], ["ROLLBACK"]),
    "savepoint rolled back": (["BEGIN", f"UPDATE docs SET embedding = {ZERO} WHERE rowid = 6", "SAVEPOINT a"],
                              ["ROLLBACK TO a", "COMMIT"]),
}


def made_for_writes(open_file, columns, index="before", triggers=()):
    connection = open_file()
    make(connection, columns, 20)
    connection.execute("UPDATE docs SET u = rowid, embedding = CASE WHEN rowid % 4 THEN embedding ELSE ? END", [QUERY])
    connection.execute("CREATE TABLE heard(found, found_in_table, expected)")
    if index == "before":
        add_index(connection)
    for sql in triggers:
        connection.execute(sql)
    if index == "after":
        add_index(connection)
    return connection


def assert_heard(connection, table):
    """How many times a trigger has asked, and rightly been answered."""
    heard = rows(connection, f"SELECT * FROM {table}")
    for found, found_in_table, expected in heard:
        assert found == expected
        assert found_in_table == expected
    connection.execute(f"DELETE FROM {table}")
    return len(heard)


both_sources = pytest.mark.parametrize(
    "columns",
    ["id INTEGER PRIMARY KEY, embedding BLOB, u, n DEFAULT 1", ROWID_IS_NO_COLUMN.replace("u,", "u UNIQUE,")],
    ids=["id", "rowid and UNIQUE"],
)


@pytest.mark.parametrize("transaction", OWN_TRANSACTIONS.values(), ids=OWN_TRANSACTIONS.keys())
@pytest.mark.parametrize("index", ["before", "after"])
@pytest.mark.parametrize("schema", ["main", "temp"])
@both_sources
def test_triggers_that_search(open_file, columns, schema, index, transaction):
    """Before and after each kind of change, made before or after the log's own triggers."""
    triggers = ["CREATE TEMP TABLE told(found, found_in_table, expected)"]
    told = "heard" if schema == "main" else "told"
    for time in ("BEFORE", "AFTER"):
        for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("UPDATE", "OLD"), ("DELETE", "OLD")):
            ask = ", ".join((BY_INDEX, BY_TABLE, BY_FORCE)).format(
                q=f"coalesce({row}.embedding, {ZERO})", table="docs_index"
            )
            triggers.append(f"CREATE TRIGGER {schema}.{time}_{event}_{row} {time} {event} ON main.docs BEGIN"
                            f" INSERT INTO {told} SELECT {ask}; END".replace("ON main.docs", "ON docs"))
    connection = made_for_writes(open_file, columns, index, triggers)
    other, heard = open_file(), 0
    begin, end = transaction
    for write in WRITES:
        for sql in begin:
            connection.execute(sql)
        try:
            connection.execute(write)
        except sqlite3.IntegrityError as error:
            assert "UNIQUE" in str(error)
        heard += assert_heard(connection, told)
        assert_right(connection)
        for sql in end:
            connection.execute(sql)
        assert_right(connection)
        assert_right(other)
        connection.execute(f"DELETE FROM {told}")
        if "ROLLBACK" in str(end) and "UNIQUE" not in columns:
            connection.execute(write)
    assert heard > 100


@pytest.mark.parametrize("transaction", OWN_TRANSACTIONS.values(), ids=OWN_TRANSACTIONS.keys())
@pytest.mark.parametrize("time", ["BEFORE", "AFTER"])
@pytest.mark.parametrize("index", ["before", "after"])
@both_sources
def test_triggers_that_optimize(open_file, columns, index, time, transaction):
    """Between a change and its entry: what the command makes is of no state that has a name."""
    triggers = [f"CREATE TRIGGER t{place} {time} {event} ON docs BEGIN"
                " INSERT INTO docs_index(docs_index) VALUES ('optimize'); END"
                for place, event in enumerate(("INSERT", "UPDATE", "DELETE"))]
    connection = made_for_writes(open_file, columns, index, triggers)
    other = open_file()
    begin, end = transaction
    for write in WRITES:
        for sql in (*begin, write, *end):
            try:
                connection.execute(sql)
            except sqlite3.IntegrityError as error:
                assert "UNIQUE" in str(error)
            if sql not in begin:
                assert_right(connection)
        assert_right(other)
        if "ROLLBACK" in str(end):
            connection.execute("DELETE FROM docs WHERE rowid = (SELECT max(rowid) FROM docs)")


@pytest.mark.parametrize("transaction", OWN_TRANSACTIONS.values(), ids=OWN_TRANSACTIONS.keys())
@both_sources
def test_statements_that_search(open_file, columns, transaction):
    """In their expressions and in RETURNING, while they write what is searched."""
    connection, other = made_for_writes(open_file, columns), open_file()
    connection.execute("ALTER TABLE docs ADD COLUMN found")
    connection.execute("ALTER TABLE docs ADD COLUMN expected")
    begin, end = transaction

    def brute_force(query):
        return json.dumps([id for _, id, _ in nearest(source_rows(connection, "main"), query, 5)])

    connection.create_function("brute_force", 1, brute_force)
    found, force = (f"{name}coalesce(embedding, {ZERO}){end}"
                    for name, end in (("faiss_search('main', 'docs', ", ", 5)"), ("brute_force(", ")")))
    for write in [
        f"UPDATE docs SET found = {found}, expected = {force}",
        f"UPDATE docs SET embedding = {NEW}, found = {found}, expected = {force} WHERE rowid % 2",
        f"UPDATE docs SET id = id + 300, found = {found}, expected = {force} WHERE rowid % 3 = 0",
        f"UPDATE docs SET rowid = rowid + 300, found = {found}, expected = {force} WHERE rowid % 3 = 1",
        f"INSERT INTO docs(id, embedding, found, expected) SELECT id + 600, embedding, {found}, {force} FROM docs",
        f"UPDATE docs SET embedding = NULL, found = {found}, expected = {force} WHERE rowid % 7 = 0",
        f"INSERT OR REPLACE INTO docs(id, embedding, u, found, expected)"
        f" SELECT id + 1, embedding, u, {found}, {force} FROM docs WHERE rowid % 4 = 0",
    ]:
        for sql in begin:
            connection.execute(sql)
        connection.execute(write)
        for sql in [None, *end]:
            if sql:
                connection.execute(sql)
            assert not rows(connection, "SELECT found, expected FROM docs WHERE found IS NOT expected")
            assert_right(connection)
            assert_right(other)
        if "ROLLBACK" in str(end):
            connection.execute(write)
    for write in WRITES:
        for sql in begin:
            connection.execute(sql)
        try:
            answered = rows(connection, f"{write} RETURNING {found}, {force}")
        except sqlite3.IntegrityError as error:
            assert "UNIQUE" in str(error)
        else:
            assert all(one == another for one, another in answered)
        assert_right(connection)
        for sql in end:
            connection.execute(sql)
        assert_right(connection)
        assert_right(other)


@both_sources
def test_savepoints_in_savepoints(open_file, columns):
    """Every write, on top of all that was undone before it."""
    connection, other = made_for_writes(open_file, columns), open_file()
    for depth in range(1, 4):
        connection.execute("BEGIN")
        for place, write in enumerate(WRITES):
            names = [f"s{each}" for each in range(depth)]
            for name in names:
                connection.execute(f"SAVEPOINT {name}")
                try:
                    connection.execute(WRITES[(place * 5 + depth) % len(WRITES)])
                    connection.execute(write)
                except sqlite3.IntegrityError as error:
                    assert "UNIQUE" in str(error)
                assert_right(connection, searches=[SEARCHES[place % 9]])
            for name in reversed(names):
                connection.execute(f"ROLLBACK TO {name}" if place % 3 else f"RELEASE {name}")
                assert_right(connection, searches=[SEARCHES[place * 4 % 9]])
                if place % 3:
                    connection.execute(f"RELEASE {name}")
            assert_right(other, searches=[SEARCHES[place % 9]])
        connection.execute("COMMIT" if depth % 2 else "ROLLBACK")
        assert_right(connection)
        assert_right(other)


@pytest.mark.parametrize("transaction", [False, True])
@both_sources
def test_a_cursor_open_while_its_own_connection_writes(open_file, columns, transaction):
    """It keeps the answers it has found; searches that begin later see what was written."""
    connection, other = made_for_writes(open_file, columns), open_file()
    for write in WRITES:
        if transaction:
            connection.execute("BEGIN")
        table = source_rows(connection, "main")
        cursors = [connection.execute("SELECT rowid, score FROM docs_index(?)", [QUERY]) for _ in range(2)]
        found = [cursor.fetchmany(1) for cursor in cursors]
        try:
            connection.execute(write)
        except sqlite3.IntegrityError as error:
            assert "UNIQUE" in str(error)
        assert_right(connection)
        right = [(rowid, score) for rowid, _, score in nearest(table, QUERY)]
        assert found[0] + cursors[0].fetchall() == right
        assert_right(connection)
        if transaction:
            connection.execute("COMMIT")
        assert found[1] + cursors[1].fetchall() == right
        assert_right(connection)
        assert_right(other)


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_foreign_keys_that_change_rows(two, action):
    """No statement names the rows of docs that change."""
    connection, writer = two
    connection.execute("CREATE TABLE parent(id INTEGER PRIMARY KEY, vector BLOB UNIQUE)")
    for place, row in enumerate(AXES):
        connection.execute("INSERT INTO parent VALUES (?, ?)", [place, vector(*row)])
    connection.execute(
        f"CREATE TABLE docs(id REFERENCES parent(id) ON DELETE {action} ON UPDATE {action}, n DEFAULT 1,"
        f" embedding BLOB REFERENCES parent(vector) ON DELETE {action} ON UPDATE {action})"
    )
    for _ in range(2):
        connection.execute("INSERT INTO docs(id, embedding) SELECT id, vector FROM parent")
    add_index(connection)
    writer.execute("PRAGMA foreign_keys = ON")
    for statement in (
        "UPDATE parent SET id = id + 100 WHERE id > 15",
        "DELETE FROM parent WHERE id = 3",
        f"UPDATE parent SET vector = x'{vector(8, 0, 0).hex()}' WHERE id = 5",
        "DELETE FROM parent WHERE id > 10",
        "DELETE FROM parent",
    ):
        for end in ("ROLLBACK", "COMMIT"):
            writer.execute("BEGIN")
            writer.execute(statement)
            assert_right(connection)
            writer.execute(end)
            assert_right(connection)
