"""encode() and decode() of the Python package, against struct and the SQL functions."""

import math
import struct
import sys
from array import array

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from database import ROOT, connect, scalar

sys.path.insert(0, str(ROOT / "src" / "python"))

import datasette_faiss  # noqa: E402
import sqlite_faiss  # noqa: E402

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(float32, max_size=50))
def test_encode_is_struct_and_decode_the_way_back(vector):
    blob = sqlite_faiss.encode(vector)
    assert blob == struct.pack(f"<{len(vector)}f", *vector)
    assert sqlite_faiss.decode(blob) == tuple(vector)


@given(st.lists(st.floats(min_value=-3e38, max_value=3e38), min_size=1, max_size=20))
def test_encode_is_the_sql_function(vector):
    connection = connect()
    shown = "[" + ", ".join(map(repr, vector)) + "]"
    assert sqlite_faiss.encode(vector) == scalar(connection, "SELECT faiss_encode(?)", [shown])
    connection.close()


@pytest.mark.parametrize(
    "vector",
    [
        [1, 2.5, -3],
        (1, 2.5, -3),
        array("f", [1, 2.5, -3]),
        array("d", [1, 2.5, -3]),
        numpy.array([1, 2.5, -3]),
        numpy.array([1, 2.5, -3], "<f4"),
        numpy.array([1, 2.5, -3], ">f4"),
        numpy.array([[1, 2.5, -3], [0, 0, 0]])[0],
        numpy.array([1, 0, 2.5, 0, -3, 0], "f4")[::2],
        [numpy.float32(1), numpy.float64(2.5), numpy.int8(-3)],
        memoryview(array("f", [1, 2.5, -3])),
    ],
    ids=lambda vector: type(vector).__name__,
)
def test_what_is_a_vector(vector):
    assert sqlite_faiss.encode(vector) == struct.pack("<3f", 1, 2.5, -3)


def test_generators_are_vectors():
    assert sqlite_faiss.encode(x / 2 for x in range(3)) == struct.pack("<3f", 0, 0.5, 1)


def test_the_argument_is_left_as_it_was():
    vector = array("f", [1, 2])
    sqlite_faiss.encode(vector)
    assert vector == array("f", [1, 2])


@pytest.mark.parametrize(
    "vector, message",
    [
        ([1, math.nan], "component 1 of the vector is nan: expected a finite number"),
        ([math.inf], "component 0 of the vector is inf: expected a finite number"),
        (iter([1, -math.inf]), "component 1 of the vector is -inf: expected a finite number"),
        ([0, 1e39], r"component 1 of the vector \(1e\+39\) is beyond the range of float32"),
        ([10**39], r"component 0 of the vector \(1e\+39\) is beyond the range of float32"),
        (numpy.array([1, -1e39]), r"component 1 of the vector \(-1e\+39\) is beyond the range"),
        (numpy.array([numpy.nan], "f4"), "component 0 of the vector is nan"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_numbers_that_no_search_could_rank(vector, message):
    with pytest.raises(ValueError, match=message):
        sqlite_faiss.encode(vector)


@pytest.mark.parametrize(
    "vector, message",
    [
        ("[1, 2]", "a vector must be numbers, not str"),
        (b"\x00\x00\x80?", "a vector must be numbers, not bytes"),
        (numpy.zeros((2, 3)), "expected one vector, not an array of 2 dimensions"),
        (numpy.float32(1), "expected one vector, not an array of 0 dimensions"),
        ([[1, 2]], "must be real number"),
        ([None], "must be real number"),
        (5, "not iterable"),
    ],
)
def test_what_is_no_vector(vector, message):
    with pytest.raises(TypeError, match=message):
        sqlite_faiss.encode(vector)


def test_decode_takes_whatever_holds_bytes():
    blob = struct.pack("<2f", 1, 2.5)
    for holder in bytes, bytearray, memoryview:
        assert sqlite_faiss.decode(holder(blob)) == (1.0, 2.5)
    assert sqlite_faiss.decode(b"") == ()
    with pytest.raises(ValueError, match="a BLOB of 5 bytes is not a whole number of float32"):
        sqlite_faiss.decode(b"\x00" * 5)


def test_the_plugin_has_them_too():
    assert datasette_faiss.encode is sqlite_faiss.encode
    assert datasette_faiss.decode is sqlite_faiss.decode
