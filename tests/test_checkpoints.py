"""Stored approximate indexes: whoever opens the file loads what 'optimize' stored instead of building it,
answers as before and as the table is now; and whatever is wrong with what is stored, the index is
built from the table.
"""

import functools
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import numpy
import pytest

import database
from database import column, plain, rows, scalar
from test_errors import FAULTS, run_apart
from test_approximate import (
    DIMENSION, FAMILIES, KNN, SANITIZED, assert_sound, make, table_of, vectors_of,
)

OPTIMIZE = "INSERT INTO docs_ann(docs_ann) VALUES ('optimize')"
ORIGIN = "SELECT substr(origin, 1, 10) FROM faiss_indexes WHERE origin IS NOT NULL"  # whether it was loaded
HOW = "SELECT origin FROM faiss_indexes WHERE origin IS NOT NULL"  # and whether all rows were compared
TRUSTED = "checkpoint and log"
PARTS = "SELECT part, checksum, data FROM docs_ann_checkpoint ORDER BY part"


@pytest.fixture(autouse=True)
def nothing_outlives_its_connections(monkeypatch):
    """So that opening a file again is what another process does."""
    monkeypatch.setenv("SQLITE_FAISS_LINGER", "0")


@functools.cache
def queries():
    return [row.tobytes() for row in vectors_of(numpy.random.default_rng(99), 10, DIMENSION)]


def answers(connection, k=5):
    return [rows(connection, KNN, [query, k]) for query in queries()]


def assert_all_sound(connection, metric="l2"):
    table = table_of(connection)
    for query, answer in zip(queries(), answers(connection)):
        assert_sound(answer, table, query, metric, 5)


def store(path, kind="HNSW4", count=900, metric="l2", options=""):
    """A file with an index that was built by a search and stored; what it answers."""
    connection = database.connect(path)
    make(connection, vectors_of(numpy.random.default_rng(7), count), kind, metric, options)
    before = answers(connection)
    assert column(connection, ORIGIN) == ["built"]
    assert rows(connection, PARTS) == [], "searches store nothing"
    connection.execute(OPTIMIZE)
    assert answers(connection) == before
    connection.close()
    return before


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "docs.db"
    return path, store(path)


# --- round trips ----------------------------------------------------------------------------------

MORE = {
    "HNSW4_PQ4x4": (", ef_search=8", 624),
    "OPQ4,PQ4x4": ("", 624),
    "OPQ4,SQ8": ("", 9984),
    "PCAR4,IVF4,SQ8": (", nprobe=2", 156),
    "SQ6": ("", 100),
    "PQ4x4np": ("", 624),
}


# The metrics differ in how FAISS keeps its flat parts.
CASES = [(kind, "l2") for kind in [*FAMILIES, *MORE]] + [
    (kind, metric) for kind in ("HNSW4", "IVF4,Flat", "IVF8,SQ8", "SQ8", "RaBitQ") for metric in ("ip", "cosine")]


@pytest.mark.parametrize("kind, metric", CASES[::3] if SANITIZED else CASES)
def test_families(tmp_path, connect, kind, metric):
    """Each is loaded as it was built, and grows as if it had been built here."""
    options, least = {**FAMILIES, **MORE}[kind]
    path = tmp_path / "docs.db"
    before = store(path, kind, max(least, 700), metric, options)
    connection = connect(path)
    assert answers(connection) == before
    has_vectors = kind == "HNSW4"
    assert rows(connection, "SELECT kind, origin FROM faiss_indexes") == [(kind, TRUSTED if has_vectors else "checkpoint")]
    added = vectors_of(numpy.random.default_rng(8), 120)
    connection.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row.tobytes(),) for row in added])
    connection.execute(OPTIMIZE)
    assert column(connection, ORIGIN) == ["built"]
    assert_all_sound(connection, metric)
    grown = answers(connection)
    connection.close()
    connection = connect(path)
    assert answers(connection) == grown
    assert column(connection, ORIGIN) == ["checkpoint"]


