"""faiss_encode, faiss_decode, faiss_normalize, faiss_dimension, faiss_distance, faiss_version."""

import json
import math
import sqlite3
import struct

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import database
from database import column, fill, scalar, values, vector

FLOAT32_MAX = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
vectors = st.lists(finite, min_size=1, max_size=40)


@pytest.fixture(scope="module")
def shared():
    connection = database.connect()
    yield connection
    connection.close()


def test_encode_of_the_reference_readme(memory):
    assert scalar(memory, "SELECT hex(faiss_encode('[2.4, 4.1, 1.8]'))") == (
        "9A991940333383406666E63F"
    )


def test_decode_of_the_reference_readme(memory):
    assert scalar(memory, "SELECT faiss_decode(X'9A991940333383406666E63F')") == (
        "[2.4000000953674316, 4.099999904632568, 1.7999999523162842]"
    )


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("[1]", [1]),
        ("[-0]", [-0.0]),
        ("[-0.0, 0]", [-0.0, 0]),
        (" [ 1 ,\t2\n,\r3 ] ", [1, 2, 3]),
        ("[1e2, 1E+2, 1e-2, 1.5E-3]", [100, 100, 0.01, 0.0015]),
        ("[12345678901234567890]", [12345678901234567890]),
        ("[9007199254740993]", [9007199254740993]),
        ("[1e-60, -1e-60]", [0.0, -0.0]),  # too small for a float32: zero, as in Python
        ("[1e-400]", [0.0]),
        ("[1e-45, 1.1754942e-38]", [1e-45, 1.1754942e-38]),
        ("[0." + "3" * 400 + "]", [1 / 3]),
    ],
)
def test_encode_reads_json_numbers(memory, text, numbers):
    assert scalar(memory, "SELECT faiss_encode(?)", [text]) == struct.pack(
        f"<{len(numbers)}f", *numbers
    )


def test_largest_float32(memory):
    """A number that rounds down to the largest float32 is one; one that rounds up is out of range."""
    half_a_step_above = FLOAT32_MAX + 2.0**103
    below = math.nextafter(half_a_step_above, 0)
    assert scalar(memory, "SELECT faiss_encode(?)", [f"[{below!r}]"]) == vector(FLOAT32_MAX)
    assert scalar(memory, "SELECT faiss_encode(?)", [f"[-{below!r}]"]) == vector(-FLOAT32_MAX)
    for number in (repr(half_a_step_above), "-" + repr(half_a_step_above), "1e39", "1e400", "-1e400"):
        with pytest.raises(sqlite3.Error, match="(?i)float32|range"):
            scalar(memory, "SELECT faiss_encode(?)", [f"[1, {number}]"])


@given(numbers=st.lists(st.floats(-1e38, 1e38), min_size=0, max_size=30))
def test_encode_is_struct_pack(shared, numbers):
    """Also for doubles between two float32s: rounded to the nearest, as struct does."""
    assert scalar(shared, "SELECT faiss_encode(?)", [json.dumps(numbers)]) == vector(*numbers)


@given(numbers=vectors)
def test_decode_is_json_dumps_and_encode_takes_it_back(shared, numbers):
    text, blob = shared.execute(
        "SELECT faiss_decode(:blob), faiss_encode(faiss_decode(:blob))", {"blob": vector(*numbers)}
    ).fetchone()
    assert text == json.dumps(values(vector(*numbers)))
    assert blob == vector(*numbers)


def test_empty_vectors_have_both_forms(memory):
    assert memory.execute("SELECT faiss_encode('[]'), faiss_encode(' [ ] ')").fetchone() == (
        b"",
        b"",
    )
    assert scalar(memory, "SELECT faiss_decode(X'')") == "[]"


def test_decode_prints_what_is_no_number_as_json_dumps_does(memory):
    blob = vector(math.nan, math.inf, -math.inf, 1)
    assert scalar(memory, "SELECT faiss_decode(?)", [blob]) == "[NaN, Infinity, -Infinity, 1.0]"


def test_a_long_vector_goes_both_ways(memory):
    numbers = numpy.random.default_rng(1).standard_normal(20000).astype("<f4")
    text = scalar(memory, "SELECT faiss_decode(?)", [numbers.tobytes()])
    assert text == json.dumps(numbers.astype("f8").tolist())
    assert scalar(memory, "SELECT faiss_encode(?)", [text]) == numbers.tobytes()


