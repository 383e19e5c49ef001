"""The commands `train` and `prune-train`: runs of `train` workers, or training in this process.

python -m jobs train FOLDER --network lenet5,alexnet --preset laptop --seed 1,2,3
python -m jobs prune-train FOLDER --network lenet5 --size 48x64 --epochs 3 --factors 50,33.33 --local --export steps.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from core.data.datasets import Dataset
from core.errors import SpecError
from core.files.exports import check_writable, write_rows, write_table
from core.predictions.rows import EXPORT_COLUMNS, prediction_frame
from core.settings import Settings
from core.specs import spec_hash
from core.training.algorithm2 import Stop
from core.training.backend import require_backend
from core.training.data import training_data
from core.training.results import StepResult
from core.training.specs import FLOAT16, PRESETS, PruneTrainSpec, TrainSpec, training_grid
from core.training.steps import run_here
from jobs.cli.clock import next_moment, parse_time, wait_until
from jobs.cli.curves import choose_networks
from jobs.cli.datasets import Command, advancing, bar_of, local_dataset, resolve_and_register
from jobs.cli.options import add_options, build, given
from jobs.cli.runs import add_run_options, submit
from jobs.connection import NORMAL, PRIORITIES
from jobs.provenance import quiet_tensorflow
from jobs.queues import Queues

STEP_EXPORT = (
    *("step", "name", "parameters", "macs", "accepted", "reason"),
    *("train_accuracy", "train_precision", "validation_accuracy", "validation_precision"),
    *("test_accuracy", "test_precision", "test_recall", "macro_precision", "macro_recall", "balanced_accuracy"),
    *("epochs", "seconds"),
)
TEST_FIGURES = ("macro_precision", "macro_recall", "balanced_accuracy")  # exported without the split's name


OF_THE_GRID = ("network", "training.seed")  # several of them make several runs
DATASET_HELP = "folder of images, or a registered data set's name"


def add_commands(commands: Any, command: Command) -> None:
    """Add `train` and `prune-train`; command: adds one."""
    for model, text in (
        (TrainSpec, "train networks once"),
        (PruneTrainSpec, "prune and train networks by Algorithm 2"),
    ):
        parser = command(commands, model.kind, text, act_train)
        parser.set_defaults(model=model)
        parser.add_argument("folder", metavar="DATASET", help=DATASET_HELP)
        parser.add_argument(
            "--network", default="lenet5",
            help="names separated by commas, or `all` for the article's four (default lenet5)",
        )  # fmt: skip
        parser.add_argument(
            "--seed", type=seeds, default=(1,), help="of weights, order and dropout; 1,2,3: three runs (default 1)"
        )
        add_preset(parser)
        add_options(parser, model, OF_THE_GRID)
        add_run_options(parser, "train", "step")
        parser.add_argument(
            "--predictions", type=Path, metavar="FILE",
            help="with --local: one row per image and step, to a file that ends in .csv or .parquet",
        )  # fmt: skip
        add_queue_options(parser)


def seeds(text: str) -> tuple[int, ...]:
    """Parse `1,2,3`."""
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"Expected seeds such as 1,2,3, got {text}.") from None


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Add the option that chooses the protocol to start from."""
    parser.add_argument(
        "--preset", choices=tuple(PRESETS), default="article",
        help="protocol to start from, whose size and epochs are then the defaults (default article)",
    )  # fmt: skip
    # In commands that older versions printed.
    parser.add_argument(
        "--mixed-precision", dest="--precision", action="store_const", const=FLOAT16, default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )  # fmt: skip


def add_queue_options(parser: argparse.ArgumentParser) -> None:
    """Add what says when a training is begun, to every command that trains."""
    parser.add_argument("--priority", choices=PRIORITIES, default=NORMAL, help="in the queue (default normal)")
    parser.add_argument(
        "--start-after", metavar="HH:MM", help="a time of day before which nothing starts; --local waits for it"
    )


def specs_of(options: argparse.Namespace, dataset: str, settings: Settings) -> list[TrainSpec]:
    """Return a spec for each network and seed that the options ask for."""
    model: type[TrainSpec] = options.model
    networks = choose_networks(options.network, settings)
    values = {"dataset": dataset, "network": networks[0], "training": PRESETS[options.preset]}
    first = build(model, values, given(options, model, OF_THE_GRID))
    return list(training_grid(first, networks=networks, datasets=[dataset], seeds=options.seed))


