"""The JSON of faiss_search and faiss_agg: ids of every type, and the very bytes of the plugin."""

import json
import sqlite3

import faiss
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import database
from database import fill, rows, scalar, vector

FUNCTIONS = ("faiss_search", "faiss_search_with_scores")
AGGREGATES = ("faiss_agg", "faiss_agg_with_scores")


def table_of_ids(connection, ids, expression="?"):
    """`docs` with these ids in an untyped column, the first nearest to [0]."""
    connection.execute("DROP TABLE IF EXISTS docs")
    connection.execute("CREATE TABLE docs(id, embedding BLOB)")
    connection.executemany(
        f"INSERT INTO docs VALUES ({expression}, ?)",
        [(id, vector(place)) for place, id in enumerate(ids)],
    )


def all_four(connection, k=1_000_000):
    """faiss_search, faiss_agg, and the two with scores, over `docs` from [0]."""
    return [
        scalar(connection, f"SELECT {function}('main', 'docs', '[0]', {k})") for function in FUNCTIONS
    ] + [
        scalar(connection, f"SELECT {function}(id, embedding, '[0]', {k}) FROM docs")
        for function in AGGREGATES
    ]


def assert_ids(connection, ids):
    plain = json.dumps(ids)
    scored = json.dumps([[id, float(place**2)] for place, id in enumerate(ids)])
    assert all_four(connection) == [plain, scored, plain, scored]


# --- the reference -----------------------------------------------------------------------------


def test_the_forms_the_issue_shows(memory):
    memory.execute("CREATE TABLE texts(id TEXT, embedding BLOB)")
    memory.execute("INSERT INTO texts VALUES ('1249', ?), ('1', ?)", [vector(1), vector(0)])
    assert scalar(memory, "SELECT faiss_search('main', 'texts', '[0]', 5)") == '["1", "1249"]'
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.execute("INSERT INTO docs VALUES (1, ?), (2, ?)", [vector(0.5), vector(5.5)])
    assert scalar(memory, "SELECT faiss_search('main', 'docs', '[0]', 5)") == "[1, 2]"
    assert (
        scalar(memory, "SELECT faiss_search_with_scores('main', 'docs', '[0]', 5)")
        == "[[1, 0.25], [2, 30.25]]"
    )


def test_the_query_of_the_reference_readme(tmp_path, connect):
    connection = connect(tmp_path / "blog.db")
    connection.executescript(
        """CREATE TABLE embeddings(id TEXT PRIMARY KEY, embedding BLOB);
           CREATE TABLE blog_entry(id INTEGER PRIMARY KEY, title TEXT);"""
    )
    for id, coordinate in (("1", 0), ("1249", 1), ("1011", 2), ("5", 3), ("10", 4), ("3", 100)):
        connection.execute("INSERT INTO embeddings VALUES (?, ?)", [id, vector(coordinate)])
        connection.execute("INSERT INTO blog_entry VALUES (?, ?)", [id, f"entry {id}"])
    assert (
        scalar(
            connection,
            "select faiss_search('blog', 'embeddings', (select embedding from embeddings where id = '1'), 5)",
        )
        == '["1", "1249", "1011", "5", "10"]'
    )
    assert rows(
        connection,
        """with related as (
             select value from json_each(
               faiss_search(
                 'blog',
                 'embeddings',
                 (select embedding from embeddings limit 1),
                 5
               )
             )
           )
           select * from blog_entry, related
           where id = value""",
    ) == [(int(id), f"entry {id}", id) for id in ("1", "1249", "1011", "5", "10")]


