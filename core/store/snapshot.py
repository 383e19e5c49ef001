"""A store's tables as Parquet files, and a DuckDB file of views over them, which a notebook may keep open for hours.

A program that has the store itself open, even only for reading, keeps the record worker from writing.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from core.errors import StoreError, StoreUnavailable
from core.store.check import TABLES
from core.store.file import empty_store, reason
from core.store.instances import literal

VIEWS = "dermslim.duckdb"
# DuckDB takes a relative path from where its process runs. The folder of its temporary files is named after the file
# that was opened, which gives its present folder. Where it is attached to another file, the path at which it was
# written counts. In both cases the files tell whether they are of the same snapshot.
OPENED = r"regexp_matches(current_setting('temp_directory'), '(^|/)dermslim\.duckdb\.tmp$')"
FOLDER = r"regexp_replace(regexp_replace(current_setting('temp_directory'), '[^/]*$', ''), '([*?\[])', '[\1]', 'g')"


def write_snapshot(store: Path, folder: Path, *, snapshot: str, final: Path) -> None:
    """Write a Parquet file of each table of a store that nobody else uses into a folder, and VIEWS over them.

    snapshot: its unique name. final: the folder's final path. StoreError, StoreUnavailable.
    """
    with empty_store() as empty:
        tables = [str(name) for (name,) in empty.execute(TABLES).fetchall()]
    try:
        with duckdb.connect(store, read_only=True) as connection:
            for table in tables:
                place, mark = literal(folder / f"{table}.parquet"), literal(snapshot)
                connection.execute(
                    f"COPY (SELECT * FROM {table}) TO {place} "
                    f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{snapshot: {mark}}})"
                )
        with duckdb.connect(folder / VIEWS) as connection:
            for table in tables:
                connection.execute(_view(table, snapshot, final))
    except duckdb.IOException as error:
        raise StoreUnavailable(f"Expected to write a snapshot to {folder.parent}, got: {reason(error)}.") from error
    except duckdb.Error as error:
        raise StoreError(f"Expected DuckDB to write a snapshot, got: {reason(error)}.") from error


def _view(table: str, snapshot: str, final: Path) -> str:
    made = "".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(final / f"{table}.parquet"))
    place = f"CASE WHEN {OPENED} THEN {FOLDER} || '{table}.parquet' ELSE {literal(made)} END"
    same = f"(SELECT decode(value) FROM parquet_kv_metadata({place}) WHERE decode(key) = 'snapshot')"
    other = literal(
        f"Expected the Parquet files of the snapshot {snapshot} beside this file, got others. Open {VIEWS} by itself, "
        "and do not attach it after it was moved."
    )
    return (
        f"CREATE VIEW {table} AS SELECT * FROM read_parquet({place}) "
        f"WHERE coalesce({same} = {literal(snapshot)}, false) OR error({other})"
    )
