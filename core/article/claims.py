"""What became of each claim of the article: reproduced, not reproduced, or not measured yet, and on what grounds.

One small function a claim, from what is known to a verdict. Each threshold is a constant below, with its reason: the
article prints rounded figures of its own data, so a claim counts as reproduced when a measurement lands near enough for
a reader to call it the same. A claim about several networks is refuted by one of them, and confirmed only by all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from core.article.printed import claims as printed_claims
from core.article.tables import markdown_escape
from core.compression.metrics import METRICS_BY_NAME
from core.compression.optimal_k import Curves, RuleParameters, plateau_positions
from core.files import exports
from core.networks.architectures import ALEXNET, LENET5, NETWORKS, NetworkSpec
from core.networks.costs import Cost, network_cost
from core.networks.fits import CurveFits
from core.networks.pruning import SCOPES, prune
from core.training.algorithm2 import ORIGINAL

REPRODUCED, NOT_REPRODUCED, NOT_MEASURED = "reproduced", "not reproduced", "not measured yet"
STATUSES = (REPRODUCED, NOT_REPRODUCED, NOT_MEASURED)

ARTICLE_K = 350  # the k that the article's figures are printed for
ARTICLE_GIGABYTES = 2.72  # 10⁹ bytes: the article's data set
CLAIMED_GIGABYTES = 1.0  # C01: what it shrinks to less than; judged by the ratio, so a part of the data set will do
RATIO, RATIO_SHARE = 3.77, 0.1  # C02: within a tenth of the printed ratio
SAVED, SAVED_POINTS = 73.0, 2.0  # C03: within two points of the printed percentage
PSNR, PSNR_DECIBELS = 40.0, 2.0  # C05: "about"
FALLS = 1e-3  # C05: a mean PSNR that falls by less than this, in dB, from one k to the next has not fallen
SSIM = {100: 0.97, 450: 0.99}  # C06: printed with two digits
SSIM_DIFFERENCE = 0.01
HU_CORRELATION = 0.9985  # C08: prints as 0.999
SPECTRAL_CORRELATION = 0.985  # C10: prints as 0.99
EXPLAINED = 0.98  # C11
HARALICK_K = 400  # C09: rises above this k
SIZE = "200x100"  # C12, rows × columns
TOLERANCE = 2.0  # C15: points, the article's own for "keeps its baseline"
SHARE_LEFT, SHARE_POINTS = 5.0, 1.0  # C17: percent of the parameters, "about"
MEGABYTES, MEGABYTES_SHARE, SMALL_MEGABYTES = 444.0, 0.1, 10.0  # C18: 10⁶ bytes
SHARES_LEFT = (5.0, 35.0)  # C19: percent, both ends included
LENET5_REDUCTION, REDUCTION_POINTS = 59.0, 1.0  # C20: percent
ARTICLE_EPOCHS, TEN_MINUTES = 75, 600.0  # C23: seconds
HEIGHT, WIDTH = 200, 100  # where a figure is counted without a training
CURVES = ((50.0, 33.33), tuple(SCOPES), 5, HEIGHT, WIDTH)  # C13, C14: factors, scopes, iterations and size counted


@dataclass(frozen=True, eq=False)
class Known:
    """What there is to judge by; any part may be absent.

    storage, statistics: of one sweep, as `core.compression.summary` makes them. optimal_k: rule, k, reason, stability.
    resize_statistics: `core.compression.summary.summarise` of a resize study. curves: `core.networks.fits.fit_curves`.
    pairs: unpruned networks trained on original and on reconstructed images, with the same settings. steps: trained
    steps of finished pruning runs; one run_id is one history of one network. Both: `core.article.tables.STEP_COLUMNS`.
    runs: the run ids behind 'sweep', 'resize' and 'curves'; trainings carry their own. synthetic: the sources ('sweep',
    'resize', 'pairs', 'steps') that are about synthetic images.
    """

    storage: pd.DataFrame | None = None
    statistics: pd.DataFrame | None = None
    optimal_k: pd.DataFrame | None = None
    resize_statistics: pd.DataFrame | None = None
    curves: tuple[CurveFits, ...] | None = None
    pairs: pd.DataFrame | None = None
    steps: pd.DataFrame | None = None
    runs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    synthetic: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one claim. measured: the figures, as a sentence. runs: ids of the runs they rest on.

    note: what the reader must know beside them: what the article leaves open and where it contradicts itself.
    """

    claim_id: str
    status: str
    measured: str
    runs: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A judgement before its claim's printed note is added. holds: None where the figures are not there yet."""

    holds: bool | None
    measured: str
    runs: tuple[str, ...] = ()
    note: str = ""


