"""A live source: every kind of write is logged, by whomever, and costs the next search what changed.

That an answer is right would not tell a complete log from a lucky comparison of the whole table, so
the rows that a write changed are compared with those that the log names, too.
"""

import os
import sqlite3
import subprocess
from contextlib import contextmanager

import pytest

import database
import oracle
from database import SHELL, column, plain, quote, rows, scalar, vector

QUERY = vector(0, 0)
TRIGGERS = ["docs_faiss_conflict", "docs_faiss_delete", "docs_faiss_insert", "docs_faiss_move",
            "docs_faiss_replace", "docs_faiss_update"]


def blob(*values):
    """The vector as an SQL literal, for writers that are given a script."""
    return f"X'{vector(*values).hex()}'"


def assert_true(connection, table="docs", index="docs_index", key="rowid", id="id"):
    """The index gives what this connection's own SELECT does."""
    expected = oracle.nearest(rows(connection, f"SELECT {key}, {id}, embedding FROM {table}"), QUERY)
    assert rows(connection, f"SELECT id, score FROM {index}(?)", [QUERY]) == expected
    assert rows(connection, f"SELECT id, score FROM {index}(?, 3)", [QUERY]) == expected[:3]
    return expected


def live(connection, table="docs"):
    """What faiss_indexes says, for each index over the table."""
    found = column(connection, 'SELECT DISTINCT live FROM faiss_indexes WHERE "table" = ?', [table])
    assert len(found) == 1
    return found[0]


def objects(connection):
    return set(column(connection, "SELECT name FROM sqlite_schema WHERE type <> 'index'"))


def last_entry(connection, log="docs_faiss_log"):
    return scalar(connection, f"SELECT max(seq) FROM {log}")


def shell(path, script, *options):
    """A process without the extension: with the SQLite that it was made for, whatever the tests run with."""
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    return subprocess.run([SHELL, "-batch", *options, path], input=script, capture_output=True, text=True,
                          timeout=600, env=environment)


DEFENSIVE = ["-cmd", ".dbconfig defensive on"]


@contextmanager
def logging(connection, log="docs_faiss_log", table="docs", key="rowid", id="id"):
    """The block changes rows, and the log names each of them, or a run that it belongs to."""

    def state():
        return {row[0]: row[1:] for row in rows(connection, f"SELECT {key}, {id}, embedding FROM {table}")}

    before, seq = state(), last_entry(connection, log)
    yield
    after = state()
    changed = {row for row in before.keys() | after.keys() if before.get(row) != after.get(row)}
    assert changed, "the write changed nothing"
    logged = set(column(connection, f"SELECT row FROM {log} WHERE seq > ?", [seq]))
    runs = column(connection, f"SELECT row FROM {log} WHERE seq >= ? AND tag % 2 = 0", [seq])
    assert changed <= logged | {row + place for row in runs for place in range(16)}
    seqs = column(connection, f"SELECT seq FROM {log} WHERE seq > ? ORDER BY seq", [seq])
    assert seqs == list(range(seq + 1, seq + 1 + len(seqs)))


# --- what is logged -------------------------------------------------------------------------------

DOCS = """
CREATE TABLE docs(
  pk INTEGER PRIMARY KEY, id INTEGER, embedding BLOB,
  slug TEXT UNIQUE COLLATE NOCASE,
  lang TEXT, page INTEGER,
  mail TEXT NOT NULL ON CONFLICT REPLACE DEFAULT 'nobody' UNIQUE,
  state TEXT, draft_of INTEGER, code INTEGER UNIQUE, note TEXT,
  UNIQUE(lang, page)
);
CREATE UNIQUE INDEX one_draft ON docs(draft_of) WHERE state = 'draft';
WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
INSERT INTO docs SELECT i, i * 10, NULL, 'slug' || i, 'l' || (i % 5), i / 5, 'mail' || i,
  iif(i % 2, 'draft', 'done'), i, i, NULL FROM n;
UPDATE docs SET mail = 'nobody' WHERE pk = 13;
"""


def make(path, script=DOCS, index="CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)"):
    """The script's tables, `docs` with vectors by rowid, and an index over it."""
    connection = database.connect(path)
    connection.execute("PRAGMA journal_mode = wal").fetchone()
    connection.execute("PRAGMA synchronous = OFF")
    connection.executescript("BEGIN;" + script)
    for key in column(connection, "SELECT rowid FROM docs"):
        connection.execute("UPDATE docs SET embedding = ? WHERE rowid = ?", [vector(key % 7 - 3, key % 5), key])
    connection.execute(index)
    connection.execute("COMMIT")
    return connection


