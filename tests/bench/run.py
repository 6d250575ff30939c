"""Run search_bench over real or made-up vectors and print its figures beside their goals.

Wrong answers and failures end with a non-zero status; a goal that is missed does not: times depend
on the machine and on what else runs there, and the table says which goals were reached.
"""

import argparse
import hashlib
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

from docs import write_plain_docs
from report import Table, describe_machine, finish, number, print_machine, say
from vectors import add_arguments, read_or_make

GOAL_RATIO = 1.10
GOAL_OVERHEAD_US = 30
GOAL_FIRST = 1.5
GOAL_MEMORY = 1.15

FORMS = {
    "match_k": "MATCH ? AND k = {k}",
    "order_by_limit": "MATCH ? ORDER BY distance LIMIT {k}",
    "table_valued": "FROM faiss_search(..., ?, {k})",
    "scalar": "faiss_search(..., ?, {k})",
    "scalar_with_scores": "faiss_search_with_scores(..., ?, {k})",
}
# The noise of it all: a second IndexFlat in the place of the extension.
CONTROL = "second_raw"


# ---- data ----


def cached_data(cache, vectors, queries):
    """A directory with the databases and the raw float32 files, made once for these vectors."""
    digest = hashlib.sha256(vectors.tobytes() + queries.tobytes()).hexdigest()[:16]
    directory = cache / digest
    if not directory.exists():
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = pathlib.Path(tempfile.mkdtemp(dir=cache))
        for name, some in (("docs", vectors), ("hundred", vectors[:100]), ("one", vectors[:1])):
            some.tofile(unfinished / f"{name}.f32")
            write_plain_docs(unfinished / f"{name}.db", some)
        queries.tofile(unfinished / "queries.f32")
        unfinished.rename(directory)
    return directory


# ---- running ----


class Bench:
    """Runs search_bench, one process a command, and remembers what went wrong."""

    def __init__(self, program, extension, data, work, dimension):
        self.program = program
        self.data = data
        self.work = work
        self.common = ["--extension", extension, "--dimension", str(dimension)]
        self.common += ["--queries", str(data / "queries.f32")]
        self.failures = []

    def run(self, command, database, **options):
        arguments = [self.program, command, *self.common]
        arguments += ["--database", str(self.work / f"{database}.db")]
        arguments += ["--vectors", str(self.data / f"{database}.f32")]
        for name, value in options.items():
            arguments += ["--" + name.replace("_", "-"), str(value)]
        done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            reason = done.stderr.strip() or f"status {done.returncode}"
            label = " ".join([command, database, *(f"{k}={v}" for k, v in options.items())])
            self.failures.append(f"{label}: {reason}")
        try:
            return json.loads(done.stdout)
        except ValueError:
            return None

    def repeat(self, count, runs):
        """Interleave commands, each in a process of its own: first A B C, then B C A, ..."""
        results = {name: [] for name in runs}
        names = list(runs)
        for number in range(count):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                result = runs[name]()
                if result is not None:
                    results[name].append(result)
        return results


def median_of(results, field):
    return statistics.median(result[field] for result in results) if results else None


def compare(bench, database, rounds, processes, **options):
    """The medians over several processes, in every second one of which raw FAISS comes first.

    Where the pages of an index happen to lie in memory makes a search several per cent faster or
    slower for as long as the process lives.
    """
    each = max(1, round(rounds / processes))
    results = [
        bench.run("compare", database, rounds=each, sql_first=number % 2, **options)
        for number in range(processes)
    ]
    results = [result for result in results if result is not None]
    if not results:
        return None
    merged = dict(results[0], processes=len(results))
    merged["searches"] = sum(result["searches"] for result in results)
    merged["wrong"] = sum(result["wrong"] for result in results)
    merged["sqlite_lookup_us"] = median_of(results, "sqlite_lookup_us")
    merged["forms"] = {}
    for form in results[0]["forms"]:
        figures = [result["forms"][form] for result in results]
        merged["forms"][form] = {field: median_of(figures, field) for field in figures[0]}
        ratios = [result["ratio_of_medians"] for result in figures]
        merged["forms"][form]["ratio_range"] = [min(ratios), max(ratios)]
    return merged


