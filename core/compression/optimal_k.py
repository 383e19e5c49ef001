"""The rules that choose k from a sweep, with a reason and the stability under resampling of the images.

Every metric's mean over the images is a curve against k. A rule chooses one k from these curves, for the sweep and for
each bootstrap resample, so curves are arrays (resamples, k, metrics). In the sweep each image counts once.

Each quantity votes once. These do not vote: `rmse`, the root of `mse`; the Bhattacharyya distances of the channels,
whose mean votes; explained variance, which does not describe the stored image and is a floor in `plateau`; and metrics
that are undefined at every k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import annotated_types as at
import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import AfterValidator

from core.compression.image_results import SIZE_COLUMNS
from core.compression.metrics import METRICS, METRICS_BY_NAME, Metric
from core.compression.summary import measured, metric_columns, metric_values
from core.errors import SpecError
from core.specs import Number, Seed, Spec, Whole

WITHOUT_VOTE = ("rmse", *(f"hist_bhattacharyya_{channel}" for channel in "bgr"), "explained_variance")
VOTERS = tuple(metric.name for metric in METRICS if metric.name not in WITHOUT_VOTE)
SIZES = SIZE_COLUMNS[:3]  # of the original, the reconstruction and the original re-encoded
DEFAULT_FLOORS = {"ssim": 0.95, "psnr": 40.0}
NOTHING_DEFINED = "No k can be chosen: no metric is defined at any k of these images."
ROUNDING = 1e-9  # relative; a curve with less variation is constant, and a limit missed by less is met

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Masks = npt.NDArray[np.bool_]


def of_known_metrics(floors: dict[str, float]) -> dict[str, float]:
    """Return the floors where each is a metric's. SpecError."""
    if unknown := [name for name in floors if name not in METRICS_BY_NAME]:
        raise SpecError(f"Expected floors for the metrics {', '.join(METRICS_BY_NAME)}, got {', '.join(unknown)}.")
    return floors


Share = Annotated[Number, at.Interval(ge=0, le=1)]


class RuleParameters(Spec):
    """The parameters of the rules.

    remaining: share of a metric's improvement that may remain at its plateau.
    share: share of the metrics that must be on their plateau. explained_floor: required explained variance, 0–1.
    floors: means that `threshold` requires; ceilings for metrics where low is better.
    budget_ratio: compression ratio that `budget` requires.
    resamples, seed: of the bootstrap.
    """

    remaining: Share = 0.05
    share: Share = 0.8
    explained_floor: Share = 0.98
    floors: Annotated[dict[str, Number], AfterValidator(of_known_metrics)] = DEFAULT_FLOORS
    budget_ratio: Annotated[Number, at.Gt(0)] = 3.77
    resamples: Annotated[Whole, at.Ge(0)] = 200
    seed: Seed = 1


@dataclass(frozen=True)
class OptimalK:
    """One rule's choice.

    k: None where the rule finds none; the reason then states the required and the reached values.
    stability: share of the bootstrap resamples that choose the same k, 0–1; None without a k, or with fewer than
        two images. parameters: those of `RuleParameters` that the rule used, JSON-ready.
    """

    rule: str
    k: int | None
    reason: str
    stability: float | None
    parameters: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Curves:
    """Mean curves against k, for one or more resamples of the images.

    ks (k,), ascending. means: for each metric (resamples, k), NaN where it is undefined for all images.
    ratios, control_ratios (resamples, k): Σsource/Σstored and Σsource/Σcontrol, NaN where unknown.
    """

    ks: Integers
    means: dict[str, Floats]
    ratios: Floats
    control_ratios: Floats

    def mean(self, metric: str) -> Floats:
        """Return a metric's means (resamples, k), NaN for one that was not measured."""
        return self.means.get(metric, np.full_like(self.ratios, np.nan))

    def voters(self) -> list[str]:
        """Return the metrics that vote: those of `VOTERS` that are defined at some k."""
        return [name for name in VOTERS if name in self.means and np.isfinite(self.means[name]).any()]

    def without_vote(self) -> str:
        """Return a sentence about the metrics of `VOTERS` that are undefined at every k; empty where none is."""
        voters = self.voters()
        names = [METRICS_BY_NAME[name].label for name in VOTERS if name in self.means and name not in voters]
        return f" Without a vote, because they are undefined at every k: {', '.join(names)}." if names else ""


