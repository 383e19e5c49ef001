"""Records: what workers and submitters have to tell the store.

Records wait in one Redis list and are taken in order by the record worker (`jobs.record_worker`), the only process that
writes the store; an RQ job on the record queue is no more than the bell that calls it. Every record is idempotent and
carries its run's attempt, so that one delivered twice, or late, changes nothing. Those of a job carry the number of its
worker's claim too (`jobs.live_runs.Claim`): a worker whose job was taken over can neither send one, nor have one
written.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rq import Retry

from core.data.datasets import Dataset, Record
from core.data.metadata import LeftOut
from jobs.connection import RECORD, Connection, queue
from jobs.live_runs import PREFIX, Command

KINDS = (
    *("dataset", "removed_dataset", "run", "started", "cancelled", "retried", "chunk", "checked"),
    *("training_data", "step", "epochs", "training_ended", "training_retried", "study", "study_status", "deleted"),
)
RECORDS = f"{PREFIX}:records"  # records that have not been written yet, oldest first
REJECTED = f"{PREFIX}:rejected"  # records that could not be
LONGEST = 1200  # seconds that one bell may keep the record worker, waiting for the store included


def send(connection: Connection, kind: str, **values: Any) -> None:
    """Leave a record for the record worker and ring for it; `kind` is one of KINDS."""
    connection.execute_command(*record_command(kind, **values))
    ring(connection)


def record_command(kind: str, **values: Any) -> Command:
    """Return the command that leaves a record, for `Claim.write`; `ring` follows. kind: one of KINDS."""
    if kind not in KINDS:
        raise ValueError(f"expected one of {', '.join(KINDS)}; got {kind}")
    return ("RPUSH", RECORDS, json.dumps({"kind": kind, "values": values}))


def ring(connection: Connection) -> None:
    """Enqueue the job that has the record worker look at the list."""
    queue(RECORD, connection).enqueue(
        "jobs.record_worker.write_waiting",
        job_timeout=LONGEST,
        result_ttl=0,
        failure_ttl=24 * 3600,
        retry=Retry(max=3),
        description="records wait",
    )


def waiting(connection: Connection) -> int:
    """Return how many records have not been written yet."""
    return int(connection.llen(RECORDS))


def dataset_to_dict(source: Dataset) -> dict[str, Any]:
    """Return a data set as JSON-ready values."""
    return {**asdict(source), "root": str(source.root)}


def dataset_from_dict(values: dict[str, Any]) -> Dataset:
    """Return the data set that `dataset_to_dict` described."""
    return Dataset(
        **{
            **values,
            "root": Path(values["root"]),
            "records": tuple(Record(**each) for each in values["records"]),
            "left_out": tuple(LeftOut(**each) for each in values["left_out"]),
        }
    )
