"""What tests share: settings that point to a temporary folder, and a real Valkey server."""

from __future__ import annotations

import collections
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from redis import Redis
from streamlit.components.v2 import manifest_scanner

from core import settings as settings_module
from core.processes import die_with_parent
from core.settings import Settings, described, usable_cores
from jobs.server import running_server

ROOT = Path(__file__).resolve().parents[1]
os.environ["DERMSLIM_ENV_FILE"] = ""  # the user may have a `.env` file here
os.environ["WORKER_NICENESS"] = "0"  # tests wait for workers, so these need the normal priority
# Hundreds of stores are written to disk and forgotten. A RAM disk with much space, 1.5 GB of which are used, is faster.
RAM_DISK, MINIMUM_FREE = Path("/dev/shm"), 8 * 10**9  # noqa: S108 - pytest makes a folder of mode 700
if "TMPDIR" not in os.environ and RAM_DISK.is_dir() and shutil.disk_usage(RAM_DISK).free > MINIMUM_FREE:
    os.environ["TMPDIR"], tempfile.tempdir = str(RAM_DISK), None
# Otherwise hundreds of processes compile the same modules again, and each xdist process rewrites all assertions.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return the number of cores plus two, at most four, because many tests mostly wait for processes."""
    return min(usable_cores() + 2, 4)


def pytest_configure(config: pytest.Config) -> None:
    """End the xdist processes when the process that started them is killed; speed up AppTest.

    Each AppTest reads the metadata of every installed package to find components, which takes longer than most pages.
    """
    if hasattr(config, "workerinput"):
        die_with_parent(os.getppid())
    manifest_scanner.scan_component_manifests = cache(manifest_scanner.scan_component_manifests)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files with the most slow tests first, then those with the most tests, so that the run ends evenly."""
    slow = collections.Counter(item.path for item in items if item.get_closest_marker("slow"))
    count = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -count[item.path], item.path))


def pytest_collection_finish() -> None:
    """Exempt imported modules from garbage collection: Streamlit collects all garbage after each run of a page."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter end as usual; otherwise extension modules report their objects as leaks."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Protect the user's folders and server from the tests, and reset `__main__` after each test.

    A page that AppTest runs becomes `__main__`, and processes that later tests start would import it.
    """
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    monkeypatch.setattr(settings_module, "ENV_FILE", "")
    for name, _, _ in described():
        if name != "WORKER_NICENESS":
            monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one real Valkey server for the whole session; give its URL."""
    folder = tmp_path_factory.mktemp("valkey")
    with running_server(Settings(folder, (folder,))) as url:
        yield url


@pytest.fixture
def valkey_url(valkey_server: str) -> str:
    """Give the URL of a real, empty Valkey server."""
    with Redis.from_url(valkey_server) as client:
        client.flushdb()
    return valkey_server


@pytest.fixture
def settings(tmp_path: Path, valkey_url: str) -> Settings:
    """Give settings with the state in `tmp_path`/data, the data root `tmp_path` and the server `valkey_url`."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    return Settings(data_dir, (data_dir, tmp_path), given_redis_url=valkey_url)


@pytest.fixture
def shared_place() -> Iterator[Path]:
    """Give a folder that every account of the host can open, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory(prefix="dermslim-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Give the folder with `ham10000/` and `negatives/`: `DERMSLIM_REAL_DATA`, else `../shared/data`."""
    folder = Path(os.environ.get("DERMSLIM_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "ham10000").is_dir():
        pytest.skip(f"no real originals: expected {folder}/ham10000, or set DERMSLIM_REAL_DATA")
    return folder
