"""How a training run moves through the queue: one job a step, held, released and moved between priorities.

A step's state (what `core.training.algorithm2` knows before it) lies in Redis under the step's number, so that the job
itself carries three small values and may be enqueued again at any time, by whoever finds that it is missing.
"""

from __future__ import annotations

import contextlib
import json
import zlib
from datetime import UTC, datetime

from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core.data.datasets import Dataset
from core.errors import DatasetError, SpecError
from core.training import algorithm2 as schedule
from core.training.algorithm2 import State
from jobs.connection import TRAIN, Connection, queue
from jobs.live_runs import PREFIX, Command, LiveRun
from jobs.messages import dataset_from_dict, dataset_to_dict

HIGH, NORMAL, LOW = "high", "normal", "low"
PRIORITIES = (HIGH, NORMAL, LOW)
PAUSED = "paused"
QUEUE_OF = {HIGH: f"{TRAIN}-high", NORMAL: TRAIN, LOW: f"{TRAIN}-low"}
TRAIN_QUEUES = tuple(QUEUE_OF[priority] for priority in PRIORITIES)  # in the order that a worker empties them
STEP_HOURS = 48  # that one step may take before it counts as hung
STEP_TRIES = 1000  # a step is begun again when its process dies; it is given up by `live.MAX_TRIES` at one epoch
DATASET_DAYS = 60  # that a data set's description waits for the workers of a run
CHECKPOINT_DAYS = 30  # that the checkpoint of a run which has ended waits for a retry
STOPPING = "stops after this epoch"


def train_queue(priority: str, connection: Connection) -> Queue:
    """Return the queue of a priority. SpecError for an unknown one."""
    check_priority(priority)
    return queue(QUEUE_OF[priority], connection)


def check_priority(priority: str) -> None:
    """Raise SpecError for an unknown priority."""
    if priority not in QUEUE_OF:
        raise SpecError(f"priority: expected one of {', '.join(PRIORITIES)}; got {priority!r}")


def hold_text(start_after: datetime | None) -> str:
    """Return what holds a run until a moment: empty for None. SpecError for one without a time zone."""
    if start_after is None:
        return ""
    if start_after.tzinfo is None:
        raise SpecError(f"start after: expected a moment with its time zone; got {start_after}")
    return start_after.isoformat()


# -- data sets ---------------------------------------------------------------------------------------------------------


def _dataset_key(fingerprint: str) -> str:
    return f"{PREFIX}:dataset:{fingerprint}"


def leave_dataset(connection: Connection, dataset: Dataset) -> None:
    """Leave a data set's description for workers that do not see the store."""
    text = json.dumps(dataset_to_dict(dataset)).encode()
    connection.set(_dataset_key(dataset.fingerprint), zlib.compress(text), ex=DATASET_DAYS * 24 * 3600)


def fetch_dataset(connection: Connection, fingerprint: str) -> Dataset:
    """Return the data set that was left under its fingerprint. DatasetError where it is gone."""
    text = connection.get(_dataset_key(fingerprint))
    if text is None:
        raise DatasetError("expected the queue to hold the data set's description; it is gone. Retry leaves it anew")
    return dataset_from_dict(json.loads(zlib.decompress(text)))


# -- steps -------------------------------------------------------------------------------------------------------------


def job_id(live: LiveRun, attempt: int, step: int) -> str:
    """Return the id of a step's job: the same for whoever enqueues it."""
    return f"{live.run_id}--{attempt}-{step}"


def enqueue_step(live: LiveRun, state: State, attempt: int) -> None:
    """Enqueue the training that follows a state, unless it is under way or the run is held.

    The next step of a run goes before the first of others, so that runs end one after the other.
    """
    live.connection.execute_command(*state_command(live, state))
    enqueue_current(live, attempt)


def state_command(live: LiveRun, state: State) -> Command:
    """Return the command that leaves a state for the step after it."""
    return live.state_command(len(state.outcomes), json.dumps(schedule.to_dict(state)))


