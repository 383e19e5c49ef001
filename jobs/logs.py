"""The log of every process: JSON lines in DATA_DIR/logs, and sentences (or the same JSON) on standard error."""

from __future__ import annotations

import fcntl
import logging
import logging.handlers
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

from core.files.private import open_lock, private_folder, private_opener
from core.settings import Settings, variables

LIMIT = 5_000_000  # bytes after which a file is moved aside
OLD_FILES = 2
MASK = "***"
SECRET_NAMES = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|API_?KEY|PRIVATE|WEBHOOK_URL", re.IGNORECASE)
PASSWORD_IN_URL = re.compile(r"(?P<before>\b[a-z][a-z0-9+.-]*://[^\s/@:]*:)[^\s/@]+(?=@)", re.IGNORECASE)
PASSWORD_IN_QUERY = re.compile(r"(?P<before>[?&](?:ssl_)?password=)[^&\s]+", re.IGNORECASE)
SHORTEST_SECRET = 6  # characters; a shorter value may be part of any word
MOST_ALIKE, ALIKE_SECONDS = 10, 60.0  # the same warning is logged so often within so many seconds; more are counted
MOST_KINDS = 1000  # of warnings that are told apart
# Control characters, Unicode line ends, characters that change the writing direction, and surrogates for the bytes of a
# name that is not UTF-8: they could overwrite a terminal, look like another line, or stop the log.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_context: dict[str, str] = {}
_given: dict[str, str] = {}  # the variables as `set_up` found them, `.env` included


def masked(text: str, environ: Mapping[str, str] | None = None) -> str:
    """Return a text without the passwords of its URLs and without the values of secret environment variables."""
    text = PASSWORD_IN_QUERY.sub(rf"\g<before>{MASK}", PASSWORD_IN_URL.sub(rf"\g<before>{MASK}", text))
    for name, value in ({**_given, **os.environ} if environ is None else environ).items():
        if len(value) >= SHORTEST_SECRET and SECRET_NAMES.search(name):
            text = text.replace(value, MASK)
    return text


def escaped(text: str) -> str:
    """Return a text in one line, with unprintable characters escaped: `\\n`, `\\x1b`."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def note(**facts: str | None) -> None:
    """Have all later lines of this process carry these facts, such as run_id, job_id, worker; None takes one back."""
    for name, value in facts.items():
        if value is None:
            _context.pop(name, None)
        else:
            _context[name] = value


def note_job(job_id: str | None) -> None:
    """Note the job that is at hand, and the run that its id names; None once it has ended."""
    run_id = job_id.split("--")[0] if job_id and "--" in job_id else None
    note(job_id=job_id, run_id=run_id)


class JsonLines(JsonFormatter):
    """A line a record: time (UTC), level, logger, message, process, host, and what `note` was given."""

    def __init__(self, process: str) -> None:
        everywhere = {"process": process, "host": socket.gethostname()}
        super().__init__("%(message)s", static_fields=everywhere, json_ensure_ascii=False)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, masked, with what JSON leaves as it is escaped too."""
        line = masked(super().format(record))
        return UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        """Add the facts that hold for the whole process."""
        return {**log_data, **{name: value for name, value in _context.items() if name not in log_data}}

    def add_fields(
        self, log_data: dict[str, object], record: logging.LogRecord, message_dict: dict[str, object]
    ) -> None:
        """Put time, level and logger first."""
        log_data["time"] = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        super().add_fields(log_data, record, message_dict)
        log_data["pid"] = record.process


class Sentences(logging.Formatter):
    """The line for a person: time, level, the run where one is known, message.

    A message is one line, whatever it quotes; the lines of what was raised are set in, and look like no other record.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, masked."""
        line, *raised = masked(super().format(record)).split("\n")
        return "\n".join([line, *(f"    {escaped(each)}" for each in raised)])

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        """Return the line without what was raised."""
        run = f" [{_context['run_id']}]" if "run_id" in _context else ""
        return escaped(f"{super().formatMessage(record)}{run} {record.message}")


