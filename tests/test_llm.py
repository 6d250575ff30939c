"""The example with llm and openai-to-sqlite, and databases that these tools have made: run with
`make test-llm`, which installs them beside the suite."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing

import numpy
import pytest

import database
import oracle
import test_readme
from database import EXTENSION, ROOT, column, rows

PYTHON = os.environ.get("SQLITE_FAISS_LLM_PYTHON")

pytestmark = pytest.mark.skipif(not PYTHON, reason="make test-llm installs the tools")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """What the example prints, and the directory with its databases."""
    place = tmp_path_factory.mktemp("llm")
    packages, out = place / "packages.db", place / "out"
    build = [test_readme.DEBIAN_PYTHON, ROOT / "examples/packages/build_db.py", packages]
    subprocess.run(build, check=True, capture_output=True)
    library = EXTENSION if EXTENSION.endswith(".so") else EXTENSION + ".so"
    script = ["sh", ROOT / "examples/llm/example.sh", library, packages, PYTHON, out]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, out


def test_the_readme_shows_it(example):
    (block,) = [block for block in test_readme.of_kind("sh") if block.text == "make example-llm"]
    test_readme.assert_shows(block, example[0])


def test_answers_are_those_of_llm(example):
    """The example prints both, one below the other."""
    by_llm, by_sql = example[0].split("== ")[1:3]
    names = [line.split(" (")[0] for line in by_llm.splitlines()[1::2]]
    assert names == [line.split("|")[0] for line in by_sql.splitlines()[1:]]
    assert len(names) == 3


@pytest.fixture
def llm_database(example, tmp_path):
    path = tmp_path / "llm.db"
    shutil.copy(example[1] / "llm.db", path)
    return path


def of_llm(connection, collection="packages"):
    found = rows(
        connection,
        "SELECT e.rowid, e.id, e.embedding FROM embeddings AS e JOIN collections AS c "
        "ON c.id = e.collection_id WHERE c.name = ? ORDER BY e.rowid",
        [collection],
    )
    return found, oracle.matrix([blob for _, _, blob in found])


def test_every_row_of_a_collection(llm_database):
    """Against brute force, in a table that holds two collections under one key."""
    with closing(database.connect(llm_database)) as connection:
        connection.execute(
            "INSERT INTO embeddings(collection_id, id, embedding) "
            "SELECT collection_id + 1, id, embedding FROM embeddings WHERE rowid % 2 = 0"
        )
        connection.execute(
            "INSERT INTO collections(id, name, model) SELECT id + 1, 'half', model FROM collections"
        )
        table, vectors = of_llm(connection)
        for number in 0, 17, 3999:
            found = rows(
                connection,
                "SELECT id, score FROM embeddings_index WHERE embedding MATCH ? AND collection_id = "
                "(SELECT id FROM collections WHERE name = 'packages') ORDER BY distance LIMIT 20",
                [table[number][2]],
            )
            scores = oracle.scores(vectors[number], vectors, "cosine")
            assert [score for _, score in found] == pytest.approx(
                list(numpy.sort(scores)[::-1][:20]), abs=1e-6
            )
            by_id = dict(zip([id for _, id, _ in table], scores))
            assert [by_id[id] for id, _ in found] == pytest.approx([s for _, s in found], abs=1e-6)


def test_llm_writes_to_a_live_table(llm_database, example):
    """It knows nothing of the extension, and its writes are found at once."""
    packages = example[1].parent / "packages.db"
    with closing(sqlite3.connect(packages)) as plain:
        said, vector = plain.execute(
            "SELECT question, embedding FROM questions WHERE question <> 'manage passwords securely'"
        ).fetchone()
    with closing(database.connect(llm_database)) as connection:
        nearest = "SELECT id, score > 0.999 FROM embeddings_index(?, 1)"
        assert rows(connection, nearest, [vector]) != [("my question", 1)]
        script = [PYTHON, ROOT / "examples/llm/offline.py", packages, "llm", "embed", "packages"]
        subprocess.run(
            [*script, "my question", "-m", "packages", "-c", said, "-d", llm_database],
            env={**os.environ, "LLM_USER_PATH": str(llm_database.parent)},
            check=True,
            capture_output=True,
        )
        assert rows(connection, nearest, [vector]) == [("my question", 1)]
        live = 'SELECT DISTINCT live FROM faiss_indexes WHERE "table" = \'embeddings\''
        assert column(connection, live) == ["yes"]


def test_openai_to_sqlite(example):
    with closing(sqlite3.connect(example[1] / "openai.db")) as plain:
        kind = "SELECT type FROM pragma_table_info('embeddings') ORDER BY cid"
        assert column(plain, kind) == ["TEXT", "BLOB"]
    with closing(database.connect(example[1] / "openai.db")) as connection:
        table = rows(connection, "SELECT rowid, id, embedding FROM embeddings ORDER BY rowid")
        assert len(table) == 4000 and len(table[0][2]) == 1536 * 4
        call = "SELECT id, score FROM faiss_search('main', 'embeddings', ?, 5)"
        keys = {id: key for key, id, _ in table}
        answer = [(keys[id], score) for id, score in rows(connection, call, [table[7][2]])]
        oracle.check(answer, table, table[7][2], 5)


def test_the_comparison_runs(example):
    library = EXTENSION if EXTENSION.endswith(".so") else EXTENSION + ".so"
    script = [PYTHON, ROOT / "examples/llm/compare.py", library, example[1] / "llm.db", "2"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0 and "times as fast" in done.stdout, done.stderr
