"""How every process reaches Redis, and the queues by name."""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from core.errors import QueueUnavailable
from core.settings import Settings

SVD, TRAIN, RECORD = "svd", "train", "record"
QUEUES = (SVD, TRAIN, RECORD)

# A redis.Redis: its type hints are unions with its asynchronous twin, and fit neither use.
Connection = Any


def connect(settings: Settings, *, patient: bool = False) -> Connection:
    """Return a client of the server that `settings` names; nothing is sent yet.

    patient: keep trying for some minutes when the server is away (workers), instead of failing at once (pages).
    """
    url = settings.redis_url
    if url is None:
        raise QueueUnavailable(
            f"expected REDIS_URL, or the embedded server of make up at {settings.redis_url_file}; found neither"
        )
    retry = Retry(ExponentialWithJitterBackoff(cap=5, base=0.1), 60 if patient else 1)
    try:
        return redis.Redis.from_url(
            url,
            socket_connect_timeout=2,
            socket_timeout=None if patient else 5,
            health_check_interval=30,
            retry=retry,
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        )
    except ValueError as error:
        raise QueueUnavailable(f"REDIS_URL: expected redis://, rediss:// or unix://; {error}") from error


def queue(name: str, connection: Connection) -> Queue:
    """Return an RQ queue that carries JSON and nothing else."""
    return Queue(name, connection=connection, serializer=JSONSerializer)
