"""Everything that was submitted: what runs, what waits, what ended how; and the workers."""

import streamlit as st

from core.runs import Run
from dashboard import data, words
from dashboard.parts import components, run_progress
from dashboard.parts.run_facts import run_facts, show_log

WITH_PAGE = ("svd-sweep", "resize-study", "diagnosis", "train", "prune-train")  # the others are shown here


@st.fragment(run_every=2)
@components.said
def under_way(known: tuple[str, ...]) -> None:
    """Show what is queued or running; draw the whole page again when that changes."""
    active = [run for run in components.runs() if not run.ended]
    if tuple(run.id for run in active) != known:
        st.rerun(scope="app")
    health = data.health()
    with st.container(horizontal=True):
        st.metric("Running", sum(run.status == "running" for run in active), border=True)
        st.metric("Queued", sum(run.status == "queued" for run in active), border=True)
        waiting = sum(run.status in ("suspended", "scheduled") for run in active)
        if waiting:
            st.metric("Suspended or scheduled", waiting, border=True)
        st.metric("Messages waiting", words.count_text(health.waiting) if not health.redis else words.NONE, border=True)
        st.metric("Workers", len(health.workers) if not health.redis else words.NONE, border=True)
    components.show_outcome()
    for run in active:
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(components.run_title(run))
                if run.kind in WITH_PAGE:
                    components.run_link(run.id, run.kind, "Watch it", icon=":material/visibility:")
            settings = words.escaped(words.spec_text(run.spec))
            st.caption(f"`{run.id}` · {settings} · submitted {words.ago_text(run.submitted_at)}")
            run_progress.progress_bar(run)
            run_progress.controls(run)


def ended_table(runs: list[Run]) -> None:
    """List the runs that have ended."""
    components.table(
        {
            "Status": [run.status for run in runs],
            "Kind": [words.RUN_KIND_LABELS[run.kind] for run in runs],
            "Data set": [run.dataset + (" (synthetic)" if run.synthetic else "") for run in runs],
            "Done": [100 * min(1.0, run.done / max(1, run.total)) for run in runs],
            "Of": [words.count_of(run.total, words.part_of(run)) for run in runs],
            "Failed": [words.failed_text(run).removesuffix(" failed") for run in runs],
            "Finished": [components.moment(run.finished_at) for run in runs],
            "Run": [run.id for run in runs],
        },
        alt="Runs that have ended",
        height="auto",
        column_config={
            "Data set": st.column_config.TextColumn(width="medium"),
            "Done": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100, width="small"),
        },
    )


def details(run: Run) -> None:
    """Show one run: its status, why it failed, its log, and what can be done about it."""
    synthetic = f" {components.SYNTHETIC}" if run.synthetic else ""
    st.markdown(f"{components.status_text(run.status)} `{run.id}`{synthetic}{components.origin_badge(run)}")
    if run.error:
        st.error(words.sentence(run.error), icon=":material/error:")
    lines = [
        words.done_text(run),
        words.failed_text(run) or "none failed",
        f"attempt {run.attempt}",
        f"submitted {components.moment(run.submitted_at)} by {run.submitted_by or 'unknown'}",
    ]
    if run.ended:
        lines.append(f"{run.status} {components.moment(run.finished_at)}")
    st.caption(words.escaped(" · ".join(lines)))
    with st.container(horizontal=True):
        run_progress.retry_button(run)
        if run.kind in WITH_PAGE:
            components.run_link(run.id, run.kind, "Open its results", icon=":material/query_stats:")
    run_progress.left_out_images(run)
    run_facts(run)
    with st.expander("Log", icon=":material/notes:", expanded=True):
        show_log(run.id)


@st.fragment(run_every=5)
@components.said
def workers() -> None:
    """List the workers that are alive."""
    health = data.health()
    if health.redis:
        st.caption("Workers are known to the queue, which does not answer now.")
        return
    if not health.workers:
        st.caption("No worker is running.")
        return
    components.table(
        {
            "Queue": [worker.kind for worker in health.workers],
            "Host": [worker.host for worker in health.workers],
            "Process": [str(worker.pid) for worker in health.workers],
            "State": [worker.state for worker in health.workers],
            "Works on": [worker.current_run or words.NONE for worker in health.workers],
            "Jobs done": [worker.jobs_done for worker in health.workers],
            "Running since": [components.moment(worker.started_at) for worker in health.workers],
            "Last seen": [words.ago_text(worker.last_seen) for worker in health.workers],
        },
        alt="Workers that are alive, by queue",
        height="auto",
        column_config={"Jobs done": st.column_config.NumberColumn(format="localized")},
    )


runs = components.runs()
under_way(tuple(run.id for run in runs if not run.ended))
if not runs:
    st.info("Nothing has been submitted yet.", icon=":material/inbox:")
    components.page_link("sweeps", "Start an SVD sweep", icon=":material/query_stats:")
else:
    ended = [run for run in runs if run.ended]
    if ended:
        st.header("Ended")
        chosen = st.pills(
            "Show",
            ["finished", "failed", "cancelled"],
            selection_mode="multi",
            key="status",
            bind="query-params",
            label_visibility="collapsed",
        )
        ended_table([run for run in ended if not chosen or run.status in chosen])
    st.header("One run")
    zone = components.reader_zone()

    def name(run: Run) -> str:
        return f"{words.RUN_KIND_LABELS[run.kind]} · {words.run_label(run, zone)}"

    details(components.choose_run(runs, "Run", param="job", name=name))
st.header("Workers")
workers()
