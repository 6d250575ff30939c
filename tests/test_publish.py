"""Tables that a host connection publishes, searched from other connections of the process."""

import gc
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time

import numpy
import pytest

import database
import oracle
from database import column, fill, rows, scalar, vector

# Integer coordinates, whose scores are exact.
VECTORS = numpy.random.default_rng(5).integers(-9, 10, (400, 4))


@pytest.fixture
def host(connect, tmp_path):
    """The host of `shop.db`, whose docs have a key, a slug and an embedding; none is published."""
    connection = database.host(tmp_path / "shop.db", timeout=300)
    connection.execute("PRAGMA journal_mode = wal").fetchone()
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, slug TEXT, embedding BLOB)")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?, ?)",
        [(i, f"slug {i}", vector(*row)) for i, row in enumerate(VECTORS, 1)],
    )
    connection.execute("COMMIT")
    yield connection
    connection.close()


@pytest.fixture
def visitor(connect):
    """A connection to no file."""
    return connect()


def publish(host, *arguments):
    marks = ", ".join("?" * len(arguments))
    assert rows(host, f"SELECT faiss_publish({marks})", arguments) == [(None,)]


def table(host, id="id", what="docs"):
    """What the oracle takes: rows as they are now."""
    return rows(host, f"SELECT rowid, {id}, embedding FROM {what}")


def search(connection, query, k, name="shop", what="docs"):
    return rows(
        connection, "SELECT id, score FROM faiss_search(?, ?, ?, ?)", [name, what, query, k]
    )


QUERY = vector(1, 2, 3, 4)


def failure(connection, sql, parameters=()):
    with pytest.raises(sqlite3.Error) as caught:
        connection.execute(sql, parameters).fetchall()
    return str(caught.value)


# ---- answers ----


@pytest.mark.parametrize("id", ["id", "slug"])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_every_form_of_search(host, visitor, id, metric):
    publish(host, "shop", "docs", f"id={id}, metric={metric}")
    expected = oracle.nearest(table(host, id), QUERY, 7, metric)
    assert search(visitor, QUERY, 7) == expected
    arguments = ["shop", "docs", QUERY]
    ids = [id for id, _ in expected]
    assert json.loads(scalar(visitor, "SELECT faiss_search(?, ?, ?, 7)", arguments)) == ids
    pairs = scalar(visitor, "SELECT faiss_search_with_scores(?, ?, ?, 7)", arguments)
    assert [tuple(pair) for pair in json.loads(pairs)] == expected
    streamed = "SELECT id, score FROM faiss_search(?, ?, ?)"
    everything = oracle.nearest(table(host, id), QUERY, len(VECTORS), metric)
    assert rows(visitor, streamed, arguments) == everything
    assert rows(visitor, streamed + " LIMIT 7", arguments) == expected
    assert rows(visitor, streamed + " LIMIT 5 OFFSET 140", arguments) == everything[140:145]
    assert search(visitor, QUERY, 10**6) == everything


@pytest.mark.usefixtures("vectors_left_in_small_tables")
@pytest.mark.parametrize("id", ["id", "slug"])
def test_vectors_that_are_left_in_the_table(host, visitor, id):
    """Each search reads them through the host."""
    publish(host, "shop", "docs", f"id={id}, memory=low")
    expected = oracle.nearest(table(host, id), QUERY, 400)
    assert search(visitor, QUERY, 7) == expected[:7]
    streamed = "SELECT id, score FROM faiss_search('shop', 'docs', ?)"
    assert rows(visitor, streamed, [QUERY]) == expected
    host.execute("UPDATE docs SET embedding = ? WHERE id = 9", [QUERY])
    assert search(visitor, QUERY, 7) == oracle.nearest(table(host, id), QUERY, 7)
    assert column(host, "SELECT DISTINCT substr(memory, 1, 3) FROM faiss_indexes") == ["low"]
    assert failure(visitor, "SELECT * FROM faiss_neighbors('shop', 'docs', 2)") == (
        "the vectors of shop.docs are not in memory: ask where its file is open"
    )


