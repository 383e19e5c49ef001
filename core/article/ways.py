"""Ways to a smaller network, compared at equal total epochs.

The article trains each pruned network from scratch, which is called naive here. A network can also begin with weights
of the larger one, be taught by it, or be made of it without training. Total epochs are those of the network and of all
networks that it inherits from or learns from: an unpruned network of 40 epochs whose pruned one inherits and is trained
for 20 more has 60 in total; a pruned one that was trained from scratch for 40 epochs has 40.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from core.article.table_formats import intervals_of
from core.article.tables import DISTIL, INT8, INTERVALS, SVD_DENSE, UNPRUNED, MeasuredTable, way_kind
from core.deployment import formats
from core.networks.factoring import factored_name
from core.networks.inheritance import L1, RANDOM, SCRATCH
from core.predictions.comparison import compare
from core.predictions.intervals import interval_text, intervals_of_step
from core.specs import SettingsKey
from core.store.measurements import Store

ALIKE = ("network", "dataset", "way_settings", "seed", "total_epochs")  # what two compared networks share
SAME_NETWORK = ("name", "parameters", "macs")
INHERITING = (L1, RANDOM)
MADE = (
    "step",
    "parameters",
    "macs",
    "bytes_weights",
    "test_accuracy",
    "difference",
    "difference_low",
    "difference_high",
)


def ways(store: Store, trained: pd.DataFrame) -> pd.DataFrame:
    """Return one row per trained network and per network made of one without training.

    trained: as `core.article.evidence.trainings` gives it. Further columns: way; total_epochs; naive, the accuracy of
    the network that was trained from scratch, minus this one's, at equal total epochs, in points, with its interval
    among `intervals`; naive_parameters, of that network. Missing where there is none.
    """
    rows = trained.assign(way="", total_epochs=0, predicted=None)
    rows["way"] = [way_of(step, key) for step, key in zip(rows["step"], rows["settings"], strict=True)]
    for _, run in rows.groupby("run_id"):
        rows.loc[run.index, "total_epochs"] = totals(run)
    made = [source(store, rows) for source in SOURCES]
    rows = pd.concat([rows, *(each for each in made if len(each))], ignore_index=True)
    rows.loc[rows["way"] == UNPRUNED, "difference"] = 0.0
    rows[INTERVALS] = [
        found | ({} if pd.isna(low) else {"difference": (low, high)})
        for found, low, high in zip(rows[INTERVALS], rows["difference_low"], rows["difference_high"], strict=True)
    ]
    return beside_naive(store, rows)


def way_of(step: int, settings: SettingsKey) -> str:
    """Return the way by which a step of a run with these settings came about."""
    if step == 0:
        return UNPRUNED
    values = dict(settings.values)
    initialise = str(values.get("rules.initialise", SCRATCH))
    if not values.get("rules.distil"):
        return initialise
    further = [
        f"{name} {values[path]:g}"
        for name, path in (("temperature", "rules.temperature"), ("weight", "rules.teacher_weight"))
        if path in values
    ]
    return ", ".join([DISTIL, *([] if initialise == SCRATCH else [initialise]), *further])


def made_of(made: str, way: str) -> str:
    """Return the way of a network that was made of one of another way: `int8 of l1`; `int8` of one from scratch."""
    return made if way in (UNPRUNED, SCRATCH) else f"{made} of {way}"


def totals(run: pd.DataFrame) -> list[int]:
    """Return the total epochs of each step of a run; run: its rows in the order of the steps."""
    found: list[int] = []
    factors = [json.loads(text) for text in run["factors"]]
    for place, (way, epochs) in enumerate(zip(run["way"], run["epochs"], strict=True)):
        before = 0
        if any(each in way for each in INHERITING):
            before = found[max((at for at in range(place) if factors[at] == factors[place][:-1]), default=0)]
        elif DISTIL in way:
            before = found[0]
        found.append(before + int(epochs))
    return found


def factored(store: Store, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the networks of trainings with dense layers of low rank, as rows of `ways`."""
    made = store.svd_dense(list(rows["run_id"].unique()))
    kept = rows.drop(columns=[*(name for name in MADE if name != "step"), "predicted"])
    further = ["energy", "fine_tune_epochs", "classification", "predicted"]
    found = made[["run_id", *MADE, *further]].merge(kept, on=["run_id", "step"])
    found["way"] = [
        made_of(f"{SVD_DENSE} {factored_name(*each)}", way)
        for *each, way in zip(found["energy"], found["fine_tune_epochs"], found["way"], strict=True)
    ]
    found["total_epochs"] += found["fine_tune_epochs"]
    found[INTERVALS] = pd.Series(map(intervals_of_step, found["classification"]), index=found.index, dtype=object)
    return found[list(rows.columns)]


