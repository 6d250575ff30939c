"""Every family of approximate index, with its vectors in memory and without (memory=low): the queries of
query_grammar.py and the states of test_live_states.py run over each.

What an index finds may not be the nearest. All else is as in an exact table: each row that comes is one that
brute force allows, with the values and the score that it gives; none comes twice; there are as many as were
asked for; they come nearest first; and where nothing says how many are wanted, all come. How many of the
nearest are found is counted over all queries of a family, and bounded from below.
"""

import os
import random
import re
import sqlite3
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

import database
import query_grammar
import test_live_states as live
from database import column
from query_grammar import Join

SANITIZED = bool(os.environ.get("SQLITE_FAISS_SANITIZE"))
QUERIES = int(os.environ.get("SQLITE_FAISS_FAMILY_QUERIES") or (60 if SANITIZED else 80))  # of each family
RUNS = int(os.environ.get("SQLITE_FAISS_FAMILY_RUNS") or (2 if SANITIZED else 12))  # of the states of each family
DIMENSION = 8
ROWS = 1200

# For the queries: the options, and the share of the nearest rows to be found at least. The vectors are random
# ones of few whole numbers: no table of a user's is as hard.
FAMILIES = {
    "HNSW32": ("", 0.7),
    "HNSW8_SQ8": (", ef_search=24", 0.5),
    "IVF8,Flat": (", nprobe=2", 0.5),
    "IVF8,SQ8": (", nprobe=3", 0.5),
    "IVF4,PQ4x4": (", nprobe=2", 0.4),
    "IVF4,RaBitQ": (", nprobe=2", 0.4),
    "SQ8": ("", 0.8),
    "PQ4x4": ("", 0.6),
    "RaBitQ": (", rerank=8", 0.4),
    "PCA6,SQ8": ("", 0.6),
    "PCAR6,IVF4,Flat": (", nprobe=2", 0.4),
    "RR,HNSW16": ("", 0.6),
    "OPQ4,PQ4x4": ("", 0.2),
}
MEMORIES = {"full": "", "low": ", memory=low"}

each_family = pytest.mark.parametrize("kind", FAMILIES)
each_memory = pytest.mark.parametrize("memory", MEMORIES)
# One process: the last test counts what the states had.
pytestmark = [
    pytest.mark.usefixtures("vectors_left_in_small_tables"), pytest.mark.xdist_group("families"),
]


# --- queries ----------------------------------------------------------------------------------------


class Everything(query_grammar.Generator):
    """Queries that do not say how many rows they want."""

    def search(self, alias, table=None, with_vector=True, with_k=None, of=None, forms=None):
        return super().search(alias, table, with_vector, False, of, forms or ("match", "equals", "called"))

    def limit(self):
        return ""


class Some(query_grammar.Generator):
    """Queries that want some rows, nearest first."""

    def some(self):
        """A query, all rows that it may give, and how many it skips and wants. A row begins with
        its rowid and distance."""
        rng = self.rng
        self.parameters = {}
        with_k, skipped, limit = rng.random() < 0.5, 0, ""
        n = self.search("n", self.tables[0], with_k=with_k, forms=("match", "equals", "called"))
        wanted = rng.choice((1, 2, 3, 5, 5, 10, 10, 30, 2000))
        if with_k:
            n.k = str(wanted)
        else:
            skipped = rng.choice((0, 0, 0, 1, 4))
            limit = f" LIMIT {wanted} OFFSET {skipped}" if skipped else f" LIMIT {wanted}"
        where = self.conditions(n)
        if with_k:  # what is left to SQLite takes away some of the k
            where = list(n.before_k)
        # SQLite 3.40 passes a limit on beside a comparison of two columns, which it does not mention.
        where = [term for term in where if len(set(query_grammar.MARK.findall(term))) == 1]
        tail = f" ORDER BY ⟨n.distance⟩{limit}" if limit or rng.random() < 0.7 else ""
        select = ["⟨n.rowid⟩", "⟨n.distance⟩", "⟨n.score⟩", *self.outputs(n, 2)]
        faiss = self.assemble("", [Join("", n, [])], where, tail, select).faiss
        n.k, n.before_k = None, []
        forced = self.assemble("", [Join("", n, [])], where, "", select).forced
        return faiss, forced, skipped, wanted

    def neighbours(self):
        """The same for each of some rows of the table; a row begins with that row."""
        rng = self.rng
        self.parameters = {}
        table, wanted = self.tables[0], rng.choice((1, 2, 4))
        a, n = query_grammar.Source("a", table), None
        n = self.search("n", table, of=a, with_k=True, forms=("match", "called"))
        n.k = str(wanted)
        few = self.some_rows(a)
        select = ["⟨a.rowid⟩", "⟨n.rowid⟩", "⟨n.distance⟩", "⟨n.id⟩"]
        joins = [Join("", a, []), Join("CROSS JOIN", n, [])]
        faiss = self.assemble("", joins, [few], "", select).faiss
        n.k = None
        return faiss, self.assemble("", joins, [few], "", select).forced, wanted