def test_conditions_and_columns(host, visitor):
    publish(host, "shop", "docs", "id=slug")
    everything = oracle.nearest(table(host, "slug"), QUERY, len(VECTORS))
    third, bound = everything[2][0], everything[10][1]
    call = "FROM faiss_search('shop', 'docs', ?)"
    assert rows(visitor, f"SELECT id, score {call} WHERE id = ?", [QUERY, third]) == [everything[2]]
    assert column(visitor, f"SELECT id {call} WHERE score < ?", [QUERY, bound]) == [
        id for id, score in everything if score < bound
    ]
    assert column(visitor, f"SELECT id {call} WHERE id IN (?, ?)", [QUERY, third, "no"]) == [third]
    stored = scalar(host, "SELECT embedding FROM docs WHERE slug = ?", [third])
    found = rows(
        visitor,
        f'SELECT database, "table", embedding, distance {call} WHERE id = ?',
        [QUERY, third],
    )
    assert found == [("shop", "docs", stored, everything[2][1] ** 0.5)]


def test_cosine_reads_back_what_is_stored(host, visitor):
    publish(host, "shop", "docs", "metric=cosine, id=slug")
    query = "SELECT id, embedding FROM faiss_search('shop', 'docs', ?, 3)"
    for slug, embedding in rows(visitor, query, [QUERY]):
        assert embedding == scalar(host, "SELECT embedding FROM docs WHERE slug = ?", [slug])


def test_a_join_of_searches(host, visitor):
    """A search for each of the visitor's own rows."""
    publish(host, "shop", "docs", "id=slug")
    fill(visitor, VECTORS[:5], "questions")
    found = rows(
        visitor,
        "SELECT q.id, n.id FROM questions AS q JOIN faiss_search('shop', 'docs', q.embedding, 2) AS n",
    )
    of_host = table(host, "slug")
    assert found == [
        (number, id)
        for number, row in enumerate(VECTORS[:5], 1)
        for id, _ in oracle.nearest(of_host, vector(*row), 2)
    ]


@pytest.mark.parametrize("id", ["id", "slug"])
def test_neighbors(host, visitor, id):
    publish(host, "shop", "docs", f"id={id}")
    host.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, id=%s)" % id)
    columns = "SELECT id, neighbor, score, distance FROM faiss_neighbors"
    assert rows(visitor, columns + "('shop', 'docs', 3)") == rows(
        host, columns + "('main', 'docs_index', 3)"
    )


def test_tables_whose_ids_are_kept(host, visitor):
    host.execute("CREATE TABLE words(id TEXT PRIMARY KEY, embedding BLOB) WITHOUT ROWID")
    host.executemany("INSERT INTO words VALUES (?, ?)", [("b", vector(2)), ("a", vector(1))])
    host.execute("CREATE VIEW seen AS SELECT slug AS id, embedding FROM docs WHERE rowid < 50")
    publish(host, "shop", "words")
    publish(host, "shop", "seen")
    assert search(visitor, vector(0), 2, what="words") == [("a", 1.0), ("b", 4.0)]
    of_view = [(i, id, blob) for i, (_, id, blob) in enumerate(table(host, "slug")[:49])]
    assert search(visitor, QUERY, 5, what="seen") == oracle.nearest(of_view, QUERY, 5)


def test_faiss_tables(host, visitor):
    host.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric=ip, id=slug)")
    publish(host, "shop", "docs_index")
    expected = oracle.nearest(table(host, "slug"), QUERY, 5, "ip")
    assert search(visitor, QUERY, 5, what="docs_index") == expected
    assert "has options of its own" in failure(
        host, "SELECT faiss_publish('shop', 'docs_index', 'metric=l2')"
    )


@pytest.mark.parametrize("path", [":memory:", "file:{}?cache=shared"])
def test_only_tables_of_files(visitor, tmp_path, path):
    host = database.host(path.format(tmp_path / "shared.db"), uri=True)
    fill(host, VECTORS)
    assert failure(host, "SELECT faiss_publish('notes', 'docs')") == (
        "main.docs is in a database in memory, or one with a shared cache: only tables of "
        "ordinary files can be published"
    )
    assert search(host, QUERY, 5, "main") == oracle.nearest(table(host), QUERY, 5)
    host.close()


