"""Writers that are killed while they write: whatever was committed is there, and nothing else.

A driver process forks a writer for each run, since starting a Python for each would take most of
the time, and kills it with SIGKILL some milliseconds after it has told of some commits: with a time alone, a busy
machine would give it none to commit in. The system survives, so nothing here depends on `synchronous`.

The writer notes each row that it changes in `audit`, in the same transaction. What the triggers
write into the log must be the same rows in the same order, under the same numbers.
"""

import random
import signal
import subprocess
import sys
import time

import pytest

import database
import oracle
from database import SHELL, rows, scalar, vector

RUNS = 38  # of each kind of writer in each journal mode: more than 200 in all
ROWS = 200
QUERIES = [vector(0, 1, 0), vector(-2, 2, 1)]
RING = 65536  # entries that the log keeps

# What the process does between fork and kill. It tells on its standard output how many
# transactions it has committed in all runs.
DRIVER = """
import os, random, signal, sqlite3, struct, sys, time

def load(connection):
    connection.enable_load_extension(True)
    connection.load_extension(sys.argv[2])

def blob(chance):
    return struct.pack("<3f", *(chance.randint(-3, 3) for _ in range(3)))

def change(connection, chance):
    # One change, and the rows that it changes in the order in which triggers see them.
    row = chance.randint(1, 200)
    kind = chance.choice(["insert", "append", "update", "delete", "replace", "many", "move", "id"])
    if kind == "insert":
        row = chance.randint(4000, 10**9)
        connection.execute("INSERT OR IGNORE INTO docs VALUES (?, ?, ?)", [row, row // 2, blob(chance)])
        changed = [row] if connection.execute("SELECT changes()").fetchone()[0] else []
    elif kind == "append":
        # Not each row is logged then.
        last = connection.execute("SELECT max(seq) FROM docs_faiss_log").fetchone()[0]
        for _ in range(chance.randint(1, 20)):
            connection.execute("INSERT INTO docs SELECT max(pk) + 1, ?, ? FROM docs", [row, blob(chance)])
        changed = [row for row, in connection.execute(
            "SELECT row FROM docs_faiss_log WHERE seq > ? ORDER BY seq", [last])]
    elif kind == "update":
        changed = rows(connection, "pk = ?", [row])
        connection.execute("UPDATE docs SET embedding = ? WHERE pk = ?", [blob(chance), row])
    elif kind == "id":
        changed = rows(connection, "pk = ?", [row])
        connection.execute("UPDATE docs SET id = id + 1 WHERE pk = ?", [row])
    elif kind == "delete":
        changed = rows(connection, "pk = ?", [row])
        connection.execute("DELETE FROM docs WHERE pk = ?", [row])
    elif kind == "replace":
        changed = [row]
        connection.execute("REPLACE INTO docs VALUES (?, ?, ?)", [row, row, blob(chance)])
    elif kind == "many":
        changed = rows(connection, "pk % 20 = ?", [row % 20])
        connection.execute("UPDATE docs SET embedding = ? WHERE pk % 20 = ?", [blob(chance), row % 20])
    else:
        to = chance.randint(2000, 3999)
        if rows(connection, "pk = ?", [to]):
            return []
        changed = [each for one in rows(connection, "pk = ?", [row]) for each in (one, to)]
        connection.execute("UPDATE docs SET pk = ? WHERE pk = ?", [to, row])
    connection.executemany("INSERT INTO audit(row) VALUES (?)", [[each] for each in changed])

def rows(connection, condition, parameters):
    return [row for row, in connection.execute(
        "SELECT pk FROM docs WHERE " + condition + " ORDER BY pk", parameters)]

def write(path, extension, seed):
    chance = random.Random(seed)
    connection = sqlite3.connect(path, isolation_level=None, timeout=300)
    connection.execute("PRAGMA synchronous = OFF")
    if seed % 2:
        # So that pages are written before the commit too; without savepoints, since in WAL mode
        # SQLite itself (3.40) then writes frames whose checksums a recovery does not accept.
        connection.execute("PRAGMA cache_size = 10")
    if extension:
        load(connection)
    while True:
        connection.execute("BEGIN IMMEDIATE")
        for _ in range(chance.randint(1, 12)):
            change(connection, chance)
            if extension and chance.random() < 0.2:
                connection.execute("SELECT id FROM docs_index(?, 5)", [blob(chance)]).fetchall()
        if seed % 2 == 0 and chance.random() < 0.2:
            connection.execute("SAVEPOINT s")
            for _ in range(5):
                change(connection, chance)
            connection.execute("ROLLBACK TO s")
            connection.execute("RELEASE s")
        if extension and chance.random() < 0.1:
            connection.execute("INSERT INTO docs_index(docs_index) VALUES ('rebuild')")
            connection.execute("INSERT INTO audit(row) VALUES (NULL)")
        connection.execute("UPDATE done SET commits = commits + 1")
        if chance.random() < 0.2:
            connection.execute("ROLLBACK")
            continue
        commits = connection.execute("SELECT commits FROM done").fetchone()[0]
        connection.execute("COMMIT")
        os.write(1, b"%d\\n" % commits)
        if chance.random() < 0.1:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            write(sys.argv[1], len(sys.argv) > 2, int(line))
        finally:
            os.write(1, b"the writer ended by itself\\n")
            os._exit(1)
    time.sleep(float(sys.stdin.readline()))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    os.write(1, b"killed %d\\n" % status)
"""


