"""The store's rows of runs of every kind, and of the studies that submit several runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import duckdb
import pandas as pd

from core.runs import Run, Status, Study, run_from_columns
from core.store.file import StoreFile, insert, one


class RunRows(StoreFile):
    """The tables runs and studies."""

    # -- reading -----------------------------------------------------------------------------------------------

    def runs(self, kind: str | None = None, status: str | None = None, dataset: str | None = None) -> list[Run]:
        """Return the runs, newest first, filtered by what is given."""
        return self._runs(kind=kind, status=status, dataset=dataset)

    def run(self, run_id: str) -> Run | None:
        """Return one run, or None when there is no such run."""
        return next(iter(self._runs(run_id=run_id)), None)

    def finished_run(self, spec_hash: str) -> str | None:
        """Return the id of the run with this hash that finished last and left no image out, or None.

        An imported reconstruction does not count: its images are elsewhere.
        """
        finished = self._runs(spec_hash=spec_hash, status="finished")
        usable = [run for run in finished if run.origin_host is None or not run.writes]
        same = [run for run in usable if not run.failed and run.finished_at]
        return max(same, key=lambda run: run.finished_at or run.submitted_at).id if same else None

    def _runs(self, **columns: object) -> list[Run]:
        given = {column: value for column, value in columns.items() if value is not None}
        where = " AND ".join(f"{column} = ?" for column in given) or "TRUE"
        query = f"SELECT * FROM runs WHERE {where} ORDER BY submitted_at DESC, run_id DESC"
        return [run_from_columns(row) for row in self.rows(query, list(given.values()))]

    def run_log(self, run_id: str) -> list[str]:
        """Return the log that an imported run came with, oldest line first."""
        return [row["text"] for row in self.rows("SELECT text FROM run_logs WHERE run_id = ? ORDER BY line", [run_id])]

    def run_dataset(self, run_id: str) -> dict[str, Any] | None:
        """Return how the data set of an imported run was registered where it ran, without folder; None if unknown."""
        return next(iter(self.rows("SELECT * EXCLUDE run_id FROM run_datasets WHERE run_id = ?", [run_id])), None)

    def study(self, study_id: str) -> Study | None:
        """Return one study, or None when there is no such study."""
        return next((study for study in self.studies() if study.id == study_id), None)

    def studies(self, status: str | None = None) -> list[Study]:
        """Return the studies, newest first."""
        rows = self.rows(
            "SELECT study AS id, spec AS spec_json, * EXCLUDE (study, spec) FROM studies "
            "WHERE $1 IS NULL OR status = $1 ORDER BY submitted_at DESC, study DESC",
            [status],
        )
        return [Study(**row | {"status": Status(row["status"])}) for row in rows]

    # -- writing: the record worker only -----------------------------------------------------------------------

    def record_run(self, run: Run) -> None:
        """Record a submitted run; an existing one is not changed."""
        with self.transaction() as connection:
            if one(connection, "SELECT count(*) FROM runs WHERE run_id = ?", [run.id]) == 0:
                known = {column: value for column, value in run.columns().items() if value is not None}
                insert(connection, "runs", pd.DataFrame([known]))

    def record_started(self, run_id: str, attempt: int, at: datetime) -> None:
        """Mark a queued run as running."""
        with self.transaction() as connection:
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

    def _end(self, run_id: str, attempt: int, status: str, error: str | None, at: datetime) -> None:
        with self.transaction() as connection:
            connection.execute(
                "UPDATE runs SET status = ?, error = ?, finished_at = ?, "
                "seconds = epoch(? - coalesce(started_at, submitted_at)) "
                "WHERE run_id = ? AND attempt = ? AND status IN ('queued', 'running')",
                [status, error, at, at, run_id, attempt],
            )

    def record_study(self, values: Mapping[str, Any]) -> None:
        """Record a study as it is submitted; an existing one is not changed. values: its columns."""
        with self.transaction() as connection:
            if one(connection, "SELECT count(*) FROM studies WHERE study = ?", [values["study"]]) == 0:
                insert(connection, "studies", pd.DataFrame([{"status": "running", **values}]))

    def record_study_status(
        self, study: str, status: str, error: str | None, at: datetime | None, spec: str | None = None
    ) -> None:
        """Change a study's status: finished, failed or cancelled, or running again, perhaps by another spec (JSON)."""
        with self.transaction() as connection:
            connection.execute(
                "UPDATE studies SET status = ?, error = ?, finished_at = ?, spec = coalesce(?, spec) WHERE study = ?",
                [status, error, at, spec, study],
            )


def begin_attempt(connection: duckdb.DuckDBPyConnection, run_id: str, attempt: int) -> bool:
    """Queue a run again with a newer attempt; return whether its own was older."""
    changed = connection.execute(
        "UPDATE runs SET status = 'queued', attempt = $2, claim = 0, error = NULL, finished_at = NULL, failed = 0 "
        "WHERE run_id = $1 AND attempt < $2 RETURNING run_id",
        [run_id, attempt],
    )
    return bool(changed.fetchall())
