"""The contenders over one set of vectors: each in a process of its own, all of them alive at the
same time and searching in turn, a few queries each, so that they meet the same machine."""

import multiprocessing
import os
import pathlib
import re
import statistics
import threading
import time

import numpy

from contenders import BASE
from processes import milliseconds
from report import say

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
BUILD_SECONDS, CALL_SECONDS = 900, 180
# What a contender searches in one turn: queries, and the seconds after which a slow one stops.
TURN, TURN_SECONDS = 5, 0.5
RATE_SECONDS = 0.5
SEARCHES = {  # of each part: (k, percent of the rows), and in which rounds
    "latency": [((10, 100), 1), ((100, 100), 3)],
    "filtered": [((10, 1), 2), ((10, 10), 2)],
}


# ---- in the process of a contender ----


class Session:
    def __init__(self, contender, place, queries):
        self.contender, self.place, self.queries = contender, place, queries

    def build(self):
        return self.contender.build(self.place)

    def first(self):
        """From opening to the first answer, in ms."""
        self.contender.load(self.place)
        self.before = status_mib("VmRSS"), status_mib("RssAnon")
        query = self.queries[0]

        def run():
            self.contender.open(self.place)
            return self.contender.search(query, 10)

        return milliseconds(run)[0]

    def settle(self):
        """Searches until they are as fast as they get."""
        at = 0

        def search():
            nonlocal at
            self.contender.search(self.queries[at % len(self.queries)], 10)
            at += 1

        self.contender.settle(search)
        search()

    def resident(self):
        """How far memory has risen since before opening, at its peak, and without files, in MiB."""
        before, anonymous = self.before
        peak = status_mib("VmHWM") - before
        return status_mib("VmRSS") - before, peak, status_mib("RssAnon") - anonymous

    def turn(self, k, percent, first):
        """[(query number, ms, ms of CPU, ids)] of some searches, after one that does not count."""
        found = []
        begin = time.perf_counter()
        for at in range(first, first + TURN + 1):
            number = at % len(self.queries)
            worked = time.process_time()
            took, ids = milliseconds(lambda: self.search(self.queries[number], k, percent))
            worked = (time.process_time() - worked) * 1000
            if at > first:
                found.append((number, took, worked, ids))
                if time.perf_counter() - begin > TURN_SECONDS:
                    break
        return found

    def search(self, query, k, percent):
        if percent == 100:
            return self.contender.search(query, k)
        return self.contender.filtered(query, k, percent)

    def rate(self, threads):
        """Searches a second of so many threads together."""
        searchers = [self.contender] + [self.contender.another() for _ in range(1, threads)]
        rates = [0] * threads
        start = threading.Barrier(threads)

        def work(number):
            searcher, at = searchers[number], number * len(self.queries) // threads
            searcher.search(self.queries[at], 10)
            start.wait()
            begin = end = time.perf_counter()
            done = 0
            while end - begin < RATE_SECONDS:
                searcher.search(self.queries[(at + done) % len(self.queries)], 10)
                done += 1
                end = time.perf_counter()
            rates[number] = done / (end - begin)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(rates)


def status_mib(field):
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"^{field}:\s*(\d+) kB", status, re.MULTILINE)[1]) / 1024


def serve(pipe, session):
    while (request := pipe.recv()) is not None:
        method, *arguments = request
        try:
            pipe.send((True, getattr(session, method)(*arguments)))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))


class Failed(Exception):
    """Why a contender gave no answer; `gone`: its process is no more."""

    def __init__(self, reason, gone=False):
        super().__init__(reason)
        self.gone = gone


class Player:
    """A contender's process, seen from outside."""

    def __init__(self, contender, place, queries, one_thread):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        session = Session(contender, place, queries)
        self.process = context.Process(target=serve, args=(other, session), daemon=True)
        before = dict(os.environ)
        os.environ.update(ONE_THREAD if one_thread else {})
        try:
            self.process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        other.close()

    def ask(self, method, *arguments, seconds=CALL_SECONDS):
        try:
            self.pipe.send((method, *arguments))
            if not self.pipe.poll(seconds):
                self.process.kill()
                raise Failed(f"{method} took more than {seconds} s", gone=True)
            done, result = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise Failed(f"{method}: ended with status {self.process.exitcode}", gone=True)
        if not done:
            raise Failed(result)
        return result

    def close(self):
        try:
            self.pipe.send(None)
        except OSError:
            pass
        self.process.join(10)
        self.process.kill()
        self.process.join()
        self.pipe.close()


# ---- the contest ----


