"""A store's tables as Parquet files, and a DuckDB file of views over them, which a notebook may keep open for hours.

A program that has the store itself open, even only for reading, keeps the record worker from writing. A snapshot has
every row, or those of some runs, which another store can then import (`core.store.imports`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb
import pandas as pd

from core.errors import StoreError, StoreUnavailable
from core.store.check import TABLES
from core.store.file import empty_store, insert, reason
from core.store.instances import literal, without_patterns
from core.store.upkeep import OF_RUNS

VIEWS = "dermslim.duckdb"
CHOSEN = "CREATE TEMP TABLE chosen AS SELECT unnest(?::VARCHAR[]) AS run_id"
OF_CHOSEN = "run_id IN (FROM chosen)"
# The rows that travel with runs from the tables without a run_id. Images and their folders stay where they are, and so
# do studies under way, which the record worker of another store would continue.
WITH_RUNS = {
    "migrations": "TRUE",
    "studies": f"status <> 'running' AND study IN (SELECT study FROM runs WHERE {OF_CHOSEN})",
    "datasets": "FALSE",
    "dataset_images": "FALSE",
    "dataset_left_out": "FALSE",
}
REGISTRATIONS = """
    INSERT INTO run_datasets BY NAME
    SELECT run_id, d.* EXCLUDE (name, root, synthetic, fingerprint, registered_at)
    FROM runs JOIN datasets d ON d.name = runs.dataset AND d.fingerprint = runs.dataset_fingerprint
    ANTI JOIN run_datasets USING (run_id)
"""
# DuckDB takes a relative path from where its process runs. The folder of its temporary files is named after the file
# that was opened, which gives its present folder. Where it is attached to another file, the path at which it was
# written counts. In both cases the files tell whether they are of the same snapshot.
OPENED = r"regexp_matches(current_setting('temp_directory'), '(^|/)dermslim\.duckdb\.tmp$')"
FOLDER = r"regexp_replace(regexp_replace(current_setting('temp_directory'), '[^/]*$', ''), '([*?\[])', '[\1]', 'g')"


def write_snapshot(
    store: Path, folder: Path, *, snapshot: str, final: Path, runs: Sequence[str] | None = None
) -> dict[str, int]:
    """Write a Parquet file of each table of a store that nobody else uses into a folder, and VIEWS over them.

    snapshot: its unique name. final: the folder's final path. runs: their rows alone; by default all rows. Return the
    number of rows of each table. StoreError, StoreUnavailable.
    """
    with empty_store() as empty:
        tables = [str(name) for (name,) in empty.execute(TABLES).fetchall()]
        of_runs = {str(name) for (name,) in empty.execute(OF_RUNS).fetchall()}
    rows = {}
    try:
        with duckdb.connect(store, read_only=True) as connection:
            connection.execute(CHOSEN, [list(runs or ())])
            for table in tables:
                place, mark = literal(folder / f"{table}.parquet"), literal(snapshot)
                wanted = "TRUE" if runs is None else OF_CHOSEN if table in of_runs else WITH_RUNS[table]
                written = connection.execute(
                    f"COPY (SELECT * FROM {table} WHERE {wanted}) TO {place} "
                    f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{snapshot: {mark}}})"
                )
                rows[table] = int(written.fetchall()[0][0])
        with duckdb.connect(folder / VIEWS) as connection:
            for table in tables:
                connection.execute(_view(table, snapshot, final))
    except duckdb.IOException as error:
        raise StoreUnavailable(f"Expected to write a snapshot to {folder.parent}, got: {reason(error)}.") from error
    except duckdb.Error as error:
        raise StoreError(f"Expected DuckDB to write a snapshot, got: {reason(error)}.") from error
    return rows


def prepare_to_travel(copy: Path, logs: Mapping[str, Sequence[str]]) -> None:
    """Add to the copy of a store what its runs need elsewhere: the facts of their data sets, and logs by run."""
    with duckdb.connect(copy) as connection:
        connection.execute(REGISTRATIONS)
        lines = [
            {"run_id": run_id, "line": line, "text": text}
            for run_id, texts in logs.items()
            for line, text in enumerate(texts, 1)
        ]
        if lines:
            connection.execute("DELETE FROM run_logs WHERE list_contains(?, run_id)", [list(logs)])
            insert(connection, "run_logs", pd.DataFrame(lines))


def _view(table: str, snapshot: str, final: Path) -> str:
    made = literal(without_patterns(final / f"{table}.parquet"))
    place = f"CASE WHEN {OPENED} THEN {FOLDER} || '{table}.parquet' ELSE {made} END"
    same = f"(SELECT decode(value) FROM parquet_kv_metadata({place}) WHERE decode(key) = 'snapshot')"
    other = literal(
        f"Expected the Parquet files of the snapshot {snapshot} beside this file, got others. Open {VIEWS} by itself, "
        "and do not attach it after it was moved."
    )
    return (
        f"CREATE VIEW {table} AS SELECT * FROM read_parquet({place}) "
        f"WHERE coalesce({same} = {literal(snapshot)}, false) OR error({other})"
    )
