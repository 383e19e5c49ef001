"""Intervals of a step's figures, against the plain loop over resamples: `python -m benchmarks.intervals`.

1,460 images of four classes, two of each lesion, 2,000 resamples. The peer draws resamples of the lesions one after the
other and computes four figures of each with scikit-learn. It does a hundredth of the resamples, and its time is
multiplied by 100, because all of them would take a minute.
"""

from __future__ import annotations

import sys
import time
from functools import partial

import numpy as np
from sklearn.metrics import accuracy_score, balanced_accuracy_score, recall_score, roc_auc_score

from benchmarks.resampling import report
from core.networks.architectures import CLASSES
from core.predictions.intervals import RESAMPLES, Floats, Matrix, intervals

TARGET, RATIO_TARGET = 0.3, 20.0  # seconds; times the peer
IMAGES, PART = 1460, 100


def predictions() -> tuple[Floats, Matrix, list[str]]:
    """Return seeded probabilities, labels and lesions."""
    generator = np.random.default_rng(0)
    labels = np.arange(IMAGES) % len(CLASSES)
    scores = generator.normal(size=(IMAGES, len(CLASSES)))
    scores[np.arange(IMAGES), labels] += 1.5
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return chances, labels, [f"lesion {number // 2}" for number in range(IMAGES)]


def plain_loop(chances: Floats, labels: Matrix, lesions: list[str], resamples: int) -> float:
    """Return the seconds for the figures of this many resamples."""
    generator = np.random.default_rng(1)
    names, group = np.unique(lesions, return_inverse=True)
    images = [np.flatnonzero(group == lesion) for lesion in range(len(names))]
    begin = time.perf_counter()
    for _ in range(resamples):
        drawn = np.concatenate([images[lesion] for lesion in generator.integers(0, len(names), len(names))])
        guesses = chances[drawn].argmax(axis=1)
        accuracy_score(labels[drawn], guesses)
        balanced_accuracy_score(labels[drawn], guesses)
        recall_score(labels[drawn], guesses, average=None)
        roc_auc_score(labels[drawn], chances[drawn], multi_class="ovr")
    return time.perf_counter() - begin


def main() -> int:
    chances, labels, lesions = predictions()
    what = f"{IMAGES:,} images × {len(CLASSES)} classes, {RESAMPLES:,} resamples"
    ours, peer = (
        partial(intervals, chances, labels, lesions),
        lambda: plain_loop(chances, labels, lesions, RESAMPLES // PART) * PART,
    )
    return report(what, ours, peer, TARGET, RATIO_TARGET)


if __name__ == "__main__":
    sys.exit(main())
