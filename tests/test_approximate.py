"""Approximate indexes: what they find may not be the nearest, but it is never short, never wrong and
never out of order, whatever happened to the table; scores are true; and recall is what it should be.
"""

import json
import os
import random
import re
import sqlite3
import subprocess
import threading
import time
from contextlib import closing

import numpy
import pytest

import database
import oracle
from database import column, connect, plan, rows, scalar

SANITIZED = bool(os.environ.get("SQLITE_FAISS_SANITIZE"))
METRICS = ["l2", "ip", "cosine"]
# A string, further options that make it differ from exact search on a small table, the rows needed.
FAMILIES = {
    "HNSW4": (", ef_search=8", 100),
    "HNSW8_SQ8": (", ef_search=8", 100),
    "IVF4,Flat": (", nprobe=1", 156),
    "IVF8,SQ8": (", nprobe=2", 312),
    "IVF4_HNSW4,Flat": (", nprobe=1", 156),
    "IVF4,PQ2x4": (", nprobe=2", 624),
    "IVF4,RaBitQ": (", nprobe=2, rerank=8", 156),
    "SQ8": ("", 100),
    "SQ4": (", rerank=4", 100),
    "SQfp16": ("", 100),
    "PQ4x4": ("", 624),
    "RaBitQ": (", rerank=8", 100),
    "PCA4,Flat": ("", 100),
    "RR,SQ8": ("", 100),
}
DIMENSION = 8


def vectors_of(generator, count, dimension=DIMENSION):
    """Vectors around a few centres, as embeddings are."""
    centres = generator.normal(size=(12, dimension))
    return (centres[generator.integers(12, size=count)] + 0.4 * generator.normal(size=(count, dimension))).astype("<f4")


def make(connection, vectors, kind, metric="l2", options="", table="docs"):
    connection.execute("BEGIN")
    connection.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, embedding BLOB, n INTEGER)")
    connection.executemany(
        f"INSERT INTO {table} VALUES (?, ?, ?)",
        [(number + 1, row.tobytes(), number % 10) for number, row in enumerate(vectors)],
    )
    connection.execute("COMMIT")
    connection.execute(f"CREATE VIRTUAL TABLE {table}_ann USING faiss(main, {table}, metric={metric}, index='{kind}'{options})")


def kinds(connection):
    return column(connection, "SELECT kind FROM faiss_indexes WHERE kind <> 'Flat'")


def assert_sound(answer, table, query, metric, k):
    """`answer`, (id, score) pairs, has k of the rows of `table`, id to BLOB, once each, with their scores,
    nearest first."""
    assert len(answer) == min(k, len(table))
    assert len({id for id, _ in answer}) == len(answer), "a row came twice"
    if not answer:
        return
    found = oracle.matrix(table[id] for id, _ in answer)
    wanted = numpy.frombuffer(query, "<f4").astype("f8")
    exact, slack = oracle.scores(wanted, found, metric), oracle.tolerance(wanted, found, metric)
    assert (numpy.abs(numpy.array([score for _, score in answer]) - exact) <= slack).all()
    order = [(oracle.nearer_is_smaller(score, metric), id) for id, score in answer]
    assert order == sorted(order), "not nearest first with ties in row order"


def true_nearest(table, query, metric, k):
    ids = sorted(table)
    found = oracle.scores(numpy.frombuffer(query, "<f4").astype("f8"), oracle.matrix(table[id] for id in ids), metric)
    return {ids[place] for place in numpy.argsort(oracle.nearer_is_smaller(found, metric), kind="stable")[:k]}


def table_of(connection, where="1"):
    return dict(rows(connection, f"SELECT id, embedding FROM docs WHERE embedding IS NOT NULL AND {where}"))


KNN = "SELECT id, score FROM docs_ann WHERE embedding MATCH ? AND k = ?"


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", FAMILIES)
def test_families(kind, metric):
    """Each family: what it finds, by every way of asking, alone and under filters."""
    options, least = FAMILIES[kind]
    generator = numpy.random.default_rng(7)
    connection = connect()
    make(connection, vectors_of(generator, 900), kind, metric, options)
    table = table_of(connection)
    hits = 0
    for query in vectors_of(numpy.random.default_rng(7), 20):
        query = query.tobytes()
        answer = rows(connection, KNN, [query, 3])
        assert kinds(connection) == [kind]
        assert_sound(answer, table, query, metric, 3)
        hits += len({id for id, _ in answer} & true_nearest(table, query, metric, 3))
        ids = [id for id, _ in answer]
        limited = rows(connection, "SELECT id, score FROM docs_ann(?) ORDER BY distance LIMIT 3", [query])
        assert limited == answer
        assert json.loads(scalar(connection, "SELECT faiss_search('main', 'docs_ann', ?, 3)", [query])) == ids
        assert column(connection, "SELECT id FROM faiss_search('main', 'docs_ann', ?, 3)", [query]) == ids
        for where in ("n = 3", "n < 8", "id % 2 = 0"):
            filtered = rows(connection, f"{KNN} AND {where}" if "%" not in where else
                            f"SELECT id, score FROM docs_ann WHERE embedding MATCH ? AND {where} ORDER BY distance LIMIT ?", [query, 3])
            assert_sound(filtered, table_of(connection, where), query, metric, 3)
    bound = 0.5 if metric == "ip" else 0.6
    assert hits >= bound * 60, f"recall {hits / 60}"


