"""What the plugin knows of one running Datasette: its tables, indexed or to be indexed."""

from __future__ import annotations

import threading
import time
import weakref
from dataclasses import dataclass

from .catalogue import Catalogue
from .configuration import PLUGIN, ConfigurationError, read_configuration
from .publication import LOG, Publisher, bound_other_builds, log_to_standard_error

SECONDS_BETWEEN_LOOKS = 1.0

_instances = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class IndexedTable:
    """A table that can be searched, however it came to be known."""

    database: str  # Datasette's name
    table: str
    # What faiss_search() is given as its first two arguments, on a connection of `database`.
    search_database: str
    search_table: str
    id: str | None  # None: the rowid, unless there is a column `id`
    embedding: str
    metric: str
    kind: str  # "Flat", or a FAISS factory string
    label: str | None  # the configured label column
    published: bool


class Instance:
    """Used by the event loop, by Datasette's threads and by the indexing thread."""

    def __init__(self, datasette):
        self.configuration = read_configuration(datasette.plugin_config(PLUGIN))
        self._datasette = weakref.ref(datasette)
        self._lock = threading.Lock()  # of what follows
        self._catalogues = {}
        self._publishers = {}
        self._unpublished = list(self.configuration.tables)
        self._seen, self._looked = None, 0.0

    # Publishing

    def publish_at_start(self):
        """Publish what is configured; the indexes are built by a thread. ConfigurationError."""
        datasette = self._datasette()
        if self.configuration.max_build_mb is not None:
            bound_other_builds(self.configuration.max_build_mb)
        if self._unpublished:
            log_to_standard_error()
        for configured in self._unpublished:
            if configured.database not in datasette.databases and not configured.added_later:
                names = ", ".join(name for name in datasette.databases if name != "_internal")
                raise ConfigurationError(
                    f"{configured.place}: no database {configured.database}"
                    f" (this instance has {names}). For one that is added while the server runs,"
                    ' say "added_later": true'
                )
        self._publish(self._unpublished)

    def publish_added(self):
        """Publish tables whose database has been added since. Errors go to the log."""
        with self._lock:
            waiting = [
                configured
                for configured in self._unpublished
                if configured.database in self._datasette().databases
            ]
        for configured in waiting:
            try:
                self._publish([configured])
            except ConfigurationError as error:
                LOG.error("%s", error)

    def _publish(self, tables):
        todo = []
        for configured in list(tables):
            db = self._datasette().databases.get(configured.database)
            if db is not None:
                publisher = self._publisher(configured, db)
                publisher.publish(configured)
                todo.append((publisher, configured))
        if todo:
            threading.Thread(
                target=_build_all, args=(todo,), name="datasette-faiss", daemon=True
            ).start()

    def _publisher(self, configured, db):
        """The one for the database, which takes the table off the list of those to publish."""
        with self._lock:
            self._unpublished.remove(configured)
            if db.is_memory:
                # SQLite would deadlock: all its connections share one cache.
                raise ConfigurationError(
                    f"{configured.place}: {db.name} is a database in memory: only tables of files"
                    " can be listed"
                )
            publisher = self._publishers.get(db.name)
            if publisher is None:
                publisher = self._publishers[db.name] = Publisher(db)
            return publisher

    def state(self, database, table):
        """The State of a configured table, or None."""
        with self._lock:
            publisher = self._publishers.get(database)
        if publisher is None:
            return None
        return next(
            (state for name, state in publisher.states.items() if name.lower() == table.lower()),
            None,
        )

    def close(self):
        with self._lock:
            closing = [*self._publishers.values(), *self._catalogues.values()]
            self._publishers, self._catalogues = {}, {}
        for each in closing:
            each.close()

    # What there is

    def tables(self, database):
        """The IndexedTables of a database, configured ones first, each source once."""
        found = {}
        for configured in self.configuration.tables:
            if configured.database == database and configured not in self._unpublished:
                options = configured.options
                found[configured.table.lower()] = IndexedTable(
                    database,
                    configured.table,
                    database,
                    configured.table,
                    options.get("id"),
                    options.get("embedding", "embedding"),
                    options.get("metric", "l2"),
                    options.get("index", "Flat"),
                    configured.label,
                    True,
                )
        for faiss_table in self.contents(database).faiss_tables:
            found.setdefault(
                faiss_table.source.lower(),
                IndexedTable(
                    database,
                    faiss_table.source,
                    "main",
                    faiss_table.name,
                    faiss_table.id,
                    faiss_table.embedding,
                    faiss_table.metric,
                    "Flat",
                    None,
                    False,
                ),
            )
        return list(found.values())

    def table(self, database, name):
        """The IndexedTable over the table `name`, or None."""
        return next(
            (each for each in self.tables(database) if each.table.lower() == name.lower()), None
        )

    def embedding_column(self, database, name):
        """The column of embeddings of an indexed table, or of a faiss table; None of others."""
        indexed = self.table(database, name)
        if indexed:
            return indexed.embedding
        faiss_tables = self.contents(database).faiss_tables
        return next((each.embedding for each in faiss_tables if each.name == name), None)

    def contents(self, database):
        """The catalogue's Contents of one of Datasette's databases."""
        db = self._datasette().databases.get(database)
        if db is None or (db.is_memory and not db.memory_name):
            return Catalogue.NOTHING
        with self._lock:
            catalogue = self._catalogues.get(database)
            if catalogue is None or catalogue.db is not db:
                catalogue = self._catalogues[database] = Catalogue(db)
        return catalogue.contents()

    def hidden_tables(self):
        """database -> the names of tables that readers need not see."""
        return {
            name: self.contents(name).internal
            for name in self._datasette().databases
            if name != "_internal"
        }

    def due(self):
        """Whether to look at the databases again: when there are others, and once a second."""
        now = time.monotonic()
        databases = self._datasette().databases  # replaced, never changed, by Datasette
        with self._lock:
            if databases is self._seen and now - self._looked < SECONDS_BETWEEN_LOOKS:
                return False
            self._seen, self._looked = databases, now
            return True


def _build_all(todo):
    for publisher, configured in todo:
        publisher.build(configured)


def instance_of(datasette) -> Instance:
    """The one Instance of a Datasette, made when first asked for. ConfigurationError."""
    found = _instances.get(datasette)
    if found is None:
        found = _instances.setdefault(datasette, Instance(datasette))
    return found


def existing_instance(datasette):
    """The same, if it has been made."""
    return _instances.get(datasette)
