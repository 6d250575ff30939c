"""Searches inside larger statements: laterally, in subqueries, in views, and in statements that write."""

import itertools
import re
import sqlite3
from collections import namedtuple

import numpy
import pytest

import oracle
from database import column, plan, rows, scalar, vector
from steps import count_steps

Paper = namedtuple("Paper", "id lang year tags embedding")
QUERY = vector(1, 1)


@pytest.fixture
def papers(memory):
    """120 rows with ties, `papers_index` over them; their list."""
    random = numpy.random.default_rng(12)
    memory.execute("CREATE TABLE papers(id INTEGER PRIMARY KEY, lang TEXT, year INTEGER, tags TEXT, embedding BLOB)")
    made = []
    for id in range(1, 121):
        tags = "[" + ", ".join(f'"t{tag}"' for tag in range(6) if id % (tag + 2) == 0) + "]"
        blob = None if id % 17 == 0 else vector(*random.integers(-9, 10, 2))
        made.append(Paper(id, ("en", "de", "fr", None)[random.integers(0, 4)], 2000 + id % 7, tags, blob))
    memory.executemany("INSERT INTO papers VALUES (?, ?, ?, ?, ?)", made)
    memory.execute("CREATE TABLE languages(code TEXT PRIMARY KEY, name TEXT)")
    memory.execute("INSERT INTO languages VALUES ('en', 'English'), ('de', 'German'), ('it', 'Italian')")
    memory.execute("CREATE VIRTUAL TABLE papers_index USING faiss(main, papers)")
    return made


def near(papers, query, k=None, keep=lambda paper: True):
    """The ids of the nearest, by brute force."""
    if query is None:
        return []
    table = [(paper.id, paper.id, paper.embedding) for paper in papers if keep(paper)]
    return [id for id, _ in oracle.nearest(table, query, k)]


# --- one search for each row ----------------------------------------------------------------------


@pytest.mark.parametrize("join", ["JOIN", "CROSS JOIN", "LEFT JOIN"])
@pytest.mark.parametrize("outer", ["papers", "papers_index"])
def test_the_nearest_of_the_same_language(memory, papers, outer, join):
    found = rows(
        memory,
        f"SELECT a.id, b.id FROM {outer} a {join} papers_index b"
        " ON b.embedding MATCH a.embedding AND b.k = 2 AND b.lang = a.lang ORDER BY a.id",
    )
    expected = []
    for a in papers:
        others = near(papers, a.embedding, 2, lambda b: a.lang and b.lang == a.lang)
        if join == "LEFT JOIN" and not others and (a.embedding or outer == "papers"):
            others = [None]
        expected += [(a.id, other) for other in others]
    assert found == expected


def test_neighbours_of_neighbours(memory, papers):
    by_id = {paper.id: paper for paper in papers}
    found = rows(
        memory,
        "SELECT a.id, b.id, c.id FROM papers_index a"
        " JOIN papers_index b ON b.embedding MATCH a.embedding AND b.k = 2 AND b.lang = a.lang AND b.id <> a.id"
        " JOIN papers_index c ON c.embedding MATCH b.embedding AND c.k = 3 AND c.year > b.year"
        " WHERE a.embedding MATCH ? AND a.k = 4 AND a.lang IS NOT NULL",
        [QUERY],
    )
    expected = [
        (a, b, c)
        for a in near(papers, QUERY, 4, lambda p: p.lang)
        for b in near(papers, by_id[a].embedding, 2, lambda p: p.lang == by_id[a].lang and p.id != a)
        for c in near(papers, by_id[b].embedding, 3, lambda p: p.year > by_id[b].year)
    ]
    assert len(expected) > 12
    assert found == expected


def test_a_lateral_search_without_k(memory, papers):
    """The nearest later paper of each of some, by a correlated LIMIT and by a bound."""
    some = [paper for paper in papers if paper.embedding and paper.year == 2003]
    later = "SELECT b.id FROM papers_index b WHERE b.embedding MATCH a.embedding AND b.year > a.year"
    assert rows(memory, f"SELECT a.id, ({later} LIMIT 1) FROM papers_index a WHERE a.year = 2003 ORDER BY a.id") == [
        (a.id, near(papers, a.embedding, 1, lambda b: b.year > a.year)[0]) for a in some
    ]
    assert rows(
        memory,
        "SELECT a.id, b.id FROM papers a JOIN papers_index b ON b.embedding MATCH a.embedding"
        " AND b.year > a.year AND b.distance < 2 WHERE a.year = 2003 ORDER BY a.id, b.distance, b.id",
    ) == [
        (a.id, b)
        for a in some
        for b in near(papers, a.embedding, None, lambda b: b.year > a.year)
        if scalar(memory, "SELECT faiss_distance(embedding, ?) < 2 FROM papers WHERE id = ?", [a.embedding, b])
    ]


