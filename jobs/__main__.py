"""The command line: submit, watch, stop and export the same runs as the dashboard, or measure here with --local.

  python -m jobs svd-sweep FOLDER --k 100,350 --codec jpeg --quality 95 --local --export rows.csv
  python -m jobs svd-sweep FOLDER            submit to the workers of `make up`, print the run's id
  python -m jobs status                      a line a run
  python -m jobs article FOLDER              the article's whole study: sweep, reconstruction, every training
  python -m jobs curves alexnet              what pruning leaves of a network, counted here
  python -m jobs tables --number 5           Table 5 of the article as measured here, beside its own figures
  python -m jobs claims                      each claim of the article: reproduced, not reproduced, not measured yet

FOLDER is a folder of images or the name of a registered data set.
"""

from __future__ import annotations

import sys

from jobs.cli import curves

if __name__ == "__main__" and sys.argv[1:2] == ["curves"]:  # 0.1 s instead of the 1.5 s that importing the rest takes
    sys.exit(curves.main(sys.argv[2:]))

import argparse
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from core.compression.measure import MEASUREMENT_COLUMNS, ImageResult
from core.compression.results import run_results
from core.compression.specs import (
    DEFAULT_KS,
    DEFAULT_RIVALS,
    DEFAULT_SIZES,
    MeasuringSpec,
    MetricParameters,
    ReconstructSpec,
    ResizeSpec,
    RivalsSpec,
    SweepSpec,
)
from core.compression.summary import mean_table
from core.compression.svd import MODES
from core.data.datasets import Dataset, complete_folder, is_lost_image, load_dataset
from core.data.folders import confine, refuse_no_text
from core.data.images import CODECS
from core.data.names import default_name, derived_name
from core.errors import Cancelled, DermSlimError, SpecError, StoreUnavailable
from core.files.exports import check_writable
from core.files.private import private_folder
from core.settings import Settings, usable_cores
from core.store.measurements import Store
from jobs import logs
from jobs.cli import export as export_command
from jobs.cli import study as study_command
from jobs.cli import tables as tables_command
from jobs.cli import training as training_commands
from jobs.local import claimed, measure_all, write_rows
from jobs.queues import Queues
from jobs.run_states import RunState
from jobs.upkeep import backup, doctor, retention, snapshot
from jobs.upkeep import prometheus as metrics

MOST_WORKERS = 1024
MOST_NAMED = 20  # left-out files named one by one; the rest are counted by reason