@pytest.mark.parametrize("kind", ["SQ8", "IVF4,RaBitQ", "HNSW4"])
def test_without_vectors_in_memory(tmp_path, connect, vectors_left_in_small_tables, kind):
    """The same, in as little memory; and what one kind of table stores, the other can load."""
    path, options = tmp_path / "docs.db", FAMILIES[kind][0]
    before = store(path, kind, 900, options=f"{options}, memory=low")
    built = connect(path)
    built.execute("DELETE FROM docs_ann_checkpoint")
    assert answers(built) == before and column(built, ORIGIN) == ["built"]
    size = scalar(built, "SELECT bytes FROM faiss_indexes")
    built.execute(OPTIMIZE)
    built.close()
    loaded = connect(path)
    assert answers(loaded) == before and column(loaded, ORIGIN) == ["checkpoint"]
    assert scalar(loaded, "SELECT bytes FROM faiss_indexes") <= 1.02 * size
    loaded.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 9) WHERE id % 30 = 1")
    assert_all_sound(loaded)
    loaded.execute(f"CREATE VIRTUAL TABLE near USING faiss(main, docs, index='{kind}'{options})")
    loaded.execute("INSERT INTO near_checkpoint SELECT * FROM docs_ann_checkpoint")
    of_near = KNN.replace("docs_ann", "near")
    for query in queries():
        assert_sound(rows(loaded, of_near, [query, 5]), table_of(loaded), query, "l2", 5)
    assert column(loaded, ORIGIN) == ["checkpoint"] * 2


def test_nothing_is_written_twice_and_damage_is_mended(stored, connect):
    path, before = stored
    connection = connect(path)
    parts = rows(connection, PARTS)
    assert len(parts) > 3 and {len(data) for _, _, data in parts[1:-2]} == {65536}  # the rows have one of their own
    connection.execute(OPTIMIZE)
    assert rows(connection, PARTS) == parts
    assert answers(connection) == before
    assert column(connection, ORIGIN) == ["checkpoint"], "it was loaded, not built, to be optimized"
    connection.execute("UPDATE docs_ann_checkpoint SET data = zeroblob(9) WHERE part = 1")
    connection.execute(OPTIMIZE)
    mended = rows(connection, PARTS)
    assert [len(data) for _, _, data in mended] == [len(data) for _, _, data in parts]
    assert answers(connect(path)) == before
    connection.execute("DELETE FROM docs WHERE id = 3")
    connection.execute(OPTIMIZE)
    assert rows(connection, PARTS)[1:-1] == mended[1:-1], "a row that is gone is not worth a build"


def test_rebuild_stores_again_what_was_stored(stored, connect):
    path, _ = stored
    connection = connect(path)
    parts = rows(connection, PARTS)
    connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('rebuild')")
    assert rows(connection, PARTS) != parts
    connection.execute("DELETE FROM docs_ann_checkpoint")
    connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('rebuild')")
    assert rows(connection, PARTS) == []
    assert_all_sound(connection)


# --- what became of the table ---------------------------------------------------------------------


def test_changes_by_a_program_without_the_extension(stored, connect):
    """They are in what the next one answers, which loads all the same."""
    path, _ = stored
    new = vectors_of(numpy.random.default_rng(5), 20)
    script = "DELETE FROM docs WHERE id % 50 = 0; UPDATE docs SET id = id + 100000 WHERE id % 50 = 1;\n" + "".join(
        f"INSERT INTO docs VALUES (NULL, x'{row.tobytes().hex()}', 1);\n" if number % 2 else
        f"UPDATE docs SET embedding = x'{row.tobytes().hex()}' WHERE id = {number * 10 + 3};\n"
        for number, row in enumerate(new))
    subprocess.run([database.SHELL, str(path)], input=script, text=True, check=True)
    connection = connect(path)
    assert_all_sound(connection)
    assert column(connection, ORIGIN) == ["checkpoint"]
    table = table_of(connection)
    for row in new:
        (nearest,) = rows(connection, KNN, [row.tobytes(), 1])
        assert nearest[1] == 0 and table[nearest[0]] == row.tobytes()
    streamed = column(connection, "SELECT id FROM docs_ann WHERE embedding MATCH ?", [queries()[0]])
    assert sorted(streamed) == sorted(table)


def test_a_table_that_is_another_one(stored, connect):
    """With few of its rows in it, what is stored is of no use."""
    path, _ = stored
    connection = connect(path)
    new = vectors_of(numpy.random.default_rng(6), 900)
    connection.execute("BEGIN")
    connection.executemany("UPDATE docs SET embedding = ? WHERE id = ?",
                           [(row.tobytes(), number + 1) for number, row in enumerate(new)])
    connection.execute("COMMIT")
    assert_all_sound(connection)
    assert column(connection, ORIGIN) == ["built"]


