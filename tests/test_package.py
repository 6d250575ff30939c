"""The Python package: loading the extension with every driver, the choice of a build, and the
wheel, made from a copy of the sources and installed where there is nothing else."""

import os
import re
import sqlite3
import subprocess
import sys
import sysconfig
import zipfile
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from checkout import copy_sources, make, succeed
from database import EXTENSION, ROOT

sys.path.insert(0, str(ROOT / "src" / "python"))

import sqlite_faiss  # noqa: E402
from sqlite_faiss import extension  # noqa: E402

LIBRARY = EXTENSION if EXTENSION.endswith(".so") else EXTENSION + ".so"

# A build under a sanitizer needs its runtime in the process, and is no wheel.
plain_build = pytest.mark.skipif(
    bool(os.environ.get("SQLITE_FAISS_SANITIZE")), reason="tested with the plain build"
)


@pytest.fixture(autouse=True)
def build_under_test(monkeypatch):
    monkeypatch.setenv("SQLITE_FAISS_LIBRARY", LIBRARY)
    monkeypatch.delenv("SQLITE_FAISS_LEVEL", raising=False)


# ---- loading ----


def opened(driver, path=":memory:"):
    """The text of a program that opens `db` by a driver. A process can have one copy of SQLite
    with the extension, so that each driver has its own."""
    return {
        "sqlite3": f"import sqlite3; db = sqlite3.connect({path!r})",
        "apsw": f"import apsw; db = apsw.Connection({path!r})",
        "sqlite_utils": f"import sqlite_utils; db = sqlite_utils.Database({path!r})",
    }[driver]


def run_program(text):
    package = {"PYTHONPATH": str(ROOT / "src" / "python")}
    return succeed(sys.executable, "-c", text, **package).strip()


LOADED = """
import sqlite_faiss
sqlite_faiss.load(db)
print(list(db.execute("SELECT hex(faiss_encode('[1]'))")))
try:
    list(db.execute("SELECT load_extension('nothing')"))
except Exception as error:
    print(error)
"""


@pytest.mark.parametrize("driver", ["sqlite3", "apsw", "sqlite_utils"])
def test_load(driver):
    vector, refusal = run_program(opened(driver) + LOADED).splitlines()
    assert vector == "[('0000803F',)]" and "not authorized" in refusal


HOST_LOADED = """
import sqlite_faiss
sqlite_faiss.load_host(db)
list(db.execute("CREATE TABLE docs(embedding)"))
list(db.execute("SELECT faiss_publish('shop', 'docs')"))
print(list(db.execute("SELECT faiss_search('shop', 'docs', '[1]', 1), faiss_unpublish('shop')")))
"""


@pytest.mark.parametrize("driver", ["sqlite3", "apsw", "sqlite_utils"])
def test_load_host(driver, tmp_path):
    assert run_program(opened(driver, str(tmp_path / "shop.db")) + HOST_LOADED) == "[('[]', 1)]"


BOTH_COPIES = """
import apsw, sqlite3, sqlite_faiss
first, second = sqlite3.connect(":memory:"), apsw.Connection(":memory:")
sqlite_faiss.load(first)
for load in sqlite_faiss.load, sqlite_faiss.load_host:
    try:
        load(second)
    except Exception as error:
        print(error)
print(*first.execute("SELECT faiss_dimension('[1, 2]')").fetchone())
print(*second.execute("SELECT 1").fetchone())
"""


def test_two_copies_of_sqlite():
    *refusals, first, second = run_program(BOTH_COPIES).splitlines()
    expected = f"({sqlite3.sqlite_version}, this is {apsw.sqlite_lib_version()}): use one of them"
    assert len(refusals) == 2 and all(expected in refusal for refusal in refusals)
    assert (first, second) == ("2", "1")


def test_loading_stays_allowed_where_it_was():
    with closing(sqlite3.connect(":memory:")) as db:
        db.enable_load_extension(True)
        sqlite_faiss.load(db)
        db.load_extension(LIBRARY)  # once more, as a host does with an extension after ours


def test_loading_is_forbidden_again_after_a_failure(tmp_path, monkeypatch):
    (tmp_path / "faiss.so").write_bytes(b"no library")
    monkeypatch.setenv("SQLITE_FAISS_LIBRARY", str(tmp_path / "faiss.so"))
    with closing(sqlite3.connect(":memory:")) as db:
        with pytest.raises(sqlite3.OperationalError, match="faiss.so"):
            sqlite_faiss.load(db)
        with pytest.raises(sqlite3.OperationalError, match="not authorized"):
            db.execute("SELECT load_extension(?)", [LIBRARY])


