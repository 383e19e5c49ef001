"""The commands `status`, `cancel` and `retry`, and how every command submits runs and waits for them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from core.data.datasets import Dataset
from core.errors import SpecError
from core.runs import Run, RunSpec
from core.settings import Settings
from jobs.cli.datasets import Command, bar_of
from jobs.connection import NORMAL
from jobs.queues import Queues


def add_commands(commands: Any, command: Command) -> None:
    """Add the commands; command: adds one."""
    text = "print one line per run, or one run and the result of its verification"
    shown = command(commands, "status", text, act_status)
    shown.add_argument("run", metavar="RUN", nargs="?", help="a run's id")
    for name, text, change in (
        ("cancel", "stop a run after the images being measured now", Queues.cancel),
        ("retry", "measure what a cancelled, failed or incomplete run left out", Queues.retry),
    ):
        parser = command(commands, name, text, act_change)
        parser.set_defaults(change=change)
        parser.add_argument("run", metavar="RUN", help="the run's id, from `status`")


def act_status(options: argparse.Namespace) -> int:
    """Print id, kind, data set, status and progress of every run, newest first, or of one run."""
    queues = Queues(Settings.from_environment())
    states = queues.runs()
    if options.run is not None:
        states = [state for state in states if state.id == options.run]
        if not states:
            raise SpecError(f"Expected a known run, got {options.run}.")
    for state in states:
        progress = f"{state.done + state.failed}/{state.total}" + (f" ({state.failed} failed)" if state.failed else "")
        print("\t".join((state.id, state.kind, state.dataset, state.status, progress)))
    if options.run is not None and states[0].imported_at is not None:
        run = states[0]
        print(f"imported {run.imported_at:%Y-%m-%d %H:%M} UTC from {run.origin_host}, {run.origin_store}")
    if options.run is not None and (found := queues.store.verification(options.run)):
        print(found.sentence)
    return 0


def act_change(options: argparse.Namespace) -> int:
    """Change a run."""
    options.change(Queues(Settings.from_environment()), options.run)
    return 0


# -- submitting and waiting --------------------------------------------------------------------------------------------


def add_run_options(parser: argparse.ArgumentParser, verb: str, row: str, *, local: bool = True) -> None:
    """Add the options of every command that submits runs. verb: what a run does. row: what a row of the export is.

    local: whether the command can do the work itself.
    """
    text = f"one row per {row}, to a file that ends in .csv or .parquet; waits for the run"
    if local:
        parser.add_argument("--local", action="store_true", help=f"{verb} here, without Redis or a queue")
    parser.add_argument("--export", type=Path, metavar="FILE", help=text)
    parser.add_argument("--wait", action="store_true", help=f"{'without --local: ' * local}show progress until the end")
    parser.add_argument("--again", action="store_true", help=f"{verb} even where an identical run has finished")


def submit(
    queues: Queues,
    wanted: Sequence[tuple[RunSpec, Dataset]],
    options: argparse.Namespace,
    export: Callable[[Any, str], object],
    *,
    report: Callable[[str], object] = lambda run_id: None,
    priority: str = NORMAL,
    start_after: datetime | None = None,
) -> int:
    """Submit runs and print their ids; wait for them and export them as the options say.

    export: writes the rows of a run, given its spec and id. report: prints the results of a finished run. Return 1
    where a run did not finish or images failed.
    """
    submissions = queues.submit_together(wanted, again=options.again, priority=priority, start_after=start_after)
    for submission in submissions:
        print(submission.run_id)
        if submission.identical:
            print("This run does the same on the same images; --again submits a new one.", file=sys.stderr)
    if not (options.wait or options.export):
        return 0
    states = [watch(queues, submission.run_id) for submission in submissions]
    for state in states:
        if state.status == "finished":
            report(state.id)
    if options.export:
        for (spec, _), submission in zip(wanted, submissions, strict=True):
            export(spec, submission.run_id)
    return 0 if all(state.status == "finished" and not state.failed for state in states) else 1


def watch(queues: Queues, run_id: str) -> Run:
    """Show a run's progress until it has ended."""
    with bar_of(run_id, unit="") as bar:
        for state in queues.wait(run_id):
            bar.unit = " epochs" if state.trains else " images"
            bar.total = state.total
            bar.set_postfix_str(state.live.step_name or "", refresh=False)
            bar.update(state.done + (0 if state.trains else state.failed) - bar.n)
    for row in queues.store.images(run_id, "failed").itertuples():
        print(f"{row.image_id}: {row.reason}", file=sys.stderr)
    if state.status != "finished":
        print(f"{run_id} {state.status}: {state.error or ''}".rstrip(": "), file=sys.stderr)
    return state