def test_a_vector_that_the_join_order_does_not_have_yet(memory, papers):
    """In the order that CROSS JOIN asks for there is no search."""
    with pytest.raises(sqlite3.Error):
        rows(
            memory,
            "SELECT a.id FROM papers_index b CROSS JOIN papers a ON b.embedding MATCH a.embedding AND b.k = 2",
        )


def test_the_function_laterally(memory, papers):
    found = rows(
        memory,
        "SELECT a.id, n.id FROM papers a JOIN faiss_search('main', 'papers', a.embedding, 2) n"
        " ON n.id <> a.id AND n.id BETWEEN 10 AND 90 AND n.distance < 8 WHERE a.lang = 'fr' ORDER BY a.id",
    )
    assert found == [
        (a.id, b)
        for a in papers
        if a.lang == "fr"
        for b in near(papers, a.embedding, 2, lambda b: b.id != a.id and 10 <= b.id <= 90)
        if scalar(memory, "SELECT faiss_distance(embedding, ?) < 8 FROM papers WHERE id = ?", [a.embedding, b])
    ]


@pytest.mark.parametrize(
    ("condition", "sets"),
    [("b.year = 2003", 1), ("b.lang IN ('de', 'fr') AND b.id < 100", 1), ("b.lang = a.lang", 4), ("b.year > a.year", 40)],
)
def test_sets_are_kept_between_outer_rows(memory, papers, condition, sets):
    """A filter that stays the same is answered once, one that changes is not prepared again."""
    sql = (
        "SELECT count(*) FROM (SELECT * FROM papers ORDER BY lang, id LIMIT 40 OFFSET 0) a CROSS JOIN papers_index b"
        f" WHERE b.embedding MATCH a.embedding AND b.k = 2 AND {condition}"
    )
    seen = []
    memory.set_trace_callback(seen.append)
    assert scalar(memory, sql) > 0
    memory.set_trace_callback(None)
    answered = sum(1 for line in seen if re.match(r"-- SELECT s\.\w+ FROM .* AS s WHERE 1 AND ", line))
    assert 1 <= answered <= sets


# --- searches joined with tables ------------------------------------------------------------------


@pytest.mark.parametrize("order", ["{a} JOIN {b}", "{b} JOIN {a}", "{a} CROSS JOIN {b}", "{b} CROSS JOIN {a}"])
def test_two_searches_joined_on_a_source_column(memory, papers, order):
    tables = order.format(a="papers_index x", b="papers_index y")
    other = vector(-5, 4)
    by_id = {paper.id: paper for paper in papers}
    first, second = near(papers, QUERY), near(papers, other)
    pairs = [(x, y) for x in first for y in second if by_id[x].lang and by_id[x].lang == by_id[y].lang]
    sql = (
        f"SELECT x.id, y.id FROM {tables} ON y.lang = x.lang"
        " WHERE x.embedding MATCH :q AND y.embedding MATCH :other"
    )
    found = rows(memory, sql, {"q": QUERY, "other": other})
    assert sorted(found) == sorted(pairs)
    found = rows(memory, f"{sql} ORDER BY x.distance, x.id, y.distance, y.id LIMIT 9", {"q": QUERY, "other": other})
    assert found == pairs[:9]
    if "CROSS" in order:  # k of the table read first counts first, the other's for each of its rows
        outer, inner = ("x", "y") if order.startswith("{a}") else ("y", "x")
        queries = {"x": QUERY, "y": other}
        found = rows(memory, f"{sql} AND x.k = 3 AND y.k = 3", {"q": QUERY, "other": other})
        expected = [
            {outer: a, inner: b}
            for a in near(papers, queries[outer], 3)
            for b in near(papers, queries[inner], 3, lambda p: p.lang and p.lang == by_id[a].lang)
        ]
        assert found == [(pair["x"], pair["y"]) for pair in expected]


