"""The `datasette-faiss` block of Datasette's configuration: which tables are indexed.

    plugins:
      datasette-faiss:
        tables:
        - ["blog", "embeddings"]
        - database: blog
          table: pictures
          metric: cosine
          embedding: vector

Every mistake is a ConfigurationError that says where it is and what was expected. Whether the
tables and columns exist is not known here: publication.py finds out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import click
from datasette.utils import StartupError

PLUGIN = "datasette-faiss"

# What is handed on to the extension as it is, which knows the values that are allowed.
INDEX_OPTIONS = (
    *("metric", "id", "embedding", "dimension", "strict", "live"),
    *("index", "ef_construction", "ef_search", "nprobe", "rerank"),
)
# What this plugin itself reads.
OWN_OPTIONS = ("label", "added_later")
SETTINGS = ("tables", "max_build_mb")


class ConfigurationError(StartupError, click.ClickException):
    """Ends the start with its message alone: 1.0 catches StartupError, and 0.65 leaves what
    a plugin raises to click."""


@dataclass(frozen=True)
class ConfiguredTable:
    """One entry of `tables`."""

    database: str
    table: str
    # name -> value for the extension, as text.
    options: dict = field(default_factory=dict)
    # The column whose value names a row on the pages; None: as Datasette chooses.
    label: str | None = None
    # The database is added to the instance while it runs.
    added_later: bool = False
    # For messages: "plugins.datasette-faiss.tables[0]".
    place: str = ""


@dataclass(frozen=True)
class Configuration:
    tables: tuple
    # The most memory, in MB, that searches of tables not listed here may take for indexes
    # of their own; None: the extension's own bound.
    max_build_mb: int | None = None


def read_configuration(block) -> Configuration:
    """The configuration in `block`, what Datasette has below the plugin's name (or None)."""
    if block is None:
        return Configuration(())
    here = f"plugins.{PLUGIN}"
    if not isinstance(block, dict):
        raise ConfigurationError(
            f"{here} must be an object with a list of tables, not {_kind(block)}"
        )
    _known_keys(here, block, SETTINGS)
    bound = block.get("max_build_mb")
    if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
        raise ConfigurationError(f"{here}.max_build_mb must be a whole number of MB, not {bound!r}")
    entries = block.get("tables", [])
    if not isinstance(entries, list):
        raise ConfigurationError(
            f'{here}.tables must be a list such as [["blog", "embeddings"]], not {_kind(entries)}'
        )
    tables = tuple(
        _read_table(f"{here}.tables[{number}]", entry) for number, entry in enumerate(entries)
    )
    seen = {}
    for table in tables:
        name = (table.database, table.table.lower())
        if name in seen:
            raise ConfigurationError(
                f"{table.place}: {table.database}.{table.table} is listed already, as {seen[name]}"
            )
        seen[name] = table.place
    return Configuration(tables, bound)


def _read_table(place, entry):
    if isinstance(entry, list):
        if len(entry) != 2 or not all(isinstance(name, str) and name for name in entry):
            raise ConfigurationError(
                f'{place} must be a pair of names, ["DATABASE", "TABLE"], not {entry!r}'
            )
        return ConfiguredTable(*entry, place=place)
    if not isinstance(entry, dict):
        raise ConfigurationError(
            f'{place} must be ["DATABASE", "TABLE"] or an object with "database" and "table",'
            f" not {_kind(entry)}"
        )
    _known_keys(place, entry, ("database", "table", *INDEX_OPTIONS, *OWN_OPTIONS))
    for name in ("database", "table"):
        if not isinstance(entry.get(name), str) or not entry[name]:
            raise ConfigurationError(f'{place} lacks "{name}", a name')
    label, added_later = entry.get("label"), entry.get("added_later", False)
    if label is not None and not isinstance(label, str):
        raise ConfigurationError(f"{place}.label must be the name of a column, not {label!r}")
    if not isinstance(added_later, bool):
        raise ConfigurationError(f"{place}.added_later must be true or false, not {added_later!r}")
    options = {
        name: _option_text(f"{place}.{name}", entry[name])
        for name in INDEX_OPTIONS
        if name in entry
    }
    return ConfiguredTable(entry["database"], entry["table"], options, label, added_later, place)


def _option_text(place, value):
    """YAML reads `strict: off` as a boolean, `dimension: 384` as a number."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (str, int)) and value != "":
        return str(value)
    raise ConfigurationError(f"{place} must be a text or a number, not {value!r}")


def _known_keys(place, block, known):
    for key in block:
        if key not in known:
            raise ConfigurationError(f"{place} has no setting {key!r} (it has {', '.join(known)})")


def _kind(value):
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false"}
    return names.get(type(value), f"{value!r}")
