"""The form that starts the article's whole study: what may be set, the runs it comes to, how long they take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import streamlit as st

from core.article.plan import (
    FINISHED,
    RULE_NAMES,
    STAGES,
    STUDY_PRESETS,
    UNDER_WAY,
    ArticleSpec,
    Override,
    common_rank,
    fit_sentence,
    fitted_ks,
    progress,
)
from core.compression.optimal_k import DEFAULT_RULE
from core.compression.specs import DEFAULT_KS
from core.data.datasets import Dataset
from core.errors import DermSlimError, QueueUnavailable, SpecError
from core.networks.architectures import NetworkSpec
from core.networks.network_files import Networks
from core.training.specs import DEVICES, PRESETS, Baseline, TrainingProtocol
from dashboard import data, words
from dashboard.charts import training_numbers
from dashboard.forms import fields as training_fields
from dashboard.forms import measuring as forms
from dashboard.forms import network_choices
from dashboard.forms.fields import DEVICE_NAMES, baseline_draft, protocol_draft, rules_draft, targets_draft
from dashboard.forms.measuring import KEPT
from dashboard.forms.training import sets_table
from dashboard.parts import components
from jobs.cli.clock import next_moment
from jobs.connection import NORMAL, PRIORITIES
from jobs.studies import find, submit_study
from jobs.study_estimates import StageEstimate, StudyEstimate

PREFIX = "article"
OVERRIDE = re.compile(r"\s*([\w.-]+)(?:\s*[=:]\s*|\s+)(\d+)\s*[×x]\s*(\d+)\s*(?:[,:]?\s*(\d+)\s*epochs?)?\s*")
NEEDS = {
    "sweep": "nothing",
    "originals": "nothing",
    "reconstruction": "the sweep's k",
    "resize": "the sweep's k",
    "pruning": "the reconstruction",
}


def key(name: str) -> str:
    """Return a field's key in the session."""
    return f"{PREFIX}_{name}"


def preset_draft(name: str) -> dict[str, Any]:
    """Return the field values that a preset stands for."""
    preset, training = STUDY_PRESETS[name], PRESETS[name]
    return {
        **protocol_draft(training, "size"),
        "overrides": overrides_text(preset.overrides),
        "max_iterations": preset.rules.max_iterations,
        "sample": preset.sample_size,
    }


def draft_of(spec: ArticleSpec) -> dict[str, Any]:
    """Return the field values that give a study's settings again."""
    return {
        "networks": [network.name for network in spec.networks],
        "seeds": words.numbers_text(spec.seeds),
        **protocol_draft(spec.training, "size"),
        "overrides": overrides_text(spec.overrides),
        **targets_draft(spec.targets),
        "split_seed": spec.split_seed,
        "device": spec.device,
        **baseline_draft(spec.baseline or Baseline(), own=spec.baseline is not None),
        **rules_draft(spec.rules),
        "ks": words.numbers_text(spec.ks),
        "mode": spec.mode,
        "codec": spec.codec,
        "quality": spec.quality,
        "quality_of": spec.codec,
        "sample": spec.sample_size,
        "rule": spec.rule,
        "k": spec.k,
        "sizes": ", ".join(f"{rows}×{columns}" for rows, columns in spec.sizes),
        "name": spec.reconstruction,
    }


def defaults() -> dict[str, Any]:
    """Return the values of the fields as the form first stands: the article's, its ks scaled to the images."""
    plain = draft_of(ArticleSpec(dataset="any"))
    return {**plain, "ks": "", "preset": "article", "priority": NORMAL, "start_after": None}


def overrides_text(overrides: tuple[Override, ...]) -> str:
    """Return networks' own sizes and epochs as they are typed: alexnet 60×80, custom1 64×64 20 epochs."""
    return ", ".join(
        f"{each.network} {each.height}×{each.width}" + (f" {each.epochs} epochs" if each.epochs else "")
        for each in overrides
    )