def test_loaded_twice(host, visitor):
    """The second time, by either name, changes nothing for what is in use."""
    host.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric=ip, id=slug)")
    publish(host, "shop", "docs")
    expected = search(host, QUERY, 5, "main", "docs_index")
    under_way = host.execute("SELECT id FROM docs_index(?)", [QUERY])
    first = next(under_way)
    host.enable_load_extension(True)
    for name in "sqlite3_faiss_init", "sqlite3_faiss_host_init":
        host.execute("SELECT load_extension(?, ?)", [database.EXTENSION, name])
        assert search(host, QUERY, 5, "main", "docs_index") == expected
        assert search(visitor, QUERY, 5) == search(host, QUERY, 5, "main", "docs")
    assert len({first, *under_way}) == len(VECTORS)


def test_a_connection_becomes_a_host(connect, visitor, tmp_path):
    connection = connect(tmp_path / "late.db")
    fill(connection, VECTORS)
    connection.enable_load_extension(True)
    connection.execute(
        "SELECT load_extension(?, 'sqlite3_faiss_host_init')", [database.EXTENSION]
    )
    publish(connection, "late", "docs")
    assert search(visitor, QUERY, 5, "late") == oracle.nearest(table(connection), QUERY, 5)


def test_empty_and_null(host, visitor):
    host.execute("CREATE TABLE empty(id, embedding)")
    publish(host, "shop", "empty")
    publish(host, "shop", "docs")
    assert search(visitor, QUERY, 5, what="empty") == []
    assert scalar(visitor, "SELECT faiss_search('shop', 'empty', '[1]', 5)") == "[]"
    assert rows(visitor, "SELECT * FROM faiss_neighbors('shop', 'empty', 5)") == []
    assert scalar(visitor, "SELECT faiss_search('shop', 'docs', NULL, 5)") is None
    assert search(visitor, None, 5) == search(visitor, QUERY, None) == []


def test_vectors_that_are_not_in_memory(host, visitor):
    """Searches then read them during a visit, and give the same."""
    random = numpy.random.default_rng(1)
    axes = random.normal(size=(12, 128))
    vectors = (random.normal(size=(12000, 12)) @ axes).astype("f4")
    host.execute("CREATE TABLE big(id TEXT, embedding BLOB)")
    host.execute("BEGIN")
    host.executemany(
        "INSERT INTO big VALUES (?, ?)", [(f"i{i}", row.tobytes()) for i, row in enumerate(vectors)]
    )
    host.execute("COMMIT")
    publish(host, "shop", "big", "memory=low")
    publish(host, "same", "big")
    for i in range(12):  # the sketches are made after some searches
        query = vectors[50 * i].tobytes()
        assert search(visitor, query, 20, what="big") == search(visitor, query, 20, "same", "big")
    stored = "SELECT bytes FROM faiss_indexes WHERE database = ?"
    assert 2 * scalar(visitor, stored, ["shop"]) < scalar(visitor, stored, ["same"])
    stream = "SELECT id, score FROM faiss_search(?, 'big', ?) LIMIT 2000"
    assert rows(visitor, stream, ["shop", query]) == rows(visitor, stream, ["same", query])
    begun = visitor.execute("SELECT id FROM faiss_search('shop', 'big', ?)", [query])
    assert next(begun) == ("i550",)
    host.execute("DELETE FROM big WHERE id = 'i5'")
    with pytest.raises(sqlite3.Error, match="shop.big was changed while the search was read"):
        begun.fetchall()
    for call in "faiss_neighbors('shop', 'big', 1)", "faiss_project('shop', 'big')":
        assert failure(visitor, f"SELECT * FROM {call}") == (
            "the vectors of shop.big are not in memory: ask where its file is open"
        )


def test_approximate_indexes(host, visitor):
    """They answer visitors as they answer the host, who may have built them or not."""
    random = numpy.random.default_rng(3)
    vectors = random.normal(size=(5000, 32)).astype("f4")
    host.execute("CREATE TABLE big(id INTEGER PRIMARY KEY, embedding BLOB)")
    host.execute("BEGIN")
    host.executemany("INSERT INTO big VALUES (?, ?)", enumerate(map(bytes, vectors), 1))
    host.execute("COMMIT")
    publish(host, "shop", "big", "index='IVF64,Flat', nprobe=1")
    publish(host, "same", "big")
    found = [search(visitor, bytes(query), 10, what="big") for query in vectors[:40]]
    kind = "SELECT kind FROM faiss_indexes WHERE database = 'shop'"
    assert scalar(visitor, kind) == scalar(host, kind.replace("shop", "main") + " AND kind <> 'Flat'")
    assert scalar(visitor, kind) == "IVF64,Flat"
    exact = [search(visitor, bytes(query), 10, "same", "big") for query in vectors[:40]]
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(found, exact)]
    assert 0.1 < numpy.mean(shared) < 0.9  # one list of 64
    assert found == [search(host, bytes(query), 10, "shop", "big") for query in vectors[:40]]
    in_json = "SELECT faiss_search('shop', 'big', ?, 10)"
    assert [json.loads(scalar(visitor, in_json, [bytes(query)])) for query in vectors[:40]] == [
        [id for id, _ in answer] for answer in found
    ]
    stream = "SELECT id FROM faiss_search('shop', 'big', ?) LIMIT 10"
    assert column(visitor, stream, [bytes(vectors[0])]) == [id for id, _ in exact[0]]
    host.execute("DELETE FROM big WHERE id = 1")
    assert 1 not in [id for id, _ in search(visitor, bytes(vectors[0]), 10, what="big")]


