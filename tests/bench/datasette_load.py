#!/usr/bin/env python3
"""Requests per second of a Datasette with this plugin, beside one with datasette-faiss.

    datasette_load.py --extension build/faiss --work build/bench [--data DIR] [--seconds 60]

Two servers, one database, the same queries: each client asks over HTTP for the 10 rows nearest
to a row, and is answered in JSON. Clients are processes with a connection that they keep. The
two servers are asked in turns of some seconds; the one whose turn it is not is idle. Every
answer is compared with brute force in float64.
"""

import argparse
import contextlib
import http.client
import itertools
import json
import multiprocessing
import os
import pathlib
import re
import sqlite3
import statistics
import subprocess
import sys
import time
import urllib.parse

import numpy

from report import Table, describe_machine, finish, print_machine, say
from vectors import add_arguments, read_or_make

ROOT = pathlib.Path(__file__).resolve().parents[2]
K = 10
TURNS = 4
SECONDS_TO_START = 300
# What is searched for: rows whose answers are known.
ASKED = 200

SQL = {
    "faiss_search": "select faiss_search('packages', 'packages',"
    f" (select embedding from packages where id = :id), {K})",
    "faiss_search_with_scores": "select faiss_search_with_scores('packages', 'packages',"
    f" (select embedding from packages where id = :id), {K})",
}


# ---- servers ----


def write_database(path, vectors):
    path.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE packages(id INTEGER PRIMARY KEY, embedding BLOB)")
        db.executemany(
            "INSERT INTO packages VALUES (?, ?)",
            ((id, vector.tobytes()) for id, vector in enumerate(vectors, 1)),
        )


def install_reference(directory):
    """The Python of an environment with datasette-faiss, made here when it is not there yet."""
    wanted = pathlib.Path(__file__).with_name("datasette_faiss.txt")
    installed, python = directory / "installed", directory / "bin" / "python"
    if not installed.exists() or installed.read_text() != wanted.read_text():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", wanted]
        subprocess.run([python, *install], check=True)
        installed.write_text(wanted.read_text())
    return python


def own_environment(work, extension):
    """The sources as an installed package, with the extension under test."""
    info = work / "installed" / "sqlite_faiss-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: sqlite-faiss\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[datasette]\nfaiss = datasette_faiss\n")
    library = (
        extension if extension.suffix == ".so" else extension.with_name(extension.name + ".so")
    )
    return {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src" / "python"), str(info.parent)]),
        "SQLITE_FAISS_LIBRARY": str(library),
    }


@contextlib.contextmanager
def serve(name, python, variables, database, work, cores):
    configuration = work / "metadata.json"
    block = {"datasette-faiss": {"tables": [["packages", "packages"]]}}
    configuration.write_text(json.dumps({"plugins": block}))
    log = work / f"{name}.log"
    command = [python, "-m", "datasette", "serve", database, "--metadata", configuration]
    command += ["--host", "127.0.0.1", "--port", "0", "--setting", "num_sql_threads", str(cores)]
    command += ["--setting", "sql_time_limit_ms", "30000"]
    with (
        open(log, "w") as output,
        subprocess.Popen(
            list(map(str, command)),
            env={**os.environ, **variables},
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        ) as process,
    ):
        try:
            deadline = time.monotonic() + SECONDS_TO_START
            while process.poll() is None and time.monotonic() < deadline:
                running = re.search(r"running on http://127\.0\.0\.1:(\d+)", log.read_text())
                if running:
                    break
                time.sleep(0.1)
            else:
                raise RuntimeError(f"{name} does not run: {log.read_text()[-2000:]}")
            yield int(running[1])
        finally:
            process.kill()


# ---- clients ----


def ask(connection, sql, id):
    query = urllib.parse.urlencode({"sql": sql, "id": id, "_shape": "arrayfirst"})
    connection.request("GET", f"/packages.json?{query}")
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {body[:300]!r}")
    return json.loads(json.loads(body)[0])


def client(port, name, first, expected, seconds, found):
    """Ask until the time is over; puts (seconds of each request, what was wrong) into `found`."""
    times, wrong = [], []
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    deadline = time.monotonic() + seconds
    for turn in itertools.count(first):
        id = list(expected)[turn % len(expected)]
        begun = time.monotonic()
        if begun >= deadline:
            break
        try:
            answer = ask(connection, SQL[name], id)
            ids = [each[0] if isinstance(each, list) else each for each in answer]
            if not equally_near(ids, expected[id]):
                wrong.append(f"row {id}: {ids}")
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            wrong.append(f"row {id}: {error}")
            connection.close()
        times.append(time.monotonic() - begun)
    found.put((times, wrong[:5], len(wrong)))