def vacuum(path, _):
    plain(path).execute("VACUUM")
    return path


def vacuum_into(path, to):
    plain(path).execute("VACUUM INTO ?", [str(to)])
    return to


def back_up(path, to):
    plain(path).backup(plain(to))
    return to


def dump(path, to):
    text = subprocess.run([database.SHELL, str(path), ".dump"], capture_output=True, text=True, check=True).stdout
    subprocess.run([database.SHELL, str(to)], input=text, text=True, check=True)
    return to


def statement(sql):
    def run(path, _):
        plain(path).executescript(sql)
        return path
    return run


def older_copy(path, to):
    shutil.copy(path, to)
    connection = database.connect(path)
    connection.execute("DELETE FROM docs WHERE id > 200")
    connection.execute(OPTIMIZE)
    connection.close()
    os.replace(to, path)
    return path


FATES = {
    "VACUUM": vacuum,
    "VACUUM INTO": vacuum_into,
    "backup": back_up,
    "dump": dump,
    "an older copy": older_copy,
    "new column": statement("ALTER TABLE docs ADD COLUMN more TEXT"),
    "new unique index": statement("CREATE UNIQUE INDEX pairs ON docs(id, n)"),
    "triggers dropped, rows changed": statement(
        "DROP TRIGGER docs_faiss_insert; DROP TRIGGER docs_faiss_update; DROP TRIGGER docs_faiss_delete;"
        "UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 7) WHERE id BETWEEN 30 AND 60;"
        "DELETE FROM docs WHERE id BETWEEN 100 AND 130"),
    "log emptied, rows changed": statement(
        "UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 7) WHERE id = 30;"
        "DELETE FROM docs_faiss_log"),
    "table made anew": statement(
        "PRAGMA legacy_alter_table = ON; ALTER TABLE docs RENAME TO old;"
        "CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, n INTEGER);"
        "INSERT INTO docs SELECT * FROM old WHERE id % 10; DROP TABLE old"),
}


@pytest.mark.parametrize("fate", FATES)
def test_fates_of_a_file(tmp_path, stored, connect, fate):
    path, before = stored
    path = FATES[fate](path, tmp_path / "other.db")
    connection = connect(path)
    assert_all_sound(connection)
    assert column(connection, ORIGIN) == ["checkpoint"]
    if "changed" not in fate and "anew" not in fate:
        assert answers(connection) == before


@pytest.mark.parametrize("options", ["mode=ro", "immutable=1"])
def test_files_that_are_only_read(stored, connect, options):
    path, before = stored
    connection = connect(f"file:{path}?{options}", uri=True)
    assert answers(connection) == before
    assert column(connection, ORIGIN) == ["checkpoint"]


def test_attached_under_another_name(stored, connect):
    path, before = stored
    connection = connect()
    connection.execute("ATTACH ? AS other", [str(path)])
    assert [rows(connection, "SELECT id, score FROM other.docs_ann WHERE embedding MATCH ? AND k = 5", [query])
            for query in queries()] == before
    assert column(connection, ORIGIN) == ["checkpoint"]
    connection.execute("INSERT INTO docs VALUES (NULL, ?, 1)".replace("docs", "other.docs"), [queries()[0]])
    connection.execute("INSERT INTO other.docs_ann(docs_ann) VALUES ('optimize')")
    assert column(connection, ORIGIN) == ["built"]
    connection.close()
    connection = connect(path)
    assert rows(connection, KNN, [queries()[0], 1])[0][1] == 0
    assert column(connection, ORIGIN) == ["checkpoint"]


def test_a_database_in_memory(tmp_path, connect):
    """Nothing is reopened there, but its copy in a file is opened."""
    connection = connect()
    make(connection, vectors_of(numpy.random.default_rng(7), 900), "HNSW4")
    connection.execute(OPTIMIZE)
    before = answers(connection)
    connection.execute("VACUUM INTO ?", [str(tmp_path / "copy.db")])
    copy = connect(tmp_path / "copy.db")
    assert answers(copy) == before and column(copy, ORIGIN) == ["checkpoint"]


