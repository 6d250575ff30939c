"""Similar rows on the page of a row, and the links to them."""

from __future__ import annotations

from datasette.database import QueryInterrupted

from . import search
from .instance import instance_of
from .pages import page_path, query, row_url

SHOWN = 5
# The page is not held up for an index that is not ready.
MILLISECONDS = 500


def similar_rows(datasette, database, table, path):
    """A function for the template row.html: what it shows, or None where nothing is indexed."""
    indexed = instance_of(datasette).table(database, table)
    if indexed is None:
        return None

    async def find():
        found = {"rows": [], "message": None, "url": None}
        try:
            source = await search.describe(datasette, indexed)
            question = search.Question(like=path, limit=SHOWN)
            answer = await search.answer(datasette, source, question, MILLISECONDS)
        except search.QuestionError as error:
            found["message"] = str(error)
            return found
        except QueryInterrupted:
            found["message"] = "The table is still being indexed."
            return found
        found["rows"] = [{**row, "href": row_url(datasette, indexed, row)} for row in answer.rows]
        found["url"] = datasette.urls.path(page_path(indexed) + query([("like", path)]))
        return found

    return find


def action(datasette, database, table, path=None):
    """The link of the actions menu of a table or a row, or None."""
    indexed = instance_of(datasette).table(database, table)
    if indexed is None:
        return None
    if path is None:
        return {
            "href": datasette.urls.path(page_path(indexed)),
            "label": "Nearest rows",
            "description": "Search the embeddings of this table, and see them on a map",
        }
    return {
        "href": datasette.urls.path(page_path(indexed) + query([("like", path)])),
        "label": "Similar rows",
        "description": "The rows of this table whose embeddings are nearest",
    }