def equally_near(ids, expected):
    """The same scores in the same order: rows at one distance may change places."""
    scores = expected
    return len(set(ids)) == K and all(
        abs(scores.get(id, numpy.inf) - best) <= 1e-5
        for id, best in zip(ids, sorted(scores.values()))
    )


def turn(port, name, clients, expected, seconds):
    """(seconds of every request, what was wrong, how many were)."""
    found = multiprocessing.Queue()
    processes = [
        multiprocessing.Process(
            target=client, args=(port, name, 25 * number, expected, seconds, found)
        )
        for number in range(clients)
    ]
    for process in processes:
        process.start()
    answers = [found.get(timeout=seconds + 120) for _ in processes]
    for process in processes:
        process.join()
    times, wrong, counts = zip(*answers)
    return [t for each in times for t in each], [w for each in wrong for w in each], sum(counts)


def brute_force(vectors, ids):
    """id -> the scores of the K nearest rows and those as near as the last, by id."""
    matrix = vectors.astype("f8")
    norms = (matrix**2).sum(axis=1)
    truth = {}
    for id in ids:
        query = matrix[id - 1]
        scores = norms - 2 * matrix @ query + query @ query
        last = numpy.partition(scores, K - 1)[K - 1]
        near = numpy.flatnonzero(scores <= last + 1e-5)
        truth[id] = {int(row) + 1: float(scores[row]) for row in near}
    return truth


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--extension", required=True, type=pathlib.Path)
    parser.add_argument("--work", required=True, type=pathlib.Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60, help="for each server")
    parser.add_argument("--json", default="", help="file for every figure")
    options = parser.parse_args()
    machine = describe_machine()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    vectors, _, origin = read_or_make(options)
    database = work / "packages.db"
    write_database(database, vectors)
    step = max(1, len(vectors) // ASKED)
    expected = brute_force(vectors, range(1, len(vectors) + 1, step))
    say("datasette-faiss")
    reference = install_reference(work / "datasette-faiss")
    failures, figures = [], {}
    with contextlib.ExitStack() as servers:
        cores = os.cpu_count()
        own = own_environment(work, options.extension.resolve())
        ports = {
            name: servers.enter_context(serve(name, python, variables, database, work, cores))
            for name, python, variables in [
                ("sqlite-faiss", sys.executable, own),
                ("datasette-faiss", reference, {}),
            ]
        }
        for port in ports.values():
            turn(port, "faiss_search", options.clients, expected, 3)  # everything is warm
        for query in SQL:
            for number in range(TURNS):
                for name in sorted(ports, reverse=number % 2 == 0):
                    say(f"{query}: {name}")
                    seconds = options.seconds / TURNS / len(SQL)
                    times, wrong, count = turn(
                        ports[name], query, options.clients, expected, seconds
                    )
                    entry = figures.setdefault(
                        (query, name), {"rates": [], "times": [], "wrong": 0}
                    )
                    entry["rates"].append(len(times) / seconds)
                    entry["times"] += times
                    entry["wrong"] += count
                    failures += [f"{name}, {query}, {text}" for text in wrong]
    show(machine, options, vectors, origin, figures)
    everything = {f"{query}, {name}": entry for (query, name), entry in figures.items()}
    finish(failures, "Every answer was right.", options.json, {"machine": machine, **everything})


def show(machine, options, vectors, origin, figures):
    print_machine(machine)
    rows, dimension = vectors.shape
    print(f"{rows:,} x {dimension} ({origin}), {options.clients} clients, k = {K}")
    table = Table(28, 16, 12, 12, 10, 8, 9)
    for query in SQL:
        table.heading(query, "requests/s", "median ms", "99 % ms", "errors", "goal", "reached")
        rates = {}
        for name in "sqlite-faiss", "datasette-faiss":
            entry = figures[query, name]
            rates[name] = statistics.median(entry["rates"])
            times = sorted(entry["times"])
            table.line(
                name,
                f"{rates[name]:,.1f}",
                f"{1000 * statistics.median(times):,.1f}",
                f"{1000 * times[int(0.99 * len(times))]:,.1f}",
                str(entry["wrong"]),
            )
        ratio = rates["sqlite-faiss"] / rates["datasette-faiss"]
        goal = table.goal(f"{query}, requests/s, ratio", ratio, 3, at_least=True)
        table.line("ratio", f"{ratio:.2f}", "", "", "", *goal)
    table.summary()


if __name__ == "__main__":
    main()
