"""The plugin for sqlite-utils: its commands and its Database have the SQL functions."""

from __future__ import annotations

import sqlite3
import warnings

from sqlite_utils import hookimpl

from .extension import load


@hookimpl
def prepare_connection(conn: sqlite3.Connection) -> None:
    try:
        load(conn)
    except (RuntimeError, sqlite3.Error) as error:
        # All other commands of sqlite-utils work without the extension.
        warnings.warn(f"sqlite-faiss is not loaded: {error}", RuntimeWarning, stacklevel=2)
