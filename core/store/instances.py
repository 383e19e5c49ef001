"""Instances of DuckDB, kept from one read or transaction to the next, because each new one takes 20 ms of CPU time.

Each attaches the store's file only for as long as it is used, so that another process can write in between.
"""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path
from typing import NamedTuple

import duckdb

# A connection that only reads reaches no other file and no network, whatever a query contains.
SHUT_IN: dict[str, str | bool | int | float | list[str]] = {"enable_external_access": False, "lock_configuration": True}
KEPT = 4  # instances that wait for their next use


class Use(NamedTuple):
    """What an instance is kept for. process: a forked process does not have the threads of its parent's instances."""

    process: int
    path: Path
    read_only: bool


_waiting: list[tuple[Use, duckdb.DuckDBPyConnection]] = []
_lock = threading.Lock()


def attached(path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Return an instance that has this file attached; one that reads reaches no other file.

    Raises duckdb.Error where the file cannot be opened.
    """
    instance = _taken(_use(path, read_only)) or (_shut_in(path) if read_only else duckdb.connect(":memory:"))
    try:
        instance.execute(f"ATTACH {literal(path.absolute())} AS store" + (" (READ_ONLY)" if read_only else ""))
        instance.execute("USE store")
    except duckdb.Error:
        instance.close()
        raise
    return instance


def put_back(path: Path, instance: duckdb.DuckDBPyConnection, *, read_only: bool) -> None:
    """Close the file and keep the instance for its next use; the one that has waited longest may be closed for it."""
    try:
        instance.execute("USE memory")
        instance.execute("DETACH store")
    except duckdb.Error:  # what was committed is in the log
        close(instance)
        return
    with _lock:
        _waiting.append((_use(path, read_only), instance))
        own = [each for each in _waiting if each[0].process == os.getpid()]
        if len(own) > KEPT:
            _waiting.remove(own[0])
            close(own[0][1])


def close(instance: duckdb.DuckDBPyConnection) -> None:
    """Close an instance; closing a damaged file fails too."""
    with contextlib.suppress(duckdb.Error):
        instance.close()


def _use(path: Path, read_only: bool) -> Use:
    return Use(os.getpid(), path, read_only)


def _taken(use: Use) -> duckdb.DuckDBPyConnection | None:
    with _lock:
        for number, (kept_for, instance) in enumerate(_waiting):
            if kept_for == use:
                del _waiting[number]
                return instance
    return None


def _shut_in(path: Path) -> duckdb.DuckDBPyConnection:
    instance = duckdb.connect(":memory:")
    files = ", ".join(literal(each.absolute()) for each in (path, path.with_name(f"{path.name}.wal")))
    instance.execute(f"SET allowed_paths = [{files}]")  # possible only before access is restricted
    for name, value in SHUT_IN.items():
        instance.execute(f"SET {name} = {value}")
    return instance


def without_patterns(path: Path) -> str:
    """Return a path as a pattern that matches only itself, for functions of DuckDB that read several files."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path))


def literal(value: object) -> str:
    """Return a text or a path as a literal of SQL."""
    return "'" + str(value).replace("'", "''") + "'"
