"""The other extensions: where they come from, and how they are asked in SQL."""

import json
import pathlib
import sqlite3
import subprocess
import sys

from docs import condition

PERCENTS = (1, 10, 50)

FILES = {
    "sqlite-vec": ["sqlite_vec/vec0.so"],
    "sqlite-vector": ["sqlite_vector/binaries/vector.so"],
    "sqlite-vss": ["sqlite_vss/vector0.so", "sqlite_vss/vss0.so"],
    "vectorlite": ["vectorlite_py/vectorlite.so"],
    "usearch": ["usearch/*sqlite*.so"],
}


# ---- where they come from ----


class Installed:
    """A virtual environment of the packages in peers.txt; some may not be had."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory).resolve()
        # A change of the list is a reason to try again.
        wanted = pathlib.Path(__file__).with_name("peers.txt").read_text()
        done = self.directory / "installed.json"
        state = json.loads(done.read_text()) if done.exists() else {}
        if state.get("wanted") != wanted:
            state = {"wanted": wanted, "failed": self.install(wanted)}
            if self.directory.exists():
                done.write_text(json.dumps(state))
        self.failed = state["failed"]

    def install(self, wanted):
        """{package: why it is not there}"""
        python = self.directory / "bin" / "python"
        packages = [line for line in wanted.splitlines() if line and not line.startswith("#")]
        reason = run([sys.executable, "-m", "venv", self.directory])
        if reason:
            return {package.split("==")[0]: reason for package in packages}
        failed = {}
        for package in packages:
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            reason = run([*pip, package])
            if reason:
                failed[package.split("==")[0]] = reason
        return failed

    def folder(self):
        """Where the packages are; None if nothing is."""
        return next(self.directory.glob("lib/python*/site-packages"), None)

    def extensions(self, name):
        """The loadable files of a peer."""
        folder = self.folder()
        found = [next(folder.glob(file), None) if folder else None for file in FILES[name]]
        if None in found:
            raise RuntimeError(self.failed.get(name) or f"its package carries no {FILES[name][-1]}")
        return [str(file) for file in found]


def run(command):
    """The last line of what a command says when it fails, or None."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        done = subprocess.run(command, **streams)
    except OSError as error:
        return str(error)
    return (done.stdout.strip() or "failed").splitlines()[-1] if done.returncode != 0 else None


# ---- how they are asked ----


class Subject:
    """Extensions, a database with the table docs, and the statements to time.

    `begin` is for each connection, `build` makes the index, `load` gets it for searches.
    `statements` are named (form, percent or 100); each takes :query, some :k, and gives ids first.
    """

    def __init__(self, name, extensions, database, dimension, rows=0):
        self.name, self.extensions, self.database = name, extensions, str(database)
        self.dimension, self.rows = dimension, rows
        self.version = None
        self.begin, self.build, self.load = [], [], []
        self.statements = {}
        self.unanswered = set()  # forms without an answer to check: SELECT alone

    def __str__(self):
        return self.name

    def open(self):
        connection = sqlite3.connect(
            self.database, isolation_level=None, check_same_thread=False
        )
        connection.enable_load_extension(True)
        for extension in self.extensions:
            connection.load_extension(extension)
        for sql in self.begin:
            connection.execute(sql).fetchall()
        return connection

    def connect(self):
        """Ready for searches."""
        connection = self.open()
        for sql in self.load:
            connection.execute(sql).fetchall()
        return connection

    def prepare(self):
        """Make the index; the version."""
        connection = self.open()
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for sql in self.build:
            connection.execute(sql).fetchall()
        connection.execute("COMMIT")
        version = connection.execute(self.version).fetchone()[0]
        connection.close()
        return version

    def forms(self, template, form, column=None, percents=PERCENTS):
        """A statement with {filter} in it for each percent, and without a filter at 100."""
        for percent in (100,) if column is None else percents:
            added = condition(column, percent) if column else ""
            self.statements[form, percent] = template.format(filter=added)


CHOSEN = "rowid IN (SELECT id FROM docs WHERE {filter})"


