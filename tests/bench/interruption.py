"""How long it takes to interrupt the search that builds an approximate index: the longest time between two moments
of the build at which the connection is asked whether to go on, which is how late an interrupt may be noticed. And the
time from an interrupt, in the end, to the error. An iteration of k-means and a decomposition of a matrix are not
interrupted: the longer the vectors, the longer these take.

A search that ends otherwise than by the interrupt, or an answer, ends with a non-zero status.
"""

import argparse
import pathlib
import sqlite3
import tempfile
import time

from docs import write_plain_docs
from processes import Processes
from report import Table, describe_machine, finish, number, print_machine, say
from vectors import add_arguments, named_set, read_or_make

SEARCH = "SELECT id FROM docs_ann WHERE embedding MATCH ? AND k = 10"
KINDS = ["HNSW32", "IVF1024,PQ48", "OPQ48,IVF1024,PQ48", "PCA64,Flat"]
LONG_KINDS = ["OPQ96,PQ96", "PCA64,Flat"]  # of vectors of 1,536 numbers
LONG = "text1536:20000"
STEPS = 250  # of SQLite's, fewer than one question takes
SHOWN = 3


def connect(extension, path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    return connection


def build(_, extension, path, query, seconds):
    """Search until there is an answer, or interrupt it after so many seconds."""
    connection = connect(extension, path)
    connection.execute("SELECT count(*) FROM docs").fetchone()
    begin = time.perf_counter()
    asked = [begin]

    def note():
        asked.append(time.perf_counter())
        return asked[-1] - begin > seconds

    connection.set_progress_handler(note, STEPS)
    answered = True
    try:
        connection.execute(SEARCH, [query]).fetchall()
    except sqlite3.OperationalError as error:
        if str(error) != "interrupted":
            raise
        answered = False
    ended = time.perf_counter()
    gaps = sorted((after - before for before, after in zip(asked, asked[1:])), reverse=True)
    return {"asked": len(gaps), "longest": gaps[:SHOWN], "seconds": ended - begin,
            "answered": answered, "to the error": None if answered else ended - asked[-1]}


def measure(processes, options, path, kinds, query, described):
    extension, measured = str(pathlib.Path(options.extension).resolve()), {}
    for kind in kinds:
        if options.only not in ("", kind):
            continue
        say(f"{kind}, {described}")
        connection = connect(extension, path)
        connection.execute(f"CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='{kind}')")
        connection.close()
        figures = processes.run(build, kind, extension, path, query, options.seconds)
        if figures:
            measured[f"{kind}, {described}"] = figures
        connection = connect(extension, path)
        connection.execute("DROP TABLE docs_ann")
        connection.close()
    return measured


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extension", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--seconds", type=float, default=120, help="of a build, before it is interrupted")
    parser.add_argument("--only", default="", help="a kind")
    parser.add_argument("--long", default=LONG, help="a set of long vectors, made up; '' for none")
    parser.add_argument("--json")
    add_arguments(parser)
    options = parser.parse_args()
    machine = describe_machine()
    print_machine(machine)
    pathlib.Path(options.work).mkdir(parents=True, exist_ok=True)
    sets = [(*read_or_make(options)[:2], KINDS)]
    if options.long:
        sets.append((*named_set(options.long, "", 1)[:2], LONG_KINDS))
    processes, results = Processes(), {}
    for vectors, queries, kinds in sets:
        with tempfile.TemporaryDirectory(dir=options.work) as directory:
            path = f"{directory}/docs.db"
            write_plain_docs(path, vectors)
            described = f"{vectors.shape[0]:,} x {vectors.shape[1]}"
            results |= measure(processes, options, path, kinds, queries[0].tobytes(), described)
    table = Table(42, 10, 12, 10, 10, 10, 14)
    table.heading("between two questions whether to go on, ms", "asked", "longest", "2nd", "3rd", "built, s",
                  "to the error")
    for what, figures in results.items():
        table.line(what, number(figures["asked"]), *(number(gap * 1000) for gap in figures["longest"]),
                   number(figures["seconds"], 1) if figures["answered"] else "-",
                   number(figures["to the error"] and figures["to the error"] * 1000))
    finish(processes.failures, "Each build was interrupted, or ended with an answer.", options.json,
           {"machine": machine, "results": results})


if __name__ == "__main__":
    main()
