"""Data of diagnoses for the pages: figures of ways, images whose class changes, trainings on compressed images."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from core.compression.image_results import ORIGINAL
from core.compression.specs import DiagnosisSpec, variants
from core.predictions.comparison import changed_classes, compare
from core.predictions.diagnosis import way_figures
from core.runs import Run
from dashboard.data import BY_RESULTS, Stamp, current, store, trainings


@st.cache_data(max_entries=20, show_spinner="Computing the intervals", hash_funcs=BY_RESULTS)
def figures(run: Run) -> pd.DataFrame:
    """Return the figures of each way of a finished run, see `core.predictions.diagnosis.way_figures`."""
    return way_figures(store().diagnoses(run.id), variants(run.told(DiagnosisSpec)))


@st.cache_data(max_entries=50, show_spinner=False, hash_funcs=BY_RESULTS)
def changed(run: Run, variant: str) -> pd.DataFrame:
    """Return the images whose class one way changes, see `core.predictions.comparison.changed_classes`."""
    rows = store().diagnoses(run.id)
    own, original = (rows[rows["variant"] == name] for name in (variant, ORIGINAL))
    return changed_classes(original[original["image_id"].isin(own["image_id"])], own)


@current(10)
def predicting_runs(at: Stamp) -> dict[str, list[int]]:
    """Return the steps with predictions of test images, by training run, the newest run first."""
    runs = [run.id for run in store().runs() if run.trains]
    steps = store().predicted_steps(runs)
    steps = steps[steps["split"] == "test"]
    found = {str(run_id): sorted(map(int, own)) for run_id, own in steps.groupby("run_id")["step"]}
    return {run_id: found[run_id] for run_id in runs if run_id in found}


@current(10)
def trained_on_compressed(at: Stamp, run_id: str, step: int) -> pd.DataFrame:
    """Return the steps of the same network, seed and settings that were trained on a reconstruction of the same images.

    Rows of `data.trainings` with images, difference, difference_low, difference_high and p: of the test accuracy minus
    that of the step itself, on the test images of both.
    """
    trained = trainings()
    own = trained[(trained["run_id"] == run_id) & (trained["step"] == step)]
    if own.empty:
        return trained.iloc[:0]
    first = own.iloc[0]
    same = (trained["version"] == "reconstructed") & (trained["dataset"] != first["dataset"])
    # The unpruned network of a pruning run counts as a training, whatever the rules of pruning.
    settings = "training_settings" if step == 0 else "settings"
    for column in ("network", "seed", "name", "family", settings):
        same &= trained[column] == first[column]
    rows = []
    before = store().predictions([run_id], step=step, split="test")
    for each in trained[same].to_dict("records"):
        after = store().predictions([str(each["run_id"])], step=int(each["step"]), split="test")
        if after.empty or before.empty or not set(after["image_id"]) & set(before["image_id"]):
            continue
        found = compare(after, before)
        apart = found.difference
        values = {"compared": found.images, "difference": apart.value, "difference_low": apart.low}
        rows.append({**each, **values, "difference_high": apart.high, "p": found.p})
    return pd.DataFrame(rows)