@pytest.mark.parametrize("kind", ["HNSW4", "IVF8,Flat", "PQ4x4"])
def test_streams_end_with_every_row(kind):
    """Without k or a limit each row comes once; where an order is asked for, it is exact."""
    connection = connect()
    make(connection, vectors_of(numpy.random.default_rng(1), 1500), kind)
    table = table_of(connection)
    query = table[17]
    rows(connection, KNN, [query, 1])
    assert kinds(connection) == [kind]
    answer = rows(connection, "SELECT id, score FROM docs_ann WHERE embedding MATCH ?", [query])
    assert {id for id, _ in answer} == set(table) and len(answer) == len(table)
    assert_sound(sorted(answer, key=lambda row: (row[1], row[0])), table, query, "l2", len(table))
    odd = rows(connection, "SELECT id, score FROM docs_ann WHERE embedding MATCH ? AND n IN (1, 3, 5, 7, 9)", [query])
    assert {id for id, _ in odd} == set(table_of(connection, "n % 2")) and len(odd) == 750
    ordered = rows(connection, "SELECT id, score FROM docs_ann WHERE embedding MATCH ? ORDER BY distance", [query])
    oracle.check(ordered, [(id, id, blob) for id, blob in table.items()], query)
    joined = rows(connection, "SELECT a.id, a.score FROM docs_ann AS a JOIN docs AS d USING (id)"
                  " WHERE a.embedding MATCH ? AND d.n % 3 = 0 ORDER BY a.distance LIMIT 40", [query])
    oracle.check(joined, [(id, id, blob) for id, blob in table_of(connection, "n % 3 = 0").items()], query, 40)
    bounded = rows(connection, "SELECT id, score FROM docs_ann WHERE embedding MATCH ? AND distance < 1.5", [query])
    assert {id for id, _ in bounded} == {id for id, score in ordered if score**0.5 < 1.5}
    assert bounded
    skipped = rows(connection, KNN + " AND distance > 0.5", [query, 5])
    assert [id for id, _ in skipped] == [id for id, score in ordered if score**0.5 > 0.5][:5]
    deep = rows(connection, KNN, [query, 1200])
    assert_sound(deep, table, query, "l2", 1200)


def test_effort_is_what_the_option_says():
    """An index that is searched with no effort misses rows: so it is the one that is searched."""
    generator = numpy.random.default_rng(3)
    vectors = generator.normal(size=(3000, 24)).astype("<f4")
    recalls = {}
    for options in (", nprobe=1", ", nprobe=16", ", nprobe=64"):
        connection = connect()
        make(connection, vectors, "IVF64,Flat", options=options)
        table = table_of(connection)
        found = 0
        for query in generator.normal(size=(20, 24)).astype("<f4"):
            answer = rows(connection, KNN, [query.tobytes(), 5])
            assert_sound(answer, table, query.tobytes(), "l2", 5)
            found += len({id for id, _ in answer} & true_nearest(table, query.tobytes(), "l2", 5))
        recalls[options] = found
    few, some, all_lists = recalls.values()
    assert few < some <= all_lists == 100 and few < 80


def recall(connection, table, queries, effort, k=5):
    found = 0
    for query in queries:
        answer = rows(connection, f"{KNN} AND {effort}", [query, k])
        assert_sound(answer, table, query, "l2", k)
        found += len({id for id, _ in answer} & true_nearest(table, query, "l2", k))
    return found / (k * len(queries))


