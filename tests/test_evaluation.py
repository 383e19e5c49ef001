"""From predictions to the verdict of a step: figures, the paired difference, and both rules of acceptance."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from core.data.splits import SPLITS, Split, Targets
from core.data.training_arrays import fit_metadata
from core.networks.architectures import CLASSES, LENET5
from core.predictions.intervals import paired_difference
from core.predictions.rows import described as described_split
from core.predictions.rows import prediction_frame
from core.training import algorithm2
from core.training.algorithm2 import State, Step, accept
from core.training.data import TrainingData
from core.training.evaluation import evaluated, judged, predicted, right_answers, verdicts
from core.training.results import StepResult
from core.training.specs import (
    CRITERIA,
    DIFFERENCE_LOW,
    NONINFERIOR,
    POINTS,
    Baseline,
    PruneTrainSpec,
    Rules,
    TrainingProtocol,
)
from core.training.steps import STEP_FIGURES, described, first_state, next_training

TESTED = 200
SPLIT = Split(
    Targets(), 1, False, CLASSES, tuple(range(40)), tuple(range(40, 60)), tuple(range(60, 60 + TESTED)), (), ()
)
LABELS = np.arange(60 + TESTED) % len(CLASSES)
IDS = tuple(f"image {number}" for number in range(60 + TESTED))
LESIONS = tuple(f"lesion {number // 2}" for number in range(60 + TESTED))
DATA = TrainingData(
    images=np.zeros((60 + TESTED, 1, 1, 3), np.uint8),
    metadata=np.zeros((60 + TESTED, 3), np.float32),
    labels=LABELS,
    split=SPLIT,
    image_ids=IDS,
    lesion_ids=LESIONS,
    encoding=fit_metadata([]),
    left_out=(),
    notes=(),
    reached=(),
)
EASY = Baseline(train_accuracy=0, train_precision=0, validation_accuracy=0, validation_precision=0, test_tolerance=2)


def spec(accept: str = POINTS, **values: Any) -> PruneTrainSpec:
    training = TrainingProtocol(height=48, width=64)
    return PruneTrainSpec(
        dataset="moles", network=LENET5, training=training, baseline=EASY, rules=Rules(accept=accept), **values
    )


def answers(wrong: set[int]) -> dict[str, np.ndarray]:
    """Probabilities of the three sets; wrong: the test images, from 0, that are given another class."""
    found = {}
    for name in SPLITS:
        indices = list(getattr(SPLIT, name))
        guesses = LABELS[indices].copy()
        if name == "test":
            guesses[list(wrong)] = (guesses[list(wrong)] + 1) % len(CLASSES)
        found[name] = (0.1 + 0.6 * np.eye(len(CLASSES))[guesses]).astype(np.float32)
    return found


def step_with(asked: PruneTrainSpec, state: State, wrong: set[int]) -> tuple[Step, StepResult]:
    step = next_training(asked, state)
    assert isinstance(step, Step)
    rows = predicted(DATA, answers(wrong))
    return step, replace(described(asked, step), status="finished", **evaluated(rows, asked.predicted_splits))


def two_steps(asked: PruneTrainSpec, first: set[int], second: set[int]) -> tuple[StepResult, StepResult, State]:
    state = first_state(asked)
    unpruned, state = judged(state, *step_with(asked, state, first))
    pruned, state = judged(state, *step_with(asked, state, second))
    return unpruned, pruned, state


def test_the_figures_of_a_step_follow_from_its_rows() -> None:
    _, result = step_with(spec(), first_state(spec()), {1, 5, 9})
    assert set(result.figures) == set(STEP_FIGURES)
    assert result.figures["test_accuracy"] == pytest.approx(100 * (TESTED - 3) / TESTED)
    frame = prediction_frame(result.predictions)
    assert frame.groupby("split").size().to_dict() == {"validation": 20, "test": TESTED}
    for split in ("validation", "test"):
        assert result.classification[split] == described_split(frame[frame["split"] == split])
    assert set(result.classification) == set(SPLITS)
    assert frame["image_id"].is_unique


def test_rows_of_training_images_are_kept_where_asked() -> None:
    asked = spec(training_predictions=True)
    _, result = step_with(asked, first_state(asked), set())
    assert prediction_frame(result.predictions).groupby("split").size().to_dict() == {
        **{"train": 40, "validation": 20, "test": TESTED},
    }


def test_a_pruned_step_has_the_paired_difference_with_the_unpruned_one() -> None:
    unpruned, pruned, _ = two_steps(spec(), {1, 2, 3}, {2, 3, 10, 11, 12})
    assert (unpruned.difference, unpruned.noninferior) == (None, True)
    first, second = (right_answers(each.predictions) for each in (pruned, unpruned))
    lesions = [lesion for lesion, image in zip(LESIONS, IDS, strict=True) if image in first]
    expected = paired_difference(np.array(list(first.values())), np.array(list(second.values())), lesions)
    assert (pruned.difference, pruned.difference_low, pruned.difference_high) == (
        expected.value, expected.low, expected.high,
    )  # fmt: skip
    assert pruned.difference == pytest.approx(-100 * 2 / TESTED)


@pytest.mark.parametrize("rule", [POINTS, NONINFERIOR])
def test_both_verdicts_are_known_and_the_chosen_rule_decides(rule: str) -> None:
    # Two more errors of 200 are one point: within the tolerance, but the interval reaches below −2 points.
    unpruned, pruned, state = two_steps(spec(rule), {1, 2, 3}, {2, 3, 10, 11, 12})
    assert unpruned.accepted
    assert (pruned.accepted_by_points, pruned.noninferior) == (True, False)
    assert pruned.accepted == (rule == POINTS)
    if rule == NONINFERIOR:
        assert (pruned.criterion, pruned.needed, pruned.value) == (DIFFERENCE_LOW, -2.0, pruned.difference_low)
        assert "the lower end of the interval of the difference in test accuracy" in pruned.reason
    again = algorithm2.from_dict(json.loads(json.dumps(algorithm2.to_dict(state))))
    assert again == state
    assert again.unpruned_right == right_answers(unpruned.predictions)


def test_a_network_that_is_right_where_the_unpruned_one_is_right_is_not_inferior() -> None:
    _, pruned, _ = two_steps(spec(NONINFERIOR), {1, 2, 3}, {2})
    assert (pruned.accepted, pruned.accepted_by_points, pruned.noninferior) == (True, True, True)
    assert pruned.difference_low >= 0


def test_non_inferiority_also_needs_the_thresholds_of_training_and_validation() -> None:
    figures = dict.fromkeys(CRITERIA, 95.0) | {DIFFERENCE_LOW: 1.0}
    assert accept(figures, figures, Baseline(), Rules(accept=NONINFERIOR)).accepted
    missed = accept(figures | {"validation_precision": 79.0}, figures, Baseline(), Rules(accept=NONINFERIOR))
    assert (missed.accepted, missed.criterion) == (False, "validation_precision")


@pytest.mark.parametrize(("low", "accepted"), [(-2.0, True), (-2.01, False), (0.5, True)])
def test_the_lower_end_may_reach_the_tolerance(low: float, accepted: bool) -> None:
    figures = dict.fromkeys(CRITERIA, 95.0) | {DIFFERENCE_LOW: low}
    assert accept(figures, dict.fromkeys(CRITERIA, 99.0), Baseline(), Rules(accept=NONINFERIOR)).accepted == accepted


def test_without_predictions_of_the_unpruned_network_non_inferiority_is_unknown() -> None:
    asked = spec()
    state = first_state(asked)
    step, result = step_with(asked, state, set())
    _, state = judged(state, step, replace(result, predictions={}))  # a state that an older version began
    step, result = step_with(asked, state, {4})
    found, _ = judged(state, step, result)
    assert (found.difference, found.noninferior, found.accepted_by_points) == (None, None, True)
    asked = spec(NONINFERIOR)
    found, _ = judged(replace(state, rules=asked.rules), step, result)
    assert (found.accepted, found.criterion) == (False, DIFFERENCE_LOW)


def test_a_failed_step_is_accepted_by_neither_rule() -> None:
    asked = spec()
    step = next_training(asked, first_state(asked))
    assert isinstance(step, Step)
    result = replace(described(asked, step), status="failed", failure="There is too little memory.")
    assert verdicts(EASY, Rules(), None, result) == {"accepted_by_points": False, "noninferior": False}
    found, _ = judged(first_state(asked), step, result)
    assert (found.accepted, found.accepted_by_points, found.noninferior) == (False, False, False)
