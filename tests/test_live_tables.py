"""Live tables as objects of a schema: what is made for them, what goes with them, and where they can be."""

import sqlite3

import pytest

import database
import oracle
from database import column, plain, rows, scalar, vector
from test_live import (
    NEW, QUERY, TRIGGERS, WRITES, assert_true, blob, docs_bytes, last_entry, live, logging, objects, path
)

__all__ = ["docs_bytes", "path"]  # fixtures


# --- making, dropping, renaming -------------------------------------------------------------------


def test_what_is_made_and_what_goes(path, connect):
    connection = connect(path)
    assert objects(connection) == {"docs", "docs_index", "docs_index_config", "docs_faiss_log", *TRIGGERS}
    connection.execute("CREATE VIRTUAL TABLE second USING faiss(main, docs, metric=ip)")
    assert objects(connection) == {"docs", "docs_index", "docs_index_config", "second", "second_config", "docs_faiss_log", *TRIGGERS}
    assert_true(connection)
    connection.execute("DROP TABLE docs_index")
    assert objects(connection) == {"docs", "second", "second_config", "docs_faiss_log", *TRIGGERS}
    with logging(connection):
        connection.execute(f"REPLACE INTO docs(embedding, mail, code) VALUES ({blob(9, 0)}, 'm', 9)")
    assert rows(connection, "SELECT score FROM second('[1, 0]', 1)") == [(9.0,)]
    assert live(connection) == "yes"
    connection.execute("DROP TABLE second")
    assert objects(connection) == {"docs"}
    connection.execute("INSERT INTO docs(embedding, mail) VALUES ('whatever', 'x')")


def test_drop_and_create_roll_back(path, connect):
    connection, other = connect(path), connect(path)
    assert_true(other)
    for statement in ("DROP TABLE docs_index", "CREATE VIRTUAL TABLE second USING faiss(main, docs, metric=ip)"):
        before = rows(connection, "SELECT * FROM sqlite_schema ORDER BY name"), rows(connection, "SELECT * FROM docs_faiss_log")
        connection.execute("BEGIN")
        connection.execute(statement)
        connection.execute("ROLLBACK")
        assert (rows(connection, "SELECT * FROM sqlite_schema ORDER BY name"),
                rows(connection, "SELECT * FROM docs_faiss_log")) == before
        for each in (connection, other):
            assert_true(each)
            assert live(each) == "yes"


def test_tables_over_two_columns(memory):
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, small BLOB)")
    memory.executemany("INSERT INTO docs VALUES (?, ?, ?)", [(i, vector(i, 0), vector(-i)) for i in range(1, 5)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert_true(memory)
    memory.execute("CREATE VIRTUAL TABLE small_index USING faiss(main, docs, embedding=small)")
    assert rows(memory, "SELECT id FROM small_index('[-3]', 1)") == [(3,)]
    memory.execute("UPDATE docs SET small = ? WHERE id = 3", [vector(9)])
    assert rows(memory, "SELECT id FROM small_index('[-3]', 1)") == [(2,)]
    assert live(memory) == "yes"
    for bad in ("UPDATE docs SET small = X'0000000000000000'", "UPDATE docs SET embedding = X'00000000'"):
        with pytest.raises(sqlite3.IntegrityError, match=r"docs\.(small|embedding) must be"):
            memory.execute(bad)
    memory.execute("DROP TABLE small_index")
    memory.execute("UPDATE docs SET small = 'text now'")
    assert_true(memory)
    assert live(memory) == "yes"


def test_drop_beside_a_damaged_table(path, connect):
    """Whose settings are not to be trusted: it must not keep the log from going."""
    connection = connect(path)
    connection.execute("CREATE VIRTUAL TABLE second USING faiss(main, docs, metric=ip)")
    connection.execute("DELETE FROM second_config")
    connection.close()
    connection = connect(path)
    connection.execute("DROP TABLE docs_index")
    connection.execute("DROP TABLE second")
    assert objects(connection) == {"docs"}


@pytest.mark.parametrize("damage", ["DELETE FROM docs_index_config", "UPDATE docs_index_config SET v = 'x'",
                                    "DROP TABLE docs_index_config", "DROP TABLE docs_faiss_log",
                                    "DROP TRIGGER docs_faiss_insert", "DROP TABLE docs",
                                    "ALTER TABLE docs RENAME TO papers"])
def test_drop_of_a_damaged_table(path, connect, damage):
    plain(path).execute(damage)
    connection = connect(path)
    connection.execute("DROP TABLE docs_index")
    assert objects(connection) <= {"docs", "papers"}


def test_a_table_of_the_users_in_the_way(memory):
    database.fill(memory, [(1, 2), (3, 4)])
    memory.execute("CREATE TABLE docs_faiss_log(mine)")
    memory.execute("INSERT INTO docs_faiss_log VALUES ('precious')")
    for option in ("", ", live=on"):
        with pytest.raises(sqlite3.OperationalError, match=r"main\.docs_faiss_log is in the way of the change log of docs"):
            memory.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs{option})")
        assert objects(memory) == {"docs", "docs_faiss_log"}
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live=off)")
    assert_true(memory)
    memory.execute("DROP TABLE docs_index")
    assert rows(memory, "SELECT * FROM docs_faiss_log") == [("precious",)]


