"""The parts of a training run's page below its steps, one at a time; a part that is not chosen computes nothing."""

from __future__ import annotations

import json

import pandas as pd
import streamlit as st

from core.data.splits import SPLITS
from core.runs import Run
from core.training.specs import TrainSpec
from dashboard import training_data
from dashboard.parts import components, prediction_images, predictions, svd_dense, training_results
from dashboard.parts.run_facts import show_log

PARTS = ("Curves", "Predictions", "Confusion", "Layers", "Low rank", "Data", "Log")


def choose_part(names: tuple[str, ...]) -> str:
    """Return the part that the address names and the reader chooses."""
    return components.url_choice(
        st.segmented_control,
        "Part of the run",
        names,
        param="part",
        label_visibility="collapsed",
        required=True,
        dependent=True,
    )


def show_part(part: str, run: Run, spec: TrainSpec, steps: pd.DataFrame) -> None:
    """Show one of `PARTS`. steps: the store's rows of the run."""
    trained = steps[steps["status"] == "finished"]
    if part == "Data":
        training_results.data_section(run.id)
    elif part == "Log":
        show_log(run.id)
    elif steps.empty:
        st.caption("No step has begun yet.")
    elif part == "Curves":
        training_results.curves_section(run, spec, steps)
        if len(trained) > 1:
            depends = (len(trained), str(trained["finished_at"].max()), components.theme())
            training_results.size_section(run.id, trained, depends)
    elif part == "Layers":
        training_results.layers_section(run, spec, steps)
    elif trained.empty:
        st.caption("No step of this run was trained to its end.")
    elif part == "Low rank":
        svd_dense.svd_dense_section(run, trained)
    elif part == "Predictions":
        predictions.predictions_section(run, trained)
    else:
        confusion_section(run, steps)


@st.fragment
def confusion_section(run: Run, steps: pd.DataFrame) -> None:
    """Show the chosen step's confusion matrices, recalls, and the images of one cell."""
    step = training_results.choose_step(steps)
    if not training_results.has_figures(step):
        return
    found = json.loads(step["classification"])
    predicted = training_data.predicted_steps(run.id)
    predicted = predicted[predicted["step"] == step["step"]]
    prediction_images.confusion_matrices({split: found[split]["confusion"] for split in SPLITS}, predicted)
    components.table(training_results.recalls_table(step), alt="Recall of each class on each set")
    st.header("Images of a cell")
    if predicted.empty:
        predictions.offer_to_predict(run, {})
    else:
        st.caption("A click on a cell of the validation or the test set chooses it.")
        prediction_images.cell_images(run, step["step"])
