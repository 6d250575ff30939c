"""When this extension has made ready what makes its searches fast: they do it, piece by piece."""

import time

UNCHANGED = 30  # searches that leave the index as it is
SECONDS = 60  # enough: whatever goes on then is measured as it is


def settle(connection, search):
    """Search until no more sketches are made. The seconds up to the search that made the last."""
    begin = last = time.perf_counter()
    bytes_before, unchanged = None, 0
    while unchanged < UNCHANGED and time.perf_counter() - begin < SECONDS:
        search()
        now = time.perf_counter()
        bytes_now = connection.execute("SELECT total(bytes) FROM faiss_indexes").fetchone()[0]
        if bytes_now == bytes_before:
            unchanged += 1
        else:
            bytes_before, unchanged, last = bytes_now, 0, now
    return last - begin