def numbers(text: str) -> tuple[int, ...]:
    """Parse `100,200,350`."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected whole numbers such as 100,200,350; got {text}") from None


def sizes(text: str) -> tuple[tuple[int, int], ...]:
    """Parse `200x100,256x256`, rows by columns."""
    try:
        pairs = [part.lower().split("x") for part in text.split(",")]
        return tuple((int(rows), int(columns)) for rows, columns in pairs)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected rows x columns such as 200x100,256x256; got {text}") from None


def rivals(text: str) -> tuple[tuple[str, int | None], ...]:
    """Parse `jpeg:75,webp:85,png`."""
    try:
        parts = [part.partition(":") for part in text.split(",")]
        return tuple((codec, int(quality) if quality else None) for codec, _, quality in parts)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected codec:quality pairs such as jpeg:75,png; got {text}") from None


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command; each subcommand sets `act`."""
    parser = argparse.ArgumentParser(
        prog="python -m jobs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sweep = _measuring(commands, "svd-sweep", "measure an SVD sweep over k", sweep_spec)
    sweep.add_argument(
        "--k", type=numbers, default=DEFAULT_KS, help="singular values kept (default: the article's six)"
    )
    _storing(sweep)

    reconstruct = _measuring(commands, "reconstruct", "write a data set at one k as a new data set", reconstruct_spec)
    reconstruct.add_argument("--name", help="name of the new data set (default: FOLDER's name, k, mode and codec)")
    reconstruct.add_argument("--output", type=Path, help="with --local: the new data set's folder")
    reconstruct.add_argument("--k", type=int, default=350, help="singular values kept (default 350)")
    _storing(reconstruct)

    resize = _measuring(commands, "resize-study", "compare after resizing original and reconstruction", resize_spec)
    resize.add_argument(
        "--sizes", type=sizes, default=DEFAULT_SIZES, help="rows x columns (default: the article's five)"
    )
    resize.add_argument("--k", type=int, default=350, help="singular values kept (default 350)")
    _storing(resize)

    rival = _measuring(commands, "rivals", "measure other codecs and qualities without SVD", rivals_spec)
    rival.add_argument(
        "--rivals", type=rivals, default=DEFAULT_RIVALS, help="codec:quality pairs, as jpeg:75,webp:85,png"
    )

    curves.add_options(_command(commands, "curves", curves.TEXT, curves.act_curves))

    train = _command(commands, "train", "train networks once", training_commands.act_train)
    training_commands.add_training_options(train)
    prune_train = _command(
        commands, "prune-train", "prune and train networks by Algorithm 2", training_commands.act_prune_train
    )
    training_commands.add_training_options(prune_train)
    training_commands.add_pruning_options(prune_train)
    study_command.add_commands(commands, _command)

    tables_command.add_tables_options(
        _command(commands, "tables", tables_command.TABLES_TEXT, tables_command.act_tables)
    )
    tables_command.add_claims_options(
        _command(commands, "claims", tables_command.CLAIMS_TEXT, tables_command.act_claims)
    )

    for module in (backup, snapshot, retention, metrics, doctor):
        module.add_commands(commands, _command)

    register = _command(commands, "register", "register a folder as a data set", act_register)
    register.add_argument("folder", help="folder of images")
    register.add_argument("--name", help="the data set's name (default: the folder's)")

    _command(commands, "status", "print a line a run", act_status)
    for name, text, act in (
        ("cancel", "stop a run after the images being measured now", act_cancel),
        ("retry", "measure what a cancelled, failed or incomplete run left out", act_retry),
    ):
        _command(commands, name, text, act).add_argument("run", metavar="RUN", help="the run's id, from `status`")
    export_command.add_options(_command(commands, "export", export_command.TEXT, export_command.act_export))
    return parser


def _command(commands: Any, name: str, text: str, act: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(act=act)
    return parser


def _measuring(
    commands: Any, name: str, text: str, make_spec: Callable[[argparse.Namespace, str], MeasuringSpec]
) -> argparse.ArgumentParser:
    parser = _command(commands, name, text, act_measure)
    parser.set_defaults(make_spec=make_spec)
    parser.add_argument("folder", metavar="FOLDER", help="folder of images, or a registered data set's name")
    parser.add_argument("--limit", type=int, metavar="N", help="measure N images drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of that draw and of the bootstrap (default 1)")
    standard = MetricParameters()
    parser.add_argument(
        "--changed-threshold",
        type=int,
        default=standard.changed_threshold,
        help=f"grey levels above which a pixel counts as changed (default {standard.changed_threshold})",
    )
    parser.add_argument(
        "--radial-cutoff",
        type=float,
        default=standard.radial_cutoff,
        help=f"cycles a pixel between low and high frequencies (default {standard.radial_cutoff})",
    )
    parser.add_argument("--local", action="store_true", help="measure here, without Redis or a queue")
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="a row an (image, k), as its name ends: .csv or .parquet; waits for the run",
    )
    parser.add_argument("--workers", type=int, help="with --local: processes (default: one a core)")
    parser.add_argument("--wait", action="store_true", help="without --local: show progress until the run has ended")
    parser.add_argument("--again", action="store_true", help="measure even where an identical run has finished")
    return parser


def _storing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mode", choices=MODES, default="per_channel", help="matrices that are decomposed")
    parser.add_argument("--codec", choices=tuple(CODECS), default="jpeg", help="how a reconstruction is stored")
    parser.add_argument("--quality", type=int, help="of the codec (default: 95 for jpeg)")


def _common(options: argparse.Namespace, dataset: str) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "sample_size": options.limit,
        "seed": options.seed,
        "metrics": MetricParameters(changed_threshold=options.changed_threshold, radial_cutoff=options.radial_cutoff),
    }


def _stored(options: argparse.Namespace) -> dict[str, Any]:
    return {"mode": options.mode, "codec": options.codec, "quality": options.quality}


def sweep_spec(options: argparse.Namespace, dataset: str) -> MeasuringSpec:
    """Return the spec that the options of `svd-sweep` describe."""
    return SweepSpec(ks=options.k, **_common(options, dataset), **_stored(options))


def rivals_spec(options: argparse.Namespace, dataset: str) -> MeasuringSpec:
    """Return the spec that the options of `rivals` describe."""
    return RivalsSpec(rivals=options.rivals, **_common(options, dataset))


def resize_spec(options: argparse.Namespace, dataset: str) -> MeasuringSpec:
    """Return the spec that the options of `resize-study` describe."""
    return ResizeSpec(sizes=options.sizes, k=options.k, **_common(options, dataset), **_stored(options))


