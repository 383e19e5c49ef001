"""Check the figures of measuring runs: every run with two of its images, and with more on request.

The jobs run on `svd` workers after a run has finished, and change nothing but the table `verifications`.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict

from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core.compression.specs import MeasuringSpec
from core.compression.verification import IMAGES, chosen
from core.data.datasets import Dataset, DatasetImage
from core.errors import SpecError
from core.runs import Run
from jobs.connection import SVD, Connection, queue
from jobs.live_runs import MAX_TRIES, LiveRun
from jobs.messages import waiting
from jobs.queues import Queues

IMAGES_A_JOB = 2
LONGEST = 3600  # seconds that one job may take
ENDED_JOBS = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


def submit(queues: Queues, run_id: str, images: int = IMAGES) -> list[str]:
    """Queue the check of so many images of a finished run; return the ids of the jobs.

    SpecError where the run cannot be checked.
    """
    run, spec, dataset, records = images_to_check(queues, run_id, images)
    jobs = [
        Queue.prepare_data(
            "jobs.measure_task.check_images",
            kwargs={
                "run_id": run_id,
                "attempt": run.attempt,
                "spec": spec.to_dict(),
                "root": str(dataset.root),
                "records": [asdict(record) for record in records[start : start + IMAGES_A_JOB]],
            },
            timeout=LONGEST,
            result_ttl=3600,
            failure_ttl=7 * 24 * 3600,
            retry=Retry(max=MAX_TRIES),
            job_id=f"{run_id}--check-{secrets.token_hex(4)}",
            description=f"{run_id}, checked by the reference",
        )
        for start in range(0, len(records), IMAGES_A_JOB)
    ]
    with queues.connected() as connection:
        live = LiveRun(connection, run_id)
        live.reopen(run.attempt)
        live.add_jobs(job.job_id for job in jobs)
        live.end(None, run.attempt)
        queue(SVD, connection).enqueue_many(jobs)
    return [job.job_id for job in jobs]


def images_to_check(queues: Queues, run_id: str, images: int) -> tuple[Run, MeasuringSpec, Dataset, list[DatasetImage]]:
    """Return a finished run, its spec, its data set and so many of its images. SpecError where there are none."""
    run = queues.store.run(run_id)
    if run is None or run.trains:
        raise SpecError(f"Expected a measuring run that is in the store, got {run_id}.")
    if run.status != "finished":
        raise SpecError(f"Expected a run that has finished; {run_id} is {run.status}.")
    if images < 1:
        raise SpecError(f"images: Expected at least 1, got {images}.")
    spec, dataset = run.told(MeasuringSpec), queues.dataset_of(run)
    measured = set(queues.store.images(run_id, "measured")["image_id"])
    records = chosen((each for each in dataset.records if each.image_id in measured), images, spec.seed)
    return run, spec, dataset, records


def under_way(connection: Connection, run_id: str) -> bool:
    """Return whether a check of the run waits, runs or waits to be recorded."""
    checks = [job_id for job_id in LiveRun(connection, run_id).job_ids() if "--check-" in job_id]
    jobs = Job.fetch_many(checks, connection=connection, serializer=JSONSerializer)
    return any(job is not None and job.get_status(refresh=False) not in ENDED_JOBS for job in jobs) or (
        bool(checks) and waiting(connection) > 0
    )
