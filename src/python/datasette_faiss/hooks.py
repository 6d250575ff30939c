"""What Datasette calls, and what answers it."""

from __future__ import annotations

import sqlite_faiss
from datasette import hookimpl
from datasette.utils import path_from_row_pks

from . import cells, permissions, rows
from .assets import asset_url
from .instance import existing_instance, instance_of
from .pages import ROUTES
from .versions import IS_1_0, hidden_metadata, hide_in_config


@hookimpl
def prepare_connection(conn, database, datasette):
    """The extension's functions, on every connection that serves requests."""
    if database != "_internal":
        sqlite_faiss.load(conn)


@hookimpl(trylast=True)
def startup(datasette):
    """Last, so that databases which other plugins add at start-up are there."""

    async def publish():
        instance_of(datasette).publish_at_start()
        look_again(datasette)

    return publish


@hookimpl
def shutdown(datasette):
    """1.0 calls it."""
    instance = existing_instance(datasette)
    if instance:
        instance.close()


@hookimpl
def asgi_wrapper(datasette):
    """Before a request, at most once a second: what databases and faiss tables are new?"""

    def wrap(app):
        async def look_first(scope, receive, send):
            instance = existing_instance(datasette)
            if scope["type"] == "http" and instance and instance.due():
                look_again(datasette)
            await app(scope, receive, send)

        return look_first

    return wrap


def look_again(datasette):
    instance = instance_of(datasette)
    instance.publish_added()
    if IS_1_0:
        hide_in_config(datasette, instance.hidden_tables())


if IS_1_0:

    @hookimpl
    def permission_resources_sql(datasette, actor, action):
        return permissions.denied_in_1_0(datasette, actor, action)

else:

    @hookimpl
    def permission_allowed(datasette, actor, action, resource):
        return permissions.denied_in_0_65(datasette, actor, action, resource)

    @hookimpl
    def get_metadata(datasette):
        """0.65 takes from the metadata which tables to hide."""
        # Asked for before start-up, too, and by plugin_config() itself.
        instance = existing_instance(datasette)
        return hidden_metadata(instance.hidden_tables()) if instance else {}


@hookimpl
def register_routes():
    return ROUTES


@hookimpl
def render_cell(row, value, column, table, database, datasette):
    """A vector in a column of embeddings; other cells are left to others."""
    if table is None or not isinstance(value, bytes):
        return None
    embedding = instance_of(datasette).embedding_column(database, table)
    if embedding is None or column.lower() != embedding.lower():
        return None

    async def render():
        keys = await datasette.get_database(database).primary_keys(table)
        address = cells.blob_address(datasette, database, table, column, row, keys)
        return cells.render_vector(value, address)

    return render


@hookimpl
def extra_css_urls(database, table, datasette):
    if database and table and instance_of(datasette).embedding_column(database, table):
        return [asset_url(datasette, "faiss.css")]
    return []


@hookimpl
def extra_template_vars(database, table, view_name, request, datasette):
    """For this plugin's row.html: `faiss_similar_rows`, a function, or None."""
    if view_name != "row":
        return {}
    return {
        "faiss_similar_rows": rows.similar_rows(datasette, database, table, request.url_vars["pks"])
    }


@hookimpl
def table_actions(datasette, database, table):
    link = rows.action(datasette, database, table)
    return [link] if link else []


@hookimpl
def view_actions(datasette, database, view):
    """1.0 has a menu of its own for views."""
    return table_actions(datasette, database, view)


@hookimpl
def row_actions(datasette, database, table, row):
    """1.0 has this menu; on 0.65 the list on the page has the link."""

    async def links():
        keys = await datasette.get_database(database).primary_keys(table)
        link = rows.action(datasette, database, table, path_from_row_pks(row, keys, not keys))
        return [link] if link else []

    return links


@hookimpl
def menu_links(datasette):
    instance = instance_of(datasette)
    if any(instance.tables(name) for name in datasette.databases if name != "_internal"):
        return [{"href": datasette.urls.path("/-/faiss"), "label": "Nearest rows"}]
    return []


@hookimpl
def skip_csrf(scope):
    """0.65: a search by POST for JSON changes nothing, and carries no form's token."""
    return scope["path"].startswith("/-/faiss/") and scope["path"].endswith(".json")


__all__ = [
    name
    for name, value in list(globals().items())
    if getattr(value, "datasette_impl", None) is not None
]
