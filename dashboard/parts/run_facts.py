"""The facts behind a figure: the run's data set, settings and versions, the command that repeats it, and its log."""

from __future__ import annotations

import json

import streamlit as st

from core.compression.specs import MeasuringSpec
from core.errors import QueueUnavailable
from core.runs import Run
from core.training.specs import TrainSpec
from dashboard import data, words
from dashboard.parts import components


def run_facts(run: Run, title: str = "How this was measured") -> None:
    """Show the run behind a figure: data set, settings, versions, and the command that repeats it."""
    with st.expander(title, icon=":material/fact_check:"):
        facts(run)
        components.own_page_link(run.id, "All about this run")


def facts(run: Run) -> None:
    """Show a run's facts and the command that repeats it."""
    own = _training_facts(run, run.spec) if isinstance(run.spec, TrainSpec) else _measuring_facts(run, run.spec)
    found = {**_named(run), **own, **_common_facts(run), **_origin(run)}
    st.table(found, border="horizontal", width="stretch", alt="Facts of the run")
    repeat_with(run.command)


def repeat_with(command: str | None) -> None:
    """Show the command that repeats a run or a study, where it is known."""
    if command:
        st.caption("Repeat it from the project's folder with")
        st.code(command, language=None, wrap_lines=True)


def _named(run: Run) -> dict[str, str]:
    synthetic = f" {components.SYNTHETIC}" if run.synthetic else ""
    source = f", made from {words.escaped(run.source)}" if run.source else ""
    return {
        "Run": f"`{run.id}`" + (f", attempt {run.attempt}" if run.attempt > 1 else ""),
        "Data set": f"{words.escaped(run.dataset)}{source}{synthetic}",
        "Fingerprint of its images": f"`{run.fingerprint[:16]}`",
        "Settings": words.escaped(words.spec_text(run.spec)),
    }


def _measuring_facts(run: Run, spec: MeasuringSpec) -> dict[str, str]:
    return {
        "Seed": str(spec.seed),
        "Changed pixels": f"differ by more than {spec.metrics.changed_threshold} levels",
        "Low frequencies": f"up to {spec.metrics.radial_cutoff:g} cycles per pixel",
        "Images": f"{words.count_text(run.done)} measured of {words.count_text(run.total)}"
        + (f", {words.count_text(run.failed)} failed" if run.failed else ""),
    }


def _training_facts(run: Run, spec: TrainSpec) -> dict[str, str]:
    return {
        "Seed": f"{spec.training.seed}; of the split {spec.split_seed}",
        "Device asked for": spec.device,
        "Study": f"`{run.study}`" if run.study else words.NONE,
        "Epochs": f"{words.count_text(run.done)} trained of {words.count_text(run.total)}"
        + (f", {words.count_of(run.failed, 'step')} failed" if run.failed else ""),
    }


def _origin(run: Run) -> dict[str, str]:
    """Return where an imported run comes from, and what is known of its images there; nothing for one of this store."""
    if run.origin_host is None:
        return {}
    host, store = words.escaped(run.origin_host), words.escaped(run.origin_store or "")
    found = {"Imported": f"{components.moment(run.imported_at)} from {host}, {store}"}
    if known := data.run_dataset(run):
        layout = words.LAYOUTS.get(known["layout"], known["layout"])
        told = (words.count_of(known["images"], "image"), words.bytes_text(known["bytes"]), layout)
        found["Data set there"] = words.escaped(", ".join(told))
    return found


def _code(version: str | None, revision: str | None) -> str:
    known = f"DermSlim {version}" if version else "DermSlim of a version that was not recorded"
    return f"{known}, " + (f"`{revision}`" if revision else "not a git checkout")


def _common_facts(run: Run) -> dict[str, str]:
    versions = json.loads(run.versions) if run.versions else {}
    work = f"; {words.duration_text(run.work_seconds)} of work" if words.known(run.work_seconds) else ""
    finished = f"{components.moment(run.finished_at)}, after {words.duration_text(run.seconds)}{work}"
    return {
        "Submitted": f"{components.moment(run.submitted_at)} by {words.escaped(run.submitted_by or 'unknown')}",
        "Finished": finished if run.finished_at else words.NONE,
        "Workers": words.escaped(run.workers or "") or words.NONE,
        "Code": _code(versions.pop("dermslim", None), run.revision),
        "Versions": words.escaped(", ".join(f"{name} {version}" for name, version in versions.items())) or words.NONE,
    }


def show_log(run_id: str) -> None:
    """Show a run's log while the queue keeps it."""
    try:
        lines = data.queues().log(run_id)
    except QueueUnavailable:
        st.caption("The log is kept by the queue, which does not answer now.")
        return
    if not lines:
        st.caption("Logs are kept for one day after a run ends.")
        return
    # The box scrolls and not the code in it, which could not be reached by the keyboard in every browser.
    with st.container(height=240 if len(lines) > 10 else "content", border=False, key=f"log_{run_id}"):
        st.code("\n".join(lines), language=None, wrap_lines=True)
