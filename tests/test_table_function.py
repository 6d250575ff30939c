"""faiss_search as a table, without any DDL, and faiss_indexes: what lives in this process."""

import sqlite3

import numpy
import pytest

import oracle
from database import column, fill, plan, rows, scalar, vector

QUERY = vector(0, 0)
NEAREST = [(1, 0.0), (3, 1.0), (6, 4.0), (2, 25.0), (4, 100.0)]


def test_columns(docs):
    cursor = docs.execute("SELECT * FROM faiss_search('main', 'docs', '[3, 0]', 2)")
    assert [item[0] for item in cursor.description] == ["id", "score", "distance"]
    assert cursor.fetchall() == [(3, 4.0, 2.0), (1, 9.0, 3.0)]


def test_hidden_columns_read_back(docs):
    """The arguments as given; `embedding` is the row's own, as in the virtual table."""
    assert rows(
        docs, 'SELECT database, "table", embedding, k FROM faiss_search(\'main\', \'docs\', :v, 2)', {"v": QUERY}
    ) == [("main", "docs", QUERY, 2), ("main", "docs", vector(1, 0), 2)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, score FROM faiss_search('main', 'docs', :v)",
        "SELECT id, score FROM faiss_search('main', 'docs', '[0, 0]')",
        "SELECT id, score FROM faiss_search('main', 'docs', :v, 9223372036854775807)",
        "SELECT id, score FROM faiss_search('main', 'docs', :v) ORDER BY distance",
        "SELECT id, score FROM faiss_search WHERE database = 'main' AND \"table\" = 'docs' AND embedding = :v",
        "SELECT id, score FROM faiss_search('main', 'docs') WHERE embedding MATCH :v",
        "SELECT id, score FROM faiss_search('main', 'docs', (SELECT embedding FROM docs WHERE id = 1))",
        "SELECT id, score FROM faiss_search('main', 'docs_index', :v)",
    ],
)
def test_without_k_every_row_nearest_first(docs, sql):
    assert docs.execute(sql, {"v": QUERY}).fetchall() == NEAREST


@pytest.mark.parametrize("k", [1, 2, 4, 5, 6, 100])
def test_k_and_limit(docs, k):
    for sql in (
        "SELECT id, score FROM faiss_search('main', 'docs', :v, :k)",
        "SELECT id, score FROM faiss_search('main', 'docs', :v) WHERE k = :k",
        "SELECT id, score FROM faiss_search('main', 'docs', :v) LIMIT :k",
        "SELECT id, score FROM faiss_search('main', 'docs', :v) ORDER BY distance LIMIT :k",
    ):
        assert docs.execute(sql, {"v": QUERY, "k": k}).fetchall() == NEAREST[:k]
    assert (
        docs.execute(
            "SELECT id, score FROM faiss_search('main', 'docs', :v) LIMIT :k OFFSET 2", {"v": QUERY, "k": k}
        ).fetchall()
        == NEAREST[2 : 2 + k]
    )


def test_nearer_first_orders_cost_no_sort(docs):
    for arguments in ("'main', 'docs', :v", "'main', 'docs', :v, 3"):
        for rest in ("", " LIMIT 2"):
            sql = f"SELECT id FROM faiss_search({arguments}) ORDER BY distance{rest}"
            assert not any("TEMP B-TREE" in line for line in plan(docs, sql, {"v": QUERY}))


def test_score_descending(docs):
    """Which way of `score` is nearer depends on the table named, which is not known when planning."""
    docs.execute("CREATE VIRTUAL TABLE docs_ip USING faiss(main, docs, metric=ip)")
    for table, metric in (("docs", "l2"), ("docs_ip", "ip")):
        pairs = oracle.nearest(rows(docs, "SELECT id, id, embedding FROM docs"), vector(1, 0), metric=metric)
        for direction, reverse in (("ASC", False), ("DESC", True)):
            found = column(
                docs,
                f"SELECT score FROM faiss_search('main', '{table}', '[1, 0]') ORDER BY score {direction} LIMIT 3",
            )
            assert found == sorted((score for _, score in pairs), reverse=reverse)[:3]


def test_a_filter_never_shortens_the_answer(docs):
    assert column(
        docs, "SELECT id FROM faiss_search('main', 'docs', '[0, 0]') WHERE id IN (2, 4, 6) LIMIT 2"
    ) == [6, 2]
    assert column(
        docs, "SELECT id FROM faiss_search('main', 'docs', '[0, 0]') WHERE score > 1 ORDER BY distance LIMIT 2"
    ) == [6, 2]
    assert column(docs, "SELECT id FROM faiss_search('main', 'docs', '[0, 0]') WHERE id = 4") == [4]
    assert column(docs, "SELECT id FROM faiss_search('main', 'docs', '[0, 0]', 3) WHERE id = 4") == []


