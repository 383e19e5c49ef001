"""What runs, what finished last, and the headline figures with the run behind each."""

from collections.abc import Sequence
from typing import NamedTuple

import streamlit as st

from core.compression.optimal_k import DEFAULT_RULE
from core.compression.specs import SweepSpec
from core.predictions.intervals import interval_text, intervals_of_step
from core.runs import Run
from core.training.specs import PruneTrainSpec
from dashboard import data, training_data, words
from dashboard.parts import components, run_progress

RECENT = 6


def next_steps(has_dataset: bool) -> None:
    """Show what to do where nothing has been measured."""
    with st.container(border=True):
        st.header("Next steps")
        st.markdown(
            "DermSlim measures what keeping only the *k* largest singular values does to photographs of skin "
            "lesions, and to the space that they take."
        )
        mark = ":material/check_circle:" if has_dataset else ":material/counter_1:"
        st.markdown(f"{mark} **Register a data set**: HAM10000, one folder per class, or any folder of images.")
        components.page_link("datasets", "Data sets", icon=":material/photo_library:")
        st.markdown(
            ":material/counter_2: **Start an SVD sweep** on it. The quick preset takes a few minutes; watch it being "
            "measured, then read which k it chooses and why."
        )
        components.page_link("sweeps", "SVD sweeps", icon=":material/query_stats:")
        st.markdown(":material/counter_3: **Look at single images** at any k, also before a sweep.")
        components.page_link("inspector", "Image inspector", icon=":material/compare:")
        st.caption("You have no images? `make demo` creates a synthetic data set and measures it.")


@st.fragment(run_every=2)
@components.said
def under_way(known: tuple[str, ...]) -> None:
    """Show what runs; draw the page again when something starts or ends."""
    active = [run for run in components.runs() if not run.ended]
    if tuple(run.id for run in active) != known:
        st.rerun(scope="app")
    if not active:
        return
    st.header("Running now")
    for run in active:
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(components.run_title(run))
                components.run_link(run.id, run.kind, "Watch it", icon=":material/visibility:")
            run_progress.progress_bar(run)


def headline(run: Run) -> None:
    """Show the figures of the sweep that finished last."""
    rules = data.optimal_k(run)
    storage = data.storage(run)
    chosen = rules[rules["rule"] == DEFAULT_RULE]
    rule = data.plain_row(chosen.iloc[0]) if len(chosen) else None
    k = rule["k"] if rule else None
    at = storage[storage["k"] == k] if k is not None else storage.tail(1)
    if at.empty:
        return
    sizes = data.plain_row(at.iloc[0])
    spec = run.told(SweepSpec)
    st.header("Headline figures")
    st.markdown(
        f"The sweep that finished last, {words.ago_text(run.finished_at)}, measured "
        f"{words.count_of(int(sizes['images']), 'image')} of {components.dataset_text(run)}"
    )
    codec = words.codec_text(spec.codec, spec.quality)
    figures = [
        Figure("k\\*, plateau rule", words.count_text(k), words.escaped((rule or {}).get("reason", ""))),
        Figure("Source / stored", words.ratio_text(sizes["ratio"]), "Bytes of source files over bytes as stored."),
        Figure(f"{codec} alone", words.ratio_text(sizes["control_ratio"]), "The same files re-encoded without SVD."),
        Figure("SVD adds", words.gain_text(sizes["svd_gain"]), "Ratio with SVD over the ratio without it, minus one."),
        Figure("Storage saved", words.percent_text(sizes["saved_percent"]), "1 − stored/source."),
    ]
    show_figures(run, figures)
    for sentence in words.storage_sentences(sizes, spec)[:2]:
        st.markdown(sentence)


def smallest_network(run: Run) -> None:
    """Show what pruning left in the prune-train run that finished last: the smallest accepted network."""
    steps = training_data.steps(run.id)
    steps = steps[steps["status"] == "finished"]
    if steps.empty:
        return
    unpruned = data.plain_row(steps.iloc[0])
    pruned = steps[(steps["step"] > 0) & (steps["accepted"] == True)]  # noqa: E712 - three-valued
    smallest = data.plain_row(pruned.sort_values("parameters").iloc[0]) if len(pruned) else unpruned
    st.header("Smallest accepted network")
    st.markdown(
        f"The pruning that finished last, {words.ago_text(run.finished_at)}, took "
        f"**{words.escaped(run.told(PruneTrainSpec).network.name)}** on {components.dataset_text(run)} through "
        f"{words.count_of(len(steps) - 1, 'pruned network')}, of which {len(pruned)} "
        f"{'was' if len(pruned) == 1 else 'were'} accepted"
        + (f". The smallest is **{words.escaped(smallest['name'])}**" if len(pruned) else "")
    )
    left = words.percent_text(100 * smallest["parameters"] / unpruned["parameters"])
    accuracy, before = smallest["test_accuracy"], unpruned["test_accuracy"]
    comparable = len(pruned) > 0 and words.known(accuracy) and words.known(before)
    points = f"{accuracy - before:+.1f} points" if comparable else None
    limits = [interval_text(intervals_of_step(step["classification"]).get("test_accuracy")) or None
              for step in (smallest, unpruned)]  # fmt: skip
    figures = [
        Figure("Parameters left", left, f"{smallest['parameters']:,} of {unpruned['parameters']:,}."),
        Figure(
            "Test accuracy",
            words.percent_text(accuracy, 2),
            "Below it the difference to the unpruned network, and the 95 % interval of the accuracy.",
            points,
            limits[0],
        ),
        Figure(
            "Unpruned",
            words.percent_text(before, 2),
            "Test accuracy of the network that was pruned, and its 95 % interval.",
            interval=limits[1],
        ),
    ]
    show_figures(run, figures)


class Figure(NamedTuple):
    """A headline figure."""

    label: str
    value: str
    help: str
    difference: str | None = None
    interval: str | None = None


def show_figures(run: Run, figures: Sequence[Figure]) -> None:
    """Show figures of a run with one link to the run."""
    with st.grid(len(figures), min_column_width=150):
        for each in figures:
            st.metric(
                each.label, each.value, each.difference, help=each.help, border=True, delta_description=each.interval
            )
    components.run_link(run.id, run.kind, "Open the run", icon=":material/arrow_forward:")


def finished_last(ended: list[Run]) -> None:
    """List the runs that ended last."""
    st.header("Recently finished")
    for run in ended[:RECENT]:
        with st.container(border=True), st.container(horizontal=True, vertical_alignment="center"):
            done = words.count_of(run.done, words.part_of(run))
            facts = [components.run_title(run), done, words.failed_text(run), words.ago_text(run.finished_at)]
            st.markdown(" · ".join(fact for fact in facts if fact))
            components.run_link(run.id, run.kind, "Open", icon=":material/arrow_forward:")
    if len(ended) > RECENT:
        components.page_link("jobs", f"All {words.count_of(len(ended), 'run')}")


components.page_link("tour", "Guided tour: the whole in six steps", icon=":material/tour:")
runs = components.runs()
ended = sorted((run for run in runs if run.ended), key=lambda run: run.finished_at or run.submitted_at)
ended.reverse()
sweep = next((run for run in ended if run.kind == "svd-sweep" and run.status == "finished"), None)
pruning = next((run for run in ended if run.kind == "prune-train" and run.status == "finished"), None)
with components.sentences():
    if sweep is not None:
        headline(sweep)
    if pruning is not None:
        smallest_network(pruning)
    under_way(tuple(run.id for run in runs if not run.ended))
    if ended:
        finished_last(ended)
    if sweep is None:
        next_steps(not data.datasets().empty)
