"""The form that starts the article's whole study: its settings, the resulting runs, and their duration."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import streamlit as st

from core.article.plan import FINISHED, STAGES, STUDY_PRESETS, ArticleSpec, common_rank, fit_sentence, fitted_ks
from core.compression.specs import DEFAULT_KS
from core.data.datasets import Dataset
from core.errors import QueueUnavailable, SpecError
from core.networks.network_files import Networks
from core.training.specs import GIVEN, PRESETS, Baseline, TrainingProtocol
from dashboard import data, training_data, words
from dashboard.forms import network_choices, speed_probe
from dashboard.forms.fields import Fields, draft, shown, training_draft
from dashboard.forms.measuring import NO_LABELS, choose_dataset, refused, submit
from dashboard.forms.training import PLACED, sets_table
from dashboard.parts import components
from jobs.connection import NORMAL
from jobs.studies import existing, submit_study
from jobs.study_estimates import StageEstimate, StudyEstimate

FORM = Fields("article")
# What a stage waits for; the others wait for nothing.
NEEDS = {"reconstruction": "the sweep's k", "resize": "the sweep's k", "pruning": "the reconstruction"}


def preset_draft(name: str) -> dict[str, Any]:
    """Return the values of the fields for a preset."""
    preset = STUDY_PRESETS[name]
    return {
        **training_draft(PRESETS[name], "size"),
        "overrides": shown(preset["overrides"]),
        "max_iterations": preset["rules"].max_iterations,
        "sample_size": preset["sample_size"],
    }


def draft_of(spec: ArticleSpec) -> dict[str, Any]:
    """Return the values of the fields that give a study's settings again."""
    return {
        **draft(spec),
        **draft(spec.baseline or Baseline()),
        **training_draft(spec.training, "size"),
        "own_baseline": spec.baseline is not None,
        "networks": [network.name for network in spec.networks],
    }


def defaults() -> dict[str, Any]:
    """Return the initial values of the fields: the article's, with its ks scaled to the images."""
    plain = draft_of(ArticleSpec(dataset="any"))
    return {**plain, "ks": "", "preset": "article", "priority": NORMAL, "start_after": None}


def form() -> None:
    """Draw the form, the resulting runs, and the button that submits them."""
    found = network_choices.networks()
    network_choices.broken_files(found)
    known = data.datasets()
    originals = known[(known["layout"] != "plain") & known["source"].isna()]
    dataset = choose_dataset(originals, NO_LABELS)
    if dataset is None:
        return
    FORM.begin(defaults())
    try:
        spec, priority, start_after = fields(found, dataset)
        spec.check(dataset)
    except SpecError as error:
        refused(error)
        return
    outcome(spec, dataset, priority, start_after)


def fields(found: Networks, dataset: Dataset) -> tuple[ArticleSpec, str, datetime | None]:
    """Draw the fields; return the study they describe, its priority and the moment it waits for. Raises SpecError."""
    note = "Quick is a trial run; its figures mean little. Every setting can be changed afterwards."
    FORM.preset(preset_draft, note)
    with st.grid(2, min_column_width=280):
        networks = FORM.networks(found)
        overrides = FORM.one(ArticleSpec, "overrides", placeholder="alexnet=60x80, custom1=64x64:20")
    with st.grid(5, min_column_width=130):
        sizes = FORM.sizes("size", "Size, rows × columns")
        training = {"epochs": FORM.one(TrainingProtocol, "epochs")}
        seeds = FORM.seeds("1,2,3 trains everything three times, to be averaged.")
        priority, start = FORM.priority_and_start("nothing of the study starts earlier.")
    if len(sizes) != 1:
        raise SpecError(f"Expected one size of rows and columns, got {len(sizes)}.")
    with st.expander("Compression: k, codec, resize comparison", icon=":material/compress:"):
        values = compression_fields(dataset)
    with st.expander("Training: protocol, device, sets", icon=":material/tune:"):
        with st.grid(3, min_column_width=150):
            training |= {name: FORM.one(TrainingProtocol, name) for name in ("learning_rate", "batch_size")}
            values["device"] = FORM.one(ArticleSpec, "device")
        training |= FORM.rest(TrainingProtocol, without=PLACED)
        values |= {"targets": FORM.targets(), **FORM.grid(ArticleSpec, ["split_seed", "split"])}
    with st.expander("Algorithm 2: factors, rules, baseline", icon=":material/model_training:"):
        values |= {"rules": FORM.rules(), "baseline": FORM.baseline()}
    # The override of a network that is merely not chosen now keeps its text in the field.
    not_chosen = found.networks.keys() - {network.name for network in networks}
    placed = ("dataset", "fingerprint", "networks", "seeds", "overrides", *values)
    spec = ArticleSpec(
        dataset=dataset.name,
        fingerprint=dataset.fingerprint,
        networks=networks,
        seeds=seeds,
        training=TrainingProtocol(height=sizes[0][0], width=sizes[0][1], **training),
        overrides=tuple(each for each in overrides if each.network not in not_chosen),
        **(values | FORM.rest(ArticleSpec, without=placed)),
    )
    return spec, priority, start


