"""Workers on several hosts: a worker leaves a job whose files its host cannot reach to a worker on another host.

So a host that lacks a folder, or does not share the folder for reconstructions, does the rest of the work.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rq import Retry, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from core.data.datasets import Dataset
from core.data.folders import folder_here
from core.data.names import refuse_inside
from core.errors import DatasetError, NotOnThisHost, SpecError
from core.files.private import private_folder
from core.settings import Settings
from jobs.connection import Connection, queue
from jobs.live_runs import PREFIX, LiveRun

if TYPE_CHECKING:
    from core.store.measurements import Store

FOLDERS = f"{PREFIX}:folders"  # the folder of each data set, by name, for hosts that cannot read the store
EXAMPLES = 100  # files of a data set that the key names
PAUSE = 2.0  # seconds that a worker keeps a job which it has refused before, so that other workers get it first
TIMES = 1_000_000  # that a job may be left to other workers; it ends earlier, once every worker has refused it


@dataclass(frozen=True)
class Folder:
    """The folder of a registered data set on the dashboard's host, and the bytes of some of its files, by path."""

    name: str
    root: str
    fingerprint: str
    images: int
    files: dict[str, int]


def folder_of(dataset: Dataset, examples: int | None = None) -> Folder:
    """Describe a data set's folder by all its files, or by so many of them."""
    records = dataset.records if examples is None else dataset.sample(min(examples, len(dataset.records)), 1)
    files = {record.path: record.bytes for record in records}
    return Folder(dataset.name, str(dataset.root), dataset.fingerprint, len(dataset.records), files)


def tell_folders(store: Store, connection: Connection) -> None:
    """Write the folder of every registered data set to Redis; for the record worker."""
    registered: dict[str, str] = dict(store.datasets()[["name", "fingerprint"]].itertuples(index=False))
    known = {folder.name: folder.fingerprint for folder in told_folders(connection)}
    for name in known.keys() - registered.keys():
        connection.hdel(FOLDERS, name)
    for name in (each for each, fingerprint in registered.items() if known.get(each) != fingerprint):
        dataset = store.dataset(name)
        if dataset is not None:
            connection.hset(FOLDERS, name, json.dumps(asdict(folder_of(dataset, EXAMPLES))))


def told_folders(connection: Connection) -> Iterator[Folder]:
    """Yield what `tell_folders` wrote."""
    for text in connection.hvals(FOLDERS):
        yield Folder(**json.loads(text))


def worker_name() -> str:
    """Return the worker's name, which results carry and which contains its host."""
    return os.environ.get("RQ_WORKER_ID") or f"{socket.gethostname()}-{os.getpid()}"


def left_to_others(job: Job, live: LiveRun, reason: str) -> Retry | None:
    """Refuse a job; return the Retry that passes it to another worker, or None if every living worker has refused it.

    reason: why this host cannot run it, a sentence for the run's log.
    """
    first = live.refuse(worker_name())
    served = Worker.all(queue=queue(job.origin, live.connection), serializer=JSONSerializer)
    if not {worker.name for worker in served} - live.refused():
        return None
    if first:
        live.log(f"{worker_name()}: left to other workers: {reason}")
    else:
        time.sleep(PAUSE)
    job.enqueue_at_front_on_retry = False  # so that this worker runs other runs' jobs first
    return Retry(max=TIMES)


def mark_output(output: Path, run_id: str) -> None:
    """Make a reconstruction's folder and the mark by which workers recognise it. DatasetError if that fails."""
    try:
        private_folder(output)
        _mark(output, run_id).touch()
    except OSError as error:
        raise DatasetError(f"Expected to write the new data set to {output}, got {error.strerror or error}.") from error


def claim_output(output: Path, run_id: str, root: Path) -> None:
    """Mark a reconstruction's folder, which must be new or empty and outside of `root`, whose images are read.

    SpecError otherwise, so that no run writes into a folder with files of another run or of a user.
    """
    refuse_inside(output, root)
    mark_output(output, run_id)
    others = [each.name for each in output.iterdir() if each != _mark(output, run_id)]
    if others:
        disclaim_output(output, run_id)
        raise SpecError(
            f"Expected a name whose folder is new or empty, got {output} with {min(others)}. Give"
            " another name, or retry or delete the run that wrote them."
        )


def disclaim_output(output: Path, run_id: str) -> None:
    """Remove a mark, and the folder if it is empty."""
    _mark(output, run_id).unlink(missing_ok=True)
    with suppress(OSError):
        output.rmdir()


def output_here(output: Path, run_id: str, settings: Settings) -> Path:
    """Return where this host has the folder that a reconstruction is written to.

    NotOnThisHost if it is not the folder that `mark_output` marked, or cannot be written.
    """
    here = folder_here(output, settings)
    if _mark(here, run_id).is_file() and os.access(here, os.W_OK):
        return here
    raise NotOnThisHost(
        f"Expected to write the new data set to {output}, shared with the dashboard's host, got {here} on host"
        f" {socket.gethostname()}, which is another folder or cannot be written. Run an svd worker beside the"
        f" dashboard, or share the folder and set DATA_ROOTS={output.parent}=FOLDER there."
    )


def _mark(output: Path, run_id: str) -> Path:
    return output / f".{run_id}"  # a data set contains no hidden files
