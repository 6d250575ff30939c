"""What may be searched: every kind of table and database, and how each is named."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

import oracle
from database import ROOT, column, fill, plain, quote, rows, scalar, vector

QUERY = vector(0, 0)
NEAREST = [(1, 0.0), (3, 1.0), (6, 4.0), (2, 25.0), (4, 100.0)]  # of conftest.DOCS
IDS = "[1, 3, 6, 2, 4]"

SEARCH = "SELECT faiss_search(?, ?, '[0, 0]', 100)"
TABLE = "SELECT id, score FROM faiss_search(?, ?, '[0, 0]')"


def assert_searchable(connection, database="main", table="docs", expected=NEAREST):
    assert rows(connection, TABLE, [database, table]) == expected
    assert (
        scalar(connection, SEARCH, [database, table]) == "[" + ", ".join(str(id) for id, _ in expected) + "]"
    )


@pytest.fixture
def source(memory):
    """The six rows of conftest.DOCS in `docs`, no virtual table."""
    from conftest import DOCS

    fill(memory, DOCS)
    return memory


def file_of(path, vectors, table="docs", first=1):
    connection = plain(path)
    fill(connection, vectors, table, first)
    connection.close()
    return path


# --- kinds of tables ----------------------------------------------------------------------------


def test_views(source):
    source.execute("CREATE VIEW near AS SELECT id, embedding FROM docs WHERE id <> 3")
    source.execute("CREATE VIEW doubled AS SELECT id, embedding FROM docs UNION ALL SELECT -id, embedding FROM docs")
    assert_searchable(source, table="near", expected=[pair for pair in NEAREST if pair[0] != 3])
    source.execute("CREATE VIRTUAL TABLE near_index USING faiss(main, near)")
    expected = [pair for pair in NEAREST if pair[0] != 3]
    assert rows(source, "SELECT id, score FROM near_index('[0, 0]')") == expected
    assert rows(source, "SELECT id, score FROM near_index('[0, 0]', 2)") == expected[:2]
    assert rows(source, "SELECT id, score FROM near_index WHERE id = 6 AND embedding MATCH '[0, 0]'") == [(6, 4.0)]
    assert rows(source, "SELECT id, score FROM near_index") == [(id, None) for id in (1, 2, 4, 6)]
    source.execute("INSERT INTO docs VALUES (7, ?)", [vector(1, 1)])
    assert rows(source, "SELECT id, score FROM near_index('[0, 0]', 2)") == [(1, 0.0), (7, 2.0)]
    found = rows(source, "SELECT id, score FROM faiss_search('main', 'doubled', '[0, 0]')")
    assert sorted(found) == sorted(
        (sign * id, score) for id, score in NEAREST + [(7, 2.0)] for sign in (1, -1)
    )


def test_a_view_that_changes_by_itself(source):
    """Nothing in the file says that this view's rows are others now: a clock, or a function's mind."""
    shown = [9]
    source.create_function("last_shown", 0, lambda: shown[0])
    source.execute("CREATE VIEW seen AS SELECT id, embedding FROM docs WHERE id <= last_shown()")
    source.execute("CREATE VIRTUAL TABLE seen_index USING faiss(main, seen)")
    for limit in (3, 1, 6, 2):
        shown[0] = limit
        expected = [pair for pair in NEAREST if pair[0] <= limit]
        assert_searchable(source, table="seen", expected=expected)
        assert rows(source, "SELECT id, score FROM seen_index('[0, 0]')") == expected


def test_a_view_over_a_virtual_table(source):
    """Its rows may live outside the database."""
    source.execute("CREATE TEMP TABLE list(value)")
    source.execute(
        "CREATE TEMP VIEW seen AS SELECT key AS id, faiss_encode(json_array(value, 0)) AS embedding"
        " FROM json_each((SELECT value FROM list))"
    )
    for numbers in ("[3, 1]", "[2, 0, 1]", "[]"):
        source.execute("DELETE FROM list")
        source.execute("INSERT INTO list VALUES (?)", [numbers])
        pairs = sorted((float(n * n), place) for place, n in enumerate(json.loads(numbers)))
        assert_searchable(source, "temp", "seen", [(id, score) for score, id in pairs])


def test_a_view_in_its_own_order(source):
    """A view has no rowid: ties come in the order in which it gives its rows."""
    source.execute("CREATE VIEW backwards AS SELECT id, X'00000000' AS embedding FROM docs ORDER BY id DESC")
    assert scalar(source, "SELECT faiss_search('main', 'backwards', '[0]', 4)") == "[6, 5, 4, 3]"


def test_a_temp_view_over_another_schema(source):
    source.execute("CREATE TEMP VIEW docs_view AS SELECT id, embedding FROM main.docs")
    assert_searchable(source, "temp", "docs_view")


def test_joins_with_a_view_both_ways(source):
    source.execute("CREATE VIEW v AS SELECT id, embedding FROM docs")
    source.execute("CREATE VIRTUAL TABLE v_index USING faiss(main, v)")
    for k, expected in (("", NEAREST), (" AND n.k = 3", NEAREST[:3])):
        for order in ("docs d CROSS JOIN v_index n", "v_index n CROSS JOIN docs d"):
            assert sorted(
                rows(
                    source,
                    f"SELECT d.id, n.score FROM {order} WHERE n.id = d.id AND n.embedding MATCH '[0, 0]'{k}",
                )
            ) == sorted(expected)


@pytest.mark.parametrize(
    "key", ["id INTEGER PRIMARY KEY", "id TEXT PRIMARY KEY", "part, id, PRIMARY KEY (part, id)",
            "id, part, PRIMARY KEY (part DESC, id)"]
)
def test_without_rowid(memory, key):
    head, separator, primary = key.partition(", PRIMARY KEY")
    memory.execute(f"CREATE TABLE docs({head}, embedding BLOB{separator}{primary}) WITHOUT ROWID")
    parts = "part" in key
    for id, place in ((5, 1), (2, 0), (9, 1), (4, 1), (7, 2)):
        if parts:
            memory.execute(
                "INSERT INTO docs(part, id, embedding) VALUES (?, ?, ?)", [id % 2, id, vector(place)]
            )
        else:
            memory.execute("INSERT INTO docs(id, embedding) VALUES (?, ?)", [id, vector(place)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")

    def expected():
        """Ties in the order of the primary key, which is the order of a scan."""
        return oracle.nearest(
            [
                (place, *row)
                for place, row in enumerate(rows(memory, "SELECT id, embedding FROM docs NOT INDEXED"))
            ],
            vector(0),
        )

    assert rows(memory, "SELECT id, score FROM docs_index('[0]')") == expected()
    assert rows(memory, "SELECT id, score FROM faiss_search('main', 'docs', '[0]', 3)") == expected()[:3]
    memory.execute("UPDATE docs SET id = CASE id WHEN 5 THEN 50 ELSE id END")
    memory.execute("UPDATE docs SET embedding = ? WHERE id = 7", [vector(0)])
    memory.execute("DELETE FROM docs WHERE id = 9")
    assert rows(memory, "SELECT id, score FROM docs_index('[0]')") == expected()
    assert rows(memory, "SELECT id, score FROM docs_index WHERE id = 4 AND embedding MATCH '[0]'") == [
        pair for pair in expected() if pair[0] in (4, "4")
    ]
    assert column(memory, "SELECT id FROM docs_index ORDER BY id") == column(
        memory, "SELECT id FROM docs ORDER BY id"
    )


@pytest.mark.parametrize(
    "columns",
    [
        "rowid TEXT, id INTEGER PRIMARY KEY",
        "_rowid_ TEXT, id INTEGER PRIMARY KEY",
        "oid TEXT, id INTEGER PRIMARY KEY",
        "rowid TEXT, _rowid_ TEXT, id INTEGER",
        "rowid TEXT, oid TEXT, id INTEGER",
        "ROWID TEXT, OID TEXT, id INTEGER",
        "rowid TEXT, _rowid_ TEXT, oid TEXT, id INTEGER",
        "rowid TEXT, _rowid_ TEXT, oid TEXT, id INTEGER PRIMARY KEY",
        "rowid INTEGER PRIMARY KEY, id INTEGER",
        "oid INTEGER PRIMARY KEY, id INTEGER",
    ],
)
def test_columns_that_take_a_rowid_name(memory, columns):
    memory.execute(f"CREATE TABLE docs({columns}, embedding BLOB)")
    for id, place in ((5, 3), (2, 1), (9, 1)):
        memory.execute("INSERT INTO docs(id, embedding) VALUES (?, ?)", [id, vector(place)])
    if "rowid TEXT" in columns:
        memory.execute("UPDATE docs SET rowid = 'same'")
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    expected = [(2, 1.0), (9, 1.0), (5, 9.0)]
    assert rows(memory, "SELECT id, score FROM docs_index('[0]')") == expected
    assert rows(memory, "SELECT id, score FROM faiss_search('main', 'docs', '[0]', 5)") == expected
    memory.execute("UPDATE docs SET embedding = ? WHERE id = 9", [vector(0)])
    memory.execute("DELETE FROM docs WHERE id = 2")
    assert rows(memory, "SELECT id, score FROM docs_index('[0]')") == [(9, 0.0), (5, 9.0)]
    assert rows(memory, "SELECT id, score FROM docs_index WHERE id = 5 AND embedding MATCH '[0]'") == [(5, 9.0)]


@pytest.mark.parametrize("stored", ["STORED", "VIRTUAL"])
def test_a_generated_embedding(memory, stored):
    memory.execute(
        f"CREATE TABLE docs(id INTEGER PRIMARY KEY, text, embedding BLOB AS (faiss_encode(text)) {stored})"
    )
    memory.execute("INSERT INTO docs(text) VALUES ('[3, 4]'), ('[0, 1]'), (NULL)")
    assert_searchable(memory, expected=[(2, 1.0), (1, 25.0)])
    memory.execute("UPDATE docs SET text = '[0, 0]' WHERE id = 1")
    assert_searchable(memory, expected=[(1, 0.0), (2, 1.0)])


def test_another_virtual_table_as_source(memory):
    memory.execute("CREATE VIRTUAL TABLE notes USING fts5(id UNINDEXED, embedding UNINDEXED, body)")
    memory.execute("INSERT INTO notes VALUES (1, ?, 'a'), (2, ?, 'b')", [vector(2, 0), vector(1, 0)])
    assert_searchable(memory, table="notes", expected=[(2, 1.0), (1, 4.0)])
    memory.execute("DELETE FROM notes WHERE body MATCH 'b'")
    assert_searchable(memory, table="notes", expected=[(1, 4.0)])


def test_strict_tables_and_many_columns(memory):
    others = ", ".join(f"c{n} TEXT" for n in range(300))
    memory.execute(f"CREATE TABLE docs(id INTEGER PRIMARY KEY, {others}, embedding BLOB) STRICT")
    memory.execute("INSERT INTO docs(id, c7, embedding) VALUES (1, ?, ?)", ["x" * 20000, vector(1, 1)])
    assert_searchable(memory, expected=[(1, 2.0)])


# --- kinds of databases -------------------------------------------------------------------------


def test_attached(tmp_path, connect):
    from conftest import DOCS

    file_of(tmp_path / "far.db", DOCS)
    connection = connect(tmp_path / "near.db")
    connection.execute("ATTACH ? AS aux", [str(tmp_path / "far.db")])
    assert_searchable(connection, "aux")
    assert_searchable(connection, "far")
    connection.execute("CREATE VIRTUAL TABLE here USING faiss(aux, docs)")
    connection.execute("CREATE VIRTUAL TABLE aux.docs_index USING faiss(main, docs)")  # main: where it lives
    for table in ("here", "docs_index", "aux.docs_index"):
        assert rows(connection, f"SELECT id, score FROM {table} WHERE embedding MATCH '[0, 0]'") == NEAREST
    connection.close()
    alone = connect(tmp_path / "far.db")
    assert rows(alone, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST
    alone.execute("ATTACH ? AS other_name", [str(tmp_path / "far.db")])
    assert rows(alone, "SELECT id, score FROM other_name.docs_index WHERE embedding MATCH '[0, 0]'") == NEAREST


def test_main_means_the_schema_the_table_lives_in(tmp_path, connect):
    file_of(tmp_path / "a.db", [(1, 0)], first=10)
    file_of(tmp_path / "b.db", [(2, 0)], first=20)
    connection = connect(tmp_path / "a.db")
    connection.execute("ATTACH ? AS b", [str(tmp_path / "b.db")])
    connection.execute("CREATE VIRTUAL TABLE a_index USING faiss(main, docs)")
    connection.execute("CREATE VIRTUAL TABLE b.b_index USING faiss(main, docs)")
    assert rows(connection, "SELECT id FROM a_index('[0, 0]')") == [(10,)]
    assert rows(connection, "SELECT id FROM b_index('[0, 0]')") == [(20,)]
    assert_searchable(connection, "main", expected=[(10, 1.0)])
    assert_searchable(connection, "b", expected=[(20, 4.0)])


def test_temp(source):
    source.execute("CREATE TEMP TABLE passing(id INTEGER PRIMARY KEY, embedding BLOB)")
    source.execute("INSERT INTO passing SELECT * FROM docs WHERE id <> 1")
    expected = NEAREST[1:]
    assert_searchable(source, "temp", "passing", expected)
    source.execute("CREATE VIRTUAL TABLE temp.passing_index USING faiss(temp, passing)")
    source.execute("CREATE VIRTUAL TABLE temp.docs_index USING faiss(main, docs)")  # as written
    assert rows(source, "SELECT id, score FROM passing_index('[0, 0]')") == expected
    assert rows(source, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST
    source.execute("DELETE FROM temp.passing WHERE id = 3")
    assert rows(source, "SELECT id, score FROM passing_index('[0, 0]')") == expected[1:]
    source.execute("DROP TABLE temp.docs_index")
    assert column(source, "SELECT name FROM sqlite_schema") == ["docs"]


def test_a_temp_table_does_not_hide_the_table_named(source):
    """'main' is main, though plain SQL would find the temp table first."""
    source.execute("CREATE TEMP TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    source.execute("INSERT INTO temp.docs VALUES (77, ?)", [QUERY])
    source.execute("CREATE VIRTUAL TABLE main.docs_index USING faiss(main, docs)")
    assert_searchable(source, "main")
    assert_searchable(source, "temp", expected=[(77, 0.0)])
    assert rows(source, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST


def test_memory_databases_are_apart(connect):
    first, second = connect(), connect()
    fill(first, [(1, 0)])
    fill(second, [(2, 0), (0, 0)])
    for _ in range(2):
        assert_searchable(first, expected=[(1, 1.0)])
        assert_searchable(second, expected=[(2, 0.0), (1, 4.0)])
    first.execute("ATTACH ':memory:' AS m")
    first.execute("CREATE TABLE m.docs(id INTEGER, embedding BLOB)")
    assert_searchable(first, "m", expected=[])
    first.execute("INSERT INTO m.docs VALUES (4, ?)", [QUERY])
    assert_searchable(first, "m", expected=[(4, 0.0)])
    assert_searchable(first, expected=[(1, 1.0)])


def test_memory_databases_attached_under_one_name(connect):
    """The same name, the same statements, the same counters: another database all the same."""
    connection = connect()
    for place in range(6):
        connection.execute("ATTACH ':memory:' AS m")
        connection.execute("CREATE TABLE m.docs(id INTEGER PRIMARY KEY, embedding BLOB)")
        connection.execute("INSERT INTO m.docs VALUES (1, ?)", [vector(place, 0)])
        for _ in range(2):
            assert_searchable(connection, "m", expected=[(1, float(place**2))])
        connection.execute("DETACH m")


def test_a_deserialized_database(connect):
    """sqlite3_deserialize puts another database in the place of one."""
    images = []
    for place in range(3):
        other = connect()
        fill(other, [(place, 0)])
        images.append(other.serialize())
    connection = connect()
    for _ in range(2):
        for place, image in enumerate(images):
            connection.deserialize(image)
            for _ in range(2):
                assert_searchable(connection, expected=[(1, float(place**2))])
            connection.execute("UPDATE docs SET embedding = ?", [vector(place + 10, 0)])
            assert_searchable(connection, expected=[(1, float((place + 10) ** 2))])


def test_memory_databases_one_after_the_other(connect):
    """Each takes up the memory, and maybe the handles, of the last."""
    for place in range(20):
        connection = connect()
        fill(connection, [(place, 0)] * (place % 3 + 1))
        assert_searchable(connection, expected=[(n + 1, float(place**2)) for n in range(place % 3 + 1)])
        connection.close()


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_read_only(docs_file, connect, journal):
    plain(docs_file).execute(f"PRAGMA journal_mode = {journal}").fetchone()
    connection = connect(f"file:{docs_file}?mode=ro", uri=True)
    assert_searchable(connection)
    assert rows(connection, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST
    connection.execute("CREATE VIRTUAL TABLE temp.mine USING faiss(main, docs, metric=ip)")
    assert column(connection, "SELECT id FROM mine('[1, 0]', 1)") == [4]
    writer = plain(docs_file)
    writer.execute("INSERT INTO docs VALUES (9, ?)", [QUERY])
    assert column(connection, "SELECT id FROM docs_index('[0, 0]', 2)") == [1, 9]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("CREATE VIRTUAL TABLE other USING faiss(main, docs)")
    assert column(connection, "SELECT id FROM docs_index('[0, 0]', 2)") == [1, 9]


def test_query_only(docs):
    docs.execute("PRAGMA query_only = ON")
    assert_searchable(docs)
    assert rows(docs, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST


def test_immutable(docs_file, connect):
    connections = [connect(f"file:{docs_file}?immutable=1", uri=True) for _ in range(2)]
    os.chmod(docs_file, 0o444)
    for connection in connections:
        assert_searchable(connection)
        assert rows(connection, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST
    ordinary = connect(docs_file)
    assert_searchable(ordinary)


def test_an_immutable_file_that_was_replaced_while_closed(docs_file, tmp_path, connect):
    connection = connect(f"file:{docs_file}?immutable=1", uri=True)
    assert_searchable(connection)
    connection.close()
    file_of(tmp_path / "new.db", [(7, 0)])
    shutil.copyfile(tmp_path / "new.db", docs_file)  # the same inode
    connection = connect(f"file:{docs_file}?immutable=1", uri=True)
    assert_searchable(connection, expected=[(1, 49.0)])


@pytest.fixture(params=["memory", "file"])
def shared_cache(request, tmp_path):
    """The URI of a database whose cache connections share."""
    if request.param == "memory":
        return f"file:{tmp_path.name}?mode=memory&cache=shared"
    return f"file:{tmp_path}/shared.db?cache=shared"


def test_shared_cache(shared_cache, connect):
    first, second = connect(shared_cache, uri=True), connect(shared_cache, uri=True)
    fill(first, [(1, 0), (2, 0)])
    first.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for _ in range(2):
        for connection in (first, second):
            assert_searchable(connection, expected=[(1, 1.0), (2, 4.0)])
            assert column(connection, "SELECT id FROM docs_index('[0, 0]')") == [1, 2]
    second.execute("UPDATE docs SET embedding = ? WHERE id = 1", [vector(3, 0)])
    for connection in (first, second):
        assert_searchable(connection, expected=[(2, 4.0), (1, 9.0)])
    first.execute("DELETE FROM docs WHERE id = 2")
    for connection in (second, first):
        assert_searchable(connection, expected=[(1, 9.0)])
    second.execute("BEGIN")
    second.execute("INSERT INTO docs VALUES (3, ?)", [QUERY])
    assert_searchable(second, expected=[(3, 0.0), (1, 9.0)])
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        rows(first, "SELECT * FROM docs")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        rows(first, TABLE, ["main", "docs"])
    second.execute("ROLLBACK")
    for connection in (first, second):
        assert_searchable(connection, expected=[(1, 9.0)])


def test_shared_cache_reading_uncommitted(shared_cache, connect):
    """PRAGMA read_uncommitted shows another connection's open transaction: so does a search."""
    writer, reader = connect(shared_cache, uri=True), connect(shared_cache, uri=True)
    fill(writer, [(1, 0)])
    reader.execute("PRAGMA read_uncommitted = 1")
    assert_searchable(reader, expected=[(1, 1.0)])
    writer.execute("BEGIN")
    writer.execute("INSERT INTO docs VALUES (2, ?)", [QUERY])
    assert_searchable(reader, expected=[(2, 0.0), (1, 1.0)])
    writer.execute("ROLLBACK")
    assert_searchable(reader, expected=[(1, 1.0)])