def unmeasured(what: str) -> Finding:
    """Return the finding of a claim that nothing is known about."""
    return Finding(None, f"Needs {what}.")


NEEDS_SWEEP = f"a sweep that measured k = {ARTICLE_K}"


def storage_row(known: Known) -> pd.Series | None:
    """Return the sweep's bytes at the article's k, None where they were not summed."""
    if known.storage is None:
        return None
    rows = known.storage[(known.storage["k"] == ARTICLE_K).fillna(False)]
    if rows.empty or pd.isna(rows.iloc[0]["ratio"]):
        return None
    return rows.iloc[0]


def means(known: Known, metric: str) -> dict[int, float]:
    """Return a metric's mean at each k of the sweep where it is defined, ascending."""
    if known.statistics is None:
        return {}
    rows = known.statistics[known.statistics["metric"] == metric]
    found = {
        int(variant.removeprefix("k=")): float(mean)
        for variant, mean in zip(rows["variant"], rows["mean"], strict=True)
        if variant.startswith("k=") and pd.notna(mean)
    }
    return dict(sorted(found.items()))


def series(values: Mapping[int, float], digits: int) -> str:
    """Return a metric's means in words: 0.9731 (k = 100), 0.9812 (k = 200)."""
    return ", ".join(f"{value:.{digits}f} (k = {k})" for k, value in values.items())


def c01_size(known: Known) -> Finding:
    """Hold the ratio against the one that takes 2.72 GB below 1 GB."""
    row = storage_row(known)
    if row is None:
        return unmeasured(NEEDS_SWEEP)
    source, stored, ratio = float(row["source_bytes"]), float(row["stored_bytes"]), float(row["ratio"])
    scaled = ARTICLE_GIGABYTES / ratio
    measured = (
        f"{source / 1e9:.3g} GB to {stored / 1e9:.3g} GB over {int(row['images'])} images; at this ratio "
        f"{ARTICLE_GIGABYTES} GB become {scaled:.2f} GB."
    )
    return Finding(scaled < CLAIMED_GIGABYTES, measured, known.runs.get("sweep", ()), split(row))


def split(row: pd.Series) -> str:
    """Return how much of a ratio re-encoding alone gives."""
    if pd.isna(row["control_ratio"]):
        return "What re-encoding without SVD saves was not measured."
    return (
        f"The same codec without SVD already compresses by {row['control_ratio']:.3f}; SVD multiplies that by "
        f"{row['svd_gain']:.3f}."
    )


def c02_ratio(known: Known) -> Finding:
    """Hold Σsource/Σstored at k = 350 against the printed ratio."""
    row = storage_row(known)
    if row is None:
        return unmeasured(NEEDS_SWEEP)
    ratio = float(row["ratio"])
    return Finding(
        abs(ratio - RATIO) <= RATIO_SHARE * RATIO, f"Ratio {ratio:.3f}.", known.runs.get("sweep", ()), split(row)
    )


def c03_saved(known: Known) -> Finding:
    """Hold the storage saved at k = 350 against the printed percentage."""
    row = storage_row(known)
    if row is None:
        return unmeasured(NEEDS_SWEEP)
    saved = float(row["saved_percent"])
    return Finding(abs(saved - SAVED) <= SAVED_POINTS, f"{saved:.1f} % saved.", known.runs.get("sweep", ()), split(row))


