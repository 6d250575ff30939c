"""A real Datasette serving the example database, asked over HTTP."""

import contextlib
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest

import database
import oracle
from database import rows, scalar

EXAMPLE = database.ROOT / "examples" / "packages"
THREADS = 8
QUESTION = "nearest neighbour search of vectors"
SECONDS_TO_START = 300


# The server


class Server:
    def __init__(self, url, log):
        self.url = url
        self.log = log

    def log_end(self):
        return self.log.read_text()[-5000:]

    def get(self, path, **parameters):
        """Status and body of a page."""
        url = self.url + path
        if parameters:
            url += "?" + urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(url, timeout=300) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            raise AssertionError(f"{path}: {error}\n{self.log_end()}") from error

    def query(self, sql, **parameters):
        """The rows of a statement."""
        status, body = self.get("/packages.json", sql=sql, _shape="arrays", **parameters)
        assert status == 200, f"{sql}\n{status}: {body}\n{self.log_end()}"
        return [tuple(row) for row in json.loads(body)["rows"]]

    def refusal(self, sql, **parameters):
        """The message of a statement that must fail: as the caller's error, in JSON."""
        status, body = self.get("/packages.json", sql=sql, _shape="arrays", **parameters)
        assert status == 400, f"{sql}\n{status}: {body}\n{self.log_end()}"
        answer = json.loads(body)
        assert answer["ok"] is False
        return answer["error"]


@contextlib.contextmanager
def serve(log, *arguments):
    """Datasette with these arguments on a port of its own, until the block ends."""
    command = [
        *(sys.executable, "-m", "datasette", "serve", *map(str, arguments)),
        *("--host", "127.0.0.1", "--port", "0"),  # port 0: whichever is free
        # Datasette's own three threads would not let eight requests search at once, and its limit
        # of one second is about the machine, not about this extension.
        *("--setting", "num_sql_threads", str(THREADS), "--setting", "sql_time_limit_ms", "120000"),
    ]
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            command, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        ) as process,
    ):
        try:
            yield Server(url_when_ready(process, log), log)
            assert process.poll() is None, f"Datasette ended by itself\n{log.read_text()}"
        finally:
            process.kill()


def url_when_ready(process, log):
    """The address that the server says it listens on, once it answers there."""
    deadline = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        running = re.search(r"Uvicorn running on (http://[0-9.]+:[0-9]+)", log.read_text())
        if running:
            return running[1]
        time.sleep(0.05)
    pytest.fail(f"Datasette does not run: {process.args}\n{log.read_text()}")


@pytest.fixture(scope="module")
def packages_db(tmp_path_factory):
    """The example database with its index, in a directory of its own."""
    out = tmp_path_factory.mktemp("datasette") / "packages.db"
    subprocess.run([sys.executable, EXAMPLE / "build_db.py", out], check=True)
    with contextlib.closing(database.connect(out)) as connection:
        connection.execute("CREATE VIRTUAL TABLE packages_index USING faiss(main, packages)")
    return out


