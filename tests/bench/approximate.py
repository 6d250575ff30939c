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

from docs import write_plain_docs
from report import Table, describe_machine, finish, number, print_machine, say
from vectors import MADE_UP, named_set

GOAL_SEARCH = 1.15  # times raw FAISS at the same efSearch
GOAL_RECALL = 0.005  # at most so much less
GOAL_BUILD = 1.15  # times raw FAISS and reading the table
GOAL_INSERTED = 1.3  # after 1,000 inserts, times before
GOAL_MEMORY = 1.1  # times the code and 24 bytes
REACHED = 64  # the efSearch that the goals are for
QUERIES = 500  # that are timed, or held out of real vectors
QUERIES_MADE_UP = 5000  # for the recall: with 500 it is uncertain by 0.01


def codes(dimension):
    """{kind: bytes of a row's code, bytes that all rows share}"""
    parts = max(m for m in range(1, 49) if dimension % m == 0)
    return {
        "SQ8": (dimension, 8 * dimension),
        f"PQ{parts}": (parts, 4 * 256 * dimension),
        "RaBitQ": (-(-dimension // 8) + 8, 4 * dimension),
    }


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
    write_plain_docs(work / "docs.db", vectors)
    vectors.tofile(work / "docs.f32")
    queries.tofile(work / "queries.f32")
    memory = {}
    for kind in codes(vectors.shape[1]):
        say(f"memory of {kind}")
        memory[kind] = memory_of(options.extension, work / "docs.db", kind, queries[0])
    say("HNSW32")
    done = subprocess.run(
        [options.bench, "--extension", options.extension, "--database", work / "docs.db",
         "--vectors", work / "docs.f32", "--queries", work / "queries.f32", "--dimension", str(vectors.shape[1]),
         "--rounds", str(options.rounds), "--timed", str(QUERIES)],
        capture_output=True, text=True,
    )  # fmt: skip
    return memory, done


def print_searches(table, name, figures):
    table.heading("HNSW32, k = 10", "FAISS us", "SQL us", "ratio", "recall", "SQL", "goal", "reached")
    for each in figures["searches"]:
        ratio, goals = each["sql_us"] / each["raw_us"], ("", "")
        if each["ef_search"] == REACHED:
            goals = table.goal(f"{name}: search, ef_search = {REACHED}", ratio, GOAL_SEARCH)
            table.goal("  recall below FAISS's", each["raw_recall"] - each["sql_recall"], GOAL_RECALL)
        table.line(f"  ef_search = {each['ef_search']}", number(each["raw_us"]), number(each["sql_us"]),
                   number(ratio, 3), number(each["raw_recall"], 4), number(each["sql_recall"], 4), *goals)  # fmt: skip


def print_rest(table, name, figures, memory, vectors):
    table.heading("", "", "", "ratio", "", "", "goal", "reached")
    raw = min(figures["raw_build_s"], figures["raw_again_s"]) + figures["reading_s"]
    built = figures["sql_build_s"] / raw
    table.line("build, s (FAISS and reading)", number(raw, 2), number(figures["sql_build_s"], 2), number(built, 3), "", "",
               *table.goal(f"{name}: build", built, GOAL_BUILD))  # fmt: skip
    after = figures["after_us"] / figures["before_us"]
    table.line(f"{figures['inserted']} rows inserted, us", number(figures["before_us"]), number(figures["after_us"]),
               number(after, 3), "", "", *table.goal(f"{name}: search after inserts", after, GOAL_INSERTED))  # fmt: skip
    table.line("  the first search after", "", number(figures["first_us"]))
    rows, dimension = vectors.shape
    table.heading("memory=low, bytes a row", "code", "all", "ratio", "", "", "goal", "reached")
    for kind, (code, shared) in codes(dimension).items():
        own = (memory[kind] - shared) / rows if memory[kind] else None
        ratio = own and own / (code + 24)
        table.line(f"  {kind}", number(code), number(own, 1), number(ratio, 3), "", "",
                   *table.goal(f"{name}: memory of {kind}", ratio, GOAL_MEMORY))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True, help="the program approximate_bench")
    parser.add_argument("--extension", required=True)
    parser.add_argument("--data", default="", help="directory with the vectors of the sets `data` and `questions`")
    parser.add_argument("--sets", nargs="+", default=["text384:60000", "text128:500000"], help="see BENCH_SETS")
    parser.add_argument("--rounds", type=int, default=7, help="searches of each query")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    print_machine(describe_machine())
    table, failures, figures = Table(32, 10, 10, 8, 9, 9, 9, 9), [], {}
    for name in options.sets:
        asked = QUERIES_MADE_UP if MADE_UP.fullmatch(name) else QUERIES
        vectors, queries, source = named_set(name, options.data, asked)
        print(f"\n{name}: {len(vectors):,} x {vectors.shape[1]} ({source}), processor time of one thread")
        with tempfile.TemporaryDirectory(dir=pathlib.Path(options.bench).resolve().parent) as place:
            memory, done = run(options, pathlib.Path(place), vectors, queries)
        if done.returncode:
            failures.append(f"{name}: {done.stderr.strip()}")
            continue
        figures[name] = json.loads(done.stdout) | {"memory": memory}
        print_searches(table, name, figures[name])
        print_rest(table, name, figures[name], memory, vectors)
    table.summary()
    finish(failures, "Every search gave as many rows as were asked for.", options.json, figures)


if __name__ == "__main__":
    main()