@pytest.mark.parametrize("kind, options, low, high", [
    ("IVF64,Flat", ", nprobe=8", "nprobe = 1", "nprobe = 64"),
    ("HNSW4", ", ef_search=20", "ef_search = 5", "ef_search = 250"),
    ("RaBitQ", "", "rerank = 1", "rerank = 60"),
    ("PCA16,IVF64,Flat", "", "nprobe = 1 AND rerank = 2", "nprobe = 64 AND rerank = 60"),
])
def test_effort_of_one_query(kind, options, low, high):
    """Each query has its own, also beside another in a second thread, and leaves the default as it was."""
    generator = numpy.random.default_rng(3)
    connection = connect("file:efforts?mode=memory&cache=private", uri=True)
    make(connection, generator.normal(size=(4000, 24)).astype("<f4"), kind, options=options)
    table = table_of(connection)
    queries = [row.tobytes() for row in generator.normal(size=(15, 24)).astype("<f4")]
    usual = [rows(connection, KNN, [query, 5]) for query in queries]
    few, many = recall(connection, table, queries, low), recall(connection, table, queries, high)
    assert few < 0.8 and many > 0.9, (few, many)
    assert [rows(connection, KNN, [query, 5]) for query in queries] == usual
    assert rows(connection, f"SELECT id FROM docs_ann(?) WHERE {low} ORDER BY distance LIMIT 5", [queries[0]]) == [
        (id,) for id, _ in rows(connection, f"{KNN} AND {low}", [queries[0], 5])]


def test_two_threads_with_efforts_of_their_own(tmp_path):
    """One index, two connections: the answers are those that each gets alone."""
    generator = numpy.random.default_rng(3)
    path = tmp_path / "docs.db"
    first, second = connect(path), connect(path)
    make(first, generator.normal(size=(4000, 24)).astype("<f4"), "IVF64,Flat")
    queries = [row.tobytes() for row in generator.normal(size=(30, 24)).astype("<f4")]

    def answers(connection, nprobe):
        return [rows(connection, f"{KNN} AND nprobe = {nprobe}", [query, 5]) for query in queries]

    expected = {1: answers(first, 1), 64: answers(first, 64)}
    assert expected[1] != expected[64]
    wrong = []

    def repeat(connection, nprobe):
        for _ in range(20):
            if answers(connection, nprobe) != expected[nprobe]:
                wrong.append(nprobe)

    threads = [threading.Thread(target=repeat, args=pair) for pair in ((first, 1), (second, 64))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert column(first, "SELECT count(*) FROM faiss_indexes") == [1]


@pytest.mark.parametrize("effort, message", [
    ("ef_search = 0", "ef_search must be a whole number from 1 to 1048576, not 0"),
    ("ef_search = NULL", "ef_search must be a whole number from 1 to 1048576, not NULL"),
    ("ef_search = '9'", "ef_search must be a whole number from 1 to 1048576, not '9'"),
    ("rerank = 1001", "rerank must be a whole number from 1 to 1000, not 1001"),
    ("nprobe = 3", "nprobe: only IVF has it, not index=HNSW8"),
    ("ef_search IN (3, 4)", "docs_ann: ef_search must be one value, not IN (...)"),
    ("ef_search > 3", "docs_ann: ef_search can only be compared by ="),
])
def test_refused_efforts(effort, message):
    connection = connect()
    make(connection, vectors_of(numpy.random.default_rng(1), 10), "HNSW8")
    with pytest.raises(sqlite3.OperationalError) as raised:
        connection.execute(f"{KNN} AND {effort}", [database.vector(*range(8)), 3]).fetchall()
    assert str(raised.value) == message
    with pytest.raises(sqlite3.OperationalError) as raised:
        connection.execute("SELECT id FROM docs_ann WHERE ef_search = 9").fetchall()
    assert str(raised.value) == "docs_ann: ef_search needs a vector: add embedding MATCH ..."


def test_columns_of_these_names():
    """They are the faiss table's own where there is an approximate index, and the source's elsewhere."""
    connection = connect()
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB, nprobe TEXT)")
    connection.execute("INSERT INTO docs VALUES (1, ?, 'a')", [database.vector(1, 2)])
    connection.execute("CREATE VIRTUAL TABLE exact USING faiss(main, docs)")
    connection.execute("CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='IVF4,Flat')")
    query = [database.vector(1, 2)]
    assert rows(connection, "SELECT nprobe FROM exact(?) WHERE nprobe = 'a'", query) == [("a",)]
    assert rows(connection, "SELECT nprobe, source_nprobe, rerank FROM docs_ann(?, 1)", query) == [(None, "a", None)]
    asked = "SELECT nprobe, source_nprobe FROM docs_ann(?, 1) WHERE nprobe = 3 AND source_nprobe = 'a'"
    assert rows(connection, asked, query) == [(3, "a")]
    assert rows(connection, "SELECT id FROM docs_ann(?) WHERE id = 1 AND nprobe = 3", query) == [(1,)]
    with pytest.raises(sqlite3.OperationalError, match="rerank is a column of faiss tables"):
        connection.execute("CREATE VIRTUAL TABLE rerank USING faiss(main, docs, index='SQ8')")
    with pytest.raises(sqlite3.OperationalError, match="no such column: ef_search"):
        connection.execute("SELECT id FROM exact(?) WHERE ef_search = 3", query)