# --- names --------------------------------------------------------------------------------------

NAMES = ["my docs", 'say "hi"', "[bracket]", "it's", "таблица", "日本", "select", "table", "123", "a.b",
         "back`tick", "semi;colon", "per%cent", "-- comment", "x,y", "a=b", " ", "back\\slash", "MiXed"]


@pytest.mark.parametrize("name", NAMES)
def test_table_names(memory, name):
    fill(memory, [(3, 0), (1, 0)], quote(name))
    assert_searchable(memory, table=name, expected=[(2, 1.0), (1, 9.0)])
    memory.execute(f"CREATE VIRTUAL TABLE {quote(name + ' index')} USING faiss(main, {quote(name)})")
    index = quote(name + " index")
    assert rows(memory, f"SELECT id, score FROM {index} WHERE embedding MATCH '[0, 0]'") == [(2, 1.0), (1, 9.0)]
    memory.execute(f"INSERT INTO {index}({index}) VALUES ('integrity-check')")
    with pytest.raises(sqlite3.Error, match="read-only"):
        memory.execute(f"DELETE FROM {index}")
    memory.execute(f"ALTER TABLE {index} RENAME TO {quote(name + ' 2')}")
    assert column(memory, f"SELECT id FROM {quote(name + ' 2')}('[0, 0]', 1)") == [2]
    memory.execute(f"DROP TABLE {quote(name + ' 2')}")
    assert column(memory, "SELECT name FROM sqlite_schema") == [name]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (" ",)])
