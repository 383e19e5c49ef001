"""From a step's predictions to its figures and its verdict."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from core.data.splits import SPLITS
from core.predictions.classification import FIGURES
from core.predictions.intervals import paired_difference
from core.predictions.rows import Columns, described, joined, lesions_of, prediction_columns, prediction_frame, right
from core.training.algorithm2 import State, Step, accept, record
from core.training.data import TrainingData
from core.training.results import StepResult
from core.training.specs import ACCEPT, DIFFERENCE_LOW, Baseline, Rules

if TYPE_CHECKING:
    import pandas as pd


def predicted(data: TrainingData, probabilities: Mapping[str, npt.NDArray[np.float32]]) -> Columns:
    """Return a row for each image of the sets that were predicted, see `core.predictions.rows`.

    probabilities: by split, (images, classes).
    """
    parts = []
    for name, chances in probabilities.items():
        indices = list(getattr(data.split, name))
        images, lesions = ([column[index] for index in indices] for column in (data.image_ids, data.lesion_ids))
        parts.append(prediction_columns(name, images, lesions, data.labels[indices], chances))
    return joined(parts)


def evaluated(rows: Columns, kept: Collection[str]) -> dict[str, Any]:
    """Return the fields of `StepResult` that follow from predictions; kept: the splits whose rows are recorded."""
    frame = prediction_frame(rows)
    found = {split: described(frame[frame["split"] == split]) for split in SPLITS}
    keep = [split in kept for split in rows["split"]]
    return {
        "figures": {f"{split}_{name}": each[name] for split, each in found.items() for name in FIGURES},
        "classification": found,
        "predictions": {name: list(itertools.compress(values, keep)) for name, values in rows.items()},
    }


def judged(state: State, step: Step, result: StepResult) -> tuple[StepResult, State]:
    """Give a trained or failed step its verdict; return it with the state after it.

    A `train` run's only step has no unpruned network beside it: it is judged by training and validation alone.
    """
    if result.predictions:
        if step.index == 0:
            state = replace(state, unpruned_right=right_answers(result.predictions))
        else:
            result = replace(result, **difference(state.unpruned_right, result.predictions))
    figures = None if result.failure else {**result.figures, DIFFERENCE_LOW: result.difference_low}
    after = record(state, step, figures, result.failure)
    unpruned = state.outcomes[0].figures if state.outcomes else None
    judgements = verdicts(state.baseline, state.rules, unpruned, result)
    return replace(result, **asdict(after.outcomes[-1].acceptance), **judgements), after


def verdicts(
    baseline: Baseline, rules: Rules, unpruned: Mapping[str, float | None] | None, result: StepResult
) -> dict[str, Any]:
    """Return a step's verdict by either rule of acceptance, None where unknown.

    unpruned: the figures of the unpruned network; None for that network itself.
    """
    if result.failure:
        return {"accepted_by_points": False, "noninferior": False}
    figures = {**result.figures, DIFFERENCE_LOW: result.difference_low}
    either = [rules.replace(accept=rule) for rule in ACCEPT]
    by_points, noninferior = (accept(figures, unpruned, baseline, each).accepted for each in either)
    unknown = unpruned is not None and result.difference_low is None
    return {"accepted_by_points": by_points, "noninferior": None if unknown else noninferior}


def right_answers(rows: Columns) -> dict[str, bool]:
    """Return for each test image whether it was given its own class."""
    answers = zip(rows["split"], rows["image_id"], rows["predicted"], rows["label"], strict=True)
    return {image: predicted == label for split, image, predicted, label in answers if split == "test"}


def difference(unpruned: Mapping[str, bool], rows: Columns) -> dict[str, Any]:
    """Return a pruned network's test accuracy minus the unpruned one's, in points, with its 95 % paired interval.

    unpruned: its `right_answers`. Only images that both have seen count; nothing is returned without any.
    """
    frame = prediction_frame(rows)
    both = frame[(frame["split"] == "test") & frame["image_id"].isin(list(unpruned))]
    if both.empty:
        return {}
    found = paired_difference(right(both), np.array([unpruned[image] for image in both["image_id"]]), lesions_of(both))
    return {"difference": found.value, "difference_low": found.low, "difference_high": found.high}


def smallest_accepted(steps: pd.DataFrame) -> pd.Series[Any]:
    """Return the smallest step that met the baseline, else the first one. steps: rows of the store, not empty."""
    accepted = steps[steps["accepted"].astype("boolean").fillna(False)]
    return accepted.sort_values("parameters").iloc[0] if len(accepted) else steps.iloc[0]
