"""Every result, in one DuckDB file: what is read from it, and what the record worker writes.

Every write replaces its own key and carries its run's attempt, so that a record delivered twice, or late, changes
nothing. `core.store.file` opens the file; `core.store.trainings` and `core.store.deployments` hold what belongs
to training runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa

from core.compression.image_results import MEASUREMENT_COLUMNS, METRIC_COLUMNS, Chunk, ImageResult
from core.compression.metrics import METRICS_BY_NAME
from core.compression.results import RunResults
from core.compression.verification import Verification, compare
from core.data.datasets import Dataset, DatasetImage
from core.data.metadata import LeftOut
from core.errors import StoreError
from core.store.deployments import DeploymentRows
from core.store.file import insert, one
from core.store.runs import begin_attempt

MEASUREMENT_KEYS = ("run_id", *MEASUREMENT_COLUMNS)
TEXT = ("run_id", "image_id", "variant", "codec", "reason")
MEASUREMENT_TYPES = pa.schema(
    [
        (name, pa.string() if name in TEXT else pa.float64() if name in METRIC_COLUMNS else pa.int64())
        for name in MEASUREMENT_KEYS
    ]
)


class Store(DeploymentRows):
    """Every result, in one DuckDB file.

    timeout: seconds that an operation waits for the file before it raises StoreBusy.
    """

    # -- reading -----------------------------------------------------------------------------------------------

    def datasets(self) -> pd.DataFrame:
        """Return one row per registered data set, by name."""
        return self.read("SELECT * FROM datasets ORDER BY name")

    def dataset(self, name: str) -> Dataset | None:
        """Return a registered data set with all its records, or None."""
        found = self.rows("SELECT name, root, layout, synthetic, source, settings FROM datasets WHERE name = ?", [name])
        if not found:
            return None
        images = self.rows("SELECT * EXCLUDE dataset FROM dataset_images WHERE dataset = ? ORDER BY image_id", [name])
        left_out = self.rows("SELECT name, reason FROM dataset_left_out WHERE dataset = ? ORDER BY name", [name])
        row = found[0]
        return Dataset(
            **row | {"root": Path(row["root"])},
            records=tuple(DatasetImage(**values) for values in images),
            left_out=tuple(LeftOut(**values) for values in left_out),
        )

    def measurements(
        self, run_id: str, *, columns: Sequence[str] | None = None, variant: str | None = None
    ) -> pd.DataFrame:
        """Return a run's rows, by image and variant; columns from MEASUREMENT_KEYS, all by default."""
        chosen = MEASUREMENT_KEYS if columns is None else tuple(columns)
        _check_columns(chosen, MEASUREMENT_KEYS)
        return self.read(
            f"SELECT {', '.join(chosen)} FROM measurements WHERE run_id = $1 AND ($2 IS NULL OR variant = $2) "
            "ORDER BY image_id, k, quality, variant",
            [run_id, variant],
        )

    def images(self, run_id: str, status: str | None = None) -> pd.DataFrame:
        """Return one row per image of the run: status, reason, seconds, worker."""
        return self.read(
            "SELECT image_id, status, reason, seconds, worker, attempt FROM images "
            "WHERE run_id = $1 AND ($2 IS NULL OR status = $2) ORDER BY image_id",
            [run_id, status],
        )

    def source_pixels(self, run_id: str) -> int:
        """Return the pixels of the originals that the run measured; 0 where its data set is gone."""
        rows = self.read(
            "SELECT coalesce(sum(d.height::BIGINT * d.width), 0) AS pixels FROM images i "
            "JOIN runs r ON r.run_id = i.run_id "
            "JOIN dataset_images d ON d.dataset = r.dataset AND d.image_id = i.image_id "
            "WHERE i.run_id = ? AND i.status = 'measured'",
            [run_id],
        )
        return int(rows["pixels"].iloc[0])

    def statistics(self, run_id: str) -> pd.DataFrame:
        """Return the finished run's statistics, one row per variant and metric."""
        return self._of_run("statistics", run_id)

    def storage(self, run_id: str) -> pd.DataFrame:
        """Return the finished run's sizes, one row per variant."""
        return self._of_run("storage", run_id)

    def optimal_k(self, run_id: str) -> pd.DataFrame:
        """Return the finished run's rules, one row per rule."""
        return self._of_run("optimal_k", run_id)

    def _of_run(self, table: str, run_id: str) -> pd.DataFrame:
        return self.read(f"SELECT * EXCLUDE run_id FROM {table} WHERE run_id = ? ORDER BY rowid", [run_id])

    def verification(self, run_id: str) -> Verification | None:
        """Return how a run's figures compare with the reference's, or None where none of its images was checked."""
        checks = self._of_run("verifications", run_id)
        if checks.empty:
            return None
        measured = self.read(
            "SELECT * EXCLUDE run_id FROM measurements "
            "WHERE run_id = ? AND image_id IN (SELECT image_id FROM verifications WHERE run_id = ?)",
            [run_id, run_id],
        )
        return compare(measured, checks)

    def diagnoses(self, run_id: str) -> pd.DataFrame:
        """Return what a network says of each image in each way and as it came, by image, with size and quality.

        Columns: those of table `diagnoses` without the run's id; bytes of the stored file, or of the original; psnr and
        ssim, none for the original.
        """
        return self.read(
            "SELECT d.* EXCLUDE run_id, coalesce(m.stored_bytes, s.bytes) AS bytes, m.psnr, m.ssim FROM diagnoses d "
            "LEFT JOIN measurements m USING (run_id, image_id, variant) "
            "LEFT JOIN (SELECT run_id, image_id, any_value(source_bytes) AS bytes FROM measurements GROUP BY ALL) s "
            "USING (run_id, image_id) WHERE d.run_id = ? ORDER BY d.image_id, d.rowid",
            [run_id],
        )

    def worst_images(self, run_id: str, metric: str, variant: str, n: int = 12) -> pd.DataFrame:
        """Return image_id, value and path of the n images that `metric` judges worst at `variant`."""
        _check_columns([metric], METRIC_COLUMNS)
        order = "ASC" if METRICS_BY_NAME[metric].better == "high" else "DESC"
        return self.read(
            f"SELECT m.image_id, m.{metric} AS value, d.path FROM measurements m "
            "JOIN runs r ON r.run_id = m.run_id "
            "LEFT JOIN dataset_images d ON d.dataset = r.dataset AND d.image_id = m.image_id "
            f"WHERE m.run_id = ? AND m.variant = ? AND m.{metric} IS NOT NULL "
            f"ORDER BY value {order}, m.image_id LIMIT ?",
            [run_id, variant, n],
        )

    # -- writing: the record worker only -----------------------------------------------------------------------

    def record_dataset(self, dataset: Dataset, registered_at: datetime) -> None:
        """Register a data set; it replaces one of the same name."""
        with self.transaction() as connection:
            _replace_dataset(connection, dataset, registered_at)

    def remove_dataset(self, name: str) -> None:
        """Delete a registration; the files and the runs measured on it are kept."""
        with self.transaction() as connection:
            _remove_dataset(connection, name)

    def record_retry(self, run_id: str, attempt: int) -> None:
        """Start a new attempt: failed images are deleted, measured ones are kept."""
        with self.transaction() as connection:
            if begin_attempt(connection, run_id, attempt):
                connection.execute("DELETE FROM images WHERE run_id = ? AND status = 'failed'", [run_id])
                for table in ("statistics", "storage", "optimal_k"):
                    connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])

    def record_images(self, chunks: Sequence[Chunk]) -> set[str]:
        """Replace the rows of these images in one transaction; return the runs whose every image is now recorded.

        Results of an attempt, or of a claim on an image, that a newer one has replaced are dropped, and those of a run
        that has finished. StoreError for an unknown run.
        """
        with self.transaction() as connection:
            rows = connection.execute("SELECT run_id, attempt, total, status FROM runs").fetchall()
            known = {row[0]: row[1:] for row in rows}
            unknown = sorted({chunk.run_id for chunk in chunks} - set(known))
            if unknown:
                raise StoreError(f"Expected run {unknown[0]} in the store, got a run that is not recorded yet.")
            current = [
                chunk
                for chunk in chunks
                if chunk.attempt >= known[chunk.run_id][0] and known[chunk.run_id][2] != "finished"
            ]
            # Where an image is delivered twice at once, the last result of the newest claim counts.
            ordered = sorted(current, key=lambda chunk: (chunk.attempt, chunk.claim))
            latest = {(chunk.run_id, each.image_id): (chunk, each) for chunk in ordered for each in chunk.results}
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

    def record_checks(self, run_id: str, attempt: int, rows: Sequence[Mapping[str, Any]], at: datetime) -> None:
        """Replace what the reference measured of these images; dropped where the run is gone or has been retried.

        rows: as `core.compression.verification.measure_again` returns them, with image_id and worker.
        """
        with self.transaction() as connection:
            query = "SELECT count(*) FROM runs WHERE run_id = ? AND attempt = ? AND status = 'finished'"
            if rows and one(connection, query, [run_id, attempt]):
                images = [row["image_id"] for row in rows]
                connection.execute(
                    "DELETE FROM verifications WHERE run_id = ? AND list_contains(?, image_id)", [run_id, images]
                )
                insert(connection, "verifications", pd.DataFrame(rows).assign(run_id=run_id, checked_at=at))

    def record_results(self, run_id: str, results: RunResults, at: datetime, *, dataset: Dataset | None = None) -> None:
        """Finish a run: its statistics, sizes and rules, and the data set that it wrote, in one transaction."""
        with self.transaction() as connection:
            for table, frame in vars(results).items():
                connection.execute(f"DELETE FROM {table} WHERE run_id = ?", [run_id])
                if not frame.empty:
                    insert(connection, table, frame.assign(run_id=run_id))
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

    def files(self, run_id: str) -> list[DatasetImage]:
        """Return the records of the files that a reconstruct run wrote."""
        frame = self.read("SELECT file FROM images WHERE run_id = ? AND file IS NOT NULL ORDER BY image_id", [run_id])
        return [DatasetImage(**json.loads(text)) for text in frame["file"]]


