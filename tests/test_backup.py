"""Backups of a store and a queue in use, restored in another folder."""

from __future__ import annotations

import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import psutil
import pyarrow as pa
import pytest
from laboratory import settled, wait_for, workers, write_images, write_lesions
from recorded import older_store, record_training
from redis import Redis
from test_training_jobs import COMMON, registered

from core.compression.specs import SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.errors import QueueUnavailable, StoreBusy, StoreDamaged
from core.settings import Settings
from core.store import file as store_file
from core.store import migrations
from core.store import upkeep as store_upkeep
from core.store.check import read_in_full
from core.store.measurements import Store
from core.store.migrations import VERSION
from core.training.specs import TrainSpec
from core.training.steps import STEP_FIGURES
from jobs.connection import SVD, queue
from jobs.live_runs import LiveRun, RunFacts
from jobs.messages import DatasetRegistered, send
from jobs.queues import Queues
from jobs.server import running_server
from jobs.upkeep import backup, queue_copy
from jobs.upkeep.backup import BackupError
from jobs.upkeep.queue_copy import QueueCopyError


@pytest.fixture
def connection(valkey_url: str) -> Iterator[Redis]:
    with Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
def another(tmp_path: Path) -> Settings:
    """Give settings of an empty data folder with its own server, which does not run."""
    return Settings(tmp_path / "another", (tmp_path,))


def measured_dataset(store: Store, folder: Path) -> Dataset:
    dataset = load_dataset(write_images(folder, 3), name="moles")
    store.record_dataset(dataset, datetime.now(UTC))
    return dataset


def contents(connection: Redis) -> dict[str, object]:
    """Return the content of every key, independent of its order in the server."""
    readers = {
        b"string": connection.get,
        b"hash": connection.hgetall,
        b"list": lambda key: connection.lrange(key, 0, -1),
        b"set": connection.smembers,
        b"zset": lambda key: connection.zrange(key, 0, -1, withscores=True),
    }
    return {key: readers[connection.type(key)](key) for key in queue_copy.our_keys(connection)}


