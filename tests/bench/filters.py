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
import subprocess
import sys
import tempfile

import numpy

from processes import Processes, milliseconds
from report import Table, describe_machine, finish, number, print_machine, say
from vectors import add_arguments, read_or_make

K = 10
PERCENTS = (1, 10, 50)
SLICES = 3  # each process takes every third query
LATERAL_ROWS, LATERAL_CHUNK = 1000, 100
# Of a squared distance, between float32 and float64: equally near rows may change places.
TOLERANCE = 1e-6

PEER_FILES = {
    "sqlite-vec": "sqlite_vec/vec0.so",
    "sqlite-vector": "sqlite_vector/binaries/vector.so",
    "vectorlite": "vectorlite_py/vectorlite.so",
}


def condition(column, percent):
    return f"{column} = 0" if percent == 1 else f"{column} < {percent}"


# ---- data ----


class Truth:
    """Brute force in float64: which rows are the nearest, and how far they are."""

    def __init__(self, vectors, queries, buckets):
        self.vectors = vectors.astype("f8")
        self.queries = queries.astype("f8")
        self.buckets = buckets
        self.squares = [self.squares_from(query) for query in self.queries]

    def squares_from(self, query):
        difference = self.vectors - query
        return numpy.einsum("ij,ij->i", difference, difference)

    def recall(self, answer, squares, percent=100, k=K, leave_out=None):
        """The share of the k nearest rows that the ids of an answer have; ties count as right."""
        allowed = self.buckets < percent
        if leave_out is not None:
            allowed[leave_out - 1] = False
        k = min(k, int(allowed.sum()))
        limit = numpy.partition(squares[allowed], k - 1)[k - 1] * (1 + TOLERANCE)
        rows = {id - 1 for id in answer[:k]}
        return sum(bool(allowed[row]) and squares[row] <= limit for row in rows) / k

    def distances_differ(self, answer, squares):
        """Whether an answer of (id, distance) is not in order, or tells other distances."""
        ids, found = (numpy.array(column) for column in zip(*answer))
        expected = numpy.sqrt(squares[ids - 1])
        in_order = numpy.all(numpy.diff(found) >= 0)
        return not (in_order and numpy.allclose(found, expected, 1e-6, 1e-6))


def write_docs(path, vectors, buckets):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(
        "CREATE TABLE docs("
        "id INTEGER PRIMARY KEY, bucket INTEGER, indexed_bucket INTEGER, embedding BLOB)"
    )
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?, ?, ?)",
        (
            (id, bucket, bucket, row.tobytes())
            for id, (bucket, row) in enumerate(zip(buckets.tolist(), vectors), 1)
        ),
    )
    connection.execute("CREATE INDEX docs_by_bucket ON docs(indexed_bucket)")
    connection.commit()
    connection.close()


# ---- subjects: this extension and its peers ----


class Subject:
    """An extension, a database, what each connection begins with, and the statements to time.

    `statements` are named (form, percent or 100); each takes :query and gives ids first.
    """

    def __init__(self, name, extension, database, dimension):
        self.name, self.extension, self.database = name, str(extension), str(database)
        self.dimension = dimension
        self.version = None
        self.build = []
        self.begin = []
        self.statements = {}
        self.unanswered = set()  # forms without an answer to check: SELECT alone

    def __str__(self):
        return self.name

    def connect(self):
        connection = sqlite3.connect(self.database, isolation_level=None)
        connection.enable_load_extension(True)
        connection.load_extension(self.extension)
        for sql in self.begin:
            connection.execute(sql).fetchall()
        return connection

    def forms(self, template, form, column=None, percents=PERCENTS):
        """A statement with {filter} in it for each percent, and without a filter at 100."""
        for percent in (100,) if column is None else percents:
            added = condition(column, percent) if column else ""
            self.statements[form, percent] = template.format(filter=added)


MATCH = "SELECT id, distance FROM docs_index WHERE embedding MATCH :query"
FORMS = {"k": f"AND k = {K}", "limit": f"ORDER BY distance LIMIT {K}"}


def this_extension(path, database, dimension):
    subject = Subject("sqlite-faiss", path, database, dimension)
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


