"""Runs travel from one store to another: with everything that is theirs, each once, all or none."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from laboratory import ROOT, wait_for, workers
from recorded import START, conversion, latency, record_measured, record_reconstruction, record_training
from redis import Redis

from benchmarks.processes import Process
from core.compression.specs import DiagnosisSpec, ReconstructSpec, ResizeSpec, RivalsSpec, SweepSpec
from core.errors import DermSlimError, QueueUnavailable, SpecError, StoreError
from core.networks.architectures import NETWORKS
from core.networks.keras_models import build_model
from core.settings import Settings
from core.store import imports as store_imports
from core.store import migrations, snapshot
from core.store.check import TABLES
from core.store.file import empty_store
from core.store.measurements import Store
from core.store.upkeep import OF_RUNS, delete_run
from core.training import models
from core.training.results import EpochResult, FactoredResult
from core.training.specs import Rules
from jobs import predictions, verification
from jobs.__main__ import main
from jobs.connection import RECORD, connect, queue
from jobs.live_runs import LiveRun, active_runs
from jobs.queues import Queues
from jobs.upkeep import imports
from jobs.upkeep.imports import ImportRefused, import_here_or_there
from jobs.upkeep.snapshot import ALL, Snapshot, Wanted, take_snapshot

SPECS = (
    SweepSpec(dataset="ham", ks=(2, 4)),
    RivalsSpec(dataset="ham"),
    ResizeSpec(dataset="ham"),
    ReconstructSpec(dataset="ham", name="smaller"),
    DiagnosisSpec(dataset="ham", run="train-1"),
)
EVERYTHING = Wanted([ALL], logs=False, weights=True)
Rows = list[dict[str, Any]]


def fill(settings: Settings) -> Store:
    """Record a run of every kind, with rows in every table of runs, and weights of the first step."""
    store = Store(settings.database)
    record_reconstruction(store, "moles", "ham", "k=2")
    for spec in SPECS:
        record_measured(store, spec)
    sweep = record_measured(store, SweepSpec(dataset="moles", ks=(2,)))
    record_training(store, "lenet5", [70.0], images=2, sets=True, study="grid-1")
    pruned = record_training(store, accuracies=[70.0, 10.0], rules=Rules(factors=(50,)), images=2, sets=True)
    store.record_study({"study": "grid-1", "kind": "grid", "dataset": "ham", "spec": "{}", "submitted_at": START})
    store.record_study_status("grid-1", "finished", None, START)
    with store.transaction() as connection:
        connection.execute(
            "UPDATE runs SET dataset_fingerprint = (SELECT fingerprint FROM datasets) WHERE run_id = ?", [sweep]
        )
        connection.execute(
            "INSERT INTO verifications (run_id, image_id, variant, checked_at) VALUES (?, 'a', 'k=2', ?)",
            [sweep, START],
        )
        connection.execute("INSERT INTO run_logs VALUES (?, 1, 'first'), (?, 2, 'second')", [sweep, sweep])
        values = EpochResult(1, 1.0, 50.0, 50.0, 50.0, 1.0, 40.0, 40.0, 40.0, seconds=1.0, images_per_second=9.0)
        connection.execute("UPDATE runs SET status = 'running' WHERE run_id = ?", [pruned])
    store.record_epochs(pruned, 1, 0, [values], START)
    factored = FactoredResult(0, 99.0, {}, 9, 8, 36, 70.0, 100.0, {"test": {}}, {"a": "nevus"})
    store.record_svd_dense(pruned, 1, factored, START)
    store.record_training_ended(pruned, 1, None, START)
    store.record_conversion(pruned, 1, conversion(), "a worker", START)
    store.record_latencies(pruned, 1, [latency()], "a worker", START)
    folder = settings.trained / pruned
    folder.mkdir(parents=True)
    (folder / "0.keras").write_bytes(b"the weights")
    (folder / "about.json").write_text("{}")
    (folder / "step-1").mkdir()
    return store


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Give the place that runs come from; tests only read it."""
    place = tmp_path_factory.mktemp("imports")
    settings = Settings(place / "there", (place,))
    fill(settings)
    return settings


@pytest.fixture(scope="module")
def written(there: Settings) -> Path:
    """Give a snapshot of all of it; tests only read it."""
    folder = there.data_dir.with_name("written")
    take_snapshot(there, folder, EVERYTHING)
    return folder


