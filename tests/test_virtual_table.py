"""CREATE VIRTUAL TABLE … USING faiss: its options, queries, joins, commands and life cycle."""

import math
import sqlite3

import numpy
import pytest

import oracle
from database import column, connect as open_database
from database import fill, live_names, plan, plain, rows, scalar, values, vector

QUERY = vector(0, 0)
NEAREST = [(1, 0.0), (3, 1.0), (6, 4.0), (2, 25.0), (4, 100.0)]  # of conftest.DOCS to (0, 0)

NEARER_FIRST = {"l2": ("distance", "score"), "ip": ("distance", "score DESC"),
                "cosine": ("distance", "score DESC")}
FARTHER_FIRST = {"l2": ("distance DESC", "score DESC"), "ip": ("distance DESC", "score"),
                 "cosine": ("distance DESC", "score")}


@pytest.fixture(params=oracle.METRICS)
def metric(request):
    return request.param


@pytest.fixture
def points(memory, metric):
    """300 rows with many ties, `points_index` of the given metric; returns what the oracle reads."""
    random = numpy.random.default_rng(5)
    if metric == "cosine":  # along the axes, where a cosine is exact
        vectors = [
            [sign * length if axis == place else 0 for place in range(3)]
            for axis, sign, length in zip(
                random.integers(0, 3, 300), random.choice([-1, 0, 1], 300), random.integers(1, 5, 300)
            )
        ]
    else:
        vectors = random.integers(-3, 4, (300, 3)).tolist()
    fill(memory, vectors, "points")
    memory.execute(f"CREATE VIRTUAL TABLE points_index USING faiss(main, points, metric={metric})")
    return rows(memory, "SELECT id, id, embedding FROM points")


POINT = vector(0, 2, 0)


# --- columns and basic queries ------------------------------------------------------------------


def test_columns(docs):
    assert rows(docs, "SELECT name, hidden FROM pragma_table_xinfo('docs_index')") == [
        ("id", 0),
        ("score", 0),
        ("distance", 0),
        ("embedding", 1),
        ("k", 1),
        ("docs_index", 1),
    ]
    cursor = docs.execute("SELECT * FROM docs_index WHERE embedding MATCH ? LIMIT 2", [QUERY])
    assert [item[0] for item in cursor.description] == ["id", "score", "distance"]
    assert cursor.fetchall() == [(1, 0.0, 0.0), (3, 1.0, 1.0)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, score FROM docs_index WHERE embedding MATCH :v",
        "SELECT id, score FROM docs_index WHERE embedding MATCH '[0, 0]'",
        "SELECT id, score FROM docs_index WHERE embedding = :v",
        "SELECT id, score FROM docs_index WHERE :v = embedding",
        "SELECT id, score FROM docs_index(:v)",
        "SELECT id, score FROM docs_index('[0, 0]')",
        "SELECT id, score FROM docs_index WHERE embedding MATCH (SELECT embedding FROM docs WHERE id = 1)",
        "SELECT n.id, n.score FROM docs_index AS n WHERE n.embedding MATCH :v ORDER BY n.distance",
        "SELECT id, score FROM docs_index WHERE embedding MATCH :v ORDER BY distance LIMIT -1",
        "SELECT id, score FROM docs_index WHERE embedding MATCH :v AND k = 9223372036854775807",
    ],
)
def test_every_row_nearest_first(docs, sql):
    assert docs.execute(sql, {"v": QUERY}).fetchall() == NEAREST


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, score FROM docs_index WHERE embedding MATCH :v AND k = :k",
        "SELECT id, score FROM docs_index WHERE k = :k AND embedding MATCH :v",
        "SELECT id, score FROM docs_index WHERE embedding = :v AND k = :k",
        "SELECT id, score FROM docs_index(:v, :k)",
        "SELECT id, score FROM docs_index(:v) WHERE k = :k",
        "SELECT id, score FROM docs_index(:v) LIMIT :k",
        "SELECT id, score FROM docs_index WHERE embedding MATCH :v LIMIT :k",
        "SELECT id, score FROM docs_index WHERE embedding MATCH :v ORDER BY distance LIMIT :k",
        "SELECT id, score FROM docs_index WHERE embedding MATCH :v AND k = :k ORDER BY distance LIMIT 100",
        "SELECT id, score FROM docs_index WHERE embedding MATCH :v AND k = 100 ORDER BY distance LIMIT :k",
    ],
)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6, 1000])
def test_the_k_nearest(docs, sql, k):
    assert docs.execute(sql, {"v": QUERY, "k": k}).fetchall() == NEAREST[:k]


def test_a_whole_real_is_a_k(docs):
    assert rows(docs, "SELECT id FROM docs_index WHERE embedding MATCH ? AND k = 2.0", [QUERY]) == [(1,), (3,)]


def test_the_design_s_join(docs):
    docs.execute("ALTER TABLE docs ADD COLUMN title")
    docs.execute("UPDATE docs SET title = 'title ' || id")
    assert rows(
        docs,
        "SELECT d.title, n.score FROM docs_index(:v, 2) AS n JOIN docs AS d USING (id) ORDER BY n.distance",
        {"v": QUERY},
    ) == [("title 1", 0.0), ("title 3", 1.0)]


@pytest.mark.parametrize("limit", range(0, 8))
@pytest.mark.parametrize("offset", range(0, 8))
def test_limit_and_offset(docs, limit, offset):
    for order in ("", "ORDER BY distance"):
        sql = f"SELECT id, score FROM docs_index WHERE embedding MATCH ? {order} LIMIT ? OFFSET ?"
        assert rows(docs, sql, [QUERY, limit, offset]) == NEAREST[offset : offset + limit]
    sql = "SELECT id, score FROM docs_index WHERE embedding MATCH ? AND k = 3 LIMIT ? OFFSET ?"
    assert rows(docs, sql, [QUERY, limit, offset]) == NEAREST[:3][offset : offset + limit]


MAX = 9223372036854775807


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (f"LIMIT {MAX}", NEAREST),
        (f"LIMIT {MAX} OFFSET 2", NEAREST[2:]),
        (f"LIMIT {MAX} OFFSET {MAX}", []),
        (f"LIMIT 2 OFFSET {MAX}", []),
        (f"LIMIT 2 OFFSET -{MAX}", NEAREST[:2]),
        (f"LIMIT -{MAX} OFFSET 3", NEAREST[3:]),
        ("LIMIT 2 OFFSET -5", NEAREST[:2]),
        ("LIMIT '2'", NEAREST[:2]),
        ("LIMIT 2.0", NEAREST[:2]),
        ("LIMIT (SELECT count(*) - 4 FROM docs)", NEAREST[:2]),
        ("LIMIT (SELECT max(k) FROM docs_index('[0, 0]', 3))", NEAREST[:3]),
    ],
)
def test_unusual_limits(docs, rest, expected):
    """A hint to the search that may overflow, be negative or be no integer."""
    for order in ("", "ORDER BY distance "):
        for table in ("docs_index(?)", "faiss_search('main', 'docs', ?)"):
            assert rows(docs, f"SELECT id, score FROM {table} {order}{rest}", [QUERY]) == expected


def test_null_vector_or_k_gives_no_rows(docs):
    for condition in (
        "embedding MATCH NULL",
        "embedding = NULL",
        "embedding MATCH (SELECT embedding FROM docs WHERE id = 5)",
        "embedding MATCH '[0, 0]' AND k = NULL",
        "embedding MATCH NULL AND k = NULL",
        "embedding MATCH NULL AND k = 0",
        "embedding MATCH NULL AND id = 1",
    ):
        assert rows(docs, f"SELECT * FROM docs_index WHERE {condition}") == []
    assert rows(docs, "SELECT * FROM docs_index(NULL)") == []
    assert rows(docs, "SELECT * FROM docs_index('[0, 0]', NULL)") == []


def test_an_empty_source_gives_no_rows_whatever_the_dimension(memory):
    fill(memory, [])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for query in ("[0]", "[0, 0]"):
        assert rows(memory, "SELECT * FROM docs_index WHERE embedding MATCH ?", [query]) == []
        assert rows(memory, "SELECT * FROM docs_index(?, 5)", [query]) == []
    assert rows(memory, "SELECT * FROM docs_index") == []
    memory.execute("INSERT INTO docs VALUES (9, ?)", [vector(1, 1, 1)])
    assert rows(memory, "SELECT id, score FROM docs_index('[0, 0, 0]')") == [(9, 3.0)]