def test_published(stored, connect):
    """It is loaded for visitors, who could not read the file."""
    path, before = stored
    with closing(database.host(path)) as host:
        host.execute("SELECT faiss_publish('shop', 'docs_ann')")
        visitor = connect()
        search = "SELECT id, score FROM faiss_search('shop', 'docs_ann', ?, 5)"
        assert [rows(visitor, search, [query]) for query in queries()] == before
        assert column(visitor, ORIGIN) == ["checkpoint"]


SOURCES = {
    "live=off": ("docs", ", live=off", "id INTEGER PRIMARY KEY"),
    "view": ("seen", "", "id INTEGER PRIMARY KEY"),
    "without rowid": ("docs", "", "id TEXT PRIMARY KEY"),
    "text key": ("docs", "", "id TEXT PRIMARY KEY"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_other_sources(tmp_path, connect, kind):
    """Without a log, and without keys: rows are told by their hashes, equal ones one after the other."""
    source, options, key = SOURCES[kind]
    path = tmp_path / "docs.db"
    connection = connect(path)
    connection.execute("BEGIN")
    connection.execute(f"CREATE TABLE docs({key}, embedding BLOB){' WITHOUT ROWID' if kind == 'without rowid' else ''}")
    vectors = vectors_of(numpy.random.default_rng(7), 800)
    vectors[300:310] = vectors[299]
    connection.executemany("INSERT INTO docs VALUES (?, ?)", [(number + 1, row.tobytes()) for number, row in enumerate(vectors)])
    connection.execute("CREATE VIEW seen AS SELECT * FROM docs WHERE id % 2 = 0")
    connection.execute("COMMIT")
    connection.execute(f"CREATE VIRTUAL TABLE docs_ann USING faiss(main, {source}, index=HNSW4{options})")
    connection.execute(OPTIMIZE)
    before = answers(connection)
    connection.close()
    connection = connect(path)
    assert answers(connection) == before
    assert column(connection, ORIGIN) == ["checkpoint"]
    connection.close()
    database.plain(path).execute("DELETE FROM docs WHERE id % 40 = 4")
    connection = connect(path)
    table = dict(rows(connection, f"SELECT id, embedding FROM {source}"))
    for query in queries() if "INTEGER" in key else []:  # ties come in the order of the source
        assert_sound(rows(connection, KNN, [query, 5]), table, query, "l2", 5)
    found = column(connection, "SELECT id FROM docs_ann WHERE embedding MATCH ?", [queries()[0]])
    assert sorted(found) == sorted(table)
    assert column(connection, ORIGIN) == ["checkpoint"]


def test_stored_while_others_open_and_search(stored):
    """Each answers from its own snapshot, whichever index it has loaded, found or built."""
    path, _ = stored
    plain(path).execute("PRAGMA journal_mode = WAL")
    wrong, origins = [], set()

    def read(number):
        try:
            for round in range(40):
                with closing(database.connect(path, timeout=300)) as connection:
                    connection.execute("BEGIN")
                    table, query = table_of(connection), queries()[(number + round) % 10]
                    assert_sound(rows(connection, KNN, [query, 5]), table, query, "l2", 5)
                    origins.update(column(connection, ORIGIN))
        except Exception as error:
            wrong.append(error)

    readers = [threading.Thread(target=read, args=[number]) for number in range(3)]
    for reader in readers:
        reader.start()
    chance = random.Random(2)
    while any(reader.is_alive() for reader in readers):
        with closing(database.connect(path, timeout=300)) as writer:  # what it has in memory may go with it
            writer.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = ?) WHERE id = ?",
                           [chance.randrange(1, 900), chance.randrange(1, 900)])
            writer.execute(OPTIMIZE)
    for reader in readers:
        reader.join()
    assert wrong == []
    assert "checkpoint" in origins


# --- the shadow table -----------------------------------------------------------------------------


def names(connection):
    return column(connection, "SELECT name FROM sqlite_schema WHERE name LIKE 'docs_ann%' OR name LIKE 'near%' ORDER BY name")


