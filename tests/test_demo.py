"""The example in examples/packages: its sample, its database, its demo, and all its questions
against brute force in float64."""

import gzip
import json
import lzma
import re
import sqlite3
import subprocess
import sys
from collections import namedtuple
from contextlib import closing

import numpy
import pytest

import database
import oracle
from database import column, rows, scalar

EXAMPLE = database.ROOT / "examples" / "packages"
SAMPLE_FILES = ["packages.f16.xz", "packages.jsonl.xz", "questions.f16.xz", "questions.json"]

# What demo.sql asks, in its order, and the five nearest packages of each. Their distances differ
# by far more than float32 rounds, so that no CPU may find another order.
NEAREST = {
    "nearest neighbour search of vectors": (
        "libfaiss-dev r-cran-fnn r-cran-rann ann-tools libcneartree7"
    ),
    "play chess against the computer": "stockfish hoichess gnuchess gnome-chess phalanx",
    "manage passwords securely": "secrets impass pass passwordsafe password-gorilla",
    "spell checker dictionary for Polish": "ipolish aspell-pl hunspell-pl wpolish myspell-pl",
    "static website generator": "lektor staticsite hugo pelican jekyll",
}
FIRST_QUESTIONS, LAST_QUESTIONS = list(NEAREST)[:2], list(NEAREST)[2:]


def finish(*command, **options):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=600, **options
    )


def run(*command, **options):
    """The output of a command that must succeed without complaint."""
    done = finish(*command, **options)
    assert (done.returncode, done.stderr) == (0, ""), f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(out, sample=EXAMPLE):
    # -I -S: without any site-packages, so with the standard library only.
    return finish(sys.executable, "-I", "-S", EXAMPLE / "build_db.py", out, sample)