@pytest.mark.parametrize(
    "call",
    [
        "faiss_encode(NULL)",
        "faiss_decode(NULL)",
        "faiss_normalize(NULL)",
        "faiss_dimension(NULL)",
        "faiss_distance(NULL, X'0000803F')",
        "faiss_distance(X'0000803F', NULL)",
        "faiss_distance(NULL, NULL, 'ip')",
    ],
)
def test_null_gives_null(memory, call):
    assert memory.execute(f"SELECT {call}").fetchone() == (None,)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "[",
        "[1",
        "[1,",
        "[1,]",
        "[,1]",
        "[1 2]",
        "[1]]",
        "[1] x",
        "[1], [2]",
        "1",
        '"[1]"',
        "null",
        "true",
        "{}",
        '{"a": 1}',
        "[null]",
        '["1"]',
        "[true]",
        "[[1]]",
        "[1, [2]]",
        "[1, {}]",
        "[nan]",
        "[NaN]",
        "[Infinity]",
        "[-Infinity]",
        "[inf]",
        "[+1]",
        "[.5]",
        "[0x10]",
        "[1e]",
        "[-]",
        "[1.2.3]",
        "[1-2]",
        "[1\0]",
        "[1]\0",
        "[1]\0x",
        "not json",
    ],
)
def test_encode_refuses_what_is_no_json_array_of_numbers(memory, text):
    with pytest.raises(sqlite3.Error, match="(?i)array|json"):
        scalar(memory, "SELECT faiss_encode(?)", [text])


@pytest.mark.parametrize("text", ["[01]", "[-01]", "[1.]", "[1.e2]", "[2., 3]", "\ufeff[1]"])
def test_encode_refuses_what_json_loads_refuses(memory, text):
    """Forms that lenient parsers take and Python's json does not."""
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    with pytest.raises(sqlite3.Error, match="(?i)array|json"):
        scalar(memory, "SELECT faiss_encode(?)", [text])


def test_deep_nesting_is_an_error_and_no_crash(memory):
    for text in ("[" * 200_000, "[" * 200_000 + "]" * 200_000):
        with pytest.raises(sqlite3.Error, match="(?i)array|json"):
            scalar(memory, "SELECT faiss_encode(?)", [text])


@pytest.mark.parametrize("function", ["faiss_encode", "faiss_decode", "faiss_normalize", "faiss_dimension"])
@pytest.mark.parametrize("argument", ["1", "1.5"])
def test_a_number_is_no_vector(memory, function, argument):
    with pytest.raises(sqlite3.Error, match="(?i)(vector|float32).*(array|blob)|blob of float32"):
        scalar(memory, f"SELECT {function}({argument})")


@pytest.mark.parametrize("function", ["faiss_decode", "faiss_normalize", "faiss_dimension"])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_a_length_not_divisible_by_4(memory, function, length):
    with pytest.raises(sqlite3.Error, match=rf"{length} bytes"):
        scalar(memory, f"SELECT {function}(?)", [bytes(length)])


def test_wrong_number_of_arguments(memory):
    for call in (
        "faiss_encode()",
        "faiss_decode(X'', X'')",
        "faiss_distance(X'')",
        "faiss_distance(X'', X'', 'l2', 1)",
        "faiss_version(1)",
        "faiss_search('main', 'docs', X'')",
        "faiss_agg(1, X'', X'')",
    ):
        with pytest.raises(sqlite3.OperationalError, match="wrong number of arguments"):
            memory.execute(f"SELECT {call}")


@given(numbers=st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_normalize(shared, numbers):
    normal = numpy.array(values(scalar(shared, "SELECT faiss_normalize(?)", [vector(*numbers)])))
    exact = numpy.array(numbers, "f4").astype("f8")
    scale = numpy.abs(exact).max()
    if scale == 0:
        assert (normal == 0).all()
    else:
        exact /= scale  # so that squares neither overflow nor vanish
        exact /= numpy.sqrt((exact * exact).sum())
        assert normal == pytest.approx(exact, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("size", [1e-45, 1e-40, 1e-30, 1e-20, 1, 1e19, 1e30, 3e38])
def test_normalize_at_both_ends_of_float32(memory, size):
    """The square of these leaves float32's range; the result must not."""
    normal = values(scalar(memory, "SELECT faiss_normalize(?)", [vector(size, -size, size, size)]))
    assert normal == pytest.approx([0.5, -0.5, 0.5, 0.5], rel=1e-6)


def test_normalize_takes_json_and_keeps_zero(memory):
    assert scalar(memory, "SELECT faiss_normalize('[3, 4]')") == vector(0.6, 0.8)
    assert scalar(memory, "SELECT faiss_normalize('[0, 0]')") == vector(0, 0)


def test_dimension(memory):
    assert scalar(memory, "SELECT faiss_dimension(zeroblob(1536))") == 384
    assert scalar(memory, "SELECT faiss_dimension('[1, 2, 3]')") == 3


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("", 5.0),
        (", 'l2'", 5.0),
        (", 'ip'", -10.0),
        (", 'cosine'", 1 - 10 / math.sqrt(5 * 40)),
    ],
)
def test_distance(memory, metric, expected):
    found = scalar(memory, f"SELECT faiss_distance('[1, 2]', X'000000C00000C040'{metric})")
    assert found == pytest.approx(expected, abs=1e-6)
    assert isinstance(found, float)


