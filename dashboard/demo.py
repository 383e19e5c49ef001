"""Makes the demo data set, registers it and queues its runs: `python -m dashboard.demo`.

Doing it again is harmless: a finished data set stays, and a run that waits, runs or is done isn't queued twice.
"""

from __future__ import annotations

import os
import sys

from core.datasets import load_dataset
from core.demo_data import create_demo_dataset
from core.errors import DermSlimError
from core.settings import Settings
from core.sweeps import ResizeSpec, RivalsSpec, SweepSpec
from jobs.queues import Queues

NAME = "demo"
UNDER_WAY_OR_DONE = ("queued", "running", "finished")


def prepare_demo(settings: Settings) -> None:
    """Create the demo data set in DATA_DIR/demo unless it is there; submit its sweep, rivals and resize study."""
    folder = create_demo_dataset(settings.data_dir / NAME)
    dataset = load_dataset(folder, name=NAME)
    print(f"{len(dataset.records)} synthetic images in {folder}")
    queues = Queues(settings)
    queues.register(dataset)
    known = {run.kind for run in queues.runs() if run.dataset == NAME and run.status in UNDER_WAY_OR_DONE}
    for spec in (SweepSpec(dataset=NAME), ResizeSpec(dataset=NAME), RivalsSpec(dataset=NAME)):
        if spec.kind in known:
            print(f"{spec.kind}: queued before")
        else:
            print(f"{spec.kind}: {queues.submit(spec, dataset).run_id}")


if __name__ == "__main__":
    os.nice(10)  # the dashboard comes up at the same time, and goes first
    try:
        prepare_demo(Settings.from_environment())
    except (DermSlimError, OSError) as error:
        sys.exit(f"the demo data set could not be prepared: {error}")
