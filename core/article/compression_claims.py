"""Judge the article's claims about SVD compression, C01 to C12.

The article prints rounded figures of its own data, so a claim is reproduced where the measurement is close to the
printed figure. The constants are the limits, with their reasons.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from core.article.findings import Finding, Known, NotMeasured
from core.compression.metrics import METRICS_BY_NAME
from core.compression.optimal_k import Curves, RuleParameters, plateau_positions

ARTICLE_K = 350  # the k of the article's figures
ARTICLE_GIGABYTES = 2.72  # 10⁹ bytes: the article's data set
CLAIMED_GIGABYTES = 1.0  # C01: the claimed limit; the ratio is judged, so a part of the data set suffices
RATIO, RATIO_SHARE = 3.77, 0.1  # C02: within a tenth of the printed ratio
SAVED, SAVED_POINTS = 73.0, 2.0  # C03: within two points of the printed percentage
PSNR, PSNR_DECIBELS = 40.0, 2.0  # C05: "about"
FALLS = 1e-3  # C05: dB; a smaller decrease of the mean PSNR from one k to the next does not count
SSIM = {100: 0.97, 450: 0.99}  # C06: printed with two digits
SSIM_DIFFERENCE = 0.01
HU_CORRELATION = 0.9985  # C08: prints as 0.999
SPECTRAL_CORRELATION = 0.985  # C10: prints as 0.99
EXPLAINED = 0.98  # C11
HARALICK_K = 400  # C09: rises above this k
SIZE = "200x100"  # C12, rows × columns
NEEDS_SWEEP = f"a sweep that measured k = {ARTICLE_K}"


def storage_row(known: Known) -> pd.Series:
    """Return the sweep's bytes at the article's k. Raises NotMeasured."""
    if known.storage is not None:
        rows = known.storage[(known.storage["k"] == ARTICLE_K).fillna(False)]
        if len(rows) and pd.notna(rows.iloc[0]["ratio"]):
            return rows.iloc[0]
    raise NotMeasured(NEEDS_SWEEP)


def split(row: pd.Series) -> str:
    """Return the share of re-encoding in a compression ratio, as a sentence."""
    if pd.isna(row["control_ratio"]):
        return "What re-encoding without SVD saves was not measured."
    return (
        f"The same codec without SVD already compresses by {row['control_ratio']:.3f}; SVD multiplies that by "
        f"{row['svd_gain']:.3f}."
    )


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


def means_with_article_k(known: Known, metric: str) -> dict[int, float]:
    """Return a metric's `means`. Raises NotMeasured where the article's k is missing."""
    found = means(known, metric)
    if ARTICLE_K not in found:
        raise NotMeasured(NEEDS_SWEEP)
    return found


def series(values: Mapping[int, float], digits: int) -> str:
    """Return a metric's means as text: 0.9731 (k = 100), 0.9812 (k = 200)."""
    return ", ".join(f"{value:.{digits}f} (k = {k})" for k, value in values.items())


def judge_size(known: Known) -> Finding:
    """C01: the ratio at k = 350 takes 2.72 GB below 1 GB."""
    row = storage_row(known)
    scaled = ARTICLE_GIGABYTES / float(row["ratio"])
    measured = (
        f"{row['source_bytes'] / 1e9:.3g} GB to {row['stored_bytes'] / 1e9:.3g} GB over {int(row['images'])} images; "
        f"at this ratio {ARTICLE_GIGABYTES} GB become {scaled:.2f} GB."
    )
    return Finding(scaled < CLAIMED_GIGABYTES, measured, split(row))


def judge_ratio(known: Known) -> Finding:
    """C02: Σsource/Σstored at k = 350."""
    row = storage_row(known)
    ratio = float(row["ratio"])
    return Finding(abs(ratio - RATIO) <= RATIO_SHARE * RATIO, f"Ratio {ratio:.3f}.", split(row))


def judge_saved(known: Known) -> Finding:
    """C03: the percentage of storage saved at k = 350."""
    row = storage_row(known)
    saved = float(row["saved_percent"])
    return Finding(abs(saved - SAVED) <= SAVED_POINTS, f"{saved:.1f} % saved.", split(row))


def judge_chosen_k(known: Known) -> Finding:
    """C04: the default rule, plateau, chooses k = 350."""
    if known.optimal_k is None or known.optimal_k.empty:
        raise NotMeasured("a sweep and its chosen k")
    chosen = {str(rule): k for rule, k in zip(known.optimal_k["rule"], known.optimal_k["k"], strict=True)}
    measured = ", ".join(f"{rule}: {'no k' if pd.isna(k) else f'k = {int(k)}'}" for rule, k in chosen.items())
    if known.storage is not None and ARTICLE_K not in set(known.storage["k"]):
        return Finding(None, f"Needs {NEEDS_SWEEP}. By rule here: {measured}.")
    if "plateau" not in chosen:
        return Finding(None, f"The rule plateau was not applied; {measured}.")
    holds = bool(pd.notna(chosen["plateau"]) and int(chosen["plateau"]) == ARTICLE_K)
    return Finding(holds, f"By rule: {measured}.", "Judged by the rule plateau.")


