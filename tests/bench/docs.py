"""The table that is searched, and which of its rows are the nearest: brute force in float64."""

import sqlite3

import numpy

# Of a squared distance, between float32 and float64: equally near rows may change places.
TOLERANCE = 1e-6
ROWS_AT_ONCE = 50000


def condition(column, percent):
    return f"{column} = 0" if percent == 1 else f"{column} < {percent}"


def make_buckets(rows):
    """0 to 99, each as often, independent of the vectors."""
    return numpy.random.default_rng(1).permutation(rows) % 100


def write_docs(path, vectors, buckets):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute(
        "CREATE TABLE docs("
        "id INTEGER PRIMARY KEY, bucket INTEGER, indexed_bucket INTEGER, embedding BLOB)"
    )
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?, ?, ?)",
        (
            (id, bucket, bucket, row.tobytes())
            for id, (bucket, row) in enumerate(zip(buckets.tolist(), vectors), 1)
        ),
    )
    connection.execute("CREATE INDEX docs_by_bucket ON docs(indexed_bucket)")
    connection.commit()
    connection.close()


def write_plain_docs(path, vectors):
    """No more than ids, from 1 on, and vectors."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
    connection.executemany(
        "INSERT INTO docs VALUES (?, ?)", ((id, row.tobytes()) for id, row in enumerate(vectors, 1))
    )
    connection.commit()
    connection.close()


class Truth:
    """Which rows are the nearest, and how far they are."""

    def __init__(self, vectors, queries, buckets, k=10):
        self.vectors = vectors
        self.buckets = buckets
        self.k = k
        self.squares = self.squares_from_each(queries.astype("f8"))

    def squares_from_each(self, queries):
        """The squared distance of every row to each query, from their inner product."""
        squares = numpy.empty((len(queries), len(self.vectors)))
        for begin in range(0, len(self.vectors), ROWS_AT_ONCE):
            rows = self.vectors[begin : begin + ROWS_AT_ONCE].astype("f8")
            part = squares[:, begin : begin + ROWS_AT_ONCE]
            part[:] = numpy.einsum("ij,ij->i", rows, rows) - 2 * queries @ rows.T
            part += numpy.einsum("ij,ij->i", queries, queries)[:, None]
        return squares

    def squares_from(self, query):
        """The squared distance of every row."""
        query = query.astype("f8")
        squares = numpy.empty(len(self.vectors))
        for begin in range(0, len(self.vectors), ROWS_AT_ONCE):
            difference = self.vectors[begin : begin + ROWS_AT_ONCE] - query
            numpy.einsum(
                "ij,ij->i", difference, difference, out=squares[begin : begin + ROWS_AT_ONCE]
            )
        return squares

    def recall(self, answer, squares, percent=100, k=None, leave_out=None):
        """The share of the k nearest rows that the ids of an answer have; ties count as right."""
        allowed = self.buckets < percent
        if leave_out is not None:
            allowed[leave_out - 1] = False
        k = min(k or self.k, int(allowed.sum()))
        limit = numpy.partition(squares[allowed], k - 1)[k - 1] * (1 + TOLERANCE)
        rows = {id - 1 for id in answer[:k]}
        return sum(bool(allowed[row]) and squares[row] <= limit for row in rows) / k

    def distances_differ(self, answer, squares):
        """Whether an answer of (id, distance) is not in order, or tells other distances."""
        ids, found = (numpy.array(column) for column in zip(*answer))
        expected = numpy.sqrt(squares[ids - 1])
        in_order = numpy.all(numpy.diff(found) >= 0)
        return not (in_order and numpy.allclose(found, expected, 1e-6, 1e-6))