def when_to_kill(chance):
    """After how many commits, and how many seconds then: from before the writer has opened the file to some dozens of
    transactions."""
    return int(chance.random() ** 2 * 40), chance.random() ** 2 * 0.02


class Driver:
    """Kills writers that run in Python, with or without the extension."""

    def __init__(self, path, extension):
        self.chance = random.Random(str(extension))
        command = [sys.executable, "-c", DRIVER, str(path), *([database.EXTENSION] if extension else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run_and_kill(self, number):
        """How many commits it told of."""
        self.say(number)
        awaited, seconds = when_to_kill(self.chance)
        commits = said = 0
        if not awaited:
            self.say(seconds)
        for line in self.process.stdout:
            if line.startswith("killed"):
                assert line.split()[1] == str(int(signal.SIGKILL)), "the writer ended by itself"
                return commits
            commits, said = int(line), said + 1
            if said == awaited:
                self.say(seconds)
        raise AssertionError("the driver ended")

    def say(self, what):
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=300)


class Shells:
    """Kills sqlite3 shells, which know nothing of the extension."""

    def __init__(self, path, _extension):
        self.path = path
        self.chance = random.Random("shell")

    def transaction(self):
        """Some changes, with their entries for the audit."""
        lines = ["BEGIN IMMEDIATE;"]
        for _ in range(self.chance.randint(1, 8)):
            row, new = self.chance.randint(1, ROWS), vector(*(self.chance.randint(-3, 3) for _ in range(3))).hex()
            condition = self.chance.choice([f"pk = {row}", f"pk % 25 = {row % 25} AND pk <= {ROWS}"])
            note = f"INSERT INTO audit(row) SELECT pk FROM docs WHERE {condition} ORDER BY pk;"
            lines.append(
                self.chance.choice(
                    [
                        f"{note} UPDATE docs SET embedding = X'{new}' WHERE {condition};",
                        f"{note} DELETE FROM docs WHERE {condition};",
                        f"INSERT INTO audit(row) VALUES ({row}); REPLACE INTO docs VALUES ({row}, {row}, X'{new}');",
                    ]
                )
            )
        lines.append("UPDATE done SET commits = commits + 1; COMMIT; SELECT commits FROM done;")
        return "\n".join(lines)

    def run_and_kill(self, _number):
        script = self.path.with_name("script.sql")
        script.write_text(
            "PRAGMA synchronous = OFF;\nPRAGMA cache_size = 10;\n.timeout 300000\n"
            + "\n".join(self.transaction() for _ in range(400))  # more than it has time for
        )
        with open(script) as file:
            process = subprocess.Popen(
                [SHELL, "-batch", "-init", "/dev/null", str(self.path)],
                stdin=file, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        awaited, seconds = when_to_kill(self.chance)
        told = "".join(process.stdout.readline() for _ in range(awaited))  # a line for each commit
        time.sleep(seconds)
        process.kill()
        told += process.communicate()[0]
        assert "rror" not in told, told
        numbers = [line for line in told.split("\n")[:-1] if line.isdigit()]  # the last may be cut off
        return int(numbers[-1]) if numbers else 0

    def close(self):
        pass


WRITERS = {
    "python with the extension": (Driver, True),
    "python without it": (Driver, False),
    "shell": (Shells, False),
}


def make(path, journal):
    chance = random.Random(0)
    connection = database.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
    connection.executescript(
        "CREATE TABLE docs(pk INTEGER PRIMARY KEY, id INTEGER, embedding BLOB);"
        "CREATE TABLE audit(number INTEGER PRIMARY KEY, row INTEGER);"
        "CREATE TABLE done(commits INTEGER); INSERT INTO done VALUES (0);"
    )
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?, ?)",
        # Only what is inserted behind the last is not logged row by row.
        [(pk, pk // 2, vector(*(chance.randint(-3, 3) for _ in range(3)))) for pk in (*range(1, ROWS + 1), 2 * 10**9)],
    )
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    connection.execute("COMMIT")
    # From here on the two count alike.
    connection.execute("INSERT INTO audit SELECT seq, row FROM docs_faiss_log")
    connection.close()


def assert_right_answers(connection):
    for query in QUERIES:
        table = rows(connection, "SELECT pk, id, embedding FROM docs")
        everything = oracle.nearest(table, query)
        assert rows(connection, "SELECT id, score FROM docs_index(?)", [query]) == everything
        assert rows(connection, "SELECT id, score FROM faiss_search('main', 'docs', ?, 9)", [query]) == everything[:9]


def assert_sound(connection):
    assert rows(connection, "PRAGMA integrity_check") == [("ok",)]
    assert_right_answers(connection)
    connection.execute("INSERT INTO docs_index(docs_index) VALUES ('integrity-check')")
    first, last = connection.execute("SELECT min(seq), max(seq) FROM docs_faiss_log").fetchone()
    assert last == scalar(connection, "SELECT max(number) FROM audit")
    assert first <= max(1, last - RING + 1)
    # Side by side: rows of the one that are not in the other.
    for one, other in (("docs_faiss_log", "audit"), ("audit", "docs_faiss_log")):
        numbers = {"audit": "number", "docs_faiss_log": "seq"}
        assert rows(
            connection,
            f"SELECT {numbers[one]}, row FROM {one} WHERE {numbers[one]} >= {first} EXCEPT"
            f" SELECT {numbers[other]}, row FROM {other}",
        ) == []
    assert scalar(connection, "SELECT count(*) FROM faiss_indexes WHERE live <> 'yes'") == 0


@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_a_writer_killed_at_any_moment(tmp_path, connect, journal, writer):
    path = tmp_path / "docs.db"
    make(path, journal)
    kind, extension = writer
    killer = kind(path, extension)
    chance = random.Random(1)
    kept = None
    before = 0
    in_the_middle = 0  # runs that left a journal or a log of their own to recover
    try:
        for number in range(RUNS):
            # In some runs a connection that has searched before meets what is left first, …
            if kept is None and chance.random() < 0.5:
                kept = connect(path, timeout=300)
                assert_right_answers(kept)
            elif kept is not None and chance.random() < 0.3:
                kept.close()
                kept = None
            told = killer.run_and_kill(number)
            left = path.with_name(path.name + ("-wal" if journal == "wal" else "-journal"))
            in_the_middle += left.exists() and left.stat().st_size > 0
            if kept is not None:
                assert_right_answers(kept)
            # … in the others a new one.
            connection = connect(path, timeout=300)
            assert_sound(connection)
            assert scalar(connection, "SELECT commits FROM done") >= max(told, before)
            before = scalar(connection, "SELECT commits FROM done")
            connection.close()
    finally:
        killer.close()
    assert in_the_middle > RUNS // 10
    assert scalar(connect(path), "SELECT commits FROM done") > RUNS
