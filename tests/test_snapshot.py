"""Snapshots: every table at one moment, readable after a move, and never written over other files."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from recorded import record_measured, record_training
from test_store_check import fill

from core.compression.specs import SweepSpec
from core.errors import StoreDamaged
from core.settings import Settings
from core.store import check as store_check
from core.store.measurements import Store
from core.store.migrations import VERSION
from jobs.__main__ import main
from jobs.upkeep.snapshot import SnapshotError, last_snapshot, take_snapshot

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def own(tmp_path: Path) -> Settings:
    settings = Settings(tmp_path / "data", (tmp_path,))
    fill(Store(settings.database))
    return settings


def read(file: Path, query: str) -> list[tuple[object, ...]]:
    with duckdb.connect(file, read_only=True) as connection:
        return connection.execute(query).fetchall()


def test_a_snapshot_has_every_table_as_parquet_and_as_a_view(own: Settings, tmp_path: Path) -> None:
    about = take_snapshot(own, tmp_path / "s")
    rows = store_check.read_in_full(Store(own.database))
    assert about.rows == rows
    assert about.schema_version == VERSION
    with Store(own.database).reading() as connection:
        content = {name: connection.table(name).to_arrow_table() for name in rows}
    with duckdb.connect(tmp_path / "s" / "dermslim.duckdb", read_only=True) as connection:
        for name, table in content.items():
            assert connection.table(name).to_arrow_table().equals(table), name
            assert len(pd.read_parquet(tmp_path / "s" / f"{name}.parquet")) == rows[name]
    assert json.loads((tmp_path / "s" / "snapshot.json").read_text())["rows"] == rows


def test_the_views_read_the_files_of_their_own_folder_after_a_move(own: Settings, tmp_path: Path) -> None:
    count = "SELECT count(*) FROM runs"
    take_snapshot(own, tmp_path / "a" / "it's [1]")
    moved = (tmp_path / "a" / "it's [1]").rename(tmp_path / "moved [2]")
    here = Path.cwd()
    for place, file in ((Path("/"), moved / "dermslim.duckdb"), (moved, Path("dermslim.duckdb"))):
        os.chdir(place)
        try:
            assert read(file, count) == [(2,)]
        finally:
            os.chdir(here)
    record_training(Store(own.database))
    take_snapshot(own, tmp_path / "b")
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"ATTACH '{tmp_path}/b/dermslim.duckdb' AS b (READ_ONLY)")
        assert connection.execute("SELECT count(*) FROM b.runs").fetchall() == [(3,)]
    with duckdb.connect(moved / "dermslim.duckdb", read_only=True) as connection:
        connection.execute(f"ATTACH '{tmp_path}/b/dermslim.duckdb' AS b (READ_ONLY)")
        with pytest.raises(duckdb.Error, match="got others"):
            connection.execute("SELECT count(*) FROM b.runs")


def test_a_snapshot_can_be_replaced_while_it_is_read(own: Settings, tmp_path: Path) -> None:
    take_snapshot(own, tmp_path / "s")
    with duckdb.connect(tmp_path / "s" / "dermslim.duckdb", read_only=True) as notebook:
        result = notebook.execute("SELECT count(*) FROM runs")
        record_training(Store(own.database, timeout=5.0))
        take_snapshot(own, tmp_path / "s")
        assert result.fetchall() == [(2,)]
    assert read(tmp_path / "s" / "dermslim.duckdb", "SELECT count(*) FROM runs") == [(3,)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "s"]


def test_only_a_snapshot_can_be_replaced_by_a_snapshot(own: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notebook.ipynb").write_text("{}")
    take_snapshot(own, tmp_path / "s")
    (tmp_path / "s" / "notebook.ipynb").write_text("{}")
    for place in ("file", "mine", "s", "data"):
        with pytest.raises(SnapshotError, match=r"Expected a (new )?folder"):
            take_snapshot(own, tmp_path / place)
    assert (tmp_path / "s" / "notebook.ipynb").exists()
    (tmp_path / "empty").mkdir()
    take_snapshot(own, tmp_path / "empty")
    assert last_snapshot(tmp_path / "empty") is not None


def test_a_snapshot_follows_the_umask(own: Settings, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        take_snapshot(own, tmp_path / "s")
    finally:
        os.umask(before)
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o750
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "s").iterdir()} == {0o640}


def test_no_snapshot_is_taken_of_a_damaged_store(own: Settings, tmp_path: Path) -> None:
    data = own.database.read_bytes()
    own.database.write_bytes(data[:-1_000_000])
    with pytest.raises(StoreDamaged, match=rf"every row of {own.database} to be readable, got damage in "):
        take_snapshot(own, tmp_path / "s")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_example_of_the_documentation_works(own: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_measured(Store(own.database), SweepSpec(dataset="ham", ks=(2, 4)))
    monkeypatch.setenv("DATA_DIR", str(own.data_dir))
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "notebooks.md").read_text()
    command = re.search(r"dermslim (snapshot \S+)", text)
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert command is not None
    assert example is not None
    assert main(command[1].split()) == 0
    exec(example[1], {})  # noqa: S102
    assert "ham" in (tmp_path / "psnr.html").read_text()
    shutil.rmtree(tmp_path / "my-snapshot")
