"""Nearest neighbours in SQLite, by FAISS: loading the extension, and vectors as BLOBs.

    import sqlite3, sqlite_faiss

    db = sqlite3.connect("docs.db")
    sqlite_faiss.load(db)
    db.execute("SELECT id, score FROM faiss_search('main', 'docs', ?, 5)",
               [sqlite_faiss.encode([0.1, 0.2, 0.3])])

`sqlite_faiss.__version__` is the version of the package, the SQL function faiss_version()
tells those of the extension and of FAISS.
"""

from __future__ import annotations

from .extension import load, load_host, loadable_path
from .vectors import decode, encode

__all__ = ["decode", "encode", "load", "load_host", "loadable_path"]


def __getattr__(name: str) -> str:
    # Only when asked for: reading the metadata takes longer than all the rest.
    if name == "__version__":
        from importlib.metadata import version

        return version("sqlite-faiss")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
