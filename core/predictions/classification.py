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
Floats = npt.NDArray[np.float64]


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

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON-ready values, with metrics per class keyed by the class."""
        return {
            "images": self.images,
            **{name: getattr(self, name) for name in FIGURES},
            "class_recall": dict(zip(CLASSES, self.class_recall, strict=True)),
            "confusion": [list(row) for row in self.confusion],
        }


FIGURES = ("accuracy", "precision", "recall", "macro_precision", "macro_recall", "balanced_accuracy", "lesion_accuracy")


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
    found = figures_of(confusion, sure[np.arange(len(true)), true].sum(), sure.sum())
    numbers = {name: None if np.isnan(value) else float(value) for name, value in found.items()}
    return Classification(
        images=len(true),
        **{name: numbers[name] for name in FIGURES},
        class_recall=tuple(numbers[recall_name(label)] for label in CLASSES),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def recall_name(label: str) -> str:
    """Return the name of a class's recall."""
    return f"recall_{label}"


def figures_of(confusion: npt.ArrayLike, sure_right: npt.ArrayLike, sure: npt.ArrayLike) -> dict[str, Floats]:
    """Return `FIGURES` and the recall of each class in percent, NaN where undefined.

    confusion: images, (..., classes, classes), one row per true class. sure_right, sure: (...), the probabilities above
    `THRESHOLD`, of the true class and of all. Leading dimensions hold one classification each, such as resamples.
    """
    matrix = np.asarray(confusion, dtype=np.float64)
    hits, of_class, predicted = matrix.diagonal(axis1=-2, axis2=-1), matrix.sum(axis=-1), matrix.sum(axis=-2)
    images, trusted = of_class.sum(axis=-1), np.asarray(sure_right, dtype=np.float64)
    recalls = share(hits, of_class)
    precisions = np.where(of_class > 0, np.nan_to_num(share(hits, predicted)), np.nan)
    lesions = [CLASSES.index(label) for label in LESIONS]
    balanced = mean_over_classes(recalls)
    return {
        "accuracy": share(hits.sum(axis=-1), images),
        "precision": share(trusted, np.asarray(sure, dtype=np.float64)),
        "recall": share(trusted, images),
        "macro_precision": mean_over_classes(precisions),
        "macro_recall": balanced,
        "balanced_accuracy": balanced,
        "lesion_accuracy": share(hits[..., lesions].sum(axis=-1), of_class[..., lesions].sum(axis=-1)),
        **{recall_name(label): recalls[..., number] for number, label in enumerate(CLASSES)},
    }


def confusion_matrix(true: Matrix, predicted: Matrix) -> Matrix:
    """Return the numbers of images, one row per true class and one column per predicted class."""
    size = len(CLASSES)
    return np.bincount(true * size + predicted, minlength=size**2).reshape(size, size).astype(np.int64)


def share(part: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
    """Return shares in percent; NaN where the whole is 0."""
    parts, wholes = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    found = np.full(parts.shape, np.nan)
    np.divide(100 * parts, wholes, out=found, where=wholes > 0)
    return found


def mean_over_classes(values: Floats) -> Floats:
    """Return the mean over the last axis of the values that are defined; NaN where none is."""
    return share(np.nansum(values, axis=-1), np.isfinite(values).sum(axis=-1)) / 100
