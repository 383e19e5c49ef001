"""What a network costs, counted from its records alone: parameters, multiply-accumulates, bytes; and its curves.

No network is built and neither Keras nor TensorFlow is imported; pandas and SciPy are imported by the functions that
need them, so that counting costs a worker or a command line no start-up time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, cast

import numpy as np
import numpy.typing as npt

from core.architectures import (
    TYPE_OF,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    MaxPool,
    NetworkSpec,
    Residual,
    Step,
    ZeroPad,
    walk,
)
from core.errors import SpecError
from core.pruning import Factor, iterations, kept_share

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]

BYTES_A_NUMBER = 4  # float32
ADAM_SLOTS = 2  # first and second moment of every learnable parameter


@dataclass(frozen=True, slots=True)
class Cost:
    """What one layer or one network costs.

    parameters: learnable numbers. statistics: batch normalisation's running means and variances, which are saved but
    not learnt. macs: multiply-accumulates of one image's forward pass, one for each weight at each output position of
    convolutions and dense layers; biases, pooling, normalisation, activations and the residual sum are not counted.
    """

    parameters: int = 0
    statistics: int = 0
    macs: int = 0

    @property
    def bytes_weights(self) -> int:
        """Bytes of what a weights file holds, in float32: learnable parameters and running statistics.

        A real file adds its container's headers, some tens of kilobytes.
        """
        return BYTES_A_NUMBER * (self.parameters + self.statistics)

    @property
    def bytes_with_optimizer(self) -> int:
        """Bytes of a checkpoint that training can go on from: weights and Adam's two moments of each parameter.

        Adam's step counter and learning rate, two numbers, are not counted.
        """
        return self.bytes_weights + BYTES_A_NUMBER * ADAM_SLOTS * self.parameters


def convolution_cost(kernel: int, channels: int, filters: int, positions: int) -> tuple[int, int]:
    """Return parameters (with biases) and MACs of a convolution with `positions` output pixels."""
    weights = kernel * kernel * channels * filters
    return weights + filters, weights * positions


def layer_cost(step: Step) -> Cost:
    """Return what a layer costs in its place."""
    shape = step.input_shape
    match step.layer:
        case Conv(filters, kernel):
            height, width, _ = step.output_shape
            parameters, macs = convolution_cost(kernel, shape[2], filters, height * width)
            return Cost(parameters, 0, macs)
        case Dense(units):
            return Cost(shape[0] * units + units, 0, shape[0] * units)
        case BatchNorm():
            return Cost(2 * shape[-1], 2 * shape[-1], 0)
        case Residual(filters, kernel):
            height, width, channels = shape
            first = convolution_cost(kernel, channels, filters, height * width)
            second = convolution_cost(kernel, filters, filters, height * width)
            projection = convolution_cost(1, channels, filters, height * width) if channels != filters else (0, 0)
            normalisation = 2 * 2 * filters  # gamma and beta, or mean and variance, of two layers
            return Cost(
                first[0] + second[0] + projection[0] + normalisation,
                normalisation,
                first[1] + second[1] + projection[1],
            )
        case _:
            return Cost()


def network_cost(spec: NetworkSpec, height: int, width: int) -> Cost:
    """Return what a network costs for images of height × width; raises SpecError where the size is too small."""
    costs = [layer_cost(step) for step in walk(spec, height, width)]
    return Cost(
        sum(cost.parameters for cost in costs),
        sum(cost.statistics for cost in costs),
        sum(cost.macs for cost in costs),
    )


def count_parameters(spec: NetworkSpec, height: int, width: int) -> int:
    """Return the learnable parameters for images of height × width, as Keras counts trainable ones."""
    return network_cost(spec, height, width).parameters


LAYER_COLUMNS = (
    "branch",
    "name",
    "type",
    "size",
    "kernel",
    "stride",
    "detail",
    "output_shape",
    "parameters",
    "statistics",
    "macs",
)


def layer_row(step: Step) -> dict[str, object]:
    """Return a layer as the article's tables print it, with its output shape and cost; None where nothing applies."""
    size: int | None = None
    kernel: int | None = None
    stride: int | None = None
    detail = ""
    match step.layer:
        case Conv(size, kernel, stride, padding):
            detail = "same padding" if padding == "same" else "no padding"
        case Residual(size, kernel):
            stride, channels = 1, step.input_shape[2]
            projection = f"1×1 projection of {channels} channels" if channels != size else "identity"
            detail = f"two convolutions, {projection}"
        case MaxPool(kernel) as pool:
            stride = pool.step
        case ZeroPad(kernel):
            detail = "zeros on each side"
        case Dense(size):
            pass
        case Dropout(rate):
            detail = f"drops {100 * rate:g} %"
    cost = layer_cost(step)
    return {
        "branch": step.branch,
        "name": step.name,
        "type": TYPE_OF[type(step.layer)],
        "size": size,
        "kernel": None if kernel is None else f"{kernel}×{kernel}",
        "stride": None if stride is None else f"{stride}×{stride}",
        "detail": detail,
        "output_shape": "×".join(str(extent) for extent in step.output_shape),
        **asdict(cost),
    }


