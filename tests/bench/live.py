"""What it costs that an index follows its table: writing, searching after changes, memory.

Wrong answers and failures end with a non-zero status; a goal that is missed does not: times depend
on the machine and on what else runs there, and the table says which goals were reached.
"""

import argparse
import os
import pathlib
import re
import shutil
import sqlite3
import statistics
import tempfile

import numpy

from processes import Processes, milliseconds
from report import Table, describe_machine, finish, number, print_machine, say
from settled import settle
from vectors import add_arguments, read_or_make

K = 10
SEARCH = f"SELECT id, distance FROM docs_index WHERE embedding MATCH ? AND k = {K}"
# Of a squared distance, between float32 and float64: equally near rows may change places.
TOLERANCE = 1e-6

GOAL_INSERT = 1.25
GOAL_UPDATE = 1.20
GOAL_SEARCH, GOAL_SEARCH_US = 1.05, 100
GOAL_LINEAR = 1.25  # time a row, of 10,000 changed rows against 1,000
GOAL_MEMORY = 1.20

CHANGES = (10, 100, 1000, 10000)
REPEATS = 3
FOLLOWING = 10  # searches before a change, after it, and after 'optimize'
SAME_ROWS = 1000  # updated over and over again

INDEX = "CREATE VIRTUAL TABLE docs_index USING faiss(main, docs, dimension={dimension}{options})"
COLUMNS = "id INTEGER PRIMARY KEY, {slug}title TEXT, embedding BLOB"


# ---- databases ----


def connect(extension, path, *settings):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    for setting in settings:
        connection.execute(f"PRAGMA {setting}").fetchall()
    return connection


def remove_database(path):
    for suffix in ("", "-journal", "-wal", "-shm"):
        pathlib.Path(f"{path}{suffix}").unlink(missing_ok=True)


def write_docs(extension, path, vectors, index):
    """The rows; with an index live or not, or none ('')."""
    connection = connect(extension, path, "synchronous = OFF")
    connection.execute(f"CREATE TABLE docs({COLUMNS.format(slug='')})")
    if index:
        options = "" if index == "live" else f", {index}"
        connection.execute(INDEX.format(dimension=vectors.shape[1], options=options))
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?, ?)",
        ((id, f"title {id}", row.tobytes()) for id, row in enumerate(vectors, 1)),
    )
    connection.execute("COMMIT")
    connection.close()


# ---- bulk insert ----


# What an insert does for a live index: the first words of the statements of its triggers. Those
# run for a row that the last entry of the log does not stand for, or one that is malformed: "runs".
PARTS = {"check": "SELECT RAISE", "log": "INSERT INTO", "cut": "DELETE FROM"}


class Insert:
    """A table to fill: with a UNIQUE column or without, with an index, and with parts of its
    triggers only. The benchmark takes the triggers apart that the extension has made."""

    def __init__(self, what, index="", unique=False, parts=None, guard=True):
        self.what, self.index, self.unique = what, index, unique
        self.parts, self.guard = parts, guard

    def create(self, connection, dimension):
        slug = "slug TEXT UNIQUE, " if self.unique else ""
        connection.execute(f"CREATE TABLE docs({COLUMNS.format(slug=slug)})")
        if self.index:
            options = "" if self.index == "live" else f", {self.index}"
            connection.execute(INDEX.format(dimension=dimension, options=options))
        if not self.guard:
            connection.execute("DROP TRIGGER docs_faiss_replace")
        if self.parts is not None:
            self.keep_parts(connection)

    def keep_parts(self, connection):
        find = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY name"
        triggers = dict(connection.execute(find).fetchall())
        for name in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        head, runs, body = re.fullmatch(
            r"(.*?)( WHEN .*) BEGIN (.*;) END", triggers["docs_faiss_insert"], re.DOTALL
        ).groups()
        statements = [statement.strip() for statement in body.split(";") if statement.strip()]
        kept = []
        for part in self.parts:
            if part == "runs":
                head += runs
                continue
            found = [one for one in statements if one.startswith(PARTS[part])]
            assert len(found) == 1, f"the {part} of {triggers['docs_faiss_insert']}"
            kept += found
        connection.execute(f"{head} BEGIN {'; '.join(kept) or 'SELECT 1'}; END")


