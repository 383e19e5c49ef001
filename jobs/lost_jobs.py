"""Jobs whose worker has died: found by the record worker, and begun again by whoever is free.

A worker at a job says every few seconds until when it is to be believed. Workers look for jobs that are past that
moment too, but measure their own pauses by the time of day, which may jump; the record worker comes round by a clock
that does not.
"""

from __future__ import annotations

import time

from rq.registry import StartedJobRegistry

from jobs.connection import SVD, Connection, queue
from jobs.training_jobs import TRAIN_QUEUES

LOST = 30  # seconds without a sign of life after which another worker takes a job over
SLACK = 15  # seconds that a worker's clock may be ahead


def begin_lost_again(connection: Connection) -> None:
    """Enqueue again every job whose worker has given no sign of life for `LOST` seconds.

    Where a job's moment lies further ahead than any worker may set it, the clock has gone back since: it is brought
    near, so that a dead worker's job does not wait for the clock to catch up. A living worker sets it anew.
    """
    for name in (SVD, *TRAIN_QUEUES):
        each = queue(name, connection)
        registry = StartedJobRegistry(queue=each)
        latest = time.time() + LOST
        for job, _ in connection.zrangebyscore(registry.key, latest + SLACK, "+inf", withscores=True):
            connection.zadd(registry.key, {job: latest}, xx=True)
        registry.cleanup()
