"""Bad input: each error names what is at fault and what was expected, and everything works on."""

import os
import re
import sqlite3
import subprocess
import sys

import numpy
import pytest

from database import ROOT, SANITIZED, SHELL, column, fill, live_names, plain, rows, scalar, vector

QUERY = vector(0, 0)
NEAREST = [(1, 0.0), (3, 1.0), (6, 4.0), (2, 25.0), (4, 100.0)]  # of conftest.DOCS

SEARCHES = {
    "faiss_search": "SELECT faiss_search('main', 'docs', :v, :k)",
    "faiss_search_with_scores": "SELECT faiss_search_with_scores('main', 'docs', :v, :k)",
    "table function": "SELECT id FROM faiss_search('main', 'docs', :v, :k)",
    "virtual table": "SELECT id FROM docs_index WHERE embedding MATCH :v AND k = :k",
    "virtual table called": "SELECT id FROM docs_index(:v, :k)",
}
WITHOUT_K = {
    "stream": "SELECT id FROM docs_index WHERE embedding MATCH :v",
    "stream of the table function": "SELECT id FROM faiss_search('main', 'docs', :v)",
    "point": "SELECT id FROM docs_index WHERE embedding MATCH :v AND id = 2",
    "limit": "SELECT id FROM docs_index WHERE embedding MATCH :v ORDER BY distance LIMIT 2",
}


def words(*needed):
    """A pattern that wants every word, in any order."""
    return "(?is)" + "".join(rf"(?=.*(?<!\w){re.escape(str(word))}(?!\w))" for word in needed)


def assert_all_is_well(docs):
    assert rows(docs, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    assert scalar(docs, "SELECT faiss_search('main', 'docs', ?, 2)", [QUERY]) == "[1, 3]"
    docs.execute("INSERT INTO docs VALUES (50, ?)", [QUERY])
    assert column(docs, "SELECT id FROM docs_index(?, 2)", [QUERY]) == [1, 50]
    docs.execute("DELETE FROM docs WHERE id = 50")
    docs.execute("VACUUM")  # no statement was left running


def assert_fails(docs, sql, needed, parameters=()):
    for _ in range(2):  # the second time meets what the first may have left
        with pytest.raises(sqlite3.Error, match=words(*needed)) as caught:
            docs.execute(sql, parameters).fetchall()
        assert ".cpp" not in str(caught.value) and "Error in" not in str(caught.value)
    assert_all_is_well(docs)


# --- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT faiss_search('nowhere', 'docs', '[0, 0]', 3)",
        "SELECT faiss_search_with_scores('nowhere', 'docs', '[0, 0]', 3)",
        "SELECT id FROM faiss_search('nowhere', 'docs', '[0, 0]', 3)",
        "CREATE VIRTUAL TABLE other USING faiss(nowhere, docs)",
    ],
)
def test_unknown_database(docs, sql):
    assert_fails(docs, sql, ["nowhere", "database", "main"])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT faiss_search('main', 'papers', '[0, 0]', 3)",
        "SELECT faiss_search_with_scores('main', 'papers', '[0, 0]', 3)",
        "SELECT id FROM faiss_search('main', 'papers', '[0, 0]', 3)",
        "CREATE VIRTUAL TABLE other USING faiss(main, papers)",
        "CREATE VIRTUAL TABLE temp.other USING faiss(temp, papers)",
    ],
)
def test_unknown_table(docs, sql):
    assert_fails(docs, sql, ["papers", "table", "temp" if "temp" in sql else "main"])


@pytest.mark.parametrize("call", ["1, 'docs'", "'main', 2", "X'00', 'docs'", "'', 'docs'", "'main', ''"])
def test_names_that_are_none(docs, call):
    for sql in (f"SELECT faiss_search({call}, '[0, 0]', 3)", f"SELECT id FROM faiss_search({call}, '[0, 0]', 3)"):
        with pytest.raises(sqlite3.Error, match="(?i)database|table"):
            rows(docs, sql)
    assert_all_is_well(docs)


@pytest.mark.parametrize("call", ["NULL, 'docs'", "'main', NULL"])
def test_names_that_are_null(docs, call):
    """An error, or NULL as for the other arguments; no answer."""
    for sql in (f"SELECT faiss_search({call}, '[0, 0]', 3)", f"SELECT id FROM faiss_search({call}, '[0, 0]', 3)"):
        try:
            assert rows(docs, sql) in ([], [(None,)])
        except sqlite3.Error as error:
            assert re.search("(?i)database|table", str(error))
    assert_all_is_well(docs)


@pytest.mark.parametrize("option", ["id", "embedding"])
def test_unknown_column(docs, option):
    assert_fails(docs, f"CREATE VIRTUAL TABLE other USING faiss(main, docs, {option}=vec)", ["vec", "docs", "column"])


@pytest.mark.parametrize("sql", list(SEARCHES.values())[:3] + ["CREATE VIRTUAL TABLE other USING faiss(main, papers)"])
def test_no_embedding_column(docs, sql):
    docs.execute("CREATE TABLE papers(id INTEGER PRIMARY KEY, vec BLOB)")
    parameters = {} if sql.startswith("CREATE") else {"v": QUERY, "k": 3}
    assert_fails(docs, sql.replace("'docs'", "'papers'"), ["papers", "embedding", "column"], parameters)


@pytest.mark.parametrize("option", ["metrik=l2", "live_now=on", "k=5", "=l2", "Metric2='l2'"])
def test_unknown_option(docs, option):
    assert_fails(
        docs,
        f"CREATE VIRTUAL TABLE other USING faiss(main, docs, {option})",
        [option.split("=")[0], "option", "metric", "id", "embedding", "dimension", "strict"],
    )


