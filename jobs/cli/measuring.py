"""The commands that measure: `svd-sweep`, `rivals`, `resize-study`, `reconstruct`.

python -m jobs svd-sweep FOLDER --k 100,350 --codec jpeg --quality 95 --local --export rows.csv
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.compression.image_results import MEASUREMENT_COLUMNS, ImageResult
from core.compression.results import run_results
from core.compression.specs import MeasuringSpec, ReconstructSpec, ResizeSpec, RivalsSpec, SweepSpec
from core.compression.summary import mean_table
from core.data.datasets import Dataset, DatasetImage, complete_folder
from core.data.names import default_name, derived_name
from core.errors import SpecError
from core.files.exports import check_writable
from core.files.private import private_folder
from core.settings import Settings, usable_cores
from jobs.cli import export as export_command
from jobs.cli.datasets import Command, bar_of, has_unreadable, local_dataset, resolve_and_register
from jobs.cli.options import add_options, build, given
from jobs.cli.runs import add_run_options, submit
from jobs.cli.verify import check_results
from jobs.local import claimed, measure_all, write_rows
from jobs.queues import Queues

MOST_WORKERS = 1024
TEXTS: dict[type[MeasuringSpec], str] = {
    SweepSpec: "measure an SVD sweep over k",
    ReconstructSpec: "write a data set at one k as a new data set",
    ResizeSpec: "compare after resizing original and reconstruction",
    RivalsSpec: "measure other codecs and qualities without SVD",
}


def add_commands(commands: Any, command: Command) -> None:
    """Add a command for each kind of measuring run; command: adds one."""
    for model, text in TEXTS.items():
        parser = command(commands, model.kind, text, act_measure)
        parser.set_defaults(model=model)
        parser.add_argument("folder", metavar="FOLDER", help="folder of images, or a registered data set's name")
        add_options(parser, model)
        if model is ReconstructSpec:
            parser.add_argument("--output", type=Path, help="with --local: the new data set's folder")
        add_run_options(parser, "measure", "image and k")
        parser.add_argument("--workers", type=int, help="with --local: processes (default: one per core)")
        parser.add_argument(
            "--no-check", action="store_true", help="with --local: do not measure two images again by the reference"
        )


def spec_of(options: argparse.Namespace, dataset: str) -> MeasuringSpec:
    """Return the spec that the options describe; a reconstruction gets a name of data set, k, mode and codec."""
    model: type[MeasuringSpec] = options.model
    asked = given(options, model)
    if model is ReconstructSpec and "name" not in asked:
        usual = {name: asked.get(name, model.model_fields[name].default) for name in ("k", "mode", "codec")}
        made = derived_name(dataset, "-k{k}-{mode}-{codec}".format(**usual))
        asked["name"] = default_name(options.output.absolute()) if options.output else made
    return build(model, {"dataset": dataset}, asked)


def act_measure(options: argparse.Namespace) -> int:
    """Measure here or submit, as the options say."""
    settings = Settings.from_environment()
    check_writable(options.export)
    if options.local:
        return _measure_here(options, settings)
    queues = Queues(settings)
    dataset = resolve_and_register(queues, options.folder)
    return submit(
        queues,
        [(spec_of(options, dataset.name), dataset)],
        options,
        lambda _, run_id: export_command.write(queues.store, run_id, options.export),
    )


def _measure_here(options: argparse.Namespace, settings: Settings) -> int:
    dataset = local_dataset(options.folder, settings)
    spec = spec_of(options, dataset.name)
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
        raise SpecError(f"Expected 1 to {MOST_WORKERS} workers, got {workers}.")
    results: Iterable[ImageResult] = measure_all(dataset, records, spec, workers=workers, output=output)
    if options.export:
        results = write_rows(options.export, results)
    with bar_of("measuring", len(records)) as bar:
        measured = []
        for result in results:
            measured.append(result)
            bar.update()
            if result.reason:
                bar.write(f"{result.image_id}: {result.reason}", file=sys.stderr)
    failed = [result for result in measured if result.status == "failed"]
    _print_outcome(spec, measured)
    differs = not options.no_check and check_results(dataset, spec, measured) != 0
    if isinstance(spec, ReconstructSpec) and output is not None:
        files = tuple(DatasetImage(**result.file) for result in measured if result.file)
        complete_folder(replace(dataset, name=spec.name, root=output, records=files, source=dataset.name))
        print(f"written to {output}")
    rows_missing = [row for result in measured for row in result.rows if row["reason"]]
    for reason, count in Counter(row["reason"] for row in rows_missing).items():
        print(f"{count} rows not measured: {reason}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(records)} images could not be measured", file=sys.stderr)
    return 1 if failed or rows_missing or differs or has_unreadable(dataset) else 0


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
