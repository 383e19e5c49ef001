"""A study of the article: its status, its runs in order, and its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from core.article.claims import STATUSES
from core.article.evidence import Grounds
from core.article.plan import (
    FAILED,
    FINISHED,
    ORIGINALS,
    PRUNING,
    READY,
    RECONSTRUCTION,
    RESIZE,
    STAGES,
    SWEEP,
    UNDER_WAY,
    WAITING,
    Standing,
)
from core.article.summary import accuracy_sentences, compression_sentence, study_runs, training_figures, training_runs
from core.runs import Run
from core.store.file import plain_rows
from dashboard import data, words
from dashboard.forms.fields import shown
from dashboard.parts import components
from dashboard.parts.run_facts import repeat_with
from jobs.connection import PRIORITIES
from jobs.studies import StudyState, cancel_study, prioritise_study, resume_study, suspend_study
from jobs.study_estimates import share_done

COLOURS = {WAITING: "gray", READY: "gray", UNDER_WAY: "blue", FINISHED: "green", FAILED: "red"}
ICONS = {
    WAITING: ":material/hourglass_empty:",
    READY: ":material/schedule:",
    UNDER_WAY: ":material/play_circle:",
    FINISHED: ":material/check_circle:",
    FAILED: ":material/error:",
}


def live(study: str) -> None:
    """Show a study while it is under way; the page is drawn again when one of its runs begins or ends."""
    state = data.study(study)
    if state is not None:
        st.fragment(components.said(_live), run_every=2)(study, fingerprint(state))
        if state.progress.of(FINISHED):
            summary(state)


def ended(state: StudyState) -> None:
    """Show a study that has ended, its results first."""
    runs = runs_of(state)
    head(state, runs)
    trouble(state)
    summary(state)
    st.header("Its runs")
    stages(state, runs)


def fingerprint(state: StudyState) -> tuple[object, ...]:
    """Return what the page's figures depend on: the status of the study and of each of its parts."""
    parts = tuple((each.state, each.run.id if each.run else "") for each in state.progress.parts)
    return (state.id, state.status, parts)


def _live(study: str, known: tuple[object, ...]) -> None:
    state = data.study(study)
    if state is None or fingerprint(state) != known:
        st.rerun(scope="app")
    components.show_outcome()
    runs = runs_of(state)
    head(state, runs)
    controls(state)
    trouble(state)
    stages(state, runs)


def runs_of(state: StudyState) -> dict[str, Run]:
    """Return the study's runs as the queue sees them, by id."""
    wanted = set(study_runs(state.progress))
    return {run.id: run for run in components.runs() if run.id in wanted}


# -- status ------------------------------------------------------------------------------------------------------------


def head(state: StudyState, runs: Mapping[str, Run]) -> None:
    """Show the progress of the study, and how long it will still take."""
    parts, done = state.progress.parts, len(state.progress.of(FINISHED))
    shares = {each.part.key: share_done(each, runs.get(each.run.id) if each.run else None) for each in parts}
    st.markdown(
        f"{components.status_text(state.status)} **{done} of {words.count_of(len(parts), 'run')} finished**"
        + (f" · {left_text(state, shares)}" if not state.ended else "")
        + (f" · nothing starts before {components.moment(state.starts_at)}" if state.starts_at else "")
    )
    st.progress(sum(shares.values()) / len(parts))


def left_text(state: StudyState, shares: Mapping[str, float]) -> str:
    """Return how long a study still takes, as far as it can be estimated. shares: of each part, how much is done."""
    dataset = data.dataset(state.spec.dataset)
    if dataset is None:
        return "its data set was removed"
    estimate = data.study_estimate(state.spec, dataset, shares)
    if estimate.seconds is None:
        return "time left not known yet" if estimate.stages else "nearly done"
    return f"{'more than' if estimate.unknown else 'about'} {words.duration_text(estimate.seconds)} left"