NEW = f"{blob(0, 1)}"
WRITES = {
    "insert": f"INSERT INTO docs(id, embedding, mail) VALUES (5, {NEW}, 'm')",
    "insert several": f"INSERT INTO docs(pk, id, embedding, mail) VALUES (99, 5, {NEW}, 'a'), (-4, 6, {NEW}, 'b')",
    "insert … select": "INSERT INTO docs(id, embedding, mail) SELECT id + 1000, embedding, 'n' || pk FROM docs",
    "insert NULL": "INSERT INTO docs(pk, mail) VALUES (77, 'm')",
    "insert or ignore": f"INSERT OR IGNORE INTO docs(pk, id, embedding, mail) VALUES (3, 1, {NEW}, 'm'), (88, 1, {NEW}, 'n')",
    "update of the embedding": f"UPDATE docs SET embedding = {NEW} WHERE pk = 7",
    "update of every embedding": f"UPDATE docs SET embedding = {NEW}",
    "update of the id": "UPDATE docs SET id = -id WHERE pk BETWEEN 5 AND 9",
    "update to NULL": "UPDATE docs SET embedding = NULL WHERE pk < 4",
    "update of the rowid": "UPDATE docs SET rowid = rowid + 500 WHERE pk = 8",
    "update of the key": "UPDATE docs SET pk = -pk",
    "update of both": f"UPDATE docs SET pk = 301, embedding = {NEW} WHERE pk = 1",
    "update … from": f"UPDATE docs SET embedding = v.e FROM (SELECT 3 AS p, {NEW} AS e) AS v WHERE pk = v.p",
    "delete": "DELETE FROM docs WHERE pk = 12",
    "delete all": "DELETE FROM docs",
    "delete some": "DELETE FROM docs WHERE pk IN (SELECT pk FROM docs ORDER BY -pk LIMIT 5)",
    "replace by key": f"REPLACE INTO docs(pk, id, embedding, mail) VALUES (6, 1, {NEW}, 'm')",
    "replace by a column": f"REPLACE INTO docs(id, embedding, mail, code) VALUES (1, {NEW}, 'm', 9)",
    "replace by a column's affinity": f"REPLACE INTO docs(id, embedding, mail, code) VALUES (1, {NEW}, 'm', '9')",
    "replace by case": f"REPLACE INTO docs(id, embedding, mail, slug) VALUES (1, {NEW}, 'm', 'SLUG9')",
    "replace by two columns": f"REPLACE INTO docs(id, embedding, mail, lang, page) VALUES (1, {NEW}, 'm', 'l2', 1)",
    "replace by a partial index": f"REPLACE INTO docs(id, embedding, mail, state, draft_of) VALUES (1, {NEW}, 'm', 'draft', 9)",
    "replace by a default": f"REPLACE INTO docs(id, embedding) VALUES (1, {NEW})",
    "replace by a default for NULL": f"INSERT OR REPLACE INTO docs(id, embedding, mail) VALUES (1, {NEW}, NULL)",
    "replace many by one": f"REPLACE INTO docs(pk, id, embedding, mail, slug, lang, page, code)"
    f" VALUES (2, 1, {NEW}, 'mail4', 'slug5', 'l1', 1, 7)",
    "replace … select": "REPLACE INTO docs(id, embedding, mail, code) SELECT id, embedding, mail, code + 1 FROM docs",
    "update or replace by a column": "UPDATE OR REPLACE docs SET code = 9 WHERE pk = 20",
    "update or replace by case": "UPDATE OR REPLACE docs SET slug = 'SLUG9' WHERE pk = 20",
    "update or replace by two columns": "UPDATE OR REPLACE docs SET lang = 'l2', page = 1 WHERE pk = 20",
    "update or replace by one of two columns": "UPDATE OR REPLACE docs SET page = 1 WHERE pk = 22",
    "update or replace by a partial index": "UPDATE OR REPLACE docs SET state = 'draft' , draft_of = 9 WHERE pk = 20",
    "update or replace that enters a partial index": "UPDATE OR REPLACE docs SET draft_of = 9 WHERE state = 'draft' AND pk = 3",
    "update or replace by a default": "UPDATE OR REPLACE docs SET mail = NULL WHERE pk = 20",
    "update or replace by key": "UPDATE OR REPLACE docs SET pk = 9 WHERE pk = 20",
    "update or replace by rowid": "UPDATE OR REPLACE docs SET rowid = 9 WHERE pk = 20",
    "update or replace of all": "UPDATE OR REPLACE docs SET code = code / 3",
    "upsert": f"INSERT INTO docs(pk, id, embedding, mail) VALUES (9, 1, {NEW}, 'm')"
    " ON CONFLICT(pk) DO UPDATE SET embedding = excluded.embedding, id = excluded.id",
    "upsert by a column": f"INSERT INTO docs(id, embedding, mail, code) VALUES (1, {NEW}, 'm', 9)"
    " ON CONFLICT(code) DO UPDATE SET embedding = excluded.embedding",
    "upsert that inserts": f"INSERT INTO docs(id, embedding, mail) VALUES (1, {NEW}, 'm')"
    " ON CONFLICT DO UPDATE SET embedding = NULL",
    "upsert or nothing": f"INSERT INTO docs(pk, id, embedding, mail) VALUES (9, 1, {NEW}, 'm'), (90, 1, {NEW}, 'm')"
    " ON CONFLICT DO NOTHING",
    "a transaction": f"BEGIN; DELETE FROM docs WHERE pk < 5; UPDATE docs SET embedding = {NEW} WHERE pk = 9;"
    " SAVEPOINT s; DELETE FROM docs; ROLLBACK TO s; COMMIT",
    "returning": f"UPDATE docs SET embedding = {NEW} WHERE pk = 7 RETURNING pk",
}


