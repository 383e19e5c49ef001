"""The forms that start runs: their settings, the errors in them, the estimated duration, and the button."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pandas as pd
import streamlit as st

from core.compression.specs import DiagnosisSpec, MeasuringSpec, ReconstructSpec, ResizeSpec, SweepSpec, ways
from core.data.datasets import Dataset
from core.data.names import derived_name
from core.errors import DermSlimError, QueueUnavailable, SpecError
from core.runs import Run
from dashboard import data, words
from dashboard.forms import speed_probe
from dashboard.forms.fields import Fields, draft, shown
from dashboard.parts import components

NO_DATASET = "No data set is registered yet."
NO_LABELS = "No data set with labels is registered yet: training needs classes."
QUICK_KS = (100, 200, 350)
QUICK_SAMPLE = 100
S = TypeVar("S", bound=MeasuringSpec)
T = TypeVar("T")


SWEEP, RESIZE, REBUILD, DIAGNOSIS = Fields("sweep"), Fields("resize"), Fields("rebuild"), Fields("diagnosis")
IMAGES = ("codec", "quality", "sample_size", "seed")


def choose_dataset(
    known: pd.DataFrame | None = None, nothing: str = "No data set is registered yet.", default: str | None = None
) -> Dataset | None:
    """Return the data set that the reader chooses; None (and what to do) where there is none.

    known: rows of `data.datasets`, by default all of them. nothing: what to say where there is none. default: the name
    of the one that is chosen at first, where it is known; else it is the newest.
    """
    known = data.datasets() if known is None else known
    if known.empty:
        nothing_registered(nothing)
        return None
    synthetic = dict(zip(known["name"], known["synthetic"], strict=True))
    name = components.url_choice(
        st.selectbox,
        "Data set",
        list(synthetic),
        param="dataset",
        default=default if default in synthetic else known.sort_values("registered_at")["name"].iloc[-1],
        format_func=lambda name: words.shortened(name, 60) + (" (synthetic)" if synthetic[name] else ""),
    )
    return data.dataset(name)


def nothing_registered(sentence: str) -> None:
    """Show that a data set is missing, and link to the page that registers one."""
    st.info(sentence, icon=":material/folder_off:")
    components.page_link("datasets", "Register a data set", icon=":material/create_new_folder:")


def sweep_form() -> None:
    """Draw the form of an SVD sweep."""
    _form(sweep_fields, "Start the sweep", param="run")


def resize_form() -> None:
    """Show what is compared, and draw the form of a resize comparison."""
    st.caption("The original and the stored reconstruction are both resized to each size, then compared.")
    _form(resize_fields, "Start the resize comparison", param="study")


def _form(fields: Callable[[Dataset], MeasuringSpec], start: str, *, param: str) -> None:
    with st.container(border=True):
        dataset = choose_dataset()
        if dataset is None:
            return
        try:
            spec = fields(dataset)
            spec.check(dataset)
        except SpecError as error:
            refused(error)
            return
        start_panel(spec, dataset, start, param=param)


def sweep_fields(dataset: Dataset) -> SweepSpec:
    """Draw the fields of an SVD sweep and return the sweep that they describe. Raises SpecError."""

    def apply_preset() -> None:
        quick = {"ks": shown(QUICK_KS), "sample_size": min(QUICK_SAMPLE, len(dataset.records))}
        if (chosen := st.session_state[SWEEP.key("preset")]) is not None:
            SWEEP.put(draft(SweepSpec(dataset=dataset.name)) | ({} if chosen == "Article" else quick))

    st.segmented_control(
        "Preset",
        ["Article", "Quick"],
        key=SWEEP.key("preset"),
        on_change=apply_preset,
        help="Article: six k, per channel, JPEG 95, all images. Quick: three k, at most 100 images.",
    )
    return _fields(SWEEP, SweepSpec, dataset, ("ks", "mode"), IMAGES)


def resize_fields(dataset: Dataset) -> ResizeSpec:
    """Draw the fields of a resize comparison and return what they describe. Raises SpecError."""
    return _fields(RESIZE, ResizeSpec, dataset, ("sizes",), ("k", "mode"), IMAGES)


def diagnosis_form(choose_network: Callable[[], tuple[Run, int] | None]) -> None:
    """Draw the form of a diagnosis. choose_network: asks for a training run and a step; None where there is none."""
    with st.container(border=True):
        if (chosen := choose_network()) is None:
            return
        run, step = chosen
        dataset = choose_dataset(default=run.dataset)
        if dataset is None:
            return
        try:
            spec = diagnosis_fields(dataset, run.id, step)
            data.queues().check(spec, dataset)
        except SpecError as error:
            refused(error)
            return
        start_panel(spec, dataset, f"Compress and predict in {words.count_of(len(ways(spec)), 'way')}", param="run")


def diagnosis_fields(dataset: Dataset, run: str, step: int) -> DiagnosisSpec:
    """Draw the fields of a diagnosis and return what they describe. Raises SpecError."""
    rows = (("ks",), ("modes", "codecs", "qualities"), ("rivals",), ("image_split", "sample_size", "seed"))
    return _fields(DIAGNOSIS, DiagnosisSpec, dataset, *rows, run=run, step=step)


def _fields(form: Fields, model: type[S], dataset: Dataset, *rows: tuple[str, ...], **given: Any) -> S:
    """Draw rows of fields, then what remains of the model's settings; return the spec. Raises SpecError.

    given: settings without a field.
    """
    form.begin(draft(model(dataset=dataset.name, **given)))
    values: dict[str, Any] = {"dataset": dataset.name, **given}
    for names in rows:
        values |= form.grid(model, names)
    values |= form.rest(model, without=values)
    return model(metrics=form.metrics(), **values)


def reconstruct_form(dataset: Dataset) -> None:
    """Draw the form that writes a data set again at one k."""
    REBUILD.begin(draft(ReconstructSpec(dataset=dataset.name, name="new")))
    try:
        values = REBUILD.grid(ReconstructSpec, ("k", "mode", "codec", "quality"))
        quality = "" if values["quality"] is None else values["quality"]
        suggested = derived_name(dataset.name, f"-k{values['k']}-{values['codec']}{quality}")
        name = st.text_input(
            "Name of the new data set", placeholder=suggested, key=f"rebuild_name_{dataset.name}",
            help=f"A folder of this name is written under {words.escaped(data.settings().reconstructed)}.",
        )  # fmt: skip
        spec = ReconstructSpec(dataset=dataset.name, name=name.strip() or suggested, **values)
        spec.check(dataset)
    except SpecError as error:
        refused(error)
        return
    start_panel(spec, dataset, f"Write {words.escaped(words.shortened(spec.name, 48))}", param="rebuild", results=None)


def refused(error: DermSlimError) -> None:
    """Show why the present values cannot be started."""
    st.error(words.sentence(error), icon=":material/error:")
    st.button("Start", disabled=True, icon=":material/play_arrow:", key="refused")


def submit(send: Callable[[], T], opened: Callable[[T], None]) -> None:
    """Submit runs, then draw the page again with what `opened` opens, or with the reason why it was refused.

    Do not call it in a callback, which would know the fields only as they were before the last change.
    """
    try:
        submitted = send()
    except DermSlimError as error:
        st.session_state["problem"] = str(error)
    else:
        data.forget_runs()
        opened(submitted)
    st.rerun()


def start_panel(
    spec: MeasuringSpec, dataset: Dataset, label: str, *, param: str, results: str | None = "Results"
) -> None:
    """Offer an identical run that exists, else say how long a new one will take and start it.

    param: the query parameter that names the run on this page. results: the page's view that shows it.
    """
    try:
        identical = data.queues().find_identical(spec, dataset)
        estimate = data.queues().estimate(spec, dataset)
    except QueueUnavailable:
        st.button(label, disabled=True, icon=":material/play_arrow:", key="start", help="The queue does not answer.")
        return

    def opened(run_id: str) -> None:
        st.query_params[param] = run_id
        if results:
            st.query_params["tab"] = results

    def start(*, again: bool) -> None:
        submit(lambda: data.queues().submit(spec, dataset, again=again), lambda submission: opened(submission.run_id))

    if identical is not None:
        state = data.run(identical)
        when = f"finished {words.ago_text(state.finished_at)}" if state and state.ended else "is being measured now"
        st.info(f"A run with exactly these settings on exactly these images {when}.", icon=":material/content_copy:")
        with st.container(horizontal=True):
            st.button("Open it", on_click=opened, args=(identical,), type="primary", key="open_identical")
            if (state is None or state.ended) and st.button("Measure again", icon=":material/replay:", key="again"):
                start(again=True)
        return
    st.caption(f":material/timer: {words.escaped(words.estimate_sentence(estimate))}")
    speed_probe.offer([(spec, dataset)] if estimate.seconds is None else [])
    if st.button(label, type="primary", icon=":material/play_arrow:", key="start"):
        start(again=False)