def make_world(rng, kind, options, count):
    """A table of the grammar with rowids, as large as the index wants it, and its connection."""
    while True:
        table = query_grammar.make_table(rng, "docs", DIMENSION, count)
        indexed = sum(row[-1] is not None for row in table.rows)
        if table.kind == "table" and "memory=" not in table.statements[-1] and indexed > 0.8 * count:
            break
    # Vectors of which few are equal; scores are as exact as those of the grammar's.
    if table.metric != "cosine":
        draw = lambda: query_grammar.pack([rng.randint(-9, 9) for _ in range(DIMENSION)])
        table.rows = [(*row[:-1], row[-1] and draw()) for row in table.rows]
    *source, index = table.statements
    connection = database.connect()
    connection.create_function("float32", 1, query_grammar.float32, deterministic=True)
    connection.execute("CREATE TABLE vals(n, v, i INTEGER, t TEXT)")
    connection.executemany("INSERT INTO vals VALUES (?, ?, ?, ?)", [(n - 2, n % 3, n % 4, f"{n % 2}") for n in range(8)])
    connection.execute("BEGIN")
    for sql in source:
        connection.execute(sql)
    connection.executemany(table.insert, table.rows)
    connection.execute(index[: index.rindex(")")] + f", index='{kind}'{options})")
    connection.execute("COMMIT")
    return table, connection


def change(rng, table, connection):
    """Write some rows, perhaps in a transaction."""
    if connection.in_transaction:
        connection.execute(rng.choice(("COMMIT", "ROLLBACK")))
    elif rng.random() < 0.5:
        connection.execute("BEGIN")
    key = table.names[0]
    for row in rng.sample(table.rows, rng.choice((3, 3, 30, 100))):
        if rng.random() < 0.4:
            connection.execute(f"DELETE FROM {table.base} WHERE {key} = ?", [row[0]])
        else:
            connection.execute(f"UPDATE {table.base} SET embedding = ? WHERE {key} = ?", [rng.choice(table.rows)[-1], row[0]])
    if rng.random() < 0.2 and not connection.in_transaction:
        connection.execute(f"INSERT INTO {table.index}({table.index}) VALUES ('optimize')")


# An upper bound on the distance: it ends a search at the first row found beyond it.
BOUNDED = re.compile(r"WHERE.*\bn\.(distance|score) *[<>]")


def assert_some_of(found, allowed, skipped, wanted, what):
    """`found` is what may come of the `allowed` rows; what share of the nearest
    ones there is, if few are wanted."""
    assert not Counter(found) - Counter(allowed), f"not allowed: {(Counter(found) - Counter(allowed)).most_common(3)} {what}"
    expected = max(0, min(wanted, len(allowed) - skipped))
    is_short = len(found) < expected and BOUNDED.search(what)
    assert is_short or len(found) == expected, f"{len(found)} of {len(allowed)} rows {what}"
    order = [(distance, key) for key, distance, *_ in found]
    assert order == sorted(order), f"not nearest first {what}"
    if not expected or wanted > 10:
        return None
    if is_short:
        return len(found) / expected
    last = sorted(distance for _, distance, *_ in allowed)[skipped + len(found) - 1]
    return sum(distance <= last for distance, _ in order) / len(found)


