"""memory=low: sketches in memory, vectors read from the source's rows; the answers are those of a table that keeps its vectors."""

import random
import sqlite3
import time

import numpy
import pytest

import database
import oracle
from database import column, rows, scalar
from steps import Steps, count_steps

ROWS, DIMENSION = 9_000, 96
INDEXES = {
    "full": "",
    "low": ", memory=low",
    "full_cosine": ", metric=cosine",
    "low_cosine": ", memory=low, metric=cosine",
    "full_ip": ", metric=ip",
    "low_ip": ", memory=low, metric=ip",
}
FEW_ROWS = "low: vectors are kept, there are few rows"
FEW_DIMENSIONS = "low: vectors are kept, of few dimensions"
NO_SKETCH = "low: each search reads the source, whose vectors no sketch tells apart"


def like_text(count, dimension=DIMENSION, seed=0):
    """Vectors whose components fall off as those of text embeddings do, in clusters."""
    chance = numpy.random.default_rng(seed)
    spread = 1 / numpy.sqrt(1 + numpy.arange(dimension))
    centres = numpy.random.default_rng(0).normal(size=(40, dimension)) * spread
    chosen = centres[chance.integers(0, len(centres), count)]
    return (chosen + 0.3 * chance.normal(size=(count, dimension)) * spread).astype("<f4")


def without_structure(count, dimension=DIMENSION):
    return numpy.random.default_rng(1).normal(size=(count, dimension)).astype("<f4")


def make(connection, vectors, indexes=("full", "low"), options=""):
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, part INTEGER, place INTEGER, embedding BLOB)")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?, ?, ?)",
        [(2 * n + 1, n % 100, n % 7, x.tobytes()) for n, x in enumerate(vectors)],
    )
    connection.execute("CREATE INDEX docs_part ON docs(part)")
    for index in indexes:
        connection.execute(f"CREATE VIRTUAL TABLE {index} USING faiss(main, docs{INDEXES[index]}{options})")
    connection.execute("COMMIT")
    return connection