def test_score_and_distance(points, memory, metric):
    found = rows(memory, "SELECT id, score, distance FROM points_index(?)", [POINT])
    assert [(id, score) for id, score, _ in found] == oracle.nearest(points, POINT, metric=metric)
    for _, score, distance in found:
        assert distance == {"l2": math.sqrt(abs(score)), "ip": -score, "cosine": 1 - score}[metric]
    assert found == sorted(found, key=lambda row: (row[2], row[0]))  # ties in row order


def test_a_zero_vector_is_at_distance_1_under_cosine(memory):
    fill(memory, [(1, 0), (0, 0), (-2, 0), (0, 3)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric=cosine)")
    assert rows(memory, "SELECT * FROM docs_index('[5, 0]')") == [
        (1, 1.0, 0.0),
        (2, 0.0, 1.0),
        (4, 0.0, 1.0),
        (3, -1.0, 2.0),
    ]
    assert rows(memory, "SELECT * FROM docs_index('[0, 0]')") == [
        (id, 0.0, 1.0) for id in (1, 2, 3, 4)
    ]


# --- order --------------------------------------------------------------------------------------


def sorts(memory, sql, parameters=()):
    return any("TEMP B-TREE" in line for line in plan(memory, sql, parameters))


@pytest.mark.parametrize("rest", ["", " LIMIT 5", " LIMIT 5 OFFSET 2"])
@pytest.mark.parametrize("k", ["", " AND k = 50"])
def test_nearer_first_orders_cost_no_sort(points, memory, metric, k, rest):
    everything = oracle.nearest(points, POINT, 50 if k else None, metric)
    expected = everything[2:7] if "OFFSET" in rest else everything[:5] if rest else everything
    for order in NEARER_FIRST[metric]:
        sql = f"SELECT id, score FROM points_index WHERE embedding MATCH ?{k} ORDER BY {order}{rest}"
        assert not sorts(memory, sql, [POINT])
        assert rows(memory, sql, [POINT]) == expected


@pytest.mark.parametrize("k", ["", " AND k = 50"])
def test_farther_first_orders_sort(points, memory, metric, k):
    """LIMIT must not cut before the sort."""
    everything = oracle.nearest(points, POINT, 50 if k else None, metric)
    for order in FARTHER_FIRST[metric]:
        sql = f"SELECT id, score FROM points_index WHERE embedding MATCH ?{k} ORDER BY {order}"
        assert sorts(memory, sql, [POINT])
        found = rows(memory, sql, [POINT])
        assert sorted(found) == sorted(everything)
        assert [score for _, score in found] == [score for _, score in reversed(everything)]
        limited = rows(memory, sql + " LIMIT 5", [POINT])
        assert [score for _, score in limited] == [score for _, score in found[:5]]


def test_ties_ordered_by_id(points, memory, metric):
    for terms in ("distance, id", "distance, rowid", "distance, id DESC", "score, id", "score DESC, id"):
        sql = f"SELECT id, score, distance FROM points_index WHERE embedding MATCH ? ORDER BY {terms}"
        found = rows(memory, sql, [POINT])
        down = -1 if "id DESC" in terms else 1
        first = {"d": 2, "s": 1}[terms[0]]
        sign = -1 if "score DESC" in terms else 1
        assert found == sorted(found, key=lambda row: (sign * row[first], down * row[0]))
        assert len(found) == 300
        assert rows(memory, sql + " LIMIT 7 OFFSET 3", [POINT]) == found[3:10]


def test_groups_and_aggregates(points, memory, metric):
    """GROUP BY, DISTINCT, min and max also ask a table for an order; LIMIT is not theirs to cut."""
    pairs = oracle.nearest(points, POINT, metric=metric)
    all_scores = [score for _, score in pairs]
    once = sorted(set(all_scores))
    assert rows(memory, "SELECT score, count(*) FROM points_index(?) GROUP BY score", [POINT]) == [
        (score, all_scores.count(score)) for score in once
    ]
    for direction, expected in (("", once), (" DESC", once[::-1])):
        sql = f"SELECT DISTINCT score FROM points_index(?) ORDER BY score{direction}"
        assert column(memory, sql, [POINT]) == expected
        assert column(memory, sql + " LIMIT 2", [POINT]) == expected[:2]
    assert len(rows(memory, "SELECT DISTINCT score FROM points_index(?) LIMIT 2", [POINT])) == 2
    assert scalar(memory, "SELECT count(*) FROM points_index(?) LIMIT 1", [POINT]) == 300
    assert scalar(memory, "SELECT count(*) FROM points_index(?, 7)", [POINT]) == 7
    assert rows(memory, "SELECT min(score), max(score) FROM points_index(?)", [POINT]) == [
        (once[0], once[-1])
    ]
    assert scalar(memory, "SELECT max(score) FROM points_index(?)", [POINT]) == once[-1]
    assert scalar(memory, "SELECT min(score) FROM points_index(?)", [POINT]) == once[0]
    assert scalar(memory, "SELECT max(id) FROM points_index(?, 9)", [POINT]) == max(
        id for id, _ in pairs[:9]
    )
    assert rows(
        memory,
        "SELECT id, row_number() OVER (ORDER BY distance) FROM points_index(?) LIMIT 3",
        [POINT],
    ) == [(id, place + 1) for place, (id, _) in enumerate(pairs[:3])]
    assert column(
        memory,
        "SELECT id FROM (SELECT id, distance FROM points_index(?) ORDER BY distance LIMIT 9) ORDER BY id",
        [POINT],
    ) == sorted(id for id, _ in pairs[:9])
    assert scalar(memory, "SELECT EXISTS (SELECT 1 FROM points_index(?) WHERE score = ?)", [POINT, once[-1]]) == 1


@pytest.mark.parametrize("order", ["id", "id DESC", "-distance", "abs(score)", "id % 7, id"])
def test_other_orders_sort_the_whole_table(points, memory, metric, order):
    sql = f"SELECT id FROM points_index WHERE embedding MATCH ? ORDER BY {order}, id LIMIT 10"
    memory.execute("CREATE TABLE copied(id, score, distance)")
    memory.execute("INSERT INTO copied SELECT * FROM points_index(?)", [POINT])
    assert rows(memory, sql, [POINT]) == rows(
        memory, f"SELECT id FROM copied ORDER BY {order}, id LIMIT 10"
    )


def test_order_by_two_terms(points, memory, metric):
    """`distance` first, then something else: ties are not in that order by themselves."""
    sql = "SELECT id, distance FROM points_index WHERE embedding MATCH ? ORDER BY distance, id DESC"
    found = rows(memory, sql, [POINT])
    assert found == sorted(found, key=lambda row: (row[1], -row[0]))
    assert len(found) == 300


def test_a_filter_outside_the_table_never_shortens_the_answer(points, memory, metric):
    """KNN cut at the LIMIT before the filter would come back short: here the table streams."""
    everything = oracle.nearest(points, POINT, metric=metric)
    for condition, keep in (
        ("id % 50 = 0", lambda id, score: id % 50 == 0),
        ("abs(id) > 290", lambda id, score: id > 290),
        ("score + 0 <> 0", lambda id, score: score != 0),
        ("id BETWEEN 100 AND 110", lambda id, score: 100 <= id <= 110),
        ("id > 295", lambda id, score: id > 295),
        ("id IN (7, 3, 250)", lambda id, score: id in (7, 3, 250)),
        ("id NOT IN (7, 3, 250)", lambda id, score: id not in (7, 3, 250)),
        ("id IN (SELECT id FROM points WHERE id % 60 = 1)", lambda id, score: id % 60 == 1),
    ):
        expected = [pair for pair in everything if keep(*pair)]
        sql = f"SELECT id, score FROM points_index WHERE embedding MATCH ? AND {condition} ORDER BY distance"
        assert rows(memory, sql, [POINT]) == expected
        assert rows(memory, sql + " LIMIT 4", [POINT]) == expected[:4]
        assert rows(memory, sql + " LIMIT 4 OFFSET 1", [POINT]) == expected[1:5]


def test_a_range_of_scores(points, memory, metric):
    everything = oracle.nearest(points, POINT, metric=metric)
    for bound in sorted({score for _, score in everything}):
        for operator, keep in (("<", bound.__gt__), ("<=", bound.__ge__), (">", bound.__lt__),
                               (">=", bound.__le__), ("=", bound.__eq__), ("<>", bound.__ne__)):
            assert rows(
                memory,
                f"SELECT id, score FROM points_index WHERE embedding MATCH ? AND score {operator} ? LIMIT 20",
                [POINT, bound],
            ) == [pair for pair in everything if keep(pair[1])][:20]


def test_streaming_without_k_goes_through_the_whole_table(memory, metric):
    random = numpy.random.default_rng(2)
    vectors = random.standard_normal((5000, 8)).astype("f4")
    fill(memory, vectors)
    memory.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric={metric})")
    table = rows(memory, "SELECT id, id, embedding FROM docs")
    query = random.standard_normal(8).astype("<f4").tobytes()
    found = rows(memory, "SELECT id, score FROM docs_index WHERE embedding MATCH ?", [query])
    oracle.check(found, table, query, metric=metric)
    cursor = memory.execute("SELECT id, score FROM docs_index WHERE embedding MATCH ?", [query])
    assert [row for size in (1, 1, 7, 100, 4000, 5000) for row in cursor.fetchmany(size)] == found
    for count in (1, 10, 1000, 4999, 5000, 6000):
        sql = "SELECT id, score FROM docs_index WHERE embedding MATCH ? LIMIT ?"
        assert rows(memory, sql, [query, count]) == found[:count]
        assert rows(memory, "SELECT id, score FROM docs_index(?, ?)", [query, count]) == found[:count]


