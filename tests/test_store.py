"""The store: complete rows are written and read, each once even if it is delivered several times."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from recorded import older_store

from benchmarks.processes import Process
from core.compression.image_results import MEASUREMENT_COLUMNS, METRIC_COLUMNS, Chunk, ImageResult
from core.compression.results import run_results
from core.compression.specs import SweepSpec
from core.data.datasets import Dataset, DatasetImage
from core.data.metadata import LeftOut
from core.errors import StoreBusy, StoreError
from core.runs import Run, Status
from core.store.file import insert
from core.store.measurements import Store
from core.store.migrations import MIGRATIONS, VERSION
from jobs import messages
from jobs import record_worker as recorder

NOW = datetime(2026, 11, 22, 21, 30, tzinfo=UTC)
SPEC = SweepSpec(dataset="moles", ks=(2, 4), codec="png")
RUN = Run(
    id="svd-sweep-1", kind="svd-sweep", dataset="moles", fingerprint="f1", synthetic=False, spec_json="{}",
    spec_hash="h1", total=2, submitted_at=NOW, submitted_by="ann@lab",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.duckdb", timeout=1.0)


def dataset() -> Dataset:
    records = (
        DatasetImage("a", "a.jpg", 100, 4, 5, "0a", "melanoma", "mel", "L1", 50.0, "male", "back"),
        DatasetImage("b", "sub/b.jpg", 200, 4, 5, "0b", None, None, None, None, None, None),
    )
    return Dataset("moles", Path("/images/moles"), "ham10000", records, (LeftOut("c.jpg", "truncated"),))


def result(image_id: str, *, psnr: float | None = 40.0, status: str = "measured") -> ImageResult:
    if status == "failed":
        return ImageResult(image_id, "failed", "no such file", 0.1)
    rows = tuple(
        {
            **dict.fromkeys(MEASUREMENT_COLUMNS),
            **dict.fromkeys(METRIC_COLUMNS, 0.5 + k),
            "image_id": image_id,
            "variant": f"k={k}",
            "k": k,
            "codec": "png",
            "height": 4,
            "width": 5,
            "source_bytes": 100,
            "stored_bytes": 10 * k,
            "control_bytes": 50,
            "factor_bytes": 7,
            "psnr": psnr,
        }
        for k in (2, 4)
    )
    return ImageResult(image_id, "measured", None, 0.5, rows)


def test_a_missing_file_is_an_empty_store(store: Store) -> None:
    assert store.runs() == []
    assert store.datasets().empty
    assert store.run("none") is None
    assert store.schema_version() == 0
    assert not store.path.exists()


def test_the_measurements_table_has_the_columns_that_measuring_gives(store: Store) -> None:
    store.migrate()
    assert tuple(store.measurements("none").columns) == ("run_id", *MEASUREMENT_COLUMNS)


def test_a_registered_data_set_can_be_read_back(store: Store) -> None:
    store.record_dataset(dataset(), NOW)
    assert store.dataset("moles") == dataset()
    row = store.datasets().iloc[0]
    assert (row["images"], row["left_out"], row["bytes"]) == (2, 1, 300)


def test_registering_again_replaces_the_earlier_registration(store: Store) -> None:
    store.record_dataset(dataset(), NOW)
    smaller = replace(dataset(), records=dataset().records[:1], left_out=())
    store.record_dataset(smaller, NOW)
    assert store.dataset("moles") == smaller
    assert len(store.datasets()) == 1


def test_removing_a_data_set_keeps_its_runs(store: Store) -> None:
    store.record_dataset(dataset(), NOW)
    store.record_run(RUN)
    store.remove_dataset("moles")
    assert store.dataset("moles") is None
    assert store.run(RUN.id) is not None


def test_results_delivered_twice_are_recorded_once(store: Store) -> None:
    store.record_run(RUN)
    store.record_run(RUN)
    for _ in range(2):
        assert not store.record_images([Chunk(RUN.id, 1, "svd-1", [result("a", psnr=None)])])
    assert store.record_images([Chunk(RUN.id, 1, "svd-1", [result("b", status="failed")])])
    rows = store.measurements(RUN.id)
    assert rows[["image_id", "variant", "stored_bytes"]].values.tolist() == [["a", "k=2", 20], ["a", "k=4", 40]]
    assert rows["psnr"].isna().all()
    assert rows["ssim"].tolist() == [2.5, 4.5]
    run = store.run(RUN.id)
    assert run is not None
    assert (run.done, run.failed, run.total, run.attempt) == (1, 1, 2, 1)


def test_results_of_an_older_attempt_are_dropped(store: Store) -> None:
    store.record_run(RUN)
    store.record_images([Chunk(RUN.id, 1, "svd-1", [result("a"), result("b", status="failed")])])
    store.record_retry(RUN.id, 2)
    assert store.images(RUN.id)["image_id"].tolist() == ["a"]
    assert not store.record_images([Chunk(RUN.id, 1, "svd-1", [result("b")])])
    assert store.images(RUN.id)["image_id"].tolist() == ["a"]
    assert store.record_images([Chunk(RUN.id, 2, "svd-2", [result("b")])])
    store.record_retry(RUN.id, 2)  # delivered again, which changes nothing
    assert store.images(RUN.id)["image_id"].tolist() == ["a", "b"]


def test_results_of_an_older_claim_or_for_a_finished_run_are_dropped(store: Store) -> None:
    store.record_run(replace(RUN, total=4))
    store.record_images([Chunk(RUN.id, 1, "first", [result("a"), result("b")])])  # from a version without claims
    store.record_images([Chunk(RUN.id, 1, "third", [result("a", psnr=33.0), result("b", psnr=33.0)], claim=8)])
    late = [result("a", status="failed"), result("b", psnr=22.0), result("c", psnr=22.0)]
    for claim in (0, 7):
        assert not store.record_images([Chunk(RUN.id, 1, "late", late, claim=claim)])
    both = [
        Chunk(RUN.id, 1, "newer", [result("d", psnr=44.0)], claim=10),
        Chunk(RUN.id, 1, "older", [result("d", psnr=11.0)], claim=9),
    ]
    assert store.record_images(both) == {RUN.id}
    images = store.images(RUN.id)
    assert images["worker"].tolist() == ["third", "third", "late", "newer"]
    assert (images["status"] == "measured").all()
    psnr = store.measurements(RUN.id, variant="k=2")["psnr"].tolist()
    assert psnr == [33.0, 33.0, 22.0, 44.0]
    run = store.run(RUN.id)
    assert run is not None
    assert (run.done, run.failed) == (4, 0)
    store.record_results(RUN.id, run_results(SPEC, store.measurements(RUN.id), total=4), NOW)
    assert not store.record_images([Chunk(RUN.id, 1, "later", late, claim=11)])
    pd.testing.assert_frame_equal(store.images(RUN.id), images)


def test_results_of_an_unknown_run_raise_an_error(store: Store) -> None:
    with pytest.raises(StoreError, match="svd-sweep-9"):
        store.record_images([Chunk("svd-sweep-9", 1, "svd-1", [result("a")])])


def test_a_finished_run_keeps_its_statistics_sizes_and_rules(store: Store) -> None:
    store.record_dataset(dataset(), NOW)
    store.record_run(RUN)
    store.record_started(RUN.id, 1, NOW)
    store.record_images([Chunk(RUN.id, 1, "svd-1", [result("a", psnr=30.0), result("b")])])
    found = run_results(SPEC, store.measurements(RUN.id), 2)
    store.record_results(RUN.id, found, NOW)
    store.record_results(RUN.id, found, NOW)
    statistics = store.statistics(RUN.id)
    psnr = statistics[(statistics["metric"] == "psnr") & (statistics["variant"] == "k=4")].iloc[0]
    assert (psnr["mean"], psnr["count"], psnr["undefined"]) == (35.0, 2, 0)
    assert store.storage(RUN.id)["variant"].tolist() == ["k=2", "k=4"]
    assert store.storage(RUN.id)["stored_bytes"].tolist() == [40, 80]
    assert store.optimal_k(RUN.id)["rule"].tolist() == ["plateau", "knee", "threshold", "budget"]
    assert store.finished_run("h1") == RUN.id
    run = store.run(RUN.id)
    assert run is not None
    assert (run.status, run.work_seconds, run.workers, run.seconds) == ("finished", 1.0, "svd-1", 0.0)


def test_the_worst_images_depend_on_the_direction_of_the_metric(store: Store) -> None:
    store.record_dataset(dataset(), NOW)
    store.record_run(RUN)
    worse = result("b", psnr=20.0)
    store.record_images([Chunk(RUN.id, 1, "svd-1", [result("a"), worse])])
    by_psnr = store.worst_images(RUN.id, "psnr", "k=2", n=1)
    assert by_psnr.values.tolist() == [["b", 20.0, "sub/b.jpg"]]
    assert store.worst_images(RUN.id, "mse", "k=2")["image_id"].tolist() == ["a", "b"]
    with pytest.raises(StoreError, match="mse"):
        store.worst_images(RUN.id, "mse; DROP TABLE runs", "k=2")


def test_a_late_start_does_not_change_a_cancelled_run(store: Store) -> None:
    store.record_run(RUN)
    store.record_cancelled(RUN.id, 1, NOW)
    store.record_started(RUN.id, 1, NOW)
    run = store.run(RUN.id)
    assert run is not None
    assert run.status == "cancelled"


def test_an_older_store_is_migrated_and_a_newer_one_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.record_run(RUN)

    def moods(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("ALTER TABLE runs ADD COLUMN mood VARCHAR")

    with monkeypatch.context() as patched:
        patched.setitem(MIGRATIONS, "moods", moods)
        patched.setattr("core.store.file.VERSION", VERSION + 1)
        with pytest.raises(StoreError, match=f"Expected a store of version {VERSION + 1}"):
            store.runs()
        store.migrate()
        assert store.schema_version() == VERSION + 1
        assert store.read("SELECT mood FROM runs")["mood"].isna().all()
    with pytest.raises(StoreError, match=f"expected a store of version {VERSION} or older; .* version {VERSION + 1}"):
        store.migrate()


def test_a_store_records_its_migrations_by_name_and_its_version_for_older_programs(store: Store) -> None:
    store.migrate()
    assert store.read("SELECT name FROM migrations")["name"].tolist() == list(MIGRATIONS)
    with duckdb.connect(store.path) as connection:  # the query of programs of version 3
        assert connection.execute("SELECT version FROM schema_version").fetchall() == [(VERSION,)]
    assert VERSION > 3


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_migrated_store_has_the_tables_and_columns_of_a_new_one(tmp_path: Path, version: int) -> None:
    older_store(tmp_path / "old.duckdb", version)
    Store(tmp_path / "old.duckdb").migrate()
    Store(tmp_path / "new.duckdb").migrate()
    query = "SELECT table_name, column_name, data_type, is_nullable FROM duckdb_columns() WHERE NOT internal"
    old, new = (set(Store(tmp_path / f"{name}.duckdb").read(query).itertuples(index=False)) for name in ("old", "new"))
    assert old == new


def test_a_store_without_training_tables_gets_them_and_keeps_its_rows(tmp_path: Path) -> None:
    older_store(tmp_path / "old.duckdb", 1)
    with duckdb.connect(tmp_path / "old.duckdb") as connection:
        connection.execute("INSERT INTO dataset_left_out VALUES ('moles', 'a.jpg', 'a reason')")
    store = Store(tmp_path / "old.duckdb")
    with pytest.raises(StoreError, match=rf"Expected a store of version {VERSION}, got version 1 in old\.duckdb"):
        store.studies()
    store.migrate()
    assert store.schema_version() == VERSION >= 2
    assert store.studies() == []
    assert store.epochs([]).empty
    assert len(store.read("SELECT * FROM dataset_left_out")) == 1


def test_a_store_without_given_splits_keeps_its_images_and_records_given_ones(tmp_path: Path) -> None:
    older_store(tmp_path / "old.duckdb", 3)
    plain = dataset()
    with duckdb.connect(tmp_path / "old.duckdb") as connection:
        rows = pd.DataFrame([asdict(record) for record in plain.records]).drop(columns="split").assign(dataset="moles")
        insert(connection, "dataset_images", rows)
    store = Store(tmp_path / "old.duckdb")
    store.migrate()
    images = store.read("SELECT image_id, split FROM dataset_images ORDER BY image_id")
    assert (images["image_id"].tolist(), images["split"].isna().all()) == (["a", "b"], True)
    given = replace(plain, records=tuple(replace(record, split="train") for record in plain.records))
    for found in (plain, given):
        store.record_dataset(found, NOW)
        assert store.dataset("moles") == found


def test_a_store_without_claims_keeps_its_rows_and_accepts_results_with_and_without_claims(tmp_path: Path) -> None:
    older_store(tmp_path / "old.duckdb", 2)
    values = replace(RUN, status=Status.RUNNING, done=1).columns()
    row = {column: value for column, value in values.items() if value is not None and column != "claim"}
    with duckdb.connect(tmp_path / "old.duckdb") as connection:
        for table, values in (
            ("runs", row),
            ("images", {"run_id": RUN.id, "image_id": "a", "attempt": 1, "status": "measured", "worker": "old"}),
        ):
            insert(connection, table, pd.DataFrame([values]))
    store = Store(tmp_path / "old.duckdb")
    store.migrate()
    run = store.run(RUN.id)
    assert run is not None
    assert (run.status, run.claim) == ("running", 0)
    recorder._write(store, [messages.read(chunk_text(result("a"), worker="without a claim"))])
    assert store.images(RUN.id)["worker"].tolist() == ["without a claim"]
    recorder._write(store, [messages.read(chunk_text(result("a"), worker="with one", claim=5))])
    recorder._write(store, [messages.read(chunk_text(result("a"), worker="late without one"))])
    assert store.images(RUN.id)["worker"].tolist() == ["with one"]


def chunk_text(*results: ImageResult, worker: str, **claim: int) -> bytes:
    """Return a message as it is in the queue."""
    values = {"run_id": RUN.id, "attempt": 1, "worker": worker, "results": [asdict(each) for each in results]}
    return json.dumps({"kind": "chunk", "values": {**values, **claim}}).encode()


def test_a_store_with_the_wrong_version_number_1_is_recognized_as_version_2(tmp_path: Path) -> None:
    older_store(tmp_path / "misread.duckdb", 2, says=1)
    store = Store(tmp_path / "misread.duckdb")
    assert store.schema_version() == 2
    store.migrate()
    assert store.studies() == []


def test_a_failed_transaction_writes_nothing(store: Store) -> None:
    store.record_run(RUN)
    broken = replace(result("b"), rows=({**result("b").rows[0], "height": 10**12},))
    with pytest.raises(StoreError, match="DuckDB rejected the statement"):
        store.record_images([Chunk(RUN.id, 1, "svd-1", [result("a"), broken])])
    assert store.images(RUN.id).empty
    assert store.measurements(RUN.id).empty


def test_a_store_in_use_by_another_program_raises_store_busy(store: Store) -> None:
    store.record_run(RUN)
    code = f"import duckdb, time; c = duckdb.connect({str(store.path)!r}); print('open', flush=True); time.sleep(30)"
    stranger = Process([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert stranger.stdout is not None
    assert stranger.stdout.readline() == b"open\n"
    try:
        with pytest.raises(StoreBusy, match="outside DermSlim"):
            store.runs()
    finally:
        stranger.kill()
        stranger.wait()
    assert len(store.runs()) == 1


def test_concurrent_readers_and_a_writer_all_succeed(store: Store) -> None:
    store.record_run(replace(RUN, total=100))
    code = (
        "import sys, time; from pathlib import Path; from core.store.measurements import Store\n"
        "store = Store(Path(sys.argv[1]), timeout=20); print('ready', flush=True); sys.stdin.read()\n"
        "for _ in range(20): assert len(store.runs()) == 1"
    )
    command = [sys.executable, "-c", code, str(store.path)]
    readers = [Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"ready\n"
    for reader in readers:
        assert reader.stdin is not None
        reader.stdin.close()
    writer = Store(store.path, timeout=20)
    for number in range(10):
        writer.record_images([Chunk(RUN.id, 1, "svd-1", [result(f"i{number}")])])
    assert [reader.wait(60) for reader in readers] == [0, 0, 0]
    assert len(store.images(RUN.id)) == 10


def test_times_keep_microseconds_and_time_zone(store: Store) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    store.record_run(replace(RUN, submitted_at=at))
    run = store.run(RUN.id)
    assert run is not None
    assert run.submitted_at == at


def test_frames_have_the_types_that_pages_compute_with(store: Store) -> None:
    store.record_run(RUN)
    store.record_images([Chunk(RUN.id, 1, "svd-1", [result("a")])])
    rows = store.measurements(RUN.id, columns=["k", "ssim", "stored_bytes"], variant="k=4")
    assert pd.api.types.is_numeric_dtype(rows["k"])
    assert rows.values.tolist() == [[4, 4.5, 40]]


def test_concurrent_reads_are_answered_and_cannot_read_other_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    store.migrate()
    (tmp_path / "secret.csv").write_text("a\n1\n")

    def read(number: int) -> int:
        with pytest.raises(StoreError, match="disabled by configuration"):
            store.read("SELECT * FROM read_csv(?)", [str(tmp_path / "secret.csv")])
        return len(store.read("SELECT * FROM range(?)", [number]))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(40))) == list(range(40))


def test_a_read_reaches_no_file_but_the_store_whatever_the_query_is(tmp_path: Path) -> None:
    first, second = Store(tmp_path / "first.duckdb"), Store(tmp_path / "second.duckdb")
    first.migrate()
    second.migrate()
    (tmp_path / "a.csv").write_text("a\n1\n")
    for _ in range(2):  # in a new instance of DuckDB, and in one that was kept
        for query in (f"FROM read_csv('{tmp_path}/a.csv')", f"ATTACH '{second.path}' AS other",
                      f"COPY (SELECT 1) TO '{tmp_path}/b.csv'"):  # fmt: skip
            with pytest.raises(StoreError), first.reading() as connection:
                connection.execute(query)
            first.runs()
    assert not (tmp_path / "b.csv").exists()


def test_each_read_sees_what_was_written_before_it_and_a_store_that_was_replaced(tmp_path: Path) -> None:
    store, other = Store(tmp_path / "store.duckdb"), Store(tmp_path / "other.duckdb")
    store.migrate()
    other.migrate()
    count = "SELECT count(*) AS n FROM dataset_left_out"
    for written in range(3):
        assert store.rows(count) == [{"n": written}]
        with store.transaction() as connection:
            connection.execute("INSERT INTO dataset_left_out VALUES ('moles', ?, 'truncated')", [f"{written}.jpg"])
    other.path.replace(store.path)
    assert store.rows(count) == [{"n": 0}]
