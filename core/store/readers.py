"""Instances of DuckDB that read a store, kept from one read to the next, because each new one takes 20 ms of CPU time.

Each attaches the store's file for one read only, so that another process can write between two reads.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import duckdb

# A connection that only reads reaches no other file and no network, whatever a query contains.
SHUT_IN: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "lock_configuration": True,
}
KEPT = 4  # instances that wait for the next read

# Process, path and instance. A forked process does not use those of its parent, whose threads it does not have.
_waiting: list[tuple[int, Path, duckdb.DuckDBPyConnection]] = []
_lock = threading.Lock()


def attached(path: Path) -> duckdb.DuckDBPyConnection:
    """Return an instance that reads this file and no other. Raises duckdb.Error where the file cannot be opened."""
    instance = _taken(path) or _new(path)
    try:
        instance.execute(f"ATTACH {_quoted(path)} AS store (READ_ONLY)")
        instance.execute("USE store")
    except duckdb.Error:
        instance.close()
        raise
    return instance


def put_back(path: Path, instance: duckdb.DuckDBPyConnection) -> None:
    """Close the file and keep the instance for the next read; the one that has waited longest may be closed for it."""
    instance.execute("USE memory")
    instance.execute("DETACH store")
    with _lock:
        _waiting.append((os.getpid(), path, instance))
        own = [each for each in _waiting if each[0] == os.getpid()]
        if len(own) > KEPT:
            _waiting.remove(own[0])
            own[0][2].close()


def _taken(path: Path) -> duckdb.DuckDBPyConnection | None:
    with _lock:
        for number, (process, of, instance) in enumerate(_waiting):
            if (process, of) == (os.getpid(), path):
                del _waiting[number]
                return instance
    return None


def _new(path: Path) -> duckdb.DuckDBPyConnection:
    instance = duckdb.connect(":memory:")
    files = ", ".join(_quoted(each) for each in (path, path.with_name(f"{path.name}.wal")))
    instance.execute(f"SET allowed_paths = [{files}]")  # possible only before access is restricted
    for name, value in SHUT_IN.items():
        instance.execute(f"SET {name} = {value}")
    return instance


def _quoted(path: Path) -> str:
    return "'" + str(path.absolute()).replace("'", "''") + "'"
