"""What a stored index says of the rows is trusted where the change log proves that it can be, which `origin` tells:
then the table is not read. In each case where the proof would be wrong all rows are compared. The answers are
always those of the table as it is.
"""

import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
from contextlib import closing

import numpy
import pytest

import database
from database import column, plain, rows, scalar
from steps import count_steps
from test_approximate import SANITIZED, make, vectors_of
from test_checkpoints import HOW, LOGGED, OPTIMIZE, PARTS, TRUSTED, nothing_outlives_its_connections, store, stored  # noqa: F401

COMPARED = "checkpoint"
HASH = "SELECT id, score FROM docs_ann WHERE embedding MATCH ?"
NEW = [row.tobytes() for row in vectors_of(numpy.random.default_rng(5), 60)]


def assert_all_rows(connection, metric="l2", source="docs"):
    """Every row that the table has, and no other, each with the score of its vector as it is now."""
    query = vectors_of(numpy.random.default_rng(99), 1)[0]
    table = dict(rows(connection, f"SELECT id, embedding FROM {source} WHERE embedding IS NOT NULL"))
    found = rows(connection, HASH, [query.tobytes()])
    assert sorted(id for id, _ in found) == sorted(table)
    vectors = numpy.array([numpy.frombuffer(table[id], "<f4") for id, _ in found], float).reshape(len(found), len(query))
    if metric == "l2":
        expected = ((vectors - query) ** 2).sum(axis=1)
    else:
        lengths = numpy.linalg.norm(vectors, axis=1) * numpy.linalg.norm(query.astype(float)) if metric == "cosine" else 1
        expected = vectors @ query.astype(float) / lengths
    assert numpy.allclose([score for _, score in found], expected, rtol=1e-4, atol=1e-5)


def assert_opens(path, how, metric="l2", **options):
    """A process to come finds all rows, and how."""
    with closing(database.connect(path, **options)) as connection:
        assert_all_rows(connection, metric)
        assert column(connection, HOW) == [how]
        connection.execute("PRAGMA query_only = OFF")


def run(path, *statements):
    """By a program without the extension."""
    with closing(plain(path)) as writer:
        for statement in statements:
            writer.execute(*statement) if isinstance(statement, tuple) else writer.executescript(statement)


# --- trusted --------------------------------------------------------------------------------------

