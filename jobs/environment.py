"""What a run record says of where it was made: code revision, versions, user, and the command that repeats it."""

from __future__ import annotations

import getpass
import json
import platform
import shlex
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core.metrics import MetricParameters
from core.sweeps import ReconstructSpec, ResizeSpec, RivalsSpec, Spec, SweepSpec, codec_name

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


@cache
def versions() -> str:
    """Return, as JSON, the versions of Python and of the packages that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
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


def command_line(spec: Spec) -> str:
    """Return the command that submits this spec again."""
    words = ["python", "-m", "jobs", spec.kind, spec.dataset]
    if isinstance(spec, SweepSpec):
        words += ["--k", ",".join(map(str, spec.ks)), "--mode", spec.mode]
    elif isinstance(spec, ResizeSpec):
        words += ["--sizes", ",".join(f"{rows}x{columns}" for rows, columns in spec.sizes)]
        words += ["--k", str(spec.k), "--mode", spec.mode]
    elif isinstance(spec, RivalsSpec):
        words += ["--rivals", ",".join(codec_name(*rival).replace(" ", ":") for rival in spec.rivals)]
    elif isinstance(spec, ReconstructSpec):
        words += ["--name", spec.name, "--k", str(spec.k), "--mode", spec.mode]
    if isinstance(spec, SweepSpec | ResizeSpec | ReconstructSpec):
        words += ["--codec", spec.codec]
        if spec.quality is not None:
            words += ["--quality", str(spec.quality)]
    if spec.sample_size is not None:
        words += ["--limit", str(spec.sample_size)]
    words += ["--seed", str(spec.seed)]
    standard = MetricParameters()
    if spec.metrics.changed_threshold != standard.changed_threshold:
        words += ["--changed-threshold", str(spec.metrics.changed_threshold)]
    if spec.metrics.radial_cutoff != standard.radial_cutoff:
        words += ["--radial-cutoff", str(spec.metrics.radial_cutoff)]
    return shlex.join(words)