@pytest.mark.parametrize("kind", ["HNSW8", "IVF8,SQ8", "RaBitQ"])
def test_scores_again(kind):
    """Where every row is a candidate the answer is the exact one."""
    connection = connect()
    make(connection, vectors_of(numpy.random.default_rng(4), 2000), kind, options=", rerank=60")
    table = [(id, id, blob) for id, blob in table_of(connection).items()]
    for place in range(0, 2000, 190):
        query = table[place][2]
        oracle.check(rows(connection, KNN, [query, 4]), table, query, 4)


# --- a table that changes -------------------------------------------------------------------------


def change(connection, generator, chance):
    """A random change of docs, or of the transaction."""
    what = chance.random()
    blob = vectors_of(generator, 1)[0].tobytes()
    some = chance.randrange(1, 1000)
    if what < 0.3:
        connection.execute("INSERT INTO docs VALUES (NULL, ?, ?)", [blob, chance.randrange(10)])
    elif what < 0.5:
        connection.execute("UPDATE docs SET embedding = ? WHERE id = ?", [blob, some])
    elif what < 0.6:
        connection.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = ?) WHERE id = ?",
                           [chance.randrange(1, 1000), some])
    elif what < 0.7:
        connection.execute("DELETE FROM docs WHERE id BETWEEN ? AND ?", [some, some + chance.randrange(15)])
    elif what < 0.75:
        connection.execute("UPDATE docs SET embedding = NULL WHERE id = ?", [some])
    elif what < 0.9 and not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")
    elif connection.in_transaction:
        connection.execute(chance.choice(["COMMIT", "ROLLBACK"]))
    elif what > 0.98:
        connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('optimize')")


@pytest.mark.parametrize("seed", range(2 if SANITIZED else 4))
@pytest.mark.parametrize("kind", ["HNSW4", "IVF4,SQ8", "SQ8", "PQ4x4", "RaBitQ"])
def test_states(tmp_path, kind, seed):
    """Two connections, one of which writes, and a reader of an old snapshot."""
    chance, generator = random.Random(seed), numpy.random.default_rng(seed)
    metric = METRICS[seed % 3]
    path = tmp_path / "docs.db"
    writer, reader, old = connect(path), connect(path), connect(path)
    writer.execute("PRAGMA journal_mode=WAL")
    make(writer, vectors_of(generator, 800), kind, metric, FAMILIES.get(kind, ("",))[0])
    rows(reader, KNN, [vectors_of(generator, 1)[0].tobytes(), 3])
    assert kinds(reader) == [kind]
    for step in range(60):
        for _ in range(chance.choice([1, 1, 5, 40])):
            change(writer, generator, chance)
        if step % 20 == 5:
            old.execute("BEGIN")
            old.execute("SELECT count(*) FROM docs").fetchone()
        if step % 20 == 18:
            old.execute("COMMIT")
        for connection in (writer, reader, old):
            query = vectors_of(generator, 1)[0].tobytes()
            k = chance.choice([1, 3, 5])
            assert_sound(rows(connection, KNN, [query, k]), table_of(connection), query, metric, k)
            where = chance.choice(["n = 4", "n <> 4", "id > 700"])
            limited = f"SELECT id, score FROM docs_ann WHERE embedding MATCH ? AND {where} ORDER BY distance LIMIT ?"
            assert_sound(rows(connection, limited, [query, k]), table_of(connection, where), query, metric, k)
    query = vectors_of(generator, 1)[0].tobytes()
    answer = rows(writer, "SELECT id FROM docs_ann WHERE embedding MATCH ?", [query])
    assert {id for id, in answer} == set(table_of(writer)) and len(answer) == len(table_of(writer))


def test_it_grows_beside_the_searches():
    """New rows are scored beside the index, then added to it, a piece after each search."""
    generator = numpy.random.default_rng(5)
    connection = connect()
    make(connection, vectors_of(generator, 2000), "HNSW8")
    query = vectors_of(generator, 1)[0].tobytes()
    rows(connection, KNN, [query, 5])
    small = scalar(connection, "SELECT bytes FROM faiss_indexes WHERE kind = 'HNSW8'")
    connection.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row.tobytes(),) for row in vectors_of(generator, 1500)])
    for _ in range(400):
        assert_sound(rows(connection, KNN, [query, 5]), table_of(connection), query, "l2", 5)
        if kinds(connection) == ["HNSW8"]:
            break
    assert kinds(connection) == ["HNSW8"]
    assert scalar(connection, "SELECT bytes FROM faiss_indexes WHERE kind = 'HNSW8'") > 1.5 * small
    grown = scalar(connection, "SELECT bytes FROM faiss_indexes WHERE kind = 'HNSW8'")
    connection.execute("DELETE FROM docs WHERE id > 1000")
    for _ in range(400):
        assert_sound(rows(connection, KNN, [query, 5]), table_of(connection), query, "l2", 5)
    connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('optimize')")
    assert_sound(rows(connection, KNN, [query, 5]), table_of(connection), query, "l2", 5)
    assert scalar(connection, "SELECT bytes FROM faiss_indexes WHERE kind = 'HNSW8'") < 0.5 * grown


