"""What a database holds of this extension: its faiss tables, and the tables that belong to them.

Read through a connection of its own, since Datasette asks for it where nothing can be
awaited (which tables to hide, how to show a cell). A look costs some microseconds as long
as the schema is the same.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from dataclasses import dataclass, field

from datasette.utils import escape_sqlite

IS_FAISS_TABLE = re.compile(
    r"^\s*CREATE\s+VIRTUAL\s+TABLE\b.*\bUSING\s+[\"'`\[]?faiss\b", re.IGNORECASE | re.DOTALL
)
# The one option that the config table does not repeat.
METRIC = re.compile(r"\bmetric\s*=\s*[\"']?(l2|ip|cosine)\b", re.IGNORECASE)
# Tables beside a faiss table, named after it, and the log, named after its source.
SHADOWS = ("config", "checkpoint")
TABLES = "SELECT name, sql FROM sqlite_master WHERE type = 'table'"


@dataclass(frozen=True)
class FaissTable:
    """A faiss table as its config table describes it."""

    name: str
    source: str
    id: str | None
    embedding: str
    metric: str


@dataclass(frozen=True)
class Contents:
    faiss_tables: tuple = ()
    # The tables that keep definitions and logs, which are not for readers: name -> source.
    internal: dict = field(default_factory=dict)


class Catalogue:
    """The faiss tables of one of Datasette's databases.

    Used by several threads; `_lock` guards the connection and what was read last.
    """

    NOTHING = Contents()

    def __init__(self, db):
        self.db = db
        self._lock = threading.Lock()
        self._connection = None
        self._version = None
        self._contents = self.NOTHING

    def contents(self):
        """As the schema is now; as it was last, where a writer keeps the file locked."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self.db.connect()
                    self._connection.execute("PRAGMA busy_timeout = 0")
                # One transaction: what is read belongs to the version that is noted.
                self._connection.execute("BEGIN")
                try:
                    self._look()
                finally:
                    self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                pass
            return self._contents

    def _look(self):
        version = self._connection.execute("PRAGMA schema_version").fetchone()[0]
        if version != self._version:
            self._contents = read_contents(self._connection)
            self._version = version

    def close(self):
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def read_contents(connection):
    """The Contents of the schema main; sqlite3.Error where it cannot be read."""
    definitions = dict(connection.execute(TABLES).fetchall())
    faiss_tables, internal = [], {}
    for name, sql in definitions.items():
        if not sql or not IS_FAISS_TABLE.match(sql):
            continue
        values = read_config(connection, f"{name}_config")
        source = values.get("source")
        if not isinstance(source, str):
            continue
        metric = METRIC.search(sql)
        faiss_tables.append(
            FaissTable(
                name,
                source,
                values.get("id"),
                values.get("embedding", "embedding"),
                metric[1].lower() if metric else "l2",
            )
        )
        beside = [f"{source}_faiss_log", *(f"{name}_{shadow}" for shadow in SHADOWS)]
        internal.update((table, source) for table in beside if table in definitions)
    return Contents(tuple(faiss_tables), internal)


def read_config(connection, table):
    """name -> value; nothing where the table is not one of ours."""
    try:
        return dict(connection.execute(f"SELECT k, v FROM {escape_sqlite(table)}").fetchall())
    except sqlite3.OperationalError:
        return {}