class Entry:
    """What is known of a contender: lists of measurements, and what failed."""

    def __init__(self, contender):
        self.contender = contender
        self.player = None
        self.build = None
        self.failed = None  # why there is nothing at all
        self.missing = {}  # (k, percent) or part: why it has none
        self.first_ms, self.resident_mib = [], []
        self.answers = {}  # (k, percent): [(query number, ms, ms of CPU, ids)]
        self.rates = {1: [], 2: []}

    def __str__(self):
        return self.contender.name

    def ask(self, what, method, *arguments):
        """What the process answers; None, and the reason kept, if it cannot."""
        if self.failed or what in self.missing:
            return None
        try:
            return self.player.ask(method, *arguments)
        except Failed as failure:
            self.missing[what] = str(failure)
            if failure.gone or what == "first":
                self.failed = str(failure)
            return None

    def summary(self, truth):
        """For tables, plots and JSON."""
        found = {
            "exact": getattr(self.contender, "exact", None),
            "failed": self.failed,
            "missing": {str(what): reason for what, reason in self.missing.items()},
            "build": self.build,
            "first_ms": middle(self.first_ms),
            "resident_mib": middle([each[0] for each in self.resident_mib]),
            "peak_mib": middle([each[1] for each in self.resident_mib]),
            "anonymous_mib": middle([each[2] for each in self.resident_mib]),
            "rates": {str(threads): middle(rates) for threads, rates in self.rates.items()},
            "searches": {},
        }
        for (k, percent), answers in self.answers.items():
            times, work = ([answer[at] for answer in answers] for at in (1, 2))
            recalls = [
                truth.recall(ids, truth.squares[number], percent, k)
                for number, ids in {answer[0]: answer[3] for answer in answers}.items()
            ]
            found["searches"][f"{k} {percent}"] = {
                "median_ms": statistics.median(times),
                "p95_ms": float(numpy.percentile(times, 95)),
                "median_cpu_ms": statistics.median(work),
                "p95_cpu_ms": float(numpy.percentile(work, 95)),
                "times": len(times),
                "recall": statistics.mean(recalls),
            }
        return found


def middle(values):
    return statistics.median(values) if values else None


def build_all(entries, place, queries):
    """Each index once, in a process of its own; contenders of the same index share it."""
    built = {}
    for entry in entries:
        key = entry.contender.index_key()
        most = entry.contender.most
        if most is not None and place.rows * place.dimension > most:
            entry.failed = f"too slow or too large beyond {most:,} numbers"
        elif key in built:
            entry.build, entry.failed = built[key]
        else:
            say(f"build: {entry}")
            player = Player(entry.contender, place, queries, one_thread=False)
            try:
                entry.build = player.ask("build", seconds=BUILD_SECONDS)
            except Failed as failure:
                entry.failed = str(failure)
            player.close()
            built[key] = entry.build, entry.failed


def in_turn(entries, number):
    first = number % len(entries)
    return entries[first:] + entries[:first]


def generation(entries, place, queries, parts, rounds, number):
    """One process of each contender, from opening to closing."""
    alive = [entry for entry in in_turn(entries, number) if not entry.failed]
    try:
        for entry in alive:
            entry.player = Player(
                entry.contender, place, queries, one_thread=entry.contender.one_thread
            )
            keep(entry.first_ms, entry.ask("first", "first"))
        for entry in alive:
            entry.ask("settle", "settle")
            keep(entry.resident_mib, entry.ask("resident", "resident"))
        wanted = [search for part in parts for search in SEARCHES.get(part, ())]
        for round in range(rounds):
            for (k, percent), every in wanted:
                if round % every == 0:
                    take_turns(alive, k, percent, number * rounds + round)
        if "threads" in parts:
            for entry in alive:
                for threads in entry.rates:
                    keep(entry.rates[threads], entry.ask("threads", "rate", threads))
    finally:
        for entry in alive:
            if entry.player:
                entry.player.close()
                entry.player = None


def take_turns(entries, k, percent, number):
    for entry in in_turn(entries, number):
        found = entry.ask((k, percent), "turn", k, percent, number * TURN)
        if found:
            entry.answers.setdefault((k, percent), []).extend(found)


def keep(list_of, value):
    if value is not None:
        list_of.append(value)


def run_contest(contenders, place, queries, truth, parts, rounds, generations):
    """{contender: its summary}, in the order given; the base of all ratios must be among them."""
    entries = [Entry(contender) for contender in contenders]
    build_all(entries, place, queries)
    for number in range(generations):
        say(f"searches in turn, processes {number + 1} of {generations}")
        generation(entries, place, queries, parts, rounds, number)
    found = {str(entry): entry.summary(truth) for entry in entries}
    if found[BASE]["failed"]:
        raise RuntimeError(f"{BASE}: {found[BASE]['failed']}")
    return found
