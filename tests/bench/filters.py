"""Searches among the rows that match a column, streams and joins: their times beside their goals.

Wrong answers and failures end with a non-zero status; a goal that is missed does not: times depend
on the machine and on what else runs there, and the table says which goals were reached.
"""

import argparse
import pathlib
import platform
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile

import numpy

from contenders import Place, RawFaiss
from docs import Truth, make_buckets, write_docs
from peers import PERCENTS, Installed, Subject, sqlite_vec, sqlite_vector, vectorlite
from processes import Processes, milliseconds
from report import Table, describe_machine, finish, number, print_machine, say
from settled import settle
from vectors import add_arguments, read_or_make

K = 10
SLICES = 3  # each process takes every third query
LATERAL_ROWS, LATERAL_CHUNK = 1000, 100
PAIRS_THREADS = "", "threads=1"  # without the option: as many as the process allows


# ---- subjects: this extension and its peers ----


MATCH = "SELECT id, distance FROM docs_index WHERE embedding MATCH :query"
FORMS = {"k": f"AND k = {K}", "limit": f"ORDER BY distance LIMIT {K}"}


def this_extension(*where):
    subject = Subject("sqlite-faiss", *where)
    subject.version = "SELECT faiss_version()"
    subject.build = ["CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)"]
    for form, end in FORMS.items():
        subject.forms(f"{MATCH} {end}", form)
        for column in ("bucket", "indexed_bucket"):
            subject.forms(f"{MATCH} AND {{filter}} {end}", f"{form} {column}", column)
    for column in ("bucket", "indexed_bucket"):
        form = f"select {column}"
        subject.forms("SELECT rowid FROM docs WHERE {filter}", form, column)
        subject.unanswered.add(form)
    return subject


PEERS = {"sqlite-vec": sqlite_vec, "sqlite-vector": sqlite_vector, "vectorlite": vectorlite}


# ---- measuring, each function in a process of its own ----


def prepare(subject):
    return subject.prepare()


def build_flat(flat, place):
    return flat.build(place)


FLAT = ("flat", 100)  # raw FAISS, beside the statements of this extension


def searches(subject, queries, seed, flat=None, place=None):
    """Each statement with each query, in random order: {name: [(ms, query number, ids)]}. With
    `flat`, a search of all rows by FAISS itself is one of them."""
    connection = subject.connect()
    shuffled = random.Random(seed)
    names = list(subject.statements)
    if flat:
        flat.load(place)
        flat.open(place)
        names.append(FLAT)
        sql, first = subject.statements["k", 100], {"query": queries[0][1]}
        settle(connection, lambda: connection.execute(sql, first).fetchall())

    def search(name, blob):
        if name == FLAT:
            return [(id,) for id in flat.search(numpy.frombuffer(blob, "<f4"), K)]
        return connection.execute(
            subject.statements[name], {"query": blob, "k": K}
        ).fetchall()

    found = {name: [] for name in names}
    warm = False
    for query, blob in [queries[0], *queries]:
        shuffled.shuffle(names)
        for name in names:
            took, rows = milliseconds(lambda: search(name, blob))
            if warm:
                keep = name[0] not in subject.unanswered
                found[name].append((took, query, rows if keep else len(rows)))
        warm = True
    connection.close()
    return found


LATERAL = f"""SELECT a.id, b.id, b.distance FROM docs a
JOIN docs_index b ON b.embedding MATCH a.embedding AND b.k = {K}
WHERE a.id BETWEEN :first AND :last"""