def test_a_renamed_index(path, connect):
    connection, other = connect(path), connect(path)
    assert_true(other)
    connection.execute("ALTER TABLE docs_index RENAME TO near")
    for each in (connection, other):
        assert_true(each, index="near")
        assert live(each) == "yes"
    connection.execute(f"REPLACE INTO docs(embedding, mail, code) VALUES ({NEW}, 'm', 9)")
    for each in (connection, other):
        assert_true(each, index="near")
        assert live(each) == "yes"
    connection.execute("DROP TABLE near")
    assert objects(connection) == {"docs"}


# --- options --------------------------------------------------------------------------------------

NONE_OVER_IT = "no live faiss table in its own schema is over it"
CANNOT = {
    "a view": ("CREATE VIEW src AS SELECT * FROM docs", "main", "it is a view", None),
    "a table without a rowid": ("CREATE TABLE src(id PRIMARY KEY, embedding) WITHOUT ROWID", "main",
                                "it is a table without a rowid", None),
    "a virtual table": ("CREATE VIRTUAL TABLE src USING fts5(id, embedding)", "main", "it is a virtual table", None),
    "another schema": ("CREATE TABLE src(id INTEGER PRIMARY KEY, embedding)", "temp", "it is in another schema than bad",
                       NONE_OVER_IT),
    "an expression": ("CREATE TABLE src(id INTEGER PRIMARY KEY, embedding, a); CREATE UNIQUE INDEX low ON src(lower(a))",
                      "main", "the UNIQUE index low is on an expression", None),
}




@pytest.mark.parametrize("case", list(CANNOT))
def test_live_on_where_it_cannot_be(path, connect, case):
    script, schema, why, said = CANNOT[case]
    connection = connect(path)
    connection.executescript(script)
    before = objects(connection)
    with pytest.raises(sqlite3.OperationalError) as error:
        connection.execute(f"CREATE VIRTUAL TABLE {schema}.bad USING faiss(main, src, live=on)")
    assert str(error.value) == f"live=on: main.src cannot have a change log: {why}"
    assert objects(connection) == before
    connection.execute(f"CREATE VIRTUAL TABLE {schema}.fine USING faiss(main, src)")
    rows(connection, "SELECT * FROM fine('[1, 2]')")
    assert live(connection, "src") == "no: " + (said or why)
    assert not any("src_faiss" in name for name in objects(connection))


@pytest.mark.parametrize("value", ["yes", "1", "", "auto"])
def test_values_of_live(memory, value):
    database.fill(memory, [(1, 2)])
    with pytest.raises(sqlite3.OperationalError, match=f"live={value}: expected on or off"):
        memory.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live={value})")
    assert objects(memory) == {"docs"}


