"""The pages /-/faiss and /-/faiss/DATABASE/TABLE, and the same as JSON."""

from __future__ import annotations

import base64
import json
import urllib.parse

from datasette.database import QueryInterrupted
from datasette.filters import Filters
from datasette.utils import (
    filters_should_redirect,
    tilde_decode,
    tilde_encode,
)
from datasette.utils.asgi import Forbidden, NotFound, Response

from . import search
from .assets import asset_url
from .cells import render_vector
from .instance import instance_of
from .publication import State
from .projection import can_project, project
from .versions import may_view_instance, may_view_table

SCORES = {
    "l2": "squared Euclidean distance",
    "ip": "inner product",
    "cosine": "cosine similarity",
}
# Parameters that are no filters.
QUESTION = ("like", "vector", "k")
# Of a text in a cell.
LONGEST_TEXT = 100


def page_path(indexed):
    """The address of a table's page, for datasette.urls.path()."""
    return f"/-/faiss/{tilde_encode(indexed.database)}/{tilde_encode(indexed.table)}"


# The overview


async def overview(datasette, request):
    if not await may_view_instance(datasette, request.actor):
        raise Forbidden("You do not have permission to view this instance")
    instance = instance_of(datasette)
    entries = []
    for database in datasette.databases:
        if database == "_internal":
            continue
        for indexed in instance.tables(database):
            if await may_view_table(datasette, request.actor, database, indexed.table):
                entries.append(await describe_index(datasette, instance, indexed))
    if request.url_vars.get("format"):
        return Response.json({"ok": True, "tables": entries})
    return Response.html(
        await datasette.render_template(
            "faiss_overview.html",
            {"entries": entries, "css_url": asset_url(datasette, "faiss.css")},
            request=request,
        )
    )


async def describe_index(datasette, instance, indexed):
    """An index as the JSON shows it."""
    state = instance.state(indexed.database, indexed.table) if indexed.published else None
    facts = await search.index_facts(datasette, indexed) or {}
    if facts:  # built, by whomever; an error is then over
        state = State("ready")
    return {
        "database": indexed.database,
        "table": indexed.table,
        "href": datasette.urls.path(page_path(indexed)),
        "published": indexed.published,
        "state": state.phase if state else "not built yet",
        "error": state.error if state else None,
        "rows": facts.get("rows"),
        "dimension": facts.get("dimension"),
        "metric": facts.get("metric", indexed.metric),
        "index": facts.get("kind", indexed.kind),
        "bytes": facts.get("bytes"),
        "build_seconds": facts.get("build_seconds"),
        "searches": facts.get("searches"),
        "left_out": facts.get("left_out"),
    }


# A table


async def find_table(datasette, request):
    """The IndexedTable that the address names; NotFound, Forbidden."""
    route = tilde_decode(request.url_vars["database"])
    name = tilde_decode(request.url_vars["table"])
    try:
        database = datasette.get_database(route=route).name
    except KeyError:
        raise NotFound(f"Database not found: {route}") from None
    if not await may_view_table(datasette, request.actor, database, name):
        raise Forbidden("You do not have permission to view this table")
    indexed = instance_of(datasette).table(database, name)
    if indexed is None:
        raise NotFound(f"{database}.{name} is not indexed")
    # As it is spelled in the schema, so that no other spelling gets round a permission.
    if indexed.table != name and not await may_view_table(
        datasette, request.actor, database, indexed.table
    ):
        raise Forbidden("You do not have permission to view this table")
    return indexed


async def table_page(datasette, request):
    indexed = await find_table(datasette, request)
    as_json = bool(request.url_vars.get("format"))
    pairs = urllib.parse.parse_qsl(request.query_string, keep_blank_values=True)
    if request.method == "POST":
        posted = await request.post_vars()
        pairs += [(name, value) for name, value in posted.items() if name != "csrftoken"]
    redirect = redirect_of_filter_form(datasette, request, indexed, pairs)
    if redirect:
        return redirect
    asked, filters = split_parameters(pairs)
    page = {"error": None, "interrupted": False, "answer": search.Answer([]), "status": 200}
    source, question = None, search.Question()
    try:
        source = await search.describe(datasette, indexed)
        question.like, question.vector = asked.get("like"), asked.get("vector")
        question.filters = search.read_filters(source, filters)
        question.limit = search.read_limit(asked.get("k"))
        page["answer"] = await search.answer(datasette, source, question)
    except search.QuestionError as error:
        page["error"], page["status"] = str(error), 400
    except QueryInterrupted:
        page["error"], page["status"] = interruption(datasette, indexed), 503
        page["interrupted"] = True
    index = await describe_index(datasette, instance_of(datasette), indexed)
    if as_json:
        return json_answer(datasette, indexed, index, question, page)
    return await html_answer(datasette, request, indexed, index, source, question, page)


def interruption(datasette, indexed):
    state = instance_of(datasette).state(indexed.database, indexed.table)
    limit = datasette.setting("sql_time_limit_ms")
    if state and state.phase in ("waiting", "indexing"):
        return "The table is still being indexed: try again in a moment."
    return (
        f"The search took longer than the {limit:,} ms that this server allows. What it has read"
        " is kept: try again, the next search goes on from there."
    )


def split_parameters(pairs):
    """({"like": ..., "vector": ..., "k": ...}, the pairs that are filters)."""
    asked = {name: value for name, value in pairs if name in QUESTION}
    filters = [pair for pair in pairs if pair[0] not in QUESTION and not pair[0].startswith("_")]
    return asked, filters


