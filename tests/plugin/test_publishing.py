"""Configured tables are searched by their Datasette names, from every database, and no other is."""

import contextlib
import json
import re
import signal
import sqlite3

import numpy
import pytest

import database
from instances import (
    VERSIONS,
    configured,
    make_blog,
    nearest,
    read_vectors,
    run_to_end,
    serve,
    vectors,
    wait_until,
    write_configuration,
)

ODD = "odd name.v1"


def make_files(directory):
    """blog.db, another blog.db (blog_2 to Datasette), one with an odd name, one immutable."""
    files = {
        "blog": make_blog(directory / "blog.db", seed=1),
        "blog_2": make_blog(directory / "other" / "blog.db", seed=2),
        ODD: make_blog(directory / f"{ODD}.db", count=50, seed=3, table="the rows"),
    }
    archive = directory / "archive.db"
    with contextlib.closing(sqlite3.connect(archive)) as db, db:
        db.execute("CREATE TABLE papers(slug TEXT PRIMARY KEY, vec BLOB)")
        db.executemany(
            "INSERT INTO papers VALUES (?, ?)",
            [(f"paper-{id}", vector.tobytes()) for id, vector in enumerate(vectors(60, seed=4))],
        )
        db.execute("CREATE TABLE secret(id INTEGER PRIMARY KEY, embedding BLOB)")
        db.execute("INSERT INTO secret VALUES (1, ?)", [vectors(1)[0].tobytes()])
        db.execute("CREATE TABLE empty(id INTEGER PRIMARY KEY, embedding BLOB)")
    return {**files, "archive": archive}