@pytest.fixture(scope="module")
def docs_bytes(tmp_path_factory):
    """A file with DOCS and its index, to be copied."""
    path = tmp_path_factory.mktemp("live") / "docs.db"
    connection = make(path)
    connection.execute("PRAGMA journal_mode = delete").fetchone()
    connection.close()
    return path.read_bytes()


@pytest.fixture
def path(docs_bytes, tmp_path):
    (tmp_path / "docs.db").write_bytes(docs_bytes)
    return tmp_path / "docs.db"


@pytest.mark.parametrize("recursive", [0, 1], ids=["", "recursive triggers"])
@pytest.mark.parametrize("writer", ["itself", "another process", "defensive", "untrusted schema"])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_kind_of_write(path, connect, write, writer, recursive):
    reader = connect(path)
    assert_true(reader)
    assert live(reader) == "yes"
    script = f"PRAGMA recursive_triggers = {recursive}; {write};"
    with logging(reader):
        if writer == "itself":
            reader.executescript(script)
        elif writer == "another process":  # without the extension
            plain(path).executescript(script)
        elif writer == "untrusted schema":
            plain(path).executescript("PRAGMA trusted_schema = OFF;" + script)
        else:
            assert shell(path, script, *DEFENSIVE).stderr == ""
    assert_true(reader)
    assert_true(connect(path))
    assert live(reader) == "yes"
    reader.execute("INSERT INTO docs_index(docs_index) VALUES ('integrity-check')")


@pytest.mark.parametrize("recursive", [0, 1], ids=["", "recursive triggers"])
@pytest.mark.parametrize("write", [w for w in WRITES.values() if "BEGIN" not in w],
                         ids=[n for n, w in WRITES.items() if "BEGIN" not in w])
def test_every_kind_of_write_in_a_transaction(path, connect, write, recursive):
    """Searched before it commits, rolled back, and done once more."""
    connection, other = connect(path), connect(path)
    connection.execute(f"PRAGMA recursive_triggers = {recursive}")
    before = assert_true(connection)
    assert_true(other)
    for end in ("ROLLBACK", "COMMIT"):
        connection.execute("BEGIN")
        with logging(connection):
            connection.execute(write).fetchall()
        assert_true(connection)
        assert assert_true(other) == before
        connection.execute(end)
        assert_true(connection)
    assert_true(other)


def test_a_write_of_another_column_is_not_logged(path, connect):
    connection = connect(path)
    assert_true(connection)
    seq = last_entry(connection)
    connection.execute("UPDATE docs SET note = 'n'")
    connection.execute("UPDATE docs SET state = 'x' WHERE pk < 10")
    assert last_entry(connection) == seq
    assert_true(connection)


def test_the_triggers_leave_what_a_writer_asks_sqlite_alone(path, connect):
    connection = connect(path)
    cursor = connection.execute(f"INSERT INTO docs(pk, embedding, mail) VALUES (700, {NEW}, 'm')")
    assert (cursor.lastrowid, cursor.rowcount) == (700, 1)
    assert rows(connection, "SELECT last_insert_rowid(), changes()") == [(700, 1)]
    assert connection.execute(f"UPDATE docs SET embedding = {NEW}").rowcount == 41
    assert connection.execute("DELETE FROM docs WHERE pk < 11").rowcount == 10
    assert rows(connection, f"INSERT INTO docs(embedding, mail) VALUES ({NEW}, 'o') RETURNING pk") == [(701,)]


