"""DATA_DIR is private: other accounts of the host cannot read its files or take its locks."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from accounts import as_nobody
from laboratory import ROOT, end, free_port, wait_for, write_images

from benchmarks.processes import Process
from core.files import private
from core.files.file_lock import file_lock
from core.files.private import NOTE, open_lock, open_to_others, private_folder, tighten
from core.settings import Settings
from core.store.measurements import Store
from jobs.queues import Queues
from jobs.server import running_server
from jobs.upkeep.checks.check import OK, WARNING, Check
from jobs.upkeep.checks.host import check_privacy


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_ones(folder: Path) -> list[str]:
    """Return the files and folders that other accounts can use, without links."""
    return [str(path) for path in (folder, *folder.rglob("*")) if not path.is_symlink() and mode(path) & 0o077]


def old_store(folder: Path) -> Settings:
    """Create a DATA_DIR as an older version did, without private modes."""
    folder.mkdir(parents=True)
    for name in ("logs", "trained/run-1", "arrays", "reconstructed/small", "backups", "networks", "valkey"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_text("secret")
    for name in ("dermslim.duckdb", "dermslim.lock", "launcher.lock", "record-worker.lock", "last-backup.json"):
        (folder / name).write_text("")
    assert mode(folder) == 0o755
    assert mode(folder / "launcher.lock") == 0o644
    return Settings(folder, ())


# Folders


def test_a_new_folder_and_its_new_parents_are_private(tmp_path: Path) -> None:
    assert private_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)


def test_an_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    assert mode(private_folder(tmp_path)) == 0o750
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        private_folder(tmp_path / "file")


def test_an_old_store_is_made_private_and_reported_once(tmp_path: Path) -> None:
    settings = old_store(tmp_path / "data")
    assert open_to_others(settings)[0] == f"{settings.data_dir} (755)"
    said = tighten(settings)
    assert said[0] == (f"{settings.data_dir} was open to other accounts (mode 755); it is private now (mode 700)")
    for name in ("dermslim.duckdb", "logs (2)", "trained (3)", "arrays (2)", "launcher.lock"):
        assert name in said[1]
    assert open_ones(settings.data_dir) == []
    assert open_to_others(settings) == []
    assert tighten(settings) == []


def test_the_owners_permissions_are_kept_and_links_are_not_followed(tmp_path: Path) -> None:
    settings = old_store(tmp_path / "data")
    (tmp_path / "elsewhere").mkdir()
    (settings.logs / "link").symlink_to(tmp_path / "elsewhere")
    (settings.logs / "file").chmod(0o444)
    tighten(settings)
    assert mode(tmp_path / "elsewhere") == 0o755
    assert mode(settings.logs / "file") == 0o400


def test_a_data_set_in_data_dir_keeps_its_mode_in_the_private_folder(tmp_path: Path) -> None:
    settings = old_store(tmp_path / "data")
    write_images(settings.data_dir / "moles", 1)
    tighten(settings)
    assert mode(settings.data_dir) == 0o700
    assert mode(settings.data_dir / "moles") == 0o755


def test_an_empty_folder_and_one_with_only_networks_are_made_private(tmp_path: Path) -> None:
    for name in ("empty", "prepared"):
        (tmp_path / name).mkdir()
    (tmp_path / "prepared" / "networks").mkdir()
    for name in ("empty", "prepared"):
        tighten(Settings(tmp_path / name, ()))
        assert mode(tmp_path / name) == 0o700


def test_a_folder_with_other_files_stays_open_but_dermslims_files_in_it_become_private(
    tmp_path: Path,
) -> None:
    shared = tmp_path / "photographs"
    write_images(shared, 2)
    settings = Settings(shared, ())
    for _ in range(2):
        said = tighten(settings)
        assert said[0].startswith(f"{shared} (mode 755) stays open to other accounts: it holds files that are not")
        assert mode(shared) == 0o755
        assert mode(shared / "mole000.jpg") == 0o644
        Store(settings.database).migrate()
        (shared / "dermslim.duckdb").chmod(0o644)
    tighten(settings)
    assert mode(shared / "dermslim.duckdb") == 0o600
    assert any("photographs" in each for each in open_to_others(settings))
    (shared / NOTE).unlink()
    tighten(settings)
    assert mode(shared) == 0o700, "as the message says"


def test_shared_folders_keep_their_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home" / "ada"))
    for folder in (tmp_path / "home", tmp_path / "home" / "ada"):
        folder.mkdir(exist_ok=True, parents=True)
        folder.chmod(0o755)
        assert "it is no folder of DermSlim's own" in tighten(Settings(folder, ()))[0]
        assert mode(folder) == 0o755
    for folder in (ROOT, Path("/"), Path("/tmp")):  # noqa: S108
        before = mode(folder)
        tighten(Settings(folder, ()))
        assert mode(folder) == before


def test_the_folder_of_another_account_keeps_its_mode_and_is_reported(shared_place: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    folder = shared_place / "data"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    assert "it belongs to another account (65534)" in tighten(Settings(folder, ()))[0]
    assert mode(folder) == 0o755


def test_a_missing_folder_is_not_created(tmp_path: Path) -> None:
    assert tighten(Settings(tmp_path / "none", ())) == []
    assert not (tmp_path / "none").exists()


# Locks


def test_lock_files_are_private_even_those_of_an_older_version(tmp_path: Path) -> None:
    (tmp_path / "old.lock").touch(0o644)
    for name in ("old.lock", "new.lock"):
        os.close(open_lock(tmp_path / name))
        assert mode(tmp_path / name) == 0o600
    (tmp_path / "older").touch(0o644)
    for name in ("older", "newer"):
        with file_lock(tmp_path / name, shared=True, timeout=1):
            assert mode(tmp_path / name) == 0o600


def test_another_account_cannot_lock_a_private_lock_file(shared_place: Path) -> None:
    path = shared_place / "old.lock"
    path.touch(0o644)

    def hold() -> None:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)

    assert as_nobody(hold) == "done", "an older lock file can be locked"
    with file_lock(path, shared=True, timeout=1):
        pass
    assert as_nobody(hold) == "PermissionError"
    with file_lock(path, shared=False, timeout=1):
        pass


def test_a_lock_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        open_lock(tmp_path / "x.lock")
    with pytest.raises(OSError, match="symbolic links"), file_lock(tmp_path / "x.lock", shared=False, timeout=1):
        pass
    assert not (tmp_path / "elsewhere").exists()


# Whole processes


def test_a_worker_makes_data_dir_private_and_reports_it(shared_place: Path) -> None:
    settings = old_store(shared_place / "data")
    (settings.data_dir / "dermslim.duckdb").unlink()
    with running_server(settings):
        process = Process(
            [sys.executable, "-m", "jobs.worker", "record"],
            cwd=ROOT,
            env={**os.environ, "DATA_DIR": str(settings.data_dir)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            wait_for(lambda: process.pid in {worker.pid for worker in Queues(settings).workers()}, 100)
            assert open_ones(settings.data_dir) == []
            for path in (settings.database, settings.logs / "file", settings.data_dir / "record-worker.lock"):
                assert as_nobody(path.read_bytes) == "PermissionError"
            assert doctor_says(settings).status == OK
        finally:
            end(process)
    assert process.stderr is not None
    told = process.stderr.read()
    assert f"{settings.data_dir} was open to other accounts" in told
    assert "was open to other accounts" in (settings.logs / "worker-record.jsonl").read_text()
    assert mode(settings.logs / "worker-record.jsonl") == 0o600


LAUNCHER = """
import sys
from dashboard.__main__ import main, server_program
from dashboard.supervisor import Program
touch = Program("touch", (sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", sys.argv.pop()), task=True)
sys.exit(main(programs=lambda settings, options: [*server_program(settings), touch]))
"""


def test_the_launcher_and_the_processes_it_starts_create_private_files(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    made = data_dir / "made"
    command = [sys.executable, "-c", LAUNCHER, "--port", str(free_port()), str(made)]
    process = Process(command, cwd=ROOT, env={**os.environ, "DATA_DIR": str(data_dir)})
    try:
        wait_for(lambda: made.exists() or process.poll() is not None, 60)
        assert made.exists()
        assert (data_dir / "valkey" / "appendonlydir").is_dir()
        assert open_ones(data_dir) == []
    finally:
        end(process)


def doctor_says(settings: Settings) -> Check:
    return next(iter(check_privacy(settings)))


def test_the_doctor_reports_files_that_are_open_to_other_accounts(tmp_path: Path) -> None:
    settings = old_store(tmp_path / "data")
    found = doctor_says(settings)
    assert found.status == WARNING
    assert f"{settings.data_dir} (755)" in found.found
    assert f"chmod 700 {settings.data_dir}" in found.advice
    tighten(settings)
    assert doctor_says(settings).status == OK


def test_private_files_are_created_inside_the_block_only(tmp_path: Path) -> None:
    with private.private_files():
        (tmp_path / "inside").touch()
    (tmp_path / "outside").touch()
    assert (mode(tmp_path / "inside"), mode(tmp_path / "outside")) == (0o600, 0o644)