@dataclass(frozen=True, eq=False)
class _Values:
    """A sweep's measured values as one array (images, k, columns): metrics, then `SIZES`."""

    ks: Integers
    metrics: list[str]
    values: Floats
    counts: Integers  # images measured at each k

    def curves(self, weights: Floats) -> Curves:
        """Return the curves in which image i counts weights[r, i] times; weights (resamples, images)."""
        images = len(self.values)
        metrics = self.values[:, :, : len(self.metrics)].reshape(images, -1)
        defined = np.isfinite(metrics)
        sums, counts = weights @ np.where(defined, metrics, 0), weights @ defined
        means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
        means = means.reshape(len(weights), len(self.ks), -1)
        sizes = weights @ self.values[:, :, len(self.metrics) :].reshape(images, -1)
        source, stored, control = np.moveaxis(sizes.reshape(len(weights), len(self.ks), -1), -1, 0)
        return Curves(
            self.ks,
            {name: means[:, :, position] for position, name in enumerate(self.metrics)},
            np.divide(source, stored, out=np.full_like(source, np.nan), where=stored > 0),
            np.divide(source, control, out=np.full_like(source, np.nan), where=control > 0),
        )

    def sweep(self) -> Curves:
        """Return the curves of the sweep, where every image counts once."""
        return self.curves(np.ones((1, len(self.values))))

    def resampled(self, resamples: int, seed: int) -> Curves:
        """Return the curves of bootstrap resamples: as many images, drawn with replacement."""
        images = len(self.values)
        weights = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
        return self.curves(weights.astype(np.float64))


def choose_k(measurements: pd.DataFrame, parameters: RuleParameters | None = None) -> tuple[OptimalK, ...]:
    """Apply every rule to a sweep's measurements (docs/definitions.md, the chosen k), in the order of `RULES`."""
    parameters = parameters or RuleParameters()
    values = _values(measurements)
    if not len(values.ks):
        reason = "No k can be chosen: a rule needs measured images, and none was measured at any k."
        return tuple(OptimalK(rule.name, None, reason, None, rule.settings(parameters)) for rule in RULES)
    sweep = values.sweep()
    repeat = len(values.values) > 1 and parameters.resamples > 0
    resampled = values.resampled(parameters.resamples, parameters.seed) if repeat else None
    coverage = _coverage(values)
    choices = []
    for rule in RULES:
        k = stability = None
        position = int(rule.choose(sweep, parameters)[0])
        if position >= 0:
            k = int(sweep.ks[position])
            if resampled is not None:
                stability = float(np.mean(rule.choose(resampled, parameters) == position))
        reason = rule.explain(sweep, position, parameters) + coverage
        choices.append(OptimalK(rule.name, k, reason, stability, rule.settings(parameters)))
    return tuple(choices)


def arrivals(measurements: pd.DataFrame) -> pd.DataFrame:
    """Return the plateau and the knee of each metric's mean curve, one row per metric in the order of `METRICS`.

    Columns: metric, label, better, votes, first (mean at the smallest k), best, best_k, plateau_k (smallest k
    from which at most `RuleParameters.remaining` of the improvement can still be gained), knee_k (Kneedle's); NULL for
    none.
    """
    values = _values(measurements)
    rows = _arrival_rows(values.sweep()) if len(values.ks) else ()
    whole = dict.fromkeys(("best_k", "plateau_k", "knee_k"), "Int64")
    figures = {"first": "float64", "best": "float64", **whole}
    return pd.DataFrame(rows, columns=["metric", "label", "better", "votes", *figures]).astype(figures)


def _arrival_rows(curves: Curves) -> Iterator[dict[str, Any]]:
    voters, remaining = curves.voters(), RuleParameters().remaining
    for name, means in curves.means.items():
        metric = METRICS_BY_NAME[name]
        row = {"metric": name, "label": metric.label, "better": metric.better, "votes": name in voters}
        plateau = int(plateau_positions(curves, name, remaining)[0])
        if plateau >= 0:
            best = int(np.nanargmax(_gains(curves, name)[0]))
            row |= {"first": means[0, 0], "best": means[0, best], "best_k": curves.ks[best]}
            row |= {"plateau_k": curves.ks[plateau], "knee_k": knees(curves, name)[0]}
        yield row