def c04_chosen_k(known: Known) -> Finding:
    """Take the k of the default rule, plateau; the others are told."""
    if known.optimal_k is None or known.optimal_k.empty:
        return unmeasured("a sweep and its chosen k")
    chosen = {str(rule): k for rule, k in zip(known.optimal_k["rule"], known.optimal_k["k"], strict=True)}
    measured = ", ".join(f"{rule}: {'no k' if pd.isna(k) else f'k = {int(k)}'}" for rule, k in chosen.items())
    if known.storage is not None and ARTICLE_K not in set(known.storage["k"]):
        return Finding(None, f"Needs {NEEDS_SWEEP}. By rule here: {measured}.", known.runs.get("sweep", ()))
    if "plateau" not in chosen:
        return Finding(None, f"The rule plateau was not applied; {measured}.", known.runs.get("sweep", ()))
    holds = bool(pd.notna(chosen["plateau"]) and int(chosen["plateau"]) == ARTICLE_K)
    return Finding(holds, f"By rule: {measured}.", known.runs.get("sweep", ()), "Judged by the rule plateau.")


def c05_psnr(known: Known) -> Finding:
    """Hold mean PSNR at k = 350 against 40 dB; it must not fall from any k to the next."""
    found = means(known, "psnr")
    if ARTICLE_K not in found:
        return unmeasured(NEEDS_SWEEP)
    values = np.array(list(found.values()))
    near, rising = abs(found[ARTICLE_K] - PSNR) <= PSNR_DECIBELS, bool((np.diff(values) > -FALLS).all())
    measured = f"{series(found, 2)} dB{'' if rising else '; it falls on the way'}."
    return Finding(near and rising, measured, known.runs.get("sweep", ()))


def c06_ssim(known: Known) -> Finding:
    """Hold mean SSIM at k = 100 and k = 450 against the printed pair."""
    found = means(known, "ssim")
    if not found.keys() >= SSIM.keys():
        return unmeasured("a sweep that measured k = 100 and k = 450")
    holds = all(abs(found[k] - printed) <= SSIM_DIFFERENCE for k, printed in SSIM.items())
    return Finding(holds, f"{series(found, 4)}.", known.runs.get("sweep", ()))


def c07_colour(known: Known) -> Finding:
    """Find where the colour distance reaches its plateau: at k = 350 at the latest."""
    found = means(known, "hist_bhattacharyya")
    if ARTICLE_K not in found or len(found) < 2:
        return unmeasured(f"{NEEDS_SWEEP} and others")
    unknown = np.full((1, len(found)), np.nan)
    curve = Curves(np.array(list(found)), {"hist_bhattacharyya": np.array([list(found.values())])}, unknown, unknown)
    remaining = RuleParameters().remaining
    plateau = list(found)[int(plateau_positions(curve, "hist_bhattacharyya", remaining)[0])]
    measured = f"{series(found, 5)}; from k = {plateau} on at most {100 * remaining:.0f} % of the improvement remains."
    note = f"It has arrived before k = {ARTICLE_K}, at k = {plateau}." if plateau < ARTICLE_K else ""
    return Finding(plateau <= ARTICLE_K, measured, known.runs.get("sweep", ()), note)


def every_k(known: Known, metric: str, floor: float, digits: int) -> Finding:
    """Hold a metric's mean at each k against a floor."""
    found = means(known, metric)
    if ARTICLE_K not in found:
        return unmeasured(NEEDS_SWEEP)
    return Finding(min(found.values()) >= floor, f"{series(found, digits)}.", known.runs.get("sweep", ()))


def c08_hu(known: Known) -> Finding:
    """Hold the correlation of the Hu moments at every k against what prints as 0.999."""
    return every_k(known, "hu_correlation", HU_CORRELATION, 5)


def c09_haralick(known: Known) -> Finding:
    """Ask whether the mean distance falls up to k = 400 and is larger again at some k above it."""
    found = means(known, "haralick_distance")
    until = {k: value for k, value in found.items() if k <= HARALICK_K}
    above = {k: value for k, value in found.items() if k > HARALICK_K}
    if len(until) < 2 or not above:
        return unmeasured(f"a sweep that measured k = {HARALICK_K}, smaller and larger ones")
    first, *_, lowest = until.values()
    falls, rises = lowest < first, max(above.values()) > lowest
    words = f"it {'falls' if falls else 'does not fall'} up to {HARALICK_K} and {'rises' if rises else 'does not rise'}"
    return Finding(falls and rises, f"{series(found, 3)}; {words} above.", known.runs.get("sweep", ()))


