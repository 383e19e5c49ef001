import json

import numpy as np
import pandas as pd
import pytest
from kneed import KneeLocator

from core.compression.metrics import METRICS
from core.compression.optimal_k import VOTERS, RuleParameters, arrivals, choose_k
from core.errors import SpecError

KS = (100, 200, 300, 350, 400, 450)
# Means of 80 HAM10000 originals, JPEG 95.
PSNR = (39.81, 41.24, 41.51, 41.55, 41.57, 41.57)
SSIM = (0.9342, 0.9524, 0.9554, 0.9559, 0.9561, 0.9561)
HARALICK = (11.35, 2.40, 1.56, 1.65, 1.97, 1.98)
RATIO = (4.279, 3.931, 3.842, 3.833, 3.832, 3.831)


def sweep(curves, *, ks=KS, images=1, noise=0.0, ratios=RATIO, explained=1.0, seed=0):
    """Return measurements with the given mean curves; other metrics are left out."""
    generator = np.random.default_rng(seed)
    frames = []
    for position, k in enumerate(ks):
        frame = pd.DataFrame({"image_id": [f"ISIC_{image}" for image in range(images)], "variant": f"k={k}", "k": k})
        for metric, curve in curves.items():
            frame[metric] = curve[position] * (1 + noise * generator.standard_normal(images))
        frame["explained_variance"] = explained if np.isscalar(explained) else explained[position]
        frame["source_bytes"] = 1_000_000
        frame["stored_bytes"] = 1_000_000 / (ratios[position] if position < len(ratios) else 1)
        frame["control_bytes"] = 1_000_000 / 3.8
        frame["reason"] = None
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def rule(measurements, name, **parameters):
    return {choice.rule: choice for choice in choose_k(measurements, RuleParameters(**parameters))}[name]


def plateau_of(curve, metric="mse", ks=KS):
    table = arrivals(sweep({metric: curve}, ks=ks)).set_index("metric")
    return table.loc[metric, "plateau_k"]


def test_every_rule_gives_a_choice_with_json_parameters_in_order():
    choices = choose_k(sweep({"psnr": PSNR, "ssim": SSIM}))
    assert [choice.rule for choice in choices] == ["plateau", "knee", "threshold", "budget"]
    parameters = [json.loads(json.dumps(choice.parameters)) for choice in choices]
    assert parameters[0] == {"remaining": 0.05, "share": 0.8, "explained_floor": 0.98, "resamples": 200, "seed": 1}
    assert parameters[2]["floors"] == {"ssim": 0.95, "psnr": 40.0}
    assert parameters[3]["budget_ratio"] == 3.77


def test_a_metric_arrives_at_the_first_k_with_five_percent_of_its_improvement_left():
    # improvement 10: exactly 5 % are left at 300, more at 200
    assert plateau_of((10, 0.6, 0.5, 0.4, 0.2, 0)) == 300
    assert plateau_of((10, 0.6, 0.51, 0.4, 0.2, 0)) == 350
    assert plateau_of((30, 39.4, 39.5, 39.6, 39.8, 40), "psnr") == 300


def test_the_measured_curves_arrive_at_the_k_calculated_by_hand():
    table = arrivals(sweep({"psnr": PSNR, "ssim": SSIM, "haralick_distance": HARALICK})).set_index("metric")
    # left at 300: PSNR (41.57−41.51)/1.76 = 3.4 %, SSIM 0.0007/0.0219 = 3.2 %; at 200: 18.8 %, 16.9 %
    # Haralick distance is best at 300; at 200, 0.84/9.79 = 8.6 % are left
    assert dict(table["plateau_k"].dropna()) == {
        "psnr": 300,
        "ssim": 300,
        "haralick_distance": 300,
        "explained_variance": 100,
    }
    assert table.loc["haralick_distance", "best_k"] == 300
    assert table.loc["haralick_distance", "best"] == pytest.approx(1.56)


def test_a_curve_that_gets_worse_again_arrives_at_its_best_k():
    assert plateau_of((10, 1, 5, 5, 5, 5)) == 200