INSERTS = {
    "alone": Insert("the table alone"),
    "off": Insert("with a faiss table, live=off", "live=off"),
    "live": Insert("with a live faiss table", "live"),
    "nothing": Insert("  a trigger that does nothing", "live", parts=()),
    "log": Insert("  a log of each row", "live", parts=("log",)),
    "check": Insert("  a log of each row, and the check of the length", "live", parts=("check", "log")),
    "cut": Insert("  a log of each row, and its cutting", "live", parts=("log", "cut")),
    "runs": Insert("  the log by runs", "live", parts=("runs", "log")),
    "unique alone": Insert("with a UNIQUE column, the table alone", unique=True),
    "unique live": Insert("with a UNIQUE column and a live faiss table", "live", unique=True),
    "unique unguarded": Insert("  without the UNIQUE guard", "live", unique=True, guard=False),
}
WHOLE = ("alone", "off", "live", "unique alone", "unique live")

# How the goals are meant: as SQLite is unless told otherwise. Without waiting for the disk the
# shares are at their largest, and the parts can be told apart.
INSERT_SETTINGS = {
    "journal_mode=DELETE, synchronous=FULL": WHOLE,
    "journal_mode=WAL, synchronous=FULL": WHOLE,
    "journal_mode=DELETE, synchronous=OFF": tuple(INSERTS),
}


def insert_times(work, extension, names, settings, count, rounds):
    """ms of filling a fresh file in one transaction, the tables taking turns: {name: [ms]}."""
    vectors = numpy.load(work / "vectors.npy", mmap_mode="r")
    blobs = [vectors[at % len(vectors)].tobytes() for at in range(count)]
    rows = {
        False: [(id, f"title {id}", blob) for id, blob in enumerate(blobs, 1)],
        True: [(id, f"slug-{id}", f"title {id}", blob) for id, blob in enumerate(blobs, 1)],
    }
    path = work / "insert.db"
    took = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            table = INSERTS[name]
            connection = connect(extension, path, *settings.split(", "))
            table.create(connection, vectors.shape[1])
            insert = f"INSERT INTO docs VALUES (?, ?, ?{', ?' if table.unique else ''})"

            def fill():
                connection.execute("BEGIN")
                connection.executemany(insert, rows[table.unique])
                connection.execute("COMMIT")

            took[name].append(milliseconds(fill)[0])
            connection.close()
            remove_database(path)
    return took


# ---- updates ----


UPDATES = {
    "embedding": "UPDATE docs SET embedding = ? WHERE id = ?",
    "title": "UPDATE docs SET title = ? WHERE id = ?",
}
# Where each waits for the disk, the two tables take turns after few updates. In WAL mode with
# synchronous=NORMAL only checkpoints wait: some fall to each turn.
FEW, MANY = 1, 50
UPDATE_SETTINGS = {
    "autocommit, journal_mode=DELETE, synchronous=FULL": FEW,
    "autocommit, journal_mode=WAL, synchronous=FULL": FEW,
    "autocommit, journal_mode=DELETE, synchronous=NORMAL": FEW,
    "autocommit, journal_mode=WAL, synchronous=NORMAL": MANY,
    "one transaction, journal_mode=WAL, synchronous=OFF": MANY,
}


def update_times(work, extension, how, count, rounds):
    """ms of `count` updates of random rows, alone and live taking turns: {column: {index: [ms]}}"""
    transactions, *settings = how.split(", ")
    is_one = transactions == "one transaction"
    vectors = numpy.load(work / "vectors.npy", mmap_mode="r")
    connections = {}
    for index in ("", "live"):
        path = work / f"update{index}.db"
        shutil.copyfile(work / f"docs{index}.db", path)
        connections[index] = connect(extension, path, *settings)
    random = numpy.random.default_rng(1)
    took = {column: {index: [] for index in connections} for column in UPDATES}
    for turn in range(rounds + 1):
        for column, update in UPDATES.items():
            ids = random.integers(len(vectors), size=count) + 1
            drawn = random.integers(len(vectors), size=count)
            if column == "title":
                rows = [(f"title {at}", int(id)) for id, at in zip(ids, drawn)]
            else:
                rows = [(vectors[at].tobytes(), int(id)) for id, at in zip(ids, drawn)]
            for index in sorted(connections, reverse=turn % 2):
                connection = connections[index]

                def run():
                    if is_one:
                        connection.execute("BEGIN")
                    for row in rows:
                        connection.execute(update, row)
                    if is_one:
                        connection.execute("COMMIT")

                time = milliseconds(run)[0]
                if turn:  # the first is for warming up
                    took[column][index].append(time)
    for index, connection in connections.items():
        connection.close()
        remove_database(work / f"update{index}.db")
    return took


# ---- searches ----


