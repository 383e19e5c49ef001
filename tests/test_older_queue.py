"""A queue as version 0.1.0 left it in Redis, key by key: this version reads it and continues the work."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import pytest
from laboratory import wait_for, workers, write_images
from redis import Redis

from core.compression.specs import SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.networks.architectures import LENET5
from core.settings import Settings
from core.specs import spec_hash
from core.training import algorithm2
from core.training.specs import TrainingProtocol, TrainSpec
from core.training.steps import first_state
from jobs import messages, run_jobs
from jobs.live_runs import LiveRun
from jobs.messages import MESSAGES, read
from jobs.queues import Queues
from jobs.studies import LiveStudy

AT = "2026-11-26T10:34:03.230850+00:00"
SWEEP, TRAINING = "svd-sweep-20261126-103403-6ca179", "train-20261126-103404-fb16d6"
TRAIN_SPEC = TrainSpec(dataset="moles", network=LENET5, training=TrainingProtocol(epochs=2, height=24, width=32))
STEP = {
    **{"step": 0, "name": "Original", "factors": [], "network": {"name": "lenet5"}, "status": "finished"},
    **{"failure": "", "parameters": 1, "macs": 2, "bytes_weights": 4, "bytes_with_optimizer": 12, "accepted": True},
    **{"criterion": None, "value": None, "needed": None, "missed_by": None, "reason": "", "epochs": 2},
    **{"kept_epoch": 2, "seconds": 1.5, "epoch_seconds": 0.7, "images_per_second": 9, "peak_memory": 10},
    **{"device": "a cpu", "weights": "/w/0.keras", "weights_bytes": 5, "checkpoint_bytes": 15},
    **{"figures": {"test_accuracy": 70.5}, "classification": {}},
}
EPOCH = {
    **{"epoch": 1, "train_loss": 1.5, "train_accuracy": 50.0, "train_precision": None, "train_recall": None},
    **{"validation_loss": 1.2, "validation_accuracy": 40, "validation_precision": None, "validation_recall": None},
    **{"seconds": 0.7, "images_per_second": 9.0, "meets_baseline": False, "best": True},
}
STUDY = {"study": "article-1", "kind": "article", "dataset": "moles", "spec": "{}", "submitted_by": "a@b"}
IMAGE = {"image_id": "a", "status": "measured", "reason": None, "seconds": 0.1, "rows": [{"k": 2}], "file": None}

# Type of the message -> messages as that version wrote them.
OLDER: list[tuple[type[messages.Message], str, dict[str, Any]]] = [
    (messages.DatasetRemoved, "removed_dataset", {"name": "moles"}),
    (messages.RunStarted, "started", {"run_id": "r", "attempt": 1, "at": AT}),
    (messages.RunCancelled, "cancelled", {"run_id": "r", "attempt": 1, "at": AT}),
    (messages.RunRetried, "retried", {"run_id": "r", "attempt": 2, "complete": False}),
    (messages.RunRetried, "training_retried", {"run_id": "r", "attempt": 2, "step": 1}),
    (messages.ImagesMeasured, "chunk", {"run_id": "r", "attempt": 1, "worker": "w", "results": [IMAGE]}),
    (messages.TrainingDataBuilt, "training_data", {"run_id": "r", "attempt": 1, "values": {"notes": []}}),
    (
        messages.StepRecorded,
        "step",
        {"run_id": "r", "attempt": 1, "result": STEP, "worker": "w", "started_at": AT, "finished_at": None},
    ),
    (messages.EpochsTrained, "epochs", {"run_id": "r", "attempt": 1, "step": 0, "epochs": [EPOCH], "ended_at": AT}),
    (messages.TrainingEnded, "training_ended", {"run_id": "r", "attempt": 1, "claim": 7, "error": None, "at": AT}),
    (messages.StudySubmitted, "study", {"values": {**STUDY, "submitted_at": AT, "command": "python -m jobs article"}}),
    (messages.StudyStatus, "study_status", {"study": "article-1", "status": "failed", "error": "no", "at": AT}),
    (messages.RunDeleted, "deleted", {"run_id": "r", "attempt": 1, "dataset": None, "by": "a@b"}),
]


@pytest.mark.parametrize(("expected", "kind", "values"), OLDER, ids=[kind for _, kind, _ in OLDER])
def test_a_message_of_an_older_version_is_read_as_its_type(
    expected: type[messages.Message], kind: str, values: dict[str, Any]
) -> None:
    message = read(json.dumps({"kind": kind, "values": values}).encode())
    assert type(message) is expected
    told = json.loads(message.command()[2])["values"]
    known = {name: value for name, value in told.items() if name in values and name not in ("at", "ended_at", "values")}
    if "result" in known:  # what later versions know of a step is unknown or empty
        later = {name: value for name, value in known["result"].items() if name not in values["result"]}
        assert not any(later.values())
        known["result"] = {name: known["result"][name] for name in values["result"]}
    if "results" in known:
        assert not any(each.pop("diagnoses") for each in known["results"])
    if "epochs" in known:
        pairs = list(zip(known["epochs"], values["epochs"], strict=True))
        assert not any(value for later, older in pairs for name, value in later.items() if name not in older)
        known["epochs"] = [{name: later[name] for name in older} for later, older in pairs]
    assert known | {"started_at": AT} == {name: values[name] for name in known} | {"started_at": AT}


def test_an_invalid_message_is_refused_with_the_reason() -> None:
    for text in (
        b'{"kind": "unknown", "values": {}}',
        b"[]",
        b"\x80\x04",
        b'{"kind": "started", "values": {"run_id": 1}}',
    ):
        with pytest.raises(ValueError):  # noqa: PT011 - of several types
            read(text)


@pytest.fixture
def dataset(settings: Settings) -> Dataset:
    return load_dataset(write_images(settings.data_roots[-1] / "moles", 2), name="moles")


@pytest.fixture
def connection(settings: Settings) -> Iterator[Redis]:
    with Redis.from_url(str(settings.redis_url)) as client:
        yield client


def submitted(dataset: Dataset, run_id: str, spec: SweepSpec | TrainSpec, total: int) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "kind": spec.kind,
        "dataset": "moles",
        "dataset_fingerprint": dataset.fingerprint,
        "synthetic": False,
        "spec": json.dumps(spec.to_dict()),
        "spec_hash": spec_hash(spec, dataset.fingerprint),
        "total": total,
        "submitted_at": AT,
        "submitted_by": "a@b",
        "code_revision": None,
        "versions": "{}",
        "command": f"python -m jobs {spec.kind} moles",
        "dataset_source": None,
        "study": None,
    }


def leave(connection: Redis, kind: str, values: dict[str, Any]) -> None:
    connection.rpush("dermslim:records", json.dumps({"kind": kind, "values": values}))


def leave_run(connection: Redis, run: dict[str, Any], **facts: str) -> None:
    """Write the hash of a run under way as submitting it did."""
    known = {"kind": run["kind"], "dataset": "moles", "total": run["total"], "attempt": 1, "spec": run["spec"]}
    known |= {"fingerprint": run["dataset_fingerprint"], "study": "", "submitted_at": AT, "submitted_by": "a@b"}
    connection.hset(f"dermslim:run:{run['run_id']}", mapping={**known, "synthetic": 0, "priority": "normal", **facts})
    connection.zadd("dermslim:runs", {run["run_id"]: 1795689243.6})
    connection.set(f"dermslim:spec:{run['spec_hash']}", run["run_id"], ex=604800)


def leave_job(connection: Redis, job_id: str, name: str, function: str, given: dict[str, Any]) -> None:
    """Write a waiting job as RQ did, with the function's name of that version."""
    fields = {"status": "queued", "origin": name, "created_at": "2026-11-26T10:33:52.916985Z", "timeout": 300}
    fields |= {"retries_left": 12, "retry_intervals": "[0]", "result_ttl": 3600, "failure_ttl": 604800}
    data = zlib.compress(json.dumps([function, None, [], given]).encode())
    connection.hset(f"rq:job:{job_id}", mapping={**fields, "description": job_id, "data": data})
    connection.rpush(f"rq:queue:{name}", job_id)
    connection.sadd("rq:queues", f"rq:queue:{name}")


