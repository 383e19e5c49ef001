"""Training runs from submission to recorded results with real workers: finished, killed, suspended, cancelled."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
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
    write_lesions,
)
from redis import Redis
from rq.job import JobStatus
from rq.registry import FailedJobRegistry

from core.data.datasets import Dataset
from core.data.splits import Targets
from core.errors import SpecError
from core.files.file_lock import file_lock
from core.networks.architectures import LENET5
from core.predictions.rows import EXPORT_COLUMNS
from core.runs import Run
from core.settings import Settings
from core.training import algorithm2
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainingProtocol, TrainSpec
from core.training.steps import first_state
from jobs import predictions, run_jobs
from jobs.__main__ import main
from jobs.connection import SERVED, queue
from jobs.later_jobs import PREDICT, under_way
from jobs.live_runs import LiveRun, RunFacts
from jobs.messages import waiting
from jobs.queues import Queues, Submission
from jobs.train_task import LOCK_NAME

pytestmark = pytest.mark.timeout(900)  # each start of Keras takes half a minute on a busy machine

EPOCHS = 12
EASY = Baseline(
    train_accuracy=0, train_precision=0, validation_accuracy=0, validation_precision=0, test_tolerance=100
)  # every trained network is accepted, so the sequence of steps is known
COMMON: dict[str, Any] = {
    "network": LENET5,
    "training": TrainingProtocol(epochs=EPOCHS, batch_size=8, height=24, width=32, seed=3),
    "targets": Targets(train=64, validation=16, test=16),
    "baseline": EASY,
}
RULES = Rules(factors=(50.0, 33.33), max_iterations=1)


def registered(queues: Queues, folder: Path) -> Dataset:
    dataset = queues.resolve(str(folder))
    queues.register(dataset)
    wait_for(lambda: queues.store.dataset(dataset.name) == dataset, 60)
    return dataset


def ended(queues: Queues, run_id: str, seconds: float = 400) -> Run:
    deadline = time.monotonic() + seconds
    for state in queues.wait(run_id, pause=0.1):
        assert time.monotonic() < deadline, f"still {state}\n" + "\n".join(queues.log(run_id))
    wait_for(lambda: queues.messages_waiting() == 0, 60)
    return state


def state_of(queues: Queues, run_id: str) -> Run:
    state = queues.run(run_id)
    assert state is not None
    return state


def at_epoch(queues: Queues, run_id: str, epoch: int, step: int = 0) -> None:
    wait_for(lambda: (state := state_of(queues, run_id)).live.step == step and (state.live.epoch or 0) >= epoch, 300)


def idle(queues: Queues) -> None:
    wait_for(lambda: all(worker.current_run is None for worker in queues.workers()), 120)


def live_run(settings: Settings, run_id: str) -> LiveRun:
    return LiveRun(Redis.from_url(str(settings.redis_url)), run_id)


def checkpoint_of(queues: Queues, run_id: str) -> Path:
    """Return the only checkpoint of a run's first step, in the folder of the current claim."""
    (found,) = (queues.settings.trained / run_id).glob("step-0-*/checkpoint.npz")
    return found


def trained_epochs(queues: Queues, run_id: str) -> list[str]:
    """Return the trained epochs in order, as the log lists them."""
    lines = (line.partition("Z ")[2] for line in queues.log(run_id))
    return [line.split(", loss")[0] for line in lines if ", loss " in line]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lesions(tmp_path_factory.mktemp("images") / "lesions")


