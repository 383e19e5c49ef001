"""Inject faults in random order at random moments, each at least once, until the time is over: `make soak`.

Prints one line per fault, and at the end the number of tried and survived faults of each kind. The exit code is 1 if a
fault was not survived.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import jobs  # noqa: F401  before NumPy is loaded: it limits BLAS to one thread, as in the workers that are compared

# isort: split
from faults import (
    NO_SPACE,
    Fault,
    Stack,
    clock_faults,
    disk_faults,
    faults,
    no_compiler,
    play,
    prepare_work,
    running_stack,
    small_disk,
)

OUTAGE = 60.0  # seconds


def stacks(folder: Path, images: Path, open_ones: ExitStack) -> Iterator[tuple[Stack, dict[str, Fault], str | None]]:
    """Start the stacks that the faults need; yield each with its faults and the error that its runs may fail with."""
    yield open_ones.enter_context(running_stack(folder)), faults(OUTAGE), None
    small = folder / "small"
    small.mkdir()
    try:
        open_ones.enter_context(small_disk(small / "data", 700))
        yield open_ones.enter_context(running_stack(small, images=images)), disk_faults(OUTAGE), NO_SPACE
    except PermissionError as reason:
        print(f"without the full disk: no small disk can be mounted here: {reason}")
    if no_compiler():
        print("without clock changes: they need a C compiler, cc")
        return
    clock = folder / "clock"
    clock.mkdir()
    yield open_ones.enter_context(running_stack(clock, images=images, clock=clock / "clock")), clock_faults(), None


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=120, help="the shortest duration (default 120)")
    parser.add_argument(
        "--seed",
        type=int,
        default=random.SystemRandom().randrange(10**6),
        help="seed of the order and the moments of faults",
    )
    options = parser.parse_args()
    print(f"seed {options.seed}, {options.minutes:g} minutes", flush=True)
    chance = random.Random(options.seed)
    tried: collections.Counter[str] = collections.Counter()
    survived: collections.Counter[str] = collections.Counter()
    ending = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as place, ExitStack() as open_ones:
        folder = Path(place)
        work = prepare_work(folder)
        choices = [
            (stack, name, fault, reason)
            for stack, found_faults, reason in stacks(folder, work.images, open_ones)
            for name, fault in found_faults.items()
        ]
        while not tried or time.monotonic() < ending:
            chance.shuffle(choices)
            for stack, name, fault, reason in choices:
                if len(tried) == len(choices) and time.monotonic() > ending:
                    break
                tried[name] += 1
                try:
                    found = play(stack, work, fault, chance, reason)
                except AssertionError as failure:
                    print(f"{name}: NOT SURVIVED\n{failure}", flush=True)
                    continue
                survived[name] += 1
                print(f"{name}: survived; both runs ended after {found.seconds:.0f} s", flush=True)
    for name in sorted(tried):
        print(f"{name}: {tried[name]} tried, {survived[name]} survived")
    print(f"total: {tried.total()} faults tried, {survived.total()} survived")
    return 0 if tried == survived else 1


if __name__ == "__main__":
    sys.exit(main())
