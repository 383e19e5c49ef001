"""Limit the `train` workers on one GPU: each holds the lock of one of n files, whatever its account on the host."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from core.errors import DermSlimError


def take_slot(gpu: int, at_most: int, folder: Path | None = None) -> int:
    """Take a free one of a GPU's slots; return the open file that holds it until this process ends.

    folder: of the files, by default the system's for temporary files, which all accounts of a host share.
    DermSlimError when all are taken.
    """
    folder = folder or Path(tempfile.gettempdir())
    for number in range(1, at_most + 1):
        handle = _opened(folder / f"dermslim-gpu-{gpu}-{number}.lock")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            os.close(handle)
    workers = "1 worker trains" if at_most == 1 else f"{at_most} workers train"
    raise DermSlimError(f"Expected a free place on GPU {gpu}, got none: {workers} there, as many as --at-most allows.")


def _opened(path: Path) -> int:
    """Open a lock file to read, which is enough to lock one that another account made."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise DermSlimError(f"Expected to open {path}, got {error.strerror or error}.") from error


def gpu_environment(gpu: int, at_most: int) -> Mapping[str, str]:
    """Return the environment variables that a work-horse needs before it imports Keras.

    It sees only that GPU; if several workers share it, no backend takes all of its memory at once.
    """
    environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(gpu)}
    if at_most > 1:
        environment |= {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return environment