@pytest.mark.parametrize(
    ("option", "needed"),
    [
        ("metric=manhattan", ["metric", "manhattan", "l2", "ip", "cosine"]),
        ("metric=", ["metric", "l2", "ip", "cosine"]),
        ("metric=l2norm", ["metric", "l2norm", "l2", "ip", "cosine"]),
        ("metric=l", ["metric", "l2", "ip", "cosine"]),  # no abbreviations
        ("dimension=0", ["dimension", "0"]),
        ("dimension=-3", ["dimension"]),
        ("dimension=two", ["dimension", "two"]),
        ("dimension=2.5", ["dimension", "2.5"]),
        ("dimension=", ["dimension"]),
        ("dimension='2x'", ["dimension", "2x"]),
        ("dimension=99999999999999999999", ["dimension", "99999999999999999999"]),
        ("strict=maybe", ["strict", "maybe", "on", "off"]),
        ("strict=", ["strict", "on", "off"]),
        ("id=", ["id"]),
        ("embedding=", ["embedding"]),
    ],
)
def test_bad_value_of_an_option(docs, option, needed):
    assert_fails(docs, f"CREATE VIRTUAL TABLE other USING faiss(main, docs, {option})", needed)


@pytest.mark.parametrize(
    "arguments", ["", "main", "main, ", ", docs", "main, docs, nonsense", "docs", "main, docs, metric"]
)
def test_arguments_missing_or_without_a_name(docs, arguments):
    for _ in range(2):
        with pytest.raises(sqlite3.Error) as caught:
            docs.execute(f"CREATE VIRTUAL TABLE other USING faiss({arguments})")
        message = str(caught.value)
        assert re.search("(?i)faiss|option|database|table", message) and "vtable constructor failed" not in message
    assert_all_is_well(docs)


def test_create_without_parentheses(docs):
    with pytest.raises(sqlite3.Error, match="(?i)database|table"):
        docs.execute("CREATE VIRTUAL TABLE other USING faiss")
    assert_all_is_well(docs)


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_failed_create_leaves_nothing_behind(docs, first):
    """The log and the triggers neither, where the table would have been the first live one."""
    if first:
        docs.execute("DROP TABLE docs_index")
    before = column(docs, "SELECT name FROM sqlite_schema")
    for arguments in ("main, docs, dimension=3", "main, docs, metric=no", "main, no"):
        with pytest.raises(sqlite3.Error):
            docs.execute(f"CREATE VIRTUAL TABLE other USING faiss({arguments})")
    assert column(docs, "SELECT name FROM sqlite_schema") == before
    docs.execute(f"CREATE VIRTUAL TABLE {'docs_index' if first else 'other'} USING faiss(main, docs)")
    assert_all_is_well(docs)


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_a_shadow_name_that_is_taken(docs, first):
    if first:
        docs.execute("DROP TABLE docs_index")
    docs.execute("CREATE TABLE other_config(mine)")
    docs.execute("INSERT INTO other_config VALUES ('kept')")
    before = column(docs, "SELECT name FROM sqlite_schema")
    with pytest.raises(sqlite3.Error, match="other_config"):
        docs.execute("CREATE VIRTUAL TABLE other USING faiss(main, docs)")
    assert rows(docs, "SELECT * FROM other_config") == [("kept",)]
    assert column(docs, "SELECT name FROM sqlite_schema") == before
    if first:
        docs.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert_all_is_well(docs)


# --- k ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES.keys())
@pytest.mark.parametrize(
    ("k", "shown"),
    [(0, "0"), (-1, "-1"), (-(2**63), "-9223372036854775808"), (1.5, "1.5"), (0.0, "0.0"), (-2.0, "-2.0"),
     (float("inf"), ""), ("3", "3"), ("many", "many"), ("", ""), (b"\x03", "")],
)
def test_k_must_be_a_positive_integer(docs, search, k, shown):
    for _ in range(2):
        with pytest.raises(sqlite3.Error, match=r"k must be a positive integer, not .*" + re.escape(shown)):
            rows(docs, search, {"v": QUERY, "k": k})
    assert_all_is_well(docs)


def test_a_whole_real_k_is_fine(docs):
    for search in SEARCHES.values():
        assert rows(docs, search, {"v": QUERY, "k": 2.0}) == rows(docs, search, {"v": QUERY, "k": 2})


# --- query vectors ------------------------------------------------------------------------------

NAN, INF = vector(1, float("nan")), vector(float("-inf"), 1)

BAD_VECTORS = {
    "too long": (vector(1, 2, 3), ["3", "2"]),
    "too short": (vector(1), ["1", "2"]),
    "too long JSON": ("[1, 2, 3, 4]", ["4", "2"]),
    "odd length": (vector(1, 2) + b"\0", ["9"]),
    "three bytes": (b"abc", ["3"]),
    "empty": (b"", ["empty"]),
    "empty JSON": ("[]", ["empty"]),
    "NaN": (NAN, ["NaN"]),
    "infinity": (INF, []),
    "out of range": ("[1, 1e39]", []),
    "empty text": ("", ["array"]),
    "cut short": ("[1, 2", ["array"]),
    "nested": ("[[1, 2]]", ["array"]),
    "object": ('{"a": 1}', ["array"]),
    "number as JSON": ("1", ["array"]),
    "strings": ('["1", "2"]', ["number"]),
    "null inside": ("[1, null]", ["number"]),
    "trailing": ("[1, 2] 3", ["array"]),
    "no JSON": ("near me", ["array"]),
    "integer": (5, []),
    "real": (0.5, []),
}


@pytest.mark.parametrize("search", (SEARCHES | WITHOUT_K).values(), ids=(SEARCHES | WITHOUT_K).keys())
@pytest.mark.parametrize(("bad", "needed"), BAD_VECTORS.values(), ids=BAD_VECTORS.keys())
def test_query_vectors(docs, search, bad, needed):
    for _ in range(2):
        with pytest.raises(sqlite3.Error) as caught:
            rows(docs, search, {"v": bad, "k": 3})
        message = str(caught.value)
        for word in needed:
            assert re.search(rf"(?i)(?<!\w){word}", message), message
        assert re.search("(?i)vector|embedding|array|number", message), message
    assert_all_is_well(docs)


def test_another_dimension_names_the_table_and_both_dimensions(docs):
    for search in (SEARCHES | WITHOUT_K).values():
        assert_fails(docs, search, ["docs", 3, 2], {"v": vector(1, 2, 3), "k": 3})


def test_a_bad_vector_is_an_error_though_there_is_nothing_to_search(memory):
    """An empty table has no dimension, but what is no vector is no vector there either."""
    fill(memory, [])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for search in SEARCHES.values():
        for bad in (b"abc", "[1", "[[1]]", 5, NAN):
            with pytest.raises(sqlite3.Error):
                rows(memory, search, {"v": bad, "k": 3})