def controls(state: StudyState) -> None:
    """Offer what can be done about a study that has not ended."""
    if state.ended:
        return
    waiting = state.status in ("suspended", "scheduled")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        components.action_button(
            "Start now" if state.status == "scheduled" else "Resume" if waiting else "Suspend trainings",
            lambda: (resume_study if waiting else suspend_study)(data.queues(), state.id),
            done="The study continues" if waiting else "Suspended after the epoch being trained now",
            key="suspend",
            icon=":material/play_arrow:" if waiting else ":material/pause:",
            help="The study continues where it was suspended."
            if waiting
            else "After the epoch being trained now; measuring goes on.",
        )
        if st.session_state.get("priority_of_study") != state.priority:
            st.session_state["priority_of_study"] = state.priority
        st.selectbox(
            "Priority", PRIORITIES, key="priority_of_study", width=140, on_change=_change_priority, args=(state.id,),
            help="Of the study's present and future runs. A training under way is not interrupted.",
        )  # fmt: skip
        components.action_button(
            "Cancel the study",
            lambda: cancel_study(data.queues(), state.id),
            done="Cancelling: the present images and the present epoch are the last",
            key="cancel",
            icon=":material/stop_circle:",
            help="Its runs end after the present image or epoch. Results are kept, and you can resume from them.",
        )


def _change_priority(study: str) -> None:
    priority = st.session_state["priority_of_study"]
    components.attempt(lambda: prioritise_study(data.queues(), study, priority), done=f"Priority {priority}")


def trouble(state: StudyState) -> None:
    """Show what failed and why, what waits for it, and what to do."""
    text = state.progress.trouble or state.error or ""
    if state.status == "cancelled":
        st.warning("This study was cancelled. What was measured and trained is kept.", icon=":material/cancel:")
    elif text:
        title = "The study stopped" if state.status == FAILED else "A run failed; the others continue"
        st.error(words.escaped(text), title=title, icon=":material/error:")
    if state.status == "cancelled" or text:
        _resume_form(state)


def _resume_form(state: StudyState) -> None:
    """Offer to resume the study, with another k where the rule chose none."""
    without_k = any(each.state == FAILED and each.part.stage in (RECONSTRUCTION, RESIZE) and each.run is None
                    for each in state.progress.parts)  # fmt: skip
    with st.container(horizontal=True, vertical_alignment="bottom"):
        k = None
        if without_k:
            k = st.number_input("Fixed k, not the rule's", min_value=1, step=1, value=max(state.spec.ks), width=220)
        components.action_button(
            "Resume the study",
            lambda: resume_study(data.queues(), state.id, k=k),
            done="The study continues",
            key="resume",
            type="primary",
            icon=":material/replay:",
            help="Runs that failed or were cancelled are retried from where they were; the rest goes on.",
        )


def stages(state: StudyState, runs: Mapping[str, Run]) -> None:
    """List the stages with their runs: the status of each, what it waits for, and a link."""
    for stage, title in STAGES.items():
        parts = [each for each in state.progress.parts if each.part.stage == stage]
        with st.container(border=True, gap="xsmall"):
            st.markdown(f"{stage_badge(parts, runs, state.status)} **{title}**")
            for each in parts:
                part_line(each, runs.get(each.run.id) if each.run else None)
            if stage == PRUNING:
                st.caption(
                    "Its first step, the unpruned network, is the one on reconstructed images of Tables 4 and 5."
                )
    with st.container(border=True):
        st.markdown(f":green-badge[{ICONS[FINISHED]} counted] **Parameter curves**")
        components.page_link("curves", "Open", icon=":material/trending_down:")


def stage_badge(parts: Sequence[Standing], runs: Mapping[str, Run], status: str) -> str:
    """Return a stage's status as a badge: the most important one of its runs. status: the study's."""
    states = {each.state for each in parts}
    state = next(state for state in (FAILED, UNDER_WAY, READY, WAITING, FINISHED) if state in states)
    done = sum(each.state == FINISHED for each in parts)
    text, colour = state, COLOURS[state]
    if state == READY:
        text = status if status in ("suspended", "scheduled", "cancelled") else "about to be submitted"
    elif state == UNDER_WAY:
        begun = {runs[each.run.id].status for each in parts if each.run and each.run.id in runs}
        if "running" not in begun:
            text, colour = ("suspended" if "suspended" in begun else "queued"), "gray"
    if len(parts) > 1 and state != FINISHED:
        text += f", {done} of {len(parts)} finished"
    return f":{colour}-badge[{ICONS[state]} {text}]"


