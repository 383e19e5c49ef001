"""Workers that count as dead and come back: suspended during a job and resumed after others have done it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from laboratory import (
    Trained,
    assert_trained_alike,
    gone,
    suspended_job,
    trained_here,
    wait_for,
    workers,
    write_images,
    write_lesions,
)
from redis import Redis
from rq import Retry
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from core.compression.specs import SweepSpec
from core.data.datasets import Dataset
from core.data.splits import Targets
from core.networks.architectures import LENET5
from core.runs import Run
from core.settings import Settings
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainingProtocol
from jobs import later_jobs
from jobs.connection import SERVED, SVD, Connection, queue
from jobs.live_runs import LiveRun
from jobs.lost_jobs import begin_lost_again, enqueue_missing
from jobs.queues import Queues
from jobs.worker import ForkingWorker

pytestmark = pytest.mark.timeout(900)  # as for other trainings: they take long on a busy machine

EPOCHS = 20
SPEC = PruneTrainSpec(
    dataset="lesions",
    network=LENET5,
    training=TrainingProtocol(epochs=EPOCHS, batch_size=8, height=24, width=32, seed=3),
    targets=Targets(train=64, validation=16, test=16),
    baseline=Baseline(
        train_accuracy=0, train_precision=0, validation_accuracy=0, validation_precision=0, test_tolerance=100
    ),  # every trained network is accepted, so the steps are known
    rules=Rules(factors=(50.0,), max_iterations=1),
)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lesions(tmp_path_factory.mktemp("images") / "lesions")


@pytest.fixture(scope="module")
def reference(lesions: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Give the results of an uninterrupted training."""
    return trained_here(SPEC, lesions, tmp_path_factory.mktemp("reference"))


@pytest.fixture(autouse=True)
def long_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make epochs so long that a training is still under way when the test suspends it."""
    monkeypatch.setenv("EPOCH_SECONDS", "0.3")


@pytest.fixture
def connection(valkey_url: str) -> Iterator[Connection]:
    with Redis.from_url(valkey_url) as client:
        yield client


def registered(queues: Queues, folder: Path) -> Dataset:
    dataset = queues.resolve(str(folder))
    queues.register(dataset)
    wait_for(lambda: queues.store.dataset(dataset.name) == dataset, 60)
    return dataset


def ended(queues: Queues, run_id: str) -> Run:
    wait_for(lambda: (state := queues.run(run_id)) is not None and state.ended, 300)
    wait_for(lambda: queues.messages_waiting() == 0, 60)
    state = queues.run(run_id)
    assert state is not None
    return state


def suspend_as_lost(connection: Connection, worker: subprocess.Popen[bytes], name: str) -> psutil.Process:
    """Suspend a worker and its job's process, and set its last heartbeat to long ago. Return the process."""
    job = suspended_job(worker)
    psutil.Process(worker.pid).suspend()
    for each in (SVD, *SERVED["train"]):
        key = StartedJobRegistry(each, connection=connection).key
        for execution in connection.zrange(key, 0, -1):
            connection.zadd(key, {execution: 1})
    connection.hset(f"rq:worker:{name}", "last_heartbeat", "2020-01-01T00:00:00.000000Z")
    return job


def all_that_is_recorded(queues: Queues, run_id: str) -> list[pd.DataFrame]:
    wait_for(lambda: queues.messages_waiting() == 0, 60)
    store = queues.store
    return [
        store.read("SELECT * FROM runs WHERE run_id = ?", [run_id]),
        *(store.steps([run_id]), store.epochs([run_id]), store.run_splits(run_id)),
        *(store.images(run_id), store.measurements(run_id)),
    ]


def weights(queues: Queues, run_id: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (queues.settings.trained / run_id).glob("*.keras")}