def test_too_few_rows():
    """Until there are enough, searches are exact, and the reason can be read."""
    generator = numpy.random.default_rng(6)
    connection = connect()
    make(connection, vectors_of(generator, 300), "IVF8,Flat", options=", nprobe=1")
    table = [(id, id, blob) for id, blob in table_of(connection).items()]
    for _, _, query in table[:30]:
        oracle.check(rows(connection, KNN, [query, 3]), table, query, 3)
    assert kinds(connection) == [] or kinds(connection) == ["Flat, IVF8,Flat from 312 rows on"]
    assert column(connection, "SELECT kind FROM faiss_indexes") == ["Flat, IVF8,Flat from 312 rows on"]
    connection.executemany("INSERT INTO docs VALUES (NULL, ?, 1)", [(row.tobytes(),) for row in vectors_of(generator, 200)])
    rows(connection, KNN, [table[0][2], 3])
    assert column(connection, "SELECT kind FROM faiss_indexes") == ["IVF8,Flat"]


def test_views_and_tables_without_rowid():
    """Rows without keys, some of them equal, are known by what they hold."""
    vectors = vectors_of(numpy.random.default_rng(8), 800)
    connection = connect()
    connection.execute("CREATE TABLE base(name TEXT PRIMARY KEY, embedding BLOB, n INTEGER) WITHOUT ROWID")
    connection.executemany("INSERT INTO base VALUES (?, ?, ?)",
                           [(f"row {number:04}", row.tobytes(), number % 7) for number, row in enumerate(vectors)])
    connection.execute("CREATE VIEW twice AS SELECT name AS id, embedding FROM base UNION ALL"
                       " SELECT name, embedding FROM base WHERE n = 3")
    connection.execute("CREATE VIRTUAL TABLE base_ann USING faiss(main, base, id=name, index='HNSW4', ef_search=8)")
    connection.execute("CREATE VIRTUAL TABLE twice_ann USING faiss(main, twice, index='SQ8')")
    for step in range(6):
        for place in range(0, 800, 97):
            query = vectors[place].tobytes()
            blobs = dict(rows(connection, "SELECT name, embedding FROM base"))
            answer = rows(connection, "SELECT id, score FROM base_ann WHERE embedding MATCH ? AND k = 4", [query])
            assert_sound(answer, blobs, query, "l2", 4)
            answer = rows(connection, "SELECT id, score FROM twice_ann WHERE embedding MATCH ? AND k = 4", [query])
            count = {id: number for id, number in rows(connection, "SELECT id, count(*) FROM twice GROUP BY 1")}
            assert len(answer) == 4 and all(sum(id == other for other, _ in answer) <= count[id] for id, _ in answer)
            twins = [id for id, score in answer if score == 0 and count[id] == 2]
            assert len(twins) == 4 or all(twins.count(id) == 2 for id in twins)
        connection.execute("UPDATE base SET embedding = ? WHERE name < ?", [vectors[step].tobytes(), f"row {step * 9:04}"])
        connection.execute("INSERT OR REPLACE INTO base VALUES (?, ?, 3)", [f"a {step}", vectors[-step].tobytes()])
    assert sorted(kinds(connection)) == ["HNSW4", "SQ8"]


# --- building -------------------------------------------------------------------------------------


BUILDING = re.compile(r"Flat, building .*: (\d+) of 20000 rows")


def progress_of(connection):
    """How many rows are in the index that another connection builds, in a list; an empty one if none is built."""
    return [int(BUILDING.fullmatch(told)[1]) for told in kinds(connection) if BUILDING.fullmatch(told)]


def interrupted_when(connection, sql, parameters, other, is_enough):
    """Run a query that is interrupted when `is_enough` of what `other` tells of the progress: its error, what was told
    until then, and how much of this process's time it took to end."""
    is_over, seen, asked = threading.Event(), [], []

    def interrupt():
        while not is_over.wait(0.005):
            seen.extend(progress_of(other))
            if is_enough(seen):
                asked.append(time.process_time())
                connection.interrupt()
                return

    thread = threading.Thread(target=interrupt)
    thread.start()
    error = None
    try:
        connection.execute(sql, parameters).fetchall()
    except sqlite3.OperationalError as raised:
        error = str(raised)
    ended = time.process_time()
    is_over.set()
    thread.join()
    return error, seen, ended - asked[0] if asked else None


