"""The provenance in a run record: code revision, versions, user, and the command that repeats the run."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core import __version__

PACKAGES = ("numpy", "scipy", "opencv-python-headless", "scikit-image", "mahotas", "numba", "kneed", "duckdb", "rq")


@cache
def code_revision() -> str | None:
    """Return the checkout's commit, `-modified` where files differ from it, or None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit}-modified" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def code_stamp() -> tuple[tuple[str, int, int], ...]:
    """Return path, time of change and size of every module that workers use; another stamp means replaced code."""
    root = Path(__file__).resolve().parent.parent
    found = sorted(each for package in ("core", "jobs") for each in (root / package).rglob("*.py"))
    with suppress(FileNotFoundError):  # it is being replaced
        return tuple((str(each), (about := each.stat()).st_mtime_ns, about.st_size) for each in found)
    return ()


def quiet_tensorflow() -> None:
    """Keep TensorFlow's remarks on its own build out of logs and terminals; errors are still raised."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@cache
def versions() -> str:
    """Return, as JSON, the versions of DermSlim, of Python and of the packages that the figures depend on.

    Keras's backend is the one that `KERAS_BACKEND` names here; each trained step names the one that trained it.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    found = {"dermslim": __version__, "python": platform.python_version()}
    for package in (*PACKAGES, "keras", backend):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return json.dumps(found)


def user() -> str:
    """Return who submits from here, as `name@host`."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = "unknown"
    return f"{name}@{socket.gethostname()}"