@pytest.fixture
def changing(there: Settings, tmp_path: Path) -> Settings:
    """Give a copy of the place that a test may change."""
    shutil.copytree(there.data_dir, tmp_path / "there")
    return Settings(tmp_path / "there", (tmp_path,))


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return Settings(tmp_path / "here", (tmp_path,))


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Give a copy of the snapshot that a test may change."""
    return Path(shutil.copytree(written, tmp_path / "s"))


def tables_of_runs() -> list[str]:
    with empty_store() as empty:
        return [str(name) for (name,) in empty.execute(OF_RUNS).fetchall()]


def rows(store: Store, table: str, *without: str) -> Rows:
    found = store.rows(f"FROM {table}")
    kept = [{name: value for name, value in row.items() if name not in without} for row in found]
    return sorted(kept, key=lambda row: json.dumps(row, default=str, sort_keys=True))


def changed(folder: Path, **values: object) -> None:
    about = json.loads((folder / "snapshot.json").read_text())
    (folder / "snapshot.json").write_text(json.dumps({**about, **values}))


def run_of(settings: Settings, kind: str) -> str:
    return Store(settings.database).runs(kind)[0].id


def test_every_table_of_a_store_travels_with_its_runs_or_is_named_as_one_that_does_not() -> None:
    with empty_store() as empty:
        every = {str(name) for (name,) in empty.execute(TABLES).fetchall()}
    assert every == {*tables_of_runs(), *snapshot.WITH_RUNS}
    assert {*store_imports.PLACE, *store_imports.ADDED_LATER} <= set(tables_of_runs())


def test_runs_of_every_kind_arrive_with_equal_rows(there: Settings, here: Settings, folder: Path) -> None:
    found = import_here_or_there(here, folder)
    source, target = Store(there.database), Store(here.database)
    assert (len(found.new), found.there, found.under_way) == (8, (), ())
    for table in tables_of_runs():
        if table != "run_datasets":
            without = store_imports.PLACE.get(table, ())
            assert rows(target, table, *without) == rows(source, table, *without) != [], table
    assert rows(target, "studies") == rows(source, "studies") != []
    assert target.datasets().empty, "images do not travel"
    known = target.run_dataset(run_of(there, "svd-sweep"))
    assert known == {"layout": "plain", "source": "ham", "settings": "k=2", "images": 1, "left_out": 0, "bytes": 1}
    run = target.runs()[0]
    assert (run.origin_host, run.origin_store) == (os.uname().nodename, str(there.database))
    assert run.imported_at is not None
    assert found.rows == sum(len(rows(target, table)) for table in tables_of_runs())


def test_weights_arrive_with_their_path_here_and_others_name_their_host(here: Settings, folder: Path) -> None:
    import_here_or_there(here, folder)
    run_id = run_of(here, "prune-train")
    steps = Store(here.database).steps([run_id])
    assert steps["weights"].tolist() == [
        str(here.trained / run_id / "0.keras"),
        f"{os.uname().nodename}:/elsewhere/{run_id}/1.keras",
    ]
    assert (here.trained / run_id / "0.keras").read_bytes() == b"the weights"
    assert sorted(path.name for path in here.trained.rglob("*")) == [*("0.keras", "about.json"), run_id]


def test_imported_weights_predict_the_same(changing: Settings, here: Settings, tmp_path: Path) -> None:
    models.save_model(
        build_model(NETWORKS["lenet5"], 48, 64), changing.trained / run_of(changing, "prune-train") / "0.keras"
    )
    take_snapshot(changing, tmp_path / "s", EVERYTHING)
    import_here_or_there(here, tmp_path / "s")
    random = np.random.default_rng(1)
    given = {"image": random.integers(0, 256, (4, 48, 64, 3), dtype=np.uint8), "metadata": random.random((4, 3))}
    paths = [
        changing.trained / run_of(changing, "prune-train") / "0.keras",
        Path(Store(here.database).steps([run_of(here, "prune-train")])["weights"].iloc[0]),
    ]
    before, after = (models.load_model(path).predict(given, verbose=0) for path in paths)
    assert here.trained in paths[1].parents
    np.testing.assert_array_equal(after, before)


def test_importing_twice_changes_nothing_and_adds_weights_that_were_left_out(
    there: Settings, here: Settings, folder: Path, tmp_path: Path
) -> None:
    take_snapshot(there, tmp_path / "light", Wanted([ALL], logs=False))
    import_here_or_there(here, tmp_path / "light")
    before = {table: rows(Store(here.database), table, "weights") for table in tables_of_runs()}
    run_id = run_of(here, "prune-train")
    assert not (here.trained / run_id).exists()
    again = import_here_or_there(here, folder)
    assert (again.new, len(again.there), again.rows) == ((), 8, 0)
    assert {table: rows(Store(here.database), table, "weights") for table in tables_of_runs()} == before
    assert Store(here.database).steps([run_id])["weights"].iloc[0] == str(here.trained / run_id / "0.keras")
    assert import_here_or_there(here, folder).weights == ()


def test_chosen_runs_travel_alone_and_those_under_way_are_named(
    changing: Settings,
    here: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    running = record_training(Store(changing.database), ends=False)
    sweep = run_of(changing, "svd-sweep")
    monkeypatch.setenv("DATA_DIR", str(changing.data_dir))
    assert main(["snapshot", str(tmp_path / "s"), "--runs", sweep, running, "--without-logs"]) == 1
    assert f"Left out, because they have not ended: {running}." in capsys.readouterr().err
    assert main(["snapshot", str(tmp_path / "s"), "--runs", running, "--without-logs"]) == 1
    assert "Expected a run that has ended" in capsys.readouterr().err
    assert main(["snapshot", str(tmp_path / "s"), "--runs", "unknown", "--without-logs"]) == 1
    assert "Expected runs that are in the store, got unknown." in capsys.readouterr().err
    assert main(["snapshot", str(tmp_path / "s"), "--weights"]) == 1
    monkeypatch.setenv("DATA_DIR", str(here.data_dir))
    assert main(["import", str(tmp_path / "s"), "--dry-run"]) == 0
    assert f"{sweep}\tnew\n" in capsys.readouterr().out
    assert not here.database.exists()
    assert main(["import", str(tmp_path / "s")]) == 0
    assert "1 runs and 0 files of weights" in capsys.readouterr().out
    assert [run.id for run in Store(here.database).runs()] == [sweep]


def test_a_snapshot_of_the_whole_store_can_be_imported_too(changing: Settings, here: Settings, tmp_path: Path) -> None:
    running = record_training(Store(changing.database), ends=False)
    take_snapshot(changing, tmp_path / "s")
    found = import_here_or_there(here, tmp_path / "s")
    assert (len(found.new), found.under_way) == (8, (running,))
    assert Store(here.database).datasets().empty


def test_runs_of_several_stores_join_in_one_and_keep_where_they_ran(
    there: Settings, here: Settings, folder: Path, tmp_path: Path
) -> None:
    own = record_training(Store(here.database))
    import_here_or_there(here, folder)
    changed(folder, host="another")
    third = Settings(tmp_path / "third", (tmp_path,))
    take_snapshot(here, tmp_path / "joined", EVERYTHING)
    import_here_or_there(third, tmp_path / "joined")
    runs = {run.id: run for run in Store(third.database).runs()}
    assert len(runs) == 9
    assert runs[own].origin_store == str(here.database)
    assert {run.origin_store for run in runs.values()} == {str(here.database), str(there.database)}


def test_the_same_id_with_other_results_is_refused_and_nothing_is_imported(here: Settings, folder: Path) -> None:
    import_here_or_there(here, folder)
    store, run_id = Store(here.database), run_of(here, "svd-sweep")
    kept = run_of(here, "train")
    with store.transaction() as connection:
        connection.execute("UPDATE measurements SET psnr = 41 WHERE run_id = ?", [run_id])
    assert delete_run(store, kept, 1)
    with pytest.raises(ImportRefused, match=rf"got {run_id} with other results here. Nothing was imported"):
        import_here_or_there(here, folder)
    assert store.run(kept) is None
    assert delete_run(store, run_id, 1)
    assert set(import_here_or_there(here, folder).new) == {kept, run_id}


def test_a_deleted_import_leaves_no_row(here: Settings, folder: Path) -> None:
    import_here_or_there(here, folder)
    store = Store(here.database)
    for run in store.runs():
        assert delete_run(store, run.id, run.attempt)
    assert [table for table in (*tables_of_runs(), "studies") if rows(store, table)] == []


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "steps.parquet").write_bytes(b"x" * 100), "Expected steps.parquet as snapshot.json"),
        (lambda folder: (folder / "steps.parquet").unlink(), "Expected the file steps.parquet in .*, got none"),
        (lambda folder: next(folder.glob("trained/*/0.keras")).write_bytes(b"THE WEIGHTS"), "got other bytes"),
        (lambda folder: (folder / "snapshot.json").unlink(), "without snapshot.json"),
        (lambda folder: (folder / "snapshot.json").write_text("{"), "Expected snapshot.json of a snapshot"),
        (lambda folder: changed(folder, format=3), r"of format 2, got version \d+ and format 3 of DermSlim"),
        (lambda folder: changed(folder, format=1), "Write it again"),
        (lambda folder: changed(folder, migrations=["moods"], schema_version=99), "got version 99 .*Update DermSlim"),
        (lambda folder: changed(folder, rows="many"), "got rows: "),
        (lambda folder: changed(folder, files={"../x.keras": {"bytes": 1, "sha256": ""}}), "Expected only files of a"),
        (lambda folder: changed(folder, files={}), "Expected a file of each table"),
    ],
)  # fmt: skip
def test_a_damaged_incomplete_or_newer_snapshot_is_refused_in_a_sentence(
    here: Settings, folder: Path, damage: Any, message: str
) -> None:
    damage(folder)
    with pytest.raises(ImportRefused, match=message):
        import_here_or_there(here, folder)
    assert Store(here.database).runs() == []
    assert not list(here.trained.iterdir()) if here.trained.exists() else True


def rewritten(folder: Path, table: str, query: str) -> None:
    """Replace a table of a snapshot by a query on it, and its checksum with it."""
    path = folder / f"{table}.parquet"
    with duckdb.connect() as connection:
        rows = query.format(table=f"read_parquet('{path}')")
        connection.execute(f"COPY ({rows}) TO '{path}.new' (FORMAT parquet)")
    Path(f"{path}.new").replace(path)
    about = Snapshot.model_validate_json((folder / "snapshot.json").read_bytes())
    changed(folder, files={**about.files, path.name: imports.facts_of(path)})


def test_columns_that_this_version_does_not_have_are_refused(here: Settings, folder: Path) -> None:
    rewritten(folder, "steps", "SELECT *, 1 AS mood FROM {table}")
    with pytest.raises(StoreError, match=r"Expected the columns of version \d+, got also steps.mood \(INTEGER\)"):
        import_here_or_there(here, folder)
    rewritten(folder, "steps", "SELECT * EXCLUDE (mood, name) FROM {table}")
    with pytest.raises(StoreError, match=r"got none steps\.name"):
        import_here_or_there(here, folder)


def test_settings_that_this_version_does_not_know_are_refused(here: Settings, folder: Path) -> None:
    rewritten(folder, "runs", """SELECT * REPLACE ('{{"kind": "dream"}}' AS spec) FROM {table}""")
    with pytest.raises(ImportRefused, match="Expected runs that this version knows, got"):
        import_here_or_there(here, folder)


def test_a_snapshot_of_an_older_version_is_migrated(here: Settings, folder: Path) -> None:
    """As one that a release without imported runs would have written."""
    rewritten(folder, "runs", "SELECT * EXCLUDE (origin_host, origin_store, imported_at) FROM {table}")
    about = json.loads((folder / "snapshot.json").read_text())
    new = ("run_logs", "run_datasets", "conversions", "latencies", "svd_dense", "diagnoses")
    known = list(migrations.MIGRATIONS)
    changed(
        folder,
        migrations=known[: known.index("imported_runs")],
        rows={name: count for name, count in about["rows"].items() if name not in new},
        files={name: facts for name, facts in about["files"].items() if name.partition(".")[0] not in new},
    )
    assert len(import_here_or_there(here, folder).new) == 8


def test_a_failure_while_rows_are_added_leaves_neither_rows_nor_weights(
    here: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten(folder, "steps", "SELECT * REPLACE (NULL::VARCHAR AS name) FROM {table}")  # the store expects a name
    with pytest.raises(StoreError, match="NOT NULL constraint failed"):
        import_here_or_there(here, folder)
    assert Store(here.database).runs() == []
    assert list(here.trained.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from core.settings import Settings
from core.store import imports as store_imports
from jobs.upkeep.imports import import_here_or_there
before = store_imports._copy
def copy(source, target, query, parameters, table, only=""):
    rows = before(source, target, query, parameters, table, only)
    if table == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)
    return rows
store_imports._copy = copy
import_here_or_there(Settings(Path(sys.argv[1]), (Path("/"),)), Path(sys.argv[2]))
"""


