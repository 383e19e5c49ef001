"""What the record worker does: writes the records that wait, finishes runs, and ends those that cannot end themselves.

A record is taken off the list only once it has been written; the store replaces by key, so that one that is written
again after a crash changes nothing.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import Any

from rq import get_current_job
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core.compression.measure import Chunk, ImageResult
from core.compression.results import run_results
from core.compression.specs import ReconstructSpec, measuring_spec_from_dict
from core.data.datasets import Dataset, complete_folder
from core.data.metadata import LeftOut
from core.errors import DermSlimError, StoreError, StoreUnavailable
from core.settings import Settings
from core.store.file import plain_rows
from core.store.measurements import NewRun, Store
from core.store.trainings import ENDED
from core.training.results import EpochResult, StepResult
from core.training.specs import TRAINING_SPECS
from jobs import studies, verification
from jobs.connection import Connection
from jobs.hosts import tell_folders
from jobs.live_runs import LiveRun, active_runs
from jobs.lost_jobs import begin_lost_again, enqueue_missing
from jobs.messages import RECORDS, REJECTED, dataset_from_dict, ring, waiting
from jobs.queues import Queues
from jobs.run_jobs import enqueue_current, is_due, release
from jobs.upkeep import retention, webhooks

LOG = logging.getLogger(__name__)
UNKNOWN = "someone"  # who asked, in records of a time when that was not said
WAIT_FOR_STORE = 600.0  # seconds that a record waits for a store that another process holds
LONGEST_SUBMISSION = 300.0  # seconds; a submitter that needs longer has died half-way
MOST_AT_ONCE = 64  # chunks recorded in one transaction
BREATH = 0.1  # seconds in which more records gather, so that workers' small chunks share a transaction
LONGEST_TURN = 60.0  # seconds that one bell keeps the record worker at the list
UNUSABLE = (StoreError, TypeError, KeyError, ValueError)  # what a malformed record raises
UNDER_WAY = (JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED)


def write_waiting() -> None:
    """Write the records that wait, in order; chunks that follow each other go into one transaction.

    A record that cannot be written is put aside in REJECTED, so that it does not stand in the way of the others; all
    stay on the list where the store takes nothing: held by another program, damaged, on a full disk.
    """
    store, connection = _store(), _connection()
    started = time.monotonic()
    while texts := connection.lrange(RECORDS, 0, MOST_AT_ONCE - 1):
        taken = _leading_chunks(texts) or texts[:1]
        try:
            _write(store, taken)
        except StoreUnavailable:
            raise
        except UNUSABLE:
            for text in taken:
                _write_or_reject(store, connection, text)
        connection.ltrim(RECORDS, len(taken), -1)
        if len(texts) < MOST_AT_ONCE:
            time.sleep(BREATH)
        if time.monotonic() - started > LONGEST_TURN:
            ring(connection)
            return


def _leading_chunks(texts: Sequence[bytes]) -> Sequence[bytes]:
    return list(takewhile(lambda text: json.loads(text)["kind"] == "chunk", texts))


def _write(store: Store, texts: Sequence[bytes]) -> None:
    records = [json.loads(text) for text in texts]
    if records[0]["kind"] == "chunk":
        for run_id in sorted(store.record_images([_chunk(record["values"]) for record in records])):
            finish(store, run_id)
    else:
        WRITERS[records[0]["kind"]](store, **records[0]["values"])


def _write_or_reject(store: Store, connection: Connection, text: bytes) -> None:
    try:
        _write(store, [text])
    except StoreUnavailable:
        raise
    except UNUSABLE:
        run_id = json.loads(text)["values"].get("run_id")
        LOG.exception("a record could not be written; put aside in %s", REJECTED, extra={"run_id": run_id})
        connection.rpush(REJECTED, text)


def _chunk(values: dict[str, Any]) -> Chunk:
    return Chunk(**{**values, "results": [ImageResult.from_dict(each) for each in values["results"]]})


def _store() -> Store:
    return Store(Settings.from_environment().database, timeout=WAIT_FOR_STORE)


def _connection() -> Connection:
    job = get_current_job()
    if job is None:
        raise RuntimeError("expected to be called by the record worker; got a direct call")
    return job.connection


def _write_dataset(store: Store, values: dict[str, Any], at: str) -> None:
    store.record_dataset(dataset_from_dict(values), datetime.fromisoformat(at))
    tell_folders(store, _connection())


def _write_removed_dataset(store: Store, name: str, by: str = UNKNOWN) -> None:
    store.remove_dataset(name)
    tell_folders(store, _connection())
    LOG.info("%s removed the registration of data set %s", by, name, extra={"by": by, "dataset": name})


def _write_run(store: Store, values: dict[str, Any]) -> None:
    store.record_run(NewRun(**{**values, "submitted_at": datetime.fromisoformat(values["submitted_at"])}))


def _write_started(store: Store, run_id: str, attempt: int, at: str) -> None:
    store.record_started(run_id, attempt, datetime.fromisoformat(at))


def _write_cancelled(store: Store, run_id: str, attempt: int, at: str) -> None:
    store.record_cancelled(run_id, attempt, datetime.fromisoformat(at))
    _forget(store, run_id)


def _write_checked(store: Store, run_id: str, attempt: int, rows: list[dict[str, Any]], at: str) -> None:
    store.record_checks(run_id, attempt, rows, datetime.fromisoformat(at))


def _write_training_data(store: Store, run_id: str, attempt: int, values: dict[str, Any], claim: int = 0) -> None:
    store.record_training_data(run_id, attempt, values, claim=claim)


def _write_step(
    store: Store,
    run_id: str,
    attempt: int,
    result: dict[str, Any],
    worker: str,
    started_at: str,
    finished_at: str | None,
    claim: int = 0,
) -> None:
    ended = datetime.fromisoformat(finished_at) if finished_at else None
    began, found = datetime.fromisoformat(started_at), StepResult.from_dict(result)
    store.record_step(run_id, attempt, found, worker, began, ended, claim=claim)


def _write_epochs(
    store: Store, run_id: str, attempt: int, step: int, epochs: list[dict[str, Any]], ended_at: str, claim: int = 0
) -> None:
    results = [EpochResult(**each) for each in epochs]
    store.record_epochs(run_id, attempt, step, results, datetime.fromisoformat(ended_at), claim=claim)


def _write_training_ended(store: Store, run_id: str, attempt: int, error: str | None, at: str, claim: int = 0) -> None:
    store.record_training_ended(run_id, attempt, error, datetime.fromisoformat(at), claim=claim)
    _forget(store, run_id)


def _write_training_retried(store: Store, run_id: str, attempt: int, step: int) -> None:
    store.record_training_retry(run_id, attempt, step)


def _write_study(store: Store, values: dict[str, Any]) -> None:
    store.record_study({**values, "submitted_at": datetime.fromisoformat(values["submitted_at"])})


def _write_study_status(
    store: Store, study: str, status: str, error: str | None, at: str | None, spec: str | None = None
) -> None:
    store.record_study_status(study, status, error, datetime.fromisoformat(at) if at else None, spec)


def _write_deleted(store: Store, run_id: str, attempt: int, dataset: str | None, by: str = UNKNOWN) -> None:
    gone = retention.delete(Settings.from_environment(), store, _connection(), run_id, attempt, dataset)
    facts = {"run_id": run_id, "by": by, "dataset": dataset}
    written = f" and its data set {dataset}" if dataset else ""
    LOG.info("%s %s run %s%s", by, "deleted" if gone else "could not delete", run_id, written, extra=facts)


def _write_retried(store: Store, run_id: str, attempt: int, complete: bool) -> None:
    store.record_retry(run_id, attempt)
    if complete:  # nothing was missing
        finish(store, run_id)


# By kind; chunks, which share transactions, have their own way in `_write`.
WRITERS: dict[str, Callable[..., None]] = {
    "dataset": _write_dataset,
    "removed_dataset": _write_removed_dataset,
    "run": _write_run,
    "started": _write_started,
    "cancelled": _write_cancelled,
    "retried": _write_retried,
    "checked": _write_checked,
    "training_data": _write_training_data,
    "step": _write_step,
    "epochs": _write_epochs,
    "training_ended": _write_training_ended,
    "training_retried": _write_training_retried,
    "study": _write_study,
    "study_status": _write_study_status,
    "deleted": _write_deleted,
}


def finish(store: Store, run_id: str) -> None:
    """Compute what follows from a run's measurements and mark it finished, or failed when there are none."""
    facts = store.run(run_id)
    if facts is None or facts["status"] in ENDED:
        return
    try:
        _conclude(store, run_id, facts)
    except StoreUnavailable:
        raise  # the run's figures are not at fault; its last record stays on the list, and is written again
    except Exception as error:
        reason = f"the run could not be concluded from its measurements; {type(error).__name__}: {error}"
        store.record_failed(run_id, facts["attempt"], reason, datetime.now(UTC))
        raise
    finally:
        _forget(store, run_id)