def _replace_images(connection: duckdb.DuckDBPyConnection, results: Sequence[tuple[Chunk, ImageResult]]) -> None:
    images = [
        {name: getattr(chunk, name) for name in ("run_id", "attempt", "claim", "worker")}
        | {name: getattr(result, name) for name in ("image_id", "status", "reason", "seconds")}
        | {"file": None if result.file is None else json.dumps(result.file)}
        for chunk, result in results
    ]
    connection.register("incoming", pa.Table.from_pylist(images))
    same = "EXISTS (FROM incoming i WHERE i.run_id = old.run_id AND i.image_id = old.image_id)"
    if one(connection, f"SELECT count(*) FROM images old WHERE {same}", []):
        taken_over = connection.execute(
            "SELECT run_id, image_id FROM images old JOIN incoming i USING (run_id, image_id) "
            "WHERE old.attempt = i.attempt AND old.claim > i.claim"
        ).fetchall()
        if taken_over:
            connection.unregister("incoming")
            kept = [(chunk, each) for chunk, each in results if (chunk.run_id, each.image_id) not in set(taken_over)]
            if kept:
                _replace_images(connection, kept)
            return
        for table in ("images", "measurements", "diagnoses"):  # delivered again, or a failure that a retry replaces
            connection.execute(f"DELETE FROM {table} AS old WHERE {same}")
    connection.execute("INSERT INTO images BY NAME SELECT * FROM incoming")
    rows = [{**row, "run_id": chunk.run_id} for chunk, result in results for row in result.rows]
    if rows:
        connection.register("incoming", pa.Table.from_pylist(rows, schema=MEASUREMENT_TYPES))
        connection.execute("INSERT INTO measurements BY NAME SELECT * FROM incoming")
    connection.unregister("incoming")
    answers = [{**row, "run_id": chunk.run_id} for chunk, result in results for row in result.diagnoses]
    if answers:
        insert(connection, "diagnoses", pd.DataFrame(answers))


