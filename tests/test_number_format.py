"""Numbers in JSON are written as Python's json.dumps writes them, whatever their bits."""

import json
import struct

import numpy
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import database
from database import scalar, values, vector

BORDERS = [1e16, 1e-5, 1e-4, 1e22, 1e15, 1e17, 1e21, 1e23, 1.0, 10.0, 0.1]


@pytest.fixture(scope="module")
def connection():
    connection = database.connect()
    yield connection
    connection.close()


def float32(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def float64(bits):
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


def around(number, unpack, pack):
    """`number`, positive, its nearest neighbours, and their negatives."""
    bits = int.from_bytes(pack(number), "little")
    near = [unpack(bits + step) for step in (-2, -1, 0, 1, 2) if bits + step >= 0]
    return near + [-each for each in near]


def assert_decoded(connection, array):
    blob = numpy.asarray(array, "<f4").tobytes()
    text = scalar(connection, "SELECT faiss_decode(?)", [blob])
    expected = json.dumps(values(blob))
    if text != expected:  # name the first number, a long text says little
        pairs = zip(text[1:-1].split(", "), expected[1:-1].split(", "))
        assert [pair for pair in pairs if pair[0] != pair[1]] == []
    assert text == expected


@settings(max_examples=300)
@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
@example(bits=[0, 1, 2, 0x007FFFFF, 0x00800000, 0x00800001, 0x80000000, 0x80000001])
@example(bits=[0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x7F800001])
def test_random_float32_bits(connection, bits):
    blob = struct.pack(f"<{len(bits)}I", *bits)
    assert scalar(connection, "SELECT faiss_decode(?)", [blob]) == json.dumps(values(blob))


def test_many_float32_bits(connection):
    random = numpy.random.default_rng()
    for _ in range(20):
        bits = random.integers(0, 2**32, 20000, dtype="u4")
        array = bits.view("<f4")
        assert_decoded(connection, array[numpy.isfinite(array)])


def test_subnormal_float32s(connection):
    random = numpy.random.default_rng()
    bits = numpy.concatenate(
        [numpy.arange(1, 2000), 2**23 - numpy.arange(1, 2000), random.integers(1, 2**23, 20000)]
    )
    assert_decoded(connection, bits.astype("u4").view("<f4"))


def test_powers_of_two_and_their_neighbours(connection):
    """Just below a power of two the gap between float32s halves: where shortest forms go wrong."""
    numbers = []
    for exponent in range(-148, 128):
        numbers += around(2.0**exponent, float32, lambda x: struct.pack("<f", x))
    assert_decoded(connection, numbers)


def test_powers_of_ten_and_their_neighbours(connection):
    numbers = []
    for exponent in range(-44, 39):
        for digit in range(1, 10):
            number = float(f"{digit}e{exponent}")
            if number < 3.4e38:
                numbers += around(number, float32, lambda x: struct.pack("<f", x))
    assert_decoded(connection, numbers)


def test_whole_numbers(connection):
    """`.0` up to 1e16, an exponent from there on."""
    numbers = [float(n) for n in range(-300, 3000)]
    numbers += [float(2**n + d) for n in range(10, 60) for d in (-1, 0, 1)]
    numbers += [float(10**n) for n in range(39)]
    assert_decoded(connection, numbers)


def real_ids(connection, numbers):
    """The JSON of these REAL ids, in order: each row is as far away as its place says."""
    return scalar(
        connection,
        "SELECT faiss_agg(id, faiss_encode('[' || place || ']'), '[0]', 1000000) FROM"
        " (SELECT key AS place, unhex_real(value) AS id FROM json_each(?))",
        [json.dumps([struct.pack("<d", number).hex() for number in numbers])],
    )


@pytest.fixture(scope="module")
def reals(connection):
    """REALs reach SQLite by their bits: json_each would read decimals with its own rounding."""
    connection.create_function(
        "unhex_real", 1, lambda text: struct.unpack("<d", bytes.fromhex(text))[0]
    )
    return connection


@settings(max_examples=300)
@given(bits=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50))
@example(bits=[0, 1, 2, 2**63, 2**63 + 1, 0x000FFFFFFFFFFFFF, 0x0010000000000000])
@example(bits=[0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF, 0x7FF0000000000000, 0xFFF0000000000000])
def test_random_float64_ids(reals, bits):
    numbers = [float64(pattern) for pattern in bits]
    numbers = [number for number in numbers if number == number]  # SQLite turns NaN into NULL
    assert real_ids(reals, numbers) == json.dumps(numbers)


@settings(max_examples=200)
@given(numbers=st.lists(st.floats(allow_nan=False), min_size=1, max_size=50))
def test_float64_ids(reals, numbers):
    assert real_ids(reals, numbers) == json.dumps(numbers)


def test_many_float64_ids(reals):
    random = numpy.random.default_rng()
    for _ in range(10):
        array = random.integers(0, 2**64, 2000, dtype="u8").view("<f8")
        numbers = array[numpy.isfinite(array)].tolist()
        assert real_ids(reals, numbers) == json.dumps(numbers)


def test_float64_ids_around_powers_and_borders(reals):
    numbers = []
    for number in (
        [2.0**exponent for exponent in range(-1073, 1024, 3)]
        + [float(f"1e{exponent}") for exponent in range(-322, 309)]
        + BORDERS
        + [float(2**53), 5e-324, 1.7976931348623155e308, 9007199254740993.0, 0.3, 2 / 3, 123456.789]
    ):
        numbers += around(number, float64, lambda x: struct.pack("<d", x))
    assert real_ids(reals, numbers) == json.dumps(numbers)


def test_score_format(memory):
    """A score is a float32 printed as the double it widens to."""
    database.fill(memory, [(0.1,), (1e-10,), (1e10,), (0,)])
    query = vector(0)
    squares = {1: 0.1, 2: 1e-10, 3: 1e10, 4: 0.0}
    expected = []
    for id in (4, 2, 1, 3):
        coordinate = numpy.float32(squares[id])
        expected.append([id, float(coordinate * coordinate)])
    assert scalar(memory, "SELECT faiss_search_with_scores('main', 'docs', ?, 4)", [query]) == (
        json.dumps(expected)
    )
