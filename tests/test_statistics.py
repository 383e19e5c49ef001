import numpy as np
import pandas as pd
import pytest

from core.compression.metrics import METRICS
from core.compression.summary import mean_table, storage, summarise

SIZES = ["source_bytes", "stored_bytes", "control_bytes", "factor_bytes"]


def rows(values, *, k=100, **columns):
    """Return measurements of one k with the given values of `mse`, one per image, and other metrics derived from it."""
    count = len(values)
    frame = pd.DataFrame(
        {
            "run_id": "run",
            "image_id": [f"ISIC_{number}" for number in range(count)],
            "variant": f"k={k}",
            "k": k,
            "codec": "jpeg",
            "quality": 95,
            "height": 450,
            "width": 600,
            "source_bytes": np.arange(count) * 10 + 1000,
            "stored_bytes": np.arange(count) + 200,
            "control_bytes": np.arange(count) + 250,
            "factor_bytes": 5000,
        }
    )
    for position, metric in enumerate(METRICS):
        frame[metric.name] = np.asarray(values, dtype=float) * (position + 1)
    frame["mse"] = np.asarray(values, dtype=float)
    frame["reason"] = None
    return frame.assign(**columns)


def sweep(images=30, ks=(100, 300, 200), seed=3):
    generator = np.random.default_rng(seed)
    return pd.concat([rows(generator.gamma(2, 1, images), k=k) for k in ks], ignore_index=True)


def figure(table, variant, metric):
    return table[(table["variant"] == variant) & (table["metric"] == metric)].iloc[0]


def test_every_variant_and_metric_has_one_row_equal_to_numpy():
    measurements = sweep()
    table = summarise(measurements)
    assert list(table["variant"].unique()) == ["k=100", "k=200", "k=300"]
    assert list(table["metric"]) == 3 * [metric.name for metric in METRICS]
    for row in table.itertuples():
        values = measurements.loc[measurements["variant"] == row.variant, row.metric].to_numpy()
        expected = [
            values.mean(),
            values.std(ddof=1),
            np.median(values),
            np.percentile(values, 5),
            np.percentile(values, 95),
        ]
        assert [row.mean, row.std, row.median, row.p05, row.p95] == pytest.approx(expected, rel=1e-12)
        assert (row.count, row.undefined) == (30, 0)


def test_undefined_values_are_counted_and_left_out_of_the_statistics():
    measurements = rows([1.0, 2.0, 6.0])
    measurements["hu_correlation"] = pd.Series([0.5, None, 0.7], dtype=object)
    row = figure(summarise(measurements), "k=100", "hu_correlation")
    assert row["mean"] == pytest.approx(0.6)
    assert (row["count"], row["undefined"]) == (2, 1)


def test_infinite_values_count_as_undefined():
    row = figure(summarise(rows([1.0, 2.0, 6.0], psnr=[40.0, np.inf, 42.0])), "k=100", "psnr")
    assert row["mean"] == pytest.approx(41.0)
    assert (row["count"], row["undefined"]) == (2, 1)


def test_an_unmeasured_row_counts_neither_as_defined_nor_as_undefined():
    measurements = rows([1.0, 2.0, np.nan])
    measurements.loc[2, "reason"] = "k must lie between 1 and the rank, 90. Received: 100"
    row = figure(summarise(measurements), "k=100", "mse")
    assert (row["mean"], row["count"], row["undefined"]) == (pytest.approx(1.5), 2, 0)


def test_a_metric_that_is_undefined_everywhere_keeps_its_row():
    row = figure(summarise(rows([1.0, 2.0], psnr=None)), "k=100", "psnr")
    assert row[["mean", "std", "median", "p05", "p95"]].isna().all()
    assert (row["count"], row["undefined"]) == (0, 2)


def test_one_image_has_a_mean_and_no_standard_deviation():
    row = figure(summarise(rows([4.0])), "k=100", "mse")
    assert row["mean"] == row["median"] == row["p05"] == row["p95"] == 4.0
    assert np.isnan(row["std"])