def test_it_goes_where_its_table_goes(stored, connect):
    path, before = stored
    connection = connect(path)
    assert names(connection) == ["docs_ann", "docs_ann_checkpoint", "docs_ann_config"]
    assert scalar(connection, "SELECT type FROM pragma_table_list('docs_ann_checkpoint')") == "shadow"
    connection.execute("ALTER TABLE docs_ann RENAME TO near")
    assert names(connection) == ["near", "near_checkpoint", "near_config"]
    again = connect(path)
    assert rows(again, "SELECT id, score FROM near WHERE embedding MATCH ? AND k = 5", [queries()[0]]) == before[0]
    assert column(again, ORIGIN) == ["checkpoint"]
    again.close()
    connection.execute("DROP TABLE near")
    assert names(connection) == []


def test_without_the_shadow_table(stored, connect):
    """A user's hand: the table works, is renamed, and the shadow table made again when it is needed."""
    path, before = stored
    plain(path).execute("DROP TABLE docs_ann_checkpoint")
    connection = connect(path)
    assert answers(connection) == before and column(connection, ORIGIN) == ["built"]
    connection.execute("ALTER TABLE docs_ann RENAME TO near")
    connection.execute("INSERT INTO near(near) VALUES ('optimize')")
    assert names(connection) == ["near", "near_checkpoint", "near_config"]
    plain(path).execute("DROP TABLE near_checkpoint")
    connection.execute("DROP TABLE near")
    assert names(connection) == []


def test_exact_tables_have_none(docs):
    docs.execute("CREATE TABLE docs_index_checkpoint(mine)")
    docs.execute("INSERT INTO docs_index(docs_index) VALUES ('optimize')")
    docs.execute("ALTER TABLE docs_index RENAME TO other")
    docs.execute("DROP TABLE other")
    assert column(docs, "SELECT name FROM sqlite_schema") == ["docs", "docs_index_checkpoint"]


def test_a_name_that_is_taken(memory):
    database.fill(memory, [(0, 0)])
    memory.execute("CREATE TABLE docs_ann_checkpoint(mine)")
    with pytest.raises(sqlite3.OperationalError, match="cannot make the shadow table main.docs_ann_checkpoint"):
        memory.execute("CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index=HNSW4)")
    assert column(memory, "SELECT name FROM sqlite_schema") == ["docs", "docs_ann_checkpoint"]


def test_a_temporary_table_stores_nothing(memory):
    make(memory, vectors_of(numpy.random.default_rng(7), 300), "HNSW4")
    memory.execute("CREATE VIRTUAL TABLE temp.near USING faiss(main, docs, index=HNSW4, metric=cosine)")
    memory.execute("INSERT INTO near(near) VALUES ('optimize')")
    assert rows(memory, "SELECT * FROM near_checkpoint") == []


def test_rolled_back(stored, connect):
    """What was stored in a transaction that was undone is not taken for stored."""
    path, _ = stored
    connection = connect(path)
    parts = rows(connection, PARTS)
    new = vectors_of(numpy.random.default_rng(5), 100)
    for end in ("ROLLBACK", "ROLLBACK TO s"):
        connection.execute("BEGIN" if end == "ROLLBACK" else "SAVEPOINT s")
        connection.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row.tobytes(),) for row in new])
        connection.execute(OPTIMIZE)
        assert rows(connection, PARTS) != parts
        assert_all_sound(connection)
        connection.execute(end)
        assert rows(connection, PARTS) == parts
        assert_all_sound(connection)
    connection.execute("RELEASE s")
    connection.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row.tobytes(),) for row in new])
    connection.execute(OPTIMIZE)
    assert rows(connection, PARTS) != parts
    answered = answers(connection)
    connection.close()
    connection = connect(path)
    assert answers(connection) == answered and column(connection, ORIGIN) == ["checkpoint"]


def test_the_last_rowid_is_the_users(memory):
    make(memory, vectors_of(numpy.random.default_rng(7), 300), "HNSW4")
    memory.execute("CREATE TABLE jobs(id INTEGER PRIMARY KEY)")
    memory.execute("CREATE TEMP TRIGGER each AFTER INSERT ON jobs BEGIN INSERT INTO docs_ann(docs_ann) VALUES ('optimize'); END")
    memory.execute("INSERT INTO jobs VALUES (4711)")
    assert scalar(memory, "SELECT last_insert_rowid()") == 4711
    assert scalar(memory, "SELECT count(*) FROM docs_ann_checkpoint") > 1


