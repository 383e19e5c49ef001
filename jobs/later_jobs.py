"""Jobs that add something to a run after it has ended: checks by the reference, predictions from kept weights."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from jobs.connection import SVD, TRAIN, Connection, queue
from jobs.live_runs import MAX_TRIES, PREFIX, Claim, LiveRun
from jobs.messages import waiting
from jobs.run_jobs import own_job

UNDER_WAY = f"{PREFIX}:later-jobs"  # set of the ids of jobs that have not ended
ENDED_JOBS = (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED)


@dataclass(frozen=True)
class LaterKind:
    """What such jobs do. name: in their ids. worker: the kind that runs them. longest: seconds that one may take."""

    name: str
    worker: str
    function: str
    description: str
    longest: int = 3600

    def is_job(self, job_id: str) -> bool:
        """Return whether a job of a run is of this kind."""
        return f"--{self.name}-" in job_id


CHECK = LaterKind("check", SVD, "jobs.measure_task.check_images", "checked by the reference")
PREDICT = LaterKind("predict", TRAIN, "jobs.predict_task.predict_steps", "predicted again from kept weights", 24 * 3600)
SVD_DENSE = LaterKind("svd-dense", TRAIN, "jobs.svd_dense_task.factor_steps", "dense layers of low rank", 24 * 3600)

CONVERT = LaterKind("convert", TRAIN, "jobs.deploy_task.convert_steps", "converted for devices", 24 * 3600)
LATENCY = LaterKind("latency", TRAIN, "jobs.deploy_task.measure_latencies", "latency of converted networks")


def submit(
    connection: Connection, kind: LaterKind, run_id: str, attempt: int, parts: Sequence[Mapping[str, Any]]
) -> list[str]:
    """Queue one job for each part, the arguments of the kind's function; return the ids of the jobs."""
    jobs = [
        Queue.prepare_data(
            kind.function,
            kwargs={"run_id": run_id, "attempt": attempt, **part},
            timeout=kind.longest,
            result_ttl=3600,
            failure_ttl=7 * 24 * 3600,
            retry=Retry(max=MAX_TRIES),
            job_id=f"{run_id}--{kind.name}-{secrets.token_hex(4)}",
            description=f"{run_id}, {kind.description}",
        )
        for part in parts
    ]
    live = LiveRun(connection, run_id)
    live.reopen(attempt)
    live.add_jobs(job.job_id for job in jobs)
    live.end(None, attempt)
    queue(kind.worker, connection).enqueue_many(jobs)
    connection.sadd(UNDER_WAY, *(job.job_id for job in jobs))
    return [job.job_id for job in jobs]


def unfinished(connection: Connection) -> list[Job]:
    """Return the jobs of all ended runs that wait or run, and forget the others."""
    ids = [member.decode() for member in connection.smembers(UNDER_WAY)]
    jobs = Job.fetch_many(ids, connection=connection, serializer=JSONSerializer)
    left = [job for job in jobs if job is not None and job.get_status(refresh=False) not in ENDED_JOBS]
    if done := set(ids) - {job.id for job in left}:
        connection.srem(UNDER_WAY, *done)
    return left


def claimed(run_id: str, attempt: int) -> tuple[Job, Claim] | None:
    """Return the worker's job and its claim; None where another worker has taken it over, or the run was retried."""
    job = own_job()
    live = LiveRun(job.connection, run_id)
    live.reopen(attempt)
    claim = live.claim(job.id, attempt, later=True)
    return None if claim is None else (job, claim)


def under_way(connection: Connection, kind: LaterKind, run_id: str) -> bool:
    """Return whether such a job of the run waits, runs or waits to be recorded."""
    found = [job_id for job_id in LiveRun(connection, run_id).job_ids() if kind.is_job(job_id)]
    jobs = Job.fetch_many(found, connection=connection, serializer=JSONSerializer)
    unended = any(job is not None and job.get_status(refresh=False) not in ENDED_JOBS for job in jobs)
    return unended or (bool(found) and waiting(connection) > 0)


def wait(connection: Connection, kind: LaterKind, run_id: str, pause: float = 0.2) -> None:
    """Return once no such job of the run is under way."""
    while under_way(connection, kind, run_id):
        time.sleep(pause)