# --- rows ---------------------------------------------------------------------------------------

# A row of a table with 2 dimensions, and what the message must say about it.
BAD_ROWS = {
    "longer": (vector(1, 2, 3), "12 bytes|3 dimensions"),
    "shorter": (vector(1), "4 bytes|1 dimension"),
    "odd length": (b"abcdefg", "7 bytes"),
    "empty": (b"", "0 bytes|empty"),
    "text": ("[1, 2]", "text"),
    "text of the right length": ("12345678", "text"),
    "integer": (7, "integer"),
    "real": (7.5, "real"),
    "NaN": (NAN, "NaN|finite"),
    "infinity": (INF, "inf|finite"),
}
NOT_FINITE = ["NaN", "infinity"]  # SQL cannot tell: no trigger refuses them
REFUSED = [name for name in BAD_ROWS if name not in NOT_FINITE]

# What lets a malformed row in where the triggers of docs_index would refuse it.
UNGUARDED = {
    "live=off": "DROP TABLE docs_index; CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live=off)",
    "temp": "DROP TABLE docs_index; CREATE VIRTUAL TABLE temp.docs_index USING faiss(main, docs)",
    "no trigger": "DROP TRIGGER docs_faiss_insert; DROP TRIGGER docs_faiss_update",
}
LIVE = {"live": ""}


def each_bad_row(ways):
    """Every malformed row where no trigger is in its way, and those that none can refuse on a live table."""
    return [
        pytest.param(way, name, id=f"{label}-{name}")
        for label, way in (LIVE | ways).items()
        for name in (BAD_ROWS if way else NOT_FINITE)
    ]


WRITES = {
    "insert": "INSERT INTO docs VALUES (4711, :bad)",
    "insert with a row that is fine": "INSERT INTO docs VALUES (4710, NULL), (4711, :bad), (4712, NULL)",
    "insert or ignore": "INSERT OR IGNORE INTO docs VALUES (4711, :bad)",
    "replace": "REPLACE INTO docs VALUES (3, :bad)",
    "upsert": "INSERT INTO docs VALUES (3, NULL) ON CONFLICT DO UPDATE SET embedding = :bad",
    "update": "UPDATE docs SET embedding = :bad WHERE id = 3",
    "update or ignore": "UPDATE OR IGNORE docs SET embedding = :bad WHERE id = 3",
    "update of a NULL": "UPDATE docs SET embedding = :bad WHERE id = 5",
    "update with the id": "UPDATE docs SET id = 4711, embedding = :bad WHERE id = 3",
}


@pytest.mark.parametrize("bad", [BAD_ROWS[name][0] for name in REFUSED], ids=REFUSED)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_a_live_table_s_source_refuses_a_malformed_row(docs_file, connect, write, bad):
    """Whoever writes it, with the extension or without; nothing of the statement stays."""
    with_it, without_it = connect(docs_file), plain(docs_file)
    before = rows(without_it, "SELECT * FROM docs")
    for connection in (with_it, without_it):
        for _ in range(2):
            with pytest.raises(sqlite3.IntegrityError, match=words("docs.embedding", "8 bytes", "2 float32")):
                connection.execute(write, {"bad": bad})
            assert rows(connection, "SELECT * FROM docs") == before
    without_it.close()
    assert_all_is_well(with_it)


def test_what_is_no_malformed_row_is_not_refused(docs):
    """Another column, NULL, and the same value once more."""
    docs.execute("ALTER TABLE docs ADD COLUMN note")
    docs.execute("UPDATE docs SET note = 'a text of some length'")
    docs.execute("UPDATE docs SET embedding = embedding")
    docs.execute("INSERT INTO docs(id, embedding, note) VALUES (4711, NULL, 1.5)")
    docs.execute("UPDATE docs SET embedding = NULL, note = X'00' WHERE id = 4711")
    docs.execute("DELETE FROM docs WHERE id = 4711")
    docs.execute("ALTER TABLE docs DROP COLUMN note")
    assert_all_is_well(docs)


@pytest.mark.parametrize(("way", "name"), each_bad_row(UNGUARDED))
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_malformed_row_is_named(docs, way, name, warm):
    bad, found = BAD_ROWS[name]
    docs.executescript(way)
    if warm:
        assert_all_is_well(docs)
    docs.execute("INSERT INTO docs VALUES (4711, ?)", [bad])
    for search in (SEARCHES | WITHOUT_K).values():
        search = search.replace("id = 2", "id = 4711")
        for _ in range(2):
            with pytest.raises(sqlite3.Error, match=words("main", "docs", 4711)) as caught:
                rows(docs, search, {"v": QUERY, "k": 3})
            message = str(caught.value)
            assert re.search(rf"(?i)(?<!\w)({found})", message), message
            assert re.search(r"(?i)\b(8 bytes|2 (finite )?(float32|dimensions))", message), message
    docs.execute("DELETE FROM docs WHERE id = 4711")
    assert_all_is_well(docs)


@pytest.mark.parametrize(("way", "name"), each_bad_row(UNGUARDED))
def test_a_malformed_row_of_a_transaction_goes_with_it(docs, way, name):
    docs.executescript(way)
    assert_all_is_well(docs)
    docs.execute("BEGIN")
    docs.execute("UPDATE docs SET embedding = ? WHERE id = 3", [BAD_ROWS[name][0]])
    for search in SEARCHES.values():
        with pytest.raises(sqlite3.Error, match=words("docs", 3)):
            rows(docs, search, {"v": QUERY, "k": 3})
    docs.execute("ROLLBACK")
    assert_all_is_well(docs)


def test_a_refused_row_leaves_its_transaction_as_it_was(docs):
    docs.execute("BEGIN")
    docs.execute("INSERT INTO docs VALUES (4710, ?)", [vector(1, 1)])
    for write in WRITES.values():
        with pytest.raises(sqlite3.IntegrityError):
            docs.execute(write, {"bad": "x"})
        assert column(docs, "SELECT id FROM docs_index(?, 3)", [QUERY]) == [1, 3, 4710]
    docs.execute("COMMIT")
    assert column(docs, "SELECT id FROM docs_index(?, 3)", [QUERY]) == [1, 3, 4710]
    docs.execute("DELETE FROM docs WHERE id = 4710")
    assert_all_is_well(docs)


