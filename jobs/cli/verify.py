"""The command `verify`: some images of a run measured again by the reference.

python -m jobs verify svd-sweep-20260101-120000-abc123 --images 20
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from core.compression.image_results import ImageResult
from core.compression.specs import MeasuringSpec
from core.compression.verification import IMAGES, Verification, chosen, compare, measure_again
from core.data.datasets import Dataset, DatasetImage
from core.errors import DermSlimError, SpecError
from core.settings import Settings
from jobs import verification
from jobs.cli.datasets import Command
from jobs.later_jobs import CHECK, wait
from jobs.queues import Queues


def add_commands(commands: Any, command: Command) -> None:
    """Add `verify`; command: adds one."""
    text = "measure some images of a run again with scikit-image, mahotas and NumPy, and compare"
    parser = command(commands, "verify", text, act_verify)
    parser.add_argument("run", metavar="RUN", help="the run's id, from `status`")
    parser.add_argument("--images", type=int, default=IMAGES, metavar="N", help=f"images to check (default {IMAGES})")
    parser.add_argument("--local", action="store_true", help="check here and record nothing, without Redis or workers")


def act_verify(options: argparse.Namespace) -> int:
    """Check a run's figures, print the result, and return 1 where a row differs."""
    queues = Queues(Settings.from_environment())
    found = _checked_here(queues, options) if options.local else _checked_by_workers(queues, options)
    return told(found)


def told(found: Verification | None) -> int:
    """Print the result of a check; return 0 where every compared row agrees."""
    if found is None:
        raise DermSlimError("Expected a worker to check the images, got none that could. The run's log says why.")
    print(found.sentence)
    if len(found.differing):
        print(found.differing.to_string(index=False))
    return 0 if found.agrees else 1


def _checked_by_workers(queues: Queues, options: argparse.Namespace) -> Verification | None:
    verification.submit(queues, options.run, options.images)
    with queues.connected() as connection:
        wait(connection, CHECK, options.run)
    return queues.store.verification(options.run)


def _checked_here(queues: Queues, options: argparse.Namespace) -> Verification | None:
    _, spec, dataset, records = verification.images_to_check(queues, options.run, options.images)
    here = replace(dataset, root=queues.settings.here(dataset.root))
    return check(here, spec, records, queues.store.measurements(options.run))


def check_results(dataset: Dataset, spec: MeasuringSpec, results: Sequence[ImageResult]) -> int:
    """Check what a run without a store has measured, and print the result; return 1 where a row differs."""
    rows = [row for result in results for row in result.rows if not row["reason"]]
    measured = {row["image_id"] for row in rows}
    if not measured:
        return 0
    try:
        records = chosen((each for each in dataset.records if each.image_id in measured), IMAGES, spec.seed)
    except SpecError as error:
        print(f"The figures are not checked: {error}", file=sys.stderr)
        return 0
    return told(check(dataset, spec, records, pd.DataFrame(rows)))


def check(
    dataset: Dataset, spec: MeasuringSpec, records: list[DatasetImage], measurements: pd.DataFrame
) -> Verification:
    """Measure these images again in this process and compare."""
    rows = [{"image_id": each.image_id, **row} for each in records for row in measure_again(each, dataset.root, spec)]
    return compare(measurements, pd.DataFrame(rows))
