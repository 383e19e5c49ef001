"""What several tests of the jobs need: small image folders, and real workers in their own processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from core.settings import Settings
from jobs.queues import Queues

ROOT = Path(__file__).resolve().parents[1]


def write_images(folder: Path, count: int, *, height: int = 40, width: int = 56, seed: int = 0) -> Path:
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"mole{number:03}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return folder


@contextmanager
def workers(settings: Settings, *kinds: str, beside: bool = False) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Start workers and give their processes; beside: others run already, of which some may have been killed."""
    environment = {
        **os.environ,
        "DATA_DIR": str(settings.data_dir),
        "DATA_ROOTS": os.pathsep.join(map(str, settings.data_roots)),
        "REDIS_URL": str(settings.redis_url),
    }
    started = [
        subprocess.Popen([sys.executable, "-m", "jobs.worker", kind], cwd=ROOT, env=environment) for kind in kinds
    ]
    try:
        queues = Queues(settings)
        pids = {process.pid for process in started}
        wait_for(
            lambda: pids <= (known := {worker.pid for worker in queues.workers()}) and (beside or pids == known), 60
        )
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.05)