@pytest.mark.parametrize(
    ("way", "bad"),
    [pytest.param(UNGUARDED[way], "x", id=way) for way in ("live=off", "no trigger")]
    + [pytest.param("", NAN, id="live")],
)
def test_a_malformed_row_hurts_only_those_who_see_it(docs_file, connect, way, bad):
    first = connect(docs_file)
    first.executescript(way)
    second = connect(docs_file)
    assert rows(first, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    second.execute("BEGIN")
    second.execute("INSERT INTO docs VALUES (4711, ?)", [bad])
    with pytest.raises(sqlite3.Error, match=words("docs", 4711)):
        rows(second, "SELECT id FROM docs_index(?)", [QUERY])
    assert rows(first, "SELECT id, score FROM docs_index(?)", [QUERY]) == NEAREST
    second.execute("COMMIT")
    for connection in (first, second):
        with pytest.raises(sqlite3.Error, match=words("docs", 4711)):
            rows(connection, "SELECT id FROM docs_index(?)", [QUERY])
    first.execute("DELETE FROM docs WHERE id = 4711")
    for connection in (first, second):
        assert_all_is_well(connection)


@pytest.mark.parametrize("id", ["NULL", "'it''s \"x\"'", "X'00FF'", "1.5", "-9223372036854775808"])
def test_a_malformed_row_with_any_id(memory, id):
    """The message has to name it all the same, if need be by its rowid."""
    memory.execute("CREATE TABLE docs(id, embedding)")
    memory.execute("INSERT INTO docs VALUES (1, ?)", [QUERY])
    memory.execute(f"INSERT INTO docs(rowid, id, embedding) VALUES (815, {id}, 'x')")
    with pytest.raises(sqlite3.Error, match=words("docs")) as caught:
        rows(memory, SEARCHES["faiss_search"], {"v": QUERY, "k": 1})
    assert "815" in str(caught.value) or (id != "NULL" and id.lower() in str(caught.value))


def test_a_live_table_that_is_not_strict_refuses_nothing(docs):
    """But a strict one beside it does, for as long as it is there."""
    docs.execute("CREATE VIRTUAL TABLE lenient USING faiss(main, docs, strict=off)")
    for _ in range(2):
        with pytest.raises(sqlite3.IntegrityError, match=words("docs.embedding", "8 bytes")):
            docs.execute("INSERT INTO docs VALUES (4711, 'x')")
        docs.execute("DROP TABLE docs_index")
        docs.execute("INSERT INTO docs VALUES (4711, 'x')")
        docs.execute("UPDATE docs SET embedding = 7 WHERE id = 4711")
        assert rows(docs, "SELECT id, score FROM lenient(?)", [QUERY]) == NEAREST
        with pytest.raises(sqlite3.Error, match=words("docs", 4711)):
            docs.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
        docs.execute("DELETE FROM docs WHERE id = 4711")
        docs.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert_all_is_well(docs)


@pytest.mark.parametrize("bad", [row[0] for row in BAD_ROWS.values()], ids=BAD_ROWS.keys())
@pytest.mark.parametrize("live", ["on", "off"])
def test_strict_off_leaves_a_malformed_row_out(docs, bad, live):
    docs.executescript(UNGUARDED["live=off"])
    docs.execute(f"CREATE VIRTUAL TABLE lenient USING faiss(main, docs, strict=off, live={live})")
    for _ in range(2):
        assert rows(docs, "SELECT id, score FROM lenient(?)", [QUERY]) == NEAREST
        docs.execute("INSERT INTO docs VALUES (4711, ?)", [bad])
        assert rows(docs, "SELECT id, score FROM lenient(?)", [QUERY]) == NEAREST
        assert rows(docs, "SELECT id, score FROM lenient WHERE id = 4711 AND embedding MATCH ?", [QUERY]) == []
        assert rows(docs, "SELECT id FROM lenient(?, 5)", [QUERY]) == [(id,) for id, _ in NEAREST]
        with pytest.raises(sqlite3.Error, match=words(4711)):
            docs.execute("INSERT INTO lenient(lenient) VALUES ('integrity-check')")
        with pytest.raises(sqlite3.Error, match=words("docs", 4711)):  # the strict table over the same rows
            rows(docs, "SELECT id FROM docs_index(?)", [QUERY])
        with pytest.raises(sqlite3.Error, match=words("docs", 4711)):  # which reads the same log, if there is one
            scalar(docs, "SELECT faiss_search('main', 'docs', ?, 2)", [QUERY])
        docs.execute("UPDATE docs SET embedding = ? WHERE id = 4711", [vector(20, 0)])
        assert rows(docs, "SELECT id, score FROM lenient(?)", [QUERY]) == NEAREST + [(4711, 400.0)]
        docs.execute("INSERT INTO lenient(lenient) VALUES ('integrity-check')")
        docs.execute("DELETE FROM docs WHERE id = 4711")
    assert_all_is_well(docs)


@pytest.mark.parametrize("live", ["on", "off"])
def test_strict_off_counts_what_it_leaves_out(docs, live):
    docs.execute("DROP TABLE docs_index")
    docs.execute(f"CREATE VIRTUAL TABLE lenient USING faiss(main, docs, strict=off, live={live})")
    docs.execute("INSERT INTO docs VALUES (4711, 'x'), (4712, ?), (4713, X'00')", [NAN])
    assert rows(docs, "SELECT id, score FROM lenient(?)", [QUERY]) == NEAREST
    cursor = docs.execute("SELECT * FROM faiss_indexes")
    names = [item[0] for item in cursor.description]
    (found,) = cursor.fetchall()
    counts = dict(zip(names, found))
    assert counts["rows"] == 5
    assert counts["left_out"] == 3
    # Beside changes that the log tells, too.
    docs.execute("UPDATE docs SET embedding = NULL WHERE id = 4713")
    docs.execute("INSERT INTO docs VALUES (4714, 'x'), (4715, 'x')")
    assert rows(docs, "SELECT id, score FROM lenient(?)", [QUERY]) == NEAREST
    assert rows(docs, "SELECT left_out FROM faiss_indexes") == [(4,)]


def test_create_names_the_first_row_of_another_length(docs):
    docs.execute("DROP TABLE docs_index")
    docs.execute("INSERT INTO docs VALUES (60, ?), (61, ?)", [vector(1, 2, 3), vector(1)])
    with pytest.raises(sqlite3.Error, match=words("docs", 60)):
        docs.execute("CREATE VIRTUAL TABLE other USING faiss(main, docs)")
    with pytest.raises(sqlite3.Error, match=words("docs", 1)):
        docs.execute("CREATE VIRTUAL TABLE other USING faiss(main, docs, dimension=3)")
    docs.execute("DELETE FROM docs WHERE id >= 60")
    docs.execute("CREATE VIRTUAL TABLE other USING faiss(main, docs, dimension=2)")
    assert rows(docs, "SELECT id, score FROM other(?)", [QUERY]) == NEAREST
    with pytest.raises(sqlite3.IntegrityError, match=words("docs.embedding", "8 bytes")):
        docs.execute("INSERT INTO docs VALUES (60, ?)", [vector(1, 2, 3)])


def test_the_declared_dimension_is_what_counts(memory):
    fill(memory, [])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, dimension=2, live=off)")
    memory.execute("INSERT INTO docs VALUES (1, ?)", [vector(1, 2, 3)])
    with pytest.raises(sqlite3.Error, match=words("docs", 1, 2)):
        rows(memory, "SELECT id FROM docs_index('[0, 0]')")
    with pytest.raises(sqlite3.Error, match=words("docs", 1, 2)):
        memory.execute("CREATE VIRTUAL TABLE live USING faiss(main, docs, dimension=2)")
    memory.execute("CREATE VIRTUAL TABLE lenient USING faiss(main, docs, dimension=2, strict=off)")
    memory.execute("INSERT INTO docs VALUES (2, ?)", [vector(1, 2)])
    assert rows(memory, "SELECT id, score FROM lenient('[0, 0]')") == [(2, 5.0)]
    with pytest.raises(sqlite3.Error, match=words(3, 2)):
        rows(memory, "SELECT id FROM lenient('[0, 0, 0]')")


