"""What goes to the record queue, and what the record worker does with it.

Every record is idempotent and carries its run's attempt; see `core.store`. The record worker is the only process
that writes the store, so its functions run one after the other.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rq import Queue, Retry, get_current_job
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core.datasets import Dataset, LeftOut, Record, write_metadata
from core.outcomes import outcome
from core.settings import Settings
from core.store import ENDED, NewRun, Store, plain_rows
from core.sweeps import ImageResult, ReconstructSpec, spec_from_dict
from jobs.connection import RECORD, queue
from jobs.live import LiveRun, active_runs

WAIT_FOR_STORE = 600.0  # seconds that a record waits for a store that another process holds
LONGEST_SUBMISSION = 300.0  # seconds; a submitter that needs longer has died half-way
UNDER_WAY = (JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED)


def send(record_queue: Queue, kind: str, **values: Any) -> None:
    """Enqueue a record; `kind` names one of the functions below."""
    record_queue.enqueue(
        f"jobs.records.{kind}",
        kwargs=values,
        job_timeout=int(WAIT_FOR_STORE) + 300,
        result_ttl=0,
        failure_ttl=30 * 24 * 3600,
        retry=Retry(max=10),
        description=f"{kind} {values.get('run_id', '')}",
    )


def _store() -> Store:
    return Store(Settings.from_environment().database, timeout=WAIT_FOR_STORE)


def _live(run_id: str) -> LiveRun:
    job = get_current_job()
    if job is None:
        raise RuntimeError("expected to be called by the record worker; got a direct call")
    return LiveRun(job.connection, run_id)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def dataset(values: dict[str, Any], at: str) -> None:
    """Register a data set; `values` as `dataset_to_dict` made them."""
    _store().record_dataset(dataset_from_dict(values), _time(at))


def remove_dataset(name: str) -> None:
    """Forget a data set's registration."""
    _store().remove_dataset(name)


def run(values: dict[str, Any]) -> None:
    """Record a submitted run."""
    _store().record_run(NewRun(**{**values, "submitted_at": _time(values["submitted_at"])}))


def started(run_id: str, attempt: int, at: str) -> None:
    """Record that a worker has begun."""
    _store().record_started(run_id, attempt, _time(at))


def cancelled(run_id: str, attempt: int, at: str) -> None:
    """Record that the user stopped the run."""
    store = _store()
    store.record_cancelled(run_id, attempt, _time(at))
    _forget(store, run_id)


def retried(run_id: str, attempt: int) -> None:
    """Record that a new attempt has been submitted."""
    _store().record_retry(run_id, attempt)


def images(run_id: str, attempt: int, worker: str, results: list[dict[str, Any]]) -> None:
    """Record what a chunk of images gave; finish the run with its last one."""
    store = _store()
    if store.record_images(run_id, attempt, [ImageResult.from_dict(each) for each in results], worker):
        finish(store, run_id)


def complete(run_id: str) -> None:
    """Finish a run whose retry found nothing missing."""
    finish(_store(), run_id)


def finish(store: Store, run_id: str) -> None:
    """Compute what follows from a run's measurements and mark it finished, or failed when there are none."""
    facts = store.run(run_id)
    if facts is None or facts["status"] in ENDED:
        return
    spec = spec_from_dict(json.loads(facts["spec"]))
    now = datetime.now(UTC)
    if facts["measured"] == 0:
        reasons = store.images(run_id, "failed")["reason"]
        error = (
            f"expected at least one image to be measured; all {len(reasons)} failed, the first so: {reasons.iloc[0]}"
        )
        store.record_failed(run_id, facts["attempt"], error, now)
    else:
        result = outcome(spec, store.measurements(run_id), total=int(facts["total"]))
        written = _written_dataset(store, run_id, spec) if isinstance(spec, ReconstructSpec) else None
        store.record_outcome(run_id, result, now, dataset=written)
    _forget(store, run_id)


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


def complete_folder(made: Dataset) -> None:
    """Write what a reconstruction's folder needs besides its images, so that it can be registered again."""
    if made.layout == "ham10000":
        write_metadata(made, made.root / "HAM10000_metadata.csv")
    if made.synthetic:
        (made.root / "SYNTHETIC.txt").write_text("These images are synthetic; they show no patient.\n")


def _forget(store: Store, run_id: str) -> None:
    facts = store.run(run_id)
    if facts is not None and facts["status"] in ENDED:
        _live(run_id).end(facts["spec_hash"])


def reconcile() -> None:
    """Bring runs to an end whose jobs have all ended or vanished without recording every image.

    Enqueued by the record worker itself every few seconds, behind the records that wait, so that whatever the
    workers sent has been recorded by then.
    """
    store = _store()
    job = get_current_job()
    if job is None:
        raise RuntimeError("expected to be called by the record worker; got a direct call")
    active = set(active_runs(job.connection))
    runs = store.runs()
    unfinished = runs[~runs["status"].isin(ENDED)]
    for run_id in sorted(active - set(unfinished["run_id"])):
        if run_id in set(runs["run_id"]):
            _forget(store, run_id)
    for facts in plain_rows(unfinished):
        _reconcile_run(store, LiveRun(job.connection, facts["run_id"]), facts["run_id"], facts["attempt"])


def _reconcile_run(store: Store, live: LiveRun, run_id: str, attempt: int) -> None:
    known = live.facts()
    if not known:
        error = "expected the queue to know this run; its jobs are gone. Retry measures what is missing"
        store.record_failed(run_id, attempt, error, datetime.now(UTC))
        return
    if int(known["attempt"]) != attempt:
        return  # the record of a retry is on its way
    if known.get("submitting") and time.time() - float(known["submitting"]) < LONGEST_SUBMISSION:
        return
    jobs = Job.fetch_many(live.job_ids(), connection=live.connection, serializer=JSONSerializer)
    if any(each is not None and each.get_status(refresh=False) in UNDER_WAY for each in jobs):
        return
    if queue(RECORD, live.connection).count:
        return  # what the last job sent may still wait
    reasons = [_reason(each) for each in jobs if each is not None and each.is_failed]
    recorded = set(store.images(run_id)["image_id"])
    spec = spec_from_dict(json.loads(known["spec"]))
    source = store.dataset(spec.dataset)
    missing = (
        [] if source is None else [r for r in source.sample(spec.sample_size, spec.seed) if r.image_id not in recorded]
    )
    reason = reasons[0] if reasons else "expected a job to measure this image; its job is gone"
    lost = [ImageResult(record.image_id, "failed", reason, 0.0) for record in missing]
    if lost:
        live.log(f"{len(lost)} images given up: {reason}")
    if not lost or store.record_images(run_id, attempt, lost, "record worker"):
        finish(store, run_id)


def _reason(job: Job) -> str:
    latest = job.latest_result()
    text = (latest.exc_string if latest else None) or "no reason was left"
    return f"expected the job to end; {text.strip().splitlines()[-1]}"


def dataset_to_dict(source: Dataset) -> dict[str, Any]:
    """Return a data set as JSON-ready values."""
    return {**asdict(source), "root": str(source.root)}


def dataset_from_dict(values: dict[str, Any]) -> Dataset:
    """Return the data set that `dataset_to_dict` described."""
    return Dataset(
        **{
            **values,
            "root": Path(values["root"]),
            "records": tuple(Record(**each) for each in values["records"]),
            "left_out": tuple(LeftOut(**each) for each in values["left_out"]),
        }
    )
