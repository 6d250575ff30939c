"""This extension, FAISS itself and other extensions, searching the same tables in turn.

Writes a table (Markdown) and a plot (PNG) of each measure. A contender that fails is a row that
says why. Wrong answers of exact sqlite-faiss tables end with a non-zero status; a goal that is
missed does not.
"""

import argparse
import json
import pathlib
import platform
import re
import sqlite3
import sys
import tempfile

from contenders import BASE, CONTENDERS, Place
from contest import Entry, run_contest
from docs import Truth, make_buckets, write_docs
from peers import Installed
from report import describe_machine, finish, markdown_table, number, say
from vectors import named_set

PARTS = ("build", "latency", "filtered", "threads")
OWN = "sqlite-faiss"
QUERIES = 100


# ---- the figures that tables and plots show ----


class Figures:
    """The summaries of one set, each figure by name; None where there is none."""

    def __init__(self, rows, dimension, contenders):
        self.rows, self.dimension, self.contenders = rows, dimension, contenders
        self.vectors_mib = rows * dimension * 4 / 2**20

    def of(self, name):
        return self.contenders.get(name) or Entry(None).summary(None)

    def search(self, name, k=10, percent=100, field="median_ms"):
        return self.of(name)["searches"].get(f"{k} {percent}", {}).get(field)

    def rate(self, name, threads):
        return self.of(name)["rates"].get(str(threads))

    def build(self, name, field="seconds"):
        return (self.of(name)["build"] or {}).get(field)

    def resident(self, name):
        return self.of(name)["resident_mib"]

    def first(self, name):
        return self.of(name)["first_ms"]

    def why(self, name, what=None):
        """Why there is nothing at all, or not this."""
        one = self.contenders[name]
        return one["missing"].get(str(what)) if what else one["failed"]


def ratio(value, base):
    return None if value is None or not base else value / base


def times(value, base):
    """A figure as so many times the base, for a table."""
    share = ratio(value, base)
    return "-" if share is None else f"{share:.2f}" if share < 10 else f"{share:.0f}"


def milliseconds(value):
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def beside(shown, value, base):
    """A figure and, in brackets, how many times the base it is."""
    share = times(value, base)
    return shown if share == "-" else f"{shown} ({share})"


def latency_cells(figures, name, k=10, percent=100):
    """The base is the search of all rows, for a filtered search too."""
    cells = []
    for field in ("median_ms", "p95_ms", "median_cpu_ms"):
        value = figures.search(name, k, percent, field)
        cells.append(beside(milliseconds(value), value, figures.search(BASE, k, 100, field)))
    return [*cells, number(figures.search(name, k, percent, "recall"), 3)]


def build_cells(figures, name):
    seconds = figures.build(name)
    return [beside(number(seconds, 2), seconds, figures.build(BASE))]


def first_cells(figures, name):
    first = figures.first(name)
    return [beside(milliseconds(first), first, figures.first(BASE))]


def memory_cells(figures, name):
    own = figures.of(name)
    several = own["resident_mib"], own["peak_mib"], own["anonymous_mib"]
    return [beside(number(mib), mib, figures.vectors_mib) for mib in several]


def size_cells(figures, name):
    size = figures.build(name, "bytes")
    mib = None if size is None else size / 2**20
    return [beside(number(mib, 1), mib, figures.vectors_mib)]


def rate_cells(figures, name):
    one, two = figures.rate(name, 1), figures.rate(name, 2)
    return [number(one), beside(number(two), two, figures.rate(BASE, 2))]


LATENCY = ["median ms", "p95 ms", "CPU ms", "recall"]


class Measure:
    """A measure: its title, what its table shows of a contender, what its plot shows."""

    def __init__(self, part, title, columns, cells, plotted, what=None):
        self.part, self.title, self.columns = part, title, columns
        self.cells, self.plotted, self.what = cells, plotted, what


