"""The map: every row of a table as a point, by its two main components.

The coordinates come from the table-valued function faiss_project(). They are kept for as
long as the index stays as it is; labels are read anew each time.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from array import array
from dataclasses import dataclass

from datasette.utils import escape_sqlite, sqlite_timelimit

from . import search

# The most points that are sent; of larger tables every nth row is.
SAMPLE = 20_000
# Rows that a page may ask for by name beside the sample.
MOST_INCLUDED = 100
# Once for each state of the index, so it may take longer than a visitor's query.
SECONDS = 60

PROJECT = "SELECT {key}, x, y FROM faiss_project(?, ?, 2)"


@dataclass
class Coordinates:
    """All rows' places, with the distance of the farthest from the centre as 1."""

    facts: dict
    keys: list
    x: array
    y: array


_locks = weakref.WeakKeyDictionary()  # Datasette -> {(database, table): asyncio.Lock}
_kept = weakref.WeakKeyDictionary()  # Datasette -> {(database, table): Coordinates}


async def can_project(db):
    """Whether the extension has faiss_project(): SQLITE_FAISS_LIBRARY may name another build."""
    found = await db.execute("SELECT 1 FROM pragma_module_list WHERE name = 'faiss_project'")
    return bool(found.rows)


async def project(datasette, source, include=()):
    """{"rows", "sampled", "points": {"x", "y", "path", "label"}} of an indexed table."""
    coordinates = await current_coordinates(datasette, source)
    place = {key: number for number, key in enumerate(coordinates.keys)}
    every = -(-len(place) // SAMPLE) or 1
    chosen = set(range(0, len(place), every))
    for path in list(include)[:MOST_INCLUDED]:
        key = await key_of(datasette, source, path)
        if key in place:
            chosen.add(place[key])
    wanted = sorted(chosen)
    described = await describe_rows(
        datasette, source, [coordinates.keys[number] for number in wanted]
    )
    points = {"x": [], "y": [], "path": [], "label": []}
    for number in wanted:
        row = described.get(coordinates.keys[number])
        if row is None:  # deleted meanwhile
            continue
        points["x"].append(round(coordinates.x[number], 4))
        points["y"].append(round(coordinates.y[number], 4))
        points["path"].append(row["path"])
        points["label"].append(row["label"])
    return {"rows": len(place), "sampled": every > 1, "points": points}


async def current_coordinates(datasette, source):
    """The kept ones, if the index has not changed since; one task at a time computes them."""
    name = (source.indexed.database, source.indexed.table)
    lock = _locks.setdefault(datasette, {}).setdefault(name, asyncio.Lock())
    async with lock:
        kept = _kept.setdefault(datasette, {})
        facts = await index_state(datasette, source)
        if name not in kept or kept[name].facts is None or kept[name].facts != facts:
            rows = await datasette.get_database(name[0]).execute_fn(
                lambda connection: compute(connection, source)
            )
            kept[name] = normalized(await index_state(datasette, source), rows)
        return kept[name]


async def index_state(datasette, source):
    facts = await search.index_facts(datasette, source.indexed)
    return facts and {name: facts[name] for name in ("rows", "bytes", "build_seconds")}


def compute(connection, source):
    indexed = source.indexed
    with sqlite_timelimit(connection, SECONDS * 1000):
        return connection.execute(
            PROJECT.format(key=source.result_key),
            [indexed.search_database, indexed.search_table],
        ).fetchall()


def normalized(facts, rows):
    x, y = array("f"), array("f")
    for _, first, second in rows:
        x.append(first)
        y.append(second or 0.0)
    farthest = max((abs(number) for axis in (x, y) for number in axis), default=0.0) or 1.0
    scale = 1 / farthest
    return Coordinates(
        facts,
        [row[0] for row in rows],
        array("f", (number * scale for number in x)),
        array("f", (number * scale for number in y)),
    )


async def key_of(datasette, source, path):
    db = datasette.get_database(source.indexed.database)
    try:
        _, _, key = await search.find_row(db, source, path)
    except search.QuestionError:
        return None
    return key


async def describe_rows(datasette, source, keys):
    """key -> {"path", "label"} of these rows."""
    names = list(source.primary_keys)
    if source.label and source.label not in names:
        names.append(source.label)
    if source.is_view and source.key not in names:
        names.append(source.key)
    key, table = escape_sqlite(source.key), escape_sqlite(source.indexed.table)
    columns = ", ".join(escape_sqlite(name) for name in [source.key, *names])
    sql = f"SELECT {columns} FROM {table} WHERE {key} IN (SELECT value FROM json_each(?))"

    def read(connection):
        with sqlite_timelimit(connection, SECONDS * 1000):
            return connection.execute(sql, [json.dumps(keys)]).fetchall()

    found = {}
    for row in await datasette.get_database(source.indexed.database).execute_fn(read):
        values = dict(zip(names, list(row)[1:]))
        if not source.is_view and not source.primary_keys:
            values["rowid"] = row[0]
        found[row[0]] = {"path": source.path(values), "label": source.label_of(values)}
    return found