def test_a_restore_brings_back_the_store_the_queue_and_the_networks(
    settings: Settings, connection: Redis, another: Settings, tmp_path: Path
) -> None:
    store = Store(settings.database)
    run_id = record_training(store, accuracies=(70.0,))
    dataset = measured_dataset(store, tmp_path / "moles")
    sweep = Queues(settings, connection).submit(SweepSpec(dataset="moles", ks=(2,)), dataset).run_id
    connection.set("dermslim:short", "lived", px=600_000)
    connection.set("of-others", "stays here")
    (settings.data_dir / "networks").mkdir()
    (settings.data_dir / "networks" / "mine.yaml").write_text("title: mine\n")
    before = contents(connection)
    path = tmp_path / "all.tar.zst"
    made = backup.back_up(settings, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.rows == read_in_full(store)
    backup.restore(another, path)
    copy = Store(another.database)
    assert copy.runs() == store.runs()
    assert copy.steps([run_id]).equals(store.steps([run_id]))
    assert (another.data_dir / "networks" / "mine.yaml").read_text() == "title: mine\n"
    with running_server(another), Redis.from_url(str(another.redis_url)) as there:
        assert contents(there) == before
        assert 0 < there.pttl("dermslim:short") <= 600_000
        assert there.get("of-others") is None
        assert LiveRun(there, sweep).facts().dataset == "moles"
        assert queue(SVD, there).count == queue(SVD, connection).count > 0


@pytest.mark.parametrize("suffix", backup.SUFFIXES)
def test_each_archive_format_contains_a_manifest_with_every_hash(
    settings: Settings, connection: Redis, another: Settings, tmp_path: Path, suffix: str
) -> None:
    store = Store(settings.database)
    run_id = record_training(store)
    folder = settings.trained / run_id
    (folder / "step-0").mkdir(parents=True)
    (folder / "0.keras").write_bytes(b"weights" * 1000)
    (folder / "step-0" / "checkpoint.npz").write_bytes(b"half-way")
    path = tmp_path / f"b{suffix}"
    backup.back_up(settings, path, weights=True)
    compression = {".tar.gz": "gzip", ".tar.zst": "zstd"}.get(suffix)
    with pa.input_stream(str(path), compression=compression) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        names = [member.name for member in tar]
    assert names[-1] == backup.MANIFEST
    assert f"trained/{run_id}/0.keras" in names
    assert not any("checkpoint" in name for name in names)
    backup.restore(another, path, queue=False)
    assert (another.trained / run_id / "0.keras").read_bytes() == b"weights" * 1000


def test_waiting_messages_are_neither_lost_nor_written_twice(
    settings: Settings, connection: Redis, another: Settings, tmp_path: Path
) -> None:
    dataset = load_dataset(write_images(tmp_path / "moles", 3), name="moles")
    Store(settings.database).migrate()
    send(connection, DatasetRegistered(values=dataset))
    backup.back_up(settings, tmp_path / "b.tar")
    backup.restore(another, tmp_path / "b.tar")
    assert len(Store(another.database).datasets()) == 0
    with running_server(another):
        with workers(another, "record"):
            queues = Queues(another)
            wait_for(lambda: queues.messages_waiting() == 0, 60)
        assert queues.store.dataset("moles") == dataset


def test_a_backup_includes_the_write_ahead_log_of_a_killed_writer(settings: Settings, tmp_path: Path) -> None:
    store = Store(settings.database)
    record_training(store)
    connection = duckdb.connect(settings.database)  # a writer that is killed before its checkpoint
    connection.execute("SET checkpoint_threshold = '1 GB'")
    connection.execute("UPDATE runs SET error = 'in the log'")
    folder = tmp_path / "as-it-was-left"
    folder.mkdir()
    for path in settings.data_dir.glob("dermslim.duckdb*"):
        (folder / path.name).write_bytes(path.read_bytes())
    connection.close()
    left = Settings(folder, (tmp_path,))
    assert left.database.with_name("dermslim.duckdb.wal").exists()
    backup.back_up(left, tmp_path / "b.tar", queue=False)
    into = Settings(tmp_path / "into", (tmp_path,))
    backup.restore(into, tmp_path / "b.tar")
    assert [run.error for run in Store(into.database).runs()] == ["in the log"]


def test_a_changed_byte_is_detected_and_nothing_is_restored(
    settings: Settings, connection: Redis, another: Settings, tmp_path: Path
) -> None:
    record_training(Store(settings.database))
    path = tmp_path / "b.tar"
    backup.back_up(settings, path)
    content = bytearray(path.read_bytes())
    content[content.index(b"dermslim.duckdb") + 8000] ^= 1
    path.write_bytes(content)
    with pytest.raises(BackupError, match=r"files of the manifest, got differences in store/dermslim.duckdb"):
        backup.restore(another, path)
    assert not another.database.exists()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BackupError, match=r"Expected a whole backup|has none or ends before it"):
        backup.restore(another, path)


def test_a_member_with_a_path_outside_its_folder_is_refused(another: Settings, tmp_path: Path) -> None:
    path = tmp_path / "b.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("networks/../../outside.yaml"))
    with pytest.raises(BackupError, match=r"Expected only files of a backup, got networks/\.\./\.\./outside\.yaml"):
        backup.restore(another, path)


def test_existing_data_are_replaced_only_with_force(
    settings: Settings, connection: Redis, another: Settings, tmp_path: Path
) -> None:
    record_training(Store(settings.database))
    LiveRun(connection, "r1").create(RunFacts(attempt=1))
    backup.back_up(settings, tmp_path / "b.tar")
    with pytest.raises(BackupError, match=r"Expected no store at .*, got one. --force replaces it"):
        backup.restore(settings, tmp_path / "b.tar")
    same_server = replace(another, given_redis_url=settings.given_redis_url)
    with pytest.raises(BackupError, match="Expected an empty queue, got 2 keys"):
        backup.restore(same_server, tmp_path / "b.tar")
    LiveRun(connection, "r2").create(RunFacts(attempt=1))
    backup.restore(settings, tmp_path / "b.tar", force=True)
    assert LiveRun(connection, "r1").facts() == RunFacts(attempt=1)
    assert LiveRun(connection, "r2").facts() is None
    with pytest.raises(BackupError, match="Expected a new file"):
        backup.back_up(settings, tmp_path / "b.tar")


def test_nothing_is_restored_while_a_record_worker_runs(
    settings: Settings, connection: Redis, another: Settings, tmp_path: Path
) -> None:
    Store(settings.database).migrate()
    backup.back_up(settings, tmp_path / "b.tar")
    running = replace(another, given_redis_url=settings.given_redis_url)
    with workers(running, "record"):
        with pytest.raises(BackupError, match=r"Expected nothing to run on .*, got a record worker"):
            backup.restore(another, tmp_path / "b.tar", force=True)
        elsewhere = replace(running, data_dir=tmp_path / "elsewhere")
        with pytest.raises(BackupError, match="Expected no worker on the target's queue, got record-"):
            backup.restore(elsewhere, tmp_path / "b.tar", force=True)