def test_distance_of_a_zero_vector(memory):
    for pair in ("'[0, 0]', '[1, 2]'", "'[1, 2]', '[0, 0]'", "'[0, 0]', '[0, 0]'"):
        assert scalar(memory, f"SELECT faiss_distance({pair}, 'cosine')") == 1.0


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 31, 33, 64, 100, 384])
def test_distance_equals_that_of_the_search_bit_for_bit(connect, metric, dimension):
    """FAISS has other kernels at some dimensions; one pair must get the numbers of a search."""
    random = numpy.random.default_rng(dimension)
    vectors = random.standard_normal((200, dimension)).astype("f4")
    connection = connect()
    fill(connection, vectors)
    connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric={metric})")
    query = random.standard_normal(dimension).astype("<f4").tobytes()
    pairs = connection.execute(
        "SELECT n.distance, faiss_distance(:v, d.embedding, :m), faiss_distance(d.embedding, :v, :m)"
        " FROM docs_index n JOIN docs d USING (id) WHERE n.embedding MATCH :v",
        {"v": query, "m": metric},
    ).fetchall()
    assert len(pairs) == 200
    assert [pair[1] for pair in pairs] == [pair[0] for pair in pairs]
    assert [pair[2] for pair in pairs] == [pair[0] for pair in pairs]


def test_distance_names_what_is_wrong(memory):
    with pytest.raises(sqlite3.Error, match=r"(?s)(?=.*manhattan)(?=.*l2)(?=.*ip)(?=.*cosine)"):
        scalar(memory, "SELECT faiss_distance('[1]', '[2]', 'manhattan')")
    with pytest.raises(sqlite3.Error, match=r"(?s)(?=.*\b3\b)(?=.*\b2\b)"):
        scalar(memory, "SELECT faiss_distance('[1, 2, 3]', '[1, 2]')")
    for bad in ("X''", "X'00'", "'[]'", "'[1'", "3", "X'0000C07F'", "X'0000807F'"):
        for pair in (f"{bad}, '[1]'", f"'[1]', {bad}"):
            with pytest.raises(sqlite3.Error, match="vector"):
                scalar(memory, f"SELECT faiss_distance({pair})")


def test_version_names_the_extension_faiss_and_the_simd_level(memory):
    version = scalar(memory, "SELECT faiss_version()")
    assert "0.1.0" in version
    assert "1.12.0" in version
    assert sum(level in version for level in ("avx512", "avx2", "generic")) == 1


# --- JSON subtype ----------------------------------------------------------------------------


def test_results_nest_as_json(docs):
    search = "faiss_search('main', 'docs', '[0, 0]', 2)"
    with_scores = "faiss_search_with_scores('main', 'docs', '[0, 0]', 2)"
    assert json.loads(scalar(docs, f"SELECT json_array({search})")) == [[1, 3]]
    assert json.loads(scalar(docs, f"SELECT json_array({with_scores})")) == [[[1, 0.0], [3, 1.0]]]
    assert json.loads(scalar(docs, f"SELECT json_object('near', {search})")) == {"near": [1, 3]}
    assert json.loads(
        scalar(docs, "SELECT json_group_array(faiss_search('main', 'docs', embedding, 1)) FROM docs WHERE id < 3")
    ) == [[1], [2]]
    assert json.loads(scalar(docs, "SELECT json_array(faiss_decode(faiss_encode('[1, 2]')))")) == [
        [1.0, 2.0]
    ]
    for function in ("faiss_agg", "faiss_agg_with_scores"):
        assert isinstance(
            json.loads(
                scalar(docs, f"SELECT json_array({function}(id, embedding, '[0, 0]', 1)) FROM docs")
            )[0],
            list,
        )


