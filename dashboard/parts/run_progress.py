"""A run from its start to its end: its progress, what can be done about it, and what it could not do."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from core.runs import Run
from dashboard import data, training_data, words
from dashboard.parts import components
from jobs.connection import PRIORITIES


def show_run(run: Run, results: Callable[[Run], None]) -> None:
    """Show a run: its progress, its results, or why it has none."""
    if not run.ended:
        live_progress(run.id)
    elif run.status == "finished":
        results(run)
    else:
        ended_early(run)


def live_progress(run_id: str) -> None:
    """Show a run's progress while it lasts, then the page as it is with the results."""
    st.fragment(components.said(_progress), run_every=1)(run_id)


def _progress(run_id: str) -> None:
    run = data.run(run_id)
    if run is None or run.ended:
        st.rerun(scope="app")
    components.show_outcome()
    st.markdown(f"{components.status_text(run.status)} `{run.id}`")
    progress_bar(run)
    controls(run)


def controls(run: Run) -> None:
    """Offer what can be done about a run that has not ended."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if run.trains:
            _training_controls(run)
        after = "the epoch being trained now is" if run.trains else "the images being measured now are"
        components.action_button(
            "Cancel after the epoch" if run.trains and run.status == "running" else "Cancel",
            lambda: data.queues().cancel(run.id),
            done=f"Cancelling: {after} the last",
            key=f"cancel_{run.id}",
            icon=":material/stop_circle:",
            help=f"{after.capitalize()} the last. What is there is kept, and a retry goes on from it.",
        )
        if run.trains and (run.status == "running" or (run.status == "suspended" and run.live.doing)):
            components.action_button(
                "Cancel at once",
                lambda: data.queues().cancel(run.id, force=True),
                done="Cancelled: the epoch that was being trained is lost",
                key=f"cancel_now_{run.id}",
                icon=":material/cancel:",
                help="In the middle of the epoch, which is lost; the last checkpoint is kept.",
            )


def _training_controls(run: Run) -> None:
    """Offer to suspend or resume a training run, and to change its priority."""
    waiting = run.status in ("suspended", "scheduled")
    components.action_button(
        "Start now" if run.status == "scheduled" else "Resume" if waiting else "Suspend",
        lambda: data.queues().resume(run.id) if waiting else data.queues().suspend(run.id),
        done="Queued: a worker goes on with it" if waiting else "Suspended after this epoch",
        key=f"suspend_{run.id}",
        icon=":material/play_arrow:" if waiting else ":material/pause:",
        help="Goes on after the last epoch." if waiting else "Stops after the epoch being trained now and keeps it.",
    )
    key = f"priority_{run.id}_{run.live.priority}"  # another widget once the priority has changed
    st.selectbox(
        "Priority",
        PRIORITIES,
        index=PRIORITIES.index(run.live.priority),
        key=key,
        width=140,
        help="Workers empty high before normal before low. A step that is being trained is not interrupted.",
        on_change=_change_priority,
        args=(run.id, key),
    )


def _change_priority(run_id: str, key: str) -> None:
    priority = st.session_state[key]
    components.attempt(lambda: data.queues().prioritise(run_id, priority), done=f"Priority {priority}")


def progress_bar(run: Run) -> None:
    """Show how far a run is, at which rate, and how long it will still take."""
    if run.trains:
        text = words.training_progress_text(run, components.reader_zone())
        st.progress(min(1.0, run.done / max(1, run.total)), text=words.escaped(text))
        return
    finished = run.done + run.failed
    if run.status == "queued":
        before = f", {words.count_of(run.live.position, 'run')} before it" if run.live.position else ""
        st.progress(0.0, text=f"Queued{before}: {words.count_of(run.total, 'image')} to measure")
        return
    parts = [f"{finished:,} of {words.count_of(run.total, 'image')}"]
    if run.live.rate:
        parts.append(f"{words.number_text(run.live.rate, 3)} images/s")
    if run.live.seconds_left is not None:
        parts.append(f"{words.duration_text(run.live.seconds_left)} left" if finished < run.total else "recording")
    if run.failed:
        parts.append(f"{words.count_of(run.failed, 'image')} failed")
    st.progress(min(1.0, finished / max(1, run.total)), text=" · ".join(parts))


def retry_button(run: Run) -> None:
    """Offer to measure or train what an ended run has left out; an imported one is retried where it ran."""
    if run.origin_host is not None:
        return
    if run.trains:
        if run.ended and (run.failed or run.status != "finished"):
            components.action_button(
                "Retry from the failed step" if run.failed else "Go on from the last epoch",
                lambda: data.queues().retry(run.id),
                done="Queued again: trained steps are kept",
                key=f"retry_{run.id}",
                icon=":material/replay:",
                help="Steps before it are kept.",
            )
    elif run.ended and run.done < run.total:
        components.action_button(
            f"Retry the {words.count_of(run.total - run.done, 'missing image')}",
            lambda: data.queues().retry(run.id),
            done="Queued again: measured images are kept",
            key=f"retry_{run.id}",
            icon=":material/replay:",
        )


def ended_early(run: Run) -> None:
    """Show why a run has ended early, and offer to continue it."""
    measured = words.done_text(run)
    if run.status == "cancelled":
        st.warning(f"This run was cancelled with {measured}. That is kept.", icon=":material/cancel:")
    elif run.status == "failed":
        st.error(
            words.sentence(run.error or "No reason was recorded"),
            title=f"This run failed with {measured}",
            icon=":material/error:",
        )
    retry_button(run)
    left_out_images(run)


def left_out_images(run: Run) -> None:
    """List the images, or the steps, that a run could not measure or train, with their reasons."""
    if run.failed and run.trains:
        steps = training_data.steps(run.id)
        _left_out(run, steps[steps["status"] == "failed"], ("name", "failure"), "step", "trained")
    elif run.failed:
        _left_out(run, data.failed_images(run.id), ("image_id", "reason"), "image", "measured")


def _left_out(run: Run, failures: pd.DataFrame, columns: tuple[str, str], noun: str, done: str) -> None:
    """List what failed, where anything is recorded of it. columns: what names it, and what holds the reason."""
    if failures.empty:
        return
    name, reason = columns
    with st.expander(f"{words.count_of(len(failures), noun)} could not be {done}", icon=":material/report:"):
        components.table(
            failures[[name, reason, "worker"]],
            alt=f"{noun.capitalize()}s of run {run.id} that could not be {done}, with reasons",
            height="auto",
            column_config={
                name: st.column_config.TextColumn(noun.capitalize(), width="medium"),
                reason: st.column_config.TextColumn("Reason", width="large"),
                "worker": "Worker",
            },
        )