@pytest.fixture(scope="module")
def reference(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Give the run's steps and epochs, trained with Keras in a separate process without queue and workers."""
    spec = PruneTrainSpec(dataset="lesions", rules=RULES, **COMMON)
    return trained_here(spec, images, tmp_path_factory.mktemp("reference"), keras=True)


@pytest.fixture(scope="module")
def lab(valkey_server: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    """Give queues with a record worker and a `train` worker, shared by tests that kill neither."""
    folder = tmp_path_factory.mktemp("training-lab")
    url = valkey_server.replace("?db=0", "?db=4")
    settings = Settings(folder / "data", (folder, images.parent), given_redis_url=url)
    settings.data_dir.mkdir()
    with workers(settings, "record", "train"):
        yield Queues(settings)


@pytest.fixture(scope="module")
def keras_lab(valkey_server: str, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    """Give queues whose `train` worker trains with Keras."""
    folder = tmp_path_factory.mktemp("keras-lab")
    settings = Settings(
        folder / "data", (folder, images.parent), given_redis_url=valkey_server.replace("?db=0", "?db=5")
    )
    settings.data_dir.mkdir()
    with workers(settings, "record", "train", keras=True):
        yield Queues(settings)


@pytest.fixture
def dataset(lab: Queues, images: Path) -> Dataset:
    return registered(lab, images)


@pytest.mark.slow
def test_a_run_through_the_queue_equals_one_without_it(keras_lab: Queues, images: Path, reference: Trained) -> None:
    lab, dataset = keras_lab, registered(keras_lab, images)
    spec = PruneTrainSpec(dataset=dataset.name, rules=RULES, **COMMON)
    first, second = lab.submit(spec, dataset), lab.submit(spec, dataset)
    assert second == replace(first, identical=True)  # while it is under way
    state = ended(lab, first.run_id)
    assert (state.status, state.done, state.total, state.failed) == ("finished", 2 * EPOCHS, 2 * EPOCHS, 0)
    assert_trained_alike(lab.store, first.run_id, reference)
    assert lab.submit(spec, dataset) == replace(first, identical=True)  # and once it has finished
    assert [result.name for result in lab.store.step_results(first.run_id)] == ["Original", "R1: 50%"]
    splits = lab.store.run_splits(first.run_id)
    assert splits.groupby("split")["images"].sum().to_dict() == {"train": 64, "validation": 16, "test": 16}
    folder = lab.settings.trained / first.run_id
    idle(lab)  # at its end the job removes its checkpoint
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == [
        *("0.keras", "1.keras", "about.json"),
    ]


def test_the_weights_of_an_ended_run_predict_again_what_was_recorded(
    keras_lab: Queues, images: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, dataset = keras_lab, registered(keras_lab, images)
    run_id = lab.submit(PruneTrainSpec(dataset=dataset.name, rules=RULES, **COMMON), dataset).run_id
    ended(lab, run_id)
    before, steps = lab.store.predictions([run_id]), lab.store.step_results(run_id)
    assert before.groupby("step").size().tolist() == [32, 32]
    with lab.store.transaction() as connection:  # as in a store of an older version
        connection.execute("DELETE FROM predictions")
        connection.execute("UPDATE steps SET noninferior = NULL, difference = NULL, classification = '{}'")
    for name, value in (
        ("DATA_DIR", lab.settings.data_dir),
        ("DATA_ROOTS", os.pathsep.join(map(str, lab.settings.data_roots))),
        ("REDIS_URL", lab.settings.redis_url),
    ):
        monkeypatch.setenv(name, str(value))
    path = tmp_path / "predictions.csv"
    assert main(["predictions", run_id, "--export", str(path)]) == 1
    assert f"python -m jobs predict {run_id}" in capsys.readouterr().err
    assert main(["predict", run_id]) == 0
    assert "64 predictions of 2 steps" in capsys.readouterr().out
    after = lab.store.predictions([run_id])
    pd.testing.assert_frame_equal(after, before, atol=1e-5)
    assert [result.classification for result in lab.store.step_results(run_id)] == [
        result.classification for result in steps
    ]
    assert [result.difference for result in lab.store.step_results(run_id)] == [result.difference for result in steps]
    assert main(["predictions", run_id, "--step", "1", "--split", "test", "--export", str(path)]) == 0
    written = pd.read_csv(path)
    assert written.columns.tolist() == list(EXPORT_COLUMNS)
    assert len(written) == 16
    capsys.readouterr()
    assert main(["compare", f"{run_id}:0", run_id]) == 0
    assert "points, 95 % interval" in capsys.readouterr().out
    assert main(["compare", f"{run_id}:0", "nothing-such"]) == 1


def test_dense_layers_of_an_ended_run_are_factored_recorded_and_forgotten_with_the_step(
    keras_lab: Queues, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lab, dataset = keras_lab, registered(keras_lab, images)
    run_id = lab.submit(PruneTrainSpec(dataset=dataset.name, rules=RULES, **COMMON), dataset).run_id
    ended(lab, run_id)
    for name, value in (
        ("DATA_DIR", lab.settings.data_dir),
        ("DATA_ROOTS", os.pathsep.join(map(str, lab.settings.data_roots))),
        ("REDIS_URL", lab.settings.redis_url),
    ):
        monkeypatch.setenv(name, str(value))
    assert main(["svd-dense", run_id, "--energy", "60,100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    steps = lab.store.step_results(run_id)
    assert lines[1].startswith(f"100 %: {steps[0].parameters:,} parameters, {steps[0].bytes_weights:,} bytes")
    assert lines[1].endswith("agreement 100.00 %")
    assert main(["svd-dense", run_id, "--energy", "60"]) == 0  # replaces its row
    capsys.readouterr()
    of_step = ["svd-dense", run_id, "--step", "1", "--energy", "60"]
    assert main([*of_step, "--fine-tune-epochs", "1"]) == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["60 %", "60 %, 1 epoch"]
    assert main([*of_step, "--latency"]) == 0
    assert "ms an image, the network itself" in capsys.readouterr().out
    rows = lab.store.svd_dense([run_id])
    columns = ["step", "energy", "fine_tune_epochs"]
    assert rows[columns].to_numpy().tolist() == [[0, 60, 0], [0, 100, 0], [1, 60, 0], [1, 60, 1]]
    assert (rows["parameters"] < [steps[each].parameters + (each == 0) for each in rows["step"]]).all()
    assert rows["latency"].notna().tolist() == [False, False, True, False]
    assert rows["latency"][2] > 0
    assert rows["difference"].notna().all()
    predicted = lab.store.predictions([run_id], step=0, split="test").set_index("image_id")["predicted"]
    assert json.loads(rows["predicted"][1]) == predicted.to_dict()
    capsys.readouterr()
    for arguments, message in (
        (["--step", "7"], "(0, 1), got 7"),
        (["--energy", "0"], "above 0 and at most 100 percent, got 0"),
        (["--fine-tune-epochs", "-1"], "at least 0 epochs of fine-tuning, got -1"),
    ):
        assert main(["svd-dense", run_id, *arguments]) == 1
        assert message in capsys.readouterr().err
    lab.store.record_training_retry(run_id, attempt=2, step=1)
    assert lab.store.svd_dense([run_id])["step"].tolist() == [0, 0]


def test_predictions_that_are_made_again_survive_killed_processes_without_doubles(
    settings: Settings, images: Path
) -> None:
    settings = Settings(settings.data_dir, (images.parent,), given_redis_url=settings.given_redis_url)
    queues = Queues(settings)
    with workers(settings, "record", "train") as (recorder, trainer):
        dataset = registered(queues, images)
        run_id = queues.submit(PruneTrainSpec(dataset=dataset.name, rules=RULES, **COMMON), dataset).run_id
        ended(queues, run_id)
        before = queues.store.predictions([run_id])
        recorder.send_signal(signal.SIGSTOP)
        for _ in range(2):  # the second job stands for one that is run again although the first was done
            predictions.submit(queues, run_id)
        with queues.connected() as connection:
            wait_for(lambda: waiting(connection) > 1, 60)
        trainer.kill()
        recorder.kill()
    with queues.store.transaction() as store:
        store.execute("DELETE FROM predictions")
    with workers(settings, "record", "train"), queues.connected() as connection:
        wait_for(lambda: not under_way(connection, PREDICT, run_id), 120)
        pd.testing.assert_frame_equal(queues.store.predictions([run_id]), before)


def test_an_estimate_includes_the_epochs_and_the_start_times_of_likely_networks(lab: Queues, dataset: Dataset) -> None:
    training = COMMON["training"].replace(epochs=2, seed=9)
    short = TrainSpec(dataset=dataset.name, **(COMMON | {"training": training}))
    ended(lab, lab.submit(short, dataset).run_id)
    steps = lab.store.steps()
    steps = steps[steps["status"] == "finished"]
    latest = steps.sort_values("finished_at").iloc[-1]
    start = ((steps["finished_at"] - steps["started_at"]).dt.total_seconds() - steps["seconds"]).median()
    assert start > 0
    estimate = lab.estimate(short, dataset)
    assert estimate.seconds == pytest.approx(2 * latest["epoch_seconds"] + start)
    assert f"{start:.0f} s to start" in estimate.basis
    longer = short.replace(training=training.replace(epochs=10))
    assert lab.estimate(longer, dataset).seconds == pytest.approx(10 * latest["epoch_seconds"] + start)
    pruned = PruneTrainSpec(dataset=dataset.name, rules=RULES, **(COMMON | {"training": training}))
    assert start < lab.estimate(pruned, dataset).seconds - estimate.seconds < start + 2 * latest["epoch_seconds"]


@pytest.mark.slow
def test_a_suspended_run_keeps_its_checkpoint_and_trains_no_epoch_twice(lab: Queues, dataset: Dataset) -> None:
    training = COMMON["training"].replace(epochs=30)
    run_id = lab.submit(TrainSpec(dataset=dataset.name, **(COMMON | {"training": training})), dataset).run_id
    at_epoch(lab, run_id, 2)
    lab.suspend(run_id)
    idle(lab)
    state = state_of(lab, run_id)
    assert state.status == "suspended"
    assert 2 <= state.live.epoch < 30
    assert checkpoint_of(lab, run_id).is_file()
    time.sleep(6)  # the record worker checks every five seconds whether a run has lost its job
    assert state_of(lab, run_id) == state
    with pytest.raises(SpecError, match="has ended"):
        lab.retry(run_id)
    lab.resume(run_id)
    state = ended(lab, run_id)
    assert (state.status, state.done, state.attempt) == ("finished", 30, 1)
    assert trained_epochs(lab, run_id) == [f"Original: epoch {epoch} of 30" for epoch in range(1, 31)]
    assert lab.store.epochs([run_id])["epoch"].tolist() == list(range(1, 31))


@pytest.mark.slow
def test_cancel_stops_after_the_epoch_or_at_once_and_retry_continues_from_the_checkpoint(
    lab: Queues, dataset: Dataset
) -> None:
    training = COMMON["training"].replace(epochs=40)
    run_id = lab.submit(TrainSpec(dataset=dataset.name, **(COMMON | {"training": training})), dataset).run_id
    at_epoch(lab, run_id, 2)
    lab.cancel(run_id)
    idle(lab)
    state = ended(lab, run_id)
    assert state.status == "cancelled"
    reached = len(trained_epochs(lab, run_id))
    assert 2 <= reached < 40
    assert lab.store.epochs([run_id])["epoch"].tolist() == list(range(1, reached + 1))
    with pytest.raises(SpecError, match="cancelled"):
        lab.suspend(run_id)
    about = lab.settings.trained / run_id / "about.json"
    about.unlink()
    os.mkfifo(about)  # the job writes this file before it builds the network, and therefore waits for a reader
    lab.retry(run_id)
    wait_for(lambda: state_of(lab, run_id).live.doing == "building the network", 120)
    assert state_of(lab, run_id).live.epoch == reached
    text = about.read_text()
    about.unlink()
    about.write_text(text)
    at_epoch(lab, run_id, reached + 1)
    suspended_job(*(worker for worker in lab.workers() if worker.kind == "train"))  # so that it finishes no epoch
    lab.cancel(run_id, force=True)
    idle(lab)
    assert ended(lab, run_id).status == "cancelled"
    lab.retry(run_id)
    state = ended(lab, run_id)
    assert (state.status, state.done, state.attempt) == ("finished", 40, 3)
    epochs = trained_epochs(lab, run_id)
    assert len(epochs[:reached]) == len(set(epochs[:reached]))
    again = {each for each in epochs if epochs.count(each) > 1}
    assert again.isdisjoint(epochs[:reached])  # only epochs of the killed process are trained again
    assert lab.store.epochs([run_id])["epoch"].tolist() == list(range(1, 41))


@pytest.mark.slow
def test_a_nan_loss_fails_the_step_and_the_run_with_a_hint(lab: Queues, dataset: Dataset) -> None:
    """The test writes NaN weights to the checkpoint of a suspended run, as in a diverging training."""
    training = COMMON["training"].replace(epochs=50, seed=4)
    run_id = lab.submit(TrainSpec(dataset=dataset.name, **(COMMON | {"training": training})), dataset).run_id
    at_epoch(lab, run_id, 1)
    lab.suspend(run_id)
    idle(lab)
    checkpoint = checkpoint_of(lab, run_id)
    with np.load(checkpoint) as file:
        arrays = dict(file)
    for name, array in arrays.items():
        if array.shape == (4,) and array.dtype == np.float32:
            arrays[name] = np.full(4, np.nan, np.float32)  # the softmax's biases, and their moments
    np.savez(checkpoint, **arrays)
    lab.resume(run_id)
    state = ended(lab, run_id)
    assert (state.status, state.failed) == ("failed", 1)
    assert "Try a learning rate under 0.002" in str(state.error)
    step = lab.store.steps([run_id]).iloc[0]
    assert (step["status"], step["accepted"]) == ("failed", False)
    assert step["failure"] in str(state.error)
    assert lab.find_identical(TrainSpec(dataset=dataset.name, **(COMMON | {"training": training})), dataset) is None


@pytest.mark.slow
def test_a_run_waits_for_the_process_that_still_trains_it_and_a_late_job_does_nothing(
    lab: Queues, dataset: Dataset
) -> None:
    spec = TrainSpec(dataset=dataset.name, **(COMMON | {"training": COMMON["training"].replace(seed=5)}))
    run_id = lab.submit(spec, dataset, start_after=datetime.now(UTC) + timedelta(hours=3)).run_id
    state = state_of(lab, run_id)
    assert state.status == "scheduled"
    assert state.live.starts_at is not None
    folder = lab.settings.trained / run_id
    folder.mkdir(parents=True)
    with file_lock(folder / LOCK_NAME, shared=False, timeout=5):
        lab.resume(run_id)
        wait_for(lambda: "another process" in str(state_of(lab, run_id).live.doing), 120)
        assert not trained_epochs(lab, run_id)
    assert ended(lab, run_id).done == EPOCHS
    idle(lab)
    rows, log = lab.store.epochs([run_id]), lab.log(run_id)
    late = queue(SERVED["train"][0], Redis.from_url(str(lab.settings.redis_url))).enqueue(
        "jobs.train_task.train_step", kwargs={"run_id": run_id, "attempt": 1, "step": 0}, job_id=f"{run_id}--late"
    )
    wait_for(lambda: late.get_status() == JobStatus.FINISHED, 120)
    wait_for(lambda: lab.messages_waiting() == 0, 60)
    assert lab.log(run_id) == log
    pd.testing.assert_frame_equal(lab.store.epochs([run_id]), rows)


def forget_description(settings: Settings, dataset: Dataset) -> None:
    Redis.from_url(str(settings.redis_url)).delete(run_jobs.dataset_key(dataset.fingerprint))


def test_runs_start_in_order_of_priority_which_can_be_changed(lab: Queues, dataset: Dataset) -> None:
    """The data set's description is deleted, so each run fails at once, in the order of priority."""
    run_ids, wanted = [], ("normal", "low", "normal", "high", "low")
    later = datetime.now(UTC) + timedelta(hours=3)
    for seed, priority in enumerate(wanted):
        spec = TrainSpec(dataset=dataset.name, **(COMMON | {"training": COMMON["training"].replace(seed=100 + seed)}))
        run_ids.append(lab.submit(spec, dataset, priority=priority, start_after=later).run_id)
    connection = Redis.from_url(str(lab.settings.redis_url))
    forget_description(lab.settings, dataset)
    (worker,) = [psutil.Process(worker.pid) for worker in lab.workers() if worker.kind == "train"]
    worker.suspend()  # so that all runs wait, except the first, which the idle worker may have taken
    try:
        for run_id in run_ids:
            run_jobs.resume(LiveRun(connection, run_id))
        assert [state_of(lab, run_id).status for run_id in run_ids[1:]] == ["queued"] * 4
        lab.prioritise(run_ids[4], "high")
        assert state_of(lab, run_ids[4]).live.priority == "high"
    finally:
        worker.resume()
    states = [ended(lab, run_id) for run_id in run_ids]
    assert {state.status for state in states} == {"failed"}
    assert all("description in the queue, got none. Retry" in str(state.error) for state in states)
    order = sorted(states, key=lambda state: state.started_at or state.submitted_at)
    assert [place for state in order if (place := run_ids.index(state.id))] == [3, 4, 2, 1]
    with pytest.raises(SpecError, match="Expected a priority of high, normal, low, got 'urgent'"):
        lab.submit(spec, dataset, again=True, priority="urgent")
    assert len(lab.runs()) == len(lab.store.runs())


def test_a_scheduled_run_starts_at_its_time(lab: Queues, dataset: Dataset) -> None:
    spec = TrainSpec(dataset=dataset.name, **(COMMON | {"training": COMMON["training"].replace(seed=6)}))
    with pytest.raises(SpecError, match="time zone"):
        lab.submit(spec, dataset, start_after=datetime(2040, 1, 1))  # noqa: DTZ001
    due = datetime.now(UTC) + timedelta(seconds=4)
    run_id = lab.submit(spec, dataset, start_after=due).run_id
    forget_description(lab.settings, dataset)
    assert state_of(lab, run_id).status == "scheduled"
    state = ended(lab, run_id)
    assert state.started_at is not None
    assert state.started_at >= due
    assert any("resumed: it was to start after" in line for line in lab.log(run_id))


def test_a_missing_folder_fails_the_training_with_the_reason(lab: Queues, tmp_path: Path) -> None:
    folder = write_lesions(lab.settings.data_roots[0] / "vanishing", 6)
    small = registered(lab, folder)
    folder.rename(tmp_path / "away")
    run_id = lab.submit(
        TrainSpec(dataset=small.name, **(COMMON | {"targets": Targets(train=16, validation=4, test=4)})), small
    ).run_id
    state = ended(lab, run_id)
    assert state.status == "failed"
    assert "Expected the images of" in str(state.error)
    assert "got none: the folder does not exist" in str(state.error)
    assert lab.store.step_results(run_id) == []


def test_an_earlier_failed_job_does_not_block_its_successor(settings: Settings) -> None:
    connection = Redis.from_url(str(settings.redis_url))
    live = LiveRun(connection, "train-x")
    state = first_state(TrainSpec(dataset="lesions", **COMMON))
    live.create(RunFacts(attempt=1, kind="train"), {0: json.dumps(algorithm2.to_dict(state))})
    run_jobs.enqueue(live)
    run_jobs.enqueue(live)  # twice, as the record worker and a page may do at the same time
    assert queue("train", connection).get_job_ids() == ["train-x--1-0"]
    job = queue("train", connection).fetch_job("train-x--1-0")
    queue("train", connection).remove(job)
    job.set_status(JobStatus.FAILED)
    FailedJobRegistry("train", connection=connection).add(job, ttl=50, exc_string="boom")
    connection.expire(job.key, 50)
    run_jobs.enqueue(live)
    assert queue("train", connection).get_job_ids() == ["train-x--1-0"]
    assert connection.ttl(job.key) == -1
    assert FailedJobRegistry("train", connection=connection).get_job_ids() == []
    run_jobs.suspend(live)
    assert queue("train", connection).get_job_ids() == []
    run_jobs.enqueue(live)
    assert queue("train", connection).get_job_ids() == []
    run_jobs.prioritise(live, "low")
    run_jobs.resume(live)
    assert queue("train-low", connection).get_job_ids() == ["train-x--1-0"]


@pytest.mark.slow
@pytest.mark.parametrize("rules", [RULES, RULES.replace(distil=True)], ids=["alone", "taught"])
def test_a_run_with_killed_processes_ends_like_an_uninterrupted_one(
    settings: Settings, images: Path, tmp_path: Path, rules: Rules
) -> None:
    """Kill the job's process during an epoch, then the record worker, then the `train` worker."""
    settings = replace(settings, data_roots=(*settings.data_roots, images.parent))
    queues = Queues(settings)
    undisturbed = trained_here(PruneTrainSpec(dataset="lesions", rules=rules, **COMMON), images, tmp_path)
    with workers(settings, "record", "train", "train") as (recorder, *trainers):
        dataset = registered(queues, images)
        run_id = queues.submit(PruneTrainSpec(dataset=dataset.name, rules=rules, **COMMON), dataset).run_id
        at_epoch(queues, run_id, 2)
        suspended_job(*trainers).kill()
        recorder.kill()
        recorder.wait()
        with workers(settings, "record", beside=True):
            at_epoch(queues, run_id, 2, step=1)
            orphan = suspended_job(*trainers)
            next(each for each in trainers if each.pid == orphan.ppid()).kill()
            wait_for(lambda: gone(orphan), 20)  # it is suspended, so nothing else ends it
            state = ended(queues, run_id)
    assert (state.status, state.done, state.failed, state.attempt) == ("finished", 2 * EPOCHS, 0, 1)
    assert_trained_alike(queues.store, run_id, undisturbed)
    assert any("goes on after epoch" in line for line in queues.log(run_id))


@pytest.mark.slow
def test_a_step_that_kills_its_process_three_times_fails_and_a_retry_keeps_earlier_steps(
    settings: Settings, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill the job's process, as the kernel does when memory runs out."""
    monkeypatch.setenv("START_SECONDS", "2")  # so that no process finishes its first epoch before it is killed
    settings = replace(settings, data_roots=(*settings.data_roots, images.parent))
    queues = Queues(settings)
    spec = PruneTrainSpec(dataset="lesions", **COMMON, rules=RULES.replace(max_iterations=2))
    with workers(settings, "record", "train", forked=False) as (_, trainer):
        dataset = registered(queues, images)
        run_id = queues.submit(spec, dataset).run_id
        live = live_run(settings, run_id)
        for tries in (1, 2, 3):
            wait_for(
                lambda tries=tries: live.connection.hget(f"{live.key}:tries", "step 1 epoch 1") == b"%d" % tries, 300
            )
            suspended_job(trainer).kill()
        state = ended(queues, run_id)
        assert (state.status, state.failed, state.done) == ("finished", 1, 2 * EPOCHS)
        before = queues.store.steps([run_id])
        assert before["name"].tolist() == ["Original", "R1: 50%", "R1: 33%"]
        assert before["status"].tolist() == ["finished", "failed", "finished"]
        assert before["failure"][1].startswith("The process died 3 times at epoch 1")
        queues.retry(run_id)
        wait_for(lambda: len(queues.store.step_results(run_id)) == 2, 300)
        after = queues.store.steps([run_id])
        assert after["name"].tolist()[:2] == ["Original", "R1: 50%"]
        assert after["attempt"].tolist()[:2] == [1, 2]
        assert after["status"].tolist()[:2] == ["finished", "finished"]
        pd.testing.assert_frame_equal(after.iloc[:1], before.iloc[:1], check_dtype=False)
        queues.cancel(run_id, force=True)
        assert ended(queues, run_id).failed == 0


def test_a_step_is_given_up_at_an_epoch_that_ended_its_process_three_times_however_old_its_checkpoint_is(
    lab: Queues, dataset: Dataset
) -> None:
    later = datetime.now(UTC) + timedelta(hours=3)
    spec = TrainSpec(dataset=dataset.name, **(COMMON | {"training": COMMON["training"].replace(seed=8)}))
    run_id = lab.submit(spec, dataset, start_after=later).run_id
    live = live_run(lab.settings, run_id)
    for _ in range(3):
        live.try_part("step 0 epoch 4")  # the processes had no checkpoint
    lab.resume(run_id)
    state = ended(lab, run_id)
    assert state.status == "failed"
    assert "The process died 3 times at epoch 4" in str(state.error)
    assert lab.store.epochs([run_id])["epoch"].tolist() == [1, 2, 3]


def test_runs_submitted_together_share_a_study(lab: Queues, dataset: Dataset) -> None:
    later = datetime.now(UTC) + timedelta(hours=3)
    specs = [
        TrainSpec(dataset=dataset.name, **(COMMON | {"training": COMMON["training"].replace(seed=seed)}))
        for seed in (200, 201)
    ]
    found: list[Submission] = lab.submit_together([(spec, dataset) for spec in specs], start_after=later)
    states = [state_of(lab, each.run_id) for each in found]
    assert states[0].study is not None
    assert states[0].study == states[1].study
    for state in states:
        lab.cancel(state.id)
        assert ended(lab, state.id).status == "cancelled"
