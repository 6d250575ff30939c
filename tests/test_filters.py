"""Conditions beside a search: where each is answered, what k counts, and when a search ends."""

import contextlib
import itertools
import re
import sqlite3
import time
from collections import namedtuple

import numpy
import pytest

import database
import oracle
from database import column, fill, plan, quote, rows, scalar, vector
from steps import count_steps

SHOWN = re.compile(r"VIRTUAL TABLE INDEX (\d:\w+)([a-z ]*?) ?(?:filter\((.*)\))?(?: LEFT-JOIN)?$")


def shown(connection, sql, parameters=()):
    """(plan, filter) of each faiss table in the query."""
    found = [SHOWN.search(line) for line in plan(connection, sql, parameters)]
    return [(match[1], match[3] or "") for match in found if match]


class Trace:
    """The extension's statements on the source while something runs, by what they are for."""

    KINDS = {
        "set": re.compile(r"-- SELECT s\.\w+ FROM .* AS s WHERE 1 AND "),
        "row": re.compile(r"-- SELECT 1 FROM .* AS s WHERE s\.\w+ = \?1 AND "),
    }

    def __init__(self, connection):
        self.connection, self.seen = connection, []

    def __enter__(self):
        self.connection.set_trace_callback(self.note)
        return self.seen

    def __exit__(self, *_):
        self.connection.set_trace_callback(None)

    def note(self, sql):
        self.seen += [kind for kind, pattern in self.KINDS.items() if pattern.match(sql)]


# --- operators on every affinity and collation ----------------------------------------------------

COLUMNS = {
    "whole": "INTEGER",
    "real": "REAL",
    "text": "TEXT",
    "numeric": "NUMERIC",
    "blob": "BLOB",
    "untyped": "",
    "nocase": "TEXT COLLATE NOCASE",
    "rtrim": "VARCHAR(9) COLLATE RTRIM",
    "odd, name": "COLLATE NOCASE",
}
STORED = (None, -1, 1, 2.5, "1", "01", "", "a", "A", "a ", "ab", "B", b"a", b"", 7, "1.0")
OPERANDS = ("1", "1.0", "2.5", "'1'", "'01'", "'a'", "'A'", "'a '", "x'61'", "''", "NULL")
SUBQUERY = "(SELECT +v FROM operands)"  # values without a type

INSIDE = {  # the condition: what the plan shows of it
    **{
        f"{{}} {operator} {operand}": f"{{}}{shown_as}?"
        for operator, shown_as in (("=", "="), ("==", "="), ("!=", "!="), ("<>", "!="), ("<", "<"),
                                   ("<=", "<="), (">", ">"), (">=", ">="), ("IS", " IS "),
                                   ("IS NOT", " IS NOT "))
        for operand in OPERANDS
        if not (operator.startswith("IS") and operand == "NULL")
    },
    "'a' > {}": "{}<?",
    "1 = {}": "{}=?",
    "{} IS NULL": "{} IS NULL",
    "{} ISNULL": "{} IS NULL",
    "{} IS NOT NULL": "{} IS NOT NULL",
    "{} IN (1, 'a', NULL, x'61')": "{} IN (?)",
    "{} IN (2.5)": "{}=?",
    f"{{}} IN {SUBQUERY}": "{} IN (?)",
    "{} IN texts": "{} IN (?)",
    f"{{}} = {SUBQUERY}": "{}=?",
    "{} = upper('a')": "{}=?",
    "{} BETWEEN 1 AND 2.5": "{}>=? AND {}<=?",
    "{} BETWEEN 'A' AND 'a'": "{}>=? AND {}<=?",
    "{} BETWEEN 1 AND x''": "{}>=? AND {}<=?",
    "{} > 0 AND {} < 'b'": "{}>? AND {}<?",
    "{} LIKE 'a'": "{} LIKE ?",
    "{} LIKE 'A%'": "{} LIKE ?",
    "{} LIKE '_'": "{} LIKE ?",
    "{} LIKE 1": "{} LIKE ?",
    "{} LIKE '1%'": "{} LIKE ?",
    "like('a%', {})": "{} LIKE ?",
    "{} GLOB 'a*'": "{} GLOB ?",
    "{} GLOB '[aA]'": "{} GLOB ?",
    "{} GLOB '1'": "{} GLOB ?",
    "{} COLLATE NOCASE = 'a'": "{}=?",
    "{} = 'A ' COLLATE RTRIM": "{}=?",
    "{} COLLATE NOCASE IN ('a', 'b')": "{} IN (?)",
}
# Left to SQLite, which takes hidden columns for BINARY.
OUTSIDE = (
    "{} NOT IN (1, 'a')",
    f"{{}} NOT IN {SUBQUERY}",
    "{} NOT BETWEEN 1 AND 'A'",
    "({} = 1 OR length({}) = 2)",
    "{} NOT LIKE 'a%'",
    "{} NOT GLOB 'a*'",
    "typeof({}) = 'text'",
    "{} || '' = 'a'",
    "NOT {} = 1 + 0 * id",
    "EXISTS (SELECT 1 FROM operands WHERE v = +{})",
    "CASE {} WHEN 1 THEN 1 WHEN 'a' THEN 1 END",
)
CENTRE = vector(0, 0)