def test_null_gives_no_rows(docs):
    for arguments in ("'main', 'docs', NULL", "'main', 'docs', NULL, 5", "'main', 'docs', '[0, 0]', NULL"):
        assert rows(docs, f"SELECT * FROM faiss_search({arguments})") == []


def test_missing_arguments(docs):
    for sql, word in (
        ("SELECT * FROM faiss_search", "database"),
        ("SELECT * FROM faiss_search('main')", "table"),
        ("SELECT * FROM faiss_search('main', 'docs')", "embedding"),
    ):
        with pytest.raises(sqlite3.Error, match=f"(?s)(?=.*faiss_search)(?=.*{word})"):
            rows(docs, sql)
    with pytest.raises(sqlite3.OperationalError, match="too many arguments"):
        rows(docs, "SELECT * FROM faiss_search('main', 'docs', '[0, 0]', 3, 4)")


def test_joins(docs):
    expected = [(1, 0.0), (3, 1.0), (6, 4.0)]
    for order in ("docs d CROSS JOIN faiss_search('main', 'docs', '[0, 0]', 3) n",
                  "faiss_search('main', 'docs', '[0, 0]', 3) n CROSS JOIN docs d",
                  "faiss_search('main', 'docs', '[0, 0]', 3) n JOIN docs d"):
        assert sorted(rows(docs, f"SELECT d.id, n.score FROM {order} ON n.id = d.id")) == expected
    for order in ("docs d CROSS JOIN faiss_search('main', 'docs', '[0, 0]') n",
                  "faiss_search('main', 'docs', '[0, 0]') n CROSS JOIN docs d"):
        assert sorted(rows(docs, f"SELECT d.id, n.score FROM {order} ON n.id = d.id")) == sorted(NEAREST)


def test_lateral(docs):
    table = rows(docs, "SELECT id, id, embedding FROM docs")
    expected = [
        (id, near) for id, _, blob in table if blob for near, _ in oracle.nearest(table, blob, 3)
    ]
    for sql in (
        "SELECT a.id, n.id FROM docs a, faiss_search('main', 'docs', a.embedding, 3) n",
        "SELECT a.id, n.id FROM docs a JOIN faiss_search('main', 'docs', a.embedding) n ON n.k = 3",
        "SELECT a.id, value FROM docs a, json_each((SELECT json_group_array(id) FROM"
        " (SELECT id FROM faiss_search('main', 'docs', a.embedding) LIMIT 3)))",
    ):
        assert rows(docs, sql) == expected
    assert rows(
        docs,
        "SELECT a.id, n.id FROM docs a LEFT JOIN faiss_search('main', 'docs', a.embedding, 1) n ORDER BY a.id",
    ) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, None), (6, 6)]


def test_the_table_may_come_from_a_row(docs):
    fill(docs, [(5, 5, 5)], "solids")
    assert rows(
        docs,
        """WITH t(name, v) AS (VALUES ('docs', '[0, 0]'), ('solids', '[0, 0, 0]'))
           SELECT t.name, n.id, n.score FROM t, faiss_search('main', t.name, t.v, 1) n""",
    ) == [("docs", 1, 0.0), ("solids", 1, 75.0)]


def test_read_only(docs):
    for sql in (
        "INSERT INTO faiss_search(id) VALUES (1)",
        "DELETE FROM faiss_search",
        "INSERT INTO faiss_indexes(rows) VALUES (1)",
        "DELETE FROM faiss_indexes",
    ):
        with pytest.raises(sqlite3.OperationalError, match="may not be modified"):
            docs.execute(sql)


def test_a_faiss_table_s_name_stands_for_its_definition(docs):
    docs.execute("CREATE TABLE other(slug TEXT, vec BLOB)")
    docs.execute("INSERT INTO other VALUES ('a', ?), ('b', ?)", [vector(1, 0), vector(0, 9)])
    docs.execute("CREATE VIRTUAL TABLE other_ip USING faiss(main, other, metric=ip, id=slug, embedding=vec)")
    assert rows(docs, "SELECT * FROM faiss_search('main', 'other_ip', '[0, 1]', 1)") == [("b", 9.0, -9.0)]
    assert scalar(docs, "SELECT faiss_search('main', 'other_ip', '[0, 1]', 2)") == '["b", "a"]'
    assert (
        scalar(docs, "SELECT faiss_search_with_scores('main', 'other_ip', '[0, 1]', 1)") == '[["b", 9.0]]'
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT faiss_search_with_scores('main', 'docs_ip', '[1, 0]', 1)",
        "SELECT json_group_array(json_array(id, score)) FROM faiss_search('main', 'docs_ip', '[1, 0]', 1)",
    ],
)
def test_a_faiss_table_s_name_in_a_new_connection(docs_file, connect, sql):
    """SQLite connects a virtual table when it is first used: here nothing has used it yet."""
    connect(docs_file).execute("CREATE VIRTUAL TABLE docs_ip USING faiss(main, docs, metric=ip)")
    assert scalar(connect(docs_file), sql).replace(" ", "") == "[[4,6.0]]"