class Rows:
    """The rows as they should be, and whether an answer is theirs: brute force in float64."""

    def __init__(self, vectors):
        self.vectors = numpy.array(vectors)
        self.norms = numpy.einsum("ij,ij->i", self.vectors, self.vectors)
        self.random = numpy.random.default_rng(2)

    def change(self, count):
        """Move random rows a little; the parameters of an UPDATE for each."""
        chosen = self.random.choice(len(self.vectors), size=count, replace=False)
        moved = 0.1 * self.random.standard_normal((count, self.vectors.shape[1]), dtype="f4")
        self.vectors[chosen] += moved * numpy.sqrt(self.norms[chosen].mean() / moved.shape[1])
        self.norms[chosen] = numpy.einsum("ij,ij->i", self.vectors[chosen], self.vectors[chosen])
        return [(self.vectors[at].tobytes(), int(at) + 1) for at in chosen]

    def check(self, blob, answer):
        query = numpy.frombuffer(blob, "<f4")
        some = min(len(self.vectors), 10 * K)
        # einsum, for a product of BLAS leaves threads that spin into the next search.
        products = numpy.einsum("ij,j->i", self.vectors, query)
        near = numpy.argpartition(self.norms - 2 * products, some - 1)[:some]
        squares = numpy.square(self.vectors[near].astype("f8") - query).sum(axis=1)
        exact = dict(zip((near + 1).tolist(), squares.tolist()))
        expected = sorted(exact.values())[:K]
        found = [exact.get(id, numpy.inf) for id, _ in answer]
        told = [distance**2 for _, distance in answer]
        right = len(set(id for id, _ in answer)) == len(expected)
        right = right and numpy.allclose(found, expected, TOLERANCE, TOLERANCE)
        if not (right and numpy.allclose(told, expected, 1e-4, 1e-4)):
            raise ValueError(f"wrong answer: {answer}")


class Searcher:
    """Two connections to a copy of a database, one of which writes."""

    def __init__(self, work, extension, index, queries):
        self.path = work / f"search-{index}.db"
        shutil.copyfile(work / f"docs{index}.db", self.path)
        settings = "journal_mode=WAL", "synchronous=OFF"
        self.connections = {
            "own": connect(extension, self.path, *settings),
            "other": connect(extension, self.path, *settings),
        }
        self.writer = self.connections["own"]
        self.rows = Rows(numpy.load(work / "vectors.npy", mmap_mode="r"))
        self.queries = queries
        self.searched = 0
        for who in self.connections:
            self.search(who)

    def search(self, who, blob=None):
        """The time of a search for the next query, in ms; its answer is checked afterwards."""
        if blob is None:
            self.searched += 1
            blob = self.queries[self.searched % len(self.queries)]
        connection = self.connections[who]
        time, answer = milliseconds(lambda: connection.execute(SEARCH, (blob,)).fetchall())
        self.rows.check(blob, answer)
        return time

    def change(self, count):
        self.writer.execute("BEGIN")
        self.writer.executemany(UPDATES["embedding"], self.rows.change(count))
        self.writer.execute("COMMIT")

    def close(self):
        for connection in self.connections.values():
            connection.close()
        remove_database(self.path)


def one_change(searcher, times):
    """A search, a changed row, and the same search again: {(who, when): [ms]}."""
    settle(searcher.writer, lambda: searcher.search("own"))
    took = {(who, when): [] for who in searcher.connections for when in ("before", "after")}
    for turn in range(times):
        for who in sorted(searcher.connections, reverse=turn % 2):
            blob = searcher.queries[turn % len(searcher.queries)]
            # Twice, so that the later search is not the only one behind a search for its query.
            searcher.search(who, blob)
            took[who, "before"].append(searcher.search(who, blob))
            searcher.change(1)
            took[who, "after"].append(searcher.search(who, blob))
    return took


def many_changes(searcher, who, count):
    def some():
        return [searcher.search(who) for _ in range(FOLLOWING)]

    settle(searcher.connections[who], lambda: searcher.search(who))
    before = some()
    searcher.change(count)
    first = searcher.search(who)
    after = some()
    optimize = "INSERT INTO docs_index(docs_index) VALUES ('optimize')"
    took = milliseconds(lambda: searcher.writer.execute(optimize))[0]
    figures = {"before": before, "first": [first], "after": after}
    return figures | {"optimize": [took], "optimized": some()}


