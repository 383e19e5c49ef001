"""Maintenance of a store: copies, row counts, deletion of runs, and changed paths."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.files.file_lock import file_lock
from core.runs import ENDED
from core.store.file import StoreFile, lock_path, log_path, one

# The tables with rows of runs: what is deleted with a run, and what travels with it (core/store/snapshot.py).
OF_RUNS = """
    SELECT table_name FROM duckdb_columns() JOIN duckdb_tables() USING (schema_oid, table_name)
    WHERE column_name = 'run_id' ORDER BY table_name
"""


@contextmanager
def held_still(store: StoreFile) -> Iterator[None]:
    """Keep the record worker from writing until the block ends; others may read. StoreBusy as for any reader."""
    with file_lock(lock_path(store.path), shared=True, timeout=store.timeout):
        yield


def copy_held(store: StoreFile, target: Path) -> None:
    """Copy a store's file, and the log that a killed writer may have left, inside `held_still`."""
    for path in (store.path, log_path(store.path)):
        if path.exists():
            shutil.copyfile(path, target if path == store.path else log_path(target))


def replace_store(source: Path, target: Path) -> None:
    """Replace a store by a settled one."""
    log_path(target).unlink(missing_ok=True)
    source.replace(target)


# -- deletion: the record worker only ----------------------------------------------------------------------------------


def delete_run(store: StoreFile, run_id: str, attempt: int) -> bool:
    """Delete every row of a run that has ended with this attempt, in all tables; its study's too when it was the last.

    Return whether it was deleted: not where it goes on, or has a newer attempt. False too for an unknown run.
    """
    with store.transaction() as connection:
        rows = connection.execute("SELECT attempt, status, study FROM runs WHERE run_id = ?", [run_id]).fetchall()
        if not rows or rows[0][0] != attempt or rows[0][1] not in ENDED:
            return False
        for (table,) in connection.execute(OF_RUNS).fetchall():
            connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
        study = rows[0][2]
        if study is not None and one(connection, "SELECT count(*) FROM runs WHERE study = ?", [study]) == 0:
            connection.execute("DELETE FROM studies WHERE study = ? AND status <> 'running'", [study])
        return True


def run_rows(store: StoreFile, run_ids: Sequence[str]) -> dict[str, int]:
    """Return how many rows of all tables each of these runs has."""
    if not store.path.exists() or not run_ids:
        return {}
    tables = store.read(OF_RUNS)
    each = [
        f"SELECT run_id, count(*) AS rows FROM {name} WHERE list_contains(?, run_id) GROUP BY run_id"
        for name in tables["table_name"]
    ]
    query = f"SELECT run_id, sum(rows)::BIGINT AS rows FROM ({' UNION ALL '.join(each)}) GROUP BY run_id"
    counts = store.read(query, [list(run_ids)] * len(each))
    return dict(zip(counts["run_id"], counts["rows"].astype(int), strict=True))


# -- a store in another place ------------------------------------------------------------------------------------------


def move_folders(store: StoreFile, moved: Callable[[Path], Path]) -> int:
    """Update the paths of data sets' folders and weights; return how many changed. The store is not in use.

    moved: from each recorded path to the present one.
    """
    changed = 0
    with store.transaction() as connection:
        for table, column, key in (("datasets", "root", "name"), ("steps", "weights", "run_id")):
            query = f"SELECT DISTINCT {key}, {column} FROM {table} WHERE {column} IS NOT NULL"
            for identity, text in connection.execute(query).fetchall():
                now = str(moved(Path(text)))
                if now != text:
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? WHERE {key} = ? AND {column} = ?", [now, identity, text]
                    )
                    changed += 1
    return changed
