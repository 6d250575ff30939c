"""Connections with the extension loaded, and the few tables most tests start from."""

import contextlib
import os
import sqlite3
import struct
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTENSION = str(Path(os.environ.get("SQLITE_FAISS") or ROOT / "build" / "faiss").resolve())
SHELL = "/usr/bin/sqlite3"
# Instrumented code is several times slower, and what it is run for shows with fewer examples.
SANITIZED = bool(os.environ.get("SQLITE_FAISS_SANITIZE"))


def load(connection):
    connection.enable_load_extension(True)
    connection.load_extension(EXTENSION)
    connection.enable_load_extension(False)
    return connection


def plain(path=":memory:", timeout=0.0, **options):
    """A connection without the extension; transactions are begun by the tests alone."""
    return sqlite3.connect(
        str(path), isolation_level=None, check_same_thread=False, timeout=timeout, **options
    )


def connect(path=":memory:", timeout=0.0, **options):
    return load(plain(path, timeout, **options))


def host(path=":memory:", timeout=0.0, **options):
    """A connection that may publish."""
    connection = plain(path, timeout, **options)
    connection.enable_load_extension(True)
    connection.execute("SELECT load_extension(?, 'sqlite3_faiss_host_init')", [EXTENSION])
    connection.enable_load_extension(False)
    return connection


def vector(*values):
    """The BLOB of these float32 values."""
    return struct.pack(f"<{len(values)}f", *values)


def values(blob):
    return list(struct.unpack(f"<{len(blob) // 4}f", blob))


def quote(name):
    """`name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def fill(connection, vectors, table="docs", first=1):
    """Make `table` with one row per vector (None for NULL), ids counting from `first`."""
    connection.execute("SAVEPOINT fill")  # one write to the file, not one for each row
    connection.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.executemany(
        f"INSERT INTO {table} VALUES (?, ?)",
        [
            (first + position, None if row is None else vector(*row))
            for position, row in enumerate(vectors)
        ],
    )
    connection.execute("RELEASE fill")


def live_names(table="docs"):
    """What faiss tables that are live add to the schema beside themselves, by name."""
    return [f"{table}_faiss_{name}" for name in ("delete", "insert", "log", "move", "update")]


def scalar(connection, sql, parameters=()):
    return connection.execute(sql, parameters).fetchone()[0]


def rows(connection, sql, parameters=()):
    return connection.execute(sql, parameters).fetchall()


def column(connection, sql, parameters=()):
    return [row[0] for row in connection.execute(sql, parameters)]


def plan(connection, sql, parameters=()):
    """The lines of EXPLAIN QUERY PLAN."""
    return [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, parameters)]


@contextlib.contextmanager
def interrupted(connection, seconds_at_most):
    """Interrupts what the connection does in this block, from a moment after its begin on, again and again: an interrupt
    that comes before a statement has begun, as on a busy machine, is lost. Nor is it the time of others that the block
    may take no more of."""
    is_over = threading.Event()

    def interrupt():
        is_over.wait(0.2)
        while not is_over.wait(0.02):
            connection.interrupt()

    thread, began = threading.Thread(target=interrupt), time.process_time()
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
    assert time.process_time() - began < seconds_at_most
