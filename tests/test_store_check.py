"""A changed file of the store is reported as damaged, or every row can still be read unchanged."""

from __future__ import annotations

import random
import shutil
import signal
import sys
from pathlib import Path

import duckdb
import pytest
from recorded import START, conversion, latency, record_measured, record_reconstruction, record_training

from benchmarks.processes import run_command
from core.compression.specs import SweepSpec
from core.errors import StoreDamaged, StoreError, StoreUnavailable
from core.store import check as store_check
from core.store.file import StoreFile, empty_store
from core.store.measurements import Store
from core.training.specs import Rules

HEADERS = 3 * 4096  # bytes of DuckDB's three headers, before the first block


def fill(store: Store) -> None:
    """Write rows into every table."""
    run_id = record_training(store, accuracies=(70.0,), rules=Rules(factors=(50,)), sets=True, study="s")
    store.record_conversion(run_id, 1, conversion(), "a worker", START)
    store.record_latencies(run_id, 1, [latency()], "a worker", START)
    record_measured(store, SweepSpec(dataset="moles", ks=(2, 4)))
    record_reconstruction(store, "made", "moles", "k=2")
    with store.transaction() as connection:
        connection.execute("INSERT INTO dataset_left_out VALUES ('moles', 'c.jpg', 'truncated')")
        connection.execute(
            "INSERT INTO studies (study, kind, dataset, spec, status, submitted_at) "
            "VALUES ('s', 'grid', 'ham', '{}', 'running', '2026-11-26 07:00:00+00')"
        )
        connection.execute(
            "INSERT INTO verifications (run_id, image_id, variant, checked_at) "
            "VALUES ('r', 'a', 'k=2', '2026-11-26 07:00:00+00')"
        )
        connection.execute("INSERT INTO run_datasets VALUES ('r', 'plain', NULL, NULL, 10, 0, 1000)")
        connection.execute("INSERT INTO run_logs VALUES ('r', 1, 'a line')")
        connection.execute(
            "INSERT INTO predictions VALUES ('r', 0, 'test', 'a', NULL, 'nevus', 'nevus', 0.1, 0.7, 0.1, 0.1)"
        )
        connection.execute(
            "INSERT INTO svd_dense VALUES ('r', 0, 99, '{}', 9, 8, 36, 70, 100, '{}', '{}', 0, -1, 1, "
            "'2026-11-26 07:00:00+00', 0, 1.5, 2.5)"
        )
        connection.execute("INSERT INTO diagnoses VALUES ('r', 'a', 'k=2', NULL, 'nevus', 'nevus', 0.1, 0.7, 0.1, 0.1)")
        connection.execute(
            "INSERT INTO epochs (run_id, step, epoch, attempt, train_loss, train_accuracy, train_precision, "
            "train_recall, validation_loss, validation_accuracy, validation_precision, validation_recall, seconds, "
            "images_per_second, meets_baseline, best, ended_at) "
            "SELECT 'r', 0, epoch, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, true, false, "
            "'2026-11-26 07:00:00+00' FROM range(1, 4) AS epochs(epoch)"
        )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("whole") / "store.duckdb")
    fill(store)
    assert all(store_check.read_in_full(store).values()), "a table has no row, so that its damage would not be seen"
    return store


def content(store: StoreFile) -> dict[str, list[dict[str, object]]]:
    with store.reading() as connection:
        tables = [str(name) for (name,) in connection.execute(store_check.TABLES).fetchall()]
        return {name: connection.table(name).to_arrow_table().to_pylist() for name in tables}


def damaged(whole: Store, folder: Path, change: object) -> StoreFile:
    data = bytearray(whole.path.read_bytes())
    change(data)  # type: ignore[operator]
    copy = StoreFile(folder / "damaged.duckdb")
    copy.path.write_bytes(data)
    return copy


def damage(path: Path, table: str) -> None:
    """Change one bit in the first block that has values of a table."""
    with duckdb.connect(path, read_only=True) as connection:
        query = "SELECT block_id FROM pragma_storage_info(?) WHERE persistent AND block_id >= 0 LIMIT 1"
        block = connection.execute(query, [table]).fetchall()[0][0]
    data = bytearray(path.read_bytes())
    data[HEADERS + block * 262144 + 1000] ^= 1
    path.write_bytes(data)


def test_a_changed_file_is_reported_as_damaged_or_reads_unchanged(whole: Store, tmp_path: Path) -> None:
    chance, before, found = random.Random(15), content(whole), 0
    size = whole.path.stat().st_size
    for number in range(36):  # three of each kind of change at each kind of place
        at = chance.randrange(HEADERS if number % 4 == 0 else size)

        def change(data: bytearray, at: int = at, kind: int = number % 3) -> None:
            if kind == 0:
                data[at] ^= 1 << chance.randrange(8)
            elif kind == 1:
                del data[max(at, 1) :]
            else:
                data[at : at + 4096] = chance.randbytes(len(data[at : at + 4096]))

        copy = damaged(whole, tmp_path, change)
        said = ""
        try:
            store_check.read_in_full(copy)
        except StoreDamaged as error:
            said = str(error)
        assert "restore the last backup" in said or content(copy) == before, at
        assert "\n" not in said
        found += bool(said)
    assert found >= 12


def test_unreadable_tables_are_named_and_the_others_can_be_read(whole: Store, tmp_path: Path) -> None:
    copy = StoreFile(tmp_path / "damaged.duckdb")
    shutil.copyfile(whole.path, copy.path)
    damage(copy.path, "measurements")
    with pytest.raises(StoreDamaged, match=r"every row of .*damaged\.duckdb .* damage in .*measurements"):
        store_check.checked(copy.path)
    assert len(Store(copy.path).runs()) == 2, "undamaged tables can still be read"


