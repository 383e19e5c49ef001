"""Create the demo data set, queue its runs, and import the results on real images: `python -m dashboard.demo`.

Repeating it is harmless: an existing data set stays, a queued, running or finished run is not queued again, and a run
that was imported stays as it is. Once the demo's networks are trained, they are converted for the pages on devices.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from core.compression.specs import ResizeSpec, RivalsSpec, SweepSpec
from core.data.datasets import load_dataset
from core.data.demo import IMAGES, create_demo_dataset
from core.errors import DermSlimError
from core.files.private import private_folder
from core.networks.architectures import LENET5
from core.settings import Settings
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainingProtocol
from jobs import deployment, later_jobs
from jobs.queues import Queues
from jobs.upkeep.imports import import_here_or_there

NAME = "demo"
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"  # of docs/results.md, as a snapshot
# Formats that are converted one group after the other: inspector, kiosk and tour need the first.
CONVERTED = (("litert-float32",), ("litert-float16", "litert-int8", "onnx-float32"))
UNDER_WAY_OR_DONE = ("queued", "running", "suspended", "scheduled", "finished")
# With small images and small batches, 276 training images suffice for batch normalisation, and the network learns in a
# minute or two. Each of the 32 test images counts 3 points, so the article's tolerance of 2 would allow no miss.
PRUNING = PruneTrainSpec(
    dataset=NAME,
    network=LENET5,
    training=TrainingProtocol(epochs=20, batch_size=8, height=48, width=64),
    baseline=Baseline(
        train_accuracy=90, train_precision=90, validation_accuracy=75, validation_precision=75, test_tolerance=5
    ),
    rules=Rules(factors=(50, 33.33), max_iterations=3),
)


def prepare_demo(settings: Settings, images: int) -> None:
    """Create the demo data set of so many images in DATA_DIR/demo unless it is there; submit its runs."""
    private_folder(settings.data_dir)
    folder = create_demo_dataset(settings.data_dir / NAME, images=images)
    dataset = load_dataset(folder, name=NAME)
    print(f"{len(dataset.records)} synthetic images in {folder}")
    queues = Queues(settings)
    queues.register(dataset)
    known = {run.kind for run in queues.runs() if run.dataset == NAME and run.status in UNDER_WAY_OR_DONE}
    for spec in (PRUNING, SweepSpec(dataset=NAME), ResizeSpec(dataset=NAME), RivalsSpec(dataset=NAME)):
        if spec.kind in known:
            print(f"{spec.kind}: queued before")
        else:
            print(f"{spec.kind}: {queues.submit(spec, dataset).run_id}")
    import_results(settings)


def convert_networks(queues: Queues, run_id: str, pause: float = 2.0) -> None:
    """Wait for a training run, convert its networks, and measure their latency, for the pages that show devices.

    Nothing happens where it does not finish, or where its networks have been converted before.
    """
    *_, run = queues.wait(run_id, pause=pause)
    if run.status != "finished" or queues.store.converted(run_id):
        return
    for formats in CONVERTED:
        deployment.submit_conversion(queues, run_id, formats=formats)
        with queues.connected() as connection:
            later_jobs.wait(connection, later_jobs.CONVERT, run_id, pause)
    deployment.submit_latency(queues, run_id)


def import_results(settings: Settings, folder: Path = RESULTS) -> None:
    """Import the runs on real images, so that tables and claims show measured figures at once.

    The demo works without them, so that an error is only printed.
    """
    if not folder.is_dir():
        print(f"no results on real images: there is no {folder}")
        return
    try:
        found = import_here_or_there(settings, folder)
    except (DermSlimError, OSError) as error:
        print(f"the results on real images could not be imported: {error}")
    else:
        print(f"{len(found.new)} runs on real images imported from {folder}, {len(found.there)} were here before")


if __name__ == "__main__":
    text = "Make the demo data and queue its runs."
    parser = argparse.ArgumentParser(prog="python -m dashboard.demo", description=text)
    parser.add_argument("--images", type=int, default=IMAGES, help=f"default: {IMAGES}")
    options = parser.parse_args()
    os.nice(10)  # the dashboard starts at the same time and has priority
    try:
        settings = Settings.from_environment()
        prepare_demo(settings, options.images)
        queues = Queues(settings)
        trained = [run.id for run in queues.runs() if run.dataset == NAME and run.kind == PRUNING.kind]
        if trained:
            convert_networks(queues, trained[0])
    except (DermSlimError, OSError) as error:
        sys.exit(f"the demo data set could not be prepared: {error}")