LAYOUTS = {
    "a generated embedding": (
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, a BLOB, embedding BLOB GENERATED ALWAYS AS (a) {stored});"
        "INSERT INTO docs(id, a) VALUES (1, {0}), (2, {1}), (3, {2});",
        ["UPDATE docs SET a = {1} WHERE id = 3", "INSERT INTO docs(a) VALUES ({0})", "DELETE FROM docs WHERE id = 1",
         "UPDATE docs SET a = NULL"],
    ),
    "a generated id": (
        "CREATE TABLE docs(pk INTEGER PRIMARY KEY, n, id GENERATED ALWAYS AS (n * 2) {stored}, embedding BLOB);"
        "INSERT INTO docs(pk, n, embedding) VALUES (1, 1, {0}), (2, 2, {1}), (3, 3, {2});",
        ["UPDATE docs SET n = 7 WHERE pk = 3", "INSERT INTO docs(n, embedding) VALUES (9, {0})"],
    ),
    "UNIQUE ON CONFLICT REPLACE": (
        "CREATE TABLE docs(id INTEGER PRIMARY KEY ON CONFLICT REPLACE, embedding BLOB, u UNIQUE ON CONFLICT REPLACE);"
        "INSERT INTO docs(id, embedding, u) VALUES (1, {0}, 1), (2, {1}, 2), (3, {2}, 3);",
        ["INSERT INTO docs VALUES (4, {0}, 1)", "INSERT INTO docs VALUES (4, {1}, 7)", "UPDATE docs SET u = 2 WHERE id = 3",
         "UPDATE docs SET id = 3 WHERE id = 4"],
    ),
    "a TEXT PRIMARY KEY": (
        "CREATE TABLE docs(id TEXT PRIMARY KEY, embedding BLOB);"
        "INSERT INTO docs(id, embedding) VALUES ('a', {0}), ('b', {1}), ('c', {2});",
        ["REPLACE INTO docs VALUES ('b', {0})", "UPDATE OR REPLACE docs SET id = 'a' WHERE id = 'c'",
         "UPDATE docs SET rowid = 70 WHERE id = 'a'", "UPDATE docs SET id = upper(id)", "DELETE FROM docs",
         "INSERT INTO docs VALUES (NULL, {1}), (NULL, {1})"],
    ),
    "a TEXT PRIMARY KEY beside a column rowid": (
        "CREATE TABLE docs(id TEXT PRIMARY KEY, rowid TEXT, embedding BLOB);"
        "INSERT INTO docs(id, rowid, embedding) VALUES ('a', 'x', {0}), ('b', 'y', {1}), ('c', 'z', {2});",
        ["REPLACE INTO docs VALUES ('b', 'w', {0})", "UPDATE docs SET _rowid_ = 70 WHERE id = 'a'"],
    ),
    "AUTOINCREMENT": (
        "CREATE TABLE docs(id INTEGER PRIMARY KEY AUTOINCREMENT, embedding BLOB, u UNIQUE);"
        "INSERT INTO docs(embedding, u) VALUES ({0}, 1), ({1}, 2), ({2}, 3);",
        ["DELETE FROM docs WHERE id = 3", "INSERT INTO docs(embedding) VALUES ({0})",
         "REPLACE INTO docs(embedding, u) VALUES ({0}, 1)"],
    ),
    "a STRICT table": (
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, u TEXT UNIQUE, s TEXT AS (u) {stored}) STRICT;"
        "INSERT INTO docs(embedding, u) VALUES ({0}, 'a'), ({1}, 'b'), ({2}, 'c');",
        ["REPLACE INTO docs(embedding, u) VALUES ({0}, 'a')", "UPDATE docs SET embedding = {2} WHERE id = 2"],
    ),
}


@pytest.mark.parametrize("recursive", [0, 1], ids=["", "recursive triggers"])
@pytest.mark.parametrize(
    ("layout", "stored"),
    [(name, stored) for name, (script, _) in LAYOUTS.items()
     for stored in (["VIRTUAL", "STORED"] if "{stored}" in script else [""])],
)
def test_layouts_of_tables(tmp_path, connect, layout, stored, recursive):
    script, writes = LAYOUTS[layout]
    places = [blob(1, 0), blob(2, 0), blob(3, 0)]
    connection, other = connect(tmp_path / "docs.db"), connect(tmp_path / "docs.db")
    connection.executescript(script.format(*places, stored=stored))
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    connection.execute(f"PRAGMA recursive_triggers = {recursive}")
    key = "_rowid_"
    for each in (connection, other):
        assert_true(each, key=key)
    assert live(connection) == "yes"
    for write in writes:
        with logging(connection, key=key):
            connection.execute(write.format(*places))
        for each in (connection, other):
            assert_true(each, key=key)
    assert live(connection) == "yes"