CHANGES = {
    "nothing": [],
    "a row inserted": [("INSERT INTO docs VALUES (NULL, ?, 1)", [NEW[0]])],
    "rows of every kind": [
        "DELETE FROM docs WHERE id % 50 = 0",
        "UPDATE docs SET id = id + 100000 WHERE id % 50 = 1",
        ("UPDATE docs SET embedding = ? WHERE id % 50 = 2", [NEW[1]]),
        "UPDATE docs SET embedding = NULL WHERE id % 50 = 3",
        ("INSERT OR REPLACE INTO docs VALUES (77, ?, 1)", [NEW[2]]),
        ("INSERT INTO docs VALUES (-5, ?, 1)", [NEW[3]]),
    ],
    "a run that goes on": [("INSERT INTO docs VALUES (NULL, ?, 1)", [each]) for each in NEW],
    "a run that was changed": [
        *[("INSERT INTO docs VALUES (NULL, ?, 1)", [each]) for each in NEW[:9]],
        ("UPDATE docs SET embedding = ? WHERE id = 905", [NEW[20]]),
        "DELETE FROM docs WHERE id = 903",
    ],
    "other columns": ["UPDATE docs SET n = n + 1"],
    "rolled back": ["BEGIN; DELETE FROM docs WHERE id < 300; ROLLBACK", ("UPDATE docs SET embedding = ? WHERE id = 9", [NEW[4]])],
    "VACUUM": ["VACUUM"],
    "changes and VACUUM": ["DELETE FROM docs WHERE id % 7 = 0", "VACUUM", ("UPDATE docs SET embedding = ? WHERE id % 40 = 2", [NEW[5]])],
    "another table": ["CREATE TABLE notes(text)"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_trusted(stored, change):
    path, _ = stored
    run(path, *CHANGES[change])
    for _ in range(2):
        assert_opens(path, TRUSTED)


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_trusted_with_other_metrics(tmp_path, metric):
    """For cosine the index has vectors of length 1, and so has the version in memory."""
    path = tmp_path / "docs.db"
    before = store(path, metric=metric)
    with closing(database.connect(path)) as connection:
        assert rows(connection, HASH + " AND k = 900", [NEW[0]]) and column(connection, HOW) == [TRUSTED]
        trusted = rows(connection, HASH, [NEW[0]])
    run(path, "CREATE TABLE a(x)", "CREATE TABLE b(x)")
    with closing(database.connect(path)) as connection:
        assert rows(connection, HASH, [NEW[0]]) == trusted and column(connection, HOW) == [COMPARED]
    run(path, ("UPDATE docs SET embedding = ? WHERE id % 40 = 2", [NEW[5]]))
    assert_opens(path, COMPARED, metric)
    assert before


@pytest.mark.parametrize("kind", ["HNSW4", "SQ8", "IVF4,Flat", "IVF4,RaBitQ", "OPQ4,HNSW4"])
def test_trusted_without_vectors_in_memory(tmp_path, vectors_left_in_small_tables, kind):
    """Of any kind: keys and hashes are all there is of the rows."""
    path = tmp_path / "docs.db"
    with closing(database.connect(path)) as connection:
        make(connection, vectors_of(numpy.random.default_rng(7), 10500 if kind.startswith("OPQ") else 900), kind, "l2", ", memory=low")
        connection.execute(OPTIMIZE)
        assert_all_rows(connection)
        size = scalar(connection, "SELECT bytes FROM faiss_indexes")
    run(path, *CHANGES["rows of every kind"])
    assert_opens(path, TRUSTED)
    with closing(database.connect(path)) as connection:
        assert_all_rows(connection)
        assert scalar(connection, "SELECT bytes FROM faiss_indexes") < 1.1 * size


@pytest.mark.parametrize("kind", ["SQ8", "IVF4,Flat", "OPQ4,HNSW4", "PCA4,HNSW4"])
def test_compared_for_the_vectors(tmp_path, kind):
    """They are to be in memory, and the index has codes of them, or lists: the table is read, and compared."""
    path = tmp_path / "docs.db"
    with closing(database.connect(path)) as connection:
        make(connection, vectors_of(numpy.random.default_rng(7), 10500 if kind.startswith("OPQ") else 900), kind)
        connection.execute(OPTIMIZE)
    run(path, *CHANGES["rows of every kind"])
    assert_opens(path, COMPARED)


def test_the_table_is_not_read(stored, tmp_path):
    """Nor is it where only rows are looked up that changed: fewer steps than it has rows."""
    path, _ = stored
    run(path, *CHANGES["a row inserted"])
    steps = {}
    for how in (TRUSTED, COMPARED):
        with closing(database.connect(path)) as connection:
            steps[how] = count_steps(connection, HASH + " AND k = 1", [NEW[0]])
            assert column(connection, HOW) == [how]
        run(path, "CREATE TABLE IF NOT EXISTS a(x)", "CREATE TABLE IF NOT EXISTS b(x)")
    assert steps[TRUSTED] + 2000 < steps[COMPARED]


def copy_by_vacuum(path, to):
    plain(path).execute("VACUUM INTO ?", [str(to)])


@pytest.mark.parametrize("copy, how", [(shutil.copy, TRUSTED), (copy_by_vacuum, TRUSTED),
                                       (lambda path, to: plain(path).backup(plain(to)), COMPARED)], ids=["file", "vacuum", "backup"])
def test_copies(stored, tmp_path, copy, how):
    """A backup gives the copy another count of schema changes, which then proves nothing."""
    path, _ = stored
    run(path, *CHANGES["rows of every kind"])
    copy(path, tmp_path / "copy.db")
    assert_opens(tmp_path / "copy.db", how)
    for options in ("mode=ro", "immutable=1"):
        assert_opens(f"file:{tmp_path}/copy.db?{options}", how, uri=True)
    with closing(database.connect()) as connection:
        connection.execute("ATTACH ? AS other", [str(tmp_path / "copy.db")])
        found = rows(connection, HASH.replace("docs_ann", "other.docs_ann"), [NEW[0]])
        assert sorted(id for id, _ in found) == sorted(column(connection, "SELECT id FROM other.docs WHERE embedding IS NOT NULL"))
        assert column(connection, HOW) == [how]


def test_in_a_transaction_that_writes(stored):
    """Its own changes are in, and go with it."""
    path, _ = stored
    run(path, *CHANGES["a run that goes on"])
    with closing(database.connect(path)) as connection:
        connection.execute("BEGIN")
        connection.execute("UPDATE docs SET embedding = ? WHERE id % 30 = 4", [NEW[7]])
        assert_all_rows(connection)
        assert column(connection, HOW) in ([TRUSTED], [])
        connection.execute("ROLLBACK")
        assert_all_rows(connection)
    assert_opens(path, TRUSTED)


# --- compared -------------------------------------------------------------------------------------

CHANGE_ALL = f"UPDATE docs SET embedding = x'{NEW[8].hex()}' WHERE id % 11 = 0"  # too few to be added at once


def without_triggers(*statements):
    """What a migration does: takes the triggers away, and makes them again from their texts."""
    def run_without(path):
        with closing(plain(path)) as writer:
            texts = column(writer, "SELECT sql FROM sqlite_schema WHERE type = 'trigger'")
            for name in column(writer, "SELECT name FROM sqlite_schema WHERE type = 'trigger'"):
                writer.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                writer.executescript(statement)
            for text in texts:
                writer.execute(text)
    return run_without


def without_one_trigger(path):
    with closing(plain(path)) as writer:
        text = scalar(writer, "SELECT sql FROM sqlite_schema WHERE name = 'docs_faiss_update'")
        writer.execute("DROP TRIGGER docs_faiss_update")
        writer.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 1) WHERE id = 2")
        writer.execute(text)


def triggers_off(path):
    """All rows of a kind: so many that a look at some of them finds it."""
    subprocess.run([database.SHELL, "-bail", str(path)], input=f".dbconfig enable_trigger off\n{CHANGE_ALL};", text=True, check=True)


def other_log(path):
    """As long, of other states."""
    with closing(plain(path)) as writer:
        writer.execute(CHANGE_ALL)
        writer.execute("UPDATE docs_faiss_log SET tag = tag + 2")


def another_definition(path):
    with closing(database.connect(path)) as connection:
        connection.execute("CREATE VIRTUAL TABLE near USING faiss(main, docs, metric=cosine)")
        connection.execute(CHANGE_ALL)
        connection.execute("DROP TABLE near")


def rebuilt_copy(path):
    """A table made anew from another, under its name, with its triggers: what tools for migrations do."""
    without_triggers("PRAGMA legacy_alter_table = ON",
                     "CREATE TABLE new(id INTEGER PRIMARY KEY, embedding BLOB, n INTEGER)",
                     "INSERT INTO new SELECT id, embedding, n FROM docs", CHANGE_ALL.replace("docs", "new"), "DROP TABLE docs",
                     "ALTER TABLE new RENAME TO docs")(path)


TRAPS = {
    "triggers made again, rows changed between": without_triggers(CHANGE_ALL),
    "triggers made again, nothing changed": without_triggers(),
    "one row changed without one trigger": without_one_trigger,
    "table made anew": rebuilt_copy,
    "triggers off": triggers_off,
    "a log emptied": lambda path: run(path, CHANGE_ALL, "DELETE FROM docs_faiss_log"),
    "a log with other tags": other_log,
    "a log without its first entries": lambda path: run(
        path, *CHANGES["rows of every kind"], "DELETE FROM docs_faiss_log WHERE seq <= (SELECT min(seq) + 3 FROM docs_faiss_log)"),
    "a log without one in the middle": lambda path: run(
        path, *CHANGES["rows of every kind"], "DELETE FROM docs_faiss_log WHERE seq = (SELECT max(seq) - 3 FROM docs_faiss_log)"),
    "an entry without a row": lambda path: run(path, "INSERT INTO docs_faiss_log(row, tag) VALUES (NULL, random() | 1)", CHANGE_ALL),
    "more changes than are worth it": lambda path: run(path, *["UPDATE docs SET embedding = embedding"] * 6),
    "the ring overrun": lambda path: run(
        path, "BEGIN;" + "UPDATE docs SET embedding = embedding WHERE id > 100;" * 90 + CHANGE_ALL + ";COMMIT"),
    "a trigger of the user's made later": lambda path: run(
        path, "CREATE TRIGGER mine AFTER INSERT ON docs BEGIN SELECT 1; END", *CHANGES["a row inserted"]),
    "a trigger that is missing": lambda path: run(path, "DROP TRIGGER docs_faiss_update", CHANGE_ALL),
    "a UNIQUE index made later": lambda path: run(
        path, "CREATE UNIQUE INDEX pairs ON docs(id, n)", ("INSERT OR REPLACE INTO docs VALUES (3, ?, 2)", [NEW[9]])),
    "a column more": lambda path: run(path, "ALTER TABLE docs ADD COLUMN more", CHANGE_ALL),
    "another faiss table over it": another_definition,
}


@pytest.mark.parametrize("trap", TRAPS)
def test_traps(stored, trap):
    """In none of these does the log prove what differs from what was stored."""
    path, _ = stored
    TRAPS[trap](path)
    assert_opens(path, COMPARED)
    with closing(database.connect(path)) as connection:  # and then it is known again, if there is a log
        connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('rebuild')")
    with closing(database.connect(path)) as connection:
        connection.execute(OPTIMIZE)
    assert_opens(path, TRUSTED)


def test_an_older_copy(stored, tmp_path):
    """It has its own log, and what was stored in it."""
    path, before = stored
    shutil.copy(path, tmp_path / "older.db")
    with closing(database.connect(path)) as connection:
        connection.execute(CHANGE_ALL)
        connection.execute(OPTIMIZE)
    assert_opens(path, TRUSTED)
    shutil.copy(path, tmp_path / "newer.db")
    shutil.copy(tmp_path / "older.db", path)
    assert_opens(path, TRUSTED)
    run(path, ("ATTACH ? AS newer", [str(tmp_path / "newer.db")]), "DELETE FROM docs_ann_checkpoint",
        "INSERT INTO docs_ann_checkpoint SELECT * FROM newer.docs_ann_checkpoint")
    assert_opens(path, COMPARED)
    run(path, ("ATTACH ? AS newer", [str(tmp_path / "newer.db")]), "DELETE FROM docs_faiss_log",
        "INSERT INTO docs_faiss_log SELECT * FROM newer.docs_faiss_log")
    assert_opens(path, COMPARED)


def test_the_file_is_replaced_under_a_connection(stored, tmp_path):
    """What is in memory is of another history, and so may be what is stored."""
    path, _ = stored
    shutil.copy(path, tmp_path / "older.db")
    with closing(database.connect(path)) as connection:
        connection.execute(CHANGE_ALL)
        connection.execute(OPTIMIZE)
        assert_all_rows(connection)
        with closing(plain(tmp_path / "older.db")) as older, closing(plain(path)) as there:
            older.backup(there)
        assert_all_rows(connection)
    assert_opens(path, TRUSTED)


@pytest.mark.parametrize("vacuumed", [False, True])
def test_without_an_integer_primary_key(tmp_path, vacuumed):
    """VACUUM may give its rows other rowids, which no entry of the log tells."""
    path = tmp_path / "docs.db"
    with closing(database.connect(path)) as connection:
        connection.execute("CREATE TABLE docs(id TEXT PRIMARY KEY, embedding BLOB)")
        connection.executemany("INSERT INTO docs VALUES (?, ?)", [
            (f"row {number}", row.tobytes()) for number, row in enumerate(vectors_of(numpy.random.default_rng(7), 900))])
        connection.execute("CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index=HNSW4)")
        connection.execute("DELETE FROM docs WHERE rowid % 3 = 1")
        connection.execute(OPTIMIZE)
    if vacuumed:
        run(path, "VACUUM")
    assert_opens(path, COMPARED if vacuumed else TRUSTED)
    run(path, "DELETE FROM docs WHERE rowid < 9", ("INSERT INTO docs VALUES ('new', ?)", [NEW[0]]))
    assert_opens(path, COMPARED if vacuumed else TRUSTED)


def test_another_column(tmp_path):
    """What is stored of one column is not trusted for another, by whatever hand it came there."""
    path = tmp_path / "docs.db"
    with closing(database.connect(path)) as connection:
        make(connection, vectors_of(numpy.random.default_rng(7), 900), "HNSW4")
        connection.execute("ALTER TABLE docs ADD COLUMN other")
        connection.execute("UPDATE docs SET other = (SELECT embedding FROM docs AS d WHERE d.id = 901 - docs.id)")
        connection.execute("CREATE VIRTUAL TABLE near USING faiss(main, docs, index=HNSW4, embedding=other)")
        connection.execute("INSERT INTO near(near) VALUES ('optimize')")
        connection.execute("INSERT INTO docs_ann_checkpoint SELECT * FROM near_checkpoint")
    with closing(database.connect(path)) as connection:
        assert_all_rows(connection)
        assert TRUSTED not in column(connection, HOW)


# --- what is stored, and when ---------------------------------------------------------------------


def test_only_what_changed_is_written(stored):
    """The index where it was made anew; else its rows where they changed, or the state alone, or nothing."""
    path, _ = stored

    def optimized(*statements):
        run(path, *statements)
        with closing(database.connect(path)) as connection:
            before = connection.total_changes
            connection.execute(OPTIMIZE)
            written = connection.total_changes - before - 1  # the command
            return rows(connection, PARTS), written

    first, _ = optimized()
    assert optimized() == (first, 0)
    states = [
        (["DELETE FROM docs WHERE id = 3"], 2, 4),  # the header, and the rows: one part
        (["UPDATE docs SET embedding = embedding WHERE id = 4"], 1, 2),  # the header alone
        (["VACUUM"], 1, 2),
    ]
    for statements, parts, most in states:
        then, written = optimized(*statements)
        assert sum(one != other for one, other in zip(first, then, strict=True)) == parts
        assert written <= most
        first = then
        assert_opens(path, TRUSTED)
    then, _ = optimized(*[("INSERT INTO docs VALUES (NULL, ?, 1)", [each]) for each in NEW])
    assert [part for part in then if part in first] == []
    assert_opens(path, TRUSTED)


TRIGGERED = {
    "after an insert": "AFTER INSERT ON docs",
    "before an insert": "BEFORE INSERT ON docs",
    "after an update": "AFTER UPDATE OF n ON docs",
    "before an update": "BEFORE UPDATE OF n ON docs",
    "before a delete": "BEFORE DELETE ON docs",
}
STATEMENTS = [
    ("INSERT INTO docs VALUES (NULL, ?, 1)", [NEW[0]]),
    ("INSERT OR REPLACE INTO docs VALUES (500, ?, 1)", [NEW[1]]),
    ("UPDATE docs SET n = 3, embedding = ? WHERE id IN (17, 18)", [NEW[2]]),
    ("UPDATE OR REPLACE docs SET n = 4, id = 21, embedding = ? WHERE id = 20", [NEW[3]]),
    ("DELETE FROM docs WHERE id IN (30, 31)", []),
    ("INSERT INTO docs SELECT NULL, embedding, 1 FROM docs LIMIT 20", []),
]


@pytest.mark.parametrize("first", [True, False], ids=["on a fresh connection", "after a search"])
@pytest.mark.parametrize("when", TRIGGERED)
def test_stored_in_the_middle_of_a_statement(stored, when, first):
    """By a trigger of the user's, which runs between a change and the log's entry of it, or the other way round:
    what is stored is trusted only for what cannot have been missed."""
    path, _ = stored
    for sql, parameters in STATEMENTS:
        for temporary in ("", "TEMP "):
            with closing(database.connect(path)) as connection:
                connection.execute(f"CREATE {temporary}TRIGGER mine {TRIGGERED[when]} BEGIN INSERT INTO docs_ann(docs_ann) VALUES ('optimize'); END")
                if not first:
                    assert_all_rows(connection)
                try:
                    connection.execute(sql, parameters)
                except sqlite3.OperationalError as error:
                    assert "unsafe use" in str(error) or "run the statement again" in str(error)
                connection.execute(f"DROP TRIGGER mine")
                assert_all_rows(connection)
            with closing(database.connect(path)) as connection:
                assert_all_rows(connection)


def test_stored_in_a_transaction(tmp_path):
    """Made, filled, stored, changed and stored again in one: what is committed is trusted, and right."""
    path = tmp_path / "docs.db"
    new = [row.tobytes() for row in vectors_of(numpy.random.default_rng(7), 900)]
    with closing(database.connect(path)) as connection:
        connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, n INTEGER)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row,) for row in new[:800]])
        connection.execute("CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index=HNSW4)")
        connection.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row,) for row in new[800:850]])
        connection.execute(OPTIMIZE)
        connection.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row,) for row in new[850:]])
        connection.execute("COMMIT")
    assert_opens(path, TRUSTED)
    with closing(database.connect(path)) as connection:
        connection.execute("BEGIN")
        connection.execute("SAVEPOINT s")
        connection.execute(CHANGE_ALL)
        connection.execute(OPTIMIZE)
        connection.execute("ROLLBACK TO s")
        connection.execute("DELETE FROM docs WHERE id % 5 = 0")
        connection.execute(OPTIMIZE)
        connection.execute("DELETE FROM docs WHERE id % 5 = 1")
        connection.execute("COMMIT")
    assert_opens(path, COMPARED)  # the entry that it began with was undone
    with closing(database.connect(path)) as connection:
        connection.execute(OPTIMIZE)
    assert_opens(path, TRUSTED)