def sqlite_vec(path, database, dimension):
    subject = Subject("sqlite-vec", path, database, dimension)
    subject.version = "SELECT vec_version()"
    subject.build = [
        f"CREATE VIRTUAL TABLE docs_vec USING vec0(embedding float[{dimension}], bucket INTEGER)",
        "INSERT INTO docs_vec(rowid, embedding, bucket) SELECT id, embedding, bucket FROM docs",
    ]
    match = f"SELECT rowid, distance FROM docs_vec WHERE embedding MATCH :query AND k = {K}"
    chosen = "rowid IN (SELECT id FROM docs WHERE {filter})"
    scalar = "SELECT id FROM docs {where} ORDER BY vec_distance_l2(embedding, :query) LIMIT 10"
    subject.forms(match, "vec0")
    subject.forms(match + " AND {filter}", "vec0, metadata column", "bucket")
    subject.forms(f"{match} AND {chosen}", "vec0, rowid IN (indexed)", "indexed_bucket")
    subject.forms(scalar.format(where=""), "vec_distance_l2")
    where = scalar.format(where="WHERE {filter}")
    subject.forms(where, "vec_distance_l2, indexed", "indexed_bucket")
    return subject


def sqlite_vector(path, database, dimension):
    subject = Subject("sqlite-vector", path, database, dimension)
    subject.version = "SELECT vector_version()"
    options = f"type=FLOAT32,dimension={dimension},distance=L2"
    subject.begin = [f"SELECT vector_init('docs', 'embedding', '{options}')"]
    search = "SELECT rowid, distance FROM vector_full_scan('docs', 'embedding', :query"
    subject.forms(f"{search}, {K})", "full scan")
    chosen = "rowid IN (SELECT id FROM docs WHERE {filter})"
    template = f"{search}) WHERE {chosen} ORDER BY distance LIMIT {K}"
    subject.forms(template, "full scan, rowid IN (indexed)", "indexed_bucket")
    return subject


def vectorlite(path, database, dimension):
    subject = Subject("vectorlite", path, database, dimension)
    subject.version = "SELECT vectorlite_info()"
    subject.build = [
        f"CREATE VIRTUAL TABLE docs_hnsw USING vectorlite(embedding float32[{dimension}], "
        f"hnsw(max_elements=1000000), '{database}.hnsw')",
        "INSERT INTO docs_hnsw(rowid, embedding) SELECT id, embedding FROM docs",
    ]
    match = f"knn_search(embedding, knn_param(:query, {K}, 100))"
    search = f"SELECT rowid, distance FROM docs_hnsw WHERE {match}"
    subject.forms(search, "HNSW, ef=100")
    chosen = "rowid IN (SELECT id FROM docs WHERE {filter})"
    subject.forms(f"{search} AND {chosen}", "HNSW, ef=100, rowid IN (indexed)", "indexed_bucket")
    return subject


PEERS = {"sqlite-vec": sqlite_vec, "sqlite-vector": sqlite_vector, "vectorlite": vectorlite}


def install_peers(directory):
    """Their extensions by name, in a virtual environment made here when it is not there yet."""
    wanted = pathlib.Path(__file__).with_name("peers.txt")
    installed = directory / "installed"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        python = directory / "bin" / "python"
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
        for command in ([sys.executable, "-m", "venv", directory], [python, *install]):
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            done = subprocess.run(command, **streams)
            if done.returncode != 0:
                raise RuntimeError((done.stdout.strip() or "failed").splitlines()[-1])
        installed.write_text(wanted.read_text())
    found = {}
    for name, file in PEER_FILES.items():
        paths = list(directory.glob(f"lib/python*/site-packages/{file}"))
        if not paths:
            raise RuntimeError(f"{file} is not among the installed files")
        found[name] = paths[0]
    return found


# ---- measuring, each function in a process of its own ----


def prepare(subject):
    connection = subject.connect()
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")
    for sql in subject.build:
        connection.execute(sql)
    connection.execute("COMMIT")
    version = connection.execute(subject.version).fetchone()[0]
    connection.close()
    return version


def searches(subject, queries, seed):
    """Each statement with each query, in random order: {name: [(ms, query number, ids)]}."""
    connection = subject.connect()
    shuffled = random.Random(seed)
    names = list(subject.statements)
    found = {name: [] for name in names}
    warm = False
    for query, blob in [queries[0], *queries]:
        shuffled.shuffle(names)
        for name in names:
            sql = subject.statements[name]
            parameters = {"query": blob}
            took, rows = milliseconds(lambda: connection.execute(sql, parameters).fetchall())
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


def all_pairs(subject, sample):
    """faiss_neighbors over all rows, into a table; the neighbours of some of the rows."""
    connection = subject.connect()
    connection.execute(f"{MATCH} {FORMS['k']}", {"query": bytes(4 * subject.dimension)}).fetchall()
    connection.execute("CREATE TEMP TABLE related(id, neighbor, distance)")
    fill = f"""INSERT INTO related SELECT id, neighbor, distance
        FROM faiss_neighbors('main', 'docs', {K})"""
    took, _ = milliseconds(lambda: connection.execute(fill))
    pairs = {}
    for id, neighbor, distance in connection.execute("SELECT * FROM related ORDER BY rowid"):
        if id in sample:
            pairs.setdefault(id, []).append((neighbor, distance))
    connection.close()
    return took, pairs


