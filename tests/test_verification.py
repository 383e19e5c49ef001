"""The check by the reference: correct values agree, wrong values are reported, other decoders are recognized."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from laboratory import write_images

from core.compression import verification
from core.compression.comparison import Original
from core.compression.image_results import METRIC_COLUMNS
from core.compression.measure import measure
from core.compression.specs import (
    MeasuringSpec,
    MetricParameters,
    ReconstructSpec,
    ResizeSpec,
    RivalsSpec,
    SweepSpec,
    variants,
)
from core.compression.svd import SVDFactors, decompose
from core.compression.verification import chosen, compare, measure_again
from core.data.datasets import Dataset, DatasetImage, load_dataset
from core.errors import SpecError
from jobs.__main__ import main

SPEC = SweepSpec(dataset="moles", ks=(3, 10, 40))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_dataset(write_images(tmp_path / "moles", 2))


def measured(dataset: Dataset, spec: MeasuringSpec, output: Path | None = None) -> pd.DataFrame:
    results = [measure(record, dataset.root, spec, output) for record in dataset.records]
    return pd.DataFrame([row for result in results for row in result.rows])


def checks(dataset: Dataset, spec: MeasuringSpec) -> pd.DataFrame:
    rows = [
        {"image_id": record.image_id, **row}
        for record in dataset.records
        for row in measure_again(record, dataset.root, spec)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        SweepSpec(dataset="moles", ks=(1, 39, 40), mode="unfolded", codec="png"),
        SweepSpec(
            dataset="moles",
            ks=(5,),
            codec="webp",
            quality=80,
            metrics=MetricParameters(changed_threshold=3, radial_cutoff=0.3),
        ),
        RivalsSpec(dataset="moles", rivals=(("jpeg", 50), ("png", None), ("avif", 60))),
        ResizeSpec(dataset="moles", sizes=((24, 16), (6, 9)), k=5),
        ReconstructSpec(dataset="moles", name="other", k=5),
    ],
    ids=lambda spec: f"{spec.kind}-{getattr(spec, 'codec', '')}",
)
def test_every_row_of_every_kind_of_run_agrees_with_the_reference(
    dataset: Dataset, spec: MeasuringSpec, tmp_path: Path
) -> None:
    found = compare(measured(dataset, spec, tmp_path / "written"), checks(dataset, spec))
    expected = [(record.image_id, name) for record in dataset.records for name in variants(spec)]
    assert sorted(zip(found.rows["image_id"], found.rows["variant"], strict=True)) == sorted(expected)
    assert set(found.rows["state"]) == {"agrees"}
    assert found.agrees
    assert found.sentence.startswith(
        f"Checked against scikit-image, mahotas and NumPy: {len(expected)} of {len(expected)} rows agree, "
        "largest relative difference "
    )


@pytest.mark.parametrize("metric", METRIC_COLUMNS)
def test_a_wrong_value_is_reported_with_both_values(dataset: Dataset, metric: str) -> None:
    rows = measured(dataset, SPEC)
    right = rows.loc[1, metric]
    rows.loc[1, metric] = right * (1 + 1e-5)
    found = compare(rows, checks(dataset, SPEC))
    assert not found.agrees
    assert found.rows["state"].tolist() == ["agrees", "differs", "agrees", "agrees", "agrees", "agrees"]
    wrong = found.differing.to_dict("records")
    assert [(each["image_id"], each["variant"], each["metric"]) for each in wrong] == [("mole000", "k=10", metric)]
    assert wrong[0]["measured"] == rows.loc[1, metric]
    assert wrong[0]["reference"] == pytest.approx(right, rel=1e-6)
    assert wrong[0]["difference"] == pytest.approx(1e-5, rel=0.2)
    assert "5 of 6 rows agree, largest relative difference 1e-5" in found.sentence


def test_a_missing_value_and_a_value_that_should_be_undefined_are_reported(dataset: Dataset) -> None:
    spec = SweepSpec(dataset="moles", ks=(40,), codec="png")  # full rank, so the images are identical
    rows = measured(dataset, spec)
    assert rows["psnr"].isna().all()
    assert compare(rows, checks(dataset, spec)).agrees
    rows.loc[0, "psnr"] = 60.0
    rows.loc[1, "ssim"] = np.nan
    found = compare(rows, checks(dataset, spec))
    assert found.differing["metric"].tolist() == ["psnr", "ssim"]
    assert np.isinf(found.differing["difference"]).all()
    assert found.largest is not None
    assert found.largest < 1e-6


def test_a_row_whose_decoded_image_differs_is_not_compared(dataset: Dataset) -> None:
    rows, again = measured(dataset, SPEC), checks(dataset, SPEC)
    again.loc[0, "decoded_crc32"] += 1
    again.loc[0, list(METRIC_COLUMNS)] *= 1.1
    found = compare(rows, again)
    assert found.rows["state"].tolist()[0] == "other image"
    assert found.agrees
    assert "5 of 5 rows agree" in found.sentence
    assert found.sentence.endswith("1 row was not compared: where it was checked, the codec gives another image")
    again["decoded_crc32"] += 1
    found = compare(rows, again)
    assert not found.agrees
    assert found.largest is None
    assert "0 of 0 rows agree. 6 rows were not compared" in found.sentence


def test_rows_without_a_checksum_are_compared_by_the_size_of_the_stored_file(dataset: Dataset) -> None:
    rows, again = measured(dataset, SPEC), checks(dataset, SPEC)
    rows["decoded_crc32"] = None
    assert compare(rows, again).agrees
    rows.loc[[0, 1], "ssim"] *= 0.99
    again.loc[1, "stored_bytes"] += 1
    found = compare(rows, again)
    assert found.rows["state"].tolist() == ["differs", "other image", "agrees", "agrees", "agrees", "agrees"]


def test_a_reconstruction_that_differs_from_numpys_is_reported(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(SVDFactors):
        def reconstructions(self, ks):  # type: ignore[no-untyped-def]
            return ((k, image if k != 10 else image[::-1].copy()) for k, image in super().reconstructions(ks))

    def wrong(image, mode):  # type: ignore[no-untyped-def]
        return Wrong(**vars(decompose(image, mode)))

    monkeypatch.setattr("core.compression.measure.decompose", wrong)
    monkeypatch.setattr(verification, "decompose", wrong)
    found = compare(measured(dataset, SPEC), checks(dataset, SPEC))
    assert found.differing[["variant", "metric"]].drop_duplicates().to_numpy().tolist() == [["k=10", "reconstruction"]]
    assert not found.agrees


def test_a_missing_image_is_reported_with_its_reason(dataset: Dataset) -> None:
    rows = measured(dataset, SPEC)
    (dataset.root / "mole001.jpg").unlink()
    found = compare(rows, checks(dataset, SPEC))
    assert found.rows["state"].tolist() == ["agrees", "agrees", "agrees", "not measured"]
    assert found.agrees
    assert "3 of 3 rows agree" in found.sentence
    assert "An image could not be checked: " in found.sentence
    assert "does not exist" in found.sentence


def test_the_chosen_images_depend_on_the_seed_and_larger_choices_contain_smaller_ones() -> None:
    records = [DatasetImage(f"image{number}", f"{number}.jpg", 1, 450, 600, "0" * 64) for number in range(40)]
    few, many = chosen(records, 2, 7), chosen(reversed(records), 20, 7)
    assert many[:2] == few
    assert len(set(many)) == 20
    assert chosen(records, 2, 8) != few
    assert len(chosen(records, 99, 7)) == 40


def test_images_too_large_for_the_reference_are_not_chosen() -> None:
    small, large = (
        DatasetImage(name, name, 1, side, side, "0" * 64) for name, side in (("small", 500), ("large", 5000))
    )
    assert chosen([large, small], 2, 1) == [small]
    with pytest.raises(SpecError, match="at most 6 million pixels to check, got none"):
        chosen([large], 2, 1)


@pytest.mark.real_data
def test_rows_of_real_originals_agree_with_the_reference(real_data: Path) -> None:
    dataset = load_dataset(real_data / "ham10000")
    spec = SweepSpec(dataset="ham10000")
    records = chosen(dataset.records, 2, spec.seed)
    rows = [row for record in records for row in measure(record, dataset.root, spec).rows]
    again = [{"image_id": r.image_id, **row} for r in records for row in measure_again(r, dataset.root, spec)]
    found = compare(pd.DataFrame(rows), pd.DataFrame(again))
    assert found.agrees
    assert "12 of 12 rows agree" in found.sentence
    assert found.largest is not None
    assert found.largest < 1e-7


def test_a_local_sweep_is_checked_at_its_end_and_fails_when_a_value_differs(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    command = ["svd-sweep", str(dataset.root), "--k", "3,10", "--local", "--workers", "1"]
    assert main([*command, "--no-check"]) == 0
    assert "Checked" not in capsys.readouterr().out
    assert main(command) == 0
    assert "4 of 4 rows agree" in capsys.readouterr().out
    compared = Original.compare
    monkeypatch.setattr(Original, "compare", lambda *images: compared(*images) | {"rmse": 1.0})
    assert main(command) == 1
    assert "0 of 4 rows agree" in capsys.readouterr().out
