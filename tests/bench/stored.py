"""Opening a file whose approximate index is stored ('optimize'), beside building it: as it was stored, after
changes of 1,000 rows, and where all rows are compared, since the schema was changed. And how many statements
loading takes under a limit for each that is a fifth of it, as hosts set one.

Each figure is of a process of its own: processor time, for the clock depends on what else runs there,
and the clock beside it. The file is in the page cache. Wrong answers end with a
non-zero status, a goal that is missed does not.
"""

import argparse
import pathlib
import resource
import shutil
import sqlite3
import tempfile
import time

from docs import write_plain_docs
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
# What becomes of the file before it is opened; two changes of the schema leave nothing proven.
FATES = {
    "loaded": "",
    "changed": "UPDATE docs SET embedding = (SELECT embedding FROM docs AS d WHERE d.id = docs.id + 1) "
               "WHERE id % ((SELECT max(id) FROM docs) / 1000) = 1 AND id < (SELECT max(id) FROM docs)",
    "compared": "CREATE TABLE more(x); DROP TABLE more",
}
WITH_VECTORS = ("HNSW32",)  # the stored index has them as they are
GOAL = 0.1
MEGABYTE = 2**20


def connect(extension, path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    return connection


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


LIMITED_SHARE, STATEMENTS_MOST = 5, 100


def under_limit(_, extension, path, query, seconds):
    """Search under a limit, as Datasette has it, until there is an answer: seconds, and statements."""
    connection, statements = connect(extension, path), 0

    def run():
        nonlocal statements
        while statements < STATEMENTS_MOST:
            statements += 1
            end = time.perf_counter() + seconds
            connection.set_progress_handler(lambda: time.perf_counter() > end, 1000)
            try:
                return connection.execute(SEARCH, [query]).fetchall()
            except sqlite3.OperationalError as error:
                if str(error) != "interrupted":
                    raise
        return None

    cpu, clock, answer = timed(run)
    if answer is None:
        raise RuntimeError(f"no answer by {statements} statements of {seconds:.3f} s")
    return {"cpu": cpu, "clock": clock, "statements": statements, "limit": seconds,
            "origin": connection.execute("SELECT origin FROM faiss_indexes").fetchone()[0]}


def measure(processes, kind, options, extension, path, queries):
    with connect(extension, path) as connection:
        connection.execute(f"CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, {KINDS[kind]})")
    connection.close()
    say(f"{kind}: building")
    built = processes.run(first_answer, kind, extension, path, queries, True)
    figures = {"built": built}
    for fate, statements in FATES.items():
        say(f"{kind}: {fate}")
        copy = f"{path}-{fate}"
        shutil.copy(path, copy)
        writer = sqlite3.connect(copy)
        writer.executescript(statements)
        writer.close()
        runs = [
            processes.run(first_answer, kind, extension, copy, queries, False)
            for _ in range(options.repeats)
        ]
        figures[fate] = None if None in runs else min(runs, key=lambda each: each["cpu"])
        if figures[fate]:
            limit = figures[fate]["clock"] / LIMITED_SHARE
            figures[fate]["limited"] = processes.run(under_limit, f"{kind}, {fate}", extension, copy, queries[0], limit)
        pathlib.Path(copy).unlink()
        if figures[fate]:
            check(processes, kind, fate, built, runs)
    connection = connect(extension, path)
    connection.execute("DROP TABLE docs_ann")
    connection.close()
    if None in figures.values():
        return None
    for each in figures.values():
        del each["answers"]
    return figures


def check(processes, kind, fate, built, runs):
    trusts = fate != "compared" and (kind in WITH_VECTORS or "memory=low" in KINDS[kind])
    expected = "checkpoint and log" if trusts else "checkpoint"
    limited = [each["limited"] for each in runs if each.get("limited")]
    if any(each["origin"] != expected for each in runs + limited):
        processes.failures.append(f"{kind}, {fate}: made from {[each['origin'] for each in runs]}")
    if fate != "changed" and built and any(each["answers"] != built["answers"] for each in runs):
        processes.failures.append(f"{kind}, {fate}: the loaded index answers otherwise")


def report(table, results):
    table.heading("seconds to the first answer", "seconds", "built in", "ratio", "goal", "reached")
    for kind, result in results.items():
        for fate in FATES:
            for what in ("cpu", "clock"):
                seconds, built = result[fate][what], result["built"][what]
                goal = ("", "")
                if what == "cpu" and kind == "HNSW32" and fate != "changed":
                    goal = table.goal(f"{kind}: {fate} / building", seconds / built, GOAL)
                table.line(f"{kind}, {fate}, {what}", number(seconds, 3), number(built, 2),
                           number(seconds / built, 4), *goal)
    table.heading("stored", "MiB", "s", "MiB more", "index MiB", "loading")
    for kind, result in results.items():
        built, loaded = result["built"], result["loaded"]
        table.line(kind, number(built["stored"] / MEGABYTE, 1), number(built["store"], 2),
                   number(built["peak_storing"] / MEGABYTE, 1), number(loaded["bytes"] / MEGABYTE, 1),
                   number(loaded["peak"] / MEGABYTE, 1))
    table.heading("under a limit", "limit, s", "statements", "s", "at once", "cpu s")
    for kind, result in results.items():
        for fate in FATES:
            limited = result[fate]["limited"]
            if limited:
                table.line(f"{kind}, {fate}", number(limited["limit"], 3), str(limited["statements"]),
                           number(limited["clock"], 2), number(result[fate]["clock"], 2), number(limited["cpu"], 2))
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
        write_plain_docs(path, vectors)
        for kind in KINDS:
            if options.only in ("", kind):
                results[kind] = measure(processes, kind, options, extension, path, queries)
    results = {kind: result for kind, result in results.items() if result}
    table = Table(40, 12, 12, 12, 12, 12)
    report(table, results)
    table.summary()
    finish(processes.failures, "Loaded indexes answer as the built ones.", options.json,
           {"machine": machine, "results": results, "goals": table.goals})


if __name__ == "__main__":
    main()
