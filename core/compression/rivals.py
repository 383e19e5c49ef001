"""Compare plain codecs with SVD: the bytes that a codec needs for the quality of a sweep's k."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from core.compression.metrics import METRICS, METRICS_BY_NAME
from core.compression.summary import mean_table, measured, metric_values
from core.errors import SpecError

COMPARED = ("ssim", "psnr", "haralick_distance")
CODEC_LABELS = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP", "avif": "AVIF"}
METRIC_LABELS = {"haralick_distance": "Haralick distance"}


@dataclass(frozen=True)
class RivalComparison:
    """One codec at the quality of the stored reconstructions with k singular values, by one metric.

    target: the metric's mean at k. images, svd_bytes: the number of images and the bytes of their reconstructions.
    quality, value, rival_bytes: the lowest measured quality whose mean is at least as good; where `reached` is
        False, the nearest measured quality; quality is None for a codec without one.
    percent: bytes relative to the reconstructions, −31 for 31 % fewer.
    interpolated_quality, interpolated_percent: linear between that quality and the next lower measured one; None where
        none is lower.
    lowest: whether `quality` is the lowest measured quality, so that a lower one may suffice.
    """

    metric: str
    codec: str
    k: int
    target: float
    images: int
    svd_bytes: int
    reached: bool
    quality: int | None
    value: float
    rival_bytes: int
    percent: float
    interpolated_quality: float | None
    interpolated_percent: float | None
    lowest: bool

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        return " ".join(_sentences(self))


def rate_points(statistics: pd.DataFrame, storage: pd.DataFrame) -> pd.DataFrame:
    """Return a run's points of a rate–distortion chart, one row per variant, in the order of `storage`.

    statistics, storage: as `core.compression.summary` makes them, of a sweep or a rivals run.
    Columns: variant, label ('k = 350', 'JPEG 90'), k, codec, quality, images, bytes_per_pixel (Σstored/Σpixels), and
    every metric's mean under the metric's name.
    """
    points = storage[["variant", "k", "codec", "quality", "images"]].copy()
    pixels = storage["pixels"].astype("float64")
    points["bytes_per_pixel"] = storage["stored_bytes"].astype("float64") / pixels.where(pixels > 0)
    settings = points[["k", "codec", "quality"]].astype(object)
    points.insert(1, "label", [_label(*row) for row in settings.to_numpy()])
    known = set(statistics["metric"])
    means = mean_table(statistics, [metric.name for metric in METRICS if metric.name in known])
    found = means.reindex(points["variant"])
    return pd.concat([points.reset_index(drop=True), found.reset_index(drop=True)], axis=1)


def rivals_sentences(
    sweep: pd.DataFrame, rivals: pd.DataFrame, k: int, metrics: Sequence[str] = COMPARED
) -> tuple[str, ...]:
    """Return sentences that compare each codec with the reconstructions at k, by each metric.

    sweep, rivals: the two runs' measurements; see `compare_rivals`.
    """
    comparisons = compare_rivals(sweep, rivals, k, metrics)
    if not comparisons:
        return (f"No codec can be compared with k = {k}: the two runs have no image in common.",)
    return tuple(dict.fromkeys(comparison.sentence for comparison in comparisons))


def compare_rivals(
    sweep: pd.DataFrame, rivals: pd.DataFrame, k: int, metrics: Sequence[str] = COMPARED
) -> tuple[RivalComparison, ...]:
    """Compare every codec of a rivals run with a sweep's k, over the images that both runs measured.

    sweep, rivals: measurements with image_id, variant, k, codec, quality, stored_bytes, reason, the metrics and, for
    identical images' PSNR, mse. Ordered by metric, then codec; empty without an image in common. SpecError if the
    sweep has no such k.
    """
    if k not in set(sweep["k"].dropna()):
        raise SpecError(f"Expected one of the sweep's k {sorted(set(sweep['k'].dropna()))}, got {k}.")
    ours, theirs = measured(sweep), measured(rivals)
    ours = ours[ours["k"] == k]
    complete = theirs.groupby("image_id")["variant"].nunique() == theirs["variant"].nunique()
    ours = ours[ours["image_id"].isin(complete.index[complete])]
    theirs = theirs[theirs["image_id"].isin(ours["image_id"])]
    if ours.empty:
        return ()
    ladder = _ladder(theirs)
    own = _ladder(ours).iloc[0]
    return tuple(
        _compare(metric, str(codec), k, own, steps)
        for metric in metrics
        for codec, steps in ladder.groupby("codec", sort=False)
    )


def _ladder(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean metrics, summed bytes and image count of each (codec, quality), qualities ascending."""
    keys = [rows["codec"], rows["quality"].astype("float64")]
    table = metric_values(rows).groupby(keys, dropna=False).mean()
    if {"psnr", "mse"} <= set(table):
        table["psnr"] = table["psnr"].mask(table["mse"] == 0, np.inf)
    groups = rows["stored_bytes"].astype("float64").groupby(keys, dropna=False)
    return table.assign(bytes=groups.sum(), images=groups.size()).reset_index()