@pytest.mark.skipif(SANITIZED, reason="takes minutes")
@pytest.mark.parametrize("kind", ["HNSW32", "IVF400,PQ8"])
def test_a_build_can_be_interrupted(tmp_path, kind):
    """The search ends, others are answered meanwhile, and a later one goes on."""
    path = tmp_path / "docs.db"
    connection, other = connect(path), connect(path)
    vectors = vectors_of(numpy.random.default_rng(9), 20000, 64)
    make(connection, vectors, kind, options=", ef_construction=100" if "HNSW" in kind else "")
    query = vectors[3].tobytes()
    rows(connection, "SELECT faiss_search('main', 'docs', ?, 1)", [query])
    has_begun = (lambda seen: max(seen, default=0) > 0) if "HNSW" in kind else len
    error, _, late = interrupted_when(connection, KNN, [query, 3], other, has_begun)
    assert error == "interrupted"
    assert late < 3, "an instant, apart from what the threads are at"
    (done,) = progress_of(other)
    assert done < 20000
    if "HNSW" in kind:  # training begins anew, adding rows goes on
        assert done > 0
        error, seen, _ = interrupted_when(connection, KNN, [query, 3], other, lambda seen: max(seen, default=0) > done)
        assert error == "interrupted" and min(seen) >= done, "it goes on where it stopped"
        (done,) = progress_of(other)
    is_over, seen = threading.Event(), []

    def watch():
        """The progress, from another connection and thread."""
        while not is_over.wait(0.005):
            seen.extend(progress_of(other))

    watcher = threading.Thread(target=watch)
    watcher.start()
    rows(connection, KNN, [query, 3])
    is_over.set()
    watcher.join()
    if "HNSW" in kind:
        assert seen == sorted(seen) and len(set(seen)) > 5 and seen[0] >= done
    assert kinds(other) == [kind]
    assert rows(other, KNN, [query, 3])[0] == (4, 0.0)


PROGRESS = re.compile(r"\[(#*)(\.*)\] +(\d+) %  HNSW32: ([\d,]+) of 20,000 rows")


def shell(path, sql, **environment):
    """What the `sqlite3` shell prints, and what on standard error."""
    told = subprocess.run(
        ["sqlite3", str(path)],
        input=f".load {database.EXTENSION}\n{sql}\n".encode(),
        env=os.environ | environment,
        capture_output=True,
        check=True,
        timeout=600,
    )
    return told.stdout.decode(), told.stderr.decode()


@pytest.mark.skipif(SANITIZED, reason="takes minutes")
def test_a_build_shows_how_far_it_is(tmp_path):
    """On standard error, where the environment asks for it; the line is gone afterwards."""
    path = tmp_path / "docs.db"
    with closing(connect(path)) as connection:
        make(connection, vectors_of(numpy.random.default_rng(9), 20000, 64), "HNSW32", options=", ef_construction=200")
    sql = "SELECT id FROM docs_ann((SELECT embedding FROM docs WHERE id = 4), 1);"
    assert shell(path, sql, SQLITE_FAISS_PROGRESS="0") == ("4\n", "")
    found, told = shell(path, sql, SQLITE_FAISS_PROGRESS="1")
    assert found == "4\n"
    before, *lines, after = told.split("\r")
    assert (before, after) == ("", "\x1b[K"), "wiped away"
    drawn = [PROGRESS.fullmatch(line).groups() for line in lines]
    counts = [int(done.replace(",", "")) for *_, done in drawn]
    assert counts[0] == 0 and len(set(counts)) == len(counts) > 1 and counts == sorted(counts)
    for (full, empty, percent, _), done in zip(drawn, counts):
        assert len(full) == done * 30 // 20000 and len(full + empty) == 30 and int(percent) == done * 100 // 20000


@pytest.mark.skipif(SANITIZED, reason="takes minutes")
def test_a_build_shows_that_it_is_training(tmp_path):
    path = tmp_path / "docs.db"
    with closing(connect(path)) as connection:
        make(connection, vectors_of(numpy.random.default_rng(9), 5000, 64), "IVF100,SQ8")
    sql = "SELECT id FROM docs_ann((SELECT embedding FROM docs WHERE id = 4), 1);"
    _, told = shell(path, sql, SQLITE_FAISS_PROGRESS="1")
    before, first, *_, after = told.split("\r")
    assert (before, after) == ("", "\x1b[K"), "wiped away"
    assert first == f"[{'.' * 30}]   0 %  IVF100,SQ8: training on 5,000 of 5,000 rows"


