"""Runs from submission to recorded results, with a real Valkey, a real store and real worker processes."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
from laboratory import ROOT, gone, suspended_job, wait_for, workers, write_images
from redis import Redis

from benchmarks.processes import run_command
from core.compression.image_results import METRIC_COLUMNS
from core.compression.measure import measure
from core.compression.specs import ReconstructSpec, ResizeSpec, RivalsSpec, SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.errors import DatasetError, QueueUnavailable, SpecError
from core.runs import Run
from core.settings import Settings
from jobs.live_runs import LiveRun, active_runs
from jobs.queues import Queues


def ended(queues: Queues, run_id: str, seconds: float = 240) -> Run:
    deadline = time.monotonic() + seconds
    for state in queues.wait(run_id, pause=0.1):
        assert time.monotonic() < deadline, f"still {state}"
    return state


@pytest.fixture(scope="module")
def lab(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    """Give queues with a record worker and two `svd` workers, shared by tests that do not change the workers."""
    folder = tmp_path_factory.mktemp("lab")
    url = valkey_server.replace("?db=0", "?db=3")
    settings = Settings(folder / "data", (folder,), given_redis_url=url)
    settings.data_dir.mkdir()
    with workers(settings, "record", "svd", "svd"):
        yield Queues(settings)


def registered(queues: Queues, folder: Path) -> Dataset:
    dataset = queues.resolve(str(folder))
    queues.register(dataset)
    wait_for(lambda: queues.store.dataset(dataset.name) == dataset, 60)
    return dataset


@pytest.fixture
def folder(lab: Queues, request: pytest.FixtureRequest) -> Path:
    return lab.settings.data_roots[0] / request.node.name[:60]


def test_every_image_and_k_is_recorded_as_measured_directly(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 9))
    spec = SweepSpec(dataset=dataset.name, ks=(3, 10, 40))
    state = ended(lab, lab.submit(spec, dataset).run_id)
    assert (state.status, state.done, state.failed) == ("finished", 9, 0)
    rows = lab.store.measurements(state.id).drop(columns="run_id")
    expected = pd.DataFrame([row for record in dataset.records for row in measure(record, dataset.root, spec).rows])
    pd.testing.assert_frame_equal(rows, expected[rows.columns], check_dtype=False, check_exact=True)
    assert lab.store.optimal_k(state.id)["rule"].tolist() == ["plateau", "knee", "threshold", "budget"]
    assert lab.store.storage(state.id)["variant"].tolist() == ["k=3", "k=10", "k=40"]
    run = lab.store.run(state.id)
    assert run is not None
    assert run.fingerprint == dataset.fingerprint
    assert run.command.startswith("python -m jobs svd-sweep")
    assert "svd-" in run.workers


def test_an_equal_finished_sweep_is_offered_instead_of_measured_again(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 2, seed=1))
    spec = SweepSpec(dataset=dataset.name, ks=(3,))
    first = lab.submit(spec, dataset)
    ended(lab, first.run_id)
    assert lab.submit(spec, dataset) == replace(first, identical=True)
    assert lab.find_identical(spec.replace(ks=(4,)), dataset) is None
    again = lab.submit(spec, dataset, again=True)
    assert not again.identical
    assert ended(lab, again.run_id).status == "finished"


def test_a_sweep_that_finishes_during_the_search_is_offered_too(
    lab: Queues, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = registered(lab, write_images(folder, 2, seed=5))
    spec = SweepSpec(dataset=dataset.name, ks=(3,))
    first = lab.submit(spec, dataset)
    ended(lab, first.run_id)
    wait_for(lambda: first.run_id not in active_runs(Redis.from_url(str(lab.settings.redis_url))), 60)
    asked: list[str] = []
    finished_run = lab.store.finished_run

    def not_yet_at_first(wanted: str) -> str | None:
        asked.append(wanted)
        return finished_run(wanted) if len(asked) > 1 else None

    monkeypatch.setattr(lab.store, "finished_run", not_yet_at_first)
    assert lab.find_identical(spec, dataset) == first.run_id


def test_two_submissions_of_the_same_sweep_give_one_run(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 30, seed=2))
    spec = SweepSpec(dataset=dataset.name, ks=(3, 20))
    first, second = lab.submit(spec, dataset), lab.submit(spec, dataset)
    assert second == replace(first, identical=True)
    assert ended(lab, first.run_id).done == 30


def test_images_that_cannot_be_measured_are_listed_and_the_others_are_measured(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 6, seed=3))
    kept = {name: (folder / name).read_bytes() for name in ("mole001.jpg", "mole004.jpg")}
    (folder / "mole001.jpg").unlink()
    (folder / "mole004.jpg").write_bytes(kept["mole004.jpg"][:-100])
    state = ended(lab, lab.submit(SweepSpec(dataset=dataset.name, ks=(3,)), dataset).run_id)
    assert (state.status, state.done, state.failed) == ("finished", 4, 2)
    failures = lab.store.images(state.id, "failed").set_index("image_id")["reason"]
    assert failures.index.tolist() == ["mole001", "mole004"]
    assert "mole001.jpg" in failures["mole001"]
    assert "The file does not exist" in failures["mole001"]
    assert "mole004.jpg: The file has changed since the data set was read" in failures["mole004"]
    assert lab.store.storage(state.id)["unmeasured"].tolist() == [2]
    assert any("mole001" in line for line in lab.log(state.id))
    for name, content in kept.items():
        (folder / name).write_bytes(content)
    lab.retry(state.id)
    state = ended(lab, state.id)
    assert (state.status, state.done, state.failed, state.attempt) == ("finished", 6, 0, 2)
    assert len(lab.store.measurements(state.id)) == 6


def test_a_missing_folder_fails_the_run_with_the_reason(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 3, seed=4))
    folder.rename(folder.with_name(folder.name + "-moved"))
    state = ended(lab, lab.submit(SweepSpec(dataset=dataset.name, ks=(3,)), dataset).run_id)
    assert state.status == "failed"
    assert state.error is not None
    assert "the folder does not exist" in state.error


def test_small_black_and_constant_images_give_null_where_a_metric_is_undefined(lab: Queues, folder: Path) -> None:
    write_images(folder, 1, seed=5)
    cv2.imwrite(str(folder / "black.png"), np.zeros((40, 56, 3), np.uint8))
    cv2.imwrite(str(folder / "constant.png"), np.full((40, 56, 3), 77, np.uint8))
    cv2.imwrite(str(folder / "dot.png"), np.full((1, 1, 3), 200, np.uint8))
    dataset = registered(lab, folder)
    state = ended(lab, lab.submit(SweepSpec(dataset=dataset.name, ks=(1, 20), codec="png"), dataset).run_id)
    assert (state.status, state.done, state.failed) == ("finished", 4, 0)
    rows = lab.store.measurements(state.id).set_index(["image_id", "k"])
    assert rows.loc[("black", 20), ["mse", "changed_percent"]].tolist() == [0, 0]
    assert rows.loc[("black", 20), ["psnr", "hu_correlation", "explained_variance"]].isna().all()
    assert np.isnan(rows.loc[("dot", 1), "ssim"])
    assert rows.loc[("dot", 20), "reason"] == "Expected k of at most 1, the rank of this 1×1 image, got 20."
    statistics = lab.store.statistics(state.id).set_index(["variant", "metric"])
    assert statistics.loc[("k=20", "psnr"), "count"] + statistics.loc[("k=20", "psnr"), "undefined"] == 3
    storage = lab.store.storage(state.id).set_index("variant")
    assert storage.loc["k=20", "unmeasured"] == 1
    assert storage.loc["k=1", "identical"] >= 3


def test_a_reconstruction_becomes_a_data_set_with_the_same_labels(lab: Queues, folder: Path) -> None:
    write_images(folder / "melanoma", 3, seed=6)
    write_images(folder / "nevus", 2, seed=7)
    for each in (folder / "nevus").iterdir():
        each.rename(each.with_name("n" + each.name))
    dataset = registered(lab, folder)
    spec = ReconstructSpec(dataset=dataset.name, name="smaller", k=10)
    state = ended(lab, lab.submit(spec, dataset).run_id)
    assert state.status == "finished", state.error
    made = lab.store.dataset("smaller")
    assert made is not None
    assert (made.source, made.settings) == (dataset.name, "k=10 per_channel jpeg 95")
    assert made.class_counts() == dataset.class_counts()
    read = load_dataset(lab.settings.reconstructed / "smaller", name="smaller")
    assert read.records == made.records
    storage = lab.store.storage(state.id).iloc[0]
    assert storage["stored_bytes"] == sum(record.bytes for record in made.records)
    assert storage["source_bytes"] == sum(record.bytes for record in dataset.records)
    with pytest.raises(SpecError, match="got smaller, which is a registered data set"):
        lab.submit(spec, dataset, again=True)


def test_resize_and_codec_comparisons_are_measured_and_recorded(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 3, seed=8))
    resize = ended(lab, lab.submit(ResizeSpec(dataset=dataset.name, sizes=((20, 28), (10, 10)), k=9), dataset).run_id)
    rivals = RivalsSpec(dataset=dataset.name, rivals=(("jpeg", 50), ("jpeg", 95), ("png", None)))
    rival = ended(lab, lab.submit(rivals, dataset).run_id)
    assert lab.store.storage(resize.id)["variant"].tolist() == ["20x28", "10x10"]
    sizes = lab.store.storage(rival.id).set_index("variant")
    assert sizes.index.tolist() == ["jpeg 50", "jpeg 95", "png"]
    assert sizes.loc["jpeg 50", "stored_bytes"] < sizes.loc["jpeg 95", "stored_bytes"]
    assert sizes.loc["png", "identical"] == 3
    assert set(lab.store.statistics(rival.id)["metric"]) <= set(METRIC_COLUMNS)


def test_a_sample_has_the_requested_size_and_depends_on_the_seed(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 12, seed=9))
    drawn = []
    for seed in (1, 1, 2):
        spec = SweepSpec(dataset=dataset.name, ks=(3,), sample_size=4, seed=seed)
        state = ended(lab, lab.submit(spec, dataset, again=True).run_id)
        drawn.append(lab.store.images(state.id)["image_id"].tolist())
    assert len(drawn[0]) == 4
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_invalid_run_is_refused_before_anything_is_queued(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 2, seed=10))
    before = len(lab.runs())
    with pytest.raises(SpecError, match="Expected k of at most 40, the rank of the largest image"):
        lab.submit(SweepSpec(dataset=dataset.name, ks=(3, 41)), dataset)
    with pytest.raises(SpecError, match="3"):
        lab.submit(SweepSpec(dataset=dataset.name, ks=(3,), sample_size=3), dataset)
    with pytest.raises(DatasetError):
        lab.resolve("/etc")
    with pytest.raises(DatasetError, match="Expected a folder or a registered data set"):
        lab.resolve("nowhere")
    assert len(lab.runs()) == before


def test_an_estimate_uses_the_newest_run_of_its_kind(lab: Queues, folder: Path) -> None:
    dataset = registered(lab, write_images(folder, 4, seed=11))
    ended(lab, lab.submit(SweepSpec(dataset=dataset.name, ks=(3, 5)), dataset).run_id)
    one = lab.estimate(SweepSpec(dataset=dataset.name, ks=(3,)), dataset).seconds
    three = lab.estimate(SweepSpec(dataset=dataset.name, ks=(3, 5, 7)), dataset).seconds
    assert one is not None
    assert three == pytest.approx(3 * one)
    first = ReconstructSpec(
        dataset=dataset.name, name="estimated", k=3
    )  # no run of this kind has finished on this data set
    assert lab.estimate(first, dataset).seconds is not None
    wide = registered(lab, write_images(folder.with_name("wide"), 2, height=80, width=112, seed=12))
    assert lab.estimate(SweepSpec(dataset="wide", ks=(3,)), wide).seconds == pytest.approx(2 * one)


def test_workers_are_listed_with_host_and_queue(lab: Queues) -> None:
    assert [worker.kind for worker in lab.workers()] == ["svd", "svd", "record"]
    assert lab.record_worker_alive()
    assert all(psutil.pid_exists(worker.pid) for worker in lab.workers())


@pytest.mark.slow
def test_workers_whose_registration_expired_register_again(lab: Queues) -> None:
    """The keys of all workers expire, for example after a change of the server's clock."""
    before = [(worker.name, worker.kind, worker.started_at) for worker in lab.workers()]
    connection = Redis.from_url(str(lab.settings.redis_url))
    processes = [psutil.Process(worker.pid) for worker in lab.workers()]
    for process in processes:
        process.suspend()  # so that none registers again before the test has seen that all are missing
    try:
        connection.delete(*connection.keys("rq:worker*"))
        assert lab.workers() == []
    finally:
        for process in processes:
            process.resume()
    wait_for(lambda: len(lab.workers()) == len(before), 60)
    assert [(worker.name, worker.kind, worker.started_at) for worker in lab.workers()] == before


