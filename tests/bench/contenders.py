"""What suite.py compares: each builds an index over the table docs, opens it and searches it.

To add a definition of this extension, a kind of FAISS index or a peer, add a line to CONTENDERS.
"""

import asyncio
import importlib.metadata
import pathlib
import shutil
import sqlite3
import sys
import time

import numpy

import peers
from docs import condition
from settled import settle

# Beyond so many numbers these take many minutes to build or open, or many times the vectors' memory.
MANY = 25_000_000


class Place:
    """A set of vectors on disk, and where the contenders put theirs."""

    def __init__(self, directory, docs, rows, dimension, extension, installed):
        self.directory = pathlib.Path(directory)
        self.docs = str(docs)  # the database with the table docs, never written to
        self.rows, self.dimension = rows, dimension
        self.extension, self.installed = extension, installed

    def copy_of_docs(self, name):
        path = self.directory / f"{name}.db"
        if not path.exists():
            shutil.copyfile(self.docs, path)
        return path


def read_docs(place):
    """All embeddings of the table docs, in the order of their ids, and the connection."""
    connection = sqlite3.connect(place.docs, check_same_thread=False)
    vectors = numpy.empty((place.rows, place.dimension), "<f4")
    for at, row in enumerate(connection.execute("SELECT embedding FROM docs ORDER BY id")):
        vectors[at] = numpy.frombuffer(row[0], "<f4")
    return vectors, connection


class Contender:
    """A way to search. Its methods run in processes of its own."""

    exact = False
    most = None  # numbers in all vectors
    # FAISS and BLAS start threads for a single query, and are slower for it: the contenders that
    # use them are told not to. This extension sees to it itself.
    one_thread = True

    def __init__(self, name):
        self.name = name

    def __str__(self):
        return self.name

    def index_key(self):
        """The same for contenders that search the same index."""
        return self.name

    def needs_peers(self):
        """Whether its package is among those of peers.txt."""
        return False

    def load(self, place):
        """Load libraries, which is no part of opening."""

    def build(self, place):
        """Make what is kept on disk: a dict of the seconds, the bytes and the version."""
        raise NotImplementedError

    def open(self, place):
        """Get ready to answer."""
        raise NotImplementedError

    def settle(self, search):
        """Go on until searches are as fast as they get; they are, unless told otherwise."""

    def search(self, query, k):
        """The ids of the k nearest rows to a float32 vector."""
        raise NotImplementedError

    def filtered(self, query, k, percent):
        """The same of the rows that match condition('indexed_bucket', percent)."""
        raise NotImplementedError("not offered")

    def another(self):
        """What another thread searches: the same, or with a connection of its own."""
        return self


# ---- in SQL ----


class InSql(Contender):
    """Statements that take :query and :k and give the id first."""

    statement = None
    filtered_statement = None  # a function of the percentage

    def connect(self):
        raise NotImplementedError

    def run(self, sql, query, k):
        rows = self.connection.execute(sql, {"query": query.tobytes(), "k": k})
        return [row[0] for row in rows.fetchall()]

    def search(self, query, k):
        return self.run(self.statement, query, k)

    def filtered(self, query, k, percent):
        return self.run(self.filtered_statement(percent), query, k)

    def another(self):
        other = type(self).__new__(type(self))
        other.__dict__ = dict(self.__dict__)
        other.connection = other.connect()
        return other


def load_into_memory(extensions):
    connection = sqlite3.connect(":memory:")
    connection.enable_load_extension(True)
    for extension in extensions:
        connection.load_extension(extension)
    connection.close()


class ThisExtension(InSql):
    """A faiss table with some options."""

    one_thread = False

    def __init__(self, name, options="", exact=True, most=None):
        super().__init__(name)
        self.options = options
        self.exact, self.most = exact, most
        self.table = "docs_" + "".join(c if c.isalnum() else "_" for c in name)
        self.statement = f"SELECT id FROM {self.table} WHERE embedding MATCH :query AND k = :k"

    def filtered_statement(self, percent):
        return f"{self.statement} AND {condition('indexed_bucket', percent)}"

    def connect(self):
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        connection.enable_load_extension(True)
        connection.load_extension(self.extension)
        return connection

    def load(self, place):
        load_into_memory([place.extension])

    def open(self, place):
        self.extension, self.path = place.extension, place.copy_of_docs("sqlite-faiss")
        self.connection = self.connect()

    def build(self, place):
        """Creating the table, and searching until the index in memory is complete."""
        self.open(place)
        before = self.path.stat().st_size
        begin = time.perf_counter()
        options = f", {self.options}" if self.options else ""
        self.connection.execute(
            f"CREATE VIRTUAL TABLE {self.table} USING faiss(main, docs{options})"
        )
        created = time.perf_counter() - begin
        first = self.connection.execute("SELECT embedding FROM docs LIMIT 1").fetchone()[0]
        query = numpy.frombuffer(first, "<f4")
        settled = self.settle(lambda: self.search(query, 10))
        version = self.connection.execute("SELECT faiss_version()").fetchone()[0]
        self.connection.close()
        return {
            "seconds": created + settled,
            "bytes": self.path.stat().st_size - before,
            "version": version,
            "parts": {"create": created, "in memory": settled},
        }

    def settle(self, search):
        return settle(self.connection, search)