@each_memory
@each_family
def test_queries(kind, memory, request):
    seed = f"{request.config.getoption('--hypothesis-seed')}/{kind}/{memory}"
    options, bound = FAMILIES[kind]
    rng = random.Random(seed)
    table, connection = make_world(rng, kind, options + MEMORIES[memory], ROWS)
    everything, some = Everything(rng, [table]), Some(rng, [table])
    recalls, told = [], set()
    for query in range(QUERIES):
        if query % 20 == 19:
            change(rng, table, connection)
            table.rows = connection.execute(f"SELECT {', '.join(table.names)} FROM {table.base}").fetchall()
        choice = rng.random()
        if choice < 0.75:
            faiss, forced, skipped, wanted = some.some()
            what = f"(seed {seed}, query {query}: {faiss} {some.parameters})"
            found = connection.execute(faiss, some.parameters).fetchall()
            allowed = connection.execute(forced, some.parameters).fetchall()
            recalls.append(assert_some_of(found, allowed, skipped, wanted, what))
        elif choice < 0.85:
            faiss, forced, wanted = some.neighbours()
            what = f"(seed {seed}, query {query}: {faiss})"
            found = connection.execute(faiss, some.parameters).fetchall()
            allowed = connection.execute(forced, some.parameters).fetchall()
            for each in {row[0] for row in allowed}:
                own = [[row[1:] for row in rows if row[0] == each] for rows in (found, allowed)]
                assert_some_of(*own, 0, wanted, what)
            assert len(found) == wanted * len({row[0] for row in allowed})
        else:
            statement = everything.query()
            if statement.shape == "correlated scalar":
                continue
            what = f"(seed {seed}, query {query}: {statement.faiss} {statement.parameters})"
            found = connection.execute(statement.faiss, statement.parameters).fetchall()
            expected = connection.execute(statement.forced, statement.parameters).fetchall()
            assert Counter(found) == Counter(expected), what
            if statement.ordered and " ORDER BY" in statement.faiss:
                assert found == expected, what
        told.update(row[0] for row in connection.execute("SELECT kind FROM faiss_indexes"))
    assert kind in told
    recalls = [recall for recall in recalls if recall is not None]
    assert sum(recalls) >= bound * len(recalls), f"recall {sum(recalls) / len(recalls)} (seed {seed})"


# --- states -------------------------------------------------------------------------------------------

STATE_FAMILIES = ["HNSW4", "HNSW4_SQ8", "IVF2,Flat", "IVF2,SQ8", "IVF2,PQ3x1", "SQ8", "PQ3x1", "RaBitQ", "PCA2,SQ8"]
STATE_FAMILIES += ["OPQ3,PQ3x1"]
OF_JSON = (live.function_of_the_index, live.function_of_the_source)
BY_THE_INDEX = (live.knn, live.knn_filtered, live.stream_filtered)
told_of_states = Counter()
told_of_origins = Counter()


def assert_sound(connection, schema, query, k, n, index, searches):
    """As live.assert_right(), but that some of the nearest rows may be missed."""
    for search in searches:
        sql, parameters, expected = search(schema, index, query, k, n)
        try:
            found = database.rows(connection, sql, parameters)
            definition = live.exists(connection, schema, index)
            table = live.source_rows(connection, schema)
        except sqlite3.OperationalError as error:
            if "is locked" in str(error):
                continue
            if live.exists(connection, schema, index) and live.exists(connection, schema, "docs"):
                raise
            continue
        metric = "l2"
        if search is not live.table_function:
            metric = (re.findall(r"metric=(\w+)", definition[0][0]) or ["l2"])[0]
        right = expected(table, metric)
        what = f"{sql}: {found}, expected about {right}"
        if search is live.stream:
            assert sorted(found) == sorted(right), what
        elif search in BY_THE_INDEX:
            allowed = table
            if search is live.knn_filtered:
                allowed = [row for row in table if row[3] == n]
            elif search is live.stream_filtered:
                allowed = [row for row in table if row[3] >= n]
            every = live.nearest(allowed, query, None, metric)
            assert not Counter(found) - Counter(every), what
            assert len(found) == len(right), what
            places = [every.index(row) for row in found]
            assert places == sorted(places), what
        else:
            assert found == right, what


