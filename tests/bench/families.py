"""The figures of the README's table of approximate indexes: memory, building, recall, for each family.

    python tests/bench/families.py DIRECTORY [rows]

DIRECTORY holds the vectors and queries (BENCH_DATA of `make bench`), of which the first `rows` (20,000) are
taken. Memory is that of faiss_indexes; the time is the processor's for the first search, which builds the
index, less that of reading the table; recall is that of faiss_recall, with no further options.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import database  # noqa: E402
from vectors import read_data  # noqa: E402

KINDS = ["HNSW32", "IVF128,Flat", "IVF128,SQ8", "IVF128,PQ48", "IVF128,RaBitQ", "SQ8", "SQfp16", "PQ48", "RaBitQ", "PCA64,Flat"]


def measure(connection, kind, memory):
    """Bytes a row, seconds, recall."""
    count = database.scalar(connection, "SELECT count(*) FROM docs")
    connection.execute(f"CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='{kind}', memory={memory})")
    query = database.scalar(connection, "SELECT embedding FROM docs")
    connection.execute("SELECT id FROM docs_ann WHERE embedding MATCH ? ORDER BY distance", [query]).fetchone()
    begin = time.process_time()
    connection.execute("SELECT id FROM docs_ann WHERE embedding MATCH ? AND k = 10", [query]).fetchall()
    seconds = time.process_time() - begin
    size = database.scalar(connection, "SELECT bytes FROM faiss_indexes WHERE kind = ?", [kind])
    recall = database.scalar(connection, "SELECT recall FROM faiss_recall('main', 'docs_ann', 10, 1000)")
    connection.execute("DROP TABLE docs_ann")
    return size / count, seconds, recall


def main(directory, rows=20000):
    vectors, _, _ = read_data(directory)
    connection = database.connect()
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.executemany("INSERT INTO docs VALUES (?, ?)", [(i, row.tobytes()) for i, row in enumerate(vectors[:rows])])
    print("| `index=` | bytes a row | with `memory=low` | built in, s | of the nearest 10, finds |")
    print("|---|---|---|---|---|")
    for kind in KINDS:
        full, low = measure(connection, kind, "full"), measure(connection, kind, "low")
        print(f"| `{kind}` | {full[0]:,.0f} | {low[0]:,.0f} | {full[1]:.2f} | {10 * full[2]:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
