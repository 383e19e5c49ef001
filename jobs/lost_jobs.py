"""Jobs whose worker has died, and jobs that no queue contains: the record worker enqueues them again.

A worker writes every few seconds until when its job counts as running. Workers look for expired jobs too, but they
measure their own pauses by the time of day, which may jump; the record worker uses a clock that does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from rq import Queue
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from jobs.connection import JOB_QUEUES, Connection, queue

LOST = 30  # seconds without a heartbeat after which another worker takes a job over
SLACK = 15  # seconds that a worker's clock may be ahead

# Waiting jobs that no queue contains, and since when, by this process's monotonic clock.
_missing: dict[str, float] = {}


def enqueue_started(target: Queue) -> list[str]:
    """Enqueue the started jobs of a queue again, before the others, and return their ids. No worker may run them."""
    registry = StartedJobRegistry(queue=target)
    interrupted: list[str] = registry.get_job_ids(cleanup=False)
    for job_id in interrupted:
        job = Job.fetch(job_id, connection=target.connection, serializer=JSONSerializer)
        registry.remove_executions(job)
        target.enqueue_job(job, at_front=True)
    return interrupted


def begin_lost_again(connection: Connection) -> None:
    """Enqueue again every job whose worker has sent no heartbeat for `LOST` seconds.

    An expiry later than any worker may set means that the clock has gone back since. It is set to the latest possible
    one, so that a dead worker's job does not wait for the clock to catch up. A living worker sets it again.
    """
    for name in JOB_QUEUES:
        each = queue(name, connection)
        registry = StartedJobRegistry(queue=each)
        latest = time.time() + LOST
        for job, _ in connection.zrangebyscore(registry.key, latest + SLACK, "+inf", withscores=True):
            connection.zadd(registry.key, {job: latest}, xx=True)
        registry.cleanup()


def enqueue_missing(jobs: Iterable[Job], *, after: float = LOST) -> list[str]:
    """Enqueue again each waiting job that has been in no queue for `after` seconds; return their ids.

    The server removes a job from the queue when a worker takes it. If that worker's host loses power then, the
    job is lost and would count as waiting forever.
    """
    enqueued, now = [], time.monotonic()
    held: dict[str, set[str]] = {}
    for job in jobs:
        origin = queue(job.origin, job.connection)
        if job.origin not in held:
            taken = IntermediateQueue(origin.key, connection=job.connection).get_job_ids()
            held[job.origin] = {*origin.get_job_ids(), *taken}
        # Ask the server only about the few jobs in no queue: such a job may have begun or been deleted since.
        if (
            job.get_status(refresh=False) != JobStatus.QUEUED
            or job.id in held[job.origin]
            or job.connection.hget(job.key, "status") != JobStatus.QUEUED.value.encode()
        ):
            _missing.pop(job.id, None)
        elif now - _missing.setdefault(job.id, now) >= after:
            del _missing[job.id]
            origin.enqueue_job(job, at_front=True)
            enqueued.append(job.id)
    return enqueued
