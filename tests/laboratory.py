"""Shared by tests of jobs: small image folders, and real workers in their own processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import psutil
from forks import Forked

from benchmarks.processes import Process, run_command
from core.networks.architectures import CLASSES
from core.predictions.rows import COLUMNS, prediction_frame
from core.settings import Settings
from core.store.measurements import Store
from core.training.specs import TrainSpec
from jobs.queues import Queues
from jobs.run_states import WorkerState

ROOT = Path(__file__).resolve().parents[1]
# For processes that train: they import a substitute, because importing Keras takes three seconds.
WITHOUT_KERAS = {"PYTHONPATH": str(ROOT / "tests" / "without_keras")}
WELL_BEGUN = 0.05  # seconds of CPU time after which the process of a job is set to end with its worker
MEASURED = ["seconds", "epoch_seconds", "images_per_second", "peak_memory", "weights", "worker"]
TIMES = ["attempt", "started_at", "finished_at", "ended_at", "run_id", *MEASURED]
Worker = subprocess.Popen[bytes] | Forked
Trained = tuple[list[Any], pd.DataFrame]  # a run's steps and epochs

REFERENCE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from core.data.datasets import load_dataset
from core.training.results import StepResult
from core.training.specs import training_spec_from_dict
from core.training.data import training_data
from core.training.steps import run_here
folder, place, spec = Path(sys.argv[1]), Path(sys.argv[2]), training_spec_from_dict(json.loads(sys.argv[3]))
data = training_data(load_dataset(folder), spec, place / "arrays")
steps, epochs = [], []
for event in run_here(spec, data, place / "run"):
    if isinstance(event, tuple):
        step, result = event
        if isinstance(result, StepResult):
            steps.append(result.to_dict())
        else:
            epochs.append({"step": step.index, **asdict(result)})
print(json.dumps([steps, epochs]))
"""


def write_lesions(folder: Path, count: int = 24, *, height: int = 40, width: int = 56) -> Path:
    """Draw `count` noisy images of each of the four classes, which differ in the brightness of the lesion."""
    generator = np.random.default_rng(0)
    for number, label in enumerate(CLASSES):
        (folder / label).mkdir(parents=True)
        for image in range(count):
            pixels = generator.normal(150, 25, (height, width, 3))
            pixels[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] -= 25 * number
            name = f"{label}{image:03}.png"
            cv2.imwrite(str(folder / label / name), np.clip(pixels, 0, 255).astype(np.uint8))
    return folder


def write_images(folder: Path, count: int, *, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"mole{number:03}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return folder


@contextmanager
def workers(
    settings: Settings, *kinds: str, beside: bool = False, keras: bool = False, forked: bool = True
) -> Iterator[list[Worker]]:
    """Start workers and give their processes.

    beside: other workers may run already or have been killed. keras: train with Keras instead of its substitute.
    forked: from a process that has imported what workers need, see `forks`; otherwise as `python -m jobs.worker`.
    """
    environment = {
        **os.environ,
        **({} if keras else WITHOUT_KERAS),
        "DATA_DIR": str(settings.data_dir),
        "DATA_ROOTS": os.pathsep.join(map(str, settings.data_roots)),
        "REDIS_URL": str(settings.redis_url),
    }

    def start(kind: str) -> Worker:
        if forked:
            return Forked(kind, environment)
        return Process([sys.executable, "-m", "jobs.worker", kind], cwd=ROOT, env=environment)

    started = [start(kind) for kind in kinds]
    try:
        queues = Queues(settings)
        pids = {process.pid for process in started}
        wait_for(
            lambda: pids <= (known := {worker.pid for worker in queues.workers()}) and (beside or pids == known), 120
        )
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            wait_or_kill(process)


def end(process: Worker, seconds: float = 20) -> None:
    """Ask a process to end, and kill it if it has not ended after `seconds`."""
    process.terminate()
    wait_or_kill(process, seconds)


def wait_or_kill(process: Worker, seconds: float = 20) -> None:
    """Wait for a process that was asked to end; do not ask twice, because a worker would then drop its job."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """Return a loopback port that is free at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)


def gone(process: psutil.Process) -> bool:
    """Return whether a process has ended; a zombie counts as ended."""
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def suspended_job(*workers: Worker | WorkerState, seconds: float = 120) -> psutil.Process:
    """Wait for the process of a job of one of these workers and suspend it, so that only the test can end it."""
    found: list[psutil.Process] = []

    def suspended() -> bool:
        for process in [job for worker in workers for job in psutil.Process(worker.pid).children()]:
            with suppress(psutil.NoSuchProcess):  # it has just ended by itself
                if process.cpu_times().user < WELL_BEGUN:
                    continue
                process.suspend()
                while (status := process.status()) not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                    time.sleep(0.005)
                if status == psutil.STATUS_STOPPED:
                    found.append(process)
                    return True
        return False

    wait_for(suspended, seconds)
    return found[0]


def settled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return rows without the columns that differ between two equal runs: times, worker and files."""
    return frame.drop(columns=[name for name in TIMES if name in frame])


def trained_here(spec: TrainSpec, images: Path, place: Path, *, keras: bool = False) -> Trained:
    """Train in a separate process without queue and workers; return the run's steps and epochs."""
    command = [sys.executable, "-c", REFERENCE, str(images), str(place), json.dumps(spec.to_dict())]
    environment = {**os.environ, **({} if keras else WITHOUT_KERAS)}
    answer = run_command(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=400)
    steps, epochs = json.loads(answer.stdout.splitlines()[-1])
    return steps, pd.DataFrame(epochs)


def assert_trained_alike(store: Store, run_id: str, reference: Trained) -> None:
    """Assert that the rows of a run equal those of an uninterrupted run, without duplicates."""
    steps, epochs = reference
    results = store.step_results(run_id)
    assert [result.step for result in results] == [step["step"] for step in steps]
    for result, expected in zip(results, steps, strict=True):
        found = result.to_dict()
        other = (*MEASURED, "weights_bytes", "checkpoint_bytes", "device", "predictions")
        same = [name for name in expected if name not in other]
        assert {name: found[name] for name in same} == {name: expected[name] for name in same}
        predicted = store.predictions([run_id], step=result.step)[list(COLUMNS)]
        wanted = prediction_frame(expected["predictions"]) if expected["predictions"] else predicted.iloc[:0]
        pd.testing.assert_frame_equal(predicted, wanted, check_dtype=False, check_exact=True)
    rows = store.epochs([run_id])
    columns = list(settled(epochs).columns)
    pd.testing.assert_frame_equal(rows[columns], epochs[columns], check_dtype=False, check_exact=True)