def test_column_names(memory, name):
    id, embedding = quote(name + " id"), quote(name)
    memory.execute(f"CREATE TABLE docs({id} TEXT, {embedding} BLOB)")
    memory.execute("INSERT INTO docs VALUES ('a', ?), ('b', ?)", [vector(3), vector(1)])
    memory.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, id={id}, embedding={embedding})")
    assert rows(memory, f"SELECT id, score FROM docs_index WHERE {embedding} MATCH '[0]'") == [
        ("b", 1.0), ("a", 9.0)
    ]
    assert rows(memory, f"SELECT id, {embedding} FROM docs_index WHERE id = 'a'") == [("a", vector(3))]


@pytest.mark.parametrize("name", ["my docs", "it's", "таблица", "select", 'say "hi"', "a.b", "MiXed"])
def test_schema_names(tmp_path, connect, name):
    connection = connect()
    connection.execute(f"ATTACH ? AS {quote(name)}", [str(file_of(tmp_path / "x.db", [(3, 0), (1, 0)]))])
    assert_searchable(connection, name, expected=[(2, 1.0), (1, 9.0)])
    assert_searchable(connection, name.upper() if name.isascii() else name, expected=[(2, 1.0), (1, 9.0)])
    connection.execute(f"CREATE VIRTUAL TABLE {quote(name)}.docs_index USING faiss({quote(name)}, docs)")
    connection.execute(f"CREATE VIRTUAL TABLE here USING faiss({quote(name)}, docs)")
    for table in (f"{quote(name)}.docs_index", "here"):
        assert column(connection, f"SELECT id FROM {table} WHERE embedding MATCH '[0, 0]'") == [2, 1]


