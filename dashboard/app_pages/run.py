"""One run of any kind by its id: settings, environment, the command that repeats it, results, files and log."""

import difflib
import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.data.splits import SPLITS
from core.runs import Run
from core.store.file import plain_rows
from dashboard import data, words
from dashboard.parts import components, run_progress, verification

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
        components.page_link(
            "datasets", "Its data set", icon=":material/photo_library:", query_params={"dataset": run.dataset}
        )


def training(run: Run) -> None:
    """Show the training run's images and the results of its steps."""
    splits, notes = data.run_splits(run.id), data.training_notes(run.id)
    st.header("Actual images")
    if splits.empty:
        st.caption("Not divided yet.")
    else:
        st.table(splits_table(splits), border="horizontal", alt="Images, lesions and quotas of each class and set")
        st.caption("Images; in brackets lesions, and the images asked for where that is another number.")
    for note in notes:
        st.markdown(f"- {words.escaped(note)}")
    steps = data.steps(run.id)
    st.header("Steps")
    if steps.empty:
        st.caption("No step has begun yet.")
        return
    components.table(
        steps_table(steps),
        alt="The run's steps: verdict, figures, sizes, times, device and worker",
        column_config={
            "Step": st.column_config.TextColumn(pinned=True),
            "Verdict": st.column_config.TextColumn(width="medium"),
        },
    )
    with st.expander("Recall by class, and the confusion matrices", icon=":material/grid_on:"):
        for step in plain_rows(steps[steps["status"] == "finished"]):
            confusion(step)


def splits_table(splits: pd.DataFrame) -> pd.DataFrame:
    """Return classes × sets as text: images, lesions, quota."""
    columns: dict[str, list[str]] = {"Class": list(dict.fromkeys(splits["label"]))}
    parts = {(row["label"], row["split"]): row for row in splits.to_dict("records")}
    for split in SPLITS:
        cells = [parts.get((label, split)) for label in columns["Class"]]
        columns[split.capitalize()] = [words.NONE if part is None else reached(part) for part in cells]
    return pd.DataFrame(columns)


def reached(part: Mapping[Hashable, Any]) -> str:
    """Return how many images a class has in a set."""
    text = f"{part['images']:,} ({words.count_of(int(part['lesions']), 'lesion')}"
    text += f", asked for {part['quota']:,}" if part["quota"] != part["images"] else ""
    text += f", with repeats {part['oversampled']:,}" if part["oversampled"] != part["images"] else ""
    return f"{text})"


def steps_table(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the steps as text."""
    figures = ("train_accuracy", "validation_accuracy", "test_accuracy", "test_precision", "test_recall")
    rows = []
    for step in plain_rows(steps):
        verdict = {True: "accepted", False: f"not accepted: {step['reason']}", None: step["failure"] or step["status"]}
        rows.append(
            {
                "Step": step["name"],
                "Verdict": verdict[step["accepted"]],
                **{f"{name.replace('_', ' ').capitalize()}, %": words.number_text(step[name]) for name in figures},
                "Parameters": words.count_text(step["parameters"]),
                "MACs": words.count_text(step["macs"]),
                "Weights": words.bytes_text(step["weights_bytes"]),
                "Epochs": f"{step['epochs']}, kept {step['kept_epoch']}" if step["kept_epoch"] else str(step["epochs"]),
                "Time": words.duration_text(step["seconds"]),
                "Images/s": words.number_text(step["images_per_second"], 3),
                "Peak memory": words.bytes_text(step["peak_memory"]),
                "Device": step["device"] or words.NONE,
                "Worker": step["worker"] or words.NONE,
            }
        )
    return pd.DataFrame(rows)


def confusion(step: dict[str, Any]) -> None:
    """Show a step's confusion matrix on the test images."""
    found = json.loads(step["classification"])["test"]
    recalls = found["class_recall"]
    table = pd.DataFrame(found["confusion"], columns=[f"as {label}" for label in recalls])
    table.insert(0, "Images of", list(recalls))
    table["Recall"] = [words.percent_text(value) for value in recalls.values()]
    st.markdown(f"**{words.escaped(step['name'])}**, {words.count_of(found['images'], 'test image')}")
    st.table(table, border="horizontal", alt=f"Confusion matrix of {step['name']} on the test images")


def files(run: Run, steps: pd.DataFrame) -> None:
    """Offer rows and weights as downloads; say which host has weights that are not on this one."""
    st.header("Files")
    run_id = run.id
    if run.trains:
        frames = {
            "Steps": lambda: steps,
            "Epochs": lambda: data.store().epochs([run_id]),
            "Sets": lambda: data.run_splits(run_id),
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
            path = data.trained_file(run_id, f"{step['step']}.keras")
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
        about = data.trained_file(run_id, "about.json")
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
    st.header("Facts")
    components.facts(run)
    steps = data.steps(run.id)
    if run.trains:
        training(run)
    else:
        run_progress.left_out_images(run)
        if run.status == "finished":
            st.header("Check")
            verification.check_section(run)
    files(run, steps)
    st.header("Log")
    components.log(run.id)


run_id = st.query_params.get("run")
runs = components.runs()
run = next((each for each in runs if each.id == run_id), None)
with components.sentences():
    if run is None:
        unknown(run_id, runs)
    else:
        show(run)
