"""Every result, in one DuckDB file: the only module that knows DuckDB.

DuckDB lets one process write or many read. Each read and each transaction therefore opens the file for milliseconds
under a lock file, and only the record worker writes. Every write replaces its own key and carries its run's attempt,
so that a record delivered twice, or late, changes nothing.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from core.datasets import Dataset, LeftOut, Record
from core.errors import StoreBusy, StoreError
from core.file_lock import file_lock
from core.outcomes import Outcome
from core.sweeps import MEASUREMENT_COLUMNS, METRIC_COLUMNS, Chunk, ImageResult

SCHEMA = Path(__file__).with_name("schema.sql")
ENDED = ("finished", "failed", "cancelled")
MEASUREMENT_KEYS = ("run_id", *MEASUREMENT_COLUMNS)
TEXT = ("run_id", "image_id", "variant", "codec", "reason")
MEASUREMENT_TYPES = pa.schema(
    [
        (name, pa.string() if name in TEXT else pa.float64() if name in METRIC_COLUMNS else pa.int64())
        for name in MEASUREMENT_KEYS
    ]
)


@dataclass(frozen=True)
class NewRun:
    """A run as it is submitted; the columns of table `runs` that are known then."""

    run_id: str
    kind: str
    dataset: str
    dataset_fingerprint: str
    synthetic: bool
    spec: str
    spec_hash: str
    total: int
    submitted_at: datetime
    submitted_by: str | None = None
    code_revision: str | None = None
    versions: str | None = None
    command: str | None = None


def schema_sections(text: str) -> list[tuple[int, str]]:
    """Split schema.sql into (version, statements), in order."""
    parts = re.split(r"^-- version (\d+)\s*$", text, flags=re.MULTILINE)[1:]
    return [(int(version), statements) for version, statements in zip(parts[::2], parts[1::2], strict=True)]


SECTIONS = schema_sections(SCHEMA.read_text())
VERSION = SECTIONS[-1][0]


class Store:
    """Reads, and the record worker's transactions, on one DuckDB file.

    timeout: seconds that an operation waits for the file before it raises StoreBusy.
    """

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        self.path = path
        self.timeout = timeout

    # -- opening -----------------------------------------------------------------------------------------------

    @contextmanager
    def _open(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        deadline = time.monotonic() + self.timeout
        with file_lock(self.path.with_suffix(".lock"), shared=read_only, timeout=self.timeout):
            connection = self._connect(read_only, deadline)
            try:
                yield connection
            except duckdb.Error as error:
                raise StoreError(f"expected DuckDB to take what it was given; {error}") from error
            finally:
                connection.close()

    def _connect(self, read_only: bool, deadline: float) -> duckdb.DuckDBPyConnection:
        while True:
            try:
                return duckdb.connect(self.path, read_only=read_only)
            except duckdb.IOException as error:
                if "lock" not in str(error).lower():
                    raise StoreError(f"expected a DuckDB file at {self.path}; {error}") from error
                if time.monotonic() > deadline:
                    raise StoreBusy(
                        f"expected {self.path.name} to be free; a process outside DermSlim holds it open"
                    ) from error
                time.sleep(0.05)

    @contextmanager
    def _transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open(read_only=False) as connection:
            _migrate(connection)
            connection.begin()
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.commit()

    def _read(self, query: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """Run one query; an absent file answers as an empty store does."""
        if not self.path.exists():
            with duckdb.connect(":memory:") as empty:
                _migrate(empty)
                return _frame(empty, query, parameters)
        with self._open(read_only=True) as connection:
            found = _schema_version(connection)
            if found != VERSION:
                raise StoreError(
                    f"expected a store of version {VERSION}; {self.path.name} has version {found}"
                    + (": start the record worker, which brings it forwards" if found < VERSION else "")
                )
            return _frame(connection, query, parameters)

    def migrate(self) -> None:
        """Create the file, or bring an older one to this version."""
        with self._transaction():
            pass

    def schema_version(self) -> int:
        """Return the version that the file stands at; 0 when there is none yet."""
        if not self.path.exists():
            return 0
        with self._open(read_only=True) as connection:
            return _schema_version(connection)

    # -- reading -----------------------------------------------------------------------------------------------

    def datasets(self) -> pd.DataFrame:
        """Return a row a registered data set, by name."""
        return self._read("SELECT * FROM datasets ORDER BY name")

    def dataset(self, name: str) -> Dataset | None:
        """Return a registered data set with all its records, or None."""
        found = self._read("SELECT * FROM datasets WHERE name = ?", [name])
        if found.empty:
            return None
        row = found.iloc[0]
        images = self._read("SELECT * EXCLUDE dataset FROM dataset_images WHERE dataset = ? ORDER BY image_id", [name])
        left_out = self._read("SELECT name, reason FROM dataset_left_out WHERE dataset = ? ORDER BY name", [name])
        return Dataset(
            name=row["name"],
            root=Path(row["root"]),
            layout=row["layout"],
            records=tuple(Record(**values) for values in plain_rows(images)),
            left_out=tuple(LeftOut(**values) for values in plain_rows(left_out)),
            synthetic=bool(row["synthetic"]),
            source=_plain(row["source"]),
            settings=_plain(row["settings"]),
        )

    def runs(self, kind: str | None = None, status: str | None = None, dataset: str | None = None) -> pd.DataFrame:
        """Return a row a run, newest first, filtered by what is given."""
        given = {"kind": kind, "status": status, "dataset": dataset}
        filters = {column: value for column, value in given.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in filters) or "TRUE"
        query = f"SELECT * FROM runs WHERE {where} ORDER BY submitted_at DESC, run_id DESC"
        return self._read(query, list(filters.values()))

    def run(self, run_id: str) -> dict[str, Any] | None:
        """Return one run's row with None for NULL, or None when there is no such run."""
        rows = plain_rows(self._read("SELECT * FROM runs WHERE run_id = ?", [run_id]))
        return rows[0] if rows else None

    def finished_run(self, spec_hash: str) -> str | None:
        """Return the newest run that finished with this hash and left no image out, or None."""
        rows = self._read(
            "SELECT run_id FROM runs WHERE spec_hash = ? AND status = 'finished' AND failed = 0 "
            "ORDER BY finished_at DESC LIMIT 1",
            [spec_hash],
        )
        return None if rows.empty else str(rows["run_id"].iloc[0])

    def measurements(
        self, run_id: str, *, columns: Sequence[str] | None = None, variant: str | None = None
    ) -> pd.DataFrame:
        """Return a run's rows, by image and variant; columns from MEASUREMENT_KEYS, all by default."""
        chosen = MEASUREMENT_KEYS if columns is None else tuple(columns)
        _check_columns(chosen, MEASUREMENT_KEYS)
        where, parameters = ("AND variant = ?", [run_id, variant]) if variant is not None else ("", [run_id])
        return self._read(
            f"SELECT {', '.join(chosen)} FROM measurements WHERE run_id = ? {where} "
            "ORDER BY image_id, k, quality, variant",
            parameters,
        )

    def images(self, run_id: str, status: str | None = None) -> pd.DataFrame:
        """Return a row an image of the run: status, reason, seconds, worker."""
        where, parameters = ("AND status = ?", [run_id, status]) if status is not None else ("", [run_id])
        return self._read(
            "SELECT image_id, status, reason, seconds, worker, attempt FROM images "
            f"WHERE run_id = ? {where} ORDER BY image_id",
            parameters,
        )

    def source_pixels(self, run_id: str) -> int:
        """Return the pixels of the originals that the run measured; 0 where its data set is gone."""
        rows = self._read(
            "SELECT coalesce(sum(d.height::BIGINT * d.width), 0) AS pixels FROM images i "
            "JOIN runs r ON r.run_id = i.run_id "
            "JOIN dataset_images d ON d.dataset = r.dataset AND d.image_id = i.image_id "
            "WHERE i.run_id = ? AND i.status = 'measured'",
            [run_id],
        )
        return int(rows["pixels"].iloc[0])

    def statistics(self, run_id: str) -> pd.DataFrame:
        """Return the finished run's statistics, a row a (variant, metric)."""
        return self._read("SELECT * EXCLUDE run_id FROM statistics WHERE run_id = ? ORDER BY rowid", [run_id])

    def storage(self, run_id: str) -> pd.DataFrame:
        """Return the finished run's sizes, a row a variant."""
        return self._read("SELECT * EXCLUDE run_id FROM storage WHERE run_id = ? ORDER BY rowid", [run_id])

    def optimal_k(self, run_id: str) -> pd.DataFrame:
        """Return the finished run's rules, a row a rule."""
        return self._read("SELECT * EXCLUDE run_id FROM optimal_k WHERE run_id = ? ORDER BY rowid", [run_id])

    def worst_images(self, run_id: str, metric: str, variant: str, n: int = 12) -> pd.DataFrame:
        """Return image_id, value and path of the n images that `metric` judges worst at `variant`."""
        from core.metrics import METRICS_BY_NAME

        _check_columns([metric], METRIC_COLUMNS)
        order = "ASC" if METRICS_BY_NAME[metric].better == "high" else "DESC"
        return self._read(
            f"SELECT m.image_id, m.{metric} AS value, d.path FROM measurements m "
            "JOIN runs r ON r.run_id = m.run_id "
            "LEFT JOIN dataset_images d ON d.dataset = r.dataset AND d.image_id = m.image_id "
            f"WHERE m.run_id = ? AND m.variant = ? AND m.{metric} IS NOT NULL "
            f"ORDER BY value {order}, m.image_id LIMIT ?",
            [run_id, variant, n],
        )

    # -- writing: the record worker only -----------------------------------------------------------------------

    def record_dataset(self, dataset: Dataset, registered_at: datetime) -> None:
        """Register a data set, in place of one of the same name."""
        with self._transaction() as connection:
            _replace_dataset(connection, dataset, registered_at)

    def remove_dataset(self, name: str) -> None:
        """Forget a registration; files and the runs measured on it stay."""
        with self._transaction() as connection:
            for table, column in (("datasets", "name"), ("dataset_images", "dataset"), ("dataset_left_out", "dataset")):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", [name])

    def record_run(self, run: NewRun) -> None:
        """Record a submitted run as queued; one that is there already stays as it is."""
        with self._transaction() as connection:
            if _one(connection, "SELECT count(*) FROM runs WHERE run_id = ?", [run.run_id]) == 0:
                values = {**asdict(run), "status": "queued", "attempt": 1, "measured": 0, "failed": 0}
                _insert(connection, "runs", pd.DataFrame([values]))

    def record_started(self, run_id: str, attempt: int, at: datetime) -> None:
        """Mark a queued run as running."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE runs SET status = 'running', started_at = coalesce(started_at, ?) "
                "WHERE run_id = ? AND attempt = ? AND status = 'queued'",
                [at, run_id, attempt],
            )

    def record_cancelled(self, run_id: str, attempt: int, at: datetime) -> None:
        """Mark a run that has not ended as cancelled."""
        self._end(run_id, attempt, "cancelled", None, at)

    def record_failed(self, run_id: str, attempt: int, error: str, at: datetime) -> None:
        """Mark a run that has not ended as failed, with the reason."""
        self._end(run_id, attempt, "failed", error, at)

    def record_retry(self, run_id: str, attempt: int) -> None:
        """Start a new attempt: images that failed are forgotten, measured ones stay."""
        with self._transaction() as connection:
            older = _one(connection, "SELECT count(*) FROM runs WHERE run_id = ? AND attempt < ?", [run_id, attempt])
            if older == 0:
                return
            connection.execute("DELETE FROM images WHERE run_id = ? AND status = 'failed'", [run_id])
            for table in ("statistics", "storage", "optimal_k"):
                connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
            connection.execute(
                "UPDATE runs SET status = 'queued', attempt = ?, error = NULL, finished_at = NULL, failed = 0 "
                "WHERE run_id = ?",
                [attempt, run_id],
            )

    def record_images(self, chunks: Sequence[Chunk]) -> set[str]:
        """Replace the rows of these images in one transaction; return the runs whose every image is now recorded.

        Results of an attempt that a newer one has replaced are dropped. StoreError for an unknown run.
        """
        with self._transaction() as connection:
            known = {
                row[0]: row[1:] for row in connection.execute("SELECT run_id, attempt, total FROM runs").fetchall()
            }
            unknown = sorted({chunk.run_id for chunk in chunks} - set(known))
            if unknown:
                raise StoreError(f"expected run {unknown[0]} in the store; it is not recorded yet")
            current = [chunk for chunk in chunks if chunk.attempt >= known[chunk.run_id][0]]
            # Delivered twice in one go: the last one counts.
            latest = {(chunk.run_id, each.image_id): (chunk, each) for chunk in current for each in chunk.results}
            if latest:
                _replace_images(connection, list(latest.values()))
            complete = set()
            for run_id in {chunk.run_id for chunk in current}:
                measured, failed = connection.execute(
                    "SELECT count(*) FILTER (status = 'measured'), count(*) FILTER (status = 'failed') "
                    "FROM images WHERE run_id = ?",
                    [run_id],
                ).fetchall()[0]
                connection.execute(
                    "UPDATE runs SET measured = ?, failed = ? WHERE run_id = ?", [measured, failed, run_id]
                )
                if measured + failed >= known[run_id][1]:
                    complete.add(run_id)
            return complete

    def record_outcome(self, run_id: str, outcome: Outcome, at: datetime, *, dataset: Dataset | None = None) -> None:
        """Finish a run: its statistics, sizes and rules, and the data set that it wrote, in one transaction."""
        with self._transaction() as connection:
            frames = {"statistics": outcome.statistics, "storage": outcome.storage, "optimal_k": outcome.optimal_k}
            for table, frame in frames.items():
                connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
                if not frame.empty:
                    _insert(connection, table, frame.assign(run_id=run_id))
            if dataset is not None:
                _replace_dataset(connection, dataset, at)
            connection.execute(
                "UPDATE runs SET status = 'finished', error = NULL, finished_at = ?, "
                "started_at = coalesce(started_at, submitted_at), "
                "seconds = epoch(? - coalesce(started_at, submitted_at)), "
                "work_seconds = (SELECT sum(seconds) FROM images WHERE run_id = ?), "
                "workers = (SELECT string_agg(DISTINCT worker, ', ' ORDER BY worker) FROM images WHERE run_id = ?) "
                "WHERE run_id = ?",
                [at, at, run_id, run_id, run_id],
            )

    def files(self, run_id: str) -> list[Record]:
        """Return the records of the files that a reconstruct run wrote."""
        frame = self._read("SELECT file FROM images WHERE run_id = ? AND file IS NOT NULL ORDER BY image_id", [run_id])
        return [Record(**json.loads(text)) for text in frame["file"]]

    def _end(self, run_id: str, attempt: int, status: str, error: str | None, at: datetime) -> None:
        with self._transaction() as connection:
            connection.execute(
                "UPDATE runs SET status = ?, error = ?, finished_at = ?, "
                "seconds = epoch(? - coalesce(started_at, submitted_at)) "
                "WHERE run_id = ? AND attempt = ? AND status IN ('queued', 'running')",
                [status, error, at, at, run_id, attempt],
            )


def _migrate(connection: duckdb.DuckDBPyConnection) -> None:
    found = _schema_version(connection)
    if found > VERSION:
        raise StoreError(f"expected a store of version {VERSION} or older; this one has version {found}")
    for version, statements in SECTIONS:
        if version > found:
            connection.begin()
            connection.execute(statements)
            connection.execute("CREATE OR REPLACE TABLE schema_version AS SELECT ?::INTEGER AS version", [version])
            connection.commit()


def _schema_version(connection: duckdb.DuckDBPyConnection) -> int:
    try:
        return int(_one(connection, "SELECT version FROM schema_version", []))
    except duckdb.CatalogException:  # a new file
        return 0


def _frame(connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[object]) -> pd.DataFrame:
    frame: pd.DataFrame = connection.sql(query, params=list(parameters)).to_arrow_table().to_pandas()
    return frame


def _one(connection: duckdb.DuckDBPyConnection, query: str, parameters: list[object]) -> Any:
    rows = connection.execute(query, parameters).fetchall()  # all: DuckDB goes on only once a result is read out
    if len(rows) != 1:
        raise StoreError(f"expected one row for: {query}; got {len(rows)}")
    return rows[0][0]


def _insert(connection: duckdb.DuckDBPyConnection, table: str, frame: pd.DataFrame) -> None:
    connection.register("incoming", frame)
    connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def _replace_images(connection: duckdb.DuckDBPyConnection, results: Sequence[tuple[Chunk, ImageResult]]) -> None:
    images = [
        {
            "run_id": chunk.run_id,
            "image_id": result.image_id,
            "attempt": chunk.attempt,
            "status": result.status,
            "reason": result.reason,
            "seconds": result.seconds,
            "worker": chunk.worker,
            "file": None if result.file is None else json.dumps(result.file),
        }
        for chunk, result in results
    ]
    connection.register("incoming", pa.Table.from_pylist(images))
    same = "EXISTS (FROM incoming i WHERE i.run_id = old.run_id AND i.image_id = old.image_id)"
    if _one(connection, f"SELECT count(*) FROM images old WHERE {same}", []):
        for table in ("images", "measurements"):  # delivered again, or a failure that a retry replaces
            connection.execute(f"DELETE FROM {table} AS old WHERE {same}")
    connection.execute("INSERT INTO images BY NAME SELECT * FROM incoming")
    rows = [{**row, "run_id": chunk.run_id} for chunk, result in results for row in result.rows]
    if rows:
        connection.register("incoming", pa.Table.from_pylist(rows, schema=MEASUREMENT_TYPES))
        connection.execute("INSERT INTO measurements BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")


def _replace_dataset(connection: duckdb.DuckDBPyConnection, dataset: Dataset, registered_at: datetime) -> None:
    for table, column in (("datasets", "name"), ("dataset_images", "dataset"), ("dataset_left_out", "dataset")):
        connection.execute(f"DELETE FROM {table} WHERE {column} = ?", [dataset.name])
    summary = {
        "name": dataset.name,
        "root": str(dataset.root),
        "layout": dataset.layout,
        "synthetic": dataset.synthetic,
        "source": dataset.source,
        "settings": dataset.settings,
        "images": len(dataset.records),
        "left_out": len(dataset.left_out),
        "bytes": sum(record.bytes for record in dataset.records),
        "fingerprint": dataset.fingerprint,
        "registered_at": registered_at,
    }
    _insert(connection, "datasets", pd.DataFrame([summary]))
    for table, values in (("dataset_images", dataset.records), ("dataset_left_out", dataset.left_out)):
        if values:
            _insert(connection, table, pd.DataFrame([asdict(each) for each in values]).assign(dataset=dataset.name))


def _check_columns(columns: Iterable[str], known: Sequence[str]) -> None:
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise StoreError(f"expected columns among {', '.join(known)}; got {', '.join(unknown)}")


def _plain(value: Any) -> Any:
    """Return a cell as a Python value, None for NULL."""
    if pd.isna(value):
        return None
    if isinstance(value, pd.Timestamp):
        return value.to_pydatetime()
    return value.item() if hasattr(value, "item") else value


def plain_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame's rows as dicts of Python values, None for NULL."""
    return [{str(name): _plain(value) for name, value in row.items()} for row in frame.to_dict("records")]