# How a file is given to Datasette. The first is what the README says; the other names the file
# as one that nothing changes, and the entry point of the extension.
SERVERS = {
    "file": lambda file: (file, "--load-extension", database.EXTENSION),
    "immutable file": lambda file: (
        *("--immutable", file),
        *("--load-extension", f"{database.EXTENSION}:sqlite3_faiss_init"),
    ),
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request, packages_db, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with serve(log, *SERVERS[request.param](packages_db)) as running:
        yield running


# The documented queries


@pytest.fixture(scope="module")
def truth(packages_db):
    return Truth(packages_db)


class Truth:
    """What brute force finds in the example database."""

    def __init__(self, file):
        with contextlib.closing(database.plain(file)) as connection:
            self.packages = rows(connection, "SELECT id, id, embedding FROM packages")
            self.names = dict(rows(connection, "SELECT id, package FROM packages"))
            self.question = scalar(
                connection, "SELECT embedding FROM questions WHERE question = ?", [QUESTION]
            )
        self.blobs = {id: blob for _, id, blob in self.packages}

    def check(self, answer, k, query=None, metric="l2", only=None):
        """`answer`, (id, score) pairs, are the k nearest, of the ids in `only` if given."""
        candidates = [row for row in self.packages if only is None or row[1] in only]
        oracle.check(answer, candidates, query or self.question, k, metric)

    def nearest(self, k, query=None):
        """The ids of the k packages nearest to the question or `query`."""
        vectors = oracle.matrix(blob for *_, blob in self.packages)
        scores = oracle.scores(oracle.matrix([query or self.question])[0], vectors)
        return [self.packages[row][1] for row in numpy.argsort(scores, kind="stable")[:k]]


ASKED = f"(select embedding from questions where question = '{QUESTION}')"


def search(truth, ask):
    for name in "packages", "main":
        ((text,),) = ask(f"select faiss_search('{name}', 'packages', {ASKED}, 10)")
        assert json.loads(text) == truth.nearest(10)


def search_with_scores(truth, ask):
    for name in "packages", "main":
        ((text,),) = ask(f"select faiss_search_with_scores('{name}', 'packages', {ASKED}, 10)")
        truth.check([tuple(pair) for pair in json.loads(text)], 10)


def search_by_parameters(truth, ask):
    """Datasette's parameters are text: a vector as JSON, k with a cast."""
    vector = json.dumps(database.values(truth.question), separators=(",", ":"))
    ((text,),) = ask(
        "select faiss_search('packages', :table, :vector, cast(:k as integer))",
        table="packages",
        vector=vector,
        k=10,
    )
    assert json.loads(text) == truth.nearest(10)


def encode(truth, ask):
    assert ask("select hex(faiss_encode('[2.4, 4.1, 1.8]'))") == [("9A991940333383406666E63F",)]


def decode(truth, ask):
    ((text,),) = ask("select faiss_decode(X'9A991940333383406666E63F')")
    assert text == "[2.4000000953674316, 4.099999904632568, 1.7999999523162842]"
    assert ask(f"select hex(faiss_encode(faiss_decode({ASKED})))") == [
        (truth.question.hex().upper(),)
    ]


def aggregates(truth, ask):
    ((ids, pairs),) = ask(
        f"select faiss_agg(id, embedding, {ASKED}, 10),"
        f" faiss_agg_with_scores(id, embedding, {ASKED}, 10)"
        " from packages where id % 2 = 0"
    )
    found = [tuple(pair) for pair in json.loads(pairs)]
    truth.check(found, 10, only={id for id in truth.blobs if id % 2 == 0})
    assert json.loads(ids) == [id for id, _ in found]


def aggregate_over_nothing(truth, ask):
    assert ask(f"select faiss_agg(id, embedding, {ASKED}, 10) from packages where 0") == [("[]",)]


def distance(truth, ask):
    found = ask(
        f"select id, faiss_distance(embedding, {ASKED}), faiss_distance(embedding, {ASKED}, 'l2'),"
        f" faiss_distance(embedding, {ASKED}, 'ip'), faiss_distance(embedding, {ASKED}, 'cosine')"
        " from packages where id <= 500"
    )
    ids, default, *by_metric = zip(*found)
    query = oracle.matrix([truth.question])[0]
    vectors = oracle.matrix(truth.blobs[id] for id in ids)
    assert list(ids) == list(range(1, 501)) and default == by_metric[0]
    for metric, got in zip(oracle.METRICS, by_metric):
        expected = oracle.distances(oracle.scores(query, vectors, metric), metric)
        numpy.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)


def normalize(truth, ask):
    assert ask("select faiss_decode(faiss_normalize('[3, 4]'))") == [
        ("[0.6000000238418579, 0.800000011920929]",)
    ]


def dimension(truth, ask):
    assert ask("select distinct faiss_dimension(embedding) from packages") == [(384,)]


def version(truth, ask):
    ((text,),) = ask("select faiss_version()")
    assert re.search(r"\d+\.\d+\.\d+", text)