def parse_overrides(text: str) -> tuple[Override, ...]:
    """Return networks' own sizes and epochs that were typed. Raises SpecError."""
    found = []
    for part in filter(str.strip, text.replace(";", ",").split(",")):
        match = OVERRIDE.fullmatch(part)
        if match is None:
            raise SpecError(
                f"sizes of single networks: expected such as alexnet 60×80, custom1 64×64 20 epochs; got {part.strip()}"
            )
        network, height, width, epochs = match.groups()
        found.append(
            Override(network=network, height=int(height), width=int(width), epochs=int(epochs) if epochs else None)
        )
    return tuple(found)


def form() -> None:
    """Draw the form, the runs it comes to, and the button that submits them."""
    found = network_choices.networks()
    network_choices.broken_files(found)
    dataset = choose_dataset()
    if dataset is None:
        return
    for name, value in defaults().items():
        st.session_state.setdefault(key(name), value)
    try:
        spec, priority, start_after = fields(found, dataset)
        spec.check(dataset)
    except SpecError as error:
        forms.refused(error)
        return
    outcome(spec, dataset, priority, start_after)


def choose_dataset() -> Dataset | None:
    """Return the original that the reader chooses, or None (and what to do) where none with labels is registered."""
    known = data.datasets()
    originals = known[(known["layout"] != "plain") & known["source"].isna()]
    if originals.empty:
        st.info(
            "No data set with labels is registered yet: training needs classes.",
            icon=":material/folder_off:",
        )
        st.page_link("app_pages/datasets.py", label="Register a data set", icon=":material/create_new_folder:", help="")
        return None
    synthetic = dict(zip(originals["name"], originals["synthetic"], strict=True))
    name = components.url_choice(
        st.selectbox,
        "Data set",
        list(synthetic),
        param="dataset",
        default=originals.sort_values("registered_at")["name"].iloc[-1],
        format_func=lambda name: words.shortened(name, 60) + (" (synthetic)" if synthetic[name] else ""),
    )
    return data.dataset(name)


def fields(found: Networks, dataset: Dataset) -> tuple[ArticleSpec, str, datetime | None]:
    """Draw the fields; return the study they describe, its priority and the moment it waits for. Raises SpecError."""
    training_fields.preset_field(
        PREFIX,
        preset_draft,
        "Quick tries out the way, its figures mean little. Every setting can be changed afterwards.",
    )
    with st.grid(2, min_column_width=280):
        networks = training_fields.network_field(PREFIX, found)
        own_sizes = st.text_input(
            "Sizes of single networks", key=key("overrides"), persist_state=KEPT, placeholder="alexnet 60×80",
            help="Slow networks may be fed smaller images: alexnet 60×80, custom1 64×64 20 epochs.",
        )  # fmt: skip
    with st.grid(5, min_column_width=130):
        size = st.text_input("Size, rows × columns", key=key("size"), persist_state=KEPT)
        epochs = training_fields.whole_number(PREFIX, "Epochs", "epochs", 1)
        seeds = st.text_input(
            "Seeds", key=key("seeds"), persist_state=KEPT, help="1,2,3 trains everything three times, to be averaged."
        )
        priority = st.selectbox("Priority", PRIORITIES, key=key("priority"), persist_state=KEPT)
        at = st.time_input(
            "Not before", key=key("start_after"), step=900, persist_state=KEPT,
            help="A time of day, today or tomorrow: nothing of the study starts earlier.",
        )  # fmt: skip
    with st.expander("Compression: k, codec, resize study", icon=":material/compress:"):
        compression = compression_fields(dataset)
    with st.expander("Training: protocol, device, sets", icon=":material/tune:"):
        training, shared = protocol_fields(size, epochs)
    with st.expander("Algorithm 2: factors, rules, baseline", icon=":material/model_training:"):
        rules = training_fields.rules_fields(PREFIX)
        baseline = training_fields.baseline_fields(PREFIX)
    spec = ArticleSpec(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        networks=tuple(networks),
        seeds=training_numbers.parse_seeds(seeds or ""),
        training=training,
        overrides=tuple(each for each in parse_overrides(own_sizes or "") if _named(each, networks, found)),
        rules=rules,
        baseline=baseline,
        **compression,
        **shared,
    )
    start = next_moment(at, datetime.now(UTC), components.reader_zone()) if at else None
    return spec, priority, start


