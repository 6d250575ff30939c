"""The Datasette plugin of sqlite-faiss."""

from sqlite_faiss import decode, encode

__all__ = ["decode", "encode"]

# `from datasette_faiss import encode` works where Datasette is not installed, too.
try:
    import datasette as _datasette
except ImportError:
    _datasette = None
if _datasette is not None:
    from .hooks import *  # noqa: F403