def test_names_in_any_case(docs):
    """As in SQL itself."""
    assert_searchable(docs, "MAIN", "DOCS")
    assert_searchable(docs, "Main", "Docs_Index")


@pytest.mark.parametrize("stem", ["blog", "my blog", "a.b", "блог", "blog%20x", "it's"])
def test_a_file_is_named_by_its_stem(tmp_path, connect, stem):
    file_of(tmp_path / f"{stem}.db", [(3, 0), (1, 0)])
    assert_searchable(connect(tmp_path / f"{stem}.db"), stem, expected=[(2, 1.0), (1, 9.0)])
    attached = connect()
    attached.execute("ATTACH ? AS aux", [str(tmp_path / f"{stem}.db")])
    assert_searchable(attached, stem, expected=[(2, 1.0), (1, 9.0)])


@pytest.mark.parametrize("name", ["blog", "blog.sqlite", "blog.sqlite3", "blog.db3"])
def test_stems_of_other_suffixes(tmp_path, connect, name):
    file_of(tmp_path / name, [(3, 0), (1, 0)])
    assert_searchable(connect(tmp_path / name), "blog", expected=[(2, 1.0), (1, 9.0)])


def test_a_stem_opened_by_uri(tmp_path, connect):
    file_of(tmp_path / "my blog.db", [(3, 0), (1, 0)])
    connection = connect(f"file:{tmp_path}/my%20blog.db?mode=ro", uri=True)
    assert_searchable(connection, "my blog", expected=[(2, 1.0), (1, 9.0)])


