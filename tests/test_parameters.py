"""Counts against closed forms, fits against NumPy and SciPy, and the figures that the article's claims rest on."""

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import t as student

from core.architectures import ALEXNET, CUSTOM1, CUSTOM2, LENET5, NETWORKS, Conv, Dense, Residual, Step
from core.errors import SpecError
from core.parameters import (
    CRITERIA,
    CURVE_COLUMNS,
    FIT_COLUMNS,
    FIT_MODELS_BY_NAME,
    LAYER_COLUMNS,
    best_models,
    count_parameters,
    curve_table,
    fit_curves,
    fit_model,
    fit_points,
    fit_table,
    layer_cost,
    layer_table,
    network_cost,
)
from core.pruning import FACTORS, SCOPES, prune

STEEP = (50, 33.33)
PARTIAL = ("first", "first_two", "first_three")
LINEAR, EXPONENTIAL, POLYNOMIAL = (FIT_MODELS_BY_NAME[name] for name in ("linear", "exponential", "polynomial"))


def test_alexnet_has_19_19_million_parameters_of_which_three_halvings_leave_1_9_percent() -> None:
    curve = curve_table([ALEXNET], [50], ["all"], 3, 200, 100)["parameters"]
    assert round(curve[0] / 1e6, 2) == 19.19
    assert round(100 * curve[3] / curve[0], 1) == 1.9


def test_the_four_networks_have_these_many_parameters_at_200x100() -> None:
    # Worked out by hand from the tables, branch by branch; 63 is the metadata branch.
    lenet = 6 * 76 + 12 + 16 * 151 + 32 + (47 * 22 * 16 + 1) * 84 + 85 * 120 + 63 + 122 * 16 + 17 * 4
    assert count_parameters(LENET5, 200, 100) == lenet == 1_404_979
    assert {name: count_parameters(spec, 200, 100) for name, spec in NETWORKS.items()} == {
        "lenet5": 1_404_979,
        "alexnet": 19_186_227,
        "custom1": 3_362_871,
        "custom2": 7_263_571,
    }


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("factor", STEEP)
def test_an_exponential_describes_the_shrinking_of_all_convolutions(network, factor) -> None:
    (curve,) = fit_curves(curve_table([NETWORKS[network]], [factor], ["all"], 5, 200, 100))
    r2 = {fit.model.name: fit.r2 for fit in curve.fits}
    assert r2["exponential"] >= 0.999
    assert curve.best == {"r2": "exponential", "adjusted_r2": "exponential", "aicc": "exponential"}


@pytest.mark.parametrize("spec", [CUSTOM1, CUSTOM2], ids=lambda spec: spec.name)
@pytest.mark.parametrize("factor", STEEP)
@pytest.mark.parametrize("scope", PARTIAL)
def test_a_polynomial_describes_the_custom_networks_best_when_few_convolutions_shrink(spec, factor, scope) -> None:
    (curve,) = fit_curves(curve_table([spec], [factor], [scope], 5, 200, 100))
    assert curve.best["r2"] == "polynomial"
    assert curve.best["adjusted_r2"] == "polynomial"


@pytest.mark.parametrize(
    ("layer", "before", "after", "parameters", "statistics", "macs"),
    [
        (Conv(7, 3), (10, 9, 2), (8, 7, 7), 3 * 3 * 2 * 7 + 7, 0, 3 * 3 * 2 * 7 * 56),
        (Dense(6), (60,), (6,), 366, 0, 360),
        # two 3×3 convolutions and two normalisations, without and with a projection
        (Residual(4), (5, 3, 4), (5, 3, 4), 2 * (9 * 16 + 4) + 16, 16, 2 * 9 * 16 * 15),
        (Residual(4), (5, 3, 2), (5, 3, 4), 76 + 148 + 12 + 16, 16, (72 + 144 + 8) * 15),
    ],
)
def test_a_layer_costs_what_its_closed_form_says(layer, before, after, parameters, statistics, macs) -> None:
    cost = layer_cost(Step("image", "layer", layer, before, after))
    assert (cost.parameters, cost.statistics, cost.macs) == (parameters, statistics, macs)


