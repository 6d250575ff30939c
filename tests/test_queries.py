"""Queries on faiss tables against the same queries by brute force, thousands of them at random.

Each world has two small or one large table of random columns and indexes (query_grammar.py), on
which a hundred queries run while rows change. The seed is that of the run (`--hypothesis-seed`, in
the header of pytest's output), so giving it again repeats the queries. SQLITE_FAISS_QUERIES says
how many there are.
"""

import os
import random
import re
import sqlite3
from collections import Counter

import pytest

import database
import query_grammar
from query_grammar import literal

QUERIES = int(
    os.environ.get("SQLITE_FAISS_QUERIES")
    or (2_000 if os.environ.get("SQLITE_FAISS_SANITIZE") else 30_000)
)
PER_WORLD = 100
PARTS = 10
WORLDS = -(-QUERIES // PER_WORLD // PARTS)  # of one part
LARGE_EVERY = 10  # one world in so many has a large table
SIZES = (0, 1, 3, 10, 30, 60, 100, 100, 200, 400)
MINIMIZE_STEPS = 300

# One process: the last test counts what the others did.
pytestmark = [pytest.mark.xdist_group("queries")]

seen = Counter()  # what the queries did, for test_everything_was_tried


class World:
    """Two tables with their faiss tables, and a table of values."""

    def __init__(self, rng, large):
        self.rng, self.large = rng, large
        dimension = rng.randint(1, 6)
        count = rng.randint(3000, 6000) if large else rng.choice(SIZES)
        self.tables = [
            query_grammar.make_table(rng, "docs", dimension, count),
            query_grammar.make_table(rng, "notes", dimension, rng.choice((1, 5, 20, 60))),
        ]
        self.values = [
            (
                place - 2,
                rng.choice(query_grammar.TEXTS + query_grammar.INTEGERS + query_grammar.REALS),
                rng.choice(query_grammar.INTEGERS),
                rng.choice(query_grammar.TEXTS),
            )
            for place in range(8)
        ]
        self.changes = []
        self.last_key = 100_000

    def open(self, contents=None):
        """A connection to a new database with these tables, holding `contents`."""
        connection = database.connect()
        connection.create_function("float32", 1, query_grammar.float32, deterministic=True)
        connection.execute("CREATE TABLE vals(n, v, i INTEGER, t TEXT)")
        connection.executemany("INSERT INTO vals VALUES (?, ?, ?, ?)", self.values)
        for place, table in enumerate(self.tables):
            *source, index = table.statements
            for sql in source:
                connection.execute(sql)
            connection.executemany(table.insert, contents[place] if contents else table.rows)
            connection.execute(index)
        return connection

    def contents(self, connection):
        return [
            connection.execute(f"SELECT {', '.join(table.names)} FROM {table.base}").fetchall()
            for table in self.tables
        ]

    def change(self, connection):
        """Write some rows, perhaps in a transaction that is undone later."""
        rng = self.rng
        if connection.in_transaction:
            self.write(connection, rng.choice(("COMMIT", "ROLLBACK")))
        elif rng.random() < 0.5:
            self.write(connection, "BEGIN")
        table = rng.choice(self.tables)
        if table.rows:
            some = rng.sample(table.rows, min(len(table.rows), rng.randint(1, 5)))
            for row in some:
                kind = rng.random()
                where = f"WHERE {table.names[0]} = {literal(row[0])}"
                if kind < 0.3:
                    self.write(connection, f"DELETE FROM {table.base} {where}")
                elif kind < 0.5:
                    other = rng.choice(table.rows)[-1]
                    self.write(connection, f"UPDATE {table.base} SET embedding = ? {where}", (other,))
                else:
                    column = rng.choice(table.columns)
                    name = query_grammar.quote(column.name)
                    value = rng.choice(column.pool)
                    self.write(connection, f"UPDATE {table.base} SET {name} = ? {where}", (value,))
            self.write(connection, table.insert, (self.new_key(), *rng.choice(table.rows)[1:]))
        for table, rows in zip(self.tables, self.contents(connection)):
            table.rows = rows

    def new_key(self):
        """That of no row, also after changes are undone."""
        self.last_key += 1
        return self.last_key

    def write(self, connection, sql, parameters=()):
        connection.execute(sql, parameters)
        self.changes.append((sql, parameters))


def answers(connection, statement):
    """What the two queries give, and where they differ (None if nowhere); no rows found, but
    None, where SQLite has no plan."""
    expected = connection.execute(statement.forced, statement.parameters).fetchall()
    try:
        found = connection.execute(statement.faiss, statement.parameters).fetchall()
    except sqlite3.Error as error:
        # Of a WHERE that no row can pass, newer versions of SQLite leave out the rest, and with
        # it the vector of a table whose embeddings are compared by = with another one's.
        if str(error) == "no query solution" and " IN ()" in statement.faiss and not any(map(any, expected)):
            return expected, None, None
        return expected, str(error), f"the faiss query fails: {error}"
    if Counter(expected) != Counter(found):
        missing, extra = Counter(expected) - Counter(found), Counter(found) - Counter(expected)
        return expected, found, (
            f"missing {list(missing.elements())[:10]}, not expected {list(extra.elements())[:10]}"
        )
    if statement.ordered and expected != found:
        return expected, found, f"another order:\nexpected {expected[:20]}\nfound    {found[:20]}"
    return expected, found, None


def minimized(world, contents, statement):
    """The fewest rows found that still show a difference, and that difference."""
    steps = 0

    def differs(candidate):
        nonlocal steps
        steps += 1
        connection = world.open(candidate)
        try:
            return answers(connection, statement)[2]
        except sqlite3.Error:
            return None
        finally:
            connection.close()

    difference = differs(contents)
    if not difference:
        return None, None
    for place in range(len(contents)):
        size = max(1, len(contents[place]) // 2)
        while steps < MINIMIZE_STEPS and contents[place]:
            for start in range(0, len(contents[place]), size):
                candidate = list(contents)
                candidate[place] = contents[place][:start] + contents[place][start + size :]
                still = differs(candidate)
                if still:
                    contents, difference = candidate, still
                    break
            else:
                if size == 1:
                    break
                size //= 2
    return contents, difference


def report(world, connection, statement, difference):
    """All that is needed to see the difference again."""
    contents, smallest = minimized(world, world.contents(connection), statement)
    lines = [f"{statement.shape}: {difference}", ""]
    lines.append("CREATE TABLE vals(n, v, i INTEGER, t TEXT);")
    lines += [f"INSERT INTO vals VALUES ({', '.join(map(literal, row))});" for row in world.values]
    for place, table in enumerate(world.tables):
        lines += [f"{sql};" for sql in table.statements[:-1]]
        head = f"INSERT INTO {table.base}({', '.join(table.names)}) VALUES"
        for row in contents[place] if contents else []:
            lines.append(f"{head} ({', '.join(map(literal, row))});")
        lines.append(f"{table.statements[-1]};")
    if contents is None:
        lines.append("-- Not with the same rows in a new database; these changes came before:")
        lines += [f"-- {sql} {parameters}" for sql, parameters in world.changes]
    else:
        lines.insert(1, f"with the rows below: {smallest}")
    lines += ["", f"{statement.faiss};", "", f"{statement.forced};", "", f"parameters: {statement.parameters}"]
    lines.append("plan of the first:")
    try:
        lines += [f"  {line}" for line in database.plan(connection, statement.faiss, statement.parameters)]
    except sqlite3.Error as error:
        lines.append(f"  {error}")
    return "\n".join(lines)


PLAN = re.compile(r"VIRTUAL TABLE INDEX \d:(\w+)([a-z ]*)(.*)")
OPERATOR = re.compile(r"(!=|<=|>=|=|<|>| IS NOT NULL| IS NULL| IS NOT| IS| IN| LIKE| GLOB)(?: ?\(?\?\)?)?(?= AND |\)| COLLATE|$)")


def count_plans(connection, statement):
    for line in database.plan(connection, statement.faiss, statement.parameters):
        match = PLAN.search(line)
        if not match:
            seen["temp b-tree"] += "TEMP B-TREE" in line
            continue
        kind, values, terms = match.groups()
        seen[kind] += 1
        for value in values.split():
            seen[f"{kind} {value}"] += 1
        if terms:
            seen[f"{kind} filtered"] += 1
        for operator in OPERATOR.findall(terms):
            seen[f"term{operator if operator.startswith(' ') else ' ' + operator}"] += 1
        for name in ("score", "distance", "rowid", "id"):
            seen[f"term on {name}"] += f"({name}" in terms or f" {name}" in terms
        seen["term COLLATE"] += " COLLATE " in terms


KEYS_OF_FILTER = re.compile(r"-- SELECT s\.\w+ FROM .* AS s WHERE 1 AND ")
TEST_FILTER = re.compile(r"-- SELECT 1 FROM .* AS s WHERE s\.\w+ = \?1 AND ")


def count_searches(trace):
    """Which of the two plans of a filtered search ran, from the statements on the source."""
    steps = ["set" if KEYS_OF_FILTER.match(sql) else "row" for sql in trace
             if KEYS_OF_FILTER.match(sql) or TEST_FILTER.match(sql)]
    seen["set first"] += steps[:1] == ["set"] and "row" not in steps
    seen["rows first"] += "row" in steps
    seen["set given up for rows"] += steps[:2] == ["set", "row"]
    seen["rows given up for the set"] += any(pair == ("row", "set") for pair in zip(steps, steps[1:]))


@pytest.mark.usefixtures("vectors_left_in_small_tables")
@pytest.mark.parametrize("part", range(PARTS))
def test_queries_give_what_brute_force_gives(part, request):
    seed = request.config.getoption("--hypothesis-seed")
    for number in range(part * WORLDS, (part + 1) * WORLDS):
        rng = random.Random(f"{seed}/{number}")
        world = World(rng, large=number % LARGE_EVERY == 0)
        connection = world.open()
        trace = []
        if world.large:
            connection.set_trace_callback(trace.append)
        generator = query_grammar.Generator(rng, world.tables)
        for query in range(PER_WORLD):
            if query % 20 == 19:
                world.change(connection)
            statement = generator.query()
            trace.clear()
            expected, found, difference = answers(connection, statement)
            if difference:
                connection.set_trace_callback(None)
                pytest.fail(
                    f"seed {seed}, world {number}, query {query}: "
                    + report(world, connection, statement, difference),
                    pytrace=False,
                )
            if found is None:
                continue
            count_searches(trace)
            seen["queries"] += 1
            seen["not empty"] += bool(found)
            seen[statement.shape] += 1
            count_plans(connection, statement)
        connection.close()


def test_everything_was_tried():
    """The queries above took every plan and every operator, often enough to mean something."""
    print(sorted(seen.items()))
    if not seen["queries"]:
        pytest.skip("the queries were not run")
    wanted = [
        "scan", "scan filtered", "lookup", "lookup filtered", "knn", "knn filtered", "knn k", "stream",
        "stream filtered", "stream limit", "stream offset", "point", "point filtered", "knn database",
        "stream database", "term =", "term !=", "term <", "term <=", "term >", "term >=", "term IS",
        "term IS NOT", "term IN", "term LIKE", "term GLOB", "term IS NULL", "term IS NOT NULL",
        "term COLLATE", "term on id", "term on rowid", "term on score", "term on distance", "single", "scan",
        "grouped", "aggregate", "distinct", "window", "joined", "lateral", "two searches", "nested",
        "compound", "correlated exists", "correlated not exists", "correlated scalar", "correlated count",
        "correlated in", "set first", "rows first", "set given up for rows", "rows given up for the set",
    ]
    rare = {name: seen[name] for name in wanted if seen[name] < max(1, seen["queries"] // 2000)}
    assert not rare, f"too few of {rare} in {seen['queries']} queries"
    assert seen["not empty"] > seen["queries"] // 3
