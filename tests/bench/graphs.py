"""HNSW of this extension beside vectorlite's at the same recall, through SQL, in one process.

Graphs are built with some settings. Of each, those searches count that are the cheapest to find enough;
vectorlite's best graph is what ours are compared with. Failures end with a non-zero status, a goal that
is missed does not.
"""

import argparse
import json
import pathlib
import sqlite3
import statistics
import tempfile
import time
import zlib

from docs import Truth, make_buckets, write_plain_docs
from peers import Installed
from report import Table, describe_machine, finish, number, print_machine, say
from vectors import named_set

K = 10
RECALL = 0.98
GOAL = 1.2  # times vectorlite's best
EFFORTS = (10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256)
EFFORTS += (320, 384, 448, 512, 640, 768, 896, 1024)
QUERIES = 100


class Graph:
    """One index, searched by a connection of its own."""

    def __init__(self, name, extension, path):
        self.name = name
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.enable_load_extension(True)
        self.connection.load_extension(extension)
        self.build_cpu = self.build_clock = None
        self.effort = self.recall = self.us = None  # of the cheapest searches that find enough

    def build(self, query):
        begin, clock = time.process_time(), time.perf_counter()
        self.make(query)
        self.build_cpu, self.build_clock = time.process_time() - begin, time.perf_counter() - clock

    def close(self):
        self.connection.close()

    def search(self, query, effort):
        """Its processor time, in us, and the ids."""
        begin = time.thread_time_ns()
        found = self.connection.execute(self.statement, (query, effort)).fetchall()
        took = time.thread_time_ns() - begin
        if len(found) != K:
            raise ValueError(f"{self.name}: {len(found)} rows")
        return took / 1000, [id for id, _ in found]


class OurGraph(Graph):
    def __init__(self, construction, extension, path):
        super().__init__(f"HNSW32, ef_construction={construction}", extension, path)
        self.options = f"index='HNSW32', ef_construction={construction}"
        self.table = f"docs_ann_{construction}"
        self.statement = f"SELECT id, score FROM {self.table} WHERE embedding MATCH ? AND k = {K} AND ef_search = ?"

    def make(self, query):
        self.connection.execute(f"CREATE VIRTUAL TABLE {self.table} USING faiss(main, docs, {self.options})")
        self.search(query, K)


class VectorliteGraph(Graph):
    """In memory, or, with `keep`, from the file that an earlier run has left there."""

    statement = f"SELECT rowid, distance FROM docs_hnsw WHERE knn_search(embedding, knn_param(?, {K}, ?))"

    def __init__(self, setting, extension, path, vectors, keep):
        m, construction = setting.split(":")
        super().__init__(f"vectorlite, M={m}, ef_construction={construction}", extension, path)
        rows, dimension = vectors.shape
        self.hnsw = f"hnsw(max_elements={rows}, M={m}, ef_construction={construction})"
        self.vector = f"embedding float32[{dimension}]"
        self.kept = keep and pathlib.Path(keep, f"{zlib.crc32(vectors):08x}-{m}-{construction}.vectorlite").resolve()
        self.is_known = bool(keep) and self.figures().exists()

    def figures(self):
        """What building the graph took: written when it is complete."""
        return self.kept.with_suffix(".json")

    def create(self):
        file = f", '{self.kept}'" if self.kept else ""
        self.connection.execute(
            f"CREATE VIRTUAL TABLE temp.docs_hnsw USING vectorlite({self.vector}, {self.hnsw}{file})"
        )

    def build(self, query):
        if self.is_known:
            self.create()
            self.build_cpu, self.build_clock = json.loads(self.figures().read_text())
        else:
            super().build(query)

    def make(self, _query):
        if self.kept:
            self.kept.parent.mkdir(parents=True, exist_ok=True)
            self.kept.unlink(missing_ok=True)
        self.create()
        self.connection.execute("INSERT INTO docs_hnsw(rowid, embedding) SELECT id, embedding FROM docs")

    def close(self):
        super().close()  # which writes the file
        if self.kept and not self.is_known:
            self.figures().write_text(json.dumps([self.build_cpu, self.build_clock]))


def find_effort(graph, blobs, truth):
    """The least effort that finds enough; none if none does."""
    for effort in EFFORTS:
        answers = [graph.search(blob, effort)[1] for blob in blobs]
        recall = statistics.fmean(map(truth.recall, answers, truth.squares))
        if recall >= RECALL:
            graph.effort, graph.recall = effort, recall
            return