def layer_table(spec: NetworkSpec, height: int, width: int) -> pd.DataFrame:
    """Return the network's layers in the form of the article's Tables 1 and 3, columns `LAYER_COLUMNS`.

    size: filters or units, missing (Int64's NA) elsewhere. kernel: also a pooling's window and a padding's zeros.
    output_shape: rows × columns × channels.
    """
    import pandas as pd

    table = pd.DataFrame([layer_row(step) for step in walk(spec, height, width)], columns=list(LAYER_COLUMNS))
    return table.astype({"size": "Int64"})


CURVE_COLUMNS = (
    "network",
    "factor",
    "scope",
    "iteration",
    "parameters",
    "macs",
    "bytes_weights",
    "bytes_with_optimizer",
)
CurvePoint = tuple[str, float, str, int, int, int, int, int]  # one value for each of CURVE_COLUMNS


def curve_points(
    networks: Iterable[NetworkSpec],
    factors: Iterable[Factor],
    scopes: Iterable[str],
    count: int,
    height: int,
    width: int,
) -> Iterator[CurvePoint]:
    """Yield `CURVE_COLUMNS` of every network × factor × scope at iterations 0 (unpruned) to `count`.

    Factors are in percent. Raises SpecError for an unknown scope, an impossible factor or too small an image.
    """
    factors, scopes = {kept_share(factor): factor for factor in factors}.values(), tuple(dict.fromkeys(scopes))
    for spec in networks:
        for factor in factors:
            for scope in scopes:
                for iteration, pruned in enumerate(iterations(spec, factor, scope, count)):
                    cost = network_cost(pruned, height, width)
                    yield (
                        spec.name,
                        float(factor),
                        scope,
                        iteration,
                        cost.parameters,
                        cost.macs,
                        cost.bytes_weights,
                        cost.bytes_with_optimizer,
                    )


def curve_table(
    networks: Iterable[NetworkSpec],
    factors: Iterable[Factor],
    scopes: Iterable[str],
    iterations: int,
    height: int,
    width: int,
) -> pd.DataFrame:
    """Return `curve_points` as a table with the columns `CURVE_COLUMNS`; a curve has iterations + 1 rows."""
    import pandas as pd

    points = curve_points(networks, factors, scopes, iterations, height, width)
    return pd.DataFrame(list(points), columns=list(CURVE_COLUMNS))


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
FIT_MODELS_BY_NAME = {model.name: model for model in FIT_MODELS}
CRITERIA = ("r2", "adjusted_r2", "aicc")

CONFIDENCE = 0.95
SAME_R2 = 1e-9  # R² closer than this are equal, and the model with fewer coefficients is the better one
EXACT = 1e-10  # residuals below this share of the largest value are rounding
INDISTINCT_AICC = 2.0  # Burnham and Anderson: models this close are about equally supported
MILLION = 1e6


@dataclass(frozen=True)
class Fit:
    """One model fitted to one curve by least squares in the original space; no logarithm is taken of the data.

    coefficients: in the formula's order; empty where the fit failed, and then every figure is None.
    r2: 1 − RSS/TSS, 1 is best. adjusted_r2: 1 − (1 − R²)(n − 1)/(n − k) for k coefficients. aicc: n·ln(RSS/n) + 2K +
    2K(K + 1)/(n − K − 1) with K = k + 1 (the noise's variance counts), low is best. None where undefined.
    residuals: measured minus fitted. exact: nothing is left over but rounding. warnings: what the figures cannot say.
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

        It holds the mean curve, not single points. None where no point is left over to estimate the noise.
        """
        x = np.asarray(x, np.float64)
        fitted = self.predict(x)
        if fitted is None or self.covariance is None:
            return None
        from scipy.special import stdtrit  # a third of a second that counting does without

        gradient = self.model.jacobian(x, np.array(self.coefficients))
        variance = np.einsum("ij,jk,ik->i", gradient, self.covariance, gradient)
        half = stdtrit(self.points - self.model.size, (1 + CONFIDENCE) / 2) * np.sqrt(np.maximum(variance, 0))
        return fitted - half, fitted + half