def table_by_limit(truth, ask):
    found = ask(
        f"select id, score, distance from packages_index where embedding match {ASKED}"
        " order by distance limit 10"
    )
    truth.check([(id, score) for id, score, _ in found], 10)
    numpy.testing.assert_allclose(
        [distance for *_, distance in found], [score**0.5 for _, score, _ in found], rtol=1e-14
    )


def table_by_k(truth, ask):
    truth.check(
        ask(f"select id, score from packages_index where embedding match {ASKED} and k = 10"), 10
    )


def table_by_arguments(truth, ask):
    truth.check(ask(f"select id, score from packages_index({ASKED}, 10)"), 10)


def table_joined(truth, ask):
    found = ask(
        "select p.package, p.id, n.score from packages_index as n join packages as p using (id)"
        f" where n.embedding match {ASKED} order by n.distance limit 10"
    )
    truth.check([(id, score) for _, id, score in found], 10)
    assert [package for package, *_ in found] == [truth.names[id] for _, id, _ in found]
    assert found[0][0] == "libfaiss-dev"


def table_for_each_question(truth, ask):
    found = ask(
        "select hex(q.embedding), n.id, n.score from questions as q"
        " join packages_index as n on n.embedding match q.embedding and n.k = 3"
        " where q.id <= 3 order by q.id, n.distance"
    )
    assert len(found) == 9
    for first in range(0, 9, 3):
        answer = found[first : first + 3]
        (query,) = {query for query, *_ in answer}
        truth.check([(id, score) for _, id, score in answer], 3, bytes.fromhex(query))


def table_scanned(truth, ask):
    assert ask("select count(*), max(score) from packages_index") == [(4000, None)]
    assert ask("select id, score, distance from packages_index where id = 17") == [(17, None, None)]


def table_function(truth, ask):
    for name in "packages", "main":
        truth.check(
            ask(f"select id, score from faiss_search('{name}', 'packages', {ASKED}, 10)"), 10
        )


def table_function_with_a_long_answer(truth, ask):
    assert ask(
        "select count(*), count(distinct id) from"
        f" faiss_search('packages', 'packages', {ASKED}, 9223372036854775807)"
    ) == [(4000, 4000)]


def json_each_join(truth, ask):
    """The query of datasette-faiss's README."""
    found = ask(
        "with related as ("
        " select value from json_each(faiss_search('packages', 'packages',"
        " (select embedding from packages where package = 'libfaiss-dev'), 5))"
        ") select id, package from packages, related where id = value"
    )
    (libfaiss,) = (id for id, package in found if package == "libfaiss-dev")
    # The join may give its rows in any order.
    assert {id for id, _ in found} == set(truth.nearest(5, truth.blobs[libfaiss]))


def indexes(truth, ask):
    ask(f"select faiss_search('packages', 'packages', {ASKED}, 1)")
    found = ask(
        """select "rows", dimension, metric, kind, bytes >= 4000 * 384 * 4, build_seconds >= 0,"""
        """ searches > 0 from faiss_indexes where "table" = 'packages'"""
    )
    # One for the file, not one for each of Datasette's connections.
    assert found == [(4000, 384, "l2", "Flat", 1, 1, 1)]


QUERIES = {
    query.__name__: query
    for query in (
        search,
        search_with_scores,
        search_by_parameters,
        encode,
        decode,
        aggregates,
        aggregate_over_nothing,
        distance,
        normalize,
        dimension,
        version,
        table_by_limit,
        table_by_k,
        table_by_arguments,
        table_joined,
        table_for_each_question,
        table_scanned,
        table_function,
        table_function_with_a_long_answer,
        json_each_join,
        indexes,
    )
}


@pytest.mark.parametrize("query", QUERIES)
def test_query(server, truth, query):
    QUERIES[query](truth, server.query)