def test_a_defensive_connection(stored):
    """It stores, although nobody else may write to the shadow table there."""
    path, _ = stored
    told = subprocess.run([database.SHELL, "-bail", str(path)], capture_output=True, text=True, input=f""".load {database.EXTENSION}
.dbconfig defensive on
UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 1) WHERE id = 2;
{OPTIMIZE};
SELECT count(*) > 2 FROM docs_ann_checkpoint;
DELETE FROM docs_ann_checkpoint;
""")
    assert told.stdout.splitlines()[1:] == ["1"]
    assert "may not be modified" in told.stderr


def test_a_reader_may_be_refused_it(stored, connect):
    """An authorizer that hides what is stored: the index is built."""
    path, before = stored
    connection = connect(path)
    connection.set_authorizer(lambda action, first, *_: sqlite3.SQLITE_DENY if first == "docs_ann_checkpoint" else sqlite3.SQLITE_OK)
    assert answers(connection) == before
    assert column(connection, ORIGIN) == ["built"]


def test_interrupted(stored, connect):
    """While it is stored and while it is loaded: an interrupt, and the former state."""
    path, before = stored
    for sql, parameters in ((KNN, [queries()[0], 5]), (OPTIMIZE, [])):
        interrupted = 0
        for after in [*range(1, 160, 8), *range(160, 6000, 600)]:
            connection = connect(path)
            if sql == OPTIMIZE:
                connection.execute("DELETE FROM docs_ann_checkpoint")
                rows(connection, KNN, [queries()[0], 5])
            left = iter(range(after))
            connection.set_progress_handler(lambda: next(left, None) is None, 5)
            try:
                connection.execute(sql, parameters).fetchall()
            except sqlite3.OperationalError as error:
                assert str(error) == "interrupted"
                interrupted += 1
            connection.set_progress_handler(None, 0)
            if sql == OPTIMIZE:
                connection.execute(OPTIMIZE)
            assert answers(connection) == before
            assert column(connection, ORIGIN) == ["built" if sql == OPTIMIZE else "checkpoint"]
            connection.close()
        assert interrupted > 3


SEARCH = "SELECT id FROM docs_ann WHERE embedding MATCH zeroblob(32) AND k = 3"


@pytest.mark.parametrize("kind, sql, change", [
    ("SQ8", OPTIMIZE, "UPDATE docs SET embedding = zeroblob(32) WHERE id < 20"), ("SQ8", SEARCH, "SELECT 1"),
    ("HNSW4", SEARCH, "DELETE FROM docs WHERE id < 5")], ids=["storing", "loading", "trusting"])
def test_memory_runs_out(tmp_path, kind, sql, change):
    """While it is stored, or loaded: an error, and all goes on afterwards."""
    store(tmp_path / "docs.db", kind, 110)
    told = run_apart(FAULTS, tmp_path / "docs.db", sql, 2000 if SANITIZED else 700, change)
    assert int(told.split()[1]) > 100


# --- damage ---------------------------------------------------------------------------------------


def flip(chance, data):
    """A few bits, bytes or a run of them, anywhere."""
    data = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 4])):
        at, kind = chance.randrange(len(data)), chance.random()
        if kind < 0.5:
            data[at] ^= 1 << chance.randrange(8)
        elif kind < 0.8:
            data[at] = (data[at] + chance.randrange(1, 256)) % 256
        else:
            for place in range(at, min(at + chance.randrange(1, 64), len(data))):
                data[place] ^= chance.randrange(256)
    return bytes(data)


