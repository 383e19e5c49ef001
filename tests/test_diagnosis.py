"""Predictions of stored images: the ways of storing them, their figures, and the network that predicts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from laboratory import write_images
from recorded import new_run
from scipy.stats import binomtest

from core.compression.image_results import ORIGINAL, Chunk, ImageResult
from core.compression.measure import measure
from core.compression.specs import DiagnosisSpec, RivalsSpec, SweepSpec, variants, ways
from core.compression.verification import measure_again
from core.data.datasets import Dataset, DatasetImage, load_dataset
from core.data.images import Pixels
from core.errors import SpecError
from core.networks.architectures import CLASSES
from core.predictions.classification import classify
from core.predictions.comparison import LOST, STILL_WRONG, changed_classes
from core.predictions.curves import one_against_rest
from core.predictions.diagnosis import FIGURES, fewest_bytes, way_figures, way_sentence, way_text
from core.predictions.intervals import drawn, intervals
from core.predictions.rows import (
    PROBABILITIES,
    diagnosis_rows,
    labels_of,
    lesions_of,
    probabilities_of,
)
from core.store.measurements import Store

COMMON: dict[str, Any] = {"dataset": "moles", "run": "train-1"}
SPEC = DiagnosisSpec(
    **COMMON,
    ks=(3, 40),
    modes=("per_channel", "unfolded"),
    codecs=("jpeg", "png"),
    qualities=(90,),
    rivals=(("jpeg", 90), ("webp", 50), ("png", None)),
)
RANK = 40  # of the images of `moles`: 40 × 56


@pytest.fixture(scope="module")
def moles(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_dataset(write_images(tmp_path_factory.mktemp("diagnosis") / "moles", 4))


def brightness(record: DatasetImage, images: list[tuple[str, Pixels]]) -> tuple[dict[str, Any], ...]:
    """Predict by the mean colours of an image, as a network that sees single pixels."""
    scores = np.stack([image.reshape(-1, 3).mean(axis=0) / 255 for _, image in images])
    chances = np.exp(np.column_stack([scores, 1 - scores.sum(axis=1)]))
    chances /= chances.sum(axis=1, keepdims=True)
    names = [name for name, _ in images]
    return diagnosis_rows(record.image_id, record.lesion_id, "nevus", names, chances.astype(np.float32))


# Ways


def test_the_ways_are_every_k_mode_codec_and_quality_and_the_rivals() -> None:
    spec = SPEC.replace(codecs=("png", "webp"), qualities=(60, 80))
    stored = [("png", None), ("webp", 60), ("webp", 80)]
    expected = [(mode, k, *each) for mode in spec.modes for each in stored for k in spec.ks]
    assert [tuple(way) for way in ways(spec)] == expected + [(None, None, *pair) for pair in spec.rivals]
    assert len(set(variants(spec))) == len(ways(spec)) == len(expected) + 3
    assert {"k=3 png", "k=3 unfolded png", "k=40 webp 80", "webp 50", "png"} <= set(variants(spec))


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"qualities": (0,), "codecs": ("webp",)},
            "Expected quality of webp to be a whole number from 1 to 100, got 0.",
        ),
        ({"codecs": ()}, "Expected at least one value of codecs, got none."),
        ({"modes": ("sideways",)}, "Expected modes to be one of per_channel, unfolded, got 'sideways'."),
        ({"codecs": ("jpeg", "jpeg")}, "Expected each of codecs once, got 'jpeg' more than once."),
        ({"image_split": "train"}, "Expected split to be one of test, validation, got 'train'."),
        ({"run": ""}, "Expected run, got none."),
    ],
)
def test_a_wrong_setting_is_refused_in_one_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as refused:
        DiagnosisSpec(**COMMON | values)
    assert str(refused.value) == sentence


def test_a_lossless_codec_takes_no_quality() -> None:
    assert DiagnosisSpec(**COMMON, codecs=("png",), qualities=(0,)).parts[0].to_dict()["quality"] is None


def test_a_k_above_the_rank_is_refused_with_the_rank(moles: Dataset) -> None:
    SPEC.check(moles)
    with pytest.raises(
        SpecError, match=f"Expected k of at most {RANK}, the rank of the largest image of moles, got 41"
    ):
        SPEC.replace(modes=("per_channel",), ks=(3, 41)).check(moles)


def test_the_rows_of_a_way_equal_those_of_a_sweep_and_of_the_rivals(moles: Dataset) -> None:
    record = moles.records[0]
    rows = {row["variant"]: row for row in measure(record, moles.root, SPEC).rows}
    assert list(rows) == list(variants(SPEC))
    for mode in SPEC.modes:
        sweep = SweepSpec(dataset="moles", ks=SPEC.ks, mode=mode, codec="jpeg", quality=90)
        for row in measure(record, moles.root, sweep).rows:
            name = f"k={row['k']} jpeg 90" if mode == "per_channel" else f"k={row['k']} unfolded jpeg 90"
            assert rows[name] == {**row, "variant": name}
    rivals = RivalsSpec(dataset="moles", rivals=SPEC.rivals)
    assert [rows[name] for name in variants(rivals)] == list(measure(record, moles.root, rivals).rows)


def test_at_full_rank_and_without_loss_every_prediction_equals_the_originals(moles: Dataset) -> None:
    for record in moles.records:
        answers = measure(record, moles.root, SPEC, predict=brightness).diagnoses
        by_variant = {row["variant"]: [row[name] for name in PROBABILITIES] for row in answers}
        assert list(by_variant) == [ORIGINAL, *variants(SPEC)]
        for name in (f"k={RANK} png", f"k={RANK} unfolded png", "png"):
            assert by_variant[name] == by_variant[ORIGINAL]
        for name in ("k=3 png", "jpeg 90", "webp 50"):
            assert by_variant[name] != by_variant[ORIGINAL]


def test_the_stored_image_is_predicted_and_not_the_one_that_was_encoded(moles: Dataset) -> None:
    record = moles.records[1]
    seen: dict[str, Pixels] = {}

    def remember(record: DatasetImage, images: list[tuple[str, Pixels]]) -> tuple[dict[str, Any], ...]:
        seen.update(images)
        return ()

    measure(record, moles.root, SPEC, predict=remember)
    image = cv2.imread(str(moles.root / record.path))
    stored = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    np.testing.assert_array_equal(seen["jpeg 90"], cv2.imdecode(stored, cv2.IMREAD_COLOR))
    np.testing.assert_array_equal(seen[ORIGINAL], image)


def test_an_image_of_smaller_rank_has_a_reason_instead_of_a_prediction(tmp_path: Path) -> None:
    small = load_dataset(write_images(tmp_path / "small", 1, height=20, width=30))
    spec = SPEC.replace(modes=("per_channel",), codecs=("png",))
    found = measure(small.records[0], small.root, spec, predict=brightness)
    reasons = {row["variant"]: row["reason"] for row in found.rows if row["reason"]}
    assert list(reasons) == ["k=40 png"]
    assert "Expected k of at most 20" in reasons["k=40 png"]
    assert [row["variant"] for row in found.diagnoses] == [ORIGINAL, "k=3 png", *variants(SPEC)[-3:]]


def test_the_reference_measures_every_way_again(moles: Dataset) -> None:
    record = moles.records[2]
    rows = {row["variant"]: row for row in measure(record, moles.root, SPEC).rows}
    again = measure_again(record, moles.root, SPEC)
    assert [row["variant"] for row in again] == list(variants(SPEC))
    for row in again:
        own = rows[row["variant"]]
        assert (row["decoded_crc32"], row["stored_bytes"]) == (own["decoded_crc32"], own["stored_bytes"])
        assert row["ssim"] == pytest.approx(own["ssim"], rel=1e-6)


# Figures

IMAGES = 240
WAY, LOSSLESS = "k=5 jpeg 95", "png"


def answers(seed: int, skill: float) -> pd.DataFrame:
    """Predictions of the same images of lesions; the more skill, the more are right."""
    of_images, of_network = np.random.default_rng(1), np.random.default_rng(seed)
    labels = of_images.integers(0, len(CLASSES), IMAGES)
    lesions = [f"l{number}" if number % 7 else None for number in of_images.integers(0, IMAGES // 2, IMAGES)]
    scores = of_network.normal(size=(IMAGES, len(CLASSES)))
    scores[np.arange(IMAGES), labels] += skill
    chances = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)
    rows = [
        row
        for number in range(IMAGES)
        for row in diagnosis_rows(f"i{number:03}", lesions[number], CLASSES[labels[number]], ["x"], chances[[number]])
    ]
    return pd.DataFrame(rows)


def diagnoses() -> pd.DataFrame:
    """Rows as the store gives them: originals, one way that loses, and one that changes nothing."""
    original, worse = answers(1, 2.0), answers(2, 1.0)
    generator = np.random.default_rng(3)
    sizes = generator.integers(1000, 9000, IMAGES)
    return pd.concat(
        [
            original.assign(variant=ORIGINAL, bytes=9 * sizes, psnr=None, ssim=None),
            worse.assign(variant=WAY, bytes=sizes, psnr=generator.normal(30, 2, IMAGES), ssim=0.5).sample(
                frac=1, random_state=1
            ),
            original.assign(variant=LOSSLESS, bytes=4 * sizes, psnr=None, ssim=1.0),
        ],
        ignore_index=True,
    )


def table() -> pd.DataFrame:
    return way_figures(diagnoses(), [WAY, LOSSLESS]).set_index("variant", drop=False)


def test_the_figures_of_a_way_equal_an_independent_computation() -> None:
    before, after = answers(1, 2.0), answers(2, 1.0)
    found, rows = table().loc[WAY], diagnoses()
    own = rows[rows["variant"] == WAY]
    described = classify(probabilities_of(after), labels_of(after))
    melanomas = after["label"] == "melanoma"
    curve = one_against_rest(after)
    assert curve is not None
    right_before, right_after = (each["predicted"] == each["label"] for each in (before, after))
    expected = {
        "images": IMAGES,
        "bytes": own["bytes"].mean(),
        "psnr": own["psnr"].astype(float).mean(),
        "ssim": 0.5,
        "agreement": 100 * np.mean(before["predicted"].to_numpy() == after["predicted"].to_numpy()),
        "accuracy": described.accuracy,
        "balanced_accuracy": described.balanced_accuracy,
        "recall_melanoma": 100 * right_after[melanomas].mean(),
        "recall_melanoma_before": 100 * right_before[melanomas].mean(),
        "auc": 100 * curve.auc,
        "accuracy_before": 100 * right_before.mean(),
        "accuracy_change": 100 * (right_after.mean() - right_before.mean()),
        "lost": sum(right_before & ~right_after),
        "gained": sum(~right_before & right_after),
        "melanomas_lost": sum(right_before & ~right_after & melanomas),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_p_is_that_of_the_exact_binomial_test_of_the_images_that_changed_sides() -> None:
    found = table().loc[WAY]
    for prefix in ("", "melanomas_"):
        lost, gained = int(found[f"{prefix}lost"]), int(found[f"{prefix}gained"])
        assert found[f"{prefix}p"] == pytest.approx(binomtest(lost, lost + gained, 0.5).pvalue)
    assert table().loc[LOSSLESS, "p"] == 1


def test_the_intervals_are_those_of_a_step_on_the_same_resamples_of_lesions() -> None:
    after, found = answers(2, 1.0), table().loc[WAY]
    of_step = intervals(probabilities_of(after), labels_of(after), lesions_of(after))
    for name in ("accuracy", "balanced_accuracy", "recall_melanoma"):
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(of_step[name])
    times = drawn(lesions_of(after))
    before = answers(1, 2.0)
    same = (before["predicted"] == after["predicted"]).to_numpy(dtype=float)
    sizes = diagnoses().query("variant == @WAY").sort_values("image_id")["bytes"].to_numpy(dtype=float)
    for name, values in (("agreement", 100 * same), ("bytes", sizes)):
        low, high = np.percentile([np.average(values, weights=weights) for weights in times.T], (2.5, 97.5))
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx((low, high))


def test_a_way_that_changes_no_pixel_changes_no_figure() -> None:
    found, original = table().loc[LOSSLESS], table().loc[ORIGINAL]
    assert (found["agreement"], found["lost"], found["gained"], found["accuracy_change"]) == (100, 0, 0, 0)
    assert (found["agreement_low"], found["agreement_high"]) == (100, 100)
    assert np.isnan(found["psnr"])
    for name in ("accuracy", "balanced_accuracy", "recall_melanoma", "auc"):
        assert found[name] == original[name]


def test_every_figure_has_an_interval_that_contains_it() -> None:
    found = table().loc[WAY]
    for name in FIGURES:
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"], name
    assert found["agreement_low"] < found["agreement"] < found["agreement_high"]


def test_a_way_that_some_images_lack_is_compared_with_the_same_images_as_they_came() -> None:
    rows = diagnoses()
    kept = (rows["variant"] != WAY) | (rows["image_id"] < "i100")
    found = way_figures(rows[kept], [WAY, LOSSLESS, "jpeg 1"]).set_index("variant")
    assert list(found.index) == [ORIGINAL, WAY, LOSSLESS]
    assert found.loc[WAY, "images"] == 100
    before = answers(1, 2.0).iloc[:100]
    assert found.loc[WAY, "accuracy_before"] == pytest.approx(100 * (before["predicted"] == before["label"]).mean())


def test_no_rows_give_no_figures() -> None:
    assert way_figures(diagnoses().iloc[:0], [WAY]).empty


def test_the_sentence_states_bytes_agreement_recall_and_accuracy() -> None:
    way = next(way for way in ways(DiagnosisSpec(**COMMON)) if way.variant == WAY)
    found: dict[str, Any] = {str(name): value for name, value in table().loc[WAY].items()}
    text = way_sentence(way, found)
    assert text.startswith(f"k = 5 as JPEG 95 at {found['bytes'] / 1000:.1f} kB an image: {found['agreement']:.1f} % [")
    assert f"Melanoma recall {found['recall_melanoma_before']:.1f} → {found['recall_melanoma']:.1f} %: −" in text
    assert f"{found['lost']} lost, {found['gained']} gained, McNemar p = {found['p']:.2g}." in text
    none = way_sentence(way, found | {"recall_melanoma": float("nan")})
    assert "Melanoma" not in none


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("jpeg 90", "JPEG 90"),
        ("png", "PNG"),
        ("k=3 jpeg 90", "k = 3 as JPEG 90"),
        ("k=3 unfolded png", "k = 3 unfolded as PNG"),
    ],
)  # fmt: skip
def test_a_way_is_written_with_k_mode_and_codec(variant: str, expected: str) -> None:
    assert [way_text(way) for way in ways(SPEC) if way.variant == variant] == [expected]


def test_the_fewest_bytes_are_sought_among_the_ways_that_keep_the_predictions() -> None:
    assert fewest_bytes(table()) == LOSSLESS
    assert fewest_bytes(table().assign(agreement=98.9)) is None


def test_images_of_another_class_are_listed_though_both_classes_are_wrong() -> None:
    before, after = answers(1, 2.0), answers(2, 1.0)
    changed = changed_classes(before, after)
    apart = before["predicted"].to_numpy() != after["predicted"].to_numpy()
    assert set(changed["image_id"]) == set(before["image_id"][apart])
    wrong = (before["predicted"] != before["label"]) & (after["predicted"] != after["label"])
    assert set(changed.loc[changed["side"] == STILL_WRONG, "image_id"]) == set(before["image_id"][apart & wrong])
    assert (changed.loc[changed["side"] == LOST, "predicted"] == changed.loc[changed["side"] == LOST, "label"]).all()


def test_rows_that_are_delivered_again_or_late_are_stored_once(moles: Dataset, tmp_path: Path) -> None:
    store = Store(tmp_path / "dermslim.duckdb")
    store.record_run(new_run("diagnosis-1", SPEC, total=9))
    results = [measure(record, moles.root, SPEC, predict=brightness) for record in moles.records]
    older = [dataclasses.replace(each, diagnoses=each.diagnoses[:1]) for each in results]
    for claim, delivered in ((2, results), (2, results), (1, older)):
        store.record_images([Chunk("diagnosis-1", 1, "train-1", delivered, claim)])
        rows = store.diagnoses("diagnosis-1")
        assert len(rows) == len(moles.records) * (1 + len(ways(SPEC)))
        assert not rows[["image_id", "variant"]].duplicated().any()
    expected = pd.DataFrame([row for each in results for row in each.diagnoses])
    pd.testing.assert_frame_equal(rows[list(expected)], expected, check_dtype=False, check_exact=True)
    sizes = {(row["image_id"], row["variant"]): row["stored_bytes"] for each in results for row in each.rows}
    sizes |= {(record.image_id, ORIGINAL): record.bytes for record in moles.records}
    assert {(row["image_id"], row["variant"]): row["bytes"] for row in rows.to_dict("records")} == sizes


def test_a_result_without_predictions_is_read_from_an_older_message() -> None:
    values = dataclasses.asdict(ImageResult("a", "measured", None, 0.1, ({"k": 1},)))
    older = {name: value for name, value in values.items() if name != "diagnoses"}
    assert ImageResult.from_dict(older) == ImageResult.from_dict(values)