@pytest.mark.parametrize("kind", ["IVF4,Flat", "IVF8,SQ8", "SQ8", "PQ4x4", "HNSW8_SQ8", "PCAR4,IVF4,SQ8", "SQfp16"])
def test_rows_unlike_those_it_was_trained_on(tmp_path, monkeypatch, kind):
    """faiss_indexes says so, also of an index that was stored, until it is trained again."""
    monkeypatch.setenv("SQLITE_FAISS_LINGER", "0")
    add = "INSERT INTO docs VALUES (NULL, ?, 1)"
    chance = numpy.random.default_rng(12)
    vectors = vectors_of(chance, 1600)
    strange = (chance.normal(size=(200, DIMENSION)) + 9 * chance.normal(size=DIMENSION)).astype("<f4")
    for added, told in ((vectors[1400:], kind), (strange, f"{kind}; the rows added last are")):
        with closing(connect(tmp_path / f"{len(told)}.db")) as connection:
            make(connection, vectors[:1400], kind)
            connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('optimize')")
        with closing(connect(tmp_path / f"{len(told)}.db")) as connection:
            connection.executemany(add, [(row.tobytes(),) for row in added])
            connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('optimize')")
            rows(connection, KNN, [vectors[0].tobytes(), 3])
            expected = kind if kind == "SQfp16" else told  # which learns nothing
            assert kinds(connection)[0].split(" last are")[0] == expected.split(" last are")[0]
            connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('rebuild')")
            rows(connection, KNN, [vectors[0].tobytes(), 3])
            assert kinds(connection) == [kind]


def test_each_build_is_the_same(tmp_path):
    """A graph is made by one thread, in one order: answers do not depend on luck."""
    vectors = vectors_of(numpy.random.default_rng(10), 3000, 16)
    answers = []
    for name in ("a.db", "b.db"):
        connection = connect(tmp_path / name)
        make(connection, vectors, "HNSW4", options=", ef_search=4")
        answers.append([rows(connection, KNN, [row.tobytes(), 8]) for row in vectors[:200]])
    assert answers[0] == answers[1]


def test_rebuild_and_reopening(tmp_path):
    path = tmp_path / "docs.db"
    connection = connect(path)
    vectors = vectors_of(numpy.random.default_rng(11), 700)
    make(connection, vectors, "IVF4,Flat", "cosine", ", nprobe=2")
    connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('rebuild')")
    connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('integrity-check')")
    answer = rows(connection, KNN, [vectors[5].tobytes(), 4])
    assert_sound(answer, table_of(connection), vectors[5].tobytes(), "cosine", 4)
    connection.close()
    connection = connect(path)
    assert rows(connection, KNN, [vectors[5].tobytes(), 4]) == answer
    connection.execute("ALTER TABLE docs_ann RENAME TO other")
    assert column(connection, "SELECT id FROM other(?, 1)", [vectors[5].tobytes()]) == [6]
    connection.execute("DROP TABLE other")


def test_no_vectors_or_one_row():
    connection = connect()
    make(connection, vectors_of(numpy.random.default_rng(1), 0), "HNSW32")
    assert rows(connection, KNN, [database.vector(1, 2), 5]) == []
    connection.execute("INSERT INTO docs VALUES (1, ?, 0)", [database.vector(1, 2)])
    assert rows(connection, KNN, [database.vector(1, 2), 5]) == [(1, 0.0)]