def test_bytes_are_float32_weights_with_running_statistics_and_adams_two_moments() -> None:
    cost = network_cost(CUSTOM1, 200, 100)
    assert cost.statistics == 2 * (16 + 48 + 92 + 192 + 192 + 256)
    assert cost.bytes_weights == 4 * (3_362_871 + 1_592)
    assert cost.bytes_with_optimizer == cost.bytes_weights + 8 * 3_362_871


def test_the_layer_table_sums_to_the_networks_cost_and_prints_as_the_article_does() -> None:
    table = layer_table(ALEXNET, 200, 100)
    assert tuple(table.columns) == LAYER_COLUMNS
    assert table["parameters"].sum() == count_parameters(ALEXNET, 200, 100)
    assert table["macs"].sum() == network_cost(ALEXNET, 200, 100).macs
    first = table.iloc[0]
    assert (first["type"], first["size"], first["kernel"], first["stride"]) == ("Conv2D", 64, "5×5", "2×2")
    assert first["output_shape"] == "98×48×64"
    residual = layer_table(CUSTOM2, 200, 100).set_index("name")["detail"]
    assert residual["image_residual1"] == "two convolutions, identity"
    assert residual["image_residual2"] == "two convolutions, 1×1 projection of 192 channels"
    assert layer_table(LENET5, 200, 100).iloc[-1]["type"] == "Dense"


def test_a_projection_appears_where_pruning_leaves_channels_that_differ() -> None:
    table = layer_table(prune(CUSTOM2, 33.33, "all"), 200, 100).set_index("name")["detail"]
    assert "identity" in table["image_residual1"]
    assert "128 channels" in table["image_residual2"]


def test_a_curve_table_has_a_row_for_every_iteration_from_the_unpruned_network_on() -> None:
    table = curve_table(NETWORKS.values(), FACTORS, SCOPES, 2, 200, 100)
    assert tuple(table.columns) == CURVE_COLUMNS
    assert len(table) == 4 * 4 * 4 * 3
    assert table["factor"].dtype == np.float64
    first = table[table["iteration"] == 0].groupby("network")["parameters"]
    assert (first.nunique() == 1).all()
    row = table.query("network == 'lenet5' and factor == 33.33 and scope == 'first' and iteration == 1").iloc[0]
    expected = network_cost(prune(LENET5, 33.33, "first"), 200, 100)
    assert list(row[["parameters", "macs", "bytes_weights", "bytes_with_optimizer"]]) == [
        expected.parameters,
        expected.macs,
        expected.bytes_weights,
        expected.bytes_with_optimizer,
    ]


def test_a_factor_named_twice_is_one_curve() -> None:
    assert len(curve_table([LENET5], [50, 50.0, "50"], ["all", "all"], 2, 200, 100)) == 3


@pytest.mark.parametrize(
    ("factors", "scopes", "size", "message"),
    [
        ([120], ["all"], 200, "pruning factor above 0 and below 100"),
        ([50], ["some"], 200, "expected a scope of"),
        ([50], ["all"], 10, "lenet5: .* leaves nothing at image_conv2"),
    ],
)
def test_a_curve_that_cannot_be_counted_says_why(factors, scopes, size, message) -> None:
    with pytest.raises(SpecError, match=message):
        curve_table([LENET5], factors, scopes, 2, size, size)


X = np.arange(6.0)
Y = np.array([19.2, 9.7, 5.3, 2.4, 1.5, 0.6])  # not on any of the models