def test_it_writes_nothing(docs_file, connect):
    """Searching leaves a file as it was, byte for byte."""
    before = docs_file.read_bytes()
    connection = connect(docs_file)
    rows(connection, "SELECT * FROM faiss_search('main', 'docs', '[0, 0]')")
    rows(connection, "SELECT * FROM docs_index('[0, 0]')")
    scalar(connection, "SELECT faiss_search('docs', 'docs', '[0, 0]', 3)")
    rows(connection, "SELECT * FROM faiss_indexes")
    assert connection.total_changes == 0
    connection.close()
    assert docs_file.read_bytes() == before
    assert sorted(path.name for path in docs_file.parent.iterdir()) == ["docs.db"]


# --- faiss_indexes ------------------------------------------------------------------------------

INDEXES = 'SELECT database, "table", rows, dimension, metric, kind FROM faiss_indexes ORDER BY 1, 2, 5'


def test_indexes_columns(docs):
    cursor = docs.execute("SELECT * FROM faiss_indexes")
    names = [item[0] for item in cursor.description]
    assert names[:9] == [
        "database", "table", "rows", "dimension", "metric", "kind", "bytes", "build_seconds", "searches"
    ]


def test_indexes_lists_what_was_searched(docs_file, connect):
    connection = connect(docs_file)
    assert rows(connection, INDEXES) == []
    rows(connection, "SELECT * FROM faiss_search('main', 'docs', ?, 1)", [QUERY])
    assert rows(connection, INDEXES) == [("main", "docs", 5, 2, "l2", "Flat")]
    connection.execute("CREATE VIRTUAL TABLE docs_ip USING faiss(main, docs, metric=ip)")
    rows(connection, "SELECT * FROM docs_ip(?, 1)", [QUERY])
    found = rows(connection, INDEXES)
    assert [row[4] for row in found] == ["ip", "l2"]
    assert {(row[0], row[2], row[3], row[5]) for row in found} == {("main", 5, 2, "Flat")}


def test_indexes_follow_the_rows(docs):
    rows(docs, "SELECT * FROM faiss_search('main', 'docs', ?, 1)", [QUERY])
    docs.execute("DELETE FROM docs WHERE id = 1")
    docs.execute("INSERT INTO docs VALUES (8, ?), (9, ?)", [QUERY, QUERY])
    rows(docs, "SELECT * FROM faiss_search('main', 'docs', ?, 1)", [QUERY])
    assert [row[2] for row in rows(docs, INDEXES)] == [6]


def test_indexes_tell_size_time_and_use(tmp_path, connect):
    vectors = numpy.random.default_rng(1).standard_normal((3000, 64))
    connection = connect(tmp_path / "a.db")
    fill(connection, vectors)
    for count in range(1, 5):
        scalar(connection, "SELECT faiss_search('main', 'docs', ?, 3)", [vector(*vectors[0])])
        size, seconds, searches = connection.execute(
            "SELECT bytes, build_seconds, searches FROM faiss_indexes"
        ).fetchone()
        assert 3000 * 64 * 4 <= size <= 3000 * 64 * 4 * 1.5
        assert 0 < seconds < 100
        assert searches == count
    assert rows(connection, "SELECT typeof(bytes), typeof(build_seconds), typeof(searches) FROM faiss_indexes") == [
        ("integer", "real", "integer")
    ]


def test_connections_share_one_index(docs_file, connect):
    first, second = connect(docs_file), connect(docs_file)
    for connection, times in ((first, 3), (second, 2), (first, 1)):
        for _ in range(times):
            rows(connection, "SELECT * FROM faiss_search('main', 'docs', ?, 1)", [QUERY])
    for connection in (first, second):
        assert column(connection, "SELECT searches FROM faiss_indexes") == [6]


def test_a_connection_sees_only_its_own_databases(docs_file, connect, tmp_path):
    """Which files others have open is not its business."""
    owner, stranger = connect(docs_file), connect(tmp_path / "stranger.db")
    rows(owner, "SELECT * FROM faiss_search('main', 'docs', ?, 1)", [QUERY])
    assert len(rows(owner, INDEXES)) == 1
    assert rows(stranger, INDEXES) == []
    stranger.execute("ATTACH ? AS d", [str(docs_file)])
    assert rows(stranger, INDEXES) == [("d", "docs", 5, 2, "l2", "Flat")]
