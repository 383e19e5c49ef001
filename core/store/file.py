"""The DuckDB file, opened for milliseconds under a lock file, with the tables of this version.

DuckDB lets one process write or many read. So each read and each transaction opens the file shortly, and only the
record worker writes.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from core.errors import StoreBusy, StoreDamaged, StoreError, StoreUnavailable
from core.files.file_lock import file_lock
from core.files.private import private_folder
from core.store import instances
from core.store.holders import described, holders
from core.store.migrations import VERSION, applied, migrate

if TYPE_CHECKING:
    # imported where a query is answered: the process that checks a store needs neither
    import pandas as pd
    import pyarrow as pa

# What DuckDB says where the disk, the memory or the account's rights are at fault, and not its file.
NOT_ITS_FAULT = re.compile(
    r"no space left|could not write|could not sync|file too large|"
    r"disk quota|permission denied|read-only file system|too many open files|cannot allocate"
    r"|out of memory|no such file|does not exist|is a directory|newer version of duckdb",
    re.IGNORECASE,
)
DAMAGE = re.compile(r"corrupt|checksum|\bWAL\b")
RESTORE = (
    "Stop DermSlim, keep a copy of the file, and restore the last backup: `python -m jobs restore FILE --force"
    " --without-queue`."
)
DAMAGED = "a damaged file: "  # comes before what DuckDB says
LONGEST_REASON = 300  # characters of what DuckDB says


class StoreFile:
    """Reads, and the record worker's transactions, on one DuckDB file.

    timeout: seconds that an operation waits for the file before it raises StoreBusy. strangers: seconds that it waits
    for a program outside DermSlim, which may hold the file for hours; as long as `timeout` by default. Every operation
    raises StoreDamaged where the file cannot be read, StoreUnavailable where disk, memory or permissions prevent it.
    """

    def __init__(self, path: Path, *, timeout: float = 10.0, strangers: float | None = None) -> None:
        self.path = path
        self.timeout = timeout
        self.strangers = timeout if strangers is None else min(strangers, timeout)

    @contextmanager
    def _open(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._locked(shared=read_only):
            connection = self._connect(read_only)
            try:
                yield connection
            except duckdb.Error as error:
                instances.close(connection)
                raise _told(self.path, error) from error
            except BaseException:
                instances.close(connection)
                raise
            instances.put_back(self.path, connection, read_only=read_only)

    @contextmanager
    def _locked(self, *, shared: bool) -> Iterator[None]:
        lock = lock_path(self.path)
        entered = False
        try:
            with file_lock(lock, shared=shared, timeout=self.timeout):
                entered = True
                yield
        except StoreBusy as error:
            if entered or not (names := described(holders(lock))):
                raise
            raise StoreBusy(f"Expected {self.path.name} to be free, got a lock of {names}.") from error

    def _connect(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.strangers
        while True:
            try:
                return instances.attached(self.path, read_only=read_only)
            except duckdb.Error as error:
                if not (isinstance(error, duckdb.IOException) and "Could not set lock" in str(error)):
                    raise _told(self.path, error) from error
                if time.monotonic() > deadline:
                    holder = re.search(r"\(PID (\d+)\)", str(error))
                    pids = [int(holder[1])] if holder else holders(self.path)
                    raise StoreBusy(
                        f"Expected {self.path.name} to be free, got {described(pids) or 'a program'} outside DermSlim, "
                        "which holds it open. Close it there; `python -m jobs snapshot FOLDER` writes a copy to read."
                    ) from error
                time.sleep(0.05)

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file for writing, at this version of the schema; commit at the end, roll back on an exception."""
        private_folder(self.path.parent)
        with self._open(read_only=False) as connection:
            migrate(connection)
            connection.begin()
            try:
                yield connection
            except BaseException:
                with contextlib.suppress(duckdb.Error):  # a damaged file ends the transaction by itself
                    connection.rollback()
                raise
            connection.commit()

    def read(self, query: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """Run one query; without a file, the result is that of an empty store."""
        frame: pd.DataFrame = self._ask(query, parameters, _frame)
        return frame

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Run one query as `read` does; return rows of Python values, None for NULL."""
        rows: list[dict[str, Any]] = self._ask(query, parameters, lambda table: table.to_pylist())
        return rows

    def _ask(self, query: str, parameters: Sequence[object], convert: Callable[[pa.Table], Any]) -> Any:
        if not self.path.exists():
            with empty_store() as empty:
                return _answer(empty, query, parameters, convert)
        with self._open(read_only=True) as connection:
            found = len(applied(connection))
            if found != VERSION:
                raise StoreError(
                    f"Expected a store of version {VERSION}, got version {found} in {self.path.name}."
                    + (" Start the record worker, which migrates it." if found < VERSION else "")
                )
            return _answer(connection, query, parameters, convert)

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file for reading until the block ends; nobody can write meanwhile."""
        with self._open(read_only=True) as connection:
            yield connection

    def migrate(self) -> None:
        """Create the file, or bring an older one to this version."""
        with self.transaction():
            pass

    def schema_version(self) -> int:
        """Return the file's version; 0 where there is no file yet."""
        if not self.path.exists():
            return 0
        with self._open(read_only=True) as connection:
            return len(applied(connection))


def lock_path(store: Path) -> Path:
    """Return the file that DermSlim's own processes lock before they open the store."""
    return store.with_suffix(".lock")


def log_path(store: Path) -> Path:
    """Return DuckDB's write-ahead log of a store, which exists while one writes and after a writer was killed."""
    return store.with_name(f"{store.name}.wal")


@contextmanager
def empty_store() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a store without rows, in memory, with the tables of schema.sql."""
    with _empty(os.getpid()).cursor() as connection:
        try:
            yield connection
        except duckdb.Error as error:
            raise StoreError(f"DuckDB rejected the statement: {reason(error)}.") from error


@cache
def _empty(process: int) -> duckdb.DuckDBPyConnection:
    """Return the instance of `empty_store`, which takes 50 ms. process: a forked one needs its own."""
    instance = duckdb.connect(":memory:", config=instances.SHUT_IN)
    migrate(instance)
    return instance


def _told(path: Path, error: duckdb.Error) -> StoreError:
    """Return DuckDB's error as ours: a wrong statement, a file that cannot be used now, or a damaged file."""
    text = str(error)
    lost = isinstance(error, duckdb.CatalogException)  # a table of the schema is missing
    if (NOT_ITS_FAULT.search(text) and not lost) or isinstance(error, duckdb.OutOfMemoryException):
        return StoreUnavailable(f"Expected {path} to be readable and writable, got: {reason(error)}.")
    certain = (duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException, duckdb.IOException)
    if lost or isinstance(error, certain) or (type(error) is duckdb.Error and DAMAGE.search(text)):
        return StoreDamaged(f"Expected {path} to be a whole DuckDB file, got {DAMAGED}{reason(error)}. {RESTORE}")
    return StoreError(f"DuckDB rejected the statement: {reason(error)}.")


def reason(error: Exception) -> str:
    """Return the first line of what DuckDB says, without the advice for its own developers."""
    first = str(error).strip().partition("\n")[0].partition(" This error signals an assertion")[0]
    return first.rstrip(".")[:LONGEST_REASON]


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame if len(frame) else frame.loc[[]]  # text columns of a frame without chunks cannot be joined


def _answer(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object], convert: Callable[[pa.Table], Any]
) -> Any:
    import pyarrow as pa

    try:
        return convert(connection.sql(query, params=list(parameters)).to_arrow_table())
    except (pa.ArrowException, UnicodeDecodeError) as error:  # values that no column of this type can have
        raise StoreDamaged(f"Expected values that can be read, got: {reason(error)}. {RESTORE}") from error


def one(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[object]) -> Any:
    """Return the one value that a query gives. StoreError where it gives more rows, or none."""
    rows = connection.execute(query, parameters).fetchall()  # all: DuckDB continues when a result is read to its end
    if len(rows) != 1:
        raise StoreError(f"Expected one row for {query}, got {len(rows)}.")
    return rows[0][0]


def insert(connection: duckdb.DuckDBPyConnection, table: str, frame: pd.DataFrame) -> None:
    """Add a frame's rows to a table, column by name."""
    connection.register("incoming", frame)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows as dicts of Python values, None for NULL."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]