MEASURES = {
    "latency": Measure(
        "latency",
        "One query, k = 10",
        LATENCY,
        latency_cells,
        ("ms, median", lambda f, name: f.search(name)),
        (10, 100),
    ),
    "latency-100": Measure(
        "latency",
        "One query, k = 100",
        LATENCY,
        lambda f, name: latency_cells(f, name, 100),
        ("ms, median", lambda f, name: f.search(name, 100)),
        (100, 100),
    ),
    "filtered-1": Measure(
        "filtered",
        "k = 10 among the 1 % of the rows that match an indexed column",
        LATENCY,
        lambda f, name: latency_cells(f, name, 10, 1),
        ("ms, median", lambda f, name: f.search(name, 10, 1)),
        (10, 1),
    ),
    "filtered-10": Measure(
        "filtered",
        "k = 10 among the 10 % of the rows that match an indexed column",
        LATENCY,
        lambda f, name: latency_cells(f, name, 10, 10),
        ("ms, median", lambda f, name: f.search(name, 10, 10)),
        (10, 10),
    ),
    "threads": Measure(
        "threads",
        "Searches a second, k = 10, by one thread and by two",
        ["1 thread", "2 threads"],
        rate_cells,
        ("a second, 2 threads", lambda f, name: f.rate(name, 2)),
        "threads",
    ),
    "build": Measure(
        None,
        "Building the index from the table, once",
        ["s"],
        build_cells,
        ("s", lambda f, name: f.build(name)),
    ),
    "first": Measure(
        None,
        "From opening to the first answer",
        ["ms"],
        first_cells,
        ("ms", lambda f, name: f.first(name)),
    ),
    "memory": Measure(
        None,
        "Resident memory after opening and searching (in brackets: times the vectors)",
        ["MiB", "at the peak", "anonymous"],
        memory_cells,
        ("MiB", lambda f, name: f.resident(name)),
    ),
    "size": Measure(
        None,
        "On disk beside the table of the vectors (in brackets: times the vectors)",
        ["MiB"],
        size_cells,
        ("MiB", lambda f, name: (f.build(name, "bytes") or 0) / 2**20 or None),
    ),
}


# ---- goals ----


def goals_of(kind, figures):
    """[(what, ratio, the same of CPU time or None, limit)]; a negative limit: at least that."""

    def compared(what, limit, own=OWN, k=10, percent=100, beside=BASE, field="median"):
        base_k = k if beside == BASE else 10
        values = [
            ratio(
                figures.search(own, k, percent, f"{field}{unit}"),
                figures.search(beside, base_k, 100, f"{field}{unit}"),
            )
            for unit in ("_ms", "_cpu_ms")
        ]
        return (what, *values, limit)

    limit = {"uniform": 1.15}.get(kind, 0.14 if figures.dimension < 768 else 0.05)
    goals = [compared("median, k = 10, × flat", limit)]
    if kind == "uniform":
        return goals
    low, hnsw = "sqlite-faiss memory=low", "FAISS HNSW32, efSearch=128"
    parts = figures.build(BASE, "parts") or {}
    reading = parts.get("read", 0) + parts.get("add", 0)
    vectors = figures.vectors_mib
    goals += [
        compared("p95, k = 10, × flat", 0.25, field="p95"),
        compared("median, × HNSW32 at efSearch = 128", 1, beside=hnsw),
        compared("k = 100, × flat", 0.3, k=100),
        compared("10 % filter, × flat", 0.4, percent=10),
        compared("1 % filter, × flat", 0.1, percent=1),
        compared("memory=low: median, × flat", 0.5, own=low),
        ("memory=low: memory, × vectors", ratio(figures.resident(low), vectors), None, 0.2),
        ("memory, × vectors", ratio(figures.resident(OWN), vectors), None, 1.25),
        ("build, × reading and flat add", ratio(figures.build(OWN), reading), None, 2),
    ]
    peers = {"sqlite-vec": 20, "sqlite-vector": 20, "sqlite-vss": 6, "datasette-faiss": 20}
    for peer, least in peers.items():
        goals.append(compared(f"{peer}, × sqlite-faiss", -least, own=peer, beside=OWN))
    return goals


def goal_rows(sets):
    rows = []
    for name, (kind, figures) in sets.items():
        for what, value, in_cpu_time, limit in goals_of(kind, figures):
            if value is not None:
                reached = value <= limit if limit > 0 else value >= -limit
                sign = f"≤ {limit:g}" if limit > 0 else f"≥ {-limit:g}"
                shown = [number(value, 3), number(in_cpu_time, 3), sign, "yes" if reached else "no"]
                rows.append([name, what, *shown])
    return rows


