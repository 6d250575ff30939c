"""Searches for the pages: from what a visitor asks for to rows with scores.

Every statement runs through Datasette, on the connection of the table's own database, under
its time limit.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from datasette.filters import Filters
from datasette.utils import escape_sqlite, tilde_encode, urlsafe_components

LIMIT = 10
LARGEST_LIMIT = 1000
ROWID_NAMES = ("rowid", "_rowid_", "oid")


class QuestionError(Exception):
    """The visitor's question cannot be answered; the message is for the visitor."""


@dataclass(frozen=True)
class Source:
    """An indexed table with what is needed to select from it and to link to its rows."""

    indexed: object
    columns: tuple  # without the embedding
    primary_keys: tuple
    # The column by which results are joined with the table: a name of the rowid, or the id.
    key: str
    # What the extension calls it: "rowid" or "id".
    result_key: str
    label: str | None
    is_view: bool

    def path(self, row):
        """How Datasette writes the row in an address: "17", or "a,b" for two keys."""
        if self.is_view:
            return None
        if not self.primary_keys:
            return tilde_encode(str(row["rowid"]))
        return ",".join(tilde_encode(str(row[name])) for name in self.primary_keys)

    def label_of(self, row):
        value = row.get(self.label) if self.label else None
        if value is None or isinstance(value, bytes):
            keys = self.primary_keys or [self.key if self.is_view else "rowid"]
            return ", ".join(str(row[name]) for name in keys)
        return str(value)


@dataclass
class Question:
    """A search. One of `like` and `vector`, or neither: then there are no results."""

    like: str | None = None  # the path of a row, or its label
    vector: str | None = None  # JSON, or numbers between commas or blanks
    limit: int = LIMIT
    filters: list = field(default_factory=list)  # (column, value) pairs as in Datasette's URLs


@dataclass
class Answer:
    rows: list  # of dicts: path, label, score, distance, values
    # The row whose neighbours these are, as such a dict without scores.
    like: dict | None = None


async def describe(datasette, indexed):
    """The Source of an IndexedTable. QuestionError if the table is gone."""
    db = datasette.get_database(indexed.database)
    kinds = (
        await db.execute(
            "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ?",
            [indexed.table],
        )
    ).rows
    if not kinds:
        raise QuestionError(f"there is no table {indexed.table} in {indexed.database}")
    kind, without_rowid = kinds[0]
    columns = [
        row[0]
        for row in (
            await db.execute(
                "SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1", [indexed.table]
            )
        ).rows
    ]
    taken = {name.lower() for name in columns}
    free = [name for name in ROWID_NAMES if name not in taken]
    has_rowid = kind == "table" and not without_rowid and free
    shown = tuple(name for name in columns if name.lower() != indexed.embedding.lower())
    label = indexed.label
    if not label and kind != "view":  # 1.0 cannot say for a view
        label = await db.label_column_for_table(indexed.table)
    if label not in shown:
        label = None
    return Source(
        indexed,
        shown,
        tuple(await db.primary_keys(indexed.table)) if kind != "view" else (),
        free[0] if has_rowid else (indexed.id or "id"),
        "rowid" if has_rowid else "id",
        label or await first_text_column(db, indexed, shown),
        kind == "view",
    )


async def first_text_column(db, indexed, shown):
    """The first column of text that is no key: the best name for a row that there is."""
    rows = await db.execute(
        "SELECT name FROM pragma_table_xinfo(?) WHERE pk = 0 AND hidden <> 1"
        " AND (type LIKE '%char%' OR type LIKE '%text%' OR type LIKE '%clob%')",
        [indexed.table],
    )
    return next((row[0] for row in rows.rows if row[0] in shown), None)


async def answer(datasette, source, question, time_limit=None):
    """The Answer to a Question. QuestionError, datasette.database.QueryInterrupted."""
    db = datasette.get_database(source.indexed.database)
    try:
        like = vector = itself = None
        if question.like:
            like, vector, itself = await find_row(db, source, question.like)
        elif question.vector:
            vector = json_vector(question.vector)
        if vector is None:
            return Answer([], like)
        sql, parameters = search_sql(source, question, vector, itself)
        found = await db.execute(
            sql, parameters, custom_time_limit=time_limit, log_sql_errors=False
        )
    except sqlite3.Error as error:
        raise QuestionError(str(error)) from error
    return Answer([result(source, row) for row in found.rows], like)


def json_vector(text):
    """What was pasted as a JSON array: it may have lost its brackets, or its commas."""
    text = text.strip()
    if text.startswith(("[", "{", '"')):
        return text
    return "[" + ", ".join(text.replace(",", " ").split()) + "]"


