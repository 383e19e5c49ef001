"""Pages, commands and workers report a store that is damaged or open in another program, and lose nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from laboratory import ROOT, write_images
from pages import opener, text
from recorded import record_training
from redis import Redis

from benchmarks.processes import Process, run_command
from core.errors import StoreDamaged
from core.settings import Settings
from core.store.measurements import Store
from jobs import record_worker as recorder
from jobs.__main__ import main
from jobs.messages import MESSAGES, REJECTED, RunStarted, send
from jobs.upkeep import prometheus as metrics

PAGES = sorted(path.stem for path in (ROOT / "dashboard" / "app_pages").glob("*.py"))


@pytest.fixture
def broken(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Give settings whose store is damaged after its headers."""
    record_training(Store(settings.database))
    data = settings.database.read_bytes()
    settings.database.write_bytes(data[:12_288] + bytes(len(data) - 12_288))
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    return settings


@pytest.fixture
def locked_store(settings: Settings) -> Iterator[Settings]:
    """Give settings whose store is open in a program that does not belong to DermSlim."""
    record_training(Store(settings.database))
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); input()"
    command = [sys.executable, "-c", code, str(settings.database)]
    with Process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout is not None
        assert stranger.stdout.readline() == b"1\n"
        yield settings
        stranger.communicate(b"\n")


@pytest.mark.parametrize("page", PAGES)
def test_each_page_says_that_the_store_is_damaged(broken: Settings, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.delenv("DASHBOARD_PASSWORD", raising=False)
    shown = text(opener(monkeypatch, broken.data_dir, str(broken.redis_url))(page))
    assert "a damaged file: " in shown
    assert "python -m jobs restore FILE" in shown


def test_commands_report_a_damaged_store_in_one_sentence_with_exit_code_1(
    broken: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (
        ["status"],
        ["export", "r"],
        ["tables"],
        ["backup", "--without-queue"],
        ["snapshot"],
        ["cancel", "r"],
    ):
        assert main(command) == 1, command
        said = capsys.readouterr().err
        assert "a damaged file: " in said, command
        assert said.count("\n") == 1, command
    assert main(["doctor", "--without-keras"]) == 1


def test_the_metrics_report_a_damaged_store_as_down(broken: Settings) -> None:
    shown = metrics.metrics_text(broken).decode()
    assert 'dermslim_up{part="store"} 0.0' in shown
    assert 'dermslim_up{part="queue"} 1.0' in shown


def test_messages_stay_in_the_queue_while_the_store_is_damaged(broken: Settings) -> None:
    with Redis.from_url(str(broken.redis_url)) as connection:
        send(connection, RunStarted(run_id="r", attempt=1))
        waiting = connection.lrange(MESSAGES, 0, -1)
        assert json.loads(waiting[0])["kind"] == "started"
        with pytest.raises(StoreDamaged):
            recorder._write_or_reject(Store(broken.database), connection, waiting[0])
        assert connection.llen(REJECTED) == 0
        assert connection.lrange(MESSAGES, 0, -1) == waiting


def test_the_record_worker_ends_with_a_sentence_when_the_store_is_damaged(broken: Settings) -> None:
    command = [sys.executable, "-m", "jobs.worker", "record", "--burst"]
    done = run_command(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "a damaged file: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_can_be_measured_locally_while_another_program_has_the_store_open(
    locked_store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(locked_store.data_dir))
    write_images(tmp_path / "moles", 1)
    monkeypatch.chdir(tmp_path)
    for folder in ("moles", str(tmp_path / "moles")):
        assert main(["svd-sweep", folder, "--k", "2", "--local", "--workers", "1"]) == 0
        said = capsys.readouterr().err
        assert ("whether or not a data set is registered as moles" in said) == (folder == "moles")
    assert main(["svd-sweep", "absent", "--k", "2", "--local"]) == 1
    assert "outside DermSlim, which holds it open" in capsys.readouterr().err


def test_the_banner_names_the_program_that_has_the_store_open(
    locked_store: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = text(opener(monkeypatch, locked_store.data_dir, str(locked_store.redis_url))("maintenance"))
    assert "outside DermSlim, which holds it open" in shown
    assert "(python" in shown