@pytest.fixture(scope="module")
def packages_db(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "packages.db"
    done = build(out)
    assert done.returncode == 0, done.stderr
    return out


Sample = namedtuple("Sample", "packages vectors questions asked")


@pytest.fixture(scope="module")
def sample(packages_db):
    """What the database has: the packages' names, their embeddings in float64, the questions, and
    their embeddings as BLOBs."""
    with closing(database.plain(packages_db)) as connection:
        packages = rows(connection, "SELECT id, package, embedding FROM packages ORDER BY id")
        questions = rows(connection, "SELECT question, embedding FROM questions ORDER BY id")
    ids, names, vectors = zip(*packages)
    assert ids == tuple(range(1, len(ids) + 1))
    return Sample(names, oracle.matrix(vectors), *zip(*questions))


def squared_distances(sample, query):
    """In float64, of the BLOB `query` to each package."""
    return oracle.scores(oracle.matrix([query])[0], sample.vectors)


def assert_nearest(ids, scores, truth):
    """`ids`, counting from 1, are the nearest rows by the float64 scores in `truth`, and `scores`
    are theirs. Rows that float32 cannot tell apart may come in either order."""
    assert len(set(ids)) == len(ids)
    found = truth[numpy.array(ids) - 1]
    numpy.testing.assert_allclose(found, numpy.sort(truth)[: len(ids)], rtol=0, atol=2e-6)
    numpy.testing.assert_allclose(scores, found, rtol=0, atol=2e-6)


# The demo


@pytest.fixture(scope="module")
def demo(packages_db):
    """What the demo prints: under each heading a table, its header and its rows."""
    output = run(EXAMPLE / "demo.sh", database.EXTENSION, packages_db)
    before, *parts = re.split(r"^== (.*) ==\n", output, flags=re.MULTILINE)
    assert before.strip() == ""
    tables = {}
    for heading, body in zip(parts[::2], parts[1::2]):
        header, _, *lines = [line for line in body.splitlines() if line.strip()]
        tables[heading] = cells(header), [cells(line) for line in lines]
    return tables


def cells(line):
    """The cells of a line in the shell's column mode, which leaves two blanks or more between."""
    return re.split(r" {2,}", line.strip())


def assert_answers(sample, question, found):
    """`found` are (package, description, distance) as printed."""
    assert [package for package, _, _ in found] == NEAREST[question].split()
    truth = squared_distances(sample, sample.asked[sample.questions.index(question)])
    for package, description, distance in found:
        assert description
        exact = truth[sample.packages.index(package)] ** 0.5
        assert float(distance) == pytest.approx(exact, abs=0.00051)


@pytest.mark.parametrize("question", FIRST_QUESTIONS)
def test_demo_answers_a_question(demo, sample, question):
    header, found = demo[question]
    assert header == ["package", "description", "distance"]
    assert_answers(sample, question, found)


def test_demo_answers_three_questions_in_one_statement(demo, sample):
    header, found = demo["three questions in one statement"]
    assert header == ["question", "package", "description", "distance"]
    assert [question for question, *_ in found[::5]] == LAST_QUESTIONS
    for question in LAST_QUESTIONS:
        assert_answers(sample, question, [row for asked, *row in found if asked == question])


def test_demo_joins_the_json_array(demo, sample):
    header, found = demo["packages like libfaiss-dev, without the virtual table"]
    assert header == ["package", "description"]
    related = [sample.packages.index(package) for package, _ in found]
    assert sample.packages[related[0]] == "libfaiss-dev"
    truth = oracle.scores(sample.vectors[related[0]], sample.vectors)
    assert related == numpy.argsort(truth, kind="stable")[:5].tolist()


def test_demo_shows_its_one_index(demo):
    header, found = demo["the indexes of this process: one, shared by everything above"]
    assert len(found) == 1
    index = dict(zip(header, found[0]))
    assert index["table"] == "packages"
    assert (index["rows"], index["dimension"]) == ("4000", "384")
    assert (index["metric"], index["kind"]) == ("l2", "Flat")
    assert int(index["bytes"]) >= 4000 * 384 * 4
    assert 0 <= float(index["build_seconds"]) < 60
    # Two questions, three in one statement, and the JSON array.
    assert index["searches"] == "6"


def test_demo_runs_again_on_its_database(demo, packages_db):
    assert "stockfish" in run(EXAMPLE / "demo.sh", database.EXTENSION, packages_db)


def test_demo_makes_a_missing_database(tmp_path):
    out = tmp_path / "packages.db"
    assert "libfaiss-dev" in run(EXAMPLE / "demo.sh", database.EXTENSION, out)
    assert out.exists()


def test_demo_stops_without_the_extension(packages_db, tmp_path):
    done = finish(EXAMPLE / "demo.sh", tmp_path / "absent", packages_db)
    assert done.returncode != 0 and "absent" in done.stderr
    assert done.stdout == ""


def test_commands_of_the_readme(tmp_path, monkeypatch):
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    (tmp_path / "examples").symlink_to(database.ROOT / "examples")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "faiss.so").symlink_to(f"{database.EXTENSION}.so")
    commands = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1]
    assert "stockfish" in run("sh", "-ec", commands, cwd=tmp_path)

    monkeypatch.chdir(EXAMPLE)
    embeddings = eval(re.search(r"`(numpy\.frombuffer.*)`", text)[1])
    assert (embeddings.shape, embeddings.dtype) == ((4000, 384), numpy.float32)


# All the questions. Each form gives id, score and distance, and all must be the same search.
FORMS = {
    "MATCH, LIMIT": (
        "SELECT id, score, distance FROM packages_index"
        " WHERE embedding MATCH :vector ORDER BY distance LIMIT 10"
    ),
    "MATCH, k": (
        "SELECT id, score, distance FROM packages_index WHERE embedding MATCH :vector AND k = 10"
    ),
    "arguments": "SELECT id, score, distance FROM packages_index(:vector, 10)",
    "joined": (
        "SELECT p.id, n.score, n.distance FROM packages_index AS n JOIN packages AS p USING (id)"
        " WHERE n.embedding MATCH :vector ORDER BY n.distance LIMIT 10"
    ),
    "table function": (
        "SELECT id, score, distance FROM faiss_search('packages', 'packages', :vector, 10)"
    ),
    "JSON": (
        "SELECT value ->> 0, value ->> 1, sqrt(value ->> 1) FROM"
        " json_each(faiss_search_with_scores('main', 'packages', :vector, 10))"
    ),
    "aggregate": (
        "SELECT value ->> 0, value ->> 1, sqrt(value ->> 1) FROM json_each("
        "(SELECT faiss_agg_with_scores(id, embedding, :vector, 10) FROM packages))"
    ),
}