def test_the_declared_dimension_is_what_a_live_table_takes(memory):
    fill(memory, [])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, dimension=2)")
    for bad in (vector(1, 2, 3), vector(1), "x"):
        with pytest.raises(sqlite3.IntegrityError, match=words("docs.embedding", "8 bytes", "2 float32")):
            memory.execute("INSERT INTO docs VALUES (1, ?)", [bad])
    memory.execute("INSERT INTO docs VALUES (2, ?)", [vector(1, 2)])
    assert rows(memory, "SELECT id, score FROM docs_index('[0, 0]')") == [(2, 5.0)]
    with pytest.raises(sqlite3.Error, match=words(3, 2)):
        rows(memory, "SELECT id FROM docs_index('[0, 0, 0]')")


def test_a_live_table_over_an_empty_source_takes_any_dimension_until_it_is_rebuilt(memory):
    fill(memory, [])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for bad in (b"abcdefg", b"", "x", 7):
        with pytest.raises(sqlite3.IntegrityError, match=words("docs.embedding", "float32")):
            memory.execute("INSERT INTO docs VALUES (1, ?)", [bad])
    memory.execute("INSERT INTO docs VALUES (1, ?), (2, ?)", [vector(1, 2), vector(1, 2, 3)])
    with pytest.raises(sqlite3.Error, match=words("docs", 2)):
        rows(memory, "SELECT id FROM docs_index('[0, 0]')")
    with pytest.raises(sqlite3.Error, match=words("docs", 2)):
        memory.execute("INSERT INTO docs_index(docs_index) VALUES ('rebuild')")
    memory.execute("DELETE FROM docs WHERE id = 2")
    memory.execute("INSERT INTO docs_index(docs_index) VALUES ('rebuild')")
    with pytest.raises(sqlite3.IntegrityError, match=words("docs.embedding", "8 bytes", "2 float32")):
        memory.execute("INSERT INTO docs VALUES (2, ?)", [vector(1, 2, 3)])
    assert rows(memory, "SELECT id, score FROM docs_index('[0, 0]')") == [(1, 5.0)]


# --- rights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", (SEARCHES | WITHOUT_K).values(), ids=(SEARCHES | WITHOUT_K).keys())
@pytest.mark.parametrize("column_", [None, "embedding"])
def test_an_authorizer_that_refuses_the_table_refuses_the_search(docs_file, connect, search, column_):
    """Also when the index is there already, made by this connection or by another."""

    def refuse(action, table, name, database, source):
        refused = action == sqlite3.SQLITE_READ and table == "docs" and column_ in (None, name)
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    owner, guest = connect(docs_file), connect(docs_file)
    assert rows(owner, search, {"v": QUERY, "k": 2})
    for connection in (guest, owner):
        connection.set_authorizer(refuse)
        for _ in range(2):
            with pytest.raises(sqlite3.DatabaseError, match="(?i)prohibited|not authorized|docs"):
                rows(connection, search, {"v": QUERY, "k": 2})
        connection.set_authorizer(None)
        assert rows(connection, search, {"v": QUERY, "k": 2})
        assert_all_is_well(connection)


@pytest.mark.parametrize("search", ["SELECT id{} FROM docs_index(:v, 2)", "SELECT id{} FROM faiss_search('main', 'docs', :v, 2)"])
@pytest.mark.parametrize("cached", [0, 128])
def test_an_authorizer_that_changes_its_mind(docs_file, connect, search, cached):
    """It is asked for each statement that is prepared: what one was allowed allows no other."""
    refused = asked = 0

    def decide(action, table, *_):
        nonlocal asked
        is_read = action == sqlite3.SQLITE_READ and table == "docs"
        asked += is_read
        return sqlite3.SQLITE_DENY if is_read and refused else sqlite3.SQLITE_OK

    def is_refused(sql):
        with pytest.raises(sqlite3.DatabaseError, match="(?i)prohibited|not authorized"):
            rows(connection, sql, {"v": QUERY})
        return True

    connection = connect(docs_file, cached_statements=cached)
    connection.set_authorizer(decide)
    refused = True
    assert is_refused(search.format(""))
    refused = False
    allowed = search.format(", 1")
    for _ in range(3):
        assert [row[0] for row in rows(connection, allowed, {"v": QUERY})] == [1, 3]
    asked_before = asked
    assert [row[0] for row in rows(connection, allowed, {"v": QUERY})] == [1, 3]
    assert (asked == asked_before) == (cached > 0)  # a statement that is run again is not prepared again
    for number in range(2, 20):
        refused = True
        assert is_refused(search.format("")) and is_refused(search.format(f", {number}"))
        refused = False
        assert [row[0] for row in rows(connection, search.format(f", -{number}"), {"v": QUERY})] == [1, 3]
        if not cached:  # the same again is another statement, which may take the memory of the last
            refused = True
            assert is_refused(search.format(f", -{number}"))
    refused = True
    connection.set_authorizer(decide)  # all are prepared again
    assert is_refused(allowed)
    connection.set_authorizer(None)
    assert rows(connection, allowed, {"v": QUERY})
    assert_all_is_well(connection)


