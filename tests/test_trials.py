"""Whether sketches are of use is found out by trials: whatever comes of these, answers are the same.

The rest of the suite has sketches wherever there can be some, since its tables are small.
"""

import os
import subprocess
import sys

import pytest

import database

# Prints what was found in each table, and how many bytes its index takes.
PROGRAM = """
import sqlite3, sys
import numpy
sys.path.insert(0, {tests!r})
import database

random = numpy.random.default_rng(8)
ROWS, WIDTH = 12000, 256
decaying = random.normal(size=(ROWS, WIDTH)) / numpy.arange(1, WIDTH + 1)
decaying += random.normal(size=(60, WIDTH))[random.integers(0, 60, ROWS)] / numpy.arange(1, WIDTH + 1) ** 0.5
tables = {{
    "decaying": decaying,
    "uniform": random.uniform(-1, 1, (ROWS, WIDTH)),
    "small": decaying[:1500],
    "short": decaying[:, :48],
}}
for name, vectors in tables.items():
    vectors = vectors.astype("f4")
    for metric in "l2", "ip", "cosine":
        db = database.connect()
        db.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
        db.execute("BEGIN")
        db.executemany("INSERT INTO docs VALUES (?, ?)", enumerate(map(bytes, vectors), 1))
        db.execute("COMMIT")
        db.execute(f"CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, metric={{metric}})")
        db.execute("SELECT id FROM docs_index(?, 1)", [bytes(vectors[0])]).fetchall()
        db.execute("INSERT INTO docs_index(docs_index) VALUES ('optimize')")
        queries = [vectors[i] for i in range(0, 900, 100)]
        queries += [q + random.normal(size=q.size).astype("f4") / 9 for q in queries]
        for k in 1, 10, 100, 1000:
            for q in queries:
                found = db.execute("SELECT id, score FROM docs_index(?, ?)", [bytes(q.astype("f4")), k])
                print(name, metric, k, [(id, score.hex()) for id, score in found])
        (size,) = db.execute("SELECT bytes FROM faiss_indexes").fetchone()
        print("bytes", name, metric, size)
        db.close()
"""


def run(choice):
    environment = {name: value for name, value in os.environ.items() if name != "SQLITE_FAISS_SKETCHES"}
    if choice:
        environment["SQLITE_FAISS_SKETCHES"] = choice
    program = PROGRAM.format(tests=os.path.dirname(__file__))
    output = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    sizes = {tuple(line.split()[1:3]): int(line.split()[3]) for line in output if line.startswith("bytes")}
    return [line for line in output if not line.startswith("bytes")], sizes


@pytest.mark.skipif(database.SANITIZED, reason="the same code runs in the other tests")
def test_answers_are_the_same_whatever_the_trials_say():
    (always, most), (never, least), (tried, sizes) = run("always"), run("never"), run(None)
    assert len(never) == 4 * 3 * 4 * 18
    assert always == never == tried
    assert all(most[table] > least[table] for table in most if table[0] == "decaying")
    # Both things come of trials: sketches where they rule out most rows, none where they do not.
    assert sizes["decaying", "l2"] > least["decaying", "l2"]
    assert sizes["uniform", "l2"] == least["uniform", "l2"]