def c10_spectrum(known: Known) -> Finding:
    """Hold the spectral correlation at every k against what prints as 0.99."""
    return every_k(known, "spectral_correlation", SPECTRAL_CORRELATION, 5)


def c11_explained(known: Known) -> Finding:
    """Hold the mean explained variance at k = 350 against 98 %."""
    found = {k: 100 * value for k, value in means(known, "explained_variance").items()}
    if ARTICLE_K not in found:
        return unmeasured(NEEDS_SWEEP)
    return Finding(found[ARTICLE_K] > 100 * EXPLAINED, f"{series(found, 4)} percent.", known.runs.get("sweep", ()))


def c12_size(known: Known) -> Finding:
    """Ask whether 200×100 has the least pixels and the best mean PSNR, RMSE and SSIM of the sizes measured."""
    if known.resize_statistics is None:
        return unmeasured("a resize study")
    table = known.resize_statistics.pivot_table(index="variant", columns="metric", values="mean", sort=False)
    judged = ("psnr", "rmse", "ssim")
    if SIZE not in table.index or len(table) < 2:
        return unmeasured(f"a resize study of {SIZE} and other sizes")
    if not set(judged) <= set(table.columns):
        return unmeasured("a resize study of images that define PSNR, RMSE and SSIM at some size")
    best = {
        metric: str(table[metric].idxmax() if METRICS_BY_NAME[metric].better == "high" else table[metric].idxmin())
        for metric in judged
    }
    pixels = {str(size): np.prod([int(side) for side in str(size).split("x")]) for size in table.index}
    least = min(pixels, key=pixels.__getitem__)
    measured = "; ".join(
        f"{METRICS_BY_NAME[metric].label} is best at {size.replace('x', '×')} ({table[metric][size]:.4g})"
        for metric, size in best.items()
    )
    measured += f"; {least.replace('x', '×')} has the least pixels of {len(table)} sizes."
    return Finding({*best.values(), least} == {SIZE}, measured, known.runs.get("resize", ()))


def curves_of(known: Known, every: bool) -> Finding:
    """Count the curves for which the article's best model is the best; it must be so for each that can say."""
    curves = [curve for curve in known.curves or () if (curve.scope == "all") == every]
    judged = [curve for curve in curves if curve.claim.holds is not None]
    if not judged:
        return unmeasured("parameter curves with points enough to tell three models apart")
    failing = [f"{curve.name}: {curve.claim.sentence}" for curve in judged if not curve.claim.holds]
    measured = f"It holds for {len(judged) - len(failing)} of {len(judged)} curves."
    if failing:
        more = f"; and {len(failing) - 3} more" if len(failing) > 3 else ""
        measured += f" Not for {'; '.join(failing[:3])}{more}."
    note = " ".join(filter(None, ["Counted, not trained.", by_aicc(judged)]))
    return Finding(not failing, measured, known.runs.get("curves", ()), note)


def by_aicc(curves: Iterable[CurveFits]) -> str:
    """Say for which networks AICc names another model than R², the article's measure, with both figures of both.

    Empty where it never does.
    """
    curves = tuple(curves)
    other = [curve for curve in curves if curve.best.get("aicc", "") not in ("", curve.best.get("r2"))]
    if not other:
        return ""
    groups: dict[tuple[str, str, str], list[CurveFits]] = {}
    for curve in other:
        groups.setdefault((curve.network, curve.best["aicc"], curve.best["r2"]), []).append(curve)
    texts = []
    for (network, winner, loser), group in groups.items():
        figures = {
            (name, criterion): span([getattr(fit, criterion) for each in group for fit in each.fits
                                     if fit.model.name == name], digits)
            for name in (winner, loser)
            for criterion, digits in (("aicc", 1), ("r2", 4))
        }  # fmt: skip
        texts.append(
            f"{network}, {len(group)} curves: the {winner}, AICc {figures[winner, 'aicc']} against "
            f"{figures[loser, 'aicc']} of the {loser}, where R² has {figures[winner, 'r2']} against "
            f"{figures[loser, 'r2']}"
        )
    return (
        "R² never charges for a coefficient; AICc does, the lower the better, and names another model for "
        f"{len(other)} of {len(curves)} curves. {'; '.join(texts)}."
    )