def measure_searches(processes, subjects, queries, rounds):
    """All subjects in turn, each in a new process: {subject: {statement: [(ms, query, rows)]}}."""
    found = {subject.name: {} for subject in subjects}
    for round in range(rounds):
        say(f"filtered searches, round {round + 1} of {rounds}")
        first = round % len(subjects)
        for subject in subjects[first:] + subjects[:first]:
            result = processes.run(searches, subject, queries[round % SLICES :: SLICES], round)
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
                if subject is subjects[0]:
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
    result = processes.run(all_pairs, subject, sample)
    if result:
        figures["neighbors_ms"] = result[0]
        for id in sample:
            pairs = result[1].get(id, [])
            squares = truth.squares_from(truth.vectors[id - 1])
            right = truth.recall([pair[0] for pair in pairs], squares, leave_out=id) == 1
            if not right or truth.distances_differ(pairs, squares):
                processes.failures.append(f"faiss_neighbors: wrong neighbours of row {id}")
    return figures


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
    """The filtered searches of this extension and their goals."""
    for form, end in FORMS.items():
        unfiltered = own[f"{form} 100"]
        table.heading(f"MATCH ? [AND filter] {end} (ms)", *FORM_COLUMNS)
        table.row("no filter", unfiltered)
        base = unfiltered["median_ms"]
        for column in ("indexed_bucket", "bucket"):
            for percent in PERCENTS:
                figures = own[f"{form} {column} {percent}"]
                alone = own[f"select {column} {percent}"]
                what, median = described(column, percent), figures["median_ms"]
                if percent > 1:
                    goal = "unfiltered", median / base, 1.3
                elif column == "indexed_bucket":
                    goal = "unfiltered", median / base, 0.2
                else:
                    bound = 1.1 * alone["median_ms"] + 0.5 * base
                    goal = "1.1 SELECT + 0.5 unfiltered", median / bound, 1
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
        if "neighbors_ms" in joins:
            whole = join["median_ms"] * rows / LATERAL_ROWS
            table.line(f"  the lateral join of all {rows:,} rows, extrapolated", number(whole, 0))
            what = f"faiss_neighbors, {rows:,} rows, INSERT ... SELECT"
            speedup = whole / joins["neighbors_ms"]
            goal = table.compared(what, "times faster than the join", speedup, 5, at_least=True)
            table.line("  " + what, number(joins["neighbors_ms"], 0), "", "", *goal)


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
    buckets = numpy.random.default_rng(1).permutation(rows) % 100
    truth = Truth(vectors, queries, buckets)
    blobs = [(number, query.tobytes()) for number, query in enumerate(queries)]

    peers, left_out = {}, "not asked for"
    if options.peers:
        say("peers")
        try:
            peers = install_peers(pathlib.Path(options.peers).resolve())
        except (OSError, RuntimeError) as error:
            left_out = str(error)
    machine = describe_machine() | {"sqlite": sqlite3.sqlite_version}
    versions = {}
    processes = Processes()
    pathlib.Path(options.work).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=pathlib.Path(options.work).resolve()) as directory:
        say("data")
        work = pathlib.Path(directory)
        write_docs(work / "docs.db", vectors, buckets)
        subjects = []
        extensions = {"sqlite-faiss": pathlib.Path(options.extension).resolve(), **peers}
        for name, extension in extensions.items():
            database = shutil.copyfile(work / "docs.db", work / f"{name}.db")
            subject = PEERS.get(name, this_extension)(extension, database, dimension)
            versions[name] = processes.run(prepare, subject)
            if versions[name] is not None:
                subjects.append(subject)
            elif name not in PEERS:
                sys.exit(processes.failures[-1])
        found = measure_searches(processes, subjects, blobs, options.rounds)
        searched = summarize_searches(found, subjects, truth, processes.failures)
        joins = measure_joins(processes, subjects[0], blobs, vectors, truth, options.repeats)

    print(f"{rows:,} x {dimension} float32 ({source}), {len(queries)} queries")
    print_machine(machine)
    print(f"SQLite {sqlite3.sqlite_version}, Python {platform.python_version()}")
    for name, version in versions.items():
        print(f"{name}: {' '.join(str(version).split())}")
    if not peers:
        print(f"peers left out: {left_out}")
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
    everything |= {"versions": versions, "peers_left_out": None if peers else left_out}
    everything |= {"goals": table.goals, "searches": searched, "joins": joins}
    correct = "Every answer of sqlite-faiss was that of brute force in float64."
    finish(processes.failures, correct, options.json, everything)


if __name__ == "__main__":
    main()