def _named(override: Override, networks: list[NetworkSpec], found: Networks) -> bool:
    """Return whether an override's network is chosen; one that is merely not chosen now keeps its text."""
    return override.network in {network.name for network in networks} or override.network not in found.networks


def compression_fields(dataset: Dataset) -> dict[str, Any]:
    """Return what the sweep, the reconstruction and the resize study are told. Raises SpecError."""
    with st.grid(4, min_column_width=150):
        mode = forms.mode_field(PREFIX)
        codec, quality = forms.codec_fields(PREFIX)
        sample = st.number_input(
            "Images of sweep and resize study", min_value=1, step=1, key=key("sample"), persist_state=KEPT,
            placeholder="all", help="Drawn at random; the reconstruction always takes all.",
        )  # fmt: skip
    rank = common_rank(dataset, mode)
    fitted = fitted_ks(DEFAULT_KS, rank)
    with st.grid(3, min_column_width=180):
        ks_text = st.text_input(
            "k of the sweep", key=key("ks"), persist_state=KEPT, placeholder=words.numbers_text(fitted)
        )
        rule = st.selectbox(
            "Rule that chooses k*", RULE_NAMES, key=key("rule"), format_func=words.RULES.__getitem__, persist_state=KEPT
        )
        k = st.number_input(
            "k* in its place", min_value=1, step=1, key=key("k"), persist_state=KEPT, placeholder="the rule's"
        )
    with st.grid(2, min_column_width=220):
        sizes = st.text_input("Sizes of the resize study", key=key("sizes"), persist_state=KEPT)
        name = st.text_input(
            "Name of the reconstruction", key=key("name"), persist_state=KEPT,
            placeholder=f"{words.shortened(dataset.name, 30)}, k and codec",
        )  # fmt: skip
    typed = forms.numbers_or_error(words.parse_ks(ks_text)) if (ks_text or "").strip() else fitted
    return {
        "ks": typed,
        "mode": mode,
        "codec": codec,
        "quality": quality,
        "sample_size": None if sample is None or sample > len(dataset.records) else int(sample),
        "rule": rule or DEFAULT_RULE,
        "k": None if k is None else int(k),
        "sizes": forms.numbers_or_error(words.parse_sizes(sizes or "")),
        "reconstruction": (name or "").strip(),
    }


def protocol_fields(size: str, epochs: int) -> tuple[TrainingProtocol, dict[str, Any]]:
    """Return the protocol, and what the sets and the device are. Raises SpecError."""
    pairs = forms.numbers_or_error(words.parse_sizes(size or ""))
    if len(pairs) != 1:
        raise SpecError(f"size: expected one pair of rows and columns; got {size}")
    with st.grid(3, min_column_width=150):
        rate = training_fields.learning_rate_field(PREFIX)
        batch = training_fields.whole_number(PREFIX, "Batch size", "batch_size", 1)
        device = st.selectbox(
            "Device", DEVICES, key=key("device"), format_func=DEVICE_NAMES.__getitem__, persist_state=KEPT
        )
    rest = training_fields.augmentation_fields(PREFIX)
    targets, seed = training_fields.set_fields(PREFIX)
    training = TrainingProtocol(
        epochs=epochs,
        learning_rate=rate,
        batch_size=batch,
        height=pairs[0][0],
        width=pairs[0][1],
        **rest,
    )
    return training, {"targets": targets, "split_seed": seed, "device": device}


# -- what it comes to --------------------------------------------------------------------------------------------------


