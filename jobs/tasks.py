"""The functions that `svd` workers run: a chunk of images a job, one record when it is done."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rq import get_current_job

from core.datasets import Record, confine
from core.settings import Settings
from core.sweeps import Chunk, ImageResult, Spec, measure, spec_from_dict
from jobs.live import MAX_TRIES, LiveRun
from jobs.records import send


def worker_name() -> str:
    """Return the name that results carry: the worker's, which says its host."""
    return os.environ.get("RQ_WORKER_ID") or f"{socket.gethostname()}-{os.getpid()}"


def measure_chunk(
    run_id: str,
    attempt: int,
    spec: dict[str, Any],
    root: str,
    records: list[dict[str, Any]],
    output: str | None = None,
) -> None:
    """Measure these images of a run and send what they gave to the record queue.

    Stops after the image at hand when the run is cancelled. An image at which the process died MAX_TRIES times is
    given up with that reason.
    """
    job = get_current_job()
    if job is None:
        raise RuntimeError("expected to be called by a worker; got a direct call")
    live = LiveRun(job.connection, run_id)
    if live.stopped(attempt):
        return
    if live.begin():
        send(job.connection, "started", run_id=run_id, attempt=attempt, at=datetime.now(UTC).isoformat())
    folder = confine(Path(root), Settings.from_environment().data_roots)
    started = time.perf_counter()
    results = list(_measured(live, attempt, spec_from_dict(spec), folder, [Record(**each) for each in records], output))
    if results:
        send(job.connection, "chunk", **asdict(Chunk(run_id, attempt, worker_name(), results)))
    failed = sum(result.status == "failed" for result in results)
    live.log(
        f"{worker_name()}: {len(results) - failed} images measured"
        + (f", {failed} failed" if failed else "")
        + f" in {time.perf_counter() - started:.1f} s"
    )


def _measured(
    live: LiveRun, attempt: int, spec: Spec, root: Path, records: Sequence[Record], output: str | None
) -> Iterator[ImageResult]:
    for record in records:
        if live.stopped(attempt):
            return
        if live.try_part(record.image_id) > MAX_TRIES:
            reason = f"expected to measure {record.path}; the process died {MAX_TRIES} times at it"
            result = ImageResult(record.image_id, "failed", reason, 0.0)
        else:
            result = measure(record, root, spec, Path(output) if output else None)
        if result.reason:
            live.log(f"{worker_name()}: {record.image_id}: {result.reason}")
        live.end_image(record.image_id, failed=result.status == "failed")
        yield result
