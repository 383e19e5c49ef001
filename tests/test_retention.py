"""Deleting runs with all their data, and pruning caches; everything else is kept."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from laboratory import wait_for, workers, write_images
from recorded import new_run, record_training
from redis import Redis

from core.compression.image_results import Chunk, ImageResult
from core.compression.specs import ReconstructSpec, SweepSpec
from core.data import training_arrays as arrays
from core.data.datasets import Dataset, load_dataset
from core.errors import SpecError
from core.settings import Settings
from core.store import upkeep as store_upkeep
from core.store.check import read_in_full
from core.store.measurements import Store
from jobs.__main__ import build_parser, main
from jobs.live_runs import LiveRun, RunFacts
from jobs.queues import Queues
from jobs.upkeep import retention

DAY = 24 * 3600


@pytest.fixture
def connection(valkey_url: str) -> Iterator[Redis]:
    with Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
def queues(settings: Settings, connection: Redis, monkeypatch: pytest.MonkeyPatch) -> Queues:
    """Give queues whose settings are also in the environment, for the record worker and commands."""
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    Store(settings.database).migrate()
    return Queues(settings, connection)


def write(path: Path, size: int, days_old: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    for each in (path, path.parent):
        os.utime(each, (time.time() - days_old * DAY,) * 2)
    return path


def cancelled_sweep(store: Store, run_id: str, days_ago: float) -> None:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    store.record_run(new_run(run_id, SweepSpec(dataset="moles"), at, spec_hash=run_id))
    store.record_images([Chunk(run_id, 1, "w", [ImageResult("mole000", "failed", "a reason", 0.1)])])
    store.record_cancelled(run_id, 1, at)


def made_dataset(store: Store, settings: Settings, run_id: str) -> Dataset:
    made = load_dataset(write_images(settings.reconstructed / "made", 2), name="made")
    store.record_dataset(made, datetime.now(UTC))
    spec = ReconstructSpec(dataset="moles", name="made", k=3)
    store.record_run(new_run(run_id, spec, datetime.now(UTC), spec_hash=run_id))
    store.record_cancelled(run_id, 1, datetime.now(UTC))
    return made


def test_deleting_a_run_removes_its_rows_from_every_table(queues: Queues) -> None:
    store = queues.store
    kept = record_training(store, study="together", sets=True)
    gone = record_training(store, study="alone", sets=True)
    store.record_study(
        {"study": "alone", "kind": "grid", "dataset": "d", "spec": "{}", "submitted_at": datetime.now(UTC)}
    )
    store.record_study_status("alone", "finished", None, datetime.now(UTC))
    rows = store_upkeep.run_rows(store, [kept, gone])
    before = read_in_full(store)
    assert store_upkeep.delete_run(store, gone, attempt=1)
    assert not store_upkeep.delete_run(store, gone, attempt=1), "the run is already deleted"
    after = read_in_full(store)
    assert store_upkeep.run_rows(store, [kept, gone]) == {kept: rows[kept]}
    assert sum(before.values()) - sum(after.values()) == rows[gone] + 1, "the rows of the run and of its study"
    assert [run.id for run in store.runs()] == [kept]


def test_a_run_under_way_or_retried_is_never_deleted(queues: Queues, settings: Settings, connection: Redis) -> None:
    store = queues.store
    running = record_training(store, ends=False)
    with pytest.raises(SpecError, match=r"Expected a run that has ended, got .*, which is queued. Cancel it first"):
        retention.deletable(queues, [running])
    with pytest.raises(SpecError, match="Expected a run that is in the store, got nothing-like-it"):
        retention.deletable(queues, ["nothing-like-it"])
    assert retention.deletable(queues) == []
    assert not retention.delete(settings, store, connection, running, 1, None)
    ended = record_training(store)
    LiveRun(connection, ended).create(RunFacts(attempt=2))
    assert not retention.delete(settings, store, connection, ended, 1, None)
    assert {run.id for run in store.runs()} == {running, ended}


def test_a_run_of_a_study_under_way_is_not_deleted(queues: Queues) -> None:
    run_id = record_training(queues.store, study="article-1")
    queues.store.record_study(
        {"study": "article-1", "kind": "article", "dataset": "d", "spec": "{}", "submitted_at": datetime.now(UTC)}
    )
    with pytest.raises(SpecError, match="Expected a run whose study has ended, got one of article-1"):
        retention.deletable(queues, [run_id])


def test_only_runs_older_than_the_given_age_are_chosen(queues: Queues) -> None:
    cancelled_sweep(queues.store, "old", 100)
    cancelled_sweep(queues.store, "new", 10)
    chosen = retention.deletable(queues, older_than=retention.age("90d"))
    assert [(each.run.id, each.rows) for each in chosen] == [("old", 2)]
    assert retention.age("2w") == timedelta(days=14)
    with pytest.raises(SystemExit):
        build_parser().parse_args(["delete", "--older-than", "soon"])


def test_deleting_removes_weights_and_keys_and_on_request_the_written_data_set(
    queues: Queues, settings: Settings, connection: Redis
) -> None:
    store = queues.store
    training = record_training(store)
    write(settings.trained / training / "0.keras", 1000)
    live = LiveRun(connection, training)
    live.log("a line")
    made_dataset(store, settings, "reconstruct-1")
    found = {each.run.id: each for each in retention.deletable(queues)}
    assert found[training].folder_bytes == 1000
    assert found["reconstruct-1"].written == "made"
    assert found["reconstruct-1"].written_bytes == retention.size_of(settings.reconstructed / "made") > 0
    assert retention.delete(settings, store, connection, training, 1, None)
    assert not (settings.trained / training).exists()
    assert live.log_lines() == []
    assert retention.delete(settings, store, connection, "reconstruct-1", 1, None)
    assert store.dataset("made") is not None
    made_dataset(store, settings, "reconstruct-2")
    assert retention.delete(settings, store, connection, "reconstruct-2", 1, "made")
    assert store.dataset("made") is None
    assert not (settings.reconstructed / "made").exists()
    assert settings.reconstructed.exists()


def test_deleting_never_follows_a_name_out_of_its_folder(queues: Queues, settings: Settings, connection: Redis) -> None:
    outside = write(settings.data_dir / "precious" / "image.png", 10)
    for name in ("../precious", "..", ".", "linked"):
        settings.reconstructed.mkdir(exist_ok=True)
        if name == "linked":
            (settings.reconstructed / name).symlink_to(outside.parent)
        cancelled_sweep(queues.store, "sweep", 1)
        assert retention.delete(settings, queues.store, connection, "sweep", 1, name)
        assert retention.delete(settings, queues.store, connection, "..", 1, None)
        assert outside.exists()
        assert settings.reconstructed.exists()


@pytest.mark.slow
def test_the_delete_command_shows_and_frees_the_space(
    queues: Queues, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = record_training(queues.store)
    weights = write(settings.trained / run_id / "0.keras", 2_000_000)
    assert main(["delete", run_id, "--dry-run"]) == 0
    assert "would free 2.0 MB" in capsys.readouterr().out
    assert weights.exists()
    assert main(["delete", run_id]) == 1, "no record worker runs"
    assert "it deletes them once it runs" in capsys.readouterr().err
    with workers(settings, "record"):
        wait_for(lambda: queues.store.run(run_id) is None, 60)
        other, third = record_training(queues.store), record_training(queues.store)
        assert main(["delete", other]) == 0
        ada = Queues(settings, user="ada@clinic.example")
        retention.ask_to_delete(ada, retention.deletable(ada, [third]))
        ada.remove_dataset("moles")
        wait_for(lambda: queues.messages_waiting() == 0 and queues.store.run(third) is None, 60)
    assert "1 runs deleted" in capsys.readouterr().out
    deeds = [json.loads(line) for line in (settings.logs / "worker-record.jsonl").read_text().splitlines()]
    assert [(line["by"], line.get("run_id"), line["message"]) for line in deeds if "by" in line] == [
        *((queues.user, each, f"{queues.user} deleted run {each}") for each in (run_id, other)),
        (ada.user, third, f"{ada.user} deleted run {third}"),
        (ada.user, None, f"{ada.user} removed the registration of data set moles"),
    ]
    assert not weights.exists()
    assert queues.store.run(other) is None
    with pytest.raises(SystemExit):
        main(["delete", "--older-than", "x"])


def array_of(dataset: Dataset, settings: Settings, days_old: float, size: int = 8) -> Path:
    folder = arrays.image_array(dataset, settings.arrays, size, size).folder
    moment = time.time() - days_old * DAY
    os.utime(folder / arrays.ABOUT_NAME, (moment, moment))
    return folder


def found_in(settings: Settings, queues: Queues | None, *kinds: str, days: float = 30.0) -> set[str]:
    return {each.path.name for each in retention.waste(settings, queues, kinds=kinds, days=days)}


def test_only_unused_arrays_are_removed(
    queues: Queues, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = load_dataset(write_images(tmp_path / "known", 2), name="known")
    queues.store.record_dataset(known, datetime.now(UTC))
    unknown = load_dataset(write_images(tmp_path / "unknown", 2, seed=1), name="unknown")
    recent, old = array_of(known, settings, 2), array_of(known, settings, 40, size=9)
    orphan, fresh_orphan = array_of(unknown, settings, 2), array_of(unknown, settings, 0, size=9)
    half = write(settings.arrays / "x.1.half" / "pixels.npy", 10, days_old=2).parent
    mapped = arrays.mapped(old / arrays.PIXELS_NAME)
    assert found_in(settings, queues, "arrays") == {orphan.name, half.name}
    assert not arrays.remove_free(old), "the array is mapped"
    assert isinstance(mapped, np.ndarray)
    del mapped
    found = retention.waste(settings, queues, kinds=["arrays"])
    assert {each.path for each in found} == {orphan, old, half}
    before = retention.size_of(settings.arrays)
    gone = list(retention.remove(found, "ada"))
    told = [record for record in caplog.records if record.name == "jobs.upkeep.retention"]
    assert {(record.by, record.path) for record in told} == {("ada", str(each.path)) for each in found}
    assert before - retention.size_of(settings.arrays) == sum(each.bytes for each in gone) > 0
    assert recent.exists()
    assert fresh_orphan.exists()
    assert arrays.open_array(known, recent, 8, 8) is not None


def test_checkpoints_are_kept_while_they_may_be_needed(queues: Queues, settings: Settings, connection: Redis) -> None:
    store = queues.store
    finished, running = record_training(store), record_training(store, ends=False)
    for run_id, days in ((finished, 2), (running, 90), ("train-unknown", 90)):
        write(settings.trained / run_id / "step-0" / "checkpoint.npz", 10, days_old=days)
    cancelled = record_training(store, ends=False)
    store.record_cancelled(cancelled, 1, datetime.now(UTC))
    place = write(settings.trained / cancelled / "step-0" / "checkpoint.npz", 10, days_old=20).parent
    found = retention.waste(settings, queues, kinds=["checkpoints"])
    assert [each.path.parent.name for each in found] == [finished]
    found = retention.waste(settings, queues, kinds=["checkpoints"], days=10)
    assert {each.path.parent.name for each in found} == {finished, cancelled}
    LiveRun(connection, cancelled).create(RunFacts(attempt=2, spec="{}"))
    found = retention.waste(settings, queues, kinds=["checkpoints"], days=10)
    assert {each.path.parent.name for each in found} == {finished}, "a retry has started"
    assert place.exists()


def test_folders_of_unknown_runs_are_removed_except_local_and_new_ones(queues: Queues, settings: Settings) -> None:
    known = record_training(queues.store)
    for name, days in ((known, 9), ("train-20260101-000000-aaaaaa", 9), ("local-abc", 9), ("prune-train-new", 0)):
        folder = write(settings.trained / name / "0.keras", 10, days_old=days).parent
        os.utime(folder, (time.time() - days * DAY,) * 2)
    assert found_in(settings, queues, "trained") == {"train-20260101-000000-aaaaaa"}


def test_reconstructions_are_removed_only_on_request(queues: Queues, settings: Settings, connection: Redis) -> None:
    made_dataset(queues.store, settings, "reconstruct-1")
    for name in ("forgotten", "being-written"):
        write(settings.reconstructed / name / "image.jpg", 10, days_old=3)
    spec = json.dumps(ReconstructSpec(dataset="moles", name="being-written", k=3).to_dict())
    LiveRun(connection, "reconstruct-2").create(RunFacts(attempt=1, spec=spec))
    assert found_in(settings, queues, *retention.BY_DEFAULT) == set()
    assert found_in(settings, queues, "reconstructed") == {"forgotten"}


def test_without_store_or_queue_no_run_counts_as_unknown(queues: Queues, settings: Settings) -> None:
    write(settings.trained / "train-unknown" / "0.keras", 10, days_old=9)
    away = Queues(Settings(settings.data_dir, settings.data_roots, given_redis_url="redis://127.0.0.1:9/0"))
    assert found_in(settings, away, "trained") == set()
    assert found_in(settings, None, "trained") == set()
    assert found_in(settings, queues, "trained") == {"train-unknown"}
    settings.database.unlink()
    assert found_in(settings, queues, "trained") == set(), "a worker's host has no store, so its runs are kept"


def test_logs_in_use_are_kept(queues: Queues, settings: Settings) -> None:
    write(settings.logs / "worker-svd.jsonl", 10)
    write(settings.logs / "worker-svd.jsonl.1", 10)
    write(settings.logs / "svd-9.log", 10, days_old=40)
    assert found_in(settings, None, "logs") == {"worker-svd.jsonl.1", "svd-9.log"}
    with (settings.data_dir / "launcher.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert found_in(settings, None, "logs") == {"worker-svd.jsonl.1"}


def test_the_prune_command_frees_the_announced_space(
    queues: Queues, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    write(settings.logs / "worker-svd.jsonl.2", 1_500_000)
    before = retention.disk_use(settings)["logs"]
    assert main(["prune", "--kinds", "logs", "--dry-run"]) == 0
    assert "would free 1.5 MB" in capsys.readouterr().out
    assert retention.disk_use(settings)["logs"] == before
    assert main(["prune", "--kinds", "logs"]) == 0
    assert "1.5 MB freed: 1 logs" in capsys.readouterr().out
    assert before - retention.disk_use(settings)["logs"] == 1_500_000
    assert main(["prune", "--kinds", "everything"]) == 1


def test_the_sizes_of_all_parts_sum_to_the_size_of_the_folder(queues: Queues, settings: Settings) -> None:
    write(settings.trained / "train-1" / "0.keras", 12345)
    write(settings.data_dir / "demo" / "image.png", 77)
    use = retention.disk_use(settings)
    assert sum(use.values()) == retention.size_of(settings.data_dir)
    assert use["weights and checkpoints"] == 12345
    assert use["store"] > 0