def test_searches_within_searches_hold_their_own_snapshots(docs_file, connect):
    """One statement's snapshot is kept for it; another search of the same table runs beside it."""
    connection = connect(docs_file)
    sql = "SELECT a.id, b.id FROM docs_index(:v, 2) AS a, docs_index(:v, 2) AS b ORDER BY a.distance, b.distance"
    pairs = [(1, 1), (1, 3), (3, 1), (3, 3)]
    outer = "SELECT id FROM docs_index(:v, 2)"
    for _ in range(3):
        assert rows(connection, sql, {"v": QUERY}) == pairs
        held = connection.execute(outer, {"v": QUERY})
        assert next(held) == (1,)
        assert rows(connection, sql, {"v": QUERY}) == pairs
        assert rows(connection, outer, {"v": QUERY}) == [(1,), (3,)]
        connection.execute("CREATE TABLE other(x)")  # a schema change while one is held, and one kept
        assert rows(connection, outer, {"v": QUERY}) == [(1,), (3,)]
        assert list(held) == [(3,)]
        connection.execute("DROP TABLE other")
        connection.execute("ALTER TABLE docs RENAME COLUMN embedding TO was")
        with pytest.raises(sqlite3.OperationalError, match="embedding"):
            rows(connection, outer, {"v": QUERY})
        connection.execute("ALTER TABLE docs RENAME COLUMN was TO embedding")
        assert rows(connection, outer, {"v": QUERY}) == [(1,), (3,)]


# --- interruption -------------------------------------------------------------------------------


def test_a_progress_handler_stops_a_first_search(tmp_path, connect):
    """Datasette's time limit is a progress handler, and it knows its end by this very message."""
    path = tmp_path / "docs.db"
    writer = connect(path)
    fill(writer, numpy.random.default_rng(1).standard_normal((20000, 32)))
    connection = connect(path)
    query = vector(*[0] * 32)
    calls = []
    connection.set_progress_handler(lambda: calls.append(1) or len(calls) > 3, 1000)
    with pytest.raises(sqlite3.OperationalError, match="^interrupted$"):
        scalar(connection, "SELECT faiss_search('main', 'docs', ?, 3)", [query])
    connection.set_progress_handler(None, 0)
    assert scalar(connection, "SELECT faiss_search('main', 'docs', ?, 3)", [query]) == scalar(
        writer, "SELECT faiss_search('main', 'docs', ?, 3)", [query]
    )
    connection.execute("VACUUM")


# --- memory -------------------------------------------------------------------------------------

SCENARIO = f"""
import ctypes, os, sys
sys.path.insert(0, {str(ROOT / "tests")!r})
lib = ctypes.CDLL("libsqlite3.so.0")
"""

# Allocations of SQLite's fail, each of the first hundred and then every step-th from a place
# that is drawn: a search makes some thousand. Afterwards all works, each time. The last number
# on stderr is the one that was to fail.
FAULTS = SCENARIO + """
class Methods(ctypes.Structure):
    _fields_ = [("malloc", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int)),
                ("free", ctypes.c_void_p),
                ("realloc", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)),
                ("size", ctypes.c_void_p), ("roundup", ctypes.c_void_p),
                ("init", ctypes.c_void_p), ("shutdown", ctypes.c_void_p), ("data", ctypes.c_void_p)]

real, faulty = Methods(), Methods()
assert lib.sqlite3_config(5, ctypes.byref(real)) == 0  # SQLITE_CONFIG_GETMALLOC
ctypes.memmove(ctypes.byref(faulty), ctypes.byref(real), ctypes.sizeof(real))
countdown, persistent = [-1], [False]

def fails():
    if countdown[0] < 0:
        return False
    if countdown[0] > 0:
        countdown[0] -= 1
        return False
    if not persistent[0]:
        countdown[0] = -1
    return True

malloc = lambda size: None if fails() else real.malloc(size)
realloc = lambda old, size: None if fails() else real.realloc(old, size)
faulty.malloc = type(faulty.malloc)(malloc)
faulty.realloc = type(faulty.realloc)(realloc)
assert lib.sqlite3_config(4, ctypes.byref(faulty)) == 0  # SQLITE_CONFIG_MALLOC

import random, shutil, sqlite3, database
path, sql, step, change = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]

remaining = None

def run(connection, fail_at=-1):
    # The rows of `sql`, whose allocation number `fail_at` fails; what it changes is undone.
    global remaining
    connection.execute("BEGIN")
    connection.execute(change)
    countdown[0] = fail_at
    try:
        return connection.execute(sql, {"v": database.vector(0, 0), "k": 3}).fetchall()
    finally:
        remaining, countdown[0] = countdown[0], -1
        if connection.in_transaction:  # SQLite may have rolled back by itself
            connection.execute("ROLLBACK")

def stored(connection):
    return [connection.execute(f"SELECT * FROM {table}").fetchall() for table in ("sqlite_schema", "docs")]

keeper = database.connect(path)
expected, before = run(keeper), stored(keeper)
refused = copies = 0
wrong = {}
for warm in (False, True):
    for persistent[0] in (False, True):
        number = 0
        while True:
            if warm:  # the index is there: `keeper` has it
                copy = path
            else:  # a file never seen before
                copies += 1
                copy = shutil.copyfile(path, f"{path}.{copies}")
            connection = database.connect(copy)
            print(warm, persistent[0], number, file=sys.stderr)
            try:
                assert run(connection, number) == expected
                done = remaining >= 0  # it makes no more allocations than that
            except (MemoryError, sqlite3.Error) as error:
                if not isinstance(error, MemoryError) and "memory" not in str(error):
                    wrong[repr(error)] = (warm, persistent[0], number)
                refused += 1
                done = False
            # Where SQLite has rolled the transaction back, nothing was done outside of it.
            assert stored(connection) == before, (warm, persistent[0], number)
            assert run(connection) == expected, (warm, persistent[0], number)
            connection.close()
            if done:
                break
            number += 1 if number < 100 else random.randint(1, step) if number == 100 else step
            assert number < 20000
assert wrong == {}, wrong
print("refused", refused)
"""