def test_a_schema_name_comes_before_a_stem(tmp_path, connect):
    file_of(tmp_path / "blog.db", [(1, 0)], first=10)
    file_of(tmp_path / "other.db", [(2, 0)], first=20)
    connection = connect(tmp_path / "blog.db")
    assert_searchable(connection, "blog", expected=[(10, 1.0)])
    connection.execute("ATTACH ? AS blog", [str(tmp_path / "other.db")])
    assert_searchable(connection, "blog", expected=[(20, 4.0)])
    assert_searchable(connection, "other", expected=[(20, 4.0)])
    assert_searchable(connection, "main", expected=[(10, 1.0)])
    connection.execute("DETACH blog")
    assert_searchable(connection, "blog", expected=[(10, 1.0)])


def test_two_files_with_the_same_stem(tmp_path, connect):
    """The schema names tell them apart; the stem never means the second one."""
    (tmp_path / "second").mkdir()
    file_of(tmp_path / "blog.db", [(1, 0)], first=10)
    file_of(tmp_path / "second" / "blog.db", [(2, 0)], first=20)
    connection = connect(tmp_path / "blog.db")
    connection.execute("ATTACH ? AS blog_2", [str(tmp_path / "second" / "blog.db")])
    assert_searchable(connection, "main", expected=[(10, 1.0)])
    assert_searchable(connection, "blog_2", expected=[(20, 4.0)])
    try:
        assert_searchable(connection, "blog", expected=[(10, 1.0)])
    except sqlite3.Error as error:
        assert "blog" in str(error)