def test_a_search_that_feeds_json_each(memory, papers):
    by_id = {paper.id: paper for paper in papers}
    sql = "SELECT n.id, j.value FROM papers_index n, json_each(n.tags) j WHERE n.embedding MATCH ? AND "
    nearest = near(papers, QUERY)

    def tags(id):
        return [f"t{tag}" for tag in range(6) if id % (tag + 2) == 0]

    pairs = [(id, tag) for id in nearest[:6] for tag in tags(id)]
    assert rows(memory, sql + "n.k = 6", [QUERY]) == pairs
    assert rows(memory, sql + "n.k = 6 AND j.value = 't1'", [QUERY]) == [pair for pair in pairs if pair[1] == "t1"]
    third = [id for id in nearest if "t1" in tags(id) and by_id[id].lang == "en"]
    assert column(memory, f"{sql}j.value = 't1' AND n.lang = 'en' ORDER BY n.distance LIMIT 4", [QUERY]) == third[:4]
    # k comes first where the column feeds the function
    assert rows(memory, sql + "n.k = 6 AND n.lang = j.value", [QUERY]) == []
    # and for each value where the function comes first
    found = rows(
        memory,
        "SELECT j.value, n.id FROM json_each('[\"de\", \"fr\"]') j JOIN papers_index n ON n.lang = j.value"
        " WHERE n.embedding MATCH ? AND n.k = 3",
        [QUERY],
    )
    assert found == [(lang, id) for lang in ("de", "fr") for id in near(papers, QUERY, 3, lambda p: p.lang == lang)]


def test_k_and_a_join_on_a_source_column(memory, papers):
    by_id = {paper.id: paper for paper in papers}
    names = {"en": "English", "de": "German"}
    each = [(names[lang], id) for lang in ("de", "en") for id in near(papers, QUERY, 3, lambda p: p.lang == lang)]
    first = [(names[by_id[id].lang], id) for id in near(papers, QUERY, 3) if by_id[id].lang in names]
    for tables in ("papers_index n JOIN languages l", "languages l JOIN papers_index n", "languages l CROSS JOIN papers_index n"):
        sql = f"SELECT l.name, n.id FROM {tables} ON l.code = n.lang WHERE n.embedding MATCH ? AND n.k = 3"
        assert sorted(rows(memory, sql, [QUERY])) == sorted(each)
    sql = "SELECT l.name, n.id FROM papers_index(?, 3) n CROSS JOIN languages l ON l.code = n.lang"
    assert rows(memory, sql, [QUERY]) == first
    sql = "SELECT l.name, n.id FROM papers_index(?, 3) n LEFT JOIN languages l ON l.code = n.lang"
    assert rows(memory, sql, [QUERY]) == [(names.get(by_id[id].lang), id) for id in near(papers, QUERY, 3)]
    sql = "SELECT l.code, n.id FROM languages l LEFT JOIN papers_index(?, 1) n ON n.lang = l.code ORDER BY l.code"
    nearest = {lang: (near(papers, QUERY, 1, lambda p: p.lang == lang) or [None])[0] for lang in ("de", "en", "it")}
    assert rows(memory, sql, [QUERY]) == list(nearest.items())


@pytest.mark.parametrize("tables", ["papers d JOIN papers_index n", "papers_index n JOIN papers d"])
@pytest.mark.parametrize("rest", ["", " AND n.lang = 'en'", " AND d.year + 0 = 2003", " ORDER BY n.distance LIMIT 3"])
def test_the_search_drives_and_the_b_tree_looks_up(memory, papers, tables, rest):
    sql = f"SELECT d.id FROM {tables} USING (id) WHERE n.embedding MATCH ?{rest}"
    search, lookup = plan(memory, sql, [QUERY])
    assert search.startswith("SCAN n VIRTUAL TABLE INDEX 3:stream")
    assert lookup.startswith("SEARCH d USING INTEGER PRIMARY KEY")
    found = near(
        papers, QUERY, 3 if "LIMIT" in rest else None,
        lambda p: (p.lang == "en" or "lang" not in rest) and (p.year == 2003 or "year" not in rest),
    )
    assert column(memory, sql, [QUERY]) == found


def test_a_left_join_is_linear_in_the_rows(memory):
    """Each row of the source is scored once, by itself."""
    sql = "SELECT d.id, n.score FROM docs d LEFT JOIN docs_index n ON n.id = d.id AND n.embedding MATCH '[0]'"
    work = []
    memory.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, lang TEXT, embedding BLOB)")
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    for count in (500, 1000, 2000, 4000):
        held = scalar(memory, "SELECT count(*) FROM docs")
        memory.executemany(
            "INSERT INTO docs(lang, embedding) VALUES ('en', ?)",
            [(vector(id) if id % 5 else None,) for id in range(held + 1, count + 1)],
        )
        expected = [(id, float(id * id) if id % 5 else None) for id in range(1, count + 1)]
        assert rows(memory, sql + " ORDER BY d.id") == expected
        assert rows(memory, sql + " AND n.lang = 'en' ORDER BY d.id") == expected
        work.append(count_steps(memory, sql))
    assert all(more < 2.5 * less for less, more in itertools.pairwise(work)), work
    assert any("4:point" in line for line in plan(memory, sql))


