"""A lock file that many readers share or one writer holds, in all processes and threads of one machine.

The lock is filelock's `ReadWriteLock`: a waiting writer gets the lock before later readers, so that a dashboard with
many readers cannot starve it. With four readers that each hold the lock for 10 ms repeatedly, a writer waits
10 to 20 ms in the median and a reader 2 to 5 ms; two `flock` files polled every 3 ms take 5 to 7 ms and 0.2 ms
(`python -m benchmarks.store_lock`).

A child that `os.fork` makes while a thread holds a lock cannot use that lock file; `subprocess` and `spawn` can.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import ReadWriteLock, Timeout

from core.errors import StoreBusy, StoreUnavailable
from core.files.private import close_to_others


@contextmanager
def file_lock(path: Path, *, shared: bool, timeout: float) -> Iterator[None]:
    """Hold `path` shared or exclusively.

    Raises StoreBusy after `timeout` seconds, and StoreUnavailable where the file is not a lock file.
    """
    close_to_others(path)  # an account that cannot open the file cannot hold the lock
    try:
        lock = ReadWriteLock(path, is_singleton=False)  # each thread waits for a lock object of its own
        lock.acquire_read(timeout) if shared else lock.acquire_write(timeout)
    except Timeout:
        raise StoreBusy(f"Expected {path.name} to be free, got a lock that another process still holds.") from None
    except sqlite3.Error as error:
        raise StoreUnavailable(f"Expected {path} to be a lock file, got: {error}.") from error
    try:
        yield
    finally:
        lock.close()
