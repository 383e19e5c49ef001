"""Specs refuse impossible settings and can be queued; the rows of one image equal a plain computation."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from core.compression.image_results import MEASUREMENT_COLUMNS
from core.compression.measure import measure, write_whole
from core.compression.specs import (
    MeasuringSpec,
    MetricParameters,
    ReconstructSpec,
    ResizeSpec,
    RivalsSpec,
    SweepSpec,
    measuring_spec_from_dict,
    variants,
)
from core.data.datasets import Dataset, load_dataset
from core.errors import SpecError
from core.specs import spec_hash

EVERY_KIND = [
    SweepSpec(
        dataset="d",
        ks=(4, 2),
        quality=90,
        sample_size=3,
        metrics=MetricParameters(changed_threshold=5, radial_cutoff=0.2),
    ),
    RivalsSpec(dataset="d", rivals=(("jpeg", 75), ("png", None))),
    ResizeSpec(dataset="d", sizes=((10, 20),), k=3),
    ReconstructSpec(dataset="d", name="e", k=3, codec="png"),
]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    generator = np.random.default_rng(1)
    coarse = generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (64, 48), interpolation=cv2.INTER_CUBIC)
    cv2.imwrite(str(tmp_path / "mole.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 100])
    return load_dataset(tmp_path, name="d")


@pytest.mark.parametrize("spec", EVERY_KIND, ids=lambda spec: spec.kind)
def test_a_spec_can_be_sent_through_the_queue(spec: MeasuringSpec) -> None:
    assert measuring_spec_from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ks": ()}, "Expected at least one value of k, got none."),
        ({"ks": (0,)}, "Expected k to be whole numbers of at least 1, got 0."),
        ({"ks": (-3,)}, "got -3"),
        ({"ks": (2.5,)}, "got 2.5"),
        ({"ks": (True,)}, "got True"),
        ({"ks": (5, 7, 5)}, "Expected each of ks once, got 5 more than once."),
        ({"mode": "diagonal"}, "Expected mode to be one of per_channel, unfolded, got 'diagonal'."),
        ({"codec": "gif"}, "Expected codec to be one of jpeg"),
        ({"quality": 101}, "Expected quality to be a whole number from 0 to 100, got 101."),
        ({"codec": "webp", "quality": 0}, "Expected quality of webp to be a whole number from 1 to 100, got 0."),
        ({"codec": "png", "quality": 3}, "Expected no quality for png"),
        ({"sample_size": 0}, "sample size"),
        ({"seed": -1}, "seed"),
        ({"dataset": ""}, "data set"),
    ],
)
def test_an_invalid_sweep_is_refused_with_the_expectation(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        SweepSpec(**{"dataset": "d", **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "make",
    [
        lambda: RivalsSpec(dataset="d", rivals=()),
        lambda: RivalsSpec(dataset="d", rivals=(("jpeg", 75), ("jpeg", 75))),
        lambda: ResizeSpec(dataset="d", sizes=()),
        lambda: ResizeSpec(dataset="d", sizes=((0, 5),)),
        lambda: ReconstructSpec(dataset="d", name="../e"),
        lambda: ReconstructSpec(dataset="d", name=".hidden"),
        lambda: measuring_spec_from_dict({"kind": "walk"}),
        lambda: measuring_spec_from_dict({"kind": "svd-sweep", "dataset": "d", "speed": 3}),
        lambda: measuring_spec_from_dict({"kind": "svd-sweep"}),
        lambda: measuring_spec_from_dict({"kind": "svd-sweep", "dataset": "d", "metrics": {"speed": 3}}),
    ],
)
def test_invalid_specs_of_other_kinds_are_refused(make: object) -> None:
    with pytest.raises(SpecError, match="xpected"):
        make()  # type: ignore[operator]


def test_the_hash_depends_on_the_measurement_and_not_on_the_data_sets_name() -> None:
    spec = SweepSpec(dataset="d", ks=(2, 4))
    assert spec_hash(spec, "f") == spec_hash(spec.replace(dataset="other name", ks=(4, 2), quality=95), "f")
    assert spec_hash(spec, "f") != spec_hash(spec, "g")
    assert spec_hash(spec, "f") != spec_hash(spec.replace(seed=2), "f")


def test_sweep_rows_equal_those_of_a_plain_loop(dataset: Dataset) -> None:
    record = dataset.records[0]
    spec = SweepSpec(dataset="d", ks=(2, 9, 30), quality=90)
    result = measure(record, dataset.root, spec)
    image = cv2.imread(str(dataset.root / "mole.jpg"))
    assert image is not None
    assert [row["variant"] for row in result.rows] == list(variants(spec))
    for row, k in zip(result.rows, spec.ks, strict=True):
        channels = []
        for channel in cv2.split(image.astype(float)):
            u, s, vt = np.linalg.svd(channel, full_matrices=False)
            channels.append((u[:, :k] * s[:k]) @ vt[:k])
        plain = np.clip(np.rint(cv2.merge(channels)), 0, 255).astype(np.uint8)
        stored = cv2.imencode(".jpg", plain, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        decoded = cv2.imdecode(stored, cv2.IMREAD_COLOR)
        control = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        mse = float(np.mean((image.astype(float) - decoded) ** 2))
        assert tuple(row) == MEASUREMENT_COLUMNS
        assert row["mse"] == pytest.approx(mse, rel=1e-9)
        assert row["psnr"] == pytest.approx(10 * np.log10(255**2 / mse), rel=1e-9)
        assert (row["source_bytes"], row["stored_bytes"]) == (record.bytes, len(stored))
        assert (row["control_bytes"], row["factor_bytes"]) == (len(control), 2 * 3 * k * (48 + 64 + 1))


def test_rivals_compare_the_original_with_each_codecs_output(dataset: Dataset) -> None:
    spec = RivalsSpec(dataset="d", rivals=(("jpeg", 50), ("png", None), ("webp", 80), ("avif", 60)))
    rows = measure(dataset.records[0], dataset.root, spec).rows
    assert [row["variant"] for row in rows] == ["jpeg 50", "png", "webp 80", "avif 60"]
    image = cv2.imread(str(dataset.root / "mole.jpg"))
    assert image is not None
    assert rows[0]["stored_bytes"] == len(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1])
    assert rows[1]["mse"] == 0
    assert rows[1]["psnr"] is None
    assert all(row["control_bytes"] is None and row["k"] is None for row in rows)


def test_the_resize_comparison_resizes_by_area_interpolation(dataset: Dataset) -> None:
    spec = ResizeSpec(dataset="d", sizes=((24, 16),), k=5, codec="png")
    row = measure(dataset.records[0], dataset.root, spec).rows[0]
    image = cv2.imread(str(dataset.root / "mole.jpg"))
    assert image is not None
    sweep = measure(dataset.records[0], dataset.root, ReconstructSpec(dataset="d", name="e", k=5, codec="png"))
    assert sweep.status == "failed"  # without an output folder
    channels = []
    for channel in cv2.split(image.astype(float)):
        u, s, vt = np.linalg.svd(channel, full_matrices=False)
        channels.append((u[:, :5] * s[:5]) @ vt[:5])
    plain = np.clip(np.rint(cv2.merge(channels)), 0, 255).astype(np.uint8)
    small = [cv2.resize(each, (16, 24), interpolation=cv2.INTER_AREA).astype(float) for each in (image, plain)]
    assert row["mse"] == pytest.approx(float(np.mean((small[0] - small[1]) ** 2)), rel=1e-9)
    assert (row["height"], row["width"]) == (24, 16)


def test_a_reconstruction_is_written_completely_under_the_same_name(dataset: Dataset, tmp_path: Path) -> None:
    spec = ReconstructSpec(dataset="d", name="e", k=48, codec="png")
    output = tmp_path / "out"
    result = measure(dataset.records[0], dataset.root, spec, output)
    written = cv2.imread(str(output / "mole.png"))
    original = cv2.imread(str(dataset.root / "mole.jpg"))
    assert written is not None
    assert original is not None
    assert np.array_equal(written, original)  # full rank and lossless codec
    assert result.file is not None
    assert result.file["bytes"] == (output / "mole.png").stat().st_size == result.rows[0]["stored_bytes"]
    assert [each.name for each in output.iterdir()] == ["mole.png"]


def test_a_missing_file_gives_a_failed_result_with_its_name(dataset: Dataset) -> None:
    (dataset.root / "mole.jpg").unlink()
    result = measure(dataset.records[0], dataset.root, SweepSpec(dataset="d", ks=(2,)))
    assert (result.status, result.rows) == ("failed", ())
    assert result.reason is not None
    assert "mole.jpg" in result.reason


def test_a_failed_write_leaves_no_partial_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        write_whole(tmp_path / "taken", b"data")
    assert [each.name for each in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize("damage", ["gone", "changed", "empty", "a folder"])
def test_a_file_that_cannot_be_read_is_named_in_one_sentence(dataset: Dataset, damage: str) -> None:
    path = dataset.root / dataset.records[0].path
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes(b"" if damage == "empty" else b"other bytes")
    result = measure(dataset.records[0], dataset.root, SweepSpec(dataset="d", ks=(3,)))
    assert result.status == "failed"
    assert result.reason is not None
    assert result.reason.startswith(f"{dataset.records[0].path}: The")
    assert result.reason.count(dataset.records[0].path) == 1


@pytest.mark.parametrize(
    "spec",
    [
        SweepSpec(dataset="d", ks=(2,)),
        ResizeSpec(dataset="d", sizes=((24, 16),), k=5),
        ReconstructSpec(dataset="d", name="e", k=5, mode="unfolded"),
    ],
    ids=lambda spec: spec.kind,
)
def test_an_image_too_large_to_decompose_fails_and_others_are_measured(
    dataset: Dataset, tmp_path: Path, spec: SweepSpec | ResizeSpec | ReconstructSpec
) -> None:
    record = dataset.records[0]
    large = replace(record, image_id="large", height=9999, width=9999)
    result = measure(large, dataset.root, spec, tmp_path / "out")
    assert (result.status, result.rows) == ("failed", ())
    assert "at most 2.5 GB of memory" in str(result.reason)
    assert "9999×9999" in str(result.reason)
    spec.check(replace(dataset, records=(record, large)))
    with pytest.raises(SpecError, match=r"data set d: .* at most 2\.5 GB of memory"):
        spec.check(replace(dataset, records=(large,)))