def memories(connection):
    return column(connection, "SELECT memory FROM faiss_indexes WHERE memory <> 'full'")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Tables over the same rows, with and without memory=low. Nothing changes them."""
    path = tmp_path_factory.mktemp("low") / "docs.db"
    make(database.connect(path), like_text(ROWS), INDEXES).close()
    return path


@pytest.fixture
def docs(file, connect):
    return connect(file)


@pytest.fixture
def changing(connect, tmp_path):
    """The same in a file that a test may change, opened."""
    return make(connect(tmp_path / "docs.db"), like_text(ROWS))


def both(connection, sql, parameters=(), suffix=""):
    """What the query gives with either table in the place of {t}: the same."""
    low = rows(connection, sql.format(t="low" + suffix), parameters)
    full = rows(connection, sql.format(t="full" + suffix), parameters)
    assert low == full
    return low


QUERIES = [x.tobytes() for x in like_text(4, seed=2)]
# Each with one parameter, the query vector.
SEARCHES = [
    "SELECT id, score, distance FROM {t} WHERE embedding MATCH ? AND k = 10",
    "SELECT id, score FROM {t} WHERE embedding MATCH ? AND k = 1",
    "SELECT id, score FROM {t} WHERE embedding MATCH ? AND k = 500",
    "SELECT id, score FROM {t} WHERE embedding MATCH ? ORDER BY distance LIMIT 20 OFFSET 7",
    "SELECT id, score FROM {t} WHERE embedding MATCH ? AND part = 3 ORDER BY distance LIMIT 20",
    "SELECT id, score FROM {t} WHERE embedding MATCH ? AND place >= 5 ORDER BY distance LIMIT 20",
    "SELECT id, score FROM {t} WHERE embedding MATCH ? AND place <> 5 AND k = 12",
    "SELECT id, score FROM {t} WHERE embedding MATCH ? AND id IN (1, 2, 3, 5, 17, 999) ORDER BY distance",
    "SELECT id, score FROM {t} WHERE embedding MATCH ? AND distance < 1 ORDER BY distance",
    "SELECT id, score FROM {t}(?)",
    "SELECT id, score FROM {t}(?) WHERE id = 777",
    "SELECT id, n.score, d.place FROM {t}(?, 5) AS n JOIN docs AS d USING (id) ORDER BY n.distance",
    "SELECT id, score, embedding FROM {t} WHERE embedding MATCH ? AND k = 3",
    "SELECT id, score FROM faiss_search('main', '{t}', ?, 10)",
    "SELECT faiss_search_with_scores('main', '{t}', ?, 10), faiss_search('main', '{t}', zeroblob(384), 200)",
]


@pytest.mark.parametrize("suffix", ["", "_cosine", "_ip"])
@pytest.mark.parametrize("sql", SEARCHES)
def test_answers_are_those_of_vectors_in_memory(docs, sql, suffix):
    for query in QUERIES:
        assert both(docs, sql, [query], suffix)


@pytest.mark.parametrize("metric", ["l2", "cosine", "ip"])
def test_answers_are_right(docs, metric):
    table = rows(docs, "SELECT id, id, embedding FROM docs")
    for query in QUERIES:
        for k in (1, 10, ROWS):
            found = rows(
                docs,
                f"SELECT id, score FROM low{'' if metric == 'l2' else '_' + metric} WHERE embedding MATCH ? AND k = ?",
                [query, k],
            )
            oracle.check(found, table, query, k, metric)


def test_neighbours_and_laterals(docs):
    both(docs, "SELECT id, neighbor, score FROM faiss_neighbors('main', '{t}', 3) LIMIT 6600")
    both(docs, "SELECT id, neighbor, score FROM faiss_neighbors('main', '{t}', 2) LIMIT 2200", suffix="_cosine")
    both(docs, "SELECT id, neighbor, score FROM faiss_neighbors('main', '{t}', 300) LIMIT 900")
    both(docs, "SELECT d.id, n.id, n.score FROM docs AS d JOIN {t} AS n ON n.embedding MATCH d.embedding "
               "AND n.k = 4 WHERE d.id < 60")
    both(docs, "SELECT d.id, (SELECT group_concat(id) FROM (SELECT id FROM {t} WHERE embedding MATCH d.embedding "
               "AND part = d.part ORDER BY distance LIMIT 3)) FROM docs AS d WHERE d.id < 60")


def test_what_is_kept(docs):
    query = QUERIES[0]
    both(docs, "SELECT id FROM {t}(?, 3)", [query])
    kept = dict(rows(docs, "SELECT memory, bytes FROM faiss_indexes WHERE metric = 'l2'"))
    assert kept["full"] >= ROWS * DIMENSION * 4
    # Codes of 24 and 48 components, a key and a hash for each row.
    assert kept["low"] < ROWS * (24 + 48 + 1 + 16 + 4)


def test_tables_share_an_index_if_they_are_named(docs):
    query = QUERIES[0]
    for sql in SEARCHES[0], SEARCHES[-2], SEARCHES[-1]:
        rows(docs, sql.format(t="low"), [query])
    assert rows(docs, "SELECT memory, searches FROM faiss_indexes") == [("low", 4)]


@pytest.mark.parametrize("made, rows_, dimension, kept", [
    (like_text, 500, 96, FEW_ROWS),
    (like_text, 9_000, 32, FEW_DIMENSIONS),
    (without_structure, 9_000, 96, NO_SKETCH),
], ids=["few rows", "few dimensions", "no structure"])
def test_where_there_is_no_sketch(memory, made, rows_, dimension, kept):
    make(memory, made(rows_, dimension))
    for query in made(3, dimension):
        for sql in SEARCHES[:-1]:
            both(memory, sql, [query.tobytes()])
    assert memories(memory) == [kept]
    both(memory, "SELECT * FROM faiss_neighbors('main', '{t}', 2) LIMIT 2200")
    size = scalar(memory, "SELECT bytes FROM faiss_indexes WHERE memory <> 'full'")
    assert (size < rows_ * 17) == (kept == NO_SKETCH)


@pytest.mark.parametrize("has_one, far, kept", [
    (lambda n: True, 0, "low"),
    (lambda n: n % 3 > 0, 0, "low"),
    (lambda n: n % 8 == 0 and n > 99, 0, FEW_ROWS),
    (lambda n: True, 1 << 60, "low"),
], ids=["all rows", "two of three", "few of them", "a key far away"])
def test_the_source_is_asked_for_a_sample_with_the_first_segment(memory, has_one, far, kept):
    """Of 9,000 rows, more than three segments: some may have no embedding, or lie so that no sample is found."""
    vectors = like_text(9_000, 384)
    make(memory, vectors)
    memory.executemany("UPDATE docs SET embedding = NULL WHERE id = ?",
                       [(2 * n + 1,) for n in range(9_000) if not has_one(n)])
    memory.execute("UPDATE docs SET id = id + ? WHERE id = (SELECT max(id) FROM docs)", [far])
    for query in like_text(3, 384, seed=2):
        for sql in SEARCHES[:4]:
            both(memory, sql, [query.tobytes()])
    assert memories(memory) == [kept]


def test_a_search_without_sketches_reads_the_source_once(memory):
    make(memory, without_structure(9_000), ["low"])
    query = without_structure(1)[0].tobytes()
    sql = "SELECT id FROM low WHERE embedding MATCH ? ORDER BY distance"
    rows(memory, sql + " LIMIT 1", [query])
    reading = count_steps(memory, "SELECT id, embedding FROM docs", each=10)
    for end in (" LIMIT 10", " LIMIT 500", ""):
        assert count_steps(memory, sql + end, [query], each=10) < 3 * reading


def test_rows_with_sketches_are_not_read(docs):
    """Of 9,000 rows, a search of the ten nearest looks up some hundreds."""
    sql = SEARCHES[0].format(t="low")
    rows(docs, sql, [QUERIES[0]])
    reading = count_steps(docs, "SELECT id, embedding FROM docs")
    assert count_steps(docs, sql, [QUERIES[1]]) < reading / 3


def test_it_grows_out_of_keeping_vectors(memory):
    vectors = like_text(9_000)
    make(memory, vectors[:8_100])
    both(memory, SEARCHES[0], [QUERIES[0]])
    assert memories(memory) == [FEW_ROWS]
    memory.executemany(
        "INSERT INTO docs(embedding) VALUES (?)", [(x.tobytes(),) for x in vectors[8_100:8_300]]
    )
    for query in QUERIES:
        both(memory, SEARCHES[0], [query])
    assert memories(memory) == ["low"]
    assert scalar(memory, "SELECT bytes FROM faiss_indexes WHERE memory = 'low'") < 8_300 * 120
    memory.execute("DELETE FROM docs WHERE id > 1000")
    both(memory, SEARCHES[9], [QUERIES[0]])
    memory.execute("DELETE FROM docs")
    assert both(memory, SEARCHES[0], [QUERIES[0]]) == []


# --- changes --------------------------------------------------------------------------------------


def change(connection, chance, vectors):
    """One random write of up to a few hundred rows."""
    count, low = chance.choice([1, 1, 5, 300]), chance.randrange(2 * ROWS)
    fresh = [(vectors[chance.randrange(len(vectors))].tobytes(),) for _ in range(count)]
    kind = chance.randrange(4)
    if kind == 0:
        connection.executemany("INSERT INTO docs(part, place, embedding) VALUES (1, 1, ?)", fresh)
    elif kind == 1:
        connection.executemany(f"UPDATE docs SET embedding = ? WHERE id = {low} + abs(random()) % 400", fresh)
    elif kind == 2:
        connection.execute("DELETE FROM docs WHERE id BETWEEN ? AND ?", [low, low + count])
    else:
        connection.execute("UPDATE docs SET id = -id WHERE id BETWEEN ? AND ?", [low, low + count // 10])


def test_random_transactions(changing, request, connect):
    """The rows as each connection sees them, written, undone and committed, tails and compactions included."""
    chance = random.Random(f"{request.config.getoption('--hypothesis-seed')}/low memory")
    changing.execute("PRAGMA journal_mode = WAL")
    reader = connect(scalar(changing, "SELECT file FROM pragma_database_list"))
    vectors = like_text(2_000, seed=3)
    searches = [SEARCHES[n] for n in (0, 2, 3, 4, 5, 8)]
    for round_ in range(60):
        ends = []
        if chance.random() < 0.6:
            changing.execute("BEGIN")
            ends = [chance.choice(["COMMIT", "ROLLBACK"])]
            if chance.random() < 0.5:
                changing.execute("SAVEPOINT s")
                ends = [chance.choice(["ROLLBACK TO s", "RELEASE s"]), *ends]
        if chance.random() < 0.3 and not reader.in_transaction:
            reader.execute("BEGIN")
            both(reader, searches[0], [QUERIES[0]])
        for step in [None, *ends]:
            if step:
                changing.execute(step)
            else:
                change(changing, chance, vectors)
            query = vectors[chance.randrange(len(vectors))].tobytes()
            both(changing, chance.choice(searches), [query])
            both(reader, searches[0], [query])
        if reader.in_transaction and chance.random() < 0.5:
            reader.execute("COMMIT")
        if round_ % 20 == 19:
            changing.execute(f"INSERT INTO low(low) VALUES ('{chance.choice(['optimize', 'rebuild'])}')")
            changing.execute("INSERT INTO low(low) VALUES ('integrity-check')")
    both(changing, SEARCHES[9], [QUERIES[0]])
    oracle.check(
        rows(changing, "SELECT id, score FROM low WHERE embedding MATCH ? AND k = 50", [QUERIES[0]]),
        rows(changing, "SELECT id, id, embedding FROM docs"), QUERIES[0], 50,
    )
    assert memories(changing) == ["low"]
    assert scalar(changing, "SELECT bytes FROM faiss_indexes WHERE memory = 'low'") < (ROWS + 4_000) * 110


def test_an_old_reader_keeps_its_rows(changing, connect):
    path = scalar(changing, "SELECT file FROM pragma_database_list")
    changing.execute("PRAGMA journal_mode = WAL")
    reader = connect(path)
    before = both(reader, SEARCHES[0], [QUERIES[0]])
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM docs").fetchone()
    changing.execute("DELETE FROM docs WHERE id IN (SELECT id FROM low(?, 200))", [QUERIES[0]])
    after = both(changing, SEARCHES[0], [QUERIES[0]])
    assert not set(before) & set(after)
    assert both(reader, SEARCHES[0], [QUERIES[0]]) == before
    reader.execute("COMMIT")
    assert both(reader, SEARCHES[0], [QUERIES[0]]) == after


def test_dropping_an_insert_of_a_rolled_back_transaction(changing):
    changing.execute("BEGIN")
    changing.execute("INSERT INTO docs(id, embedding) VALUES (-1, ?)", [QUERIES[0]])
    assert both(changing, SEARCHES[1], [QUERIES[0]]) == [(-1, 0.0)]
    changing.execute("SAVEPOINT s")
    changing.execute("UPDATE docs SET embedding = ? WHERE id = -1", [QUERIES[1]])
    assert both(changing, SEARCHES[1], [QUERIES[1]]) == [(-1, 0.0)]
    changing.execute("ROLLBACK TO s")
    assert both(changing, SEARCHES[1], [QUERIES[0]]) == [(-1, 0.0)]
    changing.execute("ROLLBACK")
    assert both(changing, SEARCHES[1], [QUERIES[0]])[0][0] != -1


def write_unseen(connection, key, blob):
    """An incremental write fires no trigger."""
    if not hasattr(connection, "blobopen"):
        pytest.skip("this Python's sqlite3 has no blobopen()")
    with connection.blobopen("docs", "embedding", key) as open_blob:
        open_blob.write(blob)


def test_a_change_that_no_trigger_saw_is_noticed_where_the_row_is_read(changing):
    nearest = both(changing, "SELECT id FROM {t}(?, 2)", [QUERIES[0]])
    write_unseen(changing, nearest[0][0], like_text(1, seed=9)[0].tobytes())
    sql = "SELECT id, score FROM {}(?, 10)"
    found = rows(changing, sql.format("low"), [QUERIES[0]])
    oracle.check(found, rows(changing, "SELECT id, id, embedding FROM docs"), QUERIES[0], 10)
    assert nearest[0] not in [row[:1] for row in found]
    assert nearest[0] in [row[:1] for row in rows(changing, sql.format("full"), [QUERIES[0]])]  # as documented
    changing.execute("INSERT INTO low(low) VALUES ('integrity-check')")


@pytest.mark.parametrize("sql", [SEARCHES[3], SEARCHES[4], SEARCHES[12], SEARCHES[13], SEARCHES[14]])
def test_every_kind_of_search_notices(changing, sql):
    sql = sql.format(t="low")
    rows(changing, sql, [QUERIES[0]])
    fresh = like_text(ROWS, seed=4)
    changing.execute("BEGIN")
    for key in range(1, 2 * ROWS, 2):
        write_unseen(changing, key, fresh[key // 2].tobytes())
    changing.execute("COMMIT")
    found = rows(changing, sql, [QUERIES[0]])
    changing.execute("INSERT INTO full(full) VALUES ('rebuild')")
    assert found == rows(changing, sql.replace("low", "full"), [QUERIES[0]])


def test_neighbours_notice(changing):
    sql = "SELECT id, neighbor, score FROM faiss_neighbors('main', '{}', 1) LIMIT 1100"
    rows(changing, sql.format("low"))
    write_unseen(changing, 2 * ROWS - 1, QUERIES[3])
    found = rows(changing, sql.format("low"))
    changing.execute("INSERT INTO full(full) VALUES ('rebuild')")
    assert found == rows(changing, sql.format("full"))


def test_rows_that_change_while_a_search_is_read(changing):
    """Without k the rows come as they are asked for; beyond those found first, all are read."""
    cursor = changing.execute("SELECT id FROM low(?)", [QUERIES[0]])
    first = cursor.fetchone()
    changing.execute("DELETE FROM docs WHERE id = (SELECT max(id) FROM docs)")
    with pytest.raises(sqlite3.OperationalError, match="rows of main.docs were changed while this search read "
                                                       "them, or unseen by the index: run the statement again"):
        cursor.fetchall()
    found = both(changing, "SELECT id FROM {t}(?)", [QUERIES[0]])
    assert found[0] == first and len(found) == ROWS - 1


def test_a_delete_of_what_it_finds(changing):
    changing.execute("DELETE FROM docs WHERE id IN (SELECT id FROM low(?) LIMIT 500)", [QUERIES[0]])
    assert scalar(changing, "SELECT count(*) FROM docs") == ROWS - 500
    both(changing, SEARCHES[0], [QUERIES[0]])


def test_a_source_that_is_not_live(memory):
    make(memory, like_text(ROWS), options=", live=off")
    for round_ in range(3):
        both(memory, SEARCHES[0], [QUERIES[round_]])
        memory.execute("UPDATE docs SET embedding = ? WHERE id < 100", [QUERIES[round_]])
        both(memory, SEARCHES[0], [QUERIES[round_]])
    assert memories(memory) == ["low"]


def test_an_interrupt_in_the_reading(memory):
    make(memory, without_structure(9_000), ["low"])
    query = without_structure(1)[0].tobytes()
    rows(memory, SEARCHES[0].format(t="low"), [query])
    for sql in (SEARCHES[0], SEARCHES[9], "SELECT id FROM faiss_neighbors('main', '{t}', 3)"):
        stopped = []

        def stop():
            stopped.append(time.process_time())
            return len(stopped) > 5

        memory.set_progress_handler(stop, 1000)
        parameters = [query] if "?" in sql else []
        with pytest.raises(sqlite3.OperationalError, match="^interrupted$"):
            memory.execute(sql.format(t="low"), parameters).fetchall()
        memory.set_progress_handler(None, 0)
        assert time.process_time() - stopped[5] < 5
    assert rows(memory, SEARCHES[0].format(t="low"), [query])


@pytest.mark.parametrize("made", [like_text, without_structure])
def test_a_build_that_is_interrupted_goes_on(tmp_path, connect, made):
    path = tmp_path / "docs.db"
    make(connect(path), made(20_000), ["low"]).close()
    connection = connect(path)
    reading = count_steps(connection, "SELECT id, embedding FROM docs", each=100)
    query, attempts, found = made(1)[0].tobytes(), 0, None
    sql = "SELECT id, score FROM low WHERE embedding MATCH ? AND k = 1"
    while found is None:
        try:
            with Steps(connection, reading // 3, each=100):
                found = rows(connection, sql, [query])
        except sqlite3.OperationalError as error:
            assert str(error) == "interrupted"
            attempts += 1
            assert attempts < 20
            if made == without_structure and attempts > 4:  # a search alone takes that long
                found = rows(connection, sql, [query])
    assert attempts > 1
    oracle.check(found, rows(connection, "SELECT id, id, embedding FROM docs"), query, 1)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("source, why", [
    ("CREATE VIEW v AS SELECT * FROM docs", "it is a view"),
    ("CREATE TABLE v(id INTEGER PRIMARY KEY, embedding BLOB) WITHOUT ROWID", "its rows have no rowid"),
    ("CREATE TABLE v(id, embedding, rowid, _rowid_, oid)", "its rows have no rowid"),
    ("CREATE VIRTUAL TABLE v USING fts5(id, embedding)", "it is a virtual table"),
])
def test_sources_without_rowids(memory, source, why):
    make(memory, like_text(3), [])
    memory.execute(source)
    with pytest.raises(sqlite3.OperationalError) as error:
        memory.execute("CREATE VIRTUAL TABLE low USING faiss(main, v, memory=low)")
    assert str(error.value) == f"memory=low: the vectors of main.v cannot be read again row by row: {why}"
    assert not rows(memory, "SELECT 1 FROM sqlite_schema WHERE name LIKE 'low%'")


def test_values_of_the_option(memory):
    make(memory, like_text(3), [])
    with pytest.raises(sqlite3.OperationalError, match="^memory=none: expected full or low$"):
        memory.execute("CREATE VIRTUAL TABLE low USING faiss(main, docs, memory=none)")
    memory.execute("CREATE VIRTUAL TABLE whole USING faiss(main, docs, memory=full)")
    assert len(rows(memory, "SELECT id FROM whole(zeroblob(384))")) == 3
    assert column(memory, "SELECT memory FROM faiss_indexes") == ["full"]
