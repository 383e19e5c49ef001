"""Linear, polynomial and exponential fits of parameter curves, and the verdict on the article's claim about them.

The article uses R² alone (section 4.1, Figure 2). R² never decreases when a coefficient is added, so adjusted R² and
AICc are computed too, with warnings where the points do not suffice. The functions that need SciPy import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from core.errors import SpecError
from core.networks.costs import QUANTITIES

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FitModel:
    """A family of curves: its formula, its value, and its derivatives by each coefficient (points × coefficients)."""

    name: str
    formula: str
    size: int
    value: Callable[[Floats, Floats], Floats]
    jacobian: Callable[[Floats, Floats], Floats]


def polynomial_model(name: str, formula: str, degree: int) -> FitModel:
    """Return the polynomials of a degree, coefficients from the constant upwards."""
    return FitModel(
        name,
        formula,
        degree + 1,
        lambda x, coefficients: np.vander(x, degree + 1, increasing=True) @ coefficients,
        lambda x, coefficients: np.vander(x, degree + 1, increasing=True),
    )


def exponential_jacobian(x: Floats, coefficients: Floats) -> Floats:
    """Return the derivatives of a·e^(bx) by a and by b."""
    growth = np.exp(coefficients[1] * x)
    return np.stack([growth, coefficients[0] * x * growth], axis=1)


# The article's three (section 4.1, Figure 2), the fewest coefficients first.
FIT_MODELS: tuple[FitModel, ...] = (
    polynomial_model("linear", "a + b·x", 1),
    FitModel(
        "exponential",
        "a·e^(b·x)",
        2,
        lambda x, coefficients: coefficients[0] * np.exp(coefficients[1] * x),
        exponential_jacobian,
    ),
    polynomial_model("polynomial", "a + b·x + c·x²", 2),
)
CRITERIA = ("r2", "adjusted_r2", "aicc")

CONFIDENCE = 0.95
SAME_R2 = 1e-9  # R² closer than this are equal, and the model with fewer coefficients is better
EXACT = 1e-10  # residuals below this share of the largest value are rounding
INDISTINCT_AICC = 2.0  # Burnham and Anderson: models with a smaller difference are about equally supported
MILLION = 1e6
ARTICLE_R2 = 0.9  # of the exponential where all convolutions shrink (section 4.1)
MOST_NAMED = 4  # curves in a sentence; the table has all of them


@dataclass(frozen=True)
class Fit:
    """One model fitted to one curve by least squares in the original space, without logarithms of the data.

    coefficients: in the formula's order; empty where the fit failed, and then every figure is None.
    r2: 1 − RSS/TSS, 1 is best. adjusted_r2: 1 − (1 − R²)(n − 1)/(n − k) for k coefficients. aicc: n·ln(RSS/n) + 2K +
    2K(K + 1)/(n − K − 1) with K = k + 1 (the noise's variance counts), low is best. None where undefined.
    residuals: measured minus fitted. exact: all residuals are rounding errors. warnings: limits of the figures.
    """

    model: FitModel
    points: int
    coefficients: tuple[float, ...] = ()
    covariance: Floats | None = None
    r2: float | None = None
    adjusted_r2: float | None = None
    aicc: float | None = None
    residuals: tuple[float, ...] = ()
    exact: bool = False
    warnings: tuple[str, ...] = ()

    def predict(self, x: npt.ArrayLike) -> Floats | None:
        """Return the fitted curve at `x`, or None where the fit failed."""
        if not self.coefficients:
            return None
        return self.model.value(np.asarray(x, np.float64), np.array(self.coefficients, np.float64))

    def band(self, x: npt.ArrayLike) -> tuple[Floats, Floats] | None:
        """Return the 95 % confidence band of the fitted curve at `x` (delta method), low and high.

        It is the band of the mean curve, not of single points. None where no degree of freedom remains for the noise.
        """
        x = np.asarray(x, np.float64)
        fitted = self.predict(x)
        if fitted is None or self.covariance is None:
            return None
        from scipy.special import stdtrit  # takes a third of a second, which counting does not need

        gradient = self.model.jacobian(x, np.array(self.coefficients))
        variance = np.einsum("ij,jk,ik->i", gradient, self.covariance, gradient)
        half = stdtrit(self.points - self.model.size, (1 + CONFIDENCE) / 2) * np.sqrt(np.maximum(variance, 0))
        return fitted - half, fitted + half


def solve(model: FitModel, x: Floats, y: Floats) -> Floats | None:
    """Return the least-squares coefficients for y of about 1, or None where the search does not converge."""
    if model.name != "exponential":
        return np.asarray(np.linalg.lstsq(model.jacobian(x, np.empty(0)), y, rcond=None)[0], np.float64)
    from scipy.optimize import least_squares  # takes half a second, which counting does not need

    # ln y weighted by y has nearly the residuals of the original space, so the search starts near the solution.
    slope, intercept = np.polyfit(x, np.log(y), 1, w=y)
    found = least_squares(
        lambda coefficients: model.value(x, coefficients) - y,
        (np.exp(intercept), slope),
        jac=lambda coefficients: model.jacobian(x, coefficients),
        method="lm",
    )
    return np.asarray(found.x, np.float64) if found.success and np.isfinite(found.x).all() else None


def fit_model(model: FitModel, x: Floats, y: Floats) -> Fit:
    """Fit one model to n points with positive y; add warnings for too few or equal points."""
    n, k = len(x), model.size
    if len(np.unique(x)) < k:
        return Fit(model, n, warnings=(f"{model.name}: expected at least {k} points, got {n}; not fitted",))
    scale = float(y.max())  # the search is near 1 for any number of parameters
    scaled = solve(model, x, y / scale)
    if scaled is None:
        return Fit(model, n, warnings=(f"{model.name}: the search for the least squares did not converge; not fitted",))
    coefficients = scaled * scale
    if model.name == "exponential":
        coefficients[1] = scaled[1]  # the rate has no unit of y
    residuals = y - model.value(x, coefficients)
    rss = float(residuals @ residuals)
    tss = float(((y - y.mean()) ** 2).sum())
    exact = bool(np.abs(residuals).max() <= EXACT * scale)
    warnings = []
    covariance = r2 = adjusted_r2 = aicc = None
    if np.ptp(y) == 0:
        warnings.append(f"{model.name}: all points are equal, so R² is undefined")
    else:
        r2 = 1 - rss / tss
    if n > k:
        jacobian = model.jacobian(x, coefficients)
        covariance = np.linalg.pinv(jacobian.T @ jacobian) * rss / (n - k)
        adjusted_r2 = None if r2 is None else 1 - (1 - r2) * (n - 1) / (n - k)
    else:
        warnings.append(
            f"{model.name}: {k} coefficients pass through any {n} points, so R² says nothing; expected {k + 1} or more"
        )
    if n <= k + 2:
        warnings.append(f"{model.name}: AICc is undefined for {n} points; expected {k + 3} or more")
    elif exact:
        warnings.append(f"{model.name}: every point is met, so AICc has no lower bound and is not shown")
    else:
        counted = k + 1
        aicc = n * float(np.log(rss / n)) + 2 * counted + 2 * counted * (counted + 1) / (n - counted - 1)
    return Fit(
        model,
        n,
        tuple(float(value) for value in coefficients),
        covariance,
        r2,
        adjusted_r2,
        aicc,
        tuple(float(value) for value in residuals),
        exact,
        tuple(warnings),
    )


def best_models(fits: Iterable[Fit]) -> dict[str, str]:
    """Return the best model by each criterion that is defined.

    R² and adjusted R² need more points than the model has coefficients; of equal models the one with fewer coefficients
    is better. A model that meets every point is the best by AICc.
    """
    best: dict[str, str] = {}
    usable = [fit for fit in fits if fit.r2 is not None and fit.points > fit.model.size]
    for criterion in ("r2", "adjusted_r2"):
        scores = {fit.model.name: getattr(fit, criterion) for fit in usable}
        if scores:
            top = max(scores.values())
            best[criterion] = next(name for name, score in scores.items() if score >= top - SAME_R2)
    scores = {fit.model.name: -np.inf if fit.exact else fit.aicc for fit in usable if fit.points > fit.model.size + 2}
    if scores:
        best["aicc"] = min(scores, key=scores.__getitem__)
    return best


@dataclass(frozen=True, slots=True)
class Claim:
    """The article's claim about one curve (section 4.1, Figure 2: claims C13 and C14), judged by the fits.

    model: the best one according to the article. holds: None where the points do not suffice. sentence: the reason.
    """

    model: str
    holds: bool | None
    sentence: str


def judge(scope: str, fits: Iterable[Fit], best: Mapping[str, str]) -> Claim:
    """Judge the article's claim by its own criterion: the highest R², above 0.9 where all convolutions shrink."""
    every = scope == "all"
    model = "exponential" if every else "polynomial"
    by_name = {fit.model.name: fit for fit in fits}
    r2 = {name: fit.r2 for name, fit in by_name.items() if fit.r2 is not None and fit.points > fit.model.size}
    if len(r2) < len(FIT_MODELS):
        return Claim(model, None, "these points cannot say: R² does not tell all three models apart")
    if best["r2"] != model:
        return Claim(
            model, False, f"the {best['r2']} has the highest R², {r2[best['r2']]:.4f}; the {model} has {r2[model]:.4f}"
        )
    if every and r2[model] <= ARTICLE_R2:
        return Claim(model, False, f"the {model} has the highest R², but {r2[model]:.4f} is not above {ARTICLE_R2}")
    return Claim(model, True, f"the {model} has the highest R², {r2[model]:.4f}")


@dataclass(frozen=True)
class CurveFits:
    """A curve and the three models fitted to it; `values` and all coefficients in millions.

    quantity: the column of `core.networks.costs.QUANTITIES` that was fitted. best: criterion of `CRITERIA` → name of
    the model. warnings: the fits' and those that concern the whole curve.
    """

    network: str
    factor: float
    scope: str
    quantity: str
    iterations: tuple[int, ...]
    values: tuple[float, ...]
    fits: tuple[Fit, ...]
    best: Mapping[str, str]
    warnings: tuple[str, ...]
    claim: Claim

    @property
    def name(self) -> str:
        """The curve in words: alexnet 33.33 % first two."""
        return f"{self.network} {self.factor:g} % {self.scope.replace('_', ' ')}"


def curve_warnings(x: Floats, y: Floats, fits: Iterable[Fit]) -> Iterator[str]:
    """Yield the warnings about choosing between the models of one curve."""
    fits = tuple(fits)
    for fit in fits:
        yield from fit.warnings
    changes = np.flatnonzero(np.diff(y))
    if len(y) > 1 and (len(changes) == 0 or changes[-1] + 1 < len(y) - 1):
        since = x[changes[-1] + 1] if len(changes) else x[0]
        yield f"nothing shrinks after iteration {since:.0f}; the flat end of the curve bends every fit"
    scores = sorted((fit.aicc, fit.model.name) for fit in fits if fit.aicc is not None)
    if len(scores) > 1 and not any(fit.exact for fit in fits) and scores[1][0] - scores[0][0] < INDISTINCT_AICC:
        yield (
            f"the AICc of {scores[0][1]} and {scores[1][1]} differ by less than {INDISTINCT_AICC:.0f}: "
            "these points cannot tell them apart"
        )


def fit_points(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Fit, ...]:
    """Fit every model of `FIT_MODELS` to points (x, y); raises SpecError unless all are finite and y is positive."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) == 0:
        raise SpecError(f"Expected as many x as y, at least one, got shapes {x.shape} and {y.shape}.")
    if not np.isfinite(x).all() or not np.isfinite(y).all() or y.min() <= 0:
        raise SpecError("Expected finite points with y above 0, got others.")
    return tuple(fit_model(model, x, y) for model in FIT_MODELS)


def fit_curves(curves: pd.DataFrame, quantity: str = "parameters") -> Iterator[CurveFits]:
    """Yield the fits of each curve of a `costs.curve_table`, in its order, for one of its `QUANTITIES`."""
    if quantity not in QUANTITIES:
        raise SpecError(f"Expected a quantity of {', '.join(QUANTITIES)}, got {quantity!r}.")
    for key, curve in curves.groupby(["network", "factor", "scope"], sort=False):
        network, factor, scope = cast(tuple[str, float, str], key)
        x = curve["iteration"].to_numpy(np.float64)
        y = curve[quantity].to_numpy(np.float64) / MILLION
        fits = fit_points(x, y)
        best = best_models(fits)
        yield CurveFits(
            network,
            factor,
            scope,
            quantity,
            tuple(int(iteration) for iteration in x),
            tuple(float(millions) for millions in y),
            fits,
            best,
            tuple(curve_warnings(x, y, fits)),
            judge(scope, fits, best),
        )


def claim_sentences(curves: Iterable[CurveFits]) -> Iterator[str]:
    """Yield sentences about the article's claim for several curves, and where AICc and R² name different models."""
    curves = tuple(curves)
    partial = tuple(curve for curve in curves if curve.scope != "all")
    for group, says in (
        (tuple(curve for curve in curves if curve.scope == "all"), "Where all convolutions shrink, the article finds "
         f"the exponential best, with R² above {ARTICLE_R2}."),
        (partial, "Where only the first one to three convolutions shrink, the article finds the polynomial best."),
    ):  # fmt: skip
        if group:
            yield f"{says} {verdict_text(group)}"
    whole = {(curve.network, curve.factor): curve.values for curve in curves if curve.scope == "all"}
    coincide = [curve.name for curve in partial if whole.get((curve.network, curve.factor)) == curve.values]
    if coincide:
        yield (
            "Some networks have no more convolutions than a scope takes; their curves are those of “all” then, and the "
            f"article's two claims exclude each other: {listed(coincide)}."
        )
    other = [curve for curve in curves if curve.best.get("aicc", "") not in ("", curve.best.get("r2"))]
    if other:
        named = [f"{curve.name} ({curve.best['aicc']}, not {curve.best['r2']})" for curve in other]
        yield (
            "AICc, which charges the polynomial for its third coefficient, names another model than R² for "
            f"{len(other)} of {len(curves)} {plural(len(curves))}: {listed(named)}."
        )


def verdict_text(curves: tuple[CurveFits, ...]) -> str:
    """Return for how many curves the claim holds and for which it does not, as a sentence."""
    if all(curve.claim.holds is None for curve in curves):
        return f"Too few or too flat points to judge that here, {len(curves)} {plural(len(curves))}."
    holding = sum(curve.claim.holds is True for curve in curves)
    text = f"It holds here for {holding} of {len(curves)} {plural(len(curves))}"
    failing = [curve.name for curve in curves if curve.claim.holds is False]
    unknown = sum(curve.claim.holds is None for curve in curves)
    if failing:
        text += f"; not for {listed(failing)}"
    if unknown:
        text += f"; {unknown} cannot be judged from so few or so flat points"
    return f"{text}."


def plural(count: int) -> str:
    """Return the noun for a number of curves: curve or curves."""
    return "curve" if count == 1 else "curves"


def listed(names: list[str]) -> str:
    """Return at most `MOST_NAMED` names and the number of further ones."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


FIT_COLUMNS = ("network", "factor", "scope", "model", *CRITERIA, "best")


def fit_table(curves: Iterable[CurveFits]) -> pd.DataFrame:
    """Return one row per curve and model, columns `FIT_COLUMNS`.

    best: the criteria by which this model is the best of its curve, such as "r2 adjusted_r2"; empty for none.
    Undefined figures are NaN.
    """
    import pandas as pd

    rows = [
        (
            curve.network,
            curve.factor,
            curve.scope,
            fit.model.name,
            *(getattr(fit, criterion) for criterion in CRITERIA),
            " ".join(criterion for criterion in CRITERIA if curve.best.get(criterion) == fit.model.name),
        )
        for curve in curves
        for fit in curve.fits
    ]
    table = pd.DataFrame(rows, columns=list(FIT_COLUMNS))
    return table.astype(dict.fromkeys(CRITERIA, "float64"))
