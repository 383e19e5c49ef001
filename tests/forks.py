"""Workers for tests, forked from a process that has imported the modules of every worker once.

A worker's imports take about one second of CPU time, and the tests start more than a hundred workers. A forked worker
runs `jobs.worker` as `python -m jobs.worker` does, with its own environment.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

import pytest

from core.processes import die_with_parent

ROOT = Path(__file__).resolve().parents[1]


class Forked:
    """A worker, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, kind: str, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["worker_imports"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "tests"))))
            patch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # which the worker would import
            forkserver.ensure_running()
            self._process: BaseProcess = context.Process(target=_work, args=(kind, dict(environment)))
            self._process.start()
        self.pid = int(self._process.pid or 0)

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("a worker", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _work(kind: str, environment: Mapping[str, str]) -> None:
    from jobs import worker

    die_with_parent(os.getppid())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    sys.path[:0] = [each for each in environment.get("PYTHONPATH", "").split(os.pathsep) if each]
    sys.argv = [str(ROOT / "jobs" / "worker.py"), kind]
    sys.exit(worker.main([kind]))
