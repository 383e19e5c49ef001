"""Data frames for the pages of training runs, from steps, epochs and specs. No Streamlit, no Plotly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from pandas.api.typing import DataFrameGroupBy

from core.data.splits import SPLITS
from core.networks.architectures import CLASSES, NetworkSpec
from core.networks.costs import layer_table
from core.networks.plain_data import network_from_dict
from core.predictions.intervals import intervals_of_step
from core.specs import labelled, told_apart
from core.store.trainings import ALIKE
from core.training.algorithm2 import State, Step, record
from core.training.specs import CRITERIA, TrainSpec
from core.training.steps import first_state, next_training

FIGURES = (
    "test_accuracy",
    "test_precision",
    "test_recall",
    "macro_precision",
    "macro_recall",
    "balanced_accuracy",
    "validation_accuracy",
    "train_accuracy",
    "seconds",
)
CURVES = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy")

# -- before a run ------------------------------------------------------------------------------------------------------


def step_range(spec: TrainSpec) -> tuple[int, int]:
    """Return the fewest and the most trainings of a run: with every pruned network rejected, and every one accepted."""
    return _trainings(spec, accepted=False), _trainings(spec, accepted=True)


def _trainings(spec: TrainSpec, *, accepted: bool) -> int:
    state: State = first_state(spec)
    while isinstance(step := next_training(spec, state), Step):
        good = accepted or step.index == 0  # the unpruned network counts as accepted
        figures, reason = (dict.fromkeys(CRITERIA, 100.0), "") if good else (None, "taken as rejected")
        state = record(state, step, figures, reason)
    return len(state.outcomes)


def pareto_front(steps: pd.DataFrame, metric: str) -> pd.Series[bool]:
    """Return which steps no other beats: none with at most its parameters and at least its figure, one of them better.

    A step without the figure is never on the front.
    """
    points = list(zip(steps["parameters"], steps[metric].astype("float64"), strict=True))

    def beaten(size: float, figure: float) -> bool:
        return any(
            other_size <= size and other_figure >= figure and (other_size < size or other_figure > figure)
            for other_size, other_figure in points
        )

    on_front = [figure == figure and not beaten(size, figure) for size, figure in points]
    return pd.Series(on_front, index=steps.index, dtype=bool)


def limits(steps: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the 95 % interval of a figure of each step: low and high, NaN for steps without.

    steps: the store's rows. metric: a column of figures, or test_macro_auc.
    """
    found = [intervals_of_step(text).get(metric, (math.nan, math.nan)) for text in steps["classification"]]
    return pd.DataFrame(found, columns=["low", "high"], index=steps.index, dtype="float64")


def layer_sizes(steps: pd.DataFrame, height: int, width: int) -> pd.DataFrame:
    """Return filters or units of each layer that has any: rows are layers, in order, columns the steps' numbers.

    steps: rows of the store's table `steps`, with the network's JSON.
    """
    sizes = {}
    for number, text in zip(steps["step"], steps["network"], strict=True):
        table = layer_table(network_from_dict(json.loads(text)), height, width)
        sized = table[table["size"].notna()]
        sizes[int(number)] = sized.set_index("name")["size"].astype("int64")
    return pd.DataFrame(sizes)


def class_recalls(classification: Mapping[str, Any]) -> pd.DataFrame:
    """Return recall in percent, one row per class and one column per set; classification: of a step, by set."""
    recalls = {split: classification[split]["class_recall"] for split in SPLITS if split in classification}
    return pd.DataFrame(recalls, index=list(CLASSES))


# -- runs beside each other --------------------------------------------------------------------------------------------


