"""Read small files of users, where a pipe or device cannot make a process wait; write files whole."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def read_plain(path: Path, most: int) -> bytes:
    """Return at most `most` bytes of a regular file; links are followed.

    Raises OSError for other files: opening a pipe would wait for a writer, and opening a device may have effects.
    """
    _require_file(path.stat().st_mode, path)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        _require_file(os.fstat(file.fileno()).st_mode, path)  # the opened file, which may have replaced the first
        return file.read(most)


def _require_file(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "It is a pipe, socket or device", str(path))


@contextmanager
def whole_file(path: Path, draft: Path) -> Iterator[Path]:
    """Yield the draft to write to. It replaces `path` at the block's end, so that no reader ever sees half a file."""
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
