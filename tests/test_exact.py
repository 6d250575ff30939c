"""Sketches rule rows out, and answers stay what FAISS's IndexFlat gives: the same ids in the same
order with the same bits of every score, before there are sketches, while searches make them, and
with them; whatever the data, and whatever has changed since.

The oracle is faiss_distance on each row: the same FAISS code on single pairs, with no index.
"""

import json
import random
import sqlite3
import threading

import numpy
import pytest

import database
import oracle
from database import rows, scalar

ROWS = 8200  # an index with fewer than 8,192 rows has no sketches
SEGMENT_BYTES = 4 << 20  # of vectors; one segment's sketch is made in a search
DEPTHS = (1, 10, 100, 128, 129, None)  # None: read on without k
READ_ON = 150  # past the 32 rows that are found first, and the 128 that are kept in order

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


# ---- data ------------------------------------------------------------------------------


def decaying(random_, count, dimension):
    """Gaussian, with a spectrum that decays: what sketches are made for."""
    return random_.standard_normal((count, dimension)) * numpy.arange(1, dimension + 1) ** -0.9


def clusters(random_, count, dimension):
    centres = 5 * decaying(random_, 40, dimension)
    return centres[random_.integers(40, size=count)] + 0.05 * decaying(random_, count, dimension)


def uniform(random_, count, dimension):
    return random_.random((count, dimension))


def offset(random_, count, dimension):
    """Differences of a few units in the last place."""
    return 1e4 + 1e-2 * decaying(random_, count, dimension)


def tiny(random_, count, dimension):
    """Squares that float32 rounds to denormal numbers, or to 0."""
    return 1e-20 * decaying(random_, count, dimension)


def denormal(random_, count, dimension):
    return 1e-38 * decaying(random_, count, dimension)


def huge(random_, count, dimension):
    return 1e15 * decaying(random_, count, dimension)


def huge_component(random_, count, dimension):
    x = decaying(random_, count, dimension)
    x[:, 7] += 1e8
    return x


def wide_component(random_, count, dimension):
    """One component drowns the others."""
    x = decaying(random_, count, dimension)
    x[:, 7] *= 1e6
    return x


def huge_row(random_, count, dimension):
    """Beyond what the codes can hold, among rows that fit."""
    x = decaying(random_, count, dimension)
    x[4321] *= 1e12
    return x


def far_rows(random_, count, dimension):
    """Some rows are far away, and a few so far that the others seem near beside them."""
    x = decaying(random_, count, dimension)
    x[3::150] *= 1e5
    x[7::400] *= 1e12
    return x


def norms_of_all_sizes(random_, count, dimension):
    """For inner products: a few long rows, which are the nearest to nearly every query."""
    sizes = numpy.exp(random_.normal(0, 1.5, (count, 1)))
    return sizes * (decaying(random_, count, dimension) + 0.3)


def rows_of_all_sizes(random_, count, dimension):
    """From far below the step of a code to far above its largest."""
    return decaying(random_, count, dimension) * 10.0 ** random_.uniform(-6, 2, (count, 1))


def twins(random_, count, dimension):
    """Rows that equal others, or are a unit in the last place apart."""
    x = decaying(random_, count, dimension).astype("<f4")
    x[1::4] = x[0::4]
    x[2::4] = numpy.nextafter(x[0::4], numpy.float32(numpy.inf))
    x[3::4] = x[0::4]
    x[3::4, 5] = numpy.nextafter(x[0::4, 5], numpy.float32(-numpy.inf))
    return x


def copies(random_, count, dimension):
    """A few vectors, each of them often."""
    return decaying(random_, 7, dimension)[random_.integers(7, size=count)]