def test_a_temporary_improvement_is_not_a_plateau():
    assert plateau_of((10, 1, 9, 1, 1, 1)) == 350


def test_a_curve_that_never_improves_arrives_at_the_smallest_k():
    assert plateau_of((3, 3, 3, 3, 3, 3)) == 100
    assert plateau_of((1, 2, 3, 3, 2, 3)) == 100
    assert plateau_of((0.1 + 0.2, 0.3, 0.3, 0.3, 0.3, 0.3)) == 100


def test_an_undefined_mean_is_skipped():
    assert plateau_of((10, 5, np.nan, 0.1, np.nan, 0)) == 350
    assert plateau_of((np.nan, 5, 1, 1, 1, np.nan)) == 300


def test_a_metric_that_is_undefined_everywhere_neither_arrives_nor_votes():
    measurements = sweep({"ssim": SSIM, "psnr": [np.nan] * 6})
    row = arrivals(measurements).set_index("metric").loc["psnr"]
    assert pd.isna(row["plateau_k"])
    assert not row["votes"]
    assert "1 of 1" in rule(measurements, "plateau").reason


def test_each_quantity_votes_once():
    without_vote = {metric.name for metric in METRICS} - set(VOTERS)
    assert without_vote == {
        "rmse",
        "hist_bhattacharyya_b",
        "hist_bhattacharyya_g",
        "hist_bhattacharyya_r",
        "explained_variance",
    }
    # the metrics without a vote arrive at the smallest k; the only voter arrives at 400
    flat = dict.fromkeys(without_vote - {"explained_variance"}, [1] * 6)
    assert rule(sweep({**flat, "mse": (10, 9, 8, 7, 0, 0)}), "plateau").k == 400


def test_plateau_needs_four_fifths_of_the_metrics():
    early, late = (10, 0, 0, 0, 0, 0), (10, 9, 8, 7, 0, 0)
    names = VOTERS[:10]
    curves = {name: [-value for value in early] if high(name) else early for name in names}
    for late_ones, expected in ((2, 200), (3, 400)):
        late_curves = {name: [-value for value in late] if high(name) else late for name in names[:late_ones]}
        assert rule(sweep({**curves, **late_curves}), "plateau").k == expected


def high(name):
    return next(metric.better for metric in METRICS if metric.name == name) == "high"


def test_plateau_needs_the_explained_variance():
    measurements = sweep({"ssim": SSIM}, explained=(0.9, 0.95, 0.97, 0.979, 0.98, 0.99))
    choice = rule(measurements, "plateau")
    assert choice.k == 400
    assert "explained variance, 98 %" in choice.reason


def test_plateau_without_enough_explained_variance_gives_the_value_that_was_reached():
    choice = rule(sweep({"ssim": SSIM}, explained=0.951), "plateau")
    assert (choice.k, choice.stability) == (None, None)
    assert "at least 98 %" in choice.reason
    assert "k, 450, 1 of 1 metrics meet this and explained variance is 95.1 %" in choice.reason


def test_the_explained_variance_is_not_rounded_up_to_100_percent():
    assert "explained variance, over 99.99 %, is" in rule(sweep({"ssim": SSIM}, explained=0.99999), "plateau").reason
    assert "explained variance, 100 %, is" in rule(sweep({"ssim": SSIM}, explained=1.0), "plateau").reason


def test_plateau_at_the_largest_k_notes_that_a_larger_k_may_be_chosen():
    choice = rule(sweep({"mse": (60, 50, 40, 30, 20, 10)}), "plateau")
    assert choice.k == 450
    assert "larger k may choose another" in choice.reason


def test_a_single_k_has_no_plateau_and_no_knee():
    measurements = sweep({"ssim": (0.96,), "psnr": (41,)}, ks=(350,))
    assert rule(measurements, "plateau").k is None
    assert "at least two measured k" in rule(measurements, "plateau").reason
    assert rule(measurements, "knee").k is None
    assert rule(measurements, "threshold").k == 350