def after_changes(work, extension, index, queries, times):
    """All about searches after changes, of a table with such an index."""
    searcher = Searcher(work, extension, index, queries)
    figures = {"one": one_change(searcher, times), "many": {}}
    for count in CHANGES:
        for turn in range(2 * REPEATS if count <= len(searcher.rows.vectors) else 0):
            who = ("own", "other")[turn % 2]
            add_up(figures["many"].setdefault((count, who), {}), many_changes(searcher, who, count))
    figures["uncommitted"] = uncommitted(searcher, 100 if index == "live" else 10)
    searcher.close()
    return figures


def uncommitted(searcher, inserts):
    """Searches within a transaction, each after an insert of a row that it must find."""
    settle(searcher.writer, lambda: searcher.search("own"))
    before = [searcher.search("own") for _ in range(FOLLOWING)]
    rows = len(searcher.rows.vectors)
    took = []
    searcher.writer.execute("BEGIN IMMEDIATE")
    for id in range(rows + 1, rows + 1 + inserts):
        blob = searcher.rows.random.standard_normal(searcher.rows.vectors.shape[1]).astype("<f4")
        searcher.writer.execute("INSERT INTO docs VALUES (?, 'new', ?)", (id, blob.tobytes()))
        parameters = (blob.tobytes(),)
        time, answer = milliseconds(lambda: searcher.writer.execute(SEARCH, parameters).fetchall())
        if answer[0][0] != id:
            raise ValueError(f"the row just inserted is not found: {answer}")
        took.append(time)
    other = [searcher.search("other") for _ in range(FOLLOWING)]
    searcher.writer.execute("ROLLBACK")
    after = [searcher.search("own") for _ in range(FOLLOWING)]
    return {"before": before, "own": took, "other": other, "after": after}


# ---- memory ----


def resident_bytes():
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(work, extension, name, queries, updates, each, same_rows):
    """Before and after updates in transactions of `each`, with a search after every 100 updates
    or every transaction. `same_rows`: of so many rows only; 0: of any."""
    path = work / f"memory-{name}.db"
    shutil.copyfile(work / "docslive.db", path)
    connection = connect(extension, path, "journal_mode=WAL", "synchronous=OFF")
    vectors = numpy.load(work / "vectors.npy", mmap_mode="r")
    random = numpy.random.default_rng(3)

    def look(at):
        connection.execute(SEARCH, (queries[at % len(queries)],)).fetchall()
        counted = connection.execute("SELECT sum(bytes) FROM faiss_indexes").fetchone()[0]
        return {"index": counted, "resident": resident_bytes()}

    # The mapped vectors are read first: they are no part of what is measured.
    float(numpy.add.reduce(vectors, axis=None))
    before = most = look(0)
    for done in range(0, updates, each):
        connection.execute("BEGIN")
        for _ in range(each):
            id = int(random.integers(same_rows or len(vectors))) + 1
            row = vectors[int(random.integers(len(vectors)))]
            connection.execute(UPDATES["embedding"], (row.tobytes(), id))
        connection.execute("COMMIT")
        if (done + each) % max(each, 100) == 0:
            after = look(done)
            most = {kind: max(most[kind], after[kind]) for kind in most}
    connection.close()
    remove_database(path)
    return {"before": before, "after": after, "most": most}


# ---- measuring ----


