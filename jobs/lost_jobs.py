"""Jobs whose worker has died, and jobs that no queue holds: found by the record worker, begun again by whoever is free.

A worker at a job says every few seconds until when it is to be believed. Workers look for jobs that are past that
moment too, but measure their own pauses by the time of day, which may jump; the record worker comes round by a clock
that does not.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

from jobs.connection import JOB_QUEUES, Connection, queue

LOST = 30  # seconds without a sign of life after which another worker takes a job over
SLACK = 15  # seconds that a worker's clock may be ahead

_missing: dict[str, float] = {}  # waiting jobs that no queue holds, and since when, by this process's own clock


def begin_lost_again(connection: Connection) -> None:
    """Enqueue again every job whose worker has given no sign of life for `LOST` seconds.

    Where a job's moment lies further ahead than any worker may set it, the clock has gone back since: it is brought
    near, so that a dead worker's job does not wait for the clock to catch up. A living worker sets it anew.
    """
    for name in JOB_QUEUES:
        each = queue(name, connection)
        registry = StartedJobRegistry(queue=each)
        latest = time.time() + LOST
        for job, _ in connection.zrangebyscore(registry.key, latest + SLACK, "+inf", withscores=True):
            connection.zadd(registry.key, {job: latest}, xx=True)
        registry.cleanup()


def enqueue_missing(jobs: Iterable[Job], *, after: float = LOST) -> list[str]:
    """Enqueue again each waiting job that no queue has held for `after` seconds; return their ids.

    The server takes a job off the queue as it hands it to a worker. If that worker's host has just lost its power, the
    job arrives nowhere, and would count as waiting for ever.
    """
    enqueued, now = [], time.monotonic()
    held: dict[str, set[str]] = {}
    for job in jobs:
        origin = queue(job.origin, job.connection)
        if job.origin not in held:
            taken = IntermediateQueue(origin.key, connection=job.connection).get_job_ids()
            held[job.origin] = {*origin.get_job_ids(), *taken}
        # The server is asked only about the few that no queue holds: such a job may have begun, or be deleted by now.
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