@pytest.fixture(scope="module", params=["small", "large", "indexed"])
def things(request):
    """One row in 11 without an embedding; `ranked` holds the others, nearest first, by rowid.

    The set of a filter is read first in the small table, rows are tested first in the large one,
    and where there are indexes it depends on the condition.
    """
    count = 160 if request.param == "small" else 2500
    random = numpy.random.default_rng(4)
    connection = database.connect()
    declared = ", ".join(f"{quote(name)} {kind}".strip() for name, kind in COLUMNS.items())
    connection.execute(f"CREATE TABLE things(id INTEGER PRIMARY KEY, {declared}, embedding BLOB)")
    points = random.integers(-20, 21, (count, 2))
    stored = random.integers(0, len(STORED), (count, len(COLUMNS)))
    connection.executemany(
        f"INSERT INTO things VALUES (?, {', '.join('?' * len(COLUMNS))}, ?)",
        [
            (2 * place, *(STORED[i] for i in stored[place]), vector(*points[place]) if place % 11 else None)
            for place in range(count)
        ],
    )
    if request.param == "indexed":
        for place, name in enumerate(COLUMNS):
            connection.execute(f"CREATE INDEX by_{place} ON things({quote(name)})")
    connection.execute("CREATE TABLE operands AS SELECT 'a' AS v UNION SELECT 1 UNION SELECT x'' UNION SELECT NULL")
    connection.execute("CREATE TABLE texts(v TEXT)")
    connection.execute("INSERT INTO texts VALUES ('1'), ('a'), ('2.5'), ('ab')")
    connection.execute("CREATE VIRTUAL TABLE things_index USING faiss(main, things)")
    table = rows(connection, "SELECT id, id, embedding FROM things")
    ranked = [id for id, _ in oracle.nearest(table, CENTRE)]
    yield connection, ranked
    connection.close()


def passing(connection, ranked, condition):
    passed = set(column(connection, f"SELECT id FROM things WHERE {condition}"))
    return [id for id in ranked if id in passed]


STREAM = "SELECT id FROM things_index WHERE embedding MATCH ? AND "


def check_condition(connection, ranked, condition):
    """Without k, whoever answers a condition, rows are those of the source, nearest first."""
    expected = passing(connection, ranked, condition)
    assert column(connection, STREAM + condition, [CENTRE]) == expected, condition
    limited = f"{STREAM}{condition} ORDER BY distance LIMIT 5 OFFSET 2"
    assert column(connection, limited, [CENTRE]) == expected[2:7], condition
    scan = f"SELECT id FROM things_index WHERE {condition}"
    assert sorted(column(connection, scan)) == sorted(expected), condition
    return expected


@pytest.mark.parametrize("name", COLUMNS)
def test_conditions_answered_inside(things, name):
    connection, ranked = things
    narrow = 0
    for form, shown_as in INSIDE.items():
        condition = form.format(*[quote(name)] * 2)
        expected = check_condition(connection, ranked, condition)
        for k in (1, 7):
            sql = f"{STREAM}{condition} AND k = {k}"
            assert column(connection, sql, [CENTRE]) == expected[:k], condition
        ((kind, terms),) = shown(connection, sql, [CENTRE])
        bare = quote(name) if "," in name else name
        assert kind == "2:knn"
        assert re.sub(r' COLLATE "\w+"', "", terms) == shown_as.format(*[bare] * 2), condition
        narrow += 0 < len(expected) < len(ranked)
    assert narrow > len(INSIDE) / 3


@pytest.mark.parametrize("name", ["whole", "real", "text", "numeric", "blob", "untyped"])
def test_conditions_left_to_sqlite(things, name):
    """With k they are tested among the k."""
    connection, ranked = things
    for form in OUTSIDE:
        condition = form.format(*[name] * 2)
        expected = check_condition(connection, ranked, condition)
        sql = f"{STREAM}{condition} AND k = 30"
        assert column(connection, sql, [CENTRE]) == [id for id in ranked[:30] if id in expected], condition
        assert shown(connection, sql, [CENTRE]) == [("2:knn", "")], condition
    check_condition(connection, ranked, f"{name} LIKE 'a%' ESCAPE '!'")
    check_condition(connection, ranked, f"{name} LIKE 'a!%' ESCAPE '!'")


def test_conditions_of_both_kinds(things):
    """k counts what the one lets through, and the other is tested among these."""
    connection, ranked = things
    inside, outside = "text >= 'a' AND whole IS NOT 7", "length(text) = 1"
    among = passing(connection, ranked, inside)[:20]
    expected = [id for id in among if id in passing(connection, ranked, outside)]
    assert 0 < len(expected) < len(among)
    sql = f"{STREAM}{inside} AND {outside} AND k = 20"
    assert column(connection, sql, [CENTRE]) == expected
    check_condition(connection, ranked, f"{inside} AND {outside}")