def plateau_positions(curves: Curves, metric: str, remaining: float) -> Integers:
    """Return the position in `ks` where the metric's plateau begins, −1 where it is undefined everywhere.

    The improvement is the difference between the best value and that of the smallest k. The plateau begins at the
    smallest k from which on at most the share `remaining` of the improvement can still be gained. A curve that gets
    worse again, such as Haralick distance, is on its plateau at its best value; one that never improves is on it at the
    smallest k.
    """
    gains = _gains(curves, metric)
    defined = np.isfinite(gains)
    best_ahead = np.fmax.accumulate(gains[:, ::-1], axis=1)[:, ::-1]
    first = np.take_along_axis(gains, defined.argmax(axis=1)[:, None], axis=1)
    best = best_ahead[:, :1]
    improvement = best - first
    never_improves = improvement <= ROUNDING * np.abs(best)
    too_much_left = best_ahead - gains > remaining * improvement * (1 + ROUNDING)  # False where undefined
    settled = np.logical_and.accumulate((~too_much_left | never_improves)[:, ::-1], axis=1)[:, ::-1]
    return _first(settled & defined)


def knees(curves: Curves, metric: str) -> Floats:
    """Return the k of Kneedle's knee in each resample, NaN where the curve has none.

    Satopää et al., "Finding a Kneedle in a Haystack", 2011, as kneed implements it, sensitivity 1: concave and
    increasing where high is better, convex and decreasing where low is.
    """
    shape = ("concave", "increasing") if METRICS_BY_NAME[metric].better == "high" else ("convex", "decreasing")
    return np.array([_knee(curves.ks, curve, *shape) for curve in curves.means[metric]])


def _knee(ks: Integers, curve: Floats, form: str, direction: str) -> float:
    defined = np.isfinite(curve)
    ks, curve = ks[defined], curve[defined]
    if len(ks) < 3 or np.ptp(curve) <= ROUNDING * np.abs(curve).max():
        return float("nan")
    from kneed import KneeLocator  # here, because its import takes half a second that few processes need

    knee = KneeLocator(ks, curve, curve=form, direction=direction).knee
    return float("nan") if knee is None else float(knee)


def _choose_plateau(curves: Curves, parameters: RuleParameters) -> Integers:
    if len(curves.ks) < 2:
        return np.full(len(curves.ratios), -1)
    enough = _arrived_share(curves, parameters) >= parameters.share - ROUNDING
    return _first(enough & (curves.mean("explained_variance") >= parameters.explained_floor))


def _arrived_share(curves: Curves, parameters: RuleParameters) -> Floats:
    """Return the share of the voters that are on their plateau at each k, (resamples, k)."""
    positions = [plateau_positions(curves, name, parameters.remaining) for name in curves.voters()]
    if not positions:
        return np.zeros_like(curves.ratios)
    table = np.stack(positions)[:, :, None]  # (voters, resamples, 1)
    arrived = ((table >= 0) & (table <= np.arange(len(curves.ks)))).sum(axis=0)
    return np.asarray(arrived / np.maximum((table >= 0).sum(axis=0), 1), dtype=np.float64)


