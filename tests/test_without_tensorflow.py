"""Everything except training works without Keras and TensorFlow; training names the packages to install."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import run_command
from core.data.demo import create_demo_dataset
from core.settings import Settings
from dashboard import __main__ as launcher
from dashboard.supervisor import Program

ROOT = Path(__file__).resolve().parents[1]
SENTENCE = "Training needs packages that are not installed: keras, tensorflow. Run `make setup`"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Give an environment in which Python finds neither Keras nor TensorFlow."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules.update(keras=None, tensorflow=None)\n")
    roots = {"DATA_DIR": str(tmp_path / "data"), "DATA_ROOTS": str(tmp_path)}
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    return {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"} | roots | {"PYTHONPATH": path}


# Modules that import Keras at once, or others that do.
TRAINING = ("__init__.py", "keras_models.py", "batches.py", "devices.py", "models.py", "loop.py", "probe.py")


def ran(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return run_command([sys.executable, *command], env=environment, cwd=ROOT, capture_output=True, text=True)


def test_every_module_except_those_of_training_can_be_imported(environment: dict[str, str]) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("core", "jobs", "dashboard")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name not in TRAINING and path.parent.name != "app_pages"
    ]
    assert len(names) > 60
    leaves = ("dashboard.app", "dashboard.server")  # importing these runs them
    done = ran(environment, "-c", "".join(f"import {name}\n" for name in names if name not in leaves))
    assert done.returncode == 0, done.stderr


def test_a_sweep_can_be_measured_without_tensorflow(environment: dict[str, str], tmp_path: Path) -> None:
    create_demo_dataset(tmp_path / "images", images=8)
    sweep = ("-m", "jobs", "svd-sweep", str(tmp_path / "images"), "--k", "10", "--limit", "2", "--local")
    done = ran(environment, *sweep, "--export", str(tmp_path / "rows.csv"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "rows.csv").read_text().count("\n") == 3


def test_local_training_is_refused_with_what_to_install(environment: dict[str, str], tmp_path: Path) -> None:
    done = ran(environment, "-m", "jobs", "train", str(tmp_path / "no-such-folder"), "--local")
    assert (done.returncode, done.stdout) == (1, "")
    assert SENTENCE in done.stderr


def test_a_training_worker_ends_with_what_to_install(environment: dict[str, str]) -> None:
    done = ran(environment | {"REDIS_URL": "redis://127.0.0.1:9/0"}, "-m", "jobs.worker", "train")
    assert done.returncode == 1
    assert SENTENCE in done.stderr


def test_the_doctor_reports_missing_training_packages_as_a_warning(environment: dict[str, str]) -> None:
    done = ran(environment, "-m", "jobs", "doctor")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if "software:" in line] == ["ok", "ok", "warning", "ok"], done.stdout
    assert "not installed: keras, tensorflow; networks cannot be trained here" in done.stdout
    assert not [line for line in lines if line.startswith("error") and "Keras" in line]


def test_the_launcher_starts_no_training_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    started: list[str] = []

    def programs(settings: Settings, options: argparse.Namespace) -> list[Program]:
        started.extend(program.name for program in launcher.all_programs(settings, options))
        raise launcher.LaunchError("the programs are known")

    assert launcher.main([], programs) == 1
    assert "train-1" in started
    started.clear()
    for package in ("keras", "tensorflow"):
        monkeypatch.setitem(sys.modules, package, None)
    assert launcher.main([], programs) == 1
    assert "svd-1" in started
    assert not any("train" in name for name in started)
    assert f"no train worker is started. {SENTENCE}" in capsys.readouterr().out
