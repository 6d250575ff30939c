"""Measuring in processes of their own: where things lie in memory lasts as long as a process."""

import concurrent.futures
import multiprocessing
import time


def milliseconds(run):
    begin = time.perf_counter()
    result = run()
    return (time.perf_counter() - begin) * 1000, result


class Processes:
    """Runs functions, each call in a new process, and remembers what went wrong."""

    def __init__(self):
        self.failures = []

    def run(self, function, subject, *arguments):
        """None if it failed."""
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as process:
            try:
                return process.submit(function, subject, *arguments).result()
            except Exception as error:
                message = f"{subject}, {function.__name__}: {type(error).__name__}: {error}"
                self.failures.append(message)
                return None
