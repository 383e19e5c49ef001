"""What the record worker does: writes the messages that wait, finishes runs, and ends those that cannot end themselves.

A message is taken off the list only once it has been written; the store replaces by key, so that one that is written
again after a crash changes nothing.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile

from core.compression.image_results import Chunk, ImageResult
from core.compression.results import run_results
from core.compression.specs import MeasuringSpec, ReconstructSpec, measuring_spec_from_dict
from core.data.datasets import Dataset, DatasetImage, complete_folder
from core.data.metadata import LeftOut
from core.errors import DermSlimError, SpecError, StoreError, StoreUnavailable
from core.runs import Run
from core.settings import Settings
from core.store.measurements import Store
from jobs import later_jobs, messages, study_rounds, verification
from jobs.connection import Connection
from jobs.hosts import tell_folders
from jobs.live_runs import LiveRun, RunFacts, active_runs
from jobs.lost_jobs import begin_lost_again, enqueue_missing
from jobs.messages import MESSAGES, REJECTED, Message, RunDeleted, read, waiting, wake
from jobs.queues import Queues
from jobs.run_jobs import enqueue, failure_of, is_under_way, jobs_of, own_job, resume
from jobs.run_kinds import Measuring, run_kind
from jobs.upkeep import retention, webhooks

LOG = logging.getLogger(__name__)
WAIT_FOR_STORE = 600.0  # seconds that a message waits for a store that another process holds
LONGEST_SUBMISSION = 300.0  # seconds; a submitter that needs longer has died half-way
MOST_AT_ONCE = 64  # chunks recorded in one transaction
CHUNK_BEGINS = json.dumps({"kind": messages.ImagesMeasured.kind, "values": {}})[:-3].encode()
GATHERING = 0.1  # seconds in which more messages gather, so that workers' small chunks share a transaction
LONGEST_TURN = 60.0  # seconds that one job keeps the record worker at the list
UNUSABLE = (StoreError, TypeError, KeyError, ValueError)  # what a malformed message raises


def write_waiting() -> None:
    """Write the messages that wait, in order; chunks that follow each other go into one transaction.

    A message that cannot be written moves to REJECTED, so that it does not block the others. All stay on the list if
    the store cannot be written: another program has it open, it is damaged, or the disk is full.
    """
    store, connection = _store(), _connection()
    started = time.monotonic()
    while texts := connection.lrange(MESSAGES, 0, MOST_AT_ONCE - 1):
        chunks = list(takewhile(lambda text: text.startswith(CHUNK_BEGINS), texts))
        taken = chunks or texts[:1]
        try:
            _write(store, [read(text) for text in taken])
        except StoreUnavailable:
            raise
        except UNUSABLE:
            for text in taken:
                _write_or_reject(store, connection, text)
        connection.ltrim(MESSAGES, len(taken), -1)
        if len(texts) < MOST_AT_ONCE:
            time.sleep(GATHERING)
        if time.monotonic() - started > LONGEST_TURN:
            wake(connection)
            return


def _write_or_reject(store: Store, connection: Connection, text: bytes) -> None:
    try:
        _write(store, [read(text)])
    except StoreUnavailable:
        raise
    except UNUSABLE:
        found = re.search(rb'"run_id": "([^"]*)"', text)
        about = {"run_id": found[1].decode(errors="replace") if found else None}
        LOG.exception("a message could not be written; put aside in %s", REJECTED, extra=about)
        connection.rpush(REJECTED, text)


def _store() -> Store:
    return Store(Settings.from_environment().database, timeout=WAIT_FOR_STORE)


def _connection() -> Connection:
    return own_job().connection


def _write(store: Store, given: Sequence[Message]) -> None:
    """Write a message, or chunks of measured images in one transaction."""
    chunks = [Chunk(**dict(each)) for each in given if isinstance(each, messages.ImagesMeasured)]
    if chunks:
        for run_id in sorted(store.record_images(chunks)):
            finish(store, run_id)
        return
    match given[0]:
        case messages.DatasetRegistered() as told:
            store.record_dataset(told.values, told.at)
            tell_folders(store, _connection())
        case messages.DatasetRemoved(name=name, by=by):
            store.remove_dataset(name)
            tell_folders(store, _connection())
            LOG.info("%s removed the registration of data set %s", by, name, extra={"by": by, "dataset": name})
        case messages.RunSubmitted() as told:
            store.record_run(told.values)
        case messages.RunStarted() as told:
            store.record_started(told.run_id, told.attempt, told.at)
        case messages.RunCancelled() as told:
            store.record_cancelled(told.run_id, told.attempt, told.at)
            _forget(store, told.run_id)
        case messages.RunRetried() as told:
            if told.step is not None:
                store.record_training_retry(told.run_id, told.attempt, told.step)
                return
            store.record_retry(told.run_id, told.attempt)
            if told.complete:  # nothing was missing
                finish(store, told.run_id)
        case messages.ImagesChecked() as told:
            store.record_checks(told.run_id, told.attempt, told.rows, told.at)
        case messages.TrainingDataBuilt() as told:
            store.record_training_data(told.run_id, told.attempt, told.values, claim=told.claim)
        case messages.StepRecorded(result=result, worker=worker) as told:
            times = (told.started_at, told.finished_at)
            store.record_step(told.run_id, told.attempt, result, worker, *times, claim=told.claim)
        case messages.EpochsTrained(step=step, epochs=epochs) as told:
            store.record_epochs(told.run_id, told.attempt, step, epochs, told.ended_at, claim=told.claim)
        case messages.StepPredicted(result=result) as told:
            store.record_predictions(told.run_id, told.attempt, result)
        case messages.StepConverted(result=converted, worker=worker) as told:
            store.record_conversion(told.run_id, told.attempt, converted, worker, told.at)
        case messages.LatenciesMeasured(results=measured, host=host) as told:
            store.record_latencies(told.run_id, told.attempt, measured, host, told.at)
        case messages.DenseFactored(result=factored) as told:
            store.record_svd_dense(told.run_id, told.attempt, factored, told.at)
        case messages.TrainingEnded() as told:
            store.record_training_ended(told.run_id, told.attempt, told.error, told.at, claim=told.claim)
            _forget(store, told.run_id)
        case messages.StudySubmitted() as told:
            store.record_study(dict(told.values))
        case messages.StudyStatus() as told:
            store.record_study_status(told.study, told.status, told.error, told.at, told.spec)
        case RunDeleted() as told:
            _delete(store, told)
        case other:
            raise ValueError(f"Expected a message that the record worker writes, got {type(other).__name__}.")


def _delete(store: Store, message: RunDeleted) -> None:
    run_id, dataset, by = message.run_id, message.dataset, message.by
    gone = retention.delete(Settings.from_environment(), store, _connection(), run_id, message.attempt, dataset)
    facts = {"run_id": run_id, "by": by, "dataset": dataset}
    written = f" and its data set {dataset}" if dataset else ""
    LOG.info("%s %s run %s%s", by, "deleted" if gone else "could not delete", run_id, written, extra=facts)


def finish(store: Store, run_id: str) -> None:
    """Compute what follows from a run's measurements and mark it finished, or failed when there are none."""
    run = store.run(run_id)
    if run is None or run.ended:
        return
    try:
        _conclude(store, run)
    except StoreUnavailable:
        raise  # the run's figures are not at fault; its last record stays on the list, and is written again
    except Exception as error:
        reason = f"the run could not be concluded from its measurements; {type(error).__name__}: {error}"
        store.record_failed(run_id, run.attempt, reason, datetime.now(UTC))
        raise
    finally:
        _forget(store, run_id)