def act_train(options: argparse.Namespace) -> int:
    """Train the networks, or prune and train them by Algorithm 2."""
    settings = Settings.from_environment()
    check_writable(options.export)
    check_writable(options.predictions)
    if options.predictions and not options.local:
        raise SpecError(
            "Expected --predictions together with --local; `python -m jobs predictions RUN --export FILE` writes those "
            "of a submitted run."
        )
    start = next_time(options.start_after) if options.start_after else None
    if options.local:
        require_backend()
        dataset = local_dataset(options.folder, settings)
        specs = specs_of(options, dataset.name, settings)
        for spec in specs:
            spec.check(dataset)
        await_start(start)
        return _train_here(options, specs, dataset, settings)
    queues = Queues(settings)
    dataset = resolve_and_register(queues, options.folder)
    specs = specs_of(options, dataset.name, settings)

    def export(spec: TrainSpec, run_id: str) -> None:
        write_steps(export_path(options.export, spec, alone=len(specs) == 1), queues.store.step_results(run_id))

    wanted = [(spec, dataset) for spec in specs]
    return submit(queues, wanted, options, export, priority=options.priority, start_after=start)


def next_time(text: str, now: datetime | None = None) -> datetime:
    """Return the next moment at which a clock shows HH:MM, in this machine's time zone. SpecError."""
    return next_moment(parse_time(text), now or datetime.now(UTC))


def await_start(start: datetime | None) -> None:
    """Wait, with a line that says so, until a moment before which nothing is trained here; None waits for nothing."""
    if start is not None:
        print(f"waiting until {start:%Y-%m-%d %H:%M %Z}; Ctrl+C ends it", file=sys.stderr)
        wait_until(start)


def _train_here(options: argparse.Namespace, specs: Sequence[TrainSpec], dataset: Dataset, settings: Settings) -> int:
    quiet_tensorflow()
    complete = True
    for spec in specs:
        with bar_of("preparing images") as bar:
            data = training_data(dataset, spec, settings.arrays, progress=advancing(bar), limit=settings.arrays_limit)
        for note in data.notes:
            print(note, file=sys.stderr)
        folder = settings.trained / f"local-{spec_hash(spec, dataset.fingerprint)[:16]}"
        results = []
        for result in _results(spec, data, folder):
            results.append(result)
            verdict = "accepted" if result.accepted else f"not accepted: {result.reason}"
            print(
                f"{spec.trained_network.name} seed {spec.training.seed}, {result.name}: {_figures(result)}; {verdict}"
            )
        complete = complete and not any(result.failure for result in results)
        if options.export:
            write_steps(export_path(options.export, spec, alone=len(specs) == 1), results)
        if options.predictions:
            write_predictions(export_path(options.predictions, spec, alone=len(specs) == 1), folder.name, results)
        print(f"weights in {folder}")
    return 0 if complete else 1


def _results(spec: TrainSpec, data: Any, folder: Path) -> Iterator[StepResult]:
    with bar_of("", unit=" epochs") as bar:
        for event in run_here(spec, data, folder):
            if isinstance(event, Stop):
                print(f"{spec.trained_network.name} seed {spec.training.seed}: {event.reason}")
                continue
            step, result = event
            if isinstance(result, StepResult):
                bar.reset(spec.training.epochs)
                yield result
            else:
                bar.total = spec.training.epochs
                bar.set_description(f"{spec.trained_network.name} {step.name}")
                bar.update()


def _figures(result: StepResult) -> str:
    if result.failure:
        return "could not be trained"
    shown = ("train_accuracy", "validation_accuracy", "test_accuracy", "test_balanced_accuracy")
    words = (f"{name.replace('_', ' ')} {figure:.2f}" for name in shown if (figure := result.figures[name]) is not None)
    return f"{result.parameters:,} parameters, {', '.join(words)} %, {result.seconds or 0:.0f} s"


def export_path(path: Path, spec: TrainSpec, *, alone: bool) -> Path:
    """Return the file of one run: the one named, or with network and seed before its ending where there are several."""
    return path if alone else path.with_stem(f"{path.stem}-{spec.network.name}-{spec.training.seed}")


def write_steps(path: Path, results: Sequence[StepResult]) -> None:
    """Write one row per step, columns `STEP_EXPORT`, undefined values empty. macro_* are of the test set."""
    write_rows(path, STEP_EXPORT, [[_exported(result, column) for column in STEP_EXPORT] for result in results])
    print(f"{len(results)} steps written to {path}")


def write_predictions(path: Path, run_id: str, results: Sequence[StepResult]) -> None:
    """Write one row per image and step, columns `core.predictions.rows.EXPORT_COLUMNS`."""
    import pandas as pd

    trained = [result for result in results if result.predictions]
    frames = [prediction_frame(result.predictions).assign(run_id=run_id, step=result.step) for result in trained]
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(EXPORT_COLUMNS))
    write_table(rows[list(EXPORT_COLUMNS)], path)
    print(f"{len(rows):,} predictions written to {path}")


def _exported(result: StepResult, column: str) -> object:
    if column in TEST_FIGURES:
        return result.figures.get(f"test_{column}")
    return result.figures.get(column) if column in result.figures else getattr(result, column, None)