def enqueue_current(live: LiveRun, attempt: int) -> None:
    """Enqueue the newest step that has a state, unless it is under way, or the run is held or has ended."""
    step = live.newest_state()
    if step is None or live.hold() or live.past(step):
        return
    name = job_id(live, attempt, step)
    former = _fetch(live.connection, name)
    if _under_way(former):
        return
    if former is not None:
        former.delete()  # its expiry, its result and its place among failed jobs would be the new one's
    target = train_queue(live.priority(), live.connection)
    live.add_jobs([name])
    live.note_training(doing="waiting for a worker")
    with contextlib.suppress(DuplicateJobError):  # another process was faster
        target.enqueue(
            "jobs.train_task.train_step",
            kwargs={"run_id": live.run_id, "attempt": attempt, "step": step},
            job_id=name,
            unique=True,
            job_timeout=STEP_HOURS * 3600,
            result_ttl=3600,
            failure_ttl=7 * 24 * 3600,
            retry=Retry(max=STEP_TRIES, enqueue_at_front=True),
            at_front=step > 0,
            description=f"{live.run_id}, step {step}",
        )


def state_of(live: LiveRun, step: int) -> State:
    """Return the state before a step. SpecError where it is gone."""
    text = live.state(step)
    if text is None:
        raise SpecError(f"expected the queue to hold the state before step {step}; it is gone. Retry makes it anew")
    return schedule.from_dict(json.loads(text))


def _fetch(connection: Connection, name: str) -> Job | None:
    try:
        return Job.fetch(name, connection=connection, serializer=JSONSerializer)
    except NoSuchJobError:
        return None


def _under_way(job: Job | None) -> bool:
    return job is not None and job.get_status() in (JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED)


def withdraw(live: LiveRun) -> None:
    """Take a run's waiting jobs off the queue; one that runs is left to notice by itself."""
    for job in Job.fetch_many(live.job_ids(), connection=live.connection, serializer=JSONSerializer):
        if job is not None and job.get_status(refresh=False) == JobStatus.QUEUED:
            job.delete()


def running_job(live: LiveRun) -> Job | None:
    """Return the run's job that a worker is at, or None."""
    jobs = (_fetch(live.connection, name) for name in live.job_ids())
    return next((job for job in jobs if job is not None and job.get_status() == JobStatus.STARTED), None)


def waits(live: LiveRun, attempt: int) -> bool:
    """Return whether a run's step lies in the queue, so that no worker is at it."""
    step = live.newest_state()
    if step is None:
        return False
    status = live.connection.hget(Job.key_for(job_id(live, attempt, step)), "status")
    return status is not None and status.decode() == JobStatus.QUEUED.value


def stop_at_once(live: LiveRun) -> None:
    """End the process of the run's job, in the middle of an epoch; what it has a checkpoint of stays."""
    job = running_job(live)
    if job is not None:
        with contextlib.suppress(InvalidJobOperation, NoSuchJobError):  # it has ended by itself meanwhile
            send_stop_job_command(live.connection, job.id, serializer=JSONSerializer)


# -- holding -----------------------------------------------------------------------------------------------------------


def hold(live: LiveRun, until: str) -> None:
    """Keep a run from going on: `PAUSED`, or a moment in ISO form. A step that runs stops after its epoch."""
    live.set_hold(until)
    withdraw(live)
    live.note_training(doing=STOPPING if running_job(live) is not None else "")


def release(live: LiveRun, attempt: int) -> None:
    """Let a held run go on where it was."""
    live.set_hold("")
    enqueue_current(live, attempt)


def is_due(until: str) -> bool:
    """Return whether a run that is held until then may start."""
    return until not in ("", PAUSED) and datetime.now(UTC) >= datetime.fromisoformat(until)


def prioritise(live: LiveRun, attempt: int, priority: str) -> None:
    """Move a run to another priority; a step that runs is not interrupted."""
    train_queue(priority, live.connection)  # refuses an unknown one
    live.set_priority(priority)
    withdraw(live)
    enqueue_current(live, attempt)