def _compare(metric: str, codec: str, k: int, own: pd.Series[float], steps: pd.DataFrame) -> RivalComparison:
    sign, target = METRICS_BY_NAME[metric].sign, float(own[metric])
    qualities, values, sizes = steps[["quality", metric, "bytes"]].to_numpy("float64").T
    meets = values * sign >= target * sign  # undefined values do not
    reached = bool(meets.any())
    known = np.where(np.isnan(values), -np.inf, values * sign)
    at = int(meets.argmax() if reached else known.argmax())
    quality = size = None
    if reached and at > 0 and np.isfinite([values[at - 1 : at + 1], qualities[at - 1 : at + 1]]).all():
        share = (target - values[at - 1]) / (values[at] - values[at - 1])
        quality, size = (float(column[at - 1] + share * (column[at] - column[at - 1])) for column in (qualities, sizes))
    has_quality = not np.isnan(qualities[at])
    return RivalComparison(
        metric=metric,
        codec=codec,
        k=k,
        target=target,
        images=int(own["images"]),
        svd_bytes=int(own["bytes"]),
        reached=reached,
        quality=int(qualities[at]) if has_quality else None,
        value=float(values[at]),
        rival_bytes=int(sizes[at]),
        percent=_percent(sizes[at], own["bytes"]),
        interpolated_quality=quality,
        interpolated_percent=None if size is None else _percent(size, own["bytes"]),
        lowest=reached and at == 0 and has_quality,
    )


def _sentences(comparison: RivalComparison) -> Iterator[str]:
    metric = METRICS_BY_NAME[comparison.metric]
    of_k = f"{METRIC_LABELS.get(metric.name, metric.label)} of k = {comparison.k}"
    if np.isnan(comparison.target):
        yield f"The {of_k} is undefined for these images, so no codec can be compared by it."
        return
    own = f"the {of_k} ({metric.text(comparison.target)})"
    name = CODEC_LABELS.get(comparison.codec, comparison.codec)
    rival = _label(None, comparison.codec, comparison.quality)
    if not comparison.reached:
        nearest = "it is undefined at all of them"
        if np.isfinite(comparison.value):
            value = metric.text(comparison.value)
            nearest = f"{rival}, the nearest, has {value} and needs {_needs(comparison.percent)}"
        yield f"No measured quality of {name} reaches {own}; {nearest}."
        return
    yield f"At {own}, {rival} needs {_needs(comparison.percent)}."
    if comparison.lowest:
        yield "It is the lowest quality measured, so a lower one may suffice."
    if comparison.interpolated_percent is not None:
        quality = f"{name} {comparison.interpolated_quality:.1f}"
        yield f"Interpolated between the measured qualities, {quality} needs {_needs(comparison.interpolated_percent)}."


def _needs(percent: float) -> str:
    size = abs(percent)
    if size < 0.05:
        return "as many bytes"
    figure = f"{size:.0f}" if size >= 9.5 else f"{size:.1f}"
    return f"{figure} % {'fewer' if percent < 0 else 'more'} bytes"


def _percent(size: float, own: float) -> float:
    return float(100 * (size / own - 1))


def _label(k: float | None, codec: str, quality: float | None) -> str:
    if k is not None and not pd.isna(k):
        return f"k = {int(k)}"
    name = CODEC_LABELS.get(codec, codec)
    return name if quality is None or pd.isna(quality) else f"{name} {int(quality)}"
