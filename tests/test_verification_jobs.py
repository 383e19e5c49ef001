"""Checks of runs by real workers: queued after a run or on request, and deleted with the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from laboratory import suspended_job, wait_for, workers, write_images
from recorded import START, new_run, older_store
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from core.compression.image_results import Chunk
from core.compression.measure import measure
from core.compression.results import run_results
from core.compression.specs import SPECS, MeasuringSpec, SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.errors import SpecError
from core.settings import Settings
from core.store.measurements import Store
from core.store.migrations import VERSION
from jobs import verification
from jobs.__main__ import main
from jobs.later_jobs import CHECK, under_way
from jobs.live_runs import LiveRun
from jobs.queues import Queues
from jobs.upkeep import retention


@pytest.fixture(scope="module")
def lab(valkey_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Queues]:
    folder = tmp_path_factory.mktemp("checks")
    settings = Settings(folder / "data", (folder,), given_redis_url=valkey_server.replace("?db=0", "?db=5"))
    settings.data_dir.mkdir()
    with workers(settings, "record", "svd", "svd"):
        yield Queues(settings)


@pytest.fixture
def command(lab: Queues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(lab.settings.data_dir))
    monkeypatch.setenv("DATA_ROOTS", str(lab.settings.data_roots[0]))
    monkeypatch.setenv("REDIS_URL", str(lab.settings.redis_url))


def registered(queues: Queues, folder: Path) -> Dataset:
    dataset = queues.resolve(str(folder))
    queues.register(dataset)
    wait_for(lambda: queues.store.dataset(dataset.name) == dataset, 60)
    return dataset


def finished(queues: Queues, spec: MeasuringSpec, dataset: Dataset) -> str:
    run_id = queues.submit(spec, dataset).run_id
    wait_for(lambda: (state := queues.run(run_id)) is not None and state.status == "finished", 120)
    return run_id


def checked(queues: Queues, run_id: str) -> list[str]:
    wait_for(lambda: queues.store.verification(run_id), 120)
    found = queues.store.verification(run_id)
    assert found is not None
    return sorted(set(found.rows["image_id"]))


def check_begun(queues: Queues, run_id: str) -> bool:
    with queues.connected() as connection:
        checks = [job_id for job_id in LiveRun(connection, run_id).job_ids() if "--check-" in job_id]
        jobs = Job.fetch_many(checks, connection=connection, serializer=JSONSerializer)
        return any(job is not None and job.get_status() == JobStatus.STARTED for job in jobs)


def falsify(store: Store, run_id: str, image: str, variant: str, metric: str) -> None:
    with store.transaction() as connection:
        row = "run_id = ? AND image_id = ? AND variant = ?"
        connection.execute(f"UPDATE measurements SET {metric} = {metric} * 1.01 WHERE {row}", [run_id, image, variant])  # noqa: S608


@pytest.mark.parametrize("kind", ["svd-sweep", "rivals", "resize-study"])
def test_a_finished_run_is_checked_with_two_of_its_images(lab: Queues, kind: str) -> None:
    dataset = registered(lab, write_images(lab.settings.data_roots[0] / f"moles-{kind}", 5))
    further = {"svd-sweep": {"ks": (3, 20)}, "rivals": {"rivals": (("jpeg", 60), ("png", None))},
               "resize-study": {"sizes": ((20, 30), (9, 9)), "k": 5}}[kind]  # fmt: skip
    run_id = finished(lab, SPECS[kind](dataset=dataset.name, **further), dataset)
    ended = lab.store.run(run_id)
    assert len(checked(lab, run_id)) == 2
    found = lab.store.verification(run_id)
    assert found is not None
    assert found.agrees
    assert "4 of 4 rows agree" in found.sentence
    assert lab.store.run(run_id) == ended  # the check does not change the run


def test_the_verify_command_reports_a_wrong_value_in_the_store(
    lab: Queues, command: None, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = registered(lab, write_images(lab.settings.data_roots[0] / "moles-wrong", 6, seed=3))
    run_id = finished(lab, SweepSpec(dataset=dataset.name, ks=(3, 20)), dataset)
    images = checked(lab, run_id)
    assert main(["verify", run_id]) == 0
    assert "4 of 4 rows agree" in capsys.readouterr().out
    other = next(each.image_id for each in dataset.records if each.image_id not in images)
    falsify(lab.store, run_id, other, "k=20", "ssim")
    assert main(["verify", run_id]) == 0  # the same two images, whose values are correct
    capsys.readouterr()
    assert main(["verify", run_id, "--images", "6"]) == 1
    said = capsys.readouterr().out
    assert "11 of 12 rows agree" in said
    assert other in said
    assert "ssim" in said
    assert main(["verify", run_id, "--images", "6", "--local"]) == 1
    assert capsys.readouterr().out == said
    assert main(["status", run_id]) == 0
    assert "11 of 12 rows agree" in capsys.readouterr().out.splitlines()[1]
    assert main(["status", "nothing"]) == 1
    found = lab.store.verification(run_id)
    assert found is not None
    assert found.differing[["image_id", "variant", "metric"]].to_numpy().tolist() == [[other, "k=20", "ssim"]]


def test_a_value_that_changes_after_the_check_is_reported_without_a_new_check(lab: Queues) -> None:
    dataset = registered(lab, write_images(lab.settings.data_roots[0] / "moles-later", 2, seed=4))
    run_id = finished(lab, SweepSpec(dataset=dataset.name, ks=(3,)), dataset)
    image = checked(lab, run_id)[0]
    falsify(lab.store, run_id, image, "k=3", "mse_high")
    found = lab.store.verification(run_id)
    assert found is not None
    assert found.differing["metric"].tolist() == ["mse_high"]


def test_a_check_is_deleted_with_its_run(lab: Queues) -> None:
    dataset = registered(lab, write_images(lab.settings.data_roots[0] / "moles-deleted", 2, seed=5))
    run_id = finished(lab, SweepSpec(dataset=dataset.name, ks=(3,)), dataset)
    checked(lab, run_id)
    with lab.connected() as connection:
        wait_for(lambda: not under_way(connection, CHECK, run_id), 60)
    retention.ask_to_delete(lab, retention.deletable(lab, [run_id]))
    wait_for(lambda: lab.store.run(run_id) is None, 60)
    assert lab.store.read("SELECT count(*) AS n FROM verifications WHERE run_id = ?", [run_id])["n"].iloc[0] == 0


def test_runs_that_cannot_be_checked_are_refused_with_the_reason(lab: Queues) -> None:
    folder = write_images(lab.settings.data_roots[0] / "moles-refused", 2, seed=6)
    dataset = registered(lab, folder)
    run_id = finished(lab, SweepSpec(dataset=dataset.name, ks=(3,)), dataset)
    checked(lab, run_id)
    with pytest.raises(SpecError, match="Expected a measuring run that is in the store, got other"):
        verification.submit(lab, "other")
    with pytest.raises(SpecError, match=r"Expected at least 1 image, got 0"):
        verification.submit(lab, run_id, 0)
    write_images(folder, 3, seed=7)
    registered(lab, folder)
    with pytest.raises(SpecError, match="got a changed one"):
        verification.submit(lab, run_id)
    lab.remove_dataset(dataset.name)
    wait_for(lambda: lab.store.dataset(dataset.name) is None, 60)
    with pytest.raises(SpecError, match="to be registered, got none"):
        verification.submit(lab, run_id)


def test_a_missing_image_is_reported_and_the_run_stays_finished(lab: Queues) -> None:
    folder = write_images(lab.settings.data_roots[0] / "moles-gone", 2, seed=8)
    dataset = registered(lab, folder)
    run_id = finished(lab, SweepSpec(dataset=dataset.name, ks=(3,)), dataset)
    checked(lab, run_id)
    (folder / "mole001.jpg").unlink()
    verification.submit(lab, run_id)
    wait_for(lambda: (found := lab.store.verification(run_id)) is not None and found.reasons, 60)
    found = lab.store.verification(run_id)
    assert found is not None
    assert "1 of 1 rows agree" in found.sentence
    assert "does not exist" in found.sentence
    run = lab.store.run(run_id)
    assert run is not None
    assert (run.status, run.failed) == ("finished", 0)


def test_a_check_whose_process_dies_is_started_again(settings: Settings) -> None:
    folder = write_images(settings.data_roots[1] / "moles", 2, height=450, width=600)
    queues = Queues(settings)
    with workers(settings, "record", "svd") as started:
        dataset = registered(queues, folder)
        run_id = queues.submit(SweepSpec(dataset=dataset.name), dataset).run_id
        wait_for(lambda: (state := queues.run(run_id)) is not None and state.status == "finished", 120)
        wait_for(lambda: check_begun(queues, run_id), 60)
        suspended_job(started[1]).kill()
        assert queues.store.verification(run_id) is None
        assert len(checked(queues, run_id)) == 2
    found = queues.store.verification(run_id)
    assert found is not None
    assert "12 of 12 rows agree" in found.sentence


def test_a_run_of_an_older_store_can_be_checked(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = load_dataset(write_images(tmp_path / "moles", 3))
    spec = SweepSpec(dataset=dataset.name, ks=(3, 20))
    newer = Store(tmp_path / "newer.duckdb")
    newer.record_dataset(dataset, START)
    run_id = record_run(newer, spec, dataset)
    older_store(settings.database, 3)
    with duckdb.connect(settings.database) as connection:
        connection.execute(f"ATTACH '{newer.path}' AS newer (READ_ONLY)")
        for table in ("datasets", "images", "statistics", "storage", "optimal_k"):
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * FROM newer.{table}")  # noqa: S608
        later_columns = {
            "runs": "(origin_host, origin_store, imported_at)",
            "dataset_images": "split",
            "measurements": "decoded_crc32",
        }
        for table, later in later_columns.items():
            connection.execute(f"INSERT INTO {table} BY NAME SELECT * EXCLUDE {later} FROM newer.{table}")  # noqa: S608
    queues = Queues(settings)
    for name, value in (("DATA_DIR", settings.data_dir), ("DATA_ROOTS", tmp_path), ("REDIS_URL", settings.redis_url)):
        monkeypatch.setenv(name, str(value))
    with workers(settings, "record", "svd"):
        wait_for(lambda: settings.database.exists() and Store(settings.database).schema_version() == VERSION, 60)
        assert queues.store.verification(run_id) is None
        falsify(queues.store, run_id, "mole001", "k=3", "rmse")
        assert main(["verify", run_id, "--images", "3"]) == 1
    said = capsys.readouterr().out
    assert "5 of 6 rows agree" in said
    assert "mole001" in said


def record_run(store: Store, spec: MeasuringSpec, dataset: Dataset) -> str:
    store.record_run(
        new_run(
            "svd-sweep-older", spec, dataset=dataset.name, fingerprint=dataset.fingerprint, total=len(dataset.records)
        )
    )
    results = [measure(record, dataset.root, spec) for record in dataset.records]
    store.record_images([Chunk("svd-sweep-older", 1, "svd-1", results)])
    found = run_results(spec, store.measurements("svd-sweep-older"), len(results))
    store.record_results("svd-sweep-older", found, START)
    return "svd-sweep-older"