def test_restoring_an_older_store_migrates_it(
    settings: Settings, another: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_store(settings.database, 1)
    with monkeypatch.context() as older_release:
        older_release.setattr(migrations, "MIGRATIONS", {"measuring_runs": migrations.measuring_runs})
        older_release.setattr(store_file, "VERSION", 1)
        backup.back_up(settings, tmp_path / "b.tar", queue=False)
    backup.restore(another, tmp_path / "b.tar")
    assert Store(another.database).schema_version() == VERSION


def test_restored_paths_below_the_old_data_folder_point_to_the_new_one(
    settings: Settings, connection: Redis, another: Settings, tmp_path: Path
) -> None:
    store = Store(settings.database)
    made = load_dataset(write_images(settings.reconstructed / "made", 2), name="made")
    store.record_dataset(made, datetime.now(UTC))
    outside = measured_dataset(store, tmp_path / "moles")
    run_id = Queues(settings, connection).submit(SweepSpec(dataset="made", ks=(2,)), made).run_id
    backup.back_up(settings, tmp_path / "b.tar.gz", reconstructed=True)
    backup.restore(another, tmp_path / "b.tar.gz")
    roots = dict(Store(another.database).datasets()[["name", "root"]].itertuples(index=False))
    assert roots == {"made": str(another.reconstructed / "made"), "moles": str(outside.root)}
    with running_server(another), Redis.from_url(str(another.redis_url)) as there:
        assert queue(SVD, there).get_jobs()
        facts = LiveRun(there, run_id).facts()
        assert facts is not None
        assert facts.root == str(another.reconstructed / "made")


def test_the_store_is_copied_between_two_transactions(settings: Settings, connection: Redis, tmp_path: Path) -> None:
    store = Store(settings.database)
    store.migrate()
    inside, go_on = threading.Event(), threading.Event()

    def write() -> None:
        with store.transaction() as writing:
            writing.execute("INSERT INTO studies (study, kind, dataset, spec, status, submitted_at) VALUES "
                            "('s', 'grid', 'd', '{}', 'running', now())")  # fmt: skip
            inside.set()
            go_on.wait(60)

    writer = threading.Thread(target=write)
    writer.start()
    assert inside.wait(60)
    with pytest.raises(StoreBusy), store_upkeep.held_still(Store(settings.database, timeout=0.1)):
        pass
    threading.Timer(0.3, go_on.set).start()
    made = backup.back_up(settings, tmp_path / "b.tar")
    writer.join()
    assert made.rows["studies"] == 1


def test_without_a_queue_server_everything_else_can_be_backed_up(settings: Settings, tmp_path: Path) -> None:
    Store(settings.database).migrate()
    alone = replace(settings, given_redis_url="redis://127.0.0.1:9/0")
    with pytest.raises(QueueUnavailable, match="--without-queue leaves the queue out"):
        backup.back_up(alone, tmp_path / "b.tar")
    assert backup.last_backup(alone) is None
    assert backup.back_up(alone, tmp_path / "b.tar", queue=False).keys is None
    assert list(tmp_path.glob(".backup-*")) == []
    last = backup.last_backup(alone)
    assert last is not None
    assert last["bytes"] == (tmp_path / "b.tar").stat().st_size


def test_a_stopped_stack_is_backed_up_with_its_queue(another: Settings, tmp_path: Path) -> None:
    record_training(Store(another.database))
    assert backup.back_up(another, tmp_path / "none.tar").keys is None, "no queue existed"
    with running_server(another), Redis.from_url(str(another.redis_url)) as there:
        LiveRun(there, "r1").create(RunFacts(attempt=1))
        running = contents(there)
    assert backup.back_up(another, tmp_path / "b.tar").keys == len(running)
    assert another.redis_url is None, "the command stops the server again"
    into = Settings(tmp_path / "into", (tmp_path,))
    assert backup.rehearse(into, tmp_path / "b.tar").keys == len(running)
    assert not into.data_dir.exists()
    backup.restore(into, tmp_path / "b.tar")
    with running_server(into), Redis.from_url(str(into.redis_url)) as there:
        assert contents(there) == running


def test_a_damaged_store_is_not_backed_up(settings: Settings, tmp_path: Path) -> None:
    record_training(Store(settings.database))
    whole = settings.database.read_bytes()
    for changed in (whole[:-1_000_000], whole[:100_000] + bytes(len(whole) - 100_000), b"text"):
        settings.database.write_bytes(changed)
        with pytest.raises(StoreDamaged, match=r"dermslim\.duckdb"):
            backup.back_up(settings, tmp_path / "b.tar", queue=False)
        assert not list(tmp_path.glob("*.tar"))
    assert backup.last_backup(settings) is None


def test_a_queue_that_cannot_be_restored_leaves_the_existing_queue_unchanged(
    settings: Settings, connection: Redis, tmp_path: Path
) -> None:
    record_training(Store(settings.database))
    LiveRun(connection, "r1").create(RunFacts(attempt=1))
    connection.set("rq:job:strange", "no job")
    backup.back_up(settings, tmp_path / "b.tar")
    connection.delete("rq:job:strange")
    before = contents(connection)
    with pytest.raises(QueueCopyError, match="Expected the server to accept the copied queue"):
        backup.restore(settings, tmp_path / "b.tar", force=True)
    assert contents(connection) == before
    assert len(Store(settings.database).runs()) == 1


@contextmanager
def suspended(worker: subprocess.Popen[bytes]) -> Iterator[None]:
    """Suspend a worker and the process of its job inside the block."""
    family = [psutil.Process(worker.pid)]
    try:
        family[0].suspend()  # first, so that it starts no new job
        for child in family[0].children():
            with suppress(psutil.NoSuchProcess):
                child.suspend()
                family.append(child)
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_backup_made_under_load_continues_elsewhere_with_the_same_results(
    settings: Settings, connection: Redis, another: Settings, tmp_path: Path
) -> None:
    queues = Queues(settings)
    epochs, images = 40, 60
    spec = TrainSpec(dataset="lesions", **{**COMMON, "training": COMMON["training"].replace(epochs=epochs)})
    moles = write_images(tmp_path / "moles", images, height=150, width=200)
    lesions = write_lesions(tmp_path / "lesions")
    with workers(settings, "record", "svd", "train") as (_, _, trainer):
        sweep_data, train_data = registered(queues, moles), registered(queues, lesions)
        training = queues.submit(spec, train_data).run_id
        wait_for(lambda: ((state := queues.run(training)) and state.live.epoch) or 0, 120)
        with suspended(trainer):  # otherwise it may have finished the training by then
            sweep = queues.submit(SweepSpec(dataset="moles", ks=(5, 20, 60, 100)), sweep_data).run_id
            wait_for(lambda: (state := queues.run(sweep)) is not None and state.done >= 1, 120)
        backup.back_up(settings, tmp_path / "busy.tar.zst")
        before = {state.id: state.status for state in queues.runs()}
        for run_id in (sweep, training):
            wait_for(lambda run_id=run_id: (state := queues.run(run_id)) is not None and state.ended, 200)
        wait_for(lambda: queues.messages_waiting() == 0, 60)
    assert set(before.values()) == {"running"}
    restored = backup.restore(another, tmp_path / "busy.tar.zst")
    assert restored.rows["epochs"] < epochs
    again = Queues(another)
    with running_server(another):
        with workers(another, "record", "svd", "train"):
            for run_id in (sweep, training):
                wait_for(lambda run_id=run_id: (state := again.run(run_id)) is not None and state.ended, 200)
            wait_for(lambda: again.messages_waiting() == 0, 60)
            assert [run.status for run in again.store.runs()] == ["finished", "finished"], again.log(sweep)
        with Redis.from_url(str(another.redis_url)) as there:
            assert there.llen("dermslim:rejected") == 0
    rows = again.store.measurements(sweep)
    assert len(rows) == images * 4
    assert not rows.duplicated(["image_id", "variant"]).any()
    assert rows.equals(queues.store.measurements(sweep))
    trained = again.store.epochs([training])
    assert trained["epoch"].tolist() == list(range(1, epochs + 1))
    assert settled(trained).equals(settled(queues.store.epochs([training])))
    columns = [*STEP_FIGURES, "status", "accepted", "epochs", "kept_epoch", "parameters", "classification"]
    assert again.store.steps([training])[columns].equals(queues.store.steps([training])[columns])
