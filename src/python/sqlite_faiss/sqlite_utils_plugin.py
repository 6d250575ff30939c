"""The plugin for sqlite-utils: its commands and its Database have the SQL functions."""

from __future__ import annotations

import sqlite3
import warnings

from sqlite_utils import hookimpl

from .extension import load


@hookimpl
def prepare_connection(conn: sqlite3.Connection) -> None:
    # Datasette 1.0 makes a sqlite_utils.Database of connections in use. Loaded once more, the
    # extension would forget which faiss tables such a connection has opened.
    loaded = "SELECT 1 FROM pragma_function_list WHERE name = 'faiss_version'"
    try:
        if not conn.execute(loaded).fetchone():
            load(conn)
    except (RuntimeError, sqlite3.Error) as error:
        # All other commands of sqlite-utils work without the extension.
        warnings.warn(f"sqlite-faiss is not loaded: {error}", RuntimeWarning, stacklevel=2)