# --- subqueries, views, compounds -----------------------------------------------------------------


def test_correlated_subqueries(memory, papers):
    """Whether there is another paper of its language within 1.5, and how many."""
    inside = (
        "FROM papers_index b WHERE b.embedding MATCH a.embedding AND b.distance < 1.5"
        " AND b.lang = a.lang AND b.id <> a.id"
    )
    brute = (
        "FROM papers b WHERE b.embedding IS NOT NULL AND faiss_distance(a.embedding, b.embedding) < 1.5"
        " AND b.lang = a.lang AND b.id <> a.id"
    )
    for outer in ("papers", "papers_index"):
        for form in (
            "SELECT a.id FROM {0} a WHERE EXISTS (SELECT 1 {1}) ORDER BY a.id",
            "SELECT a.id FROM {0} a WHERE NOT EXISTS (SELECT 1 {1}) AND a.embedding IS NOT NULL ORDER BY a.id",
            "SELECT a.id, (SELECT count(*) {1}) FROM {0} a WHERE a.embedding IS NOT NULL ORDER BY a.id",
            "SELECT a.id FROM {0} a WHERE a.year + 1 IN (SELECT b.year {1}) ORDER BY a.id",
            "SELECT a.id, (SELECT max(b.year) {1}) AS m FROM {0} a WHERE m > 2003 ORDER BY a.id",
        ):
            found = rows(memory, form.format(outer, inside))
            assert found and found == rows(memory, form.format("papers", brute)), form


def test_common_table_expressions(memory, papers):
    nearest = near(papers, QUERY, 12, lambda p: p.lang == "en")
    for hint in ("", "MATERIALIZED ", "NOT MATERIALIZED "):
        assert column(
            memory,
            f"WITH n AS {hint}(SELECT id, year, distance FROM papers_index(:v, 12) WHERE lang = 'en')"
            " SELECT a.id FROM n a JOIN n b ON a.id = b.id WHERE b.year <> 2003 ORDER BY a.distance, a.id",
            {"v": QUERY},
        ) == [id for id in nearest if 2000 + id % 7 != 2003]
    # From each to the nearest that comes later in the table.
    path, by_id = [1], {paper.id: paper for paper in papers}
    while after := near(papers, by_id[path[-1]].embedding, 1, lambda p: p.id > path[-1]):
        path += after
    assert len(path) > 3
    assert column(
        memory,
        "WITH RECURSIVE walk(id, embedding) AS (SELECT id, embedding FROM papers WHERE id = 1 UNION ALL"
        " SELECT n.id, n.embedding FROM walk CROSS JOIN papers_index n"
        " ON n.embedding MATCH walk.embedding AND n.k = 1 AND n.id > walk.id) SELECT id FROM walk",
    ) == path


def test_views(memory, papers):
    memory.execute(
        "CREATE TEMP VIEW recent AS SELECT a.id, b.id AS near, b.distance, b.lang FROM papers a JOIN papers_index b"
        " ON b.embedding MATCH a.embedding AND b.k = 3 AND b.year >= 2004 AND b.lang IS a.lang"
    )
    memory.execute("CREATE TEMP VIEW english AS SELECT * FROM papers_index WHERE lang = 'en'")
    a = papers[29]
    assert column(memory, "SELECT near FROM recent WHERE id = 30") == near(
        papers, a.embedding, 3, lambda b: b.year >= 2004 and b.lang == a.lang
    )
    assert scalar(memory, "SELECT count(*) FROM english") == len([p for p in papers if p.lang == "en" and p.embedding])
    sql = "SELECT n.id FROM papers_index n WHERE n.embedding MATCH ? AND n.id IN (SELECT id FROM english) LIMIT 5"
    assert column(memory, sql, [QUERY]) == near(papers, QUERY, 5, lambda p: p.lang == "en")