def outcome(spec: ArticleSpec, dataset: Dataset, priority: str, start_after: datetime | None) -> None:
    """Show the runs that a study comes to and how long they take, then the button."""
    st.markdown("**The plan**")
    try:
        there = {
            each.part.key: 1.0 if each.state == FINISHED else 0.0
            for each in progress(spec, "", find(data.queues(), spec)).parts
            if each.state in (FINISHED, UNDER_WAY)
        }
        estimate = data.study_estimate(spec, dataset, there)
    except QueueUnavailable:
        st.caption("The queue does not answer, so nothing can be submitted and no length guessed.")
        return
    st.dataframe(
        plan_table(spec, estimate, there), hide_index=True, height="content",
        column_config={"Stage": st.column_config.TextColumn(width="large")}, alt="The study's stages and their length",
    )  # fmt: skip
    rank = common_rank(dataset, spec.mode)
    if spec.ks == fitted_ks(DEFAULT_KS, rank) and (sentence := fit_sentence(DEFAULT_KS, spec.ks, rank)):
        st.caption(f":material/straighten: {sentence}")
    st.caption(f":material/timer: {words.escaped(estimate_text(estimate, start_after))}")
    if estimate.seconds is not None:
        with st.expander("What the guess rests on", icon=":material/speed:"):
            for stage in estimate.stages:
                st.caption(words.escaped(f"{STAGES[stage.stage]}: {stage.basis.rstrip('.')}."))
    with st.expander("Sets that are really reached", icon=":material/call_split:"):
        table, sentence = data.sets_reached(dataset, spec.targets, spec.split_seed, False)
        st.dataframe(sets_table(table), hide_index=True, height="content", alt="Images and lesions of class and set")
        st.caption(words.escaped(sentence))

    def start() -> None:
        try:
            study = submit_study(data.queues(), spec, dataset, priority=priority, start_after=start_after)
        except DermSlimError as error:
            st.session_state["problem"] = str(error)
        else:
            data.forget_runs()
            st.query_params["study"] = study
            st.query_params["tab"] = "Study"
        st.rerun()

    label = "Start the whole study" if start_after is None else "Queue the whole study"
    # Not by a callback, which would know the fields only as they were before the one left last.
    if st.button(label, type="primary", icon=":material/play_arrow:", key="start"):
        start()


def plan_table(spec: ArticleSpec, estimate: StudyEstimate, there: Mapping[str, float]) -> pd.DataFrame:
    """Return a row a stage: its runs, those that are there already, what it waits for, and its length."""
    lengths = {stage.stage: stage for stage in estimate.stages}
    trainings = len(spec.networks) * len(spec.seeds)
    rows = []
    for stage, title in STAGES.items():
        known = [name for name in there if name == stage or name.startswith(f"{stage} ")]
        needs = "nothing" if spec.k is not None and stage in ("reconstruction", "resize") else NEEDS[stage]
        rows.append(
            {
                "Stage": title,
                "Runs": str(trainings if stage in ("originals", "pruning") else 1),
                "There already": str(len(known)) if known else words.NONE,
                "Waits for": needs,
                "About": length_text(lengths.get(stage)),
            }
        )
    rows.append(
        {
            "Stage": "Parameter curves",
            "Runs": words.NONE,
            "There already": words.NONE,
            "Waits for": "nothing",
            "About": "counted at once",
        }
    )
    return pd.DataFrame(rows)


def length_text(stage: StageEstimate | None) -> str:
    """Return how long a stage takes, as far as that is known."""
    if stage is None:
        return "done"
    if stage.unknown == stage.runs:
        return "not known yet"
    rest = f", {stage.unknown} not known" if stage.unknown else ""
    return words.duration_text(stage.seconds) + rest


def estimate_text(estimate: StudyEstimate, start_after: datetime | None = None) -> str:
    """Return how long a study takes, what is missing in that, and when it then ends."""
    if not estimate.stages:
        return "Everything is there already."
    if estimate.seconds is None:
        return "Nothing like it has run here yet, so there is no speed to go by."
    text = f"In all about {words.duration_text(estimate.seconds)}, one stage after the other"
    if estimate.unknown:
        text += f"; not counted, since nothing like it has run here: {', '.join(estimate.unknown)}"
    begin = start_after or datetime.now(UTC)
    ends = datetime.fromtimestamp(begin.timestamp() + estimate.seconds, UTC)
    return f"{text}. It ends about {components.moment(ends)}."