# ---- freshness ----


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("id", ["id", "slug"])
def test_every_commit_is_seen(host, visitor, connect, tmp_path, live, id):
    if live:
        host.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    publish(host, "shop", "docs", f"id={id}")
    writer = connect(tmp_path / "shop.db", timeout=300)
    random = numpy.random.default_rng(7)
    for step in range(15):
        row = int(random.integers(1, 400))
        writer.execute("DELETE FROM docs WHERE id = ?", [row])
        writer.execute("UPDATE docs SET slug = slug || '!' WHERE id % 7 = ?", [step % 7])
        writer.execute(
            "UPDATE docs SET embedding = ? WHERE id = ?",
            [vector(*random.integers(-9, 10, 4)), (row + 1) % 400],
        )
        assert search(visitor, QUERY, 20) == oracle.nearest(table(writer, id), QUERY, 20)


def test_what_is_not_committed_is_not_seen(host, visitor, connect, tmp_path):
    publish(host, "shop", "docs")
    before = search(visitor, QUERY, 3)
    writer = connect(tmp_path / "shop.db", timeout=300)
    writer.execute("BEGIN")
    writer.execute("INSERT INTO docs VALUES (1000, 'new', ?)", [QUERY])
    assert search(visitor, QUERY, 3) == before
    writer.execute("COMMIT")
    assert search(visitor, QUERY, 3)[0] == (1000, 0.0)
    host.execute("BEGIN")
    host.execute("DELETE FROM docs WHERE id = 1000")
    assert failure(visitor, "SELECT faiss_search('shop', 'docs', ?, 3)", [QUERY]) == (
        "shop is being written by the connection that publishes it: try again"
    )
    host.execute("ROLLBACK")
    assert search(visitor, QUERY, 3)[0] == (1000, 0.0)


def test_changes_while_a_search_is_read(host, visitor, connect, tmp_path):
    """The rows of a stream stay those of its beginning; one that is gone cannot be named."""
    publish(host, "shop", "docs", "id=slug")
    everything = oracle.nearest(table(host, "slug"), QUERY, len(VECTORS))
    stream = visitor.execute("SELECT id, score FROM faiss_search('shop', 'docs', ?)", [QUERY])
    first = [next(stream) for _ in range(3)]
    writer = connect(tmp_path / "shop.db", timeout=300)
    writer.execute("INSERT INTO docs VALUES (1000, 'new', ?)", [QUERY])
    assert first + stream.fetchall() == everything
    stream = visitor.execute("SELECT id FROM faiss_search('shop', 'docs', ?)", [QUERY])
    assert next(stream) == ("new",)
    writer.execute("DELETE FROM docs")
    with pytest.raises(sqlite3.Error, match="of main.docs was deleted while the search was read"):
        stream.fetchall()
    assert search(visitor, QUERY, 3) == []


# ---- names ----