def test_measuring_workers_have_a_lower_priority_than_training_workers(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKER_NICENESS", "7")
    own = psutil.Process().nice()
    with workers(settings, "record", "svd", "train") as (recorder, measurer, trainer):
        assert psutil.Process(recorder.pid).nice() == own
        assert psutil.Process(trainer.pid).nice() == min(own + 7, 19)
        assert psutil.Process(measurer.pid).nice() == min(own + 10, 19)


@pytest.mark.slow
def test_cancel_stops_after_the_current_image_and_retry_measures_only_the_rest(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.run_kinds.CHUNKS", 2)  # one job has many images and would continue to the last
    folder = write_images(settings.data_roots[1] / "large", 16, height=450, width=600)
    queues = Queues(settings)
    with workers(settings, "record", "svd"):
        dataset = registered(queues, folder)
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(100, 200, 300, 400)), dataset).run_id
        wait_for(lambda: (state := queues.run(run_id)) and state.done >= 3, 60)
        queues.cancel(run_id)
        done = LiveRun(Redis.from_url(str(settings.redis_url)), run_id).progress()[0]
        state = ended(queues, run_id)
        wait_for(lambda: all(worker.current_run is None for worker in queues.workers()), 60)
        assert state.status == "cancelled"
        wait_for(lambda: queues.messages_waiting() == 0, 60)
        measured = queues.store.images(run_id)
        assert 3 <= done <= len(measured) <= min(done + 1, 15), "the only worker finishes its current image"
        time.sleep(1)
        assert len(queues.store.images(run_id)) == len(measured)
        with pytest.raises(SpecError, match="cancelled"):
            queues.cancel(run_id)
        queues.retry(run_id)
        state = ended(queues, run_id)
        assert (state.status, state.done, state.attempt) == ("finished", 16, 2)
        attempts = queues.store.images(run_id).set_index("image_id")["attempt"]
        assert (attempts.loc[measured["image_id"]] == 1).all()
        assert (attempts == 2).sum() == 16 - len(measured)
        assert len(queues.store.measurements(run_id)) == 64


