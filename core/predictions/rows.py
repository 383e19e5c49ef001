"""What a network says of each image: one row per image, the source of every figure of its classification.

Rows travel as columns, a mapping from name to list, so that a message holds them as JSON. Pages, commands and
statistics use a DataFrame. The probabilities are 32-bit numbers, as the network gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from core.networks.architectures import CLASSES
from core.predictions.classification import Matrix, classify
from core.predictions.intervals import MACRO_AUC, aucs, intervals

if TYPE_CHECKING:
    import pandas as pd

PROBABILITIES = tuple(f"p_{label}" for label in CLASSES)
# lesion_id: missing for an image without one. label, predicted: of `CLASSES`. p_*: add up to 1 within 1e-5.
COLUMNS = ("split", "image_id", "lesion_id", "label", "predicted", *PROBABILITIES)
EXPORT_COLUMNS = ("run_id", "step", *COLUMNS)

Columns = dict[str, list[Any]]


def prediction_columns(
    split: str,
    image_ids: Sequence[str],
    lesion_ids: Sequence[str | None],
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float32],
) -> Columns:
    """Return the rows of one split. labels: (n,) positions in `CLASSES`. probabilities: (n, classes)."""
    found: Columns = {
        "split": [split] * len(image_ids),
        "image_id": list(image_ids),
        "lesion_id": list(lesion_ids),
        "label": [CLASSES[label] for label in labels],
        "predicted": [CLASSES[label] for label in probabilities.argmax(axis=1)],
    }
    return found | {
        name: values.tolist() for name, values in zip(PROBABILITIES, probabilities.T.astype(np.float32), strict=True)
    }


def diagnosis_rows(
    image_id: str, lesion_id: str | None, label: str, variants: Sequence[str], probabilities: npt.NDArray[np.float32]
) -> tuple[dict[str, Any], ...]:
    """Return what a network says of one image in several ways: rows of table `diagnoses`, without the run's id.

    probabilities: (variants, classes).
    """
    count = len(variants)
    labels = np.full(count, CLASSES.index(label))
    columns = prediction_columns("", [image_id] * count, [lesion_id] * count, labels, probabilities)
    named = {"variant": list(variants), **{name: columns[name] for name in COLUMNS if name != "split"}}
    return tuple(dict(zip(named, values, strict=True)) for values in zip(*named.values(), strict=True))


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the rows of several splits."""
    return {name: [value for part in parts for value in part[name]] for name in COLUMNS}


def prediction_frame(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return rows as a DataFrame with `COLUMNS`."""
    import pandas as pd

    frame = pd.DataFrame({name: list(columns[name]) for name in COLUMNS})
    return frame.astype(dict.fromkeys(PROBABILITIES, np.float32))


def labels_of(rows: pd.DataFrame, column: str = "label") -> Matrix:
    """Return the positions in `CLASSES` of a column of labels, (n,)."""
    return np.array([CLASSES.index(label) for label in rows[column]], dtype=np.int64)


def probabilities_of(rows: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the probabilities of rows, (n, classes)."""
    return rows[list(PROBABILITIES)].to_numpy(dtype=np.float64)


def lesions_of(rows: pd.DataFrame | Mapping[str, Sequence[Any]]) -> list[str]:
    """Return what is resampled together: an image's lesion, or the image where it has none."""
    return [
        f"image {image}" if lesion is None or lesion != lesion else str(lesion)
        for image, lesion in zip(rows["image_id"], rows["lesion_id"], strict=True)
    ]


def right(rows: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return whether each image was given its own class, (n,)."""
    return (rows["predicted"] == rows["label"]).to_numpy(dtype=bool)


def described(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the metrics of rows of one split with their intervals, JSON-ready: column `classification` of `steps`."""
    answers = probabilities_of(rows), labels_of(rows)
    limits = intervals(*answers, lesions_of(rows))
    return {
        **classify(*answers).to_dict(),
        MACRO_AUC: macro_auc(rows),
        "intervals": {name: list(pair) for name, pair in limits.items()},
    }


def macro_auc(rows: pd.DataFrame) -> float | None:
    """Return the mean over the classes of the area under the ROC curve, the class against the rest, in percent.

    Of a class that none, or all, of the images have there is no area. None where there is none at all.
    """
    labels, scores, once = labels_of(rows), probabilities_of(rows), np.ones((len(rows), 1))
    areas = [float(aucs(scores[:, number], labels == number, once)[0]) for number in range(len(CLASSES))]
    defined = [area for area in areas if not np.isnan(area)]
    return 100 * sum(defined) / len(defined) if defined else None
