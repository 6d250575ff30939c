"""How a vector looks in a table cell: its first numbers and its dimension."""

from __future__ import annotations

import struct
import urllib.parse

import markupsafe
from datasette.utils import path_from_row_pks

SHOWN = 3


def short_form(blob):
    """(text, dimension) of a BLOB of float32, such as ("0.012, -0.034, 0.5, …", 384); None
    where it is none."""
    if not isinstance(blob, bytes) or not blob or len(blob) % 4:
        return None
    dimension = len(blob) // 4
    numbers = struct.unpack_from(f"<{min(dimension, SHOWN)}f", blob)
    text = ", ".join(f"{number:.3g}" for number in numbers)
    return text + (", …" if dimension > SHOWN else ""), dimension


def render_vector(blob, href=None):
    """The cell's HTML, which links to the BLOB itself where there is an address for it."""
    found = short_form(blob)
    if found is None:
        return None
    text, dimension = found
    count = f"{dimension:,} dimension{'' if dimension == 1 else 's'}"
    numbers = markupsafe.Markup('<span class="faiss-numbers">[{}]</span>').format(text)
    size = markupsafe.Markup('<span class="faiss-dimension">{}</span>').format(count)
    if href:
        size = markupsafe.Markup(
            '<a class="blob-download" href="{}" title="Download {:,} bytes">{}</a>'
        ).format(href, len(blob), size)
    return markupsafe.Markup('<span class="faiss-vector">{} {}</span>').format(numbers, size)


def blob_address(datasette, database, table, column, row, primary_keys):
    """Where the BLOB can be downloaded, or None if the row does not say which row it is."""
    names = row.keys()
    if any(name not in names for name in primary_keys or ["rowid"]):
        return None
    path = path_from_row_pks(row, primary_keys, not primary_keys)
    address = datasette.urls.table(database, table)
    return f"{address}/{path}.blob?_blob_column={urllib.parse.quote_plus(column)}"