def test_knee_is_the_median_of_the_knees_found_by_kneed():
    ks = tuple(range(50, 501, 50))
    curves = {
        "mse": [100 / k for k in ks],
        "psnr": [30 + 10 * (1 - np.exp(-k / 60)) for k in ks],
        "spectral_loss": [np.exp(-k / 150) for k in ks],
    }
    expected = np.median(
        [
            KneeLocator(ks, curve, curve=form, direction=direction).knee
            for curve, (form, direction) in zip(
                curves.values(),
                [("convex", "decreasing"), ("concave", "increasing"), ("convex", "decreasing")],
                strict=True,
            )
        ]
    )
    choice = rule(sweep(curves, ks=ks), "knee")
    assert choice.k == expected
    assert "3 of 3" in choice.reason


def test_knee_between_two_measured_k_takes_the_smaller():
    early, late = (10, 1, 0.5, 0.3, 0.1, 0), (10, 8, 1, 0.8, 0.3, 0)
    ks = (100, 200, 300, 400, 500, 600)
    table = arrivals(sweep({"mse": early, "spectral_loss": late}, ks=ks)).set_index("metric")
    assert (table.loc["mse", "knee_k"], table.loc["spectral_loss", "knee_k"]) == (200, 300)
    assert rule(sweep({"mse": early, "spectral_loss": late}, ks=ks), "knee").k == 200


def test_one_late_knee_does_not_move_the_median():
    ks = (100, 200, 300, 400, 500, 600)
    early, late = (10, 1, 0.5, 0.3, 0.1, 0), (10, 8, 6, 1, 0.5, 0)
    measurements = sweep({"mse": early, "mse_low": early, "spectral_loss": late}, ks=ks)
    assert list(arrivals(measurements)["knee_k"].dropna()) == [200, 200, 400]
    assert rule(measurements, "knee").k == 200


def test_straight_and_constant_curves_have_no_knee():
    choice = rule(sweep({"mse": (6, 5, 4, 3, 2, 1), "ssim": [0.9] * 6}, ks=(1, 2, 3, 4, 5, 6)), "knee")
    assert choice.k is None
    assert "None of the 2 metrics" in choice.reason


def test_threshold_is_the_smallest_k_that_meets_every_floor():
    measurements = sweep({"psnr": PSNR, "ssim": SSIM, "haralick_distance": HARALICK})
    assert rule(measurements, "threshold").k == 200
    choice = rule(measurements, "threshold", floors={"ssim": 0.9555, "psnr": 40.0})
    assert choice.k == 350
    assert "mean SSIM of at least 0.9555 (it is 0.9559) and mean PSNR of at least 40 dB (it is 41.55 dB)" in (
        choice.reason
    )
    assert rule(measurements, "threshold", floors={"haralick_distance": 1.6}).k == 300


def test_threshold_that_no_k_meets_gives_the_best_values():
    choice = rule(sweep({"psnr": PSNR, "ssim": SSIM}), "threshold", floors={"ssim": 0.99, "hu_distance": 0.1})
    assert choice.k is None
    assert "SSIM of at least 0.99" in choice.reason
    assert "SSIM 0.9561 at k = 400" in choice.reason
    assert "Hu moments, distance is defined at no k" in choice.reason
    assert rule(sweep({"ssim": SSIM}), "threshold", floors={}).k is None


def test_identical_images_meet_every_psnr_floor():
    measurements = sweep({"mse": (6, 5, 4, 3, 2, 0), "psnr": (40, 41, 42, 43, 45, np.nan)})
    choice = rule(measurements, "threshold", floors={"psnr": 60})
    assert choice.k == 450
    assert "infinite" in choice.reason


def test_budget_is_the_largest_k_whose_ratio_is_enough():
    measurements = sweep({"ssim": SSIM})
    assert rule(measurements, "budget", budget_ratio=3.9).k == 200
    choice = rule(measurements, "budget")
    assert choice.k == 450
    assert "3.831, the largest measured" in choice.reason
    assert "Re-encoding without SVD already compresses by 3.8" in choice.reason
    choice = rule(measurements, "budget", budget_ratio=5)
    assert choice.k is None
    assert "4.279 at k = 100" in choice.reason


