"""What the tests in the browser share: two servers and one Chromium."""

import contextlib
import os
import sqlite3

import pytest

from browsing import Browser, start_chromium
from instances import (
    PYTHONS,
    VERSIONS,
    configured,
    make_blog,
    read_vectors,
    serve,
    vectors,
    write_configuration,
)


def pytest_configure():
    """The plugin is tested with every version of Datasette, or not at all."""
    for version, python in PYTHONS.items():
        if not os.path.exists(python):
            pytest.exit(
                f"Datasette {version}: there is no {python}; make test-datasette makes it", 4
            )


@pytest.fixture(scope="session")
def shown_files(tmp_path_factory):
    directory = tmp_path_factory.mktemp("browser")
    large = directory / "large.db"
    with contextlib.closing(sqlite3.connect(large)) as db, db:
        db.execute("CREATE TABLE points(id INTEGER PRIMARY KEY, name TEXT, embedding BLOB)")
        db.executemany(
            "INSERT INTO points VALUES (?, ?, ?)",
            [(id, f"p{id}", vector.tobytes()) for id, vector in enumerate(vectors(25_001, 4), 1)],
        )
    return make_blog(directory / "blog.db"), large


@pytest.fixture(scope="session", params=VERSIONS)
def shown(request, shown_files, tmp_path_factory):
    directory = tmp_path_factory.mktemp("site")
    tables = configured(["blog", "embeddings"], {"database": "large", "table": "points"})
    option = write_configuration(directory, request.param, tables)
    with serve(request.param, directory, *shown_files, *option) as server:
        server.wait_for_log("large.points: indexed 25,001 rows")
        server.wait_for_log("blog.embeddings: indexed 300 rows")
        yield server


@pytest.fixture(scope="session")
def posts(shown_files):
    return read_vectors(shown_files[0])


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    driver = start_chromium(tmp_path_factory.mktemp("chromium"))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium, shown):
    """A page of a server with blog.embeddings and large.points; no script may complain."""
    browser = Browser(chromium, shown)
    yield browser
    browser.look()
    assert browser.complaints() == []