def test_a_filter_that_only_the_farthest_row_passes(memory):
    fill(memory, [(place,) for place in range(3000)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert rows(
        memory,
        "SELECT n.id FROM docs_index n JOIN docs d ON d.id = n.id"
        " WHERE n.embedding MATCH '[0]' AND d.id + 0 = 3000 ORDER BY n.distance LIMIT 1",
    ) == [(3000,)]


# --- lookups and scans --------------------------------------------------------------------------


def test_a_plain_scan(docs):
    assert rows(docs, "SELECT *, embedding FROM docs_index") == [
        (id, None, None, embedding)
        for id, embedding in rows(
            docs, "SELECT id, embedding FROM docs WHERE embedding IS NOT NULL ORDER BY id"
        )
    ]
    assert rows(docs, "SELECT rowid, id FROM docs_index") == [(id, id) for id in (1, 2, 3, 4, 6)]
    assert scalar(docs, "SELECT count(*) FROM docs_index") == 5
    assert rows(docs, "SELECT id FROM docs_index LIMIT 2 OFFSET 1") == [(2,), (3,)]
    assert rows(docs, "SELECT id FROM docs_index ORDER BY id DESC LIMIT 2") == [(6,), (4,)]


def test_the_embedding_reads_back(docs):
    stored = dict(rows(docs, "SELECT id, embedding FROM docs"))
    for sql in (
        "SELECT id, embedding FROM docs_index",
        "SELECT id, embedding FROM docs_index('[0, 0]')",
        "SELECT id, embedding FROM docs_index('[0, 0]', 3)",
        "SELECT id, embedding FROM docs_index WHERE id = 2",
        "SELECT id, embedding FROM docs_index WHERE id = 2 AND embedding MATCH '[0, 0]'",
    ):
        found = rows(docs, sql)
        assert found and all(embedding == stored[id] for id, embedding in found)


def test_lookup_without_a_vector(docs):
    assert rows(docs, "SELECT * FROM docs_index WHERE id = 2") == [(2, None, None)]
    assert rows(docs, "SELECT * FROM docs_index WHERE id = 5") == []  # its embedding is NULL
    assert rows(docs, "SELECT * FROM docs_index WHERE id = 99") == []
    assert rows(docs, "SELECT id FROM docs_index WHERE id IN (6, 2, 99, 5)") == [(2,), (6,)]
    assert rows(docs, "SELECT id FROM docs_index WHERE rowid = 2") == [(2,)]
    assert rows(docs, "SELECT id FROM docs_index WHERE id = NULL") == []
    assert rows(docs, "SELECT id FROM docs_index WHERE id IS NULL") == []


def test_lookup_with_a_vector(docs):
    assert rows(docs, "SELECT * FROM docs_index WHERE id = 2 AND embedding MATCH ?", [QUERY]) == [
        (2, 25.0, 5.0)
    ]
    assert rows(docs, "SELECT * FROM docs_index WHERE rowid = 2 AND embedding MATCH ?", [QUERY]) == [
        (2, 25.0, 5.0)
    ]
    for id in (5, 99, None, "x"):
        assert rows(docs, "SELECT * FROM docs_index WHERE id = ? AND embedding MATCH ?", [id, QUERY]) == []
    assert rows(
        docs, "SELECT id FROM docs_index WHERE id IN (2, 4, 6) AND embedding MATCH ? ORDER BY distance", [QUERY]
    ) == [(6,), (2,), (4,)]


def test_with_k_an_id_asks_whether_it_is_among_the_k(docs):
    sql = "SELECT id FROM docs_index WHERE embedding MATCH ? AND k = 3 AND id = ?"
    assert [rows(docs, sql, [QUERY, id]) for id in (1, 3, 6, 2, 4)] == [[(1,)], [(3,)], [(6,)], [], []]
    for condition in ("id IN (2, 6)", "id IN (6)", "rowid = 6", "rowid IN (6, 2)", "+id = 6"):
        assert rows(
            docs, f"SELECT id FROM docs_index WHERE embedding MATCH ? AND k = 3 AND {condition}", [QUERY]
        ) == [(6,)]


@pytest.mark.parametrize("declared", ["INTEGER", "TEXT", "REAL", "NUMERIC", "BLOB", "", "VARCHAR(9)"])
def test_ids_compare_as_in_the_source(memory, declared):
    """The id column takes its affinity along."""
    memory.execute(f"CREATE TABLE docs(id {declared}, embedding BLOB)")
    for id in (1, 2.5, "1", "2.50", "abc", "1.0", None, 2**53 + 1):
        memory.execute("INSERT INTO docs VALUES (?, ?)", [id, vector(1, 2)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for value in ("1", "1.0", "'1'", "'1.0'", "2.5", "'2.50'", "'2.5'", "'abc'", "NULL", "X'31'",
                  "9007199254740993", "9007199254740992.0"):
        for operator in ("=", "IS", "<>", "<", ">="):
            condition = f"id {operator} {value}"
            expected = rows(memory, f"SELECT rowid, id FROM docs WHERE {condition}")
            assert rows(memory, f"SELECT rowid, id FROM docs_index WHERE {condition}") == expected
            assert rows(
                memory,
                f"SELECT rowid, id FROM docs_index WHERE {condition} AND embedding MATCH '[0, 0]'",
            ) == expected


@pytest.mark.parametrize("collation", ["NOCASE", "RTRIM", "BINARY"])
def test_ids_collate_as_in_the_source(memory, collation):
    memory.execute(f"CREATE TABLE docs(id TEXT COLLATE {collation}, embedding BLOB)")
    for place, id in enumerate(("b", "A", "a", "B", "a ", "c")):
        memory.execute("INSERT INTO docs VALUES (?, ?)", [id, vector(place)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for condition in ("id = 'a'", "id = 'A '", "id COLLATE BINARY = 'a'", "id = 'a' COLLATE BINARY",
                      "id COLLATE NOCASE = 'a'", "id COLLATE RTRIM = 'a'", "id IN ('a', 'B')", "id > 'a'",
                      "id BETWEEN 'A' AND 'a'", "id IS 'a'", "id IN (SELECT id FROM docs WHERE rowid = 2)"):
        expected = rows(memory, f"SELECT rowid, id FROM docs WHERE {condition} ORDER BY rowid")
        assert sorted(rows(memory, f"SELECT rowid, id FROM docs_index WHERE {condition}")) == expected, condition
        assert rows(
            memory,
            f"SELECT rowid, id FROM docs_index WHERE {condition} AND embedding MATCH '[0]' ORDER BY distance",
        ) == expected, condition
    for rest in ("GROUP BY id ORDER BY min(rowid)", "ORDER BY id, rowid"):
        assert rows(memory, f"SELECT rowid FROM docs_index {rest}") == rows(
            memory, f"SELECT rowid FROM docs {rest}"
        )
    expected = sorted(
        rows(memory, "SELECT a.rowid, b.rowid FROM docs a JOIN docs b ON a.id = b.id")
    )
    for order in ("docs a CROSS JOIN docs_index b", "docs_index b CROSS JOIN docs a"):
        for match in ("", " AND b.embedding MATCH '[0]'"):
            found = rows(memory, f"SELECT a.rowid, b.rowid FROM {order} WHERE a.id = b.id{match}")
            assert sorted(found) == expected, (order, match)


def test_a_collation_that_is_not_there(tmp_path, connect):
    """A collation of the application's: without it the file stays usable, and so does the search."""
    connection = connect(tmp_path / "docs.db")
    connection.create_collation("backwards", lambda a, b: (a < b) - (a > b))
    connection.execute("CREATE TABLE docs(id TEXT COLLATE backwards, embedding BLOB)")
    connection.execute("INSERT INTO docs VALUES ('a', ?), ('b', ?)", [vector(1), vector(2)])
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert rows(connection, "SELECT id FROM docs_index WHERE id < 'a'") == [("b",)]
    assert rows(connection, "SELECT id FROM docs_index ORDER BY id") == [("b",), ("a",)]
    connection.close()
    connection = connect(tmp_path / "docs.db")
    assert "docs_index" in column(connection, "SELECT name FROM pragma_table_list")
    assert rows(connection, "SELECT id, score FROM docs_index('[0]')") == [("a", 1.0), ("b", 4.0)]
    with pytest.raises(sqlite3.Error, match="no such collation"):
        rows(connection, "SELECT id FROM docs_index WHERE id < 'a'")
    connection.execute("DROP TABLE docs_index")


def test_conditions_on_the_rowid(docs):
    for condition in ("rowid = '2'", "rowid = 2.0", "rowid = 2.5", "rowid = 'x'", "rowid = NULL", "rowid IS NULL",
                      "rowid IN (6, 2, 2, 99)", "rowid > 2", "rowid BETWEEN 2 AND 4", "rowid <> 3", "rowid = X'32'",
                      f"rowid < {MAX}", f"rowid = {MAX}", "rowid = 1e300", "_rowid_ = 2", "oid = 2"):
        expected = rows(docs, f"SELECT id FROM docs WHERE {condition} AND embedding IS NOT NULL")
        assert rows(docs, f"SELECT id FROM docs_index WHERE {condition}") == expected, condition
        assert sorted(
            rows(docs, f"SELECT id FROM docs_index WHERE {condition} AND embedding MATCH '[0, 0]'")
        ) == sorted(expected), condition


@pytest.mark.parametrize("declared", ["INTEGER", "TEXT"])
def test_ids_that_repeat(memory, declared):
    memory.execute(f"CREATE TABLE docs(id {declared}, embedding BLOB)")
    for id, place in ((7, 3), (8, 1), (7, 1), (7, None), (8, 2), (7, 3)):
        memory.execute(
            "INSERT INTO docs VALUES (?, ?)", [id, None if place is None else vector(place)]
        )
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    seven, eight = (7, 8) if declared == "INTEGER" else ("7", "8")
    assert rows(memory, "SELECT rowid, id, score FROM docs_index('[0]')") == [
        (2, eight, 1.0), (3, seven, 1.0), (5, eight, 4.0), (1, seven, 9.0), (6, seven, 9.0)
    ]
    assert rows(memory, "SELECT id, score FROM docs_index('[0]', 3)") == [
        (eight, 1.0), (seven, 1.0), (eight, 4.0)
    ]
    assert rows(memory, "SELECT rowid, score FROM docs_index WHERE id = 7") == [
        (1, None), (3, None), (6, None)
    ]
    found = rows(memory, "SELECT rowid, score FROM docs_index WHERE id = 7 AND embedding MATCH '[0]' ORDER BY distance")
    assert found == [(3, 1.0), (1, 9.0), (6, 9.0)]


def test_ties_come_in_row_order_wherever_k_cuts(memory):
    """The k-th score is shared by rows before and after the cut."""
    random = numpy.random.default_rng(3)
    rowids = random.permutation(400)
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.executemany(
        "INSERT INTO docs VALUES (?, ?)", [(int(id), vector(int(id) % 3, 0)) for id in rowids]
    )
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    # Rows made anew take other slots inside the index, not another place in the answer.
    memory.execute("SELECT count(*) FROM docs_index('[0, 0]')").fetchall()
    memory.execute("UPDATE docs SET embedding = ? WHERE id % 9 = 0", [vector(1, 0)])
    memory.execute("DELETE FROM docs WHERE id % 10 = 1")
    table = rows(memory, "SELECT id, id, embedding FROM docs")
    everything = oracle.nearest(table, QUERY)
    for k in (1, 2, 50, 100, 130, 131, 132, 200, 359, 360, 361):
        assert rows(memory, "SELECT id, score FROM docs_index(?, ?)", [QUERY, k]) == everything[:k]


@pytest.mark.parametrize("source", ["docs", "kept", "seen"])
def test_rowids_tell_rows_apart(docs, source):
    """Also where the source has none: the same number for the same row in every kind of query."""
    docs.execute("CREATE TABLE kept(id INTEGER PRIMARY KEY, embedding BLOB) WITHOUT ROWID")
    docs.execute("INSERT INTO kept SELECT * FROM docs")
    docs.execute("CREATE VIEW seen AS SELECT * FROM docs ORDER BY id DESC")
    docs.execute(f"CREATE VIRTUAL TABLE other USING faiss(main, {source})")
    numbers = dict(rows(docs, "SELECT id, rowid FROM other"))
    assert sorted(numbers) == [1, 2, 3, 4, 6] and len(set(numbers.values())) == 5
    for sql in (
        "SELECT id, rowid FROM other('[0, 0]')",
        "SELECT id, rowid FROM other('[6, 8]', 3)",
        "SELECT id, rowid FROM other WHERE id IN (1, 6)",
        "SELECT id, rowid FROM other WHERE id = 2",
        "SELECT id, rowid FROM other WHERE id = 2 AND embedding MATCH '[0, 0]'",
    ):
        found = rows(docs, sql)
        assert found and all(numbers[id] == rowid for id, rowid in found), sql


def test_embedding_is_compares_stored_vectors(docs):
    docs.execute("INSERT INTO docs VALUES (7, ?)", [vector(3, 4)])
    assert rows(docs, "SELECT id, score FROM docs_index WHERE embedding IS ?", [vector(3, 4)]) == [
        (2, None), (7, None)
    ]
    assert rows(docs, "SELECT id FROM docs_index WHERE embedding IS ?", [vector(9, 9)]) == []
    assert rows(docs, "SELECT id FROM docs_index WHERE embedding IS NULL") == []
    assert scalar(docs, "SELECT count(*) FROM docs_index WHERE embedding IS NOT NULL") == 6
    assert scalar(docs, "SELECT count(*) FROM docs_index WHERE embedding IS NOT ?", [vector(3, 4)]) == 4
    assert rows(
        docs, "SELECT id, score FROM docs_index WHERE embedding MATCH ? AND embedding IS ?",
        [QUERY, vector(3, 4)],
    ) == [(2, 25.0), (7, 25.0)]


@pytest.mark.parametrize(
    ("sql", "kind"),
    [
        ("SELECT id FROM docs_index", "scan"),
        ("SELECT id FROM docs_index WHERE id = 1", "lookup"),
        ("SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]' AND k = 3", "knn"),
        ("SELECT id FROM docs_index('[0, 0]', 3)", "knn"),
        ("SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]'", "stream"),
        ("SELECT id FROM docs d CROSS JOIN docs_index n USING (id) WHERE n.embedding MATCH '[0, 0]'", "point"),
    ],
)
def test_the_plan_says_what_is_done(docs, sql, kind):
    lines = [line for line in plan(docs, sql) if "VIRTUAL TABLE" in line]
    assert len(lines) == 1
    name = "n" if " n " in sql else "docs_index"
    assert lines[0].startswith(f"SCAN {name} VIRTUAL TABLE INDEX ")
    assert lines[0].split("INDEX ")[1].split(":", 1)[1].split()[0] == kind


def test_other_uses_of_match(docs):
    for sql in (
        "SELECT embedding MATCH '[0, 0]' FROM docs_index",
        "SELECT id FROM docs_index WHERE id MATCH '[0, 0]'",
        "SELECT id FROM docs_index WHERE NOT embedding MATCH '[0, 0]'",
        "SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]' AND embedding MATCH '[1, 1]'",
        "SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]' AND k = 2 AND k = 3",
        "SELECT id FROM docs_index WHERE k = 2",
    ):
        with pytest.raises(sqlite3.Error):
            rows(docs, sql)


@pytest.mark.parametrize("source", ["docs", "kept", "seen"])
def test_match_or_something_else(docs, source):
    """SQLite may run both sides apart and drop what comes twice by rowid; if not, it is an error."""
    docs.execute("CREATE TABLE kept(id TEXT PRIMARY KEY, embedding BLOB) WITHOUT ROWID")
    docs.execute("INSERT INTO kept SELECT * FROM docs ORDER BY id DESC")
    docs.execute("CREATE VIEW seen AS SELECT * FROM docs ORDER BY id DESC")
    docs.execute(f"CREATE VIRTUAL TABLE other USING faiss(main, {source})")
    for condition, expected in (
        ("embedding MATCH '[0, 0]' OR id = 2", [1, 2, 3, 4, 6]),
        ("id = 2 OR embedding MATCH '[0, 0]'", [1, 2, 3, 4, 6]),
        ("id = 2 OR id = 4", [2, 4]),
        ("id IN (2, 4) OR id = 4", [2, 4]),
        ("(embedding MATCH '[0, 0]' AND k = 2) OR id = 2", [1, 2, 3]),
        ("(embedding MATCH '[0, 0]' AND k = 2) OR id = 3", [1, 3]),
        ("(embedding MATCH '[0, 0]' AND k = 2) OR (embedding MATCH '[6, 8]' AND k = 2)", [1, 2, 3, 4]),
    ):
        try:
            found = column(docs, f"SELECT id FROM other WHERE {condition}")
        except sqlite3.Error:
            assert "MATCH" in condition
        else:
            assert sorted(map(int, found)) == expected


BESIDE_AN_OR = (
    "docs_index('[5]') n WHERE",
    "docs_index n WHERE n.embedding MATCH '[5]' AND",
    "docs_index n WHERE n.embedding = (SELECT '[5]') AND",
    "docs_index('[5]', 6) n WHERE",
    "kept_index n WHERE n.embedding MATCH '[5]' AND n.k = 6 AND",
    "kept_index('[5]') n WHERE",
    "docs d JOIN docs_index n ON n.embedding MATCH d.embedding WHERE d.id < 4 AND",
    "docs_index('[0]') d JOIN docs_index n ON d.id = n.id AND n.embedding MATCH '[5]' WHERE",
    "docs_index('[0]') d JOIN docs_index('[5]') n USING (id) WHERE",
    "docs_index n JOIN docs_index d USING (id) WHERE n.embedding = '[5]' AND d.embedding = '[0]' AND",
    f"docs_index n WHERE {'n.id > 0 AND ' * 14} n.embedding = '[5]' AND",  # the last that may be the vector
)


@pytest.mark.parametrize("count", [0, 1, 10, 30, 1000])
def test_an_or_beside_a_vector(memory, count):
    """SQLite must not run the sides of the OR apart: it would run them without the vector."""
    columns = "(id INTEGER PRIMARY KEY, u, v, embedding BLOB)"
    memory.execute(f"CREATE TABLE docs{columns}")
    memory.execute(f"CREATE TABLE kept{columns} WITHOUT ROWID")
    for row in range(1, count + 1):
        memory.execute("INSERT INTO docs VALUES (?, ?, ?, ?)", [row, row % 3, row % 4, vector(row)])
    memory.execute("INSERT INTO kept SELECT * FROM docs")
    for source in ("docs", "kept"):
        memory.execute(f"CREATE VIRTUAL TABLE {source}_index USING faiss(main, {source})")
        rows(memory, f"SELECT id FROM {source}_index('[1]')")  # the number of rows is known now
    for beside in BESIDE_AN_OR:
        for condition in (
            "n.u = 1 OR n.v >= 2",
            "n.id = 4 OR n.v = 3",
            "(n.id = 4 AND n.u = 1) OR (n.id = 7 AND n.v = 3) OR (n.id = 9 AND n.v = 0)",
            "n.u = 1 OR (n.v >= 2 AND (n.u = 0 OR n.v = 3))",
            "n.v = n.u + 1 OR (n.id = 4 AND n.u = 1) OR (n.id = 7 AND n.v = 3)",
            "(n.u = 1 AND n.id > 2 AND n.v >= 0) OR (n.id = 9 AND (n.u = 0 OR n.v = 3))",
        ):
            for order in ("n.id", "n.distance, n.id", *["d.distance, n.id"] * beside.count("_index('[0]') d")):
                sql = f"SELECT n.id FROM {beside} (%s) ORDER BY {order}"
                expected = rows(memory, sql % f"({condition}) IS TRUE")
                assert rows(memory, sql % condition) == expected, sql % condition
                assert "MULTI-INDEX OR" not in plan(memory, sql % condition)
    for condition in ("n.id = 4 OR n.id >= 7", "(n.id = 4 AND n.id > 2) OR (n.id = 7 AND n.id < 9)"):
        sql = "SELECT n.id FROM faiss_search('main', 'docs', '[5]') n WHERE (%s) ORDER BY n.distance, n.id"
        assert rows(memory, sql % condition) == rows(memory, sql % f"({condition}) IS TRUE")


def test_the_query_before_plays_no_part(docs):
    """What the second query is offered looks like a side of an OR in the first."""
    rows(docs, "SELECT id, k FROM docs_index WHERE embedding MATCH '[0, 0]'")
    with pytest.raises(sqlite3.Error, match="k can only be compared by ="):
        rows(docs, "SELECT id, k FROM docs_index WHERE k <= 3 AND embedding MATCH '[0, 0]'")


def test_in_is_refused_for_vector_and_k(docs):
    with pytest.raises(sqlite3.Error, match=r"\bk\b"):
        rows(docs, "SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]' AND k IN (1, 3)")
    with pytest.raises(sqlite3.Error, match="embedding|vector"):
        rows(docs, "SELECT id FROM docs_index WHERE embedding IN ('[0, 0]', '[1, 1]') AND k = 2")


# --- joins --------------------------------------------------------------------------------------


@pytest.fixture
def joined(memory):
    """Ids that repeat, a NULL embedding, a second column to filter by, several metrics."""
    random = numpy.random.default_rng(8)
    memory.execute("CREATE TABLE docs(pk INTEGER PRIMARY KEY, id TEXT, lang TEXT, embedding BLOB)")
    memory.execute("CREATE INDEX docs_id ON docs(id)")
    for pk in range(1, 81):
        blob = None if pk % 13 == 0 else vector(*random.integers(-3, 4, 2))
        memory.execute(
            "INSERT INTO docs VALUES (?, ?, ?, ?)", [pk, f"id{pk // 2}", ("en", "de", "fr")[pk % 3], blob]
        )
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    return memory


ORDERS = ("docs d CROSS JOIN docs_index n", "docs_index n CROSS JOIN docs d", "docs d JOIN docs_index n",
          "docs_index n JOIN docs d")


@pytest.mark.parametrize("k", ["", " AND n.k = 9"])
@pytest.mark.parametrize("filtered", ["", " AND d.lang = 'en'", " AND d.pk < 20", " AND +n.score < 5"])
@pytest.mark.parametrize("key", ["n.id = d.id", "d.id = n.id", "n.rowid = d.pk"])
def test_both_join_orders_give_the_same_rows(joined, key, filtered, k):
    answers = [
        sorted(
            rows(
                joined,
                f"SELECT d.pk, n.rowid, n.id, n.score FROM {order}"
                f" WHERE {key} AND n.embedding MATCH :v{k}{filtered}",
                {"v": QUERY},
            )
        )
        for order in ORDERS
    ]
    table = rows(joined, "SELECT pk, pk, embedding FROM docs")
    near = dict(oracle.nearest(table, QUERY, 9 if k else None))
    expected = sorted(
        (d, n, id, near[n])
        for d, id, lang in rows(joined, "SELECT pk, id, lang FROM docs")
        for n, other in rows(joined, "SELECT pk, id FROM docs")
        if n in near
        and (d == n if "rowid" in key else id == other)
        and ("lang" not in filtered or lang == "en")
        and ("pk <" not in filtered or d < 20)
        and ("score" not in filtered or near[n] < 5)
    )
    assert expected or (k and filtered)
    assert answers == [expected] * len(ORDERS)


@pytest.mark.parametrize("order", ORDERS)
def test_the_nearest_of_a_filtered_join(joined, order):
    """Without k, LIMIT counts what the whole query lets through, in either order."""
    table = rows(joined, "SELECT pk, pk, embedding FROM docs WHERE lang = 'de'")
    assert rows(
        joined,
        f"SELECT d.pk, n.score FROM {order} ON n.rowid = d.pk AND n.embedding MATCH :v"
        " AND d.lang = 'de' ORDER BY n.distance, d.pk LIMIT 7",
        {"v": QUERY},
    ) == oracle.nearest(table, QUERY, 7)


def test_the_forms_readme_joins_use_plan_no_sort(docs):
    for sql in (
        "SELECT d.id FROM docs_index(:v, 5) AS n JOIN docs AS d USING (id) ORDER BY n.distance",
        "SELECT d.id FROM docs_index AS n JOIN docs AS d USING (id) WHERE n.embedding MATCH :v"
        " ORDER BY n.distance LIMIT 5",
    ):
        assert not sorts(docs, sql, {"v": QUERY})
        assert column(docs, sql, {"v": QUERY}) == [1, 3, 6, 2, 4]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a.pk, b.rowid FROM docs a JOIN docs_index b ON b.embedding MATCH a.embedding AND b.k = 4",
        "SELECT a.pk, b.rowid FROM docs a JOIN docs_index(a.embedding, 4) b",
        "SELECT a.pk, b.rowid FROM docs a, docs_index(a.embedding) b WHERE b.k = 4",
        "SELECT a.pk, b.rowid FROM docs a CROSS JOIN docs_index b WHERE b.embedding = a.embedding AND b.k = 4",
        "SELECT a.pk, value FROM docs a, json_each((SELECT json_group_array(n) FROM"
        " (SELECT b.rowid AS n FROM docs_index b WHERE b.embedding MATCH a.embedding ORDER BY b.distance LIMIT 4)))",
    ],
)
def test_the_four_nearest_of_each_row(joined, sql):
    table = rows(joined, "SELECT pk, pk, embedding FROM docs ORDER BY pk")
    expected = [
        (pk, id) for pk, _, blob in table if blob for id, _ in oracle.nearest(table, blob, 4)
    ]
    assert rows(joined, sql) == expected


def test_pairs_of_rows_with_the_source_s_own_filter(joined):
    """The nearest other rows of the same language, for each row: streaming inside a correlated subquery."""
    found = rows(
        joined,
        """SELECT a.pk, (SELECT b.rowid FROM docs_index b JOIN docs c ON c.pk = b.rowid
                         WHERE b.embedding MATCH a.embedding AND c.lang = a.lang AND c.pk <> a.pk
                         ORDER BY b.distance LIMIT 1)
           FROM docs a WHERE a.embedding IS NOT NULL ORDER BY a.pk""",
    )
    table = rows(joined, "SELECT pk, lang, embedding FROM docs WHERE embedding IS NOT NULL ORDER BY pk")
    for (pk, lang, blob), (found_pk, neighbour) in zip(table, found, strict=True):
        others = [(key, key, e) for key, l, e in table if l == lang and key != pk]
        assert (found_pk, neighbour) == (pk, oracle.nearest(others, blob, 1)[0][0])


def test_left_join(docs):
    assert rows(
        docs,
        "SELECT d.id, n.score FROM docs d LEFT JOIN docs_index n ON n.id = d.id AND n.embedding MATCH ?"
        " ORDER BY d.id",
        [QUERY],
    ) == [(1, 0.0), (2, 25.0), (3, 1.0), (4, 100.0), (5, None), (6, 4.0)]
    assert rows(
        docs,
        "SELECT d.id, n.score FROM docs d LEFT JOIN docs_index n ON n.id = d.id AND n.embedding MATCH ?"
        " AND n.k = 3 ORDER BY d.id",
        [QUERY],
    ) == [(1, 0.0), (2, None), (3, 1.0), (4, None), (5, None), (6, 4.0)]
    assert rows(
        docs,
        "SELECT d.id, n.id FROM docs d LEFT JOIN docs_index n ON n.id = d.id ORDER BY d.id",
    ) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, None), (6, 6)]
    assert rows(
        docs,
        "SELECT a.id, b.id FROM docs a LEFT JOIN docs_index b ON b.embedding MATCH a.embedding AND b.k = 1"
        " ORDER BY a.id",
    ) == [(1, 1), (2, 2), (3, 3), (4, 4), (5, None), (6, 6)]


def test_two_searches_in_one_statement(docs):
    docs.execute("CREATE VIRTUAL TABLE docs_ip USING faiss(main, docs, metric=ip)")
    assert rows(
        docs,
        "SELECT a.id, a.score, b.score FROM docs_index a JOIN docs_ip b ON b.id = a.id"
        " WHERE a.embedding MATCH '[0, 0]' AND b.embedding MATCH '[1, 0]' ORDER BY a.distance",
    ) == [(1, 0.0, 0.0), (3, 1.0, 1.0), (6, 4.0, 0.0), (2, 25.0, 3.0), (4, 100.0, 6.0)]
    assert rows(
        docs,
        "SELECT id FROM docs_index('[0, 0]', 2) UNION ALL SELECT id FROM docs_index('[6, 8]', 2)",
    ) == [(1,), (3,), (4,), (2,)]


def test_cursors_at_once_do_not_disturb_each_other(docs):
    a = docs.execute("SELECT id FROM docs_index('[0, 0]')")
    b = docs.execute("SELECT id FROM docs_index('[6, 8]')")
    found = [(next(a)[0], next(b)[0]) for _ in range(5)]
    table = rows(docs, "SELECT id, id, embedding FROM docs")
    assert [pair[0] for pair in found] == [id for id, _ in oracle.nearest(table, vector(0, 0))]
    assert [pair[1] for pair in found] == [id for id, _ in oracle.nearest(table, vector(6, 8))]


# --- CREATE: options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        "main, docs",
        "main,docs",
        "'main', 'docs'",
        '"main", "docs"',
        "[main], [docs]",
        "`main`, `docs`",
        "main, docs, metric=l2",
        "main, docs, metric='l2'",
        'main, docs, metric="l2"',
        "main, docs, metric = l2",
        "main, docs, METRIC=L2",
        "main, docs, id=id, embedding=embedding",
        "main, docs, id='id', embedding=\"embedding\"",
        "main, docs, dimension=2",
        "main, docs, strict=on",
        "main, docs, strict=off",
        "main, docs, metric=l2, id=id, embedding=embedding, dimension=2, strict=on",
        "main, DOCS, embedding=EMBEDDING, id=ID",
    ],
)
def test_create(docs, arguments):
    docs.execute(f"CREATE VIRTUAL TABLE other USING faiss({arguments})")
    assert rows(docs, "SELECT id, score FROM other WHERE embedding MATCH ?", [QUERY]) == NEAREST