def _conclude(store: Store, run_id: str, facts: dict[str, Any]) -> None:
    spec = measuring_spec_from_dict(json.loads(facts["spec"]))
    now = datetime.now(UTC)
    if facts["measured"] == 0:
        reasons = store.images(run_id, "failed")["reason"]
        error = f"no image could be measured; all {len(reasons)} failed, the first so: {reasons.iloc[0]}"
        store.record_failed(run_id, facts["attempt"], error, now)
    else:
        result = run_results(spec, store.measurements(run_id), total=int(facts["total"]))
        written = _written_dataset(store, run_id, spec) if isinstance(spec, ReconstructSpec) else None
        store.record_results(run_id, result, now, dataset=written)
        _request_check(run_id)


def _request_check(run_id: str) -> None:
    """Queue the check of a run that has just finished. The run stays finished where it cannot be checked."""
    try:
        verification.submit(Queues(Settings.from_environment(), _connection(), store=_store()), run_id)
    except DermSlimError as error:
        LOG.warning("%s is not checked: %s", run_id, error, extra={"run_id": run_id})


def _written_dataset(store: Store, run_id: str, spec: ReconstructSpec) -> Dataset:
    """Complete the folder of a reconstruction (metadata, the note on synthetic data) and describe it."""
    settings = Settings.from_environment()
    original = store.dataset(spec.dataset)
    if original is None:
        raise RuntimeError(f"expected data set {spec.dataset} in the store; it was removed")
    failures = store.images(run_id, "failed")
    made = replace(
        original,
        name=spec.name,
        root=settings.reconstructed / spec.name,
        records=tuple(store.files(run_id)),
        left_out=tuple(LeftOut(row["image_id"], row["reason"]) for row in plain_rows(failures)),
        source=spec.dataset,
        settings=spec.settings,
    )
    complete_folder(made)
    return made


