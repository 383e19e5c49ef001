"""What compression does to a diagnosis: a network's predictions of the same images stored in several ways.

One row per image and way, and one per image as it came (`ORIGINAL`). Every figure of a way follows from its rows and
those of the same images as they came. Intervals are those of `core.predictions.intervals`: all figures of a way are
computed on the same 2,000 resamples of lesions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from core.compression.image_results import ORIGINAL
from core.compression.rivals import CODEC_LABELS
from core.compression.specs import Way
from core.compression.svd import MODES
from core.networks.architectures import CLASSES
from core.predictions.classification import Floats, figures_of, recall_name, share
from core.predictions.comparison import mcnemar
from core.predictions.intervals import aucs, drawn, interval_text, percentiles
from core.predictions.rows import labels_of, lesions_of, probabilities_of, right

if TYPE_CHECKING:
    import pandas as pd

MELANOMA = CLASSES.index("melanoma")
RECALL = recall_name("melanoma")
# Of a way: bytes of a stored image, its PSNR in dB and SSIM, means over the images; the rest in percent, changes in
# points. agreement: predictions that are those of the original. auc: of melanoma against the rest.
MEANS = ("bytes", "psnr", "ssim")
FIGURES = (*MEANS, "agreement", "accuracy", "balanced_accuracy", RECALL, "auc", "accuracy_change", "recall_change")
KEPT = 99.0  # percent of the predictions; a way that keeps as many is said to change nothing


def way_figures(rows: pd.DataFrame, variants: Sequence[str]) -> pd.DataFrame:
    """Return one row per way, the originals first: each of `FIGURES` with the ends of its 95 % interval.

    rows: of a run, as `Store.diagnoses` returns them. variants: of the ways, in order; those without rows are left out.
    Columns: variant, images, each figure with `_low` and `_high`, and those of the same images as they came
    (`accuracy_before`, `recall_melanoma_before`); lost and gained (images that only the original, or only the stored
    image, is given its own class), p (McNemar's), and the same of melanomas as melanomas_lost, melanomas_gained and
    melanomas_p. NaN where undefined: PSNR without an image that changed, a recall without images.
    """
    import pandas as pd

    by_variant = {str(name): own.sort_values("image_id") for name, own in rows.groupby("variant", sort=False)}
    original = by_variant.get(ORIGINAL, rows.iloc[:0]).set_index("image_id", drop=False)
    found: list[dict[str, Any]] = []
    times, of_images = np.zeros((0, 0)), None
    for variant in (ORIGINAL, *variants):
        if variant not in by_variant:
            continue
        own = by_variant[variant]
        if (images := tuple(own["image_id"])) != of_images:
            times, of_images = drawn(lesions_of(own)), images
        found.append(
            {"variant": variant, "images": len(own), **_figures_of_way(own, original.loc[list(images)], times)}
        )
    return pd.DataFrame(found)


def _figures_of_way(own: pd.DataFrame, before: pd.DataFrame, times: Floats) -> dict[str, float]:
    """Return the figures of one way. before: the same images as they came. times: of `drawn`."""
    figures: dict[str, float] = {}
    once = {name: float(values[0]) for name, values in _over(own, before, np.ones((len(own), 1))).items()}
    for name, values in _over(own, before, times).items():
        low, high = percentiles(values) or (float("nan"), float("nan"))
        figures |= {name: once[name], f"{name}_low": low, f"{name}_high": high}
    for name, change in (("accuracy", "accuracy_change"), (RECALL, "recall_change")):
        figures[f"{name}_before"] = once[name] - once[change]
    of_own, of_before = right(own), right(before)
    melanoma = labels_of(own) == MELANOMA
    for prefix, chosen in (("", np.ones(len(own), dtype=bool)), ("melanomas_", melanoma)):
        lost, gained = (int((chosen & each).sum()) for each in (of_before & ~of_own, ~of_before & of_own))
        figures |= {f"{prefix}lost": lost, f"{prefix}gained": gained, f"{prefix}p": mcnemar(lost, gained)}
    return figures


def _over(own: pd.DataFrame, before: pd.DataFrame, times: Floats) -> dict[str, Floats]:
    """Return `FIGURES` in each resample, (resamples,). times: how often each image is in each, (n, resamples)."""
    labels = labels_of(own)
    after, earlier = (_classified(labels, each, times) for each in (own, before))
    same = (own["predicted"].to_numpy() == before["predicted"].to_numpy()).astype(np.float64)
    return {
        **{name: _mean(own[name].to_numpy(dtype=np.float64), times) for name in MEANS},
        "agreement": 100 * _mean(same, times),
        **{name: after[name] for name in ("accuracy", "balanced_accuracy", RECALL)},
        "auc": 100 * aucs(probabilities_of(own)[:, MELANOMA], labels == MELANOMA, times),
        "accuracy_change": after["accuracy"] - earlier["accuracy"],
        "recall_change": after[RECALL] - earlier[RECALL],
    }


def _classified(labels: npt.NDArray[np.int64], rows: pd.DataFrame, times: Floats) -> dict[str, Floats]:
    classes = len(CLASSES)
    cells = np.eye(classes**2)[labels * classes + labels_of(rows, "predicted")]
    return figures_of((times.T @ cells).reshape(-1, classes, classes), 0, 0)


def _mean(values: Floats, times: Floats) -> Floats:
    """Return the mean of the defined values in each resample; NaN where none is."""
    defined = np.isfinite(values)
    return share(values[defined] @ times[defined], times[defined].sum(axis=0)) / 100


# -- in words ----------------------------------------------------------------------------------------------------------


def way_text(way: Way) -> str:
    """Return a way in words: JPEG 90; k = 5 as JPEG 95; k = 5 unfolded as PNG."""
    name = CODEC_LABELS.get(way.codec, way.codec)
    stored = name if way.quality is None else f"{name} {way.quality}"
    if way.k is None:
        return stored
    return f"k = {way.k} as {stored}" if way.mode == MODES[0] else f"k = {way.k} {way.mode} as {stored}"


def way_sentence(way: Way, figures: Mapping[str, Any]) -> str:
    """Say what one way does to the diagnosis. figures: its row of `way_figures`."""
    kept = f"{figures['agreement']:.1f} % {interval_text(_limits(figures, 'agreement'))} of the predictions stay"
    parts = [f"{way_text(way)} at {figures['bytes'] / 1000:.1f} kB an image: {kept}"]
    for name, figure, change, prefix in (
        ("Melanoma recall", RECALL, "recall_change", "melanomas_"),
        ("Accuracy", "accuracy", "accuracy_change", ""),
    ):
        if np.isnan(figures[figure]):
            continue
        points = f"{figures[change]:+.1f} points {interval_text(_limits(figures, change), '+')}".replace("-", "−")
        counts = f"{figures[f'{prefix}lost']} lost, {figures[f'{prefix}gained']} gained"
        parts.append(
            f"{name} {figures[f'{figure}_before']:.1f} → {figures[figure]:.1f} %: {points}, {counts}, McNemar "
            f"p = {figures[f'{prefix}p']:.2g}"
        )
    return ". ".join(parts) + "."


def fewest_bytes(table: pd.DataFrame) -> str | None:
    """Return the variant with the fewest bytes among the ways that keep `KEPT` percent of the predictions, or None."""
    kept = table[(table["variant"] != ORIGINAL) & (table["agreement"] >= KEPT)]
    return None if kept.empty else str(kept.sort_values("bytes", kind="stable")["variant"].iloc[0])


def _limits(figures: Mapping[str, Any], name: str) -> tuple[float, float]:
    return figures[f"{name}_low"], figures[f"{name}_high"]
