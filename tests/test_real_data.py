"""Measurements of real HAM10000 originals, compared with NumPy, scikit-image, mahotas and OpenCV."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from core.compression.image_results import MEASUREMENT_COLUMNS
from core.compression.measure import measure
from core.compression.results import run_results
from core.compression.specs import SweepSpec
from core.data.datasets import load_dataset
from jobs.__main__ import main

# k -> PSNR, SSIM, Haralick distance, source/stored: means of 80 originals; and the ratio without SVD.
INDEPENDENT = {
    100: (39.81, 0.9342, 11.35, 4.279),
    200: (41.24, 0.9524, 2.40, 3.931),
    300: (41.51, 0.9554, 1.56, 3.842),
    350: (41.55, 0.9559, 1.65, 3.833),
    400: (41.57, 0.9561, 1.97, 3.832),
    450: (41.57, 0.9561, 1.98, 3.831),
}
WITHOUT_SVD = 3.831
IMAGES = 60


@pytest.mark.slow
@pytest.mark.real_data
def test_a_sweep_of_real_originals_agrees_with_an_independent_measurement(real_data: Path) -> None:
    dataset = load_dataset(real_data / "ham10000")
    assert len(dataset.records) == 299
    assert len(dataset.left_out) == 10_015 - 299
    spec = SweepSpec(dataset="ham10000", sample_size=IMAGES)
    results = [measure(record, dataset.root, spec) for record in dataset.sample(IMAGES, spec.seed)]
    rows = pd.DataFrame([row for result in results for row in result.rows], columns=list(MEASUREMENT_COLUMNS))
    found = run_results(spec, rows, IMAGES)
    statistics = found.statistics.set_index(["variant", "metric"])
    sizes = found.storage.set_index("k")
    for k, (psnr, ssim, haralick, ratio) in INDEPENDENT.items():
        for metric, expected in (("psnr", psnr), ("ssim", ssim), ("haralick_distance", haralick)):
            measured = statistics.loc[(f"k={k}", metric)]
            sampling = 3 * measured["std"] * math.sqrt(1 / IMAGES + 1 / 80)  # three standard errors of the difference
            assert abs(measured["mean"] - expected) < sampling, (k, metric)
        assert sizes.loc[k, "ratio"] == pytest.approx(ratio, rel=0.05)
        assert sizes.loc[k, "control_ratio"] == pytest.approx(WITHOUT_SVD, rel=0.05)
        # The gain from SVD hardly depends on the sample, because both ratios are of the same files.
        assert sizes.loc[k, "svd_gain"] == pytest.approx(ratio / WITHOUT_SVD, rel=0.01)
    plateau = found.optimal_k.set_index("rule").loc["plateau"]
    assert plateau["k"] == 350


@pytest.mark.real_data
def test_the_command_measures_real_originals_and_counts_the_missing_files(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    rows = tmp_path / "rows.csv"
    arguments = ["svd-sweep", str(real_data / "ham10000"), "--k", "100,350", "--limit", "2", "--workers", "1"]
    assert main([*arguments, "--local", "--export", str(rows)]) == 0
    shown = capsys.readouterr()
    assert "9,716" in shown.err
    assert "control_ratio" in shown.out
    assert len(pd.read_csv(rows)) == 4
