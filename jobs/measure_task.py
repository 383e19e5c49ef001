"""The functions that `svd` workers run: a chunk of images a job, one record when it is done."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rq import Retry, get_current_job

from core.compression.measure import Chunk, ImageResult, measure
from core.compression.specs import MeasuringSpec, measuring_spec_from_dict
from core.compression.verification import measure_again
from core.data.datasets import Record
from core.data.folders import images_here
from core.errors import NotOnThisHost, TakenOver
from core.settings import Settings
from jobs.hosts import left_to_others, output_here, worker_name
from jobs.live_runs import MAX_TRIES, Claim, LiveRun
from jobs.messages import record_command, ring, send

LOG = logging.getLogger(__name__)

MOMENT, MOMENT_PIXELS = 2.0, 1_000_000  # seconds, pixels of an image that takes no longer


def measure_chunk(
    run_id: str,
    attempt: int,
    spec: dict[str, Any],
    root: str,
    records: list[dict[str, Any]],
    output: str | None = None,
    names: list[str] | None = None,
) -> Retry | None:
    """Measure these images of a run and send what they gave to the record queue.

    root, output: folders as the dashboard's host has them. names: of the files to write, one a record.
    Stops after the image at hand when the run is cancelled. An image at which the process died MAX_TRIES times is given
    up with that reason. Images that this host cannot reach are left to another one's worker (then a Retry is returned);
    given up where there is none. Nothing is sent where another worker has taken the job over meanwhile.
    """
    job = get_current_job()
    if job is None:
        raise RuntimeError("expected to be called by a worker; got a direct call")
    live = LiveRun(job.connection, run_id)
    if live.stopped(attempt) or (claim := live.claim(job.id, attempt)) is None:
        return None
    chosen, settings = [Record(**each) for each in records], Settings.from_environment()
    unreachable = ""
    try:
        folder = images_here(Path(root), settings)
        written = output_here(Path(output), run_id, settings) if output else None
    except NotOnThisHost as reason:
        if again := left_to_others(job, live, str(reason)):
            return again
        unreachable = str(reason)
    if live.begin():
        send(job.connection, "started", run_id=run_id, attempt=attempt, at=datetime.now(UTC).isoformat())
    started = time.perf_counter()
    results: list[ImageResult] = []
    try:
        if unreachable:
            live.log(f"{worker_name()}: {unreachable}")
            parts = iter([[_given_up(claim, record, unreachable) for record in chosen]])
        else:
            named = dict(zip((record.path for record in chosen), names or (), strict=False))
            parts = _parts(_measured(claim, measuring_spec_from_dict(spec), folder, chosen, written, named), chosen)
        for part in parts:
            claim.write(record_command("chunk", **asdict(Chunk(run_id, attempt, worker_name(), part, claim.number))))
            ring(job.connection)
            results += part
    except TakenOver as reason:
        LOG.warning("%s stops: %s", worker_name(), reason, extra={"run_id": run_id})
        return None
    failed = sum(result.status == "failed" for result in results)
    live.log(
        f"{worker_name()}: {len(results) - failed} images measured"
        + (f", {failed} failed" if failed else "")
        + f" in {time.perf_counter() - started:.1f} s"
    )
    return None


def check_images(
    run_id: str, attempt: int, spec: dict[str, Any], root: str, records: list[dict[str, Any]]
) -> Retry | None:
    """Measure these images of a finished run again by the reference and send what it gave to the record queue.

    root: folder as the dashboard's host has it. Images that this host cannot reach are left to another one's worker,
    as in `measure_chunk`. Nothing is sent where another worker has taken the job over, or the run has been retried.
    """
    job = get_current_job()
    if job is None:
        raise RuntimeError("expected to be called by a worker; got a direct call")
    live = LiveRun(job.connection, run_id)
    live.reopen(attempt)
    if (claim := live.claim(job.id, attempt)) is None:
        return None
    try:
        folder = images_here(Path(root), Settings.from_environment())
    except NotOnThisHost as reason:
        if again := left_to_others(job, live, str(reason)):
            return again
        raise
    chosen = [Record(**each) for each in records]
    rows = [
        {"image_id": record.image_id, "worker": worker_name(), **row}
        for record in chosen
        for row in measure_again(record, folder, measuring_spec_from_dict(spec))
    ]
    at = datetime.now(UTC).isoformat()
    try:
        claim.write(record_command("checked", run_id=run_id, attempt=attempt, rows=rows, at=at))
    except TakenOver as reason:
        LOG.warning("%s stops: %s", worker_name(), reason, extra={"run_id": run_id})
        return None
    ring(job.connection)
    live.log(f"{worker_name()}: {len(chosen)} images measured again by the reference")
    live.end(None, attempt)
    return None


def _parts(results: Iterator[ImageResult], records: Sequence[Record]) -> Iterator[list[ImageResult]]:
    """Gather the results of images that take a moment; what has taken longer, or stands before a large image, goes.

    The process may be ended at a large image when the run is cancelled, and what it has measured stays.
    """
    part: list[ImageResult] = []
    following = [record.height * record.width for record in records[1:]] + [0]
    for result, pixels in zip(results, following, strict=False):
        part.append(result)
        if pixels > MOMENT_PIXELS or sum(each.seconds for each in part) > MOMENT:
            yield part
            part = []
    if part:
        yield part


def _given_up(claim: Claim, record: Record, reason: str) -> ImageResult:
    claim.end_image(record.image_id, failed=True)
    return ImageResult(record.image_id, "failed", reason, 0.0)


def _measured(
    claim: Claim,
    spec: MeasuringSpec,
    root: Path,
    records: Sequence[Record],
    output: Path | None,
    names: Mapping[str, str],
) -> Iterator[ImageResult]:
    live = claim.live
    for record in records:
        if live.stopped(claim.attempt, claim):
            return
        if live.try_part(record.image_id) > MAX_TRIES:
            reason = f"expected to measure {record.path}; the process died {MAX_TRIES} times at it"
            result = ImageResult(record.image_id, "failed", reason, 0.0)
        else:
            result = measure(record, root, spec, output, names.get(record.path))
        claim.end_image(record.image_id, failed=result.status == "failed")
        if result.reason:
            live.log(f"{worker_name()}: {record.image_id}: {result.reason}")
        yield result