def test_live_off_leaves_the_source_alone(path, connect):
    connection = connect(path)
    connection.execute("DROP TABLE docs_index")
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live=off)")
    assert objects(connection) == {"docs", "docs_index", "docs_index_config"}
    for write in [write for write in WRITES.values() if "BEGIN" not in write]:
        connection.execute("BEGIN")
        connection.execute(write).fetchall()
        assert_true(connection)
        connection.execute("ROLLBACK")
        assert_true(connection)
    assert live(connection) == "no: live=off"
    connection.execute("INSERT INTO docs_index(docs_index) VALUES ('rebuild')")
    assert objects(connection) == {"docs", "docs_index", "docs_index_config"}


# --- schemas --------------------------------------------------------------------------------------


def test_attached_databases(path, tmp_path, connect, docs_bytes):
    """The same names in two files: each has its own log, and follows it under any schema name."""
    (tmp_path / "second.db").write_bytes(docs_bytes)
    connection = connect(path)
    connection.execute("ATTACH ? AS aux", [str(tmp_path / "second.db")])
    for schema, other in (("main", "aux"), ("aux", "main")):
        index = f"{schema}.docs_index"
        assert rows(connection, f"SELECT id FROM {index}") == rows(connection, f"SELECT id FROM {schema}.docs")
        seq = last_entry(connection, f"{other}.docs_faiss_log")
        with logging(connection, f"{schema}.docs_faiss_log", f"{schema}.docs"):
            connection.execute(f"REPLACE INTO {schema}.docs(id, embedding, mail, code) VALUES (1, {NEW}, 'm', 9)")
        assert last_entry(connection, f"{other}.docs_faiss_log") == seq
        expected = oracle.nearest(rows(connection, f"SELECT pk, id, embedding FROM {schema}.docs"), QUERY, 5)
        assert rows(connection, f"SELECT id, score FROM {index} WHERE embedding MATCH ? LIMIT 5", [QUERY]) == expected
    assert set(rows(connection, "SELECT database, live FROM faiss_indexes")) == {("main", "yes"), ("aux", "yes")}
    connection.execute("CREATE VIRTUAL TABLE aux.third USING faiss(main, docs, metric=ip)")
    connection.execute("DROP TABLE aux.docs_index")
    connection.execute("DROP TABLE aux.third")
    assert column(connection, "SELECT name FROM aux.sqlite_schema WHERE type <> 'index'") == ["docs"]
    assert_true(connection)


@pytest.mark.parametrize("hidden", [False, True], ids=["alone", "over a table of that name"])
def test_temporary_tables(path, connect, hidden):
    connection = connect(path if hidden else ":memory:")
    connection.executescript(
        "CREATE TEMP TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, u UNIQUE);"
        f"INSERT INTO temp.docs VALUES (1, {blob(1, 0)}, 1), (2, {blob(2, 0)}, 2);"
        "CREATE VIRTUAL TABLE temp.near USING faiss(temp, docs)"
    )
    seq = last_entry(connection, "main.docs_faiss_log") if hidden else None
    for write in (f"REPLACE INTO docs VALUES (9, {NEW}, 2)", "DELETE FROM temp.docs WHERE id = 1"):
        assert_true(connection, "temp.docs", "near")
        with logging(connection, "temp.docs_faiss_log", "temp.docs"):
            connection.execute(write)
    assert_true(connection, "temp.docs", "near")
    assert rows(connection, "SELECT live FROM faiss_indexes WHERE database = 'temp'") == [("yes",)]
    if hidden:
        assert last_entry(connection, "main.docs_faiss_log") == seq
        assert_true(connection, "main.docs")
    connection.execute("DROP TABLE near")
    assert column(connection, "SELECT name FROM temp.sqlite_schema WHERE type <> 'index'") == ["docs"]


def test_the_functions_use_the_log_of_a_live_table(path, connect):
    """faiss_search('main', 'docs', …) has the definition of docs_index, so it is the same index."""
    connection = connect(path)
    for _ in range(3):
        expected = oracle.nearest_json(rows(connection, "SELECT pk, id, embedding FROM docs"), QUERY, 5)[0]
        assert scalar(connection, "SELECT faiss_search('main', 'docs', ?, 5)", [QUERY]) == expected
        assert_true(connection)
        connection.execute("DELETE FROM docs WHERE pk IN (SELECT pk FROM docs LIMIT 5)")
    assert rows(connection, "SELECT live, connections FROM faiss_indexes") == [("yes", 1)]
