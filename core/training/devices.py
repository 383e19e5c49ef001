"""Devices that a network is trained on, and what a backend says where their memory does not suffice."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import keras

from core.errors import DermSlimError
from core.settings import usable_cores
from core.training.results import TrainingError
from core.training.specs import TrainingProtocol


def accelerators() -> list[str]:
    """Return the accelerators that the backend sees, such as gpu:0; none where it has only the CPU."""
    try:
        found = keras.distribution.list_devices()
    except (AttributeError, RuntimeError):  # a backend without a list
        return []
    return [name.lower() for name in found if not name.lower().startswith("cpu")]


@contextmanager
def on_device(device: str) -> Iterator[None]:
    """Train on 'cpu', on 'gpu', or with 'auto' on the backend's default. Raises TrainingError without a GPU."""
    if device == "auto":
        yield
        return
    if device == "gpu" and not accelerators():
        raise TrainingError(
            f"Expected a GPU, but the backend {keras.backend.backend()} sees none on {socket.gethostname()}. Choose the"
            " device auto or cpu, or check the driver."
        )
    with keras.device(f"{device}:0"):
        yield


def device_name(device: str) -> str:
    """Return the device of a training with this choice: its name, product name, host and backend."""
    accelerator = next(iter(accelerators()), None) if device != "cpu" else None
    what = f"{usable_cores()} CPU cores" if accelerator is None else f"{accelerator} {gpu_name()}".strip()
    return f"{what} on {socket.gethostname()}, {keras.backend.backend()}"


def gpu_name() -> str:
    """Return the product name of the first GPU in use from nvidia-smi; empty without that tool."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):
        command.append(f"--id={visible.partition(',')[0]}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return answer.strip().partition("\n")[0]


@contextmanager
def explained(spec: TrainingProtocol) -> Iterator[None]:
    """Turn a backend's error about too little memory into a TrainingError with a hint; raise others unchanged."""
    try:
        yield
    except Exception as error:  # each backend has its own class
        if isinstance(error, DermSlimError) or not out_of_memory(error):
            raise
        raise TrainingError(
            f"There is too little memory for batches of {spec.batch_size} images of {spec.height}×{spec.width}. Try a"
            " smaller batch or smaller images, or end other programs that use the device."
        ) from error


def out_of_memory(error: Exception) -> bool:
    """Return whether an error means that a backend ran out of memory."""
    words = f"{type(error).__name__} {error}".lower()
    signs = ("resource_exhausted", "resourceexhausted", "out of memory", "outofmemory", "failed to allocate memory")
    return isinstance(error, MemoryError) or any(sign in words for sign in signs)