def test_budget_uses_the_ratio_of_summed_bytes():
    measurements = sweep({"ssim": SSIM}, images=2)
    measurements["source_bytes"] = np.where(measurements["image_id"] == "ISIC_0", 900, 100)
    measurements["stored_bytes"] = np.where(measurements["image_id"] == "ISIC_0", 100, 100)
    assert "5, the largest" in rule(measurements, "budget").reason


def test_the_bootstrap_is_reproducible_and_its_stability_is_from_0_to_1():
    measurements = sweep({"psnr": PSNR, "ssim": SSIM, "haralick_distance": HARALICK}, images=20, noise=0.02)
    first, second = choose_k(measurements), choose_k(measurements)
    assert first == second
    assert all(0 <= choice.stability <= 1 for choice in first if choice.k)
    assert choose_k(measurements, RuleParameters(seed=2)) != first


def test_equal_images_choose_the_same_k_in_every_resample():
    measurements = sweep({"psnr": PSNR, "ssim": SSIM}, images=5)
    assert [choice.stability for choice in choose_k(measurements)] == [1.0, 1.0, 1.0, 1.0]


def test_stability_is_the_share_of_resamples_that_repeat_the_choice():
    # of two images, one alone reaches the minimum at 100, both together at 200, the other alone at 300
    measurements = sweep({"ssim": (1.0, 1.0, 1, 1, 1, 1)}, images=2)
    other = measurements["image_id"] == "ISIC_1"
    measurements.loc[other & (measurements["k"] == 100), "ssim"] = 0.0
    measurements.loc[other & (measurements["k"] == 200), "ssim"] = 0.95
    choice = rule(measurements, "threshold", floors={"ssim": 0.96}, resamples=20_000)
    assert choice.k == 200
    assert choice.stability == pytest.approx(0.5, abs=0.02)


def test_one_image_has_no_stability():
    assert {choice.stability for choice in choose_k(sweep({"psnr": PSNR, "ssim": SSIM}))} == {None}


def test_unmeasured_rows_are_ignored_and_named():
    measurements = sweep({"psnr": PSNR, "ssim": SSIM}, images=3)
    broken = (measurements["image_id"] == "ISIC_2") & (measurements["k"] > 300)
    measurements.loc[broken, "reason"] = "k must lie between 1 and the rank, 300"
    measurements.loc[broken, ["psnr", "ssim", "stored_bytes"]] = np.nan
    choice = rule(measurements, "threshold")
    assert choice.k == 200
    assert "3 at k = 300, 2 at k = 350" in choice.reason
    assert rule(measurements, "budget").k == 450


def test_without_measurements_no_rule_chooses_a_k():
    measurements = sweep({"ssim": SSIM})
    measurements["reason"] = "truncated"
    for frame in (measurements, measurements.iloc[:0]):
        choices = choose_k(frame)
        assert [choice.k for choice in choices] == [None] * 4
        assert all("none was measured" in choice.reason for choice in choices)
        assert arrivals(frame).empty


@pytest.mark.parametrize(
    "parameters",
    [{"share": 1.2}, {"remaining": -0.1}, {"floors": {"beauty": 1}}, {"budget_ratio": 0}, {"resamples": -1}],
)
def test_invalid_rule_parameters_are_refused(parameters):
    with pytest.raises(SpecError, match="Expected"):
        RuleParameters(**parameters)


def test_metrics_without_a_value_at_any_k_are_listed_and_without_any_metric_no_k_is_chosen() -> None:
    some = sweep({"ssim": SSIM, "psnr": (float("nan"),) * 6})
    for name in ("plateau", "knee"):
        assert rule(some, name).k is not None
        assert rule(some, name).reason.endswith(" Without a vote, because they are undefined at every k: PSNR.")
    none = sweep({"ssim": (float("nan"),) * 6, "psnr": (float("nan"),) * 6})
    for name in ("plateau", "knee"):
        choice = rule(none, name)
        assert choice.k is None
        assert choice.reason.startswith(
            "No k can be chosen: no metric is defined at any k of these images. Without a vote"
        )
    assert rule(none, "threshold").k is None
    assert "SSIM is defined at no k, PSNR is defined at no k" in rule(none, "threshold").reason
