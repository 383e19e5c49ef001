"""Fits compared with NumPy and SciPy, and the article's claims about the curves."""

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import t as student

from core.errors import SpecError
from core.networks.architectures import ALEXNET, CUSTOM1, CUSTOM2, LENET5, NETWORKS
from core.networks.costs import QUANTITIES, curve_table
from core.networks.fits import (
    ARTICLE_R2,
    CRITERIA,
    FIT_COLUMNS,
    FIT_MODELS,
    best_models,
    claim_sentences,
    fit_curves,
    fit_model,
    fit_points,
    fit_table,
    judge,
)
from core.networks.pruning import SCOPES

STEEP = (50, 33.33)
PARTIAL = ("first", "first_two", "first_three")
LINEAR, EXPONENTIAL, POLYNOMIAL = FIT_MODELS


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("factor", STEEP)
def test_an_exponential_fits_pruning_of_all_convolutions_best(network, factor) -> None:
    (curve,) = fit_curves(curve_table([NETWORKS[network]], [factor], ["all"], 5, 200, 100))
    r2 = {fit.model.name: fit.r2 for fit in curve.fits}
    assert r2["exponential"] >= 0.999
    assert curve.best == {"r2": "exponential", "adjusted_r2": "exponential", "aicc": "exponential"}


@pytest.mark.parametrize("spec", [CUSTOM1, CUSTOM2], ids=lambda spec: spec.name)
@pytest.mark.parametrize("factor", STEEP)
@pytest.mark.parametrize("scope", PARTIAL)
def test_a_polynomial_fits_pruning_of_few_convolutions_of_the_custom_networks_best(spec, factor, scope) -> None:
    (curve,) = fit_curves(curve_table([spec], [factor], [scope], 5, 200, 100))
    assert curve.best["r2"] == "polynomial"
    assert curve.best["adjusted_r2"] == "polynomial"


X = np.arange(6.0)
Y = np.array([19.2, 9.7, 5.3, 2.4, 1.5, 0.6])  # no model fits these exactly