def test_a_check_counts_rows_and_does_not_change_the_file(whole: Store) -> None:
    before = whole.path.read_bytes()
    rows = store_check.checked(whole.path)
    assert (rows["runs"], rows["epochs"], rows["dataset_left_out"]) == (2, 3, 1)
    assert whole.path.read_bytes() == before


def test_a_reader_that_crashes_on_the_file_is_reported_as_damage(
    whole: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killer = tmp_path / "killer"
    killer.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killer.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killer))
    with pytest.raises(StoreDamaged, match=rf"was ended by signal {signal.SIGSEGV.value}"):
        store_check.checked(whole.path)


def test_a_store_that_lacks_a_table_or_a_column_is_damaged(whole: Store, tmp_path: Path) -> None:
    for number, change in enumerate(("DROP TABLE steps", "ALTER TABLE runs DROP COLUMN spec")):
        copy = StoreFile(tmp_path / f"{number}.duckdb")
        shutil.copyfile(whole.path, copy.path)
        with duckdb.connect(copy.path) as connection:
            connection.execute(change)
        with pytest.raises(StoreDamaged, match=r"Expected the tables of version .* got none with"):
            store_check.read_in_full(copy)
    with pytest.raises(StoreDamaged, match="steps"):
        Store(tmp_path / "0.duckdb").steps([])


def test_additional_tables_and_views_are_not_damage(whole: Store, tmp_path: Path) -> None:
    copy = StoreFile(tmp_path / "own.duckdb")
    shutil.copyfile(whole.path, copy.path)
    with duckdb.connect(copy.path) as connection:
        connection.execute('CREATE TABLE "my ""own""" AS SELECT 1 AS a')
        connection.execute("CREATE VIEW gone AS SELECT * FROM runs")
    assert store_check.read_in_full(copy)['my "own"'] == 1


def test_a_damaged_write_ahead_log_raises_a_readable_error(whole: Store, tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.mkdir()
    shutil.copyfile(whole.path, tmp_path / "store.duckdb")
    connection = duckdb.connect(tmp_path / "store.duckdb")  # a writer that is killed before its checkpoint
    connection.execute("SET checkpoint_threshold = '1 GB'")
    connection.execute("UPDATE runs SET error = 'in the log'")
    for path in tmp_path.glob("store.duckdb*"):
        shutil.copyfile(path, left / path.name)
    connection.close()
    log = left / "store.duckdb.wal"
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 255
    log.write_bytes(data)
    store = Store(left / "store.duckdb")
    for act in (store.runs, store.migrate, store.schema_version, lambda: store_check.checked(store.path)):
        with pytest.raises(StoreDamaged, match=r"store\.duckdb.* got a damaged file: .*WAL.*restore the last backup"):
            act()


def test_files_that_are_not_databases_count_as_damaged(tmp_path: Path) -> None:
    for text in (b"", b"this is not a database", bytes(1 << 20), b"\0" * 8 + b"DUCK" + bytes(5000)):
        store = Store(tmp_path / "store.duckdb")
        store.path.write_bytes(text)
        for act in (store.runs, store.migrate):
            with pytest.raises(StoreDamaged, match=r"Expected .*store\.duckdb to be a whole DuckDB file"):
                act()
        assert store.path.read_bytes() == text


def test_a_file_that_cannot_be_opened_is_unavailable_and_not_damaged(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    store.path.mkdir()
    with pytest.raises(StoreUnavailable) as raised:
        store.runs()
    assert not isinstance(raised.value, StoreDamaged)


def test_an_invalid_query_is_not_damage(whole: Store) -> None:
    with pytest.raises(StoreError, match="DuckDB rejected the statement") as raised:
        whole.read("SELECT nothing FROM runs")
    assert not isinstance(raised.value, StoreUnavailable)
    with empty_store() as connection, pytest.raises(duckdb.Error):
        connection.execute("SELECT nothing FROM runs")


def test_a_full_disk_is_not_damage(whole: Store, tmp_path: Path) -> None:
    copy = tmp_path / "store.duckdb"
    shutil.copyfile(whole.path, copy)
    # A limit on the size of files gives the same error as a full disk, only for this process.
    code = (
        "import resource, signal, sys; from pathlib import Path; from core.store.measurements import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); size = Path(sys.argv[1]).stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, size + 1000)); store = Store(Path(sys.argv[1]))\n"
        "try:\n"
        "    with store.transaction() as connection:\n"
        "        connection.execute('CREATE TABLE big AS SELECT range, hash(range) h FROM range(3000000)')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = run_command([sys.executable, "-c", code, str(copy)], capture_output=True, text=True)
    assert done.stdout.startswith("StoreUnavailable "), done.stdout + done.stderr
    assert store_check.read_in_full(StoreFile(copy))["runs"] == 2


def test_a_large_table_is_read_in_parts_completely(
    whole: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = StoreFile(tmp_path / "copy.duckdb")
    shutil.copy(whole.path, copy.path)
    with duckdb.connect(copy.path) as connection:
        connection.execute("DELETE FROM epochs WHERE epoch = 2")
    rows = store_check.read_in_full(copy)
    monkeypatch.setattr(store_check, "PART", 2)
    assert store_check.read_in_full(copy) == rows == {name: len(found) for name, found in content(copy).items()}