def redirect_of_filter_form(datasette, request, indexed, pairs):
    """The form has a filter as three fields; the address has it as one: column__op=value."""
    fields = {name: value for name, value in pairs if name.startswith("_filter_")}
    if not fields or request.method == "POST":
        return None
    kept = [(name, value) for name, value in pairs if name not in fields and value != ""]
    # It gives None for the fields that go away.
    kept += [pair for pair in filters_should_redirect(fields) if pair[1] is not None]
    return Response.redirect(datasette.urls.path(page_path(indexed) + query(kept)))


def query(pairs):
    return "?" + urllib.parse.urlencode(pairs) if pairs else ""


def json_answer(datasette, indexed, index, question, page):
    answer = page["answer"]
    body = {
        "ok": page["error"] is None,
        "error": page["error"],
        "index": index,
        "like": row_json(datasette, indexed, answer.like) if answer.like else None,
        "rows": [row_json(datasette, indexed, row) for row in answer.rows],
    }
    if body["ok"]:
        del body["error"]
    headers = {"retry-after": "1"} if page["interrupted"] else {}
    return Response(
        json.dumps(body, default=json_value),
        status=page["status"],
        headers=headers,
        content_type="application/json; charset=utf-8",
    )


def json_value(value):
    """BLOBs in other columns: as Datasette's own JSON has them."""
    if isinstance(value, bytes):
        return {"$base64": True, "encoded": base64.b64encode(value).decode("ascii")}
    raise TypeError(type(value).__name__)


def row_json(datasette, indexed, row):
    shown = {"path": row["path"], "label": row["label"], "href": row_url(datasette, indexed, row)}
    for name in ("score", "distance"):
        if name in row:
            shown[name] = row[name]
    return {**shown, "values": row["values"]}


def row_url(datasette, indexed, row):
    if row["path"] is None:
        return None
    return datasette.urls.row(indexed.database, indexed.table, row["path"])


async def html_answer(datasette, request, indexed, index, source, question, page):
    answer = page["answer"]
    columns = [name for name in source.columns if name != source.label] if source else []
    rows = [
        {
            **row,
            "href": row_url(datasette, indexed, row),
            "similar": datasette.urls.path(page_path(indexed) + similar_query(row, question)),
            "cells": [(name, cell(row["values"][name])) for name in columns],
        }
        for row in answer.rows
    ]
    like = answer.like
    context = {
        "database": indexed.database,
        "table": indexed.table,
        "index": index,
        "source": source,
        "question": question,
        "columns": columns,
        "rows": rows,
        "like": {**like, "href": row_url(datasette, indexed, like)} if like else None,
        "asked": bool(question.like or question.vector),
        "error": page["error"],
        "score_meaning": SCORES[index["metric"]],
        "filters": Filters(question.filters),
        "page_url": datasette.urls.path(page_path(indexed)),
        "json_url": datasette.urls.path(
            page_path(indexed)
            + ".json"
            + ("?" + request.query_string if request.query_string else "")
        ),
        "overview_url": datasette.urls.path("/-/faiss"),
        "css_url": asset_url(datasette, "faiss.css"),
        "js_url": asset_url(datasette, "map.js"),
        "map": await map_options(datasette, indexed, answer) if source else None,
        "largest_limit": search.LARGEST_LIMIT,
    }
    return Response.html(
        await datasette.render_template("faiss_table.html", context, request=request),
        status=page["status"],
        headers={"retry-after": "1"} if page["interrupted"] else {},
    )


def similar_query(row, question):
    if row["path"] is None:
        return ""
    pairs = [("like", row["path"])]
    if question.limit != search.LIMIT:
        pairs.append(("k", question.limit))
    return query(pairs + question.filters)


def cell(value):
    """A value for a narrow table."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return render_vector(value) or f"<{len(value):,} bytes>"
    text = str(value)
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


# The map


async def map_options(datasette, indexed, answer):
    """What map.js needs to know, or None where the extension cannot project."""
    if not await can_project(datasette.get_database(indexed.database)):
        return None
    return {
        "url": datasette.urls.path(page_path(indexed) + "/map.json"),
        "row_url": datasette.urls.table(indexed.database, indexed.table),
        "current": answer.like["path"] if answer.like else None,
        "neighbours": [row["path"] for row in answer.rows],
    }


async def map_json(datasette, request):
    indexed = await find_table(datasette, request)
    include = urllib.parse.parse_qs(request.query_string).get("include", [])
    try:
        source = await search.describe(datasette, indexed)
        points = await project(datasette, source, include)
    except search.QuestionError as error:
        return Response.json({"ok": False, "error": str(error)}, status=400)
    except QueryInterrupted:
        return Response.json(
            {"ok": False, "error": interruption(datasette, indexed)},
            status=503,
            headers={"retry-after": "1"},
        )
    return Response(
        json.dumps({"ok": True, **points}, separators=(",", ":")),
        content_type="application/json; charset=utf-8",
    )


ROUTES = [
    (r"^/-/faiss(?P<format>\.json)?$", overview),
    (r"^/-/faiss/(?P<database>[^/.]+)/(?P<table>[^/.]+)(?P<format>\.json)?$", table_page),
    (r"^/-/faiss/(?P<database>[^/.]+)/(?P<table>[^/.]+)/map\.json$", map_json),
]