def lateral(subject, first_id, blobs):
    """Chunks of the lateral join, and as many single searches; the two take turns."""
    connection = subject.connect()
    single = f"{MATCH} {FORMS['k']}"
    connection.execute(single, {"query": blobs[0]}).fetchall()
    took = {"join": [], "single": []}
    same = True
    for number, begin in enumerate(range(0, len(blobs), LATERAL_CHUNK)):
        chunk = blobs[begin : begin + LATERAL_CHUNK]
        ends = {"first": first_id + begin, "last": first_id + begin + len(chunk) - 1}
        runs = {
            "join": lambda: connection.execute(LATERAL, ends).fetchall(),
            "single": lambda: [
                connection.execute(single, {"query": blob}).fetchall() for blob in chunk
            ],
        }
        rows = {}
        for name in sorted(runs, reverse=number % 2):
            time_taken, rows[name] = milliseconds(runs[name])
            took[name].append(time_taken)
        expected = [
            (ends["first"] + at, *row) for at, found in enumerate(rows["single"]) for row in found
        ]
        same = same and rows["join"] == expected
    connection.close()
    return took, same


def streams(subject, queries, rows, seed):
    """Reading part or all of the stream beside a search with that k."""
    connection = subject.connect()
    shuffled = random.Random(seed)
    read_all = MATCH.replace("id, distance", "count(*), sum(id), max(distance)")

    def read(sql, count, blob):
        cursor = connection.execute(sql, {"query": blob})
        found = cursor.fetchmany(count)
        cursor.close()
        return found

    some = min(1000, rows)
    runs = {
        "k = 1000": lambda blob: read(f"{MATCH} AND k = {some}", some, blob),
        "stream 1000": lambda blob: read(f"{MATCH} ORDER BY distance", some, blob),
        "limit 1000": lambda blob: read(f"{MATCH} ORDER BY distance LIMIT {some}", some, blob),
        "k = n": lambda blob: read(f"{read_all} AND k = {rows}", 1, blob),
        "stream n": lambda blob: read(read_all, 1, blob),
    }
    names = list(runs)
    took = {name: [] for name in names}
    wrong = []
    warm = False
    for query, blob in [queries[0], *queries]:
        shuffled.shuffle(names)
        found = {}
        for name in names:
            time_taken, found[name] = milliseconds(lambda: runs[name](blob))
            if warm:
                took[name].append(time_taken)
        warm = True
        if not found["k = 1000"] == found["stream 1000"] == found["limit 1000"]:
            wrong.append(f"query {query}: 1,000 rows in three ways differ")
        if found["k = n"] != found["stream n"]:
            wrong.append(f"query {query}: k = n and the whole stream differ")
    ranked = connection.execute(f"{MATCH} AND k = {rows}", {"query": queries[0][1]}).fetchall()
    streamed = connection.execute(MATCH, {"query": queries[0][1]}).fetchall()
    if ranked != streamed:
        wrong.append("the whole stream is not the whole ranked search")
    connection.close()
    return took, streamed, wrong


def all_pairs(subject, sample, threads):
    """faiss_neighbors over all rows, into a table; the neighbours of some of the rows."""
    connection = subject.connect()
    options = ", ".join(filter(None, ("main", "docs", threads)))
    connection.execute(f"CREATE VIRTUAL TABLE temp.pairs USING faiss({options})")
    connection.execute(f"{MATCH} {FORMS['k']}", {"query": bytes(4 * subject.dimension)}).fetchall()
    connection.execute("CREATE TEMP TABLE related(id, neighbor, distance)")
    fill = f"""INSERT INTO related SELECT id, neighbor, distance
        FROM faiss_neighbors('temp', 'pairs', {K})"""
    took, _ = milliseconds(lambda: connection.execute(fill))
    pairs = {}
    for id, neighbor, distance in connection.execute("SELECT * FROM related ORDER BY rowid"):
        if id in sample:
            pairs.setdefault(id, []).append((neighbor, distance))
    connection.close()
    return took, pairs


def measure_searches(processes, subjects, queries, rounds, flat, place):
    """All subjects in turn, each in a new process: {subject: {statement: [(ms, query, rows)]}}."""
    found = {subject.name: {} for subject in subjects}
    for round in range(rounds):
        say(f"filtered searches, round {round + 1} of {rounds}")
        first = round % len(subjects)
        for subject in subjects[first:] + subjects[:first]:
            beside = (flat, place) if subject is subjects[0] else ()
            some = queries[round % SLICES :: SLICES]
            result = processes.run(searches, subject, some, round, *beside)
            for statement, measured in (result or {}).items():
                found[subject.name].setdefault(statement, []).extend(measured)
    return found


