"""SQLite's steps: counted, they measure work, and limits on them stand for those that hosts set on time, so that no
test depends on the machine."""

import functools
import sqlite3
from contextlib import closing

from database import plain, rows

KNN = "SELECT id, score FROM docs_ann WHERE embedding MATCH ? AND k = 5"

# What the extension runs every 50 ms of long work, for the host's handler to be asked.
POLL = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300) SELECT count(*) FROM n"

# How it reads an index that is stored.
STORED = "SELECT part, checksum"


class Steps:
    """Counts the steps of a connection's statements, by `each`, those of the extension's own statements included, and
    interrupts them when they are more than `most`. Polls are left out: how many there are depends on time. `begun`: how
    many there were before a stored index was looked at."""

    def __init__(self, connection, most=None, each=1):
        self.connection, self.most, self.each = connection, most, each
        self.all, self.polls, self.begun = 0, 0, None

    @staticmethod
    @functools.cache
    def of_a_poll():
        with closing(plain()) as connection, Steps(connection) as steps:
            connection.execute(POLL).fetchall()
        return steps.all

    @property
    def count(self):
        return max(self.all - self.polls * Steps.of_a_poll(), 0) if self.polls else self.all

    def step(self):
        self.all += self.each
        return self.most is not None and self.count > self.most

    def run(self, text):
        if text.endswith(POLL):
            self.polls += 1
        elif STORED in text and self.begun is None:
            self.begun = self.count

    def __enter__(self):
        self.connection.set_trace_callback(self.run)
        self.connection.set_progress_handler(self.step, self.each)
        return self

    def __exit__(self, *_):
        self.connection.set_progress_handler(None, 0)
        self.connection.set_trace_callback(None)


def count_steps(connection, sql, parameters=(), each=1):
    """How many steps SQLite runs for a query, by `each`: those that read rows, above all."""
    with Steps(connection, each=each) as steps:
        connection.execute(sql, parameters).fetchall()
    return steps.count


def under_limit(connection, query, steps):
    """The answer, or None if it was interrupted after so many steps."""
    try:
        with Steps(connection, steps):
            return rows(connection, KNN, [query])
    except sqlite3.OperationalError as error:
        assert str(error) == "interrupted"
        return None


def until_answered(connections, query, limits, between=lambda statement: None, most=60):
    """The answer, and how many statements it took, of connections in turn, after their first ones, which are
    interrupted when the loading has begun."""
    first, later = limits
    for connection in connections:
        assert under_limit(connection, query, first) is None
    for statement in range(1, most):
        answer = under_limit(connections[statement % len(connections)], query, later)
        if answer is not None:
            return answer, statement
        between(statement)
    raise AssertionError(f"interrupted {most} times")
