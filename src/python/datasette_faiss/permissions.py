"""Who may not see a table may not see the faiss tables over it, nor their log.

A faiss table shows ids and distances of its source, and through its hidden columns the
rest, so a rule for the source has to hold for it as well.
"""

from __future__ import annotations

import contextvars
import json

from .instance import existing_instance
from .versions import may_view_table

# Set while the question is about a source: that one is answered by others.
_asking = contextvars.ContextVar("datasette_faiss_asking", default=False)

DENIED = """
SELECT json_extract(value, '$[0]') AS parent, json_extract(value, '$[1]') AS child, 0 AS allow,
  'the source of this faiss table may not be seen' AS reason
FROM json_each(:datasette_faiss_denied)
"""


def derived_tables(datasette, database):
    """table -> its source, for the faiss tables of a database and what belongs to them."""
    instance = existing_instance(datasette)
    if instance is None:
        return {}
    contents = instance.contents(database)
    return {**contents.internal, **{each.name: each.source for each in contents.faiss_tables}}


async def denied(datasette, actor, database, source):
    """Whether the actor may not see the source."""
    token = _asking.set(True)
    try:
        return not await may_view_table(datasette, actor, database, source)
    finally:
        _asking.reset(token)


async def denied_in_0_65(datasette, actor, action, resource):
    """False where the table's source is denied, else None: no opinion."""
    if action != "view-table" or _asking.get() or not resource:
        return None
    database, table = resource
    source = derived_tables(datasette, database).get(table)
    if source and await denied(datasette, actor, database, source):
        return False
    return None


async def denied_in_1_0(datasette, actor, action):
    """The SQL of 1.0 for all tables whose source is denied, or None."""
    from datasette.permissions import PermissionSQL

    if action != "view-table" or _asking.get():
        return None
    rows = []
    for database in datasette.databases:
        verdicts = {}
        for table, source in derived_tables(datasette, database).items():
            if source not in verdicts:
                verdicts[source] = await denied(datasette, actor, database, source)
            if verdicts[source]:
                rows.append([database, table])
    if not rows:
        return None
    return PermissionSQL(sql=DENIED, params={"datasette_faiss_denied": json.dumps(rows)})
