"""A run's jobs in the queue, whatever its kind: enqueued, suspended, resumed, moved between priorities, begun.

Redis stores what a job does (a chunk of images to measure, or the state of Algorithm 2 before a step) under the run and
the job's number. The job itself carries three small values, and any process that misses it may enqueue it again.
"""

from __future__ import annotations

import functools
import logging
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import ParamSpec

from pydantic import TypeAdapter
from redis.client import Pipeline
from rq import Queue, Retry, get_current_job
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.queue import EnqueueData
from rq.serializers import JSONSerializer

from core.compression.specs import DiagnosisSpec
from core.data.datasets import Dataset
from core.errors import DatasetError, SpecError, TakenOver
from jobs.connection import PRIORITIES, SVD, TRAIN, Connection, queue, queue_name
from jobs.hosts import worker_name
from jobs.live_runs import PREFIX, SUSPENDED, Claim, LiveRun, RunFacts
from jobs.messages import RunStarted, send

UNDER_WAY = (JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED)
DATASET_DAYS = 60  # that a data set's description waits for the workers of a run
STEP_SECONDS = 48 * 3600  # that one step may take before it counts as hung
DATASET = TypeAdapter(Dataset)
P = ParamSpec("P")


@dataclass(frozen=True)
class JobKind:
    """How jobs of one kind of run are enqueued. number: the argument of `function` that takes the job's number."""

    worker: str
    function: str
    number: str
    retry: Retry


# A job is begun again when its process dies; an image, or an epoch, is given up after `live_runs.MAX_TRIES`.
MEASURING = JobKind(SVD, "jobs.measure_task.measure_chunk", number="chunk", retry=Retry(max=12))
DIAGNOSING = JobKind(TRAIN, "jobs.diagnose_task.diagnose_chunk", number="chunk", retry=Retry(max=12))
TRAINING = JobKind(TRAIN, "jobs.train_task.train_step", number="step", retry=Retry(max=1000, enqueue_at_front=True))


def check_priority(priority: str) -> None:
    """Raise SpecError for an unknown priority."""
    if priority not in PRIORITIES:
        raise SpecError(f"Expected a priority of {', '.join(PRIORITIES)}, got {priority!r}.")


def check_start(start_after: datetime | None) -> None:
    """Raise SpecError for a moment without a time zone."""
    if start_after is not None and start_after.tzinfo is None:
        raise SpecError(f"Expected a start time with its time zone, got {start_after}.")


# -- data sets ---------------------------------------------------------------------------------------------------------


def dataset_key(fingerprint: str) -> str:
    """Return the key that holds a data set's description."""
    return f"{PREFIX}:dataset:{fingerprint}"


def leave_dataset(connection: Connection, dataset: Dataset) -> None:
    """Write a data set's description to Redis for workers that cannot read the store."""
    text = zlib.compress(DATASET.dump_json(dataset))
    connection.set(dataset_key(dataset.fingerprint), text, ex=DATASET_DAYS * 24 * 3600)


def fetch_dataset(connection: Connection, fingerprint: str) -> Dataset:
    """Return the data set of a fingerprint from Redis. DatasetError if it is not there."""
    text = connection.get(dataset_key(fingerprint))
    if text is None:
        raise DatasetError("Expected the data set's description in the queue, got none. Retry the run.")
    return DATASET.validate_json(zlib.decompress(text))


# -- enqueuing ---------------------------------------------------------------------------------------------------------


def job_id(live: LiveRun, attempt: int, number: int) -> str:
    """Return the id of a run's job: the same for whoever enqueues it."""
    return f"{live.run_id}--{attempt}-{number}"


def enqueue(live: LiveRun) -> None:
    """Enqueue every job that is left and not under way, unless the run is suspended.

    All are enqueued in one transaction, and none twice, also where two processes do so at the same time. A step of a
    run goes before the first steps of others, so that runs end one after the other.
    """
    facts, numbers = live.facts(), live.jobs_left()
    if facts is None or facts.suspended or not numbers:
        return
    kind = TRAINING if facts.trains else DIAGNOSING if facts.kind == DiagnosisSpec.kind else MEASURING
    target = queue(queue_name(kind.worker, facts.priority), live.connection)
    ids = {number: job_id(live, facts.attempt, number) for number in numbers}

    def enqueue_missing(pipe: Pipeline) -> None:
        known = dict(zip(ids, _fetch(live.connection, ids.values()), strict=True))
        missing = [number for number, job in known.items() if not is_under_way(job)]
        pipe.multi()
        for number in missing:
            if (former := known[number]) is not None:
                former.delete(pipeline=pipe)  # its expiry, result and place among failed jobs would be the new one's
        if missing:
            target.enqueue_many([_prepared(live, facts, kind, number) for number in missing], pipeline=pipe)
            pipe.sadd(f"{live.key}:jobs", *(ids[number] for number in missing))
            pipe.hset(live.key, "doing", "waiting for a worker")

    live.connection.transaction(enqueue_missing, *(Job.key_for(each) for each in ids.values()))


