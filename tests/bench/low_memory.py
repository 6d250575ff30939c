"""What memory=low costs and saves, against vectors in memory and one FAISS IndexFlat, in one process.

    python tests/bench/low_memory.py DIRECTORY [rounds]

DIRECTORY holds debian-packages.f16.npy and queries.f32.npy (BENCH_DATA of `make bench`). Each query is
put to all three in turn, k = 10, one thread; times are medians and 95th percentiles. Answers must agree.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import faiss  # noqa: E402
import numpy  # noqa: E402

import database  # noqa: E402

K, WARM_UP = 10, 40
FAR = 100  # times as long: sketches say nothing of how near the rows are
SEARCH = "SELECT id, score FROM {} WHERE embedding MATCH ? AND k = ?"


def make(path, vectors):
    connection = database.connect(path)
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO docs VALUES (?, ?)", [(i, x.tobytes()) for i, x in enumerate(vectors)])
    connection.execute("COMMIT")
    connection.execute("CREATE VIRTUAL TABLE low USING faiss(main, docs, memory=low)")
    connection.execute("CREATE VIRTUAL TABLE whole USING faiss(main, docs)")
    connection.close()


def timed(function, *arguments):
    begin = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - begin


def show(name, times, flat):
    median, p95 = statistics.median(times), numpy.percentile(times, 95)
    print(f"{name:10} {median * 1e3:8.3f} ms {p95 * 1e3:8.3f} ms   {median / statistics.median(flat):.3f} of flat")


def main(directory, rounds=5):
    faiss.omp_set_num_threads(1)
    vectors = numpy.load(directory / "debian-packages.f16.npy").astype("<f4")
    queries = numpy.load(directory / "queries.f32.npy")
    flat = faiss.IndexFlatL2(vectors.shape[1])
    flat.add(vectors)
    with tempfile.TemporaryDirectory() as place:
        make(f"{place}/docs.db", vectors)
        connection = database.connect(f"{place}/docs.db")

        def search(table, query, k=K):
            return connection.execute(SEARCH.format(table), [query.tobytes(), k]).fetchall()

        def scan():
            return connection.execute("SELECT max(embedding) FROM docs").fetchall()

        scan()
        _, first = timed(search, "low", queries[0])
        print(f"memory=low: first search {first:.2f} s")
        for query in queries[:WARM_UP]:
            search("whole", query)
        for memory, size in connection.execute("SELECT memory, bytes FROM faiss_indexes"):
            print(f"{memory}: {size / vectors.nbytes:.3f} of the vectors ({size / len(vectors):.0f} bytes a row)")
        times = {"low": [], "whole": [], "flat": []}
        for _ in range(rounds):
            for query in queries:
                (_, places), took = timed(flat.search, query[None], K)
                times["flat"].append(took)
                for table in ("low", "whole"):
                    found, took = timed(search, table, query)
                    times[table].append(took)
                    assert [row[0] for row in found] == places[0].tolist()
        for name, each in times.items():
            show(name, each, times["flat"])
        scans, far, whole = [], [], []
        for query in queries[:rounds]:
            scans.append(timed(scan)[1])
            far.append(timed(search, "low", FAR * query)[1])
            whole.append(timed(search, "low", query, len(vectors))[1])
        for what, each in (("a query that no row is like", far), ("all rows, in order", whole)):
            print(f"{what}: {min(each) / min(scans):.2f} of SELECT max(embedding)")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
