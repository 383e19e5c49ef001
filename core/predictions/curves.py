"""One class against the rest, and how far probabilities can be trusted: ROC, precision–recall and reliability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from core.networks.architectures import CLASSES
from core.predictions.classification import Floats
from core.predictions.rows import labels_of, probabilities_of, right

BINS = 15  # of equal numbers of images, for the expected calibration error
OPERATING_POINTS = (90.0, 95.0)  # percent of specificity, or of sensitivity


@dataclass(frozen=True, eq=False)
class OneAgainstRest:
    """How well the probability of one class tells its images from the others; None where either has no image.

    roc: false_positive_rate, sensitivity, threshold. precision_recall: recall, precision, threshold. Rates and areas
    are shares from 0 to 1; the threshold is the least probability that counts as the class.
    """

    label: str
    positives: int
    images: int
    roc: pd.DataFrame
    precision_recall: pd.DataFrame
    auc: float
    average_precision: float

    def sensitivity_at(self, specificity: float) -> float:
        """Return the largest sensitivity of a threshold whose specificity is at least this; both in percent."""
        enough = 100 * (1 - self.roc["false_positive_rate"]) >= specificity - 1e-9
        return 100 * float(self.roc.loc[enough, "sensitivity"].max())

    def specificity_at(self, sensitivity: float) -> float:
        """Return the largest specificity of a threshold whose sensitivity is at least this; both in percent."""
        enough = 100 * self.roc["sensitivity"] >= sensitivity - 1e-9
        return 100 * (1 - float(self.roc.loc[enough, "false_positive_rate"].min()))


def one_against_rest(rows: pd.DataFrame, label: str = "melanoma") -> OneAgainstRest | None:
    """Return the curves of one class, from the rows of one step and split."""
    from sklearn import metrics  # a second, and only where curves are shown

    true = (rows["label"] == label).to_numpy(dtype=bool)
    scores = rows[f"p_{label}"].to_numpy(dtype=np.float64)
    if not true.any() or true.all():
        return None
    false_positives, sensitivity, thresholds = metrics.roc_curve(true, scores, drop_intermediate=False)
    precision, recall, limits = metrics.precision_recall_curve(true, scores)
    return OneAgainstRest(
        label=label,
        positives=int(true.sum()),
        images=len(true),
        roc=pd.DataFrame({"false_positive_rate": false_positives, "sensitivity": sensitivity, "threshold": thresholds}),
        precision_recall=pd.DataFrame(
            {"recall": recall, "precision": precision, "threshold": np.append(limits, np.inf)}
        ),
        auc=float(metrics.roc_auc_score(true, scores)),
        average_precision=float(metrics.average_precision_score(true, scores)),
    )


def brier_score(rows: pd.DataFrame) -> float:
    """Return the mean over images of Σ (p − y)² over the classes: 0 is best, 2 is worst. NaN without images."""
    if rows.empty:
        return float("nan")
    return float(((probabilities_of(rows) - np.eye(len(CLASSES))[labels_of(rows)]) ** 2).sum(axis=1).mean())


def reliability(rows: pd.DataFrame, bins: int = BINS) -> pd.DataFrame:
    """Return confidence against accuracy in bins of equal numbers of images, as far as these can be divided.

    Columns: images, confidence (the mean of the largest probability) and accuracy, both shares from 0 to 1. Images are
    sorted by confidence, those of equal confidence in the order of the rows.
    """
    confidence: Floats = probabilities_of(rows).max(axis=1)
    order = np.argsort(confidence, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    correct = right(rows)
    return pd.DataFrame(
        [(len(part), confidence[part].mean(), correct[part].mean()) for part in parts],
        columns=["images", "confidence", "accuracy"],
    )


def calibration_error(rows: pd.DataFrame, bins: int = BINS) -> float:
    """Return the expected calibration error: Σ n_b/n · |accuracy_b − confidence_b|, a share. NaN without images."""
    table = reliability(rows, bins)
    if table.empty:
        return float("nan")
    apart = (table["accuracy"] - table["confidence"]).abs()
    return float((table["images"] * apart).sum() / table["images"].sum())
