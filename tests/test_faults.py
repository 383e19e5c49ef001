"""Every fault once, at a random moment, to a whole stack at work; `make soak` goes on with them for hours.

The seed of a failure is printed with it; DERMSLIM_FAULT_SEED plays the same again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import (
    NO_SPACE,
    Stack,
    Work,
    clock_faults,
    disk_faults,
    faults,
    no_compiler,
    play,
    prepare_work,
    running_stack,
    small_disk,
)

OUTAGE = 12.0  # seconds; `make soak` takes the 60 that are promised
FAULTS = faults(OUTAGE)
CLOCK_FAULTS = clock_faults()
DISK_FAULTS = disk_faults(OUTAGE)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("DERMSLIM_FAULT_SEED") or random.SystemRandom().randrange(10**6))
    print(f"DERMSLIM_FAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def work(folder: Path) -> Work:
    return prepare_work(folder)


@pytest.fixture(scope="module")
def stack(folder: Path, work: Work) -> Iterator[Stack]:
    """One stack for all faults, as a stack that is left alone lives through many."""
    with running_stack(folder) as stack:
        yield stack


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_loses_nothing_doubles_nothing_and_leaves_nothing_behind(
    name: str, stack: Stack, work: Work, chance: random.Random
) -> None:
    play(stack, work, FAULTS[name], chance)


def test_a_full_disk_stops_nothing_for_good(folder: Path, work: Work, chance: random.Random) -> None:
    place = folder / "small"
    place.mkdir()
    try:
        with small_disk(place / "data", 700), running_stack(place, images=work.images) as stack:
            for harm in DISK_FAULTS.values():
                play(stack, work, harm, chance, NO_SPACE)
    except PermissionError as reason:
        pytest.skip(f"no small disk can be mounted here: {reason}")


@pytest.mark.skipif(no_compiler(), reason="needs a C compiler, cc, to give processes a clock of their own")
def test_steps_of_the_clock_change_nothing(folder: Path, work: Work, chance: random.Random) -> None:
    place = folder / "clock"
    place.mkdir()
    with running_stack(place, images=work.images, clock=place / "clock") as stack:
        for harm in CLOCK_FAULTS.values():
            play(stack, work, harm, chance)
