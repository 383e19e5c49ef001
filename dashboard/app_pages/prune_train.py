"""Prune and train: start trainings and Algorithm 2, watch them epoch by epoch, read and compare what they reached."""

import streamlit as st

from core.runs import Run
from core.training.specs import TrainSpec
from dashboard import data, training_data, words
from dashboard.forms import network_choices
from dashboard.forms import training as training_forms
from dashboard.parts import components, run_progress, training_comparison, training_parts, training_results

VIEWS = ("Runs", "New run", "Compare")


def show_form() -> None:
    """Open the form."""
    st.query_params["tab"] = "New run"


def copy_settings(spec: TrainSpec) -> None:
    """Open the form with a run's settings in its fields."""
    training_forms.FORM.put(training_forms.draft_of(spec))
    network_choices.warn_of_changes([spec.network])
    show_form()


def nothing_trained() -> None:
    """Show how to start a first run."""
    st.info("No network has been trained yet.", icon=":material/model_training:")
    st.button("New run", type="primary", icon=":material/add:", on_click=show_form)


def head(run: Run, spec: TrainSpec) -> None:
    """Name a run, its data and what it belongs to."""
    with st.container(horizontal=True, vertical_alignment="center"):
        made = " :blue-badge[reconstructed]" if run.source else ""
        leaky = " :red-badge[:material/warning: leaky split]" if spec.leaky_split else ""
        st.markdown(f"**{words.escaped(spec.network.title)}** on {components.dataset_text(run)}{made}{leaky}")
        components.copy_button("run", copy_settings, spec)
        if run.study:
            st.button(
                "Compare with the runs of its submission", icon=":material/compare_arrows:", type="tertiary",
                on_click=training_comparison.show_study, args=(run.study,),
            )  # fmt: skip
        components.own_page_link(run.id, "Settings, versions, command and files of this run")
    st.caption(words.escaped(f"{spec.settings}, seed {spec.training.seed}"))


def run_view(run: Run) -> None:
    """Show one run, from where it is or what it reached down to single layers."""
    if not data.is_recorded(run.id):
        st.info("This run is being recorded.", icon=":material/hourglass_top:")
        components.rerun_once(lambda: data.is_recorded(run.id))
        return
    spec = run.told(TrainSpec)
    head(run, spec)
    steps = training_data.steps(run.id)
    if run.ended:
        run_progress.ended_early(run)
    else:
        training_forms.no_worker()
        training_results.live(run.id, spec, tuple(steps["status"]))
    trained = steps[steps["status"] == "finished"]
    if len(trained):
        training_results.answer(spec, trained)
    elif run.ended:
        st.caption("No step of this run was trained to its end.")
    begun = len(trained) > 0 or (run.ended and len(steps) > 0)
    if begun:
        training_results.ladder(steps)
    part = training_parts.choose_part(training_parts.PARTS if begun else ("Data", "Log"))
    training_parts.show_part(part, run, spec, steps)
    if len(trained):
        training_results.files_section(run)


def view() -> None:
    """Show the view that the address names."""
    chosen = components.view(VIEWS)
    if chosen == "New run":
        with st.container(border=True):
            training_forms.form()
        return
    runs = [run for run in components.runs() if run.trains]
    if not runs:
        nothing_trained()
        training_forms.no_worker()
    elif chosen == "Runs":
        default = next((run.id for run in runs if run.status in ("running", "finished")), None)
        run_view(components.choose_run(runs, "Run", param="run", default=default, name=training_comparison.label))
    else:
        training_comparison.compare(runs)


with components.sentences():
    view()