async def find_row(db, source, like):
    """(row, its embedding, its key) of the row with this path or label. QuestionError."""
    columns = ", ".join(f"t.{escape_sqlite(name)}" for name in [source.key, *source.columns])
    embedding = escape_sqlite(source.indexed.embedding)
    table = escape_sqlite(source.indexed.table)
    for condition, values in row_conditions(source, like):
        found = await db.execute(
            f"SELECT t.{embedding}, {columns} FROM {table} AS t WHERE {condition} LIMIT 1",
            values,
            log_sql_errors=False,
        )
        if found.rows:
            vector, key, *_ = found.rows[0]
            row = described(source, key, found.rows[0][2:])
            if vector is None:
                raise QuestionError(f"{row['label']} has no embedding")
            return row, vector, key
    raise QuestionError(f"no row of {source.indexed.table} is {like}")


def row_conditions(source, like):
    """The ways to read `like`: as the path in the row's address, as a key, as a label."""
    keys = source.primary_keys or (source.key,)
    readings = [urlsafe_components(like)]
    if len(keys) == 1 and readings[0] != [like]:
        readings.append([like])
    for values in readings:
        if len(values) == len(keys):
            condition = " AND ".join(
                f"t.{escape_sqlite(name)} = :p{number}" for number, name in enumerate(keys)
            )
            yield condition, {f"p{number}": value for number, value in enumerate(values)}
    if source.label:
        yield f"t.{escape_sqlite(source.label)} = :label", {"label": like}


def search_sql(source, question, vector, itself):
    """(statement, parameters). Filters are Datasette's own, answered inside the search."""
    key, table = escape_sqlite(source.key), escape_sqlite(source.indexed.table)
    parameters = {
        "search_database": source.indexed.search_database,
        "search_table": source.indexed.search_table,
        "vector": vector,
        "wanted": question.limit,
    }
    conditions = []
    if itself is not None:
        conditions.append(f"n.{source.result_key} IS NOT :itself")
        parameters["itself"] = itself
    if question.filters:
        clauses, values = Filters(question.filters).build_where_clauses(source.indexed.table)
        if clauses:
            conditions.append(
                f"n.{source.result_key} IN"
                f" (SELECT {key} FROM {table} WHERE {' AND '.join(clauses)})"
            )
            parameters.update(values)
    arguments = ":search_database, :search_table, :vector"
    if len(conditions) == (itself is not None):
        # Nothing but the row itself is left out: k is known.
        arguments += ", :wanted + 1"
    columns = ", ".join(f"t.{escape_sqlite(name)}" for name in [source.key, *source.columns])
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return (
        f"SELECT n.score, n.distance, {columns} FROM faiss_search({arguments}) AS n"
        f" JOIN {table} AS t ON t.{key} = n.{source.result_key}{where}"
        " ORDER BY n.distance LIMIT :wanted",
        parameters,
    )


def result(source, row):
    score, distance, key, *values = row
    return {**described(source, key, values), "score": score, "distance": distance}


def described(source, key, values):
    row = dict(zip(source.columns, values))
    with_key = row if source.is_view or source.primary_keys else {**row, "rowid": key}
    return {"path": source.path(with_key), "label": source.label_of(with_key), "values": row}


FACTS = """
SELECT "rows", dimension, metric, kind, bytes, build_seconds, searches, left_out, live
FROM faiss_indexes
WHERE "table" = :table COLLATE NOCASE AND database IN (:database, 'main') AND metric = :metric
ORDER BY database = :database DESC, searches DESC LIMIT 1
"""


async def index_facts(datasette, indexed):
    """What faiss_indexes tells of the table's index, as a dict; None before it is built."""
    db = datasette.get_database(indexed.database)
    found = (
        await db.execute(
            FACTS,
            {
                "table": indexed.table,
                "database": indexed.search_database,
                "metric": indexed.metric,
            },
        )
    ).first()
    return dict(found) if found else None


def read_limit(text):
    """The number of rows asked for. QuestionError."""
    if text in (None, ""):
        return LIMIT
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= LARGEST_LIMIT:
        raise QuestionError(f"k must be a whole number from 1 to {LARGEST_LIMIT}, not {text}")
    return int(text)


def read_filters(source, pairs):
    """The pairs that name a column of the table, as Datasette's filters do ("lang",
    "year__gte"). QuestionError for one that does not, or for an unknown comparison."""
    lookups = {lookup for lookup, _, _ in Filters([]).lookups()}
    filters = []
    for name, value in pairs:
        column, _, lookup = name.rpartition("__") if "__" in name else (name, "", "exact")
        if name in source.columns:
            column, lookup = name, "exact"
        if column not in source.columns or '"' in column:
            raise QuestionError(f"{source.indexed.table} has no column {column} to filter by")
        if lookup not in lookups:
            raise QuestionError(f"{name}: unknown comparison {lookup}")
        filters.append((f"{column}__{lookup}", value))
    return filters