def constant_components(random_, count, dimension):
    x = decaying(random_, count, dimension)
    x[:, dimension // 3 :] = 0.25
    return x


def one_hot(random_, count, dimension):
    x = numpy.zeros((count, dimension))
    x[numpy.arange(count), random_.integers(dimension, size=count)] = 1
    return x


def few_values(random_, count, dimension):
    """Small integers in few components: nearly all distances are shared by many rows."""
    x = numpy.zeros((count, dimension))
    x[:, :5] = random_.integers(-2, 3, size=(count, 5))
    return x


def at_the_mean(random_, count, dimension):
    """Half the rows are the mean, or nearly."""
    x = decaying(random_, count, dimension)
    x[: count // 2] = 0
    x[count // 2 :] -= x[count // 2 :].mean(axis=0)
    return x


def zeros_between(random_, count, dimension):
    """Zero vectors, which have no direction."""
    x = decaying(random_, count, dimension)
    x[::9] = 0
    return x


def all_equal(random_, count, dimension):
    return numpy.tile(decaying(random_, 1, dimension), (count, 1))


def low_rank(random_, count, dimension):
    """Three directions; whatever else a basis has is noise."""
    return random_.standard_normal((count, 3)) @ random_.standard_normal((3, dimension))


def in_order(random_, count, dimension):
    """The rows of each segment have a region of their own."""
    x = decaying(random_, count, dimension)
    return x[numpy.argsort(x[:, 0])]


KINDS = (
    [decaying, clusters, uniform, offset, tiny, denormal, huge, huge_component, wide_component]
    + [huge_row, far_rows, norms_of_all_sizes, rows_of_all_sizes, twins, copies, constant_components, one_hot, few_values]
    + [at_the_mean, zeros_between, all_equal, low_rank, in_order]
)
# Of these, sketches must be made.
STRUCTURED = [decaying, clusters, huge_component, far_rows, twins, constant_components, low_rank, in_order]
OF_SEVERAL_SEGMENTS = (
    [decaying, clusters, offset, wide_component, huge_row, rows_of_all_sizes, twins, copies]
    + [one_hot, few_values, at_the_mean, zeros_between, low_rank, in_order]
)


def queries_for(random_, x):
    """Vectors to search for, by what they are."""
    count = len(x)
    x = x.astype("f8")
    mean, spread = x.mean(axis=0), x.std()
    row, other = x[count // 3], x[2 * count // 3]
    direction = random_.standard_normal(x.shape[1])
    cut = mean.copy()
    cut[:3] += 300 * spread
    found = {
        "a row": row,
        "beside a row": numpy.nextafter(row.astype("f4"), numpy.float32(numpy.inf)),
        "between rows": (row + other) / 2,
        "near a row": row + 0.01 * spread * direction,
        "opposite": -row,
        "the mean": mean,
        "zero": 0 * row,
        "in no row's direction": mean + spread * direction,
        "beyond the codes": cut,
        "far away": mean + 1e4 * spread * direction,
        "farther": 1e18 * direction,
    }
    return {name: numpy.asarray(query, "<f4").tobytes() for name, query in found.items()}


def vectors_of(kind, dimension, count=ROWS):
    random_ = numpy.random.default_rng([dimension, *kind.__name__.encode()])
    return random_, kind(random_, count, dimension).astype("<f4")


# ---- comparing -------------------------------------------------------------------------


def fill(connection, x, first=1):
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, part INT, embedding BLOB)")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ? % 10, ?)",
        ((first + i, i, row.tobytes()) for i, row in enumerate(x)),
    )
    connection.execute("COMMIT")


def index(connection, metric):
    connection.execute(
        f"CREATE VIRTUAL TABLE docs_{metric} USING faiss(main, docs, metric={metric})"
    )


def index_bytes(connection, metric):
    return scalar(connection, "SELECT bytes FROM faiss_indexes WHERE metric = ?", (metric,))


def truth(connection, metric, query, where="1"):
    """(id, distance) of all rows, nearest first; NaN, which SQL calls NULL, comes last."""
    found = rows(
        connection,
        f"SELECT id, faiss_distance(embedding, ?, '{metric}') FROM docs WHERE {where} ORDER BY id",
        (query,),
    )
    return sorted(found, key=lambda row: numpy.inf if row[1] is None else row[1])


def search(connection, metric, query, k, where="1"):
    """The (id, distance) pairs of a search; distances tell the bits of scores."""
    sql = f"SELECT id, distance, score FROM docs_{metric}(?{'' if k is None else f', {int(k)}'})"
    found = connection.execute(f"{sql} WHERE {where}", (query,)).fetchmany(k or READ_ON)
    for _, distance, score in found:
        expected = {"l2": numpy.sqrt, "ip": lambda s: 0 - s, "cosine": lambda s: 1 - s}[metric]
        assert distance == (None if score is None else expected(score))
    return [row[:2] for row in found]


class Searches:
    """Searches in any order, and what each of them should have answered."""

    def __init__(self, connection, metric, queries):
        self.connection, self.metric, self.queries = connection, metric, queries
        self.truths = {
            name: truth(connection, metric, query) for name, query in self.queries.items()
        }

    def check(self, pairs, when):
        for name, k in pairs:
            answer = search(self.connection, self.metric, self.queries[name], k)
            expected = self.truths[name][: k or READ_ON]
            assert answer == expected, f"{self.metric}: {name}, {k}, {when}"

    def check_all(self, when):
        pairs = [(name, k) for name in self.queries for k in DEPTHS]
        random.Random(1).shuffle(pairs)  # each stage meets each kind of search
        self.check(pairs, when)


def check_index(connection, metric, queries, segments=0):
    """From the first search of an index to those with all sketches. True if there are some."""
    searches = Searches(connection, metric, queries)
    searches.check([("near a row", 10)], "before")
    before = index_bytes(connection, metric)
    searches.check_all("during")
    for _ in range(segments):
        search(connection, metric, queries["near a row"], 1)
    made = index_bytes(connection, metric)
    searches.check_all("after")
    assert index_bytes(connection, metric) == made  # all that there are
    return made > before


# ---- kinds of data ---------------------------------------------------------------------


def check_kind(connect, kind, dimension, metrics=("l2", "ip", "cosine"), names=None):
    connection = connect()
    random_, x = vectors_of(kind, dimension)
    fill(connection, x)
    queries = queries_for(random_, x)
    for metric in metrics:
        index(connection, metric)
        chosen = {name: queries[name] for name in names or queries}
        made = check_index(connection, metric, chosen, ROWS * dimension * 4 // SEGMENT_BYTES)
        # Products of numbers that large are all alike in float32.
        some = STRUCTURED if metric != "ip" else [k for k in STRUCTURED if k is not huge_component]
        assert made or kind not in some, f"{metric}: no sketches"


FEW = ("near a row", "between rows", "beyond the codes", "zero")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_data(connect, kind):
    check_kind(connect, kind, 96)


@pytest.mark.parametrize("kind", OF_SEVERAL_SEGMENTS, ids=lambda kind: kind.__name__)
def test_data_of_several_segments(connect, kind):
    """Of as many components as codes may have, too."""
    check_kind(connect, kind, 384, names=[*FEW, "a row", "far away"])


@pytest.mark.parametrize("dimension", [100, 128, 136, 768])
@pytest.mark.parametrize("kind", [decaying, twins, offset], ids=lambda kind: kind.__name__)
def test_dimensions(connect, kind, dimension):
    check_kind(connect, kind, dimension, names=FEW)


# Above 1,000 the basis comes from another kind of matrix.
@pytest.mark.parametrize(
    "kind, dimension, metrics",
    [
        (decaying, 1001, ["l2", "ip", "cosine"]),
        (offset, 1001, ["l2"]),
        (low_rank, 1001, ["l2"]),
        (decaying, 1536, ["cosine"]),
        (decaying, 4096, ["l2"]),  # the largest whose segments have sketches
    ],
    ids=lambda value: value.__name__ if callable(value) else str(value).strip("[]"),
)
def test_large_dimensions(connect, kind, dimension, metrics):
    check_kind(connect, kind, dimension, metrics, FEW)


@pytest.mark.parametrize("dimension", [95, 4097])
def test_dimensions_without_sketches(connect, dimension):
    connection = connect()
    random_, x = vectors_of(decaying, dimension)
    fill(connection, x)
    index(connection, "l2")
    queries = queries_for(random_, x)
    assert not check_index(connection, "l2", {name: queries[name] for name in FEW[:2]})


def test_few_rows_have_no_sketches(connect):
    connection = connect()
    random_, x = vectors_of(decaying, 96, 8191)
    fill(connection, x)
    index(connection, "l2")
    assert not check_index(connection, "l2", queries_for(random_, x))


def beyond_float32(random_, count, dimension):
    """Squares, and sums of squares, of these overflow: most distances are infinite."""
    return 1e20 * decaying(random_, count, dimension)


def some_beyond_float32(random_, count, dimension):
    """Rows that are at an infinite distance of the others, and differ from the mean by more than
    float32 holds."""
    x = decaying(random_, count, dimension)
    x[5::1000, :3] = 3.3e38
    x[6::1000, :3] = -3.3e38
    return x


@pytest.mark.parametrize(
    "kind", [beyond_float32, some_beyond_float32], ids=lambda kind: kind.__name__
)
def test_infinite_distances(connect, kind):
    connection = connect()
    random_, x = vectors_of(kind, 96)
    fill(connection, x)
    ordinary = numpy.zeros(96, "<f4")
    ordinary[3] = 2
    extreme = numpy.zeros(96, "<f4")
    extreme[:3] = 3e38
    queries = {
        "near a row": ordinary.tobytes(),
        "a row": x[7].tobytes(),
        "an extreme row": x[5].tobytes(),
        "extreme": extreme.tobytes(),
    }
    for metric in ("l2", "ip", "cosine"):
        index(connection, metric)
        check_index(connection, metric, queries)


def test_numbers_that_a_basis_cannot_hold_are_no_news(connect, capfd):
    connection = connect()
    _, x = vectors_of(beyond_float32, 96)
    fill(connection, x)
    index(connection, "l2")
    for _ in range(3):
        search(connection, "l2", x[0].tobytes(), 1)
    assert capfd.readouterr().err == ""


def test_rows_closer_than_the_step_of_codes(connect):
    """Few directions, so that codes are as far apart as rows but for their rounding, and most rows
    in few cells of the codes: neighbours lie in cells that are diagonal to each other."""
    connection = connect()
    random_ = numpy.random.default_rng(7)
    x = random_.standard_normal((ROWS, 4)) @ random_.standard_normal((4, 96))
    x[random_.random(ROWS) < 0.95] *= 0.02
    x = x.astype("<f4")
    fill(connection, x)
    index(connection, "l2")
    searches = Searches(connection, "l2", {i: x[i].tobytes() for i in range(100)})
    searches.check([(0, 10)], "before")
    before = index_bytes(connection, "l2")
    for k in (1, 2, 10, 32):
        searches.check([(name, k) for name in searches.queries], "during and after")
    assert index_bytes(connection, "l2") > before


# ---- other oracles ---------------------------------------------------------------------


def test_the_aggregate_and_float64_agree(connect):
    connection = connect()
    random_, x = vectors_of(decaying, 96)
    fill(connection, x)
    named = queries_for(random_, x)
    table = rows(connection, "SELECT id, id, embedding FROM docs")
    for metric in ("l2", "ip", "cosine"):
        index(connection, metric)
        check_index(connection, metric, {name: named[name] for name in FEW})
        for name in ("a row", "near a row", "far away"):
            for k in (10, 128, 1000):
                sql = f"SELECT id, score FROM docs_{metric}(?, ?)"
                answer = rows(connection, sql, (named[name], k))
                oracle.check(answer, table, named[name], k, metric)
                if metric != "l2":
                    continue
                pairs = scalar(
                    connection,
                    "SELECT faiss_agg_with_scores(id, embedding, ?, ?) FROM docs",
                    (named[name], k),
                )
                assert [list(pair) for pair in answer] == json.loads(pairs)
                functions = "SELECT faiss_search_with_scores('main', 'docs_l2', ?, ?)"
                assert scalar(connection, functions, (named[name], k)) == pairs


# ---- other sources, other searches -----------------------------------------------------


@pytest.mark.parametrize("kind", [decaying, twins], ids=lambda kind: kind.__name__)
def test_a_source_without_rowids(connect, kind):
    """Ties come in the order of the primary key."""
    connection = connect()
    random_, x = vectors_of(kind, 96)
    connection.execute("CREATE TABLE docs(id TEXT PRIMARY KEY, embedding BLOB) WITHOUT ROWID")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?)",
        ((f"{i * 7919 % ROWS:05}", row.tobytes()) for i, row in enumerate(x)),
    )
    connection.execute("COMMIT")
    index(connection, "l2")
    assert check_index(connection, "l2", queries_for(random_, x))


@pytest.mark.parametrize("kind", [decaying, twins, few_values], ids=lambda kind: kind.__name__)
def test_streams_that_deepen(connect, kind):
    """Past the first 32 and 1,024 rows, and to the end."""
    connection = connect()
    random_, x = vectors_of(kind, 96, 26000)
    fill(connection, x)
    index(connection, "l2")
    connection.execute("INSERT INTO docs_l2(docs_l2) VALUES ('optimize')")
    queries = queries_for(random_, x)

    def check(name, count, where="1"):
        expected = truth(connection, "l2", queries[name], where)[:count]
        sql = f"SELECT id, distance FROM docs_l2(?) WHERE {where}"
        assert connection.execute(sql, (queries[name],)).fetchmany(count) == expected, (name, where)

    check("a row", 1200)
    check("between rows", len(x))
    check("near a row", 1200, "part < 6")
    check("near a row", 1200, "part = 3")
    connection.execute("BEGIN")
    change(connection, x, random_, 0)
    check("a row", 1200)
    check("near a row", len(x) + 400, "part <> 6")
    connection.execute("ROLLBACK")
    check("a row", 1200)
    sql = """SELECT d.id, n.id, n.distance FROM docs d JOIN docs_l2 n ON n.embedding MATCH d.embedding
        AND n.distance < 1e9 AND n.id <> d.id WHERE d.id = ?"""
    for id in (1, 20000):
        expected = truth(connection, "l2", x[id - 1].tobytes())[:1200]
        found = connection.execute(sql, (id,)).fetchmany(1199)
        assert found == [(id, *row) for row in expected if row[0] != id][:1199]


def test_neighbours(connect):
    """Where so many rows tie that each needs a search of its own."""
    connection = connect()
    _, x = vectors_of(copies, 96)
    fill(connection, x)
    index(connection, "l2")
    sql = "SELECT id, neighbor, distance FROM faiss_neighbors('main', 'docs_l2', 20)"
    found = connection.execute(sql).fetchmany(20 * 40)
    for i in range(40):
        expected = truth(connection, "l2", x[i].tobytes())[:22]
        others = [(i + 1, id, distance) for id, distance in expected if id != i + 1]
        assert found[20 * i : 20 * (i + 1)] == others[:20]


# ---- filters ---------------------------------------------------------------------------


def test_filters(connect):
    connection = connect()
    random_, x = vectors_of(decaying, 96)
    fill(connection, x)
    index(connection, "l2")
    queries = queries_for(random_, x)
    assert check_index(connection, "l2", {name: queries[name] for name in FEW})
    near = ", ".join(str(id) for id, _ in truth(connection, "l2", queries["near a row"])[:40:3])
    for where in ("id % 3 = 0", "id > 4000", f"id IN ({near})", f"id NOT IN ({near})", "id < 0"):
        for name in FEW:
            expected = truth(connection, "l2", queries[name], where)
            answer = search(connection, "l2", queries[name], None, where)
            assert answer == expected[:READ_ON], f"{name}, {where}"


# ---- changes ---------------------------------------------------------------------------


CHANGED = ("a row", "near a row", "between rows", "the mean", "beyond the codes")


def change(connection, x, random_, seed):
    """Update, delete and insert; some of the new rows are near a query, some fit no code."""
    chance = random.Random(seed)
    ids = [id for (id,) in rows(connection, "SELECT id FROM docs")]
    for id in chance.sample(ids, 60):
        new = x[len(x) // 3] + 0.01 * decaying(random_, 1, x.shape[1])[0]
        new = new * chance.choice([1, 1, 1, 1e6])
        connection.execute(
            "UPDATE docs SET embedding = ? WHERE id = ?", (new.astype("<f4").tobytes(), id)
        )
    connection.execute("DELETE FROM docs WHERE id % 41 = ?", (seed,))
    fresh = decaying(random_, 400, x.shape[1]).astype("<f4")
    fresh[:30] = x[len(x) // 3]  # ties with a row that may be gone
    connection.executemany(
        "INSERT INTO docs(part, embedding) VALUES (0, ?)", ((row.tobytes(),) for row in fresh)
    )


@pytest.mark.parametrize("metric, dimension", [("l2", 96), ("ip", 96), ("cosine", 384)])
def test_changes(connect, metric, dimension):
    """Tails, dead slots, and what is not committed."""
    connection = connect()
    random_, x = vectors_of(decaying, dimension, 9000)
    fill(connection, x)
    index(connection, metric)
    queries = queries_for(random_, x)
    queries = {name: queries[name] for name in CHANGED}
    assert check_index(connection, metric, queries)
    for seed in range(3):
        connection.execute("BEGIN")
        change(connection, x, random_, seed)
        Searches(connection, metric, queries).check_all("not committed")
        connection.execute("ROLLBACK" if seed == 1 else "COMMIT")
        Searches(connection, metric, queries).check_all(f"after change {seed}")
    # The nearest rows go, one after another.
    query = queries["a row"]
    for _ in range(5):
        (nearest, _), *_ = search(connection, metric, query, 1)
        connection.execute("DELETE FROM docs WHERE id = ?", (nearest,))
        assert search(connection, metric, query, 100) == truth(connection, metric, query)[:100]
    connection.execute(f"INSERT INTO docs_{metric}(docs_{metric}) VALUES ('optimize')")
    Searches(connection, metric, queries).check_all("optimized")
    connection.execute(f"INSERT INTO docs_{metric}(docs_{metric}) VALUES ('integrity-check')")


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_changes_while_sketches_are_made(connect, when):
    """Each segment has a sketch or not when it loses rows."""
    connection = connect()
    random_, x = vectors_of(decaying, 384)
    fill(connection, x)
    index(connection, "l2")
    queries = queries_for(random_, x)
    queries = {name: queries[name] for name in CHANGED}
    for _ in range({"before": 0, "during": 4, "after": 12}[when]):
        search(connection, "l2", queries["near a row"], 3)
    for seed in range(4):
        change(connection, x, random_, seed)
        searches = Searches(connection, "l2", queries)
        for name in queries:
            searches.check([(name, DEPTHS[(seed + len(name)) % len(DEPTHS)])], f"change {seed}")


def test_other_data_comes(connect):
    """A basis of rows that are all replaced, by others far from them."""
    connection = connect()
    random_, x = vectors_of(decaying, 96)
    fill(connection, x)
    index(connection, "l2")
    assert check_index(connection, "l2", queries_for(random_, x))
    others = (40 + 3 * decaying(random_, ROWS, 96)).astype("<f4")
    for begin in range(0, ROWS, 1025):
        connection.execute("BEGIN")
        connection.executemany(
            "UPDATE docs SET embedding = ? WHERE id = ?",
            ((others[i].tobytes(), i + 1) for i in range(begin, begin + 1025) if i < ROWS),
        )
        connection.execute("COMMIT")
        for queries in (queries_for(random_, x), queries_for(random_, others)):
            chosen = {name: queries[name] for name in FEW}
            Searches(connection, "l2", chosen).check([(name, 10) for name in FEW], begin)
    Searches(connection, "l2", queries_for(random_, others)).check_all("replaced")


@pytest.mark.parametrize("metric", ["l2", "ip", "cosine"])
def test_rows_of_another_kind_come(connect, metric):
    """Behind the others, in other directions, longer, and elsewhere: a basis of their own."""
    connection = connect()
    random_, x = vectors_of(decaying, 384)
    fill(connection, x)
    index(connection, metric)
    search(connection, metric, x[0].tobytes(), 10)
    connection.execute(f"INSERT INTO docs_{metric}(docs_{metric}) VALUES ('optimize')")
    former = index_bytes(connection, metric)
    others = (0.05 + 3 * decaying(random_, 4 * 2730, 384)[:, ::-1]).astype("<f4")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO docs(embedding) VALUES (?)", ((row.tobytes(),) for row in others))
    connection.execute("COMMIT")
    queries = {f"{name}, {i}": query for i, some in enumerate((x, others))
               for name, query in queries_for(random_, some).items() if name in FEW}
    searches = Searches(connection, metric, queries)
    searches.check([(name, 10) for name in queries], "while sketches are made")
    connection.execute(f"INSERT INTO docs_{metric}(docs_{metric}) VALUES ('optimize')")
    made = index_bytes(connection, metric)
    assert made - former > others.nbytes * 1.1  # sketches of them, too
    searches.check_all("by two bases")
    connection.execute("BEGIN")
    change(connection, x, random_, 1)
    Searches(connection, metric, queries).check([(name, 10) for name in queries], "not committed")
    connection.execute("ROLLBACK")
    connection.execute("DELETE FROM docs WHERE id % 3 = 0")
    Searches(connection, metric, queries).check([(name, 100) for name in queries], "fewer")


@pytest.mark.parametrize("changed", ["nothing", "some rows", "the end"])
@pytest.mark.parametrize("command", ["rebuild", "optimize"])
def test_commands_make_all_sketches(connect, command, changed):
    """So that the searches after them find none to make; an interrupt is heeded."""
    connection = connect()
    random_, x = vectors_of(decaying, 384)
    fill(connection, x)
    index(connection, "l2")
    queries = queries_for(random_, x)
    search(connection, "l2", queries["near a row"], 10)
    bare = index_bytes(connection, "l2")
    run = f"INSERT INTO docs_l2(docs_l2) VALUES ('{command}')"
    if changed != "nothing":
        for _ in range(6):
            search(connection, "l2", queries["near a row"], 10)
        if changed == "the end":
            more = decaying(random_, 1500, 384).astype("<f4")
            connection.executemany("INSERT INTO docs(embedding) VALUES (?)", ((row.tobytes(),) for row in more))
        else:
            change(connection, x, random_, 1)
    else:
        connection.set_progress_handler(lambda: 1, 1000)
        try:
            connection.execute(run)
        except sqlite3.OperationalError as error:
            assert str(error) == "interrupted"
        else:  # done before an interrupt was looked for, as it is every 50 ms
            assert command == "optimize"
        connection.set_progress_handler(None, 0)
    connection.execute(run)
    search(connection, "l2", queries["near a row"], 10)
    made = index_bytes(connection, "l2")
    assert made > bare
    Searches(connection, "l2", queries).check_all(command)
    assert index_bytes(connection, "l2") == made


def test_no_row_left(connect):
    connection = connect()
    random_, x = vectors_of(decaying, 96)
    fill(connection, x)
    index(connection, "l2")
    query = queries_for(random_, x)["near a row"]
    for _ in range(4):
        search(connection, "l2", query, 10)
    for left in (500, 129, 128, 40, 33, 32, 31, 3, 1, 0):
        connection.execute("DELETE FROM docs WHERE id > ?", (left,))
        for k in DEPTHS:
            expected = truth(connection, "l2", query)[: k or READ_ON]
            assert search(connection, "l2", query, k) == expected
    connection.execute("INSERT INTO docs VALUES (1, 0, ?)", (x[0].tobytes(),))
    assert search(connection, "l2", query, None) == truth(connection, "l2", query)


# ---- several at a time -----------------------------------------------------------------


def test_threads(tmp_path):
    """Connections of several threads make the sketches of one index together."""
    path = tmp_path / "docs.db"
    connection = database.connect(path)
    random_, x = vectors_of(decaying, 384)
    fill(connection, x)
    index(connection, "l2")
    queries = queries_for(random_, x)
    truths = {name: truth(connection, "l2", query) for name, query in queries.items()}
    wrong = []

    def search_all(seed):
        own = database.connect(path, timeout=300)
        try:
            chance = random.Random(seed)
            for _ in range(40):
                name, k = chance.choice(list(queries)), chance.choice(DEPTHS)
                answer = search(own, "l2", queries[name], k)
                if answer != truths[name][: k or READ_ON]:
                    wrong.append((name, k))
        except (AssertionError, sqlite3.Error) as error:
            wrong.append(error)
        finally:
            own.close()

    threads = [threading.Thread(target=search_all, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection.close()
    assert not wrong