def test_linear_and_polynomial_fits_equal_numpys() -> None:
    linear, _, polynomial = fit_points(X, Y)
    np.testing.assert_allclose(linear.coefficients, np.polyfit(X, Y, 1)[::-1], rtol=1e-9)
    np.testing.assert_allclose(polynomial.coefficients, np.polyfit(X, Y, 2)[::-1], rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_exponential_fit_and_its_covariance_equal_scipys_in_any_unit(unit) -> None:
    fit = fit_model(EXPONENTIAL, X, Y * unit)
    expected, covariance = curve_fit(lambda x, a, b: a * np.exp(b * x), X, Y, p0=(20, -0.5), xtol=1e-14, ftol=1e-14)
    units = np.array([unit, 1])
    np.testing.assert_allclose(fit.coefficients, expected * units, rtol=1e-6)
    np.testing.assert_allclose(fit.covariance, covariance * np.outer(units, units), rtol=1e-4)


def test_figures_of_merit_follow_their_definitions() -> None:
    for fit in fit_points(X, Y):
        residuals = Y - fit.predict(X)
        np.testing.assert_allclose(fit.residuals, residuals, atol=1e-12)
        rss, tss, n, k = (residuals**2).sum(), ((Y - Y.mean()) ** 2).sum(), 6, fit.model.size
        assert fit.r2 == pytest.approx(1 - rss / tss, rel=1e-12)
        assert fit.adjusted_r2 == pytest.approx(1 - (rss / (n - k)) / (tss / (n - 1)), rel=1e-12)
        likelihood = n * np.log(rss / n)
        aic = likelihood + 2 * (k + 1)
        assert fit.aicc == pytest.approx(aic + 2 * (k + 1) * (k + 2) / (n - k - 2), rel=1e-12)
        assert fit.warnings == ()


def test_aicc_charges_the_polynomial_for_its_third_coefficient() -> None:
    best = best_models(fit_points(X, Y))
    polynomial, linear = fit_model(POLYNOMIAL, X, Y), fit_model(LINEAR, X, Y)
    assert polynomial.r2 > linear.r2
    assert best["aicc"] == "exponential"


def test_the_linear_band_is_the_textbooks_confidence_band_of_the_mean() -> None:
    fit = fit_model(LINEAR, X, Y)
    low, high = fit.band([0.0, 2.5, 9.0])
    at = np.array([0.0, 2.5, 9.0])
    deviation = np.sqrt((np.array(fit.residuals) ** 2).sum() / 4)
    half = student.ppf(0.975, 4) * deviation * np.sqrt(1 / 6 + (at - 2.5) ** 2 / ((X - 2.5) ** 2).sum())
    np.testing.assert_allclose(high - fit.predict(at), half, rtol=1e-9)
    np.testing.assert_allclose(fit.predict(at) - low, half, rtol=1e-9)


def test_the_bands_hold_the_true_curve_about_95_times_in_100() -> None:
    noise = np.random.default_rng(4)
    truth, inside = 20 * np.exp(-0.3 * X), 0
    for _ in range(400):
        low, high = fit_model(EXPONENTIAL, X, truth + noise.normal(0, 0.1, 6)).band([2.0])
        inside += bool(low[0] <= truth[2] <= high[0])
    assert 0.92 <= inside / 400 <= 0.98


@pytest.mark.parametrize("rate", [-8.0, -0.7, -1e-3, 0.5])
def test_an_exact_exponential_is_found_whatever_its_rate(rate) -> None:
    fit = fit_model(EXPONENTIAL, X, 3e7 * np.exp(rate * X))
    assert fit.coefficients == pytest.approx((3e7, rate), rel=1e-6)
    assert fit.exact
    assert fit.aicc is None
    assert any("every point is met" in warning for warning in fit.warnings)


def test_a_straight_line_is_best_described_by_the_simplest_model_that_meets_it() -> None:
    assert best_models(fit_points(X, 10 - X)) == dict.fromkeys(CRITERIA, "linear")


def test_a_curvature_that_explains_a_billionth_does_not_make_the_polynomial_best() -> None:
    y = 10 - X + 0.1 * np.array([1, -2, 1, -1, 2, -1]) + 1e-5 * (X - 2.5) ** 2  # the noise has no curvature of its own
    linear, polynomial = fit_model(LINEAR, X, y), fit_model(POLYNOMIAL, X, y)
    assert 0 < polynomial.r2 - linear.r2 < 1e-9
    assert best_models([linear, polynomial])["r2"] == "linear"


def test_too_few_points_for_a_model_leave_it_unfitted_and_say_so() -> None:
    linear, exponential, polynomial = fit_points([0, 1], [4.0, 3.0])
    assert polynomial.coefficients == ()
    assert polynomial.predict([1]) is None
    assert polynomial.warnings == ("polynomial: expected at least 3 points, got 2; not fitted",)
    for fit in (linear, exponential):
        assert fit.r2 == pytest.approx(1)
        assert fit.adjusted_r2 is None
        assert fit.band([1]) is None
        assert any("R² says nothing; expected 3 or more" in warning for warning in fit.warnings)
    assert best_models((linear, exponential, polynomial)) == {}


@pytest.mark.parametrize(
    ("points", "defined"), [(4, []), (5, ["linear", "exponential"]), (6, ["linear", "exponential", "polynomial"])]
)
def test_aicc_is_undefined_up_to_two_points_more_than_coefficients(points, defined) -> None:
    fits = fit_points(X[:points], Y[:points])
    assert [fit.model.name for fit in fits if fit.aicc is not None] == defined
    for fit in fits:
        assert any("AICc is undefined" in warning for warning in fit.warnings) == (fit.model.name not in defined)


def test_a_curve_without_any_change_has_no_r2_and_no_best_model() -> None:
    fits = fit_points(X, np.full(6, 7.0))
    for fit in fits:
        assert (fit.r2, fit.adjusted_r2, fit.aicc) == (None, None, None)
        assert any("R² is undefined" in warning for warning in fit.warnings)
        np.testing.assert_allclose(fit.predict(X), 7)
    assert best_models(fits) == {}


@pytest.mark.parametrize("y", [[1.0, 0.0], [1.0, -2.0], [1.0, float("nan")], [1.0, 2.0, 3.0], []])
def test_points_that_no_curve_of_counts_has_are_refused(y) -> None:
    with pytest.raises(SpecError, match="expected"):
        fit_points([0.0, 1.0][: max(len(y), 1)], y)


def test_a_curve_that_stops_shrinking_says_since_when() -> None:
    curves = curve_table([LENET5], [50], ["all"], 12, 200, 100)
    (curve,) = fit_curves(curves)
    last = curves.loc[curves["parameters"].diff() < 0, "iteration"].max()
    assert any(f"nothing shrinks after iteration {last};" in warning for warning in curve.warnings)


def test_a_curve_that_shrinks_to_its_end_and_has_a_clear_best_model_carries_no_warning() -> None:
    for curve in fit_curves(curve_table([ALEXNET], STEEP, ["all"], 5, 200, 100)):
        assert curve.warnings == ()


def test_models_that_the_points_cannot_tell_apart_are_named() -> None:
    curves = curve_table([LENET5], [8.25], ["all"], 5, 200, 100)
    curves["parameters"] = (1e6 * (100 - X + 0.05 * np.array([1, -1, 1, -1, 1, -1]))).astype(int)
    (curve,) = fit_curves(curves)
    assert any("cannot tell them apart" in warning for warning in curve.warnings)


def test_the_fit_table_has_a_row_for_each_model_and_names_what_it_is_best_by() -> None:
    table = fit_table(curve_table(NETWORKS.values(), STEEP, SCOPES, 5, 200, 100))
    assert tuple(table.columns) == FIT_COLUMNS
    assert len(table) == 4 * 2 * 4 * 3
    row = table.query("network == 'alexnet' and factor == 50 and scope == 'all'").set_index("model")["best"]
    assert dict(row) == {"linear": "", "exponential": "r2 adjusted_r2 aicc", "polynomial": ""}
    named = table["best"].str.split().explode().dropna()
    assert (named.value_counts() == 4 * 2 * 4).all()


def test_an_unfitted_model_is_a_row_of_missing_figures() -> None:
    table = fit_table(curve_table([LENET5], [50], ["all"], 1, 200, 100)).set_index("model")
    assert table.loc["polynomial", ["r2", "adjusted_r2", "aicc"]].isna().all()
    assert table.loc["linear", "r2"] == pytest.approx(1)
    assert (table["best"] == "").all()


def test_an_empty_curve_table_gives_an_empty_fit_table() -> None:
    table = fit_table(curve_table([], [50], ["all"], 5, 200, 100))
    assert tuple(table.columns) == FIT_COLUMNS
    assert len(table) == 0