def test_create_with_other_columns(memory):
    memory.execute("CREATE TABLE docs(slug TEXT PRIMARY KEY, id INTEGER, vec BLOB, embedding BLOB)")
    memory.executemany(
        "INSERT INTO docs VALUES (?, ?, ?, ?)",
        [("a", 1, vector(5), vector(1, 1)), ("b", 2, vector(3), vector(2, 2)), ("c", 3, None, None)],
    )
    memory.execute("CREATE VIRTUAL TABLE by_vec USING faiss(main, docs, id=slug, embedding=vec)")
    memory.execute("CREATE VIRTUAL TABLE by_embedding USING faiss(main, docs)")
    assert rows(memory, "SELECT id, score FROM by_vec WHERE vec MATCH '[0]'") == [("b", 9.0), ("a", 25.0)]
    assert rows(memory, "SELECT id, score, vec FROM by_vec('[0]', 1)") == [("b", 9.0, vector(3))]
    assert rows(memory, "SELECT id, score FROM by_embedding WHERE embedding MATCH '[0, 0]'") == [
        (1, 2.0), (2, 8.0)
    ]
    with pytest.raises(sqlite3.OperationalError, match="embedding|MATCH"):
        rows(memory, "SELECT id FROM by_vec WHERE embedding MATCH '[0]'")