def quantised(store: Store, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the networks of trainings whose numbers have 8 bits, as rows of `ways`; bytes_weights: of the file.

    A conversion records no answers on single images, so nothing about it is paired.
    """
    made = store.conversions(list(rows["run_id"].unique()))
    made = made[(made["format"] == formats.INT8) & (made["failure"] == "") & made["accuracy_low"].notna()]
    ends = ["accuracy_low", "accuracy_high"]
    found = made[["run_id", "step", "bytes", "accuracy", *ends]].merge(rows, on=["run_id", "step"])
    found["way"] = [made_of(INT8, way) for way in found["way"]]
    found = found.assign(bytes_weights=found["bytes"], test_accuracy=found["accuracy"])
    found[["difference", "difference_low", "difference_high"]] = math.nan
    limits = [{"test_accuracy": pair} for pair in found[ends].itertuples(index=False, name=None)]
    found[INTERVALS] = pd.Series(limits, index=found.index, dtype=object)
    return found[list(rows.columns)]


# Where the networks come from that are made of trained ones: each takes the rows of trainings and returns such rows.
SOURCES: tuple[Callable[[Store, pd.DataFrame], pd.DataFrame], ...] = (factored, quantised)


def beside_naive(store: Store, rows: pd.DataFrame) -> pd.DataFrame:
    """Compare each row with the network that was trained from scratch with equal total epochs and the same seed."""
    naive = rows[rows["way"] == SCRATCH]
    found = {place: other for place in rows.index if (other := partner_of(rows.loc[place], naive)) is not None}
    needed = list({str(rows.loc[each, "run_id"]) for pair in found.items() for each in pair})
    predictions = store.predictions(needed, split="test")
    tested = {(str(run), int(str(step))): each for (run, step), each in predictions.groupby(["run_id", "step"])}
    compared = rows.assign(naive=math.nan, naive_parameters=math.nan)
    for place, other in found.items():
        first, second = (answers(tested, rows.loc[each]) for each in (other, place))
        if first is None or second is None or not first["image_id"].isin(second["image_id"]).any():
            continue
        apart = compare(first, second).difference
        compared.loc[place, "naive"] = apart.value
        compared.loc[place, "naive_parameters"] = rows.loc[other, "parameters"]
        compared.loc[place, INTERVALS]["naive"] = (apart.low, apart.high)
    return compared


def partner_of(row: pd.Series[Any], naive: pd.DataFrame) -> Any:
    """Return the place of the network from scratch that a row is compared with, the newest; None without one.

    The same network; for one that was made without training, which is no pruned network, the nearest in parameters.
    """
    if way_kind(row["way"]) in (UNPRUNED, SCRATCH, INT8):
        return None
    made = row["way"].startswith(SVD_DENSE)
    for name in (*ALIKE, *(() if made else SAME_NETWORK)):
        naive = naive[naive[name] == row[name]]
    if made and len(naive):
        ratio = [max(each / row["parameters"], row["parameters"] / each) for each in naive["parameters"]]
        naive = naive[[each == min(ratio) for each in ratio]]
    return naive.index[-1] if len(naive) else None


def answers(tested: Mapping[tuple[str, int], pd.DataFrame], row: pd.Series[Any]) -> pd.DataFrame | None:
    """Return the predictions of a row on the test images; None where they are unknown."""
    found = tested.get((row["run_id"], row["step"]))
    if found is None or not isinstance(row["predicted"], str):
        return found
    own = found["image_id"].map(json.loads(row["predicted"]))
    return found.assign(predicted=own)[own.notna()]


def naive_sentences(table: MeasuredTable, network: str | None = None) -> list[str]:
    """Say for each row that can be compared by how much the article's way is better or worse than the row's.

    table: of ways, with intervals. network: its rows alone.
    """
    rows = table.rows[table.rows["naive_count"] > 0]
    found = [naive_sentence(row) for _, row in rows.iterrows() if network in (None, row["network"])]
    return found or [
        "No two ways have equal total epochs with the same seed on the same images, so none is compared with the "
        "article's, training from scratch."
    ]


def naive_sentence(row: pd.Series[Any]) -> str:
    """Say by how much the article's way is better or worse than that of a row, with the interval of each run."""
    points, limits = row["naive"], [each for each in intervals_of(row, "naive") if each is not None]
    verdict = f"{abs(points):.2f} points {'better' if points > 0 else 'worse'} than" if points else "as good as"
    parameters = f"{row['parameters']:,.0f} parameters"
    if row["naive_parameters"] != row["parameters"]:
        parameters = f"{row['naive_parameters']:,.0f} against {parameters}"
    texts = " ".join(interval_text(each, "+") for each in limits)
    apart = sum(low > 0 or high < 0 for low, high in limits)
    if len(limits) == 1:
        evidence = f"{texts}; the interval {'excludes' if apart else 'includes'} 0"
    else:
        evidence = f"in the mean of {len(limits)} seeds {texts}; {apart} of {len(limits)} intervals exclude 0"
    return (
        f"{row['network']}, {row['name']}, {row['total_epochs']} total epochs, {parameters}: training from scratch, "
        f"the article's way, is {verdict} {row['way']} {evidence}."
    )
