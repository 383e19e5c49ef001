"""Whether a store can be read in full: every table that schema.sql describes, every column of every row.

DuckDB compares a block with its checksum only when it reads it, and counting rows reads none. A file that is damaged
may crash the process that reads it, so a separate process reads it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb

from core.errors import StoreBusy, StoreDamaged, StoreError, StoreUnavailable
from core.store.file import DAMAGED, RESTORE, StoreFile, empty_store, log_path
from core.store.migrations import VERSION

STRANGERS = 0.5  # seconds that a check waits for a program outside DermSlim
PART = 1 << 20  # rows that are read at once
ROOT = Path(__file__).resolve().parents[2]
ERRORS = {kind.__name__: kind for kind in (StoreError, StoreUnavailable, StoreBusy, StoreDamaged)}
TABLES = "SELECT table_name FROM duckdb_tables() WHERE NOT internal AND NOT temporary ORDER BY table_name"
COLUMNS = "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() WHERE NOT internal"


def checked(path: Path, *, settle: bool = False) -> dict[str, int]:
    """Read a store in full in a separate process; return the number of rows of each table.

    settle: first write into the file what a killed writer left in its log, and bring an older one to this version; for
    a copy that nobody else uses. StoreDamaged names the tables that cannot be read; StoreBusy, StoreError.
    """
    command = [sys.executable, "-m", "core.store.check", str(path.resolve()), *(["--settle"] if settle else [])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    try:
        answer = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        how = f"signal {-done.returncode}" if done.returncode < 0 else (done.stderr.strip() or "no message")[-200:]
        raise StoreDamaged(
            f"Expected {path} to be a whole DuckDB file, got a reading process that was ended by {how}. {RESTORE}"
        ) from None
    if "error" in answer:
        raise ERRORS[answer["error"]](answer["text"])
    return {str(name): int(rows) for name, rows in answer["rows"].items()}


def read_in_full(store: StoreFile) -> dict[str, int]:
    """Read every row of every table. Each table is read by itself, so that a writer can write between two."""
    with store.reading() as connection:
        tables = [str(name) for (name,) in connection.execute(TABLES).fetchall()]
    rows, unreadable = {}, {}
    for table in tables:
        try:
            rows[table] = _rows(store, table)
        except StoreDamaged as error:
            unreadable[table] = str(error).removesuffix(f" {RESTORE}").rpartition(DAMAGED)[2].rstrip(".")
    if unreadable:
        first = next(iter(unreadable.values()))
        raise StoreDamaged(
            f"Expected every row of {store.path} to be readable, got damage in {', '.join(unreadable)}: {first}. "
            f"{RESTORE}"
        )
    _check_schema(store)
    return rows


def _rows(store: StoreFile, table: str) -> int:
    """Read a table in parts, so that a writer, and the readers behind it, wait for a part of a large one only."""
    quoted = table.replace('"', '""')
    with store.reading() as connection:
        last = connection.execute(f'SELECT max(rowid) FROM "{quoted}"').fetchall()[0][0]
    return sum(_rows_from(store, quoted, first) for first in range(0, -1 if last is None else last + 1, PART))


def _rows_from(store: StoreFile, quoted: str, first: int) -> int:
    # A hash needs every value. An aggregate of it keeps the rows themselves inside DuckDB.
    query = (
        f'SELECT count(*), count(hash(each)), bit_xor(hash(each)) FROM "{quoted}" AS each WHERE rowid BETWEEN ? AND ?'
    )
    with store.reading() as connection:
        counted, read, _ = connection.execute(query, [first, first + PART - 1]).fetchall()[0]
    if counted != read:
        raise StoreDamaged(f"Expected {counted:,} rows, got {read:,}.")
    return int(counted)


def _check_schema(store: StoreFile) -> None:
    """Raise StoreDamaged where a store of this version lacks a table or column, or has it of another type."""
    found = store.schema_version()
    if found != VERSION:
        return
    with empty_store() as empty, store.reading() as connection:
        lost = _columns(empty) - _columns(connection)
    if lost:
        table, column, kind, _ = min(lost)
        raise StoreDamaged(
            f"Expected the tables of version {VERSION} in {store.path}, got none with {table}.{column}, {kind}. "
            f"{RESTORE}"
        )


def _columns(connection: duckdb.DuckDBPyConnection) -> set[tuple[Any, ...]]:
    return set(connection.execute(COLUMNS).fetchall())


def main() -> None:
    """Print as JSON what was read, or what is wrong; for `checked`."""
    store = StoreFile(Path(sys.argv[1]), strangers=STRANGERS)
    try:
        if "--settle" in sys.argv[2:]:
            if store.schema_version() == 0:
                raise StoreDamaged(f"Expected DermSlim's tables in {store.path}, got none. {RESTORE}")
            store.migrate()  # which writes the log of a killed writer too, so that the file alone is the store
            if (log := log_path(store.path)).exists():
                raise StoreError(f"Expected {store.path.name} without a log, got {log.name} beside it.")
        answer: dict[str, Any] = {"rows": read_in_full(store)}
    except StoreError as error:
        answer = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