def _explain_plateau(curves: Curves, position: int, parameters: RuleParameters) -> str:
    if len(curves.ks) < 2:
        return f"A plateau needs at least two measured k to compare; this sweep has one, k = {curves.ks[0]}."
    voters = curves.voters()
    if not voters:
        return NOTHING_DEFINED + curves.without_vote()
    at = position if position >= 0 else len(curves.ks) - 1
    places = {name: int(plateau_positions(curves, name, parameters.remaining)[0]) for name in voters}
    arrived = sum(place <= at for place in places.values())
    share = curves.mean("explained_variance")[0, at]
    explained = _percent(share) if np.isfinite(share) else "undefined"
    if position < 0:
        return (
            f"No measured k fits: the rule requires {_percent(parameters.share)} of the metrics with at most "
            f"{_percent(parameters.remaining)} of their improvement left, and an explained variance of at least "
            f"{_percent(parameters.explained_floor)}. At the largest k, {curves.ks[at]}, {arrived} of {len(voters)} "
            f"metrics meet this and explained variance is {explained}." + curves.without_vote()
        )
    late = [
        f"{METRICS_BY_NAME[name].label} (k = {curves.ks[place]})" for name, place in places.items() if place > position
    ]
    return (
        f"k = {curves.ks[position]} is the smallest k where at least {_percent(parameters.share)} of the metrics, "
        f"{arrived} of {len(voters)}, have at most {_percent(parameters.remaining)} of their improvement left, and "
        f"explained variance, {explained}, is at least {_percent(parameters.explained_floor)}."
        + (f" Metrics that need a larger k: {', '.join(late)}." if late else "")
        + (
            " It is the largest k measured, so a sweep with larger k may choose another."
            if position == len(curves.ks) - 1
            else ""
        )
        + curves.without_vote()
    )


def _choose_knee(curves: Curves, parameters: RuleParameters) -> Integers:
    found = [knees(curves, name) for name in curves.voters()]
    positions = np.full(len(curves.ratios), -1)
    if not found:
        return positions
    table = np.stack(found)  # (voters, resamples)
    some = np.isfinite(table).any(axis=0)
    medians = np.nanmedian(table[:, some], axis=0)
    # argmin returns the first of equals, the smaller of two equally near k
    positions[some] = np.abs(curves.ks[None, :] - medians[:, None]).argmin(axis=1)
    return positions


def _explain_knee(curves: Curves, position: int, parameters: RuleParameters) -> str:
    voters = curves.voters()
    if not voters:
        return NOTHING_DEFINED + curves.without_vote()
    found = [knee for knee in (knees(curves, name)[0] for name in voters) if np.isfinite(knee)]
    if position < 0:
        few = f", and this sweep measured {len(curves.ks)}" if len(curves.ks) < 3 else ""
        reason = f"None of the {len(voters)} metrics' mean curves has a knee: Kneedle needs a bend over three k{few}."
        return reason + curves.without_vote()
    return (
        f"k = {curves.ks[position]} is the measured k nearest to {np.median(found):.4g}, the median of the knees of "
        f"{len(found)} of {len(voters)} metrics' mean curves, which lie from {min(found):.0f} to {max(found):.0f}."
        + curves.without_vote()
    )


def _choose_threshold(curves: Curves, parameters: RuleParameters) -> Integers:
    if not parameters.floors:
        return np.full(len(curves.ratios), -1)
    floors = [(_reached(curves, name), floor, METRICS_BY_NAME[name].sign) for name, floor in parameters.floors.items()]
    return _first(np.all([values * sign >= floor * sign for values, floor, sign in floors], axis=0))


def _reached(curves: Curves, metric: str) -> Floats:
    """Return the metric's means (resamples, k); PSNR is infinite where every image equals its original."""
    values = curves.mean(metric)
    if metric == "psnr" and "mse" in curves.means:
        return np.where(curves.means["mse"] == 0, np.inf, values)
    return values


def _explain_threshold(curves: Curves, position: int, parameters: RuleParameters) -> str:
    if not parameters.floors:
        return "No floor was given: this rule needs at least one, such as an SSIM of 0.95."
    limits = {name: f"mean {_limit(METRICS_BY_NAME[name], floor)}" for name, floor in parameters.floors.items()}
    if position < 0:
        reached = ", ".join(_best_reached(curves, METRICS_BY_NAME[name]) for name in limits)
        return f"No measured k has a {' and '.join(limits.values())}. Best reached: {reached}."
    met = [
        f"{limit} (it is {METRICS_BY_NAME[name].text(_reached(curves, name)[0, position])})"
        for name, limit in limits.items()
    ]
    return f"k = {curves.ks[position]} is the smallest k with a {' and '.join(met)}."


def _limit(metric: Metric, floor: float) -> str:
    return f"{metric.label} of {'at least' if metric.better == 'high' else 'at most'} {metric.text(floor)}"


def _best_reached(curves: Curves, metric: Metric) -> str:
    values = _reached(curves, metric.name)[0]
    if np.isnan(values).all():
        return f"{metric.label} is defined at no k"
    best = int(np.nanargmax(values * metric.sign))
    return f"{metric.label} {metric.text(values[best])} at k = {curves.ks[best]}"