def test_a_database_that_is_not_open_is_not_opened(docs_file, connect):
    """SQL supplies names, never files to open."""
    connection = connect()
    for name in ("docs", str(docs_file), docs_file.name, f"file:{docs_file}"):
        with pytest.raises(sqlite3.Error, match="(?i)database"):
            scalar(connection, SEARCH, [name, "docs"])


# --- sources that come and go -------------------------------------------------------------------


def test_another_file_attached_under_the_same_name(tmp_path, connect):
    connection = connect()
    for round_ in range(3):
        for name, place in (("a", 1), ("b", 2)):
            path = tmp_path / f"{name}.db"
            if not path.exists():
                file_of(path, [(place, 0)], first=place * 10)
            connection.execute("ATTACH ? AS aux", [str(path)])
            assert_searchable(connection, "aux", expected=[(place * 10, float(place**2))])
            if round_ == 0:
                connection.execute("CREATE VIRTUAL TABLE aux.docs_index USING faiss(main, docs)")
            assert column(connection, "SELECT id FROM aux.docs_index WHERE embedding MATCH '[0, 0]'") == [place * 10]
            connection.execute("DETACH aux")


def test_a_table_over_a_schema_that_is_detached_and_attached(tmp_path, connect):
    file_of(tmp_path / "a.db", [(1, 0)], first=10)
    file_of(tmp_path / "b.db", [(2, 0)], first=20)
    connection = connect()
    connection.execute("ATTACH ? AS aux", [str(tmp_path / "a.db")])
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(aux, docs)")
    assert column(connection, "SELECT id FROM docs_index('[0, 0]')") == [10]
    connection.execute("DETACH aux")
    with pytest.raises(sqlite3.Error, match="aux"):
        rows(connection, "SELECT id FROM docs_index('[0, 0]')")
    connection.execute("ATTACH ? AS aux", [str(tmp_path / "b.db")])
    assert column(connection, "SELECT id FROM docs_index('[0, 0]')") == [20]
    connection.execute("DETACH aux")
    connection.execute("DROP TABLE docs_index")


def test_a_search_does_not_keep_a_database_attached(tmp_path, connect):
    connection = connect()
    connection.execute("ATTACH ? AS aux", [str(file_of(tmp_path / "a.db", [(1, 0)]))])
    connection.execute("SELECT id FROM faiss_search('aux', 'docs', '[0, 0]')").fetchall()
    scalar(connection, SEARCH, ["aux", "docs"])
    connection.execute("DETACH aux")  # "database aux is locked" if a statement were left open
    with pytest.raises(sqlite3.Error, match="aux"):
        scalar(connection, SEARCH, ["aux", "docs"])


def test_the_same_file_changed_while_detached(tmp_path, connect):
    path = file_of(tmp_path / "a.db", [(1, 0)])
    connection = connect()
    for place in range(5):
        connection.execute("ATTACH ? AS aux", [str(path)])
        assert_searchable(connection, "aux", expected=[(1, float((place + 1) ** 2))])
        connection.execute("DETACH aux")
        plain(path).execute("UPDATE docs SET embedding = ?", [vector(place + 2, 0)])


def test_a_file_replaced_while_closed(tmp_path, connect):
    """The same name, and with copyfile the same inode, is not the same state."""
    path, older, newer = (tmp_path / name for name in ("docs.db", "older.db", "newer.db"))
    file_of(older, [(1, 0)])
    file_of(newer, [(2, 0)])
    for _ in range(3):
        for copy, place in ((older, 1), (newer, 2)):
            shutil.copyfile(copy, path)
            connection = connect(path)
            assert_searchable(connection, expected=[(1, float(place**2))])
            connection.close()
        for copy, place in ((older, 1), (newer, 2)):
            path.unlink()
            shutil.copyfile(copy, path)
            connection = connect(path)
            assert_searchable(connection, expected=[(1, float(place**2))])
            connection.close()