def reconstruct_spec(options: argparse.Namespace, dataset: str) -> MeasuringSpec:
    """Return the spec that the options of `reconstruct` describe."""
    name = options.name
    if name is None and options.output:
        name = default_name(options.output.absolute())
    elif name is None:
        name = derived_name(dataset, f"-k{options.k}-{options.mode}-{options.codec}")
    return ReconstructSpec(name=name, k=options.k, **_common(options, dataset), **_stored(options))


def act_measure(options: argparse.Namespace) -> int:
    """Measure here or submit, as the options say."""
    settings = Settings.from_environment()
    check_writable(options.export)
    if options.local:
        return _measure_here(options, settings)
    queues = Queues(settings)
    dataset = resolve_and_register(queues, options.folder)
    spec = options.make_spec(options, dataset.name)
    submission = queues.submit(spec, dataset, again=options.again)
    print(submission.run_id)
    if submission.identical:
        print("This run measures the same thing on the same images; --again measures anew.", file=sys.stderr)
    if not (options.wait or options.export):
        return 0
    state = _watch(queues, submission.run_id)
    if options.export:
        export_command.write(queues.store, submission.run_id, options.export)
    return 0 if state.status == "finished" and state.failed == 0 else 1


def resolve_and_register(queues: Queues, folder_or_name: str) -> Dataset:
    """Return the data set that a folder or a name stands for, registered, and name what was left out of it."""
    queues.ping()
    with _bar("reading images") as bar:
        dataset = queues.resolve(folder_or_name, progress=_advance(bar))
    _name_left_out(dataset)
    if queues.store.dataset(dataset.name) != dataset:
        queues.register(dataset)
    return dataset


def _measure_here(options: argparse.Namespace, settings: Settings) -> int:
    dataset = local_dataset(options.folder, settings)
    spec = options.make_spec(options, dataset.name)
    spec.check(dataset)
    with ExitStack() as stack:
        output = None
        if isinstance(spec, ReconstructSpec):
            output = options.output or private_folder(settings.reconstructed) / spec.name
            stack.enter_context(claimed(output, dataset.root))
        return _measured_here(options, dataset, spec, output)


def _measured_here(options: argparse.Namespace, dataset: Dataset, spec: MeasuringSpec, output: Path | None) -> int:
    records = dataset.sample(spec.sample_size, spec.seed)
    workers = min(len(records), usable_cores()) if options.workers is None else options.workers
    if not 1 <= workers <= MOST_WORKERS:
        raise SpecError(f"workers: expected at least 1 and at most {MOST_WORKERS}; got {workers}")
    results: Iterable[ImageResult] = measure_all(dataset, records, spec, workers=workers, output=output)
    if options.export:
        results = write_rows(options.export, results)
    with _bar("measuring", len(records)) as bar:
        measured = []
        for result in results:
            measured.append(result)
            bar.update()
            if result.reason:
                bar.write(f"{result.image_id}: {result.reason}", file=sys.stderr)
    failed = [result for result in measured if result.status == "failed"]
    _print_outcome(spec, measured)
    if isinstance(spec, ReconstructSpec) and output is not None:
        _complete(dataset, spec, output, measured)
        print(f"written to {output}")
    rows_missing = [row for result in measured for row in result.rows if row["reason"]]
    for reason, count in Counter(row["reason"] for row in rows_missing).items():
        print(f"{count} rows not measured: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(records)} images could not be measured", file=sys.stderr)
    return 1 if failed or rows_missing or _unreadable(dataset) else 0


def local_dataset(folder_or_name: str, settings: Settings) -> Dataset:
    """Return the data set that a folder or a name stands for, and name what was left out of it."""
    refuse_no_text(folder_or_name)
    known = None if "/" in folder_or_name and _is_folder(folder_or_name) else _known(folder_or_name, settings)
    if known is not None:
        return replace(known, root=settings.here(known.root))
    # Whoever has the command line may read what the account may read, unless DATA_ROOTS says otherwise.
    root = confine(Path(folder_or_name), settings.data_roots if settings.data_roots_given else [Path("/")])
    with _bar("reading images") as bar:
        dataset = load_dataset(root, progress=_advance(bar))
    _name_left_out(dataset)
    return dataset


def _is_folder(text: str) -> bool:
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # a name that no folder has, or an account that is none
        return False


def _known(name: str, settings: Settings) -> Dataset | None:
    """Return the registered data set of a name. Where nobody can be asked, a folder of that name is meant."""
    try:
        return Store(settings.database, strangers=1.0).dataset(name)
    except StoreUnavailable as error:
        if not _is_folder(name):
            raise
        print(f"{name} is read, whether or not a data set is registered as {name}: {error}", file=sys.stderr)
        return None


