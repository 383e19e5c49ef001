"""The command `diagnosis`: whether a trained network predicts otherwise once its images are compressed.

python -m jobs diagnosis RUN --k 2,5,10 --codecs jpeg,png --qualities 90,95 --rivals jpeg:20,jpeg:90,webp:50 --wait
"""

from __future__ import annotations

import argparse
from typing import Any

from core.compression.specs import DiagnosisSpec, ways
from core.errors import SpecError
from core.files.exports import check_writable
from core.settings import Settings
from core.store.measurements import Store
from jobs.cli import export as export_command
from jobs.cli.datasets import Command, resolve_and_register
from jobs.cli.options import add_options, build, given
from jobs.cli.runs import add_run_options, submit
from jobs.queues import Queues


def add_commands(commands: Any, command: Command) -> None:
    """Add `diagnosis`; command: adds one."""
    text = "store a network's test images in several ways, and compare its predictions of them"
    parser = command(commands, DiagnosisSpec.kind, text, act_diagnosis)
    text = "the id of a training run, from `status`; of a diagnosis: what it found is printed"
    parser.add_argument("run", metavar="RUN", help=text)
    parser.add_argument(
        "folder", metavar="DATASET", nargs="?",
        help="folder or registered data set with the same images, of any size (default: the run's own)",
    )  # fmt: skip
    add_options(parser, DiagnosisSpec)
    add_run_options(parser, "measure", "image and way", local=False)


def spec_of(options: argparse.Namespace, dataset: str, step: int) -> DiagnosisSpec:
    """Return the spec that the options describe. step: where they name none."""
    return build(DiagnosisSpec, {"run": options.run, "dataset": dataset, "step": step}, given(options, DiagnosisSpec))


def act_diagnosis(options: argparse.Namespace) -> int:
    """Submit the run; wait for it, print what each way changes and export its rows, as the options say."""
    check_writable(options.export)
    queues = Queues(Settings.from_environment())
    run = queues.store.run(options.run)
    if run is not None and run.kind == DiagnosisSpec.kind:
        print_ways(queues.store, run.id, run.told(DiagnosisSpec), mark="- ")
        return 0
    if run is None or not run.trains:
        raise SpecError(f"Expected a training run that is in the store, got {options.run}.")
    dataset = resolve_and_register(queues, options.folder or run.dataset)
    spec = spec_of(options, dataset.name, smallest_step(queues.store, run.id))
    return submit(
        queues,
        [(spec, dataset)],
        options,
        lambda _, run_id: export_command.write(queues.store, run_id, options.export),
        report=lambda run_id: print_ways(queues.store, run_id, spec),
    )


def smallest_step(store: Store, run_id: str) -> int:
    """Return the smallest step of a run that was accepted, else the first one. SpecError without a trained step."""
    from core.training.evaluation import smallest_accepted

    steps = store.steps([run_id])
    trained = steps[steps["status"] == "finished"]
    if trained.empty:
        raise SpecError(f"Expected a run with a trained network; {run_id} has none.")
    return int(smallest_accepted(trained)["step"])


def print_ways(store: Store, run_id: str, spec: DiagnosisSpec, mark: str = "") -> None:
    """Print one sentence for each way. mark: before each, as in a list of Markdown."""
    from core.predictions.diagnosis import way_figures, way_sentence

    by_variant = {way.variant: way for way in ways(spec)}
    for figures in way_figures(store.diagnoses(run_id), list(by_variant)).to_dict("records"):
        if (way := by_variant.get(str(figures["variant"]))) is not None:
            print(mark + way_sentence(way, {str(name): value for name, value in figures.items()}))