GENERATED_KEYS = {
    "REPLACE by a generated UNIQUE column": (
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, a, u GENERATED ALWAYS AS (a % 10) {stored} UNIQUE);"
        "INSERT INTO docs(id, embedding, a) VALUES (1, {0}, 1), (2, {1}, 2), (3, {2}, 3)",
        "REPLACE INTO docs(id, embedding, a) VALUES (9, {0}, 12)",
    ),
    "UPDATE OR REPLACE of what a UNIQUE column is made from": (
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, a, u GENERATED ALWAYS AS (a) {stored} UNIQUE);"
        "INSERT INTO docs(id, embedding, a) VALUES (1, {0}, 1), (2, {1}, 2), (3, {2}, 3)",
        "UPDATE OR REPLACE docs SET a = 2 WHERE id = 3",
    ),
    "a UNIQUE column made from a key that SQLite chooses": (
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, u GENERATED ALWAYS AS (id % 3) VIRTUAL UNIQUE);"
        "INSERT INTO docs(id, embedding) VALUES (1, {0}), (2, {1}), (3, {2})",
        "REPLACE INTO docs(embedding) VALUES ({0})",
    ),
    "UPDATE OR REPLACE of a key that a UNIQUE column is made from": (
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, u GENERATED ALWAYS AS (id % 10) VIRTUAL UNIQUE);"
        "INSERT INTO docs(id, embedding) VALUES (1, {0}), (2, {1}), (3, {2})",
        "UPDATE OR REPLACE docs SET id = 12 WHERE id = 3",
    ),
}


@pytest.mark.parametrize("stored", ["VIRTUAL", "STORED"])
@pytest.mark.parametrize("case", GENERATED_KEYS)
def test_a_generated_unique_column(tmp_path, connect, case, stored):
    """A trigger does not see what it will be in time: whether a log is kept or not, the answers are right."""
    script, write = GENERATED_KEYS[case]
    places = [blob(1, 0), blob(2, 0), blob(3, 0)]
    connection = connect(tmp_path / "docs.db")
    connection.executescript(script.format(*places, stored=stored))
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert_true(connection)
    connection.execute(write.format(*places))
    assert_true(connection)
    assert_true(connect(tmp_path / "docs.db"))


