"""The results of a study of the article: its headline figures beside the printed ones, as a frame and as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from core.article.compression_claims import ARTICLE_K, RATIO
from core.article.plan import FINISHED, ORIGINALS, PRUNING, Progress
from core.article.printed import table as printed_table
from core.article.tables import INTERVALS, VERSIONS
from core.predictions.intervals import interval_text
from core.training.algorithm2 import ORIGINAL

COLUMNS = (
    *("run_id", "network", "version", "seed", "state", "trainings", "test_accuracy", "printed", "difference"),
    *("accepted", "smallest", "share", "smallest_accuracy", "seconds", "interval", "smallest_interval"),
)


def training_figures(progress: Progress, trained: pd.DataFrame) -> pd.DataFrame:
    """Return one row per training run of the study with a finished step, in the plan's order; columns `COLUMNS`.

    trained: `core.article.evidence.trainings`. test_accuracy: of the unpruned network, in percent; printed: the
    article's, Table 5; difference: in points. accepted: pruned networks that were. smallest: the name of the smallest
    accepted network, share: percent of the unpruned network's parameters. seconds: of all trainings. interval,
    smallest_interval: of both accuracies, 95 %. Missing where there is none.
    """
    printed = printed_table(5).set_index(["network", "version"])["test_accuracy"]
    rows = []
    for each in progress.parts:
        if each.part.network is None or each.run is None:
            continue
        steps = trained[trained["run_id"] == each.run.id].sort_values("step")
        if steps.empty:
            continue
        version = VERSIONS[each.part.stage == PRUNING]
        unpruned = steps[steps["name"] == ORIGINAL]
        first = unpruned.iloc[0] if len(unpruned) else None
        article = printed.get((each.part.network.name, version))
        reached = None if first is None else float(first["test_accuracy"])
        rows.append(
            {
                "run_id": each.run.id,
                "network": each.part.network.name,
                "version": version,
                "seed": each.part.seed,
                "state": each.state,
                "trainings": len(steps),
                "test_accuracy": reached,
                "printed": article,
                "difference": None if reached is None or article is None else reached - article,
                "seconds": float(steps["seconds"].sum()),
                "interval": None if first is None else first[INTERVALS].get("test_accuracy"),
                **(_smallest(steps, first) if each.part.stage == PRUNING else {}),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _smallest(steps: pd.DataFrame, unpruned: Mapping[str, Any] | pd.Series | None) -> dict[str, Any]:
    """Return the number of accepted pruned networks and the smallest of them."""
    kept = steps[(steps["step"] > 0) & steps["accepted"].astype("boolean").fillna(False).astype(bool)]
    if kept.empty or unpruned is None:
        return {"accepted": len(kept)}
    best = kept.sort_values("parameters", kind="stable").iloc[0]
    return {
        "accepted": len(kept),
        "smallest": best["name"],
        "share": 100 * float(best["parameters"]) / float(unpruned["parameters"]),
        "smallest_accuracy": float(best["test_accuracy"]),
        "smallest_interval": best[INTERVALS].get("test_accuracy"),
    }


def compression_sentence(k: int | None, storage: pd.DataFrame) -> str:
    """Return the chosen k and the storage that it saves, beside the article's. storage: the sweep's sizes."""
    if k is None:
        return "No k has been chosen yet. The article uses 350."
    text = f"k* = {k}, in the article {ARTICLE_K}."
    at = storage[storage["k"] == k] if len(storage) else storage
    if at.empty or pd.isna(at.iloc[0]["ratio"]):
        return text
    row = at.iloc[0]
    return (
        f"{text} Files become {row['ratio']:.2f} times smaller, {row['control_ratio']:.2f} times by re-encoding alone; "
        f"in the article {RATIO:g} in total."
    )


def accuracy_sentences(figures: pd.DataFrame) -> list[str]:
    """Return a sentence per network about its test accuracy and pruning. figures: `training_figures`."""
    sentences = []
    for network, rows in figures.groupby("network", sort=False):
        parts = []
        for version in VERSIONS:
            of_version = rows[(rows["version"] == version) & rows["test_accuracy"].notna()]
            if len(of_version):
                printed = of_version["printed"].iloc[0]
                beside = "" if pd.isna(printed) else f" (article {printed:.2f})"
                limits = of_version["interval"].iloc[0] if len(of_version) == 1 else None
                reached = f"{of_version['test_accuracy'].mean():.2f} % {interval_text(limits)}".rstrip()
                parts.append(f"{reached} on {version} images{beside}")
        kept = rows[rows["share"].notna()]
        if len(kept):
            best = kept.sort_values("share").iloc[0]
            parts.append(f"pruned to {best['share']:.1f} % of its parameters, {best['smallest_accuracy']:.2f} %")
        elif ((rows["version"] == VERSIONS[1]) & (rows["state"] == FINISHED)).any():
            parts.append("no pruned network accepted")
        if parts:
            sentences.append(f"{network}: {'; '.join(parts)}.")
    return sentences


def study_runs(progress: Progress, *stages: str) -> list[str]:
    """Return the ids of a study's runs, of some stages or of all, in the plan's order."""
    return [
        each.run.id for each in progress.parts if each.run is not None and (not stages or each.part.stage in stages)
    ]


def training_runs(progress: Progress) -> Sequence[str]:
    """Return the ids of a study's trainings."""
    return study_runs(progress, ORIGINALS, PRUNING)
