"""Prune and train: start trainings and Algorithm 2, watch them epoch by epoch, read and compare what they reached."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.training.specs import TrainSpec, training_spec_from_dict
from dashboard import data, words
from dashboard.forms import measuring as forms
from dashboard.forms import network_choices
from dashboard.forms import training as training_forms
from dashboard.parts import components, run_progress, training_comparison, training_results
from jobs.run_states import RunState

VIEWS = ("Runs", "New run", "Compare")


def show_form() -> None:
    """Turn to the form."""
    st.query_params["tab"] = "New run"


def copy_settings(spec: TrainSpec) -> None:
    """Turn to the form with a run's settings in its fields."""
    forms.set_draft(training_forms.PREFIX, training_forms.draft_of(spec))
    network_choices.warn_of_changes([spec.network])
    show_form()


def nothing_trained() -> None:
    """Say how to come to a first run."""
    st.info("No network has been trained yet.", icon=":material/model_training:")
    st.button("New run", type="primary", icon=":material/add:", on_click=show_form)


def pick_run(states: Sequence[RunState]) -> str:
    """Return the run that the reader chooses."""
    rows = training_comparison.rows()
    by_id = {state.run_id: state for state in states}
    default = next((state.run_id for state in states if state.status in ("running", "finished")), states[0].run_id)
    return components.url_choice(
        st.selectbox,
        "Run",
        list(by_id),
        param="run",
        default=default,
        format_func=lambda run_id: training_comparison.label(by_id[run_id], rows),
    )


def head(row: dict[str, Any], spec: TrainSpec) -> None:
    """Name a run, its data and what it belongs to."""
    with st.container(horizontal=True, vertical_alignment="center"):
        name = words.escaped(words.shortened(row["dataset"], 60))
        made = " :blue-badge[reconstructed]" if row["dataset_source"] else ""
        leaky = " :red-badge[:material/warning: leaky split]" if spec.leaky_split else ""
        synthetic = f" {components.SYNTHETIC}" if row["synthetic"] else ""
        st.markdown(f"**{words.escaped(spec.network.title)}** on **{name}**{made}{synthetic}{leaky}")
        st.button(
            "Use these settings in a new run", icon=":material/edit:", type="tertiary", on_click=copy_settings,
            args=(spec,),
        )  # fmt: skip
        if row["study"]:
            st.button(
                "Compare with the runs of its submission", icon=":material/compare_arrows:", type="tertiary",
                on_click=training_comparison.show_study, args=(row["study"],),
            )  # fmt: skip
    st.caption(words.escaped(f"{spec.settings}, seed {spec.training.seed}"))
    components.own_page_link(row["run_id"], "Settings, versions, command and files of this run")


def run_view(run_id: str) -> None:
    """Show one run, from where it is or what it reached down to single layers."""
    state = data.run_state(run_id)
    row = data.run(run_id)
    if row is None or state is None:
        st.info("This run is being recorded.", icon=":material/hourglass_top:")
        training_results.until_recorded(run_id)
        return
    spec = training_spec_from_dict(data.spec_of(row))
    head(row, spec)
    steps = data.steps(run_id)
    if state.ended:
        run_progress.ended_early(state)
    else:
        training_forms.no_worker()
        training_results.live(run_id, spec, tuple(steps["status"]))
    trained = steps[steps["status"] == "finished"]
    if trained.empty:
        if state.ended:
            st.caption("No step of this run was trained to its end.")
            if len(steps):
                training_results.ladder(steps)
                training_results.step_section(row, spec, steps)
        training_results.log_section(run_id)
        return
    results(row, spec, steps, trained)


def results(row: dict[str, Any], spec: TrainSpec, steps: pd.DataFrame, trained: pd.DataFrame) -> None:
    """Show what the steps of a run reached."""
    depends = (len(trained), str(trained["finished_at"].max()), components.theme())
    training_results.answer(spec, trained)
    training_results.ladder(steps)
    if len(trained) > 1:
        training_results.size_section(row["run_id"], trained, depends)
    training_results.step_section(row, spec, steps)
    if len(steps) > 1:
        training_results.layers_section(row, spec, steps)
    training_results.data_section(row)
    training_results.log_section(row["run_id"])
    training_results.files_section(row)


def view() -> None:
    """Show the view that the address names."""
    chosen = components.url_choice(
        st.segmented_control, "View", list(VIEWS), param="tab", label_visibility="collapsed", required=True
    )
    if chosen == "New run":
        with st.container(border=True):
            training_forms.form()
        return
    states = [state for state in components.run_states() if state.trains]
    if not states:
        nothing_trained()
        training_forms.no_worker()
    elif chosen == "Runs":
        run_view(pick_run(states))
    else:
        training_comparison.compare(states)


with components.sentences():
    view()