def test_large_values_and_zero_vectors():
    """Distances that overflow are not for FAISS's graphs and centroids; zero vectors are."""
    vectors = vectors_of(numpy.random.default_rng(12), 400)
    vectors[:40] *= numpy.float32(1e30)
    vectors[40:80] = 0
    for metric in METRICS:
        for kind in ("HNSW4", "SQ8", "IVF4,Flat"):
            connection = connect()
            make(connection, vectors, kind, metric)
            for place in (0, 50, 100, 399):
                answer = rows(connection, KNN, [vectors[place].tobytes(), 5])
                assert len({id for id, _ in answer}) == 5
            assert kinds(connection) == [kind if metric == "cosine" else f"Flat: no {kind}: vectors longer than 1e15"]
            connection.execute("DELETE FROM docs WHERE id <= 40")
            connection.execute("INSERT INTO docs_ann(docs_ann) VALUES ('optimize')")
            huge = [vectors[3].tobytes(), 5]
            assert len({id for id, _ in rows(connection, KNN, huge)}) == 5
            assert kinds(connection) == [kind]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("options, message", [
    ("index='Flat'", "index=Flat: a table without the option index is exact"),
    ("index='HNSW32,RFlat'", "candidates are scored again by the option rerank"),
    ("index='IDMap2,Flat'", "the table keeps the ids itself"),
    ("index='PQ8x4fs'", "use PQ"),
    ("index='NSG32'", "use HNSW"),
    ("index='L2norm,Flat'", "metric=cosine"),
    ("index='PCAW4,Flat'", "use PCA"),
    ("index='LSH'", "RaBitQ"),
    ("index='HNSW1'", "expected a factory string of FAISS such as HNSW32"),
    ("index='hnsw32'", "expected a factory string of FAISS such as HNSW32"),
    ("index='IVF0,Flat'", "expected a factory string of FAISS such as HNSW32"),
    ("index='IVF9999999999,Flat'", "expected a factory string of FAISS such as HNSW32"),
    ("index='IVF16'", "expected a factory string of FAISS such as HNSW32"),
    ("index=',,,,,'", "expected a factory string of FAISS such as HNSW32"),
    ("index='HNSW32(((('", "expected a factory string of FAISS such as HNSW32"),
    ("index=" + "A" * 200, "expected a factory string of FAISS such as HNSW32"),
    ("index='PQ3'", "index=PQ3 does not suit 8 dimensions"),
    ("index='HNSW8,PQ4', metric=ip", "for l2 and cosine only"),
    ("index=HNSW32, nprobe=4", "nprobe: only IVF has it, not index=HNSW32"),
    ("index=SQ8, ef_search=4", "ef_search: only HNSW has it, not index=SQ8"),
    ("index='IVF4,Flat', ef_construction=9", "ef_construction: only HNSW has it"),
    ("rerank=4", "rerank: it is for approximate indexes (option index)"),
    ("index=SQ8, rerank=0", "rerank=0: expected a whole number from 1 to 1000"),
    ("index=HNSW32, ef_search=many", "ef_search=many: expected a whole number"),
])
def test_refused(options, message):
    connection = connect()
    database.fill(connection, [[1.0] * 8, [2.0] * 8])
    with pytest.raises(sqlite3.OperationalError) as raised:
        connection.execute(f"CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, {options})")
    assert message in str(raised.value)
    assert column(connection, "SELECT name FROM sqlite_schema") == ["docs"]


def readme_kinds():
    section = (database.ROOT / "README.md").read_text().split("### Approximate indexes")[1].split("\n### ")[0]
    return re.findall(r"^\| `([^`=]+)` \| (?:all )?rows|^\| `([^`=]+)` \| the same", section, re.MULTILINE)


def test_the_readmes_kinds():
    """Each can be made of the vectors that its figures are for."""
    connection = connect()
    database.fill(connection, [[1.0] * 384])
    kinds_there = [first or second for first, second in readme_kinds()]
    assert len(kinds_there) == 10
    for kind in kinds_there:
        for metric in METRICS:
            connection.execute(f"CREATE VIRTUAL TABLE t USING faiss(main, docs, index='{kind}', metric={metric})")
            assert column(connection, "SELECT id FROM t(zeroblob(1536), 1)") == [1]
            connection.execute("DROP TABLE t")


def test_a_kind_that_does_not_suit_the_first_rows():
    """Of an empty table the dimension is not known: then the table is exact, and says why."""
    connection = connect()
    make(connection, vectors_of(numpy.random.default_rng(1), 0), "PQ3x4")
    connection.executemany("INSERT INTO docs VALUES (NULL, ?, 0)",
                           [(row.tobytes(),) for row in vectors_of(numpy.random.default_rng(1), 700)])
    query = scalar(connection, "SELECT embedding FROM docs WHERE id = 9")
    table = [(id, id, blob) for id, blob in table_of(connection).items()]
    oracle.check(rows(connection, KNN, [query, 4]), table, query, 4)
    assert kinds(connection)[0].startswith("Flat: no PQ3x4: FAISS: ")


def test_plans():
    connection = connect()
    make(connection, vectors_of(numpy.random.default_rng(1), 10), "HNSW8")
    match = "SELECT id FROM docs_ann WHERE embedding MATCH x'00000000'"
    assert plan(connection, match + " AND k = 3 ORDER BY distance")[0].endswith(":knn vector k")
    called = "SELECT id FROM docs_ann(x'00000000')"
    assert plan(connection, called + " ORDER BY distance LIMIT 3")[0].endswith(":stream vector limit")
    assert plan(connection, called + " WHERE n = 2 ORDER BY distance LIMIT 3")[0].endswith(
        ":stream vector limit filter(n=?)")
    assert plan(connection, match + " ORDER BY distance")[0].endswith(":stream exact vector")
    assert plan(connection, match)[0].endswith(":stream vector")
    assert len(plan(connection, match + " ORDER BY distance")) == 1, "SQLite need not sort"