def states_of(kind):
    index_options = [f", index='{kind}'{more}" for more in (
        "", ", memory=low", ", metric=cosine", ", metric=cosine, memory=low", ", metric=ip, memory=low",
        ", live=off, memory=low", ", ef_search=4" if "HNSW" in kind else ", rerank=3",
    )]

    class States(live.LiveStatesOfManySegments):
        """Tables so large that there is an index."""

        journal = "wal"
        padding = 0

        @initialize(
            source=st.sampled_from(sorted(live.SOURCES)), first=st.sampled_from(index_options),
            second=st.none() | st.sampled_from(index_options), count=st.integers(130, 300),
            seed=st.integers(0, 100), watchful=st.integers(0, 7), turn=st.integers(0, 8),
        )
        def start(self, source, first, second, count, seed, watchful, turn):
            self.start_with(source, False, first, second, count, seed, watchful, turn)
            self.k = 1 + seed % 3
            self.look(0)

        @rule(query=st.sampled_from(live.AXES), k=st.integers(1, 4), filter=live.filters)
        def ask_something_else(self, query, k, filter):
            self.query, self.k, self.n = self.blob(query), k, filter

        @rule(n=live.searcher, name=st.sampled_from(["docs_index", "docs_second"]), options=st.sampled_from(index_options))
        def make_the_index(self, n, name, options):
            self.attempt(n, f"CREATE VIRTUAL TABLE {{s}}.{name} USING faiss(main, docs{options})")

        @rule(n=live.who, low=st.integers(1, 300), length=st.integers(20, 120))
        def copy_a_range(self, n, low, length):
            """So that there are enough rows again, in the end."""
            self.attempt(n, "INSERT INTO {s}.docs(id, embedding, n) SELECT id, embedding, n FROM {s}.docs"
                         " WHERE rowid BETWEEN ? AND ?" if self.key != "id" else
                         "INSERT INTO {s}.docs(embedding, n) SELECT embedding, n FROM {s}.docs WHERE id BETWEEN ? AND ?",
                         [low, low + length])

        def teardown(self):
            """The next run's file may have the inode of this one's: what lingers would be compared with it."""
            if self.connections and not self.failed:
                for n in range(3):
                    self.look(n)
                for connection in self.connections:
                    connection.rollback()
                self.open_anew(0, True)
                # What is stored is behind the table, by what the log says.
                self.attempt(0, "DELETE FROM {s}.docs WHERE rowid = (SELECT min(rowid) FROM {s}.docs)")
                self.open_anew(1, False)
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("SQLITE_FAISS_LINGER", "0")
                super().teardown()

        @rule(n=live.searcher, stores=st.booleans())
        def open_anew(self, n, stores):
            """As another process does: what is not in the file is gone."""
            for index in ("docs_index", "docs_second"):
                if stores:
                    self.attempt(n, f"INSERT INTO {{s}}.{index}({index}) VALUES ('optimize')")
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("SQLITE_FAISS_LINGER", "0")
                for connection in self.connections:
                    connection.close()
            self.connections = [self.open("main") for _ in range(3)] + [self.open("main", database.plain)]
            self.schemas = ["main"] * 4
            self.look(n)
            told_of_origins.update(column(self.connections[n], "SELECT origin FROM faiss_indexes WHERE origin IS NOT NULL"))

        def look(self, n, schema=None):
            self.turn += 1
            searches = [live.SEARCHES[self.turn % len(live.SEARCHES)], live.knn]
            searches = [search for search in searches if search not in OF_JSON]
            connection = self.connections[n]
            try:
                for index in ("docs_index", "docs_second"):
                    assert_sound(connection, schema or self.schemas[n], self.query, self.k, self.n, index, searches)
                told_of_states.update(kind for kind, in connection.execute("SELECT kind FROM faiss_indexes"))
            except Exception:
                self.failed = True
                raise

    States.__name__ = States.__qualname__ = "States_" + re.sub(r"\W", "_", kind)
    States.TestCase.settings = settings(max_examples=RUNS, stateful_step_count=15)
    return States.TestCase


for each in STATE_FAMILIES:
    globals()["TestStates_" + re.sub(r"\W", "_", each)] = states_of(each)


def test_the_states_had_indexes():
    """Each family answered, and what was stored was read. How often a log was read with it depends on
    what the machines drew; test_checkpoints.py asks for that without chance."""
    print(sorted(told_of_states.items()), told_of_origins)
    if not told_of_states:
        pytest.skip("the states were not run")
    assert set(STATE_FAMILIES) <= set(told_of_states)
    assert told_of_origins["checkpoint"] + told_of_origins["checkpoint and log"] > 0