def _forget(store: Store, run_id: str) -> None:
    facts = store.run(run_id)
    if facts is not None and facts["status"] in ENDED:
        LiveRun(_connection(), run_id).end(facts["spec_hash"], facts["attempt"])


def reconcile() -> None:
    """Begin lost jobs again, end runs whose jobs have vanished without recording every image, and advance studies.

    Enqueued by the record worker itself every few seconds. Writes what waits first, so that whatever the workers
    sent has been recorded by then.
    """
    write_waiting()
    store, connection = _store(), _connection()
    begin_lost_again(connection)
    active = set(active_runs(connection))
    runs = store.runs()
    unfinished = runs[~runs["status"].isin(ENDED)]
    for run_id in sorted(active - set(unfinished["run_id"])):
        if run_id in set(runs["run_id"]):
            _forget(store, run_id)
    for facts in plain_rows(unfinished):
        reconcile_one = _reconcile_training if facts["kind"] in TRAINING_SPECS else _reconcile_run
        reconcile_one(store, LiveRun(connection, facts["run_id"]), facts["run_id"], facts["attempt"])
    tell_folders(store, connection)
    studies.advance_all(Queues(Settings.from_environment(), connection))
    webhooks.announce_new(Settings.from_environment(), store, connection)


def _settled_facts(store: Store, live: LiveRun, run_id: str, attempt: int, gone: str) -> dict[str, str] | None:
    """Return what the queue knows of a run; None while that may change, or once it is gone: the run then fails so."""
    known = live.facts()
    if not known:
        store.record_failed(run_id, attempt, gone, datetime.now(UTC))
        return None
    if int(known["attempt"]) != attempt:
        return None  # the record of a retry is on its way
    if known.get("submitting") and time.time() - float(known["submitting"]) < LONGEST_SUBMISSION:
        return None
    return known


