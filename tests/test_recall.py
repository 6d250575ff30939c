"""faiss_recall: the recall that it reports is that of the searches themselves, against NumPy."""

import sqlite3

import numpy
import pytest

import database
import oracle
from database import column, connect, fill, plain, rows, scalar, vector

KNN = "SELECT id FROM docs_ann WHERE embedding MATCH ? AND k = 5"
COLUMNS = ["ef_search", "nprobe", "rerank", "recall", "ms", "exact_ms", "sampled", "kind"]


def make(connection, kind, metric="l2", count=800, options=""):
    generator = numpy.random.default_rng(11)
    centres = generator.normal(size=(12, 8))
    fill(connection, centres[generator.integers(12, size=count)] + 0.4 * generator.normal(size=(count, 8)))
    connection.execute(f"CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, metric={metric}, index='{kind}'{options})")


def true_recall(connection, metric, effort):
    """Of the answers to all rows as queries, the share that brute force finds as well."""
    found = 0
    table = dict(rows(connection, "SELECT id, embedding FROM docs WHERE embedding IS NOT NULL"))
    ids, vectors = numpy.array(list(table)), oracle.matrix(table.values())
    for row, query in zip(vectors, table.values()):
        ranks = oracle.nearer_is_smaller(oracle.scores(row, vectors, metric), metric)
        nearest = set(ids[numpy.argsort(ranks, kind="stable")[:5]].tolist())
        found += len(nearest & set(column(connection, f"{KNN} AND {effort}", [query])))
    return found / (5 * len(table))


@pytest.mark.parametrize("metric", oracle.METRICS)
@pytest.mark.parametrize("kind, effort, values", [
    ("IVF16,Flat", "nprobe", (1, 2, 8)), ("HNSW4", "ef_search", (5, 20)), ("RaBitQ", "rerank", (1, 6))])
def test_it_is_that_of_the_searches(memory, kind, effort, values, metric):
    make(memory, kind, metric)
    memory.execute("UPDATE docs SET embedding = NULL WHERE id % 90 = 0")
    memory.execute("DELETE FROM docs WHERE id BETWEEN 300 AND 340")
    count = scalar(memory, "SELECT count(embedding) FROM docs")
    asked = f"SELECT {effort}, recall, sampled, kind FROM faiss_recall('main', 'docs_ann', 5, 5000)"
    found = rows(memory, f"{asked} WHERE {effort} IN ({', '.join(map(str, values))})")
    assert [row[0] for row in found] == list(values)
    recalls = [row[1] for row in found]
    assert recalls == sorted(recalls) and recalls[0] < recalls[-1]
    for value, recall, sampled, told in found:
        assert sampled == count and told == kind
        assert recall == pytest.approx(true_recall(memory, metric, f"{effort} = {value}"))


def test_a_sample_is_always_the_same(memory):
    make(memory, "IVF16,Flat", options=", nprobe=2")
    asked = "SELECT recall, sampled, nprobe FROM faiss_recall('main', 'docs_ann', 5{})"
    few, usual = rows(memory, asked.format(", 20")), rows(memory, asked.format(""))
    assert few == rows(memory, asked.format(", 20")) and few[0][1:] == (20, 2)
    assert usual == rows(memory, asked.format(", 100")) and usual[0][1:] == (100, 2)
    whole = scalar(memory, asked.format(", 800"))
    assert 0 < abs(usual[0][0] - whole) < 0.1


def test_columns(memory):
    make(memory, "IVF16_HNSW8,SQ8")
    row = memory.execute("SELECT * FROM faiss_recall('main', 'docs_ann', 5)")
    assert [name for name, *_ in row.description] == COLUMNS
    ef_search, nprobe, rerank, _, ms, exact_ms, sampled, kind = row.fetchone()
    assert (ef_search, nprobe, rerank, sampled, kind) == (64, 6, 2, 100, "IVF16_HNSW8,SQ8")
    assert 0 < ms < 1000 and 0 < exact_ms < 1000
    asked = "SELECT nprobe, rerank FROM faiss_recall('main', 'docs_ann', 5, 9) WHERE nprobe IN (1, 4) AND rerank IN (1, 3)"
    assert sorted(rows(memory, asked)) == [(1, 1), (1, 3), (4, 1), (4, 3)]
    joined = "SELECT v.value, r.nprobe FROM json_each('[3, 1]') v JOIN faiss_recall('main', 'docs_ann', 5, 9) r ON r.nprobe = v.value"
    assert sorted(rows(memory, joined)) == [(1, 1), (3, 3)]
    enough = "SELECT min(nprobe) FROM faiss_recall('main', 'docs_ann', 5) WHERE nprobe IN (1, 2, 16) AND recall > 0.99"
    assert scalar(memory, enough) in (2, 16)
    hidden = 'SELECT "table", k, sample FROM faiss_recall(\'main\', \'docs_ann\', 5, 9)'
    assert rows(memory, hidden) == [("docs", 5, 9)]


