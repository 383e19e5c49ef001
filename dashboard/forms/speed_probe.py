"""The offer to measure the speed on a worker, where no run has finished by which a form could estimate a duration."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.data.datasets import Dataset
from core.errors import QueueUnavailable
from core.runs import RunSpec
from dashboard import data, training_data, words
from dashboard.parts import components
from jobs.probes import Probe, probe_id, worker_kind

Unknown = Sequence[tuple[RunSpec, Dataset]]


def offer(unknown: Unknown) -> None:
    """Offer to measure the speed of runs of unknown duration, and say how that goes.

    unknown: settings and data set of each of these runs; nothing is shown without any.
    """
    with st.container():
        each = {probe_id(spec, dataset): (spec, dataset) for spec, dataset in unknown}
        try:
            probes = _looked_at(each)
        except QueueUnavailable:
            return
        if any(probe is not None and probe.under_way for probe in probes):
            _wait(each)
            return
        if any(probe is not None and probe.pace is not None for probe in probes):
            _estimate_again()
        for failure in dict.fromkeys(probe.failure for probe in probes if probe is not None and probe.failure):
            st.caption(f":material/error: The speed could not be measured. {words.escaped(failure)}")
        if not each or any(components.lacks_worker(worker_kind(spec)) for spec, _ in each.values()):
            return
        st.button(
            "Measure the speed",
            icon=":material/speed:",
            key="measure_speed",
            on_click=_ask,
            args=(list(each.values()),),
            help="A worker works for two seconds on each kind of run. The duration is then estimated from its speed.",
        )


def _looked_at(each: dict[str, tuple[RunSpec, Dataset]]) -> list[Probe | None]:
    queues = data.watched()
    return [queues.probe(spec, dataset) for spec, dataset in each.values()]


def _ask(unknown: Unknown) -> None:
    try:
        for spec, dataset in unknown:
            data.queues().ask_probe(spec, dataset)
    except QueueUnavailable as error:
        st.session_state["problem"] = str(error)


def _estimate_again() -> None:
    """Draw the page again with new estimates, because a speed has become known."""
    data.forget_estimates()
    training_data.forget_estimates()
    st.rerun(scope="app")


def _wait(each: dict[str, tuple[RunSpec, Dataset]]) -> None:
    """Say that probes are under way, and draw the page again once they have ended."""

    def look() -> None:
        left = sum(probe is not None and probe.under_way for probe in _looked_at(each))
        if not left:
            _estimate_again()
        measures = "A worker measures the speed" if left == 1 else f"Workers measure {left} speeds"
        st.caption(f":material/hourglass_top: {measures} as soon as one is free. Each takes about ten seconds.")

    st.fragment(components.said(look), run_every=1)()