def _reconcile_run(store: Store, live: LiveRun, run_id: str, attempt: int) -> None:
    gone = "expected the queue to know this run; its jobs are gone. Retry measures what is missing"
    known = _settled_facts(store, live, run_id, attempt, gone)
    if known is None:
        return
    jobs = _jobs(live)
    if any(each is not None and each.get_status(refresh=False) in UNDER_WAY for each in jobs):
        return
    if waiting(live.connection):
        return  # what the last job sent may be among them
    reasons = [_reason(each) for each in jobs if each is not None and each.is_failed]
    recorded = set(store.images(run_id)["image_id"])
    spec = measuring_spec_from_dict(json.loads(known["spec"]))
    source = store.dataset(spec.dataset)
    missing = (
        [] if source is None else [r for r in source.sample(spec.sample_size, spec.seed) if r.image_id not in recorded]
    )
    reason = reasons[0] if reasons else "expected a job to measure this image; its job is gone"
    lost = [ImageResult(record.image_id, "failed", reason, 0.0) for record in missing]
    if lost:
        live.log(f"{len(lost)} images given up: {reason}")
    if not lost or store.record_images([Chunk(run_id, attempt, "record worker", lost)]):
        finish(store, run_id)


def _reconcile_training(store: Store, live: LiveRun, run_id: str, attempt: int) -> None:
    """Start a run whose hour has come; fail one whose job is gone without a word."""
    gone = "expected the queue to know this run; its job is gone. Retry goes on from the step it was at"
    known = _settled_facts(store, live, run_id, attempt, gone)
    if known is None:
        return
    until = live.hold()
    if is_due(until):
        live.log(f"released: it was to start after {until}")
        release(live, attempt)
        return
    jobs = [] if until else _jobs(live)
    under_way = any(each is not None and each.get_status(refresh=False) in UNDER_WAY for each in jobs)
    if until or under_way or waiting(live.connection):
        return
    reasons = [_reason(each) for each in jobs if each is not None and each.is_failed]
    if reasons:
        live.end_training()
        store.record_failed(run_id, attempt, reasons[-1], datetime.now(UTC))
        _forget(store, run_id)
    elif live.newest_state() is None:
        error = "expected the submission to reach the queue; its process died half-way. Retry submits it anew"
        store.record_failed(run_id, attempt, error, datetime.now(UTC))
        _forget(store, run_id)
    else:  # the process died between a job's end and the next one's beginning
        live.log("its job was gone; enqueued again")
        enqueue_current(live, attempt)


def _jobs(live: LiveRun) -> list[Job | None]:
    """Return a run's jobs, None for those that are gone; what no queue holds is enqueued again first."""
    jobs: list[Job | None] = Job.fetch_many(live.job_ids(), connection=live.connection, serializer=JSONSerializer)
    for job_id in enqueue_missing(each for each in jobs if each is not None):
        live.log(f"{job_id} had been given to a worker that is gone; enqueued again")
    return jobs


def _reason(job: Job) -> str:
    latest = job.latest_result()
    text = (latest.exc_string if latest else None) or "no reason was left"
    return f"the job ended in an error; {text.strip().splitlines()[-1]}"
