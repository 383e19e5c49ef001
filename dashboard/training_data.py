"""Data of trainings for the pages: cached reads of steps, epochs and predictions, and what a training would have."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import streamlit as st

from core.data.datasets import Dataset
from core.data.splits import Targets, cached_split, reached
from core.estimates import Estimate
from core.predictions import comparison as comparisons
from core.predictions.comparison import Comparison, SeedPair
from core.predictions.curves import OneAgainstRest, brier_score, calibration_error, one_against_rest, reliability
from core.runs import Run
from core.specs import spec_hash
from core.store.trainings import STEP_COLUMNS
from core.training.data import split_sentence
from core.training.specs import TrainSpec
from dashboard.charts.training_numbers import layer_sizes as layer_sizes_of
from dashboard.data import BY_IMAGES, BY_RESULTS, Stamp, current, queues, recorded_runs, settings, store, watched
from jobs import predictions as predicted_again
from jobs import svd_dense as dense_layers

# -- single training runs ------------------------------------------------------------------------------------------


@current(20)
def steps(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return one row per step of a run, see `core.store.trainings`."""
    return store().steps([run_id])


@current(20)
def run_splits(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the actual sets of a run."""
    return store().run_splits(run_id)


@current(20)
def training_notes(at: Stamp, run_id: str) -> list[str]:
    """Return the sentences that belong beside a run's results."""
    return store().training_notes(run_id)


# -- single predictions --------------------------------------------------------------------------------------------


@current(20)
def predicted_steps(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return how many predictions the steps of a run have: step, split, images; no rows for a run without any."""
    return store().predicted_steps([run_id])


@current(20)
def predictions(at: Stamp, run_id: str, split: str) -> pd.DataFrame:
    """Return what every step of a run says of each image of a set, see `core.predictions.rows`."""
    return store().predictions([run_id], split=split)


def predictions_by_step(run_id: str, split: str) -> dict[int, pd.DataFrame]:
    """Return what each step of a run says of each image of a set."""
    rows = predictions(run_id, split)
    return {int(step): rows[rows["step"] == step] for step in rows["step"].unique()}


@current(20)
def class_curves(at: Stamp, run_id: str, split: str, label: str) -> dict[int, OneAgainstRest]:
    """Return one class against the rest by step; without the steps where either has no image."""
    found = {step: one_against_rest(rows, label) for step, rows in predictions_by_step(run_id, split).items()}
    return {step: curve for step, curve in found.items() if curve is not None}


@dataclass(frozen=True)
class Calibration:
    """How far the probabilities of a step can be trusted, see `core.predictions.curves`."""

    brier: float
    error: float
    reliability: pd.DataFrame


@current(20)
def calibrations(at: Stamp, run_id: str, split: str) -> dict[int, Calibration]:
    """Return the calibration of each step of a run on a set."""
    return {
        step: Calibration(brier_score(rows), calibration_error(rows), reliability(rows))
        for step, rows in predictions_by_step(run_id, split).items()
    }


@current(20)
def compared(at: Stamp, run_id: str, split: str, first: int, second: int) -> tuple[Comparison, pd.DataFrame]:
    """Compare two steps of a run on the images of a set; return the images that changed sides too."""
    by_step = predictions_by_step(run_id, split)
    sides = (by_step[first], by_step[second])
    return comparisons.compare(*sides), comparisons.changed_sides(*sides)


@current(20)
def hard_images(at: Stamp, run_ids: tuple[str, ...], split: str) -> pd.DataFrame:
    """Return the images of a set that most steps of these runs have wrong, see `comparison.hard_images`."""
    return comparisons.hard_images(store().predicted_classes(run_ids, split))


def predict_again(run_id: str) -> None:
    """Queue the job that predicts with a run's kept weights. SpecError where the run cannot be predicted again."""
    predicted_again.submit(queues(), run_id)


@current(20)
def svd_dense(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the networks of a run with dense layers of low rank, one row per step and energy."""
    return store().svd_dense([run_id])


def factor_dense(run_id: str, step: int, fine_tune_epochs: int, latency: bool) -> None:
    """Queue the job that factors the dense layers of a step's network. SpecError where it cannot be done."""
    dense_layers.submit(queues(), run_id, step, fine_tune_epochs=fine_tune_epochs, latency=latency)


def trained_file(run_id: str, name: str) -> Path | None:
    """Return a file of a training run on this host, or None; never one outside the folder of trained networks."""
    folder = settings().trained.resolve()
    path = (folder / run_id / name).resolve()
    return path if path.is_relative_to(folder) and path.is_file() else None


# -- learning curves, runs beside each other, and what a training would have -------------------------------------------


@st.cache_data(max_entries=300, show_spinner=False, hash_funcs=BY_RESULTS)
def epochs(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the epochs of runs."""
    return store().epochs([run.id for run in runs])


@current(20)
def live_epochs(at: Stamp, run_id: str) -> pd.DataFrame:
    """Return the epochs of a run under way as the file has them now."""
    return store().epochs([run_id])


@st.cache_data(max_entries=100, show_spinner=False, hash_funcs=BY_RESULTS)
def layer_sizes(run: Run, height: int, width: int) -> pd.DataFrame:
    """Return filters or units by layer and step of a run, see `training_numbers.layer_sizes`."""
    return layer_sizes_of(steps(run.id), height, width)


@st.cache_data(max_entries=50, show_spinner=False, hash_funcs=BY_RESULTS)
def compared_steps(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the finished steps of several runs: `core.store.trainings.STEP_COLUMNS`, classification."""
    return store().trainings([run.id for run in runs])[[*STEP_COLUMNS, "classification"]]


@current(20)
def compared_pairs(at: Stamp, pairs: tuple[SeedPair, ...]) -> dict[int, Comparison]:
    """Compare each pair of steps on the test images, by seed; without the pairs of which one has no predictions.

    SpecError where a pair has no common image, or other labels.
    """
    found = {}
    for pair in pairs:
        first, second = (store().predictions([run], step=step, split="test") for run, step in (pair.first, pair.second))
        if len(first) and len(second):
            found[pair.seed] = comparisons.compare(first, second)
    return found


@st.cache_data(max_entries=30, show_spinner=False, hash_funcs=BY_IMAGES)
def sets_reached(
    found: Dataset, targets: Targets, seed: int, leaky_split: bool, given: bool = False
) -> tuple[pd.DataFrame, str]:
    """Return the sets that a training would have, see `core.data.splits.reached`, and in words what a random split
    leaks.

    Raises SpecError where the data set cannot be divided.
    """
    split = cached_split(found.records, targets, seed=seed, leaky_split=leaky_split, given=given)
    return reached(found.records, split), split_sentence(found, split)


@st.cache_data(max_entries=300, ttl=120, show_spinner=False)
def _training_estimate(
    database: str, fingerprint: str, settings_text: str, _spec: TrainSpec, _found: Dataset
) -> Estimate:
    return watched().estimate(_spec, _found)


def training_estimate(spec: TrainSpec, found: Dataset) -> Estimate:
    """Return how long a training run may take, at most two minutes old; seeds take equally long."""
    alike = spec.replace(training=spec.training.replace(seed=1))
    text = json.dumps(alike.to_dict(), sort_keys=True)
    return _training_estimate(str(settings().database), found.fingerprint, text, spec, found)


def forget_estimates() -> None:
    """Have the durations of trainings estimated again, because a speed has become known."""
    _training_estimate.clear()


def identical_trainings(wanted: Sequence[tuple[TrainSpec, Dataset]]) -> list[str | None]:
    """Return for each the run that has trained, or is training, the same thing on the same images; None for none."""
    known = recorded_runs()
    there = (run for run in reversed(known) if not run.failed and run.status in ("queued", "running", "finished"))
    by_hash = {run.spec_hash: run.id for run in there}
    return [by_hash.get(spec_hash(spec, found.fingerprint)) for spec, found in wanted]
