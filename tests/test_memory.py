"""How much memory a process takes: one index for all its connections, whatever is changed.

Measured in processes of their own, as what stays resident once the C library has given back what
is free.
"""

import json
import os
import subprocess
import sys

import numpy
import pytest

import database

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("SQLITE_FAISS_SANITIZE")), reason="a sanitizer keeps what is freed"
)

ROWS, DIMENSION = 20_000, 384
CONNECTIONS = 16
LIVE = {"live": "", "not live": ", live=off"}

MEASURED = """
import ctypes, gc, json, random, sqlite3, struct, sys, threading

sys.path.insert(0, sys.argv[2])
import database

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))

def connect():
    # SQLite's own cache of pages belongs to each connection, and is none of the index's.
    connection = database.connect(sys.argv[1], timeout=300)
    connection.execute("PRAGMA cache_size = 20")
    connection.execute("SELECT count(*) FROM docs WHERE id = 1").fetchone()
    return connection

def vectors(chance, count):
    return [struct.pack("<384f", *(chance.randint(-9, 9) for _ in range(384))) for _ in range(count)]

def search(connection, query):
    found = connection.execute("SELECT id, score FROM docs_index(?, 5)", [query]).fetchall()
    assert len(found) == 5, found
    return found
"""

# One connection, then sixteen, from threads of their own so that they search at once.
SHARED = MEASURED + """
connections = [connect() for _ in range(16)]
query = vectors(random.Random(1), 1)[0]
def search_all(those):
    found = []
    threads = [threading.Thread(target=lambda each=each: found.append(search(each, query)))
               for each in those]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(those) and all(each == found[0] for each in found)

before = resident()
search_all(connections[: int(sys.argv[3])])
most = peak()
for _ in range(30):  # until its sketches are made
    search(connections[0], query)
first = resident()
search_all(connections)
search_all(connections)
print(json.dumps({"before": before, "first": first, "peak": most, "all": resident()}))
"""

# The same thousand rows again and again; a connection searches now and then, another in read
# transactions that stay open meanwhile.
UPDATES = MEASURED + """
writer, reader, holder = connect(), connect(), connect()
writer.execute("PRAGMA synchronous = OFF")
chance = random.Random(2)
pool = vectors(chance, 3000)
BATCHES, ROWS = 200, 1000
measured = []
for batch in range(BATCHES):
    if batch % 20 == 0:
        holder.execute("BEGIN")
        kept = search(holder, pool[7])
    writer.execute("BEGIN")
    writer.executemany("UPDATE docs SET embedding = ? WHERE id = ?",
                       [(chance.choice(pool), 1 + 3 * row) for row in range(ROWS)])
    if batch % 7 == 0:
        search(writer, pool[batch])  # its own uncommitted rows
    writer.execute("COMMIT")
    if batch % 3 == 0:
        search(reader, pool[batch])
    if batch % 20 in (5, 13):
        assert search(holder, pool[7]) == kept
    if batch % 20 == 18:
        holder.execute("COMMIT")
        search(holder, pool[7])
        writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    if batch % 10 == 9:
        measured.append(resident())
# What is left is right, and is the table.
table = writer.execute("SELECT id, embedding FROM docs").fetchall()
everything = reader.execute("SELECT id, embedding FROM docs_index").fetchall()
assert everything == table
reader.execute("INSERT INTO docs_index(docs_index) VALUES ('integrity-check')")
print(json.dumps(measured))
"""


# A search or two beside nothing else: what an index needs while it is made, and keeps.
ONE = MEASURED + """
connection = connect()
query = connection.execute("SELECT embedding FROM docs LIMIT 1").fetchone()[0]
before = resident()
for _ in range(3):
    search(connection, query)
print(json.dumps({"before": before, "peak": peak(), "after": resident(),
                  "bytes": connection.execute("SELECT bytes FROM faiss_indexes").fetchone()[0],
                  "memory": connection.execute("SELECT memory FROM faiss_indexes").fetchone()[0]}))
"""


def make(path, rows, live="live", spectrum=1.0):
    connection = database.connect(path)
    connection.execute("PRAGMA journal_mode = wal").fetchone()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    matrix = (numpy.random.default_rng(0).standard_normal((rows, DIMENSION)) * spectrum).astype("<f4")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO docs(embedding) VALUES (?)", [(row.tobytes(),) for row in matrix])
    connection.execute("COMMIT")
    options = LIVE.get(live, live)
    connection.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs{options})")
    connection.close()


def measure(code, path, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(database.ROOT / "tests"), *map(str, arguments)],
        capture_output=True, text=True, timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("live", LIVE)
@pytest.mark.parametrize("first", [1, CONNECTIONS], ids=["one first", "all at once"])
def test_connections_share_one_index(tmp_path, live, first):
    make(tmp_path / "docs.db", ROWS, live)
    taken = measure(SHARED, tmp_path / "docs.db", first)
    vectors = ROWS * DIMENSION * 4
    index = taken["first"] - taken["before"]
    assert 0.9 * vectors < index < 1.4 * vectors
    assert taken["all"] - taken["before"] <= 1.1 * index
    # No second copy, not even for a moment: the first build is one connection's while the others
    # wait. A basis for sketches is found from a sample of a tenth of the rows.
    assert taken["peak"] - taken["before"] <= 1.75 * vectors


def test_updates_of_the_same_rows(tmp_path):
    """200,000 of them."""
    make(tmp_path / "docs.db", 4000)
    measured = measure(UPDATES, tmp_path / "docs.db")
    assert max(measured[1:]) <= 1.2 * measured[0]


@pytest.mark.parametrize("structure", [True, False], ids=["sketches", "no structure"])
def test_vectors_that_are_left_in_the_source(tmp_path, structure):
    """The first 2,730 rows are held until there is a basis for sketches; of the others little ever is."""
    rows = 40_000
    spectrum = 1 / numpy.arange(1, DIMENSION + 1) if structure else 1.0
    make(tmp_path / "docs.db", rows, ", memory=low", spectrum)
    taken = measure(ONE, tmp_path / "docs.db")
    vectors = rows * DIMENSION * 4
    kept = 0.2 if structure else 0.02
    assert (taken["memory"] == "low") == structure
    assert taken["bytes"] <= kept * vectors
    assert taken["after"] - taken["before"] <= (kept + 0.15) * vectors
    assert taken["peak"] - taken["before"] <= 0.4 * vectors
