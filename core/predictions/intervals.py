"""How sure the figures of a classification are: 95 % intervals by resampling lesions.

The images of a lesion are alike, so a resample draws lesions, with all images of each; an image without a lesion is
drawn by itself. The interval is from the 2.5th to the 97.5th percentile of a figure over the resamples (percentile
bootstrap). Two predictors on the same images are compared on the same resamples.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from core.networks.architectures import CLASSES
from core.predictions.classification import THRESHOLD, Floats, Matrix, figures_of, mean_over_classes, share

RESAMPLES = 2000
SEED = 1
LEVEL = 95  # percent
MACRO_AUC = "macro_auc"
TAILS = ((100 - LEVEL) / 2, (100 + LEVEL) / 2)

Interval = tuple[float, float]


def drawn(lesions: Sequence[str], resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Return how often each image is in each resample, (images, resamples)."""
    names, group = np.unique(np.asarray(lesions, dtype=str), return_inverse=True)
    count = len(names)
    if not count:
        return np.zeros((0, resamples))
    picks = np.random.default_rng(seed).integers(0, count, (resamples, count))
    picks += count * np.arange(resamples)[:, None]
    times = np.bincount(picks.ravel(), minlength=count * resamples).reshape(resamples, count)
    return times.T[group].astype(np.float64)


def intervals(probabilities: Floats, labels: Matrix, lesions: Sequence[str]) -> dict[str, Interval]:
    """Return the interval of each figure of `figures_of` and of `macro_auc`, in percent; without the undefined ones.

    probabilities: (n, classes). labels: (n,) positions in `CLASSES`. lesions: what is resampled together, (n,).
    """
    times = drawn(lesions)
    classes = len(CLASSES)
    cells = np.eye(classes**2)[labels * classes + probabilities.argmax(axis=1)]
    sure = probabilities > THRESHOLD
    right = sure[np.arange(len(labels)), labels]
    found = figures_of(
        (times.T @ cells).reshape(-1, classes, classes), right @ times, sure.sum(axis=1).astype(np.float64) @ times
    )
    found[MACRO_AUC] = 100 * mean_over_classes(
        np.stack([aucs(probabilities[:, number], labels == number, times) for number in range(classes)], axis=-1)
    )
    return {name: limits for name, values in found.items() if (limits := percentiles(values)) is not None}


def aucs(scores: Floats, positive: npt.NDArray[np.bool_], times: Floats) -> Floats:
    """Return the area under the ROC curve in each resample, (resamples,); ties count half, NaN without both classes.

    scores: (n,), higher is more positive. times: how often each image is in each resample, (n, resamples).
    """
    order = np.argsort(scores[~positive], kind="stable")
    negatives, drawn_negatives = scores[~positive][order], times[~positive][order]
    below = np.concatenate([np.zeros((1, times.shape[1])), np.cumsum(drawn_negatives, axis=0)])
    drawn_positives = times[positive]
    wins = sum(
        np.einsum("ij,ij->j", below[np.searchsorted(negatives, scores[positive], side)], drawn_positives) / 2
        for side in ("left", "right")
    )
    pairs = drawn_positives.sum(axis=0) * below[-1]
    return share(wins, pairs) / 100


def percentiles(values: Floats) -> Interval | None:
    """Return the interval of a figure from its values in the resamples; None where none is defined."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, TAILS)
    return float(low), float(high)


def intervals_of_step(classification: str) -> dict[str, Interval]:
    """Return the intervals of a step's figures by the names of its columns: test_accuracy, test_macro_auc, …

    classification: the JSON text in the store. Steps of an older store have none.
    """
    return {
        f"{split}_{name}": (low, high)
        for split, metrics in json.loads(classification).items()
        for name, (low, high) in metrics.get("intervals", {}).items()
    }


def interval_text(limits: Interval | None, sign: str = "") -> str:
    """Return an interval in brackets, such as [68.1, 76.9]; empty where there is none. sign: '+' for differences.

    One digit is what 2,000 resamples determine.
    """
    return "" if limits is None else f"[{limits[0]:{sign}.1f}, {limits[1]:{sign}.1f}]".replace("-", "−")


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies in points, the first predictor's minus the second's, with its interval."""

    value: float
    low: float
    high: float


def paired_difference(
    first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_], lesions: Sequence[str]
) -> Difference:
    """Compare two predictors on the same images. first, second: whether each image is right, (n,), n at least 1."""
    apart = first.astype(np.float64) - second.astype(np.float64)
    times = drawn(lesions)
    low, high = np.percentile(100 * (apart @ times) / times.sum(axis=0), TAILS)
    return Difference(100 * float(apart.mean()), float(low), float(high))