def test_a_source_dropped_and_made_again(docs):
    docs.execute("CREATE TABLE bystander AS SELECT 1 AS x")
    assert_searchable(docs)
    docs.execute("DROP TABLE docs")
    with pytest.raises(sqlite3.Error, match=r"\bdocs\b"):
        rows(docs, "SELECT id FROM docs_index('[0, 0]')")
    with pytest.raises(sqlite3.Error, match=r"\bdocs\b"):
        scalar(docs, SEARCH, ["main", "docs"])
    assert rows(docs, "SELECT x FROM bystander") == [(1,)]
    fill(docs, [(7, 0)], first=70)
    assert rows(docs, "SELECT id, score FROM docs_index('[0, 0]')") == [(70, 49.0)]
    assert_searchable(docs, expected=[(70, 49.0)])
    docs.execute("DROP TABLE docs")
    docs.execute("DROP TABLE docs_index")
    assert column(docs, "SELECT name FROM sqlite_schema") == ["bystander"]


def test_a_source_made_again_with_another_dimension(source):
    assert_searchable(source)
    source.execute("DROP TABLE docs")
    fill(source, [(1, 2, 3)])
    assert rows(source, "SELECT id, score FROM faiss_search('main', 'docs', '[0, 0, 0]')") == [(1, 14.0)]
    source.execute("DELETE FROM docs")
    source.execute("INSERT INTO docs VALUES (5, ?)", [vector(9)])
    assert scalar(source, "SELECT faiss_search_with_scores('main', 'docs', '[0]', 1)") == "[[5, 81.0]]"


def test_a_source_made_again_as_another_kind(source):
    assert_searchable(source)
    source.execute("ALTER TABLE docs RENAME TO stored")
    source.execute("CREATE VIEW docs AS SELECT id, embedding FROM stored WHERE id > 1")
    assert_searchable(source, expected=NEAREST[1:])
    source.execute("DROP VIEW docs")
    source.execute("CREATE TABLE docs(embedding BLOB, id TEXT PRIMARY KEY) WITHOUT ROWID")
    source.execute("INSERT INTO docs SELECT embedding, id FROM stored WHERE id = 2")
    assert rows(source, TABLE, ["main", "docs"]) == [("2", 25.0)]