def judge_psnr(known: Known) -> Finding:
    """C05: mean PSNR is about 40 dB at k = 350 and does not fall from any k to the next."""
    found = means_with_article_k(known, "psnr")
    rising = bool((np.diff(list(found.values())) > -FALLS).all())
    measured = f"{series(found, 2)} dB{'' if rising else '; it falls between two k'}."
    return Finding(abs(found[ARTICLE_K] - PSNR) <= PSNR_DECIBELS and rising, measured)


def judge_ssim(known: Known) -> Finding:
    """C06: mean SSIM at k = 100 and k = 450."""
    found = means(known, "ssim")
    if not found.keys() >= SSIM.keys():
        raise NotMeasured("a sweep that measured k = 100 and k = 450")
    holds = all(abs(found[k] - printed) <= SSIM_DIFFERENCE for k, printed in SSIM.items())
    return Finding(holds, f"{series(found, 4)}.")


def judge_colour(known: Known) -> Finding:
    """C07: the colour distance reaches its plateau at k = 350 at the latest."""
    found = means(known, "hist_bhattacharyya")
    if ARTICLE_K not in found or len(found) < 2:
        raise NotMeasured(f"{NEEDS_SWEEP} and others")
    unknown = np.full((1, len(found)), np.nan)
    curve = Curves(np.array(list(found)), {"hist_bhattacharyya": np.array([list(found.values())])}, unknown, unknown)
    remaining = RuleParameters().remaining
    plateau = list(found)[int(plateau_positions(curve, "hist_bhattacharyya", remaining)[0])]
    measured = f"{series(found, 5)}; from k = {plateau} on at most {100 * remaining:.0f} % of the improvement remains."
    note = f"It has arrived before k = {ARTICLE_K}, at k = {plateau}." if plateau < ARTICLE_K else ""
    return Finding(plateau <= ARTICLE_K, measured, note)


def judge_every_k(known: Known, metric: str, floor: float) -> Finding:
    """C08, C10: a metric's mean reaches the floor at every k."""
    found = means_with_article_k(known, metric)
    return Finding(min(found.values()) >= floor, f"{series(found, 5)}.")


def judge_haralick(known: Known) -> Finding:
    """C09: the mean distance falls up to k = 400 and is larger at some k above."""
    found = means(known, "haralick_distance")
    until = {k: value for k, value in found.items() if k <= HARALICK_K}
    above = {k: value for k, value in found.items() if k > HARALICK_K}
    if len(until) < 2 or not above:
        raise NotMeasured(f"a sweep that measured k = {HARALICK_K}, smaller and larger ones")
    first, *_, lowest = until.values()
    falls, rises = lowest < first, max(above.values()) > lowest
    words = f"it {'falls' if falls else 'does not fall'} up to {HARALICK_K} and {'rises' if rises else 'does not rise'}"
    return Finding(falls and rises, f"{series(found, 3)}; {words} above.")


def judge_explained(known: Known) -> Finding:
    """C11: mean explained variance at k = 350 is above 98 %."""
    found = {k: 100 * value for k, value in means_with_article_k(known, "explained_variance").items()}
    return Finding(found[ARTICLE_K] > 100 * EXPLAINED, f"{series(found, 4)} percent.")


def judge_best_size(known: Known) -> Finding:
    """C12: of the sizes measured, 200×100 has the fewest pixels and the best mean PSNR, RMSE and SSIM."""
    if known.resize_statistics is None:
        raise NotMeasured("a resize comparison")
    table = known.resize_statistics.pivot_table(index="variant", columns="metric", values="mean", sort=False)
    judged = ("psnr", "rmse", "ssim")
    if SIZE not in table.index or len(table) < 2:
        raise NotMeasured(f"a resize comparison of {SIZE} and other sizes")
    if not set(judged) <= set(table.columns):
        raise NotMeasured("a resize comparison of images that define PSNR, RMSE and SSIM at some size")
    best = {
        metric: str(table[metric].idxmax() if METRICS_BY_NAME[metric].better == "high" else table[metric].idxmin())
        for metric in judged
    }
    pixels = {str(size): np.prod([int(side) for side in str(size).split("x")]) for size in table.index}
    smallest = min(pixels, key=pixels.__getitem__)
    measured = "; ".join(
        f"{METRICS_BY_NAME[metric].label} is best at {size.replace('x', '×')} ({table[metric][size]:.4g})"
        for metric, size in best.items()
    )
    measured += f"; {smallest.replace('x', '×')} has the fewest pixels of {len(table)} sizes."
    return Finding({*best.values(), smallest} == {SIZE}, measured)