@pytest.mark.parametrize("kind", SERVERS)
def test_eight_threads_from_a_cold_start(kind, packages_db, truth, tmp_path):
    """Nothing was asked before: the first searches of all threads find no index yet."""
    start = threading.Barrier(THREADS)

    def ask_everything(thread):
        start.wait()
        names = list(QUERIES)
        # A search first, then each thread goes round the queries from another place.
        for name in ["search", *names[2 * thread :], *names[: 2 * thread]]:
            QUERIES[name](truth, running.query)

    with (
        serve(tmp_path / "log.txt", *SERVERS[kind](packages_db)) as running,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        for done in [threads.submit(ask_everything, thread) for thread in range(THREADS)]:
            done.result()


# Errors


ERRORS = {
    "unknown database": ("select faiss_search('blog', 'packages', {q}, 5)", "blog"),
    "unknown table": ("select faiss_search('packages', 'packs', {q}, 5)", "packs"),
    "no embedding column": (
        "select faiss_search('packages', 'packages_index_config', {q}, 5)",
        "packages_index_config",
    ),
    "unknown database, table function": (
        "select * from faiss_search('blog', 'packages', {q}, 5)",
        "blog",
    ),
    "k is 0": ("select faiss_search('packages', 'packages', {q}, 0)", "k must be a positive"),
    "k is negative": ("select * from packages_index({q}, -1)", "k must be a positive"),
    "k is fractional": (
        "select id from packages_index where embedding match {q} and k = 2.5",
        "k must be a positive",
    ),
    "k is text": (
        "select faiss_search('packages', 'packages', {q}, 'five')",
        "k must be a positive integer, not the text 'five'",
    ),
    "another dimension": ("select faiss_search('packages', 'packages', '[1, 2]', 5)", "384"),
    "another dimension, table": ("select * from packages_index('[1, 2]', 5)", "384"),
    "half a number": ("select * from packages_index(X'0000803f00', 5)", "5 bytes"),
    "JSON cut short": ("select faiss_encode('[1, 2')", "JSON"),
    "nested JSON": ("select faiss_encode('[[1, 2]]')", "JSON"),
    "unknown metric": ("select faiss_distance('[1]', '[2]', 'manhattan')", "manhattan"),
    "vectors of two lengths": ("select faiss_distance('[1]', '[2, 3]')", "dimension"),
    "bad row of an aggregate": (
        "select faiss_agg(id, 'x', {q}, 5) from packages where id <= 3",
        "JSON",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_names_the_fault(server, truth, case):
    sql, fault = ERRORS[case]
    message = server.refusal(sql.format(q=ASKED))
    assert fault.lower() in message.lower()
    search(truth, server.query)


def test_k_as_a_plain_parameter_says_that_it_is_text(server):
    sql = f"select faiss_search('packages', 'packages', {ASKED}, :k)"
    assert "k must be a positive integer" in server.refusal(sql, k=5)


def test_the_file_cannot_be_written_through_datasette(server, truth):
    assert "SELECT" in server.refusal(
        "insert into packages_index(packages_index) values('rebuild')"
    )
    search(truth, server.query)


def test_errors_and_answers_from_eight_threads(server, truth):
    def alternate(thread):
        cases = list(ERRORS.values())
        for sql, fault in cases[thread:] + cases[:thread]:
            assert fault.lower() in server.refusal(sql.format(q=ASKED)).lower()
            table_by_limit(truth, server.query)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(alternate, range(THREADS)))


def test_datasette_can_stop_a_long_query(server, truth):
    # Some 16 million distances take longer than the 100 ms allowed here.
    message = server.refusal(
        "select sum(n.distance) from packages as p"
        " join packages_index as n on n.embedding match p.embedding and n.k = 4000",
        _timelimit=100,
    )
    assert "took too long" in message
    search(truth, server.query)


# Datasette's own pages and a file that changes


@pytest.mark.parametrize("page", ["/", "/packages", "/packages/packages_index", "/-/versions"])
def test_pages(server, page):
    status, body = server.get(page)
    assert status == 200, body


@pytest.mark.parametrize(
    ("page", "ids"),
    [
        ("/packages/packages_index.json?_shape=array&_size=3", [1, 2, 3]),
        # Datasette compares with text here: '17'.
        ("/packages/packages_index.json?_shape=array&id=17", [17]),
        ("/packages/packages_index.json?_shape=array&id__gt=3998", [3999, 4000]),
        ("/packages/packages_index/17.json?_shape=array", [17]),
    ],
)
def test_pages_of_the_index_as_a_table(server, page, ids):
    status, body = server.get(page)
    assert status == 200, body
    assert [row["id"] for row in json.loads(body)] == ids


def test_rows_written_by_others_are_found(packages_db, truth, tmp_path):
    file = shutil.copy(packages_db, tmp_path / "packages.db")
    best = truth.nearest(3)
    sql = f"select id, score from packages_index where embedding match {ASKED} and k = 3"
    function = f"select faiss_search('packages', 'packages', {ASKED}, 3)"
    with (
        serve(tmp_path / "log.txt", file, "--load-extension", database.EXTENSION) as running,
        # Not one that has the extension: it is Datasette's that must notice.
        contextlib.closing(database.plain(file, timeout=300)) as writer,
    ):
        assert [id for id, _ in running.query(sql)] == best
        writer.execute(
            "INSERT INTO packages SELECT 9001, 'new', '1', 'misc', 0, 'new', '', embedding"
            " FROM questions WHERE question = ?",
            [QUESTION],
        )
        assert running.query(sql)[0] == (9001, 0.0)
        assert json.loads(running.query(function)[0][0]) == [9001, *best[:2]]

        far = "SELECT embedding FROM packages WHERE package = 'stockfish'"
        writer.execute(f"UPDATE packages SET embedding = ({far}) WHERE id = ?", [best[0]])
        assert [id for id, _ in running.query(sql)] == [9001, *best[1:]]

        writer.execute("DELETE FROM packages WHERE id = 9001")
        assert [id for id, _ in running.query(sql)][:2] == best[1:]
        assert json.loads(running.query(function)[0][0])[:2] == best[1:]


# Two searches and brute force, all in one statement and so of one state of the file.
SAME_STATE = """
    with asked(vector) as (
      select embedding from questions where id = cast(:question as integer)
    )
    select
      (select json_group_array(id) from (
         select id from packages_index, asked where embedding match vector
         order by distance limit 10)),
      (select faiss_search('packages', 'packages', vector, 10) from asked),
      (select json_group_array(id) from (
         select id from packages, asked order by faiss_distance(embedding, vector), id limit 10))
"""


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_answers_while_another_writes(packages_db, tmp_path, journal_mode):
    file = shutil.copy(packages_db, tmp_path / "packages.db")
    changes = random.Random(journal_mode)
    seen = set()

    def ask(question):
        ((by_table, by_function, by_force),) = running.query(SAME_STATE, question=question)
        expected = json.loads(by_force)
        assert (json.loads(by_table), json.loads(by_function)) == (expected, expected)
        seen.add((question, by_force))

    with (
        contextlib.closing(database.plain(file, timeout=300)) as writer,
        serve(tmp_path / "log.txt", file, "--load-extension", database.EXTENSION) as running,
        ThreadPoolExecutor(THREADS) as threads,
    ):
        # Before the first reader: a file changes its mode only when nobody else has it open.
        assert scalar(writer, f"PRAGMA journal_mode = {journal_mode}") == journal_mode
        # In rounds, since without a write-ahead log readers of one process that never pause
        # together keep a writer out.
        for _ in range(20):
            answers = [threads.submit(ask, question) for question in range(1, THREADS + 1)]
            change_some_packages(writer, changes)
            for answer in answers:
                answer.result()
    assert len(seen) > 5 * THREADS, "the changes were not seen"


def change_some_packages(connection, changes):
    """One transaction: packages near a question that is asked come, go and move."""
    connection.execute("BEGIN IMMEDIATE")
    for question in range(1, THREADS + 1):
        nearby = "SELECT embedding FROM questions WHERE id = ?"
        connection.execute(
            f"UPDATE packages SET embedding = ({nearby}) WHERE id = ?",
            [question, changes.randint(1, 4000)],
        )
        connection.execute("DELETE FROM packages WHERE id = ?", [changes.randint(1, 4000)])
        connection.execute(
            "INSERT INTO packages SELECT NULL, 'package-' || (max(id) + 1), '', '', 0, '', '',"
            " embedding FROM packages"
        )
    connection.execute("COMMIT" if changes.random() < 0.8 else "ROLLBACK")
