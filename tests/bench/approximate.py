"""Approximate indexes through SQL, beside the same index of FAISS called directly.

Searches, building, searches after inserts (approximate_bench.c, processor time, in turns), and the memory of
short codes with memory=low. Failures end with a non-zero status; a goal that is missed does not.
"""

import argparse
import json
import pathlib
import sqlite3
import subprocess
import tempfile

from report import Table, describe_machine, finish, number, print_machine, say
from vectors import add_arguments, read_or_make

GOAL_SEARCH = 1.15  # times raw FAISS at the same efSearch
GOAL_RECALL = 0.005  # at most so much less
GOAL_BUILD = 1.15  # times raw FAISS and reading the table
GOAL_INSERTED = 1.3  # after 1,000 inserts, times before
GOAL_MEMORY = 1.1  # times the code and 24 bytes
REACHED = 64  # the efSearch that the goals are for

# Bytes of a row's code for a dimension, and what all rows share.
CODES = {
    "SQ8": (lambda d: d, lambda d: 8 * d),
    "PQ48": (lambda d: 48, lambda d: 4 * 256 * d),
    "RaBitQ": (lambda d: -(-d // 8) + 8, lambda d: 4 * d),
}


def write(path, vectors):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.executemany("INSERT INTO docs VALUES (?, ?)", ((i, row.tobytes()) for i, row in enumerate(vectors, 1)))
    connection.commit()
    connection.close()


def memory_of(extension, path, kind, query):
    """Bytes that the index takes when it is built."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    connection.execute(f"CREATE VIRTUAL TABLE low USING faiss(main, docs, index='{kind}', memory=low)")
    connection.execute("SELECT id FROM low WHERE embedding MATCH ? AND k = 10", [query.tobytes()]).fetchall()
    found = connection.execute("SELECT bytes FROM faiss_indexes WHERE kind = ? AND memory = 'low'", [kind]).fetchone()
    connection.execute("DROP TABLE low")
    connection.close()
    return found and found[0]


def run(options, work, vectors, queries):
    write(work / "docs.db", vectors)
    vectors.tofile(work / "docs.f32")
    queries.tofile(work / "queries.f32")
    memory = {}
    for kind in CODES:
        say(f"memory of {kind}")
        memory[kind] = memory_of(options.extension, work / "docs.db", kind, queries[0])
    say("HNSW32")
    done = subprocess.run(
        [options.bench, "--extension", options.extension, "--database", work / "docs.db",
         "--vectors", work / "docs.f32", "--queries", work / "queries.f32", "--dimension", str(vectors.shape[1]),
         "--rounds", str(options.rounds)],
        capture_output=True, text=True,
    )  # fmt: skip
    return memory, done


def print_searches(table, figures):
    table.heading("HNSW32, k = 10", "FAISS us", "SQL us", "ratio", "recall", "SQL", "goal", "reached")
    for each in figures["searches"]:
        ratio, goals = each["sql_us"] / each["raw_us"], ("", "")
        if each["ef_search"] == REACHED:
            goals = table.goal(f"search, ef_search = {REACHED}", ratio, GOAL_SEARCH)
            table.goal("  recall below FAISS's", each["raw_recall"] - each["sql_recall"], GOAL_RECALL)
        table.line(f"  ef_search = {each['ef_search']}", number(each["raw_us"]), number(each["sql_us"]),
                   number(ratio, 3), number(each["raw_recall"], 4), number(each["sql_recall"], 4), *goals)  # fmt: skip


def print_rest(table, figures, memory, vectors):
    table.heading("", "", "", "ratio", "", "", "goal", "reached")
    raw = min(figures["raw_build_s"], figures["raw_again_s"]) + figures["reading_s"]
    built = figures["sql_build_s"] / raw
    table.line("build, s (FAISS and reading)", number(raw, 2), number(figures["sql_build_s"], 2), number(built, 3), "", "",
               *table.goal("build", built, GOAL_BUILD))  # fmt: skip
    after = figures["after_us"] / figures["before_us"]
    table.line(f"{figures['inserted']} rows inserted, us", number(figures["before_us"]), number(figures["after_us"]),
               number(after, 3), "", "", *table.goal("search after inserts", after, GOAL_INSERTED))  # fmt: skip
    table.line("  the first search after", "", number(figures["first_us"]))
    rows, dimension = vectors.shape
    table.heading("memory=low, bytes a row", "code", "all", "ratio", "", "", "goal", "reached")
    for kind, (code, shared) in CODES.items():
        own = (memory[kind] - shared(dimension)) / rows if memory[kind] else None
        ratio = own and own / (code(dimension) + 24)
        table.line(f"  {kind}", number(code(dimension)), number(own, 1), number(ratio, 3), "", "",
                   *table.goal(f"memory of {kind}", ratio, GOAL_MEMORY))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True, help="the program approximate_bench")
    parser.add_argument("--extension", required=True)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=7, help="searches of each query")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    print_machine(describe_machine())
    vectors, queries, source = read_or_make(options)
    print(f"{len(vectors):,} x {vectors.shape[1]} ({source}), processor time of one thread")
    table, failures, figures = Table(32, 10, 10, 8, 9, 9, 9, 9), [], {}
    with tempfile.TemporaryDirectory(dir=pathlib.Path(options.bench).resolve().parent) as place:
        memory, done = run(options, pathlib.Path(place), vectors, queries)
    if done.returncode:
        failures.append(done.stderr.strip())
    else:
        figures = json.loads(done.stdout)
        print_searches(table, figures)
        print_rest(table, figures, memory, vectors)
        table.summary()
    finish(failures, "Every search gave as many rows as were asked for.", options.json, figures | {"memory": memory})


if __name__ == "__main__":
    main()