def _replace_dataset(connection: duckdb.DuckDBPyConnection, dataset: Dataset, registered_at: datetime) -> None:
    _remove_dataset(connection, dataset.name)
    same = ("name", "layout", "synthetic", "source", "settings", "fingerprint")
    summary = {name: getattr(dataset, name) for name in same} | {
        "root": str(dataset.root),
        "images": len(dataset.records),
        "left_out": len(dataset.left_out),
        "bytes": sum(record.bytes for record in dataset.records),
        "registered_at": registered_at,
    }
    insert(connection, "datasets", pd.DataFrame([summary]))
    for table, values in (("dataset_images", dataset.records), ("dataset_left_out", dataset.left_out)):
        if values:
            insert(connection, table, pd.DataFrame([asdict(each) for each in values]).assign(dataset=dataset.name))


def _remove_dataset(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    for table, column in (("datasets", "name"), ("dataset_images", "dataset"), ("dataset_left_out", "dataset")):
        connection.execute(f"DELETE FROM {table} WHERE {column} = ?", [name])


def _check_columns(columns: Iterable[str], known: Sequence[str]) -> None:
    unknown = [column for column in columns if column not in known]
    if unknown:
        raise StoreError(f"Expected columns among {', '.join(known)}, got {', '.join(unknown)}.")
