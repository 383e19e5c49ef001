"""Checkpoints of a training: written while the next epoch is trained, read by the process that goes on.

A folder holds one checkpoint (everything that training changes, and the figures of all epochs) and the kept weights. A
process that is killed while it writes leaves the previous checkpoint whole.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from core.files.plain_files import whole_file
from core.training.results import EpochResult

CHECKPOINT_NAME = "checkpoint.npz"
KEPT_NAME = "kept-{epoch}.npz"  # written before the checkpoint that refers to it
DAMAGED = (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile)  # NumPy's, for a damaged file
PAUSE = 20  # times as long as the last checkpoint took to write

Arrays = list[npt.NDArray[Any]]


class CheckpointWriter:
    """Write checkpoints of one training to a folder, in a thread.

    A large network's checkpoint takes half a second, which is much of a short epoch. `due` therefore says when one is
    to be written, so that writing takes at most 1/`PAUSE` of the time. The end of the `with` block waits for the last
    one.
    """

    def __init__(self, folder: Path, identity: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.identity, self.clock = folder, identity, clock
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[float] | None = None
        self._next = clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if kind is None:
            self._finished()

    def due(self) -> bool:
        """Return whether the state after this epoch is to be written. Raises what the last writing raised."""
        if not self.written():
            return False
        self._finished()
        return self.clock() >= self._next

    def written(self) -> bool:
        """Return whether nothing is being written now."""
        return self._written is None or self._written.done()

    def write(self, values: Arrays, weights: Arrays | None, history: Sequence[EpochResult]) -> None:
        """Begin to write a checkpoint, once the one before is written. Raises what that raised.

        values: what training changes. weights: those to keep; None: they have been written before.
        """
        self._finished()
        self._written = self._thread.submit(self._save, values, weights, tuple(history))

    def _save(self, values: Arrays, weights: Arrays | None, history: tuple[EpochResult, ...]) -> float:
        began = self.clock()
        save(self.folder, values, weights, history, self.identity)
        return self.clock() - began

    def _finished(self) -> None:
        if self._written is not None:
            self._next = self.clock() + PAUSE * self._written.result()
            self._written = None


def save(folder: Path, values: Arrays, weights: Arrays | None, history: Sequence[EpochResult], identity: str) -> None:
    """Write the kept weights, then the checkpoint; a process killed meanwhile leaves the previous checkpoint.

    weights: None where those that are kept have been written before.
    """
    kept = folder / KEPT_NAME.format(epoch=kept_epoch(history))
    if weights is not None:
        write_arrays(kept, weights)
    about = {"identity": identity, "history": [asdict(result) for result in history]}
    write_arrays(folder / CHECKPOINT_NAME, values, about)
    for other in folder.glob(KEPT_NAME.format(epoch="*")):
        if other != kept:
            other.unlink()


def write_arrays(path: Path, values: Arrays, about: dict[str, Any] | None = None) -> None:
    """Write arrays, and values as JSON, to a file atomically."""
    arrays: dict[str, Any] = {f"{number}": array for number, array in enumerate(values)}
    with whole_file(path, path.with_suffix(".half")) as draft, draft.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)
        file.flush()
        os.fsync(file.fileno())


def read_arrays(path: Path) -> Arrays:
    """Return the arrays of `write_arrays`. Raises one of `DAMAGED` where the file is damaged."""
    with np.load(path, allow_pickle=False) as file:
        return [file[f"{number}"] for number in range(len(file.files) - 1)]


def kept_weights(folder: Path, history: Sequence[EpochResult]) -> Arrays:
    """Return the weights of the epoch that is kept."""
    return read_arrays(folder / KEPT_NAME.format(epoch=kept_epoch(history)))


def history_of(folder: Path) -> tuple[EpochResult, ...]:
    """Return the epochs of a folder's checkpoint."""
    return read_about(folder)[1]


def read_about(folder: Path) -> tuple[str, tuple[EpochResult, ...]]:
    """Return a checkpoint's identity and epochs; none where it is damaged, or it or the kept weights are missing."""
    try:
        with np.load(folder / CHECKPOINT_NAME, allow_pickle=False) as file:
            about: dict[str, Any] = json.loads(str(file["about"]))
        history = tuple(EpochResult(**values) for values in about["history"])
        kept = folder / KEPT_NAME.format(epoch=kept_epoch(history))
        return (str(about["identity"]), history) if kept.is_file() else ("", ())
    except DAMAGED:
        return "", ()


def rank(result: EpochResult) -> tuple[bool, float]:
    """Return the key by which the kept epoch is chosen; higher is better."""
    return result.meets_baseline, -1.0 if result.validation_accuracy is None else result.validation_accuracy


def kept_epoch(history: Sequence[EpochResult]) -> int:
    """Return the epoch whose weights are kept."""
    return max(history, key=rank).epoch
