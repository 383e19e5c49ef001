"""The commands on single predictions: `predictions`, `predict` and `compare`.

python -m jobs predictions prune-train-20260101-120000-abc123 --step 0 --split test --export predictions.csv
python -m jobs compare prune-train-20260101-120000-abc123:0 prune-train-20260101-120000-abc123:2
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.data.splits import SPLITS
from core.errors import DermSlimError, SpecError
from core.files.exports import check_writable, write_table
from core.settings import Settings
from core.store.measurements import Store
from core.store.trainings import ALIKE
from jobs import predictions
from jobs.cli.datasets import Command
from jobs.later_jobs import PREDICT, wait
from jobs.queues import Queues

if TYPE_CHECKING:
    import pandas as pd

RUN_AND_STEP = re.compile(r"(?P<run>[^:]+)(?::(?P<step>\d+))?")


def add_commands(commands: Any, command: Command) -> None:
    """Add `predictions`, `predict` and `compare`; command: adds one."""
    parser = command(commands, "predictions", "write what networks say of each image, as CSV or Parquet", act_export)
    parser.add_argument("run", metavar="RUN", help="the id of a training run, from `status`")
    parser.add_argument("--step", type=int, metavar="N", help="only this step; 0 is the unpruned network (default all)")
    parser.add_argument("--split", choices=SPLITS, help="only the images of this set (default all that are kept)")
    parser.add_argument(
        "--export", type=Path, required=True, metavar="FILE", help="a file whose name ends in .csv or .parquet"
    )
    text = "predict again with the kept weights of an ended run, which replaces its predictions"
    parser = command(commands, "predict", text, act_predict)
    parser.add_argument("run", metavar="RUN", help="the id of a training run, from `status`")
    text = "compare two steps or runs on the same test images: paired difference and McNemar's test"
    parser = command(commands, "compare", text, act_compare)
    for name in ("first", "second"):
        parser.add_argument(
            name, metavar="RUN[:STEP]", help="a training run and a step of it (default: its last accepted step)"
        )
    parser.add_argument("--split", choices=SPLITS, default="test", help="the set whose images are used (default test)")
    parser.add_argument(
        "--over-seeds", action="store_true",
        help="also compare each pair of runs that differ from these two in their seed alone",
    )  # fmt: skip


def act_export(options: argparse.Namespace) -> int:
    """Write the predictions of a run."""
    check_writable(options.export)
    rows = predictions_of(Store(Settings.from_environment().database), options.run, options.step, options.split)
    write_table(rows, options.export)
    print(f"{len(rows):,} rows written to {options.export}")
    return 0


def predictions_of(store: Store, run_id: str, step: int | None = None, split: str | None = None) -> pd.DataFrame:
    """Return the predictions of a run. SpecError where there are none."""
    run = store.run(run_id)
    if run is None or not run.trains:
        raise SpecError(f"Expected a training run that is in the store, got {run_id}.")
    rows = store.predictions([run_id], step=step, split=split)
    if rows.empty:
        if len(store.predicted_steps([run_id])):
            raise SpecError(f"Expected a step and a set with predictions of {run_id}, got step {step}, set {split}.")
        raise SpecError(
            f"Expected a run with predictions; {run_id} has none. `python -m jobs predict {run_id}` makes them from"
            " the kept weights."
        )
    return rows


def act_predict(options: argparse.Namespace) -> int:
    """Predict again, and wait until the rows are recorded."""
    queues = Queues(Settings.from_environment())
    predictions.submit(queues, options.run)
    with queues.connected() as connection:
        wait(connection, PREDICT, options.run)
    steps = queues.store.predicted_steps([options.run])
    if steps.empty:
        raise DermSlimError("Expected a worker to predict the images; none could. The run's log says why.")
    count = steps["step"].nunique()
    print(f"{steps['images'].sum():,} predictions of {count} step{'s' * (count != 1)} recorded")
    return 0


def act_compare(options: argparse.Namespace) -> int:
    """Compare two steps, and print the result."""
    from core.predictions.comparison import compare

    store = Store(Settings.from_environment().database)
    sides = [step_of(store, text) for text in (options.first, options.second)]
    rows = [predictions_of(store, run_id, step, options.split) for run_id, step in sides]
    found = compare(*rows)
    for name, (run_id, step), accuracy in zip(
        ("first ", "second"), sides, (found.first_accuracy, found.second_accuracy), strict=True
    ):
        print(f"{name} {run_id} step {step}: accuracy {accuracy:.2f} %")
    print(f"only the first is right: {found.only_first}; only the second is right: {found.only_second}")
    print(found.sentence)
    own = max(len(each) for each in rows)
    if found.images < own:
        print(f"Only the {found.images:,} images that both have are compared, of {own:,}.", file=sys.stderr)
    if options.over_seeds:
        print_over_seeds(store, sides, options.split)
    return 0


def print_over_seeds(store: Store, sides: Sequence[tuple[str, int]], split: str) -> None:
    """Print the comparison of every pair of runs that differ from these in their seed alone, and the mean over them."""
    from core.article.evidence import trainings
    from core.predictions.comparison import compare, over_seeds, seed_pairs

    trained = trainings(store)
    groups = []
    for run_id, step in sides:
        own = trained[(trained["run_id"] == run_id) & (trained["step"] == step)]
        groups.append(trained.merge(own[list(ALIKE)], on=list(ALIKE)))
    pairs = seed_pairs(*groups)
    if not pairs:
        raise SpecError("Expected two runs whose settings were trained with a common seed, got none.")
    differences = []
    for pair in pairs:
        found = compare(*(predictions_of(store, *side, split) for side in (pair.first, pair.second)))
        differences.append(found.difference.value)
        names = " against ".join(f"{run_id}:{step}" for run_id, step in (pair.first, pair.second))
        print(f"seed {pair.seed}, {names}: {found.numbers}")
    print(f"Over the seeds: {over_seeds(differences).text}.")


def step_of(store: Store, text: str) -> tuple[str, int]:
    """Return run and step of `RUN[:STEP]`; by default the last accepted step, else the first. SpecError."""
    found = RUN_AND_STEP.fullmatch(text)
    if found is None:
        raise SpecError(f"Expected RUN or RUN:STEP, got {text}.")
    run_id, step = found["run"], found["step"]
    if step is not None:
        return run_id, int(step)
    accepted = [each.step for each in store.step_results(run_id) if each.accepted]
    return run_id, max(accepted, default=0)
