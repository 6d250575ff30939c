#!/usr/bin/env python3
"""Times what `llm similar` does against the same search by SQL, on the database that example.sh
has made:

    compare.py EXTENSION LLM.db [ROUNDS]

Both in this process, in turn, each with a connection that stays open; medians.
"""

import sqlite3
import statistics
import sys
import time

import llm
import sqlite_utils

SEARCH = """
SELECT id, content, score FROM embeddings_index
WHERE embedding MATCH ? AND collection_id = ? ORDER BY distance LIMIT 10
"""


def timed(work):
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def main():
    extension, path, *rounds = sys.argv[1:]
    collection = llm.Collection("packages", sqlite_utils.Database(path), create=False)
    connection = sqlite3.connect(path)
    connection.enable_load_extension(True)
    connection.load_extension(extension)
    queries = connection.execute(
        "SELECT embedding FROM embeddings WHERE id <> 'my-secret-store' LIMIT ?",
        [int(rounds[0]) if rounds else 15],
    ).fetchall()
    first, _ = timed(lambda: connection.execute(SEARCH, [queries[0][0], collection.id]).fetchall())
    by_llm, by_sql = [], []
    for (query,) in queries:
        vector = llm.decode(query)
        seconds, entries = timed(lambda: collection.similar_by_vector(vector, number=10))
        by_llm.append(seconds)
        seconds, rows = timed(lambda: connection.execute(SEARCH, [query, collection.id]).fetchall())
        by_sql.append(seconds)
        # Equal scores may come in either order.
        assert [round(e.score, 4) for e in entries] == [round(row[2], 4) for row in rows]
    ratio = statistics.median(by_llm) / statistics.median(by_sql)
    print(f"llm similar {statistics.median(by_llm) * 1000:.1f} ms")
    print(f"faiss       {statistics.median(by_sql) * 1000:.2f} ms, {ratio:.0f} times as fast")
    print(f"the first   {first * 1000:.1f} ms: it reads the table")


if __name__ == "__main__":
    main()
