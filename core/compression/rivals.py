"""Compare plain codecs with SVD: the bytes that a codec needs for the quality of a sweep's k."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from core.compression.metrics import METRICS, METRICS_BY_NAME, Metric
from core.compression.summary import mean_table, measured, metric_values
from core.errors import SpecError

CODEC_LABELS = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP", "avif": "AVIF"}
METRIC_LABELS = {"haralick_distance": "Haralick distance"}


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


def rivals_sentences(sweep: pd.DataFrame, rivals: pd.DataFrame, k: int, metric: str) -> tuple[str, ...]:
    """Return a sentence or more for each codec of a rivals run: the bytes that it needs for the quality of a sweep's k.

    sweep, rivals: measurements with image_id, variant, k, codec, quality, stored_bytes, reason, the metric and, for
    identical images' PSNR, mse. Only images that both runs measured count. SpecError if the sweep has no such k.
    """
    if k not in set(sweep["k"].dropna()):
        raise SpecError(f"Expected one of the sweep's k {sorted(set(sweep['k'].dropna()))}, got {k}.")
    ours, theirs = measured(sweep), measured(rivals)
    ours = ours[ours["k"] == k]
    complete = theirs.groupby("image_id")["variant"].nunique() == theirs["variant"].nunique()
    ours = ours[ours["image_id"].isin(complete.index[complete])]
    theirs = theirs[theirs["image_id"].isin(ours["image_id"])]
    if ours.empty:
        return (f"No codec can be compared with k = {k}: the two runs have no image in common.",)
    own, ladders = _ladder(ours).iloc[0], _ladder(theirs).groupby("codec", sort=False)
    compared = (" ".join(_sentences(METRICS_BY_NAME[metric], k, own, str(codec), steps)) for codec, steps in ladders)
    return tuple(dict.fromkeys(compared))


def _ladder(rows: pd.DataFrame) -> pd.DataFrame:
    """Return mean metrics and summed bytes of each (codec, quality), qualities ascending."""
    keys = [rows["codec"], rows["quality"].astype("float64")]
    table = metric_values(rows).groupby(keys, dropna=False).mean()
    if {"psnr", "mse"} <= set(table):
        table["psnr"] = table["psnr"].mask(table["mse"] == 0, np.inf)
    groups = rows["stored_bytes"].astype("float64").groupby(keys, dropna=False)
    return table.assign(bytes=groups.sum()).reset_index()


def _sentences(metric: Metric, k: int, own: pd.Series[float], codec: str, steps: pd.DataFrame) -> Iterator[str]:
    """Yield sentences about one codec. own: the `_ladder` of the reconstructions at k, steps: that of the codec."""
    target = float(own[metric.name])
    of_k = f"{METRIC_LABELS.get(metric.name, metric.label)} of k = {k}"
    if np.isnan(target):
        yield f"The {of_k} is undefined for these images, so no codec can be compared by it."
        return
    qualities, values, sizes = steps[["quality", metric.name, "bytes"]].to_numpy("float64").T
    meets = values * metric.sign >= target * metric.sign  # undefined values do not
    known = np.where(np.isnan(values), -np.inf, values * metric.sign)
    at = int(meets.argmax() if meets.any() else known.argmax())
    name, rival, needs = _label(None, codec, None), _label(None, codec, qualities[at]), _needs(sizes[at] / own["bytes"])
    at_k = f"the {of_k} ({metric.text(target)})"
    if not meets.any():
        nearest = "it is undefined at all of them"
        if np.isfinite(values[at]):
            nearest = f"{rival}, the nearest, has {metric.text(values[at])} and needs {needs}"
        yield f"No measured quality of {name} reaches {at_k}; {nearest}."
        return
    yield f"At {at_k}, {rival} needs {needs}."
    if at == 0 and not np.isnan(qualities[at]):
        yield "It is the lowest quality measured, so a lower one may suffice."
    elif at > 0 and np.isfinite([values[at - 1 : at + 1], qualities[at - 1 : at + 1]]).all():
        share = (target - values[at - 1]) / (values[at] - values[at - 1])
        quality, size = (column[at - 1] + share * (column[at] - column[at - 1]) for column in (qualities, sizes))
        needs = _needs(size / own["bytes"])
        yield f"Interpolated between the measured qualities, {name} {quality:.1f} needs {needs}."


def _needs(share: float) -> str:
    """Return how many bytes more or fewer a share of them is, in percent."""
    percent = 100 * (share - 1)
    size = abs(percent)
    if size < 0.05:
        return "as many bytes"
    figure = f"{size:.0f}" if size >= 9.5 else f"{size:.1f}"
    return f"{figure} % {'fewer' if percent < 0 else 'more'} bytes"


def _label(k: float | None, codec: str, quality: float | None) -> str:
    if k is not None and not pd.isna(k):
        return f"k = {int(k)}"
    name = CODEC_LABELS.get(codec, codec)
    return name if quality is None or pd.isna(quality) else f"{name} {int(quality)}"
