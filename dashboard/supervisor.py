"""Start programs, restart them when they die, and stop them with all their descendants.

No process outlives the launcher: a clean stop ends each program and its descendants; the kernel kills a program whose
launcher was killed; the orphans of a dead program are adopted and killed here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from core.errors import DermSlimError
from core.files.private import private_folder
from core.processes import LIBC, die_with_parent
from jobs.logs import make_room

LOG_LIMIT = 5_000_000  # bytes; a longer log is moved aside
TAIL_LINES = 12
HEADER = "---"  # begins the line that each start leaves in the log
STEADY_SECONDS = 60.0  # after running this long, a program's earlier failures do not count
LONGEST_DELAY = 30.0
TAIL_AT = 3  # consecutive failures after which the log's end is shown, once
TRIES_OF_A_TASK = 3

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>


@dataclass(frozen=True)
class Program:
    """A program to keep running.

    before_start, after_end: called before every start, and after every end. task: a program that ends by itself, with
    exit code 0 for success. serves_others: stopped last, because the others need it for their shutdown.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    before_start: Callable[[], object] | None = None
    after_end: Callable[[], object] | None = None
    task: bool = False
    serves_others: bool = False


@dataclass
class Child:
    """A program and its process. failures: consecutive. due: the next start on the monotonic clock."""

    program: Program
    logs: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    failures: int = 0
    due: float | None = 0.0

    @property
    def log(self) -> Path:
        """The file of the program's output."""
        return self.logs / f"{self.program.name}.log"

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent dies (Linux only)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def start(child: Child, *, folder: Path) -> None:
    """Start a child's process in `folder`, its output appended to its log.

    Call it from the main thread only, because the kernel kills a child when the thread that started it ends.
    """
    program = child.program
    if program.before_start is not None:
        program.before_start()
    private_folder(child.logs)
    rotate(child.log)
    with child.log.open("ab") as log:
        log.write(f"{HEADER} {time.strftime('%Y-%m-%d %H:%M:%S')} {program.name} starts\n".encode())
        log.flush()
        child.process = subprocess.Popen(
            program.command,
            cwd=folder,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **program.environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which then ends the others in order
            preexec_fn=partial(die_with_parent, os.getpid()),  # safe, since the launcher has one thread
        )
    child.started = time.monotonic()
    child.due = None


def look_after(children: Sequence[Child], *, folder: Path) -> Iterator[str]:
    """Start programs that are due, handle programs that ended, rotate logs; yield a sentence about each end."""
    for child in children:
        rotate(child.log, in_use=child.running)
        if child.due is None and not child.running:
            yield from _died(child)
            end_orphans(children)
        if child.due is not None and time.monotonic() >= child.due:
            try:
                start(child, folder=folder)
            except (OSError, DermSlimError) as error:
                yield f"{child.program.name} cannot be started: {error}; {_try_again(child)}"


def stop(children: Sequence[Child], *, patience: float = 3.0, in_a_hurry: Callable[[], bool] = lambda: False) -> None:
    """Stop every child and its descendants: SIGTERM, again after `patience` seconds, then SIGKILL.

    The second SIGTERM makes a worker abandon its current job.
    """
    servers = [child for child in children if child.program.serves_others]
    others = [child for child in children if not child.program.serves_others]
    for group in (others, servers):
        for seconds in (patience, 1.0):
            for child in group:
                if child.process is not None and child.running:
                    child.process.terminate()
            _wait_for(group, seconds, in_a_hurry)
        spared = set() if group is servers else {server.process.pid for server in servers if server.process}
        _kill_descendants(children, spared)


def end_orphans(children: Sequence[Child]) -> None:
    """Kill the orphans of a dead child, which were adopted."""
    _kill_descendants(children, {child.process.pid for child in children if child.process and child.running})


def tail(log: Path, lines: int = TAIL_LINES) -> str:
    """Return the last lines that a program wrote since its last start, indented."""
    with contextlib.suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 20_000))
        text = stream.read().decode(errors="replace").splitlines()
        starts = [number for number, line in enumerate(text) if line.startswith(HEADER)]
        text = text[starts[-1] + 1 :] if starts else text
        return "\n".join(f"    {line}" for line in text[-lines:])
    return "    (no log)"


def rotate(log: Path, limit: int | None = None, *, in_use: bool = False) -> None:
    """Rotate a log longer than `limit` bytes to NAME.log.1, and the previous one to NAME.log.2.

    in_use: a program appends to it. Then its end is copied and the log is truncated, because the program would continue
    to write to a renamed file. Lines written between the two, or not copied on a full disk, are lost.
    """
    limit = LOG_LIMIT if limit is None else limit
    with contextlib.suppress(OSError):
        if log.stat().st_size <= limit:
            return
        if not in_use:
            make_room(log)
            log.replace(log.with_name(f"{log.name}.1"))
            return
        try:
            make_room(log)
            with log.open("rb") as source, log.with_name(f"{log.name}.1").open("wb") as copy:
                source.seek(max(0, log.stat().st_size - 2 * limit))  # it may have grown much between two checks
                copy.write(source.read(2 * limit))
        finally:
            os.truncate(log, 0)


def _died(child: Child) -> Iterator[str]:
    name, process = child.program.name, child.process
    code = process.returncode if process is not None else 1
    child.process = None
    if child.program.after_end is not None:
        child.program.after_end()
    if child.program.task and code == 0:
        child.due = float("inf")
        yield f"{name} is done"
        return
    if time.monotonic() - child.started >= STEADY_SECONDS:
        child.failures = 0
    sentence = f"{name} ended ({_how(code)}); {_try_again(child)}"
    if child.failures == TAIL_AT or child.due == float("inf"):
        sentence += f"; the end of {child.log}:\n{tail(child.log)}"
    yield sentence


def _try_again(child: Child) -> str:
    child.failures += 1
    if child.program.task and child.failures >= TRIES_OF_A_TASK:
        child.due = float("inf")
        return "it is not tried again until the next start"
    delay = min(LONGEST_DELAY, 0.5 * 2 ** (child.failures - 1))
    child.due = time.monotonic() + delay
    return f"it is started again in {delay:g} s"


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _wait_for(children: Sequence[Child], seconds: float, in_a_hurry: Callable[[], bool]) -> None:
    deadline = time.monotonic() + seconds
    while any(child.running for child in children) and time.monotonic() < deadline and not in_a_hurry():
        time.sleep(0.05)


def _kill_descendants(children: Sequence[Child], spared: set[int]) -> None:
    """Kill all descendants of this process except the spared ones and theirs, and wait until they have ended."""
    started = {child.process.pid: child.process for child in children if child.process is not None}
    doomed = [process for process in psutil.Process().children() if process.pid not in spared]
    with_descendants = list(doomed)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            with_descendants += process.children(recursive=True)
    for process in with_descendants:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for process in doomed:
        if process.pid in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                started[process.pid].wait(2)
    psutil.wait_procs([process for process in with_descendants if process.pid not in started], timeout=2)