@pytest.mark.parametrize("name", ["id", "rowid", "_rowid_", "oid"])
def test_ranges_of_rows_count_before_k(things, name):
    connection, ranked = things
    for form in ("{} > 100", "{} <= 99.5", "{} BETWEEN 50 AND 200", "{} <> 100", "{} IS NOT 100",
                 "{} LIKE '1%'", "{} GLOB '*8'", "{} >= '90'", "{} < 'x'", "{} > 40 AND text = 'a'"):
        condition = form.format(name)
        expected = check_condition(connection, ranked, condition)
        assert len(expected) > 3
        assert column(connection, f"{STREAM}{condition} AND k = 4", [CENTRE]) == expected[:4]
    for form in ("{} = 100", "{} IS 100", "{} IN (100, 101, 102)", f"{{}} IN {SUBQUERY}", "{} = '100.0'"):
        condition = form.format(name)
        expected = check_condition(connection, ranked, condition)
        assert column(connection, f"{STREAM}{condition} AND text LIKE '%' AND k = 9", [CENTRE]) == [
            id for id in passing(connection, ranked, "text LIKE '%'")[:9] if id in expected
        ]


def test_bounds_beside_a_pattern_are_tested_among_the_k(things):
    connection, ranked = things
    for name in ("text", "blob", "nocase"):
        pattern, bound = f"{name} LIKE 'a%'", f"{name} >= 'a' COLLATE BINARY"
        if name != "nocase":
            check_condition(connection, ranked, f"{pattern} AND {bound}")
        among = passing(connection, ranked, pattern)[:6]
        sql = f"{STREAM}{pattern} AND {bound} AND k = 6"
        assert shown(connection, sql, [CENTRE]) == [("2:knn", f"{name} LIKE ?")]
        assert column(connection, sql, [CENTRE]) == [
            id for id in among if id in passing(connection, ranked, bound)
        ]


def test_case_sensitive_like(things):
    """The pragma makes another function of LIKE, for the extension's statements too."""
    connection, ranked = things
    answers = []
    for setting in ("ON", "OFF"):
        connection.execute(f"PRAGMA case_sensitive_like = {setting}")
        for name in ("text", "nocase", "untyped"):
            for pattern in ("A", "a%", "_B"):
                answers.append(check_condition(connection, ranked, f"{name} LIKE '{pattern}'"))
                sql = f"{STREAM}{name} LIKE ? AND k = 3"
                assert column(connection, sql, [CENTRE, pattern]) == answers[-1][:3]
    assert answers[0] != answers[9]


def test_operands_known_when_the_search_begins(things):
    connection, ranked = things
    for form, parameters in (
        ("text = ?", ["a"]), ("text IS ?", [None]), ("whole IN (?, ?)", [1, "x"]), ("nocase >= ?", ["A"]),
        ("untyped < ? + ?", [1, 1]), ("rtrim = (SELECT max(v) FROM operands WHERE v <> ?)", [b""]),
        ("blob BETWEEN ? AND ?", [b"", b"b"]), ("text GLOB ? || '*'", ["a"]), ("whole = ?", ["1"]),
    ):
        passed = set(column(connection, f"SELECT id FROM things WHERE {form}", parameters))
        expected = [id for id in ranked if id in passed]
        sql = f"SELECT id FROM things_index WHERE embedding MATCH ? AND {form}"
        assert column(connection, sql, [CENTRE, *parameters]) == expected, form
        assert column(connection, f"{sql} AND k = 5", [CENTRE, *parameters]) == expected[:5], form


def test_up_to_forty_conditions(things):
    """What is beyond those that the search takes, SQLite tests."""
    connection, ranked = things
    for count in (5, 31, 32, 33, 40):
        condition = " AND ".join(f"whole IS NOT {number}" for number in range(8 - count, 8))
        expected = passing(connection, ranked, condition)
        assert len(expected) < len(ranked)
        sql = f"SELECT id FROM things_index(?) WHERE {condition}"
        assert column(connection, sql, [CENTRE]) == expected
        assert column(connection, f"SELECT id FROM things_index WHERE {condition}") == sorted(expected)


# --- lists ----------------------------------------------------------------------------------------

VALUES = 100_000


