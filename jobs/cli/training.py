"""The commands that train: `train`, `prune-train` and `tables`, submitted to a `train` worker or done here.

python -m jobs train FOLDER --network lenet5,alexnet --preset laptop --seed 1,2,3
python -m jobs prune-train FOLDER --network lenet5 --size 48x64 --epochs 3 --factors 50,33.33 --local --export steps.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core.data.datasets import Dataset
from core.data.splits import Targets
from core.errors import SpecError
from core.files.exports import check_writable, write_rows
from core.networks.architectures import NETWORKS, NetworkSpec
from core.networks.network_files import all_networks
from core.networks.pruning import FACTORS, SCOPES
from core.settings import Settings
from core.specs import spec_hash
from core.training.algorithm2 import Stop
from core.training.backend import require_backend
from core.training.results import StepResult
from core.training.specs import (
    DEVICES,
    ON_REJECT,
    PRESETS,
    Baseline,
    PruneTrainSpec,
    Rules,
    TrainingProtocol,
    TrainSpec,
    training_grid,
)
from core.training.steps import run_here, training_data
from jobs.cli.clock import next_moment, parse_time, wait_until
from jobs.provenance import quiet_tensorflow
from jobs.queues import Queues
from jobs.run_jobs import NORMAL, PRIORITIES
from jobs.run_states import RunState

STEP_EXPORT = (
    *("step", "name", "parameters", "macs", "accepted", "reason"),
    *("train_accuracy", "train_precision", "validation_accuracy", "validation_precision"),
    *("test_accuracy", "test_precision", "test_recall", "macro_precision", "macro_recall", "balanced_accuracy"),
    *("epochs", "seconds"),
)
TEST_FIGURES = ("macro_precision", "macro_recall", "balanced_accuracy")  # exported without the split's name


def whole_numbers(text: str) -> tuple[int, ...]:
    """Parse `1,2,3`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 1,2,3; got {text}") from None


def percentages(text: str) -> tuple[float, ...]:
    """Parse `50,33.33`."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 50,33.33; got {text}") from None


def size(text: str) -> tuple[int, int]:
    """Parse `200x100`, rows by columns."""
    try:
        rows, columns = (int(part) for part in text.lower().replace("×", "x").split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected rows x columns such as 200x100; got {text}") from None
    return rows, columns


def three_targets(text: str) -> Targets:
    """Parse `3300,1100,360`: images for training, validation and test."""
    numbers = whole_numbers(text)
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"expected train,validation,test such as 3300,1100,360; got {text}")
    try:
        return Targets(**dict(zip(Targets.model_fields, numbers, strict=True)))
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def baseline(text: str) -> Baseline:
    """Parse `90,90,80,80,2`."""
    numbers = percentages(text)
    if len(numbers) != 5:
        raise argparse.ArgumentTypeError(
            "expected five numbers: training accuracy, training precision, validation accuracy, validation precision, "
            f"points under the unpruned network's test figures, such as 90,90,80,80,2; got {text}"
        )
    try:
        return Baseline(**dict(zip(Baseline.model_fields, numbers, strict=True)))
    except SpecError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add what `train` and `prune-train` understand."""
    parser.add_argument("folder", metavar="DATASET", help="folder of images, or a registered data set's name")
    parser.add_argument(
        "--network",
        default="lenet5",
        help="names separated by commas, or `all` for the article's four (default lenet5)",
    )
    parser.add_argument(
        "--seed", type=whole_numbers, default=(1,), help="of weights, order, dropout; 1,2,3: three runs"
    )
    add_protocol_options(parser)
    parser.add_argument("--leaky-split", action="store_true", help="draw the sets image by image: for comparison only")
    parser.add_argument("--local", action="store_true", help="train here, without Redis or a queue")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="a row a step, as its name ends: .csv or .parquet; waits for the run",
    )
    parser.add_argument("--wait", action="store_true", help="without --local: show progress until the runs have ended")
    parser.add_argument("--again", action="store_true", help="train even where an identical run has finished")
    add_queue_options(parser)