def test_the_order_of_names(host, connect, tmp_path):
    """A schema first, then what is published, then the stem of a file."""
    publish(host, "shop", "docs", "metric=ip, id=slug")
    other = connect(tmp_path / "other.db")
    fill(other, [(0, 0, 0, 0)])
    other.execute("ATTACH ':memory:' AS shop")
    fill(other, [(1, 1, 1, 1), (2, 2, 2, 2)], "shop.docs")
    assert search(other, vector(1, 1, 1, 1), 2) == [(1, 0.0), (2, 4.0)]
    other.execute("DETACH shop")
    by_slug = oracle.nearest(table(host, "slug"), QUERY, 2, "ip")
    assert search(other, QUERY, 2) == by_slug
    publish(host, "other", "docs")
    assert search(other, QUERY, 2, "other") == oracle.nearest(table(host), QUERY, 2)
    assert search(other, vector(0, 0, 0, 0), 2, "main") == [(1, 0.0)]
    scalar(host, "SELECT faiss_unpublish('other')")
    assert search(other, vector(0, 0, 0, 0), 2, "other") == [(1, 0.0)]


def test_a_file_that_is_open_here_is_read_here(host, connect, tmp_path):
    """Under its published name, with its published options, but in the own transaction; and
    whatever else is in it, too."""
    publish(host, "two words", "docs", "metric=ip, id=slug")
    connection = connect(tmp_path / "shop.db", timeout=300)
    assert search(connection, QUERY, 3, "two words") == search(host, QUERY, 3, "two words")
    assert search(connection, QUERY, 3, "main") == oracle.nearest(table(host), QUERY, 3)
    fill(connection, VECTORS[:9], "notes")
    assert search(connection, QUERY, 3, "two words", "notes") == search(
        connection, QUERY, 3, "main", "notes"
    )
    connection.execute("BEGIN")
    connection.execute("INSERT INTO docs VALUES (1000, 'mine', ?)", [vector(99, 99, 99, 99)])
    assert search(connection, QUERY, 1, "two words")[0][0] == "mine"
    connection.execute("ROLLBACK")


def test_files_with_the_same_stem(connect, tmp_path):
    """How Datasette names two files blog.db."""
    hosts = []
    for number, name in enumerate(["blog", "blog_2"]):
        path = tmp_path / str(number) / "blog.db"
        path.parent.mkdir()
        host = database.host(path)
        fill(host, [(number, 7)])
        publish(host, name, "docs")
        hosts.append(host)
    second = connect(tmp_path / "1" / "blog.db")
    assert search(second, vector(0, 7), 1, "blog_2") == [(1, 1.0)]
    assert search(second, vector(0, 7), 1, "blog") == [(1, 0.0)]
    for host in hosts:
        host.close()


def test_names_that_are_refused(host, tmp_path):
    for name in "main", "temp", "MAIN", "":
        assert failure(host, "SELECT faiss_publish(?, 'docs')", [name]) == (
            f"cannot publish as '{name}': every connection has its own main and temp"
        )
    assert "must not be NULL" in failure(host, "SELECT faiss_publish('shop', NULL)")
    publish(host, "shop", "docs")
    other = database.host(tmp_path / "other.db")
    fill(other, VECTORS)
    assert failure(other, "SELECT faiss_publish('shop', 'docs')") == (
        "the name shop is taken: another connection publishes under it"
    )
    assert scalar(other, "SELECT faiss_unpublish('shop')") == 0
    other.close()


def test_what_cannot_be_published(host):
    assert failure(host, "SELECT faiss_publish('shop', 'nix')") == "no such table: main.nix"
    assert failure(host, "SELECT faiss_publish('shop', 'docs', 'embedding=vec')") == (
        "main.docs has no column vec (it has id, slug, embedding)"
    )
    assert failure(host, "SELECT faiss_publish('shop', 'docs', 'metric=l1')") == (
        "metric=l1: expected l2, ip or cosine"
    )
    assert "unknown option: x" in failure(host, "SELECT faiss_publish('shop', 'docs', 'x=1')")
    assert "malformed option" in failure(host, "SELECT faiss_publish('shop', 'docs', 'cosine')")
    assert "has no change log" in failure(host, "SELECT faiss_publish('shop', 'docs', 'live=on')")
    host.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    publish(host, "shop", "docs", "live=on")


def test_options_are_split_as_sql(host, visitor):
    host.execute('CREATE TABLE odd("the, id" TEXT, "a=b" BLOB)')
    host.execute("INSERT INTO odd VALUES ('x', ?)", [vector(1)])
    publish(host, "shop", "odd", """id='the, id' , embedding="a=b",metric = ip""")
    assert search(visitor, vector(2), 1, what="odd") == [("x", 2.0)]


# ---- who may what ----


