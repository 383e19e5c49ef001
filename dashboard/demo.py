"""Create the demo data set, register it and queue its runs: `python -m dashboard.demo`.

Repeating it is harmless: an existing data set stays, and a queued, running or finished run is not queued again.
"""

from __future__ import annotations

import argparse
import os
import sys

from core.compression.specs import ResizeSpec, RivalsSpec, SweepSpec
from core.data.datasets import load_dataset
from core.data.demo import IMAGES, create_demo_dataset
from core.errors import DermSlimError
from core.files.private import private_folder
from core.networks.architectures import LENET5
from core.settings import Settings
from core.training.specs import Baseline, PruneTrainSpec, Rules, TrainingProtocol
from jobs.queues import Queues

NAME = "demo"
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


if __name__ == "__main__":
    text = "Make the demo data and queue its runs."
    parser = argparse.ArgumentParser(prog="python -m dashboard.demo", description=text)
    parser.add_argument("--images", type=int, default=IMAGES, help=f"default: {IMAGES}")
    options = parser.parse_args()
    os.nice(10)  # the dashboard starts at the same time and has priority
    try:
        prepare_demo(Settings.from_environment(), options.images)
    except (DermSlimError, OSError) as error:
        sys.exit(f"the demo data set could not be prepared: {error}")
