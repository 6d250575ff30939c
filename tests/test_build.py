"""The Makefile and what it makes: what faiss.so exports, when something is built anew, installing,
the messages about what is missing, and another FAISS in the same process."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from checkout import BUILD, copy_sources, make, run
from database import EXTENSION, ROOT

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("SQLITE_FAISS_SANITIZE")), reason="tested with the plain build"
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the sources, built by a parallel make with the FAISS that is built already."""
    directory = copy_sources(tmp_path_factory.mktemp("build") / "tree")
    done = make(directory, "-j4")
    assert done.returncode == 0, done.stdout
    return directory


def objects_made(tree, *arguments):
    """The objects and libraries in build/ that a make makes anew."""
    files = [*(tree / "build").glob("*.o"), tree / "build" / "faiss.so"]
    before = {file: file.stat().st_mtime_ns for file in files}
    done = make(tree, *arguments)
    assert done.returncode == 0, done.stdout
    return {file.name for file in files if file.stat().st_mtime_ns != before[file]}


# ---- what faiss.so shows ----


def test_only_the_entry_points_are_exported():
    lines = run("nm", "-D", "--defined-only", EXTENSION + ".so").stdout.splitlines()
    symbols = sorted(line.split()[-1] for line in lines)
    assert symbols == ["sqlite3_faiss_host_init", "sqlite3_faiss_init"]


def test_openblas_is_the_openmp_flavour():
    flavour = Path(f"/usr/lib/{os.uname().machine}-linux-gnu/openblas-openmp")
    if not flavour.exists():
        pytest.skip("this system has no OpenBLAS in Debian's place")
    libraries = run("ldd", EXTENSION + ".so").stdout
    assert f"libopenblas.so.0 => {flavour}" in libraries


# ---- when something is built ----


def test_a_second_make_makes_nothing(tree):
    assert make(tree, "-q").returncode == 0
    assert objects_made(tree) == set()


def test_a_header_makes_those_that_include_it(tree):
    header = tree / "src" / "json.h"
    header.touch()
    including = {
        f"{source.stem}.o"
        for source in (tree / "src").glob("*.c")
        if f"{source.stem}.o: " in (tree / "build" / f"{source.stem}.d").read_text()
        and "src/json.h" in (tree / "build" / f"{source.stem}.d").read_text()
    }
    assert including
    assert objects_made(tree) == including | {"faiss.so"}
    assert objects_made(tree) == set()


def test_another_flag_makes_all_objects(tree):
    made = objects_made(tree, "CFLAGS=-O1", "-j2")
    assert {f"{source.stem}.o" for source in (tree / "src").glob("*.c")} <= made
    assert make(tree, "-j2").returncode == 0


def test_sql_files_become_one_header(tree):
    # A directory of its own: src/ need not compile with this file.
    (tree / "sql").mkdir(exist_ok=True)
    file = tree / "sql" / "made_by_a_test.sql"
    file.write_text("-- A comment; it's left out.\nSELECT \"a\\b\"\n\n  -- more\n  FROM t;\n")
    try:
        done = make(tree, "build/sql.h")
        assert done.returncode == 0, done.stdout
        header = (tree / "build" / "sql.h").read_text()
    finally:
        file.unlink()
    assert '#define SQL_MADE_BY_A_TEST "SELECT \\"a\\\\b\\" FROM t;"\n' in header
    assert make(tree, "-j2").returncode == 0


def test_install(tree, tmp_path):
    done = make(tree, "install", f"DESTDIR={tmp_path}", "PREFIX=/opt/faiss")
    assert done.returncode == 0, done.stdout
    installed = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert installed == [tmp_path / "opt/faiss/lib/sqlite3/faiss.so"]
    assert installed[0].read_bytes() == (tree / "build" / "faiss.so").read_bytes()
    make(tree, "uninstall", f"DESTDIR={tmp_path}", "PREFIX=/opt/faiss")
    assert not installed[0].exists()


def test_help_names_every_target():
    makefile = (ROOT / "Makefile").read_text()
    shown = run("make", "help").stdout
    targets = "all test test-asan test-tsan test-valgrind demo bench install format clean"
    for name in targets.split():
        assert f"\n{name}" in makefile or f" {name}" in makefile
        assert f" {name}" in shown


# ---- one clear line when something is missing ----


def last_lines(done):
    """What was said, without make's own last words."""
    assert done.returncode != 0
    return [line for line in done.stdout.splitlines() if not line.startswith("make")]


def other_faiss(directory, version, c_api=True):
    (directory / "faiss").mkdir()
    (directory / "c_api").mkdir()
    major, minor = version.split(".")
    (directory / "faiss" / "Index.h").write_text(
        f"#define FAISS_VERSION_MAJOR {major}\n#define FAISS_VERSION_MINOR {minor}\n"
    )
    if c_api:
        (directory / "c_api" / "IndexFlat_c.h").touch()
    return f"FAISS_SOURCE={directory}"


