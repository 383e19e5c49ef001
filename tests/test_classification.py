"""The metrics of predictions, compared with plain loops and closed forms."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import SpecError
from core.networks.architectures import CLASSES
from core.predictions.classification import FIGURES, LESIONS, Classification, classify
from core.training.specs import CRITERIA

N = len(CLASSES)


def softmax(seed: int, images: int, sharpness: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    exponents = np.exp(generator.normal(0, sharpness, (images, N)))
    return exponents / exponents.sum(axis=1, keepdims=True), generator.integers(0, N, images)


def looped(chances: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Return the same metrics, computed image by image and class by class."""
    predicted = [max(range(N), key=lambda number: row[number]) for row in chances]
    pairs = list(zip(labels.tolist(), predicted, strict=True))

    def share(of: list[bool]) -> float | None:
        return 100 * sum(of) / len(of) if of else None

    def average(values: list[float | None]) -> float | None:
        return float(np.mean([value or 0 for value in values])) if values else None

    sure = [
        (number == label)
        for row, label in zip(chances, labels, strict=True)
        for number in range(N)
        if row[number] > 0.5
    ]
    present = sorted(set(labels.tolist()))
    recalls = {number: share([guess == number for true, guess in pairs if true == number]) for number in range(N)}
    return {
        "accuracy": share([true == guess for true, guess in pairs]),
        "precision": share(sure),
        "recall": 100 * sum(sure) / len(pairs) if pairs else None,
        "macro_precision": average(
            [share([true == each for true, guess in pairs if guess == each]) for each in present]
        ),
        "macro_recall": average([recalls[number] for number in present]),
        "balanced_accuracy": average([recalls[number] for number in present]),
        "lesion_accuracy": share([true == guess for true, guess in pairs if CLASSES[true] in LESIONS]),
        "class_recall": tuple(recalls.values()),
        "confusion": tuple(tuple(pairs.count((true, guess)) for guess in range(N)) for true in range(N)),
    }


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.floats(0, 5))
def test_every_metric_equals_that_of_a_plain_loop(seed: int, images: int, sharpness: float) -> None:
    chances, labels = softmax(seed, images, sharpness)
    found, expected = classify(chances, labels), looped(chances, labels)
    assert found.images == images
    for name in (*FIGURES, "class_recall"):
        assert getattr(found, name) == pytest.approx(expected[name], abs=1e-9), name
    assert found.confusion == expected["confusion"]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_the_articles_recall_never_exceeds_accuracy(seed: int, images: int) -> None:
    found = classify(*softmax(seed, images, 1))
    assert found.recall is not None
    assert found.accuracy is not None
    assert found.recall <= found.accuracy


def test_perfect_confident_predictions_have_100_percent_in_every_metric() -> None:
    labels = np.arange(N).repeat(3)
    found = classify(np.eye(N)[labels], labels)
    assert {name: getattr(found, name) for name in FIGURES} == dict.fromkeys(FIGURES, 100.0)
    assert found.class_recall == (100.0,) * N
    assert np.array_equal(found.confusion, 3 * np.eye(N))


def test_predictions_up_to_0_5_count_for_accuracy_but_not_for_the_articles_recall() -> None:
    chances = [[0.4, 0.2, 0.2, 0.2], [0.9, 0.1, 0, 0], [0.1, 0.9, 0, 0], [0.5, 0.3, 0.2, 0]]
    found = classify(chances, [0, 0, 0, 0])
    assert (found.accuracy, found.precision, found.recall) == (75.0, 50.0, 25.0)  # 0.5 itself is not above 0.5


def test_without_a_confident_prediction_the_articles_precision_is_undefined_and_its_recall_0() -> None:
    found = classify(np.full((3, N), 1 / N), [0, 1, 2])
    assert (found.precision, found.recall) == (None, 0.0)
    assert found.accuracy == pytest.approx(100 / 3)  # the first class wins when probabilities are equal


def test_predicting_one_class_for_all_has_the_accuracy_of_its_share() -> None:
    labels = np.array([0] * 7 + [1] * 2 + [2])
    found = classify(np.eye(N)[np.zeros(10, int)], labels)
    assert (found.accuracy, found.balanced_accuracy) == (70.0, pytest.approx(100 / 3))
    assert found.macro_precision == pytest.approx(70 / 3)
    assert found.class_recall == (100.0, 0.0, 0.0, None)  # no image of the fourth class: not counted as 0


def test_easy_negatives_raise_accuracy_but_not_lesion_accuracy() -> None:
    labels = np.array([0, 1, 2, 3, 3, 3])
    found = classify(np.eye(N)[[0, 2, 1, 3, 3, 3]], labels)
    assert found.lesion_accuracy == pytest.approx(100 / 3)
    assert found.accuracy == pytest.approx(400 / 6)
    assert classify(np.eye(N)[[3]], [3]).lesion_accuracy is None


def test_without_images_every_metric_is_undefined() -> None:
    found = classify(np.zeros((0, N)), np.zeros(0, int))
    assert [getattr(found, name) for name in FIGURES] == [None] * len(FIGURES)
    assert found.class_recall == (None,) * N
    assert np.array_equal(found.confusion, np.zeros((N, N)))


def test_figures_include_the_criteria_of_algorithm_2() -> None:
    found = classify(*softmax(1, 20, 2))
    values = found.to_dict()
    figures = {f"{split}_{name}": values[name] for split in ("train", "validation", "test") for name in FIGURES}
    assert set(CRITERIA) <= set(figures)
    assert figures["test_macro_recall"] == found.macro_recall


def test_the_json_of_a_classification_names_every_class() -> None:
    found: Classification = classify(*softmax(1, 20, 2))
    values = json.loads(json.dumps(found.to_dict()))
    assert values["class_recall"] == dict(zip(CLASSES, found.class_recall, strict=True))
    assert np.array_equal(values["confusion"], found.confusion)
    assert values["accuracy"] == found.accuracy


@pytest.mark.parametrize(
    ("chances", "labels", "message"),
    [
        (np.full((2, N), 0.25), [0], "probabilities and n labels"),
        (np.full((1, N + 1), 0.2), [0], "probabilities and n labels"),
        (np.full((1, N), 0.25), [-1], "labels from 0 to 3"),
        (np.full((1, N), 0.25), [1.5], "labels from 0 to 3"),
        (np.full((1, N), np.nan), [0], "finite"),
    ],
)
def test_predictions_that_do_not_fit_the_labels_are_refused(
    chances: np.ndarray, labels: list[float], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        classify(chances, labels)