@pytest.fixture(scope="module")
def searchable(packages_db):
    with closing(database.connect(packages_db)) as connection:
        connection.execute("DROP TABLE IF EXISTS packages_index")
        connection.execute("CREATE VIRTUAL TABLE packages_index USING faiss(main, packages)")
        yield connection


@pytest.mark.parametrize("form", FORMS)
def test_every_question_equals_brute_force(searchable, sample, form):
    for question, query in zip(sample.questions, sample.asked):
        found = rows(searchable, FORMS[form], {"vector": query})
        assert len(found) == 10, question
        ids, scores, distances = zip(*found)
        assert_nearest(ids, scores, squared_distances(sample, query))
        numpy.testing.assert_allclose(distances, numpy.sqrt(scores), rtol=1e-14)
        assert list(distances) == sorted(distances)


def test_every_question_by_its_ids_alone(searchable, sample):
    for query in sample.asked:
        ids = column(searchable, "SELECT id FROM packages_index(?, 10)", [query])
        for database_name in "main", "packages":
            text = scalar(
                searchable, "SELECT faiss_search(?, 'packages', ?, 10)", [database_name, query]
            )
            assert text == json.dumps(ids)


def test_every_package_is_its_own_nearest(searchable):
    strangers = rows(
        searchable,
        "SELECT p.package, n.id, n.score FROM packages AS p"
        " JOIN packages_index AS n ON n.embedding MATCH p.embedding AND n.k = 1"
        " WHERE p.id % 20 = 0 AND (n.id, n.score) IS NOT (p.id, 0.0)",
    )
    assert strangers == []


# The sample and the scripts


def read_half_floats(path, dimension):
    return numpy.frombuffer(lzma.decompress(path.read_bytes()), "<f2").reshape(-1, dimension)