# ---- showing ----


def names_of(sets):
    there = {name for _, figures in sets.values() for name in figures.contenders}
    return [contender.name for contender in CONTENDERS if contender.name in there]


def reasons(sets, what=None):
    """Lines that say why something is missing."""
    where = {}
    for set_name, (_, figures) in sets.items():
        for name in figures.contenders:
            why = figures.why(name, what)
            if why and (what is None or not figures.why(name)):
                where.setdefault((name, why), []).append(set_name)
    return [f"- {name} ({', '.join(those)}): {why}" for (name, why), those in where.items()]


def measure_table(measure, sets):
    """A row for each contender that ran, and for each set the columns of the measure."""
    one = len(sets) == 1
    columns = [
        column if one else f"{name}: {column}" for name in sets for column in measure.columns
    ]
    rows = []
    for name in names_of(sets):
        cells = []
        for _, figures in sets.values():
            missing = name not in figures.contenders or figures.why(name)
            cells += ["-"] * len(measure.columns) if missing else measure.cells(figures, name)
        if set(cells) != {"-"}:
            rows.append([name, *cells])
    notes = reasons(sets, measure.what) if measure.what else []
    return "\n".join([markdown_table(["", *columns], rows), *([""] if notes else []), *notes])


SUMMARY = ["ms", "p95", "recall", "1 % filter", "2 threads/s", "build s", "first ms", "MiB", "disk"]


def summary_table(figures, names):
    """A set at a glance."""
    rows = []
    for name in names:
        if name in figures.contenders and not figures.why(name):
            median, p95, _, recall = latency_cells(figures, name)
            filtered = milliseconds(figures.search(name, 10, 1))
            rates, memory = rate_cells(figures, name), memory_cells(figures, name)
            parts = [rates[1], *build_cells(figures, name), *first_cells(figures, name), memory[0]]
            shown = [cell.split(" (")[0] for cell in [*parts, *size_cells(figures, name)]]
            rows.append([name, median, p95, recall, filtered, *shown])
    return markdown_table(["", *SUMMARY], rows)


def document(sets, parts, heading):
    """Everything in Markdown."""
    lines = [*heading, ""]
    if set(PARTS) <= set(parts):
        for name, (_, figures) in sets.items():
            lines += [f"## {name} at a glance", "", summary_table(figures, names_of(sets)), ""]
    for file, measure in MEASURES.items():
        if measure.part is None or measure.part in parts:
            lines += [f"## {measure.title}", "", measure_table(measure, sets), ""]
            lines += [f"![{measure.title}]({file}.png)", ""]
    lines += ["![Recall and time](recall.png)", ""] if "latency" in parts else []
    missing = reasons(sets)
    if missing:
        lines += ["## Not run", "", *missing, ""]
    goals = goal_rows(sets)
    if goals:
        columns = ["", "", "ratio", "of CPU time", "goal", "reached"]
        lines += ["## Goals", "", markdown_table(columns, goals), ""]
    return "\n".join(lines)


def describe(machine, sets, versions, options):
    lines = [
        "# Benchmark results",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB; "
        f"{machine['system']}; load average {machine['load_average']} before, "
        f"{machine['load_after']} after; SQLite {sqlite3.sqlite_version}, "
        f"Python {platform.python_version()}"
        + (f"; in the environment {machine['told']}." if machine["told"] else "."),
        "",
        *(f"- {name}: {version}" for name, version in versions.items()),
        "",
        f"Each contender in {options.generations} processes of its own, which search in turn; "
        f"{QUERIES} queries. {BASE} on one thread is the base of the ratios in brackets.",
        "",
    ]
    lines += [f"- {name}: {text}" for name, text in sets.items()]
    return lines


# ---- running ----