def part_line(standing: Standing, run: Run | None) -> None:
    """Show one run of a study in a line."""
    name = standing.part.title if standing.part.network else ""
    with st.container(horizontal=True, vertical_alignment="center"):
        details = [f"{ICONS[standing.state]} {words.escaped(name)}"] if name else []
        if standing.state == WAITING:
            details.append(words.escaped(standing.reason))
        elif standing.state == FAILED:
            details.append(words.sentence(standing.reason))
        elif run is not None and not run.ended:
            details.append(words.escaped(progress_text(run)))
        elif run is not None and run.finished_at and run.started_at:
            took = (run.finished_at - run.started_at).total_seconds()
            left_out = f" · {words.count_of(run.failed, 'image')} left out" if run.failed and not run.trains else ""
            details.append(f"finished {words.ago_text(run.finished_at)} after {words.duration_text(took)}{left_out}")
        if details:
            st.markdown(" · ".join(details))
        if standing.run is not None:
            components.run_link(standing.run.id, standing.run.kind, "Open", icon=":material/arrow_forward:")


def progress_text(run: Run) -> str:
    """Return how far a run under way is."""
    if run.trains:
        return words.training_progress_text(run, components.reader_zone())
    left = f" · {words.duration_text(run.live.seconds_left)} left" if run.live.seconds_left is not None else ""
    return f"{run.done + run.failed:,} of {words.count_of(run.total, 'image')}{left}"


# -- summary of results ------------------------------------------------------------------------------------------------


def summary(state: StudyState) -> None:
    """Show the study's results so far: what ended, the figures beside the article's, and links."""
    st.header("Results of the study")
    figures = training_figures(state.progress, data.trainings())
    with st.container(border=True):
        for sentence in (since_sentence(state), compression(state), *accuracy_sentences(figures)):
            st.markdown(words.escaped(sentence))
    if len(figures):
        figures_table(state, figures)
    claims(state)
    links(state)


def since_sentence(state: StudyState) -> str:
    """Return when the study began and ended, and how many runs it counts so far."""
    parts = state.progress
    text = f"Submitted {components.moment(state.submitted_at)}"
    if state.finished_at is not None and state.ended:
        took = words.duration_text((state.finished_at - state.submitted_at).total_seconds())
        text += f", {state.status} {components.moment(state.finished_at)}, after {took}"
    counts = [
        f"{len(parts.of(*states))} {label}"
        for label, states in (
            ("finished", (FINISHED,)),
            ("failed", (FAILED,)),
            ("under way", (UNDER_WAY,)),
            ("waiting", (READY, WAITING)),
        )
        if parts.of(*states)
    ]
    return f"{text}. Of {words.count_of(len(parts.parts), 'run')}: {', '.join(counts)}."


def compression(state: StudyState) -> str:
    """Return which k was taken and what it saves, beside the article's figures."""
    sweep = next(each for each in state.progress.parts if each.part.stage == SWEEP)
    run = sweep.run if sweep.state == FINISHED else None
    return compression_sentence(state.progress.k, data.storage(run) if run else pd.DataFrame())


def figures_table(state: StudyState, figures: pd.DataFrame) -> None:
    """List the trainings with their headline figures, each with a link to its run."""
    rows = plain_rows(figures)
    several_seeds = len(state.spec.seeds) > 1
    table = pd.DataFrame(
        {
            "Network": [row["network"] for row in rows],
            "Images": [row["version"] for row in rows],
            **({"Seed": [str(row["seed"]) for row in rows]} if several_seeds else {}),
            "Run": [components.run_address(row["run_id"]) for row in rows],
            "Test accuracy": [words.figure_text(row["test_accuracy"], row["interval"]) for row in rows],
            "Article": [words.percent_text(row["printed"], 2) for row in rows],
            "Difference": [points_text(row["difference"]) for row in rows],
            "Smallest accepted": [smallest_text(row) for row in rows],
            "Parameters left": [words.percent_text(row["share"]) for row in rows],
            "Its accuracy": [words.figure_text(row["smallest_accuracy"], row["smallest_interval"]) for row in rows],
            "Training time": [words.duration_text(row["seconds"]) for row in rows],
        }
    )
    components.table(
        table,
        alt="The study's trainings with their headline figures",
        column_config={
            "Network": st.column_config.TextColumn(pinned=True),
            "Run": st.column_config.LinkColumn(display_text="Open", width="small"),
        },
    )
    st.caption(
        "Test accuracy: of the unpruned network. Article: its Table 5. Difference in points. In square brackets: 95 % "
        "intervals."
    )


