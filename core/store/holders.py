"""Which processes hold a file, by the kernel's list of locks or of open files, and their descriptions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

LOCKS = Path("/proc/locks")
LONGEST = 100  # characters of a command
AGAIN = 0.05  # seconds until a second look: processes of DermSlim open the store for milliseconds


def holders(path: Path) -> list[int]:
    """Return the processes that hold a lock on the file now; on Linux. None for a file that is gone."""
    try:
        facts = path.stat()
    except OSError:
        return []
    try:
        lines = LOCKS.read_text().splitlines()
    except OSError:
        return sorted(_opening(path))
    certain: set[int] = set()
    likely: set[int] = set()
    for words in (line.split() for line in lines if "->" not in line):  # an arrow: it waits for the lock
        device, _, inode = words[5].rpartition(":")
        if inode == str(facts.st_ino):
            same = device == f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}"
            (certain if same else likely).add(int(words[4]))
    # On some file systems the kernel's device number differs from the one that `stat` returns.
    found = certain | (likely & _opening(path) if likely else set())
    return sorted(pid for pid in found if pid > 0 and pid != os.getpid())


def strangers(store: Path, lock: Path) -> list[int]:
    """Return the processes that hold the store without DermSlim's own lock, now and a moment later too."""
    found = set(holders(store)) - set(holders(lock))
    if found:
        time.sleep(AGAIN)
        found &= set(holders(store)) - set(holders(lock))
    return sorted(found)


def described(pids: Iterable[int]) -> str:
    """Return processes as `process 12 (python notebook.py, of ann)`; empty where there is none."""
    return ", ".join(f"process {pid} ({_named(pid)})" for pid in pids)


def _named(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            # Three words, and no address or option with a value, which may hold a password.
            words = [word for word in process.cmdline()[1:3] if not {"=", "@"} & set(word)]
            return f"{' '.join((process.name(), *words))[:LONGEST].strip()}, of {process.username()}"
    except (psutil.Error, KeyError):  # an account without a name
        return "gone, or of another account"


def _opening(path: Path) -> set[int]:
    """Return the processes of this account that have the file open; those of others cannot be examined."""
    name = str(path.resolve())
    opened = {each.pid: each.info["open_files"] or () for each in psutil.process_iter(["open_files"])}
    return {pid for pid, files in opened.items() if any(file.path == name for file in files)} - {os.getpid()}