def summary(measured):
    times = [row[0] if isinstance(row, tuple) else row for row in measured]
    return {
        "median_ms": statistics.median(times),
        "p95_ms": float(numpy.percentile(times, 95)),
        "times": len(times),
    }


def summarize_searches(found, subjects, truth, failures):
    """Times and mean recall of each statement; a wrong answer of this extension is a failure."""
    figures = {}
    for subject in subjects:
        figures[subject.name] = {}  # of a peer that failed, nothing
        for (form, percent), measured in found[subject.name].items():
            row = summary(measured)
            if form in subject.unanswered:
                expected = int((truth.buckets < percent).sum())
                if any(count != expected for _, _, count in measured):
                    failures.append(f"{form} at {percent} %: not {expected} rows")
            else:
                recalls = [
                    truth.recall([answer[0] for answer in rows], truth.squares[query], percent)
                    for _, query, rows in measured
                ]
                row["recall"] = statistics.mean(recalls)
                if subject is subjects[0] and (form, percent) != FLAT:
                    wrong = sum(
                        recall < 1
                        or len(rows) != min(K, int((truth.buckets < percent).sum()))
                        or truth.distances_differ(rows, truth.squares[query])
                        for recall, (_, query, rows) in zip(recalls, measured)
                    )
                    if wrong:
                        failures.append(f"{form} at {percent} %: {wrong} of {len(measured)} wrong")
            figures[subject.name][f"{form} {percent}"] = row
    return figures


