"""Fixtures shared by the suite, the time limit of a test, and Hypothesis's settings."""

import os
import random
from contextlib import closing
from pathlib import Path

BUILD = Path(__file__).resolve().parent.parent / "build"
# Read by Hypothesis when it is first used, so set before its import.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(BUILD / "hypothesis"))
# Sketches also of tables so small that reading their vectors is as fast: tests need not be larger.
os.environ.setdefault("SQLITE_FAISS_SKETCHES", "always")

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import database  # noqa: E402

# What hangs is to end; instrumented code, and a machine that is shared, take their time.
SECONDS_PER_TEST = 1800

settings.register_profile(
    "suite",
    max_examples=30 if database.SANITIZED else 100,
    deadline=None,
    print_blob=True,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
settings.load_profile("suite")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    """Every run draws its own seed and prints it: `--hypothesis-seed=N` repeats the run."""
    if config.getoption("--hypothesis-seed") is None:
        config.option.hypothesis_seed = str(random.SystemRandom().randrange(2**32))
    # Of the FAISS wheel itself, at import.
    config.addinivalue_line("filterwarnings", "ignore:builtin type swig:DeprecationWarning")


def pytest_report_header(config):
    return [
        f"extension: {database.EXTENSION}",
        f"hypothesis seed: {config.getoption('--hypothesis-seed')}",
    ]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS_PER_TEST))


@pytest.fixture
def connect():
    """`database.connect`, whose connections are closed when the test ends."""
    opened = []

    def open_connection(path=":memory:", **options):
        connection = database.connect(path, **options)
        opened.append(connection)
        return connection

    yield open_connection
    for connection in opened:
        connection.close()


@pytest.fixture
def memory(connect):
    """An empty in-memory database."""
    return connect()


# Integer coordinates: every score of theirs is exact in float32, so tests compare with ==.
#   id   vector      squared L2 distance from (0, 0)
#   1    (0, 0)      0
#   2    (3, 4)      25
#   3    (1, 0)      1
#   4    (6, 8)      100
#   5    NULL
#   6    (0, -2)     4
DOCS = [(0, 0), (3, 4), (1, 0), (6, 8), None, (0, -2)]


@pytest.fixture
def docs(memory):
    """`docs` with the six rows above and `docs_index` over it."""
    database.fill(memory, DOCS)
    memory.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    return memory


@pytest.fixture
def docs_file(tmp_path, connect):
    """The path of a file with the same tables."""
    path = tmp_path / "docs.db"
    connection = connect(path)
    database.fill(connection, DOCS)
    connection.execute("CREATE VIRTUAL TABLE docs_index USING faiss(main, docs)")
    connection.close()
    return path


@pytest.fixture
def vectors_left_in_small_tables(monkeypatch):
    """With memory=low, tables that would be too small for it have their rows read again, too."""
    monkeypatch.setenv("SQLITE_FAISS_LOW_MEMORY_ROWS", "1")


@pytest.fixture(autouse=True)
def nothing_lingers(monkeypatch):
    """Indexes outlive their connections for a while, and a new file may have the inode of one that is gone."""
    with monkeypatch.context() as environment:
        environment.setenv("SQLITE_FAISS_LINGER", "0")
        with closing(database.connect()) as connection:
            connection.execute("SELECT * FROM faiss_indexes").fetchall()
