"""Add the runs of a snapshot to a store: all of them in one transaction, and none twice.

A snapshot is first loaded as a store of its version and migrated like any older store. Only rows of the tables and
columns of this version reach the store.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from core.errors import StoreError
from core.store.check import COLUMNS, TABLES
from core.store.file import StoreFile, empty_store, reason
from core.store.instances import literal, without_patterns
from core.store.migrations import VERSION, migrate
from core.store.upkeep import OF_RUNS

# What does not tell two copies of a run apart: where the copy is, and what is added to a run after its end.
PLACE = {"runs": ("origin_host", "origin_store", "imported_at"), "steps": ("weights",)}
ADDED_LATER = ("run_datasets", "run_logs", "verifications", "conversions", "latencies", "svd_dense")
MEMORY = "1GB"  # 8.7 million rows take as long as without a limit, and a third of the memory
THESE = "run_id IN (SELECT unnest(?::VARCHAR[]))"


@dataclass(frozen=True)
class Origin:
    """Where imported runs come from, and when. trained: the folder of weights here."""

    host: str
    store: str
    at: datetime
    trained: Path


def stage(files: Mapping[str, Path], migrations: Sequence[str], place: Path) -> None:
    """Load Parquet files, by table, as a store at `place` that has these migrations, and bring it to this version.

    StoreError where that does not give the tables and columns of this version.
    """
    try:
        with duckdb.connect(place, config={"memory_limit": MEMORY}) as connection:
            for table, file in files.items():
                source = literal(without_patterns(file))
                connection.execute(f'CREATE TABLE "{table}" AS SELECT * FROM read_parquet({source})')
            connection.execute("CREATE OR REPLACE TABLE migrations (name VARCHAR, applied_at TIMESTAMPTZ)")
            connection.execute("INSERT INTO migrations SELECT unnest(?::VARCHAR[]), now()", [list(migrations)])
            migrate(connection)
            _check_columns(connection)
    except duckdb.Error as error:
        raise StoreError(f"Expected tables of a store in the snapshot, got: {reason(error)}.") from error


def _check_columns(staged: duckdb.DuckDBPyConnection) -> None:
    with empty_store() as empty:
        wanted = _table_columns(empty)
    found = _table_columns(staged)
    for columns, fault in ((found - wanted, "also"), (wanted - found, "none")):
        if columns:
            table, column, kind = min(columns)
            raise StoreError(f"Expected the columns of version {VERSION}, got {fault} {table}.{column} ({kind}).")


def _table_columns(connection: duckdb.DuckDBPyConnection) -> set[tuple[str, str, str]]:
    """Return table, column and type of each column of a table, without views."""
    tables = {name for (name,) in connection.execute(TABLES).fetchall()}
    return {row[:3] for row in connection.execute(COLUMNS).fetchall() if row[0] in tables}


def compared(store: StoreFile, staged: StoreFile, run_ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return which of these runs the store has with the same rows as the staged one, and which with other rows."""
    here, there = _digests(store, run_ids), _digests(staged, run_ids)
    known = [run_id for run_id in run_ids if run_id in here]
    equal = [run_id for run_id in known if here[run_id] == there[run_id]]
    return equal, [run_id for run_id in known if run_id not in equal]


def _digests(store: StoreFile, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the number of rows and the sum of their hashes, by run and table, in whatever order the rows are."""
    with empty_store() as empty:
        names = [str(name) for (name,) in empty.execute(OF_RUNS).fetchall() if name not in ADDED_LATER]
        columns: dict[str, list[str]] = {name: [] for name in names}
        for table, column, *_ in empty.execute(COLUMNS).fetchall():
            if table in columns and column not in PLACE.get(table, ()):
                columns[table].append(f'"{column}"')  # `precision` is a word of SQL
    each = [
        f"SELECT '{table}' AS part, run_id, concat(count(*), ' ', sum(hash({', '.join(sorted(chosen))}))) AS digest "
        f"FROM {table} WHERE {THESE} GROUP BY run_id"
        for table, chosen in columns.items()
    ]
    found: dict[str, dict[str, str]] = {}
    for row in store.rows(" UNION ALL ".join(each), [list(run_ids)] * len(each)):
        found.setdefault(row["run_id"], {})[row["part"]] = row["digest"]
    return found


# -- writing: the record worker, or a command while there is none ------------------------------------------------------


@contextmanager
def adding(
    store: StoreFile, staged: StoreFile, run_ids: Sequence[str], origin: Origin, weights: Collection[str]
) -> Iterator[int]:
    """Add staged runs in one transaction, which is committed at the block's end; give the number of their rows.

    weights: RUN/STEP of every step, of these runs or of others, whose weights are in `origin.trained` from now on.
    """
    with store.transaction() as connection, staged.reading() as source:
        tables = [str(name) for (name,) in connection.execute(OF_RUNS).fetchall()]
        rows = sum(_copy(source, connection, f"FROM {name} WHERE {THESE}", [list(run_ids)], name) for name in tables)
        query = f"FROM studies WHERE status <> 'running' AND study IN (SELECT study FROM runs WHERE {THESE})"
        _copy(source, connection, query, [list(run_ids)], "studies", "ANTI JOIN studies USING (study)")
        connection.execute(
            "UPDATE runs SET origin_host = coalesce(origin_host, ?), origin_store = coalesce(origin_store, ?), "
            f"imported_at = ? WHERE {THESE}",
            [origin.host, origin.store, origin.at, list(run_ids)],
        )
        # A path of another host carries its name, so that nobody looks for it here.
        connection.execute(
            f"UPDATE steps SET weights = ? || ':' || weights WHERE {THESE} AND starts_with(weights, '/')",
            [origin.host, list(run_ids)],
        )
        connection.execute(
            "UPDATE steps SET weights = concat(?, '/', run_id, '/', step, '.keras') "
            "WHERE concat(run_id, '/', step) IN (SELECT unnest(?::VARCHAR[]))",
            [str(origin.trained), list(weights)],
        )
        yield rows


def _copy(
    source: duckdb.DuckDBPyConnection,
    target: duckdb.DuckDBPyConnection,
    query: str,
    parameters: list[object],
    table: str,
    only: str = "",
) -> int:
    """Insert the rows of a query into a table of another store. only: what follows FROM, for some of them."""
    target.register("incoming", source.sql(query, params=parameters).to_arrow_reader())
    added = target.execute(f"INSERT INTO {table} BY NAME SELECT incoming.* FROM incoming {only}").fetchall()[0][0]
    target.unregister("incoming")
    return int(added)