class Peer(InSql):
    """Another extension: one of peers.py, and which of its statements are asked."""

    def __init__(self, name, subject, form, filtered_form, exact=True, most=None):
        super().__init__(name)
        self.make_subject, self.form, self.filtered_form = subject, form, filtered_form
        self.exact, self.most = exact, most

    def needs_peers(self):
        return True

    def subject(self, place):
        name = self.make_subject.__name__.replace("_quantized", "").replace("_", "-")
        extensions = place.installed.extensions(name)
        database = place.copy_of_docs(self.make_subject.__name__)
        return self.make_subject(extensions, database, place.dimension, place.rows)

    def build(self, place):
        subject = self.subject(place)
        before = bytes_beside(subject.database)
        begin = time.perf_counter()
        version = subject.prepare()
        seconds = time.perf_counter() - begin
        version = " ".join(str(version).split())
        size = bytes_beside(subject.database) - before
        return {"seconds": seconds if subject.build else 0, "bytes": size, "version": version}

    def load(self, place):
        load_into_memory(self.subject(place).extensions)

    def open(self, place):
        self.opened = self.subject(place)
        self.statement = self.opened.statements[self.form, 100]
        self.connection = self.connect()

    def connect(self):
        return self.opened.connect()

    def filtered_statement(self, percent):
        return self.opened.statements[self.filtered_form, percent]


def bytes_beside(database):
    """A database and the files that are named after it."""
    path = pathlib.Path(database)
    return sum(file.stat().st_size for file in path.parent.glob(path.name + "*"))


# ---- in Python ----


class InPython(Contender):
    def rows_that_match(self, percent):
        """Rows (from 0) by the index of the column."""
        found = self.connection.execute(
            f"SELECT rowid FROM docs WHERE {condition('indexed_bucket', percent)}"
        )
        return numpy.fromiter((row[0] - 1 for row in found), "i8")


class RawFaiss(InPython):
    """An index of FAISS by its factory string, on one thread, written to a file and read back.

    A filter is a bitmap of the rows that match, made before: no database takes part.
    """

    def __init__(self, name, factory, ef_search=None, refine=None, most=None):
        super().__init__(name)
        self.factory, self.ef_search, self.refine = factory, ef_search, refine
        self.exact = factory == "Flat"
        self.most = most

    def index_key(self):
        return self.factory

    def load(self, place):
        import faiss

        faiss.omp_set_num_threads(1)
        self.faiss = faiss

    def path(self, place):
        return place.directory / f"{self.factory}.faiss"

    def build(self, place):
        import faiss

        path = self.path(place)
        begin = time.perf_counter()
        vectors, _ = read_docs(place)
        read = time.perf_counter() - begin
        if self.refine:
            index = faiss.IndexRefineFlat(faiss.index_factory(place.dimension, self.factory))
        else:
            index = faiss.index_factory(place.dimension, self.factory)
        index.train(vectors)
        index.add(vectors)
        added = time.perf_counter() - begin - read
        faiss.write_index(index, str(path))
        seconds = time.perf_counter() - begin
        return {
            "seconds": seconds,
            "bytes": path.stat().st_size,
            "version": faiss.__version__,
            "parts": {"read": read, "add": added, "write": seconds - read - added},
        }

    def open(self, place):
        self.index = self.faiss.read_index(str(self.path(place)))
        self.connection = sqlite3.connect(place.docs)
        self.selectors = {}
        self.parameters = self.parameters_with(None)

    def parameters_with(self, selector):
        faiss = self.faiss
        if self.refine:
            # 8 bits of the query: the default compares without integers, many times slower.
            base = faiss.RaBitQSearchParameters(sel=selector, qb=8)
            return faiss.IndexRefineSearchParameters(
                k_factor=self.refine, base_index_params=base, sel=None
            )
        if self.ef_search:
            return faiss.SearchParametersHNSW(sel=selector, efSearch=self.ef_search)
        return faiss.SearchParameters(sel=selector)

    def search(self, query, k):
        _, found = self.index.search(query[None], k, params=self.parameters)
        return [int(row) + 1 for row in found[0] if row >= 0]

    def filtered(self, query, k, percent):
        if percent not in self.selectors:
            mask = numpy.zeros(self.index.ntotal, bool)
            mask[self.rows_that_match(percent)] = True
            bits = numpy.packbits(mask, bitorder="little")
            selector = self.faiss.IDSelectorBitmap(bits)
            self.selectors[percent] = self.parameters_with(selector), selector, bits
        _, found = self.index.search(query[None], k, params=self.selectors[percent][0])
        return [int(row) + 1 for row in found[0] if row >= 0]