def _complete(dataset: Dataset, spec: ReconstructSpec, output: Path, results: Sequence[ImageResult]) -> None:
    from core.data.datasets import Record

    files = tuple(Record(**result.file) for result in results if result.file)
    complete_folder(replace(dataset, name=spec.name, root=output, records=files, source=dataset.name))


def _print_outcome(spec: MeasuringSpec, results: Sequence[ImageResult]) -> None:
    import pandas as pd

    rows = [row for result in results for row in result.rows]
    if not any(row["reason"] is None for row in rows):
        return
    found = run_results(spec, pd.DataFrame(rows, columns=list(MEASUREMENT_COLUMNS)), len(results))
    means = mean_table(found.statistics, ("psnr", "ssim", "haralick_distance"))
    table = found.storage.set_index("variant")[["ratio", "control_ratio"]].join(means)
    print(table.dropna(axis="columns", how="all").to_string(float_format=lambda value: f"{value:.4f}"))
    for rule in found.optimal_k.itertuples():
        print(f"{rule.rule}: {rule.reason}")


def _unreadable(dataset: Dataset) -> bool:
    """Return whether an image of the data set could not be used, as opposed to a mask, a table or a row of one."""
    return any(is_lost_image(dataset.root, each) for each in dataset.left_out)


def _name_left_out(dataset: Dataset) -> None:
    by_reason = Counter(each.reason for each in dataset.left_out)
    for each in dataset.left_out[:MOST_NAMED] if len(dataset.left_out) <= MOST_NAMED else ():
        print(f"left out: {each.name}: {each.reason}", file=sys.stderr)
    if len(dataset.left_out) > MOST_NAMED:
        for each in dataset.left_out:
            if by_reason[each.reason] <= MOST_NAMED:
                print(f"left out: {each.name}: {each.reason}", file=sys.stderr)
        for reason, count in by_reason.items():
            if count > MOST_NAMED:
                first = next(each.name for each in dataset.left_out if each.reason == reason)
                print(f"left out: {count:,} such as {first}: {reason}", file=sys.stderr)


def _watch(queues: Queues, run_id: str) -> RunState:
    with _bar("measuring") as bar:
        for state in queues.wait(run_id):
            bar.total = state.total
            bar.update(state.done + state.failed - bar.n)
    for row in queues.store.images(run_id, "failed").itertuples():
        print(f"{row.image_id}: {row.reason}", file=sys.stderr)
    if state.status != "finished":
        print(f"{run_id} {state.status}: {state.error or ''}".rstrip(": "), file=sys.stderr)
    return state


def act_register(options: argparse.Namespace) -> int:
    """Register a folder."""
    queues = Queues(Settings.from_environment())
    queues.ping()
    with _bar("reading images") as bar:
        dataset = queues.resolve(options.folder, name=options.name, progress=_advance(bar))
    queues.register(dataset)
    _name_left_out(dataset)
    print(f"{dataset.name}: {len(dataset.records):,} images, {len(dataset.left_out):,} left out")
    return 0


def act_status(options: argparse.Namespace) -> int:
    """Print id, kind, data set, status and progress of every run, newest first."""
    for state in Queues(Settings.from_environment()).runs():
        progress = f"{state.done + state.failed}/{state.total}" + (f" ({state.failed} failed)" if state.failed else "")
        print("\t".join((state.run_id, state.kind, state.dataset, state.status, progress)))
    return 0


def act_cancel(options: argparse.Namespace) -> int:
    """Stop a run."""
    Queues(Settings.from_environment()).cancel(options.run)
    return 0


def act_retry(options: argparse.Namespace) -> int:
    """Continue a run with what is missing."""
    Queues(Settings.from_environment()).retry(options.run)
    return 0


def _bar(text: str, total: int | None = None) -> tqdm[Any]:
    return tqdm(desc=text, total=total, unit=" images", file=sys.stderr, disable=None, leave=False)


def _advance(bar: tqdm[Any]) -> Callable[[int, int], None]:
    def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advance


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 only when everything asked for was done, 1 with a sentence otherwise."""
    options = build_parser().parse_args(arguments)
    log = logging.getLogger(__name__)
    try:
        if arguments is None:  # a process of its own
            logs.set_up("command", Settings.from_environment(), level=logging.WARNING, new_folder=False)
        log.info("%s began", options.command)
        code: int = options.act(options)
    except Cancelled:
        return 130
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (DermSlimError, OSError) as error:
        log.info("%s could not be done: %s", options.command, error)
        print(error, file=sys.stderr)
        return 1
    log.info("%s ended with exit code %d", options.command, code)
    return code


if __name__ == "__main__":
    sys.exit(main())
