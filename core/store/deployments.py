"""What the store keeps of networks outside Keras: their conversions and latencies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import pandas as pd

from core.deployment.formats import Conversion
from core.deployment.latency import Latency
from core.store.file import insert, one
from core.store.trainings import TrainingRows


class DeploymentRows(TrainingRows):
    """The tables conversions and latencies."""

    def conversions(self, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Return one row per step and format of these runs, or of all: every column of `conversions`."""
        query = "SELECT * FROM conversions WHERE $1 IS NULL OR list_contains($1, run_id) ORDER BY run_id, step, rowid"
        return self.read(query, [None if run_ids is None else list(run_ids)])

    def converted(self, run_id: str) -> list[Conversion]:
        """Return the conversions of a run's networks, in the order of steps."""
        names = ", ".join(Conversion.__dataclass_fields__)
        rows = self.rows(f"SELECT {names} FROM conversions WHERE run_id = ? ORDER BY step, rowid", [run_id])
        return [Conversion(**row) for row in rows]

    def latencies(self, run_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Return one row per step, format, threads and host of these runs, or of all: every column of `latencies`."""
        query = "SELECT * FROM latencies WHERE $1 IS NULL OR list_contains($1, run_id) ORDER BY run_id, step, rowid"
        return self.read(query, [None if run_ids is None else list(run_ids)])

    def measured_latencies(self, run_id: str) -> list[Latency]:
        """Return the latencies of a run's networks, in the order of steps, then as they were measured."""
        names = ", ".join(Latency.__dataclass_fields__)
        rows = self.rows(f"SELECT {names} FROM latencies WHERE run_id = ? ORDER BY step, rowid", [run_id])
        return [Latency(**row) for row in rows]

    # -- writing: the record worker only -----------------------------------------------------------------------

    def record_conversion(self, run_id: str, attempt: int, result: Conversion, worker: str, at: datetime) -> None:
        """Replace what is known of a step's network in a format; dropped where the run is gone or was retried.

        Latencies of an earlier file are forgotten, unless the new one is the same.
        """
        key = [run_id, result.step, result.format]
        of_key = "run_id = ? AND step = ? AND format = ?"
        with self.transaction() as connection:
            if not one(connection, CURRENT, [run_id, attempt]):
                return
            known = one(connection, f"SELECT max(sha256) FROM conversions WHERE {of_key}", key)
            if known != result.sha256:
                connection.execute(f"DELETE FROM latencies WHERE {of_key}", key)
            connection.execute(f"DELETE FROM conversions WHERE {of_key}", key)
            row = {**result.to_dict(), "run_id": run_id, "worker": worker, "converted_at": at}
            insert(connection, "conversions", pd.DataFrame([row]))

    def record_latencies(self, run_id: str, attempt: int, results: Sequence[Latency], host: str, at: datetime) -> None:
        """Replace a host's measurements of networks of a run; dropped where the run is gone or was retried."""
        with self.transaction() as connection:
            if not one(connection, CURRENT, [run_id, attempt]):
                return
            for each in results:
                connection.execute(
                    "DELETE FROM latencies WHERE run_id = ? AND step = ? AND format = ? AND threads = ? AND host = ?",
                    [run_id, each.step, each.format, each.threads, host],
                )
            rows = [{**each.to_dict(), "run_id": run_id, "host": host, "measured_at": at} for each in results]
            insert(connection, "latencies", pd.DataFrame(rows))


CURRENT = "SELECT count(*) FROM runs WHERE run_id = ? AND attempt = ?"