class Repetitions(logging.Filter):
    """Leaves repeated messages out of a log, and adds their number to the next one.

    Alike are warnings and errors with the same text, and errors raised at the same place. A fault that someone brings
    about a thousand times a second would else push everything else out of the log.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kinds: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()  # beginning, how many since
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Decide on a record, once for all handlers."""
        if record.levelno < logging.WARNING:
            return True
        with self._lock:
            known = record.__dict__.get("_kept")
            if known is None:
                known = record.__dict__["_kept"] = self._keeps(record)
        return bool(known)

    def _keeps(self, record: logging.LogRecord) -> bool:
        kind, now = (record.name, *_place(record)), time.monotonic()
        begun, count = self._kinds.get(kind, (now, 0))
        if now - begun >= ALIKE_SECONDS:
            left_out, begun, count = count - MOST_ALIKE, now, 0
            if left_out > 0:
                record.msg, record.args = f"{record.getMessage()} (and {left_out} more like it before)", ()
        self._kinds[kind] = (begun, count + 1)
        self._kinds.move_to_end(kind)
        while len(self._kinds) > MOST_KINDS:
            self._kinds.popitem(last=False)
        return count < MOST_ALIKE


def _place(record: logging.LogRecord) -> tuple[object, ...]:
    """Return what is the same for records that are alike."""
    if not record.exc_info or record.exc_info[1] is None:
        return (record.getMessage(),)
    frames = traceback.extract_tb(record.exc_info[2], limit=-1)
    return (record.exc_info[0], *((frame.filename, frame.lineno) for frame in frames))


class SharedFile(logging.handlers.WatchedFileHandler):
    """A log that several processes append to; a process that finds it too long rotates it, and the others follow.

    Only moving it aside takes a lock, and nobody waits for it. The package concurrent-log-handler locks each line:
    while any process holds the lock, such as a worker that was paused, no other process can log, nor end.
    """

    def _open(self) -> TextIOWrapper:
        handle = private_opener(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        return os.fdopen(handle, "a", encoding=self.encoding)

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record."""
        try:
            move_aside(Path(self.baseFilename))
            super().emit(record)
        except OSError:
            self.handleError(record)


def move_aside(path: Path, limit: int = LIMIT) -> None:
    """Rename a log longer than `limit` bytes to NAME.1, the one before to NAME.2; one process at a time does it."""
    if not _longer(path, limit):
        return
    with os.fdopen(open_lock(path.with_name(f"{path.name}.lock")), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another process is at it; logging waits for nobody
            return
        if not _longer(path, limit):  # another process was faster
            return
        make_room(path)
        path.replace(path.with_name(f"{path.name}.1"))


def make_room(path: Path) -> None:
    """Rename NAME.1, a log that was moved aside, to NAME.2, which is replaced."""
    for number in range(OLD_FILES, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))


def _longer(path: Path, limit: int) -> bool:
    try:
        return path.stat().st_size > limit
    except FileNotFoundError:  # another process has just moved it aside
        return False


def set_up(
    process: str,
    settings: Settings,
    *,
    level: int = logging.INFO,
    stream: TextIO | None = None,
    new_folder: bool = True,
) -> None:
    """Send this process's log to DATA_DIR/logs/PROCESS.jsonl and to standard error (`stream`); call it once.

    process: `worker-svd`, `worker-record`, `command`, `launcher`, `dashboard`. level: from which lines go to standard
    error; the file gets all from INFO on. new_folder: whether DATA_DIR is made where there is none. A folder that is
    not there, or cannot be written, leaves standard error alone.
    """
    given = variables()
    _given.update(given.given())
    shown = logging.StreamHandler(stream or sys.stderr)
    shown.setLevel(level)
    shown.setFormatter(JsonLines(process) if given.log_format == "json" else Sentences("%(asctime)s %(levelname)s"))
    handlers: list[logging.Handler] = [shown]
    path = settings.logs / f"{process}.jsonl"
    problem = ""
    if new_folder or settings.data_dir.is_dir():
        try:
            private_folder(settings.data_dir)
            private_folder(path.parent)
            kept = SharedFile(path, encoding="utf-8")
        except OSError as error:
            problem = f"Expected to write {path}, got {error.strerror or error}. The log goes only to standard error."
        else:
            kept.setFormatter(JsonLines(process))
            handlers.append(kept)
    repetitions = Repetitions()
    for handler in handlers:
        handler.addFilter(_tells_something)
        handler.addFilter(repetitions)
    logging.basicConfig(level=logging.INFO, handlers=handlers, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_what_ended_it
    if problem:
        logging.getLogger(__name__).warning("%s", problem)


def _tells_something(record: logging.LogRecord) -> bool:
    """Leave out what RQ says at each of its rounds, every few seconds of an idle worker."""
    return not (record.name == "rq.worker" and record.levelno < logging.WARNING and "cleaning" in str(record.msg))


def _log_what_ended_it(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, frames)
    else:
        logging.getLogger(__name__).critical("ended by what nothing expected", exc_info=(kind, error, frames))