@pytest.mark.slow
def test_a_killed_job_and_a_killed_worker_lose_no_result_and_leave_no_orphan_process(settings: Settings) -> None:
    folder = write_images(settings.data_roots[1] / "large", 16, height=450, width=600)
    queues = Queues(settings)
    with workers(settings, "record", "svd", "svd") as (_, first, second):
        dataset = registered(queues, folder)
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(100, 200, 300, 400)), dataset).run_id
        wait_for(lambda: (state := queues.run(run_id)) and state.done >= 2, 60)
        job, orphan = suspended_job(second), suspended_job(first)
        job.kill()
        first.kill()
        wait_for(lambda: gone(orphan), 20)  # it is suspended, so nothing else ends it
        state = ended(queues, run_id)
        assert (state.status, state.done, state.failed) == ("finished", 16, 0)
        assert len(queues.store.measurements(run_id)) == 64


@pytest.mark.slow
def test_an_image_that_repeatedly_kills_its_process_fails_and_the_others_are_measured(settings: Settings) -> None:
    """One image is so large that measuring it takes seconds, in which the test kills the job's process."""
    folder = write_images(settings.data_roots[1] / "poison", 3)
    write_images(folder / "large", 1, height=2600, width=2600)
    (folder / "large" / "mole000.jpg").replace(folder / "mole001.jpg")
    queues = Queues(settings)
    with workers(settings, "record", "svd") as (_, worker):
        dataset = registered(queues, folder)
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(3,)), dataset).run_id
        live = LiveRun(Redis.from_url(str(settings.redis_url)), run_id)
        for tries in (1, 2, 3):
            wait_for(lambda tries=tries: live.connection.hget(f"{live.key}:tries", "mole001") == b"%d" % tries, 60)
            suspended_job(worker).kill()
        state = ended(queues, run_id)
        assert (state.status, state.done, state.failed) == ("finished", 2, 1)
        reason = queues.store.images(run_id, "failed")["reason"].iloc[0]
        assert "got 3 deaths of the process" in reason


