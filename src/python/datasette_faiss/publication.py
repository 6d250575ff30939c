"""Makes the configured tables searchable from every database of the instance.

For each file that has configured tables, a Publisher keeps a connection of its own, which
runs no visitor's SQL. On it the extension's host entry point is loaded, and with that the
function faiss_publish(), so that only this module can publish anything. A thread then
builds the indexes, one after the other, and tells the log how far it is; the server
answers meanwhile, and a search of a table that is not indexed yet waits for it as long as
Datasette's time limit allows.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import sys
import threading
import time
from dataclasses import dataclass

import sqlite_faiss
from datasette.utils import escape_sqlite

from .configuration import ConfigurationError

LOG = logging.getLogger("datasette_faiss")
SECONDS_BETWEEN_REPORTS = 5
# SQLite asks a progress handler after this many instructions.
INSTRUCTIONS_BETWEEN_LOOKS = 10_000


@dataclass
class State:
    """How far the index of a configured table is."""

    phase: str = "waiting"  # then "indexing", then "ready" or "failed"
    error: str | None = None
    seconds: float | None = None


class Publisher:
    """The private connection to one database, and the tables that it publishes."""

    def __init__(self, db):
        self.name = db.name
        self.tables = []
        self.states = {}
        self._closing = False
        # One statement at a time: the indexing thread, and the start of the server.
        self._lock = threading.Lock()
        self._connection = open_private(db)

    def publish(self, configured):
        """Publish a table; ConfigurationError where the extension refuses it."""
        arguments = [self.name, configured.table]
        if configured.options:  # a faiss table has its own, and refuses even none
            arguments.append(options_text(configured.options))
        places = ", ".join("?" for _ in arguments)
        try:
            with self._lock:
                self._connection.execute(f"SELECT faiss_publish({places})", arguments).fetchall()
        except sqlite3.Error as error:
            # The table's schema is called main on the connection that it is published from.
            said = str(error).replace(f"main.{configured.table}", f"{self.name}.{configured.table}")
            raise ConfigurationError(f"{configured.place}: {said}") from error
        self.tables.append(configured)
        self.states[configured.table] = State()

    def build(self, configured):
        """Build the index, or bring it up to date. Errors go to the log and the state."""
        state = self.states[configured.table]
        name = f"{self.name}.{configured.table}"
        begun = time.monotonic()
        state.phase = "indexing"
        try:
            with self._lock:
                rows = self._connection.execute(
                    f"SELECT count(*) FROM {escape_sqlite(configured.table)}"
                ).fetchone()[0]
                LOG.info("%s: indexing %s rows", name, f"{rows:,}")
                self._connection.set_progress_handler(
                    Progress(self, name, rows), INSTRUCTIONS_BETWEEN_LOOKS
                )
                try:
                    self._search(configured)
                finally:
                    self._connection.set_progress_handler(None, 0)
                facts = self._facts(configured.table)
        except sqlite3.Error as error:
            if not self._closing:
                state.phase, state.error = "failed", str(error)
                LOG.error("%s: not indexed: %s", name, error)
            return
        state.phase, state.seconds = "ready", time.monotonic() - begun
        LOG.info("%s: %s in %.1f s", name, facts, state.seconds)

    def _search(self, configured):
        """Any search builds the index; the vector is one of the table's own."""
        embedding = escape_sqlite(configured.options.get("embedding", "embedding"))
        table = escape_sqlite(configured.table)
        self._connection.execute(
            f"SELECT faiss_search(?, ?, (SELECT {embedding} FROM {table}"
            f" WHERE {embedding} IS NOT NULL LIMIT 1), 1)",
            [self.name, configured.table],
        ).fetchall()

    def _facts(self, table):
        found = self._connection.execute(
            'SELECT "rows", dimension, bytes, left_out FROM faiss_indexes WHERE "table" = ?',
            [table],
        ).fetchone()
        if found is None:
            return "no rows yet"
        rows, dimension, size, left_out = found
        left = f", {left_out:,} malformed rows left out" if left_out else ""
        return f"indexed {rows:,} rows of {dimension} dimensions, {size / 1e6:,.1f} MB{left},"

    def close(self):
        self._closing = True
        self._connection.interrupt()
        with self._lock:
            for configured in self.tables:
                try:
                    self._connection.execute(
                        "SELECT faiss_unpublish(?, ?)", [self.name, configured.table]
                    ).fetchall()
                except sqlite3.Error as error:
                    LOG.error("%s.%s: %s", self.name, configured.table, error)
            self._connection.close()


class Progress:
    """What SQLite calls while an index is built: says from time to time that it goes on."""

    def __init__(self, publisher, name, rows):
        self._publisher = publisher
        self._name = name
        self._rows = rows
        self._begun = self._reported = time.monotonic()

    def __call__(self):
        now = time.monotonic()
        if now - self._reported >= SECONDS_BETWEEN_REPORTS:
            self._reported = now
            LOG.info(
                "%s: still indexing %s rows, %.0f s so far",
                self._name,
                f"{self._rows:,}",
                now - self._begun,
            )
        return self._publisher._closing  # true ends the statement


def options_text(options):
    """The options as CREATE VIRTUAL TABLE ... USING faiss(...) has them, values in quotes."""
    quoted = {name: value.replace('"', '""') for name, value in options.items()}
    return ", ".join(f'{name}="{value}"' for name, value in quoted.items())


def open_private(db):
    """A connection to the database as Datasette opens it, with the host's functions."""
    connection = db.connect()
    connection.isolation_level = None
    load_host(connection)
    return connection


def bound_other_builds(megabytes):
    """The most memory that indexes of unpublished tables may take, for the whole process."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        load_host(connection)
        connection.execute("SELECT faiss_limit(?)", [megabytes * 1_000_000]).fetchall()


def load_host(connection):
    """Load the extension, or close the connection and raise ConfigurationError."""
    try:
        sqlite_faiss.load_host(connection)
    except (RuntimeError, sqlite3.Error) as error:
        connection.close()
        raise ConfigurationError(f"the FAISS extension cannot be loaded: {error}") from error


def log_to_standard_error():
    """Datasette's server prints only its own log: without a handler nobody would see ours."""
    if not LOG.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s:     faiss: %(message)s"))
        LOG.addHandler(handler)
        LOG.propagate = False
    if LOG.level == logging.NOTSET:
        LOG.setLevel(logging.INFO)
