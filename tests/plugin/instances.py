"""Real Datasette servers with the plugin, of both versions, and the databases they serve."""

import contextlib
import http.cookiejar
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import numpy

from database import EXTENSION, ROOT, quote

LIBRARY = EXTENSION if EXTENSION.endswith(".so") else EXTENSION + ".so"
SECONDS_TO_START = 300

# Datasette 1.0 wants other versions of what it needs: it has an environment of its own.
PYTHONS = {
    "0.65": sys.executable,
    "1.0": os.environ.get("DATASETTE_1_0_PYTHON")
    or str(ROOT / "build" / "venv-datasette-1.0" / "bin" / "python"),
}
VERSIONS = list(PYTHONS)


# ---- databases ----


def vectors(count, dimension=8, seed=1):
    """Random vectors in small clusters, as float32."""
    generator = numpy.random.default_rng(seed)
    centres = generator.normal(size=(8, dimension))
    drawn = centres[numpy.arange(count) % 8] + 0.3 * generator.normal(size=(count, dimension))
    return drawn.astype("<f4")


def make_blog(path, count=300, seed=1, table="embeddings"):
    """A table as the README of datasette-faiss has it, with columns to filter and to label by."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute(
            f"CREATE TABLE {quote(table)}(id INTEGER PRIMARY KEY, title TEXT, lang TEXT,"
            " year INTEGER, embedding BLOB)"
        )
        db.executemany(
            f"INSERT INTO {quote(table)} VALUES (?, ?, ?, ?, ?)",
            [
                (id, f"Post {id}", ("en", "de", "fr")[id % 3], 2000 + id % 20, vector.tobytes())
                for id, vector in enumerate(vectors(count, seed=seed), 1)
            ],
        )
    return path


def nearest(rows, query, k, metric="l2"):
    """Brute force in float64: the ids of the k nearest of (id, vector) pairs."""
    ids = [id for id, _ in rows]
    matrix = numpy.array([vector for _, vector in rows], dtype="float64")
    query = numpy.asarray(query, dtype="float64")
    if metric == "l2":
        scores = ((matrix - query) ** 2).sum(axis=1)
    elif metric == "ip":
        scores = -(matrix @ query)
    else:
        norms = numpy.linalg.norm(matrix, axis=1) * numpy.linalg.norm(query)
        scores = -(matrix @ query) / norms
    return [ids[place] for place in numpy.argsort(scores, kind="stable")[:k]]


def read_vectors(path, table="embeddings", id="id", embedding="embedding", where="1"):
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [
            (key, numpy.frombuffer(blob, "<f4"))
            for key, blob in db.execute(
                f"SELECT {quote(id)}, {quote(embedding)} FROM {quote(table)}"
                f" WHERE {quote(embedding)} IS NOT NULL AND {where}"
            )
        ]


# ---- servers ----


def environment(directory):
    """What makes a Python see the sources as the installed package sqlite-faiss."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = Path(directory) / "installed" / "sqlite_faiss-0.0.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.0.0\n"
    )
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in points.items())
            for group, points in project["entry-points"].items()
        )
    )
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src" / "python"), str(info.parent)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SQLITE_FAISS_LIBRARY": LIBRARY,
    }


def datasette(version, directory, *arguments):
    """The command, and its environment."""
    return (
        [PYTHONS[version], "-m", "datasette", *map(str, arguments)],
        environment(directory),
    )


def write_configuration(directory, version, configuration, suffix="json"):
    """The configuration as a file, with the option that this version takes it by."""
    import yaml

    file = Path(directory) / f"configuration.{suffix}"
    text = json.dumps(configuration) if suffix == "json" else yaml.safe_dump(configuration)
    file.write_text(text)
    return ("--metadata" if version == "0.65" else "--config", file)


def configured(*tables, **others):
    return {"plugins": {"datasette-faiss": {"tables": list(tables), **others}}}


def run_to_end(version, directory, *arguments):
    """Status and output of a Datasette that ends by itself."""
    command, variables = datasette(version, directory, *arguments)
    done = subprocess.run(
        command,
        env=variables,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_TO_START,
    )
    return done.returncode, done.stdout


class Server:
    def __init__(self, version, url, log, process):
        self.version = version
        self.url = url
        self.log = log
        self.process = process
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)

    def get(self, path, posted=None, **parameters):
        """Status and body of a page."""
        url = self.url + path
        if parameters:
            url += ("&" if "?" in path else "?") + urllib.parse.urlencode(parameters, doseq=True)
        data = None if posted is None else urllib.parse.urlencode(posted).encode()
        try:
            with self._opener.open(url, data=data, timeout=300) as response:
                return response.status, response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def page(self, path, **options):
        status, body = self.get(path, **options)
        assert status == 200, f"{path}: {status}\n{body}\n{self.log.read_text()[-3000:]}"
        return body

    def json(self, path, **options):
        return json.loads(self.page(path, **options))

    def query(self, database, sql, /, **parameters):
        """The rows of a statement."""
        path = f"/{database}.json" if self.version == "0.65" else f"/{database}/-/query.json"
        answer = self.json(path, sql=sql, _shape="arrays", **parameters)
        return [tuple(row) for row in answer["rows"]]

    def refusal(self, database, sql, /, **parameters):
        """The message of a statement that must fail."""
        path = f"/{database}.json" if self.version == "0.65" else f"/{database}/-/query.json"
        status, body = self.get(path, sql=sql, _shape="arrays", **parameters)
        assert status == 400, f"{status}: {body}"
        return json.loads(body)["error"]

    def wait_for_log(self, text, seconds=300):
        return wait_until(lambda: text in self.log.read_text(), seconds, self.log.read_text)


def wait_until(true, seconds, explain):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)


@contextlib.contextmanager
def serve(version, directory, *arguments):
    """A Datasette with these arguments on a port of its own, until the block ends."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "log.txt"
    options = ["--host", "127.0.0.1", "--port", "0"]
    if "sql_time_limit_ms" not in arguments:  # a second is too little on a busy machine
        options += ["--setting", "sql_time_limit_ms", "60000"]
    command, variables = datasette(version, directory, "serve", *arguments, *options)
    with (
        open(log, "wb") as output,
        subprocess.Popen(
            command,
            env=variables,
            cwd=directory,
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            running = re.compile(r"Uvicorn running on (http://[0-9.]+:[0-9]+)")
            wait_until(
                lambda: process.poll() is not None or running.search(log.read_text()),
                SECONDS_TO_START,
                log.read_text,
            )
            assert process.poll() is None, log.read_text()
            yield Server(version, running.search(log.read_text())[1], log, process)
            assert process.poll() is None, f"Datasette ended by itself\n{log.read_text()}"
        finally:
            process.kill()