def test_compounds(memory, papers):
    def search(lang, k):
        return near(papers, QUERY, k, lambda p: p.lang == lang)

    de, late = search("de", 8), near(papers, QUERY, 30, lambda p: p.year >= 2003)
    first = "SELECT id FROM papers_index WHERE embedding MATCH :v AND k = 8 AND lang = 'de'"
    second = "SELECT id FROM papers_index(:v, 30) WHERE year >= 2003"
    for word, expected in (
        ("UNION ALL", de + late), ("UNION", set(de) | set(late)),
        ("EXCEPT", set(de) - set(late)), ("INTERSECT", set(de) & set(late)),
    ):
        found = column(memory, f"{first} {word} {second}", {"v": QUERY})
        assert found == expected if word == "UNION ALL" else sorted(found) == sorted(expected)
    per_language = " UNION ALL ".join(
        f"SELECT * FROM (SELECT id, distance FROM papers_index WHERE embedding MATCH :v AND lang = '{lang}'"
        " ORDER BY distance LIMIT 2)" for lang in ("en", "de", "fr")
    )
    together = [id for id in near(papers, QUERY) if id in search("en", 2) + search("de", 2) + search("fr", 2)]
    assert column(memory, f"{per_language} ORDER BY distance, id", {"v": QUERY}) == together


def test_window_functions(memory, papers):
    """The three nearest of each language, and running counts."""
    sql = (
        "SELECT lang, id FROM (SELECT id, lang, distance, row_number() OVER (PARTITION BY lang ORDER BY distance, id)"
        " AS place FROM papers_index WHERE embedding MATCH ? AND year <> 2002) WHERE place <= 3 ORDER BY lang, place"
    )
    assert rows(memory, sql, [QUERY]) == [
        (lang, id)
        for lang in (None, "de", "en", "fr")
        for id in near(papers, QUERY, 3, lambda p: p.lang == lang and p.year != 2002)
    ]
    by_id = {paper.id: paper for paper in papers}
    nearest = near(papers, QUERY, 10)
    years = list(itertools.accumulate(by_id[id].year for id in nearest))
    sql = "SELECT id, sum(year) OVER (ORDER BY distance, id ROWS UNBOUNDED PRECEDING) FROM papers_index(?, 10)"
    assert rows(memory, sql, [QUERY]) == list(zip(nearest, years))


# --- statements that write ------------------------------------------------------------------------


def test_updates_of_the_column_that_is_filtered(memory, papers):
    nearest = near(papers, QUERY, 5, lambda p: p.lang == "en")
    memory.execute(
        "UPDATE papers SET lang = 'EN', year = n.k + n.score FROM papers_index n"
        " WHERE n.embedding MATCH ? AND n.k = 5 AND n.lang = 'en' AND n.id = papers.id",
        [QUERY],
    )
    assert sorted(nearest) == column(memory, "SELECT id FROM papers WHERE lang = 'EN' ORDER BY id")
    scores = dict(oracle.nearest([(p.id, p.id, p.embedding) for p in papers], QUERY))
    assert dict(rows(memory, "SELECT id, year FROM papers_index WHERE lang = 'EN'")) == {
        id: 5 + scores[id] for id in nearest
    }
    after = near(papers, QUERY, 5, lambda p: p.lang == "en" and p.id not in nearest)
    assert column(memory, "SELECT id FROM papers_index(?, 5) WHERE lang = 'en'", [QUERY]) == after


def test_deletes_and_inserts_by_a_filtered_search(memory, papers):
    gone = near(papers, QUERY, 7, lambda p: p.lang == "de" and p.year > 2001)
    memory.execute(
        "DELETE FROM papers WHERE id IN (SELECT id FROM papers_index(?, 7) WHERE lang = 'de' AND year > 2001)", [QUERY]
    )
    kept = [paper for paper in papers if paper.id not in gone]
    assert len(kept) == 113 and column(memory, "SELECT id FROM papers") == [paper.id for paper in kept]
    copied = near(kept, QUERY, 3, lambda p: p.lang == "fr")
    memory.execute(
        "INSERT INTO papers(lang, year, embedding) SELECT 'it', n.year, n.embedding FROM papers_index n"
        " WHERE n.embedding MATCH ? AND n.lang = 'fr' ORDER BY n.distance LIMIT 3",
        [QUERY],
    )
    assert column(memory, "SELECT id FROM papers_index(?) WHERE lang = 'it'", [QUERY]) == [121, 122, 123]
    assert column(memory, "SELECT year FROM papers_index(?) WHERE lang = 'it'", [QUERY]) == [
        2000 + id % 7 for id in copied
    ]
    memory.execute(
        "DELETE FROM papers AS d WHERE EXISTS (SELECT 1 FROM papers_index n"
        " WHERE n.embedding MATCH d.embedding AND n.lang = 'it' AND n.distance = 0 AND n.id <> d.id)"
    )
    left = [paper for paper in kept if paper.embedding not in {p.embedding for p in kept if p.id in copied}]
    assert set(column(memory, "SELECT id FROM papers")) - {121, 122, 123} == {p.id for p in left}