def _prepared(live: LiveRun, facts: RunFacts, kind: JobKind, number: int) -> EnqueueData:
    return Queue.prepare_data(
        kind.function,
        kwargs={"run_id": live.run_id, "attempt": facts.attempt, kind.number: number},
        timeout=facts.timeout or STEP_SECONDS,
        result_ttl=3600,
        failure_ttl=7 * 24 * 3600,
        job_id=job_id(live, facts.attempt, number),
        at_front=kind is TRAINING and number > 0,
        retry=kind.retry,
        description=f"{live.run_id}, {kind.number} {number}",
    )


def jobs_of(live: LiveRun) -> list[Job | None]:
    """Return the jobs that an attempt has had in the queue, None for those that are gone."""
    return _fetch(live.connection, live.job_ids())


def _fetch(connection: Connection, ids: Iterable[str]) -> list[Job | None]:
    found: list[Job | None] = Job.fetch_many(list(ids), connection=connection, serializer=JSONSerializer)
    return found


def is_under_way(job: Job | None) -> bool:
    """Return whether a job waits or a worker is at it."""
    return job is not None and job.get_status(refresh=False) in UNDER_WAY


def failure_of(job: Job) -> str:
    """Return the last line of the error that ended a job."""
    latest = job.latest_result()
    text = (latest.exc_string if latest else None) or "no reason was stored"
    return text.strip().splitlines()[-1]


def waits(live: LiveRun, attempt: int) -> bool:
    """Return whether a training's step is in the queue, so that no worker runs it."""
    steps = live.jobs_left()
    status = live.connection.hget(Job.key_for(job_id(live, attempt, steps[-1])), "status") if steps else None
    return status is not None and status.decode() == JobStatus.QUEUED.value


# -- operating ---------------------------------------------------------------------------------------------------------


def dequeue(live: LiveRun) -> None:
    """Delete a run's waiting jobs; a worker that runs one notices the change by itself."""
    for job in jobs_of(live):
        if job is not None and job.get_status(refresh=False) == JobStatus.QUEUED:
            job.delete()


def suspend(live: LiveRun) -> None:
    """Suspend a run. A worker stops after its current image or epoch."""
    live.note(hold=SUSPENDED)
    dequeue(live)
    live.note(doing="stops after this epoch" if running_jobs(live) else "")


def resume(live: LiveRun) -> None:
    """Resume a suspended or scheduled run where it stopped."""
    live.note(hold="")
    enqueue(live)


def prioritise(live: LiveRun, priority: str) -> None:
    """Change a run's priority; running jobs are not interrupted."""
    check_priority(priority)
    live.note(priority=priority)
    if live.jobs_left():  # else an older version enqueued the jobs: they stay where they are
        dequeue(live)
        enqueue(live)


def stop_at_once(live: LiveRun) -> None:
    """End the processes of a run's jobs, within an image or an epoch; the last checkpoint stays."""
    for job in running_jobs(live):
        with suppress(InvalidJobOperation, NoSuchJobError):  # it has ended by itself meanwhile
            send_stop_job_command(live.connection, job.id, serializer=JSONSerializer)


def running_jobs(live: LiveRun) -> list[Job]:
    """Return the jobs that a worker works on now."""
    return [job for job in jobs_of(live) if job is not None and job.get_status(refresh=False) == JobStatus.STARTED]


# -- a worker begins a job ---------------------------------------------------------------------------------------------


def ends_when_taken_over(task: Callable[P, Retry | None]) -> Callable[P, Retry | None]:
    """Have a job's function end without an error once another worker has the job."""

    @functools.wraps(task)
    def run(*arguments: P.args, **named: P.kwargs) -> Retry | None:
        try:
            return task(*arguments, **named)
        except TakenOver as reason:
            logging.getLogger(task.__module__).warning("%s stops: %s", worker_name(), reason)
            return None

    return run


def own_job() -> Job:
    """Return the job that this worker has begun."""
    if (job := get_current_job()) is None:
        raise RuntimeError("Expected to be called by a worker, got a direct call.")
    return job


def claim_job(run_id: str, attempt: int, number: int | None) -> tuple[Job, Claim] | None:
    """Claim the job that this worker has begun; None where it is done, or its run is suspended or over.

    number: None for a job of an older version, which says itself what it does.
    """
    job = own_job()
    live = LiveRun(job.connection, run_id)
    facts = live.facts()
    if facts is None or facts.suspended or live.stopped(attempt):
        return None
    claim = live.claim(f"step {number}" if facts.trains else job.id, attempt)
    # Asked after the claim: whoever had the job before cannot end it any more.
    if claim is None or not (number is None or number in live.jobs_left()):
        return None
    return job, claim


def note_start(claim: Claim) -> None:
    """Tell the record worker that the run has begun, once."""
    if claim.live.begin():
        send(claim.live.connection, RunStarted(run_id=claim.live.run_id, attempt=claim.attempt))