def test_id_is_the_rowid_when_there_is_no_such_column(memory):
    memory.execute("CREATE TABLE docs(name TEXT, embedding BLOB)")
    memory.execute("INSERT INTO docs(rowid, name, embedding) VALUES (40, 'a', ?), (30, 'b', ?)",
                   [vector(1), vector(2)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert rows(memory, "SELECT id, score FROM docs_index('[0]')") == [(40, 1.0), (30, 4.0)]
    assert rows(memory, "SELECT id, score FROM docs_index WHERE id = 30") == [(30, None)]
    assert scalar(memory, "SELECT faiss_search('main', 'docs', '[0]', 2)") == "[40, 30]"


def test_if_not_exists_and_a_name_taken(docs):
    docs.execute("CREATE VIRTUAL TABLE IF NOT EXISTS docs_index USING faiss(main, docs)")
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        docs.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert rows(docs, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST


def test_several_tables_over_one_source(docs):
    for metric in oracle.METRICS:
        docs.execute(f"CREATE VIRTUAL TABLE docs_{metric} USING faiss(main, docs, metric={metric})")
    assert column(docs, "SELECT id FROM docs_l2('[1, 0]', 2)") == [3, 1]
    assert column(docs, "SELECT id FROM docs_ip('[1, 0]', 2)") == [4, 2]
    assert column(docs, "SELECT id FROM docs_cosine('[1, 0]', 1)") == [3]
    docs.execute("DROP TABLE docs_ip")
    assert column(docs, "SELECT id FROM docs_l2('[1, 0]', 2)") == [3, 1]
    docs.execute("DELETE FROM docs WHERE id = 3")
    assert column(docs, "SELECT id FROM docs_l2('[1, 0]', 2)") == [1, 6]
    assert column(docs, "SELECT id FROM docs_index('[1, 0]', 2)") == [1, 6]


# --- life cycle ---------------------------------------------------------------------------------


def names(connection):
    return column(connection, "SELECT name FROM sqlite_schema ORDER BY name")


NAMES = ["docs", *live_names(), "docs_index", "docs_index_config"]


def test_the_shadow_table(docs):
    assert names(docs) == NAMES
    # No shadow table: a defensive connection would refuse every write to docs.
    assert scalar(docs, "SELECT type FROM pragma_table_list('docs_faiss_log')") == "table"
    assert column(docs, "SELECT name FROM pragma_table_info('docs_index_config')") == ["k", "v"]
    assert scalar(docs, "SELECT type FROM pragma_table_list('docs_index_config')") == "shadow"
    assert scalar(docs, "SELECT type FROM pragma_table_list('docs_index')") == "virtual"


def test_drop_leaves_nothing_behind(docs):
    before = rows(docs, "SELECT * FROM docs")
    rows(docs, "SELECT id FROM docs_index(?)", [QUERY])
    docs.execute("DROP TABLE docs_index")
    assert names(docs) == ["docs"]
    assert rows(docs, "SELECT * FROM docs") == before
    docs.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric=ip)")
    assert column(docs, "SELECT id FROM docs_index('[1, 0]', 1)") == [4]


def test_create_and_drop_roll_back(docs):
    docs.execute("BEGIN")
    docs.execute("DROP TABLE docs_index")
    docs.execute("CREATE VIRTUAL TABLE other USING faiss(main, docs, metric=ip)")
    assert column(docs, "SELECT id FROM other('[1, 0]', 1)") == [4]
    docs.execute("ROLLBACK")
    assert names(docs) == NAMES
    assert rows(docs, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST


def test_rename(docs_file, connect):
    connection = connect(docs_file)
    rows(connection, "SELECT id FROM docs_index(?)", [QUERY])
    connection.execute("ALTER TABLE docs_index RENAME TO neighbours")
    assert names(connection) == ["docs", *live_names(), "neighbours", "neighbours_config"]
    for each in (connection, connect(docs_file)):
        assert rows(each, "SELECT id, score FROM neighbours(?)", [QUERY]) == NEAREST
        each.execute("INSERT INTO neighbours(neighbours) VALUES ('integrity-check')")
        with pytest.raises(sqlite3.Error, match="neighbours is read-only: write to docs"):
            each.execute("DELETE FROM neighbours")
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            rows(each, "SELECT * FROM docs_index")
    connection.execute("DROP TABLE neighbours")
    assert names(connection) == ["docs"]


def test_rename_rolls_back(docs):
    docs.execute("BEGIN")
    docs.execute("ALTER TABLE docs_index RENAME TO neighbours")
    assert rows(docs, "SELECT id, score FROM neighbours(?)", [QUERY]) == NEAREST
    docs.execute("ROLLBACK")
    assert rows(docs, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    docs.execute("INSERT INTO docs_index(docs_index) VALUES ('integrity-check')")


def test_rename_to_a_column_s_name(docs):
    """The command column is named as the table, so the table cannot be named as another column."""
    for name in ("id", "score", "distance", "k", "embedding"):
        try:
            docs.execute(f"ALTER TABLE docs_index RENAME TO {name}")
        except sqlite3.Error as error:
            assert name in str(error)
        else:
            pytest.fail(f"a table named {name} would have two columns of that name")
    assert rows(docs, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST


@pytest.mark.parametrize("name", ["id", "score", "distance", "k", "embedding", "Score"])
def test_a_table_named_as_one_of_its_columns_is_refused(docs, name):
    with pytest.raises(sqlite3.Error, match=f"(?i){name}"):
        docs.execute(f"CREATE VIRTUAL TABLE {name} USING faiss(main, docs)")
    assert names(docs) == NAMES


def test_survives_close_and_reopen(docs_file, connect):
    for _ in range(2):
        connection = connect(docs_file)
        assert rows(connection, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
        connection.close()


def test_survives_vacuum(tmp_path, connect):
    """VACUUM renumbers the rowids of a table without an INTEGER PRIMARY KEY."""
    connection = connect(tmp_path / "docs.db")
    connection.execute("CREATE TABLE docs(id TEXT, embedding BLOB)")
    for place in range(60):
        connection.execute("INSERT INTO docs VALUES (?, ?)", [f"id{place}", vector(place, place % 4)])
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    connection.execute("DELETE FROM docs WHERE rowid % 3 = 1")
    other = connect(tmp_path / "docs.db")
    for each in (connection, other):
        rows(each, "SELECT id FROM docs_index(?)", [QUERY])
    connection.execute("VACUUM")
    for each in (other, connection, connect(tmp_path / "docs.db")):
        table = rows(each, "SELECT rowid, id, embedding FROM docs")
        assert table[0][0] == 1 and table[-1][0] == 40  # renumbered
        assert rows(each, "SELECT id, score FROM docs_index(?)", [QUERY]) == oracle.nearest(table, QUERY)
        assert rows(each, "SELECT rowid, id FROM docs_index") == [row[:2] for row in table]
        assert rows(each, "SELECT id, rowid FROM docs_index WHERE rowid = 40") == [(table[-1][1], 40)]
    connection.execute("VACUUM INTO ?", [str(tmp_path / "copy.db")])
    copy = connect(tmp_path / "copy.db")
    assert rows(copy, "SELECT id, score FROM docs_index(?)", [QUERY]) == oracle.nearest(table, QUERY)


def test_no_statement_is_left_open(docs):
    """VACUUM and a change of journal mode fail while any statement runs."""
    rows(docs, "SELECT id FROM docs_index(?, 2)", [QUERY])
    docs.execute("SELECT id FROM docs_index(?)", [QUERY]).fetchone()
    scalar(docs, "SELECT faiss_search('main', 'docs', ?, 2)", [QUERY])
    docs.execute("VACUUM")
    assert rows(docs, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE docs ADD COLUMN title TEXT",
        "CREATE INDEX i ON docs(id, embedding)",
        "CREATE TABLE other(x)",
        "CREATE VIEW v AS SELECT * FROM docs",
        "CREATE TRIGGER t AFTER INSERT ON docs BEGIN SELECT 1; END",
        "ANALYZE",
        "VACUUM",
        "ALTER TABLE docs RENAME TO d2; ALTER TABLE d2 RENAME TO docs",
    ],
)
@pytest.mark.parametrize("by", ["plain", "extended"])
def test_survives_schema_changes_by_another_connection(docs_file, connect, change, by):
    connection = connect(docs_file)
    assert rows(connection, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    other = plain(docs_file) if by == "plain" else connect(docs_file)
    other.executescript(change)
    assert rows(connection, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    assert rows(connection, "SELECT id FROM docs_index WHERE id = 2") == [(2,)]
    other.execute("INSERT INTO docs(id, embedding) VALUES (100, ?)", [vector(0.5, 0)])
    assert rows(connection, "SELECT id FROM docs_index(?, 2)", [QUERY]) == [(1,), (100,)]
    other.close()


def test_a_renamed_source_column_is_an_error_until_it_is_back(docs):
    docs.execute("ALTER TABLE docs RENAME COLUMN embedding TO vec")
    with pytest.raises(sqlite3.Error, match=r"(?s)(?=.*docs)(?=.*embedding)"):
        rows(docs, "SELECT id FROM docs_index(?)", [QUERY])
    docs.execute("ALTER TABLE docs RENAME COLUMN vec TO embedding")
    assert rows(docs, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST


# --- writes and commands ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO docs_index(id, embedding) VALUES (9, '[0, 0]')",
        "INSERT INTO docs_index(id) VALUES (9)",
        "INSERT INTO docs_index VALUES (9, 1, 1)",
        "INSERT INTO docs_index(docs_index) VALUES (NULL)",
        "REPLACE INTO docs_index(id, embedding) VALUES (1, '[0, 0]')",
        "UPDATE docs_index SET id = 9 WHERE id = 1",
        "UPDATE docs_index SET embedding = '[1, 1]'",
        "DELETE FROM docs_index WHERE id = 1",
        "DELETE FROM docs_index",
    ],
)
def test_writes_are_refused(docs, sql):
    with pytest.raises(sqlite3.Error, match="docs_index is read-only: write to docs"):
        docs.execute(sql)
    assert rows(docs, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    assert scalar(docs, "SELECT count(*) FROM docs") == 6


@pytest.mark.parametrize("command", ["rebuild", "optimize", "integrity-check"])
def test_commands(docs_file, connect, command):
    connection = connect(docs_file)
    for _ in range(2):
        connection.execute("INSERT INTO docs_index(docs_index) VALUES (?)", [command])
        assert rows(connection, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    connection.execute("BEGIN")
    connection.execute("INSERT INTO docs VALUES (7, ?)", [vector(0, 0)])
    connection.execute("INSERT INTO docs_index(docs_index) VALUES (?)", [command])
    assert column(connection, "SELECT id FROM docs_index(?, 2)", [QUERY]) == [1, 7]
    connection.execute("ROLLBACK")
    assert rows(connection, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST


def test_an_unknown_command_names_those_that_exist(docs):
    with pytest.raises(
        sqlite3.Error, match="(?s)(?=.*reindex)(?=.*rebuild)(?=.*optimize)(?=.*integrity-check)"
    ):
        docs.execute("INSERT INTO docs_index(docs_index) VALUES ('reindex')")


def test_integrity_check_of_sqlite_itself(docs):
    rows(docs, "SELECT id FROM docs_index(?)", [QUERY])
    assert rows(docs, "PRAGMA integrity_check") == [("ok",)]
    assert rows(docs, "PRAGMA quick_check") == [("ok",)]


@pytest.mark.parametrize("id_type", ["INTEGER PRIMARY KEY", "TEXT"])
def test_writes_that_find_their_rows_by_searching(memory, id_type):
    """The table that is searched is the table that is written."""
    memory.execute(f"CREATE TABLE docs(id {id_type}, embedding BLOB, note TEXT)")
    for id in range(1, 101):
        memory.execute("INSERT INTO docs VALUES (?, ?, NULL)", [id, vector(id)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    memory.execute("UPDATE docs SET note = 'near' WHERE id IN (SELECT id FROM docs_index('[0]', 5))")
    assert column(memory, "SELECT CAST(id AS INTEGER) FROM docs WHERE note = 'near'") == [1, 2, 3, 4, 5]
    memory.execute("UPDATE docs SET note = n.score FROM docs_index('[0]', 3) AS n WHERE n.id = docs.id")
    assert column(memory, "SELECT note FROM docs LIMIT 4") == ["1.0", "4.0", "9.0", "near"]
    memory.execute("UPDATE docs SET embedding = faiss_encode('[1000]') FROM docs_index('[0]', 2) AS n"
                   " WHERE n.id = docs.id")
    assert [int(id) for id in column(memory, "SELECT id FROM docs_index('[0]', 2)")] == [3, 4]
    memory.execute("DELETE FROM docs WHERE id IN (SELECT id FROM docs_index WHERE embedding MATCH '[0]' LIMIT 10)")
    assert [int(id) for id in column(memory, "SELECT id FROM docs_index('[0]', 2)")] == [13, 14]
    memory.execute("DELETE FROM docs WHERE EXISTS (SELECT 1 FROM docs_index n WHERE n.id = docs.id AND n.id % 2)")
    assert [int(id) for id in column(memory, "SELECT id FROM docs_index('[0]', 2)")] == [14, 16]
    memory.execute("INSERT INTO docs SELECT n.id + 1000, n.embedding, 'copy' FROM docs_index('[0]', 2) AS n")
    assert [int(id) for id in column(memory, "SELECT id FROM docs_index('[0]', 4)")] == [14, 1014, 16, 1016]
    memory.execute("INSERT INTO docs_index(docs_index) VALUES ('integrity-check')")


# --- statements that run on -----------------------------------------------------------------------


def test_writing_while_a_search_is_read(memory):
    """What the rows become is not said, but nothing breaks: a cursor keeps what it searched."""
    fill(memory, [(place,) for place in range(500)])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    cursor = memory.execute("SELECT id, score FROM docs_index WHERE embedding MATCH '[0]'")
    found = cursor.fetchmany(3)
    memory.execute("DELETE FROM docs WHERE id > 5")
    memory.execute("UPDATE docs SET embedding = ?", [vector(9)])
    found += cursor.fetchall()
    assert set(found) <= {(place + 1, float(place**2)) for place in range(500)}
    assert len(set(found)) == len(found)
    assert rows(memory, "SELECT id, score FROM docs_index('[9]')") == [(id, 0.0) for id in range(1, 6)]


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT", "ROLLBACK TO s", "DROP TABLE docs_index", "DROP TABLE docs",
                                 "ALTER TABLE docs_index RENAME TO other", "VACUUM", "close"])
def test_a_search_still_read_while_things_happen(docs_file, connect, end):
    """Rows or an error: both are fine, a crash or a table that is unusable afterwards is not."""
    connection = connect(docs_file)
    connection.execute("BEGIN")
    connection.execute("INSERT INTO docs VALUES (7, ?)", [vector(0, 1)])
    if end == "ROLLBACK TO s":
        connection.execute("SAVEPOINT s")
        connection.execute("INSERT INTO docs VALUES (8, ?)", [vector(0, 2)])
    cursor = connection.execute("SELECT id, embedding FROM docs_index WHERE embedding MATCH '[0, 0]'")
    assert cursor.fetchone() == (1, QUERY)
    try:
        connection.close() if end == "close" else connection.execute(end)
    except sqlite3.Error:
        pass
    try:
        cursor.fetchall()
    except sqlite3.Error:
        pass
    if end == "close":
        return
    cursor.close()
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    after = connect(docs_file)
    expected = oracle.nearest(rows(after, "SELECT id, id, embedding FROM docs"), QUERY)
    name = "other" if "other" in column(after, "SELECT name FROM sqlite_schema") else "docs_index"
    for each in (after, connection):
        assert rows(each, f"SELECT id, score FROM {name}(?)", [QUERY]) == expected


def test_a_loop_that_writes_each_answer_down(docs):
    docs.execute("CREATE TABLE pairs(a, b)")
    for (id, embedding) in rows(docs, "SELECT id, embedding FROM docs WHERE embedding IS NOT NULL"):
        for (near,) in docs.execute("SELECT id FROM docs_index(?, 2)", [embedding]):
            docs.execute("INSERT INTO pairs VALUES (?, ?)", [id, near])
    docs.execute("CREATE TABLE at_once AS SELECT a.id AS a, b.id AS b FROM docs a JOIN docs_index(a.embedding, 2) b")
    assert rows(docs, "SELECT * FROM pairs") == rows(docs, "SELECT * FROM at_once")
    assert scalar(docs, "SELECT count(*) FROM pairs") == 10


def test_prepared_statement_runs_again_after_changes(docs):
    """Python keeps statements prepared; each run sees its own time."""
    sql = "SELECT id FROM docs_index WHERE embedding MATCH ? ORDER BY distance LIMIT 1"
    assert column(docs, sql, [vector(2, 0)]) == [3]
    docs.execute("INSERT INTO docs VALUES (8, ?)", [vector(2, 0)])
    assert column(docs, sql, [vector(2, 0)]) == [8]
    docs.execute("DELETE FROM docs WHERE id = 8")
    assert column(docs, sql, [vector(2, 0)]) == [3]
    assert column(docs, sql, [vector(6, 9)]) == [4]


def test_a_statement_dropped_halfway_leaves_no_lock(docs_file, connect):
    reader, writer = connect(docs_file), connect(docs_file)
    cursor = reader.execute("SELECT id FROM docs_index(?)", [QUERY])
    cursor.fetchone()
    cursor.close()
    writer.execute("INSERT INTO docs VALUES (50, ?)", [vector(0, 0)])
    assert column(reader, "SELECT id FROM docs_index(?, 2)", [QUERY]) == [1, 50]


def test_stored_values_match_the_vector_functions(docs):
    assert rows(docs, "SELECT id, faiss_decode(embedding) FROM docs_index WHERE id = 2") == [
        (2, "[3.0, 4.0]")
    ]
    assert [values(blob) for (blob,) in rows(docs, "SELECT embedding FROM docs_index WHERE id = 2")] == [
        [3.0, 4.0]
    ]


def test_two_connections_each_with_their_own_table_handle(docs_file):
    first, second = open_database(docs_file), open_database(docs_file)
    assert rows(first, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    assert rows(second, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    first.close()
    assert rows(second, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    second.execute("DROP TABLE docs_index")
    second.close()
