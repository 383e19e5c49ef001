"""Many faults in three rounds on one whole stack; `make soak` injects each separately, for hours and with Keras.

A failure prints its seed; set DERMSLIM_FAULT_SEED to repeat the same round.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults import (
    NO_SPACE,
    Stack,
    Work,
    each_of,
    fill_disk,
    kill,
    kill_job,
    lock_store,
    no_compiler,
    play,
    prepare_work,
    running_stack,
    small_disk,
    step_clock,
    suspend_valkey,
)
from laboratory import WITHOUT_KERAS

OUTAGE = 5.0  # seconds; `make soak` takes 60
LONG_EPOCHS = WITHOUT_KERAS | {"EPOCH_SECONDS": "0.4"}  # so that the training runs during each fault of a round

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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
    return prepare_work(folder, keras=False)


@pytest.fixture(scope="module")
def disk(folder: Path) -> Iterator[bool]:
    """Give whether the stack's data are on a small disk, which the full disk needs."""
    with ExitStack() as mounted:
        try:
            mounted.enter_context(small_disk(folder / "stack" / "data", 700))
        except PermissionError:
            yield False
        else:
            yield True


@pytest.fixture(scope="module")
def stack(folder: Path, work: Work, disk: bool) -> Iterator[Stack]:
    place = folder / "stack"
    place.mkdir(exist_ok=True)
    clock = None if no_compiler() else folder / "clock"
    with running_stack(place, images=work.images, clock=clock, variables=LONG_EPOCHS) as stack:
        yield stack


def test_runs_finish_when_every_working_process_is_killed_once(stack: Stack, work: Work, chance: random.Random) -> None:
    parts = ("svd worker", "record worker", "dashboard", "train worker")
    deaths = (kill_job("svd worker"), kill_job("train worker"), *map(kill, parts))
    play(stack, work, each_of(*deaths), chance, begun=2)


def test_runs_finish_in_spite_of_outages_of_server_and_store_and_clock_changes(
    stack: Stack, work: Work, chance: random.Random
) -> None:
    chosen = [kill("valkey"), suspend_valkey(OUTAGE), lock_store(OUTAGE)]
    if stack.clock is not None:
        chosen += [step_clock(3600), step_clock(-3600, kill("train worker"))]
    play(stack, work, each_of(*chosen), chance, begun=2)


def test_runs_finish_in_spite_of_a_full_disk(stack: Stack, disk: bool, work: Work, chance: random.Random) -> None:
    if not disk:
        pytest.skip("no small disk can be mounted here")
    play(stack, work, fill_disk(OUTAGE), chance, NO_SPACE, begun=2)