def test_visitors_cannot_publish(host, visitor):
    publish(host, "shop", "docs")
    for call in "faiss_publish('a', 'b')", "faiss_unpublish('shop')", "faiss_limit(1)":
        name = call.partition("(")[0]
        assert failure(visitor, f"SELECT {call}") == f"no such function: {name}"
    fill(visitor, VECTORS)
    visitor.execute("ATTACH ':memory:' AS b")


def test_no_view_or_trigger_publishes(host):
    host.execute("CREATE VIEW v AS SELECT faiss_publish('shop', 'docs')")
    assert "unsafe use of faiss_publish" in failure(host, "SELECT * FROM v")


def test_visitors_reach_published_tables_only(host, visitor):
    host.execute("CREATE TABLE secret AS SELECT * FROM docs")
    publish(host, "shop", "docs")
    assert search(host, QUERY, 1, what="secret")
    for call in (
        "SELECT faiss_search('shop', 'secret', ?, 1)",
        "SELECT * FROM faiss_search('shop', 'secret', ?, 1)",
        "SELECT ?, n.* FROM faiss_neighbors('shop', 'secret', 1) AS n",
    ):
        assert failure(visitor, call, [QUERY]) == (
            "shop.secret is not published (of shop there is docs)"
        )
    assert failure(visitor, "CREATE VIRTUAL TABLE t USING faiss(shop, docs)") == (
        "no such database: shop (this connection has main)"
    )
    assert failure(visitor, "SELECT faiss_search('x', 'docs', ?, 1)", [QUERY]) == (
        "no such database: x (this connection has main; published: shop)"
    )
    assert rows(visitor, "SELECT database, \"table\" FROM faiss_indexes") == []


def test_a_host_searches_its_own(host, tmp_path):
    publish(host, "shop", "docs", "id=slug")
    assert search(host, QUERY, 3) == oracle.nearest(table(host, "slug"), QUERY, 3)
    other = database.host(tmp_path / "other.db")
    assert "use an ordinary connection" in failure(
        other, "SELECT faiss_search('shop', 'docs', ?, 1)", [QUERY]
    )
    other.close()


def test_indexes(host, visitor, connect, tmp_path):
    fill(host, VECTORS, "secret")
    publish(host, "shop", "docs", "metric=cosine")
    search(visitor, QUERY, 1)
    search(host, QUERY, 1, "main", "secret")
    private = connect()
    fill(private, VECTORS, "own")
    search(private, QUERY, 1, "main", "own")
    # What other tests left to the garbage collector is of files.
    listed = """SELECT database, "table", metric, rows, connections FROM faiss_indexes
                WHERE database NOT LIKE '%/%' ORDER BY 2"""
    assert rows(visitor, listed) == [("shop", "docs", "cosine", 400, 1)]
    assert rows(private, listed) == [
        ("shop", "docs", "cosine", 400, 1),
        ("main", "own", "l2", 400, 1),
    ]
    assert rows(host, listed) == [
        ("main", "docs", "cosine", 400, 1),
        (":memory:", "own", "l2", 400, 1),
        ("main", "secret", "l2", 400, 1),
    ]


# ---- the end of a publication ----


def test_unpublish(host, visitor):
    host.execute("CREATE TABLE notes AS SELECT * FROM docs")
    for what in "docs", "notes":
        publish(host, "shop", what)
    assert scalar(host, "SELECT faiss_unpublish('shop', 'docs')") == 1
    assert "not published (of shop there is notes)" in failure(
        visitor, "SELECT faiss_search('shop', 'docs', ?, 1)", [QUERY]
    )
    assert search(visitor, QUERY, 1, what="notes")
    publish(host, "shop", "docs")
    assert scalar(host, "SELECT faiss_unpublish('shop')") == 2
    assert scalar(host, "SELECT faiss_unpublish('shop')") == 0
    assert scalar(host, "SELECT faiss_unpublish(NULL)") == 0
    assert failure(visitor, "SELECT faiss_search('shop', 'docs', ?, 1)", [QUERY]) == (
        "no such database: shop (this connection has main)"
    )


def test_a_search_outlives_its_publication(host, visitor):
    """Rows that are found already are read; ids that must be asked for are an error."""
    publish(host, "shop", "docs", "id=slug")
    stream = visitor.execute("SELECT id FROM faiss_search('shop', 'docs', ?)", [QUERY])
    next(stream)
    host.close()
    with pytest.raises(sqlite3.Error, match="shop.docs is not published any more"):
        stream.fetchall()