def solve(model: FitModel, x: Floats, y: Floats) -> Floats | None:
    """Return the least-squares coefficients for y of about 1, or None where the search does not converge."""
    if model.name != "exponential":
        return np.asarray(np.linalg.lstsq(model.jacobian(x, np.empty(0)), y, rcond=None)[0], np.float64)
    from scipy.optimize import least_squares  # half a second that counting does without

    # ln y weighted by y has nearly the residuals of the original space, so the search starts next to its end.
    slope, intercept = np.polyfit(x, np.log(y), 1, w=y)
    found = least_squares(
        lambda coefficients: model.value(x, coefficients) - y,
        (np.exp(intercept), slope),
        jac=lambda coefficients: model.jacobian(x, coefficients),
        method="lm",
    )
    return np.asarray(found.x, np.float64) if found.success and np.isfinite(found.x).all() else None


def fit_model(model: FitModel, x: Floats, y: Floats) -> Fit:
    """Fit one model to n points; y must be positive. Too few points, or none that differ, end in warnings."""
    n, k = len(x), model.size
    if len(np.unique(x)) < k:
        return Fit(model, n, warnings=(f"{model.name}: expected at least {k} points, got {n}; not fitted",))
    scale = float(y.max())  # millions of parameters and a few hundred alike are searched near 1
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
    """Return the best model by each criterion that can name one.

    R² and its adjusted form need a point more than the model has coefficients; ties go to fewer coefficients.
    A model that meets every point is the best by AICc.
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


@dataclass(frozen=True)
class CurveFits:
    """A curve and the three models fitted to it; `parameters` and all coefficients in millions.

    best: criterion of `CRITERIA` → name of the model. warnings: the fits' and those that concern the whole curve.
    """

    network: str
    factor: float
    scope: str
    iterations: tuple[int, ...]
    parameters: tuple[float, ...]
    fits: tuple[Fit, ...]
    best: Mapping[str, str]
    warnings: tuple[str, ...]


def curve_warnings(x: Floats, y: Floats, fits: Iterable[Fit]) -> Iterator[str]:
    """Yield what stands in the way of choosing between the models of one curve."""
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
        raise SpecError(f"expected as many x as y, at least one, got shapes {x.shape} and {y.shape}")
    if not np.isfinite(x).all() or not np.isfinite(y).all() or y.min() <= 0:
        raise SpecError("expected finite points with y above 0, got others")
    return tuple(fit_model(model, x, y) for model in FIT_MODELS)


def fit_curves(curves: pd.DataFrame) -> Iterator[CurveFits]:
    """Yield the fits of each curve in a `curve_table`, in its order."""
    for key, curve in curves.groupby(["network", "factor", "scope"], sort=False):
        network, factor, scope = cast(tuple[str, float, str], key)
        x = curve["iteration"].to_numpy(np.float64)
        y = curve["parameters"].to_numpy(np.float64) / MILLION
        fits = fit_points(x, y)
        yield CurveFits(
            network,
            factor,
            scope,
            tuple(int(iteration) for iteration in x),
            tuple(float(millions) for millions in y),
            fits,
            best_models(fits),
            tuple(curve_warnings(x, y, fits)),
        )


FIT_COLUMNS = ("network", "factor", "scope", "model", *CRITERIA, "best")


def fit_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Return one row a curve and model, columns `FIT_COLUMNS`, of a `curve_table`.

    best: the criteria by which this model is the best of its curve, such as "r2 adjusted_r2"; empty where none.
    A figure that is undefined is missing (NaN).
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
        for curve in fit_curves(curves)
        for fit in curve.fits
    ]
    table = pd.DataFrame(rows, columns=list(FIT_COLUMNS))
    return table.astype(dict.fromkeys(CRITERIA, "float64"))