def assert_the_same(found: list[pd.DataFrame], before: list[pd.DataFrame]) -> None:
    for one, other in zip(found, before, strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.slow
def test_a_resumed_training_worker_cannot_change_a_run_that_another_host_finished(
    settings: Settings, lesions: Path, connection: Connection, reference: Trained
) -> None:
    settings = replace(settings, data_roots=(*settings.data_roots, lesions.parent))
    elsewhere = replace(settings, data_dir=settings.data_dir.with_name("elsewhere"))
    elsewhere.data_dir.mkdir()
    queues = Queues(settings)
    with workers(settings, "record"), workers(elsewhere, "train", beside=True) as (first,):
        dataset = registered(queues, lesions)
        run_id = queues.submit(SPEC, dataset).run_id
        wait_for(lambda: len(queues.store.epochs([run_id])) >= 2, 300)
        (name,) = (worker.name for worker in queues.workers() if worker.kind == "train")
        process = suspend_as_lost(connection, first, name)
        assert len(queues.store.step_results(run_id)) == 0
        with workers(settings, "train", beside=True):
            assert ended(queues, run_id).status == "finished"
            assert_trained_alike(queues.store, run_id, reference)
            before, files = all_that_is_recorded(queues, run_id), weights(queues, run_id)
            process.resume()
            wait_for(lambda: gone(process), 120)
            psutil.Process(first.pid).resume()
            wait_for(lambda: any(each.name == name and each.state == "idle" for each in queues.workers()), 120)
            assert_the_same(all_that_is_recorded(queues, run_id), before)
            assert not list((elsewhere.trained / run_id).glob("*.keras"))
            assert weights(queues, run_id) == files
            assert set(files) == {"0.keras", "1.keras"}
            for number in (0, 1):
                job = Job.fetch(f"{run_id}--1-{number}", connection, serializer=JSONSerializer)
                assert job.get_status() == JobStatus.FINISHED
                assert job.worker_name != name
            assert [len(queue(each, connection)) for each in SERVED["train"]] == [0, 0, 0]


@pytest.mark.slow
def test_a_resumed_training_worker_stops_when_another_has_taken_over_its_step(
    settings: Settings, lesions: Path, connection: Connection, reference: Trained
) -> None:
    settings = replace(settings, data_roots=(*settings.data_roots, lesions.parent))
    queues = Queues(settings)
    with workers(settings, "record", "train") as (_, first):
        dataset = registered(queues, lesions)
        run_id = queues.submit(SPEC, dataset).run_id
        wait_for(lambda: len(queues.store.epochs([run_id])) >= 3, 300)
        (name,) = (worker.name for worker in queues.workers() if worker.kind == "train")
        process = suspend_as_lost(connection, first, name)
        live = LiveRun(connection, run_id)
        assert live.jobs_left() == [0]
        with workers(settings, "train", beside=True) as (second,):
            wait_for(lambda: any("goes on after epoch" in line for line in live.log_lines()), 300)
            other = suspended_job(second)
            process.resume()
            wait_for(lambda: gone(process), 120)
            assert live.jobs_left() == [0], "the second worker has not finished the step"
            other.resume()
            assert ended(queues, run_id).status == "finished"
            assert_trained_alike(queues.store, run_id, reference)
            rows = queues.store.steps([run_id])
            assert name not in set(rows["worker"])
            psutil.Process(first.pid).resume()
            wait_for(lambda: not list((settings.trained / run_id).glob("step-*")), 60)


@pytest.mark.slow
@pytest.mark.parametrize("resumed", ["its process", "the worker"])
def test_a_resumed_measuring_worker_cannot_change_a_run_that_others_finished(
    resumed: str, settings: Settings, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of the job ends by itself, or its worker ends it."""
    monkeypatch.setattr("jobs.run_kinds.CHUNKS", 1)
    folder = write_images(settings.data_roots[1] / "large", 4, height=450, width=600)
    queues = Queues(settings)
    with workers(settings, "record", "svd") as (_, first):
        dataset = registered(queues, folder)
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(100, 200, 300, 400)), dataset).run_id
        wait_for(lambda: (state := queues.run(run_id)) is not None and state.done >= 1, 120)
        (name,) = (worker.name for worker in queues.workers() if worker.kind == "svd")
        process = suspend_as_lost(connection, first, name)
        assert queues.store.images(run_id).empty
        with workers(settings, "svd", beside=True):
            state = ended(queues, run_id)
            assert (state.status, state.done) == ("finished", 4)
            before, progress = all_that_is_recorded(queues, run_id), LiveRun(connection, run_id).progress()[:2]
            if resumed == "its process":
                process.resume()
                wait_for(lambda: gone(process), 120)
            psutil.Process(first.pid).resume()
            wait_for(lambda: any(each.name == name and each.state == "idle" for each in queues.workers()), 60)
            assert gone(process)
            assert_the_same(all_that_is_recorded(queues, run_id), before)
            assert name not in set(queues.store.images(run_id)["worker"])
            assert LiveRun(connection, run_id).progress()[:2] == progress


def test_a_worker_whose_job_was_taken_over_neither_fails_nor_retries_it(connection: Connection) -> None:
    target = queue(SVD, connection)
    options: dict[str, Any] = {"connection": connection, "serializer": JSONSerializer}
    first, second = (ForkingWorker([target], name=name, **options) for name in ("first", "second"))
    job = target.enqueue("jobs.measure_task.measure_chunk", retry=Retry(max=3))

    def begun(worker: ForkingWorker) -> Any:
        assert target.pop_job_id() == job.id
        execution = worker.prepare_execution(job)
        worker.prepare_job_execution(job)
        assert not worker.taken_over(job, execution)
        return execution

    lost = begun(first)
    connection.zadd(job.started_job_registry.key, {lost.composite_key: 1})
    begin_lost_again(connection)
    assert first.taken_over(job, lost)
    execution = begun(second)
    assert first.taken_over(job, lost)
    first.handle_job_failure(job, target, exc_string="its process died", execution=lost)
    assert (job.get_status(), job.worker_name, target.job_ids) == (JobStatus.STARTED, "second", [])
    assert not second.taken_over(job, execution)
    second.handle_job_failure(job, target, exc_string="its process died", execution=execution)
    assert (job.get_status(), target.job_ids) == (JobStatus.QUEUED, [job.id])


def test_a_worker_whose_registration_expired_keeps_its_job(connection: Connection) -> None:
    target = queue(SVD, connection)
    worker = ForkingWorker([target], connection=connection, serializer=JSONSerializer)
    job = target.enqueue("jobs.measure_task.measure_chunk")
    execution = worker.prepare_execution(job)
    connection.delete(job.started_job_registry.key)
    worker.prepare_job_execution(job)  # no other worker has started it
    assert len(job.started_job_registry.get_job_ids(cleanup=False)) == 1
    connection.delete(job.started_job_registry.key)
    assert not worker.taken_over(job, execution)


def test_workers_are_listed_in_spite_of_an_incomplete_execution_entry(
    settings: Settings, connection: Connection
) -> None:
    target = queue(SVD, connection)
    worker = ForkingWorker([target], name="late", connection=connection, serializer=JSONSerializer)
    worker.register_birth()
    execution = worker.prepare_execution(target.enqueue("jobs.measure_task.measure_chunk"))
    queues = Queues(settings)
    (found,) = queues.workers()
    assert found.name == "late"
    connection.delete(execution.key)
    connection.hset(execution.key, "last_heartbeat", 1)
    (found,) = queues.workers()
    assert (found.name, found.current_run) == ("late", None)
    worker.forget(execution)
    assert not connection.exists(execution.key)
    assert not connection.sismember(worker.executions_key, execution.composite_key)


@pytest.mark.parametrize("name", [SVD, SERVED["train"][1]])
def test_only_a_job_that_no_worker_received_is_enqueued_again(name: str, connection: Connection) -> None:
    target = queue(name, connection)
    lost, waiting, begun = (target.enqueue("jobs.measure_task.measure_chunk") for _ in range(3))
    connection.lrem(target.key, 1, lost.id)  # as when the server gives it to a host that loses its power
    connection.lrem(target.key, 1, begun.id)
    worker = ForkingWorker([target], name="busy", connection=connection, serializer=JSONSerializer)
    worker.prepare_execution(begun)
    worker.prepare_job_execution(begun)
    jobs = [lost, waiting, begun]
    assert enqueue_missing(jobs) == [], "a worker may be about to start it"
    assert enqueue_missing(jobs, after=0) == [lost.id]
    assert target.job_ids == [lost.id, waiting.id]
    assert begun.get_status() == JobStatus.STARTED
    assert enqueue_missing(jobs, after=0) == []


def test_a_job_of_an_ended_run_that_no_worker_received_is_enqueued_again(connection: Connection) -> None:
    ids = later_jobs.submit(connection, later_jobs.PREDICT, "train-1", 1, [{}, {}])
    lost, done = (Job.fetch(each, connection, serializer=JSONSerializer) for each in ids)
    connection.lrem(queue(lost.origin, connection).key, 1, lost.id)
    done.set_status(JobStatus.FINISHED)
    found = later_jobs.unfinished(connection)
    assert [job.id for job in found] == [lost.id]
    assert connection.smembers(later_jobs.UNDER_WAY) == {lost.id.encode()}
    assert enqueue_missing(found, after=0) == [lost.id]
    assert lost.id in queue(lost.origin, connection).job_ids


def test_a_deleted_job_stays_deleted(connection: Connection) -> None:
    job = queue(SVD, connection).enqueue("jobs.measure_task.measure_chunk")
    known = Job.fetch(job.id, connection, serializer=JSONSerializer)
    job.delete()
    assert enqueue_missing([known], after=0) == []
    assert not connection.exists(job.key)
