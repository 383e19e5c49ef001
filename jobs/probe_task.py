"""What a worker runs to find out its speed, where no run has finished yet: `jobs.probes` asks for it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.compression.specs import MeasuringSpec, measuring_spec_from_dict
from core.data.datasets import DatasetImage
from core.data.folders import images_here
from core.errors import DermSlimError
from core.estimates import Pace
from core.settings import Settings
from core.training.specs import TrainSpec, training_spec_from_dict
from jobs.hosts import worker_name


def training_pace(spec: TrainSpec, where: str) -> Pace:
    """Train a spec's unpruned network for some seconds in this process. where: in the sentence about the speed."""
    began = time.monotonic()
    from core.training.devices import on_device  # here, because a worker imports Keras only in the process of a job
    from core.training.probe import SECONDS, seconds_per_mac

    with on_device(spec.device):
        cost, speed = seconds_per_mac(spec)
    start = max(0.0, time.monotonic() - began - 2 * SECONDS)
    return Pace(cost, start, f"from a probe {where}, {speed:,.0f} images a second")


def measuring_pace(spec: MeasuringSpec, root: Path, records: list[DatasetImage], where: str) -> Pace:
    """Measure some images for some seconds in this process. root: the folder that they are in, on this host."""
    from core.compression.probe import seconds_per_pixel

    return Pace(seconds_per_pixel(spec, root, records), 0.0, f"from a probe {where}")


def probe_training(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of `Pace`, or why there are none as `failure`."""
    try:
        return asdict(training_pace(training_spec_from_dict(spec), f"on {worker_name()}"))
    except DermSlimError as error:
        return {"failure": str(error)}


def probe_measuring(spec: dict[str, Any], root: str, records: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of `Pace`, or why there are none as `failure`. root: as the dashboard's host has it."""
    try:
        folder = images_here(Path(root), Settings.from_environment())
        images = [DatasetImage(**each) for each in records]
        return asdict(measuring_pace(measuring_spec_from_dict(spec), folder, images, f"on {worker_name()}"))
    except DermSlimError as error:
        return {"failure": str(error)}