def _choose_budget(curves: Curves, parameters: RuleParameters) -> Integers:
    enough = curves.ratios >= parameters.budget_ratio
    return np.where(enough.any(axis=1), len(curves.ks) - 1 - enough[:, ::-1].argmax(axis=1), -1)


def _explain_budget(curves: Curves, position: int, parameters: RuleParameters) -> str:
    ratios, control = curves.ratios[0], curves.control_ratios[0]
    if position < 0:
        if np.isnan(ratios).all():
            return "The compression ratio is not known at any k, because an image lacks a size."
        best = int(np.nanargmax(ratios))
        return (
            f"No measured k compresses by at least {parameters.budget_ratio:.4g}. "
            f"Best reached: {ratios[best]:.4g} at k = {curves.ks[best]}."
        )
    following = (
        f"; the next, k = {curves.ks[position + 1]}, compresses by {ratios[position + 1]:.4g}"
        if position + 1 < len(curves.ks)
        else ", the largest measured"
    )
    alone = (
        f" Re-encoding without SVD already compresses by {control[position]:.4g}."
        if control[position] >= parameters.budget_ratio
        else ""
    )
    return (
        f"k = {curves.ks[position]} is the largest k with a compression ratio of at least "
        f"{parameters.budget_ratio:.4g}: {ratios[position]:.4g}{following}.{alone}"
    )


@dataclass(frozen=True)
class Rule:
    """A rule that chooses k.

    choose: returns positions in `ks` (resamples,), −1 for none. explain: returns the reason for the sweep's position.
    uses: the names of its parameters.
    """

    name: str
    choose: Callable[[Curves, RuleParameters], Integers]
    explain: Callable[[Curves, int, RuleParameters], str]
    uses: tuple[str, ...]

    def settings(self, parameters: RuleParameters) -> dict[str, Any]:
        """Return the parameters of this rule, JSON-ready."""
        return parameters.model_dump(include={*self.uses, "resamples", "seed"})


RULES = (
    Rule("plateau", _choose_plateau, _explain_plateau, ("remaining", "share", "explained_floor")),
    Rule("knee", _choose_knee, _explain_knee, ()),
    Rule("threshold", _choose_threshold, _explain_threshold, ("floors",)),
    Rule("budget", _choose_budget, _explain_budget, ("budget_ratio",)),
)
DEFAULT_RULE = "plateau"


def _values(measurements: pd.DataFrame) -> _Values:
    """Return the measured rows that have a k as one array, without any k at which no image was measured."""
    rows = measured(measurements)
    rows = rows[rows["k"].notna()]
    images, names = pd.factorize(rows["image_id"])
    ks, positions = np.unique(rows["k"].to_numpy(dtype=np.int64), return_inverse=True)
    metrics = metric_columns(rows)
    values = np.full((len(names), len(ks), len(metrics) + len(SIZES)), np.nan)
    values[:, :, len(metrics) :] = 0  # an image not measured at a k adds nothing to that k's bytes
    values[images, positions, : len(metrics)] = metric_values(rows).to_numpy()
    values[images, positions, len(metrics) :] = rows.reindex(columns=list(SIZES)).astype("float64").to_numpy()
    return _Values(ks, metrics, values, np.bincount(positions, minlength=len(ks)))


def _coverage(values: _Values) -> str:
    counts = values.counts
    if counts.min() == counts.max():
        return ""
    listed = ", ".join(f"{count} at k = {k}" for k, count in zip(values.ks, counts, strict=True))
    return f" Not every k was measured on the same images: {listed}."


def _first(chosen: Masks) -> Integers:
    """Return the first True of each row, −1 where there is none."""
    return np.where(chosen.any(axis=1), chosen.argmax(axis=1), -1)


def _gains(curves: Curves, metric: str) -> Floats:
    """Return the metric's means, negated where low is better, (resamples, k)."""
    return curves.means[metric] * METRICS_BY_NAME[metric].sign


def _percent(share: float) -> str:
    text = f"{100 * share:.4g}"
    return "over 99.99 %" if text == "100" and share < 1 else f"{text} %"
