"""A lock file shared by many readers or held by one writer, across processes and threads of one machine.

A writer that waits is let through before readers that come later, so that a dashboard full of readers cannot starve it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import StoreBusy
from core.files.private import open_lock

PAUSE = 0.003  # seconds between two tries


@contextmanager
def file_lock(path: Path, *, shared: bool, timeout: float) -> Iterator[None]:
    """Hold `path` shared or exclusively; StoreBusy when `timeout` seconds did not suffice."""
    deadline = time.monotonic() + timeout
    with _opened(path.with_name(f"{path.name}.gate")) as gate, _opened(path) as door:
        # A writer keeps the gate closed while it waits at the door; a reader only passes through it.
        _acquire(gate, shared, deadline, path)
        try:
            _acquire(door, shared, deadline, path)
        finally:
            fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    handle = open_lock(path)
    try:
        yield handle
    finally:
        os.close(handle)  # gives the lock back too


def _acquire(handle: int, shared: bool, deadline: float, path: Path) -> None:
    mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise StoreBusy(f"expected {path.name} to be free; another process still holds it") from None
            time.sleep(PAUSE)
