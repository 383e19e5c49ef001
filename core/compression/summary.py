"""Summaries of a run's measurements: every metric's distribution and the bytes, one row per variant.

A variant names the processing of the images ('k=350', 'jpeg 90', '200x100'). Rows with a `reason` could not be
measured; they are only counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from core.compression.image_results import SETTINGS, SIZE_COLUMNS
from core.compression.metrics import METRICS

PERCENTILES = {"median": 0.5, "p05": 0.05, "p95": 0.95}


def metric_columns(measurements: pd.DataFrame) -> list[str]:
    """Return the metrics that the frame holds, in the order of `METRICS`."""
    return [metric.name for metric in METRICS if metric.name in measurements]


def measured(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were measured: those without a reason."""
    return measurements[measurements["reason"].isna()] if "reason" in measurements else measurements


def metric_values(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return the metric columns as float64, with NaN for NULL and infinite values."""
    values = measurements[metric_columns(measurements)].astype("float64")
    return values.where(np.isfinite(values.to_numpy()))


def variants(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return the common settings of each variant's rows, NULL where they differ; index: variant.

    The order is by k, codec, quality, height and width.
    """
    known = measurements.reindex(columns=["variant", *SETTINGS]).drop_duplicates().groupby("variant", sort=False)
    shared = known.first().where(known.nunique() == 1)
    for column in ("k", "quality", "height", "width"):
        shared[column] = shared[column].astype("float64").astype("Int64")
    return shared.sort_values(list(SETTINGS), na_position="last", kind="stable")


def summarise(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return every metric's distribution over the images, one row per variant and metric.

    Columns: variant, metric, mean, std (sample deviation, ddof 1; NULL for fewer than two values), median,
    p05, p95 (linear percentiles), count (measured images where the metric is defined), undefined (measured
    images where it is not).
    """
    order = pd.MultiIndex.from_product(
        [variants(measurements).index, metric_columns(measurements)], names=["variant", "metric"]
    )
    rows = measured(measurements)
    groups = metric_values(rows).groupby(rows["variant"], sort=False)
    count = groups.count()
    figures = {
        "mean": groups.mean(),
        "std": groups.std(ddof=1),
        **{name: groups.quantile(level) for name, level in PERCENTILES.items()},
        "count": count,
        "undefined": (-count).add(groups.size(), axis=0),
    }
    table = pd.DataFrame({name: figure.stack().reindex(order) for name, figure in figures.items()}).astype("float64")
    table[["count", "undefined"]] = table[["count", "undefined"]].fillna(0).astype("int64")
    return table.reset_index()


def mean_table(statistics: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Return the means of some metrics, one row per variant and one column per metric; NaN where undefined.

    statistics: from `summarise`. (`pivot_table` would drop a column that is undefined everywhere.)
    """
    means = statistics.pivot(index="variant", columns="metric", values="mean")
    return means.reindex(index=statistics["variant"].unique(), columns=list(metrics))


def storage(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return the four sizes of docs/definitions.md and the ratios derived from them, one row per variant.

    Columns: variant, k, codec, quality, height, width (NULL where the images differ), images (measured),
    pixels (summed), the four sizes in bytes (summed; NULL where an image lacks one), ratio (Σsource/Σstored),
    control_ratio (Σsource/Σcontrol: what re-encoding alone saves), svd_gain (ratio/control_ratio: what SVD adds
    to it), saved_percent (100·(1 − Σstored/Σsource)), identical (images equal to their original, mse 0), unmeasured
    (rows with a reason).
    """
    table = variants(measurements)
    rows = measured(measurements)
    sizes = rows.reindex(columns=list(SIZE_COLUMNS)).astype("float64")
    sizes["pixels"] = rows["height"].astype("float64") * rows["width"].astype("float64")
    groups = sizes.groupby(rows["variant"])
    # A sum with missing values would look like a smaller data set, so it is NULL.
    sums = groups.sum().where(groups.count().eq(groups.size(), axis=0)).reindex(table.index)
    images = groups.size().reindex(table.index, fill_value=0)
    table["images"] = images.astype("int64")
    table[["pixels", *SIZE_COLUMNS]] = sums[["pixels", *SIZE_COLUMNS]].astype("Int64")
    table["ratio"] = _quotient(sums["source_bytes"], sums["stored_bytes"])
    table["control_ratio"] = _quotient(sums["source_bytes"], sums["control_bytes"])
    table["svd_gain"] = _quotient(table["ratio"], table["control_ratio"])
    table["saved_percent"] = 100 * (1 - _quotient(sums["stored_bytes"], sums["source_bytes"]))
    table["identical"] = (
        (rows["mse"].astype("float64") == 0).groupby(rows["variant"]).sum().reindex(table.index, fill_value=0)
    ).astype("int64")
    table["unmeasured"] = (measurements["variant"].value_counts().reindex(table.index) - images).astype("int64")
    return table.reset_index()


def _quotient(numerator: pd.Series[float], denominator: pd.Series[float]) -> pd.Series[float]:
    return numerator / denominator.where(denominator > 0)
