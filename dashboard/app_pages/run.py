"""One run of any kind by its id: settings, environment, the command that repeats it, results, files and log."""

import difflib
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.runs import Run
from core.store.file import plain_rows
from core.training.specs import TrainSpec
from dashboard import data, training_data, words
from dashboard.parts import components, run_progress, training_parts, training_results, verification
from dashboard.parts.run_facts import facts, show_log

FACTS = "Facts and files"
SIMILAR = 5  # runs that are offered instead of an unknown one


def unknown(run_id: str | None, runs: Sequence[Run]) -> None:
    """Show that there is no such run, and offer similar ones or the newest."""
    known = [run.id for run in runs]
    if run_id:
        got = words.escaped(words.shortened(run_id, 80))
        st.error(f"Expected the id of a run, as in the list of jobs; there is no {got}.", icon=":material/error:")
    else:
        st.info("This page shows one run; its address names it: `run?run=ID`.", icon=":material/tag:")
    near = difflib.get_close_matches(run_id or "", known, SIMILAR, 0.4) or known[:SIMILAR]
    if near:
        st.caption("Did you mean one of these?" if run_id else "The newest:")
    for each in near:
        components.own_page_link(each, each)
    components.page_link("jobs", "All jobs", icon=":material/view_list:")


def head(run: Run) -> None:
    """Show the run's kind, its status, and a link to its results."""
    st.markdown(components.run_title(run, 60))
    st.code(run.id, language=None)
    if run.error:
        st.error(words.sentence(run.error), icon=":material/error:")
    with st.container(horizontal=True):
        components.run_link(run.id, run.kind, "Its results", icon=":material/query_stats:")
        if run.trains:
            components.page_link("tables", "Tables", icon=":material/table_chart:", query_params={"runs": run.id})
            components.page_link("claims", "Claims", icon=":material/rule:")
        named = {"dataset": run.dataset}
        components.page_link("datasets", "Its data set", icon=":material/photo_library:", query_params=named)


def training(run: Run) -> None:
    """Show the training run's results and steps, then one part: its facts, or a part that the results' page has too."""
    spec, steps = run.told(TrainSpec), training_data.steps(run.id)
    trained = steps[steps["status"] == "finished"]
    if len(trained):
        training_results.answer(spec, trained)
    if steps.empty:
        st.caption("No step has begun yet.")
    else:
        training_results.ladder(steps)
    part = training_parts.choose_part((FACTS, *training_parts.PARTS))
    if part == FACTS:
        facts(run)
        files(run, steps)
    else:
        training_parts.show_part(part, run, spec, steps)


def files(run: Run, steps: pd.DataFrame) -> None:
    """Offer rows and weights as downloads; say which host has weights that are not on this one."""
    st.header("Files")
    run_id = run.id
    if run.trains:
        frames = {
            "Steps": lambda: steps,
            "Epochs": lambda: data.store().epochs([run_id]),
            "Sets": lambda: training_data.run_splits(run_id),
        }
    else:
        frames = {
            "Statistics": lambda: data.statistics(run),
            "Sizes": lambda: data.storage(run),
            "Every image": lambda: data.store().measurements(run_id),
        }
    components.downloads(run_id, frames, key="rows")
    if not run.trains:
        return
    elsewhere = []
    with st.container(horizontal=True):
        for step in plain_rows(steps):
            if step["weights"] is None:
                continue
            path = training_data.trained_file(run_id, f"{step['step']}.keras")
            if path is None:
                elsewhere.append(f"{step['name']}: {step['weights']}, on the host of worker {step['worker']}")
                continue
            components.download(
                f"Weights of {words.escaped(step['name'])}, {words.bytes_text(path.stat().st_size)}",
                data=path.read_bytes,
                file_name=f"{run_id}-{path.name}",
                mime="application/octet-stream",
                key=f"weights_{step['step']}",
            )
        about = training_data.trained_file(run_id, "about.json")
        if about is not None:
            components.download(
                "What the weights need to be used",
                data=about.read_bytes,
                file_name=f"{run_id}-about.json",
                mime="application/json",
                key="about",
                help="The run's spec, how metadata become numbers, and the sets.",
            )
    if elsewhere:
        st.caption("These weights are not on this host:")
        for text in elsewhere:
            st.caption(words.escaped(text))


def show(run: Run) -> None:
    """Show one run from its id down to its log."""
    head(run)
    if not run.ended:
        run_progress.live_progress(run.id)
    if not data.is_recorded(run.id):
        st.info("This run is being recorded.", icon=":material/hourglass_top:")
        return
    if run.trains:
        training(run)
        return
    st.header("Facts")
    facts(run)
    run_progress.left_out_images(run)
    if run.status == "finished":
        st.header("Check")
        verification.check_section(run)
    files(run, training_data.steps(run.id))
    st.header("Log")
    show_log(run.id)


run_id = st.query_params.get("run")
runs = components.runs()
run = next((each for each in runs if each.id == run_id), None)
with components.sentences():
    if run is None:
        unknown(run_id, runs)
    else:
        show(run)