@pytest.mark.parametrize("seed", range(3 if SANITIZED else 8))
def test_any_order(stored, seed):
    """Changes by hands with the extension and without, transactions, commands, copies and VACUUM, in any order;
    each opening is right, and most trust what is stored."""
    path, _ = stored
    chance, hows = random.Random(seed), []

    def change(connection):
        key, row = chance.randrange(1, 1000), chance.choice(NEW)
        for sql, parameters in chance.sample([
            ("INSERT INTO docs VALUES (NULL, ?, 1)", [row]),
            ("INSERT OR REPLACE INTO docs VALUES (?, ?, 1)", [key, row]),
            ("UPDATE OR REPLACE docs SET id = ?, embedding = ? WHERE id = ?", [key, row, chance.randrange(1, 1000)]),
            ("UPDATE docs SET embedding = ? WHERE id BETWEEN ? AND ?", [row, key, key + chance.randrange(5)]),
            ("UPDATE docs SET embedding = NULL WHERE id = ?", [key]),
            ("DELETE FROM docs WHERE id BETWEEN ? AND ?", [key, key + chance.randrange(20)]),
            ("INSERT INTO docs SELECT NULL, embedding, 1 FROM docs WHERE id < ?", [chance.randrange(40)]),
        ], chance.randrange(1, 4)):
            connection.execute(sql, parameters)

    def transaction(connection, within):
        connection.execute("BEGIN")
        for _ in range(chance.randrange(1, 4)):
            connection.execute("SAVEPOINT s")
            within(connection)
            if chance.random() < 0.4:
                connection.execute("ROLLBACK TO s")
            connection.execute("RELEASE s")
        connection.execute("ROLLBACK" if chance.random() < 0.3 else "COMMIT")

    def either(connection):
        if chance.random() < 0.3:
            connection.execute(OPTIMIZE)
        change(connection)

    for _ in range(14):
        kind = chance.randrange(7)
        if kind < 2:
            with closing(plain(path)) as connection:
                change(connection) if kind else transaction(connection, change)
        elif kind < 4:
            with closing(database.connect(path)) as connection:
                if chance.random() < 0.5:
                    assert_all_rows(connection)
                either(connection) if kind == 2 else transaction(connection, either)
                assert_all_rows(connection)
        elif kind == 4:
            run(path, chance.choice(["VACUUM", "CREATE TABLE IF NOT EXISTS notes(text)", "REINDEX", "PRAGMA journal_mode = WAL"]))
        else:
            with closing(database.connect(path)) as connection:
                connection.execute(OPTIMIZE)
        with closing(database.connect(path)) as connection:
            assert_all_rows(connection)
            connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('integrity-check')")
            hows += column(connection, HOW)
    assert hows.count(TRUSTED) > len(hows) / 2


