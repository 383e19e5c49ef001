"""What a run says about single predictions: one class as the question, lost and gained, hard images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd
import streamlit as st
from plotly.graph_objects import Figure

from core.networks.architectures import CLASSES
from core.predictions.curves import OPERATING_POINTS, OneAgainstRest
from core.runs import Run
from dashboard import data, training_data, words
from dashboard.charts import predictions as charts
from dashboard.parts import components, prediction_images
from dashboard.parts.training_results import numbered
from dashboard.training_data import Calibration
from jobs.later_jobs import PREDICT

VIEWS = ("One class", "Lost and gained", "Hard images")
DEFINITIONS = (
    "Sensitivity at a specificity: the largest of any threshold with at least this specificity; the reverse alike. "
    "Brier score: mean over images of Σ (p − y)² over the classes, 0 is best, 2 worst. Calibration error: 15 bins of "
    "equally many images by their largest probability, mean distance of accuracy and confidence. AUC and average "
    "precision: 1 is best."
)


def predictions_section(run: Run, trained: pd.DataFrame) -> None:
    """Show the predictions of a run's trained steps, or offer to make them again."""
    names = predicted_names(run, trained)
    if len(names) < len(trained):
        offer_to_predict(run, names)
    if not names:
        return
    view = components.url_choice(
        st.segmented_control, "Predictions", VIEWS, param="show", label_visibility="collapsed", required=True
    )
    if view == "One class":
        one_class(run, names)
    elif view == "Lost and gained":
        prediction_images.lost_and_gained(run, trained, names)
    else:
        prediction_images.hard_images(run)


def predicted_names(run: Run, trained: pd.DataFrame) -> dict[int, str]:
    """Return the names of the trained steps that have predictions, by number."""
    predicted = set(training_data.predicted_steps(run.id)["step"])
    names = dict(zip(map(int, trained["step"]), numbered(trained), strict=True))
    return {step: name for step, name in names.items() if step in predicted}


def offer_to_predict(run: Run, names: Mapping[int, str]) -> None:
    """Say that steps have no predictions, and offer to make them from the kept weights. names: of those that have."""
    st.info(
        f"{'Some steps' if names else 'The steps'} of this run have no predictions of single images: the run is older "
        "than these. The kept weights can predict the images again.",
        icon=":material/query_stats:",
    )
    waits = data.is_under_way(PREDICT, run.id)
    with st.container(horizontal=True, vertical_alignment="center"):
        if waits:
            components.wait_for_job(PREDICT, run.id, "The images are being predicted.")
        components.action_button(
            "Predict again",
            training_data.predict_again,
            run.id,
            done="Queued",
            icon=":material/replay:",
            key="predict_again",
            disabled=waits or not run.ended,
            help=f"Needs a train worker on the host of the weights. `python -m jobs predict {run.id}` does the same.",
        )


@st.fragment
def one_class(run: Run, names: Mapping[int, str]) -> None:
    """Show how well the steps tell one class from the rest, and how far their probabilities can be trusted."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label = components.url_choice(
            st.selectbox, "Class against the rest", CLASSES, param="class", format_func=charts.shown_class
        )
        split = prediction_images.choose_set(training_data.predicted_steps(run.id))
    chosen = st.multiselect(
        "Steps", list(names), default=list(names), format_func=names.__getitem__, key=f"curves_of_{run.id}"
    )
    curves = training_data.class_curves(run.id, split, label)
    calibrations = training_data.calibrations(run.id, split)
    drawn = {names[step]: curves[step] for step in chosen if step in curves}
    reliability = {names[step]: calibrations[step].reliability for step in chosen if step in calibrations}
    depends = (run.id, data.stamp(), split, label, tuple(chosen), components.theme())
    shown = charts.shown_class(label)
    drawings: dict[str, tuple[Callable[[], Figure], str]] = {
        "roc": (
            lambda: charts.roc(drawn, label, theme=components.theme()),
            f"ROC curve of {shown} for each chosen step",
        ),
        "precision_recall": (
            lambda: charts.precision_recall(drawn, label, theme=components.theme()),
            f"Precision against recall of {shown} for each chosen step",
        ),
        "reliability": (
            lambda: charts.reliability(reliability, theme=components.theme()),
            "Accuracy against confidence for each chosen step",
        ),
    }
    with st.grid(3, min_column_width=300):
        for key, (draw, alt) in drawings.items():
            with st.container():
                components.chart(draw, alt=alt, key=key, depends=depends)
    steps = {step: names[step] for step in chosen if step in calibrations}
    components.table(
        class_table(steps, curves, calibrations), alt="Areas, operating points and calibration of each chosen step"
    )
    st.caption(DEFINITIONS)


def class_table(
    names: Mapping[int, str], curves: Mapping[int, OneAgainstRest], calibrations: Mapping[int, Calibration]
) -> pd.DataFrame:
    """Return one row per step as texts: areas, operating points, calibration; a dash where undefined."""
    rows = []
    for step, name in names.items():
        curve, calibration = curves.get(step), calibrations[step]
        row = {
            "Step": name,
            "AUC": words.NONE if curve is None else f"{curve.auc:.4f}",
            "Average precision": words.NONE if curve is None else f"{curve.average_precision:.4f}",
        }
        for what, other in (("sensitivity", "specificity"), ("specificity", "sensitivity")):
            for point in OPERATING_POINTS:
                value = None if curve is None else getattr(curve, f"{what}_at")(point)
                row[f"{what.capitalize()} at {point:g} % {other}"] = words.percent_text(value)
        row |= {"Brier score": f"{calibration.brier:.4f}", "Calibration error": f"{calibration.error:.4f}"}
        rows.append(row)
    return pd.DataFrame(rows)