@pytest.mark.slow
def test_a_sweep_that_an_older_version_enqueued_is_measured_and_recorded(
    settings: Settings, dataset: Dataset, connection: Redis
) -> None:
    spec = SweepSpec(dataset="moles", ks=(2,))
    run = submitted(dataset, SWEEP, spec, 2)
    leave(connection, "dataset", {"values": {**asdict(dataset), "root": str(dataset.root)}, "at": AT})
    leave(connection, "run", {"values": run})
    leave_run(connection, run, hold="")
    for number, record in enumerate(dataset.records):
        given = {"run_id": SWEEP, "attempt": 1, "spec": spec.to_dict(), "root": str(dataset.root)}
        given |= {"records": [asdict(record)], "output": None, "names": None}
        leave_job(connection, f"{SWEEP}--1-{number}", "svd", "jobs.tasks.measure_chunk", given)
        connection.sadd(f"dermslim:run:{SWEEP}:jobs", f"{SWEEP}--1-{number}")
    leave_job(connection, "0c0c647c", "record", "jobs.recorder.write_waiting", {})
    queues = Queues(settings)
    assert queues.run(SWEEP).status == "queued"
    with workers(settings, "record", "svd"):
        wait_for(lambda: queues.run(SWEEP).ended, 120)
    assert (queues.run(SWEEP).status, queues.run(SWEEP).done) == ("finished", 2)
    assert queues.store.dataset("moles") == dataset
    assert connection.llen(messages.REJECTED) == 0