def measure(bench, rounds):
    figures = {}
    say("one query, k = 10")
    figures["search"] = compare(bench, "docs", rounds, processes=rounds, k=10)
    say("fixed cost, on 100 rows")
    figures["hundred"] = compare(bench, "hundred", 10 * rounds, processes=2, k=10)
    say("first query after opening")
    figures["first"] = bench.repeat(
        max(3, rounds),
        {
            "query": lambda: bench.run("first", "docs", k=10),
            "scan": lambda: bench.run("scan", "docs"),
            "add": lambda: bench.run("add", "docs"),
        },
    )
    say("memory")
    one_row = str(bench.work / "one.db")
    figures["memory"] = [
        result
        for result in (
            bench.run("memory", "docs", k=10, one_row_database=one_row) for _ in range(3)
        )
        if result is not None
    ]
    say("more neighbours")
    some = max(2, rounds // 3)
    figures["more"] = {
        "100": compare(bench, "docs", some, processes=2, k=100),
        "1000": compare(bench, "docs", some, processes=2, k=1000),
        "every row": compare(bench, "docs", some, processes=2, k=0, query_limit=10),
    }
    say("other metrics")
    figures["metrics"] = {
        metric: compare(bench, "docs", some, processes=2, k=10, metric=metric)
        for metric in ("ip", "cosine")
    }
    say("two threads")
    figures["threads"] = bench.run(
        "threads", "docs", k=10, rounds=max(1, rounds // 2), threads=2, seconds=0.5
    )
    say("after a change")
    figures["change"] = bench.run("change", "docs", k=10, rounds=max(4, rounds // 2))
    return figures


# ---- showing ----


class BesideFaiss(Table):
    def __init__(self):
        super().__init__(48, 9, 9, 9, 9, 8, 11, 8, 9, 8)

    def compared(self, result, k, goal=None):
        if result is None:
            self.line("  (failed)")
            return
        for form, figures in result["forms"].items():
            what = "control: raw, a second copy" if form == CONTROL else FORMS[form].format(k=k)
            fields = ("median_us", "p95_us", "raw_median_us", "raw_p95_us")
            cells = [number(figures[field]) for field in fields]
            cells += [number(figures["ratio_of_medians"], 3)]
            cells += ["{:.2f}-{:.2f}".format(*figures["ratio_range"])]
            cells += [number(figures["median_of_ratios"], 3)]
            if goal is not None and form != CONTROL:
                cells += self.goal(what, figures["ratio_of_medians"], goal)
            self.line("  " + what, *cells)


TIMES = ("median", "p95", "raw med.", "raw p95", "ratio", "range", "paired")
GOAL = ("goal", "reached")


def show(figures, rows, dimension):
    table = BesideFaiss()
    search = figures["search"]
    what = "1  one query"
    if search:
        what += f", {search['searches']} times in {search['processes']} processes"
    table.heading(what + " (us)", *TIMES, *GOAL)
    table.compared(search, 10, goal=GOAL_RATIO)
    show_fixed_cost(table, figures["hundred"])
    show_first(table, figures["first"])
    show_memory(table, figures["memory"], rows * dimension * 4 / 1024)
    show_change(table, figures["change"])
    for k, result in figures["more"].items():
        table.heading(f"6  k = {k} (us)", *TIMES)
        table.compared(result, result["k"] if result else k)
    for metric, result in figures["metrics"].items():
        table.heading(f"7  metric={metric} (us)", *TIMES)
        table.compared(result, 10)
    show_threads(table, figures["threads"])
    table.summary()
    return table.goals


def show_fixed_cost(table, hundred):
    table.heading("2  the same on 100 rows (us)", *TIMES[:4], "over", "", "", *GOAL)
    for form, found in hundred["forms"].items() if hundred else ():
        if form == CONTROL:
            continue
        what = FORMS[form].format(k=10)
        fields = ("median_us", "p95_us", "raw_median_us", "raw_p95_us", "overhead_us")
        cells = [number(found[field], 1) for field in fields]
        goal = table.goal("fixed cost: " + what, found["overhead_us"], GOAL_OVERHEAD_US)
        table.line("  " + what, *cells, "", "", *goal)
    if hundred:
        lookup = number(hundred["sqlite_lookup_us"], 1)
        table.line("  for scale: SELECT id FROM docs WHERE id = ?", lookup)


BLANK = ("",) * 3


def show_first(table, first):
    table.heading(
        "3  first query after opening, own processes (ms)",
        *("median", "least", "", "", "ratio", "of least", "", *GOAL),
    )

    def both(name, field):
        times = [result[field] for result in first[name]]
        return (statistics.median(times), min(times)) if times else (None, None)

    query, scan, add = both("query", "first_ms"), both("scan", "scan_ms"), both("add", "add_ms")
    complete = None not in query + scan + add
    ratios = [q / (s + a) if complete else None for q, s, a in zip(query, scan, add)]
    goal = table.goal("first query after opening", ratios[0], GOAL_FIRST)
    shown = (number(query[0], 1), number(query[1], 1), "", "", *(number(r, 3) for r in ratios))
    table.line("  opening to the last row", *shown, "", *goal)
    for what, times in (
        ("SELECT max(embedding)", scan),
        ("faiss_Index_add of all vectors", add),
        ("beside it: loading the library", both("query", "load_ms")),
        ("beside it: the second query", both("query", "second_ms")),
    ):
        table.line("  " + what, number(times[0], 1), number(times[1], 1))


def show_memory(table, memory, vectors_kib):
    table.heading("4  memory, own process (MiB)", "MiB", *BLANK, "ratio", "", "", *GOAL)
    table.line("  the vectors", number(vectors_kib / 1024, 1))
    if memory:
        peak = max(m["peak_kib"] - m["resident_before_kib"] for m in memory)
        stays = max(m["resident_kib"] - m["resident_before_kib"] for m in memory)
        goal = table.goal("peak memory", peak / vectors_kib, GOAL_MEMORY)
        for what, kib, cells in (
            ("opening and the first query, at the peak", peak, ("", "", *goal)),
            ("resident afterwards", stays, ()),
        ):
            ratio = number(kib / vectors_kib, 3)
            table.line("  " + what, number(kib / 1024, 1), *BLANK, ratio, *cells)
        before = number(memory[0]["resident_before_kib"] / 1024, 1)
        table.line("  before, with a table of one row", before)


def show_change(table, change):
    table.heading("5  search after one changed row (ms)", "first", "next", "", "", "to scan")
    if not change:
        return
    for name, what in (
        ("update_own", "updated by this connection"),
        ("update_other", "updated by another connection"),
        ("append_own", "appended by this connection"),
        ("append_other", "appended by another connection"),
    ):
        first, following = change[name]["first_ms"], change[name]["next_ms"]
        to_scan = number(first / change["scan_ms"], 3)
        table.line("  " + what, number(first, 1), number(following, 1), "", "", to_scan)
    table.line("  for scale: SELECT max(embedding), warm", number(change["scan_ms"], 1))
    table.heading("   searches after all these changes (us)", *TIMES[:5])
    after, raw = change["after_median_us"], change["after_raw_median_us"]
    what = FORMS["match_k"].format(k=10)
    table.line("  " + what, number(after), "", number(raw), "", number(after / raw, 3))


def show_threads(table, threads):
    table.heading("8  searches per second, a connection each", "1 thread", "2", "times")
    for name, what in (("sql", "MATCH ? AND k = 10"), ("raw", "raw FAISS, one index")):
        if threads:
            one, many = threads[f"{name}_one"], threads[f"{name}_many"]
            table.line("  " + what, number(one), number(many), number(many / one, 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True, help="the program search_bench")
    parser.add_argument("--extension", required=True)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=10, help="searches of each query")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()

    searched, queries, source = read_or_make(options)
    if len(searched) < 100:
        sys.exit(f"{source}: at least 100 vectors are needed")
    rows, dimension = searched.shape
    beside = pathlib.Path(options.bench).resolve().parent
    say("data")
    data = cached_data(beside / "data", searched, queries)
    del searched, queries

    machine = describe_machine()
    # The databases get virtual tables and changes: each run works on copies of its own.
    with tempfile.TemporaryDirectory(dir=beside) as directory:
        work = pathlib.Path(directory)
        program = str(pathlib.Path(options.bench).resolve())
        extension = str(pathlib.Path(options.extension).resolve())
        bench = Bench(program, extension, data, work, dimension)
        versions = None
        for name in ("one", "hundred", "docs"):
            shutil.copyfile(data / f"{name}.db", work / f"{name}.db")
            versions = bench.run("prepare", name)
            if versions is None:
                sys.exit(1)
        machine |= versions
        figures = measure(bench, options.rounds)

    print(f"{rows:,} x {dimension} float32 ({source})")
    print_machine(machine)
    print(f"{machine['extension']}; SQLite {machine['sqlite']}")
    print("raw: faiss_Index_search in an IndexFlat of the same vectors, in one process and thread;")
    print("ratio: of the medians, and its median and range over the processes;")
    print("paired: median over pairs of searches made one after the other")
    goals = show(figures, rows, dimension)
    everything = {"rows": rows, "dimension": dimension, "data": source, "machine": machine}
    everything |= {"goals": goals, **figures}
    correct = "Every answer had the ids and the float32 scores of raw FAISS."
    finish(bench.failures, correct, options.json, everything)


if __name__ == "__main__":
    main()
