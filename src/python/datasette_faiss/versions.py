"""Datasette 0.65 and 1.0, where they differ for this plugin."""

from __future__ import annotations

try:
    from datasette.resources import TableResource
except ImportError:  # 0.65
    TableResource = None

IS_1_0 = TableResource is not None


async def may_view_table(datasette, actor, database, table):
    """Whether the actor may see the table's rows."""
    if IS_1_0:
        return await datasette.allowed(
            action="view-table", resource=TableResource(database, table), actor=actor
        )
    visible, _ = await datasette.check_visibility(
        actor,
        permissions=[
            ("view-table", (database, table)),
            ("view-database", database),
            "view-instance",
        ],
    )
    return visible


async def may_view_instance(datasette, actor):
    """Whether the actor may see this Datasette at all."""
    if IS_1_0:
        return await datasette.allowed(action="view-instance", actor=actor)
    visible, _ = await datasette.check_visibility(actor, "view-instance", None)
    return visible


def hidden_metadata(hidden):
    """What marks tables as hidden, in the form of Datasette's metadata (0.65) or config."""
    return {
        "databases": {
            database: {"tables": {table: {"hidden": True} for table in sorted(tables)}}
            for database, tables in hidden.items()
            if tables
        }
    }


def hide_in_config(datasette, hidden):
    """Mark tables as hidden where 1.0 looks for it; what the configuration says stands."""
    databases = datasette.config.setdefault("databases", {})
    for database, tables in hidden.items():
        for table in tables:
            block = databases.setdefault(database, {}).setdefault("tables", {})
            block.setdefault(table, {}).setdefault("hidden", True)
