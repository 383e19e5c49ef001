"""Small files that a user may have put anywhere, read so that nothing in their place can keep a process waiting."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_plain(path: Path, most: int) -> bytes:
    """Return at most `most` bytes of a regular file; links are followed.

    OSError for what is none: opening a pipe or a device would wait for ever, or do something.
    """
    _require_file(path.stat().st_mode, path)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        _require_file(os.fstat(file.fileno()).st_mode, path)  # of what was opened, whatever was put there meanwhile
        return file.read(most)


def _require_file(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "It is a pipe, socket or device", str(path))