def test_a_renamed_source(docs):
    assert_searchable(docs)
    docs.execute("ALTER TABLE docs RENAME TO papers")
    assert_searchable(docs, table="papers")
    with pytest.raises(sqlite3.Error, match=r"\bdocs\b"):
        rows(docs, "SELECT id FROM docs_index('[0, 0]')")
    docs.execute("ALTER TABLE papers RENAME TO docs")
    assert rows(docs, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST


def test_the_embedding_column_of_a_live_table_cannot_be_dropped(docs):
    """SQLite refuses it as long as triggers name the column."""
    for _ in range(2):
        with pytest.raises(sqlite3.OperationalError, match="docs_faiss_.*embedding"):
            docs.execute("ALTER TABLE docs DROP COLUMN embedding")
        assert rows(docs, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST
    docs.execute("INSERT INTO docs VALUES (70, ?)", [vector(20, 0)])
    assert rows(docs, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST + [(70, 400.0)]
    docs.execute("DROP TABLE docs_index")
    docs.execute("ALTER TABLE docs DROP COLUMN embedding")


@pytest.mark.parametrize("live", ["on", "off"])
def test_a_dropped_column(docs, live):
    docs.execute("DROP TABLE docs_index")
    docs.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live={live})")
    docs.execute("ALTER TABLE docs ADD COLUMN note TEXT DEFAULT 'n'")
    assert rows(docs, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST
    docs.execute("ALTER TABLE docs DROP COLUMN note")
    assert rows(docs, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST
    if live == "on":
        for name in column(docs, "SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
            docs.execute(f"DROP TRIGGER {name}")
    docs.execute("ALTER TABLE docs DROP COLUMN embedding")
    for sql in ("SELECT id FROM docs_index('[0, 0]')", "SELECT id FROM docs_index",
                "SELECT id FROM faiss_search('main', 'docs', '[0, 0]')"):
        with pytest.raises(sqlite3.Error, match=r"(?s)(?=.*\bdocs\b)(?=.*embedding)"):
            rows(docs, sql)
    docs.execute("DROP TABLE docs_index")
    assert column(docs, "SELECT name FROM sqlite_schema") == ["docs"]


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE docs",
        "ALTER TABLE docs RENAME TO gone",
        "ALTER TABLE docs RENAME COLUMN id TO key",
        "ALTER TABLE docs RENAME COLUMN embedding TO vec",
        "DROP TABLE docs; CREATE TABLE docs(x)",
        "DROP TABLE docs; CREATE VIEW docs AS SELECT * FROM nowhere",
        "DROP TABLE docs; CREATE VIEW docs AS SELECT id, embedding FROM docs_index",
    ],
)
@pytest.mark.parametrize("by", ["itself", "another"])
def test_the_file_stays_usable_when_a_source_is_gone(docs_file, connect, damage, by):
    connection = connect(docs_file)
    assert rows(connection, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST
    connection.execute("CREATE TABLE bystander AS SELECT 1 AS x")
    (connection if by == "itself" else plain(docs_file)).executescript(damage)
    for each in (connection, connect(docs_file)):
        assert rows(each, "SELECT x FROM bystander") == [(1,)]
        assert "docs_index" in column(each, "SELECT name FROM pragma_table_list")
        assert "id" in column(each, "SELECT name FROM pragma_table_xinfo('docs_index')")
        if "RENAME COLUMN id" not in damage:  # the id then is the rowid, or an error: both are fine
            for sql in ("SELECT id FROM docs_index('[0, 0]')", "SELECT id FROM docs_index('[0, 0]', 3)",
                        "SELECT id FROM docs_index", "SELECT id FROM docs_index WHERE id = 1"):
                with pytest.raises(sqlite3.Error, match="docs"):
                    rows(each, sql)
        each.execute("INSERT INTO bystander VALUES (2)")
        each.execute("DELETE FROM bystander WHERE x = 2")
    each.execute("ALTER TABLE bystander ADD COLUMN y")
    each.execute("DROP TABLE docs_index")
    assert not any("docs_index" in name for name in column(each, "SELECT name FROM sqlite_schema"))


def test_created_before_its_rows(memory):
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, dimension=2)")
    assert rows(memory, "SELECT id FROM docs_index('[0, 0]')") == []
    memory.execute("INSERT INTO docs VALUES (1, ?)", [vector(1, 2)])
    assert rows(memory, "SELECT id, score FROM docs_index('[0, 0]')") == [(1, 5.0)]


# --- sources that are no sources ----------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        "CREATE VIRTUAL TABLE bad USING faiss(main, docs_index)",
        "CREATE VIEW v AS SELECT id, embedding FROM docs_index; CREATE VIRTUAL TABLE bad USING faiss(main, v)",
        "CREATE VIEW v AS SELECT id, embedding FROM docs_index; CREATE VIEW w AS SELECT * FROM v;"
        "CREATE VIRTUAL TABLE bad USING faiss(main, w)",
        "CREATE VIEW v AS SELECT id, embedding FROM faiss_search('main', 'docs', '[0, 0]');"
        "CREATE VIRTUAL TABLE bad USING faiss(main, v)",
        "CREATE VIRTUAL TABLE bad USING faiss(main, bad)",
        "CREATE VIRTUAL TABLE bad USING faiss(main, bad_config)",
    ],
)
def test_a_source_that_reads_a_faiss_table_is_refused(docs, make):
    with pytest.raises(sqlite3.Error, match="(?i)faiss|no such|table"):
        docs.executescript(make)
    assert "bad" not in column(docs, "SELECT name FROM sqlite_schema")
    assert rows(docs, "SELECT id, score FROM docs_index('[0, 0]')") == NEAREST


def test_a_view_over_a_faiss_table_is_no_source_of_the_functions(docs):
    docs.execute("CREATE VIEW v AS SELECT id, embedding FROM docs_index")
    with pytest.raises(sqlite3.Error, match=r"(?is)(?=.*\bv\b)(?=.*faiss)"):
        scalar(docs, SEARCH, ["main", "v"])
    with pytest.raises(sqlite3.Error, match=r"(?is)(?=.*\bv\b)(?=.*faiss)"):
        rows(docs, TABLE, ["main", "v"])


CIRCLES = {
    "table": "DROP TABLE docs; CREATE VIEW docs AS SELECT id, embedding FROM docs_index;"
    "SELECT id FROM docs_index('[0, 0]')",
    "table function": "CREATE VIEW v AS SELECT id, faiss_encode('[0, 0]') AS embedding"
    " FROM faiss_search('main', 'v', '[0, 0]'); SELECT id FROM faiss_search('main', 'v', '[0, 0]')",
    "function": "CREATE VIEW v AS SELECT 1 AS id, CAST(faiss_search('main', 'v', '[0, 0]', 1) AS BLOB)"
    " AS embedding; SELECT faiss_search('main', 'v', '[0, 0]', 1)",
    "two views": "CREATE VIEW v AS SELECT 1 AS id, faiss_encode(faiss_search('main', 'w', '[0, 0]', 1)) AS embedding;"
    "CREATE VIEW w AS SELECT 1 AS id, faiss_encode(faiss_search('main', 'v', '[0, 0]', 1)) AS embedding;"
    "SELECT faiss_search('main', 'v', '[0, 0]', 1)",
    "function and table": "CREATE VIEW v AS SELECT id, faiss_encode(faiss_search('main', 'v', '[0, 0]', 1))"
    " AS embedding FROM docs; CREATE VIRTUAL TABLE v_index USING faiss(main, v); SELECT id FROM v_index('[0, 0]')",
}


@pytest.mark.parametrize("script", CIRCLES.values(), ids=CIRCLES.keys())
def test_a_source_that_searches_itself_is_an_error(docs_file, script):
    """In a process of its own: the failure to fear is a stack that overflows."""
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import sqlite3, database
connection = database.connect({str(docs_file)!r})
try:
    for statement in {script.split(";")!r}:
        connection.execute(statement).fetchall()
except sqlite3.Error as error:
    print("error", error)
print(connection.execute("SELECT 1 + 1").fetchone())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("error"), done.stdout
    assert done.stdout.endswith("(2,)\n")
