"""Metrics of predictions against labels, in percent.

Precision and recall have two definitions. The article's, named precision and recall, count every probability above 0.5
as a prediction, over all classes at once: an image may have no prediction, and recall is at most accuracy. The
macro-averages assign each image to the class of its largest probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from core.errors import SpecError
from core.networks.architectures import CLASSES

THRESHOLD = 0.5  # Keras's own for Precision and Recall, which the article used
LESIONS = tuple(label for label in CLASSES if label != "negative")

Matrix = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Classification:
    """The metrics of predictions on one set of images: percent, higher is better, None where undefined.

    accuracy: images whose largest probability is their class's. precision, recall: the article's; true predictions
    among the predictions, and among the images. macro_precision, macro_recall: means over the classes that have
    images; a class that is never predicted has a precision of 0. balanced_accuracy: the mean of `class_recall`, the
    same number as macro_recall under its usual name. lesion_accuracy: accuracy over the images of `LESIONS`.
    class_recall: in the order of `CLASSES`. confusion: images, one row per true class, one column per predicted class.
    """

    images: int
    accuracy: float | None
    precision: float | None
    recall: float | None
    macro_precision: float | None
    macro_recall: float | None
    balanced_accuracy: float | None
    lesion_accuracy: float | None
    class_recall: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]

    def figures(self, split: str) -> dict[str, float | None]:
        """Return the metrics with a single number, by the names of `algorithm2` and the tables: test_accuracy, …"""
        return {f"{split}_{name}": getattr(self, name) for name in FIGURES}

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON-ready values, with metrics per class keyed by the class."""
        return {
            "images": self.images,
            **{name: getattr(self, name) for name in FIGURES},
            "class_recall": dict(zip(CLASSES, self.class_recall, strict=True)),
            "confusion": [list(row) for row in self.confusion],
        }


FIGURES = (
    "accuracy",
    "precision",
    "recall",
    "macro_precision",
    "macro_recall",
    "balanced_accuracy",
    "lesion_accuracy",
)


def classify(probabilities: npt.ArrayLike, labels: npt.ArrayLike) -> Classification:
    """Compare a softmax's probabilities, (n, classes), with the labels, (n,) positions in `CLASSES`.

    Of equal largest probabilities the first counts. Raises SpecError where the shapes do not match, a label is not a
    class, or a probability is not finite.
    """
    chances, true = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if true.ndim != 1 or chances.shape != (len(true), len(CLASSES)):
        raise SpecError(f"Expected (n, {len(CLASSES)}) probabilities and n labels, got {chances.shape}, {true.shape}.")
    if not np.isin(true, range(len(CLASSES))).all():
        raise SpecError(f"Expected labels from 0 to {len(CLASSES) - 1}, got {np.unique(true).tolist()}.")
    if not np.isfinite(chances).all():
        raise SpecError("Expected finite probabilities, got infinite or missing values.")

    true = true.astype(np.int64)
    confusion = confusion_matrix(true, chances.argmax(axis=1))
    sure = chances > THRESHOLD
    right = int(sure[np.arange(len(true)), true].sum())
    hits, of_class, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    class_recall = tuple(percent(hit, images) for hit, images in zip(hits, of_class, strict=True))
    present = of_class > 0
    precisions = [percent(hit, count) or 0.0 for hit, count in zip(hits[present], predicted[present], strict=True)]
    recall = mean([value for value in class_recall if value is not None])
    lesions = [CLASSES.index(label) for label in LESIONS]
    return Classification(
        images=len(true),
        accuracy=percent(hits.sum(), len(true)),
        precision=percent(right, sure.sum()),
        recall=percent(right, len(true)),
        macro_precision=mean(precisions),
        macro_recall=recall,
        balanced_accuracy=recall,
        lesion_accuracy=percent(hits[lesions].sum(), of_class[lesions].sum()),
        class_recall=class_recall,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def confusion_matrix(true: Matrix, predicted: Matrix) -> Matrix:
    """Return the numbers of images, one row per true class and one column per predicted class."""
    size = len(CLASSES)
    return np.bincount(true * size + predicted, minlength=size**2).reshape(size, size).astype(np.int64)


def percent(part: int | np.integer[Any], whole: int | np.integer[Any]) -> float | None:
    """Return a share in percent; None where the whole is 0."""
    return 100 * int(part) / int(whole) if whole else None


def mean(values: list[float]) -> float | None:
    """Return the mean; None for an empty list."""
    return sum(values) / len(values) if values else None