# Limits from too little for anything to enough.
LIMITS = SCENARIO + """
import shutil
lib.sqlite3_hard_heap_limit64.argtypes = [ctypes.c_int64]
lib.sqlite3_hard_heap_limit64.restype = ctypes.c_int64
lib.sqlite3_memory_used.restype = ctypes.c_int64
import sqlite3, database
path, sql = sys.argv[1], sys.argv[2]
parameters = {"v": database.vector(*[0] * 16), "k": 3}
reference = database.connect(path)
expected = reference.execute(sql, parameters).fetchall()
reference.close()
refused = answered = 0
for extra in [*range(0, 60_000, 3_000), *range(60_000, 8_000_000, 200_000)]:
    connection = database.connect(shutil.copyfile(path, f"{path}.{extra}"))  # never seen before
    connection.execute("PRAGMA cache_size = 10")
    lib.sqlite3_hard_heap_limit64(lib.sqlite3_memory_used() + extra)
    try:
        assert connection.execute(sql, parameters).fetchall() == expected
        answered += 1
    except (MemoryError, sqlite3.Error) as error:
        assert isinstance(error, MemoryError) or "memory" in str(error), (extra, repr(error))
        refused += 1
    lib.sqlite3_hard_heap_limit64(0)
    assert connection.execute(sql, parameters).fetchall() == expected, extra
    connection.close()
print("refused", refused, "answered", answered)
"""

# The memory of the whole process is limited, FAISS's and the C library's allocations too.
ADDRESS_SPACE = SCENARIO + """
import resource, shutil, sqlite3, database
path, sql = sys.argv[1], sys.argv[2]
parameters = {"v": database.vector(*[0] * 16), "k": 3}

def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

expected = sys.argv[3]
for extra in [*range(0, 6_000_000, 200_000)]:
    connection = database.connect(shutil.copyfile(path, f"{path}.{extra}"))  # never seen before
    connection.execute("PRAGMA cache_size = 10")
    resource.setrlimit(resource.RLIMIT_AS, (size() + extra, resource.RLIM_INFINITY))
    failed = None
    try:
        found = connection.execute(sql, parameters).fetchall()
    except (MemoryError, sqlite3.Error) as error:
        failed = error
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if failed is None:
        assert repr(found) == expected
    else:
        assert isinstance(failed, MemoryError) or "memory" in str(failed), (extra, repr(failed))
    if extra == 0:
        print("first", "answered" if failed is None else "refused")
    assert repr(connection.execute(sql, parameters).fetchall()) == expected, extra
    if failed is None:
        break
    connection.close()
"""


def run_apart(program, *arguments):
    """In a process of its own: what must not happen is a crash."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, text=True, env=environment,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


# Beyond the first hundred, only some allocations fail: fewer of them where it takes long.
EACH = 3 if SANITIZED else 1
MEMORY_SEARCHES = {
    "faiss_search": SEARCHES["faiss_search"],
    "table function": SEARCHES["table function"],
    "knn": SEARCHES["virtual table"],
    "stream": "SELECT id, score, embedding FROM docs_index WHERE embedding MATCH :v",
    "scan": "SELECT id, embedding FROM docs_index",
    "aggregate": "SELECT faiss_agg_with_scores(id, embedding, :v, :k) FROM docs",
    "indexes": "SELECT count(*) FROM faiss_search('main', 'docs', :v), faiss_indexes",
}


@pytest.mark.parametrize("sql", MEMORY_SEARCHES.values(), ids=MEMORY_SEARCHES.keys())
def test_every_allocation_of_a_search_may_fail(docs_file, sql):
    assert int(run_apart(FAULTS, docs_file, sql, EACH * 11, "").split()[1]) > 0


@pytest.mark.parametrize("live", ["on", "off"])
@pytest.mark.parametrize("search", ["faiss_search", "virtual table"])
def test_every_allocation_of_a_search_after_a_change_may_fail(docs_file, connect, search, live):
    connection = connect(docs_file)
    connection.execute("DROP TABLE docs_index")
    connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, live={live})")
    change = "UPDATE docs SET embedding = X'0000803F0000803F' WHERE id IN (1, 2, 5)"
    assert int(run_apart(FAULTS, docs_file, SEARCHES[search], EACH * 11, change).split()[1]) > 0


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE VIRTUAL TABLE other USING faiss(main, docs, metric=cosine)",
        "CREATE VIRTUAL TABLE other USING faiss(main, docs, live=off)",
        "DROP TABLE docs_index",
        "ALTER TABLE docs_index RENAME TO other",
        "INSERT INTO docs_index(docs_index) VALUES ('rebuild')",
        "INSERT INTO docs_index(docs_index) VALUES ('integrity-check')",
    ],
    ids=["create", "create live=off", "drop", "rename", "rebuild", "integrity-check"],
)
def test_every_allocation_of_a_change_may_fail(docs_file, sql):
    assert int(run_apart(FAULTS, docs_file, sql, EACH * 17, "").split()[1]) > 0


@pytest.fixture(scope="module")
def larger_file(tmp_path_factory):
    import database

    path = tmp_path_factory.mktemp("memory") / "docs.db"
    connection = database.connect(path)
    # Too much for what the allocator may have at hand.
    fill(connection, numpy.random.default_rng(1).standard_normal((20000, 16)))
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    expected = {
        name: repr(rows(connection, sql, {"v": vector(*[0] * 16), "k": 3}))
        for name, sql in SEARCHES.items()
    }
    connection.close()
    return path, expected


@pytest.mark.parametrize("search", ["faiss_search", "virtual table"])
def test_a_heap_limit(larger_file, search):
    path, _ = larger_file
    words_ = run_apart(LIMITS, path, SEARCHES[search]).split()
    assert int(words_[1]) > 0 and int(words_[3]) > 0


@pytest.mark.skipif(
    bool(os.environ.get("SQLITE_FAISS_SANITIZE")), reason="a sanitizer's maps need the whole address space"
)
@pytest.mark.parametrize("search", ["faiss_search", "virtual table"])
def test_a_limit_of_the_process(larger_file, search):
    path, expected = larger_file
    assert run_apart(ADDRESS_SPACE, path, SEARCHES[search], expected[search]).split() == ["first", "refused"]


# --- the shell ----------------------------------------------------------------------------------


def test_the_shell_closes_without_complaint(docs_file):
    """sqlite3_close, unlike Python's close, reports statements and tables left open."""
    from database import EXTENSION

    script = f""".load {EXTENSION}
SELECT faiss_search('main', 'docs', '[0, 0]', 3);
SELECT group_concat(id) FROM docs_index('[0, 0]', 3);
SELECT id FROM docs_index('[0, 0, 0]', 3);
SELECT faiss_search('main', 'docs', '[0', 3);
SELECT group_concat(id) FROM faiss_search('main', 'docs', '[0, 0]', 3);
SELECT count(*) FROM faiss_indexes;
"""
    done = subprocess.run([SHELL, docs_file], input=script, capture_output=True, text=True, timeout=600)
    assert done.stdout.split("\n") == ["[1, 3, 6]", "1,3,6", "1,3,6", "1", ""]
    errors = done.stderr.strip().split("\n")
    assert len(errors) == 2, done.stderr
    assert "sqlite3_close" not in done.stderr


