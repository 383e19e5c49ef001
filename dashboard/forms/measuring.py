"""The forms that start runs: what may be set, what is wrong with it, how long it will take, and the button."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import streamlit as st

from core.compression.specs import (
    DEFAULT_KS,
    DEFAULT_SIZES,
    MeasuringSpec,
    MetricParameters,
    ReconstructSpec,
    ResizeSpec,
    SweepSpec,
)
from core.compression.svd import MODES
from core.data.datasets import Dataset
from core.data.images import CODECS
from core.data.names import derived_name
from core.errors import DermSlimError, QueueUnavailable, SpecError
from dashboard import data, words
from dashboard.parts import components

QUICK_KS = (100, 200, 350)
QUICK_SAMPLE = 100
KEPT: Final = "session"  # a draft survives a look at another page


def set_draft(prefix: str, values: dict[str, Any]) -> None:
    """Put values into a form's fields, before they are drawn."""
    for name, value in values.items():
        st.session_state[f"{prefix}_{name}"] = value


def draft_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the field values that give a run's parameters again."""
    values: dict[str, Any] = {
        "mode": spec.get("mode"),
        "codec": spec.get("codec"),
        "quality": spec.get("quality"),
        "quality_of": spec.get("codec"),
        "images": "All images" if spec["sample_size"] is None else "A random sample",
        "sample": spec["sample_size"],
        "seed": spec["seed"],
        "threshold": spec["metrics"]["changed_threshold"],
        "cutoff": spec["metrics"]["radial_cutoff"],
        "k": spec.get("k"),
        "ks": words.numbers_text(spec["ks"]) if "ks" in spec else None,
        "sizes": ", ".join(f"{rows}×{columns}" for rows, columns in spec["sizes"]) if "sizes" in spec else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def choose_dataset(label: str = "Data set") -> Dataset | None:
    """Return the data set that the reader chooses, or None (and what to do) where none is registered."""
    known = data.datasets()
    if known.empty:
        st.info("No data set is registered yet.", icon=":material/folder_off:")
        st.page_link("app_pages/datasets.py", label="Register a data set", icon=":material/create_new_folder:", help="")
        return None
    synthetic = dict(zip(known["name"], known["synthetic"], strict=True))
    newest = known.sort_values("registered_at")["name"].iloc[-1]
    name = components.url_choice(
        st.selectbox,
        label,
        list(known["name"]),
        param="dataset",
        default=newest,
        format_func=lambda name: f"{name} (synthetic)" if synthetic[name] else name,
    )
    return data.dataset(name)


def codec_fields(prefix: str) -> tuple[str, int | None]:
    """Return codec and quality; lossless codecs have none."""
    codec = st.selectbox(
        "Codec", list(CODECS), format_func=lambda name: words.codec_text(name, None), key=f"{prefix}_codec",
        persist_state=KEPT,
    )  # fmt: skip
    return codec, quality_field(prefix, codec)


def quality_field(prefix: str, codec: str) -> int | None:
    """Return the quality, or None where the codec is lossless."""
    known = CODECS[codec]
    if known.qualities is None:
        st.text_input("Quality", value="lossless", disabled=True, key=f"{prefix}_lossless")
        return None
    key = f"{prefix}_quality"
    if st.session_state.get(f"{prefix}_quality_of", codec) != codec or st.session_state.get(key) is None:
        st.session_state[key] = known.default_quality
    st.session_state[f"{prefix}_quality_of"] = codec
    return st.number_input(
        "Quality",
        min_value=known.qualities[0],
        max_value=known.qualities[-1],
        key=key,
        persist_state=KEPT,
        help=f"{known.qualities[0]} to {known.qualities[-1]}, default {known.default_quality}",
    )


def mode_field(prefix: str) -> str:
    """Return the mode of decomposition."""
    return st.selectbox(
        "Mode",
        list(MODES),
        format_func=words.MODES.__getitem__,
        key=f"{prefix}_mode",
        persist_state=KEPT,
        help="Per channel: one matrix a colour channel. Unfolded: one matrix, the channels side by side.",
    )


def sample_fields(prefix: str, dataset: Dataset) -> int | None:
    """Return how many images are drawn, None for all."""
    count = len(dataset.records)
    st.session_state.setdefault(f"{prefix}_images", "All images")
    images = st.selectbox("Images", ["All images", "A random sample"], key=f"{prefix}_images", persist_state=KEPT)
    st.session_state.setdefault(f"{prefix}_sample", min(QUICK_SAMPLE, count))
    size = st.number_input(
        f"Sample size (of {count:,})",
        min_value=1,
        step=1,
        key=f"{prefix}_sample",
        persist_state=KEPT,
        disabled=images == "All images",
    )
    return None if images == "All images" else size


def seed_field(prefix: str) -> int:
    """Return the seed of the sample and of the bootstrap."""
    st.session_state.setdefault(f"{prefix}_seed", 1)
    return st.number_input(
        "Seed", min_value=0, max_value=2**32 - 1, step=1, key=f"{prefix}_seed", persist_state=KEPT,
        help="Of the random sample and of the bootstrap: the same seed gives the same figures.",
    )  # fmt: skip


def metric_fields(prefix: str) -> MetricParameters:
    """Return the metrics' parameters, folded away since their defaults are the article's."""
    st.session_state.setdefault(f"{prefix}_threshold", 10)
    st.session_state.setdefault(f"{prefix}_cutoff", 0.1)
    with st.expander("Metrics' parameters", icon=":material/tune:"), st.container(horizontal=True):
        threshold = st.number_input(
            "Changed pixels differ by more than (levels)",
            min_value=0, max_value=255, step=1, key=f"{prefix}_threshold", persist_state=KEPT,
        )  # fmt: skip
        cutoff = st.number_input(
            "Low frequencies end at (cycles a pixel)",
            min_value=0.0, max_value=math.sqrt(0.5), step=0.01, format="%g", key=f"{prefix}_cutoff", persist_state=KEPT,
        )  # fmt: skip
    return MetricParameters(changed_threshold=int(threshold), radial_cutoff=float(cutoff))


def numbers_or_error(parsed: Any) -> Any:
    """Return what was parsed, or raise its sentence as a SpecError."""
    if isinstance(parsed, str):
        raise SpecError(parsed)
    return parsed


def sweep_form() -> None:
    """Draw the form of an SVD sweep."""
    _form(sweep_fields, "Start the sweep", param="run")


def resize_form() -> None:
    """Draw the form of a resize study."""
    _form(resize_fields, "Start the study", param="study")


def _form(fields: Callable[[Dataset], MeasuringSpec], start: str, *, param: str) -> None:
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
    prefix = "sweep"

    def apply_preset() -> None:
        article = {
            "ks": words.numbers_text(DEFAULT_KS), "mode": "per_channel", "codec": "jpeg", "quality": 95,
            "quality_of": "jpeg", "images": "All images", "seed": 1,
        }  # fmt: skip
        quick = {"ks": words.numbers_text(QUICK_KS), "images": "A random sample"}
        quick["sample"] = min(QUICK_SAMPLE, len(dataset.records))  # type: ignore[assignment]
        chosen = st.session_state["sweep_preset"]
        if chosen is not None:
            set_draft(prefix, article if chosen == "Article" else article | quick)

    st.segmented_control(
        "Preset",
        ["Article", "Quick"],
        key="sweep_preset",
        on_change=apply_preset,
        help="Article: six k, per channel, JPEG 95, all images. Quick: three k, at most 100 images.",
    )
    st.session_state.setdefault("sweep_ks", words.numbers_text(DEFAULT_KS))
    first, second = st.columns([2, 1])
    with first:
        typed = st.text_input(
            "k, the numbers of singular values kept",
            key="sweep_ks",
            persist_state=KEPT,
            help="Whole numbers separated by commas. One decomposition serves every k.",
        )
    with second:
        mode = mode_field(prefix)
    with st.grid(5, min_column_width=130):
        codec, quality = codec_fields(prefix)
        size = sample_fields(prefix, dataset)
        seed = seed_field(prefix)
    parameters = metric_fields(prefix)
    return SweepSpec(
        dataset=dataset.name,
        ks=numbers_or_error(words.parse_ks(typed or "")),
        mode=mode,
        codec=codec,
        quality=quality,
        sample_size=size,
        seed=seed,
        metrics=parameters,
    )


def resize_fields(dataset: Dataset) -> ResizeSpec:
    """Draw the fields of a resize study and return the study that they describe. Raises SpecError."""
    prefix = "resize"
    st.session_state.setdefault("resize_sizes", ", ".join(f"{rows}×{columns}" for rows, columns in DEFAULT_SIZES))
    st.session_state.setdefault("resize_k", 350)
    typed = st.text_input(
        "Sizes, rows × columns",
        key="resize_sizes",
        persist_state=KEPT,
        help="Pairs such as 200×100, separated by commas. The original and the reconstruction are both resized.",
    )
    with st.grid(4, min_column_width=130):
        k = st.number_input("k", min_value=1, step=1, key="resize_k", persist_state=KEPT)
        mode = mode_field(prefix)
        codec, quality = codec_fields(prefix)
    with st.grid(4, min_column_width=130):
        size = sample_fields(prefix, dataset)
        seed = seed_field(prefix)
    parameters = metric_fields(prefix)
    return ResizeSpec(
        dataset=dataset.name,
        sizes=numbers_or_error(words.parse_sizes(typed or "")),
        k=int(k),
        mode=mode,
        codec=codec,
        quality=quality,
        sample_size=size,
        seed=seed,
        metrics=parameters,
    )


def reconstruct_form(dataset: Dataset) -> None:
    """Draw the form that writes a data set anew at one k."""
    prefix = "rebuild"
    st.session_state.setdefault("rebuild_k", 350)
    with st.grid(4, min_column_width=130):
        k = st.number_input("k", min_value=1, step=1, key="rebuild_k", persist_state=KEPT)
        mode = mode_field(prefix)
        codec, quality = codec_fields(prefix)
    suggested = derived_name(dataset.name, f"-k{k}-{codec}" + ("" if quality is None else str(quality)))
    name = st.text_input(
        "Name of the new data set", placeholder=suggested, key=f"rebuild_name_{dataset.name}",
        help=f"A folder of this name is written under {words.escaped(data.settings().reconstructed)}.",
    )  # fmt: skip
    try:
        spec = ReconstructSpec(
            dataset=dataset.name, name=name.strip() or suggested, k=int(k), mode=mode, codec=codec, quality=quality
        )
        spec.check(dataset)
    except SpecError as error:
        refused(error)
        return
    start_panel(spec, dataset, f"Write {words.escaped(words.shortened(spec.name, 48))}", param="rebuild", results=None)


def refused(error: DermSlimError) -> None:
    """Show why nothing can be started as the fields stand."""
    st.error(words.sentence(error), icon=":material/error:")
    st.button("Start", disabled=True, icon=":material/play_arrow:", key="refused")


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
        try:
            submission = data.queues().submit(spec, dataset, again=again)
        except DermSlimError as error:
            st.session_state["problem"] = str(error)
        else:
            data.forget_runs()
            opened(submission.run_id)
        st.rerun()

    # No callback of a button starts anything: it would know the fields only as they were before the one left last.
    if identical is not None:
        state = data.run(identical)
        when = f"finished {words.ago_text(state.finished_at)}" if state and state.ended else "is being measured now"
        st.info(f"A run with exactly these settings on exactly these images {when}.", icon=":material/content_copy:")
        with st.container(horizontal=True):
            st.button("Open it", on_click=opened, args=(identical,), type="primary", key="open_identical")
            if (state is None or state.ended) and st.button("Measure again", icon=":material/replay:", key="again"):
                start(again=True)
        return
    st.caption(f":material/timer: {words.escaped(words.estimate_sentence(estimate.seconds, estimate.basis))}")
    if st.button(label, type="primary", icon=":material/play_arrow:", key="start"):
        start(again=False)