@pytest.mark.parametrize("table", ["images", "steps", "studies"])
def test_an_import_that_is_killed_adds_nothing_and_the_next_one_adds_all(
    here: Settings, folder: Path, table: str
) -> None:
    command = [sys.executable, "-c", KILLED, str(here.data_dir), str(folder), table]
    killed = Process(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    assert killed.wait(60) == -signal.SIGKILL
    assert Store(here.database).runs() == []
    assert len(import_here_or_there(here, folder).new) == 8
    assert [path.name for path in here.trained.iterdir()] == [run_of(here, "prune-train")]


# -- with a queue ------------------------------------------------------------------------------------------------------


def test_logs_travel_and_stay_and_later_lines_follow_them(settings: Settings, here: Settings, tmp_path: Path) -> None:
    store = fill(settings)
    run_id = store.runs("train")[0].id
    with Redis.from_url(str(settings.redis_url)) as connection:
        LiveRun(connection, run_id).log("trained well")
        take_snapshot(settings, tmp_path / "s", Wanted([run_id]))
        LiveRun(connection, run_id).forget()
    joined = Settings(here.data_dir, here.data_roots, given_redis_url=settings.given_redis_url)
    import_here_or_there(joined, tmp_path / "s")
    assert [line.partition("Z ")[2] for line in Queues(joined).log(run_id)] == ["trained well"]
    with pytest.raises(QueueUnavailable, match="--without-logs leaves out the logs"):
        take_snapshot(Settings(settings.data_dir, settings.data_roots), tmp_path / "t", Wanted([run_id]))


def test_the_record_worker_imports_while_everything_runs_and_leaves_imported_runs_alone(
    settings: Settings, folder: Path
) -> None:
    store = Store(settings.database)
    with workers(settings, "record"):
        assert len(import_here_or_there(settings, folder).new) == 8
        (folder / "steps.parquet").write_bytes(b"")
        with pytest.raises(ImportRefused, match=r"Expected steps\.parquet as"):
            import_here_or_there(settings, folder)
        before = store.runs()
        with connect(settings) as connection:
            reconciling = queue(RECORD, connection).enqueue("jobs.record_worker.reconcile", result_ttl=60)
            wait_for(lambda: reconciling.get_status() == "finished", 20)
            assert active_runs(connection) == []
    assert store.runs() == before
    assert {run.status for run in before} == {"finished"}


def test_an_imported_run_says_what_it_needs_to_be_retried_checked_or_predicted_again(
    settings: Settings, there: Settings, tmp_path: Path
) -> None:
    take_snapshot(there, tmp_path / "light", Wanted([ALL], logs=False))
    import_here_or_there(settings, tmp_path / "light")
    queues, host = Queues(settings), os.uname().nodename
    sweep, pruned = run_of(settings, "svd-sweep"), run_of(settings, "prune-train")
    with pytest.raises(SpecError, match=f"which was imported from {host}. Retry it there, or submit a new one here"):
        queues.retry(sweep)
    with pytest.raises(SpecError, match=f"got none: {sweep} was imported from {host}, and images do not travel"):
        verification.submit(queues, sweep)
    with pytest.raises(SpecError, match=f"it was imported from {host} without them"):
        predictions.submit(queues, pruned)
    (settings.trained / pruned).mkdir(parents=True)
    with pytest.raises(SpecError, match="images do not travel"):
        predictions.submit(queues, pruned)
    with pytest.raises(DermSlimError, match="Register the same images here"):
        queues.dataset_of(queues.store.runs()[0])


def test_status_names_where_an_imported_run_comes_from(
    settings: Settings,
    there: Settings,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import_here_or_there(settings, folder)
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    assert main(["status", run_of(settings, "svd-sweep")]) == 0
    assert f"UTC from {os.uname().nodename}, {there.database}" in capsys.readouterr().out


def test_an_identical_run_that_was_imported_is_not_measured_again_except_a_reconstruction(
    here: Settings, folder: Path
) -> None:
    import_here_or_there(here, folder)
    store = Store(here.database)
    hashes = {run.kind: run.spec_hash for run in store.runs()}
    assert store.finished_run(hashes["rivals"]) == run_of(here, "rivals")
    assert store.finished_run(hashes["reconstruct"]) is None


def test_a_snapshot_of_runs_replaces_only_a_snapshot(there: Settings, folder: Path) -> None:
    take_snapshot(there, folder)
    assert not (folder / "trained").exists()
    take_snapshot(there, folder, EVERYTHING)
    shutil.copy(folder / "snapshot.json", folder / "trained" / "mine.txt")
    with pytest.raises(DermSlimError, match=r"which holds trained/mine\.txt"):
        take_snapshot(there, folder)
