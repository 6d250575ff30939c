"""The Datasette plugin of sqlite-faiss."""

from sqlite_faiss import decode, encode

__all__ = ["decode", "encode"]