def _conclude(store: Store, run: Run) -> None:
    spec, now = run.told(MeasuringSpec), datetime.now(UTC)
    if run.done == 0:
        reasons = store.images(run.id, "failed")["reason"]
        error = f"no image could be measured; all {len(reasons)} failed, the first so: {reasons.iloc[0]}"
        store.record_failed(run.id, run.attempt, error, now)
    else:
        result = run_results(spec, store.measurements(run.id), total=run.total)
        written = _written_dataset(store, run.id, spec) if isinstance(spec, ReconstructSpec) else None
        store.record_results(run.id, result, now, dataset=written)
        _request_check(run.id)


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
        raise RuntimeError(f"Expected data set {spec.dataset} in the store, got none.")
    failures = store.images(run_id, "failed")
    made = replace(
        original,
        name=spec.name,
        root=settings.reconstructed / spec.name,
        records=tuple(store.files(run_id)),
        left_out=tuple(map(LeftOut, failures["image_id"], failures["reason"])),
        source=spec.dataset,
        settings=spec.settings,
    )
    complete_folder(made)
    return made


def _forget(store: Store, run_id: str) -> None:
    run = store.run(run_id)
    if run is not None and run.ended:
        LiveRun(_connection(), run_id).end(run.spec_hash, run.attempt)


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
    for run_id in sorted(active & {run.id for run in runs if run.ended}):
        _forget(store, run_id)
    for run in runs:
        if not run.ended:
            _reconcile(store, LiveRun(connection, run.id), run.attempt)
    for job_id in enqueue_missing(later_jobs.unfinished(connection)):
        LOG.warning("%s had been given to a worker that is gone; enqueued again", job_id)
    tell_folders(store, connection)
    study_rounds.advance_all(Queues(Settings.from_environment(), connection))
    webhooks.announce_new(Settings.from_environment(), store, connection)