def measure_joins(processes, subject, queries, vectors, truth, repeats):
    """The lateral join, the streams and all pairs: their times; their answers are checked."""
    figures = {}
    rows = len(vectors)
    count = min(LATERAL_ROWS, rows)
    took = {"join": [], "single": []}
    streamed = {}
    for number in range(repeats):
        say(f"streams and lateral joins, {number + 1} of {repeats}")
        first = number * (rows - count) // max(1, repeats - 1)
        blobs = [row.tobytes() for row in vectors[first : first + count]]
        result = processes.run(lateral, subject, first + 1, blobs)
        if result:
            for name, times in result[0].items():
                took[name] += [t * LATERAL_ROWS / LATERAL_CHUNK for t in times]
            if not result[1]:
                processes.failures.append("the lateral join differs from single searches")
        result = processes.run(streams, subject, queries[number % SLICES :: SLICES], rows, number)
        if result:
            for name, times in result[0].items():
                streamed.setdefault(name, []).extend(times)
            processes.failures += result[2]
            squares = truth.squares[queries[number % SLICES][0]]
            everything = {row[0] for row in result[1]} == set(range(1, rows + 1))
            if not everything or truth.distances_differ(result[1], squares):
                processes.failures.append("the whole stream is not every row in order")
    if took["join"]:
        figures["lateral"] = {name: summary(times) for name, times in took.items()}
    figures["streams"] = {name: summary(times) for name, times in streamed.items()}

    say("faiss_neighbors over all rows, which takes a while")
    sample = set(range(1, rows + 1, max(1, rows // 200)))
    figures["neighbors_ms"] = {}
    for threads in PAIRS_THREADS:
        result = processes.run(all_pairs, subject, sample, threads)
        if result:
            figures["neighbors_ms"][threads] = result[0]
            processes.failures += wrong_pairs(truth, result[1], sample)
    return figures


def wrong_pairs(truth, found, sample):
    """Complaints about the neighbours of some rows."""
    wrong = []
    for id in sample:
        pairs = found.get(id, [])
        squares = truth.squares_from(truth.vectors[id - 1])
        right = truth.recall([pair[0] for pair in pairs], squares, leave_out=id) == 1
        if not right or truth.distances_differ(pairs, squares):
            wrong.append(f"faiss_neighbors: wrong neighbours of row {id}")
    return wrong


# ---- showing ----


class BesideSearches(Table):
    def __init__(self):
        super().__init__(58, 10, 10, 8, 28, 9, 9, 6)

    def row(self, what, figures, *cells):
        recall = number(figures.get("recall"), 3) if "recall" in figures else ""
        times = number(figures["median_ms"], 2), number(figures["p95_ms"], 2)
        self.line("  " + what, *times, recall, *cells)

    def compared(self, what, against, value, limit, at_least=False):
        """The cells of a goal that compares with something."""
        goal = self.goal(f"{what}: {against}", value, limit, at_least)
        return against, number(value, 3), *goal


FORM_COLUMNS = ("median", "p95", "recall", "compared with", "ratio", "goal", "")


def described(column, percent):
    return f"{percent} %, {'no index' if column == 'bucket' else 'index'} on the column"


def show_searches(table, own):
    """The filtered searches of this extension and their goals, which are relative to a flat search
    of all rows."""
    base = own["flat 100"]["median_ms"]
    for form, end in FORMS.items():
        unfiltered = own[f"{form} 100"]
        table.heading(f"MATCH ? [AND filter] {end} (ms)", *FORM_COLUMNS)
        table.row("no filter, FAISS itself (flat)", own["flat 100"])
        share = unfiltered["median_ms"] / base
        table.row("no filter", unfiltered, "flat", number(share, 3))
        for column in ("indexed_bucket", "bucket"):
            for percent in PERCENTS:
                figures = own[f"{form} {column} {percent}"]
                alone = own[f"select {column} {percent}"]
                what, median = described(column, percent), figures["median_ms"]
                if percent > 1:
                    goal = "flat", median / base, 1.3
                elif column == "indexed_bucket":
                    goal = "flat", median / base, 0.2
                else:
                    bound = 1.1 * alone["median_ms"] + 0.5 * base
                    goal = "1.1 SELECT + 0.5 flat", median / bound, 1
                table.row(what, figures, *table.compared(f"{what}, {end}", *goal))
    table.heading("SELECT rowid FROM docs WHERE filter (ms)", *FORM_COLUMNS[:2])
    for column in ("indexed_bucket", "bucket"):
        for percent in PERCENTS:
            table.row(described(column, percent), own[f"select {column} {percent}"])


def show_peers(table, figures, subjects):
    for subject in subjects[1:]:
        table.heading(f"{subject.name} (ms)", *FORM_COLUMNS[:3], "times sqlite-faiss")
        for name, row in figures[subject.name].items():
            form, percent = name.rsplit(" ", 1)
            # The metadata column is beside this extension's search without an index.
            column = "bucket" if "metadata" in form else "indexed_bucket"
            own = "k 100" if percent == "100" else f"k {column} {percent}"
            ratio = row["median_ms"] / figures[subjects[0].name][own]["median_ms"]
            what = form if percent == "100" else f"{percent} %, {form}"
            table.row(what, row, number(ratio, 2))


def show_joins(table, joins, rows):
    table.heading("Streams and joins (ms)", *FORM_COLUMNS)
    some = joins["streams"]
    if some:
        table.row("k = 1000", some["k = 1000"])
        base = some["k = 1000"]["median_ms"]
        for name, what in (
            ("stream 1000", "ORDER BY distance, read 1,000 rows and stop"),
            ("limit 1000", "ORDER BY distance LIMIT 1000"),
        ):
            ratio = some[name]["median_ms"] / base
            table.row(what, some[name], *table.compared(what, "k = 1000", ratio, 1.5))
        table.row(f"k = {rows:,}", some["k = n"])
        ratio = some["stream n"]["median_ms"] / some["k = n"]["median_ms"]
        what = f"all {rows:,} rows without k"
        table.row(what, some["stream n"], *table.compared(what, f"k = {rows:,}", ratio, 3))
    if "lateral" in joins:
        join, single = joins["lateral"]["join"], joins["lateral"]["single"]
        table.row("1,000 single searches", single)
        what = "1,000 outer rows JOIN docs_index ON MATCH AND k"
        ratio = join["median_ms"] / single["median_ms"]
        table.row(what, join, *table.compared(what, "1,000 single searches", ratio, 1.1))
        if joins["neighbors_ms"]:
            whole = join["median_ms"] * rows / LATERAL_ROWS
            table.line(f"  the lateral join of all {rows:,} rows, extrapolated", number(whole, 0))
        for threads, ms in joins["neighbors_ms"].items():
            what = f"faiss_neighbors, {rows:,} rows, INSERT ... SELECT {threads}".rstrip()
            against = "times faster than the join", number(whole / ms, 3)
            if not threads:
                against = table.compared(what, against[0], whole / ms, 5, at_least=True)
            table.line("  " + what, number(ms, 0), "", "", *against)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extension", required=True)
    parser.add_argument("--work", required=True, help="where the databases are written")
    parser.add_argument("--peers", default="", help="virtual environment of the peers, made here")
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=2 * SLICES, help="processes of each subject")
    parser.add_argument("--repeats", type=int, default=SLICES, help="processes of the joins")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()

    vectors, queries, source = read_or_make(options)
    rows, dimension = vectors.shape
    if rows < 1000 or len(queries) < SLICES:
        sys.exit(f"{source}: at least 1,000 vectors and {SLICES} queries are needed")
    buckets = make_buckets(rows)
    truth = Truth(vectors, queries, buckets, K)
    blobs = [(number, query.tobytes()) for number, query in enumerate(queries)]

    peers, left_out = {}, {}
    if options.peers:
        say("peers")
        installed = Installed(options.peers)
        for name in PEERS:
            try:
                peers[name] = installed.extensions(name)
            except RuntimeError as error:
                left_out[name] = str(error)
    machine = describe_machine() | {"sqlite": sqlite3.sqlite_version}
    versions = {}
    processes = Processes()
    pathlib.Path(options.work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=pathlib.Path(options.work).resolve()) as directory:
        say("data")
        work = pathlib.Path(directory)
        write_docs(work / "docs.db", vectors, buckets)
        subjects = []
        own = str(pathlib.Path(options.extension).resolve())
        for name, extensions in {"sqlite-faiss": [own], **peers}.items():
            database = shutil.copyfile(work / "docs.db", work / f"{name}.db")
            subject = PEERS.get(name, this_extension)(extensions, database, dimension)
            versions[name] = processes.run(prepare, subject)
            if versions[name] is not None:
                subjects.append(subject)
            elif name not in PEERS:
                sys.exit(processes.failures[-1])
        flat = RawFaiss("FAISS Flat", "Flat")
        place = Place(work, work / "docs.db", rows, dimension, own, None)
        if processes.run(build_flat, flat, place) is None:
            sys.exit(processes.failures[-1])
        found = measure_searches(processes, subjects, blobs, options.rounds, flat, place)
        searched = summarize_searches(found, subjects, truth, processes.failures)
        joins = measure_joins(processes, subjects[0], blobs, vectors, truth, options.repeats)

    print(f"{rows:,} x {dimension} float32 ({source}), {len(queries)} queries")
    print_machine(machine)
    print(f"SQLite {sqlite3.sqlite_version}, Python {platform.python_version()}")
    for name, version in versions.items():
        print(f"{name}: {' '.join(str(version).split())}")
    for name, reason in left_out.items():
        print(f"{name} left out: {reason}")
    times = len(found[subjects[0].name].get(("k", 100), ()))
    print(f"medians of {times} searches in {options.rounds} processes each, taking turns")
    table = BesideSearches()
    if times:
        show_searches(table, searched[subjects[0].name])
    show_joins(table, joins, rows)
    if times:
        show_peers(table, searched, subjects)
    table.summary()
    everything = {"rows": rows, "dimension": dimension, "data": source, "machine": machine}
    everything |= {"versions": versions, "peers_left_out": left_out}
    everything |= {"goals": table.goals, "searches": searched, "joins": joins}
    correct = "Every answer of sqlite-faiss was that of brute force in float64."
    finish(processes.failures, correct, options.json, everything)


if __name__ == "__main__":
    main()
