"""Two `svd` workers against one, and a worker's memory over a long run: `python -m benchmarks.workers`.

Both measure the same sweep (the article's k, JPEG 95, all metrics) of textured 450×600 images with a real queue and a
real store. With --memory one worker measures 2,000 images, and the largest resident memory in the first and in the last
tenth of the run are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import psutil

from benchmarks.processes import Process
from core.compression.specs import SweepSpec
from core.data.datasets import Dataset, load_dataset
from core.settings import Settings
from jobs.queues import Queues
from jobs.server import running_server

SPEED_TARGET, MEMORY_TARGET, GROWTH_ALLOWED = 1.8, 500, 1.1  # ratio, MB, last tenth against first
ROOT = Path(__file__).resolve().parents[1]


def write_images(folder: Path, count: int) -> Dataset:
    """Write seeded images with texture at every scale; files after the fiftieth repeat earlier contents."""
    folder.mkdir(parents=True)
    for number in range(min(count, 50)):
        generator = np.random.default_rng(number)
        image = np.zeros((450, 600, 3))
        for cells, strength in ((6, 60.0), (40, 12.0), (200, 5.0)):
            noise = generator.normal(0, strength, (cells, cells * 4 // 3, 3))
            image += cv2.resize(noise, (600, 450), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(150 + image + generator.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"a{number:05}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 100])
    for number in range(50, count):
        (folder / f"a{number:05}.jpg").hardlink_to(folder / f"a{number % 50:05}.jpg")
    return load_dataset(folder)


@contextmanager
def workers(settings: Settings, *kinds: str) -> Iterator[list[subprocess.Popen[bytes]]]:
    environment = {**os.environ, "DATA_DIR": str(settings.data_dir), "REDIS_URL": str(settings.redis_url)}
    environment["DATA_ROOTS"] = str(settings.data_roots[0])
    command = [sys.executable, "-m", "jobs.worker"]
    started = [Process([*command, kind], cwd=ROOT, env=environment) for kind in kinds]
    try:
        while len(Queues(settings).workers()) < len(kinds):
            time.sleep(0.1)
        yield started
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def seconds(queues: Queues, dataset: Dataset, count: int) -> float:
    """Return how long `count` workers take from submission to the finished run."""
    with workers(queues.settings, "record", *["svd"] * count):
        time.sleep(1)
        started = time.perf_counter()
        run_id = queues.submit(SweepSpec(dataset=dataset.name), dataset, again=True).run_id
        for _ in queues.wait(run_id, pause=0.05):
            pass
        return time.perf_counter() - started


def memory(queues: Queues, dataset: Dataset) -> tuple[float, float, float]:
    """Return the largest resident memory, in MB, of worker or job over a run, in its first and in its last tenth."""
    samples: list[tuple[float, float]] = []
    with workers(queues.settings, "record", "svd") as (_, worker):
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=(100, 350)), dataset, again=True).run_id
        process = psutil.Process(worker.pid)
        for state in queues.wait(run_id, pause=0.1):
            sizes = [process.memory_info().rss]
            for child in process.children():
                try:
                    sizes.append(child.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue
            samples.append((state.done / state.total, max(sizes) / 1e6))
    first = max(size for done, size in samples if done <= 0.1)
    last = max(size for done, size in samples if done >= 0.9)
    return max(size for _, size in samples), first, last


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--memory", action="store_true", help="measure memory over --images (default 2,000) instead")
    parser.add_argument("--images", type=int, help="images of the sweep (default 200)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings(folder / "data", (folder,))
        settings.data_dir.mkdir()
        with running_server(settings) as url:
            settings = Settings(folder / "data", (folder,), given_redis_url=url)
            queues = Queues(settings)
            dataset = write_images(folder / "images", options.images or (2000 if options.memory else 200))
            queues.register(dataset)
            if options.memory:
                most, first, last = memory(queues, dataset)
                met = most < MEMORY_TARGET and last <= first * GROWTH_ALLOWED
                print(f"memory: at most {most:.0f} MB; first tenth {first:.0f} MB, last tenth {last:.0f} MB")
                print(f"target: under {MEMORY_TARGET} MB and flat: {'met' if met else 'MISSED'}")
                return 0 if met else 1
            ratios = []
            for _ in range(3):
                one, two = seconds(queues, dataset, 1), seconds(queues, dataset, 2)
                ratios.append(one / two)
                print(f"one worker {one:.1f} s, two workers {two:.1f} s, ratio {one / two:.2f}")
    ratio = statistics.median(ratios)
    met = ratio >= SPEED_TARGET
    print(f"two workers: {ratio:.2f} times one (target {SPEED_TARGET}): {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
