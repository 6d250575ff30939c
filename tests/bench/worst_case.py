"""What exact search costs where sketches help, and where they cannot.

Each line is one table and one kind of query, searched in SQL and with raw FAISS in turns, in one
process (search_bench.c). No line may be above 1.15, which is what looking at sketches in vain may
cost; what the lines of structured data should reach stands beside them.
"""

import argparse
import json
import pathlib
import sqlite3
import subprocess
import tempfile

import numpy

from report import Table, describe_machine, finish, number, print_machine, say
from vectors import add_arguments, read_or_make

WORST = 1.15  # times raw FAISS, whatever the data
QUERIES = 60


def decaying(random, rows, dimension):
    """2,000 Gaussian clusters; the variance of a component falls as 1/i, in a rotated basis."""
    spectrum = numpy.arange(1, dimension + 1) ** -0.5
    centres = random.standard_normal((2000, dimension)) * spectrum
    rotation = numpy.linalg.qr(random.standard_normal((dimension, dimension)))[0]
    x = numpy.empty((rows, dimension), "<f4")
    for begin in range(0, rows, 10000):
        count = min(10000, rows - begin)
        near = centres[random.integers(2000, size=count)]
        noise = 0.5 * random.standard_normal((count, dimension)) * spectrum
        x[begin : begin + count] = (near + noise) @ rotation
    return x


def uniform(random, rows, dimension):
    return random.random((rows, dimension), "f4")


def write(path, vectors):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
        connection.executemany(
            "INSERT INTO docs VALUES (?, ?)",
            ((i, row.tobytes()) for i, row in enumerate(vectors, 1)),
        )
    connection.close()


class Data:
    """One table, and the queries by what they are."""

    def __init__(self, work, name, vectors, queries):
        self.name, self.dimension = name, vectors.shape[1]
        self.path = work / name
        vectors.astype("<f4").tofile(f"{self.path}.f32")
        write(f"{self.path}.db", vectors)
        self.queries = {}
        for kind, some in queries.items():
            self.queries[kind] = f"{self.path}.{kind.replace(' ', '_')}.f32"
            some[:QUERIES].astype("<f4").tofile(self.queries[kind])


def bench(options, command, data, kind, **more):
    arguments = [options.bench, command, "--extension", options.extension]
    arguments += ["--dimension", str(data.dimension), "--database", f"{data.path}.db"]
    arguments += ["--vectors", f"{data.path}.f32", "--queries", data.queries[kind]]
    for name, value in more.items():
        arguments += ["--" + name, str(value)]
    return subprocess.run(arguments, capture_output=True, text=True)


def strange(random, x):
    """Queries that no row is like."""
    direction = random.standard_normal((QUERIES, x.shape[1]))
    return {
        "rows": x[:: len(x) // QUERIES],
        "elsewhere": x.mean(axis=0) + x.std() * direction,
        "far": x.mean(axis=0) + 30 * x.std() * direction,
    }


def all_data(options, work):
    """(data, lines): a line is a kind of query, the metric, k and the ratio to reach."""
    random = numpy.random.default_rng(1)
    if options.data:
        x, queries, _ = read_or_make(options)
        data = Data(work, "data", x, strange(random, x) | {"questions": queries})
        lines = [("questions", metric, 10, 0.14) for metric in ("l2", "cosine", "ip")]
        lines += [("questions", "l2", 100, 0.30), ("questions", "l2", 1000, WORST)]
        lines += [(kind, "l2", 10, WORST) for kind in ("elsewhere", "far")]
        lines += [(kind, "ip", 10, WORST) for kind in ("elsewhere", "far")]
        yield data, lines
        del x, data
    for dimension in options.dimensions:
        x = uniform(random, options.uniform, dimension)
        data = Data(work, f"uniform_{dimension}", x, strange(random, x))
        yield data, [("rows", m, 10, WORST) for m in ("l2", "ip")] + [("far", "l2", 10, WORST)]
    x = decaying(random, options.large, 768)
    lines = [("rows", m, 10, 0.05) for m in ("l2", "ip")]
    lines += [("rows", "l2", 100, 0.30), ("rows", "l2", 1000, WORST)]
    lines += [("elsewhere", "l2", 10, WORST), ("far", "l2", 10, WORST), ("far", "ip", 10, WORST)]
    yield Data(work, "decaying_768", x, strange(random, x)), lines


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True, help="the program search_bench")
    parser.add_argument("--extension", required=True)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=5, help="searches of each query")
    parser.add_argument("--uniform", type=int, default=60000, help="of uniform random data")
    parser.add_argument("--large", type=int, default=200000, help="rows of decaying spectrum")
    parser.add_argument("--dimensions", type=int, nargs="*", default=[384, 768])
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    print_machine(describe_machine())
    table, failures, figures = Table(34, 6, 8, 10, 10, 10, 8, 8, 9), [], []
    table.heading(
        "search (us)", "k", "metric", "median", "p95", "raw med.", "ratio", "goal", "reached"
    )
    with tempfile.TemporaryDirectory(dir=pathlib.Path(options.bench).resolve().parent) as work:
        for data, lines in all_data(options, pathlib.Path(work)):
            bench(options, "prepare", data, "rows")
            for kind, metric, k, goal in lines:
                say(f"{data.name}, {kind}, {metric}, k = {k}")
                done = bench(
                    options, "compare", data, kind, metric=metric, k=k, form="match_k",
                    rounds=options.rounds,
                )  # fmt: skip
                what = f"{data.name}, {kind}"
                if done.returncode:
                    failures.append(f"{what}: {done.stderr.strip()}")
                    continue
                found = json.loads(done.stdout)["forms"]["match_k"]
                ratio = found["ratio_of_medians"]
                cells = [number(found[f]) for f in ("median_us", "p95_us", "raw_median_us")]
                goals = table.goal(f"{what}, {metric}, k = {k}", ratio, goal)
                table.line("  " + what, str(k), metric, *cells, number(ratio, 3), *goals)
                figures.append({"data": data.name, "queries": kind, "metric": metric, "k": k} | found)
            for left in pathlib.Path(work).iterdir():
                left.unlink()
    table.summary()
    finish(failures, "Every answer was that of raw FAISS.", options.json, {"searches": figures})


if __name__ == "__main__":
    main()
