"""How long a converted network needs for one image, and how much memory.

Each network has a process of its own (`core.deployment.predictor`). The processes take turns in random order, one
prediction a turn, so that what else happens on the host meets all of them alike.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from core.deployment.formats import FORMATS
from core.deployment.runtimes import package
from core.errors import DermSlimError
from core.processes import processor
from core.settings import usable_cores

ROUNDS = 200
WARM_UP = 20  # predictions of each network before the first that counts
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Latency:
    """The times of a step's network in one format, in milliseconds; the columns of the store's table `latencies`.

    From an array of pixels at the network's size to the probabilities, one image at a time. threads: of the runtime.
    rounds: predictions that were timed. cpu_*: of all threads of the process. peak_memory: bytes, the largest resident
    memory of the process, with Python and NumPy. load: processes that wanted a core as the measurement began.
    """

    step: int
    format: str
    threads: int
    rounds: int
    wall_median: float
    wall_p95: float
    cpu_median: float
    cpu_p95: float
    peak_memory: int
    runtime: str
    processor: str
    cores: int
    load: float

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class NetworkFile:
    """A converted network: the step's number, the format's name, the file, and the size of its images."""

    step: int
    format: str
    path: Path
    height: int
    width: int


def latencies(
    files: Sequence[NetworkFile],
    *,
    rounds: int = ROUNDS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Latency]:
    """Measure each network with one thread and with a thread for each core. Raises DermSlimError where one cannot run.

    progress(done, total): called after each round; what it raises ends the measurement.
    """
    load, order = os.getloadavg()[0], random.Random(seed)
    every = [(file, threads) for file in files for threads in sorted({1, usable_cores()})]
    with ExitStack() as stack:
        turns = [stack.enter_context(Predictor.started(file, threads, seed)) for file, threads in every]
        for turn in turns:
            turn.predict(WARM_UP)
        for done in range(1, rounds + 1):
            for turn in order.sample(turns, len(turns)):
                turn.times.append(turn.predict(1))
            progress(done, rounds)
    return [
        Latency(
            step=file.step,
            format=file.format,
            threads=threads,
            rounds=rounds,
            **turn.figures(),
            peak_memory=turn.peak_memory,
            runtime=f"{FORMATS[file.format].runtime} {version(package(FORMATS[file.format].runtime))}",
            processor=processor()[0],
            cores=usable_cores(),
            load=load,
        )
        for turn, (file, threads) in zip(turns, every, strict=True)
    ]


class Predictor:
    """A process that predicts on request. times: wall and CPU seconds. peak_memory: bytes, as it last said."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.times: list[tuple[float, float]] = []
        self.peak_memory = 0

    @classmethod
    @contextmanager
    def started(cls, file: NetworkFile, threads: int, seed: int) -> Iterator[Predictor]:
        """Start a process that has loaded the network; it ends with the block."""
        numbers = (threads, file.height, file.width, seed, os.getpid())
        process = subprocess.Popen(
            [sys.executable, "-m", "core.deployment.predictor", str(file.path), file.format, *map(str, numbers)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        with process:
            try:
                yield cls(process)
            finally:
                process.kill()

    def predict(self, count: int) -> tuple[float, float]:
        """Return the wall and CPU seconds of the last of so many predictions. DermSlimError where it cannot predict."""
        asked, told = cast("IO[str]", self.process.stdin), cast("IO[str]", self.process.stdout)
        try:
            print(count, file=asked, flush=True)
            line = told.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise DermSlimError("Expected a network to predict an image, but its process ended.")
        answer = json.loads(line)
        if isinstance(answer, str):
            raise DermSlimError(answer)
        wall, cpu, self.peak_memory = answer
        return wall, cpu

    def figures(self) -> dict[str, float]:
        """Return median and 95th percentile of wall and CPU time, in milliseconds, by the names of `Latency`."""
        wall, cpu = 1000 * np.array(self.times).T
        return {
            f"{name}_{figure}": float(np.percentile(values, share))
            for name, values in (("wall", wall), ("cpu", cpu))
            for figure, share in (("median", 50), ("p95", 95))
        }
