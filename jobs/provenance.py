"""What a run record says of where it was made: code revision, versions, user, and the command that repeats it."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shlex
import socket
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from core import __version__
from core.compression.specs import (
    MeasuringSpec,
    MetricParameters,
    ReconstructSpec,
    ResizeSpec,
    RivalsSpec,
    SweepSpec,
    codec_name,
)
from core.data.splits import Targets
from core.runs import RunSpec
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainingProtocol, TrainSpec, article_baseline

PACKAGES = (
    "numpy",
    "scipy",
    "opencv-python-headless",
    "scikit-image",
    "mahotas",
    "numba",
    "kneed",
    "duckdb",
    "rq",
    "keras",
    "tensorflow",
)


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


def quiet_tensorflow() -> None:
    """Keep TensorFlow's remarks on its own build out of logs and terminals; what goes wrong is raised all the same."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@cache
def versions() -> str:
    """Return, as JSON, the versions of DermSlim, of Python and of the packages that the figures depend on."""
    found = {"dermslim": __version__, "python": platform.python_version()}
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


def command_line(spec: RunSpec) -> str:
    """Return the command that submits this spec again."""
    words = ["python", "-m", "jobs", spec.kind, spec.dataset]
    words += training_options(spec) if isinstance(spec, TrainSpec) else _measuring_options(spec)
    return shlex.join(words)


def training_options(spec: TrainSpec) -> list[str]:
    """Return the options that describe a training on the command line."""
    training, standard = spec.training, TrainingProtocol()
    words = ["--network", spec.network.name, "--size", f"{training.height}x{training.width}"]
    words += ["--epochs", str(training.epochs), "--seed", str(training.seed)]
    if isinstance(spec, PruneTrainSpec):
        rules = spec.rules
        words += ["--factors", ",".join(map(_number, rules.factors)), "--scope", rules.scope]
        words += ["--max-failures", str(rules.max_failures)]
        if rules.max_iterations is not None:
            words += ["--max-iterations", str(rules.max_iterations)]
        if rules.on_reject != Rules().on_reject:
            words += ["--on-reject", rules.on_reject]
    for option in ("learning_rate", "batch_size", "rotation", "zoom", "brightness"):
        if getattr(training, option) != getattr(standard, option):
            words += [f"--{option.replace('_', '-')}", _number(getattr(training, option))]
    for option, value in (
        ("--no-augmentation", not training.augmentation),
        ("--mixed-precision", training.mixed_precision),
        ("--jit-compile", training.jit_compile),
        ("--leaky-split", spec.leaky_split),
    ):
        words += [option] if value else []
    if spec.targets != Targets():
        words += ["--targets", f"{spec.targets.train},{spec.targets.validation},{spec.targets.test}"]
    if spec.split_seed != 1:
        words += ["--split-seed", str(spec.split_seed)]
    if spec.device != "auto":
        words += ["--device", spec.device]
    if spec.thresholds != article_baseline(spec.network.name):
        words += baseline_option(spec.thresholds)
    return words


def baseline_option(baseline: Baseline) -> list[str]:
    """Return the option that describes a baseline on the command line."""
    return ["--baseline", ",".join(map(_number, dict(baseline).values()))]


def _number(value: float) -> str:
    """Return a number as it is typed, in full where six digits would be another one."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _measuring_options(spec: MeasuringSpec) -> list[str]:
    words: list[str] = []
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
    return words