def test_publishing_again_changes_the_options(host, visitor):
    publish(host, "shop", "docs")
    assert search(visitor, QUERY, 2) == oracle.nearest(table(host), QUERY, 2)
    publish(host, "shop", "docs", "metric=ip")
    assert search(visitor, QUERY, 2) == oracle.nearest(table(host), QUERY, 2, "ip")
    assert scalar(host, "SELECT faiss_unpublish('shop', 'DOCS')") == 1


def test_a_table_that_is_dropped(host, visitor):
    publish(host, "shop", "docs")
    search(visitor, QUERY, 1)
    host.execute("DROP TABLE docs")
    assert failure(visitor, "SELECT faiss_search('shop', 'docs', ?, 1)", [QUERY]) == (
        "no such table: main.docs"
    )
    host.execute("CREATE TABLE docs(id, embedding)")
    host.execute("INSERT INTO docs VALUES ('new', ?)", [vector(1)])
    assert search(visitor, vector(2), 1) == [("new", 1.0)]


def test_a_child_process(host, visitor):
    publish(host, "shop", "docs", "id=slug")
    search(visitor, QUERY, 1)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            call = "SELECT faiss_search('shop', 'docs', ?, 1)"
            os.write(writing, failure(visitor, call, [QUERY]).encode())
            os.write(writing, failure(host, "SELECT faiss_publish('b', 'docs')").encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as said:
        text = said.read()
    os.waitpid(child, 0)
    assert text == (
        "shop was published before this process was forked: publish it again"
        "this connection was opened before the process was forked: open another one"
    )
    assert search(visitor, QUERY, 1)


# ---- waiting and interrupts ----


def slow_view(host):
    """A published view whose reading takes long: each row calls a Python function. Gives a list as long as the number
    of rows read."""
    read = []
    host.create_function("slowly", 1, lambda blob: read.append(time.sleep(0.003)) or blob, deterministic=True)
    host.execute("CREATE VIEW slow AS SELECT id, slowly(embedding) AS embedding FROM docs")
    publish(host, "shop", "slow")
    return read


def wait_until(true):
    while not true():
        time.sleep(0.01)


def test_a_visitors_time_limit_holds_while_the_host_reads(host, visitor):
    read = slow_view(host)
    visitor.set_progress_handler(lambda: len(read) > 50, 100)
    assert failure(visitor, "SELECT faiss_search('shop', 'slow', ?, 1)", [QUERY]) == "interrupted"
    assert 50 < len(read) < len(VECTORS)


def test_a_visitors_time_limit_holds_while_the_host_is_busy(host, visitor, connect):
    read = slow_view(host)
    publish(host, "shop", "docs")
    first = connect()
    thread = threading.Thread(target=lambda: search(first, QUERY, 1, what="slow"))
    thread.start()
    wait_until(lambda: read)
    visitor.set_progress_handler(lambda: len(read) > 50, 100)
    assert failure(visitor, "SELECT faiss_search('shop', 'docs', ?, 1)", [QUERY]) == "interrupted"
    assert 50 < len(read) < len(VECTORS)
    visitor.set_progress_handler(None, 0)
    assert search(visitor, QUERY, 1)  # waits for its turn
    thread.join()


def test_closing_waits_for_a_visit(host, visitor):
    read, answers = slow_view(host), []
    thread = threading.Thread(target=lambda: answers.append(search(visitor, QUERY, 1, what="slow")))
    thread.start()
    wait_until(lambda: read)
    host.close()
    thread.join()
    assert len(answers) == 1 and len(answers[0]) == 1


def test_a_function_of_the_host_that_searches_itself(host, visitor):
    """It would wait for its own thread."""
    publish(host, "shop", "docs")
    said = []

    def ask(blob):
        try:
            search(visitor, QUERY, 1)
        except sqlite3.Error as error:
            said.append(str(error))
        return blob

    host.create_function("ask", 1, ask, deterministic=True)
    host.execute("CREATE VIEW asking AS SELECT id, ask(embedding) AS embedding FROM docs LIMIT 1")
    publish(host, "shop", "asking")
    other = database.connect()
    assert search(other, QUERY, 1, what="asking")
    assert said == ["shop is read by this very search"]
    other.close()


def test_many_threads(host, tmp_path):
    """Visitors get answers of one state while another connection writes."""
    publish(host, "shop", "docs", "id=slug")
    finish, is_over = time.monotonic() + 3, threading.Event()
    failures = []

    def visit():
        connection = database.connect()
        try:
            while not is_over.is_set():
                found = search(connection, vector(0, 0, 0, 0), 50)
                states = {id.partition("/")[2] for id, _ in found}
                if len(found) != 50 or len(states) != 1:
                    failures.append(states)
        except sqlite3.Error as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=visit) for _ in range(6)]
    for thread in threads:
        thread.start()
    writer = database.connect(tmp_path / "shop.db", timeout=300)
    for state in itertools.count():
        if failures or state > 10 and time.monotonic() > finish:
            break
        writer.execute(
            "UPDATE docs SET slug = id || '/' || ?, embedding = ?",
            [state, vector(state, 0, 0, 0)],
        )
    is_over.set()
    for thread in threads:
        thread.join()
    writer.close()
    assert not failures