def test_sqlite_too_old(tree, tmp_path):
    (tmp_path / "sqlite3ext.h").write_text("#define SQLITE_VERSION_NUMBER 3037002\n")
    done = make(tree, "build/checked", f"CPPFLAGS=-I{tmp_path}")
    assert last_lines(done) == [
        "sqlite-faiss: SQLite's headers are of version 3.37.2; 3.39.0 or newer is needed"
    ]


def test_faiss_of_another_version(tree, tmp_path):
    done = make(tree, "build/checked", "FAISS_PREFIX=", other_faiss(tmp_path, "1.9"))
    assert last_lines(done) == [
        "sqlite-faiss: FAISS's headers are of version 1.9; "
        "this extension is made for 1.12 (FAISS_VERSIONS)"
    ]


def test_faiss_without_c_api(tree, tmp_path):
    done = make(tree, "build/checked", "FAISS_PREFIX=", other_faiss(tmp_path, "1.12", c_api=False))
    assert last_lines(done) == [
        "sqlite-faiss: this FAISS has no C API: c_api/IndexFlat_c.h not found"
    ]


def test_no_faiss_at_the_prefix(tree, tmp_path):
    done = make(tree, f"FAISS_PREFIX={tmp_path}")
    assert f"FAISS_PREFIX: no libfaiss_c.a and no libfaiss_c.so in {tmp_path}/lib" in done.stdout
    assert len(done.stdout.splitlines()) == 1 and done.returncode != 0


def test_unknown_level(tree):
    done = make(tree, "FAISS_PREFIX=", "FAISS_LEVEL=sse9")
    assert "FAISS_LEVEL is 'sse9'; it must be avx512, avx2 or generic" in done.stdout
    assert len(done.stdout.splitlines()) == 1 and done.returncode != 0


def test_a_checksum_that_differs(tree):
    lock = tree / "src" / "faiss" / "Cargo.lock"
    good = lock.read_text()
    checksum = good.partition('checksum = "')[2][:8]
    lock.write_text(good.replace(checksum, "00000000"))
    try:
        done = run("src/faiss/build.sh", "fetch", tree / "build" / "refused", cwd=tree)
    finally:
        lock.write_text(good)
    if "cargo: command not found" in done.stdout:
        pytest.skip("cargo is not needed with FAISS_PREFIX or FAISS_SOURCE")
    assert done.returncode != 0
    assert "checksum for `faiss-sys v0.7.0` changed between lock files" in done.stdout


def test_packages_that_cannot_be_installed(tmp_path):
    # A system with nothing but what the script itself uses: no compiler and no apt-get.
    for tool in "bash env uname flock awk sort head id".split():
        (tmp_path / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        [ROOT / ".ci" / "packages", "build"],
        env={"PATH": str(tmp_path), "CC": "cc", "CXX": "g++"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 1
    said, line = done.stdout.splitlines()
    assert said == (
        "sqlite-faiss: there is no apt-get here to install what is missing. "
        "Needed (Debian's names):"
    )
    assert line.startswith("    apt-get install gcc g++ libsqlite3-dev libcjson-dev")


# ---- Python's faiss beside ours ----

TWO_FAISS = """
import sqlite3, sys, numpy

def load_module():
    import faiss
    return faiss

def load_extension():
    connection = sqlite3.connect(":memory:")
    connection.enable_load_extension(True)
    connection.load_extension(sys.argv[1])
    return connection

if sys.argv[2] == "module first":
    faiss = load_module()
    connection = load_extension()
else:
    connection = load_extension()
    faiss = load_module()

generator = numpy.random.default_rng(20)
vectors = generator.standard_normal((2000, 64), dtype=numpy.float32)
queries = generator.standard_normal((50, 64), dtype=numpy.float32)
connection.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
connection.executemany(
    "INSERT INTO docs VALUES (?, ?)", [(i, v.tobytes()) for i, v in enumerate(vectors)]
)

index = faiss.IndexFlatL2(64)
index.add(vectors)
expected = index.search(queries, 5)[1]
graph = faiss.index_factory(64, "HNSW16")  # runs its OpenMP threads
graph.add(vectors)
for query, neighbours in zip(queries, expected):
    ids = connection.execute("SELECT faiss_search('main', 'docs', ?, 5)", [query.tobytes()])
    assert ids.fetchone()[0] == str(neighbours.tolist())
    index.search(query[None], 5)

# An error that one of them throws is caught by the same one.
try:
    index.search(numpy.zeros((1, 3), dtype=numpy.float32), 5)
    raise SystemExit("a query of another dimension was accepted by the module")
except AssertionError:
    pass
try:
    faiss.index_factory(64, "Nonsense")
    raise SystemExit("a factory string that means nothing was accepted by the module")
except RuntimeError:
    pass
try:
    connection.execute("SELECT faiss_search('main', 'docs', X'00000000', 5)").fetchall()
    raise SystemExit("a query of another dimension was accepted by the extension")
except sqlite3.OperationalError:
    pass
assert (index.search(queries, 5)[1] == expected).all()
print("both answer")
"""


@pytest.mark.parametrize("order", ["module first", "extension first"])
def test_beside_the_python_module(order):
    done = run(sys.executable, "-c", TWO_FAISS, EXTENSION, order)
    assert done.stdout == "both answer\n"
    assert done.returncode == 0