def points_text(difference: object) -> str:
    """Return a difference in points with its sign."""
    return f"{float(difference):+.2f}".replace("-", "−") if words.known(difference) else words.NONE  # type: ignore[arg-type]


def smallest_text(row: Mapping[str, Any]) -> str:
    """Return the smallest accepted network's name; none where all were rejected, a dash where none was pruned."""
    if row["smallest"]:
        return str(row["smallest"])
    pruned = row["version"] == "reconstructed" and row["trainings"] > 1
    return "none" if pruned else words.NONE


def grounds(state: StudyState) -> Grounds:
    """Return what the claims are judged by: this study's runs alone, as far as they have finished."""
    finished = {each.part.stage: each.run.id for each in state.progress.of(FINISHED) if each.run is not None}
    trained = ORIGINALS in finished or PRUNING in finished
    return Grounds(
        sweep=finished.get(SWEEP),
        resize=finished.get(RESIZE),
        dataset=state.spec.dataset if trained else None,
        reconstruction=state.progress.reconstruction if PRUNING in finished else None,
    )


def claims(state: StudyState) -> None:
    """Count the article's claims by their status in this study, and list those that it does not reproduce."""
    table = data.study_claims(tuple(training_runs(state.progress)), grounds(state))
    counts = {status: table[table["status"] == status] for status in STATUSES}
    st.markdown("**The article's claims, by this study alone**")
    if data.datasets().set_index("name")["synthetic"].get(state.spec.dataset, False):
        st.caption("Measured on synthetic images: no conclusion about real images.")
    with st.grid(3, min_column_width=160):
        for status, rows in counts.items():
            st.metric(status.capitalize(), len(rows), border=True)
    differing = counts["not reproduced"]
    if len(differing):
        with st.expander("Differences from the article", icon=":material/difference:"):
            for row in plain_rows(differing):
                st.markdown(
                    f"**{row['id']}** {words.escaped(row['claim'])}  \nPrinted: {words.escaped(row['printed_value'])}. "
                    f"Measured: {words.escaped(row['measured'])}"
                )


def links(state: StudyState) -> None:
    """Show links to the tables and claims from this study's runs."""
    trained = training_runs(state.progress)
    judged = {name: value for name, value in vars(grounds(state)).items() if value is not None}
    with st.container(horizontal=True):
        if trained:
            label, runs = "Tables 4, 5 and 6 of these runs", {"runs": list(trained)}
            components.page_link("tables", label, icon=":material/table_chart:", query_params=runs)
        components.page_link("claims", "Claims, one by one", icon=":material/rule:", query_params=judged)
        components.page_link("curves", "Parameter curves", icon=":material/trending_down:")


def settings(state: StudyState) -> None:
    """Show the study's settings and the command that submits it again."""
    with st.expander("Settings, and the command that repeats it", icon=":material/fact_check:"):
        spec = state.spec
        training = spec.training
        facts = {
            "Study": f"`{state.id}`",
            "Submitted": f"{components.moment(state.submitted_at)} by {words.escaped(state.submitted_by or 'unknown')}",
            "Images": f"{words.escaped(spec.dataset)}, fingerprint `{spec.fingerprint[:16]}`",
            "Networks": words.escaped(", ".join(network.name for network in spec.networks)),
            "Seeds": words.numbers_text(spec.seeds),
            "Protocol": f"{words.size_text(training.height, training.width)}, "
            f"{words.count_of(training.epochs, 'epoch')}, batch {training.batch_size}, "
            f"learning rate {training.learning_rate:g}",
            "Sizes of single networks": words.escaped(shown(spec.overrides)) or words.NONE,
            "k of the sweep": words.numbers_text(spec.ks),
            "k\\*": f"by the {spec.rule} rule" if spec.k is None else str(spec.k),
            "Stored as": f"{words.codec_text(spec.codec, spec.quality)}, {words.MODES[spec.mode]}",
            "Pruning factors": words.escaped(", ".join(f"{factor:g} %" for factor in spec.rules.factors)),
        }
        st.table(facts, border="horizontal", width="stretch", alt="Settings of the study")
        repeat_with(state.command)
