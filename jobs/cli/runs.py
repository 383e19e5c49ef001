"""The commands about runs of any kind: `status`, `cancel`, `retry`."""

from __future__ import annotations

import argparse
from typing import Any

from core.settings import Settings
from jobs.cli.datasets import Command
from jobs.queues import Queues


def add_commands(commands: Any, command: Command) -> None:
    """Add the commands; command: adds one."""
    command(commands, "status", "print one line per run", act_status)
    for name, text, act in (
        ("cancel", "stop a run after the images being measured now", act_cancel),
        ("retry", "measure what a cancelled, failed or incomplete run left out", act_retry),
    ):
        command(commands, name, text, act).add_argument("run", metavar="RUN", help="the run's id, from `status`")


def act_status(options: argparse.Namespace) -> int:
    """Print id, kind, data set, status and progress of every run, newest first."""
    for state in Queues(Settings.from_environment()).runs():
        progress = f"{state.done + state.failed}/{state.total}" + (f" ({state.failed} failed)" if state.failed else "")
        print("\t".join((state.id, state.kind, state.dataset, state.status, progress)))
    return 0


def act_cancel(options: argparse.Namespace) -> int:
    """Stop a run."""
    Queues(Settings.from_environment()).cancel(options.run)
    return 0


def act_retry(options: argparse.Namespace) -> int:
    """Continue a run with what is missing."""
    Queues(Settings.from_environment()).retry(options.run)
    return 0
