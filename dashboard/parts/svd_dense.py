"""What a trained network is worth with dense layers of low rank: a table and a curve against the energy kept."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from core.networks.factoring import factored_name
from core.predictions.intervals import intervals_of_step
from core.runs import Run
from core.store.file import plain_rows
from dashboard import data, training_data, words
from dashboard.charts import training as training_charts
from dashboard.parts import components, training_results
from jobs.later_jobs import SVD_DENSE

ITSELF = "itself"


@st.fragment
def svd_dense_section(run: Run, trained: pd.DataFrame) -> None:
    """Show the chosen step's network at each energy, or offer to factor its dense layers."""
    step = training_results.choose_step(trained)
    found = training_data.svd_dense(run.id)
    found = found[found["step"] == step["step"]]
    st.caption(
        "Each dense layer of the image branch becomes two of rank r by singular value decomposition, without new "
        "training. Energy: the share of the squared singular values that each layer keeps; where epochs are given, the "
        "network was trained for these afterwards. Agreement: test images that get the same class as from the network "
        "itself. Latency: one image, LiteRT float32, one thread. In square brackets: 95 % intervals."
    )
    offer(run, step["step"], again=len(found) > 0)
    if found.empty:
        return
    points = curve(found, step)
    components.chart(
        lambda: training_charts.energy_curve(points, theme=components.theme()),
        alt="Test accuracy, parameters and latency of the network at each energy and of the network itself",
        key="energy_curve",
        depends=(run.id, step["step"], str(found["computed_at"].max()), components.theme()),
    )
    components.table(table(found, step), alt="Size, test accuracy, agreement and latency at each energy")
    components.downloads(run.id, {"Low rank": lambda: training_data.svd_dense(run.id)}, key="svd_dense")


def offer(run: Run, step: int, *, again: bool) -> None:
    """Offer to factor the dense layers of a step's network. again: whether it was done before."""
    waits = data.is_under_way(SVD_DENSE, run.id)
    if waits:
        components.wait_for_job(SVD_DENSE, run.id, "The dense layers are being factored and tested.")
    epochs, timed, button = st.columns((2, 2, 3), vertical_alignment="bottom")
    fine_tune_epochs = epochs.number_input(
        "Fine-tuning epochs", min_value=0, value=0, key="fine_tune_epochs", help="0: without new training."
    )
    latency = timed.toggle("Measure the latency", key="factor_latency", help="Takes some 10 s more for each network.")
    with button:
        factor_button(run, step, int(fine_tune_epochs), latency, again=again, waits=waits)


def factor_button(run: Run, step: int, fine_tune_epochs: int, latency: bool, *, again: bool, waits: bool) -> None:
    """Show the button that queues the job. waits: whether one is under way."""
    further = f" --fine-tune-epochs {fine_tune_epochs}" if fine_tune_epochs else ""
    further += " --latency" if latency else ""
    components.action_button(
        "Factor the dense layers again" if again else "Factor the dense layers",
        training_data.factor_dense,
        run.id,
        step,
        fine_tune_epochs,
        latency,
        done="Queued",
        icon=":material/view_column:",
        key="factor_dense",
        disabled=waits or not run.ended,
        help="Needs a train worker on the host of the weights. "
        f"`python -m jobs svd-dense {run.id} --step {step}{further}` does the same and takes other energies.",
    )


def curve(found: pd.DataFrame, step: dict[str, Any]) -> pd.DataFrame:
    """Return the points of the chart: each energy, then the network itself."""
    points = []
    for row in [*plain_rows(found), itself(found, step)]:
        low, high = limits(row) or (None, None)
        name, epochs = (f"{row['energy']:g} %", row["fine_tune_epochs"]) if "energy" in row else (ITSELF, 0)
        points.append((name, epochs, row["test_accuracy"], low, high, row["parameters"], row["latency"]))
    columns = ["name", "epochs", "test_accuracy", "low", "high", "parameters", "latency"]
    numbers = ("test_accuracy", "low", "high", "latency")
    return pd.DataFrame(points, columns=columns).astype(dict.fromkeys(numbers, "float64"))


def itself(found: pd.DataFrame, step: dict[str, Any]) -> dict[str, Any]:
    """Return the network itself as one more row; its latency is the newest."""
    timed = found.dropna(subset="latency_itself").sort_values("computed_at")
    return {**step, "latency": None if timed.empty else timed["latency_itself"].iloc[-1]}


def name_of(row: dict[str, Any]) -> str:
    """Return what a row is called: its energy, and for how long it was trained."""
    return factored_name(row["energy"], row["fine_tune_epochs"]) if "energy" in row else ITSELF


def limits(row: dict[str, Any]) -> tuple[float, float] | None:
    """Return the interval of the test accuracy of a row with a classification."""
    return intervals_of_step(row["classification"]).get("test_accuracy")


def table(found: pd.DataFrame, step: dict[str, Any]) -> pd.DataFrame:
    """Return one row per energy, and one for the network itself."""
    rows = []
    for row in [*plain_rows(found), itself(found, step)]:
        share = 100 * row["parameters"] / step["parameters"]
        rows.append(
            {
                "Energy": name_of(row),
                "Parameters": words.count_text(row["parameters"]),
                "Of the network": words.percent_text(share),
                "Weights": words.bytes_text(row["bytes_weights"]),
                "MACs per image": words.count_text(row["macs"]),
                "Test accuracy": words.figure_text(row["test_accuracy"], limits(row)),
                "Agreement": words.NONE if name_of(row) == ITSELF else words.percent_text(row["agreement"], 2),
                "Latency": words.NONE if row["latency"] is None else f"{row['latency']:.2f} ms",
                "Against unpruned": training_results.difference_text(row),
            }
        )
    return pd.DataFrame(rows)
