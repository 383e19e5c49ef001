"""A run and a worker as the store and the queue together see them."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import psutil
from rq import Worker

from core.store.trainings import ENDED
from core.training.specs import TRAINING_SPECS
from jobs.connection import NORMAL, SERVED
from jobs.live_runs import LiveRun, RunFacts
from jobs.run_jobs import waits

LATE = 45.0  # seconds without a sign of life after which a worker counts as dead


@dataclass(frozen=True)
class RunState:
    """A run as the store and the queue together see it.

    status: 'queued', 'running', 'suspended', 'scheduled' (to start at a later time), 'finished', 'failed', 'cancelled'.
    total, done: images, or for a training run epochs, of the steps begun so far. failed: images or steps. rate: images
    a second. seconds_left: until the last image at that rate, or until the last epoch of the step. position: runs
    submitted before it that have not ended, for a queued run. step, step_name, epoch: where a training run is. doing:
    what it does before its first epoch. starts_at: of a scheduled run. study: what submitted it with others.
    """

    run_id: str
    kind: str
    dataset: str
    status: str
    total: int
    done: int
    failed: int
    attempt: int
    submitted_at: datetime
    submitted_by: str | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    rate: float | None = None
    seconds_left: float | None = None
    position: int | None = None
    error: str | None = None
    synthetic: bool = False
    study: str | None = None
    priority: str = NORMAL
    starts_at: datetime | None = None
    step: int | None = None
    step_name: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    doing: str | None = None

    @property
    def trains(self) -> bool:
        """Whether the run trains networks: its parts are epochs then, not images."""
        return self.kind in TRAINING_SPECS

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the run by itself."""
        return self.status in ENDED


@dataclass(frozen=True)
class WorkerState:
    """A worker that is alive. kind: the queue it serves. state: idle, busy, starting or suspended."""

    name: str
    kind: str
    host: str
    pid: int
    state: str
    current_run: str | None
    last_seen: datetime
    started_at: datetime | None
    jobs_done: int


def recorded_state(row: dict[str, Any]) -> RunState:
    """Return a run as the store has it. row: of `Store.runs`."""
    return RunState(
        run_id=row["run_id"],
        kind=row["kind"],
        dataset=row["dataset"],
        status=row["status"],
        total=row["total"],
        done=row["measured"],
        failed=row["failed"],
        attempt=row["attempt"],
        submitted_at=row["submitted_at"],
        submitted_by=row["submitted_by"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        error=row["error"],
        synthetic=row["synthetic"],
        study=row["study"],
    )


def live_state(live: LiveRun, recorded: RunState | None, position: int) -> RunState | None:
    """Return what the queue adds to the store's view of an active run; None when the queue has nothing newer."""
    facts = live.facts()
    if facts is None or (recorded is not None and recorded.ended and recorded.attempt >= facts.attempt):
        return None
    status = facts.waiting_status or ("running" if facts.started_at else "queued")
    if status == "running" and facts.trains and waits(live, facts.attempt):
        status = "queued"
    state = RunState(
        run_id=live.run_id,
        kind=facts.kind,
        dataset=facts.dataset,
        status=status,
        total=facts.total,
        done=0,
        failed=0,
        attempt=facts.attempt,
        submitted_at=facts.submitted_at or datetime.now(UTC),
        submitted_by=facts.submitted_by,
        started_at=facts.started_at,
        position=None if facts.started_at else position,
        synthetic=facts.synthetic,
        study=facts.study,
        priority=facts.priority,
        starts_at=facts.starts_at,
    )
    return _training_state(state, facts) if facts.trains else _measuring_state(state, live)


def _measuring_state(state: RunState, live: LiveRun) -> RunState:
    done, failed, rate = live.progress()
    left = (state.total - done - failed) / rate if rate else None
    return replace(state, done=done, failed=failed, rate=rate, seconds_left=left)


def _training_state(state: RunState, facts: RunFacts) -> RunState:
    epochs = int(json.loads(facts.spec)["training"]["epochs"])
    return replace(
        state,
        total=facts.epochs_done - facts.epoch + epochs,
        done=facts.epochs_done,
        seconds_left=None if facts.epoch_seconds is None else (epochs - facts.epoch) * facts.epoch_seconds,
        step=facts.step,
        step_name=facts.step_name,
        epoch=facts.epoch,
        epochs=epochs,
        doing=facts.doing,
    )


def worker_state(worker: Worker) -> WorkerState | None:
    """Return a worker that is alive and serves one of our queues, else None."""
    names = set(worker.queue_names())
    kind = next((kind for kind, served in SERVED.items() if names & set(served)), None)
    if kind is None or worker.last_heartbeat is None:
        return None
    seen = worker.last_heartbeat.replace(tzinfo=UTC)
    host, pid = worker.hostname or "unknown", int(worker.pid or 0)
    if (datetime.now(UTC) - seen).total_seconds() > LATE or (
        host == socket.gethostname() and not psutil.pid_exists(pid)
    ):
        return None
    try:
        job_id = worker.get_current_job_id()
    except KeyError:  # a sign of life came late, and made half an entry of a job that was taken over
        job_id = None
    return WorkerState(
        name=worker.name,
        kind=kind,
        host=host,
        pid=pid,
        state=worker.get_state(),
        current_run=job_id.split("--")[0] if job_id and "--" in job_id else None,
        last_seen=seen,
        started_at=worker.birth_date.replace(tzinfo=UTC) if worker.birth_date else None,
        jobs_done=int(worker.successful_job_count),
    )