def test_the_sample_is_small_and_holds_unit_vectors(sample):
    assert len(sample.packages) == len(set(sample.packages)) == 4000
    assert len(sample.questions) == len(set(sample.questions)) == 65
    for vectors in sample.vectors, oracle.matrix(sample.asked):
        assert vectors.shape[1] == 384
        # float16 keeps about three digits of each number.
        numpy.testing.assert_allclose(numpy.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert sum((EXAMPLE / name).stat().st_size for name in SAMPLE_FILES) < 5_000_000


def test_the_database_equals_the_sample(packages_db, sample):
    packages = read_half_floats(EXAMPLE / "packages.f16.xz", 384)
    questions = read_half_floats(EXAMPLE / "questions.f16.xz", 384)
    assert (packages == sample.vectors).all()
    assert (questions == oracle.matrix(sample.asked)).all()
    lines = lzma.decompress((EXAMPLE / "packages.jsonl.xz").read_bytes()).splitlines()
    with closing(database.plain(packages_db)) as connection:
        connection.row_factory = sqlite3.Row
        stored = rows(
            connection,
            "SELECT package, version, section, installed_size, description, tags"
            " FROM packages ORDER BY id",
        )
    assert [dict(row) for row in stored] == [json.loads(line) for line in lines]


@pytest.fixture
def whole_set(tmp_path):
    """A small set in the format that make_sample.py reads."""
    source = tmp_path / "whole"
    source.mkdir()
    random = numpy.random.default_rng(5)
    packages = [
        {
            "package": f"package-{number}",
            "version": "1",
            "section": "misc",
            "installed_size": number,
            # A line of JSON ends where the file says so, not where Unicode does.
            "description": "line\u2028separator, 'quotes\", größer, 日本語",
            "tags": "",
        }
        for number in range(60)
    ]
    with gzip.open(source / "debian-packages.jsonl.gz", "wt", encoding="utf-8") as lines:
        lines.writelines(json.dumps(package) + "\n" for package in packages)
    embeddings = random.normal(size=(60, 8)).astype("<f2")
    # Both zeros, the least subnormals and the largest numbers survive the way to float32.
    embeddings[7] = [0.0, -0.0, 2.0**-24, -(2.0**-24), 65504, -65504, 1, -1]
    asked = random.normal(size=(3, 8)).astype("<f4")
    numpy.save(source / "debian-packages.f16.npy", embeddings)
    numpy.save(source / "queries.f32.npy", asked)
    (source / "queries.json").write_text(json.dumps(["a", "b", "ç"]), encoding="utf-8")
    return source, packages, embeddings, asked


def make_sample(source, output, *options):
    run(sys.executable, EXAMPLE / "make_sample.py", source, "--output", output, *options)
    written = {file.name: file.read_bytes() for file in output.iterdir()}
    assert sorted(written) == SAMPLE_FILES
    return written


def test_make_sample_gives_the_same_bytes_again(whole_set, tmp_path):
    source, packages, embeddings, asked = whole_set
    size = "--size", 20, "--nearest", 4
    first = make_sample(source, tmp_path / "first", *size)
    assert make_sample(source, tmp_path / "second", *size) == first
    assert make_sample(source, tmp_path / "other", *size, "--seed", 1) != first

    out = tmp_path / "small.db"
    assert build(out, tmp_path / "first").returncode == 0
    with closing(database.plain(out)) as connection:
        stored = rows(
            connection,
            "SELECT installed_size, package, description, embedding FROM packages ORDER BY id",
        )
        questions = rows(connection, "SELECT question, embedding FROM questions ORDER BY id")
    chosen = [number for number, *_ in stored]
    assert len(chosen) == 20 and chosen == sorted(set(chosen))
    for number, package, description, embedding in stored:
        assert package == packages[number]["package"]
        assert description == packages[number]["description"]
        assert embedding == embeddings[number].astype("<f4").tobytes()
    assert questions == [
        (question, query.astype("<f2").astype("<f4").tobytes())
        for question, query in zip(["a", "b", "ç"], asked)
    ]
    for query in asked.astype("f8"):
        nearest = numpy.argsort(oracle.scores(query, embeddings.astype("f8")), kind="stable")[:4]
        assert set(nearest.tolist()) <= set(chosen)


def test_make_sample_can_take_everything(whole_set, tmp_path):
    source, packages, embeddings, _ = whole_set
    make_sample(source, tmp_path / "all", "--size", 1000)
    out = tmp_path / "all.db"
    assert build(out, tmp_path / "all").returncode == 0
    with closing(database.plain(out)) as connection:
        stored = rows(connection, "SELECT package, embedding FROM packages ORDER BY id")
    assert stored == [
        (package["package"], embedding.astype("<f4").tobytes())
        for package, embedding in zip(packages, embeddings)
    ]


def test_make_sample_refuses_arrays_that_do_not_fit(whole_set, tmp_path):
    source, _, embeddings, _ = whole_set
    numpy.save(source / "debian-packages.f16.npy", embeddings[:-1])
    done = finish(sys.executable, EXAMPLE / "make_sample.py", source, "--output", tmp_path / "out")
    assert done.returncode != 0 and "60 packages have 59 embeddings" in done.stderr


def test_build_db_replaces_a_file_only_when_it_succeeds(whole_set, tmp_path):
    cut = tmp_path / "cut"
    make_sample(whole_set[0], cut)
    whole = (cut / "packages.f16.xz").read_bytes()
    (cut / "packages.f16.xz").write_bytes(lzma.compress(lzma.decompress(whole)[:-2]))
    out = tmp_path / "packages.db"
    out.write_text("not a database")

    failed = build(out, cut)
    assert failed.returncode != 0 and "packages.f16.xz" in failed.stderr
    assert out.read_text() == "not a database"

    (cut / "packages.f16.xz").write_bytes(whole)
    assert build(out, cut).returncode == 0
    with closing(database.plain(out)) as connection:
        assert scalar(connection, "SELECT count(*) FROM packages") == 60
    assert [file.name for file in tmp_path.glob("packages.db*")] == ["packages.db"]


def test_build_db_says_how_it_is_called():
    done = finish(sys.executable, EXAMPLE / "build_db.py")
    assert done.returncode != 0 and "usage: build_db.py OUT.db" in done.stderr