def damage(chance, parts):
    """Another list of parts, (part, checksum, data) each, than this one."""
    parts = [list(part) for part in parts]
    number = chance.choice([0, *range(len(parts))])
    some, kind = parts[number], chance.randrange(14)
    if kind < 5:
        some[2] = flip(chance, some[2])
    elif kind == 5:  # the tables of keys and hashes, and FAISS's own header behind them
        whole = b"".join(data for _, _, data in parts[1:])
        at = chance.choice([chance.randrange(400), chance.randrange(len(whole)), 16 * ROWS + chance.randrange(200)])
        whole = whole[:at] + flip(chance, whole[at:at + 8]) + whole[at + 8:]
        for place in range(1, len(parts)):
            parts[place][2] = whole[(place - 1) * 65536:place * 65536]
    elif kind == 6:
        some[2] = some[2][:chance.randrange(len(some[2]))]
    elif kind == 7:
        some[2] = some[2] + bytes(chance.choice([1, 8, 4096, 65536]))
    elif kind == 8:
        some[1] = chance.choice([0, -1, None, "x", 1.5, some[1] ^ 1 << chance.randrange(63)])
    elif kind == 9:
        some[2] = chance.choice([None, "", b"", 5, 0.5, some[2].hex()])
    elif kind == 10:
        del parts[number]
    elif kind == 11:
        parts.append([chance.choice([-1, len(parts), 2**62, -2**63]), some[1], some[2]])
    elif kind == 12:
        other = chance.choice([part for part in parts if part is not some])
        places = chance.choice([slice(1, 3), slice(2, 3), slice(1, 2)])
        some[places], other[places] = other[places], some[places]
    else:
        other = chance.choice([part for part in parts if part is not some])
        other[1:] = some[1:]
    return [tuple(part) for part in parts]


ROWS = 240


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """What two files with different rows store, a directory, and the answers of the first."""
    directory = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SQLITE_FAISS_LINGER", "0")
        before = store(directory / "docs.db", "HNSW64", ROWS, options=", ef_construction=8")
    return directory, before


@pytest.mark.parametrize("seed", range(4))
def test_damaged_parts(tmp_path, small, seed):
    """Any damage is noticed before FAISS reads it: the index is built from the table, the answers are the same."""
    directory, before = small
    path, chance = tmp_path / "docs.db", random.Random(seed)
    shutil.copy(directory / "docs.db", path)
    writer = plain(path)
    writer.execute("PRAGMA journal_mode = OFF")
    writer.execute("PRAGMA synchronous = OFF")
    parts = rows(writer, PARTS)
    assert len(parts) > 3
    asked = chance.sample(range(10), 2)
    for number in range(500):
        changed = damage(chance, parts)
        if changed == parts:
            continue
        writer.execute("BEGIN")
        writer.execute("DELETE FROM docs_ann_checkpoint")
        writer.executemany("INSERT INTO docs_ann_checkpoint VALUES (?, ?, ?)", changed)
        writer.execute("COMMIT")
        connection = database.connect(path)
        for query in asked:
            assert rows(connection, KNN, [queries()[query], 5]) == before[query], number
        assert column(connection, ORIGIN) == ["built"], (seed, number)
        connection.close()