def run_set(name, options, work, installed, contenders):
    """(kind, figures) and a description of a set."""
    say(f"data: {name}")
    vectors, queries, source = named_set(name, options.data, QUERIES)
    buckets = make_buckets(len(vectors))
    truth = Truth(vectors, queries, buckets)
    rows, dimension = vectors.shape
    with tempfile.TemporaryDirectory(dir=work) as directory:
        docs = pathlib.Path(directory) / "docs.db"
        write_docs(docs, vectors, buckets)
        truth.vectors = None  # the processes need the memory
        del vectors
        place = Place(directory, docs, rows, dimension, options.extension, installed)
        summaries = run_contest(
            contenders,
            place,
            queries,
            truth,
            options.parts,
            options.rounds,
            options.generations,
        )
    kind = re.match("[a-z]+", name)[0]
    return (kind, Figures(rows, dimension, summaries)), f"{rows:,} x {dimension}, {source}"


def wrong_answers(sets):
    """What this extension's exact tables got wrong."""
    wrong = []
    for set_name, (_, figures) in sets.items():
        for name, one in figures.contenders.items():
            if name.startswith(OWN) and one["exact"]:
                for search, found in one["searches"].items():
                    if found["recall"] < 1:
                        wrong.append(f"{set_name}, {name}, {search}: recall {found['recall']}")
    return wrong


def is_wanted(contender, only, installed):
    """The base always; peers only where their packages are to be installed."""
    if contender.name == BASE:
        return True
    return re.search(only, contender.name) and (installed or not contender.needs_peers())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extension", required=True)
    parser.add_argument("--work", required=True, help="where the databases are written")
    parser.add_argument("--out", required=True, help="directory for results.md, .json and .png")
    parser.add_argument("--peers", default="", help="virtual environment of the peers, made here")
    parser.add_argument("--data", default="", help="directory with queries.f32.npy and the vectors")
    parser.add_argument("--sets", nargs="+", required=True, help="data, questions, textD:ROWS ...")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--only", default="", help="regular expression of the contenders' names")
    parser.add_argument("--rounds", type=int, default=12, help="of searches in turn, each process")
    parser.add_argument("--generations", type=int, default=3, help="processes of each contender")
    options = parser.parse_args()

    options.extension = str(pathlib.Path(options.extension).resolve())
    work, out = pathlib.Path(options.work).resolve(), pathlib.Path(options.out)
    for directory in (work, out):
        directory.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    if options.peers:
        say("peers")
    installed = Installed(options.peers) if options.peers else None
    if installed and installed.folder():
        sys.path.append(str(installed.folder()))
    contenders = [one for one in CONTENDERS if is_wanted(one, options.only, installed)]
    sets, described = {}, {}
    for name in options.sets:
        sets[name], described[name] = run_set(name, options, work, installed, contenders)
        # After each set, so that what was measured is not lost with the rest.
        machine["load_after"] = describe_machine()["load_average"]
        heading = describe(machine, described, versions_of(sets), options)
        text = document(sets, options.parts, heading)
        (out / "results.md").write_text(text)
        (out / "results.json").write_text(json.dumps(all_figures(machine, sets), indent=2) + "\n")
        no_plots = draw_all(sets, options.parts, out)
    print(text)
    if no_plots:
        print(no_plots)
    correct = "Every answer of the exact sqlite-faiss tables was that of brute force in float64."
    finish(wrong_answers(sets), correct, out / "results.json", all_figures(machine, sets))


def all_figures(machine, sets):
    """For JSON."""
    everything = {"machine": machine, "sets": {}}
    for name, (_, figures) in sets.items():
        everything["sets"][name] = {"rows": figures.rows, "dimension": figures.dimension}
        everything["sets"][name]["contenders"] = figures.contenders
    return everything


def versions_of(sets):
    versions = {}
    for _, figures in sets.values():
        for name in figures.contenders:
            version = figures.build(name, "version")
            versions[name] = version or versions.get(name) or "not there"
    return versions


def draw_all(sets, parts, out):
    """Why there are no plots, if there are none."""
    try:
        from plots import draw_bars, draw_recall
    except ImportError as error:
        return f"no plots: {error}"
    shown = {name: figures for name, (_, figures) in sets.items()}
    for file, measure in MEASURES.items():
        if measure.part is None or measure.part in parts:
            draw_bars(out / f"{file}.png", measure.title, *measure.plotted, shown, BASE)
    if "latency" in parts:
        draw_recall(out / "recall.png", shown)
    return None


if __name__ == "__main__":
    main()
