"""The DuckDB file: opened for milliseconds under a lock file, with the tables of this version; nothing of its content.

DuckDB lets one process write or many read. So each read and each transaction opens the file shortly, and only the
record worker writes.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from core.errors import StoreBusy, StoreDamaged, StoreError, StoreUnavailable
from core.files.file_lock import file_lock
from core.files.private import private_folder
from core.store.holders import described, holders
from core.store.migrations import VERSION, applied, migrate

# A connection that only reads reaches no other file and no network, whatever a query says. Given when it is opened:
# threads that read at once share one instance, whose settings, once locked, a second one could not set again.
SHUT_IN: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "lock_configuration": True,
}
# What DuckDB says where not its file is at fault but the disk, the memory or the account's rights.
NOT_ITS_FAULT = re.compile(
    r"no space left|could not write|could not sync|file too large|"
    r"disk quota|permission denied|read-only file system|too many open files|cannot allocate"
    r"|out of memory|no such file|does not exist|is a directory|newer version of duckdb",
    re.IGNORECASE,
)
DAMAGE = re.compile(r"corrupt|checksum|\bWAL\b")
RESTORE = (
    "Stop DermSlim, keep a copy of the file, and restore the last backup: `python -m jobs restore FILE --force"
    " --without-queue`"
)
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
                raise _told(self.path, error) from error
            finally:
                with contextlib.suppress(duckdb.Error):  # said already; where it is damaged, closing fails too
                    connection.close()

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
            raise StoreBusy(f"expected {self.path.name} to be free; {names} still holds it") from error

    def _connect(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        deadline = time.monotonic() + self.strangers
        while True:
            try:
                return duckdb.connect(self.path, read_only=read_only, config=SHUT_IN if read_only else {})
            except duckdb.Error as error:
                if not (isinstance(error, duckdb.IOException) and "Could not set lock" in str(error)):
                    raise _told(self.path, error) from error
                if time.monotonic() > deadline:
                    holder = re.search(r"\(PID (\d+)\)", str(error))
                    pids = [int(holder[1])] if holder else holders(self.path)
                    raise StoreBusy(
                        f"expected {self.path.name} to be free; {described(pids) or 'a program'}, which is outside "
                        "DermSlim, holds it open. Close it there; `python -m jobs snapshot FOLDER` gives it a copy to "
                        "read"
                    ) from error
                time.sleep(0.05)

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file alone, at this version of the schema; commit at the end, roll back whatever is raised."""
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
        """Run one query; an absent file answers as an empty store does."""
        frame: pd.DataFrame = self._ask(query, parameters, _frame)
        return frame

    def rows(self, query: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Run one query as `read` does; return rows of Python values, None for NULL."""
        rows: list[dict[str, Any]] = self._ask(query, parameters, pa.Table.to_pylist)
        return rows

    def _ask(self, query: str, parameters: Sequence[object], convert: Callable[[pa.Table], Any]) -> Any:
        if not self.path.exists():
            with empty_store() as empty:
                return _answer(empty, query, parameters, convert)
        with self._open(read_only=True) as connection:
            found = len(applied(connection))
            if found != VERSION:
                raise StoreError(
                    f"expected a store of version {VERSION}; {self.path.name} has version {found}"
                    + (". Start the record worker, which migrates it" if found < VERSION else "")
                )
            return _answer(connection, query, parameters, convert)

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the file to read, for as long as the block; nobody writes meanwhile."""
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


@contextmanager
def empty_store() -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a store without a row, in memory, as schema.sql describes it."""
    with duckdb.connect(":memory:", config=SHUT_IN) as connection:
        migrate(connection)
        try:
            yield connection
        except duckdb.Error as error:
            raise StoreError(f"DuckDB rejected the statement: {reason(error)}.") from error


def _told(path: Path, error: duckdb.Error) -> StoreError:
    """Return what DuckDB said as a sentence, and whether it was asked wrongly, is hindered, or cannot read its file."""
    text = str(error)
    lost = isinstance(error, duckdb.CatalogException)  # a table: whatever is asked names the schema's own
    if (NOT_ITS_FAULT.search(text) and not lost) or isinstance(error, duckdb.OutOfMemoryException):
        return StoreUnavailable(f"expected {path} to be read and written; {reason(error)}")
    certain = (duckdb.InternalException, duckdb.FatalException, duckdb.SerializationException, duckdb.IOException)
    if lost or isinstance(error, certain) or (type(error) is duckdb.Error and DAMAGE.search(text)):
        return StoreDamaged(f"expected {path} to be a whole DuckDB file; it is damaged: {reason(error)}. {RESTORE}")
    return StoreError(f"DuckDB rejected the statement: {reason(error)}.")


def reason(error: Exception) -> str:
    """Return the first line of what DuckDB says, without the advice for its own developers."""
    first = str(error).strip().partition("\n")[0].partition(" This error signals an assertion")[0]
    return first.rstrip(".")[:LONGEST_REASON]


def _frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas()
    return frame if len(frame) else frame.loc[[]]  # whose text columns can be joined, unlike those of no chunk


def _answer(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object], convert: Callable[[pa.Table], Any]
) -> Any:
    try:
        return convert(connection.sql(query, params=list(parameters)).to_arrow_table())
    except (pa.ArrowException, UnicodeDecodeError) as error:  # values that no column of this type can have
        raise StoreDamaged(f"expected values that can be read; {reason(error)}. {RESTORE}") from error


def one(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[object]) -> Any:
    """Return the one value that a query gives. StoreError where it gives more rows, or none."""
    rows = connection.execute(query, parameters).fetchall()  # all: DuckDB goes on only once a result is read out
    if len(rows) != 1:
        raise StoreError(f"expected one row for: {query}, got {len(rows)}")
    return rows[0][0]


def insert(connection: duckdb.DuckDBPyConnection, table: str, frame: pd.DataFrame) -> None:
    """Add a frame's rows to a table, column by name."""
    connection.register("incoming", frame)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def plain(value: Any) -> Any:
    """Return a cell as a Python value, None for NULL."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    return value.item() if hasattr(value, "item") else value


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows as dicts of Python values, None for NULL."""
    return [{str(name): plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