def setting_text(value: object) -> str:
    """Return a setting's value in words."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(setting_text, value))
        case NetworkSpec():
            return value.name
        case None:
            return "none"
        case _:
            return str(value)


def differing_settings(specs: Mapping[str, TrainSpec]) -> pd.DataFrame:
    """Return the settings in which runs differ: one row per setting, one column per run, '–' for what a run has not.

    Different networks with the same name differ in the row network layers.
    """
    found = {run_id: {"Kind": spec.kind} for run_id, spec in specs.items()}
    for run_id, spec in specs.items():
        found[run_id] |= {label: setting_text(value) for label, value in labelled(spec)}
    versions = list(dict.fromkeys(spec.network for spec in specs.values()))
    if len({network.name for network in versions}) < len(versions):
        for run_id, spec in specs.items():
            found[run_id]["Layers"] = f"version {versions.index(spec.network) + 1}"
    labels = dict.fromkeys(("Network", "Data set", *(label for texts in found.values() for label in texts)))
    rows = {label: [texts.get(label, "–") for texts in found.values()] for label in labels}
    differing = {label: texts for label, texts in rows.items() if len(set(texts)) > 1}
    return pd.DataFrame.from_dict(differing, orient="index", columns=list(specs))


def over_seeds(steps: pd.DataFrame) -> pd.DataFrame:
    """Average the steps of runs that differ only in their seed: one row per group, in the order of the steps.

    steps: as `Store.trainings` gives them. Columns: `ALIKE`, parameters, n, seeds, then for each of `FIGURES` its
    mean and `<figure>_std`, the sample deviation, missing for n = 1. Of a seed trained twice the later run counts, so
    that n counts seeds.
    """
    once = steps.drop_duplicates([*ALIKE, "seed"], keep="last").astype(dict.fromkeys(FIGURES, "float64"))
    grouped = once.groupby(list(ALIKE), sort=False, dropna=False)
    table = _means(grouped, FIGURES)
    table["parameters"] = grouped["parameters"].first()
    table["seeds"] = grouped["seed"].agg(lambda seeds: ", ".join(map(str, sorted(seeds))))
    return table.reset_index()[[*ALIKE, "parameters", "n", "seeds", *_with_deviations(FIGURES)]]


def curves_over_seeds(epochs: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Average learning curves over seeds: one row per group and epoch, groups as in `over_seeds`.

    epochs: the store's, of the runs of `steps`. Columns: group (a name for legends), epoch, n, and for each of
    `CURVES` its mean and `<curve>_std`. An epoch that fewer seeds have reached is averaged over those.
    """
    once = steps.drop_duplicates([*ALIKE, "seed"], keep="last")
    names = group_names(once)
    ordered = pd.Categorical(names, categories=list(dict.fromkeys(names)))  # groups stay in the order of the steps
    joined = epochs.merge(once[["run_id", "step"]].assign(group=ordered), on=["run_id", "step"])
    table = _means(joined.groupby(["group", "epoch"], observed=True), CURVES).reset_index().astype({"group": "str"})
    return table[["group", "epoch", "n", *_with_deviations(CURVES)]]


def _means(grouped: DataFrameGroupBy[Any, Any], figures: Sequence[str]) -> pd.DataFrame:
    """Return of each group how many rows it has, and of each figure the mean and the sample deviation."""
    table = grouped.size().to_frame("n")
    for figure in figures:
        table[figure] = grouped[figure].mean()
        table[f"{figure}_std"] = grouped[figure].std(ddof=1)
    return table


def _with_deviations(figures: Sequence[str]) -> list[str]:
    return [name for figure in figures for name in (figure, f"{figure}_std")]


def group_names(steps: pd.DataFrame) -> list[str]:
    """Name the group that each step belongs to by what sets the groups apart, network and step at least."""
    varying = [column for column in ("dataset", "version", "settings") if steps[column].nunique() > 1]
    _, own = told_apart(steps["settings"])
    shown = steps.assign(settings=[", ".join(own[key]) for key in steps["settings"]])
    return [
        " · ".join(str(values[column]) for column in ("network", "name", *varying) if values[column])
        for values in shown[list(ALIKE)].to_dict("records")
    ]


def chosen_rows(steps: pd.DataFrame, run_ids: Sequence[str]) -> pd.DataFrame:
    """Return the steps of these runs, in the order of the runs as given."""
    place = {run_id: number for number, run_id in enumerate(run_ids)}
    found = steps[steps["run_id"].isin(place)]
    return found.sort_values(["run_id", "step"], key=lambda each: each.map(place) if each.name == "run_id" else each)