def test_searches_that_are_exact(memory):
    """Nothing is missed where no index answers, and `kind` says why none does."""
    make(memory, "IVF16,Flat", options=", nprobe=1", count=500)
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    asked = "SELECT nprobe, rerank, recall, kind FROM faiss_recall('main', ?, ?, 30)"
    for table in "docs", "docs_index":
        assert rows(memory, asked, [table, 5]) == [(None, None, 1.0, "Flat")]
    assert rows(memory, asked, ["docs_ann", 5]) == [(1, 1, 1.0, "Flat, IVF16,Flat from 624 rows on")]
    memory.execute("INSERT INTO docs SELECT id + 500, embedding FROM docs")
    assert rows(memory, asked, ["docs_ann", 500]) == [
        (1, 1, 1.0, "Flat: to score all rows is no slower than IVF16,Flat")]
    memory.execute("CREATE TABLE empty(id, embedding)")
    for table in "empty", "docs_ann":
        assert rows(memory, asked, [table, None]) == []
    assert rows(memory, asked, ["empty", 5]) == []


def test_rows_of_the_transaction(memory):
    make(memory, "IVF16,Flat")
    asked = "SELECT recall, sampled FROM faiss_recall('main', 'docs_ann', 2, 5000) WHERE nprobe = 16"
    assert rows(memory, asked) == [(1.0, 800)]
    memory.execute("BEGIN")
    memory.execute("DELETE FROM docs WHERE id <= 250")
    assert rows(memory, asked) == [(1.0, 550)]
    memory.execute("ROLLBACK")
    assert rows(memory, asked) == [(1.0, 800)]


def test_equal_rows_are_as_good_as_each_other(memory):
    """Which of several rows at one distance comes is no matter of recall."""
    fill(memory, [(float(i % 7), 1, 2, 3) for i in range(1400)])
    memory.execute("CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='SQ8')")
    assert rows(memory, "SELECT recall, kind FROM faiss_recall('main', 'docs_ann', 3, 40)") == [(1.0, "SQ8")]


def test_refusals(memory):
    make(memory, "HNSW4")
    for call, words in (
        ("faiss_recall('main', 'docs_ann')", "faiss_recall(database, table, k [, sample]): an argument is missing"),
        ("faiss_recall", "faiss_recall(database, table, k [, sample]): an argument is missing"),
        ("faiss_recall('main', 'docs_ann', 0)", "k must be a positive integer, not 0"),
        ("faiss_recall('main', 'docs_ann', 5, 0)", "faiss_recall: sample must be a whole number from 1 to 10000, not 0"),
        ("faiss_recall('main', 'docs_ann', 5, NULL)", "faiss_recall: sample must be a whole number from 1 to 10000, not NULL"),
        ("faiss_recall(NULL, 'docs_ann', 5)", "faiss_recall: database and table must be names, not NULL"),
        ("faiss_recall('main', 'gone', 5)", "no such table: main.gone"),
        ("faiss_recall('main', 'docs_ann', 5) WHERE nprobe = 3", "nprobe: only IVF has it, not index=HNSW4"),
        ("faiss_recall('main', 'docs', 5) WHERE ef_search = 3", "ef_search: only HNSW has it (option index)"),
        ("faiss_recall('main', 'docs_ann', 5) WHERE ef_search = 0", "ef_search must be a whole number from 1 to 1048576, not 0"),
        ("faiss_recall('main', 'docs_ann', 5) WHERE rerank IN (1, 1001)", "rerank must be a whole number from 1 to 1000, not 1001"),
        ("faiss_recall('main', 'docs_ann', 5) WHERE ef_search BETWEEN 9 AND 99",
         "faiss_recall: which values of ef_search to measure is said by = or IN (...)"),
    ):
        with pytest.raises(sqlite3.OperationalError) as raised:
            rows(memory, f"SELECT * FROM {call}")
        assert str(raised.value) == words


def test_who_may_not_read_the_table_may_not_measure_it(memory):
    make(memory, "HNSW4")
    asked = "SELECT recall FROM faiss_recall('main', 'docs_ann', 5)"
    scalar(memory, asked)

    def authorize(action, table, *_):
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_READ and table == "docs" else sqlite3.SQLITE_OK

    memory.set_authorizer(authorize)
    with pytest.raises(sqlite3.DatabaseError, match="prohibited"):
        rows(memory, asked)


def test_a_write_that_no_trigger_saw(tmp_path):
    """With vectors left in the source, what is read is compared with what was indexed."""
    connection = connect(tmp_path / "docs.db")
    make(connection, "IVF16,Flat")
    asked = "SELECT recall, sampled FROM faiss_recall('main', 'docs_ann', 2, 5000) WHERE nprobe = 16"
    assert rows(connection, asked) == [(1.0, 800)]
    other = plain(tmp_path / "docs.db")
    other.execute("INSERT INTO docs VALUES (9000, ?)", [vector(*range(8))])
    assert rows(connection, asked) == [(1.0, 801)]


def test_it_can_be_interrupted(memory):
    generator = numpy.random.default_rng(5)
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    memory.executemany("INSERT INTO docs(embedding) VALUES (?)",
                       [(v.tobytes(),) for v in generator.normal(size=(20000, 128)).astype("f4")])
    memory.execute("CREATE VIRTUAL TABLE docs_ann USING faiss(main, docs, index='SQ8')")
    scalar(memory, "SELECT id FROM docs_ann(zeroblob(512), 1)")
    # Whole, it takes minutes on an instrumented build.
    with database.interrupted(memory, 40), pytest.raises(sqlite3.OperationalError, match="^interrupted$"):
        rows(memory, "SELECT * FROM faiss_recall('main', 'docs_ann', 10, 10000)")
    assert len(rows(memory, "SELECT * FROM faiss_recall('main', 'docs_ann', 10, 5)")) == 1