def compression_fields(dataset: Dataset) -> dict[str, Any]:
    """Return the settings of the sweep, the reconstruction and the resize comparison. Raises SpecError."""
    values = FORM.grid(ArticleSpec, ("mode", "codec", "quality", "sample_size"), width=150)
    if values["sample_size"] is not None and values["sample_size"] > len(dataset.records):
        values["sample_size"] = None
    fitted = fitted_ks(DEFAULT_KS, common_rank(dataset, values["mode"]))
    with st.grid(3, min_column_width=180):
        values["ks"] = FORM.one(ArticleSpec, "ks", placeholder=shown(fitted)) or fitted
        values |= {name: FORM.one(ArticleSpec, name) for name in ("rule", "k")}
    with st.grid(2, min_column_width=220):
        values["sizes"] = FORM.one(ArticleSpec, "sizes")
        placeholder = f"{words.shortened(dataset.name, 30)}, k and codec"
        values["reconstruction"] = FORM.one(ArticleSpec, "reconstruction", placeholder=placeholder)
    return values


# -- resulting runs ----------------------------------------------------------------------------------------------------


def outcome(spec: ArticleSpec, dataset: Dataset, priority: str, start_after: datetime | None) -> None:
    """Show the resulting runs and their duration, then the button."""
    st.markdown("**The plan**")
    try:
        parts = existing(data.queues(), spec)
        there = {each.part.key: 1.0 if each.state == FINISHED else 0.0 for each in parts}
        estimate = data.study_estimate(spec, dataset, there)
    except QueueUnavailable:
        st.caption("The queue does not answer, so nothing can be submitted and no length guessed.")
        return
    components.table(
        plan_table(spec, estimate, there),
        alt="The study's stages and their length",
        column_config={
            "Stage": st.column_config.TextColumn(width="medium"),
            "About": st.column_config.TextColumn(width="medium"),
        },
    )
    rank = common_rank(dataset, spec.mode)
    if spec.ks == fitted_ks(DEFAULT_KS, rank) and (sentence := fit_sentence(DEFAULT_KS, spec.ks, rank)):
        st.caption(f":material/straighten: {sentence}")
    st.caption(f":material/timer: {words.escaped(estimate_text(estimate, start_after))}")
    speed_probe.offer([(each, dataset) for each in estimate.to_probe])
    if estimate.seconds is not None:
        with st.expander("Basis of the estimate", icon=":material/speed:"):
            for stage in estimate.stages:
                st.caption(words.escaped(f"{STAGES[stage.stage]}: {stage.basis.rstrip('.')}."))
    with st.expander("Actual sets", icon=":material/call_split:"):
        table, sentence = training_data.sets_reached(dataset, spec.targets, spec.split_seed, False, spec.split == GIVEN)
        components.table(sets_table(table), alt="Images and lesions of class and set")
        st.caption(words.escaped(sentence))

    def opened(study: str) -> None:
        st.query_params["study"] = study
        st.query_params["tab"] = "Study"

    label = "Start the whole study" if start_after is None else "Queue the whole study"
    if st.button(label, type="primary", icon=":material/play_arrow:", key="start"):
        submit(lambda: submit_study(data.queues(), spec, dataset, priority=priority, start_after=start_after), opened)


def plan_table(spec: ArticleSpec, estimate: StudyEstimate, there: Mapping[str, float]) -> pd.DataFrame:
    """Return one row per stage: its runs, existing runs, the stages it waits for, and its duration."""
    lengths = {stage.stage: stage for stage in estimate.stages}
    trainings = len(spec.networks) * len(spec.seeds)
    rows = []
    for stage, title in STAGES.items():
        known = [name for name in there if name == stage or name.startswith(f"{stage} ")]
        needs = NEEDS.get(stage, "nothing")
        if spec.k is not None and needs == "the sweep's k":
            needs = "nothing"
        rows.append(
            {
                "Stage": title,
                "Runs": str(trainings if stage in ("originals", "pruning") else 1),
                "There already": str(len(known)) if known else words.NONE,
                "Waits for": needs,
                "About": length_text(lengths.get(stage)),
            }
        )
    curves = ("Parameter curves", words.NONE, words.NONE, "nothing", "counted at once")
    return pd.DataFrame([*rows, dict(zip(rows[0], curves, strict=True))])


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
        return "All of these runs exist already."
    if estimate.seconds is None:
        return "No similar run has finished here yet, so the duration cannot be estimated."
    text = f"In all about {words.duration_text(estimate.seconds)}, one stage after the other"
    text += ", by the speeds of short probes" if estimate.probed else ""
    if estimate.unknown:
        text += f"; not included, because no similar run has finished here: {', '.join(estimate.unknown)}"
    begin = start_after or datetime.now(UTC)
    ends = datetime.fromtimestamp(begin.timestamp() + estimate.seconds, UTC)
    return f"{text}. It ends about {components.moment(ends)}."
