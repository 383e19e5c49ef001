"""Judge the article's claims about networks and pruning, C13 to C23.

The article prints rounded figures of its own data, so a claim is reproduced where the measurement is close to the
printed figure. The constants are the limits, with their reasons.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from core.article.findings import Finding, Known, NotMeasured
from core.article.tables import INTERVALS
from core.errors import SpecError
from core.networks.architectures import ALEXNET, LENET5, NETWORKS, NetworkSpec
from core.networks.costs import Cost, network_cost
from core.networks.fits import CurveFits
from core.networks.pruning import SCOPES, prune
from core.predictions.comparison import compare, over_seeds, signed
from core.predictions.intervals import interval_text
from core.training.algorithm2 import ORIGINAL

TOLERANCE = 2.0  # C15: points, the article's own for "keeps its baseline"
SHARE_LEFT, SHARE_POINTS = 5.0, 1.0  # C17: percent of the parameters, "about"
MEGABYTES, MEGABYTES_SHARE, SMALL_MEGABYTES = 444.0, 0.1, 10.0  # C18: 10⁶ bytes
SHARES_LEFT = (5.0, 35.0)  # C19: percent, both ends included
LENET5_REDUCTION, REDUCTION_POINTS = 59.0, 1.0  # C20: percent
ARTICLE_EPOCHS, TEN_MINUTES = 75, 600.0  # C23: seconds
HEIGHT, WIDTH = 200, 100  # of figures that are counted without a training
CURVES = ((50.0, 33.33), tuple(SCOPES), 5, HEIGHT, WIDTH)  # C13, C14: factors, scopes, iterations and size counted
AFTER_A_REJECTION = (  # C21
    "A run comes to it over the rejected R1: 33% only where rejected networks are shrunk on and three may fail."
)


def judge_curves(known: Known, all_convolutions: bool) -> Finding:
    """C13, C14: the article's model fits best for every curve whose points suffice.

    all_convolutions: judge the curves where all convolutions shrink, else those where only the first shrink.
    """
    curves = [curve for curve in known.curves or () if (curve.scope == "all") == all_convolutions]
    judged = [curve for curve in curves if curve.claim.holds is not None]
    if not judged:
        raise NotMeasured("parameter curves with points enough to tell three models apart")
    failing = [f"{curve.name}: {curve.claim.sentence}" for curve in judged if not curve.claim.holds]
    measured = f"It holds for {len(judged) - len(failing)} of {len(judged)} curves."
    if failing:
        more = f"; and {len(failing) - 3} more" if len(failing) > 3 else ""
        measured += f" Not for {'; '.join(failing[:3])}{more}."
    note = " ".join(filter(None, ["Counted, not trained.", by_aicc(judged)]))
    return Finding(not failing, measured, note)


def by_aicc(curves: Iterable[CurveFits]) -> str:
    """Return for which networks AICc names a different model than R², the article's measure; empty where for none."""
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
        "R² has no penalty for coefficients; AICc has one, lower is better, and it names a different model for "
        f"{len(other)} of {len(curves)} curves. {'; '.join(texts)}."
    )