def _reconcile(store: Store, live: LiveRun, attempt: int) -> None:
    """Start a run whose hour has come, enqueue jobs that are gone again, and end a run that cannot go on."""
    facts = live.facts()
    if facts is None:
        _fail(store, live, attempt, "Expected jobs of this run in the queue, got none. Retry the run.")
    if facts is None or facts.attempt != attempt:
        return  # the message about a retry is on its way
    if facts.submitting is not None and time.time() - facts.submitting < LONGEST_SUBMISSION:
        return
    if facts.is_due:
        live.log(f"resumed: it was to start after {facts.starts_at}")
        resume(live)
    if facts.suspended:
        return
    jobs = jobs_of(live)
    for job_id in enqueue_missing(job for job in jobs if job is not None):
        live.log(f"{job_id} had been given to a worker that is gone; enqueued again")
    if any(is_under_way(job) for job in jobs) or waiting(live.connection):
        return  # what the last job sent may be among the messages
    reasons = [f"the job ended in an error; {failure_of(job)}" for job in jobs if job is not None and job.is_failed]
    if not reasons and live.jobs_left():  # a process died between a job's end and the next one's beginning
        live.log("its jobs were gone; enqueued again")
        enqueue(live)
    elif facts.trains:
        live.end_training()
        gone = "Expected a complete submission, got a part: its process died. Retry the run."
        _fail(store, live, attempt, reasons[-1] if reasons else gone)
    else:
        _give_up(store, live, facts, reasons[0] if reasons else "Expected a job that measures this image, got none.")


def _fail(store: Store, live: LiveRun, attempt: int, reason: str) -> None:
    store.record_failed(live.run_id, attempt, reason, datetime.now(UTC))
    _forget(store, live.run_id)


def _give_up(store: Store, live: LiveRun, facts: RunFacts, reason: str) -> None:
    """Record the images of a run that are missing as failed, and finish it."""
    recorded = set(store.images(live.run_id)["image_id"])
    spec = measuring_spec_from_dict(json.loads(facts.spec))
    source = store.dataset(spec.dataset)
    sample: Sequence[DatasetImage] = ()
    kind = None if source is None else run_kind(spec, source, Settings.from_environment())
    if isinstance(kind, Measuring):
        with suppress(SpecError):  # the training run of a diagnosis was deleted
            sample = kind.images(store)
    missing = [record.image_id for record in sample if record.image_id not in recorded]
    lost = [ImageResult(image_id, "failed", reason, 0.0) for image_id in missing]
    if lost:
        live.log(f"{len(lost)} images given up: {reason}")
    if not lost or store.record_images([Chunk(live.run_id, facts.attempt, "record worker", lost)]):
        finish(store, live.run_id)