# ---- the bound on memory ----


@pytest.fixture
def limit(host):
    """Set the bound, which is the process's, for one test, above what connections of other
    tests still hold. Gives the bound."""
    gc.collect()
    held = scalar(host, "SELECT coalesce(sum(bytes), 0) FROM faiss_indexes WHERE connections > 0")
    yield lambda bytes: scalar(host, "SELECT faiss_limit(?)", [bytes and bytes + held])
    scalar(host, "SELECT faiss_limit(0)")


def test_a_bound_on_what_is_not_published(host, connect, tmp_path, limit):
    assert scalar(host, "SELECT faiss_limit()") == 0
    bound = limit(100 * 16)  # 100 rows of 4 float32
    assert scalar(host, "SELECT faiss_limit()") == bound >= 100 * 16
    publish(host, "shop", "docs")
    fill(host, VECTORS[:90], "small")
    fill(host, VECTORS[:101], "large")
    connection = connect(tmp_path / "shop.db", timeout=300)
    assert search(connection, QUERY, 1, "main", "small")
    message = failure(connection, "SELECT faiss_search('main', 'large', ?, 1)", [QUERY])
    assert message == (
        f"an index of main.large would take more than is left of the {bound} bytes for tables "
        "that are not published (faiss_limit)"
    )
    # What is published is the host's business, and so is what the host searches.
    assert search(connection, QUERY, 1) and search(host, QUERY, 1, "main", "large")
    limit(0)
    assert search(connection, QUERY, 1, "main", "large")


def test_the_bound_is_for_all_together(host, connect, tmp_path, limit):
    """What no connection holds makes room; what another one holds does not."""
    fill(host, VECTORS[:60], "a")
    fill(host, VECTORS[:60], "b")
    limit(100 * 16 + 600)  # and what is kept with each row
    first, second = (connect(tmp_path / "shop.db", timeout=300) for _ in range(2))
    assert search(first, QUERY, 1, "main", "a") and search(first, QUERY, 1, "main", "b")
    assert "faiss_limit" in failure(second, "SELECT faiss_search('main', 'a', ?, 1)", [QUERY])
    first.close()
    assert search(second, QUERY, 1, "main", "a")


SEARCH_BIG = """
import sys, database
connection = database.connect(sys.argv[1], timeout=300)
try:
    print(database.scalar(connection, "SELECT faiss_search('main', 'big', zeroblob(1024), 1)"))
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("megabytes, found", [("1", False), ("2", True), ("", True), (None, True)])
def test_the_bound_in_the_environment(host, tmp_path, megabytes, found):
    fill(host, numpy.ones((1100, 256), int), "big")  # 1,126,400 bytes
    environment = {**os.environ, "PYTHONPATH": str(database.ROOT / "tests")}
    if megabytes is not None:
        environment["SQLITE_FAISS_LIMIT_MB"] = megabytes
    done = subprocess.run(
        [sys.executable, "-c", SEARCH_BIG, tmp_path / "shop.db"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    assert (done.stdout == "[1]\n") == found and ("1048576 bytes" in done.stdout) != found


@pytest.mark.parametrize("value", [-1, "5", 1.5, None])
def test_what_is_no_bound(host, value):
    assert failure(host, "SELECT faiss_limit(?)", [value]) == (
        "faiss_limit: expected a number of bytes, 0 for no limit"
    )