def test_a_defensive_connection(docs_file):
    """The default of newer shells: shadow tables cannot be written, all else works."""
    from database import EXTENSION

    script = f""".load {EXTENSION}
.dbconfig defensive on
CREATE VIRTUAL TABLE other USING faiss(main, docs, metric=ip);
SELECT group_concat(id) FROM other('[1, 0]', 1);
INSERT INTO other(other) VALUES ('rebuild');
ALTER TABLE other RENAME TO another;
SELECT group_concat(id) FROM another('[1, 0]', 1);
INSERT INTO docs VALUES (9, X'0000C84200000000');
SELECT group_concat(id) FROM another('[1, 0]', 1);
DROP TABLE another;
SELECT name FROM sqlite_schema ORDER BY 1;
DELETE FROM docs_index_config;
"""
    done = subprocess.run([SHELL, "-batch", docs_file], input=script, capture_output=True, text=True, timeout=600)
    lines = [line for line in done.stdout.split("\n") if "defensive" not in line]
    assert lines == ["4", "4", "9", "docs", *live_names(), "docs_index", "docs_index_config", ""]
    assert "may not be modified" in done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr


DAMAGED = SCENARIO + """
import sqlite3
from database import *
path, damage, nearest = sys.argv[1], sys.argv[2], eval(sys.argv[3])
connection = connect(path)
saved = rows(connection, "SELECT k, v FROM docs_index_config")
connection.execute(damage)
connection.close()
connection = connect(path)
assert "docs" in column(connection, "SELECT name FROM pragma_table_list")
for sql in ("SELECT id FROM docs_index('[0, 0]')", "SELECT id FROM docs_index"):
    try:
        rows(connection, sql)
    except sqlite3.Error as error:
        assert "docs_index" in str(error), error
assert scalar(connection, "SELECT faiss_search('main', 'docs', '[0, 0]', 2)") == "[1, 3]"
connection.execute("SAVEPOINT s")
connection.execute("DROP TABLE docs_index")
assert column(connection, "SELECT name FROM sqlite_schema") == ["docs"]
connection.execute("ROLLBACK TO s")
connection.execute("RELEASE s")
connection.execute("DELETE FROM docs_index_config")
connection.executemany("INSERT INTO docs_index_config(k, v) VALUES (?, ?)", saved)
connection.close()
connection = connect(path)
assert rows(connection, "SELECT id, score FROM docs_index('[0, 0]')") == nearest
connection.close()
"""


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM docs_index_config",
        "UPDATE docs_index_config SET v = NULL",
        "UPDATE docs_index_config SET v = ''",
        "UPDATE docs_index_config SET v = 'nonsense'",
        "UPDATE docs_index_config SET v = 'id'",
        "UPDATE docs_index_config SET v = 'docs_index'",
        "UPDATE docs_index_config SET v = X'00FF'",
        "UPDATE docs_index_config SET v = 9223372036854775807",
        "UPDATE docs_index_config SET v = -1",
        "UPDATE docs_index_config SET k = 'x' || k",
        "UPDATE docs_index_config SET v = printf('%.*c', 100000, 'x')",
    ],
)
def test_a_damaged_config_table_is_an_error_and_no_crash(docs_file, damage):
    """Whatever a file says about itself may be wrong; it can be read and dropped all the same."""
    run_apart(DAMAGED, docs_file, damage, repr(NEAREST))


def test_a_config_table_of_a_later_format_is_refused(docs_file, connect):
    connection = connect(docs_file)
    connection.execute("UPDATE docs_index_config SET v = '999' WHERE k = 'version'")
    connection.close()
    connection = connect(docs_file)
    with pytest.raises(sqlite3.Error, match="(?s)(?=.*docs_index)(?=.*999)"):
        rows(connection, "SELECT id FROM docs_index('[0, 0]')")
    connection.execute("DROP TABLE docs_index")
    assert column(connection, "SELECT name FROM sqlite_schema") == ["docs"]


def test_a_config_table_that_is_gone(docs_file, connect):
    """As far as SQLite lets anyone drop it."""
    connection = connect(docs_file)
    connection.execute("DROP TABLE docs_index_config")
    connection.close()
    connection = connect(docs_file)
    assert "docs" in column(connection, "SELECT name FROM pragma_table_list")
    connection.execute("DROP TABLE docs_index")
    assert column(connection, "SELECT name FROM sqlite_schema") == ["docs"]