class Numpy(InPython):
    """All vectors in one array; a search is one product with it, on one thread."""

    exact = True

    def build(self, place):
        return {"seconds": 0, "bytes": 0, "version": numpy.__version__}

    def open(self, place):
        self.vectors, self.connection = read_docs(place)
        self.norms = numpy.einsum("ij,ij->i", self.vectors, self.vectors)

    def nearest(self, vectors, norms, query, k):
        squares = norms - 2 * (vectors @ query)
        k = min(k, len(squares))
        some = numpy.argpartition(squares, k - 1)[:k]
        return some[numpy.argsort(squares[some])]

    def search(self, query, k):
        return (self.nearest(self.vectors, self.norms, query, k) + 1).tolist()

    def filtered(self, query, k, percent):
        rows = self.rows_that_match(percent)
        return (rows[self.nearest(self.vectors[rows], self.norms[rows], query, k)] + 1).tolist()


class DatasetteFaiss(InSql):
    """The plugin's own functions on a connection, its index made as it does at start-up, asked in
    the SQL of its README, with the FAISS that is installed with it. Nobody tells that there how
    many threads to use: it takes all."""

    exact = True
    most = MANY
    joined = (
        "WITH related AS (SELECT value FROM json_each(({})))"
        " SELECT id FROM docs, related WHERE id = value"
    )
    statement = joined.format("SELECT faiss_search('docs', 'docs', :query, :k)")

    def __init__(self, name, one_thread=False):
        super().__init__(name)
        self.one_thread = one_thread

    def needs_peers(self):
        return True

    def index_key(self):
        return "datasette-faiss"

    def build(self, place):
        sys.path.insert(0, str(place.installed.folder()))
        versions = [importlib.metadata.version(name) for name in ("datasette-faiss", "faiss-cpu")]
        return {"seconds": 0, "bytes": 0, "version": ", faiss-cpu ".join(versions)}

    def load(self, place):
        sys.path.insert(0, str(place.installed.folder()))
        import datasette_faiss

        self.plugin = datasette_faiss

    def open(self, place):
        self.docs = place.docs
        self.connection = self.connect()
        asyncio.run(self.plugin.populate_index(self, "docs", "docs"))

    def connect(self):
        connection = sqlite3.connect(self.docs, check_same_thread=False)
        self.plugin.prepare_connection(connection)
        return connection

    # What populate_index() asks of Datasette and of its database.
    def get_database(self, name):
        return self

    async def execute_fn(self, function):
        return function(self.connection)

    def filtered_statement(self, percent):
        where = condition("indexed_bucket", percent)
        return self.joined.format(
            f"SELECT faiss_agg(id, embedding, :query, :k) FROM docs WHERE {where}"
        )


# ---- the list ----

BASE = "FAISS Flat"  # that which all ratios are to

CONTENDERS = [
    RawFaiss(BASE, "Flat"),
    ThisExtension("sqlite-faiss"),
    ThisExtension("sqlite-faiss memory=low", "memory=low"),
    ThisExtension("sqlite-faiss HNSW32", "index='HNSW32'", exact=False, most=MANY),
    RawFaiss("FAISS HNSW32, efSearch=64", "HNSW32", ef_search=64),
    RawFaiss("FAISS HNSW32, efSearch=128", "HNSW32", ef_search=128),
    RawFaiss("FAISS RaBitQ, 20 k re-scored", "RaBitQ", refine=20),
    Peer("sqlite-vec", peers.sqlite_vec, "vec0", "vec_distance_l2, indexed"),
    Peer(
        "sqlite-vss",
        peers.sqlite_vss,
        "Flat",
        "Flat, asked for more",
        most=MANY,
    ),
    Peer(
        "sqlite-vector",
        peers.sqlite_vector,
        "full scan",
        "full scan, rowid IN (indexed)",
    ),
    Peer(
        "sqlite-vector, quantized",
        peers.sqlite_vector_quantized,
        "quantized",
        "quantized, rowid IN (indexed)",
        exact=False,
    ),
    Peer(
        "vectorlite, ef=100",
        peers.vectorlite,
        "HNSW, ef=100",
        "HNSW, ef=100, rowid IN (indexed)",
        exact=False,
        most=MANY,
    ),
    Peer("usearch", peers.usearch, "scalar", "scalar, indexed"),
    DatasetteFaiss("datasette-faiss"),
    DatasetteFaiss("datasette-faiss, one thread", one_thread=True),
    Numpy("NumPy"),
]