def test_damaged_pages(tmp_path, small):
    """Of the file: what SQLite reads of them is verified as well. It may find the file malformed itself."""
    directory, before = small
    chance, image = random.Random(1), (directory / "docs.db").read_bytes()
    places = [image.index(data[offset:offset + 100]) for _, _, data in rows(plain(directory / "docs.db"), PARTS)
              for offset in range(0, max(len(data) - 100, 1), 4096)]
    pages = sorted({place // 4096 for place in places})
    path, origins = tmp_path / "docs.db", []
    for number in range(200):
        page = chance.choice(pages)
        at = page * 4096 + chance.choice([0, chance.randrange(4), chance.randrange(4096)])
        path.write_bytes(image[:at] + flip(chance, image[at:at + 16]) + image[at + 16:])
        connection = database.connect(path)
        query = chance.randrange(10)
        assert rows(connection, KNN, [queries()[query], 5]) == before[query], number
        origins += column(connection, ORIGIN)
        connection.close()
    assert origins.count("built") > 180  # a page may have a place that nothing uses


def test_the_integrity_check_looks_at_it(stored, connect):
    path, _ = stored
    connection = connect(path)
    check = "INSERT INTO docs_ann(docs_ann) VALUES ('integrity-check')"
    connection.execute(check)
    connection.execute("UPDATE docs_ann_checkpoint SET checksum = checksum + 1 WHERE part = 2")
    with pytest.raises(sqlite3.DatabaseError, match="main.docs_ann_checkpoint holds is damaged .*part 2 does not fit"):
        connection.execute(check)
    connection.execute(OPTIMIZE)
    connection.execute(check)
    connection.execute("DELETE FROM docs_ann_checkpoint")
    connection.execute(check)


def test_of_another_table(tmp_path, connect):
    """Whole and undamaged, but of another definition: not loaded."""
    one, other = tmp_path / "one.db", tmp_path / "docs.db"
    store(one)
    for kind, metric, options in [("HNSW8", "l2", ""), ("HNSW4", "ip", ""), ("HNSW4", "l2", ", ef_construction=50"),
                                  ("SQ8", "l2", "")]:
        before = store(other, kind, 900, metric, options)
        writer = plain(other)
        writer.execute("ATTACH ? AS one", [str(one)])
        writer.executescript("DELETE FROM docs_ann_checkpoint; INSERT INTO docs_ann_checkpoint SELECT * FROM one.docs_ann_checkpoint")
        connection = connect(other)
        assert answers(connection) == before and column(connection, ORIGIN) == ["built"]
        connection.close()
        writer.close()
        other.unlink()


LOGGED = f"""
import ctypes, os, sys
sys.path.insert(0, {str(database.ROOT / "tests")!r})
library, lines = ctypes.CDLL("libsqlite3.so.0"), []
log = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)(lambda _, code, text: lines.append((code, text.decode())))
assert library.sqlite3_config(16, log, None) == 0  # SQLITE_CONFIG_LOG
import database
for sql in sys.argv[2:]:
    lines.clear()
    database.plain(sys.argv[1]).execute(sql)
    connection = database.connect(sys.argv[1])
    for _ in range(3):
        connection.execute("SELECT id FROM docs_ann(zeroblob(32), 3)").fetchall()
    print([line for line in lines if line[1].startswith("faiss")])
    connection.close()
"""


def test_what_the_log_says(stored):
    """One line, for what is damaged; none where nothing is stored."""
    path, _ = stored
    told = subprocess.run([sys.executable, "-c", LOGGED, str(path), "SELECT 1",
                           "UPDATE docs_ann_checkpoint SET data = zeroblob(65536) WHERE part = 1",
                           "DELETE FROM docs_ann_checkpoint WHERE part = 1",
                           "DELETE FROM docs_ann_checkpoint WHERE part = 0",
                           "DELETE FROM docs_ann_checkpoint"],
                          env={**os.environ, "SQLITE_FAISS_LINGER": "0"}, capture_output=True, text=True, check=True).stdout
    line = "[(267, 'faiss: the index that main.docs_ann_checkpoint holds is built anew: part {} {}')]"
    assert told.splitlines() == ["[]", line.format(1, "does not fit its checksum"), line.format(1, "is missing"),
                                 line.format(0, "is missing"), "[]"]


KILLED = f"""
import os, random, signal, sys, time
sys.path.insert(0, {str(database.ROOT / "tests")!r})
import database
chance = random.Random(1)
for number in range(int(sys.argv[2])):
    told, tells = os.pipe()
    child = os.fork()
    if child == 0:
        connection = database.connect(sys.argv[1], timeout=300)
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = 10")
        while True:
            connection.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 700 + ?) WHERE id = ?",
                               [chance.randrange(100), chance.randrange(1, 600)])
            connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('optimize')")
            os.write(tells, b".")
    os.close(tells)
    for _ in range(number % 3):
        assert os.read(told, 1), "it ended by itself"
    os.close(told)
    time.sleep(0.1 * chance.random())
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, "it ended by itself"
    connection = database.connect(sys.argv[1], timeout=300)
    assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    connection.execute("SELECT id FROM docs_ann(zeroblob(32), 3)").fetchall()
    (kind, origin), = connection.execute("SELECT kind, origin FROM faiss_indexes")
    assert (kind, origin) == ("HNSW4", "checkpoint and log"), origin
    connection.close()
"""


@pytest.mark.parametrize("journal", ["DELETE", "WAL"])
def test_killed_while_it_is_stored(stored, connect, journal):
    """What was stored before is there, or what is stored now, and whole."""
    path, _ = stored
    plain(path).execute(f"PRAGMA journal_mode = {journal}")
    stored_first = rows(plain(path), PARTS)
    subprocess.run([sys.executable, "-c", KILLED, str(path), "15"],
                   env={**os.environ, "SQLITE_FAISS_LINGER": "0"}, check=True)
    connection = connect(path)
    assert_all_sound(connection)
    assert rows(connection, PARTS) != stored_first, "it was stored in between"