def test_a_variant_measured_on_no_image_keeps_its_rows():
    measurements = pd.concat([rows([1.0]), rows([np.nan], k=900, reason="above the rank")])
    table = summarise(measurements)
    assert figure(table, "k=900", "mse")["count"] == 0
    row = storage(measurements).set_index("variant").loc["k=900"]
    assert (row["images"], row["unmeasured"], row["k"]) == (0, 1, 900)
    assert row[["source_bytes", "ratio", "saved_percent"]].isna().all()


def test_without_measurements_the_tables_are_empty_and_keep_their_columns():
    measurements = rows([])
    assert summarise(measurements).empty
    assert list(storage(measurements)["variant"]) == []
    assert "svd_gain" in storage(measurements)
    assert "undefined" in summarise(measurements)


def test_storage_ratios_divide_the_summed_sizes():
    measurements = sweep()
    table = storage(measurements).set_index("variant")
    assert list(table.index) == ["k=100", "k=200", "k=300"]
    for variant, images in measurements.groupby("variant"):
        source, stored, control, factor = (images[size].sum() for size in SIZES)
        row = table.loc[variant]
        assert list(row[SIZES]) == [source, stored, control, factor]
        assert row["pixels"] == 30 * 450 * 600
        assert row["ratio"] == pytest.approx(source / stored)
        assert row["control_ratio"] == pytest.approx(source / control)
        assert row["svd_gain"] == pytest.approx((source / stored) / (source / control))
        assert row["saved_percent"] == pytest.approx(100 * (1 - stored / source))
        assert (row["images"], row["unmeasured"], row["identical"]) == (30, 0, 0)


def test_storage_counts_identical_and_unmeasured_images():
    measurements = rows([0.0, 0.0, 3.0, np.nan])
    measurements.loc[3, ["reason", "stored_bytes"]] = ["the file is truncated", None]
    row = storage(measurements).iloc[0]
    assert (row["images"], row["identical"], row["unmeasured"]) == (3, 2, 1)
    assert row["source_bytes"] == 1000 + 1010 + 1020


def test_a_sum_with_a_missing_size_is_null():
    row = storage(rows([1.0, 2.0], control_bytes=[250.0, None])).iloc[0]
    assert row["stored_bytes"] == 401
    assert row[["control_bytes", "control_ratio", "svd_gain"]].isna().all()
    assert row["ratio"] == pytest.approx(2010 / 401)


def test_a_column_that_differs_between_images_is_null_and_missing_values_are_ignored():
    row = storage(rows([1.0, 2.0, np.nan], height=[450, 300, 450], width=[600, 600, None])).iloc[0]
    assert pd.isna(row["height"])
    assert row["width"] == 600


def test_rivals_keep_their_codec_and_quality():
    png = rows([0.0], variant="png", k=None, codec="png", quality=None)
    jpeg = [rows([1.0], variant=f"jpeg {quality}", k=None, quality=quality) for quality in (90, 75)]
    table = storage(pd.concat([png, *jpeg], ignore_index=True))
    assert list(table["variant"]) == ["jpeg 75", "jpeg 90", "png"]
    assert list(table["codec"]) == ["jpeg", "jpeg", "png"]
    assert list(table["quality"].fillna(-1)) == [75, 90, -1]
    assert table["k"].isna().all()


def test_the_order_of_the_rows_does_not_change_the_tables():
    measurements = sweep()
    shuffled = measurements.sample(frac=1, random_state=5)
    pd.testing.assert_frame_equal(summarise(measurements), summarise(shuffled))
    pd.testing.assert_frame_equal(storage(measurements), storage(shuffled))


def test_the_table_of_means_keeps_a_column_without_values() -> None:
    rows = pd.DataFrame({"variant": ["k=20", "k=3"], "metric": "ssim", "mean": [0.5, 0.25]})
    rows = pd.concat([rows, rows.assign(metric="psnr", mean=float("nan"))])
    table = mean_table(rows, ("psnr", "ssim", "haralick_distance"))
    assert list(table.index) == ["k=20", "k=3"]
    assert list(table.columns) == ["psnr", "ssim", "haralick_distance"]
    assert table["ssim"].tolist() == [0.5, 0.25]
    assert table[["psnr", "haralick_distance"]].isna().all(axis=None)