def span(values: Iterable[float], digits: int) -> str:
    """Return the smallest and the largest of some figures, one where they print alike."""
    values = list(values)
    low, high = (f"{value:.{digits}f}".replace("-", "−") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def c13_exponential(known: Known) -> Finding:
    """Judge the curves in which all convolutions shrink."""
    return curves_of(known, True)


def c14_polynomial(known: Known) -> Finding:
    """Judge the curves in which only the first convolutions shrink."""
    return curves_of(known, False)


def steps_of(known: Known, network: str | None = None) -> pd.DataFrame:
    """Return the pruning runs' steps of a network, or of the article's four, in the order of runs and steps."""
    columns = ["run_id", "network", "version", "seed", "step", "name", "parameters", "accepted", "test_accuracy"]
    if known.steps is None:
        return pd.DataFrame(columns=columns)
    names = list(NETWORKS) if network is None else [network]
    return known.steps[known.steps["network"].isin(names)].sort_values(["network", "run_id", "step"])


def ids(steps: pd.DataFrame) -> tuple[str, ...]:
    """Return the runs that steps come from."""
    return tuple(str(run) for run in steps["run_id"].unique())


def accepted(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the accepted steps; an unknown verdict is not an acceptance."""
    return steps[steps["accepted"].astype("boolean").fillna(False).astype(bool)]


def c15_reconstructed(known: Known) -> Finding:
    """Ask of each network whether reconstructed images train it to within two points of the originals, or better."""
    steps = known.pairs
    if steps is None or steps.empty:
        return unmeasured("the same network trained on original and on reconstructed images, with the same settings")
    steps = steps[steps["network"].isin(NETWORKS) & (steps["name"] == ORIGINAL) & steps["test_accuracy"].notna()]
    table = steps.pivot_table(index="network", columns="version", values="test_accuracy", aggfunc="mean", sort=False)
    table = table.reindex(columns=["original", "reconstructed"]).dropna()
    if table.empty:
        return unmeasured("the same network trained on original and on reconstructed images, with the same settings")
    table = table.loc[[name for name in NETWORKS if name in table.index]]
    worse = table.index[table["reconstructed"] < table["original"] - TOLERANCE]
    used = steps[steps["network"].isin(table.index)]
    seeds = used.groupby("network")["seed"].nunique()
    measured = "; ".join(
        f"{network} {row['reconstructed']:.2f} reconstructed, {row['original']:.2f} original"
        + (f" (means of {seeds[network]} seeds)" if seeds[network] > 1 else "")
        for network, row in zip(list(table.index), table.to_dict("records"), strict=True)
    )
    note = f"Test accuracy; as well means at most {TOLERANCE:g} points less."
    return Finding(over_networks(list(table.index), list(worse)), f"{measured}.", ids(used), note)


def over_networks(judged: list[str], failing: list[str]) -> bool | None:
    """Return False where one network fails, True where all four hold, None where some are still to be measured."""
    if failing:
        return False
    return True if set(judged) >= set(NETWORKS) else None


def c16_alexnet(known: Known) -> Finding:
    """Ask whether R3: 50% is accepted in each alexnet history, and no step tried after it."""
    return history(known, "alexnet", "R3: 50%", ("R1: 50%", "R2: 50%"), last=True)


def c21_custom2(known: Known) -> Finding:
    """Ask whether R2: 33% is accepted in each custom2 history that came to it."""
    note = "A run comes to it over the rejected R1: 33% only where rejected networks are shrunk on and three may fail."
    return history(known, "custom2", "R2: 33%", (), note)


def c22_custom1(known: Known) -> Finding:
    """Ask whether R1, R2: 50%, 33% is accepted in each custom1 history."""
    return history(known, "custom1", "R1, R2: 50%, 33%", ("R1: 50%",))


def history(
    known: Known, network: str, name: str, needs: tuple[str, ...], note: str = "", *, last: bool = False
) -> Finding:
    """Judge the pruning runs of a network by one named step, which each run that can say must have accepted.

    needs: steps on the way to it; a run that rejected one has refuted the claim, one that merely did not come so far
    says nothing. last: further steps must have been tried, and none accepted.
    """
    steps = steps_of(known, network)
    pruning = steps[steps["run_id"].isin(steps.loc[steps["step"] > 0, "run_id"])]
    if pruning.empty:
        return unmeasured(f"a pruning run of {network}")
    verdicts, texts = [], []
    for run, rows in pruning.groupby("run_id", sort=False):
        names, kept = list(rows["name"]), list(accepted(rows)["name"])
        rejected = [each for each in names if each not in kept and each != ORIGINAL]
        if name in kept:
            tried_more = names[-1] != name
            verdict = True if not last else (kept[-1] == name if tried_more else None)
        else:
            verdict = False if {name, *needs} & set(rejected) else None
        verdicts.append(verdict)
        reached = [each for each in kept if each != ORIGINAL]
        texts.append(f"{run}: accepted {listed(reached)}, rejected {listed(rejected)}")
    holds = None if all(verdict is None for verdict in verdicts) else False not in verdicts
    return Finding(holds, f"{'. '.join(texts)}.", ids(pruning), note)


def listed(names: list[str]) -> str:
    """Return step names, which hold commas themselves, in a row."""
    return "; ".join(names) or "none"


def shares_left(known: Known) -> pd.DataFrame:
    """Return each network's smallest accepted pruned step over all runs: run_id, network, name, share in percent."""
    steps = steps_of(known)
    unpruned = steps[steps["step"] == 0].set_index(["run_id", "network"])["parameters"]
    kept = accepted(steps[steps["step"] > 0])
    kept = kept.join(unpruned.rename("unpruned"), on=["run_id", "network"]).dropna(subset=["parameters", "unpruned"])
    share = 100 * kept["parameters"].astype("float64") / kept["unpruned"].astype("float64")
    kept = kept.assign(share=share).sort_values("share")
    return kept.drop_duplicates("network")[["run_id", "network", "name", "share"]]


def arithmetic(network: NetworkSpec, factors: Iterable[float]) -> tuple[Cost, Cost]:
    """Return what a network costs at 200×100 before and after these shrinkings."""
    pruned = network
    for factor in factors:
        pruned = prune(pruned, factor)
    return network_cost(network, HEIGHT, WIDTH), network_cost(pruned, HEIGHT, WIDTH)


def percent_left(before: Cost, after: Cost) -> float:
    """Return the parameters that are left, in percent."""
    return 100 * after.parameters / before.parameters


def c17_best_case(known: Known) -> Finding:
    """Hold the smallest share of parameters among accepted steps against 5 %."""
    two, three = (percent_left(*arithmetic(ALEXNET, [50] * count)) for count in (2, 3))
    note = f"Counted at {HEIGHT}×{WIDTH}, alexnet keeps {two:.2f} % after two halvings and {three:.2f} % after three."
    shares = shares_left(known)
    if shares.empty:
        return Finding(None, "Needs a pruning run with an accepted step.", (), note)
    best = shares.iloc[0]
    holds = abs(best["share"] - SHARE_LEFT) <= SHARE_POINTS
    return Finding(holds, f"{best['share']:.2f} %, {best['network']} {best['name']}.", (str(best["run_id"]),), note)


def c18_megabytes(known: Known) -> Finding:
    """Hold alexnet's size before and after its last accepted step, in either counting, against 444 and 10 MB."""
    before, after = arithmetic(ALEXNET, [50] * 3)
    note = (
        f"Counted at {HEIGHT}×{WIDTH}, three halvings take alexnet from {before.bytes_weights / 1e6:.1f} to "
        f"{after.bytes_weights / 1e6:.1f} MB of weights, from {before.bytes_with_optimizer / 1e6:.1f} to "
        f"{after.bytes_with_optimizer / 1e6:.1f} MB with Adam's state."
    )
    steps = steps_of(known, "alexnet")
    sizes = {"bytes_weights": "weights", "bytes_with_optimizer": "with optimiser state"}
    if not set(sizes) <= set(steps.columns):
        return Finding(None, "Needs a pruning run of alexnet with its sizes.", (), note)
    shares = shares_left(known).query("network == 'alexnet'")
    if shares.empty:
        return Finding(None, "Needs a pruning run of alexnet with an accepted step.", (), note)
    best = shares.iloc[0]
    rows = steps[steps["run_id"] == best["run_id"]].set_index("name")
    texts, holding = [], False
    for column, words in sizes.items():
        large, small = (float(rows.loc[name, column]) / 1e6 for name in (ORIGINAL, best["name"]))
        holding |= abs(large - MEGABYTES) <= MEGABYTES_SHARE * MEGABYTES and small < SMALL_MEGABYTES
        texts.append(f"{large:.1f} to {small:.1f} MB ({words})")
    return Finding(holding, f"{best['name']}: {', '.join(texts)}.", (str(best["run_id"]),), note)


def c19_shares(known: Known) -> Finding:
    """Ask of each network whether its smallest accepted step leaves 5 to 35 % of the parameters; 100 without one."""
    shares, steps = shares_left(known), steps_of(known)
    stuck = steps.loc[(steps["step"] > 0) & ~steps["network"].isin(shares["network"])].drop_duplicates("network")
    shares = pd.concat([shares, stuck[["run_id", "network"]].assign(name="no step accepted", share=100.0)])
    if shares.empty:
        return unmeasured("pruning runs")
    low, high = SHARES_LEFT
    outside = list(shares.loc[~shares["share"].between(low, high), "network"])
    rows = zip(shares["network"], shares["share"], shares["name"], strict=True)
    measured = "; ".join(f"{network} {share:.2f} % ({name})" for network, share, name in rows)
    return Finding(over_networks(list(shares["network"]), outside), f"{measured}.", ids(shares))


def c20_lenet5(known: Known) -> Finding:
    """Count what one step of 33.33 % takes from lenet5; no training is needed for it."""
    reduction = 100 - percent_left(*arithmetic(LENET5, [33.33]))
    measured = f"{reduction:.2f} %, counted for {HEIGHT}×{WIDTH}."
    steps = steps_of(known, "lenet5")
    rows = steps[steps["name"] == "R1: 33%"]
    note = ""
    if len(rows):
        note = f"Here the step R1: 33% was accepted in {len(accepted(rows))} of {len(rows)} runs."
    return Finding(abs(reduction - LENET5_REDUCTION) <= REDUCTION_POINTS, measured, ids(rows), note)


def c23_minutes(known: Known) -> Finding:
    """Hold the seconds of accepted pruned steps of at least 75 epochs against ten minutes."""
    steps = steps_of(known)
    if not {"epochs", "seconds"} <= set(steps.columns):
        return unmeasured("trained steps with their times")
    steps = steps[steps["seconds"].notna() & (steps["epochs"] > 0)]
    kept = accepted(steps[steps["step"] > 0])
    if kept.empty:
        return unmeasured("an accepted pruned step with its time")
    note = "It depends on the machine and the input size; see the runs' settings."
    whole = kept[kept["epochs"] >= ARTICLE_EPOCHS]
    if whole.empty:
        longest = ARTICLE_EPOCHS * (kept["seconds"] / kept["epochs"]).max() / 60
        text = f"No accepted step of {ARTICLE_EPOCHS} epochs yet; at the speed measured they take {longest:.1f} minutes"
        return Finding(None, f"{text} at most.", ids(kept), note)
    before = steps[steps["step"] == 0].set_index(["run_id", "network"])["seconds"]
    saved = (whole.join(before.rename("before"), on=["run_id", "network"])["before"] - whole["seconds"]).dropna() / 60
    measured = f"{whole['seconds'].min() / 60:.1f} to {whole['seconds'].max() / 60:.1f} minutes"
    if len(saved):
        measured += f", {saved.min():.1f} to {saved.max():.1f} minutes less than unpruned"
    return Finding(bool((whole["seconds"] < TEN_MINUTES).all()), f"{measured}.", ids(whole), note)


# Each claim's judge, and the source whose images its figures are about; None where no image is involved.
JUDGES: dict[str, tuple[Callable[[Known], Finding], str | None]] = {
    "C01": (c01_size, "sweep"),
    "C02": (c02_ratio, "sweep"),
    "C03": (c03_saved, "sweep"),
    "C04": (c04_chosen_k, "sweep"),
    "C05": (c05_psnr, "sweep"),
    "C06": (c06_ssim, "sweep"),
    "C07": (c07_colour, "sweep"),
    "C08": (c08_hu, "sweep"),
    "C09": (c09_haralick, "sweep"),
    "C10": (c10_spectrum, "sweep"),
    "C11": (c11_explained, "sweep"),
    "C12": (c12_size, "resize"),
    "C13": (c13_exponential, None),
    "C14": (c14_polynomial, None),
    "C15": (c15_reconstructed, "pairs"),
    "C16": (c16_alexnet, "steps"),
    "C17": (c17_best_case, "steps"),
    "C18": (c18_megabytes, "steps"),
    "C19": (c19_shares, "steps"),
    "C20": (c20_lenet5, None),
    "C21": (c21_custom2, "steps"),
    "C22": (c22_custom1, "steps"),
    "C23": (c23_minutes, "steps"),
}
STATUS_OF = {True: REPRODUCED, False: NOT_REPRODUCED, None: NOT_MEASURED}


def judge(claim_id: str, known: Known) -> Verdict:
    """Judge one claim of `core.article.printed.claims`; KeyError for an unknown id."""
    function, source = JUDGES[claim_id]
    finding = function(known)
    printed = str(printed_claims().set_index("id")["note"][claim_id])
    named = not printed or printed.startswith("The article")
    notes = [finding.note, printed if named else f"The article: {printed}"]
    if source in known.synthetic and finding.holds is not None:
        notes.insert(0, "Measured on synthetic images, which say nothing of real ones.")
    holds = None if finding.holds is None else bool(finding.holds)
    return Verdict(claim_id, STATUS_OF[holds], finding.measured, finding.runs, " ".join(filter(None, notes)))


def judge_all(known: Known) -> tuple[Verdict, ...]:
    """Judge every claim, in the article's order."""
    return tuple(judge(claim_id, known) for claim_id in JUDGES)


def claims_table(known: Known) -> pd.DataFrame:
    """Return the article's claims with their verdicts: id, area, source, claim, printed_value, status, measured, runs.

    Further column: note. runs: ids in one text, separated by spaces.
    """
    table = printed_claims().drop(columns="note")
    verdicts = judge_all(known)
    return table.assign(
        status=[verdict.status for verdict in verdicts],
        measured=[verdict.measured for verdict in verdicts],
        runs=[" ".join(verdict.runs) for verdict in verdicts],
        note=[verdict.note for verdict in verdicts],
    )


def to_csv(table: pd.DataFrame) -> str:
    """Return a `claims_table` as CSV."""
    return exports.to_csv(table)


def to_markdown(table: pd.DataFrame, basis: Iterable[str] = ()) -> str:
    """Return a `claims_table` in Markdown. basis: sentences that say what the claims are judged by."""
    heads = {
        "id": "Claim",
        "source": "Article",
        "claim": "What it says",
        "printed_value": "Printed",
        "status": "Status",
        "measured": "Measured",
        "note": "To know beside it",
        "runs": "Runs",
    }
    counts = ", ".join(f"{sum(table['status'] == status)} {status}" for status in STATUSES)
    lines = [f"{len(table)} claims of the article: {counts}.", *(f"- {markdown_escape(text)}" for text in basis), ""]
    lines += [f"| {' | '.join(heads.values())} |", f"|{'---|' * len(heads)}"]
    for row in table[list(heads)].itertuples(index=False):
        lines.append(f"| {' | '.join(markdown_escape(text) or '–' for text in row)} |")
    return "\n".join([*lines, ""])


WRITERS: dict[str, Callable[[pd.DataFrame, Iterable[str]], str]] = {
    "csv": lambda table, basis: to_csv(table),
    "markdown": to_markdown,
}