@pytest.fixture(scope="module")
def listed():
    """3,000 rows, and a table of values, some of which are theirs."""
    connection = database.connect()
    fill(connection, [(place % 50, place // 50) for place in range(3000)])
    connection.execute("ALTER TABLE docs ADD COLUMN number INTEGER")
    connection.execute("ALTER TABLE docs ADD COLUMN name TEXT")
    connection.execute("UPDATE docs SET number = id * 37 % ?, name = 'n' || id", [4 * VALUES])
    connection.execute("CREATE TABLE wanted(number INTEGER, name TEXT)")
    connection.executemany("INSERT INTO wanted VALUES (?, ?)", [(4 * i, f"n{9 * i}") for i in range(VALUES)])
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    yield connection
    connection.close()


@pytest.mark.parametrize("indexed", [False, True], ids=["scan", "index"])
@pytest.mark.parametrize("name", ["number", "name"])
def test_a_subquery_of_many_values(listed, name, indexed):
    listed.execute("SAVEPOINT list")
    if indexed:
        listed.execute(f"CREATE INDEX by_{name} ON docs({name})")
    condition = f"{name} IN (SELECT {name} FROM wanted)"
    table = rows(listed, f"SELECT id, id, embedding FROM docs WHERE {condition}")
    expected = oracle.nearest(table, vector(9, 9))
    assert 300 < len(expected) < 2000
    sql = f"SELECT id, score FROM docs_index WHERE embedding MATCH ? AND {condition}"
    assert rows(listed, sql, [vector(9, 9)]) == expected
    assert rows(listed, f"{sql} ORDER BY distance LIMIT 12", [vector(9, 9)]) == expected[:12]
    assert scalar(listed, f"SELECT count(*) FROM docs_index WHERE {condition}") == len(expected)
    # How long a list may be depends on how SQLite was compiled.
    if listed.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) >= 2 * VALUES:
        assert rows(listed, f"{sql} AND k = 12", [vector(9, 9)]) == expected[:12]
    else:
        with pytest.raises(sqlite3.Error, match="a list of more than .* ORDER BY distance LIMIT n"):
            rows(listed, f"{sql} AND k = 12", [vector(9, 9)])
    listed.execute("ROLLBACK TO list")
    listed.execute("RELEASE list")


def test_a_list_too_long_to_hand_on(listed):
    before = listed.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1000)
    query = vector(9, 9)
    try:
        for count in (499, 500, 501, VALUES):
            condition = f"number IN (SELECT number FROM wanted LIMIT {count})"
            expected = oracle.nearest(rows(listed, f"SELECT id, id, embedding FROM docs WHERE {condition}"), query)
            assert expected
            sql = f"SELECT id, score FROM docs_index WHERE embedding MATCH ? AND {condition}"
            assert rows(listed, sql, [query]) == expected
            if count <= 500:
                assert rows(listed, f"{sql} AND k = 2", [query]) == expected[:2]
            else:
                with pytest.raises(sqlite3.Error, match="^docs_index: a list of more than 500 values"):
                    rows(listed, f"{sql} AND k = 2", [query])
    finally:
        listed.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, before)


def test_a_list_too_long_for_a_collation(listed):
    """SQLite would compare as BINARY: it cannot be asked to."""
    listed.execute("ALTER TABLE docs ADD COLUMN lang TEXT COLLATE NOCASE")
    listed.execute("INSERT INTO docs_index(docs_index) VALUES ('rebuild')")
    listed.execute("PRAGMA writable_schema = RESET")  # as if the file were opened again
    listed.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 1000)
    sql = "SELECT count(*) FROM docs_index WHERE lang IN (SELECT name FROM wanted LIMIT {})"
    assert scalar(listed, sql.format(500)) == 0
    with pytest.raises(sqlite3.Error, match="more than 500 values for lang, whose collation is NOCASE"):
        scalar(listed, sql.format(501))


# --- bounds on score and distance -----------------------------------------------------------------


@pytest.fixture(params=oracle.METRICS)
def points(memory, request):
    """3,000 rows with many ties; the metric and, nearest first, (id, score, distance, lang)."""
    metric = request.param
    random = numpy.random.default_rng(6)
    vectors = numpy.zeros((3000, 3))
    vectors[range(3000), random.integers(0, 3, 3000)] = random.integers(-9, 10, 3000)
    fill(memory, vectors.tolist())
    memory.execute("ALTER TABLE docs ADD COLUMN lang TEXT")
    memory.executemany(
        "UPDATE docs SET lang = ? WHERE id = ?",
        [(("en", "de", "fr", None)[place], id) for id, place in enumerate(random.integers(0, 4, 3000), 1)],
    )
    memory.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric={metric})")
    langs = dict(rows(memory, "SELECT id, lang FROM docs"))
    pairs = oracle.nearest(rows(memory, "SELECT id, id, embedding FROM docs"), AXIS, metric=metric)
    distances = oracle.distances(numpy.array([score for _, score in pairs]), metric)
    return metric, [(id, score, float(d), langs[id]) for (id, score), d in zip(pairs, distances)]