def test_linear_and_polynomial_fits_equal_those_of_numpy() -> None:
    linear, _, polynomial = fit_points(X, Y)
    np.testing.assert_allclose(linear.coefficients, np.polyfit(X, Y, 1)[::-1], rtol=1e-9)
    np.testing.assert_allclose(polynomial.coefficients, np.polyfit(X, Y, 2)[::-1], rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_exponential_fit_and_its_covariance_equal_those_of_scipy_in_any_unit(unit) -> None:
    fit = fit_model(EXPONENTIAL, X, Y * unit)
    expected, covariance = curve_fit(lambda x, a, b: a * np.exp(b * x), X, Y, p0=(20, -0.5), xtol=1e-14, ftol=1e-14)
    units = np.array([unit, 1])
    np.testing.assert_allclose(fit.coefficients, expected * units, rtol=1e-6)
    np.testing.assert_allclose(fit.covariance, covariance * np.outer(units, units), rtol=1e-4)


def test_r2_adjusted_r2_and_aicc_follow_their_definitions() -> None:
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


def test_aicc_penalizes_the_third_coefficient_of_the_polynomial() -> None:
    best = best_models(fit_points(X, Y))
    polynomial, linear = fit_model(POLYNOMIAL, X, Y), fit_model(LINEAR, X, Y)
    assert polynomial.r2 > linear.r2
    assert best["aicc"] == "exponential"


def test_the_linear_band_is_the_standard_confidence_band_of_the_mean() -> None:
    fit = fit_model(LINEAR, X, Y)
    low, high = fit.band([0.0, 2.5, 9.0])
    at = np.array([0.0, 2.5, 9.0])
    deviation = np.sqrt((np.array(fit.residuals) ** 2).sum() / 4)
    half = student.ppf(0.975, 4) * deviation * np.sqrt(1 / 6 + (at - 2.5) ** 2 / ((X - 2.5) ** 2).sum())
    np.testing.assert_allclose(high - fit.predict(at), half, rtol=1e-9)
    np.testing.assert_allclose(fit.predict(at) - low, half, rtol=1e-9)


def test_the_bands_contain_the_true_curve_in_about_95_percent_of_trials() -> None:
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


def test_a_straight_line_is_fitted_best_by_the_linear_model() -> None:
    assert best_models(fit_points(X, 10 - X)) == dict.fromkeys(CRITERIA, "linear")


def test_a_negligible_curvature_does_not_make_the_polynomial_best() -> None:
    y = 10 - X + 0.1 * np.array([1, -2, 1, -1, 2, -1]) + 1e-5 * (X - 2.5) ** 2  # the noise has no curvature
    linear, polynomial = fit_model(LINEAR, X, y), fit_model(POLYNOMIAL, X, y)
    assert 0 < polynomial.r2 - linear.r2 < 1e-9
    assert best_models([linear, polynomial])["r2"] == "linear"


def test_a_model_with_too_few_points_is_not_fitted_and_gives_a_warning() -> None:
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


def test_a_constant_curve_has_no_r2_and_no_best_model() -> None:
    fits = fit_points(X, np.full(6, 7.0))
    for fit in fits:
        assert (fit.r2, fit.adjusted_r2, fit.aicc) == (None, None, None)
        assert any("R² is undefined" in warning for warning in fit.warnings)
        np.testing.assert_allclose(fit.predict(X), 7)
    assert best_models(fits) == {}


@pytest.mark.parametrize("y", [[1.0, 0.0], [1.0, -2.0], [1.0, float("nan")], [1.0, 2.0, 3.0], []])
def test_invalid_points_are_refused(y) -> None:
    with pytest.raises(SpecError, match="Expected"):
        fit_points([0.0, 1.0][: max(len(y), 1)], y)


def test_a_curve_that_stops_shrinking_names_the_iteration() -> None:
    curves = curve_table([LENET5], [50], ["all"], 12, 200, 100)
    (curve,) = fit_curves(curves)
    last = curves.loc[curves["parameters"].diff() < 0, "iteration"].max()
    assert any(f"nothing shrinks after iteration {last};" in warning for warning in curve.warnings)


def test_a_shrinking_curve_with_a_clear_best_model_has_no_warning() -> None:
    for curve in fit_curves(curve_table([ALEXNET], STEEP, ["all"], 5, 200, 100)):
        assert curve.warnings == ()


def test_models_that_fit_equally_well_are_named() -> None:
    curves = curve_table([LENET5], [8.25], ["all"], 5, 200, 100)
    curves["parameters"] = (1e6 * (100 - X + 0.05 * np.array([1, -1, 1, -1, 1, -1]))).astype(int)
    (curve,) = fit_curves(curves)
    assert any("cannot tell them apart" in warning for warning in curve.warnings)


def test_the_fit_table_has_one_row_per_model_with_the_criteria_that_prefer_it() -> None:
    table = fit_table(fit_curves(curve_table(NETWORKS.values(), STEEP, SCOPES, 5, 200, 100)))
    assert tuple(table.columns) == FIT_COLUMNS
    assert len(table) == 4 * 2 * 4 * 3
    row = table.query("network == 'alexnet' and factor == 50 and scope == 'all'").set_index("model")["best"]
    assert dict(row) == {"linear": "", "exponential": "r2 adjusted_r2 aicc", "polynomial": ""}
    named = table["best"].str.split().explode().dropna()
    assert (named.value_counts() == 4 * 2 * 4).all()


def test_a_model_that_was_not_fitted_has_a_row_of_missing_values() -> None:
    table = fit_table(fit_curves(curve_table([LENET5], [50], ["all"], 1, 200, 100))).set_index("model")
    assert table.loc["polynomial", ["r2", "adjusted_r2", "aicc"]].isna().all()
    assert table.loc["linear", "r2"] == pytest.approx(1)
    assert (table["best"] == "").all()


def test_an_empty_curve_table_gives_an_empty_fit_table() -> None:
    table = fit_table(fit_curves(curve_table([], [50], ["all"], 5, 200, 100)))
    assert tuple(table.columns) == FIT_COLUMNS
    assert len(table) == 0


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_any_quantity_of_a_curve_is_fitted_in_millions(quantity) -> None:
    curves = curve_table([CUSTOM1], [50], ["all"], 5, 200, 100)
    (curve,) = fit_curves(curves, quantity)
    np.testing.assert_allclose(curve.values, curves[quantity] / 1e6)
    assert curve.quantity == quantity
    assert curve.fits[0].coefficients == fit_points(range(6), curves[quantity] / 1e6)[0].coefficients


def test_an_unknown_quantity_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Expected a quantity of parameters, macs, .* got 'watts'"):
        next(fit_curves(curve_table([LENET5], [50], ["all"], 2, 200, 100), "watts"))


@pytest.mark.parametrize(
    ("scope", "y", "holds", "says"),
    [
        ("all", 20 * np.exp(-0.7 * X) + 0.01 * np.cos(9 * X), True, "the exponential has the highest R², 1.0000"),
        ("all", 10 - X - 0.2 * X**2 + 5.0, False, "the polynomial has the highest R², 1.0000; the exponential has"),
        ("all", np.array([9.0, 9.3, 8.6, 9.2, 8.7, 9.1]), False, "polynomial has the highest"),
        ("first", 20 - X + 0.3 * X**2, True, "the polynomial has the highest R², 1.0000"),
        ("first_two", 20 * np.exp(-0.7 * X), False, "the exponential has the highest R², 1.0000; the polynomial has"),
        ("first", np.full(6, 7.0), None, "these points cannot say"),
        ("all", Y[:3], None, "these points cannot say"),
    ],
)
def test_the_articles_claim_is_judged_by_r2(scope, y, holds, says) -> None:
    fits = fit_points(X[: len(y)], y)
    claim = judge(scope, fits, best_models(fits))
    assert claim.model == ("exponential" if scope == "all" else "polynomial")
    assert claim.holds is holds
    assert says in claim.sentence


def test_a_best_exponential_with_a_low_r2_does_not_support_the_claim() -> None:
    # Two of six points differ from the decay of the others, so no model reaches R² = 0.9.
    fits = fit_points(X, 5 * np.exp(-1.2 * X) + np.array([1, 4, 1, 4, 1, 4]))
    assert judge("all", fits, {"r2": "exponential"}).holds is False
    assert f"not above {ARTICLE_R2}" in judge("all", fits, {"r2": "exponential"}).sentence


def test_the_claim_for_all_convolutions_holds_for_every_network() -> None:
    curves = list(fit_curves(curve_table(NETWORKS.values(), STEEP, ["all"], 5, 200, 100)))
    (sentence,) = claim_sentences(curves)
    assert sentence.endswith("R² above 0.9. It holds here for 8 of 8 curves.")


def test_partial_scopes_that_cover_every_convolution_are_named() -> None:
    sentences = " ".join(claim_sentences(fit_curves(curve_table([LENET5], [50], SCOPES, 5, 200, 100))))
    assert "It holds here for 1 of 1 curve." in sentences
    assert "exclude each other: lenet5 50 % first two, lenet5 50 % first three." in sentences


def test_curves_for_which_aicc_and_r2_prefer_different_models_are_named() -> None:
    curves = list(fit_curves(curve_table([CUSTOM1, CUSTOM2], STEEP, PARTIAL, 5, 200, 100)))
    other = [curve for curve in curves if curve.best["aicc"] != curve.best["r2"]]
    assert other
    sentence = next(each for each in claim_sentences(curves) if each.startswith("AICc"))
    assert f"another model than R² for {len(other)} of {len(curves)} curves" in sentence
    assert f"{other[0].name} ({other[0].best['aicc']}, not {other[0].best['r2']})" in sentence
    assert f" and {len(other) - 4} more." in sentence


def test_curves_with_too_few_points_are_not_counted_as_failing() -> None:
    (sentence,) = claim_sentences(fit_curves(curve_table([LENET5], [50], ["all"], 2, 200, 100)))
    assert sentence.endswith("Too few or too flat points to judge that here, 1 curve.")


def test_no_curve_gives_no_sentence() -> None:
    assert list(claim_sentences([])) == []