# --- damage that fits its checksums ---------------------------------------------------------------

MASK = 2**64 - 1
ODD = 0x9E3779B97F4A7C15, 0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B


def fold(a, b):
    product = a * b
    return (product ^ product >> 64) & MASK


def row_hash(key, data):
    """The hash of index.h, of a row with this key and these bytes: by it parts are checked, too."""
    a, b, c, d = ODD
    seed, length = fold(key & MASK ^ b, a), len(data)
    if length >= 256:
        long, data = data[:length // 64 * 64], data[length // 64 * 64:]
        chains = [seed ^ odd for odd in ODD]
        for words in struct.iter_unpack("<8Q", long):
            chains = [fold(words[2 * n] ^ odd, words[2 * n + 1] ^ chains[n]) for n, odd in enumerate((c, d, a, b))]
        seed = fold(fold(chains[0] ^ b, chains[1] ^ c), fold(chains[2] ^ d, chains[3] ^ a) ^ seed)
    left, right = seed ^ a, seed ^ b
    data += bytes(-len(data) % 32 or 32)
    for words in struct.iter_unpack("<4Q", data):
        left, right = fold(words[0] ^ c, words[1] ^ left), fold(words[2] ^ d, words[3] ^ right)
    return fold(left ^ length, right ^ a)


def signed(number):
    return number - 2**64 if number >= 2**63 else number


HEADER = "<8s5If Q 4Q 4Q 2q 2Q q 2Q 80s16s"
FIELDS = ("magic format metric dimension ef_construction flags trained_misfit rows index_id index_bytes index_parts index_chain "
          "source_id source_bytes source_parts source_chain seq tag schema texts schema_version source_rows fingerprint kind faiss").split()


def with_header(parts, **fields):
    """Another header, whose checksum fits."""
    header = dict(zip(FIELDS, struct.unpack(HEADER, parts[0][2]), strict=True)) | fields
    data = struct.pack(HEADER, *header.values())
    return [(0, signed(row_hash(0, data)), data), *parts[1:]]


def with_rows(parts, data):
    """Other rows, whose checksums fit, too: they take one part."""
    header = dict(zip(FIELDS, struct.unpack(HEADER, parts[0][2]), strict=True))
    number = parts[-1][0]
    checksum = row_hash(header["source_id"] + number, data)
    parts = [*parts[:-1], (number, signed(checksum), data)]
    chain = row_hash(0, checksum.to_bytes(8, "little"))
    return with_header(parts, source_chain=chain, source_bytes=len(data))


def write_parts(path, parts):
    with closing(plain(path)) as writer:
        writer.execute("BEGIN")
        writer.execute("DELETE FROM docs_ann_checkpoint")
        writer.executemany("INSERT INTO docs_ann_checkpoint VALUES (?, ?, ?)", parts)
        writer.execute("COMMIT")


def test_the_layout(stored):
    """What these tests take a header for."""
    path, _ = stored
    parts = rows(plain(path), PARTS)
    assert with_header(parts) == parts and with_rows(parts, parts[-1][2]) == parts
    header = dict(zip(FIELDS, struct.unpack(HEADER, parts[0][2]), strict=True))
    assert rows(plain(path), "SELECT tag FROM docs_faiss_log WHERE seq = ?", [header["seq"]]) == [(header["tag"],)]
    assert scalar(plain(path), "PRAGMA schema_version") == header["schema_version"]
    vectors = rows(plain(path), "SELECT id, embedding FROM docs ORDER BY id")
    assert parts[-1][2] == b"".join(struct.pack("<qQ", id, row_hash(id, row)) for id, row in vectors)


STATE = {
    "seq": [0, -1, 2**62, -2**63], "tag": [0, 7], "schema": [0, 1], "texts": [0], "schema_version": [0, -2**63, 2**63 - 1],
    "source_rows": [0, 1, 899, 901, 2**31, 2**63], "fingerprint": [0, 5], "flags": [1, 2, 3, 2**32 - 1],
    "source_bytes": [0, 16, 2**40, MASK], "source_parts": [0, 2, MASK], "source_chain": [0], "source_id": [0, MASK],
    "rows": [0, 899, 901, 2**31, MASK], "index_bytes": [0, 2**40, MASK], "index_parts": [0, 1, MASK], "index_chain": [0],
    "index_id": [0, MASK], "dimension": [0, 4, 9, 2**31, 2**32 - 1], "format": [1, 3], "metric": [1, 9], "ef_construction": [9],
}


@pytest.mark.parametrize("field", STATE)
def test_headers_that_do_not_fit(stored, field):
    """Each field alone, with checksums that fit: the rows are compared, or the index is built."""
    path, _ = stored
    parts = rows(plain(path), PARTS)
    for value in STATE[field]:
        write_parts(path, with_header(parts, **{field: value}))
        with closing(database.connect(path)) as connection:
            assert_all_rows(connection)
            how = column(connection, HOW)
        # The schema is the same by two proofs of its own: one of them is enough.
        assert how in ([COMPARED], ["built"]) or field in ("schema", "texts", "schema_version")


FAISS_COUNT = 900 * 16 + 37  # behind keys and hashes, and FAISS's own header: how many levels a graph may have


@pytest.mark.skipif(SANITIZED, reason="AddressSanitizer ends the process where so much memory is asked for")
@pytest.mark.parametrize("count", [2**36, 2**39, 2**63])
def test_a_count_that_fits_in_no_memory(stored, count):
    """FAISS is to make room for it before it finds that there are no such numbers: the index is built."""
    path, _ = stored
    parts = rows(plain(path), PARTS)
    header = dict(zip(FIELDS, struct.unpack(HEADER, parts[0][2]), strict=True))
    data = parts[1][2][:FAISS_COUNT] + struct.pack("<Q", count) + parts[1][2][FAISS_COUNT + 8:]
    assert 0 < struct.unpack_from("<Q", parts[1][2], FAISS_COUNT)[0] < 40 and parts[1][2][14400:14404] == b"IHNf"
    parts[1] = (1, signed(row_hash(header["index_id"] + 1, data)), data)
    chain = 0
    for part in parts[1:header["index_parts"] + 1]:
        chain = row_hash(chain, (part[1] & MASK).to_bytes(8, "little"))
    write_parts(path, with_header(parts, index_chain=chain))
    limited = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))\n"
    told = subprocess.run([sys.executable, "-c", limited + LOGGED, str(path), "SELECT 1"], capture_output=True, text=True,
                          env={**os.environ, "SQLITE_FAISS_LINGER": "0"}, check=True).stdout
    assert told.count("is built anew: ") == 1 and "FAISS" in told
    assert_opens(path, "built")


def test_rows_that_do_not_fit(stored):
    """Left out, doubled, in another order, changed: with checksums that fit."""
    path, _ = stored
    parts, chance = rows(plain(path), PARTS), random.Random(1)
    whole = [parts[-1][2][at:at + 16] for at in range(0, len(parts[-1][2]), 16)]
    for number in range(40):
        changed, at = list(whole), chance.randrange(len(whole))
        if number % 5 == 0:
            changed[at] = chance.randbytes(16)
        elif number % 5 == 1:
            changed[at], changed[at - 1] = changed[at - 1], changed[at]
        elif number % 5 == 2:
            changed[at] = changed[at - 1]
        elif number % 5 == 3:
            changed[at] = changed[at][:8] + bytes(8)
        else:
            del changed[at]
        forged = with_rows(parts, b"".join(changed))
        write_parts(path, with_header(forged, source_rows=len(changed)))
        assert_opens(path, COMPARED)
