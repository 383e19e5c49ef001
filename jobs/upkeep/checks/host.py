"""Checks of this host: software, machine, environment, disks, file permissions, processes."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from core import __version__
from core.files.private import open_to_others
from core.settings import Settings, usable_cores, variables
from core.training.backend import INSTALL, missing_packages
from jobs.logs import masked
from jobs.provenance import code_revision
from jobs.upkeep.checks.check import ERROR, SHOWN, WARNING, Checks, check
from jobs.upkeep.retention import existing, held, size_of

LITTLE, TOO_LITTLE = 5e9, 0.5e9  # bytes free on a disk
ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = re.compile(
    r"DATA_|DERMSLIM|REDIS|PORT$|SVD_WORKERS|TRAIN_WORKERS|ARRAYS_|LOG_FORMAT|WEBHOOK|DASHBOARD|METRICS_|KERAS_|CUDA_"
    r"|TF_|XLA_|OMP_|OPENBLAS|MKL_|NUMBA_|STREAMLIT_|TMPDIR|PYTHONPATH"
)


def check_software(settings: Settings) -> Checks:
    """Check Python, the versions of the packages, and whether training is possible."""
    wrong = not (3, 11) <= sys.version_info[:2] <= (3, 13)
    advice = "make setup PYTHON=/path/to/python3.12"
    yield check("Python", "3.11 to 3.13", platform.python_version(), wrong, advice, ERROR)
    needed = [each for each in requirements() if not each.marker or each.marker.evaluate({"extra": ""})]
    found = {each.name: installed(each.name) for each in needed}
    other = [each for each in needed if not each.specifier.contains(found[each.name] or "0")]
    severity = ERROR if any(found[each.name] is None for each in other) else WARNING
    text = ", ".join(f"{each.name} {found[each.name] or 'missing'}, not {each.specifier}" for each in other)
    expected = f"the {len(needed)} that DermSlim needs"
    yield check("packages", expected, text or "all of them", other, "`make setup` installs them.", severity)
    absent = ", ".join(missing_packages())
    text = f"not installed: {absent}; networks cannot be trained here" if absent else "installed"
    yield check("training", "Keras and its backend, where networks are trained", text, absent, INSTALL)
    yield check("version", "DermSlim's", f"{__version__}, {code_revision() or 'not a checkout'}")


def requirements() -> list[Requirement]:
    """Return the direct dependencies with their ranges, from pyproject.toml or, in a wheel, from its metadata."""
    project = ROOT / "pyproject.toml"
    if not project.exists():
        return [Requirement(text) for text in requires("dermslim") or ()]
    return [Requirement(text) for text in tomllib.loads(project.read_text())["project"]["dependencies"]]


def installed(name: str) -> str | None:
    """Return a package's version, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def check_machine(settings: Settings) -> Checks:
    """Check the system, its cores and its memory."""
    yield check("system", "Linux or macOS", f"{platform.platform()} on {platform.machine()}")
    yield check("cores", "one or more", f"{usable_cores()} usable, load {os.getloadavg()[0]:.1f}")
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB available"
    advice = "Run fewer workers (SVD_WORKERS, TRAIN_WORKERS) or smaller batches."
    yield check("memory", "1 GB or more available", found, memory.available < 1e9, advice)


def check_environment(settings: Settings) -> Checks:
    """List the relevant environment variables, secrets masked."""
    given = {name: value for name, value in os.environ.items() if ENVIRONMENT.match(name)} | variables().given()
    text = ", ".join(f"{name}={masked(value, given)}" for name, value in sorted(given.items()))
    yield check("variables", "values that differ from the defaults", text or "none is set")


def check_disk(settings: Settings) -> Checks:
    """Check the free space of each disk that is written to, and whether DATA_DIR can be written."""
    seen: dict[int, str] = {}
    for name, folder in (
        ("DATA_DIR", settings.data_dir),
        ("arrays", settings.arrays),
        ("trained", settings.trained),
        ("temporary files", Path(tempfile.gettempdir())),
    ):
        there = existing(folder)
        device = there.stat().st_dev
        if device in seen and name != "DATA_DIR":
            continue
        seen[device] = name
        free = shutil.disk_usage(there).free
        severity = ERROR if free < TOO_LITTLE else WARNING
        found = f"{free / 1e9:.1f} GB free at {there}"
        advice = "`python -m jobs prune --dry-run` lists what can be deleted."
        yield check(f"room for {name}", f"{LITTLE / 1e9:.0f} GB or more", found, free < LITTLE, advice, severity)
    try:
        with tempfile.TemporaryFile(dir=settings.data_dir) as probe:
            probe.write(b"\0" * 4096)
        problem = ""
    except OSError as error:
        problem = error.strerror or str(error)
    found = f"{settings.data_dir}: {problem or 'a file was written'}"
    advice = "Set DATA_DIR to a folder of your own, or create it with `make up`."
    yield check("DATA_DIR can be written", "a file can be written", found, problem, advice, ERROR)
    taken = size_of(settings.arrays)
    advice = "`python -m jobs prune --kinds arrays` deletes unused arrays."
    expected = f"at most {settings.arrays_limit / 1e9:.0f} GB (ARRAYS_LIMIT_GB)"
    yield check("arrays", expected, f"{taken / 1e9:.2f} GB", taken > settings.arrays_limit, advice)


def check_privacy(settings: Settings) -> Checks:
    """Check that other accounts of this host cannot read DATA_DIR."""
    found = open_to_others(settings)
    advice = f"`make up` makes DermSlim's files private; otherwise run: chmod 700 {settings.data_dir}"
    yield check("other accounts", "no access to DATA_DIR", ", ".join(found[:SHOWN]) or "no access", found, advice)


def check_processes(settings: Settings) -> Checks:
    """Check the launcher and the record worker of this DATA_DIR, and the dashboard's port."""
    launcher, recorder = (held(settings.data_dir / name) for name in ("launcher.lock", "record-worker.lock"))
    states = {True: "running", False: "not running"}
    yield check("launcher here", "running, or not", states[launcher])
    advice = "`make up`, or `python -m jobs.worker record`, which writes the store. Hosts of further workers run none."
    yield check("record worker here", "one, beside the store", states[recorder], not recorder, advice)
    port = variables().port
    with socket.socket() as probe:
        probe.settimeout(1)
        answers = probe.connect_ex(("127.0.0.1", port)) == 0
    clash = answers and not launcher
    found = f"port {port} of 127.0.0.1 {'answers' if answers else 'is free'}"
    advice = "Another program, or the dashboard of another DATA_DIR, uses it: PORT=8601 make up."
    found += ", but no launcher runs here" if clash else ""
    yield check("dashboard's port", "an answer only while the launcher runs here", found, clash, advice)
