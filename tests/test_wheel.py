"""The wheel that `make test-wheel` has made: installed where there is nothing else, with each of
the builds that it carries and that this CPU runs."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from checkout import succeed
from database import ROOT

sys.path.insert(0, str(ROOT / "src" / "python"))

from sqlite_faiss import extension  # noqa: E402

WHEEL = os.environ.get("SQLITE_FAISS_WHEEL")

pytestmark = pytest.mark.skipif(not WHEEL, reason="make test-wheel makes the wheel")


def levels():
    """The levels in the wheel, the best first, that this CPU runs."""
    if not WHEEL:
        return []
    with zipfile.ZipFile(WHEEL) as archive:
        carried = re.findall(r"^sqlite_faiss/(\w+)/faiss\.so$", "\n".join(archive.namelist()), re.M)
    flags = extension._cpu_flags()
    return [level for level, needed in extension.LEVELS.items() if level in carried and needed <= flags]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python with nothing but the wheel, installed without a network."""
    directory = tmp_path_factory.mktemp("wheel") / "venv"
    succeed(sys.executable, "-m", "venv", "--without-pip", directory)
    python = directory / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    succeed(*pip, "install", "--no-index", WHEEL)
    return python


def run_python(python, program, **environment):
    done = subprocess.run(
        [python, "-c", program],
        cwd=Path(python).parent,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PROGRAM = """
import json, random, sqlite3, sqlite_faiss
db = sqlite3.connect(":memory:")
sqlite_faiss.load(db)
chance = random.Random(3)
db.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
vectors = [[float(chance.randrange(-9, 10)) for _ in range(37)] for _ in range(3000)]
db.executemany("INSERT INTO docs(embedding) VALUES (?)", [[sqlite_faiss.encode(v)] for v in vectors])
db.commit()
found = [
    json.loads(db.execute("SELECT faiss_search_with_scores('main', 'docs', ?, 9)",
                          [sqlite_faiss.encode(query)]).fetchone()[0])
    for query in vectors[:40]
]
expected = []
for query in vectors[:40]:
    scores = [(sum((a - b) ** 2 for a, b in zip(query, v)), i) for i, v in enumerate(vectors, 1)]
    expected.append([[i, score] for score, i in sorted(scores)[:9]])
neighbors = db.execute("SELECT count(*) FROM faiss_neighbors('main', 'docs', 2)").fetchone()[0]
libraries = {line.split()[5] for line in open("/proc/self/maps") if ".so" in line}
version = db.execute("SELECT faiss_version()").fetchone()[0]
print(json.dumps([found == expected, neighbors, version, sorted(libraries)]))
"""


@pytest.mark.parametrize("level", levels())
def test_each_level(python, level):
    """Integers, so that scores are exact in any order of summation; neighbours call BLAS."""
    is_right, neighbors, version, libraries = run_python(python, PROGRAM, SQLITE_FAISS_LEVEL=level)
    assert is_right and neighbors == 6000
    assert version.endswith(f", {level})")
    # What it is linked with comes from the wheel, but for what every Linux has.
    place = str(python.parent.parent)
    for name in "openblas", "gomp", "cjson", "gfortran":
        (library,) = [library for library in libraries if f"/lib{name}" in library]
        assert library.startswith(place), library


def test_the_best_level_is_the_default(python):
    program = "import json, sqlite_faiss; print(json.dumps(sqlite_faiss.loadable_path()))"
    assert Path(run_python(python, program)).parent.name == levels()[0]


def test_more_than_one_level_was_tried():
    assert "generic" in levels() and (len(levels()) > 1 or extension.LEVELS["avx2"] - extension._cpu_flags())


def test_auditwheel_finds_nothing_missing():
    shown = succeed(sys.executable, "-m", "auditwheel", "show", WHEEL)
    tag = re.search(r"py3-none-(manylinux_\w+)\.whl$", WHEEL)[1]
    assert f'"{tag}"' in " ".join(shown.split())


def test_the_loop_over_sketches_is_of_its_level():
    """Its instructions are those of the level: the wheel was not made of one build."""
    with zipfile.ZipFile(WHEEL) as archive:
        builds = {level: archive.read(f"sqlite_faiss/{level}/faiss.so") for level in levels()}
    assert len(set(builds.values())) == len(builds)