class Plugin:
    """The plugin's own method: IndexFlatL2 over the table in row order, json.dumps of the result.

    Rows at the same score come in table order here; IndexFlatL2 alone promises no order for them.
    """

    def __init__(self, connection, table):
        found = connection.execute(
            f"SELECT id, embedding FROM {table} WHERE embedding IS NOT NULL ORDER BY rowid"
        ).fetchall()
        self.ids = [id for id, _ in found]
        self.index = faiss.IndexFlatL2(len(found[0][1]) // 4)
        self.index.add(numpy.array([numpy.frombuffer(blob, "<f4") for _, blob in found]))

    def search(self, query, k):
        scores, places = self.index.search(numpy.frombuffer(query, "<f4")[None], len(self.ids))
        pairs = sorted(zip(scores[0].tolist(), places[0].tolist()))[:k]
        return [[self.ids[place], score] for score, place in pairs]


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 200),
    dimension=st.integers(1, 64),
    k=st.integers(1, 250),
)
def test_exact_scores_give_the_plugins_bytes(seed, count, dimension, k):
    """Multiples of 1/8: every sum is exact, so SIMD levels cannot differ."""
    random = numpy.random.default_rng(seed)
    vectors = random.integers(-24, 25, (count, dimension)) / 8
    connection = database.connect()
    fill(connection, vectors)
    query = vector(*(random.integers(-24, 25, dimension) / 8))
    pairs = Plugin(connection, "docs").search(query, k)
    parameters = {"v": query, "k": k}
    expected = json.dumps([id for id, _ in pairs]), json.dumps(pairs)
    assert (
        connection.execute(
            "SELECT faiss_search('main', 'docs', :v, :k), faiss_search_with_scores('main', 'docs', :v, :k)",
            parameters,
        ).fetchone()
        == expected
    )
    assert (
        connection.execute(
            "SELECT faiss_agg(id, embedding, :v, :k), faiss_agg_with_scores(id, embedding, :v, :k)"
            " FROM docs",
            parameters,
        ).fetchone()
        == expected
    )
    connection.close()


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 8, 12, 16, 33, 100, 384])
def test_real_scores_are_the_plugins_within_a_few_ulps(connect, dimension):
    random = numpy.random.default_rng(dimension)
    connection = connect()
    fill(connection, random.standard_normal((500, dimension)))
    plugin = Plugin(connection, "docs")
    for _ in range(5):
        query = random.standard_normal(dimension).astype("<f4").tobytes()
        expected = plugin.search(query, 500)
        scores_of = dict(expected)
        for function in ("faiss_search_with_scores('main', 'docs', ?, 500)",
                         "faiss_agg_with_scores(id, embedding, ?, 500)"):
            source = " FROM docs" if "agg" in function else ""
            text = scalar(connection, f"SELECT {function}{source}", [query])
            found = json.loads(text)
            assert json.dumps(found) == text
            assert sorted(id for id, _ in found) == list(range(1, 501))
            mine = numpy.array([score for _, score in found], "f4")
            assert (numpy.diff(mine) >= 0).all()
            theirs = numpy.array([scores_of[id] for id, _ in found], "f4")
            assert (numpy.abs(mine - theirs) <= (4 + dimension // 16) * numpy.spacing(theirs)).all()


# --- ids ----------------------------------------------------------------------------------------


def test_integer_ids(memory):
    ids = [0, 1, -1, 2**31, -(2**31) - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 1249]
    table_of_ids(memory, ids)
    assert_ids(memory, ids)


def test_extreme_rowids(memory):
    """Rows are told apart by rowid, which may be any int64."""
    ids = [2**63 - 1, -(2**63), 0, -1]
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.executemany(
        "INSERT INTO docs VALUES (?, ?)", [(id, vector(place)) for place, id in enumerate(ids)]
    )
    assert_ids(memory, ids)


def test_real_ids(memory):
    ids = [1.5, 1.0, -0.0, 1e16, 1e-5, 1e22, 0.1, 5e-324, 1.7976931348623157e308]
    table_of_ids(memory, ids)
    assert_ids(memory, ids)


def test_null_ids(memory):
    table_of_ids(memory, [None, 1, None])
    assert_ids(memory, [None, 1, None])


def test_mixed_ids_keep_their_types(memory):
    ids = [1, "1", 1.0, None, "one", 0, "", "null", "1.0"]
    table_of_ids(memory, ids)
    assert_ids(memory, ids)


@pytest.mark.parametrize(
    "id",
    [
        "",
        " ",
        "it's",
        'say "hi"',
        "back\\slash",
        "\\u0041",
        "/",
        "\x00",
        "a\x00b",
        "\x00\x00",
        "".join(map(chr, range(32))),
        "\x7f\x80\x9f",
        "naïve café",
        "日本語",
        "\u2028\u2029",
        "\ufeff",
        "\ufffe\uffff",
        "😀",
        "\U0010ffff",
        "e\u0301 \u200d",
        "x" * 100_000,
        "\x01" * 10_000,
        "😀" * 10_000,
    ],
    ids=lambda id: ascii(id[:12]),
)
def test_text_ids(memory, id):
    table_of_ids(memory, [id, "other"])
    assert_ids(memory, [id, "other"])


@given(
    ids=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        | st.integers(-(2**63), 2**63 - 1)
        | st.none()
        | st.floats(allow_nan=False),
        min_size=1,
        max_size=20,
    )
)
def test_any_ids(ids):
    connection = database.connect()
    table_of_ids(connection, ids)
    assert_ids(connection, ids)
    connection.close()


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_text_ids_of_a_utf16_database(memory, encoding):
    memory.execute(f"PRAGMA encoding = '{encoding}'")
    ids = ["naïve", "日本語", "😀", 'q"\\', "a\x00b"]
    table_of_ids(memory, ids)
    assert scalar(memory, "PRAGMA encoding") == encoding
    assert_ids(memory, ids)


@pytest.mark.parametrize("byte", [0x80, 0xBF, 0xC0, 0xC1, 0xF5, 0xFE, 0xFF])
def test_a_byte_that_is_no_utf8_becomes_the_replacement_character(memory, byte):
    table_of_ids(memory, [b"a" + bytes([byte]) + b"z", bytes([byte])], "CAST(? AS TEXT)")
    assert_ids(memory, ["a\ufffdz", "\ufffd"])


@pytest.mark.parametrize(
    "sequence",
    [
        b"\xe2\x82",  # cut short
        b"\xf0\x9f\x98",
        b"\xc0\x80",  # longer than needed
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",  # half of a surrogate pair
        b"\xf4\x90\x80\x80",  # beyond U+10FFFF
        b"\xff\xfe\xfd",
        b"\x80\x80\x80\x80",
    ],
    ids=bytes.hex,
)
def test_invalid_utf8_never_breaks_the_json(memory, sequence):
    table_of_ids(
        memory, [sequence, b"a" + sequence + b"z", b"\xc3\xa9" + sequence], "CAST(? AS TEXT)"
    )
    for text in all_four(memory):
        assert text.isascii()
        ids = [id[0] if isinstance(id, list) else id for id in json.loads(text)]
        assert json.loads(scalar(memory, "SELECT json(?)", [text])) == json.loads(text)
        for id, before, after in zip(ids, ("", "a", "é"), ("", "z", "")):
            assert id.startswith(before) and id.endswith(after)
            middle = id[len(before) : len(id) - len(after)]
            assert middle and set(middle) == {"\ufffd"}


def test_a_blob_id_is_an_error_that_names_table_and_row(memory):
    table_of_ids(memory, [1, b"\x01\x02", 3])
    for function in FUNCTIONS:
        with pytest.raises(sqlite3.Error, match=r"(?is)(?=.*\bdocs\b)(?=.*blob)(?=.*0102)"):
            scalar(memory, f"SELECT {function}('main', 'docs', '[0]', 5)")
        # The row is refused where it would be printed, and nowhere else.
        assert scalar(memory, f"SELECT {function}('main', 'docs', '[0]', 1)") in ("[1]", "[[1, 0.0]]")
    for function in AGGREGATES:
        with pytest.raises(sqlite3.Error, match="(?i)blob"):
            scalar(memory, f"SELECT {function}(id, embedding, '[0]', 5) FROM docs")


def test_ids_that_repeat(memory):
    table_of_ids(memory, [7, 7, "a", 7, "a"])
    assert_ids(memory, [7, 7, "a", 7, "a"])


# --- k, NULL, nothing ---------------------------------------------------------------------------


def test_k_cuts_and_may_exceed_the_table(memory):
    table_of_ids(memory, [1, 2, 3])
    for k, expected in ((1, "[1]"), (2, "[1, 2]"), (3, "[1, 2, 3]"), (4, "[1, 2, 3]"),
                        (2**31, "[1, 2, 3]"), (2**63 - 1, "[1, 2, 3]"), (2.0, "[1, 2]")):
        assert scalar(memory, "SELECT faiss_search('main', 'docs', '[0]', ?)", [k]) == expected
        assert scalar(memory, "SELECT faiss_agg(id, embedding, '[0]', ?) FROM docs", [k]) == expected


def test_null_vector_or_k_gives_null(memory):
    table_of_ids(memory, [1])
    for arguments in ("NULL, 5", "'[0]', NULL", "NULL, NULL"):
        for function in FUNCTIONS:
            assert scalar(memory, f"SELECT {function}('main', 'docs', {arguments})") is None
        for function in AGGREGATES:
            assert scalar(memory, f"SELECT {function}(id, embedding, {arguments}) FROM docs") is None


def test_an_empty_table_gives_an_empty_array(memory):
    """Whatever the query's dimension: there is nothing to differ from."""
    table_of_ids(memory, [])
    for query in ("[0]", "[1, 2, 3]"):
        for function in FUNCTIONS:
            assert scalar(memory, f"SELECT {function}('main', 'docs', ?, 5)", [query]) == "[]"
    for function in AGGREGATES:
        assert scalar(memory, f"SELECT {function}(id, embedding, '[0]', 5) FROM docs") == "[]"
    memory.execute("INSERT INTO docs VALUES (1, NULL)")
    assert all_four(memory) == ["[]"] * 4


# --- aggregates ---------------------------------------------------------------------------------


def test_aggregates_see_the_rows_of_the_query(docs):
    assert scalar(docs, "SELECT faiss_agg(id, embedding, '[0, 0]', 2) FROM docs WHERE id <> 3") == "[1, 6]"
    assert (
        scalar(docs, "SELECT faiss_agg_with_scores(id, embedding, '[0, 0]', 9) FROM docs WHERE id IN (2, 4)")
        == "[[2, 25.0], [4, 100.0]]"
    )
    assert rows(
        docs, "SELECT id % 2, faiss_agg(id, embedding, '[0, 0]', 9) FROM docs GROUP BY 1 ORDER BY 1"
    ) == [(0, "[6, 2, 4]"), (1, "[1, 3]")]
    assert (
        scalar(docs, "SELECT faiss_agg(id, embedding, '[0, 0]', 9) FILTER (WHERE id > 2) FROM docs")
        == "[3, 6, 4]"
    )
    assert rows(
        docs,
        "SELECT a.id, (SELECT faiss_agg(b.id, b.embedding, a.embedding, 1) FROM docs b"
        " WHERE b.id <> a.id) FROM docs a WHERE a.id IN (2, 3, 5)",
    ) == [(2, "[3]"), (3, "[1]"), (5, None)]


def test_aggregates_take_vector_and_k_from_the_first_row(memory):
    assert (
        scalar(
            memory,
            """WITH t(id, e, c, k) AS (VALUES (1, '[5]', '[0]', 2), (2, '[1]', '[9]', 1), (3, '[2]', 'x', 'y'))
               SELECT faiss_agg(id, e, c, k) FROM t""",
        )
        == "[2, 3]"
    )
    assert (
        scalar(
            memory,
            """WITH t(id, e, c, k) AS (VALUES (1, NULL, '[0]', 1), (2, '[1]', '[9]', 5), (3, '[9]', '[9]', 5))
               SELECT faiss_agg(id, e, c, k) FROM t""",
        )
        == "[2]"
    )


def test_aggregate_ties_come_in_the_order_of_the_rows(memory):
    table_of_ids(memory, [])
    memory.executemany(
        "INSERT INTO docs VALUES (?, ?)", [(id, vector(id % 3)) for id in (5, 2, 9, 4, 3, 6, 1, 8)]
    )
    expected = [9, 3, 6, 4, 1, 5, 2, 8]
    for k in range(1, 9):
        assert scalar(memory, f"SELECT faiss_agg(id, embedding, '[0]', {k}) FROM docs") == json.dumps(
            expected[:k]
        )


def test_aggregate_errors(memory):
    with pytest.raises(sqlite3.Error, match=r"(?is)(?=.*embedding)(?=.*\b8\b)(?=.*\b1\b)(?=.*\b2\b)"):
        scalar(memory, "WITH t(id, e) AS (VALUES (7, '[1]'), (8, '[1, 2]')) SELECT faiss_agg(id, e, '[0]', 5) FROM t")
    for bad in ("0", "-1", "1.5", "'3'", "X'03'"):
        with pytest.raises(sqlite3.Error, match="k must be a positive integer"):
            scalar(memory, f"SELECT faiss_agg(1, '[1]', '[0]', {bad})")
    for bad in ("X''", "X'00'", "'[1'", "3", "X'0000C07F'"):
        with pytest.raises(sqlite3.Error, match="vector|embedding"):
            scalar(memory, f"SELECT faiss_agg(1, {bad}, '[0]', 5)")
        with pytest.raises(sqlite3.Error, match="vector|embedding"):
            scalar(memory, f"SELECT faiss_agg(1, '[1]', {bad}, 5)")
    assert scalar(memory, "SELECT faiss_agg(1, '[1]', '[0]', 5)") == "[1]"
