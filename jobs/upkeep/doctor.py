"""Check everything that matters for support, and say what to do where something is wrong.

The checks are independent, so that the rest runs where store, queue or disk are down. Nothing is changed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import redis

from core.errors import DermSlimError, SpecError
from core.settings import Settings
from jobs.logs import masked
from jobs.upkeep.checks import data, host, work
from jobs.upkeep.checks.check import ERROR, OK, WARNING, Check, Checks

AREAS: dict[str, Callable[[Settings], Checks]] = {  # each area after those that it depends on
    "software": host.check_software,
    "machine": host.check_machine,
    "environment": host.check_environment,
    "disk": host.check_disk,
    "privacy": host.check_privacy,
    "processes": host.check_processes,
    "store": work.check_store,
    "queue": work.check_queue,
    "workers": work.check_workers,
    "work": work.check_work,
    "data": data.check_data,
    "networks": data.check_networks,
    "gpu": data.check_keras,
    "outside": data.check_outside,
}


def examine(settings: Settings, *, keras: bool = True) -> Checks:
    """Yield the results of every area. keras: whether Keras is started to list its GPUs."""
    silent = False
    for area, examine_area in AREAS.items():
        if silent and area in ("workers", "work"):
            yield Check("not looked at", WARNING, "a queue that answers", "no answer", "See queue.", area)
            continue
        if area == "gpu" and not keras:
            examine_area = data.check_gpu
        try:
            for check in examine_area(settings):
                yield replace(check, area=area)
        except (DermSlimError, OSError, redis.RedisError, subprocess.SubprocessError) as error:
            silent = silent or area == "queue"
            advice = work.advice_on(settings, error)
            yield Check("could not be looked at", ERROR, "an answer", masked(str(error)), advice, area)


def add_commands(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `doctor`; command: adds one."""
    shown = command(commands, "doctor", "check everything and say what is wrong and what to do", act_doctor)
    shown.add_argument("--json", action="store_true", help="print a JSON list, for a report")
    shown.add_argument("--without-keras", action="store_true", help="do not start Keras to list its GPUs")


def act_doctor(options: argparse.Namespace) -> int:
    """Print the results; return 1 where one is an error."""
    try:
        found = list(examine(Settings.from_environment(), keras=not options.without_keras))
    except SpecError as error:
        advice = "Correct the variable in the message."
        found = [Check("settings", ERROR, "settings that can be read", masked(str(error)), advice, "environment")]
    if options.json:
        print(json.dumps([asdict(check) for check in found], indent=1))
    else:
        for check in found:
            print(line(check))
        counts = Counter(check.status for check in found)
        print(f"{counts[OK]} ok, {counts[WARNING]} warnings, {counts[ERROR]} errors")
    return 1 if any(check.status == ERROR for check in found) else 0


def line(check: Check) -> str:
    """Return a result as text, with the expectation and the advice where something is wrong."""
    text = f"{check.status:8} {check.area + ': ' + check.name:36} {check.found}"
    if check.status == OK:
        return text
    return f"{text}\n{'':9}expected: {check.expected}\n{'':9}{check.advice}"
