"""Copy the queue to a file, with every key of RQ and DermSlim at one moment, and load it into a server."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import redis
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core.errors import DermSlimError
from jobs.connection import JOB_QUEUES, RECORD, Connection, queue
from jobs.live_runs import PREFIX
from jobs.lost_jobs import enqueue_started

OURS = ("rq:*", f"{PREFIX}:*")
LEFT_OUT = ("rq:worker", "rq:clean", "rq:scheduler")  # of processes that no longer exist
# A script is atomic, so no worker moves anything between two keys meanwhile.
SNAPSHOT = """
local found = {}
for _, pattern in ipairs(ARGV) do
  for _, key in ipairs(redis.call('KEYS', pattern)) do
    found[#found + 1] = {key, redis.call('PTTL', key), redis.call('DUMP', key)}
  end
end
return found
"""
FOLDERS = ("root", "output")  # among a run's facts, or a job's arguments where an older version enqueued it
AT_ONCE = 500  # keys per round trip
LONGEST_LIFE = 1 << 53  # milliseconds
# Exceptions of reading a key that DermSlim did not write.
UNUSABLE = (redis.ResponseError, NoSuchJobError, DeserializationError, ValueError, KeyError, TypeError, zlib.error)


class QueueCopyError(DermSlimError):
    """A queue's copy cannot be loaded."""


def our_keys(connection: Connection) -> list[str]:
    """Return the server's keys of RQ and DermSlim, except those of workers."""
    keys = sorted({key.decode() for pattern in OURS for key in connection.scan_iter(pattern, count=1000)})
    return [key for key in keys if not key.startswith(LEFT_OUT)]


def snapshot(connection: Connection) -> list[tuple[str, int | None, bytes]]:
    """Return every key with its time to live in milliseconds (None: no expiry) and its content, all of one moment."""
    found = connection.eval(SNAPSHOT, 0, *OURS)
    rows = [(key.decode(), int(left) if left > 0 else None, dump) for key, left, dump in found if dump is not None]
    return [row for row in sorted(rows) if not row[0].startswith(LEFT_OUT)]


def write_queue(rows: list[tuple[str, int | None, bytes]], stream: BinaryIO) -> None:
    """Write a snapshot with one JSON object per line."""
    for key, left, dump in rows:
        line = {"key": key, "milliseconds": left, "dump": base64.b64encode(dump).decode()}
        stream.write(json.dumps(line).encode() + b"\n")


def read_queue(path: Path) -> Iterator[tuple[str, int | None, bytes]]:
    """Yield the rows of `write_queue`. Raises QueueCopyError for an invalid line."""
    with path.open("rb") as stream:
        for number, text in enumerate(stream, 1):
            try:
                line = json.loads(text)
                key, left, dump = line["key"], line["milliseconds"], base64.b64decode(line["dump"], validate=True)
                if not _is_ours(key) or not (left is None or (type(left) is int and 0 < left < LONGEST_LIFE)):
                    raise ValueError(f"its key is {key!a:.80}, for {left!a:.20} ms")
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise QueueCopyError(
                    f"Expected a key of DermSlim's queue, its time to live and its content on each line of its copy, "
                    f"got on line {number}: {ascii(str(error))[1:-1][:200]}."
                ) from error
            yield key, left, dump


def _is_ours(key: object) -> bool:
    prefixes = tuple(pattern.removesuffix("*") for pattern in OURS)
    return isinstance(key, str) and key.startswith(prefixes) and not key.startswith(LEFT_OUT) and key.isprintable()


@contextmanager
def replaced(connection: Connection | None, path: Path, moved: Callable[[str], str]) -> Iterator[None]:
    """Replace the server's queue by a copy; restore the former queue where this or the block fails.

    connection: None for no queue. moved: see `take_up`. Raises QueueCopyError where the server rejects the copy.
    """
    if connection is None:
        yield
        return
    before = snapshot(connection)
    try:
        clear(connection)
        try:
            put_back(connection, read_queue(path))
            take_up(connection, moved)
        except UNUSABLE as error:
            reason = ascii(str(error).rpartition("caused error: ")[2])[1:-1][:200]
            raise QueueCopyError(f"Expected the server to accept the copied queue, got: {reason}.") from error
        yield
    except BaseException:
        clear(connection)
        put_back(connection, iter(before))
        raise


def clear(connection: Connection) -> None:
    """Delete every key of RQ and DermSlim."""
    keys = [key for pattern in OURS for key in connection.scan_iter(pattern, count=1000)]
    for start in range(0, len(keys), AT_ONCE):
        connection.unlink(*keys[start : start + AT_ONCE])


def put_back(connection: Connection, rows: Iterator[tuple[str, int | None, bytes]]) -> None:
    """Restore keys into an empty server. Raises redis.ResponseError for an older server."""
    pipe = connection.pipeline(transaction=False)
    for key, left, dump in rows:
        pipe.restore(key, left or 0, dump, replace=True)
        if len(pipe) == AT_ONCE:
            pipe.execute()
    pipe.execute()


def take_up(connection: Connection, moved: Callable[[str], str]) -> None:
    """Enqueue interrupted jobs again and update the paths of moved folders.

    moved: maps a former path to its present one. No worker may run yet.
    """
    for key in connection.scan_iter("rq:queue:*:intermediate", count=1000):
        name = key.decode().removeprefix("rq:queue:").removesuffix(":intermediate")
        target = queue(name, connection)
        while (job_id := connection.lpop(key)) is not None:
            connection.lpush(target.key, job_id)
    for served in (*JOB_QUEUES, RECORD):
        enqueue_started(queue(served, connection))
    for key in connection.scan_iter(f"{PREFIX}:dataset:*", count=1000):
        values = json.loads(zlib.decompress(connection.get(key)))
        if (root := moved(values["root"])) != values["root"]:
            text = json.dumps({**values, "root": root}).encode()
            connection.set(key, zlib.compress(text), keepttl=True)
    for key in connection.scan_iter(f"{PREFIX}:run:*", count=1000, _type="HASH"):
        for name, folder in zip(FOLDERS, connection.hmget(key, FOLDERS), strict=True):
            if folder is not None:
                connection.hset(key, name, moved(folder.decode()))
    for key in connection.scan_iter("rq:job:*", count=1000):
        _rename_folders(Job.fetch(key.decode().removeprefix("rq:job:"), connection, serializer=JSONSerializer), moved)


def _rename_folders(job: Job, moved: Callable[[str], str]) -> None:
    if job.get_status(refresh=False) not in (JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED):
        return
    given: dict[str, Any] = job.kwargs
    folders = {name: given[name] for name in FOLDERS if given.get(name)}
    renamed = {name: moved(folder) for name, folder in folders.items()}
    if renamed != folders:
        job.kwargs = {**given, **renamed}
        job.save()