@pytest.mark.slow
def test_a_run_whose_jobs_are_lost_fails_with_that_reason_and_can_be_retried(settings: Settings) -> None:
    folder = write_images(settings.data_roots[1] / "lost", 3)
    queues = Queues(settings)
    with workers(settings, "record"):
        dataset = registered(queues, folder)
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(3,)), dataset).run_id
        wait_for(lambda: queues.store.run(run_id), 60)
    with Redis.from_url(str(settings.redis_url)) as connection:
        connection.flushdb()
    with workers(settings, "record", "svd"):
        state = ended(queues, run_id)
        assert state.status == "failed"
        assert "Expected jobs of this run in the queue, got none" in str(state.error)
        queues.retry(run_id)
        assert ended(queues, run_id).done == 3


@pytest.mark.slow
def test_messages_wait_for_the_record_worker_and_are_not_lost_when_it_is_killed(settings: Settings) -> None:
    folder = write_images(settings.data_roots[1] / "waiting", 20)
    queues = Queues(settings)
    dataset = queues.resolve(str(folder))
    queues.register(dataset)
    run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(3, 9)), dataset).run_id
    with workers(settings, "svd"):
        wait_for(lambda: (state := queues.run(run_id)) and state.done == 20, 60)
    assert not queues.record_worker_alive()
    assert queues.messages_waiting() >= 3
    with workers(settings, "record") as (recorder,):
        recorder.kill()
    with workers(settings, "record"):
        assert ended(queues, run_id).done == 20
    assert len(queues.store.measurements(run_id)) == 40


