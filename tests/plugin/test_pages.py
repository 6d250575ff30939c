"""The pages over HTTP: cells, similar rows, searches, filters, JSON, permissions."""

import contextlib
import html
import json
import re
import shutil
import urllib.parse

import numpy
import pytest

import database
from instances import (
    VERSIONS,
    make_blog,
    nearest,
    read_vectors,
    serve,
    vectors,
    write_configuration,
)

ODD_TABLE = "a/b.c ~ d"
ODD_COLUMN = "the vector"


def make_files(directory):
    """blog.db, and a file and tables with names that an address cannot hold as they are."""
    blog = make_blog(directory / "blog.db")
    with contextlib.closing(database.connect(blog)) as db:
        db.execute("CREATE VIRTUAL TABLE embeddings_index USING faiss(main, embeddings)")
        db.execute("CREATE TABLE raw(id INTEGER PRIMARY KEY, embedding BLOB)")
        db.execute("INSERT INTO raw VALUES (1, X'0000803F')")
        db.execute("CREATE VIEW recent AS SELECT * FROM embeddings WHERE year >= 2010")
        db.execute("CREATE VIRTUAL TABLE recent_index USING faiss(main, recent, metric=cosine)")
    odd = directory / "my data.v1.db"
    with contextlib.closing(database.connect(odd)) as db:
        db.execute(f'CREATE TABLE "{ODD_TABLE}"(slug TEXT PRIMARY KEY, "{ODD_COLUMN}" BLOB)')
        db.executemany(
            f'INSERT INTO "{ODD_TABLE}" VALUES (?, ?)',
            [(f"x/{id}, ~y", vector.tobytes()) for id, vector in enumerate(vectors(40, seed=4))],
        )
        db.execute(
            f'CREATE VIRTUAL TABLE odd_index USING faiss(main, "{ODD_TABLE}", id=slug,'
            f' embedding="{ODD_COLUMN}")'
        )
        db.execute(
            "CREATE TABLE pairs(a INTEGER, b TEXT, embedding BLOB, PRIMARY KEY (a, b))"
            " WITHOUT ROWID"
        )
        db.executemany(
            "INSERT INTO pairs VALUES (?, ?, ?)",
            [(id % 5, f"b{id}", vector.tobytes()) for id, vector in enumerate(vectors(40, seed=5))],
        )
        db.execute("CREATE VIRTUAL TABLE pairs_index USING faiss(main, pairs, id=b)")
        db.execute("CREATE TABLE loose(name TEXT, embedding BLOB)")
        db.executemany(
            "INSERT INTO loose VALUES (?, ?)",
            [(f"n{id}", vector.tobytes()) for id, vector in enumerate(vectors(20, seed=6))],
        )
        db.execute("CREATE VIRTUAL TABLE loose_index USING faiss(main, loose, metric=ip)")
    return blog, odd


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module", params=VERSIONS)
def site(request, files, tmp_path_factory):
    with serve(request.param, tmp_path_factory.mktemp("site"), *files) as server:
        yield server


@pytest.fixture(scope="module")
def posts(files):
    return read_vectors(files[0])


ODD = "/-/faiss/my+data~2Ev1/a~2Fb~2Ec+~7E+d"


