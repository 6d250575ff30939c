"""Opening a file whose approximate index is stored ('optimize'), beside building it.

Each figure is of a process of its own: processor time, for the clock depends on what else runs there,
and the clock beside it. Both ways read the table, which is in the page cache. Wrong answers end with a
non-zero status, a goal that is missed does not.
"""

import argparse
import pathlib
import resource
import sqlite3
import tempfile
import time

from processes import Processes
from report import Table, describe_machine, finish, number, print_machine, say
from vectors import add_arguments, read_or_make

K = 10
SEARCH = f"SELECT id FROM docs_ann WHERE embedding MATCH ? AND k = {K}"
OPTIMIZE = "INSERT INTO docs_ann(docs_ann) VALUES ('optimize')"
STORED = "SELECT count(*), coalesce(sum(length(data)), 0) FROM docs_ann_checkpoint"
KINDS = {
    "HNSW32": "index='HNSW32'",
    "IVF1024,Flat": "index='IVF1024,Flat'",
    "RaBitQ, memory=low": "index=RaBitQ, memory=low",
}
GOAL = 0.1
MEGABYTE = 2**20


def connect(extension, path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    return connection


def write_docs(path, vectors):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?)", ((id, row.tobytes()) for id, row in enumerate(vectors, 1))
    )
    connection.commit()
    connection.close()


def timed(run):
    """Seconds of the processor, seconds, and what it gave."""
    begin, clock = time.process_time(), time.perf_counter()
    result = run()
    return time.process_time() - begin, time.perf_counter() - clock, result


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def first_answer(_, extension, path, queries, stores):
    """Opening to the first answer, then all answers; where it `stores`, storing as well."""
    before = peak_memory()

    def run():
        connection = connect(extension, path)
        connection.execute(SEARCH, [queries[0]]).fetchall()
        return connection

    cpu, clock, connection = timed(run)
    peak = peak_memory() - before
    told = connection.execute("SELECT origin, bytes FROM faiss_indexes").fetchone()
    figures = {"cpu": cpu, "clock": clock, "peak": peak, "origin": told[0], "bytes": told[1]}
    figures["answers"] = [connection.execute(SEARCH, [query]).fetchall() for query in queries]
    if stores:
        connection.execute("PRAGMA synchronous = OFF")
        figures["store"] = timed(lambda: connection.execute(OPTIMIZE))[1]
        figures["peak_storing"] = peak_memory() - before - peak
        figures["parts"], figures["stored"] = connection.execute(STORED).fetchone()
    return figures


def measure(processes, kind, options, extension, path, queries):
    with connect(extension, path) as connection:
        connection.execute(f"CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, {KINDS[kind]})")
    connection.close()
    say(f"{kind}: building")
    built = processes.run(first_answer, kind, extension, path, queries, True)
    say(f"{kind}: loading")
    loaded = [
        processes.run(first_answer, kind, extension, path, queries, False)
        for _ in range(options.repeats)
    ]
    connection = connect(extension, path)
    connection.execute("DROP TABLE docs_ann")
    connection.close()
    if built is None or None in loaded:
        return None
    origins = [each["origin"] for each in (built, *loaded)]
    if origins != ["built"] + ["checkpoint"] * options.repeats:
        processes.failures.append(f"{kind}: made from {origins}")
    if any(each["answers"] != built["answers"] for each in loaded):
        processes.failures.append(f"{kind}: the loaded index answers otherwise")
    for each in (built, *loaded):
        del each["answers"]
    return {"built": built, "loaded": min(loaded, key=lambda each: each["cpu"])}


def report(table, results):
    table.heading("seconds to the first answer", "built", "loaded", "ratio", "goal", "reached")
    for kind, result in results.items():
        built, loaded = result["built"], result["loaded"]
        for what in ("cpu", "clock"):
            ratio = loaded[what] / built[what]
            goal = ("", "")
            if what == "cpu" and kind == "HNSW32":
                goal = table.goal(f"{kind}: loading / building", ratio, GOAL)
            table.line(f"{kind}, {what}", number(built[what], 2), number(loaded[what], 3),
                       number(ratio, 4), *goal)
    table.heading("stored", "MiB", "s", "MiB more", "index MiB", "loading")
    for kind, result in results.items():
        built, loaded = result["built"], result["loaded"]
        table.line(kind, number(built["stored"] / MEGABYTE, 1), number(built["store"], 2),
                   number(built["peak_storing"] / MEGABYTE, 1), number(loaded["bytes"] / MEGABYTE, 1),
                   number(loaded["peak"] / MEGABYTE, 1))
    print("'MiB more': how much the peak of resident memory grew while storing; 'loading': its growth\n"
          "from before opening to the first answer, beside what the index takes.")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extension", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="a kind")
    parser.add_argument("--json")
    add_arguments(parser)
    options = parser.parse_args()
    extension = str(pathlib.Path(options.extension).resolve())
    machine = describe_machine()
    vectors, queries, described = read_or_make(options)
    queries = [row.tobytes() for row in queries[:40]]
    pathlib.Path(options.work).mkdir(parents=True, exist_ok=True)
    print_machine(machine)
    print(f"{vectors.shape[0]:,} x {vectors.shape[1]}, {described}")
    processes, results = Processes(), {}
    with tempfile.TemporaryDirectory(dir=options.work) as directory:
        path = f"{directory}/docs.db"
        write_docs(path, vectors)
        for kind in KINDS:
            if options.only in ("", kind):
                results[kind] = measure(processes, kind, options, extension, path, queries)
    results = {kind: result for kind, result in results.items() if result}
    table = Table(32, 12, 12, 12, 12, 12)
    report(table, results)
    table.summary()
    finish(processes.failures, "Loaded indexes answer as the built ones.", options.json,
           {"machine": machine, "results": results, "goals": table.goals})


if __name__ == "__main__":
    main()
