"""A run and a worker as the store and the queue together see them."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import psutil
from rq import Worker

from core.runs import Live, Run, Status
from core.training.specs import TrainSpec
from jobs.connection import SERVED
from jobs.live_runs import LiveRun, RunFacts
from jobs.run_jobs import waits

LATE = 45.0  # seconds without a sign of life after which a worker counts as dead


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


def under_way(live: LiveRun, recorded: Run | None, position: int) -> Run | None:
    """Return an active run as the queue sees it; None when the queue has nothing newer than the store."""
    facts = live.facts()
    if facts is None or (recorded is not None and recorded.ended and recorded.attempt >= facts.attempt):
        return None
    status = facts.waiting_status or (Status.RUNNING if facts.started_at else Status.QUEUED)
    if status == Status.RUNNING and facts.trains and waits(live, facts.attempt):
        status = Status.QUEUED
    run = replace(
        recorded or _submitted(live.run_id, facts),
        status=Status(status),
        total=facts.total,
        done=0,
        failed=0,
        attempt=facts.attempt,
        started_at=facts.started_at,
        finished_at=None,
        error=None,
        live=Live(position=None if facts.started_at else position, priority=facts.priority, starts_at=facts.starts_at),
    )
    return _training(run, facts) if facts.trains else _measuring(run, live)


def _submitted(run_id: str, facts: RunFacts) -> Run:
    """Return a run that the store does not know yet."""
    told = facts.model_dump(include={"kind", "dataset", "fingerprint", "synthetic", "total", "submitted_by", "study"})
    submitted_at = facts.submitted_at or datetime.now(UTC)
    return Run(id=run_id, spec_json=facts.spec, spec_hash="", submitted_at=submitted_at, **told)


def _measuring(run: Run, live: LiveRun) -> Run:
    done, failed, rate = live.progress()
    left = (run.total - done - failed) / rate if rate else None
    return replace(run, done=done, failed=failed, live=replace(run.live, rate=rate, seconds_left=left))


def _training(run: Run, facts: RunFacts) -> Run:
    epochs = run.told(TrainSpec).training.epochs
    known = replace(
        run.live,
        seconds_left=None if facts.epoch_seconds is None else (epochs - facts.epoch) * facts.epoch_seconds,
        step=facts.step,
        step_name=facts.step_name,
        epoch=facts.epoch,
        epochs=epochs,
        doing=facts.doing,
    )
    return replace(run, total=facts.epochs_done - facts.epoch + epochs, done=facts.epochs_done, live=known)


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