def words(page):
    """The text of a page, on one line."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


# ---- cells ----


def test_vectors_are_shown_by_their_first_numbers(site, posts):
    page = site.page("/blog/embeddings?_size=2")
    numbers = ", ".join(f"{number:.3g}" for number in posts[0][1][:3])
    assert f"[{numbers}, …] 8 dimensions" in words(page)
    assert "Binary" not in page
    link = re.search(r'href="([^"]*/1\.blob\?_blob_column=embedding)"', page)
    assert site.get(link[1])[0] == 200


@pytest.mark.parametrize("path", ["/blog/embeddings/7", "/blog/embeddings_index"])
def test_vectors_elsewhere(site, path):
    assert "8 dimensions" in words(site.page(path))


def test_blobs_of_other_tables_stay_as_they_are(site):
    assert "Binary:" in site.page("/blog/raw")


def test_vectors_in_json_stay_whole(site, posts):
    (row,) = site.json("/blog/embeddings.json?_shape=array&id=1")
    assert row["embedding"]["$base64"] is True


# ---- hidden tables ----


def test_logs_and_definitions_are_hidden(site):
    tables = {table["name"]: table for table in site.json("/blog.json")["tables"]}
    hidden = {name for name, table in tables.items() if table["hidden"]}
    assert {"embeddings_faiss_log", "embeddings_index_config", "recent_index_config"} <= hidden
    assert not {"embeddings", "embeddings_index", "raw"} & hidden


def test_tables_made_while_the_server_runs_are_hidden_too(site, files, tmp_path):
    file = shutil.copy(files[0], tmp_path / "later.db")
    with serve(site.version, tmp_path / "server", file) as server:
        with contextlib.closing(database.connect(file, timeout=300)) as db:
            db.execute("CREATE VIRTUAL TABLE later_index USING faiss(main, raw)")

        def hidden():
            found = server.json("/later.json")["tables"]
            return {table["name"] for table in found if table["hidden"]}

        from instances import wait_until

        wait_until(lambda: {"raw_faiss_log", "later_index_config"} <= hidden(), 10, hidden)


# ---- similar rows ----


def test_similar_rows_on_the_page_of_a_row(site, posts):
    page = site.page("/blog/embeddings/7")
    section = page[page.index('class="faiss-similar"') :]
    linked = [int(id) for id in re.findall(r'<li><a href="/blog/embeddings/(\d+)"', section)]
    assert linked == nearest(posts, dict(posts)[7], 6)[1:]
    assert re.search(r"Post \d+ distance [0-9.]+, score [0-9.]+", words(section))
    assert "/-/faiss/blog/embeddings?like=7" in section


def test_no_similar_rows_where_nothing_is_indexed(site):
    assert "Similar rows" not in site.page("/blog/raw/1")


def test_actions_of_tables_and_rows(site):
    assert 'href="/-/faiss/blog/embeddings"' in site.page("/blog/embeddings")
    assert "/-/faiss/blog/raw" not in site.page("/blog/raw")
    page = site.page("/blog/embeddings/7")
    menu = re.search(r'<a href="/-/faiss/blog/embeddings\?like=7" role="menuitem"', page)
    assert bool(menu) == (site.version == "1.0")


# ---- the overview ----


def test_overview(site):
    answer = site.json("/-/faiss.json")
    found = {(table["database"], table["table"]): table for table in answer["tables"]}
    assert answer["ok"] and set(found) == {
        ("blog", "embeddings"),
        ("blog", "recent"),
        ("my data.v1", ODD_TABLE),
        ("my data.v1", "pairs"),
        ("my data.v1", "loose"),
    }
    assert found["blog", "recent"]["metric"] == "cosine"
    page = site.page("/-/faiss")
    assert f'href="{ODD}"' in page and 'href="/-/faiss"' in site.page("/")


# ---- searches ----


def ids(answer):
    return [row["values"]["id"] for row in answer["rows"]]


def test_like_a_row(site, posts):
    answer = site.json("/-/faiss/blog/embeddings.json?like=7&k=5")
    assert ids(answer) == nearest(posts, dict(posts)[7], 6)[1:]
    query = dict(posts)[7].astype("float64")
    for row in answer["rows"]:
        score = float(((dict(posts)[row["values"]["id"]] - query) ** 2).sum())
        assert row["score"] == pytest.approx(score, rel=1e-5)
        assert row["distance"] == pytest.approx(score**0.5, rel=1e-5)
        assert row["href"] == f"/blog/embeddings/{row['path']}"
    assert answer["like"]["label"] == "Post 7" and "embedding" not in answer["like"]["values"]
    index = answer["index"]
    assert (index["rows"], index["dimension"], index["metric"]) == (300, 8, "l2")
    assert index["bytes"] > 300 * 32 and index["build_seconds"] >= 0


def test_like_a_row_by_its_label(site, posts):
    answer = site.json("/-/faiss/blog/embeddings.json", like="Post 12", k=3)
    assert ids(answer) == nearest(posts, dict(posts)[12], 4)[1:]


@pytest.mark.parametrize("form", ["json", "plain", "lines"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_a_pasted_vector(site, posts, form, method):
    query = vectors(1, seed=9)[0]
    text = {
        "json": json.dumps([float(number) for number in query]),
        "plain": ", ".join(str(float(number)) for number in query),
        "lines": "\n".join(str(float(number)) for number in query),
    }[form]
    path = "/-/faiss/blog/embeddings.json"
    if method == "get":
        answer = site.json(path, vector=text, k=4)
    else:
        answer = site.json(path, posted={"vector": text, "k": "4"})
    assert ids(answer) == nearest(posts, query, 4) and answer["like"] is None


def test_the_form_for_a_vector(site, posts):
    """As a browser sends it: with the token that 0.65 wants."""
    page = site.page("/-/faiss/blog/embeddings?lang=de")
    form = page[page.index('<form class="faiss-form" method="post"') :]
    fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form))
    query = vectors(1, seed=9)[0]
    fields["vector"] = json.dumps([float(number) for number in query])
    answer = site.page("/-/faiss/blog/embeddings", posted=fields)
    german = [(id, vector) for id, vector in posts if id % 3 == 1]
    shown = [int(id) for id in re.findall(r'<a href="/blog/embeddings/(\d+)">Post', answer)]
    assert shown == nearest(german, query, 10)


@pytest.mark.parametrize(
    ("filters", "keep"),
    [
        ({"lang": "de"}, lambda id: id % 3 == 1),
        ({"year__gte": "2015", "lang__not": "en"}, lambda id: id % 20 >= 15 and id % 3 != 0),
        ({"title__contains": "9"}, lambda id: "9" in str(id)),
        ({"id__in": "3,4,5"}, lambda id: id in (3, 4, 5)),
    ],
)
def test_filters(site, posts, filters, keep):
    answer = site.json("/-/faiss/blog/embeddings.json", like="7", k=10, **filters)
    kept = [(id, vector) for id, vector in posts if keep(id) and id != 7]
    assert ids(answer) == nearest(kept, dict(posts)[7], 10)


def test_filters_of_the_form_become_addresses(site):
    page = site.page(
        "/-/faiss/blog/embeddings?like=7&_filter_column_1=lang&_filter_op_1=exact&_filter_value_1=de"
    )
    assert 'Nearest to Post 7 where lang = "de"' in words(page)
    assert "<option selected>lang</option>" in page


def test_a_page_of_results(site, posts):
    page = site.page("/-/faiss/blog/embeddings?like=7&k=4")
    linked = re.findall(r'<th scope="row"[^>]*><a href="/blog/embeddings/(\d+)">', page)
    assert [int(id) for id in linked] == nearest(posts, dict(posts)[7], 5)[1:]
    text = words(page)
    for fact in "Rows 300", "Dimensions 8", "Metric l2", "Index Flat", "Memory", "Built in":
        assert fact in text
    assert re.search(r'href="/-/faiss/blog/embeddings\?like=\d+&amp;k=4"', page)
    assert "http://" not in re.sub(r"http://127\.0\.0\.1:\d+", "", page).replace(
        "http://www.w3.org", ""
    )


def test_names_that_need_escapes(site, files):
    rows = read_vectors(files[1], ODD_TABLE, "slug", ODD_COLUMN)
    slug, query = rows[11]
    expected = nearest(rows, query, 4)[1:]
    page = site.page(ODD.removeprefix("/-/faiss") + "/" + tilde(slug))
    path = re.search(rf"{re.escape(ODD)}\?like=([^&\"]+)", page)[1]
    for like in path, urllib.parse.quote(slug):
        answer = site.json(f"{ODD}.json?k=3&like={like}")
        assert [row["values"]["slug"] for row in answer["rows"]] == expected
        assert site.get(f"{ODD}?like={like}")[0] == 200
    for row in answer["rows"]:
        assert site.get(row["href"])[0] == 200


def tilde(text):
    return "".join(
        character
        if character.isalnum() or character in "_-"
        else "+"
        if character == " "
        else "".join(f"~{byte:02X}" for byte in character.encode())
        for character in text
    )


def test_a_table_without_a_rowid_and_with_two_keys(site, files):
    rows = read_vectors(files[1], "pairs", "b")
    answer = site.json("/-/faiss/my+data~2Ev1/pairs.json?like=2,b7&k=4")
    assert [row["values"]["b"] for row in answer["rows"]] == nearest(rows, dict(rows)["b7"], 5)[1:]
    assert all(site.get(row["href"])[0] == 200 for row in answer["rows"])


def test_a_table_without_a_key(site, files):
    rows = read_vectors(files[1], "loose", "name")
    answer = site.json("/-/faiss/my+data~2Ev1/loose.json?like=5&k=4")
    expected = nearest([row for row in rows if row[0] != "n4"], dict(rows)["n4"], 4, "ip")
    assert [row["values"]["name"] for row in answer["rows"]] == expected
    assert answer["rows"][0]["score"] == pytest.approx(
        float(numpy.dot(dict(rows)[expected[0]].astype("f8"), dict(rows)["n4"])), rel=1e-5
    )
    assert all(site.get(row["href"])[0] == 200 for row in answer["rows"])


def test_a_view(site, posts):
    recent = [(id, vector) for id, vector in posts if id % 20 >= 10]
    query = vectors(1, seed=9)[0]
    text = json.dumps([float(number) for number in query])
    answer = site.json("/-/faiss/blog/recent.json", vector=text, k=5, lang="de")
    german = [(id, vector) for id, vector in recent if id % 3 == 1]
    assert ids(answer) == nearest(german, query, 5, "cosine")
    assert [row["href"] for row in answer["rows"]] == [None] * 5
    assert site.get("/-/faiss/blog/recent", vector=text)[0] == 200


# ---- mistakes ----


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"like": "9999"}, "no row of embeddings is 9999"),
        ({"like": "7", "k": "0"}, "k must be a whole number from 1 to 1000, not 0"),
        ({"like": "7", "k": "ten"}, "k must be a whole number from 1 to 1000, not ten"),
        ({"vector": "[1, 2]"}, "the query vector has 2 dimensions: main.embeddings has 8"),
        ({"vector": "one, two"}, "malformed JSON"),
        ({"like": "7", "colour": "red"}, "embeddings has no column colour to filter by"),
        ({"like": "7", "lang__near": "de"}, "unknown comparison near"),
        ({"like": "7", 'lang" = 1 or "lang': "de"}, "has no column"),
    ],
)
def test_a_mistake_is_explained(site, parameters, message):
    status, body = site.get("/-/faiss/blog/embeddings.json", **parameters)
    assert status == 400
    assert message in json.loads(body)["error"]
    status, body = site.get("/-/faiss/blog/embeddings", **parameters)
    assert status == 400 and message in words(body)


@pytest.mark.parametrize(
    "path",
    [
        "/-/faiss/blog/raw",
        "/-/faiss/blog/nothing",
        "/-/faiss/nothing/embeddings",
        "/-/faiss/blog/embeddings_faiss_log",
    ],
)
def test_there_is_no_page(site, path):
    assert site.get(path)[0] == 404
    assert site.get(path + ".json")[0] == 404
    assert site.get(path + "/map.json")[0] == 404


# ---- permissions ----

PRIVATE = {"databases": {"blog": {"tables": {"embeddings": {"allow": {"id": "root"}}}}}}


@pytest.fixture(scope="module", params=VERSIONS)
def private_site(request, files, tmp_path_factory):
    directory = tmp_path_factory.mktemp("private")
    option = write_configuration(directory, request.param, PRIVATE)
    with serve(request.param, directory, files[0], *option) as server:
        yield server


@pytest.mark.parametrize(
    "path",
    [
        "/-/faiss/blog/embeddings",
        "/-/faiss/blog/embeddings.json?like=7",
        "/-/faiss/blog/EMBEDDINGS.json?like=7",
        "/-/faiss/blog/embeddings/map.json",
        "/blog/embeddings/7",
        # The faiss table and its log tell of the rows, too.
        "/blog/embeddings_index",
        "/blog/embeddings_index/7.json",
        "/blog/embeddings_faiss_log.json",
        "/blog/embeddings_index_config",
    ],
)
def test_what_may_not_be_seen(private_site, path):
    status, body = private_site.get(path)
    assert status == 403 and "Post 7" not in body


def test_other_tables_may(private_site):
    assert private_site.get("/blog/raw")[0] == 200
    tables = private_site.json("/-/faiss.json")["tables"]
    assert [table["table"] for table in tables] == ["recent"]