TABLES = configured(
    ["blog", "embeddings"],
    ["blog_2", "embeddings"],
    [ODD, "the rows"],
    ["archive", "empty"],
    {
        "database": "archive",
        "table": "papers",
        "id": "slug",
        "embedding": "vec",
        "metric": "cosine",
    },
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return make_files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module", params=VERSIONS)
def site(request, files, tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    option = write_configuration(directory, request.param, TABLES, "yml")
    arguments = [*list(files.values())[:3], "--immutable", files["archive"], "--memory"]
    with serve(request.param, directory, *arguments, *option) as server:
        yield server


def blob(vector):
    return f"X'{numpy.asarray(vector, '<f4').tobytes().hex()}'"


QUERY = vectors(1, seed=9)[0]
EVERYWHERE = ["blog", "blog_2", "odd+name~2Ev1", "archive", "_memory"]


@pytest.mark.parametrize("here", EVERYWHERE)
def test_every_configured_table_from_every_database(site, files, here):
    for name, table in [("blog", "embeddings"), ("blog_2", "embeddings"), (ODD, "the rows")]:
        ((ids,),) = site.query(
            here,
            f"select faiss_search(:database, :table, {blob(QUERY)}, 7)",
            database=name,
            table=table,
        )
        assert json.loads(ids) == nearest(read_vectors(files[name], table), QUERY, 7)
    found = site.query(
        here, f"select id, score from faiss_search('archive', 'papers', {blob(QUERY)}, 4)"
    )
    papers = read_vectors(files["archive"], "papers", "slug", "vec")
    assert [id for id, _ in found] == nearest(papers, QUERY, 4, "cosine")
    vector = dict(papers)[found[0][0]].astype("f8")
    query = QUERY.astype("f8")
    cosine = vector @ query / numpy.linalg.norm(vector) / numpy.linalg.norm(query)
    assert found[0][1] == pytest.approx(cosine, abs=1e-6)
    assert site.query(here, f"select faiss_search('archive', 'empty', {blob(QUERY)}, 4)") == [
        ("[]",)
    ]


@pytest.mark.parametrize("here", ["blog", "_memory"])
@pytest.mark.parametrize(
    ("name", "table"),
    [("archive", "secret"), ("archive", "sqlite_master"), ("blog_3", "embeddings"), ("", "papers")],
)
def test_nothing_else_is_reachable(site, here, name, table):
    message = site.refusal(
        here,
        f"select faiss_search(:database, :table, {blob(QUERY)}, 1)",
        database=name,
        table=table,
    )
    assert "no such" in message or "is not published" in message


@pytest.mark.parametrize("call", ["faiss_publish('x', 'embeddings')", "faiss_unpublish('blog')"])
def test_visitors_cannot_publish(site, call):
    assert "no such function" in site.refusal("blog", f"select {call}")


def test_an_unconfigured_table_is_searched_in_its_own_database(site):
    vector = vectors(1)[0]
    for name in "archive", "main":
        assert site.query(
            "archive", f"select faiss_search('{name}', 'secret', {blob(vector)}, 1)"
        ) == [("[1]",)]


def test_the_log_tells_what_was_indexed(site):
    for line in (
        r"blog\.embeddings: indexing 300 rows",
        r"blog\.embeddings: indexed 300 rows of 8 dimensions, [0-9.]+ MB, in [0-9.]+ s",
        r"blog_2\.embeddings: indexed 300 rows",
        r"archive\.papers: indexed 60 rows",
        r"archive\.empty: no rows yet",
    ):
        wait_until(lambda: re.search(line, site.log.read_text()), 30, site.log.read_text)


def test_the_overview_shows_them(site):
    found = {
        (table["database"], table["table"]): table for table in site.json("/-/faiss.json")["tables"]
    }
    assert set(found) == {
        ("blog", "embeddings"),
        ("blog_2", "embeddings"),
        (ODD, "the rows"),
        ("archive", "papers"),
        ("archive", "empty"),
    }
    papers = found["archive", "papers"]
    assert (papers["rows"], papers["metric"], papers["published"]) == (60, "cosine", True)
    assert papers["state"] == "ready"


def test_pages_of_configured_tables(site, files):
    answer = site.json("/-/faiss/archive/papers.json?like=paper-5&k=3")
    papers = read_vectors(files["archive"], "papers", "slug", "vec")
    expected = nearest(papers, dict(papers)["paper-5"], 4, "cosine")[1:]
    assert [row["values"]["slug"] for row in answer["rows"]] == expected
    answer = site.json("/-/faiss/blog_2/embeddings.json?like=5&k=3&lang=en")
    posts = read_vectors(files["blog_2"])
    english = [(id, vector) for id, vector in posts if id % 3 == 0]
    assert [row["values"]["id"] for row in answer["rows"]] == nearest(english, dict(posts)[5], 3)
    answer = site.json("/-/faiss/odd+name~2Ev1/the+rows.json?like=5&k=3")
    assert len(answer["rows"]) == 3 and answer["rows"][0]["href"].startswith(
        "/odd+name~2Ev1/the+rows/"
    )
    assert site.get("/-/faiss/archive/empty")[0] == 200


def test_the_examples_of_the_reference(site, files):
    """The queries in the README of datasette-faiss, its four functions and two aggregates."""
    posts = read_vectors(files["blog"])
    expected = nearest(posts, dict(posts)[3], 5)
    third = "(select embedding from embeddings where id = 3)"
    assert site.query("blog", f"select faiss_search('blog', 'embeddings', {third}, 5)") == [
        (json.dumps(expected),)
    ]
    ((pairs,),) = site.query(
        "blog", f"select faiss_search_with_scores('blog', 'embeddings', {third}, 5)"
    )
    assert [id for id, _ in json.loads(pairs)] == expected and json.loads(pairs)[0] == [3, 0.0]
    related = site.query(
        "blog",
        "with related as (select value from json_each(faiss_search('blog', 'embeddings',"
        " (select embedding from embeddings limit 1), 5)))"
        " select id from embeddings, related where id = value",
    )
    assert {id for (id,) in related} == set(nearest(posts, dict(posts)[1], 5))
    assert site.query("blog", "select hex(faiss_encode('[2.4, 4.1, 1.8]'))") == [
        ("9A991940333383406666E63F",)
    ]
    assert site.query("blog", "select faiss_decode(X'9A991940333383406666E63F')") == [
        ("[2.4000000953674316, 4.099999904632568, 1.7999999523162842]",)
    ]
    ((ids, scores),) = site.query(
        "blog",
        f"select faiss_agg(id, embedding, {third}, 5),"
        f" faiss_agg_with_scores(id, embedding, {third}, 5)"
        " from embeddings",
    )
    assert json.loads(ids) == expected and [id for id, _ in json.loads(scores)] == expected


def test_changes_are_seen_from_everywhere(site, files):
    sql = f"select faiss_search('blog', 'embeddings', {blob(QUERY)}, 1)"
    before = [site.query(here, sql) for here in EVERYWHERE]
    with contextlib.closing(sqlite3.connect(files["blog"])) as db, db:
        db.execute("INSERT INTO embeddings VALUES (9000, 'new', 'en', 2026, ?)", [QUERY.tobytes()])
    assert [site.query(here, sql) for here in EVERYWHERE] == [[("[9000]",)]] * 5
    with contextlib.closing(sqlite3.connect(files["blog"])) as db, db:
        db.execute("DELETE FROM embeddings WHERE id = 9000")
    assert [site.query(here, sql) for here in EVERYWHERE] == before


# ---- what may go wrong while it runs ----


@pytest.mark.parametrize("version", VERSIONS)
def test_a_malformed_row_is_told_and_the_server_lives(version, tmp_path):
    blog = make_blog(tmp_path / "blog.db", count=20)
    with contextlib.closing(sqlite3.connect(blog)) as db, db:
        db.execute("INSERT INTO embeddings(id, embedding) VALUES (99, X'00')")
    option = write_configuration(tmp_path, version, configured(["blog", "embeddings"]))
    with serve(version, tmp_path / "server", blog, *option) as server:
        server.wait_for_log("blog.embeddings: not indexed: row with id 99 of")
        (table,) = server.json("/-/faiss.json")["tables"]
        assert table["state"] == "failed" and "row with id 99" in table["error"]
        message = server.refusal(
            "blog", f"select faiss_search('blog', 'embeddings', {blob(QUERY)}, 1)"
        )
        assert "row with id 99" in message
        with contextlib.closing(sqlite3.connect(blog)) as db, db:
            db.execute("DELETE FROM embeddings WHERE id = 99")
        assert server.query("blog", f"select faiss_search('blog', 'embeddings', {blob(QUERY)}, 1)")
        (table,) = server.json("/-/faiss.json")["tables"]
        assert (table["state"], table["error"]) == ("ready", None)


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A table whose index takes longer to build than the limit of the server below."""
    path = tmp_path_factory.mktemp("long") / "long.db"
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        # To read the open one takes several times the limit on any machine.
        for table, count in {"listed": 200_000, "open": 500_000}.items():
            db.execute(f"CREATE TABLE {table}(id INTEGER PRIMARY KEY, embedding BLOB)")
            db.executemany(
                f"INSERT INTO {table} VALUES (?, ?)",
                [(id, vector.tobytes()) for id, vector in enumerate(vectors(count, 8), 1)],
            )
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_the_time_limit(version, long, tmp_path):
    """A visitor's search is interrupted, the next ones go on with the index, the server lives."""
    option = write_configuration(tmp_path, version, configured(["long", "listed"]))
    limit = ["--setting", "sql_time_limit_ms", "40", "--memory"]
    vector = vectors(200_000, 8)[0]

    def interruptions(database, table):
        """How often a search is interrupted until it succeeds."""
        path = f"/{database}.json" if version == "0.65" else f"/{database}/-/query.json"
        sql = f"select faiss_search('long', '{table}', {blob(vector)}, 1) as ids"
        for count in range(5000):
            status, body = server.get(path, sql=sql, _shape="array")
            if status == 200:
                assert json.loads(body)[0]["ids"] == "[1]"
                return count
            assert status == 400 and "took too long" in body, body
        pytest.fail("the index is never finished")

    with serve(version, tmp_path / "server", long, *option, *limit) as server:
        server.wait_for_log("long.listed: indexed 200,000 rows")
        interruptions("_memory", "listed")
        interruptions("long", "listed")
        # Nobody has built this one beforehand.
        assert interruptions("long", "open") > 0
        # Longer than any limit, whatever is indexed.
        message = server.refusal(
            "long",
            "select sum(n.distance) from listed as l join faiss_search('long', 'listed',"
            " l.embedding, 1000) as n",
        )
        assert "took too long" in message
        assert server.get("/-/faiss/long/listed.json?like=1")[0] in (200, 503)


ADD = """
from datasette import hookimpl
from datasette.database import Database
from datasette.utils.asgi import Response

@hookimpl
def register_routes():
    async def add(datasette, request):
        datasette.add_database(Database(datasette, path=request.args["file"], is_mutable=True))
        return Response.text("added")
    return [(r"^/-/add$", add)]
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_databases_added_while_it_runs(version, tmp_path):
    blog = make_blog(tmp_path / "blog.db", count=30, seed=1)
    later = make_blog(tmp_path / "later.db", count=30, seed=2)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "add.py").write_text(ADD)
    tables = configured(
        ["blog", "embeddings"],
        {"database": "later", "table": "embeddings", "added_later": True},
    )
    option = write_configuration(tmp_path, version, tables)
    with serve(version, tmp_path / "server", blog, "--plugins-dir", plugins, *option) as server:
        search = f"select faiss_search(:database, 'embeddings', {blob(QUERY)}, 3)"
        assert "no such database: later" in server.refusal("blog", search, database="later")
        assert server.page("/-/add", file=str(later)) == "added"
        assert server.get("/later")[0] == 200
        server.wait_for_log("later.embeddings: indexed 30 rows")
        for here in "blog", "later":
            for name, file in ("blog", blog), ("later", later):
                ((ids,),) = server.query(here, search, database=name)
                assert json.loads(ids) == nearest(read_vectors(file), QUERY, 3)
        assert len(server.json("/-/faiss/later/embeddings.json?like=3&k=2")["rows"]) == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_what_visitors_may_build_is_bounded(version, tmp_path):
    blog = make_blog(tmp_path / "blog.db")
    with contextlib.closing(sqlite3.connect(blog)) as db, db:
        db.execute("CREATE TABLE big AS SELECT id, randomblob(8192) AS embedding FROM embeddings")
        db.execute("UPDATE big SET embedding = zeroblob(8192)")
    tables = configured(["blog", "embeddings"], max_build_mb=1)
    option = write_configuration(tmp_path, version, tables)
    with serve(version, tmp_path / "server", blog, *option) as server:
        message = server.refusal("blog", "select faiss_search('blog', 'big', zeroblob(8192), 1)")
        assert "tables that are not published" in message
        assert server.query("blog", f"select faiss_search('blog', 'embeddings', {blob(QUERY)}, 1)")


@pytest.mark.parametrize("version", VERSIONS)
def test_beside_load_extension(version, tmp_path):
    """People who load the extension by hand as well."""
    blog = make_blog(tmp_path / "blog.db", count=20)
    option = write_configuration(tmp_path, version, configured(["blog", "embeddings"]))
    extension = ["--load-extension", database.EXTENSION]
    status, output = run_to_end(
        version,
        tmp_path,
        blog,
        *option,
        *extension,
        "--get",
        "/-/faiss/blog/embeddings.json?like=3",
    )
    assert status == 0 and '"ok": true' in output


MEMORY = """
from datasette import hookimpl

@hookimpl
def startup(datasette):
    async def make():
        db = datasette.add_memory_database("notes")
        await db.execute_write("create table embeddings(id integer primary key, embedding blob)")
        await db.execute_write("insert into embeddings values (1, X'0000803F'), (2, X'00000040')")
    return make
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_in_memory(version, tmp_path):
    """Made by another plugin at start-up, which this one waits for."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "notes.py").write_text(MEMORY)
    arguments = ["--memory", "--plugins-dir", plugins]
    option = write_configuration(tmp_path, version, configured(["notes", "embeddings"]))
    status, output = run_to_end(version, tmp_path, *arguments, *option, "--get", "/")
    assert status != 0
    assert "tables[0]: notes is a database in memory: only tables of files can be listed" in output
    sql = "select+faiss_search('main','embeddings','[2]',5)"
    path = f"/notes.json?sql={sql}&_shape=arrayfirst"
    if version == "1.0":
        path = path.replace("/notes.json", "/notes/-/query.json")
    status, output = run_to_end(version, tmp_path, *arguments, "--get", path)
    assert (status, output.strip()) == (0, '["[2, 1]"]')


@pytest.mark.parametrize("version", VERSIONS)
def test_the_server_ends_while_it_indexes(version, long, tmp_path):
    tables = configured(["long", "listed"], ["long", "open"])
    option = write_configuration(tmp_path, version, tables)
    with contextlib.suppress(AssertionError):
        with serve(version, tmp_path / "server", long, *option) as server:
            server.process.send_signal(signal.SIGINT)
            server.process.wait(timeout=300)
    # Not by a crash: 0.65 ends by the signal, 1.0 says "Aborted!".
    assert server.process.returncode in (0, 1, -signal.SIGINT), server.process.returncode
    assert "Traceback" not in server.log.read_text()
