"""Figures, intervals and comparisons from predictions, against scikit-learn, statsmodels and plain loops."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from core.errors import SpecError
from core.networks.architectures import CLASSES
from core.predictions.classification import FIGURES, THRESHOLD, classify
from core.predictions.comparison import (
    GAINED,
    LOST,
    changed_sides,
    compare,
    hard_images,
    images_needed,
    mcnemar,
    over_seeds,
    paired,
)
from core.predictions.curves import brier_score, calibration_error, one_against_rest, reliability
from core.predictions.intervals import RESAMPLES, aucs, drawn, intervals, paired_difference
from core.predictions.rows import (
    COLUMNS,
    PROBABILITIES,
    described,
    joined,
    labels_of,
    lesions_of,
    macro_auc,
    prediction_columns,
    prediction_frame,
    probabilities_of,
    right,
)

IMAGES = 300


def predictions(seed: int, images: int = IMAGES, *, skill: float = 1.0, split: str = "test") -> pd.DataFrame:
    """Predictions of as many images of some lesions; two networks of one number of images see the same images."""
    of_images, of_network = np.random.default_rng(images), np.random.default_rng(seed)
    labels = of_images.integers(0, len(CLASSES), images)
    lesions = [f"lesion {number}" if number % 7 else None for number in of_images.integers(0, 2 * images // 3, images)]
    scores = of_network.normal(size=(images, len(CLASSES)))
    scores[np.arange(images), labels] += skill
    chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    names = [f"image {number}" for number in range(images)]
    return prediction_frame(prediction_columns(split, names, lesions, labels, chances.astype(np.float32)))


def test_rows_go_through_json_without_change() -> None:
    columns = prediction_columns(
        "test", ["a", "b"], ["l", None], np.array([0, 3]), np.array([[0.1, 0.2, 0.3, 0.4]] * 2, dtype=np.float32)
    )
    both = joined([columns, columns])
    assert list(both) == list(COLUMNS)
    assert both["predicted"] == ["negative"] * 4
    frame, again = prediction_frame(both), prediction_frame(json.loads(json.dumps(both)))
    pd.testing.assert_frame_equal(frame, again)
    assert frame["p_melanoma"].dtype == np.float32


def test_the_figures_of_rows_equal_those_of_scikit_learn() -> None:
    rows = predictions(1)
    found = described(rows)
    true, guessed, chances = rows["label"], rows["predicted"], probabilities_of(rows)
    recalls = metrics.recall_score(true, guessed, labels=CLASSES, average=None)
    expected = {
        "accuracy": metrics.accuracy_score(true, guessed),
        "balanced_accuracy": metrics.balanced_accuracy_score(true, guessed),
        "macro_recall": recalls.mean(),
        "macro_precision": metrics.precision_score(true, guessed, average="macro"),
        "macro_auc": np.mean([metrics.roc_auc_score(true == name, chances[:, n]) for n, name in enumerate(CLASSES)]),
    }
    assert {name: found[name] for name in expected} == pytest.approx(
        {name: 100 * value for name, value in expected.items()}, rel=1e-9
    )
    assert list(found["class_recall"].values()) == pytest.approx(100 * recalls, rel=1e-9)
    assert found["confusion"] == metrics.confusion_matrix(true, guessed, labels=CLASSES).tolist()
    assert {name: found[name] for name in FIGURES} == {
        name: value for name, value in classify(chances, labels_of(rows)).to_dict().items() if name in FIGURES
    }


def test_a_resample_draws_lesions_with_all_their_images() -> None:
    lesions = lesions_of(predictions(1))
    times = drawn(lesions, resamples=50, seed=3)
    assert times.shape == (IMAGES, 50)
    table = pd.DataFrame(times, index=lesions)
    assert (table.groupby(level=0).nunique() == 1).all(axis=None)
    lesions_drawn = table.groupby(level=0).first().sum()
    assert (lesions_drawn == len(set(lesions))).all()
    assert not np.array_equal(times, drawn(lesions, resamples=50, seed=4))
    np.testing.assert_array_equal(times, drawn(lesions, resamples=50, seed=3))


def test_images_without_a_lesion_are_drawn_one_by_one() -> None:
    rows = predictions(1)
    alone = rows["lesion_id"].isna()
    assert alone.any()
    names = pd.Series(lesions_of(rows))
    assert names[alone].is_unique
    assert not set(names[alone]) & set(names[~alone])


def looped(rows: pd.DataFrame, resamples: int) -> pd.DataFrame:
    """The figures of resamples of lesions, one resample at a time by scikit-learn."""
    generator = np.random.default_rng(99)
    places = pd.Series(range(len(rows))).groupby(lesions_of(rows)).agg(list)
    found = []
    for _ in range(resamples):
        part = rows.iloc[np.concatenate(generator.choice(places.to_numpy(), len(places)))]
        chances, true = probabilities_of(part), part["label"]
        areas = [metrics.roc_auc_score(true == name, chances[:, n]) for n, name in enumerate(CLASSES)]
        sure = chances > THRESHOLD
        trusted = sure[np.arange(len(part)), labels_of(part)].sum()
        found.append(
            {
                "accuracy": metrics.accuracy_score(true, part["predicted"]),
                "balanced_accuracy": metrics.balanced_accuracy_score(true, part["predicted"]),
                "macro_auc": np.mean(areas),
                "recall_melanoma": (part["predicted"] == true)[true == "melanoma"].mean(),
                "precision": trusted / sure.sum(),
                "recall": trusted / len(part),
            }
        )
    return 100 * pd.DataFrame(found)


def test_intervals_agree_with_a_plain_bootstrap_of_lesions() -> None:
    rows = predictions(5, 200)
    found = intervals(probabilities_of(rows), labels_of(rows), lesions_of(rows))
    expected = looped(rows, 600)
    for name in expected:
        spread = expected[name].std()
        # The standard error of the 2.5th percentile of 600 resamples is about an eighth of the deviation.
        for end, percentile in zip(found[name], (2.5, 97.5), strict=True):
            assert end == pytest.approx(np.percentile(expected[name], percentile), abs=0.45 * spread), name


def test_an_interval_contains_its_figure_and_narrows_with_more_images() -> None:
    widths = []
    for images in (100, 1600):
        rows = predictions(2, images)
        found = described(rows)
        low, high = found["intervals"]["accuracy"]
        assert low < found["accuracy"] < high
        widths.append(high - low)
    assert 2.5 < widths[0] / widths[1] < 6  # four times the root of the number of images


def test_a_class_without_images_has_no_interval() -> None:
    rows = predictions(1)
    rows = rows[rows["label"] != "nevus"].reset_index(drop=True)
    found = described(rows)
    assert "recall_nevus" not in found["intervals"]
    assert found["class_recall"]["nevus"] is None
    assert found["macro_auc"] is not None
    empty = described(rows.iloc[:0])
    assert (empty["intervals"], empty["accuracy"], empty["macro_auc"]) == ({}, None, None)


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=4, max_size=30),
    seed=st.integers(0, 1000),
)
def test_resampled_areas_equal_those_of_scikit_learn_with_weights_and_ties(scores: list[float], seed: int) -> None:
    generator = np.random.default_rng(seed)
    positive = generator.random(len(scores)) < 0.5
    times = generator.integers(0, 3, (len(scores), 5)).astype(float)
    for area, weights in zip(aucs(np.array(scores), positive, times), times.T, strict=True):
        if weights[positive].sum() == 0 or weights[~positive].sum() == 0:
            assert np.isnan(area)
        else:
            assert area == pytest.approx(metrics.roc_auc_score(positive, scores, sample_weight=weights), abs=1e-12)


@pytest.mark.parametrize("discordant", [(0, 0), (1, 0), (3, 9), (12, 12), (40, 61)])
def test_mcnemar_s_test_equals_that_of_statsmodels(discordant: tuple[int, int]) -> None:
    only_first, only_second = discordant
    expected = statsmodels_mcnemar([[50, only_first], [only_second, 20]], exact=True).pvalue
    assert mcnemar(only_first, only_second) == pytest.approx(expected, abs=1e-12)


def test_a_comparison_counts_the_images_that_only_one_has_right() -> None:
    first, second = predictions(1), predictions(2, skill=0.2)
    found = compare(first, second)
    of_first, of_second = right(first), right(second)
    assert (found.only_first, found.only_second) == (sum(of_first & ~of_second), sum(~of_first & of_second))
    assert found.difference.value == pytest.approx(found.first_accuracy - found.second_accuracy)
    assert found.difference.low < found.difference.value < found.difference.high
    assert found.distinguishable
    assert found.sentence.startswith(f"The first is better on these {IMAGES} images")
    reverse = compare(second, first)
    assert reverse.difference.low == pytest.approx(-found.difference.high)
    assert reverse.p == found.p


def test_two_that_differ_by_chance_are_not_distinguished_and_the_images_needed_are_stated() -> None:
    found = compare(predictions(1), predictions(2))
    assert not found.distinguishable
    share = (found.only_first + found.only_second) / IMAGES
    assert found.needed == int(np.ceil((1.96 + 0.84) ** 2 * (share - 0.02**2) / 0.02**2))
    assert f"cannot be distinguished with {IMAGES} images" in found.sentence
    assert f"About {found.needed:,} images would be needed to detect a difference of 2 points." in found.sentence


def test_a_network_compared_with_itself_shows_no_difference() -> None:
    found = compare(predictions(1), predictions(1))
    assert (found.only_first, found.only_second, found.p, found.needed) == (0, 0, 1.0, None)
    assert (found.difference.low, found.difference.value, found.difference.high) == (0, 0, 0)


def test_a_paired_interval_is_narrower_than_two_separate_ones() -> None:
    first, second = predictions(1), predictions(1)
    changed = second.index[:6]
    second.loc[changed, "predicted"] = "negative"
    found = paired_difference(right(first), right(second), lesions_of(first))
    low, high = intervals(probabilities_of(first), labels_of(first), lesions_of(first))["accuracy"]
    assert found.high - found.low < (high - low) / 2


def test_runs_without_common_images_or_with_other_labels_are_not_compared() -> None:
    first, other = predictions(1), predictions(2)
    other["image_id"] += " of another data set"
    with pytest.raises(SpecError, match="without a common image"):
        compare(first, other)
    relabelled = predictions(2)
    relabelled.loc[0, "label"] = next(label for label in CLASSES if label != first.loc[0, "label"])
    with pytest.raises(SpecError, match="got 1 images with different ones"):
        compare(first, relabelled)
    assert len(paired(first, predictions(2).iloc[:10])) == 10


def test_no_number_of_images_is_stated_where_too_few_are_discordant() -> None:
    assert images_needed(0.02) is None
    assert images_needed(0.1) == 1953  # 7.84 (0.1 − 0.0004) / 0.0004, rounded up


def test_differences_over_seeds_have_a_deviation_from_two_pairs_on() -> None:
    assert over_seeds([1.0]).deviation is None
    found = over_seeds([1.0, 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert found.deviation == pytest.approx(np.std([1, 2, 6], ddof=1))


def test_curves_and_areas_equal_those_of_scikit_learn() -> None:
    rows = predictions(3)
    for label in CLASSES:
        found = one_against_rest(rows, label)
        assert found is not None
        true, scores = rows["label"] == label, rows[f"p_{label}"].astype(float)
        assert found.auc == pytest.approx(metrics.roc_auc_score(true, scores), abs=1e-12)
        assert found.average_precision == pytest.approx(metrics.average_precision_score(true, scores), abs=1e-12)
        assert found.positives == true.sum()
        assert np.trapezoid(found.roc["sensitivity"], found.roc["false_positive_rate"]) == pytest.approx(found.auc)


@pytest.mark.parametrize("level", [90.0, 95.0, 100.0])
def test_operating_points_are_the_best_of_all_thresholds(level: float) -> None:
    rows = predictions(4, 120)
    found = one_against_rest(rows)
    assert found is not None
    true, scores = (rows["label"] == "melanoma").to_numpy(), rows["p_melanoma"].to_numpy()
    sensitivity, specificity = [0.0], [0.0]
    for threshold in [*scores, np.inf]:
        called = scores >= threshold
        rates = 100 * called[true].mean(), 100 * (1 - called[~true].mean())
        sensitivity += [rates[0]] if rates[1] >= level else []
        specificity += [rates[1]] if rates[0] >= level else []
    assert found.sensitivity_at(level) == pytest.approx(max(sensitivity))
    assert found.specificity_at(level) == pytest.approx(max(specificity))


def test_a_class_that_all_or_no_images_have_has_no_curve() -> None:
    rows = predictions(1)
    assert one_against_rest(rows[rows["label"] == "nevus"], "nevus") is None
    assert one_against_rest(rows[rows["label"] == "nevus"], "melanoma") is None


def test_the_brier_score_is_the_mean_squared_distance_to_the_true_class() -> None:
    rows = predictions(2, 40)
    total = 0.0
    for row in rows.to_dict("records"):
        total += sum((row[name] - (name == f"p_{row['label']}")) ** 2 for name in PROBABILITIES)
    assert brier_score(rows) == pytest.approx(total / 40, rel=1e-6)
    assert np.isnan(brier_score(rows.iloc[:0]))


def test_the_calibration_error_is_that_of_fifteen_bins_of_equal_mass() -> None:
    rows = predictions(2, 307)
    records = rows.to_dict("records")
    pairs = [(max(row[name] for name in PROBABILITIES), row["label"] == row["predicted"]) for row in records]
    ranked = sorted(pairs, key=lambda pair: pair[0])
    sizes = [21] * (307 % 15) + [20] * (15 - 307 % 15)
    error, start = 0.0, 0
    for size in sizes:
        part = ranked[start : start + size]
        start += size
        error += abs(sum(hit for _, hit in part) - sum(float(chance) for chance, _ in part)) / 307
    assert start == 307
    assert calibration_error(rows) == pytest.approx(error, rel=1e-6)
    table = reliability(rows)
    assert table["images"].tolist() == sizes
    assert table["confidence"].is_monotonic_increasing
    assert np.isnan(calibration_error(rows.iloc[:0]))


def test_images_that_change_sides_are_listed_with_melanomas_first() -> None:
    first, second = predictions(1), predictions(2)
    found = changed_sides(first, second)
    both_right = right(first) & right(second)
    both_wrong = ~right(first) & ~right(second)
    assert len(found) == IMAGES - both_right.sum() - both_wrong.sum()
    melanomas = found["label"] == "melanoma"
    assert melanomas.iloc[: melanomas.sum()].all()
    for part in (found[melanomas], found[~melanomas]):
        assert part["change"].abs().is_monotonic_decreasing
    known = first.set_index("image_id")
    for row in found.to_dict("records"):
        assert row["side"] == (LOST if row["predicted"] == row["label"] else GAINED)
        assert (row["predicted"] == row["label"]) != (row["predicted_second"] == row["label"])
        assert row["probability"] == known.loc[row["image_id"], f"p_{row['label']}"]


def test_hard_images_are_wrong_in_more_than_half_of_the_predictions() -> None:
    rows = pd.concat([predictions(seed).assign(step=seed) for seed in range(5)], ignore_index=True)
    found = hard_images(
        rows.groupby(["image_id", "lesion_id", "label", "predicted"], dropna=False)
        .size()
        .reset_index(name="predictions")
    )
    wrong = (rows["label"] != rows["predicted"]).groupby(rows["image_id"]).sum()
    assert set(found["image_id"]) == set(wrong[wrong > 2.5].index)
    assert found["share"].is_monotonic_decreasing
    assert (found["predictions"] == 5).all()
    most = rows.groupby("image_id")["predicted"].agg(lambda values: values.mode().iloc[0])
    assert found["most_predicted"].tolist() == most[found["image_id"]].tolist()


def test_the_macro_auc_is_the_mean_over_the_classes_present() -> None:
    rows = predictions(1)
    rows = rows[rows["label"] != "nevus"]
    areas = [metrics.roc_auc_score(rows["label"] == label, rows[f"p_{label}"]) for label in CLASSES if label != "nevus"]
    assert macro_auc(rows) == pytest.approx(100 * np.mean(areas), rel=1e-12)


def test_intervals_have_two_thousand_resamples() -> None:
    assert drawn(["a", "b"]).shape == (2, RESAMPLES) == (2, 2000)
