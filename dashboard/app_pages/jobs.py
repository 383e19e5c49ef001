"""Everything that was submitted: what runs, what waits, what ended how; and the workers."""

import pandas as pd
import streamlit as st

from dashboard import data, words
from dashboard.parts import components, run_progress
from jobs.run_states import RunState

WITH_PAGE = ("svd-sweep", "resize-study", "train", "prune-train")  # the others are shown here


@st.fragment(run_every=2)
@components.said
def under_way(known: tuple[str, ...]) -> None:
    """Show what is queued or running; draw the whole page anew when that changes."""
    active = [state for state in components.run_states() if not state.ended]
    if tuple(state.run_id for state in active) != known:
        st.rerun(scope="app")
    health = data.health()
    with st.container(horizontal=True):
        st.metric("Running", sum(state.status == "running" for state in active), border=True)
        st.metric("Queued", sum(state.status == "queued" for state in active), border=True)
        waiting = sum(state.status in ("suspended", "scheduled") for state in active)
        if waiting:
            st.metric("Suspended or scheduled", waiting, border=True)
        st.metric("Messages waiting", words.count_text(health.waiting) if not health.redis else words.NONE, border=True)
        st.metric("Workers", len(health.workers) if not health.redis else words.NONE, border=True)
    components.show_outcome()
    rows = components.recorded_rows() if active else {}
    for state in active:
        with st.container(border=True):
            with st.container(horizontal=True, vertical_alignment="center"):
                st.markdown(
                    f"{components.status_text(state.status)} **{words.KINDS.get(state.kind, state.kind)}** · "
                    f"{words.escaped(words.shortened(state.dataset, 48))}"
                    + (f" {components.SYNTHETIC}" if state.synthetic else "")
                )
                if state.kind in WITH_PAGE:
                    components.run_link(state.run_id, state.kind, "Watch it", icon=":material/visibility:")
            settings = (
                f"{words.escaped(words.spec_text(data.spec_of(row)))} · " if (row := rows.get(state.run_id)) else ""
            )
            st.caption(f"`{state.run_id}` · {settings}submitted {words.ago_text(state.submitted_at)}")
            run_progress.progress_bar(state)
            run_progress.controls(state)


def ended_table(states: list[RunState]) -> None:
    """List the runs that have ended."""
    st.dataframe(
        pd.DataFrame(
            {
                "Status": [state.status for state in states],
                "Kind": [words.KINDS.get(state.kind, state.kind) for state in states],
                "Data set": [state.dataset + (" (synthetic)" if state.synthetic else "") for state in states],
                "Done": [100 * min(1.0, state.done / max(1, state.total)) for state in states],
                "Of": [words.count_of(state.total, words.part_of(state)) for state in states],
                "Failed": [words.failed_text(state).removesuffix(" failed") for state in states],
                "Finished": [components.moment(state.finished_at) for state in states],
                "Run": [state.run_id for state in states],
            }
        ),
        hide_index=True,
        column_config={
            "Data set": st.column_config.TextColumn(width="medium"),
            "Done": st.column_config.ProgressColumn(format="%.0f %%", min_value=0, max_value=100, width="small"),
        },
        alt="Runs that have ended",
    )


def details(state: RunState, row: dict[str, object] | None) -> None:
    """Show one run: its state, why it failed, its log, and what can be done about it."""
    st.markdown(
        f"{components.status_text(state.status)} `{state.run_id}` " + (components.SYNTHETIC if state.synthetic else "")
    )
    if state.error:
        st.error(words.sentence(state.error), icon=":material/error:")
    lines = [
        words.done_text(state),
        words.failed_text(state) or "none failed",
        f"attempt {state.attempt}",
        f"submitted {components.moment(state.submitted_at)} by {state.submitted_by or 'unknown'}",
    ]
    if state.ended:
        lines.append(f"{state.status} {components.moment(state.finished_at)}")
    st.caption(words.escaped(" · ".join(lines)))
    with st.container(horizontal=True):
        run_progress.retry_button(state)
        if state.kind in WITH_PAGE:
            components.run_link(state.run_id, state.kind, "Open its results", icon=":material/query_stats:")
    run_progress.left_out_images(state)
    if row:
        components.run_facts(row)
    with st.expander("Log", icon=":material/notes:", expanded=True):
        components.log(state.run_id)


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
    st.dataframe(
        pd.DataFrame(
            {
                "Queue": [worker.kind for worker in health.workers],
                "Host": [worker.host for worker in health.workers],
                "Process": [str(worker.pid) for worker in health.workers],
                "State": [worker.state for worker in health.workers],
                "Works on": [worker.current_run or words.NONE for worker in health.workers],
                "Jobs done": [worker.jobs_done for worker in health.workers],
                "Running since": [components.moment(worker.started_at) for worker in health.workers],
                "Last seen": [words.ago_text(worker.last_seen) for worker in health.workers],
            }
        ),
        hide_index=True,
        column_config={"Jobs done": st.column_config.NumberColumn(format="localized")},
        alt="Workers that are alive, by queue",
    )


states = components.run_states()
under_way(tuple(state.run_id for state in states if not state.ended))
if not states:
    st.info("Nothing has been submitted yet.", icon=":material/inbox:")
    st.page_link("app_pages/sweeps.py", label="Start an SVD sweep", icon=":material/query_stats:", help="")
else:
    ended = [state for state in states if state.ended]
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
        ended_table([state for state in ended if not chosen or state.status in chosen])
    st.header("One run")
    rows = components.recorded_rows()
    by_id = {state.run_id: state for state in states}
    job = components.url_choice(
        st.selectbox,
        "Run",
        list(by_id),
        param="job",
        format_func=lambda run_id: (
            f"{words.KINDS.get(by_id[run_id].kind, '')} · " + components.state_label(by_id[run_id], rows)
        ),
    )
    details(by_id[job], rows.get(job))
st.header("Workers")
workers()
