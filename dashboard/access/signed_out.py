"""The sessions that were signed out early, in a file, so that their cookies stay invalid after a restart."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import NamedTuple

from core.files.file_lock import file_lock
from core.files.private import private_folder, write_private

MOST = 10_000  # sessions; where more are signed out, all that began by then are
LOCK_SECONDS = 10.0
LOG = logging.getLogger("dermslim.login")


class Ended(NamedTuple):
    """The file's content. before: seconds since 1970; all sessions that began by then have ended. numbers: the other
    ended sessions, with the expiry of their cookies in seconds since 1970."""

    before: float
    numbers: dict[str, float]


class SignedOut:
    """The sessions in `file`, which all dashboards of a data folder share; only its owner may read it."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._here: dict[str, float] = {}  # signed out by this process, also while the disk is full
        self._read: tuple[tuple[int, int, int] | None, Ended] = (None, Ended(0.0, {}))

    def holds(self, number: str, issued: float) -> bool:
        """Return whether a session was signed out; issued: when it began, in seconds since 1970."""
        ended = self._ended()
        # A future time was written by a wrong clock and would end all sessions until then, so it does not count.
        return number in ended.numbers or number in self._here or issued <= ended.before <= time.time()

    def add(self, number: str, until: float) -> None:
        """Sign a session out; until: its expiry in seconds since 1970.

        Where the file cannot be written (OSError, StoreBusy), it is signed out in this process only.
        """
        self._here[number] = until
        private_folder(self.file.parent)
        with file_lock(self.file.with_name(f"{self.file.name}.lock"), shared=False, timeout=LOCK_SECONDS):
            now = time.time()
            before, numbers = self._ended()
            here = {**self._here, number: until}
            numbers = {each: end for each, end in {**numbers, **here}.items() if end > now}
            if len(numbers) > MOST:
                before, numbers = now, {}
            write_private(self.file, json.dumps(Ended(before, numbers)._asdict()))
        for each in here:
            self._here.pop(each, None)

    def _ended(self) -> Ended:
        """Return the file's content, read again where it has changed."""
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return Ended(0.0, {})
        except OSError as error:
            return self._unknown(error, time.time())
        state = (found.st_ino, found.st_size, found.st_mtime_ns)
        if self._read[0] != state:
            self._read = (state, self._parsed(found.st_mtime))
        return self._read[1]

    def _parsed(self, changed: float) -> Ended:
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            numbers = {str(each): float(end) for each, end in content["numbers"].items()}
            return Ended(float(content["before"]), numbers)
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            return self._unknown(error, changed)

    def _unknown(self, error: Exception, by: float) -> Ended:
        """Return that all sessions have ended, because the ended ones are unknown."""
        LOG.error("the list of ended sessions %s cannot be read: %s", self.file, error)
        return Ended(by, {})
