"""Temperature scaling: one number that makes a network's probabilities agree with how often it is right.

Guo et al., 2017, "On Calibration of Modern Neural Networks", section 4.2. The predicted class never changes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from core.networks.architectures import CLASSES
from core.predictions.rows import labels_of, probabilities_of

RANGE = (0.05, 20.0)  # of the temperature
LEAST = 1e-12  # a probability of 0 counts as this

Floats = npt.NDArray[np.float64]


def calibrated(probabilities: npt.ArrayLike, temperature: float) -> Floats:
    """Return probabilities, (..., classes), at a temperature: p^(1/T), scaled so that they add up to 1."""
    logs = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), LEAST)) / temperature
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    found: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return found


def temperature_of(rows: pd.DataFrame) -> float:
    """Return the temperature with the smallest mean −log of the true class's probability; 1 without images.

    rows: predictions of one step and split, of images that the network was not trained with.
    """
    from scipy.optimize import minimize_scalar  # a tenth of a second, and only where it is needed

    labelled = rows[rows["label"].isin(CLASSES)]
    if labelled.empty:
        return 1.0
    probabilities, labels = probabilities_of(labelled), labels_of(labelled)
    places = np.arange(len(labels))

    def loss(logarithm: float) -> float:
        chances = calibrated(probabilities, float(np.exp(logarithm)))[places, labels]
        return float(-np.log(np.maximum(chances, LEAST)).mean())

    best = minimize_scalar(loss, bounds=tuple(np.log(RANGE)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))