def test_results_are_text_to_everything_else(docs):
    assert docs.execute(
        "SELECT typeof(faiss_search('main', 'docs', '[0, 0]', 2)),"
        " faiss_search('main', 'docs', '[0, 0]', 2) || ''"
    ).fetchone() == ("text", "[1, 3]")


def test_json_each_of_the_reference_readme(docs):
    assert docs.execute(
        """with related as (
             select value from json_each(
               faiss_search('main', 'docs', (select embedding from docs limit 1), 3)))
           select id from docs, related where id = value order by id"""
    ).fetchall() == [(1,), (3,), (6,)]


# --- what SQLite may do with the functions ----------------------------------------------------

PURE = {
    "faiss_encode": "faiss_encode(a)",
    "faiss_decode": "faiss_decode(faiss_encode(a))",
    "faiss_normalize": "faiss_normalize(a)",
    "faiss_dimension": "faiss_dimension(a)",
    "faiss_distance": "faiss_distance(a, '[1, 1]', 'cosine')",
}


@pytest.mark.parametrize("call", PURE.values(), ids=PURE.keys())
@pytest.mark.parametrize("trusted", ["ON", "OFF"])
def test_pure_functions_work_in_a_schema(memory, call, trusted):
    """DETERMINISTIC allows indexes and generated columns, INNOCUOUS allows them in untrusted schemas."""
    memory.execute(f"PRAGMA trusted_schema = {trusted}")
    memory.execute(
        f"CREATE TABLE t(a TEXT CHECK ({call} IS NOT NULL), g AS ({call}), s AS ({call}) STORED)"
    )
    memory.execute(f"CREATE INDEX i ON t({call})")
    memory.execute(f"CREATE INDEX p ON t(a) WHERE {call} IS NOT NULL")
    memory.execute(f"CREATE VIEW v AS SELECT {call} AS value FROM t")
    memory.execute("INSERT INTO t(a) VALUES ('[3, 4]')")
    expected = scalar(memory, f"SELECT {call} FROM (SELECT '[3, 4]' AS a)")
    assert expected is not None
    assert memory.execute("SELECT g, s FROM t").fetchone() == (expected, expected)
    assert memory.execute("SELECT value FROM v").fetchone() == (expected,)
    assert column(memory, f"SELECT a FROM t INDEXED BY i WHERE {call} = ?", [expected]) == ["[3, 4]"]


def test_a_check_refuses_another_dimension(memory):
    memory.execute("CREATE TABLE t(embedding BLOB CHECK (faiss_dimension(embedding) = 2))")
    memory.execute("INSERT INTO t VALUES (faiss_encode('[1, 2]'))")
    with pytest.raises(sqlite3.IntegrityError):
        memory.execute("INSERT INTO t VALUES (faiss_encode('[1, 2, 3]'))")


@pytest.mark.parametrize("function", ["faiss_search", "faiss_search_with_scores"])
def test_searches_are_no_part_of_a_schema(docs, function):
    """They read a table: not deterministic, and not for schemas that the user does not trust."""
    call = f"{function}('main', 'docs', embedding, 1)"
    with pytest.raises(sqlite3.OperationalError, match="non-deterministic"):
        docs.execute(f"CREATE INDEX i ON docs({call})")
    docs.execute(f"CREATE VIEW v AS SELECT {call} AS near FROM docs WHERE id = 1")
    assert docs.execute("SELECT near FROM v").fetchone()[0].startswith("[")
    docs.execute("PRAGMA trusted_schema = OFF")
    with pytest.raises(sqlite3.OperationalError, match="unsafe use"):
        docs.execute("SELECT near FROM v").fetchone()
    assert docs.execute(f"SELECT {call} FROM docs WHERE id = 1").fetchone()[0].startswith("[")


def test_tables_are_not_read_through_an_untrusted_view(docs):
    docs.execute("CREATE VIEW over_table AS SELECT id FROM docs_index WHERE embedding MATCH '[0, 0]'")
    docs.execute("CREATE VIEW over_function AS SELECT id FROM faiss_search('main', 'docs', '[0, 0]', 3)")
    for view in ("over_table", "over_function"):
        docs.execute("PRAGMA trusted_schema = ON")
        assert column(docs, f"SELECT id FROM {view} LIMIT 3") == [1, 3, 6]
        docs.execute("PRAGMA trusted_schema = OFF")
        with pytest.raises(sqlite3.OperationalError, match="unsafe use"):
            docs.execute(f"SELECT id FROM {view}").fetchall()