def test_a_python_without_extension_loading():
    class Connection:
        pass

    with pytest.raises(RuntimeError, match="without --enable-loadable-sqlite-extensions"):
        sqlite_faiss.load(Connection())


def test_another_library(tmp_path, monkeypatch):
    assert sqlite_faiss.loadable_path() == LIBRARY
    monkeypatch.setenv("SQLITE_FAISS_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(RuntimeError, match="SQLITE_FAISS_LIBRARY: there is no file .*none.so"):
        sqlite_faiss.loadable_path()


# ---- the choice of a build ----

AVX2 = extension.LEVELS["avx2"]
AVX512 = AVX2 | extension.LEVELS["avx512"]


@pytest.fixture
def carry(tmp_path, monkeypatch):
    """Make a package that carries builds of these levels, for a CPU with these flags."""

    def make_package(levels, flags):
        monkeypatch.delenv("SQLITE_FAISS_LIBRARY")
        monkeypatch.setattr(extension, "__file__", str(tmp_path / "extension.py"))
        monkeypatch.setattr(extension, "_cpu_flags", lambda: flags | {"sse2"})
        for level in levels:
            (tmp_path / level).mkdir()
            (tmp_path / level / "faiss.so").touch()

    return make_package


@pytest.mark.parametrize(
    "levels, flags, chosen",
    [
        (["generic", "avx2", "avx512"], set(), "generic"),
        (["generic", "avx2", "avx512"], AVX2, "avx2"),
        (["generic", "avx2", "avx512"], AVX2 - {"fma"}, "generic"),
        (["generic", "avx2", "avx512"], AVX512, "avx512"),
        (["generic", "avx2", "avx512"], AVX512 - {"avx512bw"}, "avx2"),
        (["generic", "avx2"], AVX512, "avx2"),
        (["generic"], AVX512, "generic"),
    ],
)
def test_the_best_build_that_runs(carry, levels, flags, chosen):
    carry(levels, flags)
    assert Path(sqlite_faiss.loadable_path()).parent.name == chosen


def test_a_level_is_forced(carry, monkeypatch):
    carry(["generic", "avx2", "avx512"], AVX2)
    for level in "generic", "avx2":
        monkeypatch.setenv("SQLITE_FAISS_LEVEL", level)
        assert Path(sqlite_faiss.loadable_path()).parent.name == level
    monkeypatch.setenv("SQLITE_FAISS_LEVEL", "avx512")
    with pytest.raises(RuntimeError, match="'avx512', which this CPU cannot run"):
        sqlite_faiss.loadable_path()
    monkeypatch.setenv("SQLITE_FAISS_LEVEL", "sse9")
    with pytest.raises(RuntimeError, match="'sse9': this package has avx512, avx2, generic"):
        sqlite_faiss.loadable_path()


def test_no_build_for_this_cpu(carry):
    carry(["avx2"], set())
    with pytest.raises(RuntimeError, match="no extension for this CPU, only for avx2"):
        sqlite_faiss.loadable_path()


def test_no_build_at_all(carry):
    carry([], AVX2)
    with pytest.raises(RuntimeError, match="it was not built"):
        sqlite_faiss.loadable_path()


def test_the_levels_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    asked = dict(re.findall(r"\$\(call has,(.*)\),(\w+)\)", makefile))
    assert {level: set(flags.split()) for flags, level in asked.items()} == {
        level: flags for level, flags in extension.LEVELS.items() if flags
    }


# ---- the wheel ----

pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return copy_sources(tmp_path_factory.mktemp("package") / "sources")


@pytest.fixture(scope="module")
def wheel(sources):
    """What `pip install .` makes, with the backend that is installed already."""
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", sources.parent]
    succeed(*pip, "wheel", *options, ".", cwd=sources)
    (wheel,) = sources.parent.glob("*.whl")
    return wheel


def new_environment(directory):
    succeed(sys.executable, "-m", "venv", "--without-pip", directory)
    return directory / "bin" / "python"


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python with nothing but the wheel."""
    python = new_environment(tmp_path_factory.mktemp("bare") / "venv")
    succeed(*pip, "--python", python, "install", "--no-index", wheel)
    return python


def run_python(python, *arguments, **environment):
    """The output of a Python that sees nothing of this suite's own environment."""
    done = subprocess.run(
        [python, *arguments],
        cwd=Path(python).parent,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@plain_build
def test_what_the_wheel_carries(wheel, sources):
    level = make(sources, "level").stdout.strip()
    assert wheel.name.startswith("sqlite_faiss-") and "-py3-none-linux_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        text = archive.read(metadata).decode()
    assert {
        "sqlite_faiss/__init__.py",
        "sqlite_faiss/py.typed",
        f"sqlite_faiss/{level}/faiss.so",
        "datasette_faiss/__init__.py",
        "datasette_faiss/templates/row.html",
        "datasette_faiss/static/map.js",
        "datasette_faiss/static/faiss.css",
    } <= names
    assert {name for name in names if name.endswith(".so")} == {f"sqlite_faiss/{level}/faiss.so"}
    version = make(sources, "-s", "version").stdout.strip()
    assert f"\nVersion: {version}\n" in text


SEARCH = """
import sqlite3, sqlite_faiss
db = sqlite3.connect(":memory:")
sqlite_faiss.load(db)
db.execute("CREATE TABLE docs(id INTEGER PRIMARY KEY, embedding BLOB)")
vectors = [[0, 0], [3, 4], [1, 0]]
db.executemany("INSERT INTO docs(embedding) VALUES (?)", [[sqlite_faiss.encode(v)] for v in vectors])
print(db.execute("SELECT faiss_search('main', 'docs', '[2, 0]', 2)").fetchone()[0])
print(db.execute("SELECT faiss_version()").fetchone()[0])
"""


@plain_build
def test_the_wheel_works_where_nothing_else_is(python, sources):
    ids, version = run_python(python, "-c", SEARCH).splitlines()
    assert ids == "[3, 1]"
    assert make(sources, "level").stdout.strip() in version
    command = "import sqlite_faiss; print(sqlite_faiss.__version__)"
    assert version.startswith(run_python(python, "-c", command) + " ")


TIME_IMPORT = """
import time
begin = time.process_time()
import sqlite_faiss
print(time.process_time() - begin)
"""


@plain_build
def test_import_reads_little(python):
    """Under 50 ms on any machine means few modules; the time itself is measured, with room."""
    command = "import sys; before = set(sys.modules); import sqlite_faiss; print(sorted(set(sys.modules) - before))"
    imported = run_python(python, "-S", "-c", "import site; site.main(); " + command)
    assert not {"numpy", "importlib.metadata", "datasette", "sqlite3"} & set(eval(imported))
    times = [float(run_python(python, "-c", TIME_IMPORT)) for _ in range(5)]
    assert min(times) < 0.05


@plain_build
def test_an_editable_install_follows_make(sources, tmp_path):
    python = new_environment(tmp_path / "venv")
    options = ["--no-index", "--no-deps", "--no-build-isolation"]
    # The build backend runs in the new environment, and is in this one.
    backend = {"PYTHONPATH": sysconfig.get_path("purelib")}
    succeed(*pip, "--python", python, "install", *options, "--editable", sources, **backend)
    assert "[3, 1]" in run_python(python, "-c", SEARCH)
    command = "import os, sqlite_faiss; print(os.path.realpath(sqlite_faiss.loadable_path()))"
    assert run_python(python, "-c", command) == str(sources / "build" / "faiss.so")


# ---- sqlite-utils ----


@plain_build
def test_the_sqlite_utils_plugin(python, tmp_path):
    """Its commands have the functions as soon as the wheel is beside it."""
    beside = {"PYTHONPATH": sysconfig.get_path("purelib")}
    query = ["-m", "sqlite_utils", "query", tmp_path / "new.db"]
    assert "FAISS" in run_python(python, *query, "SELECT faiss_version() AS v", **beside)
    cannot = {**beside, "SQLITE_FAISS_LIBRARY": "/nowhere"}
    assert run_python(python, *query, "SELECT 1 AS one", **cannot) == '[{"one": 1}]'


# ---- beside the plugin whose place it takes ----


STARTUP = """
import click, datasette.app
from sqlite_faiss import conflict
assert [plugin["name"] for plugin in datasette.app.Datasette()._plugins()] == []
try:
    conflict.startup(datasette=None)
except click.ClickException as error:
    print(error.message)
"""


def test_the_other_plugin_is_noticed(tmp_path):
    metadata = tmp_path / "datasette_faiss-0.2.1.dist-info"
    metadata.mkdir()
    package = str(ROOT / "src" / "python")
    assert succeed(sys.executable, "-c", STARTUP, PYTHONPATH=package) == ""
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: datasette-faiss\nVersion: 0.2.1\n")
    said = succeed(sys.executable, "-c", STARTUP, PYTHONPATH=f"{package}:{tmp_path}")
    assert said == (
        "sqlite-faiss takes the place of datasette-faiss, and both are installed (0.2.1). Run: "
        "pip uninstall datasette-faiss; then pip install --force-reinstall sqlite-faiss\n"
    )