def add_protocol_options(parser: argparse.ArgumentParser) -> None:
    """Add what says how networks are trained, to every command that trains."""
    standard = TrainingProtocol()
    parser.add_argument("--preset", choices=tuple(PRESETS), default="article", help="protocol to start from")
    parser.add_argument("--size", type=size, help="rows x columns (default: the preset's, 200x100)")
    parser.add_argument("--epochs", type=int, help="(default: the preset's, 75)")
    parser.add_argument("--learning-rate", type=float, help=f"(default {standard.learning_rate:g})")
    parser.add_argument("--batch-size", type=int, help=f"(default {standard.batch_size})")
    parser.add_argument("--no-augmentation", action="store_true", help="repeat small classes' images unchanged")
    parser.add_argument("--rotation", type=float, help=f"largest, in degrees (default {standard.rotation:g})")
    parser.add_argument("--zoom", type=float, help=f"largest share (default {standard.zoom:g})")
    parser.add_argument("--brightness", type=float, help=f"largest share (default {standard.brightness:g})")
    parser.add_argument("--mixed-precision", action="store_true", help="16-bit floats where safe; for GPUs")
    parser.add_argument("--jit-compile", action="store_true", help="compile with XLA")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="(default auto: a GPU where there is one)")
    parser.add_argument("--targets", type=three_targets, default=Targets(), help="images for train,validation,test")
    parser.add_argument("--split-seed", type=int, default=1, help="of the three sets (default 1)")
    parser.add_argument(
        "--baseline", type=baseline,
        help="training accuracy, training precision, validation accuracy, validation precision, points under the "
        "unpruned network's test figures (default: the article's, 90,90,80,80,2; lenet5 90,90,75,75,2)",
    )  # fmt: skip


def add_queue_options(parser: argparse.ArgumentParser) -> None:
    """Add what says when a training is begun, to every command that trains."""
    parser.add_argument("--priority", choices=PRIORITIES, default=NORMAL, help="in the queue (default normal)")
    parser.add_argument(
        "--start-after", metavar="HH:MM", help="a time of day before which nothing starts; --local waits for it"
    )


def add_pruning_options(parser: argparse.ArgumentParser) -> None:
    """Add what `prune-train` understands besides."""
    rules = Rules()
    parser.add_argument(
        "--factors", type=percentages, default=FACTORS, help="percent, in the order tried (default 50,33.33,16.5,8.25)"
    )
    parser.add_argument("--scope", choices=tuple(SCOPES), default=rules.scope, help="convolutions that shrink")
    parser.add_argument("--max-failures", type=int, default=rules.max_failures, help="in a row that end the run")
    parser.add_argument("--max-iterations", type=int, help="pruned networks trained at most")
    parser.add_argument("--on-reject", choices=tuple(ON_REJECT), default=rules.on_reject, help="what is shrunk next")


def networks_of(text: str, settings: Settings) -> list[NetworkSpec]:
    """Return the networks that a text names."""
    found = all_networks(settings.data_dir)
    names = list(NETWORKS) if text == "all" else text.split(",")
    for name in names:
        if name not in found.networks:
            known = ", ".join(found.networks)
            raise SpecError(found.why_not(name) or f"network: expected some of {known}, or all; got {name}")
    return [found.networks[name] for name in names]


def protocol(options: argparse.Namespace) -> TrainingProtocol:
    """Return the training protocol that the options describe."""
    given = {
        name: value
        for name in ("epochs", "learning_rate", "batch_size", "rotation", "zoom", "brightness")
        if (value := getattr(options, name)) is not None
    }
    if options.size:
        given["height"], given["width"] = options.size
    return PRESETS[options.preset].replace(
        augmentation=not options.no_augmentation,
        mixed_precision=options.mixed_precision,
        jit_compile=options.jit_compile,
        **given,
    )


def specs_of(options: argparse.Namespace, dataset: str, settings: Settings, *, prunes: bool) -> list[TrainSpec]:
    """Return a spec for each network and seed that the options ask for."""
    networks = networks_of(options.network, settings)
    common: dict[str, Any] = {
        "dataset": dataset,
        "network": networks[0],
        "training": protocol(options),
        "targets": options.targets,
        "split_seed": options.split_seed,
        "leaky_split": options.leaky_split,
        "device": options.device,
        "baseline": options.baseline,
    }
    if prunes:
        rules = Rules(
            factors=options.factors,
            scope=options.scope,
            max_failures=options.max_failures,
            max_iterations=options.max_iterations,
            on_reject=options.on_reject,
        )
        first: TrainSpec = PruneTrainSpec(rules=rules, **common)
    else:
        first = TrainSpec(**common)
    return list(training_grid(first, networks=networks, datasets=[dataset], seeds=options.seed))


def act_train(options: argparse.Namespace) -> int:
    """Train the networks."""
    return _act(options, prunes=False)


def act_prune_train(options: argparse.Namespace) -> int:
    """Prune and train the networks by Algorithm 2."""
    return _act(options, prunes=True)


