"""How long a writer of the store waits under four busy readers: `python -m benchmarks.store_lock`.

Four processes repeatedly take the shared lock for as long as the query of a page does. One process takes the exclusive
lock, as the record worker does, and measures each wait. The peer is a pair of polled `flock` files.
"""

from __future__ import annotations

import fcntl
import multiprocessing as mp
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path

from core.files.file_lock import file_lock
from core.processes import die_with_parent

TARGET = 0.1  # seconds that a writer waits, median
READERS, HELD = 4, 0.01
WRITES, ROUNDS, BETWEEN = 50, 3, 0.02


@contextmanager
def flocks(path: Path, *, shared: bool) -> Iterator[None]:
    """Lock a file with `flock`; a waiting writer locks a second file, which readers must lock briefly first."""
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with path.with_suffix(".waiting").open("a") as waiting, path.open("a") as lock:
        for file in (waiting, lock):
            while True:
                try:
                    fcntl.flock(file, mode | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.003)
        fcntl.flock(waiting, fcntl.LOCK_UN)
        yield


def taken(kind: str, path: Path, *, shared: bool) -> AbstractContextManager[None]:
    return flocks(path, shared=shared) if kind == "flock" else file_lock(path, shared=shared, timeout=60)


def read(kind: str, path: Path, begun: Event, ended: Event, reads: mp.SimpleQueue[list[float]]) -> None:
    """Repeatedly take the shared lock until the benchmark has ended; send the seconds of each wait."""
    die_with_parent(os.getppid())
    waits = []
    while not ended.is_set():
        started = time.perf_counter()
        with taken(kind, path, shared=True):
            waits.append(time.perf_counter() - started)
            begun.set()
            time.sleep(HELD)
    reads.put(waits)


def waits(kind: str, folder: Path) -> tuple[list[float], list[float]]:
    """Return the seconds that each write and each read waited."""
    context = mp.get_context("spawn")
    path, ended, reads = folder / f"{kind}.lock", context.Event(), context.SimpleQueue()
    begun = [context.Event() for _ in range(READERS)]
    readers = [context.Process(target=read, args=(kind, path, each, ended, reads), daemon=True) for each in begun]
    for reader in readers:
        reader.start()
    for each in begun:
        each.wait(60)
    writes = []
    for _ in range(WRITES):
        time.sleep(BETWEEN)
        started = time.perf_counter()
        with taken(kind, path, shared=False):
            writes.append(time.perf_counter() - started)
    ended.set()
    found = [each for _ in readers for each in reads.get()]
    for reader in readers:
        reader.join(10)
    return writes, found


def main() -> int:
    medians: dict[str, list[float]] = {"store": [], "flock": []}
    threading.Thread(target=threading.Event().wait, daemon=True).start()  # the record worker has threads too
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for kind, found in medians.items():
                writes, reads = waits(kind, Path(folder))
                found.append(statistics.median(writes))
                print(
                    f"round {number + 1}, {kind}: a writer waits {1000 * found[-1]:.1f} ms in the median, "
                    f"{1000 * max(writes):.0f} ms at most; a reader {1000 * statistics.median(reads):.1f} ms, "
                    f"{1000 * max(reads):.0f} ms at most; {len(reads)} reads"
                )
    store, peer = (statistics.median(found) for found in medians.values())
    print(f"store lock: {1000 * store:.1f} ms; flock: {1000 * peer:.1f} ms; ratio {store / peer:.1f}")
    print(f"target: {1000 * TARGET:.0f} ms: {'met' if store <= TARGET else 'MISSED'}")
    return 0 if store <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