def compare(graphs, blobs, rounds):
    """Let them search in turns: the median of each query's least time."""
    least = {graph: [float("inf")] * len(blobs) for graph in graphs}
    for turn in range(rounds):
        for at, blob in enumerate(blobs):
            first = (turn + at) % len(graphs)
            for graph in graphs[first:] + graphs[:first]:
                least[graph][at] = min(graph.search(blob, graph.effort)[0], least[graph][at])
    for graph, times in least.items():
        graph.us = statistics.median(times)


def measure(options, work, vectors, queries, vectorlite):
    """The graphs, ours first."""
    blobs = [query.tobytes() for query in queries]
    truth = Truth(vectors, queries, make_buckets(len(vectors)), K)
    path = work / "docs.db"
    write_plain_docs(path, vectors)
    graphs = [OurGraph(each, options.extension, path) for each in options.ours]
    if vectorlite:
        graphs += [VectorliteGraph(each, vectorlite, path, vectors, options.keep) for each in options.vectorlite]
    for graph in graphs:
        say(graph.name)
        graph.build(blobs[0])
        find_effort(graph, blobs, truth)
    compare([graph for graph in graphs if graph.effort], blobs, options.rounds)
    for graph in graphs:
        graph.close()
    return graphs


def show(table, name, graphs):
    table.heading(f"{name}, recall@{K} >= {RECALL:g}", "build, s", "(clock)", "ef", "recall", "us", "ratio", "goal", "")
    theirs = [graph.us for graph in graphs if isinstance(graph, VectorliteGraph) and graph.us]
    ours = [graph.us for graph in graphs if isinstance(graph, OurGraph) and graph.us]
    for graph in graphs:
        ratio = graph.us / min(theirs) if graph.us and theirs else None
        goal = ()
        if graph.us and graph.us == min(ours, default=None):
            goal = table.goal(f"{name}: {graph.name}, beside vectorlite's best", ratio, GOAL)
        table.line(f"  {graph.name}", number(graph.build_cpu, 1), number(graph.build_clock, 1),
                   number(graph.effort), number(graph.recall, 4), number(graph.us), number(ratio, 3), *goal)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extension", required=True)
    parser.add_argument("--work", required=True, help="where the databases are written")
    parser.add_argument("--peers", help="where vectorlite is, or is to be installed; without it there is none")
    parser.add_argument("--keep", help="where vectorlite's graphs are kept for the next run")
    parser.add_argument("--data", default="", help="directory with the vectors of the set `data`")
    parser.add_argument("--sets", nargs="+", default=["text384:60000", "text128:500000"], help="see BENCH_SETS")
    parser.add_argument("--ours", nargs="+", type=int, default=[40, 200], help="values of ef_construction")
    parser.add_argument("--vectorlite", nargs="+", default=["16:200", "32:200"], help="M:ef_construction")
    parser.add_argument("--rounds", type=int, default=7, help="searches of each query")
    parser.add_argument("--json", help="write all figures to this file")
    options = parser.parse_args()
    options.extension = str(pathlib.Path(options.extension).resolve())
    print_machine(describe_machine())
    table, failures, figures, vectorlite = Table(38, 10, 10, 7, 9, 9, 8, 9, 5), [], {}, None
    try:
        vectorlite = options.peers and Installed(options.peers).extensions("vectorlite")[0]
    except RuntimeError as error:
        failures.append(f"vectorlite: {error}")
    pathlib.Path(options.work).mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        vectors, queries, source = named_set(name, options.data, QUERIES)
        print(f"\n{name}: {len(vectors):,} x {vectors.shape[1]} ({source}), processor time of one thread")
        with tempfile.TemporaryDirectory(dir=pathlib.Path(options.work).resolve()) as work:
            graphs = measure(options, pathlib.Path(work), vectors, queries, vectorlite)
        show(table, name, graphs)
        shown = ("build_cpu", "build_clock", "effort", "recall", "us")
        figures[name] = {graph.name: {each: getattr(graph, each) for each in shown} for graph in graphs}
    table.summary()
    finish(failures, f"Every search gave {K} rows.", options.json, {"sets": figures, "goals": table.goals})


if __name__ == "__main__":
    main()
