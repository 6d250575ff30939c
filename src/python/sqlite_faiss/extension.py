"""Finding the extension for this CPU, and loading it into a connection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# From the best down, with what each takes as /proc/cpuinfo calls it; a CPU that is not
# x86-64 runs "generic" only. The Makefile has the same list.
LEVELS = {
    "avx512": {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"},
    "avx2": {"avx2", "fma", "f16c"},
    "generic": set(),
}
HOST_ENTRY_POINT = "sqlite3_faiss_host_init"


def loadable_path() -> str:
    """The file of the extension, for load_extension() or `datasette --load-extension`.

    The package may carry several builds, each for a SIMD level; this is the best one that
    the CPU can run. The environment can say otherwise: SQLITE_FAISS_LEVEL names a level
    (avx512, avx2, generic), SQLITE_FAISS_LIBRARY the file of another build.

    RuntimeError where there is no such file, or the CPU cannot run what is asked for.
    Reads /proc/cpuinfo up to the first CPU's flags.
    """
    library = os.environ.get("SQLITE_FAISS_LIBRARY")
    if library:
        if not os.path.isfile(library):
            raise RuntimeError(f"SQLITE_FAISS_LIBRARY: there is no file {library}")
        return os.path.abspath(library)
    files = {level: Path(__file__).with_name(level) / "faiss.so" for level in LEVELS}
    carried = [level for level, file in files.items() if file.exists()]
    runnable = [level for level in carried if LEVELS[level] <= _cpu_flags()]
    asked = os.environ.get("SQLITE_FAISS_LEVEL")
    if asked and asked not in carried:
        raise RuntimeError(
            f"SQLITE_FAISS_LEVEL is {asked!r}: this package has {', '.join(carried) or 'none'}"
        )
    if asked and asked not in runnable:
        raise RuntimeError(f"SQLITE_FAISS_LEVEL is {asked!r}, which this CPU cannot run")
    if not runnable:
        raise RuntimeError(
            "sqlite-faiss has no extension for this CPU"
            + (f", only for {', '.join(carried)}" if carried else ": it was not built")
        )
    return str(files[asked or runnable[0]])


def load(connection: Any) -> None:
    """Load the extension into a connection: its SQL functions, and the module faiss.

    `connection` is a sqlite3.Connection, an apsw.Connection, a sqlite_utils.Database, or
    works like one of them. Extension loading is allowed for the call, where it is not
    allowed already. Some milliseconds the first time in a process.

    RuntimeError as loadable_path() says, or where Python's sqlite3 module was built
    without extension loading; what the driver raises where loading fails.
    """
    _load(connection, None)


def load_host(connection: Any) -> None:
    """Load the extension as load() does, and the functions faiss_publish(), faiss_unpublish()
    and faiss_limit(), by which a server makes tables of this connection searchable from all
    of its connections.

    Only for a connection that runs nobody else's SQL.
    """
    _load(connection, HOST_ENTRY_POINT)


def _load(connection: Any, entry_point: str | None) -> None:
    # sqlite_utils.Database wraps a sqlite3.Connection.
    driver = getattr(connection, "conn", connection)
    path = loadable_path()
    if not hasattr(driver, "enable_load_extension"):
        raise RuntimeError(
            f"{type(driver).__module__}.{type(driver).__name__} cannot load extensions: this "
            "Python was built without --enable-loadable-sqlite-extensions"
        )
    try:
        _load_file(driver, path, entry_point)
        return
    except Exception as error:
        if "not authorized" not in str(error):
            raise
    driver.enable_load_extension(True)
    try:
        _load_file(driver, path, entry_point)
    finally:
        driver.enable_load_extension(False)


def _load_file(driver: Any, path: str, entry_point: str | None) -> None:
    if entry_point is None:
        driver.load_extension(path)
    else:
        # sqlite3's method takes an entry point since Python 3.12 only.
        driver.execute("SELECT load_extension(?, ?)", (path, entry_point)).fetchall()


def _cpu_flags() -> set[str]:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as cpus:
            for line in cpus:
                if line.startswith("flags"):
                    return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()
