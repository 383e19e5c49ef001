"""How long stopping, cancelling and killing take: `python -m benchmarks.stopping`.

A whole stack is ended in the middle of a sweep: by Ctrl-C, by Ctrl-C twice, and by SIGKILL of the launcher. Then, with
real workers, a sweep is cancelled, a training is cancelled at once, a worker is killed while its job hangs, and the
jobs of a run are deleted from the queue. Each is repeated, and the slowest time counts. The peer is SIGKILL to every
process of a stack, the fastest possible end. The tests check the same behaviour without times.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from redis import Redis

from benchmarks import training
from benchmarks.pages import free_port
from benchmarks.processes import Process
from benchmarks.workers import ROOT, workers, write_images
from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from core.settings import Settings
from jobs.queues import Queues
from jobs.server import running_server

TARGETS = {  # seconds
    "Ctrl-C": 8.0,
    "Ctrl-C twice": 2.0,
    "SIGKILL of the launcher": 3.0,
    "a cancelled sweep": 3.0,
    "a training that is cancelled at once": 10.0,
    "the hanging job of a killed worker": 5.0,
    "a run whose jobs are lost fails": 40.0,
}
KS = (100, 200, 300, 400)


def until(condition: Callable[[], object], seconds: float = 300) -> float:
    """Wait for a condition; return the seconds it took."""
    begin = time.perf_counter()
    while not condition():
        if time.perf_counter() - begin > seconds:
            raise TimeoutError(f"expected an end within {seconds:.0f} s")
        time.sleep(0.02)
    return time.perf_counter() - begin


def gone(process: psutil.Process) -> bool:
    """Return whether a process has ended; a zombie counts as ended."""
    with suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


def measured(queues: Queues, run_id: str) -> int:
    """Return how many images of a run are done."""
    state = queues.run(run_id)
    return state.done if state else 0


@contextmanager
def stack_at_a_sweep(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start everything, wait until a sweep is being measured, and give the launcher."""
    settings, port = Settings(folder / "data", (folder,)), free_port()
    command = [sys.executable, "-m", "dashboard", "--port", str(port), "--svd-workers", "2"]
    environment = {**os.environ, "DATA_DIR": str(settings.data_dir), "DATA_ROOTS": str(folder)}
    process = Process(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:

        def ready() -> bool:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health") as answer:
                return bool(answer.status == 200)
            return False

        until(ready)
        queues = Queues(settings)
        dataset = load_dataset(folder / "images")
        queues.register(dataset)
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=KS), dataset, again=True).run_id
        until(lambda: measured(queues, run_id) > 0)
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            for each in psutil.Process(process.pid).children(recursive=True):
                each.kill()
        process.kill()
        process.wait()


def stack_ended(folder: Path, action: Callable[[subprocess.Popen[bytes], list[psutil.Process]], None]) -> float:
    """Call `action` during a sweep; return the seconds until no process of the stack is left."""
    with stack_at_a_sweep(folder) as launcher:
        processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
        begin = time.perf_counter()
        action(launcher, processes)
        until(lambda: all(map(gone, processes)))
        return time.perf_counter() - begin


def twice(launcher: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C twice, half a second apart."""
    launcher.send_signal(signal.SIGINT)
    time.sleep(0.5)
    launcher.send_signal(signal.SIGINT)


def sweep_cancelled(queues: Queues, folder: Path) -> float:
    """Cancel a sweep that is being measured; return the seconds until no worker works on it."""
    dataset = load_dataset(folder)
    with workers(queues.settings, "record", "svd", "svd"):
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=KS), dataset, again=True).run_id
        until(lambda: measured(queues, run_id) > 2)
        queues.cancel(run_id)
        return until(lambda: all(worker.current_run is None for worker in queues.workers()))


def training_cancelled(queues: Queues, folder: Path) -> float:
    """Cancel a training at once; return the seconds until no worker works on it."""
    dataset = load_dataset(folder)
    with workers(queues.settings, "record", "train"):
        spec = training.spec_of("lenet5", dataset, 96, 200, "float32")
        run_id = queues.submit(spec, dataset, again=True).run_id
        until(lambda: len(queues.store.epochs([run_id])) > 1)
        queues.cancel(run_id, force=True)
        return until(lambda: all(worker.current_run is None for worker in queues.workers()))


def orphan_ended(queues: Queues, folder: Path) -> float:
    """Kill a worker whose job hangs; return the seconds until the job's process has ended."""
    dataset = load_dataset(folder)
    with workers(queues.settings, "record", "svd") as (_, worker):
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=KS), dataset, again=True).run_id
        until(lambda: measured(queues, run_id) > 2)
        jobs: list[psutil.Process] = []
        until(lambda: jobs or jobs.extend(psutil.Process(worker.pid).children()))
        job = jobs[0]
        job.suspend()
        worker.kill()
        seconds = until(lambda: gone(job))
        queues.cancel(run_id)
    return seconds


def lost_run_failed(queues: Queues, folder: Path) -> float:
    """Empty the queue during a run; return the seconds until the run has failed."""
    dataset = load_dataset(folder)
    with workers(queues.settings, "record"):
        run_id = queues.submit(SweepSpec(dataset=dataset.name, ks=KS), dataset, again=True).run_id
        until(lambda: queues.store.run(run_id))
    with Redis.from_url(str(queues.settings.redis_url)) as connection:
        connection.flushdb()
    with workers(queues.settings, "record"):
        return until(lambda: (state := queues.run(run_id)) and state.status == "failed")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stopping", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each measurement (default 3)")
    rounds = range(parser.parse_args().rounds)
    found: dict[str, list[float]] = {name: [] for name in TARGETS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", 400)
        training.write_images(folder / "lesions", 60)
        kills = [stack_ended(folder, lambda _, processes: [each.kill() for each in processes] and None) for _ in rounds]
        for _ in rounds:
            found["Ctrl-C"].append(stack_ended(folder, lambda launcher, _: launcher.send_signal(signal.SIGINT)))
            found["Ctrl-C twice"].append(stack_ended(folder, lambda launcher, _: twice(launcher)))
            found["SIGKILL of the launcher"].append(stack_ended(folder, lambda launcher, _: launcher.kill()))
        settings = Settings(folder / "queue", (folder,))
        settings.data_dir.mkdir()
        with running_server(settings) as url:
            queues = Queues(Settings(settings.data_dir, (folder,), given_redis_url=url))
            for images in ("images", "lesions"):
                queues.register(load_dataset(folder / images))
            for _ in rounds:
                found["a cancelled sweep"].append(sweep_cancelled(queues, folder / "images"))
                found["a training that is cancelled at once"].append(training_cancelled(queues, folder / "lesions"))
                found["the hanging job of a killed worker"].append(orphan_ended(queues, folder / "images"))
                found["a run whose jobs are lost fails"].append(lost_run_failed(queues, folder / "images"))
    print(f"peer, SIGKILL to every process of the stack: ended after {max(kills):.2f} s")
    met = True
    for name, target in TARGETS.items():
        good = max(found[name]) < target
        met &= good
        print(
            f"{name}: {max(found[name]):.2f} s, {max(found[name]) / max(kills):.1f} times the peer "
            f"(target {target:.0f} s): {'met' if good else 'MISSED'}"
        )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
