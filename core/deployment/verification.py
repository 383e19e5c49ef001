"""Verify a converted network on the test set: does it give what Keras gives from the same weights at float32?"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from core.data.splits import Indices
from core.deployment.runtimes import Classifier
from core.predictions.classification import classify
from core.predictions.intervals import intervals

Floats = npt.NDArray[np.float32]


def calibration_rows(labels: Indices, rows: Sequence[int], count: int) -> Indices:
    """Return at most `count` of the rows, the classes in turn, each in the order of its rows. labels: of every row."""
    given = np.asarray(rows, dtype=np.int64)
    classes = labels[given]
    turn = np.zeros(len(given), dtype=np.int64)  # of each row among those of its class
    for each in np.unique(classes):
        own = classes == each
        turn[own] = np.arange(own.sum())
    return np.sort(given[np.lexsort((classes, turn))[:count]])


def verified(
    predict: Classifier,
    images: npt.NDArray[Any],
    metadata: Floats,
    labels: Indices,
    lesions: list[str],
    reference: Floats,
) -> dict[str, Any]:
    """Predict the test images with a converted network; return the fields of `Conversion` that follow.

    images: (n, H, W, 3). metadata: (n, 3). labels: (n,) positions in the classes. lesions: what is resampled together,
    (n,). reference: Keras's softmax of the same images, (n, classes).
    """
    if not len(images):
        return {}
    found = predict(images, metadata).astype(np.float64)
    low, high = intervals(found, labels, lesions)["accuracy"]
    return {
        "images": len(images),
        "same_class": int((found.argmax(axis=1) == reference.argmax(axis=1)).sum()),
        "largest_difference": float(np.abs(found - reference).max()),
        "accuracy": classify(found, labels).accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "keras_accuracy": classify(reference, labels).accuracy,
    }


def facts_of(path: Path) -> dict[str, Any]:
    """Return the fields of `Conversion` that describe a file."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