def test_a_quoted_name_that_holds_another(memory):
    """"a" stands in "x""a""y" too, which is another column."""
    memory.execute('CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, "x""a""y" UNIQUE, a UNIQUE)')
    memory.executemany("INSERT INTO docs VALUES (?, ?, ?, ?)", [(i, vector(i, 0), i, i) for i in range(1, 9)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert_true(memory)
    memory.execute("UPDATE OR REPLACE docs SET a = 5 WHERE id = 3")
    assert_true(memory)




@pytest.mark.parametrize(
    "default", ["true", "'it''s'", '"nobody"', "5", "-1.5e3", "X'00FF'", "(1 + 2)", "('a' || 'b')", "CURRENT_DATE", "NULL",
                "nobody", "embedding", '"id"']
)
def test_defaults_of_not_null_columns(memory, default):
    """REPLACE puts them in for NULL, and finds another row by them. A word is a text."""
    memory.execute(
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB,"
        f" u NOT NULL ON CONFLICT REPLACE DEFAULT {default} UNIQUE)"
    )
    value = scalar(memory, "SELECT dflt_value FROM pragma_table_info('docs') WHERE name = 'u'")
    memory.executemany("INSERT INTO docs VALUES (?, ?, ?)", [(i, vector(i, 0), f"u{i}") for i in range(1, 5)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for _ in range(2):
        for columns in ("(embedding)", "(embedding, u)"):
            assert_true(memory)
            values = f"({NEW})" if columns == "(embedding)" else f"({NEW}, NULL)"
            if value == "NULL":
                with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
                    memory.execute(f"REPLACE INTO docs{columns} VALUES {values}")
            else:
                memory.execute(f"REPLACE INTO docs{columns} VALUES {values}")
    assert_true(memory)
    assert scalar(memory, "SELECT count(*) FROM docs") == (4 if value == "NULL" else 5)
    assert live(memory) == "yes"


FAMILY = """
CREATE TABLE authors(name TEXT PRIMARY KEY, boss TEXT UNIQUE);
CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, parent INTEGER REFERENCES docs(id) ON DELETE CASCADE
  ON UPDATE CASCADE, author TEXT REFERENCES authors(name) {action});
CREATE TABLE vectors(v BLOB PRIMARY KEY);
CREATE TABLE drawn(id INTEGER PRIMARY KEY, embedding BLOB REFERENCES vectors(v) {action});
"""


@pytest.mark.parametrize("recursive", [0, 1], ids=["", "recursive triggers"])
@pytest.mark.parametrize("writer", ["itself", "another process"])
@pytest.mark.parametrize("action", ["CASCADE", "SET NULL", "SET DEFAULT"])
def test_foreign_keys(tmp_path, connect, action, writer, recursive):
    path = tmp_path / "docs.db"
    connection = connect(path)
    connection.executescript(FAMILY.format(action=f"ON DELETE {action} ON UPDATE {action}"))
    connection.executemany("INSERT INTO authors VALUES (?, ?)", [(f"a{i}", f"b{i}") for i in range(6)])
    for i in range(1, 31):
        connection.execute("INSERT INTO docs VALUES (?, ?, ?, ?)",
                           [i, vector(i % 5, i % 3), i - 1 if i % 7 else None, f"a{i % 6}"])
    connection.executemany("INSERT INTO vectors VALUES (?)", [(vector(i, 0),) for i in range(5)])
    connection.executemany("INSERT INTO drawn VALUES (?, ?)", [(i, vector(i % 5, 0)) for i in range(1, 21)])
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    connection.execute("CREATE VIRTUAL TABLE drawn_index USING faiss(main, drawn)")
    other = connection if writer == "itself" else plain(path)
    other.execute("PRAGMA foreign_keys = ON")
    other.execute(f"PRAGMA recursive_triggers = {recursive}")

    def check():
        assert_true(connection)
        assert_true(connection, "drawn", "drawn_index")
        assert live(connection) == live(connection, "drawn") == "yes"

    check()
    with logging(connection):
        other.execute("UPDATE docs SET id = id + 100 WHERE id IN (7, 14)")
    check()
    with logging(connection):
        other.execute("DELETE FROM docs WHERE id = 24")
    assert scalar(connection, "SELECT count(*) FROM docs WHERE id BETWEEN 24 AND 27") == 0
    check()
    if action == "CASCADE":  # of another table, which REPLACE does as well
        with logging(connection):
            other.execute("DELETE FROM authors WHERE name = 'a1'")
        check()
        with logging(connection):
            other.execute("REPLACE INTO authors VALUES ('new', 'b2')")
        check()
    with logging(connection, "drawn_faiss_log", "drawn"):
        other.execute("UPDATE vectors SET v = ? WHERE v = ?", [vector(9, 9), vector(1, 0)])
    check()
    with logging(connection, "drawn_faiss_log", "drawn"):
        other.execute("DELETE FROM vectors WHERE v = ?", [vector(2, 0)])
    check()


def test_triggers_and_views_of_the_user(path, connect):
    """Writes that they make are writes like any other."""
    connection, other = connect(path), connect(path)
    connection.executescript(
        f"""
        CREATE TABLE inbox(slug TEXT);
        CREATE TRIGGER receive AFTER INSERT ON inbox BEGIN
          REPLACE INTO docs(id, embedding, mail, slug) VALUES (1, {NEW}, 'in', NEW.slug); END;
        CREATE VIEW shown AS SELECT pk, embedding FROM docs;
        CREATE TRIGGER write_shown INSTEAD OF UPDATE ON shown BEGIN
          UPDATE docs SET embedding = NEW.embedding WHERE pk = OLD.pk; END;
        CREATE TRIGGER twin AFTER DELETE ON docs WHEN OLD.pk < 20 BEGIN DELETE FROM docs WHERE pk = OLD.pk + 20; END;
        CREATE TRIGGER touch AFTER UPDATE OF note ON docs BEGIN
          UPDATE docs SET embedding = {blob(2, 2)} WHERE pk = NEW.pk; END;
        """
    )
    assert_true(other)
    for write in ("INSERT INTO inbox VALUES ('SLUG3')", "UPDATE shown SET embedding = NULL WHERE pk = 5",
                  "DELETE FROM docs WHERE pk IN (8, 9)", "UPDATE docs SET note = 'n' WHERE pk > 30"):
        with logging(connection):
            connection.execute(write)
        assert_true(other)
        assert_true(connection)
    assert live(other) == "yes"


def test_triggers_of_the_user_that_bring_about_conflicts(path, connect):
    """Between the triggers that look for the rows to be replaced and the replacing."""
    connection, other = connect(path), connect(path)
    for each in (connection, other):
        assert_true(each)
    trigger = "CREATE {} TRIGGER {} INSERT ON main.docs WHEN NEW.code = 77 BEGIN UPDATE OR REPLACE docs SET code = {}; END"
    for kind, name, change in (("", "early BEFORE", "iif(code = 5, 77, code)"), ("TEMP", "apart BEFORE", "iif(code = 6, 77, code)"),
                               ("", "late AFTER", "iif(code = 77, 8, code)")):
        connection.execute(trigger.format(kind, name, change).replace("main.docs" if not kind else "", "docs" if not kind else ""))
        for number in range(2):
            connection.execute("REPLACE INTO docs(pk, id, embedding, mail, code) VALUES (?, 1, ?, ?, 77)",
                               [500 + number, vector(number, 0), f"{name}{number}"])
            for each in (connection, other):
                assert_true(each)
            connection.execute("UPDATE docs SET code = pk")
            connection.execute("INSERT INTO docs_index(docs_index) VALUES ('rebuild')")
        connection.execute("DROP TRIGGER " + name.split()[0])


# --- malformed rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["'[1, 2]'", "5", "1.5", "X''", "X'0000803F'", "X'000080'", "zeroblob(12)"])
@pytest.mark.parametrize(
    "write",
    ["INSERT INTO docs(embedding, mail) VALUES ({}, 'm')", "UPDATE docs SET embedding = {} WHERE pk = 5",
     "INSERT OR IGNORE INTO docs(embedding, mail) VALUES ({}, 'm')", "UPDATE OR IGNORE docs SET embedding = {}",
     "INSERT OR REPLACE INTO docs(pk, embedding, mail) VALUES (5, {}, 'm')",
     "INSERT INTO docs(pk, embedding, mail) VALUES (5, NULL, 'm') ON CONFLICT DO UPDATE SET embedding = {}"],
)
def test_a_malformed_row_is_refused(path, connect, write, bad):
    """With the table, the column and what it must hold, by any writer; nothing of it is left."""
    message = r"^docs\.embedding must be NULL or a BLOB of 8 bytes \(2 float32\)$"
    connection, other = connect(path), plain(path)
    before, seq = assert_true(connection), last_entry(connection)
    for writer in (connection, other):
        with pytest.raises(sqlite3.IntegrityError, match=message):
            writer.execute(write.format(bad))
    assert assert_true(connection) == before
    assert last_entry(connection) == seq


@pytest.mark.parametrize("stored", ["VIRTUAL", "STORED"])
def test_a_malformed_generated_embedding_is_refused(memory, stored):
    memory.execute(f"CREATE TABLE docs(id INTEGER PRIMARY KEY, a, embedding BLOB AS (a) {stored})")
    memory.execute("INSERT INTO docs(a) VALUES (?), (NULL)", [vector(1, 2)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for write in ("INSERT INTO docs(a) VALUES ('x')", "UPDATE docs SET a = X'00'"):
        with pytest.raises(sqlite3.IntegrityError, match=r"docs\.embedding must be NULL or a BLOB of 8 bytes"):
            memory.execute(write)
    assert_true(memory)


def test_the_length_is_known_once_there_are_rows(memory):
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for bad in ("x", b"", b"123"):
        with pytest.raises(sqlite3.IntegrityError, match=r"^docs\.embedding must be NULL or a BLOB of float32 components$"):
            memory.execute("INSERT INTO docs(embedding) VALUES (?)", [bad])
    memory.execute("INSERT INTO docs(embedding) VALUES (?)", [vector(1, 2)])
    assert_true(memory)
    memory.execute("INSERT INTO docs_index(docs_index) VALUES ('rebuild')")
    with pytest.raises(sqlite3.IntegrityError, match="8 bytes"):
        memory.execute("INSERT INTO docs(embedding) VALUES (?)", [vector(1, 2, 3)])
    memory.execute("CREATE TABLE other(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.execute("CREATE VIRTUAL TABLE other_index USING faiss(main, other, dimension=3)")
    with pytest.raises(sqlite3.IntegrityError, match=r"^other\.embedding must be NULL or a BLOB of 12 bytes \(3 float32\)$"):
        memory.execute("INSERT INTO other(embedding) VALUES (?)", [vector(1, 2)])


def test_strict_off_takes_malformed_rows(path, connect):
    connection = connect(path)
    connection.execute("DROP TABLE docs_index")
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, strict=off)")
    before = assert_true(connection)
    connection.execute("INSERT INTO docs(pk, embedding, mail) VALUES (99, 'x', 'm')")
    assert rows(connection, "SELECT id, score FROM docs_index(?)", [QUERY]) == before
    assert rows(connection, "SELECT left_out, live FROM faiss_indexes") == [(1, "yes")]
    connection.execute("UPDATE docs SET embedding = ? WHERE pk = 99", [vector(0, 0)])
    assert_true(connection)
    # One table that is strict is enough.
    connection.execute("CREATE VIRTUAL TABLE second USING faiss(main, docs, metric=ip)")
    with pytest.raises(sqlite3.IntegrityError, match="8 bytes"):
        connection.execute("INSERT INTO docs(embedding, mail) VALUES ('x', 'n')")
    connection.execute("DROP TABLE second")
    connection.execute("INSERT INTO docs(embedding, mail) VALUES ('x', 'n')")


@pytest.mark.parametrize("name", ["it's", 'do"cs', "a{log}b", "{trim}", "100%s", "two words", "[x]", "select", "docs_faiss_log", "Üñï"])
def test_names_in_triggers(memory, name):
    table, embedding = quote(name), quote(name + "_vector")
    memory.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, {embedding} BLOB, {quote(name + '_u')} UNIQUE)")
    memory.execute(f"INSERT INTO {table} VALUES (1, ?, 1), (2, ?, 2)", [vector(1, 2), vector(3, 4)])
    memory.execute(f"CREATE VIRTUAL TABLE near USING faiss(main, {table}, embedding={embedding})")
    rows(memory, "SELECT id FROM near('[0, 0]')")
    with logging(memory, quote(name + "_faiss_log"), f"(SELECT id, {embedding} AS embedding FROM {table})", "id"):
        memory.execute(f"REPLACE INTO {table} VALUES (7, ?, 2)", [vector(0, 1)])
    assert rows(memory, "SELECT id, score FROM near('[0, 0]')") == [(7, 1.0), (1, 5.0)]
    assert live(memory, name) == "yes"
    with pytest.raises(sqlite3.IntegrityError) as error:
        memory.execute(f"INSERT INTO {table} VALUES (8, 'x', 8)")
    assert str(error.value) == f"{name}.{name}_vector must be NULL or a BLOB of 8 bytes (2 float32)"
    memory.execute("DROP TABLE near")
    assert column(memory, "SELECT name FROM sqlite_schema WHERE type <> 'index'") == [name]


# --- the ring -------------------------------------------------------------------------------------


def test_the_log_is_a_ring(path, connect):
    """Of bounded length; a reader that is further behind than it reaches is right all the same."""
    writer, behind, abreast = connect(path), connect(path), connect(path)
    writer.execute("PRAGMA synchronous = OFF")
    for each in (behind, abreast):
        assert_true(each)
    for step in range(20):
        writer.execute("BEGIN")
        writer.executemany("UPDATE docs SET embedding = ? WHERE pk = ?",
                           [(vector((i + step) % 7 - 3, i % 5), i % 40 + 1) for i in range(10_000)])
        writer.execute("COMMIT")
        assert_true(abreast)
        assert scalar(writer, "SELECT count(*) FROM docs_faiss_log") <= 65536 + 1024
    assert last_entry(writer) >= 200_000
    assert_true(behind)
    assert live(behind) == live(abreast) == "yes"
    assert scalar(writer, "SELECT count(*) FROM docs_faiss_log") >= 65536
    writer.execute("VACUUM")
    assert path.stat().st_size < 4_000_000


@pytest.mark.parametrize(
    "write",
    ["UPDATE docs SET embedding = embedding", "REPLACE INTO docs SELECT pk + 1000, id, embedding, u FROM docs",
     "UPDATE docs SET id = -id, u = u + 1000", "UPDATE docs SET pk = -pk"],
)
def test_the_log_is_bounded_whatever_fills_it(memory, write):
    memory.execute("CREATE TABLE docs(pk INTEGER PRIMARY KEY, id, embedding BLOB, u UNIQUE)")
    memory.executemany("INSERT INTO docs VALUES (?, ?, ?, ?)", [(i, i, vector(i % 9, 0), i) for i in range(1, 1001)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert_true(memory)
    while last_entry(memory) < 150_000:
        memory.execute(write)
    assert scalar(memory, "SELECT count(*) FROM docs_faiss_log") <= 65536 + 4096
    assert_true(memory)
    assert live(memory) == "yes"


def test_a_reader_in_an_old_snapshot_while_the_ring_goes_round(path, connect):
    writer, reader, cold = connect(path), connect(path), connect(path)
    for each in (writer, reader):
        each.execute("PRAGMA journal_mode = wal").fetchone()
    before = assert_true(reader)
    for each in (reader, cold):
        each.execute("BEGIN")
        scalar(each, "SELECT count(*) FROM docs")
    for _ in range(8):
        writer.execute("BEGIN")
        for _ in range(250):
            writer.execute("UPDATE docs SET embedding = ?", [vector(1, 1)])
        writer.execute("COMMIT")
        assert_true(writer)
    assert scalar(writer, "SELECT min(seq) FROM docs_faiss_log") > scalar(reader, "SELECT max(seq) FROM docs_faiss_log")
    for each in (reader, cold):
        assert assert_true(each) == before
        each.execute("COMMIT")
        assert_true(each)


def test_rowids_do_not_cut_the_log(memory):
    """The ring is cut by the numbers of its own entries, whatever rowids the source has."""
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, u UNIQUE)")
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, dimension=2)")
    for i in range(1, 6):
        memory.execute("INSERT INTO docs VALUES (?, ?, ?)", [i << 40, vector(i, 0), i])
        assert_true(memory)
    memory.execute("UPDATE docs SET u = u + 10")
    assert column(memory, "SELECT row FROM docs_faiss_log") == [None] + [i << 40 for i in range(1, 6)]