def span(values: Iterable[float], digits: int) -> str:
    """Return the smallest and the largest figure, or one where both print the same."""
    values = list(values)
    low, high = (f"{value:.{digits}f}".replace("-", "−") for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def steps_of(known: Known, network: str | None = None) -> pd.DataFrame:
    """Return the steps of the pruning runs of a network, or of the article's four, ordered by run and step."""
    columns = ["run_id", "network", "version", "seed", "step", "name", "parameters", "accepted", "test_accuracy"]
    if known.steps is None:
        return pd.DataFrame(columns=columns)
    names = list(NETWORKS) if network is None else [network]
    return known.steps[known.steps["network"].isin(names)].sort_values(["network", "run_id", "step"])


def ids(steps: pd.DataFrame) -> tuple[str, ...]:
    """Return the run ids of steps."""
    return tuple(str(run) for run in steps["run_id"].unique())


def accepted(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the accepted steps, without those that have no verdict."""
    return steps[steps["accepted"].astype("boolean").fillna(False).astype(bool)]


def judge_reconstructed(known: Known) -> Finding:
    """C15: reconstructed images train each network to at most two points below the originals."""
    steps = known.pairs
    if steps is None or steps.empty:
        raise NotMeasured("the same network trained on original and on reconstructed images, with the same settings")
    steps = steps[steps["network"].isin(NETWORKS) & (steps["name"] == ORIGINAL) & steps["test_accuracy"].notna()]
    table = steps.pivot_table(index="network", columns="version", values="test_accuracy", aggfunc="mean", sort=False)
    table = table.reindex(columns=["original", "reconstructed"]).dropna()
    if table.empty:
        raise NotMeasured("the same network trained on original and on reconstructed images, with the same settings")
    table = table.loc[[name for name in NETWORKS if name in table.index]]
    worse = table.index[table["reconstructed"] < table["original"] - TOLERANCE]
    used = steps[steps["network"].isin(table.index)]
    seeds = used.groupby("network")["seed"].nunique()
    texts = []
    for network in table.index:
        rows = used[used["network"] == network]
        figures = [f"{figure_text(table.loc[network, version], rows[rows['version'] == version])} {version}"
                   for version in ("reconstructed", "original")]  # fmt: skip
        several = f" (means of {seeds[network]} seeds)" if seeds[network] > 1 else ""
        texts.append(f"{network} {', '.join(figures)}{several}")
    measured = "; ".join(texts)
    note = f"Test accuracy; equally good means at most {TOLERANCE:g} points less."
    return Finding(
        over_networks(list(table.index), list(worse)), f"{measured}.", note, ids(used), pairs_told_apart(known, used)
    )


def figure_text(mean: float, steps: pd.DataFrame) -> str:
    """Return a mean test accuracy; of a single step with its 95 % interval, where it has one."""
    limits = steps[INTERVALS].iloc[0].get("test_accuracy") if len(steps) == 1 and INTERVALS in steps else None
    return f"{mean:.2f} {interval_text(limits)}".rstrip()


def pairs_told_apart(known: Known, steps: pd.DataFrame) -> str:
    """Return for each pair of unpruned trainings whether reconstructed minus original can be told from chance."""
    texts, values = [], []
    for (network, seed), rows in steps.groupby(["network", "seed"], sort=False):
        by_version = {str(step["version"]): step for step in rows.to_dict("records")}
        if len(by_version) == 2:
            ours, theirs = by_version["reconstructed"], by_version["original"]
            texts.append(f"{network}, seed {seed}: {told_apart(known, ours, theirs)}")
            values.append((network, ours["test_accuracy"] - theirs["test_accuracy"]))
    for network in dict.fromkeys(name for name, _ in values):
        over = over_seeds([value for name, value in values if name == network])
        if over.deviation is not None:
            texts.append(f"{network}: {over.text}")
    return f"{'; '.join(texts)}." if texts else ""


def told_apart(known: Known, first: Mapping[Hashable, Any], second: Mapping[Hashable, Any]) -> str:
    """Return in words whether the test accuracies of two steps can be told apart.

    By the paired difference and McNemar's test where both have predictions on the same images; else by the interval of
    each, where they have one; else it is unknown.
    """
    rows = [pd.DataFrame() if known.predictions is None else known.predictions(str(each["run_id"]), int(each["step"]))
            for each in (first, second)]  # fmt: skip
    if not any(each.empty for each in rows):
        try:
            found = compare(*rows)
        except SpecError:  # no common image, or other labels
            pass
        else:
            limits = interval_text((found.difference.low, found.difference.high), "+")
            verdict = "can be told apart" if found.distinguishable else "cannot be told from chance"
            return (
                f"{verdict}, {signed(found.difference.value)} points {limits}, McNemar p = {found.p:.2g}, "
                f"{found.images:,} images"
            )
    own = [each.get(INTERVALS, {}).get("test_accuracy") for each in (first, second)]
    if None in own:
        return "unknown, without predictions of both"
    accuracies = (each["test_accuracy"] for each in (first, second))
    texts = (f"{accuracy:.2f} {interval_text(each)}" for accuracy, each in zip(accuracies, own, strict=True))
    return f"not paired: {' and '.join(texts)}"


def over_networks(judged: list[str], failing: list[str]) -> bool | None:
    """Return False where one network fails, True where all four hold, None where some are not measured yet."""
    if failing:
        return False
    return True if set(judged) >= set(NETWORKS) else None


def judge_history(
    known: Known, network: str, name: str, needs: tuple[str, ...] = (), note: str = "", *, last: bool = False
) -> Finding:
    """C16, C21, C22: each pruning run of a network accepts a named step, unless it did not reach it.

    needs: earlier steps; a run that rejected one refutes the claim. last: the run must try later steps and reject all.
    """
    steps = steps_of(known, network)
    pruning = steps[steps["run_id"].isin(steps.loc[steps["step"] > 0, "run_id"])]
    if pruning.empty:
        raise NotMeasured(f"a pruning run of {network}")
    verdicts, texts, apart = [], [], []
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
        if name in names and ORIGINAL in names:
            by_name = {str(step["name"]): step for step in rows.to_dict("records")}
            apart.append(f"{run}, {name} against {ORIGINAL}: {told_apart(known, by_name[name], by_name[ORIGINAL])}")
        texts.append(f"{run}: accepted {listed(reached)}, rejected {listed(rejected)}")
    holds = None if all(verdict is None for verdict in verdicts) else False not in verdicts
    chance = f"{'; '.join(apart)}." if apart else f"Unknown: no run reached {name}."
    return Finding(holds, f"{'. '.join(texts)}.", note, ids(pruning), chance)


def listed(names: list[str]) -> str:
    """Return step names, which contain commas, separated by semicolons."""
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
    """Return a network's cost at 200×100 before and after these pruning steps."""
    pruned = network
    for factor in factors:
        pruned = prune(pruned, factor)
    return network_cost(network, HEIGHT, WIDTH), network_cost(pruned, HEIGHT, WIDTH)


def percent_left(before: Cost, after: Cost) -> float:
    """Return the remaining parameters in percent."""
    return 100 * after.parameters / before.parameters


def judge_best_case(known: Known) -> Finding:
    """C17: the smallest share of parameters among accepted steps is about 5 %."""
    two, three = (percent_left(*arithmetic(ALEXNET, [50] * count)) for count in (2, 3))
    note = f"Counted at {HEIGHT}×{WIDTH}, alexnet keeps {two:.2f} % after two halvings and {three:.2f} % after three."
    shares = shares_left(known)
    if shares.empty:
        raise NotMeasured("a pruning run with an accepted step", note)
    best = shares.iloc[0]
    holds = abs(best["share"] - SHARE_LEFT) <= SHARE_POINTS
    return Finding(holds, f"{best['share']:.2f} %, {best['network']} {best['name']}.", note, (str(best["run_id"]),))


def judge_megabytes(known: Known) -> Finding:
    """C18: alexnet shrinks from 444 MB to below 10 MB, with or without optimiser state."""
    before, after = arithmetic(ALEXNET, [50] * 3)
    note = (
        f"Counted at {HEIGHT}×{WIDTH}, three halvings take alexnet from {before.bytes_weights / 1e6:.1f} to "
        f"{after.bytes_weights / 1e6:.1f} MB of weights, from {before.bytes_with_optimizer / 1e6:.1f} to "
        f"{after.bytes_with_optimizer / 1e6:.1f} MB with Adam's state."
    )
    steps = steps_of(known, "alexnet")
    sizes = {"bytes_weights": "weights", "bytes_with_optimizer": "with optimiser state"}
    if not set(sizes) <= set(steps.columns):
        raise NotMeasured("a pruning run of alexnet with its sizes", note)
    shares = shares_left(known).query("network == 'alexnet'")
    if shares.empty:
        raise NotMeasured("a pruning run of alexnet with an accepted step", note)
    best = shares.iloc[0]
    rows = steps[steps["run_id"] == best["run_id"]].set_index("name")
    texts, holding = [], False
    for column, words in sizes.items():
        large, small = (float(rows.loc[name, column]) / 1e6 for name in (ORIGINAL, best["name"]))
        holding |= abs(large - MEGABYTES) <= MEGABYTES_SHARE * MEGABYTES and small < SMALL_MEGABYTES
        texts.append(f"{large:.1f} to {small:.1f} MB ({words})")
    return Finding(holding, f"{best['name']}: {', '.join(texts)}.", note, (str(best["run_id"]),))


def judge_shares(known: Known) -> Finding:
    """C19: each network's smallest accepted step leaves 5 to 35 % of the parameters; without one, 100 % are left."""
    shares, steps = shares_left(known), steps_of(known)
    stuck = steps.loc[(steps["step"] > 0) & ~steps["network"].isin(shares["network"])].drop_duplicates("network")
    shares = pd.concat([shares, stuck[["run_id", "network"]].assign(name="no step accepted", share=100.0)])
    if shares.empty:
        raise NotMeasured("pruning runs")
    low, high = SHARES_LEFT
    outside = list(shares.loc[~shares["share"].between(low, high), "network"])
    rows = zip(shares["network"], shares["share"], shares["name"], strict=True)
    measured = "; ".join(f"{network} {share:.2f} % ({name})" for network, share, name in rows)
    return Finding(over_networks(list(shares["network"]), outside), f"{measured}.", runs=ids(shares))


def judge_lenet5(known: Known) -> Finding:
    """C20: one step of 33.33 % removes 59 % of lenet5's parameters; counted without a training."""
    reduction = 100 - percent_left(*arithmetic(LENET5, [33.33]))
    measured = f"{reduction:.2f} %, counted for {HEIGHT}×{WIDTH}."
    steps = steps_of(known, "lenet5")
    rows = steps[steps["name"] == "R1: 33%"]
    note = ""
    if len(rows):
        note = f"Here the step R1: 33% was accepted in {len(accepted(rows))} of {len(rows)} runs."
    return Finding(abs(reduction - LENET5_REDUCTION) <= REDUCTION_POINTS, measured, note, ids(rows))


def judge_minutes(known: Known) -> Finding:
    """C23: accepted pruned steps of at least 75 epochs take less than ten minutes."""
    steps = steps_of(known)
    if not {"epochs", "seconds"} <= set(steps.columns):
        raise NotMeasured("trained steps with their times")
    steps = steps[steps["seconds"].notna() & (steps["epochs"] > 0)]
    kept = accepted(steps[steps["step"] > 0])
    if kept.empty:
        raise NotMeasured("an accepted pruned step with its time")
    note = "It depends on the machine and the input size; see the runs' settings."
    whole = kept[kept["epochs"] >= ARTICLE_EPOCHS]
    if whole.empty:
        longest = ARTICLE_EPOCHS * (kept["seconds"] / kept["epochs"]).max() / 60
        text = f"No accepted step of {ARTICLE_EPOCHS} epochs yet; at the speed measured they take {longest:.1f} minutes"
        return Finding(None, f"{text} at most.", note, ids(kept))
    before = steps[steps["step"] == 0].set_index(["run_id", "network"])["seconds"]
    saved = (whole.join(before.rename("before"), on=["run_id", "network"])["before"] - whole["seconds"]).dropna() / 60
    measured = f"{whole['seconds'].min() / 60:.1f} to {whole['seconds'].max() / 60:.1f} minutes"
    if len(saved):
        measured += f", {saved.min():.1f} to {saved.max():.1f} minutes less than unpruned"
    return Finding(bool((whole["seconds"] < TEN_MINUTES).all()), f"{measured}.", note, ids(whole))