def test_a_paused_or_scheduled_training_of_an_older_version_continues(
    settings: Settings, dataset: Dataset, connection: Redis
) -> None:
    run = submitted(dataset, TRAINING, TRAIN_SPEC, 2)
    leave_run(connection, run, hold="paused", doing="", step="1", epochs_done="2", started_at=AT)
    for step in (0, 1):  # that version stored the states of all steps
        state = json.dumps(algorithm2.to_dict(first_state(TRAIN_SPEC)))
        connection.hset(f"dermslim:run:{TRAINING}:states", step, state)
    queues = Queues(settings)
    state = queues.run(TRAINING)
    assert (state.status, state.live.step, state.done, state.live.priority) == ("suspended", 1, 2, "normal")
    connection.hset(f"dermslim:run:{TRAINING}", "hold", "2040-11-26T13:34:04.099167+00:00")
    assert queues.run(TRAINING).live.starts_at == datetime(2040, 11, 26, 13, 34, 4, 99167, UTC)
    queues.resume(TRAINING)
    assert queues.run(TRAINING).status == "queued"
    assert connection.lrange("rq:queue:train", 0, -1) == [f"{TRAINING}--1-1".encode()]
    connection.hset(f"dermslim:run:{TRAINING}", "ended", 1)
    assert LiveRun(connection, TRAINING).jobs_left() == []


def test_data_sets_and_studies_of_an_older_version_are_read(
    settings: Settings, dataset: Dataset, connection: Redis
) -> None:
    text = json.dumps({**asdict(dataset), "root": str(dataset.root)}).encode()
    connection.set(f"dermslim:dataset:{dataset.fingerprint}", zlib.compress(text), ex=5184000)
    assert run_jobs.fetch_dataset(connection, dataset.fingerprint) == dataset
    statuses = {"": None, "paused": "suspended", "cancelled": "cancelled", "2040-01-01T00:00:00+00:00": "scheduled"}
    for hold, status in statuses.items():
        connection.hset("dermslim:study:article-1", mapping={"priority": "low", "hold": hold, "refusals": "{}"})
        facts = LiveStudy(connection, "article-1").facts()
        assert (facts.waiting_status, facts.priority) == (status, "low")
    assert connection.llen(MESSAGES) == 0