def sqlite_vec(*where):
    subject = Subject("sqlite-vec", *where)
    subject.version = "SELECT vec_version()"
    dimension = subject.dimension
    subject.build = [
        f"CREATE VIRTUAL TABLE docs_vec USING vec0(embedding float[{dimension}], bucket INTEGER)",
        "INSERT INTO docs_vec(rowid, embedding, bucket) SELECT id, embedding, bucket FROM docs",
    ]
    match = "SELECT rowid, distance FROM docs_vec WHERE embedding MATCH :query AND k = :k"
    scalar = "SELECT id FROM docs {where} ORDER BY vec_distance_l2(embedding, :query) LIMIT :k"
    subject.forms(match, "vec0")
    subject.forms(match + " AND {filter}", "vec0, metadata column", "bucket")
    subject.forms(f"{match} AND {CHOSEN}", "vec0, rowid IN (indexed)", "indexed_bucket")
    subject.forms(scalar.format(where=""), "vec_distance_l2")
    where = scalar.format(where="WHERE {filter}")
    subject.forms(where, "vec_distance_l2, indexed", "indexed_bucket")
    return subject


def sqlite_vector(*where):
    subject = Subject("sqlite-vector", *where)
    subject.version = "SELECT vector_version()"
    options = f"type=FLOAT32,dimension={subject.dimension},distance=L2"
    subject.begin = [f"SELECT vector_init('docs', 'embedding', '{options}')"]
    search = "SELECT rowid, distance FROM vector_full_scan('docs', 'embedding', :query"
    subject.forms(f"{search}, :k)", "full scan")
    template = f"{search}) WHERE {CHOSEN} ORDER BY distance LIMIT :k"
    subject.forms(template, "full scan, rowid IN (indexed)", "indexed_bucket")
    return subject


def sqlite_vector_quantized(*where):
    subject = sqlite_vector(*where)
    subject.build = ["SELECT vector_quantize('docs', 'embedding')"]
    subject.load = ["SELECT vector_quantize_preload('docs', 'embedding')"]
    search = "SELECT rowid, distance FROM vector_quantize_scan('docs', 'embedding', :query"
    subject.forms(f"{search}, :k)", "quantized")
    template = f"{search}) WHERE {CHOSEN} ORDER BY distance LIMIT :k"
    subject.forms(template, "quantized, rowid IN (indexed)", "indexed_bucket")
    return subject


def sqlite_vss(*where):
    subject = Subject("sqlite-vss", *where)
    subject.version = "SELECT vss_version()"
    subject.build = [f"CREATE VIRTUAL TABLE docs_vss USING vss0(embedding({subject.dimension}))"]
    # Its inserts are quadratic in one transaction. A BLOB as it is would be taken for one with a
    # header of its own when it begins like that.
    for first in range(1, subject.rows + 1, 2000):
        subject.build += [
            "COMMIT",
            "BEGIN",
            "INSERT INTO docs_vss(rowid, embedding) SELECT id, vector_from_raw(embedding) "
            f"FROM docs WHERE id BETWEEN {first} AND {first + 1999}",
        ]
    search = "SELECT rowid, distance FROM docs_vss WHERE "
    match = "vss_search(embedding, vss_search_params(vector_from_raw(:query), {k}))"
    subject.forms(search + match.format(k=":k"), "Flat")
    for percent in PERCENTS:
        # It knows no filters: more are asked for, so that enough are left.
        more = match.format(k=f":k * {400 // percent}")
        chosen = f"({search}{more}) WHERE {CHOSEN} ORDER BY distance LIMIT :k"
        subject.forms(
            f"SELECT * FROM {chosen}", "Flat, asked for more", "indexed_bucket", (percent,)
        )
    return subject


def vectorlite(*where):
    subject = Subject("vectorlite", *where)
    subject.version = "SELECT vectorlite_info()"
    subject.build = [
        f"CREATE VIRTUAL TABLE docs_hnsw USING vectorlite(embedding float32[{subject.dimension}], "
        f"hnsw(max_elements=1000000), '{subject.database}.hnsw')",
        "INSERT INTO docs_hnsw(rowid, embedding) SELECT id, embedding FROM docs",
    ]
    search = "SELECT rowid, distance FROM docs_hnsw WHERE knn_search(embedding, "
    search += "knn_param(:query, :k, max(:k, 100)))"
    subject.forms(search, "HNSW, ef=100")
    subject.forms(f"{search} AND {CHOSEN}", "HNSW, ef=100, rowid IN (indexed)", "indexed_bucket")
    return subject


def usearch(*where):
    subject = Subject("usearch", *where)
    subject.version = "SELECT 'of its package'"
    scalar = "SELECT id FROM docs {where} ORDER BY distance_sqeuclidean_f32(embedding, :query) "
    scalar += "LIMIT :k"
    subject.forms(scalar.format(where=""), "scalar")
    subject.forms(scalar.format(where="WHERE {filter}"), "scalar, indexed", "indexed_bucket")
    return subject
