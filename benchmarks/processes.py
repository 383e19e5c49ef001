"""Processes of tests and benchmarks, which end when the process that started them ends, even if it is killed."""

from __future__ import annotations

import os
import subprocess
from typing import Any, AnyStr

from core.processes import die_with_parent


class Process(subprocess.Popen[AnyStr]):
    """A process that the kernel kills when the process that started it ends; `subprocess.Popen` otherwise."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **tied(options))


def run_command(command: Any, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command as `subprocess.run` does; it is killed when this process ends."""
    return subprocess.run(command, **tied(options))


def tied(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a process that ends with this one."""
    parent, before = os.getpid(), options.get("preexec_fn")

    def begin() -> None:
        die_with_parent(parent)
        if before is not None:
            before()

    return {**options, "preexec_fn": begin}