def _act(options: argparse.Namespace, *, prunes: bool) -> int:
    from jobs.__main__ import local_dataset, resolve_and_register

    settings = Settings.from_environment()
    check_writable(options.export)
    start = next_time(options.start_after) if options.start_after else None
    if options.local:
        require_backend()
        dataset = local_dataset(options.folder, settings)
        specs = specs_of(options, dataset.name, settings, prunes=prunes)
        for spec in specs:
            spec.check(dataset)
        await_start(start)
        return _train_here(options, specs, dataset, settings)
    queues = Queues(settings)
    dataset = resolve_and_register(queues, options.folder)
    specs = specs_of(options, dataset.name, settings, prunes=prunes)
    submissions = queues.submit_together(
        [(spec, dataset) for spec in specs], again=options.again, priority=options.priority, start_after=start
    )
    for submission in submissions:
        print(submission.run_id)
        if submission.identical:
            print("This run trains the same thing on the same images; --again trains anew.", file=sys.stderr)
    if not (options.wait or options.export):
        return 0
    states = [watch(queues, submission.run_id) for submission in submissions]
    if options.export:
        for spec, submission in zip(specs, submissions, strict=True):
            path = export_path(options.export, spec, alone=len(specs) == 1)
            write_steps(path, queues.store.step_results(submission.run_id))
    return 0 if all(state.status == "finished" and not state.failed for state in states) else 1


def next_time(text: str, now: datetime | None = None) -> datetime:
    """Return the next moment at which a clock shows HH:MM, in this machine's time zone. SpecError."""
    return next_moment(parse_time(text), now or datetime.now(UTC))


def await_start(start: datetime | None) -> None:
    """Wait, with a line that says so, until a moment before which nothing is trained here; None waits for nothing."""
    if start is not None:
        print(f"waiting until {start:%Y-%m-%d %H:%M %Z}; Ctrl+C ends it", file=sys.stderr)
        wait_until(start)


def watch(queues: Queues, run_id: str) -> RunState:
    """Show a training run's progress until it has ended."""
    with tqdm(desc=run_id, unit=" epochs", file=sys.stderr, disable=None, leave=False) as bar:
        for state in queues.wait(run_id):
            bar.total = state.total
            bar.set_postfix_str(state.step_name or "", refresh=False)
            bar.update(state.done - bar.n)
    if state.status != "finished":
        print(f"{run_id} {state.status}: {state.error or ''}".rstrip(": "), file=sys.stderr)
    return state


def _train_here(options: argparse.Namespace, specs: Sequence[TrainSpec], dataset: Dataset, settings: Settings) -> int:
    quiet_tensorflow()
    complete = True
    for spec in specs:
        with tqdm(desc="preparing images", unit=" images", file=sys.stderr, disable=None, leave=False) as bar:
            data = training_data(dataset, spec, settings.arrays, progress=_advance(bar), limit=settings.arrays_limit)
        for note in data.notes:
            print(note, file=sys.stderr)
        folder = settings.trained / f"local-{spec_hash(spec, dataset.fingerprint)[:16]}"
        results = []
        for result in _results(spec, data, folder):
            results.append(result)
            verdict = "accepted" if result.accepted else f"not accepted: {result.reason}"
            print(f"{spec.network.name} seed {spec.training.seed}, {result.name}: {_figures(result)}; {verdict}")
        complete = complete and not any(result.failure for result in results)
        if options.export:
            write_steps(export_path(options.export, spec, alone=len(specs) == 1), results)
        print(f"weights in {folder}")
    return 0 if complete else 1


def _results(spec: TrainSpec, data: Any, folder: Path) -> Iterator[StepResult]:
    with tqdm(unit=" epochs", file=sys.stderr, disable=None, leave=False) as bar:
        for event in run_here(spec, data, folder):
            if isinstance(event, Stop):
                print(f"{spec.network.name} seed {spec.training.seed}: {event.reason}")
                continue
            step, result = event
            if isinstance(result, StepResult):
                bar.reset(spec.training.epochs)
                yield result
            else:
                bar.total = spec.training.epochs
                bar.set_description(f"{spec.network.name} {step.name}")
                bar.update()


def _figures(result: StepResult) -> str:
    if result.failure:
        return "could not be trained"
    shown = ("train_accuracy", "validation_accuracy", "test_accuracy", "test_balanced_accuracy")
    words = (f"{name.replace('_', ' ')} {figure:.2f}" for name in shown if (figure := result.figures[name]) is not None)
    return f"{result.parameters:,} parameters, {', '.join(words)} %, {result.seconds or 0:.0f} s"


def _advance(bar: tqdm[Any]) -> Callable[[int, int], None]:
    def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advance


def export_path(path: Path, spec: TrainSpec, *, alone: bool) -> Path:
    """Return the file of one run: the one named, or with network and seed before its ending where there are several."""
    return path if alone else path.with_stem(f"{path.stem}-{spec.network.name}-{spec.training.seed}")


def write_steps(path: Path, results: Sequence[StepResult]) -> None:
    """Write a row a step, columns `STEP_EXPORT`; what is undefined is an empty field. macro_* are of the test set."""
    write_rows(path, STEP_EXPORT, [[_exported(result, column) for column in STEP_EXPORT] for result in results])
    print(f"{len(results)} steps written to {path}")


def _exported(result: StepResult, column: str) -> object:
    if column in TEST_FIGURES:
        return result.figures.get(f"test_{column}")
    return result.figures.get(column) if column in result.figures else getattr(result, column, None)