def test_a_second_record_worker_is_refused(settings: Settings) -> None:
    with workers(settings, "record"):
        environment = {**os.environ, "DATA_DIR": str(settings.data_dir), "REDIS_URL": str(settings.redis_url)}
        command = [sys.executable, "-m", "jobs.worker", "record"]
        second = run_command(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert "Expected no other record worker" in second.stderr


def test_a_sweep_can_be_suspended_resumed_scheduled_and_reprioritized(settings: Settings) -> None:
    queues, connection = Queues(settings), Redis.from_url(str(settings.redis_url))
    dataset = load_dataset(write_images(settings.data_roots[1] / "moles", 3), name="moles")
    run_id = queues.submit(SweepSpec(dataset="moles", ks=(3,)), dataset).run_id
    jobs = [f"{run_id}--1-{number}".encode() for number in range(3)]

    def waiting(priority: str = "") -> list[bytes]:
        return list(connection.lrange(f"rq:queue:svd{priority}", 0, -1))

    def status() -> str | None:
        state = queues.run(run_id)
        return None if state is None else state.status

    assert (status(), waiting()) == ("queued", jobs)
    queues.suspend(run_id)
    assert (status(), waiting()) == ("suspended", [])
    queues.resume(run_id)
    assert (status(), waiting()) == ("queued", jobs)
    queues.prioritise(run_id, "high")
    assert (waiting(), waiting("-high")) == ([], jobs)
    connection.hdel(f"dermslim:run:{run_id}:states", "1")  # as for a measured chunk
    queues.prioritise(run_id, "low")
    assert waiting("-low") == [jobs[0], jobs[2]]
    later = datetime.now(UTC) + timedelta(hours=3)
    other = queues.submit(SweepSpec(dataset="moles", ks=(4,)), dataset, start_after=later).run_id
    scheduled = queues.run(other)
    assert scheduled is not None
    assert (scheduled.status, scheduled.live.starts_at, waiting()) == ("scheduled", later, [])


def test_a_server_that_does_not_answer_raises_queue_unavailable(tmp_path: Path) -> None:
    away = Queues(Settings(tmp_path, (tmp_path,), given_redis_url="redis://127.0.0.1:1/0"))
    with pytest.raises(QueueUnavailable, match="Expected the Redis server to answer"):
        away.ping()
    with pytest.raises(QueueUnavailable, match="make up"):
        Queues(Settings(tmp_path, (tmp_path,))).ping()


@pytest.mark.slow
def test_a_job_that_ignores_cancelling_is_ended_and_its_results_are_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job's process is suspended, like a call that never ends; one job has small images and then a large one."""
    monkeypatch.setattr("jobs.run_kinds.CHUNKS", 1)
    monkeypatch.setattr("jobs.run_kinds.PIXELS", 10**9)
    folder = write_images(settings.data_roots[1] / "mixed", 3)
    write_images(folder / "large", 1, height=250, width=4100)  # large enough that the results before it are sent first
    (folder / "large" / "mole000.jpg").replace(folder / "zlarge.jpg")
    queues = Queues(settings)
    with workers(settings, "record", "svd") as (_, worker):
        dataset = registered(queues, folder)
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(3,)), dataset).run_id
        live = LiveRun(Redis.from_url(str(settings.redis_url)), run_id)
        wait_for(lambda: live.connection.hget(f"{live.key}:tries", "zlarge"), 120)
        job = suspended_job(worker)
        queues.cancel(run_id)
        wait_for(lambda: gone(job), 120)  # it is suspended, so nothing else ends it
        wait_for(lambda: all(each.current_run is None for each in queues.workers()), 120)
        state = ended(queues, run_id)
        wait_for(lambda: queues.messages_waiting() == 0, 120)
        images = queues.store.images(run_id)
        assert (state.status, state.failed) == ("cancelled", 0)
        assert images["image_id"].tolist() == ["mole000", "mole001", "mole002"]
        assert (images["status"] == "measured").all()
        assert any("the current image was not measured" in line for line in queues.log(run_id))
        queues.retry(run_id)
        assert (ended(queues, run_id).done, len(queues.store.measurements(run_id))) == (4, 4)