def measure(processes, work, extension, queries, options):
    figures = {"inserts": {}, "updates": {}, "searches": {}, "memory": {}}
    rounds = options.rounds
    for settings, names in INSERT_SETTINGS.items():
        say(f"bulk insert, {settings}")
        took = processes.run(
            insert_times, work, extension, names, settings, options.inserts, rounds
        )
        figures["inserts"][settings] = took or {}
    for how, many in UPDATE_SETTINGS.items():
        say(f"updates, {how}")
        count, turns = many * options.updates, rounds * (4 if many == FEW else 1)
        took = processes.run(update_times, work, extension, how, count, turns)
        if took:
            figures["updates"][how] = {"updates": count, "times": took}
    for turn in range(options.processes):
        say(f"searches after changes, round {turn + 1} of {options.processes}")
        for index in ("live", "live=off"):
            times = options.searches if index == "live" else max(2, options.searches // 5)
            found = processes.run(after_changes, work, extension, index, queries, times)
            if found:
                add_up(figures["searches"].setdefault(index, {}), found)
    say("memory")
    for name, arguments in {
        "10,000 updates of random rows": (10000, 1, 0),
        f"200,000 updates of the same {SAME_ROWS:,} rows": (200000, 1000, SAME_ROWS),
    }.items():
        found = processes.run(memory, work, extension, name, queries, *arguments)
        if found:
            figures["memory"][name] = found
    return figures


def add_up(all_figures, figures):
    """Append the lists of times of one process to those of all."""
    for name, value in figures.items():
        if isinstance(value, dict):
            add_up(all_figures.setdefault(name, {}), value)
        else:
            all_figures.setdefault(name, []).extend(value)


# ---- showing ----


def middle(times):
    return statistics.median(times) if times else None


def paired_ratio(times, base):
    """The median over the rounds: the two of one round met the same machine."""
    return middle([time / other for time, other in zip(times, base)])


class Costs(Table):
    def __init__(self):
        super().__init__(62, 10, 10, 10, 10, 11, 9, 5)


def show_inserts(table, inserts, count):
    columns = ("median", "least", "ratio", "of least", "more", "goal", "")
    table.heading(f"1  {count:,} rows inserted in one transaction (us a row)", *columns)
    for settings, took in inserts.items():
        table.line("  " + settings)
        for name, times in took.items():
            insert = INSERTS[name]
            base = took["unique alone" if insert.unique else "alone"]
            cells = [number(1000 * middle(times) / count, 2), number(1000 * min(times) / count, 2)]
            goal = ()
            if times is not base:
                ratio = paired_ratio(times, base)
                cells += [number(ratio, 3), number(min(times) / min(base), 3)]
                cells += [number(1000 * (min(times) - min(base)) / count, 2)]
                whole = insert.index == "live" and insert.parts is None and insert.guard
                if whole and "synchronous=FULL" in settings:
                    what = f"bulk insert {insert.what}, {settings}"
                    goal = table.goal(what, ratio, GOAL_INSERT)
            table.line("    " + insert.what, *cells, *goal)


def show_updates(table, updates):
    columns = ("alone", "live", "ratio", "of least", "more", "goal", "")
    table.heading("2  updates of one row (us an update, medians)", *columns)
    for how, figures in updates.items():
        table.line("  " + how)
        for column, times in figures["times"].items():
            alone, live = times[""], times["live"]
            ratio = paired_ratio(live, alone)
            each = 1000 / figures["updates"]
            cells = [number(each * middle(times), 1) for times in (alone, live)]
            cells += [number(ratio, 3), number(min(live) / min(alone), 3)]
            cells += [number(each * (min(live) - min(alone)), 1)]
            goal = ()
            if column == "embedding" and "synchronous=FULL" in how:
                goal = table.goal(f"update of an {column}, {how}", ratio, GOAL_UPDATE)
            table.line(f"    of the {column}", *cells, *goal)


WHO = {"own": "the connection that wrote", "other": "another connection"}


def show_one_change(table, searches):
    columns = ("before", "after", "us more", "of least", "of allowed", "goal", "")
    allowed = f"{GOAL_SEARCH:g} x + {GOAL_SEARCH_US} us allowed"
    table.heading(f"3  search after one changed row (ms; {allowed})", *columns)
    for index, figures in searches.items():
        for who, searcher in WHO.items():
            before, after = figures["one"][who, "before"], figures["one"][who, "after"]
            pairs = list(zip(before, after))
            differences = [1000 * (late - early) for early, late in pairs]
            allowed = [GOAL_SEARCH * early + GOAL_SEARCH_US / 1000 for early, _ in pairs]
            ratio = paired_ratio(after, allowed)
            cells = [number(middle(before), 3), number(middle(after), 3)]
            cells += [number(middle(differences)), number(1000 * (min(after) - min(before)))]
            cells += [number(ratio, 3)]
            goal = ()
            if index == "live":
                goal = table.goal(f"search after one change, {searcher}", ratio, 1)
            table.line(f"  {index}, {searcher}", *cells, *goal)


def show_many_changes(table, searches):
    for index, figures in searches.items():
        table.heading(
            f"4  search after many changed rows, {index} (ms)",
            *("before", "first", "us a row", "following", "optimize", "then"),
        )
        each = {}
        for (count, who), times in figures["many"].items():
            before, first = middle(times["before"]), middle(times["first"])
            more = max(0, min(times["first"]) - min(times["before"]))
            each[count, who] = 1000 * more / count
            cells = [number(before, 2), number(first, 2), number(each[count, who], 2)]
            cells += [number(middle(times[name]), 2) for name in ("after", "optimize", "optimized")]
            table.line(f"  {count:,} rows, {WHO[who]}", *cells)
        if index == "live" and (CHANGES[-1], "own") in each:
            for who, searcher in WHO.items():
                some, all_rows = each[CHANGES[-2], who], each[CHANGES[-1], who]
                what = f"us a row, {CHANGES[-1]:,} against {CHANGES[-2]:,}, {searcher}"
                ratio = all_rows / some if some else None
                goal = table.goal(f"catching up is linear: {what}", ratio, GOAL_LINEAR)
                table.line(f"  {what}", "", "", number(ratio, 3), "", "", *goal)


def show_uncommitted(table, searches):
    what = "5  search in a transaction, after each of its inserts (ms)"
    table.heading(what, "median", "least")
    for index, figures in searches.items():
        found = figures["uncommitted"]
        # The times of several processes one after the other, each from its first insert on.
        inserts = 100 if index == "live" else 10
        own = numpy.array(found["own"]).reshape(-1, inserts)
        rows = {"before the transaction": found["before"]}
        few = inserts // 5
        rows |= {f"the first {few} inserts": own[:, :few].ravel().tolist()}
        rows |= {f"the last {few} of {inserts} inserts": own[:, -few:].ravel().tolist()}
        rows |= {"meanwhile, another connection": found["other"]}
        rows |= {"after the rollback": found["after"]}
        for what, times in rows.items():
            table.line(f"  {index}, {what}", number(middle(times), 3), number(min(times), 3))


def show_memory(table, memory):
    columns = ("before", "after", "at most", "ratio", "", "goal", "")
    table.heading("6  memory after many updates (MiB)", *columns)
    for name, found in memory.items():
        table.line("  " + name)
        for kind, what in (("index", "bytes in faiss_indexes"), ("resident", "resident memory")):
            before, after, most = (found[when][kind] for when in ("before", "after", "most"))
            cells = [number(figure / 2**20, 1) for figure in (before, after, most)]
            goal = ()
            if "the same" in name:
                goal = table.goal(f"{what}, {name}", most / before, GOAL_MEMORY)
            table.line(f"    {what}", *cells, number(most / before, 3), "", *goal)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extension", required=True)
    parser.add_argument("--work", required=True, help="where the databases are written")
    add_arguments(parser)
    parser.add_argument("--inserts", type=int, default=100000, help="rows of a bulk insert")
    parser.add_argument("--updates", type=int, default=40, help="in a turn, where each waits")
    parser.add_argument("--rounds", type=int, default=7, help="of inserts; of updates more")
    parser.add_argument("--searches", type=int, default=20, help="after one change, in a process")
    parser.add_argument("--processes", type=int, default=3, help="that search after changes")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()

    vectors, queries, source = read_or_make(options)
    rows, dimension = vectors.shape
    blobs = [query.tobytes() for query in queries]
    machine = describe_machine()
    extension = str(pathlib.Path(options.extension).resolve())
    processes = Processes()
    pathlib.Path(options.work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=pathlib.Path(options.work).resolve()) as directory:
        say("data")
        work = pathlib.Path(directory)
        numpy.save(work / "vectors.npy", vectors)
        for index in ("", "live", "live=off"):
            write_docs(extension, work / f"docs{index}.db", vectors, index)
        connection = connect(extension, ":memory:")
        machine["sqlite"] = sqlite3.sqlite_version
        machine["extension"] = connection.execute("SELECT faiss_version()").fetchone()[0]
        connection.close()
        figures = measure(processes, work, extension, blobs, options)

    print(f"{rows:,} x {dimension} float32 ({source})")
    print_machine(machine)
    print(f"{machine['extension']}; SQLite {machine['sqlite']}")
    print("ratio: median over rounds in which the two took turns; of least: of the least times;")
    print("more: the difference of the least times")
    table = Costs()
    show_inserts(table, figures["inserts"], options.inserts)
    show_updates(table, figures["updates"])
    show_one_change(table, figures["searches"])
    show_many_changes(table, figures["searches"])
    show_uncommitted(table, figures["searches"])
    show_memory(table, figures["memory"])
    table.summary()
    everything = {"rows": rows, "dimension": dimension, "data": source, "machine": machine}
    everything |= {"goals": table.goals, **with_text_keys(figures)}
    correct = "Every answer was that of brute force in float64."
    finish(processes.failures, correct, options.json, everything)


def with_text_keys(figures):
    """For JSON, which has no tuples as keys."""
    if not isinstance(figures, dict):
        return figures
    return {
        " ".join(map(str, key)) if isinstance(key, tuple) else key: with_text_keys(value)
        for key, value in figures.items()
    }


if __name__ == "__main__":
    main()
