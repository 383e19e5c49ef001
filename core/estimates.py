"""Estimates of a run's duration from earlier runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from core.compression.specs import MeasuringSpec, SweepSpec, variants
from core.data.datasets import Dataset, DatasetImage
from core.networks.costs import network_cost
from core.store.measurements import Store
from core.training.specs import PruneTrainSpec, TrainSpec
from core.training.steps import likely_networks

PASSES = 3  # of a training, about equally long: forward, and two for the gradients. A teacher has the first.


@dataclass(frozen=True)
class Estimate:
    """A run's estimated duration.

    seconds: None where nothing is known. basis: how it was estimated, as a sentence. probed: whether by the speed of a
    probe, because no such run has finished.
    """

    seconds: float | None
    basis: str
    probed: bool = False


@dataclass(frozen=True)
class Pace:
    """A speed by which runs are estimated.

    cost: seconds, of a training per MAC and image, of a measurement per pixel and row. start: seconds that the process
    of a step needs first. basis: where the speed was measured.
    """

    cost: float
    start: float
    basis: str


def training_estimate(store: Store, spec: TrainSpec, dataset: Dataset, probed: Pace | None = None) -> Estimate:
    """Estimate from the newest finished step of the network, else of any, else from a probe.

    The cost is MACs × training images.
    """
    known = _trained_pace(store, spec)
    pace = known or probed
    if pace is None:
        return Estimate(None, "No network has been trained yet, so there is no speed to go by.")
    networks = likely_networks(spec)
    size = spec.training.height, spec.training.width
    macs = [network_cost(network, *size).macs for network in networks]
    taught = len(networks) - 1 if isinstance(spec, PruneTrainSpec) and spec.rules.distil else 0
    work = (sum(macs) + taught * macs[0] / PASSES) * len(spec.sets(dataset).oversampled)
    basis = f"{pace.basis} and {pace.start:.0f} s to start"
    if len(networks) > 1:
        pruned = f"{len(networks) - 1} pruned ones" if len(networks) > 2 else "one pruned one"
        basis += f"; for the unpruned network and {pruned}, as if each were accepted"
    return Estimate(pace.cost * work * spec.training.epochs + pace.start * len(networks), basis, known is None)


def _trained_pace(store: Store, spec: TrainSpec) -> Pace | None:
    steps = store.steps(run.id for run in store.runs() if run.trains and run.origin_host is None)
    steps = steps[(steps["status"] == "finished") & steps["epoch_seconds"].notna()].sort_values("finished_at")
    if steps.empty:
        return None
    same = steps[[json.loads(text)["name"] == spec.trained_network.name for text in steps["network"]]]
    latest = (same if len(same) else steps).iloc[-1]
    splits = store.run_splits(str(latest["run_id"]))
    images = int(splits.loc[splits["split"] == "train", "oversampled"].sum())
    if not images:
        return None
    taken = (steps["finished_at"] - steps["started_at"]).dt.total_seconds()
    start = max(0.0, float((taken - steps["seconds"]).median()))  # of a process: Keras, images; as usual here
    epoch = float(latest["epoch_seconds"])
    basis = f"from {latest['name']} of {latest['run_id']}, {epoch:.1f} s an epoch"
    return Pace(epoch / (float(latest["macs"]) * images), start, basis)


def measuring_estimate(
    store: Store, spec: MeasuringSpec, images: Sequence[DatasetImage], workers: int, probed: Pace | None = None
) -> Estimate:
    """Estimate from the newest finished run of the kind, else from the newest sweep, else from a probe.

    images: those that the run measures. The cost is pixels of the originals × rows per image, divided by the workers.
    """
    known = _measured_pace(store, spec)
    pace = known or probed
    if pace is None:
        return Estimate(None, f"No {spec.kind} has finished yet, so there is no speed to go by.")
    asked = sum(each.height * each.width for each in images)
    basis = f"{pace.basis}, {pace.cost * 1e6:.2f} s a megapixel and row, {workers} worker{'s' if workers > 1 else ''}"
    return Estimate(pace.start + pace.cost * asked * len(variants(spec)) / workers, basis, known is None)


def _measured_pace(store: Store, spec: MeasuringSpec) -> Pace | None:
    for kind in dict.fromkeys((spec.kind, SweepSpec.kind)):
        own = (run for run in store.runs(kind, "finished") if run.origin_host is None)
        latest = next((run for run in own if run.work_seconds is not None), None)
        pixels = 0 if latest is None else store.source_pixels(latest.id)
        if latest is not None and latest.work_seconds is not None and pixels:
            cost = latest.work_seconds / (pixels * len(variants(latest.told(MeasuringSpec))))
            return Pace(cost, 0.0, f"from {latest.id}")
    return None
