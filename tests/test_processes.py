"""Processes that share a file: two Datasette servers that search, and a plain shell that writes."""

import contextlib
import itertools
import json
import random
import subprocess
import threading

import pytest

import database
import oracle
from database import SHELL, plain, rows, scalar, vector
from test_datasette import serve

STEPS = 25


def make(path, journal):
    """`docs`, its ids apart from its rowids."""
    chance = random.Random(0)
    connection = database.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}").fetchone()
    connection.execute("CREATE TABLE docs(pk INTEGER PRIMARY KEY, id TEXT, embedding BLOB)")
    connection.execute("CREATE TABLE state(number INTEGER)")
    connection.execute("INSERT INTO state VALUES (0)")
    connection.execute("BEGIN")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?, ?)",
        [(pk, f"d{pk % 90}", vector(*random_vector(chance))) for pk in range(1, 301)],
    )
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    connection.execute("COMMIT")
    connection.close()


def random_vector(chance):
    return [chance.randint(-4, 4) for _ in range(3)]


class Shell:
    """A sqlite3 shell without the extension that runs for as long as the test."""

    def __init__(self, path):
        self.process = subprocess.Popen(
            [SHELL, "-batch", "-init", "/dev/null", str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        self.run(".timeout 300000\nPRAGMA synchronous = OFF;")

    def run(self, sql):
        """Return when the shell has done it."""
        self.process.stdin.write(f"{sql}\n.print done\n")
        self.process.stdin.flush()
        said = []
        for line in self.process.stdout:
            if line == "done\n":
                assert not said, said
                return
            said.append(line)
        raise AssertionError(f"the shell ended: {said}")

    def kill(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture(params=["wal", "delete"])
def path(request, tmp_path):
    make(tmp_path / "docs.db", request.param)
    return tmp_path / "docs.db"


@pytest.fixture
def servers(path, tmp_path):
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                serve(tmp_path / f"server{n}.txt", path, "--load-extension", database.EXTENSION)
            )
            for n in range(2)
        ]


@pytest.fixture
def shell(path):
    running = Shell(path)
    yield running
    running.kill()


def ask(server, sql, **parameters):
    status, body = server.get("/docs.json", sql=sql, _shape="arrays", **parameters)
    assert status == 200, f"{body}\n{server.log_end()}"
    return [tuple(row) for row in json.loads(body)["rows"]]


def change(chance):
    """A transaction of some changes, as a shell's user would type them."""
    lines = ["BEGIN;"]
    for _ in range(chance.randint(1, 4)):
        row, new = chance.randint(1, 330), vector(*random_vector(chance)).hex()
        lines.append(
            chance.choice(
                [
                    f"INSERT INTO docs(id, embedding) VALUES ('n{row}', X'{new}');",
                    f"REPLACE INTO docs VALUES ({row}, 'r{row}', X'{new}');",
                    f"UPDATE docs SET embedding = X'{new}' WHERE pk = {row};",
                    f"UPDATE docs SET id = 'u{row}' WHERE pk % 40 = {row % 40};",
                    f"UPDATE docs SET embedding = NULL WHERE pk = {row};",
                    f"DELETE FROM docs WHERE pk % 50 = {row % 50};",
                    f"UPDATE OR REPLACE docs SET pk = {row + 1} WHERE pk = {row};",
                ]
            )
        )
    return "\n".join([*lines, "UPDATE state SET number = number + 1; COMMIT;"])


def right_answer(path, query, k):
    with contextlib.closing(plain(path, timeout=300)) as connection:
        return oracle.nearest(rows(connection, "SELECT pk, id, embedding FROM docs"), vector(*query), k)


def assert_right(servers, path, chance):
    query = random_vector(chance)
    expected = right_answer(path, query, 12)
    for server in chance.sample(servers, 2):
        found = ask(server, "select id, score from docs_index(:v, 12)", v=json.dumps(query))
        assert found == expected
        ((text,),) = ask(server, "select faiss_search('docs', 'docs', :v, 12)", v=json.dumps(query))
        assert json.loads(text) == [id for id, _ in expected]


def test_each_server_follows_the_shell(path, servers, shell):
    """The answer after a commit is right, of a server that has just searched and of one that has not."""
    chance = random.Random(2)
    assert_right(servers, path, chance)
    for step in range(STEPS):
        shell.run(change(chance))
        if step == STEPS // 2:
            shell.run("VACUUM;")
        assert_right(servers[: 1 + step % 2] * 2, path, chance)
    assert_right(servers, path, chance)
    for server in servers:
        assert ask(server, "select live from faiss_indexes") == [("yes",)]


def test_what_the_shell_has_not_committed(path, servers, shell):
    chance = random.Random(3)
    assert_right(servers, path, chance)
    for end in ("ROLLBACK;", "COMMIT;", None):
        shell.run("BEGIN; DELETE FROM docs WHERE pk % 2; UPDATE docs SET id = 'new' WHERE pk < 60;")
        assert_right(servers, path, chance)
        if end:
            shell.run(end)
        else:  # in the middle of it
            shell.kill()
        assert_right(servers, path, chance)


def test_servers_beside_a_shell_that_never_rests(path, servers, shell):
    """Each answer is that of one committed state, and no older than the last commit before it.

    All vectors of a state are the same, its number apart from its rowid.
    """
    shell.run("UPDATE docs SET embedding = NULL; UPDATE state SET number = 0;")
    finished = threading.Event()
    committed, begun = [0], [0]
    failures = []

    def write():
        try:
            number = 0
            while not finished.is_set():
                number += 1
                blob = vector(number, 0, 0).hex()
                begun[0] = number
                shell.run(
                    f"BEGIN; UPDATE docs SET embedding = X'{blob}' WHERE pk <= 200;"
                    f"UPDATE state SET number = {number}; COMMIT;"
                )
                committed[0] = number
        except BaseException as failure:
            failures.append(failure)

    def read(server):
        try:
            for number in itertools.count():
                if number >= 40 and committed[0] > 10:
                    break
                least = committed[0]
                found = ask(server, "select score from docs_index('[0, 0, 0]')")
                most = begun[0]
                (state,) = {score for score, in found} or {0}
                assert len(found) in (0, 200)
                assert least <= state**0.5 <= most
        except BaseException as failure:
            failures.append(failure)

    readers = [threading.Thread(target=read, args=[server]) for server in servers]
    writer = threading.Thread(target=write)
    for thread in (writer, *readers):
        thread.start()
    for thread in readers:
        thread.join(timeout=600)
    finished.set()
    writer.join(timeout=600)
    assert failures == []
    with contextlib.closing(plain(path, timeout=300)) as connection:
        assert scalar(connection, "SELECT number FROM state") == committed[0]