AXIS = vector(0, 4, 0)
OPERATORS = {"<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}


@pytest.mark.parametrize("measure", ["score", "distance"])
def test_bounds(memory, points, measure):
    """Both sides count before k, alone and beside a filter."""
    _, everything = points
    place = ("id", "score", "distance").index(measure)
    values = sorted({row[place] for row in everything})
    for bound in (values[0] - 1, values[0], values[len(values) // 3], values[-1], values[-1] + 1):
        for operator, method in OPERATORS.items():
            for filtered in ("", " AND lang = 'de'", " AND id % 2 = 0"):
                within = [
                    row[0] for row in everything
                    if getattr(row[place], method)(bound) and (row[3] == "de" or "lang" not in filtered)
                ]
                even = [id for id in within if id % 2 == 0 or "%" not in filtered]
                sql = f"SELECT id FROM docs_index WHERE embedding MATCH ? AND {measure} {operator} ?{filtered}"
                assert column(memory, sql, [AXIS, bound]) == even
                assert column(memory, f"{sql} LIMIT 3 OFFSET 1", [AXIS, bound]) == even[1:4]
                expected = [id for id in within[:40] if id in even]
                assert column(memory, f"{sql} AND k = 40", [AXIS, bound]) == expected
    assert shown(memory, sql + " AND k = 40", [AXIS, bound]) == [("2:knn", f"{measure}>=?")]


def test_two_bounds(memory, points):
    metric, everything = points
    values = sorted({row[2] for row in everything})
    low, high = values[len(values) // 4], values[len(values) // 2]
    ring = [row for row in everything if low < row[2] <= high]
    sql = "SELECT id FROM docs_index WHERE embedding MATCH ? AND distance > ? AND distance <= ?"
    assert len(ring) > 10
    assert column(memory, sql, [AXIS, low, high]) == [row[0] for row in ring]
    assert column(memory, sql + " AND k = 5", [AXIS, low, high]) == [row[0] for row in ring[:5]]
    german = [row[0] for row in ring if row[3] == "de"]
    assert column(memory, sql + " AND k = 5 AND lang = 'de'", [AXIS, low, high]) == german[:5]
    between = "SELECT id FROM docs_index WHERE embedding MATCH ? AND score BETWEEN ? AND ? AND lang = 'de' AND k = 5"
    scores = sorted({row[1] for row in ring})
    expected = [row[0] for row in everything if scores[0] <= row[1] <= scores[-1] and row[3] == "de"]
    assert column(memory, between, [AXIS, scores[0], scores[-1]]) == expected[:5]
    assert column(memory, sql, [AXIS, high, low]) == []


def test_bounds_that_are_no_numbers(memory, points):
    """As an ordinary REAL column compares: '3' is 3, texts come after numbers, NULL is nothing."""
    _, everything = points
    memory.execute("CREATE TABLE copied(id INTEGER, score REAL, distance REAL)")
    memory.executemany("INSERT INTO copied VALUES (?, ?, ?)", [row[:3] for row in everything])
    for measure, operator in itertools.product(("score", "distance"), OPERATORS):
        for bound in ("3", "x", "", b"3", None, 3, -0.0, 1e300, float("inf")):
            condition = f"{measure} {operator} ?"
            expected = column(memory, f"SELECT id FROM copied WHERE {condition} ORDER BY rowid", [bound])
            for k in ("", " AND k = 20"):
                sql = f"SELECT id FROM docs_index WHERE embedding MATCH ? AND {condition}{k}"
                assert column(memory, sql, [AXIS, bound]) == expected[: 20 if k else None], (condition, bound)


def test_the_near_side_ends_the_search(memory, points):
    """Rows beyond it are neither tested by the filter nor handed to SQLite."""
    metric, everything = points
    nearest = everything[0]
    count = sum(row[2] == nearest[2] for row in everything)
    assert count < 600
    score = "score <= ?" if metric == "l2" else "score >= ?"
    sql = "SELECT count(*) FROM docs_index WHERE embedding MATCH ? AND "
    for bound, value in (("distance <= ?", nearest[2]), (score, nearest[1])):
        assert scalar(memory, sql + bound, [AXIS, value]) == count
        assert count_steps(memory, sql + bound, [AXIS, value]) < count_steps(memory, sql + "score + 0 < 1e9", [AXIS]) / 2
        with Trace(memory) as seen:
            assert scalar(memory, f"{sql}{bound} AND lang IS NOT 'xx'", [AXIS, value]) == count
        assert set(seen) == {"row"} and seen.count("row") <= count + 1


# --- streaming ------------------------------------------------------------------------------------


@pytest.fixture
def turning(memory):
    """4,000 rows on a line; `early` holds for the first 300 of them and for the last 20."""
    fill(memory, [(place // 3,) for place in range(4000)])
    for definition in ("early INTEGER", "rare INTEGER", "often INTEGER"):
        memory.execute(f"ALTER TABLE docs ADD COLUMN {definition}")
    memory.execute("UPDATE docs SET early = id <= 300 OR id > 3980, rare = id % 500 = 0, often = id % 10 > 0")
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    return memory


@pytest.mark.parametrize(
    ("condition", "index", "kinds"),
    [
        ("early", None, ["row", "set"]),
        ("often", None, ["row"]),
        ("rare", None, ["row", "set"]),
        ("rare", "rare", ["set"]),
        ("often", "often", ["set", "row"]),
        ("often", "often, id", ["set", "row"]),
        ("early", "early", ["set"]),
    ],
)
def test_the_stream_goes_on_where_the_plan_changes(turning, condition, index, kinds):
    """Rows tested one by one and a set read first: no row comes twice or is left out."""
    if index:
        turning.execute(f"CREATE INDEX by_it ON docs({index})")
    expected = column(turning, f"SELECT id FROM docs WHERE {condition} = 1")
    sql = f"SELECT id FROM docs_index WHERE embedding MATCH '[0]' AND {condition} = 1"
    with Trace(turning) as seen:
        assert column(turning, sql) == expected
    assert [kind for kind, _ in itertools.groupby(seen)] == kinds
    cursor = turning.execute(sql)
    found = list(itertools.chain.from_iterable(iter(lambda: cursor.fetchmany(97), [])))
    assert [row[0] for row in found] == expected
    for limit in (1, 5, 300, 301, 319, 320, 321, 5000):
        assert column(turning, f"{sql} ORDER BY distance LIMIT {limit}") == expected[:limit]
        assert column(turning, f"{sql} AND k = {limit}") == expected[:limit]
        assert column(turning, f"{sql} LIMIT 7 OFFSET {limit}") == expected[limit : limit + 7]


def test_first_rows_do_not_wait_for_the_rest(turning):
    """Work grows with what is read, with a condition outside too."""
    sql = "SELECT id FROM docs_index WHERE embedding MATCH '[0]' AND often = 1 AND id % 2 = 1 LIMIT ?"
    few, all_ = count_steps(turning, sql, [5]), count_steps(turning, sql, [-1])
    assert few * 4 < all_
    cursor = turning.execute("SELECT id FROM docs_index('[0]') WHERE often = 1")
    other = turning.execute("SELECT id FROM docs_index('[1400]') WHERE rare = 1")
    pairs = [(next(cursor)[0], next(other)[0]) for _ in range(8)]
    assert pairs == list(zip((1, 2, 3, 4, 5, 6, 7, 8), range(4000, 0, -500)))


# --- what cannot be asked -------------------------------------------------------------------------


def test_what_else_is_compared_with_k(docs):
    """Beside `k = n` the column reads n."""
    sql = "SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]' AND k = 2 AND "
    for condition in ("k IS 2", "k <> 3", "k IS NOT NULL", "k + 0 = 2"):
        assert column(docs, sql + condition) == [1, 3], condition
    for condition in ("k IS 3", "k <> 2", "k IS NULL", "k + 0 > 2"):
        assert column(docs, sql + condition) == [], condition
    for condition in ("k < 3", "k >= 1", "k BETWEEN 1 AND 3"):
        with pytest.raises(sqlite3.Error, match="^docs_index: k can only be compared by =$"):
            column(docs, sql + condition)


@pytest.mark.parametrize("condition", ["k <> 2", "k IS 2", "k IS NOT 2", "k LIKE '2'", "k < 2"])
def test_k_is_given_by_equality_alone(docs, condition):
    """Without k = n it reads NULL, and such a condition would let no row pass."""
    with pytest.raises(sqlite3.Error, match="^docs_index: k can only be compared by =$"):
        column(docs, f"SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]' AND {condition}")


def test_match_behind_sixteen_conditions(docs):
    """SQLite puts MATCH last, and does not let a table answer a constraint beyond the 16th."""
    conditions = " AND ".join(f"rowid <> {-n}" for n in range(16))
    with pytest.raises(sqlite3.Error, match="give it as an argument of the table instead$"):
        column(docs, f"SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]' AND {conditions}")
    assert column(docs, f"SELECT id FROM docs_index('[0, 0]', 2) WHERE {conditions}") == [1, 3]


@pytest.mark.parametrize(
    "arguments", ["main, docs, ", "main, docs,", "main, docs, , metric=l2", "main, docs, metric=l2,"]
)
def test_empty_arguments_are_none(docs, arguments):
    """SQLite itself leaves them out."""
    docs.execute(f"CREATE VIRTUAL TABLE other USING faiss({arguments})")
    assert column(docs, "SELECT id FROM other('[0, 0]', 2)") == [1, 3]


# --- sources --------------------------------------------------------------------------------------


@pytest.fixture
def tagged(memory):
    fill(memory, [(place,) for place in range(8)])
    memory.execute("ALTER TABLE docs ADD COLUMN tag TEXT COLLATE NOCASE")
    memory.execute("ALTER TABLE docs ADD COLUMN year INTEGER")
    memory.execute("UPDATE docs SET tag = substr('aAbBaAbB', id, 1), year = 2000 + id % 3")
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    return memory


@pytest.mark.parametrize("source", ["seen", "kept"])
def test_sources_without_rowid(tagged, source):
    """SQLite tests their columns, BINARY unless a collation is named; k and these are an error."""
    tagged.execute("CREATE VIEW seen AS SELECT tag, id, year, embedding FROM docs ORDER BY id")
    tagged.execute(
        "CREATE TABLE kept(id INTEGER PRIMARY KEY, tag TEXT COLLATE NOCASE, year INTEGER, embedding BLOB) WITHOUT ROWID"
    )
    tagged.execute("INSERT INTO kept SELECT id, tag, year, embedding FROM docs")
    tagged.execute(f"CREATE VIRTUAL TABLE other USING faiss(main, {source})")
    sql = "SELECT id FROM other WHERE embedding MATCH '[0]' AND "
    for condition, expected in (
        ("tag = 'a'", [1, 5]),
        ("tag = 'a' COLLATE NOCASE", [1, 2, 5, 6]),
        ("tag LIKE 'A%'", [1, 2, 5, 6]),
        ("year >= 2001 AND tag IN ('b', 'B')", [4, 7, 8]),
        ("year IN (SELECT year FROM docs WHERE id = 3) AND distance > 2", [6]),
        ("year IS NOT 2001 ORDER BY distance LIMIT 3 OFFSET 1", [3, 5, 6]),
        ("id = 4", [4]),
        ("id BETWEEN 3 AND 5 AND tag <> 'a'", [3, 4]),
    ):
        assert column(tagged, sql + condition) == expected
        assert all("tag" not in terms and "year" not in terms for _, terms in shown(tagged, sql + condition))
    assert column(tagged, sql + "k = 3 AND id IN (2, 3, 4)") == [2, 3]
    assert column(tagged, sql + "k = 3 AND distance >= 2") == [3, 4, 5]
    assert column(tagged, "SELECT id FROM other WHERE year = 2001") == [1, 4, 7]
    assert rows(tagged, "SELECT id, tag, year FROM other('[3]', 2)") == [(4, "B", 2001), (3, "b", 2000)]
    for condition, name in (("year = 2000", "year"), ("tag LIKE 'a'", "tag"), ("year IS NULL", "year")):
        with pytest.raises(sqlite3.Error, match=f"on {name}, .* no rowid: use ORDER BY distance LIMIT n"):
            column(tagged, f"{sql}k = 3 AND {condition}")


def test_columns_added_and_dropped(tagged):
    sql = "SELECT id FROM docs_index WHERE embedding MATCH '[0]' AND tag = 'b'"
    tagged.execute("ALTER TABLE docs ADD COLUMN note DEFAULT 'n'")
    with pytest.raises(sqlite3.Error, match="no such column: note"):
        rows(tagged, "SELECT note FROM docs_index")
    tagged.execute("ALTER TABLE docs DROP COLUMN year")
    for rest in ("", " AND k = 9", " AND id > 1", " ORDER BY distance LIMIT 9"):
        assert column(tagged, sql + rest) == [3, 4, 7, 8]
        for use in ("year = 2001", "year + 0 > 1", "year IS NULL", "year IN (1, 2)", "year LIKE '2%'"):
            with pytest.raises(sqlite3.Error, match=r"main\.docs.*no .*column.*\byear\b"):
                rows(tagged, sql.replace("tag = 'b'", use) + rest)
    for query in ("SELECT year FROM docs_index", "SELECT id FROM docs_index WHERE year = 1",
                  "SELECT year FROM docs_index('[0]', 2)", "SELECT id FROM docs_index('[0]') ORDER BY year",
                  "SELECT id FROM docs_index WHERE id = 2 AND year = 1"):
        with pytest.raises(sqlite3.Error, match=r"main\.docs.*no .*column.*\byear\b"):
            rows(tagged, query)
    tagged.execute("DROP TABLE docs_index")
    tagged.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert rows(tagged, "SELECT id, note FROM docs_index('[0]', 1) WHERE note = 'n'") == [(1, "n")]
    with pytest.raises(sqlite3.Error, match="no such column: year"):
        rows(tagged, "SELECT id FROM docs_index WHERE year = 1")


def test_attached_databases(tmp_path, connect):
    """Tables of one name in three schemas: each filter asks its own."""
    connection = connect(tmp_path / "one.db")
    connection.execute("ATTACH ? AS two", [str(tmp_path / "two.db")])
    for place, schema in enumerate(("main", "two", "temp")):
        connection.execute(f"CREATE TABLE {schema}.docs(id INTEGER PRIMARY KEY, lang TEXT, embedding BLOB)")
        connection.executemany(
            f"INSERT INTO {schema}.docs VALUES (?, ?, ?)",
            [(id, ("en", "de", "fr")[(id + place) % 3], vector(id)) for id in range(1, 10)],
        )
        connection.execute(f"CREATE VIRTUAL TABLE {schema}.index_{schema} USING faiss(main, docs)")
    connection.execute("DROP TABLE temp.index_temp")  # `main` is main there
    connection.execute("CREATE VIRTUAL TABLE temp.index_temp USING faiss(temp, docs)")
    connection.execute("CREATE VIRTUAL TABLE temp.over_two USING faiss(two, docs)")
    sql = "SELECT id, lang FROM {} WHERE embedding MATCH '[0]' AND k = 2 AND lang = 'en'"
    for table, expected in (("index_main", (3, 6)), ("index_two", (2, 5)), ("over_two", (2, 5)), ("index_temp", (1, 4))):
        assert rows(connection, sql.format(table)) == [(id, "en") for id in expected]
    assert rows(
        connection,
        "SELECT a.id, b.id, c.id FROM index_main a JOIN two.index_two b ON b.lang = a.lang"
        " JOIN index_temp c ON c.lang = a.lang WHERE a.embedding MATCH '[0]' AND b.embedding MATCH '[0]'"
        " AND c.embedding MATCH '[0]' AND a.lang = 'en'"
        " ORDER BY a.distance, b.distance, c.distance LIMIT 2",
    ) == [(3, 2, 1), (3, 2, 4)]
    other = connect(tmp_path / "two.db")
    assert rows(other, sql.format("index_two")) == [(2, "en"), (5, "en")]
    other.execute("UPDATE docs SET lang = 'en' WHERE id = 1")
    assert rows(connection, sql.format("two.index_two")) == [(1, "en"), (2, "en")]


# --- own changes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [50, 3000])
@pytest.mark.parametrize("index", [False, True], ids=["scan", "index"])
def test_filters_see_uncommitted_rows(tmp_path, connect, count, index):
    """Whatever the statement would read from the source, also where no embedding has changed."""
    writer, reader = connect(tmp_path / "docs.db"), connect(tmp_path / "docs.db")
    writer.execute("PRAGMA journal_mode = wal")
    fill(writer, [(place,) for place in range(count)])
    writer.execute("ALTER TABLE docs ADD COLUMN lang TEXT DEFAULT 'en'")
    writer.execute("UPDATE docs SET lang = 'de' WHERE id % 10 = 0")
    if index:
        writer.execute("CREATE INDEX by_lang ON docs(lang)")
    writer.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    sql = "SELECT id FROM docs_index WHERE embedding MATCH '[0]' AND lang = 'de' AND k = 3"
    streamed = "SELECT id FROM docs_index('[0]') WHERE lang = 'de' LIMIT 3"

    def check(connection, expected):
        assert column(connection, sql) == column(connection, streamed) == expected

    check(writer, [10, 20, 30])
    writer.execute("BEGIN")
    writer.execute("UPDATE docs SET lang = 'de' WHERE id = 2")
    check(writer, [2, 10, 20])
    check(reader, [10, 20, 30])
    writer.execute("SAVEPOINT s")
    writer.execute("UPDATE docs SET lang = NULL WHERE id = 10")
    writer.execute("INSERT INTO docs VALUES (?, ?, 'de')", [count + 1, vector(0.5)])
    check(writer, [count + 1, 2, 20])
    writer.execute("DELETE FROM docs WHERE id = 2")
    check(writer, [count + 1, 20, 30])
    writer.execute("ROLLBACK TO s")
    check(writer, [2, 10, 20])
    writer.execute("COMMIT")
    check(reader, [2, 10, 20])
    writer.execute("BEGIN")
    writer.execute("UPDATE docs SET lang = 'fr' WHERE lang = 'de'")
    check(writer, [])
    writer.execute("ROLLBACK")
    check(writer, [2, 10, 20])


# --- interruption ---------------------------------------------------------------------------------

Long = namedtuple("Long", "count text sql")
LONG_PATTERN = "%" + "a" * 300 + "b%"  # each test of it takes about a millisecond
LONG = {
    "set of a filter": Long(2000, 4000, "SELECT count(*) FROM docs_index('[0]') WHERE body LIKE :pattern"),
    "rows of a filter": Long(6000, 4000, "SELECT id FROM docs_index('[0]') WHERE body NOT NULL AND body LIKE :pattern"),
    "filter of a scan": Long(6000, 4000, "SELECT id FROM docs_index WHERE body LIKE :pattern"),
    "k among few": Long(6000, 4000, "SELECT id FROM docs_index('[0]', 2) WHERE body LIKE :pattern"),
    "stream": Long(3000, 1, "SELECT count(*) FROM docs_index('[0]') a, docs_index('[9]') b, docs c WHERE a.id > b.id + c.id"),
    "searches of a join": Long(
        3000, 1, "SELECT count(*) FROM docs a, docs b JOIN docs_index n ON n.embedding MATCH a.embedding AND n.k = 1 + b.id % 3"
    ),
    "neighbours": Long(3000, 1, "SELECT count(*) FROM docs a, docs b, faiss_neighbors('main', 'docs', 3 + a.id % 3)"),
}


@pytest.mark.parametrize("by", ["interrupt", "progress handler"])
@pytest.mark.parametrize("long", LONG.values(), ids=LONG.keys())
def test_long_work_can_be_interrupted(memory, long, by):
    """Each would run for many seconds."""
    fill(memory, [(place,) for place in range(long.count)])
    memory.execute("ALTER TABLE docs ADD COLUMN body TEXT")
    memory.execute("UPDATE docs SET body = ?", ["a" * long.text])
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    assert column(memory, "SELECT id FROM docs_index('[0]', 2)") == [1, 2]
    parameters = {"pattern": LONG_PATTERN} if ":pattern" in long.sql else {}
    began = time.process_time()
    with contextlib.ExitStack() as stack:
        if by == "interrupt":
            stack.enter_context(database.interrupted(memory, 5))
        else:
            asked = time.monotonic() + 0.2
            memory.set_progress_handler(lambda: time.monotonic() > asked, 50)
        with pytest.raises(sqlite3.OperationalError, match="^interrupted$"):
            memory.execute(long.sql, parameters).fetchall()
    memory.set_progress_handler(None, 0)
    assert time.process_time() - began < 5  # it is to be 0.3 s, and is more on an instrumented build
    assert column(memory, "SELECT id FROM docs_index('[0]', 2)") == [1, 2]
