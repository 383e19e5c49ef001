"""What an `svd` worker runs: a chunk of images per job, and a message about those that are measured."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rq import Retry

from core.compression.image_results import ImageResult
from core.compression.measure import measure
from core.compression.specs import measuring_spec_from_dict
from core.compression.verification import measure_again
from core.data.datasets import DatasetImage
from core.data.folders import images_here
from core.errors import NotOnThisHost
from core.settings import Settings
from jobs.hosts import left_to_others, output_here, worker_name
from jobs.later_jobs import claimed
from jobs.live_runs import MAX_TRIES, Claim, LiveRun
from jobs.messages import ImagesChecked, ImagesMeasured, wake
from jobs.run_jobs import claim_job, ends_when_taken_over, note_start

MOMENT, MOMENT_PIXELS = 2.0, 1_000_000  # seconds, pixels of an image that takes no longer


MeasureImage = Callable[[DatasetImage], ImageResult]


@ends_when_taken_over
def measure_chunk(run_id: str, attempt: int, chunk: int | None = None, **told: Any) -> Retry | None:
    """Measure a chunk of a run's images and send the results to the record worker.

    Stops after the current image if the run is cancelled or suspended. An image at which the process died MAX_TRIES
    times is given up with that reason. Images that this host cannot reach are left to another host's worker (a Retry is
    then returned), and given up if there is none. Nothing is sent if another worker has taken the job over.
    told: the spec, folders, records and names, in a job that an older version enqueued.
    """
    return measure_part(run_id, attempt, chunk, told, _prepared)


def measure_part(
    run_id: str,
    attempt: int,
    chunk: int | None,
    told: dict[str, Any],
    prepare: Callable[[dict[str, Any], str, Settings], MeasureImage],
) -> Retry | None:
    """Measure a chunk of images, see `measure_chunk`.

    prepare: returns what measures one image, from what the job does, the run's id and this host's settings. It raises
    NotOnThisHost where this host lacks the files.
    """
    if (taken := claim_job(run_id, attempt, chunk)) is None:
        return None
    job, claim = taken
    live = claim.live
    if (told := told or _told(live, chunk)) == {}:
        return None
    chosen = [DatasetImage(**each) for each in told["records"]]
    unreachable = ""
    try:
        measure_image = prepare(told, run_id, Settings.from_environment())
    except NotOnThisHost as reason:
        if again := left_to_others(job, live, str(reason)):
            return again
        unreachable = str(reason)
    note_start(claim)
    started = time.perf_counter()
    results: list[ImageResult] = []
    if unreachable:
        live.log(f"{worker_name()}: {unreachable}")
        parts = iter([[_given_up(claim, record, unreachable) for record in chosen]])
    else:
        parts = _parts(_measured(claim, chosen, measure_image), chosen)
    for part in parts:
        message = ImagesMeasured(
            run_id=run_id, attempt=attempt, claim=claim.number, worker=worker_name(), results=tuple(part)
        )
        claim.write(message.command())
        wake(job.connection)
        results += part
    if chunk is not None and len(results) == len(chosen):
        claim.write(live.job_done_command(chunk))
    failed = sum(result.status == "failed" for result in results)
    live.log(
        f"{worker_name()}: {len(results) - failed} images measured"
        + (f", {failed} failed" if failed else "")
        + f" in {time.perf_counter() - started:.1f} s"
    )
    return None


@ends_when_taken_over
def check_images(
    run_id: str, attempt: int, spec: dict[str, Any], root: str, records: list[dict[str, Any]]
) -> Retry | None:
    """Measure these images of a finished run again by the reference and send the results to the record worker.

    root: folder as the dashboard's host has it. Images that this host cannot reach are left to another one's worker,
    as in `measure_chunk`. Nothing is sent where another worker has taken the job over, or the run has been retried.
    """
    if (found := claimed(run_id, attempt)) is None:
        return None
    job, claim = found
    live = claim.live
    try:
        folder = images_here(Path(root), Settings.from_environment())
    except NotOnThisHost as reason:
        if again := left_to_others(job, live, str(reason)):
            return again
        raise
    chosen = [DatasetImage(**each) for each in records]
    rows = [
        {"image_id": record.image_id, "worker": worker_name(), **row}
        for record in chosen
        for row in measure_again(record, folder, measuring_spec_from_dict(spec))
    ]
    message = ImagesChecked(run_id=run_id, attempt=attempt, claim=claim.number, rows=tuple(rows))
    claim.write(message.command())
    wake(job.connection)
    live.log(f"{worker_name()}: {len(chosen)} images measured again by the reference")
    live.end(None, attempt)
    return None


def _prepared(told: dict[str, Any], run_id: str, settings: Settings) -> MeasureImage:
    """Return what measures one image. NotOnThisHost where this host lacks the images, or cannot write others."""
    folder = images_here(Path(told["root"]), settings)
    output = output_here(Path(told["output"]), run_id, settings) if told["output"] else None
    spec = measuring_spec_from_dict(told["spec"])
    paths = (each["path"] for each in told["records"])
    names = dict(zip(paths, told["names"] or (), strict=False))
    return lambda record: measure(record, folder, spec, output, names.get(record.path))


def _told(live: LiveRun, chunk: int | None) -> dict[str, Any]:
    """Return what a job measures, from the run's facts and the job's own part; nothing where its run has ended."""
    facts, text = live.facts(), live.job(chunk or 0)
    if facts is None or text is None:
        return {}
    return {"spec": json.loads(facts.spec), "root": facts.root, "output": facts.output, **json.loads(text)}


def _parts(results: Iterator[ImageResult], records: Sequence[DatasetImage]) -> Iterator[list[ImageResult]]:
    """Yield the results in parts: after some seconds of measuring, and before each large image.

    A cancelled run may end the process at a large image; the results before it are sent by then.
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


def _given_up(claim: Claim, record: DatasetImage, reason: str) -> ImageResult:
    claim.end_image(record.image_id, failed=True)
    return ImageResult(record.image_id, "failed", reason, 0.0)


def _measured(claim: Claim, records: Sequence[DatasetImage], measure_image: MeasureImage) -> Iterator[ImageResult]:
    live = claim.live
    for record in records:
        if live.stopped(claim.attempt, claim) or live.suspended():
            return
        if live.try_part(record.image_id) > MAX_TRIES:
            reason = f"Expected to measure {record.path}, got {MAX_TRIES} deaths of the process at this image."
            result = ImageResult(record.image_id, "failed", reason, 0.0)
        else:
            result = measure_image(record)
        claim.end_image(record.image_id, failed=result.status == "failed")
        if result.reason:
            live.log(f"{worker_name()}: {record.image_id}: {result.reason}")
        yield result
